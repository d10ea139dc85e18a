/* test_channel.c - channels: order and bounds, what the slots own, close and break, sleeping and being watched. */
#include "channels.h"

#include <sched.h>

#include "coroner.h"

static struct af_client node;

static void node_make(void) { segment_make(&node, 16 * MIB, MIB, 8 * MIB); }
static void node_end(void) {
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

/* ---- one process ---- */

static void test_geometry(void) {
  af_off channel;
  uint32_t hold;
  node_make();
  CHECK(af_channel_create(&node, 0, 10, 1, &channel) == AF_BAD, "no slot");
  CHECK(af_channel_create(&node, 1, 10, 0, &channel) == AF_BAD, "no reader");
  CHECK(af_channel_create(&node, 1, 10, AF_CHANNEL_READERS + 1, &channel) == AF_BAD, "too many readers");
  CHECK(af_channel_create(&node, 1, AF_LARGE_MAX, 1, &channel) == AF_TOO_LARGE, "a slot larger than all");
  CHECK(af_channel_create(&node, UINT32_MAX, 0, 1, &channel) == AF_TOO_LARGE, "too many slots");
  CHECK(af_channel_create(&node, 1, UINT32_MAX, 1, &channel) == AF_TOO_LARGE, "too large a slot");
  CHECK_OK(af_channel_create(&node, 31, 4000, AF_CHANNEL_READERS / 2, &channel));
  CHECK_OK(af_hold_record(&node, channel, &hold));
  CHECK(af_channel_slot_at(&node, channel, 30) != NULL && af_channel_slot_at(&node, channel, 31) == NULL, "slots");
  af_hold_drop(&node, hold);
  CHECK_OK(af_channel_create(&node, 1, 0, 1, &channel));
  CHECK(af_channel_look(&node, channel, 0) == AF_OK && af_channel_look(&node, channel, 1) == AF_EMPTY, "new");
  af_block_drop(&node, channel);
  node_end();
}

static void test_an_end_is_taken_once(void) {
  struct af_client other;
  uint32_t hold;
  node_make();
  client_attach(&node, &other);
  af_off channel = channel_make(&node, 2, 2, &hold);
  CHECK_OK(af_channel_claim(&node, channel, 0));
  CHECK(af_channel_claim(&other, channel, 0) == AF_BUSY && af_channel_claim(&node, channel, 0) == AF_BUSY, "twice");
  CHECK_OK(af_channel_claim(&other, channel, 2));
  CHECK(af_channel_claim(&other, channel, 3) == AF_BAD, "no such end");
  client_detach(&other);
  af_hold_drop(&node, hold);
  node_end();
}

/* Readers at paces of their own: the writer is as far ahead of the slowest as there are slots, never further. */
static void test_order_and_bounds(void) {
  uint64_t read[3] = {0}, written = 0, random = 4;
  uint32_t hold, slots = 3;
  node_make();
  af_off channel = channel_make(&node, slots, 3, &hold);
  for (uint32_t turn = 0; turn < ROUNDS(20000); turn++) {
    uint32_t who = random_next(&random) % 4, behind = who - 1;
    uint64_t least = read[0] < read[1] ? read[0] : read[1];
    least = least < read[2] ? least : read[2];
    bool may = who == 0 ? written < least + slots : read[behind] < written;
    CHECK(af_channel_look(&node, channel, who) == (may ? AF_OK : AF_EMPTY), "end %u, turn %u", who, turn);
    if (may && who == 0)
      number_write(&node, channel, written++);
    else if (may)
      number_read(&node, channel, who, read[behind]++);
  }
  CHECK(written > 100, "%lu were written", written);
  af_hold_drop(&node, hold);
  node_end();
}

static uint32_t blocks_of(uint8_t kind) {
  struct af_audit audit;
  CHECK_OK(af_audit_run(&node, false, 1, &audit));
  CHECK(audit.too_high == 0 && audit.too_low == 0 && audit.lost == 0 && audit.broken == 0, "books");
  return (uint32_t)audit.blocks[kind];
}

static void test_the_last_reader_drops_what_a_slot_owns(void) {
  uint32_t hold, view;
  node_make();
  af_off channel = channel_make(&node, 8, 2, &hold);
  for (uint64_t number = 0; number < WAYS; number++)
    number_write(&node, channel, number);
  CHECK(blocks_of(AF_KIND_BYTES) == REFERENCES + 2 && blocks_of(AF_KIND_OBJECT) == 2, "all are there");
  for (uint64_t number = 0; number < WAYS; number++)
    number_read(&node, channel, 1, number);
  CHECK(blocks_of(AF_KIND_BYTES) == REFERENCES + 2 && blocks_of(AF_KIND_OBJECT) == 2, "one has not read");
  for (uint64_t number = 0; number < IN_OBJECT; number++)
    number_read(&node, channel, 2, number);
  CHECK(blocks_of(AF_KIND_BYTES) == 1 && blocks_of(AF_KIND_OBJECT) == 2, "all but the last two are read");
  struct af_channel_value value;
  CHECK_OK(af_channel_value(&node, channel, 2, &value));
  CHECK_OK(af_hold_take(&node, value.block, &view));
  af_channel_next(&node, channel, 2);
  CHECK(blocks_of(AF_KIND_OBJECT) == 2, "a view holds it");
  number_check(&node, value.block, IN_OBJECT);
  af_hold_drop(&node, view);
  CHECK(blocks_of(AF_KIND_OBJECT) == 1, "nobody holds it");
  CHECK_OK(af_channel_value(&node, channel, 2, &value));
  af_off object = *AF_AT(&node, af_off, value.block + sizeof(struct af_object));
  CHECK_OK(af_hold_take(&node, object, &view));
  af_channel_next(&node, channel, 2);
  CHECK(blocks_of(AF_KIND_BYTES) == 0 && blocks_of(AF_KIND_OBJECT) == 1, "a view holds what the block referred to");
  number_check(&node, object, IN_ANOTHER);
  af_hold_drop(&node, view);
  CHECK(blocks_of(AF_KIND_OBJECT) == 0, "nobody holds that");
  for (uint64_t number = WAYS; number < 2 * WAYS; number++)
    number_write(&node, channel, number);
  af_hold_drop(&node, hold); /* unread values go with the channel */
  node_end();
}

static void test_close(void) {
  uint32_t hold;
  node_make();
  af_off channel = channel_make(&node, 2, 1, &hold);
  number_write(&node, channel, 0);
  number_write(&node, channel, 1);
  af_channel_close(&node, channel);
  af_channel_close(&node, channel);
  CHECK(af_channel_state(&node, channel) == AF_CHANNEL_CLOSED, "state");
  CHECK(af_channel_look(&node, channel, 0) == AF_CLOSED, "the writer is told at once");
  CHECK(af_channel_sleep(&node, channel, 0, UINT64_MAX) == AF_CLOSED, "and does not sleep");
  number_read(&node, channel, 1, 0);
  CHECK(af_channel_look(&node, channel, 0) == AF_CLOSED && af_channel_look(&node, channel, 1) == AF_OK, "one is left");
  number_read(&node, channel, 1, 1);
  CHECK(af_channel_look(&node, channel, 1) == AF_CLOSED, "then the reader is told");
  af_hold_drop(&node, hold);
  node_end();
}

static void test_garbage_is_refused(void) {
  uint32_t hold;
  struct af_channel_value value;
  node_make();
  af_off channel = channel_make(&node, 2, 1, &hold);
  struct af_channel_slot *slot = af_channel_slot_at(&node, channel, 0);
  number_write(&node, channel, INLINE);
  slot->bytes = SLOT_BYTES + 1;
  CHECK(af_channel_value(&node, channel, 1, &value) == AF_BAD, "longer than its slot");
  slot->bytes = 8;
  atomic_store(&slot->references, UINT32_MAX);
  CHECK(af_channel_value(&node, channel, 1, &value) == AF_BAD, "more references than its slot holds");
  atomic_store(&slot->references, 0);
  atomic_store(&slot->block, 12345);
  CHECK(af_channel_value(&node, channel, 1, &value) == AF_BAD, "no block");
  atomic_store(&slot->block, 0);
  CHECK_OK(af_channel_value(&node, channel, 1, &value));
  af_hold_drop(&node, hold);
  node_end();
}

/* ---- death ---- */

static void settle(uint32_t slot, uint32_t epoch) {
  struct af_settlement settlement;
  CHECK_OK(af_coroner_settle(&node, slot, epoch, false, 0, 0, &settlement));
}

static void test_a_death_breaks_the_channels_of_its_ends(void) {
  struct af_client dead;
  uint32_t holds[4], own;
  af_off channels[4];
  node_make();
  client_attach(&node, &dead);
  for (uint32_t i = 0; i < 4; i++) {
    channels[i] = channel_make(&node, 2, 2, &holds[i]);
    CHECK_OK(af_hold_take(&dead, channels[i], &own));
  }
  CHECK_OK(af_channel_claim(&dead, channels[0], AF_CHANNEL_WRITER));
  CHECK_OK(af_channel_claim(&dead, channels[1], 2));
  CHECK_OK(af_channel_claim(&node, channels[2], 1)); /* the dead has no end of this one */
  CHECK_OK(af_channel_claim(&dead, channels[3], 1));
  number_write(&dead, channels[0], 0);
  af_channel_close(&node, channels[3]);
  settle(dead.slot_index, dead.epoch);
  static const enum af_channel_state states[] = {AF_CHANNEL_BROKEN, AF_CHANNEL_BROKEN, AF_CHANNEL_OPEN, AF_CHANNEL_CLOSED};
  for (uint32_t i = 0; i < 4; i++)
    CHECK(af_channel_state(&node, channels[i]) == states[i], "channel %u: %d", i, af_channel_state(&node, channels[i]));
  number_read(&node, channels[0], 1, 0);
  CHECK(af_channel_look(&node, channels[0], 1) == AF_CLOSED, "what was written was read");
  CHECK(af_channel_look(&node, channels[1], AF_CHANNEL_WRITER) == AF_CLOSED, "its reader is dead");
  for (uint32_t i = 0; i < 4; i++)
    af_hold_drop(&node, holds[i]);
  af_segment_unmap(&dead);
  node_end();
}

/* ---- sleeping ---- */

static void test_sleep_ends_in_time(void) {
  uint32_t hold;
  node_make();
  af_off channel = channel_make(&node, 1, 1, &hold);
  CHECK(af_channel_sleep(&node, channel, 1, 1000) == AF_TIMEOUT, "nothing to read");
  CHECK_OK(af_channel_sleep(&node, channel, 0, 1000));
  number_write(&node, channel, 0);
  CHECK_OK(af_channel_sleep(&node, channel, 1, 1000));
  CHECK(af_channel_sleep(&node, channel, 0, 1000) == AF_TIMEOUT, "no room");
  CHECK(af_channel_spin(&node, channel, 0, 1000) == AF_EMPTY && af_channel_spin(&node, channel, 1, 1000) == AF_OK, "spins");
  CHECK(atomic_load(&channel_of(&node, channel)->attention) == 0, "nobody sleeps");
  af_hold_drop(&node, hold);
  node_end();
}

static void test_a_board_is_rung(void) {
  uint32_t hold, token;
  uint8_t board;
  af_off unused;
  node_make();
  CHECK_OK(af_board_create(&node, &board, &unused));
  af_off channel = channel_make(&node, 1, 1, &hold);
  af_channel_watch(&node, channel, 1, af_watch_make(node.slot_index, node.epoch, board, 7));
  CHECK(af_board_take(&node, board, &token, 1, true) == 0, "nothing yet");
  number_write(&node, channel, 0);
  CHECK(af_board_take(&node, board, &token, 1, false) == 1 && token == 7, "written");
  af_channel_watch(&node, channel, 1, 0);
  af_channel_watch(&node, channel, 0, af_watch_make(node.slot_index, node.epoch, board, 8));
  number_read(&node, channel, 1, 0);
  CHECK(af_board_take(&node, board, &token, 1, false) == 1 && token == 8, "read");
  number_write(&node, channel, 1);
  CHECK(af_board_take(&node, board, &token, 1, true) == 0, "the reader is not watched any more");
  af_channel_close(&node, channel);
  CHECK(af_board_take(&node, board, &token, 1, false) == 1 && token == 8, "closed");
  af_channel_watch(&node, channel, 0, 0);
  CHECK(atomic_load(&channel_of(&node, channel)->attention) == 0, "nobody watches");
  af_board_destroy(&node, board);
  af_hold_drop(&node, hold);
  node_end();
}

/* ---- several threads, each a client: for the thread sanitizer, too ---- */

#define VALUES ROUNDS(30000u)
#define THREADS 4u
struct thread { struct af_client client; pthread_t thread; af_off channel; uint32_t end; uint64_t random; };

/* Waits in one way or the other until the end is ready. False: closed. */
static bool thread_wait(struct thread *thread) {
  uint64_t since = af_now_ns();
  int found;
  while ((found = af_channel_look(&thread->client, thread->channel, thread->end)) == AF_EMPTY) {
    CHECK(af_now_ns() - since < 20000000000ull, "end %u stands still", thread->end);
    if (random_next(&thread->random) % 4 == 0)
      af_channel_spin(&thread->client, thread->channel, thread->end, 2000);
    else
      af_channel_sleep(&thread->client, thread->channel, thread->end, AF_SLEEP_MS * 1000000ull);
  }
  return found == AF_OK;
}

static void *thread_run(void *argument) {
  struct thread *thread = argument;
  uint64_t number = 0;
  CHECK_OK(af_channel_claim(&thread->client, thread->channel, thread->end));
  for (; number < VALUES || thread->end != AF_CHANNEL_WRITER; number++) {
    if (!thread_wait(thread))
      break;
    if (thread->end == AF_CHANNEL_WRITER)
      number_write(&thread->client, thread->channel, number);
    else
      number_read(&thread->client, thread->channel, thread->end, number);
    if (random_next(&thread->random) % 64 == 0)
      sched_yield();
  }
  CHECK(number == VALUES, "end %u came to %lu", thread->end, number);
  if (thread->end == AF_CHANNEL_WRITER)
    af_channel_close(&thread->client, thread->channel);
  return NULL;
}

static void test_threads_read_everything_in_order(void) {
  struct thread threads[THREADS];
  uint32_t hold;
  node_make();
  af_off channel = channel_make(&node, 4, THREADS - 1, &hold);
  for (uint32_t i = 0; i < THREADS; i++) {
    client_share(&node, &threads[i].client);
    threads[i].channel = channel;
    threads[i].end = i;
    threads[i].random = 17 + i;
    CHECK(pthread_create(&threads[i].thread, NULL, thread_run, &threads[i]) == 0, "thread");
  }
  for (uint32_t i = 0; i < THREADS; i++)
    CHECK(pthread_join(threads[i].thread, NULL) == 0, "join");
  CHECK(atomic_load(&channel_of(&node, channel)->attention) == 0, "nobody sleeps");
  for (uint32_t i = 0; i < THREADS; i++)
    client_unshare(&threads[i].client);
  af_heap_trim(&node);
  af_hold_drop(&node, hold);
  node_end();
}

/* Written and closed at once, just while the reader looks. */
#define CLOSES ROUNDS(1000u)
struct closing { struct af_client client; af_off channels[CLOSES]; _Atomic uint32_t at; };

static void *closing_read(void *argument) {
  struct closing *closing = argument;
  for (uint32_t i = 0; i < CLOSES; i++) {
    uint32_t read = 0;
    int found;
    atomic_store(&closing->at, i + 1);
    for (uint32_t looks = 1; (found = af_channel_look(&closing->client, closing->channels[i], 1)) != AF_CLOSED; looks++)
      if (found == AF_OK)
        number_read(&closing->client, closing->channels[i], 1, read++);
      else if (looks % 1000 == 0)
        sched_yield();
    CHECK(read == 1, "channel %u was found closed before its value was read", i);
  }
  return NULL;
}

static void test_a_close_hides_no_value(void) {
  static struct closing closing;
  static uint32_t holds[CLOSES];
  pthread_t reader;
  node_make();
  client_share(&node, &closing.client);
  for (uint32_t i = 0; i < CLOSES; i++)
    closing.channels[i] = channel_make(&node, 1, 1, &holds[i]);
  CHECK(pthread_create(&reader, NULL, closing_read, &closing) == 0, "thread");
  for (uint32_t i = 0; i < CLOSES; i++) {
    while (atomic_load(&closing.at) <= i)
      sched_yield();
    number_write(&node, closing.channels[i], 0);
    af_channel_close(&node, closing.channels[i]);
  }
  CHECK(pthread_join(reader, NULL) == 0, "join");
  for (uint32_t i = 0; i < CLOSES; i++)
    af_hold_drop(&node, holds[i]);
  client_unshare(&closing.client);
  node_end();
}

int main(void) {
  RUN(test_geometry);
  RUN(test_an_end_is_taken_once);
  RUN(test_order_and_bounds);
  RUN(test_the_last_reader_drops_what_a_slot_owns);
  RUN(test_close);
  RUN(test_garbage_is_refused);
  RUN(test_a_death_breaks_the_channels_of_its_ends);
  RUN(test_sleep_ends_in_time);
  RUN(test_a_board_is_rung);
  RUN(test_a_close_hides_no_value);
  RUN(test_threads_read_everything_in_order);
  return 0;
}
