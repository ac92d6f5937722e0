"""Ternary codes are those of the published kernel, and survive being stored."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.errors import InputError
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import harden
from mmfree_neuro.lowering.scheme import SCHEMES, scheme_named
from mmfree_neuro.lowering.ternarise import ternarise
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.tensors import to_bfloat16

MATRICES = st.tuples(
    st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 33), st.floats(1e-3, 1e3)
)


def matrix(drawn: tuple[int, int, int, float]) -> np.ndarray:
    """A random matrix of some spread."""
    seed, rows, columns, spread = drawn
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * spread).astype(
        np.float32
    )


def in_bfloat16(x: np.ndarray) -> np.ndarray:
    """What is left of float32 values that were stored in bfloat16."""
    return (to_bfloat16(np.ascontiguousarray(x)).astype(np.uint32) << np.uint32(16)).view(
        np.float32
    )


@pytest.mark.parametrize(
    ("weight", "codes", "scale"),
    [
        ([[1.0, 0.5, -0.5], [0.0, 0.25, -0.75]], [[1, 1, -1], [0, 0, -1]], 0.5),
        ([[3.0, -1.0, 1.0], [1.0, -1.0, -5.0]], [[1, 0, 0], [0, 0, -1]], 2.0),  # halves to even
        ([[0.0, 0.0], [0.0, 0.0]], [[0, 0], [0, 0]], float(np.float32(1e-5))),
        ([[8e-6, 0.0], [0.0, 0.0]], [[1, 0], [0, 0]], float(np.float32(1e-5))),
    ],
)
def test_ternarise_by_hand(weight: list[list[float]], codes: list[list[int]], scale: float) -> None:
    found, its_scale = ternarise(np.array(weight, np.float32))
    assert found.dtype == np.int8
    assert found.tolist() == codes
    assert its_scale == scale


def test_ternarise_as_the_float_model_does() -> None:
    torch = pytest.importorskip("torch")
    from mmfree_kernels.ops.bitlinear import naive

    weight = matrix((1, 64, 96, 0.05))
    codes, scale = ternarise(weight)
    expected, its_scale = naive.ternarise(torch.from_numpy(weight))
    assert np.array_equal(codes, expected.numpy())
    assert abs(scale / float(its_scale) - 1) < 2**-22


@given(MATRICES)
def test_hardened_weights_have_the_same_codes_and_scale_and_survive_bfloat16(
    drawn: tuple[int, int, int, float],
) -> None:
    weight = matrix(drawn)
    hardened = harden(Checkpoint(ModelConfig(), {"lm_head.weight": weight})).tensors[
        "lm_head.weight"
    ]
    codes, scale = ternarise(weight)
    again, its_scale = ternarise(hardened)
    assert hardened.dtype == np.float32
    assert np.array_equal(again, codes)
    assert abs(its_scale / scale - 1) < 2**-20
    stored, stored_scale = ternarise(in_bfloat16(hardened))
    assert np.array_equal(stored, codes)
    assert abs(stored_scale / scale - 1) < 2**-8


def test_harden_touches_only_ternary_matrices(bounded_checkpoint: Checkpoint) -> None:
    hardened = harden(bounded_checkpoint)
    assert hardened.config is bounded_checkpoint.config
    assert hardened.tensors.keys() == bounded_checkpoint.tensors.keys()
    changed = {n for n, w in hardened.tensors.items() if w is not bounded_checkpoint.tensors[n]}
    assert changed == {n for n in hardened.tensors if n.endswith("_proj.weight")} | {
        "lm_head.weight"
    }
    for name in changed:
        assert np.unique(np.abs(hardened.tensors[name])).size == 2


def test_harden_leaves_a_matrix_of_zeros() -> None:
    zeros = np.zeros((2, 3), np.float32)
    assert (
        harden(Checkpoint(ModelConfig(), {"lm_head.weight": zeros})).tensors["lm_head.weight"]
        is zeros
    )


def test_schemes_by_name() -> None:
    assert scheme_named("a16") is SCHEMES["a16"]
    assert all(name == scheme.name for name, scheme in SCHEMES.items())
    with pytest.raises(InputError) as error:
        scheme_named("a4")
    assert str(error.value) == "scheme 'a4' is not known, must be one of a14, a16, a8"
    assert scheme_named("a14", "before") == replace(SCHEMES["a14"], root="before")
    with pytest.raises(InputError) as error:
        scheme_named("a14", "beside")
    assert str(error.value) == "root 'beside' is not known, must be one of before, after"
