/* rebuild.c - the node: makes a lost value again by running its call once more; see lineage.h. */
#include <string.h>

#include "block.h"
#include "extent.h"
#include "heap.h"
#include "lineage.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "spill.h"

#define TASK_FLAG 1u  /* struct af_cell.flags: the call names a function; an actor's does not */
#define ERROR_FORMAT 3u
#define KEPT_RESERVE 64u /* room for a result behind arguments that are kept for another attempt */

static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}
static struct af_lineage *lineage_at(const struct af_client *client, af_off lineage) {
  return AF_AT(client, struct af_lineage, lineage);
}
static struct af_spilled *spilled_at(const struct af_client *client, af_off spilled) {
  return AF_AT(client, struct af_spilled, spilled);
}
static const struct af_lineage_input *inputs_of(const struct af_lineage *of) {
  return (const struct af_lineage_input *)(of + 1);
}

/* ---- looking ---- */

static enum af_lineage_origin origin_of(const struct af_cell *of) {
  if (of->block.flags & AF_CELL_ITEM)
    return AF_ORIGIN_ITEM;
  if (of->mailbox == 0)
    return of->parent == 0 ? AF_ORIGIN_PUT : AF_ORIGIN_NOT_KEPT;
  if (of->value_place == 0)
    return of->flags & TASK_FLAG ? AF_ORIGIN_NO_RETRIES : AF_ORIGIN_ACTOR;
  return of->retries == 0 ? AF_ORIGIN_USED_UP : AF_ORIGIN_NOT_KEPT;
}

enum af_lineage_origin af_lineage_of(struct af_client *node, af_off spilled, af_off *lineage, uint32_t *hold,
                                     uint32_t *index) {
  const struct af_spilled *from = spilled_at(node, spilled);
  enum af_lineage_origin origin = AF_ORIGIN_NOT_KEPT;
  uint32_t outer = af_op_begin(node, AF_OP_LINEAGE);
  if (af_block_revive(node, from->cell, from->cell_generation, AF_KIND_CELL) == AF_OK) {
    const struct af_cell *of = cell_at(node, from->cell);
    *lineage = atomic_load_explicit(&of->lineage, memory_order_acquire);
    *index = of->mailbox == 0 ? (uint32_t)of->number : 0;
    if (*lineage == 0)
      origin = origin_of(of);
    else if (af_hold_take(node, *lineage, hold) == AF_OK)
      origin = AF_ORIGIN_CALL;
    af_block_drop(node, from->cell);
  }
  af_op_end(node, outer);
  return origin;
}

int af_lineage_look(const struct af_client *node, af_off lineage) {
  const struct af_lineage *of = lineage_at(node, lineage);
  if (of->emptied)
    return AF_EMPTY;
  if (of->retries == 0)
    return AF_FULL;
  return atomic_load_explicit(&AF_AT(node, struct af_mailbox, of->mailbox)->closed, memory_order_acquire) ? AF_CLOSED
                                                                                                         : AF_OK;
}

/* An input that is there: it may lie on disk. */
static void input_there(struct af_client *node, af_off name, af_off *of, uint32_t *hold) {
  bool is_spilled = false;
  int status = AF_EMPTY;
  if (AF_AT(node, struct af_block, name)->kind == AF_KIND_CELL && af_cell_is_done(node, name))
    status = af_value_hold(node, name, of, &is_spilled, hold);
  if (status == AF_OK && is_spilled)
    return;
  if (status == AF_OK)
    af_hold_drop(node, *hold);
  *of = 0;
}

int af_lineage_input(struct af_client *node, af_off lineage, uint32_t i, af_off *of, uint32_t *hold, uint32_t *index) {
  const struct af_lineage_input *input = &inputs_of(lineage_at(node, lineage))[i];
  int status = AF_OK;
  *of = 0;
  if (input->held == input->name)
    return AF_OK;
  uint32_t outer = af_op_begin(node, AF_OP_LINEAGE);
  if (af_block_revive(node, input->name, input->generation, 0) == AF_OK) {
    input_there(node, input->name, of, hold);
    af_block_drop(node, input->name);
  } else if (input->held != 0 && af_hold_take(node, input->held, hold) == AF_OK) {
    *of = input->held;
    *index = input->index;
    status = AF_STALE;
  } else
    status = AF_BAD;
  af_op_end(node, outer);
  return status;
}

/* ---- running ---- */

/* Counts the inputs for the call. AF_STALE: one is gone; those before it are counted, `references` says so. */
static int references_fill(struct af_client *node, const struct af_lineage *of, const af_off *instead,
                           struct af_cell *call) {
  const struct af_lineage_input *inputs = inputs_of(of);
  af_off *references = (af_off *)(call + 1);
  for (uint32_t i = 0; i < of->inputs; i++) {
    af_off reference = instead[i] != 0 ? instead[i] : inputs[i].name;
    if (instead[i] != 0 || inputs[i].held == inputs[i].name)
      af_block_hold(node, reference);
    else if (af_block_revive(node, reference, inputs[i].generation, 0) != AF_OK)
      return AF_STALE;
    references[call->references++] = reference;
  }
  return AF_OK;
}

/* Return cells 2..n, each held once by the node and once by the call. */
static int returns_make(struct af_client *node, const struct af_lineage *of, struct af_cell *call, uint32_t *holds) {
  af_off *references = (af_off *)(call + 1), cell;
  for (uint32_t i = 0; i < of->returns; i++) {
    int status = af_cell_expected_create(node, KEPT_RESERVE, &cell);
    if (status == AF_OK && (status = af_hold_record(node, cell, &holds[i + 1])) != AF_OK)
      af_block_drop(node, cell);
    if (status != AF_OK)
      return status;
    af_block_hold(node, cell);
    references[call->references++] = cell;
    call->returns++;
  }
  return AF_OK;
}

static void call_fill(const struct af_lineage *of, struct af_cell *call) {
  call->mailbox = of->mailbox;
  call->number = of->number;
  call->caller = of->caller;
  call->caller_epoch = of->caller_epoch;
  call->arguments = of->arguments;
  call->bytes = of->bytes;
  call->attempt = of->attempt + 1;
  call->limit_ms = of->limit_ms;
  call->method = of->method;
  call->depth = of->depth;
  call->format = of->format;
  call->flags = of->flags;
}

/* Each result finds its call by name, as those of any call. */
static void returns_name(struct af_client *node, af_off cell) {
  const struct af_cell *call = cell_at(node, cell);
  const af_off *references = (const af_off *)(call + 1);
  for (uint32_t i = call->references - call->returns; i < call->references; i++) {
    cell_at(node, references[i])->parent = cell;
    cell_at(node, references[i])->parent_generation = call->block.generation;
  }
}

static int call_make(struct af_client *node, af_off lineage, const af_off *instead, af_off cell, uint32_t *holds) {
  const struct af_lineage *of = lineage_at(node, lineage);
  struct af_cell *call = cell_at(node, cell);
  call->references = 0;
  int status = references_fill(node, of, instead, call);
  if (status == AF_OK)
    status = returns_make(node, of, call, holds);
  if (status != AF_OK) {
    for (uint32_t i = 0; i < call->returns; i++)
      af_hold_drop(node, holds[i + 1]);
    return status;
  }
  call_fill(of, call);
  returns_name(node, cell);
  af_cell_allow_retries(node, cell, of->retries > 0 ? of->retries - 1 : of->retries);
  memcpy(af_cell_bytes(node, cell), inputs_of(of) + of->inputs, of->bytes);
  af_block_hold(node, lineage);
  atomic_store_explicit(&call->lineage, lineage, memory_order_release);
  return AF_OK;
}

/* By the ready list, as one that is run again: it lies in nobody's lane, and needs nobody's credit. */
static int call_send(struct af_client *node, af_off cell) {
  af_off entry;
  int status = af_cell_entry(node, cell, &entry);
  if (status != AF_OK)
    return status;
  atomic_store_explicit(&cell_at(node, cell)->state, af_state_of(node, AF_WAITING), memory_order_release);
  af_cell_on_its_way(node, cell);
  af_cell_advance(node, entry);
  return AF_OK;
}

int af_lineage_run(struct af_client *node, af_off lineage, const af_off *instead, uint32_t *holds) {
  const struct af_lineage *of = lineage_at(node, lineage);
  uint32_t references = of->inputs + of->returns;
  uint32_t reserve = references * (uint32_t)sizeof(af_off) + of->bytes + KEPT_RESERVE;
  af_off cell;
  uint32_t outer = af_op_begin(node, AF_OP_LINEAGE);
  int status = af_cell_create(node, references, of->bytes, reserve, &cell);
  if (status == AF_OK && (status = af_hold_record(node, cell, &holds[0])) != AF_OK)
    af_block_drop(node, cell);
  else if (status == AF_OK) {
    status = call_make(node, lineage, instead, cell, holds);
    if (status == AF_OK && (status = call_send(node, cell)) != AF_OK)
      for (uint32_t i = 0; i < of->returns; i++)
        af_hold_drop(node, holds[i + 1]);
    if (status != AF_OK)
      af_hold_drop(node, holds[0]);
  }
  af_op_end(node, outer);
  return status;
}

void af_lineage_ran(struct af_client *node, af_off lineage, af_off call) {
  lineage_at(node, lineage)->retries = cell_at(node, call)->retries;
  lineage_at(node, lineage)->attempt = cell_at(node, call)->attempt;
}

/* ---- the value ---- */

/* A value that lies in its cell as one in a block: references, then bytes. */
static void object_fill(struct af_client *node, af_off cell, struct af_object *made) {
  const struct af_cell *of = cell_at(node, cell);
  const af_off *value = af_cell_value(node, cell);
  af_off *references = (af_off *)(made + 1);
  made->bytes = of->value_refs * sizeof(af_off) + of->value_bytes;
  made->pickle_offset = sizeof *made + of->value_refs * sizeof(af_off);
  made->pickle_bytes = of->value_bytes;
  memcpy(references, value, made->bytes);
  for (uint32_t i = 0; i < of->value_refs; i++)
    af_block_hold(node, references[i]);
  made->references = of->value_refs;
}

/* The same from a BYTES block: all offsets in it are from its start. */
static void object_copy(struct af_client *node, const struct af_object *from, struct af_object *made) {
  const af_off *references = (const af_off *)(made + 1);
  memcpy(made + 1, from + 1, from->bytes);
  made->bytes = from->bytes;
  made->buffers = from->buffers;
  made->pickle_offset = from->pickle_offset;
  made->pickle_bytes = from->pickle_bytes;
  for (uint32_t i = 0; i < from->references; i++)
    af_block_hold(node, references[i]);
  made->references = from->references;
}

static uint64_t value_bytes(const struct af_client *node, af_off cell) {
  const struct af_cell *of = cell_at(node, cell);
  af_off block = af_value_block(node, cell);
  return block != 0 ? AF_AT(node, struct af_object, block)->bytes : of->value_refs * sizeof(af_off) + of->value_bytes;
}

static void value_copy(struct af_client *node, af_off cell, af_off block) {
  struct af_object *made = AF_AT(node, struct af_object, block);
  af_off from = af_value_block(node, cell);
  made->buffers = made->references = 0;
  if (from != 0)
    object_copy(node, AF_AT(node, struct af_object, from), made);
  else
    object_fill(node, cell, made);
}

/* A block with the value, counted: the object that it is already, or one made of what is smaller this time. */
static int value_take(struct af_client *node, af_off cell, af_off *word) {
  *word = af_value_word(node, cell);
  if (af_value_moves(node, *word)) {
    af_block_hold(node, *word & ~(af_off)AF_VALUE_SPILLED);
    return AF_OK;
  }
  if (af_extent_allocate(node, sizeof(struct af_object) + value_bytes(node, cell), word) != AF_OK)
    return AF_FULL;
  value_copy(node, cell, *word);
  AF_AT(node, struct af_block, *word)->flags = cell_at(node, cell)->value_format;
  return AF_OK;
}

/* The value is found by its new cell from now on. */
static void owner_set(struct af_client *node, af_off word, af_off cell) {
  uint32_t generation = af_block_generation(node, cell);
  struct af_object *object = AF_AT(node, struct af_object, word);
  af_off spilled = word & AF_VALUE_SPILLED ? word & ~(af_off)AF_VALUE_SPILLED : object->copy;
  if (spilled != 0) {
    spilled_at(node, spilled)->cell = cell;
    spilled_at(node, spilled)->cell_generation = generation;
  }
  if (word & AF_VALUE_SPILLED)
    return;
  object->cell_generation = generation;
  __atomic_store_n(&object->cell, cell, __ATOMIC_RELEASE); /* SYNC POINT owner */
}

/* The error as a block; one that lies in its cell is copied. */
static int error_give(struct af_client *node, af_off spilled, af_off cell) {
  af_off error = af_value_word(node, cell);
  uint64_t bytes = sizeof(struct af_object) + value_bytes(node, cell);
  if (error & AF_VALUE_SPILLED || bytes > AF_LARGE_MAX)
    return AF_TOO_LARGE;
  if (error != 0) {
    af_spill_lose(node, spilled, error);
    return AF_OK;
  }
  int status = af_heap_allocate(node, (uint32_t)bytes, AF_KIND_BYTES, AF_MESSAGES, &error);
  if (status != AF_OK)
    return AF_FULL;
  value_copy(node, cell, error);
  af_spill_lose(node, spilled, error);
  af_block_drop(node, error);
  return AF_OK;
}

static int value_give(struct af_client *node, af_off spilled, af_off target, af_off cell) {
  af_off word;
  if (cell_at(node, cell)->value_format == ERROR_FORMAT)
    return error_give(node, spilled, cell);
  int status = value_take(node, cell, &word);
  if (status != AF_OK)
    return status;
  owner_set(node, word, target);
  if (af_spill_replace(node, spilled, word))
    return AF_OK;
  af_block_drop(node, word & ~(af_off)AF_VALUE_SPILLED);
  return AF_STALE;
}

int af_lineage_deliver(struct af_client *node, af_off spilled, af_off cell) {
  const struct af_spilled *from = spilled_at(node, spilled);
  af_off target = from->cell;
  uint32_t outer = af_op_begin(node, AF_OP_LINEAGE);
  int status = af_block_revive(node, target, from->cell_generation, AF_KIND_CELL);
  if (status == AF_OK) {
    status = value_give(node, spilled, target, cell);
    af_block_drop(node, target);
  } else
    status = AF_STALE;
  af_op_end(node, outer);
  return status;
}
