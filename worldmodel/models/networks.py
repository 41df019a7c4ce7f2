"""The layers everything is made of."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear as apply_linear
from torch.nn.functional import silu


class Perceptron(nn.Sequential):
    """Layers of (Linear, LayerNorm, SiLU). Its modules are not called, only read: innermost loops consist of them."""

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """All layers, one after the other."""
        layers: Iterator[Any] = iter(self)
        for linear, norm, _ in zip(layers, layers, layers, strict=True):
            x = apply_linear(x, linear.weight, linear.bias)
            x = silu(torch.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        return x

    def after_first(self, x: Float[Tensor, "*batch O"]) -> Float[Tensor, "*batch P"]:
        """What follows the first matrix, whose product x is."""
        return self[3:](silu(self[1](x)))


def mlp(widths: list[int]) -> Perceptron:
    """Hidden layers only: (Linear, LayerNorm, SiLU) from each width to the next."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.SiLU()]
    return Perceptron(*layers)


def without_copies(x: Tensor) -> Tensor:
    """x [..., n] without the copies that `expand` made of it: leading axes along which it is one vector have size 1."""
    for axis, stride in enumerate(x.stride()[:-1]):
        if stride == 0 and x.shape[axis] > 1:
            x = x.narrow(axis, 0, 1)
    return x


class BlockLinear(nn.Module):
    """A linear layer with a block-diagonal matrix, its blocks apart: y_g = x_g W_g + b_g."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        bound = (blocks / inputs) ** 0.5
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "B I"]) -> Float[Tensor, "G B o"]:
        """Apply every block to its share of x."""
        blocks = len(self.weight)
        return torch.bmm(blocks_of(x, blocks), self.weight) + self.bias.view(blocks, 1, -1)


# The innermost loop calls these two, where a call of einops costs as much as the operations that it asks for.


def blocks_of(x: Float[Tensor, "B I"], blocks: int) -> Float[Tensor, "G B i"]:
    """Each block's share of x."""
    return x.unflatten(-1, (blocks, -1)).transpose(0, 1)


def side_by_side(y: Float[Tensor, "G B o"]) -> Float[Tensor, "B O"]:
    """The blocks' numbers in one row again."""
    return y.transpose(0, 1).flatten(1)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise every pixel's channel vector."""
        return rearrange(self.norm(rearrange(x, "B C H W -> B H W C")), "B H W C -> B C H W")


def image_stages(size: int, depth: int) -> list[int]:
    """Channels of each halving of a size x size image down to 4 x 4: depth, 2 depth, 4 depth, ..."""
    stages = 0
    while size > 4:
        size, stages = size // 2, stages + 1
    return [depth * 2**i for i in range(stages)]


def parameter_count(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
