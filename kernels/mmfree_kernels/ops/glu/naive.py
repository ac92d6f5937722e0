"""The gated linear unit before its down projection, in plain torch.

    v = gate · sigmoid(gate) · up
    y = v / sqrt(mean(v²) + 1e-6) · gain

and y as the 8-bit codes of BitLinear.
"""

from torch import Tensor

from mmfree_kernels.ops.bitlinear.naive import quantise_activations, rms_norm
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of gate_up [..., 2n], gates first; float32 [..., n]."""
    gate, up = gate_up.float().chunk(2, -1)
    return gate * gate.sigmoid() * up


def gate_normalise(gate_up: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (as floats) [..., n] of the down projection's input, and their factors s [..., 1]."""
    return quantise_activations(rms_norm(gated(gate_up), gain, BITLINEAR_EPS))
