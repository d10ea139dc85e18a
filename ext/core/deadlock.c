/* deadlock.c - finds circles of waits; see deadlock.h. */
#include "deadlock.h"

#include "block.h"
#include "cell.h"
#include "mailbox.h"
#include "slot.h"

#define CELL_BITS 36 /* `waits`: [63:36] the wait's number, [35:0] the cell's offset in lines */
#define CELL_MASK (((uint64_t)1 << CELL_BITS) - 1)

/* ---- saying ---- */

uint64_t af_deadlock_begin(struct af_client *client, af_off cell) {
  struct af_slot *slot = client->slot;
  uint64_t before = atomic_load_explicit(&slot->waits, memory_order_relaxed);
  client->waits++;
  atomic_store_explicit(&slot->waits, client->waits << CELL_BITS | cell / AF_LINE, memory_order_release);
  return before;
}

void af_deadlock_end(struct af_client *client, uint64_t before) {
  atomic_store_explicit(&client->slot->waits, before, memory_order_release);
}

/* ---- looking ---- */

static const struct af_cell *live_cell(const struct af_client *client, af_off cell) {
  if (cell == 0 || !af_block_is_live(client, cell) || AF_AT(client, struct af_block, cell)->kind != AF_KIND_CELL)
    return NULL;
  return AF_AT(client, const struct af_cell, cell);
}

/* What has to be done before the cell can be: a call's first unfinished argument, a further return's call; else itself. */
static af_off needed_first(const struct af_client *client, af_off cell) {
  for (int i = 0; i < AF_DEADLOCK_MOST; i++) {
    const struct af_cell *of = live_cell(client, cell);
    uint32_t phase = of == NULL ? 0 : af_cell_phase(client, cell);
    uint32_t next = phase == AF_WAITING ? atomic_load_explicit(&of->next_argument, memory_order_relaxed) : 0;
    if (phase == AF_WAITING && next < of->arguments && next < of->references)
      cell = af_cell_references(client, cell)[next];
    else if (phase == AF_EXPECTED)
      cell = of->parent;
    else
      return of == NULL ? 0 : cell;
  }
  return 0;
}

static bool is_of_mailbox(const struct af_client *client, const struct af_slot *slot, af_off mailbox) {
  const struct af_cell *running = live_cell(client, atomic_load_explicit(&slot->running, memory_order_relaxed));
  return running != NULL && running->mailbox == mailbox;
}

/* The slot of the process that is in a call of an actor that runs one at a time; 0: none (it is the node's). */
static uint32_t reader_of(const struct af_client *client, af_off mailbox) {
  if (mailbox == 0 || !af_block_is_live(client, mailbox) ||
      !(AF_AT(client, struct af_block, mailbox)->flags & AF_MAILBOX_ORDERED))
    return 0;
  for (uint32_t index = 1; index < client->header->slot_count; index++) {
    const struct af_slot *slot = af_slot_at(client, index);
    if (atomic_load_explicit(&slot->waits, memory_order_acquire) != 0 && is_of_mailbox(client, slot, mailbox) &&
        af_slot_state_of(atomic_load_explicit(&slot->owner, memory_order_acquire)) == AF_SLOT_LIVE)
      return index; /* one that has died is not in its wait any more */
  }
  return 0;
}

struct step { uint32_t slot; bool unread; };

/* Who has the cell that is waited for; slot 0: nobody that could be in a circle. */
static struct step holder_of(const struct af_client *client, af_off cell) {
  struct step none = {0, false};
  cell = needed_first(client, cell);
  if (cell == 0)
    return none;
  const struct af_cell *of = AF_AT(client, const struct af_cell, cell);
  uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
  uint32_t index = (uint32_t)(state >> 16) & 0xffff;
  switch (state & AF_STATE_PHASE) {
    case AF_STARTED:
      return index < client->header->slot_count && af_slot_is(client, index, (uint32_t)(state >> 32))
                 ? (struct step){index, false} : none;
    case AF_UNREAD:
      return (struct step){reader_of(client, of->mailbox), true};
    default:
      return none;
  }
}

struct walk { uint64_t seen; uint64_t chosen; }; /* seen: a sum over the processes and their waits */

static bool is_circle(const struct af_client *client, struct walk *walk) {
  uint32_t at = client->slot_index;
  *walk = (struct walk){0, 0};
  for (int i = 0; i < AF_DEADLOCK_MOST; i++) {
    uint64_t waits = atomic_load_explicit(&af_slot_at(client, at)->waits, memory_order_acquire);
    if (waits == 0)
      return false;
    struct step next = holder_of(client, (waits & CELL_MASK) * AF_LINE);
    if (next.slot == 0)
      return false;
    uint64_t rank = (uint64_t)next.unread << 32 | at;
    walk->seen = (walk->seen ^ waits ^ (uint64_t)at << 48) * 0x9e3779b97f4a7c15ull;
    walk->chosen = rank > walk->chosen ? rank : walk->chosen;
    at = next.slot;
    if (at == client->slot_index)
      return true;
  }
  return false;
}

bool af_deadlock_found(const struct af_client *client) {
  struct walk first, second;
  return is_circle(client, &first) && is_circle(client, &second) && first.seen == second.seen &&
         first.chosen == second.chosen && (uint32_t)first.chosen == client->slot_index;
}
