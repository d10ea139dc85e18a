/* hot.h - what the files of the extension module actorflow._hot share.
 *
 * Purpose: the way of a call from Python, with the GIL kept for everything that takes nanoseconds. The GIL is the lock
 * on the client's private state and on every struct here; only waits, spins over 20 us and copies over 64 KiB release it,
 * and those touch neither.
 * Assumes: one interpreter a process, CPython's limited API (3.11).
 * A session is one attachment to a node. Python objects that outlive it keep it allocated, and find it detached. */
#ifndef HOT_H
#define HOT_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core/audit.h"
#include "core/block.h"
#include "core/cell.h"
#include "core/copy.h"
#include "core/channel.h"
#include "core/crowd.h"
#include "core/deadlock.h"
#include "core/extent.h"
#include "core/heap.h"
#include "core/mailbox.h"
#include "core/points.h"
#include "core/segment.h"
#include "core/slot.h"
#include "core/spill.h"
#include "core/stream.h"
#include "core/wait.h"

#define HOT_INLINE_BYTES (100u * 1024u) /* larger values go to the object store */
#define HOT_CELL_BYTES 2048u            /* larger arguments get a block of their own, freed with the call's end */
#define HOT_AWAITS_IN_A_ROW 16u         /* that find their result there; then the loop's other tasks have a turn */
#define HOT_SPIN_GIL_NS 20000ull        /* the longest spin with the GIL kept */
#define HOT_COPY_GIL_BYTES 65536u       /* larger copies release the GIL */
#define HOT_RESERVE_BYTES 256u          /* room for a result in every call */
#define HOT_KEPT_RESERVE_BYTES 64u      /* at least so much of it behind arguments that are kept for another attempt */

enum hot_format { HOT_NONE = 0, HOT_PICKLE, HOT_PACKED, HOT_ERROR, HOT_RAW, HOT_END /* of a stream */ };
/* format of a call's arguments (struct af_cell.format) */
enum hot_arguments { HOT_ARGS_NONE = 0, HOT_ARGS_PICKLE, HOT_ARGS_BLOCK, HOT_ARGS_RAW };
/* A call's references, in order: arguments' cells | its mailbox | what the arguments refer to | the block with the
 * arguments (HOT_ARGS_BLOCK) | the function | return cells 2..n, or a
 * stream's two places. struct af_cell.flags says which of them are there. */
enum hot_cell_flag { HOT_CELL_FUNCTION = 1, HOT_CELL_MAILBOX = 2, HOT_CELL_KEYWORDS = 4, HOT_CELL_RETRY_ALL = 8,
                     HOT_CELL_RETRY_NONE = 16, /* these two: retry_exceptions of this call */
                     HOT_CELL_STREAM = 32, HOT_CELL_DYNAMIC = 64 };
/* What a call gives, as Python says it: a number of references; HOT_DYNAMIC: one, to a value that holds references to
 * the items of a generator; HOT_STREAM or less: a stream, HOT_STREAM - n with at most n items not taken (0: any). */
#define HOT_DYNAMIC (-1)
#define HOT_STREAM (-2)

struct target;
struct end;
struct session {
  struct af_client client;
  long users;          /* Python objects that point here, and the module */
  long pins;           /* live views into the object store */
  long waiting;        /* threads that sleep, copy or load there: the mapping and the holds stay for them */
  struct hold *pinned; /* list of views: detach keeps their holds */
  struct target *targets; /* list: detach closes their lanes */
  struct end *ends;       /* list: detach closes their channels */
  int8_t mail_doubt, reply_doubt; /* how often in a row spinning was in vain: see hot_wait.c */
  uint8_t idle_looks;  /* sleeps in a row in which no mail came */
  bool attached, shed; /* shed: after a detach only views have holds */
  int pid;
};

struct hold {
  PyObject_HEAD
  struct session *session;
  af_off block;
  uint32_t generation;
  uint32_t index;      /* in the hold table */
  struct af_watcher watcher; /* of a cell */
  struct hold *previous, *following; /* pins only: session->pinned */
};

struct hot {
  struct session *session;   /* NULL: detached */
  PyTypeObject *hold_type, *reference_type, *pin_type, *target_type, *call_type, *board_type, *argument_type,
      *stream_type, *end_type;
  PyTypeObject *made_type;   /* what calls return: reference_type or the subclass given to configure */
  PyObject *dumps, *decode_error, *unloadable, *storage_error; /* configured */
  PyObject *pickle_dumps, *pickle_loads, *protocol, *load_hold, *load_argument, *buffers_name, *empty;
  PyObject *closed, *full, *node_gone, *stale, *fenced, *store_full, *channel_closed, *circular;
};
extern struct hot hot; /* module state: one interpreter a process */

/* hot.c */
struct session *hot_session(void);               /* the current one; NULL and RuntimeError when detached */
struct af_client *hot_client(void);
void session_release(struct session *session);   /* users - 1 */
/* Around what gives up the GIL, a sleep or user code: the mapping stays. After it the session may be detached (false:
 * and the exception is set). session_leave: as that, for who has what it wants from the mapping. */
void session_enter_wait(struct session *session);
bool session_leave_wait(struct session *session);
void session_leave(struct session *session);
bool hot_check_live(const struct session *session); /* false: it was shut down, and the exception is set */
PyObject *hot_raise(int status, const char *what); /* exception for an af_status; NULL */
static inline bool hot_live(const struct session *session) { return session == hot.session && session->attached; }
int hot_deadline(PyObject *timeout, uint64_t *deadline_ns); /* None: UINT64_MAX */

/* hot_refs.c */
int hot_add_refs(PyObject *module);
/* A Python object for a block whose count the caller owns; the count passes to it (dropped on failure). */
PyObject *hot_hold_new(PyTypeObject *type, struct session *session, af_off block, uint32_t index);
/* Records a block that `status` says was made or counted; to be called inside the same operation. Its status. */
int hot_record(struct session *session, int status, af_off block, uint32_t *index);
PyObject *hot_hold_take(struct session *session, af_off block);   /* counts; type by kind */
struct hold *hot_hold_of(PyObject *object, uint8_t kind);         /* checked: live session, kind (0: any); or NULL */
PyObject *hot_holds_list(struct session *session, const af_off *blocks, uint32_t count); /* counts each */
PyObject *hot_pin(struct session *session, af_off block);         /* counts; buffer of the whole extent, read only */
PyObject *hot_pin_recorded(struct session *session, af_off block, uint32_t index); /* the hold passes to it */

/* hot_pack.c */
int hot_add_pack(PyObject *module);
PyObject *hot_reference_reduce(PyObject *self, PyObject *unused); /* Reference.__reduce__ */
PyObject *hot_hold_reduce(PyObject *self, PyObject *unused);      /* Hold.__reduce__ */
struct packed {         /* a value on its way into shared memory */
  enum hot_format format;
  PyObject *data;       /* bytes; NULL: none */
  PyObject *buffers;    /* list of buffer objects; NULL: none */
  Py_buffer *views;
  Py_ssize_t buffer_count;
  PyObject **held;      /* what the value refers to, in order */
  Py_ssize_t held_count, held_room;
  PyObject **arguments; /* top-level references of a call's arguments, in order */
  Py_ssize_t argument_count, argument_room;
  bool keywords;        /* of a call's arguments: data is of (args, kwargs), else of args */
  uint64_t bytes;       /* of data and buffers */
  bool refers;          /* its block may refer to buffers in the object store instead of copying them */
  struct packed *outer;
};
int hot_pack(struct packed *packed, PyObject *value);
int hot_pack_arguments(struct packed *packed, PyObject *args, PyObject *kwargs);
/* ERROR bytes, and a sequence of what is named in them (NULL: nothing). */
int hot_pack_error(struct packed *packed, PyObject *data, PyObject *holds);
void hot_packed_clear(struct packed *packed);
/* Publishes a packed value as the result of a cell. */
int hot_settle(struct session *session, af_off cell, struct packed *packed);
int hot_settle_bytes(struct session *session, af_off cell, const char *data, size_t bytes, enum hot_format format,
                     PyObject *const *held, Py_ssize_t held_count);

/* hot_block.c */
/* The value as an af_object in a new BYTES or OBJECT block (count 1, recorded under *index), with `held` as its
 * first references. */
int hot_pack_block(struct session *session, struct packed *packed, PyObject *const *held, Py_ssize_t held_count,
                   af_off *block, uint32_t *index);
/* Counts what `held` refers to into where[0..]; *count goes up with each. */
void hot_fill(struct af_client *client, af_off *where, uint32_t *count, PyObject *const *held, Py_ssize_t held_count);
/* The out-of-band buffers of a block, as a list: views that pin what they lie in (object store), or copies (a message's
 * block). `pin`: the block's, where there is one. */
PyObject *hot_block_buffers(struct session *session, af_off block, PyObject *pin);

/* hot_load.c */
int hot_add_load(PyObject *module);
/* The value of a done cell: a new reference, or NULL with the stored error raised. TimeoutError: it lies on disk, was
 * asked for, and is not back by then. */
PyObject *hot_load(struct session *session, af_off cell, uint64_t deadline_ns);
PyObject *hot_load_arguments(struct session *session, af_off cell);
PyObject *hot_load_error(struct session *session, af_off cell); /* exception object or None */
struct hot_value { /* where a done cell's value lies; it stays there while `pin` lives */
  af_off block;    /* 0: in the cell */
  PyObject *pin;   /* of an object; NULL */
};
/* Bytes of a RAW or ERROR value, where they lie. */
const uint8_t *hot_value_bytes(struct session *session, af_off cell, const struct hot_value *value, size_t *bytes,
                               const af_off **refs, uint32_t *count);

struct hot_stored { /* a value in shared memory, however it is owned */
  enum hot_format format;
  af_off block;      /* an af_object with it; 0: `data` is all */
  PyObject *pin;     /* of an object; NULL: one is made if it is needed */
  const uint8_t *data;
  size_t bytes;
  const af_off *references;
  uint32_t count;
};
/* The value, or NULL with the stored error raised. */
PyObject *hot_load_stored(struct session *session, const struct hot_stored *stored);
void hot_stored_block(struct session *session, af_off block, struct hot_stored *stored); /* hot_block.c: where it lies */

/* hot_spill.c */
/* Opens the value of a done cell; one on disk is brought back first, until the deadline (0: it is asked for, no more).
 * The caller drops the pin. -1: an exception. */
int hot_value_open(struct session *session, af_off cell, struct hot_value *value, uint64_t deadline_ns);
struct hot_room { uint64_t begin_ns, since_ns; uint32_t bell, failures; }; /* all 0 at first */
/* After a refusal for lack of room. 1: look again; 0: it is in vain; -1: an exception (the disk is full, too). */
int hot_wait_room(struct session *session, uint64_t bytes, struct hot_room *room);

/* hot_target.c */
int hot_add_target(PyObject *module);
/* This process' lane to the target's mailbox, if it has one; 0. */
void hot_close_lanes(struct session *session);
/* What calls made by this thread from now on are nested in: a call (by name; 0: none), `depth` deep. */
void hot_nest(uint16_t depth, af_off parent, uint32_t generation);
af_off hot_nested_in(void); /* that call; 0: none */

/* hot_channel.c */
int hot_add_channels(PyObject *module);
struct end {              /* of a channel: Writer or Reader */
  PyObject_HEAD
  struct session *session;
  PyObject *pin;          /* holds the channel, beyond a detach too; NULL: closed here */
  af_off channel;
  struct end *previous, *following; /* session->ends */
  uint64_t sleeps;        /* times that a thread or a loop that waited for it went to sleep */
  uint64_t position;      /* values that it wrote, or has used up */
  uint32_t number;        /* AF_CHANNEL_WRITER, or 1 + a reader's */
  uint32_t epoch;         /* of the process that claimed it, and its slot */
  uint16_t slot;
  int8_t doubt;           /* see hot_wait.c */
  uint8_t state;          /* of the channel when it was closed here */
  bool busy;              /* a thread writes, reads or waits */
  bool shut;              /* closed here, or not yet claimed */
};
/* The end, if it is one of this process and this session; closed here: AF_CLOSED from hot_end_look. */
struct end *hot_end_of(PyObject *object);
int hot_end_look(const struct end *end); /* as af_channel_look. [no GIL] while the end is busy */
void hot_end_watch(struct end *end, af_watch watch); /* as af_channel_watch */
/* Around its use by this thread. NULL: an exception (another thread uses it). */
struct end *hot_end_begin(PyObject *object);
void hot_end_finish(struct end *end);
void hot_close_ends(struct session *session);

/* hot_serve.c */
int hot_add_serve(PyObject *module);

/* hot_calls.c */
int hot_add_calls(PyObject *module);
struct call {            /* one that this process has started */
  PyObject_HEAD
  struct session *session;
  af_off cell;
  uint32_t generation, index;
  af_off function;       /* its name, kept: settling drops the call's references */
  uint32_t function_generation;
  uint32_t returns;      /* further return cells */
  uint16_t method, depth;
  uint64_t calls_seen;   /* of the client's calls, those in which its children were looked for */
  uint8_t flags;
  uint32_t attempt;
  int32_t retries;
  uint8_t told;          /* enum hot_told: its code was interrupted, and why */
};
enum hot_told { HOT_NOT_TOLD = 0, HOT_TOLD_BEFORE, HOT_TOLD_RUNNING, HOT_TOLD_LIMIT };
void hot_enter(struct call *call); /* NULL: nothing runs */
struct call *hot_live_call(PyObject *object);
af_off hot_call_cell(PyObject *call, struct session **session); /* 0: an exception is set */
PyObject *hot_call_new(struct session *session, af_off cell, uint32_t index); /* takes over the hold */

/* hot_cancel.c: runs calls so that they can be interrupted, and nothing else. */
int hot_add_cancel(PyObject *module);
PyObject *hot_children(struct session *session, af_off parent, uint32_t generation);
/* PyErr_CheckSignals in the midst of a wait: what is to be interrupted may be so here. */
int hot_check_signals(void);
/* Whether this thread is in a call beside which its process runs no other: while it sleeps, the process does nothing. */
bool hot_runs_alone(void);
/* hot_stream.c, hot_enter.c, hot_zygote.c, hot_wait.c, hot_board.c */
int hot_add_stream(PyObject *module);
int hot_add_enter(PyObject *module);
int hot_add_zygote(PyObject *module);
int hot_add_print(PyObject *module);
/* hot_moved.c */
int hot_add_moved(PyObject *module);
void hot_move_memory(void);    /* the zygote's writable memory into a file, once */
size_t hot_give_back(void);    /* a child's copies of it that are unchanged, once; how many pages */
int hot_add_waits(PyObject *module);
int hot_add_board(PyObject *module);
/* How long to spin: with the GIL, then without. `doubt` grows each time that it was in vain (begin_ns: when the wait began). */
uint64_t hot_spin_first(const struct af_client *client, int8_t doubt);
uint64_t hot_spin_rest(const struct af_client *client, int8_t doubt);
void hot_learn(const struct af_client *client, int8_t *doubt, uint64_t begin_ns);
void hot_learn_step(const struct af_client *client, int8_t *doubt, uint64_t begin_ns); /* in a graph */
/* How long to sleep now; 0: the time is over. hot_left: AF_SLEEP_MS at most. */
uint64_t hot_left_within(uint64_t deadline_ns, uint64_t limit_ns);
uint64_t hot_left(uint64_t deadline_ns);
/* 1: *call is the mailbox' next one (or NULL with an exception); 0: nothing now. */
int hot_take_now(struct hold *mailbox, PyObject **call);
bool hot_must_stop(struct hold *mailbox); /* this process is to leave, or nobody will call any more */
/* Waits until the cell is done: 0, or -1 with an exception. */
int hot_wait_cell(struct session *session, af_off cell, uint64_t deadline_ns);
/* After a timed sleep: 0 to go on, -1 with an exception (a signal handler raised or has shut down, the node is gone). */
int hot_after_sleep(struct session *session, int status);
#endif
