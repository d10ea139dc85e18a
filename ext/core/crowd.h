/* crowd.h - whether more processes want the CPUs than there are. Who spins then is in the way of what it waits for.
 *
 * Found by yields. One that takes over 20 us gave the CPU to someone; but who only spins and works in turns with us gives
 * it back soon, and is no crowd. Some milliseconds are a time slice: somebody computes. Three of these in a short time, and
 * nobody of this process spins for 20 ms.
 * After that, while the kernel counts more runnable processes than CPUs, it goes on, for twice as long each time (640 ms
 * at most): a look costs 20 us, a yield to find out a time slice. After sixteen looks in a row a single long yield must
 * find it again, since the count may be wrong: it has those who only spin in it, so a ring of processes that wake each
 * other would never see its crowd end; and it may be of another machine than this process may use, or not to be read.
 * Who writes: any spinning thread of the client; all of it is a hint, private to the process. */
#ifndef AF_CROWD_H
#define AF_CROWD_H
#include "af.h"

bool af_crowded(const struct af_client *client, uint64_t now_ns);
/* Lets others run; false: others wanted the CPU for long, or did lately, so do not spin on. [no GIL] */
bool af_yield(const struct af_client *client);
#endif
