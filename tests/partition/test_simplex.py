"""Small linear programs: one by hand, and random ones whose solution proves itself."""

import numpy as np

from mmfree_partition.bound.simplex import cheapest


def test_a_program_by_hand() -> None:
    """Of 4 and 6: a unit of both for 3 is the cheapest, and then the second alone for 2."""
    columns = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    prices, basis = cheapest(
        columns, np.array([5.0, 2.0, 3.0]), np.array([4.0, 6.0]), np.array([0, 1])
    )
    assert sorted(basis) == [1, 2]
    assert prices.tolist() == [1.0, 2.0]


def test_random_programs() -> None:
    """Nothing can be made for less than its price, and what is made costs its price: so the costs
    are the least.  Limits of zero and equal columns make many ties."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, more = rng.integers(1, 9), rng.integers(0, 40)
        columns = np.hstack([np.eye(rows), rng.integers(0, 3, (rows, more)).astype(float)])
        costs = np.append(np.full(rows, 1e6), rng.integers(1, 99, more))
        limits = rng.integers(0, 5, rows).astype(float)
        prices, basis = cheapest(columns, costs, limits, np.arange(rows))
        amounts = np.linalg.solve(columns[:, basis], limits)
        assert amounts.min() > -1e-6
        assert (costs - prices @ columns).min() > -1e-6
        assert np.isclose(prices @ limits, costs[basis] @ amounts)
