/* test_heap.c - the message heap: classes, budgets, blocks that others give back, spans that change hands. */
#include "harness.h"

static uint32_t spans_used(const struct af_client *client) { return atomic_load(&client->header->spans_used); }

static void test_classes(void) {
  struct af_client node;
  af_off block, again;
  segment_make(&node, 8 * MIB, MIB, 0);
  for (int i = 0; i < AF_CLASSES; i++) {
    CHECK(af_class_bytes[i] % AF_LINE == 0 && af_class_blocks[i] == AF_SPAN / af_class_bytes[i], "class %d", i);
    CHECK_OK(af_heap_allocate(&node, af_class_bytes[i], AF_KIND_BYTES, AF_CONTROL, &block));
    struct af_block *header = block_at(&node, block);
    CHECK(block % AF_LINE == 0 && header->capacity == af_class_bytes[i] && header->count == 1, "class %d", i);
    uint32_t generation = header->generation;
    memset((uint8_t *)header + sizeof *header, 0xff, header->capacity - sizeof *header);
    AF_AT(&node, struct af_object, block)->references = 0;
    af_block_drop(&node, block);
    CHECK(header->kind == AF_KIND_FREE, "free");
    CHECK_OK(af_heap_allocate(&node, af_class_bytes[i] - 63, AF_KIND_CELL, AF_CONTROL, &again));
    CHECK(again == block && header->generation == generation + 1, "the same place, the next generation");
    for (uint32_t j = sizeof *header; j < AF_LINE || (j < sizeof(struct af_cell) && j < header->capacity); j++)
      CHECK(((uint8_t *)header)[j] == 0, "byte %u of a new block", j);
    af_block_drop(&node, again);
  }
  CHECK(spans_used(&node) == AF_CLASSES, "one span a class is kept");
  af_heap_trim(&node);
  CHECK(spans_used(&node) == 0, "and given back when idle");
  af_segment_unmap(&node);
}

static void test_large(void) {
  struct af_client node, other;
  af_off block, rest[40];
  uint32_t taken = 0;
  segment_make(&node, 32 * AF_SPAN, 0, 0);
  client_attach(&node, &other);
  CHECK(af_heap_allocate(&node, AF_LARGE_MAX + 1, AF_KIND_BYTES, AF_CONTROL, &block) == AF_TOO_LARGE, "too large");
  CHECK_OK(af_heap_allocate(&node, AF_SMALL_MAX + 1, AF_KIND_BYTES, AF_CONTROL, &block));
  CHECK(block_at(&node, block)->capacity == AF_SPAN && spans_used(&node) == 1, "one span");
  af_block_drop(&other, block);
  CHECK(spans_used(&node) == 0, "given back by who drops it");
  while (af_heap_allocate(&node, AF_LARGE_MAX, AF_KIND_BYTES, AF_MESSAGES, &rest[taken]) == AF_OK) {
    CHECK(rest[taken] % AF_SPAN == 0 && block_at(&node, rest[taken])->capacity == AF_LARGE_MAX, "pair");
    memset(node.base + rest[taken] + AF_LINE, 0xff, AF_LARGE_MAX - AF_LINE);
    taken++;
  }
  CHECK(taken == 16, "%u pairs", taken);
  for (uint32_t i = 0; i < taken; i++) {
    uint32_t generation = block_at(&node, rest[i])->generation;
    CHECK(af_block_find(&node, rest[i] + AF_SPAN, generation, 0) == AF_BAD, "inside of a pair");
    af_block_drop(i % 2 ? &node : &other, rest[i]);
    CHECK(af_block_find(&node, rest[i], generation, 0) == AF_STALE, "gone");
  }
  audit_clean(&node, 0);
  CHECK(spans_used(&node) == 0, "all");
  client_detach(&other);
  af_segment_unmap(&node);
}

static void test_budgets(void) {
  struct af_client node;
  af_off block, first = 0;
  uint32_t taken = 0;
  segment_make(&node, 16 * AF_SPAN, 4 * AF_SPAN, 0);
  while (af_heap_allocate(&node, 1000, AF_KIND_BYTES, AF_MESSAGES, &block) == AF_OK) {
    *AF_AT(&node, af_off, block + sizeof(struct af_object)) = first;
    AF_AT(&node, struct af_object, block)->references = first != 0;
    first = block;
    taken++;
  }
  CHECK(taken == 12 * 64 && spans_used(&node) == 12, "%u messages in %u spans", taken, spans_used(&node));
  CHECK(af_heap_allocate(&node, 100000, AF_KIND_BYTES, AF_MESSAGES, &block) == AF_FULL, "large ones neither");
  for (taken = 0; af_heap_allocate(&node, 1000, AF_KIND_MAILBOX, AF_CONTROL, &block) == AF_OK; taken++)
    block_at(&node, block)->kind = AF_KIND_BOARD;
  CHECK(taken == 4 * 64 && spans_used(&node) == 16, "%u control blocks", taken);
  af_block_drop(&node, first);
  CHECK_OK(af_heap_allocate(&node, 1000, AF_KIND_BYTES, AF_MESSAGES, &block));
  af_heap_trim(&node);
  CHECK(spans_used(&node) == 5, "%u spans", spans_used(&node));
  af_segment_unmap(&node);
}

/* Against a model: what is allocated never overlaps and keeps its bytes. */
static void test_random(void) {
  struct af_client node;
  enum { MOST = 2000 };
  static struct { af_off block; uint32_t bytes; } live[MOST];
  uint64_t state = 42;
  uint32_t count = 0;
  segment_make(&node, 64 * MIB, MIB, 0);
  for (uint32_t i = 0; i < ROUNDS(1000000); i++) {
    uint32_t size = random_next(&state), which = count > 0 ? random_next(&state) % count : 0;
    size = 64 + (size % 100 == 0 ? size % 120000 : size % 4000);
    if (count < MOST && (random_next(&state) % 2000 > count || count == 0)) {
      live[count].block = bytes_make(&node, size);
      live[count].bytes = size;
      CHECK(block_at(&node, live[count].block)->capacity >= size, "capacity");
      memset(node.base + live[count].block + 64 - 8, (uint8_t)(live[count].block >> 6), 8);
      node.base[live[count].block + size - 1] = (uint8_t)(live[count].block >> 6);
      count++;
      continue;
    }
    af_off block = live[which].block;
    CHECK(node.base[block + live[which].bytes - 1] == (uint8_t)(block >> 6), "overwritten");
    CHECK(block_at(&node, block)->count == 1, "header overwritten");
    af_block_drop(&node, block);
    live[which] = live[--count];
  }
  for (uint32_t i = 0; i < count; i++)
    af_block_drop(&node, live[i].block);
  audit_clean(&node, 0);
  af_heap_trim(&node);
  CHECK(spans_used(&node) == 0, "%u spans are left", spans_used(&node));
  af_segment_unmap(&node);
}

/* The same number of blocks in flight for long: no growth, though others free all of them. */
static void test_steady(void) {
  struct af_client node, other;
  enum { FLIGHT = 1000 };
  static af_off flight[FLIGHT];
  uint32_t used = 0;
  segment_make(&node, 64 * MIB, MIB, 0);
  client_attach(&node, &other);
  for (uint32_t i = 0; i < ROUNDS(1000000); i++) {
    if (flight[i % FLIGHT] != 0)
      af_block_drop(&other, flight[i % FLIGHT]);
    flight[i % FLIGHT] = bytes_make(&node, 300);
    if (i == 10000)
      used = spans_used(&node);
  }
  CHECK(spans_used(&node) <= used && used <= 8, "%u spans, then %u", used, spans_used(&node));
  client_detach(&other);
  af_segment_unmap(&node);
}

/* ---- blocks that go from one to another ---- */

#define RING 1024u
struct pipe_ends { struct af_client *node; _Atomic af_off *ring; uint32_t rounds; };

static void put(_Atomic af_off *ring, uint32_t i, af_off block) {
  af_off none;
  do {
    none = 0;
    if (atomic_load(&ring[i % RING]) != 0)
      sched_yield();
  } while (!atomic_compare_exchange_weak(&ring[i % RING], &none, block));
}

static af_off take(_Atomic af_off *ring, uint32_t i) {
  af_off block;
  while ((block = atomic_exchange(&ring[i % RING], 0)) == 0)
    sched_yield();
  return block;
}

static void produce(struct af_client *client, _Atomic af_off *ring, uint32_t rounds) {
  uint64_t state = 7 + client->slot_index;
  for (uint32_t i = 0; i < rounds; i++) {
    uint32_t size = random_next(&state) % 50;
    af_off block = bytes_make(client, size == 0 ? 70000 : 64 + 64 * size);
    memset(client->base + block + 56, 1, 8);
    put(ring, i, block);
  }
}

static void consume(struct af_client *client, _Atomic af_off *ring, uint32_t rounds) {
  for (uint32_t i = 0; i < rounds; i++)
    af_block_drop(client, take(ring, i));
}

static void *produce_run(void *context) {
  struct pipe_ends *ends = context;
  struct af_client client;
  client_share(ends->node, &client);
  produce(&client, ends->ring, ends->rounds);
  client_unshare(&client);
  return NULL;
}

static void *consume_run(void *context) {
  struct pipe_ends *ends = context;
  struct af_client client;
  client_share(ends->node, &client);
  consume(&client, ends->ring, ends->rounds);
  client_unshare(&client);
  return NULL;
}

static void test_remote_frees_of_threads(void) {
  struct af_client node;
  static _Atomic af_off rings[2][RING];
  pthread_t threads[4];
  segment_make(&node, 256 * MIB, MIB, 0);
  struct pipe_ends ends[2] = {{&node, rings[0], ROUNDS(200000)}, {&node, rings[1], ROUNDS(200000)}};
  for (int i = 0; i < 4; i++)
    pthread_create(&threads[i], NULL, i % 2 ? consume_run : produce_run, &ends[i / 2]);
  for (int i = 0; i < 4; i++)
    pthread_join(threads[i], NULL);
  audit_clean(&node, 0);
  af_heap_trim(&node); /* takes in what the producers left when blocks of theirs were still on the way */
  CHECK(spans_used(&node) == 0, "%u spans are left", spans_used(&node));
  af_segment_unmap(&node);
}

static void test_remote_frees_of_processes(void) {
  struct af_client node;
  uint32_t hold, rounds = ROUNDS(200000);
  af_off ring_block;
  segment_make(&node, 256 * MIB, MIB, 0);
  CHECK_OK(af_heap_allocate(&node, sizeof(struct af_block) + 64 + 8 * RING, AF_KIND_BOARD, AF_CONTROL, &ring_block));
  CHECK_OK(af_hold_record(&node, ring_block, &hold));
  _Atomic af_off *ring = AF_AT(&node, _Atomic af_off, ring_block + 64);
  memset((void *)ring, 0, 8 * RING);
  pid_t pid = child_fork();
  if (pid == 0) {
    struct af_client client;
    client_attach(&node, &client);
    produce(&client, AF_AT(&client, _Atomic af_off, ring_block + 64), rounds);
    client_detach(&client);
    _exit(0);
  }
  consume(&node, ring, rounds);
  child_join(pid);
  audit_clean(&node, 0);
  af_hold_drop(&node, hold);
  af_heap_trim(&node);
  CHECK(spans_used(&node) == 1, "%u spans are left", spans_used(&node)); /* of the hold table */
  af_segment_unmap(&node);
}

/* ---- spans that change hands ---- */

static void test_adopt(void) {
  struct af_client node, client;
  enum { BLOCKS = 3000 };
  static af_off blocks[BLOCKS];
  segment_make(&node, 64 * MIB, MIB, 0);
  client_attach(&node, &client);
  for (int i = 0; i < BLOCKS; i++)
    blocks[i] = bytes_make(&client, i % 100 == 99 ? 70000 : 64 + 16 * (uint32_t)(i % 300));
  for (int i = 0; i < BLOCKS; i += 3)
    af_block_drop(&client, blocks[i]); /* on its local lists */
  for (int i = 1; i < BLOCKS; i += 3)
    af_block_drop(&node, blocks[i]); /* on the remote lists */
  uint32_t slot = client.slot_index, epoch = client.epoch;
  af_segment_unmap(&client); /* dies */
  af_heap_adopt(&node, slot, epoch);
  af_heap_adopt(&node, slot, epoch); /* repeatable */
  for (int i = 2; i < BLOCKS; i += 3)
    af_block_drop(&node, blocks[i]);
  audit_clean(&node, 0);
  af_heap_trim(&node);
  CHECK(spans_used(&node) == 0, "%u spans are left", spans_used(&node));
  af_segment_unmap(&node);
}

/* One death after another, each leaving a block that others give back later: nothing piles up. */
static void test_adopt_many(void) {
  struct af_client node, client;
  af_off block = 0;
  segment_make(&node, 32 * AF_SPAN, AF_SPAN, 0);
  for (int i = 0; i < 200; i++) {
    client_attach(&node, &client);
    if (block != 0)
      af_block_drop(&client, block);
    block = bytes_make(&client, 300);
    uint32_t slot = client.slot_index, epoch = client.epoch;
    af_segment_unmap(&client);
    af_heap_adopt(&node, slot, epoch);
    atomic_store(&af_slot_at(&node, slot)->owner, af_slot_word(epoch + 1, AF_SLOT_FREE));
    CHECK(spans_used(&node) <= 2, "%u spans after %d deaths", spans_used(&node), i + 1);
  }
  af_segment_unmap(&node);
}

static void test_leave(void) {
  struct af_client node, client;
  segment_make(&node, 64 * MIB, MIB, 0);
  client_attach(&node, &client);
  af_off kept = bytes_make(&client, 300), other = bytes_make(&client, 1000);
  client_detach(&client);
  CHECK(spans_used(&node) == 2, "the spans of live blocks stay");
  af_block_drop(&node, kept); /* before the node knows of the span */
  af_heap_trim(&node);
  CHECK(spans_used(&node) == 1, "%u spans", spans_used(&node));
  af_block_drop(&node, other);
  af_heap_trim(&node);
  CHECK(spans_used(&node) == 0, "%u spans", spans_used(&node));
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

static void test_punch(void) {
  struct af_client node;
  af_off blocks[20];
  segment_make(&node, 64 * AF_SPAN, 0, 0);
  for (int i = 0; i < 20; i++) {
    blocks[i] = bytes_make(&node, AF_SPAN);
    memset(node.base + blocks[i] + AF_LINE, 0xff, AF_SPAN - AF_LINE);
  }
  uint32_t generation = block_at(&node, blocks[19])->generation;
  for (int i = 0; i < 19; i++)
    af_block_drop(&node, blocks[i]);
  af_heap_punch(&node, 5);
  int kept = 0, punched = 0;
  for (int i = 0; i < 19; i++)
    *(node.base + blocks[i] + AF_SPAN - 1) == 0 ? punched++ : kept++;
  CHECK(kept == 5 && punched == 14, "%d kept, %d punched", kept, punched);
  CHECK(node.base[blocks[19] + AF_SPAN - 1] == 0xff && spans_used(&node) == 1, "what is used stays");
  af_block_drop(&node, blocks[19]);
  af_heap_punch(&node, 0);
  for (int i = 0; i < 20; i++)
    CHECK(bytes_make(&node, AF_SPAN) == blocks[i], "lowest first");
  CHECK(block_at(&node, blocks[19])->generation == generation + 1, "generations outlive the pages");
  af_segment_unmap(&node);
}

int main(void) {
  RUN(test_classes);
  RUN(test_large);
  RUN(test_budgets);
  RUN(test_random);
  RUN(test_steady);
  RUN(test_remote_frees_of_threads);
  RUN(test_remote_frees_of_processes);
  RUN(test_adopt);
  RUN(test_adopt_many);
  RUN(test_leave);
  RUN(test_punch);
  return 0;
}
