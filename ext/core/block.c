/* block.c - counts blocks, frees what is no longer counted, finds blocks by name; see block.h. */
#include "block.h"

#include <assert.h>

#include "cell.h"
#include "channel.h"
#include "extent.h"
#include "heap.h"
#include "lineage.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "spill.h"

static inline struct af_block *block_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block);
}

static inline uint8_t block_kind(const struct af_block *block) {
  return __atomic_load_n(&block->kind, __ATOMIC_ACQUIRE);
}

/* A place where a block's header may be read. */
static inline bool block_in_range(const struct af_client *client, af_off block) {
  const struct af_header *header = client->header;
  return block >= header->heap && block <= client->size_bytes - AF_LINE && block % AF_LINE == 0 &&
         (block < header->objects || block % AF_PAGE == 0);
}

/* ---- what a block owns ---- */

static inline void visit_one(af_visit visit, void *context, af_off reference) { visit(context, &reference); }

/* `count` references from `first`, as far as they lie in the block. */
static void each_of(struct af_client *client, af_off block, af_off first, uint64_t count, af_visit visit,
                    void *context) {
  uint64_t end = block + (block < client->header->objects ? block_at(client, block)->capacity
                                                          : af_extent_bytes(client, block));
  uint64_t most = first < end ? (end - first) / sizeof(af_off) : 0;
  const af_off *references = AF_AT(client, af_off, first);
  for (uint64_t i = 0; i < count && i < most; i++)
    visit_one(visit, context, references[i]);
}

/* Members of a list through block.next. The next one is read first: visiting may be dropping. */
static void each_of_list(struct af_client *client, af_off member, af_visit visit, void *context) {
  while (block_in_range(client, member)) {
    af_off next = atomic_load_explicit(&block_at(client, member)->next, memory_order_acquire);
    visit_one(visit, context, member);
    member = next;
  }
}

static void each_of_cell(struct af_client *client, af_off block, af_visit visit, void *context) {
  struct af_cell *cell = AF_AT(client, struct af_cell, block);
  af_off references = block + sizeof *cell, value = af_value_block(client, block);
  each_of(client, block, references, cell->references, visit, context);
  if (value == 0 && (cell->references == 0 || cell->value_place != 0))
    each_of(client, block, references + cell->value_place * sizeof(af_off), cell->value_refs, visit, context);
  visit_one(visit, context, value);
  if (cell->block.flags & AF_CELL_ITEM)
    visit_one(visit, context, atomic_load_explicit(&cell->stream, memory_order_acquire));
  visit_one(visit, context, atomic_load_explicit(&cell->lineage, memory_order_acquire));
  each_of_list(client, af_cell_followers(client, block), visit, context);
}

static void each_of_page(struct af_lane_page *page, af_visit visit, void *context) {
  visit_one(visit, context, atomic_load_explicit(&page->next, memory_order_acquire));
  for (uint32_t i = 0; i < AF_PAGE_LANES; i++)
    visit_one(visit, context, atomic_load_explicit(&page->lanes[i], memory_order_acquire));
}

static void each_of_mailbox(struct af_client *client, af_off block, af_visit visit, void *context) {
  struct af_mailbox *mailbox = AF_AT(client, struct af_mailbox, block);
  visit_one(visit, context, mailbox->first);
  visit_one(visit, context, mailbox->error);
  each_of_list(client, atomic_load_explicit(&mailbox->ready, memory_order_acquire) & ~(af_off)AF_FOLLOWERS_CLOSED, visit,
               context);
  each_of_list(client, mailbox->queue, visit, context);
  each_of_page(&mailbox->page, visit, context);
}

/* Entries of one chunk whose numbers lie in [taken, pushed). */
static void each_of_chunk(struct af_client *client, af_off block, uint64_t taken, uint64_t pushed, af_visit visit,
                          void *context) {
  struct af_chunk *chunk = AF_AT(client, struct af_chunk, block);
  uint64_t from = chunk->first > taken ? chunk->first : taken, to = chunk->first + chunk->capacity;
  if (to > pushed)
    to = pushed;
  if (from < to)
    each_of(client, block, block + sizeof *chunk + (from - chunk->first) * sizeof(af_off), to - from, visit, context);
}

static void each_of_lane(struct af_client *client, af_off block, af_visit visit, void *context) {
  struct af_lane *lane = AF_AT(client, struct af_lane, block);
  uint64_t pushed = atomic_load_explicit(&lane->pushed, memory_order_acquire);
  uint64_t taken = atomic_load_explicit(&lane->taken, memory_order_acquire);
  af_off chunk = lane->head_chunk;
  while (block_in_range(client, chunk) && block_kind(block_at(client, chunk)) == AF_KIND_CHUNK) {
    af_off next = atomic_load_explicit(&AF_AT(client, struct af_chunk, chunk)->next_chunk, memory_order_acquire);
    each_of_chunk(client, chunk, taken, pushed, visit, context);
    visit_one(visit, context, chunk);
    chunk = next;
  }
}

static void each_of_object(struct af_client *client, af_off block, af_visit visit, void *context) {
  struct af_object *object = AF_AT(client, struct af_object, block);
  each_of(client, block, block + sizeof *object, object->references, visit, context);
  if (object->block.kind == AF_KIND_OBJECT)
    visit_one(visit, context, object->copy);
}

static void each_of_spilled(struct af_client *client, af_off block, af_visit visit, void *context) {
  struct af_spilled *spilled = AF_AT(client, struct af_spilled, block);
  each_of(client, block, block + sizeof *spilled, spilled->references, visit, context);
  visit_one(visit, context, atomic_load_explicit(&spilled->error, memory_order_acquire));
}

static void each_of_lineage(struct af_client *client, af_off block, af_visit visit, void *context) {
  struct af_lineage *lineage = AF_AT(client, struct af_lineage, block);
  const struct af_lineage_input *inputs = (const struct af_lineage_input *)(lineage + 1);
  uint64_t most = (lineage->block.capacity - sizeof *lineage) / sizeof *inputs;
  visit_one(visit, context, lineage->mailbox);
  for (uint64_t i = 0; i < lineage->inputs && i < most; i++)
    visit_one(visit, context, inputs[i].held);
}

static void each_of_channel(struct af_client *client, af_off block, af_visit visit, void *context) {
  struct af_channel_slot *slot;
  for (uint32_t i = 0; (slot = af_channel_slot_at(client, block, i)) != NULL; i++) {
    uint32_t references = atomic_load_explicit(&slot->references, memory_order_acquire);
    each_of(client, block, AF_OFF(client, slot->data), references, visit, context);
    visit_one(visit, context, atomic_load_explicit(&slot->block, memory_order_acquire));
  }
}

void af_block_each(struct af_client *client, af_off block, af_visit visit, void *context) {
  switch (block_kind(block_at(client, block))) {
  case AF_KIND_CELL:
    each_of_cell(client, block, visit, context);
    break;
  case AF_KIND_BYTES:
  case AF_KIND_OBJECT:
    each_of_object(client, block, visit, context);
    break;
  case AF_KIND_SPILLED:
    each_of_spilled(client, block, visit, context);
    break;
  case AF_KIND_MAILBOX:
    each_of_mailbox(client, block, visit, context);
    break;
  case AF_KIND_LINEAGE:
    each_of_lineage(client, block, visit, context);
    break;
  case AF_KIND_LANES:
    each_of_page(&AF_AT(client, struct af_lanes_block, block)->page, visit, context);
    break;
  case AF_KIND_LANE:
    each_of_lane(client, block, visit, context);
    break;
  case AF_KIND_CHANNEL:
    each_of_channel(client, block, visit, context);
    break;
  case AF_KIND_ACTOR:
    visit_one(visit, context, AF_AT(client, struct af_actor, block)->mailbox);
    break;
  case AF_KIND_FOLLOWER:
    visit_one(visit, context, AF_AT(client, struct af_follower, block)->dependent);
    break;
  default:
    break;
  }
}

/* ---- counting and freeing ---- */

void af_block_hold(struct af_client *client, af_off block) {
  uint32_t outer = af_op_begin(client, AF_OP_BLOCK);
  atomic_fetch_add_explicit(&block_at(client, block)->count, 1, memory_order_relaxed);
  AF_POINT(client, 400);
  af_op_end(client, outer);
}

/* SYNC POINT count: the last dropper's acquire pairs with the release of everyone who dropped before. */
static inline bool block_discount(struct af_client *client, af_off block) {
  uint32_t count = atomic_fetch_sub_explicit(&block_at(client, block)->count, 1, memory_order_acq_rel);
  assert(count > 0 && "a block was dropped more often than it was counted");
  return count == 1;
}

struct dying { struct af_client *client; af_off first; }; /* work list: blocks of count 0, linked through next */

static inline void dying_push(struct dying *dying, af_off block) {
  atomic_store_explicit(&block_at(dying->client, block)->next, dying->first, memory_order_relaxed);
  dying->first = block;
}

static void drop_reference(void *context, af_off *reference) {
  struct dying *dying = context;
  if (*reference == 0 || !af_block_is_live(dying->client, *reference))
    return; /* garbage in shared memory: the recount reports it */
  if (block_discount(dying->client, *reference))
    dying_push(dying, *reference);
  AF_POINT(dying->client, 402);
}

#define ACTOR_TOLD 1 /* block.flags: the reader knows; from then on the actor may have dropped its mailbox */

/* The last handle of an actor is gone: its reader learns of it. */
static void actor_abandon(struct af_client *client, af_off block) {
  struct af_actor *actor = AF_AT(client, struct af_actor, block);
  if (actor->block.flags == ACTOR_TOLD || !af_block_is_live(client, actor->mailbox) ||
      block_kind(block_at(client, actor->mailbox)) != AF_KIND_MAILBOX)
    return;
  atomic_store_explicit(&AF_AT(client, struct af_mailbox, actor->mailbox)->abandoned, 1, memory_order_release);
  AF_POINT(client, 405);
  af_mailbox_rouse(client, actor->mailbox);
  actor->block.flags = ACTOR_TOLD;
  atomic_signal_fence(memory_order_release); /* before the mailbox is dropped, also for who finds this half done */
}

static inline void block_give_back(struct af_client *client, af_off block) {
  uint8_t kind = block_kind(block_at(client, block));
  if (kind == AF_KIND_LINEAGE)
    af_lineage_uncharge(client, block);
  if (kind == AF_KIND_SPILLED)
    af_spill_return(client, block);
  else if (block < client->header->objects)
    af_heap_free(client, block);
  else
    af_extent_free(client, block);
}

static void block_free(struct dying *dying, af_off block) {
  struct af_client *client = dying->client;
  if (block_kind(block_at(client, block)) == AF_KIND_ACTOR)
    actor_abandon(client, block);
  af_block_each(client, block, drop_reference, dying);
  AF_POINT(client, 403);
  block_give_back(client, block);
}

void af_block_bury(struct af_client *client, af_off block) {
  if (block_kind(block_at(client, block)) == AF_KIND_ACTOR)
    actor_abandon(client, block);
  block_give_back(client, block);
}

void af_block_drop(struct af_client *client, af_off block) {
  uint32_t outer = af_op_begin(client, AF_OP_BLOCK);
  if (block_discount(client, block)) {
    struct dying dying = {client, 0};
    AF_POINT(client, 401);
    dying_push(&dying, block);
    while ((block = dying.first) != 0) {
      dying.first = atomic_load_explicit(&block_at(client, block)->next, memory_order_relaxed);
      block_free(&dying, block);
    }
  }
  af_op_end(client, outer);
}

/* ---- names ---- */

/* AF_OK: a block of some class starts there and was handed out since its span was taken. */
static int place_check(const struct af_client *client, af_off block) {
  if (!block_in_range(client, block))
    return AF_BAD;
  if (block >= client->header->objects) {
    uint32_t page = (uint32_t)((block - client->header->objects) / AF_PAGE);
    uint64_t word = atomic_load_explicit(&af_extent_at(client, page)->word, memory_order_acquire);
    return af_extent_used(word) ? AF_OK : AF_STALE;
  }
  const struct af_span *span = af_span_at(client, af_span_of(client, block));
  uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
  uint32_t class_index = af_span_class(owner), offset = (uint32_t)(block - client->header->heap) % AF_SPAN;
  if (owner == 0)
    return AF_STALE;
  if (class_index > AF_CLASSES || af_span_role_of(owner) != AF_SPAN_HEAD)
    return AF_BAD;
  uint32_t size = class_index == AF_CLASSES ? AF_SPAN : af_class_bytes[class_index];
  if (offset % size != 0)
    return AF_BAD;
  return offset / size < atomic_load_explicit(&span->fresh, memory_order_acquire) ? AF_OK : AF_STALE;
}

/* A first look, whose answer may be anything: between place_check and here the span may have come to hold blocks of
 * another size, and what is read be in the midst of one that is being filled. What it rules out is gone; what it lets
 * pass is looked at again, and counted only together with its generation. The thread sanitizer is not to mind. */
__attribute__((no_sanitize("thread"))) static bool may_be_live(const struct af_block *header) {
  uint8_t kind = __atomic_load_n(&header->kind, __ATOMIC_RELAXED);
  return kind > AF_KIND_FREE && kind < AF_KIND_COUNT;
}

bool af_block_is_live(const struct af_client *client, af_off block) {
  const struct af_block *header = block_at(client, block);
  if (place_check(client, block) != AF_OK || !may_be_live(header))
    return false;
  uint8_t kind = block_kind(header);
  return kind > AF_KIND_FREE && kind < AF_KIND_COUNT &&
         atomic_load_explicit(&header->count, memory_order_relaxed) != 0;
}

int af_block_find(const struct af_client *client, af_off block, uint32_t generation, uint8_t kind) {
  int status = place_check(client, block);
  if (status != AF_OK)
    return status;
  if (!af_block_is_live(client, block) || af_block_generation(client, block) != generation)
    return AF_STALE;
  return kind == 0 || block_kind(block_at(client, block)) == kind ? AF_OK : AF_BAD;
}

/* Count and generation as one word: little-endian, count first. */
typedef uint64_t __attribute__((may_alias)) counted_name;
_Static_assert(offsetof(struct af_block, count) == 0 && offsetof(struct af_block, generation) == 4, "counted name");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "counted name");

static bool name_count(struct af_client *client, af_off block, uint32_t generation) {
  counted_name *word = AF_AT(client, counted_name, block);
  uint64_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  while ((uint32_t)(seen >> 32) == generation && (uint32_t)seen != 0)
    if (__atomic_compare_exchange_n(word, &seen, seen + 1, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
      return true;
  return false;
}

int af_block_revive(struct af_client *client, af_off block, uint32_t generation, uint8_t kind) {
  int status = af_block_find(client, block, generation, kind);
  if (status != AF_OK)
    return status;
  uint32_t outer = af_op_begin(client, AF_OP_BLOCK);
  status = name_count(client, block, generation) ? AF_OK : AF_STALE;
  AF_POINT(client, 404);
  af_op_end(client, outer);
  return status;
}
