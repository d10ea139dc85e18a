/* points.h - the numbered points of the memory half (100-499), where a crash leaves something half done.
 *
 * X(number, what is half done there). A kill test ends a process at each of them, a stop test stops it there. */
#ifndef AF_POINTS_H
#define AF_POINTS_H

/* What slot->op says; the base of the point numbers inside. */
enum af_operation {
  AF_OP_HOLD = 100, AF_OP_FORK = 110, AF_OP_SETTLE_HOLDS = 120,
  AF_OP_HEAP = 200, AF_OP_EXTENT = 300, AF_OP_BLOCK = 400, AF_OP_AUDIT = 450,
  AF_OP_BOARD = 500, AF_OP_LANE = 600, AF_OP_PUSH = 610, AF_OP_TAKE = 630, AF_OP_CAPACITY = 660, AF_OP_CREATE = 700,
  AF_OP_SUBMIT = 710, AF_OP_WATCH = 720, AF_OP_RESULT = 730, AF_OP_COMPLETE = 740, AF_OP_SETTLE = 800,
};

#define AF_POINTS_MEMORY(X) \
  X(100, "slot reserved, not filled in") \
  X(101, "slot filled in, not live") \
  X(102, "hold counted, not recorded") \
  X(103, "hold forgotten, not discounted") \
  X(104, "hold chunk allocated, not linked") \
  X(110, "fork: chunk linked, not filled") \
  X(111, "fork: copy counted, not recorded") \
  X(112, "fork: all copied, child not born") \
  X(113, "fork: child born, its slot not live") \
  X(120, "holds of a slot: one forgotten, not discounted") \
  X(121, "holds of a slot: chunk unlinked, not freed") \
  X(122, "leaving: holds dropped, spans not given back") \
  X(123, "leaving: all given back, slot still live") \
  X(200, "span counted as used, not taken") \
  X(201, "span taken, in no ring") \
  X(202, "block off the free list, header not written") \
  X(203, "block counted, kind not written") \
  X(204, "block allocated, held by nobody") \
  X(205, "own block marked free, not on the list") \
  X(206, "block of another not yet on its remote list") \
  X(207, "remote list taken, nothing on the free list") \
  X(208, "remote list taken, half of it on the free list") \
  X(209, "span emptied, still owned") \
  X(210, "span free, still counted as used") \
  X(211, "span passed to the node, not announced") \
  X(212, "large: first span taken, second not") \
  X(213, "large: spans taken, no block") \
  X(214, "large: spans emptied, still owned") \
  X(215, "large: second span free, first not") \
  X(216, "adopt: span is the node's, free list not rebuilt") \
  X(217, "punch: span taken, pages not returned") \
  X(300, "extents locked") \
  X(301, "split: remainder written, extent not shrunk") \
  X(302, "extent off its bin, not used") \
  X(303, "extent used, no block header") \
  X(304, "wilderness: extent written, border not moved") \
  X(305, "object allocated, held by nobody, lock held") \
  X(306, "object given back, nobody told") \
  X(307, "returned objects taken, not freed") \
  X(308, "extent free, in no bin") \
  X(309, "merge: length grown, the other's entry still there") \
  X(310, "bins emptied for rebuilding") \
  X(311, "lock held, all done") \
  X(400, "block counted once more") \
  X(401, "count 0, nothing freed") \
  X(402, "one reference of a dying block dropped") \
  X(403, "references dropped, block not freed") \
  X(404, "name counted, not yet anybody's") \
  X(405, "actor dying: mailbox abandoned, not rung")

/* The calls half, 500-899. */
#define AF_POINTS_CALLS(X)

#define AF_POINT_LAST 899
#endif
