"""Settings -> networks: the sections `encoder`, `rssm` and `decoder` become modules and a world model here."""

import math
import os

import torch

from worldmodel.checks import require
from worldmodel.config import Config
from worldmodel.config_model import DecoderConfig, EncoderConfig, RSSMConfig
from worldmodel.models.backward_network import BackwardNetwork
from worldmodel.models.decoder import Decoder
from worldmodel.models.encoder import Encoder, RowEncoder
from worldmodel.models.full_gaussian import FullGaussianFamily
from worldmodel.models.latents import CategoricalFamily, GaussianFamily, LatentFamily
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Dynamics, EnvSpec


def build_model(
    config: Config,
    spec: EnvSpec,
    *,
    encoder: RowEncoder | None = None,
    dynamics: Dynamics | None = None,
    decoder: Decoder | None = None,
) -> WorldModel:
    """A world model for an environment, its weights drawn from the configuration's seed.

    Args:
        config: of the run. What it says of parts that are given is not read; `model` and `factory` settings never are.
        spec: what a row holds.
        encoder: a part of one's own, see `RowEncoder`.
        dynamics: likewise, for embeddings of the width that `embedding_width` gives; its states are `rssm.deter` wide,
            and its latents of the family that `build_latent` gives, unless the decoder is one's own too.
        decoder: likewise.
    Raises:
        ValueError: if its weights alone do not fit in this machine's memory, or the encoder has no width.
    """
    given = encoder is not None or dynamics is not None or decoder is not None
    require(
        encoder is None or hasattr(encoder, "width"),
        "encoder",
        "a module with a width, that of what it puts out",
        encoder,
    )
    with torch.random.fork_rng(devices=[]):  # the weights are made on the CPU, whatever the device
        if given:
            torch.default_generator.manual_seed(make_generator(config.seed, stream=Stream.REST).initial_seed())
        else:
            _require_room(config, spec)
            torch.default_generator.manual_seed(config.seed)
        return _make_model(config, spec, encoder, dynamics, decoder)


def embedding_width(config: Config, encoder: RowEncoder) -> int:
    """The width of what the posterior reads of a row: the encoder's, and where it smooths a summary of what follows."""
    return encoder.width + (config.rssm.hidden if config.rssm.posterior == "smoothing" else 0)


def _require_room(config: Config, spec: EnvSpec) -> None:
    sizes = "encoder, rssm, decoder: expected sizes of a model that fits in memory"
    try:
        with torch.device("meta"):  # shapes without numbers
            count = sum(weights.numel() for weights in _make_model(config, spec).parameters())
    except RuntimeError as error:
        raise ValueError(f"{sizes}, got sizes that no tensor can have ({error})") from error
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if count * torch.float32.itemsize > memory:
        raise ValueError(f"{sizes}, {memory / 2**30:.0f} GiB here, got {count:,} parameters")


def _make_model(
    config: Config,
    spec: EnvSpec,
    encoder: RowEncoder | None = None,
    dynamics: Dynamics | None = None,
    decoder: Decoder | None = None,
) -> WorldModel:
    encoder = build_encoder(config.encoder, spec) if encoder is None else encoder
    dynamics = build_rssm(config, spec, embedding_width(config, encoder)) if dynamics is None else dynamics
    if decoder is None:
        decoder = build_decoder(config.decoder, spec, deter=config.rssm.deter, stoch=build_latent(config.rssm).width)
    backward_network = (
        BackwardNetwork(encoder.width, spec.action.width, config.rssm.hidden)
        if config.rssm.posterior == "smoothing"
        else None
    )
    return WorldModel(
        spec,
        encoder,
        dynamics,
        decoder,
        inputs=config.encoder.inputs,
        standardise_targets=config.decoder.standardise,
        backward_network=backward_network,
    )


def build_encoder(config: EncoderConfig, spec: EnvSpec) -> Encoder:
    """This project's encoder of an environment's rows."""
    return Encoder(
        spec.observations,
        layers=config.layers,
        units=config.units,
        depth=config.depth,
        reward=config.reward,
        skip=config.skip,
    )


def build_rssm(config: Config, spec: EnvSpec, embed: int) -> RSSM:
    """This project's recurrence, for embeddings of this width."""
    rssm = config.rssm
    return RSSM(
        embed=embed,
        action=spec.action.width,
        deter=rssm.deter,
        hidden=rssm.hidden,
        latent=build_latent(rssm),
        cell=rssm.cell,
        blocks=rssm.blocks,
        posterior_layers=rssm.posterior_layers,
        prior_layers=rssm.prior_layers,
        skip=rssm.skip,
    )


def build_latent(config: RSSMConfig) -> LatentFamily:
    """The family of z_t."""
    if config.latent == "gaussian":
        return GaussianFamily(config.stoch, config.min_std)
    if config.latent == "gaussian_full":
        return FullGaussianFamily(config.stoch, config.min_std)
    return CategoricalFamily(config.stoch, config.classes, config.unimix, config.gradient)


def build_decoder(config: DecoderConfig, spec: EnvSpec, *, deter: int, stoch: int) -> Decoder:
    """The likelihoods of an environment's rows, for states of width D and Z."""
    return Decoder(
        spec.observations,
        deter=deter,
        stoch=stoch,
        layers=config.layers,
        units=config.units,
        depth=config.depth,
        vector=config.vector,
        reward=config.reward,
        std=config.fixed_std if config.std == "fixed" else None,
        resolution=config.resolution,
        initial_std=config.initial_std,
        skip=config.skip,
        reads=config.reads,
    )
