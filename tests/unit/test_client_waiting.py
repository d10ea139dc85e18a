"""A loop's port: who waits is told once, cancelling leaves nothing, lost rings and deaths are found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actorflow import _hot
from actorflow.client import waiting
from actorflow.client.waiting import LoopPort, current_port
from tests.conftest import wait_until
from tests.unit.loop_ports import DEADLINE_S, Place, result_of, runner, segment, turns_until, waiters

__all__ = ["runner", "segment"]


def test_there_is_one_port_for_each_loop(runner: asyncio.Runner) -> None:
    async def main() -> LoopPort:
        assert current_port() is current_port()
        return current_port()

    port = runner.run(main())
    with asyncio.Runner() as other:
        assert other.run(main()) is not port
    with pytest.raises(RuntimeError, match="no running event loop"):
        current_port()


def test_an_answer_wakes_each_waiter_once(runner: asyncio.Runner) -> None:
    async def main() -> None:
        place = Place()
        ref = place.ask()
        tasks = [asyncio.create_task(result_of(ref)) for _ in range(5)]
        await waiters(current_port(), 5)
        place.answer("here")
        assert await asyncio.gather(*tasks) == ["here"] * 5
        assert current_port()._board.pending == 0
        assert await ref == "here"

    runner.run(main())


def test_cancelled_waits_leave_nothing(runner: asyncio.Runner) -> None:
    async def main() -> None:
        place, port = Place(), current_port()
        refs = [place.ask() for _ in range(10)]
        tasks = [asyncio.create_task(result_of(ref)) for ref in refs]
        await waiters(port, 10)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks[::2], return_exceptions=True)
        assert len(port._waiting) == port._board.pending == 5
        for number in range(10):
            place.answer(number)
        assert await asyncio.gather(*tasks[1::2]) == [1, 3, 5, 7, 9]
        assert await asyncio.gather(*refs) == list(range(10))

    runner.run(main())


def test_a_wait_that_is_cancelled_as_its_answer_comes_does_not_end_anothers(runner: asyncio.Runner) -> None:
    """The board may have given its token to another wait by then."""

    async def main() -> None:
        place, port = Place(), current_port()
        first, second = place.ask(), place.ask()
        task = asyncio.create_task(result_of(first))
        await waiters(port, 1)
        task.cancel()
        place.answer(1)
        port._deliver(port._board.poll(True))
        other = asyncio.create_task(result_of(second))
        await asyncio.gather(task, return_exceptions=True)
        await waiters(port, 1)
        assert port._board.pending == 1
        place.answer(2)
        assert await other == 2

    runner.run(main())


def test_a_quiet_port_sleeps_and_a_datagram_wakes_it(runner: asyncio.Runner) -> None:
    async def main() -> None:
        place, port = Place(), current_port()
        task = asyncio.create_task(result_of(place.ask()))
        await waiters(port, 1)
        await turns_until(lambda: not port._polling)
        assert port._armed
        port._cancel_timer()  # the timed look is not what finds it
        place.answer("woken")
        assert await asyncio.wait_for(task, DEADLINE_S) == "woken"

    runner.run(main())


def test_a_lost_ring_is_found_by_the_timed_look(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        place, port = Place(), current_port()
        task = asyncio.create_task(result_of(place.ask()))
        await waiters(port, 1)
        await turns_until(lambda: not port._polling)
        asyncio.get_running_loop().remove_reader(port._socket.fileno())
        place.answer("found")
        assert await asyncio.wait_for(task, DEADLINE_S) == "found"

    monkeypatch.setattr(waiting, "LOOK_S", 0.001)
    runner.run(main())


def test_the_nodes_death_ends_every_wait(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        place, port = Place(), current_port()
        ref, called = place.ask(), asyncio.Event()
        ref.add_done_callback(lambda _: called.set())
        tasks = [asyncio.create_task(result_of(ref)), asyncio.create_task(port.wait_some([ref], 1))]
        await waiters(port, 4)
        monkeypatch.setattr(_hot, "node_alive", lambda: False)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, KeyError)
        await called.wait()
        assert not port._waiting
        assert port._board.pending == 0

    monkeypatch.setattr(LoopPort, "gone_error", staticmethod(lambda: KeyError("the node")))
    monkeypatch.setattr(waiting, "LOOK_S", 0.001)
    runner.run(main())


def test_a_note_that_raises_costs_the_others_nothing(runner: asyncio.Runner) -> None:
    async def main() -> None:
        raised: list[Any] = []
        loop, port, place = asyncio.get_running_loop(), current_port(), Place()
        loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))

        def note() -> None:
            place.answer()
            raise KeyError("a note's")

        port.listen(place.mailbox, note)
        await turns_until(lambda: not port._polling)
        for _ in range(3):
            ref, other = place.ask(), Place()
            answered = other.ask()
            task = asyncio.create_task(result_of(answered))
            await waiters(port, 1)
            other.answer("here")
            assert await asyncio.wait_for(task, DEADLINE_S) == "here"
            assert await asyncio.wait_for(result_of(ref), DEADLINE_S) is None
        assert [type(error) for error in raised] == [KeyError] * 3
        await turns_until(lambda: not port._polling)
        port.ignore(place.mailbox)

        told: list[str] = []
        notes = [note_of(told, "first"), note_of(told, "second"), note_of(told, "third")]
        with pytest.raises(KeyError):
            port._deliver(notes)
        await turns_until(lambda: len(told) == 3)
        assert told == ["first", "second", "third"]

    def note_of(told: list[str], name: str) -> Callable[[], None]:
        def note() -> None:
            told.append(name)
            raise KeyError(name)

        return note

    runner.run(main())


@pytest.fixture
def three_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards have three tokens."""
    make_board = _hot.Board

    class SmallBoard:
        def __init__(self) -> None:
            self._board = make_board()

        def watch(self, reference: Any, note: Any) -> int:
            if self._board.pending < 3:
                return self._board.watch(reference, note)
            return 0 if reference.is_done() else -1

        def __getattr__(self, name: str) -> Any:
            return getattr(self._board, name)

    monkeypatch.setattr(waiting, "LOOK_S", 0.01)
    monkeypatch.setattr(_hot, "Board", SmallBoard)


@pytest.mark.usefixtures("three_tokens")
def test_more_waits_than_a_board_has_tokens(runner: asyncio.Runner) -> None:
    async def main() -> None:
        place, port = Place(), LoopPort(asyncio.get_running_loop())
        refs = [place.ask() for _ in range(10)]
        task = asyncio.create_task(port.wait_some(refs, 10))
        cancelled = asyncio.create_task(port.wait_some(refs[8:], 2))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        for number in range(10):
            place.answer(number)
        await asyncio.wait_for(task, DEADLINE_S)
        assert not port._untold
        port.close()

    runner.run(main())


@pytest.mark.usefixtures("three_tokens")
def test_a_wait_without_a_token_ends_while_those_with_one_go_on(runner: asyncio.Runner) -> None:
    async def main() -> None:
        silent, place, port = Place(), Place(), LoopPort(asyncio.get_running_loop())
        others = [asyncio.create_task(port.wait_some([silent.ask()], 1)) for _ in range(4)]
        await asyncio.sleep(0)
        refs = [place.ask() for _ in range(2000)]
        tasks = [asyncio.create_task(port.wait_some([ref], 1)) for ref in refs]
        await asyncio.sleep(0)
        assert len(port._untold) == 1 + len(refs)
        place.answer_all(range(len(refs)))
        await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S)
        assert not any(task.done() for task in others)
        assert len(port._untold) == 1
        silent.answer_all(range(4))
        await asyncio.wait_for(asyncio.gather(*others), DEADLINE_S)
        port.close()

    runner.run(main())


def test_a_listener_is_told_of_pushes(runner: asyncio.Runner) -> None:
    async def main() -> None:
        place, port = Place(), current_port()
        done = asyncio.get_running_loop().create_future()
        taken = []

        def note() -> None:
            while (call := _hot.take_nowait(place.mailbox)) is not None:
                taken.append(call)
                call.complete(None)
            if len(taken) == 3:
                done.set_result(None)

        port.listen(place.mailbox, note)
        refs = [place.ask()]
        await turns_until(lambda: not port._polling)
        refs += [place.ask(), place.ask()]
        await asyncio.wait_for(done, DEADLINE_S)
        assert await asyncio.gather(*refs) == [None] * 3
        port.ignore(place.mailbox)
        port.ignore(place.mailbox)

    runner.run(main())


def test_a_listener_is_told_of_the_nodes_death(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        told = asyncio.Event()
        current_port().listen(Place().mailbox, told.set)
        monkeypatch.setattr(_hot, "node_alive", lambda: False)
        await asyncio.wait_for(told.wait(), DEADLINE_S)

    monkeypatch.setattr(waiting, "IDLE_LOOK_S", 0.001)
    runner.run(main())


def test_the_node_attends_a_queue_again_and_again(runner: asyncio.Runner) -> None:
    async def main() -> None:
        mailbox, port = _hot.make_mailbox(_hot.SHARED, 0, 100), current_port()
        target, rung = _hot.Target(mailbox), asyncio.Event()
        for _ in range(3):
            rung.clear()
            port.attend(mailbox, rung.set)
            target.call(0, (), None)
            await asyncio.wait_for(rung.wait(), DEADLINE_S)
        assert len(port._mailboxes) == 1

    runner.run(main())


def test_other_tasks_get_turns_between_answers_that_are_at_once_there(runner: asyncio.Runner) -> None:
    class Instant:
        """A reference whose every spin succeeds."""

        def spin(self, seconds: float) -> bool:
            return True

    async def main() -> int:
        turns, port, is_over = 0, current_port(), False

        async def other() -> None:
            nonlocal turns
            while not is_over:
                turns += 1
                await asyncio.sleep(0)

        class Awaitable:
            def __await__(self) -> Any:
                return port.wait(Instant())  # type: ignore[arg-type]

        task = asyncio.create_task(other())
        for _ in range(10 * waiting.SPINS_IN_A_ROW):
            await Awaitable()
        is_over = True
        await task
        return turns

    assert runner.run(main()) >= 9


def test_a_thread_can_answer_a_loop(runner: asyncio.Runner) -> None:
    async def main() -> None:
        place, port = Place(), current_port()
        refs = [place.ask() for _ in range(100)]
        task = asyncio.gather(*refs)
        await waiters(port, 100)
        await asyncio.to_thread(place.answer_all, range(100))
        assert await task == list(range(100))

    runner.run(main())
    wait_until(lambda: not any(port._waiting for port in waiting._ports.values()), DEADLINE_S, "nobody waits")
