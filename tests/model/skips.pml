/* When a Begin may skip its wait for readers: its walk found nothing, no other overlapping bracket is in
 * flight, no section without a translation is open, and each earlier bracket that did not wait has been
 * waited for by another one.
 *
 * The leaf is cleared by a bracket that waits, by one that does not wait (NOWAITS), or by a memslot update,
 * which holds its range in flight meanwhile. The leaf comes back when nothing is in flight.
 *
 * Checked: when a waiting Begin returns, no reader is inside the page (I1, I11).
 *
 * Sizes: BRACKETS, NOWAITS (of ROUNDS each), UPDATES, READERS, READS, DIRECTS (sections by hva). */

#ifndef BRACKETS
#define BRACKETS 2
#endif
#ifndef NOWAITS
#define NOWAITS 0
#endif
#ifndef UPDATES
#define UPDATES 0
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef READS
#define READS 2
#endif
#ifndef DIRECTS
#define DIRECTS 0
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif

/* The first bracket is one of another page: it waits for no reader of this one. */
#ifdef OTHER_RANGE
#define OTHER(m) ((m) == 0)
#else
#define OTHER(m) false
#endif

#define PLACES (BRACKETS + NOWAITS + UPDATES)
#define SLOTS (READERS + DIRECTS)

bool leaf = true;
bool flight[PLACES];
byte slot[SLOTS];   /* 0, or the nonce of the section */
bool using[SLOTS];
byte direct = 0;
byte unwaited = 0;
byte through = 0;   /* waited_through_ */
bool inside[PLACES];

inline wait_for_readers() {
#ifndef BREAK_UNWAITED_AFTER_SCAN
  before = unwaited;
#endif
  all_outside = true;
  i = 0;
  do
  :: i < SLOTS ->
     seen = slot[i];
     if
     :: seen != 0 ->
#ifndef BREAK_SETTLED_BY_ANY_WAIT
        all_outside = false;
#endif
        if
        :: OTHER(me)
        :: else -> (slot[i] != seen)
        fi
     :: else
     fi;
     i++
  :: else -> break
  od;
#ifdef BREAK_UNWAITED_AFTER_SCAN
  before = unwaited;
#endif
  if
  :: all_outside ->
     d_step {
       if
       :: through < before -> through = before
       :: else
       fi
     }
  :: else
  fi
}

inline overlaps_another() {
  another = false;
  i = 0;
  do
  :: i < PLACES && !another -> another = (i != me && flight[i] && !OTHER(i) && !OTHER(me)); i++
  :: else -> break
  od
}

proctype Bracket(byte me) {
  byte i, seen, before, round;
  bool held, another, must_look, all_outside;
  do
  :: round < ROUNDS ->
     round++;
     flight[me] = true;
#ifdef BREAK_OTHERS_BEFORE_WALK
     overlaps_another();
#endif
#ifdef BREAK_MUST_LOOK_FIRST
     must_look = (direct != 0 || unwaited != through);
#endif
     atomic { held = leaf || OTHER(me); leaf = leaf && OTHER(me) };
     if
     :: me >= BRACKETS ->
#ifdef BREAK_NOTE_AFTER_END
        flight[me] = false;
#endif
#ifndef BREAK_UNWAITED_IS_FORGOTTEN
        if
        :: held -> unwaited++
        :: else
        fi;
#endif
        goto end_of_bracket
     :: else
     fi;
#ifndef BREAK_OTHERS_BEFORE_WALK
     overlaps_another();
#endif
#ifdef BREAK_OTHERS_ARE_IGNORED
     another = false;
#endif
#ifndef BREAK_MUST_LOOK_FIRST
     must_look = (direct != 0);
     must_look = (must_look || unwaited != through);
#endif
     if
     :: held || another || must_look -> wait_for_readers()
     :: else
     fi;
     atomic {
       inside[me] = true;
       i = 0;
       do
       :: i < SLOTS -> assert(!using[i] || OTHER(me)); i++
       :: else -> break
       od
     };
     inside[me] = false;
end_of_bracket:
     flight[me] = false
  :: else -> break
  od
}

proctype Update(byte me) {
  byte i, seen, before;
  bool all_outside;
#ifndef BREAK_UPDATE_UNANNOUNCED
  flight[me] = true;
#endif
  leaf = false;
#ifdef BREAK_UPDATE_ENDS_BEFORE_WAIT
  flight[me] = false;
#endif
  wait_for_readers();
  flight[me] = false
}

/* Installs again; install.pml has how. */
proctype Fault() {
  byte i;
end:
  do
  :: !leaf ->
     d_step {
       i = 0;
       do
       :: i < PLACES && (!flight[i] || OTHER(i)) -> i++
       :: else -> break
       od;
       if
       :: i == PLACES -> leaf = true
       :: else
       fi
     }
  od
}

proctype Reader(byte me) {
  byte round, i;
  do
  :: round < READS ->
     round++;
     slot[me] = round;
     atomic {
       using[me] = leaf;
       i = 0;
       do
       :: i < PLACES -> assert(!using[me] || !inside[i] || OTHER(i)); i++
       :: else -> break
       od
     };
     using[me] = false;
     slot[me] = 0
  :: else -> break
  od
}

/* By hva: no leaf says whether it may, only the set in flight does. */
proctype Direct(byte me) {
  byte i;
  bool free = true;
#ifndef BREAK_DIRECT_UNANNOUNCED
  direct++;
#endif
#ifdef BREAK_DIRECT_LOOKS_FIRST
  do
  :: i < PLACES -> free = (free && !flight[i]); i++
  :: else -> break
  od;
  slot[me] = 1;
#else
  slot[me] = 1;
  do
  :: i < PLACES -> free = (free && !flight[i]); i++
  :: else -> break
  od;
#endif
  if
  :: free ->
     atomic {
       using[me] = true;
       i = 0;
       do
       :: i < BRACKETS -> assert(!inside[i]); i++
       :: else -> break
       od
     };
     using[me] = false
  :: else
  fi;
  slot[me] = 0;
#ifndef BREAK_DIRECT_UNANNOUNCED
  direct--
#endif
}

init {
  byte n;
  atomic {
    do
    :: n < BRACKETS + NOWAITS -> run Bracket(n); n++
    :: else -> break
    od;
    do
    :: n < PLACES -> run Update(n); n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < READERS -> run Reader(n); n++
    :: else -> break
    od;
    do
    :: n < SLOTS -> run Direct(n); n++
    :: else -> break
    od;
    run Fault()
  }
}
