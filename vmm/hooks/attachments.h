// The attached ranges: a table of fixed size, read without a lock by every call that might touch
// one.
//
//   hull [low, high)     of all attached ranges: what lies outside is nobody's
//   slot: live | pins    a call pins the slots that it touches from before begin until after end
//
// The table lies in memory that a fork's child gets as zeroes (MADV_WIPEONFORK): nothing is
// attached there, whose callbacks would meet locks and readers of threads that the child does not
// have. A child of vfork shares it, as it shares the memory.
//
// No constructor runs and nothing is allocated with malloc: an allocator may call from here while
// the process starts.
//
// Thread safety: any thread. Attach and Detach take turns among themselves; nobody else waits.

#ifndef UNDERFOOT_VMM_HOOKS_ATTACHMENTS_H_
#define UNDERFOOT_VMM_HOOKS_ATTACHMENTS_H_

#include <atomic>
#include <cstdint>

#include "mmu/types.h"
#include "vmm/hooks/underfoot_hooks.h"

namespace underfoot::hooks {

// A file, whatever descriptor or name it goes by.
struct FileId {
  uint64_t device = 0;
  uint64_t inode = 0;
  friend bool operator==(const FileId&, const FileId&) = default;
};

// Half-open, in bytes of a file.
struct FileRange {
  FileId file;
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct Slot {
  // Bit 31: live; below: pins.
  // Pairs with: TryPin against Detach. Without it: a callback runs after its range was detached.
  std::atomic<uint32_t> state;
  // Relaxed: a guess until the slot is pinned, which orders them after Attach.
  std::atomic<uint64_t> begin;
  std::atomic<uint64_t> end;
  // Do not change while the slot is live or pinned.
  uint64_t generation;
  bool has_file;
  FileId file;
  underfoot_range range;

  HvaRange hvas() const { return {{begin.load(kGuess)}, {end.load(kGuess)}}; }
  // The part of the file that the slot maps; `hvas` lies inside of it.
  FileRange FileRangeOf(HvaRange hvas) const;
  // What the slot maps of `part`; empty if nothing.
  HvaRange HvaRangeOf(const FileRange& part) const;

  static constexpr std::memory_order kGuess = std::memory_order::relaxed;
};

// errno values.
[[nodiscard]] int Attach(const underfoot_range& range, uint64_t* handle);
[[nodiscard]] int Detach(uint64_t handle);

// Whether a range is attached that overlaps `range`. Says yes too often: a precheck.
bool MayTouch(HvaRange range);
// Whether any attached range has a file.
bool AnyFiles();

// The slots that were ever attached lie below; they are never fewer.
unsigned SlotCount();
Slot& SlotAt(unsigned i);
// A live slot stays as it is until Unpin. False: it is not live.
[[nodiscard]] bool TryPin(Slot& slot);
void Unpin(Slot& slot);

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_ATTACHMENTS_H_
