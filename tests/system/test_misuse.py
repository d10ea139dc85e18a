"""Public functions called with what they cannot take: refused at the call, by the name of what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import actorflow as af
import actorflow.util.executor
import actorflow.util.multiprocessing
import actorflow.util.queue
from actorflow.util import scheduling_strategies as strategies
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")

Misuse = tuple[Callable[..., Any], type[Exception], str]
NAN = float("nan")


class Given:
    """What a misuse may be done with. Wrong types are the point: everything is Any."""

    def __init__(self) -> None:
        self.af: Any = af
        self.util: Any = af.util
        self.where: Any = strategies
        self.ref: Any = af.put(1)
        self.echo: Any = bodies.echo
        self.counts: Any = bodies.Counter
        self.actor: Any = bodies.Counter.remote()
        self.pool: Any = af.util.ActorPool([self.actor])
        self.queue: Any = af.util.queue.Queue


def awaited(awaitable: Any) -> Any:
    """What an awaitable gives, in a loop of its own."""

    async def main() -> Any:
        return await awaitable

    return asyncio.run(main())


GETS: list[Misuse] = [
    (lambda it: it.af.get(5), ValueError, "an ObjectRef or a list of them, not int 5"),
    (lambda it: it.af.get((it.ref,)), ValueError, "a list of them, not tuple"),
    (lambda it: it.af.get([it.ref, 5]), ValueError, "item 1 of the list is int 5"),
    (lambda it: it.af.get(it.ref, timeout="1"), TypeError, "timeout must be None or a number of seconds"),
    (lambda it: it.af.get(it.ref, timeout=True), TypeError, "timeout must be None or a number of seconds"),
    (
        lambda it: it.af.get(it.ref, timeout=-1),
        ValueError,
        "timeout=-1 must be a number that is not negative",
    ),
    (lambda it: it.af.get(it.ref, timeout=NAN), ValueError, "timeout=nan"),
    (lambda it: it.ref.result("1"), TypeError, "timeout must be None or a number of seconds, not '1'"),
    (lambda it: it.ref.exception(-1), ValueError, "timeout must be .* at least 0"),
    (lambda it: it.ref.add_done_callback(5), TypeError, "callback must be a function"),
    (lambda it: it.af.put(it.ref), TypeError, "a ref already"),
    (lambda it: awaited(it.af.aio.get(5)), ValueError, "an ObjectRef or a list of them"),
    (lambda it: awaited(it.af.aio.get(it.ref, timeout="1")), TypeError, "timeout must be"),
    (lambda it: awaited(it.af.gather(5)), ValueError, "item 0 of the list is int 5"),
    (lambda it: awaited(anext(it.af.as_completed([it.ref], timeout="1"))), TypeError, "timeout must be"),
]
WAITS: list[Misuse] = [
    (lambda it: it.af.wait(it.ref), TypeError, "takes a list of ObjectRefs"),
    (lambda it: it.af.wait([5]), TypeError, "item 0 of the list is int 5"),
    (lambda it: it.af.wait([it.ref, it.ref]), ValueError, "in the list twice"),
    (lambda it: it.af.wait([it.ref], num_returns=0), ValueError, "num_returns=0 must be from 1 to .*, 1"),
    (lambda it: it.af.wait([it.ref], num_returns=2), ValueError, "num_returns=2 must be from 1 to .*, 1"),
    (lambda it: it.af.wait([it.ref], num_returns="1"), TypeError, "num_returns must be a whole number"),
    (lambda it: it.af.wait([], num_returns=1.0), TypeError, "num_returns must be a whole number"),
    (lambda it: it.af.wait([it.ref], timeout="1"), TypeError, "timeout must be"),
    (lambda it: it.af.wait([it.ref], timeout=-0.1), ValueError, "timeout=-0.1"),
    (lambda it: it.af.wait([it.ref], fetch_local="no"), TypeError, "fetch_local must be True or False"),
    (lambda it: awaited(it.af.aio.wait(it.ref)), TypeError, "takes a list of ObjectRefs"),
    (lambda it: awaited(it.af.aio.wait([it.ref], fetch_local=1)), TypeError, "fetch_local must be True or"),
    (lambda it: it.util.as_completed([it.ref], chunk_size=0), ValueError, "chunk_size=0 must be at least 1"),
    (lambda it: it.util.as_completed([it.ref], chunk_size="1"), TypeError, "chunk_size must be a whole"),
    (lambda it: it.util.map_unordered(5, [1]), TypeError, "a remote function or a method"),
    (lambda it: it.util.map_unordered(it.echo, [1], chunk_size=NAN), TypeError, "chunk_size must be"),
    (lambda it: it.util.map_unordered(it.echo, [1], backpressure_size=2), ValueError, "backpressure_size=2"),
]
ENDS: list[Misuse] = [
    (lambda it: it.af.cancel(it.actor), TypeError, "takes an ObjectRef, not ActorHandle"),
    (lambda it: it.af.cancel(it.ref, force="no"), TypeError, "force must be True or False"),
    (lambda it: it.af.cancel(it.ref, recursive=None), TypeError, "recursive must be True or False"),
    (lambda it: it.af.kill(it.ref), TypeError, "takes an actor's handle, not ObjectRef"),
    (lambda it: it.af.kill(it.counts), TypeError, "takes an actor's handle, not ActorClass"),
    (lambda it: it.af.kill(it.actor, no_restart="no"), TypeError, "no_restart must be True or False"),
    (lambda it: it.af.get_actor(5), TypeError, "name of an actor is a text"),
    (lambda it: it.af.get_actor("nobody at all"), ValueError, "no actor named 'nobody at all'"),
    (lambda it: it.util.list_named_actors(all_namespaces=1), TypeError, "all_namespaces must be True or"),
    (lambda it: it.af.exit_actor(), RuntimeError, "is for methods of actors"),
    (lambda it: it.af.init(ignore_reinit_error=1), TypeError, "ignore_reinit_error must be True or False"),
]
DECORATED: list[Misuse] = [
    (
        lambda it: it.af.remote(speed=1),
        TypeError,
        "no option of tasks or actors 'speed'; Allowed are num_cpus",
    ),
    (lambda it: it.af.remote(max_retry=1), TypeError, "'max_retry'; did you mean 'max_retries'"),
    (lambda it: it.af.remote(max_restart=1), TypeError, "'max_restart'; did you mean 'max_restarts'"),
    (lambda it: it.af.remote(num_cpus="1"), TypeError, "option num_cpus must be a number"),
    (lambda it: it.af.remote(num_gpus=1.5), ValueError, "option num_gpus must be whole above 1"),
    (lambda it: it.af.remote(max_retries=1, max_restarts=1), TypeError, "no actor option 'max_retries'"),
    (lambda it: it.af.remote(get_if_exists=True), ValueError, "get_if_exists needs the option name"),
    (lambda it: it.echo.options(max_restarts=1), TypeError, "no task option 'max_restarts'"),
    (lambda it: it.counts.options(max_retries=1), TypeError, "no actor option 'max_retries'"),
    (
        lambda it: it.echo.options(generator_backpressure_num_objects=3),
        ValueError,
        "generator_backpressure_num_objects is for num_returns='streaming', not 1",
    ),
    (lambda it: it.actor.add.options(num_cpus=1), TypeError, "no method option 'num_cpus'"),
    (lambda it: it.actor.add.options(concurrency_group="io"), ValueError, "no group 'io': it has none"),
    (lambda it: it.actor.ad, AttributeError, "did you mean 'add'"),
    (lambda it: setattr(it.actor, "total", 1), AttributeError, "'total' cannot be set on a handle"),
    (
        lambda it: it.echo.options(runtime_env={"speed": 1}),
        ValueError,
        "no runtime_env key 'speed'; Allowed are",
    ),
    (lambda it: it.echo.options(runtime_env={"pip": []}), NotImplementedError, "'pip' is not there yet"),
    (lambda it: it.echo.options(runtime_env={"env_vars": {"A": 1}}), TypeError, r"\['A'\] must be a text"),
    (lambda it: it.echo.options(runtime_env={"working_dir": 5}), TypeError, "'working_dir' must be the path"),
]
PLACES: list[Misuse] = [
    (lambda it: it.util.placement_group(5), TypeError, "bundles must be a list of dicts"),
    (lambda it: it.util.placement_group([]), ValueError, "bundles must not be empty"),
    (lambda it: it.util.placement_group([5]), TypeError, "bundle 0 must be a dict"),
    (lambda it: it.util.placement_group([{"CPU": "1"}]), TypeError, "bundle 0: CPU must be a number"),
    (lambda it: it.util.placement_group([{"CPU": -1}]), ValueError, "bundle 0: CPU must be a number from 0"),
    (lambda it: it.util.placement_group([{"CPU": NAN}]), ValueError, "bundle 0: CPU must be a number from 0"),
    (lambda it: it.util.placement_group([{"CPU": 1e300}]), ValueError, "CPU must be .* at most"),
    (lambda it: it.util.placement_group([{"CPU": 0.00015}]), ValueError, "in steps of 0.0001"),
    (lambda it: it.util.placement_group([{"CPU": 1}, {"CPU": 0}]), ValueError, "bundle 1 is empty"),
    (lambda it: it.util.placement_group([{"GPU": 1.5}]), ValueError, "over 1 only whole devices"),
    (lambda it: it.util.placement_group([{"CPU": 1}], strategy=5), TypeError, "strategy must be a text"),
    (lambda it: it.util.placement_group([{"CPU": 1}], strategy="X"), ValueError, "strategy must be one of P"),
    (lambda it: it.util.placement_group([{"CPU": 1}], name=5), TypeError, "name must be a text"),
    (lambda it: it.util.placement_group([{"CPU": 1}], lifetime=5), TypeError, "lifetime must be a text"),
    (lambda it: it.util.placement_group([{"CPU": 1}], lifetime="x"), ValueError, "None or 'detached'"),
    (lambda it: it.util.remove_placement_group(5), TypeError, "takes a PlacementGroup, not 5"),
    (lambda it: it.util.placement_group_table(5), TypeError, "takes a PlacementGroup or None, not 5"),
    (lambda it: it.util.get_placement_group("none"), ValueError, "no placement group named 'none'"),
    (lambda it: it.where.PlacementGroupSchedulingStrategy(5), TypeError, "must be a PlacementGroup or None"),
    (lambda it: it.where.PlacementGroupSchedulingStrategy(None, 1), ValueError, "bundle_index must be from"),
    (lambda it: it.where.PlacementGroupSchedulingStrategy(None, "0"), TypeError, "bundle_index must be a"),
    (
        lambda it: it.where.PlacementGroupSchedulingStrategy(None, -1, "yes"),
        TypeError,
        "placement_group_capture_child_tasks must be True or False",
    ),
    (lambda it: it.where.NodeAffinitySchedulingStrategy(5), TypeError, "node_id must be of type str"),
    (lambda it: it.where.NodeAffinitySchedulingStrategy("a", 1), TypeError, "soft must be of type bool"),
    (lambda it: it.where.NodeLabelSchedulingStrategy([1]), TypeError, "hard must be a dict of matches"),
    (lambda it: it.where.NodeLabelSchedulingStrategy(soft=5), TypeError, "soft must be a dict of matches"),
    (lambda it: it.where.NodeLabelSchedulingStrategy({"a": "b"}), TypeError, "labels are matched by In, "),
    (lambda it: it.where.In(1), TypeError, "In takes texts, not 1"),
    (lambda it: it.where.NotIn(), ValueError, "NotIn takes at least one text"),
]
HELPERS: list[Misuse] = [
    (lambda it: it.util.ActorPool([5]), TypeError, "must be actor handles, and 5 is none"),
    (lambda it: it.pool.push(5), TypeError, "must be actor handles, and 5 is none"),
    (lambda it: it.pool.push(it.actor), ValueError, "in the pool already"),
    (lambda it: it.pool.submit(5, 1), TypeError, "takes a function of an actor and a value"),
    (lambda it: it.queue("x"), TypeError, "maxsize must be a whole number"),
    (lambda it: it.queue(1, 5), TypeError, "actor_options must be a dict"),
    (lambda it: it.queue(1, {"speed": 1}), TypeError, "no actor option 'speed'"),
    (lambda it: it.queue().get(timeout=-1), ValueError, "timeout=-1"),
    (lambda it: it.queue().put_nowait_batch(5), TypeError, "items must be iterable"),
    (lambda it: it.queue().get_nowait_batch("1"), TypeError, "num_items must be a whole number"),
    (lambda it: it.util.multiprocessing.Pool("x"), TypeError, "processes must be a whole number"),
    (lambda it: it.util.multiprocessing.Pool(0), ValueError, "processes=0 must be at least 1"),
    (lambda it: it.util.multiprocessing.Pool(1, initializer=5), TypeError, "initializer must be callable"),
    (lambda it: it.util.multiprocessing.Pool(1, maxtasksperchild=0), ValueError, "maxtasksperchild=0"),
    (lambda it: it.util.ActorflowExecutor("x"), TypeError, "max_workers must be a whole number"),
    (lambda it: it.util.ActorflowExecutor(0), ValueError, "max_workers=0 must be at least 1"),
    (
        lambda it: it.util.register_serializer(5, serializer=len, deserializer=len),
        TypeError,
        "takes a class",
    ),
    (
        lambda it: it.util.register_serializer(Given, serializer=1, deserializer=len),
        TypeError,
        "serializer must be a function",
    ),
]


@pytest.mark.parametrize(
    ("misuse", "kind", "text"),
    [*GETS, *WAITS, *ENDS, *DECORATED, *PLACES, *HELPERS],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_misuse_is_refused_at_the_call(misuse: Callable[..., Any], kind: type[Exception], text: str) -> None:
    it = Given()
    with pytest.raises(kind, match=text):
        misuse(it)
    assert af.get(it.actor.add.remote()) == 1
