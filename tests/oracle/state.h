// The state of the model: the state of one island, the operations on it, and their outcomes.
//
// An island is a piece of host memory with everything that depends on it: the pages as the host has
// them, the memslots over them, the stage-2 entries of these memslots, the pfn caches on them, and
// the brackets over them. It is divided into cells. A cell is one page. On an island that may be
// mapped by a block, a cell may also be a run of pages that operations use only as a whole. So
// eight cells are enough for 2 MiB, and a state has a few hundred bytes and can be copied cheaply.
//
// Thread safety: values.

#ifndef UNDERFOOT_TESTS_ORACLE_STATE_H_
#define UNDERFOOT_TESTS_ORACLE_STATE_H_

#include <array>
#include <cstdint>

#include "mmu/base/types.h"
#include "mmu/notifier.h"

namespace underfoot::oracle {

inline constexpr unsigned kCells = 8;
inline constexpr unsigned kViews = 3;  // memslots over the same pages: two of its own, a shared one
inline constexpr unsigned kSharedView = 2;
inline constexpr unsigned kCaches = 3;
inline constexpr unsigned kMaxCachePages = 3;
inline constexpr unsigned kOwnBrackets = 4;
inline constexpr unsigned kSharedBrackets = 2;  // over several islands
inline constexpr unsigned kBrackets = kOwnBrackets + kSharedBrackets;
inline constexpr unsigned kClaimants = 2;

// A half-open range of cells.
struct Cells {
  uint8_t begin = 0;
  uint8_t end = 0;
  friend bool operator==(const Cells&, const Cells&) = default;
  constexpr bool empty() const { return begin >= end; }
  constexpr bool Overlaps(Cells other) const { return begin < other.end && other.begin < end; }
  constexpr bool Contains(Cells other) const { return begin <= other.begin && other.end <= end; }
};
inline constexpr Cells kAllCells{0, kCells};
// A bit for each cell.
constexpr unsigned BitsOf(Cells cells) { return (1u << cells.end) - (1u << cells.begin); }
constexpr Cells OneCell(uint8_t cell) { return {cell, static_cast<uint8_t>(cell + 1)}; }

// The answer of the host to a page-in.
enum class Mood : uint8_t { kUsual, kAgainOnce, kRemovalPending, kFailed };

// A page, or a run of them, as the host has it.
struct HostCell {
  uint32_t frame = 1;     // changes with each change of the physical page
  uint32_t discards = 0;  // incremented when the content becomes zeroes
  bool writable = true;
  Mood mood = Mood::kUsual;
};

// The owner of a claim or of the tag in a leaf that is being relaxed.
using Owner = uint8_t;
inline constexpr Owner kUnowned = 0;
constexpr Owner ClaimantOwner(unsigned claimant) { return static_cast<Owner>(claimant + 1); }
inline constexpr Owner kFaulter = kClaimants + 1;  // the thread whose fault is at the page source

// A stage-2 entry.
struct EntryState {
  enum class Kind : uint8_t { kEmpty, kClaim, kLeaf };
  Kind kind = Kind::kEmpty;
  bool writable = false;
  bool young = false;
  bool dirty = false;
  Owner owner = kUnowned;
  uint32_t frame = 0;

  friend bool operator==(const EntryState&, const EntryState&) = default;
  bool empty() const { return kind == Kind::kEmpty; }
  bool is_leaf() const { return kind == Kind::kLeaf; }
  bool Grants(Access access) const { return is_leaf() && (access == Access::kRead || writable); }
};

// The island as one memslot maps it: by a block, or by cells of their own.
struct View {
  bool present = false;
  bool read_only = false;
  bool log_dirty = false;
  uint8_t place = 0;   // the one of its two gfn ranges where it is
  uint8_t logged = 0;  // the log: a bit for each cell
  EntryState block;
  std::array<EntryState, kCells> cells{};

  EntryState& Deciding(uint8_t cell) { return block.empty() ? cells[cell] : block; }
  const EntryState& Deciding(uint8_t cell) const { return block.empty() ? cells[cell] : block; }
};

struct CacheState {
  enum class Validity : uint8_t { kInvalid, kPending, kValid };
  bool active = false;
  bool gpa_keyed = true;
  bool writable = false;
  bool young = false;
  Validity validity = Validity::kInvalid;
  uint8_t view = 0;  // of a gpa key, as the next
  uint8_t place = 0;
  Cells cells{};   // of the key
  Cells listed{};  // where the index lists it; empty: not listed
  uint32_t frame = 0;
};

struct BracketState {
  bool open = false;
  InvalidationKind kind = InvalidationKind::kUnmap;
  Cells cells{};
};

// A claim that its claimant has made; it may have been stolen since.
struct ClaimState {
  bool open = false;
  bool block = false;
  bool granted_write = false;  // as the page was looked up after the claim
  bool dirty = false;
  uint8_t view = 0;
  uint8_t place = 0;
  uint8_t cell = 0;
  uint32_t frame = 0;
};

// The one operation of the island that is at the page source, if there is one.
struct PageInState {
  enum class Caller : uint8_t { kNone, kFault, kCache, kBlock };
  struct Answer {
    Mood mood = Mood::kUsual;
    bool granted_write = false;
    uint32_t frame = 0;
  };
  Caller caller = Caller::kNone;
  Access access = Access::kRead;
  bool by_fault = false;                // of a block: it waits for nothing and tries only once
  Access fault_access = Access::kRead;  // of that fault; its pages are asked for reading
  bool read_only = false;               // the memslot of the fault
  bool activating = false;              // if this fails, the cache becomes inactive
  uint8_t view = 0;
  uint8_t cell = 0;  // requested from the page source
  uint8_t cache = 0;
  uint8_t page = 0;  // of the cache
  Answer answer{};
  EntryState block{};  // the block that the claim had to split, or empty
};

// A subscriber of the test's own.
struct SubscriberState {
  bool registered = false;
  bool young = false;
  uint32_t invalidated = 0;  // calls of Invalidate
  uint32_t asked = 0;        // calls of TestClearYoung
};

// The effects of the operations so far on the tables.
struct Tally {
  uint32_t maps = 0;
  uint32_t unmaps = 0;
  bool flush = false;  // by the last operation
};

struct State {
  bool may_have_blocks = false;
  std::array<uint16_t, kCells> pages{};  // of each cell
  Tally tally;
  std::array<HostCell, kCells> host{};
  std::array<View, kViews> views{};
  std::array<CacheState, kCaches> caches{};
  std::array<BracketState, kBrackets> brackets{};
  std::array<ClaimState, kClaimants> claims{};
  PageInState page_in;
  SubscriberState subscriber;
};

// The kinds of operations, and the fields of Operation that each one uses.
enum class Kind : uint8_t {
  kTranslate,    // view, cells.begin, access
  kMark,         // view, cells, access: as after a system call on these pages
  kCheck,        // index
  kFault,        // view, cells.begin, access
  kRefresh,      // index
  kActivate,     // index, flag = keyed by gpa, view, cells, access
  kDeactivate,   // index
  kClaim,        // index, view, cells.begin, access, flag = the whole block
  kPublish,      // index
  kAbandon,      // index
  kBegin,        // index, cells, invalidation
  kEnd,          // index; stray when the bracket is not open
  kSplit,        // view: its block becomes a table
  kMapBlock,     // view, access, flag = collapse what is there first
  kFaultBlock,   // view, access: a fault that brings in its block
  kMove,         // cells: other frames
  kDiscard,      // cells: other frames, zeroes
  kProtect,      // cells: the host takes the write permission
  kMood,         // cells.begin, mood
  kAge,          // cells, flag = clear
  kTouch,        // the test's own subscriber becomes young
  kCreateSlot,   // view, flag = read-only
  kDeleteSlot,   // view
  kMoveSlot,     // view: to the other of its places
  kSetFlags,     // view, flag = read-only, index = log writes
  kCollect,      // view
  kSubscribe,    // registers the test's own subscriber
  kUnsubscribe,  // unregisters it
  kLookUp,       // the page source looks the requested page up
  kAnswered,     // the page source returns
};
inline constexpr unsigned kKinds = static_cast<unsigned>(Kind::kAnswered) + 1;

struct Operation {
  Kind kind = Kind::kTranslate;
  uint8_t index = 0;
  uint8_t view = 0;
  Cells cells{};
  Access access = Access::kRead;
  InvalidationKind invalidation = InvalidationKind::kUnmap;
  Mood mood = Mood::kUsual;
  bool flag = false;
  bool no_memory = false;  // of kBegin: there is no memory to split a block
};

enum class Result : uint8_t {
  kWouldWait,  // not made: it would wait for another operation of this island
  kForbidden,  // not made: a caller must not do this now
  kAsks,       // it has called the page source; the outcome comes with kAnswered
  kDone,
  kNo,  // not present, not young, not there, not granted
  kYes,
  kMapped,  // of a fault, and so on
  kPresent,
  kBlocked,
  kBusy,
  kAgain,
  kRemovalPending,
  kNoMemslot,
  kReadOnly,
  kFailed,
  kTable,
  kClaimed,
  kStolen,
  kStray,
  kValid,
  kInactive,
  kNoMemory,  // it threw std::bad_alloc
};
inline constexpr unsigned kResults = static_cast<unsigned>(Result::kNoMemory) + 1;

struct Outcome {
  Result result = Result::kDone;
  // Where the result names a page. Of kCollect: the written cells; of kMark: how many are marked.
  uint32_t frame = 0;

  friend bool operator==(const Outcome&, const Outcome&) = default;
};

const char* NameOf(Kind kind);
const char* NameOf(Result result);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_STATE_H_
