"""The report of a run made by hand: what it says, what it leaves out, and that its pages stand
alone."""

import html
import itertools
import json
import math
import re
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.baselines import published, roofline
from mmfree_neuro.cost import constants
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary
from mmfree_neuro.mapping.footprint import Footprint
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.report import chips, content, drawn, pages, pictures, sections, terminal, wording
from mmfree_neuro.report.wording import figure, spread
from mmfree_neuro.run.activity import Activity, nothing
from mmfree_neuro.run.run_file import Continued, RunRecord, totals
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

USE = {
    Location(0, 0): Footprint(40, 20, neurons=2, input_axons=4, state_per_neuron=12),
    Location(0, 5): Footprint(50, 30, neurons=2, input_axons=6, state_per_neuron=12),
    Location(1, 6): Footprint(20, 10, neurons=2, input_axons=4, state_per_neuron=4),
}
PICTURES = ["cores-by-kind", "cores-by-memory", "energy", "limits", "links"]


def drawn_as_png(content: dict[str, Any]) -> dict[str, bytes]:
    """Every picture of a report as a PNG."""
    return {name: pictures.png(picture) for name, picture in pictures.draw(content).items()}


@pytest.fixture(autouse=True)
def _at_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not drawn, but all at their low ends, all central, and all at their high ends, so
    that what comes of them can be worked out by hand."""
    monkeypatch.setattr(constants, "drawn", constants.corners)


def board() -> SystemSpec:
    """Round figures; every memory word takes 200 ns, which is two synapses of a
    shard, and nothing else takes time but a barrier of
    1000 ns."""
    figures = {
        field.name: Quantity(0, 0, 0, f"source of {field.name}")
        for field in fields(ChipSpec)
        if field.name != "name" and field.default is MISSING
    }

    def of(name: str, low: float, central: float, high: float) -> Quantity:
        return Quantity(low, central, high, f"source of {name}")

    changed = {
        "cores": (8, 8, 8),
        "mesh_columns": (4, 4, 4),
        "cores_per_router": (1, 1, 1),
        "memory_bytes_per_core": (100, 100, 100),
        "synaptic_memory_bytes_per_core": (60, 60, 60),
        "neurons_per_core": (8, 8, 8),
        "weight_bits": (2, 2, 2),
        "state_bytes_per_neuron": (16, 16, 16),
        "input_axons_per_core": (10, 10, 10),
        "energy_per_synop_pj": (5, 10, 20),
        "static_power_w": (0.25, 0.5, 1),
        "time_per_word_ns": (100, 200, 400),
        "barrier_few_chips_ns": (1000, 1000, 1000),
        "fall_through_energy_ratio": (0.5, 0.5, 0.5),
        "multi_chip_energy_ratio": (1, 1, 1),
    }
    figures |= {name: of(name, *values) for name, values in changed.items()}
    grid = of("chips", 4, 4, 4), of("chip_columns", 2, 2, 2), of("chip_rows", 2, 2, 2)
    power = of("board_power_w", 0, 1, 2), of("host_power_w", 0, 0.5, 1)
    powered = of("powered_chips", 2, 2, 2)
    chip = ChipSpec(name="chip", **figures)
    return SystemSpec("board", "four small chips", *grid, *power, chip, powered)


def made_run(synapses: int = 24, **changes: Any) -> RunRecord:
    """Two tokens of prompt and two of generation over two chips; changes are fields of the run, or
    of its one result."""
    summary = GraphSummary(
        "net",
        "a16",
        1,
        2,
        32,
        {"float_nats": 1.8, "integer_nats": 1.81, "perplexity_ratio": 1.01005},
        (
            NodeSummary("embedding", "Embedding", 4, None, 0, {"ADD": 100}, 0, 0),
            NodeSummary(
                "layers.0.mix",
                "MLGRU",
                4,
                0,
                1,
                {"ADD": 2, "MUL_SHR": 1},
                synapses * 2 // 3,
                synapses // 2,
            ),
            NodeSummary(
                "head", "Head", 2, None, 2, {"ADD": 1}, synapses - synapses * 2 // 3, synapses // 4
            ),
        ),
    )
    host, first, second, last = Location(HOST, 0), *USE
    shards = (
        Shard("embedding", 0, 4),
        Shard("layers.0.mix", 0, 2),
        Shard("layers.0.mix", 2, 4),
        Shard("head", 0, 2),
    )
    routes = (
        Route(0, "x", (first, second), 0, 4),
        Route(1, "v", (second, last), 0, 2),
        Route(2, "v", (last,), 2, 4),
        Route(3, "logits", (host,), 0, 2),
    )
    mapping = Mapping("digest", "board", "by hand", shards, (host, first, second, last), routes)
    fired, synops, reads = (
        np.array([2, 2, 2, 2]),
        np.array([0, 6, 8, 10]),
        np.array([0, 12, 16, 14]),
    )
    activity = Activity(
        2,
        fired,
        synops,
        reads,
        np.array([0, 1, 0, 2]),
        np.array([0, 0, 4, 1]),
        np.array([7, 4, 3, 4]),
    )
    result = Continued(
        "Once | <b>upon</b>",
        "a `time`\n```\nend",
        (1, 2),
        (3, 4, 5),
        {"temperature": 0.0, "seed": 7},
        "length",
        3,
        {"prefill": totals(activity), "generate": totals(activity)},
    )
    of_result = {field.name for field in fields(Continued)} & set(changes)
    run = RunRecord(
        "reference",
        "a16",
        (replace(result, **{name: changes.pop(name) for name in of_result}),),
        1,
        {"start": 0.5, "prefill": 4.0, "generate": 1.0},
        activity,
        activity,
        summary,
        mapping,
        board(),
        {"python": "3.11.0"},
        "2025-01-02T03:04:05+00:00",
        USE,
    )
    return replace(run, **changes)


def built(run: RunRecord) -> dict[str, Any]:
    """The report of a run beside all rows."""
    return content.build(run, published.load(), run.use)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "mJ", "0 mJ"),
        (1.0, "W", "1.00 W"),
        (0.012345, "mJ", "0.0123 mJ"),
        (1.2345e-7, "mJ", "0.123 nJ"),
        (0.00099, "mJ/token", "0.990 µJ/token"),
        (0.0001, "s", "0.100 ms"),
        (1.2345e-5, "pJ", "1.23 × 10⁻⁵ pJ"),
        (-1.2345e-5, "×", "-1.23 × 10⁻⁵ ×"),
        (0.00012, "tokens/s", "0.000120 tokens/s"),
        (123.4, "", "123"),
        (999.6, "ns", "1,000 ns"),
        (13965.0, "tokens/s", "14,000 tokens/s"),
        (1_234_567.0, "", "1.23 million"),
        (2_619_473_920, "", "2.62 billion"),
        (8192, "bytes", "8,192 bytes"),
        (-0.5, "%", "-0.500 %"),
        (None, "×", "without bound ×"),
    ],
)
def test_a_figure_has_three_digits_and_its_unit_and_a_count_is_whole(
    value: float | None, unit: str, text: str
) -> None:
    assert figure(value, unit) == text


def test_a_range_is_shown_where_there_is_one() -> None:
    assert spread({"low": 1.0, "central": 2.0, "high": 4.0}, "W") == "2.00 (1.00 to 4.00) W"
    assert spread({"low": 2.0, "central": 2.0, "high": 2.0}, "W") == "2.00 W"
    tiny = {"low": 0.0, "central": 0.0004, "high": 0.002}
    assert spread(tiny, "mJ/token") == "0.400 (0 to 2.00) µJ/token"
    assert wording.ends(tiny, "mJ/token") == "0 to 2.00 µJ/token"
    assert spread(tiny | {"central": 0.0}, "ms") == "0 (0 to 0.00200) ms"
    assert (wording.change(1.00034), wording.change(0.99)) == ("+0.0340 %", "-1.00 %")


def test_the_report_is_plain_data() -> None:
    found = built(made_run())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == [
        "format",
        "warnings",
        "header",
        "run",
        "quality",
        "mapping",
        "phases",
        "in_flight",
        "links",
        "simulator_seconds",
        "sources",
        "comparison",
    ]
    assert found["format"] == "mmfree-neuro report 9"


def test_the_mapping_states_the_use_of_every_limit() -> None:
    mapping = built(made_run())["mapping"]
    limited = {name: row for name, row in mapping["use"].items() if row["limit"] is not None}
    assert limited == {
        "memory": {"max": 50, "mean": 110 / 3, "limit": 100},
        "synaptic_memory": {"max": 30, "mean": 20, "limit": 60},
        "neurons": {"max": 2, "mean": 2, "limit": 8},
        "state_per_neuron": {"max": 12, "mean": 28 / 3, "limit": 16},
        "input_axons": {"max": 6, "mean": 14 / 3, "limit": 10},
    }
    assert mapping["use"].keys() == wording.LIMITS.keys()
    assert mapping["use"]["groups"] == {"max": 0, "mean": 0, "limit": None}
    assert (mapping["chips"], mapping["chips_of_system"], mapping["cores"], mapping["shards"]) == (
        2,
        4,
        3,
        3,
    )
    assert [(c["chip"], c["core"], c["kind"], c["block"]) for c in mapping["content"]] == [
        (0, 0, "MLGRU", 0),
        (0, 5, "MLGRU", 0),
        (1, 6, "Head", None),
    ]


def test_a_phase_has_counts_per_token() -> None:
    phases = built(made_run())["phases"]
    assert list(phases) == ["prefill", "generate"]
    for phase in phases.values():
        assert phase["tokens"] == 2
        assert phase["traffic_per_token"] == {
            "messages": (7 * 2 + 4 * 2 + 3 + 4) / 2,
            "silent": ((8 - 7) * 2 + (4 - 3)) / 2,
            "hops": (7 * 2 + 4 * (2 + 3) + 3 * (2 + 3) + 4 * 3) / 2,
            "crossings": (7 + 4 + 3 + 4) / 2,
            "between_chips": (7 + 4 + 3 + 4) / 2,
        }
        assert (phase["synops_per_token"], phase["reads_per_token"]) == (12, 21)
        assert phase["words_per_token"] == 21 / 2  # one for the two neurons of a shard
        assert (phase["saturations"], phase["wrapped"]) == (3, 5)
        assert phase["instructions_per_token"] == {"ADD": 10, "MUL_SHR": 4}


def ends(low: float, central: float, high: float) -> Any:
    """A range, nearly."""
    return pytest.approx({"low": low, "central": central, "high": high})


NS, UJ, PJ = 1e-9, 1e-3, 1e-9  # in seconds, and in millijoule


def test_a_phase_has_an_estimate_with_what_is_slowest() -> None:
    """A token reads at most 8 synapses of one core, or 8 and then 7 in steps that follow each
    other and that of the host."""
    phases = built(made_run())["phases"]
    prefill, generate = phases["prefill"], phases["generate"]
    assert (prefill["mode"], prefill["in_flight"], prefill["steps_apart"]) == ("pipelined", 1, 1)
    assert prefill["latency_seconds"] == ends(4200 * NS, 5400 * NS, 7800 * NS)
    assert (
        prefill["step_seconds"]
        == prefill["seconds_per_token"]
        == ends(1400 * NS, 1800 * NS, 2600 * NS)
    )
    assert prefill["tokens_per_s"] == ends(1e9 / 2600, 1e9 / 1800, 1e9 / 1400)
    assert prefill["barrier_share"] == pytest.approx(1000 / 1800)
    assert (generate["mode"], generate["in_flight"]) == ("fall-through", 1)
    assert generate["steps_apart"] == 3
    assert generate["latency_seconds"] == generate["seconds_per_token"]
    assert generate["seconds_per_token"] == ends(3750 * NS, 4500 * NS, 6000 * NS)
    assert generate["step_seconds"] == ends(1250 * NS, 1500 * NS, 2000 * NS)
    assert generate["barrier_share"] == pytest.approx(3000 / 4500)
    for phase in (prefill, generate):
        assert (phase["resource"], phase["slowest"]) == ("memory words read", "core 5 of chip 0")


def test_a_phase_says_what_it_would_be_without_a_barrier() -> None:
    phases = built(made_run())["phases"]
    for name, ns in (("prefill", 800), ("generate", 1500)):
        free = phases[name]["without_barrier"]
        assert (free["mode"], free["barrier_share"]) == ("asynchronous", 0)
        assert free["seconds_per_token"] == ends(ns * NS / 2, ns * NS, ns * NS * 2)
        assert free["tokens_per_s"] == ends(1e9 / ns / 2, 1e9 / ns, 1e9 / ns * 2)


def test_a_phase_has_the_energy_of_the_chips_and_that_of_the_system() -> None:
    """Two chips, a board and a host draw power as long as a token takes; 12 synops take 60, 120,
    240 pJ."""
    phases = built(made_run())["phases"]
    prefill, generate = phases["prefill"], phases["generate"]
    chips = 60 * PJ + 0.5 * 1.4 * UJ, 120 * PJ + 1 * 1.8 * UJ, 240 * PJ + 2 * 2.6 * UJ
    assert prefill["chip_millijoule_per_token"] == ends(*chips)
    assert prefill["millijoule_per_token"] == ends(
        chips[0], chips[1] + 1.5 * 1.8 * UJ, chips[2] + 3 * 2.6 * UJ
    )
    alone = (
        30 * PJ + 0.5 * 3.75 * UJ,
        60 * PJ + 1 * 4.5 * UJ,
        120 * PJ + 2 * 6 * UJ,
    )  # half of what 12 synops take
    assert generate["chip_millijoule_per_token"] == ends(*alone)
    assert generate["millijoule_per_token"] == ends(
        alone[0], alone[1] + 1.5 * 4.5 * UJ, alone[2] + 3 * 6 * UJ
    )
    names = [part["name"] for part in prefill["parts"]]
    assert names[-4:] == [
        "static power of the chips in use",
        "static power of chips that are powered and not used",
        "power of the board beyond the chips",
        "power of the host",
    ]


def test_messages_between_chips_are_counted_over_both_phases() -> None:
    """A payload that goes to two cores of a chip is one message to it."""
    assert built(made_run())["links"] == [
        {"source": -1, "destination": 0, "messages_per_token": 7 / 2},
        {"source": 0, "destination": 1, "messages_per_token": (4 + 3) / 2},
        {"source": 1, "destination": -1, "messages_per_token": 4 / 2},
    ]


def test_every_figure_of_the_system_is_there_with_its_source() -> None:
    rows = {(row["of"], row["name"]): row for row in built(made_run())["sources"]}
    known = [field for field in fields(ChipSpec) if field.default is MISSING]
    assert len(rows) == 6 + len(known) - 1  # no source for the name
    assert rows["chip", "energy per synop"] == {
        "of": "chip",
        "name": "energy per synop",
        "unit": "pJ",
        "low": 5,
        "central": 10,
        "high": 20,
        "source": "source of energy_per_synop_pj",
        "drawn": {"low": 5, "central": 10, "high": 20},
        "left": None,
    }
    assert rows["chip", "memory per core"]["unit"] == "bytes"
    page = pages.to_markdown(built(made_run()))
    for row in rows.values():
        assert row["source"].replace("_", r"\_") in page


def test_a_figure_that_is_not_known_of_every_chip_is_there_where_it_is_known() -> None:
    axons = Quantity(16, 16, 16, "a data sheet")
    system = replace(board(), chip=replace(board().chip, output_axons_per_core=axons))
    page = pages.to_markdown(built(made_run(system=system)))
    assert (
        "| chip: output axons per core | 16 | 16 | 16 |  |  | a data sheet |" in page.splitlines()
    )
    assert "program instructions" not in page


def test_a_text_that_came_to_its_end() -> None:
    """Before its length did: the page, the record and the terminal say so."""
    run = made_run(ended="eos", asked=1_064)
    content = built(run)
    (result,) = content["run"]["results"]
    assert (result["ended"], result["asked"]) == ("eos", 1_064)
    lines = pages.to_markdown(content).splitlines()
    assert "| new text | 3 tokens of 1,064, ended at EOS |" in lines
    first, second = terminal.speed(run).splitlines()
    assert first == "ended at EOS after 3 of 1064 tokens"
    assert second == terminal.speed(made_run())


def of_several(count: int, in_flight: int = 2) -> RunRecord:
    """Prompts of one token, two tokens and so on, of which every third goes on to its end."""
    run = made_run(in_flight=in_flight)
    results = tuple(
        replace(
            run.only,
            prompt=f"prompt {k}",
            text=f", text {k}",
            prompt_tokens=tuple(range(k)),
            new_tokens=(3,) * (2 * k),
            ended="eos" if k % 3 == 0 else "length",
            asked=2 * k + (k % 3 == 0),
            sampling={"temperature": 0.5, "seed": k},
        )
        for k in range(1, count + 1)
    )
    return replace(run, results=results)


def test_the_report_of_several_prompts_has_each_of_them() -> None:
    run = built(of_several(3))["run"]
    assert run["in_flight"] == 2
    assert run["results"] == [
        {
            "prompt": f"prompt {k}",
            "text": f", text {k}",
            "prompt_tokens": k,
            "new_tokens": 2 * k,
            "asked": asked,
            "ended": ended,
            "sampling": {"temperature": 0.5, "seed": k},
        }
        for k, asked, ended in ((1, 2, "length"), (2, 4, "length"), (3, 7, "eos"))
    ]


SUMS = [
    "| prompts | 3, at most 2 in flight |",
    "| tokens of all prompts | 6 |",
    "| tokens of all new texts | 12 |",
    "| texts that ended at EOS | 1 |",
]


def test_the_page_of_several_prompts_has_their_texts_and_sums() -> None:
    page = pages.to_markdown(built(of_several(3)))
    assert set(SUMS) <= set(page.splitlines())
    for k in (1, 2, 3):
        assert f"Prompt:\n\n```text\nprompt {k}\n```\n" in page
        assert f"Generated:\n\n```text\n, text {k}\n```\n" in page
    assert "more prompts" not in page
    assert "| new text |" not in page and "| seed |" not in page
    alone = pages.to_markdown(built(made_run()))
    assert not any(line.split(" | ")[0] in alone for line in SUMS)


@pytest.mark.parametrize(("count", "left"), [(8, 0), (9, 1), (1_009, 1_001)])
def test_a_page_has_the_texts_of_eight_prompts(count: int, left: int) -> None:
    found = built(of_several(count))
    assert len(found["run"]["results"]) == count
    said = f"The texts of {left:,} more prompts are in the run's folder."
    for page in (pages.to_markdown(found), html.unescape(pages.to_html(found))):
        assert "prompt 8" in page and ", text 8" in page
        assert "prompt 9" not in page and ", text 9" not in page
        assert (said in page) == (left > 0)


def test_the_terminal_has_all_texts_and_says_how_many_ended() -> None:
    run = of_several(3)
    assert terminal.texts(run) == "prompt 1, text 1\n\nprompt 2, text 2\n\nprompt 3, text 3"
    first, second = terminal.speed(run).splitlines()
    assert first == "1 of 3 texts ended at EOS"
    assert second == terminal.speed(made_run()) == terminal.speed(of_several(2))


def test_several_prompts_are_estimated_as_so_many_under_way() -> None:
    """Of three steps, a token of each of two sequences is at two: the head's 7 synapses, then twice
    8 of the mixer, take 700, 800 and 800 ns, each with a barrier."""
    generate = built(of_several(3))["phases"]["generate"]
    assert (generate["mode"], generate["in_flight"]) == ("interleaved", 2)
    assert generate["steps_apart"] == 1.5
    assert generate["latency_seconds"] == ends(4150 * NS, 5300 * NS, 7600 * NS)
    assert generate["seconds_per_token"] == ends(2075 * NS, 2650 * NS, 3800 * NS)
    assert generate["tokens_per_s"] == ends(1e9 / 3800, 1e9 / 2650, 1e9 / 2075)
    assert generate["chip_millijoule_per_token"] == ends(
        30 * PJ + 0.5 * 2.075 * UJ, 90 * PJ + 1 * 2.65 * UJ, 240 * PJ + 2 * 3.8 * UJ
    )
    free = generate["without_barrier"]
    assert (free["mode"], free["in_flight"]) == ("asynchronous", 2)
    assert free["seconds_per_token"] == ends(400 * NS, 800 * NS, 1600 * NS)
    for run, mode in ((of_several(1), "fall-through"), (of_several(3, 1), "fall-through")):
        assert built(run)["phases"]["generate"]["mode"] == mode
    full = built(of_several(3, 5))["phases"]["generate"]
    assert (full["mode"], full["in_flight"], full["steps_apart"]) == ("interleaved", 3, 1)
    assert built(of_several(3))["phases"]["prefill"] == built(made_run())["phases"]["prefill"]


def test_generation_is_estimated_with_more_and_more_sequences() -> None:
    """With one, and with three, which fill the three steps of this machine."""
    found = built(made_run())
    alone, full = found["in_flight"]
    phase, prefill = found["phases"]["generate"], found["phases"]["prefill"]
    assert (alone["in_flight"], full["in_flight"]) == (1, 3)
    for name in ("tokens_per_s", "latency_seconds", "millijoule_per_token"):
        assert alone[name] == phase[name]
    assert full["tokens_per_s"] == ends(**prefill["tokens_per_s"])
    assert full["latency_seconds"] == ends(4200 * NS, 5400 * NS, 7800 * NS)
    assert full["chip_millijoule_per_token"] == ends(**prefill["chip_millijoule_per_token"])
    assert alone["resource"] == full["resource"] == "memory words read"
    assert (alone["state_bytes"], full["state_bytes"]) == (0, 0)
    assert built(of_several(3))["in_flight"] == found["in_flight"]
    run = made_run()
    without = built(replace(run, generate=nothing(run.mapping)))
    assert without["in_flight"] == found["in_flight"]


def with_steps(run: RunRecord, last: int) -> RunRecord:
    """The same run, its head at a later step; and a mixer that keeps states."""
    embedding, mix, head = run.summary.nodes
    nodes = embedding, replace(mix, states=4), replace(head, step=last)
    return replace(run, summary=replace(run.summary, nodes=nodes))


@pytest.mark.parametrize(
    ("last", "counts"),
    [(6, [1, 7]), (7, [1, 8]), (8, [1, 8, 9]), (63, [1, 8, 64]), (64, [1, 8, 64, 65])],
)
def test_the_last_row_fills_the_machine(last: int, counts: list[int]) -> None:
    rows = built(with_steps(made_run(), last))["in_flight"]
    assert [row["in_flight"] for row in rows] == counts
    assert [row["state_bytes"] for row in rows] == [16 * count for count in counts]
    rates = [row["tokens_per_s"]["central"] for row in rows]
    assert rates == sorted(rates)


def test_the_room_of_a_mapping_for_sequences() -> None:
    run = made_run()
    roomy = replace(run, mapping=replace(run.mapping, in_flight=1_024))
    found = built(roomy)
    assert found["mapping"]["in_flight"] == 1_024
    page = pages.to_markdown(found)
    assert "| sequences that can be under way at once | 1,024 |" in page.splitlines()
    assert (
        "**Generation with several sequences under way at once, by the same counts; the last row "
        "fills the machine, and this mapping has room for 1,024**" in page
    )


MARKDOWN = [
    "# net on board",
    "| system | board: four small chips |",
    "| versions | python 3.11.0 |",
    "| new text | 3 tokens |",
    "| seed | 7 |",
    "| predicted tokens | not measured |",
    "| float model | 1.80 nats per token |",
    "| perplexity of the integers over perplexity of the float model | 1.01 (+1.00 %) |",
    "| greedy token the same | not measured |",
    "| chips in use | 2 of 4 |",
    "| cores in use | 3 of 16 on these chips |",
    "| synaptic memory | 30 bytes | 20.0 bytes | 60 bytes | 50.0 % | 33.3 % |",
    "| messages | 14.5 | 14.5 |",
    "| zeros, not sent | 1.50 | 1.50 |",
    "| mesh hops | 30.5 | 30.5 |",
    "| messages that cross between chips or to the host | 9.00 | 9.00 |",
    "| synapses read from dense storage | 21.0 | 21.0 |",
    "| memory words read for them, of 64 bits | 10.5 | 10.5 |",
    r"| instructions MUL\_SHR | 4.00 | 4.00 |",
    "| saturated values | 3 | 3 |",
    "| wrapped sums | 5 | 5 |",
    "| throughput | 556,000 (385,000 to 714,000) tokens/s | 222,000 (167,000 to 267,000) "
    "tokens/s |",
    "| energy of the chips alone | 0.00180 (0.000700 to 0.00520) mJ/token | 0.00450 (0.00188 to "
    "0.0120) mJ/token |",
    "| energy of the system | 0.00450 (0.000700 to 0.0130) mJ/token | 0.0113 (0.00188 to "
    "0.0300) mJ/token |",
    "| throughput without a barrier | 1.25 million (625,000 to 2.50 million) tokens/s "
    "| 667,000 (333,000 to 1.33 million) tokens/s |",
    "| time from token to token | 1.80 (1.40 to 2.60) µs | 4.50 (3.75 to 6.00) µs |",
    "| share of the barrier | 55.6 % of the time | 66.7 % of the time |",
    "| what is slowest | memory words read: core 5 of chip 0 "
    "| memory words read: core 5 of chip 0 |",
    r"| synaptic operations | 12.0 | 10.0 (5.00 to 20.0) pJ | 0.120 (0.0600 to 0.240) "
    r"nJ/token | 0.00267 % | "
    r"source of energy\_per\_synop\_pj |",
    r"| power of the host | 1.00 | 0.500 (0 to 1.00) W | 0.900 (0 to 2.60) µJ/token | 20.0 % "
    r"| source of host\_power\_w |",
    "| all of these contain the factor of tokens that do not fill the machine |  | 0.500 |  |  | "
    "source of fall\\_through\\_energy\\_ratio |",
    "| the chips in use, in all |  |  | 0.00450 (0.00188 to 0.0120) mJ/token | 40.0 % |  |",
    "| the system, in all |  |  | 0.0113 (0.00188 to 0.0300) mJ/token | 100 % |  |",
    "| MLGRU | 1 | 1.80 µs | 40.0 % | 0.800 µs | memory words read: core 5 of chip 0 |",
    "| outside the blocks | 0.0250 nJ/token | 41.7 % |",
    "| system: host power | 0 W | 0.500 W | 1 W |  |  | source of host\\_power\\_w |",
    "| prefill | 4.00 s, 0.500 tokens/s |",
    "| sequences that can be under way at once | 1 |",
    "| 1 | 222,000 (167,000 to 267,000) tokens/s | 0.00450 (0.00375 to 0.00600) ms | 0.0113 "
    "(0.00188 to 0.0300) mJ/token | 0 bytes | memory words read |",
    "| 3 | 556,000 (385,000 to 714,000) tokens/s | 0.00540 (0.00420 to 0.00780) ms | 0.00450 "
    "(0.000700 to 0.0130) mJ/token | 0 bytes | memory words read |",
    "| chip: weight | 2 bits | 2 bits | 2 bits |  |  | source of weight\\_bits |",
]


@pytest.mark.parametrize("line", MARKDOWN)
def test_the_markdown_page_says(line: str) -> None:
    assert line in pages.to_markdown(built(made_run())).splitlines()


def test_the_speed_of_the_simulator_is_named_as_such() -> None:
    page = pages.to_markdown(built(made_run()))
    assert (
        "## Wall-clock speed of the simulator\n\nHow long the engine reference took on the "
        "computer that simulated the "
        "run. This is the speed of the simulator; it says nothing about the speed of the chips.\n"
    ) in page


def test_texts_of_the_run_cannot_break_the_markdown_page() -> None:
    page = pages.to_markdown(built(made_run()))
    assert "Prompt:\n\n```text\nOnce | <b>upon</b>\n```\n" in page
    assert "Generated:\n\n````text\na `time`\n```\nend\n````\n" in page
    system = replace(board(), description="a | b\n<i>c</i>")
    assert r"| system | board: a \| b \<i\>c\</i\> |" in pages.to_markdown(
        built(made_run(system=system))
    )


def test_a_phase_without_tokens_is_left_out_with_a_sentence() -> None:
    run = made_run()
    found = built(replace(run, generate=nothing(run.mapping)))
    assert found["phases"]["generate"] is None
    page = pages.to_markdown(found)
    assert "The phase generation is left out, because no token ran through the chips in it." in page
    assert "| saturated values | 3 |" in page
    assert "Energy of a token in generation" not in page
    assert sorted(pictures.draw(found)) == PICTURES
    assert "left out" in pages.to_html(found)


def test_a_run_without_tokens_has_no_energy_picture() -> None:
    run = made_run()
    found = built(replace(run, prefill=nothing(run.mapping), generate=nothing(run.mapping)))
    drawn = drawn_as_png(found)
    assert "energy" not in drawn
    assert "estimated throughput" not in pages.to_html(found)


def test_another_model_is_given_no_ratio() -> None:
    found = built(made_run())
    page = pages.to_markdown(found)
    assert found["comparison"]["ratios"] == []
    assert (
        "No ratio is given, because the rows are of another model: this one has 24 ternary synapses"
        in page
    )
    assert "**Other models, or other phases: rows without ratios**" in page
    assert "Ratios in" not in page
    assert (
        "MatMul-free 370M on NVIDIA H100; reference code; precision not stated; batch 1; "
        "sequence length 500" in page
    )


def test_the_same_model_is_given_ratios_with_both_rows_named() -> None:
    page = pages.to_markdown(built(made_run(synapses=341_049_344)))
    (line,) = (
        line
        for line in page.splitlines()
        if "Llama-style 400M" in line and "length 500 " in line and "723" in line
    )
    assert line == (
        "| net on board, estimated for the whole system: 222,000 (167,000 to 267,000) tokens/s; "
        "0.0113 (0.00188 to 0.0300) mJ/token "
        "| Llama-style 400M on NVIDIA Jetson Orin Nano; implementation not stated; precision "
        "FP16; batch 1; sequence "
        "length 500 | edge GPU | 14.3 tokens/s | 723 mJ/token | 15,500 (11,700 to 18,600) × "
        "| 64,300 (24,100 to 386,000) × | Energy: as published, not stated; MAXN mode, the "
        "board draws 10 to 13 W "
        "when it generates and 4.3 to 5.8 W when idle. Source: "
        "[arXiv 2503.18002v2](https://arxiv.org/abs/2503.18002v2), Table 2. |"
    )
    assert "fastest known for one sequence" in page


def test_gpus_that_were_not_measured_are_estimated_in_a_table_of_their_own() -> None:
    run = made_run(synapses=published.SYNAPSES["370m"])
    gpus = tuple(gpu for gpu in roofline.load() if gpu.name in ("NVIDIA L4", "NVIDIA H200 SXM"))
    found = content.build(run, published.load(), run.use, gpus)
    estimated = found["comparison"]["estimated"]
    assert [(row["device"], row["mode"], row["sequence_length"]) for row in estimated] == [
        ("NVIDIA L4", "prefill", 2),
        ("NVIDIA H200 SXM", "prefill", 2),
        ("NVIDIA L4", "generate", 5),
        ("NVIDIA H200 SXM", "generate", 5),
    ]
    devices = {ratio["theirs"]["device"] for ratio in found["comparison"]["ratios"]}
    assert devices.isdisjoint({"NVIDIA L4", "NVIDIA H200 SXM"})
    page = pages.to_markdown(found)
    assert "**Rooflines of GPUs: estimated bounds, not measured**" in page
    rate = wording.figure(300e9 / (published.SYNAPSES["370m"] / 4 + 4 * 8), "tokens/s")
    what = "NVIDIA L4; generation, one sequence | estimated, roofline, not measured"
    assert f"| {what} | at most {rate} | memory | " in page
    assert (
        "mJ/token at full power; idle power not known | memory bandwidth: NVIDIA L4 datasheet"
        in page
    )
    assert "no ratio is taken with them" in page
    assert "Rooflines of GPUs" not in pages.to_markdown(built(run))


def test_a_measured_row_stands_beside_the_published_ones() -> None:
    run = made_run(synapses=published.SYNAPSES["370m"])
    row = replace(
        next(row for row in published.load() if row.device == "NVIDIA H100"),
        device="GPU X",
        tokens_per_s=1e6,
        millijoule_per_token=0.5,
        implementation="packed",
        source="measured by 'mmfree-neuro bench gpu' at commit abc on 2026-01-02",
    )
    found = content.build(run, (*published.load(), row), run.use)
    (ratio,) = [
        ratio for ratio in found["comparison"]["ratios"] if ratio["theirs"]["device"] == "GPU X"
    ]
    assert ratio["theirs"]["stands_out_as"] == [
        "fastest known of its size",
        "least energy known of its size",
        "fastest known for one sequence",
        "least energy known for one sequence",
    ]
    page = pages.to_markdown(found)
    assert "Source: measured by 'mmfree-neuro bench gpu' at commit abc on 2026-01-02." in page


def test_sources_that_can_be_read_somewhere_are_links() -> None:
    text = "arXiv 2503.18002v2, Table 3 <b>; Davies et al. 2018, and a lava-dl notebook"
    run = made_run(warnings=(text,))
    chip = replace(run.system.chip, static_power_w=Quantity(0, 1, 2, text))
    found = built(replace(run, system=replace(run.system, chip=chip)))
    paper = "https://arxiv.org/abs/2503.18002v2"
    assert f"[arXiv 2503.18002v2]({paper}), Table 3 \\<b\\>;" in pages.to_markdown(found)
    page = pages.to_html(found)
    assert f'<a href="{paper}">arXiv 2503.18002v2</a>, Table 3 &lt;b&gt;;' in page
    assert '<a href="https://doi.org/10.1109/MM.2018.112130359">Davies et al. 2018</a>' in page


def test_the_html_page_needs_nothing_else() -> None:
    found = built(made_run())
    page = pages.to_html(found)
    assert "<img " not in page and "src=" not in page
    assert page.count('role="img"') == 3
    assert set(re.findall(r'(\w+) href="[^#]', page)) <= {"a"}
    assert not re.search(r"<script [^>]*src|<link|@import|url\((?!#tip\))", page)
    assert "Once | &lt;b&gt;upon&lt;/b&gt;" in page
    assert "<b>" not in page
    for title in (section.title for section in sections.sections(found)):
        assert f"<h2>{title}</h2>" in page
    assert f'<p class="verdict">{sections.verdict(found)}</p>' in page


def test_the_verdict_says_how_fast_how_much_and_against_what() -> None:
    begin = (
        "In generation the chips are estimated at 222,000 (167,000 to 267,000) tokens/s and 0.0113 "
        "(0.00188 to 0.0300) mJ a token for the whole system, 0.00450 for the chips in use alone "
        "(brackets: 5 to 95 %, as figures of the chips are not known exactly)"
    )
    found = built(made_run())
    assert sections.verdict(found) == (
        f"{begin}. No machine was measured with a model of this size, so there is no ratio."
    )
    ours = found["phases"]["generate"]
    fitted = built(made_run())
    fitted["phases"]["generate"] |= {
        "each_step": [{"seconds": 1.0, "busy_seconds": 0.2}],
        "barrier_share": 0.3,
    }
    assert sections.verdict(fitted).endswith(
        "so there is no ratio. Of a token's time 50.0 % is what steps take besides work and "
        "barrier: a figure that is fitted to published rows, not explained."
    )
    theirs = {"mode": "generate", "tokens_per_s": 10.0, "name": "net", "device": "GPU"}
    others = theirs | {"tokens_per_s": 2.0}, theirs | {"mode": "prefill", "tokens_per_s": 99.0}
    times = {"low": 1.0, "central": 2.0, "high": 4.0}
    found["comparison"]["ratios"] = [
        {
            "ours": ours,
            "theirs": one,
            "throughput_ours_over_theirs": times,
            "energy_theirs_over_ours": times,
        }
        for one in (theirs, *others)
    ]
    against = (
        f"{begin}. That is 2.00 (1.00 to 4.00) times the throughput of the fastest machine "
        "measured with this size of model (net on GPU)"
    )
    assert sections.verdict(found) == (
        f"{against}, and its energy a token 2.00 (1.00 to 4.00) times ours."
    )
    found["comparison"]["ratios"][0]["energy_theirs_over_ours"] = None
    assert sections.verdict(found) == f"{against}."
    found["phases"]["generate"] = None
    assert sections.verdict(found).startswith("In prefill the chips are estimated at 556,000 ")
    found["phases"]["prefill"] = None
    assert sections.verdict(found) == "No token ran through the chips, so nothing is estimated."


def test_where_time_and_energy_go_block_by_block() -> None:
    (section,) = (
        s for s in sections.sections(built(made_run())) if s.title.startswith("Estimated")
    )
    energy, time, generated = section.trees
    assert [tree.name for tree in (energy, time, generated)] == [
        "Dynamic energy of a token in prefill: chip, core",
        "Time of a token in generation: block, step",
        "Dynamic energy of a token in generation: chip, core",
    ]
    assert [branch.name for branch in time.branches] == [
        "outside the blocks: 2.70 µs, 60.0 %",
        "block 0: 1.80 µs, 40.0 %",
    ]
    (step,) = time.branches[1].branches
    assert step.name == (
        "step 1, MLGRU: 1.80 µs, of which 0.800 µs memory words read: core 5 of chip 0"
    )
    assert time.branches[0].share == step.share == 1
    for tree in (energy, generated):
        for chip in tree.branches:
            assert 0 < chip.share <= 1 and chip.branches[0].share == 1
        assert [chip.name[:7] for chip in tree.branches] == ["chip 0:", "chip 1:"]
        assert tree.branches[0].branches[0].name.startswith("core 5, mostly MLGRU of block 0: ")


def test_which_figures_matter_most() -> None:
    """Four words of 100, 200 or 400 ns and a barrier of 1 µs; all energies are of that time."""
    found = built(made_run())
    swings = found["phases"]["prefill"]["sensitivity"]
    assert [swing["figure"] for swing in swings] == [
        "chip.time_per_word_ns",
        "system.board_power_w",
        "chip.static_power_w",
        "system.host_power_w",
        "chip.energy_per_synop_pj",
    ]
    assert (swings[0]["low"], swings[0]["high"]) == (100, 400)
    assert swings[0]["tokens_per_s"] == pytest.approx([1e6 / 1.4, 1e6 / 2.6])
    caption = "Which figures of the system matter most in prefill"
    (table,) = (
        table
        for section in sections.sections(found)
        for table in section.tables
        if table.caption == caption
    )
    assert table.folded and table.rows[0] == (
        "chip.time_per_word_ns",
        "100 to 400",
        "714,000 to 385,000",
        "0.00350 to 0.00650",
        "100 %",
        "100 %",
    )


def test_only_the_cores_that_take_most_are_named() -> None:
    cores = [(float(n), f"core {n}") for n in range(20)]
    found = sections._of_cores(3, cores, most=380.0, total=190.0)
    assert found.name == "chip 3: 190 mJ/token, 100 %, 20 cores" and found.share == 0.5
    assert len(found.branches) == sections.MOST_CORES + 1
    assert found.branches[0].name == "core 19: 19.0 mJ/token, 10.0 %"
    assert found.branches[-1].name == "and 8 cores with less"


def again(found: dict[str, Any]) -> sections.Section:
    """The section that makes a run again."""
    (section,) = (s for s in sections.sections(found) if s.title == "How to make it again")
    return section


def test_how_to_make_a_run_again() -> None:
    """From the checkpoint on, as commands that can be pasted."""
    run = made_run()
    system = ("--system", "board", "--placer", "chain", "--chips", "2")
    options = (*system, "--set", "chip.static_power_w=1,2,3")
    found = built(replace(run, mapping=replace(run.mapping, options=options)))
    one = found["run"]["results"][0]
    one |= {"prompt": "it's", "asked": 7, "sampling": {"temperature": 0.5, "seed": 3.0}}
    ((_, commands),) = again(found).texts
    begin = (
        "mmfree-neuro convert net -o model.graph --scheme a16\n"
        "mmfree-neuro map model.graph --system board --placer chain --chips 2 --set "
        "chip.static_power_w=1,2,3 -o model.map\n"
    )
    simulate = "mmfree-neuro simulate model.map --engine reference --prompt 'it'\"'\"'s' "
    end = "-o run\nmmfree-neuro report run -o report.html"
    assert commands == f"{begin}{simulate}--new-tokens 7 --temperature 0.5 --seed 3 {end}"
    one["sampling"]["temperature"] = 0.0
    ((_, commands),) = again(found).texts
    assert commands == f"{begin}{simulate}--new-tokens 7 {end}"
    assert "its graph has the SHA-256 digest, which" in again(found).sentences[0]
    one["sampling"] = {"temperature": 0.1234567, "seed": 12345678}
    found["header"] |= {
        "system": "another",
        "set": ["chip.static_power_w=1,2,3", "chip.energy_per_synop_pj=1.2345678"],
    }
    ((_, commands),) = again(found).texts
    report = "report run --system another --set chip.energy_per_synop_pj=1.2345678 -o report.html"
    drawn = "--temperature 0.1234567 --seed 12345678"
    assert commands == (f"{begin}{simulate}--new-tokens 7 {drawn} -o run\nmmfree-neuro {report}")
    found["header"] |= {"system": "board", "set": []}
    found["header"] |= {"engine": "emulator", "root_before": True, "options": []}
    ((_, commands),) = again(found).texts
    assert commands.splitlines()[:3] == [
        "mmfree-neuro convert net -o model.graph --scheme a16 --root before",
        "mmfree-neuro map model.graph --system board -o model.map",
        "mmfree-neuro image model.map -o model.image",
    ]
    assert "simulate model.image --engine emulator" in commands
    assert sections.WITHOUT_OPTIONS.format(placer="by hand") in again(found).sentences


def test_how_to_make_a_run_of_several_prompts_again() -> None:
    (_, commands), (name, lines) = again(built(of_several(2))).texts
    assert "--prompts prompts.jsonl --in-flight 2 -o run" in commands
    assert name == "prompts.jsonl"
    assert [json.loads(line) for line in lines.splitlines()] == [
        {"prompt": f"prompt {k}", "new_tokens": 2 * k, "temperature": 0.5, "seed": k}
        for k in (1, 2)
    ]
    many = again(built(of_several(9)))
    assert len(many.texts) == 1 and sections.TOO_MANY in many.sentences


def test_runs_side_by_side() -> None:
    one, two = built(made_run()), built(made_run())
    two["phases"]["prefill"] = None
    two["quality"]["perplexity_ratio"] = None
    text = pages.beside_to_markdown([one, two], ["a", "b"])
    assert "# 2 runs side by side" in text and "|  | a | b |" in text
    assert "| perplexity, integers over float | 1.01 | not measured |" in text
    assert "| prefill: throughput | 556,000 (385,000 to 714,000) tokens/s | – |" in text
    slowest = "memory words read: core 5 of chip 0"
    assert f"| generation: what is slowest | {slowest} | {slowest} |" in text
    page = pages.beside_to_html([one, two], ["a", "b"])
    assert page.count('class="dot ours"') == 3 and page.count(">a</text>") == 2
    assert '<th scope="col">b</th>' in page
    lines = terminal.beside([one, two]).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "run 1, prefill",
        "run 1, generate",
        "run 2, generate",
    ]


# Pictures of the page.


def test_an_axis_has_whole_decades() -> None:
    axis = drawn.Axis([0.0, 3.0, 250.0], 100.0, 400.0)
    assert axis.ticks() == [(100.0, "10⁰"), (200.0, "10¹"), (300.0, "10²"), (400.0, "10³")]
    assert (axis.at(10.0), axis.at(0.0), axis.at(1000.0)) == (200.0, 100.0, 400.0)
    assert drawn.Axis([10.0], 0.0, 1.0).ticks() == [(0.0, "10¹"), (1.0, "10²")]
    assert drawn.Axis([], 0.0, 1.0).ticks() == [(0.0, "10⁰"), (1.0, "10¹")]


def test_machines_are_marks_by_what_they_have_in_common() -> None:
    found = built(made_run())
    row = {
        "name": "net",
        "device": "GPU H200",
        "device_kind": "GPU",
        "batch": 1,
        "mode": "generate",
        "tokens_per_s": 10.0,
        "millijoule_per_token": 5.0,
    }
    silent = row | {"millijoule_per_token": None}
    found["comparison"] |= {
        "ratios": [{"theirs": row}],
        "context": [row, row | {"batch": 4}, silent],
    }
    marks = drawn.dots([found])
    assert [(dot.kind, dot.mode) for dot in marks] == [
        ("other", "generate"),
        ("comparable", "generate"),
        ("ours", "prefill"),
        ("ours", "generate"),
    ]
    assert [dot.label for dot in marks] == ["", "H200", "this run", "this run"]
    assert marks[0].words == "net on GPU H200, batch 4, generation: 10.0 tokens/s, 5.00 mJ/token"
    plot = drawn.scatter(marks)
    assert plot["marks"][1]["x"][0] == plot["marks"][1]["x"][2]
    low, middle, high = plot["marks"][3]["x"]
    assert low < middle < high <= plot["box"]["right"]


def test_the_fastest_mark_of_a_landmark_has_its_label() -> None:
    found = built(made_run())
    row = {"device": "GPU H200", "device_kind": "GPU", "batch": 1, "mode": "generate"}
    rows = [
        row | {"name": name, "tokens_per_s": rate, "millijoule_per_token": 5.0}
        for name, rate in (("slow", 10.0), ("fast", 30.0), ("middling", 20.0))
    ]
    found["comparison"] |= {"ratios": [], "context": rows}
    labels = [(dot.name.split()[0], dot.label) for dot in drawn.dots([found])[:3]]
    assert labels == [("slow", ""), ("fast", "H200"), ("middling", "")]


def test_a_landmark_has_one_label_a_phase_and_labels_do_not_touch() -> None:
    """Of all rows that come with the project; whatever has no room has no label."""
    dots = drawn.dots([built(made_run())], ["a folder with quite a long name"])
    labels = [(dot.label, dot.mode) for dot in dots if dot.label and dot.kind != "ours"]
    assert len(labels) == len(set(labels))
    assert {label for label, _ in labels} == set(drawn.LANDMARKS)
    assert dots[-1].label == "… with quite a long name"
    placed = drawn.scatter(dots)["labels"]
    assert {"Loihi 2, published", dots[-1].label} <= {label["text"] for label in placed}
    boxes = [drawn._box(one["text"], one["anchor"], one["x"], one["y"]) for one in placed]
    assert not any(drawn._overlap(one, other) for k, one in enumerate(boxes) for other in boxes[:k])
    crowd = [replace(dots[-1], label=f"run {number}") for number in range(200)]
    assert 5 < len(drawn.scatter(crowd)["labels"]) < 200


def test_the_picture_of_energy_says_what_the_table_says() -> None:
    found = built(made_run())
    picture = drawn.energy(found)
    assert picture is not None
    names = [part["name"] for part in found["phases"]["prefill"]["parts"]]
    assert [row["name"] for row in picture["rows"]] == [*names, "in all"]
    whole = picture["rows"][-1]["marks"]
    assert [(mark["mode"], mark["middle"], mark["range"]) for mark in whole] == [
        ("prefill", "0.00450 mJ", " (0.000700 to 0.0130 mJ)"),
        ("generate", "0.0113 mJ", " (0.00188 to 0.0300 mJ)"),
    ]
    assert whole[0]["x"] == sorted(whole[0]["x"]) and whole[0]["x"][1] < whole[1]["x"][1]
    hops = next(row for row in picture["rows"] if row["name"] == "mesh hops")
    assert [mark["there"] for mark in hops["marks"]] == [False, False]
    assert hops["marks"][0]["words"] == "0 mJ/token" and hops["marks"][0]["range"] == ""


def test_the_picture_of_limits_says_what_the_table_says() -> None:
    rows = {row["name"]: row for row in drawn.limits(built(made_run()))["rows"]}
    assert len(rows) == 5  # what a chip leaves open has no share
    memory = rows["synaptic memory"]
    assert (memory["most"], memory["mean"]) == (50.0, 33.33)
    assert memory["words"] == "50.0 %, 30 of 60 bytes; mean 33.3 %"


def test_no_kind_has_the_colour_of_something_else() -> None:
    """Of our estimates, of links or of how full cores are, on a light page or a dark one."""

    def parts(colour: str) -> tuple[int, ...]:
        return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))

    css = (Path(pages.__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    known = re.findall(r"--(ours|accent|r[3-7]): (#[0-9a-f]{6})", css)
    assert len(known) == 2 * (2 + 5)
    colours = [*wording.KINDS.items()]
    for number, (kind, colour) in enumerate(colours):
        for name, other in (*known, *colours[:number]):
            assert math.dist(parts(colour), parts(other)) > 40, (kind, name)


def test_chips_are_meshes_with_their_cores() -> None:
    """On the whole board of two by two, of which two chips are in use."""
    found = chips.chips(built(made_run()))
    assert [chip["name"] + chip["more"] for chip in found["chips"]] == [
        "chip 0, block 0",
        "chip 1",
        "chip 2, not in use",
        "chip 3, not in use",
    ]
    (x, y), (u, v), (left, below), _ = (chip["at"] for chip in found["chips"])
    assert y == v < below and x == left < u
    assert found["words"] == "The board of 2 × 2 chips; 3 cores of 2 of them are in use"
    first = found["chips"][0]["cores"]
    assert len(first) == 8 and [core[:2] for core in first[:5]] == [
        (0, 0),
        (10, 0),
        (20, 0),
        (30, 0),
        (0, 10),
    ]
    used = [(number, colour) for _, _, number, colour in first if number is not None]
    assert used == [(0, wording.KINDS["MLGRU"]), (1, wording.KINDS["MLGRU"])]
    assert [core[3] for core in first if core[2] is None] == [""] * 6
    assert found["chips"][2]["cores"] == []
    (arrow,) = found["arrows"]
    assert arrow["words"].startswith("chip 0 to chip 1: ") and arrow["wide"] == 4
    assert len({y for _, y in arrow["way"]}) == 1


def test_of_a_large_system_the_rows_in_use_are_drawn() -> None:
    found = built(made_run())
    found["mapping"] |= {"chips_of_system": 1_152, "chip_columns": 36}
    for core, chip in zip(found["mapping"]["content"], (38, 40, 112), strict=True):
        core["chip"] = chip
    found["links"] = []
    shown = chips.chips(found)
    assert [chip["name"] for chip in shown["chips"]] == [
        f"chip {chip}" for chip in (38, 39, 40, 110, 111, 112)
    ]
    assert shown["words"] == (
        "The rows and columns in use of 1,152 chips, 36 a row; 3 cores of 2 of them are in use"
    )


def test_arrows_run_between_chips_and_their_names() -> None:
    """From each chip of a board to each other one: no line touches a chip or the line of its
    name."""
    grid = chips.Grid(range(8), 8, 4, 120, 4, 8)
    for source, destination in itertools.permutations(range(8), 2):
        for aside in (-8, -5, -2, 2, 5, 8):
            way = grid.way(source, destination, aside)
            for (x, y), (u, v) in itertools.pairwise(way):
                assert x == u or y == v
                for left, top in map(grid.chip, range(8)):
                    across = min(x, u) < left + grid.wide and max(x, u) > left
                    down = min(y, v) < top + grid.high and max(y, v) > top - 24
                    assert not (across and down)
            assert all(0 <= x <= grid.size[0] and 0 <= y <= grid.size[1] for x, y in way)


def test_cores_have_figures_for_the_script() -> None:
    found = built(made_run())
    data = chips.core_data(found)
    assert [figure["name"] for figure in data["figures"]] == [
        "synaptic memory, % of the limit",
        "memory, % of the limit",
        "neurons, % of the limit",
        "dynamic energy in prefill, per token",
        "dynamic energy in generation, per token",
    ]
    assert set(data["kinds"]) == {"MLGRU", "Head"} and set(data["blocks"]) == {"0"}
    chip, core, kind, block, holds, which = data["cores"][0]
    assert (chip, core, kind, block) == (0, 0, "MLGRU", 0)
    assert holds == "layers.0.mix [0, 2)" and len(which) == 5
    memory, *_, neurons, _, generation = data["figures"]
    assert memory["words"] == ["16.7 %", "33.3 %", "50.0 %"] and memory["shares"] == [0, 0.498, 1]
    assert [one[5][0] for one in data["cores"]] == [1, 2, 0]
    assert (neurons["words"], neurons["shares"]) == (["25.0 %"], [0.5])
    assert generation["words"][0].endswith(" nJ/token")
    found["mapping"]["use"]["neurons"]["limit"] = None
    assert len(chips.core_data(found)["figures"]) == 4


def test_blocks_have_colours_of_their_own() -> None:
    assert len(set(chips.block_colours(range(32)))) == 32
    assert chips.block_colours([5]) == ["hsl(70 60% 40%)"]


@pytest.mark.slow
def test_pictures_are_the_same_every_time() -> None:
    first, second = (drawn_as_png(built(made_run())) for _ in range(2))
    assert sorted(first) == PICTURES
    assert first == second
    assert all(picture.startswith(b"\x89PNG\r\n") for picture in first.values())


def test_pictures_of_many_chips_show_the_first_of_them() -> None:
    found = built(made_run())
    core = found["mapping"]["content"][0]
    found["mapping"]["content"] = [
        core | {"chip": chip, "kind": f"kind {chip}"} for chip in range(130)
    ]
    assert sorted(pictures.draw(found)) == PICTURES


@pytest.mark.parametrize(
    ("routers", "each", "side"),
    [(4, 1, (4, 2)), (2, 4, (4, 2)), (8, 4, (4, 2)), (4, 1000, (2, 4)), (1, 3, (1, 9))],
)
def test_cores_of_a_router_are_drawn_together(
    routers: int, each: int, side: tuple[int, int]
) -> None:
    """Eight cores: as wide and as high as their routers, four of which lie two by two."""
    found = built(made_run())
    found["mapping"] |= {"mesh_columns": routers, "cores_per_router": each}
    _, axes = pictures._chips(found, lambda core: "red")
    frame = axes.patches[0].get_bbox()
    assert (round(frame.width - 0.7), round(frame.height - 0.7)) == side
    corners = {tuple(path.vertices[0]) for path in axes.collections[0].get_paths()}
    assert len(corners) == 2 * 8  # two chips, no core on another


@pytest.mark.slow
def test_links_of_many_chips_take_neighbours_together() -> None:
    found = built(made_run())
    ways = [(-1, 0), *((chip, chip + 1) for chip in range(299)), (299, -1)]
    found["links"] = [
        {"source": a, "destination": b, "messages_per_token": 1 + max(a, b)} for a, b in ways
    ]
    starts, together, table = pictures._between(found)
    assert (starts, together) == ([-1, *range(0, 300, 3)], 3)
    assert (table[0, 1], table[100, 0], table[1, 1], table[1, 2], table[100, 100]) == (
        1,
        300,
        2 + 3,
        4,
        299 + 300,
    )
    assert np.nansum(table) == sum(link["messages_per_token"] for link in found["links"])
    assert pictures.png(pictures.links(found)).startswith(b"\x89PNG")


@pytest.mark.slow
def test_pictures_can_be_drawn_of_nothing_but_zeros() -> None:
    nil = Quantity(0, 0, 0, "x")
    chip = replace(board().chip, static_power_w=nil, energy_per_synop_pj=nil)
    system = replace(board(), chip=chip, board_power_w=nil, host_power_w=nil)
    found = built(made_run(system=system))
    found["links"] = []
    drawn = drawn_as_png(found)
    assert sorted(drawn) == PICTURES
    assert "none" in pages.to_markdown(found)


@pytest.mark.slow
def test_drawing_leaves_pyplot_and_its_state_alone() -> None:
    program = (
        "import sys, mmfree_neuro.report.pictures, mmfree_neuro.report.content; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_escapes_in_a_page_of_markdown() -> None:
    """A page may be shown at a terminal."""
    page = pages.to_markdown(built(made_run(prompt="a\x1b[31mb\u202e")))
    assert "a\\x1b[31mb\\u202e" in page
    assert "\x1b" not in page
