/* disk.h - moves the bytes of a large value between the object store and a file, and sums them up on the way.
 *
 * Theory: an extent begins and ends at a page, in memory and (the caller sees to that) in the file, so both ways can be
 * direct: no copy, and no page cache that would push out other things. The header of a block is written along and never
 * read back: it is shared, and others count in it. Its place in the first page is left alone by way of a page of the
 * reader's own. The sum is of what lies behind the header.
 * Assumes: nobody changes or frees the extent meanwhile (the node holds it). Touches no client: [no GIL]. */
#ifndef AF_DISK_H
#define AF_DISK_H
#include "af.h"

/* Writes [data, data + bytes), rounded up to whole pages, to the file at `offset`. Returns 0 or an errno; ENOSPC also where
 * less than all could be written. */
int af_disk_write(int fd, const uint8_t *data, uint64_t bytes, uint64_t offset, uint32_t header_bytes, uint64_t *sum);
/* Reads it back, all but the first header_bytes. Returns 0 or an errno; EIO where the file ends too early. */
int af_disk_read(int fd, uint8_t *data, uint64_t bytes, uint64_t offset, uint32_t header_bytes, uint64_t *sum);
/* 64 bits that change when any of the bytes does: four lanes of multiply and rotate, as in xxHash64, not its value. */
uint64_t af_disk_sum(const uint8_t *data, uint64_t bytes);
#endif
