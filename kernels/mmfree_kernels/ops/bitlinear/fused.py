"""BitLinear on a GPU: norms and quantisers (`rows`), ternary codes (`ternary`), the product of
int8s (`product`)."""

from mmfree_kernels.ops.bitlinear.checks import check
from mmfree_kernels.ops.bitlinear.codes import ternarise, ternary_as
from mmfree_kernels.ops.bitlinear.product import RATES, Tiles, int8_product, int8_sums
from mmfree_kernels.ops.bitlinear.rows import activations, normalise, normalise_backward

__all__ = [
    "RATES",
    "Tiles",
    "activations",
    "check",
    "int8_product",
    "int8_sums",
    "normalise",
    "normalise_backward",
    "ternarise",
    "ternary_as",
]
