"""What published rows leave of an estimate: its median and the interval from 5 to 95 %, under
constants that are drawn together."""

from dataclasses import dataclass

import numpy as np

from mmfree_neuro.cost.energy import Operations
from mmfree_neuro.cost.load import Floats, Load
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Table, Timing, barrier_figure, uses
from mmfree_neuro.systems.draws import SHARE, Draws, draws_of
from mmfree_neuro.systems.spec import SystemSpec


@dataclass(frozen=True)
class Likely:
    """Low is 5 %, central the median, high 95 %."""

    tokens_per_s: Span
    chip_millijoule_per_token: Span
    millijoule_per_token: Span


def likely(found: Load, did: Operations, system: SystemSpec, times: Timing) -> Likely | None:
    """The interval of an estimate in a mode that has a barrier; None where the system's constants
    were not drawn."""
    draws = draws_of(system)
    if draws is None:
        return None
    seconds = 1e-9 * _nanoseconds(found, draws, times)
    dynamic = 1e-9 * _picojoule(did, draws, times)
    chips = dynamic + 1e3 * seconds * did.chips * draws["chip.static_power_w"]
    rest = draws["system.board_power_w"] + draws["system.host_power_w"]
    return Likely(_span(1 / seconds), _span(chips), _span(chips + 1e3 * seconds * rest))


def _nanoseconds(found: Load, draws: Draws, times: Timing) -> Floats:
    """From token to token [draws]."""
    full = times.mode == "pipelined" or times.in_flight >= found.steps > 1
    alone = times.in_flight == 1
    table: Table = "all steps" if full else "each step" if alone else times.in_flight
    asked = uses(found, table, idle=not full)
    each = np.array([draws[f"chip.{figure}"] for figure in asked.figures])
    busy = np.zeros(each.shape[1])
    for counts in asked.counts.T / found.tokens:  # step by step
        busy += (counts[:, None] * each).max(0)
    ends = draws[f"chip.{barrier_figure(found.chips)}"]
    if full:
        return np.asarray(busy + ends)
    besides = ends + draws["chip.fall_through_step_ns"]
    return np.asarray((busy + found.steps * besides) / times.in_flight)


def _picojoule(did: Operations, draws: Draws, times: Timing) -> Floats:
    """The dynamic energy of a token [draws]."""
    idle = did.idle_instructions * (times.steps_apart - 1) / max(1, did.steps)
    total = counted_picojoule(did, draws, idle)
    if times.mode == "fall-through":
        total = total * draws["chip.fall_through_energy_ratio"]
    if did.chips > 1:
        total = total * draws[SHARE]
    return np.asarray(total / did.tokens)


def counted_picojoule(did: Operations, draws: Draws, idle: float) -> Floats:
    """What all that was counted in a phase takes, and so many instructions of idle visits,
    [draws]."""
    total = (
        did.synops * draws["chip.energy_per_synop_pj"]
        + did.instructions * draws["chip.energy_per_instruction_pj"]
        + did.messages * draws["chip.energy_per_message_pj"]
        + did.hops * draws["chip.energy_per_hop_pj"]
        + did.crossings * draws["chip.energy_per_crossing_pj"]
        + idle * draws["chip.energy_per_instruction_pj"]
    )
    return np.asarray(total)


def _span(values: Floats) -> Span:
    low, central, high = (float(value) for value in np.quantile(values, [0.05, 0.5, 0.95]))
    return Span(low, central, high)
