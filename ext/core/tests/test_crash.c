/* test_crash.c - a process ends, or is stopped, at every numbered point of the calls half; the calls of the others go on,
 * and after the settling none is lost, none was run twice, and the books agree.
 *
 * AF_CRASH_ROUNDS: how often each point is met (50, with the slower sanitizers 3). AF_CRASH_POINT: only this one.
 * AF_CRASH_SEED: another course of things. */
#include "crash_world.h"

#include "coroner.h"
#include "points.h"
#include "stream.h"

#define STEPS 600u
#define OUTSTANDING 12u
#define OVERDUE_NS 200000000ull
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS_EACH 3u
#else
#define ROUNDS_EACH 50u
#endif

/* Those of the memory half have a test of their own; here they are met in the midst of calls, if they are. */
static const struct { int number; bool must; } points[] = {
#define X(number, what) {number, true},
    AF_POINTS_CALLS(X)
#undef X
#define X(number, what) {number, false},
        AF_POINTS_MEMORY(X)
#undef X
};

/* ---- the victim: every operation of the calls half, in any order ---- */

struct victim {
  struct world *world;
  struct af_client client;
  af_off actor_lane, queue_lane, own_lanes[2];
  struct made made[OUTSTANDING];
  uint64_t random;
  uint32_t next_id, last_id; /* of its calls: no two of a world bear the same */
  uint8_t board;
  uint32_t read_holds[3]; /* on the mailboxes that it reads, as every reader has them */
};

static uint32_t dice(struct victim *victim, uint32_t sides) { return random_next(&victim->random) % sides; }
static uint64_t id_next(struct victim *victim) { return victim->next_id++; }
static struct made *place(struct victim *victim) { return &victim->made[dice(victim, OUTSTANDING)]; }

/* To its own mailboxes it has lanes while they are open. */
static af_off own_lane(struct victim *victim, uint32_t which) {
  if (victim->own_lanes[which] == 0 &&
      af_lane_open(&victim->client, victim->world->own[which], (uint16_t)dice(victim, 3), &victim->own_lanes[which]) != AF_OK)
    victim->own_lanes[which] = 0;
  return victim->own_lanes[which];
}

static void call_actor(struct victim *victim) {
  struct made *made = place(victim);
  uint64_t id = id_next(victim);
  made_drop(&victim->client, made);
  atomic_store(&victim->world->common->sent[id], 1);
  CHECK_OK(make_and_send(&victim->client, victim->actor_lane, id, 0, false, made));
  atomic_store(&victim->world->common->sent[id], 2);
}

/* To a queue or one of its own; sometimes following another, sometimes with a second result. */
static void call_other(struct victim *victim) {
  struct made *made = place(victim), *other = place(victim);
  uint32_t where = dice(victim, 4);
  af_off lane = where < 2 ? victim->queue_lane : own_lane(victim, where - 2), argument = 0;
  made_drop(&victim->client, made);
  if (other->call != 0 && dice(victim, 3) != 0)
    argument = other->result != 0 && dice(victim, 2) ? other->result : other->call;
  if (lane != 0)
    make_and_send(&victim->client, lane, id_next(victim), argument, dice(victim, 2), made);
}

/* One that follows another, in the actor's lane or the queue. */
static void call_following(struct victim *victim) {
  struct made *made = place(victim), *other = place(victim);
  if (made == other || other->call == 0)
    return;
  made_drop(&victim->client, made);
  CHECK_OK(make_and_send(&victim->client, dice(victim, 2) ? victim->actor_lane : victim->queue_lane, id_next(victim),
                         other->result != 0 ? other->result : other->call, false, made));
}

static bool read_one(struct victim *victim, af_off mailbox) {
  af_off cell;
  uint32_t hold;
  if (af_mailbox_take(&victim->client, mailbox, &cell, &hold) != AF_OK)
    return false;
  if (dice(victim, 4) == 0) {
    uint64_t inside = af_mailbox_block(&victim->client);
    af_mailbox_unblock(&victim->client, inside);
  }
  if (dice(victim, 2))
    af_mailbox_return(&victim->client);
  static const uint32_t bytes[] = {8, 8, 3000, STORED_BYTES};
  execute(victim->world, &victim->client, cell, hold, bytes[dice(victim, 4)]);
  af_mailbox_task_done(&victim->client);
  return true;
}

/* A call to itself, read at once, with all that may follow a cell: it serves that itself. */
static void serve_self(struct victim *victim) {
  struct af_client *client = &victim->client;
  struct made first, followers[2];
  af_off lane = own_lane(victim, 0), other = dice(victim, 2) ? victim->queue_lane : own_lane(victim, 1);
  af_watch watch = af_watch_make(client->slot_index, client->epoch, victim->board, dice(victim, 1000));
  if (lane == 0 || other == 0 || make_and_send(client, lane, id_next(victim), 0, true, &first) != AF_OK)
    return;
  for (uint32_t i = 0; i < 2; i++)
    if (make_and_send(client, other, id_next(victim), i == 0 ? first.call : first.result, false, &followers[i]) != AF_OK)
      followers[i] = (struct made){0};
  watch_thrice(client, first.call, watch);
  if (dice(victim, 2))
    af_board_arm(client, victim->board, AF_SLEEP_LOOP);
  af_cell_sleep(client, first.call, 1);
  if (dice(victim, 4) == 0)
    af_cell_fail(client, first.call, 0, victim->world->error, ERROR_FORMAT);
  for (uint32_t i = 0; i < 4; i++)
    read_one(victim, victim->world->own[0]);
  made_drop(client, &first);
  made_drop(client, &followers[0]);
  made_drop(client, &followers[1]);
}

static int stream_send(struct victim *victim, af_off lane, struct made *made) {
  struct af_client *client = &victim->client;
  uint64_t number = id_next(victim);
  uint32_t outer = af_op_begin(client, 1);
  CHECK_OK(af_stream_item_create(client, CALL_RESERVE, &made->result));
  CHECK_OK(af_hold_record(client, made->result, &made->result_hold));
  CHECK_OK(af_cell_create(client, AF_STREAM_RETURNS, sizeof number, CALL_RESERVE, &made->call));
  CHECK_OK(af_hold_record(client, made->call, &made->hold));
  af_block_hold(client, made->result);
  af_cell_references(client, made->call)[0] = made->result;
  cell_of(client, made->call)->returns = AF_STREAM_RETURNS;
  memcpy(af_cell_bytes(client, made->call), &number, sizeof number);
  af_stream_begin(client, made->call, 1);
  int status = af_cell_submit(client, lane, made->call);
  af_op_end(client, outer);
  return status;
}

/* Makes an item and takes it: as executor and as reader. */
static void stream_step(struct victim *victim, struct made *made) {
  struct af_client *client = &victim->client;
  af_off item = af_stream_current(client, made->call), following;
  uint32_t hold, outer = af_op_begin(client, 1);
  CHECK(item == made->result, "the reader's item is not the current one");
  CHECK_OK(af_stream_extend(client, made->call, item, CALL_RESERVE));
  settle_number(client, item, 5, dice(victim, 3) == 0 ? 3000 : 8);
  af_stream_release(client, made->call, item);
  af_op_end(client, outer);
  CHECK(af_stream_wait(client, made->call, af_stream_current(client, made->call), 50000) == AF_FULL, "one item is ahead");
  outer = af_op_begin(client, 1);
  CHECK_OK(af_stream_take(client, made->call, item, &following, &hold));
  af_hold_drop(client, made->result_hold);
  made->result = following;
  made->result_hold = hold;
  af_op_end(client, outer);
}

/* A stream to itself. */
static void stream_self(struct victim *victim) {
  struct af_client *client = &victim->client;
  struct made made = {0};
  af_off cell = 0, lane = own_lane(victim, 0);
  uint32_t hold;
  if (lane == 0)
    return;
  if (stream_send(victim, lane, &made) == AF_OK)
    while (cell != made.call && af_mailbox_take(client, victim->world->own[0], &cell, &hold) == AF_OK) {
      for (uint32_t i = 0; cell == made.call && i < 3; i++)
        stream_step(victim, &made);
      execute(victim->world, client, cell, hold, 8);
    }
  made_drop(client, &made);
}

/* Many lanes at once, of which the reader finds most empty and closed. */
static void open_lanes(struct victim *victim) {
  struct made made;
  af_off lane;
  for (uint32_t i = 0; i < 60; i++) {
    if (af_lane_open(&victim->client, victim->world->own[1], 0, &lane) != AF_OK)
      return;
    if (i % 8 == 0 && make_and_send(&victim->client, lane, id_next(victim), 0, false, &made) == AF_OK)
      made_drop(&victim->client, &made);
    af_lane_close(&victim->client, lane);
  }
  for (uint32_t i = 0; i < 9; i++)
    read_one(victim, victim->world->own[1]);
}

/* Fills a lane to its credit, and reads it empty: chunks come and go, the writer is told of room. */
static void fill_lane(struct victim *victim) {
  struct af_client *client = &victim->client;
  struct made made;
  af_off lane = own_lane(victim, 0);
  uint32_t sent = 0;
  if (lane == 0)
    return;
  while (make_and_send(client, lane, id_next(victim), 0, false, &made) == AF_OK && ++sent < 100)
    made_drop(client, &made);
  made_drop(client, &made);
  af_lane_wait_room(client, lane, 1);
  while (sent-- > 0)
    read_one(victim, victim->world->own[0]);
}

static void wake_nobody(struct victim *victim) {
  struct af_client *client = &victim->client;
  struct af_mailbox *own = mailbox_of(client, victim->world->own[0]);
  struct made made;
  af_off lane = own_lane(victim, 0);
  if (lane == 0)
    return;
  if (dice(victim, 2))
    atomic_store(&own->node_bell, af_watch_make(client->slot_index, client->epoch, victim->board, 3));
  else
    atomic_fetch_add(&own->sleepers, 1);
  if (make_and_send(client, lane, id_next(victim), 0, false, &made) == AF_OK)
    made_drop(client, &made);
  atomic_store(&own->sleepers, 0);
  while (read_one(victim, victim->world->own[0]))
    ;
  af_mailbox_wait(client, victim->world->own[0], dice(victim, 2) * 1000, 1);
}

static bool may_cancel(const struct victim *victim, af_off call) {
  return call != 0 && cell_of(&victim->client, call)->mailbox != victim->world->actor;
}

static void cancel_child(void *context, struct af_client *client, af_off call) {
  struct victim *victim = context;
  if (may_cancel(victim, call))
    af_cell_cancel(client, call, 0, victim->world->error, ERROR_FORMAT);
}

static void cancel(struct victim *victim) {
  struct af_client *client = &victim->client;
  af_off parent = place(victim)->call, child = place(victim)->call;
  if (!may_cancel(victim, parent))
    return;
  if (child != 0) {
    cell_of(client, child)->parent = parent;
    cell_of(client, child)->parent_generation = af_block_generation(client, parent);
  }
  af_cell_cancel(client, parent, AF_CANCEL_CHILDREN, victim->world->error, ERROR_FORMAT);
  af_cell_each_child(client, parent, af_block_generation(client, parent), cancel_child, victim);
}

static void make_actor(struct victim *victim) {
  af_off actor;
  uint32_t hold, outer = af_op_begin(&victim->client, 1);
  CHECK_OK(af_actor_create(&victim->client, victim->world->own[0], &actor));
  CHECK_OK(af_hold_record(&victim->client, actor, &hold));
  af_hold_drop(&victim->client, hold);
  af_op_end(&victim->client, outer);
}

static void look(struct victim *victim) {
  uint32_t tokens[8];
  struct made *made = place(victim);
  while (af_board_take(&victim->client, victim->board, tokens, 8, false) == 8)
    ;
  if (made->call != 0)
    af_cell_sleep(&victim->client, made->call, 1000);
}

/* Closes one of its own mailboxes: what it sends there later fails, and what follows a call there. */
static void close_own(struct victim *victim) {
  uint32_t which = dice(victim, 2);
  af_mailbox_close(&victim->client, victim->world->own[which], victim->world->error, ERROR_FORMAT);
  victim->own_lanes[which] = 0;
}

static void step(struct victim *victim, uint32_t turn) {
  static void (*const acts[])(struct victim *) = {
      call_actor, call_other, call_other, call_following, serve_self, serve_self,
      stream_self, cancel, wake_nobody, look, make_actor};
  uint32_t what = dice(victim, 19);
  if (what < 11)
    acts[what](victim);
  else if (what < 17)
    read_one(victim, what < 15 ? victim->world->queue : victim->world->own[what % 2]);
  else if (turn % 16 == 0)
    open_lanes(victim);
  else if (turn % 4 == 0)
    fill_lane(victim);
  if (turn >= STEPS / 4 && dice(victim, 100) == 0)
    close_own(victim);
}

static void victim_begin(struct victim *victim, uint32_t slot, uint32_t epoch) {
  struct af_client *client = &victim->client;
  af_off board;
  CHECK_OK(af_slot_claim(client, slot, epoch));
  for (uint32_t i = 0; i < (client->point == 500 ? AF_BOARDS : 1); i++)
    CHECK_OK(af_board_create(client, &victim->board, &board));
  CHECK_OK(af_hold_take(client, victim->world->queue, &victim->read_holds[2]));
  for (uint32_t i = 0; i < 2; i++)
    CHECK_OK(af_hold_take(client, victim->world->own[i], &victim->read_holds[i]));
  CHECK_OK(af_lane_open(client, victim->world->actor, 0, &victim->actor_lane));
  CHECK_OK(af_lane_open(client, victim->world->queue, 2, &victim->queue_lane));
}

static void victim_end(struct victim *victim) {
  struct af_client *client = &victim->client;
  for (uint32_t i = 0; i < OUTSTANDING; i++)
    made_drop(client, &victim->made[i]);
  af_mailbox_leave(client, victim->world->queue);
  af_lane_close(client, victim->actor_lane);
  af_lane_close(client, victim->queue_lane);
  for (uint32_t i = 0; i < 2; i++)
    if (victim->own_lanes[i] != 0)
      af_lane_close(client, victim->own_lanes[i]);
  for (uint32_t i = 0; i < 3; i++)
    af_hold_drop(client, victim->read_holds[i]);
  client_detach(client);
}

static void victim_run(struct world *world, uint32_t slot, uint32_t epoch, int number, int signal, uint32_t seed,
                       uint32_t countdown) {
  const char *course = getenv("AF_CRASH_SEED");
  struct victim victim = {.world = world, .random = 99 + seed * 131 + (uint32_t)number * 7};
  victim.random += course == NULL ? 0 : strtoull(course, NULL, 0) << 32;
  victim.next_id = (seed + 1) * VICTIM_CALLS;
  victim.last_id = victim.next_id + VICTIM_CALLS - 1000;
  CHECK_OK(af_segment_map(&victim.client, dup(world->node.memfd)));
  victim.client.point = number;
  victim.client.point_signal = signal;
  victim.client.point_countdown = number == 500 ? 0 : (int32_t)countdown; /* boards stay: one passed is never met again */
  victim_begin(&victim, slot, epoch);
  for (uint32_t turn = 0; turn < STEPS && victim.next_id < victim.last_id; turn++) {
    if (turn % 20 == 0)
      af_mailbox_join(&victim.client, world->queue);
    step(&victim, turn);
    if (turn % 20 == 19)
      af_mailbox_leave(&victim.client, world->queue);
  }
  victim_end(&victim);
  _exit(0);
}

/* ---- the node ---- */

static void own_make(struct world *world) {
  for (uint8_t i = 0; i < 2; i++) {
    CHECK_OK(af_mailbox_create(&world->node, i == 0 ? AF_MAILBOX_ORDERED : 0, 0, 30, &world->own[i]));
    CHECK_OK(af_hold_record(&world->node, world->own[i], &world->own_holds[i]));
  }
}

static void own_drop(struct world *world) {
  for (uint32_t i = 0; i < 2; i++) {
    CHECK_OK(af_mailbox_close(&world->node, world->own[i], world->error, ERROR_FORMAT));
    af_hold_drop(&world->node, world->own_holds[i]);
  }
}

/* A victim that came to its end has left in order. */
static void victim_settle(struct world *world, uint32_t slot, uint32_t epoch, int number) {
  struct af_settlement settlement;
  int status;
  do
    status = af_coroner_settle(&world->node, slot, epoch, true, world->error, ERROR_FORMAT, &settlement);
  while (status == AF_BUSY);
  CHECK(status == AF_OK || status == AF_STALE, "point %d: settle gave %d", number, status);
  struct af_audit audit = {.consistent = status != AF_OK || !settlement.recount_owed};
  while (!audit.consistent)
    CHECK_OK(af_audit_run(&world->node, true, 10, &audit));
}

/* More rounds of the caller ended than were in flight: so some began after this. */
static bool went_on(struct common *common, uint64_t actor_rounds, uint64_t queue_rounds) {
  return atomic_load(&common->actor_rounds) > actor_rounds + RING &&
         atomic_load(&common->queue_rounds) > queue_rounds + RING;
}

/* While the victim is stopped the others go on; if it holds a lock it is killed for that. How long that took is printed:
 * well under a second, where the machine is not overloaded. */
static void others_go_on(struct world *world, pid_t pid, uint32_t slot, uint32_t epoch, int number) {
  struct common *common = world->common;
  uint64_t actor_rounds = common->actor_rounds, queue_rounds = common->queue_rounds, since = af_now_ns();
  bool killed = false;
  while (!went_on(common, actor_rounds, queue_rounds)) {
    CHECK(af_now_ns() - since < DEADLINE_NS, "point %d: the others stand still", number);
    int overdue = killed ? -1 : af_coroner_overdue(&world->node, OVERDUE_NS);
    CHECK(overdue < 0 || overdue == (int)slot, "slot %d is said to be overdue, not %u", overdue, slot);
    if (overdue >= 0) {
      killed = true;
      kill(pid, SIGKILL);
      waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT);
      victim_settle(world, slot, epoch, number);
    }
    sched_yield();
  }
  uint64_t took_ns = af_now_ns() - since;
  if (took_ns > common->slowest_ns)
    common->slowest_ns = took_ns;
}

/* One that may be run again is put back once by who runs it, and once by the coroner of that one. */
static uint32_t runs_most(uint32_t id) { return is_retriable(id) ? 3 : 1; }

/* Each that it had sent to the actor is executed, though it is dead; no call twice. */
static void victim_calls_check(struct world *world, int number, uint32_t seed) {
  struct common *common = world->common;
  uint64_t since = af_now_ns();
  for (uint32_t id = (seed + 1) * VICTIM_CALLS; id < (seed + 2) * VICTIM_CALLS; id++) {
    while (atomic_load(&common->sent[id]) == 2 && atomic_load(&common->executed[id]) == 0) {
      CHECK(af_now_ns() - since < DEADLINE_NS, "point %d: call %u was lost", number, id);
      sched_yield();
    }
    CHECK(atomic_load(&common->executed[id]) <= runs_most(id), "point %d: call %u was run too often", number, id);
  }
}

/* The others run on meanwhile. */
static void books_check(struct world *world, int number) {
  struct af_audit audit;
  do
    CHECK_OK(af_audit_run(&world->node, false, 10, &audit));
  while (!audit.consistent);
  CHECK(audit.too_high == 0 && audit.too_low == 0 && audit.lost == 0 && audit.broken == 0,
        "point %d: too high %lu, too low %lu, lost %lu, broken %lu, first at %lx (kind %u)", number, audit.too_high,
        audit.too_low, audit.lost, audit.broken, audit.first_wrong, block_at(&world->node, audit.first_wrong)->kind);
}

/* One death, or stop and then death. Returns whether the point was met. */
static bool round_run(struct world *world, int number, int signal, uint32_t seed, uint32_t countdown) {
  uint32_t slot, epoch;
  int status;
  own_make(world);
  CHECK_OK(af_slot_reserve(&world->node, AF_ROLE_WORKER, 0, &slot, &epoch));
  pid_t pid = child_fork();
  if (pid == 0)
    victim_run(world, slot, epoch, number, signal, seed, countdown);
  CHECK(waitpid(pid, &status, WUNTRACED) == pid, "waitpid");
  CHECK(!WIFEXITED(status) || WEXITSTATUS(status) == 0, "point %d: the victim's checks failed", number);
  bool met = !WIFEXITED(status);
  if (WIFSTOPPED(status)) {
    others_go_on(world, pid, slot, epoch, number);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
  }
  victim_settle(world, slot, epoch, number);
  own_drop(world); /* what waited for a call there goes on */
  others_go_on(world, 0, UINT32_MAX, 0, number);
  victim_calls_check(world, number, seed);
  books_check(world, number);
  af_heap_trim(&world->node); /* what leavers passed on and is empty by now */
  return met;
}

/* At its first passing, its second ...; nearer ones when the victim's work was over before. */
static void point_run(int number, bool must, int signal, uint32_t rounds, uint64_t *slowest_ns) {
  struct common *common = shared_memory(sizeof *common);
  struct world world;
  uint32_t met = 0, furthest = 30;
  world_make(&world, common);
  for (uint32_t i = 0; i < 3 * rounds + 8 && met < rounds && (must || met > 0 || i < 3); i++) {
    bool hit = round_run(&world, number, signal, i, furthest == 0 ? 0 : i % (furthest + 1));
    met += hit;
    furthest = hit ? furthest : furthest / 2;
  }
  CHECK(met == rounds || !must, "point %d was met %u times", number, met);
  world_end(&world);
  for (uint32_t id = 0; id < IDS; id++)
    CHECK(atomic_load(&common->executed[id]) <= runs_most(id), "point %d: call %u was run too often", number, id);
  *slowest_ns = common->slowest_ns > *slowest_ns ? common->slowest_ns : *slowest_ns;
  munmap(common, sizeof *common);
}

static void points_run(int signal) {
  uint64_t slowest_ns = 0;
  const char *rounds = getenv("AF_CRASH_ROUNDS"), *only = getenv("AF_CRASH_POINT");
  for (uint32_t i = 0; i < sizeof points / sizeof points[0]; i++)
    if (only == NULL || atoi(only) == points[i].number)
      point_run(points[i].number, points[i].must, signal, rounds == NULL ? ROUNDS_EACH : (uint32_t)atoi(rounds),
                &slowest_ns);
  printf("  the others went on after %.1f ms at most\n", (double)slowest_ns / 1e6);
}

static void test_killed_at_every_point(void) { points_run(SIGKILL); }
static void test_stopped_at_every_point(void) { points_run(SIGSTOP); }

int main(void) {
  RUN(test_killed_at_every_point);
  RUN(test_stopped_at_every_point);
  return 0;
}
