"""What the launches of a GRU's step take together: the family of a sample, a layer's input, and a norm's way back."""

from typing import NamedTuple

from torch import Tensor


class Draw(NamedTuple):
    """The family of a sample."""

    groups: int
    classes: int  # of a categorical group; 0: Gaussian groups
    setting: float  # min_std of Gaussians, unimix of categoricals


class LayerInput(NamedTuple):
    """What a layer reads, the sum of two [B, W]s in their first I columns, and the scale and shift of its norm."""

    base: Tensor
    product: Tensor | None
    scale: Tensor  # [I]
    shift: Tensor
    skip: tuple[Tensor, Tensor] | None = None  # two [B, W]s whose columns from I on are added to the layer's result


class Normalised(NamedTuple):
    """What reached the result of scale norm(x) + shift through its silu, and what leads on to x; [..., I] each."""

    active: Tensor  # what came out of the silu's far side
    into: Tensor  # d silu(scale n + shift) / dn
    x: Tensor
    mean: Tensor  # of x, [..., 1]
    rstd: Tensor  # 1 / its standard deviation
