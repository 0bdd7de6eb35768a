#include "vmm/memory/auditor.h"

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/mutant.h"
#include "mmu/rcu.h"
#include "vmm/thread_priority.h"

namespace underfoot {
namespace {

constexpr int kPagesPerRound = 64;
constexpr int kRoundsPerCacheAudit = 20;
constexpr absl::Duration kPause = absl::Milliseconds(5);
constexpr uint64_t kPagesPerChunk = 512;
// A page that differs is looked at again: what differs for good differs every time.
constexpr int kLooks = 5;
// What the kernel told is over by then.
constexpr int64_t kKernelMemoryNs = 1'000'000'000;
constexpr size_t kEventsPerLook = 4096;

bool Agree(Pte leaf, const PagemapEntry& entry) {
  return entry.present && entry.pfn == leaf.pfn() && !(leaf.writable() && entry.uffd_wp);
}

// Of valid caches: by identity only, the cache may be gone.
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
  for (int round = 1; SleepUnlessStopped(); ++round) {
    for (int i = 0; i < kPagesPerRound; ++i) AuditPage(gfns_.begin + page(random_));
    if (round % kRoundsPerCacheAudit == 0) AuditCaches();
  }
}

void Auditor::Sweep() {
  const absl::Time start = absl::Now();
  for (Gfn gfn = gfns_.begin; gfn < gfns_.end; gfn += kPagesPerChunk) {
    SweepChunk({gfn, std::min(gfn + kPagesPerChunk, gfns_.end)});
  }
  AuditCaches();
  sweep_us_.store(static_cast<uint64_t>(absl::ToInt64Microseconds(absl::Now() - start)), kRelaxed);
  sweeps_.Add();
}

// The kernel's answers are read in bulk; a page that does not agree is looked at closely.
void Auditor::SweepChunk(GfnRange gfns) {
  std::array<std::optional<Leaf>, kPagesPerChunk> leaves;
  std::array<PagemapEntry, kPagesPerChunk> entries;
  const uint64_t count = gfns.size();
  for (uint64_t i = 0; i < count; ++i) leaves[i] = LeafOf(gfns.begin + i);
  for (uint64_t first = 0; first < count;) {
    uint64_t end = first + 1;
    if (leaves[first].has_value()) {
      // Over holes as well: a call of its own for what lies behind costs more than their entries.
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
  const Pfn pfn = found->pte.pfn() + (gfn - EntryRange(gfn, found->level).begin);
  return Leaf{found->pte.WithPfn(pfn).Young().Dirty(), slot->HvaOf(gfn)};
}

// The kernel's answer between two equal answers of stage-2, with no bracket begun meanwhile.
Auditor::Finding Auditor::Compare(Gfn gfn, Wrong& wrong) const {
  const uint64_t begins = mmu_.notifier().Stats().begins;
  const std::optional<Leaf> before = LeafOf(gfn);
  if (!before.has_value()) return Finding::kNothing;
  const HvaRange page = PageRangeOf(before->page);
  if (mmu_.in_flight().FindOverlap(page).has_value()) return Finding::kInFlight;
  const PagemapEntry entry = pagemap_.Read(before->page);
  if (LeafOf(gfn) != before || mmu_.notifier().Stats().begins != begins) return Finding::kInFlight;
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
  Judge(wrong);
}

// What a source was told of before the page changed may not have been taken yet.
void Auditor::AwaitSources() const {
  sources_.monitor.WaitForBatch();
  if (sources_.kernel != nullptr && !UNDERFOOT_MUTANT("audit-waits-for-no-kernel")) {
    static_cast<void>(sources_.kernel->Drain());
  }
}

std::optional<Auditor::Wrong> Auditor::FirstWrongPage(const PfnCache::Description& cache) const {
  const uint64_t pages = UNDERFOOT_MUTANT("audit-looks-at-the-first-page") ? 1 : cache.pfns.size();
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
    const uint64_t begins = mmu_.notifier().Stats().begins;
    std::map<const PfnCache*, std::optional<Wrong>> wrong;
    for (const auto& [cache, description] : caches) wrong[cache] = FirstWrongPage(description);
    const Caches after = ValidCaches(mmu_);
    const bool quiet = mmu_.notifier().Stats().begins == begins && mmu_.in_flight().count() == 0;
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
        Judge(*wrong[cache]);
      }
      differs = differs || !agrees;
      return agrees;
    });
    if (differs) AwaitSources();
  }
}

bool Auditor::ToldByKernel(HvaRange range) const {
  if (sources_.log == nullptr) return false;
  const int64_t since = MonotonicNs() - kKernelMemoryNs;
  for (uint64_t first = 0;;) {
    const std::vector<NumberedEvent> events = sources_.log->Since(first, kEventsPerLook);
    for (const NumberedEvent& numbered : events) {
      const HostEvent& event = numbered.event;
      if (event.source == EventSource::kKernel && event.change != HostChange::kAge &&
          !event.known && event.taken_ns >= since && event.range.Overlaps(range)) {
        return true;
      }
    }
    if (events.empty()) return false;
    first = events.back().number + 1;
  }
}

// A source had it in hand: it has repaired the page itself.
void Auditor::Vanished(const Wrong& wrong) {
  if (ToldByKernel(wrong.range)) {
    explained_kernel_.Add();
  } else if (sources_.settling.Explains(wrong.range)) {
    explained_uffd_.Add();
  } else {
    in_flight_.Add();
  }
}

// Without a word by userfaultfd: a file's pages do by the file, private ones after MADV_FREE.
bool Auditor::MayGoUntold(HvaRange range) const {
  return sources_.backing == Backing::kMemfd ||
         (sources_.lazy != nullptr && sources_.lazy->MayGo(range));
}

void Auditor::Judge(const Wrong& wrong) {
  if (wrong.only_protection) {
    missed_by_hooks_.Add();  // nobody else has the userfaultfd
  } else if (sources_.settling.Explains(wrong.range)) {
    explained_uffd_.Add();
    sources_.monitor.CountLostCopy();
    Repair(wrong.range);
  } else if (ToldByKernel(wrong.range) || UNDERFOOT_MUTANT("audit-explains-everything")) {
    explained_kernel_.Add();
    Repair(wrong.range);
  } else if (wrong.gone && !MayGoUntold(wrong.range)) {
    missed_by_uffd_.Add();
  } else if (sources_.kernel != nullptr && sources_.kernel->enabled() &&
             !UNDERFOOT_MUTANT("audit-calls-it-unobserved")) {
    missed_by_kernel_.Add();
  } else {
    unobserved_.Add();
    Repair(wrong.range);
  }
}

void Auditor::Repair(HvaRange range) {
  if (UNDERFOOT_MUTANT("audit-repairs-nothing")) return;
  BracketToken token = mmu_.notifier().Begin({range, InvalidationKind::kUnmap});
  mmu_.notifier().End(token);
}

AuditStats Auditor::Stats() const {
  AuditStats stats;
  stats.checks = checks_.Get();
  stats.cache_checks = cache_checks_.Get();
  stats.sweeps = sweeps_.Get();
  stats.sweep_us = sweep_us_.load(kRelaxed);  // relaxed: a number of its own
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
