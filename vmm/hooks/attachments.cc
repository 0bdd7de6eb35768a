#include "vmm/hooks/attachments.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <span>

#include "mmu/base/ordering.h"
#include "vmm/hooks/fork.h"
#include "vmm/hooks/range_index.h"

namespace underfoot::hooks {
namespace {

constexpr uint32_t kLive = uint32_t{1} << 31;

// Values of Table::turn.
constexpr uint32_t kTurnFree = 0;
constexpr uint32_t kTurnTaken = 1;
constexpr uint32_t kTurnAwaited = 2;  // taken, and a thread sleeps until it is free

struct Table {
  // Relaxed: any mixture of an old and a new bound contains all ranges that are attached both
  // before and after the change. A range that is being attached is observed only from the return of
  // Attach.
  std::atomic<uint64_t> low;
  std::atomic<uint64_t> high;
  std::atomic<uint32_t> files;
  // Relaxed. The process to which this table belongs. The first Attach of a process writes it.
  std::atomic<uint64_t> life;
  // All slots that were ever used have a lower index; this number never decreases.
  std::atomic<uint32_t> used;
  // Guards: which slots are in use, `maybe_free`, and changes of the index. Its holder waits for
  // look-ups while it changes the index. Look-ups never wait.
  std::atomic<uint32_t> locked;
  // The word of MappingTurn.
  // Pairs with: each other's accesses in its constructor and destructor. Without it: a call's `end`
  // callbacks do not see what those of the call before have noted.
  std::atomic<uint32_t> turn;
  uint32_t maybe_free;
  RangeIndex index;
  std::array<Slot, UNDERFOOT_MAX_RANGES> slots;
};

// Not in the memory that a fork zeroes: so no handle and no life number of a parent equals one of
// its child.
constinit std::atomic<uint64_t> g_generations{0};

constexpr uint64_t kTableBytes = (sizeof(Table) + kPageMask) & ~kPageMask;

// The first Attach creates the table; it is never freed.
// Pairs with: the loads of it below. Without it: a caller could read a table that is not mapped
// yet. A table that contains only zeroes is valid.
constinit std::atomic<Table*> g_table{nullptr};

// Uses only raw system calls: the libc names would lead back into this file.
Table* MapTable() {
  void* const memory =
      std::bit_cast<void*>(syscall(SYS_mmap, nullptr, kTableBytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L));
  if (memory == MAP_FAILED) return nullptr;
  if (syscall(SYS_madvise, memory, kTableBytes, MADV_WIPEONFORK) != 0) {
    syscall(SYS_munmap, memory, kTableBytes);
    return nullptr;
  }
  return static_cast<Table*>(memory);
}

Table* TableOrMake() {
  Table* table = g_table.load(kAcquire);
  if (table != nullptr) return table;
  Table* const mine = MapTable();
  if (mine == nullptr) return nullptr;
  if (g_table.compare_exchange_strong(table, mine, kAcqRel, kAcquire)) return mine;
  syscall(SYS_munmap, mine, kTableBytes);
  return table;
}

class TableLock {
 public:
  explicit TableLock(Table& table) : table_(table) {
    while (table_.locked.exchange(1, kAcquire) != 0) sched_yield();
  }
  ~TableLock() { table_.locked.store(0, kRelease); }
  TableLock(const TableLock&) = delete;
  TableLock& operator=(const TableLock&) = delete;

 private:
  Table& table_;
};

void PublishHull(Table& table) {
  const HvaRange hull = table.index.Hull();
  table.low.store(hull.begin.value, kRelaxed);
  table.high.store(hull.end.value, kRelaxed);
}

// The number of a file's space. Two files may have the same number: callers also compare
// Slot::file.
uint64_t SpaceOf(const FileId& file) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
  return ((file.device * kOdd) ^ std::rotl(file.inode * kOdd, 32)) | (uint64_t{1} << 63);
}

Interval IntervalOf(HvaRange range) { return {{0, range.begin.value}, {0, range.end.value}}; }

Interval IntervalOf(const FileRange& part) {
  const uint64_t space = SpaceOf(part.file);
  return {{space, part.begin}, {space, part.end}};
}

void InsertSlot(Table& table, uint32_t i) {
  const Slot& slot = table.slots[i];
  const std::array entries{
      RangeIndex::Entry{IntervalOf(slot.hvas()), i},
      RangeIndex::Entry{slot.has_file ? IntervalOf(slot.FileRangeOf(slot.hvas())) : Interval{}, i}};
  table.index.Insert(std::span(entries).first(slot.has_file ? 2 : 1));
  PublishHull(table);
}

Slot* FindFree(Table& table) {
  const auto is_free = [](const Slot& slot) { return slot.state.load(kAcquire) == 0; };
  const auto first = table.slots.begin() + table.maybe_free;
  const auto behind = std::find_if(first, table.slots.end(), is_free);
  if (behind != table.slots.end()) return &*behind;
  // Slots before `first` may have become free when their last call returned.
  const auto before = std::find_if(table.slots.begin(), first, is_free);
  return before == first ? nullptr : &*before;
}

bool TryPin(Slot& slot) {
  if ((slot.state.load(kRelaxed) & kLive) == 0) return false;
  if ((slot.state.fetch_add(1, kAcqRel) & kLive) != 0) return true;
  Unpin(slot);
  return false;
}

void PinIn(Table& table, const Interval& interval, void* context, Visitor visit) {
  table.index.VisitOverlapping(interval, [&](uint32_t i) {
    Slot& slot = table.slots[i];
    return !TryPin(slot) || visit(context, slot);
  });
}

bool AnyIn(Table& table, const Interval& interval) {
  bool found = false;
  table.index.VisitOverlapping(interval, [&found](uint32_t) {
    found = true;
    return false;
  });
  return found;
}

uint64_t HandleOf(unsigned index, uint64_t generation) {
  return generation * UNDERFOOT_MAX_RANGES + index;
}

bool WellFormed(const underfoot_range& range) {
  const uint64_t start = HvaOf(range.start).value;
  constexpr unsigned kFlags = UNDERFOOT_TELL_FORK | UNDERFOOT_ACCEPT_UNSEEN;
  return (range.flags & ~kFlags) == 0 && range.begin != nullptr && range.end != nullptr &&
         range.length != 0 && ((start | range.length) & kPageMask) == 0 &&
         start + range.length > start && range.file_offset + range.length > range.file_offset;
}

}  // namespace

FileRange Slot::FileRangeOf(HvaRange hvas_inside) const {
  const uint64_t offset = range.file_offset + (hvas_inside.begin - hvas().begin);
  return {file, offset, offset + hvas_inside.size()};
}

HvaRange Slot::HvaRangeOf(const FileRange& part) const {
  const uint64_t first = range.file_offset;
  const uint64_t low = std::max(part.begin, first);
  const uint64_t high = std::min(part.end, first + hvas().size());
  if (!has_file || !(file == part.file) || low >= high) return {hvas().begin, hvas().begin};
  return RoundOutToPages({hvas().begin + (low - first), hvas().begin + (high - first)});
}

int Attach(const underfoot_range& range, uint64_t* handle, MappingCalls mapping_calls) {
  if (!WellFormed(range)) return EINVAL;
  struct stat file {};
  if (range.fd >= 0 && fstat(range.fd, &file) != 0) return EBADF;
  Table* const table = TableOrMake();
  if (table == nullptr) return ENOMEM;
  if ((range.flags & UNDERFOOT_TELL_FORK) != 0) {
    if (const int error = WatchForks(); error != 0) return error;
  }
  const TableLock lock(*table);
  if (table->life.load(kRelaxed) == 0) table->life.store(++g_generations, kRelaxed);
  Slot* const slot = FindFree(*table);
  if (slot == nullptr) return ENOSPC;
  const auto index = static_cast<uint32_t>(slot - table->slots.data());
  table->maybe_free = (index + 1) % UNDERFOOT_MAX_RANGES;
  slot->generation = ++g_generations;
  slot->has_file = range.fd >= 0;
  slot->mapping_calls = mapping_calls;
  slot->file = {file.st_dev, file.st_ino};
  slot->range = range;
  if (slot->has_file) table->files.fetch_add(1, kRelaxed);
  // This is fetch_or and not a store: a thread that examined the free slot may have pinned it for a
  // moment.
  slot->state.fetch_or(kLive, kAcqRel);
  table->used.store(std::max(table->used.load(kRelaxed), index + 1), kRelease);
  InsertSlot(*table, index);
  *handle = HandleOf(index, slot->generation);
  return 0;
}

int Detach(uint64_t handle) {
  const auto index = static_cast<unsigned>(handle % UNDERFOOT_MAX_RANGES);
  Table* const table = g_table.load(kAcquire);
  if (table == nullptr || index >= table->used.load(kAcquire)) return ENOENT;
  Slot* const slot = &table->slots[index];
  {
    const TableLock lock(*table);
    if ((slot->state.load(kAcquire) & kLive) == 0 ||
        slot->generation != handle / UNDERFOOT_MAX_RANGES) {
      return ENOENT;
    }
    // Our own pin prevents the slot from being used again before the calls inside it have returned.
    slot->state.fetch_add(1, kAcqRel);
    slot->state.fetch_and(~kLive, kAcqRel);
    if (slot->has_file) table->files.fetch_sub(1, kRelaxed);
    table->index.Remove(index);
    PublishHull(*table);
  }
  for (uint32_t pins = slot->state.load(kAcquire); pins != 1; pins = slot->state.load(kAcquire)) {
    syscall(SYS_futex, &slot->state, FUTEX_WAIT_PRIVATE, pins, nullptr, nullptr, 0);
  }
  slot->state.fetch_sub(1, kRelease);
  return 0;
}

bool MayTouch(HvaRange range) {
  Table* const table = g_table.load(kAcquire);
  if (table == nullptr) return false;
  return range.begin.value < table->high.load(kRelaxed) &&
         table->low.load(kRelaxed) < range.end.value && AnyIn(*table, IntervalOf(range));
}

bool MayTouch(const FileRange& part) {
  return AnyFiles() && AnyIn(*g_table.load(kAcquire), IntervalOf(part));
}

bool AnyRanges() {
  const Table* const table = g_table.load(kAcquire);
  return table != nullptr && table->high.load(kRelaxed) != 0;
}

bool AnyFiles() {
  const Table* const table = g_table.load(kAcquire);
  return table != nullptr && table->files.load(kRelaxed) != 0;
}

uint64_t Life() {
  const Table* const table = g_table.load(kAcquire);
  return table == nullptr ? 0 : table->life.load(kRelaxed);
}

MappingTurn::MappingTurn(bool wanted) : life_(wanted ? Life() : 0) {
  if (!wanted) return;
  std::atomic<uint32_t>& turn = g_table.load(kAcquire)->turn;
  uint32_t before = kTurnFree;
  if (!turn.compare_exchange_strong(before, kTurnTaken, kAcquire)) {
    while (turn.exchange(kTurnAwaited, kAcquire) != kTurnFree) {
      syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, kTurnAwaited, nullptr, nullptr, 0);
    }
  }
  // A signal handler has forked meanwhile, and this is the child: the destructor will find another
  // life and release nothing.
  if (Life() != life_) turn.store(kTurnFree, kRelease);
}

MappingTurn::~MappingTurn() {
  if (life_ == 0 || Life() != life_) return;
  std::atomic<uint32_t>& turn = g_table.load(kAcquire)->turn;
  if (turn.exchange(kTurnFree, kRelease) != kTurnAwaited) return;
  syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

void PinOverlapping(HvaRange range, void* context, Visitor visit) {
  Table* const table = g_table.load(kAcquire);
  if (table != nullptr) PinIn(*table, IntervalOf(range), context, visit);
}

void PinOverlapping(const FileRange& part, void* context, Visitor visit) {
  Table* const table = g_table.load(kAcquire);
  if (table != nullptr) PinIn(*table, IntervalOf(part), context, visit);
}

void PinAll(void* context, Visitor visit) {
  Table* const table = g_table.load(kAcquire);
  if (table == nullptr) return;
  for (Slot& slot : std::span(table->slots).first(table->used.load(kAcquire))) {
    if (TryPin(slot) && !visit(context, slot)) return;
  }
}

bool AnyFileOn(uint64_t device) {
  struct Search {
    uint64_t device;
    bool found = false;
  } search{device};
  PinAll(&search, [](void* context, Slot& slot) {
    auto& self = *static_cast<Search*>(context);
    self.found = slot.has_file && slot.file.device == self.device;
    Unpin(slot);
    return !self.found;
  });
  return search.found;
}

// In the child of a fork there is no pin to release.
void Unpin(Slot& slot) {
  uint32_t before = slot.state.load(kRelaxed);
  do {
    if ((before & ~kLive) == 0) return;
  } while (!slot.state.compare_exchange_weak(before, before - 1, kAcqRel, kRelaxed));
  if ((before & kLive) == 0) {
    syscall(SYS_futex, &slot.state, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
  }
}

}  // namespace underfoot::hooks
