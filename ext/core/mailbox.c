/* mailbox.c - makes mailboxes, wakes their readers, lets readers wait, says how full they are; see mailbox.h. */
#include "mailbox.h"

#include <string.h>

#include "block.h"
#include "cell.h"
#include "heap.h"
#include "points.h"
#include "slot.h"
#include "wait.h"

static struct af_mailbox *mailbox_at(const struct af_client *client, af_off mailbox) {
  return AF_AT(client, struct af_mailbox, mailbox);
}

/* ---- making ---- */

int af_mailbox_create(struct af_client *client, uint8_t flags, uint32_t job, uint32_t credit, af_off *mailbox) {
  int status = af_heap_allocate(client, sizeof(struct af_mailbox), AF_KIND_BYTES, AF_CONTROL, mailbox);
  if (status != AF_OK)
    return status;
  struct af_mailbox *made = mailbox_at(client, *mailbox);
  memset((uint8_t *)made + sizeof made->block, 0, sizeof *made - sizeof made->block);
  made->block.flags = flags;
  made->job = job;
  made->credit = credit;
  af_block_become(&made->block, AF_KIND_MAILBOX); /* owns nothing before this */
  return AF_OK;
}

int af_actor_create(struct af_client *client, af_off mailbox, af_off *actor) {
  uint32_t outer = af_op_begin(client, AF_OP_LANE);
  int status = af_heap_allocate(client, sizeof(struct af_actor), AF_KIND_ACTOR, AF_CONTROL, actor);
  if (status == AF_OK) {
    af_block_hold(client, mailbox);
    AF_POINT(client, 640);
    AF_AT(client, struct af_actor, *actor)->mailbox = mailbox;
  }
  af_op_end(client, outer);
  return status;
}

/* ---- waking ---- */

void af_mailbox_waking_end(struct af_mailbox *mailbox) {
  uint64_t waking = AF_WAKING;
  if (atomic_load_explicit(&mailbox->spinner, memory_order_relaxed) == waking)
    atomic_compare_exchange_strong_explicit(&mailbox->spinner, &waking, 0, memory_order_seq_cst,
                                            memory_order_relaxed);
}

/* The sleeper that wakes takes AF_WAKING back; until then further pushes leave it alone. False: nobody slept (a sleeper
 * was killed, or is just lying down and will look). */
static bool sleeper_wake(struct af_client *client, struct af_mailbox *mailbox) {
  uint64_t nobody = 0;
  if (!atomic_compare_exchange_strong_explicit(&mailbox->spinner, &nobody, AF_WAKING, memory_order_acq_rel,
                                               memory_order_relaxed))
    return true;
  AF_POINT(client, 641);
  atomic_fetch_add_explicit(&mailbox->bell, 1, memory_order_release);
  if (af_futex_wake(&mailbox->bell, 1) > 0)
    return true;
  af_mailbox_waking_end(mailbox);
  return false;
}

void af_mailbox_node_ring(struct af_client *client, struct af_mailbox *mailbox) {
  if (atomic_load_explicit(&mailbox->node_bell, memory_order_relaxed) == 0)
    return;
  af_watch bell = atomic_exchange_explicit(&mailbox->node_bell, 0, memory_order_acq_rel);
  AF_POINT(client, 642);
  af_ring(client, bell);
}

/* SYNC POINT mail: the pusher sets the mail bit (or finds it set), then looks for who spins or sleeps; a reader says
 * that it no longer spins, or that it sleeps, then looks at the mail bits. All sequentially consistent. */
void af_mailbox_ring(struct af_client *client, af_off mailbox) {
  struct af_mailbox *rung = mailbox_at(client, mailbox);
  if (atomic_load_explicit(&rung->spinner, memory_order_seq_cst) != 0)
    return;
  af_watch listener = atomic_load_explicit(&rung->listener, memory_order_seq_cst);
  if (listener != 0)
    af_ring(client, listener);
  else if (atomic_load_explicit(&rung->sleepers, memory_order_seq_cst) == 0 || !sleeper_wake(client, rung))
    af_mailbox_node_ring(client, rung);
}

void af_mailbox_mail(struct af_client *client, af_off mailbox, af_off place) {
  struct af_lane_page *page = AF_AT(client, struct af_lane_page, place & ~(af_off)(AF_LINE - 1));
  uint64_t bit = 1ull << (place & (AF_LINE - 1));
  if (!(atomic_load_explicit(&page->mail, memory_order_seq_cst) & bit))
    atomic_fetch_or_explicit(&page->mail, bit, memory_order_seq_cst);
  AF_POINT(client, 643);
  af_mailbox_ring(client, mailbox);
}

bool af_mailbox_ready(struct af_client *client, af_off mailbox, af_off entry) {
  struct af_mailbox *to = mailbox_at(client, mailbox);
  struct af_block *link = AF_AT(client, struct af_block, entry);
  af_off first = atomic_load_explicit(&to->ready, memory_order_relaxed);
  do {
    if (first & AF_FOLLOWERS_CLOSED)
      return false;
    atomic_store_explicit(&link->next, first, memory_order_relaxed);
  } while (!atomic_compare_exchange_weak_explicit(&to->ready, &first, entry, memory_order_seq_cst,
                                                  memory_order_relaxed)); /* SYNC POINT ready; and mail */
  AF_POINT(client, 644);
  atomic_fetch_add_explicit(&to->ready_count, 1, memory_order_relaxed);
  af_mailbox_ring(client, mailbox);
  return true;
}

/* ---- waiting ---- */

bool af_mailbox_has_mail(const struct af_client *client, af_off mailbox) {
  const struct af_mailbox *of = mailbox_at(client, mailbox);
  const struct af_lane_page *page = &of->page;
  if (atomic_load_explicit(&page->mail, memory_order_seq_cst) != 0 ||
      af_mailbox_ready_first(atomic_load_explicit(&of->ready, memory_order_seq_cst)) != 0 ||
      atomic_load_explicit(&of->queue, memory_order_relaxed) != 0)
    return true;
  af_off next;
  while ((next = atomic_load_explicit(&page->next, memory_order_acquire)) != 0) {
    page = &AF_AT(client, struct af_lanes_block, next)->page;
    if (atomic_load_explicit(&page->mail, memory_order_seq_cst) != 0)
      return true;
  }
  return false;
}

static bool has_capacity(const struct af_client *client, const struct af_mailbox *mailbox) {
  uint64_t executing = atomic_load_explicit(&mailbox->executing, memory_order_seq_cst);
  return (uint32_t)executing < executing >> 32 ||
         atomic_load_explicit(&client->slot->token, memory_order_relaxed) != 0;
}

bool af_mailbox_may_take(const struct af_client *client, af_off mailbox) {
  const struct af_mailbox *of = mailbox_at(client, mailbox);
  if (atomic_load_explicit(&of->closed, memory_order_seq_cst))
    return true;
  if (!af_mailbox_has_mail(client, mailbox))
    return false;
  return !af_mailbox_is_shared(of) ||
         (has_capacity(client, of) && atomic_load_explicit(&of->lock, memory_order_seq_cst) == 0);
}

void af_mailbox_return(struct af_client *client) {
  af_off serving = atomic_load_explicit(&client->slot->serving, memory_order_relaxed);
  if (serving == 0 || !atomic_load_explicit(&client->slot->token, memory_order_relaxed))
    return;
  atomic_store_explicit(&mailbox_at(client, serving)->spinner, client->slot_index + 1u, memory_order_relaxed);
}

void af_mailbox_returned(struct af_client *client, struct af_mailbox *mailbox) {
  uint64_t own = client->slot_index + 1u;
  if (atomic_load_explicit(&mailbox->spinner, memory_order_relaxed) == own)
    atomic_compare_exchange_strong_explicit(&mailbox->spinner, &own, 0, memory_order_seq_cst,
                                            memory_order_relaxed); /* SYNC POINT mail */
}

/* Another reader that executes will be back, or a push wakes a sleeper: with both spinning there would be more awake
 * than CPUs. */
static bool others_execute(const struct af_mailbox *mailbox) {
  return (uint32_t)atomic_load_explicit(&mailbox->executing, memory_order_relaxed) != 0;
}

/* One reader spins for all; it may take over from a woken sleeper that has not looked yet. */
static bool spin_for_mail(struct af_client *client, af_off mailbox, uint64_t spin_ns) {
  struct af_mailbox *of = mailbox_at(client, mailbox);
  uint64_t seen = atomic_load_explicit(&of->spinner, memory_order_relaxed), own = client->slot_index + 1u;
  if (spin_ns == 0 || (seen != 0 && seen != AF_WAKING && seen != own) ||
      !atomic_compare_exchange_strong_explicit(&of->spinner, &seen, own, memory_order_acq_rel, memory_order_relaxed))
    return false;
  AF_POINT(client, 645);
  struct af_spin spin;
  bool found;
  af_spin_begin(&spin, client, spin_ns);
  do
    found = af_mailbox_may_take(client, mailbox);
  while (!found && !others_execute(of) && af_spin_turn(&spin));
  af_mailbox_returned(client, of);
  return found;
}

/* SYNC POINT rouse: the cause is stored before the bell's release; a reader reads the bell before it looks for a cause,
 * and then sleeps only if the bell has not changed. */
void af_mailbox_rouse(struct af_client *client, af_off mailbox) {
  struct af_mailbox *of = mailbox_at(client, mailbox);
  atomic_fetch_add_explicit(&of->bell, 1, memory_order_release);
  af_futex_wake(&of->bell, UINT32_MAX);
  af_ring(client, atomic_load_explicit(&of->listener, memory_order_acquire));
}

/* Whether a wait for mail would be in vain. The process' other mailboxes are not what it is to leave. */
static bool is_over(const struct af_client *client, af_off mailbox) {
  const struct af_slot *slot = client->slot;
  if (atomic_load_explicit(&slot->leave, memory_order_relaxed) != 0 &&
      atomic_load_explicit(&slot->serving, memory_order_relaxed) == mailbox)
    return true;
  return atomic_load_explicit(&mailbox_at(client, mailbox)->abandoned, memory_order_relaxed) != 0 &&
         !af_mailbox_has_mail(client, mailbox);
}

int af_mailbox_wait(struct af_client *client, af_off mailbox, uint64_t spin_ns, uint64_t timeout_ns) {
  struct af_mailbox *of = mailbox_at(client, mailbox);
  int status = AF_OK;
  if (af_mailbox_may_take(client, mailbox) || spin_for_mail(client, mailbox, spin_ns))
    return AF_OK;
  if (timeout_ns == 0)
    return AF_TIMEOUT;
  af_mailbox_returned(client, of); /* without a spin it may still be marked as about to come back */
  atomic_fetch_add_explicit(&of->sleepers, 1, memory_order_seq_cst); /* SYNC POINT mail */
  atomic_store_explicit(&client->slot->asleep, mailbox, memory_order_relaxed);
  af_mailbox_waking_end(of); /* one that nobody took back would keep pushes from waking this sleeper */
  uint32_t bell = atomic_load_explicit(&of->bell, memory_order_acquire);
  AF_POINT(client, 646);
  if (!af_mailbox_may_take(client, mailbox) && !is_over(client, mailbox)) /* SYNC POINT rouse */
    status = af_futex_wait(&of->bell, bell, timeout_ns < AF_IDLE_SLEEP_NS ? timeout_ns : AF_IDLE_SLEEP_NS);
  atomic_store_explicit(&client->slot->asleep, 0, memory_order_relaxed);
  atomic_fetch_sub_explicit(&of->sleepers, 1, memory_order_relaxed);
  af_mailbox_waking_end(of);
  return status == AF_OK || af_mailbox_may_take(client, mailbox) ? AF_OK : status;
}

/* ---- facts ---- */

/* Looks without the lock: a lane that is freed meanwhile is counted as what its memory says, within bounds. */
static uint64_t lane_depth(const struct af_client *client, af_off mailbox, af_off lane) {
  const struct af_lane *of = AF_AT(client, struct af_lane, lane);
  if (of->block.kind != AF_KIND_LANE || of->mailbox != mailbox)
    return 0;
  uint64_t taken = atomic_load_explicit(&of->taken, memory_order_relaxed);
  uint64_t pushed = atomic_load_explicit(&of->pushed, memory_order_relaxed);
  return pushed > taken ? pushed - taken : 0;
}

static void lanes_facts(const struct af_client *client, af_off mailbox, struct af_mailbox_facts *facts) {
  for (const struct af_lane_page *page = &mailbox_at(client, mailbox)->page; page != NULL;) {
    for (uint32_t i = 0; i < AF_PAGE_LANES; i++) {
      af_off lane = atomic_load_explicit(&page->lanes[i], memory_order_acquire);
      if (lane == 0)
        continue;
      facts->lanes++;
      facts->depth += lane_depth(client, mailbox, lane);
    }
    af_off next = atomic_load_explicit(&page->next, memory_order_acquire);
    page = next == 0 ? NULL : &AF_AT(client, struct af_lanes_block, next)->page;
  }
}

void af_mailbox_facts(const struct af_client *client, af_off mailbox, struct af_mailbox_facts *facts) {
  const struct af_mailbox *of = mailbox_at(client, mailbox);
  uint64_t executing = atomic_load_explicit(&of->executing, memory_order_acquire);
  uint32_t ready = atomic_load_explicit(&of->ready_count, memory_order_relaxed);
  *facts = (struct af_mailbox_facts){
      .allowed = (uint32_t)(executing >> 32),
      .active = (uint32_t)executing,
      .readers = atomic_load_explicit(&of->readers, memory_order_relaxed),
      .blocked = atomic_load_explicit(&of->blocked, memory_order_relaxed),
      .sleepers = atomic_load_explicit(&of->sleepers, memory_order_relaxed),
      .closed = atomic_load_explicit(&of->closed, memory_order_relaxed),
      .abandoned = atomic_load_explicit(&of->abandoned, memory_order_relaxed),
  };
  lanes_facts(client, mailbox, facts);
  if (af_mailbox_ready_first(atomic_load_explicit(&of->ready, memory_order_acquire)) != 0 ||
      atomic_load_explicit(&of->queue, memory_order_acquire) != 0)
    facts->depth += (int32_t)ready > 0 ? ready : 1;
}
