/* hot_enter.c - Entering: awaits a coroutine so that each of its steps is entered, and so the calls made in it are
 * nested in the call that it is of, however the loop takes turns between tasks.
 *
 * To whoever awaits it is the coroutine itself: values and exceptions go in and out as they are. It begins with the
 * first step, and belongs to one task. */
#include "hot.h"

struct entering {
  PyObject_HEAD
  PyObject *call; /* a Call; None: of no call */
  PyObject *coroutine;
};

static int entering_traverse(PyObject *object, visitproc visit, void *arg) {
  struct entering *self = (struct entering *)object;
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(self->call);
  Py_VISIT(self->coroutine);
  return 0;
}

static int entering_clear(PyObject *object) {
  struct entering *self = (struct entering *)object;
  Py_CLEAR(self->call);
  Py_CLEAR(self->coroutine);
  return 0;
}

static void entering_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  entering_clear(object);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

static int step_begins(const struct entering *self) {
  if (!hot_client()) return -1;
  hot_enter(self->call == Py_None ? NULL : (struct call *)self->call);
  return 0;
}

static PySendResult entering_am_send(PyObject *object, PyObject *value, PyObject **result) {
  struct entering *self = (struct entering *)object;
  if (step_begins(self) < 0) { *result = NULL; return PYGEN_ERROR; }
  return PyIter_Send(self->coroutine, value, result);
}

/* StopIteration(value), as the protocol of iterators says it. */
static void stop_with(PyObject *value) {
  bool is_plain = !PyTuple_Check(value) && !PyExceptionInstance_Check(value); /* these would become its arguments */
  PyObject *stop = is_plain ? value : PyObject_CallFunctionObjArgs(PyExc_StopIteration, value, NULL);
  if (stop) PyErr_SetObject(PyExc_StopIteration, stop);
  if (!is_plain) Py_XDECREF(stop);
}

static PyObject *entering_send(PyObject *object, PyObject *value) {
  PyObject *result;
  PySendResult sent = entering_am_send(object, value, &result);
  if (sent != PYGEN_RETURN) return result;
  stop_with(result);
  Py_DECREF(result);
  return NULL;
}

static PyObject *entering_next(PyObject *object) {
  PyObject *result;
  PySendResult sent = entering_am_send(object, Py_None, &result);
  if (sent != PYGEN_RETURN) return result;
  if (result != Py_None) stop_with(result); /* none set: None */
  Py_DECREF(result);
  return NULL;
}

static PyObject *entering_throw(PyObject *object, PyObject *args) {
  struct entering *self = (struct entering *)object;
  if (step_begins(self) < 0) return NULL;
  PyObject *throw = PyObject_GetAttrString(self->coroutine, "throw");
  PyObject *result = throw ? PyObject_CallObject(throw, args) : NULL;
  Py_XDECREF(throw);
  return result;
}

static PyObject *entering_close(PyObject *object, PyObject *unused) {
  (void)unused;
  return PyObject_CallMethod(((struct entering *)object)->coroutine, "close", NULL);
}

static PyObject *entering_self(PyObject *object) {
  Py_INCREF(object);
  return object;
}

static PyMethodDef methods[] = {{"send", entering_send, METH_O, NULL},
                                {"throw", entering_throw, METH_VARARGS, NULL},
                                {"close", entering_close, METH_NOARGS, NULL},
                                {NULL, NULL, 0, NULL}};
static PyType_Slot slots[] = {{Py_tp_dealloc, entering_dealloc}, {Py_tp_traverse, entering_traverse},
                              {Py_tp_clear, entering_clear}, {Py_tp_methods, methods}, {Py_tp_iter, entering_self},
                              {Py_tp_iternext, entering_next}, {Py_am_await, entering_self},
                              {Py_am_send, entering_am_send},
                              {Py_tp_doc, "A coroutine whose steps are entered."}, {0, NULL}};
static PyType_Spec spec = {"actorflow._hot.Entering", sizeof(struct entering), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
static PyTypeObject *entering_type;

/* entering(call, coroutine): for `await`. */
static PyObject *enter_entering(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 2 || !(args[0] == Py_None || PyObject_TypeCheck(args[0], hot.call_type))) {
    PyErr_SetString(PyExc_TypeError, "entering(call, coroutine)");
    return NULL;
  }
  struct entering *self = (struct entering *)((allocfunc)PyType_GetSlot(entering_type, Py_tp_alloc))(entering_type, 0);
  if (!self) return NULL;
  Py_INCREF(args[0]);
  self->call = args[0];
  Py_INCREF(args[1]);
  self->coroutine = args[1];
  return (PyObject *)self;
}

static PyMethodDef functions[] = {
    {"entering", (PyCFunction)(void (*)(void))enter_entering, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

int hot_add_enter(PyObject *module) {
  entering_type = (PyTypeObject *)PyType_FromSpec(&spec);
  return entering_type && PyModule_AddFunctions(module, functions) == 0 ? 0 : -1;
}
