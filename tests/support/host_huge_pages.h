// Huge pages of the host for a test: what the host offers, or, where a test may change the host
// (UNDERFOOT_ALLOW_HOST_CHANGES=1), what is reserved or switched on here and put back at the end. The
// binary of such tests is SERIAL.

#ifndef UNDERFOOT_TESTS_SUPPORT_HOST_HUGE_PAGES_H_
#define UNDERFOOT_TESTS_SUPPORT_HOST_HUGE_PAGES_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/skip.h"
#include "vmm/host/huge_page_host.h"

namespace underfoot::testing {

class HostHugePages {
 public:
  HostHugePages(HugePages huge, Backing backing, uint64_t bytes) {
    absl::Status provided = HugePageHost().Provide(huge, backing, bytes, nullptr);
    if (!provided.ok() && changes() != nullptr) {
      provided = HugePageHost().Provide(huge, backing, bytes, changes());
    }
    why_not_ = std::string(provided.message());
  }

  // For what else the test changes of the host, put back at the same time. nullptr: it may not.
  HostChanges* changes() {
    if (changes_ == nullptr && HostChangesAreAllowed()) {
      absl::StatusOr<std::unique_ptr<HostChanges>> taken =
          HostChanges::Take([](std::string_view) {});
      if (taken.ok()) changes_ = *std::move(taken);
    }
    return changes_.get();
  }

  // Empty: the pages can be had.
  const std::string& why_not() const { return why_not_; }

 private:
  std::unique_ptr<HostChanges> changes_;
  std::string why_not_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_HOST_HUGE_PAGES_H_
