"""The museum of bugs: each exhibit changes what it says and nothing afterwards; its tests, tables and page."""

import json
import math
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from scripts import bug_museum
from scripts.museum import bugs, measuring, page, training
from scripts.museum.bugs import Bug
from scripts.museum.catalogue import CONTROL, EXHIBITS
from worldmodel.evidence.estimate import Estimate
from worldmodel.evidence.iwae import iwae
from worldmodel.models.latents import DiagonalGaussian, OneHotCategorical
from worldmodel.models.likelihoods import Normal, SymlogNormal
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.objectives.elbo import Bound
from worldmodel.objectives.loss import Objective
from worlds import CATEGORICAL, make_batch, make_model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "bugs.md").read_text()
LINES = [json.loads(line) for line in (ROOT / "docs" / "bugs.jsonl").read_text().splitlines()]
B, T = 4, 7
REAL = [name for name in EXHIBITS if name != CONTROL]


def model_of(name, **settings):
    """A small model of the kind that an exhibit needs; of a smoothing one it needs nothing else."""
    latent = {"latent": CATEGORICAL} if name == "other_logits" else {}
    vector = {"vector": "symlog", "reward": "symlog"} if name == "jacobian" else {}
    return make_model(cell="bare_gru", **latent, **vector, **settings)


def episodes():
    """Whole episodes of several lengths, of which some are truncated."""
    batch = make_batch(batch=B, length=T, first=())
    rows = torch.tensor([7, 3, 5, 6])
    place = torch.arange(T)
    last = place == rows[:, None] - 1
    return batch._replace(
        valid=place < rows[:, None], is_last=last, is_terminal=last & torch.tensor([[True], [False], [True], [False]])
    )


def with_a_reset():
    """Sequences of which one has the start of an episode inside."""
    return make_batch(batch=B, length=T, first=((1, 3),))


def claims(bug, model, batch):
    return bug.claims(model, batch, Objective(), torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", REAL)
def test_every_exhibit_changes_what_is_reported_and_leaves_no_trace(name):
    model, batch = model_of(name), with_a_reset() if name == "resets_unmasked" else episodes()
    before = claims(Bug(), model, batch)
    assert not torch.allclose(claims(EXHIBITS[name].bug, model, batch), before, atol=1e-4)
    torch.testing.assert_close(claims(Bug(), model, batch), before, rtol=0, atol=0)


def test_an_exhibit_leaves_no_trace_where_it_fails():
    sound = bugs.RSSM._keep
    with pytest.raises(RuntimeError), bugs.resets_unmasked():
        assert bugs.RSSM._keep is not sound
        raise RuntimeError
    assert bugs.RSSM._keep is sound


def test_the_control_reports_what_the_sound_code_reports():
    model, batch = model_of(CONTROL), episodes()
    torch.testing.assert_close(claims(EXHIBITS[CONTROL].bug, model, batch), claims(Bug(), model, batch))
    bound = sampled_bound(model, batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(claims(Bug(), model, batch), torch.where(batch.valid, bound.elbo, 0.0).detach().double())


def test_rows_are_paired_as_the_exhibits_say():
    batch = episodes()
    late, early, reward = (f(batch) for f in (bugs.actions_late, bugs.actions_early, bugs.rewards_late))
    assert late.prev_action[:, 1:].equal(batch.prev_action[:, :-1]) and not late.prev_action[:, 0].any()
    assert early.prev_action[:, :-1].equal(batch.prev_action[:, 1:]) and not early.prev_action[:, -1].any()
    assert reward.reward[:, 1:].equal(batch.reward[:, :-1])
    assert bugs.truncation_as_termination(batch).is_terminal.equal(batch.is_last)
    assert not batch.is_terminal.equal(batch.is_last)


def test_the_first_reward_counts_as_a_zero_that_was_observed():
    model, batch = model_of("first_reward"), episodes()
    extra = claims(Bug(inside=bugs.first_reward_counted), model, batch) - claims(Bug(), model, batch)
    assert not extra[:, 1:].any()
    noise = model.noise(B, T, torch.Generator().manual_seed(0))
    expected = model(batch, noise).likelihoods["reward"].log_prob(torch.zeros(B, T, 1))
    torch.testing.assert_close(extra[:, 0], expected[:, 0].detach().double(), rtol=1e-4, atol=1e-5)


def test_unmasked_resets_change_nothing_before_the_reset():
    model, batch = model_of("resets_unmasked"), with_a_reset()
    other = claims(Bug(inside=bugs.resets_unmasked), model, batch) != claims(Bug(), model, batch)
    assert other[1, 3:].all() and not other[1, :3].any() and not other[[0, 2, 3]].any()


def test_a_stale_state_is_that_of_two_episodes_in_a_row_without_a_reset():
    model, noise = model_of("stale_states"), torch.randn(2, T, 4)
    batch = make_batch(batch=2, length=T, first=())
    with bugs.stale_states():
        stale = model.observe(batch, noise).states
    row = make_batch(batch=1, length=2 * T, first=())
    obs = {path: x.flatten(0, 1)[None] for path, x in batch.obs.items()}
    action = batch.prev_action.flatten(0, 1)[None]
    joined = row._replace(obs=obs, prev_action=action, reward=batch.reward.reshape(1, -1))
    expected = model.observe(joined, noise.reshape(1, 2 * T, 4)).states
    torch.testing.assert_close(stale.stoch[1], expected.stoch[0, T:])


def test_a_state_that_is_not_carried_knows_no_earlier_row():
    model, batch, noise = model_of("state_not_carried"), episodes(), torch.randn(B, T, 4)
    changed = {path: torch.cat([x[:, :3] + 1, x[:, 3:]], 1) for path, x in batch.obs.items()}
    for carried, context in ((True, nullcontext()), (False, bugs.state_not_carried())):
        with context:
            one = model.observe(batch, noise).states.deter
            other = model.observe(batch._replace(obs=changed), noise).states.deter
            heard = model.observe(batch._replace(prev_action=batch.prev_action + 1), noise).states.deter
        assert one[:, 3:].equal(other[:, 3:]) is not carried
        assert not one[:, 1:].equal(heard[:, 1:])


def test_the_prior_an_index_too_far_is_that_of_the_next_state():
    model, batch, noise = model_of("prior_after_z"), episodes(), torch.randn(B, T, 4)
    with bugs.prior_after_z():
        found = model.observe(batch, noise)
    expected = model.dynamics.prior(found.states.deter[:, 1:])
    torch.testing.assert_close(found.prior.mean[:, :-1], expected.mean)


def test_kls_are_made_of_their_groups_as_the_exhibits_say():
    groups = torch.tensor([[[0.5, 3.0], [2.0, 0.0]]])  # [B=1, T=2, S=2]
    bound = Bound({}, groups, torch.ones(1, 2, dtype=torch.bool))
    expected = {
        bugs.kl_mean_over_groups: [1.75, 1.0],
        bugs.kl_sum_over_time: [2.75, 2.75],
        bugs.free_nats_per_group: [4.0, 3.0],
    }
    for bug, kl in expected.items():
        with bug():
            assert bound.kl.tolist() == [kl]
    assert bound.kl.tolist() == [[3.5, 2.0]]


def test_latents_are_sampled_and_compared_as_the_exhibits_say():
    q, p = (DiagonalGaussian(torch.randn(3, 8), 0.05) for _ in range(2))
    noise = torch.randn(3, 4)
    with bugs.kl_swapped():
        torch.testing.assert_close(q.kl(p), _kl(p, q))
    torch.testing.assert_close(q.kl(p), _kl(q, p))
    with bugs.other_std():
        torch.testing.assert_close(q.rsample(noise), q.mean + q.std**2 * noise)
    with bugs.posterior_mean():
        torch.testing.assert_close(q.rsample(noise), q.mean)


def _kl(q, p):
    normal = torch.distributions.Normal
    return torch.distributions.kl_divergence(normal(q.mean, q.std), normal(p.mean, p.std))


def test_the_kl_of_other_logits_is_that_before_mixing_and_the_sample_is_not():
    q, p = (OneHotCategorical(2 * torch.randn(3, 2, 5), 0.1) for _ in range(2))
    noise = torch.rand(3, 2, 5)
    raw_q, raw_p = (torch.distributions.Categorical(logits=one.logits) for one in (q, p))
    with bugs.other_logits():
        torch.testing.assert_close(q.kl(p), torch.distributions.kl_divergence(raw_q, raw_p))
        sample = q.rsample(noise)
    assert sample.equal(q.rsample(noise))


def test_likelihoods_lack_what_the_exhibits_say():
    x = torch.randn(5, 3)
    normal = Normal(torch.randn(5, 3), torch.rand(5, 3) + 0.5)
    with bugs.without_constant():
        found = normal.log_prob(x)
    torch.testing.assert_close(found, normal.log_prob(x) + 1.5 * math.log(2 * math.pi))
    with bugs.without_jacobian():
        found = SymlogNormal(normal).log_prob(x)
    torch.testing.assert_close(found, SymlogNormal(normal).log_prob(x) + torch.log1p(x.abs()).sum(-1))


def test_reports_average_what_the_exhibits_say(generator):
    model, batch = model_of("padding"), episodes()
    found = claims(Bug(report=bugs.averaged_over_padding), model, batch)
    torch.testing.assert_close(found, claims(Bug(), model, batch) * 21 / (B * T))
    # Of episodes of one row, the average row by row is that of whole paths.
    single = make_batch(batch=B, length=1, first=())
    expected = iwae(model.given(single), bugs.PATHS, generator=torch.Generator().manual_seed(0)).log_evidence
    torch.testing.assert_close(
        claims(Bug(report=bugs.averaged_row_by_row), model, single)[:, 0], expected, rtol=1e-5, atol=1e-5
    )


def test_what_exceeds_the_exact_evidence_may_be_the_first_rows_alone():
    truth, valid = torch.randn(40, 32).double(), torch.ones(40, 32, dtype=torch.bool)
    spread = 0.01 * torch.randn(40, 32).double()
    more = torch.zeros(40, 32).double()
    more[:, 0], more[:, 1:] = 0.5, -0.1
    mean, error, rows = measuring.above_exact(truth + more + spread, truth, valid)
    assert rows == 1 and mean == pytest.approx(0.5, abs=0.01) and mean / error > 50
    mean, error, _ = measuring.above_exact(truth - 0.1 + spread, truth, valid)
    assert mean < 0


def test_a_sound_run_beside_itself_differs_by_nothing():
    valid, rows = torch.ones(6, 4, dtype=torch.bool), torch.randn(6, 4).double()
    own = measuring.Worth(rows, -rows.abs(), rows.sum(1), Estimate(0.1, 0.01))
    found = measuring.compared(rows, own, rows, own, rows + 1, valid)
    for name in ("loss", "off_ledger", "bound_lost", "evidence_lost", "flags_lost"):
        assert found[name] == [0.0, 0.0]
    assert found["bound"][0] == pytest.approx(1.0) and found["above_exact"][0] == pytest.approx(-1.0)
    lower = own._replace(bound=rows - 0.5, evidence=rows.sum(1) - 1)
    found = measuring.compared(rows - 0.25, lower, rows, own, rows + 1, valid)
    means = {name: found[name][0] for name in ("loss", "off_ledger", "bound_lost", "evidence_lost")}
    assert means == pytest.approx({"loss": 0.25, "off_ledger": 0.25, "bound_lost": 0.5, "evidence_lost": 0.25})


def line(name, loss=0.0, lost=0.0, off=0.0, above=-0.1, seeds=3):
    """A line of results with these differences, each 0.001 sure."""
    numbers = {"loss": loss, "bound_lost": lost, "evidence_lost": lost, "flags_lost": 0.0, "off_ledger": off}
    sound = {key: [0.05, 0.001] for key in ("sound_loss", "sound_bound", "sound_evidence", "sound_flags")}
    own = {"bound": [0.05, 0.001], "evidence": [0.02, 0.001], "width": [0.003, 0.001]}
    run = {key: [value, 0.001] for key, value in numbers.items()} | {"above_exact": [above, 0.001, 32]} | sound | own
    curve = {"update": [20, 40], "train": [2.0, 1.0], "heldout": [2.0, 1.0]}
    runs = [{"seed": seed, "cpu_seconds": 60.0, **run} for seed in range(seeds)]
    return {
        "bug": name, "updates": 40, "episodes": 8, "exact": -1.0, "sound": curve, "curves": curve, "runs": runs
    }  # fmt: skip


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (line("padding"), page.Verdict("the same", False, False, False)),
        (line("padding", loss=0.1), page.Verdict("worse", False, False, False)),
        (line("padding", loss=-0.1, above=0.2, off=0.3), page.Verdict("better", True, True, False)),
        (line("padding", off=-0.1, lost=0.1), page.Verdict("the same", False, True, True)),
        (line("padding", lost=-0.1), page.Verdict("the same", False, False, False)),
        (line("padding", loss=0.004, above=0.004), page.Verdict("the same", False, False, False)),
    ],
)
def test_verdicts(result, expected):
    assert page.verdict(result, {"loss": 0.001, "bound_lost": 0.001}) == expected


def test_a_difference_counts_if_it_is_sure_on_every_seed():
    result = line("padding", lost=0.1)
    assert page.difference(result["runs"], "bound_lost", {}) == (pytest.approx(0.1), pytest.approx(100))
    result["runs"][1]["bound_lost"] = [0.004, 0.001]
    assert page.difference(result["runs"], "bound_lost", {}).sigmas == pytest.approx(4)
    result["runs"][1]["bound_lost"] = [-0.1, 0.001]
    assert page.difference(result["runs"], "bound_lost", {}).sigmas == 0


def test_two_trainings_may_be_as_far_apart_as_two_sound_ones():
    control, result = line(CONTROL, lost=0.02), line("truncation", lost=0.1)
    control["runs"][0]["bound_lost"] = control["runs"][0]["evidence_lost"] = [-0.02, 0.001]
    spreads = page.spreads_of([control, result])
    assert spreads["bound_lost"] == pytest.approx(0.02) and spreads["loss"] == 0.0
    assert page.differences(result, spreads)["lost"].sigmas == pytest.approx(5, rel=0.01)
    assert page.differences(control, spreads)["lost"].sigmas == 0  # by its own errors, and its seeds disagree


def test_tables_say_who_notices(tmp_path):
    results = [line(CONTROL), line("padding", loss=-0.1, off=0.3), line("truncation", loss=0.1), line("kl_mean")]
    text = page.tables(results)
    assert "No worse by its losses, and caught by evidence or ledger: 1 of 3: `padding`." in text
    assert "Worse by its losses alone: 1 of 3: `truncation`." in text and "Caught by none: 1 of 3: `kl_mean`." in text
    assert "is not caught" in text and "| better: -0.100 (-100) | no | **+0.300 (300)** |" in text
    early = line("first_reward", above=0.2)
    early["runs"][0]["above_exact"][2] = 1
    assert "| **+0.200 (200)** in the first row |" in page.tables([line(CONTROL), early])
    page.figure(results, tmp_path / "bugs.png")
    assert (tmp_path / "bugs.png").stat().st_size > 1000


def test_the_page_is_what_the_script_writes_of_the_stored_results(tmp_path, monkeypatch):
    assert {one["bug"] for one in LINES} == EXHIBITS.keys()
    for name in ("bugs.md", "bugs.jsonl"):
        (tmp_path / name).write_text((ROOT / "docs" / name).read_text())
    monkeypatch.setattr("scripts.docs_blocks.DOCS", tmp_path)
    monkeypatch.setattr(bug_museum, "DOCS", tmp_path)
    monkeypatch.setattr(page, "figure", lambda results, path: None)
    bug_museum.write_page([])
    for name in ("bugs.md", "bugs.jsonl"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()


def test_every_exhibit_has_its_threads_on_the_page():
    for exhibit in EXHIBITS.values():
        assert all(f"[{thread}]" in PAGE for thread in exhibit.threads)
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", thread) for thread in exhibit.threads)


def test_exhibits_are_trained_measured_and_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ROWS", 2000)
    monkeypatch.setattr(training, "EPISODES", 8)
    monkeypatch.setattr(training, "EVERY", 5)
    monkeypatch.setattr(measuring, "PARTICLES", 4)
    small = {"replay.batch_size": 4, "rssm.deter": 8, "rssm.hidden": 8}
    preset, settings = training.WORLDS["springs"]
    monkeypatch.setitem(training.WORLDS, "springs", (preset, {**settings, **small}))
    bug_museum.show("springs", ["actions_early", "padding"], 0, 10, tmp_path)
    found = bug_museum.exhibits_of(bug_museum.read_results(tmp_path))
    by_name = {one["bug"]: one for one in found}
    assert by_name.keys() == {"actions_early", "padding"}
    early, padding = by_name["actions_early"], by_name["padding"]
    assert early["curves"]["update"] == [5, 10] and early["sound"] == padding["sound"] != early["curves"]
    assert padding["runs"][0]["bound_lost"] == [0.0, 0.0] != early["runs"][0]["bound_lost"]
    assert padding["runs"][0]["off_ledger"][0] > 0  # minus a loss of two nats or more, times the share of real rows
    page.tables(found)


def test_worlds_state_their_law_and_settings_are_those_of_the_preset():
    for world in training.WORLDS:
        assert training.law_of(world)["kind"] in ("linear_gaussian", "hidden_markov")
    config = training.settings("springs", 3, 7)
    assert config.training.updates == 7 and config.seed == 3 and config.env.time_limit == 31
    assert config.rssm.cell == "bare_gru"  # whose loop the exhibits patch
