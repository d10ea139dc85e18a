/* hot_calls.c - Call: one call that this process has started, until it is settled; and taking calls from mailboxes. */
#include "hot.h"

static af_off call_function(const struct af_client *client, const struct af_cell *cell, af_off block) {
  if (!(cell->flags & HOT_CELL_FUNCTION)) return 0;
  return af_cell_references(client, block)[cell->references - cell->returns - 1];
}

PyObject *hot_call_new(struct session *session, af_off block, uint32_t index) {
  struct af_client *client = &session->client;
  struct af_cell *cell = AF_AT(client, struct af_cell, block);
  struct call *self = (struct call *)((allocfunc)PyType_GetSlot(hot.call_type, Py_tp_alloc))(hot.call_type, 0);
  if (!self) { af_hold_drop(client, index); return NULL; }
  self->session = session;
  session->users++;
  self->cell = block;
  self->generation = cell->block.generation;
  self->index = index;
  self->function = call_function(client, cell, block);
  if (self->function) self->function_generation = AF_AT(client, struct af_block, self->function)->generation;
  self->returns = cell->returns;
  self->method = cell->method;
  self->depth = cell->depth;
  self->flags = cell->flags;
  self->attempt = cell->attempt;
  self->retries = cell->retries;
  self->calls_seen = client->calls;
  return (PyObject *)self;
}

/* Started by this process and not settled: a mistake, or its frame was unwound by an error while settling. The hold is
 * kept: it is how the coroner finds the call when this process ends, so that whoever waits is told. */
static bool is_unsettled(const struct call *self) {
  const struct af_client *client = &self->session->client;
  uint64_t state = atomic_load_explicit(&AF_AT(client, struct af_cell, self->cell)->state, memory_order_acquire);
  return (state & ~(uint64_t)AF_STATE_SLEEPER) == af_state_of(client, AF_STARTED);
}

static void call_dealloc(PyObject *object) {
  struct call *self = (struct call *)object;
  PyTypeObject *type = Py_TYPE(object);
  if (self->session) {
    if (hot_live(self->session) && !is_unsettled(self)) af_hold_drop(&self->session->client, self->index);
    session_release(self->session);
  }
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

struct call *hot_live_call(PyObject *object) {
  struct call *self = (struct call *)object;
  if (hot_live(self->session)) return self;
  PyErr_SetString(PyExc_RuntimeError, "this call belongs to a runtime that was shut down");
  return NULL;
}

af_off hot_call_cell(PyObject *object, struct session **session) {
  if (!PyObject_TypeCheck(object, hot.call_type)) { PyErr_SetString(PyExc_TypeError, "expected a Call"); return 0; }
  struct call *self = hot_live_call(object);
  if (!self) return 0;
  *session = self->session;
  return self->cell;
}

static PyObject *call_arguments(PyObject *object, PyObject *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  return self ? hot_load_arguments(self->session, self->cell) : NULL;
}

static PyObject *call_load_function(PyObject *object, PyObject *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  if (!self) return NULL;
  if (!self->function) { PyErr_SetString(PyExc_ValueError, "the call names no function"); return NULL; }
  return hot_load(self->session, self->function, UINT64_MAX);
}

static PyObject *call_raw(PyObject *object, PyObject *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  if (!self) return NULL;
  struct af_client *client = &self->session->client;
  struct af_cell *cell = AF_AT(client, struct af_cell, self->cell);
  PyObject *list = PyList_New((Py_ssize_t)cell->references);
  for (uint32_t i = 0; list && i < cell->references; i++) {
    PyObject *held = hot_hold_take(self->session, af_cell_references(client, self->cell)[i]);
    if (!held || PyList_SetItem(list, (Py_ssize_t)i, held) < 0) Py_CLEAR(list);
  }
  if (!list) return NULL;
  return Py_BuildValue("(y#N)", (const char *)af_cell_bytes(client, self->cell), (Py_ssize_t)cell->bytes, list);
}

static PyObject *call_complete(PyObject *object, PyObject *value) {
  struct call *self = hot_live_call(object);
  struct packed packed;
  if (!self) return NULL;
  int status = hot_pack(&packed, value);
  if (status == 0) {
    bool at_once = !packed.buffer_count && packed.bytes <= HOT_INLINE_BYTES; /* else it copies, or waits for room */
    if (at_once) af_mailbox_return(&self->session->client);
    status = hot_settle(self->session, self->cell, &packed);
  }
  hot_packed_clear(&packed);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static af_off return_cell(const struct call *self, Py_ssize_t index) { /* 0: the call's own */
  const struct af_client *client = &self->session->client;
  const struct af_cell *cell = AF_AT(client, struct af_cell, self->cell);
  if (index == 0) return self->cell;
  return af_cell_references(client, self->cell)[cell->references - cell->returns + (uint32_t)index - 1];
}

/* All values are packed before the first is published, so that one that cannot be pickled leaves the call unsettled.
 * What an earlier attempt has given stays. */
static PyObject *call_complete_many(PyObject *object, PyObject *args) {
  struct call *self = hot_live_call(object);
  PyObject *values, *data = NULL, *holds = NULL;
  if (!self || !PyArg_ParseTuple(args, "O|OO:complete_many", &values, &data, &holds)) return NULL;
  Py_ssize_t given = PySequence_Size(values), count = (Py_ssize_t)self->returns + 1;
  if (given < 0) return NULL;
  if (data ? given >= count : given != count)
    return PyErr_Format(PyExc_ValueError, "expected %zd values, got %zd", count, given);
  struct packed *packed = PyMem_Calloc((size_t)count, sizeof *packed);
  if (!packed) return PyErr_NoMemory();
  int status = 0;
  for (Py_ssize_t i = 0; i < count && status == 0; i++) {
    PyObject *value = i < given ? PySequence_GetItem(values, i) : NULL;
    status = value ? hot_pack(&packed[i], value) : i < given ? -1 : hot_pack_error(&packed[i], data, holds);
    Py_XDECREF(value);
  }
  for (Py_ssize_t i = count - 1; i >= 0 && status == 0; i--) {
    af_off cell = return_cell(self, i);
    if (i && af_cell_is_done(&self->session->client, cell)) continue; /* an earlier attempt came so far */
    status = hot_settle(self->session, cell, &packed[i]);
  }
  for (Py_ssize_t i = 0; i < count; i++) hot_packed_clear(&packed[i]);
  PyMem_Free(packed);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *call_complete_raw(PyObject *object, PyObject *args) {
  struct call *self = hot_live_call(object);
  const char *data;
  Py_ssize_t bytes;
  PyObject *references = NULL;
  if (!self || !PyArg_ParseTuple(args, "y#|O", &data, &bytes, &references)) return NULL;
  PyObject *list = references ? PySequence_List(references) : PyList_New(0);
  Py_ssize_t count = list ? PyList_Size(list) : 0;
  PyObject **held = list ? PyMem_Calloc((size_t)count + 1, sizeof *held) : NULL;
  int status = held ? 0 : -1;
  for (Py_ssize_t i = 0; i < count && status == 0; i++)
    if (!hot_hold_of(held[i] = PyList_GetItem(list, i), 0)) status = -1;
  if (status == 0) status = hot_settle_bytes(self->session, self->cell, data, (size_t)bytes, HOT_RAW, held, count);
  PyMem_Free(held);
  Py_XDECREF(list);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *call_fail(PyObject *object, PyObject *args) {
  struct call *self = hot_live_call(object);
  struct packed packed;
  PyObject *data, *holds = NULL;
  if (!self || !PyArg_ParseTuple(args, "O|O:fail", &data, &holds)) return NULL;
  int status = hot_pack_error(&packed, data, holds);
  for (Py_ssize_t i = (Py_ssize_t)self->returns; i >= 0 && status == 0; i--) {
    af_off cell = return_cell(self, i);
    if (i && (cell == 0 || af_cell_is_done(&self->session->client, cell))) continue;
    status = hot_settle(self->session, cell, &packed);
  }
  hot_packed_clear(&packed);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

/* retry() -> whether the call is to be run again: else it is to be settled. FullError */
static PyObject *call_retry(PyObject *object, PyObject *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  if (!self) return NULL;
  int status = af_cell_retry(&self->session->client, self->cell);
  if (status == AF_OK) Py_RETURN_TRUE;
  if (status == AF_EMPTY || status == AF_CLOSED) Py_RETURN_FALSE;
  return hot_raise(status, status == AF_FENCED ? "this process was declared dead and its call was given away" : "messages");
}

static PyObject *call_get_method(PyObject *self, void *unused) { (void)unused; return PyLong_FromLong(((struct call *)self)->method); }
static PyObject *call_get_depth(PyObject *self, void *unused) { (void)unused; return PyLong_FromLong(((struct call *)self)->depth); }
static PyObject *call_get_returns(PyObject *object, void *unused) {
  (void)unused;
  struct call *self = (struct call *)object;
  long returns = self->flags & HOT_CELL_STREAM ? HOT_STREAM : self->flags & HOT_CELL_DYNAMIC ? HOT_DYNAMIC : (long)self->returns + 1;
  return PyLong_FromLong(returns);
}
static PyObject *call_get_attempt(PyObject *self, void *unused) { (void)unused; return PyLong_FromUnsignedLong(((struct call *)self)->attempt + 1ul); }
static PyObject *call_get_retries(PyObject *self, void *unused) { (void)unused; return PyLong_FromLong(((struct call *)self)->retries); }
static PyObject *call_get_retry_exceptions(PyObject *object, void *unused) {
  (void)unused;
  uint8_t flags = ((struct call *)object)->flags;
  if (flags & (HOT_CELL_RETRY_ALL | HOT_CELL_RETRY_NONE)) return PyBool_FromLong(flags & HOT_CELL_RETRY_ALL);
  Py_RETURN_NONE;
}
static PyObject *call_get_function(PyObject *object, void *unused) {
  (void)unused;
  struct call *self = (struct call *)object;
  return Py_BuildValue("(KI)", (unsigned long long)self->function, self->function_generation);
}
static PyObject *call_get_name(PyObject *object, void *unused) {
  (void)unused;
  struct call *self = (struct call *)object;
  return Py_BuildValue("(KI)", (unsigned long long)self->cell, self->generation);
}
static PyObject *call_get_caller(PyObject *object, void *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  if (!self) return NULL;
  struct af_cell *cell = AF_AT(&self->session->client, struct af_cell, self->cell);
  return Py_BuildValue("(II)", cell->caller, cell->caller_epoch);
}
static PyObject *call_get_number(PyObject *object, void *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  if (!self) return NULL;
  return PyLong_FromUnsignedLongLong(AF_AT(&self->session->client, struct af_cell, self->cell)->number);
}

static PyObject *call_get_limit(PyObject *object, void *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  if (!self) return NULL;
  return PyFloat_FromDouble(AF_AT(&self->session->client, struct af_cell, self->cell)->limit_ms * 1e-3);
}
static PyObject *call_get_told(PyObject *object, void *unused) { (void)unused; return PyLong_FromLong(((struct call *)object)->told); }
static PyObject *call_get_wish(PyObject *object, void *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  return self ? PyLong_FromLong(af_cell_wish(&self->session->client, self->cell)) : NULL;
}

/* Its code is told, by the caller of this, for that reason. */
static PyObject *call_tell(PyObject *object, PyObject *why) {
  struct call *self = hot_live_call(object);
  long told = self ? PyLong_AsLong(why) : -1;
  if (told < 0) return NULL;
  struct af_cell *cell = AF_AT(&self->session->client, struct af_cell, self->cell);
  if (told != HOT_TOLD_LIMIT) atomic_fetch_or_explicit(&cell->cancel, AF_CANCEL_TOLD, memory_order_relaxed);
  self->told = (uint8_t)told;
  Py_RETURN_NONE;
}

/* None are looked for where this process has made no call since. */
static PyObject *call_children(PyObject *object, PyObject *unused) {
  (void)unused;
  struct call *self = hot_live_call(object);
  if (!self) return NULL;
  struct session *session = self->session;
  if (self->calls_seen == session->client.calls) return PyList_New(0);
  self->calls_seen = session->client.calls;
  return hot_children(session, self->cell, self->generation);
}

static PyMethodDef methods[] = {
    {"tell", call_tell, METH_O, NULL},                    {"children", call_children, METH_NOARGS, NULL},
    {"arguments", call_arguments, METH_NOARGS, NULL},     {"load_function", call_load_function, METH_NOARGS, NULL},
    {"raw", call_raw, METH_NOARGS, NULL},                 {"complete", call_complete, METH_O, NULL},
    {"complete_many", call_complete_many, METH_VARARGS, NULL},  {"complete_raw", call_complete_raw, METH_VARARGS, NULL},
    {"fail", call_fail, METH_VARARGS, NULL},              {"retry", call_retry, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef getset[] = {
    {"method", call_get_method, NULL, NULL, NULL},   {"depth", call_get_depth, NULL, NULL, NULL},
    {"returns", call_get_returns, NULL, NULL, NULL}, {"function", call_get_function, NULL, NULL, NULL},
    {"name", call_get_name, NULL, NULL, NULL},       {"caller", call_get_caller, NULL, NULL, NULL},
    {"number", call_get_number, NULL, NULL, NULL},   {"attempt", call_get_attempt, NULL, NULL, NULL},
    {"retries", call_get_retries, NULL, NULL, NULL}, {"retry_exceptions", call_get_retry_exceptions, NULL, NULL, NULL},
    {"limit_s", call_get_limit, NULL, NULL, NULL},
    {"told", call_get_told, NULL, NULL, NULL},       {"wish", call_get_wish, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot slots[] = {{Py_tp_dealloc, call_dealloc}, {Py_tp_methods, methods}, {Py_tp_getset, getset},
                              {Py_tp_doc, "A call that this process has started."}, {0, NULL}};
static PyType_Spec spec = {"actorflow._hot.Call", sizeof(struct call), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

/* What this thread entered last, by name: the call may be settled and freed while code of its goes on. */
static __thread struct { af_off cell, function; uint32_t generation, function_generation; uint16_t method; } entered;

static void note_entered(const struct call *call) {
  entered.cell = call->cell;
  entered.generation = call->generation;
  entered.function = call->function;
  entered.function_generation = call->function_generation;
  entered.method = call->method;
}

/* ((cell, generation), (function, generation), method, attempt, wish) or None */
static PyObject *calls_current_call(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct af_client *client = hot_client();
  if (!client) return NULL;
  if (!entered.cell) Py_RETURN_NONE;
  const struct af_cell *cell = AF_AT(client, struct af_cell, entered.cell);
  bool there = cell->block.generation == entered.generation;
  return Py_BuildValue("(KI)(KI)HiB", (unsigned long long)entered.cell, entered.generation,
                       (unsigned long long)entered.function, entered.function_generation, entered.method,
                       there ? (int)cell->attempt : 0, there ? af_cell_wish(client, entered.cell) : 0);
}

void hot_enter(struct call *call) {
  struct af_slot *slot = hot.session->client.slot;
  hot_nest(call ? (uint16_t)(call->depth + 1) : 0, call ? call->cell : 0, call ? call->generation : 0);
  if (call) note_entered(call);
  else entered.cell = 0;
  atomic_store_explicit(&slot->running, call ? call->cell : 0, memory_order_relaxed);
}

static PyObject *calls_enter(PyObject *module, PyObject *object) {
  (void)module;
  if (!hot_client()) return NULL;
  hot_enter(PyObject_TypeCheck(object, hot.call_type) ? (struct call *)object : NULL);
  Py_RETURN_NONE;
}

static PyObject *calls_join(PyObject *module, PyObject *mailbox) {
  (void)module;
  struct hold *hold = hot_hold_of(mailbox, AF_KIND_MAILBOX);
  if (!hold) return NULL;
  af_mailbox_join(&hold->session->client, hold->block);
  Py_RETURN_NONE;
}

static PyObject *calls_leave(PyObject *module, PyObject *mailbox) {
  (void)module;
  struct hold *hold = hot_hold_of(mailbox, AF_KIND_MAILBOX);
  if (!hold) return NULL;
  af_mailbox_leave(&hold->session->client, hold->block);
  atomic_store(&hold->session->client.slot->leave, 0);
  Py_RETURN_NONE;
}

static PyObject *calls_must_leave(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct af_client *client = hot_client();
  return client ? PyBool_FromLong(atomic_load(&client->slot->leave) != 0) : NULL;
}

/* As if the node had asked for it. */
static PyObject *calls_leave_soon(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct af_client *client = hot_client();
  if (!client) return NULL;
  atomic_store(&client->slot->leave, 1);
  Py_RETURN_NONE;
}

static PyObject *calls_task_done(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct af_client *client = hot_client();
  if (!client) return NULL;
  af_mailbox_task_done(client);
  Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"enter", calls_enter, METH_O, NULL},           {"join", calls_join, METH_O, NULL},
    {"leave", calls_leave, METH_O, NULL},           {"must_leave", calls_must_leave, METH_NOARGS, NULL},
    {"leave_soon", calls_leave_soon, METH_NOARGS, NULL},
    {"task_done", calls_task_done, METH_NOARGS, NULL},
    {"current_call", calls_current_call, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL},
};

int hot_add_calls(PyObject *module) {
  hot.call_type = (PyTypeObject *)PyType_FromSpec(&spec);
  return hot.call_type && PyModule_AddObjectRef(module, "Call", (PyObject *)hot.call_type) == 0 &&
                 PyModule_AddFunctions(module, functions) == 0
             ? 0 : -1;
}
