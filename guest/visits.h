// Notes which pages the guest touches, where the VMM reads it (abi::Visit), if BootInfo asks.

#ifndef UNDERFOOT_GUEST_VISITS_H_
#define UNDERFOOT_GUEST_VISITS_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// The order of these stores and of the accesses is what the VMM relies on; x86 keeps it, the empty
// statements keep the compiler from changing it.
inline void CompilerBarrier() { __asm__ __volatile__("" : : : "memory"); }

// Before the first access of a visit. Page 0: the last visit is over.
inline void Visit(Context& context, uint64_t page_gpa) {
  if (context.boot.keep_visits == 0) return;
  CompilerBarrier();
  Poke(context.report.visiting_page, page_gpa);
  CompilerBarrier();
}

// Before each access, within a visit of the page.
inline void NoteTouch(Context& context, uint64_t page_gpa, bool writes) {
  if (context.boot.keep_visits == 0) return;
  auto& visit = *reinterpret_cast<abi::Visit*>(abi::VisitGpa(page_gpa));
  const auto epoch = static_cast<uint32_t>(Peek(context.boot.visit_epoch));
  Poke(visit.touched, epoch);
  if (writes) Poke(visit.written, epoch);
  CompilerBarrier();
}

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_VISITS_H_
