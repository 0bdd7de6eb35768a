/* The nonce in a reader's slot has few bits and wraps. A Begin has read the word of the slot and polls it
 * until it differs; a reader leaves and enters the same range again, for ever. The nonces of a line are one
 * sequence for all its slots, so nested sections consume them too.
 *
 * Checked, for every schedule and for NONCES values: Begin never returns while the section that it met is
 * open, so a wrap is never unsafe. If a poll finds the old word in a later section than the previous poll
 * did, the line has made at least NONCES sections since it entered the one that the previous poll saw. One
 * poll can therefore be deceived at most once for each NONCES sections. The code has 2^20 nonces and polls
 * without a pause. (At most 3 * NONCES sections lie between two polls; there is no other bound.)
 *
 * STARVED requires that the wait ends under weak fairness. The checker answers with the only reader that
 * can delay a Begin for ever: between any two polls it makes exactly a multiple of NONCES sections. */

#ifndef NONCES
#define NONCES 2
#endif

#ifdef BREAK_NONCE_STANDS_STILL
byte nonce = 0;
#else
byte nonce = 1; /* of the line's next section, modulo NONCES */
#endif
bool entered = true;
byte word = 0;         /* the nonce in the slot */
bool met_open = true;  /* the section that Begin met has not been left */
bool other = false;    /* the slot was entered again since the last poll */
byte taken = 0;        /* nonces since the section that the last poll saw, without its own */
byte taken_at_entry = 0;
bool waiting = true;

inline next_nonce() {
#ifndef BREAK_NONCE_STANDS_STILL
  nonce = (nonce + 1) % NONCES;
#endif
  taken++
}

proctype Reader() {
end:
  do
  :: atomic { taken < 3 * NONCES -> next_nonce() } /* a section in another slot */
  :: atomic { entered -> entered = false; met_open = false }
  :: atomic {
       !entered && taken < 3 * NONCES ->
#ifdef BREAK_NEW_OWNER_STARTS_AGAIN
       if
       :: nonce = 0
       :: skip
       fi;
#endif
       word = nonce;
       next_nonce();
       taken_at_entry = taken;
       other = true;
       entered = true
     }
  od
}

proctype Bracket() {
  byte seen = 0;
  do
  :: atomic {
       if
#ifdef BREAK_COMPARE_WITHOUT_NONCE
       :: !entered -> break
#else
       :: !entered || word != seen -> break
#endif
       :: else ->
          assert(met_open || !other || taken_at_entry >= NONCES);
          if
          :: other -> taken = taken - taken_at_entry; taken_at_entry = 0
          :: else
          fi;
          other = false
       fi
     }
  od;
  assert(!met_open);
  waiting = false
}

init { atomic { run Reader(); run Bracket() } }

#ifdef STARVED
ltl begin_returns { [] (waiting -> <> !waiting) }
#endif
