"""A run's folder opened again: a trained model beside the episodes it is scored on.

    run = open_run("runs/pendulum-20260101-120000")
    dream = run.imagine(context=16, horizon=48, samples=16)
    run.write_imagination(samples=16)
    played = run.evaluate_policy(run.policy("mppi"), episodes=20)

`runs.folder` says what a run's folder holds.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from signal import Signals
from typing import Any, Literal

from gymnasium import Env, Space

from worldmodel import build, build_acting
from worldmodel.behaviour.actor_critic import ActorCritic
from worldmodel.behaviour.filtering import FilteredEnv
from worldmodel.behaviour.imagination import Dream, Start, branch, dream
from worldmodel.checks import require_positive
from worldmodel.config import Config
from worldmodel.config_acting import PLANNERS
from worldmodel.data.actions import action_sequences
from worldmodel.data.batches import at_once, long_enough, require_rows_of, select
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.evaluation.baselines import Baseline, fit_baselines
from worldmodel.evaluation.certificates import CONTEXT
from worldmodel.evaluation.episodes import Played, play
from worldmodel.evaluation.evidence import EvidenceReport, measure_evidence
from worldmodel.evaluation.held_out import Evaluation, evaluate
from worldmodel.evaluation.latents import Latents, infer_latents
from worldmodel.evaluation.rounds import side_by_side
from worldmodel.evaluation.scores import Scores, score_imagination
from worldmodel.evidence.estimate import RUNS
from worldmodel.models.world_model import WorldModel
from worldmodel.oracles.worlds import exact_evidence
from worldmodel.runs.environments import evaluation_environments, own_environment, row_reading
from worldmodel.runs.evidence import EVIDENCE_ROWS, pilot_episodes, scored_episodes, usual_particles, write_evidence
from worldmodel.runs.folder import read_settings, stored_data
from worldmodel.runs.given import EnvMaker, Given, require_given
from worldmodel.runs.imagination import futures_of, scenes_of
from worldmodel.runs.own_model import ModelMaker, make_model
from worldmodel.runs.step_kl import StepKL, step_kl
from worldmodel.seeding import Stream, make_generator
from worldmodel.system.files import make_own_folder, write_whole
from worldmodel.training.checkpoint import CheckpointError, load_agent, load_model, newest_sound, require_settings
from worldmodel.types import Batch, Policy

BASELINE_ROWS = 20_000  # training rows, at most, that baselines are fitted on


@dataclass(frozen=True)
class Run:
    """A trained model with the data it is scored on."""

    folder: Path
    config: Config
    model: WorldModel
    agent: ActorCritic | None = None
    """The actor and its critic, of a run that learns them."""
    ended_by: Signals | None = None
    """The signal that the training which returned this run was ended by, if one was: SIGINT (Ctrl-C) or SIGTERM."""

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        acts = ", with an actor" if self.agent is not None else ""
        return f"Run({str(self.folder)!r}: {self.config.env.id}, a world model of {count:,} parameters{acts})"

    def heldout(self) -> Batch:
        """The held-out episodes, whole, [B, T] padded."""
        _, heldout = stored_data(self.config, self.folder)
        return read_episodes(heldout, self.config.evaluation.max_length).to(self.model.device)

    def _given(self, batch: Batch | None) -> Batch:
        """The rows that are asked about, on the model's device: those given, or the held-out episodes."""
        if batch is None:
            return self.heldout()
        require_rows_of(self.model.spec, batch)
        return batch.to(self.model.device)

    def latents(self, batch: Batch | None = None, *, filtering: bool = False, seed: int = 0) -> Latents:
        """The states, posterior and prior of every row of whole episodes, for one draw of z_1:T.

        Args:
            batch: whole episodes; by default the held-out ones.
            filtering: also where the model's posterior smooths, let no row know what follows it.
            seed: of the draw.
        Raises:
            ValueError: if the rows are of another kind than the run's, or no whole episodes.
        """
        noise = make_generator(seed, stream=Stream.LATENTS, device=self.model.device)
        return infer_latents(self.model, self._given(batch), noise, filtering=filtering)

    def kl(self, batch: Batch | None = None, *, seed: int = 0) -> StepKL:
        """KL(posterior || prior) of every step of whole episodes, in nats; `plot` draws it, and so does a notebook.

        Arguments and errors as of `latents`.
        """
        batch = self._given(batch)
        return step_kl(self.latents(batch, seed=seed), batch, build.build_objective(self.config.loss, self.model.spec))

    def imagine(
        self,
        batch: Batch | None = None,
        *,
        start: Start | None = None,
        actions: Any = None,
        action_space: Space | None = None,
        context: int | None = None,
        horizon: int | None = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> Dream:
        """Filter `context` steps, then imagine `horizon` more under the recorded actions.

        With `start` and `actions`, imagine on from that state under these actions instead.

        Args:
            batch: rows to start from; by default the held-out episodes that are long enough.
            start: a state to branch from, such as `latents(...).at(row)` or `filter(env).start`.
            actions: [H, ...], or [B, H, ...] for B branches; see `data.actions.action_sequences`. Numbers of a
                continuous action lie in [-1, 1], the ends of the environment's range.
            action_space: the environment's own, in whose units the actions then are.
            context: steps seen; by default as in the run's evaluations, or as many as fit where no episode is that long
                (see `data.batches.fitting_rows`).
            horizon: steps imagined; by default likewise.
            samples: futures of each sequence; by default as in the run's evaluations.
            seed: of the samples.
        Returns:
            [samples, B, horizon, ...] states, and predictions by name in the units of the data.
        Raises:
            ValueError: if no episode has context + horizon rows, a number is not positive, or there are actions without
                a start or with rows.
        """
        noise = make_generator(seed, stream=Stream.IMAGINATION, device=self.model.device)
        if start is not None or actions is not None:
            if start is None or actions is None or any(one is not None for one in (batch, context, horizon)):
                raise ValueError("start, actions: expected both, in the place of batch, context and horizon")
            action = action_sequences(self.model.spec.action, actions, action_space).to(self.model.device)
            count = self.config.evaluation.samples if samples is None else samples
            return branch(self.model, start, action, samples=count, generator=noise)
        episodes = self._given(batch)
        futures = futures_of(self.config, episodes, context, horizon, samples)
        if batch is None:
            episodes = long_enough(episodes, futures.context + futures.horizon)
        return dream(self.model, episodes, **futures._asdict(), generator=noise)

    def filter(
        self, env: Env | None = None, *, seed: int = 0, log: Callable[[str], None] = lambda words: None
    ) -> FilteredEnv:
        """An environment to step by hand, every row of which the model filters: see `behaviour.filtering`.

        Args:
            env: an environment with the run's wrappers, frames and action repeat, if it has any; by default the run's
                own is made, which imports the modules that the run's settings name.
            seed: of the draws of z_t.
            log: told what making the run's own environment imports.
        Raises:
            ValueError: if its rows are of another kind than the run's.
        """
        noise = make_generator(seed, stream=Stream.LATENTS, device=self.model.device)
        env = own_environment(self.config, log) if env is None else env
        return FilteredEnv(env, self.model, reading=row_reading(self.config.env), generator=noise)

    def evaluate(self) -> Evaluation:
        """Score the held-out episodes: the bound, the KL of every step, the open-loop errors."""
        heldout = self.heldout()
        futures = futures_of(self.config, heldout)
        objective = build.build_objective(self.config.loss, self.model.spec)
        return evaluate(self.model, objective, heldout, **futures._asdict(), seed=self.config.evaluation.seed)

    def policy_name(self, name: str | None = None, **planner: Any) -> str:
        """Who acts if nobody is named: the run's actor; a planner if there is none or settings of one are given."""
        if name is not None:
            return name
        return self.config.planner.method if self.agent is None or planner else "actor"

    def policy(self, name: str | None = None, *, seed: int = 0, **planner: Any) -> Policy:
        """A policy for the run's environment: rows of N environments side by side -> actions.

        Args:
            name: "actor", which does as the run has learned, without exploring; "mppi" or "cem", which plan with the
                run's model, and its critic where it has one; or "random". See `policy_name` for the default.
            seed: of everything that is random in it.
            planner: settings of the search that differ from the run's, such as horizon=25.
        Raises:
            ValueError: if there is no such policy, the run has learned no actor, a setting is impossible or does not
                belong to the policy, or the model has not learned what planning needs.
        """
        name = self.policy_name(name, **planner)
        if name not in ("actor", "mppi", "cem", "random"):
            raise ValueError(f"policy: expected actor, mppi, cem or random, got {name!r}")
        if name in PLANNERS:
            settings = replace(self.config, planner=replace(self.config.planner, **{**planner, "method": name}))
            return build_acting.build_policy(settings, self.model, "planner", seed, self.agent)
        if planner:
            raise ValueError(f"{', '.join(planner)}: expected a policy that plans, got {name}")
        return build_acting.build_policy(
            self.config, self.model, "actor" if name == "actor" else "random", seed, self.agent
        )

    def evaluate_policy(
        self,
        policy: Policy,
        *,
        episodes: int = 20,
        seed: int = 0,
        log: Callable[[str], None] = lambda words: None,
        at: Callable[[str], None] = lambda words: None,
    ) -> Played:
        """Play whole episodes of the run's environment, whose starts are the same for every policy.

        Making the environment imports the modules that the run's settings name, which `log` is told before.

        Args:
            policy: `policy` makes some; any other `Policy` will do.
            episodes: how many, each from a start seed of its own.
            seed: decides the start seeds.
            log: told what making the environments imports.
            at: told how far it is.
        Raises:
            ValueError: if a number is out of range, or the environment is of other spaces than the run's rows are.
            EnvironmentFailureError: if an environment fails.
        """
        require_positive(episodes=episodes)
        make_generator(seed, stream=Stream.STARTS)
        with evaluation_environments(self.config, self.model.spec, side_by_side(episodes), log) as environments:
            return play(environments, policy, episodes=episodes, seed=seed, at=at)

    def baselines(self, horizon: int, *, seed: int = 0) -> dict[str, Baseline]:
        """What a forecast without a model knows from the training rows: see `evaluation.baselines`.

        Args:
            horizon: the longest step ahead.
            seed: of the choice of rows, where there are more than are used.
        Raises:
            FileNotFoundError: if the run's folder has no replay (any more).
        """
        choice = make_generator(seed, stream=Stream.SAMPLING)
        with Replay.open(stored_data(self.config, self.folder)[0], read_only=True) as replay:
            length = min(len(replay), 2 * (horizon + 1))
            rows = min(len(replay), BASELINE_ROWS, at_once(self.model.spec.width))
            batch = replay.sample(max(1, rows // length), length, choice)
        return fit_baselines(self.model, batch.to(self.model.device), horizon)

    def score(
        self,
        *,
        context: int | None = None,
        horizon: int | None = None,
        samples: int | None = None,
        seed: int = 0,
        episodes: int | None = None,
    ) -> Scores:
        """Score imagination on the held-out episodes, by horizon, beside baselines: see `evaluation.scores`.

        Args:
            context, horizon: as in `imagine`.
            samples: futures of each start; by default `evaluation.score_samples`.
            seed: of everything random.
            episodes: how many held-out episodes to score; by default all that are long enough.
        Raises:
            ValueError: if no episode has context + horizon rows, or a number is not positive.
            FileNotFoundError: as `baselines`.
        """
        whole = self.heldout()
        samples = self.config.evaluation.score_samples if samples is None else samples
        futures = futures_of(self.config, whole, context, horizon, samples)
        require_positive(**futures._asdict())
        if episodes is not None:
            require_positive(episodes=episodes)
        heldout = long_enough(whole, futures.context + futures.horizon)
        return score_imagination(
            self.model,
            select(heldout, slice(episodes)),
            self.baselines(futures.horizon, seed=seed),
            **futures._asdict(),
            generator=make_generator(seed, stream=Stream.IMAGINATION, device=self.model.device),
            resampling=make_generator(seed, stream=Stream.SAMPLING),
        )

    def evidence(
        self,
        particles: Sequence[int] | None = None,
        *,
        batch: Batch | None = None,
        runs: int = RUNS,
        episodes: int | None = None,
        seed: int = 0,
        allow_env: bool = False,
        context: int = CONTEXT,
        log: Callable[[str], None] = lambda words: None,
    ) -> EvidenceReport:
        """Measure the evidence of whole episodes, and how far the bound is from it: see `evaluation.evidence`.

        Args:
            particles: numbers of particles to measure with; by default 16 and 128, of images 2, 8 and 32.
            batch: the episodes, two or more; by default the held-out ones.
            runs: independent repetitions of every estimate.
            episodes: how many of them; by default as many as have 1,000 steps together (400 of images), two at least.
            seed: of all draws.
            allow_env: for the exact evidence, make an environment that is not one of this project's too, which imports
                the modules that the run's settings name.
            context: first steps, which have a gap and a certificate of their own, and after which, once filtered, the
                steps that follow have theirs; 0 for neither.
            log: told what is being done.
        Raises:
            ValueError: if a number is out of range, there is a single episode, or the rows are of another kind than the
                run's, or no whole episodes.
        """
        batch = scored_episodes(self.model, self._given(batch), episodes, EVIDENCE_ROWS)
        law = build.build_law(self.config, allow_env=allow_env, log=log)
        return measure_evidence(
            self.model,
            batch,
            particles=particles or usual_particles(self.model),
            runs=runs,
            seed=seed,
            pilot=pilot_episodes(self.config, self.folder, self.model),
            exact=None if law is None else exact_evidence(law, batch.to("cpu"))["total"],
            context=context,
            log=log,
        )

    def scored(self, episodes: int | None) -> Batch:
        """The held-out episodes that evidence is measured on: as many as are asked for, or as have enough rows.

        Raises:
            ValueError: for less than two.
        """
        return scored_episodes(self.model, self.heldout(), episodes)

    def write_evidence(self, report: EvidenceReport) -> Path:
        """Write what `evidence` measured to RUN/evidence, as evidence.json and evidence.png: -> that folder."""
        return write_evidence(self.folder, report)

    def write_imagination(
        self,
        *,
        context: int | None = None,
        horizon: int | None = None,
        samples: int | None = None,
        seed: int = 0,
        episodes: int | None = None,
        policy: Literal["recorded", "random"] = "recorded",
    ) -> Path:
        """Imagine on from held-out episodes, score it, draw it, and write it all into the run's folder.

        Args:
            context: steps seen; by default as in the run's evaluations, or fewer where no episode is that long.
            horizon: steps imagined; by default likewise.
            samples: futures of each start; by default as in the run's evaluations.
            seed: of everything random.
            episodes: how many held-out episodes to score; by default all that are long enough.
            policy: imagine under the recorded actions; or under random ones, after which nothing really happened:
                pictures go on without truth, and there are no scores.
        Returns:
            The folder: RUN/imagination, or RUN/imagination/random for a random policy. What is there is replaced.
        Raises:
            ValueError: if no episode is long enough, or a number is not positive; nothing is written then.
            FileNotFoundError: if the run's folder has no replay (any more), which the baselines are fitted on.
        """
        # And so matplotlib, which opening a run does not need.
        from worldmodel.report.imagination import imagination_files

        folder = self.folder / "imagination"
        if policy == "random":
            folder, scores = folder / "random", None
        else:
            scores = self.score(context=context, horizon=horizon, samples=samples, seed=seed, episodes=episodes)
        scenes = scenes_of(self.config, self.model, self.heldout(), policy, context, horizon, samples, seed=seed)
        files = imagination_files(scenes, scores)
        make_own_folder(self.folder / "imagination")
        make_own_folder(folder)
        for name, content in files.items():
            write_whole(folder / name, content)
        return folder


def write_report(folder: Path, output: Path | None = None) -> tuple[str, ...]:
    """Write a run's page from what is in its folder: -> what was damaged there and left out.

    Args:
        folder: the run's folder, finished or not.
        output: the page, or a link or a device that it is written through; RUN/report.html by default.
    Raises:
        FileNotFoundError, ValueError: if the folder is not a run's, or has no metrics.
    """
    from worldmodel.report.page import page  # and so matplotlib
    from worldmodel.report.record import read_record

    record = read_record(folder)
    html = page(record, asdict(Config()))
    if output is None:
        write_whole(folder / "report.html", html)
    else:
        output.write_text(html, encoding="utf-8")
    return record.notes


def open_run(
    folder: str | Path,
    checkpoint: str | None = None,
    device: str = "cpu",
    *,
    env: EnvMaker | None = None,
    model: ModelMaker | WorldModel | None = None,
    allow_code: bool = False,
) -> Run:
    """Open a run's folder. It imports nothing that the run's settings name, unless `allow_code` says so.

    Args:
        folder: the run's folder, as `train` made it.
        checkpoint: best, last or previous; by default the best, or the newest of the others where that is missing or,
            with a warning, damaged.
        device: a torch device for the model, or auto.
        env: what `train` was given, if anything; only what plays in the environment needs it.
        model: likewise, or what makes the model that the settings name: a function (settings, spec), or a world model.
        allow_code: import what the run's settings name to make a model that is not this project's.
    Raises:
        FileNotFoundError: if the folder is not a run's.
        CheckpointError: if there is no checkpoint, the one asked for is damaged, or it was written under other settings
            than config.yaml has.
        ValueError: if config.yaml is damaged, or the model is made by code that is neither this project's, given nor
            allowed.
    """
    folder = Path(folder)
    config = read_settings(folder)
    require_given(config, folder, Given(None, env, model), allow_code=allow_code)
    names = ("best", "last", "previous") if checkpoint is None else (checkpoint,)
    paths = [folder / "checkpoints" / f"{name}.safetensors" for name in names]
    found, complaints = newest_sound(paths)
    if found is None:
        raise CheckpointError(complaints[0] if complaints else f"{paths[0]}: expected a checkpoint, found no file")
    for complaint in complaints:
        warnings.warn(f"{complaint}; using {found.path} instead", stacklevel=2)
    require_settings(found, build.lasting_settings(config), build.unnamed_settings())
    with Replay.open(stored_data(config, folder)[1], read_only=True) as heldout:
        made = make_model(config, heldout.spec, model)
    load_model(found, made)
    made = made.to(build.build_device(device)).eval()
    if (agent := build_acting.build_agent(config, made)) is not None:
        load_agent(found, agent)
    return Run(folder, config, made, agent)
