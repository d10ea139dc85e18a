/* test_copy.c - copies of large values: every byte, and none beside. */
#define _GNU_SOURCE
#include "copy.h"
#include "harness.h"

#define ROOM (AF_COPY_STREAM_BYTES + 4 * AF_PAGE)
#define GUARD 0x5a

static uint8_t byte_at(uint64_t i) { return (uint8_t)(i * 2654435761u >> 13); }

static void check_copy(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  memset(to - AF_LINE, GUARD, bytes + 2 * AF_LINE);
  af_copy(to, from, bytes);
  CHECK(memcmp(to, from, bytes) == 0, "every byte");
  for (unsigned i = 0; i < AF_LINE; i++)
    CHECK(to[bytes + i] == GUARD && to[-1 - (int)i] == GUARD, "none beside");
}

int main(void) {
  static const uint64_t sizes[] = {0, 1, AF_PAGE + 3, AF_COPY_STREAM_BYTES - 1, AF_COPY_STREAM_BYTES,
                                   AF_COPY_STREAM_BYTES + AF_LINE - 1, AF_COPY_STREAM_BYTES + AF_PAGE + 1};
  static const unsigned shifts[] = {0, 1, 16, 63};
  uint8_t *from = malloc(ROOM), *to = malloc(ROOM);
  CHECK(from && to, "memory");
  for (uint64_t i = 0; i < ROOM; i++) from[i] = byte_at(i);
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
    for (unsigned j = 0; j < sizeof shifts / sizeof *shifts; j++)
      for (unsigned k = 0; k < sizeof shifts / sizeof *shifts; k++)
        check_copy(to + AF_LINE + shifts[j], from + shifts[k], sizes[i]);
  free(from);
  free(to);
  return 0;
}
