#include "vmm/devices/virtio/request_batch.h"

#include <algorithm>
#include <new>

namespace underfoot::virtio {
namespace {

// Ends a Serve of the backend before its wait: the answers before it cannot be published now. A backend
// is called again after an exception.
struct NotPublished {
  QueueOutcome outcome;
};

}  // namespace

QueueOutcome RequestBatch::Take(Reader& reader) {
  size_t taken = 0;
  const QueueOutcome popped = parts_.queue.Pop(reader, chains_, taken);
  if (popped != QueueOutcome::kDone) return popped;
  staged_.Clear();
  served_ = copied_ = published_ = 0;
  count_ = taken;
  may_serve_again_ = parts_.backend.may_serve_again();
  Fetch(reader);
  return popped;
}

// A part that has no translation now, or no room here, is read when the backend needs it.
void RequestBatch::Fetch(Reader& reader) {
  fetched_.Clear();
  for (Job& job : std::span(jobs_).first(count_)) job.fetched = {};
  // Not initialized: a batch may be short.
  struct Room {
    std::byte* at;
    size_t bytes;
    size_t end;  // in fetched_.copies()
  };
  std::array<Room, Virtqueue::kMaxBatch> rooms;
  for (size_t i = 0; i < count_; ++i) {
    const Chain& chain = chains_[i];
    const size_t wanted =
        chain.readable_bytes <= kMostFetched ? chain.readable_bytes : kLeastFetched;
    const std::span<std::byte> room = fetched_.Allocate(wanted);
    Request::ForEachBuffer(chain.readable, 0, room.size(),
                           [&](Gpa gpa, uint64_t done, uint64_t here) {
                             fetched_.Add({gpa, Access::kRead, room.data() + done, here});
                             return true;
                           });
    rooms[i] = {room.data(), room.size(), fetched_.copies().size()};
  }
  size_t begin = 0;
  for (size_t i = 0; i < count_;) {
    begin += parts_.machine.access.TryCopy(reader, fetched_.copies().subspan(begin));
    for (; i < count_ && rooms[i].end <= begin; ++i) {
      jobs_[i].fetched = {rooms[i].at, rooms[i].bytes};
    }
    if (i == count_) break;
    begin = rooms[i++].end;  // the request whose part cannot be read now
  }
}

QueueOutcome RequestBatch::Step(Reader& reader) {
  if (served_ < count_ && Answered() == served_) {
    // What cannot be served again does not follow an answer that the ring has not got yet.
    if (!may_serve_again_) {
      const QueueOutcome before = FinishServed(reader);
      if (before != QueueOutcome::kDone) return before;
    }
    bool now = false;
    try {
      now = Serve(reader);
    } catch (const NotPublished& step) {
      return step.outcome;
    }
    if (now && may_serve_again_) return QueueOutcome::kDone;
    const QueueOutcome finished = FinishServed(reader);
    return now || finished != QueueOutcome::kDone ? finished : QueueOutcome::kEmpty;
  }
  const QueueOutcome finished = FinishServed(reader);
  if (finished != QueueOutcome::kDone) return finished;
  if (Answered() < served_) return QueueOutcome::kBroken;
  count_ = 0;
  return finished;
}

size_t RequestBatch::Answered() const {
  return served_ != 0 && !jobs_[served_ - 1].served.answered ? served_ - 1 : served_;
}

Request RequestBatch::RequestOf(Reader& reader, size_t number, PageBuffer& scratch, bool waited) {
  return Request({.mmu = parts_.machine.mmu,
                  .access = parts_.machine.access,
                  .reader = reader,
                  .direct = parts_.direct,
                  .counters = parts_.counters,
                  .scratch = scratch,
                  .let_go = parts_.let_go,
                  .queue = parts_.number,
                  .waited = waited},
                 chains_[number]);
}

bool RequestBatch::Serve(Reader& reader) {
  Job& job = jobs_[served_];
  // The copies of an earlier Serve of this request, which has thrown std::bad_alloc.
  staged_.ForgetCopiesFrom(CopiesBefore(served_));
  Request request = RequestOf(reader, served_, scratch_, waits_);
  const auto finish = [&] {
    const QueueOutcome finished = FinishServed(reader);
    if (finished != QueueOutcome::kDone) throw NotPublished{finished};
  };
  if (may_serve_again_) request.Stage(job.fetched, staged_, finish);
  job.served = parts_.backend.Serve(request);
  // The backend may have given the request up in the middle. The worker lets go of the ring next.
  if (parts_.let_go.load(kAcquire)) return true;
  waits_ = job.served.later;
  if (waits_) return false;
  job.copies_end = staged_.copies().size();
  ++served_;
  if (staged_.bytes() < kCopyAt || !job.served.answered) return true;
  copied_ = TryCopy(reader, served_);
  if (copied_ < served_) return true;
  staged_.Clear();
  job.copies_end = 0;  // of the next one
  return true;
}

// Copies what the requests before `end` have staged. Returns the first one that is not copied whole.
size_t RequestBatch::TryCopy(Reader& reader, size_t end) {
  size_t copied = copied_;
  if (copied == end) return end;
  const size_t begin = CopiesBefore(copied);
  const size_t done =
      begin + parts_.machine.access.TryCopy(
                  reader, staged_.copies().subspan(begin, jobs_[end - 1].copies_end - begin));
  while (copied < end && jobs_[copied].copies_end <= done) ++copied;
  return copied;
}

void RequestBatch::ServeUnstaged(Reader& reader, size_t number) {
  // The request that is being served meanwhile has the other buffer.
  Request request = RequestOf(reader, number, unstaged_scratch_);
  jobs_[number].served = parts_.backend.Serve(request);
}

// Copies and publishes what is served. kDone: all of it is published, but a request at the end that
// cannot be answered.
QueueOutcome RequestBatch::FinishServed(Reader& reader) {
  const size_t end = Answered();
  while (copied_ < end) {
    copied_ = TryCopy(reader, end);
    if (copied_ == end) break;
    // To bring a page in may take long.
    if (const QueueOutcome published = Publish(reader); published != QueueOutcome::kDone) {
      return published;
    }
    CopyByItself(reader, copied_);
    if (parts_.let_go.load(kAcquire)) return QueueOutcome::kDone;  // it may have been given up
    if (!jobs_[copied_].served.answered) return QueueOutcome::kBroken;
    ++copied_;
  }
  return Publish(reader);
}

void RequestBatch::CopyByItself(Reader& reader, size_t number) {
  const size_t begin = CopiesBefore(number);
  for (const GuestCopy& copy : staged_.copies().subspan(begin, jobs_[number].copies_end - begin)) {
    if (!parts_.machine.access.Write(reader, copy.gpa, {copy.own, copy.bytes}).ok()) {
      return ServeUnstaged(reader, number);
    }
  }
}

QueueOutcome RequestBatch::Publish(Reader& reader) {
  if (published_ == copied_) return QueueOutcome::kDone;
  std::array<Answer, Virtqueue::kMaxBatch> answers;
  const size_t count = copied_ - published_;
  for (size_t i = 0; i < count; ++i) {
    const Chain& chain = chains_[published_ + i];
    const uint32_t written = jobs_[published_ + i].served.written;
    answers[i] = {chain.head, written, written == chain.writable_bytes};
  }
  const QueueOutcome outcome = parts_.queue.Publish(reader, std::span(answers).first(count));
  if (outcome != QueueOutcome::kDone) return outcome;
  published_ = copied_;
  parts_.counters.requests.Add(count);
  if (WantsInterrupt(reader)) {
    parts_.counters.interrupts.Add();
    parts_.interrupt();
  }
  return outcome;
}

bool RequestBatch::WantsInterrupt(Reader& reader) {
  try {
    return parts_.queue.WantsInterrupt(reader);
  } catch (const std::bad_alloc&) {
    parts_.counters.shortages.Add();
    return true;  // in doubt
  }
}

}  // namespace underfoot::virtio
