/*
 * The handler table's protocol, as src/registry implements it. Labels are the code's step names:
 *
 *   dispatcher (walk.ts)   look, announce, look_again, dispatch, retract, look_after, ring
 *   registrar  (table.ts)  claim: reuse, take | push: reserve, link; activate | abandon
 *   remover    (table.ts)  begin_removal, await_drained: value, inspect, wait; release
 *   supervisor             a dispatcher's thread is gone: retract all it had announced, ring, start it again
 *
 * Every access to shared memory is a step of its own; what stands in one atomic block with it is local, or the checker's
 * own book-keeping. A slot's state and generation are one word. Accesses are sequentially consistent; with TSO a
 * dispatcher's stores go through a store buffer, as on x86.
 *
 * A link is a slot's index + 1, and 0 ends the list. README.md says which -D make which configuration.
 */

#ifndef DISPATCHERS
#define DISPATCHERS 2
#endif
#ifndef OWNERS
#define OWNERS 2        /* threads that register a handler, remove it, and so on */
#endif
#ifndef SLOTS
#define SLOTS 2         /* at most 3 */
#endif
#ifndef LIVES
#define LIVES 1         /* registrations by each owner; LIVES * OWNERS at most 7 */
#endif
#ifndef DEATHS
#define DEATHS 0        /* dispatchers that die */
#endif
#ifndef DEADLINES
#define DEADLINES 0     /* deadlines that pass in a removal, which is then retried */
#endif
#ifndef KEPT
#define KEPT 0          /* handlers that may stay registered for ever */
#endif
#ifndef ABANDONED
#define ABANDONED 0     /* registrations that may be given up in CLAIMED */
#endif

#define FREE 0
#define CLAIMED 1
#define ACTIVE 2
#define DRAINING 3
#define WORD(generation, state) ((generation) << 2 | (state))
#define STATE(word) ((word) & 3)
#define GENERATION(word) ((word) >> 2)

/* Shared memory. */
byte word[SLOTS];
byte next[SLOTS];
byte head;
byte high_water;
bool running[DISPATCHERS * SLOTS];
#define RUNNING(d, link) running[(d) * SLOTS + (link) - 1]

/*
 * The doorbell. In the code one counter, compared with the value a waiter read before it looked; here what the counter
 * tells each waiter: whether the bell has rung since.
 */
#define NOT_WAITING 0
#define UNRUNG 1
#define RUNG 2
byte bell[OWNERS];

inline ring_bell() {
  d_step {
    for (i : 0 .. OWNERS - 1) {
      if
      :: bell[i] == UNRUNG -> bell[i] = RUNG
      :: else
      fi
    };
    i = 0
  }
}

/* What only the checker knows. A handler is a slot and its generation. */
#define HANDLER(link, word) (GENERATION(word) << 2 | (link))
#define LINK_OF(handler) ((handler) & 3)
byte inside[DISPATCHERS];   /* the handler it is inside, or 0 */
byte owed[DISPATCHERS];     /* a bit for each slot that was ACTIVE when the pass began and was not dispatched to yet */
byte returned[SLOTS];       /* a bit for each generation whose removal has returned */
byte owned;                 /* a bit for each slot that somebody holds */
byte linked;                /* a bit for each slot put into the list */
byte settled;               /* owners that have nothing more to do */
byte deaths, deadlines, kept, abandoned;
byte i, at, found;           /* 0 between steps */

/* The properties: each is named when it is broken. */
bool dispatch_after_removal, slot_reused_while_inside, slot_owned_twice, registration_lost, list_broken,
  lost_wakeup, wrong_state;
#define forbid(name, condition) d_step { name = ((condition) != 0); assert(!name) }

#if DISPATCHERS == 1
#define ANY_INSIDE(test) (test(inside[0]))
#elif DISPATCHERS == 2
#define ANY_INSIDE(test) (test(inside[0]) || test(inside[1]))
#elif DISPATCHERS == 3
#define ANY_INSIDE(test) (test(inside[0]) || test(inside[1]) || test(inside[2]))
#endif

/* From the head every slot ever linked is reached, once. */
inline check_list() {
  d_step {
    at = head;
    found = 0;
    do
    :: at != 0 ->
       forbid(list_broken, at > SLOTS || (found & 1 << at));
       found = found | 1 << at;
       at = next[at - 1]
    :: else -> break
    od;
    forbid(list_broken, found != linked);
    at = 0;
    found = 0
  }
}

inline pass_begins() {
  d_step {
    owed[_pid] = 0;
    for (i : 1 .. SLOTS) {
      if
      :: STATE(word[i - 1]) == ACTIVE -> owed[_pid] = owed[_pid] | 1 << i
      :: else
      fi
    };
    i = 0
  }
}

inline nothing_owed(link) {
  d_step {
    for (i : 0 .. DISPATCHERS - 1) { owed[i] = owed[i] & ~(1 << link) };
    i = 0
  }
}

#ifdef TSO
#if DEATHS > 0
#error the store buffer of a dead thread is not modelled
#endif
/* Each dispatcher's stores to `running` on their way to memory, oldest first: link * 2 + value. */
chan buffer[DISPATCHERS] = [2] of { byte };
#define STORE(link, value) buffer[_pid]!(link) * 2 + (value)
#define FENCE (empty(buffer[_pid]))
#else
#define STORE(link, value) RUNNING(_pid, link) = value
#define FENCE true
#endif

#if DEATHS > 0
#define OR_DIE :: atomic { deaths < DEATHS -> deaths++; seen = 0; owed[_pid] = 0; goto died }
#else
#define OR_DIE
#endif

#ifdef NO_GENERATION
#define SAME_HANDLER (STATE(word[link - 1]) == ACTIVE)
#else
#define SAME_HANDLER (word[link - 1] == seen)
#endif

/*
 * A dispatcher walks the list as often as it likes, and may stop between two walks: then nobody rings any more.
 */
active [DISPATCHERS] proctype dispatcher() {
  byte link, seen;
pass:
  if
  :: atomic {
       link = head;
       pass_begins();
       if
       :: link != 0
       :: else -> forbid(registration_lost, owed[_pid] != 0); goto pass
       fi
     }
  :: goto end_stopped
  fi;
look:
  atomic {
    seen = word[link - 1];
    if
    :: STATE(seen) == ACTIVE
    :: else -> seen = 0; goto follow
    fi
  };
announce:
  STORE(link, 1);
#if defined(TSO) && !defined(PLAIN_ANNOUNCE)
  FENCE;
#endif
look_again:
  /* A dispatch is no step but a time: it begins here, and ends in the step that retracts. */
  if
  OR_DIE
#ifdef SEED_ORDER
  :: atomic {
       true ->
#else
  :: atomic { !SAME_HANDLER -> goto leave }
  :: atomic {
       SAME_HANDLER ->
#endif
dispatch:
       inside[_pid] = HANDLER(link, seen);
       owed[_pid] = owed[_pid] & ~(1 << link);
       forbid(dispatch_after_removal, returned[link - 1] & 1 << GENERATION(seen))
     }
  fi;
leave:
#ifdef NOTIFY_BEFORE_CLEAR
ring_early:
  if
  :: atomic { STATE(word[link - 1]) == DRAINING -> ring_bell() }
  :: atomic { STATE(word[link - 1]) != DRAINING }
  fi;
#endif
retract:
  if
  OR_DIE
#ifdef FIRST_CLAIMER
  :: atomic { STORE(link, 0); seen = inside[_pid] != 0; inside[_pid] = 0 }
#else
  :: atomic { STORE(link, 0); inside[_pid] = 0; seen = 0 }
#endif
  fi;
#if defined(TSO) && !defined(PLAIN_RETRACT)
  FENCE;
#endif
#ifndef NOTIFY_BEFORE_CLEAR
look_after:
  if
  OR_DIE
  :: atomic { STATE(word[link - 1]) == DRAINING }
  :: atomic { STATE(word[link - 1]) != DRAINING -> goto follow }
  fi;
ring:
  if
  OR_DIE
  :: atomic { FENCE -> ring_bell() }                     /* a locked instruction: the buffer is empty after it */
  fi;
#endif
follow:
  atomic {
    link = next[link - 1];
    if
    :: link != 0 && seen == 0 -> goto look               /* `seen` is 0 here, save in FIRST_CLAIMER */
    :: else -> link = 0; seen = 0; forbid(registration_lost, owed[_pid] != 0); goto pass
    fi
  };
#if DEATHS > 0
died:
  /* Not this thread's steps any more, but the supervisor's. */
#ifndef RETRACT_WHILE_ALIVE
  atomic { inside[_pid] = 0; link = 1 };                 /* the thread is gone, and only then: */
#else
  link = 1;
#endif
supervisor_retract:
  if
  :: atomic { link <= SLOTS -> RUNNING(_pid, link) = 0; link++; goto supervisor_retract }
  :: atomic { link > SLOTS -> link = 0 }
  fi;
#ifndef SILENT_SUPERVISOR
supervisor_ring:
  ring_bell();
#endif
restart:
  atomic { inside[_pid] = 0; goto pass };
#endif
end_stopped:
  false
}

#ifdef TSO
active proctype memory() {
  byte store;
end:
  do
  :: atomic { buffer[0]?store -> RUNNING(0, store / 2) = store % 2; store = 0 }
#if DISPATCHERS > 1
  :: atomic { buffer[1]?store -> RUNNING(1, store / 2) = store % 2; store = 0 }
#endif
  od
}
#define FIRST_OWNER (DISPATCHERS + 1)
#else
#define FIRST_OWNER DISPATCHERS
#endif

#define ME (_pid - FIRST_OWNER)
#define IN_MY_SLOT(handler) (LINK_OF(handler) == mine)
#define IN_MY_HANDLER(handler) ((handler) == (generation << 2 | mine))
#define MOVE(from, to) \
  atomic { \
    forbid(wrong_state, word[mine - 1] != WORD(generation, from)); \
    word[mine - 1] = WORD(generation, to) \
  }

#define RESET_RUNNING \
  do \
  :: atomic { d < DISPATCHERS -> RUNNING(d, mine) = 0; d++ } \
  :: atomic { d == DISPATCHERS -> d = 0; break } \
  od

/* Registers a handler and removes it, LIVES times: on the way, `link` is where it looks and `mine` what it has. */
active [OWNERS] proctype owner() {
  byte link, mine, generation, d, lives;
claim:
  atomic {
    if
    :: lives == LIVES -> goto over
    :: else -> lives++
    fi;
    link = head;
    if
    :: link == 0 -> goto reserve
    :: else
    fi
  };
reuse:
  atomic {
    generation = GENERATION(word[link - 1]);
    if
    :: STATE(word[link - 1]) == FREE
    :: else -> generation = 0; goto follow
    fi
  };
take:
  atomic {
    if
#ifdef TAKE_BY_STORE
    :: true ->
#else
    :: word[link - 1] != WORD(generation, FREE) -> generation = 0; goto follow
    :: else ->
#endif
       mine = link;
       link = 0;
       generation++;
       word[mine - 1] = WORD(generation, CLAIMED);
       forbid(slot_owned_twice, owned & 1 << mine);
       owned = owned | 1 << mine;
#if !defined(FREE_BEFORE_DRAINED) || !defined(RESET_IN_CLAIMED)
       /* With both, this is known to break; the question is then what the reset adds. */
       forbid(slot_reused_while_inside, ANY_INSIDE(IN_MY_SLOT));
#endif
       goto claimed
    fi
  };
follow:
  atomic {
    link = next[link - 1];
    if
    :: link != 0 -> goto reuse
    :: else
    fi
  };

reserve:
  mine = high_water;
reserve_exchange:
  atomic {
    if
    :: mine >= SLOTS -> mine = 0; goto claim             /* the table is full: refused */
    :: mine < SLOTS && high_water != mine -> mine = high_water; goto reserve_exchange
    :: mine < SLOTS && high_water == mine ->
       high_water++;
       mine++;
       forbid(slot_owned_twice, owned & 1 << mine);
       owned = owned | 1 << mine
    fi
  };
push:
  atomic { generation = 1; word[mine - 1] = WORD(generation, CLAIMED) };
link_load_head:
  link = head;
link_store_next:
#ifndef HEAD_BEFORE_NEXT
  atomic { next[mine - 1] = link; check_list() };
#endif
link_exchange_head:
  atomic {
    if
#ifdef LINK_BY_STORE
    :: true ->
#else
    :: head != link -> link = head; goto link_store_next
    :: else ->
#endif
       head = mine;
       linked = linked | 1 << mine;
       check_list();
#ifndef HEAD_BEFORE_NEXT
       link = 0
#endif
    fi
  };
#ifdef HEAD_BEFORE_NEXT
link_store_next_late:
  atomic { next[mine - 1] = link; link = 0; check_list() };
#endif

claimed:
#ifdef RESET_IN_CLAIMED
reset:
  RESET_RUNNING;
#endif
activate:
  if
  :: MOVE(CLAIMED, ACTIVE)
  :: atomic { abandoned < ABANDONED -> abandoned++; goto abandon }
  fi;
#ifdef RESET_RUNNING_ON_REUSE
reset:
  /* One exchange claims and publishes in the seed, so that its reset comes after the handler is live. */
  RESET_RUNNING;
#endif

begin_removal:
  if
  :: atomic { kept < KEPT && lives == LIVES -> kept++; goto over }
#ifdef FREE_BEFORE_DRAINED
  :: atomic { MOVE(ACTIVE, FREE); owned = owned & ~(1 << mine); nothing_owed(mine) }
#else
  :: atomic { MOVE(ACTIVE, DRAINING); nothing_owed(mine) }
#endif
  fi;

await_drained:
#ifndef VALUE_AFTER_LOOK
value:
  bell[ME] = UNRUNG;
#endif
inspect:
  if
  :: atomic { RUNNING(d, mine) -> d = 0 }
  :: atomic {
       !RUNNING(d, mine) ->
       d++;
       if
       :: d < DISPATCHERS -> goto inspect
       :: else -> d = 0; bell[ME] = NOT_WAITING; goto release
       fi
     }
  fi;
#ifdef VALUE_AFTER_LOOK
value_late:
  bell[ME] = UNRUNG;
#endif
wait:
  if
  :: atomic { bell[ME] == RUNG -> bell[ME] = NOT_WAITING; goto await_drained }
#ifdef FREE_BEFORE_DRAINED
  :: goto inspect                                        /* nobody rings for a FREE slot: the seed spins, too */
#endif
  :: atomic { deadlines < DEADLINES -> deadlines++; bell[ME] = NOT_WAITING }
  fi;
retry:
  /* The deadline passed and was reported; another call finds the handler DRAINING and waits on. */
  atomic { forbid(wrong_state, word[mine - 1] != WORD(generation, DRAINING)); goto await_drained };

release:
  atomic {
    forbid(dispatch_after_removal, ANY_INSIDE(IN_MY_HANDLER));
    returned[mine - 1] = returned[mine - 1] | 1 << generation;
#ifndef FREE_BEFORE_DRAINED
    MOVE(DRAINING, FREE);
    owned = owned & ~(1 << mine);
#endif
    mine = 0;
    generation = 0;
    goto claim
  };
abandon:
  atomic {
    MOVE(CLAIMED, FREE);
    owned = owned & ~(1 << mine);
    mine = 0;
    generation = 0;
    goto claim
  };
over:
  settled++;
end_over:
  false
}

/* When nothing moves any more, whoever is not done waits for a ring that nobody owes. */
active proctype auditor() {
#if DEADLINES > 0
no_more_deadlines:
  deadlines = DEADLINES;                                 /* at any moment: one still to pass would hide a lost wake-up */
#endif
audit:
  atomic {
    timeout ->
    forbid(lost_wakeup, settled != OWNERS);
    check_list();
    d_step {
      for (i : 0 .. SLOTS - 1) {
        forbid(registration_lost, STATE(word[i]) == ACTIVE && !(linked & 2 << i));
        at = at + (STATE(word[i]) == ACTIVE)
      };
      forbid(registration_lost, at != kept);
      i = 0;
      at = 0
    }
  };
end:
  false
}
