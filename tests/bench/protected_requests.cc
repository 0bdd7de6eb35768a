// The protections of readers on a worker of a virtio ring, and not only in a loop: what a request
// costs under each, and how long an invalidation of the payload takes beside such a worker.
//
// A worker of this benchmark makes the steps of the product's worker, for as many requests at once, in as
// many sections (PolledBlock::ServeProtected). Under the other schemes it looks up no translation and marks
// nothing dirty; under ours it does both, by pfn caches and by stage-2. The worker of the product beside
// them also checks chains, finds what to do, and counts: it shows what a whole device costs.
//
// And: a file that does not answer. Ours holds no section across the preadv, so no invalidation waits.

#include <linux/virtio_blk.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/protected_word.h"
#include "tests/bench/comparators/qsbr_word.h"
#include "tests/bench/comparators/srcu_rseq.h"
#include "tests/bench/cpus.h"
#include "tests/bench/partner.h"
#include "tests/bench/polled_block.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPasses = 8;           // over all requests, in a turn
constexpr uint64_t kInvalidations = 200;  // in a turn

constexpr char kOurs[] = "ours: pfn caches and stage-2 look-ups";

// A worker, driven by one thread, and an invalidation of its payload, by another one.
struct Worker {
  std::string name;
  std::function<void()> serve;         // all requests once
  std::function<double()> invalidate;  // its ns; nullptr: there is none
};

using Shared = std::shared_ptr<PolledBlock>;

template <class Scheme>
struct ProtectedAreas {
  struct Payload {
    void Copy(std::span<const GuestCopy> copies) { block->CopyInSection(scheme, copies); }
    Shared block;
    Scheme scheme;
  };
  explicit ProtectedAreas(const Shared& block) : payload{block, {}} {}
  Scheme available;
  Scheme descriptors;
  Scheme used;
  Payload payload;
};

template <class Scheme>
Worker Protected(std::string name, const Shared& block, const MemoryDisk& disk) {
  const auto areas = std::make_shared<ProtectedAreas<Scheme>>(block);
  Worker worker{.name = std::move(name),
                .serve =
                    [=, &disk] {
                      block->Offer();
                      block->ServeProtected(*areas, disk);
                    },
                .invalidate = nullptr};
  if constexpr (!std::is_same_v<Scheme, BareWord>) {
    worker.invalidate = [areas] {
      const Stopwatch watch;
      areas->payload.scheme.Invalidate();
      const double ns = watch.ElapsedNs();
      areas->payload.scheme.Validate();
      return ns;
    };
  }
  return worker;
}

std::vector<Worker> Workers(const Shared& block, const MemoryDisk& disk) {
  const auto areas = std::make_shared<PolledBlock::OurAreas>(*block);
  std::vector<Worker> workers = {
      Protected<BareWord>("bare pointers", block, disk),
      {.name = kOurs,
       .serve =
           [block, areas, &disk] {
             block->Offer();
             block->ServeProtected(*areas, disk);
           },
       .invalidate = [block] { return block->BeginNs(0); }},
      {.name = "the worker of the product",
       .serve =
           [block] {
             block->Offer();
             block->ServeOurs();
           },
       .invalidate = [block] { return block->BeginNs(0); }},
      Protected<SlotWord>("slot with exchange", block, disk),
      Protected<EvenOddWord>("even/odd counter", block, disk),
      Protected<AsymmetricWord>("slot, asymmetric (membarrier)", block, disk),
      Protected<RcuWord>("RCU, memb", block, disk),
      Protected<QsbrWord>("RCU, qsbr", block, disk),
      Protected<LockedWord<SpinRwLock>>("spinning rwlock", block, disk),
      Protected<LockedWord<std::shared_mutex>>("std::shared_mutex", block, disk),
      Protected<LockedWord<AbslRwLock>>("absl::Mutex", block, disk)};
  if (SrcuRseq::UnavailableReason().empty()) {
    workers.push_back(Protected<SrcuRseqWord>("SRCU-like, rseq", block, disk));
  }
  return workers;
}

void CompareSchemes(Bench& bench, const Shared& block, const MemoryDisk& disk) {
  const std::vector<Worker> workers = Workers(block, disk);
  Comparison requests{
      .name = "device.protection.request",
      .what = "a read of 4 KiB from a disk in memory, 32 in flight, polled, each access protected",
      .variants = {}};
  for (const Worker& worker : workers) {
    requests.variants.push_back(
        {.name = worker.name,
         .run =
             [block, serve = worker.serve](Turn& turn) {
               block->Restart();
               serve();  // the first activations and faults
               turn.Time(kPasses * kInFlight, [&] {
                 for (uint64_t i = 0; i < kPasses; ++i) serve();
               });
             },
         .goal = worker.name == kOurs ? std::optional(Goal{Goal::Of::kRatio, 1.1}) : std::nullopt});
  }
  bench.Compare(std::move(requests));

  constexpr char kInvalidation[] = "device.protection.invalidation";
  if (AllowedCpus().size() < 2) return bench.Skip(kInvalidation, "it takes two CPUs");
  const Pinned pinned(AllowedCpus().front());
  Partner partner(AllowedCpus().back());
  Comparison invalidations{
      .name = kInvalidation,
      .what = "take the payload of such a worker away, which is busy on the other CPU",
      .variants = {}};
  for (const Worker& worker : workers) {
    if (worker.invalidate == nullptr) continue;
    invalidations.variants.push_back(
        {.name = worker.name,
         .run =
             [block, &partner, worker, n = bench.Operations(kInvalidations)](Turn& turn) {
               block->Restart();
               const Partner::Work work(partner, worker.serve);
               for (uint64_t i = 0; i < n; ++i) {
                 work.WaitForSteps(2);
                 turn.Record(worker.invalidate());
               }
             },
         .goal = {}});
  }
  bench.Compare(std::move(invalidations));
}

// A disk whose long reads do not return, from Hang to LetGo. They hang in a system call, as that of a
// file does. (A wait of a std::atomic would not do: it may make each notify of another one a system call,
// since libstdc++ has few places for those that wait.)
class HangingDisk final : public MemoryDisk {
 public:
  HangingDisk() { UNDERFOOT_CHECK(gate_.valid(), "a benchmark has no eventfd", errno, 0); }

  ssize_t ReadOnce(uint64_t, std::span<const iovec>) override {
    if (!answers_.load(kAcquire)) {
      hanging_.store(true, kRelease);
      uint64_t opened = 0;
      const ssize_t done = read(gate_.get(), &opened, sizeof(opened));
      UNDERFOOT_CHECK(done == sizeof(opened), "a benchmark's eventfd is not read", done, errno);
    }
    return -1;  // and the request goes through a buffer
  }

  void Hang() { answers_.store(false, kRelease); }
  void AwaitHanging() const {
    while (!hanging_.load(kAcquire)) sched_yield();
  }
  void LetGo() {
    hanging_.store(false, kRelease);
    answers_.store(true, kRelease);
    const uint64_t open = 1;
    const ssize_t done = write(gate_.get(), &open, sizeof(open));
    UNDERFOOT_CHECK(done == sizeof(open), "a benchmark's eventfd is not written", done, errno);
  }

 private:
  const UniqueFd gate_{eventfd(0, EFD_CLOEXEC)};
  std::atomic<bool> hanging_{false};
  std::atomic<bool> answers_{true};
};

constexpr uint64_t kPatience = 1'000'000;

enum class File { kAnswers, kHangs };

Variant Invalidating(const Bench& bench, std::string name, const Shared& block, HangingDisk& disk,
                     File file) {
  return {.name = std::move(name),
          .run =
              [=, &disk, n = bench.Operations(kInvalidations)](Turn& turn) {
                block->Restart();
                const auto serve = [block] {
                  block->Offer();
                  block->ServeOurs();
                };
                serve();
                if (file == File::kHangs) disk.Hang();
                std::thread worker(serve);
                file == File::kHangs ? disk.AwaitHanging() : worker.join();
                for (uint64_t i = 0; i < n; ++i) {
                  block->FaultIn(0);
                  turn.Record(block->BeginNs(0));
                }
                if (file == File::kAnswers) return;
                disk.LetGo();
                worker.join();
              },
          .goal = {}};
}

// As if the reader of guest memory stayed in its section for the whole call.
Variant SectionAcrossCall(const Bench& bench, const Shared& block, HangingDisk& disk) {
  return {.name = absl::StrCat("a section held across the preadv: given up after ", kPatience,
                               " looks"),
          .run =
              [=, &disk, patience = bench.Operations(kPatience)](Turn& turn) {
                block->Restart();
                std::atomic<bool> inside{true};
                disk.Hang();
                std::thread worker([&] {
                  block->Offer();
                  block->ServeOurs();
                  inside.store(false, kRelease);
                });
                disk.AwaitHanging();
                uint64_t looks = 0;
                turn.Time(1, [&] {
                  for (; looks < patience && inside.load(kAcquire); ++looks) CpuRelax();
                });
                UNDERFOOT_CHECK(looks == patience, "the call returned before it was let go", looks,
                                patience);
                disk.LetGo();
                worker.join();
              },
          .goal = {}};
}

void CompareHungFile(Bench& bench) {
  constexpr char kName[] = "device.hung_file";
  if (!bench.Wants(kName)) return;
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  if (!ram.ok()) return bench.Skip(kName, std::string(ram.status().message()));
  auto disk = std::make_unique<HangingDisk>();
  HangingDisk& hanging = *disk;
  const auto block = std::make_shared<PolledBlock>(*std::move(ram), std::move(disk),
                                                   uint32_t{VIRTIO_BLK_T_IN}, uint64_t{64} << 10);
  bench.Compare({.name = kName,
                 .what = "Begin on a page into which a request reads 64 KiB of a file",
                 .variants = {Invalidating(bench, "ours, no request is under way", block, hanging,
                                           File::kAnswers),
                              Invalidating(bench, "ours, the file does not answer", block, hanging,
                                           File::kHangs),
                              SectionAcrossCall(bench, block, hanging)},
                 .rounds = 12});
}

}  // namespace

void BenchProtectedRequests(Bench& bench) {
  constexpr char kName[] = "device.protection.request";
  CompareHungFile(bench);
  if (!bench.Wants(kName) && !bench.Wants("device.protection.invalidation")) return;
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  if (!ram.ok()) return bench.Skip(kName, std::string(ram.status().message()));
  auto disk = std::make_unique<MemoryDisk>();
  const MemoryDisk& memory = *disk;
  const auto block = std::make_shared<PolledBlock>(*std::move(ram), std::move(disk),
                                                   uint32_t{VIRTIO_BLK_T_IN}, kPageSize);
  CompareSchemes(bench, block, memory);
}

}  // namespace underfoot::bench
