"""The loop of `RSSM.imagine` without gradients, for the block GRU: the same numbers from fewer operations.

It is the loop of `scan` with the prior's head in place of the posterior's, and with the action as one more input, since
each action is chosen in the state before it. With R_f what the prior reads h_t with:

    i_t = norm( h_{t-1} R_i, z_{t-1} Z, a_t A, each + b )          three norms                            [B, 3, I]
    m_t = silu(i_t) S + b + h_{t-1} O                                                                     [B, D]
    h_t                                                            from m_t and h_{t-1}, as in `scan`
    f_t = h_t R_f + b                                              one product with the next step's h_t R_i
    raw_t = layers(f_t),   z_t a sample of it
"""

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.kernels.precision import full_precision
from worldmodel.models.latents import LatentFamily
from worldmodel.models.scan_parts import (
    BlockStep,
    Head,
    ImagineWeights,
    draw_of,
    for_products,
    gate_parts,
    grouped,
    product_plus,
    settings_of,
)
from worldmodel.types import Act, State


@torch.no_grad()
def imagine_loop(
    weights: ImagineWeights,
    latent: LatentFamily,
    act: Act,
    noise: Float[Tensor, "B H *noise"],
    state: State,
    eps: float,
) -> tuple[State, Float[Tensor, "B H A"]]:
    """Roll the prior forward: see `RSSM.imagine`.

    Args:
        weights: from `gather_for_imagining`.
        latent: the family.
        act: chooses the action in each state.
        noise: from the family's `noise`.
        state: before the first action.
        eps: of the norms.
    """
    settings = settings_of(latent, eps, state.deter)
    w, (hidden, _), (G, d, _) = for_products(weights.loop, settings), weights.loop.stoch.shape, weights.loop.own.shape
    (h, z), (B, H) = state, noise.shape[:2]
    deters, stochs, actions = h.new_empty(H, B, G * d), z.new_zeros(H, B, z.shape[-1]), []
    mixed, gates, inputs = h.new_empty(B, G * d), h.new_empty(G, B, 3 * d), h.new_empty(B, 3, hidden)
    of_gates, of_h, of_z, of_action = gate_parts(gates), *inputs.unbind(1)
    h_bias, z_bias, action_bias = w.input_bias.unbind()
    h_in, reading = w.recurrent.T.split([hidden, len(w.recurrent) - hidden], 1)
    z_in, action_in = w.stoch.T.contiguous(), weights.action.to(settings.product_dtype).T
    step, head, draw = BlockStep(w, eps, B), Head(w, settings), draw_of(latent)
    held, by_step = grouped(h, G), (deters, grouped(deters, G), stochs)
    product_plus(z_bias, z, z_in, out=of_z)
    for new_h, new_held, new_z, u in zip(*(x.unbind() for x in by_step), noise.unbind(1), strict=True):
        actions.append(act(State(h, z)))
        product_plus(h_bias, h, h_in, out=of_h)
        product_plus(action_bias, actions[-1], action_in, out=of_action)
        step(held, inputs, mixed.copy_(weights.mix_bias), gates, of_gates, new_held)
        raw, _ = head(product_plus(weights.read_bias, new_h, reading))
        drawn = draw.sample(full_precision(raw), *draw.prepared(u[None]), new_z)
        draw.read(drawn, z_bias, z_in, out=of_z)
        h, held, z = new_h, new_held, new_z
    return State(deters.transpose(0, 1), stochs.transpose(0, 1)), torch.stack(actions, 1)
