/* heap.c - allocates and frees blocks in spans, takes and returns spans, adopts those of the dead; see heap.h. */
#define _GNU_SOURCE
#include "heap.h"

#include <string.h>
#include <sys/mman.h>

#include "block.h"
#include "cell.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"

#define LARGE_CLASS AF_CLASSES /* class index of spans that hold one block */
#define LOOK_MOST 8            /* owned spans looked at before a new one is taken: bounds an allocation */

const uint32_t af_class_bytes[AF_CLASSES] = {128,  192,  256,  320,  384,  512,  640,   768,   1024,  1280,
                                             1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768};
const uint16_t af_class_blocks[AF_CLASSES] = {512, 341, 256, 204, 170, 128, 102, 85, 64, 51,
                                                  42,  32,  21,  16,  10,  8,   5,   4,  2,  2};

static inline uint32_t class_of(uint32_t bytes) {
  uint32_t class_index = 0;
  while (af_class_bytes[class_index] < bytes)
    class_index++;
  return class_index;
}

static inline uint64_t own_word(const struct af_client *client, uint32_t class_index, enum af_span_role role) {
  return af_span_owner(client->epoch, client->slot_index, class_index, role);
}

static uint64_t node_word(const struct af_client *client, uint32_t class_index) {
  uint64_t owner = atomic_load_explicit(&af_slot_at(client, 0)->owner, memory_order_relaxed);
  return af_span_owner(af_slot_epoch_of(owner), 0, class_index, AF_SPAN_HEAD);
}

static inline struct af_block *block_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block);
}

/* ---- rings of owned spans; the owner's alone ---- */

static void ring_insert(struct af_client *client, struct af_arena *arena, int32_t after, int32_t index) {
  struct af_span *span = af_span_at(client, (uint32_t)index);
  arena->owned++;
  if (after < 0) {
    span->next_owned = span->previous_owned = arena->span = index;
    return;
  }
  struct af_span *before = af_span_at(client, (uint32_t)after);
  span->previous_owned = after;
  span->next_owned = before->next_owned;
  af_span_at(client, (uint32_t)span->next_owned)->previous_owned = index;
  before->next_owned = index;
}

static void ring_remove(struct af_client *client, struct af_arena *arena, int32_t index) {
  struct af_span *span = af_span_at(client, (uint32_t)index);
  arena->owned--;
  af_span_at(client, (uint32_t)span->previous_owned)->next_owned = span->next_owned;
  af_span_at(client, (uint32_t)span->next_owned)->previous_owned = span->previous_owned;
  if (arena->span == index)
    arena->span = span->next_owned == index ? -1 : span->next_owned;
  span->next_owned = span->previous_owned = -1;
}

/* ---- taking and giving back spans ---- */

static bool span_count(struct af_client *client, uint32_t spans, enum af_budget budget) {
  struct af_header *header = client->header;
  uint32_t most = header->span_count - (budget == AF_MESSAGES ? header->control_spans : 0);
  uint32_t used = atomic_load_explicit(&header->spans_used, memory_order_relaxed);
  do {
    if (used + spans > most)
      return false;
  } while (!atomic_compare_exchange_weak_explicit(&header->spans_used, &used, used + spans, memory_order_relaxed,
                                                  memory_order_relaxed));
  AF_POINT(client, 200);
  return true;
}

/* SYNC POINT span: this acquire pairs with span_return's and large_leave's release: a span is empty when it is seen free. */
static bool span_seize(struct af_client *client, uint32_t index, uint64_t word) {
  struct af_span *span = af_span_at(client, index);
  uint64_t none = 0;
  if (atomic_load_explicit(&span->owner, memory_order_relaxed) != 0 ||
      !atomic_compare_exchange_strong_explicit(&span->owner, &none, word, memory_order_acquire, memory_order_relaxed))
    return false;
  span->next_owned = span->previous_owned = -1;
  atomic_store_explicit(&span->warm, 1, memory_order_relaxed);
  return true;
}

static void span_uncount(struct af_header *header, uint32_t index) {
  atomic_fetch_sub_explicit(&header->spans_used, 1, memory_order_relaxed);
  if (index < atomic_load_explicit(&header->span_hint, memory_order_relaxed))
    atomic_store_explicit(&header->span_hint, index, memory_order_relaxed);
}

/* The lowest free span: what was used before is used first. */
static int32_t span_find(struct af_client *client, uint64_t word) {
  struct af_header *header = client->header;
  uint32_t hint = atomic_load_explicit(&header->span_hint, memory_order_relaxed);
  for (uint32_t i = 0; i < header->span_count; i++) {
    uint32_t index = hint + i < header->span_count ? hint + i : hint + i - header->span_count;
    if (index < header->span_count && span_seize(client, index, word)) {
      atomic_store_explicit(&header->span_hint, index + 1 < header->span_count ? index + 1 : 0, memory_order_relaxed);
      return (int32_t)index;
    }
  }
  return -1;
}

static int32_t span_take(struct af_client *client, uint32_t class_index, enum af_budget budget) {
  if (!span_count(client, 1, budget))
    return -1;
  int32_t index = span_find(client, own_word(client, class_index, AF_SPAN_HEAD));
  if (index < 0)
    atomic_fetch_sub_explicit(&client->header->spans_used, 1, memory_order_relaxed);
  AF_POINT(client, 201);
  return index;
}

/* Of a span that holds no block; it is in no ring. */
static void span_return(struct af_client *client, uint32_t index) {
  struct af_span *span = af_span_at(client, index);
  span->local = 0;
  atomic_store_explicit(&span->fresh, 0, memory_order_relaxed);
  AF_POINT(client, 209);
  atomic_store_explicit(&span->owner, 0, memory_order_release);
  AF_POINT(client, 210);
  span_uncount(client->header, index);
}

/* ---- blocks of a span; the owner's alone ---- */

static inline void span_push_local(struct af_client *client, struct af_span *span, af_off block) {
  block_at(client, block)->next = span->local;
  span->local = block;
  span->used--;
}

static inline void block_mark_free(struct af_client *client, af_off block) {
  __atomic_store_n(&block_at(client, block)->kind, AF_KIND_FREE, __ATOMIC_RELAXED);
}

/* SYNC POINT remote-free: this acquire pairs with remote_push's release. */
static void span_collect(struct af_client *client, struct af_span *span) {
  if (atomic_load_explicit(&span->remote, memory_order_relaxed) == 0)
    return;
  af_off block = atomic_exchange_explicit(&span->remote, 0, memory_order_acquire);
  AF_POINT(client, 207);
  while (block != 0) {
    af_off next = atomic_load_explicit(&block_at(client, block)->next, memory_order_relaxed);
    block_mark_free(client, block);
    span_push_local(client, span, block);
    AF_POINT(client, 208);
    block = next;
  }
}

static void remote_push(struct af_client *client, struct af_span *span, af_off block) {
  af_off head = atomic_load_explicit(&span->remote, memory_order_relaxed);
  do {
    atomic_store_explicit(&block_at(client, block)->next, head, memory_order_relaxed);
    AF_POINT(client, 206);
  } while (!atomic_compare_exchange_weak_explicit(&span->remote, &head, block, memory_order_release,
                                                  memory_order_relaxed));
}

static inline bool span_has_room(const struct af_span *span, uint32_t class_index) {
  return span->local != 0 ||
         atomic_load_explicit(&span->fresh, memory_order_relaxed) < af_class_blocks[class_index];
}

static inline af_off span_pop(struct af_client *client, uint32_t index, uint32_t class_index) {
  struct af_span *span = af_span_at(client, index);
  af_off block = span->local;
  if (block != 0) {
    span->local = atomic_load_explicit(&block_at(client, block)->next, memory_order_relaxed);
    span->used++;
    return block;
  }
  uint32_t fresh = atomic_load_explicit(&span->fresh, memory_order_relaxed);
  if (fresh == af_class_blocks[class_index])
    return 0;
  block = af_span_start(client, index) + (af_off)fresh * af_class_bytes[class_index];
  block_mark_free(client, block); /* what an earlier life of the span left there is no block */
  atomic_store_explicit(&span->fresh, fresh + 1, memory_order_release);
  span->used++;
  return block;
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
    if (span_has_room(span, class_index))
      return true;
    span_collect(client, span);
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
  return span_take(client, class_index, budget);
}

static int arena_refill(struct af_client *client, uint32_t class_index, enum af_budget budget) {
  struct af_arena *arena = &client->arenas[class_index];
  if (arena_advance(client, class_index, LOOK_MOST))
    return AF_OK;
  int32_t index = span_take(client, class_index, budget);
  if (index < 0)
    index = arena_squeeze(client, class_index, budget);
  if (index < 0)
    return AF_FULL;
  if (af_span_at(client, (uint32_t)index)->next_owned < 0)
    ring_insert(client, arena, arena->span, index);
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

static int32_t pair_seize(struct af_client *client) {
  struct af_header *header = client->header;
  uint64_t head = own_word(client, LARGE_CLASS, AF_SPAN_HEAD), tail = own_word(client, LARGE_CLASS, AF_SPAN_TAIL);
  uint32_t hint = atomic_load_explicit(&header->span_hint, memory_order_relaxed);
  for (uint32_t i = 0; i < header->span_count; i++) {
    uint32_t index = (hint + i) % header->span_count;
    if (index + 1 == header->span_count || !span_seize(client, index, head))
      continue;
    AF_POINT(client, 212);
    if (span_seize(client, index + 1, tail))
      return (int32_t)index;
    atomic_store_explicit(&af_span_at(client, index)->owner, 0, memory_order_release);
  }
  return -1;
}

static int large_allocate(struct af_client *client, uint32_t bytes, uint8_t kind, enum af_budget budget,
                          af_off *block) {
  uint32_t spans = bytes > AF_SPAN ? 2 : 1;
  if (!span_count(client, spans, budget))
    return AF_FULL;
  int32_t index = spans == 2 ? pair_seize(client) : span_find(client, own_word(client, LARGE_CLASS, AF_SPAN_HEAD));
  if (index < 0) {
    atomic_fetch_sub_explicit(&client->header->spans_used, spans, memory_order_relaxed);
    return AF_FULL;
  }
  AF_POINT(client, 213);
  struct af_span *span = af_span_at(client, (uint32_t)index);
  *block = af_span_start(client, (uint32_t)index);
  block_mark_free(client, *block);
  block_at(client, *block)->capacity = spans * AF_SPAN;
  atomic_store_explicit(&span->fresh, 1, memory_order_release);
  block_init(client, *block, ++span->generation, kind, spans * AF_SPAN);
  return AF_OK;
}

static int small_allocate(struct af_client *client, uint32_t bytes, uint8_t kind, enum af_budget budget,
                          af_off *block) {
  uint32_t class_index = class_of(bytes);
  struct af_arena *arena = &client->arenas[class_index];
  af_off found = arena->span >= 0 ? span_pop(client, (uint32_t)arena->span, class_index) : 0;
  if (found == 0) {
    if (arena_refill(client, class_index, budget) != AF_OK)
      return AF_FULL;
    found = span_pop(client, (uint32_t)arena->span, class_index);
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
  bool was_full = !span_has_room(span, class_index);
  block_mark_free(client, block);
  AF_POINT(client, 205);
  span_push_local(client, span, block);
  if (arena->span == (int32_t)index || (span->used != 0 && !was_full))
    return;
  ring_remove(client, arena, (int32_t)index);
  if (span->used == 0)
    span_return(client, index);
  else
    ring_insert(client, arena, arena->span, (int32_t)index);
}

/* By compare-and-swap: the coroner, adopting from the dead allocator, may be giving back the same span. */
static void large_leave(struct af_client *client, uint32_t index, uint64_t owner) {
  struct af_header *header = client->header;
  if (!atomic_compare_exchange_strong_explicit(&af_span_at(client, index)->owner, &owner, 0, memory_order_release,
                                               memory_order_relaxed))
    return;
  AF_POINT(client, 210);
  span_uncount(header, index);
}

/* The spans belong to the block; whoever drops it is alone with them. The kind stays: adopting must not take the block
 * for one that was never finished. */
static void large_free(struct af_client *client, uint32_t index, uint64_t owner, af_off block) {
  bool pair = block_at(client, block)->capacity > AF_SPAN;
  atomic_store_explicit(&af_span_at(client, index)->fresh, 0, memory_order_release);
  AF_POINT(client, 214);
  if (pair && index + 1 < client->header->span_count)
    large_leave(client, index + 1, owner ^ AF_SPAN_HEAD ^ AF_SPAN_TAIL);
  AF_POINT(client, 215);
  large_leave(client, index, owner);
}

/* A span that was passed to the node and is not yet in its rings is treated as another's. */
void af_heap_free(struct af_client *client, af_off block) {
  uint32_t index = af_span_of(client, block);
  struct af_span *span = af_span_at(client, index);
  uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
  uint32_t class_index = af_span_class(owner);
  uint32_t outer = af_op_begin(client, AF_OP_HEAP);
  if (class_index == LARGE_CLASS)
    large_free(client, index, owner, block);
  else if (owner == own_word(client, class_index, AF_SPAN_HEAD) && span->next_owned >= 0)
    local_free(client, index, class_index, block);
  else
    remote_push(client, span, block);
  af_op_end(client, outer);
}

/* ---- looks, leaving, adopting ---- */

static void span_link(struct af_client *client, uint32_t index) {
  struct af_arena *arena = &client->arenas[af_span_class(af_span_at(client, index)->owner)];
  ring_insert(client, arena, arena->span, (int32_t)index);
}

static bool span_is_passed(struct af_client *node, uint32_t index) {
  struct af_span *span = af_span_at(node, index);
  uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
  uint32_t class_index = af_span_class(owner);
  return class_index < AF_CLASSES && owner == own_word(node, class_index, AF_SPAN_HEAD) && span->next_owned < 0;
}

/* Spans that leavers made the node's, which are not yet in its rings. */
static void passed_link(struct af_client *node) {
  _Atomic uint32_t *passed = &node->header->spans_passed;
  if (atomic_load_explicit(passed, memory_order_relaxed) == 0 ||
      atomic_exchange_explicit(passed, 0, memory_order_acquire) == 0)
    return;
  for (uint32_t i = 0; i < node->header->span_count; i++)
    if (span_is_passed(node, i))
      span_link(node, i);
}

static void arena_trim(struct af_client *client, struct af_arena *arena) {
  uint32_t owned = arena->owned;
  int32_t index = arena->span;
  for (uint32_t i = 0; i < owned; i++) {
    struct af_span *span = af_span_at(client, (uint32_t)index);
    int32_t next = span->next_owned;
    span_collect(client, span);
    if (span->used == 0) {
      ring_remove(client, arena, index);
      span_return(client, (uint32_t)index);
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

/* SYNC POINT span-pass: these releases pair with passed_link's and span_is_passed's acquires. Announced last: a leaver
 * that dies before it is settled by adopting, which links what was passed. */
static void span_pass(struct af_client *client, struct af_arena *arena, int32_t index, uint32_t class_index) {
  ring_remove(client, arena, index);
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
      span_push_local(node, span, block);
  }
}

static void span_adopt(struct af_client *node, uint32_t index, uint64_t owner) {
  struct af_span *span = af_span_at(node, index);
  uint32_t class_index = af_span_class(owner);
  if (class_index == LARGE_CLASS) {
    af_heap_settle_large(node, index);
    return;
  }
  if (class_index > LARGE_CLASS || af_span_role_of(owner) != AF_SPAN_HEAD)
    return;
  span->next_owned = span->previous_owned = -1;
  atomic_store_explicit(&span->owner, own_word(node, class_index, AF_SPAN_HEAD), memory_order_release);
  AF_POINT(node, 216);
  span_rebuild(node, index, class_index);
  span_collect(node, span);
  if (span->used == 0)
    span_return(node, index);
  else
    span_link(node, index);
}

void af_heap_adopt(struct af_client *node, uint32_t slot, uint32_t epoch) {
  uint64_t dead = af_span_process(af_span_owner(epoch, slot, 0, AF_SPAN_HEAD));
  uint32_t outer = af_op_begin(node, AF_OP_HEAP);
  for (uint32_t i = 0; i < node->header->span_count; i++) {
    uint64_t owner = atomic_load_explicit(&af_span_at(node, i)->owner, memory_order_acquire);
    if (owner != 0 && af_span_process(owner) == dead)
      span_adopt(node, i, owner);
    else if (span_is_passed(node, i))
      span_link(node, i);
  }
  af_op_end(node, outer);
}

static bool large_has_block(const struct af_client *client, uint32_t index) {
  uint64_t owner = atomic_load_explicit(&af_span_at(client, index)->owner, memory_order_relaxed);
  return af_span_class(owner) == LARGE_CLASS && af_span_role_of(owner) == AF_SPAN_HEAD &&
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
  large_leave(client, index, owner);
}

/* ---- giving pages back to the system ---- */

static void span_punch(struct af_client *node, uint32_t index) {
  struct af_span *span = af_span_at(node, index);
  uint64_t none = 0;
  if (!atomic_compare_exchange_strong_explicit(&span->owner, &none, own_word(node, 0, AF_SPAN_PUNCHED),
                                               memory_order_acquire, memory_order_relaxed))
    return;
  AF_POINT(node, 217);
  if (madvise(node->base + af_span_start(node, index), AF_SPAN, MADV_REMOVE) == 0)
    atomic_store_explicit(&span->warm, 0, memory_order_relaxed);
  atomic_store_explicit(&span->owner, 0, memory_order_release);
}

void af_heap_punch(struct af_client *node, uint32_t keep) {
  uint32_t outer = af_op_begin(node, AF_OP_HEAP);
  for (uint32_t i = 0; i < node->header->span_count; i++) {
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
