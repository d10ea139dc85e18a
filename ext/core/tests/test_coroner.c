/* test_coroner.c - what a dead process leaves is settled: its calls, lanes, locks, marks, holds, and what followed. */
#include "calls.h"

#include "coroner.h"
#include "deadlock.h"
#include "points.h"

#define FORMAT 9

struct scene {
  struct af_client node, victim;
  af_off mailbox, error;
  uint32_t mailbox_hold, error_hold;
  uint8_t flags;
};

static void scene_make(struct scene *scene, uint8_t flags) {
  segment_make(&scene->node, 32 * MIB, 4 * MIB, 4 * MIB);
  client_attach(&scene->node, &scene->victim);
  CHECK_OK(af_mailbox_create(&scene->node, flags, 0, 1000, &scene->mailbox));
  CHECK_OK(af_hold_record(&scene->node, scene->mailbox, &scene->mailbox_hold));
  scene->error = error_make(&scene->node, &scene->error_hold);
  af_mailbox_allow(&scene->node, scene->mailbox, 2);
}

/* The victim's process is as good as gone: nothing of it runs any more. */
static struct af_settlement victim_dies(struct scene *scene) {
  struct af_settlement settlement, again;
  uint32_t slot = scene->victim.slot_index, epoch = scene->victim.epoch;
  CHECK_OK(af_coroner_settle(&scene->node, slot, epoch, true, scene->error, FORMAT, &settlement));
  CHECK(!settlement.recount_owed, "recounted");
  CHECK(af_coroner_settle(&scene->node, slot, epoch, true, scene->error, FORMAT, &again) == AF_STALE, "once");
  af_segment_unmap(&scene->victim);
  return settlement;
}

static void scene_end(struct scene *scene) {
  af_hold_drop(&scene->node, scene->error_hold);
  af_hold_drop(&scene->node, scene->mailbox_hold);
  audit_clean(&scene->node, 0);
  af_segment_unmap(&scene->node);
}

static void check_failed(struct scene *scene, af_off cell) {
  CHECK(af_cell_is_done(&scene->node, cell), "settled");
  CHECK(cell_of(&scene->node, cell)->value == scene->error && cell_of(&scene->node, cell)->value_format == FORMAT,
        "with the error");
}

/* As a process that died inside an operation. */
static void inside(struct af_client *victim) { af_op_begin(victim, AF_OP_TAKE); }

static void test_started_calls(void) {
  const uint8_t flags[] = {AF_MAILBOX_ORDERED, AF_MAILBOX_SHARED};
  for (int f = 0; f < 2; f++) {
    struct scene scene;
    scene_make(&scene, flags[f]);
    struct af_client *node = &scene.node, other;
    af_off lane, cells[10], taken, result;
    uint32_t holds[10], hold, result_hold;
    CHECK_OK(af_lane_open(node, scene.mailbox, 0, &lane));
    for (uint32_t i = 0; i < 10; i++)
      CHECK_OK(call_send(node, lane, i, &cells[i], &holds[i]));
    CHECK_OK(af_cell_expected_create(node, 64, &result));
    CHECK_OK(af_hold_record(node, result, &result_hold));
    if (f == 1)
      af_mailbox_join(&scene.victim, scene.mailbox);
    for (uint32_t i = 0; i < 4; i++) {
      CHECK_OK(af_mailbox_take(&scene.victim, scene.mailbox, &taken, &hold));
      if (i < 2)
        CHECK_OK(call_answer(&scene.victim, taken, hold, 50));
    }
    struct af_settlement settlement = victim_dies(&scene);
    CHECK(settlement.calls_failed == 2, "%u calls failed", settlement.calls_failed);
    CHECK(call_result(node, cells[0]) == 50 && call_result(node, cells[1]) == 50, "answers stay");
    check_failed(&scene, cells[2]);
    check_failed(&scene, cells[3]);
    client_attach(node, &other); /* the successor reads on */
    if (f == 1)
      af_mailbox_join(&other, scene.mailbox);
    for (uint32_t i = 4; i < 10; i++) {
      CHECK_OK(af_mailbox_take(&other, scene.mailbox, &taken, &hold));
      CHECK(taken == cells[i], "none is lost");
      CHECK_OK(call_answer(&other, taken, hold, i));
    }
    if (f == 1)
      af_mailbox_leave(&other, scene.mailbox);
    client_detach(&other);
    for (uint32_t i = 0; i < 10; i++)
      af_hold_drop(node, holds[i]);
    af_hold_drop(node, result_hold);
    scene_end(&scene);
  }
}

/* A call that it had started fails with its return cells, and what follows them goes on. */
static void test_returns(void) {
  struct scene scene;
  scene_make(&scene, 0);
  struct af_client *node = &scene.node;
  af_off lane, call, result, follower, taken;
  uint32_t hold, result_hold, follower_hold, taken_hold;
  CHECK_OK(af_lane_open(node, scene.mailbox, 0, &lane));
  CHECK_OK(af_cell_create(node, 1, 8, CALL_RESERVE, &call));
  CHECK_OK(af_hold_record(node, call, &hold));
  CHECK_OK(af_cell_expected_create(node, 64, &result));
  CHECK_OK(af_hold_record(node, result, &result_hold));
  af_block_hold(node, result);
  af_cell_references(node, call)[0] = result;
  cell_of(node, call)->returns = 1;
  CHECK_OK(af_cell_submit(node, lane, call));
  CHECK_OK(call_make(node, scene.mailbox, 1, &result, 1, &follower, &follower_hold));
  CHECK_OK(af_cell_submit(node, lane, follower));
  CHECK_OK(af_mailbox_take(&scene.victim, scene.mailbox, &taken, &taken_hold));
  victim_dies(&scene);
  check_failed(&scene, call);
  check_failed(&scene, result);
  CHECK_OK(af_mailbox_take(node, scene.mailbox, &taken, &taken_hold));
  CHECK(taken == follower, "ready");
  CHECK_OK(call_answer(node, taken, taken_hold, 1));
  af_hold_drop(node, hold);
  af_hold_drop(node, result_hold);
  af_hold_drop(node, follower_hold);
  scene_end(&scene);
}

/* Its lanes are read to their end and go; its holds, among them the only ones on a call that waits, are dropped. */
static void test_caller(void) {
  struct scene scene;
  scene_make(&scene, AF_MAILBOX_ORDERED);
  struct af_client *node = &scene.node;
  af_off lane, cell, other_mailbox;
  uint32_t hold;
  struct af_mailbox_facts facts;
  CHECK_OK(af_mailbox_create(&scene.victim, 0, 0, 10, &other_mailbox));
  CHECK_OK(af_hold_record(&scene.victim, other_mailbox, &hold));
  CHECK_OK(af_lane_open(&scene.victim, other_mailbox, 0, &lane));
  CHECK_OK(call_send(&scene.victim, lane, 1, &cell, &hold));
  for (int i = 0; i < 3; i++) {
    CHECK_OK(af_lane_open(&scene.victim, scene.mailbox, 0, &lane));
    for (uint32_t j = 0; j < 20; j++)
      CHECK_OK(call_send(&scene.victim, lane, j, &cell, &hold));
  }
  CHECK_OK(af_lane_open(&scene.victim, scene.mailbox, 0, &lane)); /* one that is empty */
  af_lane_close(&scene.victim, lane);
  atomic_store(&mailbox_of(node, scene.mailbox)->page.mail, 0); /* it told nobody of what it had published */
  struct af_settlement settlement = victim_dies(&scene);
  CHECK(settlement.lanes_orphaned == 4 && settlement.calls_failed == 0, "%u lanes", settlement.lanes_orphaned);
  CHECK(settlement.holds_dropped == 62, "%u holds", settlement.holds_dropped);
  for (uint32_t i = 0; i < 60; i++) {
    CHECK_OK(af_mailbox_take(node, scene.mailbox, &cell, &hold));
    CHECK_OK(call_answer(node, cell, hold, 1));
  }
  CHECK(af_mailbox_take(node, scene.mailbox, &cell, &hold) == AF_EMPTY, "empty");
  af_mailbox_facts(node, scene.mailbox, &facts);
  CHECK(facts.lanes == 0, "%u lanes are left", facts.lanes);
  scene_end(&scene);
}

static void test_lock_and_marks(void) {
  for (int block = 0; block < 2; block++) {
    struct scene scene;
    scene_make(&scene, AF_MAILBOX_SHARED);
    struct af_client *node = &scene.node, other;
    af_off lane, cell;
    uint32_t hold;
    struct af_mailbox_facts facts;
    CHECK_OK(af_lane_open(node, scene.mailbox, 0, &lane));
    CHECK_OK(call_send(node, lane, 1, &cell, &hold));
    af_hold_drop(node, hold);
    CHECK_OK(call_send(node, lane, 2, &cell, &hold));
    af_hold_drop(node, hold);
    client_attach(node, &other);
    af_mailbox_join(&other, scene.mailbox);
    af_mailbox_join(&scene.victim, scene.mailbox);
    CHECK_OK(af_mailbox_take(&scene.victim, scene.mailbox, &cell, &hold));
    if (block)
      af_mailbox_block(&scene.victim);
    struct af_mailbox *mailbox = mailbox_of(node, scene.mailbox);
    atomic_store(&mailbox->lock, (uint64_t)scene.victim.epoch << 32 | (scene.victim.slot_index + 1u));
    atomic_store(&mailbox->locked_ns, af_now_ns() - 400000000);
    atomic_store(&mailbox->spinner, scene.victim.slot_index + 1u);
    CHECK(af_mailbox_take(&other, scene.mailbox, &cell, &hold) == AF_BUSY, "locked");
    CHECK(af_coroner_overdue(node, 1000000000) == -1, "not yet");
    CHECK(af_coroner_overdue(node, 300000000) == (int)scene.victim.slot_index, "overdue");
    victim_dies(&scene);
    CHECK(af_coroner_overdue(node, 0) == -1, "nobody");
    CHECK(mailbox->spinner == 0, "nobody spins");
    af_mailbox_facts(node, scene.mailbox, &facts);
    CHECK(facts.active == 0 && facts.readers == 1 && facts.blocked == 0, "active %u, readers %u, blocked %u",
          facts.active, facts.readers, facts.blocked);
    CHECK_OK(af_mailbox_take(&other, scene.mailbox, &cell, &hold));
    CHECK_OK(call_answer(&other, cell, hold, 1));
    af_mailbox_task_done(&other);
    af_mailbox_leave(&other, scene.mailbox);
    client_detach(&other);
    scene_end(&scene);
  }
}

/* Who has just taken the object store's lock is not taken for one that has had it for long. */
static void test_extent_lock(void) {
  struct scene scene;
  af_off block;
  int status;
  scene_make(&scene, 0);
  CHECK_OK(af_extent_allocate(&scene.victim, 100, &block));
  af_block_drop(&scene.victim, block);
  pid_t pid = child_fork();
  if (pid == 0) {
    scene.victim.point = 300;
    scene.victim.point_signal = SIGSTOP;
    af_extent_allocate(&scene.victim, 100, &block);
    _exit(1);
  }
  CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status), "stopped with the lock");
  CHECK(af_coroner_overdue(&scene.node, 3600000000000ull) == -1, "it has it since a moment ago");
  CHECK(af_coroner_overdue(&scene.node, 0) == (int)scene.victim.slot_index, "but it has it");
  kill(pid, SIGKILL);
  CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
  victim_dies(&scene);
  CHECK(af_extent_check(&scene.node) && af_coroner_overdue(&scene.node, 0) == -1, "nobody has it");
  scene_end(&scene);
}

/* It died between a sum and its mark: the sums are counted again from the marks of the living. */
static void test_marks_inside_operation(void) {
  for (int mark = 0; mark < 2; mark++) {
    struct scene scene;
    scene_make(&scene, AF_MAILBOX_SHARED);
    struct af_client *node = &scene.node, other;
    struct af_mailbox_facts facts;
    client_attach(node, &other);
    af_mailbox_join(&other, scene.mailbox);
    af_mailbox_join(&scene.victim, scene.mailbox);
    CHECK(af_capacity_take(&other, mailbox_of(node, scene.mailbox)), "one");
    inside(&scene.victim);
    atomic_fetch_add(&scene.victim.slot->marks, 1);
    atomic_fetch_add(&mailbox_of(node, scene.mailbox)->executing, 1);
    atomic_fetch_add(&mailbox_of(node, scene.mailbox)->blocked, 1);
    atomic_store(&scene.victim.slot->token, mark);
    atomic_fetch_add(&other.slot->marks, 1); /* another is at it too */
    struct af_settlement settlement;
    CHECK(af_coroner_settle(node, scene.victim.slot_index, scene.victim.epoch, true, scene.error, FORMAT, &settlement) == AF_BUSY,
          "later");
    atomic_fetch_add(&other.slot->marks, 1);
    settlement = victim_dies(&scene);
    CHECK(settlement.inside_operation, "inside");
    af_mailbox_facts(node, scene.mailbox, &facts);
    CHECK(facts.active == 1 && facts.readers == 1 && facts.blocked == 0, "active %u, readers %u, blocked %u",
          facts.active, facts.readers, facts.blocked);
    af_mailbox_leave(&other, scene.mailbox);
    client_detach(&other);
    scene_end(&scene);
  }
}

/* It made a cell DONE and told nobody. */
static void test_unserved(void) {
  struct scene scene;
  scene_make(&scene, 0);
  struct af_client *node = &scene.node;
  af_off lane, call, follower, taken, board;
  uint32_t hold, follower_hold, taken_hold, tokens[4];
  uint8_t index;
  CHECK_OK(af_board_create(node, &index, &board));
  CHECK_OK(af_lane_open(node, scene.mailbox, 0, &lane));
  CHECK_OK(call_send(node, lane, 1, &call, &hold));
  CHECK_OK(call_make(node, scene.mailbox, 2, &call, 1, &follower, &follower_hold));
  CHECK_OK(af_cell_submit(node, lane, follower));
  CHECK_OK(af_cell_watch(node, call, af_watch_make(0, node->epoch, index, 3), NULL));
  CHECK_OK(af_cell_watch(node, call, af_watch_make(0, node->epoch, index, 4), NULL));
  CHECK_OK(af_mailbox_take(&scene.victim, scene.mailbox, &taken, &taken_hold));
  inside(&scene.victim);
  atomic_store(&scene.victim.slot->op_cell, call);
  atomic_store(&cell_of(node, call)->state, af_state_of(&scene.victim, AF_DONE));
  struct af_settlement settlement = victim_dies(&scene);
  CHECK(settlement.calls_failed == 0, "it has its result");
  CHECK(af_board_take(node, index, tokens, 4, false) == 2, "both rung");
  CHECK_OK(af_mailbox_take(node, scene.mailbox, &taken, &taken_hold));
  CHECK(taken == follower, "ready");
  CHECK_OK(call_answer(node, taken, taken_hold, 1));
  af_hold_drop(node, hold);
  af_hold_drop(node, follower_hold);
  scene_end(&scene);
}

/* A call on its way between two lists, wherever it really was: it is executed, and once. */
static void test_on_its_way(void) {
  const uint8_t flags[] = {0, AF_MAILBOX_ORDERED};
  for (int f = 0; f < 2; f++) {
    for (int arrived = 0; arrived < 2; arrived++) {
      struct scene scene;
      scene_make(&scene, flags[f]);
      struct af_client *node = &scene.node;
      af_off lane, argument, call, taken;
      uint32_t argument_hold, hold, taken_hold;
      CHECK_OK(af_lane_open(node, scene.mailbox, 0, &lane));
      CHECK_OK(af_cell_expected_create(node, 64, &argument));
      CHECK_OK(af_hold_record(node, argument, &argument_hold));
      CHECK_OK(call_make(node, scene.mailbox, 1, &argument, 1, &call, &hold));
      CHECK_OK(af_cell_submit(node, lane, call));
      inside(&scene.victim);
      af_cell_on_its_way(&scene.victim, call);
      if (!arrived) { /* taken off its list: its entry's count has no holder */
        atomic_store(&cell_of(node, argument)->followers, 0);
      }
      struct af_settlement settlement = victim_dies(&scene);
      CHECK(settlement.repaired == (uint32_t)!arrived, "%u counts repaired", settlement.repaired);
      CHECK(af_cell_phase(node, call) == AF_WAITING, "waits on");
      CHECK_OK(af_cell_complete(node, argument, 0, 0, 0, 1));
      CHECK_OK(af_mailbox_take(node, scene.mailbox, &taken, &taken_hold));
      CHECK(taken == call, "executed");
      CHECK_OK(call_answer(node, taken, taken_hold, 1));
      CHECK(af_mailbox_take(node, scene.mailbox, &taken, &taken_hold) == AF_EMPTY, "once");
      af_hold_drop(node, hold);
      af_hold_drop(node, argument_hold);
      scene_end(&scene);
    }
  }
}

/* The same when its mailbox was closed meanwhile: it fails, and what follows it. */
static void test_on_its_way_to_closed(void) {
  struct scene scene;
  scene_make(&scene, 0);
  struct af_client *node = &scene.node;
  af_off lane, argument, calls[2];
  uint32_t argument_hold, holds[2];
  CHECK_OK(af_lane_open(node, scene.mailbox, 0, &lane));
  CHECK_OK(af_cell_expected_create(node, 64, &argument));
  CHECK_OK(af_hold_record(node, argument, &argument_hold));
  for (int i = 0; i < 2; i++) {
    CHECK_OK(call_make(node, scene.mailbox, 1, i == 0 ? &argument : &calls[0], 1, &calls[i], &holds[i]));
    CHECK_OK(af_cell_submit(node, lane, calls[i]));
  }
  inside(&scene.victim);
  af_cell_on_its_way(&scene.victim, calls[0]);
  atomic_store(&cell_of(node, argument)->followers, 0);
  CHECK_OK(af_cell_complete(node, argument, 0, 0, 0, 1));
  CHECK_OK(af_mailbox_close(node, scene.mailbox, scene.error, FORMAT));
  victim_dies(&scene);
  check_failed(&scene, calls[0]);
  check_failed(&scene, calls[1]);
  af_hold_drop(node, holds[0]);
  af_hold_drop(node, holds[1]);
  af_hold_drop(node, argument_hold);
  scene_end(&scene);
}

/* Others that are alive are not touched; a slot that was only reserved is settled too. */
static void test_reserved_slot(void) {
  struct scene scene;
  scene_make(&scene, 0);
  struct af_client *node = &scene.node;
  af_off cell;
  uint32_t index, epoch, hold;
  struct af_settlement settlement;
  CHECK_OK(af_cell_expected_create(node, 0, &cell));
  CHECK_OK(af_hold_record(node, cell, &hold));
  CHECK_OK(af_fork_prepare(node, &index, &epoch));
  CHECK(block_at(node, cell)->count == 2, "the child's hold");
  CHECK_OK(af_coroner_settle(node, index, epoch, true, 0, 0, &settlement));
  CHECK(block_at(node, cell)->count == 1 && settlement.holds_dropped == 3, "%u holds", settlement.holds_dropped);
  CHECK(af_coroner_settle(node, 9999, 1, true, 0, 0, &settlement) == AF_BAD, "no slot");
  CHECK(af_slot_is(node, scene.victim.slot_index, scene.victim.epoch), "alive");
  af_hold_drop(node, hold);
  victim_dies(&scene);
  scene_end(&scene);
}

/* A slot that the dead was reserving for a fork, and had not filled in, is free again. */
static void test_slot_not_filled_in(void) {
  struct scene scene;
  scene_make(&scene, 0);
  struct af_client *node = &scene.node;
  uint32_t index, epoch, again, again_epoch;
  int status;
  CHECK_OK(af_slot_reserve(node, AF_ROLE_WORKER, 0, &index, &epoch));
  pid_t pid = child_fork();
  if (pid == 0) {
    struct af_client client;
    CHECK_OK(af_segment_map(&client, dup(node->memfd)));
    CHECK_OK(af_slot_claim(&client, index, epoch));
    client.point = 100;
    client.point_signal = SIGKILL;
    af_fork_prepare(&client, &again, &again_epoch);
    _exit(0);
  }
  CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "it ended with %x", status);
  struct af_settlement settlement;
  CHECK_OK(af_coroner_settle(node, index, epoch, true, 0, 0, &settlement));
  for (uint32_t i = 2; i < node->header->slot_count; i++)
    CHECK(af_slot_state_of(af_slot_at(node, i)->owner) == AF_SLOT_FREE, "slot %u is not free", i);
  CHECK_OK(af_slot_reserve(node, AF_ROLE_WORKER, 0, &again, &again_epoch));
  CHECK(again == index, "the lowest");
  CHECK_OK(af_slot_reserve(node, AF_ROLE_WORKER, 0, &again, &again_epoch));
  CHECK(again == index + 1 && again_epoch == 2, "the next one, in a new epoch");
  victim_dies(&scene);
  scene_end(&scene);
}

/* The victim, in a call of the mailbox, waits for `other`, which waits for an unread call of it: a circle, as long as the
 * victim lives. Another process will read the mailbox after it. */
static void test_wait_of_the_dead(void) {
  struct scene scene;
  scene_make(&scene, AF_MAILBOX_ORDERED);
  struct af_client *node = &scene.node, other;
  af_off own_mailbox, lane, own_lane, cells[3], taken;
  uint32_t own_hold, holds[3], hold, taken_hold;
  client_attach(node, &other);
  mailbox_make(node, AF_MAILBOX_ORDERED, 10, &own_mailbox, &own_hold);
  CHECK_OK(af_lane_open(node, scene.mailbox, 0, &lane));
  CHECK_OK(af_lane_open(node, own_mailbox, 0, &own_lane));
  CHECK_OK(call_send(node, lane, 0, &cells[0], &holds[0]));
  CHECK_OK(call_send(node, own_lane, 1, &cells[1], &holds[1]));
  CHECK_OK(af_mailbox_take(&scene.victim, scene.mailbox, &taken, &hold));
  CHECK_OK(af_mailbox_take(&other, own_mailbox, &taken, &taken_hold));
  CHECK_OK(call_send(node, lane, 2, &cells[2], &holds[2]));
  atomic_store(&scene.victim.slot->running, cells[0]);
  atomic_store(&other.slot->running, cells[1]);
  af_deadlock_begin(&scene.victim, cells[1]);
  af_deadlock_begin(&other, cells[2]);
  CHECK(af_deadlock_found(&other) && !af_deadlock_found(&scene.victim), "a circle, which one of them is to end");
  victim_dies(&scene);
  CHECK(af_cell_phase(node, cells[2]) == AF_UNREAD && !af_deadlock_found(&other), "no circle any more");
  CHECK_OK(call_answer(&other, taken, taken_hold, 1));
  CHECK_OK(af_mailbox_take(node, scene.mailbox, &taken, &taken_hold));
  CHECK_OK(call_answer(node, taken, taken_hold, 2));
  for (int i = 0; i < 3; i++)
    af_hold_drop(node, holds[i]);
  client_detach(&other);
  af_hold_drop(node, own_hold);
  scene_end(&scene);
}

int main(void) {
  RUN(test_started_calls);
  RUN(test_returns);
  RUN(test_caller);
  RUN(test_lock_and_marks);
  RUN(test_extent_lock);
  RUN(test_marks_inside_operation);
  RUN(test_unserved);
  RUN(test_on_its_way);
  RUN(test_on_its_way_to_closed);
  RUN(test_reserved_slot);
  RUN(test_slot_not_filled_in);
  RUN(test_wait_of_the_dead);
  return 0;
}
