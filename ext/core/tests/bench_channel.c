/* bench_channel.c - what a value through a channel costs in C: a write and a read in one process, a round trip between two
 * processes, along three and back; of values that lie in their slot, and of values that own something. */
#include "channels.h"

#define SPIN_NS 50000ull
#define ROUNDS_EACH 100000u
#define PROCESSES_MOST 4u

static void wait_ready(struct af_client *client, af_off channel, uint32_t end) {
  while (af_channel_spin(client, channel, end, SPIN_NS) == AF_EMPTY)
    af_channel_sleep(client, channel, end, AF_SLEEP_MS * 1000000ull);
}

/* Value n goes through as number n * WAYS + way, so that all of them are written in the same way. */
static void send(struct af_client *client, af_off channel, uint64_t number, enum way way) {
  wait_ready(client, channel, AF_CHANNEL_WRITER);
  number_write(client, channel, number * WAYS + way);
}
static void receive(struct af_client *client, af_off channel, uint64_t number, enum way way) {
  wait_ready(client, channel, 1);
  number_read(client, channel, 1, number * WAYS + way);
}

static int compare(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static void times_print(const char *name, uint64_t *times) {
  qsort(times, ROUNDS_EACH, sizeof *times, compare);
  printf("  %-48s p10 %7lu  p50 %7lu  p99 %7lu ns\n", name, times[ROUNDS_EACH / 10], times[ROUNDS_EACH / 2],
         times[ROUNDS_EACH / 100 * 99]);
}

/* Values go from this process along the others and back; with one process, from its writer to its reader. */
static void bench_ring(uint32_t processes, enum way way, const char *name) {
  struct af_client node, client;
  af_off channels[PROCESSES_MOST];
  uint32_t holds[PROCESSES_MOST];
  pid_t others[PROCESSES_MOST];
  uint64_t *times = malloc(ROUNDS_EACH * sizeof *times);
  segment_make(&node, 64 * MIB, 8 * MIB, 8 * MIB);
  for (uint32_t i = 0; i < processes; i++)
    channels[i] = channel_make(&node, 2, 1, &holds[i]);
  for (uint32_t i = 1; i < processes; i++) {
    if ((others[i] = child_fork()) != 0)
      continue;
    client_attach(&node, &client);
    for (uint64_t number = 0; number < ROUNDS_EACH; number++) {
      receive(&client, channels[i - 1], number, way);
      send(&client, channels[i], number, way);
    }
    client_detach(&client);
    _exit(0);
  }
  for (uint64_t number = 0; number < ROUNDS_EACH; number++) {
    uint64_t since = af_now_ns();
    send(&node, channels[0], number, way);
    receive(&node, channels[processes - 1], number, way);
    times[number] = af_now_ns() - since;
  }
  for (uint32_t i = 1; i < processes; i++)
    child_join(others[i]);
  times_print(name, times);
  free(times);
  af_segment_unmap(&node);
}

int main(void) {
  bench_ring(1, INLINE, "write and read, in its slot: one process");
  bench_ring(1, REFERRING, "write and read, three references");
  bench_ring(1, IN_BYTES, "write and read, in a block");
  bench_ring(2, INLINE, "round trip, two processes");
  bench_ring(2, IN_BYTES, "round trip, two processes, in a block");
  bench_ring(4, INLINE, "along three processes and back");
  return 0;
}
