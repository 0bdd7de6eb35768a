// What memory calls of a program cost that has a hook for them: none, ours, or that of UCX. A process of
// its own for each, because a hook changes the calls of the whole process.
//
//   memory_calls plain
//   memory_calls underfoot     with libunderfoot_hooks.so preloaded: one range attached, elsewhere
//   memory_calls ucx LIBUCS    one handler for unmapped memory, as a cache of registrations has
//
// Prints for each call its name and the nanoseconds that it took: the mean of the fastest of five loops.
// Exits with 2 if the hook cannot be had.

#include <dlfcn.h>
#include <sys/mman.h>
#include <ucm/api/ucm.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "vmm/hooks/underfoot_hooks.h"

namespace {

constexpr size_t kPage = 4096;
constexpr unsigned kCalls = 20'000;
constexpr unsigned kLoops = 5;
// As UCX's own cache of registrations: before other handlers.
constexpr int kPriority = 1000;

unsigned long g_unmapped = 0;

void OnUnmapped(ucm_event_type_t, ucm_event_t*, void*) { ++g_unmapped; }

void* MapPages(size_t pages) {
  return mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

bool HookByUcx(const char* path) {
  if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) == nullptr)
    return false;  // brings libucm, and completes it
  using SetHandler = decltype(&ucm_set_event_handler);
  const auto set = reinterpret_cast<SetHandler>(dlsym(RTLD_DEFAULT, "ucm_set_event_handler"));
  return set != nullptr && set(UCM_EVENT_VM_UNMAPPED, kPriority, OnUnmapped, nullptr) == UCS_OK;
}

bool HookByUnderfoot() {
  using Attach = decltype(&underfoot_attach);
  const auto attach = reinterpret_cast<Attach>(dlsym(RTLD_DEFAULT, "underfoot_attach"));
  if (attach == nullptr) return false;
  underfoot_range range{};
  range.start = MapPages(1);
  range.length = kPage;
  range.fd = -1;
  range.begin = [](void*, underfoot_change*) {};
  range.end = [](void*, underfoot_change*) {};
  static uint64_t handle = 0;
  return range.start != MAP_FAILED && attach(&range, &handle) == 0;
}

template <class Call>
void Measure(const char* name, const Call& call) {
  double best = 0;
  for (unsigned loop = 0; loop < kLoops; ++loop) {
    const auto start = std::chrono::steady_clock::now();
    for (unsigned i = 0; i < kCalls; ++i) call();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    best = loop == 0 ? took.count() : std::min(best, took.count());
  }
  std::printf("%s %.2f\n", name, best / kCalls);
}

}  // namespace

int main(int argc, char** argv) {
  const bool underfoot = argc == 2 && std::strcmp(argv[1], "underfoot") == 0;
  const bool ucx = argc == 3 && std::strcmp(argv[1], "ucx") == 0;
  if ((underfoot && !HookByUnderfoot()) || (ucx && !HookByUcx(argv[2]))) return 2;
  void* const page = MapPages(1);
  if (page == MAP_FAILED) return 1;
  Measure("madvise", [page] { madvise(page, kPage, MADV_DONTNEED); });
  Measure("mmap_munmap", [] { munmap(MapPages(1), kPage); });
  // A handler that was not called measured nothing.
  return ucx && g_unmapped < kCalls ? 2 : 0;
}
