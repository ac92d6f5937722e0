"""The content of a report as sections of words, tables and names of pictures."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mmfree_neuro.baselines import roofline
from mmfree_neuro.baselines.compared import Figures, Ratio, Roofline, Theirs
from mmfree_neuro.baselines.published import NOT_MEASURED
from mmfree_neuro.report.record import Content, Phase, Text, Texts
from mmfree_neuro.report.wording import LIMITS, PHASES, change, figure, pinned, spread

ESTIMATE = (
    "Estimated from the counts with the figures of the system's description; nothing here was "
    "measured on a chip. Every figure is the median, and the range goes from 5 to 95 %, under "
    "constants that are drawn together, as published rows of the chip leave them, or inside their "
    "own ranges where no row is fitted to them. Medians of parts do not add up to the median of "
    "the whole. Where time and dynamic energy go, by what fires, by kind of node and by block, is "
    "at the central figures. The JSON report has what all low ends and all high ends at once would "
    "give, too."
)


SOURCED = (
    "Where published rows are fitted to the chip, the table says what they leave of a figure's "
    "range, and whether they pin it: where they do not, the estimates say no more than the range."
)


EMULATOR = "emulator"
"""The engine that runs a machine image in the place of a mapping."""
MOST_TEXTS = 8
"""Prompts whose texts a page shows."""


PIPELINED = (
    "In prefill a token enters at every step, so the throughput is that of a full pipeline; in "
    "generation the next token of a sequence enters when its last has left, and neurons that do "
    "not have one at a step are visited idly. Energy is given twice: for the chips in use alone, "
    "as published figures of one chip count it, and for the whole system, with its board, the "
    "static power of chips that are powered and not used, and its host where the system's "
    "description counts one. Without a barrier is what fully asynchronous chips would do."
)


@dataclass(frozen=True)
class Table:
    """A table of a page, in words; its first column names the rows."""

    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    folded: bool = False
    """Whether an HTML page shows it on request only."""


@dataclass(frozen=True)
class Branch:
    """A part of a whole, and its own parts, which an HTML page shows on request."""

    name: str
    share: float
    """Of the largest beside it."""
    branches: tuple["Branch", ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of a page: sentences, texts to be shown as they are, tables, the name of its
    picture, and wholes with their parts."""

    title: str
    sentences: tuple[str, ...] = ()
    texts: Sequence[tuple[str, str]] = ()
    tables: tuple[Table, ...] = ()
    picture: str = ""
    trees: tuple[Branch, ...] = ()
    """On an HTML page alone: tables say the same by kind and by block."""
    folded: bool = False
    """Whether an HTML page shows it on request only."""


MUCH = 0.25
"""A share of a token's time that the verdict tells of where nothing explains it."""


def verdict(report: Content) -> str:
    """What a run says, in one or two sentences: how fast, how much energy, against what, how
    sure."""
    mode = "generate" if report["phases"]["generate"] is not None else "prefill"
    phase = report["phases"][mode]
    if phase is None:
        return "No token ran through the chips, so nothing is estimated."
    ours = (
        f"In {PHASES[mode]} the chips are estimated at {spread(phase['tokens_per_s'], 'tokens/s')} "
        f"and {spread(phase['millijoule_per_token'], 'mJ a token')} for the whole system, "
        f"{figure(phase['chip_millijoule_per_token']['central'])} for the chips in use alone "
        "(brackets: 5 to 95 %, as figures of the chips are not known exactly)"
    )
    besides, fitted = _besides_share(phase), ""
    if besides is not None and besides > MUCH:
        fitted = (
            f" Of a token's time {figure(100 * besides, '%')} is what steps take besides work and "
            "barrier: a figure that is fitted to published rows, not explained."
        )
    ratios = [one for one in report["comparison"]["ratios"] if one["theirs"]["mode"] == mode]
    if not ratios:
        return (
            f"{ours}. No machine was measured with a model of this size, so there is no ratio."
            f"{fitted}"
        )
    best = max(ratios, key=lambda one: one["theirs"]["tokens_per_s"])
    saved = best["energy_theirs_over_ours"]
    energy = "" if saved is None else f", and its energy a token {spread(saved)} times ours"
    return (
        f"{ours}. That is {spread(best['throughput_ours_over_theirs'])} times the throughput of "
        f"the fastest machine measured with this size of model ({best['theirs']['name']} on "
        f"{best['theirs']['device']}){energy}.{fitted}"
    )


def _share(part: float, whole: float) -> str:
    return figure(100 * part / whole, "%") if whole else "none"


def _header(report: Content) -> Section:
    head, run = report["header"], report["run"]
    rows = [
        ("model", head["model"]),
        ("scheme", head["scheme"]),
        ("system", f"{head['system']}: {head['description']}"),
        ("chip", head["chip"]),
        ("placer", head["placer"]),
        ("engine", head["engine"]),
        ("date", head["date"]),
        ("versions", ", ".join(map(" ".join, head["versions"].items()))),
        *_texts(run),
    ]
    texts = [
        pair
        for one in run["results"][:MOST_TEXTS]
        for pair in (("Prompt", one["prompt"]), ("Generated", one["text"]))
    ]
    warnings = tuple(f"Warning: {warning}." for warning in report["warnings"])
    left = len(run["results"]) - MOST_TEXTS
    more = (f"The texts of {left:,} more prompts are in the run's folder.",) if left > 0 else ()
    table = Table("Model, system and versions", ("", ""), rows, folded=True)
    return Section("What was run", (*warnings, *more), texts, (table,))


def _texts(run: Texts) -> list[tuple[str, str]]:
    """How long the texts of a run are, and how they were drawn."""
    if len(run["results"]) == 1:
        (one,) = run["results"]
        end = "" if one["ended"] == "length" else f" of {one['asked']:,}, ended at EOS"
        return [
            ("prompt", f"{one['prompt_tokens']:,} tokens"),
            ("new text", f"{one['new_tokens']:,} tokens{end}"),
            *((name, figure(value)) for name, value in one["sampling"].items()),
        ]
    ended = sum(one["ended"] == "eos" for one in run["results"])
    return [
        ("prompts", f"{len(run['results']):,}, at most {run['in_flight']:,} in flight"),
        ("tokens of all prompts", f"{sum(one['prompt_tokens'] for one in run['results']):,}"),
        ("tokens of all new texts", f"{sum(one['new_tokens'] for one in run['results']):,}"),
        ("texts that ended at EOS", f"{ended:,}"),
    ]


def _quality(report: Content) -> Section:
    quality, words = report["quality"], []
    labels = {
        "tokens": ("predicted tokens", ""),
        "float_nats": ("float model", "nats per token"),
        "integer_nats": ("integers", "nats per token"),
        "perplexity_ratio": ("perplexity of the integers over perplexity of the float model", ""),
        "greedy_agreement": ("greedy token the same", ""),
    }
    for name, (label, unit) in labels.items():
        value = quality[name]
        if value is None:
            words.append((label, "not measured"))
        elif name == "perplexity_ratio":
            words.append((label, f"{figure(value)} ({change(value)})"))
        elif name == "greedy_agreement":
            words.append((label, figure(100 * value, "% of tokens")))
        else:
            words.append((label, f"{value:,.0f}" if name == "tokens" else figure(value, unit)))
    sentence = (
        "Measured on held-out text when the checkpoint was converted, from a zero state "
        "in every window."
    )
    return Section("Quality of the integers", (sentence,), (), (Table("", ("", ""), words),))


def _mapped(report: Content) -> Section:
    mapping, use = report["mapping"], report["mapping"]["use"]
    rows = [
        ("chips in use", f"{mapping['chips']:,} of {mapping['chips_of_system']:,}"),
        (
            "cores in use",
            f"{mapping['cores']:,} of {mapping['chips'] * mapping['cores_per_chip']:,} on these "
            "chips",
        ),
        ("head", "on the host, not counted here" if mapping["head_on_host"] else "on the chips"),
        ("nodes whose sums are divided by columns", f"{mapping['sums_divided']:,}"),
        ("norms whose roots every neuron finds", ", ".join(mapping["local_roots"]) or "none"),
        ("sequences that can be under way at once", f"{mapping['in_flight']:,}"),
        ("words are chosen", "on the chips" if mapping["greedy_on_chips"] else "by the host"),
        ("neurons held by a second core", f"{mapping['copied_neurons']:,}"),
        ("shards", f"{mapping['shards']:,}"),
        ("blocks", f"{mapping['blocks']:,}"),
        ("steps per token", f"{mapping['steps_per_token']:,}"),
        ("ternary synapses", f"{mapping['ternary_synapses']:,}"),
        ("of them not zero", _share(mapping["nonzero_synapses"], mapping["ternary_synapses"])),
    ]
    limits_ = []
    for name, (label, unit) in LIMITS.items():
        most, mean, limit = use[name]["max"], use[name]["mean"], use[name]["limit"]
        if limit is None:
            limits_.append((label, figure(most, unit), figure(mean, unit), "left open", "", ""))
        else:
            shares = _share(most, limit), _share(mean, limit)
            limits_.append(
                (label, figure(most, unit), figure(mean, unit), figure(limit, unit), *shares)
            )
    head = ("per core in use", "most", "mean", "limit", "most of the limit", "mean of the limit")
    tables = (
        Table("", ("", ""), rows),
        Table("Use of every limit of a core", head, limits_, folded=True),
    )
    return Section("The mapping", (), (), tables, "limits")


def _phase_table(
    report: Content, caption: str, labels: Mapping[str, Callable[[Phase], str]]
) -> Table:
    """Rows of words made from each phase that has tokens: a column for each of them."""
    phases = {name: phase for name, phase in report["phases"].items() if phase is not None}
    rows = [
        (label, *(words(phase) for phase in phases.values())) for label, words in labels.items()
    ]
    return Table(caption, ("", *(PHASES[name] for name in phases)), rows)


def _left_out(report: Content) -> tuple[str, ...]:
    empty = (PHASES[name] for name, phase in report["phases"].items() if phase is None)
    return tuple(
        f"The phase {name} is left out, because no token ran through the chips in it."
        for name in empty
    )


def _moved(report: Content) -> Section:
    labels = {
        "messages": "messages",
        "silent": "zeros, not sent",
        "hops": "mesh hops",
        "crossings": "link crossings",
        "between_chips": "messages that cross between chips or to the host",
    }
    rows = {"tokens": lambda phase: f"{phase['tokens']:,}"} | {
        label: lambda phase, key=key: figure(phase["traffic_per_token"][key])
        for key, label in labels.items()
    }
    table = _phase_table(report, "Per token", rows)
    tables = table, _crossed(report)
    return Section("Traffic", _left_out(report), (), tables, folded=True)


def _crossed(report: Content) -> Table:
    """Messages from chip to chip."""
    rows = [
        (
            f"{_chip(one['source'])} to {_chip(one['destination'])}",
            figure(one["messages_per_token"]),
        )
        for one in report["links"]
    ]
    caption = "Messages from chip to chip, per token over both phases"
    return Table(caption, ("link", "messages"), rows, folded=True)


def _chip(chip: int) -> str:
    return "host" if chip < 0 else f"chip {chip}"


def _counted(report: Content) -> Section:
    phases = [phase for phase in report["phases"].values() if phase is not None]
    classes = sorted({name for phase in phases for name in phase["instructions_per_token"]})
    rows = {
        "synaptic operations (weight and payload not zero)": lambda phase: figure(
            phase["synops_per_token"]
        ),
        "synapses read from dense storage": lambda phase: figure(phase["reads_per_token"]),
        "memory words read for them, of 64 bits": lambda phase: figure(phase["words_per_token"]),
        "instructions, without idle visits": lambda phase: figure(
            sum(phase["instructions_per_token"].values())
        ),
    } | {
        f"instructions {name}": lambda phase, name=name: figure(
            phase["instructions_per_token"].get(name, 0)
        )
        for name in classes
    }
    lost = {
        "saturated values": lambda phase: f"{phase['saturations']:,}",
        "wrapped sums": lambda phase: f"{phase['wrapped']:,}",
    }
    tables = (
        _phase_table(report, "Per token", rows),
        _phase_table(report, "In the whole phase", lost),
    )
    return Section("Counts", _left_out(report), (), tables, folded=True)


def _estimated(report: Content) -> Section:
    rows = {
        "throughput": lambda phase: spread(phase["tokens_per_s"], "tokens/s"),
        "energy of the chips alone": lambda phase: spread(
            phase["chip_millijoule_per_token"], "mJ/token"
        ),
        "energy of the system": lambda phase: spread(phase["millijoule_per_token"], "mJ/token"),
        "power of the system": lambda phase: spread(phase["watts"], "W"),
        "throughput without a barrier": lambda phase: spread(
            phase["without_barrier"]["tokens_per_s"], "tokens/s"
        ),
        "mode": lambda phase: phase["mode"],
        "time from token to token": lambda phase: spread(
            _times(phase["seconds_per_token"], 1e6), "µs"
        ),
        "latency of a token": lambda phase: spread(_times(phase["latency_seconds"], 1e6), "µs"),
        "step": lambda phase: spread(_times(phase["step_seconds"], 1e6), "µs"),
        "share of the barrier": lambda phase: figure(100 * phase["barrier_share"], "% of the time"),
        "share of what a step takes besides, unexplained": _besides,
        "what is slowest": lambda phase: f"{phase['resource']}: {phase['slowest']}",
    }
    tables = [_phase_table(report, "", rows)]
    trees: list[Branch] = []
    for name, phase in report["phases"].items():
        if phase is not None:
            tables += [_energy(name, phase), *_breakdown(name, phase), _mattering(name, phase)]
            trees += _trees(report, name, phase)
    tables += [_sequences(report)] if report["in_flight"] else []
    sentences = (ESTIMATE, PIPELINED, *_left_out(report))
    return Section(
        "Estimated speed and energy on the chips",
        sentences,
        (),
        tuple(tables),
        "energy",
        tuple(trees),
    )


def _besides(phase: Phase) -> str:
    share = _besides_share(phase)
    return "none" if share is None else figure(100 * share, "% of the time")


def _besides_share(phase: Phase) -> float | None:
    """What steps take that is neither a resource nor the barrier, as a share, where a token falls
    through."""
    steps = phase["each_step"]
    if not steps:
        return None
    whole = sum(step["seconds"] for step in steps)
    busy = sum(step["busy_seconds"] for step in steps)
    return max(0.0, 1 - busy / whole - phase["barrier_share"])


def _energy(name: str, phase: Phase) -> Table:
    """The energy of a token by part: how often, what each takes, by what it is multiplied, and
    totals."""
    whole = phase["millijoule_per_token"]["central"]
    head = (
        "part",
        "operations per token, chips or boards",
        "one of them",
        "energy",
        "share",
        "source of the figure for one",
    )
    rows = [
        (
            part["name"],
            figure(part["operations_per_token"]),
            spread(part["each"], part["unit"]),
            spread(part["millijoule_per_token"], "mJ/token"),
            _share(part["millijoule_per_token"]["central"], whole),
            part["source"],
        )
        for part in phase["parts"]
    ]
    counted = sum(part["unit"] == "pJ" for part in phase["parts"])
    rows[counted:counted] = [
        (
            f"all of these contain the factor of {one['why']}",
            "",
            spread(one["factor"]),
            "",
            "",
            one["source"],
        )
        for one in phase["factors"]
        if set(one["factor"].values()) != {1.0}
    ]
    for words, total in (
        ("the chips in use, in all", phase["chip_millijoule_per_token"]),
        ("the system, in all", phase["millijoule_per_token"]),
    ):
        share = _share(total["central"], whole)
        rows.append((words, "", "", spread(total, "mJ/token"), share, ""))
    return Table(f"Energy of a token in {PHASES[name]}, by part", head, rows, folded=True)


def _breakdown(name: str, phase: Phase) -> list[Table]:
    """Where the time of a token goes, by what fires, and its dynamic energy, by kind of node and by
    block."""
    tables = []
    if phase["by_step"]:
        whole = sum(row["seconds"] for row in phase["by_step"])
        rows = [
            (
                ", ".join(row["kinds"]) or "nothing, values wait",
                f"{row['steps']:,}",
                figure(1e6 * row["seconds"], "µs"),
                _share(row["seconds"], whole),
                figure(1e6 * row["busy_seconds"], "µs"),
                f"{row['resource']}: {row['slowest']}",
            )
            for row in phase["by_step"]
        ]
        head = "nodes that fire", "steps", "time, with barriers", "share", "of which busy", "with"
        caption = f"Time of a token in {PHASES[name]}, by what fires, at central figures"
        tables.append(Table(caption, head, rows, folded=True))
    spent = phase["dynamic"]
    blocks = {
        "outside the blocks" if block == "none" else f"block {block}": mj
        for block, mj in spent["blocks"].items()
    }
    for words, found in (("kind of node", spent["kinds"]), ("block", blocks)):
        total = sum(found.values())
        rows_of = [(who, figure(mj, "mJ/token"), _share(mj, total)) for who, mj in found.items()]
        caption = (
            f"Dynamic energy of a token in {PHASES[name]}, by {words}, without idle visits, at "
            "central figures"
        )
        tables.append(Table(caption, (words, "energy", "share"), rows_of, folded=True))
    return tables


MOST_FIGURES = 10
"""Figures of the system that are named where they matter."""


def _mattering(name: str, phase: Phase) -> Table:
    """The figures of the system that change most of a phase."""
    rows = [
        (
            one["figure"],
            f"{figure(one['low'])} to {figure(one['high'])}",
            " to ".join(map(figure, one["tokens_per_s"])),
            " to ".join(map(figure, one["millijoule_per_token"])),
            figure(100 * one["share_of_rate"], "%"),
            figure(100 * one["share_of_energy"], "%"),
        )
        for one in phase["sensitivity"][:MOST_FIGURES]
    ]
    head = "figure, alone at its ends", "range", "tokens/s", "mJ/token, system"
    shares = "of the variance of tokens/s", "of the variance of mJ/token"
    caption = f"Which figures of the system matter most in {PHASES[name]}"
    return Table(caption, (*head, *shares), rows, folded=True)


MOST_CORES = 12
"""Cores that are named of a block."""


def _trees(report: Content, name: str, phase: Phase) -> list[Branch]:
    """Where the time of a token goes, block by block and step by step, and its dynamic energy,
    chip by chip and core by core."""
    found = []
    if phase["each_step"]:
        steps: dict[str, list[Branch]] = {}
        whole = sum(step["seconds"] for step in phase["each_step"])
        longest = max(step["seconds"] for step in phase["each_step"])
        seconds: dict[str, float] = {}
        for number, step in enumerate(phase["each_step"]):
            block = _block(step["block"])
            seconds[block] = seconds.get(block, 0.0) + step["seconds"]
            words = (
                f"step {number}, {', '.join(step['kinds']) or 'values wait'}: "
                f"{figure(1e6 * step['seconds'], 'µs')}, of which "
                f"{figure(1e6 * step['busy_seconds'], 'µs')} {step['resource']}: {step['slowest']}"
            )
            steps.setdefault(block, []).append(Branch(words, step["seconds"] / longest))
        most = max(seconds.values())
        blocks = tuple(
            Branch(
                f"{block}: {figure(1e6 * taken, 'µs')}, {_share(taken, whole)}",
                taken / most,
                tuple(steps[block]),
            )
            for block, taken in seconds.items()
        )
        found.append(Branch(f"Time of a token in {PHASES[name]}: block, step", 1.0, blocks))
    places = {(core["chip"], core["core"]): core for core in report["mapping"]["content"]}
    of_chips: dict[int, list[tuple[float, str]]] = {}
    for one in phase["dynamic"]["cores"]:
        core = places.get((one["chip"], one["core"]))
        if core is not None:
            words = f"core {core['core']}, mostly {core['kind']} of {_block(core['block'])}"
            at = one["millijoule_per_token"], words
            of_chips.setdefault(core["chip"], []).append(at)
    total = sum(mj for cores in of_chips.values() for mj, _ in cores)
    if total > 0:
        most = max(sum(mj for mj, _ in cores) for cores in of_chips.values())
        parts = tuple(_of_cores(chip, of_chips[chip], most, total) for chip in sorted(of_chips))
        named = f"Dynamic energy of a token in {PHASES[name]}: chip, core"
        found.append(Branch(named, 1.0, parts))
    return found


def _of_cores(chip: int, cores: list[tuple[float, str]], most: float, total: float) -> Branch:
    """A chip with the cores that take most of its energy."""
    taken, largest = sum(mj for mj, _ in cores), max(mj for mj, _ in cores) or 1.0
    leaves = [
        Branch(f"{words}: {figure(mj, 'mJ/token')}, {_share(mj, total)}", mj / largest)
        for mj, words in sorted(cores, reverse=True)[:MOST_CORES]
    ]
    left = len(cores) - MOST_CORES
    leaves += [Branch(f"and {left:,} cores with less", 0.0)] if left > 0 else []
    name = f"chip {chip}: {figure(taken, 'mJ/token')}, {_share(taken, total)}, {len(cores):,} cores"
    return Branch(name, taken / most, tuple(leaves))


def _block(block: int | None) -> str:
    return "outside the blocks" if block is None else f"block {block}"


def _sequences(report: Content) -> Table:
    """Throughput against latency, for more and more sequences."""
    rows = [
        (
            f"{row['in_flight']:,}",
            spread(row["tokens_per_s"], "tokens/s"),
            spread(_times(row["latency_seconds"], 1e3), "ms"),
            spread(row["millijoule_per_token"], "mJ/token"),
            figure(row["state_bytes"], "bytes"),
            row["resource"],
        )
        for row in report["in_flight"]
    ]
    head = "sequences under way", "throughput", "latency of a token", "energy, system"
    room = report["mapping"]["in_flight"]
    caption = (
        "Generation with several sequences under way at once, by the same counts; the last row "
        f"fills the machine, and this mapping has room for {room:,}"
    )
    return Table(caption, (*head, "states", "slowest resource"), rows)


def _times(span: Figures, factor: float) -> Figures:
    return {
        "low": span["low"] * factor,
        "central": span["central"] * factor,
        "high": span["high"] * factor,
    }


def _simulated(report: Content) -> Section:
    seconds, rows = report["simulator_seconds"], []
    for name, taken in seconds.items():
        phase = report["phases"].get(name)
        rate = (
            f", {figure(phase['tokens'] / taken, 'tokens/s')}"
            if phase is not None and taken > 0
            else ""
        )
        rows.append((PHASES.get(name, name), figure(taken, "s") + rate))
    sentence = (
        f"How long the engine {report['header']['engine']} took on the computer that simulated "
        "the run. "
        "This is the speed of the simulator; it says nothing about the speed of the chips."
    )
    return Section(
        "Wall-clock speed of the simulator",
        (sentence,),
        (),
        (Table("", ("", ""), rows),),
        folded=True,
    )


def _measured(millijoule: float | None) -> str:
    return NOT_MEASURED if millijoule is None else figure(millijoule, "mJ/token")


def _row(row: Theirs) -> tuple[str, ...]:
    length = row["sequence_length"] or "not stated"
    name = (
        f"{row['name']} on {row['device']}; {row['implementation']}; precision {row['precision']}; "
        f"batch {row['batch']}; sequence length {length}"
    )
    marks, source = (
        ", ".join(row["stands_out_as"]) or "–",
        f"Energy: {row['power']}. Source: {row['source']}.",
    )
    return (
        name,
        marks,
        figure(row["tokens_per_s"], "tokens/s"),
        _measured(row["millijoule_per_token"]),
        source,
    )


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    ours = ratio["ours"]
    rate, energy = (
        spread(ours["tokens_per_s"], "tokens/s"),
        spread(ours["millijoule_per_token"], "mJ/token"),
    )
    saved = ratio["energy_theirs_over_ours"]
    times = [
        spread(ratio["throughput_ours_over_theirs"], "×"),
        NOT_MEASURED if saved is None else spread(saved, "×"),
    ]
    *theirs, source = _row(ratio["theirs"])
    return (
        f"{ours['name']}, estimated for the whole system: {rate}; {energy}",
        *theirs,
        *times,
        source,
    )


def _compared(report: Content) -> Section:
    comparison, tables = report["comparison"], []
    common = ("theirs", "stands out as", "their throughput", "their energy")
    head = (
        "ours",
        *common,
        "throughput, ours over theirs",
        "energy, theirs over ours",
        "what it counts; source",
    )
    for mode, phase in PHASES.items():
        rows = [_ratio(ratio) for ratio in comparison["ratios"] if ratio["theirs"]["mode"] == mode]
        tables += [Table(f"Ratios in {phase}", head, rows)] if rows else []
    context = [(PHASES[row["mode"]], *_row(row)) for row in comparison["context"]]
    if context:
        tables.append(
            Table(
                "Other models, or other phases: rows without ratios",
                ("phase", *common, "what it counts; source"),
                context,
                folded=True,
            )
        )
    sentences = tuple(comparison["sentences"])
    if comparison["estimated"]:
        tables.append(_rooflines(comparison["estimated"]))
        sentences = (*sentences, roofline.SENTENCE)
    return Section("Beside other machines", sentences, (), tuple(tables))


def _rooflines(rows: list[Roofline]) -> Table:
    words = []
    for row in rows:
        idle, full = (
            row["millijoule_per_token_at_idle_power"],
            row["millijoule_per_token_at_board_power"],
        )
        energy = figure(full, "mJ/token at full power; idle power not known")
        if idle is not None:
            energy = f"{figure(idle)} to {figure(full, 'mJ/token')}"
        sources = "; ".join(
            f"{roofline.WORDS[name]}: {source}" for name, source in row["sources"].items()
        )
        length = f", {row['sequence_length']:,} tokens" if row["mode"] == "prefill" else ""
        words.append(
            (
                f"{row['device']}; {PHASES[row['mode']]}, one sequence{length}",
                row["kind"],
                f"at most {figure(row['most_tokens_per_s'], 'tokens/s')}",
                row["bound_by"],
                energy,
                sources,
            )
        )
    head = ("GPU", "kind", "throughput", "bound by", "energy at that speed", "sources")
    return Table("Rooflines of GPUs: estimated bounds, not measured", head, words, folded=True)


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _sourced(report: Content) -> Section:
    rows = [
        (
            f"{row['of']}: {row['name']}",
            *(
                figure(_whole(value), row["unit"])
                for value in (row["low"], row["central"], row["high"])
            ),
            "" if row["left"] is None or row["drawn"] is None else spread(row["drawn"]),
            pinned(row["left"]),
            row["source"],
        )
        for row in report["sources"]
    ]
    head = "figure", "low", "central", "high", "published rows leave", "pinned", "source"
    return Section(
        "Sources of every figure of the system",
        sentences=(SOURCED,),
        tables=(Table("", head, rows),),
        folded=True,
    )


UNRECORDED = (
    "The graph keeps no hash of its checkpoint and no name of the text that it was calibrated "
    "with; the SHA-256 tells whether it is the same graph.",
    "A run does not keep whether --special, --bytes or --ignore-eos was given.",
)

TOO_MANY = (
    "prompts.jsonl has a line for each prompt, a JSON object with prompt, new_tokens, temperature "
    "and seed; run.json in the run's folder has them all."
)
WITHOUT_OPTIONS = (
    "This mapping, by placer {placer}, was not made by the command and keeps no options of it."
)


def _again(report: Content) -> Section:
    """What makes the run again, from the checkpoint on."""
    head, mapping = report["header"], "model.map"
    root = " --root before" if head["root_before"] else ""
    convert = f"convert {shlex.quote(head['model'])} -o model.graph --scheme {head['scheme']}{root}"
    options = head["options"] or ["--system", head["system"]]
    place = f"map model.graph {shlex.join(options)} -o {mapping}"
    image = []
    if head["engine"] == EMULATOR:
        image, mapping = [f"image {mapping} -o model.image"], "model.image"
    prompt, lines = _prompts(report["run"])
    simulate = f"simulate {mapping} --engine {head['engine']} {prompt} -o run"
    told = [] if head["system"] in options else ["--system", head["system"]]
    told += [word for text in head["set"] if text not in options for word in ("--set", text)]
    report_ = shlex.join(["report", "run", *told, "-o", "report.html"])
    steps = (convert, place, *image, simulate, report_)
    commands = "\n".join(f"mmfree-neuro {step}" for step in steps)
    shown = lines if len(report["run"]["results"]) <= MOST_TEXTS else ""
    texts = [("Commands", commands), *([("prompts.jsonl", shown)] if shown else [])]
    elsewhere = (TOO_MANY,) if lines and not shown else ()
    versions = ", ".join(map(" ".join, head["versions"].items()))
    sentences = (
        f"{head['model']} is the folder of the checkpoint, or its name in the local cache; its "
        f"graph has the SHA-256 {head['graph']}, which mmfree-neuro inspect model.graph --json "
        f"prints. A system from a file of its own is called by its name here, {head['system']}. "
        "Every engine gives the same tokens and counts.",
        *elsewhere,
        *UNRECORDED,
        *(() if head["options"] else (WITHOUT_OPTIONS.format(placer=head["placer"]),)),
        f"Made with {versions}.",
    )
    return Section("How to make it again", sentences, texts, folded=True)


def _prompts(run: Texts) -> tuple[str, str]:
    """The options that give the prompts of a run, and the file of prompts where there are
    several."""
    first, *others = run["results"]
    if others:
        told = [
            {"prompt": one["prompt"], "new_tokens": one["asked"]} | _sampled(one)
            for one in run["results"]
        ]
        lines = "\n".join(json.dumps(one) for one in told)
        return f"--prompts prompts.jsonl --in-flight {run['in_flight']}", lines
    words = ["--prompt", first["prompt"], "--new-tokens", str(first["asked"])]
    for name, value in _sampled(first).items():
        words += [f"--{name}", str(value)]
    return shlex.join(words), ""


def _sampled(one: Text) -> dict[str, float]:
    """How the tokens of a text were drawn; nothing where none was."""
    sampling = one["sampling"]
    if not sampling.get("temperature"):
        return {}
    return {"temperature": sampling["temperature"], "seed": int(sampling["seed"])}


def beside(reports: Sequence[Content], names: Sequence[str]) -> Section:
    """Several runs side by side, each under its name."""
    labels: dict[str, Callable[[Content], str]] = {
        "model": lambda one: f"{one['header']['model']}, {one['header']['scheme']}",
        "system": lambda one: one["header"]["system"],
        "placer": lambda one: one["header"]["placer"],
        "chips": lambda one: f"{one['mapping']['chips']:,}",
        "cores": lambda one: f"{one['mapping']['cores']:,}",
        "nodes whose sums are divided": lambda one: f"{one['mapping']['sums_divided']:,}",
        "norms whose roots every neuron finds": lambda one: (
            ", ".join(one["mapping"]["local_roots"]) or "none"
        ),
        "steps per token": lambda one: f"{one['mapping']['steps_per_token']:,}",
        "perplexity, integers over float": lambda one: _ratio_of(one),
    }
    for mode, name in PHASES.items():
        for key, what, unit in (
            ("tokens_per_s", "throughput", "tokens/s"),
            ("chip_millijoule_per_token", "energy, chips alone", "mJ/token"),
            ("millijoule_per_token", "energy, system", "mJ/token"),
        ):
            labels[f"{name}: {what}"] = partial(_of_phase, mode, key, unit)
        labels[f"{name}: what is slowest"] = partial(_slowest, mode)
    rows = [(label, *(words(one) for one in reports)) for label, words in labels.items()]
    table = Table("", ("", *names), rows)
    return Section("Runs side by side", (ESTIMATE,), (), (table,))


def _ratio_of(report: Content) -> str:
    ratio = report["quality"]["perplexity_ratio"]
    return "not measured" if ratio is None else figure(ratio)


def _of_phase(mode: str, key: str, unit: str, report: Content) -> str:
    phase = report["phases"][mode]
    return "–" if phase is None else spread(phase[key], unit)  # type: ignore[literal-required]


def _slowest(mode: str, report: Content) -> str:
    phase = report["phases"][mode]
    return "–" if phase is None else f"{phase['resource']}: {phase['slowest']}"


def sections(report: Content) -> tuple[Section, ...]:
    """What both pages show, in words."""
    parts = (
        _header,
        _quality,
        _estimated,
        _compared,
        _mapped,
        _moved,
        _counted,
        _simulated,
        _sourced,
        _again,
    )
    return tuple(part(report) for part in parts)
