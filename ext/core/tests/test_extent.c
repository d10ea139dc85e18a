/* test_extent.c - large values: extents split and merge without overlap, survive a holder's death, and come back. */
#define _GNU_SOURCE
#include "harness.h"

#include <sys/mman.h>

static af_off object_make(struct af_client *client, uint64_t bytes) {
  af_off block;
  CHECK_OK(af_extent_allocate(client, bytes, &block));
  return block;
}

static uint64_t bytes_used(const struct af_client *client) { return atomic_load(&client->header->object_bytes_used); }

static void test_sizes(void) {
  struct af_client node;
  af_off block, further;
  segment_make(&node, MIB, 0, 64 * AF_PAGE);
  CHECK(af_extent_allocate(&node, 64 * AF_PAGE + 1, &block) == AF_TOO_LARGE, "larger than the store");
  block = object_make(&node, 64 * AF_PAGE);
  CHECK(block_at(&node, block)->kind == AF_KIND_OBJECT && block_at(&node, block)->count == 1, "header");
  CHECK(af_extent_bytes(&node, block) == 64 * AF_PAGE && bytes_used(&node) == 64 * AF_PAGE, "all of it");
  CHECK(af_extent_allocate(&node, 1, &further) == AF_FULL, "full");
  af_block_drop(&node, block);
  CHECK(bytes_used(&node) == 0, "free");
  block = object_make(&node, 1);
  further = object_make(&node, AF_PAGE + 1);
  CHECK(af_extent_bytes(&node, block) == AF_PAGE && af_extent_bytes(&node, further) == 2 * AF_PAGE, "rounded up");
  CHECK(further == block + AF_PAGE, "split");
  af_block_drop(&node, block);
  af_block_drop(&node, further);
  CHECK(af_extent_check(&node), "books");
  af_segment_unmap(&node);
}

/* Every order of freeing three neighbours ends with one extent. */
static void test_coalesce(void) {
  static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  static const uint32_t pages[3] = {1, 3, 1};
  struct af_client node;
  segment_make(&node, MIB, 0, 7 * AF_PAGE);
  for (int i = 0; i < 6; i++) {
    af_off border[2], blocks[3];
    border[0] = object_make(&node, 1);
    for (int j = 0; j < 3; j++)
      blocks[j] = object_make(&node, pages[j] * AF_PAGE);
    border[1] = object_make(&node, 1);
    for (int j = 0; j < 3; j++) {
      af_block_drop(&node, blocks[orders[i][j]]);
      CHECK(af_extent_check(&node), "order %d, step %d", i, j);
    }
    af_off whole = object_make(&node, 5 * AF_PAGE);
    CHECK(whole == blocks[0], "merged");
    af_block_drop(&node, whole);
    af_block_drop(&node, border[i % 2]);
    af_block_drop(&node, border[1 - i % 2]);
    whole = object_make(&node, 7 * AF_PAGE);
    af_block_drop(&node, whole);
  }
  af_segment_unmap(&node);
}

/* What was used is preferred to what never was, and the end of the chain grows into the wilderness. */
static void test_warm_first(void) {
  struct af_client node;
  segment_make(&node, MIB, 0, 100 * AF_PAGE);
  af_off a = object_make(&node, 10 * AF_PAGE), b = object_make(&node, AF_PAGE);
  af_block_drop(&node, a);
  CHECK(object_make(&node, 4 * AF_PAGE) == a, "warm");
  CHECK(object_make(&node, 6 * AF_PAGE) == a + 4 * AF_PAGE, "the rest of it");
  af_off c = object_make(&node, 30 * AF_PAGE);
  CHECK(c == b + AF_PAGE && node.header->wilderness_page == 41, "wilderness");
  af_block_drop(&node, c);
  CHECK(object_make(&node, 89 * AF_PAGE) == c, "the last free extent and the wilderness together");
  CHECK(af_extent_check(&node), "books");
  af_segment_unmap(&node);
}

/* One bin with many extents that are too small: the one that fits is found all the same. */
static void test_deep_bin(void) {
  struct af_client node;
  enum { MANY = 100 };
  af_off small[MANY], block;
  segment_make(&node, MIB, 0, (15 + MANY * 9 + 1) * AF_PAGE);
  af_off large = object_make(&node, 15 * AF_PAGE);
  for (int i = 0; i < MANY; i++) {
    object_make(&node, 1); /* keeps them apart */
    small[i] = object_make(&node, 8 * AF_PAGE);
  }
  object_make(&node, 1);
  af_block_drop(&node, large);
  for (int i = 0; i < MANY; i++)
    af_block_drop(&node, small[i]);
  CHECK(af_extent_allocate(&node, 16 * AF_PAGE, &block) == AF_FULL, "no such extent");
  CHECK(object_make(&node, 14 * AF_PAGE) == large, "behind 100 others");
  CHECK(af_extent_check(&node), "books");
  af_segment_unmap(&node);
}

#define PAGES 2000u
#define MOST 300u
struct model {
  uint8_t owned[PAGES];
  struct { af_off block; uint32_t pages; } live[MOST];
  uint32_t count, used;
};

static void model_set(struct model *model, uint32_t first, uint32_t pages, uint8_t owned) {
  for (uint32_t i = first; i < first + pages; i++) {
    CHECK(i < PAGES && model->owned[i] != owned, "page %u", i);
    model->owned[i] = owned;
  }
}

/* AF_FULL is the truth: no run of free pages is that long. */
static bool model_has_run(const struct model *model, uint32_t pages) {
  for (uint32_t i = 0, run = 0; i < PAGES; i++) {
    run = model->owned[i] ? 0 : run + 1;
    if (run == pages)
      return true;
  }
  return false;
}

/* Every part of an object leads to it, if it may be so far behind its first page. */
static void check_holding(const struct af_client *client, const struct model *model) {
  for (uint32_t i = 0; i < model->count; i++) {
    af_off block = model->live[i].block;
    uint64_t pages = model->live[i].pages, middle = pages / 2 * AF_PAGE;
    CHECK(af_extent_holding(client, block, 0) == block, "its first byte");
    CHECK(af_extent_holding(client, block + middle + 1, pages / 2) == block, "one of its middle");
    CHECK(af_extent_holding(client, block + pages * AF_PAGE - 1, pages - 1) == block, "its last one");
    CHECK(pages == 1 || af_extent_holding(client, block + pages * AF_PAGE - 1, pages - 2) == 0, "too far behind");
  }
}

static void test_holding(void) {
  struct af_client node;
  segment_make(&node, MIB, 0, 64 * AF_PAGE);
  af_off before = object_make(&node, 3 * AF_PAGE), block = object_make(&node, 2 * AF_PAGE);
  CHECK(af_extent_holding(&node, block + AF_PAGE, 100) == block, "not the one before it");
  af_block_drop(&node, before);
  CHECK(af_extent_holding(&node, block - 1, 100) == 0, "free");
  CHECK(af_extent_holding(&node, block + 2 * AF_PAGE, 100) == 0, "not used yet");
  CHECK(af_extent_holding(&node, node.header->objects - 1, 100) == 0, "before the store");
  CHECK(af_extent_holding(&node, node.header->objects + 64 * AF_PAGE, 100) == 0, "behind it");
  af_block_drop(&node, block);
  af_segment_unmap(&node);
}

static void test_random(void) {
  struct af_client node;
  static struct model model;
  uint64_t state = 99;
  segment_make(&node, MIB, 0, PAGES * AF_PAGE);
  for (uint32_t i = 0; i < ROUNDS(300000); i++) {
    uint32_t pages = 1 + random_next(&state) % (random_next(&state) % 8 == 0 ? 300 : 12);
    if (model.count == MOST || (model.count > 0 && random_next(&state) % 5 < 2)) {
      uint32_t which = random_next(&state) % model.count;
      af_off block = model.live[which].block;
      model_set(&model, (uint32_t)((block - node.header->objects) / AF_PAGE), model.live[which].pages, 0);
      model.used -= model.live[which].pages;
      af_block_drop(&node, block);
      model.live[which] = model.live[--model.count];
    } else if (af_extent_allocate(&node, pages * AF_PAGE, &model.live[model.count].block) == AF_OK) {
      af_off block = model.live[model.count].block;
      model_set(&model, (uint32_t)((block - node.header->objects) / AF_PAGE), pages, 1);
      model.live[model.count++].pages = pages;
      model.used += pages;
    } else {
      CHECK(!model_has_run(&model, pages), "%u pages were free", pages);
    }
    CHECK(bytes_used(&node) == (uint64_t)model.used * AF_PAGE, "used");
    if (i % 100 == 0) {
      CHECK(af_extent_check(&node), "round %u", i);
      check_holding(&node, &model);
    }
  }
  while (model.count > 0)
    af_block_drop(&node, model.live[--model.count].block);
  CHECK(object_make(&node, PAGES * AF_PAGE) == node.header->objects, "one extent again");
  af_segment_unmap(&node);
}

/* Whatever a dead holder left in the bins and behind a merge: the next holder rebuilds from the chain. */
static void bins_scramble(struct af_client *client) {
  struct af_header *header = client->header;
  for (uint32_t page = 0; page < header->wilderness_page; page++) {
    struct af_extent *extent = af_extent_at(client, page);
    uint64_t word = atomic_load(&extent->word);
    if (word != 0 && !af_extent_used(word))
      extent->previous = extent->next = page * 7919 + 1;
    if (word == 0 && page % 3 == 0 && page + 1 < header->wilderness_page && af_extent_at(client, page + 1)->word == 0)
      atomic_store(&extent->word, 5ull << 32); /* an absorbed extent's entry */
  }
  memset(header->bins, 0x7f, sizeof header->bins);
  atomic_store(&header->object_bytes_used, 12345);
  atomic_store(&header->extent_dirty, 1);
}

static void test_rebuild_after_death(void) {
  struct af_client node;
  uint64_t state = 3;
  af_off blocks[64];
  segment_make(&node, MIB, 0, 2000 * AF_PAGE);
  for (int i = 0; i < 64; i++)
    blocks[i] = object_make(&node, (1 + random_next(&state) % 20) * AF_PAGE);
  for (int i = 0; i < 64; i += 2)
    af_block_drop(&node, blocks[i]);
  uint64_t used = bytes_used(&node);
  bins_scramble(&node);
  atomic_store(&node.header->extent_lock, (uint64_t)9 << 32 | 6);
  af_extent_unlock_dead(&node, 5, 8);
  CHECK(atomic_load(&node.header->extent_lock) != 0, "another epoch's");
  af_extent_unlock_dead(&node, 5, 9);
  CHECK(af_extent_check(&node) && bytes_used(&node) == used, "rebuilt");
  for (int i = 1; i < 64; i += 2)
    af_block_drop(&node, blocks[i]);
  CHECK(af_extent_check(&node) && bytes_used(&node) == 0, "all free");
  CHECK(object_make(&node, 2000 * AF_PAGE) == node.header->objects, "one extent again");
  af_segment_unmap(&node);
}

/* An entry behind the border, of an extent that was to become the last one: it is part of no extent that comes to lie
 * there. */
static void test_death_at_the_border(void) {
  struct af_client node, victim;
  segment_make(&node, MIB, 0, 80 * AF_PAGE);
  af_off first = object_make(&node, 40 * AF_PAGE), second, third;
  pid_t pid = child_fork();
  if (pid == 0) {
    client_attach(&node, &victim);
    victim.point = 304;
    victim.point_signal = SIGKILL;
    object_make(&victim, 20 * AF_PAGE);
    _exit(1);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "killed at the point");
  af_extent_unlock_dead(&node, 1, 1);
  af_block_drop(&node, first);
  first = object_make(&node, 41 * AF_PAGE);
  CHECK(af_extent_check(&node), "books");
  second = object_make(&node, AF_PAGE);
  CHECK(first == node.header->objects && second == first + 41 * AF_PAGE, "one behind the other");
  af_block_drop(&node, second);
  CHECK(af_extent_check(&node) && bytes_used(&node) == 41 * AF_PAGE, "only what was given back is free");
  third = object_make(&node, 39 * AF_PAGE);
  CHECK(third == second, "and is given out again");
  af_segment_unmap(&node);
}

/* A stopped holder: freeing goes on at once, and is made good by the next who has the lock. */
static void test_free_while_locked(void) {
  struct af_client node;
  segment_make(&node, MIB, 0, 100 * AF_PAGE);
  af_off a = object_make(&node, 40 * AF_PAGE), b = object_make(&node, 60 * AF_PAGE), c;
  uint32_t generation = block_at(&node, a)->generation;
  atomic_store(&node.header->extent_lock, (uint64_t)9 << 32 | 6);
  af_block_drop(&node, a);
  af_block_drop(&node, b);
  CHECK(bytes_used(&node) == 100 * AF_PAGE, "not yet");
  CHECK(af_block_find(&node, a, generation, 0) == AF_STALE, "but no longer a block");
  CHECK(af_extent_allocate(&node, 1, &c) == AF_BUSY, "allocation waits, but not for ever");
  af_extent_unlock_dead(&node, 5, 9);
  CHECK(object_make(&node, 100 * AF_PAGE) == a, "made good");
  af_segment_unmap(&node);
}

/* ---- several at once ---- */

struct crowd { struct af_client *node; uint32_t rounds; _Atomic af_off *board; };

static void crowd_work(struct af_client *client, _Atomic af_off *board, uint32_t rounds) {
  uint64_t state = 5 + client->slot_index;
  for (uint32_t i = 0; i < rounds; i++) {
    af_off block = 0;
    if (random_next(&state) % 2) {
      int status = af_extent_allocate(client, (1 + random_next(&state) % 30) * AF_PAGE, &block);
      CHECK(status == AF_OK || status == AF_FULL, "gave %d", status);
    }
    block = atomic_exchange(&board[random_next(&state) % 64], block);
    if (block != 0)
      af_block_drop(client, block);
  }
}

static void *crowd_run(void *context) {
  struct crowd *crowd = context;
  struct af_client client;
  client_share(crowd->node, &client);
  crowd_work(&client, crowd->board, crowd->rounds);
  client_unshare(&client);
  return NULL;
}

static void test_crowd(void) {
  struct af_client node;
  _Atomic af_off *board = mmap(NULL, AF_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_t threads[2];
  segment_make(&node, MIB, 0, 700 * AF_PAGE);
  struct crowd crowd = {&node, ROUNDS(100000), board};
  pid_t pid = child_fork();
  if (pid == 0) {
    struct af_client client;
    client_attach(&node, &client);
    crowd_work(&client, board, crowd.rounds);
    client_detach(&client);
    _exit(0);
  }
  for (int i = 0; i < 2; i++)
    pthread_create(&threads[i], NULL, crowd_run, &crowd);
  for (int i = 0; i < 2; i++)
    pthread_join(threads[i], NULL);
  child_join(pid);
  for (int i = 0; i < 64; i++)
    if (board[i] != 0)
      af_block_drop(&node, board[i]);
  audit_clean(&node, 0);
  CHECK(bytes_used(&node) == 0 && af_extent_check(&node), "all free");
  munmap((void *)board, AF_PAGE);
  af_segment_unmap(&node);
}

/* ---- presence ---- */

static uint64_t resident(const struct af_client *client, af_off offset, uint64_t bytes) {
  static unsigned char pages[4096];
  uint64_t count = 0;
  CHECK(mincore(client->base + offset, bytes, pages) == 0, "mincore");
  for (uint64_t i = 0; i < bytes / AF_PAGE; i++)
    count += pages[i] & 1;
  return count;
}

static void test_populate(void) {
  struct af_client node;
  segment_make(&node, MIB, 0, 9 * MIB);
  af_off block = object_make(&node, 5 * MIB);
  CHECK(resident(&node, node.header->objects, 8 * MIB) == 1, "only the header");
  af_extent_populate(&node, block, 5 * MIB);
  CHECK(resident(&node, node.header->objects, 6 * MIB) == 6 * MIB / AF_PAGE, "whole chunks");
  CHECK(resident(&node, node.header->objects + 6 * MIB, 3 * MIB) == 0, "no further ones");
  CHECK(node.populated[0] == 7, "remembered");
  af_extent_populate(&node, node.header->objects + 8 * MIB, 100 * MIB);
  CHECK(node.populated[0] == 7 + 16, "ends with the store");
  af_extent_populate(&node, 0, UINT64_MAX);
  CHECK(node.populated[0] == 7 + 16, "not in the store");
  af_segment_unmap(&node);
}

int main(void) {
  RUN(test_sizes);
  RUN(test_coalesce);
  RUN(test_warm_first);
  RUN(test_deep_bin);
  RUN(test_holding);
  RUN(test_random);
  RUN(test_rebuild_after_death);
  RUN(test_death_at_the_border);
  RUN(test_free_while_locked);
  RUN(test_crowd);
  RUN(test_populate);
  return 0;
}
