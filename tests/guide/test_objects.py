"""Ray Core's ideas about objects, as small programs of a port."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import actorflow as ray
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")


def test_put_and_get() -> None:
    ref = ray.put({"weights": [1, 2, 3]})
    assert ray.get(ref) == {"weights": [1, 2, 3]}
    assert ray.get([ref, ray.put(2)])[1] == 2
    gate = bodies.Gate.remote()
    late = gate.pass_through.remote()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(late, timeout=0.01)
    ray.get(gate.open.remote())
    assert ray.get(late) == 1


def test_one_copy_serves_many_tasks() -> None:
    array = np.arange(1_000_000)
    shared = ray.put(array)

    @ray.remote
    def part_sum(values: Any, start: int) -> int:
        return int(values[start : start + 1000].sum())

    sums = ray.get([part_sum.remote(shared, start) for start in range(0, 10_000, 1000)])
    assert sum(sums) == array[:10_000].sum()


def test_arrays_are_views_that_nobody_can_change() -> None:
    view = ray.get(ray.put(np.zeros(100_000)))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    mine = view.copy()
    mine[0] = 1
    assert view[0] == 0


def test_refs_inside_values_stay_refs() -> None:
    inner = ray.put("inner")
    outer = ray.get(ray.put({"ref": inner}))
    assert outer["ref"] == inner
    assert ray.get(outer["ref"]) == "inner"


def test_a_function_that_captures_a_ref_keeps_the_object() -> None:
    def reader() -> Any:
        constant = ray.put(np.full(50_000, 7))

        @ray.remote
        def first() -> int:
            return int(ray.get(constant)[0])

        return first

    assert ray.get(reader().remote()) == 7


def test_what_cannot_travel_is_named_before_it_is_sent() -> None:
    class Database:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    serializable, found = ray.util.inspect_serializability(Database(), name="database")
    assert not serializable
    assert [culprit.path for culprit in found] == ["database.lock"]
    ray.util.register_serializer(Database, serializer=lambda _: None, deserializer=lambda _: Database())
    try:
        assert isinstance(ray.get(ray.put(Database())), Database)
    finally:
        ray.util.deregister_serializer(Database)
