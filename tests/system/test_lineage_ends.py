"""Values that stay lost and say why; deaths while one is made again; what lineage keeps alive."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow.errors import ReconstructionFailedError
from tests.conftest import wait_until
from tests.system.conftest import stored_bytes
from tests.system.lineage_bodies import (
    PIECE_BYTES,
    STORE_BYTES,
    Array,
    Runs,
    lose_all,
    make,
    outcome_of,
    piece,
    plus,
    read,
    running_workers,
    runs,
    start,
)

__all__ = ["runs", "start"]  # fixtures

pytest.importorskip("fsspec")


def test_a_worker_killed_while_it_makes_a_value_again(start: Any, tmp_path: Path, runs: Runs) -> None:
    gate = tmp_path.parent / f"{tmp_path.name}-gate"

    @af.remote(max_retries=2)
    def slow() -> Array:
        if runs.note("slow") == 1:
            os.mkfifo(gate)
            with gate.open():
                pass
        return piece(9)

    with start():
        ref = slow.remote()
        af.wait([ref])
        lose_all(tmp_path)
        found: list[bool] = []
        reader = threading.Thread(target=read, args=(ref, 9, found))
        reader.start()
        wait_until(gate.exists, 20, "it runs again")
        for pid in running_workers():
            os.kill(pid, signal.SIGKILL)
        reader.join()
        assert found == [True]
        assert runs.of("slow") == 3
        lose_all(tmp_path)
        with pytest.raises(ReconstructionFailedError, match="used up"):
            af.get(ref)
        del ref


@af.remote(max_retries=5)
def gated(runs: Runs, gate: Path) -> Array:
    """Waits at its gate when it runs again."""
    if runs.note("gated") > 0:
        with suppress(FileExistsError):
            os.mkfifo(gate)
        with gate.open():
            pass
    return piece(9)


def lost_and_gated(tmp_path: Path, runs: Runs) -> tuple[Any, Path]:
    gate = runs.folder / "gate"
    ref = gated.remote(runs, gate)
    af.wait([ref])
    lose_all(tmp_path)
    return ref, gate


def test_a_reader_killed_while_the_value_is_made_again(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote(max_retries=0)
    def reader(pid: Path, refs: list[Any]) -> int:
        pid.write_text(str(os.getpid()))
        return int(af.get(refs[0])[0])

    with start():
        ref, gate = lost_and_gated(tmp_path, runs)
        pid = runs.folder / "pid"
        reading = reader.remote(pid, [ref])
        wait_until(gate.exists, 20, "it runs again")
        os.kill(int(pid.read_text()), signal.SIGKILL)
        with pytest.raises(af.WorkerCrashedError):
            af.get(reading)
        second = reader.remote(pid, [ref])
        gate.open("w").close()
        assert af.get(second) == piece(9)[0]
        assert np.array_equal(af.get(ref), piece(9))
        assert runs.of("gated") == 2
        del ref, reading, second


def test_the_last_reader_goes_while_the_value_is_made_again(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start():
        ref, gate = lost_and_gated(tmp_path, runs)
        with pytest.raises(KeyboardInterrupt):
            interrupted_get(ref, gate)
        del ref
        gate.open("w").close()


def interrupted_get(ref: Any, gate: Path) -> None:
    """Is interrupted while it waits."""

    def interrupt() -> None:
        wait_until(gate.exists, 20, "it runs again")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        af.get(ref)
    finally:
        thread.join()


def test_the_node_ends_while_a_value_is_made_again(
    tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTORFLOW_SPILL_DIRECTORIES", f"file://{tmp_path}")
    af.init(num_cpus=2, object_store_memory=STORE_BYTES)
    try:
        ref, gate = lost_and_gated(tmp_path, runs)
        found: list[Any] = []
        reader = threading.Thread(
            target=lambda waited: found.append(outcome_of(lambda: af.get(waited))), args=(ref,)
        )
        reader.start()
        wait_until(gate.exists, 20, "it runs again")
    finally:
        af.shutdown()
    reader.join()
    assert isinstance(found[0], af.NodeDiedError | RuntimeError)
    del ref


def test_an_actor_that_has_ended_makes_nothing_again(start: Any, tmp_path: Path) -> None:
    @af.remote(max_task_retries=3, max_restarts=3)
    class Maker:
        def make(self) -> Array:
            return piece(1)

    with start():
        actor = Maker.remote()
        ref = actor.make.remote()
        af.wait([ref])
        af.kill(actor)
        with pytest.raises(af.ActorDiedError):
            af.get(actor.make.remote())
        lose_all(tmp_path)
        with pytest.raises(ReconstructionFailedError, match="the actor that its call belonged to has ended"):
            af.get(ref)
        del ref, actor


def test_what_is_not_made_again_says_why(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote(max_retries=0)
    def never() -> Array:
        return piece(1)

    @af.remote
    class Maker:
        def make(self) -> Array:
            return piece(2)

        def items(self) -> Iterator[Array]:
            yield piece(4)

    with start():
        actor = Maker.remote()
        stream = actor.items.options(num_returns="streaming").remote()
        refs = {
            "max_retries=0": never.remote(),
            "max_task_retries": actor.make.remote(),
            "it was put": af.put(piece(3)),
            "item of a generator": next(stream),
            "over 100 KiB by value": plus.remote(runs, "user", piece(5)),
        }
        af.wait(list(refs.values()), num_returns=len(refs))
        lose_all(tmp_path)
        for why, ref in refs.items():
            error = outcome_of(functools.partial(af.get, ref))
            assert isinstance(error, af.ObjectLostError)
            assert error.object_id == ref.hex()
            assert why in str(error)
            assert str(tmp_path) in str(error)
        assert runs.of("user") == 1
        refs.clear()
        del ref, error, actor, stream


def test_lineage_keeps_no_actor_and_no_put_value_alive(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote
    class Source:
        def pid(self) -> int:
            return os.getpid()

    @af.remote
    def through(source: Any, refs: list[Any]) -> Array:
        assert af.get(source.pid.remote()) > 0
        return np.asarray(af.get(refs[0]) + np.uint8(1))

    with start():
        source = Source.remote()
        given = af.put(piece(1))
        ref = through.remote(source, [given])
        af.wait([ref])
        pid = af.get(source.pid.remote())
        del source, given
        wait_until(lambda: stored_bytes() < 2 * PIECE_BYTES, 20, "the put value is freed")
        wait_until(lambda: not Path("/proc", str(pid)).exists(), 20, "the actor has ended")
        lose_all(tmp_path)
        with pytest.raises(ReconstructionFailedError, match="something that it was made from is gone"):
            af.get(ref)
        del ref


def test_beyond_the_budget_the_oldest_are_forgotten(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start(num_cpus=1, LINEAGE_BUDGET_BYTES=str(64 * 1024)):  # one worker: they end in the order made
        text = b"x" * 15_000  # an argument that is kept beside the call
        refs = [kept.remote(runs, i, text) for i in range(8)]
        af.wait(refs, num_returns=len(refs))
        lose_all(tmp_path)
        found = [outcome_of(functools.partial(af.get, ref)) for ref in refs]
        is_lost = [isinstance(one, ReconstructionFailedError) for one in found]
        assert 4 <= sum(is_lost) < len(refs)
        assert is_lost == sorted(is_lost, reverse=True)
        assert all("over its budget" in str(one) for one, lost in zip(found, is_lost, strict=True) if lost)
        found.clear()
        del refs


@af.remote
def kept(runs: Runs, number: int, _: bytes) -> Array:
    runs.note(f"kept{number}")
    return piece(number)


def test_without_a_budget_nothing_is_kept(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start(LINEAGE_BUDGET_BYTES="0"):
        ref = make.remote(runs, 1)
        af.wait([ref])
        lose_all(tmp_path)
        with pytest.raises(ReconstructionFailedError, match="was not kept"):
            af.get(ref)
        del ref
