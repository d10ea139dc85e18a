/* ledger.h - who holds what: for people who look for what fills the store, and for tests.
 *
 * Looks without a lock and without an operation: what moves meanwhile may be missing or be told twice, but nothing is
 * followed that is not a block. Nothing is changed. */
#ifndef AF_LEDGER_H
#define AF_LEDGER_H
#include "af.h"

struct af_ledger_hold { af_off block; uint32_t generation, kind; };

/* What a slot's hold table has: the first `most` of it; returns how many there are. */
uint32_t af_ledger_holds(const struct af_client *client, uint32_t slot, struct af_ledger_hold *holds, uint32_t most);
#endif
