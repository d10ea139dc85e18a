"""The joblib backend. Its own node: joblib counts the CPUs of it."""

from __future__ import annotations

import os

import pytest

joblib = pytest.importorskip("joblib")

from actorflow.util.joblib import register_actorflow, register_ray  # noqa: E402 - needs joblib

pytestmark = pytest.mark.usefixtures("runtime")


def square(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return number * number


@pytest.mark.parametrize("name", ["actorflow", "ray"])
def test_parallel(name: str) -> None:
    register_actorflow()
    register_ray()
    with joblib.parallel_backend(name):
        assert joblib.effective_n_jobs(-1) == 4
        results = joblib.Parallel()(joblib.delayed(square)(number) for number in range(200))
    assert results == [number * number for number in range(200)]


def test_it_runs_elsewhere() -> None:
    register_actorflow()
    with joblib.parallel_backend("actorflow", n_jobs=2):
        pids = set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(20)))
    assert os.getpid() not in pids
    assert len(pids) <= 2


def test_errors_and_reuse() -> None:
    register_actorflow()
    with joblib.parallel_config("actorflow", n_jobs=2), joblib.Parallel() as parallel:
        for _ in range(2):
            with pytest.raises(ValueError, match="negative"):
                parallel(joblib.delayed(square)(number) for number in (1, 2, -3, 4))
        assert parallel(joblib.delayed(square)(number) for number in range(5)) == [0, 1, 4, 9, 16]


def test_as_a_generator() -> None:
    register_actorflow()
    with joblib.parallel_config("actorflow", n_jobs=2):
        results = joblib.Parallel(return_as="generator")(joblib.delayed(square)(n) for n in range(10))
        assert list(results) == [n * n for n in range(10)]


def test_bad_n_jobs() -> None:
    register_actorflow()
    with joblib.parallel_config("actorflow"), pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.Parallel(n_jobs=0)(joblib.delayed(square)(n) for n in range(2))
