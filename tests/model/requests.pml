/* A system call that goes straight to guest memory, beside brackets that never wait for it, memslot moves and
 * collections of dirty pages. mmu/direct_requests.h, vmm/devices/virtio/backend.cc.
 *
 *   worker:    announces a page; looks for brackets and at the memslot; the call writes, by the page table or by a
 *              frame that it has pinned before; takes the announcement back; if it was marked or the call failed:
 *              again, by a copy in a section. Then marks the page dirty, and publishes the answer
 *   host:      brackets: the page leaves by a copy and comes back in another frame; its mapping goes away and comes
 *              back; RAM moves to the other place, and the old place becomes a reservation, later another's memory
 *   collector: takes the dirty mark and copies the page, at any moment; once more when the worker has ended
 *
 * In the end the page has the request's content, the collections have copied it, the answer was published once, and
 * no other memory was written. No bracket waits for the call (the model has no deadlock although the call may hang).
 */
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef REQUESTS
#define REQUESTS 1
#endif

#define NONE 9
#define OTHER 5

byte cur;               /* the memslot: the place of the request's page */
byte frame[2];          /* the frame at a place. NONE: a hole or a reservation; OTHER: memory of somebody else */
byte mem[6];            /* content of a frame: 0 old, the number of the request, 7 of OTHER */
bool flight[2];         /* a bracket over the place */
byte word = NONE;       /* the request word: a place ... */
bool marked;            /* ... and its mark; both change in one step */
byte section = NONE;    /* the worker's read section */
bool dirty;
byte copied;            /* what the collections have copied last */
byte published;
bool cache_valid = true;
bool done, host_done, collected;
byte next_frame;

/* `n` is the content of this request. */
proctype worker() {
  byte h, f, n;
  bool ok, was_marked, answers_late;
  n = 1;
request:
  h = cur;
#ifdef BREAK_LOOK_FIRST
  if
  :: flight[h] || cur != h -> goto copy;
  :: else -> skip;
  fi;
#endif
  atomic { word = h; marked = false; }
#ifndef BREAK_LOOK_FIRST
#ifndef BREAK_NO_LOOK
  if
  :: atomic { flight[h] || cur != h -> word = NONE; }
     goto copy;
  :: else -> skip;
  fi;
#endif
#endif
#ifdef BREAK_DIRTY_BEFORE
  dirty = true;
#endif
  if
  :: skip;
  :: answers_late = true;     /* only when no bracket is left */
  fi;
  !answers_late || host_done;
  if                          /* 3: the kernel writes */
  :: f = frame[h];            /* a pinned frame */
     if
     :: f == NONE -> ok = false;
     :: else -> assert(f != OTHER); mem[f] = n; ok = true;
     fi;
  :: atomic {                 /* by the page table of this moment */
       f = frame[h];
       if
       :: f == NONE -> ok = false;
       :: else -> assert(f != OTHER); mem[f] = n; ok = true;
       fi;
     }
  fi;
  /* The code does both in one step. A mark that comes between them is of a bracket that has begun after the
   * last byte, and need not be seen. */
  was_marked = marked;
  word = NONE;
#ifdef BREAK_IGNORE_MARK
  was_marked = false;
#endif
  if
  :: was_marked || !ok -> goto copy;
  :: else -> goto mark;
  fi;
copy:
  do
  :: h = cur;
     section = h;
     if
     :: flight[h] ->
        section = NONE;
        !flight[h];
     :: !flight[h] && (cur != h || frame[h] == NONE) ->
        section = NONE;
        frame[cur] != NONE;
     :: else ->
#ifdef BREAK_LEAVE_BEFORE_COPY
        section = NONE;
#endif
        f = frame[h];
        if
        :: f != NONE -> assert(f != OTHER); mem[f] = n;
        :: else -> skip;
        fi;
#ifndef BREAK_DIRTY_BEFORE
        dirty = true;
#endif
        section = NONE;
        break;
     fi;
  od;
  goto publish;
mark:
#ifndef BREAK_DIRTY_BEFORE
#ifndef BREAK_NOT_DIRTY
  dirty = true;
#endif
#endif
publish:
  do
  :: atomic { cache_valid -> published++; }
     break;
  :: atomic { !cache_valid -> cache_valid = true; }
#ifdef BREAK_DEAD_CACHE
  :: published++;
#endif
  od;
  if
  :: n < REQUESTS -> n++; goto request;
  :: else -> done = true;
  fi;
}

inline begin(place) {
  flight[place] = true;
#ifndef BREAK_NO_MARK
  atomic {
    if
    :: word == place -> marked = true;
    :: else -> skip;
    fi;
  }
#endif
#ifdef BREAK_BEGIN_WAITS
  word != place;
#endif
  section != place;
}

proctype host() {
  byte r, h, f, s;
  do
  :: r < ROUNDS ->
     r++;
     h = cur;
     begin(h);
     cache_valid = false;
     if
     :: s = mem[frame[h]];            /* out by a copy, back in another frame */
        next_frame = (next_frame % 4) + 1;
        f = next_frame;
        atomic { frame[h] = NONE; mem[f] = s; }
        frame[h] = f;
     :: f = frame[h];                 /* the mapping goes away and comes back */
        frame[h] = NONE;
        frame[h] = f;
     :: begin(1 - h);                 /* RAM moves */
        if
        :: word != 1 - h ->
           f = frame[h];
           frame[h] = NONE;
           frame[1 - h] = f;
           cur = 1 - h;
           flight[1 - h] = false;
           if                         /* the old place is reserved until no request is announced over it */
#ifndef BREAK_NO_QUARANTINE
           :: atomic { word != h -> frame[h] = OTHER; }
              frame[h] = NONE;
#else
           :: frame[h] = OTHER;
              frame[h] = NONE;
#endif
           :: skip;
           fi;
        :: else -> flight[1 - h] = false;
        fi;
     fi;
     flight[h] = false;
  :: else -> break;
  od;
  host_done = true;
  done && collected;                  /* the devices have stopped; then the last collection */
  if
  :: dirty -> copied = mem[frame[cur]];
  :: else -> skip;
  fi;
  assert(mem[frame[cur]] == REQUESTS);
  assert(copied == REQUESTS);
  assert(published == REQUESTS);
  assert(mem[OTHER] == 7);
}

proctype collector() {
  if
  :: atomic { dirty -> dirty = false; }
     atomic { frame[cur] != NONE -> copied = mem[frame[cur]]; }
  :: skip;
  fi;
  collected = true;
}

init {
  atomic {
    frame[0] = 0;
    frame[1] = NONE;
    mem[OTHER] = 7;
    run worker();
    run host();
    run collector();
  }
}
