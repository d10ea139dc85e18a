"""Amounts of resources and GPU devices: what fits, what is missing, and sums that come back exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actorflow.core.resources import ONE, GpuDevices, GpuShare, ResourceSet, add, describe, in_ones, why_never


def test_amounts_are_kept_in_ten_thousandths_and_zeros_are_left_out() -> None:
    demand = ResourceSet.of(CPU=0.5, GPU=1, disk=0)
    assert demand.units == {"CPU": 5000, "GPU": 10000}
    assert demand.cpu == 5000
    assert demand.others == (("GPU", 10000),)
    assert demand == ResourceSet({"GPU": 10000, "CPU": 5000})
    assert hash(demand) == hash(ResourceSet({"GPU": 10000, "CPU": 5000}))
    assert not ResourceSet()
    assert in_ones(demand.units) == {"CPU": 0.5, "GPU": 1.0}


@pytest.mark.parametrize(
    ("amounts", "text"),
    [
        ({"CPU": -1}, "CPU=-1"),
        ({"CPU": float("nan")}, "CPU=nan"),
        ({"CPU": float("inf")}, "CPU=inf"),
        ({"disk": 0.00001}, "0.0001"),
        ({"GPU": 1.5}, "whole devices"),
    ],
)
def test_impossible_amounts_are_refused_by_name(amounts: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ResourceSet.from_amounts(amounts)


def test_negative_ten_thousandths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"CPU=-0\.5"):
        ResourceSet({"CPU": -5000})


def test_text_is_what_users_write() -> None:
    assert str(ResourceSet.of(CPU=2, GPU=0.25)) == "2 CPU, 0.25 GPU"
    assert str(ResourceSet()) == "nothing"
    assert describe({"CPU": -15000}) == "-1.5 CPU"


def test_what_is_missing_is_named() -> None:
    total = ResourceSet.of(CPU=4, GPU=1)
    assert why_never(ResourceSet.of(CPU=4), total) is None
    why = why_never(ResourceSet.of(CPU=6, GPU=1, disk=2), total)
    assert why is not None
    assert "4 CPU" in why
    assert "2 CPU, 2 disk missing" in why


def test_the_larger_of_two_demands_is_taken_by_resource() -> None:
    most = ResourceSet.of(CPU=1, GPU=1).most(ResourceSet.of(CPU=2, disk=1))
    assert most == ResourceSet.of(CPU=2, GPU=1, disk=1)


amounts = st.dictionaries(st.sampled_from(["CPU", "disk", "memory"]), st.integers(0, 50_000))


@given(amounts, amounts)
def test_fits_lacking_and_times_agree(demand: dict[str, int], room: dict[str, int]) -> None:
    wanted = ResourceSet(demand)
    fits = all(room.get(name, 0) >= units for name, units in demand.items())
    assert wanted.fits(room) is fits
    assert (not wanted.lacking(room)) is fits
    times = wanted.times_in(room, 9)
    left = dict(room)
    add(left, wanted, -times, -times)
    assert min(left.values(), default=0) >= 0
    assert times == 9 or not wanted.fits(left)


def test_a_fraction_goes_where_a_fraction_is_and_whole_devices_stay_whole() -> None:
    devices = GpuDevices(2)
    assert devices.take(3000) == ((0, 3000),)
    assert devices.take(7000) == ((0, 7000),), "the fullest that has room"
    assert devices.take(ONE) == ((1, ONE),)
    assert devices.take(1) is None
    assert devices.take(0) == ()


def test_a_whole_device_is_not_made_of_pieces() -> None:
    devices = GpuDevices(2)
    held = [devices.take(6000), devices.take(6000)]
    assert not devices.has(ONE)
    assert devices.lacking(ONE) == 6000
    assert held[0] is not None
    assert devices.has(ONE, coming=[held[0]])
    devices.give_back(held[0])
    assert devices.take(ONE) == ((0, ONE),)


class Devices(RuleBasedStateMachine):
    """GPU devices against a list of who has what."""

    def __init__(self) -> None:
        super().__init__()
        self.devices = GpuDevices(3)
        self.taken: list[GpuShare] = []

    @rule(units=st.sampled_from([0, 1, 2500, 3000, 5000, 9999, ONE, 2 * ONE, 3 * ONE]))
    def take(self, units: int) -> None:
        had, lacking = self.devices.has(units), self.devices.lacking(units)
        share = self.devices.take(units)
        assert (share is not None) == had == (lacking <= 0)
        if share is not None:
            assert sum(load for _, load in share) == units
            assert len(share) == -(-units // ONE), "a fraction lies on one device"
            self.taken.append(share)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.devices.give_back(self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))))

    @invariant()
    def loads_are_what_was_taken(self) -> None:
        loads = [0, 0, 0]
        for share in self.taken:
            for device, load in share:
                loads[device] += load
        assert self.devices.loads == loads
        assert max(loads) <= ONE


TestDevices = Devices.TestCase
