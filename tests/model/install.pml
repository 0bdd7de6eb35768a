/* One stage-2 entry. Installers claim it, look the page up without a lock, and publish. Brackets (Begin to
 * End) take the translation away while the host changes the page. Each reader protects its use with a slot.
 * All steps are sequentially consistent; install_orders.cc checks the weak orders.
 *
 * Checked: from the return of Begin to End no leaf is present, no leaf appears and no reader uses one (I1,
 * I2). A published leaf is the page that the host has now. No thread waits for ever. An installer fails at
 * most twice for each bracket: once because its claim was stolen, once because it saw the bracket (I9).
 *
 * Sizes: INSTALLERS, BRACKETS, ROUNDS (of each bracket), READERS, READS (of each reader).
 * Each BREAK_* switch removes one step of the protocol; the checker must then find a fault. */

#ifndef INSTALLERS
#define INSTALLERS 1
#endif
#ifndef BRACKETS
#define BRACKETS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef READS
#define READS 1
#endif

/* The entry's values: empty, a claim (the owner's tag), or a leaf of one host page. */
#define EMPTY 0
#define LEAF(pfn) (16 + (pfn))
#define IS_LEAF(e) ((e) >= 16)
#define PFN_OF(e) ((e) - 16)

byte entry = EMPTY;
byte host_pfn = 0;       /* the page behind the hva; only a host mm call moves it */
byte flight[BRACKETS];   /* 0, or the nonce of the bracket that this slot holds */
byte section[READERS + 1]; /* 0, or the nonce of the reader's section; one more, for READERS = 0 */
bool using[READERS + 1];
byte inside = 0;         /* brackets between the return of Begin and End */

inline claim(tag) {
  do
  :: atomic { entry == EMPTY -> entry = tag }
     break
  :: atomic { IS_LEAF(entry) -> seen = entry }
     goto mapped
  :: atomic { entry != EMPTY && !IS_LEAF(entry) -> seen = entry }
     (entry != seen)
  od
}

/* Sets `seen` to the nonce of a bracket in flight, `b` to its slot; 0 if there is none. */
inline find_bracket() {
  b = 0;
  seen = 0;
  do
  :: b < BRACKETS ->
     seen = flight[b];
     if
     :: seen != 0 -> break
     :: else -> b++
     fi
  :: else -> break
  od
}

proctype Installer(byte tag) {
  byte seen, b, page, failures;
retry:
#ifdef BREAK_LOOKUP_BEFORE_CLAIM
  page = host_pfn;
#endif
#ifdef BREAK_CHECK_BEFORE_CLAIM
  find_bracket();
  if
  :: seen != 0 -> (flight[b] != seen); goto retry
  :: else
  fi;
  claim(tag);
#else
  claim(tag);
  find_bracket();
  if
  :: seen != 0 ->
     atomic {
       if
       :: entry == tag -> entry = EMPTY
       :: else
       fi
     }
#ifndef BREAK_RETRY_WITHOUT_WAIT
     (flight[b] != seen);
#endif
     failures++;
     assert(failures <= 2 * BRACKETS * ROUNDS);
     goto retry
  :: else
  fi;
#endif
#ifndef BREAK_LOOKUP_BEFORE_CLAIM
  page = host_pfn;
#endif
  atomic {
    if
#ifdef BREAK_PUBLISH_BY_STORE
    :: true ->
#else
    :: entry == tag ->
#endif
       entry = LEAF(page);
       assert(inside == 0);
       assert(page == host_pfn)
    :: else ->
       failures++;
       assert(failures <= 2 * BRACKETS * ROUNDS);
       goto retry
    fi
  }
mapped:
  skip
}

inline clear_entry() {
  do
  :: old = entry;
#ifdef BREAK_BEGIN_SKIPS_CLAIMS
     if
     :: !IS_LEAF(old) -> break
     :: else
     fi;
#endif
     if
     :: old == EMPTY -> break
     :: else
     fi;
     atomic {
       if
       :: entry == old -> entry = EMPTY; cleared = true; break
       :: else
       fi
     }
  od
}

inline wait_for_readers() {
  r = 0;
  do
  :: r < READERS ->
     seen = section[r];
     if
     :: seen != 0 -> (section[r] != seen)
     :: else
     fi;
     r++
  :: else -> break
  od
}

proctype Bracket(byte b) {
  byte old, r, seen, round;
  bool cleared;
  do
  :: round < ROUNDS ->
     round++;
     cleared = false;
#ifdef BREAK_FLIGHT_AFTER_CLEAR
     clear_entry();
     flight[b] = round;
#else
     flight[b] = round;
     clear_entry();
#endif
#ifdef BREAK_NO_WAIT_FOR_READERS
     skip;
#else
#ifdef BREAK_WAIT_ONLY_IF_CLEARED
     if
     :: cleared -> wait_for_readers()
     :: else
     fi;
#else
     wait_for_readers();
#endif
#endif
     atomic {
       inside++;
       assert(!IS_LEAF(entry));
       r = 0;
       do
       :: r < READERS -> assert(!using[r]); r++
       :: else -> break
       od
     }
     host_pfn++;
     inside--;
     flight[b] = 0
  :: else -> break
  od
}

proctype Reader(byte r) {
  byte seen, round;
  do
  :: round < READS ->
     round++;
#ifdef BREAK_READ_BEFORE_SECTION
     seen = entry;
     section[r] = round;
#else
     section[r] = round;
     seen = entry;
#endif
     if
     :: IS_LEAF(seen) ->
        using[r] = true;
        atomic {
          assert(PFN_OF(seen) == host_pfn);
          assert(inside == 0)
        }
        using[r] = false
     :: else
     fi;
     section[r] = 0
  :: else -> break
  od
}

init {
  byte i;
  atomic {
    i = 0;
    do
    :: i < INSTALLERS ->
#ifdef BREAK_CLAIM_WITHOUT_TAG
       run Installer(1);
#else
       run Installer(i + 1);
#endif
       i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < BRACKETS -> run Bracket(i); i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < READERS -> run Reader(i); i++
    :: else -> break
    od
  }
}
