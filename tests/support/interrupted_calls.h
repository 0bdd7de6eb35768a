// System calls on files that a signal interrupts, where a test says so: they fail with EINTR before
// they have moved a byte. No signal does that to a call on a regular file; on a file of a network or of
// a FUSE server it does. A binary that has interrupted_calls.cc gets its pread, preadv, pwrite and
// fdatasync from there.
//
// Thread safety: calls by any thread; one scope at a time.

#ifndef UNDERFOOT_TESTS_SUPPORT_INTERRUPTED_CALLS_H_
#define UNDERFOOT_TESTS_SUPPORT_INTERRUPTED_CALLS_H_

namespace underfoot::testing {

class InterruptedCalls {
 public:
  // The next `times` calls on `fd`.
  InterruptedCalls(int fd, int times);
  ~InterruptedCalls();
  InterruptedCalls(const InterruptedCalls&) = delete;
  InterruptedCalls& operator=(const InterruptedCalls&) = delete;

  // How many of them have not come yet.
  int left() const;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_INTERRUPTED_CALLS_H_
