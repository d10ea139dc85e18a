/* copy.h - copies of large values.
 *
 * A copy that is larger than the caches writes past them (non-temporal stores): the processor then does not read what it
 * is about to overwrite, which is a third of the traffic. The C library does so too, but only above a size that it
 * derives from what the processor says of its caches; in a virtual machine that can be ten times what there is. Measured
 * beside it (AMD EPYC, 32 MiB of cache): 16 MiB 1.9 times as fast, 100 MB 1.6 times; 4 MiB, which fits, 0.8 times.
 * One core does not reach the speed of the memory: still larger copies are shared among threads that live as long as the
 * copy, one per CPU that the process may use, where that many can be had (two threads: 1.3 times as fast).
 * Assumes: nothing. The bytes are there, for other processes too, once what is stored after it by this thread is. */
#ifndef AF_COPY_H
#define AF_COPY_H
#include "af.h"

#define AF_COPY_STREAM_BYTES (16u * 1024u * 1024u)
#define AF_COPY_PART_BYTES (32u * 1024u * 1024u) /* the least for a thread, whose start takes some 0.1 ms */
#define AF_COPY_THREADS_MOST 4u                  /* the copying one among them */

void af_copy(uint8_t *to, const uint8_t *from, uint64_t bytes); /* they do not overlap [no GIL] */
#endif
