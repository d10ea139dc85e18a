/* slot.h - client slots: who is attached, what each was doing, and which blocks each holds.
 *
 * Purpose: whatever a process owes the others is written in its slot, so that the coroner can settle it.
 * States: FREE -> RESERVED (node, or a parent about to fork) -> LIVE (its process) -> DEAD (coroner) -> FREE, epoch + 1.
 * Guarantees: (slot, epoch) names one process for the life of the segment.
 * Who writes: `owner` as above, by compare-and-swap. Line 1 the slot's own process only. Line 2 as said at each field.
 * A crash leaves: the slot LIVE; the node sees the death by pidfd and calls af_coroner_settle (coroner.h). */
#ifndef AF_SLOT_H
#define AF_SLOT_H
#include "af.h"

enum af_slot_state { AF_SLOT_FREE = 0, AF_SLOT_RESERVED, AF_SLOT_LIVE, AF_SLOT_DEAD };
enum af_role { AF_ROLE_NODE = 0, AF_ROLE_DRIVER, AF_ROLE_WORKER, AF_ROLE_FORK };
#define AF_BOARDS 8

struct af_slot {
  _Atomic uint64_t owner; /* [63:32] epoch, [7:0] enum af_slot_state */
  uint32_t pid;
  uint32_t role;          /* enum af_role */
  uint32_t job;
  uint32_t parent;        /* slot index + 1 of the process that forked this one, 0: none */
  af_off holds;           /* first AF_KIND_HOLDS chunk */
  _Atomic af_off boards[AF_BOARDS];
  /* own process; read by coroner and audit */
  _Alignas(AF_LINE) _Atomic uint32_t op; /* non-zero: inside a core operation (its number) */
  uint32_t op_reserved;
  _Atomic uint64_t op_cell;       /* cell that is being completed, or dependent being moved on */
  _Atomic uint64_t op_lane;       /* lane that a ready dependent is being pushed to */
  _Atomic uint64_t op_pushed;     /* that lane's `pushed` before */
  _Atomic uint64_t hold_ops;      /* counts every change of a hold: the audit's sequence */
  _Atomic uint64_t running;       /* call that user code is in; cell offset (main thread) */
  _Atomic uint64_t serving;       /* task queue (mailbox) being read, 0: none */
  _Atomic uint32_t token;         /* 1: counted in serving->active */
  _Atomic uint32_t blocked;       /* 1: waits inside a call */
  /* node -> process */
  _Alignas(AF_LINE) _Atomic uint32_t leave; /* node: 1: leave the task queue after this task; the process clears it */
  _Atomic uint64_t cancel;        /* reserved: call to interrupt */
};

static inline struct af_slot *af_slot_at(const struct af_client *client, uint32_t index);
/* Reserves a free slot (any process: the node for others, a parent before fork). AF_FULL when none. */
int af_slot_reserve(struct af_client *client, uint32_t role, uint32_t job, uint32_t *index, uint32_t *epoch);
/* Makes `client` (mapped) the process of a RESERVED slot of that epoch: LIVE, pid written. AF_STALE otherwise. */
int af_slot_claim(struct af_client *client, uint32_t index, uint32_t epoch);
/* Gives a slot back that was reserved and never claimed. */
void af_slot_unreserve(struct af_client *client, uint32_t index, uint32_t epoch);
bool af_slot_is(const struct af_client *client, uint32_t index, uint32_t epoch); /* LIVE with that epoch */
/* This process leaves in order: drops every hold, frees boards and hold table, returns its spans. */
void af_slot_release(struct af_client *client);

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
#endif
