"""Imagination as files: fans, films, heat maps of classes, the map of latents, and the scores. Writes nothing."""

import json
from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from worldmodel.evaluation.scenes import LatentMap, Scene, Scenes
from worldmodel.evaluation.scores import METRICS, Scores
from worldmodel.report import charts, vocabulary
from worldmodel.report.fans import class_chart, fan_chart
from worldmodel.report.figures import render
from worldmodel.report.films import film_gif, film_strip
from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW, TRUTH
from worldmodel.system.names import file_name, label


def imagination_files(scenes: Scenes, scores: Scores | None) -> dict[str, bytes]:
    """Everything there is to look at, by file name; without scores where nothing happened to compare with."""
    files = {"latents.png": render(latent_map(scenes.latents, scenes.context))}
    if scores is not None:
        files["scores.json"] = json.dumps(scores.as_json()).encode()
        files["scores.png"] = render(score_chart(scores))
    for (name, scene), stem in zip(scenes.leaves.items(), file_stems(scenes.leaves), strict=True):
        files |= _leaf_files(name, stem, scene, scenes.context)
    return files


def file_stems(names: Iterable[str]) -> list[str]:
    """Names as parts of file names, all different."""
    stems: list[str] = []
    for name in names:
        stems.append(file_name(name, stems))
    return stems


def _leaf_files(name: str, stem: str, scene: Scene, context: int) -> dict[str, bytes]:
    if scene.leaf.kind == "image":
        strip = render(film_strip(name, scene, context))
        return {f"film_{stem}.png": strip, f"film_{stem}.gif": film_gif(scene, context)}
    if name == "continue" or scene.leaf.is_numeric:
        return {f"fan_{stem}.png": render(fan_chart(name, scene, context))}
    return {f"classes_{stem}.png": render(class_chart(name, scene, context))}


def score_chart(scores: Scores) -> Figure:
    """Every score by horizon: a row for each leaf, a column for each metric, 90 % bootstrap intervals as bands."""
    figure = Figure(figsize=(4 * len(METRICS), 2.9 * len(scores.scores) + 0.9), layout="constrained")
    axes = figure.subplots(len(scores.scores), len(METRICS), squeeze=False)
    for line, (leaf, metrics) in zip(axes, scores.scores.items(), strict=True):
        for axis, metric in zip(line, METRICS, strict=True):
            if metric in metrics:
                charts.draw_score(axis, metric, metrics[metric])
                axis.set_title(f"{label(leaf)}: {vocabulary.score(metric).name}", fontsize=11)
            else:
                axis.remove()
    handles = {
        words: handle for axis in figure.axes for handle, words in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"Imagination scored on {scores.futures} futures of {scores.episodes} held-out episodes"
        f" ({scores.context} steps seen, {scores.samples} samples; bands: 90 % bootstrap over episodes)"
    )
    return figure


def latent_map(latents: LatentMap, context: int) -> Figure:
    """Imagined paths among the posterior states of the held-out episodes, a panel for each imagined episode."""
    episodes = latents.filtered.shape[0]
    figure = Figure(figsize=(4.6 * episodes + 0.6, 5.2), layout="constrained")
    axes = figure.subplots(1, episodes, squeeze=False, sharex=True, sharey=True)[0]
    for b, axis in enumerate(axes):
        axis.plot(
            *latents.posterior.T,
            ".",
            color=BASELINE,
            ms=3,
            alpha=0.4,
            mew=0,
            label="posterior states of the held-out episodes",
        )
        start = latents.filtered[b, context - 1]
        for n, path in enumerate(latents.imagined[:, b]):
            words = "imagined futures" if n == 0 else None
            axis.plot(*np.vstack([start, path]).T, color=RAW, lw=0.8, alpha=0.5, label=words)
        axis.plot(*latents.filtered[b].T, color=TRUTH, lw=1.2, label="what happened, filtered")
        axis.plot(*start, "o", color=OPTIMISED, ms=7, mec="white", zorder=5, label="last step seen")
        axis.set_title(f"held-out episode {b + 1}", fontsize=10)
        charts.name_axes(axis, f"first principal component ({latents.explained[0]:.0%} of the variance)", "")
    axes[0].set_ylabel(f"second ({latents.explained[1]:.0%})")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, markerscale=1.5)
    figure.suptitle("Imagination among the posterior states [deter, stoch]")
    return figure
