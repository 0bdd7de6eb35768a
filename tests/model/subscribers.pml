/* Subscribers that come and go while brackets are open. A Begin puts its range in flight, pins the
 * current list inside RCU, tells everybody on it and unpins; so does End. The subscriber registers,
 * installs a leaf by the rules of install.pml, takes it away, unregisters and ends. Lists: 0 without it,
 * 1 with it, 2 without it again.
 *
 * Checked: no leaf is there or appears between the return of Begin and End (I1, I3); no walk calls a
 * subscriber that has ended, no walk or wake-up touches a freed list; nobody waits for ever, brackets of
 * any age included.
 *
 * Sizes: BRACKETS, ROUNDS. */

#ifndef BRACKETS
#define BRACKETS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif

#define LISTS 3
#define EMPTY 0
#define CLAIM 1
#define LEAF 2

byte current = 0;
byte pins[LISTS];
bool freed[LISTS];
byte waits_for[LISTS]; /* threads (bits) that the list's grace period waits for */
bool deferred[LISTS];
byte inside_rcu = 0;
byte left = 0; /* threads (bits) that have left RCU since Synchronize looked */
byte flight = 0;
byte inside = 0;
byte entry = EMPTY;
bool alive = false;

inline rcu_enter() { inside_rcu = inside_rcu | (1 << me) }

inline rcu_leave() {
  d_step {
    inside_rcu = inside_rcu & ~(1 << me);
    left = left | (1 << me);
    k = 0;
    do
    :: k < LISTS ->
       waits_for[k] = waits_for[k] & ~(1 << me);
       freed[k] = freed[k] || (deferred[k] && waits_for[k] == 0);
       k++
    :: else -> break
    od;
    k = 0
  }
}

inline pin_list() {
  rcu_enter();
  list = current;
#ifdef BREAK_PIN_OUTSIDE_RCU
  rcu_leave();
#endif
  atomic { assert(!freed[list]); pins[list]++ };
#ifndef BREAK_PIN_OUTSIDE_RCU
  rcu_leave();
#endif
}

/* The last to unpin wakes who waits, and touches the list for that. */
inline unpin_list() {
#ifdef BREAK_UNPIN_OUTSIDE_RCU
  atomic { assert(!freed[list]); pins[list]-- };
  assert(!freed[list]);
#else
  rcu_enter();
  atomic { assert(!freed[list]); pins[list]-- };
  assert(!freed[list]);
  rcu_leave();
#endif
}

inline tell_subscribers() {
  pin_list();
  if
  :: list == 1 -> atomic { assert(alive); entry = EMPTY }
  :: else
  fi;
  unpin_list()
}

proctype Bracket(byte me) {
  byte round, list, k;
  do
  :: round < ROUNDS ->
     round++;
#ifdef BREAK_LIST_BEFORE_FLIGHT
     tell_subscribers();
     flight++;
#else
     flight++;
     tell_subscribers();
#endif
     atomic { inside++; assert(entry != LEAF) };
     inside--;
     flight--;
     /* OnEnd */
     pin_list();
     assert(list != 1 || alive);
     unpin_list()
  :: else -> break
  od
}

inline publish(old) {
  current = old + 1;
#ifndef BREAK_NO_GRACE_PERIOD
  left = ~inside_rcu;
  ((left & ((1 << BRACKETS) - 1)) == (1 << BRACKETS) - 1);
#endif
#ifndef BREAK_NO_WAIT_FOR_WALKS
  (pins[old] == 0);
#endif
  d_step {
    deferred[old] = true;
    waits_for[old] = inside_rcu;
    freed[old] = (inside_rcu == 0)
  }
}

proctype Subscriber() {
  alive = true;
#ifndef BREAK_INSTALL_BEFORE_REGISTRATION
  publish(0);
#endif
retry:
  entry = CLAIM;
#ifndef BREAK_NO_FLIGHT_CHECK
  if
  :: flight != 0 -> entry = EMPTY; (flight == 0); goto retry
  :: else
  fi;
#endif
  atomic {
    if
    :: entry == CLAIM -> entry = LEAF; assert(inside == 0)
    :: else -> goto retry
    fi
  };
#ifdef BREAK_INSTALL_BEFORE_REGISTRATION
  publish(0);
#endif
#ifdef BREAK_LEAF_OUTLIVES_REGISTRATION
  publish(1);
  entry = EMPTY;
#else
  entry = EMPTY;
  publish(1);
#endif
  alive = false
}

init {
  byte i;
  atomic {
    do
    :: i < BRACKETS -> run Bracket(i); i++
    :: else -> break
    od;
    run Subscriber()
  }
}
