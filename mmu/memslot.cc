#include "mmu/memslot.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "mmu/base/sync_point.h"
#include "mmu/stage2/pte.h"

namespace underfoot {
namespace {

std::string Describe(const Memslot& slot) {
  return absl::StrFormat("memslot %u, gfns [0x%x, 0x%x) at hva 0x%x", slot.id,
                         slot.gfns.begin.value, slot.gfns.end.value, slot.hva.value);
}

// The number of entries at the front that are `below`: no entry behind them is. A binary search whose steps
// are conditional moves. Which half is next cannot be predicted, and a branch that is predicted wrongly
// costs more than several steps.
template <class Index, class Below>
size_t CountBelow(const std::vector<Index>& index, const Below& below) {
  if (index.empty()) return 0;
  const Index* first = index.data();
  for (size_t left = index.size(); left > 1;) {
    const size_t half = left / 2;
    first = below(first[half]) ? first + half : first;
    left -= half;
  }
  return static_cast<size_t>(first - index.data()) + (below(*first) ? 1 : 0);
}

// The first entry whose begin is above `key`.
template <class Index, class Key>
auto After(const std::vector<Index>& index, Key key) {
  const size_t count = CountBelow(index, [key](const Index& entry) { return entry.begin <= key; });
  return index.begin() + static_cast<std::ptrdiff_t>(count);
}

// The entry of `slot`, whose begin is `begin`. Returns the end if `slot` is nullptr.
template <class Index, class Key>
auto Place(const std::vector<Index>& index, const Memslot* slot, Key begin) {
  if (slot == nullptr) return index.end();
  auto entry = std::prev(After(index, begin));
  while (entry->slot != slot) --entry;  // aliases may have the same begin
  return entry;
}

// Copies `before` in one pass. The copy lacks the entry at `out` and has `entries` (one or none) in
// front of the entry at `in`. Both iterators may be the end.
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
  // The entry in front of it may reach into the range. All entries before that one end at its begin
  // or earlier.
  if (entry != by_gfn_.begin()) --entry;
  for (; entry != by_gfn_.end() && entry->begin < range.end; ++entry) {
    if (entry->slot->gfns.Overlaps(range) && entry->slot->id != except) return entry->slot;
  }
  return nullptr;
}

size_t MemslotSet::FirstThatMayReach(Hva hva) const {
  // max_end never decreases along the index, so a binary search is possible.
  return CountBelow(by_hva_, [hva](const HvaIndex& entry) { return entry.max_end <= hva; });
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
  const Hva limit = kUserMemory.end;
  if (slot.gfns.size() > (limit - std::min(slot.hva, limit)) >> kPageShift) {
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
  auto node = std::make_unique<Node>(slot);
  std::unique_ptr<DirtyLog> log;
  if (slot.flags.log_dirty) log = std::make_unique<DirtyLog>(slot.gfns.size());
  node->slot.uid = next_uid_++;
  node->slot.dying = false;
  node->slot.log = log.get();
  std::unique_ptr<MemslotSet> next = MakeSet(Current(), nullptr, node.get());
  by_id_.emplace(slot.id, node.get());  // the last step that may throw std::bad_alloc
  static_cast<void>(node.release());
  static_cast<void>(log.release());
  Publish(std::move(next), nullptr);
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

absl::StatusOr<Memslot> MemslotTable::MarkDying(uint32_t id, std::optional<Gfn> moves_to) {
  absl::StatusOr<Memslot> slot = Get(id);
  if (!slot.ok()) return slot;
  slot->dying = true;
  auto dying = std::make_unique<Node>(*slot);
  std::unique_ptr<MemslotSet> next = MakeSet(Current(), by_id_.at(id), dying.get());
  Rest rest;
  rest.without = MakeSet(*next, dying.get(), nullptr);
  if (moves_to.has_value()) {
    rest.moved = MakeMoved(*slot, *moves_to);
    rest.with_moved = MakeSet(*rest.without, nullptr, rest.moved.get());
  }
  rest_ = std::move(rest);
  Publish(std::move(next), by_id_.at(id));
  by_id_.at(id) = dying.release();
  return slot;
}

void MemslotTable::Erase(uint32_t id) {
  Node* node = by_id_.at(id);
  DirtyLog* log = node->slot.log;
  Publish(SetWithout(*node), node);
  by_id_.erase(id);
  // A walk over an older set may still mark the log.
  if (log != nullptr) rcu::DeferDelete(log);
}

void MemslotTable::FinishMove(uint32_t id, Gfn first) {
  Node* node = by_id_.at(id);
  std::unique_ptr<Node> moved = std::move(rest_.moved);
  if (moved == nullptr || moved->slot.id != id || moved->slot.gfns.begin != first) {
    moved = MakeMoved(node->slot, first);
    rest_.with_moved.reset();  // this set has another node
  }
  // The slot is in no set until no walk uses the old one any more: see WaitForOldWalks.
  Publish(SetWithout(*node), node);
  WaitForOldWalks();
  std::unique_ptr<MemslotSet> next = std::move(rest_.with_moved);
  if (next == nullptr || next->generation() != Current().generation() + 1) {
    next = MakeSet(Current(), nullptr, moved.get());
  }
  Publish(std::move(next), nullptr);
  by_id_.at(id) = moved.release();
}

std::unique_ptr<MemslotTable::Node> MemslotTable::MakeMoved(const Memslot& slot, Gfn first) {
  auto moved = std::make_unique<Node>(slot);
  moved->slot.gfns = {first, first + slot.gfns.size()};
  moved->slot.dying = false;
  moved->slot.uid = next_uid_++;
  return moved;
}

// Returns the set that MarkDying has made if no other update came in between, and makes a new one
// otherwise.
std::unique_ptr<MemslotSet> MemslotTable::SetWithout(const Node& out) {
  std::unique_ptr<MemslotSet> next = std::move(rest_.without);
  if (next != nullptr && next->generation() == Current().generation() + 1) return next;
  return MakeSet(Current(), &out, nullptr);
}

void MemslotTable::WaitForOldWalks() {
  UNDERFOOT_SYNC_POINT("slot-waits-for-walks");
  rcu::Synchronize();
}

absl::StatusOr<MemslotChange> MemslotTable::SetFlags(uint32_t id, MemslotFlags flags) {
  const absl::StatusOr<Memslot> before = Get(id);
  if (!before.ok()) return before.status();
  if (before->flags == flags) return MemslotChange{*before, *before};
  auto node = std::make_unique<Node>(*before);
  node->slot.flags = flags;
  std::unique_ptr<DirtyLog> log;
  if (flags.log_dirty != before->flags.log_dirty) {
    if (flags.log_dirty) log = std::make_unique<DirtyLog>(before->gfns.size());
    node->slot.log = log.get();
  }
  node->slot.uid = next_uid_++;
  MemslotChange change{*before, {}};
  Publish(MakeSet(Current(), by_id_.at(id), node.get()), by_id_.at(id));
  change.after = node->slot;
  by_id_.at(id) = node.release();
  static_cast<void>(log.release());
  return change;
}

// The set that follows `before`, with `in` in the place of `out`. Either may be nullptr.
std::unique_ptr<MemslotSet> MemslotTable::MakeSet(const MemslotSet& before, const Node* out,
                                                  Node* in) {
  if (in != nullptr) in->slot.generation = before.generation() + 1;
  return std::make_unique<MemslotSet>(before, out == nullptr ? nullptr : &out->slot,
                                      in == nullptr ? nullptr : &in->slot);
}

// `next` no longer contains `replaced`. Brackets and look-ups that started on the old set keep the
// old set and its slots alive (RCU). The update does not wait for them.
void MemslotTable::Publish(std::unique_ptr<MemslotSet> next, Node* replaced) noexcept {
  rcu::DeferDelete(current_.Publish(next.release()));
  if (replaced != nullptr) rcu::DeferDelete(replaced);
}

}  // namespace underfoot
