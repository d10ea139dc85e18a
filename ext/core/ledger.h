/* ledger.h - who holds what: for people who look for what fills the store, and for tests.
 *
 * Looks without a lock and without an operation: what moves meanwhile may be missing or be told twice, but nothing is
 * followed that is not a block. Nothing is changed. */
#ifndef AF_LEDGER_H
#define AF_LEDGER_H
#include "af.h"

struct af_ledger_hold { af_off block; uint32_t generation, kind; };

/* A large value, or the arguments of a call that lie in the object store (cell 0). */
enum af_ledger_place { AF_LEDGER_MEMORY = 1, AF_LEDGER_DISK = 2 };
struct af_ledger_value {
  af_off cell, block;        /* block: that counts the views; 0: only on disk */
  uint64_t bytes;            /* of the value with its header */
  uint32_t cell_generation, places; /* of enum af_ledger_place */
  uint32_t references;       /* counts of the cell */
  uint32_t slot, epoch;      /* of who made it */
  struct af_maker maker;
};

/* All large values: the first `most` of them; returns how many there are. Walks both heaps. */
uint32_t af_ledger_values(const struct af_client *client, struct af_ledger_value *values, uint32_t most);
/* What a slot's hold table has: the first `most` of it; returns how many there are. */
uint32_t af_ledger_holds(const struct af_client *client, uint32_t slot, struct af_ledger_hold *holds, uint32_t most);
#endif
