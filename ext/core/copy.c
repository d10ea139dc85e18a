/* copy.c - copies of large values, past the caches and by several threads; see copy.h. */
#define _GNU_SOURCE
#include "copy.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#ifdef __SSE2__ /* all of x86-64; elsewhere the C library knows best */
#include <emmintrin.h>

#define STEP_BYTES (2u * AF_LINE)
#define STEP_PARTS (STEP_BYTES / sizeof(__m128i))
#define AHEAD_BYTES 2048u /* of reading: the far end of what is on its way from memory at a time */

/* To a whole line's address; the bytes of the last, partial step are left. */
static uint64_t copy_steps(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  uint64_t done = 0;
  for (; done + STEP_BYTES <= bytes; done += STEP_BYTES) {
    const __m128i *source = (const __m128i *)(const void *)(from + done);
    __m128i *target = (__m128i *)(void *)(to + done), step[STEP_PARTS];
    for (unsigned byte = 0; byte < STEP_BYTES; byte += AF_LINE)
      _mm_prefetch((const char *)source + AHEAD_BYTES + byte, _MM_HINT_NTA);
    for (unsigned part = 0; part < STEP_PARTS; part++) step[part] = _mm_loadu_si128(source + part);
    for (unsigned part = 0; part < STEP_PARTS; part++) _mm_stream_si128(target + part, step[part]);
  }
  _mm_sfence();
  return done;
}

static void copy_past_caches(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  uint64_t head = -(uintptr_t)to % AF_LINE;
  memcpy(to, from, head);
  head += copy_steps(to + head, from + head, bytes - head);
  memcpy(to + head, from + head, bytes - head);
}
#else
static void copy_past_caches(uint8_t *to, const uint8_t *from, uint64_t bytes) { memcpy(to, from, bytes); }
#endif

/* ---- by several threads ---- */

#define STACK_BYTES (256u * 1024u) /* with room for the thread-local data of whatever the process has loaded */

struct part { uint8_t *to; const uint8_t *from; uint64_t bytes; pthread_t thread; bool begun; };

static void *copy_part(void *argument) {
  const struct part *part = argument;
  copy_past_caches(part->to, part->from, part->bytes);
  return NULL;
}

static uint32_t threads_for(uint64_t bytes) {
  cpu_set_t usable;
  uint64_t threads = bytes / AF_COPY_PART_BYTES;
  if (threads < 2 || sched_getaffinity(0, sizeof usable, &usable) != 0)
    return 1;
  if (threads > (uint64_t)CPU_COUNT(&usable)) threads = (uint64_t)CPU_COUNT(&usable);
  return threads < AF_COPY_THREADS_MOST ? (uint32_t)threads : AF_COPY_THREADS_MOST;
}

/* All but the first, with all signals blocked: their handlers are for the threads of the program. */
static void parts_begin(struct part *parts, uint32_t count) {
  sigset_t all, before;
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0)
    return;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0)
    for (uint32_t i = 1; i < count; i++)
      parts[i].begun = pthread_create(&parts[i].thread, &attributes, copy_part, &parts[i]) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
}

static void copy_by_threads(uint8_t *to, const uint8_t *from, uint64_t bytes, uint32_t count) {
  struct part parts[AF_COPY_THREADS_MOST];
  uint64_t share = bytes / count / AF_PAGE * AF_PAGE;
  for (uint32_t i = 0; i < count; i++)
    parts[i] = (struct part){to + i * share, from + i * share, i + 1 < count ? share : bytes - i * share, 0, false};
  parts_begin(parts, count);
  copy_part(&parts[0]);
  for (uint32_t i = 1; i < count; i++)
    if (!parts[i].begun)
      copy_part(&parts[i]);
  for (uint32_t i = 1; i < count; i++)
    if (parts[i].begun)
      pthread_join(parts[i].thread, NULL);
}

void af_copy(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  uint32_t threads = threads_for(bytes);
  if (threads > 1)
    copy_by_threads(to, from, bytes, threads);
  else if (bytes >= AF_COPY_STREAM_BYTES)
    copy_past_caches(to, from, bytes);
  else
    memcpy(to, from, bytes);
}
