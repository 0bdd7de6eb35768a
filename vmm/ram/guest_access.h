// The VMM's own reads and writes of guest RAM.
//
// Through stage-2 where there is a translation; by hva where none may be kept, that is while a slot
// is away or a page is settling. Either way the bytes are copied inside a read section, so an
// invalidation waits for the copy and for nothing else.
//
// Thread safety: any thread, each with its own Reader; outside of sections and brackets.

#ifndef UNDERFOOT_VMM_RAM_GUEST_ACCESS_H_
#define UNDERFOOT_VMM_RAM_GUEST_ACCESS_H_

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "mmu/mmu.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/ram/pagemap.h"

namespace underfoot {

class GuestAccess {
 public:
  GuestAccess(Mmu& mmu, const GuestMemory& memory, const Pagemap& pagemap)
      : mmu_(mmu), memory_(memory), pagemap_(pagemap) {}

  // OutOfRange for a gpa that is no RAM. Unavailable: the page cannot be brought in, or not now and
  // not within about two seconds. An aligned access of 8 bytes is one access.
  [[nodiscard]] absl::Status Read(Reader& reader, Gpa gpa, std::span<std::byte> bytes);
  [[nodiscard]] absl::Status Write(Reader& reader, Gpa gpa, std::span<const std::byte> bytes);
  // Marks bytes as written that a system call has put there: dirty and young.
  [[nodiscard]] absl::Status NoteWritten(Reader& reader, Gpa gpa, uint64_t bytes);

 private:
  // `bytes` lies within one page.
  template <class Copy>
  absl::Status OnPage(Reader& reader, Gpa gpa, size_t bytes, Access access, const Copy& copy);
  template <class Copy>
  absl::Status ByHva(Reader& reader, Hva hva, Access access, const Copy& copy);
  bool IsUsable(Hva page, Access access) const;

  Mmu& mmu_;
  const GuestMemory& memory_;
  const Pagemap& pagemap_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_GUEST_ACCESS_H_
