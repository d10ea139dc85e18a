/* points.h - the numbered points of the core, where a crash leaves something half done.
 *
 * X(number, what is half done there). A kill test ends a process at each of them, a stop test stops it there. */
#ifndef AF_POINTS_H
#define AF_POINTS_H

/* What slot->op says; the base of the point numbers inside. */
enum af_operation {
  AF_OP_HOLD = 100, AF_OP_FORK = 110, AF_OP_SETTLE_HOLDS = 120,
  AF_OP_HEAP = 200, AF_OP_EXTENT = 300, AF_OP_SPILL = 320, AF_OP_BLOCK = 400, AF_OP_AUDIT = 450,
  AF_OP_BOARD = 500, AF_OP_LANE = 600, AF_OP_PUSH = 610, AF_OP_TAKE = 630, AF_OP_CAPACITY = 660, AF_OP_CREATE = 700,
  AF_OP_SUBMIT = 710, AF_OP_WATCH = 720, AF_OP_RESULT = 730, AF_OP_COMPLETE = 740, AF_OP_CANCEL = 780,
  AF_OP_SETTLE = 800, AF_OP_CHANNEL = 820, AF_OP_LINEAGE = 840,
};

/* The memory half, 100-499. */
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

/* Values on their way to disk and back, 320-339: first who reads and frees them, then who moves them (the node, with whose
 * death the segment ends; so another stands in for it). */
#define AF_POINTS_SPILL_READERS(X) \
  X(320, "value counted, not looked at again") \
  X(321, "value counted, not recorded") \
  X(322, "wanted back, node not rung") \
  X(323, "room wanted, node not rung") \
  X(324, "returned, node not rung") \
  X(325, "room: bell counted, nobody woken")
#define AF_POINTS_SPILL_MOVER(X) \
  X(326, "to be written: object held, its cell not") \
  X(327, "being written: object and cell held") \
  X(328, "block made, its references not counted") \
  X(329, "one reference of a block copied") \
  X(330, "block made, not yet the cell's value") \
  X(331, "block the cell's value, object not dropped") \
  X(332, "wanted back: cell held, no object") \
  X(333, "object made, not held") \
  X(334, "object filled, not yet the cell's value") \
  X(335, "object the cell's value, nobody told") \
  X(336, "turn counted, nobody woken") \
  X(337, "wishes taken, nothing brought back") \
  X(338, "returned blocks taken, not freed")

/* The calls half, 500-899. */
#define AF_POINTS_CALLS(X) \
  X(500, "board allocated, not in its slot") \
  X(501, "board: bit set, summary not") \
  X(502, "board: summary set, sleeper not woken") \
  X(503, "board: sleeper's mark taken, not woken") \
  X(600, "lane: chunk allocated, no lane") \
  X(601, "lane filled in, not a lane yet") \
  X(602, "lane page made, not linked") \
  X(603, "lane in the table, its depth not") \
  X(604, "lane closed, its reader not told") \
  X(610, "push: chunk made, not linked") \
  X(611, "push: chunk linked, writer still at the old one") \
  X(612, "push: call counted, not placed") \
  X(613, "push: call placed, not published") \
  X(614, "push: call published, mail bit not set") \
  X(620, "writer waits for room, has not looked again") \
  X(630, "reader at the next chunk, the old one not freed") \
  X(631, "writer's mark taken, not woken") \
  X(632, "reader stepped on, call not discounted") \
  X(640, "actor: mailbox counted, not referred to") \
  X(641, "a sleeper is to be woken, bell not rung") \
  X(642, "node's bell taken, not rung") \
  X(643, "mail bit set, no reader woken") \
  X(644, "ready call listed, no reader woken") \
  X(645, "spinning") \
  X(646, "counted as sleeping, has not looked again") \
  X(650, "reader's lock: time written, not taken") \
  X(651, "reader's lock taken") \
  X(652, "take: hold recorded, call still unread") \
  X(653, "take: call started, still at the head") \
  X(654, "take: mail bit cleared, reason not looked at again") \
  X(655, "orphan's lane off the table, not freed") \
  X(656, "ready call taken off, not queued") \
  X(657, "ready call queued") \
  X(658, "queue stepped on, call not discounted") \
  X(659, "close: call settled, still at the head") \
  X(660, "take: unlocked, no further reader woken") \
  X(670, "counted as executing, not marked") \
  X(671, "discounted as executing, still marked") \
  X(672, "marked as reader, not counted") \
  X(673, "discounted as reader, still marked") \
  X(674, "counted as blocked, not marked") \
  X(675, "blocked: capacity given back, no reader woken") \
  X(676, "unblocked: counted as executing, not marked") \
  X(677, "unblocked: discounted as blocked, still marked") \
  X(700, "cell filled in, not a cell yet") \
  X(710, "waiting call counted for its first list") \
  X(720, "further watcher made, not linked") \
  X(722, "flag says that a thread sleeps, it does not yet") \
  X(730, "references disowned, not dropped") \
  X(731, "result block: references cleared, not owned") \
  X(732, "references given up, not disowned") \
  X(740, "result linked, cell not done") \
  X(741, "cell done, nobody told") \
  X(742, "watch rung, followers not served") \
  X(743, "follower served or named, still on the list") \
  X(744, "follower off the list, on no other") \
  X(745, "settled call served, still pending") \
  X(746, "settled call off the pending list, not discounted") \
  X(750, "follower linked") \
  X(751, "error counted, not linked") \
  X(752, "settled value linked, cell not done") \
  X(753, "settled cell done, nobody told") \
  X(754, "return cell claimed") \
  X(755, "return cell settled, not pending") \
  X(756, "call claimed, its return cells not settled") \
  X(757, "next argument, or mailbox, counted; references still pinned") \
  X(758, "references pinned, not marked") \
  X(759, "references pinned and marked, state not looked at") \
  X(760, "next argument, or mailbox, counted; not followed, not delivered") \
  X(761, "ready call unread, not delivered") \
  X(762, "ready call delivered, its entry not discounted") \
  X(763, "ready call delivered, its mailbox not discounted") \
  X(770, "retry: entry made, call still started") \
  X(771, "retry: call unread, not delivered") \
  X(772, "retry: call delivered, still named") \
  X(780, "cancel: wish set, call not settled") \
  X(781, "cancel: child counted, not visited") \
  X(790, "stream: following item made, in no place") \
  X(791, "stream: following item placed, the one before not dropped") \
  X(792, "stream: following item counted for its link") \
  X(793, "stream: marked as sleeping, not asleep") \
  X(794, "stream: word changed, executor not woken") \
  X(795, "stream: link taken, not recorded") \
  X(796, "stream: item out of its place, not dropped") \
  X(840, "lineage filled in, not linked")

/* The channels, 820-839. */
#define AF_POINTS_CHANNEL(X) \
  X(820, "channel filled in, not a channel yet") \
  X(821, "end taken") \
  X(822, "write: references counted, the slot owns none") \
  X(823, "write: the slot owns them, not published") \
  X(824, "write: published, nobody woken") \
  X(825, "sleeper's mark taken, not woken") \
  X(826, "sleeper woken, watch not rung") \
  X(827, "read: counted down, the slot owns it still") \
  X(828, "read: the slot owns nothing, references not dropped") \
  X(829, "read: references dropped, position not moved") \
  X(830, "read: moved on, writer not woken") \
  X(831, "marked as asleep, has not looked again") \
  X(832, "closed, nobody woken")

#define AF_POINT_LAST 899
#endif
