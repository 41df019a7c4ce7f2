"""The dream under a policy beside the world, from the same first steps: variables as traces, images as strips."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from worldmodel.evaluation.dream_gap import DreamGap
from worldmodel.evaluation.rounds import best_and_median
from worldmodel.report.charts import Drawn, draw_curves
from worldmodel.report.films import as_rgb
from worldmodel.report.vocabulary import DREAM, DREAM_LOOKS
from worldmodel.system.names import label

TRACES = 4  # variables of the observation that are drawn, at most
COLUMNS = 6  # steps of a strip of images
STEP = "step of the episode"


def dream_figure(gap: DreamGap) -> Figure:
    """The starts whose episodes were the best and the median one in the world; what lies behind an end is not drawn."""
    returns = gap.world.returns
    chosen = best_and_median(returns)
    image = next((path for path, x in gap.world.obs.items() if x.ndim == 5), None)
    rows = min(len(gap.world.variables), TRACES) + 1 + (0 if image is None else 2)
    figure = Figure(figsize=(5.6 * len(chosen), 1.15 * rows + 1.1), layout="constrained")
    figure.suptitle(DREAM.title)
    parts = figure.subfigures(1, len(chosen), squeeze=False)[0]
    for part, (words, i) in zip(parts, chosen.items(), strict=True):
        part.suptitle(f"{words} start: return {returns[i]:.1f} in the world, {gap.dream.returns[i]:.1f} in the dream")
        _one(part, gap, i, image, rows)
    return figure


def _one(part: SubFigure, gap: DreamGap, i: int, image: str | None, rows: int) -> None:
    grid = part.add_gridspec(rows, COLUMNS)
    strips = 0 if image is None else 2
    if image is not None:
        axes = [[part.add_subplot(grid[row, column]) for column in range(COLUMNS)] for row in range(strips)]
        _strips(axes, gap, i, image)
    courses = {"world": gap.world, "dream": gap.dream}
    traces = {which: [("reward", one.reward), *list(one.variables.items())[:TRACES]] for which, one in courses.items()}
    for row, (name, _) in enumerate(traces["world"]):
        axis = part.add_subplot(grid[strips + row, :])
        curves = []
        for which, one in courses.items():
            steps = int(one.lengths[i])
            x = gap.context + np.arange(steps)
            curves.append(Drawn(DREAM_LOOKS[which], x, traces[which][row][1][i, :steps].astype(np.float64)))
        last = strips + row == rows - 1
        draw_curves(axis, curves, STEP if last else "", label(name), legend=row == 0)
        axis.set_xlim(gap.context, gap.context + max(1, _steps(gap, i) - 1))
        axis.tick_params(labelbottom=last)


def _strips(axes: list[list[Axes]], gap: DreamGap, i: int, image: str) -> None:
    """Chosen steps of the world, and of the dream below."""
    steps = np.linspace(0, _steps(gap, i) - 1, COLUMNS).round().astype(int)
    for line, (which, one) in zip(axes, (("world", gap.world), ("dream", gap.dream)), strict=True):
        for axis, t in zip(line, steps, strict=True):
            axis.set(xticks=[], yticks=[])
            if one.running[i, t]:
                axis.imshow(as_rgb(one.obs[image][i, t]), interpolation="nearest")
            else:
                axis.set_axis_off()
        line[0].set_ylabel(which, color=DREAM_LOOKS[which].colour)
    for axis, t in zip(axes[0], steps, strict=True):
        axis.set_title(f"step {gap.context + t}", fontsize=8)


def _steps(gap: DreamGap, i: int) -> int:
    """Steps of a start that were taken in the world or in the dream."""
    return max(int(one.lengths[i]) for one in (gap.world, gap.dream))
