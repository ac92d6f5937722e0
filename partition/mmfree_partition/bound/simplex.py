"""The least cost of meeting some limits: small dense linear programs, by the simplex method."""

import numpy as np
from numpy.typing import NDArray

NOTHING = 1e-7
"""What counts as nothing of a cost or of an amount."""
MOST_PIVOTS = 10_000

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def cheapest(
    columns: Floats, costs: Floats, limits: Floats, basis: Indices
) -> tuple[Floats, Indices]:
    """The price [limits] of a unit of each limit where amounts of columns, none negative, make up
    all limits at the least cost; and the basis [limits] of that.

    A column [limits] is what a unit of it adds to each limit, at a cost.  `basis` has columns that
    make up the limits to begin with.  No column then costs less than what it adds is worth, and
    those of the basis cost as much.  Bland's rule (the first column that helps comes in, and of
    equals the first goes out) keeps it from going round in circles.
    """
    for _ in range(MOST_PIVOTS):
        inverse = np.linalg.inv(columns[:, basis])
        prices = costs[basis] @ inverse
        helps = np.flatnonzero(costs - prices @ columns < -NOTHING)
        if not helps.size:
            break
        change, amounts = inverse @ columns[:, helps[0]], inverse @ limits
        least = np.full(len(basis), np.inf)
        np.divide(amounts, change, out=least, where=change > NOTHING)
        first = np.flatnonzero(least <= least.min() + NOTHING)
        basis = basis.copy()
        basis[first[basis[first].argmin()]] = helps[0]
    return prices, basis
