"""The parts of an evaluation, of which a run makes one from time to time while it trains.

An evaluator reports to the journal, and returns the scores that weights are compared by. Its random draws change no
others.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from worldmodel.data.batches import fitting_rows, longest_episode, select, trimmed
from worldmodel.data.replay import Replay
from worldmodel.evaluation.evidence import rough_evidence
from worldmodel.evaluation.held_out import Evaluation, evaluate, training_kl
from worldmodel.models.world_model import WorldModel
from worldmodel.training.journal import Journal
from worldmodel.training.learner import Learner
from worldmodel.training.metrics import evaluation_metrics
from worldmodel.training.pictures import show
from worldmodel.training.schedule import Schedule
from worldmodel.types import Batch

TRAINING_BATCHES = 4  # whose KL is drawn


@runtime_checkable
class Evaluator(Protocol):
    """One part of every evaluation of a run."""

    @property
    def stage(self) -> str:
        """What its seconds are counted under."""
        ...

    @property
    def words(self) -> str:
        """What is being done, for whoever waits."""
        ...

    def __call__(self, update: int, journal: Journal) -> Mapping[str, float]:
        """Measure the present weights, and report: -> scores by name, the higher the better."""
        ...


class HeldOutEvaluator:
    """Scores the held-out episodes, and draws the KL from every side."""

    stage, words = "evaluate", "scoring the held-out episodes"

    def __init__(
        self,
        learner: Learner[WorldModel],
        heldout: Batch,
        replay: Replay,
        schedule: Schedule,
        *,
        context: int,
        horizon: int,
        samples: int,
        seed: int,
    ) -> None:
        """Args:
        learner: of the world model.
        heldout: whole episodes, padded, on the learner's device.
        replay, schedule: what training sequences are drawn from, and how.
        context, horizon: of the open-loop errors; shorter where no episode is long enough.
        samples: imagined futures of each context.
        seed: of all noise.
        """
        self.learner, self.heldout, self.replay, self.schedule = learner, heldout, replay, schedule
        self.context, self.horizon = fitting_rows(longest_episode(heldout), (context, horizon))
        self.samples, self.seed = samples, seed
        self.evaluation: Evaluation | None = None  # the newest

    @property
    def imagines(self) -> bool:
        """Whether a held-out episode goes on after its first row, so that something can be imagined."""
        return longest_episode(self.heldout) >= self.context + self.horizon

    def __call__(self, update: int, journal: Journal) -> dict[str, float]:
        """Report and draw: -> `elbo`, in nats per step."""
        model, objective = self.learner.model, self.learner.objective
        evaluation = evaluate(
            model,
            objective,
            self.heldout,
            context=self.context,
            horizon=self.horizon,
            samples=self.samples,
            seed=self.seed,
        )
        self.evaluation = evaluation
        journal.scalars(update, evaluation_metrics(evaluation))
        generator = torch.Generator().manual_seed(self.seed)
        sequences = self.schedule.sample(self.replay, generator, TRAINING_BATCHES).to(model.device)
        kl = training_kl(model, objective, sequences, seed=self.seed)
        journal.scalars(update, {f"training_kl/{name}": value for name, value in kl.summary.items()})
        show(journal.pictures, update, journal.history, evaluation, kl)
        return {"elbo": evaluation.per_step["elbo"]}

    def loss(self) -> float:
        """The loss of the present weights on the beginnings of a few held-out episodes, which never change."""
        schedule = self.schedule
        batch = select(self.heldout, slice(schedule.batch_size), slice(schedule.sequence_length))
        generator = torch.Generator(self.learner.model.device).manual_seed(self.seed)
        return self.learner.loss(trimmed(batch), generator)


class RoughEvidenceSettings(NamedTuple):
    """How much of some episodes a rough estimate is made from; arguments of `rough_evidence`."""

    particles: int
    sequences: int
    rows: int
    seed: int


class EvidenceEvaluator:
    """A rough estimate of the evidence of held-out episodes, and of its gap to the bound."""

    stage, words = "evidence", "estimating the evidence"

    def __init__(self, model: WorldModel, heldout: Batch, settings: RoughEvidenceSettings) -> None:
        """Args:
        model: the world model.
        heldout: whole episodes, padded, on the model's device.
        settings: of the estimate.
        """
        self.model, self.heldout, self.settings = model, heldout, settings

    def __call__(self, update: int, journal: Journal) -> dict[str, float]:
        """Report; no weights are compared by it."""
        rough = rough_evidence(self.model, self.heldout, **self.settings._asdict())
        journal.scalars(update, {f"heldout_evidence/{name}": value for name, value in rough._asdict().items()})
        return {}
