"""Medians, percentiles and the spread of a system measured against itself."""

from collections.abc import Sequence
from math import ceil
from statistics import median

__all__ = ["median", "percentile", "spread"]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the sorted values do not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> float:
    """How far rounds of the same thing lie apart, as a share of their median."""
    return (max(values) - min(values)) / median(values) if len(values) > 1 else 0.0
