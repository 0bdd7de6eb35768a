// A process of its own that reclaims our guest's pages from outside: process_madvise on our pidfd.
//
// It inherits no guest RAM (MADV_DONTFORK, see GuestMemory) and knows nothing but what comes
// through its socket. It dies with the thread that started it.
//
// Thread safety: Run from one thread at a time.
// After: process_madvise(2). Of another process only COLD, PAGEOUT, WILLNEED and COLLAPSE are
// allowed; DONTNEED and FREE are EINVAL (measured on 6.18).

#ifndef UNDERFOOT_VMM_CHURN_ADVERSARY_H_
#define UNDERFOOT_VMM_CHURN_ADVERSARY_H_

#include <sys/types.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/types.h"
#include "vmm/unique_fd.h"

namespace underfoot {

class Adversary {
 public:
  static absl::StatusOr<Adversary> Start();
  ~Adversary();
  pid_t pid() const { return pid_; }
  Adversary(Adversary&& other) noexcept;
  Adversary& operator=(Adversary&&) = delete;

  // Returns when the call of the other process has returned.
  [[nodiscard]] absl::Status Advise(HvaRange range, int advice);

 private:
  Adversary(pid_t pid, UniqueFd socket) : pid_(pid), socket_(std::move(socket)) {}

  pid_t pid_;
  UniqueFd socket_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_ADVERSARY_H_
