// A thread of the oracle. It makes random operations on the real library and on the model, and
// compares the two.
//
//   lock the island
//     draw an operation          Next(state, operation): the expected outcome
//     make the operation         if it calls the page source: the driver makes operations of "other
//                                threads" there, looks the page up before or after them, and then
//                                lets the operation continue
//     compare outcome and state
//   unlock
//
// Some operations hold a protection for a longer time. Open brackets and claims are part of the
// state of the island and belong to the thread that holds its mutex. An open section belongs to the
// thread that opened it, and a Begin of another thread waits for it.
//
// Thread safety: each thread makes and uses its own driver.

#ifndef UNDERFOOT_TESTS_ORACLE_DRIVER_H_
#define UNDERFOOT_TESTS_ORACLE_DRIVER_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "mmu/page_source.h"
#include "tests/oracle/comparisons.h"
#include "tests/oracle/draw.h"
#include "tests/oracle/real_operations.h"
#include "tests/oracle/sections.h"
#include "tests/oracle/world.h"

namespace underfoot::oracle {

class Driver {
 public:
  Driver(World& world, unsigned thread, uint64_t seed);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  static Driver& OfThisThread();

  // Makes operations until the given number is reached or the world has failed.
  void Play(uint64_t operations);

  // Ends all open brackets and claims, deactivates the caches and deletes all memslots, by ordinary
  // operations.
  void CleanUp();

  PageInResult PageIn(Hva page, Access access);

  uint64_t made() const { return made_; }
  const Comparisons& compared() const { return compared_; }
  // A hash of all outcomes in their order. With one thread, equal seeds give equal hashes.
  uint64_t digest() const { return digest_; }

 private:
  void Turn();
  void SharedTurn(uint64_t number);
  void SharedOperation(Operation op);
  Outcome MakeShared(const Operation& op, World::SharedBracket& bracket, HvaRange range,
                     const std::array<Cells, kIslands>& parts, unsigned first, unsigned last);
  void RenewReaders();

  // Makes one operation. Returns false if it was not possible. The caller holds the island's mutex.
  bool Make(Island& island, const Operation& op);
  // The same, but memory runs out at a random step of the operation.
  Outcome MakeShortOfMemory(Island& island, const Operation& op, const State& before,
                            uint64_t flushes_before, Outcome& expected, bool keep);
  void MakeOneOf(Island& island);
  void Interpose(Island& island);
  void EndWhatARefreshWaitsFor(Island& island);
  void Compare(Island& island, const Operation& op, const Outcome& expected, const Outcome& found);
  void Fail(const Island* island, const std::string& what);
  void Lock(Island& island);
  void LeaveSections();

  World& world_;
  const unsigned thread_;
  const uint64_t seed_;
  Comparisons compared_;
  Draw draw_;
  std::optional<Reader> worker_;  // for faults and refreshes
  std::optional<Reader> looker_;  // for sections, some of which stay open
  Sections sections_;
  RealOperations deeds_;
  uint64_t turns_ = 0;
  uint64_t made_ = 0;
  uint64_t digest_ = 0;
  // The operation of this thread that may call the page source, if there is one.
  Island* page_in_island_ = nullptr;
  Outcome* page_in_expects_ = nullptr;
  bool asked_ = false;              // it has called the page source
  bool page_in_activates_ = false;  // it is an activation during which memory runs out
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_DRIVER_H_
