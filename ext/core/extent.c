/* extent.c - allocates, splits and merges page extents for large values; see extent.h. */
#include "extent.h"

#include <sched.h>
#include <string.h>
#include <time.h>

#include "block.h"
#include "cell.h"
#include "points.h"
#include "slot.h"
#include "spill.h"

#define LOOK_MOST 32                /* extents of the own bin looked at before a larger one is split */
#define LOCK_SPINS 200
#define LOCK_YIELDS 64
#define LOCK_SLEEP_NS 100000
#define LOCK_MOST_NS 2000000000ull  /* then who calls looks to its signals; the node kills a stopped holder in time */
#define LOCK_NODE_NS 20000000ull    /* the node itself: while it waits, nobody settles a dead holder */

static inline uint64_t free_word(uint64_t pages) { return pages << 32; }
static inline uint64_t used_word(uint64_t pages, uint32_t generation) {
  return pages << 32 | (uint64_t)(generation << 1) | 1;
}

static inline uint64_t word_at(const struct af_client *client, uint32_t page) {
  return atomic_load_explicit(&af_extent_at(client, page)->word, memory_order_relaxed);
}

/* SYNC POINT extent: this release pairs with af_block_find's acquire. */
static inline void word_set(struct af_client *client, uint32_t page, uint64_t word) {
  atomic_store_explicit(&af_extent_at(client, page)->word, word, memory_order_release);
}

static inline struct af_block *block_of(const struct af_client *client, uint32_t page) {
  return AF_AT(client, struct af_block, client->header->objects + (af_off)page * AF_PAGE);
}

static inline uint32_t page_of(const struct af_client *client, af_off block) {
  return (uint32_t)((block - client->header->objects) / AF_PAGE);
}

static inline bool is_object_place(const struct af_client *client, af_off block) {
  return block >= client->header->objects && block < client->size_bytes && block % AF_PAGE == 0;
}

/* ---- bins; under the lock ---- */

static inline uint32_t bin_of(uint32_t pages) { return 31u - (uint32_t)__builtin_clz(pages); }

static void bin_insert(struct af_client *client, uint32_t first, uint32_t pages) {
  uint32_t *head = &client->header->bins[bin_of(pages)];
  struct af_extent *extent = af_extent_at(client, first);
  extent->previous = 0;
  extent->next = *head;
  if (*head != 0)
    af_extent_at(client, *head - 1)->previous = first + 1;
  *head = first + 1;
  if (pages > 1)
    af_extent_at(client, first + pages - 1)->previous = first + 1;
}

static void bin_remove(struct af_client *client, uint32_t first) {
  struct af_extent *extent = af_extent_at(client, first);
  if (extent->next != 0)
    af_extent_at(client, extent->next - 1)->previous = extent->previous;
  if (extent->previous != 0)
    af_extent_at(client, extent->previous - 1)->next = extent->next;
  else
    client->header->bins[bin_of(af_extent_pages(word_at(client, first)))] = extent->next;
}

/* The last freed first: it is the warmest. Returns first page + 1, 0: none within `most` looks. */
static uint32_t bin_search(struct af_client *client, uint32_t pages, uint32_t most) {
  uint32_t place = client->header->bins[bin_of(pages)];
  for (uint32_t i = 0; place != 0 && i < most; i++) {
    if (af_extent_pages(word_at(client, place - 1)) >= pages)
      return place;
    place = af_extent_at(client, place - 1)->next;
  }
  return 0;
}

static uint32_t bins_search(struct af_client *client, uint32_t pages) {
  uint32_t place = bin_search(client, pages, LOOK_MOST);
  for (uint32_t bin = bin_of(pages) + 1; place == 0 && bin < 32; bin++)
    place = client->header->bins[bin];
  return place;
}

/* ---- the chain; under the lock ---- */

/* The free extent that ends before `page`: first page + 1, 0: none. */
static uint32_t free_before(const struct af_client *client, uint32_t page) {
  if (page == 0)
    return 0;
  uint64_t word = word_at(client, page - 1);
  if (word != 0) /* one page long */
    return af_extent_used(word) ? 0 : page;
  uint32_t place = af_extent_at(client, page - 1)->previous;
  if (place == 0 || place > page)
    return 0;
  word = word_at(client, place - 1);
  bool ends_here = word != 0 && !af_extent_used(word) && (uint64_t)place - 1 + af_extent_pages(word) == page;
  return ends_here ? place : 0;
}

/* Interior entries are 0; a merge that a crash cut short left one that is not. */
static void interior_scrub(struct af_client *client, uint32_t first, uint32_t pages) {
  for (uint32_t page = first + 1; page < first + pages; page++)
    if (word_at(client, page) != 0)
      word_set(client, page, 0);
}

/* Length of the extent at `page`, as far as the chain is sane there; else 0. */
static uint32_t chain_pages(const struct af_client *client, uint64_t page) {
  uint32_t pages = af_extent_pages(word_at(client, (uint32_t)page));
  return page + pages <= client->header->wilderness_page ? pages : 0;
}

static void extents_rebuild(struct af_client *client) {
  struct af_header *header = client->header;
  uint64_t used = 0;
  uint32_t pages, before = 0; /* first page + 1 of the free extent that ends at `page` */
  memset(header->bins, 0, sizeof header->bins);
  if (header->wilderness_page < header->page_count)
    word_set(client, (uint32_t)header->wilderness_page, 0); /* of one who died before it moved the border, or after */
  AF_POINT(client, 310);
  for (uint64_t page = 0; page < header->wilderness_page && (pages = chain_pages(client, page)) != 0; page += pages) {
    uint32_t first = (uint32_t)page;
    interior_scrub(client, first, pages);
    if (af_extent_used(word_at(client, first))) {
      used += pages;
      before = 0;
      continue;
    }
    uint32_t length = pages;
    if (before != 0) { /* merge with the one before, which is in a bin */
      bin_remove(client, before - 1);
      length += af_extent_pages(word_at(client, before - 1));
      word_set(client, before - 1, free_word(length));
      word_set(client, first, 0);
      first = before - 1;
    }
    bin_insert(client, first, length);
    before = first + 1;
  }
  atomic_store_explicit(&header->object_bytes_used, used * AF_PAGE, memory_order_relaxed);
}

static void extent_release(struct af_client *client, uint32_t first) {
  struct af_header *header = client->header;
  uint32_t pages = af_extent_pages(word_at(client, first)), next = first + pages, before;
  atomic_fetch_sub_explicit(&header->object_bytes_used, (uint64_t)pages * AF_PAGE, memory_order_relaxed);
  __atomic_store_n(&block_of(client, first)->kind, AF_KIND_FREE, __ATOMIC_RELAXED);
  word_set(client, first, free_word(pages));
  AF_POINT(client, 308);
  if (next < header->wilderness_page && !af_extent_used(word_at(client, next))) {
    bin_remove(client, next);
    pages += af_extent_pages(word_at(client, next));
    word_set(client, first, free_word(pages));
    AF_POINT(client, 309);
    word_set(client, next, 0);
  }
  if ((before = free_before(client, first)) != 0) {
    bin_remove(client, before - 1);
    pages += af_extent_pages(word_at(client, before - 1));
    word_set(client, before - 1, free_word(pages));
    AF_POINT(client, 309);
    word_set(client, first, 0);
    first = before - 1;
  }
  bin_insert(client, first, pages);
}

/* Frees what was given back while the lock was taken.
 * SYNC POINT extent-return: this acquire pairs with returned_push's release. */
static void returned_take(struct af_client *client) {
  af_off block = atomic_exchange_explicit(&client->header->extent_returned, 0, memory_order_acquire);
  while (block != 0 && is_object_place(client, block)) {
    uint32_t page = page_of(client, block);
    af_off next = atomic_load_explicit(&block_of(client, page)->next, memory_order_relaxed);
    AF_POINT(client, 307);
    if (page < client->header->wilderness_page && af_extent_used(word_at(client, page)))
      extent_release(client, page);
    block = next;
  }
}

static void returned_push(struct af_client *client, af_off block) {
  _Atomic af_off *returned = &client->header->extent_returned;
  af_off head = atomic_load_explicit(returned, memory_order_relaxed);
  do
    atomic_store_explicit(&AF_AT(client, struct af_block, block)->next, head, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(returned, &head, block, memory_order_seq_cst, memory_order_relaxed));
}

/* ---- the lock ---- */

static inline uint64_t lock_word(uint32_t slot, uint32_t epoch) { return (uint64_t)epoch << 32 | (slot + 1); }

/* SYNC POINT extent-lock: this acquire pairs with extent_unlock's release. The time is written before the lock is taken and
 * stays after it, so that a holder is never seen with none, however it is held up by others or stopped. */
static bool extent_try_lock(struct af_client *client) {
  struct af_header *header = client->header;
  uint64_t none = 0;
  if (atomic_load_explicit(&header->extent_lock, memory_order_seq_cst) != 0)
    return false;
  atomic_store_explicit(&header->extent_locked_ns, af_now_ns(), memory_order_relaxed);
  if (!atomic_compare_exchange_strong_explicit(&header->extent_lock, &none,
                                               lock_word(client->slot_index, client->epoch), memory_order_acquire,
                                               memory_order_relaxed))
    return false;
  AF_POINT(client, 300);
  if (atomic_exchange_explicit(&header->extent_dirty, 1, memory_order_acq_rel) != 0)
    extents_rebuild(client);
  returned_take(client);
  return true;
}

static void extent_unlock_once(struct af_client *client) {
  struct af_header *header = client->header;
  AF_POINT(client, 311);
  atomic_store_explicit(&header->extent_dirty, 0, memory_order_release);
  atomic_exchange_explicit(&header->extent_lock, 0, memory_order_seq_cst);
}

/* Who gives an object back and finds the lock taken relies on its holder to look once more after unlocking: each writes
 * one word and then reads the other's, sequentially consistent, so one of them sees. */
static void extent_unlock(struct af_client *client) {
  extent_unlock_once(client);
  while (atomic_load_explicit(&client->header->extent_returned, memory_order_seq_cst) != 0 && extent_try_lock(client))
    extent_unlock_once(client);
}

static bool extent_lock(struct af_client *client) {
  struct timespec pause = {0, LOCK_SLEEP_NS};
  uint64_t since = af_now_ns(), most = client->slot_index == 0 ? LOCK_NODE_NS : LOCK_MOST_NS;
  for (uint32_t i = 0; !extent_try_lock(client); i++) {
    if (i < LOCK_SPINS)
      af_pause();
    else if (i < LOCK_SPINS + LOCK_YIELDS)
      sched_yield();
    else if (af_now_ns() - since > most)
      return false;
    else
      nanosleep(&pause, NULL);
  }
  return true;
}

void af_extent_unlock_dead(struct af_client *node, uint32_t slot, uint32_t epoch) {
  uint64_t dead = lock_word(slot, epoch);
  if (atomic_load_explicit(&node->header->extent_lock, memory_order_acquire) != dead)
    return;
  atomic_store_explicit(&node->header->extent_lock, 0, memory_order_release);
}

/* ---- allocation ---- */

/* Generations have 31 bits here, in the block as in the entry. */
static uint32_t generation_next(struct af_header *header) {
  uint32_t next = (header->extent_generation + 1) & 0x7fffffff;
  __atomic_store_n(&header->extent_generation, next, __ATOMIC_RELAXED); /* read without the lock as a clock: spill.c */
  return next;
}

/* The header is whole before the extent is used: what lay in these pages before is never taken for one. */
static void object_init(struct af_client *client, uint32_t first, uint32_t pages, uint64_t bytes) {
  uint32_t generation = generation_next(client->header);
  struct af_block *block = block_of(client, first);
  memset((uint8_t *)block + sizeof *block, 0, sizeof(struct af_object) - sizeof *block);
  af_block_fill(block, generation, bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX);
  __atomic_store_n(&block->kind, AF_KIND_OBJECT, __ATOMIC_RELEASE);
  AF_POINT(client, 303);
  word_set(client, first, used_word(pages, generation));
  atomic_fetch_add_explicit(&client->header->object_bytes_used, (uint64_t)pages * AF_PAGE, memory_order_relaxed);
}

/* Off its bin, and what is not needed of it back into one. */
static void extent_carve(struct af_client *client, uint32_t first, uint32_t pages) {
  uint32_t rest = af_extent_pages(word_at(client, first)) - pages;
  bin_remove(client, first);
  AF_POINT(client, 302);
  if (rest == 0)
    return;
  word_set(client, first + pages, free_word(rest));
  AF_POINT(client, 301);
  word_set(client, first, free_word(pages));
  bin_insert(client, first + pages, rest);
}

/* From the wilderness, with the free extent before it if there is one: that is given to the wilderness first. */
static uint32_t wilderness_take(struct af_client *client, uint32_t pages) {
  struct af_header *header = client->header;
  uint32_t border = (uint32_t)header->wilderness_page;
  if (header->page_count - border < pages) {
    uint32_t before = free_before(client, border);
    if (before == 0 || header->page_count - (before - 1) < pages)
      return 0;
    bin_remove(client, before - 1);
    header->wilderness_page = border = before - 1;
  }
  word_set(client, border, free_word(pages));
  AF_POINT(client, 304);
  header->wilderness_page = (uint64_t)border + pages;
  return border + 1;
}

/* Returns first page + 1 of a free extent of exactly `pages`, in no bin; 0: none. */
static uint32_t extent_find(struct af_client *client, uint32_t pages) {
  uint32_t place = bins_search(client, pages);
  if (place == 0) {
    place = wilderness_take(client, pages);
    if (place != 0)
      return place;
    place = bin_search(client, pages, UINT32_MAX);
  }
  if (place != 0)
    extent_carve(client, place - 1, pages);
  return place;
}

int af_extent_allocate(struct af_client *client, uint64_t bytes, af_off *block) {
  if (bytes > client->header->page_count * AF_PAGE)
    return AF_TOO_LARGE;
  uint32_t pages = bytes == 0 ? 1 : (uint32_t)((bytes + AF_PAGE - 1) / AF_PAGE), place = 0;
  uint32_t outer = af_op_begin(client, AF_OP_EXTENT);
  bool locked = extent_lock(client);
  if (locked) {
    place = extent_find(client, pages);
    if (place != 0) {
      object_init(client, place - 1, pages, bytes);
      *block = client->header->objects + (af_off)(place - 1) * AF_PAGE;
      AF_POINT(client, 305);
    }
    extent_unlock(client);
  }
  af_op_end(client, outer);
  return place != 0 ? AF_OK : locked ? AF_FULL : AF_BUSY;
}

/* Never waits: who holds the lock may be stopped, and the node, which would kill it, frees objects too. */
void af_extent_free(struct af_client *client, af_off block) {
  uint32_t outer = af_op_begin(client, AF_OP_EXTENT);
  AF_POINT(client, 306);
  returned_push(client, block);
  if (extent_try_lock(client))
    extent_unlock(client);
  af_room_ring(client);
  af_op_end(client, outer);
}

uint64_t af_extent_bytes(const struct af_client *client, af_off block) {
  return is_object_place(client, block) ? (uint64_t)af_extent_pages(word_at(client, page_of(client, block))) * AF_PAGE
                                        : 0;
}

/* Interior entries of a used extent are 0: the first that is not is its own. */
af_off af_extent_holding(const struct af_client *client, af_off place, uint64_t most_pages) {
  const struct af_header *header = client->header;
  if (place < header->objects || place >= header->objects + header->page_count * AF_PAGE)
    return 0;
  uint32_t page = page_of(client, place), last = page;
  while (word_at(client, page) == 0 && page > 0 && last - page < most_pages)
    page--;
  uint64_t word = word_at(client, page);
  bool is_in = af_extent_used(word) && last - page < af_extent_pages(word);
  return is_in ? header->objects + (af_off)page * AF_PAGE : 0;
}

/* ---- check ---- */

/* Members of all bins, each free, in its bin and linked both ways; UINT64_MAX when one is not. */
static uint64_t bins_count(const struct af_client *client) {
  uint64_t members = 0, most = client->header->wilderness_page;
  for (uint32_t bin = 0; bin < 40; bin++) {
    uint32_t before = 0, place = client->header->bins[bin];
    for (; place != 0; before = place, place = af_extent_at(client, place - 1)->next) {
      if (place > most || ++members > most)
        return UINT64_MAX;
      uint64_t word = word_at(client, place - 1);
      if (word == 0 || af_extent_used(word) || bin_of(af_extent_pages(word)) != bin ||
          af_extent_at(client, place - 1)->previous != before)
        return UINT64_MAX;
    }
  }
  return members;
}

bool af_extent_agree(const struct af_client *client) {
  const struct af_header *header = client->header;
  uint64_t free_extents = 0, used = 0, page = 0;
  uint32_t pages;
  bool before_free = false;
  for (; page < header->wilderness_page && (pages = chain_pages(client, page)) != 0; page += pages) {
    bool is_used = af_extent_used(word_at(client, (uint32_t)page));
    if (!is_used && (before_free || free_before(client, (uint32_t)page + pages) != page + 1))
      return false;
    for (uint32_t i = 1; i < pages; i++)
      if (word_at(client, (uint32_t)page + i) != 0)
        return false;
    used += is_used ? pages : 0;
    free_extents += is_used ? 0 : 1;
    before_free = !is_used;
  }
  return page == header->wilderness_page && bins_count(client) == free_extents &&
         atomic_load_explicit(&header->object_bytes_used, memory_order_relaxed) == used * AF_PAGE;
}

bool af_extent_check(struct af_client *client) {
  uint32_t outer = af_op_begin(client, AF_OP_EXTENT);
  bool agree = extent_lock(client);
  if (agree) {
    agree = af_extent_agree(client);
    extent_unlock(client);
  }
  af_op_end(client, outer);
  return agree;
}
