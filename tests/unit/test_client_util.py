"""af.util: serializers of users, and what can travel."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest

import actorflow as af
from actorflow.wire import pickling


class Connection:
    """Cannot be pickled as it is."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lock = threading.Lock()


@pytest.fixture
def serializer() -> Iterator[None]:
    af.util.register_serializer(
        Connection, serializer=lambda connection: connection.address, deserializer=Connection
    )
    yield
    af.util.deregister_serializer(Connection)


def test_a_serializer_makes_a_class_travel(serializer: None) -> None:
    packed = pickling.dumps({"connection": Connection("here")})
    assert pickling.loads(packed.data, packed.buffers)["connection"].address == "here"
    assert af.util.inspect_serializability(Connection("x"), print_file=io.StringIO()) == (True, set())


def test_the_member_to_blame_is_found() -> None:
    said = io.StringIO()
    ok, found = af.util.inspect_serializability({"of": [Connection("x")]}, "settings", print_file=said)
    assert not ok
    (culprit,) = found
    assert culprit.path == "settings['of'][0].lock"
    assert culprit.obj is culprit.parent.lock
    assert "settings['of'][0].lock (type _thread.lock) cannot be pickled" in said.getvalue()


def test_by_default_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert af.util.inspect_serializability(len) == (True, set())
    assert capsys.readouterr().out == "len can be pickled\n"


def test_the_search_goes_as_deep_as_asked() -> None:
    ok, (culprit,) = af.util.inspect_serializability([[Connection("x")]], "list", 2, io.StringIO())
    assert not ok
    assert culprit.path == "list[0]"
    with pytest.raises(ValueError, match="depth=0"):
        af.util.inspect_serializability(1, depth=0)


def test_what_is_no_class_or_function_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a class, not int"):
        af.util.register_serializer(3, serializer=str, deserializer=str)  # type: ignore[arg-type] # the test
    with pytest.raises(TypeError, match="deserializer must be a function"):
        af.util.register_serializer(Connection, serializer=str, deserializer=1)  # type: ignore[arg-type] # the test
