"""Fits the figures of `systems/chips/loihi2.toml` that Intel does not publish to published rows of
one chip.

    python examples/benchmarks/fit_loihi2.py [--scheme a16]

The rows are those of arXiv 2503.18002v2: one block of the 370M model on one chip, 120 cores.  The
counts are this toolchain's: one block per chip, every payload non-zero, 35.4 % of the weights zero.
Prints the fitted figures and writes them as JSON; the TOML file has them rounded.

The steps of a block and token are those of the machine: that of entry and those of the block.  The
published block has no head, so the head's are left out.  Idle visits take time in them: how much is
a row of its own.
"""

import argparse
from dataclasses import replace
from typing import Any

from rows import write

from mmfree_neuro.cost import energy, timing
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.load import load
from mmfree_neuro.cost.traffic import traffic
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity
from mmfree_neuro.testing import blocks_alone, published_graph

# Published, arXiv 2503.18002v2; T3 is Table 3, F4 Figure 4 and F5 Figure 5 (both read off).
BLOCKS = 24
PREFILL_STEP_US = 1e6 / 13965  # T3
GENERATION_BLOCK_US = 1e6 / 71.3 / BLOCKS  # T3
PREFILL_UJ = 2.8e3 / BLOCKS  # T3, a block and token
GENERATION_UJ = 59e3 / BLOCKS  # T3
GENERATION_DYNAMIC_W = 0.269 - 0.152  # F4
FEW_CHIPS_STEP_US = 122.8  # F5, 2 to 4 chips
MANY_CHIPS_STEP_US = 150.0  # F5, 5 and more
BARRIER_ONE_CHIP_US = (
    0.2  # Intel Loihi 2 technology brief: the shortest chip-wide step is under 200 ns
)
BARRIER_LOIHI1_US = 14.0  # Loihi 1 over many chips, second-hand: 14 to 16 us
BOUNDARY_MESSAGES = 2048
"""The residual stream and its squares, from one block to the next."""

# Loihi 1, pJ: a synaptic operation, a tenth of an active neuron update, a spike out (SANA-FE), a
# hop
LOIHI1_PJ = {"synops": 23.6, "instructions": 8.1, "messages": 111.0, "hops": 3.5}


def counts(scheme: str, *, spread: bool = False) -> dict[str, float]:
    """Counts of one block for a token, and the slowest resources of its steps in microseconds with
    their barriers; `spread` has every node over all cores."""
    graph, system = published_graph("370m", scheme=scheme, blocks=1), load_system("oheo-gulch")
    request = Request("block-per-chip", head_on_host=True, spread=spread)
    graph, mapping = map.place(graph, "", system, request)
    activity = expected(graph, mapping)
    counts = counted(mapping, blocks_alone(summarise(graph)), activity, system)
    moved, asked = traffic(counts), load(counts)
    reads = asked.per_core["synapses read"]
    nothing = Quantity(0, 0, 0, "to be fitted")
    bare = replace(system, chip=replace(system.chip, fall_through_step_ns=nothing))
    slowest, without_idle = (
        timing.fall_through(each, bare).seconds_per_token.central * 1e6
        for each in (asked, replace(asked, guards=0 * asked.guards))
    )
    return {
        "synops": energy.on_chips(mapping, activity.synops),
        "reads": energy.on_chips(mapping, activity.reads),
        "messages": moved.messages,
        "hops": moved.hops,
        "instructions": sum(energy.instructions(counts).values()),
        "instructions_of_idle_visits": energy.idle_instructions(counts),
        "reads_of_the_slowest_core": float(reads.sum(0).max()),
        "steps": asked.steps,
        "us_of_the_slowest_resources_of_all_steps": slowest,
        "us_that_idle_visits_add_to_them": slowest - without_idle,
    }


def step_ns(found: dict[str, float]) -> float:
    """What is left of the published time of a block and token, for each of its steps."""
    slowest_us = found["us_of_the_slowest_resources_of_all_steps"]
    return (GENERATION_BLOCK_US - slowest_us) / found["steps"] * 1e3


def fit(scheme: str) -> dict[str, Any]:
    """The fitted figures, each with how it was found."""
    found = counts(scheme)
    static_w = (GENERATION_UJ - GENERATION_DYNAMIC_W * GENERATION_BLOCK_US) / (
        BLOCKS * GENERATION_BLOCK_US
    )
    prefill_uj = PREFILL_UJ - static_w * PREFILL_STEP_US
    loihi1_uj = sum(found[name] * each * 1e-6 for name, each in LOIHI1_PJ.items())
    factor = prefill_uj / loihi1_uj
    read_ns = (PREFILL_STEP_US - BARRIER_ONE_CHIP_US) * 1e3 / found["reads_of_the_slowest_core"]
    idle_uj = found["instructions_of_idle_visits"] * factor * LOIHI1_PJ["instructions"] * 1e-6
    crossing_ns = (FEW_CHIPS_STEP_US - BARRIER_LOIHI1_US) * 1e3 / BOUNDARY_MESSAGES
    return {
        "counts_of_a_block_and_token": found,
        "static_power_w": static_w,
        "dynamic_uj_of_a_block_and_token_in_prefill": prefill_uj,
        "factor_to_loihi1": factor,
        **{f"energy_per_{name}_pj": factor * each for name, each in LOIHI1_PJ.items()},
        "idle_visits_uj_of_a_block_and_token": idle_uj,
        "fall_through_energy_ratio": GENERATION_DYNAMIC_W
        * GENERATION_BLOCK_US
        / (prefill_uj + idle_uj),
        "time_per_synapse_ns": read_ns,
        "fall_through_step_ns": step_ns(found),
        "fall_through_step_with_every_node_over_all_cores_ns": step_ns(counts(scheme, spread=True)),
        "time_per_crossing_ns": crossing_ns,
        "barrier_few_chips_ns": BARRIER_LOIHI1_US * 1e3,
        "barrier_many_chips_ns": (MANY_CHIPS_STEP_US - FEW_CHIPS_STEP_US + BARRIER_LOIHI1_US) * 1e3,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fits figures of Loihi 2 to published rows.")
    parser.add_argument("--scheme", default="a16", choices=sorted(SCHEMES))
    scheme = parser.parse_args().scheme
    found = fit(scheme)
    block = found.pop("counts_of_a_block_and_token")
    rows = [
        {"what": f"a block and token: {name}", "value": value, "unit": ""}
        for name, value in block.items()
    ]
    rows += [
        {"what": name, "value": round(value, 4), "unit": name.rpartition("_")[2]}
        for name, value in found.items()
    ]
    write("fit_loihi2", [row | {"scheme": scheme} for row in rows])
