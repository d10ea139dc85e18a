/* audit.h - counts every hold and block again and compares with the books.
 *
 * Theory: walk all slots' hold tables and boards, and all live blocks' references; each block's count must equal what
 * was met. The figures are of one instant if no slot's hold_ops moved during the walk and no live slot was inside an
 * operation; otherwise it is tried again (`tries`). header.frozen asks the others to begin none meanwhile.
 * Surplus left by the dead does not change after their death, so it can be subtracted later than it was counted. A
 * block of count 0 is nobody's: what it refers to is not counted, and if it is on no list of free blocks it was in the hands
 * of one who died.
 * The audit changes nothing unless `repair` (coroner only, after the dead's spans were adopted), and then only what it
 * saw at such an instant. */
#ifndef AF_AUDIT_H
#define AF_AUDIT_H
#include "af.h"

struct af_audit {
  uint64_t blocks[AF_KIND_COUNT]; /* live blocks of each kind */
  uint64_t bytes, object_bytes;
  uint64_t too_high, too_low;     /* blocks whose count is wrong */
  uint64_t lost;                  /* held by nobody: counted 1 or more, or 0 and in no list of free blocks */
  uint64_t broken;                /* references to what is not a live block; free lists and extents that disagree */
  uint64_t repaired;
  uint32_t consistent;            /* 0: others were busy at every try: figures are of no instant */
  af_off first_wrong;
};
/* `client` has a slot. AF_SYSTEM: no memory for the counters (errno). */
int af_audit_run(struct af_client *client, bool repair, uint32_t tries, struct af_audit *audit);
#endif
