#include "vmm/sources/uffd/fault_window.h"

#include <algorithm>

namespace underfoot {
namespace {

constexpr uint64_t kGrowth = 4;
// The fault at which two before it were foretold.
constexpr unsigned kCertain = 3;

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
      stream.pages = std::min(stream.pages * kGrowth, limit_);
      stream.up = above;
      stream.used = now_;
      if (++stream.faults >= kCertain) {
        stream.further = std::max(stream.further, stream.pages) * 2;
        stream.further = std::min(stream.further, kMostFurther * limit_);
      }
      stream.left = stream.further;
      stream.window = Ahead(page, stream.pages, above).Intersect(within);
      stream.last = stream.window;
      return stream.window;
    }
  }
  for (Stream& stream : streams_) {
    if (!stream.window.Contains(page)) continue;
    stream.pages = std::max<uint64_t>(stream.pages / 2, 1);
    stream.further /= 2;
  }
  Victim() = {.window = alone, .used = now_};
  return alone;
}

HvaRange FaultWindow::Further(HvaRange last, HvaRange within) {
  for (Stream& stream : streams_) {
    if (stream.last != last || stream.left == 0) continue;
    const HvaRange window = stream.window;
    const Hva next = stream.up ? window.end : window.begin - kPageSize;
    if (!within.Contains(next)) return {};
    stream.pages = std::min(stream.pages * kGrowth, limit_);
    const uint64_t pages = std::min(stream.pages, stream.left);
    stream.last = Ahead(next, pages, stream.up).Intersect(within);
    stream.left -= stream.last.size() >> kPageShift;
    stream.window = {std::min(window.begin, stream.last.begin),
                     std::max(window.end, stream.last.end)};
    return stream.last;
  }
  return {};
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
