/* hot_block.c - values in blocks of their own: how a packed value becomes an af_object, and where its buffers lie.
 *
 * A buffer that lies in the object store already, because the value holds a view that was read there, need not be
 * copied: the new block refers to the object that has the bytes, and counts it. Values never change, so nobody can tell.
 * That is for what is read soon and then gone (`refers`: a channel's slot; a call's arguments, while the store is half
 * empty), since an object that another block counts cannot be spilled; results and put values, which may lie for long,
 * are copied. And only where the value needs half of that object at least: a small part would keep the whole of it in
 * memory. */
#include "hot.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN64(n) (((n) + 63u) & ~(uint64_t)63)

/* -- where the parts of a value go -- */

/* Offsets from the block. `buffers`: the table; `objects`: how many references it needs. */
struct plan { uint64_t table, pickle, end; struct af_buffer *buffers; Py_ssize_t objects; };

/* Whether a table's entry needs a reference of its own: neighbours that lie in one object share theirs. */
static bool begins_object(const struct af_buffer *buffers, Py_ssize_t i) {
  return buffers[i].object && (i == 0 || buffers[i - 1].object != buffers[i].object);
}

/* The buffer as a part of the object that it lies in; of none: `object` is 0. It may be the one of `neighbour`. */
static struct af_buffer stored_buffer(const struct af_client *client, const Py_buffer *view, af_off neighbour,
                                      uint64_t most_pages) {
  struct af_buffer buffer = {.bytes = (uint64_t)view->len};
  uint64_t place = (uint64_t)((uintptr_t)view->buf - (uintptr_t)client->view); /* huge, where it lies before */
  if (view->len == 0 || place >= client->size_bytes) return buffer;
  bool is_beside = neighbour && place - neighbour < af_extent_bytes(client, neighbour);
  buffer.object = is_beside ? neighbour : af_extent_holding(client, place, most_pages);
  if (buffer.object) buffer.offset = place - buffer.object;
  return buffer;
}

/* Neighbours in one object that are less than half of it will be copied after all. */
static void weigh(const struct af_client *client, struct af_buffer *buffers, Py_ssize_t count) {
  for (Py_ssize_t first = 0, end; first < count; first = end) {
    uint64_t bytes = 0;
    for (end = first; end < count && buffers[end].object == buffers[first].object; end++) bytes += buffers[end].bytes;
    af_off object = buffers[first].object;
    if (object && bytes < AF_AT(client, struct af_object, object)->bytes / 2)
      for (Py_ssize_t i = first; i < end; i++) buffers[i].object = 0;
  }
}

static int plan_buffers(const struct af_client *client, const struct packed *packed, struct plan *plan) {
  if (!packed->buffer_count) return 0;
  if (!(plan->buffers = calloc((size_t)packed->buffer_count, sizeof *plan->buffers))) { PyErr_NoMemory(); return -1; }
  /* What may be referred to is half of its object, so that does not begin farther off than all of it is long. */
  uint64_t most_pages = packed->bytes / AF_PAGE + 1;
  for (Py_ssize_t i = 0; i < packed->buffer_count; i++) {
    af_off neighbour = i > 0 ? plan->buffers[i - 1].object : 0;
    if (packed->refers) plan->buffers[i] = stored_buffer(client, &packed->views[i], neighbour, most_pages);
    else plan->buffers[i].bytes = (uint64_t)packed->views[i].len;
  }
  weigh(client, plan->buffers, packed->buffer_count);
  for (Py_ssize_t i = 0; i < packed->buffer_count; i++) plan->objects += begins_object(plan->buffers, i);
  return 0;
}

static int plan_block(const struct af_client *client, const struct packed *packed, Py_ssize_t held_count,
                      struct plan *plan) {
  if (plan_buffers(client, packed, plan) < 0) return -1;
  plan->table = sizeof(struct af_object) + (uint64_t)(held_count + plan->objects) * sizeof(af_off);
  plan->pickle = plan->table + (uint64_t)packed->buffer_count * sizeof(struct af_buffer);
  plan->end = plan->pickle + (uint64_t)(packed->data ? PyBytes_Size(packed->data) : 0);
  for (Py_ssize_t i = 0; i < packed->buffer_count; i++) {
    if (plan->buffers[i].object) continue;
    plan->buffers[i].offset = ALIGN64(plan->end);
    plan->end = plan->buffers[i].offset + plan->buffers[i].bytes;
  }
  return 0;
}

/* -- room for it -- */

static int store_full(struct af_client *client, int status, uint64_t bytes) {
  if (status != AF_FULL && status != AF_TOO_LARGE) { hot_raise(status, "allocating in the object store"); return -1; }
  struct af_header *header = client->header;
  PyObject *details = Py_BuildValue("(KKKO)", (unsigned long long)bytes,
                                    (unsigned long long)atomic_load(&header->object_bytes_used),
                                    (unsigned long long)header->page_count * AF_PAGE,
                                    status == AF_TOO_LARGE ? Py_True : Py_False);
  if (details) PyErr_SetObject(hot.store_full, details);
  Py_XDECREF(details);
  return -1;
}

static int allocate_once(struct session *session, uint64_t bytes, bool large, af_off *block, uint32_t *index) {
  struct af_client *client = &session->client;
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  int status = large ? af_extent_allocate(client, bytes, block)
                     : af_heap_allocate(client, (uint32_t)bytes, AF_KIND_BYTES, AF_MESSAGES, block);
  if (status == AF_OK) {
    struct af_object *object = AF_AT(client, struct af_object, *block);
    object->references = object->buffers = 0;
    object->bytes = bytes - sizeof *object;
  }
  status = hot_record(session, status, *block, index);
  af_op_end(client, outer);
  return status;
}

/* Another has the store's lock for long: it is stopped, or has no CPU. The node ends one that has it for too long; so
 * this goes on until then, others having their turn between. AF_INTERRUPTED: an exception. */
static int allocate_soon(struct session *session, uint64_t bytes, bool large, af_off *block, uint32_t *index) {
  const _Atomic uint32_t nobody_wakes = 0;
  int status;
  while ((status = allocate_once(session, bytes, large, block, index)) == AF_BUSY && session->client.slot_index != 0) {
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    (void)af_futex_wait(&nobody_wakes, 0, 1000000);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session) || hot_after_sleep(session, AF_TIMEOUT) < 0) return AF_INTERRUPTED;
  }
  return status;
}

static int allocate_block(struct session *session, uint64_t bytes, af_off *block, uint32_t *index) {
  bool large = bytes - sizeof(struct af_object) > HOT_INLINE_BYTES;
  struct hot_room room = {0};
  int status = allocate_soon(session, bytes, large, block, index), waited = 1;
  while (status == AF_FULL && large && (waited = hot_wait_room(session, bytes, &room)) > 0)
    status = allocate_soon(session, bytes, large, block, index);
  if (waited < 0) return -1;
  if (status == AF_OK) return 0;
  if (large) return store_full(&session->client, status, bytes);
  hot_raise(status, "messages");
  return -1;
}

/* -- filling it -- */

void hot_fill(struct af_client *client, af_off *where, uint32_t *count, PyObject *const *held, Py_ssize_t held_count) {
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  for (Py_ssize_t i = 0; i < held_count; i++) {
    where[i] = ((struct hold *)held[i])->block;
    af_block_hold(client, where[i]);
    ++*count;
  }
  af_op_end(client, outer);
}

/* Counts the objects that buffers lie in, behind `count` other references. The views keep them alive meanwhile. */
static void fill_objects(struct af_client *client, af_off *where, uint32_t *count, const struct plan *plan,
                         Py_ssize_t buffer_count) {
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  for (Py_ssize_t i = 0; i < buffer_count; i++) {
    if (!begins_object(plan->buffers, i)) continue;
    where[*count] = plan->buffers[i].object;
    af_block_hold(client, where[*count]);
    ++*count;
  }
  af_op_end(client, outer);
}

static void fill_bytes(struct af_client *client, af_off block, const struct packed *packed, const struct plan *plan) {
  uint8_t *base = client->base + block;
  if (packed->buffer_count)
    memcpy(base + plan->table, plan->buffers, (size_t)packed->buffer_count * sizeof *plan->buffers);
  if (packed->data)
    af_copy(base + plan->pickle, (const uint8_t *)PyBytes_AsString(packed->data), (uint64_t)PyBytes_Size(packed->data));
  for (Py_ssize_t i = 0; i < packed->buffer_count; i++)
    if (!plan->buffers[i].object)
      af_copy(base + plan->buffers[i].offset, packed->views[i].buf, plan->buffers[i].bytes);
}

/* -1: the runtime was shut down during the copy, and the exception is set. */
static int fill_block(struct session *session, const struct packed *packed, PyObject *const *held,
                      Py_ssize_t held_count, const struct plan *plan, af_off block) {
  struct af_client *client = &session->client;
  struct af_object *object = AF_AT(client, struct af_object, block);
  hot_fill(client, (af_off *)(object + 1), &object->references, held, held_count);
  if (plan->objects) fill_objects(client, (af_off *)(object + 1), &object->references, plan, packed->buffer_count);
  object->buffers = (uint32_t)packed->buffer_count;
  object->pickle_offset = plan->pickle;
  object->pickle_bytes = packed->data ? (uint64_t)PyBytes_Size(packed->data) : 0;
  if (plan->end <= HOT_COPY_GIL_BYTES) {
    fill_bytes(client, block, packed, plan);
    return 0;
  }
  session_enter_wait(session);
  Py_BEGIN_ALLOW_THREADS
  if (object->block.kind == AF_KIND_OBJECT) af_extent_populate(client, block, plan->end);
  fill_bytes(client, block, packed, plan);
  Py_END_ALLOW_THREADS
  return session_leave_wait(session) ? 0 : -1;
}

int hot_pack_block(struct session *session, struct packed *packed, PyObject *const *held, Py_ssize_t held_count,
                   af_off *block, uint32_t *index) {
  struct plan plan = {0};
  int status = plan_block(&session->client, packed, held_count, &plan);
  if (status == 0) status = allocate_block(session, plan.end, block, index);
  if (status == 0) status = fill_block(session, packed, held, held_count, &plan, *block);
  free(plan.buffers);
  return status;
}

/* -- reading -- */

void hot_stored_block(struct session *session, af_off block, struct hot_stored *stored) {
  struct af_object *object = AF_AT(&session->client, struct af_object, block);
  stored->block = block;
  stored->references = (const af_off *)(object + 1);
  stored->count = object->references;
  stored->bytes = (size_t)object->pickle_bytes;
  stored->data = session->client.base + block + object->pickle_offset;
}

/* A view of all of an object, which it pins. `pin`: that there is already, or NULL. */
static PyObject *whole_object(struct session *session, af_off object, PyObject *pin) {
  struct af_client *client = &session->client;
  if (!af_block_is_live(client, object) || AF_AT(client, struct af_block, object)->kind != AF_KIND_OBJECT)
    return hot_raise(AF_BAD, "a buffer of a value in the object store");
  PyObject *made = pin ? NULL : hot_pin(session, object);
  PyObject *whole = pin || made ? PyMemoryView_FromObject(pin ? pin : made) : NULL;
  Py_XDECREF(made);
  return whole;
}

/* `from` has the buffer; *whole: what is pinned of the object *at now, exchanged where this one lies in another. */
static PyObject *slice(struct session *session, const struct af_buffer *buffer, af_off from, af_off *at, PyObject **whole,
                       PyObject *pin) {
  const struct af_client *client = &session->client;
  if (from < client->header->objects)
    return PyBytes_FromStringAndSize((const char *)client->base + from + buffer->offset, (Py_ssize_t)buffer->bytes);
  if (*at != from) {
    Py_XDECREF(*whole);
    *whole = whole_object(session, from, pin);
    *at = from;
  }
  if (!*whole) return NULL;
  return PySequence_GetSlice(*whole, (Py_ssize_t)buffer->offset, (Py_ssize_t)(buffer->offset + buffer->bytes));
}

PyObject *hot_block_buffers(struct session *session, af_off block, PyObject *pin) {
  struct af_object *object = AF_AT(&session->client, struct af_object, block);
  const struct af_buffer *table = (const struct af_buffer *)((const af_off *)(object + 1) + object->references);
  PyObject *whole = NULL, *list = PyList_New((Py_ssize_t)object->buffers);
  af_off at = 0;
  for (uint32_t i = 0; list && i < object->buffers; i++) {
    af_off from = table[i].object ? table[i].object : block;
    PyObject *buffer = slice(session, &table[i], from, &at, &whole, from == block ? pin : NULL);
    if (!buffer || PyList_SetItem(list, (Py_ssize_t)i, buffer) < 0) Py_CLEAR(list);
  }
  Py_XDECREF(whole);
  return list;
}
