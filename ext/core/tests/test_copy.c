/* test_copy.c - copies of large values: every byte, and none beside. */
#define _GNU_SOURCE
#include "copy.h"
#include "harness.h"

#include <sched.h>
#include <sys/resource.h>

#define ROOM (AF_COPY_THREADS_MOST * AF_COPY_PART_BYTES + 4 * AF_PAGE)
#define GUARD 0x5a

static uint8_t byte_at(uint64_t i) { return (uint8_t)(i * 2654435761u >> 13); }

static void check_copy(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  memset(to - AF_LINE, GUARD, bytes + 2 * AF_LINE);
  af_copy(to, from, bytes);
  CHECK(memcmp(to, from, bytes) == 0, "every byte");
  for (unsigned i = 0; i < AF_LINE; i++)
    CHECK(to[bytes + i] == GUARD && to[-1 - (int)i] == GUARD, "none beside");
}

/* A process that may have no more memory gets no thread. Not under a sanitizer: those need some for themselves. */
static void copy_without_threads(uint8_t *to, const uint8_t *from) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  pid_t child = child_fork();
  if (child == 0) {
    CHECK(setrlimit(RLIMIT_AS, &(struct rlimit){AF_PAGE, AF_PAGE}) == 0, "the limit");
    check_copy(to, from, 2 * AF_COPY_PART_BYTES + 1);
    _exit(0);
  }
  child_join(child);
#else
  (void)to;
  (void)from;
#endif
}

static void copy_on_one_cpu(uint8_t *to, const uint8_t *from) {
  cpu_set_t before, one;
  CHECK(sched_getaffinity(0, sizeof before, &before) == 0, "the CPUs");
  CPU_ZERO(&one);
  CPU_SET((unsigned)sched_getcpu(), &one);
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0, "one CPU");
  check_copy(to, from, 2 * AF_COPY_PART_BYTES + 1);
  CHECK(sched_setaffinity(0, sizeof before, &before) == 0, "all again");
}

int main(void) {
  static const uint64_t sizes[] = {0, 1, AF_PAGE + 3, AF_COPY_STREAM_BYTES - 1, AF_COPY_STREAM_BYTES,
                                   AF_COPY_STREAM_BYTES + AF_LINE - 1, AF_COPY_STREAM_BYTES + AF_PAGE + 1};
  static const uint64_t shared[] = {2 * AF_COPY_PART_BYTES - 1, 2 * AF_COPY_PART_BYTES, 2 * AF_COPY_PART_BYTES + 1,
                                    AF_COPY_THREADS_MOST * AF_COPY_PART_BYTES + AF_PAGE + 63};
  static const unsigned shifts[] = {0, 1, 16, 63};
  uint8_t *from = malloc(ROOM), *to = malloc(ROOM);
  CHECK(from && to, "memory");
  for (uint64_t i = 0; i < ROOM; i++) from[i] = byte_at(i);
  copy_without_threads(to + AF_LINE, from);
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
    for (unsigned j = 0; j < sizeof shifts / sizeof *shifts; j++)
      for (unsigned k = 0; k < sizeof shifts / sizeof *shifts; k++)
        check_copy(to + AF_LINE + shifts[j], from + shifts[k], sizes[i]);
  for (unsigned i = 0; i < sizeof shared / sizeof *shared; i++)
    check_copy(to + AF_LINE + shifts[i], from + shifts[3 - i], shared[i]);
  copy_on_one_cpu(to + AF_LINE, from);
  free(from);
  free(to);
  return 0;
}
