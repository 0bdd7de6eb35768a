#include "mmu/memslot.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "mmu/mutant.h"
#include "mmu/pte.h"
#include "mmu/sync_point.h"

namespace underfoot {
namespace {

// Above it lies no user memory, and RangeWord holds no more.
constexpr uint64_t kHvaLimit = uint64_t{1} << 47;

std::string Describe(const Memslot& slot) {
  return absl::StrFormat("memslot %u, gfns [0x%x, 0x%x) at hva 0x%x", slot.id,
                         slot.gfns.begin.value, slot.gfns.end.value, slot.hva.value);
}

// The first entry that begins behind `key`.
template <class Index, class Key>
auto After(const std::vector<Index>& index, Key key) {
  return std::upper_bound(index.begin(), index.end(), key,
                          [](Key k, const Index& entry) { return k < entry.begin; });
}

// The entry of `slot`, which begins at `begin`; the end for nullptr.
template <class Index, class Key>
auto Place(const std::vector<Index>& index, const Memslot* slot, Key begin) {
  if (slot == nullptr) return index.end();
  auto entry = std::prev(After(index, begin));
  while (entry->slot != slot) --entry;  // aliases may begin alike
  return entry;
}

// Copies `before` in one pass: without the entry at `out`, and with `entries`, which are one or
// none, in front of `in`. Both may be the end.
template <class Index, class Iterator>
std::vector<Index> CopyWith(const std::vector<Index>& before, Iterator out, Iterator in,
                            const std::vector<Index>& entries) {
  std::vector<Index> after;
  after.reserve(before.size() + entries.size());
  const auto copy = [&](Iterator begin, Iterator end) {
    if (begin <= out && out < end) {
      after.insert(after.end(), begin, out);
      begin = std::next(out);
    }
    after.insert(after.end(), begin, end);
  };
  copy(before.begin(), in);
  after.insert(after.end(), entries.begin(), entries.end());
  copy(in, before.end());
  return after;
}

}  // namespace

MemslotSet::MemslotSet(const MemslotSet& before, const Memslot* out, const Memslot* in)
    : generation_(before.generation_ + 1) {
  std::vector<GfnIndex> gfn_entry;
  std::vector<HvaIndex> hva_entry;
  auto gfn_place = before.by_gfn_.end();
  auto hva_place = before.by_hva_.end();
  if (in != nullptr) {
    gfn_entry.push_back({in->gfns.begin, in});
    hva_entry.push_back({in->hva, in->hvas().end, {}, in});
    gfn_place = After(before.by_gfn_, in->gfns.begin);
    hva_place = After(before.by_hva_, in->hva);
  }
  const Gfn out_gfn = out == nullptr ? Gfn{} : out->gfns.begin;
  const Hva out_hva = out == nullptr ? Hva{} : out->hva;
  by_gfn_ = CopyWith(before.by_gfn_, Place(before.by_gfn_, out, out_gfn), gfn_place, gfn_entry);
  by_hva_ = CopyWith(before.by_hva_, Place(before.by_hva_, out, out_hva), hva_place, hva_entry);
  Hva max_end{};
  for (HvaIndex& entry : by_hva_) entry.max_end = max_end = std::max(max_end, entry.end);
}

const Memslot* MemslotSet::Find(Gfn gfn) const {
  const auto after = After(by_gfn_, gfn);
  if (after == by_gfn_.begin()) return nullptr;
  const Memslot& slot = *std::prev(after)->slot;
  return slot.gfns.Contains(gfn) && !slot.dying ? &slot : nullptr;
}

const Memslot* MemslotSet::Find(Hva hva) const {
  const Memslot* found = nullptr;
  ForEachOverlap(PageRangeOf(hva), [&](const Memslot& slot, HvaRange) {
    if (found == nullptr && !slot.dying) found = &slot;
  });
  return found;
}

const Memslot* MemslotSet::FindOverlap(GfnRange range, uint32_t except) const {
  auto entry = After(by_gfn_, range.begin);
  // The one in front of it may reach into the range; those before that one end at its begin.
  if (entry != by_gfn_.begin()) --entry;
  for (; entry != by_gfn_.end() && entry->begin < range.end; ++entry) {
    if (entry->slot->gfns.Overlaps(range) && entry->slot->id != except) return entry->slot;
  }
  return nullptr;
}

size_t MemslotSet::FirstThatMayReach(Hva hva) const {
  // max_end never falls along the index, so this is a binary search.
  const auto first =
      std::partition_point(by_hva_.begin(), by_hva_.end(),
                           [hva](const HvaIndex& entry) { return entry.max_end <= hva; });
  return static_cast<size_t>(first - by_hva_.begin());
}

MemslotTable::MemslotTable(uint32_t max_slots) : max_slots_(max_slots), current_(new MemslotSet) {}

MemslotTable::~MemslotTable() {
  delete current_.Load();
  for (const auto& [id, node] : by_id_) {
    delete node->slot.log;
    delete node;
  }
}

absl::Status MemslotTable::CheckPlace(const Memslot& slot) const {
  if (slot.gfns.empty() || slot.gfns.end > kGuestFrames.end) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the range must be non-empty and lie below gfn 2^%u", Describe(slot), kGfnBits));
  }
  if (const Memslot* other = Current().FindOverlap(slot.gfns, slot.id)) {
    return absl::AlreadyExistsError(
        absl::StrFormat("%s: overlaps memslot %u, gfns [0x%x, 0x%x)", Describe(slot), other->id,
                        other->gfns.begin.value, other->gfns.end.value));
  }
  return absl::OkStatus();
}

absl::Status MemslotTable::Add(const Memslot& slot) {
  if (OffsetInPage(slot.hva) != 0) {
    return absl::InvalidArgumentError(Describe(slot) + ": the hva must be a multiple of 4096");
  }
  if (slot.gfns.size() > (kHvaLimit - std::min(slot.hva.value, kHvaLimit)) >> kPageShift) {
    return absl::InvalidArgumentError(Describe(slot) +
                                      ": the host range must end below 2^47, as user space does");
  }
  if (by_id_.size() >= max_slots_) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: there are %u memslots already, the limit", Describe(slot), max_slots_));
  }
  if (by_id_.contains(slot.id)) {
    return absl::AlreadyExistsError(Describe(slot) + ": the id is in use; delete that slot first");
  }
  if (absl::Status place = CheckPlace(slot); !place.ok()) return place;
  auto* node = new Node(slot);
  node->slot.uid = next_uid_++;
  node->slot.dying = false;
  node->slot.log = slot.flags.log_dirty ? new DirtyLog(slot.gfns.size()) : nullptr;
  Exchange(nullptr, node);
  return absl::OkStatus();
}

absl::StatusOr<Memslot> MemslotTable::Get(uint32_t id) const {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) {
    return absl::NotFoundError(absl::StrFormat("memslot %u does not exist", id));
  }
  return found->second->slot;
}

absl::Status MemslotTable::CheckMove(uint32_t id, Gfn first) const {
  absl::StatusOr<Memslot> slot = Get(id);
  if (!slot.ok()) return std::move(slot).status();
  slot->gfns = {first, first + slot->gfns.size()};
  return CheckPlace(*slot);
}

absl::StatusOr<Memslot> MemslotTable::MarkDying(uint32_t id) {
  absl::StatusOr<Memslot> slot = Get(id);
  if (!slot.ok()) return slot;
  if (UNDERFOOT_MUTANT("slot-delete-in-one-phase")) {
    Exchange(by_id_[id], nullptr);
    return slot;
  }
  slot->dying = true;
  Exchange(by_id_[id], new Node(*slot));
  return slot;
}

void MemslotTable::Erase(uint32_t id) {
  if (UNDERFOOT_MUTANT("slot-delete-in-one-phase")) return;
  Node* node = by_id_.at(id);
  DirtyLog* log = node->slot.log;
  Exchange(node, nullptr);
  if (log != nullptr) rcu::DeferDelete(log);  // a walk over an older set may still mark it
}

void MemslotTable::Revive(uint32_t id, Gfn first) {
  Node* node = by_id_.at(id);
  auto* moved = new Node(node->slot);
  moved->slot.gfns = {first, first + moved->slot.gfns.size()};
  moved->slot.dying = false;
  moved->slot.uid = next_uid_++;
  if (UNDERFOOT_MUTANT("slot-moves-under-old-walks")) return Exchange(node, moved);
  // In no set, until nobody walks it any more: see WaitForOldWalks.
  Exchange(node, nullptr);
  WaitForOldWalks();
  Exchange(nullptr, moved);
}

void MemslotTable::WaitForOldWalks() {
  UNDERFOOT_SYNC_POINT("slot-waits-for-walks");
  rcu::Synchronize();
}

absl::StatusOr<MemslotChange> MemslotTable::SetFlags(uint32_t id, MemslotFlags flags) {
  const absl::StatusOr<Memslot> before = Get(id);
  if (!before.ok()) return before.status();
  if (before->flags == flags) return MemslotChange{*before, *before};
  auto* node = new Node(*before);
  node->slot.flags = flags;
  if (flags.log_dirty != before->flags.log_dirty) {
    node->slot.log = flags.log_dirty ? new DirtyLog(before->gfns.size()) : nullptr;
  }
  if (!UNDERFOOT_MUTANT("flags-keep-identity")) node->slot.uid = next_uid_++;
  Exchange(by_id_[id], node);
  return MemslotChange{*before, node->slot};
}

// Publishes the set in which `in` stands for `out`; either may be nullptr.
void MemslotTable::Exchange(Node* out, Node* in) {
  auto* next = new MemslotSet(Current(), out == nullptr ? nullptr : &out->slot,
                              in == nullptr ? nullptr : &in->slot);
  // Brackets and look-ups that started on the old set keep it alive, and its slots; the update does
  // not wait for them.
  rcu::DeferDelete(current_.Publish(next));
  if (in != nullptr) {
    by_id_[in->slot.id] = in;
  } else {
    by_id_.erase(out->slot.id);
  }
  if (out != nullptr) rcu::DeferDelete(out);
}

}  // namespace underfoot
