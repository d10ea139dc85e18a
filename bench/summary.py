"""Samples to figures: quantiles of one repeat, and the medians over the repeats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median


@dataclass(frozen=True)
class Summary:
    """The figures of one quantity in one repeat, in the quantity's unit (seconds, bytes, a count)."""

    p50: float
    p99: float
    mean: float
    count: int


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the nearest-rank quantile: the smallest sample that at least `share` of all do not exceed.

    With fewer than 100 samples the 0.99 quantile is therefore the largest one.
    Raises ValueError for no samples or a share outside (0, 1].
    """
    if not samples:
        raise ValueError("a quantile needs at least one sample")
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], not {share}")
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def summarise(samples: Sequence[float]) -> Summary:
    """Return the figures of one repeat. Raises ValueError for no samples."""
    return Summary(quantile(samples, 0.5), quantile(samples, 0.99), fmean(samples), len(samples))


def over_repeats(repeats: Sequence[Summary]) -> Summary:
    """Return each figure's median over the repeats, and the count of all. Raises ValueError for none."""
    if not repeats:
        raise ValueError("a median needs at least one repeat")
    return Summary(
        median(repeat.p50 for repeat in repeats),
        median(repeat.p99 for repeat in repeats),
        median(repeat.mean for repeat in repeats),
        sum(repeat.count for repeat in repeats),
    )
