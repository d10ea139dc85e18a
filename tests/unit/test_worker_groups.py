"""Concurrency groups: who runs, who waits, and that no group holds another back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actorflow.worker.groups import Groups


def test_a_full_group_holds_no_other_back() -> None:
    groups: Groups[str] = Groups((1, 2))
    assert groups.limit == 3
    assert [groups.admit(0, "a"), groups.admit(0, "b"), groups.admit(0, "c")] == [True, False, False]
    assert [groups.admit(1, "d"), groups.admit(1, "e"), groups.admit(1, "f")] == [True, True, False]
    assert [groups.ended(0), groups.ended(0), groups.ended(0)] == ["b", "c", None]
    assert groups.admit(0, "g")
    assert groups.drain() == ["f"]
    assert not groups.is_idle
    assert [groups.ended(1), groups.ended(1), groups.ended(0)] == [None, None, None]
    assert groups.is_idle


@given(
    limits=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 3))),
)
def test_limits_hold_and_order_is_kept(limits: list[int], steps: list[tuple[bool, int]]) -> None:
    groups: Groups[int] = Groups(limits)
    running: list[list[int]] = [[] for _ in limits]
    started: list[list[int]] = [[] for _ in limits]
    sent: list[list[int]] = [[] for _ in limits]
    for number, (sends, index) in enumerate(steps):
        group = index % len(limits)
        begun: int | None = None
        if sends:
            sent[group].append(number)
            begun = number if groups.admit(group, number) else None
        elif running[group]:
            running[group].pop()
            begun = groups.ended(group)
        if begun is not None:
            running[group].append(begun)
            started[group].append(begun)
        for limit, runs, begins, sends_of in zip(limits, running, started, sent, strict=True):
            assert begins == sends_of[: len(begins)]
            assert len(runs) == min(limit, len(runs) + len(sends_of) - len(begins))
