/* crowd.h - whether more processes want the CPUs than there are. Who spins then is in the way of what it waits for.
 *
 * Found by yields. One that takes over 20 us gave the CPU to someone; but who only spins and works in turns with us gives
 * it back soon, and is no crowd. Some milliseconds are a time slice: somebody computes. Three of these in a short time, and
 * nobody of this process spins for 20 ms.
 * After that, while the kernel counts more runnable processes than CPUs, those of the segment that yield just now left out,
 * it goes on, for twice as long each time (640 ms at most): a look costs 20 us, a yield to find out a time slice. After
 * sixteen looks in a row a single long yield must find it again, since the count may be wrong: those who spin in other
 * segments are in it; and it may be of another machine than this process may use, or not to be read.
 * Who writes: any spinning thread of the client; all of it is a hint, private to the process but for slot->yielding. */
#ifndef AF_CROWD_H
#define AF_CROWD_H
#include "af.h"

bool af_crowded(const struct af_client *client, uint64_t now_ns);
/* Lets others run; false: others wanted the CPU for long, or did lately, so do not spin on. To the patient, long is a time
 * slice. [no GIL] */
bool af_yield(const struct af_client *client, bool patient);
#endif
