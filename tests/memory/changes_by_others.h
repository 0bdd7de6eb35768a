// The changes of guest RAM that are made outside of this process: by reclaim, by compaction, by a
// DAMON scheme of the host. Reclaim unmaps the pages of a memfd even if the host has no swap space.
// A test cannot prevent these changes, and only the kernel notifier reports them. The one in this
// class reads the records of other processes only, so the sources under test must still report what
// the test itself does.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_MEMORY_CHANGES_BY_OTHERS_H_
#define UNDERFOOT_TESTS_MEMORY_CHANGES_BY_OTHERS_H_

#include <memory>

#include "tests/memory/memory_side.h"
#include "vmm/evidence/foreign_changes.h"
#include "vmm/kvm/kvm.h"
#include "vmm/sources/kernel/kernel_notifier.h"

namespace underfoot::testing {

class ChangesByOthers {
 public:
  // Null: the kernel's records cannot be read here.
  static std::unique_ptr<ChangesByOthers> Start(MemorySide& side);
  ~ChangesByOthers() { notifier_.Stop(); }
  ChangesByOthers(const ChangesByOthers&) = delete;
  ChangesByOthers& operator=(const ChangesByOthers&) = delete;

  // Whether others have changed a page of the range lately. Not inside a section.
  bool Include(HvaRange range) { return notifier_.Drain() && changes_.Lately(range); }

  KernelNotifier& notifier() { return notifier_; }
  const ForeignChanges& changes() const { return changes_; }

 private:
  ChangesByOthers(MemorySide& side, Vm vm);

  const Vm vm_;  // the kernel makes records only while a VM exists
  ForeignChanges changes_;
  KernelNotifier notifier_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_MEMORY_CHANGES_BY_OTHERS_H_
