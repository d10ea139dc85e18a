"""Which calls run again for lost values, in which order, and what is kept within the budget."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actorflow.core.lineage import (
    KEEP_FRACTION,
    Deliver,
    Effect,
    Forget,
    Kept,
    Lineage,
    Look,
    Refuse,
    Run,
    State,
    Why,
)


@pytest.fixture
def lineage() -> Lineage:
    return Lineage(1000)


def test_a_call_with_all_its_inputs_runs_once_for_all_who_want_it(lineage: Lineage) -> None:
    assert lineage.lost(10, call=1) == [Look(1)]
    assert lineage.lost(11, call=1) == []
    assert lineage.looked(1, gone=[]) == [Run(1)]
    assert lineage.lost(12, call=1) == []
    assert lineage.ran(1) == [Deliver(10, 1), Deliver(11, 1), Deliver(12, 1), Forget(1)]
    assert 1 not in lineage


def test_inputs_that_are_gone_are_made_first(lineage: Lineage) -> None:
    assert lineage.lost(30, call=3) == [Look(3)]
    assert lineage.looked(3, gone=[2, 1, 2]) == [Look(2), Look(1)]
    assert lineage.looked(2, gone=[1]) == []
    assert (lineage.state(3), lineage.state(2), lineage.state(1)) == (
        State.WAITING,
        State.WAITING,
        State.LOOKING,
    )
    assert lineage.looked(1, gone=[]) == [Run(1)]
    assert lineage.ran(1) == [Run(2)]
    assert lineage.state(1) is State.HAD  # 3 needs it, too
    assert lineage.ran(2) == [Run(3), Forget(2), Forget(1)]
    assert lineage.ran(3) == [Deliver(30, 3), Forget(3)]


def test_what_is_there_already_is_not_made_twice(lineage: Lineage) -> None:
    lineage.lost(30, call=3)
    lineage.looked(3, gone=[1, 2])
    lineage.looked(1, gone=[])
    assert lineage.ran(1) == []
    lineage.lost(40, call=4)
    assert lineage.looked(4, gone=[1]) == [Run(4)]


def test_a_result_that_is_lost_before_it_was_used_is_made_once_more(lineage: Lineage) -> None:
    lineage.lost(30, call=3)
    lineage.looked(3, gone=[1, 2])
    lineage.looked(1, gone=[])
    lineage.ran(1)
    assert lineage.lost(10, call=1) == [Look(1)]
    lineage.validate()
    assert lineage.looked(1, gone=[]) == [Run(1)]
    assert lineage.ran(1) == [Deliver(10, 1)]


def test_an_input_that_went_meanwhile_is_looked_for_again(lineage: Lineage) -> None:
    lineage.lost(20, call=2)
    lineage.looked(2, gone=[])
    assert lineage.went(2) == [Look(2)]
    assert lineage.looked(2, gone=[1]) == [Look(1)]


def test_what_needs_a_call_that_cannot_run_is_refused_with_it(lineage: Lineage) -> None:
    lineage.lost(30, call=3)
    lineage.lost(20, call=2)
    lineage.looked(3, gone=[2])
    lineage.looked(2, gone=[1])
    assert lineage.refused(1, Why.BUDGET) == [
        Refuse(20, Why.INPUT),
        Refuse(30, Why.INPUT),
        Forget(3),
        Forget(2),
        Forget(1),
    ]
    assert not any(call in lineage for call in (1, 2, 3))


def test_an_input_whose_user_was_refused_runs_on_and_is_forgotten(lineage: Lineage) -> None:
    lineage.lost(30, call=3)
    lineage.looked(3, gone=[1, 2])
    lineage.looked(1, gone=[])
    assert lineage.refused(2, Why.USED_UP) == [Refuse(30, Why.INPUT), Forget(3), Forget(2)]
    assert lineage.ran(1) == [Forget(1)]


def test_only_what_could_have_been_made_again_is_a_failure() -> None:
    assert not Why.PUT.was_possible
    assert not Why.NO_RETRIES.was_possible
    assert not Why.ACTOR.was_possible
    assert Why.USED_UP.was_possible
    assert Why.BUDGET.was_possible


def test_within_the_budget_all_is_kept(lineage: Lineage) -> None:
    assert lineage.to_empty([Kept(1, 1, 500), Kept(2, 2, 500)]) == []


def test_beyond_it_the_oldest_go_but_for_those_that_run_now(lineage: Lineage) -> None:
    lineage.lost(10, call=1)
    kept = [Kept(3, 30, 400), Kept(1, 10, 400), Kept(2, 20, 400)]
    assert lineage.to_empty(kept) == [2, 3]
    lineage.refused(1, Why.CLOSED)
    assert lineage.to_empty(kept) == [1, 2]


@given(st.lists(st.integers(1, 400), max_size=20))
def test_what_stays_fits_into_the_budget(sizes: list[int]) -> None:
    kept = [Kept(i, 100 - i, size) for i, size in enumerate(sizes)]
    emptied = Lineage(1000).to_empty(kept)
    rest = sum(sizes) - sum(sizes[i] for i in emptied)
    assert rest <= 1000 * KEEP_FRACTION if emptied else sum(sizes) <= 1000
    assert emptied == list(range(len(sizes)))[::-1][: len(emptied)]


CALLS = 6


class Rebuilding(RuleBasedStateMachine):
    """A node that answers late and in any order. Call n takes results of some calls below n."""

    def __init__(self) -> None:
        super().__init__()
        self.lineage = Lineage(1000)
        self.values = 0
        self.waiting: set[int] = set()  # lost values of which nothing was heard yet
        self.looks: list[int] = []
        self.runs: list[int] = []
        self.needs: dict[int, set[int]] = {}  # of a call: inputs that were gone at its last look
        self.results: set[int] = set()  # calls whose results the node has

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Look(call):
                    assert call not in self.looks
                    self.looks.append(call)
                case Run(call):
                    assert call not in self.runs
                    assert self.needs[call] <= self.results, "its inputs are there"
                    self.runs.append(call)
                case Deliver(value, call):
                    assert call in self.results
                    self.waiting.remove(value)
                case Refuse(value, _):
                    self.waiting.remove(value)
                case Forget(call):
                    assert call not in self.looks
                    assert call not in self.runs
                    self.results.discard(call)

    @rule(call=st.integers(0, CALLS - 1))
    def lose(self, call: int) -> None:
        self.values += 1
        self.waiting.add(self.values)
        self.do(self.lineage.lost(self.values, call))

    @precondition(lambda self: self.looks)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        call = self.looks.pop(data.draw(st.integers(0, len(self.looks) - 1)))
        gone = data.draw(st.lists(st.integers(0, call - 1), max_size=3)) if call else []
        self.needs[call] = set(gone)
        self.do(self.lineage.looked(call, gone))

    @precondition(lambda self: self.looks)
    @rule(data=st.data(), why=st.sampled_from(Why))
    def refuse(self, data: st.DataObject, why: Why) -> None:
        call = self.looks.pop(data.draw(st.integers(0, len(self.looks) - 1)))
        self.do(self.lineage.refused(call, why))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        call = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        self.results.add(call)
        self.do(self.lineage.ran(call))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), is_full=st.booleans())
    def not_run(self, data: st.DataObject, is_full: bool) -> None:
        call = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        self.do(self.lineage.refused(call, Why.NO_ROOM) if is_full else self.lineage.went(call))

    @invariant()
    def is_valid(self) -> None:
        self.lineage.validate()

    def teardown(self) -> None:
        while self.looks or self.runs:
            while self.looks:
                call = self.looks.pop()
                self.needs[call] = set()
                self.do(self.lineage.looked(call, []))
            while self.runs:
                self.results.add(self.runs[-1])
                self.do(self.lineage.ran(self.runs.pop()))
        assert not self.waiting, "everybody was told"
        assert not any(call in self.lineage for call in range(CALLS))
        assert not self.results, "nothing is kept for nobody"


TestRebuilding = Rebuilding.TestCase
