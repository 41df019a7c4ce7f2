"""The rate of a trained world model decomposed on whole episodes: see `evidence.rate`."""

from collections.abc import Callable

import torch

from worldmodel.checks import require_positive
from worldmodel.data.batches import at_once, repeated, select
from worldmodel.evidence.rate import Rate, first_row, join_rates, posterior_path, rate_along_path
from worldmodel.models.simulation import predicted_rows
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, State


def first_rows(model: WorldModel, episodes: Batch, *, generator: torch.Generator | None = None) -> Rate:
    """The parts of the first row's rate: the other episodes' are its alternatives. Real data, whatever the model.

    Raises:
        ValueError: for a single episode.
    """
    return first_row(model.given(episodes), generator=generator)


@torch.no_grad()
def every_row(
    model: WorldModel,
    episodes: Batch,
    *,
    alternatives: int,
    resample: Callable[[Batch], Batch] | None = None,
    generator: torch.Generator | None = None,
) -> Rate:
    """The parts of every row's rate, one draw of the latents an episode.

    Args:
        model: one whose posterior filters; one that smooths also reads the later rows, which no longer fit.
        episodes: whole from their reset, padded.
        alternatives: M, draws of each row given the rows before it.
        resample: draws every row of a batch anew from its true law given the rows before it. Without it they are drawn
            from the model's own prediction p(x_t | h_t), and the parts are those of a world as the model has it.
        generator: source of all draws, on the model's device.
    Raises:
        ValueError: if the posterior smooths, or a number is not positive.
    """
    if model.backward_network is not None:
        raise ValueError("model: expected a posterior that filters, got one that smooths")
    require_positive(alternatives=alternatives)
    T = episodes.valid.shape[1]
    row = model.encoder.width + model.spec.width
    size = at_once(alternatives * T * row)
    parts = []
    for start in range(0, len(episodes.valid), size):
        part = select(episodes, slice(start, start + size))
        given = model.given(part)
        states = posterior_path(given, generator=generator)
        many = repeated(part, alternatives)
        if resample is None:
            again = predicted_rows(
                model, many, State(*(x.repeat(alternatives, 1, 1) for x in states)), generator=generator
            )
        else:
            again = resample(many)
        parts.append(rate_along_path(given, model.given(again), states.stoch))
    return join_rates(parts)
