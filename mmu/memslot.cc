#include "mmu/memslot.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "mmu/mutant.h"

namespace underfoot {
namespace {

// Above it lies no user memory, and RangeWord holds no more.
constexpr uint64_t kHvaLimit = uint64_t{1} << 47;

}  // namespace

MemslotSet::MemslotSet(std::vector<Memslot> slots, uint64_t generation)
    : by_gfn_(std::move(slots)), generation_(generation) {
  std::sort(by_gfn_.begin(), by_gfn_.end(),
            [](const Memslot& a, const Memslot& b) { return a.gfns.begin < b.gfns.begin; });
  by_hva_.reserve(by_gfn_.size());
  for (uint32_t i = 0; i < by_gfn_.size(); ++i) {
    by_hva_.push_back({by_gfn_[i].hva, by_gfn_[i].hvas().end, i});
  }
  std::sort(by_hva_.begin(), by_hva_.end(),
            [](const HvaIndex& a, const HvaIndex& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < by_hva_.size(); ++i) {
    by_hva_[i].max_end = std::max(by_hva_[i].max_end, by_hva_[i - 1].max_end);
  }
}

const Memslot* MemslotSet::Find(Gfn gfn) const {
  const auto after =
      std::upper_bound(by_gfn_.begin(), by_gfn_.end(), gfn,
                       [](Gfn g, const Memslot& slot) { return g < slot.gfns.begin; });
  if (after == by_gfn_.begin()) return nullptr;
  const Memslot& slot = *std::prev(after);
  return slot.gfns.Contains(gfn) && !slot.dying ? &slot : nullptr;
}

const Memslot* MemslotSet::Find(Hva hva) const {
  const Memslot* found = nullptr;
  ForEachOverlap(PageRangeOf(hva), [&](const Memslot& slot, HvaRange) {
    if (found == nullptr && !slot.dying) found = &slot;
  });
  return found;
}

size_t MemslotSet::FirstThatMayReach(Hva hva) const {
  // max_end never falls along the index, so this is a binary search.
  const auto first =
      std::partition_point(by_hva_.begin(), by_hva_.end(),
                           [hva](const HvaIndex& entry) { return entry.max_end <= hva; });
  return static_cast<size_t>(first - by_hva_.begin());
}

MemslotTable::MemslotTable() : current_(new MemslotSet({}, 0)) {}

MemslotTable::~MemslotTable() { delete current_.Load(); }

absl::Status MemslotTable::Add(const Memslot& slot) {
  const auto describe = [&slot] {
    return absl::StrFormat("memslot %u, gfns [0x%x, 0x%x) at hva 0x%x", slot.id,
                           slot.gfns.begin.value, slot.gfns.end.value, slot.hva.value);
  };
  const std::vector<Memslot>& slots = Current().slots();
  if (slot.gfns.empty() || slot.gfns.end.value > uint64_t{1} << kGfnBits) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the range must be non-empty and lie below gfn 2^%u", describe(), kGfnBits));
  }
  if (OffsetInPage(slot.hva) != 0) {
    return absl::InvalidArgumentError(describe() + ": the hva must be a multiple of 4096");
  }
  if (slot.gfns.size() > (kHvaLimit - std::min(slot.hva.value, kHvaLimit)) >> kPageShift) {
    return absl::InvalidArgumentError(describe() +
                                      ": the host range must end below 2^47, as user space does");
  }
  if (slots.size() >= kMaxMemslots) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: there are %u memslots already, the limit", describe(), kMaxMemslots));
  }
  for (const Memslot& other : slots) {
    if (other.id == slot.id) {
      return absl::AlreadyExistsError(describe() + ": the id is in use; delete that slot first");
    }
    if (other.gfns.Overlaps(slot.gfns)) {
      return absl::AlreadyExistsError(absl::StrFormat("%s: overlaps memslot %u, gfns [0x%x, 0x%x)",
                                                      describe(), other.id, other.gfns.begin.value,
                                                      other.gfns.end.value));
    }
  }
  std::vector<Memslot> next = slots;
  next.push_back(slot);
  next.back().uid = next_uid_++;
  next.back().dying = false;
  Publish(std::move(next));
  return absl::OkStatus();
}

absl::StatusOr<Memslot> MemslotTable::MarkDying(uint32_t id) {
  std::vector<Memslot> next = Current().slots();
  const auto found =
      std::find_if(next.begin(), next.end(), [id](const Memslot& slot) { return slot.id == id; });
  if (found == next.end()) {
    return absl::NotFoundError(absl::StrFormat("memslot %u does not exist", id));
  }
  if (UNDERFOOT_MUTANT("slot-delete-in-one-phase")) {
    const Memslot slot = *found;
    next.erase(found);
    Publish(std::move(next));
    return slot;
  }
  found->dying = true;
  const Memslot slot = *found;
  Publish(std::move(next));
  return slot;
}

void MemslotTable::Erase(uint32_t id) {
  std::vector<Memslot> next = Current().slots();
  std::erase_if(next, [id](const Memslot& slot) { return slot.id == id; });
  Publish(std::move(next));
}

void MemslotTable::Publish(std::vector<Memslot> slots) {
  auto* next = new MemslotSet(std::move(slots), Current().generation() + 1);
  // Brackets and look-ups that started on the old set keep it alive; the update does not wait for
  // them.
  rcu::DeferDelete(current_.Publish(next));
}

}  // namespace underfoot
