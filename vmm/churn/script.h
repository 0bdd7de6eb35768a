// A file that records churn: which operation was done, when, on which pages, and with which
// outcome. A run can be recorded, and repeated from the record.
//
//   {"underfoot_churn": 1, "memory_bytes": 268435456, "backing": "anon", "seed": 1, "vcpus": 2,
//   "guest": "mixed", "huge_pages": "off"}
//   {"at_us": 507, "lane": 0, "kind": "discard", "random": 1234, "gpa": 4096, "bytes": 8192,
//   "outcome": "done"}
//   ...
//
// Each line is written when its operation is done. If the run is killed, only the operations in
// progress are lost. A last line without its newline is left by a kill or a full disk; it is
// ignored.
//
// Thread safety: ScriptWriter: any thread. Script: a value.

#ifndef UNDERFOOT_VMM_CHURN_SCRIPT_H_
#define UNDERFOOT_VMM_CHURN_SCRIPT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vmm/base/backing.h"
#include "vmm/base/unique_fd.h"
#include "vmm/churn/outcome.h"
#include "vmm/churn/schedule.h"
#include "vmm/config/run_options.h"

namespace underfoot {

struct ScriptedOperation {
  ChurnLane lane = ChurnLane::kPages;
  ChurnSchedule::Step step;  // `due` is the time at which it was done
  ChurnResult result;
  size_t line = 0;  // the line number in the file that it was read from, from 1

  // "discard of gpa [0x1000, 0x3000): done"
  [[nodiscard]] std::string Text() const;
};

// The machine that a script was recorded with. With other memory the operations would select other
// pages. Another seed, guest or number of vCPUs would touch the pages at other times.
struct ScriptMachine {
  uint64_t memory_bytes = 0;
  Backing backing = Backing::kAnon;
  // Absent in records made by older versions.
  std::optional<uint64_t> seed = {};
  std::optional<uint32_t> vcpus = {};
  std::string guest = {};
  HugePages huge_pages = HugePages::kOff;

  // The machine that `options` describe.
  static ScriptMachine Of(const RunOptions& options) {
    return {options.memory_bytes, options.backing, options.seed,
            options.vcpus,        options.guest,   options.huge_pages};
  }

  // The options that `other` would need to become this machine, such as "--vcpus 4 --guest stamp";
  // empty if it needs none.
  [[nodiscard]] std::string OptionsMissingFrom(const ScriptMachine& other) const;
};

struct Script {
  ScriptMachine machine;
  std::vector<ScriptedOperation> operations;

  // The error names the file, the line, the fault in it, and the remedy.
  static absl::StatusOr<Script> Read(const std::string& path);
  // Refuses a machine whose memory differs. `path`: of the script, for the message.
  [[nodiscard]] absl::Status CheckMemoryOf(const ScriptMachine& other,
                                           const std::string& path) const;
};

// Refuses a --record that would overwrite a file that the run reads, by whatever name it is given.
[[nodiscard]] absl::Status CheckRecordIsNoInput(const RunOptions& options);

// A file keeps what it contains until Begin, so that a run which cannot start loses nothing.
class ScriptWriter {
 public:
  // Opens the file, or creates it, and locks it against other machines. A FIFO is refused: its reader
  // could block the churn.
  static absl::StatusOr<ScriptWriter> Open(const std::string& path, const ScriptMachine& machine);

  ScriptWriter(ScriptWriter&& other) noexcept = default;
  ScriptWriter& operator=(ScriptWriter&& other) = delete;
  // Removes a file that Open has created and Begin has not written.
  ~ScriptWriter();

  // Replaces what the file contains by the machine and the operations so far. Must be called once.
  [[nodiscard]] absl::Status Begin();
  // Before Begin the operation is only kept. Has no effect after a write has failed: the record ends
  // there.
  void Add(const ScriptedOperation& operation);
  // Ok if all lines so far could be written.
  [[nodiscard]] const absl::Status& status() const { return status_; }

 private:
  ScriptWriter(std::string path, UniqueFd file, bool created)
      : path_(std::move(path)), file_(std::move(file)), created_(created) {}
  void Write(std::string_view lines);

  std::string path_;
  UniqueFd file_;
  bool created_;
  bool begun_ = false;
  std::string head_;     // the first line
  std::string waiting_;  // the lines that wait for Begin
  absl::Status status_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_SCRIPT_H_
