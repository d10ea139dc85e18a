"""Serializers of users: values that cannot be pickled reach the workers all the same."""

from __future__ import annotations

import threading

import pytest

import actorflow as af
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")


def test_instances_of_a_local_class_travel_both_ways() -> None:
    class Account:
        def __init__(self, owner: str) -> None:
            self.owner = owner
            self.lock = threading.Lock()

    @af.remote
    def owner_of(account: Account) -> str:
        with account.lock:
            return account.owner

    with pytest.raises(TypeError, match="lock"):
        owner_of.remote(Account("nobody"))
    af.util.register_serializer(Account, serializer=lambda account: account.owner, deserializer=Account)
    try:
        assert af.get(owner_of.remote(Account("Ada"))) == "Ada"
        assert af.get(af.put([Account("Grace")]))[0].owner == "Grace"
    finally:
        af.util.deregister_serializer(Account)
    with pytest.raises(TypeError, match="lock"):
        af.put(Account("nobody"))


class Meter:
    """Registers itself where it is defined, and so in every process that imports it."""

    def __init__(self, reading: int) -> None:
        self.reading = reading
        self.lock = threading.Lock()


af.util.register_serializer(Meter, serializer=lambda meter: meter.reading, deserializer=Meter)


@af.remote
def read_meter(reading: int) -> Meter:
    return Meter(reading)


def test_a_worker_that_knows_the_serializer_returns_such_values() -> None:
    meter = af.get(read_meter.remote(7))
    assert isinstance(meter, Meter)
    assert meter.reading == 7
    assert af.get(bodies.echo.remote(Meter(8))).reading == 8
