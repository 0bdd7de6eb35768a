/* A table of two pages that an unmap takes out as a whole. One entry of the parent points to the table.
 * WHOLES are brackets of both pages: if the table has a leaf, the bracket *detaches* it, that is, it empties
 * the entry of the parent by one compare-exchange and retires the table as it is; if the table has only
 * claims, it empties each entry. PARTS are brackets of page 0 alone, which empty its entry. Installers claim
 * a page, look for brackets, look the page up, and publish from the root. Readers use page 0 in a section.
 *
 * A thread that found the table before it was detached may still claim, publish or empty an entry of it.
 * Therefore the counter of entries follows after the table's grace period, when it is freed: by the count of
 * the table, so an entry counts from its claim on, and a claim that went with a table goes off with it.
 *
 * Checked: between Begin and End no leaf of the range is reachable, and no reader uses one (I1). A reader
 * uses the page that the host has now. No thread touches a freed table; each table is retired once, and
 * freed once, after its grace period (I4). At the end the count of the linked table and the counters of
 * entries and tables are exact (I5). An installer starts again at most twice for each bracket (I9).
 *
 * Not in the model: the dirty log (a slot with a log never detaches), tables above the parent (levels.pml),
 * table memory that is used again.
 *
 * Sizes: INSTALLERS, WHOLES, PARTS, READERS, READS (of each reader). CLAIMED_AT_FIRST: page 0 has no leaf at
 * first. NOWAIT: the first bracket does not wait for readers, like the bracket of a thread that serves
 * faults; the readers' own checks are then left out.
 *
 * What the switches that break the model show:
 *   BREAK_DETACH_BY_STORE            two brackets detach one table, and both retire it
 *   BREAK_LOSER_RETIRES_TOO          the same, by a compare-exchange whose result is ignored
 *   BREAK_FREE_WITHOUT_GRACE         a thread that found the table before touches freed memory
 *   BREAK_COUNT_AT_DETACH            entries that are claimed or emptied later are counted wrongly
 *   BREAK_COUNT_AT_PUBLISH           a claim that went with a table is taken off and was never added
 *   BREAK_PUBLISH_KEEPS_THE_TABLE    an installer that does not start at the root touches a freed table
 *   BREAK_NO_WAIT_FOR_READERS        a reader that found the table before uses a page that has moved
 *   BREAK_SECOND_BEGIN_DOES_NOT_WAIT the same, if the table was detached by another bracket
 *   BREAK_READ_BEFORE_SECTION        the same, if the reader announces itself after it has read the entry
 *   BREAK_FLIGHT_AFTER_WALK          an installer publishes, in a new table, a page from before the bracket */

#ifndef INSTALLERS
#define INSTALLERS 1
#endif
#ifndef WHOLES
#define WHOLES 1
#endif
#ifndef PARTS
#define PARTS 1
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef READS
#define READS 1
#endif
#ifndef TABLES
#define TABLES 5
#endif

#define BRACKETS (WHOLES + PARTS)
#define FIRST_READER INSTALLERS
#define FIRST_BRACKET (INSTALLERS + READERS)
#define THREADS (INSTALLERS + READERS + BRACKETS)
#define NONE 255
#define EMPTY 0
/* An entry is empty, a claim (the tag of its owner, 1 to 7), or a leaf of a version of the host's page. */
#define LEAF(v) (64 + (v))
#define IS_LEAF(e) ((e) >= 64)
#define VERSION(e) ((e) & 3)
#ifdef BREAK_COUNT_AT_PUBLISH
#define COUNTS(e) IS_LEAF(e)
#else
#define COUNTS(e) 1
#endif
#define AT(t, i) ((t) * 2 + (i))

byte parent = 0;             /* the linked table, or none */
byte entry[TABLES * 2];
byte count[TABLES];          /* 1 + entries in use; 0: dead */
bool retired[TABLES];
bool freed[TABLES];
byte waits_for[TABLES];      /* threads (bits) that the grace period of this table waits for */
byte used = 1;               /* tables handed out so far */
byte inside_rcu = 0;         /* threads (bits) */
short entries = 2;           /* the counter: leaves and claims */
byte tables = 1;             /* the counter */
byte flight[BRACKETS + 1];   /* pages (bits) */
byte section[READERS + 1];   /* 0, or the nonce of the section */
byte inside[2];              /* brackets between the return of Begin and End */
byte host[2];                /* the version of the page */
byte unwaited = 0;
byte finished = 0;

inline rcu_enter() { inside_rcu = inside_rcu | (1 << me) }

/* A grace period ends with its last reader. The table is freed then, and its count is taken off. */
inline rcu_leave() {
  d_step {
    inside_rcu = inside_rcu & ~(1 << me);
    k = 0;
    do
    :: k < used ->
       waits_for[k] = waits_for[k] & ~(1 << me);
       if
       :: retired[k] && !freed[k] && waits_for[k] == 0 ->
          freed[k] = true;
#ifndef BREAK_COUNT_AT_DETACH
          entries = entries - (count[k] > 0 -> count[k] - 1 : 0)
#endif
       :: else
       fi;
       k++
    :: else -> break
    od;
    k = 0
  }
}

inline retire(t) {
  assert(!retired[t]);
  retired[t] = true;
  tables--;
  waits_for[t] = inside_rcu;
#ifdef BREAK_FREE_WITHOUT_GRACE
  freed[t] = true;
  entries = entries - (count[t] > 0 -> count[t] - 1 : 0)
#endif
}

/* Of a dead table. */
inline unlink(t) {
  d_step {
    if
    :: parent == t -> parent = NONE; retire(t)
    :: else
    fi
  }
}

inline drop(t, some) {
  d_step { assert(!freed[t]); assert(count[t] > some); count[t] = count[t] - some };
  d_step {
    assert(!freed[t]);
    won = (count[t] == 1);
    count[t] = (won -> 0 : count[t])
  };
  if
  :: won -> won = false; unlink(t)
  :: else
  fi
}

inline claim() {
  do
  :: t = parent;
     if
     :: t == NONE ->
        /* The table is made in private with the claim in it, so only linking it is a step. */
        d_step {
          won = (parent == NONE);
          if
          :: won ->
             t = used;
             used++;
             assert(t < TABLES);
             count[t] = 2;
             entry[AT(t, i)] = tag;
             entries = entries + COUNTS(tag);
             tables++;
             parent = t
          :: else
          fi
        };
        if
        :: won -> won = false; break
        :: else
        fi
     :: else ->
        d_step { assert(!freed[t]); e = entry[AT(t, i)]; won = (count[t] == 0) };
        if
        :: won -> won = false; unlink(t)
        :: else ->
           if
           :: IS_LEAF(e) -> goto taken
           :: !IS_LEAF(e) && e != EMPTY -> goto busy
           :: else
           fi;
           d_step {
             assert(!freed[t]);
             won = (count[t] > 0);
             count[t] = (won -> count[t] + 1 : count[t])
           };
           if
           :: won ->
              d_step {
                assert(!freed[t]);
                won = (entry[AT(t, i)] == EMPTY);
                entry[AT(t, i)] = (won -> tag : entry[AT(t, i)]);
                entries = entries + (won -> COUNTS(tag) : 0)
              };
              if
              :: won -> won = false; break
              :: else -> drop(t, 1)
              fi
           :: else
           fi
        fi
     fi
  od
}

proctype Installer(byte me; byte i) {
  byte t, e, k, b, v, tries;
  byte tag = me + 1;
  bool won;
retry:
  tries++;
  assert(tries <= 1 + 2 * BRACKETS);
  rcu_enter();
  claim();
  rcu_leave();
  b = 0;
  do
  :: b < BRACKETS && (flight[b] & (1 << i)) == 0 -> b++
  :: else -> break
  od;
  if
  :: b < BRACKETS ->
     /* Gives the claim back, from the root. */
     rcu_enter();
     t = parent;
     if
     :: t != NONE ->
        d_step {
          assert(!freed[t]);
          won = (entry[AT(t, i)] == tag);
          entry[AT(t, i)] = (won -> EMPTY : entry[AT(t, i)]);
          entries = entries - (won -> COUNTS(tag) : 0)
        };
        if
        :: won -> won = false; drop(t, 1)
        :: else
        fi
     :: else
     fi;
     rcu_leave();
     (flight[b] == 0);
     goto retry
  :: else
  fi;
  v = host[i];
  rcu_enter();
#ifndef BREAK_PUBLISH_KEEPS_THE_TABLE
  t = parent;
#endif
  if
  :: t == NONE -> rcu_leave(); goto retry
  :: else
  fi;
  d_step {
    assert(!freed[t]);
    won = (entry[AT(t, i)] == tag);
    if
    :: won ->
       entry[AT(t, i)] = LEAF(v);
       entries = entries + 1 - COUNTS(tag);
       assert(parent != t || (inside[i] == 0 && v == host[i]))
    :: else
    fi
  };
  rcu_leave();
  if
  :: won -> goto done
  :: else -> goto retry
  fi;
taken:
  won = false;
  rcu_leave();
  goto done;
busy:
  /* The claim of another thread. The model gives up here, which keeps it small. */
  rcu_leave();
done:
  finished++
}

inline wait_for_readers() {
  k = 0;
  do
  :: k < READERS ->
     seen = section[k];
     if
     :: seen != 0 -> (section[k] != seen)
     :: else
     fi;
     k++
  :: else -> break
  od;
  seen = 0;
  k = 0
}

/* After the walk: the rest of Begin, the change of the host, and End. */
inline finish(pages) {
#ifdef BREAK_FLIGHT_AFTER_WALK
  flight[b] = pages;
#endif
  k = 0;
  do
  :: k < BRACKETS && (k == b || (flight[k] & pages) == 0) -> k++
  :: else -> break
  od;
#ifdef BREAK_SECOND_BEGIN_DOES_NOT_WAIT
  k = BRACKETS;
#endif
  if
#ifdef NOWAIT
  :: b == 0 -> unwaited++
  :: b != 0 && (held || k < BRACKETS || unwaited > 0) -> wait_for_readers()
#else
#ifndef BREAK_NO_WAIT_FOR_READERS
  :: held || k < BRACKETS -> wait_for_readers()
#endif
#endif
  :: else
  fi;
  k = 0;
  d_step {
    inside[0] = inside[0] + (pages & 1);
    inside[1] = inside[1] + (pages >> 1);
    assert(parent == NONE || (pages & 1) == 0 || !IS_LEAF(entry[AT(parent, 0)]));
    assert(parent == NONE || (pages & 2) == 0 || !IS_LEAF(entry[AT(parent, 1)]))
  };
  d_step {
    host[0] = host[0] + (pages & 1);
    host[1] = host[1] + (pages >> 1);
    inside[0] = inside[0] - (pages & 1);
    inside[1] = inside[1] - (pages >> 1)
  };
  flight[b] = 0
}

/* Stage2::Unmap of a table without a leaf: each entry by itself. */
inline empty_table() {
  i = 0;
  emptied = 0;
  do
  :: i < 2 ->
     d_step { assert(!freed[t]); e = entry[AT(t, i)] };
     if
     :: e == EMPTY -> i++
     :: else ->
        d_step {
          assert(!freed[t]);
          won = (entry[AT(t, i)] == e);
          if
          :: won ->
             entry[AT(t, i)] = EMPTY;
             emptied++;
             entries = entries - COUNTS(e);
             held = held || IS_LEAF(e);
             i++
          :: else
          fi
        };
        won = false
     fi
  :: else -> break
  od;
  i = 0;
  e = 0;
  if
  :: emptied > 0 -> drop(t, emptied); emptied = 0
  :: else ->
     /* A dead table is unlinked by each thread that meets it. */
     d_step { assert(!freed[t]); won = (count[t] == 0) };
     if
     :: won -> won = false; unlink(t)
     :: else
     fi
  fi
}

proctype Whole(byte me; byte b) {
  byte t, e, k, i, seen, emptied;
  bool won, held;
#ifndef BREAK_FLIGHT_AFTER_WALK
  flight[b] = 3;
#endif
  rcu_enter();
  do
  :: t = parent;
     if
     :: t == NONE -> break
     :: else
     fi;
     /* Table::HasLeaf */
     d_step { assert(!freed[t]); e = entry[AT(t, 0)] };
     if
     :: !IS_LEAF(e) -> d_step { assert(!freed[t]); e = entry[AT(t, 1)] }
     :: else
     fi;
     if
     :: !IS_LEAF(e) -> empty_table(); break
     :: else
     fi;
     e = 0;
     d_step {
#ifdef BREAK_DETACH_BY_STORE
       won = true;
#else
       won = (parent == t);
#endif
       if
       :: won ->
          parent = NONE;
          held = true;
          retire(t);
#ifdef BREAK_COUNT_AT_DETACH
          entries = entries - (count[t] > 0 -> count[t] - 1 : 0)
#endif
       :: else
#ifdef BREAK_LOSER_RETIRES_TOO
          -> retire(t)
#endif
       fi
     };
     if
     :: won -> won = false; break
     :: else
     fi
  od;
  rcu_leave();
  finish(3);
  finished++
}

proctype Part(byte me; byte b) {
  byte t, e, k, seen;
  bool won, held;
  flight[b] = 1;
  rcu_enter();
  t = parent;
  do
  :: t != NONE ->
     d_step { assert(!freed[t]); e = entry[AT(t, 0)] };
     if
     :: e == EMPTY -> break
     :: else
     fi;
     d_step {
       assert(!freed[t]);
       won = (entry[AT(t, 0)] == e);
       entry[AT(t, 0)] = (won -> EMPTY : entry[AT(t, 0)]);
       held = won && IS_LEAF(e);
       entries = entries - (won -> COUNTS(e) : 0)
     };
     if
     :: won -> won = false; drop(t, 1); break
     :: else
     fi
  :: else -> break
  od;
  rcu_leave();
  finish(1);
  finished++
}

proctype Reader(byte me; byte r) {
  byte t, e, k, round;
  do
  :: round < READS ->
     round++;
#ifndef BREAK_READ_BEFORE_SECTION
     section[r] = round;
#endif
     rcu_enter();
     e = EMPTY;
     t = parent;
     if
     :: t != NONE -> d_step { assert(!freed[t]); e = entry[AT(t, 0)] }
     :: else
     fi;
     rcu_leave();
#ifdef BREAK_READ_BEFORE_SECTION
     section[r] = round;
#endif
     if
     :: IS_LEAF(e) ->
#ifndef NOWAIT
        d_step {
          assert(inside[0] == 0);
          assert(VERSION(e) == host[0])
        }
#else
        skip
#endif
     :: else
     fi;
     section[r] = 0
  :: else -> break
  od;
  finished++
}

/* When all threads have ended. */
proctype Auditor() {
  byte t;
  (finished == THREADS);
  d_step {
    do
    :: t < used ->
       if
       :: t == parent ->
          assert(!retired[t]);
          assert(count[t] == 1 + (entry[AT(t, 0)] != EMPTY) + (entry[AT(t, 1)] != EMPTY));
          assert(count[t] > 1)
       :: else -> assert(freed[t])
       fi;
       t++
    :: else -> break
    od;
    assert(tables == (parent != NONE));
    assert(entries == (parent == NONE -> 0 : count[parent] - 1))
  }
}

init {
  byte n;
  d_step {
    count[0] = 3;
    entry[0] = LEAF(0);
    entry[1] = LEAF(0)
#ifdef CLAIMED_AT_FIRST
    ;
    count[0] = 2;
    entry[0] = EMPTY;
    entries = 1
#endif
  };
  atomic {
    n = 0;
    do
    :: n < INSTALLERS -> run Installer(n, n % 2); n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < READERS -> run Reader(FIRST_READER + n, n); n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < WHOLES -> run Whole(FIRST_BRACKET + n, n); n++
    :: else -> break
    od;
    do
    :: n < BRACKETS -> run Part(FIRST_BRACKET + n, n); n++
    :: else -> break
    od;
    n = 0;
    run Auditor()
  }
}
