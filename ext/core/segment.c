/* segment.c - creates, seals, maps and checks the memfd; see segment.h. */
#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "extent.h"
#include "heap.h"
#include "slot.h"

#ifndef MFD_NOEXEC_SEAL /* Linux 6.3 */
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define SPIN_US_DEFAULT 50u
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

struct parts { af_off slots, spans, extents, heap, objects; uint64_t size_bytes; };

uint64_t af_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

/* Where each part starts follows from the three counts alone, so that a map can check what the header says. */
static void parts_place(uint32_t slot_count, uint32_t span_count, uint64_t page_count, struct parts *parts) {
  parts->slots = round_up(sizeof(struct af_header), AF_PAGE);
  parts->spans = round_up(parts->slots + (uint64_t)slot_count * sizeof(struct af_slot), AF_PAGE);
  parts->extents = round_up(parts->spans + (uint64_t)span_count * sizeof(struct af_span), AF_PAGE);
  parts->heap = round_up(parts->extents + page_count * sizeof(struct af_extent), AF_SPAN);
  parts->objects = round_up(parts->heap + (uint64_t)span_count * AF_SPAN, AF_POPULATE_BYTES);
  parts->size_bytes = parts->objects + page_count * AF_PAGE;
}

static bool layout_is_possible(const struct af_layout *layout) {
  uint64_t span_count = round_up(layout->message_bytes, AF_SPAN) / AF_SPAN;
  uint64_t control = round_up(layout->control_reserve_bytes, AF_SPAN) / AF_SPAN;
  return layout->slot_count >= 1 && layout->slot_count <= 32767 && span_count >= 2 && span_count <= INT32_MAX &&
         control < span_count && layout->object_bytes / AF_PAGE < UINT32_MAX - 1;
}

static void header_fill(struct af_header *header, const struct af_layout *layout) {
  struct parts parts;
  header->header_bytes = sizeof *header;
  header->node_pid = (uint32_t)getpid();
  header->slot_count = layout->slot_count;
  header->span_count = (uint32_t)(round_up(layout->message_bytes, AF_SPAN) / AF_SPAN);
  header->control_spans = (uint32_t)(round_up(layout->control_reserve_bytes, AF_SPAN) / AF_SPAN);
  header->page_count = round_up(layout->object_bytes, AF_PAGE) / AF_PAGE;
  parts_place(header->slot_count, header->span_count, header->page_count, &parts);
  header->slots = parts.slots;
  header->spans = parts.spans;
  header->extents = parts.extents;
  header->heap = parts.heap;
  header->objects = parts.objects;
  header->size_bytes = parts.size_bytes;
}

static int header_check(const struct af_header *header, uint64_t size_bytes) {
  struct parts parts;
  if (header->magic != AF_MAGIC)
    return AF_BAD;
  if (header->version != AF_VERSION)
    return AF_STALE;
  if (header->header_bytes != sizeof *header || header->slot_count < 1 || header->slot_count > 32767 ||
      header->span_count > INT32_MAX || header->page_count >= UINT32_MAX - 1)
    return AF_BAD;
  parts_place(header->slot_count, header->span_count, header->page_count, &parts);
  bool same = header->slots == parts.slots && header->spans == parts.spans && header->extents == parts.extents &&
              header->heap == parts.heap && header->objects == parts.objects &&
              header->size_bytes == parts.size_bytes && parts.size_bytes == size_bytes &&
              header->control_spans < header->span_count;
  return same ? AF_OK : AF_BAD;
}

static void client_init(struct af_client *client) {
  memset(client, 0, sizeof *client);
  client->memfd = client->node_pidfd = client->wake_socket = -1;
  client->spin_us = SPIN_US_DEFAULT;
  client->point = -1;
  for (int i = 0; i < AF_CLASSES; i++)
    client->arenas[i].span = -1;
}

static int client_map(struct af_client *client, int memfd, uint64_t size_bytes) {
  int flags = MAP_SHARED | MAP_NORESERVE;
  uint8_t *base = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, flags, memfd, 0);
  uint8_t *view = mmap(NULL, size_bytes, PROT_READ, flags, memfd, 0);
  client->size_bytes = size_bytes;
  client->base = base == MAP_FAILED ? NULL : base;
  client->view = view == MAP_FAILED ? NULL : view;
  if (client->base == NULL || client->view == NULL)
    return AF_SYSTEM;
  if (madvise(base, size_bytes, MADV_DONTDUMP) < 0 || madvise(view, size_bytes, MADV_DONTDUMP) < 0)
    return AF_SYSTEM;
  client->header = (struct af_header *)(void *)base;
  return AF_OK;
}

/* What the client needs beside the mapping. A forked child needs it anew: it has none of its parent's page tables. */
int af_segment_equip(struct af_client *client) {
  uint64_t chunks = client->header->page_count * AF_PAGE / AF_POPULATE_BYTES + 1;
  free(client->populated);
  if (client->wake_socket >= 0)
    close(client->wake_socket);
  client->populated = calloc(chunks / 64 + 1, sizeof *client->populated);
  client->wake_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  client->random = af_now_ns() ^ (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)client;
  client->random |= 1; /* xorshift stays at 0 */
  return client->populated == NULL || client->wake_socket < 0 ? AF_SYSTEM : AF_OK;
}

int af_memfd_create(const char *name) {
  int memfd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (memfd < 0 && errno == EINVAL)
    memfd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  return memfd;
}

static int memfd_make(uint64_t size_bytes) {
  int memfd = af_memfd_create("actorflow");
  if (memfd < 0)
    return -1;
  if (ftruncate(memfd, (off_t)size_bytes) == 0 && fcntl(memfd, F_ADD_SEALS, SEALS) == 0)
    return memfd;
  int error = errno;
  close(memfd);
  errno = error;
  return -1;
}

/* Undoes a create or map that failed on its way; errno stays what it was. */
static int client_fail(struct af_client *client, int status) {
  int error = errno;
  client->memfd = -1;
  af_segment_unmap(client);
  errno = error;
  return status;
}

static void node_slot_take(struct af_client *client) {
  uint32_t index = 0, epoch = 0;
  int status = af_slot_reserve(client, AF_ROLE_NODE, 0, &index, &epoch);
  if (status == AF_OK && index == 0)
    af_slot_claim(client, index, epoch);
}

int af_segment_create(struct af_client *client, const struct af_layout *layout, const uint8_t node_id[16]) {
  struct af_header header;
  client_init(client);
  if (!layout_is_possible(layout)) {
    errno = EINVAL;
    return AF_SYSTEM;
  }
  memset(&header, 0, sizeof header);
  header_fill(&header, layout);
  memcpy(header.node_id, node_id, sizeof header.node_id);
  int memfd = memfd_make(header.size_bytes);
  if (memfd < 0)
    return AF_SYSTEM;
  int status = client_map(client, memfd, header.size_bytes);
  if (status == AF_OK) {
    memcpy(client->header, &header, sizeof header);
    client->header->version = AF_VERSION;
    client->header->magic = AF_MAGIC;
    status = af_segment_equip(client);
  }
  if (status != AF_OK) {
    client_fail(client, status);
    close(memfd);
    return status;
  }
  client->memfd = memfd;
  node_slot_take(client);
  return AF_OK;
}

/* Sealed and large enough for a header, so that reading it cannot fault. */
static int memfd_check(int memfd, uint64_t *size_bytes) {
  struct stat facts;
  int seals = fcntl(memfd, F_GET_SEALS);
  if (seals < 0 || (seals & SEALS) != SEALS)
    return AF_BAD;
  if (fstat(memfd, &facts) < 0)
    return AF_SYSTEM;
  *size_bytes = (uint64_t)facts.st_size;
  return *size_bytes < sizeof(struct af_header) ? AF_BAD : AF_OK;
}

int af_segment_map(struct af_client *client, int memfd) {
  uint64_t size_bytes = 0;
  client_init(client);
  int status = memfd_check(memfd, &size_bytes);
  if (status == AF_OK)
    status = client_map(client, memfd, size_bytes);
  if (status == AF_OK)
    status = header_check(client->header, size_bytes);
  if (status == AF_OK)
    status = af_segment_equip(client);
  if (status != AF_OK)
    return client_fail(client, status);
  client->memfd = memfd;
  return AF_OK;
}

void af_segment_unmap(struct af_client *client) {
  if (client->base != NULL)
    munmap(client->base, client->size_bytes);
  if (client->view != NULL)
    munmap((void *)(uintptr_t)client->view, client->size_bytes);
  if (client->memfd >= 0)
    close(client->memfd);
  if (client->wake_socket >= 0)
    close(client->wake_socket);
  if (client->node_pidfd >= 0)
    close(client->node_pidfd);
  free(client->populated);
  free(client->hold_chunks);
  free(client->hold_free);
  client_init(client);
}
