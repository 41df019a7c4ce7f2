"""What PyTorch makes of a start, actions and noise: the page's script must come to the same numbers, and checks it.

Both count in float64. In float32 PyTorch itself is off by more than is asked of the page where a reward is two-hot: the
outermost bins lie at 5e8, so that rounding moves their mean by some 1e-4.
"""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.behaviour.imagination import recorded
from worldmodel.models.decoder import CONTINUE, REWARD
from worldmodel.models.likelihoods import SymlogNormal, symexp
from worldmodel.models.world_model import WorldModel
from worldmodel.playable.arrays import Arrays
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Likelihood, State

STEPS = 20  # that are compared
COMPARED = 64  # numbers of one leaf at every step, at most: of an image, evenly spread pixels


@torch.no_grad()
def reference(
    model: WorldModel,
    start: State,
    action: Float[Tensor, "H A"],
    arrays: Arrays,
    seed: int,
) -> dict[str, Any]:
    """Imagine on from one state, and keep all that the page computes too.

    Args:
        model: the world model; left as it is.
        start: h and z, [1, ...].
        action: what is done.
        arrays: that the numbers go into.
        seed: of the noise.
    """
    model, action = copy.deepcopy(model).cpu().double(), action.cpu().double()
    start = State(*(x.cpu().double() for x in start))
    noise = model.noise(1, len(action), make_generator(seed, stream=Stream.IMAGINATION))
    noise = noise.float().double()  # as the page has it
    carry = model.dynamics.carry_of(start)
    states, _ = model.imagine(carry, start, recorded(action[None], 1), noise)
    decoded = model.decode(states)
    alive = decoded[CONTINUE].mean[0, :, 0]
    entropy = model.dynamics.prior(states.deter).entropy().sum(-1)[0]
    names = [*model.spec.observations, REWARD]
    return {
        "start": {"h": arrays.numbers(start.deter[0]), "z": arrays.numbers(start.stoch[0])},
        "action": arrays.numbers(action),
        "noise": arrays.numbers(noise[0].flatten(1)),
        "expected": {
            "h": arrays.numbers(states.deter[0]),
            "z": arrays.numbers(states.stoch[0]),
            "entropy": arrays.numbers(entropy),
            "goes_on": arrays.numbers(alive),
            "outputs": [_output(decoded[name], arrays) for name in names],
        },
    }


def _output(likelihood: Likelihood, arrays: Arrays) -> dict[str, Any]:
    """The mean [H, n], thinned out where there is much of it, and one std above it where a density has one."""
    mean = likelihood.mean[0].flatten(1)
    every = -(-mean.shape[1] // COMPARED)
    high = one_std_above(likelihood)
    return {
        "mean": arrays.numbers(mean[:, ::every]),
        "high": None if high is None else arrays.numbers(high[0][:, ::every]),
        "every": every,
    }


def one_std_above(likelihood: Likelihood) -> Tensor | None:
    """Mean and std of a Gaussian density together, in the units of the data; None of any other."""
    if isinstance(likelihood, SymlogNormal):
        return symexp(likelihood.base.mean + likelihood.base.std)
    std = getattr(likelihood, "std", None)
    return None if std is None else likelihood.mean + std
