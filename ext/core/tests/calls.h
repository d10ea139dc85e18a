/* calls.h - what the tests of the calls half share: sending, answering, reading results as the upper layer does it. */
#ifndef AF_TEST_CALLS_H
#define AF_TEST_CALLS_H
#include "harness.h"

#include <sys/mman.h>

#define CALL_RESERVE 64u
#define NEVER_NS UINT64_MAX

static inline struct af_cell *cell_of(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}
static inline struct af_mailbox *mailbox_of(const struct af_client *client, af_off mailbox) {
  return AF_AT(client, struct af_mailbox, mailbox);
}

/* A call that carries one number and follows `arguments` (each counted for it here). Recorded, not yet sent. A call
 * with arguments keeps its mailbox alive. */
static inline int call_make(struct af_client *client, af_off mailbox, uint64_t number, const af_off *arguments,
                            uint32_t argument_count, af_off *cell, uint32_t *hold) {
  uint32_t references = argument_count == 0 ? 0 : argument_count + 1;
  uint32_t outer = af_op_begin(client, 1);
  int status = af_cell_create(client, references, sizeof number, CALL_RESERVE, cell);
  if (status == AF_OK && af_hold_record(client, *cell, hold) != AF_OK) {
    af_block_drop(client, *cell);
    status = AF_FULL;
  }
  if (status == AF_OK) {
    af_off *to = af_cell_references(client, *cell);
    for (uint32_t i = 0; i < references; i++) {
      af_off reference = i < argument_count ? arguments[i] : mailbox;
      af_block_hold(client, reference);
      to[i] = reference;
    }
    cell_of(client, *cell)->arguments = argument_count;
    cell_of(client, *cell)->mailbox = mailbox;
    memcpy(af_cell_bytes(client, *cell), &number, sizeof number);
  }
  af_op_end(client, outer);
  return status;
}

static inline int call_send(struct af_client *client, af_off lane, uint64_t number, af_off *cell, uint32_t *hold) {
  uint32_t outer = af_op_begin(client, 1);
  int status = call_make(client, AF_AT(client, struct af_lane, lane)->mailbox, number, NULL, 0, cell, hold);
  if (status == AF_OK) {
    status = af_cell_submit(client, lane, *cell);
    if (status != AF_OK)
      af_hold_drop(client, *hold);
  }
  af_op_end(client, outer);
  return status;
}

static inline uint64_t call_number(const struct af_client *client, af_off cell) {
  uint64_t number;
  memcpy(&number, af_cell_bytes(client, cell), sizeof number);
  return number;
}

/* Completes a started call with a number, and lets go of it. */
static inline int call_answer(struct af_client *client, af_off cell, uint32_t hold, uint64_t number) {
  af_off block;
  uint8_t *where;
  uint32_t outer = af_op_begin(client, 1);
  int status = af_cell_result_begin(client, cell, 0, sizeof number, &block, &where);
  if (status == AF_OK) {
    memcpy(where, &number, sizeof number);
    status = af_cell_complete(client, cell, block, 0, sizeof number, 1);
  }
  af_hold_drop(client, hold);
  af_op_end(client, outer);
  return status;
}

/* The number that a done cell has as its value. */
static inline uint64_t call_result(const struct af_client *client, af_off cell) {
  const struct af_cell *of = cell_of(client, cell);
  uint64_t number;
  const void *from = of->value == 0 ? (const void *)af_cell_value(client, cell)
                                    : (const void *)(AF_AT(client, struct af_object, of->value) + 1);
  memcpy(&number, from, sizeof number);
  return number;
}

/* Takes, waiting; AF_CLOSED when closed, else AF_OK. */
static inline int take_wait(struct af_client *client, af_off mailbox, uint64_t spin_ns, af_off *cell,
                            uint32_t *hold) {
  for (;;) {
    int status = af_mailbox_take(client, mailbox, cell, hold);
    if (status == AF_OK || status == AF_CLOSED)
      return status;
    CHECK(status == AF_EMPTY || status == AF_BUSY, "take gave %d", status);
    af_mailbox_wait(client, mailbox, spin_ns, AF_SLEEP_MS * 1000000ull);
  }
}

static inline void result_wait(struct af_client *client, af_off cell, uint64_t spin_ns) {
  if (af_cell_spin(client, cell, spin_ns))
    return;
  while (!af_cell_is_done(client, cell))
    af_cell_sleep(client, cell, NEVER_NS);
}

/* Memory that this process and its children see, zeroed. */
static inline void *shared_memory(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED, "mmap");
  return memory;
}

/* An error value, recorded. */
static inline af_off error_make(struct af_client *client, uint32_t *hold) {
  af_off error = bytes_make(client, 128);
  AF_AT(client, struct af_object, error)->bytes = 8;
  CHECK_OK(af_hold_record(client, error, hold));
  return error;
}

static inline void mailbox_make(struct af_client *node, uint8_t flags, uint32_t credit, af_off *mailbox, uint32_t *hold) {
  CHECK_OK(af_mailbox_create(node, flags, 0, credit, mailbox));
  CHECK_OK(af_hold_record(node, *mailbox, hold));
}

static inline void nothing_to_take(struct af_client *client, af_off mailbox) {
  af_off cell;
  uint32_t hold;
  int status = af_mailbox_take(client, mailbox, &cell, &hold);
  CHECK(status == AF_EMPTY, "take gave %d", status);
}

/* Sends without keeping the reference. */
static inline void send_only(struct af_client *client, af_off lane, uint64_t number) {
  af_off cell;
  uint32_t hold;
  CHECK_OK(call_send(client, lane, number, &cell, &hold));
  af_hold_drop(client, hold);
}

/* A node with a mailbox and one lane to it. */
struct fixture {
  struct af_client node;
  af_off mailbox, lane, error;
  uint32_t mailbox_hold, error_hold;
};

static inline void fixture_make(struct fixture *fixture, uint8_t flags) {
  segment_make(&fixture->node, 64 * MIB, 8 * MIB, 0);
  CHECK_OK(af_mailbox_create(&fixture->node, flags, 0, 100000, &fixture->mailbox));
  CHECK_OK(af_hold_record(&fixture->node, fixture->mailbox, &fixture->mailbox_hold));
  CHECK_OK(af_lane_open(&fixture->node, fixture->mailbox, 0, &fixture->lane));
  fixture->error = error_make(&fixture->node, &fixture->error_hold);
}

/* Everything that the test did not drop itself is a leak. */
static inline void fixture_end(struct fixture *fixture) {
  af_hold_drop(&fixture->node, fixture->error_hold);
  af_hold_drop(&fixture->node, fixture->mailbox_hold);
  audit_clean(&fixture->node, 0);
  af_segment_unmap(&fixture->node);
}
#endif
