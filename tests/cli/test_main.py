"""The command line: every subcommand on a tiny model, and one clear line for everything that can be
wrong."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import EngineError, InputError, shown
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.assembler import guard
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.verify import instruction_counts
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.footprint import use_of_cores
from mmfree_neuro.mapping.mapping import HOST
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import engines
from mmfree_neuro.pipeline.text import load_tokens
from mmfree_neuro.run import run_file
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity

ROWS = "a file of rows of bench gpu"
GATE = "model.layers.1.mlp.gate_proj.weight"


Files = Callable[[str], str]
"""The path of a checkpoint, a file of tokens, a graph, a mapping or a run, as text."""
Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def files(make_files: Callable[[str, int], Files]) -> Files:
    files = make_files("small", 3)
    what = ["--prompt", "ab", "--new-tokens", "4", "--engine", "fast"]
    assert main(["simulate", files("a16.map"), *what, "-o", files("run")]) == 0
    return files


# What works.


@pytest.mark.usefixtures("needs_torch")
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_convert(
    scheme: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: Tree
) -> None:
    output = tmp_path / "new" / "model.graph"
    arguments = [
        "convert",
        files("checkpoint"),
        "-o",
        str(output),
        "--calibrate",
        files("calibration.npy"),
    ]
    assert main([*arguments, "--scheme", scheme, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["graph"], content["scheme"]) == (str(output), scheme)
    assert content["quality"]["tokens"] == 2 * 32
    assert set(tree(tmp_path)) == {"new", "new/model.graph"}
    first = output.read_bytes()
    assert main([*arguments, "--scheme", scheme]) == 0
    assert output.read_bytes() == first
    assert capsys.readouterr().out.startswith(
        f"wrote {output}: checkpoint, scheme {scheme}: 2 blocks, "
    )


@pytest.mark.usefixtures("needs_torch")
@pytest.mark.parametrize(("root", "steps"), [((), 8), (("after",), 8), (("before",), 12)])
def test_convert_with_roots_before_products_or_after(
    root: tuple[str, ...],
    steps: int,
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph = str(tmp_path / "model.graph")
    more = ["--root", *root] if root else []
    calibrated = ["--calibrate", files("calibration.npy"), "-o", graph]
    assert main(["convert", files("checkpoint"), *calibrated, *more]) == 0
    capsys.readouterr()
    assert main(["inspect", graph, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps_per_block"] == steps


def test_map(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: Tree) -> None:
    output = tmp_path / "m.map"
    arguments = [
        "map",
        files("a16.graph"),
        "--system",
        "alia-point",
        "--chips",
        "3",
        "-o",
        str(output),
    ]
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["mapping"], content["system"]) == (str(output), "alia-point")
    assert (content["placer"], content["chips"]) == ("chain", 3)
    assert sorted(content["cores_per_chip"], key=int) == ["0", "1", "2"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"wrote {output}\n")
    assert set(tree(tmp_path)) == {"m.map"}


def mapped(
    files: Files, output: Path, *more: str, graph: str = "a16.graph"
) -> mapping_file.StoredMapping:
    """The mapping that the command writes, on eight chips of which each may use 16 cores."""
    where = ["--system", "kapoho-point", "--cores", "16"]
    assert main(["map", files(graph), *where, *more, "-o", str(output)]) == 0
    return mapping_file.load_mapping(output)


@pytest.mark.slow
def test_a_mapping_is_told_beside_what_it_is_at_least(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "map",
        files("a16.graph"),
        "--system",
        "kapoho-point",
        "--cores",
        "16",
        "--chips",
        "2",
    ]
    arguments += ["-o", str(tmp_path / "m.map")]
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    bounds = content["bounds"]
    assert list(bounds) == ["cores", "chips", "slowest_core_ns", "messages_between_chips"]
    assert (bounds["cores"]["found"], bounds["chips"]["found"]) == (content["cores"], 2)
    assert (bounds["cores"]["least"], bounds["chips"]["least"]) == (
        1,
        1,
    )  # 28,672 weights are 7 KiB
    for gap in bounds.values():
        assert 0 < gap["least"] <= gap["found"]
        assert gap["ratio"] == gap["found"] / gap["least"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, gap in bounds.items():
        told = (
            f"{gap['found']:>10.0f}  proven least {gap['least']:>10.0f}  ratio {gap['ratio']:.3f}"
        )
        if name.startswith("messages"):
            told = told.replace("proven least", "proven least by rows alone, with cores no slower")
        assert f"  {name.replace('_', ' '):24s} {told}" in lines
    assert main(["inspect", str(tmp_path / "m.map"), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)["bounds"]
    assert {name: gap["found"] for name, gap in inspected.items()} == {
        n: g["found"] for n, g in bounds.items()
    }


def test_map_spread_over_all_cores(files: Files, tmp_path: Path) -> None:
    """The neurons of a gate lie on many cores instead of few; 16 cores of 8 groups each have room
    for 17 nodes of 6 shards, beside single neurons."""
    found = {}
    for name, more in (("rows", []), ("spread", ["--spread"])):
        mapping = mapped(files, tmp_path / f"{name}.map", "--placer", "greedy", *more).mapping
        places = zip(mapping.shards, mapping.locations, strict=True)
        found[name] = {place for shard, place in places if shard.node == "layers.0.glu"}
    assert len(found["rows"]) < len(found["spread"]) == 6


def test_map_with_the_head_on_the_host(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on with the same text, wherever its head is."""
    text = {}
    for name, more in (("chips", []), ("host", ["--head-on-host"])):
        mapping = mapped(files, tmp_path / f"{name}.map", *more).mapping
        places = zip(mapping.shards, mapping.locations, strict=True)
        host = {shard.node for shard, place in places if place.chip == HOST}
        assert host == (
            {"embedding"} if name == "chips" else {"embedding", "head.rms", "head.norm", "head"}
        )
        capsys.readouterr()
        what = [
            "--prompt",
            "ab",
            "--new-tokens",
            "6",
            "--engine",
            "fast",
            "-o",
            str(tmp_path / name),
            "--json",
        ]
        assert main(["simulate", str(tmp_path / f"{name}.map"), *what]) == 0
        text[name] = json.loads(capsys.readouterr().out)["results"][0]["text"]
    assert text["chips"] == text["host"]


@pytest.mark.parametrize(
    ("names", "local"),
    [("none", ()), ("down+o", ("o", "down")), ("all", ("attn", "o", "mlp", "down", "head"))],
)
def test_map_with_local_roots(
    names: str,
    local: tuple[str, ...],
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The mapping says which norms have them, and whoever opens it gives the same tokens and writes
    the same report."""
    more = ["--local-roots", names]
    stored = mapped(files, tmp_path / "local.map", *more, graph="a14-late.graph")
    assert stored.mapping.local_roots == local
    text = []
    for number, mapping in enumerate((files("a14-late.map"), str(tmp_path / "local.map"))):
        run = str(tmp_path / f"run{number}")
        capsys.readouterr()
        what = ["--prompt", "ab", "--new-tokens", "6", "--engine", "fast", "-o", run, "--json"]
        assert main(["simulate", mapping, *what]) == 0
        text.append(json.loads(capsys.readouterr().out)["results"][0]["text"])
        assert main(["report", run, "-o", f"{run}.json"]) == 0
        content = json.loads(Path(f"{run}.json").read_text(encoding="utf-8"))
        assert content["mapping"]["local_roots"] == list(local if number else ())
    assert text[0] == text[1]
    assert main(["image", str(tmp_path / "local.map"), "-o", str(tmp_path / "local.image")]) == 0
    what = ["--prompt", "ab", "--new-tokens", "6", "-o", str(tmp_path / "emulated"), "--json"]
    capsys.readouterr()
    assert main(["simulate", str(tmp_path / "local.image"), *what]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["text"] == text[0]


def test_map_with_words_chosen_on_the_chips(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same text from the mapping and its image; whoever opens either refuses what needs
    logits, in one line."""
    path, image = str(tmp_path / "greedy.map"), str(tmp_path / "greedy.image")
    stored = mapped(files, Path(path), "--greedy-on-chips", "--in-flight", "2")
    assert stored.mapping.greedy_on_chips
    assert "for 2 sequences in flight, chooses words itself\n" in capsys.readouterr().out
    assert main(["image", path, "-o", image]) == 0
    capsys.readouterr()
    assert main(["inspect", image]) == 0
    assert " image 3, for kapoho-point, chooses words itself\n" in capsys.readouterr().out
    texts = []
    for number, source in enumerate((files("a16.map"), path, image)):
        run = str(tmp_path / f"run{number}")
        capsys.readouterr()
        assert (
            main(["simulate", source, "--prompt", "ab", "--new-tokens", "6", "-o", run, "--json"])
            == 0
        )
        texts.append(json.loads(capsys.readouterr().out)["results"][0]["text"])
        assert main(["report", run, "-o", f"{run}.json"]) == 0
        content = json.loads(Path(f"{run}.json").read_text(encoding="utf-8"))
        assert content["mapping"]["greedy_on_chips"] == (number > 0)
    assert texts[0] == texts[1] == texts[2]
    ids = ["--tokens", files("tokens.npy"), "-o", str(tmp_path / "logits.npy")]
    never = str(tmp_path / "never")
    for source, engine in ((path, "fast"), (image, "emulator")):
        for command, said in (
            (
                [
                    *("simulate", source, "--prompt", "a", "--temperature", "1.5"),
                    *("--engine", engine, "-o", never),
                ],
                "and greedily, so the temperature is 1.5, must be 0; a mapping without "
                "greedy-on-chips can draw",
            ),
            (
                ["logits", source, *ids, "--engine", engine],
                "so no logits come to the host; a mapping without greedy-on-chips has them",
            ),
        ):
            capsys.readouterr()
            assert main(command) == 2
            out, err = capsys.readouterr()
            begin = "mmfree-neuro: the chips choose the words here, "
            assert (out, err) == ("", f"{begin}{said}\n")
    assert not (tmp_path / "logits.npy").exists() and not Path(never).exists()


@pytest.mark.slow
def test_map_by_rows_only(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On five chips some sums are divided by columns unless it is forbidden, and the text is the
    same."""
    text, divided = {}, {}
    for name, more in (("columns", []), ("rows", ["--rows-only"])):
        divided[name] = mapped(
            files, tmp_path / f"{name}.map", "--chips", "5", *more, graph="a14.graph"
        ).mapping.columns
        capsys.readouterr()
        what = [
            "--prompt",
            "ab",
            "--new-tokens",
            "6",
            "--engine",
            "fast",
            "-o",
            str(tmp_path / name),
            "--json",
        ]
        assert main(["simulate", str(tmp_path / f"{name}.map"), *what]) == 0
        text[name] = json.loads(capsys.readouterr().out)["results"][0]["text"]
    assert divided["columns"]
    assert divided["rows"] == ()
    assert text["columns"] == text["rows"]


@pytest.mark.slow
def test_messages_of_a_mapping_whose_sums_are_divided_have_no_bound(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On five chips some sums are divided, and the bound holds for mappings by rows alone."""
    arguments = ["map", files("a14.graph"), "--system", "kapoho-point", "--chips", "5"]
    arguments += ["-o", str(tmp_path / "columns.map")]
    assert main([*arguments, "--json"]) == 0
    gap = json.loads(capsys.readouterr().out)["bounds"]["messages_between_chips"]
    assert gap["least"] is gap["ratio"] is None
    assert main(arguments) == 0
    told = (
        f"  messages between chips   {gap['found']:>10.0f}  sums are divided: no bound; mappings "
        f"by rows alone, with cores no slower, have at least {gap['by_rows_alone']:>10.0f}"
    )
    assert told in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_map_refined(files: Files, tmp_path: Path) -> None:
    """Cores change places on their chips, whatever placed them."""
    plain, refined = (
        mapped(
            files, tmp_path / f"{name}.map", "--placer", "balanced", "--chips", "3", *more
        ).mapping
        for name, more in (("plain", []), ("refined", ["--refine"]))
    )
    assert plain.shards == refined.shards
    assert plain.locations != refined.locations
    assert [place.chip for place in plain.locations] == [place.chip for place in refined.locations]


def test_map_with_wider_weights(files: Files, tmp_path: Path) -> None:
    """Eight bits go into the mapping file with the system, and take the room of eight bits."""
    used = {}
    for bits in ("2", "8"):
        stored = mapped(
            files, tmp_path / f"{bits}.map", "--placer", "greedy", "--weight-bits", bits
        )
        width = stored.system.chip.weight_bits
        assert (width.low, width.central, width.high) == (int(bits),) * 3
        assert width.source == f"chosen; {load_system('kapoho-point').chip.weight_bits.source}"
        graph, _ = graph_file.load_graph(Path(files("a16.graph")))
        found = use_of_cores(graph, stored.mapping, stored.system.chip)
        used[bits] = sum(core.synaptic_memory for core in found.values())
    assert (
        2 * used["2"] < used["8"] < 4 * used["2"]
    )  # lists begin at whole words of 64 bits at either width


@pytest.mark.slow
def test_map_with_a_seed(files: Files, tmp_path: Path) -> None:
    """A placer that draws gives the same mapping for the same seed; other placers do not draw."""
    common = ["--chips", "3", "--placer"]
    for placer in ("anneal", "chain"):
        one, again, other = (
            mapped(files, tmp_path / f"{placer}-{k}.map", *common, placer, "--seed", seed).mapping
            for k, seed in enumerate(("1", "1", "2"))
        )
        assert one == again
        assert placer == "anneal" or one == other


def test_map_onto_a_chip_with_every_limit_known(files: Files, tmp_path: Path) -> None:
    own = tiny_system(
        tmp_path / "own.toml", output_axons_per_core=4096, program_instructions_per_core=4096
    )
    assert main(["map", files("a16.graph"), "--system", own, "-o", str(tmp_path / "m.map")]) == 0
    chip = mapping_file.load_mapping(tmp_path / "m.map").system.chip
    assert (
        chip.output_axons_per_core
        == chip.program_instructions_per_core
        == Quantity(4096, 4096, 4096, "a test")
    )
    assert main(["inspect", str(tmp_path / "m.map")]) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_options_and_files(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert all(word in said for word in ("simulate", "--new-tokens", "sensitivity", "--in-flight"))
    assert {"bash": "_shtab_compgen_files", "zsh": "_files"}[shell] in said


def test_without_lava_another_engine_runs_and_that_is_said(
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    what = ["--prompt", "ab", "--new-tokens", "2", "-o", str(tmp_path / "run"), "--json"]
    assert main(["simulate", files("a16.map"), *what]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["engine"] == "fast"
    assert said.err == (
        "mmfree-neuro: warning: lava-nc is not installed, so engine fast runs; tokens and counts "
        "are the same on every engine\n"
    )
    monkeypatch.setattr(engines, "find_spec", lambda name: name)
    assert engines.default_engine() == "lava"
    # a folder that an uninstalled lava-nc may leave
    monkeypatch.undo()
    (tmp_path / "left" / "lava" / "lib").mkdir(parents=True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lava"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "left")])
    assert engines.default_engine() == "fast"
    (tmp_path / "left" / "lava" / "magma").mkdir()
    assert engines.default_engine() == "fast"


def test_simulate(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: Tree
) -> None:
    """The same text on every engine that lives in this process, again into the same folder."""
    said = []
    for engine in ("fast", "reference"):
        what = [
            "--prompt",
            "ab",
            "--new-tokens",
            "5",
            "--engine",
            engine,
            "--temperature",
            "0.9",
            "--seed",
            "3",
        ]
        assert (
            main(["simulate", files("a16.map"), *what, "-o", str(tmp_path / "run"), "--json"]) == 0
        )
        content = json.loads(capsys.readouterr().out)
        assert content["engine"] == engine
        said.append(
            (content["results"][0]["text"], run_file.load_run(tmp_path / "run").only.new_tokens)
        )
    assert said[0] == said[1]
    assert len(said[0][1]) == 5
    assert set(tree(tmp_path)) == {"run", "run/run.json"}
    assert main(["simulate", files("a16.map"), *what, "-o", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith("ab")


@pytest.mark.lava
def test_logits_of_every_engine(files: Files, tmp_path: Path) -> None:
    """Raw integers times the output scale are the logits; Lava runs in a process without torch."""
    graph, _ = graph_file.load_graph(Path(files("a16.graph")))
    found = {}
    for source in ("a16.graph", "a16.map"):
        for engine in ("reference", "fast"):
            output = tmp_path / f"{source}-{engine}.npy"
            arguments = [
                "logits",
                files(source),
                "--tokens",
                files("tokens.npy"),
                "-o",
                str(output),
            ]
            assert main([*arguments, "--engine", engine]) == 0
            found[source, engine] = np.load(output)
    output = tmp_path / "lava.npy"
    arguments = ["logits", files("a16.map"), "--tokens", files("tokens.npy"), "-o", str(output)]
    command = [sys.executable, "-m", "mmfree_neuro", *arguments, "--engine", "lava"]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    found["a16.map", "lava"] = np.load(output)
    first = found["a16.graph", "reference"]
    assert (first.dtype, first.shape) == (np.float64, (2, 7, 256))
    assert all(np.array_equal(first, other) for other in found.values())
    assert main([*arguments, "--engine", "fast", "--raw"]) == 0
    raw = np.load(output)
    assert raw.dtype == np.int64
    assert np.array_equal(raw * graph.logit_scale, first)


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_logits_with_losses_and_a_continuation(
    raw: list[str], files: Files, tmp_path: Path
) -> None:
    tokens = np.load(files("tokens.npy"))
    names = {name: str(tmp_path / f"{name}.npy") for name in ("logits", "nats", "chosen")}
    arguments = [
        "logits",
        files("a16.graph"),
        "--engine",
        "fast",
        "--tokens",
        files("tokens.npy"),
        *raw,
    ]
    arguments += [
        "-o",
        names["logits"],
        "--nats",
        names["nats"],
        "--new-tokens",
        "3",
        "--chosen",
        names["chosen"],
    ]
    assert main(arguments) == 0
    graph, _ = graph_file.load_graph(Path(files("a16.graph")))
    logits = np.load(names["logits"]) * (graph.logit_scale if raw else 1)
    shares = np.exp(logits[:, :-1])
    shares /= shares.sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(shares, tokens[:, 1:, None], -1)[..., 0])
    np.testing.assert_allclose(np.load(names["nats"]), expected, atol=1e-9)
    chosen = np.load(names["chosen"])
    assert chosen.shape == (2, 3)
    assert chosen[:, 0].tolist() == logits[:, -1].argmax(-1).tolist()


@pytest.mark.usefixtures("needs_torch")
def test_logits_of_a_checkpoint(files: Files, tmp_path: Path) -> None:
    """The float model, and the integers made on the way, which are those of the converted graph."""
    output = tmp_path / "logits.npy"
    arguments = ["logits", files("checkpoint"), "--tokens", files("tokens.npy"), "-o", str(output)]
    assert main(arguments) == 0
    floats = np.load(output)
    assert (floats.dtype, floats.shape) == (np.float64, (2, 7, 256))
    assert main([*arguments, "--engine", "fast", "--calibrate", files("calibration.npy")]) == 0
    integers = np.load(output)
    graph = str(tmp_path / "model.graph")
    convert = ["convert", files("checkpoint"), "--calibrate", files("calibration.npy"), "-o", graph]
    assert main(convert) == 0
    assert main(["logits", graph, *arguments[2:], "--engine", "fast"]) == 0
    assert np.array_equal(np.load(output), integers)
    assert np.corrcoef(floats.ravel(), integers.ravel())[0, 1] > 0.99


def test_systems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["hala-point"]["chips"] == 1152
    assert main(["systems"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(content)
    assert main(["systems", "kapoho-point", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chips"]["central"] == 8
    assert main(["systems", "kapoho-point"]) == 0
    assert "  chips = 8\n      arXiv 2503.18002v2\n" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["checkpoint", "a16.graph", "a16.map", "run"])
def test_inspect(what: str, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", files(what)]) == 0
    assert capsys.readouterr().out
    assert main(["inspect", files(what), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content
    assert content.get("steps_per_block") == (12 if what == "a16.graph" else None)


def test_inspect_shows_what_a_run_counted(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the report has it."""
    assert main(["inspect", files("run"), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert main(["report", files("run"), "-o", str(tmp_path / "counts.json"), "--json"]) == 0
    phases = json.loads(capsys.readouterr().out)["phases"]
    assert list(counts) == list(phases) == ["prefill", "generate"]
    for phase, found in counts.items():
        report = phases[phase]
        tokens, moved = report["tokens"], report["traffic_per_token"]
        assert found["synops"] == round(report["synops_per_token"] * tokens)
        assert found["reads"] == round(report["reads_per_token"] * tokens)
        assert found["instructions"] == round(
            sum(report["instructions_per_token"].values()) * tokens
        )
        assert found["messages"] == round(moved["messages"] * tokens)
        assert found["between_chips"] == round(moved["between_chips"] * tokens)
        for name in ("tokens", "saturations", "wrapped"):
            assert found[name] == report[name]
        assert found["events"] > 0
    assert main(["inspect", files("run")]) == 0
    head, *rows = capsys.readouterr().out.splitlines()[-10:]
    assert head.split() == ["counted", "prefill", "generation"]
    for row, name in zip(rows, counts["prefill"], strict=True):
        assert row.split()[-2:] == [f"{found[name]:,}" for found in counts.values()]


@pytest.mark.slow
def test_the_commands_of_a_report_make_the_run_again(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as it stands, but for the checkpoint, which the graph stands for."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(files("a16.graph"), "model.graph")
    asked = "--chips 2 --spread --refine --set chip.static_power_w=1,2,3 --cores 60"
    first = f"map model.graph --system kapoho-point {asked} -o first.map"
    assert main(first.split()) == 0
    what = ["--prompt", "it's", "--new-tokens", "3", "--temperature", "0.5", "--seed", "3"]
    assert main(["simulate", "first.map", *what, "--engine", "fast", "-o", "once"]) == 0
    assert main(["report", "once", "-o", "once.md"]) == 0
    page = (tmp_path / "once.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("mmfree-neuro ")]
    assert [line.split()[1] for line in commands] == ["convert", "map", "simulate", "report"]
    for line in commands[1:]:
        assert main(shlex.split(line)[1:]) == 0, line
    once, again = run_file.load_run(tmp_path / "once"), run_file.load_run(tmp_path / "run")
    assert (again.mapping, again.system) == (once.mapping, once.system)
    assert again.mapping.options == once.mapping.options
    assert again.results == once.results


def test_inspect_writes_codes(
    files: Files, tmp_path: Path, random_checkpoint: Callable[[str], Checkpoint]
) -> None:
    assert main(["inspect", files("checkpoint"), "--codes", str(tmp_path / "codes.npz")]) == 0
    checkpoint = random_checkpoint("small")
    with np.load(tmp_path / "codes.npz") as codes:
        matrices = {name for name in checkpoint.config.shapes() if name.endswith("_proj.weight")}
        assert set(codes) == matrices | {"lm_head.weight"}
        assert set(np.unique(codes[GATE])) == {-1, 0, 1}


def test_report_beside_rows_of_ones_own(files: Files, tmp_path: Path) -> None:
    for name, device in (("a", "GPU X"), ("b", "GPU Y")):
        (tmp_path / f"{name}.json").write_text(json.dumps([ROW | {"device": device}]))
    rows = [word for name in "aba" for word in ("--gpu-rows", str(tmp_path / f"{name}.json"))]
    assert main(["report", files("run"), "-o", str(tmp_path / "r.json"), *rows]) == 0
    comparison = json.loads((tmp_path / "r.json").read_text())["comparison"]
    devices = [other["device"] for other in comparison["context"]]
    assert [devices.count(device) for device in ("GPU X", "GPU Y")] == [1, 1]
    assert {other["device"] for other in comparison["estimated"]} >= {
        "NVIDIA L4",
        "NVIDIA H200 SXM",
    }


@pytest.mark.usefixtures("needs_torch")
def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_bytes(b"abcdefgh" * 200)
    arguments = [
        "train",
        "--text",
        str(tmp_path / "text"),
        "-o",
        str(tmp_path / "out"),
        "--steps",
        "2",
        "--batch",
        "2",
    ]
    arguments += ["--hidden", "32", "--layers", "1", "--window", "16", "--intermediate", "32"]
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["step"], content["finished"]) == (2, True)
    assert content["held_out_nats"] == content["held_out_nats_per_byte"]
    assert [progress["step"] for progress in content["progress"]] == [2]
    assert main(["inspect", str(tmp_path / "out")]) == 0


@pytest.mark.usefixtures("needs_torch")
def test_train_on_what_is_no_tokenizer_or_on_two_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is named as it was given."""
    (tmp_path / "text").write_bytes(b"one two three two\n" * 200)
    false, out = tmp_path / "notes.md", str(tmp_path / "out")
    false.write_text("notes")
    options = ["train", "-o", out, "--text", str(tmp_path / "text")]
    assert main([*options, "--tokenizer", str(false)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mmfree-neuro: {false}: is not readable (expected ")
    assert said.endswith("), must be a tokenizer in the format of Hugging Face tokenizers\n")
    assert main([*options, "--corpus", "stdlib"]) == 2
    said = capsys.readouterr().err
    assert said == "mmfree-neuro: --corpus and --text were both given, must be one of them\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("needs_torch")
def test_train_on_the_tokens_of_a_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its vocabulary is the model's, and it is kept beside the weights; the file and its folder are
    the same."""
    words = {
        "<unk>": 0,
        "<s>": 1,
        **{word: n + 2 for n, word in enumerate(["one", "two", "three"])},
    }
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.post_processor = template
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    (tmp_path / "text").write_bytes(b"one two three two\n" * 200)
    options = ["--text", str(tmp_path / "text"), "--steps", "2", "--batch", "2", "--window", "8"]
    options += ["--hidden", "32", "--layers", "1", "--intermediate", "32", "--warmup", "1"]
    options += ["--accumulate", "2", "--schedule", "wsd"]
    said = []
    for name, where in (("file", tmp_path / "tokenizer.json"), ("folder", tmp_path)):
        out = tmp_path / name
        assert main(["train", "-o", str(out), "--tokenizer", str(where), *options]) == 0
        said.append(re.sub(r"[0-9.]+ ktokens/s", "", capsys.readouterr().out))
    assert said[0] == said[1]
    assert re.search(r"nats per token on held-out text \([0-9.]+ per byte\)\n$", said[0])
    config = json.loads((tmp_path / "file" / "config.json").read_text())
    assert [config[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")] == [5, 1, None]
    assert (tmp_path / "file" / "tokenizer.json").read_text() == made.to_str()


def test_the_help_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    commands = "convert map explore simulate report logits train bench systems inspect demo"
    for command in commands.split():
        assert f"    {command} " in said
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert "example: mmfree-neuro" in capsys.readouterr().out


# What is wrong. Every case is arguments and the whole line.


def broken(files: Files, folder: Path, **changed: np.ndarray | None) -> str:
    """A copy of the checkpoint with some tensors replaced, added, or left out (None)."""
    shutil.copytree(files("checkpoint"), folder)
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    content = {name: value for name, value in (stored | changed).items() if value is not None}
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(content))
    return str(folder)


def in_config(files: Files, folder: Path, **changed: object) -> str:
    shutil.copytree(files("checkpoint"), folder)
    content = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


def truncated(source: str, target: Path, keep: float = 0.5) -> str:
    data = Path(source).read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return str(target)


def saved(target: Path, array: np.ndarray) -> str:
    np.save(target, array)
    return str(target)


def tiny_system(target: Path, **changed: int) -> str:
    """The shipped one-chip system with other figures."""
    systems = resources.files("mmfree_neuro") / "systems"
    chip = (systems / "chips" / "loihi2.toml").read_text(encoding="utf-8").splitlines()
    for name, value in changed.items():
        chip = [line for line in chip if not line.startswith(f"{name} = ")]
        chip.append(f'{name} = {{ value = {value}, source = "a test" }}')
    system = (
        (systems / "oheo-gulch.toml").read_text(encoding="utf-8").replace('chip = "loihi2"\n', "")
    )
    target.write_text("\n".join([system, "[chip]", *chip]), encoding="utf-8")
    return str(target)


def with_another_graph(files: Files, folder: Path) -> str:
    """A mapping beside a graph file that has been written anew since."""
    folder.mkdir()
    graph, _ = graph_file.load_graph(Path(files("a16.graph")))
    graph_file.save_graph(replace(graph, name="another"), folder / "a16.graph")
    (folder / "a16.map").write_bytes(Path(files("a16.map")).read_bytes())
    return str(folder / "a16.map")


def text_file(target: Path, text: str) -> str:
    target.write_text(text)
    return str(target)


Case = Callable[[Files, Path], tuple[list[str], str]]


def convert(source: str, *more: str) -> list[str]:
    return ["convert", source, "-o", "OUT/model.graph", *more]


def map_(files: Files, *more: str) -> list[str]:
    return ["map", files("a16.graph"), "-o", "OUT/model.map", *more]


def simulate(source: str, *more: str) -> list[str]:
    return [
        "simulate",
        source,
        "--prompt",
        "ab",
        "--new-tokens",
        "2",
        "--engine",
        "fast",
        "-o",
        "OUT/run",
        *more,
    ]


def logits(source: str, *more: str) -> list[str]:
    return ["logits", source, "-o", "OUT/logits.npy", "--engine", "fast", *more]


def case_wrong_shape(files: Files, tmp: Path) -> tuple[list[str], str]:
    folder = broken(files, tmp / "c", **{GATE: np.zeros((128, 31), np.float32)})
    return convert(folder), f"{folder}: {GATE} has shape [128, 31], must have [128, 32]"


def case_nan(files: Files, tmp: Path) -> tuple[list[str], str]:
    folder = broken(files, tmp / "c", **{GATE: np.full((128, 32), np.nan, np.float32)})
    return convert(folder), f"{folder}: {GATE} holds values that are not finite"


def case_missing_tensor(files: Files, tmp: Path) -> tuple[list[str], str]:
    folder = broken(files, tmp / "c", **{GATE: None})
    return convert(folder), f"{folder}: {GATE} is missing"


def case_extra_tensor(files: Files, tmp: Path) -> tuple[list[str], str]:
    folder = broken(files, tmp / "c", bias=np.zeros(3, np.float32))
    return convert(folder), f"{folder}: bias does not belong to a model of this configuration"


def case_wrong_type(files: Files, tmp: Path) -> tuple[list[str], str]:
    folder = in_config(files, tmp / "c", model_type="llama")
    return convert(folder), f"{folder}/config.json: model_type is 'llama', must be 'hgrn_bit'"


def case_no_folder(files: Files, tmp: Path) -> tuple[list[str], str]:
    return convert(str(tmp / "no")), (
        f"{tmp}/no: no such folder, must be a folder with config.json and weights"
    )


def case_a_file_for_a_folder(files: Files, tmp: Path) -> tuple[list[str], str]:
    path = files("checkpoint/config.json")
    return convert(path), f"{path}: is a file, must be a folder with config.json and weights"


def case_unknown_scheme(files: Files, tmp: Path) -> tuple[list[str], str]:
    return convert(
        files("checkpoint"), "--scheme", "a4"
    ), "scheme 'a4' is not known, must be one of a14, a16, a8"


def case_calibration_of_few_rows(files: Files, tmp: Path) -> tuple[list[str], str]:
    few = saved(tmp / "few.npy", np.zeros((3, 9), np.int64))
    return (
        convert(files("checkpoint"), "--calibrate", few),
        f"{few}: has 3 rows, must have at least 4 to calibrate on some and measure on others",
    )


def case_calibration_outside_the_vocabulary(files: Files, tmp: Path) -> tuple[list[str], str]:
    odd = saved(tmp / "odd.npy", np.full((4, 9), 300))
    return (
        convert(files("checkpoint"), "--calibrate", odd),
        f"{odd}: holds token 300, which is outside the vocabulary 0 … 255",
    )


def case_no_calibration_windows(files: Files, tmp: Path) -> tuple[list[str], str]:
    return (
        convert(files("checkpoint"), "--calibrate", str(tmp / "no.txt")),
        f"{tmp}/no.txt: no such file, must be a text file",
    )


def case_output_is_a_folder(files: Files, tmp: Path) -> tuple[list[str], str]:
    arguments = convert(files("checkpoint"), "--calibrate", files("calibration.npy"))
    return [
        a.replace("OUT/model.graph", "OUT") for a in arguments
    ], "OUT: is a folder, must be a file to write"


def case_unknown_system(files: Files, tmp: Path) -> tuple[list[str], str]:
    known = "alia-point, alia-point-32, hala-point, kapoho-point, loihi1-nahuku, oheo-gulch"
    message = f"system 'pohoiki' is not known, must be one of {known}, or a .toml file"
    return map_(files, "--system", "pohoiki"), message


def case_core_too_small(files: Files, tmp: Path) -> tuple[list[str], str]:
    system = tiny_system(tmp / "tiny.toml", memory_bytes_per_core=16)
    message = "layers.0.attn.rms: one neuron needs 1444 of memory, a core of loihi2 has 16"
    return map_(files, "--system", system), message


def case_too_few_cores(files: Files, tmp: Path) -> tuple[list[str], str]:
    system = tiny_system(tmp / "tiny.toml", cores=1, memory_bytes_per_core=20000)
    why = "all nodes need 4 chips of 1 cores, oheo-gulch has 1"
    return map_(
        files, "--system", system
    ), f"layers.0.glu: does not fit behind what comes before it: {why}"


def case_too_many_instructions(files: Files, tmp: Path) -> tuple[list[str], str]:
    system = tiny_system(tmp / "tiny.toml", program_instructions_per_core=1)
    graph, _ = graph_file.load_graph(Path(files("a16.graph")))
    root = graph.nodes[1]
    need = (instruction_counts(graph)[root.name] + guard(root)).total()
    message = f"{root.name}: one neuron needs {need} of instructions, a core of loihi2 has 1"
    return map_(files, "--system", system, "--placer", "greedy"), message


def case_too_many_outgoing_axons(files: Files, tmp: Path) -> tuple[list[str], str]:
    """A core of eight groups has half a block.  Of its 323 payloads, 32 of the residual stream and
    a root go to the next core, too; the last 32 go there alone."""
    system = tiny_system(tmp / "tiny.toml", output_axons_per_core=8)
    graph, _ = graph_file.load_graph(Path(files("a16.graph")))
    names = [node.name for node in graph.nodes[1:9]]
    message = f"{', '.join(names)}: core 0 of chip 0 needs 324 of output axons, loihi2 has 8"
    return map_(files, "--system", system, "--placer", "greedy"), message


def case_weights_too_wide(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "weights of 9 bits were asked for, loihi2 has 2 to 8"
    return map_(files, "--system", "oheo-gulch", "--weight-bits", "9"), message


def case_weights_too_narrow(files: Files, tmp: Path) -> tuple[list[str], str]:
    """The chip has weights of one bit, but a ternary weight needs two."""
    message = "weights of 1 bits were asked for, loihi2 has 2 to 8"
    return map_(files, "--system", "oheo-gulch", "--weight-bits", "1"), message


def case_two_placers(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "--block-per-chip and --placer greedy contradict each other"
    return map_(files, "--system", "oheo-gulch", "--block-per-chip", "--placer", "greedy"), message


def case_unknown_root(files: Files, tmp: Path) -> tuple[list[str], str]:
    return convert(
        files("checkpoint"), "--root", "beside"
    ), "root 'beside' is not known, must be one of before, after"


def case_local_roots_before_products(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "tiny: no norm can have a local root, for none has its root after the product"
    return map_(files, "--system", "oheo-gulch", "--local-roots", "o"), message


def case_local_roots_of_no_norm(files: Files, tmp: Path) -> tuple[list[str], str]:
    arguments = map_(files, "--system", "oheo-gulch", "--local-roots", "o+norm")
    return [a.replace("a16.graph", "a14-late.graph") for a in arguments], (
        "tiny: local roots of 'norm' were asked for, must be all or some of attn, o, mlp, down, "
        "head"
    )


def case_words_chosen_away_from_their_logits(files: Files, tmp: Path) -> tuple[list[str], str]:
    more = "--head-on-host", "--greedy-on-chips"
    return map_(files, "--system", "oheo-gulch", *more), (
        "words are chosen where their logits are, so with greedy on the chips the head must be "
        "there"
    )


def case_unknown_placer(files: Files, tmp: Path) -> tuple[list[str], str]:
    known = "anneal, balanced, block-per-chip, chain, greedy, mtkahypar"
    message = f"placer 'best' is not known, must be one of {known}"
    return map_(files, "--system", "oheo-gulch", "--placer", "best"), message


def case_too_many_chips(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "2 chips were asked for, must be 1 … 1, as oheo-gulch has"
    return map_(files, "--system", "oheo-gulch", "--chips", "2"), message


def case_too_many_cores(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "121 cores per chip were asked for, must be 1 … 120"
    return map_(files, "--system", "oheo-gulch", "--cores", "121"), message


def case_foreign_graph(files: Files, tmp: Path) -> tuple[list[str], str]:
    foreign = files("checkpoint/model.safetensors")
    message = f"{foreign}: not a graph file: its format is not 'mmfree-neuro graph 8'"
    return ["map", foreign, "--system", "oheo-gulch", "-o", "OUT/model.map"], message


def case_truncated_graph(files: Files, tmp: Path) -> tuple[list[str], str]:
    cut = truncated(files("a16.graph"), tmp / "cut.graph", 0.95)
    head = 8 + int.from_bytes(Path(cut).read_bytes()[:8], "little")
    end = Path(cut).stat().st_size - head
    message = (
        f"{cut}: not a graph file: array 'a00002' has bytes 13632 … 30016, of {end}, or it is cut "
        "short"
    )
    return ["map", cut, "--system", "oheo-gulch", "-o", "OUT/model.map"], message


def case_no_graph(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"{tmp}/no.graph: no such file, must be a graph file"
    return ["map", str(tmp / "no.graph"), "--system", "oheo-gulch", "-o", "OUT/model.map"], message


def case_truncated_mapping(files: Files, tmp: Path) -> tuple[list[str], str]:
    cut = truncated(files("a16.map"), tmp / "cut.map")
    with pytest.raises(json.JSONDecodeError) as reason:  # its wording is that of the Python at hand
        json.loads(Path(cut).read_bytes())
    return simulate(cut), f"{cut}: not a mapping file, or damaged ({shown(str(reason.value))})"


def case_another_graph(files: Files, tmp: Path) -> tuple[list[str], str]:
    path = with_another_graph(files, tmp / "m")
    return simulate(
        path
    ), f"{path}: belongs to another graph than {tmp}/m/a16.graph; map that graph again"


def case_unknown_engine(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"engine 'warp' is not known, must be one of {', '.join(engines.ENGINES)}"
    return simulate(files("a16.map"), "--engine", "warp"), message


def case_negative_temperature(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "the temperature is -1.0, must be between 0 and 100"
    return simulate(files("a16.map"), "--temperature", "-1"), message


def case_negative_seed(files: Files, tmp: Path) -> tuple[list[str], str]:
    return simulate(files("a16.map"), "--seed", "-1"), "the seed is -1, must not be negative"


def case_negative_new_tokens(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "-1 new tokens were asked for, must not be negative"
    return simulate(files("a16.map"), "--new-tokens", "-1"), message


def case_run_over_something_else(files: Files, tmp: Path) -> tuple[list[str], str]:
    (tmp / "mine").mkdir()
    (tmp / "mine" / "run.json").write_text("ten years of work")
    message = f"{tmp}/mine: has a run.json of something else, must be another folder"
    return simulate(files("a16.map"), "-o", str(tmp / "mine")), message


def case_run_over_a_checkpoint(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"{files('checkpoint')}: holds a checkpoint, must be another folder"
    return simulate(files("a16.map"), "-o", files("checkpoint")), message


def case_float_tokens(files: Files, tmp: Path) -> tuple[list[str], str]:
    floats = saved(tmp / "floats.npy", np.zeros((2, 3)))
    return (
        logits(files("a16.graph"), "--tokens", floats),
        f"{floats}: not an .npy file of integers [sequences, time]: holds float64 of shape [2, 3]",
    )


def case_tokens_are_text(files: Files, tmp: Path) -> tuple[list[str], str]:
    text = text_file(tmp / "text.npy", "1 2 3")
    return logits(files("a16.graph"), "--tokens", text), (
        f"{text}: not an .npy file of integers [sequences, time], or damaged ('EOF: reading magic "
        "string, expected 8 bytes got 5')"
    )


def case_token_outside_the_vocabulary(files: Files, tmp: Path) -> tuple[list[str], str]:
    odd = saved(tmp / "odd.npy", np.array([[1, 256]]))
    return logits(
        files("a16.graph"), "--tokens", odd
    ), "token 256 is outside the vocabulary, must be 0 … 255"


def case_negative_token(files: Files, tmp: Path) -> tuple[list[str], str]:
    odd = saved(tmp / "odd.npy", np.array([[1, -2]]))
    return logits(
        files("a16.graph"), "--tokens", odd
    ), "token -2 is outside the vocabulary, must be 0 … 255"


def case_float_token_outside_the_vocabulary(files: Files, tmp: Path) -> tuple[list[str], str]:
    odd = saved(tmp / "odd.npy", np.array([[1, 256]]))
    message = "the tokens: holds token 256, which is outside the vocabulary 0 … 255"
    return logits(files("checkpoint"), "--tokens", odd, "--engine", "float"), message


def case_negative_float_token(files: Files, tmp: Path) -> tuple[list[str], str]:
    odd = saved(tmp / "odd.npy", np.array([[1, -2]]))
    message = "the tokens: holds token -2, which is outside the vocabulary 0 … 255"
    return logits(files("checkpoint"), "--tokens", odd, "--engine", "float"), message


def case_no_tokens(files: Files, tmp: Path) -> tuple[list[str], str]:
    none = saved(tmp / "none.npy", np.zeros((1, 0), np.int64))
    message = "the tokens have shape [1, 0], must be [sequences, time] with at least one token"
    return logits(files("a16.graph"), "--tokens", none), message


def case_no_float_tokens(files: Files, tmp: Path) -> tuple[list[str], str]:
    none = saved(tmp / "none.npy", np.zeros((1, 0), np.int64))
    message = "the tokens have shape [1, 0], must be [sequences, time] with at least one token"
    return logits(files("checkpoint"), "--tokens", none, "--engine", "float"), message


def case_raw_floats(files: Files, tmp: Path) -> tuple[list[str], str]:
    arguments = logits(
        files("checkpoint"), "--tokens", files("tokens.npy"), "--engine", "float", "--raw"
    )
    return arguments, "--raw writes integers, which the float engine does not have"


def case_codes_of_a_graph(files: Files, tmp: Path) -> tuple[list[str], str]:
    path = files("a16.graph")
    return [
        "inspect",
        path,
        "--codes",
        "OUT/codes.npz",
    ], f"{path}: --codes needs a checkpoint folder"


def case_train_on_nothing(files: Files, tmp: Path) -> tuple[list[str], str]:
    return ["train", "--text", str(tmp / "no"), "-o", "OUT/c"], (
        f"{tmp}/no: no such file, must be a text file"
    )


def case_demo_of_nothing(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"{tmp}/no: no checkpoint there; give one with --checkpoint"
    return [
        "demo",
        "--checkpoint",
        str(tmp / "no"),
        "-o",
        "OUT/demo",
        "--report",
        "OUT/r.html",
    ], message


def case_inspect_nothing(files: Files, tmp: Path) -> tuple[list[str], str]:
    return ["inspect", str(tmp / "no")], f"{tmp}/no: no such file, must be a graph file"


def case_bench_of_an_unknown_mode(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "mode 'chat' is not known, must be one of generate, prefill, train"
    return ["bench", "gpu", "--model", "370m", "--mode", "chat", "-o", "OUT/rows.json"], message


def case_report_of_nothing(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"{tmp / 'no'}: holds no run, must be a folder that simulate wrote"
    return ["report", str(tmp / "no"), "-o", "OUT/a.md"], message


def case_report_of_a_mapping(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"{files('a16.map')}: holds no run, must be a folder that simulate wrote"
    return ["report", files("a16.map"), "-o", "OUT/a.md"], message


def case_report_of_a_name_too_long(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"{'x' * 300}: not readable (File name too long)"
    return ["report", "x" * 300, "-o", "OUT/a.md"], message


def case_report_beside_nothing(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"{tmp}/no.json: no such file, must be {ROWS}"
    return ["report", files("run"), "-o", "OUT/r.md", "--gpu-rows", str(tmp / "no.json")], message


def case_report_beside_a_malformed_row(files: Files, tmp: Path) -> tuple[list[str], str]:
    (tmp / "rows.json").write_text('[{"name": 3}]')
    message = f"{tmp}/rows.json: row 1: name must be a text"
    return ["report", files("run"), "-o", "OUT/r.md", "--gpu-rows", str(tmp / "rows.json")], message


ROW = {
    "name": "MatMul-free 370M",
    "implementation": "packed",
    "impl": "fast",
    "precision": "2 bit",
    "model": "370m",
    "ternary_synapses": 341_049_344,
    "mode": "generate",
    "batch": 1,
    "sequence_length": 512,
    "tokens_per_s": 1e6,
    "millijoule_per_token": 0.5,
    "device": "GPU X",
    "power": "the GPU",
    "script": "mmfree-neuro bench gpu",
    "commit": "abc",
    "date": "2026-01-02",
}


def beside(files: Files, path: Path, content: str) -> list[str]:
    """A report beside a file of rows that holds this."""
    path.write_text(content)
    return ["report", files("run"), "-o", "OUT/r.md", "--gpu-rows", str(path)]


def case_report_beside_an_endless_speed(files: Files, tmp: Path) -> tuple[list[str], str]:
    arguments = beside(files, tmp / "rows.json", json.dumps([ROW | {"tokens_per_s": math.inf}]))
    return arguments, (
        f"{tmp}/rows.json: not {ROWS}: Infinity is no number of JSON, must be finite"
    )


def case_report_beside_energy_that_is_no_number(files: Files, tmp: Path) -> tuple[list[str], str]:
    arguments = beside(
        files, tmp / "rows.json", json.dumps([ROW | {"millijoule_per_token": math.nan}])
    )
    return (arguments, f"{tmp}/rows.json: not {ROWS}: NaN is no number of JSON, must be finite")


def case_report_beside_an_unknown_implementation(files: Files, tmp: Path) -> tuple[list[str], str]:
    arguments = beside(files, tmp / "rows.json", json.dumps([ROW | {"impl": "slow"}]))
    return (
        arguments,
        f"{tmp}/rows.json: row 1: impl is 'slow', must be one of fast, naive, transformer",
    )


def case_report_beside_a_deep_file(files: Files, tmp: Path) -> tuple[list[str], str]:
    arguments = beside(files, tmp / "rows.json", "[" * 100_000)
    return arguments, f"{tmp}/rows.json: nested too deep, must be {ROWS}"


def case_report_over_its_rows(files: Files, tmp: Path) -> tuple[list[str], str]:
    rows = tmp / "rows.json"
    arguments = beside(files, rows, json.dumps([ROW]))
    return [
        *arguments,
        "-o",
        str(rows),
    ], f"{rows}: is read by this command, must be another file to write"


def case_report_over_its_rows_through_a_link(files: Files, tmp: Path) -> tuple[list[str], str]:
    beside(files, tmp / "rows.json", json.dumps([ROW]))
    (tmp / "link.json").symlink_to("rows.json")
    rows = str(tmp / "rows.json")
    arguments = ["report", files("run"), "-o", rows, "--gpu-rows", str(tmp / "link.json")]
    return arguments, f"{rows}: is read by this command, must be another file to write"


def case_bench_for_too_few_seconds(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = "seconds are 1.5, must be at least 2: the energy counter moves in ticks"
    return [
        "bench",
        "gpu",
        "--model",
        "no",
        "--mode",
        "train",
        "--seconds",
        "1.5",
        "-o",
        "OUT/rows.json",
    ], message


def case_bench_into_a_folder(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = f"{tmp}: not a file of rows of bench gpu: is a folder, must be a regular file"
    return ["bench", "gpu", "--model", "370m", "--mode", "train", "-o", str(tmp)], message


def case_bench_of_an_embedding_that_is_not_for_it(files: Files, tmp: Path) -> tuple[list[str], str]:
    message = (
        "embedding bfloat16 is not for transformer train, must be int8 but for fast "
        "generate and fast prefill"
    )
    arguments = ["bench", "gpu", "--model", "370m", "--mode", "train", "--baseline", "transformer"]
    return [*arguments, "-o", "OUT/rows.json", "--embedding", "bfloat16"], message


CASES: dict[str, Case] = {
    name.removeprefix("case_"): case
    for name, case in list(globals().items())
    if name.startswith("case_")
}
NEEDS_TORCH = {
    "nan",
    "calibration_of_few_rows",
    "calibration_outside_the_vocabulary",
    "no_calibration_windows",
    "output_is_a_folder",
    "train_on_nothing",
    "bench_of_an_unknown_mode",
    "bench_for_too_few_seconds",
    "bench_into_a_folder",
    "bench_of_an_embedding_that_is_not_for_it",
}
"""Cases that come to light behind the word that torch is missing."""


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_one_line_and_nothing_is_written(
    name: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: Tree
) -> None:
    if name in NEEDS_TORCH:
        pytest.importorskip("torch")
    arguments, message = CASES[name](files, tmp_path)
    (tmp_path / "OUT").mkdir()
    (tmp_path / "OUT" / "kept").write_text("as it was")
    before = tree(tmp_path)
    found = main([argument.replace("OUT", str(tmp_path / "OUT")) for argument in arguments])
    said = capsys.readouterr()
    assert found == 2
    assert said.out == ""
    assert said.err == f"mmfree-neuro: {message.replace('OUT', str(tmp_path / 'OUT'))}\n"
    assert tree(tmp_path) == before


def test_truncated_weights(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: Tree
) -> None:
    """The end of the line is the reason that the safetensors library gives."""
    folder = in_config(files, tmp_path / "c")
    path = truncated(f"{folder}/model.safetensors", Path(f"{folder}/model.safetensors"))
    before = tree(tmp_path)
    assert main(["convert", folder, "-o", str(tmp_path / "model.graph")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mmfree-neuro: {path}: not a safetensors file, or damaged (")
    assert said.count("\n") == 1
    assert tree(tmp_path) == before


def test_config_that_is_no_json(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_config(files, tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text("{\n")
    assert main(["convert", folder, "-o", str(tmp_path / "model.graph")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"mmfree-neuro: {folder}/config.json: not a configuration in JSON, or damaged ("
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["map", "m.graph", "-o", "m.map"], "map: the following arguments are required: --system"),
        (
            ["simulate", "m.map", "--prompt", "a", "-o", "r", "--new-tokens", "x"],
            "simulate: argument --new-tokens: invalid int value: 'x'",
        ),
        (
            [
                "bench",
                "gpu",
                "--model",
                "370m",
                "--mode",
                "train",
                "--impl",
                "naive",
                "--baseline",
                "transformer",
            ],
            "bench: argument --baseline: not allowed with argument --impl",
        ),
        (
            ["convert", "c", "-o", "g", "--shceme", "a8"],
            "convert: --shceme is not an option (did you mean --scheme?)",
        ),
        (["map", "--sytem=x"], "map: --sytem is not an option (did you mean --system?)"),
        (["map", "--qqq"], "map: --qqq is not an option"),
        (
            ["simulate", "m", "--prompt", "-- a comment"],
            "simulate: the following arguments are required: -o/--output",
        ),
        (["systems", "--js", "--unlike"], "systems: --unlike is not an option"),
        (["bench", "gqu"], "bench: 'gqu' is not known (did you mean gpu?), must be one of gpu"),
        (
            ["sistems"],
            ": 'sistems' is not known (did you mean systems?), must be one of convert, map, "
            "explore, image, simulate, report, sensitivity, logits, eval, train, bench, "
            "systems, inspect, listing, demo",
        ),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    program = "mmfree-neuro" if line.startswith(":") else f"mmfree-neuro {line.partition(':')[0]}"
    message = line.partition(": ")[2]
    assert capsys.readouterr().err == f"{program}: {message}; see {program} --help\n"


def test_a_prompt_outside_the_vocabulary(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    random_graph: Callable[[str, str], Graph],
    tree: Tree,
) -> None:
    """A model of 100 tokens knows no byte 122, and an empty prompt is a prompt only where a text
    has a beginning."""
    graph, mapping = str(tmp_path / "g"), str(tmp_path / "m.map")
    graph_file.save_graph(random_graph("of-100-tokens", "a16"), Path(graph))
    assert main(["map", graph, "--system", "oheo-gulch", "-o", mapping]) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    for prompt, message in (
        ("z", "token 122 is outside the vocabulary, must be 0 … 99"),
        (
            "",
            "the prompt is empty, must have at least one byte for a model without a token to "
            "begin with",
        ),
    ):
        arguments = [
            "simulate",
            mapping,
            "--prompt",
            prompt,
            "--bytes",
            "--engine",
            "fast",
            "-o",
            str(tmp_path / "run"),
        ]
        assert main(arguments) == 2
        assert capsys.readouterr().err == f"mmfree-neuro: {message}\n"
    assert tree(tmp_path) == before


def test_messages_of_the_pipeline() -> None:
    with pytest.raises(EngineError) as engine:
        engines.engine_named("warp")
    assert (
        str(engine.value)
        == f"engine 'warp' is not known, must be one of {', '.join(engines.ENGINES)}"
    )
    with pytest.raises(InputError) as tokens:
        load_tokens(Path("nowhere.npy"))
    assert str(tokens.value) == (
        "nowhere.npy: no such file, must be an .npy file of integers [sequences, time]"
    )


@pytest.mark.usefixtures("needs_torch")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--hidden", "0"], "hidden is 0, must be 1 … 1000000000000"),
        (["--layers", "-1"], "layers is -1, must be 1 … 1000000000000"),
        (["--intermediate", "-1"], "intermediate is -1, must be 0 … 1000000000000"),
        (["--hidden", "1" * 400], f"hidden is {'1' * 18}...{'1' * 19}, must be 1 … 1000000000000"),
        (["--max-seconds", "nan"], "the seconds are nan, must not be negative"),
        (["--seed", str(1 << 63)], f"the seed is {1 << 63}, must be 0 … {(1 << 63) - 1}"),
        (["--batch", str(10**13)], f"batch is {10**13}, must be 1 … {10**12}"),
    ],
)
def test_models_that_cannot_be_trained(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-o", str(tmp_path / "model"), *options]) == 2
    assert capsys.readouterr().err == f"mmfree-neuro: {expected}\n"
    assert not (tmp_path / "model").exists()
