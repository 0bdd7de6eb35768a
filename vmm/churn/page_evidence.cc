#include "vmm/churn/page_evidence.h"

#include <cstddef>

namespace underfoot {
namespace {

bool IsReportedWhateverIsThere(ChurnKind kind) {
  switch (kind) {
    case ChurnKind::kPageout:
    case ChurnKind::kAdversary:
    case ChurnKind::kCollapse:
    case ChurnKind::kSplit:
    case ChurnKind::kFork:
    case ChurnKind::kCompact:
    case ChurnKind::kWp:
    case ChurnKind::kProtect:
      return false;
    default:
      return true;
  }
}

bool ShowsAChange(ChurnKind kind, const PagemapEntry& before, const PagemapEntry& after) {
  switch (kind) {
    case ChurnKind::kPageout:
    case ChurnKind::kAdversary:
      return before.present && after.swapped;
    case ChurnKind::kCollapse:
    case ChurnKind::kSplit:
      return before.present && after.present && before.pfn != after.pfn;
    case ChurnKind::kFork:
      return before.present;  // the child's page table is a copy; the parent's entries change
    case ChurnKind::kWp:
    case ChurnKind::kProtect:
      return before.present && after.present;
    default:
      // Compaction moves pages of the whole host. The page tables do not show whether compaction or
      // another operation at the same time changed a frame.
      return false;
  }
}

}  // namespace

PageEvidence::PageEvidence(const Pagemap& pagemap, ChurnKind kind, HvaRange range)
    : pagemap_(pagemap), kind_(kind), range_(range), before_(Look()) {}

std::vector<PagemapEntry> PageEvidence::Look() const {
  if (IsReportedWhateverIsThere(kind_) || kind_ == ChurnKind::kCompact) return {};
  std::vector<PagemapEntry> entries(range_.size() >> kPageShift);
  pagemap_.Read(range_, entries);
  return entries;
}

bool PageEvidence::KernelHasToReport() const {
  if (IsReportedWhateverIsThere(kind_)) return true;
  const std::vector<PagemapEntry> after = Look();
  for (size_t i = 0; i < before_.size(); ++i) {
    if (ShowsAChange(kind_, before_[i], after[i])) return true;
  }
  return false;
}

}  // namespace underfoot
