// Memslot updates, and the end of a run, while a vCPU of a real guest waits for a page that its page
// source never brings in. The guest writes to its pages one after the other. The source, which the
// fault handler's thread calls, answers for one of them only at the end of the turn.
//
// The floor is the same with a source that answers. KVM's own update is the comparator: KVM holds its
// read section across the fault of a vCPU, so its update waits for the page source. It is given up
// after kPatience. With the vCPU outside of the guest, where our machine takes it before a change of
// KVM's memslots, KVM's update ends. The end of a run takes vCPUs out in the same way.

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/gate.h"
#include "tests/bench/pace.h"
#include "tests/bench/touching_guest.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/kvm/vcpu_thread.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kRamBytes = uint64_t{64} << 20;
constexpr uint64_t kPages = 64;
constexpr uint64_t kHungPage = 5;
constexpr uint64_t kUpdates = 100;  // in a turn
constexpr uint64_t kUpdatesPerSecond = 500;
constexpr std::chrono::milliseconds kPatience{100};

enum class Source : uint8_t { kAnswers, kHangs };

// The guest's device does nothing: a write to it says that all pages were written once more.
class GoOn final : public ExitHandler {
 public:
  ExitOutcome OnPortIo(unsigned, const PortIo&) override { return ExitOutcome::kFail; }
  absl::Status OnMmio(unsigned, Gpa, std::span<std::byte>, bool) override {
    touched_all_.Open();
    return absl::OkStatus();
  }
  ExitOutcome OnHalt(unsigned) override { return ExitOutcome::kFail; }
  MemoryFaultOutcome OnMemoryFault(unsigned, const MemoryFault&) override {
    return MemoryFaultOutcome::kFail;
  }
  void OnFatal(unsigned, const absl::Status&) override {}

  const Gate& touched_all() const { return touched_all_; }

 private:
  Gate touched_all_;
};

// RAM with its fault handler, and a guest that runs in it.
class HungGuest {
 public:
  // Returns when the guest runs in pages that are present, or waits for the page that hangs.
  static absl::StatusOr<std::unique_ptr<HungGuest>> Start(Source source) {
    std::unique_ptr<HungGuest> self(new HungGuest());
    HungGuest* const me = self.get();
    absl::StatusOr<std::unique_ptr<CoherentRam>> ram =
        CoherentRam::Create({.bytes = kRamBytes, .touch_sink = [me, source](Hva page) {
                               if (source == Source::kHangs && page == me->PageAt(kHungPage)) {
                                 me->asked_.Open();
                                 me->answer_.Await();
                               }
                             }});
    if (!ram.ok()) return std::move(ram).status();
    self->ram_ = *std::move(ram);
    const Gfn first = GfnOf(self->ram_->memory().slots()[2].gpa);
    absl::Status done = self->ram_->mmu().CreateMemslot(
        {.id = 0, .gfns = {first, first + kPages}, .hva = self->PageAt(0)});
    if (!done.ok()) return done;
    if (done = self->ram_->Start(); !done.ok()) return done;
    absl::StatusOr<std::unique_ptr<TouchingGuest>> guest =
        TouchingGuest::Create(PageRangeOf(self->PageAt(0), kPages), {.keep_times = false});
    if (!guest.ok()) return std::move(guest).status();
    self->guest_ = *std::move(guest);
    self->vcpu_.emplace(self->guest_->TakeVcpu(), self->exits_);
    if (done = self->vcpu_->Start(); !done.ok()) return done;
    (source == Source::kHangs ? self->asked_ : self->exits_.touched_all()).Await();
    return self;
  }
  ~HungGuest() {
    answer_.Open();
    vcpu_.reset();
    guest_.reset();  // its VM maps the memory
  }
  HungGuest(const HungGuest&) = delete;
  HungGuest& operator=(const HungGuest&) = delete;

  void Answer() { answer_.Open(); }
  VcpuThread& vcpu() { return *vcpu_; }

  void Update() {
    const MemslotConfig second{
        .id = 1, .gfns = {{uint64_t{1} << 20}, {(uint64_t{1} << 20) + kPages}}, .hva = PageAt(0)};
    Check(ram_->mmu().CreateMemslot(second));
    Check(ram_->mmu().DeleteMemslot(second.id));
  }
  void UpdateKvm() {
    Check(guest_->vm().SetMemslot({.id = 7,
                                   .gpa = {uint64_t{1} << 32},
                                   .bytes = spare_.range().size(),
                                   .hva = spare_.range().begin}));
    Check(guest_->vm().DeleteMemslot(7));
  }

 private:
  HungGuest() = default;
  Hva PageAt(uint64_t page) const { return ram_->memory().slots()[2].hva + page * kPageSize; }
  static void Check(const absl::Status& status) {
    UNDERFOOT_CHECK(status.ok(), "a benchmark's memslot was refused", status.raw_code(), 0);
  }

  Gate asked_;
  Gate answer_;
  GoOn exits_;
  AnonymousMemory spare_{kPages};
  std::unique_ptr<CoherentRam> ram_;
  std::unique_ptr<TouchingGuest> guest_;
  std::optional<VcpuThread> vcpu_;
};

std::unique_ptr<HungGuest> StartAgain(Source source) {
  absl::StatusOr<std::unique_ptr<HungGuest>> started = HungGuest::Start(source);
  UNDERFOOT_CHECK(started.ok(), "a benchmark's guest did not start again",
                  started.status().raw_code(), 0);
  return *std::move(started);
}

template <class Update>
Variant Updates(const Bench& bench, std::string name, Source source, const Update& update) {
  return {.name = std::move(name),
          .run =
              [source, update, n = bench.Operations(kUpdates)](Turn& turn) {
                const std::unique_ptr<HungGuest> guest = StartAgain(source);
                Pace pace(kUpdatesPerSecond);
                for (uint64_t i = 0; i < n; ++i) {
                  pace.AwaitNext();
                  turn.Time(1, [&] { update(*guest); });
                }
              },
          .goal = {}};
}

// One update. It ends, at the latest, when the page source answers after all.
Variant KvmsInTheFault() {
  return {.name = absl::StrCat("KVM's own, the vCPU's page-in hangs: given up after ",
                               kPatience.count(), " ms"),
          .run =
              [](Turn& turn) {
                const std::unique_ptr<HungGuest> guest = StartAgain(Source::kHangs);
                turn.Time(1, [&] {
                  const std::future<void> updated =
                      std::async(std::launch::async, [&] { guest->UpdateKvm(); });
                  static_cast<void>(updated.wait_for(kPatience));
                  guest->Answer();
                });
              },
          .goal = {}};
}

void CompareUpdates(Bench& bench) {
  const auto ours = [](HungGuest& guest) { guest.Update(); };
  const auto kvms = [](HungGuest& guest) { guest.UpdateKvm(); };
  const auto outside = [](HungGuest& guest) {
    guest.vcpu().Pause();
    guest.UpdateKvm();
    guest.vcpu().Resume();
  };
  bench.Compare(
      {.name = "memslot.update_beside_hung_guest",
       .what = "a slot is created and deleted while a guest runs, or waits for a page source that "
               "does not answer",
       .variants = {Updates(bench, "ours, every page-in answers", Source::kAnswers, ours),
                    Updates(bench, "ours, the vCPU's page-in hangs", Source::kHangs, ours),
                    Updates(bench, "KVM's own, every page-in answers", Source::kAnswers, kvms),
                    Updates(bench, "KVM's own with the vCPU taken out, its page-in hangs",
                            Source::kHangs, outside),
                    KvmsInTheFault()},
       .rounds = 6});
}

Variant End(std::string name, Source source) {
  return {.name = std::move(name),
          .run =
              [source](Turn& turn) {
                const std::unique_ptr<HungGuest> guest = StartAgain(source);
                turn.Time(1, [&] {
                  guest->vcpu().Stop();
                  static_cast<void>(guest->vcpu().Join());
                });
              },
          // What docs promise of the first INT: a run ends in about a second.
          .goal = source == Source::kHangs
                      ? std::optional(Goal{.of = Goal::Of::kP99Ns, .at_most = 1e9})
                      : std::nullopt};
}

}  // namespace

void BenchHungGuest(Bench& bench) {
  constexpr char kUpdate[] = "memslot.update_beside_hung_guest";
  constexpr char kEnd[] = "memslot.end_beside_hung_guest";
  if (!bench.Wants(kUpdate) && !bench.Wants(kEnd)) return;
  if (const absl::Status works = HungGuest::Start(Source::kAnswers).status(); !works.ok()) {
    return bench.Skip(kUpdate, std::string(works.message()));
  }
  if (bench.Wants(kUpdate)) CompareUpdates(bench);
  bench.Compare({.name = kEnd,
                 .what = "from the request to end until no vCPU is in the guest any more",
                 .variants = {End("every page-in answers", Source::kAnswers),
                              End("the vCPU's page-in hangs", Source::kHangs)},
                 .rounds = 20});
}

}  // namespace underfoot::bench
