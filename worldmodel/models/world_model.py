"""Encoder, recurrence and decoder as one model of rows. It runs forward and nothing else.

`forward` explains whole sequences for training, `step` filters one row for acting; on the same noise they give the same
states, unless the posterior smooths: then they agree where nothing follows. `imagine` goes on without looking. What the
model puts out are distributions: `objectives` makes the bound.
"""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from worldmodel.data.batches import (
    at_once,
    in_precision,
    require_continued_episodes,
    require_whole_episodes,
    with_last_rows_marked,
)
from worldmodel.models.backward_network import BackwardNetwork
from worldmodel.models.conditioned import ConditionedWorldModel
from worldmodel.models.decoder import CONTINUE, REWARD, Decoder
from worldmodel.models.encoder import Encoder, RowEncoder
from worldmodel.models.likelihoods import Affine, Normal, symlog
from worldmodel.types import Act, Batch, Carry, Dynamics, EnvSpec, Latent, Likelihood, State, Trajectory


class Output(NamedTuple):
    """What `forward` returns: the trajectory, and the likelihoods of each row given its state."""

    trajectory: Trajectory
    likelihoods: dict[str, Likelihood]


def varies(mean: Float[Tensor, "*shape"], std: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Whether a quantity of this mean and std varies, beyond what is rounding: the one rule for it."""
    return std > 1e-6 * (1 + mean.abs())


class Standardiser(nn.Module):
    """The location and scale of one quantity, measured once on the prefill; given ones (0 and 1) until then."""

    location: Tensor
    scale: Tensor

    def __init__(self, *shape: int, location: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("location", torch.full(shape, location))
        self.register_buffer("scale", torch.full(shape, scale))

    def set(self, mean: Float[Tensor, "*shape"], std: Float[Tensor, "*shape"]) -> None:
        """Take over measured statistics. A quantity that does not vary keeps scale 1."""
        self.location.copy_(mean)
        self.scale.copy_(torch.where(varies(mean, std), std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        """(x - location) / scale, for x [*batch, *shape] of any dtype."""
        return (x - self.location) / self.scale


class WorldModel(nn.Module):
    """p(x, r, c | a): a recurrence with latents, their decoder, and the encoder that their posterior reads through."""

    def __init__(
        self,
        spec: EnvSpec,
        encoder: RowEncoder,
        dynamics: Dynamics,
        decoder: Decoder,
        *,
        inputs: Literal["standardise", "symlog", "raw"],
        standardise_targets: bool,
        backward_network: BackwardNetwork | None = None,
    ) -> None:
        """Args:
        spec: the environment's leaves and actions.
        encoder, dynamics, decoder: the parts, of matching widths; the recurrence's E is the encoder's width and that of
            the backward network's summary together.
        inputs: what numbers go through before the encoder; images that are not standardised are scaled to [-1/2, 1/2].
        standardise_targets: whether Gaussian densities are predicted in standardised units, and images and integers as
            differences from the data's mean.
        backward_network: tells a posterior that smooths what follows a row; without it, the posterior filters.
        """
        super().__init__()
        self.spec, self.encoder, self.dynamics, self.decoder = spec, encoder, dynamics, decoder
        self.backward_network = backward_network
        self.inputs, self.standardise_targets = inputs, standardise_targets
        leaves = spec.observations.items()
        scalers = {key: Standardiser(leaf.width) for key, leaf in leaves if leaf.is_numeric}
        images = {key: leaf for key, leaf in leaves if leaf.kind == "image"}
        scalers |= {key: Standardiser(*leaf.shape, location=127.5, scale=255.0) for key, leaf in images.items()}
        scalers[REWARD] = Standardiser(1)
        self.standardised = tuple(scalers)  # the names that have a standardiser
        self.standardisers = nn.ModuleList(scalers.values())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def smooths(self) -> bool:
        """Whether the posterior reads what follows a row; `filter` does not in any case."""
        return self.backward_network is not None

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by name: encoder, dynamics, decoder and, of a posterior that smooths, the backward network."""
        assert isinstance(self.dynamics, nn.Module) and isinstance(self.encoder, nn.Module)
        parts: dict[str, nn.Module] = {"encoder": self.encoder, "dynamics": self.dynamics, "decoder": self.decoder}
        return parts if self.backward_network is None else {**parts, "backward_network": self.backward_network}

    @property
    def marginal_gradient(self) -> bool:
        """Whether likelihoods' gradients reach q by summing over classes; see `objectives.marginal`."""
        return self.dynamics.marginal_gradient

    @property
    def carried_numbers(self) -> int:
        """How many numbers the recurrence carries from row to row of one sequence."""
        return sum(leaf.numel() for leaf in tree_leaves(self.dynamics.initial(1)))

    def standardiser(self, name: str) -> Standardiser:
        """The standardiser of a leaf of numbers, of an image, or of the reward."""
        module = self.standardisers[self.standardised.index(name)]
        assert isinstance(module, Standardiser)
        return module

    def standardise(self, name: str, mean: Float[Tensor, "*shape"], std: Float[Tensor, "*shape"]) -> None:
        """Take over the measured mean and std of numbers, bits or the reward [n], or of an image [H, W, C] in levels.

        Bits stay as they are; their probabilities start at the mean, where targets are standardised. An image is
        standardised by its mean image and one scale for all pixels, the root of their mean variance: how much a pixel
        varies is information too.
        """
        leaf = self.spec.observations.get(name)
        if leaf is not None and leaf.kind == "binary":
            if self.standardise_targets and isinstance(self.decoder, Decoder):  # one of one's own starts as it likes
                self.decoder.start_bits_at(name, mean)
            return
        if leaf is None or leaf.is_numeric:
            self.standardiser(name).set(mean, std)
            if leaf is not None and leaf.kind == "integer" and self.standardise_targets:
                self.decoder.integer_head(name).start_at(mean, std)
            return
        if self.inputs == "standardise":
            self.standardiser(name).set(mean, std.square().mean().sqrt().expand_as(std))
        if self.standardise_targets:
            self.decoder.image_head(name).start_at(mean, std)

    def embed(
        self,
        obs: Mapping[str, Tensor],
        reward: Float[Tensor, "*batch"] | None = None,
        is_first: Bool[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch E"]:
        """Embeddings of rows with any leading shape, each by itself: all that is known when it is the newest one.

        Args:
            obs: observations by path.
            reward, is_first: of the same rows, for an encoder that reads rewards; others do without.
        Raises:
            ValueError: if the encoder reads rewards and there are none.
        """
        embed = self._encode(obs, reward, is_first)
        if self.backward_network is None:
            return embed
        nothing = self.backward_network.nothing.to(embed.dtype)
        return torch.cat([embed, nothing.expand(*embed.shape[:-1], -1)], -1)

    def embed_newest(self, batch: Batch) -> Float[Tensor, "B T E"]:
        """Embeddings of rows that each know nothing of what follows, whatever the posterior: for filtering."""
        return self.embed(batch.obs, batch.reward, batch.is_first)

    def embed_sequence(self, batch: Batch) -> Float[Tensor, "B T E"]:
        """Embeddings of rows as the posterior is meant to see them: where it smooths, with what follows each one."""
        if self.backward_network is None:
            return self.embed_newest(batch)
        embed = self._encode(batch.obs, batch.reward, batch.is_first)
        future = self.backward_network(embed, batch.prev_action, batch.is_first, batch.is_last)
        return torch.cat([embed, future], -1)

    def decode(self, state: State, names: Collection[str] | None = None) -> dict[str, Likelihood]:
        """Likelihoods by name at states with any leading shape, in the units of the data.

        Args:
            state: h_t and z_t.
            names: the likelihoods wanted; the networks of the others do not run. All of them by default.
        Raises:
            ValueError: if there is no likelihood of such a name.
        """
        likelihoods = self.decoder(state, names)
        if not self.standardise_targets:
            return likelihoods
        for name, base in likelihoods.items():
            if isinstance(base, Normal):
                scaler = self.standardiser(name)
                likelihoods[name] = Affine(base, scaler.location, scaler.scale)
        return likelihoods

    @torch.no_grad()
    def likelihoods(self) -> dict[str, Likelihood]:
        """Examples of the likelihoods by name, at one state of zeros: what they are does not depend on the state."""
        deter, stoch = (next(self.parameters()).new_zeros(1, width) for width in self.decoder.widths)
        return self.decode(State(deter, stoch))

    def forward(self, batch: Batch, noise: Float[Tensor, "B T *noise"]) -> Output:
        """Explain sequences by the posterior and decode every state, for noise from `noise`."""
        trajectory = self.observe(batch, noise)
        deter, stoch = trajectory.states
        if self.dynamics.marginal_gradient:
            stoch = stoch.detach()  # a likelihood's gradient reaches q by `objectives.marginal` instead
        return Output(trajectory, self.decode(State(deter, stoch)))

    def noise(self, batch: int, steps: int, generator: torch.Generator | None = None) -> Float[Tensor, "B T *noise"]:
        """The noise that samples of z are made from: for `forward`, `observe` and `imagine`."""
        return self.dynamics.noise(batch, steps, generator)

    def observe(self, batch: Batch, noise: Float[Tensor, "B T *noise"], carry: Carry | None = None) -> Trajectory:
        """Explain sequences without decoding them; from `carry`, or the initial carry."""
        return self.dynamics.observe(self.embed_sequence(batch), batch.prev_action, batch.is_first, noise, carry)

    def filter(self, batch: Batch, noise: Float[Tensor, "B T *noise"]) -> Trajectory:
        """Explain sequences by q(z_t | h_t, x_t), where no row knows what follows it, whatever the posterior."""
        return self.dynamics.observe(self.embed_newest(batch), batch.prev_action, batch.is_first, noise)

    def step(
        self,
        carry: Carry,
        obs: Mapping[str, Tensor],
        prev_action: Float[Tensor, "B A"],
        is_first: Bool[Tensor, " B"],
        noise: Float[Tensor, "B ..."],
        reward: Float[Tensor, " B"] | None = None,
    ) -> tuple[Carry, State, Latent]:
        """Filter one row: -> the carry, the state, and the posterior that its z_t was sampled from. No prior.

        Nothing follows the row, so that a posterior that smooths filters here too. The reward, received on arriving at
        the row, is for an encoder that reads it; where `is_first` there is none, whatever the number.
        """
        carry, deter = self.dynamics.step(carry, prev_action, is_first)
        posterior = self.dynamics.posterior(deter, self.dynamics.project(self.embed(obs, reward, is_first)))
        state = State(deter, posterior.rsample(noise))
        return self.dynamics.advance(carry, state), state, posterior

    def imagine(
        self, carry: Carry, state: State, act: Act, noise: Float[Tensor, "B H *noise"]
    ) -> tuple[State, Float[Tensor, "B H A"]]:
        """The states after each of H actions that `act` chooses, without looking, and the actions."""
        return self.dynamics.imagine(carry, state, act, noise)

    @torch.no_grad()
    def given(self, batch: Batch, start: Carry | None = None) -> ConditionedWorldModel:
        """This model and the episodes that it is to explain, as a `LatentSequence`: for evidence, not for training.

        Args:
            batch: whole episodes from their reset, padded at the end; with `start`, what follows it of each.
            start: [B, ...] what the recurrence carries after the rows before these, as `observe` returns it.
        Raises:
            ValueError: if a sequence is anything else.
        """
        (require_whole_episodes if start is None else require_continued_episodes)(batch)
        batch = in_precision(with_last_rows_marked(batch), next(self.parameters()).dtype)
        return ConditionedWorldModel(
            self.dynamics,
            self.decode,
            batch,
            self.embed_sequence(batch),
            self.targets(batch),
            self.observed(batch),
            particles_at_once=at_once(len(batch.valid) * self.spec.width),
            start=start,
        )

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """What each likelihood is evaluated at, by name."""
        reward, alive = batch.reward[..., None], (~batch.is_terminal)[..., None]
        return {**batch.obs, REWARD: reward, CONTINUE: alive}

    def observed(self, batch: Batch) -> dict[str, Bool[Tensor, "B T"]]:
        """Where a target is an observation, for those that are not everywhere: no reward leads to a first row."""
        return {REWARD: ~batch.is_first}

    def resolution(self) -> dict[str, Float[Tensor, " n"]]:
        """The floor of each learned std by name: in the units of the data, or in symlog units for a symlog density."""
        floors = {}
        for name in self.decoder.floored:
            scaled = self.standardise_targets and name not in self.decoder.symlog
            scale = self.standardiser(name).scale
            floors[name] = self.decoder.resolution * (scale if scaled else torch.ones_like(scale))
        return floors

    def _encode(self, obs: Mapping[str, Tensor], reward: Tensor | None, is_first: Tensor | None) -> Tensor:
        inputs = {key: self._as_input(key, x) for key, x in obs.items()}
        if not getattr(self.encoder, "reads_reward", False):
            return self.encoder(inputs)
        if reward is None or is_first is None:
            raise ValueError("reward, is_first: expected those of the rows, since the encoder reads rewards, got None")
        there = ~is_first[..., None]
        number = torch.where(there, self._as_input(REWARD, reward[..., None]), 0.0)
        return cast(Encoder, self.encoder)(inputs, torch.cat([number, there.to(number.dtype)], -1))

    def _as_input(self, key: str, x: Tensor) -> Tensor:
        leaf = self.spec.observations.get(key)
        if leaf is not None and leaf.kind == "image":
            return self.standardiser(key)(x)
        if (leaf is not None and not leaf.is_numeric) or self.inputs == "raw":
            return x
        x = x if x.is_floating_point() else x.to(self.standardiser(key).location.dtype)
        return symlog(x) if self.inputs == "symlog" else self.standardiser(key)(x)
