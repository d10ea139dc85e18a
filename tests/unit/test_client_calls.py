"""What is told of calls that could not be made; how functions are named; where nodes are found."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

import actorflow as af
from actorflow import _hot, errors
from actorflow.client import calls, connection, exports
from actorflow.options import InitOptions
from actorflow.wire import pickling


def example(
    first: int, second: int = 0, /, third: int = 0, *rest: int, fourth: int = 0, **others: int
) -> None:
    """Has parameters of every kind."""


def test_arguments_are_named_as_the_function_names_them() -> None:
    parts = calls.argument_parts(example, (1, 2, 3, 4), {"fourth": 5, "sixth": 6})
    names = ["argument 'first'", "argument 'second'", "argument 'third'", "argument 3", "argument 'fourth'"]
    assert parts == list(zip([*names, "argument 'sixth'"], range(1, 7), strict=True))
    assert calls.argument_parts(None, ("a",), {}) == [("argument 0", "a")]
    assert calls.argument_parts(dict.get, ("a",), {})[0][1] == "a"


def test_errors_are_translated() -> None:
    full = calls.translated(_hot.StoreFullError(10, 20, 30, True), list)
    assert isinstance(full, errors.ObjectStoreFullError)
    assert (full.size_bytes, full.used_bytes, full.capacity_bytes) == (10, 20, 30)
    with pytest.raises(TypeError) as caught:
        pickling.dumps(threading.Lock())
    named = calls.translated(caught.value, lambda: [("argument 'lock'", [threading.Lock()])])
    assert "argument 'lock'[0]" in str(named)
    other = LookupError("as it is")
    assert calls.translated(other, list) is other


def test_a_call_is_made_again_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [_hot.FullError("messages"), _hot.FullError("messages"), "made"]

    def call() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(_hot, "node_alive", lambda: True)
    assert calls.again_with_room(call) == "made"
    answers[:] = [_hot.FullError("credit")]
    with pytest.raises(_hot.FullError):
        calls.again_with_room(call)
    monkeypatch.setattr(calls, "ROOM_TIMEOUT_S", 0.0)
    answers[:] = [_hot.FullError("messages")] * 3
    with pytest.raises(MemoryError, match="ACTORFLOW_MESSAGE_MEMORY_BYTES"):
        calls.again_with_room(call)
    monkeypatch.setattr(_hot, "node_alive", lambda: False)
    monkeypatch.setattr("actorflow.client.blocking._node_error", lambda: LookupError("the node"))
    with pytest.raises(LookupError, match="the node"):
        calls.again_with_room(call)


def test_names_without_where_they_were_defined() -> None:
    class Local:
        def method(self) -> None: ...

    assert calls.short_name(Local) == "Local"
    assert calls.short_name(Local.method) == "Local.method"
    assert calls.short_name(example) == "example"
    assert calls.short_name(SimpleNamespace()) == "namespace()"


@af.remote
def by_name() -> None:
    """Is what its module has under its name."""


@af.remote
class ByName:
    """As well."""


def plain() -> None:
    """Keeps its name; what is made of it has another."""


by_another_name = af.remote(plain)


def test_what_travels_as_a_name() -> None:
    assert exports.is_named(by_name, by_name.function)
    actor_class: Any = ByName
    assert exports.is_named(actor_class, actor_class.cls)
    assert not exports.is_named(by_another_name, plain)
    assert not exports.is_named(by_name.options(num_cpus=2), by_name.function)

    @af.remote
    def local() -> None: ...

    assert not exports.is_named(local, local.function)
    assert pickling.loads(*pickling.dumps(by_name)) is by_name
    assert pickling.loads(*pickling.dumps(ByName)) is ByName
    other = pickling.loads(*pickling.dumps(by_another_name))
    assert other.function is plain
    copied = pickling.loads(*pickling.dumps(local.options(num_cpus=2)))
    assert copied._options.num_cpus == 2


def test_a_function_has_one_export_however_often_it_is_decorated() -> None:
    assert af.remote(plain)._export is af.remote(plain)._export
    assert by_name.options(num_cpus=0)._export is by_name._export
    assert af.remote(lambda: None)._export is not af.remote(lambda: None)._export


UNIX_SOCKETS = """Num       RefCount Protocol Flags    Type St Inode Path
ffff0: 00000002 00000000 00010000 0001 01 300 @actorflow/7/newer
ffff1: 00000002 00000000 00010000 0001 01 200 @actorflow/7/older
ffff2: 00000003 00000000 00000000 0001 03 400 @actorflow/7/newer
ffff3: 00000002 00000000 00010000 0001 01 500 @actorflow/8/others
ffff4: 00000002 00000000 00010000 0001 01 600
"""


def test_shared_nodes_are_found_by_their_names() -> None:
    assert connection.shared_nodes(UNIX_SOCKETS, 7) == ["actorflow/7/older", "actorflow/7/newer"]
    assert connection.shared_nodes(UNIX_SOCKETS, 9) == []


def test_nobody_answers() -> None:
    with pytest.raises(ConnectionError, match="no node answers at 'actorflow/0/abc'"):
        _ = af.init(address="actorflow/0/abc")
    assert not af.is_initialized()


def test_the_command_line_of_a_private_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_PRELOADED", ("os", "no_such_module"))
    options = InitOptions(num_cpus=2, resources={"licence": 1}, object_store_memory=1 << 20)
    assert connection._words(5, options) == [
        *("--driver-fd", "5", "--num-cpus", "2", "--object-store-memory", "1048576"),
        *("--resources", '{"licence": 1}', "--preload", "os"),
    ]
