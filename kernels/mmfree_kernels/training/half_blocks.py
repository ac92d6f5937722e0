"""The float model on a GPU: two hand-written halves a block, which keep little for the backward
pass.

The parameters are those of `HGRNBitModel`, the equations those of `model`.  Products are of int8
with int8 forward and in the activation type backward; norms, gates and the recurrence are float32;
the residual stream keeps its own type. The activation type is autocast's where that is on, else the
weights'.

A half keeps its input and what `Recompute` does not have computed again.  Codes, states and
everything else between are computed again from these, one matrix at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmfree_kernels.float_model.model import BitLinear, Block, Head, HGRNBitModel
from mmfree_kernels.ops.bitlinear.fused import (
    activations,
    int8_product,
    normalise,
    normalise_backward,
    ternarise,
    ternary_as,
)
from mmfree_kernels.ops.glu.fused import gate_activations, gate_backward, gate_normalise
from mmfree_kernels.ops.loss.fused import linear_cross_entropy
from mmfree_kernels.ops.mlgru.fused import (
    gated_scan,
    gated_scan_backward,
    output_activations,
    output_backward,
    output_normalise,
)


@dataclass(frozen=True)
class Recompute:
    """What the backward pass computes again from a half's input, for a product more, instead of
    having it kept."""

    ifg: bool = False
    """The projections i, f and g: 6 bytes per channel of the state and token in bfloat16."""
    gate_up: bool = True
    """Gate and up: 4 bytes per channel of the gated linear unit and token in bfloat16."""


DEFAULT = Recompute()


def _activation_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _products(
    q: Tensor, s: Tensor, weights: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Products of activations [p, m, k], as codes and factors, with p latent weights, and the
    weights' scales."""
    outs, scales = [], []
    for codes, factors, weight in zip(q, s, weights, strict=True):
        ternary, scale = ternarise(weight)
        outs.append(int8_product(codes, factors, ternary, scale, dtype))
        scales.append(scale)
    return outs, scales


def _product_again(
    q: Tensor, s: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype
) -> Tensor:
    return int8_product(q, s, ternary_as(weight, scale, torch.int8), scale, dtype)


def _weight_gradient(grad: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """gradᵀ values, for grad [m, n] and the quantised activations [m, k], both of the activation
    type."""
    return (grad.mT @ values).to(weight.dtype)


def _input_gradient(grad: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The gradient [m, k] of the normalised activations, but for the factor `scale`, for grad [m,
    n]."""
    return grad @ ternary_as(weight, scale, grad.dtype)


class _TokenMixer(torch.autograd.Function):
    """x + o_proj(MLGRU(attn_norm(x))), and the last state."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        initial: Tensor,
        mask: Tensor | None,
        bound: Tensor | None,
        eps: float,
        dtype: torch.dtype,
        again: bool,
        outer: Tensor,
        g_norm: Tensor,
        *matrices: Tensor,
    ) -> tuple[Tensor, Tensor]:
        (*weights, o_weight), (*gains, o_gain) = matrices[:4], matrices[4:]
        shape = *x.shape[:2], -1
        flat = x.flatten(0, 1)
        (i, f, g), scales = _products(*normalise(flat, gains, outer, eps), weights, dtype)
        h, final = gated_scan(i.view(shape), f.view(shape), bound, mask, initial, dtype)
        q, s = output_normalise(g, h.flatten(0, 1), g_norm, eps, o_gain)
        codes, o_scale = ternarise(o_weight)
        out = int8_product(q, s, codes, o_scale, x.dtype, flat).view_as(x)
        kept = () if again else (i, f, g)
        ctx.save_for_backward(
            x, initial, mask, bound, outer, g_norm, *matrices, *scales, o_scale, *kept
        )
        ctx.eps, ctx.dtype = eps, dtype
        ctx.set_materialize_grads(False)
        return out, final

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, d_final: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, initial, mask, bound, outer, g_norm, *rest = ctx.saved_tensors
        weights, gains, scales, kept = rest[:4], rest[4:8], rest[8:12], rest[12:]
        eps, dtype, shape = ctx.eps, ctx.dtype, (*x.shape[:2], -1)
        x = x.flatten(0, 1)
        grad = torch.zeros_like(x) if grad is None else grad.contiguous().view_as(x)
        d_final = None if d_final is None else d_final.contiguous()
        if not kept:
            q, s = normalise(x, gains[:3], outer, eps)
            kept = [
                _product_again(*each, dtype)
                for each in zip(q, s, weights[:3], scales[:3], strict=True)
            ]
            del q, s
        i, f, g = kept
        i, f = i.view(shape), f.view(shape)
        h, _ = gated_scan(i, f, bound, mask, initial, dtype)
        h = h.flatten(0, 1)
        low = grad.to(dtype)
        d_o = _weight_gradient(
            low, output_activations(g, h, g_norm, eps, gains[3], dtype), weights[3]
        )
        dy = _input_gradient(low, weights[3], scales[3])
        dg, dh, d_g_norm, d_o_gain = output_backward(g, h, g_norm, eps, gains[3], dy, scales[3])
        del low, dy, g, h, kept
        di, df, d_bound, d_initial = gated_scan_backward(
            i, f, bound, mask, initial, dh.view(shape), d_final
        )
        del i, f, dh
        outs = [di.flatten(0, 1), df.flatten(0, 1), dg]
        del di, df, dg
        dx, d_weights, d_gains, d_outer = _inputs_backward(
            x, outer, eps, outs, weights[:3], gains[:3], scales[:3], grad
        )
        d_x = dx.view(*shape[:2], -1)
        d_norms = d_outer.to(outer.dtype), d_g_norm.to(g_norm.dtype)
        return (
            d_x,
            d_initial,
            None,
            d_bound,
            None,
            None,
            None,
            *d_norms,
            *d_weights,
            d_o,
            *d_gains,
            d_o_gain.to(gains[3].dtype),
        )


def _inputs_backward(
    x: Tensor,
    outer: Tensor,
    eps: float,
    outs: list[Tensor],
    weights: Sequence[Tensor],
    gains: Sequence[Tensor],
    scales: Sequence[Tensor],
    residual: Tensor | None,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Through BitLinears behind a norm with gains `outer`, from the gradients of what they put out.

    x [m, k]; `outs` [m, n] each, which is emptied; `residual` [m, k] is what reached x past them.
    The gradients of x, of the weights, of the gains and of `outer`.
    """
    d_weights, grads = [], []
    for weight, gain, scale in zip(weights, gains, scales, strict=True):
        grad = outs.pop(0)
        d_weights.append(
            _weight_gradient(grad, activations(x, gain, outer, eps, grad.dtype), weight)
        )
        grads.append(_input_gradient(grad, weight, scale))
        del grad
    dx, d_gains, d_outer = normalise_backward(x, gains, outer, eps, grads, residual, scales)
    assert d_outer is not None
    return (
        dx,
        d_weights,
        [d.to(gain.dtype) for d, gain in zip(d_gains, gains, strict=True)],
        d_outer,
    )


class _ChannelMixer(torch.autograd.Function):
    """x + down_proj(silu(gate) · up), gate and up from gate_proj(mlp_norm(x))."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        eps: float,
        dtype: torch.dtype,
        again: bool,
        outer: Tensor,
        gate_weight: Tensor,
        down_weight: Tensor,
        gate_gain: Tensor,
        down_gain: Tensor,
    ) -> Tensor:
        flat = x.flatten(0, 1)
        (gate_up,), (gate_scale,) = _products(
            *normalise(flat, [gate_gain], outer, eps), [gate_weight], dtype
        )
        q, s = gate_normalise(gate_up, down_gain)
        codes, down_scale = ternarise(down_weight)
        out = int8_product(q, s, codes, down_scale, x.dtype, flat)
        kept = () if again else (gate_up,)
        scales = gate_scale, down_scale
        ctx.save_for_backward(
            x, outer, gate_weight, down_weight, gate_gain, down_gain, *scales, *kept
        )
        ctx.eps, ctx.dtype = eps, dtype
        # No view for autograd: FSDP puts a hook on what a block gives, which a view could lose.
        return torch.ops.aten._unsafe_view(out, x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, outer, gate_weight, down_weight, gate_gain, down_gain, gate_scale, down_scale, *kept = (
            ctx.saved_tensors
        )
        eps, dtype, shape = ctx.eps, ctx.dtype, x.shape
        x = x.flatten(0, 1)
        grad = grad.contiguous().view_as(x)
        if not kept:
            (q,), (s,) = normalise(x, [gate_gain], outer, eps)
            kept = [_product_again(q, s, gate_weight, gate_scale, dtype)]
        gate_up = kept.pop()
        low = grad.to(dtype)
        d_down = _weight_gradient(low, gate_activations(gate_up, down_gain, dtype), down_weight)
        dy = _input_gradient(low, down_weight, down_scale)
        d_gate_up, d_down_gain = gate_backward(gate_up, down_gain, dy, down_scale)
        del low, dy, gate_up
        outs = [d_gate_up]
        del d_gate_up
        dx, (d_gate,), (d_gate_gain,), d_outer = _inputs_backward(
            x, outer, eps, outs, [gate_weight], [gate_gain], [gate_scale], grad
        )
        return (
            dx.view(shape),
            None,
            None,
            None,
            d_outer.to(outer.dtype),
            d_gate,
            d_down,
            d_gate_gain,
            d_down_gain.to(down_gain.dtype),
        )


class _Head(torch.autograd.Function):
    """Logits, float32, from the stream behind the last norm."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        eps: float,
        dtype: torch.dtype,
        outer: Tensor,
        weight: Tensor,
        gain: Tensor,
    ) -> Tensor:
        (logits,), (scale,) = _products(
            *normalise(x.flatten(0, 1), [gain], outer, eps), [weight], torch.float32
        )
        ctx.save_for_backward(x, outer, weight, gain, scale)
        ctx.eps, ctx.dtype = eps, dtype
        return logits.view(*x.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, outer, weight, gain, scale = ctx.saved_tensors
        outs = [grad.flatten(0, 1).to(ctx.dtype)]
        dx, (d_weight,), (d_gain,), d_outer = _inputs_backward(
            x.flatten(0, 1), outer, ctx.eps, outs, [weight], [gain], [scale], None
        )
        return dx.view_as(x), None, None, d_outer.to(outer.dtype), d_weight, d_gain


def token_mixer(
    block: Block,
    x: Tensor,
    bound: Tensor | None,
    mask: Tensor | None,
    initial: Tensor,
    recompute: Recompute = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """The first half of a block: x [batch, time, hidden] with what the token mixer adds, and the
    last state.

    bound [state], mask [batch, time] and initial [batch, state] are float32, as is the state
    [batch, state].
    """
    mixer = block.attn
    layers: tuple[BitLinear, ...] = (mixer.i_proj, mixer.f_proj, mixer.g_proj, mixer.o_proj)
    out: tuple[Tensor, Tensor] = _TokenMixer.apply(
        x,
        initial,
        mask,
        bound,
        block.eps,
        _activation_dtype(layers[0].weight),
        recompute.ifg,
        block.attn_norm.weight,
        mixer.g_norm.weight,
        *(layer.weight for layer in layers),
        *(layer.norm.weight for layer in layers),
    )
    return out


def channel_mixer(block: Block, x: Tensor, recompute: Recompute = DEFAULT) -> Tensor:
    """The second half of a block: x [batch, time, hidden] with what the channel mixer adds."""
    gate, down = block.mlp.gate_proj, block.mlp.down_proj
    out: Tensor = _ChannelMixer.apply(
        x,
        block.eps,
        _activation_dtype(gate.weight),
        recompute.gate_up,
        block.mlp_norm.weight,
        gate.weight,
        down.weight,
        gate.norm.weight,
        down.norm.weight,
    )
    return out


def _both(
    block: Block,
    x: Tensor,
    bound: Tensor | None,
    mask: Tensor | None,
    initial: Tensor,
    recompute: Recompute,
) -> tuple[Tensor, Tensor]:
    x, last = token_mixer(block, x, bound, mask, initial, recompute)
    return channel_mixer(block, x, recompute), last


def _stream(
    model: HGRNBitModel,
    tokens: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    recompute: Recompute,
) -> tuple[Tensor, Tensor]:
    state = model.zero_state(len(tokens)) if state is None else state
    mask = None if mask is None else mask.float().contiguous()
    x, states = model.model.embeddings(tokens), []
    for block, bound, initial in zip(
        model.model.layers, model.lower_bounds(), state.float().unbind(), strict=True
    ):
        assert isinstance(block, Block)
        x, last = block.run(_both, x, bound, mask, initial.contiguous(), recompute)
        states.append(last)
    return x, torch.stack(states)


def _tied(model: HGRNBitModel) -> Tensor | None:
    """The embeddings, where the head has their weight."""
    return model.model.embeddings.weight if model.config.tie_word_embeddings else None


def forward(
    model: HGRNBitModel,
    tokens: Tensor,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    recompute: Recompute = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """Logits [batch, time, vocab] and the state [layers, batch, state] after tokens, both float32;
    as the model's own.

    `state` is what an earlier call returned; `mask` [batch, time] is 0 at left padding.
    """
    x, last = _stream(model, tokens, state, mask, recompute)
    tied = _tied(model)
    weight = model.lm_head.weight if tied is None else tied
    logits: Tensor = _Head.apply(
        x,
        model.config.rms_norm_eps,
        _activation_dtype(weight),
        model.model.norm.weight,
        weight,
        model.lm_head.norm.weight,
    )
    return logits, last


def forward_loss(
    model: HGRNBitModel,
    tokens: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    recompute: Recompute = DEFAULT,
) -> Tensor:
    """Mean cross-entropy, a float32 scalar, of the model's logits of tokens [batch, time] with
    targets [batch, time].

    Targets of -100 do not count.  Logits are never all in memory; their gradients are computed with
    them.  The head has the stream rounded to the activation type.
    """
    return model.run(_loss, tokens, targets, mask, recompute)


def _loss(
    model: HGRNBitModel, tokens: Tensor, targets: Tensor, mask: Tensor | None, recompute: Recompute
) -> Tensor:
    x, _ = _stream(model, tokens, None, mask, recompute)
    return model.lm_head.run(
        _head_loss, x, model.model.norm.weight, model.config.rms_norm_eps, _tied(model), targets
    )


def _head_loss(
    head: Head, x: Tensor, outer: Tensor, eps: float, tied: Tensor | None, targets: Tensor
) -> Tensor:
    weight = head.weight if tied is None else tied
    return linear_cross_entropy(
        x.flatten(0, 1).to(_activation_dtype(weight)),
        outer,
        eps,
        weight,
        head.norm.weight,
        targets.flatten(),
    )
