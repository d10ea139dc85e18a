"""Ends of channels whose tensors travel by a collective group: the value goes through the channel without them.

The writer writes the value first, with shapes and dtypes in place of the tensors, and then begins to send these. So
the reader is woken by the channel, like every other, and receives while it loads the value. A send has ended when the
reader has received; that is known once the channel has room again for the value `slots` later, and only then the tensor
is let go of: nothing waits for it earlier. It is sent from its own memory: who changes it before sends what it becomes.

What the first value of an edge has of tensors is expected of the later ones. Where the transport can, a receive for
that is begun ahead, at the end of each execution: what is sent then finds where to go, and nobody has to tell the
writer that the reader is ready, which costs gloo a round trip between two of its threads. Tensors unlike those go under
a tag of their own, so that they do not meet that receive, and only for them specs go along.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from actorflow import _hot
from actorflow.collective import groups
from actorflow.collective.communicator import Communicator, Pending
from actorflow.collective.errors import CollectiveError
from actorflow.core.graphs import Edge
from actorflow.wire import pickling

UNEXPECTED_TAG = 1 << 29  # and the edge's tag: for what is unlike the first value

_log = logging.getLogger("actorflow")


class Spec(NamedTuple):
    """What the reader has to know of a tensor before it comes."""

    shape: tuple[int, ...]
    dtype: Any

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


class _Sent:
    """A value on its way. `expected`: what tensors the reader expects; None before the first value."""

    def __init__(
        self, value: Any, edge: Edge, communicator: Communicator, expected: tuple[Spec, ...] | None
    ) -> None:
        self._value = value
        self._edge = edge
        self._communicator = communicator
        self._expected = expected
        self.tensors: list[Any] = []
        self.specs: tuple[Spec, ...] = ()

    @property
    def is_expected(self) -> bool:
        """Whether the reader knows its tensors without being told."""
        return self.specs == self._expected

    def __reduce__(self) -> tuple[Any, ...]:
        data, buffers = self._packed()
        for tensor in self.tensors:
            self._check(tensor)
        self.specs = tuple(Spec(tuple(tensor.shape), tensor.dtype) for tensor in self.tensors)
        if self._edge.static_shape and self._expected is not None and not self.is_expected:
            raise _Unlike(self._expected, self.specs)
        return _load, (None if self.is_expected else self.specs, data, *buffers)

    def _check(self, tensor: Any) -> None:
        try:
            self._communicator.check(tensor)
        except (TypeError, ValueError) as error:
            raise _Unfit(error) from None

    def _packed(self) -> tuple[bytes | None, Sequence[Any]]:
        tensors = importlib.import_module("actorflow.wire.tensors")
        if self._edge.direct_return:
            torch: Any = importlib.import_module("torch")
            if not isinstance(self._value, torch.Tensor):
                raise _Indirect(type(self._value).__name__)
            self.tensors = [self._value]
            return None, ()
        self.tensors = []
        with tensors.aside(self.tensors):
            return pickling.dumps(self._value)


class _Unlike(Exception):
    """Tensors are not those of the first execution."""

    def __init__(self, known: Sequence[Spec], specs: Sequence[Spec]) -> None:
        super().__init__(known, specs)

    def __str__(self) -> str:
        known, specs = (", ".join(map(str, given)) or "no tensor" for given in self.args)
        return f"this value has {specs}, the first one had {known}, and its edge has static_shape=True"


class _Indirect(Exception):
    """The value of an edge with direct_return is no tensor."""

    def __str__(self) -> str:
        return f"this value is a {self.args[0]}, and its edge has direct_return=True, which is for tensors"


class _Unfit(Exception):
    """A tensor cannot be sent: the communicator's error."""


class TensorWriter:
    """The writing end."""

    def __init__(self, writer: _hot.Writer, edge: Edge) -> None:
        self._writer = writer
        self._edge = edge
        self._communicator: Communicator = groups.find(edge.group)
        self._expected: tuple[Spec, ...] | None = None
        self._sending: deque[list[Pending]] = deque()

    def write(self, value: Any) -> None:
        """As Writer.write. ValueError, TypeError: not what the edge is for. ChannelClosed: the group has broken."""
        sent = _Sent(value, self._edge, self._communicator, self._expected)
        try:
            self._writer.write(sent)
        except TypeError as error:
            raise _refusal(error) from None
        tag = _tag(self._edge, self._communicator, sent.is_expected or self._expected is None)
        if self._expected is None:
            self._expected = sent.specs
        try:
            self._let_go()
            self._sending.append(
                [
                    self._communicator.isend(tensor, peer, tag)
                    for tensor in sent.tensors
                    for peer in self._edge.peers
                ]
            )
        except Exception as error:
            broken = _broken_by(self._communicator, self._edge.group, "sending", error)
            raise _hot.ChannelClosed(str(broken)) from None

    def _let_go(self) -> None:
        """The channel had room: what was written `slots` values ago has been received."""
        if len(self._sending) >= self._edge.slots:
            for pending in self._sending.popleft():
                pending.wait()


class TensorReader:
    """A reading end."""

    def __init__(self, reader: _hot.Reader, edge: Edge) -> None:
        self._reader = reader
        self._edge = edge
        self._communicator: Communicator = groups.find(edge.group)
        self._expected: tuple[Spec, ...] | None = None
        self._ahead: _Receiving | None = None

    def read(self) -> Any:
        """As Reader.read. ChannelClosed: the group has broken."""
        with _arriving(self):
            try:
                return self._reader.read()
            except _Broken as error:
                raise _hot.ChannelClosed(str(error)) from None

    def receive(self, specs: tuple[Spec, ...] | None) -> list[Any]:
        """The tensors of the value that is being loaded; `specs`: None: those that are expected."""
        is_first = self._expected is None
        if is_first:
            self._expected = specs
        with self._breaking_group():
            if specs is not None:
                return self._begin(specs, is_expected=is_first).wait()
            ahead, self._ahead = self._ahead, None
            return (ahead or self._begin_expected()).wait()

    def receive_ahead(self) -> None:
        """Begins to receive what is expected next, for `receive`. ChannelClosed: the group has broken."""
        if self._ahead is not None or not (self._expected and self._communicator.receives_ahead):
            return
        try:
            with self._breaking_group():
                self._ahead = self._begin_expected()
        except _Broken as error:
            raise _hot.ChannelClosed(str(error)) from None

    def _begin_expected(self) -> _Receiving:
        assert self._expected is not None
        return self._begin(self._expected, is_expected=True)

    def _begin(self, specs: tuple[Spec, ...], is_expected: bool) -> _Receiving:
        torch: Any = importlib.import_module("torch")
        communicator, (peer,) = self._communicator, self._edge.peers
        tag = _tag(self._edge, communicator, is_expected)
        tensors = [torch.empty(shape, dtype=dtype, device=communicator.device) for shape, dtype in specs]
        return _Receiving(tensors, [communicator.irecv(tensor, peer, tag) for tensor in tensors])

    @contextmanager
    def _breaking_group(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise _broken_by(self._communicator, self._edge.group, "receiving", error) from None


class _Receiving(NamedTuple):
    """Tensors that are on their way, or will be."""

    tensors: list[Any]
    pending: list[Pending]

    def wait(self) -> list[Any]:
        """The tensors, once they are there."""
        for pending in self.pending:
            pending.wait()
        return self.tensors


def _tag(edge: Edge, communicator: Communicator, is_expected: bool) -> int:
    """The tag of an edge's tensors: of their own for those that a receive which was begun ahead does not fit."""
    return edge.tag if is_expected or not communicator.receives_ahead else UNEXPECTED_TAG + edge.tag


class _Broken(CollectiveError):
    """The edge's group has broken: no value of another execution, which may be a CollectiveError as well."""


def _broken_by(communicator: Communicator, group: str, what: str, error: Exception) -> _Broken:
    """What is raised where tensors could not be moved; breaks the group, since others wait for these tensors."""
    if isinstance(error, CollectiveError):  # by which it has broken
        return _Broken(group=error.group, reason=error.reason, rank=error.rank)
    _log.error("%s tensors of a compiled graph failed: its group is given up", what, exc_info=error)
    reason = f"{what} failed: {error!r}"
    communicator.abort(reason)
    return _Broken(group=group, reason=reason, rank=communicator.rank)


_arrival = threading.local()


@contextmanager
def _arriving(reader: TensorReader) -> Iterator[None]:
    """While this lasts, tensors that this thread loads come from that reader's group."""
    _arrival.reader = reader
    try:
        yield
    finally:
        _arrival.reader = None


def _load(specs: tuple[Spec, ...] | None, data: bytes | None, *buffers: Any) -> Any:
    tensors = _arrival.reader.receive(specs)
    if data is None:
        return tensors[0]
    with importlib.import_module("actorflow.wire.tensors").aside(tensors):
        return pickling.loads(data, buffers)


def _refusal(error: TypeError) -> Exception:
    """What the user is told where packing raised: it wraps what a value's __reduce__ raises."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _Unfit):
            return cause.args[0]  # type: ignore[no-any-return]
        if isinstance(cause, _Unlike):
            return ValueError(str(cause))
        if isinstance(cause, _Indirect):
            return TypeError(str(cause))
        cause = cause.__cause__ or cause.__context__
    return error
