"""Views into the object store that are sent on: by channels and as arguments they travel without a copy."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import actorflow as af
from actorflow import _hot, config
from actorflow.dag import CompiledGraph
from actorflow.errors import ActorDiedError
from tests.conftest import wait_until
from tests.system.channel_bodies import DEADLINE_S, SLOT_BYTES, closing
from tests.system.conftest import STORE_BYTES, stored_bytes
from tests.system.graph_wiring import chain

PAGE_BYTES = 4096
SIZE_BYTES = 1_000_000

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def ends() -> Iterator[tuple[_hot.Writer, _hot.Reader]]:
    channel = _hot.channel_create(2, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    with closing(writer, reader):
        yield writer, reader


def sent(ends: tuple[_hot.Writer, _hot.Reader], value: Any) -> Any:
    writer, reader = ends
    writer.write(value, timeout=0)
    return reader.read(timeout=0)


def numbers(count: int = SIZE_BYTES, start: int = 0) -> Any:
    return (np.arange(start, start + count) % 251).astype(np.uint8)


def place(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


@af.remote(num_cpus=0)
class Keeper:
    """A step that passes its value on, and notes how much is stored then."""

    def __init__(self) -> None:
        self.kept: Any = None
        self.failures = 0
        self.noted: list[int] = []

    def process_id(self) -> int:
        return os.getpid()

    def pass_on(self, value: Any) -> Any:
        self.noted.append(stored_bytes())
        return value

    def notes(self) -> list[int]:
        return self.noted

    def keep(self, value: Any) -> int:
        self.kept = value
        return int(value.sum(dtype=np.int64))

    def again(self, value: Any) -> int:
        """Fails the first time that it is tried."""
        self.failures += 1
        if self.failures == 1:
            raise LookupError("once")
        return int(value.sum(dtype=np.int64))


# -- channels


def test_what_was_read_is_sent_on_without_a_copy(ends: tuple[_hot.Writer, _hot.Reader]) -> None:
    before = stored_bytes()
    view = sent(ends, numbers())
    once = stored_bytes() - before
    for value in (view, view[: SIZE_BYTES // 2 + PAGE_BYTES], view[PAGE_BYTES:], view.reshape(1000, -1)):
        again = sent(ends, value)
        assert place(again) == place(value)
        assert np.array_equal(again, value)
        assert not again.flags.writeable
        assert stored_bytes() - before == once
        del value, again
    chained = view
    for _ in range(10):
        chained = sent(ends, chained)
    del view
    assert np.array_equal(chained, numbers()), (
        "it keeps the object that it lies in, not those that it came by"
    )
    assert stored_bytes() - before == once
    del chained
    assert stored_bytes() == before


def test_a_small_part_is_copied_and_keeps_nothing_else(ends: tuple[_hot.Writer, _hot.Reader]) -> None:
    before = stored_bytes()
    view = sent(ends, numbers())
    for part in (slice(0, SIZE_BYTES // 3), slice(SIZE_BYTES * 3 // 4, None), slice(0, 0), slice(5, 6)):
        again = sent(ends, view[part])
        assert place(again) != place(view[part])
        assert np.array_equal(again, view[part])
    again = sent(ends, view[: SIZE_BYTES // 3])
    del view
    assert stored_bytes() - before < SIZE_BYTES // 2
    assert np.array_equal(again, numbers()[: SIZE_BYTES // 3])


def test_what_is_not_contiguous_is_copied(ends: tuple[_hot.Writer, _hot.Reader]) -> None:
    view = sent(ends, numbers())
    square = view.reshape(1000, -1)
    for value in (view[::2], square[:, :900], square.T, view[::-1]):
        assert np.array_equal(sent(ends, value), value)


def test_parts_of_one_object_count_together(ends: tuple[_hot.Writer, _hot.Reader]) -> None:
    before = stored_bytes()
    views = sent(ends, {name: numbers(200_000, name) for name in range(8)})
    once = stored_bytes() - before
    again = sent(ends, views)
    assert stored_bytes() - before == once
    assert all(place(again[name]) == place(views[name]) for name in views)
    few = sent(ends, [views[3], views[4]])
    assert stored_bytes() - before > once
    assert [place(view) for view in few] != [place(views[3]), place(views[4])]
    del views, few
    assert all(np.array_equal(again[name], numbers(200_000, name)) for name in again)


def test_new_buffers_and_references_travel_beside_views(ends: tuple[_hot.Writer, _hot.Reader]) -> None:
    first, second = sent(ends, numbers()), sent(ends, numbers(start=7))
    value = [af.put("held"), first, np.ones(300_000), second, first, b"", np.arange(3)]
    again = sent(ends, value)
    assert af.get(again[0]) == "held"
    assert [place(again[i]) for i in (1, 3, 4)] == [place(first), place(second), place(first)]
    assert again[2].sum() == 300_000
    assert np.array_equal(again[6], np.arange(3))
    del value, first
    assert np.array_equal(again[4], numbers())


def test_a_tensor_that_is_a_view_is_sent_on_without_a_copy(
    ends: tuple[_hot.Writer, _hot.Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    viewing = dataclasses.replace(config.current(), tensor_views=True)
    monkeypatch.setattr(config, "current", lambda: viewing)
    view = sent(ends, torch.arange(SIZE_BYTES))
    again = sent(ends, {"tensor": view})["tensor"]
    assert again.data_ptr() == view.data_ptr()
    assert again.equal(torch.arange(SIZE_BYTES))


def test_unread_views_go_with_the_channel() -> None:
    before = stored_bytes()
    channel = _hot.channel_create(4, SLOT_BYTES, 2)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    writer.write(numbers())
    view = reader.read()
    for _ in range(3):
        writer.write(view)
    del view
    assert stored_bytes() > before
    writer.close()
    reader.close()
    del channel
    assert stored_bytes() == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_parts_of_any_objects_arrive_as_they_are(
    data: st.DataObject, ends: tuple[_hot.Writer, _hot.Reader]
) -> None:
    before = stored_bytes()
    sizes = data.draw(st.lists(st.integers(1, 400_000), min_size=1, max_size=4))
    send_parts(data, ends, [numbers(size, index) for index, size in enumerate(sizes)])
    gc.collect()
    assert stored_bytes() == before


def send_parts(data: st.DataObject, ends: tuple[_hot.Writer, _hot.Reader], whole: list[Any]) -> None:
    """Some parts of what was sent before, three times; each must be equal to the same part of what it was made from."""
    pool = [*zip(sent(ends, whole), whole, strict=True), *((sent(ends, one), one) for one in whole)]
    for _ in range(3):
        picked = []
        for _ in range(data.draw(st.integers(0, 6))):
            view, same = pool[data.draw(st.integers(0, len(pool) - 1))]
            first = data.draw(st.integers(0, len(same)))
            last = data.draw(st.one_of(st.just(len(same)), st.integers(first, len(same))))
            picked.append((view[first:last], same[first:last]))
        again = sent(ends, [view for view, _ in picked])
        assert all(np.array_equal(view, same) for view, (_, same) in zip(again, picked, strict=True))
        pool += [(view, same) for view, (_, same) in zip(again, picked, strict=True)]


# -- graphs


def test_a_chain_copies_its_input_and_nothing_else() -> None:
    keepers = [Keeper.remote() for _ in range(3)]
    before = stored_bytes()
    with chain(*(keeper.pass_on for keeper in keepers)) as graph:
        result = graph.execute(numbers()).get(timeout=DEADLINE_S)
        once = stored_bytes() - before
        assert SIZE_BYTES <= once < SIZE_BYTES + 2 * PAGE_BYTES
        assert [af.get(keeper.notes.remote()) for keeper in keepers] == [[before + once]] * 3
        assert np.array_equal(result, numbers())
        del result


def send_on(graph: CompiledGraph, refs: list[Any], times: Iterable[int]) -> None:
    for _ in times:
        refs.append(graph.execute(refs.pop(0).get(timeout=DEADLINE_S)))


@pytest.mark.parametrize("executions", range(8))
def test_the_books_are_right_after_a_death_among_views(executions: int) -> None:
    keepers = [Keeper.remote() for _ in range(3)]
    doomed = af.get(keepers[executions % 3].process_id.remote())
    with chain(*(keeper.pass_on for keeper in keepers), max_inflight_executions=4) as graph:
        refs = [graph.execute(numbers()) for _ in range(4)]
        send_on(graph, refs, range(executions))
        os.kill(doomed, signal.SIGKILL)
        with pytest.raises(ActorDiedError):
            send_on(graph, refs, itertools.count())
        del refs  # the rest is for the fixtures: the store is as before, the audit is clean


# -- calls


def test_an_argument_that_lies_in_the_store_is_not_copied() -> None:
    keeper = Keeper.remote()
    reference = af.put(numbers())
    view = af.get(reference)
    before = stored_bytes()
    total = int(numbers().sum(dtype=np.int64))
    assert af.get(keeper.keep.remote(view)) == total
    assert stored_bytes() == before
    del view, reference
    assert af.get(keeper.keep.remote(numbers(10)), timeout=DEADLINE_S) == 45


def test_an_argument_is_copied_while_the_store_is_more_than_half_full() -> None:
    keeper = Keeper.remote()
    view, most = af.get(af.put(numbers())), af.put(np.zeros(STORE_BYTES * 5 // 8, dtype=np.uint8))
    before = stored_bytes()
    assert af.get(keeper.keep.remote(view)) == int(numbers().sum(dtype=np.int64))
    assert stored_bytes() - before >= SIZE_BYTES, (
        "what waits for calls must not keep the store from being spilled"
    )
    del most


def test_a_call_is_tried_again_with_the_same_view() -> None:
    keeper = Keeper.remote()
    view = af.get(af.put(numbers()))
    before = stored_bytes()
    answer = keeper.again.options(max_task_retries=2, retry_exceptions=True).remote(view)
    assert af.get(answer, timeout=DEADLINE_S) == int(numbers().sum(dtype=np.int64))
    wait_until(lambda: stored_bytes() == before, DEADLINE_S, "the arguments are gone")


def test_a_view_as_an_argument_is_kept_no_longer_than_its_call() -> None:
    @af.remote(max_retries=3)
    def doubled(value: Any) -> Any:
        return np.concatenate([value, value])

    before = stored_bytes()
    view = af.get(af.put(numbers()))
    reference = doubled.remote(view)
    result = af.get(reference, timeout=DEADLINE_S)
    del view

    def is_result_left() -> bool:
        return SIZE_BYTES * 2 <= stored_bytes() - before < SIZE_BYTES * 2 + 2 * PAGE_BYTES

    wait_until(
        is_result_left, DEADLINE_S, "the arguments are gone, which the worker drops when the result is there"
    )
    assert len(result) == SIZE_BYTES * 2


def test_results_and_put_values_have_their_own_copy() -> None:
    @af.remote
    def same(value: Any) -> Any:
        return value

    view = af.get(af.put(numbers()))
    for reference in (af.put(view), same.remote(view)):
        again = af.get(reference, timeout=DEADLINE_S)
        assert place(again) != place(view)
        assert np.array_equal(again, view)
