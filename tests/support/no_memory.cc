#include "tests/support/no_memory.h"

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

namespace underfoot::testing {
namespace {

struct Shortage {
  bool on = false;
  uint64_t successes = 0;
  uint64_t failures = 0;
};
constinit thread_local Shortage t_shortage;

bool Fails() {
  if (!t_shortage.on) return false;
  if (t_shortage.successes == 0) {
    ++t_shortage.failures;
    return true;
  }
  --t_shortage.successes;
  return false;
}

void* Room(size_t bytes, size_t alignment) {
  if (Fails()) return nullptr;
  if (bytes == 0) bytes = 1;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(bytes);
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void* RoomOrThrow(size_t bytes, size_t alignment) {
  void* const room = Room(bytes, alignment);
  if (room == nullptr) throw std::bad_alloc();
  return room;
}

}  // namespace

NoMemory::NoMemory(uint64_t successes) { t_shortage = {true, successes, 0}; }
NoMemory::~NoMemory() { t_shortage.on = false; }
uint64_t NoMemory::failures() const { return t_shortage.failures; }

NoMemory::Pause::Pause() : before_(std::exchange(t_shortage.on, false)) {}
NoMemory::Pause::~Pause() { t_shortage.on = before_; }

void NoMemory::Allocate() {
  if (Fails()) throw std::bad_alloc();
}

}  // namespace underfoot::testing

using underfoot::testing::Room;
using underfoot::testing::RoomOrThrow;

void* operator new(size_t bytes) { return RoomOrThrow(bytes, 0); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return RoomOrThrow(bytes, static_cast<size_t>(alignment));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return Room(bytes, 0); }
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Room(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* room) noexcept { std::free(room); }
void operator delete(void* room, size_t) noexcept { std::free(room); }
void operator delete(void* room, std::align_val_t) noexcept { std::free(room); }
void operator delete(void* room, size_t, std::align_val_t) noexcept { std::free(room); }
