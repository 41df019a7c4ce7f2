"""An evaluation -> the curves and pictures that trackers keep."""

from collections.abc import Mapping

import numpy as np

from worldmodel.training.evaluation import Evaluation, KLDiagnostics
from worldmodel.training.tracking import Tracker

History = Mapping[str, Mapping[str, list[float]]]


def show(tracker: Tracker, update: int, history: History, evaluation: Evaluation, training_kl: KLDiagnostics) -> None:
    """Hand a tracker the KL from every side, the bound's curves and the open-loop errors.

    Args:
        tracker: takes them.
        update: the update they belong to.
        history: tables `kl`, `train` and `heldout` of columns so far, each with a column `update`.
        evaluation: of the held-out episodes.
        training_kl: of training sequences.
    """
    from worldmodel.report import figures as report  # and so matplotlib, which opening a run does not need

    _kl_lines(tracker, update, evaluation, training_kl)
    surprise = evaluation.surprise
    overview = report.kl_overview(
        history["kl"],
        training_kl.by_position,
        training_kl.optimised_by_position,
        evaluation.kl.by_episode_step,
        training_kl.heat_map,
        surprise.kl,
        surprise.optimised_kl,
        surprise.reward,
    )
    tracker.image(update, "kl/overview", report.render(overview))
    tracker.image(update, "kl/heat_map", report.render(report.kl_heat_map(training_kl.heat_map)))
    tracker.image(update, "bound", report.render(report.bound_curves(history["train"], history["heldout"])))
    if evaluation.open_loop:
        errors = {name: [np.asarray(x) for x in error] for name, error in evaluation.open_loop.items()}
        tracker.image(update, "open_loop", report.render(report.open_loop_figure(errors)))
        for name, (model, repeat, mean) in errors.items():
            columns = {"steps ahead": np.arange(1, len(model) + 1), "model": model}
            tracker.lines(update, f"open_loop/{name}", {**columns, "repeat last": repeat, "data mean": mean})


def _kl_lines(tracker: Tracker, update: int, evaluation: Evaluation, training_kl: KLDiagnostics) -> None:
    surprise, since_reset = evaluation.surprise, evaluation.kl.by_episode_step
    by_position = {
        "row of the sequence": np.arange(len(training_kl.by_position)),
        "raw": training_kl.by_position,
        "as optimised": training_kl.optimised_by_position,
    }
    along_episode = {
        "step of the episode": np.arange(len(surprise.kl)),
        "KL, raw": surprise.kl,
        "KL, as optimised": surprise.optimised_kl,
        "reward": surprise.reward,
    }
    tracker.lines(update, "kl/by_position", by_position)
    tracker.lines(
        update, "kl/by_episode_step", {"steps since the reset": np.arange(len(since_reset)), "raw": since_reset}
    )
    tracker.lines(update, "kl/surprise", along_episode)
    groups = {f"group {s}": row for s, row in enumerate(training_kl.heat_map)}
    tracker.lines(update, "kl/by_group", {"row of the sequence": by_position["row of the sequence"], **groups})
