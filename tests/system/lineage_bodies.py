"""A node whose spilled values can be lost, and tasks that note how often they ran."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from actorflow.shm.store import Role, Store
from tests.conftest import wait_until

STORE_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 4 * 1024 * 1024
PIECES = STORE_BYTES // PIECE_BYTES  # more than fit

Array = np.ndarray[Any, Any]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Starts a private node that spills to files in `tmp_path`; afterwards its books are checked."""

    @contextmanager
    def started(num_cpus: int = 2, place: str = "file://", **settings: str) -> Iterator[af.Runtime]:
        monkeypatch.setenv("ACTORFLOW_SPILL_DIRECTORIES", f"{place}{tmp_path}")
        for name, value in settings.items():
            monkeypatch.setenv(f"ACTORFLOW_{name}", value)
        with af.init(num_cpus=num_cpus, object_store_memory=STORE_BYTES) as runtime:
            yield runtime
            store = Store(_hot.client_address())
            wait_until(lambda: store.segment().object_bytes_used == 0, 20, "the store is empty")
            wait_until(lambda: store.audit().clean, 20, "the books agree")

    return started


def files(tmp_path: Path) -> list[Path]:
    return [entry for entry in tmp_path.rglob("*") if entry.is_file()]


def fill() -> None:
    """Puts so much that all that lay in the store before is on disk."""
    refs = [af.put(np.zeros(PIECE_BYTES, dtype=np.uint8)) for _ in range(2 * PIECES)]
    del refs


def delete(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    os.truncate(file, PIECE_BYTES // 2)


def flip(file: Path) -> None:
    with file.open("r+b") as spoiled:
        spoiled.seek(PIECE_BYTES // 2)
        byte = spoiled.read(1)[0]
        spoiled.seek(PIECE_BYTES // 2)
        spoiled.write(bytes([byte ^ 1]))


def lose_all(tmp_path: Path, how: Callable[[Path], None] = delete) -> int:
    """Has everything that is in the store spilled, and its files lost; returns how many."""
    fill()
    lost = 0
    for file in files(tmp_path):
        with suppress(FileNotFoundError):  # of what was put only to fill the store
            if file.stat().st_size >= PIECE_BYTES:  # else it is being written just now, and is such a one
                how(file)
                lost += 1
    return lost


class Runs:
    """Counts runs of tasks, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def note(self, name: str) -> int:
        """Another run; returns how many there were before."""
        before = self.of(name)
        (self.folder / f"{name}-{before}").touch(exist_ok=False)
        return before

    def of(self, name: str) -> int:
        return len(list(self.folder.glob(f"{name}-*")))


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs") / "of")


def piece(number: int) -> Array:
    return np.random.default_rng(number).integers(0, 255, PIECE_BYTES, dtype=np.uint8)


@af.remote
def make(runs: Runs, number: int) -> Array:
    runs.note("make")
    return piece(number)


@af.remote
def plus(runs: Runs, name: str, *arrays: Array) -> Array:
    runs.note(name)
    return np.asarray(sum(arrays[1:], start=arrays[0] + np.uint8(1)))


def running_workers() -> list[int]:
    return [slot.pid for slot in Store(_hot.client_address()).slots(Role.WORKER) if slot.running]


def outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (af.ActorflowError, RuntimeError) as error:
        return error


def read(ref: Any, number: int, found: list[bool]) -> None:
    found.append(np.array_equal(af.get(ref), piece(number)))
