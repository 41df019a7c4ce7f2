"""Dreams step by step: as the rollout of the model on the same noise, from the rows that they are begun behind."""

from collections import Counter

import numpy as np
import pytest
import torch

from worldmodel.behaviour.dreams import POOL, DreamRules, Dreams, expected, going_on
from worldmodel.data.batches import select
from worldmodel.models.likelihoods import Bernoullis, Categoricals, Normal
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import ObservationSpec, State
from worlds import CATEGORICAL, FULL, GAUSSIAN, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model


def drawn(spec=VECTOR_SPEC, rows=3):
    """Contexts that are all different, and how many were asked for."""
    asked = []

    def draw(count, generator):
        asked.append(count)
        return make_batch(spec, count, rows, seed=int(torch.randint(1000, (1,), generator=generator)), first=())

    draw.asked = asked
    return draw


def dreams_of(model, count=4, draw=None, seed=1, **rules):
    dreams = Dreams(model, count, draw or drawn(model.spec), DreamRules(**({"ends": "never"} | rules)))
    dreams.seed(seed)
    return dreams


def actions(spec, steps, count=4):
    return make_batch(spec, count, steps + 1, seed=9, first=()).prev_action[:, 1:].unbind(1)


@pytest.mark.parametrize("options", [{}, {"read_reward": True}, {"smoothing": True}], ids=lambda o: "".join(o))
@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
def test_a_dream_is_the_filter_and_then_the_rollout_of_the_model_on_the_same_noise(latent, options):
    model = make_model(MIXED_SPEC, latent, **options)
    context = make_batch(MIXED_SPEC, 4, 3, first=((1, 1),))
    dreams, taken = dreams_of(model), actions(MIXED_SPEC, 5)
    dreams.begin(context=context)
    steps = [dreams.step(a) for a in taken]
    again = make_generator(1, stream=Stream.IMAGINATION)
    with torch.no_grad():
        filtered = model.filter(context, model.noise(4, 3, again)).states
        start, script = State(*(x[:, -1] for x in filtered)), iter(taken)
        noise = torch.cat([model.noise(4, 1, again) for _ in taken], 1)
        states, _ = model.imagine(start, start, lambda state: next(script), noise)
        decoded = model.decode(states)
    torch.testing.assert_close(dreams.state, State(*(x[:, -1] for x in states)))
    reward = torch.stack([step.reward for step in steps], 1)
    torch.testing.assert_close(reward, decoded["reward"].mean[..., 0])
    for path, leaf in MIXED_SPEC.observations.items():
        seen = torch.stack([step.obs[path] for step in steps], 1)
        assert seen.dtype == leaf.torch_dtype
        torch.testing.assert_close(seen, expected(decoded[path], leaf))


def test_the_first_observation_is_the_row_that_was_seen():
    context = make_batch(VECTOR_SPEC, 4, 3, first=())
    _, obs = dreams_of(make_model()).begin(context=context)
    assert torch.equal(obs["obs"], context.obs["obs"][:, -1])
    _, obs = dreams_of(make_model()).begin(context=select(context, slice(1)))  # one for all
    assert torch.equal(obs["obs"], context.obs["obs"][:1, -1].expand(4, -1))


def test_the_same_seed_gives_the_same_dreams_and_another_others():
    found = []
    for seed in (1, 1, 2):
        dreams = dreams_of(make_model(), seed=seed, observed="sample")
        _, first = dreams.begin()
        found.append((first["obs"], dreams.step(actions(VECTOR_SPEC, 1)[0]).obs["obs"]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[2][0])
    dreams = dreams_of(make_model())
    before = dreams.begin()[1]["obs"]
    assert not torch.equal(before, dreams.begin()[1]["obs"])  # the pool goes on
    dreams.seed(1)
    assert torch.equal(before, dreams.begin()[1]["obs"])


def test_some_dreams_begin_anew_while_the_others_go_on():
    model = make_model()
    alone, dreams = dreams_of(model), dreams_of(model)
    for one in (alone, dreams):
        one.begin(context=make_batch(VECTOR_SPEC, 4, 3, first=()))
    first, second = actions(VECTOR_SPEC, 2)
    alone.step(first), dreams.step(first)
    fresh = make_batch(VECTOR_SPEC, 2, 3, seed=5, first=())
    where, obs = dreams.begin(torch.tensor([False, True, False, True]), fresh)
    assert torch.equal(obs["obs"], fresh.obs["obs"][:, -1])
    assert torch.equal(dreams.state.deter[~where], alone.state.deter[~where])
    assert not torch.isclose(dreams.state.deter[where], alone.state.deter[where]).any()
    dreams.step(second), alone.step(second)
    assert torch.equal(dreams.step(second).truncated, torch.zeros(4, dtype=torch.bool))


def test_a_dream_is_truncated_at_its_own_horizon():
    dreams = dreams_of(make_model(), horizon=3)
    dreams.begin()
    taken = actions(VECTOR_SPEC, 6)
    assert not dreams.step(taken[0]).truncated.any()
    dreams.begin(torch.tensor([True, False, False, False]))
    cut = [dreams.step(a).truncated.tolist() for a in taken[1:4]]
    assert cut == [[False] * 4, [False, True, True, True], [True] * 4]
    forever = dreams_of(make_model(), horizon=None)
    forever.begin()
    assert not any(forever.step(taken[0]).truncated.any() for _ in range(60))


def ending_with(model, probability):
    """Make the model say that an episode goes on with this probability, whatever the state."""
    last = model.decoder.continue_head[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, float(np.log(probability) - np.log1p(-probability)))
    return model


@pytest.mark.parametrize(("ends", "share"), [("sampled", 0.3), ("likeliest", 0.0), ("never", 0.0)])
def test_dreams_end_as_often_as_the_model_says_or_as_they_are_told(ends, share):
    n = 4000
    dreams = dreams_of(ending_with(make_model(), 0.7), n, ends=ends, horizon=1)
    dreams.begin()
    step = dreams.step(torch.zeros(n, 2))
    assert step.terminated.float().mean() == pytest.approx(share, abs=4 * (0.3 * 0.7 / n) ** 0.5 * (share > 0))
    assert torch.equal(step.truncated, ~step.terminated)  # at the horizon, and not both
    if ends == "likeliest":
        surely = dreams_of(ending_with(make_model(), 0.3), ends=ends)
        surely.begin()
        assert surely.step(torch.zeros(4, 2)).terminated.all()


def test_observations_are_the_mean_or_a_draw_around_it():
    model, taken = make_model(std=0.5, standardise_targets=False), torch.zeros(3000, 2)
    means, draws = (dreams_of(model, 3000, observed=observed) for observed in ("mean", "sample"))
    for one in (means, draws):
        one.begin()
    off = draws.step(taken).obs["obs"] - means.step(taken).obs["obs"]
    assert off.std() == pytest.approx(0.5, rel=0.05) and off.mean() == pytest.approx(0, abs=0.05)


def test_expected_classes_bits_and_levels_are_those_that_a_row_could_hold():
    cards = ObservationSpec("categorical", (2,), (3, 2))
    logits = torch.tensor([[0.0, 2.0, 1.0, 3.0, 0.0]])
    assert expected(Categoricals(logits, (3, 2)), cards).tolist() == [[1, 0]]
    bits = expected(Bernoullis(torch.tensor([[-1.0, 1.0]])), ObservationSpec("binary", (2,)))
    assert bits.tolist() == [[0, 1]] and bits.dtype == torch.uint8
    number = Normal(torch.tensor([[0.25]]), torch.ones(1, 1))
    assert expected(number, ObservationSpec("vector", (1,))).tolist() == [[0.25]]


def test_a_thousand_dreams_step_in_one_pass_of_the_recurrence_and_one_of_the_decoder():
    model = make_model()
    dreams = dreams_of(model, 1000)
    dreams.begin()
    passes = Counter()
    model.dynamics.cell.register_forward_hook(lambda *_: passes.update(["cell"]))
    model.decoder.register_forward_hook(lambda *_: passes.update(["decoder"]))
    model.encoder.register_forward_hook(lambda *_: passes.update(["encoder"]))
    for _ in range(3):
        dreams.step(torch.zeros(1000, 2))
    assert passes == {"cell": 3, "decoder": 3}


def test_contexts_are_filtered_many_at_once_and_each_is_used_once():
    draw = drawn(rows=2)
    dreams = dreams_of(make_model(), 100, draw)
    one = torch.zeros(100, dtype=torch.bool)
    one[7] = True
    seen = [dreams.begin()[1]["obs"]] + [dreams.begin(one)[1]["obs"] for _ in range(POOL - 100)]
    assert draw.asked == [POOL]
    assert len(torch.cat(seen).unique(dim=0)) == POOL
    dreams.begin(one)
    assert draw.asked == [POOL, POOL]


def test_contexts_that_end_with_their_episode_are_drawn_again():
    batch = make_batch(VECTOR_SPEC, 6, 3, first=())
    last = torch.zeros(6, 3, dtype=torch.bool)
    last[::2, -1] = True
    found = going_on(lambda count: select(batch._replace(is_last=last), slice(count)), 5)
    assert len(found.reward) == 5 and not found.is_last[:, -1].any()
    ended = batch._replace(is_last=torch.ones_like(last))
    with pytest.raises(ValueError, match="contexts: expected rows that an episode goes on from, found none in 500"):
        going_on(lambda count: select(ended, slice(count)), 5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DreamRules(horizon=0), "horizon: expected at least 1, got 0"),
        (lambda: DreamRules(ends="soon"), "ends: expected one of sampled, likeliest, never, got 'soon'"),
        (lambda: DreamRules(observed="not"), "observed: expected one of mean, sample, got 'not'"),
        (lambda: dreams_of(make_model(), 0), "count: expected at least 1, got 0"),
        (
            lambda: dreams_of(make_model()).begin(context=make_batch(VECTOR_SPEC, 3, 2, first=())),
            "context: expected 4 sequences of rows, or one for all dreams, got 3",
        ),
    ],
)
def test_a_mistake_is_told_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
