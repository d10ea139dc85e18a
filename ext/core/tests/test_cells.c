/* test_cells.c - cells: every transition, results in and out of the cell, dependents, watchers, failing. */
#include "calls.h"

#include <sched.h>

static af_off expected_make(struct af_client *client, uint32_t *hold) {
  af_off cell;
  CHECK_OK(af_cell_expected_create(client, CALL_RESERVE, &cell));
  CHECK_OK(af_hold_record(client, cell, hold));
  return cell;
}

/* Completes an expected cell with a number. */
static void expected_fill(struct af_client *client, af_off cell, uint64_t number) {
  af_off block;
  uint8_t *where;
  CHECK_OK(af_cell_result_begin(client, cell, 0, sizeof number, &block, &where));
  memcpy(where, &number, sizeof number);
  CHECK_OK(af_cell_complete(client, cell, block, 0, sizeof number, 1));
}

static void test_transitions(void) {
  struct fixture fixture;
  fixture_make(&fixture, AF_MAILBOX_ORDERED);
  struct af_client *node = &fixture.node, other;
  af_off cell, taken;
  uint32_t hold, taken_hold;
  client_attach(node, &other);
  CHECK_OK(call_make(node, fixture.mailbox, 7, NULL, 0, &cell, &hold));
  CHECK(cell_of(node, cell)->caller == 0 && cell_of(node, cell)->number == 0, "named by its caller");
  CHECK_OK(af_cell_submit(node, fixture.lane, cell));
  CHECK(af_cell_phase(node, cell) == AF_UNREAD, "unread");
  CHECK_OK(af_mailbox_take(&other, fixture.mailbox, &taken, &taken_hold));
  CHECK(taken == cell && af_cell_phase(node, cell) == AF_STARTED, "started");
  CHECK(af_cell_start(node, cell) == AF_BUSY, "once");
  CHECK(af_cell_fail(node, cell, 0, fixture.error, 9) == AF_BUSY, "a started call is not cancelled");
  CHECK(af_cell_complete(node, cell, 0, 0, 0, 1) == AF_FENCED, "not by another");
  CHECK(af_cell_sleep(node, cell, 1000) == AF_TIMEOUT, "not done");
  CHECK_OK(call_answer(&other, taken, taken_hold, 8));
  CHECK(af_cell_is_done(node, cell) && call_result(node, cell) == 8, "done");
  CHECK(af_cell_complete(&other, cell, 0, 0, 0, 1) == AF_FENCED, "once");
  CHECK(af_cell_fail(node, cell, 0, fixture.error, 9) == AF_BUSY, "a result never changes");
  CHECK(call_result(node, cell) == 8, "a result never changes");
  CHECK_OK(af_cell_sleep(node, cell, 1000));
  af_hold_drop(node, hold);
  client_detach(&other);
  fixture_end(&fixture);
}

/* The state was taken from a process that goes on: its answer is dropped. */
static void test_fenced(void) {
  struct fixture fixture;
  fixture_make(&fixture, AF_MAILBOX_ORDERED);
  struct af_client *node = &fixture.node;
  af_off cell, taken;
  uint32_t hold, taken_hold;
  CHECK_OK(call_send(node, fixture.lane, 7, &cell, &hold));
  CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
  uint64_t started = cell_of(node, cell)->state;
  CHECK(af_cell_fail(node, cell, started + (1ull << 32), fixture.error, 9) == AF_BUSY, "another epoch");
  CHECK_OK(af_cell_fail(node, cell, started, fixture.error, 9));
  af_off late = bytes_make(node, 500);
  CHECK(af_cell_complete(node, taken, late, 0, 8, 1) == AF_FENCED, "too late");
  CHECK(cell_of(node, cell)->value == fixture.error && cell_of(node, cell)->value_bytes == 8, "the error stays");
  af_hold_drop(node, taken_hold);
  af_hold_drop(node, hold);
  fixture_end(&fixture);
}

/* Small results lie in the cell, large ones beside it; references in them live as long as the cell. */
static void test_results(void) {
  struct fixture fixture;
  fixture_make(&fixture, AF_MAILBOX_ORDERED);
  struct af_client *node = &fixture.node;
  const uint32_t sizes[] = {0, 1, 40, 64, 65, 500, 5000, 100000};
  for (uint32_t s = 0; s < 8; s++) {
    for (uint32_t references = 0; references < 3; references++) {
      af_off cell, taken, block, inner;
      uint32_t hold, taken_hold;
      uint8_t *where;
      CHECK_OK(call_send(node, fixture.lane, 7, &cell, &hold));
      CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
      inner = bytes_make(node, 100);
      CHECK_OK(af_cell_result_begin(node, taken, references, sizes[s], &block, &where));
      bool fits = references * sizeof(af_off) + sizes[s] <= cell_of(node, cell)->block.capacity - sizeof(struct af_cell);
      CHECK(fits == (block == 0), "%u bytes", sizes[s]);
      for (uint32_t i = 0; i < references; i++) {
        af_block_hold(node, inner);
        ((af_off *)(void *)where)[i] = inner;
      }
      memset(where + references * sizeof(af_off), 'x', sizes[s]);
      CHECK_OK(af_cell_complete(node, taken, block, references, sizes[s], 1));
      af_hold_drop(node, taken_hold);
      CHECK(block_at(node, inner)->count == 1 + references, "held by the result");
      af_hold_drop(node, hold);
      CHECK(block_at(node, inner)->count == 1, "let go with the result");
      af_block_drop(node, inner);
    }
  }
  fixture_end(&fixture);
}

/* Arguments are let go when the call is done, whether its result lies in the cell or not. */
static void test_arguments_dropped(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  for (uint32_t bytes = 8; bytes <= 80000; bytes *= 100) {
    af_off argument, cell, taken, block;
    uint32_t argument_hold, hold, taken_hold;
    uint8_t *where;
    argument = expected_make(node, &argument_hold);
    expected_fill(node, argument, 1);
    CHECK_OK(call_make(node, fixture.mailbox, 7, &argument, 1, &cell, &hold));
    CHECK(block_at(node, argument)->count == 2, "held by the call");
    CHECK_OK(af_cell_submit(node, fixture.lane, cell));
    CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
    CHECK_OK(af_cell_result_begin(node, taken, 0, bytes, &block, &where));
    CHECK_OK(af_cell_complete(node, taken, block, 0, bytes, 1));
    CHECK(block_at(node, argument)->count == 1, "let go");
    af_hold_drop(node, taken_hold);
    af_hold_drop(node, hold);
    af_hold_drop(node, argument_hold);
  }
  fixture_end(&fixture);
}

static void test_values(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off cell, inner = bytes_make(node, 100);
  uint32_t hold;
  uint64_t number = 5;
  CHECK_OK(af_cell_value_create(node, 1, sizeof number, &cell));
  CHECK_OK(af_hold_record(node, cell, &hold));
  *af_cell_references(node, cell) = inner;
  memcpy(af_cell_references(node, cell) + 1, &number, sizeof number);
  CHECK(af_cell_is_done(node, cell), "from the start");
  CHECK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, 0, 1), NULL) == AF_EMPTY, "nothing to wait for");
  CHECK_OK(af_cell_sleep(node, cell, NEVER_NS));
  af_hold_drop(node, hold);
  CHECK(af_cell_create(node, 0, AF_LARGE_MAX, 0, &cell) == AF_TOO_LARGE, "too large");
  CHECK(af_cell_create(node, 0, (1ull << 32) + 8, 0, &cell) == AF_TOO_LARGE, "much too large");
  CHECK(af_cell_create(node, 0, 8, (1ull << 32) + 8, &cell) == AF_TOO_LARGE, "much too large");
  fixture_end(&fixture);
}

/* ---- dependents ---- */

/* Takes and answers all that can start now; returns how many. Each result is the number of the call. */
static uint32_t serve_all(struct af_client *client, af_off mailbox) {
  af_off cell;
  uint32_t hold, served = 0;
  for (; af_mailbox_take(client, mailbox, &cell, &hold) == AF_OK; served++) {
    const struct af_cell *of = cell_of(client, cell);
    for (uint32_t i = 0; i < of->arguments; i++)
      CHECK(af_cell_is_done(client, af_cell_references(client, cell)[i]), "its arguments are ready");
    CHECK_OK(call_answer(client, cell, hold, call_number(client, cell)));
  }
  return served;
}

/* root <- many <- last, and the root twice as an argument. */
static void diamond(struct fixture *fixture, uint32_t width) {
  struct af_client *node = &fixture->node;
  af_off root, last, *middle = calloc(width, sizeof *middle);
  uint32_t root_hold, last_hold, *holds = calloc(width, sizeof *holds);
  root = expected_make(node, &root_hold);
  for (uint32_t i = 0; i < width; i++) {
    af_off arguments[2] = {root, root};
    CHECK_OK(call_make(node, fixture->mailbox, i, arguments, 2, &middle[i], &holds[i]));
    CHECK_OK(af_cell_submit(node, fixture->lane, middle[i]));
  }
  CHECK_OK(call_make(node, fixture->mailbox, width, middle, width, &last, &last_hold));
  CHECK_OK(af_cell_submit(node, fixture->lane, last));
  CHECK(serve_all(node, fixture->mailbox) == 0, "nothing is ready");
  expected_fill(node, root, 1);
  CHECK(serve_all(node, fixture->mailbox) == width + 1, "everything is ready, one after another");
  CHECK(call_result(node, last) == width, "done");
  for (uint32_t i = 0; i < width; i++)
    af_hold_drop(node, holds[i]);
  af_hold_drop(node, last_hold);
  af_hold_drop(node, root_hold);
  free(middle);
  free(holds);
}

static void chain(struct fixture *fixture, uint32_t length) {
  struct af_client *node = &fixture->node;
  uint32_t hold, before_hold;
  af_off root = expected_make(node, &before_hold), before = root, cell;
  uint32_t root_hold;
  CHECK_OK(af_hold_take(node, root, &root_hold));
  for (uint32_t i = 0; i < length; i++) {
    CHECK_OK(call_make(node, fixture->mailbox, i, &before, 1, &cell, &hold));
    CHECK_OK(af_cell_submit(node, fixture->lane, cell));
    af_hold_drop(node, before_hold);
    before = cell;
    before_hold = hold;
  }
  expected_fill(node, root, 1);
  CHECK(serve_all(node, fixture->mailbox) == length, "the whole chain");
  af_hold_drop(node, before_hold);
  af_hold_drop(node, root_hold);
}

static void test_dependents(void) {
  const uint8_t flags[] = {0, AF_MAILBOX_ORDERED};
  for (int i = 0; i < 2; i++) {
    struct fixture fixture;
    fixture_make(&fixture, flags[i]);
    diamond(&fixture, 1);
    diamond(&fixture, 100);
    chain(&fixture, 10000);
    fixture_end(&fixture);
  }
}

/* Ready calls are read in the order in which they became ready. */
static void test_ready_order(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off arguments[20], cell;
  uint32_t holds[20], hold;
  for (uint32_t i = 0; i < 20; i++) {
    arguments[i] = expected_make(node, &holds[i]);
    CHECK_OK(call_make(node, fixture.mailbox, i, &arguments[i], 1, &cell, &hold));
    CHECK_OK(af_cell_submit(node, fixture.lane, cell));
    af_hold_drop(node, hold);
  }
  for (uint32_t i = 0; i < 20; i++)
    expected_fill(node, arguments[(i * 7) % 20], i);
  for (uint32_t i = 0; i < 20; i++) {
    CHECK_OK(af_mailbox_take(node, fixture.mailbox, &cell, &hold));
    CHECK(call_number(node, cell) == (i * 7) % 20, "place %u", i);
    CHECK_OK(call_answer(node, cell, hold, 0));
    af_hold_drop(node, holds[i]);
  }
  fixture_end(&fixture);
}

/* A chain that leads through a closed mailbox fails to its end, without recursion. */
static void test_closed_chain(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  uint32_t hold, before_hold, root_hold, length = 20000;
  af_off root = expected_make(node, &root_hold), before = root, cell;
  CHECK_OK(af_hold_take(node, root, &before_hold));
  for (uint32_t i = 0; i < length; i++) {
    CHECK_OK(call_make(node, fixture.mailbox, i, &before, 1, &cell, &hold));
    CHECK_OK(af_cell_submit(node, fixture.lane, cell));
    af_hold_drop(node, before_hold);
    before = cell;
    before_hold = hold;
  }
  CHECK_OK(af_mailbox_close(node, fixture.mailbox, fixture.error, 9));
  CHECK(!af_cell_is_done(node, before), "waits");
  expected_fill(node, root, 1);
  CHECK(af_cell_is_done(node, before) && cell_of(node, before)->value == fixture.error, "the last one too");
  af_hold_drop(node, before_hold);
  af_hold_drop(node, root_hold);
  fixture_end(&fixture);
}

/* The results 2..n of a call that fails fail with it, and what follows them is ready. */
static void test_returns_fail(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off results[3], call, follower;
  uint32_t holds[3], hold, follower_hold;
  CHECK_OK(af_cell_create(node, 3, 8, CALL_RESERVE, &call));
  CHECK_OK(af_hold_record(node, call, &hold));
  for (uint32_t i = 0; i < 3; i++) {
    results[i] = expected_make(node, &holds[i]);
    af_block_hold(node, results[i]);
    af_cell_references(node, call)[i] = results[i];
  }
  cell_of(node, call)->returns = 3;
  CHECK_OK(af_cell_submit(node, fixture.lane, call));
  CHECK_OK(call_make(node, fixture.mailbox, 1, &results[2], 1, &follower, &follower_hold));
  CHECK_OK(af_cell_submit(node, fixture.lane, follower));
  expected_fill(node, results[1], 4);
  CHECK_OK(af_cell_fail(node, call, 0, fixture.error, 9));
  CHECK(cell_of(node, results[0])->value == fixture.error, "failed");
  CHECK(call_result(node, results[1]) == 4, "was there already");
  CHECK(cell_of(node, results[2])->value == fixture.error, "failed");
  CHECK(serve_all(node, fixture.mailbox) == 1, "the cancelled call is skipped, its follower is ready");
  for (uint32_t i = 0; i < 3; i++)
    af_hold_drop(node, holds[i]);
  af_hold_drop(node, hold);
  af_hold_drop(node, follower_hold);
  fixture_end(&fixture);
}

/* While results 2..n are missing the first one does not take the place of the references to them. */
static void test_returns_kept(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off result, call, block, taken;
  uint32_t result_hold, hold, taken_hold;
  uint8_t *where;
  CHECK_OK(af_cell_create(node, 1, 8, CALL_RESERVE, &call));
  CHECK_OK(af_hold_record(node, call, &hold));
  result = expected_make(node, &result_hold);
  af_block_hold(node, result);
  af_cell_references(node, call)[0] = result;
  cell_of(node, call)->returns = 1;
  CHECK_OK(af_cell_submit(node, fixture.lane, call));
  CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
  CHECK_OK(af_cell_result_begin(node, taken, 0, 8, &block, &where));
  CHECK(block != 0, "beside the cell");
  af_block_drop(node, block);
  CHECK_OK(af_cell_fail(node, taken, cell_of(node, taken)->state, fixture.error, 9));
  CHECK(cell_of(node, result)->value == fixture.error, "found through the call");
  af_hold_drop(node, taken_hold);
  af_hold_drop(node, hold);
  af_hold_drop(node, result_hold);
  fixture_end(&fixture);
}

/* ---- watchers ---- */

static void test_watchers(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off board, cell;
  uint32_t hold, tokens[8];
  uint8_t index;
  CHECK_OK(af_board_create(node, &index, &board));
  cell = expected_make(node, &hold);
  for (uint32_t i = 0; i < 5; i++)
    CHECK_OK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, 100 + i), NULL));
  af_cell_unwatch(node, cell, af_watch_make(0, node->epoch, index, 100), NULL);
  CHECK_OK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, 200), NULL));
  expected_fill(node, cell, 1);
  CHECK(af_board_take(node, index, tokens, 8, false) == 5, "each once");
  for (uint32_t i = 0; i < 4; i++)
    CHECK(tokens[i] == 101 + i, "token %u", tokens[i]);
  CHECK(tokens[4] == 200, "the first place was free again");
  CHECK(af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, 1), NULL) == AF_EMPTY, "done");
  af_hold_drop(node, hold);
  fixture_end(&fixture);
}

/* ---- threads ---- */

/* A random graph: each call follows some earlier ones; several clients submit and serve at once. */
#define GRAPH_CALLS 3000u
struct graph {
  struct fixture fixture;
  _Atomic af_off cells[GRAPH_CALLS];
  _Atomic uint32_t made, served;
};
struct graph_member { struct graph *graph; uint64_t random; uint8_t flags; };

static void graph_add(struct graph *graph, struct af_client *client, af_off lane, uint64_t *random) {
  uint32_t at = atomic_fetch_add(&graph->made, 1), hold, count = 0, wanted = random_next(random) % 4;
  af_off arguments[4], cell;
  if (at >= GRAPH_CALLS)
    return;
  for (uint32_t i = 0; i < wanted && at > 0; i++) {
    af_off argument = atomic_load(&graph->cells[at - 1 - random_next(random) % (at < 20 ? at : 20)]);
    if (argument != 0)
      arguments[count++] = argument;
  }
  CHECK_OK(call_make(client, graph->fixture.mailbox, at, arguments, count, &cell, &hold));
  CHECK_OK(af_cell_submit(client, lane, cell));
  af_block_hold(client, cell); /* graph->cells holds it */
  atomic_store(&graph->cells[at], cell);
  af_hold_drop(client, hold);
}

static void *graph_work(void *argument) {
  struct graph_member *member = argument;
  struct graph *graph = member->graph;
  struct af_client client;
  af_off lane;
  client_share(&graph->fixture.node, &client);
  CHECK_OK(af_lane_open(&client, graph->fixture.mailbox, 0, &lane));
  if (member->flags & AF_MAILBOX_SHARED)
    af_mailbox_join(&client, graph->fixture.mailbox);
  while (atomic_load(&graph->served) < GRAPH_CALLS) {
    if (atomic_load(&graph->made) < GRAPH_CALLS)
      graph_add(graph, &client, lane, &member->random);
    atomic_fetch_add(&graph->served, serve_all(&client, graph->fixture.mailbox));
    af_mailbox_task_done(&client);
  }
  af_mailbox_leave(&client, graph->fixture.mailbox);
  af_lane_close(&client, lane);
  client_unshare(&client);
  return NULL;
}

static void test_graph(void) {
  for (uint32_t round = 0; round < ROUNDS(10) + 1; round++) {
    static const uint32_t members = 3;
    struct graph *graph = calloc(1, sizeof *graph);
    struct graph_member work[3];
    pthread_t threads[3];
    fixture_make(&graph->fixture, AF_MAILBOX_SHARED);
    af_mailbox_allow(&graph->fixture.node, graph->fixture.mailbox, members);
    for (uint32_t i = 0; i < members; i++) {
      work[i] = (struct graph_member){graph, round * 77 + i + 1, AF_MAILBOX_SHARED};
      pthread_create(&threads[i], NULL, graph_work, &work[i]);
    }
    for (uint32_t i = 0; i < members; i++)
      pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < GRAPH_CALLS; i++) {
      CHECK(af_cell_is_done(&graph->fixture.node, graph->cells[i]), "call %u was lost", i);
      CHECK(call_result(&graph->fixture.node, graph->cells[i]) == i, "its result");
      af_block_drop(&graph->fixture.node, graph->cells[i]);
    }
    fixture_end(&graph->fixture);
    free(graph);
  }
}

/* Watching, sleeping and completing at the same moment: no wake is lost. */
struct race { struct fixture fixture; _Atomic af_off cell; _Atomic uint32_t round; };

static void *race_complete(void *argument) {
  struct race *race = argument;
  struct af_client client;
  client_share(&race->fixture.node, &client);
  for (uint32_t round = 1; round <= ROUNDS(5000); round++) {
    while (atomic_load(&race->round) != round)
      sched_yield();
    af_off cell = atomic_load(&race->cell);
    expected_fill(&client, cell, round);
    af_block_drop(&client, cell); /* who completes holds it to the end */
  }
  client_unshare(&client);
  return NULL;
}

static void test_races(void) {
  struct race race = {0};
  struct af_client *node = &race.fixture.node;
  pthread_t thread;
  af_off board;
  uint32_t hold, token;
  uint8_t index;
  fixture_make(&race.fixture, 0);
  CHECK_OK(af_board_create(node, &index, &board));
  pthread_create(&thread, NULL, race_complete, &race);
  for (uint32_t round = 1; round <= ROUNDS(5000); round++) {
    af_off cell = expected_make(node, &hold);
    af_block_hold(node, cell);
    atomic_store(&race.cell, cell);
    atomic_store(&race.round, round);
    for (uint32_t i = 0; i < round % 64; i++)
      af_pause();
    if (round % 2) {
      result_wait(node, cell, 0);
    } else if (af_cell_watch(node, cell, af_watch_make(0, node->epoch, index, round), NULL) == AF_OK) {
      while (af_board_take(node, index, &token, 1, false) == 0 || token != round)
        af_board_wait(node, index, 0, NEVER_NS);
    }
    CHECK(af_cell_is_done(node, cell) && call_result(node, cell) == round, "whole");
    af_hold_drop(node, hold);
  }
  pthread_join(thread, NULL);
  fixture_end(&race.fixture);
}

int main(void) {
  RUN(test_transitions);
  RUN(test_fenced);
  RUN(test_results);
  RUN(test_arguments_dropped);
  RUN(test_values);
  RUN(test_dependents);
  RUN(test_ready_order);
  RUN(test_closed_chain);
  RUN(test_returns_fail);
  RUN(test_returns_kept);
  RUN(test_watchers);
  RUN(test_graph);
  RUN(test_races);
  return 0;
}
