/* Readers protect a translation with a slot. Begin clears the translation and then waits for the readers
 * of that page. Readers leave and enter again for ever.
 *
 * Checked, with weak fairness: each Begin returns (I9), although readers enter again without end and a
 * reader of another page never leaves (I11). No reader uses a cleared translation (I1).
 *
 * The nonce in a slot never repeats here. Begin asks only whether the word has changed since it looked, so
 * `changed` stands for the nonce, and the state space stays finite. */

#ifndef READERS
#define READERS 2
#endif

#define PAGES 2

byte key[READERS];     /* 0, or the page of the section plus one */
bool changed[READERS]; /* the slot's word differs from what Begin saw */
bool using[READERS];   /* a translation of page 0 */
bool valid[PAGES];
bool waiting = false;
bool inside = false;

proctype Reader(byte r) {
  byte page;
  do
  :: if
     :: page = 0
     :: page = 1
     fi;
#ifdef BREAK_READ_BEFORE_SECTION
     if
     :: !valid[page] -> goto leave
     :: else
     fi;
     d_step { key[r] = page + 1; changed[r] = true };
#else
     d_step { key[r] = page + 1; changed[r] = true };
     if
     :: !valid[page] -> goto leave
     :: else
     fi;
#endif
     if
     :: page == 0 ->
        atomic { using[r] = true; assert(!inside) };
        using[r] = false
     :: page == 1
     :: page == 1 -> goto stuck
     fi;
leave:
     atomic { key[r] = 0; changed[r] = true }
  od;
stuck: /* a reader of page 1 that never leaves its section */
end_stuck:
  false
}

proctype Bracket() {
  byte r;
  do
  :: waiting = true;
     valid[0] = false;
     r = 0;
     do
     :: r < READERS ->
        d_step { changed[r] = (key[r] == 0) };
        if
#ifdef BREAK_WAIT_FOR_EVERY_READER
        :: !changed[r] ->
#else
        :: !changed[r] && key[r] == 1 ->
#endif
#ifdef BREAK_WAIT_FOR_AN_EMPTY_SLOT
           (key[r] == 0)
#else
           changed[r]
#endif
        :: else
        fi;
        r++
     :: else -> break
     od;
     atomic {
       waiting = false;
       inside = true;
       assert(!using[0]);
       assert(!using[READERS - 1])
     }
     inside = false;
     valid[0] = true
  od
}

init {
  byte i;
  atomic {
    valid[0] = true;
    valid[1] = true;
    run Bracket();
    do
    :: i < READERS -> run Reader(i); i++
    :: else -> break
    od
  }
}

ltl begin_returns { [] (waiting -> <> !waiting) }
