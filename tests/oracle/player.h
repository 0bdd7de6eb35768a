// A thread of the oracle: it makes random operations on the real thing and on the model, and
// compares.
//
//   lock the island
//     draw an operation          Next(state, operation): what must come of it
//     make it                    if it asks the page source: operations of "other threads" are made
//                                there, the page is looked up before or after them, and then the
//                                operation goes on
//     compare outcome and state
//   unlock
//
// Some operations hold a protection over time: open brackets and claims are part of the island's
// state and belong to whoever has its mutex; open sections belong to the thread that opened them,
// and a Begin of another waits for it.
//
// Thread safety: one for each thread, made and used there.

#ifndef UNDERFOOT_TESTS_ORACLE_PLAYER_H_
#define UNDERFOOT_TESTS_ORACLE_PLAYER_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "mmu/page_source.h"
#include "tests/oracle/comparisons.h"
#include "tests/oracle/deeds.h"
#include "tests/oracle/draw.h"
#include "tests/oracle/sections.h"
#include "tests/oracle/world.h"

namespace underfoot::oracle {

class Player {
 public:
  Player(World& world, unsigned thread, uint64_t seed);
  ~Player();
  Player(const Player&) = delete;
  Player& operator=(const Player&) = delete;

  static Player& OfThisThread();

  // Until so many operations were made, or the world has failed.
  void Play(uint64_t operations);

  // Ends what is open, deactivates, and deletes every memslot, by operations like the others.
  void CleanUp();

  PageInResult PageIn(Hva page, Access access);

  uint64_t made() const { return made_; }
  const Comparisons& compared() const { return compared_; }
  // Of all outcomes in their order: equal for equal seeds when there is one thread.
  uint64_t digest() const { return digest_; }

 private:
  void Turn();
  void SharedTurn(uint64_t number);
  void SharedOperation(Operation op);
  Outcome MakeShared(const Operation& op, World::SharedBracket& bracket, HvaRange range,
                     const std::array<Cells, kIslands>& parts, unsigned first, unsigned last);
  void RenewReaders();

  // False: the operation was not possible. The caller has the island's mutex.
  bool Make(Island& island, const Operation& op);
  void MakeOneOf(Island& island);
  void Interpose(Island& island);
  void EndWhatARefreshWaitsFor(Island& island);
  void Judge(Island& island, const Operation& op, const Outcome& expected, const Outcome& found);
  void Fail(const Island* island, const std::string& what);
  void Lock(Island& island);
  void LeaveSections();

  World& world_;
  const unsigned thread_;
  const uint64_t seed_;
  Comparisons compared_;
  Draw draw_;
  std::optional<Reader> worker_;  // faults and refreshes
  std::optional<Reader> looker_;  // sections, some of which stay open
  Sections sections_;
  Deeds deeds_;
  uint64_t turns_ = 0;
  uint64_t made_ = 0;
  uint64_t digest_ = 0;
  // The operation of this thread that may ask the page source, if there is one.
  Island* asking_island_ = nullptr;
  Outcome* asking_expects_ = nullptr;
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_PLAYER_H_
