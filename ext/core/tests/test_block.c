/* test_block.c - counts, names and what blocks own: freeing is whole and iterative, names never lie. */
#include "harness.h"

static void test_long_chain(void) {
  struct af_client node;
  uint32_t length = ROUNDS(1000000);
  af_off first = 0;
  segment_make(&node, 160 * MIB, MIB, 0);
  for (uint32_t i = 0; i < length; i++)
    first = link_make(&node, first);
  af_block_drop(&node, first);
  af_heap_trim(&node);
  CHECK(node.header->spans_used == 0, "%u spans are left", node.header->spans_used);
  af_segment_unmap(&node);
}

/* A tree whose leaf has a further holder loses all but the leaf. */
static void test_shared_leaf(void) {
  struct af_client node;
  segment_make(&node, 8 * MIB, MIB, 4 * MIB);
  af_off leaf = bytes_make(&node, 200), root;
  CHECK_OK(af_extent_allocate(&node, 3 * AF_PAGE, &root));
  struct af_object *object = AF_AT(&node, struct af_object, root);
  af_off *references = AF_AT(&node, af_off, root + sizeof *object);
  for (uint32_t i = 0; i < 1000; i++) {
    af_block_hold(&node, leaf);
    references[i] = link_make(&node, leaf);
  }
  object->references = 1000;
  uint32_t hold, object_hold;
  CHECK_OK(af_hold_record(&node, leaf, &hold));
  CHECK_OK(af_hold_record(&node, root, &object_hold));
  audit_clean(&node, 1002);
  af_hold_drop(&node, object_hold);
  CHECK(block_at(&node, leaf)->count == 1, "one holder is left");
  CHECK(node.header->object_bytes_used == 0, "the object is free");
  af_hold_drop(&node, hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

static void test_find(void) {
  struct af_client node;
  segment_make(&node, 8 * MIB, MIB, 4 * MIB);
  af_off block = bytes_make(&node, 200), large = bytes_make(&node, 100000), object;
  CHECK_OK(af_extent_allocate(&node, 5000, &object));
  af_off all[] = {block, large, object};
  for (int i = 0; i < 3; i++) {
    uint32_t generation = block_at(&node, all[i])->generation;
    uint8_t kind = block_at(&node, all[i])->kind;
    CHECK_OK(af_block_find(&node, all[i], generation, 0));
    CHECK_OK(af_block_find(&node, all[i], generation, kind));
    CHECK_OK(af_block_revive(&node, all[i], generation, kind));
    CHECK(block_at(&node, all[i])->count == 2, "counted");
    CHECK(af_block_find(&node, all[i], generation, AF_KIND_CELL) == AF_BAD, "another kind");
    CHECK(af_block_find(&node, all[i], generation + 1, 0) == AF_STALE, "another generation");
    CHECK(af_block_revive(&node, all[i] + 64, generation, 0) != AF_OK, "inside of it");
    CHECK(af_block_find(&node, all[i] + 8, generation, 0) == AF_BAD, "not aligned");
    af_block_drop(&node, all[i]);
    af_block_drop(&node, all[i]);
    CHECK(af_block_find(&node, all[i], generation, 0) == AF_STALE, "gone");
    CHECK(af_block_revive(&node, all[i], generation, 0) == AF_STALE, "gone");
  }
  CHECK(bytes_make(&node, 200) == block && block_at(&node, block)->generation != 0, "the place is used again");
  af_segment_unmap(&node);
}

/* Any offset and generation at all: an answer, and never one that says yes to what is no block. */
static void test_find_garbage(void) {
  struct af_client node;
  uint64_t state = 88172645463325252ull;
  enum { LIVE = 500 };
  af_off live[LIVE];
  segment_make(&node, 4 * MIB, MIB, 4 * MIB);
  memset(node.base + node.header->heap, 0x41, 4 * MIB);
  memset(node.base + node.header->objects, 0x41, 4 * MIB);
  for (int i = 0; i < LIVE; i++)
    live[i] = bytes_make(&node, 100 + random_next(&state) % 2000);
  for (uint32_t i = 0; i < ROUNDS(3000000); i++) {
    af_off place = random_next(&state) % (node.size_bytes + 100000);
    if (i % 3 != 0)
      place &= ~63ull;
    uint32_t generation = i % 2 ? 0x41414141u : random_next(&state) % 64;
    bool found = af_block_find(&node, place, generation, 0) == AF_OK, known = false;
    for (int j = 0; found && j < LIVE; j++)
      known |= live[j] == place;
    CHECK(found == known, "place %lx", place);
  }
  CHECK(af_block_find(&node, UINT64_MAX, 0, 0) == AF_BAD && af_block_find(&node, 0, 0, 0) == AF_BAD, "the ends");
  af_segment_unmap(&node);
}

/* ---- names against droppers ---- */

#define NAMES 8
struct names {
  struct af_client *node;
  _Atomic uint64_t name[NAMES]; /* generation << 32 | offset / 64 */
  _Atomic uint64_t revived;
  _Atomic bool stop;
};

static void *reviver_run(void *context) {
  struct names *names = context;
  struct af_client client;
  client_share(names->node, &client);
  for (uint32_t i = 0; !atomic_load(&names->stop); i++) {
    uint64_t name = atomic_load(&names->name[i % NAMES]);
    af_off block = (name & 0xffffffff) * AF_LINE;
    uint32_t hold, outer = af_op_begin(&client, 1);
    if (name != 0 && af_block_revive(&client, block, (uint32_t)(name >> 32), AF_KIND_BYTES) == AF_OK) {
      CHECK(af_block_generation(&client, block) == (uint32_t)(name >> 32), "another took its place");
      CHECK_OK(af_hold_record(&client, block, &hold));
      af_hold_drop(&client, hold);
      atomic_fetch_add(&names->revived, 1);
    }
    af_op_end(&client, outer);
  }
  client_unshare(&client);
  return NULL;
}

static void name_publish(struct names *names, uint32_t index, af_off block) {
  uint64_t generation = block == 0 ? 0 : af_block_generation(names->node, block);
  atomic_store(&names->name[index], generation << 32 | block / AF_LINE);
}

/* Each name lives for NAMES rounds, and stays readable while its block is dropped. */
static void test_revive_against_drop(void) {
  struct af_client node;
  struct names names = {.node = &node};
  pthread_t threads[2];
  uint64_t state = 1234567, deadline = af_now_ns() + 20000000000ull;
  af_off blocks[NAMES] = {0};
  segment_make(&node, 8 * MIB, MIB, 0);
  for (int i = 0; i < 2; i++)
    pthread_create(&threads[i], NULL, reviver_run, &names);
  for (uint32_t i = 0; i < ROUNDS(2000000) || atomic_load(&names.revived) < 1000; i++) {
    CHECK(af_now_ns() < deadline, "the revivers never met a live name");
    af_off dropped = blocks[i % NAMES];
    blocks[i % NAMES] = bytes_make(&node, 64 + 64 * (random_next(&state) % 20));
    if (dropped != 0)
      af_block_drop(&node, dropped);
    name_publish(&names, i % NAMES, blocks[i % NAMES]);
    if (i % 1000 == 0)
      af_heap_trim(&node);
  }
  atomic_store(&names.stop, true);
  for (int i = 0; i < 2; i++)
    pthread_join(threads[i], NULL);
  for (int i = 0; i < NAMES; i++)
    af_block_drop(&node, blocks[i]);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

/* ---- what each kind owns ---- */

struct visited { af_off places[300]; uint32_t count; };
static void visit(void *context, af_off *reference) {
  struct visited *visited = context;
  if (*reference != 0)
    visited->places[visited->count++] = *reference;
}

static bool visits(struct af_client *client, af_off block, const af_off *expected, uint32_t count) {
  struct visited visited = {.count = 0};
  af_block_each(client, block, visit, &visited);
  bool same = visited.count == count;
  for (uint32_t i = 0; same && i < count; i++)
    same = visited.places[i] == expected[i];
  return same;
}

static af_off make(struct af_client *client, uint32_t bytes, uint8_t kind) {
  af_off block;
  CHECK_OK(af_heap_allocate(client, bytes, kind, AF_CONTROL, &block));
  return block;
}

static void test_cell_owns(void) {
  struct af_client node;
  segment_make(&node, 8 * MIB, MIB, 0);
  af_off cell = make(&node, 512, AF_KIND_CELL), a = bytes_make(&node, 100), b = bytes_make(&node, 100);
  af_off value = bytes_make(&node, 100), first = make(&node, 128, AF_KIND_FOLLOWER), second = make(&node, 512, AF_KIND_CELL);
  struct af_cell *header = AF_AT(&node, struct af_cell, cell);
  af_cell_references(&node, cell)[0] = a;
  af_cell_references(&node, cell)[1] = b;
  header->references = 2;
  header->value_refs = 1; /* counts only once the references are gone */
  CHECK(visits(&node, cell, (af_off[]){a, b}, 2), "references");
  header->references = 0;
  CHECK(visits(&node, cell, (af_off[]){a}, 1), "refs of a value in the cell");
  header->value = value;
  block_at(&node, first)->next = second;
  header->followers = first | AF_FOLLOWERS_CLOSED;
  CHECK(visits(&node, cell, (af_off[]){value, first, second}, 3), "value and followers");
  AF_AT(&node, struct af_follower, first)->dependent = b;
  CHECK(visits(&node, first, (af_off[]){b}, 1), "dependent");
  header->references = UINT32_MAX; /* garbage ends with the block */
  struct visited visited = {.count = 0};
  af_block_each(&node, cell, visit, &visited);
  CHECK(visited.count < 60, "%u visited", visited.count);
  af_segment_unmap(&node);
}

static void test_mailbox_and_lane_own(void) {
  struct af_client node;
  segment_make(&node, 8 * MIB, MIB, 0);
  af_off mailbox = make(&node, sizeof(struct af_mailbox), AF_KIND_MAILBOX), actor = make(&node, 128, AF_KIND_ACTOR);
  af_off page = make(&node, sizeof(struct af_lanes_block), AF_KIND_LANES), lane = make(&node, 512, AF_KIND_LANE);
  af_off x = bytes_make(&node, 100), y = bytes_make(&node, 100), z = bytes_make(&node, 100);
  struct af_mailbox *box = AF_AT(&node, struct af_mailbox, mailbox);
  box->first = x;
  box->ready = y;
  box->queue = z;
  box->page.next = page;
  box->page.lanes[47] = lane;
  CHECK(visits(&node, mailbox, (af_off[]){x, y, z, page, lane}, 5), "mailbox");
  AF_AT(&node, struct af_lanes_block, page)->page.lanes[3] = lane;
  CHECK(visits(&node, page, (af_off[]){lane}, 1), "page");
  AF_AT(&node, struct af_actor, actor)->mailbox = mailbox;
  CHECK(visits(&node, actor, (af_off[]){mailbox}, 1), "actor");
  af_off chunks[2] = {make(&node, 128, AF_KIND_CHUNK), make(&node, 128, AF_KIND_CHUNK)};
  for (uint32_t i = 0; i < 2; i++) {
    struct af_chunk *chunk = AF_AT(&node, struct af_chunk, chunks[i]);
    chunk->first = 100 + 4 * i;
    chunk->capacity = 4;
    chunk->entries[0] = x;
    chunk->entries[3] = y;
    chunk->next_chunk = i == 0 ? chunks[1] : 0;
  }
  struct af_lane *head = AF_AT(&node, struct af_lane, lane);
  head->head_chunk = chunks[0];
  head->taken = 103;
  head->pushed = 105;
  CHECK(visits(&node, lane, (af_off[]){y, chunks[0], x, chunks[1]}, 4), "unread calls and chunks");
  head->taken = 105;
  CHECK(visits(&node, lane, (af_off[]){chunks[0], chunks[1]}, 2), "all read");
  CHECK(visits(&node, chunks[0], NULL, 0), "a chunk owns nothing");
  af_segment_unmap(&node);
}

/* The last handle of an actor: its mailbox is abandoned, and goes only with its own last holder. */
static void test_actor_is_abandoned(void) {
  struct af_client node;
  af_off mailbox, actor;
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK_OK(af_heap_allocate(&node, sizeof(struct af_mailbox), AF_KIND_MAILBOX, AF_CONTROL, &mailbox));
  actor = make(&node, sizeof(struct af_actor), AF_KIND_ACTOR);
  AF_AT(&node, struct af_actor, actor)->mailbox = mailbox;
  af_block_hold(&node, mailbox);
  af_block_drop(&node, actor);
  CHECK(AF_AT(&node, struct af_mailbox, mailbox)->abandoned == 1, "the reader can see it");
  CHECK(block_at(&node, mailbox)->count == 1, "the actor's count is gone");
  af_block_drop(&node, mailbox);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

int main(void) {
  RUN(test_long_chain);
  RUN(test_shared_leaf);
  RUN(test_find);
  RUN(test_find_garbage);
  RUN(test_revive_against_drop);
  RUN(test_cell_owns);
  RUN(test_mailbox_and_lane_own);
  RUN(test_actor_is_abandoned);
  return 0;
}
