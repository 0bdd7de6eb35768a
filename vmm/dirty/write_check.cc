#include "vmm/dirty/write_check.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

constexpr Gfn kFirst = GfnOf(Gpa{abi::kSystemAreaBytes});
constexpr Gfn kBootInfo = GfnOf(Gpa{abi::kBootInfoGpa});

// The first collection that may report a write with this record.
constexpr uint32_t CollectionOf(uint32_t record) { return (record + 1) / 2; }

std::vector<GfnRange> RecordedIn(const GuestMemory& memory) {
  std::vector<GfnRange> ranges;
  for (const RamSlot& slot : memory.slots()) {
    if (slot.kind != abi::RangeKind::kPrecious && !slot.discardable()) continue;
    ranges.push_back({GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)});
  }
  return ranges;
}

}  // namespace

WriteCheck::WriteCheck(const GuestMemory& memory, const GuestReports& reports)
    : reports_(reports),
      recorded_(RecordedIn(memory)),
      pages_((memory.bytes() >> kPageShift) - kFirst.value) {}

WriteCheck::Page* WriteCheck::Find(Gfn gfn) {
  for (const GfnRange range : recorded_) {
    if (range.Contains(gfn)) return &pages_[gfn - kFirst];
  }
  return nullptr;
}

void WriteCheck::Before() {
  for (const GfnRange range : recorded_) {
    for (Gfn gfn = range.begin; gfn < range.end; gfn += 1) {
      Page& page = pages_[gfn - kFirst];
      page.copied = reports_.WrittenIn(GpaOf(gfn));
      page.visited = false;
    }
  }
  for (const Gpa gpa : reports_.VisitingPages()) {
    if (Page* const page = Find(GfnOf(gpa))) page->visited = true;
  }
  reports_.SetEpoch(uint64_t{2} * next_);
}

void WriteCheck::After(const DirtyBitmap& collected) {
  const uint32_t k = next_++;
  reports_.SetEpoch(uint64_t{2} * k + 1);
  checked_.Add();
  if (!collected.Contains(kBootInfo.value)) {
    Missed(absl::StrFormat("gfn 0x%x, which the VMM wrote by hva before collection %u",
                           kBootInfo.value, k));
  }
  for (const GfnRange range : recorded_) {
    for (Gfn gfn = range.begin; gfn < range.end; gfn += 1) {
      Page& page = pages_[gfn - kFirst];
      if (collected.Contains(gfn.value)) {
        page.reported = k;
        // A write during the last collection may have come too late for it.
        const uint32_t record = reports_.WrittenIn(GpaOf(gfn));
        if (record == 0 || record < 2 * (k - 1)) needless_.Add();
      }
      if (page.visited || page.copied == page.checked) continue;
      page.checked = page.copied;
      checked_.Add();
      if (page.reported >= CollectionOf(page.copied)) continue;
      Missed(absl::StrFormat(
          "gfn 0x%x, written in epoch %u: collection %u or a later one up to %u had to report it, "
          "and the last one that did is %u",
          gfn.value, page.copied, CollectionOf(page.copied), k, page.reported));
    }
  }
}

void WriteCheck::Missed(std::string text) {
  missed_.Add();
  absl::MutexLock lock(&mutex_);
  if (first_missed_.empty()) first_missed_ = std::move(text);
}

std::string WriteCheck::first_missed() const {
  absl::MutexLock lock(&mutex_);
  return first_missed_;
}

}  // namespace underfoot
