// Finds the mapping at an address of this process with PROCMAP_QUERY (Linux 6.11), which is one
// system call and needs no memory.
//
// Thread safety: any thread, and signal handlers. An answer may be outdated as soon as it is
// returned.

#ifndef UNDERFOOT_VMM_HOOKS_MAPPING_H_
#define UNDERFOOT_VMM_HOOKS_MAPPING_H_

#include <cstdint>

#include "mmu/base/types.h"
#include "vmm/hooks/attachments.h"

namespace underfoot::hooks {

struct Mapping {
  HvaRange hvas;
  uint64_t page_size = kPageSize;
  bool read_write = false;  // both permissions
  bool has_file = false;
  FileId file;
  uint64_t file_offset = 0;  // the offset of hvas.begin
};

class MappingQuery {
 public:
  enum class Answer : uint8_t { kFound, kNone, kUnknown };

  // Does not change errno, and neither does any other function of this file.
  MappingQuery();
  ~MappingQuery();
  MappingQuery(const MappingQuery&) = delete;
  MappingQuery& operator=(const MappingQuery&) = delete;

  // Finds the mapping at `at`, or else the next one above it. kUnknown: the kernel does not have
  // the query.
  [[nodiscard]] Answer FindFrom(Hva at, Mapping* mapping) const;

 private:
  const int maps_;
};

// The largest page size that any mapping has.
inline constexpr uint64_t kLargestPage = uint64_t{1} << 30;

// The page size of the mapping at `at`; an upper bound of it if it cannot be found out.
uint64_t PageSizeAt(Hva at);
// The page size of the descriptor's file: that of its hugetlbfs, or 4096.
uint64_t PageSizeOf(int fd);

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_MAPPING_H_
