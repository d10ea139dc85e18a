/* spill.c - exchanges a cell's object for a block that says where it lies on disk, and back; see spill.h. */
#include "spill.h"

#include <limits.h>
#include <string.h>

#include "block.h"
#include "extent.h"
#include "heap.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

#define TURNS_MOST 10000u /* each is the node moving the value just then, which takes it far longer than a look */

static inline struct af_object *object_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_object, block);
}
static inline struct af_spilled *spilled_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_spilled, block);
}

static inline uint32_t clock_now(const struct af_client *client) {
  return __atomic_load_n(&client->header->extent_generation, __ATOMIC_RELAXED);
}
static inline void used_note(struct af_client *client, af_off block) {
  __atomic_store_n(&object_at(client, block)->used, clock_now(client), __ATOMIC_RELAXED);
}

/* ---- readers ---- */

/* Counts the block that `word` names, if it is still the cell's value by then. */
static int value_count(struct af_client *client, af_off cell, af_off word) {
  bool is_spilled = (word & AF_VALUE_SPILLED) != 0;
  af_off block = word & ~(af_off)AF_VALUE_SPILLED;
  uint32_t generation = af_block_generation(client, block);
  int status = af_block_revive(client, block, generation, is_spilled ? AF_KIND_SPILLED : AF_KIND_OBJECT);
  if (status != AF_OK)
    return AF_BUSY;
  AF_POINT(client, 320);
  if (af_value_word(client, cell) == word) /* SYNC POINT value */
    return AF_OK;
  af_block_drop(client, block);
  return AF_BUSY;
}

int af_value_hold(struct af_client *client, af_off cell, af_off *block, bool *spilled, uint32_t *index) {
  uint32_t outer = af_op_begin(client, AF_OP_HOLD);
  af_off word = af_value_word(client, cell);
  int status = AF_EMPTY;
  for (uint32_t i = 0; af_value_moves(client, word) && (status = value_count(client, cell, word)) == AF_BUSY; i++) {
    if (i == TURNS_MOST) { /* what the cell names is not there: broken memory */
      status = AF_BAD;
      break;
    }
    word = af_value_word(client, cell); /* perhaps the same: there and back meanwhile */
  }
  *block = word & ~(af_off)AF_VALUE_SPILLED;
  *spilled = (word & AF_VALUE_SPILLED) != 0;
  if (status == AF_OK) {
    if (!*spilled)
      used_note(client, *block);
    AF_POINT(client, 321);
    status = af_hold_record(client, *block, index);
    if (status != AF_OK)
      af_block_drop(client, *block);
  }
  af_op_end(client, outer);
  return status;
}

void af_node_ring(struct af_client *client) {
  af_ring(client, atomic_load_explicit(&client->header->spill_watch, memory_order_acquire));
}

void af_spill_ask(struct af_client *client, af_off spilled) {
  for (uint32_t i = 0; i < AF_SPILL_ASKED; i++) {
    af_off none = 0;
    if (atomic_compare_exchange_strong_explicit(&client->header->spill_asked[i], &none, spilled, memory_order_seq_cst,
                                                memory_order_relaxed) ||
        none == spilled)
      break;
  }
  AF_POINT(client, 322);
  af_node_ring(client);
}

void af_room_ask(struct af_client *client, uint64_t bytes) {
  _Atomic uint64_t *wanted = &client->header->room_wanted;
  uint64_t seen = atomic_load_explicit(wanted, memory_order_relaxed);
  while (seen < bytes && !atomic_compare_exchange_weak_explicit(wanted, &seen, bytes, memory_order_seq_cst,
                                                                memory_order_relaxed))
    ;
  atomic_store_explicit(&client->header->room_waited, 1, memory_order_seq_cst);
  AF_POINT(client, 323);
  af_node_ring(client);
}

void af_room_ring(struct af_client *client) {
  if (__builtin_expect(atomic_load_explicit(&client->header->room_waited, memory_order_seq_cst) == 0, 1))
    return;
  atomic_fetch_add_explicit(&client->header->room_bell, 1, memory_order_seq_cst);
  AF_POINT(client, 325);
  af_futex_wake(&client->header->room_bell, INT_MAX);
}

/* SYNC POINT spill-return: this release pairs with af_spill_returned's acquire. */
void af_spill_return(struct af_client *client, af_off spilled) {
  _Atomic af_off *returned = &client->header->spill_returned;
  af_off head = atomic_load_explicit(returned, memory_order_relaxed);
  do
    atomic_store_explicit(&spilled_at(client, spilled)->block.next, head, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(returned, &head, spilled, memory_order_seq_cst, memory_order_relaxed));
  AF_POINT(client, 324);
  if (head == 0)
    af_node_ring(client);
}

/* ---- the node: writing ---- */

static uint32_t age_of(const struct af_client *node, const struct af_spill_candidate *candidate) {
  return (clock_now(node) - candidate->used) & 0x7fffffff;
}

/* Keeps the array sorted by age, oldest first. Returns the new count. */
static uint32_t candidate_insert(const struct af_client *node, struct af_spill_candidate *candidates, uint32_t count,
                                 uint32_t most, const struct af_spill_candidate *candidate) {
  if (count == most && age_of(node, &candidates[count - 1]) >= age_of(node, candidate))
    return count;
  uint32_t at = count < most ? count++ : count - 1;
  for (; at > 0 && age_of(node, &candidates[at - 1]) < age_of(node, candidate); at--)
    candidates[at] = candidates[at - 1];
  candidates[at] = *candidate;
  return count;
}

/* Nobody but its cell counts it: not a view, or a block with buffers in it, that has outlived its cell's value. */
static bool is_idle(const struct af_client *node, af_off block) {
  const struct af_object *object = object_at(node, block);
  af_off cell = __atomic_load_n(&object->cell, __ATOMIC_ACQUIRE); /* SYNC POINT owner */
  return atomic_load_explicit(&object->block.count, memory_order_relaxed) == 1 && cell != 0 &&
         af_block_find(node, cell, object->cell_generation, AF_KIND_CELL) == AF_OK &&
         af_value_word(node, cell) == block;
}

/* Without the lock: what is read here may be about to change, and af_spill_begin looks again. */
uint32_t af_spill_pick(struct af_client *node, struct af_spill_candidate *candidates, uint32_t most, uint64_t least,
                       bool written) {
  const struct af_header *header = node->header;
  uint32_t count = 0, pages;
  for (uint64_t page = 0; page < header->wilderness_page; page += pages) {
    uint64_t word = atomic_load_explicit(&af_extent_at(node, (uint32_t)page)->word, memory_order_acquire);
    pages = af_extent_pages(word);
    if (pages == 0) { /* merged a moment ago: on to where an extent begins */
      pages = 1;
      continue;
    }
    af_off block = header->objects + page * AF_PAGE;
    struct af_object *object = object_at(node, block);
    if (!af_extent_used(word) || (uint64_t)pages * AF_PAGE < least || !is_idle(node, block) ||
        object->references > AF_SPILL_REFERENCES || (written && object->copy == 0))
      continue;
    struct af_spill_candidate candidate = {block, af_block_generation(node, block),
                                           __atomic_load_n(&object->used, __ATOMIC_RELAXED),
                                           (uint64_t)pages * AF_PAGE};
    count = candidate_insert(node, candidates, count, most, &candidate);
  }
  return count;
}

/* Revives and records. */
static int name_hold(struct af_client *node, af_off block, uint32_t generation, uint8_t kind, uint32_t *index) {
  int status = af_block_revive(node, block, generation, kind);
  if (status != AF_OK)
    return AF_BUSY;
  status = af_hold_record(node, block, index);
  if (status != AF_OK)
    af_block_drop(node, block);
  return status;
}

static int cell_hold(struct af_client *node, af_off cell, uint32_t generation, af_off word, uint32_t *index) {
  int status = name_hold(node, cell, generation, AF_KIND_CELL, index);
  if (status != AF_OK)
    return status;
  if (af_cell_is_done(node, cell) && af_value_word(node, cell) == word)
    return AF_OK;
  af_hold_drop(node, *index);
  return AF_BUSY;
}

int af_spill_begin(struct af_client *node, af_off block, uint32_t generation, struct af_spill_pins *pins) {
  struct af_object *object = object_at(node, block);
  uint32_t outer = af_op_begin(node, AF_OP_HOLD);
  int status = name_hold(node, block, generation, AF_KIND_OBJECT, &pins->block_hold);
  if (status == AF_OK) {
    AF_POINT(node, 326);
    if (atomic_load_explicit(&object->block.count, memory_order_relaxed) != 2) {
      af_hold_drop(node, pins->block_hold);
      status = AF_BUSY;
    }
  }
  pins->cell_hold = AF_NO_HOLD;
  pins->bytes = sizeof *object + object->bytes;
  pins->copy = object->copy;
  af_op_end(node, outer);
  if (status == AF_OK)
    AF_POINT(node, 327);
  return status;
}

/* Counts `count` references for their second owner. *filled goes up with each. */
static void references_copy(struct af_client *node, const af_off *from, af_off *to, uint32_t count, uint32_t *filled) {
  for (uint32_t i = 0; i < count; i++) {
    to[i] = from[i];
    af_block_hold(node, to[i]);
    AF_POINT(node, 329);
    *filled = i + 1;
  }
}

static int spilled_make(struct af_client *node, af_off block, af_off *spilled) {
  const struct af_object *object = object_at(node, block);
  uint32_t bytes = (uint32_t)(sizeof(struct af_spilled) + object->references * sizeof(af_off));
  int status = af_heap_allocate(node, bytes, AF_KIND_SPILLED, AF_MESSAGES, spilled);
  if (status != AF_OK)
    return status;
  struct af_spilled *made = spilled_at(node, *spilled);
  memset((uint8_t *)made + sizeof made->block, 0, sizeof *made - sizeof made->block);
  made->buffers = object->buffers;
  made->bytes = object->bytes;
  made->pickle_offset = object->pickle_offset;
  made->pickle_bytes = object->pickle_bytes;
  made->cell = object->cell;
  made->cell_generation = object->cell_generation;
  made->maker = object->maker;
  made->block.flags = object->block.flags;
  AF_POINT(node, 328);
  references_copy(node, (const af_off *)(object + 1), (af_off *)(made + 1), object->references, &made->references);
  return AF_OK;
}

/* SYNC POINT value: the exchange's release pairs with the readers' acquire of the word. */
static bool value_exchange(struct af_client *node, af_off cell, af_off from, af_off to) {
  return __atomic_compare_exchange_n(&AF_AT(node, struct af_cell, cell)->value, &from, to, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_RELAXED);
}

/* The value of `cell`, which the caller holds, is `block` no more but what stands for it. */
static int value_spill(struct af_client *node, af_off cell, af_off block, af_off *spilled) {
  int status = AF_OK;
  *spilled = object_at(node, block)->copy;
  if (*spilled != 0)
    af_block_hold(node, *spilled); /* the cell's; the object's own goes with it */
  else
    status = spilled_make(node, block, spilled);
  if (status != AF_OK)
    return status;
  AF_POINT(node, 330);
  if (value_exchange(node, cell, block, *spilled | AF_VALUE_SPILLED)) {
    AF_POINT(node, 331);
    af_block_drop(node, block);
  } else /* only the node exchanges: memory was written by another */
    af_block_drop(node, *spilled);
  return AF_OK;
}

int af_spill_commit(struct af_client *node, const struct af_spill_pins *pins, af_off *spilled) {
  af_off block = af_hold_block(node, pins->block_hold);
  const struct af_object *object = object_at(node, block);
  uint32_t cell_index, outer = af_op_begin(node, AF_OP_BLOCK);
  int status = cell_hold(node, object->cell, object->cell_generation, block, &cell_index);
  if (status == AF_OK) {
    status = value_spill(node, af_hold_block(node, cell_index), block, spilled);
    af_hold_drop(node, cell_index);
  } else if (status == AF_BUSY)
    status = AF_STALE;
  if (status == AF_OK)
    af_hold_drop(node, pins->block_hold);
  af_op_end(node, outer);
  return status;
}

void af_spill_abort(struct af_client *node, const struct af_spill_pins *pins) {
  uint32_t outer = af_op_begin(node, AF_OP_HOLD);
  af_hold_drop(node, pins->block_hold);
  if (pins->cell_hold != AF_NO_HOLD)
    af_hold_drop(node, pins->cell_hold);
  af_op_end(node, outer);
}

/* ---- the node: reading ---- */

static int object_make(struct af_client *node, const struct af_spilled *from, uint32_t *index) {
  af_off block;
  int status = af_extent_allocate(node, sizeof(struct af_object) + from->bytes, &block);
  if (status != AF_OK)
    return AF_FULL;
  struct af_object *object = object_at(node, block);
  object->bytes = from->bytes;
  object->buffers = from->buffers;
  object->pickle_offset = from->pickle_offset;
  object->pickle_bytes = from->pickle_bytes;
  object->maker = from->maker;
  object->block.flags = from->block.flags;
  AF_POINT(node, 333);
  status = af_hold_record(node, block, index);
  if (status != AF_OK)
    af_block_drop(node, block);
  return status;
}

int af_restore_begin(struct af_client *node, af_off spilled, struct af_spill_pins *pins) {
  const struct af_spilled *from = spilled_at(node, spilled);
  uint32_t outer = af_op_begin(node, AF_OP_HOLD);
  int status = cell_hold(node, from->cell, from->cell_generation, spilled | AF_VALUE_SPILLED, &pins->cell_hold);
  if (status == AF_OK) {
    AF_POINT(node, 332);
    status = object_make(node, from, &pins->block_hold);
    if (status != AF_OK)
      af_hold_drop(node, pins->cell_hold);
  } else
    status = AF_STALE;
  pins->bytes = sizeof(struct af_object) + from->bytes;
  pins->copy = 0;
  af_op_end(node, outer);
  return status;
}

static void turn_end(struct af_client *node, af_off spilled, enum af_spill_failure failure) {
  struct af_spilled *of = spilled_at(node, spilled);
  atomic_store_explicit(&of->failure, (uint32_t)failure, memory_order_relaxed);
  atomic_fetch_add_explicit(&of->turn, 1, memory_order_release);
  AF_POINT(node, 336);
  af_futex_wake(&of->turn, INT_MAX);
}

void af_restore_commit(struct af_client *node, af_off spilled, const struct af_spill_pins *pins) {
  af_off block = af_hold_block(node, pins->block_hold), cell = af_hold_block(node, pins->cell_hold);
  const struct af_spilled *from = spilled_at(node, spilled);
  struct af_object *object = object_at(node, block);
  uint32_t outer = af_op_begin(node, AF_OP_BLOCK);
  references_copy(node, (const af_off *)(from + 1), (af_off *)(object + 1), from->references, &object->references);
  object->cell = cell;
  object->cell_generation = af_block_generation(node, cell);
  used_note(node, block);
  af_block_hold(node, block); /* the cell's */
  af_block_hold(node, spilled); /* the object's */
  object->copy = spilled;
  AF_POINT(node, 334);
  if (value_exchange(node, cell, spilled | AF_VALUE_SPILLED, block)) {
    AF_POINT(node, 335);
    turn_end(node, spilled, AF_SPILL_NONE);
    af_block_drop(node, spilled); /* the cell's */
  } else {
    af_block_drop(node, block);
  }
  af_spill_abort(node, pins);
  af_op_end(node, outer);
}

void af_restore_fail(struct af_client *node, af_off spilled, enum af_spill_failure failure) {
  turn_end(node, spilled, failure);
}

void af_spill_lose(struct af_client *node, af_off spilled, af_off error) {
  af_off none = 0;
  uint32_t outer = af_op_begin(node, AF_OP_BLOCK);
  af_block_hold(node, error);
  if (!atomic_compare_exchange_strong_explicit(&spilled_at(node, spilled)->error, &none, error, memory_order_acq_rel,
                                               memory_order_relaxed))
    af_block_drop(node, error);
  turn_end(node, spilled, AF_SPILL_LOST);
  af_op_end(node, outer);
}

void af_spill_rebuilding(struct af_client *node, af_off spilled, bool on) {
  struct af_spilled *of = spilled_at(node, spilled);
  atomic_store_explicit(&of->rebuilding, on, memory_order_release);
  af_futex_wake(&of->turn, INT_MAX);
}

bool af_spill_replace(struct af_client *node, af_off spilled, af_off word) {
  if (!value_exchange(node, spilled_at(node, spilled)->cell, spilled | AF_VALUE_SPILLED, word))
    return false;
  turn_end(node, spilled, AF_SPILL_NONE);
  af_block_drop(node, spilled);
  return true;
}

uint32_t af_spill_asked(struct af_client *node, af_off *asked, uint32_t most) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < AF_SPILL_ASKED && count < most; i++)
    if (atomic_load_explicit(&node->header->spill_asked[i], memory_order_relaxed) != 0)
      asked[count++] = atomic_exchange_explicit(&node->header->spill_asked[i], 0, memory_order_seq_cst);
  AF_POINT(node, 337);
  return count;
}

uint32_t af_spill_returned(struct af_client *node, af_off *returned, uint32_t most) {
  _Atomic af_off *list = &node->header->spill_returned;
  uint32_t outer = af_op_begin(node, AF_OP_SPILL);
  af_off block = atomic_exchange_explicit(list, 0, memory_order_acquire);
  uint32_t count = 0;
  AF_POINT(node, 338);
  for (; block != 0 && count < most; count++) {
    returned[count] = block;
    block = atomic_load_explicit(&spilled_at(node, block)->block.next, memory_order_relaxed);
  }
  while (block != 0) { /* more than there is room for: back on the list */
    af_off next = atomic_load_explicit(&spilled_at(node, block)->block.next, memory_order_relaxed);
    af_spill_return(node, block);
    block = next;
  }
  af_op_end(node, outer);
  return count;
}

void af_spill_free(struct af_client *node, af_off spilled) {
  uint32_t outer = af_op_begin(node, AF_OP_BLOCK);
  af_heap_free(node, spilled);
  af_op_end(node, outer);
}
