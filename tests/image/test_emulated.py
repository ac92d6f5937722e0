"""An image of a mapping runs to the bits and the counts of the reference, whatever its mode."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.graph import assembler
from mmfree_neuro.graph.nodes import AnyNode, Graph, Input
from mmfree_neuro.graph.partial_sums import by_columns, evenly
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.image import write
from mmfree_neuro.image.origin import by_group
from mmfree_neuro.image.write import write_image
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.pipeline import emulated
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job, RunState, Saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target.image_file import load_image
from mmfree_sims import fast
from mmfree_sims.emulator.emulator import Emulator, available
from mmfree_sims.second_opinions.sanafe import record

Mapper = Callable[..., Mapping]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="needs the emulator in C"),
]


@pytest.fixture
def image_of(system: SystemSpec, tmp_path: Path) -> Callable[[Graph, Mapping], Path]:
    """The function that writes the image of a mapping."""

    def write(graph: Graph, mapping: Mapping) -> Path:
        write_image(graph, mapping, system, "0" * 64, tmp_path / "model.image")
        return tmp_path / "model.image"

    return write


Writer = Callable[[Graph, Mapping], Path]


def test_bits_and_counts(
    graph: Graph, mapping: Mapping, image_of: Writer, tokens: np.ndarray
) -> None:
    """One token after another, and many at once; from the image alone."""
    opened, job = emulated.OpenedImage(image_of(graph, mapping)), Job(tokens[:1], 4)
    expected = reference.run(graph, mapping, job)
    found = emulated.run(opened, job)
    assert np.array_equal(found.logits, expected.logits)
    assert np.array_equal(found.chosen, expected.chosen)
    assert (found.prefill, found.generate) == (expected.prefill, expected.generate)
    machine = Emulator(opened.image)
    one_by_one = [machine.generate(int(token)) for token in tokens[0]]
    assert np.array_equal(one_by_one, expected.logits[0, : len(one_by_one)])


@pytest.mark.parametrize("kind", ["whole", "divided"])
def test_several_sequences(
    kind: str, graph: Graph, make_mapping: Mapper, image_of: Writer, tokens: np.ndarray
) -> None:
    """Three at once of five: each gives the bits and the counts that it gives alone; also from
    every state that was saved meanwhile, of this machine or of the fast engine."""
    graph = with_slots(graph, 3)
    if kind == "divided":
        graph = by_columns(graph, evenly(graph, (("layers.0.mlgru", 2),)))
    mapping = replace(make_mapping(graph, "random", 5), in_flight=3)
    prompts, new = [tokens[0, :n] for n in (3, 5, 1, 4, 2)], [3, 0, 4, 1, 2]
    job = Job(prompts, new, Sampling(0.7, 3), in_flight=3)
    alone = [
        reference.run(graph, mapping, Job([prompt], count, Sampling(0.7, 3)))
        for prompt, count in zip(prompts, new, strict=True)
    ]
    opened = emulated.OpenedImage(image_of(graph, mapping))
    assert opened.slots == 3
    found = emulated.run(opened, job)
    for one, other in zip(found.outcomes, alone, strict=True):
        assert np.array_equal(one.logits, other.logits[0])
    saved: list[RunState] = []
    short = replace(job, keep_logits=False)
    results = [found, emulated.run(opened, short, silent, Saving(4, saved.append))]
    fast.run(graph, mapping, short, silent, Saving(4, saved.append))
    assert len(saved) > 6
    for state in saved:
        results.append(emulated.run(opened, short, silent, Saving(0, saved.append, state)))
        results.append(fast.run(graph, mapping, short, silent, Saving(0, saved.append, state)))
    for result in results:
        for one, other in zip(result.outcomes, alone, strict=True):
            assert np.array_equal(one.chosen, other.chosen[0])
            assert (one.prefill, one.generate) == (other.prefill, other.generate)


def test_sums_that_are_divided(
    a16: Graph, make_mapping: Mapper, image_of: Writer, tokens: np.ndarray
) -> None:
    """Partial sums go from step to step, and copies of a norm stand on several cores."""
    graph = by_columns(a16, evenly(a16, (("layers.0.o_proj", 2), ("layers.1.down_proj", 3))))
    mapping, job = make_mapping(graph, "random", 5), Job(tokens[:1])
    expected = reference.run(graph, mapping, job)
    found = emulated.run(emulated.OpenedImage(image_of(graph, mapping)), job)
    assert np.array_equal(found.logits, expected.logits)
    assert found.prefill == expected.prefill


@pytest.mark.parametrize("kind", ["whole", "divided"])
def test_sums_that_wrap(
    kind: str, wraps: Graph, make_mapping: Mapper, image_of: Writer, tokens: np.ndarray
) -> None:
    """The machine's accumulators wrap, and it counts what the reference and the fast engine do."""
    parts = ("layers.0.mlgru", 3), ("layers.0.o.rms", 2), ("layers.1.down_proj", 4)
    graph = by_columns(wraps, evenly(wraps, parts)) if kind == "divided" else wraps
    mapping, job = make_mapping(graph, "random", 5), Job(tokens[:1], 3)
    expected = reference.run(graph, mapping, job)
    assert min(expected.prefill.wrapped.sum(), expected.generate.wrapped.sum()) > 0
    for found in (
        fast.run(graph, mapping, job),
        emulated.run(emulated.OpenedImage(image_of(graph, mapping)), job),
    ):
        assert np.array_equal(found.logits, expected.logits)
        assert np.array_equal(found.chosen, expected.chosen)
        assert (found.prefill, found.generate) == (expected.prefill, expected.generate)


def machine_of(image: Path) -> Emulator:
    return Emulator(load_image(image))


def arrived(node: AnyNode, entry: Input, sent: Ints) -> Ints:
    """What an input brings to the accumulators of every neuron [tokens, neurons, accumulators]."""
    if entry.matrix is not None:
        here = sent[:, entry.first : entry.first + entry.matrix.columns]
        return (here @ entry.matrix.codes(0, node.size).T.astype(np.int64))[:, :, None]
    if entry.how == "group":
        padded = np.pad(sent, ((0, 0), (0, node.size * node.group - sent.shape[1])))
        return padded.reshape(len(sent), node.size, node.group)
    if entry.how == "sum":
        last = None if entry.count is None else entry.first + entry.count
        total = sent[:, entry.first : last].sum(1)[:, None]
        return np.broadcast_to(total, (len(sent), node.size))[:, :, None]
    return np.broadcast_to(sent, (len(sent), node.size))[:, :, None]


def only_zeros(graph: Graph, tokens: np.ndarray) -> dict[str, Ints]:
    """How often each neuron of a node without presence reads nothing but zeros for a token."""
    sent = record(graph, tokens)
    found = {node.name: np.zeros(node.size, np.int64) for node in graph.nodes}
    for node in graph.nodes[1:]:
        if node.presence is None:
            reads = [
                sum(arrived(node, e, sent[e.source, e.source_port].astype(np.int64)) for e in port)
                for port in node.ports.values()
            ]
            found[node.name] = (np.concatenate(reads, 2) == 0).all(2).sum(0)
    return found


def test_instructions_and_idle_visits_are_those_that_are_costed(
    graph: Graph, mapping: Mapping, image_of: Writer, tokens: np.ndarray
) -> None:
    """A neuron is visited at every step of the machine.  A visit executes the whole program with a
    token, and the guard without one.

    A neuron that finds nothing but zeros cannot tell that a token is there: such visits are idle as
    well, and costs count them as whole.
    """
    machine, summary, fed = machine_of(image_of(graph, mapping)), summarise(graph), tokens[0]
    nodes, nothing = {node.name: node for node in summary.nodes}, only_zeros(graph, fed)
    shards = [mapping.shards[position] for position in by_group(mapping)]
    size = np.array([shard.size for shard in shards])
    whole = np.array([sum(nodes[shard.node].instructions.values()) for shard in shards])
    guard = np.array([nodes[shard.node].idle_instructions for shard in shards])
    zeros = np.array([nothing[shard.node][shard.start : shard.stop].sum() for shard in shards])
    for token in fed:
        machine.generate(int(token))
    alone = machine.take_counts(), len(fed) * (summary.steps + 1)
    machine.reset()
    machine.prefill(fed)
    for counts, steps in (alone, (machine.take_counts(), len(fed) + summary.steps)):
        idle = size * (steps - len(fed)) * (guard > 0)  # the embedding runs at no other step
        assert counts.idle_visits.tolist() == (idle + zeros).tolist()
        issued = (len(fed) * size - zeros) * whole + (idle + zeros) * guard
        assert counts.instructions.tolist() == issued.tolist()


def test_without_presence_idle_steps_change_states(
    a16: Graph,
    make_mapping: Mapper,
    image_of: Writer,
    tokens: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two tokens the recurrence halves its state at every step."""
    mapping = make_mapping(a16, "chain")
    expected = reference.run(a16, mapping, Job(tokens[:1])).logits[0]
    monkeypatch.setattr(assembler._Assembler, "guard", lambda *_: None)
    machine = machine_of(image_of(a16, mapping))
    found = [machine.generate(int(token)) for token in tokens[0]]
    same = [np.array_equal(*pair) for pair in zip(found, expected, strict=True)]
    assert same == [True] + [False] * (len(same) - 1)


def test_without_delays_a_token_meets_another_one(
    a16: Graph,
    make_mapping: Mapper,
    image_of: Writer,
    tokens: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The residual stream is added to the projection of an earlier token."""
    mapping = make_mapping(a16, "chain")
    expected = reference.run(a16, mapping, Job(tokens[:1])).logits[0]
    hasty = replace(
        a16,
        nodes=tuple(
            replace(node, inputs=tuple(replace(entry, delay=0) for entry in node.inputs))
            for node in a16.nodes
        ),
    )
    monkeypatch.setattr(write, "origin_text", lambda *_: "{}")  # no summary of what is not legal
    found = machine_of(image_of(hasty, mapping)).prefill(tokens[0])
    assert not any(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_goes_on_from_the_state_of_another_engine(
    graph: Graph, mapping: Mapping, image_of: Writer, tokens: np.ndarray
) -> None:
    opened = emulated.OpenedImage(image_of(graph, mapping))
    job = Job(tokens[:1], 5, keep_logits=False)
    ours: list[RunState] = []
    theirs: list[RunState] = []
    expected = fast.run(graph, mapping, job, silent, Saving(4, theirs.append))
    found = emulated.run(opened, job, silent, Saving(4, ours.append))
    assert len(ours) == len(theirs) > 1
    for mine, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(mine.states[name], other.states[name]) for name in other.states)
        again = emulated.run(opened, job, silent, Saving(0, ours.append, other))
        assert np.array_equal(again.chosen, expected.chosen)
        assert (again.prefill, again.generate) == (expected.prefill, expected.generate)
    assert np.array_equal(found.chosen, expected.chosen)


def test_weights_of_eight_bits_give_the_same(
    a16: Graph,
    make_mapping: Mapper,
    system: SystemSpec,
    with_figures: Callable[..., SystemSpec],
    tmp_path: Path,
    tokens: np.ndarray,
) -> None:
    """Where a chip stores more than two bits a weight, lists have eight."""
    mapping, job = make_mapping(a16, "random"), Job(tokens[:1], 2)
    wide = with_figures(system, weight_bits=4)
    image = write_image(a16, mapping, wide, "0" * 64, tmp_path / "wide.image")
    expected = reference.run(a16, mapping, job)
    found = emulated.run(emulated.OpenedImage(image.path), job)
    assert np.array_equal(found.logits, expected.logits)
    assert (found.prefill, found.generate) == (expected.prefill, expected.generate)
