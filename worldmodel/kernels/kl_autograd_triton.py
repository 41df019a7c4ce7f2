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

from worldmodel.kernels.kl_triton import (
    Tile,
    categorical_kl_backward,
    categorical_kl_forward,
    categorical_tile,
    gaussian_kl_backward,
    gaussian_kl_forward,
    gaussian_tile,
)

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
INTERPRETED = not isinstance(gaussian_kl_forward, triton.JITFunction)


def _launch(kernel: Any, tile: Tile, rows: int, like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel over all rows. The interpreter's cost is a program's, so there one program takes as many as it can."""
    if rows == 0:
        return
    if INTERPRETED:
        most = max(1, 2**16 // (tile.groups * tile.classes))
        tile = tile._replace(rows=min(triton.next_power_of_2(rows), most))
    with torch.cuda.device_of(like):
        kernel[(triton.cdiv(rows, tile.rows),)](
            *arguments, ROWS=tile.rows, GROUPS=tile.groups, num_warps=tile.num_warps, enable_fp_fusion=True, **constants
        )


def _rows(x: Tensor, event: int) -> Tensor:
    """x with its leading dimensions as one; a view wherever one stride can walk over them."""
    shape = x.shape[x.dim() - event :]
    return x.reshape(math.prod(x.shape[: x.dim() - event]), *shape)


def _row_stride(x: Tensor) -> int:
    return x.stride(0) if x.shape[0] > 1 else 0  # of a single row the stride is arbitrary, and would compile anew


def _floor(free_nats: float) -> float:
    return free_nats if free_nats > 0 else -math.inf  # without free nats, rounding below zero is not clamped either


def _empty_outputs(posterior: Tensor, event: int) -> Outputs:
    batch = posterior.shape[:-event]
    groups = (*batch, posterior.shape[-2] if event == 2 else posterior.shape[-1] // 2)
    kl, q_entropy, p_entropy = (posterior.new_empty(groups, dtype=torch.float32) for _ in range(3))
    balanced, clamped = posterior.new_empty(batch, dtype=torch.float32), posterior.new_empty(batch, dtype=torch.bool)
    return kl, q_entropy, p_entropy, balanced, clamped


def _cotangents(
    like: Tensor, kl: Tensor | None, q_entropy: Tensor | None, p_entropy: Tensor | None, balanced: Tensor | None
) -> tuple[list[Tensor], dict[str, Any]]:
    """The cotangents as rows, with `like` in place of those that there are none of, and what the kernel must know."""
    has_entropy = q_entropy is not None or p_entropy is not None
    if has_entropy:
        known = q_entropy if q_entropy is not None else p_entropy
        q_entropy, p_entropy = (torch.zeros_like(known) if x is None else x for x in (q_entropy, p_entropy))
    rows = [like if x is None else _rows(x, 1) for x in (kl, q_entropy, p_entropy)]
    rows[1:] = [x.contiguous() for x in rows[1:]]
    flat = like if balanced is None else _rows(balanced, 0)
    return [*rows, flat], {
        "G_ROW": _row_stride(rows[0]),
        "G_COL": rows[0].stride(1),
        "B_ROW": _row_stride(flat),
        "HAS_KL": kl is not None,
        "HAS_ENTROPY": has_entropy,
        "HAS_BALANCED": balanced is not None,
    }


@torch.library.custom_op("worldmodel::gaussian_kl", mutates_args=())
def gaussian_kl(
    posterior: Tensor, prior: Tensor, min_std: float, dyn: float, rep: float, free_nats: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """KL and both entropies [..., S], the balanced KL and whether it was clamped [...], of raw heads [..., 2S]."""
    outputs = _empty_outputs(posterior, 1)
    q, p = _rows(posterior, 1), _rows(prior, 1)
    tile = gaussian_tile(q.shape[1] // 2, q.element_size())
    _launch(
        gaussian_kl_forward, tile, q.shape[0], q, q, p, *outputs, q.shape[0], min_std, dyn + rep, _floor(free_nats),
        **_gaussian_layout(q, p),
    )  # fmt: skip
    return outputs


@torch.library.custom_op("worldmodel::gaussian_kl_backward", mutates_args=())
def gaussian_kl_gradients(
    posterior: Tensor, prior: Tensor,
    kl: Tensor | None, q_entropy: Tensor | None, p_entropy: Tensor | None, balanced: Tensor | None,
    min_std: float, dyn: float, rep: float, free_nats: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients [..., 2S] of both inputs from the cotangents of the outputs, None where there is none."""
    gradients = _empty_gradients(posterior, prior)
    q, p = _rows(posterior, 1), _rows(prior, 1)
    cotangents, known = _cotangents(q, kl, q_entropy, p_entropy, balanced)
    tile = gaussian_tile(q.shape[1] // 2, q.element_size())
    _launch(
        gaussian_kl_backward, tile, q.shape[0], q, q, p, *cotangents, *gradients,
        q.shape[0], min_std, dyn, rep, _floor(free_nats), CLAMPS=free_nats > 0, **known, **_gaussian_layout(q, p),
    )  # fmt: skip
    return gradients


@torch.library.custom_op("worldmodel::categorical_kl", mutates_args=())
def categorical_kl(
    posterior: Tensor, prior: Tensor, unimix: float, dyn: float, rep: float, free_nats: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """KL and both entropies [..., S], the balanced KL and whether it was clamped [...], of logits [..., S, K]."""
    outputs = _empty_outputs(posterior, 2)
    q, p = _rows(posterior, 2), _rows(prior, 2)
    tile = categorical_tile(q.shape[1], q.shape[2], q.element_size())
    _launch(
        categorical_kl_forward, tile, q.shape[0], q, q, p, *outputs,
        q.shape[0], 1 - unimix, unimix / q.shape[2], dyn + rep, _floor(free_nats),
        **_categorical_layout(q, p, tile, unimix),
    )  # fmt: skip
    return outputs


@torch.library.custom_op("worldmodel::categorical_kl_backward", mutates_args=())
def categorical_kl_gradients(
    posterior: Tensor, prior: Tensor,
    kl: Tensor | None, q_entropy: Tensor | None, p_entropy: Tensor | None, balanced: Tensor | None,
    unimix: float, dyn: float, rep: float, free_nats: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients [..., S, K] of both inputs from the cotangents of the outputs, None where there is none."""
    gradients = _empty_gradients(posterior, prior)
    q, p = _rows(posterior, 2), _rows(prior, 2)
    cotangents, known = _cotangents(q, kl, q_entropy, p_entropy, balanced)
    tile = categorical_tile(q.shape[1], q.shape[2], q.element_size())
    _launch(
        categorical_kl_backward, tile, q.shape[0], q, q, p, *cotangents, *gradients,
        q.shape[0], 1 - unimix, unimix / q.shape[2], dyn, rep, _floor(free_nats), CLAMPS=free_nats > 0, **known,
        **_categorical_layout(q, p, tile, unimix),
    )  # fmt: skip
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


def _empty_gradients(posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    return posterior.new_empty(posterior.shape), prior.new_empty(prior.shape)


def _keep(ctx: Any, inputs: tuple, output: Outputs) -> None:
    """Keep the inputs alone; ask for no zeros where an output was not used."""
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.settings = inputs[2:]
    ctx.set_materialize_grads(False)


def _register(forward: Any, backward: Any, event: int) -> None:
    """Shapes for torch.compile, and the gradients."""

    def differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        posterior, prior = ctx.saved_tensors
        return *backward(posterior, prior, *cotangents[:4], *ctx.settings), None, None, None, None

    forward.register_fake(lambda posterior, prior, *settings: _empty_outputs(posterior, event))
    backward.register_fake(lambda posterior, prior, *rest: _empty_gradients(posterior, prior))
    forward.register_autograd(differentiate, setup_context=_keep)


_register(gaussian_kl, gaussian_kl_gradients, 1)
_register(categorical_kl, categorical_kl_gradients, 2)
