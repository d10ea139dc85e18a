"""What the threads of an actor share: no thread finds there what another one has not finished."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from actorflow.client import handles
from actorflow.worker.actor import Host
from actorflow.worker.executor_threads import ThreadsExecutor
from actorflow.worker.functions import Body


def test_a_thread_that_others_find_can_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = object.__new__(ThreadsExecutor)
    executor._lock = threading.Lock()
    executor._threads, executor._waiting, executor._limit = [], 0, 2
    found: list[list[threading.Thread]] = []
    monkeypatch.setattr(threading.Thread, "start", lambda _: found.append(list(executor._threads)))
    executor._keep_one_waiting()
    assert found == [[]]
    assert len(executor._threads) == 1


def test_a_method_that_others_find_is_in_its_group() -> None:
    class Groups(dict[int, Body]):
        def __setitem__(self, number: int, body: Body) -> None:
            found.append(body.group)
            super().__setitem__(number, body)

    class Call:
        method = 2 | 3 << handles._GROUP_SHIFT

    found: list[int] = []
    host: Any = object.__new__(Host)
    host._bodies = [Body(len, "len", group=1)] * 3
    host._regrouped = Groups()
    call: Any = Call()
    _, group = handles.method_and_group(call.method)
    assert group
    assert host._body_in_group(call).group == group
    assert found == [group]
