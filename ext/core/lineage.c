/* lineage.c - keeps what a value in the object store was made from; see lineage.h. Running it again: rebuild.c. */
#include "lineage.h"

#include <string.h>

#include "block.h"
#include "heap.h"
#include "points.h"
#include "slot.h"
#include "spill.h"

static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}
static struct af_lineage *lineage_at(const struct af_client *client, af_off lineage) {
  return AF_AT(client, struct af_lineage, lineage);
}
static struct af_block *block_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block);
}

/* ---- what is kept ---- */

static uint32_t returns_of(const struct af_cell *of) { return of->returns < of->references ? of->returns : of->references; }

/* Whether it is there: an item of a stream is made by running all of it. */
static bool is_stored_return(const struct af_client *client, af_off cell) {
  return cell != 0 && !(block_at(client, cell)->flags & AF_CELL_ITEM) && af_cell_is_done(client, cell) &&
         af_value_moves(client, af_value_word(client, cell));
}

static bool has_stored_result(const struct af_client *client, af_off cell) {
  const struct af_cell *of = cell_at(client, cell);
  const af_off *references = af_cell_references(client, cell);
  if (of->value >= client->header->objects)
    return true;
  for (uint32_t i = of->references - returns_of(of); i < of->references; i++)
    if (is_stored_return(client, references[i]))
      return true;
  return false;
}

static bool refers_to_object(const struct af_client *client, af_off block) {
  const struct af_object *of = AF_AT(client, struct af_object, block);
  const af_off *references = (const af_off *)(of + 1);
  for (uint32_t i = 0; i < of->references; i++)
    if (references[i] >= client->header->objects)
      return true;
  return false;
}

/* Arguments by value that lie in the object store, wholly or their buffers, are not kept: it would be full of them. */
static bool has_stored_arguments(const struct af_client *client, af_off cell, uint32_t inputs) {
  const af_off *references = af_cell_references(client, cell);
  for (uint32_t i = 0; i < inputs; i++)
    if (references[i] >= client->header->objects ||
        (block_at(client, references[i])->kind == AF_KIND_BYTES && refers_to_object(client, references[i])))
      return true;
  return false;
}

/* A value that is small and refers to nothing: bytes that it takes; 0: it is another. */
static uint64_t small_bytes(const struct af_client *client, af_off cell) {
  const struct af_cell *of = cell_at(client, cell);
  if (!af_cell_is_done(client, cell))
    return 0;
  af_off value = af_value_word(client, cell);
  if (value == 0)
    return of->value_refs == 0 ? of->block.capacity : 0;
  if (af_value_moves(client, value) || AF_AT(client, struct af_object, value)->references != 0)
    return 0;
  return of->block.capacity + block_at(client, value)->capacity;
}

/* Returns the bytes that are kept with it. */
static uint64_t input_fill(struct af_client *client, af_off reference, struct af_lineage_input *input) {
  const struct af_cell *of = cell_at(client, reference);
  uint8_t kind = of->block.kind;
  uint64_t bytes = kind == AF_KIND_CELL ? small_bytes(client, reference) : kind == AF_KIND_BYTES ? of->block.capacity : 0;
  *input = (struct af_lineage_input){.name = reference, .generation = of->block.generation};
  if (bytes > 0 || kind == AF_KIND_MAILBOX)
    input->held = reference;
  else if (kind == AF_KIND_CELL && af_cell_is_done(client, reference)) { /* else whoever settles it may take it away */
    input->held = atomic_load_explicit(&of->lineage, memory_order_acquire);
    input->index = of->mailbox == 0 ? (uint32_t)of->number : 0;
  }
  if (input->held != 0)
    af_block_hold(client, input->held);
  return bytes;
}

static void call_copy(struct af_client *client, const struct af_cell *of, struct af_lineage *made) {
  made->sequence = atomic_fetch_add_explicit(&client->header->lineage_made, 1, memory_order_relaxed);
  made->emptied = 0;
  made->mailbox = of->mailbox;
  made->number = of->number;
  made->caller = of->caller;
  made->caller_epoch = of->caller_epoch;
  made->arguments = of->arguments;
  made->returns = returns_of(of);
  made->bytes = of->bytes;
  made->attempt = of->attempt;
  made->limit_ms = of->limit_ms;
  made->retries = of->retries;
  made->method = of->method;
  made->depth = of->depth;
  made->format = of->format;
  made->flags = of->flags;
}

/* A BYTES block, which owns nothing, until it is filled in. */
static int lineage_make(struct af_client *client, af_off cell, uint32_t inputs, af_off *lineage) {
  const struct af_cell *of = cell_at(client, cell);
  uint64_t bytes = sizeof(struct af_lineage) + inputs * sizeof(struct af_lineage_input) + of->bytes;
  int status = bytes > AF_LARGE_MAX ? AF_TOO_LARGE
                                    : af_heap_allocate(client, (uint32_t)bytes, AF_KIND_BYTES, AF_MESSAGES, lineage);
  if (status != AF_OK)
    return status;
  struct af_lineage *made = lineage_at(client, *lineage);
  struct af_lineage_input *input = (struct af_lineage_input *)(made + 1);
  made->charged = made->block.capacity;
  for (uint32_t i = 0; i < inputs; i++)
    made->charged += input_fill(client, af_cell_references(client, cell)[i], &input[i]);
  memcpy(input + inputs, af_cell_bytes(client, cell), of->bytes);
  call_copy(client, of, made);
  af_block_hold(client, made->mailbox);
  AF_POINT(client, 840);
  made->inputs = inputs;
  af_block_become(&made->block, AF_KIND_LINEAGE);
  return AF_OK;
}

static void lineage_link(struct af_client *client, af_off cell, af_off lineage) {
  af_block_hold(client, lineage);
  atomic_store_explicit(&cell_at(client, cell)->lineage, lineage, memory_order_release);
}

/* To the cells with results in the store; those of return cells learn which they are. */
static void lineage_share(struct af_client *client, af_off cell, af_off lineage) {
  const struct af_cell *of = cell_at(client, cell);
  const af_off *references = af_cell_references(client, cell);
  uint32_t first = of->references - returns_of(of);
  for (uint32_t i = first; i < of->references; i++) {
    if (!is_stored_return(client, references[i]) || cell_at(client, references[i])->lineage != 0)
      continue;
    cell_at(client, references[i])->number = i - first + 1;
    lineage_link(client, references[i], lineage);
  }
  if (of->value >= client->header->objects)
    lineage_link(client, cell, lineage);
}

static void charge(struct af_client *client, uint64_t bytes) {
  uint64_t now = atomic_fetch_add_explicit(&client->header->lineage_bytes, bytes, memory_order_relaxed) + bytes;
  if (now > atomic_load_explicit(&client->header->lineage_limit, memory_order_relaxed))
    af_node_ring(client);
}

/* One that runs for a lost value has its lineage already. */
void af_lineage_keep(struct af_client *client, af_off cell) {
  const struct af_cell *of = cell_at(client, cell);
  af_off lineage;
  if (!has_stored_result(client, cell) || of->retries == 0 || of->lineage != 0)
    return;
  uint32_t inputs = of->references - returns_of(of);
  if (atomic_load_explicit(&client->header->lineage_limit, memory_order_relaxed) == 0 ||
      has_stored_arguments(client, cell, inputs) || lineage_make(client, cell, inputs, &lineage) != AF_OK)
    return;
  charge(client, lineage_at(client, lineage)->charged);
  lineage_share(client, cell, lineage);
  af_block_drop(client, lineage);
}

void af_lineage_uncharge(struct af_client *client, af_off lineage) {
  atomic_fetch_sub_explicit(&client->header->lineage_bytes, lineage_at(client, lineage)->charged, memory_order_relaxed);
}

/* ---- the budget ---- */

struct listing { struct af_lineage_fact *facts; uint32_t most, count; uint64_t bytes; };

static void lineage_note(void *context, struct af_client *node, af_off block) {
  struct listing *listing = context;
  const struct af_lineage *of = lineage_at(node, block);
  uint32_t generation = af_block_generation(node, block);
  if (__atomic_load_n(&of->block.kind, __ATOMIC_ACQUIRE) != AF_KIND_LINEAGE ||
      af_block_revive(node, block, generation, AF_KIND_LINEAGE) != AF_OK)
    return;
  listing->bytes += of->charged;
  if (!of->emptied && listing->count++ < listing->most)
    listing->facts[listing->count - 1] = (struct af_lineage_fact){block, generation, of->sequence, of->charged};
  af_block_drop(node, block);
}

uint32_t af_lineage_list(struct af_client *node, struct af_lineage_fact *facts, uint32_t most) {
  struct listing listing = {facts, most, 0, 0};
  uint64_t before = atomic_load_explicit(&node->header->lineage_bytes, memory_order_relaxed);
  uint64_t made = atomic_load_explicit(&node->header->lineage_made, memory_order_relaxed);
  uint32_t outer = af_op_begin(node, AF_OP_LINEAGE);
  af_heap_each(node, lineage_note, &listing);
  af_op_end(node, outer);
  if (made == atomic_load_explicit(&node->header->lineage_made, memory_order_relaxed))
    atomic_compare_exchange_strong_explicit(&node->header->lineage_bytes, &before, listing.bytes, memory_order_relaxed,
                                            memory_order_relaxed);
  return listing.count;
}

/* What it held is not its own any more before the first is dropped. */
static void lineage_empty(struct af_client *node, struct af_lineage *of) {
  const struct af_lineage_input *input = (const struct af_lineage_input *)(of + 1);
  uint32_t inputs = of->inputs;
  af_off mailbox = of->mailbox;
  of->emptied = 1;
  of->inputs = 0;
  of->mailbox = 0;
  af_lineage_uncharge(node, AF_OFF(node, of));
  of->charged = 0;
  if (mailbox != 0)
    af_block_drop(node, mailbox);
  for (uint32_t i = 0; i < inputs; i++)
    if (input[i].held != 0)
      af_block_drop(node, input[i].held);
}

/* An emptied one that is of no use to this one. */
static void input_prune(struct af_client *node, struct af_lineage_input *input) {
  af_off held = input->held;
  if (held == 0 || block_at(node, held)->kind != AF_KIND_LINEAGE || !lineage_at(node, held)->emptied)
    return;
  input->held = 0;
  af_block_drop(node, held);
}

static void lineage_prune(void *context, struct af_client *node, af_off block) {
  struct af_lineage *of = lineage_at(node, block);
  (void)context;
  if (__atomic_load_n(&of->block.kind, __ATOMIC_ACQUIRE) != AF_KIND_LINEAGE ||
      af_block_revive(node, block, af_block_generation(node, block), AF_KIND_LINEAGE) != AF_OK)
    return;
  for (uint32_t i = 0; i < of->inputs; i++)
    input_prune(node, (struct af_lineage_input *)(of + 1) + i);
  af_block_drop(node, block);
}

void af_lineage_prune(struct af_client *node) {
  uint32_t outer = af_op_begin(node, AF_OP_LINEAGE);
  af_heap_each(node, lineage_prune, NULL);
  af_op_end(node, outer);
}

int af_lineage_empty(struct af_client *node, af_off lineage, uint32_t generation) {
  uint32_t outer = af_op_begin(node, AF_OP_LINEAGE);
  int status = af_block_revive(node, lineage, generation, AF_KIND_LINEAGE);
  if (status == AF_OK) {
    lineage_empty(node, lineage_at(node, lineage));
    af_block_drop(node, lineage);
  }
  af_op_end(node, outer);
  return status;
}
