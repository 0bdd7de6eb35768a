#include "tests/oracle/sections.h"

#include "absl/strings/str_format.h"

namespace underfoot::oracle {

std::string Sections::LookAt(const Page& page) {
  ++compared_.sections;
  PageWords words(page.hva);
  const uint64_t frame = words.Get(0);
  if (frame != page.frame.value) {
    return absl::StrFormat("island %u, cell %u: in a section of frame 0x%x the page says 0x%x",
                           page.island, page.cell, page.frame.value, frame);
  }
  if (!page.writable) return {};
  Written& written = written_[page.island][page.cell];
  const uint64_t found = words.Get(word_);
  if (found != written.value) {
    return absl::StrFormat("island %u, cell %u: this thread wrote %u and finds %u", page.island,
                           page.cell, written.value, found);
  }
  words.Set(word_, ++written.value);
  return {};
}

void Sections::Count(const Counts& counts, uint32_t difference) {
  // Relaxed: the slot of the section must order these accesses. Nothing else does.
  for (unsigned i = 0; i < counts.pages; ++i) {
    counts.readers[i].fetch_add(difference, std::memory_order::relaxed);
    if (counts.writers != nullptr) {
      counts.writers[i].fetch_add(difference, std::memory_order::relaxed);
    }
  }
  if (counts.cache != nullptr) counts.cache->fetch_add(difference, std::memory_order::relaxed);
}

std::string Sections::Use(AnySection section, const Page& page, const Counts& counts, bool keep) {
  Written& written = written_[page.island][page.cell];
  if (written.discards != page.discards) written = {.value = 0, .discards = page.discards};
  std::string wrong = LookAt(page);
  if (keep && open_ < kMaxOpen) {
    Count(counts, 1);
    kept_[open_++] = {std::move(section), page, counts};
  }
  return wrong;
}

std::string Sections::Look() {
  for (unsigned i = 0; i < open_; ++i) {
    std::string wrong = LookAt(kept_[i].page);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

std::string Sections::LeaveAll() {
  std::string wrong = Look();
  while (open_ > 0) {
    Open& last = kept_[--open_];
    Count(last.counts, ~uint32_t{0});
    last.section = {};
  }
  return wrong;
}

}  // namespace underfoot::oracle
