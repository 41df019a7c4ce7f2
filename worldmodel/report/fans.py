"""Imagined futures beside what happened, over the steps of an episode: fans of numbers, heat maps of classes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.evaluation.scenes import Scene
from worldmodel.report.vocabulary import RAW, TRUTH
from worldmodel.system.names import label

WIDTH, HEIGHT = 4.2, 2.2  # of a panel, inches
MOST = 8  # dimensions or variables drawn, at most
PATHS = 16  # sample paths drawn, at most


def fan_chart(name: str, scene: Scene, context: int) -> Figure:
    """Every dimension of a vector (a row each) in every episode (a column each).

    Bands are the central 50 % and 90 % of predicted observations, thin lines the expected observation of single
    futures, dark lines what was observed. Left of the split the model has seen the row (the observation that it
    filtered), right of it nothing but actions.
    """
    dimensions = min(MOST, scene.mean.shape[-1])
    figure, axes = _panels(name, dimensions, scene)
    for i in range(dimensions):
        for episode in range(scene.mean.shape[0]):
            axis = axes[i, episode]
            draw_fan(axis, scene, episode, i, context)
            if episode == 0:
                axis.set_ylabel(label(name) if scene.mean.shape[-1] == 1 else f"{label(name)}[{i}]")
            if scene.leaf.kind == "binary":
                axis.set_ylim(-0.03, 1.03)
    _finish(figure, axes)
    return figure


def draw_fan(axis: Axes, scene: Scene, episode: int, i: int, context: int) -> None:
    """One dimension of one episode."""
    steps = np.arange(scene.mean.shape[1])
    axis.axvspan(-0.5, context - 0.5, color=TRUTH, alpha=0.05, lw=0)
    if scene.bands is not None:
        outer_low, low, high, outer_high = scene.bands[:, episode, :, i]
        axis.fill_between(steps, outer_low, outer_high, color=RAW, alpha=0.15, lw=0, label="90 % of predictions")
        axis.fill_between(steps, low, high, color=RAW, alpha=0.3, lw=0, label="50 % of predictions")
    for n, path in enumerate(scene.paths[:PATHS, episode, :, i]):
        words = "expected, single futures" if n == 0 else None
        axis.plot(steps[context:], path[context:], color=RAW, lw=0.5, alpha=0.5, label=words)
    axis.plot(steps, scene.mean[episode, :, i], color=RAW, lw=1.2, label="expected, mean of futures")
    truth = scene.truth[episode, :, i]
    axis.plot(steps[: len(truth)], truth, color=TRUTH, lw=1.4, label="what happened")
    _split(axis, context)


def class_chart(name: str, scene: Scene, context: int) -> Figure:
    """Probabilities of classes (or of ones) as heat maps over the steps, the truth as dots, the split as a line.

    A row for each variable of a categorical leaf, one for all bits of a binary leaf; a column for each episode.
    """
    parts = _variables(scene)
    shown = parts[:MOST]
    figure, axes = _panels(name, len(shown), scene)
    for v, (start, stop) in enumerate(shown):
        for episode in range(scene.mean.shape[0]):
            axis = axes[v, episode]
            probability = scene.mean[episode, :, start:stop].T
            axis.imshow(probability, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            steps, classes = _marks(scene, episode, v)
            axis.plot(steps, classes, "o", color=TRUTH, ms=3, mec="white", mew=0.5, label="what happened")
            axis.set_yticks(range(stop - start) if stop - start <= 10 else [0, stop - start - 1])
            _split(axis, context)
            if episode == 0:
                kind = "bit" if scene.leaf.kind == "binary" else "class"
                axis.set_ylabel(kind if len(parts) == 1 else f"{label(name)}[{v}], {kind}")
    figure.colorbar(axes[0, 0].get_images()[0], ax=axes, label="predicted probability", shrink=0.9, pad=0.01)
    _finish(figure, axes)
    return figure


def _variables(scene: Scene) -> list[tuple[int, int]]:
    """Where each variable's probabilities begin and end."""
    if scene.leaf.kind == "binary":
        return [(0, scene.leaf.width)]
    ends = np.cumsum(scene.leaf.classes).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _marks(scene: Scene, episode: int, variable: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and classes of what happened: the class of every step, or the bits that were one."""
    truth = scene.truth[episode]
    if scene.leaf.kind == "binary":
        steps, bits = np.nonzero(truth)
        return steps, bits
    return np.arange(len(truth)), truth[:, variable]


def _panels(name: str, rows: int, scene: Scene) -> tuple[Figure, np.ndarray]:
    episodes = scene.mean.shape[0]
    figure = Figure(figsize=(WIDTH * episodes + 1, HEIGHT * rows + 1.1), layout="constrained")
    axes = figure.subplots(rows, episodes, squeeze=False, sharex=True, sharey="row")
    figure.suptitle(f"Imagined {label(name)}: seen up to the dashed line, then nothing but actions", fontsize=12)
    for episode, axis in enumerate(axes[0]):
        axis.set_title(f"held-out episode {episode + 1}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("step of the episode")
    return figure, axes


def _split(axis: Axes, context: int) -> None:
    axis.axvline(context - 0.5, color=TRUTH, lw=0.9, ls="--", alpha=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.01)


def _finish(figure: Figure, axes: np.ndarray) -> None:
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
