#include "mmu/notifier.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/ordering.h"
#include "mmu/sync_point.h"

namespace underfoot {

BracketToken::~BracketToken() {
  UNDERFOOT_CHECK(!open_, "a bracket was never ended", range_.begin.value, range_.end.value);
}

BracketToken::BracketToken(BracketToken&& other) noexcept
    : place_(other.place_),
      range_(other.range_),
      open_(std::exchange(other.open_, false)),
      found_(other.found_) {}

BracketToken& BracketToken::operator=(BracketToken&& other) noexcept {
  UNDERFOOT_CHECK(!open_, "an open bracket was overwritten", range_.begin.value, range_.end.value);
  place_ = other.place_;
  range_ = other.range_;
  open_ = std::exchange(other.open_, false);
  found_ = other.found_;
  return *this;
}

Notifier::Notifier(InFlightRanges& in_flight, ReaderRegistry& readers)
    : in_flight_(in_flight), readers_(readers), list_(new SubscriberList) {}

Notifier::~Notifier() {
  UNDERFOOT_CHECK(begins_.Get() == ends_.Get(), "brackets are open at the end", begins_.Get(),
                  ends_.Get());
  delete list_.Load();
}

BracketToken Notifier::Begin(Invalidation invalidation, ReaderWait wait) {
  UNDERFOOT_CHECK(!rcu::InReadSection(), "Begin inside an RCU read section",
                  invalidation.range.begin.value, 0);
  invalidation.range = RoundOutToPages(invalidation.range);
  bool held = UNDERFOOT_MUTANT("begin-walks-first") && TellSubscribers(invalidation);
  UNDERFOOT_SYNC_POINT("begin-not-in-flight");
  BracketToken token(in_flight_.Add(invalidation.range), invalidation.range);
  // After it is in the set and before the host changes: whoever counts, and then finds none in its
  // way, sees a later one by the count.
  begins_.Add();
  UNDERFOOT_SYNC_POINT("begin-in-flight");
  if (!UNDERFOOT_MUTANT("begin-walks-first")) held = TellSubscribers(invalidation);
  token.found_ = held;
  UNDERFOOT_SYNC_POINT("begin-invalidated");
  if (UNDERFOOT_MUTANT("begin-waits-for-grace-period")) rcu::Synchronize();
  if (wait == ReaderWait::kNoWait) {
    if (held) readers_.NoteUnwaited();
    return token;
  }
  // After the walk: what the walk missed was cleared by a bracket that is seen here, or that had
  // waited for its readers.
  const bool another = in_flight_.OverlapsAnother(token.place_, invalidation.range) &&
                       !UNDERFOOT_MUTANT("begin-ignores-other-brackets");
  const bool always = UNDERFOOT_MUTANT("begin-looks-at-every-reader");
  if (held || another || always || readers_.MustLook()) readers_.WaitForReaders(invalidation.range);
  return token;
}

// True when a subscriber had a translation of the range.
bool Notifier::TellSubscribers(const Invalidation& invalidation) {
  SubscriberList* list = nullptr;
  {
    rcu::ReadScope rcu;
    list = list_.LoadAfterAnnouncement();
    bool held = false;
    for (Subscriber* subscriber : list->subscribers) {
      held = subscriber->Invalidate(invalidation) || held;
    }
    if (!held) return false;
    list->pins.fetch_add(1, kAcqRel);  // inside RCU: Publish counts pins after a grace period
  }
  UNDERFOOT_SYNC_POINT("begin-pinned");
  for (Subscriber* subscriber : list->subscribers) subscriber->AfterInvalidate();
  Unpin(*list);
  return true;
}

void Notifier::Unpin(SubscriberList& list) {
  // The list lives until this scope ends: the last to unpin still has to wake whoever waits.
  rcu::ReadScope rcu;
  // Pairs with: Notifier::Publish's wait. Without it: the subscriber is gone while its last walk
  // runs.
  if (list.pins.fetch_sub(1, kAcqRel) == 1) list.pins.notify_all();
}

void Notifier::End(BracketToken& token) {
  if (!token.open_ && !UNDERFOOT_MUTANT("stray-end-counts")) {
    stray_ends_.Add();
    return;
  }
  token.open_ = false;
  ends_.Add();
  in_flight_.Remove(token.place_);
  rcu::ReadScope rcu;
  for (Subscriber* subscriber : list_.Load()->subscribers) subscriber->OnEnd(token.range_);
}

bool Notifier::TestClearYoung(HvaRange range, bool clear) {
  bool young = false;
  rcu::ReadScope rcu;
  for (Subscriber* subscriber : list_.Load()->subscribers) {
    if (young && UNDERFOOT_MUTANT("young-short-circuit")) break;
    young = subscriber->TestClearYoung(range, clear) || young;
  }
  return young;
}

void Notifier::Register(Subscriber& subscriber) {
  absl::MutexLock lock(&publish_mutex_);
  std::vector<Subscriber*> next = list_.Load()->subscribers;
  next.push_back(&subscriber);
  Publish(std::move(next));
}

void Notifier::Unregister(Subscriber& subscriber) {
  absl::MutexLock lock(&publish_mutex_);
  std::vector<Subscriber*> next = list_.Load()->subscribers;
  const auto removed = std::erase(next, &subscriber);
  UNDERFOOT_CHECK(removed == 1, "an unknown subscriber was unregistered", removed, 0);
  Publish(std::move(next));
}

void Notifier::Publish(std::vector<Subscriber*> subscribers) {
  auto next = std::make_unique<SubscriberList>();
  next->subscribers = std::move(subscribers);
  SubscriberList* old = list_.Publish(next.release());
  UNDERFOOT_SYNC_POINT("unregister-waits-for-walks");
  if (UNDERFOOT_MUTANT("unregister-skips-walks")) return;
  rcu::Synchronize();  // whoever found the old list has left it, or has pinned it
  for (uint32_t pins = old->pins.load(kAcquire);
       pins != 0 && !UNDERFOOT_MUTANT("unregister-skips-pins"); pins = old->pins.load(kAcquire)) {
    UNDERFOOT_SYNC_POINT("unregister-waits");
    old->pins.wait(pins, kAcquire);
  }
  rcu::DeferDelete(old);
}

NotifierStats Notifier::Stats() const {
  NotifierStats stats;
  stats.ends = ends_.Get();  // before `begins`, so that the difference is never negative
  stats.begins = begins_.Get();
  stats.in_flight = stats.begins - stats.ends;
  stats.sequence = stats.ends;
  stats.stray_ends = stray_ends_.Get();
  return stats;
}

}  // namespace underfoot
