"""How much is to be spilled, by what was asked for and when; what is read ahead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actorflow.core.spilling import HOLD_S, Pressure, ReadAhead

CAPACITY = 1000


def test_nothing_is_spilled_while_nobody_asks() -> None:
    pressure = Pressure(CAPACITY, 0.1)
    assert not pressure.is_on(0.0)
    assert pressure.excess_bytes(0.0, CAPACITY, 0) == 0


def test_what_is_wanted_and_a_share_beyond_it_is_freed() -> None:
    pressure = Pressure(CAPACITY, 0.1)
    pressure.ask(5.0, 200, 950, 0)
    assert pressure.excess_bytes(5.0, 950, 0) == 250
    assert pressure.excess_bytes(5.0, 950, 100) == 150
    assert pressure.excess_bytes(5.0, 700, 0) == 0


def test_pressure_ends_a_moment_after_the_last_one_asked() -> None:
    pressure = Pressure(CAPACITY, 0.0)
    pressure.ask(5.0, 200, 1000, 0)
    pressure.ask(5.5, 100, 1000, 0)
    assert pressure.excess_bytes(5.5 + HOLD_S / 2, 1000, 0) == 200
    assert pressure.excess_bytes(5.5 + HOLD_S, 1000, 0) == 0
    pressure.ask(9.0, 100, 1000, 0)
    assert pressure.excess_bytes(9.0, 1000, 0) == 100


def test_who_asks_again_although_enough_is_free_needs_it_in_one_piece() -> None:
    pressure = Pressure(CAPACITY, 0.0)
    pressure.ask(0.0, 200, 900, 0)
    pressure.ask(0.1, 200, 800, 0)
    assert pressure.excess_bytes(0.1, 800, 0) == 200
    pressure.ask(0.2, 200, 800, 200)  # that is being written just now
    assert pressure.excess_bytes(0.2, 800, 200) == 0


@given(
    st.lists(
        st.tuples(
            st.floats(0, 2), st.integers(0, 2 * CAPACITY), st.integers(0, CAPACITY), st.integers(0, CAPACITY)
        )
    )
)
def test_never_more_than_the_store(asks: list[tuple[float, int, int, int]]) -> None:
    pressure = Pressure(CAPACITY, 0.1)
    now_s = 0.0
    for passed_s, wanted, used, leaving in asks:
        now_s += passed_s
        pressure.ask(now_s, wanted, used, min(leaving, used))
        assert pressure.excess_bytes(now_s, used, 0) <= used


def sequence_of(count: int) -> ReadAhead:
    sequence = ReadAhead()
    for value in range(100, 100 + count):
        sequence.written(value)
    return sequence


def test_who_reads_in_the_order_of_writing_gets_the_next_ahead() -> None:
    sequence = sequence_of(5)
    assert sequence.asked(101) == [102]
    assert sequence.asked(103) == [104]  # 102 was there already
    assert sequence.asked(104) == []


def test_nothing_is_read_ahead_in_any_other_order() -> None:
    sequence = sequence_of(9)
    for value in (103, 103, 108, 105, 104, 999, 107):
        assert sequence.asked(value) == []


def test_what_was_freed_is_not_read_ahead() -> None:
    sequence = sequence_of(4)
    sequence.forget(102)
    sequence.forget(102)
    assert sequence.asked(101) == []
    assert sequence.asked(103) == []
    sequence.written(102)
    assert sequence.asked(103) == []
    assert sequence.asked(102) == []
