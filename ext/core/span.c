/* span.c - takes and gives back spans, keeps their owner's rings, collects what others gave back; see span.h. */
#include "span.h"

#include "points.h"

const uint32_t af_class_bytes[AF_CLASSES] = {128,  192,  256,  320,  384,  512,  640,   768,   1024,  1280,
                                             1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768};
const uint16_t af_class_blocks[AF_CLASSES] = {512, 341, 256, 204, 170, 128, 102, 85, 64, 51,
                                              42,  32,  21,  16,  10,  8,   5,   4,  2,  2};

static inline struct af_block *block_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block);
}

/* ---- rings of owned spans; the owner's alone ---- */

void af_ring_insert(struct af_client *client, struct af_arena *arena, int32_t after, int32_t index) {
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

void af_ring_remove(struct af_client *client, struct af_arena *arena, int32_t index) {
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

static inline void top_raise(struct af_header *header, uint32_t top) {
  uint32_t seen = atomic_load_explicit(&header->span_top, memory_order_relaxed);
  while (seen < top && !atomic_compare_exchange_weak_explicit(&header->span_top, &seen, top, memory_order_release,
                                                              memory_order_relaxed))
    ;
}

/* SYNC POINT span: this acquire pairs with the release of af_span_return and af_span_leave_large: a span is empty when it
 * is seen free. */
static bool span_seize(struct af_client *client, uint32_t index, uint64_t word) {
  struct af_span *span = af_span_at(client, index);
  uint64_t none = 0;
  if (atomic_load_explicit(&span->owner, memory_order_relaxed) != 0)
    return false;
  top_raise(client->header, index + 1); /* first, so that no walk misses a span whose taker dies here */
  if (!atomic_compare_exchange_strong_explicit(&span->owner, &none, word, memory_order_acquire, memory_order_relaxed))
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

int32_t af_span_take(struct af_client *client, uint32_t class_index, enum af_budget budget) {
  if (!span_count(client, 1, budget))
    return -1;
  int32_t index = span_find(client, af_span_own(client, class_index, AF_SPAN_HEAD));
  if (index < 0)
    atomic_fetch_sub_explicit(&client->header->spans_used, 1, memory_order_relaxed);
  AF_POINT(client, 201);
  return index;
}

void af_span_return(struct af_client *client, uint32_t index) {
  struct af_span *span = af_span_at(client, index);
  span->local = 0;
  atomic_store_explicit(&span->fresh, 0, memory_order_relaxed);
  AF_POINT(client, 209);
  atomic_store_explicit(&span->owner, 0, memory_order_release);
  AF_POINT(client, 210);
  span_uncount(client->header, index);
}

static int32_t pair_find(struct af_client *client) {
  struct af_header *header = client->header;
  uint64_t head = af_span_own(client, AF_LARGE_CLASS, AF_SPAN_HEAD);
  uint64_t tail = af_span_own(client, AF_LARGE_CLASS, AF_SPAN_TAIL);
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

int32_t af_span_take_pair(struct af_client *client, enum af_budget budget) {
  if (!span_count(client, 2, budget))
    return -1;
  int32_t index = pair_find(client);
  if (index < 0)
    atomic_fetch_sub_explicit(&client->header->spans_used, 2, memory_order_relaxed);
  return index;
}

/* By compare-and-swap: the coroner, adopting from the dead allocator, may be giving back the same span. */
void af_span_leave_large(struct af_client *client, uint32_t index, uint64_t owner) {
  struct af_header *header = client->header;
  if (!atomic_compare_exchange_strong_explicit(&af_span_at(client, index)->owner, &owner, 0, memory_order_release,
                                               memory_order_relaxed))
    return;
  AF_POINT(client, 210);
  span_uncount(header, index);
}

/* ---- blocks given back by others ---- */

/* SYNC POINT remote-free: this acquire pairs with af_span_push_remote's release. */
void af_span_collect(struct af_client *client, struct af_span *span) {
  if (atomic_load_explicit(&span->remote, memory_order_relaxed) == 0)
    return;
  af_off block = atomic_exchange_explicit(&span->remote, 0, memory_order_acquire);
  AF_POINT(client, 207);
  while (block != 0) {
    af_off next = atomic_load_explicit(&block_at(client, block)->next, memory_order_relaxed);
    af_span_mark_free(client, block);
    af_span_push_local(client, span, block);
    AF_POINT(client, 208);
    block = next;
  }
}

void af_span_push_remote(struct af_client *client, struct af_span *span, af_off block) {
  af_off head = atomic_load_explicit(&span->remote, memory_order_relaxed);
  do {
    atomic_store_explicit(&block_at(client, block)->next, head, memory_order_relaxed);
    AF_POINT(client, 206);
  } while (!atomic_compare_exchange_weak_explicit(&span->remote, &head, block, memory_order_release,
                                                  memory_order_relaxed));
}
