"""handle.__ray_call__: any function, run in an actor as if it were a method of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import actorflow as af

pytestmark = pytest.mark.usefixtures("runtime")


@af.remote
class Plain:
    def __init__(self) -> None:
        self.value = 3

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value


@af.remote
class Awaiting(Plain):
    async def later(self) -> int:
        return int(self.value)


def scaled(instance: Any, factor: int, more: int = 0) -> int:
    return int(instance.value * factor + more)


async def scaled_later(instance: Any, factor: int) -> int:
    return int(await instance.later() * factor)


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 3}, {"concurrency_groups": {"io": 2}}])
def test_the_function_is_given_the_instance(options: dict[str, Any]) -> None:
    actor = Plain.options(**options).remote() if options else Plain.remote()
    actor.add.remote(1)
    af.get(actor.__ready__())
    assert af.get(actor.__ray_call__.remote(scaled, 10, more=2)) in (32, 42)
    assert af.get(actor.__ray_call__.remote(lambda instance: threading.active_count() > 0))


def test_of_an_async_actor_it_may_be_a_coroutine_function() -> None:
    actor = Awaiting.remote()
    assert af.get(actor.__ray_call__.remote(scaled_later, 10)) == 30
    assert af.get(actor.__ray_call__.remote(scaled, 2)) == 6


def test_order_errors_and_other_handles() -> None:
    actor = Plain.remote()
    refs = [actor.add.remote(1), actor.__ray_call__.remote(scaled, 1), actor.add.remote(1)]
    assert af.get(refs) == [4, 4, 5]
    with pytest.raises(ZeroDivisionError, match="__ray_call__"):
        af.get(actor.__ray_call__.remote(lambda instance: instance.value / 0))

    @af.remote
    def elsewhere(handle: Any) -> int:
        return int(af.get(handle.__ray_call__.remote(scaled, 3)))

    assert af.get(elsewhere.remote(actor)) == 15
