// The server on a real socket: what it answers, and what it does to clients that are slow, rude,
// too many or not welcome.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/control/server_fixture.h"
#include "vmm/control/probe.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(ServerTest, AnswersARequestAndClosesTheConnectionOnRequest) {
  Start();
  const std::string reply = Ask(kGetVmAndClose);
  EXPECT_THAT(reply, AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("Content-Type: application/json"),
                           HasSubstr("\"pid\":4711")));
}

TEST_F(ServerTest, KeepsAConnectionForTheNextRequest) {
  Start();
  RawClient client(server_->path());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send(kGetVm));
    EXPECT_EQ(StatusIn(client.ReadUntil("}\n")), 200);
  }
}

constexpr char kGetEvents[] = "GET /v1/events?from=0 HTTP/1.1\r\nHost: x\r\n\r\n";

TEST_F(ServerTest, AStreamDeliversEachEventWhenItHappens) {
  Start();
  RawClient client(server_->path());
  target_.HappenTo(1);
  ASSERT_TRUE(client.Send(kGetEvents));
  EXPECT_THAT(client.ReadUntil("id: 0"), HasSubstr("Content-Type: text/event-stream"));
  for (int i = 1; i < 4; ++i) {
    target_.HappenTo(1);
    EXPECT_THAT(client.ReadUntil("id: " + std::to_string(i)), HasSubstr("id: "));
  }
  EXPECT_EQ(StatusOf("GET", "/v1/vm"), 200);
}

TEST_F(ServerTest, AStreamWithoutEventsOutlivesTheTimeoutsOfRequests) {
  Start([](auto* options) {
    options->idle_timeout = kAmple;
    options->request_timeout = kAmple;
  });
  RawClient client(server_->path());
  ASSERT_TRUE(client.Send(kGetEvents));
  EXPECT_THAT(client.ReadUntil(":\n\n"), HasSubstr(":\n\n"));  // far beyond both
  target_.HappenTo(1);
  EXPECT_THAT(client.ReadUntil("id: 0"), HasSubstr("id: 0"));
}

TEST_F(ServerTest, AStreamWithoutAReaderIsCut) {
  Start([](auto* options) { options->request_timeout = kShort; });
  RawClient client(server_->path());
  target_.HappenTo(1, EventLog::kCapacity);  // more than a socket holds
  ASSERT_TRUE(client.Send(kGetEvents));
  EXPECT_TRUE(WaitUntil([&] { return client.CutOff(); }));
}

TEST_F(ServerTest, StreamsEndWithTheServer) {
  Start();
  RawClient client(server_->path());
  target_.HappenTo(1);
  ASSERT_TRUE(client.Send(kGetEvents));
  EXPECT_THAT(client.ReadUntil("id: 0"), HasSubstr("id: 0"));
  server_.reset();
  EXPECT_THAT(client.ReadToEnd(), HasSubstr("0\r\n\r\n"));
  EXPECT_TRUE(client.ended());
}

TEST_F(ServerTest, TooManyStreamsLeaveRoomForRequests) {
  Start();
  std::vector<std::unique_ptr<RawClient>> clients;
  target_.HappenTo(1);
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->path()));
    ASSERT_TRUE(clients.back()->Send(kGetEvents));
    EXPECT_THAT(clients.back()->ReadUntil("id: 0"), HasSubstr("id: 0"));
  }
  EXPECT_EQ(StatusOf("GET", "/v1/events"), 503);
  EXPECT_EQ(StatusOf("GET", "/v1/vm"), 200);
}

TEST_F(ServerTest, HeadHasTheLengthAndNoBody) {
  Start();
  const std::string reply = Ask("HEAD /v1/vm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(reply, AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("Content-Length: ")));
  EXPECT_TRUE(reply.ends_with("\r\n\r\n")) << reply;
}

TEST_F(ServerTest, EveryErrorHasItsStatusOnTheWire) {
  Start();
  EXPECT_EQ(StatusOf("GET", "/nothing"), 404);
  EXPECT_EQ(StatusOf("PUT", "/v1/vm", "{"), 400);
  EXPECT_EQ(StatusOf("GET", "/v1/stage2?gfn=zz"), 400);
  EXPECT_EQ(StatusOf("GET", "/v1/stage2?gfn=0x10"), 200);
  EXPECT_EQ(StatusOf("PUT", "/v1/vm", R"({"state": "paused"})"), 200);
  EXPECT_EQ(target_.state(), VmState::kPaused);
  const std::string reply = Ask("DELETE /v1/vm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(reply, AllOf(StartsWith("HTTP/1.1 405"), HasSubstr("Allow: GET, HEAD, PUT\r\n")));
}

constexpr char kTakeDirty[] = "POST /v1/dirty HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";

TEST_F(ServerTest, DirtyPagesThatReachTheirClientAreTaken) {
  Start();
  EXPECT_EQ(StatusOf("POST", "/v1/dirty"), 200);
  RawClient client(server_->path());
  client.Send(kTakeDirty);
  EXPECT_THAT(client.ReadUntil("}"), HasSubstr("\"dirty\":0"));
  client.FinishSending();
  EXPECT_TRUE(WaitUntil([&] { return client.HungUp(); }));
  EXPECT_EQ(target_.dirty_given_back(), 0);
}

// Far more than the socket holds, so the answer is under way when its client goes.
TEST_F(ServerTest, DirtyPagesOfAClientThatGoesBeforeItHasThemAreGivenBack) {
  Start();
  target_.SetDirtyPages(uint64_t{64} << 20);
  {
    RawClient client(server_->path());
    client.Send(kTakeDirty);
    ASSERT_TRUE(WaitUntil([&] { return target_.dirty_takes() == 1; }));
  }
  EXPECT_TRUE(WaitUntil([&] { return target_.dirty_given_back() == 1; }));
  target_.SetDirtyPages(0x180);
  EXPECT_THAT(Ask("POST /v1/dirty HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
              HasSubstr("\"dirty\":5"));
  EXPECT_EQ(target_.dirty_given_back(), 1);
}

TEST_F(ServerTest, DirtyPagesThatNoClientHasAtTheEndAreGivenBack) {
  Start();
  target_.SetDirtyPages(uint64_t{64} << 20);
  RawClient client(server_->path());
  client.Send(kTakeDirty);
  ASSERT_TRUE(WaitUntil([&] { return target_.dirty_takes() == 1; }));
  server_.reset();
  EXPECT_EQ(target_.dirty_given_back(), 1);
}

TEST_F(ServerTest, AClientThatSendsNothingIsCut) {
  Start([](auto* options) { options->idle_timeout = kShort; });
  EXPECT_EQ(Ask(""), "");
}

TEST_F(ServerTest, AClientThatTricklesItsHeadersIsCut) {
  Start([](auto* options) { options->idle_timeout = options->request_timeout = kShort; });
  RawClient client(server_->path());
  client.Send("GET /v1/vm HTTP/1.1\r\n");
  EXPECT_TRUE(WaitUntil([&] { return !client.Send("X-A: b\r\n") || client.HungUp(); }));
  // Inside of the request line, too.
  RawClient slower(server_->path());
  EXPECT_TRUE(WaitUntil([&] { return !slower.Send("G") || slower.HungUp(); }));
}

TEST_F(ServerTest, AClientThatTricklesItsBodyIsCut) {
  Start([](auto* options) { options->request_timeout = kShort; });
  RawClient client(server_->path());
  client.Send("PUT /v1/vm HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{");
  EXPECT_TRUE(WaitUntil([&] { return !client.Send(" ") || client.HungUp(); }));
  EXPECT_EQ(target_.state(), VmState::kRunning);
}

TEST_F(ServerTest, AClientThatDoesNotReadIsCut) {
  Start([](auto* options) { options->request_timeout = kShort; });
  RawClient client(server_->path());
  // The answers fill both socket buffers; then the server waits for this client, and not for long.
  int sent = 0;
  while (sent < 1000000 && client.Send(kGetVm)) ++sent;
  EXPECT_LT(sent, 1000000);
  ExpectAnswers();
}

TEST_F(ServerTest, AnIdleConnectionIsCutAfterItsAnswerButABusyOneIsKept) {
  Start([](auto* options) { options->idle_timeout = kAmple; });
  RawClient client(server_->path());
  client.Send(kGetVm);
  EXPECT_EQ(StatusIn(client.ReadToEnd()), 200);
  EXPECT_TRUE(client.ended());

  // The target takes longer than a silent client may: no reason to cut the one that waits.
  target_.CloseGate();
  RawClient waiting(server_->path());
  waiting.Send("GET /v1/stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  ASSERT_TRUE(WaitUntil([&] { return target_.SomebodyWaitsAtTheGate(); }));
  RawClient silent(server_->path());
  target_.OpenGate();
  EXPECT_EQ(StatusIn(waiting.ReadToEnd()), 200);
}

TEST_F(ServerTest, TheConnectionAfterTheLastIsA503AndAFreedOneIsUsedAgain) {
  Start([](auto* options) { options->max_connections = 4; });
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->path()));
    clients.back()->Send(kGetVm);
    ASSERT_EQ(StatusIn(clients.back()->ReadUntil("}\n")), 200);
  }
  RawClient refused(server_->path());
  const std::string reply = refused.ReadToEnd();
  EXPECT_THAT(reply, AllOf(StartsWith("HTTP/1.1 503"), HasSubstr(R"({"error":{"status":503)")));
  EXPECT_TRUE(refused.ended());
  clients.pop_back();
  EXPECT_TRUE(WaitUntil([&] { return StatusIn(Ask(kGetVmAndClose)) == 200; }));
}

// Its request is read, and it is given the time to read the answer: a peer that hangs up in
// between makes the client's send fail, and the client may never look for the reason.
TEST_F(ServerTest, EachRefusedConnectionCanSendItsRequestAndReadThe503) {
  Start([](auto* options) { options->max_connections = 2; });
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 2; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->path()));
    clients.back()->Send(kGetVm);
    ASSERT_EQ(StatusIn(clients.back()->ReadUntil("}\n")), 200);
  }
  for (int i = 0; i < 60; ++i) {
    RawClient refused(server_->path());
    const std::string reply = refused.ReadToEnd();  // so the server has done all that it does alone
    EXPECT_TRUE(refused.Send(kGetVm)) << i;
    EXPECT_TRUE(refused.Send(std::string(5000, ' '))) << i;
    EXPECT_THAT(reply, AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("Connection: close\r\n")));
  }
}

TEST_F(ServerTest, MoreRefusedConnectionsThanCanBeKeptDoNotStopTheServer) {
  Start([](auto* options) { options->max_connections = 1; });
  auto served = std::make_unique<RawClient>(server_->path());
  served->Send(kGetVm);
  ASSERT_EQ(StatusIn(served->ReadUntil("}\n")), 200);
  std::vector<std::unique_ptr<RawClient>> refused;
  for (int i = 0; i < 200; ++i) refused.push_back(std::make_unique<RawClient>(server_->path()));
  for (const auto& client : refused) EXPECT_EQ(StatusIn(client->ReadToEnd()), 503);
  served->Send(kGetVm);
  EXPECT_EQ(StatusIn(served->ReadUntil("}\n")), 200);
}

TEST_F(ServerTest, AFloodOfConnectionsIsSurvived) {
  Start();
  {
    std::vector<std::unique_ptr<RawClient>> flood;
    for (int i = 0; i < 500; ++i) flood.push_back(std::make_unique<RawClient>(server_->path()));
  }
  EXPECT_TRUE(WaitUntil([&] { return StatusIn(Ask(kGetVmAndClose)) == 200; }));
}

// The server is kept away until all of them have come and gone, as a busy host keeps it away.
TEST_F(ServerTest, ClientsThatAreGoneTakeNoPlaceFromTheNext) {
  Start([](auto* options) { options->max_connections = 2; });
  target_.CloseGate();
  RawClient waiting(server_->path());
  waiting.Send("GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(WaitUntil([&] { return target_.SomebodyWaitsAtTheGate(); }));
  for (int i = 0; i < 10; ++i) {
    RawClient gone(server_->path());
    // The server reads some of them to the end before it knows what they are.
    if (i % 3 != 0) gone.Send(i % 3 == 1 ? "\x16\x03" : "GET /v1/vm HT");
  }
  RawClient next(server_->path());
  next.Send(kGetVmAndClose);
  target_.OpenGate();
  EXPECT_EQ(StatusIn(next.ReadToEnd()), 200);
}

TEST_F(ServerTest, AStreamWhoseClientIsGoneLeavesRoomForTheNext) {
  Start();
  target_.HappenTo(1);
  RawClient next(server_->path());  // older than the streams, so the server would look at it first
  next.Send(kGetVm);
  ASSERT_EQ(StatusIn(next.ReadUntil("}\n")), 200);
  std::vector<std::unique_ptr<RawClient>> streams;
  for (int i = 0; i < 8; ++i) {
    streams.push_back(std::make_unique<RawClient>(server_->path()));
    ASSERT_TRUE(streams.back()->Send(kGetEvents));
    EXPECT_THAT(streams.back()->ReadUntil("id: 0"), HasSubstr("id: 0"));
  }
  target_.CloseGate();
  RawClient waiting(server_->path());
  waiting.Send("GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(WaitUntil([&] { return target_.SomebodyWaitsAtTheGate(); }));
  streams.pop_back();
  next.Send(kGetEvents);
  target_.OpenGate();
  EXPECT_EQ(StatusIn(next.ReadUntil("\r\n\r\n")), 200);
}

TEST_F(ServerTest, AnotherUserIsRefusedEvenIfTheFileModeAdmitsThem) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  Start();
  chmod(scratch_.path().c_str(), 0755);
  chmod(server_->path().c_str(), 0666);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (setuid(65534) != 0) _exit(2);
    RawClient client(server_->path());
    client.Send(kGetVm);
    _exit(StatusIn(client.ReadToEnd()) == 403 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(ServerTest, AnAnswerThatIsUnderWayGoesOutBeforeTheEnd) {
  Start([](auto* options) { options->drain_timeout = kDeadline; });
  target_.AddCaches(20000);  // more than a socket buffer holds
  RawClient client(server_->path());
  client.Send("GET /v1/caches HTTP/1.1\r\nHost: x\r\n\r\n");
  std::string reply = client.ReadUntil("\r\n\r\n");
  std::thread end([&] { server_.reset(); });
  reply += client.ReadToEnd();
  end.join();
  EXPECT_EQ(StatusIn(reply), 200);
  EXPECT_TRUE(reply.ends_with("]}\n")) << "the answer was cut off after " << reply.size();
}

TEST_F(ServerTest, ARequestThatTheTargetStillAnswersIsAnsweredBeforeTheEnd) {
  Start();
  target_.CloseGate();
  RawClient client(server_->path());
  client.Send("GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(WaitUntil([&] { return target_.SomebodyWaitsAtTheGate(); }));
  std::thread end([&] { server_.reset(); });
  target_.OpenGate();
  EXPECT_EQ(StatusIn(client.ReadToEnd()), 200);
  EXPECT_TRUE(client.ended());
  end.join();
}

TEST_F(ServerTest, TheEndDoesNotWaitForAClientThatHangs) {
  Start();
  RawClient half(server_->path());
  half.Send("PUT /v1/vm HTTP/1.1\r\nContent-Length: 10\r\n\r\n{");
  RawClient silent(server_->path());
  EXPECT_EQ(StatusIn(Ask(kGetVmAndClose)), 200);  // so both have been accepted
  server_.reset();
  half.ReadToEnd();
  EXPECT_TRUE(half.ended());
  silent.ReadToEnd();
  EXPECT_TRUE(silent.ended());
}

size_t OpenDescriptors() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    count += entry.exists() ? 1 : 0;
  }
  return count;
}

size_t Threads() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    count += entry.exists() ? 1 : 0;
  }
  return count;
}

TEST_F(ServerTest, TwoHundredStartsAndStopsLeaveNothingBehind) {
  Start();
  EXPECT_EQ(StatusIn(Ask(kGetVmAndClose)), 200);
  server_.reset();
  const size_t descriptors = OpenDescriptors();
  const size_t threads = Threads();
  for (int i = 0; i < 200; ++i) {
    Start();
    RawClient silent(server_->path());
    EXPECT_EQ(StatusIn(Ask(kGetVmAndClose)), 200);
    const std::string path = server_->path();
    server_.reset();
    ASSERT_EQ(ProbeSocket(path), SocketProbe::kAbsent);
  }
  EXPECT_EQ(OpenDescriptors(), descriptors);
  // A thread that has been joined may be seen for a moment longer, in the first count as well.
  EXPECT_TRUE(WaitUntil([&] { return Threads() <= threads; }));
}

TEST_F(ServerTest, AStartOnABusyPathFailsAndTheFirstGoesOn) {
  Start();
  const auto second = ControlServer::Start(&target_, {.path = server_->path()});
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("is busy"));
  EXPECT_EQ(StatusIn(Ask(kGetVmAndClose)), 200);
}

}  // namespace
}  // namespace underfoot::testing
