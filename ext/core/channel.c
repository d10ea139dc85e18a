/* channel.c - makes channels, moves values through their slots, lets ends sleep and wakes them; see channel.h. */
#include "channel.h"

#include <string.h>

#include "block.h"
#include "heap.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

_Static_assert(offsetof(struct af_channel, ends) == AF_LINE, "the ends begin at a line of their own");
_Static_assert(sizeof(struct af_channel_end) == AF_LINE, "an end is a line");

static struct af_channel *channel_at(const struct af_client *client, af_off channel) {
  return AF_AT(client, struct af_channel, channel);
}

/* The slot of value number `position`. */
static struct af_channel_slot *slot_of(const struct af_client *client, af_off channel, uint64_t position) {
  struct af_channel *of = channel_at(client, channel);
  uint64_t before = sizeof *of + (uint64_t)(of->readers + 1) * sizeof of->ends[0];
  return AF_AT(client, struct af_channel_slot, channel + before + position % of->slots * of->stride);
}

struct af_channel_slot *af_channel_slot_at(const struct af_client *client, af_off channel, uint32_t index) {
  struct af_channel *of = channel_at(client, channel);
  uint64_t before = sizeof *of + (uint64_t)(of->readers + 1) * sizeof of->ends[0];
  if (index >= of->slots || before + (uint64_t)(index + 1) * of->stride > of->block.capacity)
    return NULL;
  return slot_of(client, channel, index);
}

/* ---- making ---- */

static uint64_t stride_for(uint64_t slot_bytes) {
  return (offsetof(struct af_channel_slot, data) + slot_bytes + AF_LINE - 1) / AF_LINE * AF_LINE;
}

int af_channel_create(struct af_client *client, uint32_t slots, uint32_t slot_bytes, uint32_t readers, af_off *channel) {
  if (slots == 0 || readers == 0 || readers > AF_CHANNEL_READERS)
    return AF_BAD;
  if (slot_bytes > AF_LARGE_MAX || slots > AF_LARGE_MAX / AF_LINE)
    return AF_TOO_LARGE;
  uint64_t stride = stride_for(slot_bytes);
  uint64_t bytes = sizeof(struct af_channel) + (readers + 1) * sizeof(struct af_channel_end) + slots * stride;
  if (bytes > AF_LARGE_MAX)
    return AF_TOO_LARGE;
  int status = af_heap_allocate(client, (uint32_t)bytes, AF_KIND_BYTES, AF_MESSAGES, channel);
  if (status != AF_OK)
    return status;
  struct af_channel *made = channel_at(client, *channel);
  memset((uint8_t *)made + sizeof made->block, 0, bytes - sizeof made->block);
  made->slots = slots;
  made->slot_bytes = slot_bytes;
  made->readers = readers;
  made->stride = (uint32_t)stride;
  AF_POINT(client, 820);
  af_block_become(&made->block, AF_KIND_CHANNEL); /* owns nothing before this */
  return AF_OK;
}

int af_channel_claim(struct af_client *client, af_off channel, uint32_t end) {
  struct af_channel *of = channel_at(client, channel);
  uint64_t nobody = 0, own = (uint64_t)client->epoch << 32 | (client->slot_index + 1u);
  if (end > of->readers)
    return AF_BAD;
  bool taken = !atomic_compare_exchange_strong_explicit(&of->ends[end].owner, &nobody, own, memory_order_acq_rel,
                                                        memory_order_relaxed);
  AF_POINT(client, 821);
  return taken ? AF_BUSY : AF_OK;
}

/* ---- looking ---- */

enum af_channel_state af_channel_state(const struct af_client *client, af_off channel) {
  return (enum af_channel_state)atomic_load_explicit(&channel_at(client, channel)->state, memory_order_seq_cst);
}

static uint64_t position_of(const struct af_channel_end *end) {
  return atomic_load_explicit(&end->position, memory_order_seq_cst);
}

/* SYNC POINT channel-slot: this acquire pairs with the reader's release of its position. */
static bool writer_may_write(struct af_channel *channel) {
  struct af_channel_end *writer = &channel->ends[AF_CHANNEL_WRITER];
  uint64_t position = atomic_load_explicit(&writer->position, memory_order_relaxed);
  if (position < atomic_load_explicit(&writer->room, memory_order_relaxed))
    return true;
  uint64_t least = UINT64_MAX;
  for (uint32_t i = 1; i <= channel->readers; i++) {
    uint64_t read = position_of(&channel->ends[i]);
    least = read < least ? read : least;
  }
  atomic_store_explicit(&writer->room, least + channel->slots, memory_order_relaxed);
  return position < least + channel->slots;
}

/* SYNC POINT channel-value: this acquire pairs with the writer's release of its position. */
static bool reader_may_read(const struct af_channel *channel, uint32_t end) {
  return atomic_load_explicit(&channel->ends[end].position, memory_order_relaxed) <
         position_of(&channel->ends[AF_CHANNEL_WRITER]);
}

int af_channel_look(const struct af_client *client, af_off channel, uint32_t end) {
  struct af_channel *of = channel_at(client, channel);
  if (end != AF_CHANNEL_WRITER && reader_may_read(of, end))
    return AF_OK;
  if (af_channel_state(client, channel) == AF_CHANNEL_OPEN)
    return end == AF_CHANNEL_WRITER && writer_may_write(of) ? AF_OK : AF_EMPTY;
  /* what was published before the state changed is still to be read */
  return end != AF_CHANNEL_WRITER && reader_may_read(of, end) ? AF_OK : AF_CLOSED;
}

int af_channel_spin(const struct af_client *client, af_off channel, uint32_t end, uint64_t spin_ns) {
  struct af_spin spin;
  int found;
  af_spin_begin(&spin, client, spin_ns);
  do
    found = af_channel_look(client, channel, end);
  while (found == AF_EMPTY && af_spin_turn(&spin));
  return found;
}

/* ---- sleeping and waking ---- */

/* SYNC POINT channel-sleep: an end counts itself in `attention`, says that it sleeps (or by whom it is watched), then
 * looks; who moves its position or changes the state does so, then looks at `attention` and at those. All sequentially
 * consistent, so one of them sees the other. */
int af_channel_sleep(struct af_client *client, af_off channel, uint32_t end, uint64_t timeout_ns) {
  struct af_channel *of = channel_at(client, channel);
  struct af_channel_end *own = &of->ends[end];
  int status = AF_OK;
  atomic_fetch_add_explicit(&of->attention, 1, memory_order_seq_cst);
  atomic_store_explicit(&own->asleep, 1, memory_order_seq_cst);
  AF_POINT(client, 831);
  int found = af_channel_look(client, channel, end);
  if (found == AF_EMPTY) {
    status = af_futex_wait(&own->asleep, 1, af_sleep_limit(timeout_ns));
    found = af_channel_look(client, channel, end);
  }
  atomic_store_explicit(&own->asleep, 0, memory_order_relaxed);
  atomic_fetch_sub_explicit(&of->attention, 1, memory_order_relaxed);
  return found != AF_EMPTY ? found : status == AF_OK ? AF_TIMEOUT : status;
}

void af_channel_watch(struct af_client *client, af_off channel, uint32_t end, af_watch watch) {
  struct af_channel *of = channel_at(client, channel);
  (void)client;
  if (watch != 0)
    atomic_fetch_add_explicit(&of->attention, 1, memory_order_seq_cst);
  af_watch before = atomic_exchange_explicit(&of->ends[end].watch, watch, memory_order_seq_cst);
  if (before != 0)
    atomic_fetch_sub_explicit(&of->attention, 1, memory_order_relaxed);
}

static void end_rouse(struct af_client *client, struct af_channel_end *end) {
  if (atomic_load_explicit(&end->asleep, memory_order_seq_cst) != 0 &&
      atomic_exchange_explicit(&end->asleep, 0, memory_order_seq_cst) != 0) {
    AF_POINT(client, 825);
    af_futex_wake(&end->asleep, UINT32_MAX);
  }
  af_watch watch = atomic_load_explicit(&end->watch, memory_order_seq_cst);
  if (watch != 0) {
    AF_POINT(client, 826);
    af_ring(client, watch);
  }
}

static bool is_attended(const struct af_channel *channel) {
  return atomic_load_explicit(&channel->attention, memory_order_seq_cst) != 0;
}

static void all_rouse(struct af_client *client, struct af_channel *channel) {
  for (uint32_t i = 0; i <= channel->readers; i++)
    end_rouse(client, &channel->ends[i]);
}

/* ---- writing ---- */

uint8_t *af_channel_place(const struct af_client *client, af_off channel) {
  const struct af_channel_end *writer = &channel_at(client, channel)->ends[AF_CHANNEL_WRITER];
  return slot_of(client, channel, atomic_load_explicit(&writer->position, memory_order_relaxed))->data;
}

void af_channel_publish(struct af_client *client, af_off channel, af_off block, uint32_t references, uint32_t bytes,
                        uint8_t format) {
  struct af_channel *of = channel_at(client, channel);
  struct af_channel_end *writer = &of->ends[AF_CHANNEL_WRITER];
  uint64_t position = atomic_load_explicit(&writer->position, memory_order_relaxed);
  struct af_channel_slot *slot = slot_of(client, channel, position);
  slot->bytes = bytes;
  slot->format = format;
  if (block != 0 || references != 0) {
    AF_POINT(client, 822);
    atomic_store_explicit(&slot->unread, of->readers, memory_order_relaxed);
    atomic_store_explicit(&slot->references, references, memory_order_release);
    atomic_store_explicit(&slot->block, block, memory_order_release);
    AF_POINT(client, 823);
  }
  atomic_store_explicit(&writer->position, position + 1, memory_order_seq_cst); /* SYNC POINT channel-value */
  AF_POINT(client, 824);
  if (is_attended(of)) /* SYNC POINT channel-sleep */
    for (uint32_t i = 1; i <= of->readers; i++)
      end_rouse(client, &of->ends[i]);
}

/* ---- reading ---- */

int af_channel_value(const struct af_client *client, af_off channel, uint32_t end, struct af_channel_value *value) {
  struct af_channel *of = channel_at(client, channel);
  uint64_t position = atomic_load_explicit(&of->ends[end].position, memory_order_relaxed);
  const struct af_channel_slot *slot = slot_of(client, channel, position);
  value->block = atomic_load_explicit(&slot->block, memory_order_relaxed);
  value->count = atomic_load_explicit(&slot->references, memory_order_relaxed);
  value->references = (const af_off *)(const void *)slot->data;
  value->data = slot->data + value->count * sizeof(af_off);
  value->bytes = slot->bytes;
  value->format = slot->format;
  if (value->block != 0)
    return af_block_is_live(client, value->block) ? AF_OK : AF_BAD;
  return (uint64_t)value->count * sizeof(af_off) + value->bytes <= of->slot_bytes ? AF_OK : AF_BAD;
}

/* What the slot owns is nobody's from the first store on, until it is dropped. */
static void slot_clear(struct af_client *client, struct af_channel_slot *slot) {
  const af_off *references = (const af_off *)(const void *)slot->data;
  uint32_t outer = af_op_begin(client, AF_OP_CHANNEL);
  uint32_t count = atomic_exchange_explicit(&slot->references, 0, memory_order_acq_rel);
  af_off block = atomic_exchange_explicit(&slot->block, 0, memory_order_acq_rel);
  AF_POINT(client, 828);
  for (uint32_t i = 0; i < count; i++)
    af_block_drop(client, references[i]);
  if (block != 0)
    af_block_drop(client, block);
  AF_POINT(client, 829);
  af_op_end(client, outer);
}

void af_channel_next(struct af_client *client, af_off channel, uint32_t end) {
  struct af_channel *of = channel_at(client, channel);
  struct af_channel_end *own = &of->ends[end];
  uint64_t position = atomic_load_explicit(&own->position, memory_order_relaxed);
  struct af_channel_slot *slot = slot_of(client, channel, position);
  if (atomic_load_explicit(&slot->block, memory_order_relaxed) != 0 ||
      atomic_load_explicit(&slot->references, memory_order_relaxed) != 0) {
    uint32_t unread = atomic_fetch_sub_explicit(&slot->unread, 1, memory_order_acq_rel);
    AF_POINT(client, 827);
    if (unread == 1)
      slot_clear(client, slot);
  }
  atomic_store_explicit(&own->position, position + 1, memory_order_seq_cst); /* SYNC POINT channel-slot */
  AF_POINT(client, 830);
  if (is_attended(of)) /* SYNC POINT channel-sleep */
    end_rouse(client, &of->ends[AF_CHANNEL_WRITER]);
}

/* ---- the end ---- */

static void state_set(struct af_client *client, struct af_channel *channel, enum af_channel_state state) {
  uint32_t open = AF_CHANNEL_OPEN;
  atomic_compare_exchange_strong_explicit(&channel->state, &open, (uint32_t)state, memory_order_seq_cst,
                                          memory_order_seq_cst);
  AF_POINT(client, 832);
  all_rouse(client, channel); /* SYNC POINT channel-sleep; also what one that died owed */
}

void af_channel_close(struct af_client *client, af_off channel) {
  state_set(client, channel_at(client, channel), AF_CHANNEL_CLOSED);
}

void af_channel_bereave(struct af_client *node, af_off channel, uint32_t slot, uint32_t epoch) {
  struct af_channel *of = channel_at(node, channel);
  uint64_t dead = (uint64_t)epoch << 32 | (slot + 1u);
  for (uint32_t i = 0; i <= of->readers; i++)
    if (atomic_load_explicit(&of->ends[i].owner, memory_order_acquire) == dead) {
      state_set(node, of, AF_CHANNEL_BROKEN);
      return;
    }
}
