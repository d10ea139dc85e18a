/* lane.c - one writer's queue into a mailbox: placing calls, credit, and the reader's step from call to call.
 *
 * Entry n lies in the chunk whose `first` is at most n; the writer's position is `pushed`, the reader's is `taken`, and
 * nothing else says where either is, so neither can be half moved. */
#include "block.h"
#include "cell.h"
#include "heap.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

#include <string.h>

#define CHUNK_FIRST_ENTRIES 14u
#define CHUNK_MOST_ENTRIES 500u

static struct af_lane *lane_at(const struct af_client *client, af_off lane) {
  return AF_AT(client, struct af_lane, lane);
}
static struct af_chunk *chunk_at(const struct af_client *client, af_off chunk) {
  return AF_AT(client, struct af_chunk, chunk);
}

/* ---- making ---- */

static int chunk_create(struct af_client *client, uint64_t entries, uint64_t first, af_off *chunk) {
  uint32_t bytes = (uint32_t)(sizeof(struct af_chunk) + entries * sizeof(af_off));
  int status = af_heap_allocate(client, bytes, AF_KIND_CHUNK, AF_CONTROL, chunk);
  if (status != AF_OK)
    return status;
  struct af_chunk *made = chunk_at(client, *chunk);
  made->first = first;
  made->capacity = (made->block.capacity - sizeof *made) / sizeof(af_off);
  return AF_OK;
}

/* Until it is filled in it is of a kind that owns nothing: what lies behind a new block's first line is old. */
static int lane_create(struct af_client *client, af_off mailbox, uint16_t depth, af_off *lane) {
  af_off chunk;
  int status = chunk_create(client, CHUNK_FIRST_ENTRIES, 0, &chunk);
  if (status != AF_OK)
    return status;
  AF_POINT(client, 600);
  status = af_heap_allocate(client, sizeof(struct af_lane), AF_KIND_BYTES, AF_CONTROL, lane);
  if (status != AF_OK) {
    af_block_drop(client, chunk);
    return status;
  }
  struct af_lane *made = lane_at(client, *lane);
  memset((uint8_t *)made + sizeof made->block, 0, sizeof *made - sizeof made->block);
  made->slot = client->slot_index;
  made->epoch = client->epoch;
  made->mailbox = mailbox;
  made->depth = depth;
  made->credit = AF_AT(client, struct af_mailbox, mailbox)->credit;
  made->head_chunk = made->tail_chunk = chunk;
  AF_POINT(client, 601);
  af_block_become(&made->block, AF_KIND_LANE);
  return AF_OK;
}

/* The page behind this one, made when there is none. */
static int page_next(struct af_client *client, struct af_lane_page **page) {
  af_off made, next = atomic_load_explicit(&(*page)->next, memory_order_acquire);
  if (next == 0) {
    int status = af_heap_allocate(client, sizeof(struct af_lanes_block), AF_KIND_BYTES, AF_CONTROL, &made);
    if (status != AF_OK)
      return status;
    struct af_lanes_block *block = AF_AT(client, struct af_lanes_block, made);
    memset(&block->page, 0, sizeof block->page);
    af_block_become(&block->block, AF_KIND_LANES);
    AF_POINT(client, 602);
    if (atomic_compare_exchange_strong_explicit(&(*page)->next, &next, made, memory_order_acq_rel,
                                                memory_order_acquire))
      next = made;
    else
      af_block_drop(client, made);
  }
  *page = &AF_AT(client, struct af_lanes_block, next)->page;
  return AF_OK;
}

/* Takes a free place in the mailbox' lane table; the table owns the lane from then on. */
static int lane_place(struct af_client *client, af_off lane) {
  struct af_lane *placed = lane_at(client, lane);
  struct af_lane_page *page = &AF_AT(client, struct af_mailbox, placed->mailbox)->page;
  for (;;) {
    for (uint32_t i = 0; i < AF_PAGE_LANES; i++) {
      af_off none = 0;
      if (atomic_load_explicit(&page->lanes[i], memory_order_relaxed) != 0)
        continue;
      placed->page = AF_OFF(client, page);
      placed->index = i;
      if (!atomic_compare_exchange_strong_explicit(&page->lanes[i], &none, lane, memory_order_acq_rel,
                                                   memory_order_relaxed))
        continue;
      AF_POINT(client, 603);
      atomic_store_explicit(&page->depth[i], (uint8_t)(placed->depth < 255 ? placed->depth : 255),
                            memory_order_release);
      return AF_OK;
    }
    int status = page_next(client, &page);
    if (status != AF_OK)
      return status;
  }
}

int af_lane_open(struct af_client *client, af_off mailbox, uint16_t depth, af_off *lane) {
  if (atomic_load_explicit(&AF_AT(client, struct af_mailbox, mailbox)->closed, memory_order_acquire))
    return AF_CLOSED;
  uint32_t outer = af_op_begin(client, AF_OP_LANE);
  int status = lane_create(client, mailbox, depth, lane);
  if (status == AF_OK) {
    status = lane_place(client, *lane);
    if (status != AF_OK)
      af_block_drop(client, *lane);
  }
  af_op_end(client, outer);
  return status;
}

/* The bit brings the reader to it even when it is empty, so that it is freed. */
void af_lane_close(struct af_client *client, af_off lane) {
  struct af_lane *closed = lane_at(client, lane);
  struct af_lane_page *page = AF_AT(client, struct af_lane_page, closed->page);
  uint32_t index = closed->index;
  atomic_store_explicit(&closed->orphan, 1, memory_order_release);
  AF_POINT(client, 604);
  atomic_fetch_or_explicit(&page->mail, 1ull << index, memory_order_seq_cst);
}

/* ---- the writer ---- */

static bool has_credit(struct af_lane *lane, uint64_t pushed) {
  if (pushed - lane->taken_seen < lane->credit)
    return true;
  lane->taken_seen = atomic_load_explicit(&lane->taken, memory_order_acquire);
  return pushed - lane->taken_seen < lane->credit;
}

static int tail_grow(struct af_client *client, struct af_lane *lane, uint64_t pushed) {
  struct af_chunk *tail = chunk_at(client, lane->tail_chunk);
  uint64_t entries = 2 * tail->capacity < CHUNK_MOST_ENTRIES ? 2 * tail->capacity : CHUNK_MOST_ENTRIES;
  af_off made;
  int status = chunk_create(client, entries, pushed, &made);
  if (status != AF_OK)
    return status;
  AF_POINT(client, 610);
  atomic_store_explicit(&tail->next_chunk, made, memory_order_release);
  AF_POINT(client, 611);
  lane->tail_chunk = made;
  return AF_OK;
}

/* SYNC POINT lane-push: the store of `pushed` publishes the entry to the reader. It is sequentially consistent, as is
 * the look at the mail bit behind it, because a reader that clears the bit looks at `pushed` again. */
static int lane_append(struct af_client *client, af_off lane, af_off cell) {
  struct af_lane *to = lane_at(client, lane);
  uint64_t pushed = atomic_load_explicit(&to->pushed, memory_order_relaxed);
  if (!has_credit(to, pushed))
    return AF_FULL;
  struct af_chunk *tail = chunk_at(client, to->tail_chunk);
  if (pushed - tail->first == tail->capacity) {
    int status = tail_grow(client, to, pushed);
    if (status != AF_OK)
      return status;
    tail = chunk_at(client, to->tail_chunk);
  }
  af_block_hold(client, cell);
  AF_POINT(client, 612);
  tail->entries[pushed - tail->first] = cell;
  AF_POINT(client, 613);
  atomic_store_explicit(&to->pushed, pushed + 1, memory_order_seq_cst);
  AF_POINT(client, 614);
  return AF_OK;
}

int af_lane_push(struct af_client *client, af_off lane, af_off cell) {
  struct af_lane *to = lane_at(client, lane);
  struct af_mailbox *mailbox = AF_AT(client, struct af_mailbox, to->mailbox);
  if (atomic_load_explicit(&mailbox->closed, memory_order_acquire))
    return AF_CLOSED;
  uint32_t outer = af_op_begin(client, AF_OP_PUSH);
  int status = lane_append(client, lane, cell);
  if (status == AF_OK) {
    af_mailbox_mail(client, to->mailbox, to->page | to->index);
    /* SYNC POINT close: the node sets `closed`, then reads `pushed`; here the other way round: one sees the other. */
    if (atomic_load_explicit(&mailbox->closed, memory_order_seq_cst))
      af_cell_fail(client, cell, 0, mailbox->error, (uint8_t)mailbox->error_format);
  }
  af_op_end(client, outer);
  return status;
}

int af_lane_wait_room(struct af_client *client, af_off lane, uint64_t timeout_ns) {
  struct af_lane *full = lane_at(client, lane);
  struct af_mailbox *mailbox = AF_AT(client, struct af_mailbox, full->mailbox);
  uint64_t pushed = atomic_load_explicit(&full->pushed, memory_order_relaxed);
  atomic_store_explicit(&full->room, 1, memory_order_seq_cst);
  AF_POINT(client, 620);
  if (atomic_load_explicit(&mailbox->closed, memory_order_seq_cst) ||
      pushed - atomic_load_explicit(&full->taken, memory_order_seq_cst) < full->credit)
    return AF_OK;
  return af_futex_wait(&full->room, 1, af_sleep_limit(timeout_ns));
}

/* ---- the reader ---- */

af_off af_lane_head(struct af_client *client, af_off lane) {
  struct af_lane *from = lane_at(client, lane);
  uint64_t taken = atomic_load_explicit(&from->taken, memory_order_relaxed);
  if (atomic_load_explicit(&from->pushed, memory_order_acquire) == taken) /* SYNC POINT lane-push */
    return 0;
  struct af_chunk *head = chunk_at(client, from->head_chunk);
  if (taken - head->first >= head->capacity) {
    af_off through = from->head_chunk;
    from->head_chunk = atomic_load_explicit(&head->next_chunk, memory_order_acquire);
    AF_POINT(client, 630);
    af_block_drop(client, through);
    head = chunk_at(client, from->head_chunk);
  }
  return head->entries[taken - head->first];
}

/* The look at `room` may come before others see `taken`; then the writer's timed look finds the room. */
static void room_tell(struct af_client *client, struct af_lane *lane, uint64_t taken) {
  if (atomic_load_explicit(&lane->room, memory_order_relaxed) == 0 ||
      atomic_load_explicit(&lane->pushed, memory_order_relaxed) - taken > lane->credit / 2)
    return;
  atomic_store_explicit(&lane->room, 0, memory_order_release);
  AF_POINT(client, 631);
  af_futex_wake(&lane->room, UINT32_MAX);
}

void af_lane_advance(struct af_client *client, af_off lane, af_off cell) {
  struct af_lane *from = lane_at(client, lane);
  uint64_t taken = atomic_load_explicit(&from->taken, memory_order_relaxed);
  atomic_store_explicit(&from->taken, taken + 1, memory_order_release);
  AF_POINT(client, 632);
  af_block_drop(client, cell);
  room_tell(client, from, taken + 1);
}
