"""The moments at which user code is interrupted, and those that are left to the next signal."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

import pytest

from actorflow import _hot, errors
from actorflow.worker import interrupts


class FakeCall:
    """A call as interrupts sees it."""

    def __init__(self, wish: int = 0, told: int = 0) -> None:
        self.wish = wish
        self.told = told
        self.limit_s = 2.5

    def tell(self, why: int) -> None:
        self.told = why

    def children(self) -> list[Any]:
        return []


class FakeHot:
    """What of the core interrupts asks."""

    def __init__(self) -> None:
        self.due: FakeCall | None = None
        self.waits = False

    def interrupt_due(self) -> bool:
        return self.due is not None

    def in_wait(self) -> bool:
        return self.waits

    def take_interrupt(self) -> FakeCall | None:
        call, self.due = self.due, None
        return call


@pytest.fixture
def hot(monkeypatch: pytest.MonkeyPatch) -> FakeHot:
    fake = FakeHot()
    for name in ("interrupt_due", "in_wait", "take_interrupt"):
        monkeypatch.setattr(_hot, name, getattr(fake, name))
    monkeypatch.setattr(interrupts, "_pid", os.getpid())
    monkeypatch.setattr(interrupts, "_deferrals", 0)
    return fake


def frame_here() -> FrameType:
    return sys._getframe()


def frame_of_runtime() -> FrameType:
    """A frame of a file of the package."""
    names: dict[str, Any] = {"sys": sys}
    exec(compile("frame = sys._getframe()", interrupts.__file__, "exec"), names)
    frame: FrameType = names["frame"]
    return frame


class Dying:
    def __del__(self) -> None:
        frames.append(frame_here())


frames: list[FrameType] = []


def test_user_code_is_interrupted_once(hot: FakeHot) -> None:
    hot.due = FakeCall()
    with pytest.raises(KeyboardInterrupt):
        interrupts._on_signal(0, frame_here())
    interrupts._on_signal(0, frame_here())


def test_nothing_happens_when_nothing_is_due(hot: FakeHot) -> None:
    interrupts._on_signal(0, frame_here())


def test_the_runtime_is_left_alone_unless_it_waits(hot: FakeHot) -> None:
    hot.due = FakeCall()
    interrupts._on_signal(0, frame_of_runtime())
    assert hot.due is not None
    hot.waits = True
    with pytest.raises(KeyboardInterrupt):
        interrupts._on_signal(0, frame_of_runtime())


def test_what_goes_on_for_long_is_no_moment_of_the_runtime(hot: FakeHot) -> None:
    hot.due = FakeCall()
    for _ in range(interrupts.MOST_DEFERRALS):
        interrupts._on_signal(0, frame_of_runtime())
    with pytest.raises(KeyboardInterrupt):
        interrupts._on_signal(0, frame_of_runtime())


def test_a_finalizer_is_never_interrupted(hot: FakeHot) -> None:
    frames.clear()
    Dying()
    hot.due = FakeCall()
    for _ in range(3 * interrupts.MOST_DEFERRALS):
        interrupts._on_signal(0, frames[0])
    assert hot.due is not None
    frames.clear()


def test_a_forked_process_hears_nothing(hot: FakeHot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_pid", 1)
    hot.due = FakeCall()
    interrupts._on_signal(0, frame_here())
    assert hot.due is not None


def test_loops_are_told_of_each_signal(hot: FakeHot) -> None:
    heard: list[int] = []
    with interrupts.listening(lambda: heard.append(1)):
        interrupts._on_signal(0, frame_here())
        interrupts._on_signal(0, None)
    interrupts._on_signal(0, frame_here())
    assert heard == [1, 1]


def test_a_call_that_was_cancelled_before_its_code_is_refused() -> None:
    call: Any = FakeCall(wish=1)
    with pytest.raises(KeyboardInterrupt):
        interrupts.refuse_cancelled(call)
    error = interrupts.outcome(call, "work")
    assert (error.task_name, error.when) == ("work", "before it ran")
    interrupts.refuse_cancelled(FakeCall())  # type: ignore[arg-type]


def test_the_outcome_says_why() -> None:
    call: Any = FakeCall(told=_hot.TOLD_LIMIT)
    error = interrupts.outcome(call, "work")
    assert isinstance(error, errors.TaskTimeoutError)
    assert error.limit_s == 2.5
    call.told = _hot.TOLD_RUNNING
    assert type(interrupts.outcome(call, "work")) is errors.TaskCancelledError
