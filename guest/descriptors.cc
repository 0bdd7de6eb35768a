#include "guest/descriptors.h"

#include <cstddef>
#include <cstdint>

namespace underfoot::guest {
namespace {

constexpr uint16_t kFirstTaskSelector = 0x28;

// A 64-bit task state segment with one bit for each of 65536 ports, and the byte of ones that must
// follow them.
struct [[gnu::packed]] TaskState {
  uint32_t reserved0;
  uint64_t ring0_stack;
  uint64_t other_stacks[2];
  uint64_t reserved1;
  uint64_t interrupt_stacks[7];
  uint64_t reserved2;
  uint16_t reserved3;
  uint16_t bitmap_offset;
  uint8_t bitmap[0x2000];
  uint8_t bitmap_end;
};
static_assert(offsetof(TaskState, bitmap) == 0x68);
static_assert(sizeof(TaskState) == 0x2069);

constexpr uint64_t kTaskStateStride = 0x2100;
static_assert(sizeof(TaskState) <= kTaskStateStride);
static_assert(kTaskStatesGpa + abi::kMaxVcpus * kTaskStateStride <= abi::kImageEnd);

constexpr uint64_t TaskStateGpa(uint64_t vcpu) { return kTaskStatesGpa + vcpu * kTaskStateStride; }

constexpr uint64_t kCode = 0x00af9b000000ffff;  // 64-bit, readable, accessed
constexpr uint64_t kData = 0x00cf93000000ffff;  // writable, accessed
constexpr uint64_t kRing3 = uint64_t{3} << 45;

struct GlobalTable {
  uint64_t entries[kFirstTaskSelector / 8 + 2 * abi::kMaxVcpus];
};

constexpr GlobalTable MakeGlobalTable() {
  GlobalTable table{{0, kCode, kData, kCode | kRing3, kData | kRing3}};
  for (uint64_t vcpu = 0; vcpu < abi::kMaxVcpus; ++vcpu) {
    const uint64_t base = TaskStateGpa(vcpu);  // it is below 16 MiB, so the upper half is zero
    const uint64_t limit = sizeof(TaskState) - 1;
    table.entries[kFirstTaskSelector / 8 + 2 * vcpu] =
        limit | (base & 0xffffff) << 16 | uint64_t{0x89} << 40 | (base >> 24) << 56;
  }
  return table;
}

struct Gate {
  uint64_t low;
  uint64_t high;
};

struct InterruptTable {
  Gate gates[kVectors];
};

constexpr InterruptTable MakeInterruptTable() {
  InterruptTable table{};
  for (uint64_t vector = 0; vector < kVectors; ++vector) {
    const uint64_t target = kTrapStubsGpa + vector * kTrapStubBytes;
    // An interrupt gate. Ring 3 may use only int3.
    const uint64_t attributes = vector == 3 ? 0xee : 0x8e;
    table.gates[vector].low =
        (target & 0xffff) | uint64_t{0x08} << 16 | attributes << 40 | (target >> 16) << 48;
  }
  return table;
}

constinit GlobalTable global_table = MakeGlobalTable();  // not const: ltr marks a TSS as busy
constinit const InterruptTable interrupt_table = MakeInterruptTable();

struct [[gnu::packed]] TablePointer {
  uint16_t limit;
  uint64_t base;
};

}  // namespace

// Called by start.S in ring 0, on each vCPU.
extern "C" void LoadDescriptors(uint64_t vcpu) {
  auto* task = static_cast<TaskState*>(__builtin_assume_aligned(
      reinterpret_cast<void*>(TaskStateGpa(vcpu)), 64));  // all memory is zero at the start
  task->ring0_stack = abi::StackTop(vcpu);
  task->bitmap_offset = offsetof(TaskState, bitmap);
  task->bitmap_end = 0xff;

  const TablePointer gdt{sizeof(global_table) - 1, reinterpret_cast<uint64_t>(&global_table)};
  const TablePointer idt{sizeof(interrupt_table) - 1, reinterpret_cast<uint64_t>(&interrupt_table)};
  const auto selector = static_cast<uint16_t>(kFirstTaskSelector + 16 * vcpu);
  __asm__ __volatile__(
      "lgdt %0\n\t"
      "lidt %1\n\t"
      "ltr %2"
      :
      : "m"(gdt), "m"(idt), "r"(selector)
      : "memory");
}

}  // namespace underfoot::guest
