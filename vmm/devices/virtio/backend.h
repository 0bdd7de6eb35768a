// What a kind of device does: its identity, its configuration, and how it serves a request. All
// else (registers, rings, threads) is the same for every device.
//
// Thread safety: the const functions may be called by any thread. Serve is called by the worker of
// each queue, for several queues at once.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_BACKEND_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_BACKEND_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "mmu/base/stats.h"
#include "mmu/direct_requests.h"
#include "mmu/mmu.h"
#include "vmm/devices/virtio/page_buffer.h"
#include "vmm/devices/virtio/staged_copies.h"
#include "vmm/devices/virtio/virtqueue.h"
#include "vmm/ram/guest_access.h"

namespace underfoot::virtio {

// The mask of a feature that <linux/virtio_*.h> has as a number.
constexpr uint64_t FeatureBit(unsigned bit) { return uint64_t{1} << bit; }

// The counters of one queue. Only its worker changes them; any thread may read them.
struct QueueCounters {
  OwnedCounter requests;          // served
  OwnedCounter errors;            // of them, answered with an error
  OwnedCounter to_guest_bytes;    // payload
  OwnedCounter from_guest_bytes;  // payload
  OwnedCounter bounced;           // transfers between a file and guest memory through a buffer
  OwnedCounter direct;            // and those by one system call on guest memory
  OwnedCounter direct_again;      // direct ones that were made again, through a buffer
  OwnedCounter file_errors;       // requests for which the file behind the device has failed
  OwnedCounter kicks;             // notifications by the driver
  OwnedCounter interrupts;        // raised
  OwnedCounter away;              // steps put off because the memory of a ring was away
  OwnedCounter shortages;         // steps put off because this process had no memory
};

// The payload of a chain as two strings of bytes: the one that the device reads, and the one that it
// writes. The caller holds no section.
//
// The beginning of what the device reads may have been fetched, and what it writes may be staged: the
// bytes arrive in the memory of the guest before the request is published (request_batch.h). All else
// is copied at once, in sections of its own.
class Request {
 public:
  // Shorter transfers go through a buffer: for them the announcement costs more than the copy.
  static constexpr uint64_t kLeastDirectBytes = uint64_t{16} << 10;

  // What a worker keeps from one request to the next.
  struct Worker {
    Mmu& mmu;
    GuestAccess& access;
    Reader& reader;
    DirectRequest& direct;
    QueueCounters& counters;
    PageBuffer& scratch;
    const std::atomic<bool>& let_go;  // the worker shall let go of the ring, or end
    uint16_t queue = 0;
    bool waited = false;
  };
  Request(const Worker& worker, const Chain& chain) : worker_(worker), chain_(chain) {}
  // `finish` publishes the requests before this one.
  void Stage(std::span<const std::byte> fetched, StagedCopies& staged,
             absl::FunctionRef<void()> finish) {
    fetched_ = fetched;
    staged_ = &staged;
    finish_.emplace(finish);
  }

  uint16_t queue() const { return worker_.queue; }
  // Serve has said Served::later of this request, and is called again.
  bool waited() const { return worker_.waited; }
  // True: the driver has reset the device or taken the queue back, or the machine ends. The request
  // gets no answer, whatever Serve returns. A request can be long (a chain may describe 4 GiB, and the
  // same memory many times), so a device looks here before each step of it.
  // Relaxed: nothing that the device reads depends on it.
  bool abandoned() const { return worker_.let_go.load(kRelaxed); }
  // For a device to which the buffers themselves are the request.
  std::span<const Buffer> writable() const { return chain_.writable; }
  uint64_t readable_bytes() const { return chain_.readable_bytes; }
  uint64_t writable_bytes() const { return chain_.writable_bytes; }

  // `offset + bytes.size()` is at most readable_bytes() or writable_bytes(). False: the memory
  // cannot be brought in, or is read-only. Part of the bytes may have been copied then.
  [[nodiscard]] bool Read(uint64_t offset, std::span<std::byte> bytes) {
    if (bytes.empty()) return true;
    if (offset + bytes.size() > fetched_.size()) return ReadFromGuest(offset, bytes);
    std::memcpy(bytes.data(), fetched_.data() + offset, bytes.size());
    return true;
  }
  [[nodiscard]] bool Write(uint64_t offset, std::span<const std::byte> bytes) {
    return bytes.empty() || TryStage(offset, bytes) || WriteToGuest(offset, bytes);
  }

  // To be called before a call that may wait for long: for a file, or for another thread. Throws if the
  // requests before this one cannot be answered now; Serve is then called again.
  void BeforeWait() {
    if (finish_.has_value()) (*finish_)();
  }

  // A system call that writes to guest memory: it returns the number of bytes, or a negative number.
  using SystemCall = absl::FunctionRef<ssize_t(std::span<const iovec> guest)>;
  // Has `call` write `bytes` straight to the writable part (mmu/direct_requests.h), and marks the
  // pages as written afterwards. False: the content of these bytes is undefined, and the caller has
  // to make the whole transfer again by Write. `call` may have run or not.
  [[nodiscard]] bool TryWriteDirectly(uint64_t offset, uint64_t bytes, SystemCall call) {
    return bytes >= kLeastDirectBytes && TryAnnounced(offset, bytes, call);
  }

  QueueCounters& counters() { return worker_.counters; }
  // A buffer of the VMM's own, until the next call. What lies in it is staged without a copy.
  std::span<std::byte> Scratch(uint64_t bytes) {
    if (staged_ != nullptr) {
      if (const std::span<std::byte> room = staged_->Allocate(bytes); !room.empty()) return room;
    }
    return worker_.scratch.AtLeast(bytes);
  }

  // Calls `copy` with the gpa, the bytes before it, and the size of each part of `bytes` bytes from
  // `offset` on, until it returns false.
  template <class Copy>
  static bool ForEachBuffer(std::span<const Buffer> buffers, uint64_t offset, uint64_t bytes,
                            const Copy& copy);

 private:
  bool ReadFromGuest(uint64_t offset, std::span<std::byte> bytes);
  bool WriteToGuest(uint64_t offset, std::span<const std::byte> bytes);
  bool TryStage(uint64_t offset, std::span<const std::byte> bytes);
  bool TryAnnounced(uint64_t offset, uint64_t bytes, SystemCall call);

  const Worker worker_;
  const Chain& chain_;
  std::span<const std::byte> fetched_;
  StagedCopies* staged_ = nullptr;
  std::optional<absl::FunctionRef<void()>> finish_;
};

template <class Copy>
bool Request::ForEachBuffer(std::span<const Buffer> buffers, uint64_t offset, uint64_t bytes,
                            const Copy& copy) {
  // Most often one buffer, the first one, has it all.
  if (!buffers.empty() && offset + bytes <= buffers.front().bytes && bytes != 0) {
    return copy(buffers.front().gpa + offset, 0, bytes);
  }
  uint64_t done = 0;
  for (const Buffer& buffer : buffers) {
    if (done == bytes) break;
    if (offset >= buffer.bytes) {
      offset -= buffer.bytes;
      continue;
    }
    const uint64_t here = std::min(buffer.bytes - offset, bytes - done);
    if (!copy(buffer.gpa + offset, done, here)) return false;
    done += here;
    offset = 0;
  }
  UNDERFOOT_CHECK(done == bytes, "an access past the end of a request", done, bytes);
  return true;
}

inline bool Request::TryStage(uint64_t offset, std::span<const std::byte> bytes) {
  if (staged_ == nullptr) return false;
  std::byte* from = const_cast<std::byte*>(bytes.data());  // copies to the guest only read
  if (!staged_->Owns(from)) {
    const std::span<std::byte> room = staged_->Allocate(bytes.size());
    if (room.empty()) return false;
    std::memcpy(room.data(), bytes.data(), bytes.size());
    from = room.data();
  }
  return ForEachBuffer(chain_.writable, offset, bytes.size(),
                       [&](Gpa gpa, uint64_t done, uint64_t here) {
                         staged_->Add({gpa, Access::kWrite, from + done, here});
                         return true;
                       });
}

// Of 8 bytes: it is returned in a register. Built in memory, it would be stored in small pieces and
// loaded as a whole, and the load would wait for each of the stores.
struct Served {
  // The bytes at the beginning of the writable part that were written.
  uint32_t written = 0;
  // False: the chain cannot be answered at all, which breaks the rules of the device.
  bool answered = true;
  // Not now: the request waits for something from outside. Serve is called again with it after
  // Backend::WakeQueue, or a notification of the driver.
  bool later = false;
};
static_assert(sizeof(Served) == sizeof(uint64_t));

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;
  virtual uint32_t device_id() const = 0;  // VIRTIO_ID_*
  virtual uint64_t features() const = 0;   // the bits of this kind of device
  // Of them, those without which the device does not work.
  virtual uint64_t required_features() const { return 0; }
  virtual uint16_t queues() const = 0;
  // The fields of the configuration, if they do not change.
  virtual std::span<const std::byte> config() const = 0;

  // Accesses of the driver to the configuration. Any thread. The generation changes with a field.
  virtual void ReadConfig(uint64_t offset, std::span<std::byte> data) const {
    CopyConfig(config(), offset, data);
  }
  virtual void WriteConfig(uint64_t, std::span<const std::byte>) {}
  virtual uint32_t config_generation() const { return 0; }
  // A driver begins, with the features that it has accepted. Before the workers serve its queues.
  virtual void DriverBegins(uint64_t) {}
  // The worker of the queue begins with a ring. What was begun for a request of another ring of it is
  // given up. By this worker.
  virtual void RingBegins(uint16_t) {}
  // Whether a driver shall be interrupted for the configuration when it begins, as after a change.
  virtual bool announces_config() const { return false; }
  // Receives each change of a field, to interrupt the driver. Set before the device starts.
  void SetConfigSink(std::function<void()> sink) { config_sink_ = std::move(sink); }
  // Receives each WakeQueue. Set before the device starts.
  void SetWakeSink(std::function<void(uint16_t queue)> sink) { wake_sink_ = std::move(sink); }

  // Holds nothing, and may sleep in system calls, after Request::BeforeWait: on memory of its own, or on
  // guest memory by Request::TryWriteDirectly. If it throws std::bad_alloc, it is called again with the
  // same request. Between two such calls it looks at Request::abandoned: a guest must not be able to
  // keep a worker for longer than one of them takes.
  virtual Served Serve(Request& request) = 0;
  // Whether a request whose writes could not be carried out may be served once more. If not, a write
  // of it is carried out before Request::Write returns.
  virtual bool may_serve_again() const { return true; }
  // The file behind the device, as a message names it; empty: there is none.
  virtual std::string file() const { return {}; }
  // What has failed first outside of the guest; empty: nothing has.
  virtual std::string first_error() const { return {}; }

 protected:
  // Copies what `data` covers of `config`; bytes past its end stay as they are.
  static void CopyConfig(std::span<const std::byte> config, uint64_t offset,
                         std::span<std::byte> data);
  void ConfigChanged() {
    if (config_sink_) config_sink_();
  }
  // What a request of this queue waits for has come (Served::later).
  void WakeQueue(uint16_t queue) {
    if (wake_sink_) wake_sink_(queue);
  }

 private:
  std::function<void()> config_sink_;
  std::function<void(uint16_t queue)> wake_sink_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_BACKEND_H_
