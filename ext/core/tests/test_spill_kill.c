/* test_spill_kill.c - a process ends, or is stopped, at every numbered point of spilling: one that reads and frees values
 * while they go to disk and come back, and one that moves them. The others go on, every value is what it was, and after
 * the settling the books agree and nothing is left. */
#include "harness.h"

#include <sched.h>

#include "coroner.h"
#include "points.h"
#include "spill.h"

#define BYTES (2u * AF_PAGE)
#define CELLS 10u
#define OWN 4u
#define STEPS 400u
#define ROUNDS_MOST (4 * HITS + 8)
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define HITS 3u
#else
#define HITS 50u
#endif

static const struct { int number; bool moves; } points[] = {
#define X(number, what) {number, false},
    AF_POINTS_SPILL_READERS(X)
#undef X
#define X(number, what) {number, true},
        AF_POINTS_SPILL_MOVER(X)
#undef X
};

struct party { /* a process, as far as it takes part */
  struct af_client *client;
  af_off cells[CELLS]; /* of the node, which all read */
  af_off own[OWN];     /* that it made itself, 0: none */
  uint32_t cell_holds[CELLS], own_holds[OWN];
  uint64_t random;
};

static uint32_t dice(struct party *party, uint32_t sides) { return random_next(&party->random) % sides; }
static struct af_object *object_at(struct af_client *client, af_off block) {
  return AF_AT(client, struct af_object, block);
}

/* ---- values: what they hold follows from their cell's name, so that the test needs no disk ---- */

static uint8_t fill_of(const struct af_client *client, af_off cell) {
  return (uint8_t)(cell / AF_LINE * 7 + af_block_generation(client, cell));
}

static void fill(struct af_client *client, af_off cell, af_off block) {
  struct af_object *object = object_at(client, block);
  uint64_t skip = object->references * sizeof(af_off);
  memset((uint8_t *)(object + 1) + skip, fill_of(client, cell), object->bytes - skip);
}

/* A DONE cell with an object that refers to a small value. */
static af_off value_make(struct party *party, uint32_t *hold) {
  struct af_client *client = party->client;
  af_off inner, cell, block;
  uint32_t outer = af_op_begin(client, 1);
  CHECK_OK(af_cell_expected_create(client, 0, &cell));
  CHECK_OK(af_hold_record(client, cell, hold));
  if (af_extent_allocate(client, BYTES, &block) != AF_OK) { /* full: an empty value */
    CHECK_OK(af_cell_complete(client, cell, 0, 0, 0, 2));
    af_op_end(client, outer);
    return cell;
  }
  CHECK_OK(af_cell_value_create(client, 0, 8, &inner));
  struct af_object *object = object_at(client, block);
  object->bytes = BYTES - sizeof *object;
  *(af_off *)(void *)(object + 1) = inner;
  object->references = 1;
  fill(client, cell, block);
  CHECK_OK(af_cell_complete(client, cell, block, 0, 0, 2));
  af_op_end(client, outer);
  return cell;
}

static void value_check(struct af_client *client, af_off cell, af_off block) {
  const struct af_object *object = object_at(client, block);
  const uint8_t *data = (const uint8_t *)(object + 1);
  CHECK(object->references == 1 && af_block_is_live(client, *(const af_off *)(const void *)data), "what it refers to");
  CHECK(data[8] == fill_of(client, cell) && data[object->bytes - 1] == fill_of(client, cell), "not what was written");
}

static bool is_on_disk(const struct af_client *client, af_off cell) {
  return (af_value_word(client, cell) & AF_VALUE_SPILLED) != 0;
}

/* ---- who reads ---- */

/* False: it lies on disk. */
static bool read_one(struct party *party, af_off cell) {
  uint32_t hold;
  af_off block;
  bool is_spilled;
  int status = af_value_hold(party->client, cell, &block, &is_spilled, &hold);
  if (status == AF_EMPTY)
    return true;
  CHECK_OK(status);
  if (is_spilled)
    af_spill_ask(party->client, block);
  else
    value_check(party->client, cell, block);
  af_hold_drop(party->client, hold);
  return !is_spilled;
}

static void own_turn(struct party *party) {
  uint32_t which = dice(party, OWN);
  if (party->own[which] == 0)
    party->own[which] = value_make(party, &party->own_holds[which]);
  else {
    for (uint32_t i = 0; party->client->point == 324 && i < 100 && !is_on_disk(party->client, party->own[which]); i++)
      sched_yield(); /* whose block this one is to give back */
    af_hold_drop(party->client, party->own_holds[which]);
    party->own[which] = 0;
  }
}

static void read_step(struct party *party) {
  uint32_t what = dice(party, 10);
  if (what < 5)
    read_one(party, party->cells[dice(party, CELLS)]);
  else if (what < 9)
    own_turn(party);
  else
    af_room_ask(party->client, BYTES);
}

/* ---- who moves ---- */

static void write_one(struct party *party) {
  struct af_spill_candidate candidates[4];
  struct af_spill_pins pins;
  af_off spilled;
  uint32_t count = af_spill_pick(party->client, candidates, 4, 0, false);
  if (count == 0)
    return;
  const struct af_spill_candidate *chosen = &candidates[dice(party, count)];
  if (af_spill_begin(party->client, chosen->block, chosen->generation, &pins) != AF_OK)
    return;
  if (dice(party, 8) == 0)
    af_spill_abort(party->client, &pins);
  else if (af_spill_commit(party->client, &pins, &spilled) != AF_OK) /* its cell was dropped meanwhile */
    af_spill_abort(party->client, &pins);
}

static void bring_back(struct party *party, af_off spilled) {
  struct af_client *client = party->client;
  struct af_spill_pins pins;
  if (dice(party, 8) == 0) {
    af_restore_fail(client, spilled, AF_SPILL_NO_ROOM);
    return;
  }
  if (af_restore_begin(client, spilled, &pins) != AF_OK)
    return;
  /* Between the references, which the commit copies, and the end. */
  af_off block = af_hold_block(client, pins.block_hold);
  struct af_object *object = object_at(client, block);
  memset((uint8_t *)(object + 1) + sizeof(af_off), fill_of(client, AF_AT(client, struct af_spilled, spilled)->cell),
         object->bytes - sizeof(af_off));
  af_restore_commit(client, spilled, &pins);
}

static void returned_free(struct party *party) {
  af_off returned[16];
  uint32_t count = af_spill_returned(party->client, returned, 16);
  for (uint32_t i = 0; i < count; i++)
    af_spill_free(party->client, returned[i]);
}

static void bring_back_any(struct party *party) {
  struct af_client *client = party->client;
  af_off cell = party->cells[dice(party, CELLS)], asked[AF_SPILL_ASKED];
  af_spill_asked(client, asked, AF_SPILL_ASKED); /* one that was asked for may be gone; these are not */
  if (is_on_disk(client, cell))
    bring_back(party, af_value_block(client, cell));
}

static void move_step(struct party *party) {
  uint32_t what = dice(party, 8);
  if (what < 4)
    write_one(party);
  else if (what < 7)
    bring_back_any(party);
  else
    returned_free(party);
}

/* ---- the one that dies ---- */

static void victim_run(const struct party *node, uint32_t at, int signal, uint32_t seed, uint32_t countdown) {
  struct af_client client;
  struct party party = {.client = &client, .random = 77 + seed * 1000 + at};
  uint32_t index, epoch;
  memcpy(party.cells, node->cells, sizeof party.cells);
  CHECK_OK(af_segment_map(&client, dup(node->client->memfd)));
  CHECK_OK(af_slot_reserve(&client, AF_ROLE_WORKER, 0, &index, &epoch));
  CHECK_OK(af_slot_claim(&client, index, epoch));
  client.point = points[at].number;
  client.point_signal = signal;
  client.point_countdown = (int32_t)countdown;
  for (uint32_t i = 0; i < STEPS; i++) {
    if (points[at].moves)
      move_step(&party);
    read_step(&party);
  }
  client.point = -1;
  for (uint32_t i = 0; i < OWN; i++)
    if (party.own[i] != 0)
      af_hold_drop(&client, party.own_holds[i]);
  client_detach(&client);
  _exit(0);
}

/* ---- the node ---- */

static void turn(struct party *party, bool moves) {
  if (moves)
    move_step(party);
  read_step(party);
}

static void settle(struct af_client *node) {
  struct af_settlement settlement;
  for (uint32_t i = 1; i < node->header->slot_count; i++) {
    uint64_t owner = atomic_load(&af_slot_at(node, i)->owner);
    if (af_slot_state_of(owner) == AF_SLOT_FREE)
      continue;
    CHECK_OK(af_coroner_settle(node, i, af_slot_epoch_of(owner), false, 0, 3, &settlement));
    CHECK(!settlement.recount_owed, "the recount was not of one instant");
  }
}

/* Every value can be had; then all is dropped. */
static void end(struct party *party) {
  struct af_client *node = party->client;
  for (uint32_t i = 0; i < 200; i++)
    turn(party, true);
  for (uint32_t i = 0; i < CELLS; i++) {
    while (!read_one(party, party->cells[i]))
      bring_back(party, af_value_block(node, party->cells[i]));
    af_hold_drop(node, party->cell_holds[i]);
  }
  for (uint32_t i = 0; i < OWN; i++)
    if (party->own[i] != 0)
      af_hold_drop(node, party->own_holds[i]);
  while (atomic_load(&node->header->spill_returned) != 0)
    returned_free(party);
  CHECK(atomic_load(&node->header->object_bytes_used) == 0, "objects are left");
  audit_clean(node, 0);
}

/* One death, or stop and then death. Returns whether the point was met. */
static bool round_run(uint32_t at, int signal, uint32_t seed, uint32_t countdown) {
  struct af_client node;
  struct party party = {.client = &node, .random = 5 + seed};
  int status;
  pid_t seen;
  segment_make(&node, 16 * MIB, MIB, 2 * (CELLS + OWN) * BYTES);
  for (uint32_t i = 0; i < CELLS; i++)
    party.cells[i] = value_make(&party, &party.cell_holds[i]);
  pid_t pid = child_fork();
  if (pid == 0)
    victim_run(&party, at, signal, seed, countdown);
  while ((seen = waitpid(pid, &status, WNOHANG | WUNTRACED)) == 0)
    turn(&party, !points[at].moves);
  CHECK(seen == pid, "waitpid");
  CHECK(!WIFEXITED(status) || WEXITSTATUS(status) == 0, "point %d: the victim's checks failed", points[at].number);
  bool met = !WIFEXITED(status);
  if (WIFSTOPPED(status)) {
    for (uint32_t i = 0; i < 200; i++)
      turn(&party, !points[at].moves);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
  }
  settle(&node);
  end(&party);
  af_segment_unmap(&node);
  return met;
}

/* At its first passing, its second ...; nearer ones when the victim's work was over before. */
static void points_run(int signal) {
  for (uint32_t at = 0; at < sizeof points / sizeof points[0]; at++) {
    uint32_t met = 0, furthest = 16;
    for (uint32_t i = 0; i < ROUNDS_MOST && met < HITS; i++) {
      bool hit = round_run(at, signal, i, i % (furthest + 1));
      met += hit;
      furthest = hit ? furthest : furthest / 2;
    }
    CHECK(met == HITS, "point %d was met %u times", points[at].number, met);
  }
}

static void test_killed_at_every_point(void) { points_run(SIGKILL); }
static void test_stopped_at_every_point(void) { points_run(SIGSTOP); }

int main(void) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  RUN(test_killed_at_every_point);
  RUN(test_stopped_at_every_point);
  return 0;
}
