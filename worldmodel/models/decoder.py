"""States (h_t, z_t) -> likelihoods of observation, reward and continue.

A perceptron's trunk serves every leaf that is not an image; images, the reward and the continue flag have networks of
their own. The names of the likelihoods are the paths of the observation's leaves, and REWARD and CONTINUE.
"""

import math
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, softplus

from worldmodel.kernels.precision import full_precision
from worldmodel.models.likelihoods import (
    Atoms,
    Bernoullis,
    Categoricals,
    DiscretisedLogistic,
    IntegerMixture,
    Normal,
    SymlogNormal,
    TwoHot,
    learned_std,
    symexp_bins,
)
from worldmodel.models.networks import ChannelNorm, image_stages, mlp, without_copies
from worldmodel.types import Likelihood, ObservationSpec, State

REWARD, CONTINUE = "reward", "continue"
TWO_HOT_BINS = 255  # as in DreamerV3
LEVELS_A_UNIT = 64  # of an image head's outputs, before it knows the data
SMALLEST_UNIT = 8  # levels, for the location of a pixel that never changed
SMALLEST_SCALE = 0.25  # levels; already puts 0.76 of the mass on one level
COMPONENTS = 3  # of an integer's mixture: a cell of a grid is a wall, empty or a thing
SHARPEST = 0.05  # scale of an integer's component; puts all but 1e-4 of its mass on one whole number
ESCAPE = 1e-4  # weight of what takes values that were never seen; costs as many nats an integer, and a reward
ESCAPE_UNITS = 8  # the scale of that component, in units of the data's spread
RAREST = 1e-4  # the probability that a bit starts with, at least, of either value
MOST_REWARDS = 32  # different rewards that a mass is put on


class GaussianHead(nn.Module):
    """Features and z_t -> a Normal over n numbers, its std learned above a floor or fixed."""

    def __init__(
        self,
        inputs: int,
        stoch: int,
        n: int,
        *,
        std: float | None,
        resolution: float,
        skip: bool,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        self.mean = nn.Linear(inputs, n)
        self.raw_std = nn.Linear(inputs, n) if std is None else None
        if self.raw_std is not None and initial_std is not None:
            nn.init.constant_(self.raw_std.bias, math.log(math.expm1(initial_std - resolution)))
        self.skip = nn.Linear(stoch, n, bias=False) if skip else None
        self.fixed_std, self.resolution = std, resolution

    def forward(self, features: Tensor, stoch: Tensor) -> Normal:
        """The Normal at features [*batch, I] and z_t [*batch, Z]; never in bfloat16, which is too coarse."""
        with torch.autocast(features.device.type, enabled=False):
            features, stoch = full_precision(features), full_precision(stoch)
            mean = self.mean(features)
            if self.skip is not None:
                mean = mean + self.skip(stoch)
            if self.fixed_std is not None:
                return Normal(mean, torch.full_like(mean, self.fixed_std))
            assert self.raw_std is not None
            return Normal(mean, learned_std(self.raw_std(features), self.resolution))


class ImageHead(nn.Module):
    """State -> a discretised logistic over size x size x C bytes: location and scale of every pixel's channel.

    It starts as one distribution for all states: mid-grey, or the data's own image once `start_at` has been told it.
    The network then has only differences between states to learn; a mean image that it must learn itself takes
    thousands of updates, in which it finds no use for z_t and the posterior collapses.
    """

    location: Tensor
    unit: Tensor
    raw_scale: Tensor

    def __init__(self, inputs: int, size: int, channels: int, depth: int) -> None:
        super().__init__()
        stages = image_stages(size, depth)[::-1]
        self.stem = nn.Linear(inputs, stages[0] * 4 * 4)
        layers: list[nn.Module] = []
        for before, after in pairwise(stages):
            layers += [ChannelNorm(before), nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        layers += [ChannelNorm(stages[-1]), nn.SiLU()]
        last = nn.ConvTranspose2d(stages[-1], 2 * channels, 4, stride=2, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(*layers, last)
        self.register_buffer("location", torch.full((size, size, channels), 127.5))
        self.register_buffer("unit", torch.full((size, size, channels), float(LEVELS_A_UNIT)))
        self.register_buffer("raw_scale", torch.zeros(size, size, channels))  # 64 softplus(0): a scale of 45 levels

    def start_at(self, mean: Float[Tensor, "H W C"], std: Float[Tensor, "H W C"]) -> None:
        """Start from measured statistics, in levels: the logistic of that mean and std at every pixel.

        A pixel that hardly varied gets a small unit, so that one step of the optimiser moves it by less than a level,
        each of which costs nats.
        """
        scale = (std * 3**0.5 / torch.pi).clamp(min=1.0)  # one level where a pixel never changed: it still may
        self.location.copy_(mean)
        self.unit.copy_((std.square() + SMALLEST_UNIT**2).sqrt())
        self.raw_scale.copy_(torch.log(torch.expm1(scale / LEVELS_A_UNIT)))

    def forward(self, features: Float[Tensor, "*batch I"]) -> DiscretisedLogistic:
        """The mass at features."""
        lead = features.shape[:-1]
        x = rearrange(self.stem(features.flatten(0, -2)), "B (C H W) -> B C H W", H=4, W=4)
        x = rearrange(full_precision(self.layers(x)), "B C H W -> B H W C").unflatten(0, lead)
        location, raw_scale = x.chunk(2, -1)
        scale = learned_std(self.raw_scale + raw_scale, SMALLEST_SCALE / LEVELS_A_UNIT)
        return DiscretisedLogistic(self.location + self.unit * location, LEVELS_A_UNIT * scale)


class IntegerHead(nn.Module):
    """Features -> a mass over the whole numbers low .. high of n entries, a mixture of logistics for each.

    One more component, wide and with a small fixed weight, lies where the data does: a value that was never seen
    keeps some mass however sure the others are. It starts around the data's mean, once `start_at` has been told it.
    """

    location: Tensor
    unit: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, inputs: int, spec: ObservationSpec) -> None:
        super().__init__()
        self.raw = nn.Linear(inputs, 3 * COMPONENTS * spec.width)
        low, high = (torch.tensor(bound, dtype=torch.float64) for bound in (spec.low, spec.high))
        self.register_buffer("low", low, persistent=False)  # of the spec, and so of no checkpoint
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("location", torch.zeros_like(low).clamp(low, high).float())
        self.register_buffer("unit", torch.ones(spec.width))
        self.dtype = spec.torch_dtype

    def start_at(self, mean: Float[Tensor, " n"], std: Float[Tensor, " n"]) -> None:
        """Start from measured statistics. An entry that hardly changed is measured in whole numbers."""
        self.location.copy_(mean)
        self.unit.copy_((std.square() + 1).sqrt())

    def forward(self, features: Tensor, stoch: Tensor) -> IntegerMixture:
        """The mass at features [*batch, I], in full precision; z_t has no part of its own in it."""
        with torch.autocast(features.device.type, enabled=False):
            raw = rearrange(self.raw(full_precision(features)), "... (part n K) -> part ... n K", part=3, K=COMPONENTS)
        logits, location, raw_scale = raw.unbind(0)
        centre, unit = self.location[:, None].to(location.dtype), self.unit[:, None].to(location.dtype)
        apart = torch.linspace(-1, 1, COMPONENTS, device=location.device, dtype=location.dtype)  # or they stay one
        seen = log_softmax(logits, -1) + math.log1p(-ESCAPE)
        lead = logits.shape[:-1]
        return IntegerMixture(
            torch.cat([seen, seen.new_full((*lead, 1), math.log(ESCAPE))], -1),
            torch.cat([centre + unit * (location + apart), centre.expand(*lead, 1)], -1),
            torch.cat([unit * softplus(raw_scale) + SHARPEST, (ESCAPE_UNITS * unit).expand(*lead, 1)], -1),
            self.low,
            self.high,
            self.dtype,
        )


class AtomsHead(nn.Module):
    """Features -> a mass on a handful of values and a density elsewhere; the values are set by `start_at`.

    It starts as the same mass on each. Until it has been told, zero is the only one.
    """

    atoms: Tensor
    is_atom: Tensor
    location: Tensor
    scale: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.logits = nn.Linear(inputs, MOST_REWARDS)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.register_buffer("atoms", torch.zeros(MOST_REWARDS))
        self.register_buffer("is_atom", torch.arange(MOST_REWARDS) == 0)
        self.register_buffer("location", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def start_at(self, values: Float[Tensor, " n"]) -> None:
        """Take over at most MOST_REWARDS values; the density elsewhere lies around them, as wide as they spread."""
        n = len(values)
        if not n:
            return
        spread = values.max() - values.min()
        self.atoms.zero_()[:n] = values
        self.is_atom.zero_()[:n] = True
        self.location.copy_(values.mean())
        self.scale.copy_(torch.where(spread > 0, spread, values.abs().max().clamp(min=1.0)))

    def forward(self, features: Tensor, stoch: Tensor) -> Atoms:
        """The distribution at features [*batch, I]; z_t has no part of its own in it."""
        logits = full_precision(self.logits(features)).masked_fill(~self.is_atom, -math.inf)
        return Atoms(logits, self.atoms, self.location, self.scale, ESCAPE)


class TwoHotHead(nn.Module):
    """Features -> a two-hot density over one number; starts as the same mass between any two bins."""

    bins: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.logits = nn.Linear(inputs, TWO_HOT_BINS)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.register_buffer("bins", symexp_bins(TWO_HOT_BINS), persistent=False)

    def forward(self, features: Tensor, stoch: Tensor) -> TwoHot:
        """The density at features [*batch, I]; z_t has no part of its own in it."""
        return TwoHot(full_precision(self.logits(features)), self.bins)


def _flat_head(spec: ObservationSpec, units: int, gaussian: Callable[[int], nn.Module]) -> nn.Module:
    """The network of a leaf that is no image, for the features of the trunk; `gaussian` makes that of a vector."""
    if spec.kind == "integer":
        return IntegerHead(units, spec)
    return gaussian(spec.width) if spec.kind == "vector" else nn.Linear(units, spec.width)


def _once(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), which looks once at what was expanded over rows."""
    y = layer(without_copies(x))
    return y.expand(*x.shape[:-1], y.shape[-1])


class Decoder(nn.Module):
    """All the likelihoods of a row, given its state."""

    def __init__(
        self,
        observations: Mapping[str, ObservationSpec],
        *,
        deter: int,
        stoch: int,
        layers: int,
        units: int,
        depth: int,
        vector: Literal["gaussian", "symlog"],
        reward: Literal["gaussian", "symlog", "twohot", "categorical"],
        std: float | None,
        resolution: float,
        skip: bool,
        initial_std: float | None = None,
        reads: Literal["state", "stoch"] = "state",
    ) -> None:
        """Args:
        observations: the leaves to decode.
        deter, stoch: widths D and Z of the state.
        layers, units: hidden layers of each perceptron and their width.
        depth: channels at an image's full resolution.
        vector, reward: densities, as in `DecoderConfig`.
        std: a fixed standard deviation, or None to learn one.
        resolution: floor of a learned standard deviation.
        skip: add a linear map of z_t to Gaussian means.
        initial_std: where a learned standard deviation starts, above its floor; None leaves it near 0.7.
        reads: all of the state, or z_t alone.
        """
        super().__init__()
        self.specs, self.widths, self.reads = dict(observations), (deter, stoch), reads
        inputs = stoch if reads == "stoch" else deter + stoch
        self.symlog = {key for key, spec in self.specs.items() if spec.kind == "vector" and vector == "symlog"}
        widths = [inputs] + [units] * layers
        flat = {key: spec for key, spec in self.specs.items() if spec.kind != "image"}

        def gaussian(n: int) -> GaussianHead:
            return GaussianHead(units, stoch, n, std=std, resolution=resolution, skip=skip, initial_std=initial_std)

        self.trunk = mlp(widths) if flat else None
        # Module names may not hold dots, so heads are lists in the order of the specs.
        self.flat_heads = nn.ModuleList(_flat_head(spec, units, gaussian) for spec in flat.values())
        self.image_heads = nn.ModuleList(
            ImageHead(inputs, spec.shape[0], spec.shape[2], depth)
            for spec in self.specs.values()
            if spec.kind == "image"
        )
        self.reward_trunk = mlp(widths)
        heads = {"twohot": TwoHotHead, "categorical": AtomsHead}
        self.reward_head = heads[reward](units) if reward in heads else gaussian(1)
        if reward == "symlog":
            self.symlog.add(REWARD)
        gaussians = [key for key, spec in self.specs.items() if spec.kind == "vector"]
        gaussians += [] if reward in heads else [REWARD]
        self.floored = tuple(gaussians) if std is None else ()  # the names whose std is learned above the floor
        self.resolution = resolution
        self.continue_head = nn.Sequential(mlp(widths), nn.Linear(units, 1))

    def image_head(self, name: str) -> ImageHead:
        """The network of an image leaf."""
        names = [key for key, spec in self.specs.items() if spec.kind == "image"]
        head = self.image_heads[names.index(name)]
        assert isinstance(head, ImageHead)
        return head

    def integer_head(self, name: str) -> IntegerHead:
        """The network of an integer leaf."""
        names = [key for key, spec in self.specs.items() if spec.kind != "image"]
        head = self.flat_heads[names.index(name)]
        assert isinstance(head, IntegerHead)
        return head

    @torch.no_grad()
    def start_bits_at(self, name: str, mean: Float[Tensor, " n"]) -> None:
        """Have a leaf of bits start from measured frequencies; one that never changed keeps a small probability to.

        A network that must learn first how rare each bit is learns nothing else meanwhile, and its posterior collapses.
        """
        names = [key for key, spec in self.specs.items() if spec.kind != "image"]
        head = self.flat_heads[names.index(name)]
        assert isinstance(head, nn.Linear) and self.specs[name].kind == "binary"
        head.bias.copy_(mean.clamp(RAREST, 1 - RAREST).logit())

    @property
    def atoms(self) -> AtomsHead | None:
        """The network of a reward that takes a handful of values, if it is taken for that."""
        return self.reward_head if isinstance(self.reward_head, AtomsHead) else None

    @property
    def names(self) -> tuple[str, ...]:
        """What is decoded: the observation's leaves, the reward and the continue flag."""
        return (*self.specs, REWARD, CONTINUE)

    def forward(self, state: State, names: Collection[str] | None = None) -> dict[str, Likelihood]:
        """Likelihoods by name at states with any leading shape; reward and continue are [*batch, 1].

        Only the networks of `names` run, where given. Raises ValueError for a name that there is not.
        """
        wanted = self.names if names is None else names
        unknown = sorted(set(wanted) - set(self.names))
        if unknown:
            raise ValueError(f"names: expected some of {', '.join(self.names)}; got {', '.join(unknown)}")
        apart = self._only_flat(wanted) and self._has_copies(state)
        features = state.stoch if self.reads == "stoch" or apart else torch.cat(state, -1)
        hidden = self._hidden_apart(state) if apart else None
        likelihoods = self._observations(features, hidden, state.stoch, wanted)
        if REWARD in wanted:
            reward = self.reward_head(self.reward_trunk(features), state.stoch)
            likelihoods[REWARD] = SymlogNormal(reward) if REWARD in self.symlog else reward
        if CONTINUE in wanted:
            likelihoods[CONTINUE] = Bernoullis(full_precision(self.continue_head(features)))
        return likelihoods

    def _only_flat(self, wanted: Collection[str]) -> bool:
        """Whether the trunk decodes all that is wanted."""
        return all(name in self.specs and self.specs[name].kind != "image" for name in wanted)

    def _has_copies(self, state: State) -> bool:
        return any(without_copies(x) is not x for x in state)

    def _hidden_apart(self, state: State) -> Float[Tensor, "*batch I"]:
        """What the trunk makes of states of which h_t or z_t was expanded: its first layer looks at each one once."""
        assert self.trunk is not None
        first = self.trunk[0]
        assert isinstance(first, nn.Linear)
        deter, stoch = (without_copies(x) for x in state)
        if self.reads == "stoch":
            hidden = self.trunk(stoch)
        else:
            of_deter, of_stoch = first.weight.split(self.widths, 1)
            hidden = self.trunk.after_first(linear(deter, of_deter, first.bias) + linear(stoch, of_stoch))
        return hidden.expand(*state.stoch.shape[:-1], hidden.shape[-1])

    def _observations(
        self, features: Tensor, hidden: Tensor | None, stoch: Tensor, wanted: Collection[str]
    ) -> dict[str, Likelihood]:
        flat = any(spec.kind != "image" for key, spec in self.specs.items() if key in wanted)
        if hidden is None and self.trunk is not None and flat:
            hidden = self.trunk(features)
        flat_heads, image_heads = iter(self.flat_heads), iter(self.image_heads)
        likelihoods: dict[str, Likelihood] = {}
        for key, spec in self.specs.items():
            head = next(image_heads if spec.kind == "image" else flat_heads)
            if key not in wanted:
                continue
            if spec.kind == "image":
                likelihoods[key] = head(features)
            elif spec.kind == "integer":
                likelihoods[key] = head(hidden, stoch)
            elif spec.kind == "vector":
                normal = head(hidden, stoch)
                likelihoods[key] = SymlogNormal(normal) if key in self.symlog else normal
            elif spec.kind == "categorical":
                likelihoods[key] = Categoricals(full_precision(head(hidden)), spec.classes)
            else:
                assert hidden is not None
                likelihoods[key] = Bernoullis(full_precision(_once(head, hidden)))
        return likelihoods
