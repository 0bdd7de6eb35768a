#include "vmm/churn/script.h"

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "absl/strings/str_format.h"
#include "mmu/mutant.h"

namespace underfoot {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr std::array<std::string_view, 2> kOutcomes = {"done", "declined"};

absl::Status BadLine(const std::string& path, size_t line, std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s, line %u: %s; give a file that --record has written", path, line, why));
}

// Throws Json::exception.
std::optional<ScriptedOperation> OperationOf(const Json& json) {
  const std::optional<ChurnKind> kind = FindChurnKind(json.at("kind").get<std::string>());
  const auto lane = json.at("lane").get<uint64_t>();
  const auto outcome = json.at("outcome").get<std::string>();
  if (!kind.has_value() || lane >= kChurnLanes) return std::nullopt;
  if (outcome != kOutcomes[0] && outcome != kOutcomes[1]) return std::nullopt;
  ScriptedOperation operation;
  operation.lane = static_cast<ChurnLane>(lane);
  operation.step = {.kind = *kind,
                    .due = absl::Microseconds(json.at("at_us").get<int64_t>()),
                    .random = json.at("random").get<uint64_t>()};
  operation.result = {
      .gpa = Gpa{json.at("gpa").get<uint64_t>()},
      .bytes = json.at("bytes").get<uint64_t>(),
      .outcome = outcome == kOutcomes[0] ? ChurnOutcome::kDone : ChurnOutcome::kDeclined};
  return operation;
}

std::optional<ScriptMachine> MachineOf(const Json& json) {
  ScriptMachine machine;
  if (json.at("underfoot_churn").get<int>() != kVersion) return std::nullopt;
  machine.memory_bytes = json.at("memory_bytes").get<uint64_t>();
  machine.backing = json.at("backing").get<std::string>() == BackingName(Backing::kMemfd)
                        ? Backing::kMemfd
                        : Backing::kAnon;
  return machine;
}

}  // namespace

std::string ScriptedOperation::Text() const {
  return absl::StrFormat("%s of gpa [0x%x, 0x%x): %s", ChurnKindName(step.kind), result.gpa.value,
                         result.gpa.value + result.bytes,
                         kOutcomes[static_cast<size_t>(result.outcome)]);
}

absl::StatusOr<Script> Script::Read(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrFormat("%s cannot be read", path));
  Script script;
  std::string line;
  for (size_t number = 1; std::getline(file, line); ++number) {
    if (file.eof() && !UNDERFOOT_MUTANT("script-trusts-a-torn-line")) break;
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    try {
      if (number == 1) {
        const std::optional<ScriptMachine> machine = MachineOf(json);
        if (!machine.has_value()) return BadLine(path, number, "of another version");
        script.machine = *machine;
        continue;
      }
      std::optional<ScriptedOperation> operation = OperationOf(json);
      if (!operation.has_value()) return BadLine(path, number, "an unknown kind, lane or outcome");
      operation->line = number;
      script.operations.push_back(*operation);
    } catch (const Json::exception&) {
      return BadLine(path, number, "no record of churn");
    }
  }
  if (script.machine.memory_bytes == 0) return BadLine(path, 1, "no line is whole");
  return script;
}

absl::StatusOr<ScriptWriter> ScriptWriter::Create(const std::string& path,
                                                  const ScriptMachine& machine) {
  std::ofstream file(path, std::ios::trunc);
  file << Json::object({{"underfoot_churn", kVersion},
                        {"memory_bytes", machine.memory_bytes},
                        {"backing", BackingName(machine.backing)}})
              .dump()
       << "\n";
  if (!file.flush()) return absl::UnavailableError(absl::StrFormat("%s cannot be written", path));
  return ScriptWriter(path, std::move(file));
}

void ScriptWriter::Add(const ScriptedOperation& operation) {
  file_ << Json::object({{"at_us", absl::ToInt64Microseconds(operation.step.due)},
                         {"lane", static_cast<int>(operation.lane)},
                         {"kind", ChurnKindName(operation.step.kind)},
                         {"random", operation.step.random},
                         {"gpa", operation.result.gpa.value},
                         {"bytes", operation.result.bytes},
                         {"outcome", kOutcomes[static_cast<size_t>(operation.result.outcome)]}})
               .dump()
        << "\n";
  // A write of its own, of one microsecond: the run that is killed is the one to repeat.
  if (!UNDERFOOT_MUTANT("record-stays-in-its-buffer")) file_.flush();
}

absl::Status ScriptWriter::Finish() {
  if (file_.flush()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("not all of %s could be written", path_));
}

}  // namespace underfoot
