#include "mmu/base/sync_point.h"

#ifdef UNDERFOOT_TESTING

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace underfoot {
namespace {

struct Registry {
  // Not an absl::Mutex: a thread may reach a sync point while it holds locks of the library, and
  // Abseil's deadlock detector would record a lock order that exists in tests only.
  std::mutex mutex;
  std::map<std::string, std::function<void()>, std::less<>> callbacks;
  // Relaxed: a test sets its points before it starts the threads that reach them.
  std::atomic<int> armed{0};
};

Registry& GetRegistry() {
  static auto* registry = new Registry;
  return *registry;
}

}  // namespace

void SetSyncPoint(std::string_view name, std::function<void()> callback) {
  Registry& registry = GetRegistry();
  std::lock_guard lock(registry.mutex);
  registry.callbacks.insert_or_assign(std::string(name), std::move(callback));
  registry.armed.store(1, std::memory_order::relaxed);
}

void ClearSyncPoints() {
  Registry& registry = GetRegistry();
  std::lock_guard lock(registry.mutex);
  registry.callbacks.clear();
  registry.armed.store(0, std::memory_order::relaxed);
}

void PassSyncPoint(std::string_view name) {
  Registry& registry = GetRegistry();
  if (registry.armed.load(std::memory_order::relaxed) == 0) return;
  std::function<void()> callback;
  {
    std::lock_guard lock(registry.mutex);
    const auto found = registry.callbacks.find(name);
    if (found == registry.callbacks.end()) return;
    callback = found->second;
  }
  callback();
}

}  // namespace underfoot

#endif
