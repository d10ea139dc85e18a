"""Futures of refs: each is done with its call, with the runtime, or when it is cancelled; who waits for it hears."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from actorflow import _hot
from actorflow.client import futures
from tests.unit.loop_ports import DEADLINE_S, segment

__all__ = ["segment"]


@pytest.fixture(autouse=True)
def ended(segment: None) -> Iterator[None]:
    yield
    futures.stop()


def unanswered() -> Any:
    """A ref to a call that nobody takes."""
    return _hot.Target(_hot.make_mailbox(0, 0, 10)).call(0, (), None)


def test_a_future_that_was_just_asked_for_is_done_when_the_runtime_ends() -> None:
    futures.future_of(unanswered())
    completer = futures._completer
    assert completer is not None
    held = threading.Event()
    completer._loop.call_soon_threadsafe(held.wait)
    late = futures.future_of(unanswered())
    completer._loop.call_soon_threadsafe(completer._end)  # in the turn in which its task is made
    held.set()
    futures.stop()
    with pytest.raises(RuntimeError, match="shut down"):
        late.result(timeout=DEADLINE_S)


def test_a_callback_may_end_the_runtime() -> None:
    future, ended = futures.future_of(unanswered()), threading.Event()

    def end(_: Any) -> None:
        futures.stop()
        ended.set()

    completer = futures._completer
    assert completer is not None
    completer._loop.call_soon_threadsafe(end, None)
    assert ended.wait(DEADLINE_S)
    with pytest.raises(RuntimeError, match="shut down"):
        future.result(timeout=DEADLINE_S)
    completer._thread.join(DEADLINE_S)
    assert not completer._thread.is_alive()


def test_who_waits_for_several_futures_hears_of_one_that_is_cancelled() -> None:
    future = futures.future_of(unanswered())
    waits = threading.Event()

    def wait() -> Any:
        waits.set()
        return concurrent.futures.wait([future], DEADLINE_S).done

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waited = threads.submit(wait)
        waits.wait()
        assert future.cancel()
        assert waited.result() == {future}
