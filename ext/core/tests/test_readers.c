/* test_readers.c - several readers of a mailbox: each call once, capacity, waking. */
#include "calls.h"

/* ---- several readers ---- */

struct crowd {
  struct af_client *node;
  af_off mailbox;
  uint32_t calls;             /* of each caller */
  _Atomic uint32_t *executed; /* by number */
  _Atomic uint32_t callers;   /* that have not ended */
};
struct member { struct crowd *crowd; uint32_t index; bool own_mapping; };

static void member_attach(struct member *member, struct af_client *client) {
  if (member->own_mapping)
    client_attach(member->crowd->node, client);
  else
    client_share(member->crowd->node, client);
}

static void *crowd_read(void *argument) {
  struct member *member = argument;
  struct crowd *crowd = member->crowd;
  struct af_client client;
  af_off cell;
  uint32_t hold;
  member_attach(member, &client);
  af_mailbox_join(&client, crowd->mailbox);
  while (take_wait(&client, crowd->mailbox, member->index % 2 ? 20000 : 0, &cell, &hold) == AF_OK) {
    uint64_t number = call_number(&client, cell);
    atomic_fetch_add(&crowd->executed[number], 1);
    CHECK_OK(call_answer(&client, cell, hold, number + 1));
    af_mailbox_task_done(&client);
  }
  af_mailbox_leave(&client, crowd->mailbox);
  if (!member->own_mapping)
    client_unshare(&client);
  else
    client_detach(&client);
  return NULL;
}

static void *crowd_call(void *argument) {
  struct member *member = argument;
  struct crowd *crowd = member->crowd;
  struct af_client client;
  af_off lane, cells[50];
  uint32_t holds[50];
  uint64_t base = (uint64_t)member->index * crowd->calls;
  member_attach(member, &client);
  CHECK_OK(af_lane_open(&client, crowd->mailbox, (uint16_t)(member->index % 3), &lane));
  for (uint32_t i = 0; i < crowd->calls + 50; i++) {
    if (i >= 50) {
      result_wait(&client, cells[i % 50], 5000);
      CHECK(call_result(&client, cells[i % 50]) == base + i - 50 + 1, "its own answer");
      af_hold_drop(&client, holds[i % 50]);
    }
    if (i < crowd->calls)
      CHECK_OK(call_send(&client, lane, base + i, &cells[i % 50], &holds[i % 50]));
  }
  af_lane_close(&client, lane);
  if (!member->own_mapping)
    client_unshare(&client);
  else
    client_detach(&client);
  return NULL;
}

#define CROWD 4u

static void crowd_check(struct crowd *crowd, uint32_t mailbox_hold) {
  struct af_mailbox_facts facts;
  for (uint32_t i = 0; i < CROWD * crowd->calls; i++)
    CHECK(crowd->executed[i] == 1, "call %u was executed %u times", i, crowd->executed[i]);
  af_mailbox_facts(crowd->node, crowd->mailbox, &facts);
  CHECK(facts.active == 0 && facts.readers == 0 && facts.blocked == 0 && facts.depth == 0, "active %u, readers %u",
        facts.active, facts.readers);
  af_hold_drop(crowd->node, mailbox_hold);
  audit_clean(crowd->node, 0);
}

static void test_readers_in_threads(void) {
  struct af_client node;
  struct crowd crowd = {&node, 0, ROUNDS(20000), NULL, CROWD};
  struct member members[2 * CROWD];
  pthread_t threads[2 * CROWD];
  uint32_t hold;
  segment_make(&node, 64 * MIB, 8 * MIB, 0);
  mailbox_make(&node, AF_MAILBOX_SHARED, 60, &crowd.mailbox, &hold);
  af_mailbox_allow(&node, crowd.mailbox, CROWD);
  crowd.executed = calloc(CROWD * crowd.calls, sizeof *crowd.executed);
  for (uint32_t i = 0; i < 2 * CROWD; i++) {
    members[i] = (struct member){&crowd, i % CROWD, false};
    pthread_create(&threads[i], NULL, i < CROWD ? crowd_call : crowd_read, &members[i]);
  }
  for (uint32_t i = 0; i < CROWD; i++)
    pthread_join(threads[i], NULL);
  CHECK_OK(af_mailbox_close(&node, crowd.mailbox, 0, 0));
  for (uint32_t i = CROWD; i < 2 * CROWD; i++)
    pthread_join(threads[i], NULL);
  crowd_check(&crowd, hold);
  free(crowd.executed);
  af_segment_unmap(&node);
}

static void test_readers_in_processes(void) {
  struct af_client node;
  struct crowd crowd = {&node, 0, ROUNDS(20000), NULL, CROWD};
  struct member members[2 * CROWD];
  pid_t children[2 * CROWD];
  uint32_t hold;
  segment_make(&node, 64 * MIB, 8 * MIB, 0);
  mailbox_make(&node, AF_MAILBOX_SHARED, 60, &crowd.mailbox, &hold);
  af_mailbox_allow(&node, crowd.mailbox, 2);
  crowd.executed = shared_memory(CROWD * crowd.calls * sizeof *crowd.executed);
  for (uint32_t i = 0; i < 2 * CROWD; i++) {
    members[i] = (struct member){&crowd, i % CROWD, true};
    if ((children[i] = child_fork()) == 0) {
      (i < CROWD ? crowd_call : crowd_read)(&members[i]);
      _exit(0);
    }
  }
  for (uint32_t i = 0; i < CROWD; i++)
    child_join(children[i]);
  CHECK_OK(af_mailbox_close(&node, crowd.mailbox, 0, 0));
  for (uint32_t i = CROWD; i < 2 * CROWD; i++)
    child_join(children[i]);
  crowd_check(&crowd, hold);
  af_segment_unmap(&node);
}

/* ---- capacity ---- */

static uint32_t active(struct af_client *client, af_off mailbox) {
  struct af_mailbox_facts facts;
  af_mailbox_facts(client, mailbox, &facts);
  return facts.active;
}

static void test_capacity(void) {
  struct af_client node, readers[3];
  af_off mailbox, lane, cells[3], board;
  uint32_t hold, holds[3], token;
  uint8_t index;
  segment_make(&node, 8 * MIB, MIB, 0);
  mailbox_make(&node, AF_MAILBOX_SHARED, 100, &mailbox, &hold);
  CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
  CHECK_OK(af_board_create(&node, &index, &board));
  for (uint32_t i = 0; i < 6; i++)
    send_only(&node, lane, i);
  for (int i = 0; i < 3; i++) {
    client_attach(&node, &readers[i]);
    af_mailbox_join(&readers[i], mailbox);
  }
  nothing_to_take(&readers[0], mailbox); /* nothing is allowed yet */
  CHECK(af_mailbox_allow(&node, mailbox, 1) == 1, "allowed");
  CHECK_OK(af_mailbox_take(&readers[0], mailbox, &cells[0], &holds[0]));
  nothing_to_take(&readers[1], mailbox);
  uint64_t inside = af_mailbox_block(&readers[0]); /* waits inside its call: another may */
  CHECK(active(&node, mailbox) == 0, "given back");
  CHECK_OK(af_mailbox_take(&readers[1], mailbox, &cells[1], &holds[1]));
  nothing_to_take(&readers[2], mailbox);
  af_mailbox_unblock(&readers[0], inside);
  CHECK(active(&node, mailbox) == 2, "goes on beyond what is allowed");
  CHECK(af_mailbox_allow(&node, mailbox, 0) == 2, "no lower than what executes");
  CHECK(af_mailbox_allow(&node, mailbox, 3) == 3, "raised");
  CHECK_OK(af_mailbox_take(&readers[2], mailbox, &cells[2], &holds[2]));
  for (int i = 0; i < 3; i++) {
    CHECK_OK(call_answer(&readers[i], cells[i], holds[i], 0));
    af_mailbox_task_done(&readers[i]);
    af_mailbox_task_done(&readers[i]); /* once a task */
  }
  CHECK(active(&node, mailbox) == 0, "all done");
  /* nobody to wake: the node's bell rings once */
  atomic_store(&mailbox_of(&node, mailbox)->node_bell, af_watch_make(0, node.epoch, index, 5));
  send_only(&node, lane, 7);
  CHECK(af_board_take(&node, index, &token, 1, false) == 1 && token == 5, "rung");
  send_only(&node, lane, 8);
  CHECK(af_board_take(&node, index, &token, 1, false) == 0, "once");
  for (int i = 0; i < 3; i++) {
    af_mailbox_leave(&readers[i], mailbox);
    client_detach(&readers[i]);
  }
  af_hold_drop(&node, hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

/* Several threads wait inside one call: what is given back stays so until none of them does. */
static void test_threads_inside(void) {
  struct af_client node, reader;
  af_off mailbox, lane, cell;
  uint32_t hold, call_hold;
  struct af_mailbox_facts facts;
  segment_make(&node, 8 * MIB, MIB, 0);
  mailbox_make(&node, AF_MAILBOX_SHARED, 100, &mailbox, &hold);
  CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
  client_attach(&node, &reader);
  af_mailbox_join(&reader, mailbox);
  CHECK(af_mailbox_allow(&node, mailbox, 1) == 1, "allowed");
  CHECK(af_mailbox_block(&reader) == 0, "outside of calls");
  af_mailbox_unblock(&reader, 0);
  for (uint32_t round = 0; round < 3; round++) {
    send_only(&node, lane, round);
    CHECK_OK(af_mailbox_take(&reader, mailbox, &cell, &call_hold));
    uint64_t first = af_mailbox_block(&reader), second = af_mailbox_block(&reader);
    af_mailbox_unblock(&reader, first);
    CHECK(active(&node, mailbox) == 0, "one waits still");
    if (round == 0)
      af_mailbox_unblock(&reader, second);
    CHECK(active(&node, mailbox) == (round == 0), "what runs after the last wait");
    if (round == 2) { /* an event loop takes another call while a thread of the first waits */
      send_only(&node, lane, 9);
      CHECK_OK(call_answer(&reader, cell, call_hold, 0));
      CHECK_OK(af_mailbox_take(&reader, mailbox, &cell, &call_hold));
      af_mailbox_unblock(&reader, second);
      CHECK(active(&node, mailbox) == 1, "counted once");
    }
    CHECK_OK(call_answer(&reader, cell, call_hold, 0));
    af_mailbox_task_done(&reader);
    af_mailbox_facts(&node, mailbox, &facts);
    CHECK(facts.active == 0 && facts.blocked == 0, "active %u, blocked %u after it", facts.active, facts.blocked);
    if (round == 1) { /* a thread outlives its call: nothing of the next one is its own */
      send_only(&node, lane, 8);
      CHECK_OK(af_mailbox_take(&reader, mailbox, &cell, &call_hold));
      af_mailbox_unblock(&reader, second);
      CHECK(active(&node, mailbox) == 1, "as before");
      CHECK_OK(call_answer(&reader, cell, call_hold, 0));
      af_mailbox_task_done(&reader);
      CHECK(active(&node, mailbox) == 0, "active after the next");
    }
  }
  af_mailbox_leave(&reader, mailbox);
  client_detach(&reader);
  af_hold_drop(&node, hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

/* Bits of lanes that no page has: said, not looped over; closing settles what there is. */
static void test_garbage_mail(void) {
  for (uint8_t flags = AF_MAILBOX_ORDERED; flags <= AF_MAILBOX_SHARED; flags++) {
    struct af_client node;
    af_off mailbox, lane, sent, cell;
    uint32_t hold, sent_hold, cell_hold, error_hold;
    segment_make(&node, 8 * MIB, MIB, 0);
    af_off error = error_make(&node, &error_hold);
    mailbox_make(&node, flags, 100, &mailbox, &hold);
    CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
    CHECK_OK(call_send(&node, lane, 1, &sent, &sent_hold));
    if (flags & AF_MAILBOX_SHARED) {
      af_mailbox_join(&node, mailbox);
      CHECK(af_mailbox_allow(&node, mailbox, 1) == 1, "allowed");
    }
    atomic_fetch_or(&mailbox_of(&node, mailbox)->page.mail, 1ull << 50);
    CHECK(af_mailbox_take(&node, mailbox, &cell, &cell_hold) == AF_BAD, "garbage");
    CHECK(active(&node, mailbox) == 0 && mailbox_of(&node, mailbox)->lock == 0, "nothing is kept");
    CHECK_OK(af_mailbox_close(&node, mailbox, error, 9));
    CHECK(cell_of(&node, sent)->value == error && !af_mailbox_has_mail(&node, mailbox), "settled");
    af_mailbox_leave(&node, mailbox);
    af_hold_drop(&node, sent_hold);
    af_hold_drop(&node, error_hold);
    af_hold_drop(&node, hold);
    audit_clean(&node, 0);
    af_segment_unmap(&node);
  }
}

/* A reader that waits is woken by a push, by capacity, by another's block, whatever it is doing just then. */
struct sleeper { struct af_client client; af_off mailbox; uint32_t calls; uint64_t spin_ns; };

static void *sleep_and_serve(void *argument) {
  struct sleeper *sleeper = argument;
  af_off cell;
  uint32_t hold;
  for (uint32_t i = 0; i < sleeper->calls; i++) {
    CHECK_OK(take_wait(&sleeper->client, sleeper->mailbox, sleeper->spin_ns, &cell, &hold));
    CHECK_OK(call_answer(&sleeper->client, cell, hold, i));
  }
  return NULL;
}

static void test_wakes(void) {
  struct af_client node;
  af_off lane, cell;
  uint32_t hold, call_hold;
  segment_make(&node, 8 * MIB, MIB, 0);
  for (uint64_t spin_ns = 0; spin_ns <= 10000; spin_ns += 5000) {
    struct sleeper sleeper = {.calls = ROUNDS(3000), .spin_ns = spin_ns};
    pthread_t thread;
    client_share(&node, &sleeper.client);
    mailbox_make(&node, AF_MAILBOX_ORDERED, 100, &sleeper.mailbox, &hold);
    CHECK_OK(af_lane_open(&node, sleeper.mailbox, 0, &lane));
    pthread_create(&thread, NULL, sleep_and_serve, &sleeper);
    for (uint32_t i = 0; i < sleeper.calls; i++) {
      CHECK_OK(call_send(&node, lane, i, &cell, &call_hold));
      result_wait(&node, cell, i % 3 * 4000);
      CHECK(call_result(&node, cell) == i, "answer");
      af_hold_drop(&node, call_hold);
    }
    pthread_join(thread, NULL);
    CHECK(mailbox_of(&node, sleeper.mailbox)->sleepers == 0, "nobody sleeps");
    client_unshare(&sleeper.client);
    af_hold_drop(&node, hold);
  }
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

int main(void) {
  RUN(test_readers_in_threads);
  RUN(test_readers_in_processes);
  RUN(test_capacity);
  RUN(test_threads_inside);
  RUN(test_garbage_mail);
  RUN(test_wakes);
  return 0;
}
