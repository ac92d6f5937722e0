"""What the published rows leave of the ranges of Loihi 2's constants, and what that does to
estimates.

    python examples/benchmarks/posterior.py [--count 4000]

Every constant that time or energy reads is drawn inside its own range (evenly on a logarithmic
scale, or evenly where the range begins at 0; where a source says what lies inside, as often below
that as above it), and a draw weighs as much as the published rows, the
*anchors*, are likely under it: sequential Monte Carlo (Del Moral, Doucet and Jasra 2006) gives
draws in that proportion.  An anchor's error is what was read off or rounded, and 5 % of what a
model of this kind may miss.  The published deployment is this toolchain's mapping of a block on a
chip, but for three things: one activation vector crosses a boundary, so links carry half of what
they do here; and how many steps a block takes and in how many bits a weight lies are not published,
and are drawn, too.

The anchors are `anchors.toml`.  Rows are: each anchor, with its interval under all that are fitted,
and what is predicted of it from all others of them, its own error included (leave one out); and the
constants, before and after.  500 draws become `mmfree_neuro/systems/draws/loihi2.json`; their
medians are the central figures of the chip's file.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from rows import write

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from mmfree_neuro.cost.constants import Floats
from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.energy import COUNTED, Operations, operations
from mmfree_neuro.cost.load import BETWEEN, MESH, PER_CORE, WORDS, load
from mmfree_neuro.cost.span import QUANTILES
from mmfree_neuro.cost.timing import barrier_figure
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.draws import DRAWN_FOR, SIZE, at, is_cost
from mmfree_neuro.systems.figures import figures
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity
from mmfree_neuro.testing import blocks_alone, published_graph

Draws = Mapping[str, Floats]
"""For every constant its values [draws]."""

STEPS = "steps of a published block"
BITS = "bits of a published weight"
READ = {**PER_CORE, MESH: "time_per_hop_ns", **BETWEEN}
"""The figure of a chip that says what one use of a resource takes."""
MODEL_ERROR = 0.05
MOVES, LAST_MOVES = 40, 1000
"""Of every place at a stage, and at the last."""
CHANGED = 0.3
"""Of the constants, in a move."""


@dataclass(frozen=True)
class Asked:
    """What a token asks of a mapping, without any constant."""

    uses: Floats  # [resources, kinds of steps], of the busiest of each; words at 2 bits a weight
    words: Floats  # [kinds of steps], at 8 bits
    steps: Floats  # [kinds of steps], how many there are
    all_uses: Floats  # [resources], of the busiest over all steps; words at 2 bits a weight
    all_words: float
    """At 8 bits."""
    did: Operations
    chips: int
    """In use."""
    of_system: float
    """All of which are powered."""


def asked(counts: Counted, *, links: float = 1.0) -> Asked:
    """The uses of a mapping's resources; links between chips carry that share of what is sent."""
    found = load(counts)
    chips = [between_chips(ends) for ends in found.trees.links]
    between, from_host = (
        found.links[:, [k for k, inside in enumerate(chips) if inside == wanted]]
        for wanted in (True, False)
    )
    guards = found.guards.sum(0) - found.guards
    parts = [*found.per_core.values(), found.mesh.messages[:, None]]
    parts += [links * between, from_host]
    alone = [parts[0] + guards, *parts[1:]]

    def busiest(part: Floats) -> Floats:
        return part.max(1) if part.shape[1] else np.zeros(len(part))

    together = [float(part.sum(0).max()) if part.shape[1] else 0.0 for part in parts]
    together[list(READ).index(MESH)] = float(found.whole_mesh.messages[0])
    wide = load(replace(counts, system=map.with_weight_bits(counts.system, 8))).per_core[WORDS]
    uses = np.array([*(busiest(part) for part in alone), busiest(wide)]) / found.tokens
    kinds, steps = np.unique(uses, axis=1, return_counts=True)
    return Asked(
        kinds[:-1],
        kinds[-1],
        steps.astype(float),
        np.array(together) / found.tokens,
        float(wide.sum(0).max()) / found.tokens,
        operations(counts),
        found.chips,
        counts.system.chips.central,
    )


def between_chips(ends: tuple[int, int]) -> bool:
    """Whether a link is between two chips."""
    return min(ends) >= 0


def barrier(draws: Draws, chips: int) -> Floats:
    """What ends a step, in nanoseconds [draws]."""
    return draws[f"chip.{barrier_figure(chips)}"]


def busy_ns(draws: Draws, uses: Floats, words: Floats) -> Floats:
    """What the busiest resource takes at each kind of step, in nanoseconds [kinds of steps, draws];
    memory words lie between those of 2 bits a weight, among the uses, and those of 8."""
    each = np.array([draws[f"chip.{figure}"] for figure in READ.values()])
    taken = uses[:, :, None] * each[:, None]
    at = list(READ).index(WORDS)
    wide = uses[at][:, None] + (words - uses[at])[:, None] * (draws[BITS] - 2) / 6
    taken[at] = wide * each[at]
    return np.asarray(taken.max(0))


def prefill_us(draws: Draws, what: Asked) -> Floats:
    """A step of a full pipeline, in microseconds [draws]."""
    (busy,) = busy_ns(draws, what.all_uses[:, None], np.array([what.all_words]))
    return np.asarray((busy + barrier(draws, what.chips)) / 1e3)


def generation_us(draws: Draws, what: Asked, blocks: int) -> Floats:
    """A token that falls through the published deployment, in microseconds [draws]."""
    busy = what.steps @ busy_ns(draws, what.uses, what.words)
    more = barrier(draws, what.chips) + draws["chip.fall_through_step_ns"]
    return np.asarray((busy + blocks * draws[STEPS] * more) / 1e3)


def dynamic_mj(draws: Draws, what: Asked, *, alone: bool) -> Floats:
    """What is counted takes, in millijoules a token [draws]; of a token that falls through `alone`
    with its idle visits."""
    pj, did = np.zeros(len(draws[STEPS])), what.did
    for name, (counted_as, figure) in COUNTED.items():
        if alone or name != "idle visits":
            pj += getattr(did, counted_as) / did.tokens * draws[f"chip.{figure}"]
    if alone:
        pj *= draws["chip.fall_through_energy_ratio"]
    if what.of_system > 1:
        pj *= draws["chip.multi_chip_energy_ratio"]
    return np.asarray(pj * 1e-9)


@dataclass(frozen=True)
class Anchor:
    """A published row."""

    what: str
    blocks: int
    system: str
    phase: str
    unit: str
    times: int
    value: float
    error: float
    fitted: bool
    source: str

    def model(self, draws: Draws, what: Asked) -> Floats:
        """What draws make of it [draws]."""
        alone = self.phase == "generate"
        us = generation_us(draws, what, self.blocks) if alone else prefill_us(draws, what)
        if self.unit == "us":
            return us
        if self.unit == "tokens/s":
            return np.asarray(1e6 / (self.times * us if alone else us))
        static = draws["chip.static_power_w"]
        if self.phase == "idle":
            return static
        if self.blocks == 1:  # published of the chip; of so many, all wait for each other
            watts = static if self.unit == "W" or not alone else self.times * static
        else:
            watts = what.of_system * static
            watts = watts + draws["system.board_power_w"]
        mj = self.times * (dynamic_mj(draws, what, alone=alone) + watts * us * 1e-3)
        return np.asarray(mj / us * 1e3) if self.unit == "W" else np.asarray(mj)


Row = tuple[Anchor, Asked]


def anchors() -> list[Row]:
    """The published rows, and what a token asks of each one's deployment."""
    text = (Path(__file__).parent / "anchors.toml").read_text(encoding="utf-8")
    rows = [Anchor(**row) for row in tomllib.loads(text)["anchor"]]
    known = {(row.blocks, row.system): deployment(row.blocks, row.system) for row in rows}
    return [(row, known[row.blocks, row.system]) for row in rows]


def deployment(blocks: int, system: str) -> Asked:
    """The published deployment: a block on each chip, one activation vector over a boundary."""
    spec = load_system(system)
    request = Request("block-per-chip", head_on_host=True)
    graph, mapping = map.place(published_graph("370m", blocks=blocks), "", spec, request)
    summary = blocks_alone(summarise(graph))
    return asked(counted(mapping, summary, expected(graph, mapping), spec), links=0.5)


SOURCED = {
    "chip.time_per_synop_ns": 0.7,
    "chip.time_per_instruction_ns": 0.42,
    "chip.time_per_message_ns": 0.51,
    "chip.time_per_arrival_ns": 1.6,
    "chip.time_per_hop_ns": 4.1,
    "chip.time_per_host_message_ns": 6.25,
    "chip.barrier_one_chip_ns": 200,
}
"""What sources other than the anchors say of figures inside their ranges: Loihi 1's, divided by
what the Intel Loihi 2 technology brief says it is slower by (3.5 ns a synaptic operation / 5; a
neuron update of 8.4 ns / 2 / 10 instructions; an outgoing axon of 5.1 ns and an incoming one of
16 ns / 10); Loihi 1's own hop, 4.1 ns; 160 million messages a second of input (arXiv 2503.18002v2);
and under 200 ns a chip-wide step (the brief)."""


def priors() -> dict[str, Quantity]:
    """The constants that are drawn, with what lies in the middle of each before any row is seen:
    those of the chip, the board of the 32-chip part, and what is not published of the deployment:
    the steps of a block and the bits of a weight."""
    found = {
        name: value
        for name, value in figures(load_system(DRAWN_FOR)).items()
        if is_cost(name) and value.low < value.high
    } | {STEPS: Quantity(4, 0, 16, "not published"), BITS: Quantity(2, 0, 8, "not published")}
    for name, value in found.items():
        even = (value.low * value.high) ** 0.5 if value.low > 0 else value.high / 2
        found[name] = replace(value, central=SOURCED.get(name, even))
    return found


def drawn(places: Floats, prior: Mapping[str, Quantity]) -> dict[str, Floats]:
    """The constants at places in the unit cube [draws, constants]."""
    return {
        name: at(value, quantity)
        for value, (name, quantity) in zip(places.T, prior.items(), strict=True)
    }


def likelihood(places: Floats, prior: Mapping[str, Quantity], rows: list[Row]) -> Floats:
    """The logarithm of how likely the anchors are [draws]; nothing outside the ranges."""
    inside = ((places >= 0) & (places <= 1)).all(1)
    total = np.zeros(len(places))
    draws = drawn(np.clip(places, 0, 1), prior)
    for row, what in rows:
        error = np.hypot(row.error, MODEL_ERROR)
        total -= 0.5 * (np.log(row.model(draws, what) / row.value) / error) ** 2
    return np.asarray(np.where(inside, total, -np.inf))


def weighed(prior: Mapping[str, Quantity], rows: list[Row], count: int, seed: int) -> Floats:
    """Places in the unit cube, as dense as they are likely under the rows [draws, constants].

    They begin evenly and are weighed by more and more of the likelihood: each stage takes so much
    more of it that the weights leave half of the places, draws that many anew by their weights, and
    moves each place many times, by steps as wide as the places lie, which a place takes as often as
    it is likelier there; never outside the cube.
    """
    rng = np.random.default_rng(seed)
    places = rng.uniform(size=(count, len(prior)))
    score, part = likelihood(places, prior, rows), 0.0
    while part < 1:
        more = _more(score, 1 - part)
        part += more
        weights = np.exp(more * (score - score.max()))
        at = (np.arange(count) + rng.uniform()) / count
        kept = np.searchsorted(weights.cumsum() / weights.sum(), at)
        places, score = places[kept], score[kept]
        for _ in range(MOVES if part < 1 else LAST_MOVES):
            wide = np.linalg.cholesky(np.cov(places.T) + 1e-9 * np.eye(len(prior)))
            step = rng.standard_normal(places.shape) @ wide.T
            step *= rng.uniform(size=places.shape) < CHANGED
            there = places + rng.choice([0.1, 0.3, 0.8]) * step
            its = likelihood(there, prior, rows)
            accept = part * (its - score) > np.log(rng.uniform(size=count))
            places[accept], score[accept] = there[accept], its[accept]
    return places


def _more(score: Floats, most: float) -> float:
    """How much more of the likelihood leaves half of the places by their weights, at most all."""

    def left(more: float) -> float:
        weights = np.exp(more * (score - score.max()))
        return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))

    low, high = 0.0, most
    if left(most) >= 0.5:
        return most
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) > 0.5 else (low, middle)
    return low


def interval(values: Floats) -> list[float]:
    """5, 50 and 95 %."""
    return [float(f"{value:.4g}") for value in np.quantile(values, QUANTILES)]


def main() -> None:
    """Draw, compare and write."""
    parser = argparse.ArgumentParser(description="Weighs constants by published rows.")
    parser.add_argument("--count", type=int, default=4000)
    count = parser.parse_args().count
    if count < SIZE:
        parser.error(f"--count is {count}, must be at least {SIZE}")
    rows, prior = anchors(), priors()
    fitted = [one for one in rows if one[0].fitted]
    draws = drawn(few(weighed(prior, fitted, count, seed=15)), prior)
    written: list[dict[str, object]] = []
    for number, (row, what) in enumerate(rows):
        others = [one for one in fitted if one[0] != row]
        without = draws
        if row.fitted:
            without = drawn(few(weighed(prior, others, count, seed=number)), prior)
        left_out = interval(row.model(without, what) * off(row, number))
        written.append(
            {
                "what": row.what,
                "unit": row.unit,
                "value": row.value,
                "fitted": row.fitted,
                "all anchors": interval(row.model(draws, what)),
                "all others": left_out,
                "covered": left_out[0] <= row.value <= left_out[2],
                "source": row.source,
            }
        )
        print(json.dumps(written[-1]), flush=True)
    for name, q in prior.items():
        found = interval(draws[name])
        written.append(
            {
                "what": name,
                "unit": "",
                "value": found[1],
                "range": [q.low, q.central, q.high],
                "interval": found,
            }
        )
        print(json.dumps(written[-1]), flush=True)
    write("posterior", written)
    content = {
        name: [float(f"{v:.4g}") for v in found] for name, found in draws.items() if is_cost(name)
    }
    path = Path(str(resources.files("mmfree_neuro.systems") / "draws" / "loihi2.json"))
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def off(row: Anchor, seed: int) -> Floats:
    """By how much a published row may be off what the model says, as the likelihood has it
    [draws]."""
    error = np.hypot(row.error, MODEL_ERROR)
    return np.exp(error * np.random.default_rng(seed).standard_normal(SIZE))


def few(places: Floats) -> Floats:
    """So many of the places as are kept."""
    return places[np.random.default_rng(0).choice(len(places), SIZE, replace=False)]


if __name__ == "__main__":
    main()
