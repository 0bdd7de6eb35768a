// A control server on a real socket, in front of a machine that is all numbers.

#ifndef UNDERFOOT_TESTS_CONTROL_SERVER_FIXTURE_H_
#define UNDERFOOT_TESTS_CONTROL_SERVER_FIXTURE_H_

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/control/fake_target.h"
#include "tests/control/raw_client.h"
#include "tests/control/scratch.h"
#include "tests/support/wait_until.h"
#include "vmm/control/server.h"

namespace underfoot::testing {

inline constexpr char kGetVm[] = "GET /v1/vm HTTP/1.1\r\nHost: x\r\n\r\n";
inline constexpr char kGetVmAndClose[] =
    "GET /v1/vm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
inline constexpr std::chrono::milliseconds kShort{100};   // for a client that is to be cut
inline constexpr std::chrono::milliseconds kAmple{2000};  // for a client that sends
inline constexpr std::chrono::milliseconds kNever{600000};

class ServerTest : public ::testing::Test {
 protected:
  void Start(const std::function<void(ControlServerOptions*)>& change = [](auto*) {}) {
    ControlServerOptions options;
    options.path = scratch_ / "vm.sock";
    options.idle_timeout = kNever;
    options.request_timeout = kNever;
    change(&options);
    auto server = ControlServer::Start(&target_, options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::string Ask(const std::string& request) {
    RawClient client(server_->path());
    EXPECT_TRUE(client.connected());
    client.Send(request);
    std::string reply = client.ReadToEnd();
    EXPECT_TRUE(client.ended()) << "the server did not hang up; so far: " << reply;
    return reply;
  }

  // It may cut a client that is not given a CPU in time; not each.
  void ExpectAnswers() {
    EXPECT_TRUE(WaitUntil([&] { return StatusIn(Ask(kGetVmAndClose)) == 200; }));
  }

  int StatusOf(const std::string& method, const std::string& path, const std::string& body = "") {
    return StatusIn(Ask(method + " " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" +
                        "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body));
  }

  Scratch scratch_;
  FakeTarget target_;
  std::unique_ptr<ControlServer> server_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_CONTROL_SERVER_FIXTURE_H_
