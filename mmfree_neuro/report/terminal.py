"""Checkpoints, graphs, mappings, systems and runs as text for people, and the same as plain content
for machines."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from mmfree_neuro.baselines.compared import Figures
from mmfree_neuro.cost import constants
from mmfree_neuro.cost.energy import instructions, on_chips
from mmfree_neuro.cost.explore import Point, front, label, plain
from mmfree_neuro.cost.sensitivity import Sensitivity
from mmfree_neuro.cost.span import Span
from mmfree_neuro.cost.traffic import traffic
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.footprint import Footprint, limits, use_of_cores
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.report.record import Content
from mmfree_neuro.report.tables import phases
from mmfree_neuro.report.wording import PHASES, figure, pinned
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.systems.draws import left
from mmfree_neuro.systems.spec import Quantity, SystemSpec

VARIANCE = (
    "variance: the share of that of tokens/s and of mJ/token over all draws that goes with a "
    "figure, by ranks; figures that published rows tie together share it"
)
SHOWN = 4
"""Mappings that are listed where one of them is chosen."""
LEAST_MESSAGES = "proven least by rows alone, with cores no slower"
NO_BOUND = "sums are divided: no bound; mappings by rows alone, with cores no slower, have at least"
Bounds = dict[str, dict[str, float | None]]


def graph_line(graph: Graph) -> str:
    """A graph in one line."""
    synapses = sum(
        entry.matrix.size
        for node in graph.nodes
        for entry in node.inputs
        if entry.matrix is not None
    )
    neurons = sum(node.size for node in graph.nodes)
    size = (
        f"{graph.blocks} blocks, {len(graph.nodes)} nodes, {neurons} neurons, {synapses} "
        "ternary weights"
    )
    needs = f"accumulators of {graph.accumulator_bits} bits, payloads of {graph.payload_bits} bits"
    return f"{graph.name}, scheme {graph.scheme}: {size}; needs {needs}"


def quality(measured: dict[str, float]) -> str:
    """What the integers lost."""
    if not measured:
        return "quality was not measured"
    return (
        f"float {measured['float_nats']:.4f}, integers {measured['integer_nats']:.4f} nats per "
        "token "
        f"(perplexity ratio {measured['perplexity_ratio']:.5f}), greedy token equal in "
        f"{100 * measured['greedy_agreement']:.2f} % "
        f"of {int(measured['tokens'])} tokens"
    )


def graph_text(graph: Graph) -> str:
    """A graph, a node a line: neurons, inputs, outputs with their formats, instructions of a neuron
    for one token."""
    summary = {node.name: node for node in summarise(graph).nodes}
    lines = [graph_line(graph), quality(graph.quality), ""]
    for node in graph.nodes:
        reads = (
            ", ".join(f"{e.port} <- {e.how} {e.source}.{e.source_port}" for e in node.inputs)
            or "token"
        )
        sends = ", ".join(f"{o.port}:{o.qtype}" for o in node.outputs)
        about = summary[node.name]
        issued = sum(about.instructions.values())
        lines.append(
            f"step {about.step:4d}  {node.name} [{node.size} {about.kind}, {issued} "
            f"instructions] {reads} -> {sends}"
        )
    return "\n".join(lines)


def utilisation(
    use: dict[Any, Footprint], system: SystemSpec
) -> dict[str, dict[str, float | None]]:
    """For everything that a core has so much of: the most and the mean in use, the limit, and the
    low end of its range; None where the chip's file leaves it open."""
    least, found = limits(system.chip, "low"), {}
    for name, limit in limits(system.chip).items():
        used = [getattr(footprint, name) for footprint in use.values()]
        most, mean = max(used), sum(used) / len(used)
        found[name] = {"max": most, "mean": mean, "limit": limit, "low": least[name]}
    return found


def mapping_content(
    graph: Graph, mapping: Mapping, system: SystemSpec, bounds: Bounds
) -> dict[str, Any]:
    """A mapping in figures, beside the `bounds` that were proved."""
    use = use_of_cores(graph, mapping, system.chip)
    return {
        "system": system.name,
        "placer": mapping.placer,
        "in_flight": mapping.in_flight,
        "greedy_on_chips": mapping.greedy_on_chips,
        "chips": len(mapping.chips),
        "cores": len(mapping.cores),
        "shards": sum(place.chip != HOST for place in mapping.locations),
        "routes": len(mapping.routes),
        "utilisation": utilisation(use, system),
        "bounds": bounds,
        "cores_per_chip": {
            str(c): n for c, n in sorted(Counter(p.chip for p in mapping.cores).items())
        },
    }


def mapping(graph: Graph, mapped: Mapping, system: SystemSpec, bounds: Bounds) -> str:
    """A mapping as text."""
    content = mapping_content(graph, mapped, system, bounds)
    lines = [
        f"{graph_line(graph)}",
        f"{content['system']}, placer {content['placer']}: {content['shards']} shards on "
        f"{content['cores']} cores of "
        f"{content['chips']} chips, {content['routes']} routes"
        + (f", for {mapped.in_flight} sequences in flight" if mapped.in_flight > 1 else "")
        + (", chooses words itself" if mapped.greedy_on_chips else ""),
    ]
    for name, row in content["utilisation"].items():
        limit = "open" if row["limit"] is None else f"{row['limit']:.0f}"
        passed = row["low"] is not None and row["max"] > row["low"]
        lines.append(
            f"  {name.replace('_', ' '):18s} most {row['max']:>8.0f}  mean {row['mean']:>10.1f} "
            f" limit {limit:>8s}"
            + (f"  more than the low end of the limit, {row['low']:.0f}" if passed else "")
        )
    for name, gap in bounds.items():
        ratio = "" if gap["ratio"] is None else f"  ratio {gap['ratio']:.3f}"
        least = LEAST_MESSAGES if name.startswith("messages") else "proven least"
        if gap["least"] is None:
            bound = f"{NO_BOUND} {gap['by_rows_alone']:>10.0f}"
        else:
            bound = f"{least} {gap['least']:>10.0f}{ratio}"
        lines.append(f"  {name.replace('_', ' '):24s} {gap['found']:>10.0f}  {bound}")
    return "\n".join(lines)


def sensitivity(found: Sequence[Sensitivity]) -> str:
    """What each figure at its low and at its high end makes of every phase, the others central;
    and the shares of the variance of tokens/s and of mJ/token that go with it."""
    lines = []
    for one in found:
        base = one.base
        lines += [
            f"{PHASES[one.phase]}: {base.tokens_per_s:.4g} tokens/s, "
            f"{base.millijoule_per_token:.4g} mJ/token (system), every figure central",
            f"  {'one figure alone':34s} {'low':>10s} … {'high':<10s} {'tokens/s':>21s}   "
            f"{'mJ/token':>21s}   variance",
        ]
        for swing in one.swings:
            ends = swing.at_low, swing.at_high
            rates, energies = (
                " … ".join(f"{getattr(end, name):9.4g}" for end in ends)
                for name in ("tokens_per_s", "millijoule_per_token")
            )
            lines.append(
                f"  {swing.figure:34s} {swing.low:>10.4g} … {swing.high:<10.4g} {rates}   "
                f"{energies}   {100 * swing.share_of_rate:3.0f} %, "
                f"{100 * swing.share_of_energy:3.0f} %"
            )
    lines.append(VARIANCE)
    return "\n".join(lines)


def _bracketed(span: Span, width: int) -> str:
    """A figure with its interval, as wide as a column."""
    return f"{span.central:.4g} [{span.low:.3g} … {span.high:.3g}]".rjust(width)


def best_of(goal: str, points: Sequence[Point]) -> str:
    """Which of several mappings was taken, best first, and what the best few give."""
    best = points[0]
    lines = [
        f"best for {goal} of {len(points)} ways: {label(best.request)}, {best.chips} "
        f"chip{'s' if best.chips > 1 else ''}; the first of them, before any run, as if no payload "
        "were zero:",
        f"  {'tokens/s [5 … 95 %]':>26s} {'× the best':>20s} {'mJ/token, system':>26s} "
        f"{'chips':>5s}  choice",
    ]
    for point in points[:SHOWN]:
        spans = point.tokens_per_s, point.over(best)[0], point.millijoule_per_token
        cells = [_bracketed(*cell) for cell in zip(spans, (26, 20, 26), strict=True)]
        lines.append(f"  {' '.join(cells)} {point.chips:5d}  {label(point.request)}")
    return "\n".join(lines)


def best_of_content(goal: str, points: Sequence[Point]) -> dict[str, Any]:
    """The same for machines, with all of the mappings."""
    rows = [
        plain(point.request)
        | {
            "chips": point.chips,
            "tokens_per_s": vars(point.tokens_per_s),
            "millijoule_per_token": vars(point.millijoule_per_token),
            "tokens_per_s_over_the_best": vars(point.over(points[0])[0]),
        }
        for point in points
    ]
    return {"goal": goal, "ways": rows}


def mapping_text(graph: Graph, mapped: Mapping, system: SystemSpec, bounds: Bounds) -> str:
    """A mapping with every core and what lies on it."""
    held: dict[Location, list[str]] = defaultdict(list)
    for shard, place in zip(mapped.shards, mapped.locations, strict=True):
        held[place].append(f"{shard.node}[{shard.start}:{shard.stop}]")
    cores = (
        f"chip {place.chip} core {place.core}: {', '.join(held[place])}" for place in mapped.cores
    )
    return "\n".join([mapping(graph, mapped, system, bounds), "", *cores])


def system(spec: SystemSpec) -> str:
    """A system with every figure, its source, and what published rows leave of its range."""
    lines = [f"{spec.name}: {spec.description}"]
    drawn, shares = constants.drawn(spec), left(spec)
    for owner, record in (("system", spec), ("chip", spec.chip)):
        for field in fields(record):
            value = getattr(record, field.name)
            if isinstance(value, Quantity):
                span_of = (
                    f"{value.central:g}"
                    if value.low == value.high
                    else f"{value.low:g} … {value.central:g} … {value.high:g}"
                )
                lines.append(f"  {field.name} = {span_of}\n      {value.source}")
                if (share := shares.get(name := f"{owner}.{field.name}")) is not None:
                    span = drawn.span(drawn[name])
                    lines.append(
                        f"      published rows leave {span.low:.4g} … {span.high:.4g} "
                        f"(5 … 95 %): {pinned(share)}"
                    )
    return "\n".join(lines)


def speed(run: RunRecord) -> str:
    """How fast a simulation ran on this machine."""
    prompt, fed = run.prefill.tokens, run.generate.tokens
    parts = [f"{run.engine}: started in {run.seconds['start']:.2f} s"]
    parts.append(f"prefill {prompt / max(run.seconds['prefill'], 1e-9):.0f} tokens/s")
    if fed:
        parts.append(f"generation {fed / max(run.seconds['generate'], 1e-9):.0f} tokens/s")
    said = ", ".join(parts) + " (speed of the simulation, not of the chips)"
    ended = how_it_ended(run)
    return f"{ended}\n{said}" if ended else said


COUNTED = {
    "tokens": "tokens",
    "events": "events, neurons that fired",
    "synops": "synaptic operations",
    "reads": "synapses read",
    "instructions": "instructions, without idle visits",
    "messages": "messages, one a core reached",
    "between_chips": "messages to other chips or the host",
    "saturations": "saturated values",
    "wrapped": "wrapped sums",
}
"""What a run counts of a phase: a label for each count."""


def counts_content(run: RunRecord) -> dict[str, dict[str, int]]:
    """What was counted in each phase that has tokens, by the names of `COUNTED`: of neurons on the
    chips, but for values that saturated or wrapped, which the host has as well."""
    found = {}
    for phase, each in phases(run):
        did, sent, mapping = each.activity, traffic(each), each.mapping
        found[phase] = {
            "tokens": did.tokens,
            "events": on_chips(mapping, did.fired),
            "synops": on_chips(mapping, did.synops),
            "reads": on_chips(mapping, did.reads),
            "instructions": sum(instructions(each).values()),
            "messages": sent.messages,
            "between_chips": sent.between_chips,
            "saturations": int(did.saturations.sum()),
            "wrapped": int(did.wrapped.sum()),
        }
    return found


def counts(run: RunRecord) -> str:
    """The same as a table, a column for each phase."""
    found = counts_content(run)
    lines = [f"{'counted':36s}" + "".join(f"{PHASES[phase]:>20s}" for phase in found)]
    for name, words in COUNTED.items():
        cells = "".join(f"{of[name]:>20,}" for of in found.values())
        lines.append(f"{words:36s}{cells}")
    return "\n".join(lines)


def how_it_ended(run: RunRecord) -> str:
    """That texts came to their ends before their lengths did; nothing where none did."""
    ended = [one for one in run.results if one.ended == "eos"]
    if len(run.results) > 1:
        return f"{len(ended)} of {len(run.results)} texts ended at EOS" if ended else ""
    return "".join(
        f"ended at EOS after {len(one.new_tokens)} of {one.asked} tokens" for one in ended
    )


def texts(run: RunRecord) -> str:
    """All prompts of a run with what follows them, a paragraph each."""
    return "\n\n".join(f"{one.prompt}{one.text}" for one in run.results)


def scores(content: dict[str, Any]) -> str:
    """What a model scored in tasks, a line for each metric, with its standard error."""
    lines = [f"{'task':24s} {'metric':24s} {'value':>9s} {'± error':>9s} {'documents':>9s}"]
    for task, found in content["results"].items():
        for name, value in found.items():
            metric, _, how = name.partition(",")
            if not how or metric.endswith("_stderr"):
                continue
            error = found.get(f"{metric}_stderr,{how}")
            within = f"{error:9.4f}" if isinstance(error, float) else f"{'':9s}"
            documents = content["documents"].get(task, "")
            lines.append(f"{task:24s} {metric:24s} {value:9.4f} {within} {documents!s:>9s}")
    lines.append(f"{content['engine']}: {content['seconds']:.1f} s")
    return "\n".join(lines)


def gpu_row(row: dict[str, Any]) -> str:
    """What was measured on a GPU, in three lines."""
    checked = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in row["correctness"].items()
    )
    return (
        f"{row['name']}, {row['implementation']}\n"
        f"{row['mode']}, batch {row['batch']}, length {row['sequence_length']}: "
        f"{row['tokens_per_s']:,.1f} tokens/s, {row['millijoule_per_token']:.4g} mJ/token at "
        f"{row['average_w']:.0f} W "
        f"(idle {row['idle_w']:.0f} W), peak {row['peak_allocated_bytes'] / 1e9:.3f} GB on "
        f"{row['device']}\n"
        f"checked {checked}"
    )


def estimates(report: Content) -> str:
    """The estimated speed and energy of a report as a small table: medians, with 5 to 95 % in
    brackets."""
    lines = [_HEAD, *_phases("", report), *report["comparison"]["sentences"]]
    return "\n".join(lines)


def beside(reports: Sequence[Content]) -> str:
    """The same of several runs."""
    of_runs = (_phases(f"run {number}, ", one) for number, one in enumerate(reports, 1))
    return "\n".join([_HEAD, *(line for lines in of_runs for line in lines)])


_HEADS = "estimated [5 … 95 %]", "tokens/s", "mJ/token, chips alone", "mJ/token, system"
_HEAD = f"{_HEADS[0]:24s} {_HEADS[1]:>27s} {_HEADS[2]:>27s} {_HEADS[3]:>27s}"


def _phases(begin: str, report: Content) -> list[str]:
    """A line for each phase that has tokens."""
    return [
        _cells(
            f"{begin}{name}",
            [
                phase["tokens_per_s"],
                phase["chip_millijoule_per_token"],
                phase["millijoule_per_token"],
            ],
        )
        for name, phase in report["phases"].items()
        if phase is not None
    ]


def _cells(name: str, spans: Sequence[Figures]) -> str:
    """A line of the table: medians, and ranges in brackets."""
    shown = [f"{figure(c['central'])} [{figure(c['low'])} … {figure(c['high'])}]" for c in spans]
    return f"{name:24s} {shown[0]:>27s} {shown[1]:>27s} {shown[2]:>27s}"


def table(found: Sequence[Point], failed: Sequence[tuple[Request, str]]) -> str:
    """The fronts as text, fastest first, and how many points are not on them."""
    lines = []
    for phase, mode in dict.fromkeys((point.phase, point.mode) for point in found):
        here = [point for point in found if (point.phase, point.mode) == (phase, mode)]
        best = front(here)
        lines += [
            f"{phase}, {mode}: {len(best)} of {len(here)} points that no other beats",
            f"  {'tokens/s [5 … 95 %]':>26s} {'× the fastest':>20s} "
            f"{'mJ/token, system [5 … 95 %]':>28s} {'× the fastest':>20s} {'chips':>5s}  "
            "choice; slowest",
        ]
        for p in best:
            faster, dearer = p.over(best[0])
            cells = " ".join(
                _bracketed(span, width)
                for span, width in (
                    (p.tokens_per_s, 26),
                    (faster, 20),
                    (p.millijoule_per_token, 28),
                    (dearer, 20),
                )
            )
            late = f", {p.latency_seconds.central * 1e3:.3g} ms" if mode == "interleaved" else ""
            lines.append(f"  {cells} {p.chips:5d}  {label(p.request)}; {p.resource}{late}")
    lines += [
        f"not mapped: {label(request)}, {request.chips or 'fewest'} chips: {why}"
        for request, why in failed
        if request.copies == 1
    ]
    if too_many := sum(request.copies > 1 for request, _ in failed):
        lines.append(f"not mapped: {too_many} times more copies than there are chips for")
    return "\n".join(lines)
