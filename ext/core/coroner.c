/* coroner.c - settles what a dead process leaves; see coroner.h. */
#include "coroner.h"

#include <time.h>

#include "audit.h"
#include "block.h"
#include "cell.h"
#include "channel.h"
#include "extent.h"
#include "heap.h"
#include "mailbox.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

#define RECOUNT_TRIES 3u
#define OVERDUE_LOOKS 4
#define OVERDUE_PAUSE_NS 500000

struct settling {
  struct af_client *node;
  struct af_slot *slot;
  uint32_t index, epoch;
  af_off error;
  uint8_t format;
  bool retry;         /* calls that may be run again are */
  af_off reads;       /* mailbox that the dead is known to have held, 0: none yet */
  bool short_of_memory;
  _Atomic af_off again; /* list of entries through block.next: calls to be run again, in the order of each caller */
  struct af_settlement *settlement;
};

static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}
static uint32_t epoch_next(uint32_t epoch) { return epoch + 1 == 0 ? 1 : epoch + 1; }
static bool is_live(const struct af_client *node, af_off block, uint8_t kind) {
  return block != 0 && af_block_is_live(node, block) && AF_AT(node, struct af_block, block)->kind == kind;
}

/* Its state: this phase, by the dead. */
static bool is_of_dead(const struct settling *settling, af_off cell, enum af_phase phase) {
  uint64_t state = atomic_load_explicit(&cell_at(settling->node, cell)->state, memory_order_seq_cst);
  uint64_t of_dead = (uint64_t)settling->epoch << 32 | (uint64_t)settling->index << 16 | (uint64_t)phase;
  return (state & ~(uint64_t)(AF_STATE_SLEEPER | AF_STATE_CLAIMED)) == of_dead;
}

typedef void (*hold_visit)(struct settling *settling, af_off block);

static void each_hold(struct settling *settling, hold_visit visit) {
  struct af_client *node = settling->node;
  af_off chunk = atomic_load_explicit(&settling->slot->holds, memory_order_acquire);
  while (is_live(node, chunk, AF_KIND_HOLDS)) {
    struct af_holds *holds = AF_AT(node, struct af_holds, chunk);
    for (uint32_t i = 0; i < holds->capacity; i++)
      visit(settling, atomic_load_explicit(&holds->entries[i], memory_order_relaxed));
    chunk = atomic_load_explicit(&holds->next_chunk, memory_order_relaxed);
  }
}

/* ---- calls it had begun ---- */

/* Whoever reads a mailbox holds it, so its name cannot have become another's. */
static void reads_find(struct settling *settling, af_off block) {
  if (block == settling->reads && is_live(settling->node, block, AF_KIND_MAILBOX))
    settling->reads |= 1;
}
static bool had_held(struct settling *settling, af_off mailbox) {
  static const af_off found = 1;
  if (settling->reads == (mailbox | found))
    return true;
  settling->reads = mailbox;
  each_hold(settling, reads_find);
  return settling->reads == (mailbox | found);
}

/* Not one that it was settling, nor one of a mailbox that is closed. */
static bool may_run_again(struct settling *settling, af_off call) {
  struct af_cell *of = cell_at(settling->node, call);
  return settling->retry && is_of_dead(settling, call, AF_STARTED) &&
         !(atomic_load_explicit(&of->state, memory_order_relaxed) & AF_STATE_CLAIMED) && of->retries != 0 &&
         had_held(settling, of->mailbox) &&
         !atomic_load_explicit(&AF_AT(settling->node, struct af_mailbox, of->mailbox)->closed, memory_order_acquire);
}

/* A cell that it had begun to settle, or made DONE without serving what follows. */
static void cell_close(struct settling *settling, af_off cell) {
  uint64_t state = atomic_load_explicit(&cell_at(settling->node, cell)->state, memory_order_acquire);
  if (is_of_dead(settling, cell, AF_DONE))
    af_cell_finish(settling->node, cell);
  else if (is_of_dead(settling, cell, AF_STARTED))
    af_cell_fail(settling->node, cell, state, settling->error, settling->format);
}

/* Return cells first, as af_cell_settle does: they are found through the call only while it is not done. A call that may
 * be run again is left for started_settle; what it had given already stays given. */
static void call_close(struct settling *settling, af_off call) {
  struct af_cell *of = cell_at(settling->node, call);
  if (is_of_dead(settling, call, AF_STARTED)) {
    uint32_t returns = of->returns < of->references ? of->returns : of->references;
    for (uint32_t i = of->references - returns; i < of->references; i++) {
      af_off result = af_cell_references(settling->node, call)[i];
      if (is_live(settling->node, result, AF_KIND_CELL))
        cell_close(settling, result);
    }
    if (may_run_again(settling, call))
      return;
    settling->settlement->calls_failed++;
  }
  cell_close(settling, call);
}

/* ---- the operation it died in ---- */

/* Whether the call got where it was going cannot be told: a second entry is sent after it. */
static int call_resume(struct settling *settling, af_off call) {
  struct af_client *node = settling->node;
  uint32_t phase = af_cell_phase(node, call);
  af_off entry;
  if (phase != AF_WAITING && phase != AF_UNREAD) {
    call_close(settling, call);
    af_cell_unpinned(node, call);
    return AF_OK;
  }
  if (af_cell_entry(node, call, &entry) != AF_OK)
    return AF_BUSY;
  af_cell_advance(node, entry);
  return AF_OK;
}

static int dependent_settle(struct settling *settling) {
  struct af_slot *slot = settling->slot;
  uint64_t word = atomic_load_explicit(&slot->op_dependent, memory_order_acquire);
  uint32_t generation = atomic_load_explicit(&slot->op_generation, memory_order_relaxed);
  af_off call = word & ~(af_off)AF_PINNED;
  if (call != 0 && af_block_revive(settling->node, call, generation, AF_KIND_CELL) == AF_OK) {
    if (word & AF_PINNED)
      af_cell_unpin(settling->node, slot, call);
    int status = call_resume(settling, call);
    af_block_drop(settling->node, call);
    if (status != AF_OK)
      return status;
  }
  atomic_store_explicit(&slot->op_dependent, 0, memory_order_relaxed);
  return AF_OK;
}

static void pending_settle(struct settling *settling) {
  struct af_client *node = settling->node;
  _Atomic uint64_t *pending = &settling->slot->op_pending;
  af_off entry;
  while ((entry = atomic_load_explicit(pending, memory_order_acquire)) != 0 && af_block_is_live(node, entry)) {
    af_off next = atomic_load_explicit(&AF_AT(node, struct af_block, entry)->next, memory_order_relaxed);
    call_close(settling, af_entry_call(node, entry));
    atomic_store_explicit(pending, next, memory_order_relaxed);
    af_block_drop(node, entry);
  }
  atomic_store_explicit(pending, 0, memory_order_relaxed);
}

static int operation_settle(struct settling *settling) {
  struct af_slot *slot = settling->slot;
  af_off cell = atomic_load_explicit(&slot->op_cell, memory_order_acquire);
  int status = dependent_settle(settling);
  if (status != AF_OK)
    return status;
  if (is_live(settling->node, cell, AF_KIND_CELL))
    call_close(settling, cell);
  atomic_store_explicit(&slot->op_cell, 0, memory_order_relaxed);
  pending_settle(settling);
  return AF_OK;
}

/* ---- mailboxes ---- */

typedef void (*mailbox_visit)(void *context, struct af_client *node, af_off mailbox);

/* Every live mailbox; each is counted while it is visited. They all lie in spans of one class. */
static void each_mailbox(struct af_client *node, mailbox_visit visit, void *context) {
  uint32_t class_index = 0;
  while (af_class_bytes[class_index] < sizeof(struct af_mailbox))
    class_index++;
  for (uint32_t i = 0; i < af_span_top(node); i++) {
    struct af_span *span = af_span_at(node, i);
    uint64_t owner = atomic_load_explicit(&span->owner, memory_order_acquire);
    if (owner == 0 || af_span_class(owner) != class_index)
      continue;
    uint32_t fresh = atomic_load_explicit(&span->fresh, memory_order_acquire);
    for (uint32_t j = 0; j < fresh && j < AF_SPAN / af_class_bytes[class_index]; j++) {
      af_off block = af_span_start(node, i) + (af_off)j * af_class_bytes[class_index];
      uint32_t generation = __atomic_load_n(&AF_AT(node, struct af_block, block)->generation, __ATOMIC_RELAXED);
      if (af_block_revive(node, block, generation, AF_KIND_MAILBOX) != AF_OK)
        continue;
      visit(context, node, block);
      af_block_drop(node, block);
    }
  }
}

static uint32_t page_orphan(struct settling *settling, struct af_lane_page *page) {
  uint32_t orphaned = 0;
  for (uint32_t i = 0; i < AF_PAGE_LANES; i++) {
    af_off at = atomic_load_explicit(&page->lanes[i], memory_order_acquire);
    struct af_lane *lane = AF_AT(settling->node, struct af_lane, at);
    if (at == 0 || lane->slot != settling->index || lane->epoch != settling->epoch)
      continue;
    if (!atomic_load_explicit(&lane->orphan, memory_order_acquire)) { /* an orphan may be freed at any time */
      atomic_store_explicit(&lane->orphan, 1, memory_order_release);
      orphaned++;
    }
    atomic_fetch_or_explicit(&page->mail, 1ull << i, memory_order_seq_cst); /* so that its reader looks at it */
  }
  return orphaned;
}

/* Who was woken may have died before it looked: another is to be woken. */
static void hints_clear(const struct settling *settling, struct af_mailbox *mailbox) {
  uint64_t spinner = settling->index + 1u;
  af_watch listener = atomic_load_explicit(&mailbox->listener, memory_order_relaxed);
  atomic_compare_exchange_strong_explicit(&mailbox->spinner, &spinner, 0, memory_order_relaxed, memory_order_relaxed);
  af_mailbox_waking_end(mailbox);
  if (atomic_load_explicit(&settling->slot->asleep, memory_order_relaxed) == AF_OFF(settling->node, mailbox)) {
    atomic_fetch_sub_explicit(&mailbox->sleepers, 1, memory_order_relaxed);
    atomic_store_explicit(&settling->slot->asleep, 0, memory_order_relaxed);
  }
  if (listener >> 32 == af_watch_make((uint16_t)settling->index, settling->epoch, 0, 0) >> 32)
    atomic_compare_exchange_strong_explicit(&mailbox->listener, &listener, 0, memory_order_relaxed,
                                            memory_order_relaxed);
}

static void mailbox_settle(void *context, struct af_client *node, af_off mailbox) {
  struct settling *settling = context;
  struct af_mailbox *of = AF_AT(node, struct af_mailbox, mailbox);
  uint64_t lock = (uint64_t)settling->epoch << 32 | (settling->index + 1u);
  atomic_compare_exchange_strong_explicit(&of->lock, &lock, 0, memory_order_acq_rel,
                                          memory_order_relaxed); /* SYNC POINT reader-lock */
  uint32_t orphaned = page_orphan(settling, &of->page);
  hints_clear(settling, of);
  for (af_off page = atomic_load_explicit(&of->page.next, memory_order_acquire); page != 0;) {
    struct af_lanes_block *block = AF_AT(node, struct af_lanes_block, page);
    orphaned += page_orphan(settling, &block->page);
    page = atomic_load_explicit(&block->page.next, memory_order_acquire);
  }
  settling->settlement->lanes_orphaned += orphaned;
  if (af_mailbox_has_mail(node, mailbox))
    af_mailbox_ring(node, mailbox);
}

/* ---- channels ---- */

static void channel_settle(struct settling *settling, af_off block) {
  if (is_live(settling->node, block, AF_KIND_CHANNEL))
    af_channel_bereave(settling->node, block, settling->index, settling->epoch);
}

/* ---- holds, marks, boards ---- */

static _Atomic af_off *entry_next(const struct settling *settling, af_off entry) {
  return &AF_AT(settling->node, struct af_block, entry)->next;
}

/* Whether `first` was made before `second`, by one caller; callers among each other in any order that stays. */
static bool is_before(const struct settling *settling, af_off first, af_off second) {
  const struct af_cell *a = cell_at(settling->node, first), *b = cell_at(settling->node, second);
  uint64_t a_caller = (uint64_t)a->caller << 32 | a->caller_epoch, b_caller = (uint64_t)b->caller << 32 | b->caller_epoch;
  return a_caller != b_caller ? a_caller < b_caller : a->number < b->number;
}

/* Each once, though it may be held more than once. Without memory for its entry the list ends in `settling`, incomplete,
 * and nothing has happened yet. */
static void again_note(struct settling *settling, af_off call) {
  _Atomic af_off *place = &settling->again;
  af_off entry, at;
  while ((at = atomic_load_explicit(place, memory_order_relaxed)) != 0) {
    af_off there = af_entry_call(settling->node, at);
    if (there == call)
      return;
    if (is_before(settling, call, there))
      break;
    place = entry_next(settling, at);
  }
  if (af_cell_entry(settling->node, call, &entry) != AF_OK) {
    settling->short_of_memory = true;
    return;
  }
  atomic_store_explicit(entry_next(settling, entry), at, memory_order_relaxed);
  atomic_store_explicit(place, entry, memory_order_relaxed);
}

static void started_look(struct settling *settling, af_off block) {
  if (!is_live(settling->node, block, AF_KIND_CELL) || !is_of_dead(settling, block, AF_STARTED))
    return;
  if (may_run_again(settling, block))
    again_note(settling, block);
}

static void started_close(struct settling *settling, af_off block) {
  if (is_live(settling->node, block, AF_KIND_CELL) && is_of_dead(settling, block, AF_STARTED))
    call_close(settling, block);
}

/* Those that may be run again are unread from here on, and before all others that are; the others fail. */
static int started_settle(struct settling *settling) {
  struct af_client *node = settling->node;
  af_off entry;
  each_hold(settling, started_look);
  if (!settling->short_of_memory)
    each_hold(settling, started_close);
  while ((entry = atomic_load_explicit(&settling->again, memory_order_relaxed)) != 0) {
    atomic_store_explicit(&settling->again, atomic_load_explicit(entry_next(settling, entry), memory_order_relaxed),
                          memory_order_relaxed);
    if (settling->short_of_memory) {
      af_block_drop(node, entry);
      continue;
    }
    settling->settlement->calls_retried++;
    af_cell_redeliver(node, entry, settling->index, settling->epoch);
  }
  return settling->short_of_memory ? AF_BUSY : AF_OK;
}

static uint32_t mark_take(_Atomic uint32_t *mark) { return atomic_exchange_explicit(mark, 0, memory_order_relaxed); }

/* Its marks say what to take back, unless it died between a mark and its sum. */
static int marks_take_back(struct settling *settling) {
  struct af_slot *slot = settling->slot;
  af_off mailbox = atomic_load_explicit(&slot->serving, memory_order_acquire);
  if (!is_live(settling->node, mailbox, AF_KIND_MAILBOX))
    return AF_OK;
  struct af_mailbox *of = AF_AT(settling->node, struct af_mailbox, mailbox);
  if (atomic_load_explicit(&slot->marks, memory_order_acquire) % 2 != 0) { /* SYNC POINT marks */
    if (af_mailbox_recount(settling->node, mailbox) != AF_OK)
      return AF_BUSY;
  } else {
    atomic_fetch_sub_explicit(&of->executing, mark_take(&slot->token), memory_order_seq_cst);
    atomic_fetch_sub_explicit(&of->blocked, mark_take(&slot->blocked), memory_order_relaxed);
    atomic_fetch_sub_explicit(&of->readers, 1, memory_order_relaxed);
  }
  atomic_store_explicit(&slot->serving, 0, memory_order_relaxed);
  if (af_mailbox_has_mail(settling->node, mailbox))
    af_mailbox_ring(settling->node, mailbox);
  return AF_OK;
}

static void recount(struct settling *settling) {
  struct af_audit audit;
  int status = af_audit_run(settling->node, true, RECOUNT_TRIES, &audit);
  settling->settlement->repaired = (uint32_t)audit.repaired;
  settling->settlement->recount_owed = status != AF_OK || !audit.consistent;
}

/* ---- */

static int slot_bury(struct af_slot *slot, uint32_t epoch) {
  uint64_t dead = af_slot_word(epoch, AF_SLOT_DEAD), seen = af_slot_word(epoch, AF_SLOT_LIVE);
  if (atomic_compare_exchange_strong_explicit(&slot->owner, &seen, dead, memory_order_acq_rel, memory_order_acquire) ||
      seen == dead)
    return AF_OK;
  seen = af_slot_word(epoch, AF_SLOT_RESERVED); /* died before it took its slot: a forked child */
  return atomic_compare_exchange_strong_explicit(&slot->owner, &seen, dead, memory_order_acq_rel,
                                                 memory_order_acquire)
             ? AF_OK
             : AF_STALE;
}

static int settle(struct settling *settling) {
  struct af_client *node = settling->node;
  int status = operation_settle(settling);
  if (status != AF_OK)
    return status;
  af_extent_unlock_dead(node, settling->index, settling->epoch);
  each_mailbox(node, mailbox_settle, settling);
  each_hold(settling, channel_settle);
  status = started_settle(settling);
  if (status != AF_OK)
    return status;
  settling->settlement->holds_dropped = af_slot_drop_holds(node, settling->index);
  af_boards_leave(settling->node, settling->index);
  af_heap_adopt(node, settling->index, settling->epoch);
  return marks_take_back(settling);
}

int af_coroner_settle(struct af_client *node, uint32_t slot, uint32_t epoch, bool retry, af_off error, uint8_t format,
                      struct af_settlement *settlement) {
  *settlement = (struct af_settlement){0};
  if (slot >= node->header->slot_count)
    return AF_BAD;
  struct af_slot *of = af_slot_at(node, slot);
  struct settling settling = {
      .node = node, .slot = of, .index = slot, .epoch = epoch, .error = error, .format = format, .retry = retry,
      .settlement = settlement};
  if (slot_bury(of, epoch) != AF_OK)
    return AF_STALE;
  settlement->inside_operation = atomic_load_explicit(&of->op, memory_order_acquire) != 0;
  uint32_t outer = af_op_begin(node, AF_OP_SETTLE);
  int status = settle(&settling);
  af_op_end(node, outer);
  if (status != AF_OK)
    return status;
  if (settlement->inside_operation) {
    af_slot_unreserve_unfilled(node, slot);
    recount(&settling);
  }
  atomic_store_explicit(&of->op, 0, memory_order_relaxed);
  atomic_store_explicit(&of->owner, af_slot_word(epoch_next(epoch), AF_SLOT_FREE), memory_order_release);
  return AF_OK;
}

struct doomed { struct settling settling; af_off *calls; uint32_t most, count; };

static void doomed_note(struct settling *settling, af_off block) {
  struct doomed *doomed = (struct doomed *)(void *)settling;
  if (!is_live(settling->node, block, AF_KIND_CELL) || !is_of_dead(settling, block, AF_STARTED) ||
      may_run_again(settling, block) || doomed->count == doomed->most)
    return;
  for (uint32_t i = 0; i < doomed->count; i++)
    if (doomed->calls[i] == block)
      return;
  doomed->calls[doomed->count++] = block;
}

uint32_t af_coroner_doomed(struct af_client *node, uint32_t slot, uint32_t epoch, bool retry, af_off *calls,
                           uint32_t most) {
  struct doomed doomed = {{.node = node, .slot = af_slot_at(node, slot), .index = slot, .epoch = epoch, .retry = retry},
                          calls, most, 0};
  each_hold(&doomed.settling, doomed_note);
  return doomed.count;
}

/* ---- overdue locks ---- */

struct overdue { uint64_t now_ns, limit_ns; int slot; };

/* Held by the same taker all the while: a lock that comes and goes has a new time each time. */
static bool stays(const _Atomic uint64_t *lock, const _Atomic uint64_t *since, uint64_t holder, uint64_t since_ns) {
  struct timespec pause = {.tv_nsec = OVERDUE_PAUSE_NS};
  for (int i = 0; i < OVERDUE_LOOKS; i++) {
    nanosleep(&pause, NULL);
    if (atomic_load_explicit(lock, memory_order_acquire) != holder ||
        atomic_load_explicit(since, memory_order_relaxed) != since_ns)
      return false;
  }
  return true;
}

static void lock_look(struct overdue *overdue, const _Atomic uint64_t *lock, const _Atomic uint64_t *since) {
  uint64_t holder = atomic_load_explicit(lock, memory_order_acquire);
  uint64_t since_ns = atomic_load_explicit(since, memory_order_relaxed);
  if (holder != 0 && overdue->slot < 0 && since_ns + overdue->limit_ns < overdue->now_ns &&
      stays(lock, since, holder, since_ns))
    overdue->slot = (int)(uint32_t)holder - 1;
}

static void mailbox_look(void *context, struct af_client *node, af_off mailbox) {
  struct af_mailbox *of = AF_AT(node, struct af_mailbox, mailbox);
  lock_look(context, &of->lock, &of->locked_ns);
}

int af_coroner_overdue(struct af_client *node, uint64_t limit_ns) {
  struct overdue overdue = {af_now_ns(), limit_ns, -1};
  lock_look(&overdue, &node->header->extent_lock, &node->header->extent_locked_ns);
  each_mailbox(node, mailbox_look, &overdue);
  return overdue.slot;
}
