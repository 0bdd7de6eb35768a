/* What a Begin does after its walk: it unlinks tables, flushes, hands them over, and a grace period passes
 * before a table is freed (I4). One flush covers all that the walk removed; a walk that removed no leaf
 * does not flush (I7).
 *
 * One table with two pages lies under its parent. A Begin takes both pages and drops both references when
 * it leaves the table. The thread that empties the table unlinks it: the Begin that cleared the last leaf,
 * another Begin, or an installer that gives its claim back (PRUNERS). A reader walks inside an RCU read
 * section, uses the page under its slot, and leaves when the flush tells it to. For the reader the flush is
 * only a hint: the wait of Begin makes it safe.
 *
 * WALKER adds a user that mmu/ does not have: like a hardware walker, it has neither RCU nor a slot, and
 * keeps the table that it has found until a flush. With one Begin the order of the steps keeps it safe. With
 * two Begins it would need more, and the rows of models.tsv show that: the Begin that finds nothing does not
 * wait for the flush of the Begin that cleared the leaf (WALKER_USES_LEAVES). That Begin, or an installer
 * that gives its claim back, may also retire the table before that flush. With FLUSH_FOR_TABLES each thread
 * that unlinks a table flushes, and tables are safe.
 *
 * Checked: no thread touches a freed table. No reader uses a page inside a bracket, although another Begin
 * cleared its leaf. Each Begin returns, so no reader is left without its hint. */

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
  byte round;
  bool found;
  do
  :: round < READS ->
     round++;
     section = true;
     rcu_enter(READER);
     found = linked;
     if
     :: found -> atomic { assert(!freed); found = leaf[0] }
     :: else
     fi;
     rcu_leave(READER);
     if
     :: found ->
        atomic { using = true; assert(inside == 0) };
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
