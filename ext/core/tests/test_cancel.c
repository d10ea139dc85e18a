/* test_cancel.c - wishes that a call end, what becomes of what it referred to, and the calls made within a call. */
#include "calls.h"

#include "coroner.h"

#define FORMAT 9

static int cancel(struct fixture *fixture, af_off cell) {
  return af_cell_cancel(&fixture->node, cell, 0, fixture->error, FORMAT);
}

static bool is_cancelled(const struct fixture *fixture, af_off cell) {
  return af_cell_is_done(&fixture->node, cell) && cell_of(&fixture->node, cell)->value == fixture->error;
}

static void test_queued(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off cell;
  uint32_t hold;
  CHECK_OK(call_send(node, fixture.lane, 1, &cell, &hold));
  CHECK_OK(cancel(&fixture, cell));
  CHECK(is_cancelled(&fixture, cell), "settled");
  CHECK(cancel(&fixture, cell) == AF_EMPTY, "once");
  nothing_to_take(node, fixture.mailbox);
  af_hold_drop(node, hold);
  fixture_end(&fixture);
}

/* What it waited for may come later: nothing follows it any more. */
static void test_waiting(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off argument, cell, taken;
  uint32_t argument_hold, hold, taken_hold;
  CHECK_OK(call_send(node, fixture.lane, 1, &argument, &argument_hold));
  CHECK_OK(call_make(node, fixture.mailbox, 2, &argument, 1, &cell, &hold));
  CHECK_OK(af_cell_submit(node, fixture.lane, cell));
  CHECK_OK(cancel(&fixture, cell));
  CHECK(is_cancelled(&fixture, cell), "settled");
  CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
  CHECK_OK(call_answer(node, taken, taken_hold, 5));
  nothing_to_take(node, fixture.mailbox);
  af_hold_drop(node, hold);
  af_hold_drop(node, argument_hold);
  fixture_end(&fixture);
}

/* Who runs it sees the wish, and may answer all the same; the next call of that process bears none. */
static void test_started(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off cells[2], taken;
  uint32_t holds[2], taken_hold;
  for (uint32_t i = 0; i < 2; i++)
    CHECK_OK(call_send(node, fixture.lane, i, &cells[i], &holds[i]));
  CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
  CHECK(af_cell_wish(node, taken) == 0, "none yet");
  CHECK(cancel(&fixture, cells[0]) == AF_BUSY, "it runs");
  CHECK(af_cell_wish(node, taken) == AF_CANCEL_ASKED, "seen");
  CHECK(af_cell_cancel(node, cells[0], AF_CANCEL_CHILDREN, fixture.error, FORMAT) == AF_BUSY, "it runs");
  CHECK(af_cell_wish(node, taken) == (AF_CANCEL_ASKED | AF_CANCEL_CHILDREN), "wishes add up");
  CHECK_OK(call_answer(node, taken, taken_hold, 8));
  CHECK(call_result(node, cells[0]) == 8, "its answer counts");
  CHECK(cancel(&fixture, cells[0]) == AF_EMPTY, "done");
  CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
  CHECK(af_cell_wish(node, taken) == 0, "not meant for this one");
  CHECK_OK(call_answer(node, taken, taken_hold, 9));
  for (uint32_t i = 0; i < 2; i++)
    af_hold_drop(node, holds[i]);
  fixture_end(&fixture);
}

static void test_through_a_return_cell(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off call, result;
  uint32_t hold, result_hold;
  CHECK_OK(af_cell_expected_create(node, CALL_RESERVE, &result));
  CHECK_OK(af_hold_record(node, result, &result_hold));
  CHECK_OK(call_make(node, fixture.mailbox, 1, &result, 1, &call, &hold));
  cell_of(node, call)->arguments = 0;
  af_cell_references(node, call)[0] = fixture.mailbox;
  af_cell_references(node, call)[1] = result;
  cell_of(node, call)->returns = 1;
  cell_of(node, result)->parent = call;
  cell_of(node, result)->parent_generation = af_block_generation(node, call);
  CHECK(af_cell_call(node, result) == call && af_cell_call(node, call) == call, "found");
  CHECK_OK(af_cell_submit(node, fixture.lane, call));
  CHECK_OK(cancel(&fixture, result));
  CHECK(is_cancelled(&fixture, call) && is_cancelled(&fixture, result), "both");
  CHECK(af_cell_call(node, result) == result, "done: its own");
  nothing_to_take(node, fixture.mailbox);
  af_hold_drop(node, hold);
  af_hold_drop(node, result_hold);
  fixture_end(&fixture);
}

/* ---- children ---- */

static void count_and_cancel(void *context, struct af_client *client, af_off cell) {
  struct fixture *fixture = context;
  CHECK_OK(af_cell_cancel(client, cell, 0, fixture->error, FORMAT));
  fixture->mailbox_hold += 1u << 16; /* counted where the test looks */
}

static void send_child(struct fixture *fixture, af_off parent, uint32_t generation, bool keep, af_off *cell,
                       uint32_t *hold) {
  CHECK_OK(call_make(&fixture->node, fixture->mailbox, 3, NULL, 0, cell, hold));
  cell_of(&fixture->node, *cell)->parent = parent;
  cell_of(&fixture->node, *cell)->parent_generation = generation;
  CHECK_OK(af_cell_submit(&fixture->node, fixture->lane, *cell));
  if (!keep)
    af_hold_drop(&fixture->node, *hold);
}

/* Those that nobody refers to any more as well; not those of an earlier call at the same place, nor what is done. */
static void test_children(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off parent, taken, cells[4];
  uint32_t hold, taken_hold, holds[4];
  CHECK_OK(call_send(node, fixture.lane, 1, &parent, &hold));
  CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
  uint32_t generation = af_block_generation(node, parent);
  send_child(&fixture, parent, generation, true, &cells[0], &holds[0]);
  send_child(&fixture, parent, generation, false, &cells[1], &holds[1]);
  send_child(&fixture, parent, generation - 1, true, &cells[2], &holds[2]);
  send_child(&fixture, parent, generation, true, &cells[3], &holds[3]);
  CHECK_OK(cancel(&fixture, cells[3]));
  af_cell_each_child(node, parent, generation, count_and_cancel, &fixture);
  CHECK(fixture.mailbox_hold >> 16 == 2, "visited %u", fixture.mailbox_hold >> 16);
  fixture.mailbox_hold &= 0xffff;
  CHECK(is_cancelled(&fixture, cells[0]) && !af_cell_is_done(node, cells[2]), "of this call alone");
  CHECK_OK(call_answer(node, taken, taken_hold, 1));
  CHECK_OK(af_mailbox_take(node, fixture.mailbox, &taken, &taken_hold));
  CHECK(taken == cells[2], "the other one runs");
  CHECK_OK(call_answer(node, taken, taken_hold, 1));
  nothing_to_take(node, fixture.mailbox);
  af_hold_drop(node, holds[0]);
  af_hold_drop(node, holds[2]);
  af_hold_drop(node, holds[3]);
  af_hold_drop(node, hold);
  fixture_end(&fixture);
}

/* It is its maker's alone until it is sent, and again if that failed: nobody else may take away what it refers to. */
static void test_children_unsent(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off parent, cell, full;
  uint32_t hold, cell_hold;
  mailbox_of(node, fixture.mailbox)->credit = 0;
  CHECK_OK(af_lane_open(node, fixture.mailbox, 0, &full));
  CHECK_OK(call_send(node, fixture.lane, 1, &parent, &hold));
  CHECK_OK(call_make(node, fixture.mailbox, 3, &fixture.error, 1, &cell, &cell_hold));
  cell_of(node, cell)->arguments = 0;
  cell_of(node, cell)->parent = parent;
  cell_of(node, cell)->parent_generation = af_block_generation(node, parent);
  for (int tried = 0; tried < 2; tried++) {
    af_cell_each_child(node, parent, af_block_generation(node, parent), count_and_cancel, &fixture);
    CHECK(fixture.mailbox_hold >> 16 == 0 && cell_of(node, cell)->references == 2, "not visited");
    if (tried == 0)
      CHECK(af_cell_submit(node, full, cell) == AF_FULL, "no credit");
  }
  CHECK_OK(af_cell_submit(node, fixture.lane, cell));
  af_cell_each_child(node, parent, af_block_generation(node, parent), count_and_cancel, &fixture);
  CHECK(fixture.mailbox_hold >> 16 == 1 && is_cancelled(&fixture, cell), "sent");
  fixture.mailbox_hold &= 0xffff;
  af_hold_drop(node, cell_hold);
  CHECK_OK(cancel(&fixture, parent));
  af_hold_drop(node, hold);
  nothing_to_take(node, fixture.mailbox);
  fixture_end(&fixture);
}

/* ---- what it referred to ---- */

/* Of the cell with that hold nothing else refers to the argument: it is free once its own hold is dropped. */
static void check_let_go(struct fixture *fixture, af_off cell, af_off argument, uint32_t hold) {
  struct af_client *node = &fixture->node;
  CHECK(af_cell_is_done(node, cell) && cell_of(node, cell)->references == 0, "%u references are left",
        cell_of(node, cell)->references);
  CHECK(block_at(node, argument)->count == 1, "counted %u times", block_at(node, argument)->count);
  af_hold_drop(node, hold);
}

/* Wherever it is, and whoever settles it: its reference is kept, and nothing that it referred to. */
static void test_let_go(void) {
  enum { SENT, WAITS, MOVED, CLOSED, WAYS };
  for (uint32_t way = 0; way < WAYS; way++)
    for (uint32_t more = 0; more < 4; more++) {
      struct fixture fixture;
      fixture_make(&fixture, more % 2 ? AF_MAILBOX_ORDERED : 0);
      struct af_client *node = &fixture.node;
      af_off argument, cell, result;
      uint32_t argument_hold, hold, result_hold;
      CHECK_OK(af_cell_expected_create(node, CALL_RESERVE, &result));
      CHECK_OK(af_hold_record(node, result, &result_hold));
      CHECK_OK(af_cell_expected_create(node, CALL_RESERVE, &argument));
      CHECK_OK(af_hold_record(node, argument, &argument_hold));
      af_off given[] = {argument, result};
      CHECK_OK(call_make(node, fixture.mailbox, 1, given, 2, &cell, &hold));
      af_cell_references(node, cell)[1] = fixture.mailbox;
      af_cell_references(node, cell)[2] = result;
      cell_of(node, cell)->arguments = cell_of(node, cell)->returns = 1;
      af_cell_allow_retries(node, cell, more < 2 ? 0 : -1);
      if (way == SENT)
        CHECK_OK(af_cell_complete(node, argument, 0, 0, 0, 1));
      CHECK_OK(af_cell_submit(node, fixture.lane, cell));
      if (way == MOVED)
        CHECK_OK(af_cell_complete(node, argument, 0, 0, 0, 1));
      if (way == CLOSED)
        CHECK_OK(af_mailbox_close(node, fixture.mailbox, fixture.error, FORMAT));
      else
        CHECK_OK(cancel(&fixture, cell));
      if (way == WAITS) /* though it is still on the argument's list */
        CHECK(block_at(node, argument)->count == 1 && cell_of(node, cell)->references == 0, "let go");
      if (!af_cell_is_done(node, argument))
        CHECK_OK(af_cell_complete(node, argument, 0, 0, 0, 1));
      CHECK(is_cancelled(&fixture, result) && block_at(node, result)->count == 1, "the further result as well");
      check_let_go(&fixture, cell, argument, argument_hold);
      if (way != CLOSED)
        nothing_to_take(node, fixture.mailbox);
      af_hold_drop(node, hold);
      af_hold_drop(node, result_hold);
      fixture_end(&fixture);
    }
}

/* An argument that nobody else refers to is free at once, though the call stands on its list. */
static void test_let_go_of_the_last(void) {
  struct fixture fixture;
  fixture_make(&fixture, 0);
  struct af_client *node = &fixture.node;
  af_off argument, cell;
  uint32_t argument_hold, hold;
  CHECK_OK(af_cell_expected_create(node, CALL_RESERVE, &argument));
  CHECK_OK(af_hold_record(node, argument, &argument_hold));
  CHECK_OK(call_make(node, fixture.mailbox, 1, &argument, 1, &cell, &hold));
  CHECK_OK(af_cell_submit(node, fixture.lane, cell));
  af_hold_drop(node, argument_hold);
  CHECK(af_block_is_live(node, argument) && block_at(node, cell)->count == 2, "they hold each other");
  CHECK_OK(cancel(&fixture, cell));
  CHECK(!af_block_is_live(node, argument) && block_at(node, cell)->count == 1, "both let go");
  af_hold_drop(node, hold);
  fixture_end(&fixture);
}

/* ---- the same while another moves it ---- */

enum after { GOES_ON, DIES, DIES_DROPPING };

static struct af_client stopped;

static void die_dropping(int signal) {
  (void)signal;
  stopped.point = 732;
  stopped.point_signal = SIGKILL;
}

/* A process that completes the argument, or sends the cell, and is stopped at the point. */
static pid_t stopped_at(struct fixture *fixture, uint32_t slot, uint32_t epoch, int point, af_off argument, af_off cell,
                        enum after after) {
  pid_t pid = child_fork();
  if (pid != 0)
    return pid;
  CHECK_OK(af_segment_map(&stopped, dup(fixture->node.memfd)));
  CHECK_OK(af_slot_claim(&stopped, slot, epoch));
  stopped.point = point;
  stopped.point_signal = SIGSTOP;
  if (after == DIES_DROPPING)
    signal(SIGCONT, die_dropping);
  if (cell == 0)
    CHECK_OK(af_cell_complete(&stopped, argument, 0, 0, 0, 1));
  else {
    af_off lane;
    uint32_t hold;
    CHECK_OK(af_hold_take(&stopped, cell, &hold));
    CHECK_OK(af_lane_open(&stopped, fixture->mailbox, 0, &lane));
    CHECK_OK(af_cell_submit(&stopped, lane, cell));
    af_lane_close(&stopped, lane);
  }
  client_detach(&stopped);
  _exit(0);
}

/* Another completes the first argument, and so moves the call, or is about to send it, and stands still in the midst of
 * that when the call is cancelled. Nothing but the call refers to its second argument. */
static void cancel_in_the_midst(int point, uint8_t flags, bool sends, enum after after) {
  struct fixture fixture;
  struct af_settlement settlement;
  struct af_audit audit;
  fixture_make(&fixture, flags);
  struct af_client *node = &fixture.node;
  af_off argument, cell, second;
  uint32_t argument_hold, hold, slot, epoch, second_hold;
  int status;
  CHECK_OK(af_cell_expected_create(node, CALL_RESERVE, &second));
  CHECK_OK(af_hold_record(node, second, &second_hold));
  CHECK_OK(af_cell_expected_create(node, CALL_RESERVE, &argument));
  CHECK_OK(af_hold_record(node, argument, &argument_hold));
  af_off given[] = {argument, second};
  CHECK_OK(call_make(node, fixture.mailbox, 1, given, 2, &cell, &hold));
  if (point > 760) /* to its reader */
    CHECK_OK(af_cell_complete(node, second, 0, 0, 0, 1));
  af_hold_drop(node, second_hold);
  if (!sends)
    CHECK_OK(af_cell_submit(node, fixture.lane, cell));
  CHECK_OK(af_slot_reserve(node, AF_ROLE_WORKER, 0, &slot, &epoch));
  pid_t pid = stopped_at(&fixture, slot, epoch, point, argument, sends ? cell : 0, after);
  CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status), "point %d was not met", point);
  CHECK_OK(cancel(&fixture, cell));
  CHECK(is_cancelled(&fixture, cell), "settled");
  kill(pid, after == DIES ? SIGKILL : SIGCONT);
  CHECK(waitpid(pid, &status, 0) == pid && (after == GOES_ON ? WIFEXITED(status) && WEXITSTATUS(status) == 0
                                                             : WIFSIGNALED(status)),
        "point %d: it ended with %x", point, status);
  if (after != GOES_ON) {
    CHECK_OK(af_coroner_settle(node, slot, epoch, true, fixture.error, FORMAT, &settlement));
    CHECK(!settlement.recount_owed, "recounted");
  }
  if (!af_cell_is_done(node, argument))
    CHECK_OK(af_cell_complete(node, argument, 0, 0, 0, 1));
  nothing_to_take(node, fixture.mailbox);
  if (point == 758 && after == DIES) /* it cannot be told that it had pinned them */
    af_hold_drop(node, argument_hold);
  else
    check_let_go(&fixture, cell, argument, argument_hold);
  af_hold_drop(node, hold);
  CHECK_OK(af_audit_run(node, false, 10, &audit));
  fixture_end(&fixture);
}

static void test_let_go_in_the_midst(void) {
  static const int moves[] = {741, 742, 743, 744, 758, 759, 757, 760, 761, 763};
  static const int sends[] = {710, 758, 759, 757, 760, 750};
  cancel_in_the_midst(757, 0, false, DIES_DROPPING);
  cancel_in_the_midst(757, 0, true, DIES_DROPPING);
  for (enum after after = GOES_ON; after <= DIES; after++)
    for (uint8_t flags = 0; flags <= AF_MAILBOX_ORDERED; flags += AF_MAILBOX_ORDERED) {
      for (uint32_t i = 0; i < sizeof moves / sizeof *moves; i++)
        cancel_in_the_midst(moves[i], flags, false, after);
      for (uint32_t i = 0; i < sizeof sends / sizeof *sends; i++)
        cancel_in_the_midst(sends[i], flags, true, after);
      if (flags & AF_MAILBOX_ORDERED)
        for (int point = 612; point <= 614; point++)
          cancel_in_the_midst(point, flags, true, after);
    }
}

/* Threads, so that the thread sanitizer sees them: one completes what the calls follow, another cancels them. */
#define RACES 64u
struct race {
  struct fixture fixture;
  af_off arguments[RACES], cells[RACES];
  _Atomic uint32_t started;
};

static void *race_complete(void *context) {
  struct race *race = context;
  struct af_client client;
  client_share(&race->fixture.node, &client);
  atomic_fetch_add(&race->started, 1);
  while (atomic_load(&race->started) < 2)
    ;
  for (uint32_t i = 0; i < RACES; i++)
    CHECK_OK(af_cell_complete(&client, race->arguments[i], 0, 0, 0, 1));
  client_unshare(&client);
  return NULL;
}

static void race_run(uint8_t flags) {
  struct race race = {.started = 0};
  pthread_t thread;
  fixture_make(&race.fixture, flags);
  struct af_client *node = &race.fixture.node;
  uint32_t holds[RACES], argument_holds[RACES];
  for (uint32_t i = 0; i < RACES; i++) {
    CHECK_OK(af_cell_expected_create(node, CALL_RESERVE, &race.arguments[i]));
    CHECK_OK(af_hold_record(node, race.arguments[i], &argument_holds[i]));
    CHECK_OK(call_make(node, race.fixture.mailbox, i, &race.arguments[i], 1, &race.cells[i], &holds[i]));
    CHECK_OK(af_cell_submit(node, race.fixture.lane, race.cells[i]));
  }
  CHECK(pthread_create(&thread, NULL, race_complete, &race) == 0, "thread");
  atomic_fetch_add(&race.started, 1);
  while (atomic_load(&race.started) < 2)
    ;
  for (uint32_t i = 0; i < RACES; i++)
    CHECK_OK(cancel(&race.fixture, race.cells[i]));
  pthread_join(thread, NULL);
  nothing_to_take(node, race.fixture.mailbox);
  for (uint32_t i = 0; i < RACES; i++) {
    check_let_go(&race.fixture, race.cells[i], race.arguments[i], argument_holds[i]);
    af_hold_drop(node, holds[i]);
  }
  fixture_end(&race.fixture);
}

static void test_let_go_beside_a_completer(void) {
  for (uint32_t i = 0; i < ROUNDS(200); i++)
    race_run(i % 2 ? AF_MAILBOX_ORDERED : 0);
}

int main(void) {
  RUN(test_queued);
  RUN(test_waiting);
  RUN(test_started);
  RUN(test_through_a_return_cell);
  RUN(test_children);
  RUN(test_children_unsent);
  RUN(test_let_go);
  RUN(test_let_go_of_the_last);
  RUN(test_let_go_in_the_midst);
  RUN(test_let_go_beside_a_completer);
  return 0;
}
