// The read sections that a thread keeps open while it does other things, and what it sees in them:
// the page stays what the translation said, and nobody but this thread writes this thread's word.
//
// Thread safety: one for each thread.

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

  // What is protected, and what it must look like.
  struct Page {
    Hva hva;
    Pfn frame;
    unsigned island = 0;
    unsigned cell = 0;
    uint32_t discards = 0;
    bool writable = false;
  };
  // Counts of open sections, which fall before a section is left: whoever has waited for readers
  // finds them at 0.
  struct Counts {
    std::atomic<uint32_t>* readers = nullptr;  // of the first page
    std::atomic<uint32_t>* writers = nullptr;  // if it may write
    unsigned pages = 0;
    std::atomic<uint32_t>* cache = nullptr;
  };
  // Looks at the page; keeps the section open when told to. Returns what was wrong, or nothing.
  using AnySection = std::variant<TranslatedPage, CacheSection>;
  std::string Use(AnySection section, const Page& page, const Counts& counts, bool keep);

  // Looks at all that are open.
  std::string Look();
  // Looks once more and leaves all.
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
