/* disk.c - large values to files and back; see disk.h. */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define STEP_BYTES (16u * 1024u * 1024u) /* of one system call: a signal or a stop has to wait no longer */
#define PRIME_1 0x9e3779b185ebca87ull
#define PRIME_2 0xc2b2ae3d27d4eb4full

static inline uint64_t rotated(uint64_t value, int by) { return value << by | value >> (64 - by); }
static inline uint64_t mixed(uint64_t lane, uint64_t word) { return rotated(lane + word * PRIME_2, 31) * PRIME_1; }
static inline uint64_t word_from(const uint8_t *data) {
  uint64_t word;
  memcpy(&word, data, sizeof word);
  return word;
}

uint64_t af_disk_sum(const uint8_t *data, uint64_t bytes) {
  uint64_t lanes[4] = {PRIME_1 + PRIME_2, PRIME_2, 0, 0 - PRIME_1}, sum = bytes, at = 0;
  for (; at + 32 <= bytes; at += 32) { /* no inner loop: the lanes stay in registers */
    lanes[0] = mixed(lanes[0], word_from(data + at));
    lanes[1] = mixed(lanes[1], word_from(data + at + 8));
    lanes[2] = mixed(lanes[2], word_from(data + at + 16));
    lanes[3] = mixed(lanes[3], word_from(data + at + 24));
  }
  for (int i = 0; i < 4; i++)
    sum = (sum ^ mixed(0, lanes[i])) * PRIME_1 + rotated(lanes[i], 7 * i + 1);
  for (; at < bytes; at++)
    sum = rotated(sum ^ data[at] * PRIME_2, 11) * PRIME_1;
  sum = (sum ^ sum >> 33) * PRIME_2;
  return sum ^ sum >> 29;
}

static uint64_t whole_pages(uint64_t bytes) { return (bytes + AF_PAGE - 1) / AF_PAGE * AF_PAGE; }
static uint64_t step_of(uint64_t bytes) { return bytes < STEP_BYTES ? bytes : STEP_BYTES; }

int af_disk_write(int fd, const uint8_t *data, uint64_t bytes, uint64_t offset, uint32_t header_bytes, uint64_t *sum) {
  uint64_t whole = whole_pages(bytes);
  *sum = af_disk_sum(data + header_bytes, bytes - header_bytes);
  for (uint64_t done = 0; done < whole;) {
    ssize_t written = pwrite(fd, data + done, step_of(whole - done), (off_t)(offset + done));
    if (written < 0 && errno != EINTR)
      return errno;
    if (written == 0 || (written > 0 && written % AF_PAGE != 0))
      return ENOSPC;
    done += written > 0 ? (uint64_t)written : 0;
  }
  return 0;
}

/* The first page by way of another, whose first bytes are left out. */
static int first_page_read(int fd, uint8_t *data, uint64_t bytes, uint64_t offset, uint32_t header_bytes) {
  _Alignas(AF_PAGE) uint8_t page[AF_PAGE];
  ssize_t got;
  do
    got = pread(fd, page, sizeof page, (off_t)offset);
  while (got < 0 && errno == EINTR);
  if (got != (ssize_t)sizeof page)
    return got < 0 ? errno : EIO;
  memcpy(data + header_bytes, page + header_bytes, (bytes < AF_PAGE ? bytes : AF_PAGE) - header_bytes);
  return 0;
}

int af_disk_read(int fd, uint8_t *data, uint64_t bytes, uint64_t offset, uint32_t header_bytes, uint64_t *sum) {
  uint64_t whole = whole_pages(bytes);
  int error = first_page_read(fd, data, bytes, offset, header_bytes);
  for (uint64_t done = AF_PAGE; error == 0 && done < whole;) {
    ssize_t got = pread(fd, data + done, step_of(whole - done), (off_t)(offset + done));
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0 || got % AF_PAGE != 0)
      error = got < 0 ? errno : EIO;
    else
      done += (uint64_t)got;
  }
  if (error == 0)
    *sum = af_disk_sum(data + header_bytes, bytes - header_bytes);
  return error;
}
