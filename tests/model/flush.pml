/* What a Begin owes after its walk: unlink, flush, hand over, and a grace period before the table is
 * freed (I4); one flush for all that its walk removed, none where it removed no leaf (I7).
 *
 * One table with two pages under its parent. A Begin takes both pages and drops both references when it
 * leaves the table; whoever empties the table unlinks it, be it the Begin that cleared the last leaf,
 * another one, or a claim that is given back (PRUNERS). A reader walks under RCU, uses the page in its
 * slot, and leaves when the flush tells it to: the flush is a hint for it, the wait of Begin is what
 * makes it safe.
 *
 * WALKER adds what mmu/ does not have: a user without RCU and without a slot, like a hardware walker,
 * that keeps the table it has found until a flush. For one Begin the order keeps it safe. With two it
 * would need more, and the rows say so: the Begin that finds nothing does not wait for the flush of the
 * one that cleared the leaf (WALKER_USES_LEAVES), and it, or a claim that is given back, may retire the
 * table before it. With FLUSH_FOR_TABLES whoever unlinks a table flushes, and tables are safe.
 *
 * Checked: nobody touches a freed table; no reader uses a page inside a bracket, though its leaf was
 * cleared by another Begin; every Begin returns (no reader is left without its hint). */

#ifndef BRACKETS
#define BRACKETS 2
#endif
#ifndef PRUNERS
#define PRUNERS 1
#endif
#ifndef READS
#define READS 1
#endif
#ifndef WALKER
#define WALKER 0
#endif

#define PAGES 2
#define READER BRACKETS /* its bit in RCU, after those of the brackets */
#define PRUNER (BRACKETS + 1)

bool linked = true;
bool leaf[PAGES] = true;
byte count = 1 + PAGES; /* 0: dead */
bool handed_over = false;
bool freed = false;
byte inside_rcu = 0;
byte waits_for = 0;
byte flush_epoch = 0;
byte inside = 0;
bool section = false;
bool using = false;
bool cached = false; /* the walker's way into the table */

inline rcu_enter(me) { inside_rcu = inside_rcu | (1 << me) }

inline rcu_leave(me) {
  d_step {
    inside_rcu = inside_rcu & ~(1 << me);
    waits_for = waits_for & ~(1 << me);
    freed = freed || (handed_over && waits_for == 0)
  }
}

/* RetiredTables::HandOver, then the grace period. */
inline hand_over() {
  d_step {
    assert(!handed_over);
    handed_over = true;
#ifdef BREAK_FREE_WITHOUT_GRACE
    freed = true;
#endif
    waits_for = inside_rcu;
    freed = freed || (waits_for == 0)
  }
}

/* Stage2::Finish. The walker's caches are gone when it returns. */
inline flush() {
  d_step {
    flushes++;
    assert(flushes <= 1);
    assert(unmapped);
    flush_epoch++;
    cached = false
  }
}

/* UnlinkIfEmpty. */
inline unlink_if_empty() {
  atomic {
    assert(!freed);
    if
    :: count == 1 -> count = 0
    :: else
    fi
  };
  if
  :: count == 0 ->
     atomic {
       if
       :: linked -> linked = false; mine = true
       :: else
       fi
     }
  :: else
  fi
}

proctype Bracket(byte me) {
  byte page, flushes, emptied;
  bool unmapped, mine;
  rcu_enter(me);
  if
  :: linked ->
     do
     :: page < PAGES ->
        atomic {
          assert(!freed);
          if
          :: leaf[page] -> leaf[page] = false; unmapped = true; emptied++
          :: else
          fi
        };
#ifdef BREAK_FLUSH_PER_PAGE
        if
        :: unmapped -> flush()
        :: else
        fi;
#endif
        page++
     :: else -> break
     od;
     atomic { assert(!freed && (emptied == 0 || count > emptied)); count = count - emptied };
#ifdef BREAK_FLUSH_BEFORE_UNLINK
     if
     :: unmapped -> flush()
     :: else
     fi;
#endif
     unlink_if_empty()
  :: else
  fi;
  rcu_leave(me);
#ifdef BREAK_RETIRE_BEFORE_FLUSH
  if
  :: mine -> hand_over(); mine = false
  :: else
  fi;
#endif
#if !defined(BREAK_FLUSH_BEFORE_UNLINK) && !defined(BREAK_FLUSH_PER_PAGE) && !defined(BREAK_NO_FLUSH)
  if
#ifdef FLUSH_FOR_TABLES
  :: unmapped || mine -> unmapped = true; flush()
#else
  :: unmapped -> flush()
#endif
  :: else
  fi;
#endif
  if
  :: mine -> hand_over()
  :: else
  fi;
#ifdef BREAK_WAIT_ONLY_IF_UNMAPPED
  if
  :: unmapped -> !section
  :: else
  fi;
#else
  !section;
#endif
  atomic {
    inside++;
    assert(!using);
#ifdef WALKER_USES_LEAVES
    assert(!cached);
#endif
    inside--
  }
}

/* A claim beside the leaves that is given back after them: it may leave the table empty, and it flushes
 * nothing, for it mapped nothing. */
proctype Pruner() {
  byte flushes;
  bool unmapped, mine;
  rcu_enter(PRUNER);
  if
  :: linked ->
     atomic {
       assert(!freed);
       if
       :: count > 0 -> count++
       :: else -> goto out
       fi
     };
     atomic { assert(!freed); count-- };
     unlink_if_empty()
  :: else
  fi;
out:
  rcu_leave(PRUNER);
  if
#ifdef FLUSH_FOR_TABLES
  :: mine -> unmapped = true; flush(); hand_over()
#else
  :: mine -> hand_over()
#endif
  :: else
  fi
}

proctype Reader() {
  byte round, epoch;
  bool found;
  do
  :: round < READS ->
     round++;
     section = true;
#ifndef BREAK_EPOCH_AFTER_LOOKUP
     epoch = flush_epoch;
#endif
     rcu_enter(READER);
     found = linked;
     if
     :: found -> atomic { assert(!freed); found = leaf[0] }
     :: else
     fi;
     rcu_leave(READER);
#ifdef BREAK_EPOCH_AFTER_LOOKUP
     epoch = flush_epoch;
#endif
     if
     :: found ->
        atomic { using = true; assert(inside == 0) };
        (flush_epoch != epoch); /* a section without an end of its own */
        using = false
     :: else
     fi;
     section = false
  :: else -> break
  od
}

#if WALKER
proctype Walker() {
end:
  do
  :: atomic { linked && !cached -> cached = true }
  :: atomic { cached -> assert(!freed) }
  od
}
#endif

init {
  byte i;
  atomic {
    do
    :: i < BRACKETS -> run Bracket(i); i++
    :: else -> break
    od;
#if PRUNERS
    run Pruner();
#endif
#if READS
    run Reader();
#endif
#if WALKER
    run Walker()
#endif
  }
}
