#include "tests/oracle/state.h"

namespace underfoot::oracle {

const char* NameOf(Kind kind) {
  static constexpr const char* kNames[kKinds] = {
      "translate",  "mark",      "check",       "fault",       "refresh", "activate",
      "deactivate", "claim",     "publish",     "abandon",     "begin",   "end",
      "split",      "map block", "fault block", "move",        "discard", "protect",
      "mood",       "age",       "touch",       "create",      "delete",  "move slot",
      "flags",      "collect",   "subscribe",   "unsubscribe", "look-up", "answered"};
  return kNames[static_cast<unsigned>(kind)];
}

const char* NameOf(Result result) {
  static constexpr const char* kNames[kResults] = {
      "would wait", "forbidden", "asks",     "done",     "no",      "yes",
      "mapped",     "present",   "blocked",  "busy",     "again",   "removal pending",
      "no memslot", "read-only", "failed",   "table",    "claimed", "stolen",
      "stray",      "valid",     "inactive", "no memory"};
  return kNames[static_cast<unsigned>(result)];
}

}  // namespace underfoot::oracle
