// The virtio block device, as part of workload `mixed`. vCPU i drives queue i and works on its own
// part of the disk (abi::DiskPart), with up to four requests at once.
//
// A sector is filled from (seed, sector, generation), so that each wrong sector is seen. Reads,
// writes, writes of zeroes, discards, flushes, get-id, and requests that must fail are mixed. If the
// seed is odd, the driver accepts IN_ORDER, and takes runs of answers from one used element. At the
// end the whole part is read once more; the VMM compares its digest with the file.

#ifndef UNDERFOOT_GUEST_DISK_H_
#define UNDERFOOT_GUEST_DISK_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// The pages that the drivers need behind the shared page: those of a queue of the disk, and their
// number in all.
inline constexpr uint64_t kDiskQueuePages = 13;
inline constexpr uint64_t kDiskPages = kDiskQueuePages * abi::kMaxDiskQueues;

// Called by vCPU 0 before any other function. The device stays unused if there is none.
void SetUpDisk(Context& context, uint64_t pages);

// Takes answers and makes new requests; never waits.
void DiskRound(Context& context);

// Waits for all answers, and reads the part once more.
void FinishDisk(Context& context);

// Whether this vCPU drives a queue of a disk.
bool DrivesDisk(const Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_DISK_H_
