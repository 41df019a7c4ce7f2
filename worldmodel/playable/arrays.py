"""Numbers for a page: tensors laid end to end as one text, each known by where it begins and by its shape."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Precision = Literal["float32", "float16"]
Reference = list[Any]  # [store, where it begins, *shape], as the page's script reads it
DTYPES = {"float32": "<f4", "float16": "<f2", "uint8": "u1"}
WEIGHTS, NUMBERS, BYTES = "weights", "numbers", "bytes"


@dataclass
class _Store:
    dtype: str
    parts: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def put(self, x: np.ndarray) -> int:
        begins, self.count = self.count, self.count + x.size
        self.parts.append(x.astype(DTYPES[self.dtype]).ravel())
        return begins

    def text(self) -> str:
        return base64.b64encode(b"".join(part.tobytes() for part in self.parts)).decode()


class Arrays:
    """Three stores: weights, which may be quantised; numbers, in float32 in any case; and bytes."""

    def __init__(self, precision: Precision = "float32") -> None:
        """Args:
        precision: that weights are kept in.
        """
        self.precision = precision
        self._stores = {WEIGHTS: _Store(precision), NUMBERS: _Store("float32"), BYTES: _Store("uint8")}

    def weights(self, x: Tensor) -> Reference:
        """Keep a weight.

        Raises:
            ValueError: if it is too large for the precision, or no number.
        """
        kept = x.detach().cpu().float().numpy()
        largest = float(np.finfo(DTYPES[self.precision]).max)
        if not (np.abs(kept) <= largest).all():
            raise ValueError(f"weights: expected numbers within {largest:g}, got {np.abs(kept).max():g}")
        return self._put(WEIGHTS, kept)

    def numbers(self, x: Tensor | np.ndarray) -> Reference:
        """Keep constants or records, in float32; they may be NaN."""
        array = x.detach().cpu().float().numpy() if isinstance(x, Tensor) else np.asarray(x)
        return self._put(NUMBERS, array)

    def bytes(self, x: Tensor) -> Reference:
        """Keep whole numbers from 0 to 255."""
        assert not len(x.flatten()) or (int(x.min()) >= 0 and int(x.max()) <= 255)
        return self._put(BYTES, x.to(torch.uint8).cpu().numpy())

    @property
    def count(self) -> int:
        """How many weights there are."""
        return self._stores[WEIGHTS].count

    def texts(self) -> Mapping[str, tuple[str, str]]:
        """Each store's dtype and its bytes, little-endian, as base64."""
        return {name: (store.dtype, store.text()) for name, store in self._stores.items()}

    def _put(self, store: str, x: np.ndarray) -> Reference:
        return [store, self._stores[store].put(x), *x.shape]


def plain(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them, to six digits; what is not finite is null."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
