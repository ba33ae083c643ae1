"""Error that is spent over looks at a table: what p a claim needs where seeds are added between them."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import ndtr, ndtri

from analysis.stats.intervals import LEVEL

NODES = 160
# Beyond so many standard errors there is nothing to spend.
FARTHEST = 30.0


def spent(share: float, alpha: float = 1 - LEVEL) -> float:
    """Two-sided error that may be spent up to a share of the planned information.

        2 (2 - 2 Phi(z_{1 - alpha/4} / sqrt(t))),  each side being O'Brien and Fleming's of alpha / 2

    Example:
        >>> round(spent(1.0), 6), round(spent(1 / 3), 6)
        (0.05, 0.000207)

    References:
        Lan and DeMets 1983, Biometrika 70; O'Brien and Fleming 1979, Biometrics 35
    """
    return float(4 * ndtr(-ndtri(1 - alpha / 4) / math.sqrt(min(share, 1.0))))


@cache
def look_bounds(shares: tuple[float, ...], alpha: float = 1 - LEVEL) -> tuple[float, ...]:
    """The z value that a claim has to pass at each of some looks.

    By numerical integration over the paths that passed no bound before.

    Args:
        shares: of the planned information at each look, ascending.
        alpha: two-sided error of all looks together.

    Example:
        >>> [round(bound, 2) for bound in look_bounds((1 / 3, 2 / 3, 1.0))]
        [3.71, 2.51, 1.99]

    References:
        Armitage, McPherson and Rowe 1969, J. R. Statist. Soc. A 132; Jennison and Turnbull 2000, chapter 7
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    # Of the score's path: where it may be, and with which density times weight.
    places, masses = np.zeros(1), np.ones(1)
    out: list[float] = []
    before = 0.0
    for index, share in enumerate(shares):
        step = math.sqrt(share - (shares[index - 1] if index else 0.0))
        due = spent(share, alpha) - before
        before += due
        farthest = FARTHEST * math.sqrt(share)
        edge = farthest
        if _beyond(farthest, places, masses, step) < due:
            edge = float(
                np.asarray(
                    optimize.brentq(
                        lambda edge, at=(places, masses, step), due=due: _beyond(edge, *at) - due, 0, farthest
                    )
                )
            )
        out.append(edge / math.sqrt(share))
        reach = min(edge, 9 * math.sqrt(share))
        inside = reach * nodes
        away = (inside[:, None] - places[None, :]) / step
        density = np.exp(-(away**2) / 2) / math.sqrt(2 * math.pi) / step @ masses
        places, masses = inside, reach * weights * density
    return tuple(out)


def _beyond(edge: float, places: NDArray[np.float64], masses: NDArray[np.float64], step: float) -> float:
    """Chance that a path's next place is beyond an edge, on either side."""
    return float(masses @ (ndtr((places - edge) / step) + ndtr((-edge - places) / step)))


def nominal(shares: Sequence[float], alpha: float = 1 - LEVEL) -> float:
    """The p below which a claim is one at the last of some looks, so that all looks together err by alpha."""
    return float(2 * ndtr(-look_bounds(tuple(shares), alpha)[-1]))


def sequential_p(p: float, shares: Sequence[float]) -> float:
    """p as of a single look: the smallest error of all looks together at which this one makes a claim.

    Args:
        p: two-sided, of the data there are.
        shares: of the planned information at each look, this one last.

    Example:
        >>> sequential_p(0.02, [1.0]), round(sequential_p(0.0001, [1 / 3]), 3)
        (0.02, 0.038)

    References:
        Maurer and Bretz 2013, Statistics in Biopharmaceutical Research 5
    """
    if list(shares) == [1.0] or p >= 1:
        return min(p, 1.0)
    least, most = max(p, 1e-12), 0.999
    if nominal(shares, most) <= p:
        return 1.0
    if nominal(shares, least) >= p:
        return least
    error = optimize.brentq(
        lambda log: math.log(max(nominal(shares, math.exp(log)), 1e-300)) - math.log(max(p, 1e-300)),
        math.log(least),
        math.log(most),
        xtol=1e-4,
    )
    return float(math.exp(float(np.asarray(error))))
