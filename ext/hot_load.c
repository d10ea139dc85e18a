/* hot_load.c - Python values out of shared memory.
 *
 * While a value is loaded, a thread-local context gives its pickle the references beside it: load_hold(index) takes one,
 * load_argument(index) loads the value of a call's dependency. Buffers in the object store are read in place, read only,
 * through a Pin; those of small values are copied. */
#include "hot.h"

#include <string.h>

struct loading {
  struct session *session;
  const af_off *references;
  uint32_t count;
  const af_off *arguments;
  uint32_t argument_count;
};
static __thread struct loading *loading; /* the value this thread loads now */

const uint8_t *hot_value_bytes(struct session *session, af_off cell, const struct hot_value *value, size_t *bytes,
                               const af_off **refs, uint32_t *count) {
  struct af_client *client = &session->client;
  struct af_cell *self = AF_AT(client, struct af_cell, cell);
  if (!value->block) {
    *refs = af_cell_value(client, cell);
    *count = self->value_refs;
    *bytes = self->value_bytes;
    return (const uint8_t *)(*refs + *count);
  }
  struct hot_stored stored;
  hot_stored_block(session, value->block, &stored);
  *refs = stored.references;
  *count = stored.count;
  *bytes = stored.bytes;
  return stored.data;
}

/* The exception that is set becomes the one that says that a value cannot be loaded here. */
static void explain(void) {
  PyObject *type, *error, *traceback;
  PyErr_Fetch(&type, &error, &traceback);
  PyErr_NormalizeException(&type, &error, &traceback);
  if (traceback) PyException_SetTraceback(error, traceback);
  PyObject *explained = PyObject_CallFunctionObjArgs(hot.unloadable, error, NULL);
  if (explained) PyErr_SetObject((PyObject *)Py_TYPE(explained), explained);
  Py_XDECREF(explained);
  Py_XDECREF(type), Py_XDECREF(error), Py_XDECREF(traceback);
}

static PyObject *loads(const uint8_t *data, size_t bytes, PyObject *buffers, struct loading *context) {
  PyObject *view = PyMemoryView_FromMemory((char *)(uintptr_t)data, (Py_ssize_t)bytes, PyBUF_READ);
  if (!view) return NULL;
  struct loading *outer = loading;
  loading = context;
  session_enter_wait(context->session);
  PyObject *value = NULL;
  if (!buffers) value = PyObject_CallFunctionObjArgs(hot.pickle_loads, view, NULL);
  else {
    PyObject *args = PyTuple_Pack(1, view), *kwargs = PyDict_New();
    if (args && kwargs && PyDict_SetItem(kwargs, hot.buffers_name, buffers) == 0)
      value = PyObject_Call(hot.pickle_loads, args, kwargs);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
  }
  loading = outer;
  Py_DECREF(view);
  session_leave(context->session);
  if (!value) explain();
  return value;
}

static PyObject *load_block(struct session *session, af_off block, PyObject *pinned, struct loading *context) {
  struct af_object *object = AF_AT(&session->client, struct af_object, block);
  PyObject *buffers = object->buffers ? hot_block_buffers(session, block, pinned) : NULL;
  if (object->buffers && !buffers) return NULL;
  PyObject *value = loads(session->client.base + block + object->pickle_offset, (size_t)object->pickle_bytes, buffers, context);
  Py_XDECREF(buffers);
  return value;
}

/* The exception of ERROR bytes. What is named in them is held from before they are looked at. */
static PyObject *decoded(struct session *session, const struct hot_stored *stored) {
  PyObject *holds = hot_holds_list(session, stored->references, stored->count);
  PyObject *encoded = holds ? PyBytes_FromStringAndSize((const char *)stored->data, (Py_ssize_t)stored->bytes) : NULL;
  PyObject *error = encoded ? PyObject_CallFunctionObjArgs(hot.decode_error, encoded, holds, NULL) : NULL;
  Py_XDECREF(encoded);
  Py_XDECREF(holds);
  return error;
}

/* Raises what it is given, and gives it away. */
static PyObject *raised(PyObject *error) {
  if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
  Py_XDECREF(error);
  return NULL;
}

PyObject *hot_load_error(struct session *session, af_off cell) {
  if (AF_AT(&session->client, struct af_cell, cell)->value_format != HOT_ERROR) Py_RETURN_NONE;
  struct hot_value value;
  struct hot_stored stored = {.format = HOT_ERROR};
  if (hot_value_open(session, cell, &value, UINT64_MAX) < 0) return NULL;
  stored.data = hot_value_bytes(session, cell, &value, &stored.bytes, &stored.references, &stored.count);
  PyObject *error = decoded(session, &stored);
  Py_XDECREF(value.pin);
  return error;
}

PyObject *hot_load_stored(struct session *session, const struct hot_stored *stored) {
  struct loading context = {.session = session, .references = stored->references, .count = stored->count};
  switch (stored->format) {
    case HOT_NONE: Py_RETURN_NONE;
    case HOT_RAW: return PyBytes_FromStringAndSize((const char *)stored->data, (Py_ssize_t)stored->bytes);
    case HOT_PICKLE: return loads(stored->data, stored->bytes, NULL, &context);
    case HOT_PACKED: return load_block(session, stored->block, stored->pin, &context);
    case HOT_ERROR: return raised(decoded(session, stored));
    default: return PyErr_Format(PyExc_SystemError, "actorflow: unknown value format %d", (int)stored->format);
  }
}

PyObject *hot_load(struct session *session, af_off cell, uint64_t deadline_ns) {
  struct hot_value value;
  if (AF_AT(&session->client, struct af_cell, cell)->value_format == HOT_NONE) Py_RETURN_NONE;
  if (hot_value_open(session, cell, &value, deadline_ns) < 0) return NULL;
  struct hot_stored stored = {.format = (enum hot_format)af_value_format(&session->client, cell, value.block)};
  stored.data = hot_value_bytes(session, cell, &value, &stored.bytes, &stored.references, &stored.count);
  stored.block = value.block;
  stored.pin = value.pin;
  PyObject *loaded = hot_load_stored(session, &stored);
  Py_XDECREF(value.pin);
  return loaded;
}

static PyObject *arguments_pair(PyObject *loaded, bool keywords) {
  if (!loaded || keywords) return loaded;
  PyObject *none = PyDict_New(), *pair = none ? PyTuple_Pack(2, loaded, none) : NULL;
  Py_XDECREF(none);
  Py_DECREF(loaded);
  return pair;
}

PyObject *hot_load_arguments(struct session *session, af_off cell) {
  struct af_client *client = &session->client;
  struct af_cell *self = AF_AT(client, struct af_cell, cell);
  if (self->format == HOT_ARGS_NONE) return Py_BuildValue("((){})");
  const af_off *references = af_cell_references(client, cell);
  bool keywords = self->flags & HOT_CELL_KEYWORDS;
  uint32_t before = self->arguments + (self->flags & HOT_CELL_MAILBOX ? 1 : 0);
  uint32_t behind = self->returns + (self->flags & HOT_CELL_FUNCTION ? 1 : 0);
  struct loading context = {session, references + before, self->references - before - behind, references, self->arguments};
  PyObject *loaded;
  if (self->format == HOT_ARGS_BLOCK) loaded = load_block(session, references[self->references - behind - 1], NULL, &context);
  else loaded = loads(af_cell_bytes(client, cell), self->bytes, NULL, &context);
  return arguments_pair(loaded, keywords);
}

/* -- module functions -- */

static bool index_of(PyObject *number, uint32_t count, uint32_t *index) {
  unsigned long value = PyLong_AsUnsignedLong(number);
  if (PyErr_Occurred()) return false;
  if (loading && !hot_live(loading->session)) {
    PyErr_SetString(PyExc_RuntimeError, "actorflow was shut down while this value was loaded");
    return false;
  }
  if (value >= count) {
    PyErr_SetString(PyExc_ValueError, "reference index out of range: the pickle does not belong to this value");
    return false;
  }
  *index = (uint32_t)value;
  return true;
}

static PyObject *load_hold_at(PyObject *module, PyObject *number) {
  (void)module;
  uint32_t index;
  if (!index_of(number, loading ? loading->count : 0, &index)) return NULL;
  return hot_hold_take(loading->session, loading->references[index]);
}

static PyObject *load_argument_at(PyObject *module, PyObject *number) {
  (void)module;
  uint32_t index;
  if (!index_of(number, loading ? loading->argument_count : 0, &index)) return NULL;
  return hot_load(loading->session, loading->arguments[index], UINT64_MAX);
}

static PyMethodDef functions[] = {
    {"load_hold", load_hold_at, METH_O, NULL}, {"load_argument", load_argument_at, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

int hot_add_load(PyObject *module) {
  PyObject *pickle = PyImport_ImportModule("_pickle");
  if (!pickle || PyModule_AddFunctions(module, functions) < 0) { Py_XDECREF(pickle); return -1; }
  hot.pickle_loads = PyObject_GetAttrString(pickle, "loads");
  Py_DECREF(pickle);
  hot.buffers_name = PyUnicode_InternFromString("buffers");
  hot.load_hold = PyObject_GetAttrString(module, "load_hold");
  hot.load_argument = PyObject_GetAttrString(module, "load_argument");
  return hot.pickle_loads && hot.buffers_name && hot.load_hold && hot.load_argument ? 0 : -1;
}
