// Records which pages the guest touches (abi::Visit), for the VMM to read, if BootInfo requests it.

#ifndef UNDERFOOT_GUEST_VISITS_H_
#define UNDERFOOT_GUEST_VISITS_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// The VMM relies on the order of these stores and the accesses. x86 preserves it, and the empty
// statements keep the compiler from changing it.
inline void CompilerBarrier() { __asm__ __volatile__("" : : : "memory"); }

// Called before the first access of a visit. Page 0: the last visit has ended.
inline void Visit(Context& context, uint64_t page_gpa) {
  if (context.boot.keep_visits == 0) return;
  CompilerBarrier();
  Poke(context.report.visiting_page, page_gpa);
  CompilerBarrier();
}

// Called before each access, within a visit of the page.
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
