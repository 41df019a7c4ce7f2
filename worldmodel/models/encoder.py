"""Observation x_t -> embedding: a convolutional network per image, one perceptron for all the rest."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot

from worldmodel.models.networks import ChannelNorm, image_stages, mlp
from worldmodel.types import ObservationSpec


@runtime_checkable
class RowEncoder(Protocol):
    """What a world model uses of its encoder: `Encoder` is one, and so is any module of one's own with these.

    Numbers come as [*batch, n] and images as [*batch, H, W, C], both as `encoder.inputs` says, and all else as rows
    store it. An encoder whose attribute `reads_reward` is true is handed the reward too, see `Encoder.forward`.
    """

    width: int
    """Width of the embedding (E)."""

    def __call__(self, obs: Mapping[str, Tensor]) -> Float[Tensor, "*batch E"]:
        """Embed observations by path, with any leading shape, the same for every leaf."""
        ...


class ImageEncoder(nn.Module):
    """[B, size, size, C] -> [B, E], halving the image until it is 4 x 4."""

    def __init__(self, size: int, channels: int, depth: int) -> None:
        super().__init__()
        stages = image_stages(size, depth)
        layers: list[nn.Module] = []
        for before, after in zip([channels, *stages], stages, strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), ChannelNorm(after), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.width = stages[-1] * 4 * 4

    def forward(self, image: Tensor) -> Float[Tensor, "B E"]:
        """Embed a batch of images."""
        return self.layers(rearrange(image, "B H W C -> B C H W")).flatten(1)


class Encoder(nn.Module):
    """Joins every leaf of an observation into one embedding.

    Numbers, images and rewards are expected as the network should see them (`WorldModel` standardises); categories
    become one-hot.
    """

    def __init__(
        self,
        observations: Mapping[str, ObservationSpec],
        *,
        layers: int,
        units: int,
        depth: int,
        reward: bool = False,
        skip: bool = False,
    ) -> None:
        """Args:
        observations: the leaves by path.
        layers, units: of the perceptron that reads everything but images.
        depth: channels of the first convolution.
        reward: whether the perceptron reads the row's reward too, and whether there is one.
        skip: whether the embedding has the perceptron's inputs in it too, as they are.
        """
        super().__init__()
        self.specs = dict(observations)
        self.flat = [key for key, spec in self.specs.items() if spec.kind != "image"]
        self.images = [key for key, spec in self.specs.items() if spec.kind == "image"]
        self.reads_reward, self.skip = reward, skip
        inputs = sum(self.specs[key].width for key in self.flat) + 2 * reward
        self.perceptron = mlp([inputs] + [units] * layers) if inputs else None
        self.convolutions = nn.ModuleList(
            ImageEncoder(self.specs[key].shape[0], self.specs[key].shape[2], depth) for key in self.images
        )
        self.width = (units + inputs * skip) * bool(inputs) + sum(
            c.width for c in self.convolutions if isinstance(c, ImageEncoder)
        )

    def forward(
        self, obs: Mapping[str, Tensor], reward: Float[Tensor, "*batch 2"] | None = None
    ) -> Float[Tensor, "*batch E"]:
        """Embed observations with any leading shape, the same for every leaf.

        `reward` is, for an encoder that reads it, the reward (zero where there is none) and a one where there is one.
        """
        assert (reward is not None) == self.reads_reward
        lead = self._leading_shape(obs)
        parts = [
            conv(obs[key].flatten(0, len(lead) - 1)) for key, conv in zip(self.images, self.convolutions, strict=True)
        ]
        if self.perceptron is not None:
            dtype = next(self.parameters()).dtype
            numbers = [as_numbers(self.specs[key], obs[key], dtype) for key in self.flat]
            if reward is not None:
                numbers.append(reward.to(dtype))
            inputs = torch.cat(numbers, -1).flatten(0, -2)
            parts += [self.perceptron(inputs), inputs] if self.skip else [self.perceptron(inputs)]
        return torch.cat(parts, -1).unflatten(0, lead)

    def _leading_shape(self, obs: Mapping[str, Tensor]) -> torch.Size:
        key, spec = next(iter(self.specs.items()))
        return obs[key].shape[: -len(spec.shape)]


def as_numbers(spec: ObservationSpec, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A leaf as floating-point numbers: numbers, bits and pixel levels as they are, categories as one-hot vectors."""
    if spec.kind != "categorical":
        return x.to(dtype)
    hot = [one_hot(i.long(), n) for i, n in zip(x.unbind(-1), spec.classes, strict=True)]
    return torch.cat(hot, -1).to(dtype)
