/* span.h - one span: taken and given back, in its owner's ring, with its free list; for heap.c and adopt.c. Its fields
 * and who writes them: heap.h. */
#ifndef AF_SPAN_H
#define AF_SPAN_H
#include "heap.h"

#define AF_LARGE_CLASS AF_CLASSES /* class index of spans that hold one block */

/* This client's owner word. */
static inline uint64_t af_span_own(const struct af_client *client, uint32_t class_index, enum af_span_role role) {
  return af_span_owner(client->epoch, client->slot_index, class_index, role);
}

/* The owner's ring of a class: `after` -1: the ring is empty. */
void af_ring_insert(struct af_client *client, struct af_arena *arena, int32_t after, int32_t index);
void af_ring_remove(struct af_client *client, struct af_arena *arena, int32_t index);

/* Takes a free span, or two that follow one another (AF_LARGE_CLASS). Its index; -1: the budget is used up. */
int32_t af_span_take(struct af_client *client, uint32_t class_index, enum af_budget budget);
int32_t af_span_take_pair(struct af_client *client, enum af_budget budget);
/* Gives back a span of its own that holds no block and is in no ring. */
void af_span_return(struct af_client *client, uint32_t index);
/* Gives back a span of a large block, if it still belongs to `owner`. */
void af_span_leave_large(struct af_client *client, uint32_t index, uint64_t owner);

/* Owner: takes in what others gave back. */
void af_span_collect(struct af_client *client, struct af_span *span);
/* Gives a block back to its owner, whoever that is. */
void af_span_push_remote(struct af_client *client, struct af_span *span, af_off block);

/* ---- blocks of a span; the owner's alone ---- */

static inline void af_span_mark_free(struct af_client *client, af_off block) {
  __atomic_store_n(&AF_AT(client, struct af_block, block)->kind, AF_KIND_FREE, __ATOMIC_RELAXED);
}

static inline void af_span_push_local(struct af_client *client, struct af_span *span, af_off block) {
  AF_AT(client, struct af_block, block)->next = span->local;
  span->local = block;
  span->used--;
}

static inline bool af_span_has_room(const struct af_span *span, uint32_t class_index) {
  return span->local != 0 ||
         atomic_load_explicit(&span->fresh, memory_order_relaxed) < af_class_blocks[class_index];
}

static inline af_off af_span_pop(struct af_client *client, uint32_t index, uint32_t class_index) {
  struct af_span *span = af_span_at(client, index);
  af_off block = span->local;
  if (block != 0) {
    span->local = atomic_load_explicit(&AF_AT(client, struct af_block, block)->next, memory_order_relaxed);
    span->used++;
    return block;
  }
  uint32_t fresh = atomic_load_explicit(&span->fresh, memory_order_relaxed);
  if (fresh == af_class_blocks[class_index])
    return 0;
  block = af_span_start(client, index) + (af_off)fresh * af_class_bytes[class_index];
  af_span_mark_free(client, block); /* what an earlier life of the span left there is no block */
  atomic_store_explicit(&span->fresh, fresh + 1, memory_order_release);
  span->used++;
  return block;
}
#endif
