"""How blocks of shared memory are named for people: refs and actors in reprs, errors and lists."""

from __future__ import annotations


def hex_of(name: tuple[int, int]) -> str:
    """A block's (offset, generation) as hexadecimal text of one length: unique on its node for ever."""
    offset, generation = name
    return f"{offset:012x}{generation:08x}"


def bytes_of_group(number: int) -> bytes:
    """A placement group's number as the 16 bytes of its id."""
    return number.to_bytes(16, "big")
