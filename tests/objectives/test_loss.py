"""The loss: the bound itself by default, each trick as its paper has it, and a ledger that adds up."""

import pytest
import torch

from worldmodel.objectives.elbo import Bound, elbo, masked_mean
from worldmodel.objectives.loss import Objective, divergence, loss, optimised_kl, with_free_nats
from worlds import CATEGORICAL, FULL, GAUSSIAN, make_batch, make_model

RECIPES = {
    "bound": Objective(),
    "PlaNet": Objective(free_nats=3.0, free_nats_rule="excess", scales={"reward": 10.0}),
    "DreamerV1": Objective(free_nats=3.0, free_nats_rule="mean"),
    "DreamerV2": Objective(dyn_rep=(0.8, 0.2), beta=0.1),
    "DreamerV3": Objective(dyn_rep=(1.0, 0.1), free_nats=1.0),
}


def made(latent=GAUSSIAN, seed=0):
    model, batch = make_model(latent=latent, seed=seed).double(), make_batch(dtype=torch.float64)
    noise = model.dynamics.noise(3, 7, torch.Generator().manual_seed(seed))
    (_, posterior, prior, _), likelihoods = model(batch, noise)
    bound = elbo(likelihoods, model.targets(batch), posterior, prior, valid=batch.valid, observed=model.observed(batch))
    return model, bound, posterior, prior


def optimised(bound, posterior, prior, objective):
    return loss(bound, divergence(posterior, prior, objective), objective)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
def test_the_ledger_leads_from_the_bound_to_the_loss(recipe, latent):
    _, bound, posterior, prior = made(latent)
    result = optimised(bound, posterior, prior, RECIPES[recipe])
    torch.testing.assert_close(result.value, sum(result.ledger.values()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.ledger["negative_elbo"], -bound.per_step()["elbo"], rtol=1e-12, atol=1e-12)


def test_the_default_is_the_bound_in_value_and_gradient():
    model, bound, posterior, prior = made()
    result = optimised(bound, posterior, prior, Objective())
    parameters = list(model.parameters())
    got = torch.autograd.grad(result.value, parameters, retain_graph=True)
    expected = torch.autograd.grad(-bound.elbo.mean(), parameters)
    torch.testing.assert_close(result.value, -bound.elbo.mean())
    torch.testing.assert_close(got, expected)
    assert all(value == 0 for name, value in result.ledger.items() if name != "negative_elbo")


def raw_gradients(objective, latent=GAUSSIAN):
    """Gradients of the KL part alone with respect to what the two heads put out."""
    generator = torch.Generator().manual_seed(0)
    q, p = (
        torch.randn(3, 7, latent.parameters, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    posterior, prior = latent.distribution(q), latent.distribution(p)
    none = {"x": torch.zeros(3, 7, dtype=torch.float64)}
    bound = Bound(none, posterior.kl(prior), torch.ones(3, 7, dtype=torch.bool))
    result = optimised(bound, posterior, prior, objective)
    return torch.autograd.grad(result.value, (q, p)), result, bound


@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
@pytest.mark.parametrize(("dyn", "rep"), [(0.8, 0.2), (1.0, 0.1), (0.0, 1.0)])
def test_balancing_scales_each_sides_gradient(latent, dyn, rep):
    (q, p), _, _ = raw_gradients(Objective(dyn_rep=(dyn, rep)), latent)
    (plain_q, plain_p), _, _ = raw_gradients(Objective(), latent)
    torch.testing.assert_close(q, rep * plain_q)
    torch.testing.assert_close(p, dyn * plain_p)


def test_balancing_that_sums_to_one_changes_gradients_and_not_value():
    _, balanced, bound = raw_gradients(Objective(dyn_rep=(0.8, 0.2)))
    torch.testing.assert_close(balanced.optimised_kl, bound.kl)
    assert balanced.ledger["balancing"].abs() < 1e-12


def test_free_nats_stop_the_gradient_below_them_and_only_there():
    (q, p), result, bound = raw_gradients(Objective(free_nats=3.0))
    under = bound.kl < 3.0
    assert under.any() and (~under).any()
    assert q[under].eq(0).all() and p[under].eq(0).all()
    assert q[~under].abs().sum(-1).gt(0).all()
    assert result.optimised_kl[under].eq(3.0).all()


def test_each_rule_of_free_nats_is_its_formula():
    kl = torch.tensor([[0.5, 1.5, 4.0]])
    valid = torch.ones_like(kl, dtype=torch.bool)
    assert with_free_nats(kl, valid, 1.0, "step").tolist() == [[1.0, 1.5, 4.0]]
    assert with_free_nats(kl, valid, 1.0, "excess").tolist() == [[0.0, 0.5, 3.0]]
    assert with_free_nats(kl, valid, 1.0, "mean").tolist() == [[2.0, 2.0, 2.0]]
    assert with_free_nats(kl, valid, 3.0, "mean").tolist() == [[3.0, 3.0, 3.0]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_value_of_the_optimised_kl_follows_from_the_raw_one(recipe):
    _, bound, posterior, prior = made()
    result = optimised(bound, posterior, prior, RECIPES[recipe])
    torch.testing.assert_close(optimised_kl(bound.kl, bound.valid, RECIPES[recipe]), result.optimised_kl)


@pytest.mark.parametrize("rule", ["step", "mean", "excess"])
@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
def test_balancing_is_two_divergences_under_every_rule(latent, rule):
    q, p = (torch.randn(3, 7, latent.parameters, dtype=torch.float64, requires_grad=True) for _ in range(2))
    posterior, prior = latent.distribution(q), latent.distribution(p)
    none, valid = {"x": torch.zeros(3, 7, dtype=torch.float64)}, torch.rand(3, 7) < 0.8
    free = posterior.kl(prior).sum(-1).median().item() * 0.99
    objective = Objective(dyn_rep=(0.8, 0.1), free_nats=free, free_nats_rule=rule)
    value = optimised(Bound(none, posterior.kl(prior), valid), posterior, prior, objective).value
    dyn = with_free_nats(posterior.detach().kl(prior).sum(-1), valid, free, rule)
    rep = with_free_nats(posterior.kl(prior.detach()).sum(-1), valid, free, rule)
    expected = masked_mean(0.8 * dyn + 0.1 * rep, valid)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, (q, p)), torch.autograd.grad(expected, (q, p)))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
def test_what_is_said_of_the_latents_is_theirs(recipe, latent):
    _, bound, posterior, prior = made(latent)
    said = optimised(bound, posterior, prior, RECIPES[recipe]).latent
    torch.testing.assert_close(said["posterior_entropy"], posterior.entropy().sum(-1).mean())
    torch.testing.assert_close(said["prior_entropy"], prior.entropy().sum(-1).mean())
    torch.testing.assert_close(said["under_free_nats"], (bound.kl < RECIPES[recipe].free_nats).double().mean())


def test_beta_and_scales_price_what_they_add():
    _, bound, posterior, prior = made()
    result = optimised(bound, posterior, prior, Objective(beta=3.0, scales={"obs": 0.5}))
    torch.testing.assert_close(result.ledger["beta"], 2 * bound.per_step()["kl"])
    torch.testing.assert_close(result.ledger["scale_obs"], 0.5 * bound.per_step()["obs"])


def test_a_warm_up_raises_beta_linearly_and_the_ledger_prices_it():
    objective = Objective(beta=2.0, kl_warmup=4)
    assert [objective.at(update).beta for update in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert Objective(beta=3.0).at(0) == Objective(beta=3.0)
    _, bound, posterior, prior = made()
    result = optimised(bound, posterior, prior, objective.at(0))
    torch.testing.assert_close(result.ledger["beta"], -0.5 * bound.per_step()["kl"])


def test_invalid_rows_count_nowhere():
    model, batch = make_model().double(), make_batch(dtype=torch.float64)
    noise = model.dynamics.noise(3, 7, torch.Generator().manual_seed(0))
    values = []
    for poison in (0.0, 100.0):
        obs = {"obs": batch.obs["obs"].clone()}
        obs["obs"][:, 6] += poison  # the last row influences no other
        valid = batch.valid.clone()
        valid[:, 6] = False
        rows = batch._replace(obs=obs, valid=valid)
        (_, posterior, prior, _), likelihoods = model(rows, noise)
        bound = elbo(likelihoods, model.targets(rows), posterior, prior, valid=valid)
        values.append(optimised(bound, posterior, prior, RECIPES["DreamerV3"]).value)
    assert values[0] == values[1]


@pytest.mark.parametrize(("divided", "asked"), [("bound", "DreamerV3"), ("DreamerV3", "bound")])
def test_a_divergence_for_another_objective_is_refused(divided, asked):
    _, bound, posterior, prior = made()
    each = divergence(posterior, prior, RECIPES[divided])
    with pytest.raises(ValueError, match="each: expected"):
        loss(bound, each, RECIPES[asked])
