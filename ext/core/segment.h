/* segment.h - one sealed memfd that holds everything a node's processes share.
 *
 * Layout: header | slot table | span table | extent table | message heap (spans) | object heap (pages).
 * Guarantees: the memfd is sealed against shrinking and growing (a client cannot fault by another's truncate), never
 * in a file system, excluded from core dumps; each process maps it twice: once to write, once read only for user views.
 * Assumes: Linux with memfd_create, futex, pidfd; all processes of one uid.
 * A crash leaves: nothing. The kernel drops the memory with the last process that has it mapped or open. */
#ifndef AF_SEGMENT_H
#define AF_SEGMENT_H
#include "af.h"

struct af_layout { /* what create is asked for; bytes are rounded up to whole spans and pages */
  uint32_t slot_count;           /* at most 32767 */
  uint64_t message_bytes;        /* message heap, control reserve included */
  uint64_t control_reserve_bytes;/* part of it that messages cannot take */
  uint64_t object_bytes;
};

enum af_node_state { AF_NODE_STARTING = 0, AF_NODE_RUNNING, AF_NODE_STOPPING, AF_NODE_DEAD };

struct af_header { /* written by the node at creation; the atomics as said */
  uint64_t magic;
  uint32_t version;
  uint32_t header_bytes;
  uint64_t size_bytes;
  uint8_t node_id[16];
  uint32_t node_pid;
  uint32_t slot_count;
  uint32_t span_count, control_spans;
  uint64_t page_count;
  af_off slots, spans, extents, heap, objects; /* where each part starts */
  _Atomic uint32_t node_state;                 /* node */
  _Atomic uint32_t audits;                     /* coroner: recounts done */
  af_off node_mailbox;                         /* node, before the first attach */
  /* message heap; who: any allocator, atomic add. Crash: off by one span until the next audit. */
  _Alignas(AF_LINE) _Atomic uint32_t spans_used;
  _Atomic uint32_t span_hint;                  /* hint: where to look for a free span */
  _Atomic uint32_t span_top;                   /* spans from here on were never taken: walks end here. Only grows */
  _Atomic uint32_t spans_passed;               /* spans that leavers passed to the node since its last trim */
  /* 0, or the process (epoch << 32 | slot + 1) that recounts: others begin no operation meanwhile (af_op_begin). Set
   * by it by CAS; cleared by it, or by anyone who has waited too long. Only a courtesy: the recount proves by itself
   * that nobody moved. */
  _Alignas(AF_LINE) _Atomic uint64_t frozen;
  /* object heap, see extent.h; all under extent_lock */
  _Alignas(AF_LINE) _Atomic uint64_t extent_lock; /* 0 or (epoch << 32 | slot + 1) */
  _Atomic uint64_t extent_locked_ns;           /* when, or a little before; for the node's watch over stopped holders */
  _Atomic uint64_t object_bytes_used;
  _Atomic af_off extent_returned;              /* objects given back while the lock was taken; anyone pushes, the lock's
                                                * holder takes all */
  uint32_t extent_generation;
  _Atomic uint32_t extent_dirty;               /* 1 while bins change; a holder that finds it set rebuilds them */
  uint64_t wilderness_page;                    /* pages from here on were never used */
  uint32_t bins[40];                           /* first page + 1 of a free extent of 2^i.. pages; 0: none */
  /* spilling, see spill.h; hints but for spill_returned */
  _Alignas(AF_LINE) _Atomic uint64_t spill_watch; /* node, at its start: where it is rung; 0: nothing is spilled */
  _Atomic af_off spill_returned;               /* spilled values that nobody counts; anyone pushes, the node takes all */
  _Atomic uint64_t room_wanted;                /* the most that one who waits wants; raised by them, taken by the node */
  _Atomic uint32_t room_waited;                /* 1: somebody waits (set by it, cleared by the node once that is over) */
  _Atomic uint32_t room_bell;                  /* futex: goes up when an object was freed while somebody waits */
  _Atomic uint32_t room_wait_ms;               /* node: how long without any progress one waits */
  _Atomic uint32_t spill_failures;             /* node: how often it could not write */
  _Atomic uint64_t spill_free_bytes;           /* node: of the disk, at the last failure */
  char spill_path[256];                        /* node: where, at the last failure */
  /* lineage, see lineage.h */
  _Atomic uint64_t lineage_limit;              /* node, at its start: bytes; 0: none is kept */
  _Atomic uint64_t lineage_bytes;              /* atomic add; a crash leaves it off by one block, and the node sets it right */
  _Atomic uint64_t lineage_made;               /* atomic add: their ages */
  _Atomic af_off spill_asked[64];              /* AF_SPILL_ASKED places: spilled values that are wanted */
};

/* memfd_create, to be sealed and not executed where the kernel knows that; -1 with errno. */
int af_memfd_create(const char *name);
/* Creates, seals and maps; fills *client as the node's own (slot 0, live). errno on AF_SYSTEM. */
int af_segment_create(struct af_client *client, const struct af_layout *layout, const uint8_t node_id[16]);
/* Maps the memfd and checks magic, version (AF_STALE when another), size and seals (AF_BAD). Slot is not yet taken.
 * The memfd is the client's on AF_OK, else still the caller's. */
int af_segment_map(struct af_client *client, int memfd);
/* Unmaps and frees private memory; the memfd is closed. Views must be gone. */
void af_segment_unmap(struct af_client *client);
/* Gives a mapped client its wake socket, a new random state and an empty memory of populated pages, in place of those it
 * has: part of create and map, and of a fork's child. */
int af_segment_equip(struct af_client *client);
static inline struct af_header *af_header_of(const struct af_client *client) { return client->header; }
#endif
