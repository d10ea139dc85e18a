/* hot.c - the extension module actorflow._hot: sessions (attach, detach, fork) and the exceptions of the core. */
#include "hot.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct hot hot;

struct session *hot_session(void) {
  if (hot.session) return hot.session;
  PyErr_SetString(PyExc_RuntimeError, "actorflow is not initialised in this process: call actorflow.init() first");
  return NULL;
}

struct af_client *hot_client(void) {
  struct session *session = hot_session();
  return session ? &session->client : NULL;
}

PyObject *hot_raise(int status, const char *what) {
  switch (status) {
    case AF_INTERRUPTED: if (!PyErr_Occurred()) PyErr_SetString(PyExc_InterruptedError, what); break;
    case AF_FULL: PyErr_SetString(hot.full, what); break;
    case AF_CLOSED: PyErr_SetString(hot.closed, what); break;
    case AF_STALE: PyErr_SetString(hot.stale, what); break;
    case AF_FENCED: PyErr_SetString(hot.fenced, what); break;
    case AF_DEAD: PyErr_SetString(hot.node_gone, what); break;
    case AF_TIMEOUT: PyErr_SetString(PyExc_TimeoutError, what); break;
    case AF_BAD: PyErr_SetString(PyExc_ValueError, what); break;
    case AF_TOO_LARGE: PyErr_SetString(hot.store_full, what); break;
    case AF_SYSTEM: PyErr_SetFromErrno(PyExc_OSError); break;
    default: PyErr_Format(PyExc_SystemError, "actorflow core: status %d from %s", status, what);
  }
  return NULL;
}

int hot_deadline(PyObject *timeout, uint64_t *deadline_ns) {
  *deadline_ns = UINT64_MAX;
  if (!timeout || timeout == Py_None) return 0;
  double seconds = PyFloat_AsDouble(timeout);
  if (seconds == -1.0 && PyErr_Occurred()) {
    if (PyErr_ExceptionMatches(PyExc_TypeError))
      PyErr_Format(PyExc_TypeError, "timeout must be None or a number of seconds, not %R", timeout);
    return -1;
  }
  if (!(seconds >= 0)) {
    PyErr_SetString(PyExc_ValueError, "timeout must be None or a number of seconds that is at least 0");
    return -1;
  }
  if (seconds < 1e9) *deadline_ns = af_now_ns() + (uint64_t)(seconds * 1e9);
  return 0;
}

/* -- sessions -- */

static struct session *session_create(void) {
  struct session *session = calloc(1, sizeof *session);
  if (!session) { PyErr_NoMemory(); return NULL; }
  session->users = 1;
  session->pid = (int)getpid();
  session->client.memfd = session->client.node_pidfd = session->client.wake_socket = -1;
  return session;
}

/* The mapping ends with the last view into it, and with it the slot; everything else ended at detach. */
static void session_unmap(struct session *session) {
  if (!session->client.base) return;
  if (session->client.slot && session->pid == (int)getpid()) af_slot_release(&session->client);
  if (session->client.node_pidfd >= 0) close(session->client.node_pidfd);
  session->client.node_pidfd = -1;
  af_segment_unmap(&session->client);
  session->client.base = NULL;
}

/* Views outlive a detach: of all holds only theirs stay. */
static void session_shed(struct session *session) {
  struct af_client *client = &session->client;
  if (session->shed || !client->slot) return;
  session->shed = true;
  uint32_t outer = af_op_begin(client, AF_OP_HOLD);
  for (struct hold *pin = session->pinned; pin; pin = pin->following) af_block_hold(client, pin->block);
  af_slot_clear_holds(client);
  for (struct hold *pin = session->pinned; pin; pin = pin->following)
    (void)af_hold_record(client, pin->block, &pin->index);
  af_op_end(client, outer);
}

/* What ends after a detach ends with the last who needs it. */
void session_release(struct session *session) {
  bool over = !session->attached && session->waiting == 0;
  if (over && session->pins == 0) session_unmap(session);
  else if (over) session_shed(session);
  if (--session->users == 0) free(session);
}

static __thread long own_waiting; /* of this thread: a fork's child has no other */

void session_enter_wait(struct session *session) {
  session->users++;
  session->waiting++;
  own_waiting++;
}

bool hot_check_live(const struct session *session) {
  if (hot_live(session)) return true;
  PyErr_SetString(PyExc_RuntimeError, "actorflow was shut down while this thread waited");
  return false;
}

void session_leave(struct session *session) {
  own_waiting--;
  session->waiting--;
  session_release(session);
}

bool session_leave_wait(struct session *session) {
  bool live = hot_check_live(session);
  session_leave(session);
  return live;
}

static void session_detach(struct session *session) {
  hot_close_lanes(session);
  hot_close_ends(session);
  session->attached = false;
  hot.session = NULL;
  session_release(session);
}

/* A forked worker inherits its parent's session, which is not its own: forgotten without a trace in the segment. */
static void session_forget(void) {
  struct session *session = hot.session;
  if (!session) return;
  session->attached = false;
  session->client.slot = NULL;
  hot.session = NULL;
  session_release(session);
}

static PyObject *hot_create(PyObject *module, PyObject *args) {
  (void)module;
  const char *node_id;
  Py_ssize_t node_id_bytes;
  unsigned int slots, spin_us;
  unsigned long long messages, reserve, objects;
  if (!PyArg_ParseTuple(args, "y#IKKKI", &node_id, &node_id_bytes, &slots, &messages, &reserve, &objects, &spin_us))
    return NULL;
  if (node_id_bytes != 16) { PyErr_SetString(PyExc_ValueError, "node_id must be 16 bytes"); return NULL; }
  if (hot.session) { PyErr_SetString(PyExc_RuntimeError, "this process is attached already"); return NULL; }
  struct session *session = session_create();
  if (!session) return NULL;
  struct af_layout layout = {slots, messages, reserve, objects};
  int status = af_segment_create(&session->client, &layout, (const uint8_t *)node_id);
  if (status != AF_OK) { free(session); return hot_raise(status, "making the memory segment"); }
  session->client.spin_us = spin_us;
  session->attached = true;
  hot.session = session;
  return PyLong_FromLong(session->client.memfd);
}

static int attach_map(struct session *session, int memfd) {
  int status = af_segment_map(&session->client, memfd);
  if (status == AF_OK) return 0;
  if (status == AF_STALE)
    PyErr_Format(PyExc_ValueError, "the node's memory segment has another layout version than this actorflow (%u): "
                 "use the same actorflow version on both sides", AF_VERSION);
  else if (status == AF_BAD) PyErr_SetString(PyExc_ValueError, "this is not a memory segment of an actorflow node");
  else hot_raise(status, "mapping the memory segment");
  return -1;
}

static PyObject *hot_attach(PyObject *module, PyObject *args) {
  (void)module;
  int memfd, node_pidfd;
  unsigned int slot, epoch, spin_us;
  if (!PyArg_ParseTuple(args, "iIIIi", &memfd, &slot, &epoch, &spin_us, &node_pidfd)) return NULL;
  memfd = fcntl(memfd, F_DUPFD_CLOEXEC, 3);
  if (memfd < 0) return PyErr_SetFromErrno(PyExc_OSError);
  if (hot.session && hot.session->pid != (int)getpid()) session_forget();
  struct session *session = hot.session ? NULL : session_create();
  if (!session || attach_map(session, memfd) < 0) {
    close(memfd);
    free(session);
    if (hot.session) PyErr_SetString(PyExc_RuntimeError, "this process is attached already");
    return NULL;
  }
  int status = af_slot_claim(&session->client, slot, epoch);
  if (status != AF_OK) {
    af_segment_unmap(&session->client);
    free(session);
    return hot_raise(status, "the slot is no longer reserved for this process");
  }
  session->client.node_pidfd = node_pidfd;
  session->client.spin_us = spin_us;
  session->attached = true;
  hot.session = session;
  Py_RETURN_NONE;
}

static PyObject *hot_detach(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  if (hot.session) session_detach(hot.session);
  Py_RETURN_NONE;
}

static PyObject *hot_attached(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return PyBool_FromLong(hot.session != NULL);
}

static PyObject *hot_client_address(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return PyLong_FromVoidPtr(hot.session ? &hot.session->client : NULL);
}

static PyObject *hot_identity(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct af_client *client = hot_client();
  if (!client) return NULL;
  return Py_BuildValue("(y#II)", (const char *)client->header->node_id, (Py_ssize_t)16, (unsigned)client->slot_index,
                       client->epoch);
}

static PyObject *hot_node_alive(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return PyBool_FromLong(hot.session && af_node_check(&hot.session->client) == AF_OK);
}

static PyObject *hot_is_live(PyObject *module, PyObject *args) {
  (void)module;
  unsigned int slot, epoch;
  struct af_client *client = hot_client();
  if (!client || !PyArg_ParseTuple(args, "II", &slot, &epoch)) return NULL;
  return PyBool_FromLong(af_slot_is(client, slot, epoch));
}

static PyObject *hot_node_mailbox(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct af_client *client = hot_client();
  if (!client) return NULL;
  if (!client->header->node_mailbox) return hot_raise(AF_DEAD, "the node has no mailbox yet");
  return hot_hold_take(hot.session, client->header->node_mailbox);
}

static PyObject *hot_publish_node_mailbox(PyObject *module, PyObject *mailbox) {
  (void)module;
  struct hold *hold = hot_hold_of(mailbox, AF_KIND_MAILBOX);
  if (!hold) return NULL;
  hold->session->client.header->node_mailbox = hold->block;
  atomic_store(&hold->session->client.header->node_state, AF_NODE_RUNNING);
  Py_RETURN_NONE;
}

static PyObject *hot_stop_node(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct af_client *client = hot_client();
  if (!client) return NULL;
  atomic_store(&client->header->node_state, AF_NODE_STOPPING);
  Py_RETURN_NONE;
}

/* -- fork by user code -- */

static struct { uint32_t slot, epoch; pthread_t thread; bool announced, prepared; } fork_plan;

/* The holds are copied by fork() itself, as its first step: Python's hooks before it may give up the GIL, and what other
 * threads took or dropped then would be in the child's memory otherwise than in its hold table. */
static PyObject *hot_fork_prepare(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  fork_plan.thread = pthread_self();
  fork_plan.announced = true;
  Py_RETURN_NONE;
}

/* Of any fork of this process; with the GIL where it is the one that was announced. */
static void fork_begins(void) {
  if (!fork_plan.announced || !pthread_equal(fork_plan.thread, pthread_self())) return;
  fork_plan.announced = false;
  fork_plan.prepared = hot.session && hot.session->pid == (int)getpid() &&
                       af_fork_prepare(&hot.session->client, &fork_plan.slot, &fork_plan.epoch) == AF_OK;
}

static PyObject *hot_fork_child(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  if (!hot.session) Py_RETURN_FALSE;
  if (hot.session->pid == (int)getpid()) Py_RETURN_TRUE; /* done already */
  if (!fork_plan.prepared || af_fork_child(&hot.session->client, fork_plan.slot, fork_plan.epoch) != AF_OK) {
    session_forget();
    Py_RETURN_FALSE;
  }
  hot.session->pid = (int)getpid();
  hot.session->users -= hot.session->waiting - own_waiting;
  hot.session->waiting = own_waiting;
  fork_plan.prepared = false;
  Py_RETURN_TRUE;
}

/* A fork that failed looks the same here: the node finds that nobody takes the slot. */
static PyObject *hot_fork_parent(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  fork_plan.announced = fork_plan.prepared = false;
  Py_RETURN_NONE;
}

static PyObject *hot_fork_slot(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return Py_BuildValue("(II)", fork_plan.slot, fork_plan.epoch);
}

static PyObject *hot_configure(PyObject *module, PyObject *args, PyObject *kwargs) {
  (void)module;
  static char *names[] = {"dumps", "decode_error", "unloadable", "reference", "storage_error", NULL};
  PyObject *dumps, *decode_error, *unloadable, *reference, *storage_error;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOO", names, &dumps, &decode_error, &unloadable, &reference,
                                   &storage_error)) return NULL;
  if (!PyType_Check(reference) || !PyType_IsSubtype((PyTypeObject *)reference, hot.reference_type)) {
    PyErr_SetString(PyExc_TypeError, "reference must be a subclass of _hot.Reference");
    return NULL;
  }
  Py_INCREF(dumps), Py_INCREF(decode_error), Py_INCREF(unloadable), Py_INCREF(reference), Py_INCREF(storage_error);
  Py_XDECREF(hot.dumps), Py_XDECREF(hot.decode_error), Py_XDECREF(hot.unloadable), Py_XDECREF(hot.storage_error);
  Py_XDECREF((PyObject *)hot.made_type);
  hot.dumps = dumps, hot.decode_error = decode_error, hot.unloadable = unloadable, hot.storage_error = storage_error;
  hot.made_type = (PyTypeObject *)reference;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"configure", (PyCFunction)(void (*)(void))hot_configure, METH_VARARGS | METH_KEYWORDS, NULL},
    {"create", hot_create, METH_VARARGS, NULL},
    {"attach", hot_attach, METH_VARARGS, NULL},
    {"detach", hot_detach, METH_NOARGS, NULL},
    {"attached", hot_attached, METH_NOARGS, NULL},
    {"client_address", hot_client_address, METH_NOARGS, NULL},
    {"identity", hot_identity, METH_NOARGS, NULL},
    {"node_alive", hot_node_alive, METH_NOARGS, NULL},
    {"is_live", hot_is_live, METH_VARARGS, NULL},
    {"node_mailbox", hot_node_mailbox, METH_NOARGS, NULL},
    {"publish_node_mailbox", hot_publish_node_mailbox, METH_O, NULL},
    {"stop_node", hot_stop_node, METH_NOARGS, NULL},
    {"fork_prepare", hot_fork_prepare, METH_NOARGS, NULL},
    {"fork_child", hot_fork_child, METH_NOARGS, NULL},
    {"fork_parent", hot_fork_parent, METH_NOARGS, NULL},
    {"fork_slot", hot_fork_slot, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "actorflow._hot",
                                        .m_doc = "The C core's face towards Python.", .m_size = -1,
                                        .m_methods = methods};

static PyObject *add_exception(PyObject *module, const char *name, const char *full_name) {
  PyObject *exception = PyErr_NewException(full_name, NULL, NULL);
  if (!exception || PyModule_AddObjectRef(module, name, exception) < 0) return NULL;
  return exception;
}

static int add_exceptions(PyObject *module) {
  return (hot.closed = add_exception(module, "ClosedError", "actorflow._hot.ClosedError")) &&
                 (hot.full = add_exception(module, "FullError", "actorflow._hot.FullError")) &&
                 (hot.node_gone = add_exception(module, "NodeGoneError", "actorflow._hot.NodeGoneError")) &&
                 (hot.stale = add_exception(module, "StaleError", "actorflow._hot.StaleError")) &&
                 (hot.fenced = add_exception(module, "FencedError", "actorflow._hot.FencedError")) &&
                 (hot.circular = add_exception(module, "CircularWaitError", "actorflow._hot.CircularWaitError")) &&
                 (hot.store_full = add_exception(module, "StoreFullError", "actorflow._hot.StoreFullError")) &&
                 (hot.channel_closed = PyErr_NewException("actorflow._hot.ChannelClosed", hot.closed, NULL)) &&
                 PyModule_AddObjectRef(module, "ChannelClosed", hot.channel_closed) == 0
             ? 0 : -1;
}

static int add_constants(PyObject *module) {
  return PyModule_AddIntConstant(module, "NONE", HOT_NONE) || PyModule_AddIntConstant(module, "PICKLE", HOT_PICKLE) ||
                 PyModule_AddIntConstant(module, "PACKED", HOT_PACKED) ||
                 PyModule_AddIntConstant(module, "ERROR", HOT_ERROR) ||
                 PyModule_AddIntConstant(module, "RAW", HOT_RAW) ||
                 PyModule_AddIntConstant(module, "DYNAMIC", HOT_DYNAMIC) ||
                 PyModule_AddIntConstant(module, "STREAM", HOT_STREAM) ||
                 PyModule_AddIntConstant(module, "ORDERED", AF_MAILBOX_ORDERED) ||
                 PyModule_AddIntConstant(module, "SHARED", AF_MAILBOX_SHARED) ||
                 PyModule_AddIntConstant(module, "VERSION", AF_VERSION) ||
                 PyModule_AddIntConstant(module, "INLINE_BYTES", HOT_INLINE_BYTES)
             ? -1 : 0;
}

PyMODINIT_FUNC PyInit__hot(void) {
  PyObject *module = PyModule_Create(&definition);
  if (!module) return NULL;
  if (pthread_atfork(fork_begins, NULL, NULL) != 0) {
    Py_DECREF(module);
    return PyErr_NoMemory();
  }
  if (add_exceptions(module) < 0 || add_constants(module) < 0 || hot_add_refs(module) < 0 ||
      hot_add_pack(module) < 0 || hot_add_load(module) < 0 || hot_add_target(module) < 0 || hot_add_calls(module) < 0 ||
      hot_add_cancel(module) < 0 || hot_add_stream(module) < 0 || hot_add_waits(module) < 0 ||
      hot_add_board(module) < 0 || hot_add_channels(module) < 0 || hot_add_serve(module) < 0 ||
      hot_add_zygote(module) < 0 || hot_add_print(module) < 0 || hot_add_moved(module) < 0 ||
      hot_add_enter(module) < 0) {
    Py_DECREF(module);
    return NULL;
  }
  return module;
}
