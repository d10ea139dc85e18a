/* extent.h - memory for large values: extents of 4 KiB pages that split and coalesce.
 *
 * Theory: one table entry a page; the entry of an extent's first page has its length and state in one word, so the
 * chain "first page, + length, + length ..." is whole at every instant: a split writes the remainder's entry before it
 * shrinks this one; a merge is one store. Bins (doubly linked through the entries) only find free extents fast; a lock
 * holder that died leaves extent_dirty set and the next one rebuilds them from the chain. Free extents that were used
 * before (warm) are preferred to the wilderness.
 * One lock (extent_lock: slot and epoch); large values only, so it is short beside the copy. The coroner clears the lock
 * of the dead; the node reports and kills a process that is stopped while it holds it. Freeing never waits for the
 * lock: an object is pushed on extent_returned, and whoever gets the lock next takes all of these.
 * Who writes: all under the lock. A crash leaves: the lock, extent_dirty, and at most one extent USED without a holder
 * (its block's count has no holder: the recount frees it). */
#ifndef AF_EXTENT_H
#define AF_EXTENT_H
#include "af.h"

#define AF_POPULATE_BYTES (2u * 1024u * 1024u) /* one bit of client->populated */
struct af_extent {            /* 16 bytes a page */
  _Atomic uint64_t word;      /* first page: [63:32] pages, [31:1] generation, [0] used; other pages: 0 */
  uint32_t previous, next;    /* first page of a free extent: bin links, first page + 1; 0: none. Last page of a free
                               * extent of 2 or more: `previous` is its first page + 1; believed only if that extent
                               * is free and ends here, so a stale one does no harm */
};
/* Allocates an object block of `bytes` (header included), count 1, kind AF_KIND_OBJECT. AF_FULL: no room now;
 * AF_TOO_LARGE: larger than the whole store; AF_BUSY: another held the lock for 2 s (20 ms in the node): to be tried
 * again, as the node kills one that is stopped with it. */
int af_extent_allocate(struct af_client *client, uint64_t bytes, af_off *block);
void af_extent_free(struct af_client *client, af_off block);
/* Makes the pages of [offset, offset + bytes) present in this process before they are written; remembers it. [no GIL] */
void af_extent_populate(struct af_client *client, af_off offset, uint64_t bytes);
uint64_t af_extent_bytes(const struct af_client *client, af_off block); /* of the extent */
/* The object that the byte at `place` lies in, of which the caller has a view; 0: in none, or more than `most_pages`
 * behind its first page. */
af_off af_extent_holding(const struct af_client *client, af_off place, uint64_t most_pages);
static inline struct af_extent *af_extent_at(const struct af_client *client, uint32_t page);
void af_extent_unlock_dead(struct af_client *node, uint32_t slot, uint32_t epoch);
/* Chain, bins and counters agree. With the lock (false too when it cannot be had), or while all others are quiet. */
bool af_extent_check(struct af_client *client);
bool af_extent_agree(const struct af_client *client);

#include "segment.h"
static inline struct af_extent *af_extent_at(const struct af_client *client, uint32_t page) {
  return AF_AT(client, struct af_extent, client->header->extents) + page;
}
static inline uint32_t af_extent_pages(uint64_t word) { return (uint32_t)(word >> 32); }
static inline bool af_extent_used(uint64_t word) { return (word & 1) != 0; }
static inline uint32_t af_extent_generation(uint64_t word) { return (uint32_t)word >> 1; }
#endif
