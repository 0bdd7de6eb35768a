#include "guest/barrier.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kSpins = 300;  // about 10 to 20 us, the cost of an exit

}  // namespace

void Spinner::Wait() {
  if (context_.aborted()) End(context_.vcpu, abi::Verdict::kAborted);
  if (++turns_ % kSpins != 0) return Pause();
  Add(context_.report.yields, 1);
  // The longer the guest waits, the longer the VMM gives up the host CPU.
  const uint64_t yields = turns_ / kSpins;
  Out8(abi::kYieldPort, static_cast<uint8_t>(yields < 255 ? yields : 255));
}

bool Barrier::Meet(Context& context, bool stop) {
  Add(context.report.barriers, 1);
  const uint64_t epoch = __atomic_load_n(&epoch_, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == context.boot.vcpus) {
    __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
    const uint64_t next = (epoch & ~uint64_t{1}) + 2;
    __atomic_store_n(&epoch_, next | (stop ? 1 : 0), __ATOMIC_RELEASE);
    return stop;
  }
  Spinner spinner(context);
  for (;;) {
    const uint64_t now = __atomic_load_n(&epoch_, __ATOMIC_ACQUIRE);
    if (now != epoch) return (now & 1) != 0;
    spinner.Wait();
  }
}

}  // namespace underfoot::guest
