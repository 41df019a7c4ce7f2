"""How good imagination is, by horizon, on held-out episodes: proper scores with intervals, beside two baselines.

    nll             -log 1/N sum_n p(x_{t+h} | state_n) of the whole leaf, in nats per step; too high for few futures,
                    since they are narrow in a deterministic world and may all miss what happened
    squared_error   of the mean over the N futures, in units of the training rows' variance; none where that is zero
    crps            of one draw of each state's likelihood, in units of the training rows' std, mean over dimensions
    coverage        the share of truths in the central 90 % of the same draws, mean over dimensions; ideally 0.9

CRPS and coverage are for vectors and the reward. Images have neither: most of their pixels never change, so a mean
over pixels would be about the background, and the nats over 256 levels are a proper score already. Integers, classes
and bits are scored whole by their nats, which are a mass's.

Only futures that were recorded whole are scored, so before the last step none of them ends: the continue flag's scores
are about episodes that are known to go on, and a model that gives them their fair chance of ending looks too cautious.

The nll of a third method, `hedged`, is that of imagination mixed with the marginal: see `evaluation.hedging`.

Densities of deterministic worlds are unbounded, so nll wants `WorldModel.resolution`, the floor of the std, beside it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.behaviour.imagination import imagine, recorded
from worldmodel.checks import require_positive
from worldmodel.data.batches import long_enough
from worldmodel.evaluation import scoring_rules as rules
from worldmodel.evaluation.baselines import Baseline, ByMetric, baseline_scores
from worldmodel.evaluation.hedging import hedged_nll
from worldmodel.evaluation.open_loop import Futures, futures
from worldmodel.evaluation.scoring_rules import Band
from worldmodel.models.decoder import REWARD
from worldmodel.models.encoder import as_numbers
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, State

METRICS = ("nll", "squared_error", "crps", "coverage")
METHODS = ("model", "hedged", "repeat_last", "marginal")
COUNTS = ("context", "horizon", "samples", "episodes", "futures")  # the fields of `Scores` that are numbers


@dataclass(frozen=True)
class Scores:
    """How good imagined futures were, by steps ahead. A metric or a method is absent where it is not defined."""

    context: int  # rows filtered before the first future
    horizon: int  # rows imagined (H)
    samples: int  # futures imagined from each start (N), and draws of the likelihood for crps and coverage
    episodes: int  # held-out episodes with at least one future
    futures: int  # starts scored, over all episodes
    scores: dict[str, dict[str, dict[str, Band]]]  # by leaf, metric and method

    @property
    def bands(self) -> dict[tuple[str, str, str], Band]:
        """The scores by (leaf, metric, method)."""
        triples = ((leaf, metric, by) for leaf, metrics in self.scores.items() for metric, by in metrics.items())
        return {(leaf, metric, method): band for leaf, metric, by in triples for method, band in by.items()}

    def as_json(self) -> dict[str, Any]:
        """The same in lists and numbers; what is not finite becomes null."""
        return {**{name: getattr(self, name) for name in COUNTS}, "scores": _each(self.scores, _band_as_json)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Scores":
        """Back from `as_json`.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: if it is something else.
        """
        return cls(**{name: int(data[name]) for name in COUNTS}, scores=_each(data["scores"], _band_from_json))

    def better_until(self, leaf: str) -> int | None:
        """Up to which horizon imagination has no more nats than the marginal, without a break; None where one lacks."""
        nll = self.scores[leaf].get("nll", {})
        if not {"model", "marginal"} <= nll.keys():
            return None
        better = nll["model"].mean <= nll["marginal"].mean
        return int(np.argmin(better)) if not better.all() else self.horizon


def _each(scores: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Scores by leaf, metric and method, each changed."""
    return {
        leaf: {metric: {method: change(band) for method, band in by.items()} for metric, by in metrics.items()}
        for leaf, metrics in scores.items()
    }


def _band_as_json(band: Band) -> dict[str, list[float | None]]:
    columns = {name: x.tolist() for name, x in band._asdict().items()}
    return {name: [v if math.isfinite(v) else None for v in x] for name, x in columns.items()}


def _band_from_json(data: Mapping[str, Any]) -> Band:
    band = Band(*(np.array(data[name], np.float64) for name in Band._fields))
    if len({x.shape for x in band}) > 1 or band.mean.ndim != 1:
        raise ValueError("expected mean, low and high of one length")
    return band


class Predictive(NamedTuple):
    """What N futures say of one leaf."""

    log_prob: Float[Tensor, "N B H"]  # of the truth, given each state
    mean: Tensor  # [B, H, ...] over the N futures
    draws: Float[Tensor, "N B H n"] | None  # one from each likelihood; vectors and the reward only


@torch.no_grad()
def score_imagination(
    model: WorldModel,
    episodes: Batch,
    baselines: Mapping[str, Baseline],
    *,
    context: int,
    horizon: int,
    samples: int,
    generator: torch.Generator,
    resampling: torch.Generator,
) -> Scores:
    """Score imagined futures of held-out episodes under the recorded actions.

    Args:
        model: the world model.
        episodes: whole episodes from their reset, padded; see `data.batches.pad_episodes`.
        baselines: from `fit_baselines`, for at least this horizon.
        context, horizon, samples: which futures, as in `evaluation.open_loop.futures`.
        generator: source of the noise, on the model's device.
        resampling: source of the bootstrap's draws, on the CPU.
    Raises:
        ValueError: if no episode has context + horizon rows, or a number is not positive.
    """
    require_positive(context=context, horizon=horizon, samples=samples)
    episodes = long_enough(episodes, context + horizon)
    B = episodes.is_first.shape[0]
    sums: dict[tuple[str, str, str], Tensor] = defaultdict(lambda: torch.zeros(B, horizon, dtype=torch.float64))
    count = torch.zeros(B, dtype=torch.long)
    nats: dict[tuple[str, str], list[Tensor]] = defaultdict(list)  # of every future, by leaf and method
    episodes_of: list[Tensor] = []
    for future in futures(model, episodes, context=context, horizon=horizon, samples=samples, generator=generator):
        episode = future.episode.cpu()
        count.index_add_(0, episode, torch.ones_like(episode))
        episodes_of.append(episode)
        for key, values in _score_futures(model, future, baselines, generator):
            sums[key].index_add_(0, episode, values.double().cpu())
            leaf, metric, method = key
            if metric == "nll":
                nats[leaf, method].append(values.double().cpu())
    for leaf, nll in _hedged(nats, episodes_of):
        sums[leaf, "nll", "hedged"].index_add_(0, torch.cat(episodes_of), nll)
    some = count > 0
    resamples = rules.resample(int(some.sum()), resampling)
    scores: dict[str, dict[str, dict[str, Band]]] = defaultdict(lambda: defaultdict(dict))
    for (leaf, metric, method), total in sums.items():
        scores[leaf][metric][method] = rules.bootstrap(total[some], count[some], resamples)
    plain = {
        leaf: {
            name: {method: metrics[name][method] for method in METHODS if method in metrics[name]}
            for name in METRICS
            if name in metrics
        }
        for leaf, metrics in scores.items()
    }
    return Scores(context, horizon, samples, int(some.sum()), int(count.sum()), plain)


def _hedged(
    nats: Mapping[tuple[str, str], list[Tensor]], episodes: list[Tensor]
) -> Iterator[tuple[str, Float[Tensor, "F H"]]]:
    """The nats of every leaf's hedged forecast, where there are nats of both parts and futures of several episodes."""
    episode = torch.cat(episodes)
    if len(episode.unique()) < 2:
        return
    for leaf, method in list(nats):
        if method == "model" and (leaf, "marginal") in nats:
            yield leaf, hedged_nll(torch.cat(nats[leaf, "model"]), torch.cat(nats[leaf, "marginal"]), episode)


def _score_futures(
    model: WorldModel, future: Futures, baselines: Mapping[str, Baseline], generator: torch.Generator
) -> Iterator[tuple[tuple[str, str, str], Float[Tensor, "B H"]]]:
    """Every score of some futures, by (leaf, metric, method)."""
    action = future.rows.prev_action[:, 1:]
    act = recorded(action, len(future.start.deter))
    states = imagine(model, future.start, act, action.shape[1], generator=generator).states
    targets = model.targets(future.rows)
    truth = {name: x[:, 1:] for name, x in targets.items()}
    for name, predictive in predict(model, states, truth, generator).items():
        by_method = {"model": _model_scores(baselines[name], predictive, truth[name])}
        for method, metrics in (by_method | baseline_scores(baselines, name, targets[name])).items():
            for metric, values in metrics.items():
                if metric != "squared_error" or baselines[name].varies:
                    yield (name, metric, method), values


def predict(
    model: WorldModel, states: State, truth: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Predictive]:
    """What states [N, B, H, ...] say of what happened; decoded one future at a time, since images are large."""
    N = states.deter.shape[0]
    vectors = {name for name, leaf in model.spec.observations.items() if leaf.kind == "vector"}
    log_prob: dict[str, list[Tensor]] = defaultdict(list)
    draws: dict[str, list[Tensor]] = defaultdict(list)
    mean: dict[str, Tensor] = {}
    for n in range(N):
        for name, likelihood in model.decode(State(*(x[n] for x in states))).items():
            log_prob[name].append(likelihood.log_prob(truth[name]))
            mean[name] = mean.get(name, torch.zeros(())) + likelihood.mean / N
            if name == REWARD or name in vectors:
                draws[name].append(likelihood.sample(generator))
    return {
        name: Predictive(torch.stack(log_prob[name]), mean[name], torch.stack(draws[name]) if name in draws else None)
        for name in log_prob
    }


def _model_scores(baseline: Baseline, predictive: Predictive, target: Tensor) -> ByMetric:
    x = as_numbers(baseline.leaf, target)
    scores = {
        "nll": rules.mixture_nll(predictive.log_prob),
        "squared_error": baseline.squared_error(predictive.mean, x),
    }
    if predictive.draws is None or len(predictive.draws) < 2:
        return scores
    crps = rules.sample_crps(predictive.draws, x) / baseline.unit
    coverage = rules.rank_coverage(predictive.draws, x)
    return scores | {"crps": crps.mean(-1), "coverage": coverage.mean(-1)}
