"""What others measured beside what the model of time and energy says: (published, ours, ratio,
fitted or predicted).

    python examples/benchmarks/validation.py

Prints the tables of docs/validation.md and writes them as JSON rows.
"""

import contextlib
import importlib.util
import io
import math
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rows import write

from mmfree_neuro.baselines import measured
from mmfree_neuro.baselines import published as baselines
from mmfree_neuro.cost import constants, timing
from mmfree_neuro.cost import energy as cost
from mmfree_neuro.cost.constants import Constants, Floats
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.load import load
from mmfree_neuro.cost.span import BOUNDS, Span
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.testing import blocks_alone, published_graph

BLOCKS = 24


@dataclass(frozen=True)
class Check:
    """A published figure and ours."""

    what: str
    unit: str
    published: float
    ours: Span
    how: str
    """Whether the row is fitted, fitted with other steps than this mapping has, predicted, taken
    over, or assumed."""
    source: str


def drawn_for(system: str) -> Constants:
    """The constants of a system as they are drawn together."""
    return constants.drawn(load_system(system))


def run(blocks: int, system_name: str) -> dict[str, tuple[Timing, cost.Energy]]:
    """Both phases of some blocks of the 370M model, one on each chip and without a head, as this
    toolchain maps them."""
    system = load_system(system_name)
    graph, mapping = map.place(
        published_graph("370m", blocks=blocks),
        "",
        system,
        Request("block-per-chip", head_on_host=True),
    )
    summary = blocks_alone(summarise(graph))
    counts = counted(mapping, summary, expected(graph, mapping), system)
    asked, drawn = load(counts), constants.drawn(system)
    return {
        name: (times, cost.energy(counts, times, drawn))
        for name, estimate in (("prefill", timing.pipelined), ("generate", timing.fall_through))
        for times in (estimate(asked, drawn),)
    }


def one_chip() -> list[Check]:
    """The rows of Table 3, which hold one block's figures for 24 blocks."""
    found, source = run(1, "oheo-gulch"), "arXiv 2503.18002v2, Table 3"
    drawn = drawn_for("oheo-gulch")
    (prefill, spent), (generate, alone) = found["prefill"], found["generate"]
    # every chip waits for the other blocks: static power of 24 chips for 24 times the time of a
    # block
    waiting = 1e3 * drawn["chip.static_power_w"] * generate.seconds * BLOCKS * (BLOCKS - 1)
    board = drawn["system.board_power_w"]
    chip_only = [
        one.whole - 1e3 * board * times.seconds
        for one, times in ((spent, prefill), (alone, generate))
    ]
    rows = (
        ("prefill", "tokens/s", 13965, 1 / prefill.seconds, "fitted, other width"),
        ("prefill", "mJ/token", 2.8, BLOCKS * chip_only[0], "fitted"),
        ("generation", "tokens/s", 71.3, 1 / generate.seconds / BLOCKS, "other steps"),
        ("generation", "mJ/token", 59, BLOCKS * chip_only[1] + waiting, "other steps"),
    )
    return [
        Check(f"one chip, one block, x 24: {phase}", unit, value, drawn.span(ours), how, source)
        for phase, unit, value, ours, how in rows
    ]


def many_chips() -> list[Check]:
    """The step times of Figure 5."""
    source, drawn = "arXiv 2503.18002v2, Figure 5 (read off)", drawn_for("kapoho-point")
    return [
        Check(
            f"{chips} chips, a block on each: a step in prefill",
            "us",
            published,
            drawn.span(1e6 * run(chips, "kapoho-point")["prefill"][0].seconds),
            "fitted, other links and width",
            source,
        )
        for chips, published in ((2, 122.8), (4, 122.8), (5, 150.0), (8, 150.0))
    ]


def pilotnet() -> list[Check]:
    """A spiking net of another kind: what a synaptic operation takes, all in."""
    source = (
        "lava-dl notebook, PilotNet SNN on one Loihi 2 (read off, derived); 30 to 72 pJ "
        "and 1.0 to 2.4 ns all in"
    )
    drawn = drawn_for("oheo-gulch")
    return [
        Check(
            f"PilotNet: a synaptic operation{core}, all in, middle of its range",
            unit,
            published,
            drawn.span(drawn[f"chip.{figure}"]),
            "predicted",
            source,
        )
        for core, unit, published, figure in (
            ("", "pJ", 51, "energy_per_synop_pj"),
            (" and core", "ns", 1.7, "time_per_synop_ns"),
        )
    ]


@dataclass(frozen=True)
class Workload:
    """What another workload does in a step, and the dynamic energy that was measured of it."""

    name: str
    synops: float
    updates: float
    """Of neurons."""
    spikes: float
    microjoule: float
    source: str


WORKLOADS = (
    Workload(
        "PilotNet SNN, one chip",
        1.14e6,
        182e3,
        0,
        68.3,
        "lava-dl notebook on one Loihi 2 (read off, derived); its messages are not stated",
    ),
    Workload("a workload on 74 cores of a VPX board", 3e5, 1e4, 2e4, 41, "second-hand"),
)
INSTRUCTIONS_OF_AN_UPDATE = 10
"""Assumed, as in the chip's description."""
BUSY_CORE_MILLIWATT = 1.378 * 1e3 / 120
"""Figure 4 of arXiv 2503.18002v2: 1.53 W less 0.152 W of static power, on 120 cores that are all
busy in prefill."""


def by_operations() -> list[Check]:
    """The dynamic energy of a step of other workloads from their published operation counts."""
    rows, drawn = [], drawn_for("oheo-gulch")
    for one in WORKLOADS:
        each = (
            (one.synops, "energy_per_synop_pj"),
            (one.updates * INSTRUCTIONS_OF_AN_UPDATE, "energy_per_instruction_pj"),
            (one.spikes, "energy_per_message_pj"),
        )
        ours: Floats = 1e-6 * sum(count * drawn[f"chip.{figure}"] for count, figure in each)
        what = f"{one.name}: dynamic energy of a step, by operations"
        rows.append(Check(what, "uJ", one.microjoule, drawn.span(ours), "predicted", one.source))
    return rows


def by_busy_cores() -> list[Check]:
    """The dynamic energy of a block of the 370M model and token on one chip, if every core that is
    busy draws the same: in prefill all are, in generation those of one step in twelve."""
    source = "arXiv 2503.18002v2, Figure 4 and Table 3"
    rows = []
    for what, published, share, us, how in (
        ("prefill", 98.7, 1, 1e6 / 13965, "fitted"),
        ("generation, a twelfth of the time", 68.4, 1 / 12, 1e6 / 71.3 / BLOCKS, "predicted"),
    ):
        ours = BUSY_CORE_MILLIWATT * 1e-3 * 120 * share * us
        name = f"370M, one block: dynamic energy of a token in {what}, by busy cores"
        read = Span(0.98 * ours, ours, 1.02 * ours)  # off a figure, to 2 %
        rows.append(Check(name, "uJ", published, read, how, source))
    return rows


def loihi1() -> list[Check]:
    """Operations of Loihi 1, with an LIF update as ten instructions."""
    chip, source, ten = load_system("loihi1-nahuku").chip, "Davies et al. 2018 (pre-silicon)", 10
    rows = []
    for what, unit, published, quantity, factor, how in (
        ("a synaptic operation", "pJ", 23.6, chip.energy_per_synop_pj, 1, "taken over"),
        ("a synaptic operation", "ns", 3.5, chip.time_per_synop_ns, 1, "taken over"),
        (
            "an active neuron update, ten instructions",
            "pJ",
            81,
            chip.energy_per_instruction_pj,
            ten,
            "assumed",
        ),
        (
            "an active neuron update, ten instructions",
            "ns",
            8.4,
            chip.time_per_instruction_ns,
            ten,
            "assumed",
        ),
        ("a hop", "pJ", 3.5, chip.energy_per_hop_pj, 1, "taken over"),
        ("a barrier over 32 tiles", "ns", 465, chip.barrier_one_chip_ns, 1, "taken over"),
        ("a barrier over many chips", "ns", 15000, chip.barrier_many_chips_ns, 1, "taken over"),
    ):
        span = Span(*(factor * end for end in (quantity.low, quantity.central, quantity.high)))
        rows.append(Check(f"Loihi 1: {what}", unit, published, span, how, source))
    return rows


def sanafe_example() -> list[Check]:
    """The example net of SANA-FE on its own description of Loihi 1, in 100 steps, beside its counts
    times the figures of this project's file; nothing where SANA-FE is not installed."""
    if importlib.util.find_spec("sanafe") is None:
        return []
    import sanafe

    folder = resources.files("sanafe") / "examples"
    net = (folder / "example_snn.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        path = Path(scratch) / "net.yaml"
        path.write_text(net.replace("demo_input[", "loihi_inputs["), encoding="utf-8")
        architecture = sanafe.load_arch(str(folder / "loihi.yaml"))
        chip = sanafe.SpikingChip(architecture)
        chip.load(sanafe.load_net(str(path), architecture))
        found = chip.sim(100)
    ours = load_system("loihi1-nahuku").chip
    each = (
        (found["spikes"], ours.energy_per_synop_pj),
        (found["neurons_updated"] * INSTRUCTIONS_OF_AN_UPDATE, ours.energy_per_instruction_pj),
        (found["packets_sent"], ours.energy_per_message_pj),
    )
    span = Span(*(1e-3 * sum(n * getattr(pj, b) for n, pj in each) for b in BOUNDS))
    what = "Loihi 1: SANA-FE's example net on its own Loihi, 100 steps, by operations"
    source = "SANA-FE 2.2.9, example_snn.yaml on loihi.yaml: 5 spikes, 200 updates, 3 packets"
    return [Check(what, "nJ", round(found["energy"]["total"] * 1e9, 3), span, "predicted", source)]


def ratios() -> list[dict[str, object]]:
    """The headline of the model family's paper, and the same numbers against the strongest
    baselines known."""
    rows = [
        row
        for row in (*baselines.load(), *measured.load()[0])
        if row.mode == "generate" and row.model == "370m" and row.batch == 1
    ]
    headline = next(row for row in rows if "headline" in row.implementation)
    deployed = next(row for row in rows if row.device.endswith("measured"))
    others = [row for row in rows if row.device_kind != "neuromorphic"]
    edge = next(
        r
        for r in others
        if r.device_kind == "edge GPU" and r.sequence_length == 500 and "Llama" in r.name
    )
    chosen = {
        "the edge GPU of the headline": edge,
        "the fastest edge GPU known": max(
            (r for r in others if r.device_kind == "edge GPU"), key=lambda row: row.tokens_per_s
        ),
        "the fastest GPU known, one sequence": max(others, key=lambda row: row.tokens_per_s),
        "the least energy known, one sequence": min(
            others, key=lambda row: row.millijoule_per_token or math.inf
        ),
    }
    system = load_system("alia-point-32")
    graph, mapping = map.place(
        published_graph("370m"), "", system, Request("block-per-chip", head_on_host=True)
    )
    counts = counted(mapping, summarise(graph), expected(graph, mapping), system)
    drawn = constants.drawn(system)
    times = timing.fall_through(load(counts), drawn)
    energy = cost.energy(counts, times, drawn).millijoule_per_token
    ours = {
        "published headline": (headline.tokens_per_s, headline.millijoule_per_token),
        "published, 24 chips measured": (deployed.tokens_per_s, deployed.millijoule_per_token),
        "our estimate, 24 chips, system": (times.tokens_per_s.central, energy.central),
    }
    return [
        {
            "what": f"{name} against {other}",
            "value": round(mine[0] / row.tokens_per_s, 3),
            "unit": "x throughput",
            "less energy": round(row.millijoule_per_token / mine[1], 3),
            "ours": list(mine),
            "theirs": [row.tokens_per_s, row.millijoule_per_token],
            "theirs is": (
                f"{row.name}, {row.implementation}, {row.precision}, {row.device}; "
                f"{row.power}; {row.source}"
            ),
        }
        for name, mine in ours.items()
        for other, row in chosen.items()
    ]


def checks() -> list[Check]:
    """All of them."""
    return [
        *one_chip(),
        *many_chips(),
        *pilotnet(),
        *by_operations(),
        *by_busy_cores(),
        *loihi1(),
        *sanafe_example(),
    ]


def table(found: list[Check]) -> list[str]:
    """The checks as the table of the page."""
    lines = ["| what | published | ours, 5 … 95 % | ratio | |", "|---|---:|---:|---:|---|"]
    for one in found:
        ours = one.ours
        span, ratio = (
            f"{ours.central:.4g} [{ours.low:.3g} … {ours.high:.3g}]",
            ours.central / one.published,
        )
        inside = "" if ours.low <= one.published <= ours.high else ", outside the range"
        lines.append(
            f"| {one.what} | {one.published:g} {one.unit} | {span} | {ratio:.3f} | "
            f"{one.how}{inside} |"
        )
    return lines


def main() -> None:
    """Print the tables and write the rows."""
    found, others = checks(), ratios()
    print(*table(found), "", sep="\n")
    for row in others:
        print(f"{row['what']}: {row['value']} x the throughput, {row['less energy']} x less energy")
        print(f"    {row['ours']} beside {row['theirs']}: {row['theirs is']}")
    rows: list[dict[str, object]] = [
        {
            "what": one.what,
            "value": one.ours.central,
            "unit": one.unit,
            "low": one.ours.low,
            "high": one.ours.high,
            "published": one.published,
            "ratio": round(one.ours.central / one.published, 4),
            "how": one.how,
            "source": one.source,
        }
        for one in found
    ]
    write("validation", rows + others)


if __name__ == "__main__":
    main()
