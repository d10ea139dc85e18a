/* audit.c - recounts every reference to every block and compares with the books; see audit.h. */
#define _GNU_SOURCE
#include "audit.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "block.h"
#include "extent.h"
#include "heap.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

#define LISTED 0x80000000u        /* in `met`: the place is on a list of free blocks */
#define QUIET_MOST_NS 50000000ull /* how long one try waits for the others to end their operations */
#define FREEZE_MOST_NS 600000000ull

struct wrong {
  af_off place;    /* block, or start of a span */
  int64_t surplus; /* of its count; 0: give it back */
};

struct recount {
  struct af_client *client;
  struct af_audit *audit;
  uint32_t *met;           /* one for each 64 bytes of the segment: references met there, and LISTED */
  uint64_t met_bytes;
  uint32_t spans;          /* owned ones met */
  bool repair;
  struct wrong *wrongs;
  uint64_t wrong_count, wrong_capacity;
};

static inline struct af_block *block_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block);
}

static void wrong_note(struct recount *recount, af_off place, int64_t surplus) {
  if (recount->audit->first_wrong == 0)
    recount->audit->first_wrong = place;
  if (!recount->repair)
    return;
  if (recount->wrong_count == recount->wrong_capacity) {
    uint64_t capacity = recount->wrong_capacity == 0 ? 64 : 2 * recount->wrong_capacity;
    struct wrong *wrongs = realloc(recount->wrongs, capacity * sizeof *wrongs);
    if (wrongs == NULL)
      return; /* this one stays for the next repair */
    recount->wrongs = wrongs;
    recount->wrong_capacity = capacity;
  }
  recount->wrongs[recount->wrong_count++] = (struct wrong){place, surplus};
}

static void broken_note(struct recount *recount, af_off place) {
  recount->audit->broken++;
  if (recount->audit->first_wrong == 0)
    recount->audit->first_wrong = place;
}

/* ---- walks ---- */

static void meet(void *context, af_off *reference) {
  struct recount *recount = context;
  if (*reference == 0)
    return;
  if (af_block_is_live(recount->client, *reference))
    recount->met[*reference / AF_LINE]++;
  else
    broken_note(recount, *reference);
}

static void meet_hold_table(struct recount *recount, af_off chunk) {
  uint64_t most = recount->client->size_bytes / AF_HOLDS_FIRST;
  for (uint64_t i = 0; chunk != 0 && i < most; i++) {
    meet(recount, &chunk);
    struct af_holds *holds = AF_AT(recount->client, struct af_holds, chunk);
    if (!af_block_is_live(recount->client, chunk) || holds->block.kind != AF_KIND_HOLDS ||
        holds->capacity > (holds->block.capacity - sizeof *holds) / sizeof(af_off))
      return;
    for (uint32_t j = 0; j < holds->capacity; j++) {
      af_off block = atomic_load_explicit(&holds->entries[j], memory_order_relaxed);
      meet(recount, &block);
    }
    chunk = atomic_load_explicit(&holds->next_chunk, memory_order_relaxed);
  }
}

static void meet_slots(struct recount *recount) {
  for (uint32_t i = 0; i < recount->client->header->slot_count; i++) {
    struct af_slot *slot = af_slot_at(recount->client, i);
    meet_hold_table(recount, atomic_load_explicit(&slot->holds, memory_order_relaxed));
    for (uint32_t j = 0; j < AF_BOARDS; j++) {
      af_off board = atomic_load_explicit(&slot->boards[j], memory_order_relaxed);
      for (uint32_t k = 0; board != 0 && k < AF_BOARDS_MOST; k++) {
        meet(recount, &board);
        board = af_board_following(recount->client, board);
      }
    }
  }
}

/* Marks a list of free blocks that must lie in [from, to) at multiples of `size`. Returns its length. */
static uint32_t list_mark(struct recount *recount, af_off block, af_off from, af_off to, uint32_t size, bool is_free) {
  uint32_t length = 0;
  for (; block != 0; length++) {
    bool fits = block >= from && block < to && (block - from) % size == 0;
    if (!fits || (recount->met[block / AF_LINE] & LISTED) != 0 ||
        (block_at(recount->client, block)->kind == AF_KIND_FREE) != is_free) {
      broken_note(recount, block);
      break;
    }
    recount->met[block / AF_LINE] |= LISTED;
    block = atomic_load_explicit(&block_at(recount->client, block)->next, memory_order_relaxed);
  }
  return length;
}

static void span_mark(struct recount *recount, uint32_t index) {
  struct af_span *span = af_span_at(recount->client, index);
  uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
  uint32_t class_index = af_span_class(owner), fresh = atomic_load_explicit(&span->fresh, memory_order_relaxed);
  af_off start = af_span_start(recount->client, index);
  recount->spans += owner != 0 && af_span_role_of(owner) != AF_SPAN_PUNCHED;
  if (owner == 0) {
    if (fresh != 0 || span->local != 0 || atomic_load_explicit(&span->remote, memory_order_relaxed) != 0)
      broken_note(recount, start);
  } else if (class_index == AF_CLASSES) {
    if (!af_heap_large_is_used(recount->client, index)) {
      recount->audit->lost++;
      wrong_note(recount, start, 0);
    }
  } else if (class_index < AF_CLASSES && fresh <= af_class_blocks[class_index]) {
    uint32_t size = af_class_bytes[class_index];
    af_off end = start + (af_off)fresh * size;
    uint32_t local = list_mark(recount, span->local, start, end, size, true);
    list_mark(recount, atomic_load_explicit(&span->remote, memory_order_acquire), start, end, size, false);
    if (span->used != fresh - local)
      broken_note(recount, start);
  } else {
    broken_note(recount, start);
  }
}

static void lists_mark(struct recount *recount) {
  struct af_header *header = recount->client->header;
  for (uint32_t i = 0; i < af_span_top(recount->client); i++)
    span_mark(recount, i);
  if (atomic_load_explicit(&header->spans_used, memory_order_relaxed) != recount->spans)
    broken_note(recount, header->spans);
  list_mark(recount, atomic_load_explicit(&header->extent_returned, memory_order_acquire), header->objects,
            recount->client->size_bytes, AF_PAGE, false);
  list_mark(recount, atomic_load_explicit(&header->spill_returned, memory_order_acquire), header->heap,
            header->objects, AF_LINE, false);
}

typedef void (*block_visit)(struct recount *recount, af_off block);

static void each_block_of_span(struct recount *recount, uint32_t index, block_visit visit) {
  struct af_span *span = af_span_at(recount->client, index);
  uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
  uint32_t class_index = af_span_class(owner), fresh = atomic_load_explicit(&span->fresh, memory_order_acquire);
  af_off start = af_span_start(recount->client, index);
  if (owner == 0 || af_span_role_of(owner) != AF_SPAN_HEAD || class_index > AF_CLASSES)
    return;
  if (class_index == AF_CLASSES) {
    if (fresh == 1 && af_heap_large_is_used(recount->client, index))
      visit(recount, start);
    return;
  }
  for (uint32_t i = 0; i < fresh && i < af_class_blocks[class_index]; i++)
    visit(recount, start + (af_off)i * af_class_bytes[class_index]);
}

static void each_block(struct recount *recount, block_visit visit) {
  struct af_header *header = recount->client->header;
  for (uint32_t i = 0; i < af_span_top(recount->client); i++)
    each_block_of_span(recount, i, visit);
  for (uint64_t page = 0; page < header->wilderness_page;) {
    uint64_t word = atomic_load_explicit(&af_extent_at(recount->client, (uint32_t)page)->word, memory_order_acquire);
    if (af_extent_pages(word) == 0)
      return; /* af_extent_agree has said so */
    if (af_extent_used(word))
      visit(recount, header->objects + page * AF_PAGE);
    page += af_extent_pages(word);
  }
}

static void block_count(struct recount *recount, af_off block) {
  const struct af_block *header = block_at(recount->client, block);
  struct af_audit *audit = recount->audit;
  if (header->kind >= AF_KIND_COUNT) {
    broken_note(recount, block);
    return;
  }
  if (!af_block_is_live(recount->client, block))
    return;
  audit->blocks[header->kind]++;
  if (block < recount->client->header->objects)
    audit->bytes += header->capacity;
  else
    audit->object_bytes += af_extent_bytes(recount->client, block);
  af_block_each(recount->client, block, meet, recount);
}

static void block_compare(struct recount *recount, af_off block) {
  const struct af_block *header = block_at(recount->client, block);
  uint32_t count = atomic_load_explicit(&header->count, memory_order_relaxed);
  uint32_t met = recount->met[block / AF_LINE];
  struct af_audit *audit = recount->audit;
  if (!af_block_is_live(recount->client, block)) {
    if ((met & LISTED) != 0)
      return;
    audit->lost++;
    wrong_note(recount, block, 0);
  } else if (count != met) {
    audit->lost += met == 0;
    audit->too_high += met != 0 && count > met;
    audit->too_low += count < met;
    wrong_note(recount, block, (int64_t)count - (int64_t)met);
  }
}

/* ---- quiet ---- */

static uint64_t own_word(const struct af_client *client) {
  return (uint64_t)client->epoch << 32 | (client->slot_index + 1u);
}

/* One recount at a time; one that does not end has died. */
static void freeze(struct af_client *client) {
  _Atomic uint64_t *frozen = &client->header->frozen;
  uint64_t since = af_now_ns(), seen = 0;
  while (!atomic_compare_exchange_strong_explicit(frozen, &seen, own_word(client), memory_order_seq_cst,
                                                  memory_order_relaxed)) {
    if (af_now_ns() - since < FREEZE_MOST_NS)
      seen = 0;
    sched_yield();
  }
}

static void thaw(struct af_client *client) {
  uint64_t own = own_word(client);
  atomic_compare_exchange_strong_explicit(&client->header->frozen, &own, 0, memory_order_seq_cst, memory_order_relaxed);
}

/* A number that differs when any slot changed hands or ended an operation; *quiet: no other process is inside one.
 * SYNC POINT op: see af_op_begin. */
static uint64_t instant(const struct af_client *client, bool *quiet) {
  uint64_t mixed = 0;
  *quiet = true;
  for (uint32_t i = 0; i < client->header->slot_count; i++) {
    struct af_slot *slot = af_slot_at(client, i);
    uint64_t owner = atomic_load_explicit(&slot->owner, memory_order_acquire);
    if (owner == 0)
      continue;
    if (slot != client->slot && af_slot_state_of(owner) == AF_SLOT_LIVE &&
        atomic_load_explicit(&slot->op, memory_order_acquire) != 0)
      *quiet = false;
    mixed = (mixed ^ owner) * 0x100000001b3ull;
    mixed = (mixed ^ atomic_load_explicit(&slot->hold_ops, memory_order_acquire)) * 0x100000001b3ull;
  }
  return mixed;
}

static bool quiet_wait(const struct af_client *client, uint64_t *before) {
  uint64_t since = af_now_ns();
  bool quiet;
  while (*before = instant(client, &quiet), !quiet && af_now_ns() - since < QUIET_MOST_NS)
    sched_yield();
  return quiet;
}

/* ---- runs ---- */

static void recount_reset(struct recount *recount) {
  memset(recount->audit, 0, sizeof *recount->audit);
  recount->spans = 0;
  recount->wrong_count = 0;
  madvise(recount->met, recount->met_bytes, MADV_DONTNEED); /* private and anonymous: reads as 0 again */
}

/* The figures of now; true if they are of one instant. */
static bool recount_take(struct recount *recount) {
  struct af_client *client = recount->client;
  uint64_t before;
  bool quiet = quiet_wait(client, &before), still_quiet;
  if (!af_extent_agree(client))
    broken_note(recount, client->header->extents);
  lists_mark(recount);
  meet_slots(recount);
  each_block(recount, block_count);
  each_block(recount, block_compare);
#ifndef __SANITIZE_THREAD__
  atomic_thread_fence(memory_order_acquire);
#endif
  bool same = instant(client, &still_quiet) == before;
  recount->audit->consistent = quiet && still_quiet && same;
  return recount->audit->consistent;
}

static bool is_large_span(const struct af_client *client, af_off place) {
  uint64_t owner = atomic_load_explicit(&af_span_at(client, af_span_of(client, place))->owner, memory_order_relaxed);
  return af_span_class(owner) == AF_CLASSES && !af_heap_large_is_used(client, af_span_of(client, place));
}

static void wrong_right(struct af_client *client, const struct wrong *wrong) {
  _Atomic uint32_t *count = &block_at(client, wrong->place)->count;
  if (wrong->surplus > 0) {
    atomic_fetch_sub_explicit(count, (uint32_t)wrong->surplus - 1, memory_order_relaxed);
    af_block_drop(client, wrong->place);
  } else if (wrong->surplus < 0) {
    atomic_fetch_add_explicit(count, (uint32_t)-wrong->surplus, memory_order_relaxed);
  } else if (wrong->place < client->header->objects && is_large_span(client, wrong->place)) {
    af_heap_settle_large(client, af_span_of(client, wrong->place));
  } else {
    af_block_bury(client, wrong->place);
  }
}

/* Blocks of count 0 first: a block that the repair itself frees must not be taken for one of these. */
static void recount_repair(struct recount *recount) {
  struct af_header *header = recount->client->header;
  uint32_t outer = af_op_begin(recount->client, AF_OP_AUDIT);
  uint32_t used = atomic_load_explicit(&header->spans_used, memory_order_relaxed);
  atomic_fetch_add_explicit(&header->spans_used, recount->spans - used, memory_order_relaxed);
  recount->audit->repaired = recount->wrong_count + (recount->spans != used);
  for (int counted = 0; counted < 2; counted++)
    for (uint64_t i = 0; i < recount->wrong_count; i++)
      if ((recount->wrongs[i].surplus != 0) == counted)
        wrong_right(recount->client, &recount->wrongs[i]);
  af_op_end(recount->client, outer);
}

static void audit_try(struct recount *recount) {
  struct af_client *client = recount->client;
  af_extent_check(client); /* before the quiet, as it may wait: rebuilds bins that a dead holder left */
  freeze(client);
  recount_reset(recount);
  if (recount_take(recount) && recount->repair)
    recount_repair(recount);
  thaw(client);
}

int af_audit_run(struct af_client *client, bool repair, uint32_t tries, struct af_audit *audit) {
  struct recount recount = {.client = client, .audit = audit, .repair = repair};
  recount.met_bytes = client->size_bytes / AF_LINE * sizeof *recount.met + sizeof *recount.met;
  recount.met = mmap(NULL, recount.met_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                     -1, 0);
  if (recount.met == MAP_FAILED)
    return AF_SYSTEM;
  do
    audit_try(&recount);
  while (audit->consistent == 0 && tries-- > 1);
  munmap(recount.met, recount.met_bytes);
  free(recount.wrongs);
  return AF_OK;
}
