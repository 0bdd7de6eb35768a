// Churn that takes pages out of guest RAM and brings them back: as mappings (mremap) and as pages
// (UFFDIO_MOVE). The range is in flight meanwhile, so nobody brings in others.
//
// Thread safety: one thread at a time, outside of read sections.

#ifndef UNDERFOOT_VMM_CHURN_RELOCATION_H_
#define UNDERFOOT_VMM_CHURN_RELOCATION_H_

#include <memory>

#include "absl/status/statusor.h"
#include "mmu/notifier.h"
#include "vmm/churn/outcome.h"
#include "vmm/memory/guest_page_source.h"
#include "vmm/memory/mm_hooks.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot {

class Relocation {
 public:
  static constexpr uint64_t kMaxPages = 16;

  Relocation(Notifier& notifier, MmHooks& hooks, Userfaultfd& uffd, GuestPageSource& source)
      : notifier_(notifier), hooks_(hooks), uffd_(uffd), source_(source) {}
  ~Relocation();
  Relocation(const Relocation&) = delete;
  Relocation& operator=(const Relocation&) = delete;

  // The mapping goes away and comes back, with its content. A vCPU that needs a page of it waits.
  absl::StatusOr<ChurnOutcome> Remap(HvaRange range);
  // The pages go away and come back, with their content. One that cannot be moved stays. A vCPU
  // that runs into the hole waits. Declined when none could be moved, or by a kernel before 6.8. An
  // error means that content is lost.
  absl::StatusOr<ChurnOutcome> Move(HvaRange range);

 private:
  // Room of kMaxPages for pages that are away.
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
