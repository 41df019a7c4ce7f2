"""Open-loop errors: imagined futures of held-out episodes against what happened, by horizon.

Episodes are filtered from their reset; from every start the model rolls on under the recorded actions without looking.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.behaviour.imagination import filter_samples, imagine, recorded
from worldmodel.data.batches import FEWEST_A_ROW, at_once, select
from worldmodel.models.encoder import as_numbers
from worldmodel.models.world_model import WorldModel, varies
from worldmodel.types import Batch, ObservationSpec, State

STARTS = 8  # in one episode, at most


class Futures(NamedTuple):
    """Futures of several episodes that start at the same row: where they start from, and what happened."""

    episode: Int[Tensor, " B"]  # which episodes
    start: State  # [N, B, ...] filtered
    rows: Batch  # [B, 1 + H]: the last row seen, then the future


def futures(
    model: WorldModel,
    episodes: Batch,
    *,
    context: int,
    horizon: int,
    samples: int,
    generator: torch.Generator | None = None,
) -> Iterator[Futures]:
    """Every recorded future that is scored, a few episodes at a time, so that memory does not grow with their number.

    Episodes are filtered from their reset. Futures start after `context` rows and then every half horizon (but at most
    eight times an episode), wherever the whole future was recorded.

    Args:
        model: the world model.
        episodes: whole episodes from their reset, padded; see `data.batches.pad_episodes`.
        context: rows filtered before the first start.
        horizon: rows of a future (H).
        samples: filtered states a start (N).
        generator: source of the noise.
    """
    B, T = episodes.is_first.shape
    size = at_once(T * max(samples * max(FEWEST_A_ROW, model.carried_numbers), model.spec.width))
    for first in range(0, B, size):
        part = select(episodes, slice(first, first + size))
        filtered = filter_samples(model, part, samples, generator)
        for t in range(context - 1, T - horizon, max(1, horizon // 2, (T - horizon - context) // STARTS + 1)):
            whole = part.valid[:, t + horizon]
            if whole.any():
                start = State(*(x[:, whole, t] for x in filtered))
                yield Futures(first + whole.nonzero()[:, 0], start, select(part, whole, slice(t, t + 1 + horizon)))


class OpenLoopError(NamedTuple):
    """Mean squared error by horizon, [H] each, in units of the held-out variance as `relative_error` has them."""

    model: Float[Tensor, " H"]
    repeat_last: Float[Tensor, " H"]  # the last row seen, repeated
    data_mean: Float[Tensor, " H"]  # the mean of the scored rows themselves: a baseline that has seen the answers


@torch.no_grad()
def open_loop_errors(
    model: WorldModel,
    episodes: Batch,
    *,
    context: int,
    horizon: int,
    samples: int,
    generator: torch.Generator | None = None,
) -> dict[str, OpenLoopError]:
    """Score the mean of N imagined futures against what happened, by observation leaf.

    `futures` decides which. The unit is the variance of these episodes themselves, and the baseline their mean, so that
    it needs no training data; `evaluation.scores` has the same error in units of the training data's variance.

    Args:
        model: the world model.
        episodes: whole episodes from their reset, padded; see `data.batches.pad_episodes`.
        context: rows filtered before the first start.
        horizon: rows predicted (H).
        samples: futures whose mean is the prediction (N).
        generator: source of the noise.
    Returns:
        The errors by name; empty if no episode is long enough.
    """
    leaves = model.spec.observations.items()
    moments = {name: spread(leaf, episodes.obs[name], episodes.valid) for name, leaf in leaves}
    sums = {name: torch.zeros(3, horizon, dtype=torch.float64) for name in moments}
    count = 0
    for future in futures(model, episodes, context=context, horizon=horizon, samples=samples, generator=generator):
        count += len(future.episode)
        for name, errors in _squared_errors(model, future.start, future.rows, moments, generator).items():
            sums[name] += errors
    return {name: OpenLoopError(*(total / count)) for name, total in sums.items()} if count else {}


def spread(leaf: ObservationSpec, x: Tensor, valid: Bool[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
    """Mean and std over the valid rows of one leaf [B, T, ...], read as numbers; a std of 0 for what does not vary."""
    count = valid.sum()

    def sequences() -> Iterator[Tensor]:
        return (as_numbers(leaf, rows[kept], torch.float64) for rows, kept in zip(x, valid, strict=True))

    mean = sum((rows.sum(0) for rows in sequences()), torch.zeros(())) / count
    squares = sum(((rows - mean).square().sum(0) for rows in sequences()), torch.zeros(()))
    std = (squares / (count - 1).clamp(min=1)).sqrt()
    return mean.float(), torch.where(varies(mean, std), std, 0.0).float()


def or_one(std: Tensor) -> Tensor:
    """A std as a unit: 1 for what does not vary."""
    return torch.where(std > 0, std, 1.0)


def relative_error(leaf: ObservationSpec, guess: Tensor, x: Tensor, std: Tensor) -> Float[Tensor, "B H"]:
    """Squared error of a guess at x [B, H, ...], both as numbers, in units of the variance std^2.

    Leaves of numbers: averaged over dimensions, each in units of its own variance. Images, classes (one-hot) and bits:
    summed over the leaf, in units of its summed variance, since single pixels and classes may hardly vary; a Brier
    score over that of the frequencies. So the mean of what varies scores 1 on average.
    """
    square = (guess - x).square()
    if leaf.is_numeric:
        return (square / or_one(std).square()).mean(-1)
    return square.flatten(2).sum(-1) / or_one(std.square().sum())


def _squared_errors(
    model: WorldModel,
    start: State,
    rows: Batch,
    moments: dict[str, tuple[Tensor, Tensor]],
    generator: torch.Generator | None,
) -> dict[str, Float[Tensor, "3 H"]]:
    """Summed over sequences, by leaf: the imagined mean, the last row seen (the first of `rows`), the data's mean."""
    samples, action = start.deter.shape[0], rows.prev_action[:, 1:]
    states = imagine(model, start, recorded(action, samples), action.shape[1], generator=generator).states
    truth = {name: as_numbers(leaf, rows.obs[name]) for name, leaf in model.spec.observations.items()}
    predicted = {name: torch.zeros_like(x[:, 1:]) for name, x in truth.items()}
    for n in range(samples):
        decoded = model.decode(State(*(x[n] for x in states)), tuple(predicted))
        for name, total in predicted.items():
            total += decoded[name].mean / samples
    errors = {}
    for name, x in truth.items():
        mean, std = moments[name]
        leaf, guesses = model.spec.observations[name], (predicted[name], x[:, :1], mean)
        sums = [relative_error(leaf, guess, x[:, 1:], std).sum(0) for guess in guesses]
        errors[name] = torch.stack(sums).double().cpu()
    return errors
