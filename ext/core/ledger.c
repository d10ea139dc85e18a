/* ledger.c - lists what is held and by whom; see ledger.h. */
#include "ledger.h"

#include "block.h"
#include "slot.h"

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
