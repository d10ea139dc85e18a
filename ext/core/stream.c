/* stream.c - makes, links, takes the items of a stream, and holds its executor back; see stream.h. */
#include "stream.h"

#include "block.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}
static _Atomic uint32_t *futex_of(struct af_cell *call) { return (_Atomic uint32_t *)(void *)&call->stream; }
static uint32_t limit_of(uint64_t word) { return (uint32_t)(word >> 32) & AF_STREAM_LIMIT_MOST; }

/* The two places in the call. */
static af_off *places_of(const struct af_client *client, af_off call) {
  const struct af_cell *of = cell_at(client, call);
  return of->returns == AF_STREAM_RETURNS && of->references >= AF_STREAM_RETURNS
             ? af_cell_references(client, call) + of->references - AF_STREAM_RETURNS
             : NULL;
}

/* ---- making ---- */

int af_stream_item_create(struct af_client *client, uint32_t reserve, af_off *item) {
  int status = af_cell_expected_create(client, reserve, item);
  if (status == AF_OK)
    cell_at(client, *item)->block.flags = AF_CELL_ITEM;
  return status;
}

void af_stream_begin(struct af_client *client, af_off call, uint32_t limit) {
  limit = limit < AF_STREAM_LIMIT_MOST ? limit : AF_STREAM_LIMIT_MOST;
  atomic_store_explicit(&cell_at(client, call)->stream, (uint64_t)limit << 32, memory_order_relaxed);
}

/* ---- the executor ---- */

af_off af_stream_current(const struct af_client *client, af_off call) {
  const af_off *places = places_of(client, call);
  af_off current = 0;
  for (uint32_t i = 0; places != NULL && i < AF_STREAM_RETURNS; i++)
    if (places[i] != 0 && !af_cell_is_done(client, places[i]) &&
        (current == 0 || cell_at(client, places[i])->number < cell_at(client, current)->number))
      current = places[i];
  return current;
}

static bool is_started_here(const struct af_client *client, af_off call) {
  uint64_t state = atomic_load_explicit(&cell_at(client, call)->state, memory_order_acquire);
  return (state & ~(uint64_t)AF_STATE_SLEEPER) == af_state_of(client, AF_STARTED);
}

/* Into the place of the item before, which is done, where an earlier attempt died before it let go of that. */
static int following_make(struct af_client *client, af_off item, af_off *place, uint32_t reserve) {
  af_off made, before = *place;
  int status = af_stream_item_create(client, reserve, &made);
  if (status != AF_OK)
    return status;
  cell_at(client, made)->number = cell_at(client, item)->number + 1;
  AF_POINT(client, 790);
  __atomic_store_n(place, made, __ATOMIC_RELEASE);
  AF_POINT(client, 791);
  if (before != 0)
    af_block_drop(client, before);
  return AF_OK;
}

int af_stream_extend(struct af_client *client, af_off call, af_off item, uint32_t reserve) {
  struct af_cell *now = cell_at(client, item);
  af_off *places = places_of(client, call);
  if (places == NULL || !is_started_here(client, call))
    return AF_FENCED;
  af_off *place = &places[places[0] == item];
  int status = AF_OK;
  uint32_t outer = af_op_begin(client, AF_OP_RESULT);
  if (*place == 0 || cell_at(client, *place)->number != now->number + 1)
    status = following_make(client, item, place, reserve);
  if (status == AF_OK && atomic_load_explicit(&now->stream, memory_order_relaxed) == 0) {
    af_block_hold(client, *place);
    AF_POINT(client, 792);
    atomic_store_explicit(&now->stream, *place, memory_order_release);
  }
  af_op_end(client, outer);
  return status;
}

void af_stream_release(struct af_client *client, af_off call, af_off item) {
  af_off *places = places_of(client, call);
  uint32_t outer = af_op_begin(client, AF_OP_RESULT);
  for (uint32_t i = 0; places != NULL && i < AF_STREAM_RETURNS; i++)
    if (places[i] == item) {
      __atomic_store_n(&places[i], 0, __ATOMIC_RELEASE);
      AF_POINT(client, 796);
      af_block_drop(client, item);
    }
  af_op_end(client, outer);
}

int af_stream_look(const struct af_client *client, af_off call, af_off item) {
  uint64_t word = atomic_load_explicit(&cell_at(client, call)->stream, memory_order_acquire);
  uint32_t ahead = (uint32_t)cell_at(client, item)->number - (uint32_t)word, limit = limit_of(word);
  if (atomic_load_explicit(&cell_at(client, item)->block.count, memory_order_acquire) == 1)
    return word & AF_STREAM_ALL ? AF_OK : AF_CLOSED;
  return limit == 0 || ahead < limit ? AF_OK : AF_FULL;
}

/* SYNC POINT stream: the mark is set, then the word is the futex' to compare; the reader changes the word, then looks at
 * the mark. */
int af_stream_wait(struct af_client *client, af_off call, af_off item, uint64_t timeout_ns) {
  struct af_cell *of = cell_at(client, call);
  uint64_t limit = af_sleep_limit(timeout_ns), end = af_now_ns() + limit;
  int found, status = AF_OK;
  while ((found = af_stream_look(client, call, item)) == AF_FULL && status == AF_OK) {
    uint64_t word = atomic_load_explicit(&of->stream, memory_order_acquire), now = af_now_ns();
    if (now >= end)
      break;
    if (!(word & AF_STREAM_SLEEPER)) {
      atomic_compare_exchange_strong_explicit(&of->stream, &word, word | AF_STREAM_SLEEPER, memory_order_seq_cst,
                                              memory_order_relaxed);
      continue;
    }
    AF_POINT(client, 793);
    status = af_futex_wait(futex_of(of), (uint32_t)word, end - now);
  }
  return found == AF_FULL && status == AF_INTERRUPTED ? AF_INTERRUPTED : found;
}

/* ---- the reader ---- */

/* Changes the word, and wakes whom it says sleeps. */
static void word_set(struct af_client *client, af_off call, uint64_t clear, uint64_t set, uint32_t taken) {
  struct af_cell *of = cell_at(client, call);
  uint64_t word = atomic_load_explicit(&of->stream, memory_order_acquire), next;
  do
    next = (((word & ~(uint64_t)UINT32_MAX) | (uint32_t)(word + taken)) & ~(clear | AF_STREAM_SLEEPER)) | set;
  while (!atomic_compare_exchange_weak_explicit(&of->stream, &word, next, memory_order_seq_cst,
                                                memory_order_acquire)); /* SYNC POINT stream */
  AF_POINT(client, 794);
  if (word & AF_STREAM_SLEEPER)
    af_futex_wake(futex_of(of), UINT32_MAX);
}

int af_stream_take(struct af_client *client, af_off call, af_off item, af_off *following, uint32_t *hold) {
  struct af_cell *of = cell_at(client, item);
  uint32_t outer = af_op_begin(client, AF_OP_TAKE);
  *following = atomic_load_explicit(&of->stream, memory_order_acquire);
  int status = *following == 0 ? AF_EMPTY : AF_OK;
  if (status == AF_OK) {
    atomic_store_explicit(&of->stream, 0, memory_order_release);
    AF_POINT(client, 795);
    status = af_hold_record(client, *following, hold);
    if (status != AF_OK)
      atomic_store_explicit(&of->stream, *following, memory_order_release);
  }
  af_op_end(client, outer);
  if (status == AF_OK)
    word_set(client, call, 0, 0, 1);
  return status;
}

void af_stream_want_all(struct af_client *client, af_off call, bool all) {
  word_set(client, call, all ? 0 : AF_STREAM_ALL, all ? AF_STREAM_ALL : 0, 0);
}

void af_stream_wake(struct af_client *client, af_off call) { word_set(client, call, 0, 0, 0); }
