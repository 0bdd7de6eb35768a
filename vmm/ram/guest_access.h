// The VMM's own reads and writes of guest RAM.
//
// Through stage-2 where there is a translation; by hva where none may be kept, that is while a slot
// is away or a page is settling. Either way the bytes are copied inside a read section, so an
// invalidation waits for the copy and for nothing else.
//
// Several copies share a section (RangeSection), which contains at most kSectionPages pieces and
// kSectionBytes bytes: an invalidation waits for no more than that. Pages that do not lie in one range of
// kSectionRange pages have sections of their own.
//
// Thread safety: any thread, each with its own Reader; outside of sections and brackets.

#ifndef UNDERFOOT_VMM_RAM_GUEST_ACCESS_H_
#define UNDERFOOT_VMM_RAM_GUEST_ACCESS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "mmu/mmu.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/ram/pagemap.h"

namespace underfoot {

// A copy between guest RAM and memory of the VMM: to `gpa` if the access is a write, or from it.
struct GuestCopy {
  Gpa gpa;
  Access access = Access::kRead;
  std::byte* own = nullptr;
  size_t bytes = 0;

  // Leaves the first `done` bytes out.
  void Advance(size_t done) {
    gpa += done;
    bytes -= done;
    own += done;
  }
};

// What GuestAccess::BringIn brings in of the pages around its range.
enum class Around : uint8_t {
  kNothing,  // only the pages of the range; a larger page of the host comes in whole
  kBlocks,   // with huge pages, the rest of each block of 2 MiB
};

class GuestAccess {
 public:
  static constexpr size_t kSectionPages = 16;
  static constexpr size_t kSectionBytes = size_t{64} << 10;
  // Pages of the range of a section: it is a reader of those between its pieces too.
  static constexpr size_t kSectionRange = 2 * kSectionPages;
  static_assert(kSectionRange <= RangeSection::kMaxPages);

  GuestAccess(Mmu& mmu, const GuestMemory& memory, const Pagemap& pagemap)
      : mmu_(mmu), memory_(memory), pagemap_(pagemap) {}

  // OutOfRange for a gpa that is no RAM, or not any more: its block was unplugged. Unavailable: the page
  // cannot be brought in, or not now and not within about two seconds. An aligned access of 8 bytes is
  // one access.
  [[nodiscard]] absl::Status Read(Reader& reader, Gpa gpa, std::span<std::byte> bytes);
  [[nodiscard]] absl::Status Write(Reader& reader, Gpa gpa, std::span<const std::byte> bytes);
  // Brings in the pages of a range that is about to be used, many by one call, where Read and Write bring
  // in one at a time. With huge pages and `kBlocks` whole blocks come in, as for a fault of the guest:
  // only so the host backs a block with a huge page. What does not come in at once comes in when it is used.
  void BringIn(Reader& reader, GfnRange gfns, Around around);
  // Makes the copies in turn, as long as each page that they need has a translation. Never waits, and
  // brings nothing in. Returns the number of copies that were made whole; of the next one a part may
  // have been made.
  [[nodiscard]] size_t TryCopy(Reader& reader, std::span<const GuestCopy> copies);
  // Whether each page has a translation now that grants a write. The pages are marked as written.
  [[nodiscard]] bool AreMapped(Reader& reader, GfnRange gfns) {
    return TryMarkWritten(reader, gfns) == gfns.size();
  }
  // GuestMemory::IsRam. For a system call on guest memory: after its announcement.
  bool IsRam(GfnRange gfns) const {
    return memory_.IsRam(GpaOf(gfns.begin), gfns.size() << kPageShift);
  }
  // Marks bytes as written that a system call has put there: dirty and young.
  [[nodiscard]] absl::Status NoteWritten(Reader& reader, Gpa gpa, uint64_t bytes);

 private:
  bool BringInBlock(Reader& reader, Gfn gfn);
  // Returns the number of pages before the first one that has no translation which grants a write.
  uint64_t TryMarkWritten(Reader& reader, GfnRange gfns);
  // `bytes` lies within one page.
  template <class Copy>
  absl::Status OnPage(Reader& reader, Gpa gpa, size_t bytes, Access access, const Copy& copy);
  // How far a number of copies has come: the whole ones, and the bytes of the next one.
  struct Progress {
    size_t copies = 0;
    size_t bytes = 0;
  };
  // A part of a copy within one page.
  struct Piece {
    std::byte* own;
    size_t bytes;
  };
  template <class Use>
  Progress TryInSections(Reader& reader, std::span<const GuestCopy> copies, const Use& use);
  template <class Use>
  absl::Status OnPages(Reader& reader, GuestCopy copy, const Use& use);
  template <class Copy>
  absl::Status ByHva(Reader& reader, Gpa gpa, Hva hva, Access access, const Copy& copy);
  bool IsUsable(Hva page, Access access) const;

  Mmu& mmu_;
  const GuestMemory& memory_;
  const Pagemap& pagemap_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_GUEST_ACCESS_H_
