"""Kept tensors in forked children."""

from __future__ import annotations

import os
import threading

import pytest

from actorflow.collective import kept


def test_a_forked_child_waits_for_no_thread_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_order", {(1, 1): threading.Lock()})
    with kept._order[1, 1]:
        child = os.fork()
        if not child:
            os._exit(0 if not kept._order else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
