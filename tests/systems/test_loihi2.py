"""The shipped draws of Loihi 2's figures give back the published rows that they were weighed by.

The rows are those of arXiv 2503.18002v2 for the 370M model: one block on one chip, and a block on
each of several.
"""

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.estimate import Estimate, estimate
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.testing import blocks_alone, published_graph

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
BLOCKS = 24
STEPS = 1 + 12
"""That of entry and those of a block; the head, which is on the host, is no part of the published
figures."""


@lru_cache
def found(blocks: int, name: str, phase: str) -> Estimate:
    """A phase of so many blocks, each on a chip of its own of a system, for a token whose payloads
    are all non-zero."""
    system, asked = load_system(name), Request("block-per-chip", head_on_host=True)
    graph, mapping = map.place(published_graph("370m", blocks=blocks), "", system, asked)
    assert len(mapping.chips) == blocks
    summary = blocks_alone(summarise(graph))
    return estimate(counted(mapping, summary, expected(graph, mapping), system), phase)


@pytest.mark.parametrize(
    ("chips", "system", "step_us", "resource"),
    [
        (1, "oheo-gulch", 71.6, "messages sent"),
        (2, "kapoho-point", 122.8, "messages sent"),
        (4, "kapoho-point", 122.8, "messages sent"),
        (5, "kapoho-point", 150, "messages sent"),
        (8, "kapoho-point", 150, "messages sent"),
    ],
)
def test_a_step_of_a_full_pipeline(chips: int, system: str, step_us: float, resource: str) -> None:
    times = found(chips, system, "prefill").timing
    assert times.step_seconds.low < step_us * 1e-6 < times.step_seconds.high
    assert times.step_seconds.central * 1e6 == pytest.approx(step_us, rel=0.06)
    assert times.resource == resource


def test_the_energy_of_a_token_in_prefill() -> None:
    energy = found(1, "oheo-gulch", "prefill").chip_millijoule_per_token
    assert BLOCKS * energy.low < 2.8 < BLOCKS * energy.high
    assert BLOCKS * energy.central == pytest.approx(2.8, rel=0.02)


def test_a_block_that_a_token_falls_through() -> None:
    """This mapping has twice as many steps as the draws take the published one to have, so it takes
    longer than the 584 us that were published."""
    times = found(1, "oheo-gulch", "generate").timing
    assert times.steps_per_token == STEPS
    assert 584e-6 < times.seconds_per_token.central < 850e-6


def test_the_corners_hold_what_was_published() -> None:
    for chips, system, step_us in ((1, "oheo-gulch", 71.6), (8, "kapoho-point", 150)):
        rate = found(chips, system, "prefill").corners.tokens_per_s
        assert rate.low < 1e6 / step_us < rate.high
    generation = found(1, "oheo-gulch", "generate").corners.tokens_per_s
    assert generation.low < 71.3 * BLOCKS < generation.high


@pytest.fixture(scope="module")
def anchors() -> list[dict[str, Any]]:
    """The published rows, as the fit reads them."""
    text = (BENCHMARKS / "anchors.toml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)["anchor"]
    return rows


@pytest.fixture(scope="module")
def written() -> list[dict[str, Any]]:
    """What the fit wrote of them."""
    text = (BENCHMARKS / "results" / "posterior.json").read_text(encoding="utf-8")
    return [row for row in json.loads(text) if "all anchors" in row]


def test_every_anchor_was_weighed_or_held_out(
    anchors: list[dict[str, Any]], written: list[dict[str, Any]]
) -> None:
    names = "what", "unit", "value", "fitted", "source"
    assert [[row[name] for name in names] for row in written] == [
        [row[name] for name in names] for row in anchors
    ]
    assert [row["fitted"] for row in anchors].count(True) == 10


def test_the_draws_give_back_the_rows_that_they_were_weighed_by(
    written: list[dict[str, Any]],
) -> None:
    for row in written:
        low, middle, high = row["all anchors"]
        assert low < middle < high
        if row["fitted"]:
            assert low < row["value"] < high
            assert middle == pytest.approx(row["value"], rel=0.05)
    left_out = [row for row in written if row["covered"]]
    assert len(left_out) == 11
    widths = [row["all others"][2] / row["all others"][0] for row in written]
    assert (
        np.max([w for w, row in zip(widths, written, strict=True) if "mJ" not in row["unit"]]) < 2
    )
    assert max(widths) < 3.2
