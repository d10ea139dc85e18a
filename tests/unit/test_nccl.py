"""NcclCommunicator without a GPU: what it makes, in which order, and what it does when a member dies.

torch's streams, events and process groups are stood in for: what a GPU does with them is not tested here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from actorflow.collective.communicator import Setup
from actorflow.collective.errors import CollectiveError

torch: Any = pytest.importorskip("torch")
nccl: Any = pytest.importorskip("actorflow.collective.nccl")

MEMBERS = ((1, 1), (2, 1), (3, 1))


class FakeStream:
    """A stream, or an event of one: notes in `log` what waits for what."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def record_event(self) -> FakeStream:
        return self

    def wait_event(self, event: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {event.name}")


class FakeWork:
    def wait(self) -> None:
        pass


class FakeGroup:
    """A process group: notes what is called."""

    def __init__(self, log: list[str], store: Any, rank: int, size: int) -> None:
        self.log, self.name, self.rank, self.size = log, store, rank, size
        log.append(f"made {store} as {rank} of {size}")

    def send(self, tensors: list[Any], rank: int, tag: int) -> FakeWork:
        self.log.append(f"{self.name} sends to {rank}")
        return FakeWork()

    def recv(self, tensors: list[Any], rank: int, tag: int) -> FakeWork:
        self.log.append(f"{self.name} receives from {rank}")
        return FakeWork()

    def abort(self) -> None:
        self.log.append(f"{self.name} aborted")

    def shutdown(self) -> None:
        self.log.append(f"{self.name} shut down")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for all that needs a GPU; what they were asked for, in order."""
    noted: list[str] = []
    names: Iterator[str] = iter(["send stream", "receive stream"])
    current = FakeStream(noted, "current")

    class FakeCuda:
        Stream = staticmethod(lambda _: FakeStream(noted, next(names)))
        stream = staticmethod(lambda _: contextlib.nullcontext())
        current_stream = staticmethod(lambda _: current)
        current_device = staticmethod(lambda: 0)
        is_available = staticmethod(lambda: True)

    monkeypatch.setattr(nccl, "cuda", FakeCuda)
    monkeypatch.setattr(nccl.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(nccl.distributed, "PrefixStore", lambda prefix, _: prefix)
    monkeypatch.setattr(nccl.NcclCommunicator, "_make", lambda _, *place: FakeGroup(noted, *place))
    monkeypatch.setattr(nccl.NcclCommunicator, "_check_device", lambda *_: None)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(nccl._hot, "is_live", lambda *_: True)
    return noted


def made(rank: int = 1) -> Any:
    return nccl.NcclCommunicator(Setup("g", rank, 3, MEMBERS, object(), 30.0))


def test_each_direction_and_tag_has_a_group_of_its_own(log: list[str]) -> None:
    communicator = made()
    tensor = torch.ones(2)
    communicator.isend(tensor, 0)
    communicator.isend(tensor, 0)
    communicator.irecv(tensor, 0)
    communicator.isend(tensor, 2, 7)
    assert [line for line in log if line.startswith("made")] == [
        "made all as 1 of 3",
        "made 1-0-0 as 0 of 2",
        "made 0-1-0 as 1 of 2",
        "made 1-2-7 as 0 of 2",
    ]
    communicator.close()


def test_a_receive_is_on_its_own_stream_and_the_current_one_waits_for_it_at_its_end(log: list[str]) -> None:
    communicator = made()
    pending = communicator.irecv(torch.ones(2), 0)
    assert log[1:] == [
        "made 0-1-0 as 1 of 2",
        "receive stream waits for current",
        "0-1-0 receives from 0",
    ]
    pending.wait()
    assert log[4:] == ["current waits for receive stream"]
    communicator.close()


def test_a_death_aborts_all_groups(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    communicator = made()
    communicator.isend(torch.ones(2), 0)
    monkeypatch.setattr(nccl._hot, "is_live", lambda slot, _: slot != 3)
    communicator._watcher.join(10)
    assert sorted(log[-2:]) == ["1-0-0 aborted", "all aborted"]
    for call in (communicator.barrier, lambda: communicator.isend(torch.ones(2), 2)):
        with pytest.raises(CollectiveError, match="rank 2 died"):
            call()


def test_leaving_shuts_the_groups_down(log: list[str]) -> None:
    communicator = made()
    communicator.close()
    communicator.close()
    assert log[-1] == "all shut down"
    communicator._watcher.join(10)
    assert not communicator._watcher.is_alive()


def test_without_a_gpu_it_says_what_to_use() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CollectiveError, match="sees no GPU; use gloo"):
        made()
