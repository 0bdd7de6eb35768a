// Tables allocated before a walk that needs them, so that the walk never waits for memory.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_MMU_TABLE_POOL_H_
#define UNDERFOOT_MMU_TABLE_POOL_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "mmu/private_table.h"
#include "mmu/table.h"

namespace underfoot {

class TablePool {
 public:
  explicit TablePool(size_t tables) : capacity_(tables) { Fill(); }

  void Fill() {
    // The level of a table is known when it is taken: until then there is only room for one.
    while (rooms_.size() < capacity_) rooms_.emplace_back(table_memory::Allocate());
  }

  size_t size() const { return rooms_.size(); }

  // A table whose entries are all in use, of which the caller writes each; none when the pool is
  // empty.
  PrivateTable Take(unsigned level) {
    if (rooms_.empty()) return nullptr;
    Room room = std::move(rooms_.back());
    rooms_.pop_back();
    return PrivateTable(::new (room.release()) Table(Table::Unwritten{}, level, kEntries));
  }

 private:
  struct RoomDeleter {
    void operator()(void* room) const { table_memory::Free(room); }
  };
  using Room = std::unique_ptr<void, RoomDeleter>;

  const size_t capacity_;
  std::vector<Room> rooms_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_TABLE_POOL_H_
