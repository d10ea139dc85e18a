"""Errors on their way: own type, remote traceback, chains; what cannot be carried; how deaths are told."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

import actorflow as af
from tests.system import bodies
from tests.system.conftest import STORE_BYTES

pytestmark = pytest.mark.usefixtures("runtime")


class Refused(Exception):
    """A user's exception that pickle's own way could not make again."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why


def test_an_exception_arrives_as_its_own_type() -> None:
    @af.remote
    def divide() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        af.get(divide.remote())
    error: Any = caught.value
    assert isinstance(error, af.TaskError)
    assert error.task_name == "divide"
    assert error.pid not in (0, os.getpid())
    assert "return 1 / 0" in error.remote_traceback
    assert "actorflow/worker" not in error.remote_traceback


def test_the_method_is_named() -> None:
    with pytest.raises(LookupError) as caught:
        af.get(bodies.Counter.remote().fail.remote("gone"))
    assert caught.value.task_name == "Counter.fail"


def test_attributes_and_causes_are_kept() -> None:
    @af.remote
    def refuse() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise Refused(7, why="no milk") from error

    with pytest.raises(Refused) as caught:
        af.get(refuse.remote())
    assert (caught.value.code, caught.value.why) == (7, "no milk")
    cause = caught.value.cause
    assert isinstance(cause.__cause__, KeyError)
    assert "inner" in caught.value.remote_traceback


def test_an_exception_that_cannot_be_pickled_keeps_its_text() -> None:
    @af.remote
    def fail() -> None:
        class Local(Exception):
            def __reduce__(self) -> Any:
                raise TypeError("not me")

        raise Local("what happened")

    with pytest.raises(af.TaskError, match="what happened") as caught:
        af.get(fail.remote())
    assert caught.value.cause is None
    assert caught.value.cause_type.endswith("Local")


def test_groups_and_base_exceptions() -> None:
    @af.remote
    def fail(kind: str) -> None:
        if kind == "group":
            raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])
        if kind == "interrupt":
            raise KeyboardInterrupt("from the task")
        raise StopIteration("over")

    with pytest.raises(ExceptionGroup) as caught:
        af.get(fail.remote("group"))
    assert [type(error) for error in caught.value.exceptions] == [ValueError, KeyError]
    with pytest.raises(KeyboardInterrupt):
        af.get(fail.remote("interrupt"))
    with pytest.raises(af.TaskError, match="StopIteration"):
        af.get(fail.remote("stop"))


def test_an_error_travels_through_the_calls_that_depend_on_it() -> None:
    with pytest.raises(ValueError, match="root"):
        af.get(bodies.add.remote(bodies.fail.remote("root"), 1))

    @af.remote
    def outer() -> Any:
        return af.get(bodies.fail.remote("nested"))

    with pytest.raises(ValueError, match="nested") as caught:
        af.get(outer.remote())
    assert caught.value.task_name == "outer"


def test_the_same_error_can_be_raised_again_and_again() -> None:
    ref = bodies.fail.remote("again")
    for _ in range(3):
        with pytest.raises(ValueError, match="again"):
            af.get(ref)
    with pytest.raises(ValueError, match="again"):
        af.get([af.put(1), ref])
    assert isinstance(ref.exception(), ValueError)


def test_errors_of_async_tasks_and_methods() -> None:
    @af.remote
    async def fail() -> None:
        raise LookupError("async")

    @af.remote
    class Failing:
        async def fail(self) -> None:
            raise LookupError("method")

    with pytest.raises(LookupError, match="async"):
        af.get(fail.remote())
    with pytest.raises(LookupError, match="method"):
        af.get(Failing.remote().fail.remote())


def test_sys_exit_in_a_task_is_an_error_that_says_so() -> None:
    @af.remote
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"sys.exit\(3\)"):
        af.get(leave.remote())
    assert af.get(bodies.echo.remote(1)) == 1


@pytest.mark.parametrize(
    ("how", "told"),
    [("exit", "exit code 5"), ("kill", r"signal 9 \(SIGKILL\)"), ("crash", r"signal 11 \(SIGSEGV\)")],
)
def test_a_worker_that_dies(how: str, told: str) -> None:
    @af.remote
    def die() -> None:
        if how == "exit":
            os._exit(5)
        signal.raise_signal(signal.SIGKILL if how == "kill" else signal.SIGSEGV)

    refs = [die.remote(), *(bodies.echo.remote(number) for number in range(20))]
    with pytest.raises(af.WorkerCrashedError, match=told) as caught:
        af.get(refs[0])
    assert caught.value.death.pid is not None
    assert af.get(refs[1:]) == list(range(20))


def test_several_returns_share_the_error() -> None:
    for ref in bodies.fail.options(num_returns=3).remote("all"):
        with pytest.raises(ValueError, match="all"):
            af.get(ref)


@pytest.mark.parametrize("size", [50_000, 3_000_000])
def test_long_errors_arrive(size: int) -> None:
    @af.remote
    class Failing:
        def fail(self, text: str) -> None:
            raise ValueError(text)

        async def wait_and_fail(self, text: str) -> None:
            raise ValueError(text)

    failing = Failing.remote()
    text = "x" * size
    for ref in (bodies.fail.remote(text), failing.fail.remote(text), failing.wait_and_fail.remote(text)):
        with pytest.raises(ValueError, match="xxx") as caught:
            af.get(ref, timeout=60)
        assert caught.value.args == (text,)


def test_an_error_that_the_store_has_no_room_for_arrives_as_text() -> None:
    @af.remote
    def fail() -> None:
        raise ValueError("x" * STORE_BYTES)

    with pytest.raises(af.TaskError) as caught:
        af.get(fail.remote(), timeout=60)
    assert caught.value.cause_type == "ValueError"
    assert set(caught.value.cause_text) == {"x"}


def test_a_long_error_of_a_constructor_is_told_to_all_who_call_the_actor() -> None:
    @af.remote
    class Failing:
        def __init__(self) -> None:
            raise ValueError("y" * 1_000_000)

        def work(self) -> None: ...

    failing = Failing.remote()
    for _ in range(2):
        with pytest.raises(af.ActorDiedError, match="its constructor raised") as caught:
            af.get(failing.work.remote(), timeout=60)
        assert "yyy" in str(caught.value)


def test_an_error_at_the_head_of_a_long_chain_arrives_as_it_is() -> None:
    ref = bodies.fail.remote("root")
    for _ in range(100):
        ref = bodies.add.remote(ref, 1)
    with pytest.raises(ValueError, match="root") as caught:
        af.get(ref, timeout=60)
    assert caught.value.task_name == "fail"
    assert len(str(caught.value)) < 2000


def test_an_error_that_goes_through_many_nested_calls_stays_readable() -> None:
    @af.remote(num_cpus=0.1)
    def nest(levels: int) -> Any:
        return af.get(nest.remote(levels - 1)) if levels else 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        af.get(nest.remote(20), timeout=60)
    assert str(caught.value).count("went on through 'nest'") == 20
