#include "guest/descriptors.h"

#include <cstddef>
#include <cstdint>

namespace underfoot::guest {
namespace {

constexpr uint16_t kFirstTaskSelector = 0x28;

// The ports below this one are open to ring 3.
constexpr uint64_t kOpenPorts = 0x510;
static_assert(abi::kVcpuEventPort + sizeof(uint32_t) <= kOpenPorts);

// A 64-bit task state segment with one bit for each open port, and the byte of ones that must follow
// them. Aligned so that none lies across two pages.
struct [[gnu::packed]] alignas(512) TaskState {
  uint32_t reserved0;
  uint64_t ring0_stack;
  uint64_t other_stacks[2];
  uint64_t reserved1;
  uint64_t interrupt_stacks[7];
  uint64_t reserved2;
  uint16_t reserved3;
  uint16_t bitmap_offset;
  uint8_t bitmap[kOpenPorts / 8];
  uint8_t bitmap_end;
};
static_assert(offsetof(TaskState, bitmap) == 0x68);
static_assert(sizeof(TaskState) == 512);
constexpr uint64_t kTaskStateLimit = offsetof(TaskState, bitmap_end);

constexpr uint64_t kCode = 0x00af9b000000ffff;  // 64-bit, readable, accessed
constexpr uint64_t kData = 0x00cf93000000ffff;  // writable, accessed
constexpr uint64_t kRing3 = uint64_t{3} << 45;

struct GlobalTable {
  uint64_t entries[kFirstTaskSelector / 8 + 2 * abi::kMaxVcpus];
};

// Available, present. Its base is below 16 MiB, so the upper half of the descriptor is zero.
constexpr uint64_t TaskDescriptor(uint64_t base) {
  return kTaskStateLimit | (base & 0xffffff) << 16 | uint64_t{0x89} << 40 | (base >> 24) << 56;
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

// The descriptor of each task state is added by its vCPU, and ltr marks it as busy.
constinit GlobalTable global_table{{0, kCode, kData, kCode | kRing3, kData | kRing3}};
// Part of the image, so that the loader has brought their pages in: a fault of a vCPU at its start
// would take many times as long.
constinit TaskState task_states[abi::kMaxVcpus] = {};
constinit const InterruptTable interrupt_table = MakeInterruptTable();

struct [[gnu::packed]] TablePointer {
  uint16_t limit;
  uint64_t base;
};

}  // namespace

// Called by start.S in ring 0, on each vCPU.
extern "C" void LoadDescriptors(uint64_t vcpu) {
  TaskState& task = task_states[vcpu];
  task.ring0_stack = abi::StackTop(vcpu);
  task.bitmap_offset = offsetof(TaskState, bitmap);
  task.bitmap_end = 0xff;
  global_table.entries[kFirstTaskSelector / 8 + 2 * vcpu] =
      TaskDescriptor(reinterpret_cast<uint64_t>(&task));

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
