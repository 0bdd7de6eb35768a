// Operations made on the real thing.
//
// Thread safety: one for each thread; the caller has the island's mutex.

#ifndef UNDERFOOT_TESTS_ORACLE_DEEDS_H_
#define UNDERFOOT_TESTS_ORACLE_DEEDS_H_

#include <atomic>
#include <string>
#include <utility>

#include "tests/oracle/comparisons.h"
#include "tests/oracle/sections.h"
#include "tests/oracle/world.h"

namespace underfoot::oracle {

class Deeds {
 public:
  Deeds(World& world, Sections& sections, Comparisons& compared)
      : world_(world), sections_(sections), compared_(compared) {}

  struct Readers {
    Reader& worker;
    Reader& looker;
  };
  // `island.state` is the state after the operation, or at its first question; `keep`: a section
  // that this opens may stay open.
  Outcome Make(Island& island, const Operation& op, Readers readers, bool keep);

  // While a bracket is over pages, nobody writes to them.
  void Freeze(Island& island, Cells cells, InvalidationKind kind);
  void Thaw(Island& island, Cells cells);

  Outcome Create(const Island& island, unsigned view, bool read_only);
  Outcome Delete(const Island& island, unsigned view);

  // What was wrong beside the outcome, if anything was; and forgets it.
  std::string TakeComplaint() { return std::exchange(complaint_, {}); }
  bool has_complaint() const { return !complaint_.empty(); }

 private:
  Outcome Translate(Island& island, const Operation& op, Reader& looker, bool keep);
  Outcome Check(Island& island, uint8_t index, Reader& looker, bool keep);
  Outcome Fault(Island& island, const Operation& op, const Reader& worker);
  Outcome Activate(Island& island, const Operation& op, const Reader& worker);
  Outcome Claim(Island& island, const Operation& op);
  Outcome Publish(Island& island, uint8_t index);
  Outcome Abandon(Island& island, uint8_t index);
  Outcome Begin(Island& island, const Operation& op);
  Outcome End(Island& island, uint8_t index);
  Outcome Split(Island& island, uint8_t view);
  Outcome MapBlock(Island& island, const Operation& op, const Reader& worker);
  Outcome ChangeFrames(Island& island, const Operation& op);

  uint32_t FrameOf(const Island& island, unsigned cell, Pfn pfn);
  Sections::Page PageOf(const Island& island, unsigned cell, bool writable) const;
  Outcome Move(const Island& island, unsigned view);
  Outcome SetFlags(const Island& island, const Operation& op);
  Outcome Collect(const Island& island, unsigned view);
  void ExpectNoReadersOf(const Island& island);
  // Whoever had to wait for them has.
  void ExpectNoReaders(const std::atomic<uint32_t>& readers);
  void CheckFrozen(const Island& island, unsigned cell);
  void Complain(std::string what);

  World& world_;
  Sections& sections_;
  Comparisons& compared_;
  std::string complaint_;
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_DEEDS_H_
