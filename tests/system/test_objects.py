"""Objects: put, get, wait with their checks; large values and numpy; freeing."""

from __future__ import annotations

import gc
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system import bodies
from tests.system.conftest import STORE_BYTES, stored_bytes

DEADLINE_S = 30.0
LARGE = 300_000  # numbers: 2.4 MB

pytestmark = pytest.mark.usefixtures("runtime")


@af.remote
def total(array: Any) -> float:
    return float(array.sum())


@af.remote
def numbers(count: int) -> Any:
    return np.arange(count, dtype=np.float64)


@pytest.mark.parametrize(
    "value",
    [0, "text", b"", [1, [2]], {"a": (1,)}, b"x" * 200_000, "y" * 300_000],
    ids=lambda value: type(value).__name__,
)
def test_put_and_get(value: Any) -> None:
    assert af.get(af.put(value)) == value


def test_get_of_a_list_keeps_its_order() -> None:
    refs = [af.put(number) for number in range(50)]
    assert af.get(refs[::-1]) == list(range(50))[::-1]
    assert af.get([refs[0], refs[0]]) == [0, 0]
    assert af.get([]) == []


def test_get_takes_refs_only() -> None:
    for wrong in (1, "ref", (af.put(1),), None):
        with pytest.raises(ValueError, match="ObjectRef"):
            af.get(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="item 1"):
        af.get([af.put(1), 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        af.get(af.put(1), timeout=-1)
    with pytest.raises(TypeError, match="timeout"):
        af.get(af.put(1), timeout="soon")  # type: ignore[arg-type]


def test_put_refuses_a_ref() -> None:
    with pytest.raises(TypeError, match="ObjectRef"):
        af.put(af.put(1))
    assert af.get(af.get(af.put([af.put(1)]))[0]) == 1


def test_get_with_a_timeout() -> None:
    gate = bodies.Gate.remote()
    ref = gate.pass_through.remote()
    for timeout in (0, 0.01):
        with pytest.raises(af.GetTimeoutError) as caught:
            af.get(ref, timeout=timeout)
        assert (caught.value.pending, caught.value.total) == (1, 1)
        assert isinstance(caught.value, TimeoutError)
    with pytest.raises(af.GetTimeoutError) as caught:
        af.get([af.put(1), ref], timeout=0)
    assert (caught.value.pending, caught.value.total) == (1, 2)
    af.get(gate.open.remote())
    assert af.get(ref, timeout=DEADLINE_S) == 1


def test_a_timeout_error_of_the_task_is_the_tasks_own() -> None:
    @af.remote
    def late() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as caught:
        af.get(late.remote(), timeout=DEADLINE_S)
    assert isinstance(caught.value, af.TaskError)


def test_wait_keeps_the_order_and_gives_at_most_what_was_asked_for() -> None:
    refs = [af.put(number) for number in range(5)]
    assert af.wait(refs) == ([refs[0]], refs[1:])
    assert af.wait(refs, num_returns=3) == (refs[:3], refs[3:])
    assert af.wait(refs, num_returns=5, timeout=1) == (refs, [])
    assert af.wait([]) == ([], [])


def test_wait_for_what_comes_later() -> None:
    gate = bodies.Gate.remote()
    late, early = gate.pass_through.remote(), af.put(1)
    assert af.wait([late, early]) == ([early], [late])
    assert af.wait([late, early], num_returns=2, timeout=0.01) == ([early], [late])
    af.get(gate.open.remote())
    assert af.wait([late, early], num_returns=2) == ([late, early], [])


def test_wait_checks_its_arguments() -> None:
    ref = af.put(1)
    with pytest.raises(TypeError, match="list"):
        af.wait(ref)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="item 0"):
        af.wait([1])
    with pytest.raises(ValueError, match="twice"):
        af.wait([ref, ref])
    for count in (0, 2, -1):
        with pytest.raises(ValueError, match="num_returns"):
            af.wait([ref], num_returns=count)
    with pytest.raises(TypeError, match="num_returns"):
        af.wait([ref], num_returns=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        af.wait([ref], timeout=-0.1)


def test_a_thousand_refs_waited_for_one_by_one() -> None:
    pending = [bodies.echo.remote(number) for number in range(1000)]
    seen = []
    while pending:
        done, pending = af.wait(pending)
        seen += af.get(done)
    assert sorted(seen) == list(range(1000))


def test_numpy_comes_back_read_only_and_without_a_copy() -> None:
    array = np.arange(LARGE, dtype=np.float64).reshape(-1, 3)
    ref = af.put(array)
    first, second = af.get(ref), af.get(ref)
    assert np.array_equal(first, array)
    assert first.__array_interface__["data"][0] == second.__array_interface__["data"][0]
    assert not first.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        first.flags.writeable = True


def test_a_view_stays_valid_after_its_ref_is_gone() -> None:
    view = af.get(af.put(np.full(LARGE, 7.0)))
    others = [af.put(np.zeros(LARGE)) for _ in range(5)]
    gc.collect()
    assert (view == 7.0).all()
    part = view[10:20]
    del view, others
    gc.collect()
    assert (part == 7.0).all()


def test_large_arguments_and_results() -> None:
    array = np.ones(LARGE)
    assert af.get(total.remote(array)) == LARGE
    assert af.get(total.remote(af.put(array))) == LARGE
    result = af.get(numbers.remote(LARGE))
    assert result[-1] == LARGE - 1
    assert not result.flags.writeable
    assert af.get(total.remote(numbers.remote(LARGE))) == LARGE * (LARGE - 1) / 2


def test_a_task_sees_the_same_memory_as_its_driver() -> None:
    @af.remote
    def is_read_only(array: Any, nested: list[Any]) -> tuple[bool, bool]:
        return array.flags.writeable, af.get(nested[0]).flags.writeable

    ref = af.put(np.zeros(LARGE))
    assert af.get(is_read_only.remote(ref, [ref])) == (False, False)


def test_objects_inside_an_actor_stay_while_it_holds_them() -> None:
    @af.remote
    class Keeper:
        def keep(self, array: Any) -> None:
            self.array = array

        def total(self) -> float:
            return float(self.array.sum())

    keeper = Keeper.remote()
    af.get(keeper.keep.remote(np.ones(LARGE)))
    gc.collect()
    others = [af.put(np.zeros(LARGE)) for _ in range(3)]
    assert af.get(keeper.total.remote()) == LARGE
    assert len(others) == 3


def test_memory_is_freed_with_the_last_ref() -> None:
    before = stored_bytes()
    ref = af.put(np.zeros(LARGE))
    boxed = af.put([ref])
    assert stored_bytes() >= before + LARGE * 8
    del ref
    assert stored_bytes() >= before + LARGE * 8
    copied = pickle.loads(pickle.dumps(boxed))
    del boxed
    assert af.get(af.get(copied)[0]).sum() == 0
    del copied
    gc.collect()
    assert stored_bytes() == before


def test_memory_of_many_rounds_does_not_grow() -> None:
    for _ in range(4 * STORE_BYTES // (LARGE * 8)):
        af.get(total.remote(numbers.remote(LARGE)))
    wait_until(lambda: stored_bytes() < STORE_BYTES // 4, DEADLINE_S, "results were freed")


def test_a_plain_pickle_owns_nothing() -> None:
    ref = af.put(1)
    text = pickle.dumps(ref)
    assert af.get(pickle.loads(text)) == 1
    assert pickle.loads(text) == ref
    del ref
    gc.collect()
    with pytest.raises(af.ObjectLostError, match="nobody held it"):
        pickle.loads(text)


def test_an_object_that_holds_many_refs() -> None:
    refs = [af.put(number) for number in range(2000)]
    held = af.put(refs)
    del refs
    assert af.get(af.get(held)) == list(range(2000))


def test_refs_are_equal_and_hashable_by_what_they_name() -> None:
    ref = af.put(1)
    same = af.get(af.put([ref]))[0]
    assert same == ref
    assert hash(same) == hash(ref)
    assert len({ref, same, af.put(1)}) == 2
    assert ref.hex() == same.hex()


def test_threads_of_one_process_share_everything() -> None:
    ref, results = bodies.echo.remote(1), []

    def work(number: int) -> None:
        results.append(af.get(bodies.add.remote(ref, number)) + af.get(af.put(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1 + 2 * number for number in range(8)]


def test_repr() -> None:
    gate = bodies.Gate.remote()
    ref = gate.pass_through.remote()
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    assert "pending" in ref._repr_html_()
    af.get(gate.open.remote())
    af.get(ref)
    assert "done" in ref._repr_html_()
    assert ("state", "done") in list(ref.__rich_repr__())
    failed = bodies.fail.remote("x")
    af.wait([failed])
    assert "failed" in failed._repr_html_()
