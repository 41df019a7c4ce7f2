"""The actor's gradients against exact enumeration and finite differences; small worlds solved by all of it."""

import itertools
import math

import pytest
import torch

from worldmodel.behaviour.action_distributions import ActionFamily
from worldmodel.behaviour.actor_critic import Actor, ActorCritic, DreamSteps, limit_gradients, reinforce_loss
from worldmodel.behaviour.critic import Critic
from worldmodel.behaviour.returns import discount_weights, lambda_return
from worldmodel.types import ActionSpec, State

SPECS = {
    "discrete": ActionSpec("categorical", 2, (2,)),
    "groups": ActionSpec("categorical", 4, (2, 2)),
    "binary": ActionSpec("binary", 2),
}
ACTIONS = {  # every action of each of them
    "discrete": torch.eye(2, dtype=torch.float64),
    "groups": torch.tensor([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]], dtype=torch.float64),
    "binary": torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64),
}
STATES = torch.eye(3, dtype=torch.float64)


def agent_of(spec, features, *, seed=0, units=8, unimix=0.01, **settings):
    """A small agent whose actor and critic are no longer at their neutral start."""
    torch.manual_seed(seed)
    agent = ActorCritic(
        Actor(features, ActionFamily(spec, unimix=unimix), units=units), Critic(features, units=units), **settings
    )
    for head in (agent.actor.head, agent.critic.head, agent.slow_critic.head):
        torch.nn.init.normal_(head.weight, std=0.3)
    return agent.double()


class Chain:
    """Three states and J actions with random probabilities, rewards and discounts; state 2 is the end."""

    def __init__(self, actions):
        generator = torch.Generator().manual_seed(1)
        shape = (3, len(actions), 3)
        self.actions = actions
        self.transition = torch.rand(shape, generator=generator, dtype=torch.float64)
        self.transition /= self.transition.sum(-1, keepdim=True)
        self.reward = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.discount = torch.tensor([0.9, 0.8, 0.0], dtype=torch.float64)  # of arriving

    def policy(self, actor):
        """pi(action | state), [3, J], differentiable."""
        each = [actor(STATES).log_prob(action.expand(3, -1)).exp() for action in self.actions]
        return torch.stack(each, -1)

    def backup(self, policy, value):
        """[3] one step of the Bellman equation."""
        q = (self.transition * (self.reward + self.discount * value)).sum(-1)
        return (policy * q).sum(-1)

    def every_trajectory(self, policy, horizon):
        """All trajectories of H steps from states 0 and 1, and their probabilities."""
        steps = itertools.product(range(len(self.actions)), range(3))
        rows, probabilities = [], []
        for start, path in itertools.product((0, 1), itertools.product(list(steps), repeat=horizon)):
            states = [start, *(s for _, s in path)]
            taken = [(s, a, after) for s, (a, after) in zip(states[:-1], path, strict=True)]
            rows.append((states, [a for a, _ in path], [self.reward[i] for i in taken]))
            probabilities.append(torch.stack([policy[s, a] * self.transition[s, a, n] for s, a, n in taken]).prod() / 2)
        states, actions, rewards = (torch.tensor(x) for x in zip(*rows, strict=True))
        dream = DreamSteps(
            STATES[states],
            self.actions[actions],
            rewards.double(),
            self.discount[states[:, 1:]],
            torch.ones(len(rows)).double(),
        )
        return dream, torch.stack(probabilities)


def gradients(loss, module):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])


@pytest.mark.parametrize("kind", SPECS)
def test_the_mean_gradient_of_reinforce_is_that_of_the_expected_return(kind):
    """With any baseline and bootstrap: over all trajectories, weighted by their probability."""
    chain, agent = Chain(ACTIONS[kind]), agent_of(SPECS[kind], 3, lam=1.0, entropy_scale=0.0)
    horizon = 2
    dream, probability = chain.every_trajectory(chain.policy(agent.actor).detach(), horizon)
    assert probability.sum().item() == pytest.approx(1.0)
    loss = agent.actor_loss(dream, agent.targets(dream)).value
    got = gradients((probability[:, None] * loss).sum(), agent.actor)
    value, policy = agent.slow_critic(STATES).mean.detach(), chain.policy(agent.actor)
    for _ in range(horizon):
        value = chain.backup(policy, value)
    torch.testing.assert_close(got, gradients(-value[:2].mean(), agent.actor))


def test_with_the_true_values_the_gradient_is_exact_for_every_lambda():
    chain, agent = Chain(ACTIONS["discrete"]), agent_of(SPECS["discrete"], 3)
    policy = chain.policy(agent.actor)
    value = torch.zeros(3, dtype=torch.float64)
    for _ in range(400):  # 0.9^400 = 5e-19
        value = chain.backup(policy.detach(), value)
    dream, probability = chain.every_trajectory(policy.detach(), horizon=3)
    values = dream.features @ value
    returns = lambda_return(dream.reward, values, dream.discount, 0.6)
    log_prob = agent.actor(dream.features[:, :-1]).log_prob(dream.action)
    loss = reinforce_loss(log_prob, returns - values[:, :-1], discount_weights(dream.discount, dream.start))
    got = gradients((probability[:, None] * loss).sum(), agent.actor)
    for _ in range(3):
        value = chain.backup(policy, value)
    torch.testing.assert_close(got, gradients(-value[:2].mean(), agent.actor))


def glide(agent, start, noise, horizon):
    """A smooth world under the actor's draws, with the gradient of every step: s' = A s + B a, r = -|s'|^2."""
    A = torch.tensor([[0.9, 0.3], [-0.2, 0.8]], dtype=torch.float64)
    B = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    states, actions = [start], []
    for t in range(horizon):
        actions.append(agent.actor(states[-1]).rsample(noise[t]))
        states.append(states[-1] @ A.T + actions[-1] @ B.T)
    features, after = torch.stack(states, 1), torch.stack(states[1:], 1)
    discount = 0.9 * torch.sigmoid(3 - after[..., 0])
    return DreamSteps(
        features, torch.stack(actions, 1), -after.square().sum(-1), discount, torch.ones(len(start)).double()
    )


@pytest.mark.parametrize(("horizon", "entropy_scale"), [(4, 0.0), (1, 0.1)])
def test_the_pathwise_gradient_is_a_finite_difference(horizon, entropy_scale, generator):
    agent = agent_of(ActionSpec("continuous", 1), 2, gradient="pathwise", entropy_scale=entropy_scale)
    start = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(horizon, 5, 1, generator=generator, dtype=torch.float64)
    weight = agent.targets(glide(agent, start, noise, horizon)).weight

    def loss():
        dream = glide(agent, start, noise, horizon)
        return agent.actor_loss(dream, agent.targets(dream)._replace(weight=weight)).value.sum()

    got, parameters = gradients(loss(), agent.actor), list(agent.actor.parameters())
    base = torch.nn.utils.parameters_to_vector(parameters).detach()
    for _ in range(5):
        direction, step = torch.randn(base.shape, generator=generator, dtype=torch.float64), 1e-6
        sides = []
        for moved in (base + step * direction, base - step * direction):
            torch.nn.utils.vector_to_parameters(moved, parameters)
            sides.append(loss().item())
        torch.nn.utils.vector_to_parameters(base, parameters)
        assert (got @ direction).item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6, abs=1e-7)


def test_a_trajectory_whose_gradient_explodes_is_limited_and_no_other_is_touched():
    rows = [[0, 0], [3, 4], [0, -5], [6, 8], [600, 800], [0, 0], [math.inf, 1], [math.nan, 1]]
    gradient = torch.tensor(rows, dtype=torch.float64)
    deter = torch.zeros(8, 2, dtype=torch.float64, requires_grad=True)
    state = State((deter * 1.0), torch.zeros(8, 1))
    limit_gradients(state, 3.0)
    state.deter.backward(gradient)
    expected = torch.cat([gradient[:6], torch.zeros(2, 2)])
    expected[4] = torch.tensor([9.0, 12.0])  # three times 5, the lower median of 5, 5, 10 and 1000
    torch.testing.assert_close(deter.grad, expected)


def test_where_no_trajectory_has_a_gradient_there_is_none():
    deter = torch.zeros(3, 2, requires_grad=True)
    state = State(deter * 1.0, torch.zeros(3, 1))
    limit_gradients(state, 3.0)
    (state.deter * 0.0).sum().backward()
    assert torch.equal(deter.grad, torch.zeros(3, 2))


def random_dream(agent, generator, batch=4, horizon=5):
    features = torch.randn(batch, horizon + 1, 3, generator=generator, dtype=torch.float64)
    action = agent.actor(features[:, :-1]).sample(generator)
    reward = torch.randn(batch, horizon, generator=generator, dtype=torch.float64)
    discount = 0.9 * torch.ones(batch, horizon, dtype=torch.float64)
    return DreamSteps(features, action, reward, discount, torch.ones(batch).double())


def test_what_lies_behind_an_end_changes_no_loss(generator):
    agent = agent_of(SPECS["groups"], 3)
    dream = random_dream(agent, generator)
    dream.discount[:2, 2] = 0.0  # s_3 is the end of the first two
    dream.start[3] = 0.0
    other = random_dream(agent, generator)
    ended = torch.zeros(4, 6, dtype=torch.bool)
    ended[:2, 3:] = ended[3] = True
    changed = DreamSteps(
        torch.where(ended[..., None], other.features, dream.features),
        torch.where(ended[:, :-1, None], other.action, dream.action),
        torch.where(ended[:, :-1], other.reward, dream.reward),
        dream.discount,
        dream.start,
    )
    losses = agent.actor_loss, lambda dream, targets: agent.critic_loss(targets)
    for loss in losses:
        before, after = loss(dream, agent.targets(dream)).value, loss(changed, agent.targets(changed)).value
        assert torch.equal(before, after)
        assert before[:2, 3:].eq(0).all() and before[3].eq(0).all() and before[:3, :3].ne(0).all()


def test_where_no_action_is_better_the_loss_is_the_entropy_bonus(generator):
    agent = agent_of(SPECS["binary"], 3, entropy_scale=0.01)
    dream = random_dream(agent, generator)
    targets = agent.targets(dream)
    loss, entropy = agent.actor_loss(dream, targets._replace(returns=targets.value))
    torch.testing.assert_close(loss, -0.01 * targets.weight * entropy)
    torch.testing.assert_close(entropy, agent.actor(dream.features[:, :-1]).entropy())


def test_the_actor_sees_returns_in_units_of_their_scale(generator):
    agent = agent_of(SPECS["discrete"], 3, entropy_scale=0.0)
    dream = random_dream(agent, generator)
    targets = agent.targets(dream)
    before = agent.actor_loss(dream, targets).value
    agent.return_scale.update(torch.linspace(0, 100, 101).double(), torch.ones(101).double())
    torch.testing.assert_close(agent.actor_loss(dream, targets).value, before / agent.return_scale())
    assert agent.return_scale() == pytest.approx(90.0)


@pytest.mark.parametrize("gradient", ["reinforce", "pathwise"])
def test_each_network_learns_from_its_own_loss_alone(gradient, generator):
    agent = agent_of(SPECS["discrete"], 3, gradient=gradient)
    start = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    dream = random_dream(agent, generator)
    model = torch.ones(3, dtype=torch.float64, requires_grad=True)  # stands for the world model's weights
    action = agent.actor(start).rsample(agent.actor(start).noise(generator))
    dream = dream._replace(features=dream.features * model, reward=dream.reward + action[:, :1])
    targets = agent.targets(dream)
    agent.actor_loss(dream, targets).value.mean().backward(inputs=list(agent.actor.parameters()), retain_graph=True)
    assert all(p.grad is not None for p in agent.actor.parameters())
    assert all(p.grad is None for p in agent.critic.parameters()) and model.grad is None
    agent.zero_grad()
    agent.critic_loss(targets).value.mean().backward()
    assert all(p.grad is not None for p in agent.critic.parameters())
    assert all(p.grad is None for p in [*agent.actor.parameters(), *agent.slow_critic.parameters(), model])


@pytest.mark.parametrize("gradient", ["reinforce", "pathwise"])
def test_the_entropy_bonus_moves_no_state(gradient, generator):
    agent = agent_of(SPECS["discrete"], 3, gradient=gradient, entropy_scale=1.0)
    dream = random_dream(agent, generator)
    dream = dream._replace(features=dream.features.requires_grad_())
    targets = agent.targets(dream)
    loss = agent.actor_loss(dream, targets._replace(returns=targets.returns.detach())).value.sum()
    assert torch.autograd.grad(loss, dream.features, allow_unused=True, retain_graph=True) == (None,)
    assert gradients(loss, agent.actor).abs().max() > 0


def test_the_critics_loss_is_its_two_parts(generator):
    agent = agent_of(SPECS["discrete"], 3, slow_regularisation=0.5)
    dream = random_dream(agent, generator)
    targets = agent.targets(dream)
    value, to_returns, to_slow = agent.critic_loss(targets)
    torch.testing.assert_close(value, targets.weight * (to_returns + 0.5 * to_slow))
    torch.testing.assert_close(to_returns, agent.critic(dream.features[:, :-1]).cross_entropy(targets.returns))


def test_returns_are_the_slow_critics_and_their_baseline_is_the_critics(generator):
    agent = agent_of(SPECS["discrete"], 3, slow_rate=1.0)
    with torch.no_grad():
        agent.slow_critic.head.bias.copy_(torch.linspace(-1, 1, len(agent.critic.bins)).double())
    dream = random_dream(agent, generator)
    targets = agent.targets(dream)
    slow = agent.slow_critic(dream.features).mean
    assert (slow - agent.critic(dream.features).mean).abs().min() > 0.1
    torch.testing.assert_close(targets.returns, lambda_return(dream.reward, slow, dream.discount, agent.lam))
    torch.testing.assert_close(targets.value, agent.critic(dream.features[:, :-1]).mean.detach())
    agent.update_slow_copies()
    torch.testing.assert_close(agent.targets(dream).slow_value, targets.value)


def test_a_checkpoint_holds_all_of_it(generator):
    agent, again = agent_of(SPECS["discrete"], 3), agent_of(SPECS["discrete"], 3, seed=1)
    dream = random_dream(agent, generator)
    agent.return_scale.update(torch.linspace(0, 100, 101).double(), torch.ones(101).double())
    again.load_state_dict(agent.state_dict())
    targets, others = agent.targets(dream), again.targets(dream)
    for name in ("returns", "value", "slow_value", "weight"):
        assert torch.equal(getattr(targets, name), getattr(others, name))
    assert torch.equal(*(x.actor_loss(dream, agent.targets(dream)).value for x in (agent, again)))


def learn(agent, imagine, updates, learning_rate):
    """The update as the module's docstring has it, with Adam."""
    actor, critic = list(agent.actor.parameters()), list(agent.critic.parameters())
    optimizers = [torch.optim.Adam(parameters, lr=learning_rate) for parameters in (actor, critic)]
    for _ in range(updates):
        dream = imagine(agent)
        targets = agent.targets(dream)
        agent.return_scale.update(targets.returns.detach(), targets.weight)
        agent.zero_grad()
        agent.actor_loss(dream, targets).value.mean().backward(inputs=actor)
        agent.critic_loss(targets).value.mean().backward(inputs=critic)
        for optimizer in optimizers:
            optimizer.step()
        agent.update_slow_copies()


class Toll:
    """Two states, stay (0) or move (1): 0.1 for staying in 0, a toll of 0.5 for moving to 1, where staying pays 1.

    With gamma = 0.8 the best is to move and stay: V(1) = 1 / (1 - 0.8) = 5 and V(0) = 0.8 * 5 - 0.5 = 3.5, though every
    first step out of 0 costs; staying in 0 is worth 0.5.
    """

    reward = torch.tensor([[0.1, -0.5], [1.0, 0.0]])  # [state, action]
    after = torch.tensor([[0, 1], [1, 0]])

    def imagine(self, agent, generator, batch=32, horizon=6):
        state = torch.randint(2, (batch,), generator=generator)
        states, actions, rewards = [state], [], []
        for _ in range(horizon):
            actions.append(agent.actor(torch.eye(2)[state]).sample(generator))
            index = actions[-1].argmax(-1)
            rewards.append(self.reward[state, index])
            state = self.after[state, index]
            states.append(state)
        features = torch.eye(2)[torch.stack(states, 1)]
        discount = torch.full((batch, horizon), 0.8)
        return DreamSteps(features, torch.stack(actions, 1), torch.stack(rewards, 1), discount, torch.ones(batch))

    def value(self, policy):
        """V of a policy [state, action], exactly."""
        transition = torch.einsum("sa,san->sn", policy, torch.eye(2)[self.after])
        return torch.linalg.solve(torch.eye(2) - 0.8 * transition, (policy * self.reward).sum(-1))


def test_a_two_state_world_is_solved(generator):
    torch.manual_seed(0)
    agent = ActorCritic(Actor(2, ActionFamily(ActionSpec("categorical", 2, (2,)))), Critic(2), slow_rate=0.2)
    world = Toll()
    assert world.value(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist() == pytest.approx([3.5, 5.0])
    learn(agent, lambda agent: world.imagine(agent, generator), updates=100, learning_rate=1e-2)
    policy = torch.stack([agent.actor(torch.eye(2)).log_prob(a.expand(2, 2)).exp() for a in torch.eye(2)], -1)
    assert policy[0, 1] > 0.98 and policy[1, 0] > 0.98  # unimix leaves 0.995
    torch.testing.assert_close(world.value(policy), torch.tensor([3.5, 5.0]), rtol=0.05, atol=0)
    torch.testing.assert_close(agent.critic(torch.eye(2)).mean, world.value(policy), rtol=0.05, atol=0)
    torch.testing.assert_close(agent.slow_critic(torch.eye(2)).mean, world.value(policy), rtol=0.05, atol=0)


@pytest.mark.parametrize("gradient", ["reinforce", "pathwise"])
def test_a_continuous_world_is_solved(gradient, generator):
    """r = -(a - s)^2 for s in [-0.7, 0.7], one step an episode: the best action is s."""
    torch.manual_seed(0)
    family = ActionFamily(ActionSpec("continuous", 1))
    agent = ActorCritic(Actor(1, family), Critic(1), gradient=gradient, entropy_scale=0.0)

    def imagine(agent):
        start = 1.4 * torch.rand(128, 1, generator=generator) - 0.7
        policy = agent.actor(start)
        action = policy.rsample(policy.noise(generator))
        features = torch.stack([start, start], 1)
        reward = -(action - start).square()
        return DreamSteps(features, action[:, None], reward, torch.zeros(128, 1), torch.ones(128))

    learn(agent, imagine, updates=100, learning_rate=1e-2)
    states = torch.linspace(-0.7, 0.7, 9)[:, None]
    assert (agent.actor(states).mode - states).abs().max() < 0.1
    assert agent.actor(states).std.max() < 0.3  # a wide normal is punished: it falls towards its floor of 0.1


@pytest.mark.parametrize("wrong", [{"lam": 1.5}, {"slow_rate": 0.0}, {"actor_slow_rate": 0.0}, {"entropy_scale": -1.0}])
def test_an_impossible_agent_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        agent_of(SPECS["discrete"], 3, **wrong)


def test_an_actor_without_hidden_layers_is_refused():
    with pytest.raises(ValueError, match="layers: expected at least 1, got 0"):
        Actor(3, ActionFamily(SPECS["discrete"]), layers=0)
