#include "vmm/ram/ram_log.h"

#include <utility>

namespace underfoot {
namespace {

// Adds the pages of a slot to `all`, in which page n is gfn n.
void AddTo(std::vector<uint64_t>& all, Gfn first, const DirtyBitmap& pages) {
  pages.ForEach([&](uint64_t page) {
    const uint64_t gfn = first.value + page;
    all[gfn / DirtyBitmap::kPagesPerWord] |= uint64_t{1} << gfn % DirtyBitmap::kPagesPerWord;
  });
}

}  // namespace

RamLog::RamLog(HvaRange ram, std::vector<GfnRange> slots)
    : ram_(ram),
      slots_(std::move(slots)),
      log_(ram.size() >> kPageShift),
      in_kvm_(slots_.size(), KvmSlot::kAway) {}

void RamLog::Mark(HvaRange range) {
  const HvaRange pages = range.Intersect(ram_);
  if (pages.empty()) return;
  const uint64_t first = (pages.begin - ram_.begin) >> kPageShift;
  const uint64_t end = (pages.end - ram_.begin + kPageMask) >> kPageShift;
  log_.Mark(first, end - first);
}

void RamLog::Keep(uint32_t slot, const DirtyBitmap& pages) {
  pages.ForEach([&](uint64_t page) { log_.Mark(slots_[slot].begin.value + page, 1); });
}

absl::Status RamLog::ChangeInKvm(uint32_t slot, TakeKvmLog take, KvmSlot afterwards,
                                 absl::FunctionRef<absl::Status()> change) {
  absl::MutexLock lock(&mutex_);
  if (in_kvm_[slot] == KvmSlot::kThere) {
    absl::StatusOr<std::vector<uint64_t>> taken = take(slot, slots_[slot].size());
    if (!taken.ok()) return std::move(taken).status();
    Keep(slot, DirtyBitmap(*std::move(taken)));
  }
  absl::Status changed = change();
  if (changed.ok()) in_kvm_[slot] = afterwards;
  return changed;
}

absl::Status RamLog::DeleteMemslot(uint32_t slot, Mmu& mmu) {
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<DirtyBitmap> last = mmu.DeleteMemslotCollecting(slot);
  if (!last.ok()) return last.status();
  Keep(slot, *last);
  return absl::OkStatus();
}

absl::Status RamLog::CollectSlot(uint32_t slot, Mmu& mmu, TakeKvmLog take,
                                 std::vector<uint64_t>& all, Collection& counts) {
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<DirtyBitmap> ours = mmu.CollectDirty(slot);
  if (ours.ok()) {
    AddTo(all, slots_[slot].begin, *ours);
    counts.from_memslots += ours->count();
  } else if (!absl::IsNotFound(ours.status())) {
    return ours.status();
  }
  if (in_kvm_[slot] == KvmSlot::kAway) return absl::OkStatus();
  absl::StatusOr<std::vector<uint64_t>> words = take(slot, slots_[slot].size());
  if (!words.ok()) return std::move(words).status();
  const DirtyBitmap kvm(*std::move(words));
  AddTo(all, slots_[slot].begin, kvm);
  counts.from_kvm += kvm.count();
  return absl::OkStatus();
}

absl::StatusOr<RamLog::Collection> RamLog::Collect(Mmu& mmu, TakeKvmLog take) {
  Collection collection{.pages = DirtyBitmap(std::vector<uint64_t>())};
  std::vector<uint64_t> all(DirtyBitmap::WordsFor(ram_.size() >> kPageShift));
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    if (absl::Status taken = CollectSlot(slot, mmu, take, all, collection); !taken.ok()) {
      GiveBack(DirtyBitmap(std::move(all)), mmu);
      return taken;
    }
  }
  const DirtyBitmap rest = log_.Take();
  AddTo(all, Gfn{0}, rest);
  collection.from_ram = rest.count();
  // A section without a translation whose mark was just taken may still be writing.
  mmu.readers().WaitForReaders(ram_);
  collection.pages = DirtyBitmap(std::move(all));
  return collection;
}

// A slot that is away has no log to give its pages to; the log of RAM takes those.
void RamLog::GiveBack(const DirtyBitmap& pages, Mmu& mmu) {
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    std::vector<uint64_t> part(DirtyBitmap::WordsFor(slots_[slot].size()));
    for (uint64_t page = 0; page < slots_[slot].size(); ++page) {
      if (!pages.Contains(slots_[slot].begin.value + page)) continue;
      part[page / DirtyBitmap::kPagesPerWord] |= uint64_t{1} << page % DirtyBitmap::kPagesPerWord;
    }
    const DirtyBitmap slot_pages(std::move(part));
    if (slot_pages.count() == 0) continue;
    if (!mmu.GiveBackDirty(slot, slot_pages).ok()) Keep(slot, slot_pages);
  }
}

}  // namespace underfoot
