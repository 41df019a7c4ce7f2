"""The KL kernels as torch operators: one launch forward, one backward, and only the inputs are kept in between.

    gaussian_kl, categorical_kl    (posterior, prior, ...) -> kl, both entropies, the balanced KL, what was clamped

Custom operators, so that torch.compile sees one node and does not look inside. They run on GPUs, and anywhere under
Triton's interpreter (TRITON_INTERPRET=1, for tests); `kl` is the door that checks arguments and knows where.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from worldmodel.kernels.forward_mode import refuse_forward_mode
from worldmodel.kernels.kl_triton import (
    Tile,
    categorical_kl_backward,
    categorical_kl_forward,
    categorical_tile,
    gaussian_kl_backward,
    gaussian_kl_forward,
    gaussian_tile,
)
from worldmodel.kernels.launch_triton import interpreting, launch

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _launch(kernel: Any, tile: Tile, rows: int, arguments: tuple, **constants: Any) -> None:
    """Run a kernel over all rows."""
    if rows == 0:
        return
    if interpreting():  # which costs milliseconds a program, however large
        most = max(1, 2**16 // (tile.groups * tile.classes))
        tile = tile._replace(rows=min(triton.next_power_of_2(rows), most))
    grid = (triton.cdiv(rows, tile.rows),)
    launch(kernel, grid, arguments, ROWS=tile.rows, GROUPS=tile.groups, num_warps=tile.num_warps, **constants)


def _rows(x: Tensor, event: int) -> Tensor:
    """x with its leading dimensions as one; a view wherever one stride can walk over them."""
    shape = x.shape[x.dim() - event :]
    return x.reshape(math.prod(x.shape[: x.dim() - event]), *shape)


def _row_stride(x: Tensor) -> int:
    return x.stride(0) if x.shape[0] > 1 else 0  # of a single row the stride is arbitrary, and would compile anew


def _floor(free_nats: float) -> float:
    return free_nats if free_nats > 0 else -math.inf  # without free nats, rounding below zero is not clamped either


def _empty_outputs(posterior: Tensor, event: int) -> Outputs:
    batch = posterior.shape[: posterior.dim() - event]
    groups = (*batch, posterior.shape[-2] if event == 2 else posterior.shape[-1] // 2)
    kl, q_entropy, p_entropy = (torch.empty(groups, device=posterior.device, dtype=torch.float32) for _ in range(3))
    balanced, clamped = (torch.empty(batch, device=posterior.device, dtype=t) for t in (torch.float32, torch.bool))
    return kl, q_entropy, p_entropy, balanced, clamped


def _empty_gradients(posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    q, p = (torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (posterior, prior))
    return q, p


def _cotangents(
    kl: Tensor | None,
    q_entropy: Tensor | None,
    p_entropy: Tensor | None,
    balanced: Tensor | None,
    clamped: Tensor | None,
    unused: Tensor,
) -> tuple[list[Tensor], dict[str, Any]]:
    """The cotangents as rows, `unused` in place of those that there are none of, and what the kernel must know."""
    known = [x for x in (q_entropy, p_entropy) if x is not None]
    entropies = [unused, unused]
    if known:
        entropies = [torch.zeros_like(known[0]) if x is None else x.contiguous() for x in (q_entropy, p_entropy)]
    by_group = unused if kl is None else _rows(kl, 1)
    by_row = unused if balanced is None else _rows(balanced, 0)
    return [by_group, *entropies, by_row, unused if clamped is None else clamped], {
        "G_ROW": 0 if kl is None else _row_stride(by_group),
        "G_COL": 0 if kl is None else by_group.stride(1),
        "B_ROW": 0 if balanced is None else _row_stride(by_row),
        "HAS_KL": kl is not None,
        "HAS_ENTROPY": bool(known),
        "HAS_BALANCED": balanced is not None,
        "CLAMPS": clamped is not None,
    }


@torch.library.custom_op("worldmodel::gaussian_kl", mutates_args=())
def gaussian_kl(
    posterior: Tensor, prior: Tensor, min_std: float, dyn: float, rep: float, free_nats: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """KL and both entropies [..., S], the balanced KL and whether it was clamped [...], of raw heads [..., 2S]."""
    outputs = _empty_outputs(posterior, 1)
    q, p = _rows(posterior, 1), _rows(prior, 1)
    tile = gaussian_tile(q.shape[1] // 2, q.element_size())
    arguments = (q, p, *outputs, len(q), min_std, dyn + rep, _floor(free_nats))
    _launch(gaussian_kl_forward, tile, len(q), arguments, **_gaussian_layout(q, p))
    return outputs


@torch.library.custom_op("worldmodel::gaussian_kl_backward", mutates_args=())
def gaussian_kl_gradients(
    posterior: Tensor, prior: Tensor,
    kl: Tensor | None, q_entropy: Tensor | None, p_entropy: Tensor | None, balanced: Tensor | None,
    clamped: Tensor | None, min_std: float, dyn: float, rep: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients [..., 2S] of both inputs from the cotangents of the outputs, None where there is none."""
    gradients = _empty_gradients(posterior, prior)
    q, p = _rows(posterior, 1), _rows(prior, 1)
    cotangents, known = _cotangents(kl, q_entropy, p_entropy, balanced, clamped, unused=q)
    # Four numbers a thread whatever their size: with the eight of 16-bit inputs, registers fill a third of a GPU.
    tile = gaussian_tile(q.shape[1] // 2, 4)
    arguments = (q, p, *cotangents, *gradients, len(q), min_std, dyn, rep)
    _launch(gaussian_kl_backward, tile, len(q), arguments, **known, **_gaussian_layout(q, p))
    return gradients


@torch.library.custom_op("worldmodel::categorical_kl", mutates_args=())
def categorical_kl(
    posterior: Tensor, prior: Tensor, unimix: float, dyn: float, rep: float, free_nats: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """KL and both entropies [..., S], the balanced KL and whether it was clamped [...], of logits [..., S, K]."""
    outputs = _empty_outputs(posterior, 2)
    q, p = _rows(posterior, 2), _rows(prior, 2)
    tile = categorical_tile(q.shape[1], q.shape[2], q.element_size())
    arguments = (q, p, *outputs, len(q), 1 - unimix, unimix / q.shape[2], dyn + rep, _floor(free_nats))
    _launch(categorical_kl_forward, tile, len(q), arguments, **_categorical_layout(q, p, tile, unimix))
    return outputs


@torch.library.custom_op("worldmodel::categorical_kl_backward", mutates_args=())
def categorical_kl_gradients(
    posterior: Tensor, prior: Tensor,
    kl: Tensor | None, q_entropy: Tensor | None, p_entropy: Tensor | None, balanced: Tensor | None,
    clamped: Tensor | None, unimix: float, dyn: float, rep: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients [..., S, K] of both inputs from the cotangents of the outputs, None where there is none."""
    gradients = _empty_gradients(posterior, prior)
    q, p = _rows(posterior, 2), _rows(prior, 2)
    cotangents, known = _cotangents(kl, q_entropy, p_entropy, balanced, clamped, unused=q)
    tile = categorical_tile(q.shape[1], q.shape[2], q.element_size())
    settings = (1 - unimix, unimix / q.shape[2], dyn, rep)
    constants = {**known, **_categorical_layout(q, p, tile, unimix)}
    _launch(categorical_kl_backward, tile, len(q), (q, p, *cotangents, *gradients, len(q), *settings), **constants)
    return gradients


def _gaussian_layout(q: Tensor, p: Tensor) -> dict[str, int]:
    return {
        "S": q.shape[1] // 2,
        **{"Q_ROW": _row_stride(q), "Q_COL": q.stride(1)},
        **{"P_ROW": _row_stride(p), "P_COL": p.stride(1)},
    }


def _categorical_layout(q: Tensor, p: Tensor, tile: Tile, unimix: float) -> dict[str, Any]:
    return {
        **{"S": q.shape[1], "K": q.shape[2], "CLASSES": tile.classes, "MIXED": unimix > 0},
        **{"Q_ROW": _row_stride(q), "Q_GROUP": q.stride(1), "Q_CLASS": q.stride(2)},
        **{"P_ROW": _row_stride(p), "P_GROUP": p.stride(1), "P_CLASS": p.stride(2)},
    }


def _keep(ctx: Any, inputs: tuple, output: Outputs) -> None:
    """Keep the inputs, and with free nats a byte a step; ask for no zeros where an output was not used."""
    *_, free_nats = inputs
    ctx.save_for_backward(inputs[0], inputs[1], output[4] if free_nats > 0 else None)
    ctx.settings = inputs[2:-1]
    ctx.set_materialize_grads(False)


def _register(forward: Any, backward: Any, event: int) -> None:
    """Shapes for torch.compile, and the gradients."""

    def differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        posterior, prior, clamped = ctx.saved_tensors
        return *backward(posterior, prior, *cotangents[:4], clamped, *ctx.settings), None, None, None, None

    forward.register_fake(lambda posterior, prior, *settings: _empty_outputs(posterior, event))
    backward.register_fake(lambda posterior, prior, *rest: _empty_gradients(posterior, prior))
    forward.register_autograd(differentiate, setup_context=_keep)


_register(gaussian_kl, gaussian_kl_gradients, 1)
_register(categorical_kl, categorical_kl_gradients, 2)
refuse_forward_mode("gaussian_kl", "gaussian_kl_backward", "categorical_kl", "categorical_kl_backward")
