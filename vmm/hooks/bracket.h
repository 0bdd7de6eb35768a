// One call's brackets: the parts of attached ranges that it touches, begun before it and ended
// after it, whatever it returned.
//
// A few parts fit into the object itself, which lies on the stack of the caller: less than half a
// kilobyte, since a call may stand in a signal handler with a small stack of its own. More of them
// lie in memory that is mapped for the time of the call.
//
// If the process forks in between (in a callback, or in a signal handler), the rest of the bracket
// does nothing in the child: no callback runs there.
//
// Thread safety: of one thread, on its stack.

#ifndef UNDERFOOT_VMM_HOOKS_BRACKET_H_
#define UNDERFOOT_VMM_HOOKS_BRACKET_H_

#include <array>

#include "mmu/base/types.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/underfoot_hooks.h"

namespace underfoot::hooks {

class Bracket {
 public:
  Bracket() : life_(Life()) {}
  // Each begin has had its end.
  ~Bracket();
  Bracket(const Bracket&) = delete;
  Bracket& operator=(const Bracket&) = delete;

  // Add each attached range that overlaps `range`, or that maps a piece of `part` of a file.
  void Add(HvaRange range);
  void Add(const FileRange& part);
  // As Add(range), and all else that maps the same parts of files.
  void AddWithAliases(HvaRange range);
  // Each attached range that has a file; that asked for reports of forks.
  void AddAllWithFile();
  void AddAllThatReportForks();

  // Whether a MappingTurn must be held over the call and End, because of how a range was attached.
  bool NeedsTurn(underfoot_call call) const;

  // False: there is no memory for its parts, so the call must not be made.
  bool complete() const { return complete_; }

  void Begin(underfoot_call call, underfoot_effect effect, int argument);
  // `error`: 0, or the call's errno.
  void End(int error);

 private:
  struct Piece {
    Slot* slot;
    underfoot_change change;
  };
  static constexpr unsigned kInside = 3;

  // Takes over a pin of the slot. False: no memory.
  bool AddPinned(Slot& slot, HvaRange range);
  bool AddWhole(Slot& slot) { return AddPinned(slot, slot.hvas()); }
  bool MakeRoom();
  void AddFilesMappedAt(HvaRange range);
  bool InThisProcess() const;
  Piece& At(unsigned i) { return i < kInside ? inside_[i] : more_[i - kInside]; }
  const Piece& At(unsigned i) const { return i < kInside ? inside_[i] : more_[i - kInside]; }

  const uint64_t life_;
  unsigned count_ = 0;
  unsigned room_ = kInside;
  bool complete_ = true;
  Piece* more_ = nullptr;
  // Not initialized: a piece is written when it is added. Most calls have one piece.
  std::array<Piece, kInside> inside_;
};

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_BRACKET_H_
