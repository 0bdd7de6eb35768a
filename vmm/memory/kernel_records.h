// What the kernel told of guest RAM since somebody last looked, as values.
//
// Thread safety: values. KernelRecordSource: one thread.

#ifndef UNDERFOOT_VMM_MEMORY_KERNEL_RECORDS_H_
#define UNDERFOOT_VMM_MEMORY_KERNEL_RECORDS_H_

#include <cstdint>
#include <vector>

#include "mmu/types.h"

namespace underfoot {

struct KernelRecord {
  enum class Kind : uint8_t { kUnmap, kAge, kTestAge };

  Kind kind = Kind::kUnmap;
  HvaRange range;  // as told: it may reach beyond guest RAM
  int64_t time_ns = 0;
  int32_t tid = 0;
};

struct KernelBatch {
  std::vector<KernelRecord> records;  // in the order of their times
  uint64_t lost = 0;                  // unmap records that the kernel had no room for
  // Some may be lost beyond those, how many is not known.
  bool overrun = false;
};

class KernelRecordSource {
 public:
  virtual ~KernelRecordSource() = default;
  // Adds what has been told since the last call. What the kernel had told before the call is in.
  virtual void Read(KernelBatch& batch) = 0;
  // Readable when there is much to read: reasons to read before the usual time.
  virtual const std::vector<int>& fds() const = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_KERNEL_RECORDS_H_
