// What it costs to send an event through an event page without blocking.
//
// The floor is one atomic OR of a bit, as Xen's shared info has it, on memory that nothing keeps where
// it is. An event here is counted as well, so that a lost one is noticed: that is one more locked
// instruction. If the guest has taken the bit, turning it costs two more. The section costs what any
// section of a pfn cache costs (cache.access).

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "guest/abi.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "tests/bench/resident_vm.h"
#include "vmm/devices/event_page.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kEvents = 50'000;
constexpr unsigned kChannel = 7;
constexpr uint64_t kBit = uint64_t{1} << kChannel;

struct Scene {
  static constexpr uint64_t kOtherPage = 5;
  ResidentVm vm{16};
  Reader reader{vm.mmu().readers()};
  EventPage page{vm.mmu(), "bench", [] {}};
  abi::EventPage& words{
      *static_cast<abi::EventPage*>(PointerOf(vm.PageAt(1).begin))};  // of the page
  alignas(64) abi::EventPage bare{};                                  // that nothing protects

  Scene() {
    const absl::Status active = page.Activate(reader, Gpa{kPageSize});
    UNDERFOOT_CHECK(active.ok(), "a benchmark's page was refused", active.raw_code(), 0);
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  void Send() {
    UNDERFOOT_CHECK(page.Send(reader, kChannel) == EventPage::Delivery::kFast,
                    "a benchmark's event was handed over", page.sent(), 0);
  }
  // As the guest does it.
  static void Take(abi::EventPage& page) {
    std::atomic_ref(page.taken).store(std::atomic_ref(page.turned).load(kRelaxed), kRelaxed);
  }
};

enum class Guest { kTakesEach, kTakesNone };
// Whether invalidations have looked at the readers lately: a section costs more then.
enum class Phase { kQuiet, kInvalidations };

Variant Sends(uint64_t events, Scene& scene, Guest guest, Phase phase, std::string name) {
  return {.name = std::move(name),
          .run =
              [=, &scene](Turn& turn) {
                if (phase == Phase::kInvalidations) {
                  scene.vm.mmu().readers().WaitForReaders(scene.vm.PageAt(Scene::kOtherPage));
                } else {
                  for (uint64_t i = 0; i < 2 * ReaderBias::kWindow; ++i) scene.Send();
                }
                turn.Time(events, [&] {
                  for (uint64_t i = 0; i < events; ++i) {
                    scene.Send();
                    if (guest == Guest::kTakesEach) Scene::Take(scene.words);
                  }
                });
              },
          .goal = {}};
}

template <class Step>
Variant Bare(uint64_t events, std::string name, const Step& step) {
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                turn.Time(events, [&] {
                  for (uint64_t i = 0; i < events; ++i) step();
                });
              },
          .goal = {}};
}

}  // namespace

void BenchEventSend(Bench& bench) {
  const Pinned pinned(AllowedCpus().front());
  const auto scene = std::make_unique<Scene>();
  const uint64_t events = bench.Operations(kEvents);
  abi::EventPage& bare = scene->bare;
  bench.Compare(
      {.name = "event.send",
       .what = "an event for the guest, by a sender that must not block",
       .variants = {
           Bare(events, "OR of a bit in a bare word",
                [&] { std::atomic_ref(bare.turned).fetch_or(kBit, kStoreLoad); }),
           Bare(events, "count and OR in a bare page",
                [&] {
                  std::atomic_ref(bare.counts[kChannel]).fetch_add(1, kStoreLoad);
                  std::atomic_ref(bare.turned).fetch_or(kBit, kStoreLoad);
                }),
           Sends(events, *scene, Guest::kTakesNone, Phase::kQuiet, "event page, channel pending"),
           Sends(events, *scene, Guest::kTakesEach, Phase::kQuiet, "event page, each one taken"),
           Sends(events, *scene, Guest::kTakesEach, Phase::kInvalidations,
                 "the same, among invalidations")}});
}

}  // namespace underfoot::bench
