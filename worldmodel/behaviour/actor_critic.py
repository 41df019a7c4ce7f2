"""An actor and a critic that learn from imagined trajectories, and the losses of both as pure functions.

From B starts, the actor chooses an action in every state and the model answers with the next state:

    s_0 -a_0-> r_1, d_1, s_1 -a_1-> ... -a_{H-1}-> r_H, d_H, s_H

The critic regresses on the lambda-returns R_0 .. R_{H-1} of these rewards, the actor makes them larger. The values in
these returns are the slow critic's, so that the critic does not learn from what it has just said. A slow actor, where
there is one, is for playing alone: no loss reads it. An update of both goes like this; nothing in it changes anything
but `return_scale`, the two optimisers' steps, and the last line:

    targets = agent.targets(dream)
    agent.return_scale.update(targets.returns, targets.weight)
    agent.actor_loss(dream, targets).value.mean().backward(inputs=list(agent.actor.parameters()))
    agent.critic_loss(targets).value.mean().backward(inputs=list(agent.critic.parameters()))
    ... steps of the two optimisers ...
    agent.update_slow_copies()

`inputs` matters: a pathwise loss reaches the actor through the model and the critic, neither of which is to learn from
it. Losses are [B, H] and already weighted; their plain mean is what is minimised, as in DreamerV3.

Sources: Hafner et al. 2023 (DreamerV3), arXiv 2301.04104, section "actor learning"; Hafner et al. 2020 (Dreamer), arXiv
1912.01603, for the pathwise gradient; Hafner et al. 2021 (DreamerV2), arXiv 2010.02193, for the slow critic's values;
Polyak and Juditsky 1992, SIAM J. Control Optim. 30(4), for averaged weights, such as the slow actor's.
"""

import copy
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.behaviour.action_distributions import ActionDistribution, ActionFamily
from worldmodel.behaviour.critic import BinnedValue, Critic, critic_loss, move_towards
from worldmodel.behaviour.returns import ReturnScale, discount_weights, lambda_return
from worldmodel.checks import require, require_not_negative, require_positive, require_share
from worldmodel.models.networks import mlp
from worldmodel.types import Act, State

ActorGradient = Literal["reinforce", "pathwise"]


class DreamSteps(NamedTuple):
    """B imagined trajectories of H steps, as actor and critic learn from them."""

    features: Float[Tensor, "B H_plus_1 F"]  # of s_0 .. s_H; see `state_features`
    action: Float[Tensor, "B H A"]  # a_0 .. a_{H-1}, as they were drawn and clipped
    reward: Float[Tensor, "B H"]  # r_1 .. r_H, in the environment's reward units
    discount: Float[Tensor, "B H"]  # d_1 .. d_H: gamma times the probability that the episode goes on
    start: Float[Tensor, " B"]  # how much each trajectory counts: zero where s_0 is terminal or no row that counts


class Targets(NamedTuple):
    """What both losses need: the returns, the critic's value as their baseline, and how much each step counts."""

    returns: Float[Tensor, "B H"]  # R_0 .. R_{H-1}
    critic: BinnedValue  # of s_0 .. s_{H-1}, with the critic's gradient
    value: Float[Tensor, "B H"]  # v_0 .. v_{H-1}: its mean, without
    slow_value: Float[Tensor, "B H"]  # the slow critic's
    weight: Float[Tensor, "B H"]  # w_0 .. w_{H-1}


class ActorLoss(NamedTuple):
    """The actor's loss by step, weighted, and its policy's entropy in nats."""

    value: Float[Tensor, "B H"]
    entropy: Float[Tensor, "B H"]


class CriticStep(NamedTuple):
    """The critic's loss by step, weighted, and its two parts before weighting; see `critic.CriticLoss`."""

    value: Float[Tensor, "B H"]
    to_returns: Float[Tensor, "B H"]
    to_slow: Float[Tensor, "B H"]


def state_features(state: State) -> Float[Tensor, "*batch F"]:
    """What actor and critic read of a state: h_t and z_t side by side."""
    return torch.cat(state, -1)


def reinforce_loss(
    log_prob: Float[Tensor, "B H"], advantage: Float[Tensor, "B H"], weight: Float[Tensor, "B H"]
) -> Float[Tensor, "B H"]:
    """-w_t A_t log pi(a_t | s_t): its mean gradient is that of the expected return, and of any model.

    Args:
        log_prob: joint log-probability of the action that was taken, with the actor's gradient.
        advantage: (R_t - v_t) / S; no gradient is taken through it.
        weight: w_t; see `discount_weights`.
    Source: Williams 1992; Sutton and Barto, section 13.4.
    """
    return -weight * log_prob * advantage.detach()


def pathwise_loss(
    returns: Float[Tensor, "B H"], scale: Float[Tensor, ""], weight: Float[Tensor, "B H"]
) -> Float[Tensor, "B H"]:
    """-w_t R_t / S, differentiated through rewards, values and discounts into the actions that led to them.

    For models and actions that are differentiable: the gradient is exact for continuous actions and Gaussian latents,
    and straight-through for classes and bits.

    Source: Hafner et al. 2020, arXiv 1912.01603, equation 7.
    """
    return -weight * returns / scale.detach()


def limit_gradients(state: State, most: float, everyone: Callable[[Tensor], Tensor] = lambda x: x) -> None:
    """Let no trajectory have a gradient in this h, or z, that is longer than `most` times the median trajectory's.

    A pathwise gradient is a product of as many Jacobians as there are steps. In a few trajectories it explodes, and
    these then outweigh all others in the actor's step. Nothing else changes: the limit is in units of the gradients
    themselves, trajectories without any do not count, one that is not finite has none, and the values of the states
    stay as they are.

    Args:
        state: of B trajectories at one imagined step, before anything is computed from it.
        most: as many times the median.
        everyone: adds the lengths of the gradients that other processes have to these, [B].
    """
    for x in state:
        if x.requires_grad:
            x.register_hook(lambda gradient: _limited(gradient, most, everyone))


def _limited(gradient: Float[Tensor, "B W"], most: float, everyone: Callable[[Tensor], Tensor]) -> Float[Tensor, "B W"]:
    length = gradient.norm(dim=-1)
    finite = length.isfinite()
    length = torch.where(finite, length, 0.0)  # what has exploded beyond numbers counts for nothing
    lengths = everyone(length)
    counted = (lengths > 0).sum()
    median = lengths.sort().values.gather(0, (len(lengths) - counted + (counted - 1) // 2)[None])
    share = (most * median / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1)
    return torch.where(finite[:, None], gradient * share[:, None], 0.0)


class Actor(nn.Module):
    """A perceptron from the features of a state to a distribution over actions; close to uniform at first."""

    def __init__(
        self,
        features: int,
        family: ActionFamily,
        *,
        units: int = 64,
        layers: int = 2,
        view: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Args:
        features: width of what it reads.
        family: of its distributions.
        units, layers: of the hidden layers.
        view: makes what it reads from the features of a state; the features themselves if None.
        Raises:
            ValueError: if there is no hidden layer.
        """
        super().__init__()
        require_positive(units=units, layers=layers)
        self.family, self.view = family, view
        self.hidden = mlp([features, *[units] * layers])
        self.head = nn.Linear(units, family.parameters)
        with torch.no_grad():
            self.head.weight.mul_(0.01)
            self.head.bias.zero_()

    def forward(self, features: Float[Tensor, "*batch F"]) -> ActionDistribution:
        """The policy in states with any leading shape."""
        read = features if self.view is None else self.view(features)
        return self.family.distribution(self.head(self.hidden(read)))

    def exploring(self, generator: torch.Generator) -> Act:
        """Draws actions in states [*batch, ...], with no gradient behind them."""
        return lambda state: self(state_features(state)).sample(generator)

    def likeliest(self, state: State) -> Float[Tensor, "*batch A"]:
        """The actions that the actor holds for best in states [*batch, ...]: an `Act` that does not explore."""
        return self(state_features(state)).mode


class ActorCritic(nn.Module):
    """Actor, critic, slow critic, a slow actor if asked for, and the scale of the returns: what a checkpoint holds."""

    def __init__(
        self,
        actor: Actor,
        critic: Critic,
        *,
        gradient: ActorGradient = "reinforce",
        lam: float = 0.95,
        entropy_scale: float = 3e-4,
        slow_rate: float = 0.02,
        slow_regularisation: float = 0.1,
        actor_slow_rate: float | None = None,
        return_scale: ReturnScale | None = None,
    ) -> None:
        """Args:
        actor, critic: the two networks, of the same features.
        gradient: the actor's; see `reinforce_loss` and `pathwise_loss`.
        lam: of the returns; see `lambda_return`.
        entropy_scale: reward for a nat of entropy, in units of the return scale.
        slow_rate: of the slow critic's moving average, per update.
        slow_regularisation: weight of the cross-entropy towards the slow critic. It slows the critic down: in a world
            of one state worth 100 (gamma 0.99, H 15, Adam at 1e-3), the critic says 60 after 1,000 updates with a
            weight of 1 and 98 with 0.1.
        actor_slow_rate: of the slow actor's moving average, per update; there is no slow actor if None.
        return_scale: what returns are divided by; the usual percentiles if None.
        Raises:
            ValueError: if a number is out of its range.
        """
        super().__init__()
        require_share(lam=lam)
        require(0 < slow_rate <= 1, "slow_rate", "a share in (0, 1]", slow_rate)
        possible = actor_slow_rate is None or 0 < actor_slow_rate <= 1
        require(possible, "actor_slow_rate", "None or a share in (0, 1]", actor_slow_rate)
        require_not_negative(entropy_scale=entropy_scale, slow_regularisation=slow_regularisation)
        self.actor, self.critic = actor, critic
        self.slow_critic = copy.deepcopy(critic).requires_grad_(False)
        self.slow_actor = None
        if actor_slow_rate is not None:
            view = {id(actor.view): actor.view}  # not copied with it: it reads the world model, which goes on learning
            self.slow_actor = copy.deepcopy(actor, view).requires_grad_(False)
        self.return_scale = ReturnScale() if return_scale is None else return_scale
        self.gradient, self.lam, self.entropy_scale = gradient, lam, entropy_scale
        self.slow_rate, self.slow_regularisation = slow_rate, slow_regularisation
        self.actor_slow_rate = actor_slow_rate

    @property
    def played(self) -> Actor:
        """The actor for whoever plays and does not explore: the slow one where there is one."""
        return self.actor if self.slow_actor is None else self.slow_actor

    def value(self, state: State) -> Float[Tensor, "*batch"]:
        """The critic's value of states with any leading shape, in the environment's reward units."""
        return self.critic(state_features(state)).mean

    def targets(self, dream: DreamSteps) -> Targets:
        """Returns by the slow critic's values; differentiable in what was imagined if the gradient is pathwise."""
        with torch.set_grad_enabled(self.gradient == "pathwise" and torch.is_grad_enabled()):
            slow_value = self.slow_critic(dream.features).mean
            returns = lambda_return(dream.reward, slow_value, dream.discount, self.lam)
        critic = self.critic(dream.features[:, :-1].detach())
        weight = discount_weights(dream.discount, dream.start)
        return Targets(returns, critic, critic.mean.detach(), slow_value[:, :-1].detach(), weight)

    def actor_loss(self, dream: DreamSteps, targets: Targets) -> ActorLoss:
        """What the actor minimises: by REINFORCE or along the path, less the entropy bonus.

        The entropy is that of the policy in the states that were visited: its gradient does not move the states.
        """
        policy = self.actor(dream.features[:, :-1].detach())
        scale, entropy = self.return_scale(), policy.entropy()
        if self.gradient == "pathwise":
            loss = pathwise_loss(targets.returns, scale, targets.weight)
        else:
            advantage = (targets.returns - targets.value) / scale
            loss = reinforce_loss(policy.log_prob(dream.action.detach()), advantage, targets.weight)
        return ActorLoss(loss - self.entropy_scale * targets.weight * entropy, entropy)

    def critic_loss(self, targets: Targets) -> CriticStep:
        """What the critic minimises: cross-entropy towards the returns and towards the slow critic."""
        to_returns, to_slow = critic_loss(targets.critic, targets.returns.detach(), targets.slow_value)
        loss = targets.weight * (to_returns + self.slow_regularisation * to_slow)
        return CriticStep(loss, to_returns, to_slow)

    def update_slow_copies(self) -> None:
        """Move the slow critic towards the critic and the slow actor towards the actor: once after each update."""
        move_towards(self.slow_critic, self.critic, self.slow_rate)
        if self.slow_actor is not None and self.actor_slow_rate is not None:
            move_towards(self.slow_actor, self.actor, self.actor_slow_rate)
