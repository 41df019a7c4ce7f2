"""Optimisers and clipping beside torch's: LaProp and adaptive gradient clipping, as DreamerV3 uses them together.

AdamW and the clipping of the global norm are torch's, and the default everywhere.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LaProp(torch.optim.Optimizer):
    """RMSProp, then momentum: gradients are divided by their own size before they are averaged, not after.

        v_t = b2 v_{t-1} + (1 - b2) g_t^2
        m_t = b1 m_{t-1} + (1 - b1) g_t / (sqrt(v_t / (1 - b2^t)) + eps)
        p_t = (1 - lr decay) p_{t-1} - lr m_t / (1 - b1^t)

    What is averaged is at most 1 / sqrt(1 - b2), so that no step is longer than lr times that, whatever b1. Adam
    divides an average of raw gradients by a square root that may have forgotten them (b1^2 > b2): it has no such bound.

    Source: Ziyin, Wang and Ueda 2020, arXiv 2002.04839, algorithm 1; the defaults are DreamerV3's.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        weight_decay: float = 0.0,
        capturable: bool = False,
    ) -> None:
        """Args:
        parameters: what is optimised.
        lr: learning rate.
        betas: b1 of the momentum, b2 of the squares.
        eps: of the denominator.
        weight_decay: decoupled from the gradient, as AdamW's.
        capturable: count steps on the parameters' device, where a CUDA graph of a step counts on, instead of on the
            host. Steps differ by rounding.
        Raises:
            ValueError: if a number is out of its range.
        """
        if min(lr, eps, weight_decay) < 0 or not all(0 <= beta < 1 for beta in betas):
            got = (lr, betas, eps, weight_decay)
            raise ValueError(
                f"lr, betas, eps, weight_decay: expected betas in [0, 1), the rest zero or more, got {got}"
            )
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "capturable": capturable}
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient; with a closure, it is called first: -> its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if group["capturable"] and moved:
                self._move_together(moved, group)
                continue
            for p in moved:
                self._move(p, p.grad, group)
        return loss

    def _kept(self, p: Tensor, counts_on: torch.device) -> dict[str, Tensor]:
        """What is kept of a parameter, from zero on."""
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=counts_on)
            state["momentum"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        return state

    def _move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        (b1, b2), lr = group["betas"], group["lr"]
        state = self._kept(p, torch.device("cpu"))  # where reading a count costs nothing
        state["step"] += 1
        step, momentum, square = state["step"].item(), state["momentum"], state["square"]
        square.lerp_(gradient.square(), 1 - b2)
        size = (square / (1 - b2**step)).sqrt_().add_(group["eps"])
        momentum.lerp_(gradient / size, 1 - b1)
        p.mul_(1 - lr * group["weight_decay"]).add_(momentum, alpha=-lr / (1 - b1**step))

    def _move_together(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """`_move` without numbers of the host that change, all parameters at once: no more launches than it takes."""
        (b1, b2), lr = group["betas"], group["lr"]
        kept = [self._kept(p, p.device) for p in parameters]
        steps, momenta, squares = ([one[name] for one in kept] for name in ("step", "momentum", "square"))
        torch._foreach_add_(steps, 1)
        counts = torch.stack(steps).double()  # in float32 1 - b2 would be right to four digits
        weight1, weight2 = ((1 - beta**counts).to(squares[0].dtype).unbind() for beta in (b1, b2))
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - b2)
        sizes = torch._foreach_div(squares, weight2)
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, group["eps"])
        torch._foreach_lerp_(momenta, torch._foreach_div(gradients, sizes), 1 - b1)
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_add_(parameters, torch._foreach_div(momenta, weight1), alpha=-lr)


@torch.no_grad()
def clip_adaptively(
    parameters: Iterable[nn.Parameter], clip: float = 0.3, min_norm: float = 1e-3
) -> Float[Tensor, " n"]:
    """Scale each gradient down to a share of its own parameter's norm, in place (adaptive gradient clipping, AGC).

        g <- g min(1, clip max(|p|, min_norm) / |g|)

    Norms are of whole tensors, as in DreamerV3's code; Brock et al. take them row by row.

    Args:
        parameters: those without a gradient are passed over.
        clip: largest |g| in units of |p|.
        min_norm: stands for |p| where that is smaller, so that parameters that start at zero can move.
    Returns:
        What each gradient was multiplied with, on the device: 1 where it was left as it is.
    Raises:
        ValueError: unless clip and min_norm are positive.
    Source: Brock et al. 2021, arXiv 2102.06171, equation 3; Hafner et al. 2023, arXiv 2301.04104.
    """
    if min(clip, min_norm) <= 0:
        raise ValueError(f"clip, min_norm: expected numbers above zero, got {(clip, min_norm)}")
    with_gradient = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in with_gradient if p.grad is not None]
    if not gradients:
        return torch.ones(0)
    size = torch.stack([p.norm() for p in with_gradient]).clamp(min=min_norm)
    length = torch.stack([g.norm() for g in gradients])
    factor = clip * size / torch.maximum(length, clip * size)
    for gradient, share in zip(gradients, factor, strict=True):
        gradient.mul_(share)
    return factor


OptimizerName = Literal["adamw", "laprop"]


def make_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    eps: float | None = None,
) -> torch.optim.Optimizer:
    """torch's fused AdamW, or LaProp; eps is the optimiser's own (1e-8 and 1e-20) if None.

    On another device than the CPU a step can be captured in a graph, and is the same whether it is or not.
    """
    parameters = list(parameters)
    capturable = any(p.device.type != "cpu" for p in parameters)
    if name == "laprop":
        eps = 1e-20 if eps is None else eps
        return LaProp(parameters, learning_rate, eps=eps, weight_decay=weight_decay, capturable=capturable)
    eps = 1e-8 if eps is None else eps
    return torch.optim.AdamW(
        parameters, lr=learning_rate, eps=eps, weight_decay=weight_decay, fused=True, capturable=capturable
    )
