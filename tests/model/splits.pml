/* A block that is a read-only leaf of two pages, changed from several sides at once. A Begin takes page 0
 * away in one step, by a table without that page in place of the block. A write fault of page 0 splits the
 * block first and relaxes only its page. BLOCK_RELAXERS relax the whole block. With PROTECT a Begin takes
 * only the write permission of page 0.
 *
 * No thread changes page 1 alone. Checked, at every moment: page 1 is mapped to the same frame; it is
 * writable only if the whole block was relaxed; and it keeps no tag. For page 0: there is no translation (or
 * no write permission) between Begin and End, and no translation of an older version of the host's page. No
 * thread is locked out by a tag whose owner has ended (I1, I6).
 *
 * Sizes: RELAXERS, BLOCK_RELAXERS, ROUNDS (of the bracket). */

#ifndef RELAXERS
#define RELAXERS 1
#endif
#ifndef BLOCK_RELAXERS
#define BLOCK_RELAXERS 1
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif

#define THREADS (RELAXERS + BLOCK_RELAXERS)
#define EMPTY 0
/* A leaf is the host's version of the page, its write permission and the tag of the thread that relaxes it. */
#define LEAF(version) (64 + (version))
#define WRITABLE 32
#define VERSION(e) ((e) & 7)
#define TAG(e) ((e) & 24)
#define WITH_TAG(e, tag) (((e) & 231) | ((tag) << 3))
#define READ_ONLY(e) ((e) & 199)

bool split = false;  /* the entry is a table: it never goes here, for page 1 stays in it */
byte word[2] = LEAF(0); /* of the block, changed in one step, or of the table's entries */
bool block_relaxed = false;
byte host = 0;       /* the version of page 0 */
byte flight = 0;
bool inside = false;
byte finished = 0;

proctype Relaxer(byte tag) {
  byte seen, old, other, version;
  bool was_split;
retry:
  atomic { was_split = split; old = word[0]; other = word[1] };
  if
  :: old == EMPTY || (old & WRITABLE) != 0 || TAG(old) != 0 -> goto done
  :: else
  fi;
#ifndef BREAK_RELAX_TAKES_THE_BLOCK
  if
  :: !was_split ->
     atomic {
       if
#ifdef BREAK_SPLIT_BY_STORE
       :: true -> split = true; word[0] = old; word[1] = other
#else
       :: !split && word[0] == old && word[1] == other -> split = true
       :: else
#endif
       fi
     };
     goto retry
  :: else
  fi;
#endif
  atomic {
    if
    :: split == was_split && word[0] == old ->
       word[0] = WITH_TAG(old, tag);
       word[1] = (split -> word[1] : WITH_TAG(word[1], tag))
    :: else -> goto retry
    fi
  };
  seen = flight;
  if
  :: seen != 0 ->
     atomic {
       if
       :: TAG(word[0]) == (tag << 3) -> word[0] = WITH_TAG(word[0], 0)
       :: else
       fi
     };
     (flight != seen);
     goto retry
  :: else
  fi;
  version = host;
  atomic {
    if
#ifdef BREAK_RELAX_BY_STORE
    :: true ->
#else
    :: word[0] != EMPTY && TAG(word[0]) == (tag << 3) ->
#endif
       word[0] = LEAF(version) | WRITABLE;
       word[1] = (split -> word[1] : LEAF(0) | WRITABLE);
       assert(!inside && version == host)
    :: else -> goto retry
    fi
  };
done:
  finished++
}

/* Relaxes the block, while it is one. */
proctype BlockRelaxer(byte tag) {
  byte old, version;
  atomic {
    old = word[0];
    if
    :: split || TAG(old) != 0 || (old & WRITABLE) != 0 -> goto done
    :: else
    fi
  };
  atomic {
    if
    :: !split && word[0] == old -> word[0] = WITH_TAG(old, tag); word[1] = WITH_TAG(word[1], tag)
    :: else -> goto done
    fi
  };
  if
  :: flight != 0 ->
     atomic {
       if
       :: TAG(word[0]) == (tag << 3) && !split ->
          word[0] = WITH_TAG(word[0], 0);
          word[1] = WITH_TAG(word[1], 0)
       :: else
       fi
     };
     goto done
  :: else
  fi;
  version = host;
  atomic {
    if
    /* Publish walks from the root and looks for its tag, in a page's entry too. */
    :: word[0] != EMPTY && TAG(word[0]) == (tag << 3) ->
       assert(!split);
       word[0] = LEAF(version) | WRITABLE;
       word[1] = LEAF(0) | WRITABLE;
       block_relaxed = true;
       assert(!inside && version == host)
    :: else
    fi
  };
done:
  finished++
}

/* The words that a split starts from: without the tag, or its owner would find it in a page's entry. */
#ifdef BREAK_SPLIT_KEEPS_TAG
#define FOR_SPLIT(e) (e)
#else
#define FOR_SPLIT(e) WITH_TAG(e, 0)
#endif

inline take_page_0() {
  do
  :: atomic { was_split = split; old = word[0]; other = word[1] };
     if
     :: old == EMPTY -> break
#ifdef PROTECT
     :: READ_ONLY(old) == old -> break
#endif
     :: else ->
#ifdef BREAK_BEFORE_MAKE
        if
        :: !was_split -> atomic { word[0] = EMPTY; word[1] = EMPTY }
        :: else
        fi;
        atomic { split = true; word[0] = EMPTY; word[1] = FOR_SPLIT(other); break }
#endif
        atomic {
          if
          :: split == was_split && word[0] == old && (split || word[1] == other) ->
#ifdef PROTECT
             if
             :: (old & WRITABLE) == 0 -> word[0] = READ_ONLY(old); /* only a tag: it is stolen */
                word[1] = (split -> word[1] : READ_ONLY(word[1]))
             :: else -> word[1] = (split -> word[1] : FOR_SPLIT(word[1])); split = true;
                word[0] = READ_ONLY(old)
             fi;
#else
             word[1] = (split -> word[1] : FOR_SPLIT(word[1]));
             split = true;
             word[0] = EMPTY;
#endif
             break
          :: else
          fi
        }
     fi
  od
}

proctype Bracket() {
  byte old, other, round;
  bool was_split;
  do
  :: round < ROUNDS ->
     round++;
     flight++;
     take_page_0();
     inside = true;
#ifndef PROTECT
     host++;
#endif
     inside = false;
     flight--;
#ifndef PROTECT
     /* A fault maps it again, read-only. */
     atomic {
       if
       :: word[0] == EMPTY -> word[0] = LEAF(host)
       :: else
       fi
     }
#endif
  :: else -> break
  od
}

/* One look at any moment. */
proctype Monitor() {
  atomic {
    assert(word[1] != EMPTY && VERSION(word[1]) == 0);
    assert((word[1] & WRITABLE) == 0 || block_relaxed);
    assert(!split || TAG(word[1]) == 0);
#ifdef PROTECT
    assert(!inside || (word[0] & WRITABLE) == 0)
#else
    assert(!inside || word[0] == EMPTY)
#endif
  };
  (finished == THREADS);
  assert(TAG(word[0]) == 0)
}

init {
  byte n;
  atomic {
    do
    :: n < RELAXERS -> run Relaxer(n + 1); n++
    :: else -> break
    od;
    do
    :: n < THREADS -> run BlockRelaxer(n + 1); n++
    :: else -> break
    od;
    run Bracket();
    run Monitor()
  }
}
