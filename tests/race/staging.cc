#include "tests/race/staging.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "mmu/base/sync_point.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

// Shorter than the time limit of a negative control, so that a task that hangs is reported by its
// name.
constexpr std::chrono::milliseconds kPatience{12000};

}  // namespace

struct Gate::State {
  std::atomic<bool> arrived{false};
  std::atomic<bool> open{false};

  void Open() {
    open = true;
    open.notify_all();
  }

  struct All {
    std::mutex mutex;
    std::vector<std::weak_ptr<State>> states;
  };
  static All& GetAll() {
    static All all;
    return all;
  }
};

Gate::Gate(std::string_view point) : state_(std::make_shared<State>()) {
  {
    std::lock_guard lock(State::GetAll().mutex);
    State::GetAll().states.push_back(state_);
  }
  SetSyncPoint(point, [state = state_] {
    if (state->open || state->arrived.exchange(true)) return;
    state->open.wait(false);
  });
}

Gate::~Gate() { Open(); }

bool Gate::arrived() const { return state_->arrived; }

bool Gate::AwaitArrival() const {
  return WaitUntil([this] { return arrived(); }, kPatience);
}

void Gate::Open() { state_->Open(); }

void Gate::OpenAll() {
  std::lock_guard lock(State::GetAll().mutex);
  for (const auto& state : State::GetAll().states) {
    if (const auto living = state.lock()) living->Open();
  }
  State::GetAll().states.clear();
}

Task::Task(std::string name, std::function<void()> body)
    : name_(std::move(name)),
      done_(std::make_shared<std::atomic<bool>>(false)),
      thread_([done = done_, body = std::move(body)] {
        body();
        *done = true;
      }) {}

Task::~Task() {
  if (thread_.joinable()) Gate::OpenAll();
  Join();
}

void Task::Join() {
  if (!thread_.joinable()) return;
  if (!WaitUntil([this] { return done(); }, kPatience)) {
    std::fprintf(stderr, "task '%s' hangs\n", name_.c_str());
    std::abort();
  }
  thread_.join();
}

bool StopsAt(const Gate& gate, const Task& task) {
  const bool happened = WaitUntil([&] { return task.done() || gate.arrived(); }, kPatience);
  return happened && gate.arrived() && !task.done();
}

}  // namespace underfoot::testing
