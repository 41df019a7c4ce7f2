"""Small models whose loop is a scan, what they filter, and the gradients of what comes out."""

import torch

from worldmodel.models.latents import GaussianFamily
from worldmodel.models.rssm import RSSM
from worldmodel.types import State

B, T = 3, 6


def make(latent, dtype=torch.float64, **options) -> RSSM:
    torch.manual_seed(0)
    model = RSSM(embed=6, action=2, deter=8, hidden=10, latent=latent, blocks=2, **options).to(dtype)
    for p in model.parameters():  # scales of one and biases of zero would hide what goes wrong with them
        torch.nn.init.normal_(p, p.mean().item(), 0.4)
    return model


def inputs(model, generator, steps=T):
    """Embeddings, actions, resets at the start of one sequence and inside another, noise and a state: all but flags."""
    dtype = model.posterior_deter.weight.dtype
    embed, action = (torch.randn(B, steps, n, generator=generator, dtype=dtype) for n in (6, 2))
    is_first = torch.zeros(B, steps, dtype=torch.bool)
    is_first[0, 0] = is_first[1, steps // 2] = True
    noise = model.noise(B, steps, generator)
    state = State(*(torch.randn(B, n, generator=generator, dtype=dtype) for n in (8, model.latent.width)))
    return embed.requires_grad_(), action.requires_grad_(), is_first, noise, State(*(x.requires_grad_() for x in state))


def observed(model, arguments, plain_loop):
    """States and posterior parameters."""
    trajectory = model.observe(*arguments, plain_loop=plain_loop)
    posterior = trajectory.posterior
    return *trajectory.states, posterior.raw if isinstance(model.latent, GaussianFamily) else posterior.logits


def gradients(outputs, model, arguments, generator):
    """Of random cotangents of all outputs, by everything that they depend on."""
    embed, action, _, _, state = arguments
    named = {"embed": embed, "action": action, "deter": state.deter, "stoch": state.stoch}
    named |= {name: p for name, p in model.named_parameters() if "prior" not in name and p.requires_grad}
    cotangents = [torch.randn(x.shape, generator=generator.manual_seed(7)).to(x.dtype) for x in outputs]
    return dict(zip(named, torch.autograd.grad(outputs, list(named.values()), cotangents), strict=True))
