"""What the published rows leave of the ranges of Loihi 2's constants, and what that does to
estimates.

    python examples/benchmarks/posterior.py [--walkers 200] [--rounds 1500]

Every constant that time or energy reads is drawn inside its own range (evenly on a logarithmic
scale, or evenly where the range begins at 0), and a draw weighs as much as the published rows, the
*anchors*, are likely under it: an ensemble of walkers (Goodman and Weare's stretch moves) visits
draws in that proportion.  An anchor's error is what was read off or rounded, and 5 % of what a
model of this kind may miss.  The published deployment is this toolchain's mapping of a block on a
chip, but for two things: one activation vector crosses a boundary, so links carry half of what
they do here, and how many steps a block takes is not published and is drawn, too.

Rows are: each anchor, with its interval under all anchors and under all others (leave one out); the
constants, before and after; and two estimates, the 370M model on 24 chips and the shipped
checkpoint on eight, 5 to 95 %.  500 draws become `mmfree_neuro/systems/draws/loihi2.json`.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rows import write

from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.energy import Operations, operations
from mmfree_neuro.cost.likely import counted_picojoule
from mmfree_neuro.cost.load import BETWEEN, MESH, PER_CORE, load
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.lowering.scheme import DEFAULT, SCHEMES
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.draws import SHARE
from mmfree_neuro.systems.figures import figures
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec
from mmfree_neuro.testing import blocks_alone, published_graph

Floats = NDArray[np.float64]
Draws = Mapping[str, Floats]
"""For every constant its values [draws]."""

BLOCKS, STEPS = 24, "steps of a published block"
READ = {
    name: PER_CORE.get(name) or BETWEEN.get(name) or "time_per_hop_ns"
    for name in (*PER_CORE, MESH, *BETWEEN)
}
"""The figure of a chip that says what one use of a resource takes."""
KEPT = 500
MODEL_ERROR = 0.05


@dataclass(frozen=True)
class Asked:
    """What a token asks of a mapping, without any constant."""

    uses: Floats  # [resources, steps], of the busiest of each
    all_uses: Floats  # [resources], of the busiest over all steps
    did: Operations
    chips: int


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
    uses = np.array([busiest(part) for part in alone]) / found.tokens
    did = operations(counts)
    return Asked(uses, np.array(together) / found.tokens, did, found.chips)


def between_chips(ends: tuple[int, int]) -> bool:
    """Whether a link is between two chips."""
    return min(ends) >= 0


def barrier(draws: Draws, chips: int) -> Floats:
    """What ends a step, in nanoseconds [draws]."""
    kind = "one_chip" if chips == 1 else "few_chips" if chips <= 4 else "many_chips"
    return draws[f"chip.barrier_{kind}_ns"]


def each(draws: Draws) -> Floats:
    """What one use of every resource takes, in nanoseconds [resources, draws]."""
    return np.array([draws[f"chip.{figure}"] for figure in READ.values()])


def prefill_us(draws: Draws, what: Asked) -> Floats:
    """A step of a full pipeline, in microseconds [draws]."""
    busy = (what.all_uses[:, None] * each(draws)).max(0)
    return np.asarray((busy + barrier(draws, what.chips)) / 1e3)


def generation_us(draws: Draws, what: Asked, blocks: int, steps: int | None) -> Floats:
    """A token that falls through, in microseconds [draws]; of a deployment whose steps a block are
    drawn where those of the mapping are not told."""
    busy = (what.uses[:, :, None] * each(draws)[:, None]).max(0).sum(0)
    count = blocks * draws[STEPS] if steps is None else np.full(len(busy), float(steps))
    more = barrier(draws, what.chips) + draws["chip.fall_through_step_ns"]
    return np.asarray((busy + count * more) / 1e3)


def dynamic_uj(draws: Draws, did: Operations, *, idle: bool) -> Floats:
    """What is counted takes, in microjoules a token [draws]."""
    pj = counted_picojoule(did, draws, did.idle_instructions if idle else 0) / did.tokens
    if idle:
        pj = pj * draws["chip.fall_through_energy_ratio"]
    return np.asarray(pj * 1e-6)


def system_mj(draws: Draws, what: Asked, us: Floats, *, alone: bool, board: str) -> Floats:
    """Millijoules a token of the chips in use and their board [draws]."""
    watts = what.did.chips * draws["chip.static_power_w"] + draws[board]
    dynamic = draws[SHARE] * dynamic_uj(draws, what.did, idle=alone)
    return np.asarray(dynamic / 1e3 + watts * us / 1e3)


@dataclass(frozen=True)
class Anchor:
    """A published row, its relative error, and what draws make of it."""

    what: str
    unit: str
    value: float
    error: float
    model: Callable[[Draws], Floats]


def anchors() -> list[Anchor]:
    """The rows of arXiv 2503.18002v2: Table 3, and Figures 4 and 5, read off to 2 %."""

    def block_on_each(blocks: int, system: str) -> Asked:
        spec = load_system(system)
        graph, mapping = map.place(
            published_graph("370m", blocks=blocks),
            "",
            spec,
            Request("block-per-chip", head_on_host=True),
        )
        summary = blocks_alone(summarise(graph))
        return asked(counted(mapping, summary, expected(graph, mapping), spec), links=0.5)

    one, few = block_on_each(1, "oheo-gulch"), block_on_each(2, "kapoho-point")
    some, all_ = block_on_each(5, "kapoho-point"), block_on_each(BLOCKS, "alia-point-32")

    def one_block(draws: Draws) -> Floats:
        return generation_us(draws, one, 1, None)

    def one_chip_mj(draws: Draws, us: Floats, share: float, *, idle: bool) -> Floats:
        watts = share * draws["chip.static_power_w"]
        return np.asarray(BLOCKS * (dynamic_uj(draws, one.did, idle=idle) / 1e3 + watts * us / 1e3))

    def all_chips(draws: Draws) -> Floats:
        return generation_us(draws, all_, BLOCKS, None)

    board = "system.board_power_w"
    return [
        Anchor("one chip, prefill", "tokens/s", 13965, 0.01, lambda d: 1e6 / prefill_us(d, one)),
        Anchor(
            "one chip x 24, generation",
            "tokens/s",
            71.3,
            0.01,
            lambda d: 1e6 / BLOCKS / one_block(d),
        ),
        Anchor(
            "one chip x 24, prefill",
            "mJ/token",
            2.8,
            0.02,
            lambda d: one_chip_mj(d, prefill_us(d, one), 1, idle=False),
        ),
        Anchor(
            "one chip x 24, generation",
            "mJ/token",
            59,
            0.01,
            lambda d: one_chip_mj(d, one_block(d), BLOCKS, idle=True),
        ),
        Anchor("2 to 4 chips, a step in prefill", "us", 122.8, 0.02, lambda d: prefill_us(d, few)),
        Anchor("5 and more, a step in prefill", "us", 150, 0.02, lambda d: prefill_us(d, some)),
        Anchor("24 chips, prefill", "tokens/s", 6632, 0.01, lambda d: 1e6 / prefill_us(d, all_)),
        Anchor("24 chips, generation", "tokens/s", 41.5, 0.01, lambda d: 1e6 / all_chips(d)),
        Anchor(
            "24 chips, prefill",
            "mJ/token",
            3.7,
            0.02,
            lambda d: system_mj(d, all_, prefill_us(d, all_), alone=False, board=board),
        ),
        Anchor(
            "24 chips, generation",
            "mJ/token",
            405,
            0.01,
            lambda d: system_mj(d, all_, all_chips(d), alone=True, board=board),
        ),
    ]


COSTS = "time_", "energy_", "barrier_", "static_", "fall_through", "board_"


def priors() -> dict[str, Quantity]:
    """The constants that are drawn: those of the chip, the board of the 32-chip part, and the steps
    of a published block."""
    found = {
        name: value
        for name, value in figures(load_system("alia-point-32")).items()
        if name.partition(".")[2].startswith(COSTS) and value.low < value.high
    }
    return found | {
        STEPS: Quantity(4, 12, 16, "not published"),
        SHARE: Quantity(0.2, 1, 1, "what 24 chips drew in prefill is half of what one chip did"),
    }


def drawn(places: Floats, prior: Mapping[str, Quantity]) -> dict[str, Floats]:
    """The constants at places in the unit cube [draws, constants]."""
    found = {}
    for value, (name, q) in zip(places.T, prior.items(), strict=True):
        if q.low > 0:
            found[name] = q.low * (q.high / q.low) ** value
        else:
            found[name] = q.high * value
    return found


def likelihood(places: Floats, prior: Mapping[str, Quantity], rows: list[Anchor]) -> Floats:
    """The logarithm of how likely the anchors are [draws]; nothing outside the ranges."""
    inside = ((places >= 0) & (places <= 1)).all(1)
    total = np.zeros(len(places))
    draws = drawn(np.clip(places, 0, 1), prior)
    for row in rows:
        error = np.hypot(row.error, MODEL_ERROR)
        total -= 0.5 * (np.log(row.model(draws) / row.value) / error) ** 2
    return np.asarray(np.where(inside, total, -np.inf))


def visited(
    prior: Mapping[str, Quantity], rows: list[Anchor], walkers: int, rounds: int, seed: int
) -> Floats:
    """Places in the unit cube that walkers visit after half of their rounds [draws, constants]."""
    rng, size = np.random.default_rng(seed), len(prior)
    places = rng.uniform(size=(walkers, size))
    first = rng.uniform(size=(40 * walkers, size))
    score = likelihood(first, prior, rows)
    places = first[np.argsort(score)[-walkers:]]
    score = likelihood(places, prior, rows)
    halves, kept = (np.arange(walkers // 2), np.arange(walkers // 2, walkers)), []
    for number in range(rounds):
        for mine, others in (halves, halves[::-1]):
            stretch = (1 + rng.uniform(size=len(mine))) ** 2 / 2
            partner = places[rng.choice(others, len(mine))]
            step = partner + stretch[:, None] * (places[mine] - partner)
            there = likelihood(step, prior, rows)
            accept = (size - 1) * np.log(stretch) + there - score[mine] > np.log(
                rng.uniform(size=len(mine))
            )
            places[mine[accept]], score[mine[accept]] = step[accept], there[accept]
        if number >= rounds // 2 and number % 10 == 0:
            kept.append(places.copy())
    return np.concatenate(kept)


def interval(values: Floats) -> list[float]:
    """5, 50 and 95 %."""
    return [float(f"{value:.4g}") for value in np.quantile(values, [0.05, 0.5, 0.95])]


def shipped() -> Graph:
    """The shipped checkpoint as a graph."""
    from mmfree_neuro.pipeline.convert import to_graph
    from mmfree_neuro.pipeline.families import read_checkpoint

    folder = Path(__file__).parent.parent / "checkpoints" / "stdlib-5m"
    return to_graph(read_checkpoint(folder), None, SCHEMES[DEFAULT], "stdlib", "").graph


def estimates(draws: Draws) -> list[dict[str, object]]:
    """Two mappings under the draws; the board of eight chips is drawn where that of 32 is in its
    range."""
    full = published_graph("370m", scheme=DEFAULT, root="after")
    spread = Request("chain", 24, spread=True, weight_bits=2)
    rows = []
    for name, graph, system, request in (
        ("370m, 24 chips, spread", full, "alia-point-32", spread),
        ("shipped checkpoint, 8 chips", shipped(), "kapoho-point", Request("chain", 8)),
    ):
        spec = map.with_weight_bits(load_system(system), 2)
        divided, mapping = map.place(graph, "", spec, request)
        what = asked(counted(mapping, summarise(divided), expected(divided, mapping), spec))
        rows += _two(name, what, on_board(draws, spec))
    return rows


def on_board(draws: Draws, system: SystemSpec) -> dict[str, Floats]:
    """The draws with the board of another system, at the same place of its range."""
    board, ours = load_system("alia-point-32").board_power_w, system.board_power_w
    share = (draws["system.board_power_w"] - board.low) / (board.high - board.low)
    return {**draws, "system.board_power_w": ours.low + share * (ours.high - ours.low)}


def _two(name: str, what: Asked, draws: Draws) -> list[dict[str, object]]:
    board, steps = "system.board_power_w", what.uses.shape[1]
    prefill, alone = prefill_us(draws, what), generation_us(draws, what, 0, steps)
    return [
        {
            "what": f"{name}: {phase}",
            "unit": unit,
            "value": interval(values)[1],
            "interval": interval(values),
        }
        for phase, unit, values in (
            ("prefill", "tokens/s", 1e6 / prefill),
            ("prefill", "mJ/token", system_mj(draws, what, prefill, alone=False, board=board)),
            ("generation", "tokens/s", 1e6 / alone),
            ("generation", "mJ/token", system_mj(draws, what, alone, alone=True, board=board)),
        )
    ]


def main() -> None:
    """Draw, compare and write."""
    parser = argparse.ArgumentParser(description="Weighs constants by published rows.")
    parser.add_argument("--walkers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1500)
    options = parser.parse_args()
    rows_of, prior = anchors(), priors()
    how = options.walkers, options.rounds
    places = visited(prior, rows_of, *how, seed=15)
    draws = drawn(few(places), prior)
    written: list[dict[str, object]] = []
    for number, row in enumerate(rows_of):
        others = [*rows_of[:number], *rows_of[number + 1 :]]
        without = drawn(few(visited(prior, others, *how, seed=number)), prior)
        written.append(
            {
                "what": row.what,
                "unit": row.unit,
                "value": row.value,
                "all anchors": interval(row.model(draws)),
                "all others": interval(row.model(without)),
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
    written += estimates(draws)
    for line in written[-8:]:
        print(json.dumps(line))
    write("posterior", written)
    content = {name: [float(f"{v:.4g}") for v in found] for name, found in draws.items()}
    path = Path(str(resources.files("mmfree_neuro.systems") / "draws" / "loihi2.json"))
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def few(places: Floats) -> Floats:
    """So many of the places as are kept."""
    return places[np.random.default_rng(0).choice(len(places), KEPT, replace=False)]


if __name__ == "__main__":
    main()
