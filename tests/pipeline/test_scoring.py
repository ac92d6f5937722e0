"""Texts of any lengths are scored and continued, by the float model and on engines, as each alone
is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.lowering.scheme import scheme_named
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.pipeline import scoring
from mmfree_neuro.pipeline.engines import SCORERS, Scorer
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.pipeline.scoring import Integers, Texts, scored
from mmfree_neuro.run import reference
from mmfree_neuro.run.job import Job
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.run.scores import Asked
from mmfree_sims import fast

GOLDEN = Path(__file__).parents[1] / "golden"
GREEDY = Sampling()
A14 = scheme_named("a14")


def texts() -> list[np.ndarray]:
    """Three of different lengths."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, 64, size) for size in (5, 9, 2)]


def by_hand(graph: Graph, text: np.ndarray) -> np.ndarray:
    """The logits of a text alone, on the reference."""
    return reference.run(graph, in_one_place(graph), Job(text[None])).logits[0] * graph.logit_scale


@pytest.mark.parametrize("at_once", [1, 1 << 26])
def test_logits_are_those_of_each_text_alone(
    a16: Graph, tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "AT_ONCE", at_once)
    graph_file.save_graph(a16, tmp_path / "model.graph")
    model = scored(tmp_path / "model.graph", "fast", A14, in_flight=2)
    found = list(model.logits(texts()))
    assert [len(logits) for logits in found] == [5, 9, 2]
    for logits, text in zip(found, texts(), strict=True):
        assert np.array_equal(logits, by_hand(a16, text))


@pytest.mark.parametrize("scorer", [None, SCORERS["fast"]])
def test_what_is_scored_is_what_the_logits_say(a16: Graph, scorer: Scorer | None) -> None:
    """Whether the engine scores or sends logits."""
    by = Texts(Integers(a16, in_one_place(a16), fast.run, scorer))
    try:
        context, more = texts()[1][:6].tolist(), texts()[1][6:].tolist()
        likeliest = int(by_hand(a16, texts()[1][:6])[-1].argmax())
        found = by.score([(context, more), (context, [likeliest]), (context, more), ([3], [4])])
        nats = by_hand(a16, texts()[1])[5:8]
        nats = nats - np.log(np.exp(nats).sum(1, keepdims=True))
        assert found[0] == found[2] and found[0][0] == pytest.approx(nats[[0, 1, 2], more].sum())
        assert found[0][1] == (nats.argmax(1) == more).all()
        assert found[1][1] and found[1][0] > found[0][0] and not np.isnan(found[3][0])
    finally:
        by.close()


def test_a_continuation_ends_where_the_model_ends_it(a16: Graph) -> None:
    whole = Integers(a16, in_one_place(a16), fast.run)
    whole.eos = ()
    (alone,) = whole.continued(texts()[:1], [6], GREEDY)
    assert len(alone) == 6
    whole.eos = (int(alone[2]), -1, 10**6)
    found = whole.continued(texts()[:2], [6, 0], GREEDY)
    assert found[0].tolist() == alone[: list(alone).index(alone[2]) + 1].tolist()
    assert found[1].tolist() == []
    drawn = whole.continued(texts()[:1], [6], Sampling(5.0, seed=3))
    assert drawn[0].tolist() == whole.continued(texts()[:1], [6], Sampling(5.0, seed=3))[0].tolist()


def test_a_mapping_has_as_many_in_flight_as_it_is_for(
    a16: Graph, make_mapping: Callable[..., Mapping], tmp_path: Path
) -> None:
    from mmfree_neuro.api import Graph as Door

    path = Door(a16).map("kapoho-point", in_flight=3).save(tmp_path / "model.map")
    model = scored(path, "fast", A14)
    assert isinstance(model, Integers) and model.graph.slots == 3
    assert np.array_equal(next(model.logits(texts())), by_hand(a16, texts()[0]))


@pytest.mark.usefixtures("needs_torch")
def test_the_float_model_fills_up_shorter_texts() -> None:
    folder = GOLDEN / "a_h64_l2_v256" / "checkpoint"
    model = scored(folder, "float", A14)
    inputs, expected = (np.load(folder.parent / f"{name}.npy") for name in ("inputs", "logits"))
    found = list(model.logits([inputs[0], inputs[1][:7]]))
    assert [len(logits) for logits in found] == [inputs.shape[1], 7]
    assert np.abs(found[0] - expected[0]).max() < 1e-3
    assert np.abs(found[1] - expected[1][:7]).max() < 1e-3
    model.eos = ()
    (alone,) = model.continued([inputs[0][:5]], [4], GREEDY)
    model.eos = (int(alone[1]),)
    (ended,) = model.continued([inputs[0][:5]], [4], GREEDY)
    assert ended.tolist() == alone[: list(alone).index(alone[1]) + 1].tolist()
    with pytest.raises(InputError) as error:
        model.continued([inputs[0]], [4], Sampling(0.5))
    assert str(error.value) == "the temperature is 0.5, must be 0 on engine float"


@pytest.mark.usefixtures("needs_torch")
def test_a_checkpoint_is_converted_for_an_engine() -> None:
    folder = GOLDEN / "trained" / "checkpoint"
    model = scored(folder, "fast", A14, in_flight=4)
    assert isinstance(model, Integers)
    assert (model.graph.scheme, model.graph.slots) == ("a14", 4)
    by = Texts(model)
    try:
        assert by.decode(by.encode("import os")) == "import os" and by.encode("") == []
        (likely, _), (unlikely, _) = by.score(
            [(by.encode("import "), by.encode("os")), (by.encode("import "), by.encode("\x01"))]
        )
        assert likely > unlikely
        assert by.go_on([by.encode("import ")], [3], GREEDY)[0]
    finally:
        by.close()


def test_what_a_model_puts_before_a_text_is_left_out(a16: Graph) -> None:
    from dataclasses import replace

    for bos, first in ((7, 7), (None, 9)):
        model = Integers(a16, in_one_place(a16), fast.run)
        model.spelling = replace(model.spelling, vocabulary=256, bos=bos, as_bytes=True)
        model.bos, model.eos = bos, (9,)
        by = Texts(model)
        assert (by.encode("ab"), by.first) == ([97, 98], first)
        by.close()
    model.eos = ()
    assert Texts(model).first == 0


def test_what_cannot_be_scored_is_refused(a16: Graph, tmp_path: Path) -> None:
    graph_file.save_graph(a16, tmp_path / "model.graph")
    with pytest.raises(InputError) as wrong:
        scored(tmp_path / "model.graph", "float", A14)
    assert str(wrong.value) == (
        f"{tmp_path}/model.graph: engine float runs a checkpoint, must be a folder of one"
    )
    with pytest.raises(EngineError) as unknown:
        scored(tmp_path / "model.graph", "nope", A14)
    assert str(unknown.value) == (
        "engine 'nope' is not known, must be one of float, reference, fast, gpu, lava, "
        "lava-per-core, mpi"
    )


@pytest.mark.parametrize("wrong", [-1, 1_000_000])
@pytest.mark.parametrize("place", ["fed", "following"])
def test_tokens_outside_the_vocabulary_are_not_scored(wrong: int, place: str, a16: Graph) -> None:
    model = Integers(a16, in_one_place(a16), fast.run, SCORERS["fast"])
    fed = np.array([1, wrong if place == "fed" else 2])
    following = np.array([wrong if place == "following" else 2])
    with pytest.raises(InputError) as refused:
        model.answers([Asked(fed, np.zeros(1, int), following)])
    assert str(refused.value) == (
        f"token {wrong} is outside the vocabulary, must be 0 … {a16.vocabulary - 1}"
    )
