"""Runs come back as they were written, or are refused with one clear line."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.errors import HardwareError, InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.footprint import use_of_cores
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import checksum
from mmfree_neuro.pipeline import report
from mmfree_neuro.run.job import PHASES, Job
from mmfree_neuro.run.run_file import Continued, RunRecord, load_run, save_run, totals
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_sims import fast

Spoilt = Callable[[Any], Iterator[str]]
Made = Callable[..., RunRecord]
PROMPTS = {"Hi": (0, 1), "Ho!": (1, 1, 0), "…": (1,)}
"""Prompts by their text; the first goes on by three tokens, the second by one, the third by
none."""


@pytest.fixture(scope="module")
def made(system: SystemSpec) -> Made:
    """The function that runs a graph for two tokens and three more, or for several prompts."""

    def make(graph: Graph, mapping: Mapping, count: int = 1) -> RunRecord:
        prompts = list(PROMPTS.items())[:count]
        job = Job([np.array(tokens) for _, tokens in prompts], [3, 1, 0][:count])
        result = fast.run(graph, mapping, job)
        results = tuple(
            Continued(
                prompt,
                "…",
                tokens,
                tuple(outcome.chosen.tolist()),
                {"temperature": 0.0, "seed": 0},
                "length",
                len(outcome.chosen),
                {phase: totals(getattr(outcome, phase)) for phase in PHASES},
            )
            for (prompt, tokens), outcome in zip(prompts, result.outcomes, strict=True)
        )
        return RunRecord(
            "fast",
            graph.scheme,
            results,
            1,
            result.seconds,
            result.prefill,
            result.generate,
            summarise(graph),
            mapping,
            system,
            {"python": "3"},
            "today",
            use_of_cores(graph, mapping, system.chip),
        )

    return make


@pytest.fixture
def path(made: Made, hand_graph: Graph, hand_mapping: Mapping, tmp_path: Path) -> Path:
    """The file of a run of the graph made by hand."""
    save_run(made(hand_graph, hand_mapping), tmp_path)
    return tmp_path / "run.json"


def write_anew(path: Path, content: dict[str, Any]) -> None:
    """Write a run's file with a checksum that is right."""
    path.write_text(json.dumps(content | {"sha256": checksum(content)}))


def message(path: Path) -> str:
    """What is said of a file that is no run's, behind its name."""
    with pytest.raises((InputError, HardwareError)) as error:
        load_run(path.parent)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)[len(f"{path}: ") :]


def test_runs_come_back(
    made: Made,
    graph: Graph,
    make_mapping: Callable[..., Mapping],
    tmp_path: Path,
    same: Callable[[Any, Any], bool],
) -> None:
    finished = made(graph, make_mapping(graph, "block-per-chip"))
    strange = replace(finished.only, prompt="\ud800 \0 \x1b", text="half of a pair: \udfff")
    odd = replace(finished, results=(strange,), warnings=("w",))
    for run in (finished, odd):  # a run may take an older one's place
        save_run(run, tmp_path)
        assert same(load_run(tmp_path), run)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_run_of_several_prompts_comes_back(
    made: Made,
    graph: Graph,
    make_mapping: Callable[..., Mapping],
    tmp_path: Path,
    same: Callable[[Any, Any], bool],
) -> None:
    """In order, each with its counts, which are those of the run together."""
    run = made(graph, make_mapping(graph, "block-per-chip"), 3)
    save_run(run, tmp_path)
    loaded = load_run(tmp_path)
    assert same(loaded, run)
    assert loaded.only == loaded.results[0]
    assert [one.prompt for one in loaded.results] == list(PROMPTS)
    assert [len(one.new_tokens) for one in loaded.results] == [3, 1, 0]
    for phase, whole in (("prefill", loaded.prefill), ("generate", loaded.generate)):
        counted = [one.counted[phase] for one in loaded.results]
        assert totals(whole) == {name: sum(c[name] for c in counted) for name in counted[0]}
    assert [one.counted["prefill"]["tokens"] for one in loaded.results] == [2, 3, 1]
    assert [one.counted["generate"]["tokens"] for one in loaded.results] == [2, 0, 0]
    assert repr(loaded) == "<RunRecord tiny on fast: 6 tokens of prompt, 4 new>"


@pytest.mark.parametrize(("in_flight", "under_way"), [(1, 1), (2, 2), (3, 3), (8, 3)])
def test_no_more_are_under_way_than_there_are(
    in_flight: int, under_way: int, made: Made, hand_graph: Graph, hand_mapping: Mapping
) -> None:
    run = made(hand_graph, hand_mapping, 3)
    assert replace(run, in_flight=in_flight).under_way == under_way


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("3", "not a run: holds 3, must hold an object"),
        ("{}", "not a run: its format is not 'mmfree-neuro run 10'"),
        ('{"format": "mmfree-neuro run 7"}', "not a run: its format is not 'mmfree-neuro run 10'"),
        (
            '{"format": "mmfree-neuro run 10", "engine": "fast"}',
            "not a run: it is damaged, for it differs from its checksum",
        ),
        ("[" * 100_000, "nested too deep, must be a run"),
    ],
)
def test_another_file(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    assert message(tmp_path / "run.json") == said


def test_no_run(tmp_path: Path) -> None:
    assert message(tmp_path / "run.json") == "no such file, must be a run"
    (tmp_path / "run.json").mkdir()
    assert message(tmp_path / "run.json") == "not a run: is a folder, must be a regular file"


def test_a_run_cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    assert message(path).startswith("not a run, or damaged (")


CASES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a part missing": (lambda c: c.pop("engine"), "has no engine, must have one"),
    "fewer counts": (
        lambda c: c["prefill"]["fired"].pop(),
        "prefill.fired has 2 counts, must have 3",
    ),
    "fewer messages": (
        lambda c: c["generate"]["messages"].pop(),
        "generate.messages has 2 counts, must have 3",
    ),
    "a negative count": (
        lambda c: c["prefill"]["synops"].__setitem__(0, -1),
        "prefill.synops has a negative count, must have none",
    ),
    "another prompt": (
        lambda c: c["results"][0]["prompt_tokens"].append(0),
        "2 and 2 tokens were counted, must be 3 and 2",
    ),
    "other tokens": (
        lambda c: c["results"][0]["new_tokens"].pop(),
        "2 and 2 tokens were counted, must be 2 and 1",
    ),
    "no prompt": (
        lambda c: c["results"][0].update(prompt_tokens=[]),
        "its tokens must be a prompt and a continuation of 0 … 1",
    ),
    "a token of another model": (
        lambda c: c["results"][0]["new_tokens"].__setitem__(1, 2),
        "its tokens must be a prompt and a continuation of 0 … 1",
    ),
    "no results": (lambda c: c.update(results=[]), "it has no prompt, must have at least one"),
    "a result twice": (
        lambda c: c["results"].append(c["results"][0]),
        "2 and 2 tokens were counted, must be 4 and 4",
    ),
    "an end of no kind": (
        lambda c: c["results"][0].update(ended="soon"),
        ".results[0].ended: is 'soon', must be one of length, eos",
    ),
    "no counts of a phase": (
        lambda c: c["results"][0]["counted"].pop("generate"),
        "a prompt must have counts of prefill, generate",
    ),
    "no counts of one kind": (
        lambda c: c["results"][0]["counted"]["prefill"].pop("synops"),
        "a prompt must have counts of prefill, generate",
    ),
    "counts of another kind": (
        lambda c: c["results"][0]["counted"]["prefill"].update(fired=0),
        "a prompt must have counts of prefill, generate",
    ),
    "no counts": (
        lambda c: c["results"][0].pop("counted"),
        ".results[0]: has no counted, must have one",
    ),
    "a negative count of a prompt": (
        lambda c: c["results"][0]["counted"]["prefill"].update(tokens=-2),
        "prefill.tokens of its prompts are -2 together, must be 2, and none negative",
    ),
    "counts of a prompt that are not those of the run": (
        lambda c: c["results"][0]["counted"]["generate"].update(tokens=3),
        "generate.tokens of its prompts are 3 together, must be 2, and none negative",
    ),
    "none in flight": (
        lambda c: c.update(in_flight=0),
        "it had 0 sequences in flight, must have 1 … 1",
    ),
    "a mapping for no sequence": (
        lambda c: c["mapping"].update(in_flight=0),
        "its mapping is for 0 sequences in flight, must be 1 … 4096",
    ),
    "more in flight than there is room for": (
        lambda c: c.update(in_flight=2),
        "it had 2 sequences in flight, must have 1 … 1",
    ),
    "no seconds": (
        lambda c: c["seconds"].pop("start"),
        "the seconds of start, prefill, generate must be there, none negative",
    ),
    "negative seconds": (
        lambda c: c["seconds"].update(generate=-0.1),
        "the seconds of start, prefill, generate must be there, none negative",
    ),
    "no nodes": (
        lambda c: c["summary"].update(nodes=[]),
        "its graph has 0 nodes, must have some, each with its own name",
    ),
    "a node twice": (
        lambda c: c["summary"]["nodes"].append(c["summary"]["nodes"][0]),
        "its graph has 3 nodes, must have some, each with its own name",
    ),
    "a node of no neurons": (
        lambda c: c["summary"]["nodes"][1].update(size=0),
        "head has no neuron or a negative count, must have neither",
    ),
    "negative instructions": (
        lambda c: c["summary"]["nodes"][1]["instructions"].update(ADD=-1),
        "head has no neuron or a negative count, must have neither",
    ),
    "negative instructions of an idle visit": (
        lambda c: c["summary"]["nodes"][1].update(idle_instructions=-1),
        "head has no neuron or a negative count, must have neither",
    ),
    "more instructions than a program has": (
        lambda c: c["summary"]["nodes"][1].update(idle_instructions=1 << 17),
        "head has a count that no graph has",
    ),
    "more weights than there are": (
        lambda c: c["summary"]["nodes"][1].update(ternary_synapses=1 << 60),
        "head has a count that no graph has",
    ),
    "a step too late": (
        lambda c: c["summary"]["nodes"][1].update(step=10**7),
        "head fires at step 10000000, of 2 nodes",
    ),
    "counts of another version": (
        lambda c: c.update(counts_version=1),
        "its counts are of version 1, must be of 2",
    ),
    "no vocabulary": (
        lambda c: c["summary"].update(vocabulary=0),
        "hand must have words, bits of its accumulators, and blocks",
    ),
    "another system": (
        lambda c: c["mapping"].update(system="hala-point"),
        "its mapping is for 'hala-point', must be for kapoho-point",
    ),
    "a location missing": (
        lambda c: c["mapping"]["locations"].pop(),
        "3 shards have 2 locations, must have one each",
    ),
    "a shard of no node": (
        lambda c: c["mapping"]["shards"].__setitem__(1, ["tail", 0, 1]),
        "shard tail[0:1] must be a part of a node",
    ),
    "a shard twice": (
        lambda c: c["mapping"]["shards"].__setitem__(2, ["head", 0, 1]),
        "neuron 1 of head lies nowhere, must lie on a core",
    ),
    "a gap": (
        lambda c: c["mapping"]["shards"].__setitem__(1, ["head", 1, 2]),
        "neuron 0 of head lies nowhere, must lie on a core",
    ),
    "a chip too far": (
        lambda c: c["mapping"]["locations"].__setitem__(1, [99, 0]),
        "core 0 of chip 99 must be one of kapoho-point",
    ),
    "a route to a chip too far": (
        lambda c: c["mapping"]["destinations"][0].append([8, 0]),
        "core 0 of chip 8 must be one of kapoho-point",
    ),
    "a route of no shard": (
        lambda c: c["mapping"]["routes"][0].__setitem__(0, 3),
        "a route of shard 3 must send what the shard has",
    ),
    "a route of too much": (
        lambda c: c["mapping"]["routes"][0].__setitem__(4, 4),
        "a route of shard 0 must send what the shard has",
    ),
    "a route to nowhere": (
        lambda c: c["mapping"]["destinations"].__setitem__(0, []),
        "a route of shard 0 must go to cores in order, none twice",
    ),
    "a route to one core twice": (
        lambda c: c["mapping"]["destinations"][0].append(c["mapping"]["destinations"][0][-1]),
        "a route of shard 0 must go to cores in order, none twice",
    ),
    "use of a core missing": (
        lambda c: c["use"].pop(),
        "what is in use must be said once for each core, and not be negative",
    ),
    "negative use": (
        lambda c: c["use"][0].__setitem__(2, -1),
        "what is in use must be said once for each core, and not be negative",
    ),
    "use of more than a core has": (
        lambda c: c["use"][0].__setitem__(2, 10**12),
        "core 0 of chip 0 must not use more than there is",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_cannot_be(case: str, path: Path) -> None:
    """Its checksum is its own, so somebody wrote it."""
    change, said = CASES[case]
    content = json.loads(path.read_text())
    change(content)
    write_anew(path, content)
    assert message(path) == f"not a run: {said}"


def test_a_system_with_impossible_figures(path: Path) -> None:
    content = json.loads(path.read_text())
    content["system"]["chip"]["static_power_w"]["low"] = -1
    write_anew(path, content)
    assert message(path) == (
        "its system: static_power_w must have a value, or low, central and high, finite, at least 0"
    )


@pytest.mark.slow
def test_every_value_of_every_wrong_type(path: Path, spoilt: Spoilt) -> None:
    """With a checksum that is right: one line that names the file, or a run to report on."""
    content, before, refused, accepted = json.loads(path.read_text()), path.read_text(), 0, 0
    for where in spoilt(content):
        write_anew(path, content)
        try:
            run = load_run(path.parent)
        except (InputError, HardwareError) as error:
            refused += 1
            assert str(error).startswith(f"{path}: "), where
            assert "\n" not in str(error), where
            continue
        accepted += 1
        if where.startswith(("/prefill", "/seconds", "/summary/nodes", "/mapping", "/use")):
            report.build(run)
    assert refused > 5 * accepted > 50
    path.write_text(before)
    load_run(path.parent)
