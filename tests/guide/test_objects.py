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


def test_refs_among_the_arguments_of_constructors_and_methods() -> None:
    @ray.remote
    class Keeper:
        def __init__(self, value: Any) -> None:
            self.value = value

        def kept(self) -> Any:
            return self.value

        def take(self, value: Any) -> Any:
            return value

    ref = ray.put("value")
    by_value, by_reference = Keeper.remote(ref), Keeper.remote([ref])
    assert ray.get(by_value.kept.remote()) == ray.get(by_value.take.remote(ref)) == "value"
    assert ray.get(by_reference.kept.remote()) == ray.get(by_reference.take.remote([ref])) == [ref]


def test_what_is_there_many_times_in_a_value_is_there_once() -> None:
    array = np.zeros(42)
    many = ray.get(ray.put([array] * 99))
    assert len(many) == 99
    assert many[0] is many[98]


class Connection:
    """Travels as what it takes to make it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Connection, (self.path,)


class Wrapped:
    """One object that travels otherwise than others of its class."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __reduce__(self) -> Any:
        return Held, (self.held.number,)


class Held:
    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()


def test_ways_to_have_a_class_travel() -> None:
    assert ray.get(ray.put(Connection("/a/path"))).path == "/a/path"
    with pytest.raises(TypeError, match="lock"):
        ray.put(Held(1))
    assert ray.get(ray.put(Wrapped(Held(7)))).number == 7
    for _ in range(2):
        ray.util.register_serializer(Held, serializer=lambda held: held.number, deserializer=Held)
    assert ray.get(ray.put(Held(8))).number == 8
    for _ in range(2):
        ray.util.deregister_serializer(Held)
    with pytest.raises(TypeError, match="lock"):
        ray.put(Held(1))


def test_refs_in_bytes_of_cloudpickle() -> None:
    """Worse than a value that holds the ref: somebody has to keep the object meanwhile."""
    ref = ray.put({"hello": "world"})
    data = ray.cloudpickle.dumps(ref)
    assert ray.get(ray.cloudpickle.loads(data)) == {"hello": "world"}
