"""The latents of episodes: those that the bound is computed at, and states to imagine on from."""

import pytest
import torch

from worldmodel.behaviour.imagination import branch
from worldmodel.data.batches import select
from worldmodel.evaluation import latents
from worldmodel.evaluation.latents import infer_latents
from worldmodel.objectives.batch_bound import sampled_bound
from worlds import MIXED_SPEC, make_batch, make_model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def episodes(spec=None, lengths=(7, 4, 6)):
    batch = make_batch(first=()) if spec is None else make_batch(spec, first=())
    valid = torch.arange(7) < torch.tensor(lengths)[:, None]
    return batch._replace(valid=valid)


@pytest.mark.parametrize("smoothing", [False, True])
def test_their_kl_is_the_one_of_the_bound_for_the_same_noise(smoothing):
    model, batch = make_model(smoothing=smoothing).double(), make_batch(first=(), dtype=torch.float64)
    batch = batch._replace(is_last=torch.arange(7).expand(3, 7) == 6)
    found = infer_latents(model, batch, generator())
    bound = sampled_bound(model, batch, generator())
    torch.testing.assert_close(found.kl_groups, bound.kl_groups.detach())
    torch.testing.assert_close(found.kl, bound.kl.detach())
    assert found.features.shape == (3, 7, 8 + 4) and found.smoothed == smoothing


def test_padding_has_no_kl_and_makes_no_difference():
    model, batch = make_model(), episodes()
    found = infer_latents(model, batch, generator())
    assert torch.equal(found.kl.isnan(), ~batch.valid)
    other = batch._replace(obs={"obs": batch.obs["obs"].masked_fill(~batch.valid[..., None], 9.0)})
    assert torch.equal(infer_latents(model, other, generator()).kl.nan_to_num(), found.kl.nan_to_num())


def test_filtered_states_of_a_posterior_that_smooths_do_not_know_what_follows():
    model, batch = make_model(smoothing=True), episodes()
    other = batch._replace(obs={"obs": batch.obs["obs"].clone()})
    other.obs["obs"][:, 3:] += 1
    for filtering in (True, False):
        one, two = (infer_latents(model, x, generator(), filtering=filtering) for x in (batch, other))
        assert torch.equal(one.states.stoch[:, :3], two.states.stoch[:, :3]) == filtering
    infer_latents(model, batch, filtering=True).at(2)
    with pytest.raises(ValueError, match="filtering=True gives such latents"):
        infer_latents(model, batch).at(2)


def test_the_state_of_a_row_is_counted_from_either_end_of_its_episode():
    model, batch = make_model(), episodes()
    found = infer_latents(model, batch, generator())
    for row, episode, where in ((2, 0, 2), (-1, 1, 3), (-6, 2, 0)):
        start = found.at(row, episode)
        assert torch.equal(start.state.deter, found.states.deter[episode, where][None])
        assert torch.equal(start.state.stoch, found.states.stoch[episode, where][None])
    with pytest.raises(ValueError, match="row: expected -4 to 3, the rows of episode 1, got 4"):
        found.at(4, 1)
    with pytest.raises(ValueError, match="episode: expected 0 to 2, got 3"):
        found.at(0, 3)


def test_images_are_embedded_a_few_sequences_at_a_time_with_the_same_result(monkeypatch):
    model, batch = make_model(MIXED_SPEC), episodes(MIXED_SPEC)
    whole = infer_latents(model, batch, generator())
    monkeypatch.setattr(latents, "at_once", lambda numbers: 2)
    torch.testing.assert_close(infer_latents(model, batch, generator()).features, whole.features)


def test_rows_from_the_middle_of_an_episode_are_refused():
    with pytest.raises(ValueError, match=r"batch\.is_first"):
        infer_latents(make_model(), select(episodes(), rows=slice(2, 5)))


def test_a_branch_leaves_from_the_state_that_was_filtered():
    """The next h_t of every branch is the recurrence's own, from h_t, z_t and the action."""
    model, batch = make_model(), episodes()
    start = infer_latents(model, batch, generator()).at(3)
    actions = torch.tensor([[[0.5, -0.5]], [[1.0, 0.0]]])
    futures = branch(model, start, actions, samples=3, generator=generator())
    for b, action in enumerate(actions[:, 0]):
        _, deter = model.dynamics.step(model.dynamics.carry_of(start.state), action[None])
        torch.testing.assert_close(futures.states.deter[:, b, 0], deter.detach().expand(3, -1))
    assert futures.prediction["obs"].shape == (3, 2, 1, 3)
    same = branch(model, start._replace(carry=model.dynamics.carry_of(start.state)), actions, samples=3)
    torch.testing.assert_close(same.states.deter, futures.states.deter)


def test_a_branch_of_another_number_of_states_is_refused():
    model = make_model()
    start = infer_latents(model, episodes(), generator()).at(3)
    two = start._replace(state=type(start.state)(*(x.expand(2, -1) for x in start.state)))
    with pytest.raises(ValueError, match="start: expected one state, or one for each of 3 sequences of actions, got 2"):
        branch(model, two, torch.zeros(3, 4, 2), samples=1)
    with pytest.raises(ValueError, match="horizon: expected at least 1, got 0"):
        branch(model, start, torch.zeros(3, 0, 2), samples=1)
