"""SANA-FE counts what we count, by hand and on random models; what it has no room for is
refused."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph import partial_sums
from mmfree_neuro.graph.nodes import Graph, Output
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.run.job import Job
from mmfree_partition.route import route
from mmfree_sims import fast
from mmfree_sims.second_opinions.sanafe import Counts, Energies, Figures, Opinion, compare, record

pytestmark = pytest.mark.slow

NOT_INSTALLED = "sanafe is not installed, must be for the second opinion: pip install sanafe"


@pytest.fixture
def sanafe() -> None:
    """Skips a test where SANA-FE is not installed."""
    pytest.importorskip("sanafe")


@pytest.fixture
def by_hand(sanafe: None, hand_graph: Graph, hand_mapping: Mapping) -> Opinion:
    """Rows [1, -1, 0] and [0, 1, 1], each on a core, read 3, -5, 7 and then -1, 0, -2."""
    return compare(hand_graph, hand_mapping, record(hand_graph, np.array([0, 1])))


def test_recorded_by_hand(hand_graph: Graph) -> None:
    payloads = record(hand_graph, np.array([0, 1]))
    assert {key: sent.tolist() for key, sent in payloads.items()} == {
        ("embedding", "x"): [[3, -5, 7], [-1, 0, -2]],
        ("embedding", "sq"): [[9, 25, 49], [1, 0, 4]],
        ("head", "logits"): [[12, 3], [-1, -3]],
    }


def test_what_is_recorded_is_what_the_fast_engine_sends(
    graph: Graph, make_mapping: Callable[..., Mapping]
) -> None:
    tokens, mapping = np.array([[7, 200, 31]]), make_mapping(graph, "random", 2)
    payloads, result = record(graph, tokens[0]), fast.run(graph, mapping, Job(tokens))
    assert np.array_equal(payloads["head", "logits"], result.logits[0])
    for messages, stream in zip(result.prefill.messages, mapping.routes, strict=True):
        sent = payloads[mapping.shards[stream.source].node, stream.port]
        assert np.count_nonzero(sent[:, stream.start : stream.stop]) == messages


def test_counts_by_hand(by_hand: Opinion) -> None:
    """A core reads two of the three values; the third travels to it, and SANA-FE has no packet for
    it."""
    assert by_hand.theirs == Counts(synops=(4, 2), fires=(2, 2), updates=(2, 2), packets=(4, 2))
    assert by_hand.ours == by_hand.theirs
    assert by_hand.unread == (2, 2)


def test_energies_by_hand(by_hand: Opinion) -> None:
    """Six synaptic events, four updates and four fires of the chips; the host takes nothing."""
    synapse_pj, soma_pj = 6 * 35.5, 4 * (51.2 + 21.6) + 4 * 69.3
    for energies in (by_hand.our_energies, by_hand.their_energies):
        assert energies.synapse_pj == pytest.approx(synapse_pj, rel=1e-12)
        assert energies.soma_pj == pytest.approx(soma_pj, rel=1e-12)
    assert by_hand.agrees


def test_energies_from_figures() -> None:
    counts = Counts((3, 1), (1, 1), (5, 2), (9, 9))
    assert Figures(2.0, 10.0, 1.0, 100.0).energies(counts) == Energies(
        4 * 2.0, 7 * 11.0 + 2 * 100.0
    )


@pytest.mark.usefixtures("sanafe")
def test_counts_of_random_models(graph: Graph, mapping: Mapping, tokens: np.ndarray) -> None:
    """Every token in all schemes on three mappings, and all tokens as the fast engine counts
    them."""
    few = tokens[:1, :4]
    found, run = (
        compare(graph, mapping, record(graph, few[0])),
        fast.run(graph, mapping, Job(few)).prefill,
    )
    assert found.ours == found.theirs
    assert found.agrees
    assert sum(found.theirs.synops) == run.synops.sum() > 250_000
    copies = [sum(core.chip != HOST for core in stream.destinations) for stream in mapping.routes]
    assert sum(found.theirs.packets) + sum(found.unread) == run.messages @ copies


@pytest.mark.usefixtures("sanafe")
def test_counts_of_matrices_divided_by_columns(
    graph: Graph, make_mapping: Callable[..., Mapping]
) -> None:
    divided = partial_sums.by_columns(
        graph, partial_sums.evenly(graph, (("head", 3), ("layers.1.glu", 2)))
    )
    found = compare(divided, make_mapping(divided, "random", 4), record(divided, np.array([5, 80])))
    assert len(divided.nodes) > len(graph.nodes)
    assert found.ours == found.theirs
    assert found.agrees


@pytest.mark.usefixtures("sanafe")
def test_counts_of_neurons_on_two_chips(graph: Graph, make_mapping: Callable[..., Mapping]) -> None:
    """A copy of every node but the last on the next chip: it fires as well, and the cores of its
    chip take from it."""
    chain = make_mapping(graph, "chain")
    copies = [
        (s, Location((p.chip + 1) % 3, 64 + p.core))
        for s, p in zip(chain.shards, chain.locations, strict=True)
    ]
    shards, locations = zip(*copies[1:-1], strict=True)
    shards, locations = chain.shards + shards, chain.locations + locations
    payloads = record(graph, np.array([5, 80]))
    mapping = replace(
        chain, shards=shards, locations=locations, routes=route(graph, shards, locations)
    )
    whole, found = (compare(graph, made, payloads) for made in (chain, mapping))
    assert found.ours == found.theirs
    assert found.agrees
    logits = np.count_nonzero(payloads["head", "logits"], axis=1)
    assert found.theirs.fires == tuple(2 * np.array(whole.theirs.fires) - logits)


@pytest.mark.usefixtures("sanafe")
def test_counts_of_a_head_on_the_host(graph: Graph, make_mapping: Callable[..., Mapping]) -> None:
    """What is done on the host is not counted, nor what is sent there."""
    chain = make_mapping(graph, "chain")
    locations = (*chain.locations[:-1], Location(HOST, 0))
    mapping = replace(chain, locations=locations, routes=route(graph, chain.shards, locations))
    payloads = record(graph, np.array([5, 80]))
    whole, found = (compare(graph, made, payloads) for made in (chain, mapping))
    assert found.ours == found.theirs
    assert found.agrees
    logits = np.count_nonzero(payloads["head", "logits"], axis=1)
    assert found.theirs.fires == tuple(whole.theirs.fires - logits)
    assert sum(found.theirs.synops) < sum(whole.theirs.synops)


@pytest.mark.usefixtures("sanafe")
def test_counts_where_the_host_sends_nothing(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """A token whose codes are all zero has no event at all; the programs run all the same."""
    embedding = replace(hand_graph.embedding, codes=np.zeros((2, 3), np.int8))
    silent = replace(hand_graph, nodes=(embedding, hand_graph.head))
    found = compare(silent, hand_mapping, record(silent, np.array([1])))
    assert found.theirs == Counts(synops=(0,), fires=(0,), updates=(2,), packets=(0,))
    assert found.agrees


@pytest.mark.usefixtures("sanafe")
def test_a_missing_route_is_seen(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """SANA-FE derives packets from synapses and places: it knows no routes."""
    routes = tuple(stream for stream in hand_mapping.routes if stream.port != "x")
    payloads = record(hand_graph, np.array([0, 1]))
    found = compare(hand_graph, replace(hand_mapping, routes=routes), payloads)
    assert found.theirs == Counts(synops=(4, 2), fires=(2, 2), updates=(2, 2), packets=(4, 2))
    assert found.ours == replace(found.theirs, packets=(0, 0))
    assert not found.agrees


@pytest.mark.usefixtures("sanafe")
def test_a_needless_route_is_seen(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """The values go to a third core as well, which needs none of them."""
    routes = tuple(
        stream._replace(destinations=(*stream.destinations, Location(0, 2)))
        if stream.port == "x"
        else stream
        for stream in hand_mapping.routes
    )
    found = compare(
        hand_graph, replace(hand_mapping, routes=routes), record(hand_graph, np.array([0, 1]))
    )
    assert found.ours == replace(found.theirs, packets=(4 + 3, 2 + 2))
    assert not found.agrees


def test_energies_that_differ_are_seen(by_hand: Opinion) -> None:
    theirs = by_hand.their_energies
    for other in (replace(theirs, synapse_pj=213.00001), replace(theirs, soma_pj=568.40001)):
        assert not replace(by_hand, their_energies=other).agrees


@pytest.mark.usefixtures("sanafe")
def test_nothing_is_printed_or_left_behind(
    hand_graph: Graph,
    hand_mapping: Mapping,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compare(hand_graph, hand_mapping, record(hand_graph, np.array([0, 1])))
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]
    assert capfd.readouterr() == ("", "")


def wide(graph: Graph, rows: int) -> Graph:
    """The graph made by hand with a head of so many neurons."""
    (entry,) = graph.head.inputs
    matrix, output = pack(np.ones((rows, 3), np.int8)), graph.head.outputs[0]
    head = replace(
        graph.head,
        size=rows,
        inputs=(replace(entry, matrix=matrix),),
        outputs=(Output(output.port, rows, output.qtype),),
    )
    return replace(graph, nodes=(graph.embedding, head))


def on_cores(graph: Graph, step: int) -> Mapping:
    """The head on as many cores as it takes, so many neurons on each; 8 cores a chip."""
    starts = range(0, graph.head.size, step)
    shards = (
        Shard("embedding", 0, 3),
        *(Shard("head", a, min(a + step, graph.head.size)) for a in starts),
    )
    locations = Location(HOST, 0), *(Location(k // 8, k % 8) for k in range(len(starts)))
    return Mapping("", "kapoho-point", "hand", shards, locations, route(graph, shards, locations))


@pytest.mark.usefixtures("sanafe")
def test_all_there_is_room_for(hand_graph: Graph) -> None:
    for graph, step in ((wide(hand_graph, 127), 1), (wide(hand_graph, 1024), 1024)):
        found = compare(graph, on_cores(graph, step), record(graph, np.array([0])))
        assert found.theirs == Counts(
            (3 * graph.head.size,),
            (graph.head.size,),
            (graph.head.size,),
            (3 * graph.head.size // step,),
        )
        assert found.agrees


@pytest.mark.usefixtures("sanafe")
@pytest.mark.parametrize(
    ("rows", "step", "message"),
    [
        (128, 1, "the mapping uses 128 cores, must use at most 127 for SANA-FE's Loihi"),
        (
            1026,
            1025,
            "core 0 of chip 0 has 1025 outputs, must have at most 1024 for SANA-FE's Loihi",
        ),
    ],
)
def test_what_there_is_no_room_for(rows: int, step: int, message: str, hand_graph: Graph) -> None:
    graph = wide(hand_graph, rows)
    with pytest.raises(InputError) as raised:
        compare(graph, on_cores(graph, step), record(graph, np.array([0])))
    assert str(raised.value) == message


@pytest.mark.usefixtures("sanafe")
def test_a_host_that_there_is_no_room_for(hand_graph: Graph) -> None:
    outputs = tuple(replace(output, size=513) for output in hand_graph.embedding.outputs)
    embedding = replace(
        hand_graph.embedding, size=513, outputs=outputs, codes=np.ones((2, 513), np.int8)
    )
    (entry,) = hand_graph.head.inputs
    head = replace(
        hand_graph.head, inputs=(replace(entry, matrix=pack(np.ones((2, 513), np.int8))),)
    )
    graph = replace(hand_graph, nodes=(embedding, head))
    shards, locations = (
        (Shard("embedding", 0, 513), Shard("head", 0, 2)),
        (Location(HOST, 0), Location(0, 0)),
    )
    mapping = Mapping(
        "", "kapoho-point", "hand", shards, locations, route(graph, shards, locations)
    )
    with pytest.raises(InputError) as raised:
        compare(graph, mapping, record(graph, np.array([0])))
    assert (
        str(raised.value) == "the host has 1026 outputs, must have at most 1024 for SANA-FE's Loihi"
    )


def test_without_sanafe(
    hand_graph: Graph, hand_mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sanafe", None)  # as if it were not installed
    with pytest.raises(EngineError) as raised:
        compare(hand_graph, hand_mapping, record(hand_graph, np.array([0])))
    assert str(raised.value) == NOT_INSTALLED
