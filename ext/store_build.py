"""Builds `actorflow.shm._store`: the C core as the node, the tools and the tests call it, through cffi in API mode.

The core keeps no state of its own, so this module and `actorflow._hot` can each contain it and still share one client:
`_hot.client_address()` is what every function here is given. cffi releases the GIL on every call, so what is here is
coarse and off the way of a call.
"""

import os
from glob import glob

import cffi

CORE = os.path.join(os.path.dirname(__file__) or ".", "core")

CDEF = """
typedef uint64_t af_off;
struct af_client { ...; };

#define AF_VERSION ...
#define AF_KIND_COUNT ...
#define AF_SLEEP_MS ...

/* slots */
struct af_store_slot {
  uint32_t state, epoch, pid, role, job, parent, inside, token, blocked, stepping, leave;
  uint64_t running, serving;
};
int af_slot_reserve(struct af_client *client, uint32_t role, uint32_t job, uint32_t *index, uint32_t *epoch);
void af_slot_unreserve(struct af_client *client, uint32_t index, uint32_t epoch);
int af_store_slot_read(struct af_client *client, uint32_t index, struct af_store_slot *facts);
int32_t af_store_slot_next(struct af_client *client, uint32_t from, uint32_t role);
int af_store_slot_ask_leave(struct af_client *client, uint32_t index, uint32_t epoch, bool leave);

/* mailboxes */
struct af_mailbox_facts {
  uint64_t depth;
  uint32_t allowed, active, readers, blocked, sleepers, closed, abandoned, lanes;
};
void af_mailbox_facts(const struct af_client *client, af_off mailbox, struct af_mailbox_facts *facts);
uint32_t af_mailbox_allow(struct af_client *node, af_off mailbox, uint32_t allowed);
int af_mailbox_close(struct af_client *node, af_off mailbox, af_off error, uint8_t format);
void af_mailbox_rouse(struct af_client *client, af_off mailbox);
int af_block_find(const struct af_client *client, af_off block, uint32_t generation, uint8_t kind);
int af_store_error_create(struct af_client *client, const uint8_t *data, uint32_t bytes, const af_off *held,
                          uint32_t count, af_off *block, uint32_t *hold);
void af_hold_drop(struct af_client *client, uint32_t index);

/* coroner */
struct af_settlement {
  uint32_t calls_failed, calls_retried, holds_dropped, lanes_orphaned, inside_operation, repaired, recount_owed;
};
int af_coroner_settle(struct af_client *node, uint32_t slot, uint32_t epoch, bool retry, af_off error, uint8_t format,
                      struct af_settlement *settlement);
struct af_store_doomed { uint64_t call, function; uint32_t function_generation, attempt, method; };
uint32_t af_store_doomed_read(struct af_client *node, uint32_t slot, uint32_t epoch, bool retry,
                              struct af_store_doomed *found, uint32_t most);
int af_store_doomed_fail(struct af_client *node, uint32_t slot, uint32_t epoch, af_off call, af_off error,
                         uint8_t format);
int af_coroner_overdue(struct af_client *node, uint64_t limit_ns);

/* audit */
struct af_audit {
  uint64_t blocks[...];
  uint64_t bytes, object_bytes, too_high, too_low, lost, broken, repaired;
  uint32_t consistent;
  af_off first_wrong;
};
int af_audit_run(struct af_client *client, bool repair, uint32_t tries, struct af_audit *audit);
bool af_extent_check(struct af_client *client);

/* who holds what */
struct af_ledger_hold { af_off block; uint32_t generation, kind; };
#define AF_LEDGER_MEMORY ...
#define AF_LEDGER_DISK ...
#define AF_MADE_PUT ...
struct af_maker { af_off code; uint32_t generation; uint16_t method, how; };
struct af_ledger_value {
  af_off cell, block;
  uint64_t bytes;
  uint32_t cell_generation, places, references, slot, epoch;
  struct af_maker maker;
};
uint32_t af_ledger_values(const struct af_client *client, struct af_ledger_value *values, uint32_t most);
uint32_t af_ledger_holds(const struct af_client *client, uint32_t slot, struct af_ledger_hold *holds, uint32_t most);

/* segment */
struct af_store_segment {
  uint8_t node_id[16];
  uint32_t version, node_pid, node_state, slot_count, span_count, control_spans, spans_used, audits;
  uint64_t size_bytes, object_bytes, object_bytes_used;
};
void af_store_segment_read(const struct af_client *client, struct af_store_segment *facts);

/* heap */
void af_heap_trim(struct af_client *client);
void af_heap_punch(struct af_client *node, uint32_t keep);

/* spilling: the node */
struct af_spill_candidate { af_off block; uint32_t generation, used; uint64_t bytes; };
struct af_spill_pins { uint32_t cell_hold, block_hold; uint64_t bytes; af_off copy; };
void af_store_spill_open(struct af_client *node, af_off mailbox, uint32_t wait_ms);
uint64_t af_store_room_wanted(struct af_client *node);
void af_store_room_quiet(struct af_client *node);
void af_store_spill_failed(struct af_client *node, const char *path, uint64_t free_bytes);
uint32_t af_spill_pick(struct af_client *node, struct af_spill_candidate *candidates, uint32_t most, uint64_t least,
                       bool written);
int af_spill_begin(struct af_client *node, af_off block, uint32_t generation, struct af_spill_pins *pins);
int af_spill_commit(struct af_client *node, const struct af_spill_pins *pins, af_off *spilled);
void af_spill_abort(struct af_client *node, const struct af_spill_pins *pins);
int af_restore_begin(struct af_client *node, af_off spilled, struct af_spill_pins *pins);
void af_restore_commit(struct af_client *node, af_off spilled, const struct af_spill_pins *pins);
void af_restore_fail(struct af_client *node, af_off spilled, int failure);
uint32_t af_spill_asked(struct af_client *node, af_off *asked, uint32_t most);
uint32_t af_spill_returned(struct af_client *node, af_off *returned, uint32_t most);
void af_spill_free(struct af_client *node, af_off spilled);
void af_room_ring(struct af_client *client);
uint64_t af_store_spilled_bytes(struct af_client *node, af_off spilled);
uint8_t *af_store_pinned(struct af_client *node, const struct af_spill_pins *pins);
int af_store_disk_write(int fd, const uint8_t *data, uint64_t bytes, uint64_t offset, uint64_t *sum);
int af_store_disk_read(int fd, uint8_t *data, uint64_t bytes, uint64_t offset, uint64_t *sum);
uint64_t af_store_disk_sum(const uint8_t *data, uint64_t bytes);
uint32_t af_store_object_header_bytes(void);

/* lineage: the node */
struct af_lineage_fact { af_off lineage; uint32_t generation; uint64_t sequence, charged; };
void af_store_lineage_open(struct af_client *node, uint64_t limit_bytes);
uint64_t af_store_lineage_bytes(const struct af_client *node);
uint32_t af_lineage_list(struct af_client *node, struct af_lineage_fact *facts, uint32_t most);
int af_lineage_empty(struct af_client *node, af_off lineage, uint32_t generation);
void af_lineage_prune(struct af_client *node);
int af_lineage_of(struct af_client *node, af_off spilled, af_off *lineage, uint32_t *hold, uint32_t *index);
int af_lineage_look(const struct af_client *node, af_off lineage);
void af_store_lineage_counts(const struct af_client *node, af_off lineage, uint32_t *inputs, uint32_t *returns);
int af_lineage_input(struct af_client *node, af_off lineage, uint32_t i, af_off *of, uint32_t *hold, uint32_t *index);
int af_lineage_run(struct af_client *node, af_off lineage, const af_off *instead, uint32_t *holds);
void af_lineage_ran(struct af_client *node, af_off lineage, af_off call);
int af_lineage_deliver(struct af_client *node, af_off spilled, af_off cell);
void af_spill_lose(struct af_client *node, af_off spilled, af_off error);
void af_spill_rebuilding(struct af_client *node, af_off spilled, bool on);
void af_store_spilled_cell(const struct af_client *node, af_off spilled, af_off *cell, uint32_t *generation);
bool af_store_spilled_lost(const struct af_client *node, af_off spilled);
uint32_t af_store_generation(const struct af_client *client, af_off block);
int af_hold_take(struct af_client *client, af_off block, uint32_t *index);
af_off af_hold_block(const struct af_client *client, uint32_t index);

/* this process */
bool af_store_has_retries(const struct af_client *client, af_off call);
int af_store_subreaper(void);
int af_store_has_futex(void);
int af_store_punch(int fd, uint64_t offset, uint64_t bytes);
"""

SOURCE = """
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "af.h"
#include "audit.h"
#include "block.h"
#include "cell.h"
#include "coroner.h"
#include "disk.h"
#include "extent.h"
#include "heap.h"
#include "lineage.h"
#include "ledger.h"
#include "mailbox.h"
#include "points.h"
#include "segment.h"
#include "slot.h"
#include "spill.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct af_store_slot {
  uint32_t state, epoch, pid, role, job, parent, inside, token, blocked, stepping, leave;
  uint64_t running, serving;
};
struct af_store_segment {
  uint8_t node_id[16];
  uint32_t version, node_pid, node_state, slot_count, span_count, control_spans, spans_used, audits;
  uint64_t size_bytes, object_bytes, object_bytes_used;
};

static int af_store_slot_read(struct af_client *client, uint32_t index, struct af_store_slot *facts) {
  if (index >= client->header->slot_count) return AF_BAD;
  struct af_slot *slot = af_slot_at(client, index);
  uint64_t owner = atomic_load_explicit(&slot->owner, memory_order_acquire);
  facts->state = (uint32_t)(owner & 0xff);
  facts->epoch = (uint32_t)(owner >> 32);
  facts->pid = slot->pid;
  facts->role = slot->role;
  facts->job = slot->job;
  facts->parent = slot->parent;
  facts->inside = atomic_load_explicit(&slot->op, memory_order_relaxed);
  facts->token = atomic_load_explicit(&slot->token, memory_order_relaxed);
  facts->blocked = atomic_load_explicit(&slot->blocked, memory_order_relaxed);
  facts->stepping = atomic_load_explicit(&slot->stepping, memory_order_relaxed);
  facts->leave = atomic_load_explicit(&slot->leave, memory_order_relaxed);
  facts->running = atomic_load_explicit(&slot->running, memory_order_relaxed);
  facts->serving = atomic_load_explicit(&slot->serving, memory_order_relaxed);
  return AF_OK;
}

/* The first slot from `from` on that is not free and whose process has that role; -1: none. */
static int32_t af_store_slot_next(struct af_client *client, uint32_t from, uint32_t role) {
  for (uint32_t index = from; index < client->header->slot_count; index++) {
    struct af_slot *slot = af_slot_at(client, index);
    uint64_t owner = atomic_load_explicit(&slot->owner, memory_order_acquire);
    if ((owner & 0xff) != AF_SLOT_FREE && slot->role == role) return (int32_t)index;
  }
  return -1;
}

/* Only while (slot, epoch) is that process: a late request must not reach its successor. */
static int af_store_slot_ask_leave(struct af_client *client, uint32_t index, uint32_t epoch, bool leave) {
  if (index >= client->header->slot_count) return AF_BAD;
  if (!af_slot_is(client, index, epoch)) return AF_STALE;
  atomic_store_explicit(&af_slot_at(client, index)->leave, leave ? 1u : 0u, memory_order_release);
  return AF_OK;
}

/* The shared value of calls that end because of a death: an AF_KIND_BYTES block, held by this process; owns `held`. */
static int af_store_error_create(struct af_client *client, const uint8_t *data, uint32_t bytes, const af_off *held,
                                 uint32_t count, af_off *block, uint32_t *hold) {
  uint32_t table = count * (uint32_t)sizeof(af_off), whole = (uint32_t)sizeof(struct af_object) + table + bytes;
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  int status = af_heap_allocate(client, whole, AF_KIND_BYTES, AF_CONTROL, block);
  if (status == AF_OK) {
    struct af_object *object = AF_AT(client, struct af_object, *block);
    af_off *references = (af_off *)(object + 1);
    object->bytes = table + bytes;
    object->pickle_bytes = bytes;
    object->references = object->buffers = 0;
    object->pickle_offset = sizeof(struct af_object) + table;
    for (; object->references < count; object->references++) {
      references[object->references] = held[object->references];
      af_block_hold(client, held[object->references]);
    }
    memcpy((uint8_t *)references + table, data, bytes);
    status = af_hold_record(client, *block, hold);
    if (status != AF_OK) af_block_drop(client, *block);
  }
  af_op_end(client, outer);
  return status;
}

struct af_store_doomed { uint64_t call, function; uint32_t function_generation, attempt, method; };

/* A call's function is the last of its references before the return cells; 0: it names none (ext/hot.h). */
static void doomed_describe(struct af_client *node, af_off call, struct af_store_doomed *doomed) {
  struct af_cell *cell = AF_AT(node, struct af_cell, call);
  *doomed = (struct af_store_doomed){.call = call, .attempt = cell->attempt + 1, .method = cell->method};
  if (!(cell->flags & 1) || cell->references <= cell->returns) return;
  doomed->function = af_cell_references(node, call)[cell->references - cell->returns - 1];
  if (af_block_is_live(node, doomed->function))
    doomed->function_generation = AF_AT(node, struct af_block, doomed->function)->generation;
}

static uint32_t af_store_doomed_read(struct af_client *node, uint32_t slot, uint32_t epoch, bool retry,
                                     struct af_store_doomed *found, uint32_t most) {
  af_off calls[64];
  uint32_t count = af_coroner_doomed(node, slot, epoch, retry, calls, most < 64 ? most : 64);
  for (uint32_t i = 0; i < count; i++) doomed_describe(node, calls[i], &found[i]);
  return count;
}

static int af_store_doomed_fail(struct af_client *node, uint32_t slot, uint32_t epoch, af_off call, af_off error,
                                uint8_t format) {
  uint64_t started = (uint64_t)epoch << 32 | (uint64_t)slot << 16 | (uint64_t)AF_STARTED;
  return af_cell_fail(node, call, started, error, format);
}

static void af_store_segment_read(const struct af_client *client, struct af_store_segment *facts) {
  struct af_header *header = client->header;
  memcpy(facts->node_id, header->node_id, sizeof facts->node_id);
  facts->version = header->version;
  facts->node_pid = header->node_pid;
  facts->node_state = atomic_load_explicit(&header->node_state, memory_order_acquire);
  facts->slot_count = header->slot_count;
  facts->span_count = header->span_count;
  facts->control_spans = header->control_spans;
  facts->spans_used = atomic_load_explicit(&header->spans_used, memory_order_relaxed);
  facts->audits = atomic_load_explicit(&header->audits, memory_order_relaxed);
  facts->size_bytes = header->size_bytes;
  facts->object_bytes = header->page_count * AF_PAGE;
  facts->object_bytes_used = atomic_load_explicit(&header->object_bytes_used, memory_order_relaxed);
}

/* From now on who lacks room or a value that was spilled rings the listener of that mailbox. */
static void af_store_spill_open(struct af_client *node, af_off mailbox, uint32_t wait_ms) {
  af_watch watch = atomic_load(&AF_AT(node, struct af_mailbox, mailbox)->listener);
  atomic_store(&node->header->spill_watch, watch);
  atomic_store(&node->header->room_wait_ms, wait_ms);
}

static uint64_t af_store_room_wanted(struct af_client *node) { return atomic_exchange(&node->header->room_wanted, 0); }
static void af_store_room_quiet(struct af_client *node) { atomic_store(&node->header->room_waited, 0); }

/* Tells those who wait for room that nothing can be written; each of them was refused once more before it looks. */
static void af_store_spill_failed(struct af_client *node, const char *path, uint64_t free_bytes) {
  struct af_header *header = node->header;
  strncpy(header->spill_path, path, sizeof header->spill_path - 1);
  atomic_store(&header->spill_free_bytes, free_bytes);
  atomic_fetch_add(&header->spill_failures, 1);
  af_room_ring(node);
}

static uint8_t *af_store_pinned(struct af_client *node, const struct af_spill_pins *pins) {
  return node->base + af_hold_block(node, pins->block_hold);
}

static uint64_t af_store_spilled_bytes(struct af_client *node, af_off spilled) {
  return sizeof(struct af_object) + AF_AT(node, struct af_spilled, spilled)->bytes;
}

#define HEADER_BYTES ((uint32_t)sizeof(struct af_object))
static uint32_t af_store_object_header_bytes(void) { return HEADER_BYTES; }
static int af_store_disk_write(int fd, const uint8_t *data, uint64_t bytes, uint64_t offset, uint64_t *sum) {
  return af_disk_write(fd, data, bytes, offset, HEADER_BYTES, sum);
}
static int af_store_disk_read(int fd, uint8_t *data, uint64_t bytes, uint64_t offset, uint64_t *sum) {
  return af_disk_read(fd, data, bytes, offset, HEADER_BYTES, sum);
}
static uint64_t af_store_disk_sum(const uint8_t *data, uint64_t bytes) {
  return af_disk_sum(data + HEADER_BYTES, bytes - HEADER_BYTES);
}

static void af_store_lineage_open(struct af_client *node, uint64_t limit_bytes) {
  atomic_store(&node->header->lineage_limit, limit_bytes);
}
static uint64_t af_store_lineage_bytes(const struct af_client *node) {
  return atomic_load(&node->header->lineage_bytes);
}

static void af_store_lineage_counts(const struct af_client *node, af_off lineage, uint32_t *inputs, uint32_t *returns) {
  *inputs = AF_AT(node, struct af_lineage, lineage)->inputs;
  *returns = AF_AT(node, struct af_lineage, lineage)->returns;
}

static void af_store_spilled_cell(const struct af_client *node, af_off spilled, af_off *cell, uint32_t *generation) {
  *cell = AF_AT(node, struct af_spilled, spilled)->cell;
  *generation = AF_AT(node, struct af_spilled, spilled)->cell_generation;
}
static bool af_store_spilled_lost(const struct af_client *node, af_off spilled) {
  return atomic_load(&AF_AT(node, struct af_spilled, spilled)->failure) == AF_SPILL_LOST;
}

static uint32_t af_store_generation(const struct af_client *client, af_off block) {
  return af_block_generation(client, block);
}

static bool af_store_has_retries(const struct af_client *client, af_off call) {
  return af_block_is_live(client, call) && AF_AT(client, struct af_block, call)->kind == AF_KIND_CELL &&
         AF_AT(client, struct af_cell, call)->retries != 0;
}

static int af_store_subreaper(void) {
  return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 ? AF_OK : AF_SYSTEM;
}

static int af_store_punch(int fd, uint64_t offset, uint64_t bytes) {
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
}

static int af_store_has_futex(void) {
  uint32_t word = 0;
  return syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0) >= 0;
}
"""

ffibuilder = cffi.FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "actorflow.shm._store",
    SOURCE,
    sources=sorted(glob(os.path.join(CORE, "*.c"))),
    include_dirs=[CORE],
    depends=sorted(glob(os.path.join(CORE, "*.h"))),
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
)
