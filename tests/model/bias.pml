/* A reader's bias: a biased reader enters a section by a plain store to its slot. A Begin that looks at
 * the slot takes the bias away, with a membarrier.
 *
 * The reader's plain stores go through a store buffer, first in first out. The buffer drains at any time,
 * before each locked instruction of the reader, and in a membarrier. All other steps are visible at once.
 * Each round of a Begin clears a page of its own. The reader may take the bias at any time in an announced
 * section, may give it up at any time outside of sections, and may end.
 *
 * Checked: no reader uses a page after the Begin that cleared it has returned (I1). */

#ifndef BEGINS
#define BEGINS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1 /* of the last Begin; one of the others */
#endif
#ifndef EPOCHS
#define EPOCHS 2 /* times that the bias is taken, after the one that it begins with */
#endif

#ifndef PAGES_READ
#define PAGES_READ PAGES /* those of the first Begins */
#endif

#define PAGES (BEGINS + ROUNDS - 1)
#ifndef BUFFER
#define BUFFER 2
#endif
#define SLOT 0
#define BIAS 1

mtype = { ANNOUNCED, BIASED, LEAVING };

chan buffer = [BUFFER] of { bit, byte };
byte slot = 0; /* 0, or 2 * (page + 1) + nonce */
mtype bias = BIASED;
byte epoch = 0;
bool valid[PAGES];
byte using = 0; /* page + 1 */

inline apply(where, what) {
  if
  :: where == SLOT -> slot = what
  :: else -> bias = what
  fi
}

proctype Drain() {
  bit where;
  byte what;
end:
  do
  :: atomic { buffer?where, what -> apply(where, what); where = 0; what = 0 }
  od
}

inline membarrier() {
  d_step {
    do
    :: nempty(buffer) -> buffer?where, what; apply(where, what)
    :: empty(buffer) -> break
    od;
    where = 0;
    what = 0
  }
}

#ifdef BREAK_BIAS_IS_TAKEN_BY_STORE
#define HELD (bias == BIASED || buffer??[BIAS, BIASED])
#else
#define HELD (bias == BIASED)
#endif

inline take_bias() {
#ifdef BREAK_BIAS_IS_TAKEN_BY_STORE
  atomic {
    if
    :: bias == ANNOUNCED && taken < EPOCHS -> taken++; buffer!BIAS, BIASED
    :: bias != ANNOUNCED || taken == EPOCHS
    fi
  }
#else
  atomic {
    empty(buffer) ->
    if
    :: bias == ANNOUNCED && taken < EPOCHS ->
       bias = BIASED;
       taken++;
#ifndef BREAK_NO_EPOCH
       epoch++
#endif
    :: else
    fi
  }
#endif
}

proctype Reader() {
  byte page;
  byte taken = 0;
  bit nonce = 0;
  bool held = false;
end:
  do
  :: break
  :: /* gives up its bias, as at the end of a reader; the next one goes on with the line */
     atomic {
       empty(buffer) ->
       if
       :: bias == BIASED -> bias = ANNOUNCED
       :: else
       fi
     }
  :: page = 0;
     do
     :: page + 1 < PAGES_READ -> page++
     :: break
     od;
#ifdef BREAK_BIAS_IS_ASKED_FIRST
     held = HELD;
#endif
     buffer!SLOT, 2 * (page + 1) + nonce;
#ifndef BREAK_BIAS_IS_ASKED_FIRST
     held = HELD;
#endif
     if
     :: held
     :: else ->
#ifndef BREAK_NO_EXCHANGE
        atomic { empty(buffer) -> slot = 2 * (page + 1) + nonce };
#endif
        if
        :: take_bias()
        :: skip
        fi
     fi;
     held = false;
     if
     :: valid[page] ->
        using = page + 1;
        using = 0
     :: else
     fi;
     buffer!SLOT, 0;
     nonce = 1 - nonce
  od
}

proctype Begin(byte page; byte rounds) {
  bit where;
  byte what;
  byte seen;
  byte met;
  bool trusted;
  do
  :: rounds == 0 -> break
  :: else ->
#ifdef BREAK_LOOK_BEFORE_CLEARING
     trusted = (bias == ANNOUNCED);
#endif
#ifdef BREAK_MEMBARRIER_BEFORE_CLEARING
     membarrier();
#endif
     valid[page] = false;
#ifndef BREAK_LOOK_BEFORE_CLEARING
     atomic {
       met = epoch;
       if
#ifdef BREAK_LEAVING_IS_TRUSTED
       :: bias == ANNOUNCED || bias == LEAVING -> trusted = true
#else
       :: bias == ANNOUNCED -> trusted = true
       :: bias == LEAVING -> trusted = false
#endif
       :: bias == BIASED ->
          trusted = false;
#ifdef BREAK_ANNOUNCED_BEFORE_MEMBARRIER
          bias = ANNOUNCED
#else
          bias = LEAVING
#endif
       fi
     };
#endif
     if
     :: trusted
     :: else ->
#if !defined(BREAK_NO_MEMBARRIER) && !defined(BREAK_MEMBARRIER_BEFORE_CLEARING)
        membarrier();
#endif
        atomic {
          if
          :: bias == LEAVING && epoch == met -> bias = ANNOUNCED
          :: else
          fi;
          met = 0;
          trusted = false
        }
     fi;
     seen = slot;
     if
     :: seen / 2 == page + 1 -> slot != seen
     :: else
     fi;
     assert(using != page + 1);
     seen = 0;
     page++;
     rounds--
  od
}

init {
  byte i;
  atomic {
    do
    :: i < PAGES -> valid[i] = true; i++
    :: else -> break
    od;
    i = 0;
    run Drain();
    run Reader();
    do
    :: i < BEGINS -> run Begin(i, (i == BEGINS - 1 -> ROUNDS : 1)); i++
    :: else -> break
    od
  }
}
