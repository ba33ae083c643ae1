"""What differs by rounding alone is equal: sums of the same numbers in another order."""

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
