// Tables that are allocated before a walk needs them, so that the walk never allocates.
//
// Thread safety: one thread.
// Errors: the constructor and Fill throw std::bad_alloc. Take returns nullptr if the pool is empty.

#ifndef UNDERFOOT_MMU_STAGE2_TABLE_POOL_H_
#define UNDERFOOT_MMU_STAGE2_TABLE_POOL_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "mmu/stage2/private_table.h"
#include "mmu/stage2/table.h"

namespace underfoot {

class TablePool {
 public:
  explicit TablePool(size_t tables) : capacity_(tables) {
    rooms_.reserve(tables);  // so that emplace_back cannot fail after an allocation
    Fill();
  }

  void Fill() {
    // The level of a table is known only when it is taken. Until then the pool holds raw memory.
    while (rooms_.size() < capacity_) rooms_.emplace_back(table_memory::Allocate());
  }

  size_t size() const { return rooms_.size(); }

  // Returns a table that counts all its entries as used; the caller must write each of them.
  // Returns nullptr if the pool is empty.
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

#endif  // UNDERFOOT_MMU_STAGE2_TABLE_POOL_H_
