/* block.h - blocks and the references between them.
 *
 * A reference is counted before it is visible and dropped when its owner is freed. Owners: slots (hold tables) and
 * blocks. What a block owns is listed by af_block_each (one place, used by free, coroner and audit).
 * Freeing is iterative (a work list through block.next), so a chain of a million blocks does not use the stack. */
#ifndef AF_BLOCK_H
#define AF_BLOCK_H
#include "af.h"

typedef void (*af_visit)(void *context, af_off *reference);
/* Calls `visit` for each counted reference that the block owns now (a copy of it). 0 and what is no place of a block
 * (garbage) too: visitors check. By kind:
 *   MAILBOX: first, error, the members of ready and of queue, page.next, page.lanes. LANES: page.next, page.lanes.
 *   LANE: the calls from `taken` to `pushed`, and every chunk from head_chunk on. CHUNK: nothing. ACTOR: mailbox.
 *   CELL: references; value, or the value's references when it lies in the cell; the members of its follower list; of
 *   an item of a stream what follows it; lineage. LINEAGE: mailbox and what its inputs hold.
 *   FOLLOWER: dependent. CHANNEL: each slot's references and block. BYTES, OBJECT, SPILLED: their references; OBJECT:
 *   copy; SPILLED: error. The others: nothing. */
void af_block_each(struct af_client *client, af_off block, af_visit visit, void *context);
void af_block_hold(struct af_client *client, af_off block);   /* count + 1; caller already holds it somehow */
void af_block_drop(struct af_client *client, af_off block);   /* count - 1; frees at 0 and what it alone held */
/* Allocators only: the header, save the kind, which is written last and makes it a block. Generation and kind may be
 * read at any time by who has an old name; the count comes after the generation, so that such a name counts nothing here. */
static inline void af_block_fill(struct af_block *block, uint32_t generation, uint32_t capacity) {
  __atomic_store_n(&block->generation, generation, __ATOMIC_RELAXED);
  block->flags = 0;
  block->refs = 0;
  block->capacity = capacity;
  atomic_store_explicit(&block->next, 0, memory_order_relaxed);
  atomic_store_explicit(&block->count, 1, memory_order_release);
}
/* The block's kind for good, once what it owns is filled in. */
static inline void af_block_become(struct af_block *block, enum af_kind kind) {
  __atomic_store_n(&block->kind, (uint8_t)kind, __ATOMIC_RELEASE);
}
/* By a holder. Atomic: a reviver's compare-and-swap writes it again, the same. */
static inline uint32_t af_block_generation(const struct af_client *client, af_off block) {
  return __atomic_load_n(&AF_AT(client, struct af_block, block)->generation, __ATOMIC_RELAXED);
}
/* Offset of a block that is counted now, however it was come by: range, alignment, kind and count are checked. */
bool af_block_is_live(const struct af_client *client, af_off block);
/* Audit: gives back a block of count 0 that a process had in its hands when it died. What it refers to is not dropped:
 * how far that had come is not known, and the recount finds it. */
void af_block_bury(struct af_client *client, af_off block);
/* Finds a live block by name: range, alignment, kind (any: 0) and generation are checked. AF_BAD, AF_STALE. */
int af_block_find(const struct af_client *client, af_off block, uint32_t generation, uint8_t kind);
/* Counts it if it is live: how a name becomes a reference. Count and generation are one compare-and-swap, so what took
 * the block's place meanwhile is not touched. AF_BAD, AF_STALE. */
int af_block_revive(struct af_client *client, af_off block, uint32_t generation, uint8_t kind);
#endif
