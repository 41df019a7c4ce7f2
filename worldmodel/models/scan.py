"""The loop of `RSSM.observe` as one autograd function, for the block GRU: the same numbers from fewer operations.

Forward, for each step t, with k_t = 0 where an episode begins and 1 elsewhere, and s the sigmoid:

    h~ = k_t h_{t-1}
    i_t = norm( k_t (h_{t-1} R_i, z_{t-1} Z) + b )             what all blocks read of h and z, two norms    [B, 2, I]
    m_t = a_t + silu(i_t) S + h~ O                             a_t: the action's part, O: each block's own   [B, D]
    (r, u, c) = silu(norm(m_t)) G                              u has the -1 in its bias                      [G, B, 3d]
    h_t = h~ + s(u) (tanh(s(r) c) - h~)
    f_t = e_t + h_t R_f                                        e_t: the embedding's part; one product with h_t R_i
    raw_t = layers(f_t),   z_t a sample of it                  a layer is norm, silu, linear; `skip` adds to raw_t

Backward, x' being what reaches x. The loop works out only what reaches each pre-activation, from the last step:

    raw_t' += z_t' dz/draw                                     straight through, or reparameterised
    f_t' = raw_t' back through the layers
    h_t' += k_{t+1} h~' + f_t' R_f^T + k_{t+1} (h R_i)' R_i^T
    (r, u, c)' = h_t' C_t                                      C_t: the gates' derivatives, of all steps beforehand
    m_t' = (r, u, c)' G^T back through silu and norm,          i_t' = m_t' S^T likewise
    h~' = (1 - s(u)) h_t' + m_t' O^T

After it, the gradient of each matrix is one product: what it read at all steps, times what reached its result there.
Those of a norm are one sum each. Source of the deferral: Appleyard et al. 2016, arXiv 1604.01946, section 3.

Only pre-activations and states are kept. Products run in the autocast's dtype, everything else in the states' own. On a
GPU the loops are those of `scan_launched`, which do the same in few launches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from worldmodel.kernels.backend import Backend
from worldmodel.kernels.gru import gru_on_triton, launches_of
from worldmodel.kernels.precision import full_precision
from worldmodel.models.latents import LatentFamily
from worldmodel.models.scan_backward import Reached, backward_loop, known_of, weight_gradients
from worldmodel.models.scan_launched import backward_launched, forward_launched
from worldmodel.models.scan_parts import (
    BlockStep,
    Head,
    Kept,
    Settings,
    Weights,
    add_product,
    draw_of,
    for_products,
    gate_parts,
    grouped,
    product,
    settings_of,
    time_leading,
    weights_of,
)

Forward = Callable[..., Kept]
BackwardLoop = Callable[..., Reached]


def scan(
    weights: Weights,
    latent: LatentFamily,
    action_mix: Float[Tensor, "B T D"],
    embed_in: Float[Tensor, "B T W"],
    keep: Float[Tensor, "B T 1"],
    noise: Float[Tensor, "B T *noise"],
    deter: Float[Tensor, "B D"],
    stoch: Float[Tensor, "B Z"],
    eps: float,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T Z"], Float[Tensor, "B T P"]]:
    """Filter a sequence.

    Args:
        weights: from `gather`.
        latent: the family; its gradient is straight through or reparameterised.
        action_mix: the action's part of the mix at each step, with the mix's bias.
        embed_in: the embedding's part of the posterior's first layer.
        keep: 0 where an episode begins, 1 elsewhere.
        noise: from `latent.noise`; no gradient reaches it, nor `keep`.
        deter, stoch: the state before the first row.
        eps: of the norms.
        backend: "reference" for the loops of torch's operations, "triton" for those of few launches a step
            (`scan_launched`), "auto" for the latter on a GPU: see `gru_on_triton`.
    Returns:
        h_t, z_t and the posterior's parameters. They can be differentiated once.
    """
    settings = settings_of(latent, eps, deter)
    launched = gru_on_triton(backend, settings.product_dtype, deter, stoch, keep, noise)
    forward, backward = _launched_loops(*launches_of()) if launched else (_forward, backward_loop)
    with torch.autocast(deter.device.type, enabled=False):
        flat = (*weights[:-1], *weights.layers)
        return _Scan.apply(settings, forward, backward, action_mix, embed_in, keep, noise, deter, stoch, *flat)


def _launched_loops(forward: Any, backward: Any) -> tuple[Forward, BackwardLoop]:
    """The loops of few launches, by the functions of two modules."""
    return partial(forward_launched, forward), partial(backward_launched, backward)


class _Scan(torch.autograd.Function):
    """See the module. In what is kept and handed around below, time leads: [T, B, ...]."""

    @staticmethod
    def forward(
        ctx: Any, settings: Settings, forward: Forward, backward: BackwardLoop, action_mix: Tensor, embed_in: Tensor,
        keep: Tensor, noise: Tensor, deter: Tensor, stoch: Tensor, *flat: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        keep, noise = time_leading(keep), time_leading(noise)
        kept = forward(settings, weights_of(flat), action_mix, embed_in, keep, noise, deter, stoch)
        if settings.keep:
            ctx.backward_loop, ctx.settings, ctx.weights = backward, settings, len(flat)
            ctx.dtypes = action_mix.dtype, embed_in.dtype
            ctx.save_for_backward(keep, noise, *flat, *kept[:-1], *kept.layer_inputs)
        return tuple(x.transpose(0, 1).clone() for x in (kept.deters[1:], kept.stochs[1:], kept.raws))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        keep, noise, *rest = ctx.saved_tensors
        flat, states = rest[: ctx.weights], rest[ctx.weights :]
        alone = len(Kept._fields) - 1
        weights, kept = weights_of(flat), Kept._make((*states[:alone], tuple(states[alone:])))
        with torch.autocast(keep.device.type, enabled=False):
            known = known_of(ctx.settings, weights, kept, keep)
            reached = ctx.backward_loop(ctx.settings, weights, kept, known, keep, noise, cotangents)
            gradients = weight_gradients(ctx.settings, weights, kept, known, keep, reached)
        action_mix, embed_in = reached.mixed, reached.read[..., len(weights.stoch) :]
        per_row = (x.transpose(0, 1).to(dtype) for x, dtype in zip((action_mix, embed_in), ctx.dtypes, strict=True))
        return None, None, None, *per_row, None, None, reached.deter, reached.stoch, *gradients[:-1], *gradients.layers


def _forward(
    settings: Settings, weights: Weights, action_mix: Tensor, embed_in: Tensor, keep: Tensor, noise: Tensor,
    deter: Tensor, stoch: Tensor,
) -> Kept:  # fmt: skip
    """The loop."""
    w, (hidden, _), (G, d, _) = for_products(weights, settings), weights.stoch.shape, weights.own.shape
    mixed = time_leading(action_mix).to(deter.dtype)  # [T, B, D], to which the other parts are added
    read = pad(time_leading(embed_in).to(deter.dtype), (hidden, 0))  # [T, B, I+W], likewise
    T, B, D = mixed.shape
    deters, stochs = deter.new_empty(T + 1, B, D), stoch.new_zeros(T + 1, B, stoch.shape[-1])
    deters[0], stochs[0] = deter, stoch
    rows = T if settings.keep else 1  # without gradients all steps write into the same row
    inputs, gates = (deter.new_empty(rows, *shape).expand(T, *shape) for shape in ((B, 2, hidden), (G, B, 3 * d)))
    raws, layer_inputs, draw = [], [], draw_of(settings.latent)
    step, head = BlockStep(w, settings.eps, B), Head(w, settings)
    from_deter = product(deter, w.recurrent.T)
    states = (deters[:-1], stochs[:-1], deters[1:], stochs[1:])
    by_step = (x.unbind() for x in (keep, *states, inputs, mixed, gates, *gate_parts(gates), read))
    for k, h, z, new_h, new_z, x, m, g, *of_g, f, u in zip(*by_step, draw.prepared(noise), strict=True):
        held = grouped(h * k, G)
        torch.addcmul(w.input_bias[0], from_deter[:, :hidden], k, out=x[:, 0])
        torch.addcmul(w.input_bias[1], product(z, w.stoch.T), k, out=x[:, 1])
        step(held, x, m, g, of_g, grouped(new_h, G))
        add_product(f, new_h, w.recurrent.T)
        from_deter = f
        raw, before = head(f[:, hidden:])
        draw.sample(full_precision(raw), u, new_z)
        raws.append(raw)
        if settings.keep:
            layer_inputs.append(before)
    stacked = tuple(torch.stack(steps) for steps in zip(*layer_inputs, strict=True))
    return Kept(deters, stochs, inputs, mixed, gates, torch.stack(raws), stacked)
