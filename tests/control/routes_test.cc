// Every route and every error, without a socket.

#include "vmm/control/routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/control/fake_target.h"
#include "vmm/control/json.h"

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;

constexpr char kClockEvent[] = "event: clock\ndata: {\"clock\":\"CLOCK_MONOTONIC\",";

class RoutesTest : public ::testing::Test {
 protected:
  HttpReply Ask(const std::string& method, const std::string& path, const std::string& body = "",
                const std::string& type = "") {
    HttpRequest request{
        .method = method, .path = path, .query = {}, .content_type = type, .body = body};
    if (const size_t at = path.find('?'); at != std::string::npos) {
      request.path = path.substr(0, at);
      const std::string pair = path.substr(at + 1);
      const size_t equals = pair.find('=');
      request.query.emplace_back(pair.substr(0, equals),
                                 equals == std::string::npos ? "" : pair.substr(equals + 1));
    }
    return Answer(target_, request);
  }

  Json Get(const std::string& path) {
    const HttpReply reply = Ask("GET", path);
    EXPECT_EQ(reply.status, 200) << path << ": " << reply.body;
    return ParseJson(reply.body);
  }

  // The message of an error that has the status and the form of one.
  static std::string Message(const HttpReply& reply, int status) {
    EXPECT_EQ(reply.status, status) << reply.body;
    EXPECT_EQ(reply.content_type, "application/json");
    const Json json = ParseJson(reply.body);
    if (!json.is_object() || !json.contains("error")) {
      ADD_FAILURE() << "no error object: " << reply.body;
      return "";
    }
    EXPECT_EQ(json["error"]["status"], status);
    return json["error"]["message"];
  }

  FakeTarget target_;
};

TEST_F(RoutesTest, TheIndexListsEveryRoute) {
  std::vector<std::string> paths;
  const Json index = Get("/v1");
  for (const Json& route : index["routes"]) {
    paths.push_back(route["path"]);
    EXPECT_FALSE(route["help"].get<std::string>().empty());
    const std::string query = paths.back() == "/v1/stage2" ? "?gfn=0x10" : "";
    EXPECT_EQ(Ask("GET", paths.back() + query).status, 200) << paths.back();
    EXPECT_EQ(Ask("HEAD", paths.back() + query).status, 200) << paths.back();
  }
  EXPECT_THAT(paths, ::testing::ElementsAre(
                         "/v1", "/v1/vm", "/v1/stats", "/v1/caches", "/v1/memslots", "/v1/stage2",
                         "/v1/working-set", "/v1/dirty", "/v1/coverage", "/v1/devices",
                         "/v1/balloon", "/v1/memory", "/v1/events", "/v1/churn", "/metrics"));
}

TEST_F(RoutesTest, CachesShowTheirKeyAndTheirTranslation) {
  EXPECT_EQ(Get("/v1/caches"), ParseJson(R"({"caches": [
    {"name": "vring", "key": "gpa", "address": "0x1000", "bytes": 4096, "state": "valid",
     "hva": "0x7f0000001000", "pfn": 77, "refreshes": 5, "invalidations": 6},
    {"name": "shared", "key": "hva", "address": "0x7f0000002000", "bytes": 8, "state": "invalid",
     "hva": null, "pfn": null, "refreshes": 7, "invalidations": 8}]})"));
}

TEST_F(RoutesTest, MemslotsAreHalfOpenIntervals) {
  EXPECT_EQ(Get("/v1/memslots"), ParseJson(R"({"memslots": [
    {"id": 0, "gfn_begin": 0, "gfn_end": 256, "pages": 256, "hva": "0x7f0000000000",
     "flags": [], "generation": 3},
    {"id": 1, "gfn_begin": 256, "gfn_end": 384, "pages": 128, "hva": "0x7f0000100000",
     "flags": ["log_dirty_pages", "readonly"], "generation": 4}]})"));
}

TEST_F(RoutesTest, Stage2ShowsTheWalkAndTheLeaf) {
  EXPECT_EQ(Get("/v1/stage2?gfn=0x10"), ParseJson(R"({"gfn": 16, "steps": [
    {"level": 3, "entry": "table", "raw": "0x1003"}, {"level": 2, "entry": "table", "raw": "0x2003"},
    {"level": 1, "entry": "leaf", "raw": "0x4d003"}],
    "leaf": {"pfn": 77, "level": 1, "access": "rw", "young": true, "dirty": false,
             "hva": "0x7f0000010000"}, "reason": null})"));
  EXPECT_EQ(Get("/v1/stage2?gfn=16"), Get("/v1/stage2?gfn=0x10"));
}

TEST_F(RoutesTest, Stage2ShowsWhyThereIsNoLeaf) {
  const Json walk = Get("/v1/stage2?gfn=17");
  EXPECT_EQ(walk["leaf"], nullptr);
  EXPECT_EQ(walk["reason"], "never faulted in");
  EXPECT_THAT(Message(Ask("GET", "/v1/stage2?gfn=0x200"), 404), HasSubstr("no memslot"));
}

TEST_F(RoutesTest, Stage2RefusesAnInvalidFrameNumber) {
  EXPECT_THAT(Message(Ask("GET", "/v1/stage2"), 400), HasSubstr("needs one parameter gfn"));
  for (const char* bad : {"", "x", "-1", "0x", "12x", "99999999999999999999", "0x10000000000"}) {
    EXPECT_THAT(Message(Ask("GET", std::string("/v1/stage2?gfn=") + bad), 400),
                HasSubstr("must be a guest frame number"))
        << bad;
  }
  EXPECT_THAT(Message(Ask("GET", "/v1/stage2?gpa=4096"), 400), HasSubstr("no parameter 'gpa'"));
}

TEST_F(RoutesTest, TheWorkingSetIsBySlotAndOfTheRequestedWindow) {
  EXPECT_EQ(Get("/v1/working-set?seconds=2.5"), ParseJson(R"({"sees": "accesses",
    "period_us": 500000, "scans": 2, "covered_us": 2500000, "pages": 128, "touched": 32, "slots": [
    {"id": 0, "gfn_begin": 0, "pages": 256, "touched": null},
    {"id": 1, "gfn_begin": 256, "pages": 128, "touched": 32}]})"));
  EXPECT_EQ(Get("/v1/working-set")["covered_us"], 1000000) << "the fake's own period";
  target_.SetBacking(Backing::kAnon);
  EXPECT_EQ(Get("/v1/working-set")["sees"], "writes");
  for (const char* bad : {"", "0", "-1", "x", "nan", "inf", "1s", "1e7", "1 "}) {
    EXPECT_THAT(Message(Ask("GET", std::string("/v1/working-set?seconds=") + bad), 400),
                HasSubstr("must be a number above 0"))
        << bad;
  }
}

TEST_F(RoutesTest, DevicesHaveTheirQueues) {
  const Json answer = Get("/v1/devices");
  ASSERT_EQ(answer["devices"].size(), 1u);
  Json device = answer["devices"][0];
  EXPECT_EQ(device["queues"][0], ParseJson(R"({"name": "blk-0", "active": true,
    "next_available": 3, "next_used": 4, "requests": 5, "errors": 6, "to_guest_bytes": 7,
    "from_guest_bytes": 8, "bounced": 9, "direct": 15, "direct_again": 16, "file_errors": 17,
    "kicks": 10, "interrupts": 11, "refreshes": 12,
    "refreshes_in_request": 13, "away": 14, "shortages": 18})"));
  EXPECT_EQ(device["queues"][1]["active"], false);
  device.erase("queues");
  EXPECT_EQ(device, ParseJson(R"({"name": "blk", "id": 2, "gpa": "0x7fc0000000",
    "status": "0xf", "resets": 1, "needed_resets": 2,
    "first_error": "read at byte 512 of the disk: Input/output error"})"));
  ASSERT_EQ(answer["event_pages"].size(), 2u);
  EXPECT_EQ(answer["event_pages"][0], ParseJson(R"({"name": "vm", "gpa": "0x103c000",
    "open": true, "sent_fast": 20, "handed_over": 21, "sent_slow": 22, "time_updates": 23,
    "refreshes": 24})"));
}

TEST_F(RoutesTest, TheBalloonIsShownAndItsTargetIsSet) {
  const Json balloon = ParseJson(R"({"target_bytes": 4096, "actual_bytes": 8192, "inflated": 3,
    "deflated": 1, "reported": 64, "kept": 2, "idle_us": 3000000,
    "guest_memory": {"reports": 1, "age_us": 2000000, "swap_in_bytes": 5, "swap_out_bytes": 6,
      "major_faults": 7, "minor_faults": 8, "free_bytes": 16384, "total_bytes": 65536,
      "available_bytes": 32768, "cache_bytes": 4096, "hugetlb_allocations": 9,
      "hugetlb_failures": 10}})");
  EXPECT_EQ(Get("/v1/balloon"), balloon);
  const HttpReply reply = Ask("PUT", "/v1/balloon", R"({"target_bytes": 1048576})");
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(Get("/v1/balloon")["target_bytes"], 1048576);
  for (const char* bad :
       {"", "{}", R"({"target_bytes": -1})", R"({"target_bytes": 1.5})",
        R"({"target_bytes": "1M"})", R"({"bytes": 1})", R"({"target_bytes": 4294967296})"}) {
    EXPECT_EQ(Ask("PUT", "/v1/balloon", bad).status, 400) << bad;
  }
  EXPECT_EQ(Get("/v1/balloon")["target_bytes"], 1048576);
}

TEST_F(RoutesTest, PluggedMemoryIsShownAndItsTargetIsSet) {
  const Json memory = ParseJson(R"({"region_bytes": 1073741824, "requested_bytes": 0,
    "plugged_bytes": 4194304, "plugged": 3, "unplugged": 1, "waits": 7, "busy": 4, "refused": 5, "kept": 6,
    "idle_us": 3000000})");
  EXPECT_EQ(Get("/v1/memory"), memory);
  const HttpReply reply = Ask("PUT", "/v1/memory", R"({"requested_bytes": 2097152})");
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(Get("/v1/memory")["requested_bytes"], 2097152);
  for (const char* bad : {"", "{}", R"({"requested_bytes": -1})", R"({"requested_bytes": "1M"})",
                          R"({"target_bytes": 1})", R"({"requested_bytes": 4294967296})"}) {
    EXPECT_EQ(Ask("PUT", "/v1/memory", bad).status, 400) << bad;
  }
}

TEST_F(RoutesTest, TheDirtyLogIsShownBySlotAndLeftAsItIs) {
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Get("/v1/dirty"), ParseJson(R"({"period_us": 50000, "collections": 7,
      "age_us": 20000, "pages": 384, "last": 11, "waiting": 14, "slots": [
      {"id": 0, "gfn_begin": 0, "pages": 256, "last": 3, "waiting": 5},
      {"id": 1, "gfn_begin": 256, "pages": 128, "last": 8, "waiting": 9}]})"));
  }
  EXPECT_EQ(target_.dirty_takes(), 0);
}

TEST_F(RoutesTest, APostTakesTheDirtyPagesAsABitmapInTheOrderOfTheFrames) {
  target_.SetDirtyPages(130);
  const HttpReply taken = Ask("POST", "/v1/dirty");
  EXPECT_EQ(taken.status, 200);
  EXPECT_EQ(ParseJson(taken.body), ParseJson(R"({"collections": 7, "gfn_begin": 0,
    "pages": 130, "dirty": 5, "bitmap": "0700000000000080000000000000000002"})"));
  EXPECT_EQ(ParseJson(Ask("POST", "/v1/dirty").body)["dirty"], 0) << "taken once";
  ASSERT_TRUE(taken.undelivered);
  taken.undelivered();
  EXPECT_EQ(ParseJson(Ask("POST", "/v1/dirty").body)["dirty"], 5) << "and again if it got lost";
}

TEST_F(RoutesTest, ATakeHasNoBodyAndNoOtherMethod) {
  EXPECT_THAT(Message(Ask("POST", "/v1/dirty", "{}"), 400), HasSubstr("takes no body"));
  const HttpReply put = Ask("PUT", "/v1/dirty", "{}");
  EXPECT_THAT(Message(put, 405), HasSubstr("it takes GET, HEAD, POST"));
  EXPECT_EQ(put.allow, "GET, HEAD, POST");
  EXPECT_EQ(Ask("POST", "/v1/stats").status, 405);
  EXPECT_EQ(target_.dirty_takes(), 0);
}

TEST_F(RoutesTest, CoverageIsARowAKindWithACellASource) {
  const Json coverage = Get("/v1/coverage");
  EXPECT_EQ(coverage["sources"], ParseJson(R"({"hook": "on", "uffd": "on", "kernel": "off"})"));
  EXPECT_EQ(coverage["others"], ParseJson(R"({"hook": 1, "uffd": 2, "kernel": 3})"));
  ASSERT_EQ(coverage["kinds"].size(), kChurnKinds.size());
  const Json& row = coverage["kinds"][0];
  EXPECT_EQ(row["kind"], "discard");
  EXPECT_EQ(row["operations"], 4);
  EXPECT_EQ(row["result"], "seen");
  EXPECT_EQ(row["sources"]["hook"]["duty"], "must");
  EXPECT_EQ(row["sources"]["hook"]["events"], 5);
  EXPECT_EQ(row["sources"]["hook"]["lag_us"]["p50"], 3);
}

TEST_F(RoutesTest, EventsAreAStreamThatBeginsNowOrAtTheRequestedNumber) {
  target_.HappenTo(1);
  const HttpReply now = Ask("GET", "/v1/events");
  EXPECT_EQ(now.content_type, "text/event-stream");
  ASSERT_TRUE(now.more);
  EXPECT_THAT(now.more(), ::testing::StartsWith(kClockEvent));
  target_.HappenTo(2);
  const std::string text = now.more();
  EXPECT_THAT(text, ::testing::StartsWith("id: 1\nevent: kernel\ndata: {"));
  EXPECT_TRUE(text.ends_with("}\n\n"));
  const Json data = ParseJson(text.substr(text.find('{')));
  EXPECT_EQ(data["change"], "unmap");
  EXPECT_EQ(data["begin"], "0x2000");
  EXPECT_EQ(data["lag_us"], 24);
  EXPECT_EQ(data["task"], "ksmd");
  EXPECT_EQ(now.more(), "");
  EXPECT_THAT(Ask("GET", "/v1/events?from=0").more(), HasSubstr("\n\nid: 0\n"));
  EXPECT_THAT(Message(Ask("GET", "/v1/events?from=x"), 400), HasSubstr("the number of an event"));
  EXPECT_THAT(Message(Ask("GET", "/v1/events?since=1"), 400), HasSubstr("no parameter 'since'"));
}

TEST_F(RoutesTest, AStreamThatFellBehindReportsTheNumberOfLostEvents) {
  const HttpReply reply = Ask("GET", "/v1/events?from=0");
  target_.HappenTo(1, EventLog::kCapacity + 3);
  EXPECT_THAT(reply.more(), HasSubstr("\n\nevent: gap\ndata: {\"lost\":3}\n\nid: 3\n"));
}

TEST_F(RoutesTest, AStreamBeginsWithItsClockAndTheTimeOfDay) {
  const int64_t before = MonotonicNs();
  const std::string text = Ask("GET", "/v1/events").more();
  ASSERT_THAT(text, ::testing::StartsWith(kClockEvent));
  const Json clock = ParseJson(text.substr(text.find('{')));
  EXPECT_EQ(clock["clock"], "CLOCK_MONOTONIC");
  EXPECT_GE(clock["now_ns"].get<int64_t>(), before);
  EXPECT_LE(clock["now_ns"].get<int64_t>(), MonotonicNs());
  EXPECT_GT(clock["unix_ns"].get<int64_t>(), 0);
}

// What the stream with this Last-Event-ID begins with, without its clock.
std::string EventsAfter(FakeTarget& target, const std::string& id, const std::string& from = "") {
  HttpRequest request{.method = "GET",
                      .path = "/v1/events",
                      .query = {},
                      .content_type = "",
                      .body = "",
                      .last_event_id = id};
  if (!from.empty()) request.query.emplace_back("from", from);
  const HttpReply reply = Answer(target, request);
  if (!reply.more) return reply.body;
  const std::string text = reply.more();
  return text.substr(text.find("\n\n") + 2);
}

TEST_F(RoutesTest, AClientThatConnectsAgainGetsWhatCameAfterTheLastEventThatItHas) {
  target_.HappenTo(1, 5);
  EXPECT_THAT(EventsAfter(target_, "2"), ::testing::StartsWith("id: 3\n"));
  EXPECT_THAT(EventsAfter(target_, "2", "0"), ::testing::StartsWith("id: 3\n"))
      << "its first URL must not send it back to the start";
  EXPECT_EQ(EventsAfter(target_, "4"), "");
  EXPECT_THAT(EventsAfter(target_, "18446744073709551615"), ::testing::StartsWith("id: 0\n"))
      << "a number of an earlier machine";
  EXPECT_THAT(EventsAfter(target_, "x"), HasSubstr("Last-Event-ID is 'x'"));
  EXPECT_THAT(EventsAfter(target_, ""), HasSubstr("it must be the id of an event"));
}

TEST_F(RoutesTest, ATypeIsJsonInAnyCaseAndWithParameters) {
  const auto status = [&](const std::string& type) {
    HttpRequest request{.method = "PUT",
                        .path = "/v1/churn",
                        .query = {},
                        .content_type = type,
                        .body = R"({"seed": 5})"};
    return Answer(target_, request).status;
  };
  for (const char* good :
       {"", "application/json", "Application/JSON", "APPLICATION/JSON; charset=UTF-8",
        "application/json;charset=utf-8", "application/json ; q=1", " application/json",
        "Application/X-WWW-Form-Urlencoded"}) {
    EXPECT_EQ(status(good), 200) << good;
  }
  for (const char* bad : {"text/json", "application/jsonx", "application/merge-patch+json", ";",
                          "application/ json", "application"}) {
    EXPECT_EQ(status(bad), std::string(bad) == ";" ? 200 : 415) << bad;
  }
}

TEST_F(RoutesTest, ANulInABodyIsRefusedWhereverItStands) {
  using std::string_literals::operator""s;
  for (const std::string& body : {"{\"seed\":77}\0 this is not JSON {\"seed\":1"s,
                                  "{\"seed\":77}\0"s, "{\"running\":true\0}"s, "\0{\"seed\":3}"s,
                                  "{\"spec\":\"mixed\0\"}"s, "{\"spec\":\"mixed\\u0000\"}"s,
                                  "{\"seed\\u0000\":3}"s, "{\"rates\":{\"discard\\u0000\":3}}"s}) {
    EXPECT_EQ(Ask("PUT", "/v1/churn", body).status, 400) << body;
  }
  EXPECT_EQ(Ask("PUT", "/v1/vm", "{\"state\":\"paused\\u0000\"}").status, 400);
  EXPECT_EQ(target_.GetChurn()->seed, 7U) << "nothing was set";
  EXPECT_EQ(target_.state(), VmState::kRunning);
}

TEST_F(RoutesTest, PausedRunningAndQuitReachTheMachine) {
  EXPECT_EQ(Ask("PUT", "/v1/vm", R"({"state": "paused"})").status, 200);
  EXPECT_EQ(target_.state(), VmState::kPaused);
  EXPECT_EQ(Get("/v1/vm")["state"], "paused");
  EXPECT_EQ(Ask("PUT", "/v1/vm", R"({"state": "running"})").status, 200);
  EXPECT_EQ(target_.state(), VmState::kRunning);
  EXPECT_FALSE(target_.quit());
  EXPECT_EQ(Ask("PUT", "/v1/vm", R"({"state": "quit"})").status, 202);
  EXPECT_TRUE(target_.quit());
}

TEST_F(RoutesTest, AWrongStateIsNamed) {
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", R"({"state": "off"})"), 400),
              HasSubstr("state is 'off'; it must be paused, running or quit"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", R"({"state": 1})"), 400), HasSubstr("state is number"));
}

TEST_F(RoutesTest, ABodyWithUnknownMembersOrThatIsNotAnObjectIsRefused) {
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", ""), 400), HasSubstr("body is empty"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", "{"), 400), HasSubstr("not JSON"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", "{}"), 400), HasSubstr("object is empty"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", "[1]"), 400), HasSubstr("JSON array"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", R"({"State": "paused"})"), 400),
              HasSubstr("unknown member 'State'; known are state"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/churn", R"({"running": true, "sead": 1})"), 400),
              HasSubstr("unknown member 'sead'; known are running, seed, rates, spec"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", "{\"\xff\": 1}"), 400), HasSubstr("not JSON"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", std::string(60000, '[')), 400), HasSubstr("not JSON"));
}

TEST_F(RoutesTest, AMemberThatIsGivenTwiceIsRefusedWhereverItStands) {
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", R"({"state":"running","state":"paused"})"), 400),
              HasSubstr("the member 'state' is given twice"));
  EXPECT_THAT(Message(Ask("PUT", "/v1/churn", R"({"rates":{"discard":1,"discard":2}})"), 400),
              HasSubstr("the member 'discard' is given twice"));
  EXPECT_EQ(Ask("PUT", "/v1/churn", R"({"rates":{"discard":1},"seed":1})").status, 200)
      << "an object in another one may have the same names";
}

TEST_F(RoutesTest, ChurnChangesWhatIsGivenAndNothingElse) {
  EXPECT_EQ(Ask("PUT", "/v1/churn", R"({"running": false})").status, 200);
  Json churn = Get("/v1/churn");
  EXPECT_EQ(churn["running"], false);
  EXPECT_EQ(churn["seed"], 7);
  EXPECT_EQ(churn["rates"], ParseJson(R"({"discard": 100.0})"));
  Ask("PUT", "/v1/churn", R"({"seed": 18446744073709551615, "rates": {"zap": 10.5, "wp": 0}})");
  churn = Get("/v1/churn");
  EXPECT_EQ(churn["running"], false);
  EXPECT_EQ(churn["seed"], 18446744073709551615U);
  EXPECT_EQ(churn["rates"], ParseJson(R"({"zap": 10.5})"));
}

TEST_F(RoutesTest, ChurnTakesASpecAsTheCommandLineDoes) {
  EXPECT_EQ(Ask("PUT", "/v1/churn", R"({"spec": "discard:2000/s,memslot:20/s"})").status, 200);
  EXPECT_EQ(Get("/v1/churn")["rates"], ParseJson(R"({"discard": 2000.0, "memslot": 20.0})"));
  EXPECT_EQ(Ask("PUT", "/v1/churn", R"({"spec": "off"})").status, 200);
  EXPECT_EQ(Get("/v1/churn")["rates"], Json::object());
}

TEST_F(RoutesTest, ChurnRefusesWhatIsWrongByName) {
  const auto message = [&](const char* body) {
    return Message(Ask("PUT", "/v1/churn", body), 400);
  };
  EXPECT_THAT(message(R"({"running": 1})"), HasSubstr("running must be true or false"));
  EXPECT_THAT(message(R"({"seed": -1})"), HasSubstr("seed must be a whole number"));
  EXPECT_THAT(message(R"({"seed": 18446744073709551616})"), HasSubstr("seed must be"));
  EXPECT_THAT(message(R"({"rates": []})"), HasSubstr("rates is a JSON array"));
  EXPECT_THAT(message(R"({"rates": {"frob": 1}})"), HasSubstr("unknown churn kind 'frob'"));
  EXPECT_THAT(message(R"({"rates": {"frob": 1}})"), HasSubstr("discard, zap, punch"));
  EXPECT_THAT(message(R"({"rates": {"zap": "1"}})"), HasSubstr("rates.zap is a JSON string"));
  EXPECT_THAT(message(R"({"rates": {"zap": -1}})"), HasSubstr("rate of zap is -1/s"));
  EXPECT_THAT(message(R"({"rates": {"zap": 1e300}})"), HasSubstr("from 0 to 1000000"));
  EXPECT_THAT(message(R"({"spec": 1})"), HasSubstr("spec must be a string"));
  EXPECT_THAT(message(R"({"spec": "frob:1/s"})"), HasSubstr("'frob' is not a kind of churn"));
  EXPECT_THAT(message(R"({"spec": "off", "rates": {}})"), HasSubstr("both spec and rates"));
  EXPECT_EQ(Get("/v1/churn")["seed"], 7);
}

TEST_F(RoutesTest, AKindThatTheBackingCannotDoIsRefusedByNameAndReplacedInAPreset) {
  target_.SetBacking(Backing::kAnon);
  EXPECT_THAT(Message(Ask("PUT", "/v1/churn", R"({"rates": {"punch": 5}})"), 400),
              HasSubstr("punch needs a memfd"));
  EXPECT_EQ(Ask("PUT", "/v1/churn", R"({"spec": "mixed"})").status, 200);
  const Json rates = Get("/v1/churn")["rates"];
  EXPECT_FALSE(rates.contains("punch"));
  double total = 0;
  for (const Json& rate : rates) total += rate.get<double>();
  EXPECT_DOUBLE_EQ(total, 2000);
}

TEST_F(RoutesTest, AnUnknownPathIsA404ThatNamesIt) {
  for (const char* path : {"/", "/v2/stats", "/v1/stats/x", "/v1/../etc/passwd", ""}) {
    EXPECT_THAT(Message(Ask("GET", path), 404), HasSubstr("GET /v1 lists them")) << path;
  }
  EXPECT_EQ(Ask("GET", "/v1/stats/").status, 200);
  EXPECT_EQ(Message(Ask("GET", "/" + std::string(5000, 'a')), 404).size(), 80 + 31U);
  EXPECT_THAT(Message(Ask("GET", "/\xff\xfe"), 404), HasSubstr("no route"));
}

TEST_F(RoutesTest, AMethodThatTheRouteLacksIsA405WithAllow) {
  HttpReply reply = Ask("POST", "/v1/vm", R"({"state": "paused"})");
  EXPECT_THAT(Message(reply, 405), HasSubstr("does not take POST; it takes GET, HEAD, PUT"));
  EXPECT_EQ(reply.allow, "GET, HEAD, PUT");
  reply = Ask("PUT", "/v1/stats", "{}");
  EXPECT_THAT(Message(reply, 405), HasSubstr("it takes GET, HEAD"));
  EXPECT_EQ(reply.allow, "GET, HEAD");
  EXPECT_EQ(Ask("DELETE", "/metrics").status, 405);
}

TEST_F(RoutesTest, AParameterThatTheRouteLacksIsNamed) {
  EXPECT_THAT(Message(Ask("GET", "/v1/stats?pretty=1"), 400),
              HasSubstr("/v1/stats knows no parameter 'pretty'"));
}

TEST_F(RoutesTest, ABodyMustCallItselfJsonOrNothing) {
  const std::string body = R"({"state": "paused"})";
  for (const char* type : {"", "application/json", "application/json; charset=utf-8",
                           "application/x-www-form-urlencoded"}) {
    EXPECT_EQ(Ask("PUT", "/v1/vm", body, type).status, 200) << type;
  }
  EXPECT_THAT(Message(Ask("PUT", "/v1/vm", body, "text/xml"), 415),
              HasSubstr("'text/xml'; send application/json"));
}

TEST_F(RoutesTest, AnErrorOfTheMachineKeepsItsMessageAndGetsItsStatus) {
  const std::vector<std::pair<absl::Status, int>> expected = {
      {absl::FailedPreconditionError("stopped already"), 409},
      {absl::UnavailableError("starting still"), 503},
      {absl::InvalidArgumentError("what"), 400},
      {absl::NotFoundError("where"), 404},
      {absl::PermissionDeniedError("who"), 403},
      {absl::UnimplementedError("how"), 501},
      {absl::DeadlineExceededError("when"), 504},
      {absl::InternalError("why"), 500}};
  for (const auto& [status, http] : expected) {
    target_.FailWith(status);
    const std::string message(status.message());
    for (const char* path :
         {"/v1/vm", "/v1/stats", "/v1/caches", "/v1/memslots", "/v1/stage2?gfn=1",
          "/v1/working-set", "/v1/dirty", "/v1/churn", "/metrics"}) {
      EXPECT_EQ(Message(Ask("GET", path), http), message) << path;
    }
    EXPECT_EQ(Message(Ask("POST", "/v1/dirty"), http), message);
    EXPECT_EQ(Message(Ask("PUT", "/v1/vm", R"({"state": "quit"})"), http), message);
    EXPECT_EQ(Message(Ask("PUT", "/v1/churn", R"({"running": true})"), http), message);
  }
}

}  // namespace
}  // namespace underfoot::testing
