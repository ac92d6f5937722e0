"""A run that was stopped goes on from its saved state as if it never had, on any engine; files
appear whole or not."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.cli.output import Bars
from mmfree_neuro.errors import InputError, RunFailed
from mmfree_neuro.graph.nodes import MLGRU, Graph
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.pipeline import opened
from mmfree_neuro.run import reference, run_file
from mmfree_neuro.run.folder import STATE_FILE
from mmfree_neuro.run.job import Job, RunState, Saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_sims import fast

pytestmark = pytest.mark.slow

TIMEOUT_S = 60
PROMPT = "abcd"
TOKENS = np.array([[0, 97, 98, 99, 100]])
"""The prompt behind the first token."""
NEW = 5
FED = 9
"""Tokens of the prompt, and of the continuation all but the last."""
DRAWS = Sampling(0.9, 4)
ENGINES = {"reference": reference.run, "fast": fast.run}
EVERY = [1, 3, 5, 6, 7, 8, 9]
"""Odd intervals, as long as the prompt, longer than it, as long as the run."""


Files = Callable[[str], str]
"""The path of a checkpoint, a file of tokens, a graph or a mapping, as text."""
Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def files(make_files: Callable[[str, int], Files]) -> Files:
    return make_files("smallest", 2)


@pytest.fixture(params=sorted(SCHEMES))
def loaded(request: pytest.FixtureRequest, files: Files) -> tuple[Graph, Mapping]:
    """A graph and its mapping."""
    graph, stored = opened.open_mapped(Path(files(f"{request.param}.map")))
    return graph, stored.mapping


def job_of(new_tokens: int = NEW, sampling: Sampling = DRAWS) -> Job:
    return Job(TOKENS, new_tokens, sampling, keep_logits=False)


def saved_by(
    engine: Any, graph: Graph, mapping: Mapping, job: Job, every: int, start: RunState | None = None
) -> Any:
    """What a run writes, and its result."""
    written: list[RunState] = []
    return written, engine(graph, mapping, job, silent, Saving(every, written.append, start))


def assert_same_state(found: RunState, expected: RunState) -> None:
    assert found.states.keys() == expected.states.keys()
    for name, state in expected.states.items():
        assert found.states[name].dtype == np.int64
        assert np.array_equal(found.states[name], state)
    for one, other in zip(found.stands, expected.stands, strict=True):
        assert (one.slot, one.fed) == (other.slot, other.fed)
        assert one.chosen.tolist() == other.chosen.tolist()
        assert (one.prefill, one.generate) == (other.prefill, other.generate)


def assert_same_result(found: Any, expected: Any) -> None:
    assert found.chosen.tolist() == expected.chosen.tolist()
    assert (found.prefill, found.generate) == (expected.prefill, expected.generate)
    assert (found.prefill.tokens, found.generate.tokens) == (
        expected.prefill.tokens,
        expected.generate.tokens,
    )


# Engines that live in this process.


@pytest.mark.slow
@pytest.mark.parametrize("every", EVERY)
def test_stopped_anywhere_a_run_goes_on_on_any_engine(
    every: int, loaded: tuple[Graph, Mapping]
) -> None:
    graph, mapping = loaded
    job, expected = job_of(), fast.run(graph, mapping, replace(job_of(), keep_logits=True))
    wanted, _ = saved_by(fast.run, graph, mapping, job, every)
    assert [state.fed for state in wanted] == [fed for fed in range(1, FED) if fed % every == 0]
    for saver in ENGINES.values():
        written, whole = saved_by(saver, graph, mapping, job, every)
        assert_same_result(whole, expected)
        assert whole.logits.shape == (1, 0, 256)
        for found, state in zip(written, wanted, strict=True):
            assert_same_state(found, state)
        for at, state in enumerate(written):
            for engine in ENGINES.values() if saver is fast.run else (fast.run,):
                later, rest = saved_by(engine, graph, mapping, job, every, state)
                assert_same_result(rest, expected)
                for found, other in zip(later, wanted[at + 1 :], strict=True):
                    assert_same_state(found, other)


def test_a_long_prompt_is_cut_where_its_states_are_saved(loaded: tuple[Graph, Mapping]) -> None:
    """The fast engine computes 64 tokens at a time, a divisor of nothing here."""
    graph, mapping = loaded
    tokens = np.random.default_rng(1).integers(0, 256, (1, 150))
    job = Job(tokens, 3, keep_logits=False)
    expected = fast.run(graph, mapping, job)
    for every, feds in (
        (7, list(range(7, 152, 7))),
        (70, [70, 140]),
        (149, [149]),
        (150, [150]),
        (151, [151]),
        (152, []),
    ):
        written, whole = saved_by(fast.run, graph, mapping, job, every)
        assert [state.fed for state in written] == feds
        assert_same_result(whole, expected)
        for state in written[:: max(1, len(written) // 2)]:
            assert_same_result(saved_by(fast.run, graph, mapping, job, 0, state)[1], expected)


def test_logits_go_on_from_a_state(loaded: tuple[Graph, Mapping]) -> None:
    """Bit for bit, on each engine from the other's state."""
    graph, mapping = loaded
    tokens = np.random.default_rng(2).integers(0, 256, 9)
    expected = reference.Reference(graph, mapping).feed(tokens)
    sessions = reference.Reference(graph, mapping), fast.Fast(graph, mapping)
    for cut in (1, 5, 8):
        for before in sessions:
            before.reset()
            before.feed(tokens[:cut])
            states = before.states()
            assert set(states) == {node.name for node in graph.nodes if isinstance(node, MLGRU)}
            assert all(state.dtype == np.int64 for state in states.values())
            for after in sessions:
                after.reset()
                after.restore(states)
                assert np.array_equal(after.feed(tokens[cut:]), expected[cut:])
                assert not all(
                    np.array_equal(after.states()[name], states[name]) for name in states
                )


def test_more_tokens_are_asked_for_than_before(loaded: tuple[Graph, Mapping]) -> None:
    graph, mapping = loaded
    longer = job_of(NEW + 7)
    expected = fast.run(graph, mapping, longer)
    for new_tokens in (0, 1, 3):
        written, _ = saved_by(fast.run, graph, mapping, job_of(new_tokens), 1)
        assert len(written) == 4 + max(0, new_tokens - 1)
        for state in written:
            assert_same_result(saved_by(fast.run, graph, mapping, longer, 0, state)[1], expected)
        assert_same_result(
            saved_by(reference.run, graph, mapping, longer, 0, written[-1])[1], expected
        )


def test_fewer_tokens_are_asked_for_than_before(loaded: tuple[Graph, Mapping]) -> None:
    """As long as the state is not beyond them."""
    graph, mapping = loaded
    written, _ = saved_by(fast.run, graph, mapping, job_of(), 1)
    for new_tokens in range(NEW):
        job = job_of(new_tokens)
        expected = fast.run(graph, mapping, job)
        for state in written:
            (asked,) = job.sequences
            fed = asked.fed_for(new_tokens)
            if state.fed <= fed:
                assert_same_result(saved_by(fast.run, graph, mapping, job, 0, state)[1], expected)
                continue
            with pytest.raises(InputError) as error:
                saved_by(fast.run, graph, mapping, job, 0, state)
            assert str(error.value) == (
                f"the saved state is {state.fed} tokens into the run, must be at most "
                f"{fed}; ask for more tokens"
            )


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5, 1), Sampling(100, 12)])
def test_choices_go_on(sampling: Sampling, loaded: tuple[Graph, Mapping]) -> None:
    graph, mapping = loaded
    job = job_of(8, sampling)
    written, whole = saved_by(fast.run, graph, mapping, job, 1)
    for state in written:
        assert_same_result(saved_by(fast.run, graph, mapping, job, 0, state)[1], whole)


# Several sequences.

PROMPTS = [TOKENS[0, 1:3], TOKENS[0], TOKENS[0, :1], TOKENS[0, 2:]]
MANY = Job(
    PROMPTS,
    [4, 2, 6, 0],
    [Sampling(0.9, seed) for seed in range(4)],
    keep_logits=False,
    in_flight=2,
)
"""Three of them take a slot that another has left, but for the first two."""


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_several_sequences_go_on_on_any_engine(
    in_flight: int, every: int, loaded: tuple[Graph, Mapping], make_mapping: Callable[..., Mapping]
) -> None:
    """From every state of all together, as each goes on alone."""
    graph = with_slots(loaded[0], 3)
    mapping, job = make_mapping(graph, "random", 3), replace(MANY, in_flight=in_flight)
    alone = [
        fast.run(graph, mapping, Job(one.tokens[None], one.new_tokens, one.sampling))
        for one in job.sequences
    ]
    for saver, other in ((fast.run, reference.run), (reference.run, fast.run)):
        written, whole = saved_by(saver, graph, mapping, job, every)
        last = sum(one.fed_for(one.new_tokens) for one in job.sequences)
        assert [state.fed for state in written] == [n for n in range(1, last) if n % every == 0]
        for found, expected in zip(whole.outcomes, alone, strict=True):
            assert found.chosen.tolist() == expected.chosen[0].tolist()
            assert (found.prefill, found.generate) == (expected.prefill, expected.generate)
        for at, state in enumerate(written):
            seated = [stand.slot for stand in state.stands if stand.slot >= 0]
            assert len(set(seated)) == len(seated) <= in_flight
            if every == 1 and at % 4:  # to go on from all of them would take long
                continue
            _, rest = saved_by(other, graph, mapping, job, 0, state)
            for found, expected in zip(rest.outcomes, whole.outcomes, strict=True):
                assert found.chosen.tolist() == expected.chosen.tolist()
                assert (found.prefill, found.generate) == (expected.prefill, expected.generate)


def test_states_of_several_sequences_go_on_with_the_same_states(
    loaded: tuple[Graph, Mapping], make_mapping: Callable[..., Mapping]
) -> None:
    """What is written behind a state is the same whether the run was stopped there or not."""
    graph = with_slots(loaded[0], 2)
    mapping = make_mapping(graph, "chain")
    written, _ = saved_by(fast.run, graph, mapping, MANY, 3)
    for at, state in enumerate(written):
        later, _ = saved_by(fast.run, graph, mapping, MANY, 3, state)
        for found, expected in zip(later, written[at + 1 :], strict=True):
            assert_same_state(found, expected)


# Writes that fail.


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can be larger than that, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def no_space(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# The command line.

Said = pytest.CaptureFixture[str]


def simulate(files: Files, out: Path, *more: str) -> list[str]:
    what = [
        "--prompt",
        PROMPT,
        "--new-tokens",
        str(NEW),
        "--ignore-eos",
        "--temperature",
        "0.9",
        "--seed",
        "4",
        "--engine",
        "fast",
    ]
    return ["simulate", files("a16.map"), *what, "-o", str(out), *more]


@pytest.fixture(scope="module")
def straight(files: Files, tmp_path_factory: pytest.TempPathFactory) -> run_file.RunRecord:
    """The run that nothing stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert main(simulate(files, out, "--save-every", "0")) == 0
    return run_file.load_run(out)


def assert_finished(out: Path, straight: run_file.RunRecord) -> None:
    """The folder holds the run alone, and it is that which nothing stopped."""
    assert [path.name for path in out.iterdir()] == ["run.json"]
    run = run_file.load_run(out)
    assert (run.only.text, run.only.new_tokens, run.only.prompt_tokens) == (
        straight.only.text,
        straight.only.new_tokens,
        straight.only.prompt_tokens,
    )
    assert (run.prefill, run.generate) == (straight.prefill, straight.generate)
    assert set(run.seconds) == {"start", "prefill", "generate"}


def stopped(
    patch: pytest.MonkeyPatch, where: tuple[str, int], how: Callable[[], Any], arguments: list[str]
) -> int:
    """The exit status of a command in which something happens when a phase has got so far."""
    report = Bars.show

    def stop(self: Bars, phase: str, done: int, total: int, chosen: Any) -> None:
        report(self, phase, done, total, chosen)
        if (phase, done) == where:
            how()

    with patch.context() as inner:
        inner.setattr(Bars, "show", stop)
        return main(arguments)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("every", "where", "fed"),
    [
        (1, ("prefill", 3), 2),
        (2, ("prefill", 5), 4),
        (3, ("generate", 3), 6),
        (5, ("generate", 2), 5),
        (7, ("generate", 5), 7),
        (8, ("generate", 5), 8),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_run_is_resumed(
    every: int,
    where: tuple[str, int],
    fed: int,
    engine: str,
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
    tree: Tree,
) -> None:
    out = tmp_path / "run"
    begin = simulate(files, out, "--save-every", str(every), "--engine", engine)
    assert stopped(monkeypatch, where, interrupt, begin) == 1
    hint = f"the state after {fed} tokens is in {out}, --resume goes on from there"
    assert capsys.readouterr().err == f"mmfree-neuro: interrupted; {hint}\n"
    assert [path.name for path in out.iterdir()] == [STATE_FILE]
    before = tree(out)

    assert main(begin) == 2
    refused = (
        f"{out}: holds the state of an unfinished run, must be another folder, or use --resume"
    )
    assert capsys.readouterr().err == f"mmfree-neuro: {refused}\n"
    assert tree(out) == before

    other = {"fast": "reference", "reference": "fast"}[engine]
    assert main([*begin, "--resume", "--engine", other, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["text"] == straight.only.text
    assert_finished(out, straight)


def test_a_run_is_interrupted_again_and_again(
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
) -> None:
    """After every token; what is heard of progress goes on where it was."""
    out = tmp_path / "run"
    begin = simulate(files, out, "--save-every", "1")
    places = [("prefill", n) for n in (1, 2, 3, 4, 5)] + [("generate", n) for n in (2, 3, 4, 5)]
    for number, where in enumerate(places):
        resume = ["--resume"] if number > 1 else []  # of the first token nothing has been saved
        assert stopped(monkeypatch, where, interrupt, [*begin, *resume]) == 1
        hint = (
            f"; the state after {number} tokens is in {out}, --resume goes on from there"
            if number
            else ""
        )
        assert capsys.readouterr().err == f"mmfree-neuro: interrupted{hint}\n"
    assert main([*begin, "--resume"]) == 0
    assert_finished(out, straight)


def test_a_run_that_died(
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
) -> None:
    def die() -> None:
        raise RunFailed("chip 1 (process 7) died (SIGKILL)")

    out = tmp_path / "run"
    assert (
        stopped(monkeypatch, ("generate", 1), die, simulate(files, out, "--save-every", "9")) == 1
    )
    assert capsys.readouterr().err == "mmfree-neuro: chip 1 (process 7) died (SIGKILL)\n"
    assert not out.exists()
    assert (
        stopped(monkeypatch, ("generate", 4), die, simulate(files, out, "--save-every", "3")) == 1
    )
    assert capsys.readouterr().err == (
        "mmfree-neuro: chip 1 (process 7) died (SIGKILL)\n"
        f"the state after 6 tokens is in {out}, --resume goes on from there\n"
    )
    # Whoever resumes and is stopped before the next state is told of the one that there is.
    assert stopped(monkeypatch, ("generate", 3), interrupt, simulate(files, out, "--resume")) == 1
    hint = f"the state after 6 tokens is in {out}, --resume goes on from there"
    assert capsys.readouterr().err == f"mmfree-neuro: interrupted; {hint}\n"
    assert main(simulate(files, out, "--resume")) == 0
    assert_finished(out, straight)


def test_a_run_that_saved_states_leaves_none(
    files: Files, straight: run_file.RunRecord, tmp_path: Path
) -> None:
    """Over an older run, too."""
    for every in ("1", "4", "100"):
        assert main(simulate(files, tmp_path / "run", "--save-every", every)) == 0
        assert_finished(tmp_path / "run", straight)


def test_an_older_run_stays_until_the_new_one_is_finished(
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
    tree: Tree,
) -> None:
    out = tmp_path / "run"
    assert main(simulate(files, out, "--new-tokens", "2")) == 0
    older = tree(out)
    begin = simulate(files, out, "--save-every", "2")
    assert stopped(monkeypatch, ("generate", 4), interrupt, begin) == 1
    assert sorted(path.name for path in out.iterdir()) == ["run.json", STATE_FILE]
    assert tree(out)["run.json"] == older["run.json"]
    assert main(begin) == 2
    assert main([*begin, "--resume"]) == 0
    assert_finished(out, straight)


def test_more_tokens_are_asked_for_on_the_command_line(
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
) -> None:
    out = tmp_path / "run"
    begin = simulate(files, out, "--save-every", "3", "--new-tokens", "3")
    assert stopped(monkeypatch, ("generate", 3), interrupt, begin) == 1
    capsys.readouterr()
    assert main([*begin, "--resume", "--new-tokens", "1"]) == 2
    message = "the saved state is 6 tokens into the run, must be at most 5; ask for more tokens"
    assert capsys.readouterr().err == f"mmfree-neuro: {message}\n"
    assert [path.name for path in out.iterdir()] == [STATE_FILE]
    assert main([*begin, "--resume", "--new-tokens", str(NEW)]) == 0
    assert_finished(out, straight)


def test_what_cannot_be_resumed(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said, tree: Tree
) -> None:
    out, begin = tmp_path / "run", simulate(files, tmp_path / "run", "--save-every", "2")
    none = f"{out}: holds no state of an unfinished run, must be run without --resume"
    assert main([*begin, "--resume"]) == 2
    assert capsys.readouterr().err == f"mmfree-neuro: {none}\n"
    assert not out.exists()
    assert stopped(monkeypatch, ("generate", 3), interrupt, begin) == 1
    before, _ = tree(out), capsys.readouterr()
    other = (
        f"{out / STATE_FILE}: not the saved state of a run: it belongs to another mapping, prompt, "
        "temperature, seed or --ignore-eos, must be resumed with those of its run"
    )
    for changed in (["--prompt", "abce"], ["--temperature", "0"], ["--seed", "5"]):
        assert main([*begin, "--resume", *changed]) == 2
        assert capsys.readouterr().err == f"mmfree-neuro: {other}\n"
    arguments = [*begin, "--resume"]
    assert main([argument.replace("a16.map", "a8.map") for argument in arguments]) == 2
    assert capsys.readouterr().err == f"mmfree-neuro: {other}\n"
    assert tree(out) == before
    (out / STATE_FILE).write_bytes(before[STATE_FILE][:-1])
    assert main([*begin, "--resume"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mmfree-neuro: {out / STATE_FILE}: not the saved state of a run, or ")
    assert [path.name for path in out.iterdir()] == [STATE_FILE]


def test_a_finished_run_cannot_be_resumed(
    files: Files, tmp_path: Path, capsys: Said, tree: Tree
) -> None:
    out = tmp_path / "run"
    assert main(simulate(files, out)) == 0
    before, _ = tree(out), capsys.readouterr()
    assert main(simulate(files, out, "--resume")) == 2
    message = f"{out}: holds no state of an unfinished run, must be run without --resume"
    assert capsys.readouterr().err == f"mmfree-neuro: {message}\n"
    assert tree(out) == before


def test_states_are_not_saved_less_than_never(
    files: Files, tmp_path: Path, capsys: Said, tree: Tree
) -> None:
    assert main(simulate(files, tmp_path / "run", "--save-every", "-1")) == 2
    message = "a state every -1 tokens was asked for, must not be negative"
    assert capsys.readouterr().err == f"mmfree-neuro: {message}\n"
    assert tree(tmp_path) == {}


# A full disk.


def steps_that_write(files: Files, out: Path) -> dict[str, list[str]]:
    """Commands that write to `out`."""
    calibrate_ = ["--calibrate", files("calibration.npy")]
    return {
        "convert": ["convert", files("checkpoint"), "-o", str(out), *calibrate_],
        "map": ["map", files("a16.graph"), "--system", "oheo-gulch", "-o", str(out)],
        "simulate": simulate(files, out, "--save-every", "0"),
        "logits": [
            "logits",
            files("a16.map"),
            "--tokens",
            files("calibration.npy"),
            "--engine",
            "fast",
            "-o",
            str(out),
        ],
        "inspect": ["inspect", files("checkpoint"), "--codes", str(out)],
    }


@pytest.mark.parametrize("name", ["convert", "map", "simulate", "logits", "inspect"])
@pytest.mark.parametrize("older", [False, True])
def test_a_full_disk_is_one_line(
    name: str, older: bool, files: Files, tmp_path: Path, capsys: Said, tree: Tree
) -> None:
    """Nothing half-written stays, and what was there before does."""
    if name == "convert":
        pytest.importorskip("torch")
    out = tmp_path / "out"
    arguments = steps_that_write(files, out)[name]
    if older:
        assert main(arguments) == 0
    before, _ = tree(tmp_path), capsys.readouterr()
    status = (
        1 if name in ("convert", "map", "simulate") else 2
    )  # what was computed is shown all the same
    file = out / "run.json" if name == "simulate" else out
    with room_for(1000):
        assert main(arguments) == status
    assert capsys.readouterr().err == f"mmfree-neuro: {file}: cannot be written (File too large)\n"
    assert tree(tmp_path) == before


def test_a_disk_that_fills_up_during_a_run(
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
) -> None:
    """The run ends at the state that cannot be written, and goes on from the one before."""
    out = tmp_path / "run"
    begin, before = (
        simulate(files, out, "--save-every", "2"),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    try:
        fill = ("generate", 1), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        assert stopped(monkeypatch, *fill, begin) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capsys.readouterr().err == (
        f"mmfree-neuro: {out / STATE_FILE}: cannot be written (File too large)\n"
        f"the state after 4 tokens is in {out}, --resume goes on from there\n"
    )
    assert [path.name for path in out.iterdir()] == [STATE_FILE]
    assert main([*begin, "--resume"]) == 0
    assert_finished(out, straight)


def test_a_disk_that_is_full_at_the_first_state(
    files: Files, tmp_path: Path, capsys: Said, tree: Tree
) -> None:
    out = tmp_path / "run"
    with room_for(1000):
        assert main(simulate(files, out, "--save-every", "2")) == 1
    assert (
        capsys.readouterr().err
        == f"mmfree-neuro: {out / STATE_FILE}: cannot be written (File too large)\n"
    )
    assert tree(tmp_path) == {}
    assert main(simulate(files, out, "--save-every", "2")) == 0


def test_a_disk_that_is_full_at_the_end(
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
) -> None:
    """The last state stays."""
    out = tmp_path / "run"
    begin = simulate(files, out, "--save-every", "8")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", no_space)
        assert main(begin) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"{PROMPT}{straight.only.text}\n")
    assert (
        said.err
        == f"mmfree-neuro: {out / 'run.json'}: cannot be written (No space left on device)\n"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["run", STATE_FILE]
    assert main([*begin, "--resume"]) == 0
    assert_finished(out, straight)


@pytest.mark.parametrize("state", [1, 2])
def test_killed_while_a_state_was_written(
    state: int,
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    capsys: Said,
    run_python: Callable[..., Any],
) -> None:
    """With kill -9, before the new state has its name: the run goes on from the older, or begins
    anew."""
    program = """
        import os
        import signal
        import sys

        from mmfree_neuro.cli.main import main

        last, replace, written = int(sys.argv[1]), os.replace, []


        def killed(source, target):
            written.append(target)
            if len(written) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)


        os.replace = killed
        main(sys.argv[2:])
    """
    begin = simulate(files, tmp_path / "out", "--save-every", "3")
    run_python(program, str(state), *begin, status=-signal.SIGKILL)
    assert main([*begin, *(["--resume"] if state > 1 else [])]) == 0, capsys.readouterr().err
    assert_finished(tmp_path / "out", straight)


# Lava, whose processes must be forked by one without torch.

MIXED = """
    import sys
    from pathlib import Path

    import numpy as np

    from mmfree_neuro.pipeline import opened
    from mmfree_neuro.run import state_file
    from mmfree_neuro.run.job import Job, Saving, silent
    from mmfree_neuro.run.sampling import Sampling
    from mmfree_sims import fast
    from mmfree_sims.lava import engine

    graph, stored = opened.open_mapped(Path(sys.argv[1]))
    mapping, folder = stored.mapping, Path(sys.argv[2])
    job = Job(np.array([[0, 97, 98, 99, 100]]), 5, Sampling(0.9, 4), keep_logits=False)
    identity = state_file.identity(mapping, job)
    expected = fast.run(graph, mapping, job)


    def run(engine, every, state=None, job=job):
        written = []
        return written, engine(graph, mapping, job, silent, Saving(every, written.append, state))


    def same_result(found, who, expected=expected):
        assert found.chosen.tolist() == expected.chosen.tolist(), who
        assert found.prefill == expected.prefill, who
        assert found.generate == expected.generate, who
        assert found.logits.shape == (1, 0, 256), who


    def same_states(found, expected, who):
        assert [state.fed for state in found] == [state.fed for state in expected], who
        for a, b in zip(found, expected):
            assert a.states.keys() == b.states.keys(), who
            assert all(np.array_equal(a.states[name], b.states[name]) for name in a.states), who
            (one,), (other,) = a.stands, b.stands
            assert (one.slot, one.fed) == (other.slot, other.fed), who
            assert one.chosen.tolist() == other.chosen.tolist(), who
            assert (one.prefill, one.generate) == (other.prefill, other.generate), who
            assert set(a.seconds) == {"start", "prefill", "generate"}, who


    every_token, _ = run(fast.run, 1)
    assert len(every_token) == 8


    def after(fed):  # through the file
        state_file.save_state(every_token[fed - 1], identity, folder)
        return state_file.load_state(folder, graph, mapping, job)


    many = graph.scheme == "a16"
    by_chip, by_core = ((1, 3, 5, 9), (1,)) if many else ((7,), ())
    for start, everies in ((engine.run, by_chip), (engine.run_per_core, by_core)):
        for every in everies:
            written, whole = run(start, every)
            same_result(whole, (start, every))
            due = [state for state in every_token if state.fed % every == 0]
            same_states(written, due, (start, every))
            if every in (1, 7):  # saved by Lava, resumed by the fast engine
                for state in written:
                    later, rest = run(fast.run, 1, state)
                    same_result(rest, (state.fed, "fast"))
                    same_states(later, every_token[state.fed :], (state.fed, "fast"))
    for fed in range(1, 9) if many else (2, 5, 7):  # saved by the fast engine, resumed by Lava
        start = engine.run_per_core if fed in (2, 6) else engine.run
        later, rest = run(start, 2, after(fed))
        same_result(rest, (fed, start))
        due = [state for state in every_token if state.fed > fed and state.fed % 2 == 0]
        same_states(later, due, (fed, start))
    longer = Job(job.tokens, 8, job.sampling, keep_logits=False)
    told = []
    resumed = Saving(0, None, after(7))
    rest = engine.run(graph, mapping, longer, lambda *what: told.append(what), resumed)
    same_result(rest, "longer", fast.run(graph, mapping, longer))
    assert told[-1][:3] == ("generate", 8, 8)
    assert all(done > 3 for phase, done, total, chosen in told if phase == "generate")
    _, end = run(engine.run, 0, after(8), Job(job.tokens, 4, job.sampling, keep_logits=False))
    assert end.chosen.tolist() == expected.chosen[:, :4].tolist()
    assert "torch" not in sys.modules
    print("ended")
"""


@pytest.mark.lava
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_states_pass_between_lava_and_the_fast_engine(
    scheme: str, files: Files, tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    found = run_python(MIXED, files(f"{scheme}.map"), tmp_path / "state")
    assert found.stdout == "ended\n", found.stderr


@pytest.mark.lava
def test_lava_refuses_what_cannot_be_saved(
    files: Files, tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    program = """
        import sys
        from pathlib import Path

        import numpy as np

        from mmfree_neuro.pipeline import opened
        from mmfree_neuro.errors import InputError
        from mmfree_neuro.run.job import Job, Saving, silent
        from mmfree_sims.lava import engine

        graph, stored = opened.open_mapped(Path(sys.argv[1]))
        for tokens, every, keep in (([[0]], -1, False), ([[0], [1]], 1, True), ([[0]], 1, True)):
            try:
                job = Job(np.array(tokens), 1, keep_logits=keep)
                engine.run(graph, stored.mapping, job, silent, Saving(every, None))
            except InputError as error:
                print(error)
    """
    found = run_python(program, files("a16.map"))
    assert found.stderr == ""
    only = "only a run that keeps no logits can be saved"
    assert found.stdout.splitlines() == [
        "a state every -1 tokens was asked for, must not be negative",
        only,
        only,
    ]


LAVA_STOPS = """
    import os
    import signal
    import sys

    from mmfree_neuro.cli.main import main
    from mmfree_sims.lava import engine

    how, make_watch = sys.argv[1], engine._watcher


    def watcher(shared, job, report, book):
        watch = make_watch(shared, job, report, book)

        def watch_and_stop():
            watch()
            if shared.saving[1] >= 6 and shared.done[1] >= 2:
                if how == "killed" and shared.ready[1]:
                    os.kill(int(shared.ready[1]), signal.SIGKILL)
                if how == "interrupted":
                    os.kill(os.getpid(), signal.SIGINT)

        return watch_and_stop


    engine._watcher = watcher
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.lava
@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_lava_run_that_was_stopped_is_resumed_by_others(
    how: str,
    files: Files,
    straight: run_file.RunRecord,
    tmp_path: Path,
    run_python: Callable[..., Any],
) -> None:
    """From the last state that was written; so many tokens are asked for that the run is not over
    before."""
    out = tmp_path / "run"
    begin = simulate(files, out, "--save-every", "3", "--engine", "lava", "--new-tokens", "100000")
    found = run_python(LAVA_STOPS, how, *begin, status=1)
    first, _, hint = found.stderr.rstrip().partition("\n" if how == "killed" else "; ")
    if how == "killed":
        assert first.startswith("mmfree-neuro: chip 1 (process ")
        assert first.endswith(") died (SIGKILL)")
    else:
        assert first == "mmfree-neuro: interrupted"
    fed = int(hint.split()[3])
    assert fed >= 6
    assert hint == f"the state after {fed} tokens is in {out}, --resume goes on from there"
    assert [path.name for path in out.iterdir()] == [STATE_FILE]
    new_tokens = str(fed + 20)
    resume = simulate(files, out, "--resume", "--new-tokens", new_tokens)
    assert main(resume) == 0
    whole = simulate(files, tmp_path / "whole", "--new-tokens", new_tokens)
    assert main(whole) == 0
    assert_finished(out, run_file.load_run(tmp_path / "whole"))
    assert run_file.load_run(out).only.new_tokens[:NEW] == straight.only.new_tokens


@pytest.mark.lava
def test_a_run_of_the_fast_engine_is_resumed_by_lava(
    files: Files, straight: run_file.RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    begin = simulate(files, out, "--save-every", "2")
    assert stopped(monkeypatch, ("generate", 4), interrupt, begin) == 1
    command = [sys.executable, "-m", "mmfree_neuro", *begin, "--resume", "--engine", "lava"]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (found.returncode, found.stderr) == (0, "")
    assert_finished(out, straight)


@pytest.mark.lava
def test_a_disk_that_fills_up_during_a_lava_run(
    files: Files, straight: run_file.RunRecord, tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    program = """
        import errno
        import os
        import sys
        from pathlib import Path

        from mmfree_neuro.cli.main import main

        write_bytes, written = Path.write_bytes, []


        def full(self, data):
            written.append(self)
            if len(written) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write_bytes(self, data)


        Path.write_bytes = full
        sys.exit(main(sys.argv[1:]))
    """
    out = tmp_path / "run"
    begin = simulate(files, out, "--save-every", "2", "--engine", "lava")
    found = run_python(program, *begin, status=1)
    assert found.stderr == (
        f"mmfree-neuro: {out / STATE_FILE}: cannot be written (No space left on device)\n"
        f"the state after 4 tokens is in {out}, --resume goes on from there\n"
    )
    assert [path.name for path in out.iterdir()] == [STATE_FILE]
    assert main(simulate(files, out, "--resume")) == 0
    assert_finished(out, straight)
