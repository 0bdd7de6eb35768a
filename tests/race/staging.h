// Staging a race: a gate stops the first thread that passes a sync point, a task is a thread that
// must come to its end.
//
// Nothing here sleeps. What must happen is awaited with a deadline; a task that hangs ends the
// program, since its thread cannot be joined.

#ifndef UNDERFOOT_TESTS_RACE_STAGING_H_
#define UNDERFOOT_TESTS_RACE_STAGING_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

namespace underfoot::testing {

// Stops the first thread that passes the point from now on; later ones pass. A second gate at a
// point takes the place of the first, which keeps the thread that it has stopped.
class Gate {
 public:
  explicit Gate(std::string_view point);
  ~Gate();  // opens it
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  bool arrived() const;
  // False when nobody came before the deadline.
  [[nodiscard]] bool AwaitArrival() const;
  void Open();

  // For a test that has failed half-way: its tasks must end.
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
  // Waits for its end; aborts the program when it hangs.
  void Join();

 private:
  const std::string name_;
  std::shared_ptr<std::atomic<bool>> done_;
  std::thread thread_;
};

// True when the task stands at the gate, false when it ended without coming there.
[[nodiscard]] bool StopsAt(const Gate& gate, const Task& task);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_RACE_STAGING_H_
