"""Pictures of a training run: charts in figures of their own, and figures as PNG. Writes nothing and shows nothing."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.report import charts, vocabulary
from worldmodel.report.record import Curve
from worldmodel.system.names import label


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
    charts.draw_kl_history(axes["history"], _curves(history))
    rows, steps = np.arange(len(by_position)), np.arange(len(by_episode_step))
    charts.draw_kl(axes["position"], rows, by_position, optimised_by_position, vocabulary.PLACE)
    charts.draw_kl(axes["episode"], steps, by_episode_step, None, vocabulary.SINCE_RESET)
    charts.draw_heat_map(axes["groups"], heat_map)
    charts.draw_surprise(axes["surprise"], surprise_kl, surprise_optimised, surprise_reward)
    for name, axis in axes.items():
        axis.set_title(vocabulary.KL_CHARTS[name].title)
    return figure


def kl_of_episode(kl: np.ndarray, optimised: np.ndarray, reward: np.ndarray, groups: np.ndarray) -> Figure:
    """The KL along one episode beside its reward, and by latent group.

    Args:
        kl, optimised, reward: [L] of each step; the KL raw, and as the loss sees it.
        groups: [L, S] raw, of each latent group.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    charts.draw_surprise(above, kl, optimised, reward)
    charts.draw_heat_map(below, groups.T)
    below.set_xlabel(above.get_xlabel())
    above.set_title("KL of every step of the episode")
    below.set_title(vocabulary.KL_BY_GROUP.title)
    return figure


def kl_heat_map(heat_map: np.ndarray) -> Figure:
    """The heat map on a page of its own."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    charts.draw_heat_map(axis, heat_map)
    axis.set_title(vocabulary.KL_BY_GROUP.title)
    return figure


def bound_curves(train: Mapping[str, Sequence[float]], heldout: Mapping[str, Sequence[float]]) -> Figure:
    """The ELBO and its terms over training; points are held-out episodes.

    Args:
        train, heldout: columns `update` and one of each term, in nats per step.
    """
    splits = {"train": _curves(train), "heldout": _curves(heldout)}
    figure, axes = _grid(len(splits["train"]), width=3.4)
    for axis, name in zip(axes, splits["train"], strict=True):
        charts.draw_term(axis, name, {split: curves[name] for split, curves in splits.items() if name in curves})
        axis.set_title(label(vocabulary.term(name).name))
    return figure


def acting_figure(curves: Mapping[str, Curve]) -> Figure:
    """How a run acts on one page: returns, lengths, what was predicted, and how well the model knows its episodes.

    Args:
        curves: by metric, over environment steps; what is empty is not drawn.
    """
    found = {metric: curve for metric, curve in curves.items() if len(curve.x)}
    shown = acting_charts(found)
    figure, axes = _grid(len(shown), width=4.2)
    for axis, name in zip(axes, shown, strict=True):
        charts.draw_acting(axis, name, found)
        axis.set_title(vocabulary.ACTING[name].title)
    return figure


def acting_charts(curves: Mapping[str, Curve]) -> list[str]:
    """The charts of how a run acts that are drawn: those whose first curve there is, of lengths only if they change."""
    there = [name for name, looks in vocabulary.ACTING_CURVES.items() if next(iter(looks)) in curves]
    return [name for name in there if name != "lengths" or np.ptp(curves["acting/length"].y) > 0]


def open_loop_figure(errors: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Error by horizon: the model, the last step repeated, the data's mean.

    Args:
        errors: by leaf, three arrays [H] in that order.
    """
    figure, axes = _grid(len(errors), width=5)
    for axis, (name, by_method) in zip(axes, errors.items(), strict=True):
        named = dict(zip(vocabulary.OPEN_LOOP_METHODS, by_method, strict=True))
        charts.draw_open_loop(axis, np.arange(1, len(by_method[0]) + 1), named)
        axis.set_title(f"{vocabulary.OPEN_LOOP.name.capitalize()}: {label(name)}")
    return figure


def render(figure: Figure) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _curves(table: Mapping[str, Sequence[float]]) -> dict[str, Curve]:
    """The columns of a table that are as long as its updates, as curves over them."""
    updates = np.asarray(table.get("update", ()), np.float64)
    curves = {name: Curve(updates, np.asarray(y, np.float64)) for name, y in table.items() if name != "update"}
    return {name: curve for name, curve in curves.items() if len(curve.y)}


def _grid(count: int, width: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes of this width in inches, at most five a row."""
    columns = min(count, 5)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, 3.2 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]
