"""Another posterior for a generative model that stays as it is.

A world model's generative half is h_t = f(h_{t-1}, z_{t-1}, a), p(z_t | h_t) and the decoder. Its other half, q, may be
exchanged: the evidence stays, the bound moves. Whether q looks ahead can so be priced on one and the same model.
"""

import copy
from typing import Literal

import torch
from torch import nn

from worldmodel.models.backward_network import BackwardNetwork
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel

Kind = Literal["filtering", "smoothing"]


def with_posterior(model: WorldModel, kind: Kind, *, seed: int = 0) -> WorldModel:
    """A copy with a posterior of this kind, which alone can be trained: all that generates has no gradient any more.

    The new q begins where the old one is. One that is to smooth starts as the filter, which ignores what follows; one
    that is to filter starts as the smoother with an empty summary of the future.

    Args:
        model: left as it is.
        kind: of the copy's posterior; the model's own kind changes nothing but what can be trained.
        seed: of the weights of a network that is new.
    """
    changed = copy.deepcopy(model)
    if kind == "smoothing" and changed.backward_network is None:
        _make_smoothing(changed, seed)
    elif kind == "filtering" and changed.backward_network is not None:
        _make_filtering(changed, changed.backward_network)
    changed.requires_grad_(False)
    for part in posterior_parts(changed):
        part.requires_grad_()
    return changed


def recurrence(model: WorldModel) -> RSSM:
    """The model's recurrence, whose posterior is exchanged here.

    Raises:
        ValueError: if it is not an RSSM.
    """
    if not isinstance(model.dynamics, RSSM):
        raise ValueError(f"model.dynamics: expected an RSSM, got {type(model.dynamics).__name__}")
    return model.dynamics


def posterior_parts(model: WorldModel) -> list[nn.Module]:
    """The networks that q is made of."""
    rssm = recurrence(model)
    assert isinstance(model.encoder, nn.Module)
    parts = [model.encoder, rssm.posterior_embed, rssm.posterior_deter, rssm.posterior_rest]
    return parts if model.backward_network is None else [*parts, model.backward_network]


def _make_smoothing(model: WorldModel, seed: int) -> None:
    rssm = recurrence(model)
    old, width = rssm.posterior_embed, rssm.hidden
    with torch.random.fork_rng(devices=[]):  # the weights are made on the CPU, whatever the device
        torch.default_generator.manual_seed(seed)
        backward_network = BackwardNetwork(model.encoder.width, model.spec.action.width, width)
    model.backward_network = backward_network.to(old.weight)
    columns = torch.cat([old.weight, old.weight.new_zeros(len(old.weight), width)], 1)
    rssm.posterior_embed = _linear(columns, old.bias)


def _make_filtering(model: WorldModel, backward_network: BackwardNetwork) -> None:
    rssm = recurrence(model)
    old, width = rssm.posterior_embed, model.encoder.width
    constant = old.weight[:, width:] @ backward_network.nothing
    rssm.posterior_embed = _linear(old.weight[:, :width], old.bias + constant)
    model.backward_network = None


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = nn.Parameter(bias.detach().clone())
    return layer
