// The interface between a vCPU thread, which runs the guest, and the devices and the memory that
// handle its exits.
//
// Thread safety: every vCPU thread calls these functions, several at once.

#ifndef UNDERFOOT_VMM_KVM_EXITS_H_
#define UNDERFOOT_VMM_KVM_EXITS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "mmu/base/types.h"

namespace underfoot {

// What the vCPU does after an exit.
enum class [[nodiscard]] ExitOutcome : uint8_t{
    kContinue,  // enter the guest again
    kStop,      // this vCPU has ended normally
    kFail,      // no device handles this access: a fatal error of this vCPU
};

// One port instruction; `data` holds `count` items of `size` bytes, to be filled when !write.
struct PortIo {
  uint16_t port = 0;
  uint8_t size = 0;
  uint32_t count = 0;
  bool write = false;
  std::span<std::byte> data;
};

enum class MemoryFaultKind : uint8_t {
  kNoPage,    // KVM_RUN returned EFAULT; KVM does not report the address
  kPoisoned,  // SIGBUS with BUS_MCEERR, or EHWPOISON
};

struct MemoryFault {
  MemoryFaultKind kind = MemoryFaultKind::kNoPage;
  std::optional<Hva> hva;  // set if a signal reported it
};

enum class [[nodiscard]] MemoryFaultOutcome : uint8_t{
    // The page may be present now, or another vCPU thread will bring it in. Enter the guest again.
    kRetry,
    kFail,
};

class ExitHandler {
 public:
  virtual ~ExitHandler() = default;

  virtual ExitOutcome OnPortIo(unsigned vcpu, const PortIo& io) = 0;

  // Handles an access to a gpa that no memslot holds at this moment. `data` holds what the guest
  // wrote, or must be filled with what it reads. An access has at most 8 bytes and may be
  // unaligned. An error ends the vCPU.
  virtual absl::Status OnMmio(unsigned vcpu, Gpa gpa, std::span<std::byte> data, bool write) = 0;

  virtual ExitOutcome OnHalt(unsigned vcpu) = 0;

  // KVM could not access host memory for this vCPU. The memory side decides what to do, because it
  // knows the cause.
  virtual MemoryFaultOutcome OnMemoryFault(unsigned vcpu, const MemoryFault& fault) = 0;

  // The vCPU thread ends with `error`, which is also the result of Join. No other call follows for
  // this vCPU.
  virtual void OnFatal(unsigned vcpu, const absl::Status& error) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_EXITS_H_
