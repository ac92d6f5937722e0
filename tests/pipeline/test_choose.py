"""The mapping that does best at a goal: the best of what `explore` finds, and the command maps as
it says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import CapacityError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping_file import load_mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline.choose import choose
from mmfree_neuro.pipeline.explore import explore

Said = pytest.CaptureFixture[str]
FEW = Request(cores=2)
"""So few cores of a chip that the graph takes several chips."""


@pytest.fixture(scope="module")
def graph(
    random_graph: Callable[[str, str], Graph], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A graph whose norms can have local roots."""
    path = tmp_path_factory.mktemp("choose") / "model.graph"
    graph_file.save_graph(random_graph("small", "a14-late"), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("goal", "phase"), [("generation", "generate"), ("prefill", "prefill")])
def test_the_fastest_of_many(goal: str, phase: str, graph: Path) -> None:
    found = choose(graph, "kapoho-point", FEW, goal)
    rates = [point.tokens_per_s.central for point in found.points]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) > 2
    assert {point.phase for point in found.points} == {phase}
    assert not any(point.mode == "asynchronous" for point in found.points)
    chips = {point.chips for point in found.points}
    assert len(chips) > 1 and min(chips) * 2 in chips
    roots = {point.request.local_roots for point in found.points}
    assert roots == {(), ("o",), ("attn", "o", "mlp", "down", "head")}
    assert all(point.request.cores == 2 for point in found.points)
    again, _ = explore(graph, "kapoho-point", [found.request])
    (same,) = (p for p in again if p.phase == phase and p.mode != "asynchronous")
    assert same == found.points[0]


def test_the_fewest_chips(graph: Path) -> None:
    found = choose(graph, "kapoho-point", FEW, "chips")
    assert [p.chips for p in found.points] == sorted(p.chips for p in found.points)
    least = [p for p in found.points if p.chips == found.points[0].chips]
    assert found.points[0].tokens_per_s.central == max(p.tokens_per_s.central for p in least)
    assert found.request.chips is None


def test_where_roots_come_first_none_is_local(
    random_graph: Callable[[str, str], Graph], tmp_path: Path
) -> None:
    graph_file.save_graph(random_graph("small", "a14"), tmp_path / "early.graph")
    found = choose(tmp_path / "early.graph", "oheo-gulch", Request(), "generation")
    assert {point.request.local_roots for point in found.points} == {()}
    assert {point.chips for point in found.points} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("chips", [1, 3])
def test_no_more_chips_than_are_set(chips: int, graph: Path) -> None:
    found = choose(graph, "kapoho-point", Request(), "prefill", settings={"system.chips": chips})
    assert max(point.chips for point in found.points) == chips


def test_what_fits_nowhere(graph: Path) -> None:
    tiny = {"chip.synaptic_memory_bytes_per_core": 64}
    with pytest.raises(CapacityError):
        choose(graph, "oheo-gulch", Request(), "generation", settings=tiny)


@pytest.mark.slow
def test_the_command_maps_as_it_says(graph: Path, tmp_path: Path, capsys: Said) -> None:
    command = ["map", str(graph), "--system", "kapoho-point", "--cores", "2", "--for", "generation"]
    output = tmp_path / "best.map"
    assert main([*command, "-o", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["for"]
    best = told["ways"][0]
    stored = load_mapping(output)
    assert len(stored.mapping.chips) == best["chips"]
    assert list(stored.mapping.local_roots) == best["local_roots"]
    assert best["tokens_per_s_over_the_best"] == {"low": 1.0, "central": 1.0, "high": 1.0}
    assert told["goal"] == "generation"
    assert main([*command, "-o", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (number,) = (k for k, line in enumerate(lines) if line.startswith("best for generation of "))
    assert lines[number].startswith(f"best for generation of {len(told['ways'])} ways: chain, ")
    assert lines[number].endswith("before any run, as if no payload were zero:")
    assert len(lines) == number + 2 + min(4, len(told["ways"]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--for", "speed"], "--for is 'speed', must be one of generation, prefill, chips"),
        (["--for", "chips", "--chips", "2"], "--for chooses what --chips says"),
        (["--for", "chips", "--spread"], "--for chooses what --spread says"),
        (["--for", "prefill", "--rows-only"], "--for chooses what --rows-only says"),
        (["--for", "prefill", "--local-roots", "o"], "--for chooses what --local-roots says"),
    ],
)
def test_goals_that_cannot_be(
    more: list[str], message: str, graph: Path, tmp_path: Path, capsys: Said
) -> None:
    output = tmp_path / "none.map"
    assert main(["map", str(graph), "--system", "kapoho-point", *more, "-o", str(output)]) == 2
    ends = message if "one of" in message else f"{message}, must come without it"
    assert capsys.readouterr().err == f"mmfree-neuro: {ends}\n"
    assert not output.exists()
