/* Subscribers that register and unregister while brackets are open. A Begin puts its range in flight and
 * calls each subscriber of the current list inside an RCU read section. If a walk removed something, the
 * step after the walk (back-pressure) has pinned the list. End calls the subscribers, too. The subscriber
 * registers, installs a leaf by the rules of install.pml, removes it, unregisters and ends. List 0 lacks the
 * subscriber, list 1 has it, list 2 lacks it again.
 *
 * Checked: no leaf is present or appears between the return of Begin and End (I1, I3). No walk calls a
 * subscriber that has ended. No walk and no wake-up touches a freed list. No thread waits for ever, however
 * long a bracket stays open.
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

/* The last thread to unpin wakes the waiting thread, and touches the list for that. */
inline unpin_list() {
#ifndef BREAK_UNPIN_OUTSIDE_RCU
  rcu_enter();
#endif
  atomic { assert(!freed[list]); pins[list]-- };
  assert(!freed[list]);
#ifndef BREAK_UNPIN_OUTSIDE_RCU
  rcu_leave()
#endif
}

/* A walk is one RCU read section; what follows it outside, if the subscriber had a leaf, is pinned. */
inline tell_subscribers() {
  held = false;
#ifdef BREAK_LIST_OUTSIDE_RCU
  list = current;
  rcu_enter();
#else
  rcu_enter();
  list = current;
#endif
  assert(!freed[list]);
  if
  :: list == 1 -> atomic { assert(alive); held = (entry == LEAF); entry = EMPTY }
  :: else
  fi;
  if
#ifdef BREAK_PIN_OUTSIDE_RCU
  :: held -> rcu_leave(); atomic { assert(!freed[list]); pins[list]++ }
  :: else -> rcu_leave()
#else
  :: held -> atomic { assert(!freed[list]); pins[list]++ }; rcu_leave()
  :: else -> rcu_leave()
#endif
  fi;
  if
#ifdef BREAK_NO_PIN
  :: held -> pins[list]--; assert(alive) /* AfterInvalidate */
#else
  :: held -> assert(alive); unpin_list()
#endif
  :: else
  fi
}

proctype Bracket(byte me) {
  byte round, list, k;
  bool held;
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
     rcu_enter();
     list = current;
     assert(!freed[list]);
     assert(list != 1 || alive);
     rcu_leave()
  :: else -> break
  od
}

inline publish(old) {
  current = old + 1;
#ifndef BREAK_NO_GRACE_PERIOD
  left = ~inside_rcu;
  ((left & ((1 << BRACKETS) - 1)) == (1 << BRACKETS) - 1);
#endif
#ifndef BREAK_NO_WAIT_FOR_PINS
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
