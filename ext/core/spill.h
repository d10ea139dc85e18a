/* spill.h - large values that lie on disk for a while, and the room that is made by that.
 *
 * Representation: the value of a DONE cell is one word, `value`. It names the AF_KIND_OBJECT block, or, with
 * AF_VALUE_SPILLED set, an AF_KIND_SPILLED block of the message heap that says what the object was and where the node
 * keeps its bytes. Values never change, so while both exist either may be read: a spill writes the bytes, makes the
 * SPILLED block, exchanges the word by CAS and drops the cell's count of the object; whoever still has a view keeps the
 * object (not the cell) alive until the view goes. Restoring is the same in the other direction; the object then owns
 * the SPILLED block as its `copy`, so its bytes stay on disk and it can be spilled again without being written.
 * Both blocks count the references in the value for themselves, so what they refer to lives as long as either.
 * Who writes: `value` of a DONE cell the node alone, by CAS. An object's `cell` whoever completes it, before DONE (the
 * node finds the owner of an object by it); then the node, which gives the value to another (af_lineage_deliver). `used`
 * anyone (a hint). A SPILLED block: the node; `turn` is its futex.
 * Readers hold what they read (af_value_hold): they count the block that the word named and look at the word again;
 * only if it is unchanged the count is of the cell's value. An idle object is one that only its cell counts.
 * The last drop of a SPILLED block puts it on header.spill_returned (linked through block.next, count 0, as extents that
 * are given back): the node alone gives it back to the heap, once it has freed its place on disk. So an offset of one
 * that the node knows of stays that one's.
 * Asking: who wants a value back puts the offset of the SPILLED block, which it holds, into a place of header.spill_asked
 * and rings; who finds no room notes how much it wants in header.room_wanted and rings. Hints all of it: a place may be
 * taken, a ring lost; whoever waits looks again after AF_SLEEP_MS at most and asks again.
 * A crash of a client leaves: an offset in spill_asked (the node compares it with those it knows), or a SPILLED block of
 * count 0 on no list (the recount buries it, which puts it there). A crash of the node ends the segment; its files have
 * no name in any file system.
 * A value whose bytes are lost on disk: the node may have its call run again (lineage.h) and give the cell what comes of
 * that; else `error` says why not. The format of an object's value lies in its block.flags, for that reason.
 * Not spilled: objects with more than AF_SPILL_REFERENCES references in them, arguments over 100 KiB that are not refs
 * (they go with their call), and objects that another block counts since its value's buffers lie in them: a channel's
 * slot, or a call, which is soon done. */
#ifndef AF_SPILL_H
#define AF_SPILL_H
#include "af.h"

#define AF_VALUE_SPILLED 1ull    /* low bit of af_cell.value */
#define AF_SPILL_REFERENCES 8192u
#define AF_SPILL_ASKED 64u
enum af_spill_failure { AF_SPILL_NONE = 0, AF_SPILL_NO_ROOM = 1, AF_SPILL_LOST = 2 /* `error` says why */ };

struct af_spilled {
  struct af_block block;
  _Atomic uint32_t turn;         /* goes up when the value is back, or could not be brought back */
  _Atomic uint32_t failure;      /* enum af_spill_failure of the last turn */
  uint32_t references, buffers;  /* as in struct af_object; the references follow this struct, counted */
  uint64_t bytes, pickle_offset, pickle_bytes;
  struct af_maker maker;
  af_off cell;                   /* whose value it is; not counted */
  uint32_t cell_generation;
  _Atomic uint32_t rebuilding;   /* 1: its call runs again: who waits gives its CPU back meanwhile */
  _Atomic af_off error;          /* owned, written once by the node: what who waits for a value that is lost is to raise */
};

struct af_spill_candidate { af_off block; uint32_t generation, used; uint64_t bytes; /* of the extent */ };
#define AF_NO_HOLD UINT32_MAX
struct af_spill_pins {
  uint32_t cell_hold; /* while it is brought back; else AF_NO_HOLD */
  uint32_t block_hold;
  uint64_t bytes; /* of the value, its header included */
  af_off copy;    /* != 0: it is on disk already: commit at once */
};

/* ---- anyone ---- */

/* Holds what the cell's value is now, as a hold of the table. *spilled: it is a SPILLED block. AF_EMPTY: it lies in the
 * cell, or in a BYTES block, which never moves. AF_FULL: no room in the hold table. */
int af_value_hold(struct af_client *client, af_off cell, af_off *block, bool *spilled, uint32_t *index);
/* Asks the node to bring a value back (the caller holds the SPILLED block), to make room. Repeatable. */
void af_spill_ask(struct af_client *client, af_off spilled);
void af_room_ask(struct af_client *client, uint64_t bytes);
/* Has the node look at all that is asked for here. */
void af_node_ring(struct af_client *client);
/* Frees, and the node when it has made room, ring those who wait for it. */
void af_room_ring(struct af_client *client);
/* block.c: the last count is gone. */
void af_spill_return(struct af_client *client, af_off spilled);

/* ---- the node ---- */

/* The `most` idle objects of at least `least` bytes that were not used for longest, oldest first; returns how many.
 * `written`: only of those that are on disk already. */
uint32_t af_spill_pick(struct af_client *node, struct af_spill_candidate *candidates, uint32_t most, uint64_t least,
                       bool written);
/* Holds an object while it is written; not its cell, which would keep all that it owns: the rest of a stream, say. AF_BUSY:
 * it is in use, or gone. */
int af_spill_begin(struct af_client *node, af_off block, uint32_t generation, struct af_spill_pins *pins);
/* Makes the written object a spilled one and lets it go. AF_STALE: nobody wants it any more; AF_FULL: no room for its
 * block. Then nothing has changed. */
int af_spill_commit(struct af_client *node, const struct af_spill_pins *pins, af_off *spilled);
void af_spill_abort(struct af_client *node, const struct af_spill_pins *pins);
/* Holds a spilled value, its cell and a new object for it. AF_FULL: no room; AF_STALE: nobody wants it any more. */
int af_restore_begin(struct af_client *node, af_off spilled, struct af_spill_pins *pins);
/* The bytes behind the object's header are there: makes it the cell's value. */
void af_restore_commit(struct af_client *node, af_off spilled, const struct af_spill_pins *pins);
/* Tells who waits; af_spill_abort lets go what af_restore_begin holds. */
void af_restore_fail(struct af_client *node, af_off spilled, enum af_spill_failure failure);
/* As that, AF_SPILL_LOST: `error` is a block as of an ERROR value, held by the caller. The first one stays. */
void af_spill_lose(struct af_client *node, af_off spilled, af_off error);
/* It is being made again; or no more. */
void af_spill_rebuilding(struct af_client *node, af_off spilled, bool on);
/* Takes a value from the SPILLED block that stands for it, and gives the cell `word` instead, a count of whose block passes
 * to the cell; who waits is told. False: it is another's by now, and the count is the caller's still. */
bool af_spill_replace(struct af_client *node, af_off spilled, af_off word);
/* What was asked for and what was given back since: offsets; each at most `most`. The returned ones are of blocks that
 * nobody counts; af_spill_free gives such a block back. */
uint32_t af_spill_asked(struct af_client *node, af_off *asked, uint32_t most);
uint32_t af_spill_returned(struct af_client *node, af_off *returned, uint32_t most);
void af_spill_free(struct af_client *node, af_off spilled);

#include "cell.h"
#include "segment.h"
static inline af_off af_value_word(const struct af_client *client, af_off cell) {
  return __atomic_load_n(&AF_AT(client, struct af_cell, cell)->value, __ATOMIC_ACQUIRE);
}
/* The block with the value of a DONE cell, without the mark; 0: it lies in the cell. */
static inline af_off af_value_block(const struct af_client *client, af_off cell) {
  return af_value_word(client, cell) & ~(af_off)AF_VALUE_SPILLED;
}
/* The format of a value in `block`, which the reader holds (0: it lies in the cell). One that is made again may differ. */
static inline uint8_t af_value_format(const struct af_client *client, af_off cell, af_off block) {
  return block >= client->header->objects ? AF_AT(client, struct af_block, block)->flags
                                          : AF_AT(client, struct af_cell, cell)->value_format;
}
/* It may move: an object, or one that is spilled. */
static inline bool af_value_moves(const struct af_client *client, af_off word) {
  return word >= client->header->objects || (word & AF_VALUE_SPILLED) != 0;
}
#endif
