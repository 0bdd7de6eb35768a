#include "guest/console.h"
#include "guest/context.h"

namespace underfoot::guest {
namespace {

const char* Name(abi::MismatchKind kind) {
  switch (kind) {
    case abi::MismatchKind::kCorrupt:
      return "corrupt";
    case abi::MismatchKind::kStale:
      return "stale";
    case abi::MismatchKind::kLost:
      return "lost";
    case abi::MismatchKind::kResurrected:
      return "resurrected";
    case abi::MismatchKind::kRingLost:
      return "ring record lost";
    case abi::MismatchKind::kRingStale:
      return "ring record stale";
    case abi::MismatchKind::kRingCorrupt:
      return "ring record corrupt";
    case abi::MismatchKind::kRingIndex:
      return "ring index";
  }
  return "unknown";
}

}  // namespace

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
  Line line;
  line << "vcpu " << context.vcpu << ": MISMATCH gfn ";
  line.Hex(mismatch.gfn) << " word " << mismatch.word << " expected ";
  line.Hex(mismatch.expected) << " found ";
  line.Hex(mismatch.found) << " (" << Name(mismatch.kind) << ")";
  line.Send();
}

}  // namespace underfoot::guest
