/* copy.c - copies of large values, past the caches; see copy.h. */
#include "copy.h"

#include <string.h>

#ifdef __SSE2__ /* all of x86-64; elsewhere the C library knows best */
#include <emmintrin.h>

#define LINE_PARTS (AF_LINE / sizeof(__m128i))
#define AHEAD_BYTES 1024u /* of reading: the far end of what is on its way from memory at a time */

/* To a whole line's address; the bytes of the last, partial line are left. */
static uint64_t copy_lines(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  uint64_t done = 0;
  for (; done + AF_LINE <= bytes; done += AF_LINE) {
    const __m128i *source = (const __m128i *)(const void *)(from + done);
    __m128i *target = (__m128i *)(void *)(to + done), line[LINE_PARTS];
    _mm_prefetch((const char *)source + AHEAD_BYTES, _MM_HINT_NTA);
    for (unsigned part = 0; part < LINE_PARTS; part++) line[part] = _mm_loadu_si128(source + part);
    for (unsigned part = 0; part < LINE_PARTS; part++) _mm_stream_si128(target + part, line[part]);
  }
  _mm_sfence();
  return done;
}

void af_copy(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  if (bytes >= AF_COPY_STREAM_BYTES) {
    uint64_t head = -(uintptr_t)to % AF_LINE;
    memcpy(to, from, head);
    head += copy_lines(to + head, from + head, bytes - head);
    to += head;
    from += head;
    bytes -= head;
  }
  memcpy(to, from, bytes);
}
#else
void af_copy(uint8_t *to, const uint8_t *from, uint64_t bytes) { memcpy(to, from, bytes); }
#endif
