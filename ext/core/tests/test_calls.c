/* test_calls.c - mailboxes and lanes: order, fairness, depth, credit, close, orphans. */
#include "calls.h"

#define MANY 10000u

/* Takes a call that must be there, answers it with its number + 1; returns the number. */
static uint64_t serve_one(struct af_client *client, af_off mailbox) {
  af_off cell;
  uint32_t hold;
  CHECK_OK(af_mailbox_take(client, mailbox, &cell, &hold));
  uint64_t number = call_number(client, cell);
  CHECK_OK(call_answer(client, cell, hold, number + 1));
  return number;
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
  const _Atomic uint32_t *room = &AF_AT(&node, struct af_lane, lane)->room;
  for (uint32_t i = 0; i < 10; i++)
    send_only(&client, lane, i);
  CHECK(call_send(&client, lane, 10, &cell, &hold) == AF_FULL, "credit is used up");
  CHECK(af_lane_wait_room(&client, lane, 1) == AF_TIMEOUT, "no room");
  serve_one(&node, mailbox);
  CHECK(atomic_load(room) == 1, "not told before half of the credit is there");
  CHECK_OK(af_lane_wait_room(&client, lane, 1));
  send_only(&client, lane, 10);
  for (uint32_t i = 1; i <= 10; i++)
    CHECK(serve_one(&node, mailbox) == i, "in order");
  CHECK(atomic_load(room) == 0, "told");
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

int main(void) {
  RUN(test_order);
  RUN(test_mailbox_dies_full);
  RUN(test_fairness);
  RUN(test_deepest_first);
  RUN(test_orphans);
  RUN(test_credit);
  RUN(test_close);
  RUN(test_first);
  RUN(test_waiting_head);
  return 0;
}
