"""torch CPU tensors to bytes and back. Skipped where torch is not installed."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest

from actorflow import config
from actorflow.wire.pickling import dumps, loads

torch: Any = pytest.importorskip("torch")


def there_and_back(value: Any) -> Any:
    packed = dumps(value)
    return loads(packed.data, [bytes(buffer) for buffer in packed.buffers])


@pytest.mark.parametrize(
    "name", ["float32", "float64", "float16", "bfloat16", "int8", "int64", "bool", "complex64"]
)
def test_every_dtype_comes_back_the_same(name: str) -> None:
    tensor = torch.arange(3000).reshape(3, 1000).to(getattr(torch, name))
    again = there_and_back({"weights": tensor})["weights"]
    assert again.dtype == tensor.dtype
    assert torch.equal(again, tensor)


def test_the_data_goes_out_of_band_without_a_copy_and_comes_back_as_one() -> None:
    tensor = torch.zeros(100, 100)
    packed = dumps([tensor])
    (buffer,) = packed.buffers
    assert len(packed.data) < 300
    assert np.shares_memory(np.frombuffer(memoryview(buffer), "u1"), tensor.numpy())
    store = bytes(buffer)
    (again,) = loads(packed.data, [store])
    again += 1
    assert store == bytes(len(store))


def test_views_are_given_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    viewing = dataclasses.replace(config.current(), tensor_views=True)
    monkeypatch.setattr(config, "current", lambda: viewing)
    packed = dumps(torch.zeros(1000))
    store = bytearray(bytes(packed.buffers[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = loads(packed.data, [store])
    store[:4] = b"\xff\xff\xff\xff"
    assert torch.isnan(again[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(0, 3),
        lambda: torch.tensor(3.5),
        lambda: torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        lambda: torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last),
        lambda: torch.arange(100)[::7],
        lambda: torch.arange(4.0).expand(3, 4),
        lambda: torch.arange(4).to(torch.complex64).conj(),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.ones(3, requires_grad=True),
    ],
)
def test_shapes_strides_and_kinds(make: Any) -> None:
    tensor = make()
    again = there_and_back(tensor)
    assert (again.dtype, again.shape, again.layout) == (tensor.dtype, tensor.shape, tensor.layout)
    assert again.requires_grad == tensor.requires_grad
    assert torch.equal(again.to_dense(), tensor.to_dense())
    if tensor.layout is torch.strided and tensor.dim() == 4:
        assert again.stride() == tensor.stride()


def test_modules_keep_their_parameters_and_what_they_share() -> None:
    layer = torch.nn.Linear(30, 30)
    model = torch.nn.Sequential(layer, torch.nn.ReLU(), layer)
    again = there_and_back(model)
    assert again[0].weight is again[2].weight
    assert isinstance(again[0].weight, torch.nn.Parameter)
    assert torch.equal(again(torch.ones(30)), model(torch.ones(30)))
