/* harness.h - what the C tests share: checks that print, segments and clients, child processes that never stay. */
#ifndef AF_TEST_HARNESS_H
#define AF_TEST_HARNESS_H
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "audit.h"
#include "block.h"
#include "cell.h"
#include "extent.h"
#include "heap.h"
#include "mailbox.h"
#include "segment.h"
#include "slot.h"
#include "wait.h"

#define CHECK(condition, ...) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, "" __VA_ARGS__); \
      fputc('\n', stderr); \
      _exit(1); \
    } \
  } while (0)
#define CHECK_OK(call) \
  do { \
    int status_ = (call); \
    CHECK(status_ == AF_OK, "%s gave %d, errno %d", #call, status_, errno); \
  } while (0)
#define RUN(test) \
  do { \
    uint64_t since_ = af_now_ns(); \
    test(); \
    printf("  %-32s %6.0f ms\n", #test, (double)(af_now_ns() - since_) / 1e6); \
    fflush(stdout); \
  } while (0)

#define MIB (1024ull * 1024ull)

/* The sanitizers make everything slower: fewer rounds, the same checks. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS(n) ((n) / 10)
#else
#define ROUNDS(n) (n)
#endif

static inline void segment_make(struct af_client *node, uint64_t message_bytes, uint64_t control_bytes,
                                uint64_t object_bytes) {
  struct af_layout layout = {64, message_bytes, control_bytes, object_bytes};
  const uint8_t node_id[16] = "test node";
  CHECK_OK(af_segment_create(node, &layout, node_id));
}

/* A client with a mapping of its own, as another process has it. */
static inline void client_attach(struct af_client *node, struct af_client *client) {
  uint32_t index, epoch;
  CHECK_OK(af_segment_map(client, dup(node->memfd)));
  CHECK_OK(af_slot_reserve(node, AF_ROLE_WORKER, 0, &index, &epoch));
  CHECK_OK(af_slot_claim(client, index, epoch));
}

static inline void client_detach(struct af_client *client) {
  af_slot_release(client);
  af_segment_unmap(client);
}

/* A client for a thread, over the node's own mapping: only so can the thread sanitizer see what two of them share. */
static inline void client_share(struct af_client *node, struct af_client *client) {
  uint32_t index, epoch;
  memset(client, 0, sizeof *client);
  client->base = node->base;
  client->view = node->view;
  client->size_bytes = node->size_bytes;
  client->header = node->header;
  client->memfd = client->node_pidfd = client->wake_socket = -1;
  client->point = -1;
  for (int i = 0; i < AF_CLASSES; i++)
    client->arenas[i].span = -1;
  CHECK_OK(af_segment_equip(client));
  CHECK_OK(af_slot_reserve(node, AF_ROLE_WORKER, 0, &index, &epoch));
  CHECK_OK(af_slot_claim(client, index, epoch));
}

static inline void client_unshare(struct af_client *client) {
  af_slot_release(client);
  close(client->wake_socket);
  free(client->populated);
  free(client->hold_chunks);
  free(client->hold_free);
}

static inline struct af_block *block_at(const struct af_client *client, af_off block) {
  return AF_AT(client, struct af_block, block);
}

static inline uint32_t random_next(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return (uint32_t)(*state >> 16);
}

/* A BYTES block that refers to nothing, count 1. */
static inline af_off bytes_make(struct af_client *client, uint32_t bytes) {
  af_off block;
  CHECK_OK(af_heap_allocate(client, bytes, AF_KIND_BYTES, AF_MESSAGES, &block));
  return block;
}

/* A BYTES block that owns `to` (the caller's count passes to it). */
static inline af_off link_make(struct af_client *client, af_off to) {
  af_off block = bytes_make(client, 128);
  *AF_AT(client, af_off, block + sizeof(struct af_object)) = to;
  AF_AT(client, struct af_object, block)->references = to != 0;
  return block;
}

/* Everything that was counted is gone but what `kept` says, and the books agree. */
static inline void audit_clean(struct af_client *client, uint64_t kept) {
  struct af_audit audit;
  uint64_t blocks = 0;
  CHECK_OK(af_audit_run(client, false, 10, &audit));
  for (int i = 0; i < AF_KIND_COUNT; i++)
    blocks += i == AF_KIND_HOLDS || i == AF_KIND_BOARD ? 0 : audit.blocks[i];
  CHECK(audit.consistent, "others were busy");
  CHECK(audit.too_high == 0 && audit.too_low == 0 && audit.lost == 0 && audit.broken == 0,
        "too high %lu, too low %lu, lost %lu, broken %lu, first at %lx", audit.too_high, audit.too_low, audit.lost,
        audit.broken, audit.first_wrong);
  CHECK(blocks == kept, "%lu blocks are left, not %lu", blocks, kept);
}

/* A child that dies with this process. Returns its pid; 0 in the child, which must _exit. */
static inline pid_t child_fork(void) {
  fflush(NULL);
  pid_t pid = fork();
  CHECK(pid >= 0, "fork");
  if (pid == 0)
    prctl(PR_SET_PDEATHSIG, SIGKILL);
  return pid;
}

static inline void child_join(pid_t pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child ended with %x", status);
}
#endif
