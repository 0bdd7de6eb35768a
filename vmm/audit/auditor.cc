#include "vmm/audit/auditor.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/rcu.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/thread_priority.h"

namespace underfoot {
namespace {

constexpr int kPagesPerRound = 64;
constexpr int kRoundsPerCacheAudit = 20;
constexpr absl::Duration kPause = absl::Milliseconds(5);
// After this many rounds in which no bracket began, although the kernel notifier reports every change: a
// difference is then unlikely, and each round takes a guest's CPU for a moment.
constexpr int kQuietRounds = 20;
constexpr absl::Duration kQuietPause = absl::Milliseconds(40);
constexpr uint64_t kPagesPerChunk = 512;
// The number of times that a differing page is compared. A permanent difference is found every
// time.
constexpr int kLooks = 5;

bool Agree(Pte leaf, const PagemapEntry& entry) {
  return entry.present && entry.pfn == leaf.pfn() && !(leaf.writable() && entry.uffd_wp);
}

// Valid caches, identified by address only: a cache may be destroyed meanwhile.
using Caches = std::map<const PfnCache*, PfnCache::Description>;

Caches ValidCaches(Mmu& mmu) {
  Caches caches;
  mmu.caches().ForEach([&](const PfnCache& cache) {
    PfnCache::Description description = cache.Describe();
    if (description.valid) caches.emplace(&cache, std::move(description));
  });
  return caches;
}

bool SameTranslation(const PfnCache::Description& a, const PfnCache::Description& b) {
  return a.hva == b.hva && a.pfns == b.pfns && a.refreshes == b.refreshes &&
         a.invalidations == b.invalidations;
}

}  // namespace

Auditor::Auditor(Mmu& mmu, const Pagemap& pagemap, const Sources& sources, GfnRange gfns,
                 uint64_t seed)
    : mmu_(mmu), pagemap_(pagemap), sources_(sources), gfns_(gfns), random_(seed) {}

Auditor::~Auditor() { Stop(); }

absl::Status Auditor::Start() {
  return thread_.Start("the auditor", [this] { Main(); });
}

void Auditor::Main() {
  NameThisThread("auditor");
  std::uniform_int_distribution<uint64_t> page(0, gfns_.size() - 1);
  uint64_t begun = 0;
  int quiet_rounds = 0;
  for (int round = 1; thread_.Sleep(quiet_rounds < kQuietRounds ? kPause : kQuietPause); ++round) {
    const uint64_t begun_before = std::exchange(begun, mmu_.notifier().begun());
    const bool quiet =
        begun == begun_before && sources_.kernel != nullptr && sources_.kernel->enabled();
    quiet_rounds = quiet ? quiet_rounds + 1 : 0;
    for (int i = 0; i < kPagesPerRound; ++i) AuditPage(gfns_.begin + page(random_));
    if (round % kRoundsPerCacheAudit == 0) AuditCaches();
  }
}

void Auditor::Sweep() {
  const absl::Duration start = MonotonicNow();
  for (Gfn gfn = gfns_.begin; gfn < gfns_.end; gfn += kPagesPerChunk) {
    SweepChunk({gfn, std::min(gfn + kPagesPerChunk, gfns_.end)});
  }
  AuditCaches();
  sweep_us_.store(static_cast<uint64_t>(absl::ToInt64Microseconds(MonotonicNow() - start)),
                  kRelaxed);
  sweeps_.Add();
}

// Reads the kernel's page table entries in bulk; a page that differs is then compared by itself.
void Auditor::SweepChunk(GfnRange gfns) {
  std::array<std::optional<Leaf>, kPagesPerChunk> leaves;
  std::array<PagemapEntry, kPagesPerChunk> entries;
  const uint64_t count = gfns.size();
  for (uint64_t i = 0; i < count; ++i) leaves[i] = LeafOf(gfns.begin + i);
  for (uint64_t first = 0; first < count;) {
    uint64_t end = first + 1;
    if (leaves[first].has_value()) {
      // Reads across holes too: another call for the pages behind a hole costs more than reading
      // its entries.
      for (uint64_t i = end; i < count; ++i) {
        if (!leaves[i].has_value()) continue;
        if (leaves[i]->page != leaves[first]->page + (i - first) * kPageSize) break;
        end = i + 1;
      }
      pagemap_.Read(PageRangeOf(leaves[first]->page, end - first),
                    std::span<PagemapEntry>(entries).subspan(first, end - first));
    }
    first = end;
  }
  for (uint64_t i = 0; i < count; ++i) {
    if (!leaves[i].has_value()) continue;
    if (Agree(leaves[i]->pte, entries[i])) {
      checks_.Add();
    } else {
      AuditPage(gfns.begin + i);
    }
  }
}

std::optional<Auditor::Leaf> Auditor::LeafOf(Gfn gfn) const {
  rcu::ReadScope rcu;
  const Memslot* slot = mmu_.memslots().Current().Find(gfn);
  const auto found = mmu_.stage2().Lookup(gfn);
  if (slot == nullptr || !found.has_value()) return std::nullopt;
  return Leaf{found->pte.WithPfn(found->PfnOf(gfn)).Young().Dirty(), slot->HvaOf(gfn)};
}

// Reads the kernel's entry between two equal reads of stage-2, and requires that no bracket began
// in between.
Auditor::Finding Auditor::Compare(Gfn gfn, Wrong& wrong) const {
  const uint64_t begins = mmu_.notifier().begun();
  const std::optional<Leaf> before = LeafOf(gfn);
  if (!before.has_value()) return Finding::kNothing;
  const HvaRange page = PageRangeOf(before->page);
  if (mmu_.in_flight().FindOverlap(page).has_value()) return Finding::kInFlight;
  const PagemapEntry entry = pagemap_.Read(before->page);
  if (LeafOf(gfn) != before || mmu_.notifier().begun() != begins) return Finding::kInFlight;
  if (Agree(before->pte, entry)) return Finding::kAgrees;
  wrong = {.range = page,
           .gone = !entry.present && !entry.swapped,
           .only_protection = entry.present && entry.pfn == before->pte.pfn()};
  return Finding::kDiffers;
}

void Auditor::AuditPage(Gfn gfn) {
  Wrong wrong;
  Finding finding = Finding::kNothing;
  for (int look = 0; look < kLooks; ++look) {
    finding = Compare(gfn, wrong);
    switch (finding) {
      case Finding::kNothing:
      case Finding::kAgrees:
        if (finding == Finding::kAgrees) checks_.Add();
        if (!wrong.range.empty()) Vanished(wrong);
        return;
      case Finding::kInFlight:
        in_flight_.Add();
        break;
      case Finding::kDiffers:
        AwaitSources();
        break;
    }
  }
  if (finding != Finding::kDiffers) return;
  checks_.Add();
  Classify(wrong);
}

// A source may not have processed yet what was reported to it before the page changed.
void Auditor::AwaitSources() const {
  sources_.monitor.WaitForBatch();
  if (sources_.kernel != nullptr) static_cast<void>(sources_.kernel->Drain());
}

std::optional<Auditor::Wrong> Auditor::FirstWrongPage(const PfnCache::Description& cache) const {
  const uint64_t pages = cache.pfns.size();
  std::array<PagemapEntry, PfnCache::kMaxPages> entries;
  pagemap_.Read(PageRangeOf(cache.hva, pages), entries);
  for (uint64_t i = 0; i < pages; ++i) {
    if (entries[i].present && entries[i].pfn == cache.pfns[i]) continue;
    return Wrong{.range = PageRangeOf(cache.hva + i * kPageSize),
                 .gone = !entries[i].present && !entries[i].swapped,
                 .only_protection = false};
  }
  return std::nullopt;
}

void Auditor::AuditCaches() {
  Caches caches = ValidCaches(mmu_);
  for (int look = 0; look < kLooks && !caches.empty(); ++look) {
    const uint64_t begins = mmu_.notifier().begun();
    std::map<const PfnCache*, std::optional<Wrong>> wrong;
    for (const auto& [cache, description] : caches) wrong[cache] = FirstWrongPage(description);
    const Caches after = ValidCaches(mmu_);
    const bool quiet = mmu_.notifier().begun() == begins && mmu_.in_flight().count() == 0;
    bool differs = false;
    std::erase_if(caches, [&](const auto& item) {
      const auto& [cache, description] = item;
      const auto now = after.find(cache);
      if (now == after.end() || !SameTranslation(now->second, description)) return true;
      const bool agrees = !wrong[cache].has_value();
      if (agrees) cache_checks_.Add();
      if (!agrees && !quiet) in_flight_.Add();
      if (!agrees && quiet && look == kLooks - 1) {
        cache_checks_.Add();
        Classify(*wrong[cache]);
      }
      differs = differs || !agrees;
      return agrees;
    });
    if (differs) AwaitSources();
  }
}

bool Auditor::ReportedByKernel(HvaRange range) const {
  return sources_.foreign_changes != nullptr && sources_.foreign_changes->Lately(range);
}

// The difference disappeared: a source was about to handle the change and has repaired the page
// itself.
void Auditor::Vanished(const Wrong& wrong) {
  if (ReportedByKernel(wrong.range)) {
    explained_kernel_.Add();
  } else if (sources_.removals.Explains(wrong.range)) {
    explained_uffd_.Add();
  } else {
    in_flight_.Add();
  }
}

// Whether pages of the range may disappear without a userfaultfd event: a memfd's pages by an
// operation on the file, private pages after MADV_FREE.
bool Auditor::MayGoUnreported(HvaRange range) const {
  return sources_.backing == Backing::kMemfd ||
         (sources_.lazy != nullptr && sources_.lazy->MayGo(range));
}

void Auditor::Classify(const Wrong& wrong) {
  if (wrong.only_protection) {
    missed_by_hooks_.Add();  // no other process has the userfaultfd
  } else if (sources_.removals.Explains(wrong.range)) {
    explained_uffd_.Add();
    sources_.monitor.CountLostCopy();
    Repair(wrong.range);
  } else if (ReportedByKernel(wrong.range)) {
    explained_kernel_.Add();
    Repair(wrong.range);
  } else if (wrong.gone && !MayGoUnreported(wrong.range)) {
    missed_by_uffd_.Add();
  } else if (sources_.kernel != nullptr && sources_.kernel->enabled()) {
    missed_by_kernel_.Add();
  } else {
    unobserved_.Add();
    Repair(wrong.range);
  }
}

void Auditor::Repair(HvaRange range) {
  const InvalidationScope bracket(mmu_.notifier(), {range, InvalidationKind::kUnmap});
}

AuditStats Auditor::Stats() const {
  AuditStats stats;
  stats.checks = checks_.Get();
  stats.cache_checks = cache_checks_.Get();
  stats.sweeps = sweeps_.Get();
  stats.sweep_us = sweep_us_.load(kRelaxed);  // relaxed: an independent statistic
  stats.in_flight = in_flight_.Get();
  stats.explained_uffd = explained_uffd_.Get();
  stats.explained_kernel = explained_kernel_.Get();
  stats.unobserved = unobserved_.Get();
  stats.missed_by_hooks = missed_by_hooks_.Get();
  stats.missed_by_uffd = missed_by_uffd_.Get();
  stats.missed_by_kernel = missed_by_kernel_.Get();
  stats.unexplained = stats.missed_by_hooks + stats.missed_by_uffd + stats.missed_by_kernel;
  stats.differences =
      stats.explained_uffd + stats.explained_kernel + stats.unobserved + stats.unexplained;
  return stats;
}

}  // namespace underfoot
