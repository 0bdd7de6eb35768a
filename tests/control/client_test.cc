// The client against the real server, and against things that are no server of ours.

#include "vmm/control/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <array>
#include <thread>

#include "tests/control/fake_target.h"
#include "tests/control/scratch.h"
#include "vmm/control/listener.h"
#include "vmm/control/server.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    auto server = ControlServer::Start(&target_, {.path = scratch_ / "vm.sock"});
    EXPECT_TRUE(server.ok()) << server.status();
    if (server.ok()) server_ = *std::move(server);
    auto client = ControlClient::Make(scratch_ / "vm.sock");
    if (client.ok()) client_ = *std::move(client);
  }

  Scratch scratch_;
  FakeTarget target_;
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<ControlClient> client_;
};

TEST_F(ClientTest, GetsAndPuts) {
  EXPECT_EQ(*client_->Get("/v1/stats"), ToJson(SomeStats()));
  const auto churn = client_->Put("/v1/churn", Json::object({{"seed", 99}}));
  ASSERT_TRUE(churn.ok()) << churn.status();
  EXPECT_EQ((*churn)["seed"], 99);
  EXPECT_EQ((*client_->Get("/v1/churn"))["seed"], 99);
  EXPECT_EQ(client_->Send("HEAD", "/v1/stats")->body, "");
  EXPECT_EQ(client_->Send("POST", "/v1/stats", "{}")->status, 405);
  EXPECT_EQ(client_->Send("GET", "/metrics")->content_type,
            "text/plain; version=0.0.4; charset=utf-8");
}

TEST_F(ClientTest, AnErrorCarriesTheServersMessageAndKind) {
  const auto walk = client_->Get("/v1/stage2?gfn=0x999");
  EXPECT_EQ(walk.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(walk.status().message()), HasSubstr("gfn 0x999 is in no memslot"));
  target_.FailWith(absl::FailedPreconditionError("stopped already"));
  EXPECT_EQ(client_->Put("/v1/vm", Json::object({{"state", "paused"}})).status(),
            absl::FailedPreconditionError("stopped already"));
}

TEST_F(ClientTest, AnAnswerBiggerThanTheSocketBufferArrivesWhole) {
  const auto reply = client_->Send("GET", "/metrics");
  ASSERT_TRUE(reply.ok());
  EXPECT_TRUE(reply->body.ends_with('\n'));
  EXPECT_GT(reply->body.size(), 5000U);
}

TEST_F(ClientTest, AProxyInTheEnvironmentIsIgnored) {
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  EXPECT_TRUE(client_->Get("/v1/vm").ok());
  unsetenv("http_proxy");
}

TEST_F(ClientTest, AServerThatIsGoneIsAClearError) {
  server_.reset();
  const auto vm = client_->Get("/v1/vm");
  EXPECT_EQ(vm.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(MayAnswerLater(vm.status()));
  EXPECT_THAT(
      std::string(vm.status().message()),
      AllOf(HasSubstr("no answer from " + (scratch_ / "vm.sock")), HasSubstr("still running")));
  // The next machine on the path is reached by the same client.
  auto server = ControlServer::Start(&target_, {.path = scratch_ / "vm.sock"});
  ASSERT_TRUE(server.ok());
  EXPECT_TRUE(client_->Get("/v1/vm").ok());
}

TEST_F(ClientTest, TheErrorGivesTheReasonIfNoMachineIsReachable) {
  const auto message = [](const std::string& path) {
    const auto client = ControlClient::Make(path);
    return std::string((*client)->Get("/v1/vm").status().message());
  };
  EXPECT_THAT(message(scratch_ / "none.sock"), HasSubstr("there is no such socket"));
  EXPECT_THAT(message(scratch_.path()), HasSubstr("that is not a socket"));
}

TEST_F(ClientTest, APathThatIsTooLongIsAClearError) {
  const auto client = ControlClient::Make("/tmp/" + std::string(200, 'x'));
  EXPECT_THAT(std::string(client.status().message()), HasSubstr("takes at most 107"));
}

// Accepts one connection and answers `reply` to whatever comes.
class Impostor {
 public:
  Impostor(const std::string& path, std::string reply) {
    auto listener = UnixListener::Bind(path);
    EXPECT_TRUE(listener.ok());
    listener_ = *std::move(listener);
    thread_ = std::thread([this, text = std::move(reply)] {
      UniqueFd fd;
      while (!fd.valid()) fd = UniqueFd(accept(listener_->fd(), nullptr, nullptr));
      std::array<char, 1000> request{};
      static_cast<void>(recv(fd.get(), request.data(), request.size(), 0));
      static_cast<void>(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL));
    });
  }
  ~Impostor() { thread_.join(); }

 private:
  std::unique_ptr<UnixListener> listener_;
  std::thread thread_;
};

TEST_F(ClientTest, ASocketOfAnotherProgramIsAClearError) {
  const Impostor impostor(scratch_ / "imp.sock",
                          "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
  const auto client = ControlClient::Make(scratch_ / "imp.sock");
  EXPECT_THAT(std::string((*client)->Get("/v1/vm").status().message()), HasSubstr("no JSON"));
}

TEST_F(ClientTest, AReplyWithoutALengthEndsWithTheConnection) {
  const Impostor impostor(scratch_ / "imp.sock", "HTTP/1.0 200 OK\r\n\r\n{\"a\": 1}");
  const auto client = ControlClient::Make(scratch_ / "imp.sock");
  EXPECT_EQ((*(*client)->Get("/v1/vm"))["a"], 1);
}

TEST_F(ClientTest, AnInterimReplyIsNotTheReply) {
  const Impostor impostor(scratch_ / "imp.sock",
                          "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: "
                          "8\r\n\r\n{\"a\": 1}");
  const auto client = ControlClient::Make(scratch_ / "imp.sock");
  EXPECT_EQ((*(*client)->Get("/v1/vm"))["a"], 1);
}

TEST_F(ClientTest, AReplyThatIsNotHttpOrIsTruncatedIsAClearError) {
  const auto message = [&](const std::string& reply) {
    const Impostor impostor(scratch_ / "imp.sock", reply);
    const auto client = ControlClient::Make(scratch_ / "imp.sock");
    return std::string((*client)->Get("/v1/vm").status().message());
  };
  EXPECT_THAT(message("SSH-2.0-OpenSSH_9.2\r\n"), HasSubstr("is not an HTTP server"));
  EXPECT_THAT(message("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"),
              HasSubstr("ended within the answer"));
  EXPECT_THAT(message("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"),
              HasSubstr("ended within the answer"));
  EXPECT_THAT(message(""), HasSubstr("ended without an answer"));
}

TEST_F(ClientTest, AStreamComesInLinesHoweverItsBytesCome) {
  const Impostor impostor(scratch_ / "imp.sock",
                          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                          "2\r\nab\r\n4\r\ncd\r\n\r\n3\r\n\nx\n\r\n1\r\ny\r\n0\r\n\r\n");
  const auto client = ControlClient::Make(scratch_ / "imp.sock");
  std::vector<std::string> lines;
  const absl::Status ended = (*client)->Follow("/v1/events", [&](std::string_view line) {
    lines.emplace_back(line);
    return true;
  });
  EXPECT_TRUE(ended.ok()) << ended;
  EXPECT_THAT(lines, ::testing::ElementsAre("abcd", "", "x"));
}

TEST_F(ClientTest, ALineWithoutAnEndIsCutOff) {
  const Impostor impostor(scratch_ / "imp.sock",
                          "HTTP/1.1 200 OK\r\n\r\n" + std::string(size_t{1} << 20, 'x'));
  const auto client = ControlClient::Make(scratch_ / "imp.sock");
  const absl::Status ended = (*client)->Follow("/v1/events", [](std::string_view) { return true; });
  EXPECT_THAT(std::string(ended.message()),
              AllOf(HasSubstr("a line of more than 65536 bytes"), HasSubstr("imp.sock")));
}

TEST_F(ClientTest, AStreamThatIsRefusedIsTheServersMessage) {
  const absl::Status ended =
      client_->Follow("/v1/events?from=x", [](std::string_view) { return true; });
  EXPECT_THAT(std::string(ended.message()), HasSubstr("from is 'x'"));
}

TEST_F(ClientTest, AnEndlessAnswerIsCutOff) {
  const Impostor impostor(scratch_ / "imp.sock",
                          "HTTP/1.1 200 OK\r\n\r\n" + std::string(size_t{17} << 20, ' '));
  const auto client = ControlClient::Make(scratch_ / "imp.sock");
  EXPECT_FALSE((*client)->Get("/v1/vm").ok());
}

TEST_F(ClientTest, AServerThatHangsIsATimeout) {
  target_.CloseGate();
  const auto client = ControlClient::Make(scratch_ / "vm.sock", std::chrono::milliseconds(50));
  const auto stats = (*client)->Get("/v1/stats");
  EXPECT_EQ(stats.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(MayAnswerLater(stats.status()));
  target_.OpenGate();
}

}  // namespace
}  // namespace underfoot::testing
