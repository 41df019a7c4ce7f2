"""Settings -> what acts: policies, planners, actor and critic, and what learns and evaluates them."""

from dataclasses import replace
from typing import Literal

import torch

from worldmodel.behaviour.acting import Chooser, FilteringPolicy, Planning, Reflexes, Successor
from worldmodel.behaviour.action_distributions import ActionFamily
from worldmodel.behaviour.actor_critic import Actor, ActorCritic
from worldmodel.behaviour.critic import Critic
from worldmodel.behaviour.planner import CEM, MPPI, Planner
from worldmodel.behaviour.returns import ReturnScale
from worldmodel.behaviour.views import ObservationView
from worldmodel.config import Config
from worldmodel.config_acting import PlannerConfig
from worldmodel.data.environment import Environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import Stream, make_generator
from worldmodel.training.acting_evaluator import ActingEvaluator
from worldmodel.training.behaviour_learner import BehaviourLearner
from worldmodel.training.evaluators import RoughEvidenceSettings
from worldmodel.training.learner import Learner
from worldmodel.training.processes import ALONE, Processes
from worldmodel.types import ActionSpec, Policy, SavedPolicy

DISCOUNT = 0.99  # of a search without a critic, unless planner.discount says otherwise
ITERATIONS = {"mppi": 1, "cem": 3}  # of a search, unless planner.iterations says otherwise


def build_policy(
    config: Config,
    model: WorldModel,
    name: Literal["planner", "actor", "random"],
    seed: int,
    agent: ActorCritic | None = None,
) -> Policy:
    """A policy that plans in a world model, one of an actor that does not explore, or one that acts at random.

    Raises:
        ValueError: if the seed is negative, there is no actor, or the model has not learned what planning needs.
    """
    if name == "random":
        return RandomPolicy(model.spec.action, make_generator(seed, stream=Stream.ACTING))
    generator = make_generator(seed, stream=Stream.ACTING, device=model.device)
    if name == "actor":
        if agent is None:
            raise ValueError("policy: expected mppi, cem or random, since the run has learned no actor, got actor")
        return FilteringPolicy(model, Reflexes(agent.played.likeliest), generator)
    require_learned_returns(config)
    return FilteringPolicy(model, build_planning(config, model, agent, generator), generator)


def require_learned_returns(config: Config) -> None:
    """Raise ValueError if a run's model has not learned rewards and ends, which returns are predicted from."""
    for scale in ("reward_scale", "continue_scale"):
        if getattr(config.loss, scale) == 0:
            expected = "a model of rewards and ends, which planning and dreams need"
            raise ValueError(f"run: expected {expected}, got one trained with loss.{scale} of 0")


def build_planning(
    config: Config, model: WorldModel, agent: ActorCritic | None, generator: torch.Generator
) -> Planning:
    """A planner in a world model; where there is a critic, its value stands for all that follows a plan."""
    discount = config.planner.discount
    if discount is None:
        discount = DISCOUNT if agent is None else config.behaviour.discount
    value = None if agent is None else agent.value
    planner = build_planner(config.planner, model.spec.action)
    return Planning(model, planner, discount=discount, value=value, generator=generator)


def build_collecting_policy(
    config: Config,
    model: WorldModel,
    replay: Replay,
    agent: ActorCritic | None,
    randomness: dict[str, torch.Generator],
    processes: Processes = ALONE,
) -> SavedPolicy:
    """Who collects a run's rows: a random policy, and behind the prefill the one that `acting.policy` names.

    Args:
        config: of the run.
        model: the world model that learns meanwhile.
        replay: where the rows go, which tells when the prefill is over.
        agent: the actor and its critic where they learn.
        randomness: `policy` of the random policy, `acting` of the other.
        processes: those that share the prefill.
    """
    random = RandomPolicy(model.spec.action, randomness["policy"])
    if config.acting.policy == "random":
        return random
    generator = randomness["acting"]
    chooser: Chooser
    if config.acting.policy == "actor":
        assert agent is not None
        chooser = Reflexes(agent.actor.exploring(generator))
    else:
        chooser = build_planning(_planning_as_acting(config), model, None, generator)
    share = config.training.prefill / processes.world
    return Successor(random, FilteringPolicy(model, chooser, generator), lambda: replay.rows_written >= share)


def build_agent(config: Config, model: WorldModel) -> ActorCritic | None:
    """Actor and critic for a world model, their weights drawn from the configuration's seed; None where none learn."""
    if config.acting.policy != "actor":
        return None
    actor, critic, behaviour = config.actor, config.critic, config.behaviour
    spec, features = model.spec.action, sum(model.decoder.widths)
    gradient = behaviour.gradient
    if gradient == "auto":
        smooth = spec.kind == "continuous" and config.rssm.latent != "categorical"
        gradient = "pathwise" if smooth else "reinforce"
    view = ObservationView(model) if actor.reads == "observation" else None
    with torch.random.fork_rng(devices=[]):
        seed = make_generator(config.seed, stream=Stream.AGENT).initial_seed()
        torch.default_generator.manual_seed(seed)
        agent = ActorCritic(
            Actor(
                features if view is None else view.width,
                ActionFamily(spec, actor.unimix, actor.min_std, actor.max_std),
                units=actor.units,
                layers=actor.layers,
                view=view,
            ),
            Critic(features, units=critic.units, layers=critic.layers, bins=critic.bins, limit=critic.limit),
            gradient=gradient,
            lam=behaviour.lam,
            entropy_scale=behaviour.entropy,
            slow_rate=critic.slow_rate,
            slow_regularisation=critic.slow_regularisation,
            actor_slow_rate=actor.slow_rate,
            return_scale=ReturnScale(least=behaviour.least_scale),
        )
    return agent.to(model.device)


def build_behaviour_learner(
    config: Config, agent: ActorCritic, model: WorldModel, generator: torch.Generator, processes: Processes = ALONE
) -> BehaviourLearner:
    """The optimiser around actor and critic."""
    behaviour = config.behaviour
    return BehaviourLearner(
        agent,
        model,
        generator,
        starts=processes.share_of(behaviour.starts, "behaviour.starts"),
        horizon=behaviour.horizon,
        discount=behaviour.discount,
        optimizer=behaviour.optimizer,
        learning_rate=behaviour.learning_rate,
        clip_norm=behaviour.clip_norm,
        adaptive_clip=behaviour.adaptive_clip,
        gradient_limit=behaviour.gradient_limit,
        processes=processes,
    )


def build_planner(config: PlannerConfig, spec: ActionSpec) -> Planner:
    """The search for actions."""
    return Planner(
        spec,
        CEM(config.elites) if config.method == "cem" else MPPI(config.temperature),
        horizon=config.horizon,
        iterations=ITERATIONS[config.method] if config.iterations is None else config.iterations,
        candidates=config.candidates,
        std=config.std,
        explore=config.explore,
    )


def build_acting_evaluator(
    config: Config,
    learner: Learner[WorldModel],
    agent: ActorCritic | None,
    environments: Environments,
    rough: RoughEvidenceSettings,
) -> ActingEvaluator:
    """The evaluation of the present policy, by what it earns.

    Args:
        config: of a run that acts.
        learner: of the world model.
        agent: the actor and its critic where they learn.
        environments: that it plays in.
        rough: of an estimate of the evidence of its episodes, which no particles leave out.
    """
    seed, model = config.evaluation.seed, learner.model

    def policy() -> Policy:
        if agent is not None:
            return build_policy(config, model, "actor", seed, agent)
        return build_policy(_planning_as_acting(config), model, "planner", seed)

    return ActingEvaluator(
        learner,
        agent,
        policy,
        environments,
        episodes=config.evaluation.acting_episodes,
        discount=config.behaviour.discount,
        rough=rough if rough.particles else None,
        seed=seed,
    )


def _planning_as_acting(config: Config) -> Config:
    """The settings of a run that a planner collects the rows of, with that planner."""
    assert config.acting.policy in ("mppi", "cem")
    return replace(config, planner=replace(config.planner, method=config.acting.policy))
