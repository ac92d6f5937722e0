"""What the script that measures several processes makes of spans of time."""

from collections.abc import Callable
from types import ModuleType

import pytest

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def ranks(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("training_ranks")


@pytest.mark.parametrize(
    ("parts", "others", "expected"),
    [
        ([], [(0, 9)], 0),
        ([(1, 4)], [], 3),
        ([(1, 4), (2, 6)], [], 5),
        ([(1, 4), (6, 7)], [(2, 3)], 3),
        ([(1, 4)], [(0, 2), (1, 3), (4, 5)], 1),
        ([(1, 4)], [(0, 9)], 0),
        ([(1, 4)], [(1, 4)], 0),
        ([(1, 2), (2, 3)], [(3, 4)], 2),
    ],
)
def test_time_in_none_of_the_others(
    ranks: ModuleType,
    parts: list[tuple[float, float]],
    others: list[tuple[float, float]],
    expected: float,
) -> None:
    assert ranks.without(parts, others) == expected
