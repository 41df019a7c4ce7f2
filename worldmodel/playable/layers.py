"""Networks as lists of operations that a page's script runs: one function for each kind of module, and no others.

A module is known by its very class. One that inherits from a known class may compute something else, so it is refused,
as is every module that is not listed here.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from worldmodel.models.networks import BlockLinear, ChannelNorm, Perceptron
from worldmodel.playable.arrays import Arrays

Operation = dict[str, Any]


def operations(module: nn.Module, arrays: Arrays, where: str) -> list[Operation]:
    """The operations of a network, in their order.

    Args:
        module: made of the modules of LAYERS.
        arrays: that its weights are put into.
        where: the module's name, for the error.
    Raises:
        ValueError: if the page cannot run it, or a part of it.
    """
    make = LAYERS.get(type(module))
    if make is None:
        raise cannot_run(where, ", ".join(kind.__name__ for kind in LAYERS), module)
    return make(module, arrays, where)


def cannot_run(where: str, expected: str, got: object) -> ValueError:
    """The error for a module that the page has no script for."""
    return ValueError(f"{where}: expected {expected}, which a page can run; got {type(got).__name__}")


def linear(module: nn.Module, arrays: Arrays, where: str) -> Operation:
    """y = W x + b of one layer."""
    if type(module) is not nn.Linear:
        raise cannot_run(where, "Linear", module)
    bias = None if module.bias is None else arrays.weights(module.bias)
    return {"op": "linear", "weight": arrays.weights(module.weight), "bias": bias}


def block_linear(module: nn.Module, arrays: Arrays, where: str) -> Operation:
    """y_g = x_g W_g + b_g, with W [G, inputs of a block, outputs of a block]."""
    if type(module) is not BlockLinear:
        raise cannot_run(where, "BlockLinear", module)
    return {"weight": arrays.weights(module.weight), "bias": arrays.weights(module.bias)}


def norm(module: nn.Module, arrays: Arrays, where: str) -> Operation:
    """Layer normalisation over all of x."""
    if type(module) is not nn.LayerNorm:
        raise cannot_run(where, "LayerNorm", module)
    if len(module.normalized_shape) != 1 or module.weight is None or module.bias is None:
        raise cannot_run(where, "LayerNorm over one dimension, with weight and bias", module)
    return {
        "op": "norm",
        "weight": arrays.weights(module.weight),
        "bias": arrays.weights(module.bias),
        "eps": module.eps,
    }


def gru(module: nn.Module, arrays: Arrays, where: str) -> Operation:
    """torch's GRU cell."""
    if type(module) is not nn.GRUCell or not module.bias:
        raise cannot_run(where, "GRUCell with biases", module)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {name: arrays.weights(getattr(module, name)) for name in names}


def doubling(module: nn.Module, arrays: Arrays, where: str, channels: int | None = None) -> Operation:
    """A transposed convolution of 4 x 4 pixels that doubles height and width, or the first of its channels alone."""
    if type(module) is not nn.ConvTranspose2d or module.bias is None:
        raise cannot_run(where, "ConvTranspose2d with a bias", module)
    as_known = module.kernel_size == (4, 4) and module.stride == (2, 2) and module.padding == (1, 1)
    plain = module.output_padding == (0, 0) and module.dilation == (1, 1) and module.groups == 1
    if not (as_known and plain):
        raise cannot_run(where, "ConvTranspose2d of 4 x 4, stride 2, padding 1", module)
    weight, bias = module.weight[:, :channels], module.bias[:channels]
    return {"op": "double", "weight": arrays.weights(weight), "bias": arrays.weights(bias)}


def _sequence(module: nn.Module, arrays: Arrays, where: str) -> list[Operation]:
    parts = [operations(part, arrays, f"{where}.{name}") for name, part in module.named_children()]
    return [operation for part in parts for operation in part]


def _channel_norm(module: nn.Module, arrays: Arrays, where: str) -> list[Operation]:
    assert isinstance(module, ChannelNorm)
    return [{**norm(module.norm, arrays, where), "op": "channel_norm"}]


LAYERS: dict[type[nn.Module], Callable[[nn.Module, Arrays, str], list[Operation]]] = {
    nn.Linear: lambda module, arrays, where: [linear(module, arrays, where)],
    nn.LayerNorm: lambda module, arrays, where: [norm(module, arrays, where)],
    nn.SiLU: lambda module, arrays, where: [{"op": "silu"}],
    nn.Identity: lambda module, arrays, where: [],
    nn.Sequential: _sequence,
    Perceptron: _sequence,
    ChannelNorm: _channel_norm,
    nn.ConvTranspose2d: lambda module, arrays, where: [doubling(module, arrays, where)],
}
