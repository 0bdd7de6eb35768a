#include "tests/bench/hooked_memory.h"

#include <sys/mman.h>

#include <utility>

#include "mmu/base/check.h"
#include "tests/bench/cpus.h"
#include "vmm/base/backing.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::bench {

absl::StatusOr<std::unique_ptr<HookedMemory>> HookedMemory::Create(uint64_t pages,
                                                                   const UffdOptions& options,
                                                                   unsigned handlers) {
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open(options);
  if (!uffd.ok()) return std::move(uffd).status();
  absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
  if (!pagemap.ok()) return std::move(pagemap).status();
  std::unique_ptr<HookedMemory> self(
      new HookedMemory(pages, *std::move(uffd), *std::move(pagemap), handlers));
  absl::Status created = self->mmu_.CreateMemslot(
      {.id = 0, .gfns = {{0}, {pages}}, .hva = self->memory_.range().begin});
  if (!created.ok()) return created;
  return self;
}

absl::StatusOr<std::unique_ptr<HookedMemory>> HookedMemory::Unregistered(uint64_t pages) {
  return Create(pages);
}

absl::StatusOr<std::unique_ptr<HookedMemory>> HookedMemory::Registered(uint64_t pages,
                                                                       int monitor_cpu,
                                                                       const UffdOptions& options) {
  absl::StatusOr<std::unique_ptr<HookedMemory>> self = Create(pages, options);
  if (!self.ok()) return self;
  if (absl::Status registered = (*self)->Register(); !registered.ok()) return registered;
  const Pinned pinned(monitor_cpu);  // the monitor's thread takes it over
  if (absl::Status started = (*self)->monitor_.Start(); !started.ok()) return started;
  return self;
}

absl::StatusOr<std::unique_ptr<HookedMemory>> HookedMemory::WithLocalHandlers(uint64_t pages) {
  const Pinned anywhere(AllowedCpus());  // the monitor shares out the CPUs that its maker may use
  absl::StatusOr<std::unique_ptr<HookedMemory>> self =
      Create(pages, {}, FaultHandlersForThisHost());
  if (!self.ok()) return self;
  if (absl::Status registered = (*self)->Register(); !registered.ok()) return registered;
  if (absl::Status started = (*self)->monitor_.Start(); !started.ok()) return started;
  return self;
}

absl::Status HookedMemory::Register() {
  absl::Status registered = uffd_.Register(memory_.range(), Backing::kAnon);
  if (!registered.ok()) return registered;
  return hooks_.Attach(memory_.range(), Backing::kAnon);
}

HookedMemory::HookedMemory(uint64_t pages, Userfaultfd uffd, Pagemap pagemap, unsigned handlers)
    : memory_(pages),
      uffd_(std::move(uffd)),
      pagemap_(std::move(pagemap)),
      source_(uffd_, pagemap_, settling_, Backing::kAnon),
      mmu_(source_),
      hooks_(mmu_.notifier(), uffd_, expected_, &events_),
      monitor_(mmu_, uffd_, pagemap_, source_, expected_, settling_, {.sink = &events_},
               {.handlers = handlers}),
      reader_(mmu_.readers()) {}

HookedMemory::~HookedMemory() { monitor_.Stop(); }

void HookedMemory::FaultIn(uint64_t first, uint64_t count) {
  for (uint64_t page = first; page < first + count; ++page) {
    const FaultInResult result = mmu_.faults().FaultIn(reader_, {page}, Access::kWrite);
    UNDERFOOT_CHECK(result.outcome == FaultInOutcome::kMapped, "a benchmark's page did not come in",
                    page, result.outcome);
  }
}

void HookedMemory::Discard(uint64_t first, uint64_t count) {
  const absl::Status discarded = hooked::Madvise(memory_.Pages(first, count), MADV_DONTNEED);
  UNDERFOOT_CHECK(discarded.ok(), "a hooked discard failed", first, discarded.raw_code());
}

void HookedMemory::DiscardCheaply(uint64_t first, uint64_t count) {
  const absl::Status discarded = hooks_.Discard(memory_.Pages(first, count)).status();
  UNDERFOOT_CHECK(discarded.ok(), "a hooked discard failed", first, discarded.raw_code());
}

void HookedMemory::DiscardInBracket(uint64_t first, uint64_t count) {
  const HvaRange range = memory_.Pages(first, count);
  const InvalidationScope bracket(mmu_.notifier(), {range, InvalidationKind::kUnmap});
  bench::Discard(range);
}

}  // namespace underfoot::bench
