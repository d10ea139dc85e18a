"""Awkward values go through put, arguments and results unchanged, or are refused by name; nothing else suffers."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from tests.system import bodies

LARGE = 40_000  # elements of 8 bytes: above what is inline


class Colour(enum.Enum):
    """A member is the same object on both sides."""

    RED = "red"


ARRAYS: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
    "no elements": lambda: np.zeros((0, 3)),
    "no dimensions": lambda: np.array(1.5),
    "Fortran order": lambda: np.asfortranarray(np.arange(LARGE, dtype=np.float64).reshape(200, 200)),
    "every other": lambda: np.arange(2 * LARGE, dtype=np.float64)[::2],
    "backwards": lambda: np.arange(LARGE, dtype=np.float64)[::-1],
    "one value everywhere": lambda: np.broadcast_to(np.float64(3), (200, 200)),
    "big-endian": lambda: np.arange(LARGE, dtype=">f8"),
    "structured": lambda: np.array([(1, 2.5, b"x")] * LARGE, dtype=[("a", "<i4"), ("b", "<f8"), ("c", "S5")]),
    "dates": lambda: np.arange(LARGE).astype("datetime64[s]"),
    "texts": lambda: np.array(["äö", "long" * 10] * 2000),
    "booleans": lambda: np.arange(LARGE) % 3 == 0,
    "complex": lambda: np.arange(LARGE) * 1j,
    "half": lambda: np.arange(LARGE, dtype=np.float16),
    "not a number": lambda: np.full(LARGE, np.nan),
}


# First, because it needs a node of its own and the others share theirs until the end.
def test_a_result_of_more_than_two_gibibytes() -> None:
    size = 2**31 + 4096
    with af.init(num_cpus=1, object_store_memory=size + 2**26):
        found = af.get(bodies.zeros.remote(size))
        assert found.nbytes == size
        assert not found[[0, 2**31 - 1, 2**31, size - 1]].any()
        del found


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind(runtime: af.Runtime, kind: str) -> None:
    array = ARRAYS[kind]()
    for found in (af.get(af.put(array)), af.get(bodies.echo.remote(array))):
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        np.testing.assert_array_equal(found, array)
        assert found.flags.f_contiguous or not array.flags.f_contiguous


def test_an_array_of_objects(runtime: af.Runtime) -> None:
    array = np.array([1, "two", {"three": [3.0, None]}, Colour.RED], dtype=object)
    found = af.get(bodies.echo.remote(array))
    assert found.tolist() == array.tolist()
    assert found[3] is Colour.RED


def test_an_array_that_is_mapped_from_a_file(runtime: af.Runtime, tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "numbers", dtype=np.int64, mode="w+", shape=(LARGE,))
    mapped[:] = np.arange(LARGE)
    found = af.get(bodies.echo.remote(mapped))
    np.testing.assert_array_equal(found, np.arange(LARGE))
    mapped[0] = -1
    assert found[0] == 0, "a value is what it was when the call was made"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        "",
        "a\x00b\ud800",
        -(2**4000),
        float("inf"),
        (1, [2, {3: {4, 5}}]),
        frozenset({(1, 2)}),
        range(10**12),
        slice(1, None, 2),
        Ellipsis,
        NotImplemented,
        int,
        os.path.join,
        memoryview(b"123").tobytes(),
        bytearray(300_000),
        b"x" * 300_000,
        "ü" * 300_000,
        list(range(60_000)),
    ],
    ids=lambda value: f"{type(value).__name__}-{sys.getsizeof(value)}",
)
def test_values_of_the_language(runtime: af.Runtime, value: Any) -> None:
    for found in (af.get(af.put(value)), af.get(bodies.echo.remote(value))):
        assert type(found) is type(value)
        assert found == value


def test_a_value_that_contains_itself(runtime: af.Runtime) -> None:
    value: list[Any] = [1]
    value.append(value)
    found = af.get(bodies.echo.remote(value))
    assert found[1] is found


def test_one_array_twice_in_a_value_is_one_in_the_result(runtime: af.Runtime) -> None:
    array = np.arange(LARGE)
    first, second = af.get(bodies.echo.remote((array, array)))
    assert first is second


def test_ten_thousand_arguments(runtime: af.Runtime) -> None:
    refs = [af.put(number) for number in range(5000)]
    total = af.get(bodies.total.remote(*range(5000), *refs))
    assert total == 2 * sum(range(5000))


def test_deep_values_and_deep_recursion_are_errors_of_their_call(runtime: af.Runtime) -> None:
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 20):
        deep = [deep]
    with pytest.raises(TypeError, match="deep recursion"):
        af.put(deep)
    with pytest.raises(RecursionError):
        af.get(bodies.recurse.remote())
    while deep:  # one after the other: freed at once, they would be a recursion as well
        deep = deep.pop()
