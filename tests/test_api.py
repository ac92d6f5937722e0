"""The door for Python: a few lines from a checkpoint to a report, and what it promises."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

import mmfree_neuro as mm
from mmfree_neuro.cli.main import main
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model.checkpoint import Checkpoint

pytestmark = pytest.mark.slow

IDS = np.random.default_rng(6).integers(0, 256, (8, 33))
WITHOUT = """
    import sys


    class Without:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {names!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])


    sys.meta_path.insert(0, Without())
"""
LINES = """
    model = mm.load(sys.argv[1])
    graph = model.convert("a16", calibrate=["def a_function(a, b):\\n    return a + b\\n"] * 9)
"""
LINES_BEHIND_A_GRAPH = """
    mapped = graph.map("kapoho-point", chips=2)
    run = mapped.run("import os", new_tokens=6, engine="fast")
    assert isinstance(run.text, str) and run.tokens.shape == (6,)
    assert run.logits.dtype == np.float64 and run.logits.shape == (10 + 5, 256)
    assert np.array_equal(run.logits[9:].argmax(-1), run.tokens)
    assert run.activity["prefill"].tokens == 10 and run.activity["generate"].tokens == 5
    speed = run.estimates["generate"].tokens_per_s
    assert 0 < speed.low < speed.central < speed.high
    folder = Path(sys.argv[2])
    run.report(folder / "report.html")
    assert mapped.plot()._repr_png_()[1:4] == b"PNG"
    graph.save(folder / "model.graph"), mapped.save(folder / "model.map"), run.save(folder / "run")
    assert mm.load(folder / "model.map").run("import os", new_tokens=6).text == run.text
    assert mm.load(folder / "run").text == run.text and mm.load(folder / "run").logits is None
    assert not {"torch", "lava"} & set(sys.modules) - set(loaded)
"""
HEAD = """
    from pathlib import Path

    import numpy as np

    import mmfree_neuro as mm

    loaded = ("torch",) if "convert" in sys.argv else ()
"""


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    random_checkpoint: Callable[[str], Checkpoint],
    random_graph: Callable[[str, str], Graph],
) -> Path:
    """A tiny checkpoint, and a graph file of it."""
    path = tmp_path_factory.mktemp("api")
    checkpoints.write(path / "tiny", random_checkpoint("small"), "float32")
    graph_file.save_graph(random_graph("small", "a16"), path / "tiny.graph")
    return path


def run_lines(*parts: str, without: tuple[str, ...], arguments: tuple[object, ...]) -> None:
    code = dedent(WITHOUT).format(names=without) + "".join(dedent(part) for part in parts)
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr


def test_the_lines_of_the_door_without_lava(
    folder: Path, tmp_path: Path, needs_torch: None
) -> None:
    arguments = folder / "tiny", tmp_path, "convert"
    run_lines(HEAD, LINES, LINES_BEHIND_A_GRAPH, without=("lava",), arguments=arguments)


@pytest.mark.smoke
def test_what_needs_no_torch_without_torch(folder: Path, tmp_path: Path) -> None:
    arguments = folder / "tiny.graph", tmp_path
    load = "\ngraph = mm.load(sys.argv[1])\n"
    without = "lava", "torch", "triton"
    run_lines(HEAD, load, LINES_BEHIND_A_GRAPH, without=without, arguments=arguments)


def test_without_torch_converting_says_what_to_install(folder: Path) -> None:
    code = dedent(WITHOUT).format(names=("torch",)) + dedent("""
        import mmfree_neuro as mm

        try:
            mm.load(sys.argv[1]).convert()
        except mm.MMFreeError as error:
            print(error)
    """)
    command = [sys.executable, "-c", code, str(folder / "tiny")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == (
        "calibration needs torch, which is not installed; install it with the torch extra: "
        "pip install 'mmfree-neuro[torch]'\n"
    )


def test_the_import_is_light() -> None:
    code = "import sys, mmfree_neuro as mm; mm.__version__; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "lava", "scipy", "matplotlib"} & set(found)


def test_the_public_names() -> None:
    assert mm.__all__ == [
        "Estimate",
        "Graph",
        "MMFreeError",
        "Mapped",
        "Model",
        "Run",
        "Runs",
        "__version__",
        "load",
        "load_system",
        "system_names",
    ]
    assert dir(mm) == sorted(mm.__all__)
    assert all(getattr(mm, name) is not None for name in mm.__all__)
    with pytest.raises(AttributeError) as error:
        _ = mm.nothing
    assert str(error.value) == "module 'mmfree_neuro' has no attribute 'nothing'"


@pytest.mark.smoke
def test_the_version_and_the_module_as_a_command() -> None:
    command = [sys.executable, "-m", "mmfree_neuro", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found == f"mmfree-neuro {mm.__version__}\n"


# Files of the command line and of the door are the same.


def test_files_are_those_of_the_command_line(
    folder: Path, tmp_path: Path, needs_torch: None
) -> None:
    np.save(tmp_path / "ids.npy", IDS)
    convert = ["convert", str(folder / "tiny"), "-o", str(tmp_path / "cli.graph")]
    assert main([*convert, "--calibrate", str(tmp_path / "ids.npy")]) == 0
    mm.load(folder / "tiny").convert(calibrate=IDS).save(tmp_path / "door.graph")
    assert (tmp_path / "door.graph").read_bytes() == (tmp_path / "cli.graph").read_bytes()
    where = ["--system", "kapoho-point", "--chips", "2", "-o", str(tmp_path / "cli.map")]
    assert main(["map", str(tmp_path / "cli.graph"), *where]) == 0
    mapped = mm.load(tmp_path / "cli.graph").map("kapoho-point", chips=2)
    mapped.save(tmp_path / "door.map")
    assert (tmp_path / "door.map").read_bytes() == (tmp_path / "cli.map").read_bytes()
    what = ["--prompt", "ab", "--new-tokens", "4", "--engine", "fast", "-o", str(tmp_path / "run")]
    assert main(["simulate", str(tmp_path / "cli.map"), *what]) == 0
    assert mapped.run("ab", new_tokens=4).text == mm.load(tmp_path / "run").text


def test_calibration_by_texts_files_and_ids(
    folder: Path, tmp_path: Path, needs_torch: None
) -> None:
    model = mm.load(folder / "tiny")
    assert isinstance(model, mm.Model)
    text = "def a_function(a, b):\n    return a + b\n" * 20
    (tmp_path / "text.txt").write_text(text)
    from_path = model.convert("a8", calibrate=tmp_path / "text.txt")
    assert model.convert("a8", calibrate=str(tmp_path / "text.txt")).quality == from_path.quality
    assert model.convert("a8", calibrate=text).quality == model.convert("a8", [text]).quality
    assert set(from_path.quality) == {
        "tokens",
        "float_nats",
        "integer_nats",
        "perplexity_ratio",
        "greedy_agreement",
    }
    assert model.convert("a16", calibrate=IDS.reshape(-1)).quality["tokens"] > 0
    shape = "must be integers of shape [rows, time] or [time]"
    beyond = IDS.copy()
    beyond[0, 0] = 256
    for wrong, said in (
        (["short"], "the texts have 6 bytes, must have at least 40"),
        ("/no/such/file", "/no/such/file: no such file, must be a text file"),
        (
            IDS[:3],
            "an array of shape [3, 33]: has 3 rows, must have at least 4 to calibrate on some and "
            "measure on others",
        ),
        (
            beyond,
            "an array of shape [8, 33]: holds token 256, which is outside the vocabulary 0 … 255",
        ),
        (IDS[:, :1], "an array of shape [8, 1]: has rows of 1 tokens, must have at least 2"),
        (IDS[None], f"the token ids are int64 [1, 8, 33], {shape}"),
        (IDS * 0.5, f"the token ids are float64 [8, 33], {shape}"),
    ):
        with pytest.raises(mm.MMFreeError) as error:
            model.convert(calibrate=wrong)  # type: ignore[arg-type]
        assert str(error.value) == said


def test_several_prompts(folder: Path) -> None:
    mapped = mm.load(folder / "tiny.graph").map(chips=2)
    runs = mapped.run(["ab", "import os"], new_tokens=3)
    assert isinstance(runs, mm.Runs) and len(runs) == 2
    assert runs.text == [mapped.run(p, new_tokens=3).text for p in ("ab", "import os")]
    assert [len(tokens) for tokens in runs.tokens] == [3, 3]
    assert [logits.shape[0] for logits in runs.logits] == [3 + 2, 10 + 2]
    assert runs.activity["prefill"].tokens == 3 + 10
    assert runs.estimates.keys() == {"prefill", "generate"}
    assert runs.estimates["generate"].timing.mode == "fall-through"
    assert runs[:1].text == runs.text[:1]
    assert runs[1].prompt == "import os" and [run.prompt for run in runs] == ["ab", "import os"]
    with pytest.raises(mm.MMFreeError) as error:
        mapped.run([])
    assert str(error.value) == "there is no prompt, must be at least one"


PROMPTS = ["ab", "import os", "x", "def a_function(a, b):"]


@pytest.fixture(scope="module")
def roomy(folder: Path) -> mm.Mapped:
    """A mapping with room for three sequences in flight."""
    graph = mm.load(folder / "tiny.graph")
    assert isinstance(graph, mm.Graph)
    return graph.map(chips=2, in_flight=3)


@pytest.mark.parametrize(("engine", "in_flight"), [("fast", 2), ("fast", 3), ("reference", 3)])
def test_prompts_in_flight_are_as_one_by_one(engine: str, in_flight: int, roomy: mm.Mapped) -> None:
    """Tokens, logits and counts, drawn or not."""
    for temperature in (0.0, 2.0):
        how = {"new_tokens": 5, "temperature": temperature, "seed": 3, "ignore_eos": True}
        runs = roomy.run(PROMPTS, engine=engine, in_flight=in_flight, **how)
        assert len(runs) == len(PROMPTS)
        for prompt, run in zip(PROMPTS, runs, strict=True):
            alone = roomy.run(prompt, engine="fast", **how)
            assert (run.prompt, run.text) == (prompt, alone.text)
            assert run.tokens.tolist() == alone.tokens.tolist()
            assert run.logits.shape == (len(prompt) + 1 + 4, 256)
            assert run.logits.tobytes() == alone.logits.tobytes()
            assert run.activity == alone.activity
            assert run.record.only == alone.record.only
            assert run.record.in_flight == in_flight
        one_by_one = roomy.run(PROMPTS, engine="fast", **how)
        assert runs.text == one_by_one.text
        assert runs.activity == one_by_one.activity


def test_prompts_in_flight_end_each_by_itself(roomy: mm.Mapped) -> None:
    whole = roomy.run(PROMPTS, new_tokens=9, temperature=2.0, seed=3, ignore_eos=True, in_flight=3)
    eos = int(whole.tokens[1][4])
    ending = replace(roomy, divided=replace(roomy.divided, eos=(eos,)))
    runs = ending.run(PROMPTS, new_tokens=9, temperature=2.0, seed=3, in_flight=3)
    for one, other in zip(runs, whole, strict=True):
        tokens = other.tokens.tolist()
        cut = tokens.index(eos) + 1 if eos in tokens else 9
        assert one.tokens.tolist() == tokens[:cut]
        assert np.array_equal(one.logits, other.logits[: len(one.logits)])
        assert one.record.only.ended == ("eos" if eos in tokens else "length")


def test_runs_in_flight_can_be_kept_one_by_one(roomy: mm.Mapped, tmp_path: Path) -> None:
    runs = roomy.run(PROMPTS, new_tokens=2, in_flight=3, logits=False)
    assert runs.estimates["generate"].timing.mode == "interleaved"
    assert runs[0].estimates["generate"].timing.mode == "fall-through"
    assert [run.logits for run in runs] == [None] * 4
    for number, run in enumerate(runs):
        run.save(tmp_path / str(number))
        assert mm.load(tmp_path / str(number)).record.results == run.record.results
        run.report(tmp_path / f"{number}.html")


def test_a_mapping_for_several_sequences(folder: Path, tmp_path: Path, roomy: mm.Mapped) -> None:
    """It is the same as a file, and gives what a mapping for one gives."""
    graph = mm.load(folder / "tiny.graph")
    assert (roomy.mapping.in_flight, roomy.divided.slots, roomy.graph.graph.slots) == (3, 3, 1)
    full = graph.map(chips=2, in_flight="fill")
    assert full.mapping.in_flight == full.divided.slots > 3
    one = graph.map(chips=2).run(PROMPTS, new_tokens=4)
    for mapped in (roomy, full):
        runs = mapped.run(PROMPTS, new_tokens=4, in_flight=3)
        assert [run.logits.tobytes() for run in runs] == [run.logits.tobytes() for run in one]
    full.save(tmp_path / "full.map")
    loaded = mm.load(tmp_path / "full.map")
    assert (loaded.mapping, loaded.divided.slots) == (full.mapping, full.divided.slots)


def test_a_run_costed_with_other_figures(folder: Path, tmp_path: Path) -> None:
    """As by the command, and as a run on such a system."""
    graph = mm.load(folder / "tiny.graph")
    figures = {"chip.energy_per_synop_pj": (3, 5, 9), "system.host_power_w": 2}
    run = graph.map(chips=2).run("ab", new_tokens=3)
    fresh = graph.map(chips=2, figures=figures).run("ab", new_tokens=3)
    costed = run.costed(figures=figures)
    assert costed.estimates == fresh.estimates != run.estimates
    assert (costed.text, costed.activity) == (run.text, run.activity)
    assert run.costed("kapoho-point").estimates == run.estimates
    there = mm.load_system("alia-point-32")
    assert run.costed(there).record.system.name == "alia-point-32"
    costed.report(tmp_path / "report.json")
    for call, said in (
        (
            lambda: run.costed(figures={"chip.core": 3}),
            "'chip.core' is not a figure of a system, the nearest is chip.cores",
        ),
        (lambda: run.costed(3), "system is 3, must be a text or a path or of type SystemSpec"),
        (lambda: graph.map(figures=[1]), "figures is [1], must be of type Mapping"),
    ):
        with pytest.raises(mm.MMFreeError) as error:
            call()
        assert str(error.value).startswith(said)


def test_words_that_the_chips_choose(folder: Path, tmp_path: Path) -> None:
    """No logits come to the host, whatever was asked for."""
    graph = mm.load(folder / "tiny.graph")
    mapped = graph.map(chips=2, in_flight=2, greedy_on_chips=True)
    expected = graph.map(chips=2).run(PROMPTS, new_tokens=4)
    runs = mapped.run(PROMPTS, new_tokens=4, in_flight=2)
    assert (runs.text, runs.logits) == (expected.text, [None] * 4)
    assert [run.record.mapping.greedy_on_chips for run in (*runs, *expected)] == [True] * 4 + [
        False
    ] * 4
    mapped.save(tmp_path / "greedy.map")
    assert mm.load(tmp_path / "greedy.map").mapping == mapped.mapping
    with pytest.raises(mm.MMFreeError) as error:
        mapped.run("ab", temperature=0.5)
    assert str(error.value) == (
        "the chips choose the words here, and greedily, so the temperature is 0.5, must be 0; a "
        "mapping without greedy-on-chips can draw"
    )


def test_sequences_in_flight_that_cannot_be(folder: Path, roomy: mm.Mapped) -> None:
    graph = mm.load(folder / "tiny.graph")
    asked = "sequences in flight were asked for, must be 1"
    for call, said in (
        (lambda: graph.map(chips=2, in_flight=0), f"tiny: 0 {asked} … 4096"),
        (lambda: graph.map(chips=2, in_flight=5000), f"tiny: 5000 {asked} … 4096"),
        (
            lambda: graph.map(chips=2, in_flight="full"),
            "in_flight is 'full', must be an integer or 'fill'",
        ),
        (
            lambda: graph.map(chips=2, in_flight=2.0),
            "in_flight is 2.0, must be an integer or 'fill'",
        ),
        (lambda: roomy.run(PROMPTS, in_flight=0), f"0 {asked} … 3"),
        (
            lambda: roomy.run(PROMPTS, in_flight=4),
            f"4 {asked} … 3; map the graph for more with --in-flight",
        ),
        (lambda: roomy.run(PROMPTS, in_flight="fill"), "in_flight is 'fill', must be an integer"),
        (lambda: roomy.run([], in_flight=2), "there is no prompt, must be at least one"),
    ):
        with pytest.raises(mm.MMFreeError) as error:
            call()
        assert str(error.value) == said


def test_a_run_of_several_prompts_is_estimated_as_it_is_reported(
    folder: Path, tmp_path: Path, roomy: mm.Mapped
) -> None:
    """A folder of the command line has all of them in one run."""
    mm.Graph(roomy.graph.graph).save(tmp_path / "tiny.graph")
    replace(roomy, graph=mm.load(tmp_path / "tiny.graph")).save(tmp_path / "model.map")
    (tmp_path / "prompts").write_text("\n".join(PROMPTS))
    what = ["--prompts", str(tmp_path / "prompts"), "--new-tokens", "3", "--engine", "fast"]
    assert main(["simulate", str(tmp_path / "model.map"), *what, "-o", str(tmp_path / "run")]) == 0
    run = mm.load(tmp_path / "run")
    assert isinstance(run, mm.Run)
    assert (run.prompt, run.record.in_flight) == ("ab", 3)
    alone = roomy.run(PROMPTS, new_tokens=3, in_flight=3)
    assert [one.text for one in run.record.results] == alone.text
    assert run.activity == alone.activity
    run.report(tmp_path / "report.json")
    reported = json.loads((tmp_path / "report.json").read_text())["phases"]["generate"]
    estimated = run.estimates["generate"]
    assert reported["in_flight"] == estimated.timing.in_flight == 3
    assert reported["tokens_per_s"]["central"] == estimated.timing.tokens_per_s.central


def test_what_is_shown_is_short(folder: Path) -> None:
    model = mm.load(folder / "tiny")
    graph = mm.load(folder / "tiny.graph")
    mapped = graph.map(chips=2)
    run = mapped.run("ab", new_tokens=3, logits=False)
    assert repr(model) == f"<Model tiny: hgrn_bit, {model._parameters:,} parameters>"
    assert repr(graph) == f"<Graph tiny, a16: 2 blocks, {len(graph.nodes)} nodes>"
    assert repr(mapped).startswith("<Mapped tiny: <Mapping on kapoho-point, chain: 2 chips, ")
    assert repr(run) == "<Run tiny on fast: 3 tokens of prompt, 3 new>"
    assert run.logits is None
    assert repr(mapped.run(["a"], new_tokens=1)) == "<Runs: 1 prompts>"
    for thing in (model, graph, mapped, run, graph.graph, mapped.mapping, graph.nodes[3]):
        assert len(repr(thing)) < 160
    for thing in (model, graph, mapped, run, mapped.run(["a"], new_tokens=1)):
        page = thing._repr_html_()
        assert page.startswith(("<table>", "<pre>")) and len(page) < 6000


def test_local_roots_are_named_as_by_the_command_or_one_by_one(
    random_graph: Callable[[str, str], Graph], tmp_path: Path
) -> None:
    graph = mm.Graph(random_graph("small", "a14-late"))
    for names in ("o+mlp", ["mlp", "o"], ("o", "mlp")):
        mapped = graph.map("kapoho-point", chips=2, local_roots=names)
        assert mapped.mapping.local_roots == ("o", "mlp")
    everywhere = graph.map("kapoho-point", chips=2, local_roots="all")
    assert everywhere.mapping.local_roots == ("attn", "o", "mlp", "down", "head")
    for names in ("none", ()):
        assert graph.map("kapoho-point", chips=2, local_roots=names).mapping.local_roots == ()
    plain = graph.map("kapoho-point", chips=2).run("ab", new_tokens=4, engine="fast")
    other = everywhere.run("ab", new_tokens=4, engine="fast")
    assert (plain.text, plain.logits.tobytes()) == (other.text, other.logits.tobytes())


def test_mappings_are_not_written_over_other_files(folder: Path, tmp_path: Path) -> None:
    mapped = mm.load(folder / "tiny.graph").map(chips=2)
    with pytest.raises(mm.MMFreeError) as error:
        mapped.save(tmp_path / "self.graph")
    assert str(error.value) == f"{tmp_path}/self.graph: ends in '.graph', must end in .map"
    nowhere = replace(mapped, graph=mm.Graph(mapped.graph.graph))
    nowhere.save(tmp_path / "first.map")
    assert mm.load(tmp_path / "first.map").graph.path == tmp_path / "first.graph"
    nowhere.save(tmp_path / "first.map")  # its graph is there
    mm.Graph(replace(mapped.graph.graph, name="other")).save(tmp_path / "first.graph")
    with pytest.raises(mm.MMFreeError) as error:
        nowhere.save(tmp_path / "first.map")
    assert str(error.value) == (
        f"{tmp_path}/first.graph: is another graph, must be that of the mapping"
    )


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([-1, 2], "the tokens: holds token -1, which is outside the vocabulary 0 … 255"),
        ([256], "the tokens: holds token 256, which is outside the vocabulary 0 … 255"),
        ([1.5], "the tokens are float64, must be integers"),
        (["a"], "the tokens are <U1, must be integers"),
        ([], "the tokens have shape [1, 0], must be [sequences, time] with at least one token"),
    ],
)
def test_tokens_that_a_model_does_not_have(tokens: list[float], said: str, folder: Path) -> None:
    with pytest.raises(mm.MMFreeError) as error:
        mm.load(folder / "tiny").logits(np.array(tokens))
    assert str(error.value) == said


def test_rows_of_several_lengths(folder: Path) -> None:
    with pytest.raises(mm.MMFreeError) as error:
        mm.load(folder / "tiny").logits([[1, 2], [3]])
    assert str(error.value) == "the tokens have rows of several lengths, must have one"


def test_a_text_ends_at_eos(folder: Path) -> None:
    """The tokens hold it, the text and the logits end before it; one may ask for more."""
    mapped = mm.load(folder / "tiny.graph").map(chips=2)
    whole = mapped.run("ab", new_tokens=9, temperature=2.0, seed=3, ignore_eos=True)
    eos = int(whole.tokens[4])
    assert eos not in whole.tokens[:4]
    ending = replace(mapped, divided=replace(mapped.divided, eos=(eos,)))
    run = ending.run("ab", new_tokens=9, temperature=2.0, seed=3)
    assert run.tokens.tolist() == whole.tokens[:5].tolist()
    assert run.text == bytes(whole.tokens[:4].tolist()).decode(errors="replace")
    assert np.array_equal(run.logits, whole.logits[: 3 + 4])
    assert run.activity["generate"].tokens == 4
    assert "ended at EOS after 5 of 9 tokens" in str(run)
    again = ending.run("ab", new_tokens=9, temperature=2.0, seed=3, ignore_eos=True)
    assert again.tokens.tolist() == whole.tokens.tolist()
    assert "ended" not in str(again)


def test_texts_that_a_model_does_not_read(folder: Path) -> None:
    mapped = mm.load(folder / "tiny.graph").map(chips=2)
    for wrong, more, said in (
        ("a\ud83d", {}, "the prompt holds U+D83D, half a character, must be Unicode text"),
        (
            "<s>",
            {"special": True},
            "the model has no tokenizer, so a prompt cannot name special tokens",
        ),
    ):
        with pytest.raises(mm.MMFreeError) as error:
            mapped.run(wrong, 2, **more)
        assert str(error.value) == said


def test_arguments_of_other_types(folder: Path, tmp_path: Path) -> None:
    """One line instead of a traceback from within."""
    graph = mm.load(folder / "tiny.graph")
    mapped, model = graph.map(chips=2), mm.load(folder / "tiny")
    texts = "a text or a list, of which each is a text or a tuple, of which each is a text"
    for call, said in (
        (lambda: mm.load(5), "path is 5, must be a text or a path"),
        (lambda: graph.map(chips="2"), "chips is '2', must be an integer or None"),
        (lambda: graph.map(7), "system is 7, must be a text or a path or of type SystemSpec"),
        (lambda: graph.map(refine=1), "refine is 1, must be True or False"),
        (lambda: graph.map(chip=2), "map: got an unexpected keyword argument 'chip'"),
        (lambda: graph.save(None), "path is None, must be a text or a path"),
        (lambda: mapped.run(None), f"prompt is None, must be {texts}"),
        (lambda: mapped.run(["a", 3]), f"prompt is ['a', 3], must be {texts}"),
        (lambda: mapped.run("a", "2"), "new_tokens is '2', must be an integer"),
        (lambda: mapped.run("a", 2.0), "new_tokens is 2.0, must be an integer"),
        (lambda: mapped.run("a", True), "new_tokens is True, must be an integer"),
        (lambda: mapped.run("a", temperature="hot"), "temperature is 'hot', must be a number"),
        (lambda: mapped.run("a", engine=None), "engine is None, must be a text"),
        (lambda: mapped.plot(3), "what is 3, must be a text"),
        (
            lambda: model.convert(calibrate=5),
            "calibrate is 5, must be a text or a path or a sequence, of which each is a text or of "
            "type ndarray",
        ),
        (lambda: model.convert(8), "scheme is 8, must be a text or of type Scheme"),
        (
            lambda: mm.load_system(5),
            "system 5 is not known, must be one of "
            f"{', '.join(mm.system_names())}, or a .toml file",
        ),
    ):
        with pytest.raises(mm.MMFreeError) as error:
            call()
        assert str(error.value) == said


def test_arguments_of_numpy_and_paths(folder: Path, tmp_path: Path) -> None:
    mapped = mm.load(folder / "tiny.graph").map(chips=np.int64(2))
    run = mapped.run("ab", np.int32(2), temperature=np.float32(0.5), seed=np.uint8(1))
    run.save(tmp_path / "run")
    mapped.save(str(tmp_path / "model.map"))
    assert mm.load(tmp_path / "run").text == run.text
    assert mapped.run("ab", 2, temperature=0.5, seed=1).text == run.text
    source = Path(mm.__file__).parent / "systems" / "kapoho-point.toml"
    assert mm.load_system(source) == mm.load_system(str(source))


def test_pictures_that_are_not_known(folder: Path) -> None:
    mapped = mm.load(folder / "tiny.graph").map(chips=2)
    run = mapped.run("ab", new_tokens=2)
    links = run.plot("links")
    assert repr(links).startswith("<Picture size ")
    assert links._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(mm.MMFreeError) as error:
        mapped.plot("hops")
    assert str(error.value) == (
        "the picture 'hops' is not known, must be one of cores-by-kind, cores-by-memory, limits"
    )
    with pytest.raises(mm.MMFreeError) as error:
        run.plot("hops")
    assert str(error.value) == (
        "the picture 'hops' is not known, must be one of cores-by-memory, cores-by-kind, limits, "
        "links, energy"
    )


def test_the_float_model_behind_the_door(folder: Path, needs_torch: None) -> None:
    logits = mm.load(folder / "tiny").logits(IDS[0, :5])
    assert logits.shape == (1, 5, 256) and logits.dtype == np.float64


@pytest.mark.usefixtures("needs_torch")
def test_what_a_person_should_know(folder: Path, tmp_path: Path) -> None:
    """A model says what was not understood, its graph that and what was lost, and a file of the
    graph what was lost."""
    shutil.copytree(folder / "tiny", tmp_path / "c")
    path = tmp_path / "c" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"zeta": 1}))
    model, told = mm.load(tmp_path / "c"), f"{path}: unknown keys are left out: zeta"
    assert model.warnings == (told,)
    graph = model.convert(calibrate=IDS)
    assert graph.warnings[0] == told
    poor = type(graph)(replace(graph.graph, quality={"greedy_agreement": 0.5, "tokens": 64.0}))
    loaded = mm.load(poor.save(tmp_path / "poor.graph"))
    assert loaded.warnings == poor.warnings
    assert loaded.warnings[0].startswith("the integers choose the float model's token in 50.0 % of")
    assert mm.load(folder / "tiny.graph").warnings == ()
