// Makes operations on the real library.
//
// Thread safety: one object for each thread. The caller holds the island's mutex.

#ifndef UNDERFOOT_TESTS_ORACLE_REAL_OPERATIONS_H_
#define UNDERFOOT_TESTS_ORACLE_REAL_OPERATIONS_H_

#include <atomic>
#include <string>
#include <utility>

#include "tests/oracle/comparisons.h"
#include "tests/oracle/sections.h"
#include "tests/oracle/world.h"

namespace underfoot::oracle {

class RealOperations {
 public:
  RealOperations(World& world, Sections& sections, Comparisons& compared)
      : world_(world), sections_(sections), compared_(compared) {}

  struct Readers {
    Reader& worker;
    Reader& looker;
  };
  // `island.state` is the state after the operation, or at its first call of the page source. If
  // `keep` is set, a section that the operation opens may stay open.
  Outcome Make(Island& island, const Operation& op, Readers readers, bool keep);

  // Checks that no thread writes to a page while a bracket is over it.
  void Freeze(Island& island, Cells cells, InvalidationKind kind);
  void Thaw(Island& island, Cells cells);

  Outcome Create(const Island& island, unsigned view, bool read_only);
  Outcome Delete(const Island& island, unsigned view);

  // Returns what was wrong apart from the outcome, or an empty string, and forgets it.
  std::string TakeComplaint() { return std::exchange(complaint_, {}); }
  bool has_complaint() const { return !complaint_.empty(); }

 private:
  Outcome Translate(Island& island, const Operation& op, Reader& looker, bool keep);
  Outcome Mark(const Island& island, const Operation& op, Reader& looker);
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
  Outcome FaultBlock(Island& island, const Operation& op, const Reader& worker);
  Outcome ChangeFrames(Island& island, const Operation& op);

  uint32_t FrameOf(const Island& island, unsigned cell, Pfn pfn);
  Sections::Page PageOf(const Island& island, unsigned cell, bool writable) const;
  Outcome Move(const Island& island, unsigned view);
  Outcome SetFlags(const Island& island, const Operation& op);
  Outcome Collect(const Island& island, unsigned view);
  void ExpectNoReadersOf(const Island& island);
  // Called after an operation that had to wait for these sections: none may be open now.
  void ExpectNoReaders(const std::atomic<uint32_t>& readers);
  void CheckFrozen(const Island& island, unsigned cell);
  void Complain(std::string what);

  World& world_;
  Sections& sections_;
  Comparisons& compared_;
  std::string complaint_;
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_REAL_OPERATIONS_H_
