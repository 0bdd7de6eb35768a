#include "vmm/hooks/selftest.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "mmu/base/ordering.h"
#include "mmu/base/types.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/calls.h"

namespace underfoot::hooks {
namespace {

// An attached page of a private file. Its `begin` callback counts the calls that arrive.
class Probe {
 public:
  Probe() {
    fd_ = static_cast<int>(syscall(SYS_memfd_create, "underfoot-selftest", MFD_CLOEXEC));
    if (fd_ < 0) return;
    const long page = syscall(SYS_mmap, nullptr, kPageSize, PROT_NONE, MAP_SHARED, fd_, 0L);
    if (page == -1) return;
    page_ = std::bit_cast<char*>(page);
    underfoot_range range{};
    range.start = page_;
    range.length = kPageSize;
    range.fd = fd_;
    range.context = this;
    range.begin = [](void* probe, underfoot_change*) { ++static_cast<Probe*>(probe)->begins_; };
    range.end = [](void*, underfoot_change*) {};
    ready_ = Attach(range, &handle_) == 0;
  }
  ~Probe() {
    if (ready_) static_cast<void>(Detach(handle_));
    if (page_ != nullptr) syscall(SYS_munmap, page_, kPageSize);
    if (fd_ >= 0) syscall(SYS_close, fd_);
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  bool ready() const { return ready_; }
  int fd() const { return fd_; }
  // Not the start of a page: the kernel refuses a call over it, but only after the hook has
  // reported it.
  char* odd() const { return page_ + 1; }
  uint32_t arrivals() const { return begins_ + ImpossibleCalls(); }

 private:
  int fd_ = -1;
  char* page_ = nullptr;
  bool ready_ = false;
  uint64_t handle_ = 0;
  std::atomic<uint32_t> begins_{0};
};

template <class... Arguments>
void Call(void* function, Arguments... arguments) {
  reinterpret_cast<long (*)(Arguments...)>(function)(arguments...);
}

struct Name {
  const char* name;
  void (*call)(void* function, const Probe& probe);
};

void CallFallocate(void* function, const Probe& probe) {
  Call(function, probe.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t{0},
       static_cast<off_t>(kPageSize));
}

void CallFtruncate(void* function, const Probe& probe) { Call(function, probe.fd(), off_t{0}); }

void CallMmap(void* function, const Probe& probe) {
  Call(function, probe.odd(), size_t{1}, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
       off_t{0});
}

// In the order of the header. The kernel refuses MADV_DONTNEED and the others at that address, and
// shmat of segment -1.
constexpr std::array kNames = {
    Name{"madvise",
         [](void* function, const Probe& probe) {
           Call(function, probe.odd(), size_t{1}, MADV_DONTNEED);
         }},
    Name{"process_madvise",
         [](void* function, const Probe& probe) {
           const iovec part{probe.odd(), 1};
           Call(function, -1, &part, size_t{1}, MADV_PAGEOUT, 0U);
         }},
    Name{"munmap",
         [](void* function, const Probe& probe) { Call(function, probe.odd(), size_t{1}); }},
    Name{"mremap",
         [](void* function, const Probe& probe) {
           Call(function, probe.odd(), size_t{1}, size_t{1}, MREMAP_MAYMOVE | MREMAP_FIXED,
                probe.odd());
         }},
    Name{"mprotect", [](void* function,
                        const Probe& probe) { Call(function, probe.odd(), size_t{1}, PROT_NONE); }},
    Name{"pkey_mprotect",
         [](void* function, const Probe& probe) {
           Call(function, probe.odd(), size_t{1}, PROT_NONE, -1);
         }},
    Name{"mmap", CallMmap},
    Name{"mmap64", CallMmap},
    Name{"fallocate", CallFallocate},
    Name{"fallocate64", CallFallocate},
    Name{"ftruncate", CallFtruncate},
    Name{"ftruncate64", CallFtruncate},
    Name{"brk",
         [](void* function, const Probe&) { Call(function, std::bit_cast<void*>(uintptr_t{1})); }},
    Name{"sbrk", [](void* function, const Probe&) { Call(function, INTPTR_MIN + 1); }},
    Name{"shmat", [](void* function,
                     const Probe&) { Call(function, -1, static_cast<const void*>(nullptr), 0); }},
    Name{"shmdt",
         [](void* function, const Probe& probe) {
           Call(function, static_cast<const void*>(probe.odd()));
         }},
};
constexpr uint32_t kAll = UNDERFOOT_ALL_NAMES;
static_assert(kAll == (uint32_t{1} << kNames.size()) - 1);

// Guards: the self-test in progress, and the text. Held over the calls above.
constinit std::atomic<uint32_t> g_testing{0};
// Relaxed: once all names lead here, that never changes.
constinit std::atomic<bool> g_all_seen{false};
constinit std::array<char, 512> g_text{};

void Append(const char* what) {
  const size_t at = std::strlen(g_text.data());
  std::strncat(g_text.data(), what, g_text.size() - at - 1);
}

void WriteText(uint32_t seen) {
  g_text[0] = 0;
  Append("ENOTSUP: these names of the program do not lead to libunderfoot_hooks:");
  for (size_t i = 0; i < kNames.size(); ++i) {
    if ((seen >> i & 1) != 0) continue;
    Append(" ");
    Append(kNames[i].name);
  }
  Append("; link with it before any library that takes them too, or preload it");
}

uint32_t CallEachName() {
  const Probe probe;
  if (!probe.ready()) return 0;
  uint32_t seen = 0;
  for (size_t i = 0; i < kNames.size(); ++i) {
    void* const function = dlsym(RTLD_DEFAULT, kNames[i].name);
    const uint32_t before = probe.arrivals();
    if (function != nullptr) kNames[i].call(function, probe);
    if (probe.arrivals() != before) seen |= uint32_t{1} << i;
  }
  return seen;
}

}  // namespace

uint32_t SelfTest() {
  while (g_testing.exchange(1, kAcquire) != 0) sched_yield();
  const uint32_t seen = CallEachName();
  if (seen == kAll) {
    g_all_seen.store(true, kRelaxed);
  } else {
    WriteText(seen);
  }
  g_testing.store(0, kRelease);
  return seen;
}

int CheckNames() {
  if (g_all_seen.load(kRelaxed)) return 0;
  return SelfTest() == kAll ? 0 : ENOTSUP;
}

const char* WhatIsUnseen() { return g_text.data(); }

const char* NameOf(unsigned bit) { return bit < kNames.size() ? kNames[bit].name : nullptr; }

}  // namespace underfoot::hooks
