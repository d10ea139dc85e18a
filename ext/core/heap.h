/* heap.h - memory for messages and control structures: size classes in 64 KiB spans, each span owned by one client.
 *
 * Theory: a client allocates only from spans that it owns, so allocation takes no lock. A span is taken by one
 * compare-and-swap on its owner word. Others give a block back by pushing it on the span's remote list (push-only,
 * taken whole by the owner: no ABA). A block larger than the largest class (up to AF_LARGE_MAX) takes a span pair.
 * Spans that become wholly free go back; the node punches their pages out beyond a warm reserve.
 * Budgets: control may take any span; messages only while spans_used < span_count - control_spans.
 * Who writes: af_span.owner anyone by CAS from 0; the owner afterwards; the coroner after the owner's death. Everything
 * else in af_span the owner only, save `remote` (atomic).
 * A crash leaves: spans with a dead owner; the coroner gives them to the node, which rebuilds their free lists by
 * walking the blocks' headers (kind == FREE is free). A block allocated but never recorded has a count and no holder:
 * the recount frees it. */
#ifndef AF_HEAP_H
#define AF_HEAP_H
#include "af.h"

#define AF_SMALL_MAX (32u * 1024u)      /* largest class */
#define AF_LARGE_MAX (2u * AF_SPAN)     /* span pair */
enum af_budget { AF_CONTROL = 0, AF_MESSAGES = 1 };

struct af_span {
  _Atomic uint64_t owner;   /* 0: free; [63:32] epoch, [31:16] slot + 1, [15:8] class + 1 (AF_CLASSES + 1: large) , [7:0] 1 */
  _Atomic af_off remote;    /* blocks given back by others */
  uint32_t generation;      /* counts allocations in this span, for ever */
  uint32_t used;            /* blocks that are not on `local` (remote ones count as used until collected) */
  af_off local;             /* owner's free list */
  uint32_t fresh;           /* blocks never handed out since the span was taken start here (index) */
  int32_t next_owned;       /* owner's list of spans of this class */
  uint64_t reserved[2];
};
_Static_assert(sizeof(struct af_span) == 64, "span entry is one line");

extern const uint32_t af_class_bytes[AF_CLASSES]; /* 128 ... 32768, multiples of 64; const */
/* Allocates `bytes` (header included), count 1, kind set, generation new; the rest of the first 64 bytes is zeroed,
 * what lies behind is not. AF_FULL: budget used up. AF_TOO_LARGE: over AF_LARGE_MAX. */
int af_heap_allocate(struct af_client *client, uint32_t bytes, uint8_t kind, enum af_budget budget, af_off *block);
/* Gives back a block whose count is 0. Called by block.c. */
void af_heap_free(struct af_client *client, af_off block);
/* Collects what others gave back and returns wholly free spans. Called from idle looks. */
void af_heap_trim(struct af_client *client);
/* Coroner: takes over a dead client's spans. */
void af_heap_adopt(struct af_client *node, uint32_t slot, uint32_t epoch);
/* Node: returns the pages of free spans beyond `keep` to the system. */
void af_heap_punch(struct af_client *node, uint32_t keep);
/* Leaving in order: wholly free spans are given back; those with live blocks pass to the node (owner slot 0) */
void af_heap_leave(struct af_client *client);
#endif
