#include "vmm/churn/operations.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/check.h"
#include "vmm/churn/forking.h"
#include "vmm/churn/page_evidence.h"
#include "vmm/churn/page_merging.h"
#include "vmm/churn/whole_host.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot {
namespace {

constexpr uint64_t kMaxPages = 64;
constexpr uint64_t kMaxProtectedPages = 8;
constexpr uint64_t kForkedPages = 32;
// With transparent huge pages, one of so many ranges is a whole block.
constexpr uint64_t kBlockOfRanges = 4;
// Long enough that vCPUs fault on the protected range.
constexpr absl::Duration kProtectionLasts = absl::Microseconds(100);
constexpr absl::Duration kSlotIsAway = absl::Milliseconds(1);
constexpr absl::Duration kChildLives = absl::Milliseconds(3);

// True for EAGAIN, and for kinds that need descriptors or a process also for the lack of those: the
// host could not do the operation at this moment. Not for kinds that bring pages back, because
// these may have stopped half-way; they decline themselves what fails before that.
bool LackedAResource(ChurnKind kind, const absl::Status& status) {
  if (kind == ChurnKind::kMemslot || kind == ChurnKind::kMove || kind == ChurnKind::kRemap) {
    return false;
  }
  const bool opens = kind == ChurnKind::kAdversary || kind == ChurnKind::kCompact;
  return absl::IsUnavailable(status) || (opens && absl::IsResourceExhausted(status));
}

}  // namespace

std::vector<const RamSlot*> ChurnOperations::SlotsWith(Content content) const {
  std::vector<const RamSlot*> slots;
  for (const RamSlot& slot : memory_.slots()) {
    if (slot.kind.has_value() && (content == Content::kKept || slot.discardable())) {
      slots.push_back(&slot);
    }
  }
  UNDERFOOT_CHECK(!slots.empty(), "no slot to churn", memory_.bytes(), 0);
  return slots;
}

// The host takes and protects hugetlb pages only as a whole.
ChurnOperations::Target ChurnOperations::Pick(Content content, uint64_t max_pages,
                                              uint64_t random) const {
  if (const HugePages huge = memory_.huge_pages(); IsHugetlb(huge)) {
    return PickBlock(content, HostPageBytes(huge), random);
  }
  const std::vector<const RamSlot*> slots = SlotsWith(content);
  std::mt19937_64 draw(random);
  const RamSlot& slot = *slots[draw() % slots.size()];
  const uint64_t slot_pages = slot.bytes >> kPageShift;
  // Mostly single pages, sometimes long runs.
  const uint64_t pages = std::min({uint64_t{1} << (draw() % 7), max_pages, slot_pages});
  const Hva first = slot.hva + (draw() % (slot_pages - pages + 1)) * kPageSize;
  return {&slot, PageRangeOf(first, pages)};
}

// A huge page that is split comes back only when its whole block has gone, or by a collapse. Without
// whole blocks a storm would soon act on small pages only.
ChurnOperations::Target ChurnOperations::PickPartOrBlock(Content content, uint64_t random) const {
  if (memory_.huge_pages() == HugePages::kThp && random % kBlockOfRanges == 0) {
    return PickBlock(content, kBlockBytes, random);
  }
  return Pick(content, kMaxPages, random);
}

// An aligned block of `bytes`. Returns an empty range if no slot holds one.
ChurnOperations::Target ChurnOperations::PickBlock(Content content, uint64_t bytes,
                                                   uint64_t random) const {
  std::mt19937_64 draw(random);
  std::vector<const RamSlot*> slots = SlotsWith(content);
  std::shuffle(slots.begin(), slots.end(), draw);
  for (const RamSlot* slot : slots) {
    if (const auto block = HugePageChurn::BlockIn(*slot, bytes, draw())) return {slot, *block};
  }
  return {slots.front(), {slots.front()->hva, slots.front()->hva}};
}

ChurnOperations::Target ChurnOperations::TargetOf(ChurnKind kind, uint64_t random) const {
  switch (kind) {
    case ChurnKind::kDiscard:
    case ChurnKind::kPunch:
    case ChurnKind::kFree:
    case ChurnKind::kForeign:
      return PickPartOrBlock(Content::kMayGo, random);
    case ChurnKind::kMerge:
      return Pick(Content::kMayGo, kMaxPages, random);
    case ChurnKind::kMove:
    case ChurnKind::kRemap:
      return Pick(Content::kKept, Relocation::kMaxPages, random);
    case ChurnKind::kZap:
    case ChurnKind::kPageout:
    case ChurnKind::kCold:
    case ChurnKind::kMigrate:
    case ChurnKind::kWp:
    case ChurnKind::kAdversary:
      return PickPartOrBlock(Content::kKept, random);
    case ChurnKind::kFork:
      return Pick(Content::kKept, kForkedPages, random);
    case ChurnKind::kProtect:
      return Pick(Content::kKept, kMaxProtectedPages, random);
    case ChurnKind::kCollapse:
    case ChurnKind::kSplit:
      return PickBlock(Content::kKept, kBlockBytes, random);
    case ChurnKind::kCompact:
      return {&memory_.slots().front(), memory_.hvas()};
    case ChurnKind::kMemslot: {
      const std::vector<const RamSlot*> slots = SlotsWith(Content::kKept);
      Target target;
      target.slot = slots[std::mt19937_64(random)() % slots.size()];
      target.range = target.slot->hvas();
      target.to_another_gpa = random % 2 != 0;
      return target;
    }
  }
  return {};
}

absl::StatusOr<ChurnResult> ChurnOperations::Run(ChurnKind kind, uint64_t random) {
  const Target target = TargetOf(kind, random);
  ChurnResult result{.gpa = target.slot->gpa + (target.range.begin - target.slot->hva),
                     .bytes = target.range.size()};
  if (target.range.empty()) {
    result.outcome = ChurnOutcome::kDeclined;
    return result;
  }
  Coverage::Operation operation(coverage_, kind, target.range);
  const PageEvidence evidence(source_.pagemap(), kind, target.range);
  absl::StatusOr<ChurnOutcome> outcome = RunOn(kind, target, operation);
  if (LackedAResource(kind, outcome.status())) outcome = ChurnOutcome::kDeclined;
  if (!outcome.ok()) {
    // What has changed, if anything, is not known. The error is reported; a source that has observed
    // nothing must not be accused.
    operation.Decline();
    return outcome.status();
  }
  switch (*outcome) {
    case ChurnOutcome::kDone:
      operation.Changed({true, true, evidence.KernelHasToReport()});
      break;
    case ChurnOutcome::kNothingThere:
      operation.Changed({});
      break;
    case ChurnOutcome::kDeclined:
      operation.Decline();
      result.outcome = ChurnOutcome::kDeclined;
      break;
  }
  return result;
}

absl::StatusOr<ChurnOutcome> ChurnOperations::RunOn(ChurnKind kind, const Target& target,
                                                    Coverage::Operation& operation) {
  if (kind == ChurnKind::kAdversary) {
    const absl::StatusOr<pid_t> adversary = StartAdversary();
    if (!adversary.ok()) return adversary.status();
    operation.ActsAs(*adversary);
  }
  if (LaneOf(kind) == ChurnLane::kSlow) return RunSlow(kind, target);
  if (kind == ChurnKind::kMove || kind == ChurnKind::kRemap) return Relocate(kind, target.range);
  if (kind == ChurnKind::kDiscard) {
    const absl::StatusOr<uint64_t> gone = hooks_.Discard(target.range);
    if (!gone.ok()) return gone.status();
    return *gone == 0 ? ChurnOutcome::kNothingThere : ChurnOutcome::kDone;
  }
  const absl::Status done = Call(kind, target);
  // Before Linux 6.3 the call works only inside one mapping, and the slow lane splits mappings for
  // a while.
  if (kind == ChurnKind::kWp && absl::IsNotFound(done)) return ChurnOutcome::kDeclined;
  if (!done.ok()) return done;
  return ChurnOutcome::kDone;
}

absl::StatusOr<ChurnOutcome> ChurnOperations::Relocate(ChurnKind kind, HvaRange range) {
  absl::StatusOr<ChurnOutcome> outcome = ChurnOutcome::kDeclined;
  const auto relocate = [&] {
    if (!mappings_stay_.TryLock()) return absl::OkStatus();
    outcome = kind == ChurnKind::kMove ? relocation_.Move(range) : relocation_.Remap(range);
    mappings_stay_.Unlock();
    return outcome.status();
  };
  const absl::Status done = kind == ChurnKind::kRemap ? WhileAway(relocate) : relocate();
  if (!done.ok()) return done;
  return outcome;
}

absl::Status ChurnOperations::WhileAway(const std::function<absl::Status()>& absence) {
  return away_ == MemoryAway::kVcpusOut ? gate_(absence) : absence();
}

absl::StatusOr<ChurnOutcome> ChurnOperations::Split(const Target& target) {
  absl::StatusOr<ChurnOutcome> outcome = ChurnOutcome::kDeclined;
  const absl::Status done = WhileAway([&] {
    absl::MutexLock lock(&mappings_stay_);
    outcome = huge_pages_.Split(*target.slot, target.range);
    return outcome.status();
  });
  if (!done.ok()) return done;
  return outcome;
}

absl::StatusOr<ChurnOutcome> ChurnOperations::RunSlow(ChurnKind kind, const Target& target) {
  if (kind == ChurnKind::kSplit) return Split(target);
  absl::MutexLock lock(&mappings_stay_);
  switch (kind) {
    case ChurnKind::kCollapse:
      return huge_pages_.Collapse(*target.slot, target.range);
    case ChurnKind::kMerge:
      return Merge(target);
    case ChurnKind::kFork:
      return ForkWith(target.range, kChildLives);
    case ChurnKind::kCompact:
      return CompactHostMemory();
    case ChurnKind::kMigrate:
      return MigrateToAnotherNode(target.range);
    case ChurnKind::kAdversary:
      if (absl::Status done = adversary_->Advise(target.range, MADV_PAGEOUT); !done.ok()) {
        return done;
      }
      return ChurnOutcome::kDone;
    default:
      return absl::InternalError(
          absl::StrFormat("churn kind %s is none of the slow ones", ChurnKindName(kind)));
  }
}

// The kinds that consist of one call, or a few, and cannot be declined.
absl::Status ChurnOperations::Call(ChurnKind kind, const Target& target) {
  switch (kind) {
    case ChurnKind::kZap:
      UNDERFOOT_CHECK(memory_.backing() == Backing::kMemfd,
                      "zap would lose the content of private memory", target.range.begin.value, 0);
      return hooked::Madvise(target.range, MADV_DONTNEED);
    case ChurnKind::kPunch:
      return Punch(target);
    case ChurnKind::kFree:
      return hooked::Madvise(target.range, MADV_FREE);
    case ChurnKind::kPageout:
      return hooked::Madvise(target.range, MADV_PAGEOUT);
    case ChurnKind::kCold:
      return hooked::Madvise(target.range, MADV_COLD);
    case ChurnKind::kWp:
      return hooked::WriteProtect(uffd_, target.range);
    case ChurnKind::kProtect:
      return Protect(target);
    case ChurnKind::kMemslot:
      return TakeSlotAway(target);
    case ChurnKind::kForeign:
      return DiscardPastTheHooks(target);
    default:
      return absl::InternalError(
          absl::StrFormat("churn kind %s has no operation", ChurnKindName(kind)));
  }
}

absl::Status ChurnOperations::Punch(const Target& target) {
  const uint64_t offset = target.slot->gpa.value + (target.range.begin - target.slot->hva);
  return hooked::PunchHole(memory_.fd(), offset, target.range.size());
}

absl::Status ChurnOperations::Protect(const Target& target) {
  return WhileAway([&] {
    hooked::Protection protection(target.range, PROT_READ);
    absl::SleepFor(kProtectionLasts);
    return protection.status();
  });
}

absl::Status ChurnOperations::TakeSlotAway(const Target& target) {
  const RamSlot& slot = *target.slot;
  // With the vCPUs outside for the whole time, no single change has to take them out.
  const KvmGate gate = away_ == MemoryAway::kVcpusOut ? GuestMemory::AtOnce : gate_;
  return WhileAway([&] {
    absl::Status away = target.to_another_gpa ? memory_.MoveSlotAway(slot, mmu_, vm_, gate)
                                              : memory_.RemoveSlot(slot, mmu_, vm_, gate);
    if (!away.ok()) return away;
    absl::SleepFor(kSlotIsAway);
    return target.to_another_gpa ? memory_.MoveSlotBack(slot, mmu_, vm_, gate)
                                 : memory_.AddSlot(slot, mmu_, vm_, gate);
  });
}

// Pages that the guest has written have different contents. Pages whose content may be lost are
// therefore made equal first.
absl::StatusOr<ChurnOutcome> ChurnOperations::Merge(const Target& target) {
  if (absl::Status gone = hooked::Madvise(target.range, MADV_DONTNEED); !gone.ok()) return gone;
  {
    Reader reader(mmu_.readers());
    const Gfn gfn = GfnOf(target.slot->gpa + (target.range.begin - target.slot->hva));
    const GfnRange gfns{gfn, gfn + (target.range.size() >> kPageShift)};
    if (mmu_.range_faults().FaultIn(reader, gfns, Access::kWrite).outcome !=
        FaultInOutcome::kMapped) {
      return ChurnOutcome::kDeclined;  // its memslot is deleted at this moment
    }
  }
  return MergePages(target.range, [this] { return hurry_.load(kRelaxed); });
}

absl::StatusOr<pid_t> ChurnOperations::StartAdversary() {
  if (!adversary_.has_value()) {
    absl::StatusOr<Adversary> adversary = Adversary::Start();
    if (!adversary.ok()) return std::move(adversary).status();
    adversary_.emplace(*std::move(adversary));
  }
  return adversary_->pid();
}

// Makes the raw system call, as a library that bypasses the hooks would.
absl::Status ChurnOperations::DiscardPastTheHooks(const Target& target) {
  if (syscall(SYS_madvise, target.range.begin.value, target.range.size(), MADV_DONTNEED) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(
      errno, absl::StrFormat("raw madvise of hva [0x%x, 0x%x)", target.range.begin.value,
                             target.range.end.value));
}

}  // namespace underfoot
