#include "mmu/pfn_cache.h"

#include <sched.h>

#include "absl/strings/str_format.h"
#include "mmu/check.h"
#include "mmu/mmu.h"
#include "mmu/mutant.h"
#include "mmu/rcu.h"
#include "mmu/sync_point.h"

namespace underfoot {

PfnCache::PfnCache(Mmu& mmu, std::string name) : mmu_(mmu), name_(std::move(name)) {}

PfnCache::~PfnCache() {
  absl::MutexLock lock(&refresh_mutex_);
  UNDERFOOT_CHECK(!active_, "a pfn cache ended while active", bytes_, 0);
}

uint64_t PfnCache::PagesLocked() const {
  const uint64_t offset = std::visit([](auto key) { return OffsetInPage(key); }, key_);
  return (offset + bytes_ + kPageSize - 1) >> kPageShift;
}

absl::Status PfnCache::Activate(const Reader& reader, Key key, uint64_t bytes, Access access) {
  // Its own section would be waited for.
  UNDERFOOT_CHECK(!reader.InSection(), "an activation inside a read section", reader.tag(), bytes);
  absl::MutexLock lock(&refresh_mutex_);
  const uint64_t address = std::visit([](auto k) { return k.value; }, key);
  const auto describe = [&] {
    return absl::StrFormat("pfn cache %s, %d bytes at %s 0x%x", name_, bytes,
                           std::holds_alternative<Gpa>(key) ? "gpa" : "hva", address);
  };
  if (bytes == 0 || bytes > kMaxPages * kPageSize - (address & kPageMask)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: it must cover 1 to %d pages", describe(), kMaxPages));
  }
  // A change of the key hides the old translation from the scan: its readers leave first (P4: F2).
  state_.exchange(0, kStoreLoad);
  if (!UNDERFOOT_MUTANT("key-change-skips-readers")) DrainLocked();
  key_ = key;
  bytes_ = bytes;
  access_ = access;
  gpa_keyed_.store(std::holds_alternative<Gpa>(key), kRelaxed);
  writable_.store(access == Access::kWrite, kRelaxed);
  described_address_.store(address, kRelaxed);
  described_bytes_.store(bytes, kRelaxed);
  active_ = true;
  switch (RefreshLocked(reader)) {
    case RefreshOutcome::kValid:
    case RefreshOutcome::kSettling:
      return absl::OkStatus();
    case RefreshOutcome::kNoMemslot:
    case RefreshOutcome::kInactive:
      active_ = false;
      mmu_.caches().Unlist(*this);
      return absl::NotFoundError(describe() +
                                 ": the range lies in no single memslot that grants the access");
    case RefreshOutcome::kFailed:
      active_ = false;
      mmu_.caches().Unlist(*this);
      return absl::UnavailableError(describe() + ": the page cannot be brought in");
  }
  return absl::InternalError(describe());
}

RefreshOutcome PfnCache::Refresh(const Reader& reader) {
  absl::MutexLock lock(&refresh_mutex_);
  if (!active_) return RefreshOutcome::kInactive;
  return RefreshLocked(reader);
}

RefreshOutcome PfnCache::RefreshLocked(const Reader& reader) {
  UNDERFOOT_CHECK(!reader.InSection(), "a refresh inside a read section", reader.tag(), 0);
  if ((state_.load(kAcquire) & kValid) != 0) return RefreshOutcome::kValid;
  mmu_.caches().refreshes().Add();
  refreshes_.Add();
  for (;; mmu_.caches().refresh_retries().Add()) {
    state_.exchange(0, kStoreLoad);
    Target target;
    const RefreshOutcome translated = TranslateLocked(target);
    if (translated != RefreshOutcome::kValid) return translated;
    UNDERFOOT_SYNC_POINT("refresh-translated");
    if (target.range != announced_) DrainLocked();
    const uint64_t key = ReaderKey::Pack(target.range);
    const bool late = UNDERFOOT_MUTANT("refresh-lists-late");
    if (!late) mmu_.caches().ListPending(*this, target.range, key | kPending);
    announced_ = target.range;
    UNDERFOOT_SYNC_POINT("refresh-pending");
    // Listed first, this second: a Begin either finds the cache PENDING or is found here.
    if (const auto bracket = mmu_.in_flight().FindOverlap(target.range)) {
      mmu_.in_flight().WaitForEnd(*bracket);
      continue;
    }
    const RefreshOutcome looked_up = LookUpLocked(reader, target);
    if (late) mmu_.caches().ListPending(*this, target.range, key | kPending);
    UNDERFOOT_SYNC_POINT("refresh-looked-up");
    if (looked_up != RefreshOutcome::kValid) {
      const bool untouched = state_.exchange(0, kStoreLoad) == (key | kPending);
      // A mapping may be away under a bracket that has begun since.
      if (looked_up == RefreshOutcome::kFailed && !untouched &&
          !UNDERFOOT_MUTANT("refresh-fails-under-a-bracket")) {
        continue;
      }
      return looked_up;
    }
    // The generation is compared after the listing: an update that publishes later drops PENDING.
    if (!SlotIsCurrentLocked(target)) continue;
    uint64_t pending = key | kPending;
    if (UNDERFOOT_MUTANT("refresh-publishes-blindly")) {
      state_.exchange(key | kValid, kStoreLoad);
      return RefreshOutcome::kValid;
    }
    // Pairs with: PfnCache::Check. Without it: a reader uses data_ before it was written.
    if (state_.compare_exchange_strong(pending, key | kValid, kStoreLoad)) {
      return RefreshOutcome::kValid;
    }
  }
}

RefreshOutcome PfnCache::TranslateLocked(Target& target) {
  const uint64_t pages = PagesLocked();
  if (const Hva* hva = std::get_if<Hva>(&key_)) {
    target.range = PageRangeOf(*hva, pages);
    return RefreshOutcome::kValid;
  }
  const Gfn gfn = GfnOf(std::get<Gpa>(key_));
  rcu::ReadScope rcu;
  const Memslot* slot = mmu_.memslots().Current().Find(gfn);
  if (slot == nullptr || !slot->gfns.Contains(GfnRange{gfn, gfn + pages}) ||
      (slot->flags.read_only && access_ == Access::kWrite)) {
    return RefreshOutcome::kNoMemslot;
  }
  target.range = PageRangeOf(slot->HvaOf(gfn), pages);
  target.slot_uid = slot->uid;
  target.log = slot->log;
  target.log_page = gfn - slot->gfns.begin;
  return RefreshOutcome::kValid;
}

RefreshOutcome PfnCache::LookUpLocked(const Reader& reader, const Target& target) {
  const Hva* hva_key = std::get_if<Hva>(&key_);
  for (uint64_t i = 0; i < PagesLocked(); ++i) {
    if (hva_key != nullptr) {
      PageInResult in = mmu_.page_source().PageIn(target.range.begin + i * kPageSize, access_);
      while (in.outcome == PageInOutcome::kAgain) {
        sched_yield();
        in = mmu_.page_source().PageIn(target.range.begin + i * kPageSize, access_);
      }
      if (in.outcome == PageInOutcome::kSettling) return RefreshOutcome::kSettling;
      if (in.outcome == PageInOutcome::kFailed) return RefreshOutcome::kFailed;
      described_pfns_[i].store(in.pfn.value, kRelaxed);
      continue;
    }
    const FaultResult fault =
        mmu_.faults().FaultIn(reader, GfnOf(std::get<Gpa>(key_)) + i, access_);
    switch (fault.outcome) {
      case FaultOutcome::kMapped:
      case FaultOutcome::kPresent:
        described_pfns_[i].store(fault.pte.pfn().value, kRelaxed);
        break;
      case FaultOutcome::kSettling:
        return RefreshOutcome::kSettling;
      case FaultOutcome::kNoMemslot:
      case FaultOutcome::kReadOnly:
        return RefreshOutcome::kNoMemslot;
      case FaultOutcome::kFailed:
      case FaultOutcome::kBlocked:
      case FaultOutcome::kBusy:
      case FaultOutcome::kAgain:
        return RefreshOutcome::kFailed;
    }
  }
  log_page_.store(target.log_page, kRelaxed);
  log_pages_.store(PagesLocked(), kRelaxed);
  log_.store(target.log, kRelease);
  const uint64_t offset = std::visit([](auto key) { return OffsetInPage(key); }, key_);
  data_.store(static_cast<std::byte*>(PointerOf(target.range.begin + offset)), kRelaxed);
  return RefreshOutcome::kValid;
}

bool PfnCache::SlotIsCurrentLocked(const Target& target) const {
  const Gpa* gpa = std::get_if<Gpa>(&key_);
  if (gpa == nullptr || UNDERFOOT_MUTANT("refresh-ignores-generation")) return true;
  rcu::ReadScope rcu;
  const Memslot* slot = mmu_.memslots().CurrentAfterAnnouncement().Find(GfnOf(*gpa));
  return slot != nullptr && slot->uid == target.slot_uid;
}

void PfnCache::DrainLocked() {
  if (!announced_.empty()) mmu_.readers().WaitForReaders(announced_);
}

void PfnCache::Deactivate() {
  absl::MutexLock lock(&refresh_mutex_);
  if (!active_) return;
  active_ = false;
  state_.exchange(0, kStoreLoad);
  // Readers leave before the cache is unlisted: a Begin that no longer finds it must not miss them.
  if (!UNDERFOOT_MUTANT("deactivate-skips-readers")) DrainLocked();
  UNDERFOOT_SYNC_POINT("deactivate-drained");
  mmu_.caches().Unlist(*this);
  announced_ = {};
}

bool PfnCache::Drop(InvalidationKind kind) {
  const bool spared = !writable_.load(kRelaxed) || UNDERFOOT_MUTANT("protect-spares-caches");
  if (kind == InvalidationKind::kProtect && spared) return false;
  const uint64_t before = state_.load(kRelaxed);
  if ((before & kPending) != 0 && UNDERFOOT_MUTANT("begin-spares-pending")) return false;
  // Pairs with: PfnCache::Check and the refresh's compare-exchange (P4). Without it: see Section.
  const bool dropped = state_.exchange(0, kStoreLoad) != 0;
  if (dropped) invalidations_.Add();
  return dropped;
}

bool PfnCache::TestClearYoung(bool clear) {
  // Relaxed: ageing is a hint and orders nothing.
  return clear ? young_.exchange(false, kRelaxed) : young_.load(kRelaxed);
}

PfnCache::Description PfnCache::Describe() const {
  const uint64_t state = state_.load(kAcquire);
  const uint64_t address = described_address_.load(kRelaxed);
  Description description;
  description.name = name_;
  description.key = gpa_keyed() ? Key(Gpa{address}) : Key(Hva{address});
  description.bytes = described_bytes_.load(kRelaxed);
  description.writable = writable_.load(kRelaxed);
  description.pending = (state & kPending) != 0;
  description.valid = (state & kValid) != 0;
  using Packed = ReaderKey::Packed;
  const uint64_t range = state >> ReaderKey::kNonceBits;
  description.hva = {Packed::BeginPage(range) << kPageShift};
  const uint64_t pages = description.valid ? Packed::EndPage(range) - Packed::BeginPage(range) : 0;
  for (uint64_t i = 0; i < pages; ++i) {
    description.pfns.push_back({described_pfns_[i].load(kRelaxed)});
  }
  description.refreshes = refreshes_.Get();
  description.invalidations = invalidations_.Get();
  return description;
}

}  // namespace underfoot
