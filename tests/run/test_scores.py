"""Texts that are scored side by side lose what each loses alone."""

import numpy as np
import pytest

from mmfree_neuro.graph.nodes import Graph, slots_of
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.scores import Asked, Scores, answered, nats, of_logits, scored
from mmfree_sims.fast import Fast


def test_nats_by_hand() -> None:
    logits = np.log(np.array([[1.0, 2.0, 1.0], [4.0, 2.0, 2.0]]))
    assert np.exp(-nats(logits, np.array([1, 2]))) == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_texts_of_any_length_with_any_questions(chunk: int, a16: Graph) -> None:
    rng, many = np.random.default_rng(4), with_slots(a16, 2)
    texts = [
        Asked(rng.integers(0, a16.vocabulary, size), np.array(at, int), np.array(at, int) + 3)
        for size, at in ((5, [4, 0, 4]), (3, list[int]()), (1, [0]), (7, [6, 2]))
    ]
    nothing = Asked(*(np.zeros(0, int) for _ in range(3)))
    *found, empty = answered(Fast(many, in_one_place(many)), [*texts, nothing], 2, chunk)
    assert (empty.nats.size, empty.chosen.size) == (0, 0)
    for text, one in zip(texts, found, strict=True):
        logits = reference.run(a16, in_one_place(a16), Job(text.tokens[None])).logits[0]
        expected = of_logits(logits * a16.logit_scale, text)
        assert np.allclose(one.nats, expected.nats, rtol=1e-12)
        assert one.chosen.tolist() == expected.chosen.tolist()


class _Said:
    """A session that notes what it is fed, and answers with what is asked."""

    def __init__(self) -> None:
        self.turns: list[tuple[list[int], list[int], list[int]]] = []

    def score(self, tokens: Ints, marks: Ints, at: Ints, following: Ints) -> Scores:
        self.turns.append((tokens.tolist(), slots_of(marks).tolist(), (marks & 1).tolist()))
        return Scores(following * 1.0, tokens[at])


def test_windows_go_side_by_side() -> None:
    session, windows = _Said(), np.arange(15).reshape(3, 5)
    found = scored(session, windows, 2, 6)
    assert session.turns == [
        ([0, 1, 2, 5, 6, 7], [0, 0, 0, 1, 1, 1], [1, 0, 0, 1, 0, 0]),
        ([3, 8], [0, 1], [0, 0]),
        ([10, 11, 12, 13], [1, 1, 1, 1], [1, 0, 0, 0]),
    ]
    assert np.array_equal(found.nats, windows[:, 1:])
    assert np.array_equal(found.chosen, windows[:, :-1])
