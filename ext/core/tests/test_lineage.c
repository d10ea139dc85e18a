/* test_lineage.c - what is kept of calls with large results, and running them again. */
#include "calls.h"

#include "coroner.h"
#include "lineage.h"
#include "points.h"
#include "spill.h"

#define VALUE_BYTES 20000u
#define FORMAT 2
#define ERROR 3

struct scene {
  struct af_client node, worker;
  af_off queue, lane;
  uint32_t queue_hold;
};

static void scene_make(struct scene *scene, uint64_t limit) {
  segment_make(&scene->node, 32 * MIB, 4 * MIB, 8 * MIB);
  client_attach(&scene->node, &scene->worker);
  scene->node.header->lineage_limit = limit;
  CHECK_OK(af_mailbox_create(&scene->node, AF_MAILBOX_SHARED, 0, 1000, &scene->queue));
  CHECK_OK(af_hold_record(&scene->node, scene->queue, &scene->queue_hold));
  CHECK_OK(af_lane_open(&scene->node, scene->queue, 0, &scene->lane));
  af_mailbox_allow(&scene->node, scene->queue, 2);
  af_mailbox_join(&scene->worker, scene->queue);
}

static void returned_free(struct af_client *node) {
  af_off returned[16];
  uint32_t count = af_spill_returned(node, returned, 16);
  for (uint32_t i = 0; i < count; i++)
    af_spill_free(node, returned[i]);
}

static void scene_end(struct scene *scene) {
  returned_free(&scene->node);
  CHECK(scene->node.header->lineage_bytes == 0, "%lu bytes are kept for nobody", scene->node.header->lineage_bytes);
  CHECK(scene->node.header->object_bytes_used == 0, "nor an object");
  af_mailbox_leave(&scene->worker, scene->queue);
  af_slot_release(&scene->worker);
  af_segment_unmap(&scene->worker);
  af_hold_drop(&scene->node, scene->queue_hold);
  audit_clean(&scene->node, 0);
  af_segment_unmap(&scene->node);
}

static af_off object_make(struct af_client *client, uint64_t number) {
  af_off block;
  CHECK_OK(af_extent_allocate(client, sizeof(struct af_object) + VALUE_BYTES, &block));
  struct af_object *object = AF_AT(client, struct af_object, block);
  object->bytes = VALUE_BYTES;
  memcpy(object + 1, &number, sizeof number);
  return block;
}

/* Takes a call and completes it with an object. Returns the sum of its own number and those of its arguments. */
static uint64_t work(struct scene *scene) {
  struct af_client *worker = &scene->worker;
  af_off cell;
  uint32_t hold, outer = af_op_begin(worker, 1);
  CHECK_OK(af_mailbox_take(worker, scene->queue, &cell, &hold));
  uint64_t number = call_number(worker, cell);
  for (uint32_t i = 0; i < cell_of(worker, cell)->arguments; i++)
    number += call_result(worker, af_cell_references(worker, cell)[i]);
  CHECK_OK(af_cell_complete(worker, cell, object_make(worker, number), 0, 0, FORMAT));
  af_hold_drop(worker, hold);
  af_mailbox_task_done(worker);
  af_op_end(worker, outer);
  return number;
}

static af_off call(struct scene *scene, uint64_t number, const af_off *arguments, uint32_t count, int32_t retries,
                   uint32_t *hold) {
  af_off cell;
  CHECK_OK(call_make(&scene->node, scene->queue, number, arguments, count, &cell, hold));
  af_cell_allow_retries(&scene->node, cell, retries);
  CHECK_OK(af_cell_submit(&scene->node, scene->lane, cell));
  return cell;
}

/* Its bytes go to nowhere. Returns the SPILLED block, held. */
static af_off lose(struct af_client *node, af_off cell, uint32_t *hold) {
  af_off block = cell_of(node, cell)->value, spilled;
  struct af_spill_pins pins;
  CHECK_OK(af_spill_begin(node, block, af_block_generation(node, block), &pins));
  CHECK_OK(af_spill_commit(node, &pins, &spilled));
  CHECK_OK(af_hold_take(node, spilled, hold));
  return spilled;
}

static af_off lineage_of(const struct af_client *node, af_off cell) { return cell_of(node, cell)->lineage; }

static void audit_ok(struct af_client *node) {
  struct af_audit audit;
  CHECK_OK(af_audit_run(node, false, 3, &audit));
  CHECK(audit.consistent && !audit.too_high && !audit.too_low && !audit.lost && !audit.broken,
        "high %lu low %lu lost %lu broken %lu", audit.too_high, audit.too_low, audit.lost, audit.broken);
}

static void test_what_is_kept(void) {
  struct scene scene;
  struct af_client *node = &scene.node;
  af_off taken;
  uint32_t first_hold, second_hold, third_hold, small_hold, hold;
  scene_make(&scene, MIB);
  af_off first = call(&scene, 1, NULL, 0, 3, &first_hold);
  work(&scene);
  af_off second = call(&scene, 2, &first, 1, 0, &second_hold);
  work(&scene);
  CHECK(lineage_of(node, first) != 0 && lineage_of(node, second) == 0, "only of what may be run again");
  af_off small = call(&scene, 3, NULL, 0, 3, &small_hold);
  CHECK_OK(af_mailbox_take(&scene.worker, scene.queue, &taken, &hold));
  CHECK_OK(call_answer(&scene.worker, taken, hold, 9));
  CHECK(lineage_of(node, small) == 0, "small results keep nothing");
  const af_off both[] = {first, small};
  af_off third = call(&scene, 4, both, 2, -1, &third_hold);
  CHECK(work(&scene) == 14, "1 + 9 + 4");
  audit_ok(node);
  af_hold_drop(node, first_hold);
  af_hold_drop(node, small_hold);
  CHECK(af_block_is_live(node, small), "a small input stays");
  CHECK(!af_block_is_live(node, first), "a large one does not");
  CHECK(AF_AT(node, struct af_lineage, lineage_of(node, third))->inputs == 3, "two and the mailbox");
  audit_ok(node);
  af_hold_drop(node, second_hold);
  af_hold_drop(node, third_hold);
  CHECK(!af_block_is_live(node, small), "until the result goes");
  scene_end(&scene);
}

/* The value comes back from a call that is run once more, on the result of another one. */
static void test_run_again(void) {
  struct scene scene;
  struct af_client *node = &scene.node;
  af_off lineage, source, instead[2] = {0, 0};
  uint32_t hold, lost_hold, first_hold, lineage_hold, source_hold, index, made, source_made;
  scene_make(&scene, MIB);
  af_off first = call(&scene, 1, NULL, 0, 3, &first_hold), second = call(&scene, 2, &first, 1, 1, &hold);
  CHECK(work(&scene) == 1 && work(&scene) == 3, "sums");
  af_hold_drop(node, first_hold);
  af_off lost = lose(node, second, &lost_hold);
  CHECK(af_lineage_of(node, lost, &lineage, &lineage_hold, &index) == AF_ORIGIN_CALL && index == 0, "found");
  CHECK_OK(af_lineage_look(node, lineage));
  CHECK(af_lineage_input(node, lineage, 0, &source, &source_hold, &index) == AF_STALE, "its input is gone");
  CHECK(af_lineage_run(node, lineage, instead, &made) == AF_STALE, "without it, nothing is run");
  audit_ok(node);
  CHECK_OK(af_lineage_run(node, source, instead, &source_made));
  CHECK(work(&scene) == 1, "as before");
  instead[0] = af_hold_block(node, source_made);
  CHECK_OK(af_lineage_run(node, lineage, instead, &made));
  af_off again = af_hold_block(node, made);
  CHECK(cell_of(node, again)->attempt == 1 && cell_of(node, again)->retries == 0, "one attempt later");
  CHECK(work(&scene) == 3, "as before");
  af_lineage_ran(node, lineage, again);
  CHECK_OK(af_lineage_deliver(node, lost, again));
  audit_ok(node);
  CHECK(AF_AT(node, struct af_spilled, lost)->turn == 1 && call_result(node, second) == 3, "it is back");
  CHECK(af_lineage_look(node, lineage) == AF_FULL, "for the last time");
  af_hold_drop(node, made);
  af_hold_drop(node, source_made);
  af_hold_drop(node, source_hold);
  af_hold_drop(node, lost_hold);
  af_hold_drop(node, lineage_hold);
  CHECK(lose(node, second, &lost_hold) != 0, "it is spilled as any other");
  af_hold_drop(node, hold);
  CHECK(af_lineage_deliver(node, af_hold_block(node, lost_hold), second) == AF_STALE, "nobody wants it any more");
  af_hold_drop(node, lost_hold);
  scene_end(&scene);
}

/* Smaller the second time, or an error. */
static void test_another_result(void) {
  struct scene scene;
  struct af_client *node = &scene.node;
  for (uint8_t format = FORMAT; format <= ERROR; format++) {
    af_off lineage, taken, none = 0;
    uint32_t hold, lost_hold, lineage_hold, index, made, taken_hold;
    scene_make(&scene, MIB);
    af_off cell = call(&scene, 1, NULL, 0, 3, &hold);
    work(&scene);
    af_off lost = lose(node, cell, &lost_hold);
    CHECK(af_lineage_of(node, lost, &lineage, &lineage_hold, &index) == AF_ORIGIN_CALL, "found");
    CHECK_OK(af_lineage_run(node, lineage, &none, &made));
    CHECK_OK(af_mailbox_take(&scene.worker, scene.queue, &taken, &taken_hold));
    CHECK_OK(call_answer(&scene.worker, taken, taken_hold, 77));
    cell_of(node, taken)->value_format = format;
    CHECK_OK(af_lineage_deliver(node, lost, taken));
    const struct af_spilled *of = AF_AT(node, struct af_spilled, lost);
    CHECK((of->failure == AF_SPILL_LOST) == (format == ERROR) && (of->error != 0) == (format == ERROR), "as said");
    if (format == FORMAT)
      CHECK(call_result(node, cell) == 77 && af_value_format(node, cell, cell_of(node, cell)->value) == FORMAT, "its value");
    else
      CHECK(*(const uint64_t *)(AF_AT(node, struct af_object, of->error) + 1) == 77, "its error");
    audit_ok(node);
    af_hold_drop(node, made);
    af_hold_drop(node, lineage_hold);
    af_hold_drop(node, lost_hold);
    af_hold_drop(node, hold);
    scene_end(&scene);
  }
}

/* A chain of results, each made from the one before and only the last held, ends with its budget. */
static void test_budget(void) {
  struct scene scene;
  struct af_client *node = &scene.node;
  struct af_lineage_fact facts[300];
  uint32_t hold, before;
  scene_make(&scene, 8192);
  af_off cell = call(&scene, 1, NULL, 0, 3, &hold);
  work(&scene);
  for (int i = 0; i < 200; i++) {
    before = hold;
    cell = call(&scene, 1, &cell, 1, 3, &hold);
    work(&scene);
    af_hold_drop(node, before);
  }
  CHECK(node->header->lineage_bytes > 8192 && node->header->object_bytes_used < 2 * VALUE_BYTES + 8192, "no values");
  uint32_t count = af_lineage_list(node, facts, 300);
  CHECK(count == 201, "%u", count);
  for (uint32_t i = 0; i < count; i++)
    if (facts[i].sequence < 190)
      CHECK_OK(af_lineage_empty(node, facts[i].lineage, facts[i].generation));
  audit_ok(node);
  af_lineage_prune(node);
  audit_ok(node);
  CHECK(af_lineage_list(node, facts, 300) == 11 && node->header->lineage_bytes <= 11 * 512, "the rest is freed");
  node->header->lineage_bytes += 5000;
  af_lineage_list(node, facts, 300);
  CHECK(node->header->lineage_bytes <= 11 * 512, "counted again");
  af_hold_drop(node, hold);
  scene_end(&scene);
}

static void test_without_a_budget(void) {
  struct scene scene;
  uint32_t hold;
  scene_make(&scene, 0);
  af_off cell = call(&scene, 1, NULL, 0, 3, &hold);
  work(&scene);
  CHECK(lineage_of(&scene.node, cell) == 0, "nothing is kept");
  af_hold_drop(&scene.node, hold);
  scene_end(&scene);
}

int main(void) {
  RUN(test_what_is_kept);
  RUN(test_run_again);
  RUN(test_another_result);
  RUN(test_budget);
  RUN(test_without_a_budget);
  return 0;
}
