/* test_memory_kill.c - a process ends or is stopped at every numbered point of the memory half; the others go on, and
 * after the settling nothing is lost or wrong. */
#define _GNU_SOURCE
#include "harness.h"

#include <sys/mman.h>

#include "points.h"

#define NAMES 64u
#define HOLDS 40u
#define GIFTS 12u /* blocks that their maker is sure not to drop last */
#define STEPS 400u
#define ROUNDS_MOST (4 * HITS + 8)
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define HITS 3u
#else
#define HITS 50u
#endif

static const int points[] = {
#define X(number, what) number,
    AF_POINTS_MEMORY(X)
#undef X
};
/* The node's own: it adopts and punches, and with its death the segment ends. */
static bool is_node_point(int number) { return number == 216 || number == 217; }

/* A name is generation << 32 | offset / 64. */
struct board {
  _Atomic uint64_t names[NAMES];   /* blocks that anyone may revive */
  _Atomic uint64_t gifts[2][GIFTS]; /* of the node for the victim, and of the victim for the node */
  _Atomic bool offered, taken;     /* the victim's gifts are there; the node has taken them and dropped its own */
};

struct worker {
  struct af_client *client;
  struct board *board;
  uint32_t holds[HOLDS], count;
  uint64_t random;
  bool is_node;
};

/* ---- what both sides do: every operation of the memory half, in any order ---- */

static uint64_t name_of(const struct af_client *client, af_off block) {
  return (uint64_t)af_block_generation(client, block) << 32 | block / AF_LINE;
}

/* The count is the caller's, who is inside an operation. */
static void keep(struct worker *worker, af_off block) {
  CHECK_OK(af_hold_record(worker->client, block, &worker->holds[worker->count++]));
  atomic_store(&worker->board->names[random_next(&worker->random) % NAMES], name_of(worker->client, block));
}

static void lose(struct worker *worker) {
  if (worker->count == 0)
    return;
  uint32_t which = random_next(&worker->random) % worker->count;
  af_hold_drop(worker->client, worker->holds[which]);
  worker->holds[which] = worker->holds[--worker->count];
}

/* Makes `block`, a BYTES or OBJECT one, own up to two of what the worker holds; of what owns nothing itself, so that the
 * newest does not keep all that ever was. */
static void refer(struct worker *worker, af_off block) {
  struct af_object *object = AF_AT(worker->client, struct af_object, block);
  af_off *references = AF_AT(worker->client, af_off, block + sizeof *object);
  for (uint32_t i = 0; i < 2 && worker->count > 0; i++) {
    af_off to = af_hold_block(worker->client, worker->holds[random_next(&worker->random) % worker->count]);
    if (AF_AT(worker->client, struct af_object, to)->references != 0 || block_at(worker->client, to)->kind == AF_KIND_ACTOR)
      continue;
    af_block_hold(worker->client, to);
    references[object->references] = to;
    object->references++;
  }
}

static void make_bytes(struct worker *worker) {
  uint32_t size = random_next(&worker->random) % 40;
  size = size == 0 ? 100000 : size == 1 ? 50000 : size * 80;
  af_off block = bytes_make(worker->client, size < 128 ? 128 : size);
  refer(worker, block);
  keep(worker, block);
}

static void make_object(struct worker *worker) {
  af_off block;
  int status = af_extent_allocate(worker->client, (1 + random_next(&worker->random) % 20) * AF_PAGE, &block);
  if (status != AF_OK)
    return;
  refer(worker, block);
  keep(worker, block);
}

static void make_actor(struct worker *worker) {
  af_off mailbox, actor;
  CHECK_OK(af_heap_allocate(worker->client, sizeof(struct af_mailbox), AF_KIND_MAILBOX, AF_CONTROL, &mailbox));
  CHECK_OK(af_heap_allocate(worker->client, sizeof(struct af_actor), AF_KIND_ACTOR, AF_CONTROL, &actor));
  AF_AT(worker->client, struct af_actor, actor)->mailbox = mailbox;
  keep(worker, actor);
}

static void revive(struct worker *worker, const _Atomic uint64_t *names, uint32_t which) {
  uint64_t name = atomic_load(&names[which]);
  af_off block = (name & 0xffffffff) * AF_LINE;
  if (name != 0 && af_block_revive(worker->client, block, (uint32_t)(name >> 32), 0) == AF_OK)
    keep(worker, block);
}

static void revive_any(struct worker *worker) {
  revive(worker, worker->board->names, random_next(&worker->random) % NAMES);
}

static void gifts_make(struct worker *worker, _Atomic uint64_t *gifts) {
  for (uint32_t i = 0; i < GIFTS; i++) {
    uint32_t outer = af_op_begin(worker->client, 1);
    af_off block = bytes_make(worker->client, 1000);
    keep(worker, block);
    atomic_store(&gifts[i], name_of(worker->client, block));
    af_op_end(worker->client, outer);
  }
}

static void gifts_take(struct worker *worker, const _Atomic uint64_t *gifts) {
  for (uint32_t i = 0; i < GIFTS; i++) {
    uint32_t outer = af_op_begin(worker->client, 1);
    revive(worker, gifts, i);
    af_op_end(worker->client, outer);
  }
}

static void hold_again(struct worker *worker) {
  if (worker->count == 0)
    return;
  af_off block = af_hold_block(worker->client, worker->holds[0]);
  CHECK_OK(af_hold_take(worker->client, block, &worker->holds[worker->count++]));
}

static void fork_and_leave(struct worker *worker) {
  struct af_client *client = worker->client;
  uint32_t index, epoch;
  int status, number = client->point;
  if (af_fork_prepare(client, &index, &epoch) != AF_OK)
    return;
  if (number != 113 && number != 112 && random_next(&worker->random) % 4 != 0) {
    af_fork_abandon(client, index, epoch);
    return;
  }
  pid_t pid = child_fork();
  if (pid == 0) {
    client->point = number == 113 ? 113 : -1;
    CHECK_OK(af_fork_child(client, index, epoch));
    while (worker->count > 0)
      lose(worker);
    client_detach(client);
    _exit(0);
  }
  CHECK(waitpid(pid, &status, WUNTRACED) == pid, "waitpid");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
    return;
  kill(pid, SIGKILL); /* it met its point: so does this one */
  waitpid(pid, &status, 0);
  kill(getpid(), client->point_signal);
}

static void step(struct worker *worker) {
  uint32_t what = random_next(&worker->random) % 24, outer;
  while (worker->count > HOLDS - 2)
    lose(worker);
  outer = af_op_begin(worker->client, 1);
  if (what < 5)
    make_bytes(worker);
  else if (what < 8)
    make_object(worker);
  else if (what < 9)
    make_actor(worker);
  else if (what < 13)
    revive_any(worker);
  else if (what < 15)
    hold_again(worker);
  af_op_end(worker->client, outer);
  if (what >= 15 && what < 22)
    lose(worker);
  else if (what == 22)
    af_heap_trim(worker->client);
  else if (what == 23 && !worker->is_node && random_next(&worker->random) % 4 == 0)
    fork_and_leave(worker);
}

/* ---- the one that dies ---- */

static void victim_run(struct af_client *node, struct board *board, int number, int signal, uint32_t seed,
                       uint32_t countdown) {
  struct af_client client;
  struct worker worker = {.client = &client, .board = board, .random = 77 + seed * 1000 + (uint32_t)number};
  uint32_t index, epoch;
  CHECK_OK(af_segment_map(&client, dup(node->memfd)));
  client.point = number;
  client.point_signal = signal;
  client.point_countdown = number < 102 ? 0 : (int32_t)countdown;
  CHECK_OK(af_slot_reserve(&client, AF_ROLE_WORKER, 0, &index, &epoch));
  CHECK_OK(af_slot_claim(&client, index, epoch));
  gifts_take(&worker, board->gifts[0]);
  gifts_make(&worker, board->gifts[1]);
  atomic_store(&board->offered, true);
  while (!atomic_load(&board->taken))
    sched_yield();
  while (worker.count > 0) /* what it was given is the node's memory, and the node has what it gave */
    lose(&worker);
  for (uint32_t i = 0; i < STEPS; i++) {
    if (number == 310 && i % 20 == 0)
      atomic_store(&client.header->extent_dirty, 1); /* as a dead holder leaves it */
    step(&worker);
  }
  client_detach(&client);
  _exit(0);
}

/* ---- the node ---- */

/* As the coroner does; what belongs to calls is not met here. */
static void settle(struct af_client *node, uint32_t index) {
  struct af_slot *slot = af_slot_at(node, index);
  uint64_t owner = atomic_load(&slot->owner);
  uint32_t epoch = af_slot_epoch_of(owner);
  if (af_slot_state_of(owner) == AF_SLOT_FREE)
    return;
  atomic_store(&slot->owner, af_slot_word(epoch, AF_SLOT_DEAD));
  af_extent_unlock_dead(node, index, epoch);
  af_slot_drop_holds(node, index);
  af_heap_adopt(node, index, epoch);
  struct af_audit audit;
  CHECK_OK(af_audit_run(node, true, 10, &audit));
  CHECK(audit.consistent && audit.too_low == 0, "%lu too low", audit.too_low);
  atomic_store(&slot->owner, af_slot_word(epoch + 1, AF_SLOT_FREE));
}

/* Nothing is left of anybody. */
static void check_empty(struct worker *worker) {
  struct af_client *node = worker->client;
  while (worker->count > 0)
    lose(worker);
  audit_clean(node, 0);
  af_slot_drop_holds(node, 0);
  af_heap_trim(node);
  CHECK(atomic_load(&node->header->spans_used) == 0, "%u spans are left", node->header->spans_used);
  CHECK(af_extent_check(node) && atomic_load(&node->header->object_bytes_used) == 0, "extents");
}

/* While one is stopped, the others go on: all that does not need the extent lock, if that is what it stopped with. */
static void go_on(struct worker *worker) {
  bool locked = atomic_load(&worker->client->header->extent_lock) != 0;
  for (uint32_t i = 0; i < 200; i++) {
    if (!locked) {
      step(worker);
      continue;
    }
    uint32_t outer = af_op_begin(worker->client, 1);
    while (worker->count > HOLDS - 2)
      lose(worker);
    i % 2 ? make_bytes(worker) : revive_any(worker);
    af_op_end(worker->client, outer);
  }
}

/* One death, or stop and then death. Returns whether the point was met. */
static bool round_run(int number, int signal, uint32_t seed, uint32_t countdown) {
  struct af_client node;
  int status;
  struct board *board = mmap(NULL, AF_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  segment_make(&node, 16 * MIB, MIB, 8 * MIB);
  struct worker worker = {.client = &node, .board = board, .random = 5 + seed, .is_node = true};
  gifts_make(&worker, board->gifts[0]);
  pid_t pid = child_fork(), seen;
  if (pid == 0)
    victim_run(&node, board, number, signal, seed, countdown);
  while ((seen = waitpid(pid, &status, WNOHANG | WUNTRACED)) == 0) {
    if (atomic_load(&board->offered) && !atomic_load(&board->taken)) {
      while (worker.count > 0)
        lose(&worker);
      gifts_take(&worker, board->gifts[1]);
      atomic_store(&board->taken, true);
    }
    for (uint32_t i = 0; atomic_load(&board->taken) && i < 20; i++)
      step(&worker);
    sched_yield();
  }
  CHECK(seen == pid, "waitpid");
  CHECK(!WIFEXITED(status) || WEXITSTATUS(status) == 0, "point %d: the victim's checks failed", number);
  bool met = !WIFEXITED(status);
  if (WIFSTOPPED(status)) {
    go_on(&worker);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
  }
  for (uint32_t i = 1; i < node.header->slot_count; i++)
    settle(&node, i);
  for (uint32_t i = 0; i < 100; i++)
    step(&worker);
  check_empty(&worker);
  af_segment_unmap(&node);
  munmap(board, AF_PAGE);
  return met;
}

/* At its first passing, its second ...; nearer ones when the victim's work was over before. */
static void point_run(int number, int signal) {
  uint32_t met = 0, furthest = 16;
  for (uint32_t i = 0; i < ROUNDS_MOST && met < HITS; i++) {
    bool hit = round_run(number, signal, i, i % (furthest + 1));
    met += hit;
    furthest = hit ? furthest : furthest / 2;
  }
  CHECK(met == HITS, "point %d was met %u times", number, met);
}

static void points_run(int signal) {
  for (uint32_t i = 0; i < sizeof points / sizeof points[0]; i++)
    if (!is_node_point(points[i]))
      point_run(points[i], signal);
}

static void test_killed_at_every_point(void) { points_run(SIGKILL); }
static void test_stopped_at_every_point(void) { points_run(SIGSTOP); }

int main(void) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  RUN(test_killed_at_every_point);
  RUN(test_stopped_at_every_point);
  return 0;
}
