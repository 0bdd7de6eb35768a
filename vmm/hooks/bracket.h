// One call's brackets: the parts of attached ranges that it touches, begun before it and ended
// after it, whatever it returned.
//
// A call that touches more places than there is room for (process_madvise) gets longer brackets
// over several of them, at least one for each attached range.
//
// Thread safety: of one thread, on its stack.

#ifndef UNDERFOOT_VMM_HOOKS_BRACKET_H_
#define UNDERFOOT_VMM_HOOKS_BRACKET_H_

#include <array>

#include "mmu/types.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/underfoot_hooks.h"

namespace underfoot::hooks {

class Bracket {
 public:
  Bracket() = default;
  // Each begin has had its end.
  ~Bracket();
  Bracket(const Bracket&) = delete;
  Bracket& operator=(const Bracket&) = delete;

  // The call changes the pages of `range`; of what maps `part` of a file.
  void Add(HvaRange range);
  void Add(const FileRange& part);
  // As Add(range), and all else that maps the same parts of files.
  void AddWithAliases(HvaRange range);

  bool empty() const { return count_ == 0; }

  void Begin(underfoot_call call, underfoot_effect effect, int argument);
  // `error`: 0, or the call's errno.
  void End(int error);

 private:
  // Precise ones, and one for each range that comes when these are used up.
  static constexpr unsigned kPrecise = 32;

  struct Piece {
    Slot* slot;
    underfoot_change change;
  };
  static HvaRange RangeOf(const Piece& piece);

  // Takes over a pin of the slot.
  void AddPinned(Slot& slot, HvaRange range);
  Piece* LastOf(const Slot& slot);

  unsigned count_ = 0;
  // Trivial, and left as it is until a piece is added: most calls have one.
  std::array<Piece, kPrecise + UNDERFOOT_MAX_RANGES> pieces_;
};

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_BRACKET_H_
