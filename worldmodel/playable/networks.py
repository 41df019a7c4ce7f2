"""A world model as a description that a page's script runs: the recurrence, the prior and the decoder.

    h' = cell(h, z, a),    z' ~ p(z' | h'),    E[x | h', z'] and the like

The encoder and the posterior are not part of it, since a dream sees nothing: they may be anything.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from worldmodel.models.decoder import (
    COMPONENTS,
    ESCAPE,
    ESCAPE_UNITS,
    SHARPEST,
    AtomsHead,
    Decoder,
    GaussianHead,
    ImageHead,
    IntegerHead,
    TwoHotHead,
)
from worldmodel.models.full_gaussian import FullGaussianFamily
from worldmodel.models.latents import CategoricalFamily, GaussianFamily
from worldmodel.models.likelihoods import NEAR
from worldmodel.models.rssm import RSSM, BareGRU, BlockGRU, PlainGRU
from worldmodel.models.world_model import WorldModel
from worldmodel.playable.arrays import Arrays
from worldmodel.playable.layers import Operation, block_linear, cannot_run, doubling, gru, linear, norm, operations
from worldmodel.types import ObservationSpec

REWARD_HEAD = "decoder.reward_head"


def describe(model: WorldModel, arrays: Arrays) -> dict[str, Any]:
    """What the page needs to know of a model; its weights go into `arrays`.

    Raises:
        ValueError: if it, or a part that a dream needs, is made of modules that the page has no script for.
    """
    if type(model) is not WorldModel:
        raise cannot_run("model", "WorldModel", model)
    dynamics, decoder = model.dynamics, model.decoder
    if type(dynamics) is not RSSM:
        raise cannot_run("dynamics", "RSSM", dynamics)
    if type(decoder) is not Decoder:
        raise cannot_run("decoder", "Decoder", decoder)
    if decoder.reads != "state":
        raise ValueError("decoder.reads: expected state, which a page can run; got stoch")
    prior = {
        "layers": operations(dynamics.prior_head, arrays, "dynamics.prior_head"),
        "skip": None if dynamics.prior_skip is None else linear(dynamics.prior_skip, arrays, "dynamics.prior_skip"),
    }
    return {
        "deter": dynamics.deter,
        "action": model.spec.action.width,
        "action_in": operations(dynamics.action_in, arrays, "dynamics.action_in"),
        "cell": _cell(dynamics.cell, arrays),
        "prior": prior,
        "latent": _latent(dynamics.latent),
        **_decoder(model, decoder, arrays),
    }


def _cell(cell: nn.Module, arrays: Arrays) -> Operation:
    where = "dynamics.cell"
    if type(cell) is BlockGRU:
        return {
            "kind": "block_gru",
            "deter_in": operations(cell.deter_in, arrays, f"{where}.deter_in"),
            "stoch_in": operations(cell.stoch_in, arrays, f"{where}.stoch_in"),
            "mix": block_linear(cell.mix, arrays, f"{where}.mix"),
            "norm": norm(cell.norm, arrays, f"{where}.norm"),
            "gates": block_linear(cell.gates, arrays, f"{where}.gates"),
        }
    if type(cell) is PlainGRU:
        stoch_in = operations(cell.stoch_in, arrays, f"{where}.stoch_in")
        return {"kind": "gru", "stoch_in": stoch_in, "gru": gru(cell.gru, arrays, f"{where}.gru")}
    if type(cell) is BareGRU:
        return {"kind": "gru", "stoch_in": [], "gru": gru(cell.gru, arrays, f"{where}.gru")}
    raise cannot_run(where, "BlockGRU, PlainGRU or BareGRU", cell)


def _latent(family: object) -> dict[str, Any]:
    if type(family) is GaussianFamily:
        return {"family": "gaussian", "groups": family.groups, "min_std": family.min_std}
    if type(family) is FullGaussianFamily:
        return {"family": "gaussian_full", "groups": family.width, "min_std": family.min_std}
    if type(family) is CategoricalFamily:
        sizes = {"groups": family.groups, "classes": family.classes}
        return {"family": "categorical", **sizes, "unimix": family.unimix}
    raise cannot_run("dynamics.latent", "a diagonal, a full or a categorical family", family)


def _decoder(model: WorldModel, decoder: Decoder, arrays: Arrays) -> dict[str, Any]:
    flat, images = iter(decoder.flat_heads), iter(decoder.image_heads)
    observations = []
    for path, leaf in decoder.specs.items():
        head = next(images if leaf.kind == "image" else flat)
        observations.append(_leaf(model, path, leaf, head, arrays))
    trunk = None if decoder.trunk is None else operations(decoder.trunk, arrays, "decoder.trunk")
    reward = {
        "trunk": operations(decoder.reward_trunk, arrays, "decoder.reward_trunk"),
        "head": _reward(model, decoder.reward_head, arrays),
    }
    return {
        "trunk": trunk,
        "observations": observations,
        "reward": reward,
        "continue": operations(decoder.continue_head, arrays, "decoder.continue_head"),
    }


def _leaf(model: WorldModel, path: str, leaf: ObservationSpec, head: nn.Module, arrays: Arrays) -> dict[str, Any]:
    where = f"decoder, the head of {path!r}"
    if leaf.kind == "image":
        return _image(head, arrays, where)
    if leaf.kind == "integer":
        return _integers(head, leaf, arrays, where)
    if leaf.kind == "vector":
        return _gaussian(model, path, head, arrays, where)
    layer = linear(head, arrays, where)
    if leaf.kind == "categorical":
        return {"kind": "categorical", "layer": layer, "classes": list(leaf.classes)}
    return {"kind": "binary", "layer": layer}


def _reward(model: WorldModel, head: nn.Module, arrays: Arrays) -> dict[str, Any]:
    make: dict[type[nn.Module], Callable[[], dict[str, Any]]] = {
        GaussianHead: lambda: _gaussian(model, "reward", head, arrays, REWARD_HEAD),
        TwoHotHead: lambda: _two_hot(head, arrays),
        AtomsHead: lambda: _atoms(head, arrays),
    }
    if type(head) not in make:
        raise cannot_run(REWARD_HEAD, ", ".join(kind.__name__ for kind in make), head)
    return make[type(head)]()


def _gaussian(model: WorldModel, name: str, head: nn.Module, arrays: Arrays, where: str) -> dict[str, Any]:
    """Mean and std, in units of the data's own location and scale unless it is a density on symlog x."""
    if type(head) is not GaussianHead:
        raise cannot_run(where, "GaussianHead", head)
    symlog = name in model.decoder.symlog
    scaled = model.standardise_targets and not symlog
    scaler = model.standardiser(name)
    return {
        "kind": "gaussian",
        "mean": linear(head.mean, arrays, where),
        "raw_std": None if head.raw_std is None else linear(head.raw_std, arrays, where),
        "skip": None if head.skip is None else linear(head.skip, arrays, where),
        "fixed_std": head.fixed_std,
        "resolution": head.resolution,
        "symlog": symlog,
        "location": arrays.numbers(scaler.location) if scaled else None,
        "scale": arrays.numbers(scaler.scale) if scaled else None,
    }


def _image(head: nn.Module, arrays: Arrays, where: str) -> dict[str, Any]:
    """Where every pixel's level lies; how sure of it the model is stays out, which halves the largest layer."""
    if type(head) is not ImageHead:
        raise cannot_run(where, "ImageHead", head)
    *layers, last = head.layers
    channels = head.location.shape[-1]
    return {
        "kind": "image",
        "stem": linear(head.stem, arrays, where),
        "layers": [
            *operations(nn.Sequential(*layers), arrays, where),
            doubling(last, arrays, where, channels),
        ],
        "location": arrays.numbers(head.location),
        "unit": arrays.numbers(head.unit),
    }


def _integers(head: nn.Module, leaf: ObservationSpec, arrays: Arrays, where: str) -> dict[str, Any]:
    if type(head) is not IntegerHead:
        raise cannot_run(where, "IntegerHead", head)
    return {
        "kind": "integer",
        "layer": linear(head.raw, arrays, where),
        "location": arrays.numbers(head.location),
        "unit": arrays.numbers(head.unit),
        "low": list(leaf.low),
        "high": list(leaf.high),
        "components": COMPONENTS,
        "sharpest": SHARPEST,
        "escape": ESCAPE,
        "escape_units": ESCAPE_UNITS,
        "near": NEAR,
    }


def _two_hot(head: nn.Module, arrays: Arrays) -> dict[str, Any]:
    assert isinstance(head, TwoHotHead)
    return {"kind": "twohot", "layer": linear(head.logits, arrays, REWARD_HEAD), "bins": arrays.numbers(head.bins)}


def _atoms(head: nn.Module, arrays: Arrays) -> dict[str, Any]:
    assert isinstance(head, AtomsHead)
    return {
        "kind": "atoms",
        "layer": linear(head.logits, arrays, REWARD_HEAD),
        "atoms": arrays.numbers(head.atoms),
        "is_atom": arrays.bytes(head.is_atom),
        "location": float(head.location),
        "escape": ESCAPE,
    }
