"""The two loops of `scan` for a GPU: the same mathematics in few launches a step, which `gru_reference` defines.

A loop on a GPU takes as long as its launches, which wait for one another. Here everything between two products is part
of a product (docs/kernels.md counts them). What is kept in between, and what is found, is what the loops of `scan` and
`scan_backward` keep and find, so that all that happens for all steps at once is theirs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldmodel.kernels.gru_shapes import Draw, LayerInput, Normalised
from worldmodel.models.latents import CategoricalFamily, GaussianFamily, LatentFamily
from worldmodel.models.scan_backward import Known, Reached, norm_back, through_silu
from worldmodel.models.scan_parts import Kept, Settings, Weights, for_products, fours, product, time_leading, weights_of


def forward_launched(
    launches: Any, settings: Settings, weights: Weights, action_mix: Tensor, embed_in: Tensor, keep: Tensor,
    noise: Tensor, deter: Tensor, stoch: Tensor,
) -> Kept:  # fmt: skip
    """The loop of `scan`, by the functions of `launches`."""
    w, (hidden, Z), (G, d, _) = _contiguous(weights, settings), weights.stoch.shape, weights.own.shape
    eps, of_mix = settings.eps, (w.input_bias, w.input_scale, w.input_shift, w.shared, w.own)
    of_gates = w.mix_scale, w.mix_shift, w.gates, w.gates_bias
    action_mix, embed_in = (time_leading(x).to(deter.dtype) for x in (action_mix, embed_in))
    T, B, D = action_mix.shape
    rooms = _Rooms(deter, settings.product_dtype)
    deters, stochs = deter.new_empty(T + 1, B, D), deter.new_empty(T + 1, B, Z)
    deters[0], stochs[0] = deter, stoch
    inputs, mixed, gates = (deter.new_empty(T, B, 2, hidden), deter.new_empty(T, B, D), deter.new_empty(T, G, B, 3 * d))
    h_narrow, z_narrow = rooms.narrow(deter), rooms.narrow(stoch)
    from_deter, from_stoch = rooms.product(B, len(w.recurrent)), rooms.product(B, hidden)
    head = _Head(launches, settings, w, embed_in, from_deter[:, hidden:], rooms)
    torch.mm(_either(deters[0], h_narrow), w.recurrent.T, out=from_deter)
    for t in range(T):
        torch.mm(_either(stochs[t], z_narrow), w.stoch.T, out=from_stoch)
        launches.mix(deters[t], keep[t], from_deter, from_stoch, action_mix[t], *of_mix, eps, inputs[t], mixed[t])
        launches.gates(deters[t], keep[t], mixed[t], *of_gates, eps, gates[t], deters[t + 1], h_narrow)
        torch.mm(_either(deters[t + 1], h_narrow), w.recurrent.T, out=from_deter)
        head(t, noise[t], stochs[t + 1], z_narrow)
    return Kept(deters, stochs, inputs, mixed, gates, head.raws, tuple(head.read))


class _Rooms:
    """Room for what products read and give: in their dtype, and for factors only where that is not the states'."""

    def __init__(self, states: Tensor, dtype: torch.dtype) -> None:
        self.states, self.dtype = states, dtype

    def product(self, *shape: int) -> Tensor:
        return self.states.new_empty(shape, dtype=self.dtype)

    def narrow(self, like: Tensor) -> Tensor | None:
        """For a second copy of a factor, which begins as `like`."""
        return None if self.dtype == self.states.dtype else like.to(self.dtype)


class _Head:
    """The posterior's layers and samples, with room for what they read and put out at all steps."""

    def __init__(
        self, launches: Any, settings: Settings, w: Weights, embed_in: Tensor, from_deter: Tensor, rooms: _Rooms
    ) -> None:
        self.layers, self.draw, self.eps = fours(w.layers), draw_of(settings.latent), settings.eps
        self.embed_in, self.from_deter = embed_in, from_deter
        (T, B, W), hidden = embed_in.shape, len(self.layers[0][0])
        self.layer, self.sample = launches.layer, launches.head_gaussian
        if self.draw.classes:
            self.sample = launches.head_categorical
        self.skips = hidden < W
        self.read = [embed_in.new_empty(T, B, hidden) for _ in self.layers]
        self.raws = rooms.product(T, B, len(self.layers[-1][2]))
        self.between = [embed_in.new_empty(B, hidden) for _ in self.layers[1:]]

    def __call__(self, t: int, noise: Tensor, stoch: Tensor, narrow: Tensor | None) -> None:
        base, from_deter = self.embed_in[t], self.from_deter
        product: Tensor | None = from_deter
        *before, (scale, shift, matrix, bias) = self.layers
        for (s, b, *affine), read, result in zip(before, self.read[:-1], self.between, strict=True):
            self.layer(LayerInput(base, product, s, b), *affine, self.eps, read[t], result)
            base, product = result, None
        skip = (self.embed_in[t], from_deter) if self.skips else None
        last, into = LayerInput(base, product, scale, shift, skip), (self.read[-1][t], self.raws[t])
        self.sample(last, matrix, bias, self.eps, *into, noise, self.draw, stoch, narrow)


def backward_launched(
    launches: Any, settings: Settings, weights: Weights, kept: Kept, known: Known, keep: Tensor, noise: Tensor,
    cotangents: Sequence[Tensor],
) -> Reached:  # fmt: skip
    """The loop of `scan_backward`, by the functions of `launches`."""
    w, hidden, draw = _contiguous(weights, settings), len(weights.stoch), draw_of(settings.latent)
    deters, stochs, raws = (time_leading(x).to(kept.deters.dtype) for x in cotangents)
    T, B, D = deters.shape
    of_deter = torch.cat([deters.new_zeros(1, B, D), deters])  # [T+1, B, D] from that of the state before the first row
    rooms = _Rooms(deters, settings.product_dtype)
    found = _Found.of(kept, rooms, deters.new_empty(T, B, len(w.recurrent)))
    inputs = Normalised(found.active, through_silu(w.input_scale, known.active), kept.inputs, *known.input_stats)
    mixed = Normalised(found.mix_active, through_silu(w.mix_scale, known.mix_active), kept.mixed, *known.mix_stats)
    layers = _LayersBack(launches, w, kept, known, found, rooms)
    from_read, raw_narrow, read_narrow = rooms.product(B, D), rooms.narrow(raws[0]), rooms.narrow(found.read[0])
    for t in reversed(range(T)):
        later, k = (_at(inputs, t + 1), keep[t + 1]) if t + 1 < T else (None, keep[t])
        launches.draw_back(
            later, k, w.stoch, stochs[t], raws[t], kept.raws[t], noise[t], draw, raw_narrow, found.read[t]
        )
        first = layers.back(t, _either(raws[t], raw_narrow))
        launches.read_back(later, k, first, found.read[t], read_narrow)
        torch.mm(_either(found.read[t], read_narrow), w.recurrent, out=from_read)
        launches.gates_back(
            of_deter[t + 1], from_read, known.gate_slopes[t].flatten(-2), w.gates, found.gates[t], found.mix_active[t]
        )
        launches.mix_back(
            of_deter[t + 1], from_read, known.stay[t], _at(mixed, t), keep[t], w.shared, w.own, found.active[t],
            of_deter[t],
        )  # fmt: skip
    inputs_back, mixed_back = _back(inputs), _back(mixed)
    from_state = inputs_back[0] * keep[0][:, None]
    first_deter = of_deter[0] + product(from_state[:, 0], w.recurrent[:hidden])
    layer_inputs = [found.read[..., hidden : 2 * hidden], *found.before]
    layer_active = [x.to(deters.dtype) for x in found.after]
    of_mix = (mixed_back, found.mix_active, found.gates, found.read)
    of_head = (layer_inputs, layer_active, raws)
    return Reached(inputs_back, found.active, *of_mix, *of_head, first_deter, product(from_state[:, 1], w.stoch))


class _Found(NamedTuple):
    """What the backward loop writes: see `Reached`."""

    active: Tensor
    mix_active: Tensor
    gates: Tensor
    read: Tensor
    after: list[Tensor]  # of each layer, in the dtype of products
    before: list[Tensor]  # of each layer but the first

    @classmethod
    def of(cls, kept: Kept, rooms: _Rooms, read: Tensor) -> "_Found":
        active, mix_active, gates = (x.new_empty(x.shape) for x in (kept.inputs, kept.mixed, kept.gates))
        after = [rooms.product(*x.shape) for x in kept.layer_inputs]
        before = [x.new_empty(x.shape) for x in kept.layer_inputs[1:]]
        return cls(active, mix_active, gates, read, after, before)


class _LayersBack:
    """The posterior's layers backward, a step at a time."""

    def __init__(self, launches: Any, w: Weights, kept: Kept, known: Known, found: _Found, rooms: _Rooms) -> None:
        self.norm_back, self.before = launches.norm_back, found.before
        self.matrices = [matrix for _, _, matrix, _ in fours(w.layers)]
        self.reached = [
            Normalised(after, through_silu(scale, active), x, *stats)
            for after, (scale, *_), x, (active, *stats) in zip(
                found.after, fours(w.layers), kept.layer_inputs, known.layers, strict=True
            )
        ]
        self.narrow = [rooms.narrow(x[0]) for x in found.before]

    def back(self, t: int, reached: Tensor) -> Normalised:
        """From what reaches the parameters to what reaches the norm of the first layer."""
        for i in reversed(range(len(self.matrices))):
            torch.mm(reached, self.matrices[i], out=self.reached[i].active[t])
            if i:
                into, narrow = self.before[i - 1][t], self.narrow[i - 1]
                self.norm_back(_at(self.reached[i], t), into, narrow)
                reached = _either(into, narrow)
        return _at(self.reached[0], t)


def draw_of(latent: LatentFamily) -> Draw:
    """What the launches know of a family."""
    if isinstance(latent, CategoricalFamily):
        return Draw(latent.groups, latent.classes, latent.unimix)
    assert isinstance(latent, GaussianFamily), "other families run the plain loop"
    return Draw(latent.groups, 0, latent.min_std)


def _contiguous(weights: Weights, settings: Settings) -> Weights:
    """In the dtype of products, where they are factors."""
    w = for_products(weights, settings)
    return weights_of([x.contiguous() for x in (*w[:-1], *w.layers)])


def _either(x: Tensor, narrow: Tensor | None) -> Tensor:
    """What a product reads."""
    return x if narrow is None else narrow


def _at(reached: Normalised, t: int) -> Normalised:
    return Normalised(*(x[t] for x in reached))


def _back(reached: Normalised) -> Tensor:
    """What reaches the inputs of norms, of all steps at once."""
    return norm_back(reached.active * reached.into, reached.x, (reached.mean, reached.rstd), slice(None))
