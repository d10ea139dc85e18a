/* channel.h - channels: values from one writer to a fixed number of readers, through slots that are used in turn.
 *
 * Purpose: the edges of compiled graphs. A write or a read allocates nothing, takes no lock and, while both ends are
 * awake, makes no system call.
 * Representation: one block: geometry and state | one line for each end | the slots. End 0 is the writer, end i + 1
 * reader i. An end's `position` counts what it has written or read; value n lies in slot n % slots. The writer may write
 * while position - slots is below every reader's position; a reader may read while its position is below the writer's.
 * A slot holds a value in one of two ways: inline (references, af_off each and counted, then the bytes), or by one
 * counted reference to a block of kind BYTES or OBJECT. What a slot owns is dropped by the last reader that is done with
 * it (`unread` says who that is), so a value does not stay until its slot is written again; values that own nothing
 * leave `unread` alone. Whoever wants to keep what a reader sees takes a hold of his own before that reader is done.
 * State: OPEN -> CLOSED (an end has closed it) or BROKEN (a process at one of its ends died); both for ever, the first
 * one stays. Readers may still read what was published.
 * Waking: an end that sleeps, or is watched by a notice board, counts itself in `attention`; who moves its position or
 * changes the state looks at the others only if that is not 0.
 * Guarantees: every reader gets every value, once, in order and whole; nobody waits for a process that is not its
 * peer. One process has an end, for ever (`owner`), and one of its threads at a time uses it.
 * Who writes: geometry the maker. state: anyone, by compare-and-swap. An end's position, watch and room: its owner;
 * asleep: its owner sets and clears, who wakes it clears. owner: by compare-and-swap from 0. A slot: the writer until its
 * position covers it; then its owned references the reader that counted `unread` down to 0.
 * A process that leaves in order closes the channels of its ends before.
 * A crash leaves: the channel, which the coroner finds among the dead's holds (whoever has an end holds the channel),
 * breaks, and then wakes everybody, also those whom the dead had not woken yet; references counted and owned by no slot,
 * or taken out of it and not dropped (recount); `attention` too high (a little slower). `unread` that was counted down
 * and a position that was not moved on do no harm: nobody writes to a broken channel. */
#ifndef AF_CHANNEL_H
#define AF_CHANNEL_H
#include "af.h"

#define AF_CHANNEL_READERS 64u /* at most */
#define AF_CHANNEL_WRITER 0u   /* the writer's end */

enum af_channel_state { AF_CHANNEL_OPEN = 0, AF_CHANNEL_CLOSED = 1, AF_CHANNEL_BROKEN = 2 };

struct af_channel_end {
  _Alignas(AF_LINE) _Atomic uint64_t position;
  _Atomic uint64_t owner;    /* [63:32] epoch, [31:0] slot + 1; 0: nobody's yet */
  _Atomic af_watch watch;    /* rung whenever the end may have become ready; 0: none */
  _Atomic uint64_t room;     /* writer: it may write up to this position; grows when looked for */
  _Atomic uint32_t asleep;   /* futex word: 1: sleeps, or is about to */
};
struct af_channel {
  struct af_block block;
  uint32_t slots, slot_bytes, readers;
  uint32_t stride;           /* bytes from slot to slot */
  _Atomic uint32_t state;    /* enum af_channel_state */
  _Atomic uint32_t attention;/* ends that sleep or are watched */
  struct af_channel_end ends[]; /* 1 + readers, then the slots */
};
struct af_channel_slot {
  _Atomic af_off block;      /* owned: where the value is; 0: here */
  _Atomic uint32_t references; /* owned, at the start of the data */
  _Atomic uint32_t unread;   /* readers that are not done with it, if it owns anything */
  uint32_t bytes;            /* behind the references */
  uint8_t format;            /* the upper layer's */
  uint8_t reserved[3];
  uint8_t data[];
};

struct af_channel_value {    /* what a reader sees, until it is done with it */
  af_off block;              /* 0: inline */
  const af_off *references;
  const uint8_t *data;
  uint32_t count, bytes;
  uint8_t format;
};

/* A channel whose maker owns one count. `slot_bytes`: of references and bytes together. AF_BAD: no slot, or no or more
 * than AF_CHANNEL_READERS readers. AF_TOO_LARGE: all slots together must fit AF_LARGE_MAX. AF_FULL. */
int af_channel_create(struct af_client *client, uint32_t slots, uint32_t slot_bytes, uint32_t readers, af_off *channel);
/* Takes an end for this process, which holds the channel for as long as it has it. AF_BUSY: it is another's; AF_BAD: there
 * is none of that number. */
int af_channel_claim(struct af_client *client, af_off channel, uint32_t end);
enum af_channel_state af_channel_state(const struct af_client *client, af_off channel);
/* AF_OK: the end can write or read; AF_EMPTY: not now; AF_CLOSED: and never again. [no GIL] */
int af_channel_look(const struct af_client *client, af_off channel, uint32_t end);
/* Looks for spin_ns at most; as af_channel_look. [no GIL] */
int af_channel_spin(const struct af_client *client, af_off channel, uint32_t end, uint64_t spin_ns);
/* Sleeps while it is AF_EMPTY: AF_OK, AF_CLOSED, AF_TIMEOUT (after timeout_ns or AF_SLEEP_MS), AF_INTERRUPTED. [no GIL] */
int af_channel_sleep(struct af_client *client, af_off channel, uint32_t end, uint64_t timeout_ns);
/* What is rung from now on when the end may be ready; 0: nothing. Look after it: what happened before rings nobody. */
void af_channel_watch(struct af_client *client, af_off channel, uint32_t end, af_watch watch);

/* Writer, after a look that gave AF_OK: where the next value goes, `slot_bytes` long: references, then bytes. */
uint8_t *af_channel_place(const struct af_client *client, af_off channel);
/* Publishes it. Counts of `references` at that place, or of `block` (then these are 0), pass to the slot: to be called
 * inside the operation that counted them. */
void af_channel_publish(struct af_client *client, af_off channel, af_off block, uint32_t references, uint32_t bytes,
                        uint8_t format);

/* Reader, after a look that gave AF_OK: its next value. AF_BAD: garbage. */
int af_channel_value(const struct af_client *client, af_off channel, uint32_t end, struct af_channel_value *value);
/* Reader: done with that. */
void af_channel_next(struct af_client *client, af_off channel, uint32_t end);

/* OPEN -> CLOSED, and wakes everybody. Anyone who holds it. */
void af_channel_close(struct af_client *client, af_off channel);
/* Coroner: OPEN -> BROKEN if the process has, or had, one of its ends; and wakes everybody. */
void af_channel_bereave(struct af_client *node, af_off channel, uint32_t slot, uint32_t epoch);

/* block.c: what the slots own. Slot `index`, or NULL: there is none of that number within the block. */
struct af_channel_slot *af_channel_slot_at(const struct af_client *client, af_off channel, uint32_t index);
#endif
