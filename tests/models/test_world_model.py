"""Encoder, decoder and world model: every kind of leaf, units, masks, and agreement of training and acting."""

import numpy as np
import pytest
import scipy.stats
import torch

from worldmodel.models.decoder import ESCAPE, GaussianHead
from worldmodel.models.encoder import Encoder, as_numbers
from worldmodel.models.likelihoods import Affine, SymlogNormal, TwoHot
from worldmodel.models.simulation import simulate
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.objectives.elbo import elbo
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec, State
from worlds import CATEGORICAL, FULL, GAUSSIAN, INTEGER_SPEC, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

specs = pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC], ids=["vector", "mixed"])


def bound_of(model, batch, noise):
    (_, posterior, prior, _), likelihoods = model(batch, noise)
    return elbo(likelihoods, model.targets(batch), posterior, prior, valid=batch.valid, observed=model.observed(batch))


@specs
@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
def test_acting_and_training_give_the_same_bound_on_the_same_noise(spec, latent, generator):
    model, batch = make_model(spec, latent).double(), make_batch(spec, dtype=torch.float64)
    noise = model.dynamics.noise(3, 7, generator)
    bound = bound_of(model, batch, noise)
    carry = model.dynamics.initial(3)
    targets, observed = model.targets(batch), model.observed(batch)
    for t in range(7):
        obs = {path: x[:, t] for path, x in batch.obs.items()}
        arguments = (obs, batch.prev_action[:, t], batch.is_first[:, t], noise[:, t])
        carry, state, posterior = model.step(carry, *arguments)
        terms = {name: p.log_prob(targets[name][:, t]) for name, p in model.decode(state).items()}
        terms["reward"] = terms["reward"] * observed["reward"][:, t]
        stepwise = sum(terms.values()) - posterior.kl(model.dynamics.prior(state.deter)).sum(-1)
        torch.testing.assert_close(bound.elbo[:, t], stepwise, rtol=1e-9, atol=1e-10)


def test_standardised_targets_keep_their_density(generator):
    """Predicting in other units moves the density by the Jacobian and nothing else."""
    model = make_model(standardise_targets=True).double()
    scaler = model.standardiser("obs")
    scaler.set(torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([2.0, 0.1, 30.0]).double())
    state = State(*(torch.randn(1, n, generator=generator, dtype=torch.float64) for n in (8, 4)))
    likelihood = model.decode(state)["obs"]
    assert isinstance(likelihood, Affine)
    x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    expected = torch.distributions.Normal(likelihood.mean, likelihood.std).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(x), expected)


def test_the_encoder_sees_standardised_vectors():
    model, batch = make_model(), make_batch()
    model.standardiser("obs").set(torch.full((3,), 5.0), torch.full((3,), 10.0))
    shifted = {"obs": batch.obs["obs"] * 10 + 5}
    raw = make_model(inputs="raw").embed(batch.obs)
    torch.testing.assert_close(model.embed(shifted), raw, rtol=1e-4, atol=1e-5)


def image_statistics():
    random = torch.Generator().manual_seed(1)
    mean, std = 255 * torch.rand(16, 16, 3, generator=random), 60 * torch.rand(16, 16, 3, generator=random)
    std[:4] = 0.0  # pixels that never change
    return mean, std


def test_a_new_model_of_images_is_the_datas_own_logistic_at_every_pixel(generator):
    model = make_model(MIXED_SPEC).double()
    mean, std = image_statistics()
    model.standardise("camera", mean, std)
    state = State(*(torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (8, 4)))
    image = torch.randint(0, 256, (5, 16, 16, 3), generator=generator).byte()
    scale = 0.25 + np.maximum(std.double().numpy() * np.sqrt(3) / np.pi, 1.0)  # of a logistic, above the floor
    edges = [np.where(image == 0, -np.inf, image - 0.5), np.where(image == 255, np.inf, image + 0.5)]
    low, high = (scipy.stats.logistic(mean.double().numpy(), scale).cdf(edge) for edge in edges)
    tails = [scipy.stats.logistic(mean.double().numpy(), scale).sf(edge) for edge in edges]
    mass = np.where(low < 0.5, high - low, tails[0] - tails[1])  # the difference that does not cancel
    expected = np.log(mass).sum((1, 2, 3))
    np.testing.assert_allclose(model.decode(state)["camera"].log_prob(image).detach(), expected, rtol=1e-6)


def test_a_pixel_that_hardly_changes_moves_by_less(generator):
    model = make_model(MIXED_SPEC).double()
    mean, std = image_statistics()
    model.standardise("camera", mean, std)
    torch.nn.init.constant_(model.decoder.image_head("camera").layers[-1].bias, 0.5)
    state = State(*(torch.randn(2, n, generator=generator, dtype=torch.float64) for n in (8, 4)))
    moved = model.decode(state)["camera"].location - mean
    torch.testing.assert_close(moved[0], 0.5 * (std**2 + 8**2).sqrt().double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved[1], moved[0])


def test_the_encoder_sees_differences_from_the_mean_image_in_units_of_their_mean_square():
    model = make_model(MIXED_SPEC)
    mean, std = image_statistics()
    model.standardise("camera", mean, std)
    image = torch.full((2, 16, 16, 3), 100, dtype=torch.uint8)
    expected = (image - mean) / std.square().mean().sqrt()
    torch.testing.assert_close(model._as_input("camera", image), expected)


@pytest.mark.parametrize("inputs", ["raw", "symlog"])
def test_images_that_are_not_standardised_lie_between_minus_and_plus_a_half(inputs):
    model = make_model(MIXED_SPEC, inputs=inputs, standardise_targets=False)
    model.standardise("camera", *image_statistics())
    image = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 16, 16, 3)
    seen = model._as_input("camera", image)
    assert (seen[0] == -0.5).all() and (seen[1] == 0.5).all()
    start = model.decode(model.dynamics.initial(1))["camera"]
    assert (start.location == 127.5).all()


def test_a_quantity_that_does_not_vary_keeps_its_scale():
    scaler = make_model().standardiser("obs")
    scaler.set(torch.tensor([3.0, 3.0, 3.0]), torch.tensor([0.0, 1e-9, 0.5]))
    assert scaler.scale.tolist() == [1.0, 1.0, 0.5]


def test_options_choose_the_densities():
    state = make_model().dynamics.initial(1)
    likelihoods = make_model(vector="symlog", reward="twohot").decode(state)
    assert isinstance(likelihoods["obs"], SymlogNormal) and isinstance(likelihoods["reward"], TwoHot)
    fixed = make_model(std=0.7, standardise_targets=False).decode(state)
    assert fixed["obs"].std.eq(0.7).all() and fixed["reward"].std.eq(0.7).all()


def test_resolution_is_a_floor_of_the_std_in_the_units_of_the_data():
    model = make_model()
    model.standardiser("obs").set(torch.zeros(3), torch.tensor([1.0, 10.0, 100.0]))
    head = model.decoder.flat_heads[0].raw_std
    torch.nn.init.constant_(head.bias, -1e3)
    torch.nn.init.zeros_(head.weight)
    std = model.decode(model.dynamics.initial(1))["obs"].std
    torch.testing.assert_close(std[0], torch.tensor([0.01, 0.1, 1.0]))
    torch.testing.assert_close(model.resolution()["obs"], std[0])
    assert make_model(std=1.0).resolution() == {}


def test_the_first_row_has_no_reward_term_and_a_terminal_row_does_not_go_on(generator):
    model, batch = make_model(), make_batch(first=((0, 2), (1, 3), (2, 5)), seed=3)
    bound = bound_of(model, batch, model.dynamics.noise(3, 7, generator))
    assert bound.log_likelihood["reward"][batch.is_first].eq(0).all()
    assert bound.log_likelihood["reward"][~batch.is_first].ne(0).all()
    assert torch.equal(model.targets(batch)["continue"][..., 0], ~batch.is_terminal)
    assert batch.is_terminal.any()


def test_the_linear_skip_carries_the_latent_to_the_mean(generator):
    model = make_model(skip=True)
    state = model.dynamics.initial(1)
    for p in model.decoder.trunk.parameters():
        torch.nn.init.zeros_(p)
    moved = State(state.deter, state.stoch + torch.randn(1, 4, generator=generator))
    skip = model.decoder.flat_heads[0].skip.weight
    change = model.decode(moved)["obs"].mean - model.decode(state)["obs"].mean
    torch.testing.assert_close(change, (moved.stoch - state.stoch) @ skip.T)


@specs
def test_every_leaf_reaches_the_embedding(spec):
    model, batch = make_model(spec), make_batch(spec)
    embed = model.embed(batch.obs)
    for path, x in batch.obs.items():
        changed = {**batch.obs, path: (x + 1) % 2 if x.dtype != torch.float32 else x + 1}
        assert (model.embed(changed) - embed).abs().max() > 1e-4, path


def test_categories_become_one_hot_vectors_side_by_side():
    spec = ObservationSpec("categorical", (2,), (2, 3))
    got = as_numbers(spec, torch.tensor([[1, 0], [0, 2]]))
    assert got.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


@specs
def test_autocast_keeps_densities_and_kls_in_float32(spec, generator):
    model, batch = make_model(spec), make_batch(spec)
    with torch.autocast("cpu", torch.bfloat16):
        bound = bound_of(model, batch, model.dynamics.noise(3, 7, generator))
    assert bound.kl_groups.dtype == torch.float32
    assert {x.dtype for x in bound.log_likelihood.values()} == {torch.float32}
    exact = bound_of(model, batch, model.dynamics.noise(3, 7, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(bound.elbo, exact.elbo, rtol=0.1, atol=1.0)  # bfloat16 keeps 8 bits


@specs
def test_an_encoder_that_reads_rewards_sees_them_everywhere_but_in_a_first_row(spec):
    model, batch = make_model(spec, read_reward=True), make_batch(spec)
    embed = model.embed(batch.obs, batch.reward, batch.is_first)
    moved = (model.embed(batch.obs, batch.reward + 1.0, batch.is_first) - embed).abs().sum(-1) > 0
    assert torch.equal(moved, ~batch.is_first)
    nowhere = model.embed(batch.obs, batch.reward, torch.ones_like(batch.is_first))
    there = torch.zeros_like(batch.reward), torch.zeros_like(batch.is_first)
    assert (nowhere - model.embed(batch.obs, *there)).abs().sum(-1).min() > 0  # no reward is not a reward of zero
    with pytest.raises(ValueError, match="expected those of the rows, since the encoder reads rewards, got None"):
        model.embed(batch.obs)


def test_a_learned_std_starts_where_it_is_told(generator):
    head = GaussianHead(6, 4, 3, std=None, resolution=0.01, skip=True, initial_std=0.1)
    torch.nn.init.zeros_(head.raw_std.weight)
    std = head(torch.randn(5, 6, generator=generator), torch.randn(5, 4, generator=generator)).std
    torch.testing.assert_close(std, torch.full((5, 3), 0.1))


def test_an_encoder_that_skips_has_its_inputs_in_the_embedding():
    encoder = Encoder(MIXED_SPEC.observations, layers=1, units=12, depth=4, reward=True, skip=True)
    batch, reward = make_batch(MIXED_SPEC), torch.rand(3, 7, 2)
    embed = encoder({**batch.obs, "camera": batch.obs["camera"].float()}, reward)
    inputs = [as_numbers(encoder.specs[key], batch.obs[key]) for key in encoder.flat]
    assert embed.shape[-1] == encoder.width
    torch.testing.assert_close(embed[..., -13:], torch.cat([*inputs, reward], -1))


def test_the_reward_is_read_in_standardised_units():
    model, batch = make_model(read_reward=True), make_batch()
    model.standardiser("reward").set(torch.tensor([5.0]), torch.tensor([10.0]))
    raw = make_model(inputs="raw", read_reward=True).embed(batch.obs, batch.reward, batch.is_first)
    torch.testing.assert_close(model.embed(batch.obs, batch.reward * 10 + 5, batch.is_first), raw)


def test_reading_the_reward_keeps_acting_and_training_the_same(generator):
    model, batch = make_model(read_reward=True).double(), make_batch(dtype=torch.float64)
    noise = model.dynamics.noise(3, 7, generator)
    states, carry = model.observe(batch, noise).states, model.dynamics.initial(3)
    for t in range(7):
        row = ({"obs": batch.obs["obs"][:, t]}, batch.prev_action[:, t], batch.is_first[:, t], noise[:, t])
        carry, state, _ = model.step(carry, *row, batch.reward[:, t])
        torch.testing.assert_close(states.stoch[:, t], state.stoch, rtol=1e-9, atol=1e-10)


def test_whole_numbers_are_read_in_units_of_their_spread_and_decoded_as_a_mass_around_it():
    model, batch = make_model(INTEGER_SPEC), make_batch(INTEGER_SPEC)
    mean, std = torch.tensor([100.0, 4.0, 150.0, 5.0]), torch.tensor([60.0, 0.5, 80.0, 0.0])
    model.standardise("grid", mean, std)
    seen = model._as_input("grid", batch.obs["grid"])
    torch.testing.assert_close(seen, (batch.obs["grid"].float() - mean) / torch.tensor([60.0, 0.5, 80.0, 1.0]))
    head = model.decoder.integer_head("grid")
    torch.nn.init.zeros_(head.raw.weight)
    torch.nn.init.zeros_(head.raw.bias)
    state = State(torch.zeros(1, 8), torch.zeros(1, model.dynamics.latent.width))
    p = model.decode(state)["grid"]
    torch.testing.assert_close(p.location.mean(-1)[0], mean)
    assert "grid" not in model.resolution()
    wide = p.location[0, :, 2] - p.location[0, :, 1]
    torch.testing.assert_close(wide, (std.square() + 1).sqrt())  # an entry that never changed: in whole numbers
    total = sum(model.decode(state)["grid"].log_prob(torch.tensor([[v, 4, 150, 5]])).exp() for v in range(256))
    rest = model.decode(state)["grid"].log_prob(torch.tensor([[300, 4, 150, 5]]))
    assert torch.isfinite(rest).all() and 0 < total.item() < 1


def test_a_whole_number_that_was_never_seen_costs_no_more_than_the_escape():
    """However sure the learned components are of another one."""
    model = make_model(INTEGER_SPEC)
    head = model.decoder.integer_head("grid")
    torch.nn.init.zeros_(head.raw.weight)
    torch.nn.init.constant_(head.raw.bias, -60.0)  # locations far below, scales at their smallest
    p = head(torch.zeros(1, 12), torch.zeros(1, 4))
    value = torch.tensor([[12, 9, 0, 5]])
    alone = p.log_prob(value)
    wide = (slice(None), slice(None), slice(-1, None))
    escape = type(p)(p.log_weight[wide], p.location[wide], p.scale[wide], p.low, p.high, p.dtype).log_prob(value)
    assert (alone >= escape - 1e-4).all() and escape.item() > -60


def test_every_path_of_whole_numbers_learns_and_simulates():
    model, batch = make_model(INTEGER_SPEC), make_batch(INTEGER_SPEC, first=())
    bound = sampled_bound(model, batch, torch.Generator().manual_seed(0))
    bound.elbo.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert bound.log_likelihood["grid"].max() <= 0
    drawn = simulate(model, batch, generator=torch.Generator().manual_seed(0)).batch.obs["grid"]
    assert drawn.dtype == batch.obs["grid"].dtype
    low, high = (
        torch.tensor(x) for x in (INTEGER_SPEC.observations["grid"].low, INTEGER_SPEC.observations["grid"].high)
    )
    assert (drawn >= low).all() and (drawn <= high).all()


def test_a_reward_of_a_handful_of_values_is_a_mass_on_them_with_the_right_mean():
    model = make_model(reward="categorical")
    values = torch.tensor([-1.0, 0.0, 0.25, 10.0])
    model.decoder.atoms.start_at(values)
    state = State(torch.zeros(4, 8), torch.zeros(4, model.dynamics.latent.width))
    p = model.decode(state)["reward"]
    mass = p.log_prob(values[:, None]).exp()
    assert mass.sum().item() == pytest.approx(1 - ESCAPE, abs=1e-6)
    assert p.mean[0].item() == pytest.approx((mass * values).sum().item(), rel=1e-2)
    assert torch.isfinite(p.log_prob(torch.tensor([[3.0], [-1e6], [1e6], [0.1]]))).all()
    assert "reward" not in model.resolution()
    again = make_model(reward="categorical", seed=1)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.decode(state)["reward"].mean, p.mean)


@specs
def test_only_the_likelihoods_that_are_asked_for_are_worked_out(spec, generator):
    model = make_model(spec)
    state = State(torch.randn(4, 8, generator=generator), torch.randn(4, 4, generator=generator))
    every, ran = model.decode(state), []
    for name, module in model.decoder.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    for name, expected in every.items():
        ran.clear()
        (only,) = model.decode(state, names=[name]).items()
        assert only[0] == name
        torch.testing.assert_close(only[1].mean, expected.mean, rtol=0, atol=0)
        own = {"reward": "reward_", "continue": "continue_"}.get(name)
        assert all(layer.startswith(own) if own else not layer.startswith(("reward_", "continue_")) for layer in ran)
    ran.clear()
    model.decode(state, names=["reward", "continue"])
    assert ran and not any("image" in layer or layer.startswith(("trunk", "flat")) for layer in ran)
    with pytest.raises(ValueError, match=r"names: expected some of .*, reward, continue; got nothing"):
        model.decode(state, names=["reward", "nothing"])


def test_bits_start_at_their_frequencies_where_targets_are_standardised():
    spec = EnvSpec({"bits": ObservationSpec("binary", (3,))}, ActionSpec("continuous", 1))
    mean, std = torch.tensor([0.25, 0.0, 1.0]), torch.tensor([0.4, 0.0, 0.0])
    for standardised, expected in ((True, [0.25, 1e-4, 1 - 1e-4]), (False, [0.5, 0.5, 0.5])):
        model = make_model(spec, standardise_targets=standardised)
        (head,) = model.decoder.flat_heads
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        model.standardise("bits", mean, std)
        state = State(torch.zeros(1, 8), torch.zeros(1, model.dynamics.latent.width))
        torch.testing.assert_close(model.decode(state)["bits"].mean[0], torch.tensor(expected))


def test_a_decoder_that_reads_z_alone_is_blind_to_h():
    model, batch = make_model(MIXED_SPEC, reads="stoch"), make_batch(MIXED_SPEC)
    z = torch.randn(3, 7, model.dynamics.latent.width)
    terms = [
        {name: p.log_prob(model.targets(batch)[name]) for name, p in model.decode(State(h, z)).items()}
        for h in (torch.zeros(3, 7, 8), torch.randn(3, 7, 8))
    ]
    for name in terms[0]:
        assert torch.equal(terms[0][name], terms[1][name])
