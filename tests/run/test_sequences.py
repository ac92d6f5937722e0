"""Which tokens come next, and whose each slot is."""

import numpy as np
import pytest

from mmfree_neuro.errors import EngineError
from mmfree_neuro.graph.nodes import mark
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.job import Asked, Job, Stand
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.sequences import NOWHERE, Seats, Walk

NOTHING = Activity(0, *(np.zeros(0, np.int64) for _ in range(6)))
STOP = 9


def walk(prompt: list[int], new_tokens: int, slot: int = 2) -> Walk:
    return Walk(0, Asked(np.array(prompt), new_tokens, Sampling()), (STOP,), slot)


def logits(token: int) -> np.ndarray:
    """Logits of which that token has the largest."""
    found = np.zeros(10, np.int64)
    found[token] = 1
    return found


class Logits:
    """A model that sends logits."""

    greedy, logit_scale, vocabulary = False, 1.0, 10


class Words:
    """One that chooses words itself."""

    greedy, vocabulary = True, 10


def test_a_prompt_and_its_continuation() -> None:
    one = walk([5, 6, 7], 3)
    assert (one.length, one.end, one.ready, one.prompting) == (3, 5, 3, True)
    tokens, marks = one.take(2)
    assert (tokens.tolist(), marks.tolist(), one.ready) == ([5, 6], [7, 6], 1)
    assert one.arrived(logits(1), Logits) is None
    assert one.take(1)[0].tolist() == [7]
    assert (one.prompting, one.ready) == (False, 0)
    assert one.arrived(logits(1), Logits) is None
    assert one.arrived(logits(4), Logits) == 4
    assert (one.ready, one.ended) == (1, False)
    tokens, marks = one.take(1)
    assert (tokens.tolist(), marks.tolist(), one.ready) == ([4], [6], 0)
    assert one.arrived(logits(8), Logits) == 8
    assert one.take(1)[0].tolist() == [8]
    assert one.arrived(logits(3), Logits) == 3
    assert (one.chosen, one.ended, one.ready) == ([4, 8, 3], True, 0)


def test_a_sequence_that_comes_to_its_end() -> None:
    one = walk([5], 100)
    one.take(1)
    assert one.arrived(logits(STOP), Logits) == STOP
    assert (one.ended, one.end, one.ready, one.chosen) == (True, 1, 0, [STOP])


def test_words_that_the_model_chooses() -> None:
    one = walk([5, 6], 100)
    one.take(2)
    assert one.arrived(np.array([1]), Words) is None
    assert one.arrived(np.array([1], np.int32), Words) == 0
    one.take(1)
    assert one.arrived(np.array([STOP + 1]), Words) == STOP
    assert (one.chosen, one.ended) == ([0, STOP], True)


@pytest.mark.parametrize("word", [-1, 0, 11])
def test_a_word_that_is_none(word: int) -> None:
    one = walk([5], 100)
    one.take(1)
    with pytest.raises(EngineError) as error:
        one.arrived(np.array([word]), Words)
    assert str(error.value) == f"the model chose word {word}, must be 1 … 10"


def test_a_sequence_that_chooses_nothing() -> None:
    one = walk([5, 5], 0)
    one.take(2)
    assert [one.arrived(logits(1), Logits) for _ in range(2)] == [None, None]
    assert (one.ended, one.chosen) == (True, [])


def job(in_flight: int, *lengths: int) -> Job:
    return Job([np.arange(length) for length in lengths], 2, in_flight=in_flight)


def test_the_next_sequence_takes_the_slot_of_one_that_has_ended() -> None:
    seats = Seats(job(2, 1, 4, 1, 1))
    seats.seat()
    assert [(one.number, one.slot) for one in seats.seated] == [(0, 0), (1, 1)]
    first = seats.walks[0]
    for _ in range(2):
        first.take(1)
        first.arrived(logits(1), Logits)
    seats.seat()
    assert [(one.number, one.slot) for one in seats.seated] == [(1, 1), (2, 0)]
    assert (first.slot, seats.fed, seats.sent, seats.ended) == (NOWHERE, 2, 2, False)


def test_those_that_generate_come_first() -> None:
    """A token of each of them, and of prompts what else has room."""
    seats = Seats(job(3, 1, 9, 9))
    seats.seat()
    assert [(one.number, count) for one, count in seats.gathered(12)] == [(0, 1), (1, 9), (2, 2)]
    seats.walks[1].take(9)
    for _ in range(9):
        seats.walks[1].arrived(logits(1), Logits)
    gathered = [(one.number, count) for one, count in seats.gathered(4)]
    assert gathered == [(1, 1), (0, 1), (2, 2)]
    assert seats.ready == 1 + 1 + 9


def stand(slot: int, fed: int, *chosen: int) -> Stand:
    return Stand(slot, fed, np.array(chosen, np.int64), NOTHING, NOTHING)


def test_sequences_go_on_where_they_stood() -> None:
    stands = [stand(NOWHERE, 2, 4, 4), stand(5, 4, 7), stand(NOWHERE, 0)]
    seats = Seats(job(6, 1, 4, 1), stands)
    seats.seat()
    assert [(one.number, one.slot, one.fed) for one in seats.seated] == [(1, 5, 4), (2, 0, 0)]
    tokens, marks = seats.walks[1].take(1)
    assert (tokens.tolist(), marks.tolist()) == ([7], [12])
    assert marks[0] == mark(np.array(5), np.array(False))


@pytest.mark.parametrize("in_flight", [1, 2])
def test_fewer_may_be_under_way_than_before(in_flight: int) -> None:
    """Those that have slots keep them; others wait until there is room."""
    stands = [stand(0, 1, 7), stand(3, 1, 7), stand(1, 1, 7), stand(NOWHERE, 0)]
    seats = Seats(job(in_flight, 1, 1, 1, 1), stands)
    seats.seat()
    assert [one.slot for one in seats.walks] == [0, 3, 1, NOWHERE]
