"""Refs and handles inside exceptions: whoever has the error has what they name, for as long as it has the error."""

from __future__ import annotations

import gc
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import actorflow as af
from actorflow.dag import InputNode
from tests.conftest import wait_until
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")

LARGE_BYTES = 300_000
DEADLINE_S = 30.0


class Holding(Exception):
    """A user's exception with refs or handles in its args and attributes."""

    def __init__(self, held: Any, also: Any = None) -> None:
        super().__init__(held)
        self.also = also


@af.remote
def fail(size_bytes: int = LARGE_BYTES, extra: bytes = b"") -> None:
    raise Holding(af.put(b"a" * size_bytes), [af.put(size_bytes), extra])


def check(error: BaseException | None, size_bytes: int = LARGE_BYTES) -> None:
    """What `fail` raised, with all that it names."""
    assert isinstance(error, Holding)
    gc.collect()
    assert af.get(error.args[0]) == b"a" * size_bytes
    assert af.get(error.also[0]) == size_bytes


@pytest.mark.parametrize("extra", [0, 3_000, 400_000], ids=["in its cell", "in a block", "in the store"])
def test_what_an_error_names_lives_as_long_as_the_error(extra: int) -> None:
    ref = fail.remote(extra=b"x" * extra)
    for _ in range(2):
        with pytest.raises(Holding) as caught:
            af.get(ref)
        check(caught.value)
    error = ref.exception()
    del ref, caught
    assert error is not None
    check(error)


@af.remote(num_returns=2)
def fail_twice() -> Any:
    raise Holding(af.put(b"a" * 10), [af.put(10)])


def test_each_of_several_results_owns_it() -> None:
    first, second = fail_twice.remote()
    for ref in (first, second):
        with pytest.raises(Holding) as caught:
            af.get(ref)
        check(caught.value, 10)
    del first, ref
    with pytest.raises(Holding) as caught:
        af.get(second)
    check(caught.value, 10)


@af.remote
def fetched(refs: list[Any]) -> Any:
    """The error of a call, as a value."""
    return refs[0].exception()


@af.remote
def passed_on(value: Any) -> Any:
    return value


@af.remote
def raised_again(refs: list[Any]) -> Any:
    try:
        return af.get(refs[0])
    except Holding as error:
        raise RuntimeError("again") from error


def test_an_error_is_passed_on_with_what_it_names() -> None:
    error = af.get(fetched.remote([fail.remote()]))
    check(error)
    check(af.get(af.put(error)))
    del error
    ref = passed_on.remote(fail.remote())  # as an argument that could not be had
    with pytest.raises(Holding) as caught:
        af.get(passed_on.remote(ref))
    del ref
    check(caught.value)
    with pytest.raises(RuntimeError) as again:
        af.get(raised_again.remote([fail.remote()]))
    cause = again.value.cause.__cause__
    check(cause)


def test_a_plain_pickle_of_an_error_names_what_is_held() -> None:
    with pytest.raises(Holding) as caught:
        af.get(fail.remote())
    data = pickle.dumps(caught.value)
    check(pickle.loads(data))
    del caught
    gc.collect()
    wait_until(lambda: pickle.loads(data).cause is None, DEADLINE_S, "gone with the last error")
    assert "Holding" in pickle.loads(data).cause_type


@af.remote(num_returns="streaming")
def items() -> Iterator[Any]:
    yield 1
    raise Holding(af.put(b"a" * LARGE_BYTES), [af.put(LARGE_BYTES)])


@af.remote(num_returns="dynamic")
def dynamic() -> Iterator[Any]:
    yield 1
    raise Holding(af.put(b"a" * LARGE_BYTES), [af.put(LARGE_BYTES)])


def test_errors_of_generators() -> None:
    stream = items.remote()
    assert af.get(next(stream)) == 1
    failed = next(stream)
    del stream
    with pytest.raises(Holding) as caught:
        af.get(failed)
    del failed
    check(caught.value)
    first, second = af.get(dynamic.remote())
    assert af.get(first) == 1
    with pytest.raises(Holding) as caught:
        af.get(second)
    del first, second
    check(caught.value)


@af.remote
class Failing:
    """Raises refs, and itself."""

    def __init__(self, refs: list[Any] | None = None) -> None:
        if refs is not None:
            raise Holding(refs[0], [af.put(LARGE_BYTES)])

    def fail(self, _: Any = None) -> None:
        raise Holding(af.put(b"a" * LARGE_BYTES), [af.put(LARGE_BYTES)])

    def give_actor(self) -> None:
        raise Holding(bodies.Counter.remote())


@af.remote
class AsyncFailing:
    async def fail(self) -> None:
        raise ExceptionGroup("several", [Holding(af.put(b"a" * 10), [af.put(10)]), ValueError("other")])

    async def items(self) -> AsyncIterator[int]:
        yield 1
        raise Holding(af.put(b"a" * 10), [af.put(10)])


def test_errors_of_methods() -> None:
    with pytest.raises(Holding) as caught:
        af.get(Failing.remote().fail.remote())
    check(caught.value)
    actor = AsyncFailing.remote()
    with pytest.raises(ExceptionGroup) as group:
        af.get(actor.fail.remote())
    check(group.value.exceptions[0], 10)
    stream = actor.items.options(num_returns="streaming").remote()
    with pytest.raises(Holding) as caught:
        af.get(list(stream)[1])
    check(caught.value, 10)


def test_an_actor_lives_as_long_as_an_error_that_holds_its_handle() -> None:
    ref = Failing.remote().give_actor.remote()
    with pytest.raises(Holding) as caught:
        af.get(ref)
    del ref
    counter = caught.value.args[0]
    assert af.get(counter.add.remote(3)) == 3
    del counter
    held = af.put(caught.value)
    del caught
    gc.collect()
    assert af.get(af.get(held).args[0].add.remote(4)) == 7


def test_an_error_of_a_constructor_is_told_to_all_with_what_it_names() -> None:
    actor = Failing.remote([af.put(b"a" * LARGE_BYTES)])
    early = actor.fail.remote()
    with pytest.raises(af.ActorDiedError) as caught:
        af.get(early)
    check(caught.value.cause)
    late = actor.fail.remote()
    del actor, early
    with pytest.raises(af.ActorDiedError) as caught:
        af.get(late)
    del late
    check(caught.value.cause)


def test_an_error_passes_through_a_graph_with_what_it_names() -> None:
    first, second = Failing.remote(), Failing.remote()
    with InputNode() as inp:
        graph = second.fail.bind(first.fail.bind(inp)).compile()
    for _ in range(3):
        with pytest.raises(Holding) as caught:
            af.get(graph.execute(0))
        check(caught.value)
    graph.teardown()
