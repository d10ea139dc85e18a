"""Which calls run again to make lost values once more, in which order, and what is kept for that within a budget.

Calls are named by numbers of the node's choice, so are values. A call is here only while something of it is lost:

    LOOKING   the node is asked what has become of its inputs
    WAITING   inputs that are gone are made first, by calls of their own that are here too
    RUNNING   it runs
    HAD       it has run; calls that need a result of it have not begun yet

Events are the methods, effects what they return, to be done in that order. Inputs form no circle: each was there when
its call was made.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from actorflow.records import frozen

CallId = int
ValueId = int

KEEP_FRACTION = 0.75  # of the budget, once it is exceeded: so that the next look is not due at once


class State(enum.Enum):
    """Of a call that runs again."""

    LOOKING = enum.auto()
    WAITING = enum.auto()
    RUNNING = enum.auto()
    HAD = enum.auto()


class Why(enum.Enum):
    """Why a value cannot be made again, as people are told it."""

    PUT = "it was put, and made by no call that could run again; keep what it was made from, or let a task make it"
    ITEM = "it is an item of a generator, which is not run again for one of them"
    NO_RETRIES = "the task that made it has max_retries=0"
    ACTOR = "a method of an actor without max_task_retries made it"
    USED_UP = "the retries of the call that made it are used up"
    NOT_KEPT = "what it was made from was not kept: arguments over 100 KiB by value, or no memory for it"
    BUDGET = (
        "what it was made from is no longer kept: lineage is over its budget (ACTORFLOW_LINEAGE_BUDGET_BYTES)"
    )
    INPUT = "something that it was made from is gone, and cannot be made again"
    CLOSED = "the job or the actor that its call belonged to has ended"
    NO_ROOM = "there is no room to run its call again"

    @property
    def was_possible(self) -> bool:
        """Whether it is of a kind that is made again, where all is well."""
        return self not in (Why.PUT, Why.ITEM, Why.NO_RETRIES, Why.ACTOR)


@frozen
class Look:
    """Find out what has become of the call's inputs: then `looked` or `refused`."""

    call: CallId


@frozen
class Run:
    """Run the call, its gone inputs replaced by results of those that are HAD: then `ran` or `refused`."""

    call: CallId


@frozen
class Deliver:
    """The call has run: the value is its result, or its error."""

    value: ValueId
    call: CallId


@frozen
class Refuse:
    """The value stays lost."""

    value: ValueId
    why: Why


@frozen
class Forget:
    """Nobody needs the results of the call any more."""

    call: CallId


Effect = Look | Run | Deliver | Refuse | Forget


class Kept(NamedTuple):
    """What is kept of one call: `age` goes up with each."""

    call: CallId
    age: int
    size_bytes: int


@dataclass(slots=True)
class _Call:
    """`wanted`: lost values of it. `waits_for`: calls to run before. `needed_by`: those that wait for it."""

    state: State = State.LOOKING
    wanted: list[ValueId] = field(default_factory=list)
    waits_for: set[CallId] = field(default_factory=set)
    needed_by: set[CallId] = field(default_factory=set)


class Lineage:
    """Invariants: see validate."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._calls: dict[CallId, _Call] = {}

    def __contains__(self, call: CallId) -> bool:
        return call in self._calls

    def state(self, call: CallId) -> State:
        """Of a call that is here."""
        return self._calls[call].state

    # -- the budget

    def to_empty(self, kept: Sequence[Kept]) -> list[CallId]:
        """Of all that is kept, what to keep no longer: the oldest, but for calls that run again now."""
        excess_bytes = sum(one.size_bytes for one in kept) - self._budget_bytes
        if excess_bytes <= 0:
            return []
        excess_bytes += int(self._budget_bytes * (1 - KEEP_FRACTION))
        emptied = []
        for one in sorted(kept, key=lambda one: one.age):
            if excess_bytes <= 0:
                break
            if one.call not in self._calls:
                excess_bytes -= one.size_bytes
                emptied.append(one.call)
        return emptied

    # -- events

    def lost(self, value: ValueId, call: CallId) -> list[Effect]:
        """A value of that call is lost, and wanted."""
        known = self._calls.get(call)
        if known is None:
            known = self._calls[call] = _Call()
        elif known.state is not State.HAD:
            known.wanted.append(value)
            return []
        known.state = State.LOOKING
        known.wanted.append(value)
        return [Look(call)]

    def looked(self, call: CallId, gone: Iterable[CallId]) -> list[Effect]:
        """These calls made inputs that are gone; all other inputs are there."""
        looking = self._calls[call]
        effects: list[Effect] = []
        for source in dict.fromkeys(gone):
            known = self._calls.get(source)
            if known is None:
                known = self._calls[source] = _Call()
                effects.append(Look(source))
            known.needed_by.add(call)
            if known.state is not State.HAD:
                looking.waits_for.add(source)
        looking.state = State.WAITING
        return effects + self._run_ready([call])

    def went(self, call: CallId) -> list[Effect]:
        """An input has gone between `looked` and running."""
        self._calls[call].state = State.LOOKING
        return [Look(call)]

    def ran(self, call: CallId) -> list[Effect]:
        """Its results are there, which may be errors."""
        known = self._calls[call]
        known.state = State.HAD
        effects: list[Effect] = [Deliver(value, call) for value in known.wanted]
        known.wanted.clear()
        for user in known.needed_by:
            self._calls[user].waits_for.discard(call)
        return effects + self._run_ready(sorted(known.needed_by)) + self._leave([call])

    def refused(self, call: CallId, why: Why) -> list[Effect]:
        """It cannot be run; nor can what needs it."""
        effects: list[Effect] = []
        known = self._calls.pop(call)
        effects += [Refuse(value, why) for value in known.wanted]
        for user in sorted(known.needed_by):
            if user in self._calls:
                effects += self.refused(user, Why.INPUT)
        return [*effects, Forget(call), *self._let_go(call)]

    # -- what follows

    def _run_ready(self, calls: Iterable[CallId]) -> list[Effect]:
        effects: list[Effect] = []
        for call in calls:
            waiting = self._calls[call]
            if waiting.state is State.WAITING and not waiting.waits_for:
                waiting.state = State.RUNNING
                effects += [Run(call), *self._let_go(call)]
        return effects

    def _let_go(self, user: CallId) -> list[Effect]:
        """It needs nothing of other calls any more."""
        left = []
        for call, known in self._calls.items():
            if user in known.needed_by:
                known.needed_by.discard(user)
                left.append(call)
        return self._leave(left)

    def _leave(self, calls: Iterable[CallId]) -> list[Effect]:
        """Those that nobody needs go. One that has not run yet goes on: somebody may want it until then."""
        effects: list[Effect] = []
        for call in calls:
            known = self._calls.get(call)
            if known is not None and known.state is State.HAD and not known.needed_by:
                del self._calls[call]
                effects.append(Forget(call))
        return effects

    def validate(self) -> None:
        """Checks that who waits has something to wait for that knows of it, and that all that is here is needed."""
        for call, known in self._calls.items():
            assert bool(known.waits_for) == (known.state is State.WAITING), (call, known)
            for source in known.waits_for:
                assert call in self._calls[source].needed_by, (call, source)
                assert self._calls[source].state is not State.HAD, (call, source)
            for user in known.needed_by:
                assert self._calls[user].state is State.WAITING, (call, user)
            if known.state is State.HAD:
                assert known.needed_by, call
                assert not known.wanted, call
