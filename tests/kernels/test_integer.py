"""How tokens are laid out for the engine `gpu`, and how they are scored where the logits are."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from mmfree_kernels.integer import scores, walk
from mmfree_kernels.integer.walk import plan, read
from mmfree_neuro.graph.nodes import mark
from mmfree_neuro.run.scores import nats

pytestmark = pytest.mark.kernels


def test_sequences_that_lie_in_one_piece_stay_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walk, "PIECE", 2)
    marks = mark(np.array([3, 3, 3, 0, 1]), np.array([True, False, False, True, False]))
    planned = plan(np.array([5, 6, 7, 8, 9]), marks)
    assert planned.order is None
    assert planned.shape == (5, 3, 4)
    found = read(torch.from_numpy(planned.numbers), planned.shape)
    assert found.tokens.tolist() == [5, 6, 7, 8, 9]
    assert found.marks.tolist() == [9, 8, 8, 3, 4]
    assert found.sequences.bounds.tolist() == [0, 3, 4, 5]
    assert found.sequences.slots.tolist() == [3, 0, 1]
    assert found.pieces.bounds.tolist() == [0, 2, 3, 4, 5]
    assert found.pieces.slots.tolist() == [3, 3, 0, 1]


def test_sequences_that_lie_apart_are_brought_together() -> None:
    planned = plan(np.array([5, 6, 7, 8]), mark(np.array([2, 0, 2, 0]), np.zeros(4, np.bool_)))
    assert planned.order is not None
    assert planned.order.tolist() == [1, 3, 0, 2]
    found = read(torch.from_numpy(planned.numbers), planned.shape)
    assert found.tokens.tolist() == [6, 8, 5, 7]
    assert found.sequences.slots.tolist() == [0, 2]


def test_losses_are_those_of_numpy(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that are longer than what is looked at together, and padded; of equal logits the
    first is chosen."""
    monkeypatch.setattr(scores, "BLOCK", 8)
    logits = np.random.default_rng(1).integers(-4000, 4000, (5, 21))
    logits[0, [3, 17]] = 5000
    logits[1] = -7
    logits[2, 20] = 30000
    at, following = np.array([0, 1, 2, 4, 4, 3]), np.array([17, 0, 20, 5, 9, 9])
    for kind in (torch.int16, torch.int32):
        there = torch.full((5, 32), 32767, dtype=kind, device=device)
        there[:, :21] = torch.from_numpy(logits)
        asked = torch.from_numpy(np.stack([at, following]).astype(np.int32)).to(device)
        lost, chosen = scores.losses(there[:, :21], *asked, 2.0**-9)
        assert chosen.tolist() == logits[at].argmax(-1).tolist()
        expected = nats(logits[at] * 2.0**-9, following)
        assert np.allclose(lost.cpu().numpy(), expected, rtol=1e-13)
        assert [len(found) for found in scores.losses(there, *asked[:, :0], 1.0)] == [0, 0]
