/* bench_memory.c - what the memory half costs: nanoseconds of CPU time for each pair of operations, median
 * of runs. */
#include "harness.h"

#include <time.h>

#define RUNS 9
#define PAIRS 2000000u

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Of this process: what others do on the machine does not count. */
static uint64_t cpu_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

typedef void (*work)(struct af_client *client, uint32_t pairs);

static void measure(const char *name, struct af_client *client, work work, uint32_t pairs) {
  double nanoseconds[RUNS];
  work(client, pairs / 10);
  for (int i = 0; i < RUNS; i++) {
    uint64_t since = cpu_ns();
    work(client, pairs);
    nanoseconds[i] = (double)(cpu_ns() - since) / pairs;
  }
  qsort(nanoseconds, RUNS, sizeof nanoseconds[0], compare);
  printf("  %-44s %8.1f ns  (%.1f to %.1f)\n", name, nanoseconds[RUNS / 2], nanoseconds[0], nanoseconds[RUNS - 1]);
}

static void cells_run(struct af_client *client, uint32_t pairs) {
  af_off block;
  for (uint32_t i = 0; i < pairs; i++) {
    CHECK_OK(af_heap_allocate(client, 320, AF_KIND_CELL, AF_MESSAGES, &block));
    af_block_drop(client, block);
  }
}

static void bytes_run(struct af_client *client, uint32_t pairs) {
  for (uint32_t i = 0; i < pairs; i++)
    af_block_drop(client, bytes_make(client, 256));
}

/* A thousand in flight, as calls that are pipelined. */
static void flight_run(struct af_client *client, uint32_t pairs) {
  static af_off flight[1000];
  for (uint32_t i = 0; i < pairs; i++) {
    if (flight[i % 1000] != 0)
      af_block_drop(client, flight[i % 1000]);
    flight[i % 1000] = bytes_make(client, 256);
  }
}

static struct af_client other;
static void remote_run(struct af_client *client, uint32_t pairs) {
  for (uint32_t i = 0; i < pairs; i++)
    af_block_drop(&other, bytes_make(client, 256));
}

static af_off held;
static void take_run(struct af_client *client, uint32_t pairs) {
  uint32_t hold;
  for (uint32_t i = 0; i < pairs; i++) {
    CHECK_OK(af_hold_take(client, held, &hold));
    af_hold_drop(client, hold);
  }
}

static void record_run(struct af_client *client, uint32_t pairs) {
  uint32_t hold;
  for (uint32_t i = 0; i < pairs; i++) {
    CHECK_OK(af_hold_record(client, held, &hold));
    af_hold_forget(client, hold);
  }
}

static void count_run(struct af_client *client, uint32_t pairs) {
  for (uint32_t i = 0; i < pairs; i++) {
    af_block_hold(client, held);
    af_block_drop(client, held);
  }
}

static void revive_run(struct af_client *client, uint32_t pairs) {
  uint32_t generation = af_block_generation(client, held);
  for (uint32_t i = 0; i < pairs; i++) {
    CHECK_OK(af_block_revive(client, held, generation, AF_KIND_BYTES));
    af_block_drop(client, held);
  }
}

static void large_run(struct af_client *client, uint32_t pairs) {
  for (uint32_t i = 0; i < pairs; i++)
    af_block_drop(client, bytes_make(client, 100000));
}

static void extent_run(struct af_client *client, uint32_t pairs) {
  af_off block;
  for (uint32_t i = 0; i < pairs; i++) {
    CHECK_OK(af_extent_allocate(client, MIB, &block));
    af_block_drop(client, block);
  }
}

static void audit_run(struct af_client *client, uint32_t pairs) {
  for (uint32_t i = 0; i < pairs; i++)
    audit_clean(client, 1000000);
}

int main(void) {
  struct af_client node;
  segment_make(&node, 256 * MIB, MIB, 64 * MIB);
  client_attach(&node, &other);
  held = bytes_make(&node, 256);
  measure("cell: allocate, drop", &node, cells_run, PAIRS);
  measure("bytes: allocate, drop", &node, bytes_run, PAIRS);
  measure("bytes: allocate, drop; 1000 in flight", &node, flight_run, PAIRS);
  measure("bytes: allocate, dropped by another", &node, remote_run, PAIRS);
  measure("hold: take, drop", &node, take_run, PAIRS);
  measure("hold: record, forget", &node, record_run, PAIRS);
  measure("block: hold, drop", &node, count_run, PAIRS);
  measure("block: revive, drop", &node, revive_run, PAIRS);
  measure("large block: allocate, drop", &node, large_run, PAIRS / 10);
  measure("object: allocate, drop", &node, extent_run, PAIRS / 10);
  af_segment_unmap(&node);
  segment_make(&node, 256 * MIB, MIB, 64 * MIB);
  for (uint32_t i = 0, hold; i < 1000000; i++)
    CHECK_OK(af_hold_record(&node, bytes_make(&node, 128), &hold));
  measure("audit of 1,000,000 blocks", &node, audit_run, 1);
  return 0;
}
