/* block.h - blocks and the references between them.
 *
 * A reference is counted before it is visible and dropped when its owner is freed. Owners: slots (hold tables) and
 * blocks. What a block owns is listed by af_block_each (one place, used by free, coroner and audit).
 * Freeing is iterative (a work list through block.next), so a chain of a million blocks does not use the stack. */
#ifndef AF_BLOCK_H
#define AF_BLOCK_H
#include "af.h"

typedef void (*af_visit)(void *context, af_off *reference);
/* Calls `visit` for each counted reference that the block owns now. */
void af_block_each(struct af_client *client, af_off block, af_visit visit, void *context);
void af_block_hold(struct af_client *client, af_off block);   /* count + 1; caller already holds it somehow */
void af_block_drop(struct af_client *client, af_off block);   /* count - 1; frees at 0 and what it alone held */
/* Finds a live block by name: range, alignment, kind (any: 0) and generation are checked. AF_BAD, AF_STALE. */
int af_block_find(const struct af_client *client, af_off block, uint32_t generation, uint8_t kind);
/* Counts it if it is live and its count is not 0 (compare-and-swap): how a name becomes a reference. AF_STALE. */
int af_block_revive(struct af_client *client, af_off block, uint32_t generation, uint8_t kind);
#endif
