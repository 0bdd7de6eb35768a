/* Several handlers read one userfaultfd. vmm/sources/uffd/handler_thread.h, fault_resolver.h, lost_copy.h,
 * vmm/evidence/event_reads.h, pending_removals.h.
 *
 *   vCPU:     touches a page; absent: its fault is queued, and it sleeps until the page is woken
 *   remover:  its event is queued; once it is read: the kernel's record, the zap page by page, mmap_lock
 *   handler:  word odd; reads one message, faults first; applies an event; word even; serves a fault:
 *             lost copy?, claim (also the neighbours of a window), bracket?, is a removal pending?, look,
 *             copy, publish; what fails is put off and tried again after another read
 *   record reader: ends a removal by its record, once mmap_lock was free
 *   own call: a bracket of this process whose call takes the pages; it has no event
 *   auditor:  finds a page gone and waits for the reads that are open
 *
 * No leaf may belong to a page that is gone or that has another frame, but between the read of an event and
 * the end of its Begin. No lost copy is ever found: each removal ends by evidence or by its record, so a loss
 * would be an error of the protocol. */
#ifndef HANDLERS
#define HANDLERS 2
#endif
#ifndef PAGES
#define PAGES 1
#endif
#ifndef REMOVALS
#define REMOVALS 1
#endif
#ifndef VCPUS
#define VCPUS 1
#endif
#ifndef TOUCHES
#define TOUCHES 2
#endif

#define LEAF 9
#define CLAIM(h) (1 + h)
#define FRAMES 3
#define LAST(n) (n - 1)
/* Removal 0 takes every page, removal 1 the first one. */
#define COVERS(r, p) (r == 0 || p == 0)
#define AT(r, p) (r * PAGES + p)

byte entry[PAGES];      /* 0: empty; CLAIM(h); LEAF */
byte leaf_frame[PAGES];
byte frame[PAGES];      /* 0: absent */
byte fresh = 0;         /* the frame that was given out last */
byte flight[PAGES];     /* brackets in flight over the page */
byte begun = 0;         /* Notifier::begun, modulo 256 */
byte changing = 0;      /* the kernel's mmap_changing */

byte fault[VCPUS];      /* 1: queued; 2: read; 0: none, or woken */
byte fault_page[VCPUS];
byte finished = 0;      /* vCPUs */

bool queued[REMOVALS];  /* its event */
bool was_read[REMOVALS], applied[REMOVALS], record[REMOVALS], over[REMOVALS];
bool reads[HANDLERS];   /* its word is odd: between a read and the application of its event */

/* PendingRemovals */
bool open[REMOVALS];
bool noted[REMOVALS], discarded[REMOVALS];
byte note[REMOVALS];    /* 0: there is no evidence */
byte notes = 0;
bool shared[REMOVALS * PAGES], there[REMOVALS * PAGES], settled[REMOVALS * PAGES];
bool own_over = false;

#define PENDING_BY(r, p) (open[r] && COVERS(r, p) && !settled[AT(r, p)])
#if REMOVALS == 1
#define PENDING(p) PENDING_BY(0, p)
#define OPEN_ON(p) (open[0])
#define TO_COME(p) (was_read[0] && !applied[0])
#define EVENT queued[0]
#define ALL_OVER (over[0])
#define NONE_OPEN (!open[0] && applied[0])
#else
#define PENDING(p) (PENDING_BY(0, p) || PENDING_BY(1, p))
#define OPEN_ON(p) (open[0] + (open[1] && COVERS(1, p)))
#define TO_COME(p) ((was_read[0] && !applied[0]) || (was_read[1] && !applied[1] && COVERS(1, p)))
#define EVENT (queued[0] || queued[1])
#define ALL_OVER (over[0] && over[1])
#define NONE_OPEN (!open[0] && !open[1] && applied[0] && applied[1])
#endif
#define FAULT (fault[0] == 1 || fault[LAST(VCPUS)] == 1)

/* The threads that sleep on the page go on, whether their messages were read or not. */
inline wake(p) {
  if
  :: fault[0] != 0 && fault_page[0] == p -> fault[0] = 0;
  :: else -> skip;
  fi;
#if VCPUS == 2
  if
  :: fault[1] != 0 && fault_page[1] == p -> fault[1] = 0;
  :: else -> skip;
  fi;
#endif
}

/* One message, faults first. */
inline read_one() {
  d_step {
    got_fault = 0;
    got_event = 0;
    if
    :: fault[0] == 1 -> fault[0] = 2; got_fault = 1;
    :: fault[0] != 1 && fault[LAST(VCPUS)] == 1 -> fault[LAST(VCPUS)] = 2; got_fault = VCPUS;
    :: !FAULT && queued[0] -> queued[0] = false; was_read[0] = true; got_event = 1;
    :: !FAULT && !queued[0] && queued[LAST(REMOVALS)] ->
       queued[LAST(REMOVALS)] = false; was_read[LAST(REMOVALS)] = true; got_event = REMOVALS;
    :: else -> skip;
    fi;
  }
}

/* A bracket of a handler: it waits for no reader. */
inline drop_removed(r) {
  d_step {
    begun++;
    flight[0]++;
#if PAGES == 2
    flight[1] = flight[1] + COVERS(r, 1);
#endif
  }
  entry[0] = 0;
#if PAGES == 2
  if
  :: COVERS(r, 1) -> entry[1] = 0;
  :: else -> skip;
  fi;
#endif
  d_step {
    flight[0]--;
#if PAGES == 2
    flight[1] = flight[1] - COVERS(r, 1);
#endif
  }
}

inline add(r) {
  d_step {
    open[r] = true;
#if REMOVALS == 2 && !defined(BREAK_TWO_REMOVALS_GIVE_EVIDENCE)
    /* They overlap on the first page, which is all of removal 1. */
    if
    :: PENDING_BY((1 - r), 0) ->
       if
       :: noted[1 - r] -> there[AT((1 - r), 0)] = false;
#ifndef BREAK_UNNOTED_REMOVAL_KEEPS_EVIDENCE
       :: !noted[1 - r] -> shared[AT((1 - r), 0)] = true;
#else
       :: !noted[1 - r] -> skip;
#endif
       fi;
       shared[AT(r, 0)] = true;
    :: else -> skip;
    fi;
#endif
  }
}

inline note_present(r) {
  d_step { /* the leaves of its pages; each look is after Add */
    seen[0] = entry[0] == LEAF;
#if PAGES == 2
    seen[1] = entry[1] == LEAF && COVERS(r, 1);
#endif
  }
  d_step {
    noted[r] = true;
    if
    :: !discarded[r] ->
       there[AT(r, 0)] = seen[0] && !shared[AT(r, 0)];
#if PAGES == 2
       there[AT(r, 1)] = seen[1];
#endif
       notes++;
       note[r] = notes;
    :: else -> skip;
    fi;
    seen[0] = false;
#if PAGES == 2
    seen[1] = false;
#endif
  }
}

inline apply(r) {
#ifdef BREAK_ADD_AFTER_THE_BEGIN
  drop_removed(r);
  add(r);
  note_present(r);
#else
  add(r);
  note_present(r);
  drop_removed(r);
#endif
  applied[r] = true;
}

/* NoteAbsent(p): the look came before. */
inline note_absent(p) {
#ifndef BREAK_EVIDENCE_WHILE_ANOTHER_READS
  if
  :: reads[0] -> goto no_evidence;
  :: else -> skip;
  fi;
  if
  :: reads[LAST(HANDLERS)] -> goto no_evidence;
  :: else -> skip;
  fi;
#if HANDLERS == 3
  if
  :: reads[1] -> goto no_evidence;
  :: else -> skip;
  fi;
#endif
#endif
  d_step {
    if
    :: OPEN_ON(p) == 1 && open[0] && note[0] != 0 && note[0] <= before && there[AT(0, p)] ->
       settled[AT(0, p)] = true;
#if REMOVALS == 2
    :: OPEN_ON(p) == 1 && !open[0] && note[1] != 0 && note[1] <= before && there[AT(1, p)] ->
       settled[AT(1, p)] = true;
#endif
    :: else -> skip;
    fi;
  }
}

inline give_back(p) {
  d_step {
    if
    :: entry[p] == CLAIM(me) -> entry[p] = 0;
    :: else -> skip;
    fi;
  }
}

inline publish(p, f) {
#ifdef BREAK_PUBLISH_BY_STORE
  d_step { entry[p] = LEAF; leaf_frame[p] = f; lost = false; }
#else
  d_step {
    lost = entry[p] != CLAIM(me);
    if
    :: !lost -> entry[p] = LEAF; leaf_frame[p] = f;
    :: else -> skip;
    fi;
  }
#endif
}

/* UFFDIO_COPY of one page: it wakes if it has brought the page in. */
inline copy(p) {
  d_step {
    again = frame[p] == 0 && changing != 0;
    if
    :: frame[p] == 0 && changing == 0 ->
       fresh = fresh % FRAMES + 1;
       frame[p] = fresh;
       wake(p);
    :: else -> skip;
    fi;
  }
}

/* FindLostCopy, one look. A leaf that differs goes in any case. */
inline lost_copy(p) {
  d_step {
    before = begun;
    old = (entry[p] == LEAF && flight[p] == 0 -> leaf_frame[p] : 0);
  }
  if
  :: old == 0 -> goto not_lost;
  :: else -> look = frame[p];
  fi;
  if
  :: look == old -> goto not_lost;
  :: else -> skip;
  fi;
#ifndef BREAK_LOSS_WHILE_ANOTHER_READS
  if
  :: reads[0] -> goto drop;
  :: else -> skip;
  fi;
  if
  :: reads[LAST(HANDLERS)] -> goto drop;
  :: else -> skip;
  fi;
#if HANDLERS == 3
  if
  :: reads[1] -> goto drop;
  :: else -> skip;
  fi;
#endif
#endif
#ifdef BREAK_LOSS_WITHOUT_A_SECOND_LOOK
  assert(false);
#else
  d_step { assert(entry[p] != LEAF || leaf_frame[p] != old || begun != before || flight[p] != 0); }
#endif
drop:
  skip;
  d_step { begun++; flight[p]++; }
  entry[p] = 0;
  flight[p]--;
not_lost:
  skip;
  d_step { old = 0; look = 0; before = 0; }
}

proctype handler(byte me) {
  byte got_fault, got_event, old, look, before, p, v;
  bool hold[VCPUS];
  bool seen[PAGES];
  bool again, lost, pending, retry;
#ifdef WINDOW
  bool all;
  byte q;
#endif
  do
  :: FAULT || EVENT || (retry && changing == 0 && flight[0] == 0 && flight[LAST(PAGES)] == 0) ->
     reads[me] = true;
     read_one();
#ifdef BREAK_EVEN_BEFORE_THE_EVENT_IS_APPLIED
     reads[me] = false;
#endif
     if
     :: got_event == 1 -> apply(0);
#if REMOVALS == 2
     :: got_event == 2 -> apply(1);
#endif
     :: else -> skip;
     fi;
#ifndef BREAK_EVEN_BEFORE_THE_EVENT_IS_APPLIED
     reads[me] = false;
#endif
     d_step {
       if
       :: got_fault != 0 -> hold[got_fault - 1] = true;
       :: else -> skip;
       fi;
       got_fault = 0;
       got_event = 0;
       retry = false;
       v = 0;
     }
serve:
     if
     :: v == VCPUS -> v = 0; goto served;
     :: v < VCPUS && !hold[v] -> v++; goto serve;
     :: v < VCPUS && hold[v] -> p = fault_page[v];
     fi;
     lost_copy(p);
#ifdef WINDOW
     q = 1 - p;
     if
     :: atomic { entry[p] == 0 -> entry[p] = CLAIM(me); }
     :: else -> goto alone;
     fi;
     if
     :: atomic { entry[q] == 0 -> entry[q] = CLAIM(me); all = true; }
     :: else -> all = false;
     fi;
     if
     :: flight[0] != 0 || flight[1] != 0 -> goto window_back;
     :: else -> skip;
     fi;
#ifndef BREAK_WINDOW_IGNORES_REMOVALS
     if
     :: PENDING(0) || PENDING(1) -> goto window_back;
     :: else -> skip;
     fi;
#endif
     copy(p);
     if
     :: all -> copy(q);
     :: else -> skip;
     fi;
     if
     :: all -> look = frame[q];
        if
        :: look != 0 -> publish(q, look);
        :: else -> give_back(q);
        fi;
     :: else -> skip;
     fi;
     look = frame[p];
     if
     :: look != 0 -> publish(p, look);
        look = 0;
        if
        :: !lost -> goto resolved;
        :: else -> lost = false; goto alone;
        fi;
     :: else -> skip;
     fi;
window_back:
     give_back(p);
     if
     :: all -> give_back(q);
     :: else -> skip;
     fi;
alone:
     skip;
     d_step { look = 0; q = 0; all = false; again = false; lost = false; }
#endif
     if
     :: atomic { entry[p] == 0 -> entry[p] = CLAIM(me); }
     :: entry[p] == LEAF -> /* the leaf is there already */
        look = frame[p];
        if
        :: look != 0 -> look = 0; goto resolved;
        :: else -> goto put_off;
        fi;
     :: entry[p] != 0 && entry[p] != LEAF -> /* another handler's claim promises nothing */
#ifdef BREAK_A_CLAIM_PROMISES_THE_PAGE
        hold[v] = false; v++; goto serve;
#else
        goto put_off;
#endif
     fi;
#ifndef BREAK_IGNORES_BRACKETS
     if
     :: flight[p] != 0 -> give_back(p); goto put_off;
     :: else -> skip;
     fi;
#endif
look_at_it:
#ifndef BREAK_PENDING_ASKED_AFTER_THE_LOOK
     pending = PENDING(p);
#endif
     before = notes;
     look = frame[p];
     if
     :: look != 0 -> goto is_there;
     :: else -> skip;
     fi;
     note_absent(p);
no_evidence:
     before = 0;
     copy(p);
     if
     :: again -> again = false; give_back(p); goto put_off;
     :: else -> goto look_at_it;
     fi;
is_there:
     before = 0;
#ifdef BREAK_PENDING_ASKED_AFTER_THE_LOOK
     pending = PENDING(p);
#endif
     if
     :: pending -> pending = false; look = 0; give_back(p); goto resolved;
     :: else -> publish(p, look); look = 0;
     fi;
     if
     :: lost -> lost = false; goto put_off;
     :: else -> skip;
     fi;
resolved:
     skip;
#ifdef WINDOW
     q = 0;
     all = false;
#endif
     d_step { look = 0; again = false; hold[v] = false; wake(p); v++; }
     goto serve;
put_off:
     skip;
#ifdef BREAK_PUT_OFF_IS_FORGOTTEN
     d_step { hold[v] = false; }
#else
     retry = true;
#endif
     d_step { look = 0; v++; }
     goto serve;
served:
     p = 0;
  :: ALL_OVER && own_over && finished == VCPUS && !retry && !FAULT && !EVENT -> break;
  od
}

proctype remover(byte r) {
  d_step { changing++; queued[r] = true; }
  was_read[r];
  changing--;
  record[r] = true;
  d_step { assert(entry[0] != LEAF || !applied[r]); frame[0] = 0; }
#if PAGES == 2
  d_step {
    if
    :: COVERS(r, 1) -> assert(entry[1] != LEAF || !applied[r]); frame[1] = 0;
    :: else -> skip;
    fi;
  }
#endif
  over[r] = true;
}

proctype record_reader(byte r) {
#ifdef BREAK_RECORD_WITHOUT_MMAP_LOCK
  applied[r] && record[r];
#else
  applied[r] && record[r] && over[r];
#endif
  open[r] = false;
}

proctype vcpu(byte v) {
  byte n;
  do
  :: n < TOUCHES ->
     do
     :: atomic { frame[(v + n) % PAGES] != 0 -> n++; break; }
     :: atomic { frame[(v + n) % PAGES] == 0 -> fault_page[v] = (v + n) % PAGES; fault[v] = 1; }
        fault[v] == 0;
     od;
  :: n == TOUCHES -> break;
  od;
  n = 0;
  finished++;
}

#ifdef OWN_CALL
proctype own_call() {
  d_step { begun++; flight[0]++; }
  entry[0] = 0;
  d_step { /* DiscardEvidence */
    discarded[0] = discarded[0] || open[0];
    note[0] = (open[0] -> 0 : note[0]);
  }
  d_step { assert(entry[0] != LEAF); frame[0] = 0; }
  flight[0]--;
  own_over = true;
}
#endif

#ifdef AUDITOR
/* Code that has seen a page gone and waited for the reads that were open finds the removal applied. */
proctype auditor() {
  over[0];
  !reads[0];
#ifndef BREAK_WAITS_FOR_ONE_HANDLER
  !reads[LAST(HANDLERS)];
#endif
#if HANDLERS == 3
  !reads[1];
#endif
  assert(applied[0]);
}
#endif

#define STALE(p) (entry[p] == LEAF && leaf_frame[p] != frame[p] && flight[p] == 0 && !TO_COME(p))
proctype watch() {
end:
  atomic { (STALE(0) || STALE(LAST(PAGES))) -> assert(false); }
}

init {
  byte i;
  atomic {
    i = 0;
    do
    :: i < HANDLERS -> run handler(i); i++;
    :: else -> break;
    od;
    i = 0;
    do
    :: i < REMOVALS -> run remover(i); run record_reader(i); i++;
    :: else -> break;
    od;
    i = 0;
    do
    :: i < VCPUS -> run vcpu(i); i++;
    :: else -> break;
    od;
#ifdef OWN_CALL
    run own_call();
#else
    own_over = true;
#endif
#ifdef AUDITOR
    run auditor();
#endif
    run watch();
    i = 0;
  }
}

#ifdef LIVE
ltl ends { <> (ALL_OVER && finished == VCPUS && NONE_OPEN) }
#endif
