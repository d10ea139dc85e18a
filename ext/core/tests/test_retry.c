/* test_retry.c - calls that are run again: by their executor's wish, and after its death. */
#include "calls.h"

#include "coroner.h"
#include "points.h"

#define FORMAT 9

struct scene {
  struct af_client node, victim;
  af_off mailbox, error, lane;
  uint32_t mailbox_hold, error_hold, victim_hold;
};

static void scene_make(struct scene *scene, uint8_t flags) {
  segment_make(&scene->node, 32 * MIB, 4 * MIB, 4 * MIB);
  client_attach(&scene->node, &scene->victim);
  CHECK_OK(af_mailbox_create(&scene->node, flags, 0, 1000, &scene->mailbox));
  CHECK_OK(af_hold_record(&scene->node, scene->mailbox, &scene->mailbox_hold));
  CHECK_OK(af_hold_take(&scene->victim, scene->mailbox, &scene->victim_hold));
  CHECK_OK(af_lane_open(&scene->node, scene->mailbox, 0, &scene->lane));
  scene->error = error_make(&scene->node, &scene->error_hold);
  af_mailbox_allow(&scene->node, scene->mailbox, 2);
}

static struct af_settlement victim_dies(struct scene *scene, bool retry) {
  struct af_settlement settlement;
  CHECK_OK(af_coroner_settle(&scene->node, scene->victim.slot_index, scene->victim.epoch, retry, scene->error, FORMAT,
                             &settlement));
  CHECK(!settlement.recount_owed, "recounted");
  return settlement;
}

static void scene_end(struct scene *scene) {
  af_segment_unmap(&scene->victim);
  af_hold_drop(&scene->node, scene->error_hold);
  af_hold_drop(&scene->node, scene->mailbox_hold);
  audit_clean(&scene->node, 0);
  af_segment_unmap(&scene->node);
}

static void send(struct scene *scene, uint64_t number, int32_t retries, af_off *cell, uint32_t *hold) {
  CHECK_OK(call_make(&scene->node, scene->mailbox, number, NULL, 0, cell, hold));
  af_cell_allow_retries(&scene->node, *cell, retries);
  CHECK_OK(af_cell_submit(&scene->node, scene->lane, *cell));
}

static uint64_t take_number(struct af_client *client, af_off mailbox, af_off *cell, uint32_t *hold) {
  CHECK_OK(af_mailbox_take(client, mailbox, cell, hold));
  return call_number(client, *cell);
}

static bool is_failed(const struct scene *scene, af_off cell) {
  return af_cell_is_done(&scene->node, cell) && cell_of(&scene->node, cell)->value == scene->error;
}

/* Those that it had started come back first, in their order; one without retries fails; one that it had answered stays. */
static void test_death_ordered(void) {
  struct scene scene;
  scene_make(&scene, AF_MAILBOX_ORDERED);
  struct af_client *node = &scene.node;
  af_off cells[8], taken;
  uint32_t holds[8], hold;
  for (uint32_t i = 0; i < 8; i++)
    send(&scene, i, i == 2 ? 0 : 1, &cells[i], &holds[i]);
  for (uint32_t i = 0; i < 5; i++) {
    CHECK(take_number(&scene.victim, scene.mailbox, &taken, &hold) == i, "in order");
    if (i == 0)
      CHECK_OK(call_answer(&scene.victim, taken, hold, 70));
  }
  struct af_settlement settlement = victim_dies(&scene, true);
  CHECK(settlement.calls_failed == 1 && settlement.calls_retried == 3, "%u, %u", settlement.calls_failed,
        settlement.calls_retried);
  CHECK(call_result(node, cells[0]) == 70 && is_failed(&scene, cells[2]), "answered, failed");
  const uint64_t wanted[] = {1, 3, 4, 5, 6, 7};
  for (uint32_t i = 0; i < 6; i++) {
    CHECK(take_number(node, scene.mailbox, &taken, &hold) == wanted[i], "call %u", i);
    CHECK(cell_of(node, taken)->attempt == (i < 3) && cell_of(node, taken)->retries == (i >= 3), "attempts");
    CHECK_OK(call_answer(node, taken, hold, 100 + i));
  }
  CHECK(call_result(node, cells[4]) == 102, "its second answer");
  for (uint32_t i = 0; i < 8; i++)
    af_hold_drop(node, holds[i]);
  scene_end(&scene);
}

/* Nothing is run again that may not: without leave, of a closed mailbox, or one that was being settled. */
static void test_death_without_leave(void) {
  for (int how = 0; how < 3; how++) {
    struct scene scene;
    scene_make(&scene, 0);
    af_off cell, taken;
    uint32_t hold, taken_hold;
    send(&scene, 1, -1, &cell, &hold);
    if (how < 2)
      CHECK_OK(af_mailbox_take(&scene.victim, scene.mailbox, &taken, &taken_hold));
    else {
      uint64_t claimed = af_state_of(&scene.victim, AF_STARTED) | AF_STATE_CLAIMED;
      CHECK_OK(af_hold_take(&scene.victim, cell, &taken_hold));
      atomic_store(&cell_of(&scene.node, cell)->state, claimed);
      atomic_store(&scene.victim.slot->op_cell, cell);
    }
    if (how == 1)
      CHECK_OK(af_mailbox_close(&scene.node, scene.mailbox, scene.error, FORMAT));
    struct af_settlement settlement = victim_dies(&scene, how != 0);
    CHECK(settlement.calls_failed == 1 && settlement.calls_retried == 0 && is_failed(&scene, cell), "way %d", how);
    af_hold_drop(&scene.node, hold);
    scene_end(&scene);
  }
}

/* Arguments and their cells are there for each attempt; they go with the answer, which lies behind them. */
static void test_arguments_stay(void) {
  struct scene scene;
  scene_make(&scene, 0);
  struct af_client *node = &scene.node;
  af_off argument, cell, taken;
  uint32_t argument_hold, hold, taken_hold;
  CHECK_OK(call_make(node, scene.mailbox, 5, NULL, 0, &argument, &argument_hold));
  CHECK_OK(af_cell_fail(node, argument, 0, scene.error, FORMAT));
  CHECK_OK(call_make(node, scene.mailbox, 6, &argument, 1, &cell, &hold));
  af_cell_allow_retries(node, cell, 3);
  CHECK_OK(af_cell_submit(node, scene.lane, cell));
  for (uint32_t i = 0; i < 3; i++) {
    CHECK(take_number(node, scene.mailbox, &taken, &taken_hold) == 6, "the number stays");
    CHECK(cell_of(node, taken)->attempt == i && af_cell_references(node, taken)[0] == argument, "attempt %u", i);
    CHECK_OK(af_cell_retry(node, taken));
    af_hold_drop(node, taken_hold);
  }
  CHECK(take_number(node, scene.mailbox, &taken, &taken_hold) == 6, "the last");
  CHECK(af_cell_retry(node, taken) == AF_EMPTY, "none left");
  CHECK_OK(call_answer(node, taken, taken_hold, 77));
  CHECK(call_result(node, cell) == 77 && cell_of(node, cell)->references == 0, "answered");
  CHECK(atomic_load(&AF_AT(node, struct af_block, argument)->count) == 1, "the argument is let go");
  victim_dies(&scene, true);
  af_hold_drop(node, hold);
  af_hold_drop(node, argument_hold);
  scene_end(&scene);
}

/* An answer that comes after its call was given away is dropped. */
static void test_late_answer(void) {
  struct scene scene;
  scene_make(&scene, AF_MAILBOX_SHARED);
  struct af_client *node = &scene.node;
  struct af_client late = {0};
  af_off cell, taken, block;
  uint32_t hold, taken_hold;
  uint8_t *where;
  af_mailbox_join(&scene.victim, scene.mailbox);
  send(&scene, 1, -1, &cell, &hold);
  CHECK_OK(af_mailbox_take(&scene.victim, scene.mailbox, &taken, &taken_hold));
  late = scene.victim;
  victim_dies(&scene, true);
  CHECK(af_cell_result_begin(&late, cell, 0, 8, &block, &where) == AF_FENCED, "fenced");
  CHECK(af_cell_complete(&late, cell, 0, 0, 8, 1) == AF_FENCED, "fenced");
  CHECK(af_cell_retry(&late, cell) == AF_FENCED, "fenced");
  af_mailbox_join(node, scene.mailbox);
  CHECK(take_number(node, scene.mailbox, &taken, &taken_hold) == 1, "it comes back");
  CHECK(af_cell_complete(&late, cell, 0, 0, 8, 1) == AF_FENCED, "another runs it");
  CHECK_OK(call_answer(node, taken, taken_hold, 9));
  CHECK(call_result(node, cell) == 9, "the answer");
  af_mailbox_task_done(node);
  af_mailbox_leave(node, scene.mailbox);
  af_hold_drop(node, hold);
  scene_end(&scene);
}

/* A mailbox' first call becomes unread, and is nowhere else. */
static void test_first(void) {
  struct scene scene;
  scene_make(&scene, AF_MAILBOX_ORDERED);
  struct af_client *node = &scene.node;
  af_off first, taken;
  uint32_t hold, taken_hold;
  CHECK_OK(call_make(node, scene.mailbox, 1, NULL, 0, &first, &hold));
  af_cell_allow_retries(node, first, -1);
  af_cell_submit_first(node, scene.mailbox, first);
  CHECK_OK(af_hold_take(&scene.victim, first, &taken_hold));
  CHECK_OK(af_cell_start(&scene.victim, first));
  CHECK_OK(af_cell_retry(&scene.victim, first)); /* the constructor has returned */
  CHECK(af_cell_phase(node, first) == AF_UNREAD && !af_mailbox_has_mail(node, scene.mailbox), "kept");
  CHECK_OK(af_cell_start(&scene.victim, first)); /* and here it dies in it */
  victim_dies(&scene, true);
  CHECK(af_cell_phase(node, first) == AF_UNREAD && cell_of(node, first)->attempt == 2, "kept");
  CHECK(af_mailbox_take(node, scene.mailbox, &taken, &taken_hold) == AF_EMPTY, "asked for by name alone");
  CHECK_OK(af_mailbox_close(node, scene.mailbox, scene.error, FORMAT));
  CHECK(is_failed(&scene, first), "closed");
  af_hold_drop(node, hold);
  scene_end(&scene);
}

int main(void) {
  RUN(test_death_ordered);
  RUN(test_death_without_leave);
  RUN(test_arguments_stay);
  RUN(test_late_answer);
  RUN(test_first);
  return 0;
}
