"""lm-evaluation-harness gets of a model what its tasks ask for."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lm_eval")

import mmfree_neuro.harness
from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import InputError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.harness import MMFreeLM
from mmfree_neuro.pipeline.engines import default_scorer
from mmfree_neuro.run import reference
from mmfree_neuro.run.sampling import Sampling

FOLDER = Path(__file__).parent / "golden" / "trained" / "checkpoint"
NEXT_LINE = Path(__file__).parents[1] / "examples" / "tasks"


@pytest.fixture(scope="module", params=["float", "fast"])
def model(request: pytest.FixtureRequest) -> Iterator[MMFreeLM]:
    """A model of the harness, which it calls by name."""
    from lm_eval.api.registry import get_model

    made = get_model("mmfree").create_from_arg_string(
        f"graph={FOLDER},engine={request.param},max_length=40", {"batch_size": "3"}
    )
    assert isinstance(made, MMFreeLM)
    yield made
    made.texts.close()


def test_an_engine_is_chosen_where_none_is_named(
    a16: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmfree_neuro.harness, "default_scorer", lambda: "reference")
    graph_file.save_graph(a16, tmp_path / "model.graph")
    made = MMFreeLM(str(tmp_path / "model.graph"))
    try:
        assert made.engine == "reference"
        assert made.texts.model.engine is reference.run  # type: ignore[attr-defined]
    finally:
        made.texts.close()


def asked(*arguments: Any) -> list[Any]:
    """Requests of the harness."""
    return [SimpleNamespace(args=one) for one in arguments]


def nats(model: MMFreeLM, text: str) -> np.ndarray:
    """Of each byte but the first, by its logits."""
    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    (logits,) = model.texts.model.logits([tokens])
    likely = logits - logits.max(1, keepdims=True)
    likely -= np.log(np.exp(likely).sum(1, keepdims=True))
    return likely[np.arange(len(tokens) - 1), tokens[1:]]


def test_a_continuation_is_as_likely_as_its_tokens(model: MMFreeLM) -> None:
    found = model.loglikelihood(asked(("import ", "os"), ("import ", "zz"), ("", "os")))
    assert found[0][0] == pytest.approx(nats(model, "import os")[-2 - 1 :].sum(), rel=1e-6)
    assert found[0][0] > found[1][0] and not found[1][1]
    first = chr(model.texts.first)
    assert found[2][0] == pytest.approx(nats(model, f"{first}os").sum(), rel=1e-6)


def test_what_is_too_long_is_cut_on_the_left(model: MMFreeLM) -> None:
    (found,) = model.loglikelihood(asked(("x = 1;" * 20, "y = 2")))
    context = ("x = 1;" * 20)[-36:]
    assert found[0] == pytest.approx(nats(model, f"{context}y = 2")[-5:].sum(), rel=1e-6)


def test_a_long_text_is_read_in_windows(model: MMFreeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return f(x) + 2\n"
    first = chr(model.texts.first)
    expected = nats(model, f"{first}{text[:40]}").sum()
    # The last window goes back so far that it is full, and counts what is new alone.
    expected += nats(model, text[-41:])[-(len(text) - 40) :].sum()
    assert 40 < len(text) < 80
    scored = []
    score = model.texts.score
    monkeypatch.setattr(
        model.texts, "score", lambda pairs: scored.append(len(pairs)) or score(pairs)
    )
    short = nats(model, f"{first}ab").sum()
    found = model.loglikelihood_rolling(asked((text,), ("",), ("ab",)))
    assert found == [pytest.approx(expected, rel=1e-6), 0, pytest.approx(short, rel=1e-6)]
    assert scored == [3]  # windows of all texts together


def test_a_continuation_stops_where_a_task_says(model: MMFreeLM) -> None:
    greedy = {"do_sample": False, "max_gen_toks": 8}
    contexts = "import ", "def f("
    whole = model.generate_until(asked(*((c, greedy | {"until": []}) for c in contexts)))
    assert all(len(text) == 8 for text in whole)
    cut = whole[0][3]
    stopped = model.generate_until(asked((contexts[0], greedy | {"until": ["\0", cut]})))
    assert stopped == [whole[0][: whole[0].index(cut)]]
    assert model.generate_until(asked((contexts[0], greedy | {"until": cut}))) == stopped
    assert len(model.generate_until(asked(("", {"max_gen_toks": 2, "until": [""]})))[0]) == 2


def test_tokens_before_a_text(model: MMFreeLM) -> None:
    assert model.tok_encode("ab") == [97, 98]
    assert model.tok_encode("ab", add_special_tokens=True) == [model.texts.first, 97, 98]
    assert model.prefix_token_id == model.texts.first
    assert model.eot_token_id == (*model.texts.model.eos, model.texts.first)[0]


@pytest.mark.parametrize(
    ("asked_for", "how"),
    [
        ({}, (256, (), Sampling())),
        ({"until": "a", "max_gen_toks": 3, "do_sample": False}, (3, ("a",), Sampling())),
        ({"until": ["a", "b"], "max_new_tokens": 4}, (4, ("a", "b"), Sampling())),
        ({"temperature": 0.7}, (256, (), Sampling(0.7))),
        ({"do_sample": True, "temperature": 0.7, "seed": 3}, (256, (), Sampling(0.7, 3))),
        ({"do_sample": False, "temperature": 0.7}, (256, (), Sampling())),
    ],
)
def test_how_a_task_has_texts_continued(
    asked_for: dict[str, Any], how: tuple[int, tuple[str, ...], Sampling]
) -> None:
    found = mmfree_neuro.harness._how(asked_for)
    assert (found.most, found.stops, found.sampling) == how


def test_what_no_engine_does_is_refused(model: MMFreeLM) -> None:
    with pytest.raises(InputError) as error:
        model.generate_until(asked(("a", {"top_p": 0.9, "top_k": 3})))
    assert str(error.value) == (
        "the task asks for top_k, top_p in generation, must do with a temperature, a seed, a "
        "number of tokens and texts to stop at"
    )
    with pytest.raises(InputError) as long:
        model.loglikelihood(asked(("a", "b" * 41)))
    assert str(long.value) == ("a continuation has 41 tokens, must have at most 40 (max_length)")
    for name in ("in_flight", "max_length"):
        with pytest.raises(InputError) as small:
            MMFreeLM(str(FOLDER), "float", **{name: 0})
        assert str(small.value) == f"{name} is 0, must be at least 1"


def test_a_context_of_spaces_is_none(model: MMFreeLM) -> None:
    """The harness gives them to the continuation."""
    (found,) = model.loglikelihood(asked(("  ", "os")))
    first = chr(model.texts.first)
    assert found[0] == pytest.approx(nats(model, f"{first}  os").sum(), rel=1e-6)


def test_without_the_harness_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ImportError) as error:
        importlib.reload(mmfree_neuro.harness)
    assert str(error.value) == (
        "mmfree_neuro.harness needs lm_eval.api.model, which is not installed; install it with the "
        "eval extra: pip install 'mmfree-neuro[eval]'"
    )


# The command.


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs `mmfree-neuro` in a process of its own, which finds no network and leaves nothing."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}

    def ran(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "mmfree_neuro", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **offline},
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr

    return ran


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a task of four questions."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {"question": f"import {name}", "choices": ["\n", "\u0001\u0002"], "answer": 0}
        for name in ("os", "sys", "re", "json")
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "imports.yaml").write_text(
        f"""
task: imports
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/rows.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
    )
    lost = (folder / "imports.yaml").read_text().replace("imports", "lost")
    (folder / "lost.yaml").write_text(lost.replace(f"{folder}/rows", "/no/rows"))
    return folder


def test_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "mmfree_neuro.harness")
    assert main(["eval", str(FOLDER), "--tasks", "piqa"]) == 2
    assert capsys.readouterr().err == (
        "mmfree-neuro: mmfree_neuro.harness needs lm_eval.api.model, which is not installed; "
        "install it with the eval extra: pip install 'mmfree-neuro[eval]'\n"
    )


@pytest.mark.slow
def test_the_command_does_a_task_of_ones_own(run: Any, tasks: Path, tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    status, out, err = run(
        *("eval", str(FOLDER), "--tasks", "imports", "--include-path", str(tasks)),
        *("--in-flight", "2", "--limit", "3", "-o", str(output)),
    )
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["task", "metric", "value", "±", "error", "documents"]
    assert lines[1].split()[:3] == ["imports", "acc", "1.0000"] and lines[1].split()[-1] == "3"
    assert lines[2].startswith(f"{default_scorer()}: ") and lines[3:] == [f"wrote {output}"]
    kept = json.loads(output.read_text())
    assert kept["results"]["imports"]["acc,none"] == 1 and "samples" not in kept
    assert kept["documents"] == {"imports": 3}


@pytest.mark.slow
def test_what_the_command_refuses(run: Any, tasks: Path, tmp_path: Path) -> None:
    for arguments, line in (
        (["--tasks", "nope"], "task 'nope' is not one of the harness, nor in --include-path"),
        (["--tasks", ","], "--tasks is empty, must name at least one task"),
        (["--tasks", "imports", "--limit", "0"], "--limit is 0, must be at least 1"),
        (["--tasks", "imports", "--num-fewshot", "-1"], "--num-fewshot is -1, must be at least 0"),
        (["--tasks", "imports", "--in-flight", "0"], "--in-flight is 0, must be at least 1"),
        (
            ["--tasks", "imports", "--engine", "no"],
            "engine 'no' is not known, must be one of float, reference, fast, gpu, lava, "
            "lava-per-core, mpi",
        ),
        (
            ["--tasks", "lost"],
            "--tasks lost cannot be loaded "
            "(\"FileNotFoundError: Unable to find '/no/rows.jsonl'\")",
        ),
        (
            ["--tasks", "imports", "--include-path", f"{tasks}/no"],
            f"{tasks}/no: no such folder, must be one with tasks",
        ),
        (
            ["--tasks", "imports", "--engine", "float", "-o", str(FOLDER / "config.json")],
            f"{FOLDER}/config.json: is read by this command, must be another file to write",
        ),
    ):
        status, out, err = run("eval", str(FOLDER), "--include-path", str(tasks), *arguments)
        assert (status, out) == (2, "")
        assert err.splitlines()[-1] == f"mmfree-neuro: {line}"


def test_the_task_that_needs_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four different lines each, of which one follows; the same at every call."""
    monkeypatch.syspath_prepend(str(NEXT_LINE))
    next_line = importlib.import_module("next_line")
    monkeypatch.setattr(next_line, "COUNT", 5)
    (found, again) = (next_line.documents()["test"].to_list() for _ in range(2))
    assert found == again and len(found) == 5
    for one in found:
        assert len(set(one["lines"])) == 4 and len(one["before"]) == next_line.BEFORE
        assert one["before"].endswith("\n") and 0 <= one["answer"] < 4
