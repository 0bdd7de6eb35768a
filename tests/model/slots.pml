/* Sets of memslots, and the token of a bracket. Set 0 contains the slot. An update publishes set 1, in which
 * the slot is dying: look-ups do not find it, and Begin still walks it. The update then removes its leaf and
 * its claim, publishes set 2 without the slot, and frees the old sets when no walker and no pinned bracket
 * can reach them. With ADD the order is reversed: set 0 has no slot, and set 1 has it.
 *
 * Checked: no leaf is present or appears between the return of Begin and End (I1). No leaf outlives its
 * slot. End works on the set that Begin walked. No thread touches a freed set. No thread waits for ever. As
 * liveness (FOREVER, weak fairness): an update ends although brackets overlap without end (I9).
 *
 * Sizes: BRACKETS, ROUNDS. The installer installs once, by the rules of install.pml. */

#ifndef BRACKETS
#define BRACKETS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif

#define SETS 3
#define EMPTY 0
#define CLAIM 1
#define LEAF 2
#define READERS (BRACKETS + 1)

#ifdef ADD
#define LOOKUP(set) ((set) == 1)
#define WALKED(set) ((set) == 1)
#else
#define LOOKUP(set) ((set) == 0)
#ifdef BREAK_DYING_SLOT_NOT_WALKED
#define WALKED(set) ((set) == 0)
#else
#define WALKED(set) ((set) <= 1)
#endif
#endif

byte current = 0;       /* the published set; its number is the generation */
byte pins[SETS];
bool freed[SETS];
byte flight = 0;        /* brackets announced on the slot's hva */
byte inside = 0;        /* between the return of Begin and End */
byte entry = EMPTY;
bool in_rcu[READERS];
bool has_left[READERS]; /* has left RCU since the grace period looked */
bool slot_gone = false;
bool updating = false;

inline rcu_enter(me) { in_rcu[me] = true }
inline rcu_leave(me) { d_step { in_rcu[me] = false; has_left[me] = true } }

proctype Bracket(byte me) {
  byte round, token, old;
  do
#ifdef FOREVER
  :: true ->
#else
  :: round < ROUNDS ->
     round++;
#endif
#ifndef BREAK_TOKEN_BEFORE_FLIGHT
     flight++;
#endif
     rcu_enter(me);
     token = current;
#ifdef BREAK_PIN_OUTSIDE_RCU
     rcu_leave(me);
     assert(!freed[token]);
     pins[token]++;
#else
     pins[token]++;
     rcu_leave(me);
#endif
#ifdef BREAK_TOKEN_BEFORE_FLIGHT
     flight++;
#endif
     assert(!freed[token]);
     if
     :: WALKED(token) -> entry = EMPTY
     :: else
     fi;
     atomic { inside++; assert(entry != LEAF) };
#ifdef BREAK_UPDATE_INSIDE_A_BRACKET
     freed[0];
#endif
     inside--;
     flight--;
#ifdef BREAK_END_ON_THE_CURRENT_SET
     atomic { token = current; assert(pins[token] > 0) };
#endif
     assert(!freed[token]);
     pins[token]--
#ifndef FOREVER
  :: else -> break
#endif
  od
}

proctype Installer(byte me) {
  byte generation;
retry:
  rcu_enter(me);
  generation = current;
  rcu_leave(me);
  if
  :: !LOOKUP(generation) -> goto unmapped
  :: else
  fi;
  atomic {
    if
    :: entry == EMPTY -> entry = CLAIM
    :: entry != EMPTY -> goto mapped
    fi
  };
  if
  :: flight != 0 ->
     atomic {
       if
       :: entry == CLAIM -> entry = EMPTY
       :: else
       fi
     };
     (flight == 0);
     goto retry
  :: else
  fi;
#ifndef BREAK_NO_GENERATION_CHECK
  if
  :: current != generation ->
     atomic {
       if
       :: entry == CLAIM -> entry = EMPTY
       :: else
       fi
     };
     goto retry
  :: else
  fi;
#endif
  atomic {
    if
    :: entry == CLAIM -> entry = LEAF; assert(inside == 0); assert(!slot_gone)
    :: else -> goto retry
    fi
  };
mapped:
unmapped:
  skip
}

inline grace_period() {
  i = 0;
  do
  :: i < READERS ->
     d_step { has_left[i] = !in_rcu[i] };
     has_left[i];
     i++
  :: else -> break
  od
}

proctype Update() {
  byte i;
  updating = true;
#ifdef ADD
  current = 1;
  grace_period();
  (pins[0] == 0);
  freed[0] = true;
#else
#ifndef BREAK_DELETE_IN_ONE_PHASE
  current = 1;
#else
  current = 2;
#endif
  entry = EMPTY;
  current = 2;
  atomic { slot_gone = true; assert(entry != LEAF) };
#ifndef BREAK_NO_GRACE_PERIOD
  grace_period();
#endif
#ifdef BREAK_WAIT_FOR_NO_BRACKET
  (flight == 0);
#else
#ifndef BREAK_NO_WAIT_FOR_PINS
  (pins[0] == 0);
  (pins[1] == 0);
#endif
#endif
  freed[0] = true;
  freed[1] = true;
#endif
  updating = false
}

init {
  byte i;
  atomic {
#ifdef LEAF_AT_FIRST
    entry = LEAF;
#endif
    do
    :: i < BRACKETS -> run Bracket(i); i++
    :: else -> break
    od;
    run Installer(BRACKETS);
    run Update()
  }
}

#ifdef FOREVER
ltl update_ends { [] (updating -> <> !updating) }
#endif
