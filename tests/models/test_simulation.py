"""Episodes of the model's own making: drawn from its own densities, with flags that belong together."""

import pytest
import torch
from torch.utils._pytree import tree_map

from worldmodel.models.simulation import simulate
from worldmodel.types import Batch, State
from worlds import CATEGORICAL, GAUSSIAN, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model


def mortal(model, logit):
    """A model whose continue flag has the same logit everywhere."""
    with torch.no_grad():
        last = model.decoder.continue_head[-1]
        last.weight.zero_()
        last.bias.fill_(logit)
    return model


def test_rows_are_of_the_template_and_an_episode_ends_where_it_says(generator):
    model, template = mortal(make_model(MIXED_SPEC), 1.0), make_batch(MIXED_SPEC, 200, 6, first=())
    template = template._replace(valid=torch.arange(6) < torch.tensor([6, 4]).repeat(100)[:, None])
    drawn, path = simulate(model, template, generator=generator)
    for name, leaf in MIXED_SPEC.observations.items():
        assert drawn.obs[name].shape == template.obs[name].shape and drawn.obs[name].dtype == template.obs[name].dtype
        assert leaf.kind != "categorical" or (drawn.obs[name] < torch.tensor(leaf.classes)).all()
    assert path.shape == (200, 6, 4) and torch.equal(drawn.prev_action, template.prev_action)
    assert not drawn.reward[:, 0].any() and drawn.reward[:, 1:].all()
    length = drawn.valid.sum(1)
    assert (length >= 1).all() and (length <= template.valid.sum(1)).all()
    last = drawn.is_last.int().argmax(1)
    assert torch.equal(last + 1, length) and (drawn.is_last.sum(1) == 1).all()
    ended = drawn.is_terminal.any(1)
    assert torch.equal(drawn.is_terminal.int().argmax(1)[ended], last[ended])
    assert (ended | (length == template.valid.sum(1))).all()
    survived = torch.tensor(1.0).sigmoid()
    share = (length == 6)[::2].double().mean()  # five rows survived, whatever the sixth says
    assert abs(share - survived**5) < 3 * (survived**5 * (1 - survived**5) / 100) ** 0.5
    model.given(drawn)


@pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
@torch.no_grad()
def test_rows_have_the_moments_that_their_states_say(latent, generator):
    """Standardised by the density of the state that made them, all rows together are standard normal."""
    model, template = mortal(make_model(latent=latent).double(), 50.0), make_batch(batch=400, length=5, first=())
    drawn, path = simulate(model, template, generator=generator)
    state = model.dynamics.initial(400)
    for t in range(5):
        _, deter = model.dynamics.step(state, template.prev_action[:, t].double(), template.is_first[:, t])
        state = State(deter, path[:, t])
        x = model.decode(state)["obs"]
        error = (drawn.obs["obs"][:, t] - x.mean) / x.std
        assert error.mean().abs() < 4 / 1200**0.5 and abs(error.std() - 1) < 4 / 2400**0.5
    reference = model.dynamics.prior(
        model.dynamics.step(model.dynamics.initial(1), torch.zeros(1, 2).double(), torch.tensor([True]))[1]
    )
    first = reference.sample(generator) if latent is GAUSSIAN else reference.log_probs.exp().flatten(-2)
    if latent is CATEGORICAL:
        error = (first * (1 - first) / 400).sqrt()
        assert ((path[:, 0].mean(0) - first[0]).abs() < 4 * error + 1e-12).all()
    else:
        assert ((path[:, 0].mean(0) - reference.mean[0]).abs() < 4 * reference.std[0] / 20).all()


def test_a_template_that_is_not_whole_episodes_is_refused():
    with pytest.raises(ValueError, match="is_first"):
        simulate(make_model(), make_batch(first=((1, 3),)))


def test_the_same_seed_draws_the_same_episodes():
    draw = lambda: simulate(make_model(), make_batch(first=()), generator=torch.Generator().manual_seed(1))  # noqa: E731
    one, other = draw(), draw()
    assert isinstance(one.batch, Batch) and torch.equal(one.path, other.path)
    assert torch.equal(one.batch.obs["obs"], other.batch.obs["obs"])
    assert VECTOR_SPEC.observations.keys() == one.batch.obs.keys()


@torch.no_grad()
def test_of_many_first_rows_the_nearest_is_kept_and_its_latent_is_an_exact_draw(generator):
    """E[z_1 | x_1] by weights over many draws of the prior, against the latents that came with the chosen x_1."""
    model, template = mortal(make_model().double(), 50.0), make_batch(batch=300, length=1, first=())
    one = simulate(model, template, generator=generator).batch
    near, path = simulate(model, template, candidates=32, generator=generator)

    def distance(batch):
        return (batch.obs["obs"] - template.obs["obs"]).square().sum(-1).sqrt().mean()

    assert distance(near) < 0.6 * distance(one)
    state = model.dynamics.step(model.dynamics.initial(1), template.prev_action[:1, 0].double(), torch.tensor([True]))
    deter = state[1].expand(4000, -1)
    z = model.dynamics.prior(deter).sample(generator)
    density = model.decode(State(deter, z))["obs"]
    log_weight = torch.stack([density.log_prob(x.expand(4000, -1)) for x in near.obs["obs"][:, 0]])
    weight = log_weight.softmax(-1)  # [300, 4000]
    mean = weight @ z
    off = (path[:, 0] - mean) / (weight @ z.square() - mean.square()).sqrt()
    assert (off.mean(0).abs() < 4 / 300**0.5).all()
    assert ((off.square().mean(0) - 1).abs() < 4 * (2 / 300) ** 0.5).all()


@torch.no_grad()
def test_rows_that_follow_a_state_are_drawn_from_it(generator):
    model, template = mortal(make_model().double(), 50.0), make_batch(batch=400, length=3, first=())
    rest = template._replace(is_first=torch.zeros(400, 3, dtype=torch.bool))
    carry = model.dynamics.carry_of(State(*(torch.randn(1, n, dtype=torch.float64) for n in model.decoder.widths)))
    start = tree_map(lambda x: x.expand(400, *x.shape[1:]), carry)
    drawn, path = simulate(model, rest, start=start, generator=generator)
    _, deter = model.dynamics.step(start, rest.prev_action[:, 0].double(), rest.is_first[:, 0])
    prior = model.dynamics.prior(deter)
    off = (path[:, 0] - prior.mean) / prior.std
    assert (off.mean(0).abs() < 4 / 20).all() and ((off.square().mean(0) - 1).abs() < 4 * (2 / 400) ** 0.5).all()
    assert drawn.reward[:, 0].any()  # which a first row would not have
    with pytest.raises(ValueError, match="without a reset"):
        simulate(model, template, start=start)
    with pytest.raises(ValueError, match="candidates: expected at least 1, got 0"):
        simulate(model, template, candidates=0)
