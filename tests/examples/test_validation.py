"""What others measured comes out where it was fitted, and the page says what the script says."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validation(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script, as a module."""
    return benchmark_script("validation")


@pytest.mark.slow
def test_the_page_has_the_table_and_fitted_rows_come_out(validation: ModuleType) -> None:
    found = validation.checks()
    page = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8").splitlines()
    assert set(validation.table(found)) <= set(page)
    for one in found:
        if one.how.startswith("fitted"):
            assert one.ours.central == pytest.approx(one.published, rel=0.06), one.what
            assert one.ours.low < one.published < one.ours.high, one.what
        if one.how == "taken over":
            assert one.ours.central == one.published, one.what
    assert [one.how for one in found].count("fitted") == 2


def test_the_headline_is_reproduced_from_its_rows(validation: ModuleType) -> None:
    rows = {row["what"]: row for row in validation.ratios()}
    headline = rows["published headline against the edge GPU of the headline"]
    assert headline["value"] == pytest.approx(59.4 / 14.3, rel=1e-3)
    assert headline["less energy"] == pytest.approx(723 / 70.8, rel=1e-3)
    assert all(
        row["theirs is"] and len(row["theirs"]) == len(row["ours"]) == 2 for row in rows.values()
    )
    # The page has each pair of ratios, beside the figures that they are of.
    page = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    fastest = [row for what, row in rows.items() if "the fastest GPU known" in what]
    speed, energy = fastest[0]["theirs"]
    assert f"the same model: {speed:,.0f}, {energy:.1f} |" in page
    assert len(fastest) == 3
    for row in fastest:
        assert f" | {row['value']:.3f}, {row['less energy']:.3f} |" in page
    measured = rows["published, 24 chips measured against the fastest GPU known, one sequence"]
    assert (
        f"at {measured['value']:.3f} of the throughput and at {measured['less energy']:.3f} of"
        in page
    )
