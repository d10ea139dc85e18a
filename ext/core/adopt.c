/* adopt.c - spans that change hands or state while idle: trimmed, passed on by leavers, adopted from the dead, punched;
 * see heap.h. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "points.h"
#include "slot.h"
#include "span.h"

static inline struct af_block *block_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block);
}

static void span_link(struct af_client *client, uint32_t index) {
  struct af_arena *arena = &client->arenas[af_span_class(af_span_at(client, index)->owner)];
  af_ring_insert(client, arena, arena->span, (int32_t)index);
}

static bool span_is_passed(struct af_client *node, uint32_t index) {
  struct af_span *span = af_span_at(node, index);
  uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
  uint32_t class_index = af_span_class(owner);
  return class_index < AF_CLASSES && owner == af_span_own(node, class_index, AF_SPAN_HEAD) && span->next_owned < 0;
}

/* Spans that leavers made the node's, which are not yet in its rings. */
static void passed_link(struct af_client *node) {
  _Atomic uint32_t *passed = &node->header->spans_passed;
  if (atomic_load_explicit(passed, memory_order_relaxed) == 0 ||
      atomic_exchange_explicit(passed, 0, memory_order_acquire) == 0)
    return;
  for (uint32_t i = 0; i < af_span_top(node); i++)
    if (span_is_passed(node, i))
      span_link(node, i);
}

static void arena_trim(struct af_client *client, struct af_arena *arena) {
  uint32_t owned = arena->owned;
  int32_t index = arena->span;
  for (uint32_t i = 0; i < owned; i++) {
    struct af_span *span = af_span_at(client, (uint32_t)index);
    int32_t next = span->next_owned;
    af_span_collect(client, span);
    if (span->used == 0) {
      af_ring_remove(client, arena, index);
      af_span_return(client, (uint32_t)index);
    }
    index = next;
  }
}

void af_heap_trim(struct af_client *client) {
  uint32_t outer = af_op_begin(client, AF_OP_HEAP);
  if (client->slot_index == 0)
    passed_link(client);
  for (uint32_t i = 0; i < AF_CLASSES; i++)
    arena_trim(client, &client->arenas[i]);
  af_op_end(client, outer);
}

static uint64_t node_word(const struct af_client *client, uint32_t class_index) {
  uint64_t owner = atomic_load_explicit(&af_slot_at(client, 0)->owner, memory_order_relaxed);
  return af_span_owner(af_slot_epoch_of(owner), 0, class_index, AF_SPAN_HEAD);
}

/* SYNC POINT span-pass: these releases pair with passed_link's and span_is_passed's acquires. Announced last: a leaver
 * that dies before it is settled by adopting, which links what was passed. */
static void span_pass(struct af_client *client, struct af_arena *arena, int32_t index, uint32_t class_index) {
  af_ring_remove(client, arena, index);
  atomic_store_explicit(&af_span_at(client, (uint32_t)index)->owner, node_word(client, class_index),
                        memory_order_release);
  AF_POINT(client, 211);
  atomic_store_explicit(&client->header->spans_passed, 1, memory_order_release);
}

void af_heap_leave(struct af_client *client) {
  if (client->slot_index == 0)
    return;
  uint32_t outer = af_op_begin(client, AF_OP_HEAP);
  for (uint32_t i = 0; i < AF_CLASSES; i++) {
    struct af_arena *arena = &client->arenas[i];
    arena_trim(client, arena);
    while (arena->span >= 0)
      span_pass(client, arena, arena->span, i);
  }
  af_op_end(client, outer);
}

/* Builds the free list from the headers: what the dead owner had in its hands is free again. */
static void span_rebuild(struct af_client *node, uint32_t index, uint32_t class_index) {
  struct af_span *span = af_span_at(node, index);
  uint32_t fresh = atomic_load_explicit(&span->fresh, memory_order_relaxed);
  if (fresh > af_class_blocks[class_index])
    fresh = af_class_blocks[class_index];
  span->local = 0;
  span->used = fresh;
  for (uint32_t i = fresh; i-- > 0;) {
    af_off block = af_span_start(node, index) + (af_off)i * af_class_bytes[class_index];
    if (__atomic_load_n(&block_at(node, block)->kind, __ATOMIC_RELAXED) == AF_KIND_FREE)
      af_span_push_local(node, span, block);
  }
}

static void span_adopt(struct af_client *node, uint32_t index, uint64_t owner) {
  struct af_span *span = af_span_at(node, index);
  uint32_t class_index = af_span_class(owner);
  if (class_index == AF_LARGE_CLASS) {
    af_heap_settle_large(node, index);
    return;
  }
  if (class_index > AF_LARGE_CLASS || af_span_role_of(owner) != AF_SPAN_HEAD)
    return;
  span->next_owned = span->previous_owned = -1;
  atomic_store_explicit(&span->owner, af_span_own(node, class_index, AF_SPAN_HEAD), memory_order_release);
  AF_POINT(node, 216);
  span_rebuild(node, index, class_index);
  af_span_collect(node, span);
  if (span->used == 0)
    af_span_return(node, index);
  else
    span_link(node, index);
}

void af_heap_adopt(struct af_client *node, uint32_t slot, uint32_t epoch) {
  uint64_t dead = af_span_process(af_span_owner(epoch, slot, 0, AF_SPAN_HEAD));
  uint32_t outer = af_op_begin(node, AF_OP_HEAP);
  for (uint32_t i = 0; i < af_span_top(node); i++) {
    uint64_t owner = atomic_load_explicit(&af_span_at(node, i)->owner, memory_order_acquire);
    if (owner != 0 && af_span_process(owner) == dead)
      span_adopt(node, i, owner);
    else if (span_is_passed(node, i))
      span_link(node, i);
  }
  af_heap_trim(node); /* so that one death after another does not fill the heap, however seldom the node is idle */
  af_op_end(node, outer);
}

static bool large_has_block(const struct af_client *client, uint32_t index) {
  uint64_t owner = atomic_load_explicit(&af_span_at(client, index)->owner, memory_order_relaxed);
  return af_span_class(owner) == AF_LARGE_CLASS && af_span_role_of(owner) == AF_SPAN_HEAD &&
         atomic_load_explicit(&af_span_at(client, index)->fresh, memory_order_acquire) == 1 &&
         __atomic_load_n(&block_at(client, af_span_start(client, index))->kind, __ATOMIC_RELAXED) != AF_KIND_FREE;
}

bool af_heap_large_is_used(const struct af_client *client, uint32_t index) {
  uint64_t owner = atomic_load_explicit(&af_span_at(client, index)->owner, memory_order_acquire);
  if (af_span_role_of(owner) != AF_SPAN_TAIL)
    return large_has_block(client, index);
  return index > 0 && large_has_block(client, index - 1) &&
         block_at(client, af_span_start(client, index - 1))->capacity > AF_SPAN;
}

void af_heap_settle_large(struct af_client *client, uint32_t index) {
  struct af_span *span = af_span_at(client, index);
  uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
  if (af_heap_large_is_used(client, index))
    return;
  atomic_store_explicit(&span->fresh, 0, memory_order_relaxed);
  af_span_leave_large(client, index, owner);
}

/* ---- giving pages back to the system ---- */

static void span_punch(struct af_client *node, uint32_t index) {
  struct af_span *span = af_span_at(node, index);
  uint64_t none = 0;
  if (!atomic_compare_exchange_strong_explicit(&span->owner, &none, af_span_own(node, 0, AF_SPAN_PUNCHED),
                                               memory_order_acquire, memory_order_relaxed))
    return;
  AF_POINT(node, 217);
  if (madvise(node->base + af_span_start(node, index), AF_SPAN, MADV_REMOVE) == 0)
    atomic_store_explicit(&span->warm, 0, memory_order_relaxed);
  atomic_store_explicit(&span->owner, 0, memory_order_release);
}

void af_heap_punch(struct af_client *node, uint32_t keep) {
  uint32_t outer = af_op_begin(node, AF_OP_HEAP);
  for (uint32_t i = 0; i < af_span_top(node); i++) {
    struct af_span *span = af_span_at(node, i);
    if (atomic_load_explicit(&span->owner, memory_order_relaxed) != 0 ||
        atomic_load_explicit(&span->warm, memory_order_relaxed) == 0)
      continue;
    if (keep > 0)
      keep--;
    else
      span_punch(node, i);
  }
  af_op_end(node, outer);
}
