"""Objects on disk: more than the store holds, written and read back; full and broken disks; nothing stays."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import actorflow as af
from actorflow import _hot
from actorflow.client import runtime as runtimes
from actorflow.shm.store import Role, Store
from tests.conftest import wait_until

STORE_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 4 * 1024 * 1024
PIECES = 3 * STORE_BYTES // PIECE_BYTES


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Starts a private node that spills to `tmp_path` (or where `spill` says); afterwards its books are checked."""

    @contextmanager
    def started(spill: str = "", wait_s: float = 3.0) -> Iterator[af.Runtime]:
        monkeypatch.setenv("ACTORFLOW_SPILL_DIRECTORIES", spill or str(tmp_path))
        monkeypatch.setenv("ACTORFLOW_STORE_WAIT_S", str(wait_s))
        with af.init(num_cpus=2, object_store_memory=STORE_BYTES) as runtime:
            yield runtime
            store = Store(_hot.client_address())
            wait_until(lambda: store.segment().object_bytes_used == 0, 20, "the store is empty")
            wait_until(lambda: store.audit().clean, 20, "the books agree")

    return started


def piece(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).integers(0, 255, PIECE_BYTES, dtype=np.uint8)


def node_process() -> psutil.Process:
    current = runtimes.current()
    assert current is not None
    assert current._connection is not None
    return psutil.Process(current._connection.node_pid)


def outcome_of(call: Callable[[], Any]) -> Any:
    """A copy of what it returns, or the error that it raises."""
    try:
        return call().copy()
    except af.ActorflowError as error:
        return error


def running_workers() -> list[int]:
    return [slot.pid for slot in Store(_hot.client_address()).slots(Role.WORKER) if slot.running]


def kill_until_done(ref: Any) -> bool:
    """Kills what runs now; of those that are settled late it may have been killed before."""
    for pid in running_workers():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(ref.is_done())


def spill_files() -> list[str]:
    """The node's files without a name."""
    folder = Path("/proc", str(node_process().pid), "fd")
    return [
        str(entry)
        for entry in folder.iterdir()
        if "(deleted)" in _target(entry) and "memfd" not in _target(entry)
    ]


def size_bytes(file: str) -> int:
    return os.stat(file).st_size


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:
        return ""


def test_three_times_the_store_comes_back_as_it_was(start: Any, tmp_path: Path) -> None:
    with start():
        refs = [af.put(piece(i)) for i in range(PIECES)]
        assert list(tmp_path.iterdir()) == []
        for _ in range(2):
            for i, ref in enumerate(refs):
                assert np.array_equal(af.get(ref), piece(i))
        assert len(af.get(refs[-4:])) == 4
        del refs, ref
        wait_until(lambda: all(os.stat(file).st_size == 0 for file in spill_files()), 20, "the disk is free")
    assert list(tmp_path.iterdir()) == []


def test_arguments_and_results(start: Any) -> None:
    @af.remote
    def double(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array * np.uint8(2)

    with start():
        refs = [af.put(piece(i)) for i in range(PIECES // 2)]
        doubled = [double.remote(ref) for ref in refs]
        for i, ref in enumerate(doubled):
            assert np.array_equal(af.get(ref), piece(i) * np.uint8(2))
        del refs, ref, doubled


def test_what_spilled_objects_refer_to_lives(start: Any) -> None:
    with start():
        outer = [af.put([af.put(piece(i)), np.zeros(PIECE_BYTES // 8)]) for i in range(PIECES // 2)]
        for i, ref in enumerate(outer):
            assert np.array_equal(af.get(af.get(ref)[0]), piece(i))
        del outer, ref


def test_a_view_stays_while_everything_else_is_spilled(start: Any) -> None:
    with start():
        ref = af.put(piece(0))
        view = af.get(ref)
        others = [af.put(piece(i)) for i in range(1, PIECES)]
        assert np.array_equal(view, piece(0))
        del view, ref, others


def test_values_without_buffers(start: Any) -> None:
    with start():
        refs = [af.put(bytes([i]) * PIECE_BYTES) for i in range(PIECES)]
        assert all(af.get(ref) == bytes([i]) * PIECE_BYTES for i, ref in enumerate(refs))
        lists = [af.put([i] * (PIECE_BYTES // 4)) for i in range(PIECES // 2)]
        assert [af.get(ref)[-1] for ref in lists] == list(range(PIECES // 2))
        del refs, lists


def test_many_writers_wait_for_each_other(start: Any) -> None:
    @af.remote
    def produce(first: int) -> list[Any]:
        return [af.put(piece(first + i)) for i in range(PIECES // 4)]

    with start():
        made = af.get([produce.remote(100 * i) for i in range(4)])
        for i, refs in enumerate(made):
            assert all(np.array_equal(af.get(ref), piece(100 * i + j)) for j, ref in enumerate(refs))
        del made, refs


async def test_awaited(start: Any) -> None:
    with start():
        refs = [af.put(piece(i)) for i in range(PIECES // 2)]
        for i, ref in enumerate(refs):
            assert np.array_equal(await ref, piece(i))
        del refs, ref


@pytest.mark.parametrize("end", ["dropped", "closed"])
def test_a_generator_whose_items_are_spilled_ends_with_its_reader(start: Any, end: str) -> None:
    @af.remote
    def endless() -> Iterator[Any]:
        while True:
            yield np.zeros(PIECE_BYTES, np.uint8)

    def is_idle() -> bool:
        return bool(af.available_resources()["CPU"] == 2)

    with start():
        generator = endless.remote()
        next(generator)
        wait_until(lambda: sum(map(size_bytes, spill_files())) > 2 * STORE_BYTES, 20, "items are spilled")
        if end == "closed":
            generator.close()
        else:
            del generator
        wait_until(is_idle, 20, "the generator has ended")


def test_a_disk_that_cannot_be_written_loses_nothing(start: Any, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with start(missing):
        refs = []
        with pytest.raises(af.OutOfDiskError) as caught:  # noqa: PT012 - which of them it is, is the next question
            for i in range(PIECES):
                refs.append(af.put(piece(i)))
        assert caught.value.path == missing
        assert len(refs) == STORE_BYTES // PIECE_BYTES - 1  # headers: one less than would fit
        assert all(np.array_equal(af.get(ref), piece(i)) for i, ref in enumerate(refs))
        (tmp_path / "missing").mkdir()

        def is_room() -> bool:
            try:
                refs.append(af.put(piece(len(refs))))
            except af.OutOfDiskError:
                return False
            return True

        wait_until(is_room, 20, "the disk is there")
        assert all(np.array_equal(af.get(ref), piece(i)) for i, ref in enumerate(refs))
        refs.clear()
        del caught


def test_another_directory_takes_what_the_first_does_not(start: Any, tmp_path: Path) -> None:
    with start(f"{tmp_path}/missing,{tmp_path}"):
        refs = [af.put(piece(i)) for i in range(PIECES)]
        assert all(np.array_equal(af.get(ref), piece(i)) for i, ref in enumerate(refs))
        del refs


def test_without_spilling_a_writer_waits_and_is_refused(start: Any) -> None:
    with start("none", wait_s=0.5):
        refs = [af.put(piece(i)) for i in range(STORE_BYTES // PIECE_BYTES - 1)]
        since = time.monotonic()
        with pytest.raises(af.ObjectStoreFullError):
            af.put(piece(99))
        assert time.monotonic() - since >= 0.5

        @af.remote
        def make() -> np.ndarray[Any, Any]:
            return piece(7)

        waiting = make.remote()
        del refs[0]
        assert np.array_equal(af.get(waiting), piece(7))
        del refs, waiting


def test_bytes_that_changed_on_disk_are_not_returned(start: Any) -> None:
    with start():
        refs = [af.put(piece(i)) for i in range(PIECES)]
        for file in spill_files():
            with open(file, "r+b") as spoiled:
                spoiled.seek(PIECE_BYTES // 2)
                spoiled.write(b"not what was there")
        found = [outcome_of(functools.partial(af.get, ref)) for ref in refs]
        lost = [i for i, outcome in enumerate(found) if isinstance(outcome, af.ObjectLostError)]
        assert len(lost) == 1
        assert found[lost[0]].object_id == refs[lost[0]].hex()
        assert "other bytes" in found[lost[0]].reason
        assert all(np.array_equal(found[i], piece(i)) for i in range(PIECES) if i not in lost)
        found.clear()
        del refs


def test_a_worker_killed_while_it_waits_for_a_value(start: Any) -> None:
    @af.remote(max_retries=0)
    def read_all(refs: list[Any]) -> int:
        while True:
            for ref in refs:
                af.get(ref)

    with start():
        refs = [af.put(piece(i)) for i in range(PIECES)]
        for _ in range(5):
            running = read_all.remote(refs)
            wait_until(functools.partial(kill_until_done, running), 20, "it was killed")
            with pytest.raises(af.WorkerCrashedError):
                af.get(running)
        assert all(np.array_equal(af.get(ref), piece(i)) for i, ref in enumerate(refs))
        del refs, running


def test_nothing_is_left_of_a_node_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import actorflow as af, numpy as np, os, signal\n"
        "from actorflow.client import runtime as runtimes\n"
        f"af.init(num_cpus=1, object_store_memory={STORE_BYTES})\n"
        f"refs = [af.put(np.ones({PIECE_BYTES}, dtype=np.uint8)) for _ in range({PIECES})]\n"
        "os.kill(runtimes.current()._connection.node_pid, signal.SIGKILL)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "ACTORFLOW_SPILL_DIRECTORIES": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, timeout=60, check=False)
    assert list(tmp_path.iterdir()) == []


def test_a_node_killed_while_values_are_waited_for(tmp_path: Path) -> None:
    """Every way of waiting for a value on disk ends with an error that names what died."""
    program = f"""
import asyncio, os, signal, threading, numpy as np, psutil, actorflow as af
from actorflow.client import runtime as runtimes
af.init(num_cpus=1, object_store_memory={STORE_BYTES})
refs = [af.put(np.ones({PIECE_BYTES}, dtype=np.uint8)) for _ in range({PIECES})]
node = psutil.Process(runtimes.current()._connection.node_pid)
node.suspend()
async def main():
    waiting = [asyncio.ensure_future(af.aio.get(refs[0])), asyncio.ensure_future(asyncio.to_thread(af.get, refs[1]))]
    waiting.append(asyncio.wrap_future(refs[2].future()))
    await asyncio.wait(waiting, timeout=0.05)
    assert not any(one.done() for one in waiting)
    node.kill()
    print(*[type(one).__name__ for one in await asyncio.gather(*waiting, return_exceptions=True)])
asyncio.run(main())
"""
    environment = {**os.environ, "ACTORFLOW_SPILL_DIRECTORIES": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "NodeDiedError NodeDiedError NodeDiedError\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_behind_a_url(start: Any, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with start(f"file://{tmp_path}"):
        refs = [af.put(piece(i)) for i in range(PIECES)]
        assert len(list(tmp_path.iterdir())) == 1
        assert all(np.array_equal(af.get(ref), piece(i)) for i, ref in enumerate(refs))
        del refs
    assert list(tmp_path.iterdir()) == []


def on_disk(refs: list[Any]) -> list[Any]:
    """Those of the refs whose values lie on disk and nowhere else."""
    found = []
    for ref in refs:
        try:
            ref.result_nowait()
        except TimeoutError:
            found.append(ref)
    return found


async def test_a_loop_goes_on_while_a_value_is_read_from_disk(start: Any) -> None:
    with start():
        refs = [af.put(piece(i)) for i in range(PIECES)]
        node = node_process()
        node.suspend()  # the read lasts until it goes on
        try:
            (ref, *_) = on_disk(refs[:4])
            waiting = asyncio.ensure_future(_value_of(ref))
            with pytest.raises(af.GetTimeoutError):
                await af.aio.get(ref, timeout=0.05)
            with pytest.raises(af.GetTimeoutError):
                af.get(ref, timeout=0.05)
            with pytest.raises(af.GetTimeoutError):
                af.get(ref, timeout=0)
            future = ref.future()
            gathered = asyncio.ensure_future(af.gather(ref, ref))
            cancelled = asyncio.ensure_future(_value_of(ref))
            await asyncio.sleep(0)
            cancelled.cancel()
            assert not waiting.done()
        finally:
            node.resume()
        number = refs.index(ref)
        assert np.array_equal(await waiting, piece(number))
        assert np.array_equal(await asyncio.wrap_future(future), piece(number))
        assert all(np.array_equal(value, piece(number)) for value in await gathered)
        del refs, ref, future, gathered, waiting, cancelled, _
        await asyncio.sleep(0)  # what woke this task refers to the future that did
        gc.collect()  # futures that were chained refer to each other


async def _value_of(ref: Any) -> Any:
    return await ref
