/* cell.c - makes cells, moves their state, places their results, waits for them; see cell.h. */
#include "cell.h"

#include <string.h>

#include "block.h"
#include "heap.h"
#include "lineage.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the futex word is the low half of the state");
_Static_assert(offsetof(struct af_cell, mailbox) == AF_LINE, "what a waiter reads lies in the first line");

static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}
static uint64_t phase_of(uint64_t state) { return state & AF_STATE_PHASE; }
static uint64_t without_sleeper(uint64_t state) { return state & ~(uint64_t)AF_STATE_SLEEPER; }
static _Atomic uint32_t *futex_of(struct af_cell *cell) { return (_Atomic uint32_t *)(void *)&cell->state; }

/* ---- making ---- */

/* Until it is filled in it is of a kind whose references (none) lie in the first line, which is new. */
static int cell_allocate(struct af_client *client, uint64_t room, uint32_t references, enum af_phase phase,
                         af_off *cell) {
  uint64_t bytes = sizeof(struct af_cell) + room;
  if (bytes > AF_LARGE_MAX)
    return AF_TOO_LARGE;
  int status = af_heap_allocate(client, (uint32_t)bytes, AF_KIND_BYTES, AF_MESSAGES, cell);
  if (status != AF_OK)
    return status;
  struct af_cell *made = cell_at(client, *cell);
  memset((uint8_t *)made + AF_LINE, 0, sizeof *made - AF_LINE + references * sizeof(af_off));
  atomic_store_explicit(&made->state, af_state_of(client, phase), memory_order_relaxed);
  AF_POINT(client, 700);
  af_block_become(&made->block, AF_KIND_CELL);
  return AF_OK;
}

static uint64_t room_for(uint64_t references, uint64_t bytes) { return references * sizeof(af_off) + bytes; }

int af_cell_create(struct af_client *client, uint32_t references, uint64_t bytes, uint64_t reserve, af_off *cell) {
  uint64_t room = room_for(references, bytes);
  int status = cell_allocate(client, room > reserve ? room : reserve, references, AF_UNSENT, cell);
  if (status != AF_OK)
    return status;
  struct af_cell *made = cell_at(client, *cell);
  made->number = client->calls++;
  made->caller = client->slot_index;
  made->caller_epoch = client->epoch;
  made->references = references;
  made->bytes = (uint32_t)bytes;
  return AF_OK;
}

int af_cell_value_create(struct af_client *client, uint32_t references, uint32_t bytes, af_off *cell) {
  int status = cell_allocate(client, room_for(references, bytes), references, AF_DONE, cell);
  if (status != AF_OK)
    return status;
  struct af_cell *made = cell_at(client, *cell);
  atomic_store_explicit(&made->followers, AF_FOLLOWERS_CLOSED, memory_order_relaxed);
  made->value_bytes = bytes;
  made->value_refs = references;
  return AF_OK;
}

int af_cell_expected_create(struct af_client *client, uint32_t reserve, af_off *cell) {
  return cell_allocate(client, reserve, 0, AF_EXPECTED, cell);
}

/* ---- states ---- */

bool af_cell_is_done(const struct af_client *client, af_off cell) {
  return af_cell_phase(client, cell) == AF_DONE; /* SYNC POINT cell-done */
}

int af_cell_start(struct af_client *client, af_off cell) {
  struct af_cell *of = cell_at(client, cell);
  uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
  while (phase_of(state) == AF_UNREAD)
    if (atomic_compare_exchange_weak_explicit(&of->state, &state,
                                              af_state_of(client, AF_STARTED) | (state & AF_STATE_SLEEPER),
                                              memory_order_seq_cst, memory_order_acquire)) /* SYNC POINT pin */
      return AF_OK;
  return AF_BUSY;
}

/* ---- sending ---- */

static uint32_t first_unfinished(const struct af_client *client, af_off cell) {
  const af_off *references = af_cell_references(client, cell);
  uint32_t i = 0, arguments = cell_at(client, cell)->arguments;
  while (i < arguments && af_cell_is_done(client, references[i]))
    i++;
  return i;
}

/* Others may see it from now on: those that walk the heap for the calls made within a call. */
static void state_send(struct af_client *client, struct af_cell *of, enum af_phase phase) {
  atomic_store_explicit(&of->state, af_state_of(client, phase), memory_order_release);
}

/* It is in no list. Gives `status`; AF_OK: it was cancelled meanwhile, and is not to be sent any more. */
static int state_unsend(struct af_client *client, struct af_cell *of, int status) {
  uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
  while (phase_of(state) == AF_WAITING || phase_of(state) == AF_UNREAD)
    if (atomic_compare_exchange_weak_explicit(&of->state, &state, af_state_of(client, AF_UNSENT), memory_order_acq_rel,
                                              memory_order_acquire))
      return status;
  return AF_OK;
}

/* The mailbox of a call that has to wait: ordered ones take their place in the lane at once. */
static int submit_waiting(struct af_client *client, af_off lane, af_off cell) {
  struct af_cell *of = cell_at(client, cell);
  struct af_mailbox *mailbox = AF_AT(client, struct af_mailbox, of->mailbox);
  state_send(client, of, AF_WAITING);
  if (atomic_load_explicit(&mailbox->closed, memory_order_acquire))
    return AF_CLOSED;
  if (lane != 0 && mailbox->block.flags & AF_MAILBOX_ORDERED) {
    struct af_lane *through = AF_AT(client, struct af_lane, lane);
    of->place = through->page | through->index;
    af_cell_on_its_way(client, cell);
    int status = af_lane_push(client, lane, cell);
    if (status != AF_OK) {
      af_cell_on_its_way(client, 0);
      return status;
    }
  }
  af_cell_on_its_way(client, cell);
  af_block_hold(client, cell);
  AF_POINT(client, 710);
  af_cell_advance(client, cell);
  return AF_OK;
}

int af_cell_submit(struct af_client *client, af_off lane, af_off cell) {
  struct af_cell *of = cell_at(client, cell);
  uint32_t outer = af_op_begin(client, AF_OP_SUBMIT);
  int status = AF_OK;
  if (lane != 0) {
    of->mailbox = AF_AT(client, struct af_lane, lane)->mailbox;
    of->depth = AF_AT(client, struct af_lane, lane)->depth;
  }
  if (first_unfinished(client, cell) < of->arguments)
    status = submit_waiting(client, lane, cell);
  else {
    state_send(client, of, AF_UNREAD);
    if (lane != 0)
      status = af_lane_push(client, lane, cell);
  }
  if (status != AF_OK)
    status = state_unsend(client, of, status);
  af_op_end(client, outer);
  return status;
}

void af_cell_submit_first(struct af_client *client, af_off mailbox, af_off cell) {
  struct af_cell *of = cell_at(client, cell);
  uint32_t outer = af_op_begin(client, AF_OP_SUBMIT);
  af_block_hold(client, cell);
  of->mailbox = mailbox;
  state_send(client, of, AF_UNREAD);
  AF_AT(client, struct af_mailbox, mailbox)->first = cell;
  af_op_end(client, outer);
}

/* ---- results ---- */

static bool is_own(const struct af_client *client, const struct af_cell *of) {
  uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
  return without_sleeper(state) == af_state_of(client, AF_STARTED) || phase_of(state) == AF_EXPECTED;
}

/* Whoever may still want a return cell finds it through the references. */
static bool returns_done(const struct af_client *client, af_off cell) {
  const struct af_cell *of = cell_at(client, cell);
  const af_off *references = af_cell_references(client, cell);
  uint32_t returns = of->returns < of->references ? of->returns : of->references;
  for (uint32_t i = of->references - returns; i < of->references; i++)
    if (references[i] != 0 && !af_cell_is_done(client, references[i]))
      return false;
  return true;
}

/* By the executor, before it writes a result over them. */
static bool may_drop_references(const struct af_client *client, af_off cell) {
  return !atomic_load_explicit(&cell_at(client, cell)->pinned, memory_order_seq_cst) && /* SYNC POINT pin */
         returns_done(client, cell);
}

/* They are no longer the cell's before the first is dropped; of several who come to it one does it. */
static void references_drop(struct af_client *client, af_off cell) {
  const af_off *references = af_cell_references(client, cell);
  AF_POINT(client, 732);
  uint32_t count = __atomic_exchange_n(&cell_at(client, cell)->references, 0, __ATOMIC_ACQ_REL);
  AF_POINT(client, 730);
  for (uint32_t i = 0; i < count; i++)
    if (references[i] != 0)
      af_block_drop(client, references[i]);
}

void af_cell_unpinned(struct af_client *client, af_off cell) {
  if (atomic_load_explicit(&cell_at(client, cell)->pinned, memory_order_seq_cst) == AF_PINS_OVER)
    references_drop(client, cell);
}

void af_cell_let_go(struct af_client *client, af_off cell) {
  struct af_cell *of = cell_at(client, cell);
  if (__atomic_load_n(&of->references, __ATOMIC_RELAXED) == 0)
    return;
  if (!(atomic_load_explicit(&of->pinned, memory_order_acquire) & AF_PINS_OVER)) {
    if (!returns_done(client, cell))
      return;
    atomic_fetch_or_explicit(&of->pinned, AF_PINS_OVER, memory_order_seq_cst); /* SYNC POINT pin */
  }
  af_cell_unpinned(client, cell);
}

static int result_block(struct af_client *client, uint32_t references, uint64_t room, af_off *block,
                        uint8_t **where) {
  uint64_t bytes = sizeof(struct af_object) + room;
  if (bytes > AF_LARGE_MAX)
    return AF_TOO_LARGE;
  int status = af_heap_allocate(client, (uint32_t)bytes, AF_KIND_BYTES, AF_MESSAGES, block);
  if (status != AF_OK)
    return status;
  struct af_object *made = AF_AT(client, struct af_object, *block);
  *where = (uint8_t *)(made + 1);
  memset(*where, 0, references * sizeof(af_off));
  made->bytes = room;
  made->pickle_offset = sizeof *made + references * sizeof(af_off);
  made->pickle_bytes = room - references * sizeof(af_off);
  made->buffers = 0;
  AF_POINT(client, 731);
  made->references = references;
  return AF_OK;
}

int af_cell_result_begin(struct af_client *client, af_off cell, uint32_t references, uint64_t bytes, af_off *block,
                         uint8_t **where) {
  struct af_cell *of = cell_at(client, cell);
  uint64_t room = room_for(references, bytes);
  *block = 0;
  if (!is_own(client, of))
    return AF_FENCED;
  bool kept = of->value_place != 0;
  if (room + of->value_place * sizeof(af_off) > of->block.capacity - sizeof *of ||
      (!kept && of->references > 0 && !may_drop_references(client, cell)))
    return result_block(client, references, room, block, where);
  if (!kept && of->references > 0)
    references_drop(client, cell);
  *where = (uint8_t *)af_cell_value(client, cell);
  return AF_OK;
}

/* SYNC POINT cell-done: the value is written before the state's release. Sequentially consistent because the looks at
 * `watch` and `followers` come after it, and theirs after setting those. */
static int done_set(struct af_client *client, struct af_cell *of) {
  uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
  uint64_t done = af_state_of(client, AF_DONE), own = af_state_of(client, AF_STARTED);
  while (without_sleeper(state) == own || phase_of(state) == AF_EXPECTED)
    if (atomic_compare_exchange_weak_explicit(&of->state, &state, done | (state & AF_STATE_SLEEPER),
                                              memory_order_seq_cst, memory_order_acquire))
      return AF_OK;
  return AF_FENCED;
}

static void op_cell_set(struct af_client *client, af_off cell) {
  atomic_store_explicit(&client->slot->op_cell, cell, memory_order_release);
}

static void value_link(struct af_client *client, af_off cell, af_off value, uint8_t format) {
  cell_at(client, cell)->value = value;
  if (value >= client->header->objects) {
    struct af_object *object = AF_AT(client, struct af_object, value);
    object->block.flags = format;
    object->cell_generation = af_block_generation(client, cell);
    object->used = __atomic_load_n(&client->header->extent_generation, __ATOMIC_RELAXED);
    __atomic_store_n(&object->cell, cell, __ATOMIC_RELEASE); /* SYNC POINT owner */
  }
}

int af_cell_complete(struct af_client *client, af_off cell, af_off value, uint32_t references, uint32_t bytes,
                     uint8_t format) {
  struct af_cell *of = cell_at(client, cell);
  uint32_t outer = af_op_begin(client, AF_OP_COMPLETE);
  int status = is_own(client, of) ? AF_OK : AF_FENCED;
  if (status == AF_OK) {
    value_link(client, cell, value, format);
    of->value_bytes = bytes;
    of->value_refs = value == 0 ? references : 0;
    of->value_format = format;
    if (of->value_place != 0)
      af_lineage_keep(client, cell);
    op_cell_set(client, cell);
    AF_POINT(client, 740);
    status = done_set(client, of);
    AF_POINT(client, 741);
    if (status == AF_OK)
      af_cell_finish(client, cell);
    op_cell_set(client, 0);
  } else if (value != 0)
    af_block_drop(client, value);
  af_op_end(client, outer);
  return status;
}

int af_cell_fail(struct af_client *client, af_off cell, uint64_t expected_state, af_off error, uint8_t format) {
  uint32_t outer = af_op_begin(client, AF_OP_COMPLETE);
  op_cell_set(client, cell);
  int status = af_cell_settle(client, cell, expected_state, error, format);
  if (status == AF_OK)
    af_cell_finish(client, cell);
  op_cell_set(client, 0);
  af_op_end(client, outer);
  return status;
}

/* ---- watching and waiting ---- */

static _Atomic af_watch *watch_at(const struct af_client *client, af_off follower) {
  return &AF_AT(client, struct af_follower, follower)->watch;
}

/* Links one to the cell's followers; held as `own`, if that is given. */
static int follower_link(struct af_client *client, af_off cell, af_off follower, struct af_watcher *own) {
  if (own != NULL && af_hold_take(client, follower, &own->hold) != AF_OK) {
    af_block_drop(client, follower);
    return AF_FULL;
  }
  AF_POINT(client, 720);
  if (af_cell_link(client, cell, follower)) {
    if (own != NULL)
      own->follower = follower;
    return AF_OK;
  }
  if (own != NULL)
    af_hold_drop(client, own->hold);
  af_block_drop(client, follower);
  return AF_EMPTY;
}

static int watch_further(struct af_client *client, af_off cell, af_watch watch, struct af_watcher *own) {
  af_off follower;
  uint32_t outer = af_op_begin(client, AF_OP_WATCH);
  int status = af_heap_allocate(client, sizeof(struct af_follower), AF_KIND_FOLLOWER, AF_MESSAGES, &follower);
  if (status == AF_OK) {
    atomic_store_explicit(watch_at(client, follower), watch, memory_order_relaxed);
    status = follower_link(client, cell, follower, own);
  }
  af_op_end(client, outer);
  return status;
}

static bool watch_take_back(_Atomic af_watch *place, af_watch watch) {
  return atomic_load_explicit(place, memory_order_relaxed) == watch &&
         atomic_compare_exchange_strong_explicit(place, &watch, 0, memory_order_relaxed, memory_order_relaxed);
}

/* SYNC POINT cell-watch: watch, then the look at the state; the completer sets the state, then looks at the watch.
 * AF_BUSY: there is another one at that place. */
static int watch_place(struct af_cell *of, _Atomic af_watch *place, af_watch watch) {
  af_watch none = 0;
  if (!atomic_compare_exchange_strong_explicit(place, &none, watch, memory_order_seq_cst, memory_order_relaxed))
    return AF_BUSY;
  if (phase_of(atomic_load_explicit(&of->state, memory_order_seq_cst)) != AF_DONE)
    return AF_OK;
  watch_take_back(place, watch);
  return AF_EMPTY;
}

int af_cell_watch(struct af_client *client, af_off cell, af_watch watch, struct af_watcher *own) {
  struct af_cell *of = cell_at(client, cell);
  bool has_own = own != NULL && own->follower != 0;
  if (af_cell_is_done(client, cell))
    return AF_EMPTY;
  int status = watch_place(of, &of->watch, watch);
  if (status == AF_BUSY && has_own)
    status = watch_place(of, watch_at(client, own->follower), watch);
  return status == AF_BUSY ? watch_further(client, cell, watch, has_own ? NULL : own) : status;
}

/* One on the list stays there until the cell is done, and then rings for nothing. */
void af_cell_unwatch(struct af_client *client, af_off cell, af_watch watch, struct af_watcher *own) {
  if (!watch_take_back(&cell_at(client, cell)->watch, watch) && own != NULL && own->follower != 0)
    watch_take_back(watch_at(client, own->follower), watch);
}

int af_cell_spin(const struct af_client *client, af_off cell, uint64_t spin_ns) {
  struct af_spin spin;
  af_spin_begin(&spin, client, spin_ns);
  do {
    if (af_cell_is_done(client, cell))
      return 1;
  } while (af_spin_turn(&spin));
  return 0;
}

int af_cell_sleep(struct af_client *client, af_off cell, uint64_t timeout_ns) {
  struct af_cell *of = cell_at(client, cell);
  uint64_t limit = af_sleep_limit(timeout_ns), end = af_now_ns() + limit, now = end - limit;
  int status = AF_OK;
  for (; status == AF_OK && now < end; now = af_now_ns()) {
    uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
    if (phase_of(state) == AF_DONE)
      return AF_OK;
    if (!(state & AF_STATE_SLEEPER) &&
        !atomic_compare_exchange_strong_explicit(&of->state, &state, state | AF_STATE_SLEEPER, memory_order_relaxed,
                                                 memory_order_relaxed))
      continue;
    AF_POINT(client, 722);
    status = af_futex_wait(futex_of(of), (uint32_t)state | AF_STATE_SLEEPER, end - now);
  }
  return af_cell_is_done(client, cell) ? AF_OK : status == AF_OK ? AF_TIMEOUT : status;
}
