/* test_audit.c - the recount finds what is wrong, repairs it, and is not confused by others at work. */
#include "harness.h"

static void audit_take(struct af_client *client, bool repair, struct af_audit *audit) {
  CHECK_OK(af_audit_run(client, repair, 10, audit));
  CHECK(audit->consistent, "nobody else is there");
}

static void test_counts(void) {
  struct af_client node;
  struct af_audit audit;
  uint32_t hold, hold_object;
  segment_make(&node, 8 * MIB, MIB, MIB);
  CHECK_OK(af_hold_record(&node, link_make(&node, bytes_make(&node, 1000)), &hold));
  af_off object;
  CHECK_OK(af_extent_allocate(&node, 100000, &object));
  CHECK_OK(af_hold_record(&node, object, &hold_object));
  audit_take(&node, false, &audit);
  CHECK(audit.blocks[AF_KIND_BYTES] == 2 && audit.blocks[AF_KIND_OBJECT] == 1 && audit.blocks[AF_KIND_HOLDS] == 1, "kinds");
  CHECK(audit.bytes == 128 + 1024 + 512 && audit.object_bytes == 25 * AF_PAGE, "bytes");
  audit_clean(&node, 3);
  af_segment_unmap(&node);
}

/* A hold on a chain of two, and what a test then does wrong. */
struct scene { struct af_client node; af_off head, tail, object; uint32_t hold, hold_object; };

static void scene_make(struct scene *scene) {
  segment_make(&scene->node, 8 * MIB, MIB, MIB);
  scene->tail = bytes_make(&scene->node, 200);
  scene->head = link_make(&scene->node, scene->tail);
  CHECK_OK(af_hold_record(&scene->node, scene->head, &scene->hold));
  CHECK_OK(af_extent_allocate(&scene->node, 100000, &scene->object));
  CHECK_OK(af_hold_record(&scene->node, scene->object, &scene->hold_object));
}

static void scene_end(struct scene *scene) {
  audit_clean(&scene->node, 3);
  af_hold_drop(&scene->node, scene->hold);
  af_hold_drop(&scene->node, scene->hold_object);
  audit_clean(&scene->node, 0);
  af_segment_unmap(&scene->node);
}

static void test_too_high(void) {
  struct scene scene;
  struct af_audit audit;
  scene_make(&scene);
  block_at(&scene.node, scene.tail)->count += 3;
  block_at(&scene.node, scene.object)->count += 1;
  audit_take(&scene.node, false, &audit);
  CHECK(audit.too_high == 2 && audit.too_low == 0 && audit.lost == 0 && audit.first_wrong == scene.tail, "found");
  CHECK(block_at(&scene.node, scene.tail)->count == 4, "nothing changed");
  audit_take(&scene.node, true, &audit);
  CHECK(audit.repaired == 2, "repaired");
  scene_end(&scene);
}

static void test_too_low(void) {
  struct scene scene;
  struct af_audit audit;
  scene_make(&scene);
  block_at(&scene.node, scene.head)->count += 5;
  for (uint32_t i = 0, hold; i < 7; i++)
    CHECK_OK(af_hold_record(&scene.node, scene.head, &hold));
  audit_take(&scene.node, false, &audit);
  CHECK(audit.too_low == 1 && audit.too_high == 0, "found");
  audit_take(&scene.node, true, &audit);
  CHECK(block_at(&scene.node, scene.head)->count == 8, "repaired");
  for (uint32_t i = 0; i < 7; i++)
    af_hold_drop(&scene.node, 2 + i);
  scene_end(&scene);
}

/* Counted by nobody: freed with what it alone held, and no more. */
static void test_lost(void) {
  struct scene scene;
  struct af_audit audit;
  af_off lost = 0, object;
  scene_make(&scene);
  for (int i = 0; i < 100; i++)
    lost = link_make(&scene.node, lost);
  af_block_hold(&scene.node, scene.tail);
  lost = link_make(&scene.node, scene.tail);
  bytes_make(&scene.node, 100000);
  CHECK_OK(af_extent_allocate(&scene.node, 9000, &object));
  audit_take(&scene.node, false, &audit);
  CHECK(audit.lost == 4 && audit.too_high == 0, "%lu lost: the chain's first, a link, a large one, an object", audit.lost);
  audit_take(&scene.node, true, &audit);
  scene_end(&scene);
}

/* Count 0 and on no list: in the hands of one who died. What it refers to is a surplus. */
static void test_in_dead_hands(void) {
  struct scene scene;
  struct af_audit audit;
  scene_make(&scene);
  af_block_hold(&scene.node, scene.tail);
  af_off dying = link_make(&scene.node, scene.tail), large = bytes_make(&scene.node, 100000), object;
  CHECK_OK(af_extent_allocate(&scene.node, 9000, &object));
  block_at(&scene.node, dying)->count = 0;
  block_at(&scene.node, large)->count = 0;
  block_at(&scene.node, object)->count = 0;
  audit_take(&scene.node, false, &audit);
  CHECK(audit.lost == 3 && audit.too_high == 1, "%lu lost, %lu too high", audit.lost, audit.too_high);
  audit_take(&scene.node, true, &audit);
  scene_end(&scene);
}

/* An actor in dead hands: its reader learns of it all the same; once. */
static void test_actor_in_dead_hands(void) {
  struct scene scene;
  struct af_audit audit;
  af_off mailbox, actor;
  uint32_t hold;
  scene_make(&scene);
  CHECK_OK(af_heap_allocate(&scene.node, sizeof(struct af_mailbox), AF_KIND_MAILBOX, AF_CONTROL, &mailbox));
  CHECK_OK(af_hold_record(&scene.node, mailbox, &hold));
  for (int told = 0; told < 2; told++) {
    CHECK_OK(af_heap_allocate(&scene.node, sizeof(struct af_actor), AF_KIND_ACTOR, AF_CONTROL, &actor));
    AF_AT(&scene.node, struct af_actor, actor)->mailbox = mailbox;
    af_block_hold(&scene.node, mailbox);
    block_at(&scene.node, actor)->count = 0;
    block_at(&scene.node, actor)->flags = (uint8_t)told;
    atomic_store(&AF_AT(&scene.node, struct af_mailbox, mailbox)->abandoned, 0);
    audit_take(&scene.node, true, &audit);
    CHECK(AF_AT(&scene.node, struct af_mailbox, mailbox)->abandoned == !told, "told %d", told);
    CHECK(block_at(&scene.node, mailbox)->count == 1, "its hold is dropped");
  }
  af_hold_drop(&scene.node, hold);
  scene_end(&scene);
}

static void test_broken(void) {
  struct scene scene;
  struct af_audit audit;
  scene_make(&scene);
  struct af_client *node = &scene.node;
  af_off *reference = AF_AT(node, af_off, scene.head + sizeof(struct af_object));
  static const af_off garbage[] = {1, 64, UINT64_MAX, UINT64_MAX - 63, 0x123456789abcdef0ull};
  for (int i = 0; i < 5; i++) {
    *reference = garbage[i];
    audit_take(node, false, &audit);
    CHECK(audit.broken == 1 && audit.lost == 1, "a reference to %lx: %lu broken", garbage[i], audit.broken);
  }
  *reference = scene.tail;
  struct af_span *span = af_span_at(node, af_span_of(node, scene.tail));
  af_off second = bytes_make(node, 200);
  af_block_drop(node, second);
  CHECK(span->local == second, "on the free list");
  block_at(node, second)->next = second;
  audit_take(node, false, &audit);
  CHECK(audit.broken > 0, "a free list that runs in a ring");
  block_at(node, second)->next = scene.tail;
  audit_take(node, false, &audit);
  CHECK(audit.broken > 0, "a live block on a free list");
  block_at(node, second)->next = 0;
  node->header->spans_used += 3;
  audit_take(node, false, &audit);
  CHECK(audit.broken == 1, "spans_used");
  audit_take(node, true, &audit);
  CHECK(audit.repaired == 1, "spans_used");
  node->header->object_bytes_used++;
  audit_take(node, false, &audit);
  CHECK(audit.broken == 1, "object_bytes_used");
  node->header->object_bytes_used--;
  scene_end(&scene);
}

/* ---- with others at work ---- */

struct busy { struct af_client *node; _Atomic bool stop; _Atomic uint32_t rounds; };

static void *busy_run(void *context) {
  struct busy *busy = context;
  struct af_client client;
  uint32_t holds[50] = {0}, count = 0;
  uint64_t state;
  client_attach(busy->node, &client); /* its own mapping: the recount reads plain fields, which only quiet makes sane */
  state = 17 + client.slot_index;
  while (!atomic_load(&busy->stop)) {
    if (count < 50 && random_next(&state) % 2) {
      uint32_t outer = af_op_begin(&client, 1);
      CHECK_OK(af_hold_record(&client, link_make(&client, bytes_make(&client, 500)), &holds[count++]));
      af_op_end(&client, outer);
    } else if (count > 0) {
      af_hold_drop(&client, holds[--count]);
    }
    atomic_fetch_add(&busy->rounds, 1);
  }
  client_detach(&client);
  return NULL;
}

static void test_among_busy(void) {
  struct af_client node;
  struct busy busy = {.node = &node};
  struct af_audit audit;
  pthread_t threads[2];
  segment_make(&node, 8 * MIB, MIB, MIB);
  for (int i = 0; i < 2; i++)
    pthread_create(&threads[i], NULL, busy_run, &busy);
  while (atomic_load(&busy.rounds) < 1000)
    sched_yield();
  for (uint32_t i = 0; i < ROUNDS(300); i++) {
    CHECK_OK(af_audit_run(&node, true, 100, &audit));
    CHECK(audit.consistent, "others were busy at every try");
    CHECK(audit.too_high + audit.too_low + audit.lost + audit.broken == 0 && audit.repaired == 0,
          "round %u: high %lu low %lu lost %lu broken %lu at %lx", i, audit.too_high, audit.too_low, audit.lost,
          audit.broken, audit.first_wrong);
  }
  atomic_store(&busy.stop, true);
  for (int i = 0; i < 2; i++)
    pthread_join(threads[i], NULL);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

/* One that is stopped inside an operation: the recount says that its figures are of no instant, and repairs nothing. */
static void test_stopped_inside(void) {
  struct af_client node, client;
  struct af_audit audit;
  segment_make(&node, 8 * MIB, MIB, MIB);
  client_attach(&node, &client);
  uint32_t outer = af_op_begin(&client, 1);
  af_off block = bytes_make(&client, 100);
  CHECK_OK(af_audit_run(&node, true, 2, &audit));
  CHECK(!audit.consistent && audit.repaired == 0 && block_at(&node, block)->count == 1, "left alone");
  af_block_drop(&client, block);
  af_op_end(&client, outer);
  audit_clean(&node, 0);
  client_detach(&client);
  af_segment_unmap(&node);
}

/* A recount that died: operations go on after a while. */
static void test_dead_recount(void) {
  struct af_client node, client;
  segment_make(&node, 8 * MIB, MIB, MIB);
  client_attach(&node, &client);
  atomic_store(&node.header->frozen, (uint64_t)7 << 32 | 12);
  af_block_drop(&client, bytes_make(&client, 100));
  CHECK(atomic_load(&node.header->frozen) == 0, "thawed");
  atomic_store(&node.header->frozen, (uint64_t)7 << 32 | 12);
  audit_clean(&node, 0);
  client_detach(&client);
  af_segment_unmap(&node);
}

int main(void) {
  RUN(test_counts);
  RUN(test_too_high);
  RUN(test_too_low);
  RUN(test_lost);
  RUN(test_in_dead_hands);
  RUN(test_actor_in_dead_hands);
  RUN(test_broken);
  RUN(test_among_busy);
  RUN(test_stopped_inside);
  RUN(test_dead_recount);
  return 0;
}
