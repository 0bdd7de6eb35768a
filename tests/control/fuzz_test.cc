// A hostile client, seeded: whatever it sends, the server answers the next honest one, and no
// answer is a 5xx of a machine that works.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "tests/control/fake_target.h"
#include "tests/control/raw_client.h"
#include "tests/control/scratch.h"
#include "tests/support/random.h"
#include "vmm/config/churn_spec.h"
#include "vmm/control/json.h"
#include "vmm/control/routes.h"
#include "vmm/control/server.h"

namespace underfoot::testing {
namespace {

const std::vector<std::string> kSeeds = {
    "GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /v1/stage2?gfn=0x10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "PUT /v1/vm HTTP/1.1\r\nHost: x\r\nContent-Length: 19\r\n\r\n{\"state\": \"paused\"}",
    "PUT /v1/churn HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    "11\r\n{\"running\": true}\r\n0\r\n\r\n",
    "PUT /v1/churn HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    "{\"seed\":1",
    "POST / HTTP/1.0\r\n\r\n",
};

const std::vector<std::string> kWords = {"\r\n",
                                         "\r\n\r\n",
                                         "\n",
                                         std::string(1, '\0'),
                                         "HTTP/1.1",
                                         "Content-Length: ",
                                         "Transfer-Encoding: chunked",
                                         "-1",
                                         "18446744073709551616",
                                         "ffffffffffffffff\r\n",
                                         "0\r\n\r\n",
                                         "%00",
                                         "%ff",
                                         "../",
                                         "?gfn=",
                                         "&",
                                         "=",
                                         "{",
                                         "}",
                                         "[[[[[[[[",
                                         "\"",
                                         ":",
                                         "null",
                                         "1e999",
                                         "\xff\xfe",
                                         "Connection: close\r\n"};

std::string Mutate(Random& random, std::string text) {
  const uint64_t edits = random.Below(6);
  for (uint64_t i = 0; i < edits && !text.empty(); ++i) {
    const size_t at = random.Below(text.size());
    switch (random.Below(5)) {
      case 0:
        text[at] = static_cast<char>(random.Below(256));
        break;
      case 1:
        text.erase(at, random.Between(1, 20));
        break;
      case 2:
        text.insert(at, random.Pick(kWords));
        break;
      case 3:
        text.insert(at, text.substr(random.Below(text.size()), random.Below(100)));
        break;
      default:
        text.resize(at);
        break;
    }
  }
  return text;
}

TEST(ControlFuzzTest, NoBytesOnTheSocketStopTheServer) {
  const Scratch scratch;
  FakeTarget target;
  auto server = ControlServer::Start(&target, {.path = scratch / "vm.sock",
                                               .idle_timeout = std::chrono::milliseconds(20),
                                               .request_timeout = std::chrono::milliseconds(20)});
  ASSERT_TRUE(server.ok()) << server.status();
  Random random;
  std::vector<std::unique_ptr<RawClient>> open;
  size_t answered = 0;
  for (int i = 0; i < 1500; ++i) {
    auto client = std::make_unique<RawClient>((*server)->path());
    ASSERT_TRUE(client->connected());
    client->Send(Mutate(random, random.Pick(kSeeds)));
    if (random.Chance(1, 2)) client->FinishSending();
    if (random.Chance(1, 4)) {
      const int status = StatusIn(client->ReadUntil("\r\n\r\n"));
      answered += status != 0 ? 1 : 0;
      EXPECT_TRUE(status < 500 || status == 503 || status == 501 || status == 505) << status;
    } else if (random.Chance(1, 2)) {
      open.push_back(std::move(client));  // stays, until it is cut or let go
      if (open.size() > 20) open.clear();
    }
  }
  EXPECT_GT(answered, 50U) << "the oracle saw next to nothing";
  open.clear();
  EXPECT_TRUE(WaitUntil([&] {
    RawClient honest((*server)->path());
    honest.Send("GET /v1/vm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    return StatusIn(honest.ReadToEnd()) == 200;
  }));
}

TEST(ControlFuzzTest, EveryBodyGetsAnAnswerThatIsJson) {
  const std::vector<std::string> bodies = {
      R"({"running": true, "seed": 12, "rates": {"discard": 10, "zap": 2.5}})",
      R"({"spec": "mixed:5000/s"})", R"({"state": "running"})"};
  FakeTarget target;
  Random random;
  size_t taken = 0;
  for (int i = 0; i < 20000; ++i) {
    HttpRequest request{.method = "PUT",
                        .path = random.Chance(1, 3) ? "/v1/vm" : "/v1/churn",
                        .query = {},
                        .content_type = "",
                        .body = Mutate(random, random.Pick(bodies))};
    const HttpReply reply = Answer(target, request);
    ASSERT_TRUE(reply.status == 200 || reply.status == 202 || reply.status == 400)
        << reply.status << " for " << request.body;
    ASSERT_TRUE(ParseJson(reply.body).is_object()) << reply.body;
    taken += reply.status == 200 ? 1 : 0;
    const absl::StatusOr<ChurnState> churn = target.GetChurn();
    for (const auto& [kind, rate] : churn->rates) {
      ASSERT_TRUE(rate > 0 && rate <= kMaxChurnRate) << request.body;
    }
  }
  EXPECT_GT(taken, 100U) << "the oracle saw next to nothing";
}

TEST(ControlFuzzTest, EveryChurnSpecParsesOrHasAnError) {
  Random random;
  size_t good = 0;
  for (int i = 0; i < 50000; ++i) {
    const std::string text =
        Mutate(random, random.Chance(1, 2) ? "discard:2000/s,memslot:20/s" : "mixed:5000/s");
    const absl::StatusOr<ChurnSpec> spec = ParseChurnSpec(text);
    if (!spec.ok()) {
      ASSERT_FALSE(spec.status().message().empty());
      continue;
    }
    ++good;
    ASSERT_EQ(ParseChurnSpec(ChurnSpecText(spec->rates))->rates, spec->rates) << text;
  }
  EXPECT_GT(good, 100U) << "the oracle saw next to nothing";
}

}  // namespace
}  // namespace underfoot::testing
