/* hot_target.c - Target: packs a call and pushes it on this process' lane to a mailbox.
 *
 * Order: calls of this process through one Target reach an ordered mailbox in the order made (one lane). A task queue
 * has one lane per nesting depth, so that children run before more parents start.
 * After a fork the child finds that its lanes are its parent's (another slot) and opens its own. */
#include "hot.h"

#include <stdlib.h>
#include <string.h>

struct lane_entry { uint16_t depth; af_off lane; };
struct target {
  PyObject_HEAD
  struct session *session;
  PyObject *mailbox; /* Hold */
  struct target *previous, *following; /* session->targets */
  struct lane_entry *lanes;
  uint32_t lane_count, epoch;
  uint16_t slot;
  bool shared;
};

static __thread uint16_t depth_now;
static __thread uint32_t parent_generation_now;
static __thread af_off parent_now;

void hot_nest(uint16_t depth, af_off parent, uint32_t generation) {
  depth_now = depth;
  parent_now = parent;
  parent_generation_now = generation;
}

af_off hot_nested_in(void) { return parent_now; }

static struct session *target_session(struct target *self) {
  if (self->session && hot_live(self->session)) return self->session;
  PyErr_SetString(PyExc_RuntimeError, "this handle belongs to a runtime that was shut down: make it again in this one");
  return NULL;
}

static af_off target_mailbox(const struct target *self) { return ((struct hold *)self->mailbox)->block; }

static void drop_foreign_lanes(struct target *self, const struct af_client *client) {
  if (self->slot == client->slot_index && self->epoch == client->epoch) return;
  self->lane_count = 0;
  self->slot = client->slot_index;
  self->epoch = client->epoch;
}

static int open_lane(struct target *self, struct af_client *client, uint16_t depth, af_off *lane) {
  struct lane_entry *larger = realloc(self->lanes, (self->lane_count + 1) * sizeof *larger);
  if (!larger) { PyErr_NoMemory(); return -1; }
  self->lanes = larger;
  int status = af_lane_open(client, target_mailbox(self), depth, lane);
  if (status != AF_OK) { hot_raise(status, status == AF_FULL ? "messages" : "the mailbox is closed"); return -1; }
  self->lanes[self->lane_count++] = (struct lane_entry){depth, *lane};
  return 0;
}

static int find_lane(struct target *self, struct af_client *client, af_off *lane) {
  uint16_t depth = self->shared ? depth_now : 0;
  drop_foreign_lanes(self, client);
  for (uint32_t i = 0; i < self->lane_count; i++) {
    if (self->lanes[i].depth != depth) continue;
    *lane = self->lanes[i].lane;
    return 0;
  }
  return open_lane(self, client, depth, lane);
}

/* -- one call -- */

struct outgoing {
  struct packed packed;
  af_off block;           /* with the arguments, 0: none */
  uint32_t block_index;
  PyObject **returns;     /* further return cells */
  Py_ssize_t return_count;
  bool dynamic, stream;   /* stream: the only return is item 0; a place for another is behind it */
  uint32_t stream_limit;
  PyObject *function, *mailbox; /* borrowed, or NULL */
  uint16_t method;
  int32_t retries;        /* how often it may be run again, -1: always */
  uint8_t flags;          /* further ones of enum hot_cell_flag */
  uint32_t limit_ms;
  const char *raw;        /* instead of packed arguments */
  size_t raw_bytes;
  PyObject **held;        /* what raw bytes refer to: borrowed */
  Py_ssize_t held_count;
};

static int make_returns(struct session *session, struct outgoing *out, Py_ssize_t count) {
  if (count <= 0) return 0;
  if (!(out->returns = calloc((size_t)count, sizeof *out->returns))) { PyErr_NoMemory(); return -1; }
  for (; out->return_count < count; out->return_count++) {
    af_off cell;
    uint32_t index, outer = af_op_begin(&session->client, AF_OP_CREATE);
    int status = out->stream ? af_stream_item_create(&session->client, HOT_RESERVE_BYTES, &cell)
                             : af_cell_expected_create(&session->client, HOT_RESERVE_BYTES, &cell);
    status = hot_record(session, status, cell, &index);
    af_op_end(&session->client, outer);
    if (status != AF_OK) { hot_raise(status, "messages"); return -1; }
    if (!(out->returns[out->return_count] = hot_hold_new(hot.made_type, session, cell, index))) return -1;
  }
  return 0;
}

static void outgoing_clear(struct session *session, struct outgoing *out) {
  for (Py_ssize_t i = 0; i < out->return_count; i++) Py_XDECREF(out->returns[i]);
  free(out->returns);
  if (out->block && hot_live(session)) af_hold_drop(&session->client, out->block_index);
  hot_packed_clear(&out->packed);
}

static void fill_call(struct af_client *client, struct af_cell *cell, const struct outgoing *out) {
  af_off *references = (af_off *)(cell + 1);
  uint32_t count = 0;
  cell->arguments = (uint32_t)out->packed.argument_count;
  cell->method = out->method;
  cell->depth = depth_now;
  cell->limit_ms = out->limit_ms;
  cell->parent = parent_now;
  cell->parent_generation = parent_generation_now;
  cell->returns = (uint32_t)out->return_count + out->stream;
  cell->flags = (uint8_t)(out->flags | (out->function ? HOT_CELL_FUNCTION : 0) | (out->mailbox ? HOT_CELL_MAILBOX : 0) |
                          (out->packed.keywords ? HOT_CELL_KEYWORDS : 0) | (out->stream ? HOT_CELL_STREAM : 0) |
                          (out->dynamic ? HOT_CELL_DYNAMIC : 0));
  cell->format = out->raw ? HOT_ARGS_RAW : out->block ? HOT_ARGS_BLOCK : out->packed.data ? HOT_ARGS_PICKLE : HOT_ARGS_NONE;
  hot_fill(client, references, &count, out->packed.arguments, out->packed.argument_count);
  if (out->mailbox) hot_fill(client, references + count, &count, &out->mailbox, 1);
  hot_fill(client, references + count, &count, out->packed.held, out->packed.held_count);
  hot_fill(client, references + count, &count, out->held, out->held_count);
  if (out->block) {
    af_block_hold(client, out->block);
    references[count++] = out->block;
  }
  if (out->function) hot_fill(client, references + count, &count, (PyObject *const *)&out->function, 1);
  hot_fill(client, references + count, &count, out->returns, out->return_count);
  if (out->stream) references[count++] = 0;
  cell->references = count;
}

/* Makes the call's cell; recorded under *index. */
static int make_call(struct session *session, const struct outgoing *out, af_off *block, uint32_t *index) {
  struct af_client *client = &session->client;
  const struct packed *packed = &out->packed;
  uint32_t references = (uint32_t)(packed->argument_count + packed->held_count + out->held_count + out->return_count +
                                   (out->mailbox != NULL) + (out->block != 0) + (out->function != NULL) + out->stream);
  size_t bytes = out->raw ? out->raw_bytes : packed->data && !out->block ? (size_t)PyBytes_Size(packed->data) : 0;
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  size_t kept = out->retries ? references * sizeof(af_off) + bytes + HOT_KEPT_RESERVE_BYTES : 0;
  int status = af_cell_create(client, references, bytes, kept > HOT_RESERVE_BYTES ? kept : HOT_RESERVE_BYTES, block);
  if (status == AF_OK) {
    struct af_cell *cell = AF_AT(client, struct af_cell, *block);
    fill_call(client, cell, out);
    if (out->stream) af_stream_begin(client, *block, out->stream_limit);
    cell->bytes = (uint32_t)bytes;
    af_cell_allow_retries(client, *block, out->retries);
    if (bytes) memcpy(af_cell_bytes(client, *block), out->raw ? out->raw : PyBytes_AsString(packed->data), bytes);
  }
  status = hot_record(session, status, *block, index);
  af_op_end(client, outer);
  if (status == AF_OK) return 0;
  hot_raise(status, "messages");
  return -1;
}

/* No credit: waits until the reader has made room. */
static int wait_room(struct session *session, af_off lane) {
  int status;
  session_enter_wait(session);
  Py_BEGIN_ALLOW_THREADS
  status = af_lane_wait_room(&session->client, lane, (uint64_t)AF_SLEEP_MS * 1000000u);
  Py_END_ALLOW_THREADS
  return session_leave_wait(session) ? hot_after_sleep(session, status) : -1;
}

static int submit(struct target *self, struct session *session, af_off cell, bool block) {
  for (;;) {
    af_off lane;
    if (find_lane(self, &session->client, &lane) < 0) return -1;
    int status = af_cell_submit(&session->client, lane, cell);
    if (status == AF_OK) return 0;
    if (status != AF_FULL || !block) { hot_raise(status, status == AF_FULL ? "credit" : "the mailbox is closed"); return -1; }
    if (wait_room(session, lane) < 0 || !target_session(self)) return -1;
  }
}

/* Takes the call's reference over. */
static PyObject *stream_of(struct outgoing *out, PyObject *reference) {
  PyObject *stream = PyObject_CallFunctionObjArgs((PyObject *)hot.stream_type, reference, out->returns[0], NULL);
  Py_DECREF(reference);
  return stream;
}

static PyObject *results(struct outgoing *out, PyObject *reference, Py_ssize_t returns) {
  if (!reference || returns == 1) return reference;
  if (out->stream) return stream_of(out, reference);
  if (returns == 0) { Py_DECREF(reference); Py_RETURN_NONE; }
  PyObject *list = PyList_New(returns);
  if (!list || PyList_SetItem(list, 0, reference) < 0) { Py_XDECREF(list); return NULL; }
  for (Py_ssize_t i = 0; i < out->return_count; i++) {
    Py_INCREF(out->returns[i]);
    if (PyList_SetItem(list, i + 1, out->returns[i]) < 0) { Py_DECREF(list); return NULL; }
  }
  return list;
}

/* Return cells know their call, so that who has a reference to one of them can have it cancelled. */
static void name_returns(struct session *session, const struct outgoing *out, af_off call) {
  for (Py_ssize_t i = 0; i < out->return_count; i++) {
    struct af_cell *cell = AF_AT(&session->client, struct af_cell, ((struct hold *)out->returns[i])->block);
    cell->parent = call;
    cell->parent_generation = af_block_generation(&session->client, call);
  }
}

/* What is no part of the user's call within which it is made: what the node is asked, an actor's birth. */
static void orphan(struct session *session, af_off call) { AF_AT(&session->client, struct af_cell, call)->parent = 0; }

static PyObject *send_call(struct target *self, struct session *session, struct outgoing *out, Py_ssize_t returns, bool block) {
  af_off cell;
  uint32_t index;
  if (make_returns(session, out, returns - 1) < 0) return NULL;
  if (out->packed.argument_count) out->mailbox = self->mailbox;
  if (make_call(session, out, &cell, &index) < 0) return NULL;
  if (out->return_count) name_returns(session, out, cell);
  if (out->raw) orphan(session, cell);
  PyObject *reference = hot_hold_new(hot.made_type, session, cell, index);
  if (reference && submit(self, session, cell, block) < 0) Py_CLEAR(reference);
  return results(out, reference, returns);
}

/* Calls may wait for long, and what their arguments refer to cannot be spilled meanwhile: never the most of the store. */
static bool is_half_empty(const struct session *session) {
  const struct af_header *header = session->client.header;
  return atomic_load_explicit(&header->object_bytes_used, memory_order_relaxed) < header->page_count * AF_PAGE / 2;
}

static int pack_call(struct session *session, struct outgoing *out, PyObject *args, PyObject *kwargs) {
  if (!PyTuple_Check(args)) { PyErr_SetString(PyExc_TypeError, "args must be a tuple"); return -1; }
  if (kwargs == Py_None) kwargs = NULL;
  if (kwargs && !PyDict_Check(kwargs)) { PyErr_SetString(PyExc_TypeError, "kwargs must be a dict or None"); return -1; }
  if (hot_pack_arguments(&out->packed, args, kwargs) < 0) return -1;
  if (!out->packed.buffer_count && out->packed.bytes <= HOT_CELL_BYTES) return 0;
  out->packed.refers = is_half_empty(session);
  return hot_pack_block(session, &out->packed, NULL, 0, &out->block, &out->block_index);
}

/* Returns below 0: HOT_DYNAMIC or a stream. Gives how many cells that are. */
static Py_ssize_t item_by_item(struct outgoing *out, Py_ssize_t returns) {
  out->dynamic = returns == HOT_DYNAMIC;
  out->stream = !out->dynamic;
  if (out->dynamic) return 1;
  out->stream_limit = (uint32_t)(HOT_STREAM - returns);
  return 2;
}

/* retry_exceptions of this call: None, True or False */
static uint8_t retry_flags(PyObject *retry) {
  return retry == Py_True ? HOT_CELL_RETRY_ALL : retry == Py_False ? HOT_CELL_RETRY_NONE : 0;
}

/* call(method, args, kwargs, returns=1, function=None, block=True, retries=0, retry=None, limit_ms=0) */
static PyObject *target_call(PyObject *object, PyObject *const *args, Py_ssize_t count) {
  struct target *self = (struct target *)object;
  struct session *session = target_session(self);
  if (!session) return NULL;
  if (count < 3) { PyErr_SetString(PyExc_TypeError, "call(method, args, kwargs, returns, function, block, retries, retry)"); return NULL; }
  struct outgoing out = {.method = (uint16_t)PyLong_AsLong(args[0])};
  Py_ssize_t returns = count > 3 ? PyLong_AsSsize_t(args[3]) : 1;
  bool block = count <= 5 || PyObject_IsTrue(args[5]) == 1;
  if (count > 6) out.retries = (int32_t)PyLong_AsLong(args[6]);
  if (count > 7) out.flags = retry_flags(args[7]);
  if (count > 8) out.limit_ms = (uint32_t)PyLong_AsUnsignedLong(args[8]);
  if (PyErr_Occurred()) return NULL;
  if (returns < 0) returns = item_by_item(&out, returns);
  if (count > 4 && args[4] != Py_None && !hot_hold_of(out.function = args[4], AF_KIND_CELL)) return NULL;
  PyObject *result = pack_call(session, &out, args[1], args[2]) < 0 ? NULL : send_call(self, session, &out, returns, block);
  outgoing_clear(session, &out);
  return result;
}

static int raw_outgoing(struct outgoing *out, PyObject *data, PyObject **references) {
  Py_ssize_t bytes;
  if (PyBytes_AsStringAndSize(data, (char **)(uintptr_t)&out->raw, &bytes) < 0) return -1;
  out->raw_bytes = (size_t)bytes;
  if (!*references) return 0;
  if (!(*references = PySequence_List(*references))) return -1;
  out->held_count = PyList_Size(*references);
  if (!(out->held = calloc((size_t)out->held_count + 1, sizeof *out->held))) { PyErr_NoMemory(); return -1; }
  for (Py_ssize_t i = 0; i < out->held_count; i++)
    if (!hot_hold_of(out->held[i] = PyList_GetItem(*references, i), 0)) return -1;
  return 0;
}

/* call_raw(data, references=(), method=0) */
static PyObject *target_call_raw(PyObject *object, PyObject *args) {
  struct target *self = (struct target *)object;
  struct session *session = target_session(self);
  PyObject *data, *references = NULL;
  struct outgoing out = {0};
  if (!session || !PyArg_ParseTuple(args, "S|OH", &data, &references, &out.method)) return NULL;
  bool given = references != NULL;
  PyObject *result = raw_outgoing(&out, data, &references) < 0 ? NULL : send_call(self, session, &out, 1, true);
  free(out.held);
  if (given && references) Py_DECREF(references);
  outgoing_clear(session, &out);
  return result;
}

static PyObject *target_submit_first(PyObject *object, PyObject *args) {
  struct target *self = (struct target *)object;
  struct session *session = target_session(self);
  PyObject *positional, *kwargs;
  struct outgoing out = {0};
  if (!session || !PyArg_ParseTuple(args, "HOO|i", &out.method, &positional, &kwargs, &out.retries)) return NULL;
  PyObject *reference = NULL;
  af_off cell;
  uint32_t index;
  if (pack_call(session, &out, positional, kwargs) == 0 && make_call(session, &out, &cell, &index) == 0 &&
      (reference = hot_hold_new(hot.made_type, session, cell, index))) {
    struct af_client *client = &session->client;
    orphan(session, cell);
    af_cell_submit_first(client, target_mailbox(self), cell);
  }
  outgoing_clear(session, &out);
  return reference;
}

static PyObject *target_facts(PyObject *object, PyObject *unused) {
  (void)unused;
  struct target *self = (struct target *)object;
  struct session *session = target_session(self);
  if (!session) return NULL;
  struct af_mailbox_facts facts;
  af_mailbox_facts(&session->client, target_mailbox(self), &facts);
  return Py_BuildValue("{sKsIsIsIsIsIsIsIsI}", "depth", (unsigned long long)facts.depth, "allowed", facts.allowed, "active",
                       facts.active, "readers", facts.readers, "blocked", facts.blocked, "sleepers", facts.sleepers,
                       "closed", facts.closed, "abandoned", facts.abandoned, "lanes", facts.lanes);
}

static PyObject *target_get_mailbox(PyObject *object, void *unused) {
  (void)unused;
  PyObject *mailbox = ((struct target *)object)->mailbox;
  Py_INCREF(mailbox);
  return mailbox;
}

static void close_lanes(struct target *self) {
  struct af_client *client = &self->session->client;
  bool own = self->slot == client->slot_index && self->epoch == client->epoch;
  for (uint32_t i = 0; own && i < self->lane_count; i++) af_lane_close(client, self->lanes[i].lane);
  self->lane_count = 0;
}

void hot_close_lanes(struct session *session) {
  for (struct target *target = session->targets; target; target = target->following) close_lanes(target);
}

static PyObject *target_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  (void)kwargs;
  PyObject *mailbox;
  if (!PyArg_ParseTuple(args, "O:Target", &mailbox)) return NULL;
  struct hold *hold = hot_hold_of(mailbox, AF_KIND_MAILBOX);
  struct target *self = hold ? (struct target *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0) : NULL;
  if (!self) return NULL;
  uint8_t flags = AF_AT(&hold->session->client, struct af_block, hold->block)->flags;
  self->session = hold->session;
  self->session->users++;
  self->following = self->session->targets;
  if (self->following) self->following->previous = self;
  self->session->targets = self;
  self->shared = flags & AF_MAILBOX_SHARED;
  Py_INCREF(mailbox);
  self->mailbox = mailbox;
  return (PyObject *)self;
}

static void target_dealloc(PyObject *object) {
  struct target *self = (struct target *)object;
  PyTypeObject *type = Py_TYPE(object);
  if (self->session) {
    if (hot_live(self->session)) close_lanes(self);
    if (self->previous) self->previous->following = self->following;
    else self->session->targets = self->following;
    if (self->following) self->following->previous = self->previous;
    session_release(self->session);
  }
  free(self->lanes);
  Py_XDECREF(self->mailbox);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"call", (PyCFunction)(void (*)(void))target_call, METH_FASTCALL, NULL},
    {"call_raw", target_call_raw, METH_VARARGS, NULL},
    {"submit_first", target_submit_first, METH_VARARGS, NULL},
    {"facts", target_facts, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef getset[] = {{"mailbox", target_get_mailbox, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot slots[] = {{Py_tp_new, target_new}, {Py_tp_dealloc, target_dealloc}, {Py_tp_methods, methods},
                              {Py_tp_getset, getset}, {Py_tp_doc, "This process' lanes to a mailbox."}, {0, NULL}};
static PyType_Spec spec = {"actorflow._hot.Target", sizeof(struct target), 0, Py_TPFLAGS_DEFAULT, slots};

static PyObject *make_mailbox(PyObject *module, PyObject *args) {
  (void)module;
  unsigned int flags, job, credit;
  struct session *session = hot_session();
  if (!session || !PyArg_ParseTuple(args, "III", &flags, &job, &credit)) return NULL;
  af_off mailbox;
  uint32_t index, outer = af_op_begin(&session->client, AF_OP_CREATE);
  int status = af_mailbox_create(&session->client, (uint8_t)flags, job, credit, &mailbox);
  status = hot_record(session, status, mailbox, &index);
  af_op_end(&session->client, outer);
  return status == AF_OK ? hot_hold_new(hot.hold_type, session, mailbox, index) : hot_raise(status, "control");
}

static PyObject *make_actor(PyObject *module, PyObject *object) {
  (void)module;
  struct hold *mailbox = hot_hold_of(object, AF_KIND_MAILBOX);
  if (!mailbox) return NULL;
  struct session *session = mailbox->session;
  af_off actor;
  uint32_t index, outer = af_op_begin(&session->client, AF_OP_CREATE);
  int status = af_actor_create(&session->client, mailbox->block, &actor);
  status = hot_record(session, status, actor, &index);
  af_op_end(&session->client, outer);
  return status == AF_OK ? hot_hold_new(hot.hold_type, session, actor, index) : hot_raise(status, "control");
}

static PyObject *actor_mailbox(PyObject *module, PyObject *object) {
  (void)module;
  struct hold *actor = hot_hold_of(object, AF_KIND_ACTOR);
  if (!actor) return NULL;
  return hot_hold_take(actor->session, AF_AT(&actor->session->client, struct af_actor, actor->block)->mailbox);
}

static PyMethodDef functions[] = {{"make_mailbox", make_mailbox, METH_VARARGS, NULL},
                                  {"make_actor", make_actor, METH_O, NULL},
                                  {"actor_mailbox", actor_mailbox, METH_O, NULL},
                                  {NULL, NULL, 0, NULL}};

int hot_add_target(PyObject *module) {
  hot.target_type = (PyTypeObject *)PyType_FromSpec(&spec);
  return hot.target_type && PyModule_AddObjectRef(module, "Target", (PyObject *)hot.target_type) == 0 &&
                 PyModule_AddFunctions(module, functions) == 0
             ? 0 : -1;
}
