"""Values to bytes and back: by reference or by value, out of band, and what to say when it cannot be done."""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import datetime
import functools
import os
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actorflow.wire import inspect, pickling
from actorflow.wire.pickling import dumps, loads

ROOT = Path(__file__).resolve().parents[2]
KIB = 1024


def there_and_back(value: Any) -> Any:
    packed = dumps(value)
    return loads(packed.data, [bytes(buffer.raw()) for buffer in packed.buffers])


def run_as_main(script: str, tmp_path: Path) -> bytes:
    """What the script, run as __main__, writes to its standard output."""
    path = tmp_path / "job.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(path)], env=environment, stdout=subprocess.PIPE, check=True
    ).stdout


@dataclasses.dataclass
class Point:
    x: int = 1
    y: float = 2.0
    names: list[str] = dataclasses.field(default_factory=lambda: ["a"])


Named = collections.namedtuple("Named", "left right")

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        | st.builds(Point, st.integers(), st.floats(allow_nan=False))
        | st.builds(Named, inner, inner)
    ),
    max_leaves=12,
)


@given(plain)
def test_values_come_back_equal(value: Any) -> None:
    assert there_and_back(value) == value


def test_importable_things_go_by_reference() -> None:
    for thing in (Point, len, os.path.join, Point(3), datetime.date(2026, 1, 1), Named(1, 2)):
        packed = dumps(thing)
        assert len(packed.data) < 200
        assert there_and_back(thing) == thing
    assert there_and_back(Point) is Point


def test_identity_within_a_value_is_kept_and_none_is_left_over_from_the_value_before() -> None:
    shared = Point()
    for _ in range(3):
        first, second = there_and_back((shared, shared))
        assert first is second
        assert there_and_back(shared) == shared


def test_lambdas_closures_local_classes_and_partials_travel_along() -> None:
    factor = 3

    class Local:
        def scale(self, number: int) -> int:
            return number * factor

    assert there_and_back(lambda number: number * factor)(2) == 6
    assert there_and_back(Local)().scale(4) == 12
    assert there_and_back(Local()).scale(4) == 12
    assert there_and_back(Local().scale)(4) == 12
    assert there_and_back(functools.partial(lambda a, b: a + b, 1))(2) == 3


def test_code_that_travels_keeps_its_file() -> None:
    def outer() -> Any:
        return lambda: 1

    copy = there_and_back(outer)
    assert copy.__code__ is not outer.__code__
    assert copy.__code__.co_filename == copy().__code__.co_filename == __file__


def test_what_is_defined_in_main_travels_along(tmp_path: Path) -> None:
    packed = run_as_main(
        "import dataclasses, enum, pickle, sys\n"
        "from actorflow.wire.pickling import dumps\n"
        "@dataclasses.dataclass\n"
        "class Config:\n"
        "    size: int\n"
        "    def doubled(self): return helper(self.size)\n"
        "def helper(n): return n * FACTOR\n"
        "FACTOR = 2\n"
        "class Color(enum.Enum): RED = 1\n"
        "padding = list(range(200_000))\n"  # many frames, so that the classes lie between others
        "value = {'before': padding, 'config': Config(4), 'color': Color.RED, 'function': helper, 'after': padding}\n"
        "sys.stdout.buffer.write(dumps(value).data)\n",
        tmp_path,
    )
    value = loads(packed)
    assert value["config"].doubled() == 8
    assert value["color"].name == "RED"
    assert value["function"](5) == 10


def test_modules_registered_to_go_by_value_do(tmp_path: Path) -> None:
    module = types.ModuleType("passing_module")
    exec("def answer(): return 42", module.__dict__)
    sys.modules["passing_module"] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        packed = dumps(module.answer)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["passing_module"]
    assert loads(packed.data)() == 42


def test_the_word_main_in_data_changes_nothing() -> None:
    for value in ("__main__", {"__main__": Point()}, "__main__" * 100_000):
        assert there_and_back(value) == value


class ByCopyreg:
    def __init__(self, value: int) -> None:
        self.value = value


def test_copyreg_is_honoured_as_it_is_at_that_moment() -> None:
    there_and_back(ByCopyreg(1))
    for number in (10, 20):
        copyreg.pickle(ByCopyreg, lambda thing, number=number: (ByCopyreg, (thing.value + number,)))  # type: ignore[misc]
        try:
            assert there_and_back(ByCopyreg(1)).value == 1 + number
        finally:
            del copyreg.dispatch_table[ByCopyreg]
    assert there_and_back(ByCopyreg(1)).value == 1


# -- buffers and arrays -----------------------------------------------------------------------------

dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
    hnp.unicode_string_dtypes(),
    hnp.byte_string_dtypes(),
    hnp.array_dtypes(),
)


@given(hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)), st.data())
def test_arrays_come_back_the_same_and_read_only(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["as it is", "transposed", "strided", "large"]))
    if form == "transposed":
        array = array.T
    elif form == "strided" and array.ndim:
        array = array[::2]
    elif form == "large" and array.ndim:
        array = np.repeat(array, 400, axis=0)
    again = there_and_back(array)
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()
    assert not again.flags.writeable


@pytest.mark.parametrize(
    "code", ["f8", "c16", "M8[ns]", "m8[s]", "U20", "S20", ">i4", "?", "f4,i8", "f4,M8[s]"]
)
def test_an_array_goes_out_of_band_without_a_copy_and_comes_back_as_a_view(code: str) -> None:
    array = np.zeros(2000, code)
    packed = dumps({"array": array})
    assert len(packed.data) < 400
    (buffer,) = packed.buffers
    assert np.shares_memory(np.frombuffer(memoryview(buffer), "u1"), array.view("u1"))
    store = bytes(buffer)
    again = loads(packed.data, [store])["array"]
    assert np.shares_memory(again, np.frombuffer(store, "u1"))
    with pytest.raises(ValueError, match="read-only"):
        again[0] = again[1]


def test_memory_order_is_kept() -> None:
    counted = np.arange(2000.0)
    for array in (
        counted.reshape(40, 50),
        counted.reshape(40, 50).T,
        np.asfortranarray(counted[:20].reshape(4, 5)),
    ):
        again = there_and_back(array)
        assert np.array_equal(again, array)
        assert (again.flags.c_contiguous, again.flags.f_contiguous) == (
            array.flags.c_contiguous,
            array.flags.f_contiguous,
        )


def test_arrays_that_are_more_than_data_are_left_to_numpy() -> None:
    objects = np.array([Point(), "text", None], dtype=object)
    assert list(there_and_back(objects)) == list(objects)
    masked = there_and_back(np.ma.masked_array([1, 2], mask=[True, False]))
    assert masked.tolist() == [None, 2]
    described = np.dtype("f8", metadata={"unit": "m"})
    assert there_and_back(np.zeros(3, described)).dtype.metadata == {"unit": "m"}


class Buffered:
    """A user's class with a buffer of its own."""

    def __init__(self, size_bytes: int) -> None:
        self.content = bytearray(size_bytes)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _buffered, (pickle.PickleBuffer(self.content),)


def _buffered(content: Any) -> Buffered:
    again = Buffered(0)
    again.content = bytearray(content)
    return again


@pytest.mark.parametrize(("size_bytes", "out_of_band"), [(0, 0), (KIB - 1, 0), (KIB, 1), (10 * KIB, 1)])
def test_short_buffers_stay_in_the_stream(size_bytes: int, out_of_band: int) -> None:
    packed = dumps(Buffered(size_bytes))
    assert len(packed.buffers) == out_of_band
    assert len(there_and_back(Buffered(size_bytes)).content) == size_bytes


def test_buffers_of_one_value_do_not_get_into_the_next() -> None:
    large = np.zeros(KIB)
    assert [len(dumps(value).buffers) for value in (large, 1, (large, large + 1), 2)] == [1, 0, 2, 0]


# -- serializers and references ---------------------------------------------------------------------


class Holder:
    """Cannot be pickled as it is."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.lock = threading.Lock()


@pytest.fixture
def serialized() -> Iterator[None]:
    pickling.register_serializer(Holder, serializer=lambda holder: holder.value, deserializer=Holder)
    yield
    pickling.deregister_serializer(Holder)


def test_a_registered_serializer_is_used_until_it_is_taken_back(serialized: None) -> None:
    again = there_and_back([Holder(5), (lambda: 0)])
    assert again[0].value == 5
    assert pickling.has_reducer(Holder)
    pickling.deregister_serializer(Holder)
    assert not pickling.has_reducer(Holder)
    with pytest.raises(TypeError, match="lock"):
        dumps(Holder(5))


@pytest.mark.parametrize("kind", [int, dict, types.FunctionType, type, type(Iterator)])
def test_what_has_a_fixed_pickling_can_have_no_serializer(kind: type) -> None:
    with pytest.raises(TypeError, match=kind.__name__):
        pickling.register_serializer(kind, serializer=str, deserializer=str)


def test_a_serializer_takes_precedence_over_ours_until_it_is_taken_back() -> None:
    there_and_back(np.zeros(2))
    pickling.register_serializer(np.ndarray, serializer=lambda array: array.sum(), deserializer=int)
    try:
        assert there_and_back(np.ones(2)) == 2
    finally:
        pickling.deregister_serializer(np.ndarray)
    assert there_and_back(np.ones(2)).tolist() == [1.0, 1.0]
    pickling.deregister_serializer(np.ndarray)
    assert len(dumps(np.ones(KIB)).buffers) == 1


def test_values_can_be_pickled_while_a_value_is_pickled() -> None:
    class Nesting:
        def __reduce__(self) -> Any:
            return loads, (dumps(Point(7)).data,)

    for _ in range(3):
        before, inner, after = there_and_back([Point(1), Nesting(), Point(2)])
        assert (before.x, inner.x, after.x) == (1, 7, 2)


def test_threads_pickle_at_the_same_time() -> None:
    problems: list[str] = []

    def work(number: int) -> None:
        for step in range(300):
            packed = dumps([Point(number), f"{number}.{step}", np.full(200, number)])
            point, text, array = loads(packed.data, packed.buffers)
            if (point.x, text, int(array[5])) != (number, f"{number}.{step}", number):
                problems.append(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


# -- what cannot be pickled -------------------------------------------------------------------------


@dataclasses.dataclass
class Config:
    callbacks: list[Any]
    table: dict[Any, Any] = dataclasses.field(default_factory=dict)


class WithSlots:
    __slots__ = ("lock", "name")

    def __init__(self) -> None:
        self.name, self.lock = "n", threading.Lock()


class Careful:
    """Leaves its lock out, so that only `inner` can be to blame."""

    def __init__(self, inner: Any) -> None:
        self.lock, self.inner = threading.Lock(), inner

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self.inner}


class Raising:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("mine")


def closure_over(thing: Any) -> Callable[[], Any]:
    return lambda: thing


def default_of(thing: Any) -> Callable[..., Any]:
    return lambda taken=thing: taken


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (threading.Lock, "value (type _thread.lock)"),
        (lambda: Config([1, 2, Holder(1)]), "value.callbacks[2].lock (type _thread.lock)"),
        (lambda: Config([], {"key": [{"deep": LOCK}]}), "value.table['key'][0]['deep'] (type _thread.lock)"),
        (lambda: Config([], {LOCK: 1}), f"value.table key {LOCK!r}"[:40]),
        (lambda: (1, {2, LOCK}), "value[1] item <unlocked"),
        (WithSlots, "value.lock (type _thread.lock)"),
        (lambda: Careful(Careful(LOCK)), "value.inner.inner (type _thread.lock)"),
        (lambda: closure_over([LOCK]), "value<closure thing>[0] (type _thread.lock)"),
        (lambda: default_of(LOCK), "value<defaults>[0] (type _thread.lock)"),
        (lambda: lambda: LOCK, "value<global LOCK> (type _thread.lock)"),
        (lambda: functools.partial(print, LOCK), "value.args[0] (type _thread.lock)"),
        (lambda: Config([Config([]).__init__, Holder(1).__init__]), "value.callbacks[1].__self__.lock"),  # type: ignore[misc]
        (lambda: Config([Raising()]), f"value.callbacks[0] (type {__name__}.Raising): mine"),
        (lambda: (letter for letter in "abc"), "value (type generator)"),
    ],
)
def test_the_member_that_cannot_be_pickled_is_named(make: Callable[[], Any], path: str) -> None:
    with pytest.raises(TypeError) as caught:
        dumps(make())
    assert f"cannot pickle {path}" in str(caught.value)
    assert "register_serializer" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_the_parts_of_a_value_are_named_by_the_caller() -> None:
    config = Config([1, 2, Holder(1)])
    parts = [("argument 0", 5), ("argument 'config'", config)]
    with pytest.raises(TypeError, match=r"argument 'config'\.callbacks\[2\]\.lock \(type _thread\.lock\)"):
        dumps(((5,), {"config": config}), parts=lambda: parts)


def test_a_value_can_be_looked_at_without_an_error() -> None:
    assert pickling.culprit_in([("value", Config([1]))]) is None
    found = pickling.culprit_in([("value", Config([LOCK]))])
    assert found == inspect.Culprit(
        "value.callbacks[0]", "_thread.lock", "cannot pickle '_thread.lock' object"
    )


def test_without_explaining_the_original_error_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        dumps(Raising(), explain=False)


def test_running_out_of_memory_is_not_taken_for_a_value_that_cannot_be_pickled() -> None:
    class Huge:
        def __reduce__(self) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        dumps(Huge())


def test_too_deep_and_circular_values_end_with_an_answer() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="recursion"):
        dumps(deep)
    ring: list[Any] = [LOCK]
    ring.insert(0, ring)
    with pytest.raises(TypeError, match=r"value\[1\] \(type _thread\.lock\)"):
        dumps(ring)
    del deep[:]


def test_the_search_is_bounded() -> None:
    looks: list[Any] = []

    def failure(value: Any) -> Exception | None:
        looks.append(value)
        return TypeError("no") if isinstance(value, list) else None

    culprit = inspect.find_unpicklable([("value", list(range(10**6)))], failure, lambda kind: None)
    assert culprit is not None
    assert culprit.path == "value"
    assert len(looks) <= inspect.LOOKS_LIMIT
    assert inspect.find_unpicklable([("a", 1), ("b", 2)], failure, lambda kind: None) is None


def test_a_failed_value_leaves_nothing_behind_for_the_next() -> None:
    with pytest.raises(TypeError):
        dumps([Point(), np.zeros(KIB), LOCK])
    packed = dumps(Point())
    assert packed.buffers == []
    assert loads(packed.data) == Point()
