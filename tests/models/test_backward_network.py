"""What follows a row: its recursion, what it may not know, and a smoothing model that acts by filtering."""

import pytest
import torch

from worldmodel.behaviour.imagination import filter_samples
from worldmodel.data.batches import select
from worldmodel.models.backward_network import BackwardNetwork
from worldmodel.objectives.elbo import sequence_elbo
from worldmodel.types import State
from worlds import CATEGORICAL, FULL, GAUSSIAN, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

ROUNDING = {"rtol": 1e-9, "atol": 1e-10}  # float64
ENDS = ((0, 6), (1, 2), (1, 6), (2, 6))  # the rows of `rows` that nothing follows


def smoothing_model(spec=VECTOR_SPEC, latent=GAUSSIAN, **options):
    model = make_model(spec, latent, smoothing=True, **options).double()
    torch.nn.init.normal_(model.backward_network.nothing)
    return model


def rows(spec=VECTOR_SPEC):
    """Three sequences of seven rows; a new episode begins at row 3 of the second."""
    return make_batch(spec, dtype=torch.float64)


def posterior_of(model, batch, noise):
    return model.observe(batch, noise).posterior


def test_a_summary_is_its_recursion(generator):
    backward_network = BackwardNetwork(embed=3, action=2, width=4).double()
    torch.nn.init.normal_(backward_network.nothing)
    embed = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    action = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    never = torch.zeros(2, 5, dtype=torch.bool)
    summary = backward_network.nothing.expand(2, -1)
    summaries = backward_network(embed, action, never, never)
    for t in (4, 3, 2, 1, 0):
        torch.testing.assert_close(summaries[:, t], summary, **ROUNDING)
        summary = backward_network.gru(torch.cat([embed[:, t], action[:, t]], -1), summary)


@pytest.mark.parametrize("mark", ["is_first", "is_last"])
def test_nothing_follows_the_end_of_an_episode_however_it_is_marked(mark, generator):
    """By the reset of the next one, as in a sequence of the replay; or by its own last row, with padding behind it."""
    backward_network = BackwardNetwork(embed=3, action=2, width=4).double()
    embed = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64)
    action = torch.randn(1, 6, 2, generator=generator, dtype=torch.float64)
    flags = {name: torch.zeros(1, 6, dtype=torch.bool) for name in ("is_first", "is_last")}
    flags[mark][0, 4 if mark == "is_first" else 3] = True
    whole = backward_network(embed, action, **flags)
    alone = backward_network(embed[:, :4], action[:, :4], *(torch.zeros(1, 4, dtype=torch.bool) for _ in range(2)))
    torch.testing.assert_close(whole[:, :4], alone, **ROUNDING)


@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
@pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC], ids=["vector", "mixed"])
def test_where_nothing_follows_the_smoothing_posterior_is_what_acting_computes(spec, latent, generator):
    model, batch = smoothing_model(spec, latent, read_reward=True), rows(spec)
    noise = model.dynamics.noise(3, 7, generator)
    states, posterior, *_ = model.observe(batch, noise)
    stepped = []
    for t in range(7):
        before = State(*(x[:, t - 1] for x in states)) if t else model.dynamics.initial(3)
        obs = {path: x[:, t] for path, x in batch.obs.items()}
        arguments = (obs, batch.prev_action[:, t], batch.is_first[:, t], noise[:, t], batch.reward[:, t])
        stepped.append(model.step(before, *arguments)[2])
    difference = torch.stack([q.kl(p) for q, p in zip(stepped, at_each_row(model, posterior), strict=True)], 1).sum(-1)
    agree = difference.abs() < 1e-12
    assert {tuple(place) for place in agree.nonzero().tolist()} == set(ENDS)


def at_each_row(model, posterior):
    raw = posterior.raw if hasattr(posterior, "raw") else posterior.logits.flatten(-2)
    return [model.dynamics.latent.distribution(raw[:, t]) for t in range(raw.shape[1])]


def test_a_row_knows_what_follows_in_its_episode_and_nothing_of_another(generator):
    model, batch = smoothing_model(read_reward=True), rows()
    noise = model.dynamics.noise(3, 7, generator)
    base = model.embed_sequence(batch)
    for field in ("obs", "reward", "prev_action"):
        changed = {"obs": batch.obs["obs"].clone()} if field == "obs" else getattr(batch, field).clone()
        (changed["obs"] if field == "obs" else changed)[:, 4] += 1.0
        moved = (model.embed_sequence(batch._replace(**{field: changed})) - base).abs().sum(-1) > 1e-12
        own = field != "prev_action"  # what led to a row is no part of the row's own embedding
        assert moved.tolist()[0] == [True] * 4 + [own, False, False]
        assert moved.tolist()[1] == [False] * 3 + [True, own, False, False]
    assert posterior_of(model, batch, noise).mean.shape == (3, 7, 4)


def test_filtered_states_know_nothing_of_what_follows():
    """Also where a whole episode is filtered at once, to imagine from many of its rows."""
    model, batch = smoothing_model(), rows()
    changed = {"obs": batch.obs["obs"].clone()}
    changed["obs"][:, 5] += 1.0
    before, after = (
        filter_samples(model, b, 2, torch.Generator().manual_seed(1)).stoch
        for b in (batch, batch._replace(obs=changed))
    )
    assert torch.equal(before[:, :, :5], after[:, :, :5]) and not torch.equal(before[:, :, 5], after[:, :, 5])


def test_the_model_given_episodes_has_the_posterior_that_it_is_trained_with(generator):
    """The bound by way of `given` and by way of training agree in the mean over draws, and know the future alike."""
    model, batch = smoothing_model(read_reward=True), make_batch(first=(), length=4, dtype=torch.float64)
    sequence, noise = model.given(batch), model.dynamics.noise(3, 4, generator)
    states, posterior, prior, _ = model.observe(batch, noise)
    for t in range(4):
        proposal = sequence.proposal(states.deter[None, :, t], t)
        torch.testing.assert_close(proposal.mean[0], posterior.mean[:, t], **ROUNDING)
    many = select(batch, torch.zeros(4000, dtype=torch.long))
    states, posterior, prior, _ = model.observe(many, model.dynamics.noise(4000, 4, generator))
    kl = posterior.kl(prior).sum((1, 2))
    drawn = sequence_elbo(sequence, 4000, generator=generator).kl_groups[:, 0].sum((1, 2))
    assert (kl.mean() - drawn.mean()).abs() < 4 * ((kl.var() + drawn.var()) / 4000) ** 0.5


def test_gradients_reach_what_nothing_follows_means(generator):
    model, batch = smoothing_model(read_reward=True), rows()
    posterior_of(model, batch, model.dynamics.noise(3, 7, generator)).mean.sum().backward()
    assert [name for name, p in model.backward_network.named_parameters() if p.grad is None or not p.grad.any()] == []
