"""Forty prompts of different lengths, seven of them under way at once, give on every engine what
each gives alone; also where the run is stopped, and goes on on another engine."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.graph import greedy
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.image.write import write_image
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import emulated, map
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job, Result, RunState, Saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_sims import fast
from mmfree_sims.emulator.emulator import Emulator, available

Graphs = Callable[[str, str], Graph]
Placed = tuple[Graph, Mapping]
Run = Callable[[Job, Saving | None], Result]
IN_FLIGHT = 7
SCHEMES = "a14-late", "a8", "a14-local"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job() -> Job:
    """Forty prompts of 1 to 9 tokens, some drawn, some that choose nothing, and tokens that end a
    text."""
    rng = np.random.default_rng(14)
    prompts = [rng.integers(0, 37, 1 + n % 9) for n in range(40)]
    new_tokens = [int(count) for count in rng.integers(0, 7, 40)]
    sampling = [Sampling(0.7 * (n % 3), n) for n in range(40)]
    return Job(prompts, new_tokens, sampling, True, (3, 11), IN_FLIGHT)


@pytest.fixture(scope="module", params=SCHEMES)
def whole(request: pytest.FixtureRequest, random_graph: Graphs) -> Graph:
    """A small model."""
    return random_graph("24x2x33", request.param)


HOW = Request("block-per-chip", cores=6, in_flight=IN_FLIGHT)
"""For seven sequences, a block on each chip."""


@pytest.fixture(scope="module")
def placed(whole: Graph, system: SystemSpec) -> Placed:
    """The model mapped."""
    return map.place(whole, "", system, HOW)


@pytest.fixture(scope="module")
def choosing(whole: Graph, system: SystemSpec) -> Placed:
    """The same on a mapping that chooses words itself, on three levels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "MOST_LOGITS", 5)
        patch.setattr(greedy, "MOST_VALUES", 3)
        graph, mapping = map.place(whole, "", system, replace(HOW, greedy_on_chips=True))
    assert graph.nodes[-1].name == "largest.2"
    return graph, mapping


@pytest.fixture(scope="module")
def alone(placed: Placed, job: Job) -> Result:
    """One by one, on the reference."""
    return reference.run(*placed, _job(job, in_flight=1))


def _job(job: Job, *, in_flight: int = IN_FLIGHT, keep_logits: bool = True) -> Job:
    return Job(job.tokens, job.new_tokens, job.sampling, keep_logits, job.stop, in_flight)


def the_same(found: Result, expected: Result, *, logits: bool = True) -> None:
    """The same tokens, bits and counts, sequence by sequence."""
    assert len(found.outcomes) == len(expected.outcomes)
    for number, (one, other) in enumerate(zip(found.outcomes, expected.outcomes, strict=True)):
        assert one.chosen.tolist() == other.chosen.tolist(), number
        assert np.array_equal(one.logits, other.logits) or not logits, number
        assert (one.prefill, one.generate) == (other.prefill, other.generate), number


def engine(name: str, placed: Placed, system: SystemSpec, folder: Path) -> Run:
    """An engine by its name."""
    graph, mapping = placed
    if name == "emulator":
        write_image(graph, mapping, system, "0" * 64, folder / "model.image")
        image = emulated.OpenedImage(folder / "model.image")
        return lambda job, saving: emulated.run(image, job, silent, saving)
    if name == "lava":
        from mmfree_sims.lava import engine as lava

        return lambda job, saving: lava.run(graph, mapping, job, silent, saving)
    if name == "gpu":
        from mmfree_sims import gpu

        return lambda job, saving: gpu.run(graph, mapping, job, silent, saving)
    run = {"reference": reference.run, "fast": fast.run}[name]
    return lambda job, saving: run(graph, mapping, job, silent, saving)


NEEDS_EMULATOR = pytest.mark.skipif(not available(), reason="needs the emulator in C")
ENGINES = [
    "fast",
    pytest.param("emulator", marks=NEEDS_EMULATOR),
    pytest.param("lava", marks=pytest.mark.lava),
]


@pytest.mark.parametrize("name", ENGINES)
def test_every_sequence_comes_to_what_it_is_alone(
    name: str, placed: Placed, job: Job, alone: Result, system: SystemSpec, tmp_path: Path
) -> None:
    the_same(engine(name, placed, system, tmp_path)(job, None), alone)


def first_of(job: Job, result: Result, count: int) -> tuple[Job, Result]:
    """The first sequences of a job, for engines that are slow here, and what came of them."""
    few = Job(
        job.tokens[:count],
        [asked.new_tokens for asked in job.sequences[:count]],
        [asked.sampling for asked in job.sequences[:count]],
        job.keep_logits,
        job.stop,
        job.in_flight,
    )
    return few, Result(result.outcomes[:count], {})


@pytest.mark.parametrize(
    ("name", "count"), [("reference", 40), pytest.param("gpu", 10, marks=pytest.mark.kernels)]
)
def test_slow_engines(
    name: str, count: int, random_graph: Graphs, job: Job, system: SystemSpec, tmp_path: Path
) -> None:
    graph, request = random_graph("16x1x24", "a14-local"), Request(cores=6, in_flight=IN_FLIGHT)
    placed = map.place(graph, "", system, request)
    within = Job(
        [prompt % graph.vocabulary for prompt in job.tokens],
        job.new_tokens,
        job.sampling,
        stop=job.stop,
        in_flight=IN_FLIGHT,
    )
    few, alone = first_of(within, fast.run(*placed, _job(within, in_flight=1)), count)
    the_same(engine(name, placed, system, tmp_path)(few, None), alone)


@pytest.mark.parametrize("in_flight", [1, 2, 3, 5])
def test_fewer_may_be_under_way_than_there_is_room_for(
    in_flight: int, placed: Placed, job: Job, alone: Result
) -> None:
    the_same(fast.run(*placed, _job(job, in_flight=in_flight)), alone)


@pytest.mark.parametrize("name", ENGINES)
def test_the_chips_choose_the_words_that_the_host_would_choose(
    name: str, choosing: Placed, placed: Placed, job: Job, system: SystemSpec, tmp_path: Path
) -> None:
    """Also from a state in the middle of the run, of this engine on fast and of fast on this one;
    the counts are those of the reference."""
    asked = replace(job, sampling=Sampling(), keep_logits=False)
    on_host = fast.run(*placed, asked)
    alone = reference.run(*choosing, replace(asked, in_flight=1))
    run, quick = (engine(one, choosing, system, tmp_path) for one in (name, "fast"))
    found: dict[str, list[RunState]] = {}
    for who, one in (("run", run), ("quick", quick)):
        found[who] = []
        whole = one(asked, Saving(61, found[who].append))
        the_same(whole, alone)
        for some, other in zip(whole.outcomes, on_host.outcomes, strict=True):
            assert some.chosen.tolist() == other.chosen.tolist()
    assert len(found["run"]) > 2
    the_same(quick(asked, Saving(0, print, found["run"][1])), alone)
    the_same(run(asked, Saving(0, print, found["quick"][1])), alone)


def states_of(run: Run, job: Job, every: int) -> tuple[list[RunState], Result]:
    """The states that a run writes, and what comes of it."""
    states: list[RunState] = []
    return states, run(_job(job, keep_logits=False), Saving(every, states.append))


@pytest.mark.parametrize("name", ENGINES)
def test_a_run_that_was_stopped_goes_on(
    name: str, placed: Placed, job: Job, alone: Result, system: SystemSpec, tmp_path: Path
) -> None:
    """From the states of the fast engine on another one, and from those of that one on the fast
    engine, which writes the rest of its states as if it had never been stopped."""
    run, quick = (engine(one, placed, system, tmp_path) for one in (name, "fast"))
    states, whole = states_of(quick, job, 37)
    the_same(whole, alone, logits=False)
    assert [state.fed for state in states] == [37 * (k + 1) for k in range(len(states))]
    middle = states[len(states) // 2]
    assert sum(stand.slot >= 0 for stand in middle.stands) > 2
    assert sum(stand.slot < 0 < stand.fed for stand in middle.stands) > 0
    the_same(run(_job(job, keep_logits=False), Saving(0, print, middle)), alone, logits=False)
    own, whole = states_of(run, job, 101)
    the_same(whole, alone, logits=False)
    assert len(own) > 1
    for state in own:
        rest = quick(_job(job, keep_logits=False), Saving(0, print, state))
        the_same(rest, alone, logits=False)


def test_a_run_goes_on_with_fewer_under_way(placed: Placed, job: Job, alone: Result) -> None:
    states, _ = states_of(lambda job, saving: fast.run(*placed, job, silent, saving), job, 60)
    for state, in_flight in zip(states, (1, 3), strict=False):
        few = _job(job, in_flight=in_flight, keep_logits=False)
        the_same(fast.run(*placed, few, silent, Saving(0, print, state)), alone, logits=False)


@NEEDS_EMULATOR
def test_tokens_of_several_sequences_follow_each_other_in_the_machine(
    placed: Placed, job: Job, alone: Result, system: SystemSpec, tmp_path: Path
) -> None:
    """Step by step and without a barrier: a token of each sequence in turn enters the machine, and
    when a sequence has ended, the next one takes its slot."""
    graph, mapping = placed
    write_image(graph, mapping, system, "0" * 64, tmp_path / "model.image")
    machine = Emulator(emulated.OpenedImage(tmp_path / "model.image").image)
    fed = [
        np.concatenate([asked.tokens, outcome.chosen])[: len(outcome.logits)]
        for asked, outcome in zip(job.sequences, alone.outcomes, strict=True)
    ]
    seats, waiting, order = dict.fromkeys(range(IN_FLIGHT), (-1, 0)), list(range(len(fed))), []
    while waiting or any(number >= 0 for number, _ in seats.values()):
        for slot, (number, position) in seats.items():
            if number < 0 or position == len(fed[number]):
                number, position = (waiting.pop(0), 0) if waiting else (-1, 0)
            if number >= 0:
                order.append((number, position, slot))
                position += 1
            seats[slot] = number, position
    tokens = [int(fed[number][position]) for number, position, _ in order]
    marks = [2 * (slot + 1) + (position == 0) for _, position, slot in order]
    assert any(a[0] != b[0] for a, b in pairwise(order))
    expected = [alone.outcomes[number].logits[position] for number, position, _ in order]
    for found in (
        machine.prefill(tokens, marks),
        machine.asynchronous(tokens, 5, marks),
        [machine.generate(token, mark) for token, mark in zip(tokens, marks, strict=True)],
    ):
        assert np.array_equal(found, expected)
