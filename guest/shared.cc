#include "guest/shared.h"

#include <cstddef>

namespace underfoot::guest {
namespace {

constexpr uint64_t kRequests = offsetof(abi::SharedPage, to_guest);
constexpr uint64_t kAnswers = offsetof(abi::SharedPage, to_vmm);

uint64_t HeadOf(uint64_t ring) { return ring + offsetof(abi::Ring, head); }
uint64_t TailOf(uint64_t ring) { return ring + offsetof(abi::Ring, tail); }
uint64_t SequenceOf(uint64_t ring, uint64_t n) {
  return ring + offsetof(abi::Ring, records) + n % abi::kRingRecords * sizeof(abi::RingRecord) +
         offsetof(abi::RingRecord, sequence);
}
uint64_t PayloadOf(uint64_t ring, uint64_t n) {
  return SequenceOf(ring, n) + offsetof(abi::RingRecord, payload) -
         offsetof(abi::RingRecord, sequence);
}

}  // namespace

// Reads the tail first: the head, which is read later, is never behind it. If both moved in
// between, the head may be more than a lap ahead of the tail that was read. Therefore the distance
// is checked only where this vCPU writes the tail.
SharedRings::Indices SharedRings::Look(Context& context, uint64_t ring, Indices& seen) {
  Indices now;
  now.tail = Load(TailOf(ring));
  now.head = Load(HeadOf(ring));
  if (now.tail < seen.tail) {
    MismatchAt(context, TailOf(ring), seen.tail, now.tail, abi::MismatchKind::kRingIndex);
  }
  if (now.head < seen.head || now.head < now.tail) {
    MismatchAt(context, HeadOf(ring), seen.head < now.tail ? now.tail : seen.head, now.head,
               abi::MismatchKind::kRingIndex);
  }
  seen = now;
  return now;
}

void SharedRings::Take(Context& context, uint64_t n) {
  const uint64_t requests = page_ + kRequests;
  const uint64_t answers = page_ + kAnswers;
  const uint64_t sequence = Load(SequenceOf(requests, n));
  const uint64_t payload = Load(PayloadOf(requests, n));
  const uint64_t expected = abi::RequestPayload(context.boot.seed, n + 1);
  if (sequence != n + 1) {
    MismatchAt(context, SequenceOf(requests, n), n + 1, sequence,
               sequence < n + 1 ? abi::MismatchKind::kRingStale : abi::MismatchKind::kRingLost);
  } else if (payload != expected) {
    MismatchAt(context, PayloadOf(requests, n), expected, payload, abi::MismatchKind::kRingCorrupt);
  }
  Store(TailOf(requests), n + 1);
  Store(PayloadOf(answers, n), abi::AnswerPayload(payload));
  Store(SequenceOf(answers, n), n + 1);
  Store(HeadOf(answers), n + 1);
  Add(context.report.ring_consumed, 1);
  Add(context.report.ring_answered, 1);
}

bool SharedRings::Serve(Context& context) {
  const Indices requests = Look(context, page_ + kRequests, requests_seen_);
  const Indices answers = Look(context, page_ + kAnswers, answers_seen_);
  // Only this vCPU writes these two: another value means that one of its stores was lost.
  if (requests.tail != consumed_) {
    MismatchAt(context, TailOf(page_ + kRequests), consumed_, requests.tail,
               abi::MismatchKind::kRingIndex);
    Store(TailOf(page_ + kRequests), consumed_);
  }
  if (answers.head != consumed_) {
    MismatchAt(context, HeadOf(page_ + kAnswers), consumed_, answers.head,
               abi::MismatchKind::kRingIndex);
    Store(HeadOf(page_ + kAnswers), consumed_);
  }
  uint64_t end = requests.head;
  if (end > consumed_ + abi::kRingRecords) {
    MismatchAt(context, HeadOf(page_ + kRequests), consumed_ + abi::kRingRecords, end,
               abi::MismatchKind::kRingIndex);
    end = consumed_ + abi::kRingRecords;
  }
  const uint64_t room = answers.tail + abi::kRingRecords;
  if (end > room) end = room;
  const bool any = consumed_ < end;
  for (; consumed_ < end; ++consumed_) Take(context, consumed_);
  // This vCPU's own stores do not count as progress.
  requests_seen_.tail = consumed_;
  answers_seen_.head = consumed_;
  return any;
}

void SharedRings::Watch(Context& context) {
  Look(context, page_ + kRequests, requests_seen_);
  Look(context, page_ + kAnswers, answers_seen_);
}

}  // namespace underfoot::guest
