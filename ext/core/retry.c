/* retry.c - calls that are run again: put back by their executor, or by the coroner of their executor. See cell.h.
 *
 * A crash leaves: an entry that nobody owns (recount); the call STARTED by the dead, maybe with the attempt counted
 * already (the coroner counts it again: one run fewer, never one more); the call UNREAD and named by op_dependent (the
 * coroner sends another entry after it). */
#include "block.h"
#include "cell.h"
#include "heap.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"

static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}

void af_cell_allow_retries(struct af_client *client, af_off cell, int32_t retries) {
  struct af_cell *of = cell_at(client, cell);
  if (retries == 0)
    return;
  uint64_t words = of->references + (of->bytes + sizeof(af_off) - 1) / sizeof(af_off);
  of->value_place = (uint16_t)(words > 0 ? words : 1);
  of->retries = retries;
}

int af_cell_entry(struct af_client *client, af_off call, af_off *entry) {
  int status = af_heap_allocate(client, sizeof(struct af_follower), AF_KIND_FOLLOWER, AF_CONTROL, entry);
  if (status != AF_OK)
    return status;
  af_block_hold(client, call);
  AF_AT(client, struct af_follower, *entry)->dependent = call;
  return AF_OK;
}

/* Nor what it may have linked to a return cell that is not done: the next attempt completes that. */
static void results_forget(struct af_client *client, af_off call) {
  const struct af_cell *of = cell_at(client, call);
  uint32_t returns = of->returns < of->references ? of->returns : of->references;
  for (uint32_t i = of->references - returns; i < of->references; i++) {
    af_off result = af_cell_references(client, call)[i];
    if (result == 0 || af_cell_is_done(client, result))
      continue;
    cell_at(client, result)->value = 0;
    cell_at(client, result)->value_refs = 0;
  }
}

/* What an executor may have written of a result is not the cell's any more; a recount finds what it had counted. It lies
 * in no lane any more: whoever finds it half delivered puts it on the ready list. */
static void attempt_next(struct af_client *client, af_off cell) {
  struct af_cell *call = cell_at(client, cell);
  af_off lineage = atomic_exchange_explicit(&call->lineage, 0, memory_order_acq_rel);
  if (lineage != 0)
    af_block_drop(client, lineage);
  results_forget(client, cell);
  call->attempt++;
  if (call->retries > 0)
    call->retries--;
  call->value = 0;
  call->value_refs = 0;
  call->place = 0;
}

static bool make_unread(struct af_client *client, struct af_cell *call, uint64_t started) {
  uint64_t state = started;
  while (!atomic_compare_exchange_weak_explicit(&call->state, &state,
                                                af_state_of(client, AF_UNREAD) | (state & AF_STATE_SLEEPER),
                                                memory_order_seq_cst, memory_order_relaxed))
    if ((state & ~(uint64_t)AF_STATE_SLEEPER) != started)
      return false;
  return true;
}

static void deliver(struct af_client *client, af_off entry) {
  af_off call = af_entry_call(client, entry), mailbox = cell_at(client, call)->mailbox;
  struct af_mailbox *to = AF_AT(client, struct af_mailbox, mailbox);
  if (to->first == call)
    af_mailbox_ring(client, mailbox);
  else if (af_mailbox_ready(client, mailbox, entry))
    return;
  else
    af_cell_fail(client, call, 0, to->error, (uint8_t)to->error_format);
  af_block_drop(client, entry);
}

void af_cell_redeliver(struct af_client *client, af_off entry, uint32_t slot, uint32_t epoch) {
  af_off call = af_entry_call(client, entry);
  uint64_t started = (uint64_t)epoch << 32 | (uint64_t)slot << 16 | (uint64_t)AF_STARTED;
  af_cell_on_its_way(client, call);
  attempt_next(client, call);
  if (make_unread(client, cell_at(client, call), started)) {
    AF_POINT(client, 771);
    deliver(client, entry);
    AF_POINT(client, 772);
  } else
    af_block_drop(client, entry);
  af_cell_on_its_way(client, 0);
}

int af_cell_retry(struct af_client *client, af_off cell) {
  struct af_cell *of = cell_at(client, cell);
  uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
  af_off entry;
  if ((state & ~(uint64_t)AF_STATE_SLEEPER) != af_state_of(client, AF_STARTED))
    return AF_FENCED;
  if (of->retries == 0)
    return AF_EMPTY;
  if (atomic_load_explicit(&AF_AT(client, struct af_mailbox, of->mailbox)->closed, memory_order_acquire))
    return AF_CLOSED;
  uint32_t outer = af_op_begin(client, AF_OP_COMPLETE);
  int status = af_cell_entry(client, cell, &entry);
  if (status == AF_OK) {
    AF_POINT(client, 770);
    af_cell_redeliver(client, entry, client->slot_index, client->epoch);
  }
  af_op_end(client, outer);
  return status;
}
