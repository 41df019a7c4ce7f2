"""The training loop: collect, sample, step, log if due, evaluate if due, save if due."""

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.data.guard import EnvironmentFailureError
from worldmodel.data.records import RESTORE, DamagedReplayError
from worldmodel.data.replay import Replay
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.held_out import Evaluation
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import restore_generator
from worldmodel.training.checkpoint import POLICY, RANDOM, WORLD, Checkpoint, part_of_rank, said_of, save_checkpoint
from worldmodel.training.divergence import require_finite_weights, require_sound_loss
from worldmodel.training.evaluators import Evaluator, HeldOutEvaluator
from worldmodel.training.history import History
from worldmodel.training.interruptions import AbandonedError, Interruptions
from worldmodel.training.journal import Journal
from worldmodel.training.learner import AnyLearner, AnyUpdate, Learner
from worldmodel.training.metrics import Made, Pace, RecentUpdates, made_of, metric_name, training_metrics
from worldmodel.training.prefill import fit_to_prefill
from worldmodel.training.processes import ALONE, Processes
from worldmodel.training.progress import RunProgress
from worldmodel.training.read_ahead import WORTH_A_THREAD, ReadAhead
from worldmodel.training.resources import Resources
from worldmodel.training.schedule import Schedule
from worldmodel.training.stages import Stages
from worldmodel.training.tracking import Tracker
from worldmodel.types import Batch, SavedPolicy

FAILED = 63  # what processes agree on, beside the numbers of signals: an environment of one of them has failed


class Trainer:
    """Runs learners over rollouts: the loop and its counters, and the checkpoints that it saves and goes back to.

    Every learner takes one step on each batch: the world model's first, then the others in their order.
    """

    def __init__(
        self,
        learner: Learner[WorldModel],
        rollout: Rollout | None,
        replay: Replay,
        heldout: HeldOutEvaluator,
        tracker: Tracker,
        progress: RunProgress,
        *,
        folder: Path,
        schedule: Schedule,
        randomness: Mapping[str, torch.Generator],
        settings: Mapping[str, Any],
        evaluators: Sequence[Evaluator] = (),
        best_by: str = "elbo",
        stages: Stages | None = None,
        history: History | None = None,
        interruptions: Interruptions | None = None,
        others: Mapping[str, AnyLearner] | None = None,
        processes: Processes = ALONE,
        update: Callable[[Batch], Made] | None = None,
    ) -> None:
        """Args:
        learner: of the world model.
        rollout, replay: where rows come from and where they are kept. Without a rollout no rows are collected.
        heldout: evaluates the held-out episodes, the first in every evaluation.
        tracker, progress: where numbers go.
        folder: the run's folder; checkpoints are made in it.
        schedule: when things happen.
        randomness: every generator whose state belongs to the run, but for the policy's, which a `SavedPolicy` keeps;
            `sampling` decides which sequences are drawn.
        settings: stored in every checkpoint; it can be resumed under the same ones only.
        evaluators: the others, in their order.
        best_by: the score, of any evaluator, by which the best weights are chosen.
        stages: seconds spent per stage.
        history: of earlier sessions.
        interruptions: signals that came before, and those that come while it runs.
        others: learners beside the world model's, by the names of their parts of a checkpoint.
        processes: those that share the training.
        update: takes a step of every learner on a batch; each learner's own `update`, in their order, if None.
        """
        if taken := sorted({WORLD, POLICY, RANDOM} & (others or {}).keys()):
            raise ValueError(f"others: expected names of learners that no other part has, got {', '.join(taken)}")
        self.learner, self.rollout, self.replay = learner, rollout, replay
        self.heldout, self.evaluators, self.best_by = heldout, (heldout, *evaluators), best_by
        self.learners: dict[str, AnyLearner] = {WORLD: learner, **(others or {})}
        self.tracker, self.progress, self.folder, self.schedule = tracker, progress, folder, schedule
        self.randomness, self.settings = randomness, settings
        self.stages = stages or Stages()
        self.interruptions = interruptions or Interruptions()
        self.journal = Journal(tracker, history or History(), self.interruptions.holding)
        self.updates = 0  # in all, those of earlier sessions included
        self.best = -np.inf  # score by now
        self.scores: Mapping[str, float] = {}  # of the newest evaluation
        self.first_loss: float | None = None  # of the weights of the run's first checkpoint
        self._evaluated: int | None = None  # the update of the newest evaluation, those of earlier sessions included
        self._ready = False  # whether the prefill is over, so that there is something to save
        self._take_steps = self._one_by_one if update is None else update
        self._report_anew()
        self._share(processes)

    def _report_anew(self) -> None:
        self._last: Mapping[str, AnyUpdate] = {}  # the newest update of every learner
        self._recent = RecentUpdates()
        self._failures_told = 0
        self._pace = Pace()
        self._resources = Resources(self.learner.model.device)

    def _share(self, processes: Processes) -> None:
        self.processes = processes
        self._count_elsewhere()
        self._agreed = 0  # why all processes stop: a signal's number or FAILED
        self._failure: EnvironmentFailureError | None = None  # of this process's environments

    def _count_elsewhere(self) -> None:
        own = 0 if self.rollout is None else self.replay.rows_written  # stored rows are the same in all
        self._elsewhere = self.processes.total(own) - own  # rows of the others

    @property
    def env_steps(self) -> int:
        """Rows collected in all, those of earlier sessions and of other processes included."""
        return self.replay.rows_written + self._elsewhere

    @property
    def _saved_policy(self) -> SavedPolicy | None:
        """The rollout's policy, if it keeps memory."""
        policy = None if self.rollout is None else self.rollout.policy
        return policy if isinstance(policy, SavedPolicy) else None

    @property
    def _best_counter(self) -> str:
        return f"best_{self.best_by}"

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest of the held-out episodes in this session."""
        return self.heldout.evaluation

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint of this run; call it before `run`.

        Everything is restored. Only a random generator whose state is of another kind of device starts anew from the
        seed, with a message.

        Raises:
            CheckpointError: if it is of a model of another shape.
            DamagedReplayError: if the replay holds fewer rows than when it was written.
        """
        counters = checkpoint.counters
        if self.env_steps < counters["env_steps"]:
            raise DamagedReplayError(
                f"{self.replay.folder}: expected at least the {counters['env_steps']} rows that {checkpoint.path} was "
                f"made after, found {self.env_steps}: {counters['env_steps'] - self.env_steps} are missing; {RESTORE}"
            )
        with said_of(checkpoint.path):
            for name, learner in self.learners.items():
                learner.restore(checkpoint.part(name), counters["updates"])
            own = checkpoint.of_rank(self.processes.rank)
            if own is not None:  # a process that was not there before begins with seeds of its own
                self._restore_own(own)
        self.updates, self._ready = counters["updates"], True
        self.first_loss = counters.get("first_loss")  # checkpoints did not always have it
        best = counters.get(self._best_counter)
        self.best = -np.inf if best is None else best
        self._evaluated = counters.get("evaluated")
        for stage, seconds in counters["seconds"].items():
            self.stages.seconds[stage] = self.stages.seconds.get(stage, 0.0) + seconds

    def _restore_own(self, checkpoint: Checkpoint) -> None:
        """Go back to the random states and the policy that this process had."""
        if self._saved_policy is not None:
            self._saved_policy.restore(checkpoint.part(POLICY))
        random = checkpoint.part(RANDOM)
        for name, generator in self.randomness.items():
            if name not in random:
                raise ValueError(f"expected the random state of {name}, got only {', '.join(sorted(random))}")
            if not restore_generator(generator, random[name]):
                words = f"the random state of {name} is another kind of device's: drawing goes on from the seed"
                self.progress.log(words)

    def run(self) -> bool:
        """Train until the last update, or until Ctrl-C or SIGTERM: -> whether nobody asked it to stop.

        After Ctrl-C the run is saved and evaluated; after SIGTERM it is saved and nothing else is done. Several
        processes do the same at the same update, whichever of them was asked.

        Raises:
            NonFiniteLossError: if the run has diverged; the newest checkpoint is from before.
            EnvironmentFailureError: if an environment fails, of any process; a checkpoint is written first.
            LostProcessError: if another process has ended.
        """
        with self.progress.training(), self.interruptions:
            for learner in self.learners.values():
                self.processes.equalise(learner.model)
            with suppress(AbandonedError):
                self._prefill()
                self._train()
                if self.updates and not self._only_saves:
                    self._finish()
            if self._only_saves and self._ready:
                self._count_elsewhere()  # in the last step not every process may have collected a row
                self._log_what_is_left()
                self._save("last")
        if self._agreed == FAILED:
            raise self._failure or EnvironmentFailureError("an environment of another process failed; see its words")
        return not self.interruptions.requested

    def _train(self) -> None:
        self._pace = Pace(self.env_steps, self.updates)
        self._resources = Resources(self.learner.model.device)
        with ReadAhead(partial(self.schedule.draw, self.replay), self.randomness["sampling"]) as batches:
            self._update_as_paid(batches)

    def _update_as_paid(self, batches: ReadAhead) -> None:
        schedule = self.schedule
        while not self._asked_to_stop() and not self._complete():
            if self.updates >= (paid := self._updates_paid()):
                self._collect()
                continue
            size = schedule.sequences_of(self.updates + 1) * schedule.sequence_length * self.replay.row_type.itemsize
            ahead = self.updates + 1 < paid and size >= WORTH_A_THREAD  # before the next row is written
            with self.stages("sample"):
                batch = batches.next(self.updates, ahead=ahead).to(self.learner.model.device)
            with self.stages("update"):
                self._update(batch)
            self.progress.updated(self.updates)
            if self._due(schedule.log_every):
                self._log()
            if self._due(schedule.evaluate_every):
                self._evaluate()
            if self._due(schedule.save_every):
                self._save("last")

    def _update(self, batch: Batch) -> None:
        made = self._take_steps(batch)
        self.updates += 1
        self._last = made.updates
        self._recent.add(made)

    def _one_by_one(self, batch: Batch) -> Made:
        updates: dict[str, AnyUpdate] = {}
        for name, learner in self.learners.items():
            updates[name] = learner.update(batch, updates)
        return made_of(updates)

    def _asked_to_stop(self) -> bool:
        """Whether all processes stop now. They agree on it here alone, and so make the same sums at the same places."""
        failed = 0 if self._failure is None else FAILED
        self._agreed = self.interruptions.agreed(self.processes.greatest, instead=failed)
        return self._agreed > 0

    @property
    def _only_saves(self) -> bool:
        """Whether there is to be no evaluation any more, but a checkpoint."""
        return self._agreed in (signal.SIGTERM, FAILED)

    def _complete(self) -> bool:
        rows = self.rollout is None or self.env_steps >= self.schedule.env_steps
        return rows and self.updates >= self.schedule.total_updates

    def _updates_paid(self) -> int:
        """How many updates the rows so far pay for; all of them where no rows are collected."""
        total = self.schedule.total_updates
        return total if self.rollout is None else min(total, self.schedule.updates_paid(self.env_steps))

    def _prefill(self) -> None:
        while not self._asked_to_stop() and self._lacks_rows():
            self._collect("prefill")
        if self._agreed:
            return
        if not self._ready:
            fit_to_prefill(self.replay, self.learner.model, self.processes)
            self._ready = True
            self._save("last")

    def _lacks_rows(self) -> bool:
        """Whether rows are to be collected before any update: the prefill, and a sequence in every process."""
        if self.rollout is None or self._complete():
            return False
        too_few = len(self.replay) < self.schedule.sequence_length
        return self.env_steps < self.schedule.prefill or self.processes.greatest(int(too_few)) > 0

    def _collect(self, stage: str = "collect") -> None:
        assert self.rollout is not None
        with self.stages(stage):
            try:
                with self.interruptions.abandoning(signal.SIGTERM):  # a step may take long
                    rows = self.rollout.step()
            except AbandonedError:
                return
            except EnvironmentFailureError as error:
                self._failure = error
                return
            self.replay.append(rows)
            self._elsewhere += (self.processes.world - 1) * len(rows.reward)  # every process has as many environments
        self.progress.collected(self.env_steps)
        failures = self.rollout.environments.failures
        for words in failures[self._failures_told :]:
            self.progress.log(f"restarted: {words}")
        self._failures_told = len(failures)

    def _due(self, every: int) -> bool:
        return self.updates % every == 0

    def _log(self) -> None:
        """Read the metrics of all updates since the last log, check them, and pass on their means."""
        columns = self._recent.read(self.updates, self._checkpoints)
        self._recent.clear()
        values = training_metrics(columns, self._last)
        values |= {"env_steps": self.env_steps, **self._pace.metrics(self.env_steps, self.updates)}
        values |= self.stages.metrics() | self._resources.metrics()
        if self.rollout is not None:
            values["env_restarts"] = self.processes.total(len(self.rollout.environments.failures))
        self.journal.scalars(self.updates, values)
        self.progress.trained(self.env_steps, self.updates, values["train/elbo"], values["train/kl"])

    def _log_what_is_left(self) -> None:
        if self._recent:
            self._log()

    def _evaluate(self) -> None:
        """Evaluate, in the process that writes; the others wait for its score."""
        self._log_what_is_left()
        self.scores = self._score() if self.processes.writes else {}
        if self._asked_to_stop() and self._only_saves:
            raise AbandonedError(signal.SIGTERM)
        self.progress.evaluated(self.scores)
        own = str(self.scores[self.best_by]) if self.processes.writes else ""
        score = float(self.processes.exchange(own.encode())[0])
        if score >= self.best and np.isfinite(score):  # of equals the newest: a bounded return says no more than that
            self.best = score
            self._save("best")
        if np.isfinite(self.best):
            self.journal.scalars(self.updates, {f"best/{self.best_by}": self.best})
        self._evaluated = self.updates

    def _score(self) -> dict[str, float]:
        """What the evaluators found; in part where they were stopped."""
        scores: dict[str, float] = {}
        try:
            with self.interruptions.abandoning(signal.SIGTERM):
                for evaluator in self.evaluators:
                    with self.stages(evaluator.stage), self.progress.phase(evaluator.words):
                        scores |= evaluator(self.updates, self.journal)
        except AbandonedError:
            pass
        except EnvironmentFailureError as error:
            self._failure = error
        return scores

    def _finish(self) -> None:
        self._save("last")  # first: an evaluation takes long, and a second Ctrl-C stops it
        if self._evaluated != self.updates:
            self._evaluate()
            self._save("last")  # again, with the best bound so far in its counters
        if self.evaluation is not None:
            self.report_times()

    def report_times(self) -> None:
        """Report how long each stage has taken by now."""
        self.journal.scalars(self.updates, self.stages.metrics())

    def _save(self, name: str) -> None:
        """Write a checkpoint, unless the run has diverged."""
        self._recent.read(self.updates, self._checkpoints)
        self._check_weights()
        counters = {
            "updates": self.updates,
            "env_steps": self.env_steps,
            self._best_counter: self.best if np.isfinite(self.best) else None,
            "evaluated": self._evaluated,
            "first_loss": self.first_loss,
            "seconds": self.stages.seconds,
        }
        with self.stages("save"), self.progress.phase("saving"):
            self.replay.flush()  # before the checkpoint that counts its rows
            parts = self._parts()
            if self.processes.writes:
                path = self._checkpoints / f"{name}.safetensors"
                save_checkpoint(path, parts, counters, self.settings, keep_previous=name == "last")

    def _parts(self) -> dict[str, Mapping[str, torch.Tensor]]:
        """The state of everything that has one, by the name of its part of a checkpoint."""
        parts: dict[str, Mapping[str, torch.Tensor]] = {name: one.state() for name, one in self.learners.items()}
        own = {RANDOM: {name: generator.get_state() for name, generator in self.randomness.items()}}
        if self._saved_policy is not None:
            own[POLICY] = self._saved_policy.state()
        tensors = {f"{part}/{name}": x for part, state in own.items() for name, x in state.items()}
        _, *others = self.processes.exchange_tensors(tensors)
        return parts | own | {part_of_rank(rank): state for rank, state in enumerate(others, 1)}

    def _check_weights(self) -> None:
        """Raise if the run has diverged; see `divergence`. The noise comes from a stream of its own."""
        learners = self.learners.items()
        weights = {metric_name(name, key): p for name, one in learners for key, p in one.model.named_parameters()}
        require_finite_weights(weights, self.updates, self._checkpoints)
        loss = self.heldout.loss()
        first = loss if self.first_loss is None else self.first_loss
        require_sound_loss(loss, first, self.updates, self._checkpoints)
        self.first_loss = first
