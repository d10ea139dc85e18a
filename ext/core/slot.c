/* slot.c - takes and gives back slots, keeps the hold table, copies it before a fork; see slot.h. */
#include "slot.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "block.h"
#include "heap.h"
#include "points.h"
#include "wait.h"

#define HOLDS_FIRST_ENTRIES ((AF_HOLDS_FIRST - sizeof(struct af_holds)) / sizeof(af_off))
#define HOLDS_NEXT_ENTRIES ((AF_HOLDS_NEXT - sizeof(struct af_holds)) / sizeof(af_off))
#define FROZEN_MOST_NS 500000000ull /* a recount that takes longer has died, or must do without quiet */
#define FROZEN_LOOK_NS 50000

/* ---- operations ---- */

static bool is_frozen(const struct af_client *client) {
  uint64_t frozen = atomic_load_explicit(&client->header->frozen, memory_order_relaxed);
  return frozen != 0 && frozen != ((uint64_t)client->epoch << 32 | (client->slot_index + 1u));
}

void af_op_wait(struct af_client *client, uint32_t number) {
  struct timespec pause = {0, FROZEN_LOOK_NS};
  uint64_t since = af_now_ns();
  while (is_frozen(client)) {
    atomic_store_explicit(&client->slot->op, 0, memory_order_release);
    while (is_frozen(client) && af_now_ns() - since < FROZEN_MOST_NS)
      nanosleep(&pause, NULL);
    if (is_frozen(client))
      atomic_store_explicit(&client->header->frozen, 0, memory_order_relaxed);
    atomic_store_explicit(&client->slot->op, number, memory_order_relaxed);
    af_fence_release();
  }
}

/* ---- slots ---- */

static uint32_t epoch_next(uint32_t epoch) { return epoch + 1 == 0 ? 1 : epoch + 1; }

/* Own-process words of the slot's last process; `holds` is 0 in every FREE slot. */
static void slot_clear(struct af_slot *slot) {
  atomic_store_explicit(&slot->op, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->op_cell, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->op_pending, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->op_dependent, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->running, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->serving, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->token, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->blocked, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->stepping, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->yielding, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->leave, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->waits, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->asleep, 0, memory_order_relaxed);
  atomic_store_explicit(&slot->marks, 0, memory_order_relaxed);
}

static uint64_t reserving_word(uint32_t epoch, uint32_t reserver) {
  return af_slot_word(epoch, AF_SLOT_RESERVED) | (uint64_t)(reserver + 1) << 8;
}

static bool slot_reserve_this(const struct af_client *client, struct af_slot *slot, uint32_t *epoch) {
  uint64_t owner = atomic_load_explicit(&slot->owner, memory_order_relaxed);
  if (af_slot_state_of(owner) != AF_SLOT_FREE)
    return false;
  *epoch = af_slot_epoch_of(owner) == 0 ? 1 : af_slot_epoch_of(owner);
  return atomic_compare_exchange_strong_explicit(&slot->owner, &owner, reserving_word(*epoch, client->slot_index),
                                                 memory_order_acquire, memory_order_relaxed);
}

void af_slot_unreserve_unfilled(struct af_client *client, uint32_t reserver) {
  for (uint32_t i = 0; i < client->header->slot_count; i++) {
    struct af_slot *slot = af_slot_at(client, i);
    uint64_t owner = atomic_load_explicit(&slot->owner, memory_order_acquire);
    uint32_t epoch = af_slot_epoch_of(owner);
    if (owner == reserving_word(epoch, reserver))
      atomic_store_explicit(&slot->owner, af_slot_word(epoch_next(epoch), AF_SLOT_FREE), memory_order_release);
  }
}

/* Lowest first, so that few pages of the table are ever touched. */
int af_slot_reserve(struct af_client *client, uint32_t role, uint32_t job, uint32_t *index, uint32_t *epoch) {
  for (uint32_t i = 0; i < client->header->slot_count; i++) {
    struct af_slot *slot = af_slot_at(client, i);
    if (!slot_reserve_this(client, slot, epoch))
      continue;
    AF_POINT(client, 100);
    slot_clear(slot);
    slot->pid = 0;
    slot->role = role;
    slot->job = job;
    slot->parent = role == AF_ROLE_FORK ? client->slot_index + 1u : 0;
    atomic_store_explicit(&slot->owner, af_slot_word(*epoch, AF_SLOT_RESERVED), memory_order_release);
    *index = i;
    return AF_OK;
  }
  return AF_FULL;
}

int af_slot_claim(struct af_client *client, uint32_t index, uint32_t epoch) {
  if (index >= client->header->slot_count)
    return AF_BAD;
  struct af_slot *slot = af_slot_at(client, index);
  uint64_t owner = af_slot_word(epoch, AF_SLOT_RESERVED);
  if (atomic_load_explicit(&slot->owner, memory_order_acquire) != owner)
    return AF_STALE;
  slot->pid = (uint32_t)getpid();
  AF_POINT(client, 101);
  if (!atomic_compare_exchange_strong_explicit(&slot->owner, &owner, af_slot_word(epoch, AF_SLOT_LIVE),
                                               memory_order_acq_rel, memory_order_relaxed))
    return AF_STALE;
  client->slot = slot;
  client->slot_index = (uint16_t)index;
  client->epoch = epoch;
  return AF_OK;
}

/* The parent of a fork is still copying its holds there, or died at it and was not yet settled. */
static bool is_being_filled(const struct af_client *client, const struct af_slot *slot) {
  uint32_t parent = slot->role == AF_ROLE_FORK ? slot->parent : 0;
  return parent > 0 && parent <= client->header->slot_count && parent - 1 != client->slot_index &&
         atomic_load_explicit(&af_slot_at(client, parent - 1)->op, memory_order_acquire) != 0;
}

/* DEAD first where a fork has left holds: a child that comes late must not take them. */
void af_slot_unreserve(struct af_client *client, uint32_t index, uint32_t epoch) {
  struct af_slot *slot = af_slot_at(client, index);
  uint64_t owner = af_slot_word(epoch, AF_SLOT_RESERVED), dead = af_slot_word(epoch, AF_SLOT_DEAD);
  uint64_t unused = af_slot_word(epoch_next(epoch), AF_SLOT_FREE);
  if (is_being_filled(client, slot))
    return;
  bool held = atomic_load_explicit(&slot->holds, memory_order_acquire) != 0;
  if (!atomic_compare_exchange_strong_explicit(&slot->owner, &owner, held ? dead : unused, memory_order_acq_rel,
                                               memory_order_relaxed) || !held)
    return;
  af_slot_drop_holds(client, index);
  atomic_store_explicit(&slot->owner, unused, memory_order_release);
}

bool af_slot_is(const struct af_client *client, uint32_t index, uint32_t epoch) {
  return index < client->header->slot_count &&
         atomic_load_explicit(&af_slot_at(client, index)->owner, memory_order_acquire) ==
             af_slot_word(epoch, AF_SLOT_LIVE);
}

void af_slot_release(struct af_client *client) {
  struct af_slot *slot = client->slot;
  uint32_t outer = af_op_begin(client, AF_OP_SETTLE_HOLDS);
  af_slot_clear_holds(client);
  af_boards_leave(client, client->slot_index);
  AF_POINT(client, 122);
  af_heap_leave(client);
  AF_POINT(client, 123);
  af_op_end(client, outer);
  client->slot = NULL;
  atomic_store_explicit(&slot->owner, af_slot_word(epoch_next(client->epoch), AF_SLOT_FREE), memory_order_release);
}

/* ---- holds ---- */

static inline _Atomic af_off *hold_entry(const struct af_client *client, uint32_t index) {
  uint32_t chunk = 0;
  if (index >= HOLDS_FIRST_ENTRIES) {
    index -= HOLDS_FIRST_ENTRIES;
    chunk = 1 + index / HOLDS_NEXT_ENTRIES;
    index %= HOLDS_NEXT_ENTRIES;
  }
  return &AF_AT(client, struct af_holds, client->hold_chunks[chunk])->entries[index];
}

static int holds_create(struct af_client *client, bool first, af_off *chunk) {
  uint32_t bytes = first ? AF_HOLDS_FIRST : AF_HOLDS_NEXT;
  int status = af_heap_allocate(client, bytes, AF_KIND_HOLDS, AF_CONTROL, chunk);
  if (status != AF_OK)
    return status;
  struct af_holds *holds = AF_AT(client, struct af_holds, *chunk);
  uint32_t entries = first ? HOLDS_FIRST_ENTRIES : HOLDS_NEXT_ENTRIES;
  memset(&holds->next_chunk, 0, sizeof *holds - offsetof(struct af_holds, next_chunk) + entries * sizeof(af_off));
  holds->capacity = entries;
  return AF_OK;
}

/* Links a further chunk: `last` is the chunk before it, 0: the slot itself. */
static void holds_link(struct af_client *client, struct af_slot *slot, af_off last, af_off chunk) {
  if (last == 0)
    atomic_store_explicit(&slot->holds, chunk, memory_order_release);
  else
    atomic_store_explicit(&AF_AT(client, struct af_holds, last)->next_chunk, chunk, memory_order_release);
}

/* Room in the private arrays for one more chunk; the free list never has to grow later, so a drop cannot fail. */
static int hold_arrays_grow(struct af_client *client, uint32_t capacity) {
  uint32_t *indices = realloc(client->hold_free, capacity * sizeof *indices);
  if (indices == NULL)
    return AF_FULL;
  client->hold_free = indices;
  client->hold_free_capacity = capacity;
  if (client->hold_chunk_count < client->hold_chunk_capacity)
    return AF_OK;
  uint32_t chunks = client->hold_chunk_capacity == 0 ? 8 : 2 * client->hold_chunk_capacity;
  af_off *table = realloc(client->hold_chunks, chunks * sizeof *table);
  if (table == NULL)
    return AF_FULL;
  client->hold_chunks = table;
  client->hold_chunk_capacity = chunks;
  return AF_OK;
}

static int hold_table_grow(struct af_client *client) {
  bool first = client->hold_chunk_count == 0;
  uint32_t capacity = client->hold_capacity + (first ? HOLDS_FIRST_ENTRIES : HOLDS_NEXT_ENTRIES);
  af_off chunk;
  if (hold_arrays_grow(client, capacity) != AF_OK)
    return AF_FULL;
  uint32_t outer = af_op_begin(client, AF_OP_HOLD);
  int status = holds_create(client, first, &chunk);
  if (status == AF_OK) {
    AF_POINT(client, 104);
    holds_link(client, client->slot, first ? 0 : client->hold_chunks[client->hold_chunk_count - 1], chunk);
    client->hold_chunks[client->hold_chunk_count++] = chunk;
    client->hold_capacity = capacity;
  }
  af_op_end(client, outer);
  return status;
}

static inline int hold_index_take(struct af_client *client, uint32_t *index) {
  if (client->hold_free_count > 0) {
    *index = client->hold_free[--client->hold_free_count];
    return AF_OK;
  }
  if (client->hold_fresh == client->hold_capacity && hold_table_grow(client) != AF_OK)
    return AF_FULL;
  *index = client->hold_fresh++;
  return AF_OK;
}

int af_hold_record(struct af_client *client, af_off block, uint32_t *index) {
  if (hold_index_take(client, index) != AF_OK)
    return AF_FULL;
  uint32_t outer = af_op_begin(client, AF_OP_HOLD);
  atomic_store_explicit(hold_entry(client, *index), block, memory_order_release);
  af_op_end(client, outer);
  return AF_OK;
}

int af_hold_take(struct af_client *client, af_off block, uint32_t *index) {
  if (hold_index_take(client, index) != AF_OK)
    return AF_FULL;
  uint32_t outer = af_op_begin(client, AF_OP_HOLD);
  af_block_hold(client, block);
  AF_POINT(client, 102);
  atomic_store_explicit(hold_entry(client, *index), block, memory_order_release);
  af_op_end(client, outer);
  return AF_OK;
}

/* Clears the record; the count is the caller's to drop or pass on, inside its operation. */
static inline af_off hold_clear(struct af_client *client, uint32_t index) {
  _Atomic af_off *entry = hold_entry(client, index);
  af_off block = atomic_load_explicit(entry, memory_order_relaxed);
  atomic_store_explicit(entry, 0, memory_order_release);
  client->hold_free[client->hold_free_count++] = index;
  return block;
}

void af_hold_drop(struct af_client *client, uint32_t index) {
  uint32_t outer = af_op_begin(client, AF_OP_HOLD);
  af_off block = hold_clear(client, index);
  AF_POINT(client, 103);
  af_block_drop(client, block);
  af_op_end(client, outer);
}

void af_hold_forget(struct af_client *client, uint32_t index) {
  uint32_t outer = af_op_begin(client, AF_OP_HOLD);
  hold_clear(client, index);
  af_op_end(client, outer);
}

af_off af_hold_block(const struct af_client *client, uint32_t index) {
  return atomic_load_explicit(hold_entry(client, index), memory_order_relaxed);
}

static uint32_t holds_drop_entries(struct af_client *client, struct af_holds *holds) {
  uint32_t dropped = 0;
  for (uint32_t i = 0; i < holds->capacity; i++) {
    af_off block = atomic_load_explicit(&holds->entries[i], memory_order_relaxed);
    if (block == 0)
      continue;
    atomic_store_explicit(&holds->entries[i], 0, memory_order_release);
    AF_POINT(client, 120);
    if (af_block_is_live(client, block))
      af_block_drop(client, block);
    dropped++;
  }
  return dropped;
}

uint32_t af_slot_drop_holds(struct af_client *client, uint32_t index) {
  struct af_slot *slot = af_slot_at(client, index);
  uint32_t dropped = 0, outer = af_op_begin(client, AF_OP_SETTLE_HOLDS);
  af_off chunk;
  while ((chunk = atomic_load_explicit(&slot->holds, memory_order_acquire)) != 0) {
    struct af_holds *holds = AF_AT(client, struct af_holds, chunk);
    if (!af_block_is_live(client, chunk) || holds->block.kind != AF_KIND_HOLDS) {
      atomic_store_explicit(&slot->holds, 0, memory_order_release); /* garbage: the recount finds what it held */
      break;
    }
    dropped += holds_drop_entries(client, holds);
    atomic_store_explicit(&slot->holds, atomic_load_explicit(&holds->next_chunk, memory_order_relaxed),
                          memory_order_release);
    AF_POINT(client, 121);
    af_block_drop(client, chunk);
  }
  af_op_end(client, outer);
  return dropped;
}

void af_slot_clear_holds(struct af_client *client) {
  af_slot_drop_holds(client, client->slot_index);
  client->hold_chunk_count = client->hold_free_count = client->hold_fresh = client->hold_capacity = 0;
}

/* ---- fork ---- */

static void fork_copy_entries(struct af_client *client, const struct af_holds *from, struct af_holds *to) {
  for (uint32_t i = 0; i < from->capacity; i++) {
    af_off block = atomic_load_explicit(&from->entries[i], memory_order_relaxed);
    if (block == 0)
      continue;
    af_block_hold(client, block);
    AF_POINT(client, 111);
    atomic_store_explicit(&to->entries[i], block, memory_order_release);
  }
}

/* Each chunk is linked before it is filled: what a crash leaves, the coroner finds in the reserved slot. */
static int fork_copy_holds(struct af_client *client, struct af_slot *child) {
  af_off last = 0, chunk;
  for (uint32_t i = 0; i < client->hold_chunk_count; i++) {
    int status = holds_create(client, i == 0, &chunk);
    if (status != AF_OK)
      return status;
    holds_link(client, child, last, chunk);
    AF_POINT(client, 110);
    fork_copy_entries(client, AF_AT(client, struct af_holds, client->hold_chunks[i]),
                      AF_AT(client, struct af_holds, chunk));
    last = chunk;
  }
  return AF_OK;
}

int af_fork_prepare(struct af_client *client, uint32_t *index, uint32_t *epoch) {
  uint32_t outer = af_op_begin(client, AF_OP_FORK);
  int status = af_slot_reserve(client, AF_ROLE_FORK, client->slot->job, index, epoch);
  if (status == AF_OK) {
    status = fork_copy_holds(client, af_slot_at(client, *index));
    if (status != AF_OK)
      af_fork_abandon(client, *index, *epoch);
  }
  AF_POINT(client, 112);
  af_op_end(client, outer);
  return status;
}

/* The parent's hold table is indexed like the copy; only the places of the chunks differ. */
static void fork_chunks_find(struct af_client *client) {
  af_off chunk = atomic_load_explicit(&client->slot->holds, memory_order_acquire);
  for (uint32_t i = 0; i < client->hold_chunk_count; i++) {
    client->hold_chunks[i] = chunk;
    chunk = atomic_load_explicit(&AF_AT(client, struct af_holds, chunk)->next_chunk, memory_order_relaxed);
  }
}

int af_fork_child(struct af_client *client, uint32_t index, uint32_t epoch) {
  AF_POINT(client, 113);
  int status = af_slot_claim(client, index, epoch);
  if (status != AF_OK)
    return status;
  fork_chunks_find(client);
  for (int i = 0; i < AF_CLASSES; i++)
    client->arenas[i] = (struct af_arena){.span = -1, .owned = 0};
  client->calls = 0;
  client->waiting_inside = 0;
  return af_segment_equip(client);
}

void af_fork_abandon(struct af_client *client, uint32_t index, uint32_t epoch) {
  af_slot_drop_holds(client, index);
  af_slot_unreserve(client, index, epoch);
}
