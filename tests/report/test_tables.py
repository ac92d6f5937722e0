"""Rows for pandas, traces in JSON Lines, and the metrics of NeuroBench."""

import json
from collections.abc import Callable
from pathlib import Path

import networkx
import numpy as np
import pytest

from mmfree_neuro.api import Graph as Door
from mmfree_neuro.api import Run
from mmfree_neuro.cli.main import main
from mmfree_neuro.cost.load import PER_CORE
from mmfree_neuro.errors import InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import HOST


@pytest.fixture(scope="module")
def run(random_graph: Callable[[str, str], Graph]) -> Run:
    """A run over two chips."""
    mapped = Door(random_graph("lower-bounds", "a14")).map("kapoho-point", chips=2)
    found = mapped.run("import os", new_tokens=4, engine="fast")
    assert isinstance(found, Run)
    return found


def test_a_trace_adds_up_to_what_was_counted(run: Run) -> None:
    rows = run.table()
    on_chip = np.array([place.chip != HOST for place in run.record.mapping.locations])
    for phase, activity in run.activity.items():
        here = [row for row in rows if row["phase"] == phase]
        synops = sum(row["synaptic_operations"] for row in here)
        assert synops == pytest.approx(activity.synops[on_chip].sum() / activity.tokens)
        assert len({(row["step"], row["chip"], row["core"]) for row in here}) == len(here)
    names = [name.replace(" ", "_") for name in PER_CORE]
    chip = run.record.system.chip
    for row in rows:
        assert list(row) == ["phase", "step", "fires", "chip", "core", *names, "busy_ns"]
        each = (getattr(chip, figure).central for figure in PER_CORE.values())
        busy = max(row[name] * ns for name, ns in zip(names, each, strict=True))
        assert row["busy_ns"] == pytest.approx(busy) and busy > 0
    assert ["MLGRU"] in [row["fires"] for row in rows]


def test_cores_links_and_energy_are_rows(run: Run) -> None:
    cores, links, energy = (run.table(what) for what in ("cores", "links", "energy"))
    assert len(cores) == len(run.record.mapping.cores)
    assert {"chip", "core", "kind", "block", "holds", "memory"} <= set(cores[0])
    for phase in ("prefill", "generate"):
        (parts,) = ([row for row in energy if row["phase"] == phase],)
        dynamic = sum(
            row["millijoule_central"]
            for row in parts
            if row["part"] not in ("idle visits",) and "power" not in row["part"]
        )
        assert sum(core[f"{phase}_millijoule_per_token"] for core in cores) == pytest.approx(
            dynamic, rel=0.1
        )
    assert {(row["source"], row["destination"]) for row in links} >= {(0, 1), (-1, 0)}
    with pytest.raises(InputError) as error:
        run.table("steps")
    assert str(error.value) == (
        "the table 'steps' is not known, must be one of trace, cores, links, energy"
    )


def test_the_metrics_of_neurobench(run: Run) -> None:
    record = run.record
    ternary = sum(node.ternary_synapses for node in record.summary.nodes)
    others = sum(node.nonzero_synapses for node in record.summary.nodes)
    for phase, found in run.neurobench.items():
        activity = run.activity[phase]
        assert found["Footprint"] == sum(use.memory for use in record.use.values()) > 0
        assert found["ConnectionSparsity"] == pytest.approx(1 - others / ternary)
        assert 0 <= found["ActivationSparsity"] < 1
        operations = found["SynapticOperations"]
        assert operations["Effective_MACs"] == 0
        assert operations["Dense"] == pytest.approx(ternary)  # the head is on the chips
        assert 0 < operations["Effective_ACs"] <= activity.reads.sum() / activity.tokens
    assert list(run.neurobench) == ["prefill", "generate"]


def test_a_trace_is_json_lines(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, trace = run.save(tmp_path / "run"), tmp_path / "trace.jsonl"
    assert main(["report", str(folder), "-o", str(trace)]) == 0
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    assert rows == run.table()
    assert capsys.readouterr().out == (
        f"wrote {trace}: {len(rows):,} lines, one for each phase, step and core\n"
    )
    assert main(["report", str(folder), "-o", str(trace), "--gpu-rows", "rows.json"]) == 2
    assert capsys.readouterr().err == (
        "mmfree-neuro: --gpu-rows are rows of a report, and a trace has none\n"
    )
    assert run.report(tmp_path / "again.jsonl").read_text() == trace.read_text()
    assert main(["report", str(folder), str(folder), "-o", str(trace)]) == 2
    assert capsys.readouterr().err == (
        f"mmfree-neuro: {trace}: ends in '.jsonl', must end in .html, .md or .json, "
        "or in .jsonl for one run\n"
    )


def test_graphs_and_mappings_for_networkx(random_graph: Callable[[str, str], Graph]) -> None:
    graph = Door(random_graph("lower-bounds", "a14"))
    assert networkx.is_directed_acyclic_graph(graph.to_networkx())
    mapped = graph.map("kapoho-point", chips=2)
    assert set(mapped.to_networkx().nodes) == {(-1, 0)} | {
        (place.chip, place.core) for place in mapped.mapping.cores
    }
