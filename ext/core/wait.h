/* wait.h - spinning, sleeping and waking: futexes for threads, notice boards for waits on many things and for loops.
 *
 * Spin: bursts of 20 pauses with sched_yield between, at most client->spin_us, and not where it is crowded (crowd.h).
 * Sleep: at most AF_SLEEP_MS, then the caller looks again (node alive? mail? done?).
 * Board: one bit a token. Ringing is idempotent (fetch_or of the bit, then of its summary word), so it may be repeated
 * after a crash. The waiter takes summary words, then bit words, by exchange. A loop sleeps in its selector: the ringer
 * sends one datagram to the board's abstract address "\0actorflow.<node id hex>.<slot>.<epoch>.<board>".
 * Who writes: bits and summary anyone (fetch_or) and the waiter (exchange); sleeping: the waiter sets, ringer clears.
 * A ring may come late, for a token that was given back or to the slot's next process: who takes tokens checks what they
 * stand for.
 * A crash of the ringer leaves: bit set and summary or wake missing: found by the timed look, which reads the bit words. */
#ifndef AF_WAIT_H
#define AF_WAIT_H
#include "af.h"

#define AF_BOARD_WORDS 1024u                     /* 65,536 tokens */
#define AF_BOARD_TOKENS (AF_BOARD_WORDS * 64u)
#define AF_BOARDS_MOST 256u                      /* of one process: a watch has 8 bits for it */
enum af_sleep { AF_AWAKE = 0, AF_SLEEP_FUTEX = 1, AF_SLEEP_LOOP = 2 };
struct af_board {
  struct af_block block;
  uint32_t slot, index;              /* whose; constant: a board stays with its slot */
  _Atomic uint32_t epoch;            /* of the process that uses it; 0: none */
  _Atomic af_off next_board;         /* counted: index + AF_BOARDS; 0: there is none. Written once, by the slot's process */
  _Alignas(AF_LINE) _Atomic uint32_t sleeping; /* enum af_sleep; also the futex word */
  _Atomic uint32_t rings;            /* statistics */
  _Alignas(AF_LINE) _Atomic uint64_t summary[AF_BOARD_WORDS / 64];
  _Atomic uint64_t bits[AF_BOARD_WORDS];
};

int af_board_create(struct af_client *client, uint8_t *index, af_off *board); /* AF_FULL: AF_BOARDS_MOST in use */
void af_board_destroy(struct af_client *client, uint8_t index);
/* A slot's process has left, or died: its boards are the next one's. */
void af_boards_leave(struct af_client *client, uint32_t slot);
/* What follows a board in its chain; 0: nothing, or `board` is none. */
af_off af_board_following(const struct af_client *client, af_off board);
/* Sets the watch's bit and wakes its board if that sleeps. A watch of a dead slot or old epoch is ignored. */
void af_ring(struct af_client *client, af_watch watch);
/* Takes up to `most` rung tokens; returns how many. `thorough` reads every bit word (the timed look). */
uint32_t af_board_take(struct af_client *client, uint8_t index, uint32_t *tokens, uint32_t most, bool thorough);
/* Loop about to sleep in its selector: 1: may sleep; 0: something is there, take it first. */
int af_board_arm(struct af_client *client, uint8_t index, enum af_sleep how);
void af_board_disarm(struct af_client *client, uint8_t index);
/* Thread: spins (spin_ns), then sleeps until rung; AF_OK, AF_TIMEOUT (after timeout_ns or AF_SLEEP_MS, whichever is
 * first), AF_INTERRUPTED. [no GIL] */
int af_board_wait(struct af_client *client, uint8_t index, uint64_t spin_ns, uint64_t timeout_ns);
/* The abstract address: bytes after the leading NUL. Returns its length. */
int af_board_address(const struct af_client *client, uint16_t slot, uint32_t epoch, uint8_t index, char out[100]);

/* AF_DEAD once the node has died or is stopping; looks at the node's pidfd. */
int af_node_check(const struct af_client *client);

/* A spin, turn by turn: begin; look; turn gives false when it is over; look again after each true. One longer than the
 * client's spin_us is patient: it knows that who takes the CPU meanwhile does not keep it for long. */
struct af_spin { const struct af_client *client; uint64_t end_ns; uint32_t pauses; bool patient; };
void af_spin_begin(struct af_spin *spin, const struct af_client *client, uint64_t spin_ns);
bool af_spin_turn(struct af_spin *spin);
uint64_t af_sleep_limit(uint64_t timeout_ns); /* the smaller of it and AF_SLEEP_MS */
/* Spins until *word & mask == want or spin_ns is over. 1: met. [no GIL] */
int af_spin_until(const struct af_client *client, const _Atomic uint32_t *word, uint32_t mask, uint32_t want,
                  uint64_t spin_ns);
int af_futex_wait(const _Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns); /* AF_OK/TIMEOUT/INTERRUPTED */
int af_futex_wake(_Atomic uint32_t *word, uint32_t count); /* how many were woken */
#endif
