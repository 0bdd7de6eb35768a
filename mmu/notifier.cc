#include "mmu/notifier.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "mmu/base/sync_point.h"

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

Notifier::Notifier(InFlightRanges& in_flight, ReaderRegistry& readers,
                   DirectRequests& direct_requests)
    : in_flight_(in_flight),
      readers_(readers),
      direct_requests_(direct_requests),
      list_(new SubscriberList) {}

Notifier::~Notifier() {
  UNDERFOOT_CHECK(begins_.Get() == ends_.Get(), "brackets are open at the end", begins_.Get(),
                  ends_.Get());
  delete list_.Load();
}

BracketToken Notifier::Begin(Invalidation invalidation, ReaderWait wait) {
  UNDERFOOT_CHECK(!rcu::InReadSection(), "Begin inside an RCU read section",
                  invalidation.range.begin.value, 0);
  invalidation.range = RoundOutToPages(invalidation.range);
  UNDERFOOT_SYNC_POINT("begin-not-in-flight");
  BracketToken token(in_flight_.Add(invalidation.range), invalidation.range);
  // The count goes up after the range is in the set and before the host changes. Code that reads
  // the count and then finds no bracket in flight sees by the count that a later one has begun.
  begins_.Add();
  UNDERFOOT_SYNC_POINT("begin-in-flight");
  // Marks, and never waits: a system call may sleep for ever.
  direct_requests_.MarkOverlapping(invalidation.range);
  const bool held = NotifySubscribers(invalidation);
  token.found_ = held;
  UNDERFOOT_SYNC_POINT("begin-invalidated");
  if (wait == ReaderWait::kNoWait) {
    if (held) readers_.NoteUnwaited();
    return token;
  }
  // After the walk: a translation that the walk did not find was removed by a bracket that is seen
  // here, or by one that has waited for the readers.
  const bool another = in_flight_.OverlapsAnother(token.place_, invalidation.range);
  if (held || another || readers_.MustLook()) readers_.WaitForReaders(invalidation.range);
  return token;
}

// Returns whether a subscriber had a translation of the range.
bool Notifier::NotifySubscribers(const Invalidation& invalidation) {
  SubscriberList* list = nullptr;
  {
    rcu::ReadScope rcu;
    list = list_.LoadAfterAnnouncement();
    bool held = false;
    for (Subscriber* subscriber : list->subscribers) {
      held = subscriber->Invalidate(invalidation) || held;
    }
    if (!held) return false;
    list->pins.fetch_add(1, kAcqRel);  // inside RCU: PublishLocked reads it after a grace period
  }
  UNDERFOOT_SYNC_POINT("begin-pinned");
  for (Subscriber* subscriber : list->subscribers) subscriber->AfterInvalidate(invalidation);
  Unpin(*list);
  return true;
}

void Notifier::Unpin(SubscriberList& list) {
  // The list lives until this scope ends: the last thread to unpin it still has to wake the waiter.
  rcu::ReadScope rcu;
  // Pairs with: the wait in Notifier::PublishLocked. Without it: the subscriber is destroyed while
  // its last walk runs.
  if (list.pins.fetch_sub(1, kAcqRel) == 1) list.pins.notify_all();
}

void Notifier::End(BracketToken& token) {
  if (!token.open_) {
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
  range = RoundOutToPages(range);
  bool young = false;
  rcu::ReadScope rcu;
  for (Subscriber* subscriber : list_.Load()->subscribers) {
    young = subscriber->TestClearYoung(range, clear) || young;
  }
  return young;
}

void Notifier::Register(Subscriber& subscriber) {
  absl::MutexLock lock(&publish_mutex_);
  const std::vector<Subscriber*>& before = list_.Load()->subscribers;
  auto next = std::make_unique<SubscriberList>();
  next->subscribers = before;
  next->subscribers.push_back(&subscriber);
  auto spare = std::make_unique<SubscriberList>();
  spare_.reserve(spare_.size() + 1);
  spare_.push_back(std::move(spare));
  try {
    for (const auto& list : spare_) list->subscribers.reserve(next->subscribers.size());
  } catch (...) {
    spare_.pop_back();
    throw;
  }
  PublishLocked(std::move(next));
}

void Notifier::Unregister(Subscriber& subscriber) {
  absl::MutexLock lock(&publish_mutex_);
  const std::vector<Subscriber*>& before = list_.Load()->subscribers;
  const auto registered = std::count(before.begin(), before.end(), &subscriber);
  UNDERFOOT_CHECK(registered == 1, "an unknown subscriber was unregistered", registered, 0);
  std::unique_ptr<SubscriberList> next = std::move(spare_.back());
  spare_.pop_back();
  std::remove_copy(before.begin(), before.end(), std::back_inserter(next->subscribers),
                   &subscriber);
  PublishLocked(std::move(next));
}

void Notifier::PublishLocked(std::unique_ptr<SubscriberList> next) {
  SubscriberList* old = list_.Publish(next.release());
  UNDERFOOT_SYNC_POINT("unregister-waits-for-walks");
  rcu::Synchronize();  // each thread that found the old list has left it or has pinned it
  for (uint32_t pins = old->pins.load(kAcquire); pins != 0; pins = old->pins.load(kAcquire)) {
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
  stats.stray_ends = stray_ends_.Get();
  return stats;
}

}  // namespace underfoot
