// Churn that moves pages out of guest RAM and back: as mappings (mremap) and as pages
// (UFFDIO_MOVE). The range is in flight during that time, so no other pages are faulted in there.
//
// Thread safety: one thread at a time, outside of read sections.

#ifndef UNDERFOOT_VMM_CHURN_RELOCATION_H_
#define UNDERFOOT_VMM_CHURN_RELOCATION_H_

#include <memory>

#include "absl/status/statusor.h"
#include "mmu/notifier.h"
#include "vmm/churn/outcome.h"
#include "vmm/ram/guest_page_source.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/hooks/mm_hooks.h"

namespace underfoot {

class Relocation {
 public:
  static constexpr uint64_t kMaxPages = 16;

  Relocation(Notifier& notifier, MmHooks& hooks, Userfaultfd& uffd, GuestPageSource& source)
      : notifier_(notifier), hooks_(hooks), uffd_(uffd), source_(source) {}
  ~Relocation();
  Relocation(const Relocation&) = delete;
  Relocation& operator=(const Relocation&) = delete;

  // Moves the mapping away and back, with its content. A vCPU that needs one of its pages waits.
  absl::StatusOr<ChurnOutcome> Remap(HvaRange range);
  // Moves the pages away and back, with their content. A page that cannot be moved stays. A vCPU
  // that faults in the hole waits. Declined if no page could be moved, or by a kernel before 6.8.
  // An error means that content is lost.
  absl::StatusOr<ChurnOutcome> Move(HvaRange range);

 private:
  // An area of kMaxPages for the pages that are moved away.
  struct Room {
    Hva base;
    Userfaultfd uffd;
  };

  absl::StatusOr<Room*> RoomForPages();
  bool IsIn(Hva room_page) const;
  bool MoveOut(Hva from, Room& room, Hva to);
  absl::Status MoveBack(Hva from, Hva to);

  Notifier& notifier_;
  MmHooks& hooks_;
  Userfaultfd& uffd_;
  GuestPageSource& source_;
  std::unique_ptr<Room> room_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_RELOCATION_H_
