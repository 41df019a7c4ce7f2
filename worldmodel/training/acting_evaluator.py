"""How a run acts by now: whole episodes of its present policy, what they earn, and how well the model knows them."""

from collections.abc import Callable

from worldmodel.behaviour.actor_critic import ActorCritic
from worldmodel.data.batches import trimmed
from worldmodel.data.environment import Environments
from worldmodel.evaluation.evidence import rough_evidence
from worldmodel.evaluation.own_episodes import collect_episodes, judge
from worldmodel.evaluation.plan_forecast import PlanForecast
from worldmodel.models.world_model import WorldModel
from worldmodel.training.evaluators import RoughEvidenceSettings
from worldmodel.training.journal import Journal
from worldmodel.training.learner import Learner
from worldmodel.training.pictures import show_acting
from worldmodel.types import Policy


class ActingEvaluator:
    """Plays episodes with the present policy, which does not explore, from the same starts each time."""

    stage, words = "play", "playing"

    def __init__(
        self,
        learner: Learner[WorldModel],
        agent: ActorCritic | None,
        policy: Callable[[], Policy],
        environments: Environments,
        *,
        episodes: int,
        discount: float,
        rough: RoughEvidenceSettings | None,
        seed: int,
    ) -> None:
        """Args:
        learner: of the world model.
        agent: the actor and its critic where these act.
        policy: makes the present policy, without memory of earlier episodes.
        environments: that it plays in.
        episodes: how many.
        discount: the critic's.
        rough: of an estimate of the episodes' evidence, if there is to be one.
        seed: of the starts and of all noise.
        """
        self.learner, self.agent, self.policy, self.environments = learner, agent, policy, environments
        self.episodes, self.discount, self.rough, self.seed = episodes, discount, rough, seed

    def __call__(self, update: int, journal: Journal) -> dict[str, float]:
        """Report: -> `return`, the mean over episodes, in reward units."""
        model = self.learner.model
        policy = self.policy()
        forecast = PlanForecast.of(policy, self.seed)
        played = collect_episodes(self.environments, policy, episodes=self.episodes, seed=self.seed, forecast=forecast)
        episodes = trimmed(played.to(model.device))
        reward = episodes.reward * episodes.valid
        returns, lengths = reward.sum(1), (episodes.valid.sum(1) - 1).float()
        value = None if self.agent is None else self.agent.value
        judged = judge(model, episodes, seed=self.seed, value=value, discount=self.discount)
        values = {
            "acting/return": returns.mean().item(),
            "acting/median_return": returns.quantile(0.5).item(),
            "acting/least_return": returns.min().item(),
            "acting/length": lengths.mean().item(),
            **{f"acting_heldout/{name}": value for name, value in judged.bound.items()},
        }
        for one in judged.ending:
            values |= {f"acting_ending/{one.least:g}/{name}": getattr(one, name) for name in one._fields[1:]}
        if judged.calibration is not None:
            values["acting/predicted_return"] = judged.calibration.predicted.mean().item()
            values["acting/discounted_return"] = judged.calibration.real.mean().item()
        if forecast is not None:
            real = forecast.real(reward[:, 1:].T.double().cpu().numpy())
            values["acting/predicted_return"] = float(forecast.predicted.mean())
            values["acting/discounted_return"] = float(real.mean())
        if self.rough is not None:
            found = rough_evidence(model, episodes, **self.rough._asdict())
            values |= {f"acting_evidence/{name}": value for name, value in found._asdict().items()}
        journal.scalars(update, values)
        journal.pictures.histogram(update, "acting/returns", returns.cpu().numpy())
        show_acting(journal.pictures, update, journal.history)
        return {"return": values["acting/return"]}
