"""Figures from arrays, and figures as PNG. Returns them, writes nothing and shows nothing."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from worldmodel.system.names import label

RAW, OPTIMISED, REWARD, BASELINE = "#20558a", "#d9822b", "#5b9a5b", "#888888"


def kl_overview(
    history: Mapping[str, Sequence[float]],
    by_position: np.ndarray,
    optimised_by_position: np.ndarray,
    by_episode_step: np.ndarray,
    heat_map: np.ndarray,
    surprise_kl: np.ndarray,
    surprise_optimised: np.ndarray,
    surprise_reward: np.ndarray,
) -> Figure:
    """The KL over time on one page: over training, over the sequence, over the episode, by latent group, and along one
    held-out episode beside its reward. Raw KL in blue, what the loss sees in orange wherever the two differ.

    Args:
        history: columns `update`, `mean`, `median`, `q95` and `optimised_mean`, one entry per row of metrics.
        by_position, optimised_by_position: [T] training sequences.
        by_episode_step: [L] held-out episodes.
        heat_map: [S, T] training sequences.
        surprise_kl, surprise_optimised, surprise_reward: [L] one held-out episode.
    """
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplot_mosaic([["history", "position"], ["episode", "groups"], ["surprise", "surprise"]])
    draw_kl_history(axes["history"], history)
    draw_line(axes["position"], by_position, optimised_by_position, "row of the training sequence")
    axes["position"].set_title("KL by place in the sequence (most start cold, inside an episode)")
    draw_line(axes["episode"], by_episode_step, None, "steps since the episode began")
    axes["episode"].set_title("KL by steps since the reset (held-out episodes)")
    draw_heat_map(axes["groups"], heat_map)
    draw_surprise(axes["surprise"], surprise_kl, surprise_optimised, surprise_reward)
    return figure


def draw_kl_history(axis: Axes, history: Mapping[str, Sequence[float]]) -> None:
    """Mean, median and 95 % quantile of the raw KL over training, and the mean of what the loss sees."""
    update = history["update"]
    axis.plot(update, history["mean"], color=RAW, label="mean")
    axis.plot(update, history["median"], color=RAW, ls=":", label="median")
    axis.plot(update, history["q95"], color=RAW, lw=0.7, alpha=0.7, label="95 % quantile")
    if _differ(history["mean"], history["optimised_mean"]):
        axis.plot(update, history["optimised_mean"], color=OPTIMISED, label="mean, as optimised")
    _label(axis, "KL per step over training", "updates", "nats")
    axis.legend(frameon=False, fontsize=8)


def draw_line(axis: Axes, raw: np.ndarray, optimised: np.ndarray | None, x_label: str) -> None:
    """One KL curve, with its optimised twin where that differs."""
    axis.plot(raw, color=RAW, label="raw")
    if optimised is not None and _differ(raw, optimised):
        axis.plot(optimised, color=OPTIMISED, label="as optimised")
        axis.legend(frameon=False, fontsize=8)
    axis.set_yscale("log", nonpositive="clip")
    _label(axis, "", x_label, "nats (log scale)")


def draw_heat_map(axis: Axes, heat_map: np.ndarray) -> None:
    """KL of every latent group at every place of the sequence; a thousandth of a nat and less is black."""
    scale = LogNorm(1e-3, max(1e-2, float(np.nanmax(heat_map))), clip=True)
    image = axis.imshow(heat_map, aspect="auto", cmap="magma", interpolation="nearest", norm=scale)
    axis.figure.colorbar(image, ax=axis, label="nats (log scale)")
    _label(axis, "KL by latent group", "row of the training sequence", "latent group")
    axis.grid(visible=False)


def draw_surprise(axis: Axes, kl: np.ndarray, optimised: np.ndarray, reward: np.ndarray) -> None:
    """The KL at every step of one episode beside its reward."""
    axis.plot(kl, color=RAW, label="KL, raw")
    if _differ(kl, optimised):
        axis.plot(optimised, color=OPTIMISED, label="KL, as optimised")
    axis.set_yscale("log", nonpositive="clip")
    _label(axis, "Surprise along one held-out episode", "step of the episode", "nats (log scale)")
    other = axis.twinx()
    other.plot(reward, color=REWARD, lw=0.8, alpha=0.8, label="reward")
    other.set_ylabel("reward")
    other.spines["top"].set_visible(False)
    handles = axis.get_legend_handles_labels()[0] + other.get_legend_handles_labels()[0]
    axis.legend(handles=handles, frameon=False, fontsize=8, loc="upper right")


def kl_heat_map(heat_map: np.ndarray) -> Figure:
    """The heat map on a page of its own."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    draw_heat_map(figure.subplots(), heat_map)
    return figure


def bound_curves(train: Mapping[str, Sequence[float]], heldout: Mapping[str, Sequence[float]]) -> Figure:
    """The ELBO and its terms over training; points are held-out episodes.

    Args:
        train, heldout: columns `update` and one of each term, in nats per step.
    """
    names = [name for name in train if name != "update"]
    figure, axes = _grid(len(names), width=3.4)
    for axis, name in zip(axes, names, strict=True):
        axis.plot(train["update"], train[name], color=RAW, lw=0.8, label="training")
        if heldout.get(name):
            axis.plot(heldout["update"], heldout[name], "o-", color=OPTIMISED, ms=3, label="held-out")
        values = np.asarray([*train[name], *heldout.get(name, [])])
        low, high = np.nanquantile(values, [0.02, 1.0])
        axis.set_ylim(low - 0.05 * (high - low) - 1e-6, high + 0.05 * (high - low) + 1e-6)
        _label(axis, label(name), "updates", "nats per step")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def open_loop_figure(errors: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Error by horizon: the model, the last row repeated, the data's mean.

    Args:
        errors: by leaf, three arrays [H] in that order.
    """
    figure, axes = _grid(len(errors), width=5)
    for axis, (name, (model, repeat, mean)) in zip(axes, errors.items(), strict=True):
        horizon = np.arange(1, len(model) + 1)
        axis.plot(horizon, model, color=RAW, label="imagined, mean of samples")
        axis.plot(horizon, repeat, color=OPTIMISED, label="last row repeated")
        axis.plot(horizon, mean, color=BASELINE, ls="--", label="mean of the data")
        axis.set_yscale("log")
        _label(axis, f"Open-loop error: {label(name)}", "steps ahead", "squared error / variance")
        axis.legend(frameon=False, fontsize=8)
    return figure


def render(figure: Figure) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _grid(count: int, width: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes of this width in inches, at most five a row."""
    columns = min(count, 5)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, 3.2 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _differ(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> bool:
    return not np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    if title:
        axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
