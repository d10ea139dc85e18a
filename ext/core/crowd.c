/* crowd.c - finding out whether more processes want the CPUs than there are; see crowd.h. */
#include "crowd.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "slot.h"

#define YIELD_TAKEN_NS 20000ull
#define YIELD_LONG_NS 700000ull
#define YIELDS_CROWDED 3u
#define YIELDS_WINDOW_NS 100000000ull /* with more than this between them they are accidents */
#define CROWDED_LEAST_MS 20u
#define CROWDED_MOST_MS 640u
#define CROWDED_LOOKS_MOST 16u        /* about eight seconds */
#define CROWDED_AGAIN 4u              /* times that span: later than this it is another time */

static uint64_t relaxed(const _Atomic uint64_t *hint) { return atomic_load_explicit(hint, memory_order_relaxed); }

/* Only hints change, so a client that is const to the caller will do. */
static struct af_client *hints_of(const struct af_client *client) { return (struct af_client *)(uintptr_t)client; }

static uint32_t cpus_online(void) {
  static _Atomic uint32_t known; /* sysconf reads a file: once */
  uint32_t count = atomic_load_explicit(&known, memory_order_relaxed);
  if (count == 0) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    count = online > 0 ? (uint32_t)online : 1;
    atomic_store_explicit(&known, count, memory_order_relaxed);
  }
  return count;
}

/* Processes of the segment that let others have their CPU just now: runnable for the kernel, but in nobody's way. */
static uint32_t count_yielding(const struct af_client *client) {
  uint32_t count = 0, slots = client->slot != NULL ? client->header->slot_count : 0;
  for (uint32_t i = 0; i < slots; i++) {
    const struct af_slot *slot = af_slot_at(client, i);
    uint64_t owner = atomic_load_explicit(&slot->owner, memory_order_relaxed);
    if (owner == 0)
      break; /* the lowest are taken first: from here on none was ever used */
    if (af_slot_state_of(owner) == AF_SLOT_LIVE)
      count += atomic_load_explicit(&slot->yielding, memory_order_relaxed);
  }
  return count;
}

/* More threads runnable (this one among them) than CPUs, by the fourth field of /proc/loadavg. */
static bool too_many_run(const struct af_client *client) {
  char text[64] = "";
  int file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
  if (file < 0)
    return false;
  ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  unsigned running = 0;
  return length > 0 && sscanf(text, "%*s %*s %*s %u/", &running) == 1 &&
         running > cpus_online() + count_yielding(client);
}

static void stay(struct af_client *client, uint64_t ms, uint64_t now) {
  atomic_store_explicit(&client->crowded_ms, (uint32_t)ms, memory_order_relaxed);
  atomic_store_explicit(&client->crowded_until_ns, now + ms * 1000000u, memory_order_relaxed);
}

static uint64_t doubled(uint64_t ms) { return 2 * ms <= CROWDED_MOST_MS ? 2 * ms : CROWDED_MOST_MS; }

/* It was crowded until a short while ago, as that is measured. */
static bool crowded_lately(const struct af_client *client, uint64_t ms, uint64_t now) {
  return ms != 0 && now - relaxed(&client->crowded_until_ns) <= CROWDED_AGAIN * ms * 1000000u;
}

static void long_yield(struct af_client *client, uint64_t now) {
  uint64_t ms = atomic_load_explicit(&client->crowded_ms, memory_order_relaxed);
  atomic_store_explicit(&client->crowded_looks, 0, memory_order_relaxed);
  if (crowded_lately(client, ms, now)) {
    stay(client, doubled(ms), now);
    return;
  }
  uint64_t last = relaxed(&client->long_yield_ns);
  atomic_store_explicit(&client->long_yield_ns, now, memory_order_relaxed);
  if (now - last > YIELDS_WINDOW_NS)
    atomic_store_explicit(&client->long_yields, 0, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&client->long_yields, 1, memory_order_relaxed) + 1 >= YIELDS_CROWDED)
    stay(client, CROWDED_LEAST_MS, now);
}

/* At the end of a crowded time the first who comes looks again; the others take it as over meanwhile. */
bool af_crowded(const struct af_client *client, uint64_t now) {
  uint64_t until = relaxed(&client->crowded_until_ns);
  if (now < until)
    return true;
  uint64_t ms = atomic_load_explicit(&client->crowded_ms, memory_order_relaxed);
  if (ms == 0 || relaxed(&client->crowd_seen_ns) == until)
    return false;
  atomic_store_explicit(&hints_of(client)->crowd_seen_ns, until, memory_order_relaxed);
  uint32_t looks = atomic_load_explicit(&client->crowded_looks, memory_order_relaxed);
  if (!crowded_lately(client, ms, now) || looks >= CROWDED_LOOKS_MOST || !too_many_run(client))
    return false;
  atomic_store_explicit(&hints_of(client)->crowded_looks, looks + 1, memory_order_relaxed);
  stay(hints_of(client), doubled(ms), now);
  return true;
}

static void note_yielding(const struct af_client *client, bool yielding) {
  if (client->slot != NULL)
    atomic_store_explicit(&client->slot->yielding, yielding, memory_order_relaxed);
}

bool af_yield(const struct af_client *client, bool patient) {
  uint64_t before = af_now_ns();
  if (af_crowded(client, before))
    return false;
  note_yielding(client, true);
  sched_yield();
  note_yielding(client, false);
  uint64_t after = af_now_ns();
  if (after - before > YIELD_LONG_NS)
    long_yield(hints_of(client), after);
  return after - before <= (patient ? YIELD_LONG_NS : YIELD_TAKEN_NS);
}
