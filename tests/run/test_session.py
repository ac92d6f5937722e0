"""A job is checked, and driven the same way whatever the engine."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmfree_neuro.errors import InputError
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.nodes import Graph, slots_of
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.run.activity import Activity, nothing
from mmfree_neuro.run.job import Job, RunState, Saving, Stand, check, check_saving, silent
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.session import drive, marked

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
    "one-backwards": (
        Job([np.array([0]), np.array([1])], [2, -1]),
        "-1 new tokens were asked for, must not be negative",
    ),
    "no-sequence": (Job([]), "the job has no sequence, must have at least one"),
    "no-token": (
        Job([np.array([1]), np.zeros(0, np.int64)]),
        "the tokens of a sequence have shape [0], must be [time] with at least one token",
    ),
    "a-table": (
        Job([np.array([1]), np.array([[1, 0]])]),
        "the tokens of a sequence have shape [1, 2], must be [time] with at least one token",
    ),
    "a-number": (
        Job([np.array(1)]),
        "the tokens of a sequence have shape [], must be [time] with at least one token",
    ),
    "one-of-floats": (
        Job([np.array([1]), np.array([0.5])]),
        "the tokens are float64, must be integers",
    ),
    "one-too-high": (
        Job([np.array([1]), np.array([0, 5])]),
        "token 5 is outside the vocabulary, must be 0 … 1",
    ),
    "new-tokens-of-others": (
        Job(np.array([[0], [1]]), [1, 2, 3]),
        "new_tokens is there for 3 sequences, must be for 2",
    ),
    "draws-of-others": (
        Job(np.array([[0], [1]]), 1, [Sampling()]),
        "sampling is there for 1 sequences, must be for 2",
    ),
    "none-in-flight": (
        Job(np.array([[0]]), in_flight=0),
        "0 sequences in flight were asked for, must be 1 … 1",
    ),
    "too-many-in-flight": (
        Job(np.array([[0], [1]]), in_flight=2),
        "2 sequences in flight were asked for, must be 1 … 1; map the graph for more with "
        "--in-flight",
    ),
}


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (
            Job(np.array([[0]])),
            "the chips choose the words here, so no logits come to the host; a mapping without "
            "greedy-on-chips has them",
        ),
        (
            Job([np.array([0])] * 2, 1, [Sampling(), Sampling(0.5)], keep_logits=False),
            "the chips choose the words here, and greedily, so the temperature is 0.5, must be 0; "
            "a mapping without greedy-on-chips can draw",
        ),
    ],
)
def test_jobs_of_models_that_choose_words_themselves(
    job: Job, message: str, random_graph: Callable[[str, str], Graph]
) -> None:
    with pytest.raises(InputError) as error:
        check(with_greedy(random_graph("16x1x24", "a14-late")), job)
    assert str(error.value) == message


@pytest.mark.parametrize("case", WRONG)
def test_jobs_that_do_not_fit(case: str, hand_graph: Graph) -> None:
    job, message = WRONG[case]
    with pytest.raises(InputError) as error:
        check(hand_graph, job)
    assert str(error.value) == message


class Diary:
    """A session that gives logits [token, 1] and writes down what it is asked."""

    def __init__(self, mapping: Mapping, slots: int = 1) -> None:
        self.mapping = mapping
        self.asked: list[object] = []
        self.marks: list[list[int]] = []
        self.tokens = [0] * slots

    def reset(self) -> None:
        self.asked.append("reset")

    def feed(self, tokens: Ints, marks: Ints | None = None) -> Ints:
        self.asked.append(tokens.tolist())
        self.marks.append(marked(tokens, marks).tolist())
        for slot in slots_of(marked(tokens, marks)).tolist():
            self.tokens[slot] += 1
        return np.stack([tokens, np.ones(len(tokens), np.int64)], 1)

    def take_activity(self, slot: int = 0) -> Activity:
        taken = Activity(self.tokens[slot], *nothing(self.mapping).arrays()[1:])
        self.tokens[slot] = 0
        return taken

    def states(self) -> dict[str, Ints]:
        self.asked.append("states")
        return {"h": np.array([self.tokens])}

    def restore(self, states: dict[str, Ints]) -> None:
        self.asked.append(states["h"].tolist())


def test_tokens_without_marks_are_of_one_sequence_that_goes_on() -> None:
    assert marked(np.array([7, 8, 9]), None).tolist() == [2, 2, 2]
    assert marked(np.array([7, 8]), np.array([5, 3])).tolist() == [5, 3]


def test_what_a_session_is_asked(hand_graph: Graph, hand_mapping: Mapping) -> None:
    session, heard = Diary(hand_mapping), []
    job = Job(np.array([[1, 0, 0], [0, 1, 1]]), 3)
    result = drive(hand_graph, session, job, 2, lambda *said: heard.append(said), 0.25)
    # Greedy: [0, 1] gives token 1, and [1, 1] the first of equals.
    assert session.asked == [[1, 0], [0], [1], [0], [0, 1], [1], [0], [1]]
    # The first token of a sequence says so.
    assert session.marks == [[3, 2], [2], [2], [2], [3, 2], [2], [2], [2]]
    assert result.chosen.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert result.logits[..., 0].tolist() == [[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]]
    assert (result.prefill.tokens, result.generate.tokens) == (6, 4)
    assert heard == [
        ("prefill", 2, 6, ()),
        ("prefill", 3, 6, ()),
        ("generate", 1, 6, (1,)),
        ("generate", 2, 6, (0,)),
        ("generate", 3, 6, (1,)),
        ("prefill", 5, 6, ()),
        ("prefill", 6, 6, ()),
        ("generate", 4, 6, (0,)),
        ("generate", 5, 6, (1,)),
        ("generate", 6, 6, (0,)),
    ]
    assert set(result.seconds) == {"start", "prefill", "generate"}
    assert result.seconds["start"] == 0.25


def with_room(graph: Graph, slots: int) -> Graph:
    """The graph made by hand with slots for several sequences."""
    return replace(graph, nodes=(replace(graph.embedding, slots=slots), graph.head))


THREE = Job([np.array([1, 0, 0]), np.array([0, 1]), np.array([1])], [2, 2, 1], in_flight=2)
"""Sequences of all lengths, two of them under way at once."""


def test_what_a_session_is_asked_for_several_sequences_at_once(
    hand_graph: Graph, hand_mapping: Mapping
) -> None:
    """One token of each that generates, then of prompts what has room; the third sequence takes the
    slot that the first has left."""
    session, heard = Diary(hand_mapping, 2), []
    graph = with_room(hand_graph, 2)
    result = drive(graph, session, THREE, 4, lambda *said: heard.append(said), 0.25)
    assert session.asked == [[1, 0, 0, 0], [1, 1], [0, 1]]
    assert session.marks == [[3, 2, 2, 5], [2, 4], [4, 3]]
    assert [one.chosen.tolist() for one in result.outcomes] == [[1, 0], [0, 1], [0]]
    assert [one.logits[:, 0].tolist() for one in result.outcomes] == [[1, 0, 0, 1], [0, 1, 0], [1]]
    assert [(one.prefill.tokens, one.generate.tokens) for one in result.outcomes] == [
        (3, 1),
        (2, 1),
        (1, 0),
    ]
    assert (result.prefill.tokens, result.generate.tokens) == (6, 2)
    assert heard == [
        ("prefill", 3, 6, ()),
        ("generate", 1, 5, (1,)),
        ("prefill", 4, 6, ()),
        ("generate", 2, 5, (0,)),
        ("prefill", 5, 6, ()),
        ("generate", 3, 5, (0,)),
        ("generate", 4, 5, (1,)),
        ("prefill", 6, 6, ()),
        ("generate", 5, 5, (0,)),
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3, 64])
@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_sequences_give_the_same_in_any_order(
    in_flight: int, chunk: int, hand_graph: Graph, hand_mapping: Mapping
) -> None:
    """With room for more than are asked for, too."""
    job = replace(THREE, in_flight=in_flight)
    session = Diary(hand_mapping, 3)
    result = drive(with_room(hand_graph, 3), session, job, chunk, silent, 0.0)
    assert max(max(marks) for marks in session.marks) == 2 * in_flight + 1
    assert max(map(len, session.marks)) <= chunk
    assert [one.chosen.tolist() for one in result.outcomes] == [[1, 0], [0, 1], [0]]
    assert [one.logits[:, 0].tolist() for one in result.outcomes] == [[1, 0, 0, 1], [0, 1, 0], [1]]
    assert [(one.prefill.tokens, one.generate.tokens) for one in result.outcomes] == [
        (3, 1),
        (2, 1),
        (1, 0),
    ]


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
    assert session.asked == [[1, 1], [0]]
    assert result.chosen.tolist() == [[0, 1]]
    assert result.logits.shape == (1, 3 if keep else 0, 2)
    assert (result.prefill.tokens, result.generate.tokens) == (2, 1)
    assert heard == [("prefill", 2, 2, ()), ("generate", 1, 9, (0,)), ("generate", 2, 9, (1,))]


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("keep", [True, False])
def test_sequences_end_each_by_itself(
    keep: bool, in_flight: int, hand_graph: Graph, hand_mapping: Mapping
) -> None:
    """At a token, or after as many as were asked for; 1 follows 0, and 0 follows 1."""
    prompts = [np.array([1, 1]), np.array([0]), np.array([1])]
    job = Job(prompts, [9, 9, 1], keep_logits=keep, stop=(7, 1), in_flight=in_flight)
    result = drive(with_room(hand_graph, 2), Diary(hand_mapping, 2), job, 8, silent, 0.0)
    assert [one.chosen.tolist() for one in result.outcomes] == [[0, 1], [1], [0]]
    fed = [3, 1, 1] if keep else [0, 0, 0]
    assert [one.logits.shape for one in result.outcomes] == [(length, 2) for length in fed]
    assert [(one.prefill.tokens, one.generate.tokens) for one in result.outcomes] == [
        (2, 1),
        (1, 0),
        (1, 0),
    ]


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
    (asked,) = Job(np.zeros((1, 5), np.int64), new).sequences
    assert asked.fed_for(asked.new_tokens) == fed


def test_what_is_asked_of_each_sequence() -> None:
    """One value for all, or one for each; where each begins among what all give."""
    draws = [Sampling(0.5, seed) for seed in range(3)]
    job = Job([np.arange(4), np.arange(1), np.arange(2)], [3, 0, 1], draws)
    assert [asked.tokens.tolist() for asked in job.sequences] == [[0, 1, 2, 3], [0], [0, 1]]
    assert [asked.new_tokens for asked in job.sequences] == [3, 0, 1]
    assert [asked.sampling for asked in job.sequences] == draws
    assert (job.prompted, job.to_choose) == (7, 4)
    assert (job.chosen_from, job.kept_from) == ([0, 3, 3, 4], [0, 6, 7, 9])
    assert replace(job, keep_logits=False).kept_from == [0, 0, 0, 0]
    alike = Job(np.zeros((2, 3), np.int64), 2, draws[1])
    assert [(asked.new_tokens, asked.sampling) for asked in alike.sequences] == [(2, draws[1])] * 2


def test_when_a_state_is_saved() -> None:
    """Every so many tokens; `drive` leaves out the end of the run."""
    every, never = Saving(3, lambda _: None), Saving(0, lambda _: None)
    assert [fed for fed in range(1, 13) if every.due(fed)] == [3, 6, 9, 12]
    assert [every.until(fed) for fed in range(7)] == [3, 2, 1, 3, 2, 1, 3]
    assert not any(never.due(fed) for fed in range(13))
    assert {never.until(fed) for fed in range(13)} == {None}


def stand_at(fed: int, *chosen: int, prefill: int = 0, generate: int = 0, slot: int = 0) -> Stand:
    """Where a sequence of the graph made by hand stands, with three shards and three routes."""
    counts = [
        Activity(tokens, *(np.zeros(n, np.int64) for n in (3, 3, 3, 3, 3, 3)))
        for tokens in (prefill, generate)
    ]
    return Stand(slot, fed, np.array(chosen, np.int64), *counts)


def stored(fed: int, *chosen: int, prefill: int = 0, generate: int = 0) -> RunState:
    """A state of one sequence."""
    stand = stand_at(fed, *chosen, prefill=prefill, generate=generate)
    seconds = {"start": 9.0, "prefill": 100.0, "generate": 1000.0}
    return RunState((stand,), {"h": np.array([[-fed]])}, seconds)


SAVINGS = {
    "negative": (
        Job(np.array([[0]]), keep_logits=False),
        Saving(-1, lambda _: None),
        "a state every -1 tokens was asked for, must not be negative",
    ),
    "logits": (
        Job(np.array([[0]])),
        Saving(0, lambda _: None),
        "only a run that keeps no logits can be saved",
    ),
    "logits-of-two": (
        Job(np.array([[0], [1]])),
        Saving(1, lambda _: None),
        "only a run that keeps no logits can be saved",
    ),
    "one-too-short": (
        Job([np.array([1]), np.array([0, 1, 0])], [9, 3], keep_logits=False),
        Saving(
            0, lambda _: None, RunState((stand_at(1, 0), stand_at(6, 1, 0, 1, 0, slot=-1)), {}, {})
        ),
        "the saved state is 6 tokens into the run, must be at most 5; ask for more tokens",
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
    check_saving(Job(np.array([[0], [1]]), keep_logits=False), Saving(1, lambda _: None))


def seen(state: RunState) -> tuple[int, list[int], int, int]:
    """What a state of one sequence, which is under way, says."""
    (stand,) = state.stands
    assert stand.slot == 0
    assert state.fed == stand.fed
    return stand.fed, stand.chosen.tolist(), stand.prefill.tokens, stand.generate.tokens


def test_what_a_session_is_asked_when_it_is_saved(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """No chunk passes a token whose state is saved; what is handed out is as it was then."""
    session, written = Diary(hand_mapping), []
    job = Job(np.array([[1, 0, 0, 1, 0]]), 4, keep_logits=False)
    result = drive(hand_graph, session, job, 2, silent, 0.25, Saving(3, written.append))
    assert session.asked == [[1, 0], [0], "states", [1, 0], [1], "states", [0], [1]]
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


SAVED = replace(THREE, keep_logits=False)
Seen = list[tuple[int, int, list[int], int, int]]


def all_seen(state: RunState) -> Seen:
    """What a state says of every sequence."""
    return [
        (one.slot, one.fed, one.chosen.tolist(), one.prefill.tokens, one.generate.tokens)
        for one in state.stands
    ]


def test_states_of_several_sequences(hand_graph: Graph, hand_mapping: Mapping) -> None:
    """Every three tokens of all together: no chunk passes them, none is saved at the end."""
    session, written = Diary(hand_mapping, 2), []
    graph, saving = with_room(hand_graph, 2), Saving(3, written.append)
    drive(graph, session, SAVED, 4, silent, 0.0, saving)
    assert session.asked == [[1, 0, 0], "states", [1, 0, 1], "states", [0, 1]]
    assert session.marks == [[3, 2, 2], [2, 5, 4], [4, 3]]
    assert [all_seen(state) for state in written] == [
        [(0, 3, [1], 3, 0), (-1, 0, [], 0, 0), (-1, 0, [], 0, 0)],
        # The first has ended, and the third has not been fed.
        [(-1, 4, [1, 0], 3, 1), (1, 2, [0], 2, 0), (-1, 0, [], 0, 0)],
    ]
    assert [state.fed for state in written] == [3, 6]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_several_sequences_go_on_from_every_state(
    in_flight: int, hand_graph: Graph, hand_mapping: Mapping
) -> None:
    """With fewer or more of them under way than before, too."""
    graph, job = with_room(hand_graph, 3), replace(SAVED, sampling=Sampling(3, 8))
    job = replace(job, new_tokens=[7, 0, 5])
    written: list[RunState] = []
    saving = Saving(1, written.append)
    whole = drive(graph, Diary(hand_mapping, 3), job, 2, silent, 0.0, saving)
    assert len({tuple(one.chosen.tolist()) for one in whole.outcomes}) == 3
    assert [state.fed for state in written] == list(range(1, 16))
    other = replace(job, in_flight=in_flight)
    for state in written:
        saving = Saving(0, lambda _: None, state)
        rest = drive(graph, Diary(hand_mapping, 3), other, 2, silent, 0.0, saving)
        for found, expected in zip(rest.outcomes, whole.outcomes, strict=True):
            assert found.chosen.tolist() == expected.chosen.tolist()
            assert found.prefill.tokens == expected.prefill.tokens
            assert found.generate.tokens == expected.generate.tokens


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
    assert session.asked == [[[-state.fed]], *asked]
    assert {mark for marks in session.marks for mark in marks} <= {2}
    assert result.chosen.tolist() == [[1, 0, 1]]
    assert (result.prefill.tokens, result.generate.tokens) == tokens
    assert result.seconds["start"] == 0.25
    assert 100 <= result.seconds["prefill"] < 101
    assert 1000 <= result.seconds["generate"] < 1001
    whole = [
        ("prefill", 3, 3, ()),
        ("generate", 1, 3, (1,)),
        ("generate", 2, 3, (0,)),
        ("generate", 3, 3, (1,)),
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
