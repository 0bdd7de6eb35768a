/* One place in the set of ranges in flight, used again and again, and an installer that waits for the End
 * of the one bracket that it met. A thread takes the place by compare-exchange and frees it; the epoch of
 * the place changes after that. A search reads the epoch first and then the word.
 *
 * Two threads bracket the installer's range ROUNDS times each. A third thread takes the place for another
 * range and keeps it until the installer has ended: an installer that waits for the word, and not for the
 * bracket, waits in vain. The same word comes back in the same place (ABA).
 *
 * Checked: no thread sleeps through the End of the bracket that it met, so all threads end. An installer
 * waits at most once for each bracket that overlaps (I9). With EPOCHS=2 the epoch has one bit: it wraps
 * between the search and the sleep, and the checker finds a sleep that never ends. The code has 32 bits, so
 * the same would need 2^32 Ends in one place between two instructions. */

#ifndef OVERLAPPING
#define OVERLAPPING 2
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef EPOCHS
#define EPOCHS 64
#endif
#ifndef PLACES
#define PLACES 1
#endif

#define FREE 0
#define MINE 1  /* the word of a range that overlaps the installer's */
#define OTHER 2

byte word[PLACES];
byte epoch[PLACES];
bool done = false;

inline take(w) {
  do
  :: place = 0;
     do
     :: place < PLACES ->
        atomic {
          if
          :: word[place] == FREE -> word[place] = w; break
          :: else -> place++
          fi
        }
     :: else -> break
     od;
     if
     :: place < PLACES -> break
     :: else -> (word[0] == FREE) /* mmu/ grows here */
     fi
  od
}

inline release() {
#ifdef BREAK_EPOCH_BEFORE_WORD_IS_FREE
  epoch[place] = (epoch[place] + 1) % EPOCHS;
  word[place] = FREE
#else
  word[place] = FREE;
#ifndef BREAK_EPOCH_STANDS_STILL
  epoch[place] = (epoch[place] + 1) % EPOCHS
#endif
#endif
}

proctype Bracket() {
  byte place, round;
  do
  :: round < ROUNDS -> round++; take(MINE); release()
  :: else -> break
  od
}

/* Stays until the installer is done, or was never there. */
proctype Unrelated() {
  byte place;
  take(OTHER);
  done;
  release()
}

proctype Installer() {
  byte place, seen, w, waits;
search:
  place = 0;
  do
  :: place < PLACES ->
#ifdef BREAK_EPOCH_AFTER_WORD
     w = word[place];
     seen = epoch[place];
#else
     seen = epoch[place];
     w = word[place];
#endif
     if
#ifdef BREAK_WAIT_FOR_ANY_BRACKET
     :: w != FREE ->
#else
     :: w == MINE ->
#endif
#ifdef BREAK_WAIT_FOR_A_FREE_WORD
        (word[place] == FREE);
#else
        (epoch[place] != seen);
#endif
        waits++;
        assert(waits <= OVERLAPPING * ROUNDS);
        goto search
     :: else
     fi;
     place++
  :: else -> break
  od;
  done = true
}

init {
  byte i;
  atomic {
    do
    :: i < OVERLAPPING -> run Bracket(); i++
    :: else -> break
    od;
    run Unrelated();
    run Installer()
  }
}
