"""A host that is fed word by word answers as every engine chooses, however words are cut into
messages."""

import random
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.mapping import HOST, Mapping
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import Sampling
from mmfree_sims import fast
from mmfree_sims.tiles import tallies
from mmfree_sims.tiles.answers import AGAIN, NOTHING, RESTART, Answers
from mmfree_sims.tiles.packets import Packet
from mmfree_sims.tiles.plan import Plan, by_chip
from mmfree_sims.tiles.tile import Tile


class Chips:
    """All chips in one place."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.tallies = plan, tallies.allocate(plan.graph, 1)
        self.tile = Tile(
            plan, {s.tile for s in plan.stretches} - {HOST}, self.tallies, self.tallies
        )
        self.sent: deque[Packet] = deque()

    def send(self, packet: Packet) -> None:
        self.tile.take([packet], self.post)

    def post(self, packet: Packet) -> None:
        if packet.stretch in self.plan.read_by(HOST):
            self.sent.append(packet)

    def receive(self) -> Packet:
        return self.sent.popleft()


@pytest.mark.parametrize("scheme", ["a8", "a14-late"])
def test_any_pieces_of_several_sequences(
    scheme: str, random_graph: Callable[[str, str], Graph], make_mapping: Callable[..., Mapping]
) -> None:
    """Prompts of 1 … 20 tokens, each continued by 0 … 3, cut into messages of 1 … 13 words."""
    graph, rng = random_graph("small", scheme), random.Random(1)
    mapping, sampling = make_mapping(graph, "random", 3), Sampling(0.7, seed=4)
    plan = Plan(graph, mapping, by_chip)
    chips = Chips(plan)
    answers = Answers(plan, sampling, chips.tallies, chips.tallies, chips)
    words, expected = [], []
    for _ in range(6):
        tokens = [rng.randrange(graph.vocabulary) for _ in range(rng.randint(1, 20))]
        more = rng.randint(1, 4)
        job = Job([np.array(tokens[:n]) for n in range(1, len(tokens))], 1, sampling)
        each = [] if len(tokens) == 1 else fast.run(graph, mapping, job).chosen[:, 0].tolist()
        last = fast.run(graph, mapping, Job(np.array([tokens]), more, sampling)).chosen[0].tolist()
        words += [*(token + 1 for token in tokens), NOTHING, *[AGAIN] * (more - 1), RESTART]
        expected += [*(token + 1 for token in (*each, last[0])), 0]
        expected += [*(token + 1 for token in last[1:]), 0]
    found, at = [], 0
    while at < len(words):
        size = rng.randint(1, 13)
        found += answers.answer(np.array(words[at : at + size])).tolist()
        at += size
    assert found == expected
    assert answers.refused == 0
