"""Small untrained models of every kind that a page can run, and pages of them."""

from collections.abc import Callable

import torch

from worldmodel.data.random_batch import random_batch
from worldmodel.models.world_model import WorldModel
from worldmodel.playable.arrays import Arrays
from worldmodel.playable.controls import controls
from worldmodel.playable.networks import describe
from worldmodel.playable.page import Page, Subject, playable_page
from worldmodel.playable.pictures import names_of, pictures
from worldmodel.playable.reference import STEPS, reference
from worldmodel.types import Batch, State
from worlds import CATEGORICAL, FULL, INTEGER_SPEC, MIXED_SPEC, make_model

CASES: dict[str, Callable[[], WorldModel]] = {
    "gaussian": make_model,
    "gaussian_full": lambda: make_model(latent=FULL),
    "categorical": lambda: make_model(latent=CATEGORICAL),
    "gru": lambda: make_model(cell="gru"),
    "bare_gru": lambda: make_model(cell="bare_gru"),
    "symlog": lambda: make_model(vector="symlog", reward="symlog"),
    "fixed std, raw targets, no skip": lambda: make_model(std=1.0, skip=False, standardise_targets=False),
    "image, classes, bits, two-hot": lambda: make_model(MIXED_SPEC, reward="twohot"),
    "integers, rewards that are atoms": lambda: make_model(INTEGER_SPEC, CATEGORICAL, reward="categorical"),
}


@torch.no_grad()
def shaken(model: WorldModel, size: float = 0.3) -> WorldModel:
    """The model with weights and statistics that are nowhere zero, one or alike."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter += size * torch.randn(parameter.shape, generator=generator)
    for scaler in model.standardisers:
        scaler.location += size * torch.randn(scaler.location.shape, generator=generator)
        scaler.scale *= 1.5
    return model


def start_of(model: WorldModel) -> State:
    deter, stoch = model.decoder.widths
    generator = torch.Generator().manual_seed(1)
    return State(torch.randn(1, deter, generator=generator), torch.randn(1, stoch, generator=generator))


def rows_of(model: WorldModel, episodes: int = 3, length: int = 30) -> Batch:
    return random_batch(model.spec, episodes, length, torch.Generator().manual_seed(2))


def payload(model: WorldModel) -> dict:
    """What a page holds of a model: its description, its stores, and what PyTorch makes of twenty steps."""
    arrays = Arrays()
    described = describe(model, arrays)
    action = rows_of(model, 1, STEPS + 1).prev_action[0, 1:]
    check = reference(model, start_of(model), action, arrays, seed=0)
    return {"model": described, "stores": arrays.texts(), "check": check}


def subject_of(model: WorldModel, env_id: str = "Mine-v0", name: str = "a run", **settings) -> Subject:
    spec, settings = model.spec, {"wrappers": [], "hide": {}} | settings
    return Subject(
        name,
        env_id,
        controls(env_id, spec.action),
        pictures(env_id, spec, **settings),
        [names_of(env_id, path, leaf, **settings) for path, leaf in spec.observations.items()],
    )


def page_of(model: WorldModel, env_id: str = "Mine-v0", name: str = "a run", limit: int | None = None) -> Page:
    return playable_page(model, rows_of(model), subject_of(model, env_id, name), seed=0, limit=limit)
