"""Synchronous waits: their errors, the warning inside a loop, and the check for deadlocks."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest

from actorflow import _hot, errors
from actorflow.client import blocking, objects, runtime
from actorflow.wire.failures import encode_error

MIB = 1 << 20


@pytest.fixture(autouse=True)
def segment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(blocking, "_has_warned", False)
    runtime.configure()
    _hot.create(os.urandom(16), 16, 64 * MIB, MIB, MIB, 0)
    yield
    blocking.forbid(None)
    _hot.detach()


@pytest.fixture
def mailbox() -> _hot.Hold:
    return _hot.make_mailbox(0, 0, 1000)


def ask(mailbox: _hot.Hold) -> Any:
    return _hot.Target(mailbox).call(0, (), None)


def answer_soon(mailbox: _hot.Hold, value: Any) -> threading.Thread:
    """A thread that takes the next call and answers it."""

    def answer() -> None:
        call = _hot.take(mailbox)
        assert call is not None
        call.complete(value)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_timeouts_say_how_many_are_missing(mailbox: _hot.Hold) -> None:
    refs = [ask(mailbox), objects.put(1), ask(mailbox)]
    with pytest.raises(errors.GetTimeoutError) as caught:
        blocking.get_many(refs, 0.001)
    assert (caught.value.pending, caught.value.total, caught.value.timeout_s) == (2, 3, 0.001)
    with pytest.raises(errors.GetTimeoutError):
        blocking.wait_one(refs[0], 0)
    assert blocking.wait_some(refs, 2, 0.001) == ([refs[1]], [refs[0], refs[2]])


def test_a_stored_error_is_raised_and_a_wait_does_not_mind_it(mailbox: _hot.Hold) -> None:
    ref = ask(mailbox)
    call = _hot.take_nowait(mailbox)
    assert call is not None
    call.fail(encode_error(TimeoutError("of the call"), name="task", node_id="n", pid=1, attempt=1))
    blocking.wait_one(ref)
    with pytest.raises(TimeoutError, match="of the call") as caught:
        blocking.get_one(ref, 1)
    assert isinstance(caught.value, errors.TaskError)
    assert isinstance(ref.exception(), TimeoutError)


def test_the_nodes_death_is_told_by_whoever_knows(
    mailbox: _hot.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise _hot.NodeGoneError("gone")

    death = errors.NodeDiedError(node_id="n", reason="for a test")
    monkeypatch.setattr(blocking, "_node_error", lambda: death)
    for name in ("get", "get_many", "wait"):
        monkeypatch.setattr(_hot, name, gone)
    ref = ask(mailbox)
    with pytest.raises(errors.NodeDiedError, match="for a test"):
        blocking.get_one(ref)
    with pytest.raises(errors.NodeDiedError, match="for a test"):
        blocking.get_many([ref])
    with pytest.raises(errors.NodeDiedError, match="for a test"):
        blocking.wait_some([ref], 1, None)


def test_one_warning_where_a_loop_is_blocked(mailbox: _hot.Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        blocking, "_has_warned", False
    )  # other tests may have seen it, or have run a notebook
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert objects.get(objects.put(1)) == 1  # ready: nothing is blocked
            with pytest.raises(errors.GetTimeoutError):
                objects.get(ask(mailbox), timeout=0)  # looks, and does not block either
        _hot.take_nowait(mailbox)
        for number in range(2):
            thread = answer_soon(mailbox, number)
            if number == 0:
                with pytest.warns(RuntimeWarning, match="await") as seen:
                    assert objects.get(ask(mailbox)) == 0
                assert [record.filename for record in seen] == [__file__]
            else:
                assert objects.get([ask(mailbox)]) == [1]
            thread.join()

    asyncio.run(main())


def test_no_warning_in_a_notebook(mailbox: _hot.Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        thread = answer_soon(mailbox, "cell")
        assert objects.get(ask(mailbox)) == "cell"
        thread.join()

    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    asyncio.run(main())


def test_the_check_sees_what_is_unfinished_and_how_much_of_it_is_needed(mailbox: _hot.Hold) -> None:
    seen: list[tuple[int, int]] = []

    def check(unfinished: Sequence[_hot.Reference], missing: int) -> None:
        seen.append((len(unfinished), missing))
        raise errors.DeadlockError(waiting_for="itself", reason="a test")

    noted: list[str] = []
    blocking.forbid(check, noted=noted)
    thread = answer_soon(mailbox, "answer")
    assert blocking.get_briefly([ask(mailbox)]) == ["answer"]
    thread.join()
    assert not seen, "nothing is noted that could be waited for"
    noted.append("a call")
    refs = [ask(mailbox), objects.put(1), ask(mailbox)]
    with pytest.raises(errors.DeadlockError):
        blocking.get_many(refs)
    with pytest.raises(errors.DeadlockError):
        blocking.wait_some(refs, 2, None)
    with pytest.raises(errors.DeadlockError):
        refs[0].result()
    assert seen == [(2, 2), (2, 1), (1, 1)]
    assert blocking.wait_some(refs, 1, None) == ([refs[1]], [refs[0], refs[2]])
    with pytest.raises(errors.GetTimeoutError):
        blocking.get_one(refs[0], 0.001)
    assert len(seen) == 3
