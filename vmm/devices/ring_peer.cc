#include "vmm/devices/ring_peer.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/ordering.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/thread_priority.h"

namespace underfoot {
namespace {

// Long read sections would delay invalidations, so a visit processes only a part of a ring.
constexpr uint64_t kRecordsPerVisit = 16;
// The guest cannot wake the peer. While the rings stand still, the pause before each look doubles.
constexpr absl::Duration kFirstPeerPause = absl::Microseconds(50);
constexpr absl::Duration kLongestPeerPause = absl::Milliseconds(1);

// The guest reads and writes the words of this page at the same time.
uint64_t Load(uint64_t& word) { return std::atomic_ref(word).load(kAcquire); }
void Publish(uint64_t& word, uint64_t value) { std::atomic_ref(word).store(value, kRelease); }

}  // namespace

RingPeer::RingPeer(Mmu& mmu, Gpa shared_page, uint64_t seed)
    : mmu_(mmu), shared_page_(shared_page), seed_(seed), cache_(mmu, "shared-ring") {}

RingPeer::~RingPeer() { Stop(); }

absl::Status RingPeer::Start() {
  Reader reader(mmu_.readers());
  if (absl::Status active =
          cache_.Activate(reader, shared_page_, sizeof(abi::SharedPage), Access::kWrite);
      !active.ok()) {
    return active;
  }
  absl::Status started = StartThread(thread_, "the ring peer", [this] { Main(); });
  if (!started.ok()) cache_.Deactivate();
  return started;
}

void RingPeer::Stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, kRelease);
  thread_.join();
  cache_.Deactivate();
}

void RingPeer::Main() {
  NameThisThread("ring-peer");
  Reader reader(mmu_.readers());
  absl::Duration pause = kFirstPeerPause;
  while (!stop_.load(kAcquire)) {
    switch (Visit(reader)) {
      case Progress::kSome:
        pause = kFirstPeerPause;
        break;
      case Progress::kNone:
        absl::SleepFor(pause);
        pause = std::min(2 * pause, kLongestPeerPause);
        break;
      case Progress::kNever:
        mismatches_.Add();
        return;
    }
  }
}

RingPeer::Progress RingPeer::Visit(Reader& reader) {
  if (const CacheSection section = cache_.Check(reader)) {
    const bool some = Serve(*reinterpret_cast<abi::SharedPage*>(section.data()));
    if (some) section.MarkDirty();
    return some ? Progress::kSome : Progress::kNone;
  }
  switch (cache_.Refresh(reader)) {
    case RefreshOutcome::kValid:
      return Progress::kSome;
    case RefreshOutcome::kNoMemslot:  // the slot is deleted for a moment
    case RefreshOutcome::kRemovalPending:
    case RefreshOutcome::kAgain:
      return Progress::kNone;
    case RefreshOutcome::kInactive:
    case RefreshOutcome::kFailed:
      return Progress::kNever;
  }
  return Progress::kNever;
}

bool RingPeer::Serve(abi::SharedPage& page) {
  const bool produced = Produce(page.to_guest);
  const bool consumed = Consume(page.to_vmm);
  return produced || consumed;
}

bool RingPeer::Produce(abi::Ring& ring) {
  const uint64_t head = produced_.Get();
  const uint64_t tail = Load(ring.tail);
  if (tail > head) {
    mismatches_.Add();
    return false;
  }
  const uint64_t room = abi::kRingRecords - std::min(head - tail, abi::kRingRecords);
  const uint64_t end = head + std::min(room, kRecordsPerVisit);
  for (uint64_t n = head; n < end; ++n) {
    abi::RingRecord& record = ring.records[n % abi::kRingRecords];
    Publish(record.payload, abi::RequestPayload(seed_, n + 1));
    Publish(record.sequence, n + 1);
    Publish(ring.head, n + 1);
  }
  produced_.Add(end - head);
  return end != head;
}

bool RingPeer::Consume(abi::Ring& ring) {
  const uint64_t tail = answered_.Get();
  const uint64_t head = Load(ring.head);
  if (head < tail || head > produced_.Get()) {
    mismatches_.Add();
    return false;
  }
  const uint64_t end = tail + std::min(head - tail, kRecordsPerVisit);
  for (uint64_t n = tail; n < end; ++n) {
    abi::RingRecord& record = ring.records[n % abi::kRingRecords];
    const uint64_t expected = abi::AnswerPayload(abi::RequestPayload(seed_, n + 1));
    if (Load(record.sequence) != n + 1 || Load(record.payload) != expected) mismatches_.Add();
    Publish(ring.tail, n + 1);
  }
  answered_.Add(end - tail);
  return end != tail;
}

}  // namespace underfoot
