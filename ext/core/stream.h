/* stream.h - results that come one by one: a chain of EXPECTED cells that one executor completes in order.
 *
 * Purpose: a generator's items, each readable as soon as it was yielded, without the node and without a socket.
 * Theory: item n is an EXPECTED cell, marked AF_CELL_ITEM, with n as its `number`. Before the executor completes it, it
 * makes item n + 1 and links it: `stream` of item n owns one count of it. The call has two return cells: the item that is
 * to be completed next, and the one after it while that is being made, else 0 (two places take turns; one that is done is
 * let go of, so that it lives for its reader alone). So whatever kills the executor, each item that is not done is a return cell of its call: who settles the call settles it, and an attempt that
 * replays the call finds by `number` how many items are there already.
 * The reader holds one item. Done, it is a result like any other; its link, and the count with it, is taken over by the
 * reader as what it holds next, so an item that is kept keeps no other. The last cell bears the end (a format of the
 * upper layer's) or the error, and no link.
 * Nobody reads: the next item is counted by the call alone. This is how the executor sees that the reader let go of the
 * stream, in order or killed; nothing has to be sent. `stream` of the call bears what the reader has taken, for
 * backpressure, and is the futex that the executor sleeps on then.
 * Who writes: the two places and an unfinished item's link: who STARTED the call. A done item's link: its reader (takes
 * it, 0), of which there is one. The call's word: both, by compare-and-swap.
 * A crash leaves: an item made and linked nowhere (recount); both items unfinished (both are settled, and the reader ends
 * at the first); a link taken and not recorded (recount); a sleeper that was not woken (looks again). */
#ifndef AF_STREAM_H
#define AF_STREAM_H
#include "cell.h"

/* struct af_cell.stream of a call: [31:0] items taken (the futex word), [61:32] limit of items not taken, 0: none. */
#define AF_STREAM_LIMIT_MOST 0x3fffffffu
#define AF_STREAM_ALL (1ull << 62)     /* to be run to its end though nobody reads its items */
#define AF_STREAM_SLEEPER (1ull << 63) /* the executor sleeps until one is taken */
#define AF_STREAM_RETURNS 2u           /* return cells of such a call; the second is 0 at first */

/* Item 0, for the maker of the call (count 1). */
int af_stream_item_create(struct af_client *client, uint32_t reserve, af_off *item);
/* Maker: the call's word. */
void af_stream_begin(struct af_client *client, af_off call, uint32_t limit);

/* Executor: the item to be completed next; 0: the stream has ended. */
af_off af_stream_current(const struct af_client *client, af_off call);
/* Executor: makes and links the one that follows `item`, the current one, if that has not been done yet. AF_FENCED. */
int af_stream_extend(struct af_client *client, af_off call, af_off item, uint32_t reserve);
/* Executor: lets go of `item`, which is done. */
void af_stream_release(struct af_client *client, af_off call, af_off item);
/* Executor: what it finds when `item` is the current one. AF_OK: go on; AF_FULL: nothing until one is taken; AF_CLOSED:
 * nobody wants more. */
int af_stream_look(const struct af_client *client, af_off call, af_off item);
/* Executor: sleeps while that is AF_FULL, at most timeout_ns or AF_SLEEP_MS; then as af_stream_look, or AF_INTERRUPTED.
 * [no GIL] */
int af_stream_wait(struct af_client *client, af_off call, af_off item, uint64_t timeout_ns);

/* Reader, which holds the call and `item`, done: takes over what follows it, recorded under *hold, and counts that.
 * AF_EMPTY: nothing follows. */
int af_stream_take(struct af_client *client, af_off call, af_off item, af_off *following, uint32_t *hold);
/* Reader: whether the call is to be run to its end. */
void af_stream_want_all(struct af_client *client, af_off call, bool all);
/* Reader: has the executor look, once it let go of its item. */
void af_stream_wake(struct af_client *client, af_off call);
#endif
