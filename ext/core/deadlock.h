/* deadlock.h - waits that can never end, because what is waited for waits in turn for the waiter.
 *
 * Purpose: who has slept for a while asks whether it sleeps in a circle. Costs nothing before.
 * How: a process whose one thread that runs calls sleeps without a limit says in its slot (`waits`) for which cell. From
 * a cell the way leads to the process that has it: the one that has started it; or, unread in the mailbox of an actor
 * that runs one call at a time (AF_MAILBOX_ORDERED), the one that is in a call of that mailbox; a call whose arguments
 * are not ready leads to one of these. If the way comes back to who asks, it is a circle.
 * Guarantees: a circle that is found is there: the way is walked twice, and each process on it was in the same wait both
 * times, so all of them were at once, and none of them can end its own. Of the processes of a circle one is chosen, by
 * what they all see: one that waits for an unread call before others, then the highest slot.
 * Not found: circles through loops, threaded actors, streams, or more than AF_DEADLOCK_MOST processes.
 * Who writes: `waits` its own process, one thread. A crash leaves: nothing that counts, its slot is not LIVE. */
#ifndef AF_DEADLOCK_H
#define AF_DEADLOCK_H
#include "af.h"

#define AF_DEADLOCK_MOST 64

/* This process sleeps for the cell from now on, without a limit. Returns what `end` is given: waits may nest, in a signal
 * handler. */
uint64_t af_deadlock_begin(struct af_client *client, af_off cell);
void af_deadlock_end(struct af_client *client, uint64_t before);
/* Whether the wait that has begun is in a circle, and this process is the one to end it. */
bool af_deadlock_found(const struct af_client *client);
#endif
