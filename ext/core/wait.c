/* wait.c - spins, futexes and notice boards; see wait.h. */
#include "wait.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "block.h"
#include "crowd.h"
#include "heap.h"
#include "points.h"
#include "segment.h"
#include "slot.h"

#define SPIN_BURST 20u

uint64_t af_sleep_limit(uint64_t timeout_ns) {
  return timeout_ns < AF_SLEEP_MS * 1000000ull ? timeout_ns : AF_SLEEP_MS * 1000000ull;
}

/* ---- spinning ---- */

void af_spin_begin(struct af_spin *spin, const struct af_client *client, uint64_t spin_ns) {
  uint64_t now = af_now_ns();
  spin->client = client;
  spin->pauses = 0;
  spin->patient = spin_ns > client->spin_us * 1000ull;
  spin->end_ns = spin_ns == 0 || af_crowded(client, now) ? 0 : now + spin_ns;
}

bool af_spin_turn(struct af_spin *spin) {
  if (spin->end_ns == 0)
    return false;
  if (++spin->pauses % SPIN_BURST != 0) {
    af_pause();
    return true;
  }
  if (af_now_ns() >= spin->end_ns)
    return false;
  if (!af_yield(spin->client, spin->patient))
    spin->end_ns = 0; /* one more look, then the end */
  return true;
}

int af_spin_until(const struct af_client *client, const _Atomic uint32_t *word, uint32_t mask, uint32_t want,
                  uint64_t spin_ns) {
  struct af_spin spin;
  af_spin_begin(&spin, client, spin_ns);
  do {
    if ((atomic_load_explicit(word, memory_order_acquire) & mask) == want)
      return 1;
  } while (af_spin_turn(&spin));
  return 0;
}

/* ---- futexes ---- */

int af_futex_wait(const _Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns) {
  struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000ull),
                             .tv_nsec = (long)(timeout_ns % 1000000000ull)};
  if (syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, NULL, 0) == 0 || errno == EAGAIN)
    return AF_OK;
  return errno == ETIMEDOUT ? AF_TIMEOUT : errno == EINTR ? AF_INTERRUPTED : AF_SYSTEM;
}

int af_futex_wake(_Atomic uint32_t *word, uint32_t count) {
  return (int)syscall(SYS_futex, word, FUTEX_WAKE, count > INT_MAX ? INT_MAX : (int)count, NULL, NULL, 0);
}

/* ---- boards ---- */

/* A board never goes away while its slot table stands (it only changes its user), so what is found here stays a board
 * however late the ringer is. */
static struct af_board *board_of(const struct af_client *client, af_off board) {
  if (board == 0 || board % AF_LINE != 0 || board > client->size_bytes - sizeof(struct af_board))
    return NULL;
  struct af_board *found = AF_AT(client, struct af_board, board);
  return found->block.kind == AF_KIND_BOARD ? found : NULL;
}

af_off af_board_following(const struct af_client *client, af_off board) {
  const struct af_board *of = board_of(client, board);
  return of == NULL ? 0 : atomic_load_explicit(&of->next_board, memory_order_acquire);
}

static struct af_board *board_at(const struct af_client *client, uint32_t slot, uint8_t index) {
  if (slot >= client->header->slot_count)
    return NULL;
  af_off board = atomic_load_explicit(&af_slot_at(client, slot)->boards[index % AF_BOARDS], memory_order_acquire);
  for (uint32_t i = index / AF_BOARDS; i > 0 && board != 0; i--)
    board = af_board_following(client, board);
  return board_of(client, board);
}

static struct af_board *board_own(const struct af_client *client, uint8_t index) {
  return board_at(client, client->slot_index, index);
}

/* Where the process' board of that index is, or is to be noted: those before it are there. */
static _Atomic af_off *board_place(struct af_client *client, uint8_t index) {
  struct af_board *before = index < AF_BOARDS ? NULL : board_own(client, (uint8_t)(index - AF_BOARDS));
  return before == NULL ? &client->slot->boards[index % AF_BOARDS] : &before->next_board;
}

static int board_allocate(struct af_client *client, uint8_t index, af_off *board) {
  uint32_t outer = af_op_begin(client, AF_OP_BOARD);
  int status = af_heap_allocate(client, sizeof(struct af_board), AF_KIND_BOARD, AF_CONTROL, board);
  if (status == AF_OK) {
    AF_POINT(client, 500);
    struct af_board *made = AF_AT(client, struct af_board, *board);
    memset((uint8_t *)made + sizeof made->block, 0, sizeof *made - sizeof made->block);
    made->slot = client->slot_index;
    made->index = index;
    atomic_store_explicit(board_place(client, index), *board, memory_order_release);
  }
  af_op_end(client, outer);
  return status;
}

/* A former process of this slot may have left its bits. */
static void board_clear(struct af_board *board) {
  atomic_store_explicit(&board->sleeping, AF_AWAKE, memory_order_relaxed);
  for (uint32_t i = 0; i < AF_BOARD_WORDS / 64; i++)
    atomic_store_explicit(&board->summary[i], 0, memory_order_relaxed);
  for (uint32_t i = 0; i < AF_BOARD_WORDS; i++)
    atomic_store_explicit(&board->bits[i], 0, memory_order_relaxed);
}

int af_board_create(struct af_client *client, uint8_t *index, af_off *board) {
  for (uint32_t i = 0; i < AF_BOARDS_MOST; i++) {
    *index = (uint8_t)i;
    *board = atomic_load_explicit(board_place(client, *index), memory_order_relaxed);
    if (*board == 0) {
      int status = board_allocate(client, *index, board);
      if (status != AF_OK)
        return status;
    }
    struct af_board *found = board_own(client, *index);
    if (found == NULL || atomic_load_explicit(&found->epoch, memory_order_relaxed) == client->epoch)
      continue;
    board_clear(found);
    atomic_store_explicit(&found->epoch, client->epoch, memory_order_release);
    return AF_OK;
  }
  return AF_FULL;
}

void af_board_destroy(struct af_client *client, uint8_t index) {
  struct af_board *board = board_own(client, index);
  if (board != NULL)
    atomic_store_explicit(&board->epoch, 0, memory_order_release);
}

void af_boards_leave(struct af_client *client, uint32_t slot) {
  struct af_board *board;
  for (uint32_t i = 0; i < AF_BOARDS_MOST && (board = board_at(client, slot, (uint8_t)i)) != NULL; i++)
    atomic_store_explicit(&board->epoch, 0, memory_order_release);
}

int af_board_address(const struct af_client *client, uint16_t slot, uint32_t epoch, uint8_t index, char out[100]) {
  const uint8_t *id = client->header->node_id;
  int length = snprintf(out, 100, "actorflow.");
  for (int i = 0; i < 16; i++)
    length += snprintf(out + length, 100 - (size_t)length, "%02x", id[i]);
  return length + snprintf(out + length, 100 - (size_t)length, ".%u.%u.%u", slot, epoch, index);
}

/* Whatever becomes of the datagram: a full queue means that the loop has not yet read the last one. */
static void loop_wake(struct af_client *client, const struct af_board *board, uint32_t epoch) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char name[100];
  int length = af_board_address(client, (uint16_t)board->slot, epoch, (uint8_t)board->index, name);
  memcpy(address.sun_path + 1, name, (size_t)length);
  socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
  (void)!sendto(client->wake_socket, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address, bytes);
}

/* SYNC POINT board: bit and summary, then the look at `sleeping`; the waiter sets `sleeping`, then looks at summary.
 * Sequentially consistent on both sides, so one of them sees the other. */
void af_ring(struct af_client *client, af_watch watch) {
  uint32_t slot = (uint32_t)(watch >> 48) & 0x7fff, token = (uint32_t)watch & (AF_BOARD_TOKENS - 1);
  struct af_board *board = watch == 0 ? NULL : board_at(client, slot, (uint8_t)(watch >> 24));
  if (board == NULL)
    return;
  uint32_t epoch = atomic_load_explicit(&board->epoch, memory_order_acquire);
  if (epoch == 0 || (epoch & 0xffff) != ((watch >> 32) & 0xffff))
    return;
  atomic_fetch_or_explicit(&board->bits[token / 64], 1ull << token % 64, memory_order_release);
  AF_POINT(client, 501);
  atomic_fetch_or_explicit(&board->summary[token / 4096], 1ull << token / 64 % 64, memory_order_seq_cst);
  AF_POINT(client, 502);
  if (atomic_load_explicit(&board->sleeping, memory_order_seq_cst) == AF_AWAKE)
    return;
  uint32_t how = atomic_exchange_explicit(&board->sleeping, AF_AWAKE, memory_order_acq_rel);
  AF_POINT(client, 503);
  atomic_fetch_add_explicit(&board->rings, 1, memory_order_relaxed);
  if (how == AF_SLEEP_FUTEX)
    af_futex_wake(&board->sleeping, 1);
  else if (how == AF_SLEEP_LOOP)
    loop_wake(client, board, epoch);
}

static bool board_is_rung(const struct af_board *board) {
  for (uint32_t i = 0; i < AF_BOARD_WORDS / 64; i++)
    if (atomic_load_explicit(&board->summary[i], memory_order_seq_cst) != 0)
      return true;
  return false;
}

/* Takes the tokens of one word of bits; what does not fit goes back with its summary. */
static uint32_t word_take(struct af_board *board, uint32_t word, uint32_t *tokens, uint32_t most) {
  uint32_t taken = 0;
  uint64_t bits = atomic_exchange_explicit(&board->bits[word], 0, memory_order_acquire);
  for (; bits != 0 && taken < most; bits &= bits - 1)
    tokens[taken++] = word * 64 + (uint32_t)__builtin_ctzll(bits);
  if (bits != 0) {
    atomic_fetch_or_explicit(&board->bits[word], bits, memory_order_relaxed);
    atomic_fetch_or_explicit(&board->summary[word / 64], 1ull << word % 64, memory_order_release);
  }
  return taken;
}

uint32_t af_board_take(struct af_client *client, uint8_t index, uint32_t *tokens, uint32_t most, bool thorough) {
  struct af_board *board = board_own(client, index);
  uint32_t taken = 0;
  for (uint32_t i = 0; board != NULL && i < AF_BOARD_WORDS / 64; i++) {
    uint64_t words = 0;
    if (atomic_load_explicit(&board->summary[i], memory_order_relaxed) != 0)
      words = atomic_exchange_explicit(&board->summary[i], 0, memory_order_acquire);
    if (thorough)
      words = UINT64_MAX;
    for (; words != 0 && taken < most; words &= words - 1) {
      uint32_t word = i * 64 + (uint32_t)__builtin_ctzll(words);
      if (atomic_load_explicit(&board->bits[word], memory_order_relaxed) != 0)
        taken += word_take(board, word, tokens + taken, most - taken);
    }
    if (words != 0)
      atomic_fetch_or_explicit(&board->summary[i], words, memory_order_release);
  }
  return taken;
}

int af_board_arm(struct af_client *client, uint8_t index, enum af_sleep how) {
  struct af_board *board = board_own(client, index);
  if (board == NULL)
    return 0;
  atomic_store_explicit(&board->sleeping, (uint32_t)how, memory_order_seq_cst); /* SYNC POINT board */
  if (!board_is_rung(board))
    return 1;
  atomic_store_explicit(&board->sleeping, AF_AWAKE, memory_order_relaxed);
  return 0;
}

void af_board_disarm(struct af_client *client, uint8_t index) {
  struct af_board *board = board_own(client, index);
  if (board != NULL)
    atomic_store_explicit(&board->sleeping, AF_AWAKE, memory_order_relaxed);
}

int af_board_wait(struct af_client *client, uint8_t index, uint64_t spin_ns, uint64_t timeout_ns) {
  struct af_board *board = board_own(client, index);
  if (board == NULL)
    return AF_BAD;
  struct af_spin spin;
  af_spin_begin(&spin, client, spin_ns);
  do {
    if (board_is_rung(board))
      return AF_OK;
  } while (af_spin_turn(&spin));
  if (!af_board_arm(client, index, AF_SLEEP_FUTEX))
    return AF_OK;
  int status = af_futex_wait(&board->sleeping, AF_SLEEP_FUTEX, af_sleep_limit(timeout_ns));
  af_board_disarm(client, index);
  return board_is_rung(board) ? AF_OK : status == AF_OK ? AF_TIMEOUT : status;
}

/* ---- the node ---- */

int af_node_check(const struct af_client *client) {
  uint32_t state = atomic_load_explicit(&client->header->node_state, memory_order_acquire);
  if (state >= AF_NODE_STOPPING)
    return AF_DEAD;
  struct pollfd node = {.fd = client->node_pidfd, .events = POLLIN};
  return client->node_pidfd >= 0 && poll(&node, 1, 0) > 0 ? AF_DEAD : AF_OK;
}
