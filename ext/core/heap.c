/* heap.c - allocates and frees blocks in spans, from the current span of the class on; see heap.h. */
#include "heap.h"

#include <string.h>

#include "block.h"
#include "cell.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "span.h"
#include "spill.h"

#define LOOK_MOST 8            /* owned spans looked at before a new one is taken: bounds an allocation */

static inline struct af_block *block_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block);
}

static inline uint32_t class_of(uint32_t bytes) {
  uint32_t class_index = 0;
  while (af_class_bytes[class_index] < bytes)
    class_index++;
  return class_index;
}

/* ---- allocation ---- */

/* Goes on round the ring for at most `most` spans, to one with room. The last one looked at becomes the current one,
 * so that the next look goes on from there. */
static bool arena_advance(struct af_client *client, uint32_t class_index, uint32_t most) {
  struct af_arena *arena = &client->arenas[class_index];
  if (arena->owned < most)
    most = arena->owned;
  for (uint32_t i = 0; i < most; i++) {
    struct af_span *span = af_span_at(client, (uint32_t)arena->span);
    if (af_span_has_room(span, class_index))
      return true;
    af_span_collect(client, span);
    if (span->local != 0)
      return true;
    arena->span = span->next_owned;
  }
  return false;
}

/* No room: look at all spans of the class, then give back what is empty in the other classes and take from that. */
static int arena_squeeze(struct af_client *client, uint32_t class_index, enum af_budget budget) {
  struct af_arena *arena = &client->arenas[class_index];
  if (arena_advance(client, class_index, arena->owned))
    return arena->span;
  af_heap_trim(client);
  return af_span_take(client, class_index, budget);
}

static int arena_refill(struct af_client *client, uint32_t class_index, enum af_budget budget) {
  struct af_arena *arena = &client->arenas[class_index];
  if (arena_advance(client, class_index, LOOK_MOST))
    return AF_OK;
  int32_t index = af_span_take(client, class_index, budget);
  if (index < 0)
    index = arena_squeeze(client, class_index, budget);
  if (index < 0)
    return AF_FULL;
  if (af_span_at(client, (uint32_t)index)->next_owned < 0)
    af_ring_insert(client, arena, arena->span, index);
  arena->span = index;
  return AF_OK;
}

/* What af_block_each reads of each kind: 0 from the first moment, so that the recount of a block whose maker died
 * before it was filled meets no references of an earlier life. */
static const uint16_t head_bytes[AF_KIND_COUNT] = {
    [AF_KIND_CELL] = sizeof(struct af_cell),         [AF_KIND_BYTES] = sizeof(struct af_object),
    [AF_KIND_OBJECT] = sizeof(struct af_object),     [AF_KIND_MAILBOX] = sizeof(struct af_mailbox),
    [AF_KIND_LANES] = sizeof(struct af_lanes_block), [AF_KIND_LANE] = sizeof(struct af_lane),
    [AF_KIND_CHUNK] = sizeof(struct af_chunk),       [AF_KIND_ACTOR] = sizeof(struct af_actor),
    [AF_KIND_SPILLED] = sizeof(struct af_spilled),
    [AF_KIND_FOLLOWER] = sizeof(struct af_follower), [AF_KIND_HOLDS] = sizeof(struct af_holds),
};

static inline void block_init(struct af_client *client, af_off offset, uint32_t generation, uint8_t kind,
                              uint32_t capacity) {
  struct af_block *block = block_at(client, offset);
  memset((uint8_t *)block + sizeof *block, 0, AF_LINE - sizeof *block);
  if (head_bytes[kind] > AF_LINE)
    memset((uint8_t *)block + AF_LINE, 0, (head_bytes[kind] < capacity ? head_bytes[kind] : capacity) - AF_LINE);
  af_block_fill(block, generation, capacity);
  AF_POINT(client, 203);
  __atomic_store_n(&block->kind, kind, __ATOMIC_RELEASE);
  AF_POINT(client, 204);
}

static int32_t large_take(struct af_client *client, uint32_t spans, enum af_budget budget) {
  return spans == 2 ? af_span_take_pair(client, budget) : af_span_take(client, AF_LARGE_CLASS, budget);
}

static int large_allocate(struct af_client *client, uint32_t bytes, uint8_t kind, enum af_budget budget,
                          af_off *block) {
  uint32_t spans = bytes > AF_SPAN ? 2 : 1;
  int32_t index = large_take(client, spans, budget);
  if (index < 0) {
    af_heap_trim(client);
    index = large_take(client, spans, budget);
  }
  if (index < 0)
    return AF_FULL;
  AF_POINT(client, 213);
  struct af_span *span = af_span_at(client, (uint32_t)index);
  *block = af_span_start(client, (uint32_t)index);
  af_span_mark_free(client, *block);
  block_at(client, *block)->capacity = spans * AF_SPAN;
  atomic_store_explicit(&span->fresh, 1, memory_order_release);
  block_init(client, *block, ++span->generation, kind, spans * AF_SPAN);
  return AF_OK;
}

static int small_allocate(struct af_client *client, uint32_t bytes, uint8_t kind, enum af_budget budget,
                          af_off *block) {
  uint32_t class_index = class_of(bytes);
  struct af_arena *arena = &client->arenas[class_index];
  af_off found = arena->span >= 0 ? af_span_pop(client, (uint32_t)arena->span, class_index) : 0;
  if (found == 0) {
    if (arena_refill(client, class_index, budget) != AF_OK)
      return AF_FULL;
    found = af_span_pop(client, (uint32_t)arena->span, class_index);
  }
  AF_POINT(client, 202);
  struct af_span *span = af_span_at(client, (uint32_t)arena->span);
  block_init(client, found, ++span->generation, kind, af_class_bytes[class_index]);
  *block = found;
  return AF_OK;
}

int af_heap_allocate(struct af_client *client, uint32_t bytes, uint8_t kind, enum af_budget budget, af_off *block) {
  if (bytes > AF_LARGE_MAX)
    return AF_TOO_LARGE;
  uint32_t outer = af_op_begin(client, AF_OP_HEAP);
  int status = bytes <= AF_SMALL_MAX ? small_allocate(client, bytes, kind, budget, block)
                                     : large_allocate(client, bytes, kind, budget, block);
  af_op_end(client, outer);
  return status;
}

/* ---- giving back ---- */

/* A span that was full has room again: the next one looked at. An empty one goes back, unless it is the current one:
 * so a client that frees and allocates at a span's border does not take and return spans all the time. */
static void local_free(struct af_client *client, uint32_t index, uint32_t class_index, af_off block) {
  struct af_span *span = af_span_at(client, index);
  struct af_arena *arena = &client->arenas[class_index];
  bool was_full = !af_span_has_room(span, class_index);
  af_span_mark_free(client, block);
  AF_POINT(client, 205);
  af_span_push_local(client, span, block);
  if (arena->span == (int32_t)index || (span->used != 0 && !was_full))
    return;
  af_ring_remove(client, arena, (int32_t)index);
  if (span->used == 0)
    af_span_return(client, index);
  else
    af_ring_insert(client, arena, arena->span, (int32_t)index);
}

/* The spans belong to the block; whoever drops it is alone with them. The kind stays: adopting must not take the block
 * for one that was never finished. */
static void large_free(struct af_client *client, uint32_t index, uint64_t owner, af_off block) {
  bool pair = block_at(client, block)->capacity > AF_SPAN;
  atomic_store_explicit(&af_span_at(client, index)->fresh, 0, memory_order_release);
  AF_POINT(client, 214);
  if (pair && index + 1 < client->header->span_count)
    af_span_leave_large(client, index + 1, owner ^ AF_SPAN_HEAD ^ AF_SPAN_TAIL);
  AF_POINT(client, 215);
  af_span_leave_large(client, index, owner);
}

/* A span that was passed to the node and is not yet in its rings is treated as another's. */
void af_heap_free(struct af_client *client, af_off block) {
  uint32_t index = af_span_of(client, block);
  struct af_span *span = af_span_at(client, index);
  uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
  uint32_t class_index = af_span_class(owner);
  uint32_t outer = af_op_begin(client, AF_OP_HEAP);
  if (class_index == AF_LARGE_CLASS)
    large_free(client, index, owner, block);
  else if (owner == af_span_own(client, class_index, AF_SPAN_HEAD) && span->next_owned >= 0)
    local_free(client, index, class_index, block);
  else
    af_span_push_remote(client, span, block);
  af_op_end(client, outer);
}


void af_heap_each(struct af_client *client, af_heap_visit visit, void *context) {
  for (uint32_t i = 0; i < af_span_top(client); i++) {
    struct af_span *span = af_span_at(client, i);
    uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
    uint32_t class_index = af_span_class(owner);
    if (owner == 0 || class_index > AF_CLASSES || af_span_role_of(owner) != AF_SPAN_HEAD)
      continue;
    uint32_t fresh = atomic_load_explicit(&span->fresh, memory_order_acquire);
    uint32_t bytes = class_index == AF_CLASSES ? AF_SPAN : af_class_bytes[class_index];
    for (uint32_t j = 0; j < fresh && j < AF_SPAN / bytes; j++)
      visit(context, client, af_span_start(client, i) + (af_off)j * bytes);
  }
}
