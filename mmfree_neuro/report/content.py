"""The report of a run: what ran, what it took up, what it counted, what that would cost on chips,
and what GPUs take.

`build` makes plain data, which is the JSON report.  Markdown and HTML show the same `sections` of
it.
"""

from dataclasses import asdict, fields, replace

from mmfree_neuro.baselines import roofline
from mmfree_neuro.baselines.compared import Figures
from mmfree_neuro.baselines.published import Baseline, compare
from mmfree_neuro.baselines.roofline import Gpu
from mmfree_neuro.cost import constants, energy, timing
from mmfree_neuro.cost.breakdown import Dynamic, Step, Steps, by_step, dynamic, each_step
from mmfree_neuro.cost.counted import Counted, counted
from mmfree_neuro.cost.estimate import Corners, estimate, modes
from mmfree_neuro.cost.explore import state_bytes
from mmfree_neuro.cost.load import WORDS, load
from mmfree_neuro.cost.sensitivity import Swing, sensitivity
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.timing import Timing
from mmfree_neuro.graph.summary import GraphSummary
from mmfree_neuro.mapping import mapping as mappings
from mmfree_neuro.mapping.footprint import Footprint, limits
from mmfree_neuro.mapping.mapping import HOST, Location
from mmfree_neuro.report.record import (
    Content,
    CoreInUse,
    CornersContent,
    DynamicContent,
    EachStep,
    InFlight,
    Link,
    MappingContent,
    Phase,
    Sourced,
    StepsContent,
    SwingContent,
    Times,
)
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.systems.draws import left
from mmfree_neuro.systems.figures import set_by_user
from mmfree_neuro.systems.spec import Quantity, SystemSpec

QUALITY = ("tokens", "float_nats", "integer_nats", "perplexity_ratio", "greedy_agreement")
SEQUENCES = 1, 8, 64
"""Sequences under way that a report estimates, beside those that fill the machine."""
UNITS = {"_pj": "pJ", "_ns": "ns", "_w": "W", "_bits": "bits"}


def build(
    run: RunRecord,
    baselines: tuple[Baseline, ...],
    use: dict[Location, Footprint],
    gpus: tuple[Gpu, ...] = (),
) -> Content:
    """The report as plain data; `use` is what `footprint.use_of_cores` found, `gpus` are those to
    estimate."""
    counts = counted(run.mapping, run.summary, run.prefill, run.system)
    generated = replace(counts, activity=run.generate)
    phases: dict[str, Phase | None] = {
        "prefill": _phase("prefill", counts),
        "generate": _phase("generate", generated, run.under_way),
    }
    one = phases["generate"] if run.under_way == 1 else _phase("generate", generated)
    alone = phases | {"generate": one}  # published and measured rows are of one sequence
    ours = {mode: phase for mode, phase in alone.items() if phase is not None}
    lengths = {
        "prefill": max(len(one.prompt_tokens) for one in run.results),
        "generate": max(len(one.prompt_tokens) + len(one.new_tokens) for one in run.results),
    }
    compared = compare(run.summary, run.system.name, ours, lengths, baselines)
    return {
        "format": "mmfree-neuro report 9",
        "warnings": list(run.warnings),
        "header": {
            "model": run.summary.name,
            "scheme": run.scheme,
            "system": run.system.name,
            "chip": run.system.chip.name,
            "description": run.system.description,
            "placer": run.mapping.placer,
            "options": list(run.mapping.options),
            "set": list(set_by_user(run.system)),
            "root_before": any(node.kind == "Norm" for node in run.summary.nodes),
            "engine": run.engine,
            "date": run.date,
            "graph": run.mapping.graph,
            "versions": dict(run.versions),
        },
        "run": {
            "in_flight": run.in_flight,
            "results": [
                {
                    "prompt": one.prompt,
                    "text": one.text,
                    "prompt_tokens": len(one.prompt_tokens),
                    "new_tokens": len(one.new_tokens),
                    "asked": one.asked,
                    "ended": one.ended,
                    "sampling": dict(one.sampling),
                }
                for one in run.results
            ],
        },
        "quality": {name: run.summary.quality.get(name) for name in QUALITY},
        "mapping": mapping_content(run.mapping, run.summary, run.system, use),
        "phases": phases,
        "in_flight": _in_flight(generated if run.generate.tokens else counts),
        "links": _links(run),
        "simulator_seconds": dict(run.seconds),
        "sources": _sources(run),
        "comparison": {**compared, "estimated": roofline.estimates(gpus, run.summary, lengths)},
    }


def mapping_content(
    mapping: mappings.Mapping,
    summary: GraphSummary,
    system: SystemSpec,
    use: dict[Location, Footprint],
) -> MappingContent:
    """A mapping in figures, and what lies on every core in use."""
    room, nodes = limits(system.chip), summary.nodes
    used = [use[place]._asdict() for place in mapping.cores]
    columns = {name: [core[name] for core in used] for name in room}
    return {
        "chips": len(mapping.chips),
        "chips_of_system": int(system.chips.central),
        "chip_columns": int(system.chip_columns.central),
        "cores": len(mapping.cores),
        "cores_per_chip": int(system.chip.cores.central),
        "mesh_columns": int(system.chip.mesh_columns.central),
        "cores_per_router": int(system.chip.cores_per_router.central),
        "shards": sum(place.chip != HOST for place in mapping.locations),
        "head_on_host": nodes[-1].name
        in {
            shard.node
            for shard, place in zip(mapping.shards, mapping.locations, strict=True)
            if place.chip == HOST
        },
        "sums_divided": len(mapping.columns),
        "local_roots": list(mapping.local_roots),
        "in_flight": mapping.in_flight,
        "greedy_on_chips": mapping.greedy_on_chips,
        "copied_neurons": sum(shard.size for shard in mapping.shards)
        - sum(node.size for node in nodes),
        "steps_per_token": summary.steps,
        "blocks": summary.blocks,
        "ternary_synapses": sum(node.ternary_synapses for node in nodes),
        "nonzero_synapses": sum(node.nonzero_synapses for node in nodes),
        "use": {
            n: {"max": max(c), "mean": sum(c) / len(c), "limit": room[n]}
            for n, c in columns.items()
        },
        "content": _content(mapping, summary, use),
    }


def _content(
    mapping: mappings.Mapping, summary: GraphSummary, use: dict[Location, Footprint]
) -> list[CoreInUse]:
    """Every core in use: its use, and the kind and the block that most of its synapses (or else
    neurons) belong to."""
    nodes = {node.name: node for node in summary.nodes}
    heaviest: dict[Location, tuple[float, int, str, int | None]] = {}
    holds: dict[Location, list[str]] = {}
    blocks: dict[Location, set[int]] = {}
    for shard, place in zip(mapping.shards, mapping.locations, strict=True):
        node = nodes[shard.node]
        load = (node.ternary_synapses * shard.size / node.size, shard.size)
        holds.setdefault(place, []).append(f"{shard.node} [{shard.start}, {shard.stop})")
        some = blocks.setdefault(place, set())
        if node.block is not None:
            some.add(node.block)
        if place.chip != HOST and (place not in heaviest or load > heaviest[place][:2]):
            heaviest[place] = (*load, node.kind, node.block)
    return [
        {
            "chip": place.chip,
            "core": place.core,
            "kind": heaviest[place][2],
            "block": heaviest[place][3],
            "blocks": sorted(blocks[place]),
            "holds": holds[place],
            "use": use[place]._asdict(),
        }
        for place in mapping.cores
    ]


def _figures(span: Span | Quantity) -> Figures:
    return {"low": span.low, "central": span.central, "high": span.high}


def _times(found: Timing) -> Times:
    return {
        "mode": found.mode,
        "tokens_per_s": _figures(found.tokens_per_s),
        "seconds_per_token": _figures(found.seconds_per_token),
        "latency_seconds": _figures(found.latency_seconds),
        "step_seconds": _figures(found.step_seconds),
        "steps_per_token": found.steps_per_token,
        "slowest": timing.where(found.slowest),
        "resource": found.resource,
        "barrier_share": found.barrier_share,
        "in_flight": found.in_flight,
        "steps_apart": found.steps_apart,
    }


def _phase(phase: str, counts: Counted, in_flight: int = 1) -> Phase | None:
    mapping, activity = counts.mapping, counts.activity
    tokens = activity.tokens
    if tokens == 0:
        return None
    estimated, drawn = estimate(counts, phase, in_flight), constants.drawn(counts.system)
    mode, _ = modes(phase, in_flight)
    loaded = load(counts)
    spent = dynamic(counts, mode(loaded, constants.central(counts.system)))
    alone = estimated.timing.mode == "fall-through"
    each = each_step(loaded, counts) if alone else ()
    issued = energy.instructions(counts)
    moved = asdict(estimated.traffic)
    return {
        "tokens": tokens,
        "traffic_per_token": {key: count / tokens for key, count in moved.items()},
        "synops_per_token": energy.on_chips(mapping, activity.synops) / tokens,
        "reads_per_token": energy.on_chips(mapping, activity.reads) / tokens,
        "words_per_token": float(loaded.per_core[WORDS].sum()) / tokens,
        "instructions_per_token": {key: count / tokens for key, count in sorted(issued.items())},
        "saturations": int(activity.saturations.sum()),
        "wrapped": int(activity.wrapped.sum()),
        **_times(estimated.timing),
        "without_barrier": _times(estimated.without_barrier),
        "chip_millijoule_per_token": _figures(estimated.chip_millijoule_per_token),
        "millijoule_per_token": _figures(estimated.millijoule_per_token),
        "watts": _figures(estimated.energy.watts),
        "corners": _corners(estimated.corners),
        "parts": [
            {
                "name": part.name,
                "operations_per_token": part.operations_per_token,
                "each": _figures(part.each),
                "unit": part.unit,
                "millijoule_per_token": _figures(part.millijoule_per_token),
                "source": part.source,
            }
            for part in estimated.energy.parts
        ],
        "factors": [
            {
                "why": factor.why,
                "factor": _figures(drawn.span(factor.values)),
                "source": factor.source,
            }
            for factor in estimated.timing.dynamic
        ],
        "dynamic": _dynamic(spent),
        "by_step": [_steps(row) for row in by_step(each)],
        "sensitivity": [_swing(one) for one in sensitivity(counts, phase, in_flight).swings],
        "each_step": [_step(step) for step in each],
    }


def _dynamic(spent: Dynamic) -> DynamicContent:
    return {
        "kinds": spent.kinds,
        "blocks": {"none" if k is None else str(k): mj for k, mj in spent.blocks.items()},
        "chips": {str(chip): mj for chip, mj in spent.chips.items()},
        "cores": [
            {"chip": place.chip, "core": place.core, "millijoule_per_token": mj}
            for place, mj in spent.cores.items()
        ],
        "links": [
            {"source": a, "destination": b, "millijoule_per_token": mj}
            for (a, b), mj in spent.links.items()
        ],
    }


def _steps(row: Steps) -> StepsContent:
    return {
        "kinds": list(row.kinds),
        "steps": row.steps,
        "seconds": row.seconds,
        "busy_seconds": row.busy_seconds,
        "resource": row.resource,
        "slowest": row.slowest,
    }


def _swing(swing: Swing) -> SwingContent:
    ends = swing.at_low, swing.at_high
    return {
        "figure": swing.figure,
        "low": swing.low,
        "high": swing.high,
        "tokens_per_s": [end.tokens_per_s for end in ends],
        "millijoule_per_token": [end.millijoule_per_token for end in ends],
        "share_of_rate": swing.share_of_rate,
        "share_of_energy": swing.share_of_energy,
    }


def _step(step: Step) -> EachStep:
    return {
        "block": step.block,
        "kinds": list(step.kinds),
        "seconds": step.seconds,
        "busy_seconds": step.busy_seconds,
        "resource": step.resource,
        "slowest": step.slowest,
    }


def _corners(found: Corners) -> CornersContent:
    return {
        "tokens_per_s": _figures(found.tokens_per_s),
        "chip_millijoule_per_token": _figures(found.chip_millijoule_per_token),
        "millijoule_per_token": _figures(found.millijoule_per_token),
    }


def _in_flight(counts: Counted) -> list[InFlight]:
    """What generation would be with 1, 8 or 64 sequences under way, and with as many as fill the
    machine; nothing where nothing was counted."""
    if not counts.activity.tokens:
        return []
    asked, found, drawn = load(counts), [], constants.drawn(counts.system)
    full = counts.summary.steps + 1
    for in_flight in sorted({*(few for few in SEQUENCES if few < full), full}):
        times = timing.generation(asked, drawn, in_flight)
        spent = energy.energy(counts, times, drawn)
        found.append(
            InFlight(
                in_flight=in_flight,
                tokens_per_s=_figures(times.tokens_per_s),
                latency_seconds=_figures(times.latency_seconds),
                chip_millijoule_per_token=_figures(spent.chip_millijoule_per_token),
                millijoule_per_token=_figures(spent.millijoule_per_token),
                resource=times.resource,
                state_bytes=state_bytes(counts.summary, in_flight),
            )
        )
    return found


def _links(run: RunRecord) -> list[Link]:
    """Messages per token, over both phases, from each chip to each other chip; the host is chip
    -1."""
    sent = (run.prefill + run.generate).messages.tolist()
    tokens, found = run.prefill.tokens + run.generate.tokens, dict[tuple[int, int], int]()
    for route, messages in zip(run.mapping.routes, sent, strict=True):
        source = run.mapping.locations[route.source].chip
        for chip in {place.chip for place in route.destinations} - {source}:
            found[source, chip] = found.get((source, chip), 0) + messages
    each = sorted((pair, count / max(tokens, 1)) for pair, count in found.items())
    return [{"source": a, "destination": b, "messages_per_token": count} for (a, b), count in each]


def _sources(run: RunRecord) -> list[Sourced]:
    rows: list[Sourced] = []
    drawn, shares = constants.drawn(run.system), left(run.system)
    for owner, spec in (("system", run.system), ("chip", run.system.chip)):
        for field in fields(spec):
            if isinstance(quantity := getattr(spec, field.name), Quantity):
                key = f"{owner}.{field.name}"
                suffix = next((suffix for suffix in UNITS if field.name.endswith(suffix)), "")
                name = field.name.removesuffix(suffix).replace("_bytes", "").replace("_", " ")
                unit = "bytes" if "_bytes" in field.name else UNITS.get(suffix, "")
                rows.append(
                    {
                        "of": owner,
                        "name": name,
                        "unit": unit,
                        "low": quantity.low,
                        "central": quantity.central,
                        "high": quantity.high,
                        "source": quantity.source,
                        "drawn": _figures(drawn.span(drawn[key])) if key in drawn.values else None,
                        "left": shares.get(key),
                    }
                )
    return rows
