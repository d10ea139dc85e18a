"""Builds the C core as a module for model tests: several clients of one segment in one process, driven step by step."""

from __future__ import annotations

import importlib.util
from glob import glob
from pathlib import Path
from types import ModuleType

import cffi

CORE = Path(__file__).resolve().parents[2] / "ext" / "core"

CDEF = """
typedef uint64_t af_off;
struct af_client { int32_t memfd; ...; };
struct af_layout { uint32_t slot_count; uint64_t message_bytes, control_reserve_bytes, object_bytes; };
struct af_audit {
  uint64_t blocks[...];
  uint64_t bytes, object_bytes, too_high, too_low, lost, broken, repaired;
  uint32_t consistent;
  af_off first_wrong;
};
struct af_settlement { uint32_t calls_failed, calls_retried, holds_dropped; ...; };
int af_segment_create(struct af_client *client, const struct af_layout *layout, const uint8_t *node_id);
int af_segment_map(struct af_client *client, int memfd);
void af_segment_unmap(struct af_client *client);
int af_slot_reserve(struct af_client *client, uint32_t role, uint32_t job, uint32_t *index, uint32_t *epoch);
int af_slot_claim(struct af_client *client, uint32_t index, uint32_t epoch);
void af_slot_release(struct af_client *client);
int af_hold_take(struct af_client *client, af_off block, uint32_t *index);
void af_hold_drop(struct af_client *client, uint32_t index);
void af_heap_trim(struct af_client *client);
int af_block_find(const struct af_client *client, af_off block, uint32_t generation, uint8_t kind);
bool af_extent_check(struct af_client *client);
int af_audit_run(struct af_client *client, bool repair, uint32_t tries, struct af_audit *audit);
int af_coroner_settle(struct af_client *node, uint32_t slot, uint32_t epoch, bool retry, af_off error, uint8_t format,
                      struct af_settlement *settlement);
int af_lane_open(struct af_client *client, af_off mailbox, uint16_t depth, af_off *lane);
void af_lane_close(struct af_client *client, af_off lane);
int af_mailbox_take(struct af_client *client, af_off mailbox, af_off *cell, uint32_t *hold);
void af_mailbox_join(struct af_client *client, af_off mailbox);
void af_mailbox_task_done(struct af_client *client);
uint32_t af_mailbox_allow(struct af_client *node, af_off mailbox, uint32_t allowed);
int af_mailbox_close(struct af_client *node, af_off mailbox, af_off error, uint8_t format);
int af_cell_submit(struct af_client *client, af_off lane, af_off cell);
int af_channel_claim(struct af_client *client, af_off channel, uint32_t end);
int af_channel_look(const struct af_client *client, af_off channel, uint32_t end);
int af_channel_sleep(struct af_client *client, af_off channel, uint32_t end, uint64_t timeout_ns);
void af_channel_next(struct af_client *client, af_off channel, uint32_t end);
void af_channel_close(struct af_client *client, af_off channel);

int model_bytes(struct af_client *client, uint64_t bytes, bool object, af_off *block, uint32_t *hold);
int model_mailbox(struct af_client *client, uint8_t flags, uint32_t credit, af_off *mailbox, uint32_t *hold);
int model_call(struct af_client *client, const af_off *arguments, uint32_t count, af_off mailbox, af_off *cell,
               uint32_t *hold);
int model_complete(struct af_client *client, af_off cell, uint32_t bytes, uint8_t fill);
int model_channel(struct af_client *client, uint32_t slots, uint32_t slot_bytes, uint32_t readers, af_off *channel,
                  uint32_t *hold);
uint32_t model_channel_state(struct af_client *client, af_off channel);
void model_channel_write(struct af_client *client, af_off channel, af_off block, const af_off *references,
                         uint32_t count, uint32_t bytes, uint8_t fill);
bool model_channel_value(struct af_client *client, af_off channel, uint32_t end, af_off block,
                         const af_off *references, uint32_t count, uint32_t bytes, uint8_t fill);
uint32_t model_count(struct af_client *client, af_off block);
void model_identity(struct af_client *client, uint32_t *slot, uint32_t *epoch);
uint32_t model_phase(struct af_client *client, af_off cell);
uint32_t model_generation(struct af_client *client, af_off block);
uint64_t model_capacity(struct af_client *client, af_off block);
void model_fill(struct af_client *client, af_off block, uint64_t bytes, uint8_t value);
bool model_filled(struct af_client *client, af_off block, uint64_t bytes, uint8_t value);
bool model_result_is(struct af_client *client, af_off cell, uint32_t bytes, uint8_t fill);
void model_store_lock(struct af_client *client, uint32_t slot, uint32_t epoch);
uint64_t model_spinner(struct af_client *client, af_off mailbox);
"""

SOURCE = """
#include "audit.h"
#include "block.h"
#include "cell.h"
#include "channel.h"
#include "coroner.h"
#include "extent.h"
#include "heap.h"
#include "mailbox.h"
#include "points.h"
#include "segment.h"
#include "slot.h"
#include <string.h>

/* As if the process of that slot had just taken the object store's lock. */
static void model_store_lock(struct af_client *client, uint32_t slot, uint32_t epoch) {
  atomic_store(&client->header->extent_locked_ns, af_now_ns());
  atomic_store(&client->header->extent_lock, (uint64_t)epoch << 32 | (slot + 1));
}
static uint64_t model_spinner(struct af_client *client, af_off mailbox) {
  return atomic_load(&AF_AT(client, struct af_mailbox, mailbox)->spinner);
}
static int recorded(struct af_client *client, int status, af_off *block, uint32_t *hold) {
  if (status != AF_OK) return status;
  status = af_hold_record(client, *block, hold);
  if (status != AF_OK) af_block_drop(client, *block);
  return status;
}
static int model_bytes(struct af_client *client, uint64_t bytes, bool object, af_off *block, uint32_t *hold) {
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  int status = object ? af_extent_allocate(client, bytes, block)
                      : af_heap_allocate(client, (uint32_t)bytes, AF_KIND_BYTES, AF_MESSAGES, block);
  status = recorded(client, status, block, hold);
  af_op_end(client, outer);
  return status;
}
static int model_mailbox(struct af_client *client, uint8_t flags, uint32_t credit, af_off *mailbox, uint32_t *hold) {
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  int status = af_mailbox_create(client, flags, 1, credit, mailbox);
  status = recorded(client, status, mailbox, hold);
  af_op_end(client, outer);
  return status;
}
static int model_call(struct af_client *client, const af_off *arguments, uint32_t count, af_off mailbox, af_off *cell,
                      uint32_t *hold) {
  uint32_t outer = af_op_begin(client, AF_OP_CREATE), references = count + (mailbox != 0);
  int status = af_cell_create(client, references, 0, 64, cell);
  if (status == AF_OK) {
    AF_AT(client, struct af_cell, *cell)->arguments = count;
    for (uint32_t i = 0; i < references; i++) {
      af_off held = i < count ? arguments[i] : mailbox;
      af_block_hold(client, held);
      af_cell_references(client, *cell)[i] = held;
    }
  }
  status = recorded(client, status, cell, hold);
  af_op_end(client, outer);
  return status;
}
static int model_complete(struct af_client *client, af_off cell, uint32_t bytes, uint8_t fill) {
  af_off block;
  uint8_t *where;
  uint32_t outer = af_op_begin(client, AF_OP_RESULT);
  int status = af_cell_result_begin(client, cell, 0, bytes, &block, &where);
  if (status == AF_OK) {
    memset(where, fill, bytes);
    status = af_cell_complete(client, cell, block, 0, bytes, 1);
  }
  af_op_end(client, outer);
  return status;
}
static void model_identity(struct af_client *client, uint32_t *slot, uint32_t *epoch) {
  *slot = client->slot_index;
  *epoch = client->epoch;
}
static uint32_t model_phase(struct af_client *client, af_off cell) { return af_cell_phase(client, cell); }
static uint32_t model_generation(struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block)->generation;
}
static uint64_t model_capacity(struct af_client *client, af_off block) {
  struct af_block *header = AF_AT(client, struct af_block, block);
  return header->kind == AF_KIND_OBJECT ? af_extent_bytes(client, block) : header->capacity;
}
static void model_fill(struct af_client *client, af_off block, uint64_t bytes, uint8_t value) {
  memset(client->base + block + sizeof(struct af_object), value, bytes - sizeof(struct af_object));
}
static bool same(const uint8_t *at, uint64_t bytes, uint8_t value) {
  for (uint64_t i = 0; i < bytes; i++)
    if (at[i] != value) return false;
  return true;
}
static bool model_filled(struct af_client *client, af_off block, uint64_t bytes, uint8_t value) {
  return same(client->view + block + sizeof(struct af_object), bytes - sizeof(struct af_object), value);
}
static int model_channel(struct af_client *client, uint32_t slots, uint32_t slot_bytes, uint32_t readers,
                         af_off *channel, uint32_t *hold) {
  uint32_t outer = af_op_begin(client, AF_OP_CHANNEL);
  int status = af_channel_create(client, slots, slot_bytes, readers, channel);
  status = recorded(client, status, channel, hold);
  af_op_end(client, outer);
  return status;
}
static uint32_t model_channel_state(struct af_client *client, af_off channel) {
  return af_channel_state(client, channel);
}
static void model_channel_write(struct af_client *client, af_off channel, af_off block, const af_off *references,
                                uint32_t count, uint32_t bytes, uint8_t fill) {
  uint8_t *place = af_channel_place(client, channel);
  uint32_t outer = af_op_begin(client, AF_OP_CHANNEL);
  if (block != 0) af_block_hold(client, block);
  for (uint32_t i = 0; i < count; i++) af_block_hold(client, references[i]);
  memcpy(place, references, count * sizeof *references);
  memset(place + count * sizeof *references, fill, bytes);
  af_channel_publish(client, channel, block, count, bytes, fill % 5);
  af_op_end(client, outer);
}
static bool model_channel_value(struct af_client *client, af_off channel, uint32_t end, af_off block,
                                const af_off *references, uint32_t count, uint32_t bytes, uint8_t fill) {
  struct af_channel_value value;
  if (af_channel_value(client, channel, end, &value) != AF_OK) return false;
  return value.block == block && value.count == count && value.bytes == bytes && value.format == fill % 5 &&
         memcmp(value.references, references, count * sizeof *references) == 0 && same(value.data, bytes, fill);
}
static uint32_t model_count(struct af_client *client, af_off block) {
  return atomic_load(&AF_AT(client, struct af_block, block)->count);
}
static bool model_result_is(struct af_client *client, af_off cell, uint32_t bytes, uint8_t fill) {
  struct af_cell *of = AF_AT(client, struct af_cell, cell);
  if (of->value == 0) return of->value_bytes == bytes && same((uint8_t *)af_cell_references(client, cell), bytes, fill);
  struct af_object *object = AF_AT(client, struct af_object, of->value);
  return object->pickle_bytes == bytes && same(client->base + of->value + object->pickle_offset, bytes, fill);
}
"""


def build(folder: Path) -> ModuleType:
    """Compiles into `folder` and imports it."""
    builder = cffi.FFI()
    builder.cdef(CDEF)
    builder.set_source(
        "_core_model",
        SOURCE,
        sources=sorted(glob(str(CORE / "*.c"))),
        include_dirs=[str(CORE)],
        extra_compile_args=["-std=gnu11", "-O1", "-g", "-Wno-unused-function"],
        libraries=["pthread"],
    )
    built = builder.compile(tmpdir=str(folder), verbose=False)
    spec = importlib.util.spec_from_file_location("_core_model", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
