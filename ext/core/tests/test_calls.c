/* test_calls.c - mailboxes and lanes: order, fairness, depth, credit, close, orphans, several readers, capacity. */
#include "calls.h"

#define MANY 10000u

static void mailbox_make(struct af_client *node, uint8_t flags, uint32_t credit, af_off *mailbox, uint32_t *hold) {
  CHECK_OK(af_mailbox_create(node, flags, 0, credit, mailbox));
  CHECK_OK(af_hold_record(node, *mailbox, hold));
}

/* Takes a call that must be there, answers it with its number + 1; returns the number. */
static uint64_t serve_one(struct af_client *client, af_off mailbox) {
  af_off cell;
  uint32_t hold;
  CHECK_OK(af_mailbox_take(client, mailbox, &cell, &hold));
  uint64_t number = call_number(client, cell);
  CHECK_OK(call_answer(client, cell, hold, number + 1));
  return number;
}

static void nothing_to_take(struct af_client *client, af_off mailbox) {
  af_off cell;
  uint32_t hold;
  int status = af_mailbox_take(client, mailbox, &cell, &hold);
  CHECK(status == AF_EMPTY, "take gave %d", status);
}

/* Sends without keeping the reference. */
static void send_only(struct af_client *client, af_off lane, uint64_t number) {
  af_off cell;
  uint32_t hold;
  CHECK_OK(call_send(client, lane, number, &cell, &hold));
  af_hold_drop(client, hold);
}

static void test_order(void) {
  struct af_client node;
  af_off mailbox, lane, cell;
  uint32_t mailbox_hold, hold, next = 0;
  segment_make(&node, 32 * MIB, 4 * MIB, 0);
  mailbox_make(&node, AF_MAILBOX_ORDERED, MANY, &mailbox, &mailbox_hold);
  CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
  for (uint32_t i = 0; i < MANY; i++) {
    CHECK_OK(call_send(&node, lane, i, &cell, &hold));
    CHECK(af_cell_phase(&node, cell) == AF_UNREAD, "unread");
    af_hold_drop(&node, hold);
    if (i % 3 == 0)
      CHECK(serve_one(&node, mailbox) == next++, "in the order made");
  }
  while (next < MANY)
    CHECK(serve_one(&node, mailbox) == next++, "in the order made");
  nothing_to_take(&node, mailbox);
  af_hold_drop(&node, mailbox_hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

/* Calls left in a mailbox that goes away go with it. */
static void test_mailbox_dies_full(void) {
  struct af_client node;
  af_off mailbox, lane;
  uint32_t hold;
  segment_make(&node, 32 * MIB, 4 * MIB, 0);
  mailbox_make(&node, 0, MANY, &mailbox, &hold);
  CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
  for (uint32_t i = 0; i < 2000; i++)
    send_only(&node, lane, i);
  for (uint32_t i = 0; i < 700; i++)
    serve_one(&node, mailbox);
  af_hold_drop(&node, hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

static void test_fairness(void) {
  struct af_client node;
  af_off mailbox, lanes[5];
  uint32_t hold, rounds = 40;
  segment_make(&node, 8 * MIB, MIB, 0);
  mailbox_make(&node, 0, 1000, &mailbox, &hold);
  for (uint32_t i = 0; i < 5; i++) {
    CHECK_OK(af_lane_open(&node, mailbox, 3, &lanes[i]));
    for (uint32_t j = 0; j < rounds; j++)
      send_only(&node, lanes[i], i);
  }
  for (uint32_t j = 0; j < rounds; j++) {
    uint32_t seen = 0;
    for (uint32_t i = 0; i < 5; i++)
      seen |= 1u << serve_one(&node, mailbox);
    CHECK(seen == 31, "each lane once a round, not %x", seen);
  }
  af_hold_drop(&node, hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

static void test_deepest_first(void) {
  struct af_client node;
  af_off mailbox, lanes[4];
  const uint16_t depths[4] = {1, 300, 0, 7};
  const uint64_t order[8] = {300, 300, 7, 7, 1, 1, 0, 0};
  uint32_t hold;
  segment_make(&node, 8 * MIB, MIB, 0);
  mailbox_make(&node, 0, 1000, &mailbox, &hold);
  for (uint32_t i = 0; i < 4; i++) {
    CHECK_OK(af_lane_open(&node, mailbox, depths[i], &lanes[i]));
    send_only(&node, lanes[i], depths[i]);
    send_only(&node, lanes[i], depths[i]);
  }
  for (uint32_t i = 0; i < 8; i++)
    CHECK(serve_one(&node, mailbox) == order[i], "place %u", i);
  af_hold_drop(&node, hold);
  af_segment_unmap(&node);
}

/* More lanes than a page has; those of writers that left go away once they are empty, and their places are used again. */
static void test_orphans(void) {
  struct af_client node;
  af_off mailbox, lanes[130];
  uint32_t hold;
  struct af_mailbox_facts facts;
  segment_make(&node, 8 * MIB, MIB, 0);
  mailbox_make(&node, 0, 1000, &mailbox, &hold);
  for (int again = 0; again < 3; again++) {
    for (uint32_t i = 0; i < 130; i++) {
      CHECK_OK(af_lane_open(&node, mailbox, 0, &lanes[i]));
      if (i % 2 == 0)
        send_only(&node, lanes[i], i);
      af_lane_close(&node, lanes[i]);
    }
    af_mailbox_facts(&node, mailbox, &facts);
    CHECK(facts.depth == 65, "depth %lu", facts.depth);
    for (uint32_t i = 0; i < 65; i++)
      serve_one(&node, mailbox);
    nothing_to_take(&node, mailbox);
    CHECK(!af_mailbox_has_mail(&node, mailbox), "no bit is left");
    af_mailbox_facts(&node, mailbox, &facts);
    CHECK(facts.lanes == 0, "%u lanes are left", facts.lanes);
    audit_clean(&node, 3); /* mailbox and two further pages */
  }
  af_hold_drop(&node, hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

struct writer { struct af_client *client; af_off lane; uint32_t calls; };

static void *write_calls(void *argument) {
  struct writer *writer = argument;
  for (uint32_t i = 0; i < writer->calls;) {
    af_off cell;
    uint32_t hold;
    int status = call_send(writer->client, writer->lane, i, &cell, &hold);
    if (status == AF_OK) {
      af_hold_drop(writer->client, hold);
      i++;
    } else {
      CHECK(status == AF_FULL, "send gave %d", status);
      af_lane_wait_room(writer->client, writer->lane, NEVER_NS);
    }
  }
  return NULL;
}

static void test_credit(void) {
  struct af_client node, client;
  af_off mailbox, lane, cell;
  uint32_t mailbox_hold, hold;
  segment_make(&node, 8 * MIB, MIB, 0);
  client_share(&node, &client);
  mailbox_make(&node, AF_MAILBOX_ORDERED, 10, &mailbox, &mailbox_hold);
  CHECK_OK(af_lane_open(&client, mailbox, 0, &lane));
  for (uint32_t i = 0; i < 10; i++)
    send_only(&client, lane, i);
  CHECK(call_send(&client, lane, 10, &cell, &hold) == AF_FULL, "credit is used up");
  CHECK(af_lane_wait_room(&client, lane, 1) == AF_TIMEOUT, "no room");
  serve_one(&node, mailbox);
  CHECK_OK(af_lane_wait_room(&client, lane, 1));
  send_only(&client, lane, 10);
  for (uint32_t i = 1; i <= 10; i++)
    CHECK(serve_one(&node, mailbox) == i, "in order");
  /* a writer that is much faster than the reader is held back, and loses no wake */
  struct writer writer = {&client, lane, ROUNDS(20000)};
  pthread_t thread;
  pthread_create(&thread, NULL, write_calls, &writer);
  for (uint32_t i = 0; i < writer.calls; i++) {
    CHECK_OK(take_wait(&node, mailbox, 10000, &cell, &hold));
    CHECK(call_number(&node, cell) == i, "in order");
    CHECK_OK(call_answer(&node, cell, hold, 0));
  }
  pthread_join(thread, NULL);
  client_unshare(&client);
  af_hold_drop(&node, mailbox_hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

static void test_room_watch(void) {
  struct af_client node;
  af_off mailbox, lane, board;
  uint32_t hold, token;
  uint8_t index;
  segment_make(&node, 8 * MIB, MIB, 0);
  mailbox_make(&node, 0, 4, &mailbox, &hold);
  CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
  CHECK_OK(af_board_create(&node, &index, &board));
  for (uint32_t i = 0; i < 4; i++)
    send_only(&node, lane, i);
  AF_AT(&node, struct af_lane, lane)->room_watch = af_watch_make(0, node.epoch, index, 77);
  serve_one(&node, mailbox);
  CHECK(af_board_take(&node, index, &token, 1, false) == 0, "not before half of the credit is there");
  serve_one(&node, mailbox);
  CHECK(af_board_take(&node, index, &token, 1, false) == 1 && token == 77, "rung");
  af_hold_drop(&node, hold);
  af_segment_unmap(&node);
}

static void check_failed(struct af_client *client, af_off cell, af_off error) {
  CHECK(af_cell_is_done(client, cell), "settled");
  CHECK(cell_of(client, cell)->value == error && cell_of(client, cell)->value_format == 9, "with the error");
}

static void test_close(void) {
  struct af_client node;
  af_off mailbox, lane, sent[20], expected, waiting;
  uint32_t hold, holds[20], expected_hold, waiting_hold, error_hold;
  segment_make(&node, 8 * MIB, MIB, 0);
  for (int ordered = 0; ordered < 2; ordered++) {
    mailbox_make(&node, ordered ? AF_MAILBOX_ORDERED : AF_MAILBOX_SHARED, 100, &mailbox, &hold);
    af_off error = error_make(&node, &error_hold);
    CHECK_OK(af_lane_open(&node, mailbox, 0, &lane));
    for (uint32_t i = 0; i < 20; i++)
      CHECK_OK(call_send(&node, lane, i, &sent[i], &holds[i]));
    CHECK_OK(af_cell_expected_create(&node, 64, &expected));
    CHECK_OK(af_hold_record(&node, expected, &expected_hold));
    CHECK_OK(call_make(&node, mailbox, 20, &expected, 1, &waiting, &waiting_hold));
    CHECK_OK(af_cell_submit(&node, lane, waiting));
    CHECK_OK(af_mailbox_close(&node, mailbox, error, 9));
    for (uint32_t i = 0; i < 20; i++) {
      check_failed(&node, sent[i], error);
      af_hold_drop(&node, holds[i]);
    }
    CHECK(af_cell_is_done(&node, waiting) == (ordered != 0), "an unordered one is settled when it becomes ready");
    CHECK_OK(af_cell_complete(&node, expected, 0, 0, 0, 1));
    check_failed(&node, waiting, error);
    CHECK(call_send(&node, lane, 1, &sent[0], &holds[0]) == AF_CLOSED, "closed");
    CHECK(af_lane_open(&node, mailbox, 0, &lane) == AF_CLOSED, "closed");
    CHECK(af_mailbox_take(&node, mailbox, &sent[0], &holds[0]) == AF_CLOSED, "closed and empty");
    CHECK_OK(af_mailbox_wait(&node, mailbox, 0, NEVER_NS));
    CHECK_OK(af_mailbox_close(&node, mailbox, error, 9));
    af_hold_drop(&node, waiting_hold);
    af_hold_drop(&node, expected_hold);
    af_hold_drop(&node, error_hold);
    af_hold_drop(&node, hold);
    audit_clean(&node, 0);
  }
  af_segment_unmap(&node);
}

/* A mailbox' first call is not pushed: its reader asks for it; close settles it. */
static void test_first(void) {
  struct af_client node;
  af_off mailbox, argument, first;
  uint32_t hold, argument_hold, first_hold, error_hold, started_hold;
  segment_make(&node, 8 * MIB, MIB, 0);
  af_off error = error_make(&node, &error_hold);
  for (int closed = 0; closed < 2; closed++) {
    mailbox_make(&node, AF_MAILBOX_ORDERED, 100, &mailbox, &hold);
    CHECK_OK(af_cell_expected_create(&node, 64, &argument));
    CHECK_OK(af_hold_record(&node, argument, &argument_hold));
    CHECK_OK(call_make(&node, mailbox, 1, &argument, 1, &first, &first_hold));
    af_block_hold(&node, first);
    mailbox_of(&node, mailbox)->first = first;
    CHECK_OK(af_cell_submit(&node, 0, first));
    CHECK(af_cell_start(&node, first) == AF_BUSY, "it waits");
    if (closed)
      CHECK_OK(af_mailbox_close(&node, mailbox, error, 9));
    CHECK_OK(af_cell_complete(&node, argument, 0, 0, 0, 1));
    if (closed)
      check_failed(&node, first, error);
    else {
      CHECK_OK(af_cell_start(&node, first));
      CHECK_OK(af_hold_take(&node, first, &started_hold));
      CHECK_OK(call_answer(&node, first, started_hold, 5));
    }
    af_hold_drop(&node, first_hold);
    af_hold_drop(&node, argument_hold);
    af_hold_drop(&node, hold);
  }
  af_hold_drop(&node, error_hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

/* A call that waits holds back its lane, not the others; one that is cancelled while it waits does not. */
static void test_waiting_head(void) {
  struct af_client node;
  af_off mailbox, lanes[2], argument, waiting;
  uint32_t hold, argument_hold, waiting_hold, error_hold;
  segment_make(&node, 8 * MIB, MIB, 0);
  af_off error = error_make(&node, &error_hold);
  for (int cancelled = 0; cancelled < 2; cancelled++) {
    mailbox_make(&node, AF_MAILBOX_ORDERED, 100, &mailbox, &hold);
    CHECK_OK(af_lane_open(&node, mailbox, 0, &lanes[0]));
    CHECK_OK(af_lane_open(&node, mailbox, 0, &lanes[1]));
    CHECK_OK(af_cell_expected_create(&node, 64, &argument));
    CHECK_OK(af_hold_record(&node, argument, &argument_hold));
    CHECK_OK(call_make(&node, mailbox, 1, &argument, 1, &waiting, &waiting_hold));
    CHECK_OK(af_cell_submit(&node, lanes[0], waiting));
    send_only(&node, lanes[0], 2);
    send_only(&node, lanes[1], 3);
    CHECK(serve_one(&node, mailbox) == 3, "the other lane goes on");
    nothing_to_take(&node, mailbox);
    CHECK(!af_mailbox_has_mail(&node, mailbox), "the reader may sleep");
    if (cancelled)
      CHECK_OK(af_cell_fail(&node, waiting, 0, error, 9));
    else
      CHECK_OK(af_cell_complete(&node, argument, 0, 0, 0, 1));
    CHECK(af_mailbox_has_mail(&node, mailbox), "told");
    if (!cancelled)
      CHECK(serve_one(&node, mailbox) == 1, "first");
    CHECK(serve_one(&node, mailbox) == 2, "behind it");
    nothing_to_take(&node, mailbox);
    if (cancelled)
      CHECK_OK(af_cell_complete(&node, argument, 0, 0, 0, 1)); /* lets go of what followed it */
    af_hold_drop(&node, waiting_hold);
    af_hold_drop(&node, argument_hold);
    af_hold_drop(&node, hold);
  }
  af_hold_drop(&node, error_hold);
  audit_clean(&node, 0);
  af_segment_unmap(&node);
}

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
  af_mailbox_block(&readers[0]); /* waits inside its call: another may */
  CHECK(active(&node, mailbox) == 0, "given back");
  CHECK_OK(af_mailbox_take(&readers[1], mailbox, &cells[1], &holds[1]));
  nothing_to_take(&readers[2], mailbox);
  af_mailbox_unblock(&readers[0]);
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
  RUN(test_order);
  RUN(test_mailbox_dies_full);
  RUN(test_fairness);
  RUN(test_deepest_first);
  RUN(test_orphans);
  RUN(test_credit);
  RUN(test_room_watch);
  RUN(test_close);
  RUN(test_first);
  RUN(test_waiting_head);
  RUN(test_readers_in_threads);
  RUN(test_readers_in_processes);
  RUN(test_capacity);
  RUN(test_wakes);
  return 0;
}
