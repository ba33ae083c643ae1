"""Quantiles and tails, as `scipy.stats` computes them, without its import of a third of a second."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


def student_quantile(share: float, freedom: float) -> float:
    """Below it a share of Student's t lies.

    Example:
        >>> round(student_quantile(0.975, 4), 3)
        2.776
    """
    return float(special.stdtrit(freedom, share))


def student_tail(value: float, freedom: float) -> float:
    """Chance that Student's t is above a value.

    Example:
        >>> round(student_tail(2.776, 4), 3)
        0.025
    """
    return float(special.stdtr(freedom, -value))


def chi_square_quantile(share: ArrayLike, freedom: float) -> NDArray[np.float64]:
    """Below it a share of chi-square lies.

    Example:
        >>> float(chi_square_quantile(0.95, 1).round(3))
        3.841
    """
    return np.asarray(2 * special.gammaincinv(freedom / 2, share))


def f_quantile(share: float, above: float, below: float) -> float:
    """Below it a share of F lies.

    Args:
        share: of its distribution.
        above, below: degrees of freedom of the numerator and of the denominator.

    Example:
        >>> round(f_quantile(0.95, 2, 10), 3)
        4.103
    """
    return float(special.fdtri(above, below, share))
