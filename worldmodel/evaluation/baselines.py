"""What can be predicted without a model: forecasts that a world model has to beat, as real distributions.

    marginal      the training rows' own distribution at every horizon: a Gaussian for each number of a vector and for
                  the reward; the frequencies of each class, bit, pixel level and integer, or where an integer has
                  more than 256 values, a discretised logistic
    repeat_last   x_{t+h} ~ N(x_t, s_h^2), s_h the root mean square change over h steps in the training rows

Both are fitted on training rows, so neither has seen the answers. Images, integers, classes and bits repeat their last
value without a distribution around it (a squared error and no nats): how often a pixel or a class stays as it is would
be a transition table, which is a model. No std is below `resolution` of the marginal's, as the model's own are not.
Where the model gives the reward a mass (`decoder.reward: categorical`), baselines have no nats of it: theirs would be
of a density, and the two cannot be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.evaluation import scoring_rules as rules
from worldmodel.evaluation.open_loop import or_one, relative_error, spread
from worldmodel.models.decoder import CONTINUE, REWARD, SHARPEST
from worldmodel.models.encoder import as_numbers
from worldmodel.models.likelihoods import IntegerMixture
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, EnvSpec, ObservationSpec

IMAGE_LEVELS = 256
COUNTED_VALUES = 256  # of an integer, at most, whose frequencies are counted

ByMetric = dict[str, Float[Tensor, "B H"]]


@dataclass(frozen=True)
class Baseline:
    """One leaf as the training rows have it."""

    leaf: ObservationSpec
    mean: Float[Tensor, "*shape"]  # of the leaf read as numbers
    std: Float[Tensor, "*shape"]
    floor: float  # of every std below, as a share of the marginal's
    lag_std: Float[Tensor, "H n"] | None = None  # vectors: s_1 .. s_H
    log_mass: Float[Tensor, "variables levels"] | None = None  # all others: of every class, bit, level or integer
    nats: bool = True  # whether the model's nats are of the same kind, so that there is something to compare

    @property
    def unit(self) -> Float[Tensor, "*shape"]:
        """What errors of a vector are measured in: its std over the training rows, 1 for what does not vary."""
        return or_one(self.std)

    @property
    def varies(self) -> bool:
        """Whether the training rows have a variance that squared errors may be measured in."""
        return bool((self.std > 0).any())

    def squared_error(self, guess: Tensor, x: Tensor) -> Float[Tensor, "B H"]:
        """Squared error of a guess at x [B, H, ...], both as numbers, in units of the training rows' variance."""
        return relative_error(self.leaf, guess, x, self.std)

    def marginal(self, target: Tensor) -> ByMetric:
        """The scores of the marginal at rows [B, H, ...] as they are stored."""
        x = as_numbers(self.leaf, target)
        scores = {"squared_error": self.squared_error(self.mean, x)}
        if self.leaf.kind == "integer" and self.log_mass is None:
            return scores | {"nll": self._logistic_nll(target)}
        if self.log_mass is None:
            return scores | self._gaussian(self.mean, self._above_floor(self.std), x)
        index = from_lowest(self.leaf, target).flatten(2)  # [B, H, variables]
        nats = -self.log_mass[torch.arange(index.shape[-1], device=index.device), index]
        return scores | {"nll": nats.sum(-1)}

    def repeat_last(self, last: Tensor, target: Tensor) -> ByMetric:
        """The scores of the last row seen, [B, 1, ...], at rows [B, H, ...], both as they are stored."""
        guess, x = as_numbers(self.leaf, last), as_numbers(self.leaf, target)
        scores = {"squared_error": self.squared_error(guess, x)}
        if self.lag_std is None:
            return scores
        return scores | self._gaussian(guess, self._above_floor(self.lag_std), x)

    def _gaussian(self, mean: Tensor, std: Tensor, x: Tensor) -> ByMetric:
        nll = {"nll": rules.gaussian_nll(mean, std, x).sum(-1)} if self.nats else {}
        return nll | {
            "crps": (rules.gaussian_crps(mean, std, x) / self.unit).mean(-1),
            "coverage": rules.gaussian_coverage(mean, std, x).mean(-1),
        }

    def _logistic_nll(self, target: Tensor) -> Float[Tensor, "B H"]:
        """Nats of whole numbers under the discretised logistic of the training rows' mean and std."""
        scale = (self.std * 3**0.5 / torch.pi).clamp(min=SHARPEST)[:, None]
        low, high = (self.mean.new_tensor(bound, dtype=torch.float64) for bound in (self.leaf.low, self.leaf.high))
        p = IntegerMixture(torch.zeros_like(scale), self.mean[:, None], scale, low, high, target.dtype)
        return -p.log_prob(target)

    def _above_floor(self, std: Tensor) -> Tensor:
        return torch.maximum(std, self.floor * self.unit)


def predicted_leaves(spec: EnvSpec) -> dict[str, ObservationSpec]:
    """Everything a model predicts, by name: the observation's leaves, the reward and the continue flag."""
    return {**spec.observations, REWARD: ObservationSpec("vector", (1,)), CONTINUE: ObservationSpec("binary", (1,))}


def fit_baselines(model: WorldModel, rows: Batch, horizon: int) -> dict[str, Baseline]:
    """Fit the baselines of everything that a model predicts.

    Args:
        model: says what is predicted, and down to which resolution; nothing of what it has learned is used.
        rows: training rows, [B, T]; sequences may run over several episodes.
        horizon: the longest step ahead (H). Where no training episode is that long, s_h stays what it was last.
    """
    targets, observed = model.targets(rows), model.observed(rows)
    fitted = {}
    for name, leaf in predicted_leaves(model.spec).items():
        valid = rows.valid & observed.get(name, torch.ones_like(rows.valid))
        mean, std = spread(leaf, targets[name], valid)
        floor = model.decoder.resolution
        if leaf.kind == "vector":
            lag_std = change_by_lag(targets[name].float(), valid, rows.is_first, horizon)
            nats = name != REWARD or model.decoder.atoms is None
            fitted[name] = Baseline(leaf, mean, std, floor, lag_std=lag_std, nats=nats)
        elif leaf.kind == "integer" and max(_levels(leaf)) > COUNTED_VALUES:
            fitted[name] = Baseline(leaf, mean, std, floor)
        else:
            fitted[name] = Baseline(leaf, mean, std, floor, log_mass=log_frequencies(leaf, targets[name][valid]))
    return fitted


def change_by_lag(x: Float[Tensor, "B T n"], valid: Tensor, is_first: Tensor, horizon: int) -> Float[Tensor, "H n"]:
    """s_h = sqrt( mean (x_{t+h} - x_t)^2 ) over all pairs of rows h steps apart in one episode, h = 1 .. H.

    A lag without pairs takes the lag before it; if there are none at all, zero.
    """
    episode = is_first.cumsum(1)
    changes, last = [], x.new_zeros(x.shape[-1])
    for h in range(1, horizon + 1):
        pairs = valid[:, h:] & valid[:, :-h] & (episode[:, h:] == episode[:, :-h])
        if pairs.any():
            last = (x[:, h:] - x[:, :-h])[pairs].square().mean(0).sqrt()
        changes.append(last)
    return torch.stack(changes)


def log_frequencies(leaf: ObservationSpec, x: Tensor) -> Float[Tensor, "variables levels"]:
    """log-mass of every level of every variable: log( (count + 1/K) / (rows + 1) ), K the levels that it has.

    One row's worth of smoothing, so that what was never seen is not impossible. Source: Perks 1947.
    """
    index = from_lowest(leaf, x).flatten(1)  # [rows, variables]
    levels = _levels(leaf)
    highest = max(levels)
    offset = highest * torch.arange(index.shape[1], device=index.device)
    count = torch.bincount((index + offset).flatten(), minlength=highest * index.shape[1])
    share = 1 / torch.tensor(levels, device=x.device)[:, None]
    return ((count.unflatten(0, (-1, highest)) + share) / (len(index) + 1)).log()


def from_lowest(leaf: ObservationSpec, x: Tensor) -> Int[Tensor, "*shape"]:
    """Classes, bits, levels and integers, counted from the lowest one that there is."""
    return x.long() - torch.tensor(leaf.low or (0,), device=x.device)


def _levels(leaf: ObservationSpec) -> tuple[int, ...]:
    """How many values each variable of a leaf has."""
    if leaf.kind == "integer":
        return tuple(high - low + 1 for low, high in zip(leaf.low, leaf.high, strict=True))
    return leaf.classes or (IMAGE_LEVELS if leaf.kind == "image" else 2,) * leaf.width


def baseline_scores(fitted: Mapping[str, Baseline], name: str, targets: Tensor) -> dict[str, ByMetric]:
    """Scores of both baselines for one leaf; targets [B, 1+H, ...] are the last observed step, then H future steps."""
    baseline, last, future = fitted[name], targets[:, :1], targets[:, 1:]
    return {"repeat_last": baseline.repeat_last(last, future), "marginal": baseline.marginal(future)}
