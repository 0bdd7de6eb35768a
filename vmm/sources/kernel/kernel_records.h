// The kernel's records about guest RAM since the last read, as values.
//
// Thread safety: values. KernelRecordSource: one thread.

#ifndef UNDERFOOT_VMM_SOURCES_KERNEL_KERNEL_RECORDS_H_
#define UNDERFOOT_VMM_SOURCES_KERNEL_KERNEL_RECORDS_H_

#include <cstdint>
#include <vector>

#include "mmu/base/types.h"

namespace underfoot {

struct KernelRecord {
  enum class Kind : uint8_t { kUnmap, kAge, kTestAge };

  Kind kind = Kind::kUnmap;
  HvaRange range;  // as the kernel reports it: it may reach beyond guest RAM
  int64_t time_ns = 0;
  int32_t tid = 0;
};

struct KernelBatch {
  std::vector<KernelRecord> records;  // in the order of their times
  uint64_t lost = 0;                  // unmap records that the kernel had no room for
  // Further records may be lost; their number is not known.
  bool overrun = false;
};

class KernelRecordSource {
 public:
  virtual ~KernelRecordSource() = default;
  // Adds the records since the last call, among them every record that the kernel wrote before the
  // call.
  virtual void Read(KernelBatch& batch) = 0;
  // The next Read first looks for CPUs whose records have not been read so far.
  virtual void LookForCpus() {}
  // Whether each record of an unmap makes a descriptor readable at once. A wake-up for a record
  // delays the thread that makes the change: this is for times in which there are none. A record
  // that was written before this call makes none readable, so the caller reads once more before it
  // waits. False: the source cannot do it.
  virtual bool WakeAtOnce(bool /*on*/) { return false; }
  // A descriptor becomes readable when many records wait: the caller should then read before the
  // usual time. The result is valid until the next Read.
  virtual const std::vector<int>& fds() const = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_KERNEL_KERNEL_RECORDS_H_
