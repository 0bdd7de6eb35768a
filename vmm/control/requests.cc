#include "vmm/control/requests.h"

#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/config/churn_spec.h"
#include "vmm/control/json.h"

namespace underfoot {
namespace {

// Long enough to recognize a member, and short enough not to repeat everything that a client sends.
std::string Quoted(std::string_view name) {
  constexpr size_t kLimit = 40;
  std::string text = "'" + std::string(name.substr(0, kLimit));
  if (name.size() > kLimit) text += "...";
  return text + "'";
}

// A member that stands twice in one object; nullopt: none does. The parser would take the last one,
// and another reader of the same text might take the first.
std::optional<std::string> RepeatedMember(std::string_view body) {
  std::optional<std::string> repeated;
  std::vector<std::set<std::string>> open;  // the members of each object that has begun
  const auto look = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key) {
      auto name = parsed.get<std::string>();
      if (!open.back().insert(name).second) repeated = std::move(name);
    }
    return true;
  };
  const Json json = Json::parse(body, look, /*allow_exceptions=*/false);
  return json.is_discarded() ? std::nullopt : repeated;
}

absl::StatusOr<Json> ParseObject(std::string_view body,
                                 std::initializer_list<std::string_view> known) {
  std::string list;
  for (const std::string_view name : known) {
    if (!list.empty()) list += ", ";
    list += name;
  }
  if (body.empty()) {
    return absl::InvalidArgumentError("the body is empty; send a JSON object with " + list);
  }
  // The parser treats a NUL as the end of the text and would ignore what follows.
  if (body.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError("the body holds a NUL byte; send a JSON object with " + list);
  }
  Json json = ParseJson(body);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError("the body is not JSON; send a JSON object with " + list);
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the body is a JSON %s; send an object with %s", json.type_name(), list));
  }
  if (const std::optional<std::string> repeated = RepeatedMember(body)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the member %s is given twice; give it once", Quoted(*repeated)));
  }
  if (json.empty()) return absl::InvalidArgumentError("the object is empty; send some of " + list);
  for (const auto& [name, value] : json.items()) {
    bool found = false;
    for (const std::string_view wanted : known) found = found || wanted == name;
    if (!found) {
      return absl::InvalidArgumentError(
          absl::StrFormat("unknown member %s; known are %s", Quoted(name), list));
    }
  }
  return json;
}

absl::StatusOr<ChurnRates> ParseRates(const Json& json) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        R"(rates is a JSON %s; send an object like {"discard": 2000})", json.type_name()));
  }
  ChurnRates rates;
  for (const auto& [name, value] : json.items()) {
    const std::optional<ChurnKind> kind = FindChurnKind(name);
    if (!kind.has_value()) {
      std::string kinds;
      for (const ChurnKindInfo& info : kChurnKinds) {
        if (!kinds.empty()) kinds += ", ";
        kinds += info.name;
      }
      return absl::InvalidArgumentError(
          absl::StrFormat("unknown churn kind %s in rates; known are %s", Quoted(name), kinds));
    }
    if (!value.is_number()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("rates.%s is a JSON %s; it must be a number (operations a second)", name,
                          value.type_name()));
    }
    rates[*kind] = value.get<double>();
  }
  return CheckChurnRates(std::move(rates));
}

// Returns "spec" or "rates", whichever is present, as rates within the limits.
absl::StatusOr<ChurnRates> ParseSchedule(const Json& json, const ChurnLimits& limits) {
  ChurnSpec spec;
  if (json.contains("spec")) {
    if (!json["spec"].is_string()) {
      return absl::InvalidArgumentError(R"(spec must be a string like "mixed")");
    }
    absl::StatusOr<ChurnSpec> parsed = ParseChurnSpec(json["spec"].get<std::string>());
    if (!parsed.ok()) return parsed.status();
    spec = *std::move(parsed);
  } else {
    absl::StatusOr<ChurnRates> rates = ParseRates(json["rates"]);
    if (!rates.ok()) return rates.status();
    spec.rates = *std::move(rates);
    spec.text = ChurnSpecText(spec.rates);
  }
  return ResolveChurn(spec, limits);
}

// The only field of the object.
absl::StatusOr<uint64_t> ParseBytesIn(std::string_view body, const char* name) {
  const absl::StatusOr<Json> json = ParseObject(body, {name});
  if (!json.ok()) return json.status();
  const Json& bytes = (*json)[name];
  if (!bytes.is_number_unsigned()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s must be a whole number of bytes, 0 or more", name));
  }
  return bytes.get<uint64_t>();
}

}  // namespace

absl::StatusOr<VmRequest> ParseVmRequest(std::string_view body) {
  const absl::StatusOr<Json> json = ParseObject(body, {"state"});
  if (!json.ok()) return json.status();
  const Json& state = (*json)["state"];
  if (state == "paused") return VmRequest::kPause;
  if (state == "running") return VmRequest::kResume;
  if (state == "quit") return VmRequest::kQuit;
  const std::string given =
      state.is_string() ? Quoted(state.get<std::string>()) : std::string(state.type_name());
  return absl::InvalidArgumentError(
      absl::StrFormat("state is %s; it must be paused, running or quit", given));
}

absl::StatusOr<uint64_t> ParseBalloonRequest(std::string_view body) {
  return ParseBytesIn(body, "target_bytes");
}

absl::StatusOr<uint64_t> ParseHotplugRequest(std::string_view body) {
  return ParseBytesIn(body, "requested_bytes");
}

absl::StatusOr<ChurnRequest> ParseChurnRequest(std::string_view body, const ChurnLimits& limits) {
  const absl::StatusOr<Json> parsed = ParseObject(body, {"running", "seed", "rates", "spec"});
  if (!parsed.ok()) return parsed.status();
  const Json& json = *parsed;
  ChurnRequest request;
  if (json.contains("running")) {
    if (!json["running"].is_boolean()) {
      return absl::InvalidArgumentError("running must be true or false");
    }
    request.running = json["running"].get<bool>();
  }
  if (json.contains("seed")) {
    if (!json["seed"].is_number_unsigned()) {
      return absl::InvalidArgumentError("seed must be a whole number from 0 to 2^64-1");
    }
    request.seed = json["seed"].get<uint64_t>();
  }
  if (json.contains("spec") && json.contains("rates")) {
    return absl::InvalidArgumentError("both spec and rates are given; send one of them");
  }
  if (json.contains("spec") || json.contains("rates")) {
    absl::StatusOr<ChurnRates> rates = ParseSchedule(json, limits);
    if (!rates.ok()) return rates.status();
    request.rates = *std::move(rates);
  }
  return request;
}

}  // namespace underfoot
