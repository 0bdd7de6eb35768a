#include "vmm/memory/auditor.h"

#include <optional>

#include "absl/time/time.h"
#include "mmu/rcu.h"
#include "vmm/thread_priority.h"

namespace underfoot {
namespace {

constexpr int kPagesPerRound = 64;
constexpr absl::Duration kPause = absl::Milliseconds(5);
// A page that differs is looked at again: what differs for good differs every time.
constexpr int kLooks = 5;

}  // namespace

Auditor::Auditor(Mmu& mmu, const Pagemap& pagemap, SettlingRanges& settling, UffdMonitor& monitor,
                 GfnRange gfns, uint64_t seed)
    : mmu_(mmu),
      pagemap_(pagemap),
      settling_(settling),
      monitor_(monitor),
      gfns_(gfns),
      random_(seed) {}

Auditor::~Auditor() { Stop(); }

void Auditor::Start() {
  thread_ = std::thread([this] { Main(); });
}

void Auditor::Stop() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

bool Auditor::SleepUnlessStopped() {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&stop_), kPause);
  return !stop_;
}

void Auditor::Main() {
  NameThisThread("auditor");
  std::uniform_int_distribution<uint64_t> page(0, gfns_.size() - 1);
  while (SleepUnlessStopped()) {
    for (int i = 0; i < kPagesPerRound; ++i) AuditPage(gfns_.begin + page(random_));
  }
}

void Auditor::Sweep() {
  for (Gfn gfn = gfns_.begin; gfn < gfns_.end; gfn += 1) AuditPage(gfn);
}

void Auditor::AuditPage(Gfn gfn) {
  Hva page;
  for (int look = 0; look < kLooks; ++look) {
    switch (Compare(gfn, page)) {
      case Finding::kNothing:
        return;
      case Finding::kAgrees:
        checks_.Add();
        return;
      case Finding::kDiffers:
        // A removal that has been read may not have been taken yet.
        monitor_.WaitForBatch();
        break;
    }
  }
  checks_.Add();
  if (!settling_.Explains(PageRangeOf(page))) {
    differences_.Add();
    return;
  }
  monitor_.CountLostCopy();
  BracketToken token = mmu_.notifier().Begin({PageRangeOf(page), InvalidationKind::kUnmap});
  mmu_.notifier().End(token);
}

// The kernel's answer between two equal answers of stage-2, with no bracket begun meanwhile.
Auditor::Finding Auditor::Compare(Gfn gfn, Hva& page) const {
  const auto leaf = [&]() -> std::optional<Pte> {
    rcu::ReadScope rcu;
    const Memslot* slot = mmu_.memslots().Current().Find(gfn);
    const auto found = mmu_.stage2().Lookup(gfn);
    if (slot == nullptr || !found.has_value()) return std::nullopt;
    page = slot->HvaOf(gfn);
    // A and D come and go without the translation changing.
    return found->pte.WithPfn(found->pte.pfn() + (gfn - EntryRange(gfn, found->level).begin))
        .Young()
        .Dirty();
  };
  const uint64_t begins = mmu_.notifier().Stats().begins;
  const std::optional<Pte> before = leaf();
  if (!before.has_value()) return Finding::kNothing;
  if (mmu_.in_flight().FindOverlap(PageRangeOf(page)).has_value()) return Finding::kNothing;
  const PagemapEntry entry = pagemap_.Read(page);
  if (leaf() != before || mmu_.notifier().Stats().begins != begins) return Finding::kNothing;
  const bool agrees =
      entry.present && entry.pfn == before->pfn() && !(before->writable() && entry.uffd_wp);
  return agrees ? Finding::kAgrees : Finding::kDiffers;
}

AuditStats Auditor::Stats() const {
  return {.checks = checks_.Get(), .differences = differences_.Get()};
}

}  // namespace underfoot
