/* test_wait.c - boards, their wakes and what a lost one costs; spins, futexes, the node's state. */
#include "calls.h"
#include "crowd.h"

#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>

static af_watch watch_of(const struct af_client *client, uint8_t board, uint32_t token) {
  return af_watch_make(client->slot_index, client->epoch, board, token);
}

static struct af_board *board_of(const struct af_client *client, uint8_t index) {
  return AF_AT(client, struct af_board, client->slot->boards[index]);
}

static void test_tokens(void) {
  struct af_client node;
  af_off board;
  uint8_t index;
  uint32_t tokens[200], taken = 0, seen = 0;
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK_OK(af_board_create(&node, &index, &board));
  for (uint32_t i = 0; i < AF_BOARD_TOKENS; i += 97) {
    af_ring(&node, watch_of(&node, index, i));
    af_ring(&node, watch_of(&node, index, i)); /* the same bit */
  }
  while ((taken = af_board_take(&node, index, tokens, 200, false)) > 0)
    for (uint32_t i = 0; i < taken; i++)
      CHECK(tokens[i] == 97 * seen++, "token %u", tokens[i]);
  CHECK(seen == (AF_BOARD_TOKENS + 96) / 97, "%u tokens", seen);
  af_segment_unmap(&node);
}

/* What does not fit is there at the next look, whichever way it looks. */
static void test_small_takes(void) {
  struct af_client node;
  af_off board;
  uint8_t index;
  uint32_t tokens[3];
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK_OK(af_board_create(&node, &index, &board));
  for (int thorough = 0; thorough < 2; thorough++) {
    uint32_t seen = 0, taken;
    for (uint32_t i = 0; i < 300; i++)
      af_ring(&node, watch_of(&node, index, i * 31));
    while ((taken = af_board_take(&node, index, tokens, 3, thorough)) > 0)
      for (uint32_t i = 0; i < taken; i++)
        CHECK(tokens[i] == 31 * seen++, "token %u", tokens[i]);
    CHECK(seen == 300, "%u tokens", seen);
  }
  af_segment_unmap(&node);
}

/* A ringer that died between bit and summary, or before the wake: the thorough look finds it. */
static void test_lost_ring(void) {
  struct af_client node;
  af_off board;
  uint8_t index;
  uint32_t token;
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK_OK(af_board_create(&node, &index, &board));
  atomic_fetch_or(&board_of(&node, index)->bits[9], 1ull << 5);
  CHECK(af_board_take(&node, index, &token, 1, false) == 0, "not seen");
  CHECK(af_board_wait(&node, index, 0, 1000) == AF_TIMEOUT, "not seen");
  CHECK(af_board_take(&node, index, &token, 1, true) == 1 && token == 9 * 64 + 5, "found");
  af_segment_unmap(&node);
}

static void test_boards_of_a_slot(void) {
  struct af_client node, client;
  af_off board, first = 0;
  uint8_t index;
  uint32_t token;
  segment_make(&node, 16 * MIB, 8 * MIB, 0);
  client_attach(&node, &client);
  for (uint32_t i = 0; i < AF_BOARDS_MOST; i++) {
    CHECK_OK(af_board_create(&client, &index, &board));
    CHECK(index == i, "in order");
    first = i == 0 ? board : first;
  }
  CHECK(af_board_create(&client, &index, &board) == AF_FULL, "all in use");
  for (uint32_t i = 0; i < AF_BOARDS_MOST; i++) {
    af_ring(&node, watch_of(&client, (uint8_t)i, 1000 + i));
    CHECK(af_board_take(&client, (uint8_t)i, &token, 1, false) == 1 && token == 1000 + i, "each its own");
  }
  af_watch old = watch_of(&client, 0, 7);
  af_ring(&node, watch_of(&client, 0, 8));
  af_board_destroy(&client, 0);
  af_ring(&node, old); /* nobody's */
  CHECK_OK(af_board_create(&client, &index, &board));
  CHECK(index == 0 && board == first, "used again");
  CHECK(af_board_take(&client, 0, &token, 1, true) == 0, "empty");
  client_detach(&client);
  af_ring(&node, old); /* of a process that is gone */
  client_attach(&node, &client);
  CHECK_OK(af_board_create(&client, &index, &board));
  CHECK(board == first, "the slot's next process has it");
  af_ring(&node, old);
  CHECK(af_board_take(&client, 0, &token, 1, true) == 0, "not this process' ring");
  af_ring(&node, af_watch_make(32000, 1, 200, 1)); /* garbage */
  af_ring(&node, 0);
  client_detach(&client);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

static int board_socket(struct af_client *client, uint8_t index) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char name[100];
  int length = af_board_address(client, client->slot_index, client->epoch, index, name);
  memcpy(address.sun_path + 1, name, (size_t)length);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
  CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, bytes) == 0, "bind");
  return fd;
}

static uint32_t datagrams(int fd) {
  char byte;
  uint32_t count = 0;
  while (recv(fd, &byte, 1, 0) == 1)
    count++;
  return count;
}

/* A loop gets one datagram each time it has armed its board, and none while it is awake. */
static void test_loop(void) {
  struct af_client node;
  af_off board;
  uint8_t index;
  uint32_t tokens[10];
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK_OK(af_board_create(&node, &index, &board));
  af_board_arm(&node, index, AF_SLEEP_LOOP);
  af_ring(&node, watch_of(&node, index, 1)); /* nobody listens yet: refused, and no harm */
  CHECK(af_board_take(&node, index, tokens, 10, false) == 1, "rung");
  int fd = board_socket(&node, index);
  CHECK(af_board_arm(&node, index, AF_SLEEP_LOOP) == 1, "may sleep");
  for (uint32_t i = 0; i < 5; i++)
    af_ring(&node, watch_of(&node, index, i));
  CHECK(datagrams(fd) == 1, "one");
  CHECK(af_board_arm(&node, index, AF_SLEEP_LOOP) == 0, "something is there");
  af_ring(&node, watch_of(&node, index, 6));
  CHECK(datagrams(fd) == 0, "awake");
  CHECK(af_board_take(&node, index, tokens, 10, false) == 6, "all of them");
  CHECK(af_board_arm(&node, index, AF_SLEEP_LOOP) == 1, "may sleep");
  af_board_disarm(&node, index);
  af_ring(&node, watch_of(&node, index, 7));
  CHECK(datagrams(fd) == 0, "disarmed");
  close(fd);
  af_segment_unmap(&node);
}

/* A loop that does not read its datagrams fills its socket; ringers go on. */
static void test_full_socket(void) {
  struct af_client node;
  af_off board;
  uint8_t index;
  uint32_t token;
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK_OK(af_board_create(&node, &index, &board));
  int fd = board_socket(&node, index);
  for (uint32_t i = 0; i < 5000; i++) {
    CHECK(af_board_arm(&node, index, AF_SLEEP_LOOP) == 1, "may sleep");
    af_ring(&node, watch_of(&node, index, i));
    CHECK(af_board_take(&node, index, &token, 1, false) == 1 && token == i, "the bit is there all the same");
  }
  CHECK(datagrams(fd) > 0, "it was woken");
  close(fd);
  af_segment_unmap(&node);
}

/* ---- threads ---- */

#define RINGERS 3u
struct ringing { struct af_client *node; uint8_t index; _Atomic uint32_t acknowledged; uint32_t rounds; };
struct ringer { struct ringing *ringing; uint32_t token; };

/* Rings, and waits until the board's owner has seen it. */
static void *ring_and_wait(void *argument) {
  struct ringer *ringer = argument;
  struct ringing *ringing = ringer->ringing;
  struct af_client client;
  client_share(ringing->node, &client);
  for (uint32_t i = 0; i < ringing->rounds; i++) {
    af_ring(&client, watch_of(ringing->node, ringing->index, ringer->token));
    while (!(atomic_load(&ringing->acknowledged) & 1u << ringer->token))
      sched_yield();
    atomic_fetch_and(&ringing->acknowledged, ~(1u << ringer->token));
  }
  client_unshare(&client);
  return NULL;
}

static void test_no_ring_is_lost(void) {
  struct af_client node;
  af_off board;
  struct ringing ringing = {&node, 0, 0, ROUNDS(3000)};
  struct ringer ringers[RINGERS];
  pthread_t threads[RINGERS];
  uint32_t tokens[RINGERS];
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK_OK(af_board_create(&node, &ringing.index, &board));
  for (uint32_t i = 0; i < RINGERS; i++) {
    ringers[i] = (struct ringer){&ringing, i};
    pthread_create(&threads[i], NULL, ring_and_wait, &ringers[i]);
  }
  for (uint32_t seen = 0; seen < RINGERS * ringing.rounds;) {
    uint32_t taken = af_board_take(&node, ringing.index, tokens, RINGERS, false);
    for (uint32_t i = 0; i < taken; i++)
      atomic_fetch_or(&ringing.acknowledged, 1u << tokens[i]);
    seen += taken;
    if (taken == 0 && af_board_arm(&node, ringing.index, AF_SLEEP_FUTEX)) /* no timed look: a lost wake would show */
      CHECK_OK(af_futex_wait(&board_of(&node, ringing.index)->sleeping, AF_SLEEP_FUTEX, 60000000000ull));
  }
  for (uint32_t i = 0; i < RINGERS; i++)
    pthread_join(threads[i], NULL);
  af_segment_unmap(&node);
}

/* ---- spins, futexes, the node ---- */

static void *set_word(void *argument) {
  atomic_store((_Atomic uint32_t *)argument, 0x15);
  return NULL;
}

static void test_spin(void) {
  struct af_client node;
  _Atomic uint32_t word = 0;
  pthread_t thread;
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK(af_spin_until(&node, &word, 0xf, 5, 0) == 0, "one look");
  CHECK(af_spin_until(&node, &word, 0xf, 5, 20000) == 0, "ends");
  CHECK(af_spin_until(&node, &word, 0xf, 0, 0) == 1, "met at once");
  pthread_create(&thread, NULL, set_word, &word);
  while (!af_spin_until(&node, &word, 0xf, 5, 1000000))
    ;
  pthread_join(thread, NULL);
  CHECK(af_futex_wait(&word, 3, 1000000000) == AF_OK, "the word has changed");
  CHECK(af_futex_wait(&word, 0x15, 1000) == AF_TIMEOUT, "it has not");
  CHECK(af_futex_wake(&word, 1) == 0, "nobody sleeps");
  CHECK(af_sleep_limit(NEVER_NS) == AF_SLEEP_MS * 1000000ull && af_sleep_limit(5) == 5, "bounded");
  af_segment_unmap(&node);
}

static void *compute(void *stopped) {
  while (!atomic_load_explicit((_Atomic bool *)stopped, memory_order_relaxed))
    ;
  return NULL;
}

/* Whatever the kernel counts then: it may count those who only wait for each other. */
static void test_a_crowd_is_not_looked_at_for_ever(void) {
  struct af_client node;
  pthread_t threads[64];
  _Atomic bool stopped = false;
  long cpus = sysconf(_SC_NPROCESSORS_ONLN), count = cpus < 63 ? cpus + 1 : 64;
  segment_make(&node, 8 * MIB, MIB, 0);
  for (long i = 0; i < count; i++)
    pthread_create(&threads[i], NULL, compute, &stopped);
  uint64_t now = af_now_ns();
  node.crowded_ms = 640;
  node.crowded_until_ns = now + 1;
  CHECK(af_crowded(&node, now), "until then");
  uint32_t looks = 0;
  for (; af_crowded(&node, node.crowded_until_ns); looks++)
    CHECK(node.crowded_ms == 640, "each time as long");
  CHECK(looks == 16, "%u looks found it", looks);
  CHECK(!af_crowded(&node, node.crowded_until_ns + 1), "and it stays over");
  stopped = true;
  for (long i = 0; i < count; i++)
    pthread_join(threads[i], NULL);
  af_segment_unmap(&node);
}

static void nothing(int signal) { (void)signal; }

/* A signal ends a sleep, so that the caller can run its handlers. */
static void test_interrupted(void) {
  struct af_client node;
  af_off mailbox, cell, board;
  uint32_t hold;
  uint8_t index;
  struct sigaction action = {.sa_handler = nothing};
  segment_make(&node, 8 * MIB, MIB, 0);
  CHECK_OK(af_mailbox_create(&node, 0, 0, 10, &mailbox));
  CHECK_OK(af_cell_expected_create(&node, 0, &cell));
  CHECK_OK(af_hold_record(&node, cell, &hold));
  CHECK_OK(af_board_create(&node, &index, &board));
  sigaction(SIGALRM, &action, NULL);
  struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &often, NULL);
  while (af_cell_sleep(&node, cell, NEVER_NS) != AF_INTERRUPTED)
    ;
  while (af_mailbox_wait(&node, mailbox, 0, NEVER_NS) != AF_INTERRUPTED)
    ;
  while (af_board_wait(&node, index, 0, NEVER_NS) != AF_INTERRUPTED)
    ;
  setitimer(ITIMER_REAL, &never, NULL);
  signal(SIGALRM, SIG_DFL);
  af_segment_unmap(&node);
}

static void test_node_check(void) {
  struct af_client node, client;
  segment_make(&node, 8 * MIB, MIB, 0);
  client_attach(&node, &client);
  CHECK_OK(af_node_check(&client));
  pid_t child = child_fork();
  if (child == 0)
    pause();
  client.node_pidfd = (int)syscall(SYS_pidfd_open, child, 0);
  CHECK(client.node_pidfd >= 0, "pidfd");
  CHECK_OK(af_node_check(&client));
  kill(child, SIGKILL);
  struct pollfd ended = {.fd = client.node_pidfd, .events = POLLIN};
  CHECK(poll(&ended, 1, 5000) == 1, "ended");
  CHECK(af_node_check(&client) == AF_DEAD, "dead");
  waitpid(child, NULL, 0);
  CHECK(af_node_check(&client) == AF_DEAD, "and gone");
  close(client.node_pidfd);
  client.node_pidfd = -1;
  CHECK_OK(af_node_check(&client));
  atomic_store(&node.header->node_state, AF_NODE_STOPPING);
  CHECK(af_node_check(&client) == AF_DEAD, "stopping");
  client_detach(&client);
  af_segment_unmap(&node);
}

/* Who comes again and again, while another watches, takes one place for all its watches. */
static void test_watcher_again(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  struct af_watcher own = {0};
  af_off board, cell, taken;
  uint32_t hold, taken_hold, tokens[8];
  uint8_t index;
  CHECK_OK(af_board_create(node, &index, &board));
  CHECK_OK(call_send(node, fixture.lane, 1, &cell, &hold));
  CHECK_OK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, 100), NULL));
  for (uint32_t i = 0; i < 50; i++) {
    CHECK_OK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, 200 + i), &own));
    af_cell_unwatch(node, cell, af_watch_make(0, node->epoch, index, 200 + i), &own);
  }
  audit_clean(node, 6); /* the four of the fixture, the cell, and the place */
  CHECK_OK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, 300), &own));
  CHECK_OK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, 301), &own)); /* two at a time */
  CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
  CHECK_OK(call_answer(node, taken, taken_hold, 1));
  CHECK(af_board_take(node, index, tokens, 8, false) == 3, "each once");
  CHECK(tokens[0] == 100 && tokens[1] == 300 && tokens[2] == 301, "and none that was taken back");
  CHECK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, 1), &own) == AF_EMPTY, "done");
  af_hold_drop(node, own.hold);
  af_hold_drop(node, hold);
  fixture_end(&fixture);
}

int main(void) {
  RUN(test_tokens);
  RUN(test_small_takes);
  RUN(test_lost_ring);
  RUN(test_boards_of_a_slot);
  RUN(test_loop);
  RUN(test_full_socket);
  RUN(test_no_ring_is_lost);
  RUN(test_watcher_again);
  RUN(test_spin);
  RUN(test_a_crowd_is_not_looked_at_for_ever);
  RUN(test_interrupted);
  RUN(test_node_check);
  return 0;
}
