/* hot_channel.c - Writer and Reader: the ends of a channel in Python.
 *
 * An end belongs to the process that claimed it, and to one of its threads at a time (`busy`). It keeps the channel by a
 * Pin, so that a thread which waits without the GIL finds the channel in its place whatever another thread closes or
 * detaches meanwhile; that thread lets go of it. With the end of an end, in any way, its channel is closed.
 * Waiting is as in hot_wait.c: up to 20 us of spinning with the GIL, more without, then timed sleeps between which signal
 * handlers run and the node is looked at.
 * A value goes into its slot if it fits and has no out-of-band buffers; else into a block of its own, whose count the
 * slot takes over. Buffers that were read from the object store stay where they are (hot_block.c). */
#include "hot.h"

#include <string.h>

/* -- life of an end -- */

static struct af_client *client_of(const struct end *self) { return &self->session->client; }

static bool is_own(const struct end *self) {
  const struct af_client *client = client_of(self);
  return client->slot && self->slot == client->slot_index && self->epoch == client->epoch;
}

/* Lets go of the channel, unless a thread is still at it: then that one does, in end_finish. */
static void end_release(struct end *self) {
  if (!self->pin || self->busy) return;
  if (is_own(self)) af_channel_watch(client_of(self), self->channel, self->number, 0);
  Py_CLEAR(self->pin);
}

/* In a forked child the end is still the parent's, and its channel stays open. */
static void end_close(struct end *self) {
  if (!self->pin || self->shut) return;
  if (is_own(self)) {
    af_channel_close(client_of(self), self->channel);
    self->state = (uint8_t)af_channel_state(client_of(self), self->channel);
  }
  self->shut = true;
  end_release(self);
}

void hot_close_ends(struct session *session) {
  for (struct end *end = session->ends; end; end = end->following) end_close(end);
}

struct end *hot_end_of(PyObject *object) {
  if (!PyObject_TypeCheck(object, hot.end_type)) {
    PyErr_Format(PyExc_TypeError, "expected a Writer or a Reader, got %R", (PyObject *)Py_TYPE(object));
    return NULL;
  }
  struct end *self = (struct end *)object;
  if (!self->session || !hot_live(self->session))
    PyErr_SetString(PyExc_RuntimeError, "this end of a channel belongs to a runtime that was shut down");
  else if (!is_own(self))
    PyErr_SetString(PyExc_RuntimeError, "this end of a channel belongs to the process that forked this one");
  else return self;
  return NULL;
}

int hot_end_look(const struct end *self) {
  return self->shut ? AF_CLOSED : af_channel_look(client_of(self), self->channel, self->number);
}

void hot_end_watch(struct end *self, af_watch watch) {
  if (self->pin) af_channel_watch(client_of(self), self->channel, self->number, watch);
}

struct end *hot_end_begin(PyObject *object) {
  struct end *self = hot_end_of(object);
  if (!self || !self->busy) {
    if (self) self->busy = true;
    return self;
  }
  PyErr_SetString(PyExc_RuntimeError, "another thread uses this end of the channel");
  return NULL;
}

void hot_end_finish(struct end *self) {
  self->busy = false;
  if (self->shut) end_release(self);
}

static int raise_closed(const struct end *self) {
  uint8_t state = self->shut ? self->state : (uint8_t)af_channel_state(client_of(self), self->channel);
  PyErr_SetString(hot.channel_closed, state == AF_CHANNEL_BROKEN
                                          ? "the channel is broken: a process at one of its ends has died"
                                          : "the channel is closed");
  return -1;
}

/* -- waiting -- */

/* As hot_end_look; -1 with an exception: AF_SYSTEM stands for it. */
static int spin(struct end *self) {
  struct session *session = self->session;
  struct af_client *client = client_of(self);
  int found = af_channel_spin(client, self->channel, self->number, hot_spin_first(client, self->doubt));
  uint64_t rest_ns = hot_spin_rest(client, self->doubt);
  if (found == AF_EMPTY && rest_ns > 0) {
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    found = af_channel_spin(client, self->channel, self->number, rest_ns);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session)) return AF_SYSTEM;
  }
  if (found == AF_OK && self->doubt > 0) self->doubt = 0;
  return found;
}

static int sleep_until(struct end *self, uint64_t deadline_ns) {
  struct session *session = self->session;
  int status = AF_EMPTY;
  while (hot_end_look(self) == AF_EMPTY) {
    uint64_t left_ns = hot_left(deadline_ns);
    if (left_ns == 0) { hot_raise(AF_TIMEOUT, "the channel was not ready in time"); return -1; }
    self->sleeps++;
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    status = af_channel_sleep(&session->client, self->channel, self->number, left_ns);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session)) return -1;
    if (hot_end_look(self) == AF_EMPTY && hot_after_sleep(session, status) < 0) return -1;
  }
  return 0;
}

static int wait_asleep(struct end *self, uint64_t begin_ns, uint64_t deadline_ns) {
  struct session *session = self->session;
  uint64_t inside = af_mailbox_block(&session->client);
  int status = sleep_until(self, deadline_ns);
  if (!hot_live(session)) return -1;
  af_mailbox_unblock(&session->client, inside);
  hot_learn_step(&session->client, &self->doubt, begin_ns);
  return status;
}

/* Until the end can write or read: 0, or -1 with an exception. */
static int wait_ready(struct end *self, uint64_t deadline_ns) {
  int found = hot_end_look(self);
  uint64_t begin_ns = found == AF_EMPTY ? af_now_ns() : 0;
  if (found == AF_EMPTY && deadline_ns > begin_ns) found = spin(self);
  if (found == AF_SYSTEM) return -1;
  if (found == AF_EMPTY && wait_asleep(self, begin_ns, deadline_ns) < 0) return -1;
  if (found == AF_EMPTY) found = hot_end_look(self);
  return found == AF_OK ? 0 : raise_closed(self);
}

/* -- writing -- */

/* Whatever ran since the end was found ready (pickling, a copy without the GIL) may have closed it. */
static int check_open(struct end *self) {
  if (!hot_live(self->session)) {
    PyErr_SetString(PyExc_RuntimeError, "actorflow was shut down while a value was written");
    return -1;
  }
  return hot_end_look(self) == AF_OK ? 0 : raise_closed(self);
}

static int write_inline(struct end *self, const struct packed *packed) {
  struct af_client *client = client_of(self);
  if (check_open(self) < 0) return -1;
  uint32_t references = 0, outer = packed->held_count ? af_op_begin(client, AF_OP_CHANNEL) : 1;
  uint8_t *place = af_channel_place(client, self->channel);
  if (packed->held_count) hot_fill(client, (af_off *)(void *)place, &references, packed->held, packed->held_count);
  if (packed->bytes)
    memcpy(place + references * sizeof(af_off), PyBytes_AsString(packed->data), (size_t)packed->bytes);
  af_channel_publish(client, self->channel, 0, references, (uint32_t)packed->bytes, (uint8_t)packed->format);
  self->position++;
  if (packed->held_count) af_op_end(client, outer);
  return 0;
}

static int write_block(struct end *self, struct packed *packed) {
  struct af_client *client = client_of(self);
  af_off block;
  uint32_t index;
  packed->refers = true;
  if (hot_pack_block(self->session, packed, packed->held, packed->held_count, &block, &index) < 0) return -1;
  if (check_open(self) < 0) {
    if (hot_live(self->session)) af_hold_drop(client, index);
    return -1;
  }
  uint32_t outer = af_op_begin(client, AF_OP_CHANNEL);
  af_hold_forget(client, index);
  af_channel_publish(client, self->channel, block, 0, 0, (uint8_t)packed->format);
  self->position++;
  af_op_end(client, outer);
  return 0;
}

static int write_packed(struct end *self, struct packed *packed) {
  uint64_t whole = packed->bytes + (uint64_t)packed->held_count * sizeof(af_off);
  uint32_t slot_bytes = AF_AT(client_of(self), struct af_channel, self->channel)->slot_bytes;
  return packed->buffer_count || whole > slot_bytes ? write_block(self, packed) : write_inline(self, packed);
}

/* The deadline from an argument `timeout` behind `before` others, by place or by name. */
static int timeout_of(const char *usage, PyObject *const *args, Py_ssize_t count, PyObject *names, Py_ssize_t before,
                      uint64_t *deadline_ns) {
  Py_ssize_t named = names ? PyTuple_Size(names) : 0;
  bool fits = count >= before && count + named <= before + 1;
  if (fits && named) fits = PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "timeout") == 0;
  if (fits) return hot_deadline(count + named > before ? args[before] : NULL, deadline_ns);
  PyErr_SetString(PyExc_TypeError, usage);
  return -1;
}

static PyObject *written(struct end *self, int status) {
  hot_end_finish(self);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *writer_write(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
  uint64_t deadline_ns;
  if (timeout_of("write(value, timeout=None)", args, count, names, 1, &deadline_ns) < 0) return NULL;
  struct end *self = hot_end_begin(object);
  if (!self) return NULL;
  int status = wait_ready(self, deadline_ns);
  if (status == 0) {
    struct packed packed;
    status = hot_pack(&packed, args[0]) < 0 ? -1 : write_packed(self, &packed);
    hot_packed_clear(&packed);
  }
  return written(self, status);
}

static PyObject *writer_write_error(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
  uint64_t deadline_ns;
  if (timeout_of("write_error(data, holds, timeout=None)", args, count, names, 2, &deadline_ns) < 0) return NULL;
  struct end *self = hot_end_begin(object);
  if (!self) return NULL;
  int status = wait_ready(self, deadline_ns);
  if (status == 0) {
    struct packed packed;
    status = hot_pack_error(&packed, args[0], args[1]) < 0 ? -1 : write_packed(self, &packed);
    hot_packed_clear(&packed);
  }
  return written(self, status);
}

/* -- reading -- */

/* The value stays in its slot while it is loaded, and is consumed in any case: one that cannot be loaded, too. */
static PyObject *read_value(struct end *self) {
  struct af_client *client = client_of(self);
  struct af_channel_value value;
  int status = af_channel_value(client, self->channel, self->number, &value);
  if (status != AF_OK) return hot_raise(status, "this channel's slot holds no value");
  struct hot_stored stored = {.format = value.format, .data = value.data, .bytes = value.bytes,
                              .references = value.references, .count = value.count};
  if (value.block) hot_stored_block(self->session, value.block, &stored);
  PyObject *loaded = hot_load_stored(self->session, &stored);
  af_channel_next(client, self->channel, self->number);
  self->position++;
  return loaded;
}

static PyObject *reader_read(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names) {
  uint64_t deadline_ns;
  if (timeout_of("read(timeout=None)", args, count, names, 0, &deadline_ns) < 0) return NULL;
  struct end *self = hot_end_begin(object);
  if (!self) return NULL;
  PyObject *value = wait_ready(self, deadline_ns) < 0 ? NULL : read_value(self);
  hot_end_finish(self);
  return value;
}

/* -- both -- */

static PyObject *end_ready(PyObject *object, PyObject *unused) {
  (void)unused;
  struct end *self = hot_end_of(object);
  return self ? PyBool_FromLong(hot_end_look(self) != AF_EMPTY) : NULL;
}

static PyObject *end_close_now(PyObject *object, PyObject *unused) {
  (void)unused;
  end_close((struct end *)object);
  Py_RETURN_NONE;
}

static PyObject *end_get_state(PyObject *object, void *unused) {
  (void)unused;
  struct end *self = (struct end *)object;
  if (self->shut) return PyLong_FromUnsignedLong(self->state);
  if (!hot_end_of(object)) return NULL;
  return PyLong_FromLong((long)af_channel_state(client_of(self), self->channel));
}

static PyObject *end_get_sleeps(PyObject *object, void *unused) {
  (void)unused;
  return PyLong_FromUnsignedLongLong(((struct end *)object)->sleeps);
}

static PyObject *end_get_position(PyObject *object, void *unused) {
  (void)unused;
  return PyLong_FromUnsignedLongLong(((struct end *)object)->position);
}

/* -- making -- */

static int end_claim(struct end *self, uint32_t number) {
  struct af_client *client = client_of(self);
  int status = af_channel_claim(client, self->channel, number);
  if (status == AF_BAD)
    PyErr_Format(PyExc_ValueError, "this channel has %u readers: there is none of number %lld",
                 AF_AT(client, struct af_channel, self->channel)->readers, (long long)number - 1);
  else if (status != AF_OK)
    PyErr_Format(PyExc_RuntimeError, "this channel's %s is taken already", number ? "reader" : "writer");
  return status == AF_OK ? 0 : -1;
}

static PyObject *end_make(PyTypeObject *type, PyObject *channel, uint32_t number) {
  struct hold *hold = hot_hold_of(channel, AF_KIND_CHANNEL);
  struct end *self = hold ? (struct end *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0) : NULL;
  if (!self) return NULL;
  self->session = hold->session;
  self->session->users++;
  self->channel = hold->block;
  self->shut = true; /* until it is claimed it closes nothing */
  self->following = self->session->ends;
  if (self->following) self->following->previous = self;
  self->session->ends = self;
  self->pin = hot_pin(self->session, self->channel);
  if (!self->pin || end_claim(self, number) < 0) { Py_DECREF(self); return NULL; }
  self->number = number;
  self->slot = client_of(self)->slot_index;
  self->epoch = client_of(self)->epoch;
  self->shut = false;
  return (PyObject *)self;
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"channel", NULL};
  PyObject *channel;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Writer", names, &channel)) return NULL;
  return end_make(type, channel, AF_CHANNEL_WRITER);
}

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"channel", "index", NULL};
  PyObject *channel;
  unsigned char index;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ob:Reader", names, &channel, &index)) return NULL;
  return end_make(type, channel, 1u + index);
}

static void end_dealloc(PyObject *object) {
  struct end *self = (struct end *)object;
  struct session *session = self->session;
  PyTypeObject *type = Py_TYPE(object);
  if (session) {
    end_close(self);
    Py_CLEAR(self->pin);
    if (self->previous) self->previous->following = self->following;
    else session->ends = self->following;
    if (self->following) self->following->previous = self->previous;
    session_release(session);
  }
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

/* channel_create(slots, slot_bytes, readers) -> Hold */
static PyObject *channel_create(PyObject *module, PyObject *args, PyObject *kwargs) {
  (void)module;
  static char *names[] = {"slots", "slot_bytes", "readers", NULL};
  struct session *session = hot_session();
  unsigned int slots, slot_bytes, readers;
  if (!session || !PyArg_ParseTupleAndKeywords(args, kwargs, "III", names, &slots, &slot_bytes, &readers)) return NULL;
  af_off channel;
  uint32_t index, outer = af_op_begin(&session->client, AF_OP_CHANNEL);
  int status = af_channel_create(&session->client, slots, slot_bytes, readers, &channel);
  status = hot_record(session, status, channel, &index);
  af_op_end(&session->client, outer);
  if (status == AF_BAD || status == AF_TOO_LARGE)
    return PyErr_Format(PyExc_ValueError,
                        "a channel needs 1 slot and 1 to %u readers at least, and all its slots must fit %u KiB; "
                        "larger values go through the object store by themselves", AF_CHANNEL_READERS,
                        AF_LARGE_MAX / 1024 - 8);
  if (status != AF_OK) return hot_raise(status, "messages");
  return hot_hold_new(hot.hold_type, session, channel, index);
}

/* channel_close(channel) */
static PyObject *channel_close(PyObject *module, PyObject *channel) {
  (void)module;
  struct hold *hold = hot_hold_of(channel, AF_KIND_CHANNEL);
  if (!hold) return NULL;
  af_channel_close(&hold->session->client, hold->block);
  Py_RETURN_NONE;
}

static PyMethodDef end_methods[] = {
    {"ready", end_ready, METH_NOARGS, NULL}, {"close", end_close_now, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyGetSetDef end_getset[] = {{"state", end_get_state, NULL, NULL, NULL},
                                   {"sleeps", end_get_sleeps, NULL, NULL, NULL},
                                   {"position", end_get_position, NULL, NULL, NULL},
                                   {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot end_slots[] = {{Py_tp_dealloc, end_dealloc}, {Py_tp_methods, end_methods},
                                  {Py_tp_getset, end_getset}, {Py_tp_doc, "An end of a channel."}, {0, NULL}};
static PyType_Spec end_spec = {"actorflow._hot.End", sizeof(struct end), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, end_slots};

#define WITH_TIMEOUT METH_FASTCALL | METH_KEYWORDS
static PyMethodDef writer_methods[] = {
    {"write", (PyCFunction)(void (*)(void))writer_write, WITH_TIMEOUT, NULL},
    {"write_error", (PyCFunction)(void (*)(void))writer_write_error, WITH_TIMEOUT, NULL},
    {NULL, NULL, 0, NULL}};
static PyType_Slot writer_slots[] = {{Py_tp_new, writer_new}, {Py_tp_dealloc, end_dealloc},
                                     {Py_tp_methods, writer_methods}, {Py_tp_doc, "The writing end of a channel."},
                                     {0, NULL}};
static PyType_Spec writer_spec = {"actorflow._hot.Writer", sizeof(struct end), 0, Py_TPFLAGS_DEFAULT, writer_slots};

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))reader_read, WITH_TIMEOUT, NULL}, {NULL, NULL, 0, NULL}};
static PyType_Slot reader_slots[] = {{Py_tp_new, reader_new}, {Py_tp_dealloc, end_dealloc},
                                     {Py_tp_methods, reader_methods}, {Py_tp_doc, "A reading end of a channel."},
                                     {0, NULL}};
static PyType_Spec reader_spec = {"actorflow._hot.Reader", sizeof(struct end), 0, Py_TPFLAGS_DEFAULT, reader_slots};

static PyMethodDef functions[] = {
    {"channel_create", (PyCFunction)(void (*)(void))channel_create, METH_VARARGS | METH_KEYWORDS, NULL},
    {"channel_close", channel_close, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

static int add_type(PyObject *module, PyType_Spec *spec, const char *name, PyObject *bases) {
  PyObject *type = PyType_FromSpecWithBases(spec, bases);
  int status = type ? PyModule_AddObjectRef(module, name, type) : -1;
  Py_XDECREF(type);
  return status;
}

int hot_add_channels(PyObject *module) {
  if (!(hot.end_type = (PyTypeObject *)PyType_FromSpec(&end_spec))) return -1;
  PyObject *bases = PyTuple_Pack(1, (PyObject *)hot.end_type);
  int status = !bases || PyModule_AddObjectRef(module, "End", (PyObject *)hot.end_type) < 0 ||
                       add_type(module, &writer_spec, "Writer", bases) < 0 ||
                       add_type(module, &reader_spec, "Reader", bases) < 0 ||
                       PyModule_AddFunctions(module, functions) < 0 ||
                       PyModule_AddIntConstant(module, "CHANNEL_OPEN", AF_CHANNEL_OPEN) < 0 ||
                       PyModule_AddIntConstant(module, "CHANNEL_CLOSED", AF_CHANNEL_CLOSED) < 0 ||
                       PyModule_AddIntConstant(module, "CHANNEL_BROKEN", AF_CHANNEL_BROKEN) < 0
                   ? -1 : 0;
  Py_XDECREF(bases);
  return status;
}
