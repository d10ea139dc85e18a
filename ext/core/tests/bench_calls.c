/* bench_calls.c - what a call costs in C: its instructions, a round trip between two processes, many in flight; beside
 * it the machine's limit: two processes that spin on a word each. */
#include "calls.h"

#define SPIN_NS 50000ull

static void serve(struct af_client *node, af_off mailbox, bool shared) {
  struct af_client client;
  af_off cell;
  uint32_t hold;
  client_attach(node, &client);
  if (shared)
    af_mailbox_join(&client, mailbox);
  while (take_wait(&client, mailbox, SPIN_NS, &cell, &hold) == AF_OK) {
    uint64_t number = call_number(&client, cell);
    call_answer(&client, cell, hold, number + 1);
    af_mailbox_task_done(&client);
  }
  _exit(0);
}

static int compare(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static void times_print(const char *name, uint64_t *times, uint32_t count) {
  qsort(times, count, sizeof *times, compare);
  printf("  %-48s p10 %7lu  p50 %7lu  p99 %7lu ns\n", name, times[count / 10], times[count / 2], times[count / 100 * 99]);
}

/* Answers each change of word 0 in word 64 (another line). */
static void echo(struct af_client *client, _Atomic uint32_t *words) {
  for (uint32_t seen = 0;;) {
    struct af_spin spin;
    af_spin_begin(&spin, client, SPIN_NS);
    while (atomic_load_explicit(&words[0], memory_order_acquire) == seen)
      if (!af_spin_turn(&spin))
        af_spin_begin(&spin, client, SPIN_NS);
    atomic_store_explicit(&words[64], ++seen, memory_order_release);
  }
}

static void bench_word(void) {
  struct af_client client = {0};
  uint32_t rounds = 200000;
  uint64_t *times = malloc(rounds * sizeof *times);
  _Atomic uint32_t *words = shared_memory(AF_PAGE);
  pid_t child = child_fork();
  if (child == 0)
    echo(&client, words);
  for (uint32_t i = 1; i <= rounds; i++) {
    uint64_t since = af_now_ns();
    atomic_store_explicit(&words[0], i, memory_order_release);
    while (!af_spin_until(&client, &words[64], UINT32_MAX, i, SPIN_NS))
      ;
    times[i - 1] = af_now_ns() - since;
  }
  times_print("limit: a word there and back", times, rounds);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  free(times);
}

static void bench_alone(void) {
  struct af_client node;
  af_off mailbox, lane, sent, taken;
  uint32_t hold, taken_hold, rounds = 100, batch = 10000;
  uint64_t times[100];
  segment_make(&node, 64 * MIB, 8 * MIB, 0);
  CHECK_OK(af_mailbox_create(&node, AF_MAILBOX_ORDERED, 0, 1000, &mailbox));
  CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
  for (uint32_t i = 0; i < rounds * batch; i++) {
    if (i % batch == 0)
      times[i / batch] = af_now_ns();
    CHECK_OK(call_send(&node, lane, i, &sent, &hold));
    CHECK_OK(af_mailbox_take(&node, mailbox, &taken, &taken_hold));
    call_answer(&node, taken, taken_hold, i);
    CHECK(af_cell_is_done(&node, sent), "done");
    af_hold_drop(&node, hold);
    if (i % batch == batch - 1)
      times[i / batch] = (af_now_ns() - times[i / batch]) / batch;
  }
  times_print("create, push, take, complete, drop: one process", times, rounds);
  af_segment_unmap(&node);
}

static void bench_round_trip(uint8_t flags, const char *name) {
  struct af_client node;
  af_off mailbox, lane, sent;
  uint32_t hold, rounds = 200000;
  uint64_t *times = malloc(rounds * sizeof *times);
  segment_make(&node, 64 * MIB, 8 * MIB, 0);
  CHECK_OK(af_mailbox_create(&node, flags, 0, 1000, &mailbox));
  af_mailbox_allow(&node, mailbox, 8);
  CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
  pid_t server = child_fork();
  if (server == 0)
    serve(&node, mailbox, flags & AF_MAILBOX_SHARED);
  for (uint32_t i = 0; i < rounds; i++) {
    uint64_t since = af_now_ns();
    CHECK_OK(call_send(&node, lane, i, &sent, &hold));
    result_wait(&node, sent, SPIN_NS);
    CHECK(call_result(&node, sent) == i + 1, "result");
    af_hold_drop(&node, hold);
    times[i] = af_now_ns() - since;
  }
  times_print(name, times, rounds);
  kill(server, SIGKILL);
  waitpid(server, NULL, 0);
  free(times);
  af_segment_unmap(&node);
}

/* `callers` processes keep 1000 calls each in flight. */
static void bench_in_flight(uint8_t flags, int callers, int readers, const char *name) {
  struct af_client node, client;
  af_off mailbox, lane, ring[1000];
  uint32_t holds[1000], rounds = 500000 / (uint32_t)callers;
  pid_t servers[8], clients[8];
  segment_make(&node, 128 * MIB, 16 * MIB, 0);
  CHECK_OK(af_mailbox_create(&node, flags, 0, 2000, &mailbox));
  af_mailbox_allow(&node, mailbox, 8);
  for (int i = 0; i < readers; i++)
    if ((servers[i] = child_fork()) == 0)
      serve(&node, mailbox, flags & AF_MAILBOX_SHARED);
  uint64_t since = af_now_ns();
  for (int c = 0; c < callers; c++) {
    if ((clients[c] = child_fork()) != 0)
      continue;
    client_attach(&node, &client);
    CHECK_OK(af_lane_open(&client, mailbox, 0, &lane));
    for (uint32_t i = 0; i < rounds + 1000; i++) {
      uint32_t at = i % 1000;
      if (i >= 1000) {
        result_wait(&client, ring[at], SPIN_NS);
        af_hold_drop(&client, holds[at]);
      }
      if (i < rounds)
        CHECK_OK(call_send(&client, lane, i, &ring[at], &holds[at]));
    }
    _exit(0);
  }
  for (int c = 0; c < callers; c++)
    child_join(clients[c]);
  printf("  %-48s %.0f calls/s\n", name, (double)rounds * callers / ((double)(af_now_ns() - since) / 1e9));
  for (int i = 0; i < readers; i++) {
    kill(servers[i], SIGKILL);
    waitpid(servers[i], NULL, 0);
  }
  af_segment_unmap(&node);
}

int main(void) {
  bench_word();
  bench_alone();
  bench_round_trip(AF_MAILBOX_ORDERED, "round trip, actor");
  bench_round_trip(AF_MAILBOX_SHARED, "round trip, task queue");
  bench_in_flight(AF_MAILBOX_ORDERED, 1, 1, "1000 in flight, actor, 1 caller");
  bench_in_flight(AF_MAILBOX_SHARED, 1, 1, "1000 in flight, task queue, 1 reader");
  bench_in_flight(AF_MAILBOX_SHARED, 4, 4, "1000 in flight, task queue, 4 callers 4 readers");
  return 0;
}
