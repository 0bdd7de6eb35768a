/* One table page under its parent entry. The thread that needs it first makes it. Its count is one
 * reference of its own plus one for each entry that is not empty (claims count). When the count reaches 0,
 * the table is dead for good. Installers walk again from the root after their page-in. Brackets steal
 * claims.
 *
 * Checked: no thread touches a freed table (I4). Each table is retired and freed at most once. At the end no
 * empty table is linked and nothing else is outstanding (I5). No leaf appears inside a bracket (I1).
 *
 * The RCU readers of the root are the threads themselves: a retired table is freed when each thread that was
 * inside at that moment has left. Sizes: INSTALLERS (each has its own entry), BRACKETS, ROUNDS.
 *
 * With COVERS a bracket covers the whole table, like an unmap of a covered table: it empties each entry by
 * a compare-exchange of its own, and drops the references of all emptied entries in one step. */

#ifndef INSTALLERS
#define INSTALLERS 2
#endif
#ifndef BRACKETS
#define BRACKETS 1
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef TABLES
#define TABLES 7
#endif

#define THREADS (INSTALLERS + BRACKETS)
#define ENTRIES 2
#define NONE 255
#define EMPTY 0
#define LEAF 100
#define AT(t, i) ((t) * ENTRIES + (i))

byte parent = NONE;             /* the linked table, or none */
byte entry[TABLES * ENTRIES];
byte count[TABLES];             /* 0: dead */
bool retired[TABLES];
bool freed[TABLES];
byte used = 0;                  /* tables handed out so far */
byte waits_for[TABLES];         /* threads (bits) that the grace period of this table waits for */
byte inside_rcu = 0;            /* threads (bits) */
byte flight[ENTRIES];
byte finished = 0;
byte inside[ENTRIES];           /* brackets between the return of Begin and End */

inline rcu_enter(me) { inside_rcu = inside_rcu | (1 << me) }

inline rcu_leave(me) {
  d_step {
    inside_rcu = inside_rcu & ~(1 << me);
    k = 0;
    do
    :: k < TABLES ->
       if
       :: retired[k] && !freed[k] ->
          waits_for[k] = waits_for[k] & ~(1 << me);
          freed[k] = (waits_for[k] == 0)
       :: else
       fi;
       k++
    :: else -> break
    od;
    k = 0
  }
}

inline retire(t) {
  d_step {
    assert(!retired[t]);
    retired[t] = true;
    waits_for[t] = inside_rcu;
#ifdef BREAK_FREE_WITHOUT_GRACE
    freed[t] = true
#endif
  }
}

/* Makes the parent's entry empty; the thread that succeeds retires the table. */
inline unlink(t) {
  atomic {
    if
    :: parent == t -> parent = NONE; retire(t)
#ifdef BREAK_LOSER_RETIRES_TOO
    :: parent != t -> retire(t)
#else
    :: parent != t
#endif
    fi
  }
}

inline drop_some(t, some) {
  atomic { assert(!freed[t]); assert(count[t] > some); count[t] = count[t] - some };
#ifndef BREAK_EMPTY_TABLE_STAYS
  atomic {
    assert(!freed[t]);
    won = (count[t] == 1);
    if
    :: won -> count[t] = 0
    :: else
    fi
  };
  if
  :: won -> unlink(t)
  :: else
  fi
#endif
}

inline drop(t) { drop_some(t, 1) }

/* The table that the root leads to, with one reference more: `t`. */
inline get_table() {
  do
  :: t = parent;
     if
     :: t == NONE ->
        /* Made in private, so only linking it is a step; one that lost the race is freed at once. */
        atomic {
          if
          :: parent == NONE ->
             t = used;
             used++;
             assert(t < TABLES);
             count[t] = 2;
             parent = t;
             break
          :: else
          fi
        }
     :: else ->
        atomic {
          assert(!freed[t]);
#ifdef BREAK_NO_DEAD_GATE
          count[t]++;
          break
#else
          if
          :: count[t] > 0 -> count[t]++; break
          :: else
          fi
#endif
        };
        unlink(t)
     fi
  od
}

proctype Installer(byte me) {
  byte t, k, seen;
  bool won;
retry:
  rcu_enter(me);
  get_table();
  atomic {
    assert(!freed[t]);
    if
    :: entry[AT(t, me)] == EMPTY -> entry[AT(t, me)] = me + 1
    :: else -> goto taken
    fi
  };
  seen = flight[me];
  if
  :: seen != 0 ->
     atomic {
       assert(!freed[t]);
       if
       :: entry[AT(t, me)] == me + 1 -> entry[AT(t, me)] = EMPTY
       :: else -> goto stolen
       fi
     };
     drop(t);
stolen:
     rcu_leave(me);
     (flight[me] != seen);
     goto retry
  :: else
  fi;
  rcu_leave(me);
  /* page-in: no lock, no RCU */
  rcu_enter(me);
#ifndef BREAK_KEEP_POINTER_OVER_PAGE_IN
  t = parent;
#endif
  if
  :: t == NONE -> rcu_leave(me); goto retry
  :: else
  fi;
  atomic {
    assert(!freed[t]);
    if
#ifdef BREAK_PUBLISH_BY_STORE
    :: true ->
#else
    :: entry[AT(t, me)] == me + 1 ->
#endif
       entry[AT(t, me)] = LEAF;
       assert(inside[me] == 0)
    :: else -> goto lost
    fi
  };
  rcu_leave(me);
  goto done;
lost:
  rcu_leave(me);
  goto retry;
taken:
  drop(t);
  rcu_leave(me);
done:
  finished++
}

proctype Bracket(byte me) {
  byte t, k, round, e, target;
  bool won;
  do
  :: round < ROUNDS ->
     round++;
     target = (me + round) % INSTALLERS;
     flight[target] = flight[target] + 1;
     rcu_enter(me);
     t = parent;
     if
     :: t == NONE -> goto cleared
     :: else
     fi;
     do
     :: assert(!freed[t]);
        e = entry[AT(t, target)];
        if
        :: e == EMPTY -> goto cleared
#ifdef BREAK_BEGIN_SKIPS_CLAIMS
        :: e != EMPTY && e != LEAF -> goto cleared
#endif
        :: else
        fi;
        atomic {
          assert(!freed[t]);
          if
          :: entry[AT(t, target)] == e -> entry[AT(t, target)] = EMPTY; break
          :: else
          fi
        }
     od;
#ifndef BREAK_VICTIM_KEEPS_REFERENCE
     drop(t);
#endif
cleared:
     rcu_leave(me);
     atomic {
       inside[target]++;
       t = parent;
       assert(t == NONE || entry[AT(t, target)] != LEAF)
     };
     inside[target]--;
     flight[target] = flight[target] - 1
  :: else -> break
  od;
  finished++
}

proctype CoveringBracket(byte me) {
  byte t, k, round, e, target, emptied;
  bool won;
  do
  :: round < ROUNDS ->
     round++;
     d_step { flight[0] = flight[0] + 1; flight[1] = flight[1] + 1 };
     rcu_enter(me);
     t = parent;
     if
     :: t == NONE -> goto cleared
     :: else
     fi;
     emptied = 0;
     target = 0;
#ifdef BREAK_DROP_BEFORE_THE_ENTRIES
     emptied = (entry[AT(t, 0)] != EMPTY) + (entry[AT(t, 1)] != EMPTY);
     if
     :: emptied > 0 -> drop_some(t, emptied)
     :: else
     fi;
     emptied = 0;
#endif
     do
     :: target < ENTRIES ->
        assert(!freed[t]);
        e = entry[AT(t, target)];
        if
        :: e == EMPTY -> target++
        :: else ->
           atomic {
             assert(!freed[t]);
             if
             :: entry[AT(t, target)] == e -> entry[AT(t, target)] = EMPTY; emptied++; target++
             :: else -> /* lost: the entry is read again */
#ifdef BREAK_COUNTS_WHAT_OTHERS_EMPTIED
                emptied++
#endif
             fi
           }
        fi
     :: else -> break
     od;
#ifndef BREAK_DROP_BEFORE_THE_ENTRIES
     if
     :: emptied > 0 -> drop_some(t, emptied)
     :: else
     fi;
#endif
cleared:
     rcu_leave(me);
     atomic {
       inside[0]++;
       inside[1]++;
       t = parent;
       assert(t == NONE || (entry[AT(t, 0)] != LEAF && entry[AT(t, 1)] != LEAF))
     };
     d_step {
       inside[0]--;
       inside[1]--;
       flight[0] = flight[0] - 1;
       flight[1] = flight[1] - 1
     }
  :: else -> break
  od;
  finished++
}

/* Once everybody is done: the linked table has as many references as it should, all others are free. */
proctype Auditor() {
  byte t, entries;
  (finished == THREADS);
  d_step {
    t = 0;
    do
    :: t < used ->
       if
       :: t == parent ->
          entries = (entry[AT(t, 0)] != EMPTY) + (entry[AT(t, 1)] != EMPTY);
          assert(entries > 0);
          assert(count[t] == 1 + entries);
          assert(!retired[t])
       :: else -> assert(freed[t] || (retired[t] && waits_for[t] == 0))
       fi;
       t++
    :: else -> break
    od
  }
}

init {
  byte i;
  atomic {
    do
    :: i < INSTALLERS -> run Installer(i); i++
    :: else -> break
    od;
    do
#ifdef COVERS
    :: i < THREADS -> run CoveringBracket(i); i++
#else
    :: i < THREADS -> run Bracket(i); i++
#endif
    :: else -> break
    od;
    run Auditor()
  }
}
