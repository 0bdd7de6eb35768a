#include "vmm/hooks/bracket.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "vmm/hooks/mapping.h"

namespace underfoot::hooks {
namespace {

// What the visitors below are given.
template <class Part>
struct Wanted {
  Bracket* bracket;
  Part part;
  HvaRange known;  // its attached parts are there already
};

HvaRange RangeOf(const underfoot_change& change) {
  const Hva start = HvaOf(change.start);
  return {start, start + change.length};
}

bool ChangesMapping(underfoot_call call) {
  return call == UNDERFOOT_MPROTECT || call == UNDERFOOT_MUNMAP || call == UNDERFOOT_MREMAP ||
         call == UNDERFOOT_MMAP;
}

}  // namespace

Bracket::~Bracket() {
  for (unsigned i = 0; i < count_; ++i) Unpin(*At(i).slot);
  if (more_ != nullptr) syscall(SYS_munmap, more_, (room_ - kInside) * sizeof(Piece));
}

void Bracket::Add(HvaRange range) {
  Wanted<HvaRange> wanted{this, RoundOutToPages(range), {}};
  PinOverlapping(range, &wanted, [](void* context, Slot& slot) {
    const auto& [bracket, part, known] = *static_cast<Wanted<HvaRange>*>(context);
    return bracket->AddPinned(slot, part.Intersect(slot.hvas()));
  });
}

void Bracket::Add(const FileRange& part) {
  Wanted<FileRange> wanted{this, part, {}};
  PinOverlapping(part, &wanted, [](void* context, Slot& slot) {
    const auto& [bracket, file_part, known] = *static_cast<Wanted<FileRange>*>(context);
    return bracket->AddPinned(slot, slot.HvaRangeOf(file_part));
  });
}

void Bracket::AddWithAliases(HvaRange range) {
  Add(range);
  const HvaRange whole = RoundOutToPages(range);
  const unsigned direct = count_;
  bool known = false;
  for (unsigned i = 0; i < direct && complete_; ++i) {
    const Slot& slot = *At(i).slot;
    known = known || slot.hvas().Contains(whole);
    if (!slot.has_file) continue;
    Wanted<FileRange> wanted{this, slot.FileRangeOf(RangeOf(At(i).change)), whole};
    PinOverlapping(wanted.part, &wanted, [](void* context, Slot& other) {
      const auto& [bracket, part, there] = *static_cast<Wanted<FileRange>*>(context);
      const HvaRange mapped = other.HvaRangeOf(part);
      return bracket->AddPinned(other, there.Contains(mapped) ? HvaRange{} : mapped);
    });
  }
  if (!known && AnyFiles()) AddFilesMappedAt(whole);
}

// By a mapping that is not attached: what file lies there, the kernel knows.
void Bracket::AddFilesMappedAt(HvaRange range) {
  const MappingQuery query;
  Mapping mapping;
  for (Hva at = range.begin; at < range.end && complete_; at = mapping.hvas.end) {
    const MappingQuery::Answer answer = query.FindFrom(at, &mapping);
    if (answer == MappingQuery::Answer::kUnknown) return AddAllWithFile();
    if (answer == MappingQuery::Answer::kNone || mapping.hvas.begin >= range.end) return;
    if (!mapping.has_file) continue;
    const HvaRange part = mapping.hvas.Intersect(range);
    const uint64_t begin = mapping.file_offset + (part.begin - mapping.hvas.begin);
    // A file system of several layers may name a file's device in two ways.
    if (!AnyFileOn(mapping.file.device)) return AddAllWithFile();
    Add(FileRange{mapping.file, begin, begin + part.size()});
  }
}

void Bracket::AddAllWithFile() {
  PinAll(this, [](void* context, Slot& slot) {
    auto& self = *static_cast<Bracket*>(context);
    return self.AddPinned(slot, slot.has_file ? slot.hvas() : HvaRange{});
  });
}

void Bracket::AddAllThatReportForks() {
  PinAll(this, [](void* context, Slot& slot) {
    auto& self = *static_cast<Bracket*>(context);
    const bool asked = (slot.range.flags & UNDERFOOT_TELL_FORK) != 0;
    return self.AddPinned(slot, asked ? slot.hvas() : HvaRange{});
  });
}

bool Bracket::AddPinned(Slot& slot, HvaRange range) {
  if (range.empty()) {
    Unpin(slot);  // it was another range's when the index was looked at, or is there already
    return true;
  }
  if (count_ != 0 && At(count_ - 1).slot == &slot) {
    underfoot_change& last = At(count_ - 1).change;
    const HvaRange before = RangeOf(last);
    if (range.begin <= before.end && before.begin <= range.end) {
      const Hva begin = std::min(before.begin, range.begin);
      last.start = PointerOf(begin);
      last.length = std::max(before.end, range.end) - begin;
      Unpin(slot);
      return true;
    }
  }
  if (count_ == room_ && !MakeRoom()) {
    Unpin(slot);
    complete_ = false;
    return false;
  }
  Piece& piece = At(count_++);
  piece = {&slot, {}};
  piece.change.start = PointerOf(range.begin);
  piece.change.length = range.size();
  return true;
}

// By raw system calls: the libc names lead back here.
bool Bracket::MakeRoom() {
  const size_t bytes = (room_ - kInside) * sizeof(Piece);
  const size_t wanted = std::max<size_t>(2 * bytes, 4 * kPageSize);
  const long memory = more_ == nullptr ? syscall(SYS_mmap, nullptr, wanted, PROT_READ | PROT_WRITE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L)
                                       : syscall(SYS_mremap, more_, bytes, wanted, MREMAP_MAYMOVE);
  if (memory == -1) return false;
  more_ = std::bit_cast<Piece*>(memory);
  room_ = kInside + static_cast<unsigned>(wanted / sizeof(Piece));
  return true;
}

bool Bracket::NeedsTurn(underfoot_call call) const {
  if (!ChangesMapping(call)) return false;
  for (unsigned i = 0; i < count_; ++i) {
    if (At(i).slot->mapping_calls == MappingCalls::kInTurn) return true;
  }
  return false;
}

bool Bracket::InThisProcess() const { return Life() == life_; }

void Bracket::Begin(underfoot_call call, underfoot_effect effect, int argument) {
  for (unsigned i = 0; i < count_ && InThisProcess(); ++i) {
    Piece& piece = At(i);
    piece.change.call = call;
    piece.change.effect = effect;
    piece.change.argument = argument;
    piece.slot->range.begin(piece.slot->range.context, &piece.change);
  }
}

void Bracket::End(int error) {
  for (unsigned i = count_; i > 0 && InThisProcess(); --i) {
    Piece& piece = At(i - 1);
    piece.change.error = error;
    piece.slot->range.end(piece.slot->range.context, &piece.change);
  }
}

}  // namespace underfoot::hooks
