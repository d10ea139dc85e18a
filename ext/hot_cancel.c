/* hot_cancel.c - cancelling: wishes that a call end, and running user code so that it can be interrupted.
 *
 * Purpose: an interrupt hits the user's code of that very call and nothing else.
 * How: the wish lies in the call's cell (core/cancel.c). A signal only says "look". The main thread's handler, in
 * Python, asks interrupt_due(), which is true only while run() is on the stack, with user code above it, for a call that
 * bears a wish. What begins after the signal, or has ended before it, bears none; and run() looks itself before it
 * begins, so that a wish set between the start of a call and its code is not lost.
 * Guarantees: at most one interrupt for each wish. A signal that comes at a bad moment does nothing; whoever sent it
 * sends it again. A limit of time is a wish of the process' own, with a timer that sends the signal. */
#include "hot.h"

#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_AGAIN_NS 20000000 /* the timer's signal may come at a bad moment: it comes again */

enum outcome { SETTLED = 0, STARTED, OVER };

static struct {
  struct call *call;      /* whose code the main thread runs; NULL: none, or it cannot be interrupted */
  uint64_t limit_at_ns;   /* 0: no limit */
  bool waits;             /* its code waits in the core */
  timer_t timer;
  int timer_pid;          /* of the process that made it: timers are not inherited */
} now;

int hot_check_signals(void) {
  now.waits = true;
  int status = PyErr_CheckSignals();
  now.waits = false;
  return status;
}

bool hot_runs_alone(void) { return now.call && now.call->cell == hot_nested_in(); }

/* -- limits -- */

static int timer_make(void) {
  if (now.timer_pid == (int)getpid()) return 0;
  struct sigevent event;
  memset(&event, 0, sizeof event);
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGURG;
  event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
  if (timer_create(CLOCK_MONOTONIC, &event, &now.timer) < 0) { PyErr_SetFromErrno(PyExc_OSError); return -1; }
  now.timer_pid = (int)getpid();
  return 0;
}

static void timer_set(uint64_t first_ns) {
  struct itimerspec spec = {.it_value = {(time_t)(first_ns / 1000000000u), (long)(first_ns % 1000000000u)},
                            .it_interval = {0, first_ns ? LIMIT_AGAIN_NS : 0}};
  (void)timer_settime(now.timer, 0, &spec, NULL);
}

static int limit_begin(uint32_t limit_ms) {
  if (timer_make() < 0) return -1;
  uint64_t limit_ns = (uint64_t)limit_ms * 1000000u;
  now.limit_at_ns = af_now_ns() + limit_ns;
  timer_set(limit_ns);
  return 0;
}

static void limit_end(void) {
  now.limit_at_ns = 0;
  timer_set(0);
}

/* -- running -- */

static struct af_cell *cell_of(const struct call *call) { return AF_AT(&call->session->client, struct af_cell, call->cell); }

static void tell(struct call *call, enum hot_told why) {
  if (why != HOT_TOLD_LIMIT) atomic_fetch_or_explicit(&cell_of(call)->cancel, AF_CANCEL_TOLD, memory_order_relaxed);
  call->told = (uint8_t)why;
}

static enum hot_told due(void) {
  struct call *call = now.call;
  if (!call || call->told || !hot_live(call->session)) return HOT_NOT_TOLD;
  if (af_cell_wish(&call->session->client, call->cell)) return HOT_TOLD_RUNNING;
  return now.limit_at_ns && af_now_ns() >= now.limit_at_ns ? HOT_TOLD_LIMIT : HOT_NOT_TOLD;
}

static PyObject *refuse(struct call *call) {
  tell(call, HOT_TOLD_BEFORE);
  PyErr_SetNone(PyExc_KeyboardInterrupt);
  return NULL;
}

/* run(call, function, args, kwargs): what the function returns. For the main thread. */
static PyObject *cancel_run(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 4 || !PyObject_TypeCheck(args[0], hot.call_type)) {
    PyErr_SetString(PyExc_TypeError, "run(call, function, args, kwargs)");
    return NULL;
  }
  struct call *call = (struct call *)args[0];
  if (!hot_live(call->session)) { PyErr_SetString(PyExc_RuntimeError, "the runtime was shut down"); return NULL; }
  if (__builtin_expect(af_cell_wish(&call->session->client, call->cell) != 0, 0)) return refuse(call);
  uint32_t limit_ms = cell_of(call)->limit_ms;
  if (__builtin_expect(limit_ms != 0, 0) && limit_begin(limit_ms) < 0) return NULL;
  hot_enter(call);
  now.call = call;
  PyObject *result = PyObject_Call(args[1], args[2], args[3]);
  now.call = NULL;
  if (__builtin_expect(limit_ms != 0, 0)) limit_end();
  if (hot_live(call->session)) hot_enter(NULL);
  return result;
}

static PyObject *cancel_interrupt_due(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return PyBool_FromLong(due() != HOT_NOT_TOLD);
}

static PyObject *cancel_in_wait(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  return PyBool_FromLong(now.waits);
}

/* The call that is told now, by who asks; None: none is to be. */
static PyObject *cancel_take_interrupt(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  enum hot_told why = due();
  if (why == HOT_NOT_TOLD) Py_RETURN_NONE;
  tell(now.call, why);
  if (why == HOT_TOLD_LIMIT) timer_set(0);
  Py_INCREF((PyObject *)now.call);
  return (PyObject *)now.call;
}

/* -- wishing -- */

static int error_make(struct session *session, const char *data, Py_ssize_t bytes, af_off *block, uint32_t *index) {
  struct af_client *client = &session->client;
  if ((size_t)bytes > AF_LARGE_MAX - sizeof(struct af_object)) { hot_raise(AF_BAD, "the error is too large"); return -1; }
  enum af_budget budget = client->slot_index == 0 ? AF_CONTROL : AF_MESSAGES; /* the node's wishes need no room of others */
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  int status = af_heap_allocate(client, (uint32_t)(sizeof(struct af_object) + (size_t)bytes), AF_KIND_BYTES, budget, block);
  if (status == AF_OK) {
    struct af_object *object = AF_AT(client, struct af_object, *block);
    object->bytes = object->pickle_bytes = (uint64_t)bytes;
    object->references = object->buffers = 0;
    object->pickle_offset = sizeof *object;
    memcpy(object + 1, data, (size_t)bytes);
  }
  status = hot_record(session, status, *block, index);
  af_op_end(client, outer);
  if (status == AF_OK) return 0;
  hot_raise(status, "messages");
  return -1;
}

/* call_of(reference) -> the reference to the call whose result it is; None: that is over and gone */
static PyObject *cancel_call_of(PyObject *module, PyObject *object) {
  (void)module;
  struct hold *hold = hot_hold_of(object, AF_KIND_CELL);
  if (!hold) return NULL;
  struct af_client *client = &hold->session->client;
  af_off call = af_cell_call(client, hold->block);
  if (call == hold->block) { Py_INCREF(object); return object; }
  uint32_t index, outer = af_op_begin(client, AF_OP_HOLD);
  uint32_t generation = AF_AT(client, struct af_cell, hold->block)->parent_generation;
  int status = call ? af_block_revive(client, call, generation, AF_KIND_CELL) : AF_STALE;
  status = hot_record(hold->session, status, call, &index);
  af_op_end(client, outer);
  if (status == AF_OK) return hot_hold_new(hot.made_type, hold->session, call, index);
  Py_RETURN_NONE;
}

/* What became of the wish: (outcome, slot, epoch, told). Slot and epoch: who has started the call; (0, 0): nobody. */
static PyObject *outcome_of(const struct af_client *client, af_off call, int status) {
  enum outcome outcome = status == AF_OK ? SETTLED : status == AF_EMPTY ? OVER : STARTED;
  uint64_t state = atomic_load_explicit(&AF_AT(client, struct af_cell, call)->state, memory_order_acquire);
  if ((state & AF_STATE_PHASE) != AF_STARTED) state = 0;
  bool told = af_cell_wish(client, call) & AF_CANCEL_TOLD;
  return Py_BuildValue("(iIIO)", (int)outcome, (unsigned)(state >> 16 & 0xffff), (unsigned)(state >> 32),
                       told ? Py_True : Py_False);
}

/* cancel(call's reference, wish, error) -> (outcome, slot, epoch, told) */
static PyObject *cancel_cancel(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *object;
  const char *data;
  Py_ssize_t bytes;
  int wish;
  if (!PyArg_ParseTuple(args, "Oiy#", &object, &wish, &data, &bytes)) return NULL;
  struct hold *hold = hot_hold_of(object, AF_KIND_CELL);
  af_off block;
  uint32_t index;
  if (!hold || error_make(hold->session, data, bytes, &block, &index) < 0) return NULL;
  struct af_client *client = &hold->session->client;
  int status = af_cell_cancel(client, hold->block, (uint8_t)wish, block, HOT_ERROR);
  af_hold_drop(client, index);
  return outcome_of(client, hold->block, status);
}

/* settle_killed(reference, slot, epoch, error) -> whether that process, which has ended, had it started */
static PyObject *cancel_settle_killed(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *object;
  const char *data;
  Py_ssize_t bytes;
  unsigned int slot, epoch;
  if (!PyArg_ParseTuple(args, "OIIy#", &object, &slot, &epoch, &data, &bytes)) return NULL;
  struct hold *hold = hot_hold_of(object, AF_KIND_CELL);
  af_off block;
  uint32_t index;
  if (!hold || error_make(hold->session, data, bytes, &block, &index) < 0) return NULL;
  struct af_client *client = &hold->session->client;
  uint64_t started = (uint64_t)epoch << 32 | (uint64_t)slot << 16 | AF_STARTED;
  int status = af_cell_fail(client, hold->block, started, block, HOT_ERROR);
  af_hold_drop(client, index);
  return PyBool_FromLong(status == AF_OK);
}

/* -- what is cancelled -- */

/* The function of a task that is not done, counted: who completes it drops its references, but first says that there
 * are none. */
static af_off function_revive(struct af_client *client, af_off call) {
  struct af_cell *cell = AF_AT(client, struct af_cell, call);
  uint32_t count = __atomic_load_n(&cell->references, __ATOMIC_ACQUIRE);
  if (!(cell->flags & HOT_CELL_FUNCTION) || count <= cell->returns) return 0;
  af_off function = __atomic_load_n(&af_cell_references(client, call)[count - cell->returns - 1], __ATOMIC_ACQUIRE);
  if (!af_block_is_live(client, function)) return 0;
  uint32_t generation = af_block_generation(client, function);
  if (af_block_revive(client, function, generation, AF_KIND_CELL) != AF_OK) return 0;
  if (__atomic_load_n(&cell->references, __ATOMIC_ACQUIRE) == count && !af_cell_is_done(client, call)) return function;
  af_block_drop(client, function);
  return 0;
}

static PyObject *function_of(struct session *session, af_off call) {
  struct af_client *client = &session->client;
  uint32_t index, outer = af_op_begin(client, AF_OP_HOLD);
  af_off function = function_revive(client, call);
  int status = function ? hot_record(session, AF_OK, function, &index) : AF_EMPTY;
  af_op_end(client, outer);
  if (status == AF_OK) return hot_hold_new(hot.made_type, session, function, index);
  Py_RETURN_NONE;
}

/* subject(call's reference) -> (kind, function, mailbox' offset, method); kind: "task", "actor" or "" (no call) */
static PyObject *cancel_subject(PyObject *module, PyObject *object) {
  (void)module;
  struct hold *hold = hot_hold_of(object, AF_KIND_CELL);
  if (!hold) return NULL;
  struct af_client *client = &hold->session->client;
  const struct af_cell *cell = AF_AT(client, struct af_cell, hold->block);
  if (cell->caller_epoch == 0) return Py_BuildValue("(sOKi)", "", Py_None, 0ull, 0);
  const char *kind = cell->flags & HOT_CELL_FUNCTION && !cell->method ? "task" : "actor"; /* see Call.function */
  return Py_BuildValue("(sNKi)", kind, function_of(hold->session, hold->block), (unsigned long long)cell->mailbox, (int)cell->method);
}

struct found { struct session *session; PyObject *list; };

static void child_found(void *context, struct af_client *client, af_off cell) {
  struct found *found = context;
  uint32_t index;
  if (!found->list || af_hold_take(client, cell, &index) != AF_OK) return;
  PyObject *reference = hot_hold_new(hot.made_type, found->session, cell, index);
  if (!reference || PyList_Append(found->list, reference) < 0) Py_CLEAR(found->list);
  Py_XDECREF(reference);
}

PyObject *hot_children(struct session *session, af_off parent, uint32_t generation) {
  struct found found = {session, PyList_New(0)};
  if (found.list) af_cell_each_child(&session->client, parent, generation, child_found, &found);
  return found.list;
}

/* children((offset, generation)) -> references to the unfinished calls made within the call of that name */
static PyObject *cancel_children(PyObject *module, PyObject *args) {
  (void)module;
  unsigned long long parent;
  unsigned int generation;
  struct session *session = hot_session();
  if (!session || !PyArg_ParseTuple(args, "(KI)", &parent, &generation)) return NULL;
  return hot_children(session, parent, generation);
}

static PyMethodDef functions[] = {
    {"run", (PyCFunction)(void (*)(void))cancel_run, METH_FASTCALL, NULL},
    {"interrupt_due", cancel_interrupt_due, METH_NOARGS, NULL},
    {"take_interrupt", cancel_take_interrupt, METH_NOARGS, NULL},
    {"in_wait", cancel_in_wait, METH_NOARGS, NULL},
    {"call_of", cancel_call_of, METH_O, NULL},
    {"cancel", cancel_cancel, METH_VARARGS, NULL},
    {"settle_killed", cancel_settle_killed, METH_VARARGS, NULL},
    {"subject", cancel_subject, METH_O, NULL},
    {"children", cancel_children, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int hot_add_cancel(PyObject *module) {
  return PyModule_AddFunctions(module, functions) == 0 &&
                 PyModule_AddIntConstant(module, "CANCEL_CHILDREN", AF_CANCEL_CHILDREN) == 0 &&
                 PyModule_AddIntConstant(module, "TOLD_BEFORE", HOT_TOLD_BEFORE) == 0 &&
                 PyModule_AddIntConstant(module, "TOLD_RUNNING", HOT_TOLD_RUNNING) == 0 &&
                 PyModule_AddIntConstant(module, "TOLD_LIMIT", HOT_TOLD_LIMIT) == 0 &&
                 PyModule_AddIntConstant(module, "CANCEL_SETTLED", SETTLED) == 0 &&
                 PyModule_AddIntConstant(module, "CANCEL_STARTED", STARTED) == 0
             ? 0 : -1;
}
