// The read sections that a thread keeps open while it makes other operations, and the checks inside
// them: the page stays what the translation said, and only this thread writes its own word.
//
// Thread safety: one object for each thread.

#ifndef UNDERFOOT_TESTS_ORACLE_SECTIONS_H_
#define UNDERFOOT_TESTS_ORACLE_SECTIONS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "mmu/pfn_cache.h"
#include "mmu/translate.h"
#include "tests/oracle/comparisons.h"
#include "tests/oracle/layout.h"
#include "tests/oracle/memory.h"

namespace underfoot::oracle {

class Sections {
 public:
  Sections(unsigned thread, Comparisons& compared) : word_(1 + thread), compared_(compared) {}

  bool empty() const { return open_ == 0; }

  // The page that a section protects, and its expected content.
  struct Page {
    Hva hva;
    Pfn frame;
    unsigned island = 0;
    unsigned cell = 0;
    uint32_t discards = 0;
    bool writable = false;
  };
  // The counts of open sections. They are decremented before a section is left, so an operation
  // that has waited for readers finds them at 0.
  struct Counts {
    std::atomic<uint32_t>* readers = nullptr;  // of the first page
    std::atomic<uint32_t>* writers = nullptr;  // if it may write
    unsigned pages = 0;
    std::atomic<uint32_t>* cache = nullptr;
  };
  // Checks the page, and keeps the section open if `keep` is set. Returns what was wrong, or an
  // empty string.
  using AnySection = std::variant<TranslatedPage, CacheSection>;
  std::string Use(AnySection section, const Page& page, const Counts& counts, bool keep);

  // Checks the pages of all open sections.
  std::string Look();
  // Checks the pages of all open sections and then leaves them.
  std::string LeaveAll();

 private:
  static constexpr unsigned kMaxOpen = 4;
  struct Written {
    uint64_t value = 0;
    uint32_t discards = 0;
  };
  struct Open {
    AnySection section;
    Page page;
    Counts counts;
  };

  static void Count(const Counts& counts, uint32_t difference);
  std::string LookAt(const Page& page);

  const unsigned word_;  // the thread's own
  Comparisons& compared_;
  std::array<Open, kMaxOpen> kept_{};
  unsigned open_ = 0;
  std::array<std::array<Written, kCells>, kIslands> written_{};
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_SECTIONS_H_
