"""torch CPU tensors <-> pickle: the data as one buffer. Imported only where torch has been.

torch's own pickling goes through torch.save and copies twice. Tensors that are not plain data in
this process' memory (CUDA, sparse, quantized, subclasses, with hooks or attributes) are left to it.
Two tensors that share their storage come back as two; one tensor met twice comes back as one.
"""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore] # an extra

from actorflow import config


def reduce_tensor(tensor: Any) -> Any:
    """What __reduce__ returns for a tensor: its elements as bytes, in the order they have in memory."""
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
