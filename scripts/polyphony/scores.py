"""The evidence of piano rolls under a world model: ELBO, IWAE, SMC, and the sandwich on pieces that it simulates.

Only the notes count. A model that reads the past is simulated with its own notes as the past, so that what the sandwich
certifies is log p(x_1:T), not the probability of notes after notes that were given.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.polyphony.rolls import Roll, as_episodes, similar, with_past
from worldmodel.data.batches import select, trimmed
from worldmodel.evidence.estimate import Estimate, Evidence, evidence, join, per_step
from worldmodel.evidence.sandwich import sandwich
from worldmodel.models.conditioned import ConditionedWorldModel
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, State

NAME = "obs"
AT_ONCE = 16  # pieces, of similar length, that are scored together
ROWS_AT_ONCE = 2**14  # steps that they have together, at most, so that long pieces fit into memory


def notes_given(model: WorldModel, pieces: Batch) -> ConditionedWorldModel:
    """The model and the pieces that it is to explain, of which the notes alone are decoded."""
    given = model.given(pieces)
    given.decode = partial(model.decode, names=(NAME,))
    return given


@torch.no_grad()
def simulate_pieces(
    model: WorldModel, template: Batch, *, reads_past: bool, generator: torch.Generator
) -> tuple[Batch, Tensor]:
    """A piece of the model's own for each of the template's, as long as it: -> the pieces, and their latents."""
    carry = model.dynamics.initial(len(template.valid))
    action, notes, path = torch.zeros_like(template.prev_action[:, 0]), [], []
    for is_first in template.is_first.unbind(1):
        carry, deter = model.dynamics.step(carry, action, is_first)
        state = State(deter, model.dynamics.prior(deter).sample(generator))
        drawn = model.decode(state, (NAME,))[NAME].sample(generator)
        carry = model.dynamics.advance(carry, state)
        notes.append(drawn)
        path.append(state.stoch)
        if reads_past:
            action = drawn.to(action.dtype)
    pieces = template._replace(obs={NAME: torch.stack(notes, 1)})
    return with_past(pieces, reads_past=reads_past), torch.stack(path, 1)


def score(
    model: WorldModel, rolls: list[Roll], *, reads_past: bool, particles: int, runs: int, generator: torch.Generator
) -> dict[str, Any]:
    """Bound and estimates of some pieces, in nats per step and per piece, with errors over pieces and over runs."""
    found = join(
        [
            evidence(notes_given(model, part), particles, runs=runs, generator=generator)
            for part in batches(rolls, reads_past)
        ]
    )
    names = ("elbo", "iwae", "smc")
    per_piece = len(rolls) / int(found.steps.sum())
    return {
        "pieces": len(rolls),
        "steps": int(found.steps.sum()),
        "particles": particles,
        "runs": runs,
        **{name: _rounded(found.over_sequences(name)) for name in names},
        **({f"{name}_run_error": round(found.over_runs(name).error, 5) for name in names} if runs > 1 else {}),
        **{f"{name}_per_piece": round(found.over_sequences(name).mean / per_piece, 3) for name in names},
        "kl": round(found.bound.mean(found.bound.kl).item(), 4),
        "information": round(_information(found), 4),
        "gap": _rounded(found.gap),
        "degenerate": round(found.degenerate_rows, 5),
    }


def batches(rolls: list[Roll], reads_past: bool) -> Iterator[Batch]:
    """The pieces some at a time, those together of similar length."""
    for chosen in similar(rolls, ROWS_AT_ONCE, AT_ONCE):
        yield as_episodes([rolls[k] for k in chosen], reads_past=reads_past).batch()


def _information(found: Evidence) -> float:
    """What a step told about the latents by the filter of particles, in nats: the KL of the exact posterior."""
    return found.bound.mean(found.filtered.information).item()


def width(
    model: WorldModel, rolls: list[Roll], *, reads_past: bool, particles: int, generator: torch.Generator
) -> dict[str, Any]:
    """The sandwich on simulated pieces as long as some real ones, in nats per step."""
    lower, upper, steps = [], [], []
    for part in batches(rolls, reads_past):
        pieces, path = simulate_pieces(model, part, reads_past=reads_past, generator=generator)
        found = sandwich(notes_given(model, pieces), path, particles, generator=generator)
        lower.append(found.lower)
        upper.append(found.upper)
        steps.append(found.steps)
    total = torch.cat(upper, 1) - torch.cat(lower, 1)
    return {"width": _rounded(per_step(total.mean(0), torch.cat(steps))), "simulated": len(rolls)}


def imagine(model: WorldModel, rolls: list[Roll], *, reads_past: bool, generator: torch.Generator) -> list[Roll]:
    """A piece of the model's own for each of these, as long as it."""
    template = as_episodes(rolls, reads_past=reads_past).batch()
    pieces, _ = simulate_pieces(model, template, reads_past=reads_past, generator=generator)
    return [trimmed(select(pieces, slice(k, k + 1))).obs[NAME][0].numpy().astype(bool) for k in range(len(rolls))]


def _rounded(estimate: Estimate) -> list[float]:
    return [round(estimate.mean, 5), round(estimate.error, 5)]
