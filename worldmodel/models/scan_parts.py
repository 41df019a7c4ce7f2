"""What the two directions of the scan share: its weights, what is kept in between, samples, and products in a dtype."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, pad, silu, softplus

from worldmodel.kernels import latent_reference
from worldmodel.models.latents import CategoricalFamily, GaussianFamily, LatentFamily

SMALL_MATRIX = 2**14  # numbers: below, a product takes no longer than looking rows up


class Weights(NamedTuple):
    """What the loop multiplies with; I = hidden, W = hidden, plus P with `skip`, d = D / G."""

    recurrent: Float[Tensor, "I+W D"]  # rows of R_i, then of R_f
    stoch: Float[Tensor, "I Z"]
    input_bias: Float[Tensor, "2 I"]
    input_scale: Float[Tensor, "2 I"]  # of the two norms
    input_shift: Float[Tensor, "2 I"]
    shared: Float[Tensor, "2*I D"]
    own: Float[Tensor, "G d d"]
    mix_scale: Float[Tensor, " D"]
    mix_shift: Float[Tensor, " D"]
    gates: Float[Tensor, "G d 3*d"]  # to r, u, c
    gates_bias: Float[Tensor, "G 1 3*d"]
    layers: tuple[Tensor, ...]  # of each: scale and shift of its norm, matrix and bias of its linear map


class ImagineWeights(NamedTuple):
    """What `imagine_loop` multiplies with: the loop's, of three inputs and the prior's head, and these."""

    loop: Weights
    action: Float[Tensor, "I A"]
    mix_bias: Float[Tensor, " D"]
    read_bias: Float[Tensor, " W"]


class Settings(NamedTuple):
    """What else the function must know."""

    latent: LatentFamily
    eps: float  # of every norm
    product_dtype: torch.dtype
    keep: bool  # whether a backward pass may follow


def settings_of(latent: LatentFamily, eps: float, like: Tensor) -> Settings:
    """By the autocast that is on, and by whether gradients are."""
    device = like.device.type
    reduced = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if reduced else like.dtype
    return Settings(latent, eps, dtype, torch.is_grad_enabled())


class Kept(NamedTuple):
    """States, and the pre-activations of every step."""

    deters: Float[Tensor, "T+1 B D"]  # from the state before the first row on
    stochs: Float[Tensor, "T+1 B Z"]
    inputs: Float[Tensor, "T B 2 I"]
    mixed: Float[Tensor, "T B D"]
    gates: Float[Tensor, "T G B 3*d"]
    raws: Float[Tensor, "T B P"]
    layer_inputs: tuple[Float[Tensor, "T B I"], ...]


def gather(cell: Any, reading: Float[Tensor, "W D"], layers: nn.Module, *more: Any) -> Weights:
    """The weights of a block GRU and of a head, side by side as the loop reads them; their gradients find back.

    Args:
        cell: the block GRU.
        reading: what the head reads h_t with: the matrix of its first layer, with that of `skip` below it.
        layers: the rest of the head.
        more: the layer that the action goes through, where the action is an input of the loop as h and z are.
    """
    inputs = [cell.deter_in, cell.stoch_in, *more]
    linears, norms = [linear for linear, _, _ in inputs], [norm for _, norm, _ in inputs]
    flat = [m for m in layers.modules() if isinstance(m, nn.LayerNorm | nn.Linear)]  # norm, linear, norm, ...
    blocks, d, _ = cell.gates.weight.shape
    own, *shared = cell.mix.weight.split([d] + [cell.deter_in[0].out_features] * 3, 1)
    reset, candidate, update = cell.gates.weight.chunk(3, -1)
    reset_bias, candidate_bias, update_bias = cell.gates.bias.view(blocks, 1, 3 * d).chunk(3, -1)
    return Weights(
        recurrent=torch.cat([cell.deter_in[0].weight, reading]),
        stoch=cell.stoch_in[0].weight,
        input_bias=torch.stack([linear.bias for linear in linears]),
        input_scale=torch.stack([norm.weight for norm in norms]),
        input_shift=torch.stack([norm.bias for norm in norms]),
        shared=rearrange(torch.cat(shared[: len(inputs)], 1), "G i d -> i (G d)"),
        own=own,
        mix_scale=cell.norm.weight,
        mix_shift=cell.norm.bias,
        gates=torch.cat([reset, update, candidate], -1),
        gates_bias=torch.cat([reset_bias, update_bias - 1, candidate_bias], -1),
        layers=tuple(x for m in flat for x in (m.weight, m.bias)),
    )


def weights_of(flat: Sequence[Tensor]) -> Weights:
    """From the tensors of `Weights`, one after the other."""
    alone = len(Weights._fields) - 1
    return Weights._make((*flat[:alone], tuple(flat[alone:])))


def fours(layers: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [layers[i : i + 4] for i in range(0, len(layers), 4)]


def for_products(w: Weights, settings: Settings) -> Weights:
    """The matrices in the dtype of products; what is added or scales stays."""
    matrices = {
        name: getattr(w, name).to(settings.product_dtype) for name in ("recurrent", "stoch", "shared", "own", "gates")
    }
    layers = [
        x
        for scale, shift, matrix, bias in fours(w.layers)
        for x in (scale, shift, matrix.to(settings.product_dtype), bias)
    ]
    return w._replace(**matrices, layers=tuple(layers))


def gather_for_imagining(cell: Any, action_in: Any, prior_head: Any, skip: nn.Linear | None) -> ImagineWeights:
    """Those of a block GRU, of the layer that the action goes through, and of a prior's head with its `skip`."""
    first, *rest = prior_head[0]
    reading, read_bias = first.weight, first.bias
    if skip is not None:
        reading, read_bias = torch.cat([reading, skip.weight]), pad(read_bias, (0, skip.out_features))
    loop = gather(cell, reading, nn.ModuleList([*rest, prior_head[1]]), action_in)
    return ImagineWeights(loop, action_in[0].weight, cell.mix.bias, read_bias)


class BlockStep:
    """A step of the block GRU from what its inputs amount to, in room that is made once."""

    def __init__(self, w: Weights, eps: float, rows: int) -> None:
        """For weights in the dtype of products, and so many rows B."""
        (G, d, _), self.w, self.eps = w.own.shape, w, eps
        self.open = w.mix_scale.new_empty(G, rows, 2 * d)
        self.reset, self.update = self.open.chunk(2, -1)
        self.candidate = w.mix_scale.new_empty(G, rows, d)

    def __call__(
        self, held: Tensor, inputs: Tensor, mixed: Tensor, gates: Tensor, of_gates: Sequence[Tensor], new: Tensor
    ) -> None:
        """Args:
        held: h~ [G, B, d].
        inputs: [B, N, I] before their norms: what is read of h, of z and, with N = 3, of the action.
        mixed: [B, D] the rest of the mix; the whole of it afterwards.
        gates, of_gates: [G, B, 3d] for r, u and c, and the `gate_parts` of it.
        new: [G, B, d] for h_t.
        """
        w, (G, _, _), (to_open, candidate) = self.w, self.w.own.shape, of_gates
        normal = torch.native_layer_norm(inputs, inputs.shape[-1:], None, None, self.eps)[0]
        add_product(mixed, silu(torch.addcmul(w.input_shift, normal, w.input_scale)).flatten(1), w.shared)
        grouped(mixed, G).add_(product(held, w.own))
        active = silu(torch.native_layer_norm(mixed, mixed.shape[-1:], w.mix_scale, w.mix_shift, self.eps)[0])
        product_plus(w.gates_bias, grouped(active, G), w.gates, out=gates)
        torch.sigmoid(to_open, out=self.open)
        torch.mul(self.reset, candidate, out=self.candidate).tanh_()
        torch.lerp(held, self.candidate, self.update, out=new)


def gate_parts(gates: Tensor) -> tuple[Tensor, Tensor]:
    """[..., 3d] -> r and u [..., 2d], and c [..., d]."""
    d = gates.shape[-1] // 3
    return gates[..., : 2 * d], gates[..., 2 * d :]


class Head:
    """A step's parameters of the latent, from what is read of h_t."""

    def __init__(self, w: Weights, settings: Settings) -> None:
        """For weights in the dtype of products."""
        self.settings, (self.hidden, _) = settings, w.stoch.shape
        self.layers = [(scale, shift, matrix.T, bias) for scale, shift, matrix, bias in fours(w.layers)]

    def __call__(self, read: Float[Tensor, "B W"]) -> tuple[Float[Tensor, "B P"], list[Tensor]]:
        """The parameters, in the dtype of products, and what each layer reads."""
        hidden, before = self.hidden, []
        skips = read.shape[-1] > hidden
        x = read[:, :hidden] if skips else read
        for scale, shift, matrix, bias in self.layers:
            before.append(x)
            active = silu(torch.native_layer_norm(x, [hidden], scale, shift, self.settings.eps)[0])
            x = product_plus(bias, active, matrix)
        if skips:
            x = x + read[:, hidden:]
        return x.to(self.settings.product_dtype), before


class GaussianDraw:
    """z = mean + std * noise, and back."""

    def __init__(self, latent: GaussianFamily) -> None:
        self.min_std = latent.min_std

    def prepared(self, noise: Tensor) -> list[Tensor]:
        """What `sample` reads of the noise of each step."""
        return list(noise.unbind())

    def sample(self, raw: Tensor, noise: Tensor, out: Tensor) -> Tensor:
        """A step's sample, written into `out`: -> what `read` is to be told of it."""
        mean, raw_std = raw.chunk(2, -1)
        return torch.addcmul(mean, softplus(raw_std).add_(self.min_std), noise, out=out)

    def read(self, drawn: Tensor, bias: Tensor, matrix: Tensor, out: Tensor) -> None:
        """z times a matrix, plus a bias, into `out`."""
        product_plus(bias, drawn, matrix, out=out)

    def slopes(self, raws: Tensor, noise: Tensor) -> Tensor:
        """dz / d(raw std) of all steps."""
        beta, threshold = 1.0, 20.0  # those of `softplus`
        return torch.ops.aten.softplus_backward(noise, raws.chunk(2, -1)[1], beta, threshold)

    def back(self, slope: Tensor, reached: Tensor, raw: Tensor) -> None:
        """Add to what reaches the parameters what reaches their sample."""
        mean, raw_std = raw.chunk(2, -1)
        mean.add_(reached)
        raw_std.addcmul_(reached, slope)


class CategoricalDraw:
    """`latent_reference.straight_through`, and back; p is worked out but for its factor 1 - unimix."""

    def __init__(self, latent: CategoricalFamily) -> None:
        self.shape, self.kept = (latent.groups, latent.classes), 1 - latent.unimix
        self.floor = latent.unimix / latent.classes / self.kept

    def prepared(self, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What `sample` reads of the noise of each step."""
        rates = latent_reference.rates(noise)
        return list(zip(rates.unbind(), (self.floor * rates).unbind(), strict=True))

    def sample(self, raw: Tensor, noise: tuple[Tensor, Tensor], out: Tensor) -> tuple[Tensor, Tensor]:
        """A step's sample, written into zeros: -> what `read` is to be told of it."""
        rates, floor = noise
        soft = raw.unflatten(-1, self.shape).softmax(-1)
        drawn = torch.addcmul(floor, soft, rates).argmax(-1, keepdim=True)
        out.unflatten(-1, self.shape).scatter_(-1, drawn, 1.0)
        return out, drawn[..., 0]

    def read(self, drawn: tuple[Tensor, Tensor], bias: Tensor, matrix: Tensor, out: Tensor) -> None:
        """z times a matrix, plus a bias, into `out`: where the matrix is large, the sum of the rows that z selects."""
        z, classes = drawn
        if matrix.numel() < SMALL_MATRIX or matrix.dtype != out.dtype or not out.is_cpu:
            product_plus(bias, z, matrix, out=out)
        else:
            first = torch.arange(0, matrix.shape[0], self.shape[1])  # of each group
            torch.add(embedding_bag(classes + first, matrix, mode="sum"), bias, out=out)

    def slopes(self, raws: Tensor, noise: Tensor) -> Tensor:
        """The softmaxes of all steps."""
        return raws.unflatten(-1, self.shape).softmax(-1)

    def back(self, soft: Tensor, reached: Tensor, raw: Tensor) -> None:
        """Add to what reaches the parameters what reaches their sample."""
        through = torch._softmax_backward_data(reached.unflatten(-1, self.shape), soft, -1, soft.dtype)
        raw.add_(through.flatten(-2), alpha=self.kept)


def draw_of(latent: LatentFamily) -> Any:
    """The two directions of a family's sample."""
    if isinstance(latent, CategoricalFamily):
        return CategoricalDraw(latent)
    assert isinstance(latent, GaussianFamily), "other families run the plain loop"
    return GaussianDraw(latent)


def time_leading(x: Tensor) -> Tensor:
    """A copy [T, B, ...] of [B, T, ...], never a view."""
    return x.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def grouped(x: Float[Tensor, "*T B D"], blocks: int) -> Float[Tensor, "*T G B d"]:
    return x.unflatten(-1, (blocks, -1)).transpose(-3, -2)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """In the matrix's dtype, the result in that of x."""
    return x @ matrix if x.dtype == matrix.dtype else (x.to(matrix.dtype) @ matrix).to(x.dtype)


def add_product(total: Tensor, x: Tensor, matrix: Tensor) -> None:
    if x.dtype == matrix.dtype:
        total.addmm_(x, matrix)
    else:
        total.add_(product(x, matrix))


def product_plus(bias: Tensor, x: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """Into `out`, where given."""
    if x.dtype != matrix.dtype:
        total = product(x, matrix) + bias
        return total if out is None else out.copy_(total)
    return torch.addmm(bias, x, matrix, out=out) if x.dim() == 2 else torch.baddbmm(bias, x, matrix, out=out)


def outer(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., T, B, m] and [..., T, B, n] -> [..., m, n], summed over all steps."""
    left, right = left.flatten(-3, -2), right.flatten(-3, -2)
    return (left.mT.to(dtype) @ right.to(dtype)).to(left.dtype)
