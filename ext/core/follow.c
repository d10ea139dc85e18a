/* follow.c - followers of cells: calls that wait for their arguments, further watchers, and how they are served. See
 * cell.h.
 *
 * Serving never recurses: a call that cannot be delivered (its mailbox is closed) is settled on the spot, and what
 * follows it is served later from op_pending. */
#include "block.h"
#include "cell.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}
static _Atomic af_off *next_of(const struct af_client *client, af_off entry) {
  return &AF_AT(client, struct af_block, entry)->next;
}

void af_cell_on_its_way(struct af_client *client, af_off cell) {
  struct af_slot *slot = client->slot;
  if (cell != 0)
    atomic_store_explicit(&slot->op_generation, cell_at(client, cell)->block.generation, memory_order_relaxed);
  atomic_store_explicit(&slot->op_dependent, cell, memory_order_release);
}

bool af_cell_link(struct af_client *client, af_off cell, af_off entry) {
  struct af_cell *of = cell_at(client, cell);
  af_off first = atomic_load_explicit(&of->followers, memory_order_acquire);
  do {
    if (first & AF_FOLLOWERS_CLOSED)
      return false;
    atomic_store_explicit(next_of(client, entry), first, memory_order_relaxed);
  } while (!atomic_compare_exchange_weak_explicit(&of->followers, &first, entry, memory_order_release,
                                                  memory_order_acquire)); /* SYNC POINT followers */
  AF_POINT(client, 750);
  return true;
}

/* ---- settling without a result ---- */

/* Takes the cell for this client, so that only one settles it. Marked: its coroner is not to have it run. */
static int settle_claim(struct af_client *client, struct af_cell *of, uint64_t expected_state) {
  uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
  for (;;) {
    uint64_t phase = state & AF_STATE_PHASE, sleeper = state & AF_STATE_SLEEPER;
    if (expected_state == 0 ? phase == AF_STARTED || phase == AF_DONE
                            : ((state ^ expected_state) & ~(uint64_t)AF_STATE_SLEEPER) != 0)
      return AF_BUSY;
    if (atomic_compare_exchange_weak_explicit(&of->state, &state, af_state_of(client, AF_STARTED) | AF_STATE_CLAIMED | sleeper,
                                              memory_order_acq_rel, memory_order_acquire))
      return AF_OK;
  }
}

static void pending_push(struct af_client *client, af_off entry) {
  struct af_slot *slot = client->slot;
  atomic_store_explicit(next_of(client, entry), atomic_load_explicit(&slot->op_pending, memory_order_relaxed),
                        memory_order_relaxed);
  atomic_store_explicit(&slot->op_pending, entry, memory_order_release);
}

static void settle_claimed(struct af_client *client, struct af_cell *of, af_off error, uint8_t format) {
  if (error != 0) {
    af_block_hold(client, error);
    AF_POINT(client, 751);
    of->value_bytes = (uint32_t)AF_AT(client, struct af_object, error)->bytes;
  } else
    of->value_bytes = 0;
  of->value = error;
  of->value_refs = 0;
  of->value_format = format;
  AF_POINT(client, 752);
  uint64_t sleeper = atomic_load_explicit(&of->state, memory_order_relaxed) & AF_STATE_SLEEPER;
  uint64_t own = af_state_of(client, AF_STARTED) | AF_STATE_CLAIMED | sleeper;
  while (!atomic_compare_exchange_weak_explicit(&of->state, &own,
                                                af_state_of(client, AF_DONE) | (own & AF_STATE_SLEEPER),
                                                memory_order_seq_cst, memory_order_relaxed)) /* SYNC POINT cell-done */
    ;
  AF_POINT(client, 753);
}

/* A call's further results will not come either. They are served after the call, from op_pending. */
static void settle_returns(struct af_client *client, af_off cell, af_off error, uint8_t format) {
  struct af_cell *of = cell_at(client, cell);
  const af_off *references = af_cell_references(client, cell);
  uint32_t returns = of->returns < of->references ? of->returns : of->references;
  for (uint32_t i = of->references - returns; i < of->references; i++) {
    af_off result = references[i];
    if (result == 0 || settle_claim(client, cell_at(client, result), 0) != AF_OK)
      continue;
    AF_POINT(client, 754);
    settle_claimed(client, cell_at(client, result), error, format);
    af_block_hold(client, result);
    AF_POINT(client, 755);
    pending_push(client, result);
  }
}

/* An ordered call that waited may hold back its lane. Its references, the mailbox among them, are there until it has a
 * result, or is settled. */
static void lane_release(struct af_client *client, const struct af_cell *of) {
  if (of->place != 0 && of->references > 0)
    af_mailbox_mail(client, of->mailbox, of->place);
}

/* Result cells first: while the call is only claimed, the coroner of this process finds them through it. */
int af_cell_settle(struct af_client *client, af_off cell, uint64_t expected_state, af_off error, uint8_t format) {
  struct af_cell *of = cell_at(client, cell);
  if (settle_claim(client, of, expected_state) != AF_OK)
    return AF_BUSY;
  AF_POINT(client, 756);
  lane_release(client, of);
  settle_returns(client, cell, error, format);
  settle_claimed(client, of, error, format);
  return AF_OK;
}

/* ---- calls that follow ---- */

/* Waiting -> unread. False: it is settled already. True also when another entry of the same call was first: then
 * whoever did it may have died before the call got to its reader. */
static bool make_unread(struct af_cell *call) {
  uint64_t state = atomic_load_explicit(&call->state, memory_order_acquire);
  while ((state & AF_STATE_PHASE) == AF_WAITING)
    if (atomic_compare_exchange_weak_explicit(&call->state, &state,
                                              (state & ~AF_STATE_PHASE) | AF_UNREAD,
                                              memory_order_seq_cst, memory_order_acquire)) /* SYNC POINT lane-rest */
      return true;
  return (state & AF_STATE_PHASE) == AF_UNREAD;
}

/* The mailbox is closed: nobody would read the call. The entry goes to op_pending, with its count. */
static void deliver_closed(struct af_client *client, struct af_mailbox *mailbox, af_off entry) {
  af_off call = af_entry_call(client, entry);
  if (af_cell_settle(client, call, 0, mailbox->error, (uint8_t)mailbox->error_format) == AF_OK)
    pending_push(client, entry);
  else
    af_block_drop(client, entry);
}

/* To its reader. An ordered call lies in its lane already; a mailbox' first call is asked for by name. */
static void deliver_unread(struct af_client *client, struct af_mailbox *mailbox, af_off entry) {
  af_off call = af_entry_call(client, entry), to = AF_OFF(client, mailbox), place = cell_at(client, call)->place;
  if (place == 0 && mailbox->first != call) {
    if (!af_mailbox_ready(client, to, entry))
      deliver_closed(client, mailbox, entry);
    return;
  }
  if (place != 0)
    af_mailbox_mail(client, to, place);
  else
    af_mailbox_ring(client, to);
  AF_POINT(client, 762);
  af_block_drop(client, entry);
}

/* The mailbox is counted, and discounted here: the call that kept it may be over before its bell is rung. */
static void deliver(struct af_client *client, af_off entry, af_off mailbox) {
  if (make_unread(cell_at(client, af_entry_call(client, entry)))) {
    AF_POINT(client, 761);
    deliver_unread(client, AF_AT(client, struct af_mailbox, mailbox), entry);
  } else
    af_block_drop(client, entry);
  af_cell_on_its_way(client, 0);
  AF_POINT(client, 763);
  af_block_drop(client, mailbox);
}

void af_cell_unpin(struct af_client *client, struct af_slot *slot, af_off call) {
  struct af_cell *of = cell_at(client, call);
  atomic_store_explicit(&slot->op_dependent, call, memory_order_release);
  if (atomic_fetch_sub_explicit(&of->pinned, 1, memory_order_seq_cst) & AF_PINS_OVER) /* SYNC POINT pin */
    af_cell_unpinned(client, call);
}

/* False: the call has started or is settled, so that what it refers to may be gone. */
static bool references_pin(struct af_client *client, af_off call) {
  struct af_cell *of = cell_at(client, call);
  atomic_fetch_add_explicit(&of->pinned, 1, memory_order_seq_cst); /* SYNC POINT pin */
  AF_POINT(client, 758);
  atomic_store_explicit(&client->slot->op_dependent, call | AF_PINNED, memory_order_release);
  AF_POINT(client, 759);
  uint64_t phase = atomic_load_explicit(&of->state, memory_order_seq_cst) & AF_STATE_PHASE;
  if (phase == AF_WAITING || phase == AF_UNREAD)
    return true;
  af_cell_unpin(client, client->slot, call);
  return false;
}

/* What the call needs next, counted: an argument that is not done, or (*ready) its mailbox. 0: nothing any more. */
static af_off next_needed(struct af_client *client, af_off call, bool *ready) {
  struct af_cell *of = cell_at(client, call);
  const af_off *references = af_cell_references(client, call);
  if (!references_pin(client, call))
    return 0;
  uint32_t i = atomic_load_explicit(&of->next_argument, memory_order_relaxed);
  while (i < of->arguments && af_cell_is_done(client, references[i]))
    i++;
  *ready = i == of->arguments;
  if (!*ready)
    atomic_store_explicit(&of->next_argument, i, memory_order_relaxed);
  af_off needed = *ready ? of->mailbox : references[i];
  af_block_hold(client, needed);
  AF_POINT(client, 757);
  af_cell_unpin(client, client->slot, call);
  AF_POINT(client, 760);
  return needed;
}

/* To the list of the next unfinished argument, or to its reader. One that is cancelled follows nothing any more. */
static void entry_advance(struct af_client *client, af_off entry) {
  af_off needed, call = af_entry_call(client, entry);
  bool ready = false;
  while ((needed = next_needed(client, call, &ready)) != 0) {
    if (ready) {
      deliver(client, entry, needed);
      return;
    }
    bool linked = af_cell_link(client, needed, entry);
    if (linked)
      af_cell_on_its_way(client, 0);
    af_block_drop(client, needed);
    if (linked)
      return;
  }
  af_cell_on_its_way(client, 0);
  af_block_drop(client, entry);
}

/* ---- serving ---- */

/* An entry is served, or named by op_dependent, before it leaves the list. */
static void followers_serve(struct af_client *client, af_off cell) {
  struct af_cell *of = cell_at(client, cell);
  af_off entry;
  if (atomic_fetch_or_explicit(&of->followers, AF_FOLLOWERS_CLOSED, memory_order_acq_rel) == 0)
    return; /* SYNC POINT followers */
  while ((entry = af_cell_followers(client, cell)) != 0) {
    af_off call = af_entry_call(client, entry);
    af_off next = atomic_load_explicit(next_of(client, entry), memory_order_relaxed);
    if (call == 0)
      af_ring(client, atomic_load_explicit(&AF_AT(client, struct af_follower, entry)->watch,
                                           memory_order_seq_cst)); /* SYNC POINT cell-watch */
    else
      af_cell_on_its_way(client, call);
    AF_POINT(client, 743);
    atomic_store_explicit(&of->followers, next | AF_FOLLOWERS_CLOSED, memory_order_release);
    AF_POINT(client, 744);
    if (call == 0)
      af_block_drop(client, entry);
    else
      entry_advance(client, entry);
  }
}

static void finish_one(struct af_client *client, af_off cell) {
  struct af_cell *of = cell_at(client, cell);
  if (atomic_load_explicit(&of->state, memory_order_relaxed) & AF_STATE_SLEEPER)
    af_futex_wake((_Atomic uint32_t *)(void *)&of->state, UINT32_MAX);
  af_watch watch = atomic_load_explicit(&of->watch, memory_order_seq_cst); /* SYNC POINT cell-watch */
  if (watch != 0)
    af_ring(client, watch);
  AF_POINT(client, 742);
  followers_serve(client, cell);
  af_cell_let_go(client, cell);
}

/* Calls settled on the way. What is served here may put more on top; an entry is then finished once more, and there is
 * nothing left to do for it. */
static void pending_finish(struct af_client *client) {
  struct af_slot *slot = client->slot;
  af_off entry;
  while ((entry = atomic_load_explicit(&slot->op_pending, memory_order_relaxed)) != 0) {
    finish_one(client, af_entry_call(client, entry));
    AF_POINT(client, 745);
    if (atomic_load_explicit(&slot->op_pending, memory_order_relaxed) != entry)
      continue;
    atomic_store_explicit(&slot->op_pending, atomic_load_explicit(next_of(client, entry), memory_order_relaxed),
                          memory_order_release);
    AF_POINT(client, 746);
    af_block_drop(client, entry);
  }
}

void af_cell_finish(struct af_client *client, af_off cell) {
  finish_one(client, cell);
  pending_finish(client);
}

void af_cell_advance(struct af_client *client, af_off entry) {
  entry_advance(client, entry);
  pending_finish(client);
}
