"""What cannot work is refused with an error that says what it was and what to do, and everything else goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from tests.system import bodies
from tests.system.conftest import STORE_BYTES


@pytest.fixture(autouse=True)
def everything_goes_on(runtime: af.Runtime) -> Iterator[None]:
    """After each of these, a call works."""
    counter = bodies.Counter.remote()
    yield
    assert af.get([bodies.echo.remote(1), counter.add.remote()]) == [1, 1]


class Locked:
    """Cannot be pickled, because of one member."""

    def __init__(self) -> None:
        self.guards = {"first": [threading.Lock()]}


def test_an_argument_that_cannot_be_pickled_is_named_with_its_member() -> None:
    with pytest.raises(TypeError, match=r"argument 'value'.*guards.*first.*lock"):
        bodies.echo.remote(Locked())
    with pytest.raises(TypeError, match=r"argument 'right'.*lock"):
        bodies.add.remote(1, right=threading.Lock())
    counter = bodies.Counter.remote()
    with pytest.raises(TypeError, match=r"argument 0.*lock"):
        counter.note.remote(threading.Lock())
    with pytest.raises(TypeError, match=r"argument 'start'.*lock"):
        bodies.Counter.remote(threading.Lock())


class Refusing:
    def __reduce__(self) -> Any:
        raise LookupError("not now")


def test_what_a_values_own_pickling_raises_is_the_cause() -> None:
    counter = bodies.Counter.remote()
    for refused in (af.put, bodies.echo.remote, counter.note.remote, bodies.Counter.remote):
        with pytest.raises(TypeError, match=r"Refusing\): not now") as caught:
            refused(Refusing())
        assert isinstance(caught.value.__cause__, LookupError)


def test_a_method_of_a_class_instead_of_an_actor() -> None:
    with pytest.raises(
        AttributeError, match=r"make one with Counter\.remote\(\.\.\.\), and call its add\.remote"
    ):
        bodies.Counter.add.remote()
    with pytest.raises(AttributeError, match="no attribute 'subtract'"):
        _ = bodies.Counter.subtract
    assert not hasattr(bodies.Counter, "__fspath__")


def test_a_store_that_no_system_can_give() -> None:
    """In a process of its own: this one has a runtime."""
    program = "import actorflow as af; af.init(object_store_memory=2**48)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "281,474,976,710,656 bytes for objects (object_store_memory)" in ended.stderr


def test_names_that_are_no_texts_or_do_not_exist() -> None:
    nobody = bodies.Counter.remote()
    af.get(nobody.add.remote())
    with pytest.raises(TypeError, match="name of an actor is a text, not 5"):
        af.get_actor(5)  # type: ignore[arg-type] # that is the mistake
    with pytest.raises(TypeError, match="namespace of an actor is a text, not 5"):
        af.get_actor("walter", namespace=5)  # type: ignore[arg-type] # that is the mistake
    with pytest.raises(ValueError, match="no actor named ''") as caught:
        af.get_actor("")
    assert "did you mean" not in str(caught.value), "actors without a name are not near to it"
    with pytest.raises(TypeError, match="placement group is a text"):
        af.util.get_placement_group(None)  # type: ignore[arg-type] # that is the mistake
    assert af.get(nobody.add.remote()) == 2


def test_a_value_that_cannot_be_put() -> None:
    with pytest.raises(TypeError, match=r"guards.*lock"):
        af.put({"deep": Locked()})


def test_a_function_that_cannot_be_exported_names_what_it_captured() -> None:
    lock = threading.Lock()

    @af.remote
    def locked() -> None:
        lock.acquire()

    with pytest.raises(TypeError, match=r"function .*locked.*lock"):
        locked.remote()


def test_a_result_that_cannot_be_pickled() -> None:
    @af.remote
    def locked() -> Any:
        return {"mutex": threading.Lock()}

    @af.remote
    class Keeper:
        async def locked(self) -> Any:
            return [threading.Lock()]

    with pytest.raises(TypeError, match=r"the result of 'locked'.*mutex.*lock"):
        af.get(locked.remote())
    with pytest.raises(TypeError, match=r"the result of 'Keeper.locked'"):
        af.get(Keeper.remote().locked.remote())


class Unloadable:
    """Pickles, and cannot be made again."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("cannot be made here")


def test_what_cannot_be_unpickled_fails_where_it_is_used() -> None:
    @af.remote
    def make() -> Any:
        return Unloadable()

    message = rf"process {os.getpid()}: LookupError: cannot be made here"
    ref = af.put(Unloadable())
    for refs in (make.remote(), ref, ref, [ref, bodies.echo.remote(1)]):
        with pytest.raises(af.DeserializationError, match=message) as caught:
            af.get(refs)
        assert caught.value.pid == os.getpid()
        assert type(caught.value.__cause__) is LookupError
    with pytest.raises(af.DeserializationError, match="LookupError: cannot be made here") as caught:
        af.get(bodies.echo.remote(Unloadable()))
    assert caught.value.pid != os.getpid()
    assert "'echo'" in str(caught.value.__notes__)


async def test_a_value_that_cannot_be_unpickled_is_awaited() -> None:
    with pytest.raises(af.DeserializationError, match="cannot be made here"):
        await af.put(Unloadable())


def test_an_object_larger_than_the_store() -> None:
    with pytest.raises(af.ObjectStoreFullError) as caught:
        af.put(np.zeros(STORE_BYTES + 1, dtype=np.uint8))
    assert caught.value.size_bytes > STORE_BYTES
    with pytest.raises(af.ObjectStoreFullError):
        bodies.echo.remote(np.zeros(STORE_BYTES, dtype=np.uint8))

    @af.remote
    def too_much() -> Any:
        return np.zeros(STORE_BYTES + 1, dtype=np.uint8)

    with pytest.raises(af.ObjectStoreFullError):
        af.get(too_much.remote())


def test_a_store_full_of_what_is_used_has_room_again_once_that_is_dropped() -> None:
    refs = [af.get(af.put(np.zeros(STORE_BYTES // 10, dtype=np.uint8))) for _ in range(9)]
    with pytest.raises(af.ObjectStoreFullError) as caught:
        af.put(np.zeros(STORE_BYTES // 5, dtype=np.uint8))
    assert caught.value.used_bytes > STORE_BYTES // 2
    del refs, caught
    assert len(af.get(af.put(np.zeros(STORE_BYTES // 2, dtype=np.uint8)))) == STORE_BYTES // 2


def test_wrong_arguments_of_the_function_come_as_its_error() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        af.get(bodies.add.remote(1))


def test_unknown_options_and_misuse_of_the_decorator() -> None:
    with pytest.raises(TypeError, match="Allowed are"):
        bodies.Counter.options(cpus=1)
    with pytest.raises(TypeError, match="num_return"):
        bodies.Counter.remote().add.options(num_return=1)
    with pytest.raises(TypeError, match="function or a class"):
        af.remote(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="at least one option"):
        af.remote()
    with pytest.raises(TypeError, match="remote already"):
        af.remote(bodies.echo)
    with pytest.raises(TypeError, match="num_returnz"):
        af.method(num_returnz=2)


def test_a_reinit_is_refused_and_can_be_ignored(runtime: af.Runtime) -> None:
    with pytest.raises(RuntimeError, match="called before"):
        _ = af.init()
    assert af.init(ignore_reinit_error=True) is runtime
    with pytest.raises(ValueError, match="num_cpus"):
        _ = af.init(address="auto", num_cpus=1)
    with pytest.raises(TypeError, match="num_cpu"):
        _ = af.init(num_cpu=1)


def test_init_in_a_worker_is_the_workers_runtime() -> None:
    @af.remote
    def start() -> tuple[str, bool]:
        with af.init(num_cpus=3) as started:
            role = started.role.value
        return role, af.is_initialized()

    assert af.get(start.remote()) == ("worker", True)


def test_garbage_as_a_ref() -> None:
    with pytest.raises(ValueError, match="not the name"):
        _hot.hold((123456789, 1), "cell")
    with pytest.raises(ValueError, match="not the name"):
        _hot.hold((1 << 60, 1), "cell")
    with pytest.raises(TypeError):
        _hot.Reference()


def test_a_stranger_on_a_private_nodes_name_finds_nobody(runtime: af.Runtime) -> None:
    with socket.socket(socket.AF_UNIX) as stranger, pytest.raises(OSError, match="refused"):
        stranger.connect(f"\0actorflow/{os.getuid()}/{runtime.node_id}")


SHUT_DOWN = """
import actorflow as af
from tests.system import bodies
af.init(num_cpus=1)
counter, ref, method = bodies.Counter.remote(), af.put(1), None
method = counter.add
af.get(method.remote())
import numpy as np
view = af.get(af.put(np.ones(300_000)))
af.shutdown()
af.shutdown()
assert view.sum() == 300_000
for use in (
    lambda: af.get(ref), lambda: method.remote(), lambda: counter.pid.remote(), lambda: ref.done(),
    lambda: af.kill(counter), lambda: af.cancel(ref),
):
    try:
        use()
    except RuntimeError as error:
        assert "shut down" in str(error), error
    else:
        raise AssertionError(use)
assert not af.is_initialized()
assert "shut down" in ref._repr_html_()
assert repr(counter) and repr(ref)
af.init(num_cpus=1)
assert af.get(bodies.echo.remote(5)) == 5          # the function is exported again
assert af.get(bodies.Counter.remote().add.remote()) == 1
try:
    af.get(ref)
except RuntimeError as error:
    assert "shut down" in str(error), error
else:
    raise AssertionError("a ref of the runtime before")
print("fine")
"""


def test_refs_and_handles_after_shutdown_say_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHUT_DOWN], capture_output=True, text=True, timeout=60, cwd=sys.path[0] or None
    )
    assert done.stdout == "fine\n", done.stdout + done.stderr
