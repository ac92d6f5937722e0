"""A job is checked, and driven the same way whatever the engine."""

import numpy as np
import pytest

from mmfree_neuro.activity import Activity, nothing
from mmfree_neuro.errors import InputError
from mmfree_neuro.fixedpoint import Ints
from mmfree_neuro.ir import Graph
from mmfree_neuro.job import Job, check, drive, silent
from mmfree_neuro.mapping import Mapping

WRONG = {
    "flat": (Job(np.array([1, 0])), "the tokens have shape [2], must be [sequences, time] with at least one token"),
    "no-rows": (
        Job(np.zeros((0, 4), np.int64)),
        "the tokens have shape [0, 4], must be [sequences, time] with at least one token",
    ),
    "no-time": (
        Job(np.zeros((4, 0), np.int64)),
        "the tokens have shape [4, 0], must be [sequences, time] with at least one token",
    ),
    "floats": (Job(np.zeros((1, 2))), "the tokens are float64, must be integers"),
    "negative": (Job(np.array([[0, -3, 9]])), "token -3 is outside the vocabulary, must be 0 … 1"),
    "too-high": (Job(np.array([[0, 2]])), "token 2 is outside the vocabulary, must be 0 … 1"),
    "backwards": (Job(np.array([[0]]), -1), "-1 new tokens were asked for, must not be negative"),
}


@pytest.mark.parametrize("case", WRONG)
def test_jobs_that_do_not_fit(case: str, hand_graph: Graph) -> None:
    job, message = WRONG[case]
    with pytest.raises(InputError) as error:
        check(hand_graph, job)
    assert str(error.value) == message


class Diary:
    """A session that gives logits [token, 1] and writes down what it is asked."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping, self.asked = mapping, []
        self.tokens = 0

    def reset(self) -> None:
        self.asked.append("reset")

    def feed(self, tokens: Ints) -> Ints:
        self.asked.append(tokens.tolist())
        self.tokens += len(tokens)
        return np.stack([tokens, np.ones(len(tokens), np.int64)], 1)

    def take_activity(self) -> Activity:
        taken = Activity(self.tokens, *nothing(self.mapping).arrays()[1:])
        self.tokens = 0
        return taken


def test_what_a_session_is_asked(hand_graph: Graph, hand_mapping: Mapping) -> None:
    session, heard = Diary(hand_mapping), []
    job = Job(np.array([[1, 0, 0], [0, 1, 1]]), 3)
    result = drive(hand_graph, session, job, 2, lambda *said: heard.append(said), 0.25)
    # Greedy: [0, 1] gives token 1, and [1, 1] the first of equals.
    assert session.asked == ["reset", [1, 0], [0], [1], [0], "reset", [0, 1], [1], [0], [1]]
    assert result.chosen.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert result.logits[..., 0].tolist() == [[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]]
    assert (result.prefill.tokens, result.generate.tokens) == (6, 4)
    assert heard == [
        ("prefill", 2, 6), ("prefill", 3, 6), ("generate", 1, 6), ("generate", 2, 6), ("generate", 3, 6),
        ("prefill", 5, 6), ("prefill", 6, 6), ("generate", 4, 6), ("generate", 5, 6), ("generate", 6, 6),
    ]  # fmt: skip
    assert set(result.seconds) == {"start", "prefill", "generate"}
    assert result.seconds["start"] == 0.25


@pytest.mark.parametrize(("new", "length"), [(0, 2), (1, 2), (2, 3)])
def test_the_last_token_is_not_fed_back(new: int, length: int, hand_graph: Graph, hand_mapping: Mapping) -> None:
    result = drive(hand_graph, Diary(hand_mapping), Job(np.array([[0, 1]]), new), 8, silent, 0.0)
    assert result.logits.shape == (1, length, 2)
    assert result.chosen.shape == (1, new)
    assert result.generate.tokens == length - 2


def test_too_many_logits_to_keep(a16: Graph) -> None:
    with pytest.raises(InputError) as error:
        check(a16, Job(np.array([[1]]), new_tokens=1 << 30))
    values = ((1 << 30) + 1) * a16.vocabulary
    assert str(error.value) == f"the job has {values} logits, must have at most 1073741824; ask for fewer tokens"
