"""Waiting inside event loops: one LoopPort per loop turns rings of shared memory into the loop's wake-ups.

A loop that waits for an answer looks for it: first by a short spin on the answer itself, then by a call in
every turn of the loop while an answer is near, and only then from its selector, where a datagram wakes it. So
an answer that comes within microseconds costs no system call, and an idle loop costs none either.

Guarantees: a waiter is told once; a wait that is cancelled leaves nothing behind; a lost ring is found by a
timed look (10 a second while somebody waits, one a second for a listener alone); the node's death ends every
wait; what a note raises costs no other note anything. All methods are for the loop's own thread. Nothing here keeps
a loop alive: a port ends with its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import socket
import types
import weakref
from collections.abc import Callable, Generator, Sequence
from time import monotonic
from typing import Any

from actorflow import _hot, config
from actorflow.client.notes import Countdown, Counted, DoneCallback

AWAIT_SPIN_S = 10e-6  # a call and its answer take 4-8 us when both sides are awake
SPINS_IN_A_ROW = 16  # then the loop's other tasks get a turn
LOOK_S = 0.1
IDLE_LOOK_S = 1.0
DATAGRAM_BYTES = 64

_TOO_MANY = (
    "{count} event loops of this process have awaited calls and are not closed, which is as many as there can be: "
    "close those that are not needed any more"
)

Note = Callable[[], object]

_ports: dict[int, LoopPort] = {}  # by id of the loop; removed when the loop is freed
_ending: dict[int, LoopPort] = {}  # of a runtime that has ended, in loops that are still to close them
_closed_by: Callable[[], BaseException] | None = (
    None  # while there is no runtime after one: why none may wait
)


def current_port() -> LoopPort:
    """The port of the running loop, made at first use.

    RuntimeError: no loop runs here, this process is not attached, or 256 others of its loops wait already.
    """
    loop = asyncio.get_running_loop()
    port = _ports.get(id(loop))
    if port is None:
        if _closed_by is not None:
            raise _closed_by()
        _sweep()
        if (ending := _ending.get(id(loop))) is not None:  # it was busy since
            ending.close(_over)
        try:
            port = _ports[id(loop)] = LoopPort(loop)
        except _hot.FullError:
            raise RuntimeError(_TOO_MANY.format(count=len(_ports))) from None
    return port


def _sweep() -> None:
    """Ends the ports of loops that were closed and are still referred to by somebody."""
    for port in [*_ports.values(), *_ending.values()]:
        loop = port.loop()
        if loop is None or loop.is_closed():
            port.close()


def open_ports() -> None:
    """Loops may wait: there is a runtime."""
    global _closed_by
    _closed_by = None


def close_ports(error: Callable[[], BaseException]) -> None:
    """Ends all ports; whoever still waits gets an error, and so does who comes before the next runtime."""
    global _closed_by
    _closed_by = error
    for key, port in list(_ports.items()):
        loop = port.loop()
        if loop is None or not loop.is_running() or loop is _running():
            port.close(error)
            continue
        _ending[key] = port
        _ports.pop(key, None)
        try:
            loop.call_soon_threadsafe(port.close, error)
        except RuntimeError:  # the loop was closed since
            port.close(error)


def _running() -> asyncio.AbstractEventLoop | None:
    return asyncio._get_running_loop()


def forget_ports() -> None:
    """In a forked child: the parent's ports are not this process' to close."""
    for port in [*_ports.values(), *_ending.values()]:
        port.forget()
    _ports.clear()
    _ending.clear()


def _loop_freed(key: int, _: object) -> None:
    for ports in (_ports, _ending):
        port = ports.pop(key, None)
        if port is not None:
            port.release()


def _gone() -> BaseException:
    return _hot.NodeGoneError("the node has died or is stopping")


def _over() -> BaseException:
    return RuntimeError("the runtime was shut down while this was waited for")


class LoopPort:
    """What one event loop waits for: references that will be done, and mailboxes that it reads."""

    # Raised in whoever waits when the node dies; the runtime knows better what died.
    gone_error: Callable[[], BaseException] = staticmethod(_gone)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._key = id(loop)
        self.loop = weakref.ref(loop, functools.partial(_loop_freed, self._key))
        self._spin_s = config.current().spin_us * 1e-6
        self._board = _hot.Board()
        self._waiting: dict[Any, int] = {}  # note (a future or a Note) -> token of its watch
        self._callbacks: dict[tuple[_hot.Reference, Callable[[Any], object]], list[DoneCallback]] = {}
        self._mailboxes: dict[_hot.Hold, tuple[int, Note]] = {}  # listened to or attended -> token, note
        self._untold: dict[Any, _hot.Reference] = {}  # notes for which the board had no token left
        self._polling = False  # a _turn is on its way
        self._armed = False  # ringers are to send a datagram
        self._quiet_at = 0.0  # when to stop looking in every turn
        self._spins = 0
        self._timer: weakref.ref[asyncio.TimerHandle] | None = None  # the handle refers to the loop
        self._timer_s = 0.0
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._board.address)
        loop.add_reader(self._socket.fileno(), self._on_datagram)

    # -- waiting for references

    def wait(self, reference: _hot.Reference) -> Generator[Any, None, None]:
        """Awaits one reference (`yield from`): returns once it is done, raises when the node dies."""
        if not self._waiting:
            if self._spins >= SPINS_IN_A_ROW:
                self._spins = 0
                yield
            if reference.spin(AWAIT_SPIN_S):
                self._spins += 1
                return
        self._spins = 0
        future = self._require_loop().create_future()
        if self._watch(reference, future):
            try:
                yield from future
            except BaseException:
                self._unwatch(future)
                raise

    async def wait_some(
        self,
        references: Sequence[_hot.Reference],
        count: int,
        stop: Callable[[Any], bool] | None = None,
    ) -> None:
        """Awaits `count` of the references that are not done yet, or one of them that `stop` accepts."""
        countdown = Countdown(self._require_loop().create_future(), count, stop)
        notes = []
        try:
            for reference in references:
                note = Counted(countdown, reference)
                if self._watch(reference, note):
                    notes.append(note)
                else:
                    note()
                if countdown.future.done():
                    return
            self._waiting[countdown.future] = 0
            await countdown.future
        finally:
            self._waiting.pop(countdown.future, None)
            for note in notes:
                self._unwatch(note)

    def add_done_callback(
        self,
        reference: _hot.Reference,
        callback: Callable[[Any], object],
        context: contextvars.Context | None = None,
    ) -> None:
        """Runs `callback(reference)` in the loop once it is done; soon when it is done already."""
        self._require_loop()
        note = DoneCallback(self._call_back, reference, callback, context)
        self._callbacks.setdefault((reference, callback), []).append(note)
        if not self._watch(reference, note):
            note()

    def remove_done_callback(self, reference: _hot.Reference, callback: Callable[[Any], object]) -> int:
        """Takes callbacks back; returns how many were removed."""
        notes = self._callbacks.pop((reference, callback), [])
        waiting = [note for note in notes if note in self._waiting]
        for note in waiting:
            self._unwatch(note)
        return len(waiting)

    def _call_back(self, note: DoneCallback) -> None:
        """Has the loop run a callback that is due, and forgets it."""
        key = note.reference, note.callback
        notes = self._callbacks.get(key)
        if notes is not None:
            notes.remove(note)
            if not notes:
                del self._callbacks[key]
        loop = self.loop()
        if loop is not None:
            loop.call_soon(note.callback, note.reference, context=note.context)

    # -- reading mailboxes

    def listen(self, mailbox: _hot.Hold, note: Note) -> None:
        """Runs `note` after pushes to a mailbox that this loop reads: once for any number of them.

        It also runs when the node has died, which it has to look at itself.
        """
        self._mailboxes[mailbox] = self._board.listen(mailbox, note), note
        self._start_listening()

    def attend(self, mailbox: _hot.Hold, note: Note) -> bool:
        """Node: runs `note` once when a push finds no reader to wake; attend again after it ran.

        True: there is mail that was pushed before this, for which `note` may not run.
        """
        attended = self._mailboxes.get(mailbox)
        if attended is None:
            self._mailboxes[mailbox] = self._board.attend(mailbox, note), note
            self._start_listening()
            return False
        return self._board.rearm(attended[0])

    def ignore(self, mailbox: _hot.Hold) -> None:
        """Ends `listen` or `attend`."""
        listened = self._mailboxes.pop(mailbox, None)
        if listened is not None:
            self._board.forget(listened[0])

    def _start_listening(self) -> None:
        self._set_timer(IDLE_LOOK_S)
        self._stir()

    # -- ends of channels

    def wait_end(
        self, end: _hot.End, future: asyncio.Future[None] | None = None
    ) -> Generator[Any, None, None]:
        """Awaits (`yield from`) until an end of a channel is ready or closed, or somebody else resolves the `future`.

        One task for each end. Raises when the node dies.
        """
        if end.ready():
            return
        if future is None:
            future = self._require_loop().create_future()
        token = self._board.watch_end(end, future)
        self._waiting[future] = 0
        self._set_timer(LOOK_S)
        self._stir()
        try:
            yield from future
        finally:
            self._waiting.pop(future, None)
            if not self._closed:
                self._board.forget(token)

    @types.coroutine
    def until_ready(self, end: _hot.End) -> Generator[Any, None, None]:
        """As `wait_end`, for `await`."""
        yield from self.wait_end(end)

    # -- the board

    def _watch(self, reference: _hot.Reference, note: Any) -> bool:
        """Has `note` delivered when the reference is done. False: it is done."""
        token = self._board.watch(reference, note)
        if not token:
            return False
        if token < 0:
            self._untold[note] = reference
        self._waiting[note] = token
        self._set_timer(LOOK_S)
        self._stir()
        return True

    def _unwatch(self, note: Any) -> None:
        token = self._waiting.pop(note, 0)  # gone when it was delivered: the token is another's by now
        if token > 0:
            self._board.unwatch(token)
        elif token < 0:
            self._untold.pop(note, None)

    def _stir(self) -> None:
        """Something was sent: an answer may be near, so look in every turn for a while."""
        self._quiet_at = monotonic() + self._spin_s
        if not self._polling:
            self._polling = True
            self._disarm()
            self._require_loop().call_soon(self._turn)

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            self._board.disarm()

    def _turn(self) -> None:
        """One look at the board; again in the loop's next turn, until it has been quiet for long enough."""
        loop = self.loop()
        if self._closed or loop is None:
            return
        now = monotonic()
        try:
            notes = self._board.poll()
            if not notes and self._falls_asleep(now):
                return
        except RuntimeError:  # the runtime has let go of the board, and `close` is on its way to this loop
            return
        try:
            if notes:
                self._quiet_at = now + self._spin_s
                self._deliver(notes)
        finally:
            loop.call_soon(self._turn)

    def _falls_asleep(self, now: float) -> bool:
        """Nothing was there: looks no more if that is so for long enough."""
        if now < self._quiet_at and _hot.yield_cpu():
            return False
        idle = not (self._waiting or self._mailboxes)
        if not idle and not self._board.arm():
            return False
        self._armed = not idle
        self._polling = False
        return True

    def _deliver(self, notes: list[Any]) -> None:
        """Tells all of them; what one raises is raised, and the rest are told in the loop's next turn."""
        told = 0
        try:
            for note in notes:
                told += 1
                self._tell(note)
        finally:
            loop = self.loop()
            if told < len(notes) and loop is not None:
                loop.call_soon(self._deliver, notes[told:])
        if self._untold:
            self._retry()

    def _tell(self, note: Any) -> None:
        self._waiting.pop(note, None)
        if not isinstance(note, asyncio.Future):
            note()
        elif not note.done():
            note.set_result(None)

    def _retry(self) -> None:
        """Tokens may have become free: watches what had to do without, as many as there are."""
        while self._untold:
            note, reference = next(iter(self._untold.items()))
            del self._untold[note]
            if not self._watch(reference, note):
                self._tell(note)
            elif note in self._untold:
                return

    def _on_datagram(self) -> None:
        try:
            self._socket.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        with contextlib.suppress(RuntimeError):  # as in _turn
            self._stir()

    # -- the timed look

    def _set_timer(self, interval_s: float) -> None:
        if self._timer is not None and self._timer_s <= interval_s:
            return
        self._cancel_timer()
        self._timer_s = interval_s
        self._timer = weakref.ref(self._require_loop().call_later(interval_s, self._look))

    def _cancel_timer(self) -> None:
        timer = self._timer() if self._timer is not None else None
        if timer is not None:
            timer.cancel()
        self._timer = None

    def _look(self) -> None:
        """Finds rings that were lost, and the death of the node."""
        self._timer = None
        if not _hot.attached():  # as in _turn
            return
        try:
            self._look_now()
        finally:
            if not self._closed and (self._waiting or self._mailboxes):
                self._set_timer(LOOK_S if self._waiting else IDLE_LOOK_S)

    def _look_now(self) -> None:
        if not _hot.node_alive():
            self._fail(self.gone_error)
            self._deliver([note for _, note in self._mailboxes.values()])
        else:
            try:
                notes = self._board.poll(True)
            except RuntimeError:  # as in _turn
                return
            done = [note for note, reference in self._untold.items() if reference.is_done()]
            for note in done:
                del self._untold[note]
            if notes or self._untold or done:
                self._stir()
                self._deliver(notes + done)

    # -- the end

    def _fail(self, error: Callable[[], BaseException]) -> None:
        """Ends every wait; callbacks run, and find out from their reference."""
        waiting = list(self._waiting)
        for note in waiting:
            if isinstance(note, asyncio.Future) and not note.done():
                note.set_exception(error())
        for note in waiting:
            with contextlib.suppress(
                RuntimeError
            ):  # the runtime may have let go of the board before the port
                self._unwatch(note)
        self._deliver([note for note in waiting if not isinstance(note, asyncio.Future)])

    def close(self, error: Callable[[], BaseException] = _gone) -> None:
        """Ends every wait with an error and gives back the socket and the board."""
        if self._closed:
            return
        loop = self.loop()
        try:
            for ports in (_ports, _ending):
                if ports.get(self._key) is self:
                    del ports[self._key]
            if loop is not None and not loop.is_closed():
                loop.remove_reader(self._socket.fileno())
                self._fail(error)
        finally:
            self._cancel_timer()
            self.release()

    def forget(self) -> None:
        """In a forked child: leaves the loop and the parent's board alone."""
        self._closed = True
        self._socket.close()

    def release(self) -> None:
        """Gives back what is the system's, once nobody can wait any more."""
        self._closed = True
        self._socket.close()  # first: the board's next user takes its address
        self._board.close()

    def _require_loop(self) -> asyncio.AbstractEventLoop:
        loop = self.loop()
        if loop is None or self._closed:
            raise RuntimeError("this loop waits no more: the runtime was shut down, or the loop was closed")
        return loop
