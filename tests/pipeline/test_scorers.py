"""Which engine computes a graph's logits, and says what it loses, where none is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import EngineError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.lowering.scheme import scheme_named
from mmfree_neuro.pipeline import engines, quality, scoring
from mmfree_neuro.pipeline.convert import to_graph
from mmfree_neuro.pipeline.engines import SCORERS, Scorer
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_sims.fast import Fast

CHECKPOINT = Path(__file__).parents[1] / "golden" / "trained" / "checkpoint"


@pytest.mark.parametrize(
    ("installed", "gpu", "chosen"),
    [
        (("torch", "triton"), True, "gpu"),
        (("torch", "triton"), False, "fast"),
        (("torch",), True, "fast"),
        (("triton",), True, "fast"),
    ],
)
def test_the_gpu_is_taken_where_there_is_one(
    installed: tuple[str, ...], gpu: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    device = pytest.importorskip("mmfree_kernels.integer.device")
    monkeypatch.setattr(engines, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(device, "has_gpu", lambda: gpu)
    assert engines.default_scorer() == chosen


def test_triton_s_interpreter_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    device = pytest.importorskip("mmfree_kernels.integer.device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for interpreted in ("1", "0"):
        monkeypatch.setenv("TRITON_INTERPRET", interpreted)
        assert device.has_gpu() is (interpreted == "0")


@pytest.mark.parametrize(("installed", "said"), [("3.3.1", "3.3"), (None, "0.0")])
def test_an_older_triton_is_no_gpu_and_said_where_one_is_asked_for(
    installed: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = pytest.importorskip("mmfree_kernels.integer.device")
    monkeypatch.setattr(
        device, "triton", SimpleNamespace(**({"__version__": installed} if installed else {}))
    )
    assert engines.default_scorer() == "fast"
    with pytest.raises(EngineError) as refused:
        device.check_triton()
    assert str(refused.value) == (
        f"engine gpu: Triton {said} is installed, must be 3.6 or newer: pip install 'triton>=3.6'"
    )


def test_an_engine_that_scores_no_text() -> None:
    with pytest.raises(EngineError) as refused:
        engines.scorer_named("lava")
    assert str(refused.value) == "engine lava scores no text, must be fast or gpu"


def test_a_conversion_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.graph"
    assert main(["convert", str(CHECKPOINT), "--engine", "mpi", "-o", str(output)]) == 2
    assert capsys.readouterr().err == (
        "mmfree-neuro: engine mpi scores no text, must be fast or gpu\n"
    )
    assert not output.exists()


@pytest.fixture
def as_if(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """As if there were a GPU: `fast` under its name, with three windows at once."""
    slots: list[int] = []

    def load() -> Callable[..., Fast]:
        def session(graph: Graph, mapping: object) -> Fast:
            slots.append(graph.slots)
            return Fast(graph, mapping)  # type: ignore[arg-type]

        return session

    monkeypatch.setitem(SCORERS, "gpu", Scorer("gpu", 3, 16, load))
    monkeypatch.setattr(engines, "default_scorer", lambda: "gpu")
    return lambda: slots


def test_as_many_sequences_are_under_way_as_suit_the_engine(
    a16: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph_file.save_graph(a16, tmp_path / "model.graph")
    for side_by_side, slots in ((1, 8), (20, 20)):
        record = replace(SCORERS["fast"], side_by_side=side_by_side)
        monkeypatch.setitem(SCORERS, "fast", record)
        model = scoring.scored(tmp_path / "model.graph", "fast", scheme_named("a14"), None)
        assert isinstance(model, scoring.Integers) and model.graph.slots == slots


@pytest.mark.usefixtures("needs_torch")
def test_a_conversion_says_what_measured_it(
    as_if: Callable[[], list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Windows side by side lose what they lose one after another."""
    ids = np.random.default_rng(1).integers(0, 256, (20, 12))
    checkpoint, scheme = read_checkpoint(CHECKPOINT), scheme_named("a14")
    converted = to_graph(checkpoint, None, scheme, ids, "small")
    assert (converted.engine, as_if()) == ("gpu", [3])
    alone = quality.measure(checkpoint, converted.graph, ids[3::4], engine="fast")
    assert alone.engine == "fast"
    assert alone.quality == pytest.approx(converted.graph.quality, rel=1e-12)
    several = quality.measure(checkpoint, converted.graph, ids[3::4])
    assert (several.saturated, several.wrapped) == (alone.saturated, alone.wrapped)
    np.save(tmp_path / "ids.npy", ids)
    arguments = ["convert", str(CHECKPOINT), "--calibrate", str(tmp_path / "ids.npy"), "-o"]
    for named, engine in (([], "gpu"), (["--engine", "fast"], "fast")):
        assert main([*arguments, str(tmp_path / "model.graph"), *named]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.endswith(f" of 55 tokens, by engine {engine}")


def test_logits_say_what_computed_them(
    a16: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "default_scorer", lambda: "reference")
    graph, tokens, output = (str(tmp_path / name) for name in ("a.graph", "t.npy", "l.npy"))
    graph_file.save_graph(a16, Path(graph))
    np.save(tokens, np.array([[0, 1]]))
    arguments = ["logits", graph, "--tokens", tokens, "-o", output]
    for named, engine in (([], "reference"), (["--engine", "fast"], "fast")):
        assert main([*arguments, *named]) == 0
        assert capsys.readouterr().out == f"wrote {output}, by engine {engine}\n"
        assert main([*arguments, *named, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["engine"] == engine
