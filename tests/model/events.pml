/* An event page (vmm/devices/event_page.h): senders that never block, the worker that may, the guest,
 * and a host that moves the page. One channel.
 *
 *   sender                          worker                        guest
 *   section; cache valid?           refreshes the cache           bit turned?
 *     yes: count, look at the         section; cache valid?       writes it to `taken`
 *          guest's bit, turn          yes: takes what was         reads the count
 *     no: hands the event over             handed over; count, ...
 *
 * Holds: nothing is written to a page that the host has taken, and when all have ended and the guest
 * has taken what is pending, exactly the events that were sent have come.
 *
 * Abstracted: Begin waits until no section is open (readers.pml, cache.pml have that wait and the
 * refresh). Memory orders: event_orders.cc.
 */
#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef EVENTS
#define EVENTS 2 /* of each sender */
#endif
#ifndef MOVES
#define MOVES 1
#endif

bool valid = true;     /* the cache */
bool in_flight = false;
bool gone = false;     /* the host has taken the page */
byte sections = 0;     /* open now */

byte count = 0;
bit turned = 0;
bit taken = 0;
byte turns = 0;

byte handed = 0;
byte sent = 0;
byte senders_left = SENDERS;
bool worker_left = true;

#define WRITE assert(!gone)

inline turn() {
  seen = turns;
  pending = (taken != seen % 2);
  if
  :: pending -> skip
  :: else ->
#ifdef BREAK_TURN_BLINDLY
    turns++;
    WRITE; turned = 1 - turned
#else
    atomic {
      if
      :: turns == seen -> turns++; won = true
      :: else -> won = false
      fi
    }
    if
    :: won -> atomic { WRITE; turned = 1 - turned }
    :: else -> skip
    fi
#endif
  fi
}

inline deliver(n) {
#ifdef BREAK_BIT_BEFORE_COUNT
  turn();
  atomic { WRITE; count = count + n }
#else
  atomic { WRITE; count = count + n }
#ifdef BREAK_LEAVE_BEFORE_THE_BIT
  sections--;
  turn();
  sections++
#else
  turn()
#endif
#endif
}

active [SENDERS] proctype Sender() {
  byte n = 0;
  byte seen;
  bool pending, won;
  do
  :: n < EVENTS ->
    n++;
    atomic { sent++; sections++ }
#ifdef BREAK_DEAD_CACHE
    if
    :: true ->
#else
    if
    :: valid ->
#endif
      deliver(1);
      sections--;
#ifdef BREAK_BOTH_PATHS
      handed++
#endif
    :: !valid ->
      sections--;
#ifndef BREAK_FORGET
      handed++
#endif
    fi
  :: else -> break
  od;
  senders_left--
}

active proctype Worker() {
  byte n;
  byte seen;
  bool pending, won;
  do
  :: handed > 0 ->
    atomic { !in_flight -> valid = true };
#ifdef BREAK_TAKE_BEFORE_CHECK
    atomic { n = handed; handed = 0 };
#endif
    sections++;
    if
    :: valid ->
#ifndef BREAK_TAKE_BEFORE_CHECK
#ifdef BREAK_TAKE_BY_STORE
      n = handed;
      handed = 0;
#else
      atomic { n = handed; handed = 0 };
#endif
#endif
      deliver(n)
    :: else -> skip
    fi;
    sections--
  :: senders_left == 0 && handed == 0 -> break
  od;
  worker_left = false
}

active proctype Mover() {
  byte n = 0;
  do
  :: n < MOVES ->
    n++;
    in_flight = true;
    valid = false;
    sections == 0;
    gone = true;
    gone = false;
    in_flight = false
  :: else -> break
  od
}

active proctype Guest() {
  bit mine = 0;
  byte came = 0;
  byte now;
  bool last;
  do
  :: true ->
    last = !worker_left;
    if
    :: turned != mine ->
      mine = turned;
#ifdef BREAK_READ_BEFORE_TAKEN
      now = count;
      taken = mine;
#else
      taken = mine;
      now = count;
#endif
      assert(now >= came);
      came = now
    :: else ->
      if
      :: last -> break
      :: else -> skip
      fi
    fi
  od;
  assert(came == sent)
}
