/* af.h - the words that every part of the core shares: offsets, status codes, block header, client.
 *
 * Rules of the core
 *  - Offsets, never pointers, in shared memory. 0 is "none". AF_AT(client, off) turns one into a pointer.
 *  - No static or global mutable state: everything private to a process hangs on `struct af_client`. The core is
 *    compiled into several extension modules of one process, which share one client by its address.
 *  - A client's private state and its single-writer fields are changed by one thread at a time. In Python that is
 *    whoever holds the GIL; the functions marked [no GIL] touch neither and may run beside it.
 *  - Counts err high, never low: a hold is counted before it is recorded, and forgotten before it is discounted. What
 *    a process killed in between leaves is a count that is too high; the slot's `op` says that it died inside an
 *    operation, and the coroner then recounts (audit.h).
 *  - Hints (sleepers, spinner, bells, boards) may be lost with a process; every sleep is timed (100 ms at most; an idle reader's 1 s) and
 *    looks again, so a lost hint costs time, never an answer.
 *  - What is read from shared memory is bounds-checked before it is followed (af_block_find).
 */
#ifndef AF_H
#define AF_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AF_VERSION 2u            /* of the segment's layout; another version is refused by name */
#define AF_MAGIC 0x3130776f6c666361ull /* "acflow01" */
#define AF_LINE 64u
#define AF_PAGE 4096u
#define AF_SPAN (64u * 1024u)    /* unit of the message heap */
#define AF_SLEEP_MS 100          /* the longest sleep without a look */
#define AF_IDLE_SLEEP_NS 1000000000ull /* that of a reader that has had no mail for a while */

typedef uint64_t af_off;

enum af_status {
  AF_OK = 0,
  AF_EMPTY = -1,       /* nothing there now */
  AF_FULL = -2,        /* budget or credit is used up */
  AF_CLOSED = -3,      /* mailbox is closed */
  AF_STALE = -4,       /* block of that generation is gone */
  AF_BAD = -5,         /* not a valid offset, kind or layout: garbage */
  AF_TIMEOUT = -6,
  AF_INTERRUPTED = -7, /* a signal arrived: let the caller run its handlers, then call again */
  AF_DEAD = -8,        /* node is gone */
  AF_SYSTEM = -9,      /* see errno */
  AF_FENCED = -10,     /* this process was declared dead; its work was given away */
  AF_TOO_LARGE = -11,  /* would not fit even in an empty store */
  AF_BUSY = -12,       /* not now: held by another */
};

enum af_kind {
  AF_KIND_FREE = 0,
  AF_KIND_CELL,     /* a call and its result, or a value */
  AF_KIND_BYTES,    /* a value's bytes that did not fit into their cell; owns the refs in it */
  AF_KIND_OBJECT,   /* a large value, in the object store; owns the refs in it */
  AF_KIND_MAILBOX,
  AF_KIND_LANES,    /* a further page of a mailbox's lane table */
  AF_KIND_LANE,
  AF_KIND_CHUNK,    /* a piece of a lane's queue */
  AF_KIND_ACTOR,    /* what handles hold; owns the mailbox */
  AF_KIND_FOLLOWER, /* a watcher of a cell that has one already */
  AF_KIND_BOARD,    /* a waiter's notice board */
  AF_KIND_HOLDS,    /* a piece of a slot's hold table */
  AF_KIND_CHANNEL,  /* slots from one writer to some readers */
  AF_KIND_SPILLED,  /* a large value that lies on disk: spill.h */
  AF_KIND_LINEAGE,  /* how a large value is made again: lineage.h */
  AF_KIND_COUNT,
};

/* Header of every block, at its first byte; blocks are 64-byte aligned.
 * Who writes: `count` anyone who holds the block (atomic add); at 0 the one who dropped it frees it, alone.
 * The other fields: the allocator before the block is visible; `next` the owner of the list that the block is in. */
struct af_block {
  _Atomic uint32_t count;
  uint32_t generation; /* from the span or extent; (offset, generation) names the block for ever */
  uint8_t kind;        /* enum af_kind; AF_KIND_FREE when on a free list */
  uint8_t flags;       /* kind's own */
  uint16_t refs;       /* unused by the core's own kinds, 0 */
  uint32_t capacity;   /* bytes of the block, this header included */
  _Atomic af_off next; /* link: free list, remote-free list, or a cell's follower list */
};
_Static_assert(sizeof(struct af_block) == 24 || sizeof(struct af_block) == 32, "block header");

/* What made a large value, for people (ledger.h): the code, by name (not counted), and how. */
struct af_maker {
  af_off code;           /* the cell of the function, or the mailbox of the actor, whose code it was; 0: a driver's */
  uint32_t generation;
  uint16_t method, how;  /* enum af_made */
};
enum af_made { AF_MADE_UNKNOWN = 0, AF_MADE_PUT, AF_MADE_RESULT };

struct af_header;
struct af_slot;

/* What a process knows of the segment; private to it. */
#define AF_CLASSES 20
struct af_arena {       /* one size class of this process' arena */
  int32_t span;         /* the span that is allocated from, one of a ring through af_span.next_owned; -1: none */
  uint32_t owned;       /* spans in the ring */
};
struct af_client {
  uint8_t *base;        /* read and write */
  const uint8_t *view;  /* second mapping, read only: what user views point into */
  uint64_t size_bytes;
  struct af_header *header;
  struct af_slot *slot;
  uint32_t epoch;
  uint16_t slot_index;
  uint16_t reserved;
  int32_t memfd;
  int32_t node_pidfd;   /* -1 in the node itself */
  int32_t wake_socket;  /* unbound AF_UNIX datagram socket, non-blocking; wakes loops */
  uint32_t spin_us;     /* the longest spin before a sleep; 0: never spin */
  struct af_arena arenas[AF_CLASSES];
  /* hold table: see slot.h */
  af_off *hold_chunks;
  uint32_t hold_chunk_count, hold_chunk_capacity;
  uint32_t hold_fresh, hold_capacity; /* indices from hold_fresh on were never used */
  uint32_t *hold_free;
  uint32_t hold_free_count, hold_free_capacity;
  /* extents this process has mapped for writing: one bit per 2 MiB of the object heap */
  uint64_t *populated;
  /* hints of this process' spinning threads: see crowd.h */
  _Atomic uint32_t long_yields, crowded_ms, crowded_looks;
  _Atomic uint64_t crowded_until_ns, crowd_seen_ns, long_yield_ns;
  uint64_t random;      /* xorshift state, for where to look first */
  uint64_t calls;       /* calls made by this client; the call number */
  uint64_t waits;       /* waits that were said to others: deadlock.h */
  uint64_t calls_ended; /* of a shared mailbox, and threads that wait inside the one that runs: af_mailbox_block */
  uint32_t waiting_inside;
  /* tests only: end or stop this process at a numbered point (AF_POINTS builds) */
  int32_t point, point_signal, point_countdown;
};

#define AF_AT(client, type, off) ((type *)(void *)((client)->base + (off)))
#define AF_OFF(client, pointer) ((af_off)((const uint8_t *)(pointer) - (client)->base))

/* AF_POINT(client, n): a numbered point inside an operation, where tests kill or stop the process. Numbers are unique
 * over the core; tests run every number up to AF_POINT_LAST and fail if one is never reached. */
#ifdef AF_POINTS
void af_point(struct af_client *client, int number);
#define AF_POINT(client, number) af_point((client), (number))
#else
#define AF_POINT(client, number) ((void)(client))
#endif

/* A watch: where to ring when something happens; fits a word so that it can be placed by one compare-and-swap.
 * 0 is none. [63] set, [62:48] slot, [47:32] low bits of the slot's epoch, [31:24] board, [23:0] token. */
typedef uint64_t af_watch;
static inline af_watch af_watch_make(uint16_t slot, uint32_t epoch, uint8_t board, uint32_t token) {
  return (1ull << 63) | ((uint64_t)(slot & 0x7fff) << 48) | ((uint64_t)(epoch & 0xffff) << 32) |
         ((uint64_t)board << 24) | (token & 0xffffff);
}

uint64_t af_now_ns(void); /* CLOCK_MONOTONIC */
static inline void af_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}
#endif
