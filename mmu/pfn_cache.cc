#include "mmu/pfn_cache.h"

#include "absl/strings/str_format.h"
#include "mmu/base/check.h"
#include "mmu/base/sync_point.h"
#include "mmu/install.h"
#include "mmu/mmu.h"
#include "mmu/page_in_retries.h"

namespace underfoot {

PfnCache::PfnCache(Mmu& mmu, std::string name)
    : IndexedCache(*this), mmu_(mmu), name_(std::move(name)) {}

PfnCache::~PfnCache() {
  absl::MutexLock lock(&refresh_mutex_);
  UNDERFOOT_CHECK(!active_, "a pfn cache ended while active", bytes_, 0);
}

uint64_t PfnCache::PagesLocked() const {
  const uint64_t offset = std::visit([](auto key) { return OffsetInPage(key); }, key_);
  return (offset + bytes_ + kPageSize - 1) >> kPageShift;
}

absl::Status PfnCache::Activate(const Reader& reader, Key key, uint64_t bytes, Access access) {
  // A refresh waits for readers, and would wait for the caller's own section.
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
  const uint64_t pages = ((address & kPageMask) + bytes + kPageMask) >> kPageShift;
  if (const Hva* hva = std::get_if<Hva>(&key);
      hva != nullptr &&
      (!kUserMemory.Contains(*hva) || !kUserMemory.Contains(PageRangeOf(*hva, pages)))) {
    return absl::InvalidArgumentError(describe() + ": it must end below 2^47, as user space does");
  }
  // A change of the key hides the old translation from the scan of a Begin, so its readers leave
  // first (P4).
  state_.exchange(0, kStoreLoad);
  DrainLocked();
  key_ = key;
  bytes_ = bytes;
  access_ = access;
  gpa_keyed_.store(std::holds_alternative<Gpa>(key), kRelaxed);
  writable_.store(access == Access::kWrite, kRelaxed);
  described_address_.store(address, kRelaxed);
  described_bytes_.store(bytes, kRelaxed);
  switch (ActivateLocked(reader)) {
    case RefreshOutcome::kValid:
    case RefreshOutcome::kRemovalPending:
      return absl::OkStatus();
    case RefreshOutcome::kNoMemslot:
    case RefreshOutcome::kInactive:
      return absl::NotFoundError(describe() +
                                 ": the range lies in no single memslot that grants the access");
    case RefreshOutcome::kAgain:
      return absl::UnavailableError(describe() +
                                    ": the host's memory is being changed; try again later");
    case RefreshOutcome::kFailed:
      return absl::UnavailableError(describe() + ": the page cannot be brought in");
  }
  return absl::InternalError(describe());
}

// Leaves the cache active only if the outcome is kValid or kRemovalPending.
RefreshOutcome PfnCache::ActivateLocked(const Reader& reader) {
  const auto deactivate = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_) {
    active_ = false;
    mmu_.caches().Unlist(*this);
  };
  active_ = true;
  RefreshOutcome outcome = RefreshOutcome::kFailed;
  try {
    outcome = RefreshLocked(reader);
  } catch (...) {
    deactivate();
    throw;
  }
  if (outcome != RefreshOutcome::kValid && outcome != RefreshOutcome::kRemovalPending) deactivate();
  return outcome;
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
    mmu_.caches().ListPending(*this, target.range, key | kPending);
    announced_ = target.range;
    UNDERFOOT_SYNC_POINT("refresh-pending");
    // The cache is listed first and this check comes second (P4.2, P4.3). So either a Begin, or an
    // update of the slot, finds the cache PENDING, or this check finds the Begin's range or the
    // other slot.
    const InstallCheck check =
        CheckInstall(mmu_.memslots(), mmu_.in_flight(), target.range, target.slot);
    if (check.bracket.has_value()) mmu_.in_flight().WaitForEnd(*check.bracket);
    if (!check.clear()) continue;
    RefreshOutcome looked_up = RefreshOutcome::kFailed;
    try {
      looked_up = LookUpLocked(reader, target);
    } catch (...) {
      state_.exchange(0, kStoreLoad);
      throw;
    }
    UNDERFOOT_SYNC_POINT("refresh-looked-up");
    if (looked_up != RefreshOutcome::kValid) {
      const bool untouched = state_.exchange(0, kStoreLoad) == (key | kPending);
      // A bracket that has begun since may have moved the mapping away for a moment.
      if (looked_up == RefreshOutcome::kFailed && !untouched) continue;
      return looked_up;
    }
    uint64_t pending = key | kPending;
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
  target.slot = mmu_.memslots().Find(gfn);
  if (!target.slot.has_value() || !target.slot->gfns.Contains(GfnRange{gfn, gfn + pages}) ||
      !target.slot->Grants(access_)) {
    return RefreshOutcome::kNoMemslot;
  }
  target.range = target.slot->HvasOf({gfn, gfn + pages});
  return RefreshOutcome::kValid;
}

RefreshOutcome PfnCache::LookUpLocked(const Reader& reader, const Target& target) {
  const Hva* hva_key = std::get_if<Hva>(&key_);
  for (uint64_t i = 0; i < PagesLocked(); ++i) {
    if (hva_key != nullptr) {
      const PageInResult in = PageInLocked(target.range.begin + i * kPageSize);
      if (in.outcome == PageInOutcome::kAgain) return RefreshOutcome::kAgain;
      if (in.outcome == PageInOutcome::kRemovalPending) return RefreshOutcome::kRemovalPending;
      if (in.outcome == PageInOutcome::kFailed) return RefreshOutcome::kFailed;
      described_pfns_[i].store(in.pfn.value, kRelaxed);
      continue;
    }
    const FaultInResult fault =
        mmu_.faults().FaultIn(reader, GfnOf(std::get<Gpa>(key_)) + i, access_);
    switch (fault.outcome) {
      case FaultInOutcome::kMapped:
        described_pfns_[i].store(fault.pte.pfn().value, kRelaxed);
        break;
      case FaultInOutcome::kRemovalPending:
        return RefreshOutcome::kRemovalPending;
      case FaultInOutcome::kNoMemslot:
      case FaultInOutcome::kReadOnly:
        return RefreshOutcome::kNoMemslot;
      case FaultInOutcome::kAgain:
        return RefreshOutcome::kAgain;
      case FaultInOutcome::kFailed:
        return RefreshOutcome::kFailed;
    }
  }
  DirtyLog* log = nullptr;
  if (target.slot.has_value()) {
    log = target.slot->log;
    log_page_.store(GfnOf(std::get<Gpa>(key_)) - target.slot->gfns.begin, kRelaxed);
  }
  log_pages_.store(PagesLocked(), kRelaxed);
  log_.store(log, kRelease);
  const uint64_t offset = std::visit([](auto key) { return OffsetInPage(key); }, key_);
  data_.store(static_cast<std::byte*>(PointerOf(target.range.begin + offset)), kRelaxed);
  return RefreshOutcome::kValid;
}

PageInResult PfnCache::PageInLocked(Hva page) {
  PageInRetries retries(mmu_.page_in_tries());
  PageInResult in = mmu_.page_source().PageIn(page, access_, nullptr);
  while (in.outcome == PageInOutcome::kAgain && retries.Pause()) {
    in = mmu_.page_source().PageIn(page, access_, nullptr);
  }
  return in;
}

void PfnCache::DrainLocked() {
  if (!announced_.empty()) mmu_.readers().WaitForReaders(announced_);
}

void PfnCache::Deactivate() {
  absl::MutexLock lock(&refresh_mutex_);
  if (!active_) return;
  active_ = false;
  state_.exchange(0, kStoreLoad);
  // The readers leave before the cache is unlisted. Otherwise a Begin that no longer finds the
  // cache would miss them.
  DrainLocked();
  UNDERFOOT_SYNC_POINT("deactivate-drained");
  mmu_.caches().Unlist(*this);
  announced_ = {};
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
