/* populate.c - makes pages of large values present before they are written, at memory speed; see af_extent_populate. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>

#include "extent.h"

/* Kernels before 5.14 know no MADV_POPULATE_WRITE: adding nothing to a byte of each page does as well. */
static bool chunk_populate(uint8_t *start, uint64_t bytes) {
#ifdef MADV_POPULATE_WRITE
  int status;
  do
    status = madvise(start, bytes, MADV_POPULATE_WRITE);
  while (status < 0 && errno == EINTR);
  if (status == 0 || errno != EINVAL)
    return status == 0;
#endif
  for (uint64_t i = 0; i < bytes; i += AF_PAGE)
    __atomic_fetch_add(start + i, 0, __ATOMIC_RELAXED);
  return true;
}

void af_extent_populate(struct af_client *client, af_off offset, uint64_t bytes) {
  af_off objects = client->header->objects;
  if (bytes == 0 || offset < objects || offset >= client->size_bytes)
    return;
  uint64_t end = bytes < client->size_bytes - offset ? offset + bytes - objects : client->size_bytes - objects;
  for (uint64_t chunk = (offset - objects) / AF_POPULATE_BYTES; chunk * AF_POPULATE_BYTES < end; chunk++) {
    uint64_t bit = 1ull << (chunk % 64), start = objects + chunk * AF_POPULATE_BYTES;
    uint64_t length = client->size_bytes - start;
    if ((__atomic_load_n(&client->populated[chunk / 64], __ATOMIC_RELAXED) & bit) != 0)
      continue;
    if (chunk_populate(client->base + start, length < AF_POPULATE_BYTES ? length : AF_POPULATE_BYTES))
      __atomic_fetch_or(&client->populated[chunk / 64], bit, __ATOMIC_RELAXED);
  }
}
