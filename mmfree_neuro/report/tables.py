"""What a run counted and costs as plain rows: for pandas, for JSON Lines, and in the names of
NeuroBench."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.load import PER_CORE, load
from mmfree_neuro.mapping.mapping import HOST
from mmfree_neuro.report.record import Content
from mmfree_neuro.run.run_file import RunRecord

Row = dict[str, Any]


def phases(run: RunRecord) -> Iterator[tuple[str, Counted]]:
    """The counts of each phase that has tokens."""
    counts = counted(run.mapping, run.summary, run.prefill, run.system)
    for phase, activity in (("prefill", run.prefill), ("generate", run.generate)):
        if activity.tokens:
            yield phase, replace(counts, activity=activity)


def trace(run: RunRecord) -> list[Row]:
    """For each phase, step of a token and core that does something at it: the mean counts of a
    token, and the nanoseconds of its busiest resource at central figures.

    Idle visits, which a machine with a barrier makes at every other step, are not in it.
    """
    rows = []
    kinds: dict[int, list[str]] = {}
    for node in run.summary.nodes:
        kinds.setdefault(node.step, []).append(node.kind)
    for phase, counts in phases(run):
        asked, chip = load(counts), counts.system.chip
        each = {name: getattr(chip, figure).central for name, figure in PER_CORE.items()}
        uses = {name: found / asked.tokens for name, found in asked.per_core.items()}
        busy = np.max([uses[name] * each[name] for name in uses], axis=0)
        some = sum(uses.values())
        for step, number in np.argwhere(some > 0).tolist():
            place = asked.cores[number]
            rows.append(
                {
                    "phase": phase,
                    "step": step,
                    "fires": sorted(set(kinds.get(step, []))),
                    "chip": place.chip,
                    "core": place.core,
                    **{
                        name.replace(" ", "_"): float(found[step, number])
                        for name, found in uses.items()
                    },
                    "busy_ns": float(busy[step, number]),
                }
            )
    return rows


def cores(report: Content) -> list[Row]:
    """Every core in use: what lies there, what it has of every limit, and its dynamic energy."""
    spent: dict[tuple[int, int], Row] = {}
    for mode, phase in report["phases"].items():
        for one in () if phase is None else phase["dynamic"]["cores"]:
            key = f"{mode}_millijoule_per_token"
            spent.setdefault((one["chip"], one["core"]), {})[key] = one["millijoule_per_token"]
    return [
        {
            "chip": core["chip"],
            "core": core["core"],
            "kind": core["kind"],
            "block": core["block"],
            "holds": core["holds"],
            **core["use"],
            **spent.get((core["chip"], core["core"]), {}),
        }
        for core in report["mapping"]["content"]
    ]


def links(report: Content) -> list[Row]:
    """Messages from chip to chip, per token over both phases; the host is chip -1."""
    return [dict(link) for link in report["links"]]


def energy(report: Content) -> list[Row]:
    """The energy of a token by phase and part: medians, with 5 and 95 %."""
    return [
        {
            "phase": mode,
            "part": part["name"],
            "operations_per_token": part["operations_per_token"],
            **{f"millijoule_{end}": value for end, value in part["millijoule_per_token"].items()},
            "source": part["source"],
        }
        for mode, phase in report["phases"].items()
        if phase is not None
        for part in phase["parts"]
    ]


def neurobench(run: RunRecord) -> dict[str, dict[str, Any]]:
    """The metrics of NeuroBench by phase, with its names: of each token, the mean.

    A footprint is the bytes that all cores hold.  An activation is a payload that a neuron may
    send, and those that are zero are sparse.  Weights are ternary, so what is effective is an
    addition; dense are all synapses, were every payload and weight not zero.
    """
    weights = sum(node.ternary_synapses for node in run.summary.nodes)
    others = sum(node.nonzero_synapses for node in run.summary.nodes)
    on_chip = np.array([place.chip != HOST for place in run.mapping.locations])
    payloads = sum(route.stop - route.start for route in run.mapping.routes)
    found = {}
    for phase, counts in phases(run):
        activity, tokens = counts.activity, counts.activity.tokens
        sent = int(activity.messages.sum())
        found[phase] = {
            "Footprint": sum(use.memory for use in run.use.values()),
            "ConnectionSparsity": 1 - others / weights if weights else 0.0,
            "ActivationSparsity": 1 - sent / (payloads * tokens) if payloads else 0.0,
            "SynapticOperations": {
                "Effective_MACs": 0.0,
                "Effective_ACs": float(activity.synops[on_chip].sum() / tokens),
                "Dense": float(_dense(run, on_chip)),
            },
        }
    return found


def _dense(run: RunRecord, on_chip: Any) -> float:
    """Ternary synapses of the shards on the chips."""
    nodes = {node.name: node for node in run.summary.nodes}
    return sum(
        nodes[shard.node].ternary_synapses * shard.size / nodes[shard.node].size
        for shard, here in zip(run.mapping.shards, on_chip.tolist(), strict=True)
        if here
    )
