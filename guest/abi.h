// The contract between the VMM and the test guest: memory layout, boot protocol, ports, reports.
//
// The VMM starts every vCPU itself (no interrupts, no SIPI) in 64-bit mode, ring 0, with identity
// page tables over all RAM (2 MiB pages, user bit set), and
//   rdi = gpa of BootInfo      rsi = vCPU index      rsp = StackTop(index)
// CPUID shows a long-mode processor with addresses up to the end of the MMIO window, and no more.
// The guest builds its descriptor tables, drops to ring 3 and works there until `stop` is set.
//
// System area, gpa [0, 16 MiB): its memslot is never removed, so locked and wide accesses are
// allowed there. Everything above is data, which must be accessed only by plain 8-byte loads and
// stores: a data slot may be deleted for a moment, and the access is then an MMIO exit that KVM
// emulates.
//
//   0x0000000  not used          0x0100000  stacks, kStackBytes for each vCPU
//   0x0001000  BootInfo          0x0200000  the guest image
//   0x0002000  Reports           0x0400000  the guest's own tables (heap)
//   0x0006000  texts             0x0a00000  visits, if they are kept; else more of the heap
//   0x001f000  page tables       0x1000000  end: data ranges begin
//
// The registers of the virtio devices lie at kMmioGpa, above all RAM; the page tables map them too.
//
// Thread safety: each word has one writer, which is named at the field. Read and write words as
// single 8-byte accesses (relaxed atomics), because the other side reads them while the guest runs.

#ifndef UNDERFOOT_GUEST_ABI_H_
#define UNDERFOOT_GUEST_ABI_H_

#include <cstddef>
#include <cstdint>

namespace underfoot::abi {

// "Undrfot": the project's name, shortened to 7 bytes.
inline constexpr uint64_t kMagic = 0x746f6f6672646e55;
inline constexpr uint64_t kVersion = 1;

inline constexpr uint64_t kMaxVcpus = 32;
inline constexpr uint64_t kMaxRanges = 16;
inline constexpr uint64_t kMaxMismatches = 7;

inline constexpr uint64_t kBootInfoGpa = 0x1000;
inline constexpr uint64_t kReportsGpa = 0x2000;
inline constexpr uint64_t kTextsGpa = 0x6000;
inline constexpr uint64_t kTextBytes = 256;
inline constexpr uint64_t kMmioDirectoryGpa = 0x1f000;  // the page directory of the MMIO window
inline constexpr uint64_t kPageTablesGpa = 0x20000;
inline constexpr uint64_t kPageTablesEnd = 0x100000;
inline constexpr uint64_t kStacksGpa = 0x100000;
inline constexpr uint64_t kStackBytes = 0x8000;
inline constexpr uint64_t kImageGpa = 0x200000;
inline constexpr uint64_t kImageEnd = 0x400000;
inline constexpr uint64_t kHeapGpa = 0x400000;
inline constexpr uint64_t kSystemAreaBytes = 0x1000000;
// The end of the heap, and the beginning of the visits, if BootInfo::keep_visits requests them.
inline constexpr uint64_t kVisitsGpa = 0xa00000;

constexpr uint64_t StackTop(uint64_t vcpu) { return kStacksGpa + (vcpu + 1) * kStackBytes; }
static_assert(StackTop(kMaxVcpus - 1) <= kImageGpa);

// The text that a vCPU prints by kTextPort.
constexpr uint64_t TextGpa(uint64_t vcpu) { return kTextsGpa + vcpu * kTextBytes; }
static_assert(TextGpa(kMaxVcpus) <= kMmioDirectoryGpa);

// The MMIO window: BootInfo::virtio_devices devices with the registers of virtio-mmio (virtio 1.2,
// section 4.2.2), kMmioDeviceBytes apart. It lies in the last GiB that the guest's page tables can
// map. No memslot is ever there.
inline constexpr uint64_t kMmioGpa = uint64_t{511} << 30;
inline constexpr uint64_t kMmioBytes = uint64_t{2} << 20;
inline constexpr uint64_t kMmioDeviceBytes = 0x1000;

// Ports. The serial port behaves like a 16550 to a polling writer: data, and a line status that is
// always ready. A wider write to its data port is that many characters, the first in the low byte.
// A 4-byte write of n to kTextPort stands for writing the first n bytes of the vCPU's text to the
// serial port, which would be one exit for each of them; at most kTextBytes.
// A 4-byte write to kExitPort is the vCPU's Verdict; hlt must follow. A write to kYieldPort means
// that the vCPU spins for another one, for the Nth time in this wait (255: 255 times or more).
inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint16_t kSerialLineStatusPort = 0x3fd;
inline constexpr uint16_t kExitPort = 0x501;
inline constexpr uint16_t kYieldPort = 0x502;
inline constexpr uint16_t kTextPort = 0x503;
// A 4-byte write of a gfn gives the VMM that page as an EventPage: one for the VM, and one for the
// vCPU that writes. A write of 0 closes the page. Each page can be given once in a run. A read
// returns 1 if the page was taken and is not closed, otherwise 0; all ones: there is no such port.
inline constexpr uint16_t kVmEventPort = 0x508;
inline constexpr uint16_t kVcpuEventPort = 0x50c;

enum class Workload : uint64_t {
  kHello = 0,   // one line on the serial port, verdict good
  kStamp = 1,   // each vCPU stamps and verifies its own pages
  kSmp = 2,     // all vCPUs meet at the same and neighbouring pages
  kShared = 3,  // vCPU 0 serves the rings of the shared page, the others check their indices
  kMixed = 4,   // all of these, interleaved by every vCPU
};

enum class RangeKind : uint64_t {
  kPrecious = 1,     // a page reads as it was last written
  kDiscardable = 2,  // a page may become all zeroes at any time
  kShared = 3,       // its first page is a SharedPage; content kept like a precious page's
};

enum class Verdict : uint64_t {
  kGood = 0,
  kMismatch = 1,        // see Report::mismatches
  kException = 2,       // see Report::exception_*
  kBadBootInfo = 3,     // magic, version or ranges are not valid for this guest
  kAborted = 4,         // another vCPU ended by an exception
  kNothingChecked = 5,  // nothing was checked, so the run is not a success
};

enum class MismatchKind : uint64_t {
  kCorrupt = 1,      // neither the last nor an earlier value
  kStale = 2,        // an earlier value
  kLost = 3,         // zero where content had to survive
  kResurrected = 4,  // old content in a page that had already read as zeroes
  kRingLost = 5,     // a record of a later lap: at least one record was lost
  kRingStale = 6,    // a record of an earlier lap, although the index announces a new one
  kRingCorrupt = 7,  // right sequence, wrong payload
  kRingIndex = 8,    // a ring index that decreased or is too far ahead
  kDisk = 9,         // a sector of the disk with another content than it must have
  kDevice = 10,      // a virtio device did not do what was asked for
  kNotRandom = 11,   // the bytes of the entropy device
  kEventLost = 12,   // fewer events came than the VMM has sent
  kEventTwice = 13,  // more events came than the VMM has sent
  kEventTime = 14,   // a time or a count of an event page that went back, or a torn time
};

constexpr const char* NameOf(MismatchKind kind) {
  switch (kind) {
    case MismatchKind::kCorrupt:
      return "corrupt";
    case MismatchKind::kStale:
      return "stale";
    case MismatchKind::kLost:
      return "lost";
    case MismatchKind::kResurrected:
      return "resurrected";
    case MismatchKind::kRingLost:
      return "ring record lost";
    case MismatchKind::kRingStale:
      return "ring record stale";
    case MismatchKind::kRingCorrupt:
      return "ring record corrupt";
    case MismatchKind::kRingIndex:
      return "ring index";
    case MismatchKind::kDisk:
      return "disk content";
    case MismatchKind::kDevice:
      return "device";
    case MismatchKind::kNotRandom:
      return "not random";
    case MismatchKind::kEventLost:
      return "event lost";
    case MismatchKind::kEventTwice:
      return "event twice";
    case MismatchKind::kEventTime:
      return "event page time";
  }
  return "unknown kind";
}

enum class VcpuState : uint64_t {
  kNotStarted = 0,
  kRunning = 1,
  kFinalVerify = 2,
  kDone = 3,
  kException = 4,
};

struct DataRange {
  uint64_t gpa;  // page aligned, at or above kSystemAreaBytes
  uint64_t bytes;
  RangeKind kind;
  uint64_t reserved;
};

// The VMM writes it before the start, except `stop` and the fields that say otherwise.
struct BootInfo {
  uint64_t magic;
  uint64_t version;
  uint64_t vcpus;
  Workload workload;
  uint64_t seed;
  uint64_t max_rounds;    // end by itself after this many rounds; 0: run until `stop`
  uint64_t max_pages;     // use at most this many pages, spread over the ranges; 0: all
  uint64_t final_pages;   // for each vCPU: verify at most this many pages after `stop`; 0: all
  uint64_t memory_bytes;  // end of RAM; the page tables map it, and memory that can be plugged
  uint64_t range_count;
  uint64_t keep_visits;     // 1: record each touch of a page of a precious or discardable range
  uint64_t visit_epoch;     // written by the VMM at any time: the epoch to record, from 1 on
  uint64_t virtio_devices;  // in the MMIO window
  uint64_t device_turns;    // of the disk's driver in kMixed for each one of the stamps; 0: 1
  uint64_t reserved[2];
  DataRange ranges[kMaxRanges];
  uint64_t stop;   // the VMM writes 1: finish the round, verify once more, report, end
  uint64_t abort;  // a vCPU writes 1 after an exception: no vCPU waits for it any more
  uint64_t padding[6];
};

// `gfn` is the page and `word` the index of the 8-byte word in it. For the ring kinds, `gfn` is the
// shared page, and `expected` and `found` are sequences (kRingCorrupt: payloads). For kDisk, `gfn` is
// the sector and `word` the index in it. For kDevice and kNotRandom, `gfn` is the page of the
// device's registers, and `word` the step that failed (guest/virtio.h). For the event kinds, `gfn`
// is the event page.
struct Mismatch {
  uint64_t gfn;
  uint64_t word;
  uint64_t expected;
  uint64_t found;
  MismatchKind kind;
};

// One for each vCPU, at kReportsGpa + index * sizeof(Report). Written by that vCPU only.
struct Report {
  VcpuState state;
  Verdict verdict;  // meaningful once `done` is 1
  uint64_t done;
  uint64_t rounds;
  uint64_t pages_checked;
  uint64_t pages_written;
  uint64_t zero_pages;  // the number of discardable pages found discarded
  uint64_t mismatches;
  uint64_t ring_consumed;
  uint64_t ring_answered;
  uint64_t barriers;
  uint64_t yields;
  uint64_t pages_owned;     // pages this vCPU uses (pages of smp count for every vCPU)
  uint64_t pages_left_out;  // pages of all ranges that no vCPU uses (max_pages, heap size)
  uint64_t final_checked;
  uint64_t final_skipped;
  uint64_t exception_vector;
  uint64_t exception_error;
  uint64_t exception_rip;
  uint64_t exception_cr2;
  uint64_t visiting_gpa;     // the 64 pages that the vCPU is writing; 0: none
  uint64_t visiting_page;    // the page that the vCPU is touching, if visits are kept; 0: none
  uint64_t device_requests;  // requests to virtio devices whose result was verified
  uint64_t disk_digest;      // of this vCPU's part of the disk, read after `stop`; see DiskPart
  Mismatch first[kMaxMismatches];
  uint64_t events_taken;  // of the event pages
  uint64_t
      answers_in_runs;  // of virtio devices: those without a used element of their own (IN_ORDER)
  uint64_t reserved[3];
};

// One for each page from gpa kSystemAreaBytes on, at kVisitsGpa, if visits are kept: the epoch in
// which the guest last read or wrote the page, and the epoch of its last write; 0: never. Any vCPU
// records a visit before the access. If all vCPUs have stopped, the visiting_page of a vCPU may be
// recorded and not touched yet, or touched and recorded with the previous epoch. All other records
// are exact.
struct Visit {
  uint32_t touched;
  uint32_t written;
};
inline constexpr uint64_t kMaxVisits = (kSystemAreaBytes - kVisitsGpa) / sizeof(Visit);

constexpr uint64_t VisitGpa(uint64_t page_gpa) {
  return kVisitsGpa + (page_gpa - kSystemAreaBytes) / 4096 * sizeof(Visit);
}

constexpr uint64_t ReportGpa(uint64_t vcpu) { return kReportsGpa + vcpu * sizeof(Report); }

// The shared page: two single-producer single-consumer rings. The indices count records since the
// start and never wrap; record n (from 0) lies in records[n % kRingRecords] and carries sequence
// n + 1. The producer writes payload, then sequence, then head; the consumer reads head, checks
// the record, then writes tail. All are plain 8-byte accesses in this order (release / acquire on
// the VMM's side).
inline constexpr uint64_t kRingRecords = 64;

struct RingRecord {
  uint64_t sequence;
  uint64_t payload;
};

struct Ring {
  uint64_t head;  // records produced; written by the producer
  uint64_t head_padding[7];
  uint64_t tail;  // records consumed; written by the consumer
  uint64_t tail_padding[7];
  RingRecord records[kRingRecords];
};

struct SharedPage {
  Ring to_guest;  // the VMM produces: payload = RequestPayload(seed, sequence)
  Ring to_vmm;    // vCPU 0 produces, one for each request, in order, with the request's sequence:
                  // payload = AnswerPayload(request payload)
};

// A page in which the VMM sends events and tells the time, in the manner of Xen's shared info,
// kvmclock and steal time. The guest zeroes it and gives it to the VMM (kVmEventPort).
//
// An event is sent on a channel. The VMM adds it to the channel's count. If the guest has taken the
// channel's bit, the VMM then turns the bit; otherwise the channel is pending already. The guest
// takes a channel whose bit differs in `turned` and `taken`: it makes them equal, and then (after a
// fence) reads the count. The events that have come are those by which the count has grown since the
// last time. There may be none: the take before had them already.
//
// A closed page has the number of all events that were sent on each channel, in `totals`. When the
// guest has taken what is still pending, it has had exactly these.
//
// The time is valid if `version` is even and the same before and after it was read.
inline constexpr uint64_t kEventChannels = 32;

struct EventTime {
  uint64_t version;   // twice the number of updates; odd during an update
  uint64_t ns;        // since a fixed moment before the machine was made
  uint64_t steal_ns;  // in which the vCPU's thread waited for a CPU; of the VM-wide page: 0
  uint64_t check;     // TimeCheck
};

struct EventPage {
  EventTime time;   // written by the VMM
  uint64_t turned;  // a bit for each channel, written by the VMM
  uint64_t closed;  // written by the VMM: 1, after all other words
  uint64_t vmm_padding[2];
  uint64_t taken;  // a bit for each channel, written by the guest
  uint64_t guest_padding[7];
  uint64_t counts[kEventChannels];  // written by the VMM
  uint64_t totals[kEventChannels];  // written by the VMM before `closed`
};

// The finalizer of splitmix64: cheap, and every input bit affects every output bit.
constexpr uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

constexpr uint64_t RequestPayload(uint64_t seed, uint64_t sequence) {
  return Mix(seed ^ Mix(sequence));
}
constexpr uint64_t AnswerPayload(uint64_t request_payload) { return Mix(request_payload + 1); }

constexpr uint64_t TimeCheck(const EventTime& time) {
  return Mix(time.version ^ Mix(time.ns ^ Mix(time.steal_ns)));
}

// The part of the disk that the vCPU which drives a queue of it works on. All else stays as it is.
inline constexpr uint64_t kMaxDiskQueues = 4;
inline constexpr uint64_t kSectorBytes = 512;
inline constexpr uint64_t kSectorWords = kSectorBytes / sizeof(uint64_t);
inline constexpr uint64_t kMaxPartSectors = 512;
struct DiskPart {
  uint64_t first;  // sector
  uint64_t sectors;
};
constexpr DiskPart PartOf(uint64_t queue, uint64_t queues, uint64_t disk_sectors) {
  const uint64_t share = disk_sectors / queues;
  const uint64_t sectors = share < kMaxPartSectors ? share : kMaxPartSectors;
  return {queue * sectors, sectors};
}

// The most memory that the built-in guest plugs (virtio-mem). It has a note for each part of it.
inline constexpr uint64_t kMaxHotplugBytes = uint64_t{1} << 30;

// get-id answers with this name.
inline constexpr char kDiskId[] = "underfoot-disk";
inline constexpr uint64_t kDiskIdWord = 0x6f6f667265646e75;  // "underfoo"

// Report::disk_digest is the sum over the sectors of the part.
constexpr uint64_t DigestOfSector(uint64_t sector, const uint64_t (&words)[kSectorWords]) {
  uint64_t digest = Mix(sector);
  for (const uint64_t word : words) digest = Mix(digest ^ word);
  return digest;
}

static_assert(offsetof(BootInfo, workload) == 24);
static_assert(offsetof(BootInfo, ranges) == 128);
static_assert(offsetof(BootInfo, stop) == 640);
static_assert(offsetof(BootInfo, abort) == 648);
static_assert(sizeof(BootInfo) == 704 && kBootInfoGpa + sizeof(BootInfo) <= kReportsGpa);
static_assert(sizeof(DataRange) == 32);
static_assert(sizeof(Mismatch) == 40);
static_assert(offsetof(Report, done) == 16);
static_assert(offsetof(Report, pages_checked) == 32);
static_assert(offsetof(Report, mismatches) == 56);
static_assert(offsetof(Report, exception_vector) == 128);
static_assert(offsetof(Report, first) == 192);
static_assert(offsetof(Report, device_requests) == 176);
static_assert(offsetof(Report, events_taken) == 472);
static_assert(sizeof(Report) == 512 && ReportGpa(kMaxVcpus) <= kTextsGpa);
static_assert(offsetof(Ring, tail) == 64);
static_assert(offsetof(Ring, records) == 128);
static_assert(offsetof(SharedPage, to_vmm) == 1152);
static_assert(sizeof(SharedPage) <= 4096);
static_assert(offsetof(EventPage, taken) == 64);
static_assert(offsetof(EventPage, counts) == 128);
static_assert(sizeof(EventPage) <= 4096);

}  // namespace underfoot::abi

#endif  // UNDERFOOT_GUEST_ABI_H_
