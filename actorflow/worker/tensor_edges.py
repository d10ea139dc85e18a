"""Ends of channels whose tensors travel by a collective group: the value goes through the channel without them.

The writer writes the value first, with shapes and dtypes in place of the tensors, and then begins to send these. So
the reader is woken by the channel, like every other, and receives while it loads the value. A send has ended when the
reader has received; that is known once the channel has room again for the value `slots` later, and only then the tensor
is let go of: nothing waits for it earlier. It is sent from its own memory: who changes it before sends what it becomes.
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

_log = logging.getLogger("actorflow")


class Spec(NamedTuple):
    """What the reader has to know of a tensor before it comes."""

    shape: tuple[int, ...]
    dtype: Any

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


class _Sent:
    """A value on its way. `specs`: None where the reader knows them from the first execution."""

    def __init__(self, value: Any, is_direct: bool, communicator: Communicator) -> None:
        self._value = value
        self._is_direct = is_direct
        self._communicator = communicator
        self.tensors: list[Any] = []
        self.specs: tuple[Spec, ...] | None = None
        self.known: tuple[Spec, ...] | None = None  # those that it must have

    def __reduce__(self) -> tuple[Any, ...]:
        data, buffers = self._packed()
        for tensor in self.tensors:
            self._check(tensor)
        specs = tuple(Spec(tuple(tensor.shape), tensor.dtype) for tensor in self.tensors)
        if self.known is not None and specs != self.known:
            raise _Unlike(self.known, specs)
        self.specs = specs
        return _load, (None if self.known is not None else specs, data, *buffers)

    def _check(self, tensor: Any) -> None:
        try:
            self._communicator.check(tensor)
        except (TypeError, ValueError) as error:
            raise _Unfit(error) from None

    def _packed(self) -> tuple[bytes | None, Sequence[Any]]:
        tensors = importlib.import_module("actorflow.wire.tensors")
        if self._is_direct:
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
        self._known: tuple[Spec, ...] | None = None
        self._sending: deque[list[Pending]] = deque()

    def write(self, value: Any) -> None:
        """As Writer.write. ValueError, TypeError: not what the edge is for. ChannelClosed: the group has broken."""
        sent = _Sent(value, self._edge.direct_return, self._communicator)
        sent.known = self._known
        try:
            self._writer.write(sent)
        except TypeError as error:
            raise _refusal(error) from None
        if self._edge.static_shape:
            self._known = sent.specs
        try:
            self._let_go()
            self._sending.append(
                [
                    self._communicator.isend(tensor, peer, self._edge.tag)
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
        self._known: tuple[Spec, ...] = ()

    def read(self) -> Any:
        """As Reader.read. ChannelClosed: the group has broken."""
        with _arriving(self):
            try:
                return self._reader.read()
            except _Broken as error:
                raise _hot.ChannelClosed(str(error)) from None

    def receive(self, specs: tuple[Spec, ...] | None) -> list[Any]:
        """The tensors of the value that is being loaded."""
        torch: Any = importlib.import_module("torch")
        self._known = self._known if specs is None else specs
        communicator, (peer,) = self._communicator, self._edge.peers
        try:
            tensors = [
                torch.empty(shape, dtype=dtype, device=communicator.device) for shape, dtype in self._known
            ]
            for pending in [communicator.irecv(tensor, peer, self._edge.tag) for tensor in tensors]:
                pending.wait()
        except Exception as error:
            raise _broken_by(communicator, self._edge.group, "receiving", error) from None
        return tensors


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
