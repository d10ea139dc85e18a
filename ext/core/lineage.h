/* lineage.h - how a value in the object store is made again: what of its call is kept, and running that once more.
 *
 * Purpose: a spilled value whose file is gone or changed need not be lost, if a call made it that may be run again.
 * Theory: when a call that has retries left completes with a value in the object store (its own, or that of a further
 * return cell), what it was made from goes into an AF_KIND_LINEAGE block, which those cells own (af_cell.lineage). Small
 * results keep nothing. The block does not keep what is large: of each reference of the call it has
 *   - the reference itself, counted, where that is small and refers to nothing: a value in its cell or a BYTES block, the
 *     block with the call's arguments, the function; and the mailbox that the call went to;
 *   - else its name, not counted, and counted the lineage of that cell, if it has one: an input that is freed meanwhile is
 *     made again first. An actor, a put value, a value that refers to others are there as long as others hold them.
 * No lineage: a call whose arguments are themselves in the object store by value.
 * So a lineage lives as long as a result of its call, or a result made from that; it keeps no object and no actor alive.
 * Budget: header.lineage_bytes is what all of them keep; beyond header.lineage_limit whoever adds rings the node, which
 * empties the oldest: the block stays with its cells, keeps nothing, costs nothing of the budget, and says so.
 * Running again: the node makes a new call of the kept one, to the same mailbox, with one retry fewer; once that is done,
 * its value takes the lost one's place (af_lineage_deliver), or its error becomes the lost one's (af_spilled.error).
 * Who writes: the completer of the call before DONE of the call; from then on the node alone (retries, attempt, inputs).
 * A crash leaves: a BYTES block of count 1 that owns nothing, and what it was to own counted once too high (recount); a
 * sum in lineage_bytes that is off by one block until the node counts again. */
#ifndef AF_LINEAGE_H
#define AF_LINEAGE_H
#include "cell.h"

struct af_lineage_input {
  af_off held;         /* counted: the reference itself, or the lineage of what `name` names, or 0 */
  af_off name;         /* the reference */
  uint32_t generation; /* of it */
  uint32_t index;      /* which result of its call it is; 0: the call's own cell */
};
struct af_lineage {    /* then `inputs` of the above, one for each reference but the return cells; then the arguments */
  struct af_block block;
  uint64_t sequence;   /* age: header.lineage_made when it was made */
  uint32_t inputs;     /* 0 once it was emptied */
  uint32_t emptied;
  uint64_t charged;    /* bytes that it keeps, itself included; 0 once it was emptied */
  af_off mailbox;      /* counted; 0 once it was emptied */
  uint64_t number;
  uint32_t caller, caller_epoch, arguments, returns, bytes, attempt, limit_ms;
  int32_t retries;     /* how often it may be run again, -1: always */
  uint16_t method, depth;
  uint8_t format, flags;
};

/* Completer, before the call is DONE, its value and those of its return cells being linked. Without memory: no lineage. */
void af_lineage_keep(struct af_client *client, af_off cell);
/* block.c: it is freed. */
void af_lineage_uncharge(struct af_client *client, af_off lineage);

/* ---- the node ---- */

/* All that were not emptied: by name, with age and bytes; `most` at most; returns how many there are. Walks the heap, and
 * sets lineage_bytes right if it stood still meanwhile. */
struct af_lineage_fact { af_off lineage; uint32_t generation; uint64_t sequence, charged; };
uint32_t af_lineage_list(struct af_client *node, struct af_lineage_fact *facts, uint32_t most);
/* Empties it: it keeps nothing any more. AF_STALE: it is gone. */
int af_lineage_empty(struct af_client *node, af_off lineage, uint32_t generation);
/* After that: those that were made from the results of emptied ones hold them no longer, so that a chain ends. */
void af_lineage_prune(struct af_client *node);

/* What is to be made again, of a SPILLED block that the node holds. */
enum af_lineage_origin { AF_ORIGIN_CALL = 0, AF_ORIGIN_PUT, AF_ORIGIN_ITEM, AF_ORIGIN_NO_RETRIES, AF_ORIGIN_USED_UP,
                         AF_ORIGIN_ACTOR, AF_ORIGIN_NOT_KEPT };
/* AF_ORIGIN_CALL: *lineage is held under *hold, *index says which of its results it is. Else why there is none. */
enum af_lineage_origin af_lineage_of(struct af_client *node, af_off spilled, af_off *lineage, uint32_t *hold,
                                     uint32_t *index);
/* AF_OK: it can be run; AF_EMPTY: it was emptied; AF_FULL: no retries are left; AF_CLOSED: nobody reads its mailbox any
 * more. */
int af_lineage_look(const struct af_client *node, af_off lineage);
/* Input i of a held lineage. AF_OK: it is there, *of is 0, or, where it lies on disk, its SPILLED block, held under
 * *hold. AF_STALE: it is gone; *of is its lineage, held, and *index which result it is. AF_BAD: gone for good. */
int af_lineage_input(struct af_client *node, af_off lineage, uint32_t i, af_off *of, uint32_t *hold, uint32_t *index);
/* Runs it again. `instead` has a cell, held by the caller, for each input that is gone, else 0. holds[0..returns]: the new
 * call's cells. AF_STALE: an input is gone after all; AF_FULL: no memory; AF_CLOSED. Nothing has happened then. */
int af_lineage_run(struct af_client *node, af_off lineage, const af_off *instead, uint32_t *holds);
/* The call has been run: what is left of its retries. */
void af_lineage_ran(struct af_client *node, af_off lineage, af_off call);
/* Gives the value of `cell`, DONE and used by nobody else, to the cell of a SPILLED block that the node holds, and wakes
 * who waits for it. AF_STALE: nobody wants it any more; AF_FULL: no room. */
int af_lineage_deliver(struct af_client *node, af_off spilled, af_off cell);
#endif
