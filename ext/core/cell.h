/* cell.h - cells: a call, its state, and the place of its result.
 *
 * Phases: UNSENT (its maker's alone) -> WAITING (arguments not ready) -> UNREAD -> STARTED (slot, epoch) -> DONE;
 * EXPECTED (a value that another call produces: returns 2..n) -> DONE; CANCELLED = DONE with a cancellation as value.
 * Each step is one CAS of `state`.
 * Guarantees: a result is written once and never changes; who sees DONE (acquire) sees the whole value; a process that
 * was declared dead (its STARTED was taken away) gets AF_FENCED and its answer is dropped.
 * Layout of the block: struct af_cell | references (af_off each, counted: arguments' cells, then mailbox, refs nested in
 * the arguments, function, last the return cells) | argument bytes. A small result overwrites references and arguments
 * (these are dropped first); one that does not fit is an AF_KIND_BYTES or AF_KIND_OBJECT block, owned through `value`.
 * Retries: a call that may be run again (af_cell_allow_retries) keeps references and arguments until it is DONE; its
 * small result goes behind them. STARTED -> UNREAD: its executor puts it back (af_cell_retry), or the coroner does,
 * after its executor has ended. It comes back over the mailbox' ready list, as an AF_KIND_FOLLOWER entry, because its own
 * block.next may be in a list still; of several entries of one call, one starts it and the others find it moved.
 * Who writes: the maker before it is pushed; then whoever STARTED it; `watch` and `followers` anyone by CAS.
 * Dependents: a call that is not ready follows ONE unfinished cell at a time (linked through its own block.next, one
 * hold counted for the list). Whoever completes that cell moves it on to its next unfinished argument, or makes it
 * UNREAD: an ordered call lies in its lane already and only the bell is rung; an unordered one is put on the
 * mailbox' ready list.
 * References are dropped by whoever STARTED the call, or made it DONE, unless they are pinned: by who moves the call on
 * and may be looking at them. Who unpins last drops them then. So a call that is settled, cancelled say, refers to
 * nothing any more, whoever keeps a reference to it.
 * Watchers: the first sits in `watch`; further ones in AF_KIND_FOLLOWER blocks on the same list as dependents.
 * DONE bears the slot and epoch of who completed it: only that one (or its coroner) serves the followers. It closes the
 * list, then serves its head and takes it off, one by one; the list stays in the cell until it is empty.
 * A crash leaves: a cell DONE by the dead with followers not served: slot.op_cell or op_pending names it and the coroner
 * serves the rest (a ring may be repeated); a call that is on its way (op_dependent): whether it got there cannot be
 * told, so the coroner sends a second entry (AF_KIND_FOLLOWER with `dependent`) after it; whichever comes first moves
 * the call's state, and the other finds it moved. Pinned by the dead: op_dependent says so (AF_PINNED), unless it died
 * between the two: then the references stay until the cell is freed.
 * SYNC POINT pin: pinned, then the look at the state; who starts or settles the call moves the state, then looks at
 * `pinned`.
 * SYNC POINT cell-done: completer's release of state, waiter's acquire. */
#ifndef AF_CELL_H
#define AF_CELL_H
#include "af.h"

enum af_phase { AF_WAITING = 1, AF_UNREAD, AF_STARTED, AF_DONE, AF_EXPECTED, AF_UNSENT };
#define AF_STATE_SLEEPER 0x100u    /* flag in the state word: a thread sleeps on its low half */
#define AF_STATE_CLAIMED 0x200u    /* flag beside STARTED: nobody runs it, it is being settled (af_cell_settle) */
#define AF_CELL_ITEM 1u            /* block.flags: an item of a stream */
#define AF_FOLLOWERS_CLOSED 1ull   /* low bit of `followers`: none may be added */
#define AF_PINS_OVER 0x8000u       /* flag in `pinned`: the cell is DONE, who unpins it last drops its references */
#define AF_PINNED 1ull             /* low bit of a slot's op_dependent: it has the call's references pinned */

/* state: [7:0] phase, [8] sleeper, [9] claimed, [31:16] slot, [63:32] epoch (of who STARTED it or made it DONE). Its low 32 bits are
 * the futex word. */
struct af_cell {
  struct af_block block;
  _Atomic uint64_t state;
  _Atomic af_watch watch;
  _Atomic af_off followers; /* list through block.next, owned; af_cell_followers */
  af_off value;          /* owned block with the result's bytes; 0: they are in this block behind the struct. Once DONE,
                          * the node may exchange an object for a spilled one and back: read it by spill.h */
  uint32_t value_bytes;  /* length (in a cell or BYTES block) */
  uint32_t value_refs;   /* references at the start of the value, af_off each, counted */
  /* the call */
  af_off mailbox;        /* where it goes; not counted (a call that had to wait keeps it alive through `references`) */
  af_off place;          /* ordered: mail bit of the lane it lies in (page offset | bit), to ring it */
  uint64_t number;       /* call id: with slot and epoch of the caller */
  uint32_t caller, caller_epoch;
  uint32_t arguments;    /* first references: arguments' cells (dependencies) */
  uint32_t references;   /* all references, counted, now (0 before they are dropped) */
  uint32_t returns;      /* of these the last ones: return cells 2..n */
  _Atomic uint32_t next_argument; /* dependents: index of the argument it follows now */
  uint32_t bytes;        /* of the arguments */
  uint16_t method, depth;
  uint8_t format;        /* of the arguments: wire format, the upper layer's */
  uint8_t value_format;  /* of the result; that of an OBJECT is in its block's flags (af_value_format) */
  _Atomic uint8_t cancel;/* enum af_cancel; see af_cell_cancel */
  uint8_t flags;
  uint16_t value_place;  /* 0: a small result overwrites the references; else it lies this many words behind the struct */
  _Atomic uint16_t pinned; /* by how many its references are looked at before it has started; AF_PINS_OVER */
  uint32_t attempt;      /* how often it was run before; whoever STARTED it, then its coroner */
  int32_t retries;       /* how often it may be run again, -1: always; written as `attempt` */
  uint32_t limit_ms;     /* how long an attempt may run, 0: no limit; for who runs it */
  uint32_t parent_generation;
  af_off parent;         /* by name, not counted: the call within which it was made, 0: none; of a return cell its call */
  _Atomic uint64_t stream; /* see stream.h: of an item the next one's cell, owned; of a call what was taken */
  _Atomic af_off lineage; /* owned: how a value in the object store is made again, 0: not at all; see lineage.h */
};

/* An entry of a list of followers, where the follower's own block.next will not do. Owned by the list. */
struct af_follower {
  struct af_block block;
  af_off dependent;      /* owned: the call that follows, 0: a watcher */
  _Atomic af_watch watch;
};
struct af_buffer {       /* out of band of its value's pickle */
  af_off object;         /* the OBJECT that has the bytes, one of the value's references; 0: they lie in the block itself */
  uint64_t offset, bytes;/* from that one's beginning */
};
struct af_object {       /* AF_KIND_OBJECT and AF_KIND_BYTES: references, then the pickle, then aligned buffers */
  struct af_block block;
  uint64_t bytes;        /* of everything behind this header */
  uint32_t references;   /* counted af_off at the start */
  uint32_t buffers;      /* then that many struct af_buffer */
  uint64_t pickle_offset, pickle_bytes; /* offset from the block */
  af_off cell;           /* OBJECT: the cell whose value it is, not counted; 0: none (spill.h) */
  uint32_t cell_generation;
  uint32_t used;         /* OBJECT: objects that had been made when it was last read; a hint */
  af_off copy;           /* OBJECT: owned, the SPILLED block that it was brought back from; 0: it was never on disk */
  struct af_maker maker; /* OBJECT */
};

/* The call of an entry of a list of followers or of ready calls; 0: a watcher. */
static inline af_off af_entry_call(const struct af_client *client, af_off entry);
/* Names in the own slot the call that is between two lists now (0: none), for the coroner. */
void af_cell_on_its_way(struct af_client *client, af_off cell);

/* Allocates a call with room for `references` and `bytes`, and for a result of at least `reserve` bytes.
 * AF_TOO_LARGE: more than a message can have. Count 1 (the caller's). The caller fills in references, arguments and so
 * on (all 0), and if there are arguments, puts the mailbox among the references (counted): a call that waits keeps it
 * alive. */
int af_cell_create(struct af_client *client, uint32_t references, uint64_t bytes, uint64_t reserve, af_off *cell);
static inline af_off *af_cell_references(const struct af_client *client, af_off cell);
static inline af_off af_cell_followers(const struct af_client *client, af_off cell); /* first of the list */
static inline uint8_t *af_cell_bytes(const struct af_client *client, af_off cell); /* arguments */
static inline af_off *af_cell_value(const struct af_client *client, af_off cell);
/* Sends a filled call. Ready: pushed to `lane`, UNREAD. Not ready: ORDERED: pushed WAITING; else kept by the cell it
 * waits for. AF_FULL / AF_CLOSED: nothing happened, the caller still has it. AF_OK also for one that was cancelled while
 * it was tried, by who visits the calls made within a call (af_cell_each_child). */
int af_cell_submit(struct af_client *client, af_off lane, af_off cell);
/* Makes a filled call the mailbox' first: UNREAD, whether its arguments are ready or not. */
void af_cell_submit_first(struct af_client *client, af_off mailbox, af_off cell);
/* A cell that is DONE from the start (the caller writes references and bytes before others see it), or EXPECTED (returns
 * 2..n). */
int af_cell_value_create(struct af_client *client, uint32_t references, uint32_t bytes, af_off *cell);
int af_cell_expected_create(struct af_client *client, uint32_t reserve, af_off *cell);

/* Where an executor writes a result of `references` and `bytes`: into the cell when it fits (its references are dropped
 * first; therefore return cells are completed before the call), else into a new AF_KIND_BYTES block (count 1, the
 * caller's). The address is for the references (each counted by the caller), the bytes follow. AF_FENCED: the cell is
 * not this client's to complete. AF_TOO_LARGE: more than a message can have. */
int af_cell_result_begin(struct af_client *client, af_off cell, uint32_t references, uint64_t bytes, af_off *block,
                         uint8_t **where);
/* Links the result (block 0: in the cell) and makes the cell DONE; wakes, rings, serves dependents. From STARTED by
 * this client, or EXPECTED. `value` lies in the block as result_begin gave it; its count passes to the cell (forget its
 * record first). AF_FENCED: no longer this client's (the result is dropped).
 * From result_begin to here the caller is inside an operation of its own (af_op_begin). */
int af_cell_complete(struct af_client *client, af_off cell, af_off value, uint32_t references, uint32_t bytes,
                     uint8_t format);
/* Coroner, mailbox_close, cancel: settles a cell of any unfinished phase, and its return cells, with a shared error value
 * (an AF_KIND_BYTES block; counted; 0: no bytes). `expected_state`: only if the state is still that (0: any but STARTED
 * and DONE). AF_BUSY otherwise. Whoever STARTED it must have ended. Its references are dropped. */
int af_cell_fail(struct af_client *client, af_off cell, uint64_t expected_state, af_off error, uint8_t format);
/* The maker, before it is sent, references and bytes being known: it may be run `retries` times more (-1: always). */
void af_cell_allow_retries(struct af_client *client, af_off cell, int32_t retries);
/* Executor: a call that this client STARTED, and has not begun to complete, is to be run again. AF_EMPTY: no retries
 * left; AF_CLOSED: its mailbox is closed; AF_FULL: no memory; AF_FENCED: no longer this client's. Nothing happened then.
 * Of an ordered mailbox it is the next to be read; a mailbox' first call becomes unread, no more. */
int af_cell_retry(struct af_client *client, af_off cell);
/* Asks that the call end (that of a return cell: its call), by any client. AF_OK: it had not started and never will; it
 * and its return cells are settled with `error`, as af_cell_fail does. AF_EMPTY: it is done. AF_BUSY: it has STARTED;
 * who runs it finds the wish when it looks, and is to be told to look. Repeatable. A crash leaves a wish, and what a
 * crash in af_cell_fail leaves.
 * SYNC POINT cancel: the wish, then the look at the state; who starts a call sets the state, then looks at the wish. */
enum af_cancel {
  AF_CANCEL_ASKED = 1,    /* the wish; for ever */
  AF_CANCEL_CHILDREN = 2, /* and that the calls made within it end too */
  AF_CANCEL_TOLD = 4,     /* its code has been told; by who runs it */
};
int af_cell_cancel(struct af_client *client, af_off cell, uint8_t wish, af_off error, uint8_t format);
/* The wish, for who has started the call: before its code begins, and when told to look. */
static inline uint8_t af_cell_wish(const struct af_client *client, af_off cell);
/* The call whose result a cell is: itself, or the call of a return cell as long as it is not done (0: that is gone). */
af_off af_cell_call(const struct af_client *client, af_off cell);
/* Visits each unfinished call made within the call of that name, wherever its reference went; each is counted while it is
 * visited. Walks the whole heap: for what is rare. */
typedef void (*af_cell_visit)(void *context, struct af_client *client, af_off cell);
void af_cell_each_child(struct af_client *client, af_off parent, uint32_t generation, af_cell_visit visit, void *context);
/* UNREAD -> STARTED by this client. AF_BUSY: no. */
int af_cell_start(struct af_client *client, af_off cell);
static inline uint32_t af_cell_phase(const struct af_client *client, af_off cell);
bool af_cell_is_done(const struct af_client *client, af_off cell);
/* Sets a watch. AF_OK: set; AF_EMPTY: already done, not set; AF_FULL: no room for a further one. `own`: who watches the
 * same cell again and again has one of these (all 0 at first) and, where it is not the first watcher, one place on the
 * list for all its watches, which it holds; the list's other places are used once (NULL, or two watches at a time). */
struct af_watcher { af_off follower; uint32_t hold; };
int af_cell_watch(struct af_client *client, af_off cell, af_watch watch, struct af_watcher *own);
void af_cell_unwatch(struct af_client *client, af_off cell, af_watch watch, struct af_watcher *own);
/* Spins up to spin_ns, no sleep. 1: done. */
int af_cell_spin(const struct af_client *client, af_off cell, uint64_t spin_ns);
/* Sleeps until done: AF_OK, AF_TIMEOUT (after timeout_ns or AF_SLEEP_MS), AF_INTERRUPTED. [no GIL] */
int af_cell_sleep(struct af_client *client, af_off cell, uint64_t timeout_ns);

static inline af_off *af_cell_references(const struct af_client *client, af_off cell) {
  return AF_AT(client, af_off, cell + sizeof(struct af_cell));
}
static inline af_off af_cell_followers(const struct af_client *client, af_off cell) {
  return atomic_load_explicit(&AF_AT(client, struct af_cell, cell)->followers, memory_order_acquire) &
         ~(af_off)AF_FOLLOWERS_CLOSED;
}
static inline af_off af_entry_call(const struct af_client *client, af_off entry) {
  const struct af_follower *follower = AF_AT(client, struct af_follower, entry);
  return follower->block.kind == AF_KIND_FOLLOWER ? follower->dependent : entry;
}
/* Where the small result is: references, then bytes. */
static inline af_off *af_cell_value(const struct af_client *client, af_off cell) {
  return af_cell_references(client, cell) + AF_AT(client, struct af_cell, cell)->value_place;
}
static inline uint8_t *af_cell_bytes(const struct af_client *client, af_off cell) {
  return (uint8_t *)(af_cell_references(client, cell) + AF_AT(client, struct af_cell, cell)->references);
}
static inline uint8_t af_cell_wish(const struct af_client *client, af_off cell) {
  return atomic_load_explicit(&AF_AT(client, struct af_cell, cell)->cancel, memory_order_seq_cst); /* SYNC POINT cancel */
}
static inline uint32_t af_cell_phase(const struct af_client *client, af_off cell) {
  return (uint32_t)(atomic_load_explicit(&AF_AT(client, struct af_cell, cell)->state, memory_order_acquire) & 0xff);
}

/* Between cell.c, follow.c, retry.c and coroner.c. */
/* By whoever made the cell DONE, or its coroner, last: its references are dropped, unless a return cell may still have
 * to be found through them, or they are pinned. Repeatable. */
void af_cell_let_go(struct af_client *client, af_off cell);
/* A process (the slot's: its own or the dead's) no longer looks at the references of a call that it had pinned. */
void af_cell_unpin(struct af_client *client, struct af_slot *slot, af_off call);
/* Drops the references of a DONE cell that somebody unpinned last and may not have come to drop. Repeatable. */
void af_cell_unpinned(struct af_client *client, af_off cell);
#define AF_STATE_PHASE 0xffull
static inline uint64_t af_state_of(const struct af_client *client, enum af_phase phase) {
  return (uint64_t)client->epoch << 32 | (uint64_t)client->slot_index << 16 | (uint64_t)phase;
}
/* Coroner: as if the dead client's process had gone on: wakes, rings and serves the followers of a DONE cell. */
void af_cell_finish(struct af_client *client, af_off cell);
/* Moves a waiting call's entry on: to the list of its next unfinished argument, or to where its reader finds it. The
 * entry's count goes along. */
void af_cell_advance(struct af_client *client, af_off entry);
/* Settles the cell itself, without waking and serving. Owed afterwards: af_cell_finish. AF_BUSY as af_cell_fail. */
int af_cell_settle(struct af_client *client, af_off cell, uint64_t expected_state, af_off error, uint8_t format);
/* An entry that stands for the call (count 1, the caller's). */
int af_cell_entry(struct af_client *client, af_off call, af_off *entry);
/* Moves the entry's call from STARTED by `slot`, `epoch` to UNREAD, one attempt later, and the entry to where its reader
 * finds it. The entry's count passes on. */
void af_cell_redeliver(struct af_client *client, af_off entry, uint32_t slot, uint32_t epoch);
/* Links an entry to the cell's followers; the entry's count passes to the list. False: the list is closed. */
bool af_cell_link(struct af_client *client, af_off cell, af_off entry);
#endif
