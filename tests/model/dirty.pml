/* The dirty log (I8): each write is recorded in a leaf or in the log, or is counted as on its way from the
 * leaf to the log.
 *
 * The model has a block of two pages over a table, or its two pages (PAGES_AT_FIRST). A removal takes page 0
 * (PARTS: if it is part of a block, the rest of the block stays) or both pages (WHOLES): first the leaf
 * goes, then its bit enters the log. Splits and write protections keep the bit in the entry. A writer finds
 * the D bit or sets it, inside a section; where there is no leaf, it faults in a dirty one. A collector
 * moves the bits of the leaves to the log, waits for removals under way, takes the log, waits for readers,
 * and copies the pages.
 *
 * Checked: each written page is in a copy, in a leaf or in the log. A collection that begins after the last
 * write reports every written page. */

#ifndef PARTS
#define PARTS 1
#endif
#ifndef WHOLES
#define WHOLES 0
#endif
#ifndef SPLITS
#define SPLITS 0
#endif
#ifndef WRITES
#define WRITES 2
#endif
#ifndef COLLECTIONS
#define COLLECTIONS 2
#endif

#define REMOVALS (PARTS + WHOLES)
#define PAGES 2
#define EMPTY 0
#define LEAF 1
#define D 2 /* with LEAF */
#define TABLE 4

#ifdef PAGES_AT_FIRST
byte top = TABLE;        /* the entry of the block */
byte entry[PAGES] = LEAF; /* those of the table below it */
#else
byte top = LEAF;
byte entry[PAGES];
#endif
bool logged[PAGES];
bool unseen[PAGES];      /* written, and in no copy yet */
byte removals = 0;       /* under way */
byte inside_rcu = 0;     /* removals, as bits */
byte grace = 0;          /* those that the collector waits for */
byte section = 0;        /* of the writer; the nonce, for it is waited for a change */
bool writing = true;
byte finished = 0;

/* The leaf of page `p`, as found on the way down. */
inline look() {
  atomic {
    above = (top != TABLE);
    e = (above -> top : entry[p])
  }
}

/* By compare-exchange of what was found. A table never becomes a block again. */
inline replace(by) {
  atomic {
    won = (above -> top == e : entry[p] == e);
    top = (won && above -> by : top);
    entry[p] = (won && !above -> by : entry[p])
  }
}

/* The block becomes a table of `zero` and `rest`. */
inline split(zero, rest) {
  atomic {
    won = (top == e);
    top = (won -> TABLE : top);
    entry[0] = (won -> zero : entry[0]);
    entry[1] = (won -> rest : entry[1])
  }
}

inline mark() {
  logged[p] = true;
  if
  :: above && whole -> logged[1 - p] = true
  :: else
  fi
}

proctype Remove(byte me; bool whole) {
  byte p, e;
  bool above, won;
  inside_rcu = inside_rcu | (1 << me);
  do
  :: look();
     if
     :: e == EMPTY ->
        if
        :: whole && !above && p == 0 -> p = 1
        :: else -> break
        fi
     :: else ->
#ifdef BREAK_LOG_BEFORE_THE_LEAF
        if
        :: e & D -> mark()
        :: else
        fi;
#endif
#ifndef BREAK_COUNT_AFTER_THE_LEAF
        if
        :: e & D -> removals++
        :: else
        fi;
#endif
        if
        :: above && !whole -> split(EMPTY, e)
        :: else -> replace(EMPTY)
        fi;
#ifdef BREAK_COUNT_AFTER_THE_LEAF
        if
        :: e & D -> removals++
        :: else
        fi;
#endif
#ifdef BREAK_COUNT_ENDS_BEFORE_THE_LOG
        if
        :: e & D -> removals--
        :: else
        fi;
#endif
#ifdef BREAK_LOG_OUTSIDE_RCU
        inside_rcu = inside_rcu & ~(1 << me);
        grace = grace & ~(1 << me);
#endif
        if
#ifndef BREAK_LOG_BEFORE_THE_LEAF
        :: won && (e & D) -> mark()
#endif
        :: else
        fi;
#ifndef BREAK_COUNT_ENDS_BEFORE_THE_LOG
        if
        :: e & D -> removals--
        :: else
        fi
#endif
     fi
  od;
  atomic {
    inside_rcu = inside_rcu & ~(1 << me);
    grace = grace & ~(1 << me);
    finished++
  }
}

proctype Split() {
  byte e;
  bool won;
  do
  :: e = top;
     if
     :: e == TABLE || e == EMPTY -> break
     :: else ->
#ifdef BREAK_SPLIT_DROPS_DIRTY
        split(LEAF, LEAF)
#else
        split(e, e)
#endif
     fi;
     if
     :: won -> break
     :: else
     fi
  od;
  finished++
}

proctype Writer() {
  byte p, e, round;
  bool above, won;
  do
  :: round < WRITES ->
     round++;
     if
     :: p = 0
     :: p = 1
     fi;
     do
     :: section = round;
        look();
        if
        :: e == EMPTY ->
           /* A fault for writing, of the page or of the block. */
           section = 0;
           replace(LEAF + D)
        :: e != EMPTY && (e & D) -> break
        :: else ->
           replace(e + D);
           if
           :: won -> break
           :: else -> section = 0
           fi
        fi
     od;
     unseen[p] = true;
     section = 0
  :: else -> break
  od;
  writing = false;
  finished++
}

/* Marks and cleans the leaves of page `p`, or of both if a block stands for them. */
inline collect_leaf() {
  do
  :: look();
     if
     :: e != EMPTY && (e & D) ->
        mark();
        replace(e - D);
        if
        :: won -> break
        :: else
        fi
     :: else -> break
     fi
  od
}

inline collect_leaves() {
  p = 0;
  collect_leaf();
  p = 1;
  collect_leaf()
}

inline take() {
  d_step { taken[0] = logged[0]; logged[0] = false };
  d_step { taken[1] = logged[1]; logged[1] = false }
}

proctype Collector() {
  byte p, e, round, seen;
  bool above, won, last;
  bool whole = true;
  bool taken[PAGES];
  do
  :: round < COLLECTIONS ->
     round++;
     if
     :: round == COLLECTIONS -> !writing; last = true
     :: else
     fi;
#ifdef BREAK_TAKE_BEFORE_THE_LEAVES
     take();
     collect_leaves();
#else
     collect_leaves();
#ifndef BREAK_COLLECT_IGNORES_REMOVALS
     if
     :: removals != 0 -> grace = inside_rcu; grace == 0
     :: else
     fi;
#endif
     take();
#endif
#ifndef BREAK_COLLECT_SKIPS_READERS
     seen = section;
     if
     :: seen != 0 -> section != seen
     :: else
     fi;
#endif
     d_step {
       unseen[0] = unseen[0] && !taken[0];
       unseen[1] = unseen[1] && !taken[1];
       assert(!last || (!unseen[0] && !unseen[1]));
       taken[0] = false;
       taken[1] = false
     }
  :: else -> break
  od;
  finished++
}

proctype Auditor() {
  byte p;
  (finished == REMOVALS + SPLITS + 2);
  d_step {
    do
    :: p < PAGES ->
       assert(!unseen[p] || logged[p] || (top != TABLE && (top & D)) || (top == TABLE && (entry[p] & D)));
       p++
    :: else -> break
    od;
    assert(removals == 0)
  }
}

init {
  byte n;
  atomic {
    run Auditor();
    run Writer();
    run Collector();
    do
    :: n < REMOVALS -> run Remove(n, n >= PARTS); n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < SPLITS -> run Split(); n++
    :: else -> break
    od;
    n = 0
  }
}
