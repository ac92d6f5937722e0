"""A text ends where the model ends it, on every engine at the same token and with the same counts:
as if no more tokens had been asked for."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import RunFailed
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map, opened, quality
from mmfree_neuro.run import reference, run_file
from mmfree_neuro.run.job import Job, Result, RunState, Saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.state_file import STATE_FILE, identity, load_state, save_state
from mmfree_neuro.run.state_file import saving as kept_in
from mmfree_sims import fast

pytestmark = pytest.mark.slow

BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec") or "mpiexec"
PROMPT = "ab"
TOKENS = np.array([[0, *PROMPT.encode()]])
DRAWS = Sampling(0.8, 4)
END = 5
"""After so many tokens the text ends, of ASKED."""
ASKED = 12
ENGINES = {"fast": fast.run, "reference": reference.run}


def job_of(new_tokens: int = ASKED, stop: tuple[int, ...] = ()) -> Job:
    return Job(TOKENS, new_tokens, DRAWS, keep_logits=False, stop=stop)


@pytest.fixture(scope="module")
def ending(random_graph: Callable[[str, str], Graph]) -> Graph:
    """A model of bytes that chooses its EOS as its fifth token, and then goes on for a while."""
    graph = random_graph("smallest", "a16")
    mapping = map.place(graph, "", map_system(), Request("block-per-chip", cores=2))[1]
    chosen = fast.run(graph, mapping, job_of()).chosen[0].tolist()
    assert len(set(chosen[:END])) == END
    return replace(graph, eos=(-1, chosen[END - 1], 99_999))


def map_system() -> Any:
    from mmfree_neuro.systems.load import load_system

    return load_system("kapoho-point")


@pytest.fixture(scope="module")
def path(ending: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mapping file of that model."""
    folder = tmp_path_factory.mktemp("files")
    graph_file.save_graph(ending, folder / "model.graph")
    where = folder / "model.map"
    map.map_graph(folder / "model.graph", "kapoho-point", where, Request("block-per-chip", cores=2))
    return where


@pytest.fixture(scope="module")
def loaded(path: Path) -> tuple[Graph, Mapping]:
    graph, stored = opened.open_mapped(path)
    return graph, stored.mapping


def words(path: Path, run: Path, *more: str) -> list[str]:
    draws = ["--temperature", "0.8", "--seed", "4", "--new-tokens", str(ASKED)]
    return ["simulate", str(path), "--prompt", PROMPT, *draws, "-o", str(run), *more]


def outcome(folder: Path) -> tuple[Any, ...]:
    run = run_file.load_run(folder)
    counts = [array.tolist() for phase in (run.prefill, run.generate) for array in phase.arrays()]
    return run.only.text, run.only.new_tokens, counts, run.only.ended


@pytest.fixture(scope="module")
def shorter(
    loaded: tuple[Graph, Mapping], path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, ...]:
    """What comes of a run for which only the tokens up to the EOS are asked."""
    run = tmp_path_factory.mktemp("shorter") / "run"
    assert main(words(path, run, "--new-tokens", str(END), "--engine", "reference")) == 0
    return outcome(run)


def states_of(
    engine: Any, loaded: tuple[Graph, Mapping], job: Job, every: int, state: RunState | None = None
) -> tuple[list[RunState], Result]:
    written: list[RunState] = []
    return written, engine(*loaded, job, silent, Saving(every, written.append, state))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_ends_at_eos(
    engine: str, path: Path, shorter: tuple[Any, ...], tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    assert main(words(path, run, "--engine", engine)) == 0
    whole = run_file.load_run(run)
    found = whole.only
    assert outcome(run) == shorter
    assert (found.ended, found.asked, len(found.new_tokens)) == ("eos", ASKED, END)
    assert whole.generate.tokens == END - 1
    graph, _ = opened.open_mapped(path)
    assert found.new_tokens[-1] == graph.eos[1]
    # EOS is a token of the run, and not of its text.
    assert found.text == bytes(found.new_tokens[:-1]).decode(errors="replace")
    said = capsys.readouterr().out
    assert f"\n\nended at EOS after {END} of {ASKED} tokens\n{engine}: started in " in said


def test_eos_is_ignored_where_one_asks_for_that(
    path: Path, loaded: tuple[Graph, Mapping], tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    assert main(words(path, run, "--engine", "fast", "--ignore-eos")) == 0
    found = run_file.load_run(run).only
    assert (found.ended, found.asked, len(found.new_tokens)) == ("length", ASKED, ASKED)
    assert list(found.new_tokens) == fast.run(*loaded, job_of()).chosen[0].tolist()
    assert "ended" not in capsys.readouterr().out


def test_the_last_token_that_is_asked_for_may_be_eos(
    path: Path, tmp_path: Path, shorter: tuple[Any, ...]
) -> None:
    assert main(words(path, tmp_path / "run", "--engine", "fast", "--new-tokens", str(END))) == 0
    assert outcome(tmp_path / "run") == shorter
    assert shorter[-1] == "eos"


@pytest.mark.parametrize("every", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_ends_at_eos(engine: str, every: int, loaded: tuple[Graph, Mapping]) -> None:
    """From every state; none is saved at the end."""
    job = job_of(stop=loaded[0].eos)
    expected, _ = ENGINES[engine](*loaded, job_of(END)), None
    written, found = states_of(ENGINES[engine], loaded, job, every)
    fed = TOKENS.shape[1] + END - 1
    assert [state.fed for state in written] == [n for n in range(1, fed) if n % every == 0]
    for state in (None, *written):
        for other in ENGINES.values():
            _, found = states_of(other, loaded, job, every, state)
            assert np.array_equal(found.chosen, expected.chosen)
            assert (found.prefill, found.generate) == (expected.prefill, expected.generate)
            assert found.generate.tokens == END - 1


def test_a_state_goes_on_with_the_same_end(
    loaded: tuple[Graph, Mapping], path: Path, tmp_path: Path, capsys: Any
) -> None:
    """The file of a state says what ends its run."""
    run = tmp_path / "run"
    (graph, mapping), job = loaded, job_of(stop=(loaded[0].eos[1],))
    run.mkdir()
    with pytest.raises(RunFailed), kept_in(graph, mapping, job, run, 2, False) as saving:
        fast.run(graph, mapping, job, silent, saving)
        raise RunFailed("enough")
    assert (run / STATE_FILE).is_file()
    assert main([*words(path, run, "--engine", "fast", "--resume", "--ignore-eos")]) == 2
    assert capsys.readouterr().err == (
        f"mmfree-neuro: {run / STATE_FILE}: not the saved state of a run: it belongs to another "
        "mapping, prompt, temperature, seed or --ignore-eos, must be resumed with those of its "
        "run\n"
    )
    assert main([*words(path, run, "--engine", "fast", "--resume")]) == 0
    assert run_file.load_run(run).only.ended == "eos"


def test_logits_are_those_of_what_was_fed(loaded: tuple[Graph, Mapping]) -> None:
    job = replace(job_of(stop=loaded[0].eos), keep_logits=True)
    for engine in ENGINES.values():
        found, expected = engine(*loaded, job), engine(*loaded, replace(job, new_tokens=END))
        assert found.logits.shape == (1, TOKENS.shape[1] + END - 1, 256)
        assert np.array_equal(found.logits, expected.logits)


@pytest.fixture
def command(start: Any, python: tuple[str, ...]) -> Callable[..., None]:
    """The function that runs a command in a process of its own."""

    def run(*before: str, arguments: list[str]) -> None:
        process = start(*before, *python, "-m", "mmfree_neuro", *arguments)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        assert f"ended at EOS after {END} of {ASKED} tokens" in out

    return run


@pytest.fixture
def half_done(loaded: tuple[Graph, Mapping], tmp_path: Path) -> Iterator[Path]:
    """The folder of a run that was stopped two tokens before its EOS."""
    run = tmp_path / "half"
    run.mkdir()
    job = job_of(stop=(loaded[0].eos[1],))
    written, _ = states_of(fast.run, loaded, job, 1)
    save_state(written[-2], identity(loaded[1], job), run)
    yield run


@pytest.mark.lava
@pytest.mark.parametrize("engine", ["lava", "lava-per-core"])
def test_lava_ends_at_eos(
    engine: str, path: Path, shorter: tuple[Any, ...], command: Any, half_done: Path, tmp_path: Path
) -> None:
    command(arguments=words(path, tmp_path / "run", "--engine", engine, "--save-every", "3"))
    assert outcome(tmp_path / "run") == shorter
    command(arguments=words(path, half_done, "--engine", engine, "--resume"))
    assert outcome(half_done) == shorter


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_mpi_ends_at_eos(
    ranks: int, path: Path, shorter: tuple[Any, ...], command: Any, half_done: Path, tmp_path: Path
) -> None:
    before = MPIEXEC, "-n", str(ranks)
    one = words(path, tmp_path / "run", "--engine", "mpi", "--save-every", "3")
    command(*before, arguments=one)
    assert outcome(tmp_path / "run") == shorter
    command(*before, arguments=words(path, half_done, "--engine", "mpi", "--resume"))
    assert outcome(half_done) == shorter


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_several_sequences_end_each_by_itself(
    in_flight: int, loaded: tuple[Graph, Mapping]
) -> None:
    """At the EOS, after another number of tokens, or where the prompt has ended."""
    graph = with_slots(loaded[0], 3)
    mapping = quality.in_one_place(graph)
    prompts = [TOKENS[0], TOKENS[0], TOKENS[0, :2], TOKENS[0]]
    asked, draws = [ASKED, 3, 0, ASKED], [DRAWS, DRAWS, DRAWS, Sampling(0.8, 9)]
    job = Job(prompts, asked, draws, stop=loaded[0].eos, in_flight=in_flight)
    for engine in ENGINES.values():
        found = engine(graph, mapping, job)
        lengths = [len(one.chosen) for one in found.outcomes]
        assert lengths[:3] == [END, 3, 0]
        for one, prompt, length, draw in zip(found.outcomes, prompts, lengths, draws, strict=True):
            alone = engine(graph, mapping, Job(prompt[None], length, draw))
            assert np.array_equal(one.chosen, alone.chosen[0])
            assert np.array_equal(one.logits, alone.logits[0])
            assert (one.prefill, one.generate) == (alone.prefill, alone.generate)


@pytest.mark.parametrize("every", [1, 4])
def test_several_resumed_sequences_end_each_by_itself(
    every: int, loaded: tuple[Graph, Mapping], tmp_path: Path
) -> None:
    """From every state, through its file, also where some have ended."""
    graph = with_slots(loaded[0], 2)
    mapping, prompts = quality.in_one_place(graph), [TOKENS[0], TOKENS[0, :1], TOKENS[0]]
    draws = [DRAWS, Sampling(0.8, 7), Sampling(0.8, 9)]
    job = Job(prompts, ASKED, draws, keep_logits=False, stop=graph.eos, in_flight=2)
    written, expected = states_of(fast.run, (graph, mapping), job, every)
    assert len(expected.outcomes[0].chosen) == END
    assert any(stand.slot < 0 < stand.fed for state in written for stand in state.stands)
    for state in written:
        save_state(state, identity(mapping, job), tmp_path)
        held = load_state(tmp_path, graph, mapping, job)
        for engine in ENGINES.values():
            _, found = states_of(engine, (graph, mapping), job, every, held)
            for one, other in zip(found.outcomes, expected.outcomes, strict=True):
                assert np.array_equal(one.chosen, other.chosen)
                assert (one.prefill, one.generate) == (other.prefill, other.generate)
