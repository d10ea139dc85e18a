/* ledger.c - lists what is held and by whom; see ledger.h. */
#include "ledger.h"

#include "block.h"
#include "cell.h"
#include "extent.h"
#include "heap.h"
#include "slot.h"
#include "spill.h"

struct listing {
  const struct af_client *client;
  struct af_ledger_value *values;
  uint32_t count, most;
};

static void value_note(struct listing *listing, struct af_ledger_value value, af_off cell, uint32_t generation) {
  const struct af_client *client = listing->client;
  if (cell != 0 && af_block_find(client, cell, generation, AF_KIND_CELL) == AF_OK) {
    const struct af_cell *of = AF_AT(client, struct af_cell, cell);
    uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
    value.cell = cell;
    value.cell_generation = generation;
    value.references = atomic_load_explicit(&of->block.count, memory_order_relaxed);
    value.slot = (uint32_t)(state >> 16 & 0xffff);
    value.epoch = (uint32_t)(state >> 32);
  }
  if (listing->count < listing->most)
    listing->values[listing->count] = value;
  listing->count++;
}

static void object_note(struct listing *listing, af_off block) {
  const struct af_object *object = AF_AT(listing->client, struct af_object, block);
  if (!af_block_is_live(listing->client, block) || object->block.kind != AF_KIND_OBJECT)
    return;
  struct af_ledger_value value = {.block = block, .bytes = sizeof *object + object->bytes, .maker = object->maker,
                                  .places = AF_LEDGER_MEMORY | (object->copy != 0 ? AF_LEDGER_DISK : 0)};
  value_note(listing, value, __atomic_load_n(&object->cell, __ATOMIC_ACQUIRE), object->cell_generation);
}

/* Not what an object owns as its copy: that is told with the object. */
static void spilled_note(struct listing *listing, af_off block) {
  const struct af_client *client = listing->client;
  const struct af_spilled *spilled = AF_AT(client, struct af_spilled, block);
  if (__atomic_load_n(&spilled->block.kind, __ATOMIC_ACQUIRE) != AF_KIND_SPILLED || !af_block_is_live(client, block) ||
      af_block_find(client, spilled->cell, spilled->cell_generation, AF_KIND_CELL) != AF_OK ||
      af_value_word(client, spilled->cell) != (block | AF_VALUE_SPILLED))
    return;
  struct af_ledger_value value = {.bytes = sizeof(struct af_object) + spilled->bytes, .maker = spilled->maker,
                                  .places = AF_LEDGER_DISK};
  value_note(listing, value, spilled->cell, spilled->cell_generation);
}

static void objects_list(struct listing *listing) {
  const struct af_header *header = listing->client->header;
  for (uint64_t page = 0, pages; page < header->wilderness_page; page += pages) {
    uint64_t word = atomic_load_explicit(&af_extent_at(listing->client, (uint32_t)page)->word, memory_order_acquire);
    pages = af_extent_pages(word);
    if (pages == 0)
      pages = 1; /* merged a moment ago: on to where an extent begins */
    else if (af_extent_used(word))
      object_note(listing, header->objects + page * AF_PAGE);
  }
}

static void spilled_list(struct listing *listing) {
  const struct af_client *client = listing->client;
  for (uint32_t i = 0; i < af_span_top(client); i++) {
    struct af_span *span = af_span_at(client, i);
    uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
    uint32_t class_index = af_span_class(owner), fresh = atomic_load_explicit(&span->fresh, memory_order_acquire);
    if (owner == 0 || class_index > AF_CLASSES || af_span_role_of(owner) != AF_SPAN_HEAD)
      continue;
    uint32_t bytes = class_index == AF_CLASSES ? AF_SPAN : af_class_bytes[class_index];
    for (uint32_t j = 0; j < fresh && j < AF_SPAN / bytes; j++)
      spilled_note(listing, af_span_start(client, i) + (af_off)j * bytes);
  }
}

uint32_t af_ledger_values(const struct af_client *client, struct af_ledger_value *values, uint32_t most) {
  struct listing listing = {client, values, 0, most};
  objects_list(&listing);
  spilled_list(&listing);
  return listing.count;
}

static bool is_table(const struct af_client *client, af_off chunk) {
  const struct af_holds *holds = AF_AT(client, struct af_holds, chunk);
  return af_block_is_live(client, chunk) && holds->block.kind == AF_KIND_HOLDS &&
         holds->capacity <= (holds->block.capacity - sizeof *holds) / sizeof(af_off);
}

uint32_t af_ledger_holds(const struct af_client *client, uint32_t slot, struct af_ledger_hold *holds, uint32_t most) {
  uint32_t count = 0;
  af_off chunk = slot < client->header->slot_count
                     ? atomic_load_explicit(&af_slot_at(client, slot)->holds, memory_order_acquire)
                     : 0;
  for (uint64_t i = 0; i < client->size_bytes / AF_HOLDS_FIRST && is_table(client, chunk); i++) {
    const struct af_holds *table = AF_AT(client, struct af_holds, chunk);
    for (uint32_t j = 0; j < table->capacity; j++) {
      af_off block = atomic_load_explicit(&table->entries[j], memory_order_acquire);
      if (block == 0 || !af_block_is_live(client, block))
        continue;
      if (count < most)
        holds[count] = (struct af_ledger_hold){block, af_block_generation(client, block),
                                               AF_AT(client, struct af_block, block)->kind};
      count++;
    }
    chunk = atomic_load_explicit(&table->next_chunk, memory_order_acquire);
  }
  return count;
}
