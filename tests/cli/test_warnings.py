"""What a person should know of a result is one line each on standard error, and part of the
JSON."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmfree_kernels.cpu import products, programs
from mmfree_neuro.cli.main import main
from mmfree_neuro.cli.output import warn
from mmfree_neuro.graph import graph_file
from mmfree_neuro.lowering.scheme import Range, Ranges
from mmfree_neuro.pipeline.slow_code import slow_code_warnings
from mmfree_neuro.run import losses

Files = Callable[[str], str]
FEW = (
    "the integers choose the float model's token in 50.0 % of 64 tokens, fewer than 90 %; "
    "calibrate on text of the kind that the model was trained on, or take another scheme"
)
SLOW = (
    "there is no compiled code for products here, so engines run 13 to 90 times slower; install a "
    "C compiler and then the project again"
)


@pytest.fixture(scope="module")
def files(make_files: Callable[[str, int], Files]) -> Files:
    return make_files("small", 3)


@pytest.fixture
def odd_checkpoint(files: Files, tmp_path: Path) -> Path:
    """A checkpoint whose configuration has a key that nobody knows."""
    folder = tmp_path / "c"
    shutil.copytree(files("checkpoint"), folder)
    content = json.loads((folder / "config.json").read_text()) | {"zeta": 1}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def lines(warnings: list[str]) -> str:
    return "".join(f"mmfree-neuro: warning: {text}\n" for text in warnings)


def test_a_warning_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn(["a\n b \x1b[31m", "c"])
    assert capsys.readouterr().err == lines(["a b \\x1b[31m", "c"])


@pytest.mark.usefixtures("needs_torch")
def test_convert_tells_what_it_did_not_understand_and_what_it_lost(
    files: Files,
    odd_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "LEAST_AGREEMENT", 2.0)
    output = tmp_path / "model.graph"
    arguments = ["convert", str(odd_checkpoint), "-o", str(output)]
    assert main([*arguments, "--calibrate", files("calibration.npy"), "--json"]) == 0
    said = capsys.readouterr()
    content = json.loads(said.out)
    agreement = f"{100 * content['quality']['greedy_agreement']:.1f}"
    expected = [
        f"{odd_checkpoint}/config.json: unknown keys are left out: zeta",
        FEW.replace("50.0", agreement).replace("90 %", "200 %"),
        *slow_code_warnings(),
    ]
    assert content["warnings"] == expected
    assert said.err == lines(expected)


@pytest.mark.usefixtures("needs_torch")
def test_values_that_calibration_did_not_foresee(
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It saw an eighth of one sum; `convert` and `logits` say how often that was too little."""
    from mmfree_kernels.float_model import calibrate

    measured = calibrate.calibrate

    def blind(*given: Any, **more: Any) -> Ranges:
        ranges, name = measured(*given, **more), "layers.0.attn.i.sum"
        return {**ranges, name: Range(ranges[name].low, ranges[name].high / 8)}

    monkeypatch.setattr(calibrate, "calibrate", blind)
    output = str(tmp_path / "model.graph")
    arguments = ["convert", files("checkpoint"), "-o", output]
    assert main([*arguments, "--calibrate", files("calibration.npy"), "--json"]) == 0
    said = capsys.readouterr()
    warnings = json.loads(said.out)["warnings"]
    assert said.err == lines(warnings)
    told = next(text for text in warnings if "saturated" in text)
    assert " values were saturated in 64 tokens, " in told
    assert " of them in layers.0.mlgru (" in told
    where = ["--tokens", files("tokens.npy"), "-o", f"{output}.npy", "--engine", "fast", "--json"]
    assert main(["logits", output, *where]) == 0
    said = capsys.readouterr()
    warnings = json.loads(said.out)["warnings"]
    assert said.err == lines(warnings)
    told = next(text for text in warnings if "saturated" in text)
    assert " values were saturated in 14 tokens, " in told


def test_logits_of_a_graph_of_little_agreement(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, _ = graph_file.load_graph(Path(files("a16.graph")))
    poor = replace(graph, quality={"greedy_agreement": 0.5, "tokens": 64.0})
    graph_file.save_graph(poor, tmp_path / "poor.graph")
    output = tmp_path / "l.npy"
    arguments = ["--tokens", files("tokens.npy"), "-o", str(output), "--engine", "fast"]
    assert main(["logits", str(tmp_path / "poor.graph"), *arguments]) == 0
    said = capsys.readouterr()
    assert said.out == f"wrote {output}, by engine fast\n"
    assert said.err == lines([FEW, *slow_code_warnings()])


def test_inspect_tells_what_it_did_not_understand(
    odd_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(odd_checkpoint), "--json"]) == 0
    said = capsys.readouterr()
    expected = [f"{odd_checkpoint}/config.json: unknown keys are left out: zeta"]
    assert json.loads(said.out)["warnings"] == expected
    assert said.err == lines(expected)


def test_code_that_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_AVAILABLE", ("portable", "numpy"))
    monkeypatch.setattr(programs, "available", lambda: ("portable", "numpy"))
    assert slow_code_warnings() == ()
    monkeypatch.setattr(products, "_AVAILABLE", ("numpy",))
    assert slow_code_warnings() == (SLOW,)
    monkeypatch.setattr(programs, "available", lambda: ("numpy",))
    assert slow_code_warnings() == (SLOW.replace("products", "products and neuron programs"),)
