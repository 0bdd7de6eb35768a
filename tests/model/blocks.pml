/* One entry of level 1: a block of two pages, or the table of pages that may replace it.
 *
 * The model has a claim of the block, against a claim of one page and against a Begin for a part of the
 * block; the publication of a block; and the publication of a table that was filled in private (RANGE). A
 * Begin of one page also steals the claim behind such a table. With COLLAPSE the entry starts as a table of
 * leaves: one thread brackets both pages while the host moves them into a block, and then installs the
 * block like any other.
 *
 * Checked: between Begin and End no translation of the page is present or appears (I1). Each published page
 * is the one that the host has now. References never run short. At the end an empty table is not linked,
 * and the count of a linked table is right (I5).
 *
 * Each step is one compare-exchange. A private table becomes part of the model when it is linked. Table
 * numbers are never reused: tables.pml and levels.pml model the grace periods.
 *
 * Sizes: BLOCKS; PAGES (threads that claim page 0); BRACKETS (of one page each, one after the other);
 * ROUNDS. */

#ifndef BLOCKS
#define BLOCKS 1
#endif
#ifndef PAGES
#define PAGES 1
#endif
#ifndef BRACKETS
#define BRACKETS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef TABLES
#define TABLES 10
#endif

#define NONE 255
#define EMPTY 0
#define IS_CLAIM(e) ((e) >= 1 && (e) < 16)
#define LEAF(version) (16 + (version))
#define IS_LEAF(e) ((e) >= 16)
#define AT(t, i) ((t) * 2 + (i))
#define WORD(i) (table == NONE -> block[i] : page[AT(table, i)])

byte table = NONE;     /* the entry: a table, or else `block` */
byte block[2];         /* both empty, both one claim, or a leaf of both pages; changed in one step */
byte page[TABLES * 2];
byte count[TABLES];    /* 0: dead */
byte used = 0;
byte host[2];
byte flight[2];
byte inside[2];
byte finished = 0;

inline set_block(first, second) { table = NONE; block[0] = first; block[1] = second }

inline link_table(first, second) {
  assert(used < TABLES);
  page[AT(used, 0)] = first;
  page[AT(used, 1)] = second;
  count[used] = 1 + (first != EMPTY) + (second != EMPTY);
  block[0] = EMPTY;
  block[1] = EMPTY;
  table = used;
  used++
}

inline drop(t) { d_step { assert(count[t] > 1); count[t]-- } }

/* UnlinkIfEmpty, for a table that has died under another hand too. */
inline unlink_if_empty(t) {
  d_step {
    if
    :: count[t] == 1 -> count[t] = 0
    :: else
    fi
  };
  d_step {
    if
    :: count[t] == 0 && table == t -> table = NONE
    :: else
    fi
  }
}

/* Claims the block, brings both pages in, publishes: a block, or the pages of a private table. */
inline install_block(tag) {
  skip;
retry:
  atomic {
    if
    :: table == NONE && block[0] == EMPTY -> set_block(tag, tag)
    :: else -> goto out /* kTable, kPresent, or kBusy */
    fi
  };
  seen = flight[0];
  busy = 0;
#ifndef BREAK_BLOCK_CHECKS_ONE_PAGE
  if
  :: seen == 0 -> seen = flight[1]; busy = 1
  :: else
  fi;
#endif
  if
  :: seen != 0 ->
     d_step {
       if
       :: table == NONE && block[0] == tag -> set_block(EMPTY, EMPTY)
       :: else
       fi
     };
     (flight[busy] != seen);
     goto retry
  :: else
  fi;
  first = host[0];
  second = host[1];
  atomic {
    if
#ifdef BREAK_PUBLISH_BY_STORE
    :: true ->
#else
    :: table == NONE && block[0] == tag ->
#endif
#ifdef RANGE
       link_table(LEAF(first), LEAF(second));
#else
       set_block(LEAF(first), LEAF(second));
#endif
       assert(inside[0] == 0 && inside[1] == 0);
       assert(first == host[0] && second == host[1])
    :: else -> goto retry
    fi
  };
out:
  skip
}

proctype Block(byte tag) {
  byte seen, busy, first, second;
  install_block(tag);
  finished++
}

/* Claims page 0; links a table for it where none is. */
proctype Page(byte tag) {
  byte seen, t, version;
retry:
  t = table;
  if
  :: t == NONE ->
     atomic {
       if
       :: table == NONE && block[0] == EMPTY -> link_table(tag, EMPTY)
#ifdef BREAK_PAGE_TAKES_A_BLOCK_CLAIM
       :: table == NONE && IS_CLAIM(block[0]) -> link_table(tag, EMPTY)
#else
       :: table == NONE && block[0] != EMPTY -> goto done /* kPresent or kBusy */
#endif
       :: table != NONE -> goto retry
       fi
     }
  :: else ->
     atomic {
       if
       :: count[t] > 0 -> count[t]++
       :: else -> goto help
       fi
     };
     atomic {
       if
       :: page[AT(t, 0)] == EMPTY -> page[AT(t, 0)] = tag
       :: else -> goto taken
       fi
     }
  fi;
  seen = flight[0];
  if
  :: seen != 0 ->
     t = table;
     if
     :: t != NONE ->
        atomic {
          if
          :: page[AT(t, 0)] == tag -> page[AT(t, 0)] = EMPTY
          :: else -> goto stolen
          fi
        };
        drop(t);
        unlink_if_empty(t)
     :: else
     fi;
stolen:
     (flight[0] != seen);
     goto retry
  :: else
  fi;
  version = host[0];
  t = table;
  if
  :: t == NONE -> goto retry
  :: else
  fi;
  atomic {
    if
    :: page[AT(t, 0)] == tag ->
       page[AT(t, 0)] = LEAF(version);
       assert(table != t || inside[0] == 0 && version == host[0])
    :: else -> goto retry
    fi
  };
  goto done;
help:
  unlink_if_empty(t);
  goto retry;
taken:
  drop(t);
  unlink_if_empty(t);
done:
  finished++
}

/* UnmapVisitor for page `i`, or for both. */
inline unmap(i, whole) {
  do
  :: atomic { t = table; old = block[0]; other = block[1] };
     if
     :: t != NONE -> break
     :: t == NONE && old == EMPTY -> break
#ifdef BREAK_BEGIN_SKIPS_BLOCK_CLAIMS
     :: t == NONE && IS_CLAIM(old) -> break
#endif
     :: else ->
        atomic {
          if
          :: table == NONE && block[0] == old && block[1] == other ->
             if
             :: IS_LEAF(old) && !whole && i == 0 -> link_table(EMPTY, other)
             :: IS_LEAF(old) && !whole && i == 1 -> link_table(old, EMPTY)
             :: else -> set_block(EMPTY, EMPTY)
             fi;
             break
          :: else
          fi
        }
     fi
  od;
  if
  :: t != NONE ->
     busy = (whole -> 0 : i);
     do
     :: old = page[AT(t, busy)];
        if
        :: old == EMPTY -> skip
        :: else ->
           atomic {
             if
             :: page[AT(t, busy)] == old -> page[AT(t, busy)] = EMPTY
             :: else -> goto again
             fi
           };
           drop(t)
        fi;
        if
        :: whole && busy == 0 -> busy = 1
        :: else -> break
        fi;
again:
        skip
     od;
     unlink_if_empty(t)
  :: else
  fi
}

proctype Bracket(byte me) {
  byte t, old, other, i, busy, round;
  do
  :: round < ROUNDS ->
     i = (me + round) % 2;
     round++;
     flight[i]++;
     unmap(i, 0);
     d_step { inside[i]++; assert(!IS_LEAF(WORD(i))) };
     d_step { host[i]++; inside[i]--; };
     flight[i]--
  :: else -> break
  od;
  finished++
}

#ifdef COLLAPSE
proctype Collapse(byte tag) {
  byte t, old, other, busy, seen, first, second;
#ifndef BREAK_COLLAPSE_BRACKETS_ONE_PAGE
  flight[0]++;
#endif
  flight[1]++;
  unmap(0, 1);
  d_step { inside[0]++; inside[1]++; assert(!IS_LEAF(WORD(0)) && !IS_LEAF(WORD(1))) };
  d_step { host[0]++; host[1]++; inside[0]--; inside[1]-- };
  flight[1]--;
#ifndef BREAK_COLLAPSE_BRACKETS_ONE_PAGE
  flight[0]--;
#endif
  install_block(tag);
  finished++
}
#endif

proctype Auditor(byte threads) {
  (finished == threads);
  assert(table == NONE || count[table] == 1 + (page[AT(table, 0)] != EMPTY) +
                                              (page[AT(table, 1)] != EMPTY));
  assert(table == NONE || count[table] > 1);
  assert(!IS_CLAIM(WORD(0)) && !IS_CLAIM(WORD(1)))
}

init {
  byte n, tag = 1;
  atomic {
#ifdef COLLAPSE
    link_table(LEAF(0), LEAF(0));
    run Collapse(tag);
    tag++;
#endif
    do
    :: n < BLOCKS -> run Block(tag); tag++; n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < PAGES -> run Page(tag); tag++; n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < BRACKETS -> run Bracket(n); n++
    :: else -> break
    od;
    run Auditor(tag - 1 + BRACKETS)
  }
}
