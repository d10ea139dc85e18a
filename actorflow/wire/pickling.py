"""Values <-> bytes: pickle 5 with out-of-band buffers, and cloudpickle's rules for what has no import path.

Theory: almost all values are importable, and the plain C pickler with a dispatch table handles them
without running any Python code of ours. Whether a value is one of those is only known afterwards: if
the attempt fails, or names `__main__`, whose contents mean nothing to another process, the value is
pickled again by cloudpickle's pickler, over the same dispatch table. So a reducer may run twice for
one value.

C picklers are used again for the next value: making one takes longer than a small dump.
"""

from __future__ import annotations

import contextlib
import copyreg
import importlib
import pickle
import sys
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle

from actorflow import config
from actorflow.exception_parts import raised_by_signal_handler, safe_text

if TYPE_CHECKING:
    from actorflow.wire.inspect import Culprit

PROTOCOL = 5

Reducer = Callable[[Any], Any]  # object -> what __reduce__ returns
Parts = Iterable[tuple[str, Any]]  # what a value consists of: ("argument 'config'", config), ...


class Packed(NamedTuple):
    """A pickled value: the stream, and the buffers that it leaves out, in the order of the stream."""

    data: bytes
    buffers: list[pickle.PickleBuffer]


# Libraries whose types have reducers here, once something else has imported them: where the reducers are.
_LIBRARIES = {"numpy": "actorflow.wire.arrays", "torch": "actorflow.wire.tensors"}

# Types that the C pickler writes itself, without a look at any table.
_FIXED = (
    *(type(None), bool, int, float, str, bytes, bytearray, tuple, list, dict, set, frozenset),
    *(pickle.PickleBuffer, types.FunctionType),
)

# Longer parts of a stream are the contents of one long string: the C pickler writes what is short in
# frames of 64 KiB (PEP 3154) and hands the rest over unframed.
_LONGEST_FRAME_BYTES = 256 * config.KIB

# The memo of a pickler that wrote more than this may have grown, and clearing it then takes longer
# than making another pickler.
_REUSE_LIMIT_BYTES = 512
_IDLE_LIMIT = 8  # picklers kept: threads that pickle at the same moment, and values pickled inside values


class _Table(dict[type, Reducer]):
    """A dispatch table: what is not in it is looked up in copyreg's, as that is at that moment."""

    __missing__ = staticmethod(copyreg.dispatch_table.__getitem__)


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """As cloudpickle, some versions of which leave out the file, and with it the lines of remote tracebacks."""
    make, parts = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return _code_of_file, (make, parts, code.co_filename)


def _code_of_file(make: Callable[..., types.CodeType], parts: tuple[Any, ...], file: str) -> types.CodeType:
    return make(*parts).replace(co_filename=file)


# Reducers of cloudpickle and for libraries; those that users registered; and both together, as picklers
# see them, the users' first.
_own_reducers: dict[type, Reducer] = {
    kind: reducer
    for kind, reducer in dict(cloudpickle.Pickler.dispatch_table).items()
    if copyreg.dispatch_table.get(kind) is not reducer
} | {types.CodeType: _reduce_code}
_custom_reducers: dict[type, Reducer] = {}
_table = _Table(_own_reducers)


class _Output:
    """What one dump leaves behind. Serves as the pickler's file."""

    __slots__ = ("buffers", "in_band_limit", "parts", "write")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append
        self.buffers: list[pickle.PickleBuffer] = []
        self.in_band_limit = config.current().in_band_limit_bytes

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Takes a buffer out of band; True leaves it in the stream."""
        if memoryview(buffer).nbytes < self.in_band_limit:
            return True
        self.buffers.append(buffer)
        return False

    def packed(self) -> Packed:
        """The value that was dumped."""
        return Packed(b"".join(self.parts), self.buffers)


class _Writer:
    """A C pickler for importable values, used again and again."""

    __slots__ = ("output", "pickler")

    def __init__(self) -> None:
        self.output = _Output()
        self.pickler = pickle.Pickler(self.output, PROTOCOL, buffer_callback=self.output.keep)
        self.pickler.dispatch_table = _table

    def forget(self) -> None:
        """Makes ready for another value."""
        self.output.parts.clear()
        self.output.buffers = []
        self.pickler.clear_memo()


class _ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """cloudpickle's pickler over our dispatch table: classes and functions travel along."""

    dispatch_table = _table

    def __init__(self, output: _Output) -> None:
        super().__init__(output, PROTOCOL, output.keep)


_idle: list[_Writer] = []  # a stack: pop and append are atomic


def dumps(value: Any, *, parts: Callable[[], Parts] | None = None, explain: bool = True) -> Packed:
    """Pickles a value. Buffers shorter than in_band_limit_bytes stay in the stream.

    The other buffers still belong to the value: write them before anybody changes it.

    Raises TypeError, naming the member that cannot be pickled; `parts` says what the value consists
    of, so that the name starts with one of these instead of "value". Without `explain`, which takes
    a search, raises what pickling raised.
    """
    if _LIBRARIES:
        _adopt_libraries()
    try:
        writer = _idle.pop()
    except IndexError:
        writer = _Writer()
    output = writer.output
    try:
        writer.pickler.dump(value)
        by_value = _names_main(output.parts) or cloudpickle.list_registry_pickle_by_value()
    except MemoryError:
        raise
    except Exception as error:  # not importable, or not picklable at all: the second attempt tells
        if raised_by_signal_handler(error):
            raise
        by_value = True
    if by_value:
        return _dumped_by_value(value, parts, explain)
    packed = output.packed()
    if len(packed.data) <= _REUSE_LIMIT_BYTES and len(_idle) < _IDLE_LIMIT:
        writer.forget()
        _idle.append(writer)
    return packed


def loads(data: Any, buffers: Iterable[Any] = ()) -> Any:
    """The value of a stream and its buffers; numpy arrays go on using these. Raises what that raises."""
    return pickle.loads(data, buffers=buffers)


def culprit_in(parts: Parts, depth: int | None = None) -> Culprit | None:
    """The first member of a value that cannot be pickled; None if all can be. `depth`: how deep to look."""
    from actorflow.wire import inspect

    return inspect.find_unpicklable(
        parts, _failure, _table.get, inspect.DEPTH_LIMIT if depth is None else depth
    )


def explained(error: Exception, parts: Parts) -> TypeError:
    """The TypeError that names the member which made pickling fail with `error`."""
    culprit = culprit_in(parts)
    what = f"{culprit.path} (type {culprit.type_name})" if culprit else "the value"
    reason = culprit.reason if culprit else safe_text(error)
    explanation = TypeError(
        f"cannot pickle {what}: {reason}; leave it out, make it where it is used, "
        "or give its type a serializer with af.util.register_serializer"
    )
    explanation.__cause__ = error
    return explanation


def register_serializer(
    cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> None:
    """Instances of exactly `cls` travel as serializer(instance), and deserializer makes them again.

    It holds in this process. The deserializer travels along with each value, so whoever gets one needs
    nothing; a worker that sends such values itself registers too, best where `cls` is defined. The class may
    be local. Raises TypeError for classes whose pickling is fixed and for what cannot be called.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer() takes a class, not {type(cls).__name__}")
    if cls in _FIXED or issubclass(cls, type):
        raise TypeError(f"{cls.__name__}: its pickling is fixed by Python, it can have no serializer")
    for role, function in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(function):
            raise TypeError(f"{role} must be a function of one argument, not {type(function).__name__}")
    _custom_reducers[cls] = lambda instance: (deserializer, (serializer(instance),))
    _table[cls] = _custom_reducers[cls]


def deregister_serializer(cls: type) -> None:
    """Forgets the serializer of `cls`; without one this does nothing."""
    if _custom_reducers.pop(cls, None) is None:
        return
    if cls in _own_reducers:
        _table[cls] = _own_reducers[cls]
    else:
        del _table[cls]


def has_reducer(kind: type) -> bool:
    """Whether instances of exactly `kind` are pickled by a registered function."""
    return kind in _table or kind in copyreg.dispatch_table


def _adopt_libraries() -> None:
    """Takes in the reducers for libraries that were imported since the last look."""
    for name in tuple(_LIBRARIES):
        library = sys.modules.get(name)
        if library is None or getattr(library.__spec__, "_initializing", False):
            continue  # not imported, or another thread is at it
        reducers = _LIBRARIES.pop(name, None)
        if reducers is not None:
            with contextlib.suppress(ImportError, AttributeError):  # broken: left to its own pickling
                _own_reducers.update(importlib.import_module(reducers).REDUCERS)
                _table.update(_own_reducers | _custom_reducers)


def _names_main(parts: list[bytes]) -> bool:
    for part in parts:  # noqa: SIM110 - any() takes twice as long for the one part that there mostly is
        if len(part) <= _LONGEST_FRAME_BYTES and b"__main__" in part:
            return True
    return False


def _dumped_by_value(value: Any, parts: Callable[[], Parts] | None, explain: bool) -> Packed:
    output = _Output()
    try:
        _ByValuePickler(output).dump(value)
    except MemoryError:
        raise
    except Exception as error:
        if not explain or raised_by_signal_handler(error):
            raise
        explanation = explained(error, parts() if parts else [("value", value)])
    else:
        return output.packed()
    raise explanation


def _failure(value: Any) -> Exception | None:
    """What pickling the value raises, if anything."""
    try:
        _ByValuePickler(_Output()).dump(value)
    except Exception as error:
        if raised_by_signal_handler(error):
            raise
        return error
    return None
