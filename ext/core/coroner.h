/* coroner.h - settles what a dead process leaves; called by the node, after it has seen the process end.
 *
 * In this order, each step repeatable: slot DEAD; the operation it died in finished (followers served, a call between
 * two lists sent on), before its locks are cleared, because an entry that it was taking stays where it is as long as
 * it has the lock; its locks cleared, its lanes orphaned; the channels that it had an end of broken; each call that it
 * had STARTED UNREAD again, one attempt later, if `retry` and it has retries left, else failed with `error` (with its
 * return cells); its holds dropped; its boards free for the slot's next process; its spans adopted; its marks as a
 * reader taken back; when it died inside an operation, a recount (audit.h). Then the slot is FREE with the next epoch.
 * Unread calls stay where they are, for another reader; of an ordered mailbox those that are run again come before them,
 * each caller's in the order made. Other clients run on meanwhile. */
#ifndef AF_CORONER_H
#define AF_CORONER_H
#include "af.h"

struct af_settlement { uint32_t calls_failed, calls_retried, holds_dropped, lanes_orphaned, inside_operation, repaired, recount_owed; };
/* `error`: an AF_KIND_BYTES block for calls it had started, 0: none is expected to be there. AF_STALE: (slot, epoch) is
 * no process. AF_BUSY: not yet all of it (no memory to send a call on; another was changing its marks as a reader all the
 * time, stopped there perhaps): call again later. `recount_owed`: another was inside an operation all the time: counts
 * may be too high until the next af_audit_run with repair. */
int af_coroner_settle(struct af_client *node, uint32_t slot, uint32_t epoch, bool retry, af_off error, uint8_t format,
                      struct af_settlement *settlement);
/* Before that: the calls that it had STARTED and that will not be run again, `most` of them at most; returns how many.
 * The caller may fail each with an error of its own (af_cell_fail, with its state), for as long as nobody has settled. */
uint32_t af_coroner_doomed(struct af_client *node, uint32_t slot, uint32_t epoch, bool retry, af_off *calls, uint32_t most);
/* A process that holds a lock for longer than limit_ns: its slot index, or -1. */
int af_coroner_overdue(struct af_client *node, uint64_t limit_ns);
#endif
