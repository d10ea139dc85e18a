"""Who goes when memory runs short."""

from __future__ import annotations

import itertools

from actorflow.core.events import WorkerId
from actorflow.core.memory import FAR_LOOK_S, LOOK_S, PATIENCE_S, MemoryPolicy, Resident, pause_s, victim

LIMIT = 1000


def resident(
    worker: int, *, actor: bool = False, retriable: bool = False, since_s: float = 0.0, size: int = 10
) -> Resident:
    return Resident(WorkerId(worker), actor, retriable, since_s, size)


def test_the_order_in_which_they_go() -> None:
    order = [
        resident(1, retriable=True, since_s=9),
        resident(2, retriable=True, since_s=3, size=90),
        resident(3, retriable=True, since_s=3, size=20),
        resident(4, since_s=8),
        resident(5, since_s=2),
        resident(6, actor=True, retriable=True, since_s=99),
        resident(7, actor=True, since_s=5),
    ]
    for shuffled in itertools.islice(itertools.permutations(order), 0, 5040, 97):
        rest = list(shuffled)
        gone = []
        while (chosen := victim(rest)) is not None:
            gone.append(chosen)
            rest.remove(chosen)
        assert gone == order
    assert victim([]) is None


def test_nobody_goes_while_there_is_memory() -> None:
    policy = MemoryPolicy(0.9)
    assert policy.choose(0.0, 900, LIMIT, [resident(1)]) is None
    assert policy.choose(0.0, 901, 0, [resident(1)]) is None
    assert policy.choose(0.0, 901, LIMIT, [resident(1)]) == resident(1)
    assert policy.choose(0.0, 901, LIMIT, []) is None


def test_one_at_a_time_until_it_is_gone_or_hangs() -> None:
    policy = MemoryPolicy(0.5)
    both = [resident(1, since_s=1), resident(2)]
    assert policy.choose(0.0, 900, LIMIT, both) == both[0]
    assert policy.choose(0.3, 900, LIMIT, both) is None
    assert policy.choose(PATIENCE_S + 0.1, 900, LIMIT, both) == both[1]

    policy = MemoryPolicy(0.5)
    assert policy.choose(0.0, 900, LIMIT, both) == both[0]
    assert policy.choose(0.3, 900, LIMIT, both[1:]) == both[1]


def test_the_less_is_left_the_sooner_it_is_looked_at_again() -> None:
    pauses_s = [pause_s(left_bytes) for left_bytes in (-1, 0, 10**9, 4 * 10**9, 10**12)]
    assert pauses_s == sorted(pauses_s)
    assert (pauses_s[0], pauses_s[3], pauses_s[-1]) == (LOOK_S, 0.5, FAR_LOOK_S)
