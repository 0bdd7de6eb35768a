// What takes pages of guest RAM from outside of the process: reclaim, compaction, a DAMON scheme of
// the host's own. A memfd's pages are unmapped by reclaim even where there is no swap. No test can
// forbid it, and only the kernel's notifier sees it: this one listens to others alone, so that what
// the test itself does is still up to the sources under test.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_MEMORY_HOST_WITNESS_H_
#define UNDERFOOT_TESTS_MEMORY_HOST_WITNESS_H_

#include <memory>
#include <utility>

#include "tests/memory/memory_side.h"
#include "vmm/kvm.h"
#include "vmm/memory/kernel_notifier.h"

namespace underfoot::testing {

class HostWitness {
 public:
  // Null: the kernel tells nothing here.
  static std::unique_ptr<HostWitness> Start(MemorySide& side);
  ~HostWitness() { notifier_.Stop(); }
  HostWitness(const HostWitness&) = delete;
  HostWitness& operator=(const HostWitness&) = delete;

  // Whether others took something of the range lately. Not inside a section.
  bool Took(HvaRange range);

  KernelNotifier& notifier() { return notifier_; }

 private:
  HostWitness(MemorySide& side, Vm vm);

  const Vm vm_;  // without one the kernel tells nobody
  const EventLog& log_;
  KernelNotifier notifier_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_MEMORY_HOST_WITNESS_H_
