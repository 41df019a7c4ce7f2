"""Acting in an environment by a world model: filter what is seen, choose an action from the filtered state.

    policy = FilteringPolicy(model, Planning(model, planner, discount=0.99, generator=g), g)     by planning
    policy = FilteringPolicy(model, Reflexes(act), g)                                            by any act(state)

Both are policies over rows of N environments side by side, with memory: the filter's carry, and the plan that the next
search starts from. Where an episode begins, both begin anew.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from worldmodel.behaviour.imagination import Rewarded, imagine_rewards, recorded, scripted
from worldmodel.behaviour.planner import Planner
from worldmodel.checks import require_positive
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import restore_generator
from worldmodel.types import Act, Carry, Rows, SavedPolicy, State

CARRY, CHOOSER, GENERATOR = "carry", "chooser", "generator"  # what the names of a policy's state begin with


@runtime_checkable
class Chooser(Protocol):
    """Chooses actions for N filtered states side by side. It may keep memory; `is_first` says when to clear it."""

    def __call__(self, state: State, is_first: Bool[Tensor, " N"]) -> Float[Tensor, "N A"]:
        """Actions in the newest states [N, ...]."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything beside the generator that later actions depend on, by name."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state that `state` gave; an empty one clears all memory."""
        ...


class Reflexes:
    """A chooser that looks at the newest state alone, and remembers nothing."""

    def __init__(self, act: Act) -> None:
        self.act = act

    def __call__(self, state: State, is_first: Bool[Tensor, " N"]) -> Float[Tensor, "N A"]:
        """What `act` does there."""
        return self.act(state)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to go on from."""


class Planning:
    """A chooser that searches for a good sequence of actions at every step, and takes the first of it.

    A candidate is worth the discounted rewards of one imagined future (`imagine_rewards`). The search starts from the
    last plan, a step on; where an episode begins, from the neutral plan.
    """

    def __init__(
        self,
        model: WorldModel,
        planner: Planner,
        *,
        discount: float,
        value: Callable[[State], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Args:
        model: the world model that is planned in.
        planner: the search, for the model's action space.
        discount: of a reward one step later.
        value: of states [*batch, ...], in reward units [*batch]: stands for all that follows the plan, which otherwise
            counts for nothing.
        generator: source of all noise, on the model's device.
        """
        self.model, self.planner, self.discount, self.generator = model, planner, discount, generator
        self.value = value
        self._plan: Tensor | None = None  # [N, H, A] the newest plan; its first action was taken

    @torch.no_grad()
    def __call__(self, state: State, is_first: Bool[Tensor, " N"]) -> Float[Tensor, "N A"]:
        """The first actions of new plans, without noise."""
        start = self.planner.neutral(len(is_first), state.deter.device).to(state.deter.dtype)
        if self._plan is not None:
            start = torch.where(is_first[:, None, None], start, self.planner.shifted(self._plan))

        def evaluate(candidates: Tensor) -> Tensor:
            N, _, H, _ = candidates.shape
            return self._returns(state, N, H, scripted(candidates), self.generator)

        plan = self.planner.plan(evaluate, start, self.generator)
        self._plan = plan.mean
        return plan.actions[:, 0]

    @torch.no_grad()
    def predicted_return(
        self, state: State, samples: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, " N"]:
        """What the newest plan is expected to earn over its H steps from these states: the discounted sum of rewards.

        New futures are imagined for it: the futures used to choose the plan overestimate its return.

        Args:
            state: the states that the plan was made in.
            samples: futures of each, whose mean is taken.
            generator: source of their noise.
        Raises:
            ValueError: if there is no plan yet, or samples is not positive.
        """
        require_positive(samples=samples)
        if self._plan is None:
            raise ValueError("predicted_return: expected a plan to have been made, there is none yet")
        act = recorded(self.planner.actions(self._plan), samples)
        return self._imagine(state, samples, self.planner.horizon, act, generator).returns.mean(0)

    def _returns(
        self, state: State, samples: int, horizon: int, act: Act, generator: torch.Generator | None
    ) -> Float[Tensor, "N B"]:
        """What futures are worth: their rewards, and the value of the state behind them where there is one."""
        imagined = self._imagine(state, samples, horizon, act, generator)
        if self.value is None:
            return imagined.returns
        last = State(*(x[:, :, -1] for x in imagined.states))
        reached = imagined.weight[..., -1] * self.discount * imagined.alive[..., -1]
        return imagined.returns + reached * self.value(last)

    def _imagine(
        self, state: State, samples: int, horizon: int, act: Act, generator: torch.Generator | None
    ) -> Rewarded:
        start = State(*(repeat(x, "B W -> N B W", N=samples) for x in state))
        return imagine_rewards(self.model, start, act, horizon, discount=self.discount, generator=generator)

    def state(self) -> dict[str, Tensor]:
        """The newest plan, if there is one."""
        return {} if self._plan is None else {"plan": self._plan}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a plan."""
        plan = state.get("plan")
        self._plan = None if plan is None else plan.to(self.model.device)


class FilteringPolicy:
    """A `SavedPolicy` that filters the rows of N environments by a world model, and hands the states to a chooser.

    It looks at each row once, and neither predicts nor decodes it. Its memory of an environment is cleared where a row
    is_first.
    """

    def __init__(self, model: WorldModel, chooser: Chooser, generator: torch.Generator) -> None:
        """Args:
        model: the world model.
        chooser: chooses actions in filtered states; `Planning`, or `Reflexes` of any act(state).
        generator: source of the noise that z_t is sampled with, on the model's device; it may be the chooser's too.
        """
        self.model, self.chooser, self.generator = model, chooser, generator
        self.newest: State | None = None  # the filtered states of the newest rows, [N, ...]
        self._carry: Carry | None = None

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Float[np.ndarray, "N A"]:
        """Actions after the newest row of each environment.

        Where every row is the first of its episode all memory is dropped, and there may be other environments than
        before.

        Raises:
            ValueError: if the number of environments changes inside an episode.
        """
        N = len(rows.is_first)
        if rows.is_first.all():
            self._carry = None
            self.chooser.restore({})
        carry = self.model.dynamics.initial(N) if self._carry is None else self._carry
        if (before := len(tree_leaves(carry)[0])) != N:
            raise ValueError(f"rows: expected one of each of {before} environments, got {N}")
        obs = {path: as_input(self.model, x) for path, x in rows.obs.items()}
        numbers = (rows.prev_action, rows.reward, rows.is_first)
        prev_action, reward, is_first = (as_input(self.model, x) for x in numbers)
        noise = self.model.noise(N, 1, self.generator)[:, 0]
        self._carry, self.newest, _ = self.model.step(carry, obs, prev_action, is_first, noise, reward)
        return self.chooser(self.newest, is_first).float().cpu().numpy()

    def state(self) -> dict[str, Tensor]:
        """The filter's carry, what the chooser remembers, and where the generator is."""
        state = {GENERATOR: self.generator.get_state()}
        state |= {f"{CHOOSER}/{name}": x for name, x in self.chooser.state().items()}
        leaves = [] if self._carry is None else tree_leaves(self._carry)
        return state | {f"{CARRY}/{index}": leaf for index, leaf in enumerate(leaves)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state that `state` gave. What was drawn on another kind of device goes on from the seed.

        Raises:
            ValueError: if the model carries something else.
        """
        initial, structure = tree_flatten(self.model.dynamics.initial(1))
        leaves = [state[key].to(self.model.device) for i in range(len(state)) if (key := f"{CARRY}/{i}") in state]
        have, want = [tuple(x.shape[1:]) for x in leaves], [tuple(x.shape[1:]) for x in initial]
        if leaves and have != want:
            raise ValueError(f"{CARRY}: expected what the model carries, of the shapes {want}, got {have}")
        self._carry, self.newest = tree_unflatten(leaves, structure) if leaves else None, None
        of_chooser = {name: x for name, x in state.items() if name.startswith(f"{CHOOSER}/")}
        self.chooser.restore({name.removeprefix(f"{CHOOSER}/"): x for name, x in of_chooser.items()})
        restore_generator(self.generator, state[GENERATOR])


def as_input(model: WorldModel, x: np.ndarray) -> Tensor:
    """An array of rows where the model is, real numbers in its precision."""
    tensor = torch.from_numpy(np.ascontiguousarray(x)).to(model.device)
    return tensor.to(next(model.parameters()).dtype) if tensor.is_floating_point() else tensor


class Successor:
    """A `SavedPolicy` that acts as one policy does until another one is ready, and from then on as the other."""

    def __init__(self, first: SavedPolicy, second: SavedPolicy, ready: Callable[[], bool]) -> None:
        """Args:
        first, second: policies for the same environments.
        ready: asked before every choice until it says yes: whether the second one is to act.
        """
        self.first, self.second, self.ready = first, second, ready

    def __call__(self, rows: Rows) -> Float[np.ndarray, "N A"]:
        """The actions of the one whose turn it is. The other one does not see the rows."""
        return (self.second if self.ready() else self.first)(rows)

    def state(self) -> dict[str, Tensor]:
        """Of both."""
        both = {"first": self.first.state(), "second": self.second.state()}
        return {f"{which}/{name}": x for which, state in both.items() for name, x in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state that `state` gave."""
        for which, policy in (("first", self.first), ("second", self.second)):
            of_one = {name: x for name, x in state.items() if name.startswith(f"{which}/")}
            policy.restore({name.removeprefix(f"{which}/"): x for name, x in of_one.items()})
