/* cancel.c - wishes that a call end: set by anybody, granted at once where it has not started; and the calls made within
 * a call. See cell.h.
 *
 * A wish lies in the call's own cell, which who runs it holds: so it can be meant for no other call, whatever is taken
 * from the queue between the wish and the look at it. */
#include "block.h"
#include "cell.h"
#include "heap.h"
#include "points.h"
#include "slot.h"

static struct af_cell *cell_at(const struct af_client *client, af_off cell) {
  return AF_AT(client, struct af_cell, cell);
}

/* A call lives as long as it is unfinished: its lane, its reader or what it waits for counts it. */
af_off af_cell_call(const struct af_client *client, af_off cell) {
  const struct af_cell *of = cell_at(client, cell);
  if (af_cell_phase(client, cell) != AF_EXPECTED)
    return cell;
  return af_block_find(client, of->parent, of->parent_generation, AF_KIND_CELL) == AF_OK ? of->parent : 0;
}

static int call_cancel(struct af_client *client, af_off call, uint8_t wish, af_off error, uint8_t format) {
  if (af_cell_is_done(client, call))
    return AF_EMPTY;
  atomic_fetch_or_explicit(&cell_at(client, call)->cancel, (uint8_t)(wish | AF_CANCEL_ASKED),
                           memory_order_seq_cst); /* SYNC POINT cancel */
  AF_POINT(client, 780);
  if (af_cell_fail(client, call, 0, error, format) == AF_OK)
    return AF_OK;
  return af_cell_is_done(client, call) ? AF_EMPTY : AF_BUSY;
}

int af_cell_cancel(struct af_client *client, af_off cell, uint8_t wish, af_off error, uint8_t format) {
  af_off call = af_cell_call(client, cell);
  if (call == cell)
    return call_cancel(client, cell, wish, error, format);
  uint32_t generation = cell_at(client, cell)->parent_generation;
  if (call == 0 || af_block_revive(client, call, generation, AF_KIND_CELL) != AF_OK)
    return AF_EMPTY;
  int status = call_cancel(client, call, wish, error, format);
  af_block_drop(client, call);
  return status;
}

/* ---- children ---- */

struct search { struct af_client *client; af_off parent; uint32_t generation; af_cell_visit visit; void *context; };

/* What lies there may be no cell, or another one by now: looked at, counted, and looked at again. */
static bool is_child(const struct search *search, af_off block) {
  const struct af_cell *of = cell_at(search->client, block);
  if (__atomic_load_n(&of->block.kind, __ATOMIC_ACQUIRE) != AF_KIND_CELL ||
      __atomic_load_n(&of->parent, __ATOMIC_RELAXED) != search->parent ||
      __atomic_load_n(&of->parent_generation, __ATOMIC_RELAXED) != search->generation)
    return false;
  uint32_t phase = af_cell_phase(search->client, block);
  return phase == AF_WAITING || phase == AF_UNREAD || phase == AF_STARTED;
}

static void block_visit(void *context, struct af_client *client, af_off block) {
  const struct search *search = context;
  if (!is_child(search, block))
    return;
  uint32_t outer = af_op_begin(client, AF_OP_CANCEL);
  if (af_block_revive(client, block, af_block_generation(client, block), AF_KIND_CELL) == AF_OK) {
    AF_POINT(client, 781);
    if (is_child(search, block))
      search->visit(search->context, client, block);
    af_block_drop(client, block);
  }
  af_op_end(client, outer);
}

void af_cell_each_child(struct af_client *client, af_off parent, uint32_t generation, af_cell_visit visit,
                        void *context) {
  struct search search = {client, parent, generation, visit, context};
  af_heap_each(client, block_visit, &search);
}
