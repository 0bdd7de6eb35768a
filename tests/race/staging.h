// The tools with which a test forces a race. A Gate stops the first thread that reaches a sync
// point. A Task is a thread that must end before a deadline.
//
// Nothing here sleeps. A test waits for an event with a deadline. If a task hangs, the program
// ends, because its thread cannot be joined.
//
// Thread safety: the test's thread makes, opens and joins. Any thread may reach a gate.

#ifndef UNDERFOOT_TESTS_RACE_STAGING_H_
#define UNDERFOOT_TESTS_RACE_STAGING_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

namespace underfoot::testing {

// Stops the first thread that reaches the point from now on. Later threads pass. A second gate at
// the same point replaces the first one, which keeps the thread that it has stopped.
class Gate {
 public:
  explicit Gate(std::string_view point);
  ~Gate();  // opens it
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  bool arrived() const;
  // Waits until a thread stands at the gate. Returns false if none came before the deadline.
  [[nodiscard]] bool AwaitArrival() const;
  void Open();

  // Opens all gates, so that the tasks of a test that has failed half-way can end.
  static void OpenAll();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

class Task {
 public:
  Task(std::string name, std::function<void()> body);
  ~Task();  // opens all gates and joins
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  bool done() const { return done_->load(); }
  // Waits until the task has ended. Aborts the program if the task hangs.
  void Join();

 private:
  const std::string name_;
  std::shared_ptr<std::atomic<bool>> done_;
  std::thread thread_;
};

// Waits until the task stands at the gate, and returns true; or until the task ends without
// reaching the gate, and returns false.
[[nodiscard]] bool StopsAt(const Gate& gate, const Task& task);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_RACE_STAGING_H_
