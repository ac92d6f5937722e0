"""A job is checked, and driven the same way whatever the engine."""

import numpy as np
import pytest

from mmfree_neuro.errors import InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity, nothing
from mmfree_neuro.run.job import Job, RunState, Saving, check, check_saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.session import drive

WRONG = {
    "flat": (
        Job(np.array([1, 0])),
        "the tokens have shape [2], must be [sequences, time] with at least one token",
    ),
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
    "rows-that-end": (
        Job(np.array([[0], [1]]), 3, stop=(1,)),
        "a job of 2 sequences cannot end at a token, must have one sequence",
    ),
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

    def states(self) -> dict[str, Ints]:
        self.asked.append("states")
        return {"h": np.array([self.tokens])}

    def restore(self, states: dict[str, Ints]) -> None:
        self.asked.append(states["h"].tolist())


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
        ("prefill", 2, 6, ()),
        ("prefill", 3, 6, ()),
        ("generate", 1, 6, [1]),
        ("generate", 2, 6, [0]),
        ("generate", 3, 6, [1]),
        ("prefill", 5, 6, ()),
        ("prefill", 6, 6, ()),
        ("generate", 4, 6, [0]),
        ("generate", 5, 6, [1]),
        ("generate", 6, 6, [0]),
    ]
    assert set(result.seconds) == {"start", "prefill", "generate"}
    assert result.seconds["start"] == 0.25


@pytest.mark.parametrize(("new", "length"), [(0, 2), (1, 2), (2, 3)])
def test_the_last_token_is_not_fed_back(
    new: int, length: int, hand_graph: Graph, hand_mapping: Mapping
) -> None:
    result = drive(hand_graph, Diary(hand_mapping), Job(np.array([[0, 1]]), new), 8, silent, 0.0)
    assert result.logits.shape == (1, length, 2)
    assert result.chosen.shape == (1, new)
    assert result.generate.tokens == length - 2


@pytest.mark.parametrize("keep", [True, False])
def test_a_token_that_ends_a_job(keep: bool, hand_graph: Graph, hand_mapping: Mapping) -> None:
    """As if only so many tokens had been asked for: 1 follows 0, which follows the prompt."""
    heard: list[tuple[object, ...]] = []
    job = Job(np.array([[1, 1]]), 9, keep_logits=keep, stop=(7, 1))
    session = Diary(hand_mapping)
    result = drive(hand_graph, session, job, 8, lambda *said: heard.append(said), 0.0)
    assert session.asked == ["reset", [1, 1], [0]]
    assert result.chosen.tolist() == [[0, 1]]
    assert result.logits.shape == (1, 3 if keep else 0, 2)
    assert (result.prefill.tokens, result.generate.tokens) == (2, 1)
    assert heard == [("prefill", 2, 2, ()), ("generate", 1, 9, [0]), ("generate", 2, 9, [1])]


def test_a_token_that_ends_a_job_at_once(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """No state is saved behind the end, be it due."""
    written: list[RunState] = []
    job = Job(np.array([[1, 0]]), 9, keep_logits=False, stop=(1,))
    saving = Saving(1, written.append)
    result = drive(hand_graph, Diary(hand_mapping), job, 8, silent, 0.0, saving)
    assert result.chosen.tolist() == [[1]]
    assert (result.prefill.tokens, result.generate.tokens) == (2, 0)
    assert [state.fed for state in written] == [1]


def test_too_many_logits_to_keep(a16: Graph) -> None:
    with pytest.raises(InputError) as error:
        check(a16, Job(np.array([[1]]), new_tokens=1 << 30))
    values = ((1 << 30) + 1) * a16.vocabulary
    assert (
        str(error.value)
        == f"the job has {values} logits, must have at most 1073741824; ask for fewer tokens"
    )


def test_too_many_tokens_even_without_their_logits(a16: Graph) -> None:
    check(a16, Job(np.array([[1]]), new_tokens=(1 << 24) - 1, keep_logits=False))
    with pytest.raises(InputError) as error:
        check(a16, Job(np.array([[1]]), new_tokens=1 << 24, keep_logits=False))
    assert str(error.value) == "the job has 16777217 tokens, must have at most 16777216"


def test_logits_are_kept_where_they_are_asked_for(hand_graph: Graph, hand_mapping: Mapping) -> None:
    job = Job(np.array([[1, 0, 0]]), 3, keep_logits=False)
    result = drive(hand_graph, Diary(hand_mapping), job, 2, silent, 0.0)
    assert result.logits.shape == (1, 0, 2)
    assert result.chosen.tolist() == [[1, 0, 1]]


# Saving and resuming.


@pytest.mark.parametrize(("new", "fed"), [(0, 5), (1, 5), (2, 6), (7, 11)])
def test_what_is_fed(new: int, fed: int) -> None:
    assert Job(np.zeros((1, 5), np.int64), new).fed == fed


def test_when_a_state_is_saved() -> None:
    """Every so many tokens, but not at the end of the run."""
    every = Saving(3, lambda _: None)
    assert [fed for fed in range(1, 13) if every.due(fed, 12)] == [3, 6, 9]
    assert not any(Saving(0, lambda _: None).due(fed, 12) for fed in range(13))
    assert [fed for fed in range(1, 13) if Saving(12, lambda _: None).due(fed, 12)] == []


def stored(fed: int, *chosen: int, prefill: int = 0, generate: int = 0) -> RunState:
    """A state of the graph made by hand, with three shards and three routes."""
    counts = [
        Activity(tokens, *(np.zeros(n, np.int64) for n in (3, 3, 3, 3, 3, 3)))
        for tokens in (prefill, generate)
    ]
    seconds = {"start": 9.0, "prefill": 100.0, "generate": 1000.0}
    return RunState(fed, np.array(chosen, np.int64), {"h": np.array([-fed])}, *counts, seconds)


SAVINGS = {
    "negative": (
        Job(np.array([[0]]), keep_logits=False),
        Saving(-1, lambda _: None),
        "a state every -1 tokens was asked for, must not be negative",
    ),
    "two-rows": (
        Job(np.array([[0], [1]]), keep_logits=False),
        Saving(1, lambda _: None),
        "only a run of one sequence that keeps no logits can be saved",
    ),
    "logits": (
        Job(np.array([[0]])),
        Saving(0, lambda _: None),
        "only a run of one sequence that keeps no logits can be saved",
    ),
    "too-short": (
        Job(np.array([[0, 1, 0]]), 3, keep_logits=False),
        Saving(0, lambda _: None, stored(6, 1, 0, 1, 0)),
        "the saved state is 6 tokens into the run, must be at most 5; ask for more tokens",
    ),
}


@pytest.mark.parametrize("case", SAVINGS)
def test_savings_that_cannot_be(case: str, hand_graph: Graph, hand_mapping: Mapping) -> None:
    job, saving, message = SAVINGS[case]
    for use in (
        lambda: check_saving(job, saving),
        lambda: drive(hand_graph, Diary(hand_mapping), job, 2, silent, 0.0, saving),
    ):
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value) == message


def test_savings_that_can_be() -> None:
    check_saving(Job(np.array([[0], [1]])), None)
    short = Job(np.array([[0, 1, 0]]), 3, keep_logits=False)
    for saving in (
        Saving(0, lambda _: None),
        Saving(99, lambda _: None),
        Saving(1, lambda _: None, stored(5, 1, 0, 1)),
    ):
        check_saving(short, saving)


def seen(state: RunState) -> tuple[int, list[int], int, int]:
    return state.fed, state.chosen.tolist(), state.prefill.tokens, state.generate.tokens


def test_what_a_session_is_asked_when_it_is_saved(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """No chunk passes a token whose state is saved; what is handed out is as it was then."""
    session, written = Diary(hand_mapping), []
    job = Job(np.array([[1, 0, 0, 1, 0]]), 4, keep_logits=False)
    result = drive(hand_graph, session, job, 2, silent, 0.25, Saving(3, written.append))
    assert session.asked == ["reset", [1, 0], [0], "states", [1, 0], [1], "states", [0], [1]]
    assert result.chosen.tolist() == [[1, 0, 1, 0]]
    # The state after six tokens is that after the first chosen one was fed and the second was
    # chosen.
    assert [seen(state) for state in written] == [(3, [], 3, 0), (6, [1, 0], 5, 1)]
    assert (result.prefill.tokens, result.generate.tokens) == (5, 3)
    assert all(set(state.seconds) == {"start", "prefill", "generate"} for state in written)


def test_states_are_saved_of_every_token(hand_graph: Graph, hand_mapping: Mapping) -> None:
    written: list[RunState] = []
    job = Job(np.array([[1, 0, 0]]), 3, keep_logits=False)
    drive(hand_graph, Diary(hand_mapping), job, 64, silent, 0.0, Saving(1, written.append))
    assert [seen(state) for state in written] == [
        (1, [], 1, 0),
        (2, [], 2, 0),
        (3, [1], 3, 0),
        (4, [1, 0], 3, 1),
    ]


@pytest.mark.parametrize(
    ("state", "asked", "tokens"),
    [
        (stored(1, prefill=1), [[0, 0], [1], [0]], (3, 2)),
        (stored(3, 1, prefill=3), [[1], [0]], (3, 2)),
        (stored(4, 1, 0, prefill=3, generate=1), [[0]], (3, 2)),
        (stored(5, 1, 0, 1, prefill=3, generate=2), [], (3, 2)),
    ],
    ids=["prefill", "prompt", "generate", "end"],
)
def test_what_a_session_is_asked_when_it_goes_on(
    state: RunState,
    asked: list[object],
    tokens: tuple[int, int],
    hand_graph: Graph,
    hand_mapping: Mapping,
) -> None:
    session, heard = Diary(hand_mapping), []
    job = Job(np.array([[1, 0, 0]]), 3, keep_logits=False)
    saving = Saving(0, lambda _: None, state)
    result = drive(hand_graph, session, job, 2, lambda *said: heard.append(said), 0.25, saving)
    assert session.asked == ["reset", [-state.fed], *asked]
    assert result.chosen.tolist() == [[1, 0, 1]]
    assert (result.prefill.tokens, result.generate.tokens) == tokens
    assert result.seconds["start"] == 0.25
    assert 100 <= result.seconds["prefill"] < 101
    assert 1000 <= result.seconds["generate"] < 1001
    whole = [
        ("prefill", 3, 3, ()),
        ("generate", 1, 3, [1]),
        ("generate", 2, 3, [0]),
        ("generate", 3, 3, [1]),
    ]
    assert heard == whole[len(whole) - len(heard) :]
    assert len(heard) == {1: 4, 3: 2, 4: 1, 5: 0}[state.fed]


def test_a_state_belongs_to_runs_of_any_length(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """What was chosen beyond the tokens that are asked for now is left out."""
    state = stored(3, 1, prefill=3)
    for new in (0, 1, 2, 6):
        job = Job(np.array([[1, 0, 0]]), new, keep_logits=False)
        result = drive(
            hand_graph, Diary(hand_mapping), job, 2, silent, 0.0, Saving(0, lambda _: None, state)
        )
        assert result.chosen.tolist() == [[1, 0, 1, 0, 1, 0][:new]]
        assert result.generate.tokens == max(new - 1, 0)


def test_draws_go_on_as_if_nothing_had_happened(hand_graph: Graph, hand_mapping: Mapping) -> None:
    job = Job(np.array([[1, 0, 0]]), 40, Sampling(3, 8), keep_logits=False)
    written: list[RunState] = []
    whole = drive(hand_graph, Diary(hand_mapping), job, 2, silent, 0.0, Saving(1, written.append))
    assert len(written) == 41
    assert len(set(whole.chosen[0].tolist())) == 2
    for state in written:
        saving = Saving(0, lambda _: None, state)
        rest = drive(hand_graph, Diary(hand_mapping), job, 2, silent, 0.0, saving)
        assert rest.chosen.tolist() == whole.chosen.tolist()
