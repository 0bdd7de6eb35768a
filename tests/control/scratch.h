// A directory of a test's own that is gone afterwards.

#ifndef UNDERFOOT_TESTS_CONTROL_SCRATCH_H_
#define UNDERFOOT_TESTS_CONTROL_SCRATCH_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>
#include <system_error>

namespace underfoot::testing {

class Scratch {
 public:
  Scratch() {
    std::string name = "/tmp/uf-test-XXXXXX";  // short: a socket path has 107 bytes
    if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << name;
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_CONTROL_SCRATCH_H_
