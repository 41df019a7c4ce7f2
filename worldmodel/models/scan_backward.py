"""The scan's way back: the loop over what reaches each pre-activation, and the weights' gradients after it.

The equations, and what the letters mean, are in `scan`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from worldmodel.kernels.precision import full_precision
from worldmodel.models.scan_parts import (
    Kept,
    Settings,
    Weights,
    add_product,
    draw_of,
    for_products,
    fours,
    grouped,
    outer,
    product,
    time_leading,
)

aten = torch.ops.aten


class Known(NamedTuple):
    """What both the backward loop and the weights' gradients need, worked out again for all steps at once."""

    held: Float[Tensor, "T B D"]
    normal: Float[Tensor, "T B 2 I"]  # inputs, normalised
    active: Float[Tensor, "T B 2 I"]  # before silu
    input_stats: list[Tensor]  # mean and 1 / std
    mix_active: Float[Tensor, "T B D"]  # before silu
    mix_stats: list[Tensor]
    gate_slopes: Float[Tensor, "T G B 3 d"]  # dh_t / d(r, u, c)
    stay: Float[Tensor, "T G B d"]  # dh_t / dh~
    layers: list[tuple[Tensor, Tensor, Tensor]]  # of each: before silu, mean and 1 / std


def known_of(settings: Settings, w: Weights, kept: Kept, keep: Tensor) -> Known:
    """See there."""
    (hidden, _), (G, d, _), eps = w.stoch.shape, w.own.shape, settings.eps
    held = kept.deters[:-1] * keep
    normal, *input_stats = torch.native_layer_norm(kept.inputs, [hidden], None, None, eps)
    mix_active, *mix_stats = torch.native_layer_norm(kept.mixed, [G * d], w.mix_scale, w.mix_shift, eps)
    reset, update = kept.gates[..., : 2 * d].sigmoid().chunk(2, -1)
    candidate_in = kept.gates[..., 2 * d :]
    candidate = torch.tanh(reset * candidate_in)
    slope = update * (1 - candidate.square())  # dh_t / d(s(r) c)
    to_reset = slope * candidate_in * reset * (1 - reset)
    to_update = (candidate - grouped(held, G)) * update * (1 - update)
    layers = [
        torch.native_layer_norm(x, [hidden], scale, shift, eps)
        for x, (scale, shift, *_) in zip(kept.layer_inputs, fours(w.layers), strict=True)
    ]
    return Known(
        held,
        normal,
        torch.addcmul(w.input_shift, normal, w.input_scale),
        input_stats,
        mix_active,
        mix_stats,
        torch.stack([to_reset, to_update, slope * reset], -2),
        1 - update,
        layers,
    )


class Reached(NamedTuple):
    """Gradients of pre-activations, of what came out of each silu, and of the state before the first row."""

    inputs: Float[Tensor, "T B 2 I"]
    active: Float[Tensor, "T B 2 I"]  # out of silu
    mixed: Float[Tensor, "T B D"]
    mix_active: Float[Tensor, "T B D"]  # out of silu
    gates: Float[Tensor, "T G B 3*d"]
    read: Float[Tensor, "T B I+W"]  # of the product with h_t: what step t + 1 reads of it, then f_t
    layer_inputs: list[Tensor]  # of each layer [T, B, hidden]
    layer_active: list[Tensor]  # out of silu [T, B, hidden]
    raws: Float[Tensor, "T B P"]
    deter: Float[Tensor, "B D"]
    stoch: Float[Tensor, "B Z"]


def backward_loop(
    settings: Settings, weights: Weights, kept: Kept, known: Known, keep: Tensor, noise: Tensor,
    cotangents: Sequence[Tensor],
) -> Reached:  # fmt: skip
    """The loop, from the last step to the first."""
    w, (hidden, _), (G, d, _) = for_products(weights, settings), weights.stoch.shape, weights.own.shape
    deters, stochs, raws = (time_leading(x).to(kept.deters.dtype) for x in cotangents)
    T, B, D = deters.shape
    draw = draw_of(settings.latent)
    slopes = draw.slopes(full_precision(kept.raws), noise)
    into_normal = through_silu(w.input_scale, known.active)
    into_mix_normal = through_silu(w.mix_scale, known.mix_active)
    layers = _LayersBack(w, kept, known)
    gates, read = deters.new_empty(T, G, B, 3 * d), deters.new_empty(T, B, len(w.recurrent))
    found: list[tuple[Tensor, ...]] = []  # in `Reached`: inputs, active, mixed, mix_active
    held, from_state = deters.new_zeros(G, B, d), deters.new_zeros(B, 2, hidden)  # k_{t+1} times h~', i'
    for t in reversed(range(T)):
        add_product(stochs[t], from_state[:, 1], w.stoch)
        draw.back(slopes[t], stochs[t], raws[t])
        to_read = [from_state[:, 0], layers.back(t, raws[t])] + [raws[t]] * (read.shape[-1] > 2 * hidden)
        torch.cat(to_read, -1, out=read[t])
        deter = grouped(deters[t], G).add_(held)
        add_product(deters[t], read[t], w.recurrent)
        torch.mul(deter[:, :, None], known.gate_slopes[t], out=gates[t].view(G, B, 3, d))
        mix_active = product(gates[t], w.gates.mT).transpose(0, 1).reshape(B, D)
        m = norm_back(mix_active * into_mix_normal[t], kept.mixed[t], known.mix_stats, t)
        active = product(m, w.shared.T).view(B, 2, hidden)
        x = norm_back(active * into_normal[t], kept.inputs[t], known.input_stats, t)
        held = (deter * known.stay[t]).add_(product(grouped(m, G), w.own.mT)).mul_(keep[t])
        from_state = x * keep[t][..., None]
        found.append((x, active, m, mix_active))
    first_deter = rearrange(held, "G B d -> B (G d)") + product(from_state[:, 0], w.recurrent[:hidden])
    first_stoch = product(from_state[:, 1], w.stoch)
    inputs, active, mixed, mix_active = (_from_last(steps) for steps in zip(*found, strict=True))
    return Reached(inputs, active, mixed, mix_active, gates, read, *layers.all_steps(), raws, first_deter, first_stoch)


class _LayersBack:
    """The posterior's layers backward, a step at a time."""

    def __init__(self, w: Weights, kept: Kept, known: Known) -> None:
        self.layers = [
            (matrix, x, through_silu(scale, active), stats)
            for (scale, _, matrix, _), x, (active, *stats) in zip(
                fours(w.layers), kept.layer_inputs, known.layers, strict=True
            )
        ]
        self.before: list[list[Tensor]] = [[] for _ in self.layers]  # of each layer, the last step first
        self.after: list[list[Tensor]] = [[] for _ in self.layers]

    def back(self, t: int, reached: Tensor) -> Tensor:
        """From what reaches the parameters of step t to what reaches f_t; that of every layer is kept."""
        for (matrix, x, into_normal, stats), before, after in zip(
            reversed(self.layers), reversed(self.before), reversed(self.after), strict=True
        ):
            after.append(product(reached, matrix))
            reached = norm_back(after[-1] * into_normal[t], x[t], stats, t)
            before.append(reached)
        return reached

    def all_steps(self) -> tuple[list[Tensor], list[Tensor]]:
        """What reached each layer's input, and what came out of its silu: [T, B, I] each."""
        return [_from_last(steps) for steps in self.before], [_from_last(steps) for steps in self.after]


def weight_gradients(
    settings: Settings, w: Weights, kept: Kept, known: Known, keep: Tensor, reached: Reached
) -> Weights:
    """Of every weight, from all steps at once."""
    (G, _, _), (hidden, _), dtype = w.own.shape, w.stoch.shape, settings.product_dtype
    from_state = reached.inputs * keep[..., None]  # what reaches the products with h_{t-1} and z_{t-1}
    recurrent = outer(reached.read, kept.deters[1:], dtype)
    recurrent[:hidden] += outer(from_state[:1, :, 0], kept.deters[:1], dtype)
    normal = aten.silu_backward(reached.active, known.active)
    by_block = "T B (G d) -> G T B d"
    held, mixed, active = (rearrange(x, by_block, G=G) for x in (known.held, reached.mixed, silu(known.mix_active)))
    gates = rearrange(reached.gates, "T G B d -> G T B d")
    mix_normal = aten.silu_backward(reached.mix_active, known.mix_active)
    mix_scale, mix_shift = _norm_gradients(mix_normal, kept.mixed, known.mix_stats, w.mix_scale, w.mix_shift)
    return Weights(
        recurrent=recurrent,
        stoch=outer(from_state[:, :, 1], kept.stochs[:-1], dtype),
        input_bias=reached.inputs.sum((0, 1)),
        input_scale=(normal * known.normal).sum((0, 1)),
        input_shift=normal.sum((0, 1)),
        shared=outer(silu(known.active).flatten(2), reached.mixed, dtype),
        own=outer(held, mixed, dtype),
        mix_scale=mix_scale,
        mix_shift=mix_shift,
        gates=outer(active, gates, dtype),
        gates_bias=gates.sum((1, 2))[:, None],
        layers=_layer_gradients(w, kept, known, reached, dtype),
    )


def _layer_gradients(w: Weights, kept: Kept, known: Known, reached: Reached, dtype: torch.dtype) -> tuple[Tensor, ...]:
    gradients: list[Tensor] = []
    results = [*reached.layer_inputs[1:], reached.raws]  # what reaches the result of each linear map
    for i, (scale, shift, _, _) in enumerate(fours(w.layers)):
        active, *stats = known.layers[i]
        normal = aten.silu_backward(reached.layer_active[i], active)
        gradients += _norm_gradients(normal, kept.layer_inputs[i], stats, scale, shift)
        gradients += [outer(results[i], silu(active), dtype), results[i].sum((0, 1))]
    return tuple(gradients)


def _from_last(steps: Sequence[Tensor]) -> Tensor:
    """[T, ...] of what was found from the last step to the first."""
    return torch.stack(list(reversed(steps)))


def through_silu(scale: Tensor, before_silu: Tensor) -> Tensor:
    """d silu(scale x + shift) / dx, of normalised x."""
    return aten.silu_backward(scale.expand_as(before_silu), before_silu)


def norm_back(reached: Tensor, x: Tensor, stats: Sequence[Tensor], t: int | slice) -> Tensor:
    """From what reaches the normalised x of step t, or of some, to what reaches x; `stats` are those of all steps."""
    mean, rstd = stats
    backward = aten.native_layer_norm_backward.default
    return backward(reached, x, [x.shape[-1]], mean[t], rstd[t], None, None, [True, False, False])[0]


def _norm_gradients(
    reached: Tensor, x: Tensor, stats: Sequence[Tensor], scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of a norm's scale and shift, from all steps at once."""
    backward = aten.native_layer_norm_backward.default
    return backward(reached, x, [x.shape[-1]], *stats, scale, shift, [False, True, True])[1:]
