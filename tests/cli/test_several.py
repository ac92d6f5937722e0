"""Several prompts of a file, and mappings that have room for several sequences in flight."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import InputError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.request import in_flight_of
from mmfree_neuro.pipeline import simulate
from mmfree_neuro.pipeline.engines import engine_named
from mmfree_neuro.run import run_file
from mmfree_neuro.run.run_file import Continued

Said = pytest.CaptureFixture[str]
PROMPTS = ["ab", "import os", "x", "def a_function(a, b):", "  two  words "]
LINES: list[dict[str, Any]] = [
    {"prompt": "ab", "new_tokens": 7, "temperature": 1.5, "seed": 3},
    {"prompt": "ab", "temperature": 0.5},
    {"prompt": "two\nlines", "new_tokens": 0},
    {"prompt": "", "new_tokens": 1, "seed": 9},
    {"prompt": "ab"},
]


@pytest.fixture(scope="module")
def folder(
    random_graph: Callable[[str, str], Graph], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The graph of a model of bytes without EOS, and mappings of it for three sequences and for
    one."""
    path = tmp_path_factory.mktemp("files")
    graph = replace(random_graph("smallest", "a14-late"), eos=())
    graph_file.save_graph(graph, path / "model.graph")
    for name, more in (("three", ["--in-flight", "3"]), ("one", [])):
        assert main(mapped(path, path / f"{name}.map", *more)) == 0
    return path


def mapped(folder: Path, output: Path, *more: str) -> list[str]:
    """The command that maps the graph."""
    where = ["--system", "kapoho-point", "--placer", "block-per-chip", "--cores", "2"]
    return ["map", str(folder / "model.graph"), *where, *more, "-o", str(output)]


def words(folder: Path, run: Path, *more: str, name: str = "three") -> list[str]:
    """The command that runs a mapping of the graph, for five new tokens."""
    how = ["--engine", "fast", "--new-tokens", "5", "--temperature", "2", "--seed", "1"]
    return ["simulate", str(folder / f"{name}.map"), *how, "-o", str(run), *more]


def in_file(path: Path, content: str) -> list[str]:
    """The option that names a file of prompts, which is written."""
    path.write_text(content, encoding="utf-8")
    return ["--prompts", str(path)]


def in_lines(path: Path, lines: list[dict[str, Any]]) -> list[str]:
    """The same of lines of JSON."""
    return in_file(path, "".join(f"{json.dumps(line)}\n" for line in lines))


def refused(arguments: list[str], capsys: Said) -> str:
    """The line that a command says which is refused."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    return said.err.removeprefix("mmfree-neuro: ").rstrip("\n")


def alone(folder: Path, run: Path, line: dict[str, Any]) -> Continued:
    """What comes of a prompt by itself, on the same mapping."""
    options = (f"--{key.replace('_', '-')}={value}" for key, value in line.items())
    assert main(words(folder, run, *options)) == 0
    return run_file.load_run(run).only


# What works.


@pytest.mark.slow
@pytest.mark.parametrize("in_flight", [(), ("--in-flight", "1"), ("--in-flight", "2")])
def test_prompts_of_a_text_a_line(
    in_flight: tuple[str, ...], folder: Path, tmp_path: Path, capsys: Said
) -> None:
    """In order, each with what it says by itself; empty lines are no prompts, and ends of lines no
    part of them."""
    content = f"\n{PROMPTS[0]}\r\n\n \t\n" + "\n".join(PROMPTS[1:])
    what = in_file(tmp_path / "prompts", content)
    capsys.readouterr()
    assert main(words(folder, tmp_path / "run", *what, *in_flight, "--json")) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"run", "engine", "results", "seconds", "warnings"}
    run = run_file.load_run(tmp_path / "run")
    assert run.in_flight == (int(in_flight[1]) if in_flight else 3)
    assert [one.prompt for one in run.results] == PROMPTS
    assert content["results"] == [
        {"prompt": one.prompt, "text": one.text, "tokens": [*one.new_tokens], "ended": one.ended}
        for one in run.results
    ]
    for one in run.results:
        assert one == alone(folder, tmp_path / "alone", {"prompt": one.prompt})


def test_prompts_of_an_object_a_line(folder: Path, tmp_path: Path) -> None:
    """Each with a number of tokens, a temperature and a seed of its own, or those of the
    command."""
    what = in_lines(tmp_path / "prompts", LINES)
    assert main(words(folder, tmp_path / "run", *what)) == 0
    run = run_file.load_run(tmp_path / "run")
    assert [one.prompt for one in run.results] == [line["prompt"] for line in LINES]
    assert [len(one.new_tokens) for one in run.results] == [7, 5, 0, 1, 5]
    assert [one.asked for one in run.results] == [7, 5, 0, 1, 5]
    assert [(one.sampling["temperature"], one.sampling["seed"]) for one in run.results] == [
        (1.5, 3),
        (0.5, 1),
        (2, 1),
        (2, 9),
        (2, 1),
    ]
    for one, line in zip(run.results, LINES, strict=True):
        assert one == alone(folder, tmp_path / "alone", line)


@pytest.mark.parametrize("engine", ["reference", pytest.param("lava", marks=pytest.mark.lava)])
def test_other_engines_run_them_as_well(engine: str, folder: Path, tmp_path: Path) -> None:
    what = in_lines(tmp_path / "prompts", LINES)
    assert main(words(folder, tmp_path / "fast", *what)) == 0
    assert main([*words(folder, tmp_path / "run", *what), "--engine", engine]) == 0
    found, wanted = (run_file.load_run(tmp_path / name) for name in ("run", "fast"))
    assert found.results == wanted.results
    assert (found.prefill, found.generate) == (wanted.prefill, wanted.generate)


def test_a_mapping_for_one_sequence_runs_them_one_after_another(
    folder: Path, tmp_path: Path
) -> None:
    what = in_lines(tmp_path / "prompts", LINES)
    for name in ("one", "three"):
        assert main(words(folder, tmp_path / name, *what, name=name)) == 0
    one, three = (run_file.load_run(tmp_path / name) for name in ("one", "three"))
    assert (one.in_flight, three.in_flight) == (1, 3)
    for first, second in zip(one.results, three.results, strict=True):
        assert replace(first, counted={}) == replace(second, counted={})


def test_prompts_from_standard_input(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("ab\nnaïve\n".encode())))
    assert main(words(folder, tmp_path / "run", "--prompts", "-")) == 0
    run = run_file.load_run(tmp_path / "run")
    assert [one.prompt for one in run.results] == ["ab", "naïve"]


def test_what_is_said_of_several_prompts(folder: Path, tmp_path: Path, capsys: Said) -> None:
    """All texts, a paragraph each, and how fast all of them were; so says inspect."""
    what = in_lines(tmp_path / "prompts", [{"prompt": p, "new_tokens": 0} for p in PROMPTS])
    capsys.readouterr()
    assert main(words(folder, tmp_path / "run", *what)) == 0
    texts = "\n\n".join(PROMPTS)
    said = capsys.readouterr().out
    assert said.startswith(f"{texts}\n\nfast: started in ")
    assert "generation" not in said
    assert main(["inspect", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith(f"{texts}\n\nfast: started in ")
    assert main(["inspect", str(tmp_path / "run"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["results"] == [{"prompt": prompt, "text": ""} for prompt in PROMPTS]


@pytest.mark.slow
def test_texts_that_come_to_their_ends(
    random_graph: Callable[[str, str], Graph], folder: Path, tmp_path: Path, capsys: Said
) -> None:
    """Each where it chooses the token, unless that is to be ignored."""
    what = in_file(tmp_path / "prompts", "\n".join(PROMPTS))
    assert main(words(folder, tmp_path / "whole", *what)) == 0
    whole = run_file.load_run(tmp_path / "whole").results
    eos = whole[1].new_tokens[2]
    graph = replace(random_graph("smallest", "a14-late"), eos=(eos,))
    graph_file.save_graph(graph, tmp_path / "model.graph")
    assert main(mapped(tmp_path, tmp_path / "three.map", "--in-flight", "3")) == 0
    capsys.readouterr()
    assert main(words(tmp_path, tmp_path / "run", *what)) == 0
    run = run_file.load_run(tmp_path / "run")
    ended = 0
    for one, other in zip(run.results, whole, strict=True):
        cut = other.new_tokens.index(eos) + 1 if eos in other.new_tokens else 5
        assert one.new_tokens == other.new_tokens[:cut]
        assert one.ended == ("eos" if eos in other.new_tokens else "length")
        ended += one.ended == "eos"
    assert 1 <= ended < len(PROMPTS)
    assert f"\n{ended} of 5 texts ended at EOS\nfast: started in " in capsys.readouterr().out
    assert main(words(tmp_path, tmp_path / "run", *what, "--ignore-eos")) == 0
    assert run_file.load_run(tmp_path / "run").results == whole


@pytest.mark.parametrize("until", [5, 20, 50])
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_run_of_several_prompts_goes_on_from_its_state(
    until: int,
    engine: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
) -> None:
    """Stopped anywhere, and on any engine."""
    what = in_lines(tmp_path / "prompts", [*LINES, *({"prompt": p} for p in PROMPTS)])
    assert main(words(folder, tmp_path / "whole", *what)) == 0

    def stopping(graph: Any, mapping: Any, job: Any, progress: Any, saving: Any) -> Any:
        written = 0

        def write(state: Any) -> None:
            nonlocal written
            saving.write(state)
            written = state.fed
            if written >= until:
                raise InputError("stopped here")

        return engine_named("fast")(graph, mapping, job, progress, replace(saving, write=write))

    saved = words(folder, tmp_path / "run", *what, "--save-every", "5")
    with monkeypatch.context() as patch:
        patch.setattr(simulate, "engine_named", lambda *_: stopping)
        assert refused(saved, capsys) == "stopped here"
    assert not (tmp_path / "run" / "run.json").exists()
    assert main([*saved, "--resume", "--engine", engine]) == 0
    found, wanted = (run_file.load_run(tmp_path / name) for name in ("run", "whole"))
    assert found.results == wanted.results
    assert (found.prefill, found.generate) == (wanted.prefill, wanted.generate)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_report_of_several_prompts(folder: Path, tmp_path: Path) -> None:
    what = in_file(tmp_path / "prompts", "\n".join([*PROMPTS, *PROMPTS]))
    assert main(words(folder, tmp_path / "run", *what)) == 0
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "report.json")]) == 0
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [one["prompt"] for one in content["run"]["results"]] == PROMPTS * 2
    assert content["phases"]["generate"]["mode"] == "interleaved"
    assert content["phases"]["generate"]["in_flight"] == content["mapping"]["in_flight"] == 3
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "report.md")]) == 0
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| prompts | 10, at most 3 in flight |" in page
    assert "The texts of 2 more prompts are in the run's folder." in page


# Files that are wrong.

FILE = "not a file of prompts"
INTEGER = "an integer of at most 64 bits"
WRONG = {
    "empty": ("", f"{FILE}: it has no prompt, must have at least one"),
    "empty lines": ("\n \r\n\t\n", f"{FILE}: it has no prompt, must have at least one"),
    "a line of text": ('{"prompt": "a"}\nabc\n', f"{FILE}: line 2 is 'abc', must be a JSON object"),
    "a line behind empty ones": (
        '\n\n{"prompt": "a"}\n\n{"prompt"\n',
        f"{FILE}: line 5 is '{{\"prompt\"', must be a JSON object",
    ),
    "the first line cut": (
        '{"prompt": "a"\n{"prompt": "b"}',
        f'{FILE}: line 1 is \'{{"prompt": "a"\', must be a JSON object',
    ),
    "a list": ('{"prompt": "a"}\n["b"]', f"{FILE}: line 2: is ['b'], must be an object"),
    "an unknown key": ('{"prompt": "a", "top_k": 3}', f"{FILE}: line 1: has 'top_k', must not"),
    "no prompt": ('{"new_tokens": 3}', f"{FILE}: line 1: has no prompt, must have one"),
    "a prompt that is no text": (
        '{"prompt": "a"}\n{"prompt": 3}',
        f"{FILE}: line 2.prompt: is 3, must be a text",
    ),
    "tokens that are no number": (
        '{"prompt": "a", "new_tokens": "x"}',
        f"{FILE}: line 1.new_tokens: is 'x', must be {INTEGER}",
    ),
    "half a seed": (
        '{"prompt": "a", "seed": 1.5}',
        f"{FILE}: line 1.seed: is 1.5, must be {INTEGER}",
    ),
    "a temperature that is no number": (
        '{"prompt": "a", "temperature": NaN}',
        f"{FILE}: NaN is no number of JSON, must be finite",
    ),
    "a deep line": (
        '{"prompt": "a"}\n' + "[" * 100_000,
        "nested too deep, must be a file of prompts",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_wrong(name: str, folder: Path, tmp_path: Path, capsys: Said) -> None:
    content, said = WRONG[name]
    what = in_file(tmp_path / "prompts", content)
    assert refused(words(folder, tmp_path / "run", *what), capsys) == f"{tmp_path}/prompts: {said}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"new_tokens": -1}, "-1 new tokens were asked for, must not be negative"),
        ({"temperature": -1}, "the temperature is -1, must be between 0 and 100"),
        ({"seed": -1}, "the seed is -1, must not be negative"),
    ],
)
def test_a_line_that_asks_for_what_cannot_be(
    line: dict[str, Any], said: str, folder: Path, tmp_path: Path, capsys: Said
) -> None:
    what = in_lines(tmp_path / "prompts", [{"prompt": "a"}, {"prompt": "a"} | line])
    expected = f"{tmp_path}/prompts: line 2: {said}"
    assert refused(words(folder, tmp_path / "run", *what), capsys) == expected
    assert not (tmp_path / "run").exists()


def test_prompts_that_are_no_file(
    folder: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, problem in (
        (str(tmp_path), "not a text: is a folder, must be a regular file"),
        (str(tmp_path / "none"), "no such file, must be a text"),
    ):
        one = words(folder, tmp_path / "run", "--prompts", name)
        assert refused(one, capsys) == f"{name}: {problem}"
    monkeypatch.setattr("sys.stdin", None)
    one = words(folder, tmp_path / "run", "--prompts", "-")
    assert refused(one, capsys) == "standard input: not a text: it is closed"
    assert refused([*one, "--engine", "mpi"], capsys) == (
        "standard input reaches one rank of engine mpi alone, the prompt must be in a file"
    )


def test_one_prompt_or_several(folder: Path, tmp_path: Path, capsys: Said) -> None:
    for other in ("--prompt", "--prompt-file"):
        with pytest.raises(SystemExit) as end:
            main(words(folder, tmp_path / "run", other, "a", "--prompts", "b"))
        assert end.value.code == 2
        assert capsys.readouterr().err == (
            f"mmfree-neuro simulate: argument --prompts: not allowed with argument {other}; see "
            "mmfree-neuro simulate --help\n"
        )


# Sequences in flight.


def test_in_flight_is_for_several_prompts(folder: Path, tmp_path: Path, capsys: Said) -> None:
    for prompt in (["--prompt", "a"], ["--prompt-file", "none"]):
        one = words(folder, tmp_path / "run", *prompt, "--in-flight", "1")
        assert refused(one, capsys) == (
            "--in-flight is for several prompts, must come with --prompts"
        )


@pytest.mark.parametrize(
    ("name", "in_flight", "said"),
    [
        ("three", "4", "must be 1 … 3; map the graph for more with --in-flight"),
        ("three", "0", "must be 1 … 3"),
        ("three", "-1", "must be 1 … 3"),
        ("one", "2", "must be 1 … 1; map the graph for more with --in-flight"),
    ],
)
def test_more_in_flight_than_there_is_room_for(
    name: str, in_flight: str, said: str, folder: Path, tmp_path: Path, capsys: Said
) -> None:
    what = in_file(tmp_path / "prompts", "a\nb\n")
    one = words(folder, tmp_path / "run", *what, "--in-flight", in_flight, name=name)
    wanted = f"{in_flight} sequences in flight were asked for, {said}"
    assert refused(one, capsys) == wanted
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "meant"),
    [("1", 1), ("8", 8), ("007", 7), ("999999999", 999_999_999), ("fill", "fill")],
)
def test_how_many_are_meant(text: str, meant: int | str) -> None:
    assert in_flight_of(text) == meant


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0", "'0'"),
        ("000", "'000'"),
        ("-1", "'-1'"),
        ("1.5", "'1.5'"),
        ("", "''"),
        (" 3", "' 3'"),
        ("full", "'full'"),
        ("³", "'³'"),
        ("1000000000", "'1000000000'"),
    ],
)
def test_what_means_no_number_of_sequences(text: str, shown: str) -> None:
    with pytest.raises(InputError) as error:
        in_flight_of(text)
    assert str(error.value) == (
        f"sequences in flight are {shown}, must be a whole number of at least 1, or fill"
    )


@pytest.mark.parametrize(
    ("in_flight", "said"),
    [
        ("0", "sequences in flight are '0', must be a whole number of at least 1, or fill"),
        ("many", "sequences in flight are 'many', must be a whole number of at least 1, or fill"),
        ("4097", "tiny: 4097 sequences in flight were asked for, must be 1 … 4096"),
        ("5000", "tiny: 5000 sequences in flight were asked for, must be 1 … 4096"),
        (
            "4096",
            "layers.0.mlgru: one neuron needs 16408 of state per neuron, a core of loihi2 has 4096",
        ),
    ],
)
def test_a_mapping_for_what_cannot_be(
    in_flight: str, said: str, folder: Path, tmp_path: Path, capsys: Said
) -> None:
    one = mapped(folder, tmp_path / "m.map", "--in-flight", in_flight)
    assert refused(one, capsys) == said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_mapping_for_as_many_as_fill_the_machine(folder: Path, tmp_path: Path) -> None:
    """A token takes so many steps; and all of them can be under way."""
    graph, output = str(folder / "model.graph"), tmp_path / "model.map"
    (tmp_path / "model.graph").symlink_to(graph)
    assert main(mapped(tmp_path, output, "--in-flight", "fill")) == 0
    full = mapping_file.load_mapping(output).mapping.in_flight
    assert mapping_file.load_mapping(folder / "one.map").mapping.in_flight == 1
    assert mapping_file.load_mapping(folder / "three.map").mapping.in_flight == 3
    what = in_file(tmp_path / "prompts", "\n".join("abc" * (k + 1) for k in range(full + 2)))
    assert main(words(tmp_path, tmp_path / "run", *what, name="model")) == 0
    run = run_file.load_run(tmp_path / "run")
    assert run.in_flight == full == run.summary.steps + 1
    for k in (0, full, full + 1):
        found = alone(folder, tmp_path / "alone", {"prompt": run.results[k].prompt})
        assert replace(found, counted={}) == replace(run.results[k], counted={})
