"""The MPI engine: the bits of the reference wherever the chips lie, and an end for every run that
is disturbed."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import EngineError, InputError, printable
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.nodes import Gain, Graph, InverseRms, Norm, Quantise, QuantScale, block_of
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.pipeline import engines, opened
from mmfree_neuro.pipeline.simulate import Task
from mmfree_neuro.pipeline.simulate import simulate as simulate_file
from mmfree_neuro.run import reference, run_file, state_file
from mmfree_neuro.run.job import Job, Result, RunState, Saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_partition.route import route
from mmfree_sims import fast
from mmfree_sims.mpi import launcher, ranks

pytestmark = pytest.mark.mpi

TIMEOUT_S = 60
SOON_S = 5
ENDLESS = 1_000_000
"""New tokens of a run that does not end by itself."""
BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec") or "mpiexec"
PYTHON = sys.executable, "-W", "error"
COMMAND = *PYTHON, "-m", "mmfree_neuro"
STATE = "state.safetensors"
MEMORY = *ranks.MPI_MEMORY, "ucx_"


GRAPHS = {
    "2-a16": ("two-blocks", "a16"),
    "3-a8": ("three-blocks", "a8"),
    "2-wraps": ("two-blocks", "wraps"),
    "1-late": ("two-blocks", "a14-late"),
    "1-local": ("two-blocks", "a14-local"),
}
TOKENS = np.random.default_rng(3).integers(0, 256, (2, 20))
JOBS = Job(TOKENS[:, :4], 3, Sampling(0.8, seed=4)), Job(TOKENS[:1])
SEVERAL = Job(
    [TOKENS[0, :4], TOKENS[1, :11], TOKENS[1, 11:13], TOKENS[0, 4:9]],
    [3, 0, 6, 1],
    [Sampling(0.8, seed=seed) for seed in range(4)],
    in_flight=3,
)
"""For the mappings with several sequences in flight."""
GREEDY = replace(SEVERAL, sampling=Sampling(), keep_logits=False)
"""For those of them that choose words themselves."""


PARTS = (("layers.0.mlgru", 2), ("layers.1.down_proj", 5), ("head", 3))


def with_head_on_host(graph: Graph, mapping: Mapping) -> Mapping:
    """The mapping with all nodes behind the last block on the host, and each norm on two more
    chips."""
    shards = list(mapping.shards)
    places = [
        place if block_of(shard.node) is not None else Location(HOST, 0)
        for shard, place in zip(shards, mapping.locations, strict=True)
    ]
    for node in graph.nodes:
        if (
            isinstance(node, InverseRms | Norm | Gain | QuantScale | Quantise)
            and block_of(node.name) is not None
        ):
            shards += [Shard(node.name, 0, node.size)] * 2
            places += [Location(0, 0), Location(2, 0)]
    routes = route(graph, tuple(shards), tuple(places))
    return replace(mapping, shards=tuple(shards), locations=tuple(places), routes=routes)


KINDS = ("chain", "random", "block-per-chip", "divided")
FOR_SEVERAL = ("several", "greedy")
MAPS = tuple(
    f"{name}-{kind}"
    for name in GRAPHS
    for kind in (*KINDS, *(FOR_SEVERAL if name in ("2-a16", "3-a8") else ()))
)
"""The names of mapping files: a graph, and how it is mapped."""


@pytest.fixture(scope="module")
def make_map(
    tmp_path_factory: pytest.TempPathFactory,
    make_mapping: Callable[..., Mapping],
    roomy: SystemSpec,
    random_graph: Callable[[str, str], Graph],
) -> Callable[[str], Path]:
    """The function that gives the mapping file of a name of MAPS; beside it lies what the reference
    makes of JOBS on it.

    Those that are divided, by columns, have the head on the host and copies of norms.  Those for
    several sequences in flight begin with such a job, and those that choose words have no other.
    """
    folder = tmp_path_factory.mktemp("maps")

    @cache
    def stored(name: str) -> tuple[Path, Graph, str]:
        path = folder / f"{name}.graph"
        graph_file.save_graph(random_graph(*GRAPHS[name]), path)
        return path, *graph_file.load_graph(path)

    @cache
    def make(name: str) -> Path:
        kind = next(kind for kind in (*KINDS, *FOR_SEVERAL) if name.endswith(f"-{kind}"))
        graph_path, graph, digest = stored(name.removesuffix(f"-{kind}"))
        columns = evenly(graph, PARTS)
        one = graph if kind in KINDS else with_slots(graph, SEVERAL.in_flight)
        if kind == "divided":
            one = by_columns(graph, columns)
        elif kind == "greedy":
            one = with_greedy(one)
        mapping = make_mapping(one, "random" if one is not graph else kind)
        mapping = replace(mapping, graph=digest, in_flight=one.slots, greedy_on_chips=one.greedy)
        if kind == "divided":
            mapping = replace(with_head_on_host(one, mapping), columns=columns)
        assert len(mapping.chips) >= 3
        path = folder / f"{name}.map"
        mapping_file.save_mapping(mapping_file.StoredMapping(mapping, roomy, graph_path), path)
        jobs = {"several": (SEVERAL, *JOBS), "greedy": (GREEDY,)}.get(kind, JOBS)
        expected = [(job, reference.run(one, mapping, job)) for job in jobs]
        for job, result in expected:
            same(fast.run(one, mapping, job), result)
        path.with_suffix(".expected").write_bytes(pickle.dumps(expected))
        return path

    return make


def same(result: Result, expected: Result) -> None:
    for one, other in zip(result.outcomes, expected.outcomes, strict=True):
        assert np.array_equal(one.logits, other.logits)
        assert np.array_equal(one.chosen, other.chosen)
        assert (one.prefill, one.generate) == (other.prefill, other.generate)


@pytest.fixture(scope="module")
def path(make_map: Callable[[str], Path]) -> Path:
    """A mapping file with three chips."""
    return make_map("2-a16-chain")


Launch = Callable[..., Any]


def mpi_memory() -> Callable[[object], list[str]]:
    """The function that lists what MPI has laid into shared memory from now on and no living
    process holds."""
    before = set(os.listdir("/dev/shm"))

    def left(_launched: object) -> list[str]:
        new = {name for name in set(os.listdir("/dev/shm")) - before if name.startswith(MEMORY)}
        held = "".join(
            _read(entry / "maps")
            for entry in Path("/proc").iterdir()
            if new and entry.name.isdigit()
        )
        return sorted(name for name in new if name not in held)

    return left


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def launched(launch: Launch) -> Launch:
    """The function that starts a command, with MPI's shared memory watched."""
    return partial(launch, left_in_memory=mpi_memory())


@pytest.fixture
def run_on(launched: Launch) -> Callable[..., tuple[int, str, str]]:
    """The function that runs a command under mpiexec to its end, which leaves nothing behind."""

    def run(ranks: int, *command: str | Path) -> tuple[int, str, str]:
        with launched(MPIEXEC, "-n", str(ranks), *command) as running:
            ended = running.end()
            running.assert_nothing_left()
        found: tuple[int, str, str] = ended
        return found

    return run


def program(folder: Path, text: str) -> Path:
    script = folder / "program.py"
    script.write_text(dedent(text))
    return script


def simulate(
    path: Path, output: Path, *more: str, prompt: str = "ab", new_tokens: int = 24
) -> tuple[str, ...]:
    what = (
        "simulate",
        str(path),
        "--prompt",
        prompt,
        "--new-tokens",
        str(new_tokens),
        "--ignore-eos",
        "--engine",
        "mpi",
    )
    return *what, "-o", str(output), *more


def outcome(folder: Path) -> tuple[object, ...]:
    """What a run gave, less the time it took."""
    run = run_file.load_run(folder)
    return run.prefill, run.generate, run.only.new_tokens, run.only.text


def unbroken(path: Path, output: Path, new_tokens: int) -> tuple[object, ...]:
    """What a run of the fast engine gives that never stops."""
    simulate_file(path, [Task("ab", new_tokens, ignore_eos=True)], "fast", output)
    return outcome(output)


# Bits and counts

COMPARE = """
    import pickle
    import sys
    from pathlib import Path

    import numpy as np

    from mmfree_neuro.pipeline import opened
    from mmfree_neuro.errors import Served
    from mmfree_sims.mpi import engine as mpi
    from mmfree_sims.mpi import rank, ranks

    size = ranks.world().Get_size()


    def placements(graph, mapping):
        chips, random = len(mapping.chips), np.random.default_rng(len(mapping.shards))
        yield None
        yield (0,) * chips
        yield (size - 1,) * chips
        yield ranks.by_weight(graph, mapping, size)[::-1]
        yield tuple(random.integers(0, size, chips).tolist())
        if size > 1:
            yield tuple(random.integers(1, size, chips).tolist())


    for path in map(Path, sys.argv[1:]):
        graph, stored = opened.open_mapped(path)
        jobs = pickle.loads(path.with_suffix(".expected").read_bytes())
        for number, placement in enumerate(placements(graph, stored.mapping)):
            for job, expected in jobs if number < 3 else jobs[:1]:
                rank.MOST_VALUES = 37 if number % 2 else 1 << 28  # packets in many messages, too
                try:
                    found = mpi.run(graph, stored.mapping, job, ranks_of_chips=placement)
                except Served:
                    assert ranks.is_worker()
                    continue
                who = path.name, placement
                for one, other in zip(found.outcomes, expected.outcomes, strict=True):
                    assert one.logits.dtype == other.logits.dtype == np.int64, who
                    assert np.array_equal(one.logits, other.logits), who
                    assert np.array_equal(one.chosen, other.chosen), who
                    assert (one.prefill, one.generate) == (other.prefill, other.generate), who
                assert set(found.seconds) == {"start", "prefill", "generate"}, who
        if not ranks.is_worker():
            print(path.name)
"""


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_placement_gives_the_bits_of_the_reference(
    ranks: int,
    make_map: Callable[[str], Path],
    tmp_path: Path,
    run_on: Callable[..., tuple[int, str, str]],
) -> None:
    """Default, all on one rank, reversed, at random, rank 0 without chips; 2 to 3 blocks, 2
    schemes, 3 mappings."""
    script = program(tmp_path, COMPARE)
    status, out, err = run_on(ranks, *PYTHON, "-m", "mpi4py", script, *map(make_map, MAPS))
    assert (status, err) == (0, "")
    assert out.split() == [f"{name}.map" for name in MAPS]


def test_every_payload_travels_once_to_each_rank_that_reads_it(
    make_map: Callable[[str], Path], tmp_path: Path, run_on: Callable[..., tuple[int, str, str]]
) -> None:
    script = program(
        tmp_path,
        """
        import sys
        from pathlib import Path

        import numpy as np

        from mmfree_neuro.pipeline import opened
        from mmfree_neuro.run.job import Job, Result, RunState, Saving, silent
        from mmfree_sims.mpi import engine as mpi
        from mmfree_sims.mpi import ranks
        from mmfree_sims.tiles.packets import HEADER, LABEL
        from mmfree_sims.tiles.plan import Plan

        graph, stored = opened.open_mapped(Path(sys.argv[1]))
        comm, told = ranks.world(), []
        job = Job(np.arange(12).reshape(2, 6), 3)
        result, traffic = mpi.serve(graph, stored.mapping, job, lambda *what: told.append(what))
        everywhere = comm.gather(traffic, root=0)
        if result is not None:
            rank_of = dict(zip(stored.mapping.chips, ranks.by_weight(graph, stored.mapping, 3)))
            plan = Plan(graph, stored.mapping, lambda place: rank_of.get(place.chip, place.chip))
            crossings = 0  # rank 0 has the host
            for stretch in plan.stretches:
                readers = {max(tile, 0) for tile in plan.abroad[stretch.number]}
                readers -= {max(stretch.tile, 0)}
                crossings += (LABEL + plan.words(stretch)) * len(readers)
            messages = sum(traffic.messages for traffic in everywhere)
            values = sum(traffic.values for traffic in everywhere)
            assert values == 2 * 8 * crossings + HEADER * messages
            last = int(result.chosen[-1, -1])
            assert told[-1] == ("generate", 6, 6, (last,)) and ("prefill", 12, 12, ()) in told
            print("compared")
        else:
            assert told == []
        """,
    )
    status, out, err = run_on(3, *PYTHON, "-m", "mpi4py", script, make_map("3-a8-random"))
    assert (status, out, err) == (0, "compared\n", "")


SAVING = """
    import pickle
    import sys
    from pathlib import Path

    from mmfree_neuro.pipeline import opened
    from mmfree_neuro.errors import Served
    from mmfree_neuro.run.job import Saving, silent
    from mmfree_sims.mpi import engine as mpi
    from mmfree_sims.mpi import ranks

    graph, stored = opened.open_mapped(Path(sys.argv[1]))
    asked = Path(sys.argv[2])
    job, starts = pickle.loads(asked.read_bytes())
    found = []
    for every, resumed in starts:
        states = []
        # rank 0 tells the others
        saving = Saving(0, None) if ranks.is_worker() else Saving(every, states.append, resumed)
        try:
            found.append((mpi.run(graph, stored.mapping, job, silent, saving), states))
        except Served:
            assert not states
    if not ranks.is_worker():
        asked.with_suffix(".found").write_bytes(pickle.dumps(found))
"""


@pytest.mark.parametrize(
    "name",
    [
        "2-a16-random",
        "3-a8-block-per-chip",
        "3-a8-divided",
        "2-wraps-divided",
        "1-late-divided",
        "1-local-divided",
        "2-a16-several",
    ],
)
def test_states_are_saved_and_resumed_across_engines(
    name: str,
    make_map: Callable[[str], Path],
    tmp_path: Path,
    run_on: Callable[..., tuple[int, str, str]],
) -> None:
    """Every state of MPI is that of fast and of the reference, and each goes on from the states of
    the others."""
    job = Job(np.arange(1, 12)[None], 9, Sampling(0.8, seed=4), keep_logits=False)
    graph, stored = opened.open_mapped(make_map(name))

    def states_of(
        engine: engines.Engine, every: int, resumed: RunState | None = None
    ) -> tuple[Result, list]:
        states: list[RunState] = []
        return engine(
            graph, stored.mapping, job, silent, Saving(every, states.append, resumed)
        ), states

    expected, slow = states_of(reference.run, 4)
    _, often = states_of(fast.run, 1)
    starts = [(4, None), (1, None), *((4, state) for state in slow)]
    (tmp_path / "asked").write_bytes(pickle.dumps((job, starts)))
    script = program(tmp_path, SAVING)
    assert run_on(3, *PYTHON, "-m", "mpi4py", script, make_map(name), tmp_path / "asked") == (
        0,
        "",
        "",
    )
    found = pickle.loads((tmp_path / "asked.found").read_bytes())
    assert [state.fed for state in slow] == [4, 8, 12, 16]
    for (result, states), others in zip(
        found, [slow, often, slow[1:], slow[2:], slow[3:], []], strict=True
    ):
        same(result, expected)
        assert len(states) == len(others)
        for state, other in zip(states, others, strict=True):
            for one, two in zip(state.stands, other.stands, strict=True):
                assert (one.slot, one.fed) == (two.slot, two.fed)
                assert one.chosen.tolist() == two.chosen.tolist()
                assert (one.prefill, one.generate) == (two.prefill, two.generate)
            assert state.states.keys() == other.states.keys()
            assert all(
                np.array_equal(values, other.states[node]) for node, values in state.states.items()
            )
    for state in found[0][1]:
        same(states_of(fast.run, 4, state)[0], expected)
    same(states_of(reference.run, 4, found[0][1][1])[0], expected)


def test_several_sequences_are_saved_and_resumed_across_engines(
    make_map: Callable[[str], Path], tmp_path: Path, run_on: Callable[..., tuple[int, str, str]]
) -> None:
    """Engines feed sequences that are under way at once in orders of their own; whoever wrote a
    state, what comes in the end is the same."""
    path, job = make_map("3-a8-several"), replace(SEVERAL, keep_logits=False)
    graph, stored = opened.open_mapped(path)
    theirs: list[RunState] = []
    expected = fast.run(graph, stored.mapping, job, silent, Saving(5, theirs.append))
    starts = [(5, None), *((5, state) for state in theirs)]
    (tmp_path / "asked").write_bytes(pickle.dumps((job, starts)))
    script = program(tmp_path, SAVING)
    assert run_on(3, *PYTHON, "-m", "mpi4py", script, path, tmp_path / "asked") == (0, "", "")
    found = pickle.loads((tmp_path / "asked.found").read_bytes())
    assert [state.fed for state in theirs] == [5, 10, 15, 20, 25]
    for (result, states), begun in zip(found, [0, 5, 10, 15, 20, 25], strict=True):
        same(result, expected)
        assert [state.fed for state in states] == [*range(begun + 5, 26, 5)]
        for state in states:
            same(fast.run(graph, stored.mapping, job, silent, Saving(0, print, state)), expected)


def test_chips_lie_on_ranks_by_their_synapses(hand_graph: Graph) -> None:
    """Rows of three synapses: six rows on chip 0, one on chip 3, one on chip 5; a chip lies where
    its middle does."""
    head = replace(
        hand_graph.nodes[1],
        size=8,
        inputs=(replace(hand_graph.nodes[1].inputs[0], matrix=pack(np.ones((8, 3), np.int8))),),
    )
    graph = replace(hand_graph, nodes=(hand_graph.nodes[0], head))
    shards = Shard("embedding", 0, 3), Shard("head", 0, 6), Shard("head", 6, 7), Shard("head", 7, 8)
    places = Location(HOST, 0), Location(0, 0), Location(3, 0), Location(5, 0)
    mapping = Mapping("", "kapoho-point", "hand", shards, places, ())
    assert ranks.by_weight(graph, mapping, 1) == (0, 0, 0)
    assert ranks.by_weight(graph, mapping, 2) == (
        0,
        1,
        1,
    )  # 9 / 24, 19.5 / 24 and 22.5 / 24 of the synapses
    assert ranks.by_weight(graph, mapping, 3) == (1, 2, 2)
    assert ranks.by_weight(graph, mapping, 8) == (3, 6, 7)
    swapped = replace(mapping, locations=(places[0], places[2], places[1], places[3]))
    assert ranks.by_weight(graph, swapped, 4) == (0, 2, 3)  # 1.5 / 24, 12 / 24 and 22.5 / 24


def test_a_placement_gives_every_chip_one_of_the_ranks(hand_mapping: Mapping) -> None:
    places = (*hand_mapping.locations[:2], Location(4, 1))
    mapping = replace(hand_mapping, locations=places)
    ranks.check_ranks([1, 0], mapping, 2)
    ranks.check_ranks([0, 0], mapping, 1)
    for placement, size, message in (
        ((0,), 1, "1 ranks are named for the chips, must be one for each of 2 chips"),
        ((0, 1, 0), 2, "3 ranks are named for the chips, must be one for each of 2 chips"),
        ((0, 2), 2, "rank 2 is named for a chip, must be 0 … 1"),
        ((-1, 0), 4, "rank -1 is named for a chip, must be 0 … 3"),
    ):
        with pytest.raises(InputError) as caught:
            ranks.check_ranks(placement, mapping, size)
        assert str(caught.value) == message


# The command line


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.smoke), 4])
def test_one_run_is_written_and_told_once(
    ranks: int, path: Path, tmp_path: Path, run_on: Callable[..., tuple[int, str, str]]
) -> None:
    run = tmp_path / "run"
    status, out, err = run_on(ranks, *COMMAND, *simulate(path, run, "--save-every", "5"))
    assert (status, err) == (0, "")
    assert [path.name for path in run.iterdir()] == ["run.json"]
    assert out.startswith(f"ab{printable(run_file.load_run(run).only.text)}\n\nmpi: started in ")
    assert out.count("mpi: started in ") == 1
    assert outcome(run) == unbroken(path, tmp_path / "fast", 24)


def test_one_rank_needs_no_mpiexec(path: Path, tmp_path: Path, launched: Launch) -> None:
    with launched(*COMMAND, *simulate(path, tmp_path / "run")) as running:
        status, out, err = running.end()
        running.assert_nothing_left()
    assert (status, err, out.count("mpi: started in ")) == (0, "", 1)
    assert outcome(tmp_path / "run") == unbroken(path, tmp_path / "fast", 24)


def test_one_rank_outlives_the_shell_that_started_it(
    path: Path, tmp_path: Path, launched: Launch
) -> None:
    """As a run does that is started in the background before one logs out."""
    words = simulate(path, tmp_path / "run", new_tokens=2000)
    with launched("sh", "-c", '"$@" & sleep 1', "sh", *COMMAND, *words) as running:
        status, _, err = running.end()
        running.assert_nothing_left()
    assert (status, err) == (0, "")
    assert outcome(tmp_path / "run") == unbroken(path, tmp_path / "fast", 2000)


def test_logits_are_those_of_the_fast_engine(
    path: Path, tmp_path: Path, run_on: Callable[..., tuple[int, str, str]]
) -> None:
    np.save(tmp_path / "tokens.npy", TOKENS)

    def what(engine: str) -> list[str]:
        (tmp_path / engine).mkdir()
        files = [str(tmp_path / engine / name) for name in ("logits.npy", "nats.npy", "chosen.npy")]
        return [
            "logits",
            str(path),
            "--tokens",
            str(tmp_path / "tokens.npy"),
            "--engine",
            engine,
            "--raw",
            "-o",
            files[0],
            "--nats",
            files[1],
            "--chosen",
            files[2],
            "--new-tokens",
            "5",
        ]

    names = "logits.npy", "nats.npy", "chosen.npy"
    status, out, err = run_on(2, *COMMAND, *what("mpi"), "--ranks", "1,0,1")
    assert (status, err) == (0, "")
    written = ", ".join(str(tmp_path / "mpi" / name) for name in names)
    assert out == f"wrote {written}, by engine mpi\n"
    assert main(what("fast")) == 0
    for name in names:
        assert (tmp_path / "mpi" / name).read_bytes() == (tmp_path / "fast" / name).read_bytes()


# Wrong input: in words, {rank} is the rank of the process that gets them.

BY_RANK = """
    import os
    import sys

    from mmfree_neuro.cli.main import main

    sys.exit(main([word.replace("{rank}", os.environ["PMI_RANK"]) for word in sys.argv[1:]]))
"""
WRONG = {
    "no file": (["{missing}"], [], "{missing}: no such file, must be a mapping file"),
    "no file on rank 1": (
        ["{folder}/{rank}.map"],
        [],
        "{folder}/1.map: no such file, must be a mapping file",
    ),
    "no ranks": ([], ["--ranks", "first"], "the ranks are 'first', must be such as 0,0,1,1"),
    "too few": (
        [],
        ["--ranks", "0,1"],
        "2 ranks are named for the chips, must be one for each of 3 chips",
    ),
    "no such rank": ([], ["--ranks", "0,1,2"], "rank 2 is named for a chip, must be 0 … 1"),
    "negative": ([], ["--ranks=0,-1,1"], "rank -1 is named for a chip, must be 0 … 1"),
    "other placement": (
        [],
        ["--ranks", "0,{rank},1"],
        "rank 1 was given other chips, another mapping or job than rank 0, must be the same",
    ),
    "other prompt": (
        [],
        ["--prompt", "{rank}"],
        "rank 1 was given other chips, another mapping or job than rank 0, must be the same",
    ),
    "other length": (
        [],
        ["--new-tokens", "2{rank}"],
        "rank 1 was given other chips, another mapping or job than rank 0, must be the same",
    ),
    "a folder of a checkpoint": (
        [],
        ["-o", "{folder}"],
        "{folder}: holds a checkpoint, must be another folder",
    ),
    "nothing to resume": (
        [],
        ["--resume"],
        "{folder}/run: holds no state of an unfinished run, must be run without --resume",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_of_all_ranks(
    name: str, path: Path, tmp_path: Path, run_on: Callable[..., tuple[int, str, str]]
) -> None:
    source, more, message = WRONG[name]
    mapping_file.save_mapping(mapping_file.load_mapping(path), tmp_path / "0.map")

    def filled(text: str) -> str:
        return text.replace("{folder}", str(tmp_path)).replace(
            "{missing}", str(tmp_path / "missing.map")
        )

    script = program(tmp_path, BY_RANK)
    words = simulate(
        Path(*map(filled, source)) if source else path, tmp_path / "run", *map(filled, more)
    )
    if name == "a folder of a checkpoint":
        (tmp_path / "config.json").write_text("{}")
    status, out, err = run_on(2, *PYTHON, script, *words)
    assert err == f"mmfree-neuro: {filled(message)}\n"
    assert (status, out) == (2, "")
    assert not (tmp_path / "run").exists()


def test_only_the_mpi_engine_has_ranks(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for engine in ("reference", "fast", "lava"):
        words = *simulate(path, tmp_path / "run", "--ranks", "0,0,0"), "--engine", engine
        assert main(words) == 2
        assert capsys.readouterr().err == (
            f"mmfree-neuro: engine {engine} has no ranks, must be mpi to place chips on them\n"
        )


def test_without_mpi4py(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ranks, "MPI", None)
    with pytest.raises(EngineError) as caught:
        ranks.world()
    needs = "the MPI engine needs mpi4py and an MPI library, such as: pip install mpi4py mpich"
    assert str(caught.value) == needs
    assert main(simulate(path, tmp_path / "run")) == 2
    assert capsys.readouterr().err == f"mmfree-neuro: {needs}\n"


# Bugs, and ends that come from outside

PATCHED = """
    import os
    import signal
    import sys

    from mmfree_neuro.cli.main import main
    from mmfree_neuro.pipeline import opened
    from mmfree_sims.mpi import ranks
    from mmfree_sims.tiles import tile

    rank = ranks.world().Get_rank()
    {patch}
    sys.exit(main(sys.argv[1:]))
"""
FAILING_TILE = """
    take = tile.Tile.take


    def failing(self, packets, send):
        packets = list(packets)
        if rank == {rank} and any(packet.labels[-1, 1] >= 9 for packet in packets):
            raise ValueError("the ninth token is cursed")
        take(self, packets, send)


    tile.Tile.take = failing
"""
UNBUILT_TILE = """
    build = tile.Tile.__init__


    def failing(self, *what):
        if rank == {rank}:
            raise ValueError("the ninth token is cursed")
        build(self, *what)


    tile.Tile.__init__ = failing
"""


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    "patch", [FAILING_TILE, UNBUILT_TILE], ids=["a tile at work", "a tile that is built"]
)
def test_a_bug_on_one_rank(
    patch: str, rank: int, path: Path, tmp_path: Path, run_on: Callable[..., tuple[int, str, str]]
) -> None:
    script = program(tmp_path, patched(patch.replace("{rank}", str(rank))))
    words = simulate(path, tmp_path / "run", new_tokens=ENDLESS)
    begin = time.monotonic()
    status, out, err = run_on(3, *PYTHON, script, *words)
    assert time.monotonic() - begin < SOON_S
    lines = err.splitlines()
    assert lines[:2] == [f"mmfree-neuro: rank {rank} failed", "Traceback (most recent call last):"]
    assert "ValueError: the ninth token is cursed" in lines
    assert "in failing" in err
    assert status != 0 and out == ""


def patched(patch: str) -> str:
    return dedent(PATCHED).replace("{patch}", dedent(patch))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_bug_before_the_run(
    rank: int, path: Path, tmp_path: Path, run_on: Callable[..., tuple[int, str, str]]
) -> None:
    patch = f"""
        def failing(path):
            raise ValueError("the file is cursed")

        if rank == {rank}:
            opened.open_mapped = failing
    """
    begin = time.monotonic()
    words = simulate(path, tmp_path / "run", new_tokens=ENDLESS)
    status, out, err = run_on(3, *PYTHON, program(tmp_path, patched(patch)), *words)
    assert time.monotonic() - begin < SOON_S
    assert err.splitlines()[0] == "Traceback (most recent call last):"
    assert "ValueError: the file is cursed" in err.splitlines()
    assert status != 0 and out == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_before_the_run(rank: int, path: Path, tmp_path: Path, launched: Launch) -> None:
    """The others must not wait for a rank that has gone."""
    patch = f"""
        load = opened.open_mapped


        def interrupted(path):
            os.kill(os.getpid(), signal.SIGTERM)
            return load(path)


        if rank == {rank}:
            opened.open_mapped = interrupted
    """
    words = simulate(path, tmp_path / "run", new_tokens=ENDLESS)
    with launched(
        MPIEXEC, "-n", "3", *PYTHON, program(tmp_path, patched(patch)), *words
    ) as running:
        status, out, _ = running.end(SOON_S)
        running.assert_nothing_left()
    assert status != 0 and out == ""


def kill_rank(running: Any, rank: int) -> None:
    os.kill(running.process_of(rank), signal.SIGKILL)


def end_rank(running: Any, rank: int) -> None:
    os.kill(running.process_of(rank), signal.SIGTERM)


def end_worker_twice(running: Any) -> None:
    worker = running.process_of(1)
    os.kill(worker, signal.SIGTERM)
    time.sleep(0.2)
    os.kill(worker, signal.SIGTERM)


HINT = (
    "mmfree-neuro: interrupted; the state after {fed} tokens is in {run}, --resume goes on "
    "from there"
)
DISTURBED: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "a worker is killed": (lambda run: kill_rank(run, 2), "", "mpi"),
    "rank 0 is killed": (lambda run: kill_rank(run, 0), "", "fast"),
    "mpiexec is killed": (lambda run: run.process.kill(), "", "mpi"),
    "Ctrl-C": (lambda run: os.killpg(run.process.pid, signal.SIGINT), HINT, "fast"),
    "rank 0 is to end": (lambda run: end_rank(run, 0), HINT, "mpi"),
    "a worker is to end": (lambda run: end_rank(run, 1), "", "fast"),
    "a worker is to end, again": (end_worker_twice, "", "fast"),
    "all are to end": (lambda run: os.killpg(run.process.pid, signal.SIGTERM), HINT, "reference"),
}


MUTE = {"all are to end"}
"""Where mpiexec ends too, at times before all that rank 0 says has passed through it."""


@pytest.mark.parametrize("name", DISTURBED)
def test_a_run_that_is_disturbed_ends_and_is_resumed(
    name: str,
    path: Path,
    tmp_path: Path,
    launched: Launch,
    resume: Callable[[str, tuple[str, ...]], None],
) -> None:
    run, (disturb, hint, engine) = tmp_path / "run", DISTURBED[name]
    words = simulate(path, run, "--save-every", "32", new_tokens=ENDLESS)
    with launched(MPIEXEC, "-n", "3", *COMMAND, *words) as running:
        wait_until((run / STATE).is_file)
        disturb(running)
        status, out, err = running.end(SOON_S)
        running.assert_nothing_left()
    graph, stored = opened.open_mapped(path)
    job = Job(np.array([[0, *b"ab"]]))
    state = state_file.load_state(run, graph, stored.mapping, job)
    assert state.fed % 32 == 0
    said = hint.format(fed=state.fed, run=run)
    assert err.startswith(said) or (name in MUTE and said.startswith(err))
    assert status != 0 and "mpi: started" not in out
    resume(engine, simulate(path, run, "--resume", new_tokens=state.fed + 40))
    assert outcome(run) == unbroken(path, tmp_path / "unbroken", state.fed + 40)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def resume(run_on: Callable[..., tuple[int, str, str]]) -> Callable[[str, tuple[str, ...]], None]:
    """The function that goes on from the state in a run's folder, by MPI on two ranks."""

    def go_on(engine: str, words: tuple[str, ...]) -> None:
        if engine == "mpi":
            status, _, err = run_on(2, *COMMAND, *words)
            assert (status, err) == (0, "")
        else:
            assert main([*words, "--engine", engine]) == 0

    return go_on


def test_a_run_that_is_killed_while_it_saves_is_resumed(
    path: Path,
    tmp_path: Path,
    run_on: Callable[..., tuple[int, str, str]],
    resume: Callable[[str, tuple[str, ...]], None],
) -> None:
    """The third state is written beside the second when rank 0 dies, and has not yet taken its
    place."""
    patch = """
        replaced, move = [], os.replace


        def killed(*names):
            replaced.append(names)
            if len(replaced) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            move(*names)


        if rank == 0:
            os.replace = killed
    """
    run = tmp_path / "run"
    words = simulate(path, run, "--save-every", "8", new_tokens=48)
    status, _, _ = run_on(2, *PYTHON, program(tmp_path, patched(patch)), *words)
    assert status != 0
    assert STATE in [path.name for path in run.iterdir()]
    resume("mpi", (*words, "--resume"))
    assert outcome(run) == unbroken(path, tmp_path / "unbroken", 48)


# Too little memory, and ranks that are silent


@pytest.fixture
def apart(launched: Launch, namespace: Callable[[str], tuple[str, ...]]) -> Callable[..., Any]:
    """The function that starts a command with a /dev/shm and a temporary folder of its own."""
    return lambda options, *command: launched(*namespace(options), *command)


@pytest.mark.parametrize(
    ("options", "ranks", "message"),
    [
        ("size=16m", 1, "has 16.0 MiB free, must have 22 MiB free for the MPI engine on 1 rank"),
        ("size=16m", 3, "has 16.0 MiB free, must have 34 MiB free for the MPI engine on 3 ranks"),
        ("size=64k", 2, "has 0.1 MiB free, must have 28 MiB free for the MPI engine on 2 ranks"),
        ("ro", 2, "cannot be written, must have 28 MiB free for the MPI engine on 2 ranks"),
    ],
)
def test_too_little_shared_memory(
    options: str, ranks: int, message: str, path: Path, tmp_path: Path, apart: Callable[..., Any]
) -> None:
    """MPICH would end by a segmentation fault, and say nothing of the kind."""
    words = simulate(path, tmp_path / "run")
    with apart(options, MPIEXEC, "-n", str(ranks), *COMMAND, *words) as running:
        status, out, err = running.end()
        running.assert_nothing_left()
    assert err == f"mmfree-neuro: /dev/shm: {message}\n"
    assert (status, out) == (2, "")


def test_without_shared_memory(tmp_path: Path) -> None:
    assert launcher.shortage(tmp_path / "shm") == (
        f"{tmp_path / 'shm'}: not readable (No such file or directory), must have 22 MiB free for "
        "the MPI engine on 1 rank"
    )


def test_too_few_descriptors(path: Path, tmp_path: Path, launched: Launch) -> None:
    """Where even mpiexec has just enough."""
    limit = 20
    program = "sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *COMMAND
    with launched(*program, *simulate(path, tmp_path / "run")) as running:
        status, out, err = running.end()
        running.assert_nothing_left()
    found = re.fullmatch(
        r"mmfree-neuro: the MPI engine needs (\d+) file descriptors for a rank, the limit is 20, "
        r"must be at least (\d+) \(ulimit -n (\d+)\)\n",
        err,
    )
    assert found is not None and 20 < int(found[1]) == int(found[2]) == int(found[3]) < 40
    assert (status, out) == (2, "")


def test_a_run_that_is_killed_as_a_whole_leaves_no_file(
    path: Path, tmp_path: Path, apart: Callable[..., Any]
) -> None:
    """Neither in shared memory nor in the temporary folder, though nobody is left to remove it."""
    run = tmp_path / "run"
    words = simulate(path, run, "--save-every", "8", new_tokens=ENDLESS)
    script = 'ls -A /tmp /dev/shm; "$@"; sleep 0.2; ls -A /tmp /dev/shm'
    command = "sh", "-c", script, "sh", MPIEXEC, "-n", "2", *COMMAND, *words
    with apart("size=1g", *command) as running:
        wait_until((run / STATE).is_file)
        for process in running.living().keys() - {running.process.pid}:
            with suppress(ProcessLookupError):  # ranks end with their parent
                os.kill(process, signal.SIGKILL)
        _, out, _ = running.end()
        running.assert_nothing_left()
    lines = out.splitlines()
    assert len(lines) >= 6 and "/dev/shm:" in lines and "/tmp:" in lines
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


STOPPED = """
    from mmfree_sims import silence

    silence.SILENT_SECONDS = 1.0
"""


@pytest.mark.parametrize("victim", [0, 2])
def test_a_stopped_rank_is_named_and_goes_on(
    victim: int, path: Path, tmp_path: Path, launched: Launch
) -> None:
    run = tmp_path / "run"
    words = simulate(path, run, "--save-every", "32", new_tokens=2000)
    script = program(tmp_path, patched(STOPPED))
    with launched(MPIEXEC, "-n", "3", *PYTHON, script, *words) as running:
        wait_until((run / STATE).is_file)
        process = running.process_of(victim)
        os.kill(process, signal.SIGSTOP)
        said = running.process.stderr.readline()
        os.kill(process, signal.SIGCONT)
        status, _, err = running.end()
        running.assert_nothing_left()
    assert re.fullmatch(
        f"mmfree-neuro: rank {victim} \\(process {process}\\) has sent nothing for [12] s: it is "
        f"stopped, and goes on after kill -CONT {process}\n",
        said,
    )
    assert (status, err) == (0, "")
    assert outcome(run) == unbroken(path, tmp_path / "unbroken", 2000)


def test_a_rank_without_memory(
    path: Path, tmp_path: Path, run_on: Callable[..., tuple[int, str, str]]
) -> None:
    patch = UNBUILT_TILE.replace("{rank}", "1").replace(
        'ValueError("the ninth token is cursed")', 'MemoryError("no room")'
    )
    words = simulate(path, tmp_path / "run", new_tokens=ENDLESS)
    status, out, err = run_on(2, *PYTHON, program(tmp_path, patched(patch)), *words)
    assert err.startswith("mmfree-neuro: rank 1 ran out of memory (no room)\n")
    assert status == 1 and out == ""


# Separate hosts

APART = """
    import os
    import pickle
    import sys
    from pathlib import Path

    import numpy as np

    from mmfree_neuro.pipeline import opened
    from mmfree_sims.mpi import engine as mpi
    from mmfree_sims.mpi import ranks

    path, comm = Path(sys.argv[1]), ranks.world()
    graph, stored = opened.open_mapped(path)
    for job, expected in pickle.loads(path.with_suffix(".expected").read_bytes()):
        result, traffic = mpi.serve(graph, stored.mapping, job, ranks_of_chips=[1, 0, 1, 0])
        found = comm.gather((os.uname().nodename, 4 * traffic.values), root=0)
        if result is not None:
            assert np.array_equal(result.logits, expected.logits)
            assert np.array_equal(result.chosen, expected.chosen)
            assert result.prefill == expected.prefill and result.generate == expected.generate
            print(*(word for rank in found for word in rank))
"""
LAUNCH = """\
#!/bin/sh
# What mpiexec calls in place of ssh: options, the address of a host, and the command to run there.
while [ "${1#-}" != "$1" ]; do shift; done
host=NAME${1##*.}; shift
exec ip netns exec "$host" unshare --uts --ipc --mount --pid --fork --kill-child sh -c \\
    "hostname $host; mount -t tmpfs none /dev/shm; mount -t proc proc /proc; $*"
"""


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
    return done.stdout


def connect(both: tuple[str, str]) -> None:
    """Make two network namespaces, and a cable from 10.77.0.1 in the first to 10.77.0.2 in the
    second."""
    for host in both:
        ip("netns", "add", host)
    ip(
        "link",
        "add",
        "cable",
        "netns",
        both[0],
        "type",
        "veth",
        "peer",
        "name",
        "cable",
        "netns",
        both[1],
    )
    for number, host in enumerate(both, 1):
        ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
        ip("-n", host, "link", "set", "cable", "up")
        ip("-n", host, "link", "set", "lo", "up")
        ip(
            "netns",
            "exec",
            host,
            "unshare",
            "--uts",
            "--ipc",
            "--mount",
            "--pid",
            "--fork",
            "sh",
            "-c",
            "mount -t tmpfs none /dev/shm && mount -t proc proc /proc",
        )
    wait_until(
        lambda: all(
            ip("-n", host, "-br", "link", "show", "cable").split()[1] == "UP" for host in both
        )
    )


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two network namespaces that stand for hosts, and `launch.sh`, which starts what mpiexec wants
    on them."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("needs the commands ip and unshare to make network namespaces")
    both = f"mmfree{os.getpid()}-1", f"mmfree{os.getpid()}-2"
    try:
        connect(both)
        (tmp_path / "launch.sh").write_text(LAUNCH.replace("NAME", both[0][:-1]))
        (tmp_path / "launch.sh").chmod(0o755)
        yield both
    except OSError as problem:
        pytest.skip(f"needs the right to make network namespaces ({problem})")
    finally:
        for host in both:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


def sent_through_cable(host: str) -> int:
    """Bytes that a host has sent to the other."""
    lines = ip("netns", "exec", host, "cat", "/proc/net/dev").splitlines()
    return next(int(line.split()[9]) for line in lines if line.split()[0] == "cable:")


def on_hosts(hosts: tuple[str, str], folder: Path) -> tuple[str, ...]:
    return (
        "ip",
        "netns",
        "exec",
        hosts[0],
        MPIEXEC,
        "-launcher",
        "ssh",
        "-launcher-exec",
        str(folder / "launch.sh"),
        "-localhost",
        "10.77.0.1",
        "-hosts",
        "10.77.0.1,10.77.0.2",
        "-n",
        "2",
    )


def test_ranks_on_separate_hosts(
    hosts: tuple[str, str], make_map: Callable[[str], Path], tmp_path: Path, launched: Launch
) -> None:
    """What the ranks say they sent has crossed the cable, and the bits are the same."""
    before = [sent_through_cable(host) for host in hosts]
    script = program(tmp_path, APART)
    command = (
        *on_hosts(hosts, tmp_path),
        *PYTHON,
        "-m",
        "mpi4py",
        str(script),
        str(make_map("3-a8-random")),
    )
    with launched(*command) as running:
        status, out, err = running.end()
        running.assert_nothing_left()
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert len(lines) == len(JOBS)
    assert all(line[0] != hosts[1] == line[2] for line in lines)
    for number, host in enumerate(hosts):
        payloads = sum(int(line[2 * number + 1]) for line in lines)
        assert payloads > 100_000
        assert sent_through_cable(host) - before[number] >= payloads


def test_a_rank_on_another_host_is_killed(
    hosts: tuple[str, str], path: Path, tmp_path: Path, launched: Launch
) -> None:
    run = tmp_path / "run"
    words = simulate(path, run, "--save-every", "8", new_tokens=ENDLESS)
    with launched(*on_hosts(hosts, tmp_path), *COMMAND, *words) as running:
        wait_until((run / STATE).is_file)
        kill_rank(running, 1)
        status, _, _ = running.end(SOON_S)
        running.assert_nothing_left()
    assert status != 0
