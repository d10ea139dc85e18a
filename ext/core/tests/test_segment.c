/* test_segment.c - segments are sealed and checked; slots, holds and forks keep what they promise in slot.h. */
#define _GNU_SOURCE
#include "harness.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "points.h"

static int memfd_of(const struct af_client *node, uint64_t bytes, bool sealed) {
  int memfd = memfd_create("test", MFD_ALLOW_SEALING);
  CHECK(ftruncate(memfd, (off_t)bytes) == 0, "ftruncate");
  if (node != NULL)
    CHECK(pwrite(memfd, node->base, sizeof(struct af_header), 0) == sizeof(struct af_header), "pwrite");
  if (sealed)
    CHECK(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0, "seal");
  return memfd;
}

static void map_gives(int memfd, int expected) {
  struct af_client client;
  int status = af_segment_map(&client, memfd);
  CHECK(status == expected, "map gave %d, not %d", status, expected);
  CHECK(fcntl(memfd, F_GETFD) >= 0, "a map that fails leaves the memfd to its caller");
  close(memfd);
}

static void header_set(int memfd, size_t offset, const void *value, size_t bytes) {
  CHECK(pwrite(memfd, value, bytes, (off_t)offset) == (ssize_t)bytes, "pwrite");
}

static void test_map_refuses(void) {
  struct af_client node;
  uint32_t version = AF_VERSION + 1, slots = 12;
  segment_make(&node, 2 * MIB, MIB, 4 * MIB);
  map_gives(memfd_of(&node, node.size_bytes, false), AF_BAD);
  map_gives(memfd_of(&node, node.size_bytes - AF_PAGE, true), AF_BAD);
  map_gives(memfd_of(NULL, node.size_bytes, true), AF_BAD);
  map_gives(memfd_of(NULL, 64, true), AF_BAD);
  int memfd = memfd_of(&node, node.size_bytes, true);
  header_set(memfd, offsetof(struct af_header, version), &version, sizeof version);
  map_gives(memfd, AF_STALE);
  memfd = memfd_of(&node, node.size_bytes, true);
  header_set(memfd, offsetof(struct af_header, slot_count), &slots, sizeof slots);
  map_gives(memfd, AF_BAD);
  map_gives(open("/dev/null", O_RDWR), AF_BAD);
  af_segment_unmap(&node);
}

static void test_segment_is_sealed(void) {
  struct af_client node;
  struct af_layout none = {0, MIB, 0, 0};
  segment_make(&node, 2 * MIB, MIB, 4 * MIB);
  CHECK(ftruncate(node.memfd, 4096) < 0 && errno == EPERM, "shrunk");
  CHECK(ftruncate(node.memfd, (off_t)node.size_bytes * 2) < 0 && errno == EPERM, "grown");
  CHECK(memcmp(node.view, node.base, sizeof(struct af_header)) == 0, "the view shows the same");
  CHECK(af_slot_is(&node, 0, 1), "the node has slot 0");
  af_segment_unmap(&node);
  CHECK(node.base == NULL && node.memfd == -1, "unmapped");
  CHECK(af_segment_create(&node, &none, (const uint8_t *)"0123456789abcdef") == AF_SYSTEM && errno == EINVAL, "layout");
}

static void test_slots(void) {
  struct af_client node, client;
  uint32_t index, epoch, again, later, i;
  segment_make(&node, 2 * MIB, MIB, 0);
  CHECK_OK(af_slot_reserve(&node, AF_ROLE_DRIVER, 7, &index, &epoch));
  CHECK(index == 1 && epoch == 1 && !af_slot_is(&node, index, epoch), "reserved is not live");
  af_slot_unreserve(&node, index, epoch);
  CHECK_OK(af_segment_map(&client, dup(node.memfd)));
  CHECK(af_slot_claim(&client, index, epoch) == AF_STALE, "a slot that was given back");
  CHECK(af_slot_claim(&client, 1000, 1) == AF_BAD, "no such slot");
  CHECK_OK(af_slot_reserve(&node, AF_ROLE_DRIVER, 7, &again, &later));
  CHECK(again == index && later == epoch + 1, "the same slot, the next epoch");
  CHECK_OK(af_slot_claim(&client, again, later));
  CHECK(af_slot_is(&node, again, later) && af_slot_at(&node, again)->pid == (uint32_t)getpid(), "live");
  CHECK(af_slot_claim(&client, again, later) == AF_STALE, "claimed twice");
  for (i = 0; af_slot_reserve(&node, AF_ROLE_WORKER, 0, &index, &epoch) == AF_OK; i++)
    CHECK(index == i + 2, "lowest first");
  CHECK(i == 62, "64 slots, two were taken");
  client_detach(&client);
  CHECK(!af_slot_is(&node, again, later), "released");
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

#define HOLDS 9000u /* the first chunk and two further ones */

static void test_holds_begin_anew(void) {
  struct af_client node;
  uint32_t index;
  segment_make(&node, 8 * MIB, 4 * MIB, 0);
  af_off block = bytes_make(&node, 128);
  CHECK_OK(af_hold_record(&node, block, &index));
  for (uint32_t i = 0; i < HOLDS; i++)
    CHECK_OK(af_hold_take(&node, block, &index));
  af_block_hold(&node, block);
  af_slot_clear_holds(&node);
  CHECK(block_at(&node, block)->count == 1, "only the caller's is left");
  CHECK_OK(af_hold_record(&node, block, &index));
  CHECK(index == 0 && af_hold_block(&node, 0) == block, "in a table of its own");
  audit_clean(&node, 1);
  CHECK(af_slot_drop_holds(&node, 0) == 1, "which is found");
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

static void test_holds(void) {
  struct af_client node;
  static uint32_t indices[HOLDS];
  segment_make(&node, 8 * MIB, 4 * MIB, 0);
  af_off block = bytes_make(&node, 128);
  CHECK_OK(af_hold_record(&node, block, &indices[0]));
  for (uint32_t i = 1; i < HOLDS; i++) {
    CHECK_OK(af_hold_take(&node, block, &indices[i]));
    CHECK(indices[i] == i && af_hold_block(&node, i) == block, "indices go up");
  }
  CHECK(block_at(&node, block)->count == HOLDS, "each is counted");
  audit_clean(&node, 1);
  for (uint32_t i = 0; i < HOLDS; i += 2)
    af_hold_drop(&node, indices[i]);
  CHECK(block_at(&node, block)->count == HOLDS / 2, "dropped");
  for (uint32_t i = 0; i < HOLDS; i += 2) {
    CHECK_OK(af_hold_take(&node, block, &indices[i]));
    CHECK(indices[i] < HOLDS, "indices are used again");
  }
  audit_clean(&node, 1);
  af_block_hold(&node, block);
  af_hold_forget(&node, indices[1]); /* its count is now the caller's */
  CHECK(af_slot_drop_holds(&node, 0) == HOLDS - 1, "all at once");
  CHECK(block_at(&node, block)->count == 2, "two counts are the caller's");
  af_block_drop(&node, block);
  af_block_drop(&node, block);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

static void test_hold_without_memory(void) {
  struct af_client node;
  uint32_t index, taken = 0;
  af_off block, last[2];
  segment_make(&node, 2 * AF_SPAN, AF_SPAN, 0);
  block = bytes_make(&node, 128);
  for (int i = 0; i < 2; i++)
    CHECK_OK(af_heap_allocate(&node, AF_SMALL_MAX, AF_KIND_BYTES, AF_CONTROL, &last[i]));
  CHECK(af_hold_take(&node, block, &index) == AF_FULL && block_at(&node, block)->count == 1, "nothing happened");
  af_block_drop(&node, last[0]);
  af_block_drop(&node, last[1]);
  while (af_hold_take(&node, block, &index) == AF_OK)
    taken++;
  CHECK(taken > 0 && block_at(&node, block)->count == taken + 1, "%u taken", taken);
  af_segment_unmap(&node);
}

/* In the child of a fork: the parent's holds under the same indices, and nothing else of it. */
static void fork_child_run(struct af_client *client, uint32_t index, uint32_t epoch, const uint32_t *holds, af_off block) {
  CHECK_OK(af_fork_child(client, index, epoch));
  CHECK(af_slot_is(client, index, epoch) && af_slot_at(client, index)->pid == (uint32_t)getpid(), "live");
  for (uint32_t i = 0; i < 100; i++)
    CHECK(af_hold_block(client, holds[i]) == block, "hold %u", i);
  for (uint32_t i = 0; i < 50; i++)
    af_hold_drop(client, holds[i]);
  uint32_t further;
  CHECK_OK(af_hold_record(client, bytes_make(client, 300), &further));
  CHECK(further == 49, "the last index that was dropped");
  client_detach(client);
  _exit(0);
}

static void test_fork(void) {
  struct af_client node, client;
  uint32_t index, epoch, holds[100];
  segment_make(&node, 8 * MIB, 4 * MIB, 0);
  client_attach(&node, &client);
  af_off block = bytes_make(&client, 128);
  CHECK_OK(af_hold_record(&client, block, &holds[0]));
  for (uint32_t i = 1; i < 100; i++)
    CHECK_OK(af_hold_take(&client, block, &holds[i]));
  CHECK_OK(af_fork_prepare(&client, &index, &epoch));
  CHECK(block_at(&node, block)->count == 200, "copied and counted");
  audit_clean(&node, 1);
  pid_t pid = child_fork();
  if (pid == 0)
    fork_child_run(&client, index, epoch, holds, block);
  child_join(pid);
  CHECK(block_at(&node, block)->count == 100, "the child's are gone, the parent's are not");
  CHECK_OK(af_fork_prepare(&client, &index, &epoch));
  af_fork_abandon(&client, index, epoch);
  CHECK(block_at(&node, block)->count == 100, "abandoned");
  CHECK_OK(af_fork_prepare(&client, &index, &epoch)); /* no child comes of it */
  atomic_store(&client.slot->op, AF_OP_FORK);
  af_slot_unreserve(&node, index, epoch);
  CHECK(block_at(&node, block)->count == 200, "its parent is still at it");
  atomic_store(&client.slot->op, 0);
  af_slot_unreserve(&node, index, epoch);
  CHECK(block_at(&node, block)->count == 100 && af_slot_at(&node, index)->holds == 0, "given back with all it held");
  for (uint32_t i = 0; i < 100; i++)
    af_hold_drop(&client, holds[i]);
  audit_clean(&node, 0);
  client_detach(&client);
  af_heap_trim(&node);
  CHECK(node.header->spans_used == 0, "%u spans are left", node.header->spans_used);
  af_segment_unmap(&node);
}

static void test_fork_without_memory(void) {
  struct af_client node;
  uint32_t index, epoch, hold;
  af_off block;
  segment_make(&node, 2 * AF_SPAN, AF_SPAN, 0);
  CHECK_OK(af_hold_record(&node, bytes_make(&node, 128), &hold));
  while (af_heap_allocate(&node, 512, AF_KIND_BYTES, AF_CONTROL, &block) == AF_OK)
    ;
  CHECK(af_fork_prepare(&node, &index, &epoch) == AF_FULL, "no room for the copy");
  CHECK(block_at(&node, af_hold_block(&node, hold))->count == 1, "and nothing happened");
  CHECK_OK(af_slot_reserve(&node, AF_ROLE_WORKER, 0, &index, &epoch));
  CHECK(index == 1, "the slot was given back");
  af_segment_unmap(&node);
}

int main(void) {
  RUN(test_map_refuses);
  RUN(test_segment_is_sealed);
  RUN(test_slots);
  RUN(test_holds);
  RUN(test_holds_begin_anew);
  RUN(test_hold_without_memory);
  RUN(test_fork);
  RUN(test_fork_without_memory);
  return 0;
}
