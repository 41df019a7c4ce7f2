"""Held-out episodes for a page: what was recorded, what each row told the model, and states to dream on from."""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from worldmodel.data.batches import select, trimmed
from worldmodel.evaluation.latents import Latents, infer_latents
from worldmodel.models.world_model import WorldModel
from worldmodel.playable.arrays import Arrays, plain
from worldmodel.types import Batch, ObservationSpec

TRACES = 8  # numbers of a leaf that are shown, at most
STARTS = 4  # rows of an episode that a dream may begin behind, evenly spread from the first one on


@torch.no_grad()
def recordings(
    model: WorldModel, episodes: Batch, arrays: Arrays, generator: torch.Generator
) -> tuple[list[dict[str, Any]], Latents]:
    """What the page knows of whole episodes, and the latents that it is made of.

    No row knows what follows it, also where the model's posterior smooths.

    Args:
        model: the world model.
        episodes: padded, each of two rows at least.
        arrays: that the numbers go into.
        generator: source of the draw of z.
    """
    latents = infer_latents(model, episodes, generator, filtering=True)
    entropy = latents.prior.entropy().sum(-1)
    kept = []
    for b in range(len(episodes.valid)):
        rows = int(episodes.valid[b].sum())
        one = select(episodes, slice(b, b + 1), slice(rows))
        leaves = model.spec.observations.items()
        kept.append(
            {
                "rows": rows,
                "terminal": bool(one.is_terminal[0, -1]),
                "action": arrays.numbers(one.prev_action[0]),
                "reward": plain(one.reward[0].tolist()),
                "kl": plain(latents.kl[b, :rows].tolist()),
                "entropy": plain(entropy[b, :rows].tolist()),
                "leaves": [_leaf(leaf, one.obs[path][0], arrays) for path, leaf in leaves],
                "starts": [_start(latents, b, row, arrays) for row in start_rows(rows)],
            }
        )
    return kept, latents


def start_rows(rows: int) -> list[int]:
    """The rows that dreams may begin behind; the last one of an episode has nothing behind it."""
    return sorted({min(i * rows // STARTS, rows - 2) for i in range(STARTS)})


def few(episodes: Batch, count: int, rows: int) -> Batch:
    """The first `count` of the episodes that have two rows at least, cut after so many rows.

    Raises:
        ValueError: if there are none.
    """
    long = episodes.valid.sum(1) >= 2
    if not long.any():
        raise ValueError("episodes: expected a held-out episode of two rows at least, found none")
    chosen = trimmed(select(episodes, long))
    return trimmed(select(chosen, slice(count), slice(rows)))


def _start(latents: Latents, episode: int, row: int, arrays: Arrays) -> dict[str, Any]:
    h, z = (x[0] for x in latents.at(row, episode).state)
    return {"row": row, "h": arrays.numbers(h), "z": arrays.numbers(z)}


def _leaf(leaf: ObservationSpec, x: Tensor, arrays: Arrays) -> dict[str, Any]:
    """One leaf of an episode [T, ...]: numbers, classes, or a strip of pictures, one below the other."""
    if leaf.kind == "image":
        return {"strip": picture_strip(x.cpu().numpy())}
    if leaf.kind in ("vector", "integer"):
        return {"values": arrays.numbers(x[:, :TRACES].float())}
    small = not leaf.classes or max(leaf.classes) <= 256
    return {"values": arrays.bytes(x) if small else arrays.numbers(x.float())}


def picture_strip(frames: np.ndarray) -> str:
    """Frames [T, H, W, 1 or 3 or more] of bytes as one PNG, T heights tall, in a data URI."""
    T, height, width, channels = frames.shape
    seen = frames if channels == 3 else frames[..., -1]  # of several, the newest
    image = Image.fromarray(np.ascontiguousarray(seen.reshape(T * height, width, *seen.shape[3:])))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
