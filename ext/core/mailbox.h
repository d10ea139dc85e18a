/* mailbox.h - mailboxes and their lanes: how calls travel.
 *
 * A mailbox belongs to an actor, to one shape of tasks of a job, or to the node; not to the process that reads it.
 * It has one lane per caller (and nesting depth): a queue with a single writer, in chunks of block offsets. A push is:
 * place the offset, publish `pushed` (release), set the lane's mail bit, wake a reader. Nobody waits for a writer, so a
 * writer killed or stopped anywhere harms nobody.
 * Readers: one (actor: no lock) or several (task queue: reader lock). Deepest lanes first, then in turn.
 * Calls whose arguments became ready later (unordered mailboxes), and those that are run again, come over the `ready` list: whoever made one ready
 * links it there through its own block.next, so that needs no memory, no lane and no credit. Any process pushes; only
 * the reader pops, so there is no ABA; it turns the list round into `queue`, first ready first read.
 * Credit: a lane holds at most `credit` unread calls; its writer waits on lane->room (futex).
 * Waking: of several idle readers one spins (`spinner`), the others sleep on `bell`; a push wakes one sleeper only when
 * nobody spins; a reader that takes a call and sees more mail wakes the next one (so a burst wakes one after another).
 * If there is nobody to wake, the node's bell is rung (once, until the node arms it again).
 *
 * Who writes: lane.tail_*, pushed: its writer. lane.head_*, taken: reader (under the lock). lane.orphan: coroner.
 *   page.lanes: writers by CAS from 0; reader sets 0 when it frees an orphan's empty lane.
 *   page.mail: anyone fetch_or; reader clears, then looks again. closed: node. allowed/active: see below.
 *   ready: anyone by CAS; reader takes its head off. queue: reader.
 * A crash leaves: writer: a call that is published or not, never half; a chunk or lane not yet linked (recount frees it).
 *   reader: the reader lock (coroner clears it), an entry taken and not yet advanced (the cell's state tells: the next
 *   reader skips what is not UNREAD), an entry between `ready` and `queue` (op_dependent), its marks in executing, readers
 *   and blocked (the coroner counts them again from the slots). A stopped reader that holds the lock over a limit is
 *   killed by the node first.
 * SYNC POINT lane-push: writer's release of `pushed`, reader's acquire. */
#ifndef AF_MAILBOX_H
#define AF_MAILBOX_H
#include "af.h"

#define AF_PAGE_LANES 48u
#define AF_WAKING UINT64_MAX            /* value of spinner: a sleeper was woken and has not yet looked */
struct af_lane_page { /* in the mailbox, and in blocks of kind AF_KIND_LANES */
  _Atomic uint64_t mail;              /* bit i: lane i may have mail (hint that errs towards 1) */
  _Atomic af_off next;                /* further page (AF_KIND_LANES block); owned */
  _Atomic af_off lanes[AF_PAGE_LANES];/* owned */
  _Atomic uint8_t depth[AF_PAGE_LANES];
};
struct af_lanes_block { struct af_block block; _Alignas(AF_LINE) struct af_lane_page page; };

enum af_mailbox_flag {
  AF_MAILBOX_ORDERED = 1, /* an unready call holds back its lane (sync actors) */
  AF_MAILBOX_SHARED = 2,  /* several readers: reader lock, allowed/active */
};
struct af_mailbox {
  struct af_block block;              /* block.flags: enum af_mailbox_flag */
  uint32_t job, credit;               /* credit: unread calls per lane */
  af_off first;                       /* owned: the call that runs first (an actor's constructor), or 0 */
  uint64_t user;                      /* node's own number for it */
  af_off error;                       /* owned: what calls are settled with after `closed`; written before that */
  uint32_t error_format;
  _Alignas(AF_LINE) _Atomic uint32_t closed;   /* 1: pushes give AF_CLOSED */
  _Atomic uint32_t bell;              /* futex word of sleeping readers */
  _Atomic uint32_t sleepers;          /* hint */
  _Atomic uint32_t abandoned;         /* 1: no handle is left (set when the AF_KIND_ACTOR block is freed) */
  _Atomic uint64_t spinner;           /* hint: 0, slot + 1 of the reader that spins, AF_WAKING: a sleeper was woken */
  _Atomic af_watch listener;          /* a loop that reads this mailbox; rung on push */
  _Atomic af_watch node_bell;         /* rung, and set to 0, when a push finds no reader to wake */
  _Alignas(AF_LINE) _Atomic uint64_t lock;     /* 0 or (epoch << 32 | slot + 1) of the reader that holds it */
  _Atomic uint64_t locked_ns;
  _Atomic uint64_t executing;         /* SHARED: [63:32] allowed (node), [31:0] active (readers); one CAS word */
  _Atomic uint32_t readers, blocked;  /* SHARED: serving now; of these waiting inside a call */
  uint32_t turn;                      /* reader: lane after the last one taken */
  uint32_t queue_turn;                /* reader: 1: the last one came from `queue` */
  _Atomic af_off queue;               /* reader; owned list: ready calls in order */
  _Alignas(AF_LINE) _Atomic af_off ready; /* owned list: calls that became ready, last one first; low bit:
                                       * closed (AF_FOLLOWERS_CLOSED) */
  _Atomic uint32_t ready_count;       /* hint: how many are in ready and queue */
  _Alignas(AF_LINE) struct af_lane_page page;
};
struct af_lane {
  struct af_block block;
  uint32_t slot, epoch;               /* writer */
  af_off mailbox;                     /* not counted: the lane is owned by it */
  af_off page;                        /* its place: struct af_lane_page and bit; not counted */
  uint32_t index;
  uint16_t depth, reserved;
  uint32_t credit;
  _Atomic uint32_t orphan;            /* 1: writer is gone; the reader frees the lane once it is empty */
  _Atomic uint32_t room;              /* futex word: 1: the writer waits for room */
  _Alignas(AF_LINE) af_off tail_chunk;/* writer */
  uint64_t taken_seen;
  _Atomic uint64_t pushed;
  _Alignas(AF_LINE) af_off head_chunk;/* reader; the lane owns the chain from here */
  _Atomic uint64_t taken;
};
struct af_chunk {
  struct af_block block;
  _Atomic af_off next_chunk;          /* owned by the lane, as all of the chain */
  uint64_t first;                     /* number of entries[0]: the lane's entry n lies at entries[n - first] */
  uint64_t capacity;
  af_off entries[];                   /* owned by the lane from `taken` to `pushed` */
};
struct af_actor { struct af_block block; uint64_t reserved; af_off mailbox; /* owned */ uint64_t user; };

int af_mailbox_create(struct af_client *client, uint8_t flags, uint32_t job, uint32_t credit, af_off *mailbox);
int af_actor_create(struct af_client *client, af_off mailbox, af_off *actor); /* holds the mailbox */
/* This client's lane to a mailbox: finds none, makes one. The caller keeps the offset (private) and must hold the
 * mailbox while it uses it. AF_FULL, AF_CLOSED. */
int af_lane_open(struct af_client *client, af_off mailbox, uint16_t depth, af_off *lane);
/* Pushes a call that the caller holds; the lane counts its own hold. AF_FULL: no credit (or no memory), AF_CLOSED. A
 * push that meets a close midway settles the call with the mailbox' error: AF_OK. */
int af_lane_push(struct af_client *client, af_off lane, af_off cell);
/* Waits for credit: AF_OK: try again, AF_TIMEOUT, AF_INTERRUPTED. [no GIL] */
int af_lane_wait_room(struct af_client *client, af_off lane, uint64_t timeout_ns);
/* This client will not push there again: an orphan's lane. */
void af_lane_close(struct af_client *client, af_off lane);

/* Takes the next call that can start: cell STARTED by this client; its hold is recorded and handed to the caller.
 * AF_EMPTY: nothing that can start (SHARED: or active >= allowed); AF_CLOSED: closed and empty; AF_BUSY: another reader
 * holds the lock; AF_BAD: its mail bits are garbage. An unready call of an unordered mailbox is not met here: it is not in a lane until it is ready. */
int af_mailbox_take(struct af_client *client, af_off mailbox, af_off *cell, uint32_t *hold);
/* Something to take? A cheap look at the mail bits. [no GIL] */
bool af_mailbox_has_mail(const struct af_client *client, af_off mailbox);
/* Reader: spins then sleeps until there may be mail; one spinner. AF_OK, AF_TIMEOUT (after timeout_ns or
 * AF_IDLE_SLEEP_NS), AF_INTERRUPTED. [no GIL] A wake is lost only with the process that owed it, and then the coroner
 * rings every mailbox that has mail; so a reader that was idle for a while may sleep longer than others. */
int af_mailbox_wait(struct af_client *client, af_off mailbox, uint64_t spin_ns, uint64_t timeout_ns);
/* Has every reader that waits look at once, also at whether it is to end: the mailbox is abandoned or closed, or the
 * reader is to leave. */
void af_mailbox_rouse(struct af_client *client, af_off mailbox);
/* SHARED: this reader is about to publish its task's result and will be back at once: until it has looked, pushes leave
 * the sleepers alone. Returned: it has looked, or will not come. */
void af_mailbox_return(struct af_client *client);
void af_mailbox_returned(struct af_client *client, struct af_mailbox *mailbox);
/* SHARED: this reader joins or leaves; ends a task; begins and ends a blocking wait inside a call. Several threads of it
 * may wait: capacity is given back by the first and taken again when none waits any more, so that what each waits for can
 * run. `call` is what `block` gave: which call it was inside, for a thread that outlives it; 0: none. */
void af_mailbox_join(struct af_client *client, af_off mailbox);
void af_mailbox_leave(struct af_client *client, af_off mailbox);
void af_mailbox_task_done(struct af_client *client);
uint64_t af_mailbox_block(struct af_client *client);
void af_mailbox_unblock(struct af_client *client, uint64_t call);
/* Node: sets allowed; lowering goes no lower than active now. Returns what is allowed after it. */
uint32_t af_mailbox_allow(struct af_client *node, af_off mailbox, uint32_t allowed);
struct af_mailbox_facts { uint64_t depth; uint32_t allowed, active, readers, blocked, sleepers, closed, abandoned, lanes; };
void af_mailbox_facts(const struct af_client *client, af_off mailbox, struct af_mailbox_facts *facts);
/* Node: no more pushes; each unread or waiting call in it is settled with the value `error` (held by each and by the
 * mailbox, which settles later arrivals too). A mailbox that is not SHARED: its reader must have ended. AF_BUSY: a reader
 * holds the lock; call again. */
int af_mailbox_close(struct af_client *node, af_off mailbox, af_off error, uint8_t format);
/* Puts a call that became ready into an unordered mailbox; the caller's count of the entry (the cell, or an
 * AF_KIND_FOLLOWER whose dependent it is) passes to the list. False: closed. */
bool af_mailbox_ready(struct af_client *client, af_off mailbox, af_off entry);
/* Sets a lane's mail bit and wakes a reader. `place`: its page | bit, as kept in an ordered call (struct af_cell). */
void af_mailbox_mail(struct af_client *client, af_off mailbox, af_off place);
/* Coroner: counts readers, blocked and active again from the slots. AF_BUSY: they moved all the time; try again. */
int af_mailbox_recount(struct af_client *node, af_off mailbox);
void af_mailbox_ring(struct af_client *client, af_off mailbox); /* wakes a reader, as a push does */

static inline bool af_mailbox_is_shared(const struct af_mailbox *mailbox) {
  return mailbox->block.flags & AF_MAILBOX_SHARED;
}
/* First of the ready list, whether closed or not. */
static inline af_off af_mailbox_ready_first(af_off ready) { return ready & ~(af_off)1; }
/* Whether a take could succeed now; a closed mailbox lets its reader through, to be told so. [no GIL] */
bool af_mailbox_may_take(const struct af_client *client, af_off mailbox);

/* Between reader.c, lane.c, capacity.c and mailbox.c. The lane functions: for the reader that holds the lock. */
/* The lane's next call, or 0 when it has none. */
af_off af_lane_head(struct af_client *client, af_off lane);
/* Steps over the head `cell`: drops the lane's count of it, frees a chunk that is through, tells a writer that waits. */
void af_lane_advance(struct af_client *client, af_off lane, af_off cell);
/* SHARED: one more, one less that executes; marked in the own slot. False: as many as allowed already. */
bool af_capacity_take(struct af_client *client, struct af_mailbox *mailbox);
void af_capacity_give(struct af_client *client, struct af_mailbox *mailbox);
void af_mailbox_waking_end(struct af_mailbox *mailbox); /* AF_WAKING taken back */
void af_mailbox_node_ring(struct af_client *client, struct af_mailbox *mailbox); /* its bell, when armed */
#endif
