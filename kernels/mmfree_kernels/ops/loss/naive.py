"""The loss of the ternary head in plain torch, with straight-through gradients, in float32 or
wider."""

from torch import Tensor
from torch.nn import functional

from mmfree_kernels.ops.bitlinear.naive import quantise_activations, ternarise
from mmfree_kernels.ops.mlgru.naive import normalised, widened
from mmfree_neuro.hgrn_bit.config import BITLINEAR_EPS


def _straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    return x + (quantised - x).detach()


def linear_cross_entropy(
    x: Tensor, outer_gain: Tensor, outer_eps: float, weight: Tensor, gain: Tensor, targets: Tensor
) -> Tensor:
    """Mean cross-entropy of the logits BIT(RMS(x); weight) of rows x [m, h], over the targets [m]
    that are not -100.

    outer_gain [h] is the gain of the norm before the head, gain [h] that within it, weight [v, h]
    the latent one. 0 if every target is -100.
    """
    y = normalised(normalised(widened(x), outer_gain, outer_eps), gain, BITLINEAR_EPS)
    q, s = quantise_activations(y)
    latent = widened(weight)
    codes, scale = ternarise(latent)
    logits = _straight_through(y, q / s) @ _straight_through(latent, codes * scale).mT
    counted = (targets != -100).sum().clamp(min=1)
    return functional.cross_entropy(logits, targets, reduction="sum") / counted
