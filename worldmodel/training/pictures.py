"""The curves and pictures of an evaluation, handed to a tracker."""

from pathlib import Path

import numpy as np

from worldmodel.evaluation.held_out import Evaluation, KLDiagnostics
from worldmodel.training.history import KL_OVER_TRAINING, KL_PLACE, History
from worldmodel.training.tracking import Tracker


def show(tracker: Tracker, update: int, history: History, evaluation: Evaluation, training_kl: KLDiagnostics) -> None:
    """Hand a tracker the KL from every side, the bound's curves, reconstructed images and the open-loop errors.

    Args:
        tracker: takes them.
        update: the update they belong to.
        history: the metrics so far, and the images reconstructed so far; takes those of this evaluation too.
        evaluation: of the held-out episodes.
        training_kl: of training sequences.
    """
    from worldmodel.report import figures as report
    from worldmodel.report import films  # and so matplotlib, which opening a run does not need

    history.add_frames(update, evaluation.reconstructions)
    history.add_kl(update, training_kl.by_position)
    _kl_lines(tracker, update, evaluation, training_kl)
    tracker.lines(update, KL_OVER_TRAINING, history.kl_over_training())
    tracker.histogram(update, "heldout_kl/by_step", evaluation.kl.rows)
    tracker.histogram(update, "training_kl/by_step", training_kl.rows)
    surprise = evaluation.surprise
    overview = report.kl_overview(
        history.tables["kl"],
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
    tracker.image(
        update, "bound", report.render(report.bound_curves(history.tables["train"], history.tables["heldout"]))
    )
    for name, seen in evaluation.reconstructions.items():
        picture = films.sharpening(name, seen.truth, history.frames[name])
        tracker.image(update, f"reconstruction/{name}", report.render(picture))
    if evaluation.open_loop:
        errors = {name: [np.asarray(x) for x in error] for name, error in evaluation.open_loop.items()}
        tracker.image(update, "open_loop", report.render(report.open_loop_figure(errors)))
        for name, (model, repeat, mean) in errors.items():
            columns = {"steps ahead": np.arange(1, len(model) + 1), "model": model}
            tracker.lines(update, f"open_loop/{name}", {**columns, "repeat last": repeat, "data mean": mean})


def show_acting(tracker: Tracker, update: int, history: History) -> None:
    """Hand a tracker the charts of how a run acts, up to this update."""
    from worldmodel.report import figures as report  # and so matplotlib, which opening a run does not need
    from worldmodel.report.vocabulary import ACTING_CURVES

    curves = {metric: history.over_env_steps(metric) for chart in ACTING_CURVES.values() for metric in chart}
    tracker.image(update, "acting", report.render(report.acting_figure(curves)))


def show_files(tracker: Tracker, update: int, name: str, folder: Path) -> None:
    """Hand a tracker the pictures and films in a folder of the run, as NAME/STEM; what is beside a film of the same
    stem is its frames."""
    for path in sorted([*folder.glob("*.png"), *folder.glob("*.gif")]):
        beside = path.suffix == ".png" and path.with_suffix(".gif").exists()
        tracker.file(update, f"{name}/{path.stem}{'_frames' if beside else ''}", path)


def _kl_lines(tracker: Tracker, update: int, evaluation: Evaluation, training_kl: KLDiagnostics) -> None:
    surprise, since_reset = evaluation.surprise, evaluation.kl.by_episode_step
    by_position = {
        KL_PLACE: np.arange(len(training_kl.by_position)),
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
    tracker.lines(update, "kl/by_group", {KL_PLACE: by_position[KL_PLACE], **groups})
