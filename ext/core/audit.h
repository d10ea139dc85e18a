/* audit.h - counts every hold and block again and compares with the books.
 *
 * Theory: walk all slots' hold tables and all live blocks' references; each block's count must equal what was met.
 * Others run on meanwhile, so the count is taken as of an instant at which no slot's hold_ops moved during the walk and
 * no live slot was inside an operation; otherwise it is tried again (`tries`). Surplus left by the dead does not change
 * after their death, so it can be subtracted later than it was counted.
 * The audit changes nothing unless `repair` (coroner only). */
#ifndef AF_AUDIT_H
#define AF_AUDIT_H
#include "af.h"

struct af_audit {
  uint64_t blocks[AF_KIND_COUNT]; /* live blocks of each kind */
  uint64_t bytes, object_bytes;
  uint64_t too_high, too_low;     /* blocks whose count is wrong */
  uint64_t lost;                  /* counted 1 or more, held by nobody */
  uint64_t broken;                /* references to what is not a live block; free lists and extents that disagree */
  uint64_t repaired;
  uint32_t consistent;            /* 0: others were busy at every try: figures are of no instant */
  af_off first_wrong;
};
int af_audit_run(struct af_client *client, bool repair, uint32_t tries, struct af_audit *audit);
#endif
