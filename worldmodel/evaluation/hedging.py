"""A forecast that is hedged by the data's marginal, so that one confident future that went wrong costs a few nats.

    p(x_{t+h}) = (1 - w_h) p_imagined(x_{t+h}) + w_h p_marginal(x_{t+h})

The tails of imagined Gaussians fall off with the square of the distance: where a model has lost the world, a single
future can cost tens of thousands of nats, more than all others together. The share w_h is learned for every horizon,
and is about the share of the futures that the model loses. No future's share is learned from its own episode.

Source: Bröcker and Smith 2008, "From ensemble forecasts to predictive distribution functions", Tellus A 60, section 4
(blending with the climatology).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 10  # of episodes, at most: each is scored with shares learned from the others
ROUNDS = 100  # of the EM algorithm


def hedged_nll(
    model: Float[Tensor, "F H"], marginal: Float[Tensor, "F H"], episode: Int[Tensor, " F"]
) -> Float[Tensor, "F H"]:
    """The negative log-likelihood of every future under the hedged forecast, in nats per step.

    Args:
        model: -log p_imagined of every future and horizon.
        marginal: -log p_marginal of the same.
        episode: of every future; two different ones or more.
    Raises:
        ValueError: if all futures are of one episode.
    """
    _, number = episode.unique(return_inverse=True)
    folds = min(FOLDS, int(number.max()) + 1)
    if folds < 2:
        raise ValueError("episode: expected futures of two episodes or more, got those of one")
    hedged = torch.empty_like(model)
    for fold in range(folds):
        inside = number % folds == fold
        share = marginal_share(model[~inside], marginal[~inside])
        hedged[inside] = -torch.logaddexp(torch.log1p(-share) - model[inside], share.log() - marginal[inside])
    return hedged


def marginal_share(model: Float[Tensor, "F H"], marginal: Float[Tensor, "F H"]) -> Float[Tensor, " H"]:
    """w_h by the EM algorithm, strictly between 0 and 1: the most probable one a posteriori.

        r = w p_marginal / ((1 - w) p_imagined + w p_marginal),    w = (1 + sum_f r_f) / (2 + F)

    The prior is that of one future that each of the two explains, so that what was never seen is not impossible.
    Arguments as in `hedged_nll`.
    """
    advantage = model - marginal  # nats by which the marginal is better
    share = torch.full_like(model[0], 0.5)
    for _ in range(ROUNDS):
        explained = torch.sigmoid(advantage + torch.logit(share))
        share = (1 + explained.sum(0)) / (2 + len(model))
    return share
