"""p-values corrected for many comparisons."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values: the chance of any false claim stays below the level.

        p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    References:
        Holm 1979, Scandinavian Journal of Statistics 6
    """
    order = np.argsort(p_values, kind="stable")
    m, adjusted, running = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (m - rank) * p_values[index]))
        adjusted[int(index)] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the expected share of false claims among the claims.

        p~_(i) = min_{j >= i} min(1, m p_(j) / j)

    References:
        Benjamini and Hochberg 1995, J. R. Statist. Soc. B 57
    """
    order, m = np.argsort(p_values), len(p_values)
    steps = np.asarray(p_values, dtype=float)[order] * (m / np.arange(1, m + 1))
    adjusted = np.empty(m)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1].clip(0.0, 1.0)
    return [float(p) for p in adjusted]
