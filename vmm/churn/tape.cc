#include "vmm/churn/tape.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace underfoot {

absl::Status ChurnTape::Replay(const std::string& path, const ScriptMachine& machine) {
  absl::StatusOr<Script> script = Script::Read(path);
  if (!script.ok()) return std::move(script).status();
  if (absl::Status fits = script->CheckMemoryOf(machine, path); !fits.ok()) return fits;
  for (ScriptedOperation& operation : script->operations) {
    lanes_[static_cast<size_t>(operation.lane)].push_back(std::move(operation));
  }
  replays_ = true;
  absl::MutexLock lock(&mutex_);
  replay_.recorded = script->operations.size();
  return absl::OkStatus();
}

absl::Status ChurnTape::Record(const std::string& path, const ScriptMachine& machine) {
  absl::StatusOr<ScriptWriter> writer = ScriptWriter::Open(path, machine);
  if (!writer.ok()) return std::move(writer).status();
  absl::MutexLock lock(&mutex_);
  writer_.emplace(*std::move(writer));
  return absl::OkStatus();
}

absl::Status ChurnTape::BeginRecord() {
  absl::MutexLock lock(&mutex_);
  return writer_.has_value() ? writer_->Begin() : absl::OkStatus();
}

void ChurnTape::Done(const ScriptedOperation& operation, std::optional<size_t> number) {
  absl::MutexLock lock(&mutex_);
  if (writer_.has_value()) writer_->Add(operation);
  if (!number.has_value()) return;
  const ScriptedOperation& before = OfLane(operation.lane)[*number];
  ++replay_.repeated;
  if (before.result == operation.result) return;
  if (replay_.differences++ == 0) {
    replay_.first =
        absl::StrFormat("line %u, at %s: %s; this time %s", before.line,
                        absl::FormatDuration(before.step.due), before.Text(), operation.Text());
  }
}

ReplayStats ChurnTape::Replay() const {
  absl::MutexLock lock(&mutex_);
  return replay_;
}

absl::Status ChurnTape::status() const {
  absl::MutexLock lock(&mutex_);
  return writer_.has_value() ? writer_->status() : absl::OkStatus();
}

}  // namespace underfoot
