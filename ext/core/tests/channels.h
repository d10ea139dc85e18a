/* channels.h - numbered values for the channel tests: written in each of the ways that there are, and checked. */
#ifndef AF_TEST_CHANNELS_H
#define AF_TEST_CHANNELS_H
#include "harness.h"

#include "channel.h"
#include "points.h"

#define SLOT_BYTES 200u
#define REFERENCES 3u

static inline struct af_channel *channel_of(const struct af_client *client, af_off channel) {
  return AF_AT(client, struct af_channel, channel);
}

/* A channel held under *hold. */
static inline af_off channel_make(struct af_client *client, uint32_t slots, uint32_t readers, uint32_t *hold) {
  af_off channel;
  uint32_t outer = af_op_begin(client, AF_OP_CREATE);
  CHECK_OK(af_channel_create(client, slots, SLOT_BYTES, readers, &channel));
  CHECK_OK(af_hold_record(client, channel, hold));
  af_op_end(client, outer);
  return channel;
}

/* A block with the number behind its header; inside the caller's operation. */
static inline af_off number_make(struct af_client *client, uint64_t number, bool object) {
  af_off block;
  if (object)
    CHECK_OK(af_extent_allocate(client, AF_PAGE, &block));
  else
    block = bytes_make(client, 128);
  AF_AT(client, struct af_object, block)->references = 0;
  *AF_AT(client, uint64_t, block + sizeof(struct af_object)) = number;
  return block;
}

static inline void number_check(const struct af_client *client, af_off block, uint64_t number) {
  uint64_t found = *AF_AT(client, uint64_t, block + sizeof(struct af_object));
  CHECK(af_block_is_live(client, block) && found == number, "a block holds %lu, not %lu", found, number);
}

enum way { INLINE = 0, INLINE_LONG, REFERRING, IN_BYTES, IN_OBJECT, IN_ANOTHER, WAYS };
static inline enum way way_of(uint64_t number) { return (enum way)(number % WAYS); }

/* The block for a value in one: with the number, or with a reference to the object that has it. 0: it needs none. */
static inline af_off block_make(struct af_client *client, uint64_t number) {
  if (way_of(number) < IN_BYTES)
    return 0;
  if (way_of(number) != IN_ANOTHER)
    return number_make(client, number, way_of(number) == IN_OBJECT);
  af_off block = number_make(client, 0, false);
  struct af_object *referring = AF_AT(client, struct af_object, block);
  *(af_off *)(referring + 1) = number_make(client, number, true);
  referring->references = 1;
  return block;
}

/* Writes value `number`; the channel has room for it. */
static inline void number_write(struct af_client *client, af_off channel, uint64_t number) {
  uint32_t references = 0, bytes = way_of(number) == INLINE_LONG ? SLOT_BYTES : sizeof number;
  af_off block, *place = (af_off *)(void *)af_channel_place(client, channel);
  uint32_t outer = af_op_begin(client, AF_OP_CHANNEL);
  for (; way_of(number) == REFERRING && references < REFERENCES; references++)
    place[references] = number_make(client, number + references, false);
  if ((block = block_make(client, number)) == 0)
    memset(place + references, (int)(number & 0xff), bytes);
  if (block == 0)
    memcpy(place + references, &number, sizeof number);
  af_channel_publish(client, channel, block, references, block == 0 ? bytes : 0, (uint8_t)(number % 7));
  af_op_end(client, outer);
}

/* Reads what must be value `number`; it is there. */
static inline void number_read(struct af_client *client, af_off channel, uint32_t end, uint64_t number) {
  struct af_channel_value value;
  uint64_t found;
  CHECK_OK(af_channel_value(client, channel, end, &value));
  CHECK(value.format == number % 7, "value %lu has format %u", number, value.format);
  if (value.block != 0) {
    CHECK(way_of(number) >= IN_BYTES, "value %lu is in a block", number);
    struct af_object *block = AF_AT(client, struct af_object, value.block);
    number_check(client, way_of(number) == IN_ANOTHER ? *(af_off *)(block + 1) : value.block, number);
  } else {
    memcpy(&found, value.data, sizeof found);
    CHECK(found == number, "value %lu instead of %lu", found, number);
    CHECK(value.count == (way_of(number) == REFERRING ? REFERENCES : 0), "%u references", value.count);
    for (uint32_t i = sizeof found; i < value.bytes; i++)
      CHECK(value.data[i] == (number & 0xff), "byte %u of value %lu", i, number);
  }
  for (uint32_t i = 0; i < value.count; i++)
    number_check(client, value.references[i], number + i);
  af_channel_next(client, channel, end);
}
#endif
