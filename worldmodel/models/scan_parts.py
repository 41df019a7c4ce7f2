"""What the two directions of the scan share: its weights, what is kept in between, samples, and products in a dtype."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from worldmodel.kernels import latent_reference
from worldmodel.models.latents import CategoricalFamily, GaussianFamily, LatentFamily


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


class Settings(NamedTuple):
    """What else the function must know."""

    latent: LatentFamily
    eps: float  # of every norm
    product_dtype: torch.dtype
    keep: bool  # whether a backward pass may follow


class Kept(NamedTuple):
    """States, and the pre-activations of every step."""

    deters: Float[Tensor, "T+1 B D"]  # from the state before the first row on
    stochs: Float[Tensor, "T+1 B Z"]
    inputs: Float[Tensor, "T B 2 I"]
    mixed: Float[Tensor, "T B D"]
    gates: Float[Tensor, "T G B 3*d"]
    raws: Float[Tensor, "T B P"]
    layer_inputs: tuple[Float[Tensor, "T B I"], ...]


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


class GaussianDraw:
    """z = mean + std * noise, and back."""

    def __init__(self, latent: GaussianFamily) -> None:
        self.min_std = latent.min_std

    def prepared(self, noise: Tensor) -> list[Tensor]:
        """What `sample` reads of the noise of each step."""
        return list(noise.unbind())

    def sample(self, raw: Tensor, noise: Tensor, out: Tensor) -> None:
        """A step's sample, written into `out`."""
        mean, raw_std = raw.chunk(2, -1)
        torch.addcmul(mean, softplus(raw_std).add_(self.min_std), noise, out=out)

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

    def sample(self, raw: Tensor, noise: tuple[Tensor, Tensor], out: Tensor) -> None:
        """A step's sample, written into zeros."""
        rates, floor = noise
        soft = raw.unflatten(-1, self.shape).softmax(-1)
        drawn = torch.addcmul(floor, soft, rates).argmax(-1, keepdim=True)
        out.unflatten(-1, self.shape).scatter_(-1, drawn, 1.0)

    def slopes(self, raws: Tensor, noise: Tensor) -> Tensor:
        """The softmaxes of all steps."""
        return raws.unflatten(-1, self.shape).softmax(-1)

    def back(self, soft: Tensor, reached: Tensor, raw: Tensor) -> None:
        """Add to what reaches the parameters what reaches their sample."""
        through = torch._softmax_backward_data(reached.unflatten(-1, self.shape), soft, -1, soft.dtype)
        raw.add_(through.flatten(-2), alpha=self.kept)


def draw_of(latent: LatentFamily) -> Any:
    """The two directions of a family's sample."""
    return GaussianDraw(latent) if isinstance(latent, GaussianFamily) else CategoricalDraw(latent)


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


def product_plus(bias: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    if x.dtype != matrix.dtype:
        return product(x, matrix) + bias
    return torch.addmm(bias, x, matrix) if x.dim() == 2 else torch.baddbmm(bias, x, matrix)


def outer(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., T, B, m] and [..., T, B, n] -> [..., m, n], summed over all steps."""
    left, right = left.flatten(-3, -2), right.flatten(-3, -2)
    return (left.mT.to(dtype) @ right.to(dtype)).to(left.dtype)
