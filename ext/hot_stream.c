/* hot_stream.c - streams of items: what a worker does to hand one out (functions on its Call), and Stream, which reads
 * them in the process that made the call. See core/stream.h. */
#include "hot.h"

#include "core/stream.h"

enum { STREAM_MORE = 0, STREAM_FULL, STREAM_UNWANTED };

/* -- the executor's side -- */

static int state_of(int status) {
  return status == AF_OK ? STREAM_MORE : status == AF_CLOSED ? STREAM_UNWANTED : STREAM_FULL;
}

/* The call and its current item. 0: an exception is set. */
static af_off current_item(PyObject *object, struct session **session, af_off *call) {
  *call = hot_call_cell(object, session);
  af_off item = *call ? af_stream_current(&(*session)->client, *call) : 0;
  if (*call && !item) PyErr_SetString(PyExc_ValueError, "the call gives no items, or has given its last one");
  return item;
}

static PyObject *stream_index(PyObject *module, PyObject *object) {
  (void)module;
  struct session *session;
  af_off call, item = current_item(object, &session, &call);
  if (!item) return NULL;
  return PyLong_FromUnsignedLongLong(AF_AT(&session->client, struct af_cell, item)->number);
}

static int give(struct session *session, af_off call, af_off item, struct packed *packed) {
  int status = af_stream_extend(&session->client, call, item, HOT_RESERVE_BYTES);
  if (status == AF_OK) {
    if (hot_settle(session, item, packed) < 0) return -1;
    af_stream_release(&session->client, call, item);
    return 0;
  }
  hot_raise(status, status == AF_FENCED ? "this process was declared dead and its call was given away" : "messages");
  return -1;
}

/* stream_give(call, value) */
static PyObject *stream_give(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  struct session *session;
  struct packed packed;
  af_off call, item;
  if (count != 2) { PyErr_SetString(PyExc_TypeError, "stream_give(call, value)"); return NULL; }
  if (!(item = current_item(args[0], &session, &call))) return NULL;
  int status = hot_pack(&packed, args[1]);
  if (status == 0) status = give(session, call, item, &packed);
  hot_packed_clear(&packed);
  if (status < 0 || !(item = current_item(args[0], &session, &call))) return NULL;
  return PyLong_FromLong(state_of(af_stream_look(&session->client, call, item)));
}

static PyObject *stream_look(PyObject *module, PyObject *object) {
  (void)module;
  struct session *session;
  af_off call, item = current_item(object, &session, &call);
  return item ? PyLong_FromLong(state_of(af_stream_look(&session->client, call, item))) : NULL;
}

static PyObject *stream_wait(PyObject *module, PyObject *object) {
  (void)module;
  struct session *session;
  af_off call, item = current_item(object, &session, &call);
  if (!item) return NULL;
  struct af_client *client = &session->client;
  int status = af_stream_look(client, call, item);
  if (status == AF_FULL) {
    uint64_t inside = af_mailbox_block(client);
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    status = af_stream_wait(client, call, item, (uint64_t)AF_SLEEP_MS * 1000000u);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session)) return NULL;
    af_mailbox_unblock(client, inside);
    if (hot_after_sleep(session, status == AF_FULL ? AF_TIMEOUT : status) < 0) return NULL;
  }
  return PyLong_FromLong(state_of(status));
}

/* Also an item that was made and not reached: nobody can see it. */
static PyObject *stream_end(PyObject *module, PyObject *object) {
  (void)module;
  struct session *session;
  af_off item, call = hot_call_cell(object, &session);
  if (!call) return NULL;
  while ((item = af_stream_current(&session->client, call)))
    if (hot_settle_bytes(session, item, NULL, 0, HOT_END, NULL, 0) < 0) return NULL;
  Py_RETURN_NONE;
}

/* -- the reader's side -- */

struct stream {
  PyObject_HEAD
  struct hold *call, *item; /* item: the next one, or once `ended` the last; NULL: it was closed */
  bool ended;               /* the last item was taken: there is no next one */
  uint32_t slot, epoch;     /* whose: a forked child's copy reads nothing */
};

static struct af_client *stream_client(struct stream *self) {
  struct hold *call = hot_hold_of((PyObject *)self->call, AF_KIND_CELL);
  if (!call) return NULL;
  struct af_client *client = &call->session->client;
  if (client->slot_index == self->slot && client->epoch == self->epoch) return client;
  PyErr_SetString(PyExc_RuntimeError, "this generator belongs to the process that forked this one");
  return NULL;
}

static void item_drop(struct stream *self) {
  struct hold *item = self->item;
  self->item = NULL;
  Py_XDECREF((PyObject *)item);
}

static PyObject *stream_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  (void)kwargs;
  PyObject *call, *item;
  if (!PyArg_ParseTuple(args, "OO:Stream", &call, &item)) return NULL;
  struct hold *held = hot_hold_of(call, AF_KIND_CELL);
  if (!held || !hot_hold_of(item, AF_KIND_CELL)) return NULL;
  struct stream *self = (struct stream *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
  if (!self) return NULL;
  Py_INCREF(call);
  Py_INCREF(item);
  self->call = held;
  self->item = (struct hold *)item;
  self->slot = held->session->client.slot_index;
  self->epoch = held->session->client.epoch;
  return (PyObject *)self;
}

static void stream_dealloc(PyObject *object) {
  struct stream *self = (struct stream *)object;
  PyTypeObject *type = Py_TYPE(object);
  if (self->item) {
    item_drop(self);
    if (hot_live(self->call->session)) af_stream_wake(&self->call->session->client, self->call->block);
  }
  Py_XDECREF((PyObject *)self->call);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

/* The item that is done goes to the caller, what follows it takes its place. */
static PyObject *item_take(struct stream *self, struct af_client *client) {
  PyObject *taken = (PyObject *)self->item;
  struct session *session = self->call->session;
  af_off following;
  uint32_t index;
  int status = af_stream_take(client, self->call->block, self->item->block, &following, &index);
  if (status != AF_OK) return hot_raise(status, status == AF_EMPTY ? "the stream has no next item" : "messages");
  PyObject *next = hot_hold_new(hot.made_type, session, following, index);
  self->item = (struct hold *)next;
  if (!next) Py_CLEAR(taken);
  return taken;
}

static PyObject *stream_take(PyObject *object, PyObject *unused) {
  (void)unused;
  struct stream *self = (struct stream *)object;
  if (!self->item || self->ended) { PyErr_SetNone(PyExc_StopIteration); return NULL; }
  struct af_client *client = stream_client(self);
  if (!client) return NULL;
  if (!af_cell_is_done(client, self->item->block)) Py_RETURN_NONE;
  PyObject *item = (PyObject *)self->item;
  switch (AF_AT(client, struct af_cell, self->item->block)->value_format) {
    case HOT_END:
      self->ended = true;
      PyErr_SetNone(PyExc_StopIteration);
      return NULL;
    case HOT_ERROR:
      self->ended = true;
      Py_INCREF(item);
      return item;
    default: return item_take(self, client);
  }
}

static PyObject *stream_await_item(PyObject *object, PyObject *timeout) {
  struct stream *self = (struct stream *)object;
  uint64_t deadline_ns;
  if (hot_deadline(timeout, &deadline_ns) < 0) return NULL;
  if (!self->item) Py_RETURN_NONE;
  if (!stream_client(self)) return NULL;
  PyObject *item = (PyObject *)self->item; /* another thread may take it meanwhile */
  Py_INCREF(item);
  int status = hot_wait_cell(self->call->session, ((struct hold *)item)->block, deadline_ns);
  Py_DECREF(item);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *stream_close(PyObject *object, PyObject *unused) {
  (void)unused;
  struct stream *self = (struct stream *)object;
  if (!self->item) Py_RETURN_NONE;
  struct af_client *client = stream_client(self);
  if (!client) return NULL;
  item_drop(self);
  af_stream_want_all(client, self->call->block, false);
  Py_RETURN_NONE;
}

static PyObject *stream_completed(PyObject *object, PyObject *unused) {
  (void)unused;
  struct stream *self = (struct stream *)object;
  struct af_client *client = stream_client(self);
  if (!client) return NULL;
  if (self->item) af_stream_want_all(client, self->call->block, true);
  Py_INCREF((PyObject *)self->call);
  return (PyObject *)self->call;
}

static bool is_at_end(struct stream *self, struct af_client *client) {
  return !self->item || self->ended || (af_cell_is_done(client, self->item->block) &&
                         AF_AT(client, struct af_cell, self->item->block)->value_format == HOT_END);
}
static PyObject *stream_get_item(PyObject *object, void *unused) {
  (void)unused;
  struct stream *self = (struct stream *)object;
  PyObject *item = (PyObject *)(self->item ? self->item : self->call);
  Py_INCREF(item);
  return item;
}
static PyObject *stream_get_call(PyObject *object, void *unused) {
  (void)unused;
  PyObject *call = (PyObject *)((struct stream *)object)->call;
  Py_INCREF(call);
  return call;
}
static PyObject *stream_get_finished(PyObject *object, void *unused) {
  (void)unused;
  struct stream *self = (struct stream *)object;
  struct af_client *client = stream_client(self);
  return client ? PyBool_FromLong(is_at_end(self, client)) : NULL;
}

static PyMethodDef methods[] = {{"take", stream_take, METH_NOARGS, NULL},
                                {"await_item", stream_await_item, METH_O, NULL},
                                {"close", stream_close, METH_NOARGS, NULL},
                                {"completed", stream_completed, METH_NOARGS, NULL},
                                {NULL, NULL, 0, NULL}};
static PyGetSetDef getset[] = {{"item", stream_get_item, NULL, NULL, NULL},
                               {"finished", stream_get_finished, NULL, NULL, NULL},
                               {"call", stream_get_call, NULL, NULL, NULL},
                               {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot slots[] = {{Py_tp_new, stream_new}, {Py_tp_dealloc, stream_dealloc}, {Py_tp_methods, methods},
                              {Py_tp_getset, getset}, {Py_tp_doc, "The items of one call, as they come."}, {0, NULL}};
static PyType_Spec spec = {"actorflow._hot.Stream", sizeof(struct stream), 0, Py_TPFLAGS_DEFAULT, slots};

static PyMethodDef functions[] = {{"stream_index", stream_index, METH_O, NULL},
                                  {"stream_give", (PyCFunction)(void (*)(void))stream_give, METH_FASTCALL, NULL},
                                  {"stream_look", stream_look, METH_O, NULL},
                                  {"stream_wait", stream_wait, METH_O, NULL},
                                  {"stream_end", stream_end, METH_O, NULL},
                                  {NULL, NULL, 0, NULL}};

int hot_add_stream(PyObject *module) {
  hot.stream_type = (PyTypeObject *)PyType_FromSpec(&spec);
  return hot.stream_type && PyModule_AddObjectRef(module, "Stream", (PyObject *)hot.stream_type) == 0 &&
                 PyModule_AddIntConstant(module, "STREAM_MORE", STREAM_MORE) == 0 &&
                 PyModule_AddIntConstant(module, "STREAM_FULL", STREAM_FULL) == 0 &&
                 PyModule_AddIntConstant(module, "STREAM_UNWANTED", STREAM_UNWANTED) == 0 &&
                 PyModule_AddFunctions(module, functions) == 0
             ? 0 : -1;
}
