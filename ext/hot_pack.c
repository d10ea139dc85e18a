/* hot_pack.c - Python values into shared memory.
 *
 * Exact builtin types go straight to C pickle; everything else through the configured `dumps` (one C Pickler subclass
 * with out-of-band buffers). While a value is packed, a thread-local context collects what it refers to: a reference is
 * pickled as its index. Up to HOT_INLINE_BYTES a value lies in its cell or in a message block; above in the object
 * store. */
#include "hot.h"

#include <stdlib.h>
#include <string.h>

#define SIMPLE_ITEMS 256 /* how many items are looked at before a value is left to the general pickler */
#define SIMPLE_DEPTH 4

static __thread struct packed *packing;   /* the value this thread packs now */

struct argument { PyObject_HEAD Py_ssize_t index; }; /* stands for a top-level reference in pickled arguments */

/* -- packing -- */

static bool is_simple(PyObject *value, int depth, int *budget);

static bool is_simple_sequence(PyObject *value, PyObject *(*item)(PyObject *, Py_ssize_t), Py_ssize_t size, int depth,
                               int *budget) {
  if (size > *budget) return false;
  for (Py_ssize_t i = 0; i < size; i++)
    if (!is_simple(item(value, i), depth - 1, budget)) return false;
  return true;
}

static bool is_simple_dict(PyObject *value, int depth, int *budget) {
  PyObject *key, *item;
  Py_ssize_t position = 0;
  if (PyDict_Size(value) > *budget) return false;
  while (PyDict_Next(value, &position, &key, &item))
    if (!is_simple(key, depth - 1, budget) || !is_simple(item, depth - 1, budget)) return false;
  return true;
}

/* Whether plain C pickle gives the same as the general pickler, found out by looking at few items. */
static bool is_simple(PyObject *value, int depth, int *budget) {
  PyTypeObject *type = Py_TYPE(value);
  if (--*budget < 0 || depth < 0) return false;
  if (value == Py_None || type == &PyLong_Type || type == &PyUnicode_Type || type == &PyFloat_Type ||
      type == &PyBool_Type || type == &PyBytes_Type || type == hot.made_type || type == hot.argument_type)
    return true;
  if (type == &PyTuple_Type) return is_simple_sequence(value, PyTuple_GetItem, PyTuple_Size(value), depth, budget);
  if (type == &PyList_Type) return is_simple_sequence(value, PyList_GetItem, PyList_Size(value), depth, budget);
  return type == &PyDict_Type && is_simple_dict(value, depth, budget);
}

static int grow(PyObject ***items, Py_ssize_t count, Py_ssize_t *room) {
  if (count < *room) return 0;
  Py_ssize_t wanted = *room ? *room * 2 : 8;
  PyObject **larger = realloc(*items, (size_t)wanted * sizeof **items);
  if (!larger) { PyErr_NoMemory(); return -1; }
  *items = larger;
  *room = wanted;
  return 0;
}

static Py_ssize_t packed_collect(struct packed *packed, PyObject *held) {
  if (grow(&packed->held, packed->held_count, &packed->held_room) < 0) return -1;
  Py_INCREF(held);
  packed->held[packed->held_count] = held;
  return packed->held_count++;
}

static int take_views(struct packed *packed) {
  Py_ssize_t count = PyList_Size(packed->buffers);
  if (count < 0) return -1;
  if (count == 0) return 0;
  if (!(packed->views = calloc((size_t)count, sizeof *packed->views))) { PyErr_NoMemory(); return -1; }
  for (; packed->buffer_count < count; packed->buffer_count++) {
    Py_buffer *view = &packed->views[packed->buffer_count];
    if (PyObject_GetBuffer(PyList_GetItem(packed->buffers, packed->buffer_count), view, PyBUF_ANY_CONTIGUOUS) < 0)
      return -1;
    packed->bytes += (uint64_t)view->len;
  }
  return 0;
}

static int pack_generally(struct packed *packed, PyObject *value) {
  PyObject *pair = PyObject_CallFunctionObjArgs(hot.dumps, value, NULL);
  if (!pair) return -1;
  int status = -1;
  PyObject *data, *buffers;
  if (PyArg_ParseTuple(pair, "O!O!:dumps", &PyBytes_Type, &data, &PyList_Type, &buffers)) {
    Py_INCREF(data), Py_INCREF(buffers);
    packed->data = data, packed->buffers = buffers;
    status = take_views(packed);
  }
  Py_DECREF(pair);
  return status;
}

static int pack_pickle(struct packed *packed, PyObject *value) {
  int budget = SIMPLE_ITEMS;
  const struct session *session = hot.session;
  packed->outer = packing;
  packing = packed;
  int status = 0;
  if (is_simple(value, SIMPLE_DEPTH, &budget) || !hot.dumps)
    status = (packed->data = PyObject_CallFunctionObjArgs(hot.pickle_dumps, value, hot.protocol, NULL)) ? 0 : -1;
  else status = pack_generally(packed, value);
  packing = packed->outer;
  if (status == 0 && hot.session != session) {
    PyErr_SetString(PyExc_RuntimeError, "actorflow was shut down while a value was pickled");
    status = -1;
  }
  if (status == 0) packed->bytes += (uint64_t)PyBytes_Size(packed->data);
  packed->format = packed->buffer_count ? HOT_PACKED : HOT_PICKLE;
  return status;
}

int hot_pack(struct packed *packed, PyObject *value) {
  memset(packed, 0, sizeof *packed);
  if (value == Py_None) return 0;
  if (!PyBytes_CheckExact(value)) return pack_pickle(packed, value);
  Py_INCREF(value);
  packed->data = value;
  packed->bytes = (uint64_t)PyBytes_Size(value);
  packed->format = HOT_RAW;
  return 0;
}

int hot_pack_error(struct packed *packed, PyObject *data, PyObject *holds) {
  memset(packed, 0, sizeof *packed);
  if (!PyBytes_Check(data)) { PyErr_SetString(PyExc_TypeError, "an error is bytes"); return -1; }
  Py_INCREF(data);
  packed->data = data;
  packed->bytes = (uint64_t)PyBytes_Size(data);
  packed->format = HOT_ERROR;
  Py_ssize_t count = holds ? PySequence_Size(holds) : 0;
  int status = count < 0 ? -1 : 0;
  for (Py_ssize_t i = 0; i < count && status == 0; i++) {
    PyObject *held = PySequence_GetItem(holds, i);
    status = held && hot_hold_of(held, 0) && packed_collect(packed, held) >= 0 ? 0 : -1;
    Py_XDECREF(held);
  }
  return status;
}

static PyObject *argument_for(struct packed *packed, PyObject *reference) {
  struct argument *self = (struct argument *)((allocfunc)PyType_GetSlot(hot.argument_type, Py_tp_alloc))(hot.argument_type, 0);
  if (!self) return NULL;
  if (grow(&packed->arguments, packed->argument_count, &packed->argument_room) < 0) { Py_DECREF(self); return NULL; }
  Py_INCREF(reference);
  packed->arguments[packed->argument_count] = reference;
  self->index = packed->argument_count++;
  return (PyObject *)self;
}

static bool has_reference(PyObject *args, PyObject *kwargs) {
  for (Py_ssize_t i = 0; i < PyTuple_Size(args); i++)
    if (PyObject_TypeCheck(PyTuple_GetItem(args, i), hot.reference_type)) return true;
  PyObject *key, *item;
  Py_ssize_t position = 0;
  while (kwargs && PyDict_Next(kwargs, &position, &key, &item))
    if (PyObject_TypeCheck(item, hot.reference_type)) return true;
  return false;
}

static PyObject *replaced(struct packed *packed, PyObject *item) {
  if (PyObject_TypeCheck(item, hot.reference_type)) return hot_hold_of(item, 0) ? argument_for(packed, item) : NULL;
  Py_INCREF(item);
  return item;
}

static PyObject *replace_args(struct packed *packed, PyObject *args) {
  Py_ssize_t size = PyTuple_Size(args);
  PyObject *copy = PyTuple_New(size);
  for (Py_ssize_t i = 0; copy && i < size; i++) {
    PyObject *item = replaced(packed, PyTuple_GetItem(args, i));
    if (!item || PyTuple_SetItem(copy, i, item) < 0) Py_CLEAR(copy);
  }
  return copy;
}

static PyObject *replace_kwargs(struct packed *packed, PyObject *kwargs) {
  PyObject *copy = PyDict_New(), *key, *value;
  Py_ssize_t position = 0;
  while (copy && PyDict_Next(kwargs, &position, &key, &value)) {
    PyObject *item = replaced(packed, value);
    if (!item || PyDict_SetItem(copy, key, item) < 0) Py_CLEAR(copy);
    Py_XDECREF(item);
  }
  return copy;
}

int hot_pack_arguments(struct packed *packed, PyObject *args, PyObject *kwargs) {
  memset(packed, 0, sizeof *packed);
  packed->keywords = kwargs && kwargs != Py_None && PyDict_Size(kwargs) > 0;
  if (!packed->keywords) kwargs = NULL;
  if (!kwargs && PyTuple_Size(args) == 0) return 0;
  bool replace = has_reference(args, kwargs);
  if (replace) {
    if (!(args = replace_args(packed, args))) return -1;
    if (kwargs && !(kwargs = replace_kwargs(packed, kwargs))) { Py_DECREF(args); return -1; }
  }
  PyObject *pair = kwargs ? PyTuple_Pack(2, args, kwargs) : NULL;
  int status = kwargs && !pair ? -1 : pack_pickle(packed, pair ? pair : args);
  Py_XDECREF(pair);
  if (replace) { Py_DECREF(args); Py_XDECREF(kwargs); }
  return status;
}

void hot_packed_clear(struct packed *packed) {
  for (Py_ssize_t i = 0; i < packed->buffer_count; i++) PyBuffer_Release(&packed->views[i]);
  for (Py_ssize_t i = 0; i < packed->held_count; i++) Py_DECREF(packed->held[i]);
  for (Py_ssize_t i = 0; i < packed->argument_count; i++) Py_DECREF(packed->arguments[i]);
  free(packed->views);
  free(packed->held);
  free(packed->arguments);
  Py_CLEAR(packed->data);
  Py_CLEAR(packed->buffers);
}

/* -- results -- */

static int settled(int status) {
  if (status == AF_OK) return 0;
  hot_raise(status, status == AF_FENCED ? "this process was declared dead and its call was given away" : "messages");
  return -1;
}

int hot_settle_bytes(struct session *session, af_off cell, const char *data, size_t bytes, enum hot_format format,
                     PyObject *const *held, Py_ssize_t held_count) {
  struct af_client *client = &session->client;
  af_off block;
  uint8_t *where;
  uint32_t outer = af_op_begin(client, AF_OP_RESULT), filled = 0;
  int status = af_cell_result_begin(client, cell, (uint32_t)held_count, bytes, &block, &where);
  if (status == AF_OK) {
    hot_fill(client, (af_off *)(void *)where, &filled, held, held_count);
    if (bytes) memcpy(where + (size_t)held_count * sizeof(af_off), data, bytes);
    status = af_cell_complete(client, cell, block, (uint32_t)held_count, (uint32_t)bytes, (uint8_t)format);
  }
  af_op_end(client, outer);
  return settled(status);
}

/* Whose code made a value: that of its call, or of the call that runs now (a further result, an item, a put value). */
static struct af_maker maker_of(const struct af_client *client, af_off cell) {
  const struct af_cell *of = AF_AT(client, struct af_cell, cell);
  struct af_maker maker = {.how = of->mailbox != 0 || of->parent != 0 ? AF_MADE_RESULT : AF_MADE_PUT};
  af_off call = of->mailbox != 0 ? cell : hot_nested_in();
  if (!af_block_is_live(client, call)) return maker;
  const struct af_cell *source = AF_AT(client, struct af_cell, call);
  bool has_function = source->flags & HOT_CELL_FUNCTION && source->references > source->returns;
  maker.code = has_function ? af_cell_references(client, call)[source->references - source->returns - 1] : source->mailbox;
  maker.method = source->method;
  if (af_block_is_live(client, maker.code)) maker.generation = af_block_generation(client, maker.code);
  else maker.code = 0;
  return maker;
}

int hot_settle(struct session *session, af_off cell, struct packed *packed) {
  uint64_t whole = packed->bytes + (uint64_t)packed->held_count * sizeof(af_off);
  if (!packed->buffer_count && whole <= HOT_INLINE_BYTES)
    return hot_settle_bytes(session, cell, packed->data ? PyBytes_AsString(packed->data) : NULL, (size_t)packed->bytes,
                            packed->format, packed->held, packed->held_count);
  af_off block;
  uint32_t index;
  if (hot_pack_block(session, packed, packed->held, packed->held_count, &block, &index) < 0) return -1;
  if (block >= session->client.header->objects)
    AF_AT(&session->client, struct af_object, block)->maker = maker_of(&session->client, cell);
  uint32_t outer = af_op_begin(&session->client, AF_OP_RESULT);
  af_block_hold(&session->client, block); /* the cell's; ours goes only once the cell has it */
  int status = af_cell_complete(&session->client, cell, block, (uint32_t)packed->held_count, 0, (uint8_t)packed->format);
  af_op_end(&session->client, outer);
  af_hold_drop(&session->client, index);
  return settled(status);
}

/* -- module functions -- */

static PyObject *pack_collect(PyObject *module, PyObject *held) {
  (void)module;
  if (!packing) return PyLong_FromLong(-1);
  if (!hot_hold_of(held, 0)) return NULL;
  Py_ssize_t index = packed_collect(packing, held);
  return index < 0 ? NULL : PyLong_FromSsize_t(index);
}

static PyObject *argument_reduce(PyObject *self, PyObject *unused) {
  (void)unused;
  return Py_BuildValue("(O(n))", hot.load_argument, ((struct argument *)self)->index);
}

static PyObject *reduce_inside(PyObject *self) {
  if (!hot_hold_of(self, 0)) return NULL;
  Py_ssize_t index = packed_collect(packing, self);
  return index < 0 ? NULL : Py_BuildValue("(O(n))", hot.load_hold, index);
}

/* A reference inside a value becomes its index; in a plain pickle it is left to the subclass. */
PyObject *hot_reference_reduce(PyObject *self, PyObject *unused) {
  (void)unused;
  return packing ? reduce_inside(self) : PyObject_CallMethod(self, "_reduce_outside", NULL);
}

PyObject *hot_hold_reduce(PyObject *self, PyObject *unused) {
  (void)unused;
  if (packing) return reduce_inside(self);
  return PyErr_Format(PyExc_TypeError, "%R travels only inside of calls and values of its node", (PyObject *)Py_TYPE(self));
}

/* A cell that is EXPECTED, with room for so many bytes. */
static PyObject *put_place(struct session *session, uint32_t reserve) {
  af_off cell;
  uint32_t index, outer = af_op_begin(&session->client, AF_OP_CREATE);
  int status = af_cell_expected_create(&session->client, reserve, &cell);
  status = hot_record(session, status, cell, &index);
  af_op_end(&session->client, outer);
  if (status != AF_OK) return hot_raise(status, "messages");
  return hot_hold_new(hot.made_type, session, cell, index);
}

static PyObject *put_packed(struct session *session, struct packed *packed) {
  uint64_t whole = packed->bytes + (uint64_t)packed->held_count * sizeof(af_off);
  uint32_t reserve = packed->buffer_count || whole > HOT_INLINE_BYTES ? 0 : (uint32_t)whole;
  PyObject *reference = put_place(session, reserve);
  if (reference && hot_settle(session, ((struct hold *)reference)->block, packed) < 0) Py_CLEAR(reference);
  return reference;
}

static PyObject *pack_put(PyObject *module, PyObject *value) {
  (void)module;
  struct session *session = hot_session();
  struct packed packed;
  if (!session) return NULL;
  PyObject *reference = hot_pack(&packed, value) < 0 ? NULL : put_packed(session, &packed);
  hot_packed_clear(&packed);
  return reference;
}

static PyObject *pack_put_error(PyObject *module, PyObject *args) {
  (void)module;
  struct session *session = hot_session();
  struct packed packed;
  PyObject *data, *holds = NULL;
  if (!session || !PyArg_ParseTuple(args, "O|O:put_error", &data, &holds)) return NULL;
  PyObject *reference = hot_pack_error(&packed, data, holds) < 0 ? NULL : put_packed(session, &packed);
  hot_packed_clear(&packed);
  return reference;
}

static PyMethodDef argument_methods[] = {{"__reduce__", argument_reduce, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static void argument_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}
static PyType_Slot argument_slots[] = {
    {Py_tp_methods, argument_methods}, {Py_tp_dealloc, argument_dealloc}, {0, NULL}};
static PyType_Spec argument_spec = {"actorflow._hot.Argument", sizeof(struct argument), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, argument_slots};

static PyMethodDef functions[] = {
    {"collect", pack_collect, METH_O, NULL}, {"put", pack_put, METH_O, NULL},
    {"put_error", pack_put_error, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

int hot_add_pack(PyObject *module) {
  PyObject *pickle = PyImport_ImportModule("_pickle");
  if (!pickle || PyModule_AddFunctions(module, functions) < 0) { Py_XDECREF(pickle); return -1; }
  hot.pickle_dumps = PyObject_GetAttrString(pickle, "dumps");
  Py_DECREF(pickle);
  hot.protocol = PyLong_FromLong(5);
  hot.argument_type = (PyTypeObject *)PyType_FromSpec(&argument_spec);
  return hot.pickle_dumps && hot.protocol && hot.argument_type ? 0 : -1;
}
