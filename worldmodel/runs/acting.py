"""What a run that acts shows at its end: its actor beside a planner, its policy on film, its dream beside the world."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from worldmodel.config import Config
from worldmodel.evaluation.dream_gap import DreamGap
from worldmodel.evaluation.episodes import summary
from worldmodel.report import vocabulary
from worldmodel.report.formats import counted
from worldmodel.runs.dream_film import CONTEXT, DREAM, STEPS, film_gap
from worldmodel.runs.dream_gap import measure_dream_gap
from worldmodel.runs.play import film_play, write_film
from worldmodel.runs.run import Run
from worldmodel.training.progress import Watch
from worldmodel.training.tracking import Tracker

EPISODES = 5  # that the best and the median are chosen from
COMPARED = 10  # episodes that the actor and a planner play, from the same starts
ROWS = 500  # of an episode that are filmed, at most


def acts(config: Config) -> bool:
    """Whether a run's policy plays in an environment, and is evaluated."""
    return config.acting.policy != "random" and config.offline is None and config.evaluation.acting_episodes > 0


def write_acting(run: Run, tracker: Tracker, update: int, progress: Watch) -> None:
    """Write RUN/play/POLICY.gif, RUN/play/dream.gif and figures/acting_dream.png, and hand them to a tracker.

    What cannot be made is left out with a sentence, such as the film of an environment that does not render.

    Args:
        run: one that acts.
        tracker: takes films and picture.
        update: they belong to.
        progress: told how far it is, and what was left out.
    """
    with _or_left_out("film of the policy", progress):
        _film(run, tracker, update, progress)
    with _or_left_out("dream beside the world", progress):
        gap = _dream(run, tracker, update, progress)
        with _or_left_out("film of the dream", progress):
            _dream_film(run, gap, tracker, update, progress)


def compare_with_planner(run: Run, tracker: Tracker, update: int, progress: Watch) -> None:
    """Report what an actor earns, and what planning in the same model earns from the same starts.

    Args:
        run: one with an actor.
        tracker: takes the returns, `final_return/POLICY/...`.
        update: they belong to.
        progress: told how far it is, and the means.
    """
    episodes, words = min(COMPARED, run.config.evaluation.acting_episodes), []
    with _or_left_out("planner beside the actor", progress):
        for name in ("actor", run.config.planner.method):
            policy = run.policy(name, seed=_seed(run))
            played = run.evaluate_policy(policy, episodes=episodes, seed=_seed(run), at=progress.at)
            found = {part: value for part, value in summary(played.returns)._asdict().items() if np.isfinite(value)}
            tracker.scalars(update, {f"{vocabulary.FINAL}{name}/{part}": value for part, value in found.items()})
            words.append(f"{name} {found['mean']:.1f}")
        progress.log(f"the best weights earn, over the same {counted(episodes, 'start')}: {', '.join(words)}")


@contextmanager
def _or_left_out(words: str, progress: Watch) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever an environment's own rendering raises: the run is trained and saved
        progress.log(f"no {words}: {str(error) or type(error).__name__}")


def _film(run: Run, tracker: Tracker, update: int, progress: Watch) -> None:
    policy = run.config.acting.policy
    gif = film_play(run, policy, episodes=_episodes(run), seed=_seed(run), rows=ROWS, at=progress.at)
    tracker.file(update, f"play/{policy}", write_film(run, policy, None, gif))


def _dream(run: Run, tracker: Tracker, update: int, progress: Watch) -> DreamGap:
    from worldmodel.report.dream_traces import dream_figure  # and so matplotlib, which opening a run does not need
    from worldmodel.report.figures import render

    gap = measure_dream_gap(
        run,
        run.config.acting.policy,
        episodes=_episodes(run),
        context=CONTEXT,
        steps=STEPS,
        seed=_seed(run),
        at=progress.at,
    )
    tracker.image(update, "acting/dream", render(dream_figure(gap)))
    return gap


def _dream_film(run: Run, gap: DreamGap, tracker: Tracker, update: int, progress: Watch) -> None:
    film = write_film(run, DREAM, None, film_gap(run, gap, run.config.acting.policy, at=progress.at))
    tracker.file(update, f"play/{DREAM}", film)


def _episodes(run: Run) -> int:
    return min(EPISODES, run.config.evaluation.acting_episodes)


def _seed(run: Run) -> int:
    return run.config.evaluation.seed
