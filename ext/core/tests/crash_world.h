/* crash_world.h - what the kill and stop tests of the calls half run in: a node, and others whose calls must go on.
 *
 * A caller keeps calls of all kinds in flight to an actor and to a task queue, each of which has a reader of its own. The
 * victim (test_crash.c) calls both and reads the queue too, so a call of the caller may fail because the victim had
 * started it. Nothing else may happen to a call: each is executed once, or failed having been started. One of three may be
 * run again, and some of these are put back once by whoever runs them: they never fail, and are executed once for each
 * attempt at most. */
#ifndef AF_TEST_CRASH_WORLD_H
#define AF_TEST_CRASH_WORLD_H
#include "calls.h"

#include <sched.h>

#define ERROR_FORMAT 9
#define RING 24u       /* rounds that the caller has in flight */
#define VICTIM_CALLS 8192u /* that one victim makes at most */
#define VICTIMS 200u
#define IDS ((VICTIMS + 1) * VICTIM_CALLS) /* calls whose executions are counted; the first are the caller's */
#define DEADLINE_NS 20000000000ull

/* Seen by all processes. */
struct common {
  _Atomic uint32_t executed[IDS];
  _Atomic uint32_t sent[IDS];     /* victim's plain calls to the actor: 1: may be sent, 2: sent */
  _Atomic uint64_t actor_rounds, queue_rounds; /* of the caller */
  uint64_t slowest_ns;            /* node: until the others had gone on */
  _Atomic uint32_t stop, actor_stop; /* the caller; the actor's reader */
};
struct world {
  struct af_client node;
  struct common *common;
  af_off actor, queue, own[2], error; /* own: the victim's, ordered and not; made anew for each */
  uint32_t actor_hold, queue_hold, own_holds[2], error_hold;
  pid_t caller, actor_reader, queue_reader;
};

/* ---- executing ---- */

/* Completes a cell with a number; `bytes` more of it if it is to lie beside the cell. */
static inline void settle_number(struct af_client *client, af_off cell, uint64_t number, uint32_t bytes) {
  af_off block;
  uint8_t *where;
  int status = af_cell_result_begin(client, cell, 0, bytes, &block, &where);
  if (status == AF_FENCED)
    return;
  CHECK_OK(status);
  memcpy(where, &number, sizeof number);
  CHECK_OK(af_cell_complete(client, cell, block, 0, bytes, 1));
}

/* The same in the object store: of a call that may be run again it is kept what it was made from. */
#define STORED_BYTES 5000u
static inline void settle_stored(struct af_client *client, af_off cell, uint64_t number) {
  af_off block;
  CHECK_OK(af_extent_allocate(client, sizeof(struct af_object) + STORED_BYTES, &block));
  struct af_object *object = AF_AT(client, struct af_object, block);
  object->bytes = STORED_BYTES;
  memcpy(object + 1, &number, sizeof number);
  int status = af_cell_complete(client, cell, block, 0, 0, 1);
  CHECK(status == AF_OK || status == AF_FENCED, "completing gave %d", status);
}

static inline bool is_retriable(uint64_t number) { return number / 2 % 3 == 0; }

/* The first time some are put back. False: it is to be executed. */
static inline bool put_back(struct af_client *client, af_off cell, uint64_t number) {
  if (!is_retriable(number) || cell_of(client, cell)->attempt > 0 || number / 6 % 2 != 0)
    return false;
  int status = af_cell_retry(client, cell);
  CHECK(status == AF_OK || status == AF_EMPTY || status == AF_CLOSED || status == AF_FULL, "retry gave %d", status);
  return status == AF_OK;
}

/* A started call: counts it, completes its return cells, then itself, and lets go of it. */
static inline void execute(struct world *world, struct af_client *client, af_off cell, uint32_t hold, uint32_t bytes) {
  uint64_t number = call_number(client, cell);
  uint32_t outer = af_op_begin(client, 1), returns = cell_of(client, cell)->returns;
  af_off *references = af_cell_references(client, cell);
  atomic_fetch_add(&world->common->executed[number], 1);
  if (!put_back(client, cell, number)) {
    for (uint32_t i = cell_of(client, cell)->references - returns; i < cell_of(client, cell)->references; i++)
      if (references[i] != 0)
      settle_number(client, references[i], number + 2, 8);
    if (bytes == STORED_BYTES)
      settle_stored(client, cell, number + 1);
    else
      settle_number(client, cell, number + 1, bytes);
  }
  af_hold_drop(client, hold);
  af_op_end(client, outer);
}

/* ---- making calls ---- */

struct made { af_off call, result; uint32_t hold, result_hold; bool sent; };

/* A call that follows `argument` (0: none) and has `returns` (0 or 1) further results; sent through `lane`. AF_FULL and
 * AF_CLOSED leave nothing. */
static inline int make_and_send(struct af_client *client, af_off lane, uint64_t number, af_off argument, bool returns,
                                struct made *made) {
  af_off mailbox = AF_AT(client, struct af_lane, lane)->mailbox, given[3];
  uint32_t count = 0, outer = af_op_begin(client, 1);
  if (argument != 0) {
    given[count++] = argument;
    given[count++] = mailbox;
  }
  *made = (struct made){0};
  if (returns) {
    CHECK_OK(af_cell_expected_create(client, CALL_RESERVE, &made->result));
    CHECK_OK(af_hold_record(client, made->result, &made->result_hold));
    given[count++] = made->result;
  }
  CHECK_OK(af_cell_create(client, count, sizeof number, CALL_RESERVE, &made->call));
  CHECK_OK(af_hold_record(client, made->call, &made->hold));
  for (uint32_t i = 0; i < count; i++) {
    af_block_hold(client, given[i]);
    af_cell_references(client, made->call)[i] = given[i];
  }
  cell_of(client, made->call)->arguments = argument != 0;
  cell_of(client, made->call)->returns = returns;
  memcpy(af_cell_bytes(client, made->call), &number, sizeof number);
  af_cell_allow_retries(client, made->call, is_retriable(number) ? -1 : 0);
  int status = af_cell_submit(client, lane, made->call);
  if (status != AF_OK) {
    af_hold_drop(client, made->hold);
    if (returns)
      af_hold_drop(client, made->result_hold);
    *made = (struct made){0};
  }
  made->sent = status == AF_OK;
  af_op_end(client, outer);
  return status;
}

static inline void made_drop(struct af_client *client, struct made *made) {
  if (made->call != 0)
    af_hold_drop(client, made->hold);
  if (made->result != 0)
    af_hold_drop(client, made->result_hold);
  *made = (struct made){0};
}

/* ---- the readers ---- */

static inline void reader_run(struct world *world, af_off mailbox) {
  struct af_client client;
  af_off cell;
  uint32_t hold, turn = 0;
  client_attach(&world->node, &client);
  if (mailbox == world->queue)
    af_mailbox_join(&client, mailbox);
  while (mailbox == world->queue || !atomic_load(&world->common->actor_stop)) {
    int status = af_mailbox_take(&client, mailbox, &cell, &hold);
    if (status == AF_CLOSED)
      break;
    if (status == AF_OK) {
      execute(world, &client, cell, hold, turn++ % 16 == 0 ? 3000 : 8);
      af_mailbox_task_done(&client);
    } else
      af_mailbox_wait(&client, mailbox, turn % 2 * 5000, AF_SLEEP_MS * 1000000ull);
  }
  af_mailbox_leave(&client, mailbox);
  client_detach(&client);
  _exit(0);
}

/* ---- the caller ---- */

struct round { struct made first, second; uint32_t kind; };
struct caller {
  struct world *world;
  struct af_client client;
  af_off actor_lane, queue_lane, following_lane; /* the last one to the actor too: what holds it back holds back itself */
  struct round rounds[RING];
  uint64_t ended_ns; /* when a round ended last */
};

/* Kinds: a call to the actor; one to the queue; one to the queue and one that follows its second result there; the same
 * with the follower in a lane of the actor's. */
static inline void round_send(struct caller *caller, uint32_t at, uint32_t kind) {
  struct round *round = &caller->rounds[at];
  struct common *common = caller->world->common;
  atomic_store(&common->executed[2 * at], 0);
  atomic_store(&common->executed[2 * at + 1], 0);
  round->kind = kind;
  af_off lane = kind == 0 ? caller->actor_lane : caller->queue_lane;
  CHECK_OK(make_and_send(&caller->client, lane, 2 * at, 0, kind >= 2, &round->first));
  if (kind >= 2) {
    lane = kind == 2 ? caller->queue_lane : caller->following_lane;
    CHECK_OK(make_and_send(&caller->client, lane, 2 * at + 1, round->first.result, false, &round->second));
  }
}

static inline bool round_done(struct caller *caller, const struct round *round) {
  return af_cell_is_done(&caller->client, round->first.call) &&
         (round->first.result == 0 || af_cell_is_done(&caller->client, round->first.result)) &&
         (round->second.call == 0 || af_cell_is_done(&caller->client, round->second.call));
}

static inline void answer_check(struct caller *caller, af_off call, af_off cell, uint64_t number, uint64_t wanted,
                                bool may_fail) {
  uint32_t executed = atomic_load(&caller->world->common->executed[number]);
  uint32_t most = cell_of(&caller->client, call)->attempt + 1;
  const struct af_cell *of = cell_of(&caller->client, cell);
  if (of->value_format == ERROR_FORMAT) {
    CHECK(may_fail && of->value == caller->world->error && executed <= 1 && !is_retriable(number),
          "call %lu failed, executed %u times", number, executed);
    return;
  }
  CHECK(executed >= 1 && executed <= most && call_result(&caller->client, cell) == wanted, "call %lu executed %u times, result %lu", number,
        executed, call_result(&caller->client, cell));
}

static inline void round_end(struct caller *caller, uint32_t at) {
  struct round *round = &caller->rounds[at];
  struct common *common = caller->world->common;
  answer_check(caller, round->first.call, round->first.call, 2 * at, 2 * at + 1, round->kind != 0);
  if (round->first.result != 0)
    answer_check(caller, round->first.call, round->first.result, 2 * at, 2 * at + 2, true);
  if (round->second.call != 0)
    answer_check(caller, round->second.call, round->second.call, 2 * at + 1, 2 * at + 2, round->kind == 2);
  atomic_fetch_add(round->kind == 0 ? &common->actor_rounds : &common->queue_rounds, 1);
  made_drop(&caller->client, &round->first);
  made_drop(&caller->client, &round->second);
}

/* Goes over what is in flight; what is done is checked and sent anew (unless `last`). Returns how many ended. */
static inline uint32_t rounds_look(struct caller *caller, bool last, uint32_t *in_flight) {
  uint32_t ended = 0;
  *in_flight = 0;
  for (uint32_t at = 0; at < RING; at++) {
    if (caller->rounds[at].first.call != 0 && round_done(caller, &caller->rounds[at])) {
      round_end(caller, at);
      ended++;
    }
    if (caller->rounds[at].first.call == 0 && !last)
      round_send(caller, at, at % 4);
    *in_flight += caller->rounds[at].first.call != 0;
  }
  return ended;
}

/* By the first place, by one of its own on the list, and by one that is used once. */
static inline void watch_thrice(struct af_client *client, af_off cell, af_watch watch) {
  struct af_watcher own = {0};
  for (uint32_t i = 0; i < 3; i++)
    af_cell_watch(client, cell, watch + i, &own);
  if (own.follower != 0)
    af_hold_drop(client, own.hold);
}

/* Sleeps a moment on one that is in flight, one way or the other. */
static inline void caller_pause(struct caller *caller, uint8_t board, uint32_t turn) {
  struct af_client *client = &caller->client;
  uint32_t token;
  af_off cell = caller->rounds[turn % RING].first.call;
  if (cell == 0)
    return;
  if (turn % 2 == 0) {
    af_cell_sleep(client, cell, 1000000);
  } else if (af_cell_watch(client, cell, af_watch_make(client->slot_index, client->epoch, board, turn % RING), NULL) == AF_OK) {
    af_board_wait(client, board, 0, 1000000);
    af_cell_unwatch(client, cell, af_watch_make(client->slot_index, client->epoch, board, turn % RING), NULL);
  }
  while (af_board_take(client, board, &token, 1, false) > 0)
    ;
}

static inline void caller_run(struct world *world) {
  struct caller *caller = calloc(1, sizeof *caller);
  uint32_t in_flight = 0, turn = 0;
  af_off board;
  uint8_t index;
  caller->world = world;
  client_attach(&world->node, &caller->client);
  CHECK_OK(af_board_create(&caller->client, &index, &board));
  CHECK_OK(af_lane_open(&caller->client, world->actor, 1, &caller->actor_lane));
  CHECK_OK(af_lane_open(&caller->client, world->queue, 1, &caller->queue_lane));
  CHECK_OK(af_lane_open(&caller->client, world->actor, 1, &caller->following_lane));
  caller->ended_ns = af_now_ns();
  for (bool last = false; !last || in_flight > 0; turn++) {
    last = atomic_load(&world->common->stop);
    if (rounds_look(caller, last, &in_flight) > 0) {
      caller->ended_ns = af_now_ns();
      continue;
    }
    CHECK(af_now_ns() - caller->ended_ns < DEADLINE_NS, "a call was lost: %u rounds in flight", in_flight);
    caller_pause(caller, index, turn);
  }
  af_lane_close(&caller->client, caller->actor_lane);
  af_lane_close(&caller->client, caller->queue_lane);
  af_lane_close(&caller->client, caller->following_lane);
  client_detach(&caller->client);
  _exit(0);
}

/* ---- making and ending ---- */

static inline void world_make(struct world *world, struct common *common) {
  memset(world, 0, sizeof *world);
  memset(common, 0, sizeof *common);
  world->common = common;
  segment_make(&world->node, 64 * MIB, 16 * MIB, 4 * MIB);
  world->node.header->lineage_limit = 32 * MIB;
  CHECK_OK(af_mailbox_create(&world->node, AF_MAILBOX_ORDERED, 0, 1000, &world->actor));
  CHECK_OK(af_hold_record(&world->node, world->actor, &world->actor_hold));
  CHECK_OK(af_mailbox_create(&world->node, AF_MAILBOX_SHARED, 0, 1000, &world->queue));
  CHECK_OK(af_hold_record(&world->node, world->queue, &world->queue_hold));
  af_mailbox_allow(&world->node, world->queue, 2);
  world->error = error_make(&world->node, &world->error_hold);
  if ((world->actor_reader = child_fork()) == 0)
    reader_run(world, world->actor);
  if ((world->queue_reader = child_fork()) == 0)
    reader_run(world, world->queue);
  if ((world->caller = child_fork()) == 0)
    caller_run(world);
}

/* All that was sent is answered, and nothing is left of it. */
static inline void world_end(struct world *world) {
  struct af_mailbox_facts facts;
  atomic_store(&world->common->stop, 1);
  child_join(world->caller);
  af_mailbox_facts(&world->node, world->queue, &facts);
  CHECK(facts.active <= 1 && facts.readers == 1 && facts.blocked == 0, "active %u, readers %u, blocked %u",
        facts.active, facts.readers, facts.blocked);
  atomic_store(&world->common->actor_stop, 1);
  af_mailbox_ring(&world->node, world->actor);
  child_join(world->actor_reader);
  CHECK_OK(af_mailbox_close(&world->node, world->actor, world->error, ERROR_FORMAT));
  while (af_mailbox_close(&world->node, world->queue, world->error, ERROR_FORMAT) != AF_OK)
    ;
  child_join(world->queue_reader);
  af_hold_drop(&world->node, world->actor_hold);
  af_hold_drop(&world->node, world->queue_hold);
  af_hold_drop(&world->node, world->error_hold);
  audit_clean(&world->node, 0);
  af_segment_unmap(&world->node);
}
#endif
