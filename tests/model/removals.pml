/* Foreign removals of one page. userfaultfd reports the start of a removal and never its end. The model has
 * the thread that reads userfaultfd, threads that bring the page in, and the two facts that prove that a
 * zap has finished: the kernel's record, or an absence of the page that was seen afterwards. The code is
 * vmm/evidence/pending_removals.h and vmm/ram/guest_page_source.cc.
 *
 *   remover: posts its event and waits until it has been read; continues; zaps the page; leaves a record
 *   reader:  reads the event (from then on the remover may continue at any time), adds the removal as
 *            open, notes whether the page has a leaf, and removes leaf and claim
 *   page-in: claims, checks whether a removal is open, and looks at the page. Absent: this proves the end of
 *            the removal if a leaf was noted; the thread copies, and checks and looks again. Present: it
 *            publishes a leaf, or uses the page only once
 *
 * Checked: a leaf of a page that has gone always has an invalidation still to come. */
#ifndef REMOVALS
#define REMOVALS 2
#endif
#ifndef PAGE_INS
#define PAGE_INS 1
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif

bool present = true;
bool leaf = true;
byte claim = 0;        /* its owner; 0: no claim */
byte changing = 0;     /* removals because of which a copy says EAGAIN */
bool reading = false;  /* between the read of an event and its Add */

bool posted[REMOVALS];
bool was_read[REMOVALS];
bool zapped[REMOVALS];
bool invalidated[REMOVALS];
bool open[REMOVALS];    /* added, and no record of it yet */
bool noted[REMOVALS]; /* its absence would be evidence */
bool completed[REMOVALS]; /* by evidence */
byte opened = 0;        /* removals that are open, completed by evidence or not */

#define PENDING(r) (open[r] && !completed[r])
#if REMOVALS == 1
#define ANY_PENDING PENDING(0)
#define TO_COME (was_read[0] && !invalidated[0])
#else
#define ANY_PENDING (PENDING(0) || PENDING(1))
#define TO_COME ((was_read[0] && !invalidated[0]) || (was_read[1] && !invalidated[1]))
#endif

proctype remover(byte r) {
  atomic { posted[r] = true; changing++; }
  atomic { was_read[r] -> changing--; }  /* it goes on: from here on a copy succeeds */
  atomic {
    present = false;
    zapped[r] = true;
    assert(!leaf || TO_COME);
  }
  /* The record, once the removal is known and mmap_lock was free. */
  atomic { open[r] -> open[r] = false; opened--; }
}

inline take(r) {
  atomic { reading = true; }
  atomic { posted[r] = false; was_read[r] = true; }
  atomic { /* Add */
    open[r] = true;
    opened++;
    shared = false;
#ifndef BREAK_SHARED_EVIDENCE
    if
    :: REMOVALS == 2 && PENDING(1 - r) -> noted[1 - r] = false; shared = true;
    :: else -> skip;
    fi;
#endif
  }
  atomic { /* Witness: a page with a leaf is there */
    noted[r] = leaf && !shared;
  }
  atomic { reading = false; }
  atomic { leaf = false; claim = 0; invalidated[r] = true; }
}

proctype reader() {
  byte taken = 0;
  bool shared;
  do
  :: taken < REMOVALS ->
     if
     :: posted[0] -> take(0);
#if REMOVALS == 2
     :: posted[1] -> take(1);
#endif
     fi;
     taken++;
  :: taken == REMOVALS -> break;
  od
}

#define MY_CLAIM (me + 1)

inline check_pending() { pending = ANY_PENDING; }

inline read_noted() {
  seen[0] = noted[0];
#if REMOVALS == 2
  seen[1] = noted[1];
#endif
}

inline complete_one(r) {
  if
  :: open[r] && opened == 1 && noted[r] && seen[r] -> completed[r] = true;
  :: else -> skip;
  fi
}

inline saw_absent() {
#ifndef BREAK_EVIDENCE_WHILE_READING
  if
  :: reading -> goto no_evidence;
  :: else -> skip;
  fi;
#endif
  atomic {
    complete_one(0);
#if REMOVALS == 2
    complete_one(1);
#endif
  }
}

proctype page_in(byte me) {
  byte round = 0;
  bool pending;
  bool there;
  bool seen[REMOVALS];
  do
  :: round == ROUNDS -> break;
  :: round < ROUNDS ->
     round++;
     if
     :: atomic { !leaf && claim == 0 -> claim = MY_CLAIM; }
     :: else -> goto next;
     fi;
look:
#ifndef BREAK_CHECK_AFTER_THE_LOOK
     atomic { check_pending(); }
#endif
     atomic { read_noted(); }
     atomic { there = present; }
     if
     :: there -> goto is_there;
     :: else -> skip;
     fi;
     saw_absent();
no_evidence:
     if
     :: atomic { changing == 0 -> present = true; } /* or another thread has copied it */
        goto look;
     :: atomic { changing != 0 ->
          if
          :: claim == MY_CLAIM -> claim = 0;
          :: else -> skip;
          fi;
        }
        goto next;
     fi;
is_there:
#ifdef BREAK_CHECK_AFTER_THE_LOOK
     atomic { check_pending(); }
#endif
     atomic {
       if
       :: claim == MY_CLAIM && pending -> claim = 0; /* the page is used, and no leaf is kept */
       :: claim == MY_CLAIM && !pending ->
          claim = 0;
          leaf = true;
          assert(present || TO_COME);
       :: else -> skip; /* stolen */
       fi;
     }
next:
     skip;
  od
}

init {
  byte i;
  atomic {
    run reader();
    i = 0;
    do
    :: i < REMOVALS -> run remover(i); i++;
    :: else -> break;
    od;
    i = 0;
    do
    :: i < PAGE_INS -> run page_in(i); i++;
    :: else -> break;
    od;
  }
  /* In the end. */
  atomic { timeout -> assert(!leaf || present); }
}
