/* hot_refs.c - holds as Python objects: Hold, Reference (what ObjectRef derives from) and Pin (a view into the store).
 *
 * Each is one entry of this process' hold table, dropped with the object. After detach they only know that they are
 * stale. A Pin is what memoryviews, and so numpy arrays, keep alive: it counts the object, not its reference. */
#include "hot.h"

#include <string.h>

static __thread unsigned int at_once; /* awaits in a row that found their result there */

static const char *const kind_names[AF_KIND_COUNT] = {
    [AF_KIND_CELL] = "cell", [AF_KIND_BYTES] = "bytes", [AF_KIND_OBJECT] = "object", [AF_KIND_MAILBOX] = "mailbox",
    [AF_KIND_ACTOR] = "actor", [AF_KIND_CHANNEL] = "channel",
};

PyObject *hot_hold_new(PyTypeObject *type, struct session *session, af_off block, uint32_t index) {
  allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  struct hold *self = (struct hold *)allocate(type, 0);
  if (!self) { af_hold_drop(&session->client, index); return NULL; }
  self->session = session;
  self->block = block;
  self->generation = AF_AT(&session->client, struct af_block, block)->generation;
  self->index = index;
  session->users++;
  return (PyObject *)self;
}

int hot_record(struct session *session, int status, af_off block, uint32_t *index) {
  if (status != AF_OK) return status;
  status = af_hold_record(&session->client, block, index);
  if (status != AF_OK) af_block_drop(&session->client, block);
  return status;
}

PyObject *hot_hold_take(struct session *session, af_off block) {
  uint32_t index;
  uint8_t kind = AF_AT(&session->client, struct af_block, block)->kind;
  int status = af_hold_take(&session->client, block, &index);
  if (status != AF_OK) return hot_raise(status, "messages: no room in the hold table");
  return hot_hold_new(kind == AF_KIND_CELL ? hot.made_type : hot.hold_type, session, block, index);
}

struct hold *hot_hold_of(PyObject *object, uint8_t kind) {
  if (!PyObject_TypeCheck(object, hot.hold_type)) {
    PyErr_Format(PyExc_TypeError, "expected a %s, got %R", kind ? kind_names[kind] : "hold", (PyObject *)Py_TYPE(object));
    return NULL;
  }
  struct hold *self = (struct hold *)object;
  if (!self->session || !hot_live(self->session)) {
    PyErr_SetString(PyExc_RuntimeError, "this reference belongs to a runtime that was shut down: make it again in this one");
    return NULL;
  }
  if (kind && AF_AT(&self->session->client, struct af_block, self->block)->kind != kind) {
    PyErr_Format(PyExc_TypeError, "expected a reference to a %s", kind_names[kind]);
    return NULL;
  }
  return self;
}

static void hold_free(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

static void hold_dealloc(PyObject *object) {
  struct hold *self = (struct hold *)object;
  if (self->session) {
    if (hot_live(self->session)) {
      if (self->watcher.follower) af_hold_drop(&self->session->client, self->watcher.hold);
      af_hold_drop(&self->session->client, self->index);
    }
    session_release(self->session);
  }
  hold_free(object);
}

static Py_hash_t hold_hash(PyObject *object) {
  struct hold *self = (struct hold *)object;
  uint64_t mixed = (self->block ^ ((uint64_t)self->generation << 40)) * 0x9e3779b97f4a7c15ull;
  Py_hash_t hash = (Py_hash_t)(mixed >> 3);
  return hash;
}

static PyObject *hold_compare(PyObject *left, PyObject *right, int operation) {
  if ((operation != Py_EQ && operation != Py_NE) || !PyObject_TypeCheck(right, hot.hold_type) ||
      !PyObject_TypeCheck(left, hot.hold_type))
    Py_RETURN_NOTIMPLEMENTED;
  struct hold *a = (struct hold *)left, *b = (struct hold *)right;
  bool equal = a->session == b->session && a->block == b->block && a->generation == b->generation;
  return PyBool_FromLong(equal == (operation == Py_EQ));
}

static PyObject *hold_name(PyObject *object, void *unused) {
  (void)unused;
  struct hold *self = (struct hold *)object;
  return Py_BuildValue("(KI)", (unsigned long long)self->block, self->generation);
}

/* What it holds besides its cell: its place among those who watch that. */
static PyObject *reference_watcher(PyObject *object, void *unused) {
  (void)unused;
  struct hold *self = hot_hold_of(object, AF_KIND_CELL);
  if (!self) return NULL;
  af_off follower = self->watcher.follower;
  if (!follower) Py_RETURN_NONE;
  return Py_BuildValue("(KI)", (unsigned long long)follower, af_block_generation(&self->session->client, follower));
}

static PyObject *hold_kind(PyObject *object, void *unused) {
  (void)unused;
  struct hold *self = hot_hold_of(object, 0);
  if (!self) return NULL;
  const char *name = kind_names[AF_AT(&self->session->client, struct af_block, self->block)->kind];
  return PyUnicode_FromString(name ? name : "internal");
}

/* -- Reference -- */

static PyObject *reference_is_done(PyObject *object, PyObject *unused) {
  (void)unused;
  struct hold *self = hot_hold_of(object, AF_KIND_CELL);
  return self ? PyBool_FromLong(af_cell_is_done(&self->session->client, self->block)) : NULL;
}

/* For an await: True: go on; False: wait; None: go on after the loop's other tasks had a turn, because so many awaits of
 * this thread have gone on at once. */
static PyObject *reference_look(PyObject *object, PyObject *unused) {
  (void)unused;
  struct hold *self = hot_hold_of(object, AF_KIND_CELL);
  if (!self) return NULL;
  if (!af_cell_is_done(&self->session->client, self->block)) Py_RETURN_FALSE;
  if (++at_once <= HOT_AWAITS_IN_A_ROW) Py_RETURN_TRUE;
  at_once = 0;
  Py_RETURN_NONE;
}

static PyObject *reference_spin(PyObject *object, PyObject *seconds) {
  struct hold *self = hot_hold_of(object, AF_KIND_CELL);
  double limit = self ? PyFloat_AsDouble(seconds) : -1.0;
  if (!self || (limit == -1.0 && PyErr_Occurred())) return NULL;
  uint64_t spin_ns = limit > 50e-6 ? 50000 : limit > 0 ? (uint64_t)(limit * 1e9) : 0;
  return PyBool_FromLong(af_cell_spin(&self->session->client, self->block, spin_ns));
}

static struct hold *done_reference(PyObject *object) {
  struct hold *self = hot_hold_of(object, AF_KIND_CELL);
  if (!self || af_cell_is_done(&self->session->client, self->block)) return self;
  PyErr_SetString(PyExc_RuntimeError, "the result is not ready");
  return NULL;
}

static PyObject *reference_result(PyObject *object, PyObject *unused) {
  (void)unused;
  struct hold *self = done_reference(object);
  return self ? hot_load(self->session, self->block, UINT64_MAX) : NULL;
}

static PyObject *reference_result_nowait(PyObject *object, PyObject *unused) {
  (void)unused;
  struct hold *self = done_reference(object);
  return self ? hot_load(self->session, self->block, 0) : NULL;
}

static PyObject *reference_bring_back(PyObject *object, PyObject *unused) {
  (void)unused;
  struct hold *self = done_reference(object);
  struct hot_value value;
  if (!self || hot_value_open(self->session, self->block, &value, UINT64_MAX) < 0) return NULL;
  if (value.pin) return value.pin;
  Py_RETURN_NONE;
}

static PyObject *reference_error(PyObject *object, PyObject *unused) {
  (void)unused;
  struct hold *self = done_reference(object);
  return self ? hot_load_error(self->session, self->block) : NULL;
}

PyObject *hot_holds_list(struct session *session, const af_off *blocks, uint32_t count) {
  PyObject *list = PyList_New((Py_ssize_t)count);
  for (uint32_t i = 0; list && i < count; i++) {
    PyObject *held = hot_hold_take(session, blocks[i]);
    if (!held || PyList_SetItem(list, (Py_ssize_t)i, held) < 0) Py_CLEAR(list);
  }
  return list;
}

static PyObject *reference_raw(PyObject *object, PyObject *unused) {
  (void)unused;
  struct hold *self = done_reference(object);
  if (!self) return NULL;
  size_t bytes;
  const af_off *refs;
  uint32_t count;
  struct hot_value value;
  if (hot_value_open(self->session, self->block, &value, UINT64_MAX) < 0) return NULL;
  const uint8_t *data = hot_value_bytes(self->session, self->block, &value, &bytes, &refs, &count);
  PyObject *list = hot_holds_list(self->session, refs, count), *raw = NULL;
  int format = af_value_format(&self->session->client, self->block, value.block);
  if (list) raw = Py_BuildValue("(iy#N)", format, (const char *)data, (Py_ssize_t)bytes, list);
  Py_XDECREF(value.pin);
  return raw;
}

/* -- Pin -- */

PyObject *hot_pin(struct session *session, af_off block) {
  uint32_t index;
  int status = af_hold_take(&session->client, block, &index);
  if (status != AF_OK) return hot_raise(status, "messages: no room in the hold table");
  return hot_pin_recorded(session, block, index);
}

PyObject *hot_pin_recorded(struct session *session, af_off block, uint32_t index) {
  struct hold *pin = (struct hold *)hot_hold_new(hot.pin_type, session, block, index);
  if (!pin) return NULL;
  session->pins++;
  pin->following = session->pinned;
  if (session->pinned) session->pinned->previous = pin;
  session->pinned = pin;
  return (PyObject *)pin;
}

static void pin_dealloc(PyObject *object) {
  struct hold *pin = (struct hold *)object;
  struct session *session = pin->session;
  if (session) {
    if (pin->previous) pin->previous->following = pin->following;
    else session->pinned = pin->following;
    if (pin->following) pin->following->previous = pin->previous;
    session->pins--;
    if (session->client.slot && session->client.base) af_hold_drop(&session->client, pin->index);
    session_release(session);
  }
  hold_free(object);
}

static int pin_buffer(PyObject *object, Py_buffer *view, int flags) {
  struct hold *pin = (struct hold *)object;
  struct af_client *client = &pin->session->client;
  uint64_t bytes = sizeof(struct af_object) + AF_AT(client, struct af_object, pin->block)->bytes;
  return PyBuffer_FillInfo(view, object, (void *)(uintptr_t)(client->view + pin->block), (Py_ssize_t)bytes, 1, flags);
}

/* -- module functions -- */

static PyObject *refs_hold(PyObject *module, PyObject *args) {
  (void)module;
  unsigned long long block;
  unsigned int generation;
  const char *kind;
  struct session *session = hot_session();
  if (!session || !PyArg_ParseTuple(args, "(KI)s", &block, &generation, &kind)) return NULL;
  uint8_t wanted = 0;
  for (uint8_t i = 0; i < AF_KIND_COUNT; i++)
    if (kind_names[i] && strcmp(kind_names[i], kind) == 0) wanted = i;
  if (!wanted) return PyErr_Format(PyExc_ValueError, "kind must be cell, mailbox, actor or channel, not %s", kind);
  uint32_t index, outer = af_op_begin(&session->client, AF_OP_HOLD);
  int status = hot_record(session, af_block_revive(&session->client, block, generation, wanted), block, &index);
  af_op_end(&session->client, outer);
  if (status == AF_BAD) return PyErr_Format(PyExc_ValueError, "not the name of a %s on this node", kind);
  if (status != AF_OK) return hot_raise(status, "the block of that name is gone");
  return hot_hold_new(wanted == AF_KIND_CELL ? hot.made_type : hot.hold_type, session, block, index);
}

static PyObject *refs_refused(PyObject *module, PyObject *object) {
  (void)module;
  struct hold *hold = hot_hold_of(object, AF_KIND_MAILBOX);
  if (!hold) return NULL;
  struct af_client *client = &hold->session->client;
  const struct af_mailbox *mailbox = AF_AT(client, struct af_mailbox, hold->block);
  if (!atomic_load_explicit(&mailbox->closed, memory_order_acquire)) { /* SYNC POINT close */
    PyErr_SetString(PyExc_ValueError, "the mailbox is open");
    return NULL;
  }
  af_off cell;
  uint32_t index, outer = af_op_begin(client, AF_OP_CREATE);
  int status = af_cell_expected_create(client, 0, &cell);
  status = hot_record(hold->session, status, cell, &index);
  if (status == AF_OK) af_cell_fail(client, cell, 0, mailbox->error, (uint8_t)mailbox->error_format);
  af_op_end(client, outer);
  return status == AF_OK ? hot_hold_new(hot.made_type, hold->session, cell, index) : hot_raise(status, "messages");
}

static PyGetSetDef hold_getset[] = {
    {"name", hold_name, NULL, "(offset, generation)", NULL},
    {"kind", hold_kind, NULL, "cell, mailbox, actor or channel", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef hold_methods[] = {{"__reduce__", hot_hold_reduce, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyType_Slot hold_slots[] = {
    {Py_tp_dealloc, hold_dealloc}, {Py_tp_methods, hold_methods}, {Py_tp_hash, hold_hash}, {Py_tp_richcompare, hold_compare},
    {Py_tp_getset, hold_getset}, {Py_tp_doc, "A counted reference to a block."}, {0, NULL},
};
static PyType_Spec hold_spec = {"actorflow._hot.Hold", sizeof(struct hold), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                hold_slots};

static PyMethodDef reference_methods[] = {
    {"is_done", reference_is_done, METH_NOARGS, NULL}, {"look", reference_look, METH_NOARGS, NULL},
    {"spin", reference_spin, METH_O, NULL},            {"error", reference_error, METH_NOARGS, NULL},
    {"result", reference_result, METH_NOARGS, NULL},
    {"result_nowait", reference_result_nowait, METH_NOARGS, NULL},
    {"bring_back", reference_bring_back, METH_NOARGS, NULL},
    {"raw", reference_raw, METH_NOARGS, NULL},         {"__reduce__", hot_reference_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef reference_getset[] = {
    {"watcher", reference_watcher, NULL, "the name of what it holds besides its cell, or None", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot reference_slots[] = {
    {Py_tp_methods, reference_methods}, {Py_tp_getset, reference_getset}, {Py_tp_dealloc, hold_dealloc}, {Py_tp_hash, hold_hash},
    {Py_tp_richcompare, hold_compare}, {Py_tp_doc, "A hold on a cell."}, {0, NULL},
};
static PyType_Spec reference_spec = {"actorflow._hot.Reference", sizeof(struct hold), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                     reference_slots};

static PyType_Slot pin_slots[] = {
    {Py_tp_dealloc, pin_dealloc}, {Py_bf_getbuffer, pin_buffer},
    {Py_tp_doc, "Keeps an object in the store while views into it live."}, {0, NULL},
};
static PyType_Spec pin_spec = {"actorflow._hot.Pin", sizeof(struct hold), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, pin_slots};

static PyMethodDef functions[] = {
    {"hold", refs_hold, METH_VARARGS, NULL}, {"refused", refs_refused, METH_O, NULL}, {NULL, NULL, 0, NULL}};

int hot_add_refs(PyObject *module) {
  PyObject *bases;
  if (!(hot.hold_type = (PyTypeObject *)PyType_FromSpec(&hold_spec))) return -1;
  if (!(bases = PyTuple_Pack(1, (PyObject *)hot.hold_type))) return -1;
  hot.reference_type = (PyTypeObject *)PyType_FromSpecWithBases(&reference_spec, bases);
  hot.pin_type = (PyTypeObject *)PyType_FromSpecWithBases(&pin_spec, bases);
  Py_DECREF(bases);
  if (!hot.reference_type || !hot.pin_type) return -1;
  hot.made_type = hot.reference_type;
  Py_INCREF((PyObject *)hot.made_type);
  return PyModule_AddObjectRef(module, "Hold", (PyObject *)hot.hold_type) < 0 ||
                 PyModule_AddObjectRef(module, "Reference", (PyObject *)hot.reference_type) < 0 ||
                 PyModule_AddFunctions(module, functions) < 0
             ? -1 : 0;
}
