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

#include "mmu/mutant.h"
#include "mmu/ordering.h"

namespace underfoot::hooks {
namespace {

constexpr uint32_t kLive = uint32_t{1} << 31;

struct Table {
  // Relaxed: each mixture of an old and a new hull holds what is attached before and after; a range
  // that is being attached counts from the return of Attach.
  std::atomic<uint64_t> low;
  std::atomic<uint64_t> high;
  std::atomic<uint32_t> files;
  std::atomic<uint32_t> used;
  // Guards: which slots are in use. Held for a few comparisons.
  std::atomic<uint32_t> locked;
  uint64_t generations;
  std::array<Slot, UNDERFOOT_MAX_RANGES> slots;
};

constexpr uint64_t kTableBytes = (sizeof(Table) + kPageMask) & ~kPageMask;

// Made by the first Attach, never freed.
// Pairs with: its loads in MayTouch and SlotAt. Without it: a caller reads a table that is not
// there yet. Zeroes are its valid first value.
constinit std::atomic<Table*> g_table{nullptr};

// Raw system calls all through: the libc names lead back here.
Table* MapTable() {
  void* const memory = std::bit_cast<void*>(syscall(
      SYS_mmap, nullptr, kTableBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L));
  if (memory == MAP_FAILED) return nullptr;
  if (!UNDERFOOT_MUTANT("hooks-survive-a-fork") &&
      syscall(SYS_madvise, memory, kTableBytes, MADV_WIPEONFORK) != 0) {
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
  uint64_t low = UINT64_MAX;
  uint64_t high = 0;
  for (const Slot& slot : table.slots) {
    if ((slot.state.load(kRelaxed) & kLive) == 0) continue;
    low = std::min(low, slot.hvas().begin.value);
    high = std::max(high, slot.hvas().end.value);
  }
  table.low.store(low, kRelaxed);
  table.high.store(high, kRelaxed);
}

uint64_t HandleOf(unsigned index, uint64_t generation) {
  return generation * UNDERFOOT_MAX_RANGES + index;
}

bool WellFormed(const underfoot_range& range) {
  const uint64_t start = HvaOf(range.start).value;
  return range.begin != nullptr && range.end != nullptr && range.length != 0 &&
         ((start | range.length) & kPageMask) == 0 && start + range.length > start;
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

int Attach(const underfoot_range& range, uint64_t* handle) {
  if (!WellFormed(range)) return EINVAL;
  struct stat file {};
  if (range.fd >= 0 && fstat(range.fd, &file) != 0) return EBADF;
  Table* const table = TableOrMake();
  if (table == nullptr) return ENOMEM;
  const TableLock lock(*table);
  const auto slot = std::find_if(table->slots.begin(), table->slots.end(),
                                 [](const Slot& s) { return s.state.load(kAcquire) == 0; });
  if (slot == table->slots.end()) return ENOSPC;
  const auto index = static_cast<unsigned>(slot - table->slots.begin());
  const Hva start = HvaOf(range.start);
  slot->begin.store(start.value, kRelaxed);
  slot->end.store(start.value + range.length, kRelaxed);
  slot->generation = ++table->generations;
  slot->has_file = range.fd >= 0;
  slot->file = {file.st_dev, file.st_ino};
  slot->range = range;
  if (slot->has_file) table->files.fetch_add(1, kRelaxed);
  // Whoever looked at a free slot may have it pinned for a moment.
  slot->state.fetch_or(kLive, kAcqRel);
  table->used.store(std::max(table->used.load(kRelaxed), index + 1), kRelaxed);
  PublishHull(*table);
  *handle = HandleOf(index, slot->generation);
  return 0;
}

int Detach(uint64_t handle) {
  const auto index = static_cast<unsigned>(handle % UNDERFOOT_MAX_RANGES);
  if (index >= SlotCount()) return ENOENT;
  Table* const table = g_table.load(kAcquire);
  Slot* const slot = &table->slots[index];
  {
    const TableLock lock(*table);
    if ((slot->state.load(kAcquire) & kLive) == 0 ||
        slot->generation != handle / UNDERFOOT_MAX_RANGES) {
      return ENOENT;
    }
    // A pin of our own keeps the slot from being used again before its calls have left.
    slot->state.fetch_add(1, kAcqRel);
    slot->state.fetch_and(~kLive, kAcqRel);
    if (slot->has_file) table->files.fetch_sub(1, kRelaxed);
    PublishHull(*table);
  }
  for (uint32_t pins = slot->state.load(kAcquire);
       pins != 1 && !UNDERFOOT_MUTANT("detach-does-not-wait"); pins = slot->state.load(kAcquire)) {
    syscall(SYS_futex, &slot->state, FUTEX_WAIT_PRIVATE, pins, nullptr, nullptr, 0);
  }
  slot->state.fetch_sub(1, kRelease);
  return 0;
}

bool MayTouch(HvaRange range) {
  const Table* const table = g_table.load(kAcquire);
  if (table == nullptr || UNDERFOOT_MUTANT("precheck-misses-the-range")) return false;
  return range.begin.value < table->high.load(kRelaxed) &&
         table->low.load(kRelaxed) < range.end.value;
}

bool AnyFiles() {
  const Table* const table = g_table.load(kAcquire);
  return table != nullptr && table->files.load(kRelaxed) != 0;
}

unsigned SlotCount() {
  const Table* const table = g_table.load(kAcquire);
  return table == nullptr ? 0 : table->used.load(kRelaxed);
}

Slot& SlotAt(unsigned i) { return g_table.load(kAcquire)->slots[i]; }

bool TryPin(Slot& slot) {
  if ((slot.state.load(kRelaxed) & kLive) == 0) return false;
  if ((slot.state.fetch_add(1, kAcqRel) & kLive) != 0) return true;
  Unpin(slot);
  return false;
}

void Unpin(Slot& slot) {
  const uint32_t before = slot.state.fetch_sub(1, kAcqRel);
  if ((before & kLive) == 0) {
    syscall(SYS_futex, &slot.state, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
  }
}

}  // namespace underfoot::hooks
