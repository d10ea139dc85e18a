/* hot_serve.c - take_or_ready: waits for a call in a mailbox or for one of some ends of channels, whichever comes first.
 *
 * The main thread of a sync actor waits here while it is a member of compiled graphs. It spins on all of them, then
 * sleeps on one notice board, which pushes to the mailbox (as its listener) and the other ends of the channels (as the
 * watch of ours) ring; both only while it sleeps, so that nobody rings for one who is awake. */
#include "hot.h"

#include <stdlib.h>

static Py_ssize_t turn; /* where to look first: after what was found last */

struct serving {
  struct session *session;
  struct hold *mailbox;
  PyObject *ends; /* tuple: keeps them alive */
  Py_ssize_t count;
};

static struct end *end_at(const struct serving *serving, Py_ssize_t i) {
  return (struct end *)PyTuple_GetItem(serving->ends, i);
}

/* What of both there is to do; no GIL needed while the ends are busy: they stay in the tuple, and their channels pinned. */
static bool look(const struct serving *serving, struct end *const *ends) {
  if (af_mailbox_may_take(&serving->session->client, serving->mailbox->block)) return true;
  for (Py_ssize_t i = 0; i < serving->count; i++)
    if (hot_end_look(ends[i]) != AF_EMPTY) return true;
  return false;
}

static bool spin(const struct serving *serving, struct end *const *ends, uint64_t spin_ns) {
  struct af_spin spin;
  bool found;
  af_spin_begin(&spin, &serving->session->client, spin_ns);
  do
    found = look(serving, ends);
  while (!found && af_spin_turn(&spin));
  return found;
}

/* -- asleep -- */

static void watch_all(const struct serving *serving, struct end *const *ends, af_watch watch) {
  struct af_client *client = &serving->session->client;
  for (Py_ssize_t i = 0; i < serving->count; i++) hot_end_watch(ends[i], watch);
  if (hot_live(serving->session)) /* SYNC POINT mail */
    atomic_store(&AF_AT(client, struct af_mailbox, serving->mailbox->block)->listener, watch);
}

/* Without the GIL; `board`: NULL: all are in use, so it looks again after a millisecond. */
static int sleep_once(struct af_client *client, const uint8_t *board, uint64_t limit_ns) {
  const _Atomic uint32_t nobody_wakes = 0;
  if (board) return af_board_wait(client, *board, 0, limit_ns);
  return af_futex_wait(&nobody_wakes, 0, limit_ns < 1000000 ? limit_ns : 1000000);
}

static int sleep_on_board(struct serving *serving, struct end *const *ends, uint64_t limit_ns) {
  struct session *session = serving->session;
  struct af_client *client = &session->client;
  uint8_t board = 0;
  af_off unused;
  int status = AF_OK;
  bool live = true, has_board = af_board_create(client, &board, &unused) == AF_OK;
  if (has_board) watch_all(serving, ends, af_watch_make(client->slot_index, client->epoch, board, 0));
  if (!look(serving, ends)) {
    for (Py_ssize_t i = 0; i < serving->count; i++) ends[i]->sleeps++;
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    status = sleep_once(client, has_board ? &board : NULL, limit_ns);
    Py_END_ALLOW_THREADS
    live = session_leave_wait(session);
  }
  if (has_board) watch_all(serving, ends, 0);
  if (has_board && live) af_board_destroy(client, board);
  return live ? hot_after_sleep(session, status) : -1;
}

/* -- awake -- */

static int wait_busy(struct serving *serving, struct end *const *ends, uint64_t deadline_ns) {
  struct session *session = serving->session;
  struct af_client *client = &session->client;
  uint64_t rest_ns = hot_spin_rest(client, session->mail_doubt), begin_ns = af_now_ns();
  bool found = spin(serving, ends, hot_spin_first(client, session->mail_doubt));
  if (!found && rest_ns > 0) {
    session_enter_wait(session);
    Py_BEGIN_ALLOW_THREADS
    found = spin(serving, ends, rest_ns);
    Py_END_ALLOW_THREADS
    if (!session_leave_wait(session)) return -1;
  }
  if (found) {
    if (session->mail_doubt > 0) session->mail_doubt = 0;
    return 0;
  }
  int status = sleep_on_board(serving, ends, hot_left(deadline_ns));
  if (hot_live(session)) hot_learn_step(client, &session->mail_doubt, begin_ns);
  return status;
}

/* Marks the ends as in use, so that what other threads close stays in its place. */
static int wait_any(struct serving *serving, uint64_t deadline_ns) {
  struct end **ends = calloc((size_t)serving->count + 1, sizeof *ends);
  Py_ssize_t begun = 0;
  int status = -1;
  if (!ends) { PyErr_NoMemory(); return -1; }
  while (begun < serving->count && (ends[begun] = hot_end_begin(PyTuple_GetItem(serving->ends, begun)))) begun++;
  if (begun == serving->count) status = wait_busy(serving, ends, deadline_ns);
  while (begun > 0) hot_end_finish(ends[--begun]);
  free(ends);
  return status;
}

/* Until it waits here again the caller is in a step. */
static void note_stepping(const struct serving *serving, bool stepping) {
  atomic_store_explicit(&serving->session->client.slot->stepping, stepping, memory_order_relaxed);
}

/* A new reference: a call, or the index of an end; NULL: nothing now, or an exception. */
static PyObject *take_now(struct serving *serving) {
  Py_ssize_t places = serving->count + 1;
  PyObject *call;
  for (Py_ssize_t i = 0; i < places; i++) {
    Py_ssize_t place = (turn + i) % places;
    bool found = place == 0 ? hot_take_now(serving->mailbox, &call) != 0
                            : hot_end_look(end_at(serving, place - 1)) != AF_EMPTY;
    if (!found) continue;
    turn = place + 1;
    note_stepping(serving, place != 0);
    return place == 0 ? call : PyLong_FromSsize_t(place - 1);
  }
  return NULL;
}

static int serving_set(struct serving *serving, PyObject *const *args) {
  serving->mailbox = hot_hold_of(args[0], AF_KIND_MAILBOX);
  if (!serving->mailbox || !(serving->ends = PySequence_Tuple(args[2]))) return -1;
  serving->session = serving->mailbox->session;
  serving->count = PyTuple_Size(serving->ends);
  for (Py_ssize_t i = 0; i < serving->count; i++)
    if (!hot_end_of(PyTuple_GetItem(serving->ends, i))) return -1;
  return 0;
}

static PyObject *serve(struct serving *serving, uint64_t deadline_ns) {
  note_stepping(serving, false);
  for (;;) {
    if (atomic_load_explicit(&serving->session->client.slot->leave, memory_order_relaxed)) Py_RETURN_NONE;
    PyObject *found = take_now(serving);
    if (found || PyErr_Occurred()) return found;
    if (hot_must_stop(serving->mailbox)) Py_RETURN_NONE;
    if (deadline_ns != UINT64_MAX && hot_left(deadline_ns) == 0) Py_RETURN_NONE;
    if (wait_any(serving, deadline_ns) < 0) return NULL;
  }
}

/* take_or_ready(mailbox, timeout, ends) */
static PyObject *serve_take_or_ready(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  struct serving serving = {0};
  uint64_t deadline_ns;
  if (count != 3) { PyErr_SetString(PyExc_TypeError, "take_or_ready(mailbox, timeout, ends)"); return NULL; }
  if (hot_deadline(args[1], &deadline_ns) < 0) return NULL;
  PyObject *found = serving_set(&serving, args) < 0 ? NULL : serve(&serving, deadline_ns);
  Py_XDECREF(serving.ends);
  return found;
}

static PyMethodDef functions[] = {
    {"take_or_ready", (PyCFunction)(void (*)(void))serve_take_or_ready, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

int hot_add_serve(PyObject *module) { return PyModule_AddFunctions(module, functions); }
