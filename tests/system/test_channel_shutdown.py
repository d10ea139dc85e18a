"""Channels, and steps of graphs, when their runtime ends: an orderly shutdown, and the death of the node."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from tests.conftest import wait_until
from tests.system.channel_bodies import DEADLINE_S, Giver, in_thread, wait_asleep
from tests.system.graph_wiring import chain


def test_shutdown_ends_waits_and_leaves_views() -> None:
    with af.init(num_cpus=1):
        channel = _hot.channel_create(2, 1000, 2)
        writer, reader, waiting = _hot.Writer(channel), _hot.Reader(channel, 0), _hot.Reader(channel, 1)
        writer.write(np.arange(50_000))
        view: Any = reader.read()
        assert waiting.read().sum() == view.sum()
        thread, raised = in_thread(waiting.read)
        wait_asleep(waiting)
    thread.join(DEADLINE_S)
    assert isinstance(raised[0], RuntimeError)
    assert "shut down" in str(raised[0])
    assert (view == np.arange(50_000)).all()
    for use in (lambda: writer.write(1), reader.read, writer.ready):
        with pytest.raises(RuntimeError, match="shut down"):
            use()
    assert writer.state == _hot.CHANNEL_CLOSED
    writer.close()
    with af.init(num_cpus=1):
        with pytest.raises(RuntimeError, match="shut down"):
            writer.write("to another node")
        writer = reader = waiting = view = None  # type: ignore[assignment]
        fresh = _hot.channel_create(1, 1000, 1)
        other, end = _hot.Writer(fresh), _hot.Reader(fresh, 0)
        other.write("of this node")
        assert end.read() == "of this node"
        other.close()
        end.close()


def test_a_step_that_runs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACTORFLOW_SHUTDOWN_GRACE_S", "60")

    @af.remote
    class Stuck:
        def step(self, path: Path) -> None:
            path.touch()
            threading.Event().wait()

    with af.init(num_cpus=1):
        graph = chain(Stuck.remote().step)
        ref = graph.execute(tmp_path / "begun")
        wait_until((tmp_path / "begun").exists, DEADLINE_S, "the step runs")
        begin = monotonic()
    assert monotonic() - begin < DEADLINE_S
    with pytest.raises(af.exceptions.ChannelError, match="shut down"):
        af.get(ref)


def test_the_death_of_the_node_ends_every_wait() -> None:
    with af.init(num_cpus=1) as session:
        reader = _hot.Reader(_hot.channel_create(1, 1000, 1), 0)
        thread, raised = in_thread(reader.read)
        wait_asleep(reader)
        connection = session._connection
        assert connection is not None
        os.kill(connection.node_pid, signal.SIGKILL)
        thread.join(DEADLINE_S)
        assert isinstance(raised[0], _hot.NodeGoneError)
        with pytest.raises(_hot.NodeGoneError):
            _hot.take_or_ready(_hot.make_mailbox(_hot.ORDERED, 0, 1), DEADLINE_S, [reader])
        reader.close()


def test_an_actor_that_ends_in_order_ends_its_channels() -> None:
    with af.init(num_cpus=1):
        channel = _hot.channel_create(2, 1000, 1)
        reader = _hot.Reader(channel, 0)
        giver = Giver.remote(channel)
        af.get(giver.give.remote("last words"))
        del giver  # nobody calls it any more
        assert reader.read(timeout=DEADLINE_S) == "last words"
        with pytest.raises(_hot.ChannelClosed):
            reader.read(timeout=DEADLINE_S)
        assert reader.state != _hot.CHANNEL_OPEN
        reader.close()
