/* test_spill.c - values go to disk and come back while others read them, and the books stay right. */
#include "harness.h"

#include "spill.h"

#define BYTES (64u * 1024u)
#define THREADS 3
#define TURNS ROUNDS(3000)

static struct af_object *object_at(struct af_client *client, af_off block) {
  return AF_AT(client, struct af_object, block);
}

/* A DONE cell with an object as its value that refers to `inner` (0: to nothing), every byte of it `fill`. */
static af_off value_make(struct af_client *client, af_off inner, uint8_t fill) {
  af_off cell, block;
  CHECK_OK(af_cell_expected_create(client, 0, &cell));
  CHECK_OK(af_extent_allocate(client, BYTES, &block));
  struct af_object *object = object_at(client, block);
  object->bytes = BYTES - sizeof *object;
  memset(object + 1, fill, object->bytes);
  object->pickle_offset = sizeof *object + sizeof(af_off);
  object->pickle_bytes = object->bytes - sizeof(af_off);
  *(af_off *)(void *)(object + 1) = inner;
  if (inner != 0) {
    af_block_hold(client, inner);
    object->references = 1;
  }
  CHECK_OK(af_cell_complete(client, cell, block, 0, 0, 2));
  return cell;
}

/* As the node does, with memory for a disk. Returns the SPILLED block. */
static af_off spill(struct af_client *node, uint8_t *disk) {
  struct af_spill_candidate candidate;
  struct af_spill_pins pins;
  af_off spilled = 0;
  if (af_spill_pick(node, &candidate, 1, 0, false) == 0 ||
      af_spill_begin(node, candidate.block, candidate.generation, &pins) != AF_OK)
    return 0;
  uint64_t skip = sizeof(struct af_object);
  memcpy(disk + skip, node->base + candidate.block + skip, pins.bytes - skip);
  CHECK_OK(af_spill_commit(node, &pins, &spilled));
  return spilled;
}

static void restore(struct af_client *node, af_off spilled, const uint8_t *disk) {
  struct af_spill_pins pins;
  CHECK_OK(af_restore_begin(node, spilled, &pins));
  af_off block = af_hold_block(node, pins.block_hold);
  uint64_t skip = sizeof(struct af_object);
  memcpy(node->base + block + skip, disk + skip, pins.bytes - skip);
  af_restore_commit(node, spilled, &pins);
}

static uint32_t returned_free(struct af_client *node) {
  af_off returned[16];
  uint32_t count = af_spill_returned(node, returned, 16);
  for (uint32_t i = 0; i < count; i++)
    af_spill_free(node, returned[i]);
  return count;
}

static void books_right(struct af_client *node) {
  struct af_audit audit;
  CHECK_OK(af_audit_run(node, false, 20, &audit));
  CHECK(audit.consistent && !audit.too_high && !audit.too_low && !audit.lost && !audit.broken,
        "high %lu low %lu lost %lu broken %lu", audit.too_high, audit.too_low, audit.lost, audit.broken);
}

static void held(struct af_client *node, af_off block, uint32_t *index) { CHECK_OK(af_hold_record(node, block, index)); }

static void test_there_and_back(void) {
  struct af_client node;
  static uint8_t disk[BYTES];
  uint32_t inner_hold, cell_hold, view;
  af_off block, inner, cell;
  bool is_spilled;
  segment_make(&node, MIB * 4, 0, 9 * MIB);
  inner = value_make(&node, 0, 1);
  held(&node, inner, &inner_hold);
  af_off inner_spilled = spill(&node, disk);
  CHECK(inner_spilled != 0, "idle");
  cell = value_make(&node, inner, 7);
  held(&node, cell, &cell_hold);
  af_hold_drop(&node, inner_hold);
  CHECK(AF_AT(&node, struct af_block, inner)->count == 1, "held by the object in the other cell");

  CHECK_OK(af_value_hold(&node, cell, &block, &is_spilled, &view));
  CHECK(!is_spilled && spill(&node, disk) == 0, "in use: not spilled");
  af_hold_drop(&node, view);
  af_off spilled = spill(&node, disk);
  CHECK(spilled != 0 && node.header->object_bytes_used == 0, "its memory is free");
  CHECK(AF_AT(&node, struct af_block, inner)->count == 1, "what it refers to is held");
  books_right(&node);

  CHECK_OK(af_value_hold(&node, cell, &block, &is_spilled, &view));
  CHECK(is_spilled && block == spilled, "says where it is");
  restore(&node, spilled, disk);
  CHECK(AF_AT(&node, struct af_spilled, spilled)->turn == 1, "whoever waits is told");
  books_right(&node);
  CHECK(returned_free(&node) == 0, "still looked at");
  af_hold_drop(&node, view);
  CHECK(returned_free(&node) == 0, "a copy stays on disk");
  struct af_spill_candidate candidate;
  struct af_spill_pins pins;
  af_off again;
  CHECK(af_spill_pick(&node, &candidate, 1, 0, false) == 1, "one");
  CHECK_OK(af_spill_begin(&node, candidate.block, candidate.generation, &pins));
  CHECK(pins.copy == spilled, "which need not be written again");
  CHECK_OK(af_spill_commit(&node, &pins, &again));
  CHECK(again == spilled && node.header->object_bytes_used == 0, "its memory is free again");
  books_right(&node);
  restore(&node, spilled, disk);
  books_right(&node);

  CHECK_OK(af_value_hold(&node, cell, &block, &is_spilled, &view));
  CHECK(!is_spilled && ((uint8_t *)(object_at(&node, block) + 1))[BYTES / 2] == 7, "as it was");
  CHECK(((af_off *)(object_at(&node, block) + 1))[0] == inner, "as it was");
  af_hold_drop(&node, cell_hold);
  books_right(&node);
  af_hold_drop(&node, view);
  CHECK(returned_free(&node) == 2, "both places on disk are free");
  CHECK(node.header->object_bytes_used == 0, "all free");
  books_right(&node);
  af_segment_unmap(&node);
}

static void test_view_outlives_its_place(void) {
  struct af_client node;
  static uint8_t disk[BYTES];
  struct af_spill_candidate candidate;
  struct af_spill_pins pins;
  uint32_t hold, view;
  af_off block, spilled;
  bool is_spilled;
  segment_make(&node, MIB * 4, 0, 9 * MIB);
  af_off cell = value_make(&node, 0, 3);
  held(&node, cell, &hold);
  CHECK(af_spill_pick(&node, &candidate, 1, 0, false) == 1, "one");
  CHECK_OK(af_spill_begin(&node, candidate.block, candidate.generation, &pins));
  memcpy(disk, node.base + candidate.block, pins.bytes);
  CHECK_OK(af_value_hold(&node, cell, &block, &is_spilled, &view)); /* comes while it is being written */
  CHECK_OK(af_spill_commit(&node, &pins, &spilled));
  CHECK(!is_spilled && node.header->object_bytes_used != 0, "the view keeps it");
  CHECK(af_spill_pick(&node, &candidate, 1, 0, false) == 0, "and nothing is gained by writing it again");
  books_right(&node);
  restore(&node, spilled, disk);
  books_right(&node);
  af_hold_drop(&node, view);
  CHECK_OK(af_value_hold(&node, cell, &block, &is_spilled, &view));
  CHECK(!is_spilled, "back");
  af_hold_drop(&node, view);
  af_hold_drop(&node, hold);
  CHECK(returned_free(&node) == 1 && node.header->object_bytes_used == 0, "all free");
  books_right(&node);
  af_segment_unmap(&node);
}

static void test_asking(void) {
  struct af_client node;
  static uint8_t disk[BYTES];
  struct af_spill_pins pins;
  uint32_t hold;
  af_off asked[AF_SPILL_ASKED];
  segment_make(&node, MIB * 4, 0, MIB);
  af_off cell = value_make(&node, 0, 3);
  held(&node, cell, &hold);
  af_off spilled = spill(&node, disk);
  af_spill_ask(&node, spilled);
  af_spill_ask(&node, spilled);
  CHECK(af_spill_asked(&node, asked, AF_SPILL_ASKED) == 1 && asked[0] == spilled, "once");
  CHECK(af_spill_asked(&node, asked, AF_SPILL_ASKED) == 0, "taken");
  for (uint32_t i = 0; i < 2 * AF_SPILL_ASKED; i++)
    af_spill_ask(&node, spilled + (i + 1) * AF_LINE);
  CHECK(af_spill_asked(&node, asked, AF_SPILL_ASKED) == AF_SPILL_ASKED, "as many as there are places");
  af_off filler;
  uint32_t filler_hold;
  CHECK_OK(af_extent_allocate(&node, MIB, &filler));
  held(&node, filler, &filler_hold);
  CHECK(af_restore_begin(&node, spilled, &pins) == AF_FULL, "no room");
  books_right(&node);
  af_room_ask(&node, 5000);
  af_room_ask(&node, 3000);
  CHECK(node.header->room_wanted == 5000, "the most");
  uint32_t bell = node.header->room_bell;
  af_hold_drop(&node, filler_hold);
  CHECK(node.header->room_bell != bell, "freeing rings");
  af_restore_fail(&node, spilled, AF_SPILL_NO_ROOM);
  CHECK(AF_AT(&node, struct af_spilled, spilled)->failure == AF_SPILL_NO_ROOM, "told");
  af_hold_drop(&node, hold);
  CHECK(af_restore_begin(&node, spilled, &pins) == AF_STALE, "nobody wants it any more");
  CHECK(returned_free(&node) == 1, "its place is free");
  books_right(&node);
  af_segment_unmap(&node);
}

static void test_a_value_that_is_dropped_while_it_is_written(void) {
  struct af_client node;
  struct af_spill_pins pins;
  uint32_t inner_hold, hold;
  af_off spilled;
  segment_make(&node, MIB * 4, 0, 9 * MIB);
  af_off inner = value_make(&node, 0, 1), cell = value_make(&node, inner, 3);
  held(&node, inner, &inner_hold);
  held(&node, cell, &hold);
  af_off block = AF_AT(&node, struct af_cell, cell)->value;
  CHECK_OK(af_spill_begin(&node, block, object_at(&node, block)->block.generation, &pins));
  af_hold_drop(&node, hold);
  CHECK(AF_AT(&node, struct af_block, cell)->count == 0, "what is written keeps no cell");
  books_right(&node);
  CHECK(af_spill_commit(&node, &pins, &spilled) == AF_STALE, "nobody wants it any more");
  books_right(&node);
  af_spill_abort(&node, &pins);
  af_hold_drop(&node, inner_hold);
  CHECK(node.header->object_bytes_used == 0, "all free");
  books_right(&node);
  af_segment_unmap(&node);
}

static struct { af_off cell; _Atomic bool over; struct af_client *node; _Atomic uint32_t looks; } shared;

static void *reader_run(void *context) {
  struct af_client *client = context;
  while (!atomic_load(&shared.over)) {
    af_off block;
    uint32_t view;
    bool is_spilled;
    CHECK_OK(af_value_hold(client, shared.cell, &block, &is_spilled, &view));
    if (!is_spilled) {
      const uint8_t *bytes = (const uint8_t *)(object_at(client, block) + 1) + sizeof(af_off);
      CHECK(bytes[0] == 9 && bytes[BYTES / 2] == 9, "never another's bytes");
      atomic_fetch_add(&shared.looks, 1);
    }
    af_hold_drop(client, view);
  }
  return NULL;
}

static void test_readers_beside_it(void) {
  struct af_client node, clients[THREADS];
  pthread_t threads[THREADS];
  static uint8_t disk[BYTES];
  uint32_t hold, turns = 0;
  segment_make(&node, MIB * 4, 0, 9 * MIB);
  shared.cell = value_make(&node, 0, 9);
  held(&node, shared.cell, &hold);
  for (int i = 0; i < THREADS; i++) {
    client_share(&node, &clients[i]);
    CHECK(pthread_create(&threads[i], NULL, reader_run, &clients[i]) == 0, "thread");
  }
  uint64_t since = af_now_ns();
  while ((turns < TURNS || atomic_load(&shared.looks) <= 10) && af_now_ns() - since < 20000000000ull) {
    af_off spilled = spill(&node, disk);
    if (spilled == 0)
      continue;
    af_off filler;
    if (af_extent_allocate(&node, BYTES, &filler) == AF_OK) { /* takes the place of what was spilled, with other bytes */
      memset(object_at(&node, filler) + 1, 5, BYTES - sizeof(struct af_object));
      restore(&node, spilled, disk);
      af_block_drop(&node, filler);
    }
    returned_free(&node);
    turns++;
  }
  atomic_store(&shared.over, true);
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    client_unshare(&clients[i]);
  }
  CHECK(turns > 10 && atomic_load(&shared.looks) > 10, "%u turns, %u looks", turns, atomic_load(&shared.looks));
  af_hold_drop(&node, hold);
  returned_free(&node);
  books_right(&node);
  CHECK(node.header->object_bytes_used == 0, "all free");
  af_segment_unmap(&node);
}

int main(void) {
  RUN(test_there_and_back);
  RUN(test_view_outlives_its_place);
  RUN(test_a_value_that_is_dropped_while_it_is_written);
  RUN(test_asking);
  RUN(test_readers_beside_it);
  return 0;
}
