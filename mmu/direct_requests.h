// System calls that go straight to guest memory: their announcements.
//
// A device worker that reads a file into guest memory by one system call (preadv) cannot hold a
// section meanwhile: the call may sleep for ever, and each Begin would wait for it. So the worker
// announces the hva range in a word of its own, the *request word*. A Begin that overlaps the range
// marks the word and goes on. It never waits for it.
//
//   worker (DirectRequest)                   Begin
//   1  word := range                         a  the range goes in flight
//   2  an overlapping range in flight?       b  every word that overlaps: marked
//      another memslot? then word := 0,
//      and by a buffer
//   3  the system call; nothing is held      -- the host mm call: not delayed by 3 --
//   4  marked? word := 0
//      marked, or not all bytes: again, by a buffer, in sections
//   5  dirty and young, after the last byte
//
// During step 3 no pfn, leaf or cache is used: the kernel translates each touch by the page tables of
// that moment. So I1 holds as ever. What does not hold: bytes may arrive at the hva between Begin
// and End, until step 4. No code may rely on them, and none is lost: a bracket that overlaps step 3
// is seen by 2 or has marked the word, and then the whole transfer is made again.
//
// The bytes arrive at the hva that step 1 had. Therefore host addresses that guest memory has left
// must stay reserved until no request is announced over them (AnnouncedOver). The owner of guest
// memory checks that before it unmaps it.
//
// Thread safety: DirectRequests: any thread. DirectRequest: its worker.
// Invariants: I1 (with the exception above), I8 (step 5), I11 (Begin never waits for a request).
// Compare: pin_user_pages in Linux, by which direct I/O makes the host wait, or fail, instead.

#ifndef UNDERFOOT_MMU_DIRECT_REQUESTS_H_
#define UNDERFOOT_MMU_DIRECT_REQUESTS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "mmu/base/range_word.h"
#include "mmu/base/types.h"
#include "mmu/in_flight_ranges.h"
#include "mmu/memslot.h"

namespace underfoot {

// All request words of an Mmu.
class DirectRequests {
 public:
  // Workers beyond these get no word, and make all transfers by a buffer.
  static constexpr unsigned kMost = 64;

  DirectRequests() = default;
  DirectRequests(const DirectRequests&) = delete;
  DirectRequests& operator=(const DirectRequests&) = delete;

  // Marks each announced request that overlaps `range`. The caller has put the range in flight
  // before, or has published the memslot set that no longer has it.
  void MarkOverlapping(HvaRange range);

  // Whether bytes of a request may still arrive in `range`. If the range is in flight or has left
  // its memslot, the answer does not become true again.
  bool AnnouncedOver(HvaRange range) const;

 private:
  friend class DirectRequest;

  // One bit more than a range: the mark.
  using Key = PackedKey<PackedRange<35, 28>, 1>;
  static constexpr uint64_t kMarked = 1;

  // A cache line each: the worker changes its word for each request.
  struct alignas(64) Line {
    std::atomic<uint64_t> word{0};  // 0: no request
    std::atomic<bool> owned{false};
  };

  std::array<Line, kMost> lines_;
  // Lines at and above this index were never owned, so a search ends here.
  std::atomic<unsigned> limit_{0};
};

// The request word of one worker.
class DirectRequest {
 public:
  DirectRequest(DirectRequests& requests, const InFlightRanges& in_flight,
                const MemslotTable& memslots);
  ~DirectRequest();
  DirectRequest(const DirectRequest&) = delete;
  DirectRequest& operator=(const DirectRequest&) = delete;

  // Announces the pages of `gfns` (steps 1 and 2). Returns the hva of the first one, or nullopt if
  // they cannot be reached directly now: there is no word, they lie in no single writable memslot,
  // or a bracket over them is in flight. The caller must not be inside a section.
  [[nodiscard]] std::optional<Hva> TryAnnounce(GfnRange gfns);

  // Ends the announcement (step 4). Returns true if nothing has marked it: the bytes that the call
  // has transferred are where they belong.
  [[nodiscard]] bool Withdraw();

 private:
  DirectRequests::Line* line_ = nullptr;
  const InFlightRanges& in_flight_;
  const MemslotTable& memslots_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_DIRECT_REQUESTS_H_
