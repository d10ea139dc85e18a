/* hot_wait.c - blocking waits: get, get_many, wait, take.
 *
 * A wait spins 20 us with the GIL kept (a released GIL comes back after up to 5 ms beside a busy thread), then up to
 * spin_us without it, then sleeps at most 100 ms at a time, runs signal handlers and looks whether the node lives. A
 * task that sleeps here has given its CPU back. */
#include "hot.h"

#include <stdlib.h>
#include <string.h>

#define SLEEP_NS ((uint64_t)AF_SLEEP_MS * 1000000u)
#define MOST_DOUBT 4 /* a sixteenth of the longest spin: what a reply takes that is as good as there */
#define LEAST_DOUBT (-4) /* sixteen times that: the longest steps of graphs which are spun for */
#define IDLE_LOOKS 10 /* after so many sleeps without mail a reader sleeps longer: thousands of idle actors cost nothing */

/* A node that ends in order wakes every sleeper: then its state says so, without a look at its process. */
static bool node_is_gone(struct session *session, int status) {
  uint32_t state = atomic_load_explicit(&session->client.header->node_state, memory_order_acquire);
  bool for_long = status == AF_TIMEOUT || status == AF_INTERRUPTED; /* by a timer's signals, it may be again and again */
  return state >= AF_NODE_STOPPING || (for_long && af_node_check(&session->client) != AF_OK);
}

int hot_after_sleep(struct session *session, int status) {
  if (hot_check_signals() < 0 || !hot_check_live(session)) return -1; /* a handler may have shut the runtime down */
  if (node_is_gone(session, status)) {
    hot_raise(AF_DEAD, "the node has ended");
    return -1;
  }
  if (status == AF_SYSTEM) { hot_raise(status, "waiting"); return -1; }
  return 0;
}

/* Spinning is in vain when what is waited for comes later than that: each such wait doubles the doubt, and the next spin
 * is half as long. One that comes within twice the longest spin ends it. Who waits for the steps of a graph learns how long
 * they take, and spins for that long: doubt below zero doubles the spin. */
static uint64_t spin_whole(const struct af_client *client, int8_t doubt) {
  uint64_t spin_ns = (uint64_t)client->spin_us * 1000u;
  return doubt < 0 ? spin_ns << -doubt : spin_ns >> doubt;
}
uint64_t hot_spin_first(const struct af_client *client, int8_t doubt) {
  uint64_t spin_ns = spin_whole(client, doubt);
  return spin_ns < HOT_SPIN_GIL_NS ? spin_ns : HOT_SPIN_GIL_NS;
}
uint64_t hot_spin_rest(const struct af_client *client, int8_t doubt) {
  return spin_whole(client, doubt) - hot_spin_first(client, doubt);
}
static void doubt_more(int8_t *doubt) {
  if (*doubt < 0) *doubt = 1;
  else if (*doubt < MOST_DOUBT) ++*doubt;
}
void hot_learn(const struct af_client *client, int8_t *doubt, uint64_t begin_ns) {
  if (af_now_ns() - begin_ns < 2 * spin_whole(client, 0)) *doubt = 0;
  else doubt_more(doubt);
}
void hot_learn_step(const struct af_client *client, int8_t *doubt, uint64_t begin_ns) {
  uint64_t taken_ns = af_now_ns() - begin_ns;
  int8_t enough = 0;
  while (enough >= LEAST_DOUBT && taken_ns >= spin_whole(client, enough)) enough--;
  if (enough >= LEAST_DOUBT) *doubt = enough;
  else doubt_more(doubt);
}

uint64_t hot_left_within(uint64_t deadline_ns, uint64_t limit_ns) {
  uint64_t now = af_now_ns();
  if (now >= deadline_ns) return 0;
  return deadline_ns - now < limit_ns ? deadline_ns - now : limit_ns;
}
uint64_t hot_left(uint64_t deadline_ns) { return hot_left_within(deadline_ns, SLEEP_NS); }

/* After a whole sleep, or one that a signal ended. -1: the wait is in a circle of waits, and the exception that ends it is
 * set. */
static int check_circle(struct session *session, af_off cell) {
  if (!af_deadlock_found(&session->client)) return 0;
  PyObject *reference = hot_hold_take(session, cell);
  if (reference) PyErr_SetObject(hot.circular, reference);
  Py_XDECREF(reference);
  return -1;
}

static int sleep_on_cell(struct session *session, af_off cell, uint64_t deadline_ns, bool said) {
  struct af_client *client = &session->client;
  /* One that is over before a whole sleep is looks at the node now: of one that is gone nothing will come. */
  int status = hot_after_sleep(session, hot_left(deadline_ns) < SLEEP_NS ? AF_TIMEOUT : AF_OK);
  if (status < 0) return -1;
  while (!af_cell_is_done(client, cell)) {
    uint64_t left_ns = hot_left(deadline_ns);
    if (left_ns == 0) { hot_raise(AF_TIMEOUT, "the result was not ready in time"); return -1; }
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    status = af_cell_sleep(client, cell, left_ns);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session)) return -1;
    if (af_cell_is_done(client, cell)) break;
    if (hot_after_sleep(session, status) < 0) return -1;
    if (said && status != AF_OK && check_circle(session, cell) < 0) return -1;
  }
  return 0;
}

/* 1: done; 0: not yet; -1: an exception is set. */
static int spin_on_cell(struct session *session, af_off cell) {
  struct af_client *client = &session->client;
  int done = af_cell_spin(client, cell, hot_spin_first(client, session->reply_doubt));
  uint64_t rest_ns = hot_spin_rest(client, session->reply_doubt);
  if (!done && rest_ns > 0) {
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    done = af_cell_spin(client, cell, rest_ns);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session)) return -1;
  }
  if (done) session->reply_doubt = 0;
  return done;
}

int hot_wait_cell(struct session *session, af_off cell, uint64_t deadline_ns) {
  struct af_client *client = &session->client;
  if (af_cell_is_done(client, cell)) return 0;
  if (deadline_ns == UINT64_MAX || hot_left(deadline_ns) > 0) {
    int done = spin_on_cell(session, cell);
    if (done != 0) return done < 0 ? -1 : 0;
  }
  uint64_t begin_ns = af_now_ns(), inside = af_mailbox_block(client);
  bool said = deadline_ns == UINT64_MAX && hot_runs_alone();
  uint64_t before = said ? af_deadlock_begin(client, cell) : 0;
  int status = sleep_on_cell(session, cell, deadline_ns, said);
  if (!hot_live(session)) return status;
  if (said) af_deadlock_end(client, before);
  af_mailbox_unblock(client, inside);
  hot_learn(client, &session->reply_doubt, begin_ns);
  return status;
}

/* get(reference, timeout=None, before=nothing): `before(reference, timeout)` is called where it is not done. */
static PyObject *wait_get(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  uint64_t deadline_ns;
  struct hold *hold = count > 0 ? hot_hold_of(args[0], AF_KIND_CELL) : NULL;
  if (!hold) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "get(reference, timeout=None, before=nothing)");
    return NULL;
  }
  if (count > 2 && !af_cell_is_done(&hold->session->client, hold->block)) {
    PyObject *looked = PyObject_CallFunctionObjArgs(args[2], args[0], args[1], NULL);
    Py_XDECREF(looked);
    if (!looked || !(hold = hot_hold_of(args[0], AF_KIND_CELL))) return NULL;
  }
  if (hot_deadline(count > 1 ? args[1] : NULL, &deadline_ns) < 0) return NULL;
  if (hot_wait_cell(hold->session, hold->block, deadline_ns) < 0) return NULL;
  return hot_load(hold->session, hold->block, deadline_ns);
}

/* get_many(references, timeout=None) */
static PyObject *wait_get_many(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  uint64_t deadline_ns;
  if (count < 1 || hot_deadline(count > 1 ? args[1] : NULL, &deadline_ns) < 0) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "get_many(references, timeout=None)");
    return NULL;
  }
  PyObject *references = PySequence_List(args[0]); /* own list: other threads may change the caller's while we sleep */
  if (!references) return NULL;
  Py_ssize_t size = PyList_Size(references);
  PyObject *values = PyList_New(size);
  for (Py_ssize_t i = 0; values && i < size; i++) {
    struct hold *hold = hot_hold_of(PyList_GetItem(references, i), AF_KIND_CELL);
    PyObject *value = NULL;
    if (hold && hot_wait_cell(hold->session, hold->block, deadline_ns) == 0) value = hot_load(hold->session, hold->block, deadline_ns);
    if (!value || PyList_SetItem(values, i, value) < 0) Py_CLEAR(values);
  }
  Py_DECREF(references);
  return values;
}

/* -- wait -- */

struct waiting {
  struct session *session;
  PyObject *references; /* own list */
  struct hold **holds;
  bool *done;
  Py_ssize_t size, wanted, ready;
};

static bool insert_once(af_off *table, size_t mask, af_off block) {
  size_t at = (size_t)((block * 0x9e3779b97f4a7c15ull) >> 32) & mask;
  for (; table[at]; at = (at + 1) & mask)
    if (table[at] == block) return false;
  table[at] = block;
  return true;
}

static int check_references(struct waiting *waiting) {
  size_t room = 16;
  while (room < (size_t)waiting->size * 2) room *= 2;
  af_off *table = calloc(room, sizeof *table);
  if (!table) { PyErr_NoMemory(); return -1; }
  int status = 0;
  for (Py_ssize_t i = 0; i < waiting->size && status == 0; i++) {
    struct hold *hold = hot_hold_of(PyList_GetItem(waiting->references, i), AF_KIND_CELL);
    if (!hold) status = -1;
    else if (!insert_once(table, room - 1, hold->block)) {
      PyErr_SetString(PyExc_ValueError, "wait() needs references that differ: one is in the list twice");
      status = -1;
    }
    waiting->holds[i] = hold;
  }
  free(table);
  return status;
}

static bool look(struct waiting *waiting) {
  for (Py_ssize_t i = 0; i < waiting->size && waiting->ready < waiting->wanted; i++) {
    if (waiting->done[i] || !af_cell_is_done(&waiting->session->client, waiting->holds[i]->block)) continue;
    waiting->done[i] = true;
    waiting->ready++;
  }
  return waiting->ready >= waiting->wanted;
}

static void watch_all(struct waiting *waiting, uint8_t board, bool set) {
  struct af_client *client = &waiting->session->client;
  af_watch watch = af_watch_make(client->slot_index, client->epoch, board, 0);
  for (Py_ssize_t i = 0; i < waiting->size; i++) {
    if (waiting->done[i]) continue;
    if (set) (void)af_cell_watch(client, waiting->holds[i]->block, watch, &waiting->holds[i]->watcher);
    else af_cell_unwatch(client, waiting->holds[i]->block, watch, &waiting->holds[i]->watcher);
  }
}

static int sleep_on_board(struct waiting *waiting, uint8_t board, uint64_t deadline_ns) {
  struct session *session = waiting->session;
  uint32_t token;
  while (!look(waiting)) {
    uint64_t left_ns = hot_left(deadline_ns);
    int status = AF_OK;
    if (left_ns == 0) return 0;
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    status = af_board_wait(&session->client, board, hot_spin_rest(&session->client, 0), left_ns);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session) || hot_after_sleep(session, status) < 0) return -1;
    (void)af_board_take(&session->client, board, &token, 1, false);
  }
  return 0;
}

/* Without a board (all are in use): looks every millisecond. */
static int sleep_without_board(struct waiting *waiting, uint64_t deadline_ns) {
  struct session *session = waiting->session;
  _Atomic uint32_t word = 0;
  while (!look(waiting)) {
    uint64_t left_ns = hot_left(deadline_ns);
    if (left_ns == 0) return 0;
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    (void)af_futex_wait(&word, 0, left_ns < 1000000 ? left_ns : 1000000);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session) || hot_after_sleep(session, AF_TIMEOUT) < 0) return -1;
  }
  return 0;
}

/* All are needed: then this is as good as one wait after another, which also notice a circle. */
static int wait_for_each(struct waiting *waiting) {
  for (Py_ssize_t i = 0; i < waiting->size; i++)
    if (hot_wait_cell(waiting->session, waiting->holds[i]->block, UINT64_MAX) < 0) return -1;
  (void)look(waiting);
  return 0;
}

static int wait_asleep(struct waiting *waiting, uint64_t deadline_ns) {
  struct af_client *client = &waiting->session->client;
  uint8_t board;
  af_off unused;
  uint64_t inside = af_mailbox_block(client);
  int status;
  if (af_board_create(client, &board, &unused) == AF_OK) {
    watch_all(waiting, board, true);
    status = sleep_on_board(waiting, board, deadline_ns);
    if (hot_live(waiting->session)) {
      watch_all(waiting, board, false);
      af_board_destroy(client, board);
    }
  } else status = sleep_without_board(waiting, deadline_ns);
  if (hot_live(waiting->session)) af_mailbox_unblock(client, inside);
  return status;
}

static int wait_for(struct waiting *waiting, uint64_t deadline_ns) {
  struct af_client *client = &waiting->session->client;
  uint64_t spin_until = af_now_ns() + hot_spin_first(client, 0);
  while (!look(waiting)) {
    uint64_t now = af_now_ns();
    if (now >= deadline_ns) return 0;
    if (now >= spin_until && waiting->wanted == waiting->size && deadline_ns == UINT64_MAX) return wait_for_each(waiting);
    if (now >= spin_until) return wait_asleep(waiting, deadline_ns);
    af_pause();
  }
  return 0;
}

static PyObject *split(const struct waiting *waiting) {
  PyObject *ready = PyList_New(waiting->ready), *rest = PyList_New(waiting->size - waiting->ready);
  Py_ssize_t ready_at = 0, rest_at = 0;
  for (Py_ssize_t i = 0; ready && rest && i < waiting->size; i++) {
    PyObject *reference = PyList_GetItem(waiting->references, i);
    Py_INCREF(reference);
    int status = waiting->done[i] ? PyList_SetItem(ready, ready_at++, reference) : PyList_SetItem(rest, rest_at++, reference);
    if (status < 0) Py_CLEAR(ready);
  }
  if (ready && rest) return Py_BuildValue("(NN)", ready, rest);
  Py_XDECREF(ready);
  Py_XDECREF(rest);
  return NULL;
}

/* wait(references, num_returns, timeout=None) */
static PyObject *wait_wait(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  struct waiting waiting = {.session = hot_session()};
  uint64_t deadline_ns;
  if (!waiting.session) return NULL;
  if (count < 2) { PyErr_SetString(PyExc_TypeError, "wait(references, num_returns, timeout=None)"); return NULL; }
  waiting.wanted = PyLong_AsSsize_t(args[1]);
  if (PyErr_Occurred() || hot_deadline(count > 2 ? args[2] : NULL, &deadline_ns) < 0) return NULL;
  if (!(waiting.references = PySequence_List(args[0]))) return NULL;
  waiting.size = PyList_Size(waiting.references);
  if (waiting.wanted > waiting.size) waiting.wanted = waiting.size;
  waiting.holds = calloc((size_t)waiting.size + 1, sizeof *waiting.holds);
  waiting.done = calloc((size_t)waiting.size + 1, sizeof *waiting.done);
  PyObject *result = NULL;
  if (!waiting.holds || !waiting.done) PyErr_NoMemory();
  else if (check_references(&waiting) == 0 && wait_for(&waiting, deadline_ns) == 0) result = split(&waiting);
  free(waiting.holds);
  free(waiting.done);
  Py_DECREF(waiting.references);
  return result;
}

/* -- take -- */

int hot_take_now(struct hold *mailbox, PyObject **call) {
  struct af_client *client = &mailbox->session->client;
  af_off cell;
  uint32_t index;
  int status = af_mailbox_take(client, mailbox->block, &cell, &index);
  *call = NULL;
  if (status == AF_EMPTY || status == AF_BUSY) return 0;
  *call = status == AF_OK ? hot_call_new(mailbox->session, cell, index) : hot_raise(status, "the mailbox is closed");
  return 1;
}

bool hot_must_stop(struct hold *mailbox) {
  struct af_client *client = &mailbox->session->client;
  struct af_mailbox *self = AF_AT(client, struct af_mailbox, mailbox->block);
  if (atomic_load_explicit(&client->slot->leave, memory_order_relaxed)) return true;
  return atomic_load(&self->abandoned) && !af_mailbox_has_mail(client, mailbox->block);
}

static int wait_mail(struct hold *mailbox, uint64_t deadline_ns) {
  struct session *session = mailbox->session;
  uint64_t limit_ns = session->idle_looks < IDLE_LOOKS ? SLEEP_NS : AF_IDLE_SLEEP_NS;
  struct af_client *client = &session->client;
  int status = af_mailbox_wait(client, mailbox->block, hot_spin_first(client, session->mail_doubt), 0);
  if (status == AF_OK) { session->mail_doubt = 0; return 0; }
  uint64_t begin_ns = af_now_ns(), rest_ns = hot_spin_rest(client, session->mail_doubt);
  session_enter_wait(session);
  Py_BEGIN_ALLOW_THREADS
  status = af_mailbox_wait(client, mailbox->block, rest_ns, hot_left_within(deadline_ns, limit_ns));
  Py_END_ALLOW_THREADS
  if (!session_leave_wait(session)) return -1;
  hot_learn(client, &session->mail_doubt, begin_ns);
  if (status == AF_TIMEOUT) {
    if (session->idle_looks < IDLE_LOOKS && ++session->idle_looks == IDLE_LOOKS) (void)hot_give_back();
    af_heap_trim(client);
  }
  return hot_after_sleep(session, status);
}

/* take(mailbox, timeout=None, leave=True) */
static PyObject *wait_take(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  uint64_t deadline_ns;
  struct hold *mailbox = count > 0 ? hot_hold_of(args[0], AF_KIND_MAILBOX) : NULL;
  if (!mailbox || hot_deadline(count > 1 ? args[1] : NULL, &deadline_ns) < 0) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "take(mailbox, timeout=None, leave=True)");
    return NULL;
  }
  bool leave = count <= 2 || PyObject_IsTrue(args[2]) == 1;
  PyObject *call;
  for (;;) {
    if (leave && atomic_load_explicit(&mailbox->session->client.slot->leave, memory_order_relaxed)) Py_RETURN_NONE;
    if (hot_take_now(mailbox, &call)) {
      mailbox->session->idle_looks = 0;
      return call;
    }
    if (leave && hot_must_stop(mailbox)) Py_RETURN_NONE;
    if (deadline_ns != UINT64_MAX && hot_left(deadline_ns) == 0) Py_RETURN_NONE;
    if (wait_mail(mailbox, deadline_ns) < 0) return NULL;
  }
}

static PyObject *wait_take_nowait(PyObject *module, PyObject *object) {
  (void)module;
  struct hold *mailbox = hot_hold_of(object, AF_KIND_MAILBOX);
  PyObject *call;
  if (!mailbox) return NULL;
  if (hot_take_now(mailbox, &call)) return call;
  struct af_client *client = &mailbox->session->client; /* it will not wait here: pushes are to wake others again */
  af_mailbox_returned(client, AF_AT(client, struct af_mailbox, mailbox->block));
  Py_RETURN_NONE;
}

/* The mailbox's first call, once its arguments are ready. */
static PyObject *wait_take_first(PyObject *module, PyObject *object) {
  (void)module;
  struct hold *mailbox = hot_hold_of(object, AF_KIND_MAILBOX);
  if (!mailbox) return NULL;
  struct session *session = mailbox->session;
  struct af_client *client = &session->client;
  af_off cell = AF_AT(client, struct af_mailbox, mailbox->block)->first;
  if (!cell) Py_RETURN_NONE;
  for (uint32_t i = 0; i < AF_AT(client, struct af_cell, cell)->arguments; i++)
    if (hot_wait_cell(session, af_cell_references(client, cell)[i], UINT64_MAX) < 0) return NULL;
  uint32_t index;
  int status = af_hold_take(client, cell, &index);
  if (status != AF_OK) return hot_raise(status, "messages: no room in the hold table");
  if (af_cell_start(client, cell) == AF_OK) return hot_call_new(session, cell, index);
  af_hold_drop(client, index);
  Py_RETURN_NONE;
}

/* yield_cpu() -> False: others want the CPU, so do not look in turns */
static PyObject *wait_yield_cpu(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
  struct af_client *client = hot_client();
  return client ? PyBool_FromLong(af_yield(client, false)) : NULL;
}

static PyMethodDef functions[] = {
    {"yield_cpu", wait_yield_cpu, METH_NOARGS, NULL},
    {"get", (PyCFunction)(void (*)(void))wait_get, METH_FASTCALL, NULL},
    {"get_many", (PyCFunction)(void (*)(void))wait_get_many, METH_FASTCALL, NULL},
    {"wait", (PyCFunction)(void (*)(void))wait_wait, METH_FASTCALL, NULL},
    {"take", (PyCFunction)(void (*)(void))wait_take, METH_FASTCALL, NULL},
    {"take_nowait", wait_take_nowait, METH_O, NULL},
    {"take_first", wait_take_first, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int hot_add_waits(PyObject *module) { return PyModule_AddFunctions(module, functions); }
