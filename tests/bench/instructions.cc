// underfoot_instructions OPERATION: does one operation kOperations times inside of Measured(), for
// instructions.py, which counts the instructions of that function under callgrind.

#include <cstdint>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/check.h"
#include "mmu/stage2/stage2.h"
#include "mmu/translate.h"
#include "tests/bench/many_caches.h"
#include "tests/bench/polled_block.h"
#include "tests/bench/resident_vm.h"
#include "tests/bench/shared_table.h"
#include "tests/bench/stopwatch.h"

namespace underfoot::bench {
namespace {

// instructions.py divides by it.
constexpr uint64_t kOperations = 1024;
constexpr uint64_t kCaches = 256;

using Loop = std::function<void()>;

template <class Body>
Loop Repeat(Body body) {
  return [body = std::move(body)] {
    for (uint64_t i = 0; i < kOperations; ++i) body(i);
  };
}

// The first loop is not counted: it takes the reader's bias, and makes the tables.
Loop Check() {
  const auto caches = std::make_shared<ManyCaches>(kCaches);
  return [caches] { caches->ReadFirst(kOperations); };
}

Loop Translate() {
  struct World {
    ResidentVm vm{16};
    Reader reader{vm.mmu().readers()};
  };
  const auto world = std::make_shared<World>();
  static_cast<void>(world->vm.mmu().faults().FaultIn(world->reader, Gfn{5}, Access::kRead));
  return Repeat([world](uint64_t) {
    const TranslatedPage page =
        world->vm.mmu().Translate(world->reader, GpaOf(Gfn{5}), Access::kRead);
    UNDERFOOT_CHECK(static_cast<bool>(page), "a page was not translated", 5, 0);
  });
}

Loop BeginOfNothing() {
  const auto caches = std::make_shared<ManyCaches>(kCaches);
  return Repeat([caches](uint64_t) { caches->Invalidate(caches->Between()); });
}

struct Tables {
  Stage2 stage2;
  SharedTable table{1, stage2};
};

Loop MapAndUnmap() {
  const auto tables = std::make_shared<Tables>();
  tables->table.Map(Gfn{600}, {1}, Access::kWrite);
  return Repeat([tables](uint64_t) {
    tables->table.Map(Gfn{601}, {1}, Access::kWrite);
    tables->table.Unmap({Gfn{601}, Gfn{602}});
  });
}

// Each page once, so that nothing is unmapped in between.
Loop Map() {
  const auto tables = std::make_shared<Tables>();
  const auto next = std::make_shared<uint64_t>(0);
  return Repeat(
      [tables, next](uint64_t) { tables->table.Map(Gfn{(*next)++}, {1}, Access::kWrite); });
}

Loop DeviceRequest() {
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  UNDERFOOT_CHECK(ram.ok(), "guest memory cannot be had", 0, 0);
  const auto block = std::make_shared<PolledBlock>(*std::move(ram), std::make_unique<MemoryDisk>(),
                                                   uint32_t{VIRTIO_BLK_T_IN}, kPageSize);
  return [block] {
    for (uint64_t i = 0; i < kOperations; i += kInFlight) {
      block->Offer();
      block->ServeOurs();
    }
  };
}

// The worker of the benchmark that makes the same steps and nothing else: what the protection is of it.
Loop ProtectedRequest() {
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  UNDERFOOT_CHECK(ram.ok(), "guest memory cannot be had", 0, 0);
  auto disk = std::make_unique<MemoryDisk>();
  const MemoryDisk& memory = *disk;
  const auto block = std::make_shared<PolledBlock>(*std::move(ram), std::move(disk),
                                                   uint32_t{VIRTIO_BLK_T_IN}, kPageSize);
  const auto areas = std::make_shared<PolledBlock::OurAreas>(*block);
  return [block, areas, &memory] {
    for (uint64_t i = 0; i < kOperations; i += kInFlight) {
      block->Offer();
      block->ServeProtected(*areas, memory);
    }
  };
}

const std::map<std::string, Loop (*)()> kOperationsByName = {
    {"check", Check},
    {"translate", Translate},
    {"begin_of_nothing", BeginOfNothing},
    {"map", Map},
    {"map_and_unmap", MapAndUnmap},
    {"device_request", DeviceRequest},
    {"protected_request", ProtectedRequest},
};

}  // namespace

// Of external linkage and not inlined: callgrind finds it by its name.
[[gnu::noinline]] void Measured(const Loop& loop) {
  loop();
  KeepAlive(&loop);  // no tail call
}

}  // namespace underfoot::bench

int main(int argc, char** argv) {
  using namespace underfoot::bench;
  const auto found = kOperationsByName.find(argc == 2 ? argv[1] : "");
  if (found == kOperationsByName.end()) {
    std::cerr << "Usage: underfoot_instructions OPERATION, one of:";
    for (const auto& [name, make] : kOperationsByName) std::cerr << " " << name;
    std::cerr << "\n";
    return 2;
  }
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const Loop loop = found->second();
  loop();
  Measured(loop);
  return 0;
}
