/* hot_spill.c - waits for the object store: for room in it, and for a value that lies on disk.
 *
 * Both ask the node (ext/core/spill.h) and sleep on a futex without the GIL, at most 100 ms at a time, as every wait here
 * does. A task that waits keeps its CPU: another one started meanwhile would want room, too, and hold some. Only where the
 * value is made again by a call it gives it back: that call needs one. */
#include "hot.h"

#define SLEEP_NS ((uint64_t)AF_SLEEP_MS * 1000000u)
#define ROOM_TURNS 20 /* a writer whom others overtake waits at most so many times as long as one without any progress */

/* Raises what the configured function makes of a failure: full, disk. */
static int storage_error(struct af_client *client, const char *kind, uint64_t bytes) {
  const struct af_header *header = client->header;
  PyObject *error = NULL;
  if (hot.storage_error)
    error = PyObject_CallFunction(hot.storage_error, "sKKKsK", kind, (unsigned long long)bytes,
                                  (unsigned long long)atomic_load(&header->object_bytes_used),
                                  (unsigned long long)header->page_count * AF_PAGE, header->spill_path,
                                  (unsigned long long)atomic_load(&header->spill_free_bytes));
  else PyErr_Format(PyExc_RuntimeError, "object store: %s", kind);
  if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
  Py_XDECREF(error);
  return -1;
}

/* One sleep on a futex of the segment. -1: an exception is set. */
static int sleep_on(struct session *session, const _Atomic uint32_t *word, uint32_t seen, uint64_t most_ns) {
  int status;
  session_enter_wait(session);
  Py_BEGIN_ALLOW_THREADS
  status = af_futex_wait(word, seen, most_ns < SLEEP_NS ? most_ns : SLEEP_NS);
  Py_END_ALLOW_THREADS
  if (!session_leave_wait(session)) return -1;
  return hot_after_sleep(session, status);
}

static int room_sleep(struct session *session, struct hot_room *room) {
  struct af_header *header = session->client.header;
  if (sleep_on(session, &header->room_bell, room->bell, SLEEP_NS) < 0) return -1;
  uint32_t bell = atomic_load(&header->room_bell);
  if (bell != room->bell) room->since_ns = af_now_ns();
  room->bell = bell;
  return 0;
}

int hot_wait_room(struct session *session, uint64_t bytes, struct hot_room *room) {
  struct af_header *header = session->client.header;
  uint64_t limit_ns = (uint64_t)atomic_load(&header->room_wait_ms) * 1000000u, now = af_now_ns();
  if (limit_ns == 0 || session->client.slot_index == 0) return 0;
  if (room->begin_ns == 0) { /* asks, and looks once more before it sleeps */
    *room = (struct hot_room){now, now, atomic_load(&header->room_bell), atomic_load(&header->spill_failures)};
    af_room_ask(&session->client, bytes);
    return 1;
  }
  if (atomic_load(&header->spill_failures) != room->failures) return storage_error(&session->client, "disk", bytes);
  if (now - room->since_ns > limit_ns || now - room->begin_ns > ROOM_TURNS * limit_ns) return 0;
  if (room_sleep(session, room) < 0) return -1;
  af_room_ask(&session->client, bytes);
  return 1;
}

/* What the node has left there for a value that is lost. */
static int lost_error(struct session *session, const struct af_spilled *of) {
  af_off block = atomic_load_explicit(&of->error, memory_order_acquire);
  const struct af_object *object = AF_AT(&session->client, struct af_object, block);
  const char *data = (const char *)session->client.base + block + object->pickle_offset;
  PyObject *encoded = PyBytes_FromStringAndSize(data, (Py_ssize_t)object->pickle_bytes);
  PyObject *error = encoded ? PyObject_CallFunctionObjArgs(hot.decode_error, encoded, NULL) : NULL;
  if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
  Py_XDECREF(error);
  Py_XDECREF(encoded);
  return -1;
}

/* One sleep; once its call runs again the CPU is given back, for the whole wait. */
static int restored_sleep(struct session *session, struct af_spilled *of, uint32_t turn, uint64_t most_ns, uint64_t *inside) {
  if (*inside == 0 && atomic_load_explicit(&of->rebuilding, memory_order_acquire))
    *inside = af_mailbox_block(&session->client);
  return sleep_on(session, &of->turn, turn, most_ns);
}

/* Until the node has brought it back, or could not, or the time is over. */
static int restored_wait(struct session *session, af_off spilled, uint64_t deadline_ns) {
  struct af_client *client = &session->client;
  struct af_spilled *of = AF_AT(client, struct af_spilled, spilled);
  uint32_t turn = atomic_load(&of->turn);
  uint64_t inside = 0;
  int status = 0;
  if (af_value_word(client, of->cell) != (spilled | AF_VALUE_SPILLED)) return 0;
  while (status == 0 && atomic_load(&of->turn) == turn) {
    af_spill_ask(client, spilled); /* again after each sleep: a ring may be lost */
    uint64_t now = af_now_ns();
    status = now < deadline_ns ? restored_sleep(session, of, turn, deadline_ns - now, &inside) : -1;
    if (now >= deadline_ns) hot_raise(AF_TIMEOUT, "the value was not back from disk in time");
  }
  if (!hot_live(session)) return -1;
  af_mailbox_unblock(client, inside);
  if (status < 0) return -1;
  switch (atomic_load(&of->failure)) {
    case AF_SPILL_NONE: return 0;
    case AF_SPILL_NO_ROOM: return storage_error(client, "full", of->bytes);
    default: return lost_error(session, of);
  }
}

int hot_value_open(struct session *session, af_off cell, struct hot_value *value, uint64_t deadline_ns) {
  struct af_client *client = &session->client;
  uint32_t index;
  bool is_spilled;
  value->pin = NULL;
  value->block = af_value_word(client, cell);
  if (!af_value_moves(client, value->block)) return 0;
  for (;;) {
    int status = af_value_hold(client, cell, &value->block, &is_spilled, &index);
    if (status != AF_OK) { hot_raise(status, "messages: no room in the hold table"); return -1; }
    if (!is_spilled) break;
    if (client->slot_index == 0) { /* the node would wait for itself */
      af_hold_drop(client, index);
      hot_raise(AF_BUSY, "a value on disk, wanted by the node");
      return -1;
    }
    status = restored_wait(session, value->block, deadline_ns);
    if (!hot_live(session)) return -1; /* detached: the holds are gone */
    af_hold_drop(client, index);
    if (status < 0) return -1;
  }
  value->pin = hot_pin_recorded(session, value->block, index);
  return value->pin ? 0 : -1;
}
