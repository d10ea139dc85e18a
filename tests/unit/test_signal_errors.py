"""What a signal handler raises goes on up from wherever it breaks something off: it is no fault of a value."""

from __future__ import annotations

import functools
import pickle
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from actorflow import errors
from actorflow.wire import failures
from actorflow.wire.pickling import dumps


class TooLate(Exception):
    pass


class Handlers:
    """What can be a handler besides a plain function."""

    def method(self, *_: object) -> None:
        raise TooLate

    def __call__(self, *_: object) -> None:
        self.method()


def plain(_: int, __: object, kind: type[Exception] = TooLate) -> None:
    raise kind


HANDLERS = [plain, Handlers().method, Handlers(), functools.partial(plain, kind=TooLate)]


@pytest.fixture(params=HANDLERS, ids=["function", "method", "object", "partial"], autouse=True)
def handler(request: pytest.FixtureRequest) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, request.param)
    yield
    signal.signal(signal.SIGALRM, before)


class Saving:
    """Pickling it is interrupted."""

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGALRM)
        return Saving, ()


class Loading:
    """Making it again is interrupted."""

    def __setstate__(self, state: Any) -> None:
        signal.raise_signal(signal.SIGALRM)

    def __reduce__(self) -> Any:
        return Loading, (), {"some": "state"}


class Refused(Exception):
    pass


def test_pickling() -> None:
    with pytest.raises(TooLate):
        dumps(Saving())
    with pytest.raises(TooLate):
        dumps([Saving(), lambda: 1])  # by value at once


def test_loading() -> None:
    with pytest.raises(TooLate) as caught:
        pickle.loads(pickle.dumps(Loading()))
    assert failures.unloadable(caught.value) is caught.value
    assert isinstance(failures.unloadable(TooLate()), errors.DeserializationError)


def test_decoding_an_error() -> None:
    data = failures.encode_error(Refused(Loading()), name="f", node_id="n", pid=1, attempt=1)
    with pytest.raises(TooLate):
        failures.decode_error(data)
