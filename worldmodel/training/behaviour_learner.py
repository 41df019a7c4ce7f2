"""Actor and critic as a learner: a step of both on what the world model imagines from the states it has just found."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.behaviour.actor_critic import ActorCritic, DreamSteps, limit_gradients, state_features
from worldmodel.behaviour.imagination import imagine_rewards
from worldmodel.models.world_model import WorldModel
from worldmodel.training.checkpoint import WORLD
from worldmodel.training.learner import AnyUpdate, Update
from worldmodel.training.optimizers import OptimizerName, clip_adaptively, make_optimizer
from worldmodel.training.processes import ALONE, Processes
from worldmodel.training.states import learner_state, restore_learner
from worldmodel.types import Batch, State


@dataclass(frozen=True)
class BehaviourUpdate:
    """What one step of actor and critic reports, detached, on the device."""

    numbers: dict[str, Tensor]  # [] each
    losses: dict[str, Tensor]  # of actor and critic by imagined step, [S, H]
    learning_rate: float

    def scalars(self) -> dict[str, Tensor]:
        """Everything that is one number per update: nats, reward units, or as its name says.

        `last_weight` is how much the last imagined step counts, beside the first.
        """
        return self.numbers

    def first_non_finite(self) -> dict[str, Tensor]:
        """By loss, the first imagined step with a value that is not finite, or -1."""
        bad = {name: (~torch.isfinite(loss)).any(0) for name, loss in self.losses.items()}  # [H]
        return {name: torch.where(steps.any(), steps.int().argmax(), -1) for name, steps in bad.items()}


class BehaviourLearner:
    """Trains actor and critic on imagined trajectories; the world model is read, and left as it is."""

    def __init__(
        self,
        agent: ActorCritic,
        world: WorldModel,
        generator: torch.Generator,
        *,
        starts: int,
        horizon: int,
        discount: float,
        optimizer: OptimizerName,
        learning_rate: float,
        clip_norm: float,
        adaptive_clip: float | None = None,
        gradient_limit: float | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """Args:
        agent: what is trained, on the world model's device.
        world: the world model that is imagined in.
        generator: source of all noise: the choice of starts, latents, actions.
        starts, horizon: trajectories of an update, at most, and their steps (S and H); S is this process's share.
        discount: of a reward one step later.
        optimizer, learning_rate: of both networks.
        clip_norm: largest gradient norm, of each network.
        adaptive_clip: largest gradient of each parameter in units of the parameter; see `clip_adaptively`.
        gradient_limit: of pathwise gradients, in each imagined state; see `limit_gradients`.
        processes: those that share each update.
        """
        self.model, self.world, self.generator = agent, world, generator
        self.starts, self.horizon, self.discount = starts, horizon, discount
        self.learning_rate, self.clip_norm, self.adaptive_clip = learning_rate, clip_norm, adaptive_clip
        self.gradient_limit, self.processes = gradient_limit, processes
        self.networks: dict[str, nn.Module] = {"actor": agent.actor, "critic": agent.critic}
        trained = [p for network in self.networks.values() for p in network.parameters()]
        self.optimizer = make_optimizer(optimizer, trained, learning_rate=learning_rate)
        self.updates = 0

    def update(self, batch: Batch, before: Mapping[str, AnyUpdate]) -> BehaviourUpdate:
        """Take one step of both on what follows from the states that the world model's update found in the batch."""
        return self.step(batch, before, self.begin())

    def begin(self) -> float:
        """Count one more update: -> its learning rate, which is the same for all."""
        self.updates += 1
        return self.learning_rate

    def step(self, batch: Batch, before: Mapping[str, AnyUpdate], rate: float) -> BehaviourUpdate:
        """The rest of an update, after `begin`; its operations are the same every time."""
        of_world = before[WORLD]
        assert isinstance(of_world, Update)
        states = of_world.states
        if self.world.smooths:  # but the actor filters
            states = self._filtered(batch)
        agent, dream = self.model, self._imagine(*self._draw_starts(states, batch))
        targets = agent.targets(dream)
        agent.return_scale.update(self._everyone(targets.returns.detach()), self._everyone(targets.weight))
        actor_loss, critic_loss = agent.actor_loss(dream, targets), agent.critic_loss(targets)
        self.optimizer.zero_grad()
        for name, loss in (("actor", actor_loss.value), ("critic", critic_loss.value)):
            loss.mean().backward(inputs=list(self.networks[name].parameters()))
        self.processes.mean_gradients(p for network in self.networks.values() for p in network.parameters())
        norms = {f"grad_norm/{name}": self._clip(network) for name, network in self.networks.items()}
        self.optimizer.step()
        agent.update_slow_copies()
        losses = {"actor": actor_loss.value.detach(), "critic": critic_loss.value.detach()}
        means = self._means(
            {f"loss/{name}": loss for name, loss in losses.items()},
            {
                "return": targets.returns,
                "value": targets.value,
                "slow_value": targets.slow_value,
                "reward": dream.reward,
                "entropy": actor_loss.entropy,
            },
            targets.weight,
        )
        numbers = {
            "loss/value": means["loss/actor"] + means["loss/critic"],
            **means,
            **norms,
            "return_scale": agent.return_scale(),
        }
        return BehaviourUpdate({name: x.detach() for name, x in numbers.items()}, losses, rate)

    def state(self) -> dict[str, Tensor]:
        """Weights, the returns' scale and the optimiser's state, by name; the generator's is not among them."""
        return learner_state(self.model, self.optimizer)

    def restore(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a state that `state` gave after so many updates; raises ValueError for another agent's."""
        restore_learner(self.model, self.optimizer, state)
        self.updates = updates

    @torch.no_grad()
    def _filtered(self, batch: Batch) -> State:
        B, T = batch.valid.shape
        return self.world.filter(batch, self.world.noise(B, T, self.generator)).states

    def _draw_starts(self, states: State, batch: Batch) -> tuple[State, Tensor]:
        """S states of the batch, each row at most once, and which of them count: [S, ...] and [S].

        Rows that warm the state up, and rows at which an episode terminates, are drawn where there are too few others,
        and count for nothing.
        """
        counts = (batch.valid & ~batch.is_terminal).flatten()  # [B T]
        order = torch.rand(len(counts), generator=self.generator, device=counts.device) + counts
        chosen = order.topk(min(self.starts, len(counts))).indices
        return State(*(x.flatten(0, 1)[chosen] for x in states)), counts[chosen].to(states.deter.dtype)

    def _imagine(self, start: State, counts: Tensor) -> DreamSteps:
        pathwise, actor = self.model.gradient == "pathwise", self.model.actor

        def act(state: State) -> Tensor:
            if pathwise and self.gradient_limit is not None:
                limit_gradients(state, self.gradient_limit, self._everyone)
            policy = actor(state_features(state))
            return policy.rsample(policy.noise(self.generator)) if pathwise else policy.sample(self.generator)

        imagined = imagine_rewards(
            self.world,
            State(*(x[None] for x in start)),
            act,
            self.horizon,
            discount=self.discount,
            generator=self.generator,
            gradients=pathwise,
        )
        later = state_features(imagined.states)[0]  # [S, H, F]
        features = torch.cat([state_features(start)[:, None], later], 1)  # [S, H + 1, F]
        return DreamSteps(features, imagined.action[0], imagined.reward[0], self.discount * imagined.alive[0], counts)

    @torch.no_grad()
    def _means(self, plain: Mapping[str, Tensor], weighted: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
        """Means of some numbers [S, H] and weighted means of others over the trajectories of all processes, in one sum;
        and `last_weight`.
        """
        sums = [x.sum() for x in plain.values()] + [(x * weight).sum() for x in weighted.values()]
        rows = weight.new_full((), weight.numel())
        *sums, total, last, first, rows = self.processes.summed(
            torch.stack([*sums, weight.sum(), weight[:, -1].sum(), weight[:, 0].sum(), rows])
        )
        by = [rows] * len(plain) + [total.clamp(min=1e-8)] * len(weighted)
        means = {name: x / n for name, x, n in zip([*plain, *weighted], sums, by, strict=True)}
        return means | {"last_weight": last / first.clamp(min=1e-8)}

    def _everyone(self, x: Tensor) -> Tensor:
        """The rows [S, ...] of all processes, one after the other."""
        return x if self.processes.world == 1 else self.processes.gather(x).flatten(0, 1)

    def _clip(self, network: nn.Module) -> Tensor:
        """Clip the gradients of a network: -> their norm before."""
        parameters = list(network.parameters())
        if self.adaptive_clip is None:
            return nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        clip_adaptively(parameters, self.adaptive_clip)
        nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        return norm
