/* Two levels of tables that come and go: the root, which never dies; a middle table with two entries; and
 * low tables with one entry each. (tables.pml has one level and more entries.) A claim links the missing
 * tables in one step, with the claim already inside. The thread that empties an entry unlinks the tables
 * that become empty, from the lowest one up. Meanwhile a claim may take a reference of the middle table
 * while another thread unlinks it.
 *
 * Checked: no thread touches a freed table (I4). Each table is retired and freed once. A count never falls
 * below one reference. At the end each linked table is in use and its count is right, and all others are
 * free (I5). No leaf appears inside a bracket (I1).
 *
 * Sizes: INSTALLERS (the second one claims the other entry of the middle table; with SAME_PAGE the same
 * entry), BRACKETS, ROUNDS. */

#ifndef INSTALLERS
#define INSTALLERS 2
#endif
#ifndef BRACKETS
#define BRACKETS 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef TABLES
#define TABLES 14
#endif

#define THREADS (INSTALLERS + BRACKETS)
#define NONE 255
#define EMPTY 0
#define LEAF 100
#define AT(t, i) ((t) * 2 + (i))

byte root = NONE;
byte entry[TABLES * 2] = NONE; /* of a mid table: a low table or none */
byte page[TABLES];             /* of a low table: empty, a claim, a leaf */
byte count[TABLES];            /* 0: dead */
bool retired[TABLES];
bool freed[TABLES];
byte waits_for[TABLES];
byte used = 0;
byte inside_rcu = 0;
byte flight[2];
byte inside[2];
byte finished = 0;

inline rcu_enter() { inside_rcu = inside_rcu | (1 << me) }

inline rcu_leave() {
  d_step {
    inside_rcu = inside_rcu & ~(1 << me);
    k = 0;
    do
    :: k < used ->
       waits_for[k] = waits_for[k] & ~(1 << me);
       freed[k] = freed[k] || (retired[k] && waits_for[k] == 0);
       k++
    :: else -> break
    od;
    k = 0
  }
}

inline retire(t) {
  assert(!retired[t]);
  retired[t] = true;
  waits_for[t] = inside_rcu;
#ifdef BREAK_FREE_WITHOUT_GRACE
  freed[t] = true
#endif
}

/* UnlinkDead in the mid table: the winner retires the low table and drops the mid table's count. */
inline unlink_low() {
  atomic {
    assert(!freed[m]);
    won = (entry[AT(m, i)] == l);
    if
    :: won -> entry[AT(m, i)] = NONE; retire(l)
    :: else
    fi
  };
#ifndef BREAK_UNLINK_KEEPS_REFERENCE
  if
  :: won -> atomic { assert(!freed[m]); assert(count[m] > 1); count[m]-- }
  :: else
  fi;
#endif
  won = false
}

inline unlink_mid() {
  d_step {
    if
    :: root == m -> root = NONE; retire(m)
    :: else
    fi
  }
}

/* UnlinkIfEmpty: dead already, or killed here. */
inline kill_if_empty(t) {
  atomic {
    assert(!freed[t]);
    won = (count[t] <= 1);
#ifndef BREAK_KILL_BY_STORE
    if
    :: won -> count[t] = 0
    :: else
    fi
#endif
  };
#ifdef BREAK_KILL_BY_STORE
  if
  :: won -> count[t] = 0
  :: else
  fi;
#endif
}

inline unlink_if_empty() {
  if
  :: l != NONE ->
     kill_if_empty(l);
     if
     :: won -> unlink_low()
     :: else
     fi
  :: else
  fi;
#ifndef BREAK_PRUNE_STOPS_BELOW
  kill_if_empty(m);
  if
  :: won -> unlink_mid(); won = false
  :: else
  fi;
#endif
}

/* Stage2::Prune: down from the root again. */
inline prune() {
  m = root;
  if
  :: m != NONE ->
     atomic { assert(!freed[m]); l = entry[AT(m, i)] };
     unlink_if_empty()
  :: else
  fi
}

inline drop(t) {
  atomic { assert(!freed[t]); assert(count[t] > 1); count[t]--; won = (count[t] == 1) };
  if
  :: won -> won = false; prune()
  :: else
  fi
}

/* `won`: a reference to the table, which is not dead. */
inline try_ref(t) {
  atomic {
    assert(!freed[t]);
#ifdef BREAK_NO_DEAD_GATE
    won = true;
#else
    won = (count[t] > 0);
#endif
    if
    :: won -> count[t]++
    :: else
    fi
  }
}

inline new_low() { l = used; used++; assert(used <= TABLES); count[l] = 2; page[l] = me + 1 }

inline claim() {
  do
  :: m = root;
     if
     :: m == NONE ->
        d_step {
          if
          :: root == NONE ->
             new_low();
             m = used;
             used++;
             assert(used <= TABLES);
             count[m] = 2;
             entry[AT(m, i)] = l;
             root = m;
             won = true
          :: else
          fi
        };
        if
        :: won -> won = false; break
        :: else
        fi
     :: else ->
        atomic { assert(!freed[m]); won = (count[m] == 0) };
#ifdef BREAK_NO_DEAD_GATE
        won = false;
#endif
        if
        :: won -> won = false; unlink_mid()
        :: else ->
           atomic { assert(!freed[m]); l = entry[AT(m, i)] };
           if
           :: l == NONE -> link_low()
           :: else -> claim_page()
           fi
        fi
     fi
  od
}

inline link_low() {
#ifdef BREAK_LINK_WITHOUT_REFERENCE
  won = true;
#else
  try_ref(m);
#endif
  if
  :: won ->
     atomic {
       assert(!freed[m]);
       won = (entry[AT(m, i)] == NONE);
       if
       :: won -> new_low(); entry[AT(m, i)] = l
       :: else
       fi
     };
     if
     :: won -> won = false; break
     :: else -> drop(m)
     fi
  :: else
  fi
}

inline claim_page() {
  atomic { assert(!freed[l]); won = (count[l] == 0) };
#ifdef BREAK_NO_DEAD_GATE
  won = false;
#endif
  if
  :: won -> unlink_low()
  :: else ->
     try_ref(l);
     if
     :: won ->
        atomic {
          assert(!freed[l]);
          won = (page[l] == EMPTY);
          if
          :: won -> page[l] = me + 1
          :: else
          fi
        };
        if
        :: won -> won = false; break
        :: else -> drop(l); goto taken
        fi
     :: else
     fi
  fi
}

/* The caller's claim, from the root again: CLAIM -> `to`, if it is there still. */
inline change_claim(to) {
  won = false;
  l = NONE;
  m = root;
  if
  :: m != NONE -> atomic { assert(!freed[m]); l = entry[AT(m, i)] }
  :: else
  fi;
  if
  :: l != NONE ->
     d_step {
       assert(!freed[l]);
       won = (page[l] == me + 1);
       page[l] = (won -> to : page[l]);
       assert(!won || to != LEAF || inside[i] == 0)
     }
  :: else
  fi
}

proctype Installer(byte me; byte i) {
  byte m, l, k, seen;
  bool won;
retry:
  rcu_enter();
  claim();
  rcu_leave();
  seen = flight[i];
  rcu_enter();
  if
  :: seen != 0 ->
     change_claim(EMPTY);
     if
     :: won -> won = false; drop(l)
     :: else
     fi;
     rcu_leave();
     (flight[i] != seen);
     goto retry
  :: else
  fi;
  change_claim(LEAF);
  rcu_leave();
  if
  :: won -> goto done
  :: else -> goto retry
  fi;
taken:
  rcu_leave();
done:
  finished++
}

proctype Bracket(byte me) {
  byte m, l, k, i, round;
  bool won, dropped;
  do
  :: round < ROUNDS ->
     i = (me - INSTALLERS + round) % 2;
     round++;
     flight[i]++;
     rcu_enter();
     m = root;
     if
     :: m != NONE ->
        atomic { assert(!freed[m]); l = entry[AT(m, i)] };
        if
        :: l != NONE ->
           /* Read and compare-exchange until it holds: as one step. */
           d_step { assert(!freed[l]); dropped = (page[l] != EMPTY); page[l] = EMPTY };
           if
           :: dropped -> d_step { assert(!freed[l] && count[l] > 1); count[l]--; dropped = false }
           :: else
           fi
        :: else
        fi;
        unlink_if_empty()
     :: else
     fi;
     rcu_leave();
     inside[i]++;
     inside[i]--;
     flight[i]--
  :: else -> break
  od;
  finished++
}

/* Once everybody is done. */
proctype Auditor() {
  byte t, in_use;
  (finished == THREADS);
  d_step {
    do
    :: t < used ->
       if
       :: t == root ->
          in_use = (entry[AT(t, 0)] != NONE) + (entry[AT(t, 1)] != NONE);
          assert(in_use > 0 && count[t] == 1 + in_use && !retired[t])
       :: root != NONE && (t == entry[AT(root, 0)] || t == entry[AT(root, 1)]) ->
          assert(page[t] != EMPTY && count[t] == 2 && !retired[t])
       :: else -> assert(freed[t])
       fi;
       t++
    :: else -> break
    od
  }
}

init {
  byte n;
  atomic {
    do
#ifdef SAME_PAGE
    :: n < INSTALLERS -> run Installer(n, 0); n++
#else
    :: n < INSTALLERS -> run Installer(n, n); n++
#endif
    :: else -> break
    od;
    do
    :: n < THREADS -> run Bracket(n); n++
    :: else -> break
    od;
    run Auditor()
  }
}
