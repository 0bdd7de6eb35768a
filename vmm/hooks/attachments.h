// The attached ranges, and which calls are currently inside each of them.
//
//   hull [low, high)     of all attached ranges: a call outside of it costs two comparisons
//   index                finds the ranges that overlap a part of memory or a file (range_index.h)
//   slot: live | pins    a call pins the slots that it touches, from before `begin` to after `end`
//
// The table lies in memory that the child of a fork gets as zeroes (MADV_WIPEONFORK). So nothing is
// attached in the child: a callback there would meet locks and readers of threads that the child
// does not have. A signal handler may fork in the middle of a call. `Life` lets the rest of that
// call detect that it runs in the child, and each count that it would decrement is found to be
// zero. A child of vfork shares the table, because it shares the memory.
//
// No constructor runs and no memory is allocated with malloc: an allocator may call these functions
// while the process starts.
//
// Thread safety: any thread. Attach and Detach exclude each other and wait for look-ups that are in
// progress. A look-up never waits.

#ifndef UNDERFOOT_VMM_HOOKS_ATTACHMENTS_H_
#define UNDERFOOT_VMM_HOOKS_ATTACHMENTS_H_

#include <atomic>
#include <cstdint>

#include "mmu/base/types.h"
#include "vmm/hooks/underfoot_hooks.h"

namespace underfoot::hooks {

// The identity of a file, independent of its descriptors and names.
struct FileId {
  uint64_t device = 0;
  uint64_t inode = 0;
  friend bool operator==(const FileId&, const FileId&) = default;
};

// A half-open interval of bytes of a file.
struct FileRange {
  FileId file;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// How calls that change mappings (mprotect, munmap, mremap, mmap) are made over an attached range.
enum class MappingCalls : uint8_t {
  kSideBySide,
  // One call at a time in the whole process, over all ranges that were attached with kInTurn. A
  // turn lasts from before the call until its `end` callbacks have returned. So these callbacks run
  // in the order in which the kernel executed the calls.
  kInTurn,
};

struct Slot {
  // Bit 31: live; the lower bits: the number of pins.
  // Pairs with: TryPin against Detach. Without it: a callback could run after its range was
  // detached.
  std::atomic<uint32_t> state;
  // These fields do not change while the slot is live or pinned.
  uint64_t generation;
  bool has_file;
  MappingCalls mapping_calls;
  FileId file;
  underfoot_range range;

  HvaRange hvas() const {
    const Hva start = HvaOf(range.start);
    return {start, start + range.length};
  }
  // The part of the file that the slot maps; `hvas` lies inside of it.
  FileRange FileRangeOf(HvaRange hvas) const;
  // The addresses at which the slot maps a piece of `part`; empty if it maps none of it.
  HvaRange HvaRangeOf(const FileRange& part) const;
};

// Both return an errno value, or 0.
[[nodiscard]] int Attach(const underfoot_range& range, uint64_t* handle,
                         MappingCalls mapping_calls = MappingCalls::kSideBySide);
[[nodiscard]] int Detach(uint64_t handle);

// Whether an attached range overlaps `range`; whether one maps `part` of a file. Both are
// prechecks: the answer was right at the time of the look-up, and the part may belong to another
// file with the same number.
bool MayTouch(HvaRange range);
bool MayTouch(const FileRange& part);
// Whether any range is attached; whether any attached range has a file.
bool AnyRanges();
bool AnyFiles();
// Whether any attached range has a file on `device`.
bool AnyFileOn(uint64_t device);

// A number that differs between a process and its forked child; 0: nothing was ever attached.
uint64_t Life();

// A turn among the calls over ranges that were attached with MappingCalls::kInTurn, as a scope. The
// turn is one for the process, since the mappings of the process are one set.
//
// Order: outside of every lock of the callbacks. It is held across the call and its `end`
// callbacks, so no thread that these wait for may wait for a turn. A callback of a turn takes no
// second one.
class MappingTurn {
 public:
  // The calling thread has pinned a slot. If not `wanted`, the scope does nothing.
  explicit MappingTurn(bool wanted);
  // Leaves errno unchanged. Does nothing in the child of a fork that was made in between: there the
  // turn is free already.
  ~MappingTurn();
  MappingTurn(const MappingTurn&) = delete;
  MappingTurn& operator=(const MappingTurn&) = delete;

 private:
  const uint64_t life_;  // 0: no turn was taken
};

// Called with a slot that is pinned for the call. Returning false ends the iteration.
using Visitor = bool (*)(void* context, Slot& slot);
// Visits each live slot that may overlap `range`; each that may map `part`; each live slot.
void PinOverlapping(HvaRange range, void* context, Visitor visit);
void PinOverlapping(const FileRange& part, void* context, Visitor visit);
void PinAll(void* context, Visitor visit);
void Unpin(Slot& slot);

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_ATTACHMENTS_H_
