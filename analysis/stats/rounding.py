"""Numbers that differ by rounding alone are equal, and a number that somebody named is not rounded."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Decimals that are kept of values below ten; of larger ones as many digits.
DECIMALS = 12


def settled(values: ArrayLike) -> NDArray[np.float64]:
    """Values without what rounding may have done to them, so that ties are equal.

    Example:
        >>> 0.3 - 0.1 == 0.2, settled([0.3 - 0.1, 0.2, 1e-17])
        (False, array([0.2, 0.2, 0. ]))
    """
    exact = np.asarray(values, dtype=float)
    size = np.abs(exact[np.isfinite(exact)]).max(initial=1.0)
    return np.asarray(np.round(exact, DECIMALS - int(np.log10(size))), dtype=float)


def in_full(value: float) -> str:
    """A number with all the digits that name it.

    Example:
        >>> in_full(0.7), in_full(0.12345678), in_full(1.0), in_full(1e15)
        ('0.7', '0.12345678', '1', '1e+15')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value)).removesuffix(".0")
