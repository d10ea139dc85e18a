/* hot_board.c - Board: what one event loop waits for.
 *
 * A token is an entry of a private table: what is watched and the note that poll hands out for it. A watched cell's
 * entry ends when it is handed out; a mailbox' entry stays, and that of a channel's end. A ring for a token that was given away since is found out by
 * looking at what the token stands for now, so late rings do no harm; a lost ring is found by the thorough poll. */
#include "hot.h"

#include <stdlib.h>
#include <string.h>

#define POLL_MOST 1024u /* tokens handed out by one poll: the loop gets its turn between */

enum entry_kind { ENTRY_FREE = 0, ENTRY_CELL, ENTRY_MAILBOX, ENTRY_ATTENDED, ENTRY_END };
struct entry {
  PyObject *watched; /* Reference, Hold of a mailbox, Writer or Reader: kept alive */
  PyObject *note;
  uint32_t next_free;
  uint8_t kind;
};
struct board {
  PyObject_HEAD
  struct session *session;
  struct entry *entries;
  uint32_t room, first_free, fresh, pending, ends; /* pending: cells watched; ends: of channels */
  uint8_t index;
  bool open;
};
#define NO_TOKEN UINT32_MAX

static struct board *live_board(PyObject *object) {
  struct board *self = (struct board *)object;
  if (self->open && hot_live(self->session) && self->session->pid) return self;
  PyErr_SetString(PyExc_RuntimeError, "this notice board is closed");
  return NULL;
}

static uint32_t entry_take(struct board *self) {
  if (self->first_free != NO_TOKEN) {
    uint32_t token = self->first_free;
    self->first_free = self->entries[token].next_free;
    return token;
  }
  if (self->fresh == AF_BOARD_TOKENS) return NO_TOKEN;
  if (self->fresh == self->room) {
    uint32_t room = self->room ? self->room * 2 : 64;
    struct entry *larger = realloc(self->entries, room * sizeof *larger);
    if (!larger) return NO_TOKEN;
    self->entries = larger;
    self->room = room;
  }
  return self->fresh++;
}

static void entry_set(struct board *self, uint32_t token, enum entry_kind kind, PyObject *watched, PyObject *note) {
  Py_INCREF(watched), Py_INCREF(note);
  self->entries[token] = (struct entry){watched, note, NO_TOKEN, (uint8_t)kind};
}

/* Ends an entry; the note passes to the caller. */
static PyObject *entry_end(struct board *self, uint32_t token) {
  struct entry entry = self->entries[token];
  self->entries[token] = (struct entry){.next_free = self->first_free};
  self->first_free = token;
  if (entry.kind == ENTRY_CELL) self->pending--;
  if (entry.kind == ENTRY_END) self->ends--;
  Py_DECREF(entry.watched);
  return entry.note;
}

static af_watch watch_of(const struct board *self, uint32_t token) {
  const struct af_client *client = &self->session->client;
  return af_watch_make(client->slot_index, client->epoch, self->index, token);
}

/* watch(reference, note) -> token, 0: done already, -1: no token left, and not done (look yourself) */
static PyObject *board_watch(PyObject *object, PyObject *const *args, Py_ssize_t count) {
  struct board *self = live_board(object);
  if (!self) return NULL;
  if (count != 2) { PyErr_SetString(PyExc_TypeError, "watch(reference, note)"); return NULL; }
  struct hold *hold = hot_hold_of(args[0], AF_KIND_CELL);
  if (!hold) return NULL;
  uint32_t token = entry_take(self);
  if (token == NO_TOKEN) return PyLong_FromLong(af_cell_is_done(&self->session->client, hold->block) ? 0 : -1);
  entry_set(self, token, ENTRY_CELL, args[0], args[1]);
  self->pending++;
  int status = af_cell_watch(&self->session->client, hold->block, watch_of(self, token), &hold->watcher);
  if (status == AF_OK) return PyLong_FromUnsignedLong(token);
  Py_DECREF(entry_end(self, token));
  return PyLong_FromLong(status == AF_EMPTY ? 0 : -1);
}

static PyObject *board_unwatch(PyObject *object, PyObject *number) {
  struct board *self = live_board(object);
  uint32_t token = self ? (uint32_t)PyLong_AsUnsignedLong(number) : 0;
  if (!self || PyErr_Occurred()) return NULL;
  if (token >= self->fresh || self->entries[token].kind != ENTRY_CELL) Py_RETURN_NONE; /* handed out already */
  struct hold *hold = (struct hold *)self->entries[token].watched;
  af_cell_unwatch(&self->session->client, hold->block, watch_of(self, token), &hold->watcher);
  Py_DECREF(entry_end(self, token));
  Py_RETURN_NONE;
}

static PyObject *watch_mailbox(PyObject *object, PyObject *args, enum entry_kind kind) {
  struct board *self = live_board(object);
  PyObject *mailbox, *note;
  if (!self || !PyArg_ParseTuple(args, "OO", &mailbox, &note)) return NULL;
  struct hold *hold = hot_hold_of(mailbox, AF_KIND_MAILBOX);
  if (!hold) return NULL;
  uint32_t token = entry_take(self);
  if (token == NO_TOKEN) { PyErr_SetString(hot.full, "tokens"); return NULL; }
  entry_set(self, token, kind, mailbox, note);
  struct af_mailbox *box = AF_AT(&self->session->client, struct af_mailbox, hold->block);
  atomic_store(kind == ENTRY_MAILBOX ? &box->listener : &box->node_bell, watch_of(self, token));
  if (af_mailbox_has_mail(&self->session->client, hold->block)) af_ring(&self->session->client, watch_of(self, token));
  return PyLong_FromUnsignedLong(token);
}

static PyObject *board_listen(PyObject *object, PyObject *args) { return watch_mailbox(object, args, ENTRY_MAILBOX); }
static PyObject *board_attend(PyObject *object, PyObject *args) { return watch_mailbox(object, args, ENTRY_ATTENDED); }

static PyObject *board_watch_end(PyObject *object, PyObject *args) {
  struct board *self = live_board(object);
  PyObject *watched, *note;
  if (!self || !PyArg_ParseTuple(args, "OO", &watched, &note)) return NULL;
  struct end *end = hot_end_of(watched);
  if (!end) return NULL;
  uint32_t token = entry_take(self);
  if (token == NO_TOKEN) { PyErr_SetString(hot.full, "tokens"); return NULL; }
  entry_set(self, token, ENTRY_END, watched, note);
  self->ends++;
  hot_end_watch(end, watch_of(self, token));
  if (hot_end_look(end) != AF_EMPTY) af_ring(&self->session->client, watch_of(self, token));
  return PyLong_FromUnsignedLong(token);
}

/* rearm(token): an attended mailbox rings again at the next push that finds no reader. True: it has mail, whose push may
 * have come too early for that. */
static PyObject *board_rearm(PyObject *object, PyObject *number) {
  struct board *self = live_board(object);
  uint32_t token = self ? (uint32_t)PyLong_AsUnsignedLong(number) : 0;
  if (!self || PyErr_Occurred()) return NULL;
  if (token >= self->fresh || self->entries[token].kind != ENTRY_ATTENDED) Py_RETURN_FALSE;
  struct hold *hold = (struct hold *)self->entries[token].watched;
  atomic_store(&AF_AT(&self->session->client, struct af_mailbox, hold->block)->node_bell, watch_of(self, token));
  return PyBool_FromLong(af_mailbox_has_mail(&self->session->client, hold->block));
}

/* Of an entry that stays: nobody rings for it any more. */
static void entry_quiet(struct board *self, struct entry *entry) {
  if (entry->kind == ENTRY_END) { hot_end_watch((struct end *)entry->watched, 0); return; }
  struct af_mailbox *box = AF_AT(&self->session->client, struct af_mailbox, ((struct hold *)entry->watched)->block);
  atomic_store(entry->kind == ENTRY_MAILBOX ? &box->listener : &box->node_bell, 0);
}

/* forget(token): no longer listens to or attends a mailbox, or watches an end. */
static PyObject *board_forget(PyObject *object, PyObject *number) {
  struct board *self = live_board(object);
  uint32_t token = self ? (uint32_t)PyLong_AsUnsignedLong(number) : 0;
  if (!self || PyErr_Occurred()) return NULL;
  if (token >= self->fresh) Py_RETURN_NONE;
  struct entry *entry = &self->entries[token];
  if (entry->kind != ENTRY_MAILBOX && entry->kind != ENTRY_ATTENDED && entry->kind != ENTRY_END) Py_RETURN_NONE;
  entry_quiet(self, entry);
  Py_DECREF(entry_end(self, token));
  Py_RETURN_NONE;
}

/* The note of a rung token, or NULL when there is nothing to hand out. */
static PyObject *note_for(struct board *self, uint32_t token) {
  if (token >= self->fresh) return NULL;
  struct entry *entry = &self->entries[token];
  switch ((enum entry_kind)entry->kind) {
    case ENTRY_CELL:
      if (!af_cell_is_done(&self->session->client, ((struct hold *)entry->watched)->block)) return NULL;
      return entry_end(self, token);
    case ENTRY_END:
      if (hot_end_look((struct end *)entry->watched) == AF_EMPTY) return NULL;
      __attribute__((fallthrough));
    case ENTRY_MAILBOX:
    case ENTRY_ATTENDED: Py_INCREF(entry->note); return entry->note;
    case ENTRY_FREE: break;
  }
  return NULL;
}

static int hand_out(struct board *self, uint32_t token, PyObject *notes) {
  PyObject *note = note_for(self, token);
  if (!note) return 0;
  int status = PyList_Append(notes, note);
  Py_DECREF(note);
  return status;
}

static int hand_out_done(struct board *self, PyObject *notes) {
  for (uint32_t token = 1; token < self->fresh; token++) {
    struct entry *entry = &self->entries[token];
    bool mail = (entry->kind == ENTRY_MAILBOX || entry->kind == ENTRY_ATTENDED) &&
                af_mailbox_has_mail(&self->session->client, ((struct hold *)entry->watched)->block);
    if ((entry->kind == ENTRY_CELL || entry->kind == ENTRY_END || mail) && hand_out(self, token, notes) < 0) return -1;
  }
  return 0;
}

/* poll(thorough=False) -> notes */
static PyObject *board_poll(PyObject *object, PyObject *const *args, Py_ssize_t count) {
  struct board *self = live_board(object);
  if (!self) return NULL;
  bool thorough = count > 0 && PyObject_IsTrue(args[0]) == 1;
  uint32_t tokens[POLL_MOST];
  uint32_t taken = af_board_take(&self->session->client, self->index, tokens, POLL_MOST, thorough);
  PyObject *notes = PyList_New(0);
  for (uint32_t i = 0; notes && i < taken; i++)
    if (hand_out(self, tokens[i], notes) < 0) Py_CLEAR(notes);
  if (notes && thorough && hand_out_done(self, notes) < 0) Py_CLEAR(notes);
  return notes;
}

/* The loop goes to sleep: so does each end that it waits for. */
static void ends_sleep(struct board *self) {
  uint32_t left = self->ends;
  for (uint32_t token = 1; left > 0 && token < self->fresh; token++) {
    if (self->entries[token].kind != ENTRY_END) continue;
    ((struct end *)self->entries[token].watched)->sleeps++;
    left--;
  }
}

static PyObject *board_arm(PyObject *object, PyObject *unused) {
  (void)unused;
  struct board *self = live_board(object);
  if (!self) return NULL;
  bool armed = af_board_arm(&self->session->client, self->index, AF_SLEEP_LOOP);
  if (armed) ends_sleep(self);
  return PyBool_FromLong(armed);
}

static PyObject *board_disarm(PyObject *object, PyObject *unused) {
  (void)unused;
  struct board *self = live_board(object);
  if (!self) return NULL;
  af_board_disarm(&self->session->client, self->index);
  Py_RETURN_NONE;
}

static void board_end(struct board *self) {
  if (!self->open) return;
  self->open = false;
  for (uint32_t token = 1; token < self->fresh; token++) {
    struct entry *entry = &self->entries[token];
    if (entry->kind == ENTRY_FREE) continue;
    struct hold *hold = (struct hold *)entry->watched;
    if (entry->kind == ENTRY_CELL && hot_live(self->session))
      af_cell_unwatch(&self->session->client, hold->block, watch_of(self, token), &hold->watcher);
    if (entry->kind == ENTRY_END && hot_live(self->session)) entry_quiet(self, entry);
    Py_DECREF(entry_end(self, token));
  }
  if (hot_live(self->session)) af_board_destroy(&self->session->client, self->index);
}

static PyObject *board_close(PyObject *object, PyObject *unused) {
  (void)unused;
  board_end((struct board *)object);
  Py_RETURN_NONE;
}

static PyObject *board_get_address(PyObject *object, void *unused) {
  (void)unused;
  struct board *self = live_board(object);
  if (!self) return NULL;
  char name[101] = {0};
  const struct af_client *client = &self->session->client;
  int length = af_board_address(client, client->slot_index, client->epoch, self->index, name + 1);
  return PyBytes_FromStringAndSize(name, length + 1);
}

static PyObject *board_get_pending(PyObject *object, void *unused) {
  (void)unused;
  return PyLong_FromUnsignedLong(((struct board *)object)->pending);
}

static PyObject *board_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  (void)args, (void)kwargs;
  struct session *session = hot_session();
  struct board *self = session ? (struct board *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0) : NULL;
  if (!self) return NULL;
  af_off unused;
  int status = af_board_create(&session->client, &self->index, &unused);
  if (status != AF_OK) {
    Py_DECREF(self);
    return hot_raise(status, "boards");
  }
  self->session = session;
  session->users++;
  self->open = true;
  self->first_free = NO_TOKEN;
  self->fresh = 1; /* token 0 means "done already" */
  self->room = 64;
  if (!(self->entries = calloc(self->room, sizeof *self->entries))) { Py_DECREF(self); return PyErr_NoMemory(); }
  return (PyObject *)self;
}

static void board_dealloc(PyObject *object) {
  struct board *self = (struct board *)object;
  PyTypeObject *type = Py_TYPE(object);
  if (self->session) {
    board_end(self);
    session_release(self->session);
  }
  free(self->entries);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"watch", (PyCFunction)(void (*)(void))board_watch, METH_FASTCALL, NULL},
    {"unwatch", board_unwatch, METH_O, NULL},
    {"listen", board_listen, METH_VARARGS, NULL},
    {"attend", board_attend, METH_VARARGS, NULL},
    {"rearm", board_rearm, METH_O, NULL},
    {"watch_end", board_watch_end, METH_VARARGS, NULL},
    {"forget", board_forget, METH_O, NULL},
    {"poll", (PyCFunction)(void (*)(void))board_poll, METH_FASTCALL, NULL},
    {"arm", board_arm, METH_NOARGS, NULL},
    {"disarm", board_disarm, METH_NOARGS, NULL},
    {"close", board_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef getset[] = {{"address", board_get_address, NULL, NULL, NULL},
                               {"pending", board_get_pending, NULL, NULL, NULL},
                               {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot slots[] = {{Py_tp_new, board_new}, {Py_tp_dealloc, board_dealloc}, {Py_tp_methods, methods},
                              {Py_tp_getset, getset}, {Py_tp_doc, "An event loop's notice board."}, {0, NULL}};
static PyType_Spec spec = {"actorflow._hot.Board", sizeof(struct board), 0, Py_TPFLAGS_DEFAULT, slots};

int hot_add_board(PyObject *module) {
  hot.board_type = (PyTypeObject *)PyType_FromSpec(&spec);
  return hot.board_type && PyModule_AddObjectRef(module, "Board", (PyObject *)hot.board_type) == 0 ? 0 : -1;
}
