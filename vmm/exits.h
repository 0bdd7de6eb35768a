// What a vCPU's exits mean to the machine around it: the interface between a vCPU thread, which
// runs the guest, and the devices and memory that answer it.
//
// Thread safety: every vCPU thread calls these, several at once.

#ifndef UNDERFOOT_VMM_EXITS_H_
#define UNDERFOOT_VMM_EXITS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "mmu/types.h"

namespace underfoot {

// What the vCPU does after an exit.
enum class [[nodiscard]] ExitOutcome : uint8_t{
    kContinue,  // enter the guest again
    kStop,      // this vCPU has ended, and well
    kFail,      // nobody answers such an access: a fatal error of this vCPU
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
  kNoPage,    // KVM_RUN returned EFAULT: no address is told
  kPoisoned,  // SIGBUS with BUS_MCEERR, or EHWPOISON
};

struct MemoryFault {
  MemoryFaultKind kind = MemoryFaultKind::kNoPage;
  std::optional<Hva> hva;  // where the signal said so
};

enum class [[nodiscard]] MemoryFaultOutcome : uint8_t{
    kRetry,  // the page can be there now, or another vCPU thread's turn will bring it
    kFail,
};

class ExitHandler {
 public:
  virtual ~ExitHandler() = default;

  virtual ExitOutcome OnPortIo(unsigned vcpu, const PortIo& io) = 0;

  // An access to a gpa that no memslot holds just now. `data` holds what the guest wrote, or is to
  // be filled with what it reads. At most 8 bytes, and may not be aligned. An error ends the vCPU.
  virtual absl::Status OnMmio(unsigned vcpu, Gpa gpa, std::span<std::byte> data, bool write) = 0;

  virtual ExitOutcome OnHalt(unsigned vcpu) = 0;

  // The host's memory failed this vCPU; the memory side knows why, and decides.
  virtual MemoryFaultOutcome OnMemoryFault(unsigned vcpu, const MemoryFault& fault) = 0;

  // The vCPU thread ends with `error`; the same status is Join's result. No call follows for it.
  virtual void OnFatal(unsigned vcpu, const absl::Status& error) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EXITS_H_
