// Giving a page back to the host: the bare madvise against the hooked one, and the added cost of
// EVENT_REMOVE, which wakes the thread that reads it before the call may continue.
//
// The floor is the system call with its zap and TLB flush. The bracket around it is a few locked
// instructions; the event is a hand-over to another thread.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/raw_uffd.h"
#include "tests/bench/cpus.h"
#include "tests/bench/hooked_memory.h"
#include "vmm/sources/hooks/discard_bin.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 512;
constexpr uint64_t kPagesOfATurn = 64;

// `prepare` makes the pages of a turn present, `discard` is what is timed.
Variant Discarding(std::string name, uint64_t pages_a_call, std::function<void(uint64_t)> prepare,
                   std::function<void(uint64_t first, uint64_t count)> discard) {
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                const uint64_t pages = std::max(kPagesOfATurn, pages_a_call);
                prepare(pages);
                for (uint64_t page = 0; page < pages; page += pages_a_call) {
                  turn.Time(pages_a_call, [&] { discard(page, pages_a_call); });
                }
              },
          .goal = {}};
}

using Events = RawUffdMemory::Events;

Variant Bare(uint64_t pages_a_call) {
  auto memory = std::make_shared<AnonymousMemory>(kPages);
  return Discarding(
      "bare, not registered", pages_a_call,
      [memory](uint64_t pages) {
        for (uint64_t page = 0; page < pages; ++page) memory->Touch(page);
      },
      [memory](uint64_t first, uint64_t count) { Discard(memory->Pages(first, count)); });
}

Variant Raw(std::string name, uint64_t pages_a_call, std::shared_ptr<RawUffdMemory> raw) {
  return Discarding(
      std::move(name), pages_a_call,
      [raw](uint64_t pages) {
        for (uint64_t page = 0; page < pages; ++page) {
          raw->CopyZeroes(page);
        }
      },
      [raw](uint64_t first, uint64_t count) { Discard(raw->memory().Pages(first, count)); });
}

Variant Hooked(std::string name, uint64_t pages_a_call, std::shared_ptr<HookedMemory> hooked) {
  return Discarding(
      std::move(name), pages_a_call, [hooked](uint64_t pages) { hooked->FaultIn(0, pages); },
      [hooked](uint64_t first, uint64_t count) { hooked->Discard(first, count); });
}

// By the way that MmHooks::Discard finds.
Variant HookedDiscard(std::string name, uint64_t pages_a_call,
                      std::shared_ptr<HookedMemory> hooked) {
  return Discarding(
      std::move(name), pages_a_call, [hooked](uint64_t pages) { hooked->FaultIn(0, pages); },
      [hooked](uint64_t first, uint64_t count) { hooked->DiscardCheaply(first, count); });
}

Variant Bracketed(uint64_t pages_a_call, std::shared_ptr<HookedMemory> bracketed) {
  return Discarding(
      "bracketed, not registered", pages_a_call,
      [bracketed](uint64_t pages) {
        for (uint64_t page = 0; page < pages; ++page) bracketed->memory().Touch(page);
        bracketed->FaultIn(0, pages);
      },
      [bracketed](uint64_t first, uint64_t count) { bracketed->DiscardInBracket(first, count); });
}

// All pages of a bin as one sample: it is emptied once in it.
Variant Row(std::string name, std::function<void(uint64_t)> prepare,
            std::function<void(uint64_t page)> discard) {
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                prepare(DiscardBin::kPages);
                turn.Time(DiscardBin::kPages, [&] {
                  for (uint64_t page = 0; page < DiscardBin::kPages; ++page) discard(page);
                });
              },
          .goal = {}};
}

Variant RawRow(std::shared_ptr<RawUffdMemory> raw) {
  return Row(
      "bare, registered, no event",
      [raw](uint64_t pages) {
        for (uint64_t page = 0; page < pages; ++page) raw->CopyZeroes(page);
      },
      [raw](uint64_t page) { Discard(raw->memory().Pages(page, 1)); });
}

Variant HookedRow(std::string name, std::shared_ptr<HookedMemory> hooked,
                  void (HookedMemory::*discard)(uint64_t first, uint64_t count)) {
  return Row(
      std::move(name), [hooked](uint64_t pages) { hooked->FaultIn(0, pages); },
      [hooked, discard](uint64_t page) { (*hooked.*discard)(page, 1); });
}

Variant WithGoal(Variant variant) {
  variant.goal = {.of = Goal::Of::kRatio, .at_most = 1.15};
  return variant;
}

struct Memories {
  std::shared_ptr<RawUffdMemory> silent;
  std::shared_ptr<RawUffdMemory> told_elsewhere;
  std::shared_ptr<RawUffdMemory> told_here;
  std::shared_ptr<HookedMemory> unregistered;
  std::shared_ptr<HookedMemory> monitored_elsewhere;
  std::shared_ptr<HookedMemory> monitored_here;
  std::shared_ptr<HookedMemory> no_event;
};

absl::StatusOr<Memories> Make(int here, int elsewhere) {
  Memories memories;
  absl::Status failed;
  const auto take = [&failed](auto& place, auto made) {
    if (made.ok()) {
      place = *std::move(made);
    } else {
      failed.Update(made.status());
    }
  };
  take(memories.silent, RawUffdMemory::Create(kPages, Events::kFaultsOnly));
  take(memories.told_elsewhere, RawUffdMemory::Create(kPages, Events::kRemovalsToo));
  take(memories.told_here, RawUffdMemory::Create(kPages, Events::kRemovalsToo));
  take(memories.unregistered, HookedMemory::Unregistered(kPages));
  take(memories.monitored_elsewhere, HookedMemory::Registered(kPages, elsewhere));
  take(memories.monitored_here, HookedMemory::Registered(kPages, here));
  take(memories.no_event,
       HookedMemory::Registered(kPages, elsewhere, {.events = UffdEvents::kNoRemovals}));
  if (!failed.ok()) return failed;
  memories.told_elsewhere->Serve(elsewhere);
  memories.told_here->Serve(here);
  return memories;
}

}  // namespace

void BenchDiscard(Bench& bench) {
  constexpr char kName[] = "discard";
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kName, "it takes two CPUs");
  const Pinned pinned(cpus[0]);
  const absl::StatusOr<Memories> memories = Make(cpus[0], cpus[1]);
  if (!memories.ok()) return bench.Skip(kName, std::string(memories.status().message()));
  for (const uint64_t pages : {uint64_t{1}, uint64_t{64}}) {
    bench.Compare(
        {.name = absl::StrCat("discard.", pages, pages == 1 ? "_page" : "_pages"),
         .what = absl::StrCat("MADV_DONTNEED of ", pages,
                              pages == 1 ? " page in a call" : " pages in a call, each"),
         .variants = {
             Raw("bare, registered, no event", pages, memories->silent), Bare(pages),
             Raw("bare, event read on the other CPU", pages, memories->told_elsewhere),
             Raw("bare, event read on this CPU", pages, memories->told_here),
             Bracketed(pages, memories->unregistered),
             Hooked("hooked, monitor on the other CPU", pages, memories->monitored_elsewhere),
             Hooked("hooked, monitor on this CPU", pages, memories->monitored_here),
             Hooked("hooked, no event", pages, memories->no_event),
             HookedDiscard("hooked, moved out, no event", pages, memories->monitored_elsewhere)}});
  }
  bench.Compare(
      {.name = "discard.1_page.in_a_row",
       .what = absl::StrCat("one page of ", DiscardBin::kPages,
                            " that go one after the other, and are given back"),
       .variants = {RawRow(memories->silent),
                    HookedRow("hooked, no event", memories->no_event, &HookedMemory::Discard),
                    WithGoal(HookedRow("hooked, moved out, no event", memories->monitored_elsewhere,
                                       &HookedMemory::DiscardCheaply))}});
}

}  // namespace underfoot::bench
