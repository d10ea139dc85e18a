/* coroner.h - settles what a dead process leaves; called by the node, after it has seen the process end.
 *
 * In this order, each step repeatable: slot DEAD; its locks cleared; its token and blocked marks taken back; its lanes
 * orphaned; the operation it died in finished (followers served); each call that it had STARTED failed with `error`
 * (with its return cells), or handed to `retry` first; its holds dropped; its boards freed; its spans adopted; when it
 * died inside an operation, a recount (audit.h). Then the slot is FREE with the next epoch.
 * Other clients run on meanwhile. */
#ifndef AF_CORONER_H
#define AF_CORONER_H
#include "af.h"

struct af_settlement { uint32_t calls_failed, holds_dropped, lanes_orphaned, inside_operation, repaired; };
/* `error`: an AF_KIND_BYTES block for calls it had started, 0: none is expected to be there. */
int af_coroner_settle(struct af_client *node, uint32_t slot, uint32_t epoch, af_off error, uint8_t format,
                      struct af_settlement *settlement);
/* A process that holds a lock for longer than limit_ns: its slot index, or -1. */
int af_coroner_overdue(const struct af_client *node, uint64_t limit_ns);
#endif
