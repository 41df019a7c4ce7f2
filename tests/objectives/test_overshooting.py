"""Overshooting: closed forms of a linear-Gaussian model, the naive loop, where gradients stop, and the ledger."""

import math

import pytest
import torch

from worldmodel.models.likelihoods import Normal
from worldmodel.objectives.batch_bound import bound_loss_and_states
from worldmodel.objectives.loss import Objective
from worldmodel.objectives.overshooting import Overshooting, choose_windows, overshooting
from worldmodel.oracles.distributions import Gaussian
from worldmodel.types import State
from worlds import CATEGORICAL, FULL, GAUSSIAN, make_batch, make_model

A = torch.tensor([[0.9, 0.4], [-0.3, 0.8]], dtype=torch.float64)
Q = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64)
Q_FILTERED = torch.tensor([[0.1, 0.02], [0.02, 0.15]], dtype=torch.float64)
R_STD = torch.tensor([0.5, 0.7], dtype=torch.float64)


class Springs:
    """z_t ~ N(A z_{t-1} + a_t, Q), x_t ~ N(z_t, R); q(z_t | x_t) = N(x_t, Q_FILTERED), h_t the mean of the prior."""

    @property
    def dynamics(self):
        return self

    def carry_of(self, state):
        return state.stoch

    def noise(self, batch, steps, generator=None):
        return torch.randn(batch, steps, 2, generator=generator, dtype=torch.float64)

    def imagine(self, carry, state, act, noise):
        deters, stochs = [], []
        for noise_t in noise.unbind(1):
            action = act(State(carry, carry))
            deters.append(carry @ A.mT + action)
            carry = self.prior(deters[-1]).rsample(noise_t)
            stochs.append(carry)
        return State(torch.stack(deters, 1), torch.stack(stochs, 1)), None

    def prior(self, deter):
        return Gaussian(deter, Q)

    def posterior(self, deter, projected):
        return Gaussian(projected, Q_FILTERED)

    def embed_sequence(self, batch):
        return batch.obs["obs"]

    def project(self, embed):
        return embed

    def decode(self, state):
        return {"obs": Normal(state.stoch, R_STD.expand_as(state.stoch))}

    def targets(self, batch):
        return batch.obs

    def observed(self, batch):
        return {}


def one_window(copies, steps):
    """Copies of a short sequence whose first row alone is far enough from the end for all steps."""
    batch = make_batch(batch=1, length=steps + 1, first=(), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, steps + 1, 2, generator=generator, dtype=torch.float64)
    flags = {"is_first": torch.arange(steps + 1)[None] == 0, "valid": torch.ones(1, steps + 1, dtype=torch.bool)}
    batch = batch._replace(obs={"obs": x}, **flags)
    many = type(batch)({"obs": x.expand(copies, -1, -1)}, *(part.expand(copies, *part.shape[1:]) for part in batch[1:]))
    return many, State(many.obs["obs"], many.obs["obs"])


def means_ahead(batch, steps):
    """E[z_t | z_0 = x_0] under the actions, and Cov, t = 1 .. steps."""
    mean, cov = batch.obs["obs"][0, 0], torch.zeros(2, 2, dtype=torch.float64)
    for t in range(1, steps + 1):
        mean, cov = A @ mean + batch.prev_action[0, t], A @ cov @ A.mT + Q
        yield mean, cov


def from_the_first_row(of, batch, states, steps, samples=1):
    """The term of each row times steps - 1, as the first row alone is a start."""
    every = steps + 1
    seed = next(s for s in range(100) if torch.randint(every, (1,), generator=torch.Generator().manual_seed(s)) == 0)
    settings = Overshooting((steps - 1) / every, of, steps, every, samples)
    return overshooting(Springs(), batch, states, settings, torch.Generator().manual_seed(seed))


def test_latents_are_compared_as_the_closed_form_of_a_linear_gaussian_model_has_it():
    batch, states = one_window(copies=20_000, steps=3)
    found = from_the_first_row("latents", batch, states, steps=3)
    assert (found[:, :2] == 0).all()  # the start, and the row one step ahead, which the bound has
    ahead = list(means_ahead(batch, 3))
    for t in (2, 3):
        mean, cov = ahead[t - 1]
        expected = Gaussian(batch.obs["obs"][0, t], Q_FILTERED).kl(Gaussian(mean, Q))
        expected = expected + 0.5 * torch.linalg.solve(Q, cov - Q).trace()  # of the steps between, one draw at a time
        error = found[:, t].std() / math.sqrt(len(found))
        assert abs(found[:, t].mean() - expected) < 4 * error


@pytest.mark.parametrize("samples", [1, 400])
def test_rows_are_compared_as_the_closed_form_has_it(samples):
    batch, states = one_window(copies=20_000 if samples == 1 else 400, steps=3)
    found = from_the_first_row("rows", batch, states, steps=3, samples=samples)
    for t, (mean, cov) in enumerate(means_ahead(batch, 3), start=1):
        if t == 1:
            continue
        x, R = batch.obs["obs"][0, t], torch.diag(R_STD.square())
        one_draw = -Gaussian(mean, R).log_prob(x) + 0.5 * torch.linalg.solve(R, cov).trace()
        expected = one_draw if samples == 1 else -Gaussian(mean, cov + R).log_prob(x)
        bias = 0.0 if samples == 1 else 0.02  # of a logarithm of a mean of 400
        assert abs(found[:, t].mean() - expected) < 4 * found[:, t].std() / math.sqrt(len(found)) + bias
        assert samples == 1 or found[:, t].mean() < one_draw - 0.1  # or the test could not tell the two apart


@pytest.mark.parametrize("of", ["latents", "rows"])
@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
def test_it_is_the_mean_over_distances_of_the_naive_loop(of, latent):
    model, batch = make_model(latent=latent).double(), make_batch(dtype=torch.float64)
    states = model.observe(batch, model.noise(3, 7, torch.Generator().manual_seed(2))).states
    settings = Overshooting(0.3, of, steps=4, every=1, samples=2)
    found = overshooting(model, batch, states, settings, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, naive(model, batch, states, settings, torch.Generator().manual_seed(3)))
    assert (found != 0).any()


def naive(model, batch, states, settings, generator):
    """One start, one future, one step at a time, with the same noise."""
    B, T = batch.valid.shape
    M, D = (settings.samples if settings.of == "rows" else 1), settings.steps
    torch.randint(1, (1,), generator=generator)
    noise = model.noise(M * B * T, D, generator).unflatten(0, (M, B, T))
    filtered = model.observe(batch, model.noise(B, T, torch.Generator().manual_seed(2)))
    targets, observed = model.targets(batch), model.observed(batch)
    term = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        for s in range(T):
            futures = [State(states.deter[b, s][None], states.stoch[b, s][None]) for _ in range(M)]
            for d in range(1, D + 1):
                t = s + d
                if t >= T or batch.is_first[b, t]:
                    break
                for m in range(M):
                    _, deter = model.dynamics.step(futures[m], batch.prev_action[b, t][None])
                    prior = model.dynamics.prior(deter)
                    futures[m] = State(deter, prior.rsample(noise[m, b, s, d - 1][None]))
                if d == 1 or not (batch.valid[b, s] and batch.valid[b, t]):
                    continue
                if settings.of == "latents":
                    nats = filtered.posterior.kl(model.dynamics.prior(deter.expand(B, T, -1)))[b, t].sum()
                else:
                    each = []
                    for future in futures:
                        decoded = model.decode(future)
                        terms = {name: p.log_prob(targets[name][b, t][None]) for name, p in decoded.items()}
                        each.append(sum(x for name, x in terms.items() if name not in observed or observed[name][b, t]))
                    nats = math.log(M) - torch.cat(each).logsumexp(0)
                term[b, t] += settings.scale / (D - 1) * nats
    return term


def test_q_learns_nothing_from_being_compared_but_what_starts_from_it_does():
    """The target's gradient stops: only the prior, the recurrence and the state that a future starts from have one."""
    model, batch = make_model().double(), make_batch(dtype=torch.float64)
    trajectory = model.observe(batch, model.noise(3, 7, torch.Generator().manual_seed(2)))
    detached = State(*(x.detach().requires_grad_() for x in trajectory.states))
    term = overshooting(model, batch, detached, Overshooting(1.0, "latents", steps=4, every=1)).sum()
    of_states = torch.autograd.grad(term, list(detached), retain_graph=True)
    assert all((x != 0).any() for x in of_states)
    assert all((x[:, -2:] == 0).all() for x in of_states)  # no row follows the last of them by two steps or more
    heads = [*model.dynamics.posterior_rest.parameters(), *model.encoder.parameters()]
    assert all(x is None for x in torch.autograd.grad(term, heads, retain_graph=True, allow_unused=True))
    assert all((x != 0).any() for x in torch.autograd.grad(term, list(model.dynamics.prior_head.parameters())))


def test_a_future_ends_with_its_episode_and_counts_from_valid_rows_to_valid_rows():
    batch = make_batch()
    batch = batch._replace(valid=torch.ones(3, 7, dtype=torch.bool), is_first=torch.zeros(3, 7, dtype=torch.bool))
    batch.is_first[:, 0] = True
    batch.is_first[1, 4] = True
    batch.valid[2, :3] = False
    windows = choose_windows(batch, Overshooting(1.0, steps=5, every=1))
    pairs = {b: {(s, s + d + 1) for s, d in windows.counted[b].nonzero().tolist()} for b in range(3)}
    every = {(s, t) for s in range(7) for t in range(s + 2, min(7, s + 6))}
    assert pairs[0] == every
    assert pairs[1] == {(s, t) for s, t in every if (s < 4) == (t < 4)}
    assert pairs[2] == {(s, t) for s, t in every if s >= 3}


def test_the_draws_of_few_starts_share_all_pairs_of_rows_equally():
    batch = make_batch()

    def pairs(every, seed):
        windows = choose_windows(batch, Overshooting(1.0, steps=4, every=every), torch.Generator().manual_seed(seed))
        starts = windows.start.tolist()
        return frozenset((b, starts[k], starts[k] + d + 1) for b, k, d in windows.counted.nonzero().tolist())

    all_of_them, drawn = pairs(1, 0), {pairs(3, seed) for seed in range(30)}
    assert len(drawn) == 3  # by the first start, 0, 1 or 2
    assert frozenset.union(*drawn) == all_of_them
    assert sum(len(some) for some in drawn) == len(all_of_them)


@pytest.mark.parametrize("of", ["latents", "rows"])
def test_the_ledger_has_its_price_and_the_bound_is_as_it_was(of):
    model, batch = make_model(), make_batch()
    objective = Objective(overshooting=Overshooting(0.5, of, steps=3, every=2))
    with_it, without = (
        bound_loss_and_states(model, batch, one, torch.Generator().manual_seed(0)) for one in (objective, Objective())
    )
    torch.testing.assert_close(with_it[0].elbo, without[0].elbo, rtol=0, atol=0)
    assert {*with_it[1].ledger} - {*without[1].ledger} == {"overshooting"}
    torch.testing.assert_close(with_it[1].ledger["overshooting"], (with_it[1].value - without[1].value).detach())
    torch.testing.assert_close(sum(with_it[1].ledger.values()), with_it[1].value.detach())
    assert with_it[1].ledger["overshooting"] != 0
