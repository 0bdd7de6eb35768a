#include "guest/console.h"
#include "guest/context.h"

namespace underfoot::guest {
void Mismatch(Context& context, const abi::Mismatch& mismatch) {
  abi::Report& report = context.report;
  const uint64_t index = report.mismatches;
  if (index < abi::kMaxMismatches) {
    abi::Mismatch& entry = report.first[index];
    Poke(entry.gfn, mismatch.gfn);
    Poke(entry.word, mismatch.word);
    Poke(entry.expected, mismatch.expected);
    Poke(entry.found, mismatch.found);
    Poke(entry.kind, mismatch.kind);
  }
  Add(report.mismatches, 1);
  if (index >= abi::kMaxMismatches) return;
  Line line(context.vcpu);
  line << "MISMATCH gfn ";
  line.Hex(mismatch.gfn) << " word " << mismatch.word << " expected ";
  line.Hex(mismatch.expected) << " found ";
  line.Hex(mismatch.found) << " (" << NameOf(mismatch.kind) << ")";
  line.Send();
}

void MismatchAt(Context& context, uint64_t gpa, uint64_t expected, uint64_t found,
                abi::MismatchKind kind) {
  Mismatch(context, {.gfn = gpa / kPageBytes,
                     .word = gpa % kPageBytes / sizeof(uint64_t),
                     .expected = expected,
                     .found = found,
                     .kind = kind});
}

}  // namespace underfoot::guest
