/* test_channel_kill.c - a process ends, or is stopped, at every numbered point of the channels. Its peers learn of its
 * death, after having read what it had published, whole and in order; others go on all the while; the books agree.
 *
 * A round: the victim writes channel A and reads channel B, its partner the other way round, and each is a second reader
 * of what it writes itself; the victim also makes channels of its own. Two bystanders send values to and fro for as long as
 * the world stands. AF_CRASH_ROUNDS, AF_CRASH_POINT: as in test_crash.c. */
#include "channels.h"

#include <sched.h>
#include <sys/mman.h>

#include "coroner.h"

#define STEPS 400u
#define DEADLINE_NS 20000000000ull
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS_EACH 3u
#else
#define ROUNDS_EACH 50u
#endif

static const int points[] = {
#define X(number, what) number,
    AF_POINTS_CHANNEL(X)
#undef X
};

/* Seen by all processes. */
struct common { _Atomic uint64_t bystander_values; _Atomic uint32_t met, partner_ready; };
struct world {
  struct af_client node;
  struct common *common;
  af_off apart[2];        /* of the bystanders */
  uint32_t apart_holds[2];
  pid_t bystanders[2];
  af_off channels[2];     /* of a round: A, B */
  uint32_t holds[2];
};

/* ---- what both sides of a round do ---- */

struct member {
  struct af_client client;
  af_off out, in;
  uint32_t holds[2];
  uint64_t written, read_out, read_in; /* values of `out` written, and read by oneself; values of `in` read */
  uint64_t random;
  uint8_t board;
};
#define OWN_READER 2u   /* of what a member writes itself */
#define OTHER_READER 1u

static uint32_t dice(struct member *member, uint32_t sides) { return random_next(&member->random) % sides; }

static void member_begin(struct member *member, af_off out, af_off in) {
  struct af_client *client = &member->client;
  af_off unused;
  member->out = out;
  member->in = in;
  CHECK_OK(af_board_create(client, &member->board, &unused));
  CHECK_OK(af_hold_take(client, out, &member->holds[0]));
  CHECK_OK(af_hold_take(client, in, &member->holds[1]));
  CHECK_OK(af_channel_claim(client, out, AF_CHANNEL_WRITER));
  CHECK_OK(af_channel_claim(client, out, OWN_READER));
  CHECK_OK(af_channel_claim(client, in, OTHER_READER));
}

/* In order: closes its ends before it leaves. */
static void member_end(struct member *member) {
  struct af_client *client = &member->client;
  af_channel_close(client, member->out);
  af_channel_close(client, member->in);
  af_hold_drop(client, member->holds[0]);
  af_hold_drop(client, member->holds[1]);
  client_detach(client);
}

/* One value along one of its ends, if there is one. The state of that end. */
static int move(struct member *member, uint32_t which) {
  struct af_client *client = &member->client;
  af_off channel = which == 2 ? member->in : member->out;
  uint32_t end = which == 0 ? AF_CHANNEL_WRITER : which == 1 ? OWN_READER : OTHER_READER;
  int found = af_channel_look(client, channel, end);
  if (found != AF_OK)
    return found;
  if (which == 0)
    number_write(client, channel, member->written++);
  else if (which == 1)
    number_read(client, channel, end, member->read_out++);
  else
    number_read(client, channel, end, member->read_in++);
  return AF_OK;
}

/* Waits a moment for one of its ends, in one of the ways that there are. */
static void rest(struct member *member) {
  struct af_client *client = &member->client;
  bool writes = dice(member, 2);
  af_off channel = writes ? member->out : member->in;
  uint32_t end = writes ? AF_CHANNEL_WRITER : OTHER_READER, token;
  if (dice(member, 2)) {
    af_channel_sleep(client, channel, end, 1000000);
    return;
  }
  af_channel_watch(client, channel, end, af_watch_make(client->slot_index, client->epoch, member->board, end));
  if (af_channel_look(client, channel, end) == AF_EMPTY)
    af_board_wait(client, member->board, 0, 1000000);
  af_channel_watch(client, channel, end, 0);
  while (af_board_take(client, member->board, &token, 1, false) > 0)
    ;
}

/* ---- the victim ---- */

/* Writer and reader of a channel of its own; the reader is marked as one who sleeps and is watched. */
static void keep_to_itself(struct member *member) {
  struct af_client *client = &member->client;
  uint32_t hold;
  af_off channel = channel_make(client, 2, 1, &hold);
  for (uint32_t end = 0; end < 2; end++) {
    CHECK_OK(af_channel_claim(client, channel, end));
    af_channel_watch(client, channel, end, af_watch_make(client->slot_index, client->epoch, member->board, end));
    atomic_store(&channel_of(client, channel)->ends[end].asleep, 1);
  }
  uint64_t first = dice(member, WAYS);
  for (uint64_t number = first; number < first + 4; number++) {
    number_write(client, channel, number);
    if (number != first + 3)
      number_read(client, channel, 1, number);
  }
  if (dice(member, 2))
    af_channel_close(client, channel);
  af_hold_drop(client, hold);
}

static void victim_run(struct world *world, uint32_t slot, uint32_t epoch, int number, int signal, uint32_t seed,
                       uint32_t countdown) {
  struct member member = {.random = 31 + seed * 131 + (uint32_t)number * 7};
  CHECK_OK(af_segment_map(&member.client, dup(world->node.memfd)));
  member.client.point = number;
  member.client.point_signal = signal;
  member.client.point_countdown = (int32_t)countdown;
  CHECK_OK(af_slot_claim(&member.client, slot, epoch));
  member_begin(&member, world->channels[0], world->channels[1]);
  for (uint32_t turn = 0; turn < STEPS; turn++) {
    uint32_t what = dice(&member, 12);
    if (what == 0)
      rest(&member);
    else if (what == 1)
      keep_to_itself(&member);
    else
      move(&member, what % 3);
  }
  member_end(&member);
  _exit(0);
}

/* ---- its partner: goes on until both channels are closed or broken and all that was published is read ---- */

static void partner_run(struct world *world, uint32_t seed) {
  struct member member = {.random = 977 + seed * 17};
  uint64_t moved_ns = af_now_ns();
  client_attach(&world->node, &member.client);
  member_begin(&member, world->channels[1], world->channels[0]);
  atomic_store(&world->common->partner_ready, 1);
  for (bool over = false; !over;) {
    bool moved = false;
    over = true;
    for (uint32_t which = 0; which < 3; which++) {
      int found = move(&member, which);
      moved |= found == AF_OK;
      over &= found == AF_CLOSED;
    }
    moved_ns = moved ? af_now_ns() : moved_ns;
    CHECK(af_now_ns() - moved_ns < DEADLINE_NS, "the partner was never told");
    if (!moved && !over)
      rest(&member);
  }
  member_end(&member);
  _exit(0);
}

/* ---- the bystanders: what one writes the other sends back ---- */

/* Sleeps until the end is ready. False: the channel is closed. */
static bool bystander_wait(struct af_client *client, af_off channel, uint32_t end) {
  int found;
  do
    found = af_channel_sleep(client, channel, end, AF_SLEEP_MS * 1000000ull);
  while (found != AF_OK && found != AF_CLOSED);
  return found == AF_OK;
}

static void bystander_run(struct world *world, uint32_t which) {
  struct af_client client;
  uint32_t hold;
  af_off out = world->apart[which], in = world->apart[1 - which];
  client_attach(&world->node, &client);
  CHECK_OK(af_hold_take(&client, out, &hold));
  CHECK_OK(af_hold_take(&client, in, &hold));
  CHECK_OK(af_channel_claim(&client, out, AF_CHANNEL_WRITER));
  CHECK_OK(af_channel_claim(&client, in, 1));
  for (uint64_t number = 0;; number++) {
    if (which == 1 && !bystander_wait(&client, in, 1))
      break;
    if (which == 1)
      number_read(&client, in, 1, number);
    if (!bystander_wait(&client, out, AF_CHANNEL_WRITER))
      break;
    number_write(&client, out, number);
    if (which == 0 && !bystander_wait(&client, in, 1))
      break;
    if (which == 0)
      number_read(&client, in, 1, number);
    atomic_store(&world->common->bystander_values, number);
  }
  client_detach(&client);
  _exit(0);
}

/* ---- the node ---- */

static void settle(struct world *world, uint32_t slot, uint32_t epoch, int number) {
  struct af_settlement settlement;
  int status;
  do
    status = af_coroner_settle(&world->node, slot, epoch, false, 0, 0, &settlement);
  while (status == AF_BUSY);
  CHECK(status == AF_OK || status == AF_STALE, "point %d: settle gave %d", number, status);
  struct af_audit audit = {.consistent = status != AF_OK || !settlement.recount_owed};
  while (!audit.consistent)
    CHECK_OK(af_audit_run(&world->node, true, 10, &audit));
}

static void others_go_on(struct world *world, int number) {
  uint64_t before = atomic_load(&world->common->bystander_values), since = af_now_ns();
  while (atomic_load(&world->common->bystander_values) < before + 4) {
    CHECK(af_now_ns() - since < DEADLINE_NS, "point %d: the others stand still", number);
    sched_yield();
  }
}

static void books_check(struct world *world, int number) {
  struct af_audit audit;
  do
    CHECK_OK(af_audit_run(&world->node, false, 10, &audit));
  while (!audit.consistent);
  CHECK(audit.too_high == 0 && audit.too_low == 0 && audit.lost == 0 && audit.broken == 0,
        "point %d: too high %lu, too low %lu, lost %lu, broken %lu, first at %lx (kind %u)", number, audit.too_high,
        audit.too_low, audit.lost, audit.broken, audit.first_wrong, block_at(&world->node, audit.first_wrong)->kind);
}

/* One death, or stop and then death. Returns whether the point was met. */
static bool round_run(struct world *world, int number, int signal, uint32_t seed, uint32_t countdown) {
  uint32_t slot, epoch;
  int status;
  for (uint32_t i = 0; i < 2; i++)
    world->channels[i] = channel_make(&world->node, 2 + seed % 3, 2, &world->holds[i]);
  atomic_store(&world->common->partner_ready, 0);
  pid_t partner = child_fork();
  if (partner == 0)
    partner_run(world, seed);
  while (!atomic_load(&world->common->partner_ready))
    sched_yield(); /* a victim that is gone before its partner came would tell nobody */
  CHECK_OK(af_slot_reserve(&world->node, AF_ROLE_WORKER, 0, &slot, &epoch));
  pid_t victim = child_fork();
  if (victim == 0)
    victim_run(world, slot, epoch, number, signal, seed, countdown);
  CHECK(waitpid(victim, &status, WUNTRACED) == victim, "waitpid");
  CHECK(!WIFEXITED(status) || WEXITSTATUS(status) == 0, "point %d: the victim's checks failed", number);
  bool met = !WIFEXITED(status);
  if (WIFSTOPPED(status)) {
    others_go_on(world, number);
    kill(victim, SIGKILL);
    CHECK(waitpid(victim, &status, 0) == victim, "waitpid");
  }
  settle(world, slot, epoch, number);
  for (uint32_t i = 0; i < 2; i++)
    if (met && number == 821) /* perhaps before it had an end of this one: then nobody could know */
      af_channel_close(&world->node, world->channels[i]);
  child_join(partner);
  for (uint32_t i = 0; i < 2; i++) {
    enum af_channel_state state = af_channel_state(&world->node, world->channels[i]);
    CHECK(state == (met ? AF_CHANNEL_BROKEN : AF_CHANNEL_CLOSED) || number == 821, "point %d: state %d", number, state);
    af_hold_drop(&world->node, world->holds[i]);
  }
  others_go_on(world, number);
  books_check(world, number);
  af_heap_trim(&world->node);
  return met;
}

static void world_make(struct world *world) {
  memset(world, 0, sizeof *world);
  world->common = mmap(NULL, AF_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  segment_make(&world->node, 32 * MIB, MIB, 4 * MIB);
  for (uint32_t i = 0; i < 2; i++)
    world->apart[i] = channel_make(&world->node, 2, 1, &world->apart_holds[i]);
  for (uint32_t i = 0; i < 2; i++)
    if ((world->bystanders[i] = child_fork()) == 0)
      bystander_run(world, i);
}

static void world_end(struct world *world) {
  for (uint32_t i = 0; i < 2; i++)
    af_channel_close(&world->node, world->apart[i]);
  for (uint32_t i = 0; i < 2; i++)
    child_join(world->bystanders[i]);
  for (uint32_t i = 0; i < 2; i++)
    af_hold_drop(&world->node, world->apart_holds[i]);
  audit_clean(&world->node, 0);
  af_segment_unmap(&world->node);
  munmap(world->common, AF_PAGE);
}

/* At its first passing, its second ...; nearer ones when the victim's work was over before. */
static void point_run(int number, int signal, uint32_t rounds) {
  struct world world;
  uint32_t met = 0, furthest = 16;
  world_make(&world);
  for (uint32_t i = 0; i < 4 * rounds + 8 && met < rounds; i++) {
    bool hit = round_run(&world, number, signal, i, furthest == 0 ? 0 : i % (furthest + 1));
    met += hit;
    furthest = hit ? furthest : furthest / 2;
  }
  CHECK(met == rounds, "point %d was met %u times", number, met);
  world_end(&world);
}

static void points_run(int signal) {
  const char *rounds = getenv("AF_CRASH_ROUNDS"), *only = getenv("AF_CRASH_POINT");
  for (uint32_t i = 0; i < sizeof points / sizeof points[0]; i++)
    if (only == NULL || atoi(only) == points[i])
      point_run(points[i], signal, rounds == NULL ? ROUNDS_EACH : (uint32_t)atoi(rounds));
}

static void test_killed_at_every_point(void) { points_run(SIGKILL); }
static void test_stopped_at_every_point(void) { points_run(SIGSTOP); }

int main(void) {
  RUN(test_killed_at_every_point);
  RUN(test_stopped_at_every_point);
  return 0;
}
