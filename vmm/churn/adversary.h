// A separate process that reclaims our guest's pages from outside, by process_madvise on our pidfd.
//
// It inherits no guest RAM (MADV_DONTFORK, see GuestMemory) and knows only what it receives through
// its socket. It dies with the thread that started it.
//
// Thread safety: Run may be called by one thread at a time. After: process_madvise(2). On another
// process the kernel allows only COLD, PAGEOUT, WILLNEED and COLLAPSE; DONTNEED and FREE return
// EINVAL (Linux 6.18).

#ifndef UNDERFOOT_VMM_CHURN_ADVERSARY_H_
#define UNDERFOOT_VMM_CHURN_ADVERSARY_H_

#include <sys/types.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

class Adversary {
 public:
  static absl::StatusOr<Adversary> Start();
  ~Adversary();
  pid_t pid() const { return pid_; }
  Adversary(Adversary&& other) noexcept;
  Adversary& operator=(Adversary&&) = delete;

  // Returns when the other process's call has returned.
  [[nodiscard]] absl::Status Advise(HvaRange range, int advice);

 private:
  Adversary(pid_t pid, UniqueFd socket) : pid_(pid), socket_(std::move(socket)) {}

  pid_t pid_;
  UniqueFd socket_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_ADVERSARY_H_
