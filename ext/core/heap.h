/* heap.h - memory for messages and control structures: size classes in 64 KiB spans, each span owned by one client.
 *
 * Theory: a client allocates only from spans that it owns, so allocation takes no lock. A span is taken by one
 * compare-and-swap on its owner word. Others give a block back by pushing it on the span's remote list (push-only,
 * taken whole by the owner: no ABA). A block larger than the largest class takes a span, or two (up to
 * AF_LARGE_MAX), and whoever drops it gives these back itself.
 * Spans that become wholly free go back; the node punches their pages out beyond a warm reserve.
 * Budgets: control may take any span; messages only while spans_used < span_count - control_spans.
 * Who writes: af_span.owner anyone by CAS from 0; the owner afterwards; the coroner after the owner's death. Everything
 * else in af_span the owner only, save `remote` (atomic).
 * A crash leaves: spans with a dead owner; the coroner gives them to the node, which rebuilds their free lists by
 * walking the blocks' headers (kind == FREE is free; one that others are giving back keeps its kind until the owner
 * collects it, so it is never on two lists). A block allocated but never recorded has a count and no holder: the
 * recount frees it; one with count 0 that is on no list: the recount gives it back. */
#ifndef AF_HEAP_H
#define AF_HEAP_H
#include "af.h"

#define AF_SMALL_MAX (32u * 1024u)      /* largest class */
#define AF_LARGE_MAX (2u * AF_SPAN)     /* span pair */
enum af_budget { AF_CONTROL = 0, AF_MESSAGES = 1 };

/* Two lines: the first is what others look at, the second the owner's alone, so that allocation misses no cache line
 * while others give blocks back. A free span (owner 0) has remote, used, local and fresh 0. */
struct af_span {
  _Atomic uint64_t owner;   /* 0: free; [63:32] epoch, [31:16] slot + 1, [15:8] class + 1 (AF_CLASSES + 1: large),
                             * [7:0] enum af_span_role */
  _Atomic af_off remote;    /* blocks given back by others: count 0, kind still what it was */
  _Atomic uint32_t warm;    /* 1: has pages (the owner sets, punch clears) */
  int32_t next_owned, previous_owned; /* owner's ring of spans of this class; -1: in no ring */
  uint32_t reserved0;
  _Alignas(AF_LINE) af_off local; /* owner's free list: blocks of kind FREE */
  uint32_t generation;      /* counts allocations in this span, for ever */
  uint32_t used;            /* blocks that are not on `local` (remote ones count as used until collected) */
  _Atomic uint32_t fresh;   /* blocks from this index on were not handed out since the span was taken */
  uint32_t reserved1;
};
enum af_span_role { AF_SPAN_HEAD = 1, AF_SPAN_TAIL = 2 /* second of a pair */, AF_SPAN_PUNCHED = 3 };
_Static_assert(sizeof(struct af_span) == 2 * AF_LINE, "span entry is two lines");

extern const uint32_t af_class_bytes[AF_CLASSES];  /* 128 ... 32768, multiples of 64 */
extern const uint16_t af_class_blocks[AF_CLASSES]; /* of them in a span */
/* Allocates `bytes` (header included), count 1, kind set, generation new; the rest of the first 64 bytes and of the
 * kind's struct is zeroed, what lies behind is not. AF_FULL: budget used up. AF_TOO_LARGE: over AF_LARGE_MAX. */
int af_heap_allocate(struct af_client *client, uint32_t bytes, uint8_t kind, enum af_budget budget, af_off *block);
/* Gives back a block whose count is 0. Called by block.c. */
void af_heap_free(struct af_client *client, af_off block);
/* Collects what others gave back and returns wholly free spans. Called from idle looks. */
void af_heap_trim(struct af_client *client);
/* Coroner: takes over a dead client's spans. */
void af_heap_adopt(struct af_client *node, uint32_t slot, uint32_t epoch);
/* Node: returns the pages of free spans beyond `keep` to the system. */
void af_heap_punch(struct af_client *node, uint32_t keep);
/* Leaving in order: wholly free spans are given back; those with live blocks pass to the node, which takes them into
 * its rings at its next trim. The node's own leave does nothing: the segment ends with it. */
void af_heap_leave(struct af_client *client);
/* A span of the large class, head or tail: part of a block? If not (its process died on the way), it is given back:
 * coroner, audit. */
bool af_heap_large_is_used(const struct af_client *client, uint32_t span);
void af_heap_settle_large(struct af_client *client, uint32_t span);

/* Visits every place where a block of the heap may lie: live, free, or changing just now. For what is rare. */
typedef void (*af_heap_visit)(void *context, struct af_client *client, af_off block);
void af_heap_each(struct af_client *client, af_heap_visit visit, void *context);

static inline uint64_t af_span_owner(uint32_t epoch, uint32_t slot, uint32_t class_index, enum af_span_role role) {
  return (uint64_t)epoch << 32 | (uint64_t)(slot + 1) << 16 | (uint64_t)(class_index + 1) << 8 | (uint64_t)role;
}
static inline uint32_t af_span_class(uint64_t owner) { return ((uint32_t)(owner >> 8) & 0xff) - 1; }
static inline uint32_t af_span_role_of(uint64_t owner) { return (uint32_t)owner & 0xff; }
/* Of a span's owner word: which process, without class and role. */
static inline uint64_t af_span_process(uint64_t owner) { return owner & ~0xffffull; }
static inline struct af_span *af_span_at(const struct af_client *client, uint32_t index);
static inline af_off af_span_start(const struct af_client *client, uint32_t index);
static inline uint32_t af_span_top(const struct af_client *client); /* where walks over all spans end */
static inline uint32_t af_span_of(const struct af_client *client, af_off block);

#include "segment.h"
static inline struct af_span *af_span_at(const struct af_client *client, uint32_t index) {
  return AF_AT(client, struct af_span, client->header->spans) + index;
}
static inline uint32_t af_span_top(const struct af_client *client) {
  uint32_t top = atomic_load_explicit(&client->header->span_top, memory_order_acquire);
  return top < client->header->span_count ? top : client->header->span_count;
}
static inline af_off af_span_start(const struct af_client *client, uint32_t index) {
  return client->header->heap + (af_off)index * AF_SPAN;
}
static inline uint32_t af_span_of(const struct af_client *client, af_off block) {
  return (uint32_t)((block - client->header->heap) / AF_SPAN);
}
#endif
