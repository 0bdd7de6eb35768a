/* Which handler may take an event for that of a call of our own. vmm/evidence/expected_events.h.
 *
 *   our call: expects its range; its event is queued and it sleeps until the event is read, or (NO_EVENT) it
 *             fails without an event; its return is counted
 *   another process removes the same range after that; its event looks the same
 *   handler:  notes how many calls have returned; reads an event; asks whether the range was expected
 *
 * Of a call with an event exactly one event is known. No event that was read after the return of the call is. */
#ifndef HANDLERS
#define HANDLERS 2
#endif

#define NONE 0
#define EXPECTED 1
#define RETURNED 2

byte entry = NONE;
byte returns = 0;   /* how many calls have returned */
byte returned = 0;  /* the number of this call's return */
bool own_queued, own_read, foreign_queued;
byte known = 0;     /* events that were taken for our own */
byte taken = 0;

proctype handler() {
  byte since;
  byte event;       /* 1: our own; 2: foreign */
  bool matches;
  do
  :: own_queued || foreign_queued ->
#ifdef BREAK_FORGETS_BEFORE_EACH_READ
     d_step { /* right with one handler */
       if
       :: entry == RETURNED -> entry = NONE;
       :: else -> skip;
       fi;
     }
#endif
     since = returns;
     d_step {
       event = 0;
       if
       :: own_queued -> own_queued = false; own_read = true; event = 1;
       :: !own_queued && foreign_queued -> foreign_queued = false; event = 2;
       :: else -> skip;
       fi;
     }
#ifdef BREAK_COUNTS_AFTER_THE_READ
     since = returns;
#endif
     if
     :: event != 0 ->
        d_step { /* Consume */
#ifdef BREAK_NEVER_FORGETS
          matches = entry != NONE;
#else
          matches = entry == EXPECTED || (entry == RETURNED && returned > since);
#endif
          assert(!matches || event == 1 || since < returned);
          if
          :: matches -> entry = NONE; known++;
          :: else -> skip;
          fi;
          matches = false;
          taken++;
        }
     :: else -> skip;
     fi;
     event = 0;
     since = 0;
  :: taken == 2 -> break;
  od
}

proctype own_call() {
  entry = EXPECTED;
#ifdef NO_EVENT
  taken++;
#else
  own_queued = true;
  own_read;
#endif
  d_step {
    returns++;
    returned = returns;
    if
    :: entry == EXPECTED -> entry = RETURNED;
    :: else -> skip;
    fi;
  }
  foreign_queued = true;
  taken == 2;
#ifdef NO_EVENT
  assert(known == 0);
#else
  assert(known == 1);
#endif
}

init {
  byte i;
  atomic {
    i = 0;
    do
    :: i < HANDLERS -> run handler(); i++;
    :: else -> break;
    od;
    run own_call();
    i = 0;
  }
}
