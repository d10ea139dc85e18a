"""Makes lost values again: does what `actorflow.core.lineage` decides, and tells who waits for what stays lost.

A value is lost when the file that it was spilled to cannot be read, or has other bytes than were written. While its
call runs again, whoever wants the value waits for it as for one that is being read.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from actorflow import _hot
from actorflow.client.waiting import LoopPort
from actorflow.core import lineage as decisions
from actorflow.core.lineage import Effect, Lineage, Why
from actorflow.errors import ActorflowError, ObjectLostError, ReconstructionFailedError
from actorflow.ids import hex_of
from actorflow.node.log import warn
from actorflow.shm.lineage import Can, Held, Input, LineageStore, Origin

_WHY_OF_ORIGIN = {
    Origin.PUT: Why.PUT,
    Origin.ITEM: Why.ITEM,
    Origin.NO_RETRIES: Why.NO_RETRIES,
    Origin.USED_UP: Why.USED_UP,
    Origin.ACTOR: Why.ACTOR,
    Origin.NOT_KEPT: Why.NOT_KEPT,
}
_WHY_NOT = {Can.EMPTIED: Why.BUDGET, Can.USED_UP: Why.USED_UP, Can.CLOSED: Why.CLOSED}


@dataclass(slots=True)
class _Value:
    """A lost value, held. `index`: which result of its call. `told`: done once who waits has been told."""

    held: Held
    what: str
    index: int
    told: asyncio.Future[None]


@dataclass(slots=True)
class _Call:
    """A lineage, held. `sources`: by number of the input that is gone, the call and which of its results."""

    held: Held
    inputs: int = 0
    sources: dict[int, tuple[int, int]] = field(default_factory=dict)
    results: list[_hot.Hold] = field(default_factory=list)


class Rebuilder:
    """The node's own. Invariant: `_calls` has exactly the calls of `_lineage`, between two awaits."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: LoopPort,
        store: LineageStore,
        budget_bytes: int,
        encode: Callable[[ActorflowError], bytes],
    ) -> None:
        self._loop = loop
        self._port = port
        self._store = store
        self._budget_bytes = budget_bytes
        self._encode = encode
        self._lineage = Lineage(budget_bytes)
        self._values: dict[int, _Value] = {}
        self._calls: dict[int, _Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bring_back: Callable[[int], Awaitable[None]] | None = None
        self._no_room: Callable[[int], None] | None = None
        self._is_stopped = False
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            decisions.Look: self._begin_look,
            decisions.Run: self._run,
            decisions.Deliver: self._deliver,
            decisions.Refuse: self._refuse,
            decisions.Forget: self._forget,
        }

    # -- life

    def start(self, bring_back: Callable[[int], Awaitable[None]], no_room: Callable[[int], None]) -> None:
        """`bring_back` reads a spilled value, or finds that it is lost; `no_room` tells who waits for one that."""
        self._bring_back = bring_back
        self._no_room = no_room
        self._store.open(self._budget_bytes)

    def stop(self) -> None:
        """Makes nothing more."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()

    def look(self) -> None:
        """Keeps what is kept of calls within its budget."""
        if self._store.used_bytes() <= self._budget_bytes:
            return
        names = {one.name[0]: one for one in self._store.kept()}
        kept = [decisions.Kept(call, one.age, one.size_bytes) for call, one in names.items()]
        self._store.empty([names[call].name for call in self._lineage.to_empty(kept)])

    # -- values

    def lost(self, spilled: int, what: str) -> asyncio.Future[None]:
        """A value is lost: `what` says how. The future is done once who waits for it has been told.

        The caller holds it, until this returns. MemoryError: no room to note that it is held.
        """
        told: asyncio.Future[None] = self._loop.create_future()
        value = _Value(self._store.hold(spilled), what, 0, told)
        origin, call, value.index = self._store.origin(spilled)
        self._values[spilled] = value
        if call is None:
            self._refuse(decisions.Refuse(spilled, _WHY_OF_ORIGIN[origin]))
            return told
        warn(f"an object is lost, and the call that made it runs again: {what}")
        self._store.rebuilding(spilled, True)
        self._adopt(call)
        self._do(self._lineage.lost(spilled, call.block))
        return told

    def _adopt(self, call: Held) -> None:
        if call.block in self._calls:
            self._store.drop(call)
        else:
            self._calls[call.block] = _Call(call)

    def _settled(self, spilled: int) -> None:
        value = self._values.pop(spilled)
        self._store.rebuilding(spilled, False)
        self._store.drop(value.held)
        if not value.told.done():
            value.told.set_result(None)

    # -- effects

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._perform[type(effect)](effect)

    def _begin_look(self, effect: decisions.Look) -> None:
        self._begin(self._look_at(effect.call))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            warn(f"making a lost object again: {task.exception()!r}")

    async def _look_at(self, call: int) -> None:
        """Finds out what became of the inputs; those that lie on disk are read now, or made again first."""
        can = self._store.can(call)
        if can is not Can.RUN:
            self._do(self._lineage.refused(call, _WHY_NOT[can]))
            return
        inputs = self._store.inputs(call)
        lost = await asyncio.gather(*(self._is_lost(one.disk) for one in inputs if one.disk is not None))
        if any(lost) or any(one.is_gone and one.call is None for one in inputs):
            for one in inputs:
                if one.call is not None:
                    self._store.drop(one.call)
            self._do(self._lineage.refused(call, Why.INPUT))
            return
        self._looked(call, inputs)

    async def _is_lost(self, disk: Held) -> bool:
        assert self._bring_back is not None
        try:
            await self._bring_back(disk.block)
            return self._store.is_lost(disk.block)
        finally:
            self._store.drop(disk)

    def _looked(self, call: int, inputs: list[Input]) -> None:
        known = self._calls[call]
        known.inputs = len(inputs)
        known.sources = {}
        for i, one in enumerate(inputs):
            if one.call is not None:
                known.sources[i] = one.call.block, one.which
                self._adopt(one.call)
        self._do(self._lineage.looked(call, [source for source, _ in known.sources.values()]))

    def _run(self, effect: decisions.Run) -> None:
        known = self._calls[effect.call]
        instead = [0] * known.inputs
        for i, (source, index) in known.sources.items():
            instead[i] = self._calls[source].results[index].name[0]
        try:
            made = self._store.run(effect.call, instead)
        except MemoryError:
            self._do(self._lineage.refused(effect.call, Why.NO_ROOM))
            return
        if made is None:
            self._do(self._lineage.went(effect.call))
            return
        known.results = [_hot.hold(self._store.name(held), "cell") for held in made]
        for held in made:
            self._store.drop(held)
        self._port.add_done_callback(known.results[0], functools.partial(self._ran, effect.call))  # type: ignore[arg-type]

    def _ran(self, call: int, _: object) -> None:
        if not self._is_stopped:
            self._store.ran(call, self._calls[call].results[0].name[0])
            self._do(self._lineage.ran(call))

    def _deliver(self, effect: decisions.Deliver) -> None:
        assert self._no_room is not None
        cell = self._calls[effect.call].results[self._values[effect.value].index]
        if not self._store.deliver(effect.value, cell.name[0]):
            self._no_room(effect.value)
        self._settled(effect.value)

    def _refuse(self, effect: decisions.Refuse) -> None:
        assert self._no_room is not None
        value = self._values[effect.value]
        kind = ReconstructionFailedError if effect.why.was_possible else ObjectLostError
        name = hex_of(self._store.spilled_name(effect.value))
        error = kind(object_id=name, reason=f"{value.what}, and {effect.why.value}")
        if not self._store.lose(effect.value, self._encode(error)):
            self._no_room(effect.value)
        self._settled(effect.value)

    def _forget(self, effect: decisions.Forget) -> None:
        self._store.drop(self._calls.pop(effect.call).held)
