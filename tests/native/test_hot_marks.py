"""What the extension leaves in shared memory while it is busy, and what it makes of what others left there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from actorflow.shm.store import Role, Store
from tests.conftest import wait_until
from tests.system.bodies import process_id

MIB = 1 << 20
DEADLINE_S = 20.0
HOLDER_S = 4.0  # above the two seconds after which the core gives up one try to take the lock


def client_of(core: ModuleType) -> Any:
    """This process as the core's functions take it."""
    return core.ffi.cast("struct af_client *", _hot.client_address())


@pytest.fixture
def segment() -> Iterator[None]:
    _hot.create(b"n" * 16, 64, 64 * MIB, MIB, 16 * MIB, 0)
    yield
    _hot.detach()


@pytest.mark.usefixtures("segment")
@pytest.mark.parametrize(("value", "returns"), [(7, True), (np.zeros(MIB, dtype=np.uint8), False)])
def test_who_copies_a_large_result_is_not_about_to_take_the_next_call(
    core: ModuleType, value: Any, returns: bool
) -> None:
    """Marked as about to come back it would keep pushes from waking others."""
    mailbox = _hot.make_mailbox(_hot.SHARED, 1, 16)
    Store(_hot.client_address()).allow(mailbox.name, 1)
    reference = _hot.Target(mailbox).call_raw(b"work")
    _hot.join(mailbox)
    call = _hot.take_nowait(mailbox)
    assert call is not None
    call.complete(value)
    assert reference.is_done()
    own = 1  # slot + 1
    assert core.lib.model_spinner(client_of(core), mailbox.name[0]) == (own if returns else 0)


def test_a_put_goes_on_until_a_stopped_holder_of_the_lock_has_ended(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTORFLOW_STOPPED_HOLDER_S", str(HOLDER_S))
    with af.init(num_cpus=1, object_store_memory=64 * MIB):
        pid = af.get(process_id.remote())
        holder = next(slot for slot in Store(_hot.client_address()).slots(Role.WORKER) if slot.pid == pid)
        os.kill(pid, signal.SIGSTOP)
        core.lib.model_store_lock(client_of(core), holder.number, holder.epoch)
        ref = af.put(np.ones(MIB, dtype=np.uint8))
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), DEADLINE_S, "the node has ended it")
        assert int(af.get(ref).sum()) == MIB
