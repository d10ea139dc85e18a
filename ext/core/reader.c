/* reader.c - takes the next call that can start, under the reader's lock; closes mailboxes. See mailbox.h. */
#include <sched.h>

#include "block.h"
#include "cell.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

#define CLOSE_TRIES 2000

static struct af_mailbox *mailbox_at(const struct af_client *client, af_off mailbox) {
  return AF_AT(client, struct af_mailbox, mailbox);
}
static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}

/* ---- the lock ---- */

/* The time is written before the lock is taken: a holder stopped right after it is then overdue like any other. */
static int reader_lock(struct af_client *client, struct af_mailbox *mailbox) {
  uint64_t nobody = 0, own = (uint64_t)client->epoch << 32 | (client->slot_index + 1u);
  if (!af_mailbox_is_shared(mailbox))
    return AF_OK;
  if (atomic_load_explicit(&mailbox->lock, memory_order_relaxed) != 0)
    return AF_BUSY;
  atomic_store_explicit(&mailbox->locked_ns, af_now_ns(), memory_order_relaxed);
  AF_POINT(client, 650);
  if (!atomic_compare_exchange_strong_explicit(&mailbox->lock, &nobody, own, memory_order_acquire,
                                               memory_order_relaxed)) /* SYNC POINT reader-lock */
    return AF_BUSY;
  AF_POINT(client, 651);
  return AF_OK;
}

static void reader_unlock(struct af_mailbox *mailbox) {
  if (af_mailbox_is_shared(mailbox))
    atomic_store_explicit(&mailbox->lock, 0, memory_order_seq_cst); /* SYNC POINT reader-lock; and mail: may_take */
}

/* ---- lanes ---- */

struct pick { /* where the next call comes from */
  struct af_lane_page *page;
  uint32_t bit, index; /* of the lane; index counts over all pages */
  int depth;           /* -1: none */
};

/* Deepest first; among equals the one that comes first after the last one taken. AF_BAD: bits of no lane are set. */
static int pick_lane(struct af_client *client, struct af_mailbox *mailbox, struct pick *pick) {
  struct af_lane_page *page = &mailbox->page;
  uint32_t base = 0, best = 0;
  *pick = (struct pick){.depth = -1};
  for (;; base += AF_PAGE_LANES) {
    uint64_t mail = atomic_load_explicit(&page->mail, memory_order_acquire);
    if (mail >> AF_PAGE_LANES != 0)
      return AF_BAD;
    for (; mail != 0; mail &= mail - 1) {
      uint32_t bit = (uint32_t)__builtin_ctzll(mail), distance = base + bit - mailbox->turn;
      int depth = atomic_load_explicit(&page->depth[bit], memory_order_relaxed);
      if (depth > pick->depth || (depth == pick->depth && distance < best)) {
        *pick = (struct pick){page, bit, base + bit, depth};
        best = distance;
      }
    }
    af_off next = atomic_load_explicit(&page->next, memory_order_acquire);
    if (next == 0)
      return AF_OK;
    page = &AF_AT(client, struct af_lanes_block, next)->page;
  }
}

/* Counts and records before the state moves, so that a reader killed here leaves the call unread, or started and in
 * its table. AF_EMPTY: cannot be started any more: it is settled, or another entry was first. */
static int call_start(struct af_client *client, af_off cell, uint32_t *hold) {
  if (af_cell_phase(client, cell) != AF_UNREAD)
    return AF_EMPTY;
  if (af_hold_take(client, cell, hold) != AF_OK)
    return AF_FULL;
  AF_POINT(client, 652);
  if (af_cell_start(client, cell) == AF_OK) {
    AF_POINT(client, 653);
    return AF_OK;
  }
  af_hold_drop(client, *hold);
  return AF_EMPTY;
}

/* Its writer is gone: once empty it is taken off the table. The bit is clear already, so that the place can be used
 * by the next lane at once. */
static void lane_retire(struct af_client *client, struct af_lane_page *page, uint32_t bit, af_off lane) {
  if (!atomic_load_explicit(&AF_AT(client, struct af_lane, lane)->orphan, memory_order_acquire) ||
      af_lane_head(client, lane) != 0)
    return;
  atomic_store_explicit(&page->lanes[bit], 0, memory_order_release);
  AF_POINT(client, 655);
  af_block_drop(client, lane);
}

/* Nothing can be taken from it: it is empty, or its head waits. The bit is cleared first and the reason looked at
 * again: who makes it untrue sets the bit after that. */
static void lane_rest(struct af_client *client, const struct pick *pick, af_off lane, af_off head) {
  struct af_lane *of = AF_AT(client, struct af_lane, lane);
  uint64_t bit = 1ull << pick->bit;
  atomic_fetch_and_explicit(&pick->page->mail, ~bit, memory_order_seq_cst); /* SYNC POINT lane-rest */
  AF_POINT(client, 654);
  bool rests = head == 0 ? atomic_load_explicit(&of->pushed, memory_order_seq_cst) ==
                               atomic_load_explicit(&of->taken, memory_order_relaxed)
                         : (atomic_load_explicit(&cell_at(client, head)->state, memory_order_seq_cst) &
                            AF_STATE_PHASE) == AF_WAITING;
  if (!rests)
    atomic_fetch_or_explicit(&pick->page->mail, bit, memory_order_seq_cst);
  else if (head == 0)
    lane_retire(client, pick->page, pick->bit, lane);
}

/* A bit without a lane: it was set for one that is gone. A new one may come to the place just now. */
static void place_rest(const struct pick *pick) {
  uint64_t bit = 1ull << pick->bit;
  atomic_fetch_and_explicit(&pick->page->mail, ~bit, memory_order_seq_cst);
  if (atomic_load_explicit(&pick->page->lanes[pick->bit], memory_order_seq_cst) != 0)
    atomic_fetch_or_explicit(&pick->page->mail, bit, memory_order_seq_cst);
}

/* AF_EMPTY: nothing there after all (what was in the way is gone: look again). */
static int take_lane(struct af_client *client, struct af_mailbox *mailbox, const struct pick *pick, af_off *cell,
                     uint32_t *hold) {
  af_off lane = atomic_load_explicit(&pick->page->lanes[pick->bit], memory_order_acquire);
  if (lane == 0) {
    place_rest(pick);
    return AF_EMPTY;
  }
  *cell = af_lane_head(client, lane);
  if (*cell == 0 || af_cell_phase(client, *cell) == AF_WAITING) {
    lane_rest(client, pick, lane, *cell);
    return AF_EMPTY;
  }
  int status = call_start(client, *cell, hold);
  if (status != AF_FULL)
    af_lane_advance(client, lane, *cell);
  mailbox->turn = pick->index + 1;
  mailbox->queue_turn = 0;
  return status;
}

/* ---- the ready list ---- */

/* Turns the list round. One that is on neither list when this process dies is named by op_dependent. */
static void queue_fill(struct af_client *client, struct af_mailbox *mailbox) {
  af_off entry, seen = atomic_load_explicit(&mailbox->ready, memory_order_acquire); /* SYNC POINT ready */
  while ((entry = af_mailbox_ready_first(seen)) != 0) {
    struct af_block *link = AF_AT(client, struct af_block, entry);
    af_off next = atomic_load_explicit(&link->next, memory_order_relaxed) | (seen & AF_FOLLOWERS_CLOSED);
    af_cell_on_its_way(client, af_entry_call(client, entry));
    if (!atomic_compare_exchange_weak_explicit(&mailbox->ready, &seen, next, memory_order_acq_rel,
                                               memory_order_acquire))
      continue;
    AF_POINT(client, 656);
    atomic_store_explicit(&link->next, atomic_load_explicit(&mailbox->queue, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&mailbox->queue, entry, memory_order_release);
    AF_POINT(client, 657);
    seen = atomic_load_explicit(&mailbox->ready, memory_order_acquire);
  }
  af_cell_on_its_way(client, 0);
}

static af_off queue_head(struct af_client *client, struct af_mailbox *mailbox) {
  if (atomic_load_explicit(&mailbox->queue, memory_order_relaxed) == 0 &&
      af_mailbox_ready_first(atomic_load_explicit(&mailbox->ready, memory_order_relaxed)) != 0)
    queue_fill(client, mailbox);
  return atomic_load_explicit(&mailbox->queue, memory_order_relaxed);
}

static void queue_advance(struct af_client *client, struct af_mailbox *mailbox) {
  af_off entry = atomic_load_explicit(&mailbox->queue, memory_order_relaxed);
  af_off next = atomic_load_explicit(&AF_AT(client, struct af_block, entry)->next, memory_order_relaxed);
  atomic_store_explicit(&mailbox->queue, next, memory_order_release);
  AF_POINT(client, 658);
  atomic_fetch_sub_explicit(&mailbox->ready_count, 1, memory_order_relaxed);
  af_block_drop(client, entry);
}

static int take_queue(struct af_client *client, struct af_mailbox *mailbox, af_off *cell, uint32_t *hold) {
  *cell = af_entry_call(client, mailbox->queue);
  int status = call_start(client, *cell, hold);
  if (status != AF_FULL)
    queue_advance(client, mailbox);
  mailbox->queue_turn = 1;
  return status;
}

/* Lanes and the ready list by depth; when equal, in turn; of an ordered mailbox the ready list first. */
static int take_next(struct af_client *client, struct af_mailbox *mailbox, af_off *cell, uint32_t *hold) {
  for (;;) {
    struct pick pick;
    if (pick_lane(client, mailbox, &pick) != AF_OK)
      return AF_BAD;
    af_off ready = queue_head(client, mailbox);
    int depth = ready == 0 ? -1 : cell_at(client, af_entry_call(client, ready))->depth;
    if (ready == 0 && pick.depth < 0)
      return AF_EMPTY;
    bool ordered = mailbox->block.flags & AF_MAILBOX_ORDERED; /* then it is a call that is run again */
    bool queue = depth > pick.depth || (depth == pick.depth && (ordered || !mailbox->queue_turn));
    int status = queue ? take_queue(client, mailbox, cell, hold) : take_lane(client, mailbox, &pick, cell, hold);
    if (status != AF_EMPTY)
      return status;
  }
}

/* ---- closing ---- */

static void settle_unread(struct af_client *client, struct af_mailbox *mailbox, af_off cell) {
  af_cell_fail(client, cell, 0, mailbox->error, (uint8_t)mailbox->error_format);
}

static void lane_drain(struct af_client *client, struct af_mailbox *mailbox, af_off lane) {
  af_off cell;
  while ((cell = af_lane_head(client, lane)) != 0) {
    settle_unread(client, mailbox, cell);
    AF_POINT(client, 659);
    af_lane_advance(client, lane, cell);
  }
  struct af_lane *of = AF_AT(client, struct af_lane, lane);
  if (atomic_exchange_explicit(&of->room, 0, memory_order_seq_cst) != 0)
    af_futex_wake(&of->room, UINT32_MAX); /* its writer is to learn that it is closed */
}

/* Under the lock. Whoever reads a closed mailbox settles what is in it. */
static void drain(struct af_client *client, struct af_mailbox *mailbox) {
  for (struct af_lane_page *page = &mailbox->page; page != NULL;) {
    atomic_store_explicit(&page->mail, 0, memory_order_seq_cst); /* SYNC POINT close */
    for (uint32_t i = 0; i < AF_PAGE_LANES; i++) {
      af_off lane = atomic_load_explicit(&page->lanes[i], memory_order_acquire);
      if (lane != 0)
        lane_drain(client, mailbox, lane);
    }
    af_off next = atomic_load_explicit(&page->next, memory_order_acquire);
    page = next == 0 ? NULL : &AF_AT(client, struct af_lanes_block, next)->page;
  }
  atomic_fetch_or_explicit(&mailbox->ready, AF_FOLLOWERS_CLOSED, memory_order_acq_rel);
  while (queue_head(client, mailbox) != 0) {
    settle_unread(client, mailbox, af_entry_call(client, mailbox->queue));
    queue_advance(client, mailbox);
  }
}

/* Others may be at the lock for an instant each; one that stays there is the node's to deal with first. */
static int lock_soon(struct af_client *client, struct af_mailbox *mailbox) {
  for (int i = 0; i < CLOSE_TRIES; i++) {
    if (reader_lock(client, mailbox) == AF_OK)
      return AF_OK;
    sched_yield();
  }
  return AF_BUSY;
}

static void error_set(struct af_client *node, struct af_mailbox *mailbox, af_off error, uint8_t format) {
  if (mailbox->error != 0 || error == 0)
    return;
  af_block_hold(node, error);
  mailbox->error_format = format;
  mailbox->error = error;
}

/* It refers to the mailbox in turn: neither would ever be freed. */
static void first_settle(struct af_client *node, struct af_mailbox *mailbox) {
  af_off first = mailbox->first;
  if (first == 0)
    return;
  settle_unread(node, mailbox, first);
  mailbox->first = 0;
  af_block_drop(node, first);
}

int af_mailbox_close(struct af_client *node, af_off mailbox, af_off error, uint8_t format) {
  struct af_mailbox *of = mailbox_at(node, mailbox);
  uint32_t outer = af_op_begin(node, AF_OP_LANE);
  error_set(node, of, error, format);
  atomic_store_explicit(&of->closed, 1, memory_order_seq_cst); /* SYNC POINT close */
  int status = lock_soon(node, of);
  if (status == AF_OK) {
    drain(node, of);
    first_settle(node, of);
    reader_unlock(of);
  }
  af_mailbox_rouse(node, mailbox);
  af_op_end(node, outer);
  return status;
}

static int take_locked(struct af_client *client, struct af_mailbox *mailbox, af_off *cell, uint32_t *hold) {
  if (atomic_load_explicit(&mailbox->closed, memory_order_acquire)) {
    drain(client, mailbox);
    return AF_CLOSED;
  }
  if (!af_mailbox_is_shared(mailbox))
    return take_next(client, mailbox, cell, hold);
  bool had = atomic_load_explicit(&client->slot->token, memory_order_relaxed) != 0;
  if (!had && !af_capacity_take(client, mailbox))
    return AF_EMPTY;
  int status = take_next(client, mailbox, cell, hold);
  if (status != AF_OK && !had)
    af_capacity_give(client, mailbox);
  return status;
}

int af_mailbox_take(struct af_client *client, af_off mailbox, af_off *cell, uint32_t *hold) {
  struct af_mailbox *of = mailbox_at(client, mailbox);
  if (!af_mailbox_has_mail(client, mailbox))
    return atomic_load_explicit(&of->closed, memory_order_acquire) ? AF_CLOSED : AF_EMPTY;
  uint32_t outer = af_op_begin(client, AF_OP_TAKE);
  int status = reader_lock(client, of);
  if (status == AF_OK) {
    status = take_locked(client, of, cell, hold);
    reader_unlock(of);
    if (status != AF_EMPTY)
      af_mailbox_returned(client, of);
    AF_POINT(client, 660);
  }
  if (status == AF_OK && af_mailbox_is_shared(of) && af_mailbox_may_take(client, mailbox))
    af_mailbox_ring(client, mailbox); /* a burst wakes its readers one after another */
  af_op_end(client, outer);
  return status;
}

