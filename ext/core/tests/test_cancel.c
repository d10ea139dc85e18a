/* test_cancel.c - wishes that a call end, and the calls made within a call. */
#include "calls.h"

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

int main(void) {
  RUN(test_queued);
  RUN(test_waiting);
  RUN(test_started);
  RUN(test_through_a_return_cell);
  RUN(test_children);
  return 0;
}
