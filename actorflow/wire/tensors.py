"""torch CPU tensors <-> pickle: the data as one buffer. Imported only where torch has been.

torch's own pickling goes through torch.save and copies twice. Tensors that are not plain data in
this process' memory (CUDA, sparse, quantized, subclasses, with hooks or attributes) are left to it.
Two tensors that share their storage come back as two; one tensor met twice comes back as one.

Within `aside`, dense tensors are left out of the stream: they go another way, and the stream has only their places.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore] # an extra

from actorflow import config


class _Aside(threading.local):
    """The tensors that this thread's streams leave out, while it is in `aside`."""

    tensors: list[Any] | None = None


_aside = _Aside()


@contextlib.contextmanager
def aside(tensors: list[Any]) -> Iterator[None]:
    """Has this thread put the dense tensors that it pickles into the list, and take those that it loads from there."""
    outer, _aside.tensors = _aside.tensors, tensors
    try:
        yield
    finally:
        _aside.tensors = outer


def load_aside(place: int) -> Any:
    """The tensor at that place of the list."""
    assert _aside.tensors is not None
    return _aside.tensors[place]


def _place_of(tensor: Any, tensors: list[Any]) -> int:
    for place, other in enumerate(tensors):
        if other is tensor:
            return place
    tensors.append(tensor)
    return len(tensors) - 1


def reduce_tensor(tensor: Any) -> Any:
    """What __reduce__ returns for a tensor: its elements as bytes, in the order they have in memory."""
    if _aside.tensors is not None and _has_elements(tensor):
        return load_aside, (_place_of(tensor, _aside.tensors),)
    if not _is_plain(tensor):
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    data = tensor.detach().resolve_conj().resolve_neg()
    order = sorted(range(data.dim()), key=lambda dimension: -data.stride(dimension))
    data = data.permute(order).contiguous()
    array = data.reshape(-1).view(torch.uint8).numpy()
    short = array.nbytes < config.current().in_band_limit_bytes
    buffer = array.tobytes() if short else pickle.PickleBuffer(array)
    return load_tensor, (buffer, tensor.dtype, tuple(data.shape), tuple(order), tensor.requires_grad)


def load_tensor(
    buffer: Any, dtype: Any, shape: tuple[int, ...], order: tuple[int, ...], requires_grad: bool
) -> Any:
    """The tensor in a buffer: a copy, or a view (which must not be written to) if tensor_views is set."""
    if config.current().tensor_views:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it must not be written to
            flat = torch.frombuffer(buffer, dtype=dtype)
    else:
        flat = torch.frombuffer(bytearray(buffer), dtype=dtype)
    places = sorted(range(len(order)), key=order.__getitem__)
    return flat.view(shape).permute(places).requires_grad_(requires_grad)


def _has_elements(tensor: Any) -> bool:
    """Whether its elements, shape and dtype are all of it."""
    return tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type != "meta"


def _is_plain(tensor: Any) -> bool:
    return bool(
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.is_leaf
        and tensor.numel()
        and not vars(tensor)
        and not tensor._backward_hooks
    )


REDUCERS = {torch.Tensor: reduce_tensor}
