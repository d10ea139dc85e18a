"""numpy arrays <-> pickle: the data as one buffer, whatever the dtype and the memory order.

numpy's own pickling copies dates, and arrays that are not contiguous, into the stream, and gives
back arrays that are writable or not depending on their size. Here every array but those of objects
is a buffer, and comes back as a read-only view of it.
"""

from __future__ import annotations

import pickle
from typing import Any, Literal

import numpy as np

from actorflow import config

_PLAIN_KINDS = "biufcmMSU"  # the dtype's text says all there is to say
_BUFFER_KINDS = "biufcSU"  # the buffer protocol has a format for them


def reduce_array(array: np.ndarray[Any, Any]) -> Any:
    """What __reduce__ returns for an array: its data as a buffer, or as bytes if it is short."""
    dtype = array.dtype
    if dtype.hasobject or not dtype.itemsize:
        return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    order: Literal["C", "F"] = "C"
    if not array.flags.c_contiguous:
        if array.flags.f_contiguous:
            order = "F"
        else:
            array = np.ascontiguousarray(array)
    plain = dtype.kind in _PLAIN_KINDS and dtype.metadata is None
    code: Any = dtype.str if plain else dtype
    if array.nbytes < config.current().in_band_limit_bytes:
        return view_array, (array.tobytes(order), code, array.shape, order)
    as_it_is = order == "C" and dtype.kind in _BUFFER_KINDS
    exporter: Any = array if as_it_is else array.reshape(-1, order=order).view("u1")
    return view_array, (pickle.PickleBuffer(exporter), code, array.shape, order)


def view_array(
    buffer: Any, dtype: Any, shape: tuple[int, ...], order: Literal["C", "F"]
) -> np.ndarray[Any, Any]:
    """The array in a buffer: a view, read-only if the buffer is."""
    return np.ndarray(shape, dtype, buffer, 0, None, order)


REDUCERS = {np.ndarray: reduce_array}
