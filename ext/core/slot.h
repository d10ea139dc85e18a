/* slot.h - client slots: who is attached, what each was doing, and which blocks each holds.
 *
 * Purpose: whatever a process owes the others is written in its slot, so that the coroner can settle it.
 * States: FREE -> RESERVED (node, or a parent about to fork) -> LIVE (its process) -> DEAD (coroner) -> FREE, epoch + 1.
 * Epochs start at 1; (slot, 0) names nobody.
 * Guarantees: (slot, epoch) names one process for the life of the segment.
 * Who writes: `owner` as above, by compare-and-swap. Line 1 the slot's own process only. Line 2 as said at each field.
 * A crash leaves: the slot LIVE; the node sees the death by pidfd and calls af_coroner_settle (coroner.h). */
#ifndef AF_SLOT_H
#define AF_SLOT_H
#include "af.h"

enum af_slot_state { AF_SLOT_FREE = 0, AF_SLOT_RESERVED, AF_SLOT_LIVE, AF_SLOT_DEAD };
enum af_role { AF_ROLE_NODE = 0, AF_ROLE_DRIVER, AF_ROLE_WORKER, AF_ROLE_FORK };
#define AF_BOARDS 8 /* chains of them: board n is in chain n % AF_BOARDS, n / AF_BOARDS links down (wait.h) */

struct af_slot {
  _Atomic uint64_t owner; /* [63:32] epoch, [31:8] while a slot is filled in: slot + 1 of who reserves it, [7:0] enum
                           * af_slot_state */
  uint32_t pid;
  uint32_t role;          /* enum af_role */
  uint32_t job;
  uint32_t parent;        /* slot index + 1 of the process that forked this one, 0: none */
  _Atomic af_off holds;   /* first AF_KIND_HOLDS chunk */
  _Atomic af_off boards[AF_BOARDS]; /* counted; they stay for the slot's next process, so that a late ring meets a board */
  /* own process; read by coroner and audit */
  _Alignas(AF_LINE) _Atomic uint32_t op; /* non-zero: inside a core operation (its number) */
  _Atomic uint32_t op_generation; /* of op_dependent */
  _Atomic uint64_t op_cell;       /* cell that is being completed; DONE by this (slot, epoch): its followers are served */
  _Atomic uint64_t op_pending;    /* further cells made DONE on the way and not yet served: list through block.next */
  _Atomic uint64_t op_dependent;  /* call that is being sent, moved on or made ready; not counted; low bit: AF_PINNED */
  _Atomic uint64_t hold_ops;      /* counts every change of a hold: the audit's sequence */
  _Atomic uint64_t running;       /* call that user code is in; cell offset (main thread) */
  _Atomic uint64_t serving;       /* task queue (mailbox) being read, 0: none */
  _Atomic uint32_t token;         /* 1: counted in serving->active */
  _Atomic uint32_t blocked;       /* 1: waits inside a call */
  _Atomic uint32_t stepping;      /* 1: in a step of a compiled graph (main thread of a sync actor) */
  _Atomic uint32_t yielding;      /* hint: 1: spins, and lets others have its CPU just now; see crowd.h */
  /* node -> process */
  _Alignas(AF_LINE) _Atomic uint32_t leave; /* node, or the process itself: 1: leave the task queue after this task; the
                                           * process clears it */
  _Atomic uint32_t marks;         /* own process: odd while serving, token, blocked and the mailbox' sums of them change */
  _Atomic uint64_t waits;         /* own process: what it waits for, 0: nothing; see deadlock.h */
  _Atomic uint64_t asleep;        /* own process: mailbox among whose sleepers it is counted, 0: none */
};

/* A piece of a hold table (AF_KIND_HOLDS). The first is of AF_HOLDS_FIRST bytes, the others of AF_HOLDS_NEXT. */
#define AF_HOLDS_FIRST 512u
#define AF_HOLDS_NEXT 32768u
struct af_holds {
  struct af_block block;
  _Atomic af_off next_chunk;
  uint32_t capacity, reserved;
  _Atomic af_off entries[]; /* 0: free. Own process; a parent before fork; the coroner after death */
};

static inline struct af_slot *af_slot_at(const struct af_client *client, uint32_t index);

/* Operations. Everything that changes a count, or who has it, lies between begin and end; they nest, the outermost
 * counts. A process that dies inside one leaves `op` set, and the coroner recounts; one that dies outside leaves no
 * count without a holder. Therefore a count that is not yet recorded (a new block, a call just taken) is carried to its
 * hold INSIDE one operation of the caller's: between two operations the recount takes it for lost. */
static inline uint32_t af_op_begin(struct af_client *client, uint32_t number); /* returns what af_op_end is given */
static inline void af_op_end(struct af_client *client, uint32_t outer);
/* Reserves a free slot (any process: the node for others, a parent before fork). AF_FULL when none. */
int af_slot_reserve(struct af_client *client, uint32_t role, uint32_t job, uint32_t *index, uint32_t *epoch);
/* Makes `client` (mapped) the process of a RESERVED slot of that epoch: LIVE, pid written. AF_STALE otherwise. */
int af_slot_claim(struct af_client *client, uint32_t index, uint32_t epoch);
/* Gives a slot back that was reserved and never claimed, and drops what a fork has copied into it. Nothing while the
 * parent is still at that: to be called again. */
void af_slot_unreserve(struct af_client *client, uint32_t index, uint32_t epoch);
/* Coroner: of the slots that the process of slot `reserver` was reserving when it died. */
void af_slot_unreserve_unfilled(struct af_client *client, uint32_t reserver);
bool af_slot_is(const struct af_client *client, uint32_t index, uint32_t epoch); /* LIVE with that epoch */
/* This process leaves in order: drops every hold, frees boards and hold table, returns its spans; then the slot is FREE.
 * Lanes are closed before (af_lane_close). */
void af_slot_release(struct af_client *client);
/* Drops every hold of a slot and frees its hold table: of the own one, of the dead, of a fork that failed. Repeatable.
 * Returns how many. */
uint32_t af_slot_drop_holds(struct af_client *client, uint32_t index);
/* The same with the client's own table, which then begins anew: holds may be recorded again. */
void af_slot_clear_holds(struct af_client *client);

/* Holds. An index into the hold table stands for one counted reference of this process. */
/* Records a hold whose count the caller already owns (allocation, or af_block_hold before). AF_FULL: no room. */
int af_hold_record(struct af_client *client, af_off block, uint32_t *index);
/* Counts and records. */
int af_hold_take(struct af_client *client, af_off block, uint32_t *index);
/* Forgets the record, then drops the count (may free the block). */
void af_hold_drop(struct af_client *client, uint32_t index);
/* Forgets the record and keeps the count: it has passed to someone else. */
void af_hold_forget(struct af_client *client, uint32_t index);
af_off af_hold_block(const struct af_client *client, uint32_t index);

/* fork by user code. Before: reserves a slot and copies every hold of this process into it (counted); same indices.
 * In the child: the client becomes that slot's; arenas, lanes and boards start empty. In the parent: nothing, or
 * af_fork_abandon when fork failed. */
int af_fork_prepare(struct af_client *client, uint32_t *index, uint32_t *epoch);
int af_fork_child(struct af_client *client, uint32_t index, uint32_t epoch);
void af_fork_abandon(struct af_client *client, uint32_t index, uint32_t epoch);

#include "segment.h"
static inline struct af_slot *af_slot_at(const struct af_client *client, uint32_t index) {
  return AF_AT(client, struct af_slot, client->header->slots) + index;
}
static inline uint64_t af_slot_word(uint32_t epoch, enum af_slot_state state) {
  return (uint64_t)epoch << 32 | (uint64_t)state;
}
static inline enum af_slot_state af_slot_state_of(uint64_t owner) { return (enum af_slot_state)(owner & 0xff); }
static inline uint32_t af_slot_epoch_of(uint64_t owner) { return (uint32_t)(owner >> 32); }

void af_op_wait(struct af_client *client, uint32_t number); /* until the recount is over; then op is set */

/* Stores after it are seen no earlier than stores before it. On x86-64 no instruction. The thread sanitizer knows no
 * fences; nothing but the recount's proof rests on this one. */
static inline void af_fence_release(void) {
#ifdef __SANITIZE_THREAD__
  atomic_signal_fence(memory_order_release);
#else
  atomic_thread_fence(memory_order_release);
#endif
}
/* SYNC POINT op: the fence and the release below pair with the recount's acquire: what it read of an operation, it
 * also sees in `op` or `hold_ops`. */
static inline uint32_t af_op_begin(struct af_client *client, uint32_t number) {
  struct af_slot *slot = client->slot;
  uint32_t outer = atomic_load_explicit(&slot->op, memory_order_relaxed);
  if (outer != 0)
    return outer;
  atomic_store_explicit(&slot->op, number, memory_order_relaxed);
  af_fence_release();
  if (__builtin_expect(atomic_load_explicit(&client->header->frozen, memory_order_relaxed) != 0, 0))
    af_op_wait(client, number);
  return 0;
}
static inline void af_op_end(struct af_client *client, uint32_t outer) {
  struct af_slot *slot = client->slot;
  if (outer != 0)
    return;
  uint64_t ops = atomic_load_explicit(&slot->hold_ops, memory_order_relaxed);
  atomic_store_explicit(&slot->hold_ops, ops + 1, memory_order_release);
  atomic_store_explicit(&slot->op, 0, memory_order_release);
}
#endif
