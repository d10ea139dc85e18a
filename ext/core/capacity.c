/* capacity.c - how many readers of a shared mailbox may execute: joining, blocking inside a call, what the node allows.
 *
 * The mailbox has the sums (executing, readers, blocked), each slot its own marks (serving, token, blocked), and a
 * sequence of their changes. A process that dies between two changes leaves marks that say what to take back; one that
 * dies inside a change leaves it open whether mark and sum agree, and the sums are counted again from the marks of all. */
#include <sched.h>

#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

#define RECOUNT_TRIES 200

static struct af_mailbox *serving(const struct af_client *client) {
  af_off mailbox = atomic_load_explicit(&client->slot->serving, memory_order_relaxed);
  return mailbox == 0 ? NULL : AF_AT(client, struct af_mailbox, mailbox);
}
static bool mark(_Atomic uint32_t *mark) { return atomic_load_explicit(mark, memory_order_relaxed) != 0; }
static void mark_set(_Atomic uint32_t *mark, uint32_t value) {
  atomic_store_explicit(mark, value, memory_order_release);
}

/* SYNC POINT marks: odd before the first of mark and sum moves (which it does by a release), even after the last; the
 * recount reads it before and after them. */
static void change_begin(struct af_client *client) {
  uint32_t marks = atomic_load_explicit(&client->slot->marks, memory_order_relaxed);
  atomic_store_explicit(&client->slot->marks, marks + 1, memory_order_relaxed);
}
static void change_end(struct af_client *client) {
  uint32_t marks = atomic_load_explicit(&client->slot->marks, memory_order_relaxed);
  atomic_store_explicit(&client->slot->marks, marks + 1, memory_order_release);
}

/* ---- executing ---- */

bool af_capacity_take(struct af_client *client, struct af_mailbox *mailbox) {
  uint64_t executing = atomic_load_explicit(&mailbox->executing, memory_order_relaxed);
  bool taken = false;
  change_begin(client);
  while (!taken && (uint32_t)executing < executing >> 32)
    taken = atomic_compare_exchange_weak_explicit(&mailbox->executing, &executing, executing + 1,
                                                  memory_order_acq_rel, memory_order_relaxed);
  if (taken) {
    AF_POINT(client, 670);
    mark_set(&client->slot->token, 1);
  }
  change_end(client);
  return taken;
}

/* The node may have lowered what is allowed below what executes, and waits for it to come down. */
void af_capacity_give(struct af_client *client, struct af_mailbox *mailbox) {
  change_begin(client);
  uint64_t before = atomic_fetch_sub_explicit(&mailbox->executing, 1, memory_order_seq_cst);
  AF_POINT(client, 671);
  mark_set(&client->slot->token, 0);
  change_end(client);
  if ((uint32_t)before > before >> 32)
    af_mailbox_node_ring(client, mailbox);
}

/* No longer counted as waiting; between change_begin and change_end. */
static void blocked_clear(struct af_client *client, struct af_mailbox *mailbox) {
  atomic_fetch_sub_explicit(&mailbox->blocked, 1, memory_order_release);
  AF_POINT(client, 677);
  mark_set(&client->slot->blocked, 0);
}

/* Threads of the call that still wait are not inside it any more: what they unblock later is nothing. */
static void call_end(struct af_client *client, struct af_mailbox *mailbox) {
  client->calls_ended++;
  client->waiting_inside = 0;
  if (mark(&client->slot->blocked)) {
    change_begin(client);
    blocked_clear(client, mailbox);
    change_end(client);
  }
  if (mark(&client->slot->token))
    af_capacity_give(client, mailbox);
}

static bool is_inside(const struct af_client *client) {
  return mark(&client->slot->token) || mark(&client->slot->blocked);
}

void af_mailbox_task_done(struct af_client *client) {
  struct af_mailbox *mailbox = serving(client);
  if (mailbox == NULL || !is_inside(client))
    return;
  uint32_t outer = af_op_begin(client, AF_OP_CAPACITY);
  call_end(client, mailbox);
  af_op_end(client, outer);
}

/* ---- joining and leaving ---- */

void af_mailbox_join(struct af_client *client, af_off mailbox) {
  if (serving(client) != NULL)
    return;
  uint32_t outer = af_op_begin(client, AF_OP_CAPACITY);
  change_begin(client);
  atomic_store_explicit(&client->slot->serving, mailbox, memory_order_release); /* first: it says where to recount */
  AF_POINT(client, 672);
  atomic_fetch_add_explicit(&AF_AT(client, struct af_mailbox, mailbox)->readers, 1, memory_order_release);
  change_end(client);
  af_op_end(client, outer);
}

void af_mailbox_leave(struct af_client *client, af_off mailbox) {
  struct af_mailbox *of = serving(client);
  if (of == NULL || AF_OFF(client, of) != mailbox)
    return;
  uint32_t outer = af_op_begin(client, AF_OP_CAPACITY);
  call_end(client, of);
  change_begin(client);
  atomic_fetch_sub_explicit(&of->readers, 1, memory_order_release);
  AF_POINT(client, 673);
  atomic_store_explicit(&client->slot->serving, 0, memory_order_release);
  change_end(client);
  af_mailbox_returned(client, of);
  if (af_mailbox_has_mail(client, mailbox))
    af_mailbox_ring(client, mailbox); /* a wake meant for this reader goes on to another */
  af_op_end(client, outer);
}

/* ---- waiting inside a call ---- */

/* Another call may have been taken while a thread of this one waits (by an event loop): marked already then. */
static void capacity_lend(struct af_client *client, struct af_mailbox *mailbox) {
  uint32_t outer = af_op_begin(client, AF_OP_CAPACITY);
  if (!mark(&client->slot->blocked)) {
    change_begin(client);
    atomic_fetch_add_explicit(&mailbox->blocked, 1, memory_order_release);
    AF_POINT(client, 674);
    mark_set(&client->slot->blocked, 1);
    change_end(client);
  }
  af_capacity_give(client, mailbox);
  AF_POINT(client, 675);
  if (af_mailbox_has_mail(client, AF_OFF(client, mailbox)))
    af_mailbox_ring(client, AF_OFF(client, mailbox));
  af_op_end(client, outer);
}

uint64_t af_mailbox_block(struct af_client *client) {
  struct af_mailbox *mailbox = serving(client);
  if (mailbox == NULL || !is_inside(client))
    return 0;
  client->waiting_inside++;
  if (mark(&client->slot->token))
    capacity_lend(client, mailbox);
  return client->calls_ended + 1;
}

/* The call goes on whatever is allowed: more may execute than that until the next one ends. */
static void capacity_retake(struct af_client *client, struct af_mailbox *mailbox) {
  uint32_t outer = af_op_begin(client, AF_OP_CAPACITY);
  change_begin(client);
  if (!mark(&client->slot->token)) {
    atomic_fetch_add_explicit(&mailbox->executing, 1, memory_order_acq_rel);
    AF_POINT(client, 676);
    mark_set(&client->slot->token, 1);
  }
  blocked_clear(client, mailbox);
  change_end(client);
  af_op_end(client, outer);
}

void af_mailbox_unblock(struct af_client *client, uint64_t call) {
  struct af_mailbox *mailbox = serving(client);
  if (mailbox == NULL || call != client->calls_ended + 1 || --client->waiting_inside > 0)
    return;
  if (mark(&client->slot->blocked))
    capacity_retake(client, mailbox);
}

/* ---- the node ---- */

uint32_t af_mailbox_allow(struct af_client *node, af_off mailbox, uint32_t allowed) {
  struct af_mailbox *of = AF_AT(node, struct af_mailbox, mailbox);
  uint64_t seen = atomic_load_explicit(&of->executing, memory_order_relaxed), set;
  do
    set = allowed > (uint32_t)seen ? allowed : (uint32_t)seen;
  while (!atomic_compare_exchange_weak_explicit(&of->executing, &seen, set << 32 | (uint32_t)seen,
                                                memory_order_seq_cst, memory_order_relaxed));
  if (set > seen >> 32 && af_mailbox_has_mail(node, mailbox))
    af_mailbox_ring(node, mailbox);
  return (uint32_t)set;
}

struct sums { uint32_t active, readers, blocked; uint64_t sequence; };

/* Marks of all live readers. False: one of them is changing its own. `sequence` differs when any has. */
static bool sum_marks(const struct af_client *node, af_off mailbox, struct sums *sums) {
  *sums = (struct sums){0};
  for (uint32_t i = 0; i < node->header->slot_count; i++) {
    struct af_slot *slot = af_slot_at(node, i);
    uint64_t owner = atomic_load_explicit(&slot->owner, memory_order_acquire);
    uint32_t marks = atomic_load_explicit(&slot->marks, memory_order_acquire); /* SYNC POINT marks */
    sums->sequence = (sums->sequence ^ owner) * 0x9e3779b97f4a7c15ull + marks;
    if (af_slot_state_of(owner) != AF_SLOT_LIVE)
      continue;
    if (marks % 2 != 0)
      return false;
    if (atomic_load_explicit(&slot->serving, memory_order_acquire) != mailbox)
      continue;
    sums->readers++;
    sums->active += mark(&slot->token);
    sums->blocked += mark(&slot->blocked);
  }
  return true;
}

/* Between two walks that found nobody changing its marks and no change done, marks and sums did not move; what they
 * differ by then was left by the dead, and stays right to take off whatever moves after. */
static int recount_try(struct af_client *node, af_off mailbox) {
  struct af_mailbox *of = AF_AT(node, struct af_mailbox, mailbox);
  struct sums first, second;
  if (!sum_marks(node, mailbox, &first))
    return AF_BUSY;
  uint32_t active = (uint32_t)atomic_load_explicit(&of->executing, memory_order_acquire);
  uint32_t readers = atomic_load_explicit(&of->readers, memory_order_acquire);
  uint32_t blocked = atomic_load_explicit(&of->blocked, memory_order_acquire);
  if (!sum_marks(node, mailbox, &second) || first.sequence != second.sequence)
    return AF_BUSY;
  atomic_fetch_sub_explicit(&of->executing, (uint64_t)active - first.active, memory_order_seq_cst);
  atomic_fetch_sub_explicit(&of->readers, readers - first.readers, memory_order_relaxed);
  atomic_fetch_sub_explicit(&of->blocked, blocked - first.blocked, memory_order_relaxed);
  return AF_OK;
}

int af_mailbox_recount(struct af_client *node, af_off mailbox) {
  for (int i = 0; i < RECOUNT_TRIES; i++) {
    if (recount_try(node, mailbox) == AF_OK) {
      if (af_mailbox_has_mail(node, mailbox))
        af_mailbox_ring(node, mailbox);
      return AF_OK;
    }
    sched_yield();
  }
  return AF_BUSY;
}
