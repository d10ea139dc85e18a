"""What Python sees of the C core: references, calls, values, waits. Every function keeps the GIL unless it says so.

One process is one client of one node at a time (`attach` .. `detach`). Offsets and generations are opaque to callers.
Sizes are bytes, times are seconds.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, final

NONE: Final = 0  # value formats: no bytes
PICKLE: Final = 1  # pickle 5, everything in band
PACKED: Final = 2  # pickle 5 with out-of-band buffers
ERROR: Final = 3  # bytes of wire.failures.encode_error
RAW: Final = 4  # bytes as they are

DYNAMIC: Final = -1  # what a call gives: a reference to a value with references to the items of a generator
STREAM: Final = -2  # a Stream; STREAM - n: with at most n items that are not taken

STREAM_MORE: Final = 0  # what the executor of a stream finds: go on
STREAM_FULL: Final = 1  # nothing until an item is taken
STREAM_UNWANTED: Final = 2  # nobody reads it any more

ORDERED: Final = 1  # mailbox flags
SHARED: Final = 2

VERSION: Final[int]  # of the segment's layout
INLINE_BYTES: Final = 102400

class ClosedError(Exception):
    """The mailbox is closed: nobody will read what is pushed."""

class FullError(Exception):
    """No credit in the lane, or the message budget is used up (args[0] says which: "credit" or "messages")."""

class ChannelClosed(ClosedError):
    """The channel is closed or broken (its end's `state` says which), and what was written before is read."""

class NodeGoneError(Exception):
    """The node has died or is stopping; raised from every wait."""

class StaleError(Exception):
    """The name's block is gone (args: offset, generation)."""

class FencedError(Exception):
    """This process was declared dead and its call was given away."""

class CircularWaitError(Exception):
    """The wait would never end: what it is for waits for it, over some processes (args: a reference to that)."""

class StoreFullError(Exception):
    """No room in the object store (args: bytes wanted, bytes used, bytes in all); never fits: args[3] is True."""

# -- life ---------------------------------------------------------------------------------------------------------
def configure(
    *,
    dumps: Callable[[Any], tuple[bytes, list[Any]]],  # general pickling: (stream, out-of-band buffers)
    decode_error: Callable[[bytes], BaseException],
    unloadable: Callable[[BaseException], BaseException],  # what to raise where loading a value raised that
    reference: type[Reference],  # what calls and loads make: a subclass of Reference
    # what to raise when there is no room: (full or disk; the value's bytes, bytes used and in all, the spill directory
    # and its free bytes)
    storage_error: Callable[[str, int, int, int, str, int], BaseException],
) -> None: ...
def create(
    node_id: bytes,
    slots: int,
    message_bytes: int,
    control_reserve_bytes: int,
    object_bytes: int,
    spin_us: int,
) -> int:
    """Makes the segment; this process becomes its node (slot 0). Returns the memfd (owned by the client)."""

def attach(memfd: int, slot: int, epoch: int, spin_us: int, node_pidfd: int) -> None:
    """Maps the segment (a duplicate of memfd is kept) and claims the reserved slot. ValueError: not a segment, or of
    another version (both named); StaleError: slot is no longer reserved."""

def detach() -> None:
    """Leaves in order: drops every hold. References become unusable; live views keep their memory (and the slot)."""

def attached() -> bool: ...
def client_address() -> int:
    """Address of the struct af_client, for the cffi module of the same process; 0 when detached."""

def identity() -> tuple[bytes, int, int]: ...  # (node id, slot, epoch)
def fork_prepare() -> None: ...  # this thread is about to fork, which copies the holds for the child
def fork_child() -> None: ...
def fork_parent() -> None: ...
def serve_zygote(
    node_socket: int, node_pidfd: int, driver_pidfd: int, patience_s: float
) -> tuple[int, int, tuple[int, int]] | None:
    """The zygote's loop over a SOCK_SEQPACKET socket; see zygote.py. Gives in each forked worker (slot, epoch, command
    mailbox), in the zygote None once the node is gone; one that outlives its driver (-1: none) so long is killed."""

def trim_memory() -> None: ...  # gives back what the allocator of C keeps free
def move_memory() -> int:
    """Moves this process' writable memory into a file, once; how many mappings. No other thread may run."""

def give_back() -> int:
    """In a child of such a process: gives back copies of pages that are as they were, once; how many."""

def print_titled(descriptor: int, inode: int, title: bytes, data: object) -> int:
    """Writes all of a buffer: to the pipe with that inode in pieces behind headers (wire/printed.py), else as it is.
    Releases the GIL. Returns how many bytes; OSError."""

def fork_slot() -> tuple[int, int]:
    """In a forked child: the (slot, epoch) to announce to the node."""

def node_alive() -> bool: ...
def is_live(slot: int, epoch: int) -> bool:
    """Whether the process of that slot and epoch is attached. One that died is so until its death was settled."""

def node_mailbox() -> Hold: ...
def publish_node_mailbox(mailbox: Hold) -> None:
    """Node: others may attach now."""

def stop_node() -> None:
    """Node: from now on every wait raises NodeGoneError."""

# -- holds and references -------------------------------------------------------------------------------------------
class Hold:
    """A counted reference to a block: actor, mailbox, cell or channel. Hashable by (offset, generation). Inside of
    calls and values it travels by itself; TypeError in any other pickle."""

    @property
    def name(self) -> tuple[int, int]: ...
    @property
    def kind(self) -> str: ...  # "cell", "mailbox", "actor", "channel"

class Reference(Hold):
    """A hold on a cell: what ObjectRef derives from (with __slots__ = ())."""

    @property
    def watcher(self) -> tuple[int, int] | None: ...  # the name of what it holds besides its cell
    def is_done(self) -> bool: ...
    def look(self) -> bool | None: ...  # for an await. True: go on; False: wait; None: go on after a turn
    def spin(self, seconds: float) -> bool: ...  # looks for so long, keeping the GIL; 50 us at most
    def result(self) -> Any:
        """The value of a done cell; raises the stored error. InvalidStateError-like RuntimeError when not done."""

    def result_nowait(self) -> Any: ...  # as result; TimeoutError: it lies on disk, and was asked back
    def bring_back(self) -> object: ...  # waits until a value is in memory: what keeps it there
    def error(self) -> BaseException | None: ...  # the stored error of a done cell, decoded
    def raw(self) -> tuple[int, bytes, list[Hold]]: ...  # (format, bytes, references); for RAW and ERROR
    def __reduce__(self) -> Any: ...  # its index where this thread packs a value, else of _reduce_outside()

def hold(name: tuple[int, int], kind: str) -> Hold:
    """Revives a name. StaleError: gone; ValueError: not a name."""

def collect(held: Hold) -> int:
    """While a value is being packed by this thread: notes that it refers to `held`; returns its index. -1: nothing is
    being packed (plain pickle)."""

def load_argument(index: int) -> Any:
    """While arguments are being loaded by this thread: the value of that dependency."""

def load_hold(index: int) -> Hold:
    """While a value is being loaded by this thread: its reference of that index (a Reference for a cell)."""

# -- mailboxes and calls ----------------------------------------------------------------------------------------------
def make_mailbox(flags: int, job: int, credit: int) -> Hold: ...
def make_actor(mailbox: Hold) -> Hold:
    """The block that handles hold; its end marks the mailbox abandoned."""

def actor_mailbox(actor: Hold) -> Hold: ...

@final
class Target:
    """Where calls go: this process' lanes to a mailbox. One per mailbox and process (order per caller)."""

    def __init__(self, mailbox: Hold) -> None: ...
    def call(
        self,
        method: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        returns: int = 1,
        function: Reference | None = None,
        block: bool = True,
        retries: int = 0,
        retry: bool | None = None,
        limit_ms: int = 0,
    ) -> Any:
        """Packs and pushes; returns a reference (returns == 1 or DYNAMIC), None (0), a list, or a Stream (STREAM or
        less). Top-level references in args and
        kwargs become dependencies. Over INLINE_BYTES the arguments go through the store. Without credit: waits
        (releasing the GIL) when `block`, else FullError("credit"). ClosedError: closed. `retries`: how often it may be
        run again, -1: always; `retry`: its retry_exceptions, None: what its body says."""

    def call_raw(self, data: bytes, references: Sequence[Hold] = (), method: int = 0) -> Any:
        """A call whose argument is bytes; returns a reference."""

    def submit_first(
        self, method: int, args: tuple[Any, ...], kwargs: dict[str, Any] | None, retries: int = 0
    ) -> Any:
        """Makes the mailbox's first call (a constructor) and returns a reference; not pushed: take_first gives it."""

    @property
    def mailbox(self) -> Hold: ...
    def facts(self) -> dict[str, int]:
        """depth, allowed, active, readers, blocked, sleepers, closed, abandoned, lanes."""

@final
class Call:
    """A call that this process has started."""

    @property
    def method(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def returns(self) -> int:
        """How many references it gives; DYNAMIC; STREAM."""

    @property
    def function(self) -> tuple[int, int]:
        """Name of the function's cell: the key for a cache. Of a method's call its retry_exceptions; (0, 0): none."""

    @property
    def name(self) -> tuple[int, int]: ...
    @property
    def caller(self) -> tuple[int, int]:
        """(slot, epoch)."""

    @property
    def number(self) -> int: ...
    @property
    def attempt(self) -> int:
        """1 for the first."""

    @property
    def retries(self) -> int:
        """How often it may be run again, -1: always."""

    @property
    def retry_exceptions(self) -> bool | None:
        """What the caller said for this call; None: nothing."""

    @property
    def limit_s(self) -> float:
        """How long an attempt may run; 0: no limit."""

    @property
    def wish(self) -> int:
        """Not 0: somebody wants the call to end (CANCEL_CHILDREN: with the calls made within it)."""

    @property
    def told(self) -> int:
        """Whether, and why, its code was interrupted: 0 or TOLD_*."""

    def tell(self, why: int) -> None:
        """Notes that its code is interrupted now."""

    def children(self) -> list[Any]:
        """References to the unfinished calls that its code has made; none where it has made none since it was asked."""

    def load_function(self) -> Any:
        """The value of the function's cell, loaded anew: what the caller exported."""

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Unpacked; dependencies are replaced by their values. Raises what unpickling raises, or their error."""

    def raw(self) -> tuple[bytes, list[Hold]]: ...
    def complete(self, value: Any) -> None:
        """Packs and publishes. Raises what pickling raises (then the call is still to be settled), StoreFullError,
        FencedError."""

    def complete_many(self, values: Sequence[Any], data: bytes = b"", holds: Sequence[Hold] = ()) -> None:
        """One value for each of `returns`; or fewer, and ERROR bytes for the rest."""

    def complete_raw(self, data: bytes, references: Sequence[Hold] = ()) -> None: ...
    def retry(self) -> bool:
        """Puts the call back, to be run again. False: no retries left, or its mailbox is closed: it is to be settled.
        FullError, FencedError."""

    def fail(self, data: bytes, holds: Sequence[Hold] = ()) -> None:
        """Settles with ERROR bytes, all returns; `holds`: what is named in them, owned by each result."""

def take(mailbox: Hold, timeout: float | None = None, leave: bool = True) -> Call | None:
    """The next call that can start; waits (GIL kept for the first 20 us, then released) until there is one, the
    timeout is over, or (leave) the node asked this process to leave the queue or the mailbox was abandoned and is
    empty: None. ClosedError: closed and empty. Runs signal handlers."""

def take_nowait(mailbox: Hold) -> Call | None: ...
def take_first(mailbox: Hold) -> Call | None: ...
def enter(call: Call | None) -> None:
    """The call that user code of this thread runs now (its depth is that of calls made from here)."""

def entering(call: Call | None, coroutine: Any) -> Awaitable[Any]: ...  # for one await: each step is entered
def current_call() -> tuple[tuple[int, int], tuple[int, int], int, int, int] | None:
    """What this thread has entered last: (call's name, its function's, method, attempts before this one, wish)."""

def run(call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs a call's code in the main thread: entered, and such that interrupts hit nothing but it. What it returns or
    raises. KeyboardInterrupt at once where the call has been cancelled. Its limit of time begins now."""

def interrupt_due() -> bool:
    """For the handler of SIGURG: whether the code that `run` runs is to be interrupted."""

def take_interrupt() -> Call | None:
    """The call whose code is to be interrupted, by who asks and now: it is due no more."""

def in_wait() -> bool:
    """Whether the main thread's signal handlers run in the midst of a wait of this module."""

def join(mailbox: Hold) -> None: ...
def leave(mailbox: Hold) -> None: ...
def must_leave() -> bool: ...
def leave_soon() -> None: ...  # after what runs now: must_leave is True until `leave`
def task_done() -> None: ...

# -- channels ---------------------------------------------------------------------------------------------------------
CHANNEL_OPEN: Final = 0
CHANNEL_CLOSED: Final = 1  # one of its ends was closed
CHANNEL_BROKEN: Final = 2  # a process at one of its ends died

def channel_create(slots: int, slot_bytes: int, readers: int) -> Hold:
    """A channel from one writer to 1 to 64 readers. Values of up to `slot_bytes` lie in its slots, 120 KiB at most
    together (ValueError); larger ones, or with out-of-band buffers, in blocks of their own, in the object store from
    100 KiB on. Buffers that are views into the store stay there."""

def channel_close(channel: Hold) -> None: ...  # as End.close, for who has no end of it

class End:
    """An end of a channel, of this process for ever and of one thread at a time (RuntimeError: another one uses it).
    A channel ends with any of its ends: by close, with the last reference to it, with the runtime (CLOSED), or with the
    process (BROKEN). The first of these stays."""

    def ready(self) -> bool:
        """Whether write or read would not wait; they do not where the channel is closed, either."""

    def close(self) -> None:
        """Closes the channel and lets go of it; any thread may. Other readers can still read what is written."""

    @property
    def state(self) -> int:
        """CHANNEL_*; after close what it was then."""

    @property
    def sleeps(self) -> int:
        """How often a thread, or an event loop, has gone to sleep so far while it waited for this end."""

    @property
    def position(self) -> int:
        """How many values it has written, or used up by reading, whatever its calls raised after that; also closed."""

@final
class Writer(End):
    def __init__(self, channel: Hold) -> None:
        """Takes the writing end. RuntimeError: it is taken."""

    def write(self, value: Any, timeout: float | None = None) -> None:
        """Waits for a free slot (as get waits), packs the value as put does, publishes it. TimeoutError; ChannelClosed;
        what packing raises: then nothing was written. Room in the store is waited for as put does, beside `timeout`."""

    def write_error(self, data: bytes, holds: Sequence[Hold], timeout: float | None = None) -> None:
        """The same with ERROR bytes and what is named in them; `read` raises it."""

@final
class Reader(End):
    def __init__(self, channel: Hold, index: int) -> None:
        """Takes the reading end of that index, from 0 on. RuntimeError: it is taken; ValueError: there is none."""

    def read(self, timeout: float | None = None) -> Any:
        """The next value; waits for it. A stored error, or one of loading the value, is raised, and the value is used
        up all the same. TimeoutError; ChannelClosed: once what was written before is read."""

def take_or_ready(mailbox: Hold, timeout: float | None, ends: Sequence[End]) -> Call | int | None:
    """A call of the mailbox as take gives it (with `leave`), or the index of an end that is ready, in fair turns; waits
    for the first of them. None: as take, or time is over. ClosedError: the mailbox is."""

# -- streams ----------------------------------------------------------------------------------------------------------
@final
class Stream:
    """The items of one call, in the process that made it. Its end tells the executor that nobody reads any more."""

    def __init__(self, call: Reference, item: Reference) -> None: ...
    @property
    def call(self) -> Any:
        """A reference to the call's end."""

    @property
    def item(self) -> Any:
        """A reference that is done once the next item, or the end, is there. Not the item: take gives that."""

    @property
    def finished(self) -> bool:
        """No item is left."""

    def take(self) -> Any:
        """The next item's reference; None: it is not there yet. StopIteration: there is none. An error is the last."""

    def await_item(self, timeout: float | None) -> None:
        """Waits as get does until take gives something. TimeoutError; NodeGoneError."""

    def completed(self) -> Any:
        """The same; the call then runs to its end though its items are not read."""

    def close(self) -> None:
        """Reads no more."""

def stream_index(call: Call) -> int:
    """The number of the item that is to be given next: how many an earlier attempt has given."""

def stream_give(call: Call, value: Any) -> int:
    """Publishes the next item; then as stream_look. Raises as Call.complete."""

def stream_look(call: Call) -> int: ...
def stream_wait(call: Call) -> int:
    """Waits 100 ms at most (the GIL released) while it is STREAM_FULL; then as stream_look. Runs signal handlers."""

def stream_end(call: Call) -> None:
    """No more items; the call itself is still to be completed."""

# -- cancelling -------------------------------------------------------------------------------------------------------
CANCEL_CHILDREN: Final = 2  # a wish: that the calls made within the call end too
TOLD_BEFORE: Final = 1  # its code was to begin
TOLD_RUNNING: Final = 2
TOLD_LIMIT: Final = 3  # it had run for as long as it may
CANCEL_SETTLED: Final = 0  # outcomes: it will never run
CANCEL_STARTED: Final = 1  # it runs: whoever runs it is to look

def call_of(reference: Reference) -> Reference | None:
    """The reference to the call whose result (first or further) it is; None: that is over and gone."""

def cancel(call: Reference, wish: int, error: bytes) -> tuple[int, int, int, bool]:
    """Wishes that a call end: (outcome, slot, epoch, told). One that has not started is settled with ERROR bytes."""

def settle_killed(call: Reference, slot: int, epoch: int, error: bytes) -> bool:
    """Settles a call that a process, which must have ended, had started; whether it had."""

def subject(call: Reference) -> tuple[str, Reference | None, int, int]:
    """(kind, function, offset of the mailbox, method). Kind: "task", "actor", "" for what is no call. The function
    only while the task is not done."""

def children(name: tuple[int, int]) -> list[Any]:
    """References to the unfinished calls made within the call of that name. Walks the whole message memory."""

# -- values -----------------------------------------------------------------------------------------------------------
def put(value: Any) -> Any:
    """A done cell with the value; over INLINE_BYTES in the object store. Returns a reference. Exact bytes are RAW."""

# Done cells: with ERROR bytes and what they name; with the error of a closed mailbox (ValueError: it is open).
def put_error(data: bytes, holds: Sequence[Hold] = ()) -> Any: ...
def refused(mailbox: Hold) -> Any: ...
def get(reference: Reference, timeout: float | None = None, before: Callable[..., object] = ...) -> Any:
    """Spins, then sleeps until done (GIL kept for the first 20 us). TimeoutError; NodeGoneError; the stored error.
    `before(reference, timeout)` is called where it is not done; what it raises is raised."""

def get_many(references: Sequence[Reference], timeout: float | None = None) -> list[Any]: ...
def wait(
    references: list[Any], num_returns: int, timeout: float | None = None
) -> tuple[list[Any], list[Any]]:
    """(done, rest) in input order, at most num_returns in done. ValueError: duplicates."""

def yield_cpu() -> bool:
    """sched_yield. False: others wanted the CPU for long, or did lately: who looks in turns is to sleep."""

# -- loops ------------------------------------------------------------------------------------------------------------
@final
class Board:
    """A waiter's notice board: references and mailboxes watched by one event loop."""

    def __init__(self) -> None: ...
    @property
    def address(self) -> bytes:
        """Abstract socket address to bind a datagram socket to (leading NUL included)."""

    @property
    def pending(self) -> int: ...
    def watch(self, reference: Reference, note: object) -> int:
        """Rings when done; `note` is handed out by poll once. 0: already done, nothing set; -1: no token left, look
        yourself; else a token."""

    def unwatch(self, token: int) -> None: ...
    def listen(self, mailbox: Hold, note: object) -> int:
        """Rings on each push to the mailbox; `note` is handed out by poll each time it was rung.
        Returns the token for forget."""

    def attend(self, mailbox: Hold, note: object) -> int:
        """Node: arms the mailbox's node bell: rings once when a push finds no reader to wake (at once when there is
        mail); arm again with rearm. Returns the token."""

    def rearm(self, token: int) -> bool: ...
    def watch_end(self, end: End, note: object) -> int:
        """Rings when the end may have become ready, at once if it is; `note` is handed out by poll each time it was
        rung and the end is ready. Use it until it is not ready any more: nothing rings for what was there before. An
        end is watched by one board. Returns the token for forget."""

    def forget(self, token: int) -> None:
        """Ends listen, attend or watch_end."""

    def poll(self, thorough: bool = False) -> list[Any]:
        """Notes that were rung. thorough: looks at every watched cell too (a lost ring)."""

    def arm(self) -> bool:
        """Before sleeping in the selector: True: sleep, a datagram will wake; False: poll again first."""

    def disarm(self) -> None: ...
    def close(self) -> None: ...
