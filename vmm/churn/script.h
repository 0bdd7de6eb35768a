// Churn as it happened, in a file: what was done, when, to which pages, and how it came out. A run
// can be recorded, and repeated from the record.
//
//   {"underfoot_churn": 1, "memory_bytes": 268435456, "backing": "anon"}
//   {"at_us": 507, "lane": 0, "kind": "discard", "random": 1234, "gpa": 4096, "bytes": 8192,
//   "outcome": "done"}
//   ...
//
// Each line is written when its operation is done: what kills the run costs the operations under
// way. A last line without its end is what a kill or a full disk left of one; it is read as if it
// were not there.
//
// Thread safety: ScriptWriter: any thread. Script: a value.

#ifndef UNDERFOOT_VMM_CHURN_SCRIPT_H_
#define UNDERFOOT_VMM_CHURN_SCRIPT_H_

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vmm/backing.h"
#include "vmm/churn/outcome.h"
#include "vmm/churn/schedule.h"

namespace underfoot {

struct ScriptedOperation {
  ChurnLane lane = ChurnLane::kPages;
  ChurnSchedule::Step step;  // due: when it was done
  ChurnResult result;
  size_t line = 0;  // of the file that it was read from, from 1

  // "discard of gpa [0x1000, 0x3000): done"
  [[nodiscard]] std::string Text() const;
};

// What a script was made with; another machine's pages are others.
struct ScriptMachine {
  uint64_t memory_bytes = 0;
  Backing backing = Backing::kAnon;
};

struct Script {
  ScriptMachine machine;
  std::vector<ScriptedOperation> operations;

  // The error names the file, the line, what is wrong with it, and the remedy.
  static absl::StatusOr<Script> Read(const std::string& path);
};

class ScriptWriter {
 public:
  // Makes the file or empties it.
  static absl::StatusOr<ScriptWriter> Create(const std::string& path, const ScriptMachine& machine);

  // What cannot be written is told by Finish.
  void Add(const ScriptedOperation& operation);
  // Whether all of it could be written.
  [[nodiscard]] absl::Status Finish();

 private:
  ScriptWriter(std::string path, std::ofstream file)
      : path_(std::move(path)), file_(std::move(file)) {}

  std::string path_;
  std::ofstream file_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_SCRIPT_H_
