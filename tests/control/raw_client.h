// A client that speaks bytes, not HTTP: it can be slow, silent, wrong and rude.

#ifndef UNDERFOOT_TESTS_CONTROL_RAW_CLIENT_H_
#define UNDERFOOT_TESTS_CONTROL_RAW_CLIENT_H_

#include <chrono>
#include <string>
#include <string_view>

#include "tests/support/wait_until.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::testing {

class RawClient {
 public:
  // connected() says whether it worked.
  explicit RawClient(const std::string& path);

  bool connected() const { return fd_.valid(); }
  // False when the other side has gone.
  bool Send(std::string_view bytes);
  // No more will be sent.
  void FinishSending();
  // What comes until the other side hangs up. ended() is false when it had not by the deadline.
  std::string ReadToEnd(std::chrono::milliseconds limit = kDeadline);
  // What comes until `text` has come, or the end.
  std::string ReadUntil(std::string_view text, std::chrono::milliseconds limit = kDeadline);
  bool ended() const { return ended_; }
  // True when the other side has hung up; waits for nothing.
  bool HungUp();
  // The same without reading what has come before.
  bool CutOff() const;

 private:
  // False at the end or when nothing came in time.
  bool ReadSome(std::string* into, std::chrono::milliseconds limit);

  UniqueFd fd_;
  bool ended_ = false;
};

// The status of an HTTP reply, or 0.
int StatusIn(std::string_view reply);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_CONTROL_RAW_CLIENT_H_
