#include "vmm/memory/fault_window.h"

#include <algorithm>

namespace underfoot {
namespace {

// From the page to the end of its aligned block, in the direction of the stream.
HvaRange Ahead(Hva page, uint64_t pages, bool up) {
  const uint64_t bytes = pages * kPageSize;
  const Hva block = page - page.value % bytes;
  return up ? HvaRange{page, block + bytes} : HvaRange{block, page + kPageSize};
}

}  // namespace

HvaRange FaultWindow::Next(Hva page, HvaRange within) {
  const HvaRange alone = PageRangeOf(page);
  if (limit_ == 1) return alone;
  ++now_;
  for (Stream& stream : streams_) {
    if (stream.window.empty()) continue;
    const bool grown = stream.pages > 1;
    const bool above = page == stream.window.end && (stream.up || !grown);
    const bool below = alone.end == stream.window.begin && (!stream.up || !grown);
    if (above || below) {
      const uint64_t pages = std::min(stream.pages * 2, limit_);
      stream = {Ahead(page, pages, above).Intersect(within), pages, above, now_};
      return stream.window;
    }
  }
  for (Stream& stream : streams_) {
    if (stream.window.Contains(page)) stream.pages = std::max<uint64_t>(stream.pages / 2, 1);
  }
  Victim() = {alone, 1, true, now_};
  return alone;
}

FaultWindow::Stream& FaultWindow::Victim() {
  const auto grown = [](const Stream& stream) { return stream.pages > 1; };
  const bool spare_grown = std::count_if(streams_.begin(), streams_.end(), grown) <= kStreams / 2;
  return *std::min_element(streams_.begin(), streams_.end(), [&](const auto& a, const auto& b) {
    if (spare_grown && grown(a) != grown(b)) return grown(b);
    return a.used < b.used;
  });
}

}  // namespace underfoot
