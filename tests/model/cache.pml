/* One pfn cache: a thread that refreshes it, changes its key and deactivates it; brackets; readers with
 * one slot each; and a memslot update that moves the gpa to another hva. All steps are sequentially
 * consistent; cache_orders.cc checks the weak orders of the lockless precheck.
 *
 * Checked: a reader never uses a page inside a bracket (I1), a page that the host has replaced, an hva that
 * an update has removed, or a cache that is not active. A valid cache is listed at the hva to which it
 * points. No thread waits for ever. A bracket of another hva never makes a refresh fail.
 *
 * Sizes: REFRESHES, ROUNDS (of the bracket thread of each hva), READS. UNRELATED keeps the cache on one
 * hva and the brackets on the other. UPDATES=1 adds the memslot update. */

#ifndef REFRESHES
#define REFRESHES 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef READS
#define READS 2
#endif
#ifndef UPDATES
#define UPDATES 0
#endif

#define INVALID 0
#define PENDING 1
#define VALID 2
#define HVAS 2
#define NOWHERE HVAS

byte state = INVALID;
byte listed = NOWHERE;     /* the hva at which the index lists the cache */
byte cached_hva, cached_page;
bool index_lock = false;
byte slot_hva = 0;         /* where the memslot puts the gpa */
byte generation = 0;
byte host_page[HVAS];
byte flight[HVAS];         /* nonce of the bracket on this hva, or 0 */
bool inside[HVAS];
bool gone[HVAS];           /* the update took this hva away */
byte section = 0;          /* the reader's slot */
bool using = false;

inline lock() { atomic { !index_lock -> index_lock = true } }
inline unlock() { index_lock = false }

inline drain() {
  drained = section;
  if
  :: drained != 0 -> (section != drained)
  :: else
  fi
}

proctype Refresher() {
  byte round, hva, seen, page, g, drained;
  do
  :: round < REFRESHES ->
     round++;
retry:
     /* A reader may still be inside with what was valid until now. */
     state = INVALID;
#ifdef UNRELATED
     hva = 0;
#elif UPDATES
     atomic { hva = slot_hva; g = generation };
#else
     hva = round % HVAS;
     g = generation;
#endif
#ifndef BREAK_KEY_CHANGE_WITHOUT_DRAIN
     drain();
#endif
#ifdef BREAK_PENDING_AFTER_LOOKUP
     page = host_page[hva];
#endif
     lock();
     listed = hva;
     state = PENDING;
     unlock();
#ifndef BREAK_NO_FLIGHT_CHECK
     seen = flight[hva];
#ifdef BREAK_RETRY_FOR_ANY_BRACKET
     if
     :: seen == 0 -> seen = flight[1 - hva]
     :: else
     fi;
#endif
     if
     :: seen != 0 ->
        (flight[hva] != seen);
        goto failed
     :: else
     fi;
#endif
#if UPDATES
#ifndef BREAK_NO_GENERATION_CHECK
     if
     :: generation != g -> goto failed
     :: else
     fi;
#endif
#endif
#ifndef BREAK_PENDING_AFTER_LOOKUP
     page = host_page[hva];
#endif
     cached_hva = hva;
     cached_page = page;
     atomic {
       if
#ifdef BREAK_PUBLISH_BY_STORE
       :: true ->
#else
       :: state == PENDING ->
#endif
          state = VALID;
          assert(listed == cached_hva)
       :: else -> goto failed
       fi
     };
     goto next;
failed:
#ifdef UNRELATED
     assert(false);
#endif
     goto retry;
next:
     skip
  :: else -> break
  od;
  /* deactivate */
#ifdef BREAK_UNLIST_BEFORE_DRAIN
  lock();
  listed = NOWHERE;
  unlock();
  state = INVALID;
#else
  state = INVALID;
  drain();
  atomic { assert(!using) };
  lock();
  listed = NOWHERE;
  unlock()
#endif
}

proctype Bracket(byte hva) {
  byte round, drained;
  bool overlaps;
  do
  :: round < ROUNDS ->
     round++;
#ifdef BREAK_FLIGHT_AFTER_SCAN
#else
     flight[hva] = round;
#endif
     lock();
     overlaps = (listed == hva);
     if
     :: overlaps ->
#ifdef BREAK_SCAN_SKIPS_PENDING
        if
        :: state == VALID -> state = INVALID
        :: else
        fi
#else
        state = INVALID
#endif
     :: else
     fi;
     unlock();
#ifdef BREAK_FLIGHT_AFTER_SCAN
     flight[hva] = round;
#endif
#ifndef BREAK_NO_WAIT_FOR_READERS
     if
     :: overlaps -> drain()
     :: else
     fi;
#endif
     atomic {
       inside[hva] = true;
       assert(!(using && cached_hva == hva));
       assert(!(state == VALID && cached_hva == hva))
     }
     host_page[hva]++;
     inside[hva] = false;
     flight[hva] = 0
  :: else -> break
  od
}

proctype Reader() {
  byte round, hva, page;
  do
  :: round < READS ->
     round++;
     section = round;
     if
     :: state == VALID ->
        /* The two loads of a pinned translation: nothing may change it in between. */
        hva = cached_hva;
        using = true;
        page = cached_page;
        atomic {
          assert(!inside[hva]);
          assert(page == host_page[hva]);
          assert(!gone[hva])
        };
        using = false
     :: else
     fi;
     section = 0
  :: else -> break
  od
}

/* The gpa moves from hva 0 to hva 1: publish, then invalidate what was made with the old set. */
proctype Update() {
  byte drained;
  atomic { slot_hva = 1; generation++ };
  lock();
  if
  :: listed == 0 -> state = INVALID
  :: else
  fi;
  unlock();
  drain();
  gone[0] = true
}

init {
  atomic {
    run Refresher();
#ifndef UNRELATED
    run Bracket(0);
#endif
#if !UPDATES
    run Bracket(1);
#endif
    run Reader();
#if UPDATES
    run Update()
#endif
  }
}
