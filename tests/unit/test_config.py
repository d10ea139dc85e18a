"""The tunables: defaults, parsing, ranges and what a bad variable is told."""

from __future__ import annotations

import dataclasses

import pytest

from actorflow import config

NUMBERS = [row for row in dataclasses.fields(config.Config) if type(row.default) in (int, float)]


def test_empty_environment_gives_the_defaults() -> None:
    assert config.read({}) == config.Config()
    assert config.read({"ACTORFLOW_SPIN_US": "  "}) == config.Config()


@pytest.mark.parametrize("row", dataclasses.fields(config.Config), ids=lambda row: row.name)
def test_every_row_has_a_reason_and_a_default_in_range(row: dataclasses.Field[object]) -> None:
    assert len(row.metadata["reason"]) > 20
    if type(row.default) in (int, float):
        assert row.metadata["low"] <= row.default <= row.metadata["high"]


def test_values_are_read_by_type() -> None:
    read = config.read(
        {
            "ACTORFLOW_SPIN_US": "0",
            "ACTORFLOW_IDLE_WORKER_S": "2.5",
            "ACTORFLOW_TENSOR_VIEWS": "Yes",
            "ACTORFLOW_ADDRESS": "auto",
            "SPIN_US": "7",
        }
    )
    assert read == dataclasses.replace(
        config.Config(), spin_us=0, idle_worker_s=2.5, tensor_views=True, address="auto"
    )


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_out_of_range_names_the_variable_and_the_range(row: dataclasses.Field[float]) -> None:
    name = config.variable(row.name)
    for text in (str(row.metadata["high"] + 1), str(row.metadata["low"] - 1)):
        with pytest.raises(ValueError, match=rf"{name}='{text}' is not a .*number from .* unset it"):
            config.read({name: text})


@pytest.mark.parametrize("text", ["fifty", "1.5", "nan", "0x10"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ACTORFLOW_SPIN_US"):
        config.read({"ACTORFLOW_SPIN_US": text})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "x"])
def test_what_is_no_finite_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ACTORFLOW_ATTACH_TIMEOUT_S"):
        config.read({"ACTORFLOW_ATTACH_TIMEOUT_S": text})


def test_a_bad_switch_is_told_the_words() -> None:
    with pytest.raises(ValueError, match="ACTORFLOW_TENSOR_VIEWS='maybe' is not one of 1, true"):
        config.read({"ACTORFLOW_TENSOR_VIEWS": "maybe"})


def test_the_config_cannot_be_changed_and_is_read_once() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Config().spin_us = 1  # type: ignore[misc]
    assert config.current() is config.current()
