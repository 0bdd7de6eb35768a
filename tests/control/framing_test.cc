// What the server takes for a request: where one ends, what is refused, and that every refusal can
// be read.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "tests/control/server_fixture.h"
#include "vmm/control/json.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using FramingTest = ServerTest;

TEST_F(FramingTest, ABodyOfTheLimitIsTakenAndOneByteMoreIsA413) {
  Start([](auto* options) { options->max_body_bytes = 1000; });
  const std::string good = R"({"state": "running"})";
  EXPECT_EQ(StatusOf("PUT", "/v1/vm", good + std::string(1000 - good.size(), ' ')), 200);
  EXPECT_EQ(StatusOf("PUT", "/v1/vm", good + std::string(1001 - good.size(), ' ')), 413);
  EXPECT_EQ(StatusOf("PUT", "/v1/vm", std::string(15000, ' ')), 413);
}

TEST_F(FramingTest, ABodyThatOnlyAnnouncesTooMuchIsA413AtOnce) {
  Start();
  RawClient client(server_->path());
  client.Send("PUT /v1/vm HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 413"));
}

TEST_F(FramingTest, ATooLargeBodyIsRefusedBeforeContinueIsSent) {
  Start();
  const std::string head =
      "PUT /v1/churn HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
      "Expect: 100-continue\r\nContent-Length: ";
  RawClient large(server_->path());
  large.Send(head + "70000\r\n\r\n");
  EXPECT_THAT(large.ReadToEnd(), StartsWith("HTTP/1.1 413"));
  RawClient fits(server_->path());
  fits.Send(head + "10\r\n\r\n");
  EXPECT_EQ(fits.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  fits.Send(R"({"seed":7})");
  EXPECT_THAT(fits.ReadToEnd(), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("\"seed\":7")));
  EXPECT_EQ(StatusIn(Ask("PUT /v1/churn HTTP/1.1\r\nExpect: tea\r\nContent-Length: 2\r\n\r\n{}")),
            417);
}

// Whatever is framed in two ways is refused, and what follows is not taken for a request.
TEST_F(FramingTest, ABodyThatCouldEndAtTwoPlacesIsRefusedAndNothingAfterItIsRead) {
  Start();
  const std::string smuggled = "GET /v1/nosuch HTTP/1.1\r\nHost: x\r\n\r\n";
  for (const char* framing :
       {"Content-Length: 10\r\nContent-Length: 44\r\n",
        "Content-Length: 10\r\nContent-Length: 10\r\n",
        "Content-Length: 10\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 10\r\n", "Content-Length: 10, 44\r\n",
        "Content-Length: -1\r\n", "Content-Length: +10\r\n", "Content-Length: 0x10\r\n",
        "Content-Length: 99999999999999999999\r\n", "Content-Length:\r\n",
        "Transfer-Encoding: chunked, gzip\r\n", "Transfer-Encoding: xchunked\r\n",
        "Content-Length : 10\r\n"}) {
    const std::string reply = Ask("PUT /v1/churn HTTP/1.1\r\nHost: x\r\n" + std::string(framing) +
                                  "\r\n{\"seed\":5}" + smuggled);
    EXPECT_EQ(StatusIn(reply), 400) << framing;
    EXPECT_EQ(reply.find("HTTP/1.1", 1), std::string::npos) << "a second answer: " << framing;
  }
  EXPECT_EQ(target_.GetChurn()->seed, 7U) << "a refused request was obeyed";
}

TEST_F(FramingTest, ANulAnywhereIsA400) {
  Start();
  using std::string_literals::operator""s;
  for (
      const std::string& request :
      {"GET /v1/vm\0 HTTP/1.1\r\n\r\n"s, "GET /v1/vm\0x HTTP/1.1\r\n\r\n"s,
       "GET /v1/vm%00 HTTP/1.1\r\n\r\n"s, "GET /v1/vm%00x HTTP/1.1\r\n\r\n"s,
       "GET /v1/stage2?gfn=0x10%00 HTTP/1.1\r\n\r\n"s,
       "GET /v1/stage2?gfn%00=0x10 HTTP/1.1\r\n\r\n"s,
       "GET /v1/stage2?gfn=0x10\0 HTTP/1.1\r\n\r\n"s, "GET\0 /v1/vm HTTP/1.1\r\n\r\n"s,
       "GET /v1/vm HTTP/1.1\0\r\n\r\n"s, "GET /v1/vm HTTP/1.1\r\nX: a\0b\r\n\r\n"s,
       "GET /v1/vm HTTP/1.1\r\nX\0: a\r\n\r\n"s,
       "GET /v1/events HTTP/1.1\r\nLast-Event-ID: 1\0\r\n\r\n"s,
       "PUT /v1/churn HTTP/1.1\r\nContent-Type: application/json\0x\r\nContent-Length: "
       "10\r\n\r\n{\"seed\":5}"s,
       "PUT /v1/churn HTTP/1.1\r\nContent-Length: 10\0\r\n\r\n{\"seed\":5}"s,
       "PUT /v1/churn HTTP/1.1\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{\"seed\":5}\0 "s}) {
    EXPECT_EQ(StatusIn(Ask(request)), 400) << request;
  }
  EXPECT_EQ(target_.GetChurn()->seed, 7U);
}

TEST_F(FramingTest, EveryErrorIsJsonEvenIfTheInputIsNotHttp) {
  Start();
  const std::string many(40000, 'a');
  const std::map<std::string, int> cases = {
      {"GET\r\n\r\n", 400},
      {"\x16\x03\x01\x02 TLS\r\n\r\n", 400},
      {"BREW /v1 HTTP/1.1\r\n\r\n", 400},
      {"GET /v1 HTTP/2.0\r\n\r\n", 505},
      {"GET /v1 HTTP/1.1\r\nno colon\r\n\r\n", 400},
      {"GET /%zz HTTP/1.1\r\n\r\n", 400},
      {"GET /" + many + " HTTP/1.1\r\n\r\n", 431},
      {"GET /v1 HTTP/1.1\r\nX: " + many + "\r\n\r\n", 431},
      {"PUT /v1/vm HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"GET /v1 HTTP/1.1\r\nContent-Type: a\r\nContent-Type: b\r\n\r\n", 400},
      {"OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n", 404},
      {"CONNECT a:1 HTTP/1.1\r\nConnection: close\r\n\r\n", 404},
      {"PUT /v1/vm HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", 413}};
  for (const auto& [request, status] : cases) {
    const std::string reply = Ask(request);
    EXPECT_EQ(StatusIn(reply), status) << request.substr(0, 60);
    EXPECT_THAT(reply, HasSubstr("Content-Type: application/json\r\n")) << request.substr(0, 60);
    const size_t body = reply.find("\r\n\r\n");
    ASSERT_NE(body, std::string::npos) << request.substr(0, 60);
    const Json json = ParseJson(reply.substr(body + 4));
    ASSERT_TRUE(json.is_object()) << reply;
    EXPECT_EQ(json["error"]["status"], status);
    EXPECT_FALSE(json["error"]["message"].get<std::string>().empty());
  }
  // A request that ends in the middle: its client can still read.
  RawClient half(server_->path());
  half.Send("PUT /v1/vm HTTP/1.1\r\nContent-Length: 10\r\n\r\n{");
  half.FinishSending();
  EXPECT_THAT(half.ReadToEnd(),
              AllOf(StartsWith("HTTP/1.1 400"), HasSubstr("before it is complete")));
}

TEST_F(FramingTest, ManyQueryParametersAreAnsweredLikeOne) {
  Start();
  for (const int count : {2, 500, 3000}) {
    std::string query;
    for (int i = 0; i < count; ++i) query += "a" + std::to_string(i) + "=1&";
    EXPECT_EQ(StatusOf("GET", "/v1/stats?" + query), 400) << count;
  }
  EXPECT_EQ(StatusOf("GET", "/v1/stage2?" + std::string(20000, '&') + "gfn=0x10"), 200);
}

TEST_F(FramingTest, ATargetMayBeAnAbsoluteUrl) {
  Start();
  EXPECT_EQ(StatusOf("GET", "http://underfoot/v1/vm"), 200);
  EXPECT_EQ(StatusOf("GET", "HTTP://underfoot:80/v1/stage2?gfn=%30x10"), 200);
  EXPECT_EQ(StatusOf("GET", "http://underfoot"), 404);
  EXPECT_EQ(StatusOf("GET", "http://underfoot?x=1"), 404);
}

TEST_F(FramingTest, RequestsThatComeInOnePieceAreAnsweredInTheirOrder) {
  Start();
  std::string requests;
  for (int i = 1; i <= 20; ++i) {
    const std::string body = "{\"seed\":" + std::to_string(100 + i) + "}";
    requests +=
        "PUT /v1/churn HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
        "\r\n\r\n" + body;
  }
  const std::string replies = Ask(requests + kGetVmAndClose);
  size_t at = 0;
  for (int i = 1; i <= 20; ++i) {
    at = replies.find("\"seed\":" + std::to_string(100 + i) + ",", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
  EXPECT_NE(replies.find("\"pid\":4711", at), std::string::npos);
}

TEST_F(FramingTest, ARequestThatComesInPiecesIsAnsweredBesideOtherRequests) {
  Start();
  RawClient slow(server_->path());
  for (const char* piece : {"PU", "T /v1/churn HTTP/1.1\r\nHost: x\r\nConnec", "tion: close\r\n",
                            "Content-Length: 1", "0\r\n\r\n", "{\"seed", "\":9}"}) {
    ASSERT_TRUE(slow.Send(piece));
    EXPECT_EQ(StatusOf("GET", "/v1/vm"), 200);
  }
  EXPECT_THAT(slow.ReadToEnd(), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("\"seed\":9,")));
}

TEST_F(FramingTest, AChunkedBodyIsLimitedToo) {
  Start([](auto* options) { options->max_body_bytes = 1000; });
  const std::string head =
      "PUT /v1/vm HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string chunk = "3e8\r\n" + std::string(1000, ' ') + "\r\n";
  EXPECT_EQ(StatusIn(Ask(head + chunk + chunk + "0\r\n\r\n")), 413);
  // Without an end: dropped for a while, then cut.
  RawClient client(server_->path());
  client.Send(head);
  int sent = 0;
  while (sent < 1000 && client.Send(chunk)) ++sent;
  EXPECT_LT(sent, 1000) << "the server took a megabyte without a word";
}

TEST_F(FramingTest, GarbageEndsItsConnectionAndNothingElse) {
  Start([](auto* options) { options->idle_timeout = kShort; });
  const std::string zeros(5000, '\0');
  for (const std::string& garbage :
       {std::string("\r\n\r\n\r\n"),
        std::string("\x16\x03\x01\x02\x01\x01\xfc\x03\x03 TLS\r\n\r\n"), zeros,
        std::string("GET\r\n\r\n"), std::string("GET /v1 HTTP/9.9\r\n\r\n"),
        std::string("GET /v1 HTTP/1.1\r\nContent-Length: -5\r\n\r\n"), std::string(100000, 'A'),
        "GET /" + std::string(100000, 'a') + " HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nX: " + std::string(100000, 'a') + "\r\n\r\n"}) {
    RawClient client(server_->path());
    client.Send(garbage);
    client.FinishSending();
    const std::string reply = client.ReadToEnd();
    EXPECT_TRUE(client.ended()) << garbage.substr(0, 40);
    EXPECT_NE(StatusIn(reply), 200) << garbage.substr(0, 40);
    ExpectAnswers();
  }
}

}  // namespace
}  // namespace underfoot::testing
