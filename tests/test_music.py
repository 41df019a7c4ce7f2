"""The script of polyphonic music: its data, its exact models against an oracle, what it scores, and MIDI."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch.nn.functional import one_hot

from scripts import music
from scripts.polyphony import baselines, models, rolls, scores
from scripts.polyphony.midi import write_midi
from scripts.polyphony.models import Recipe, batches, hide, train
from scripts.polyphony.recipes import MAIN, RECIPES
from worldmodel import build_networks
from worldmodel.oracles.hmm import HiddenMarkov

LENGTHS = {"traindata": (6, 3, 5, 4), "validdata": (4, 5), "testdata": (3, 6)}
TINY = {
    "rssm.deter": 8,
    "rssm.hidden": 8,
    "rssm.latent": "categorical",
    "rssm.stoch": 1,
    "rssm.classes": 3,
    "rssm.gradient": "marginal",
    "encoder.units": 8,
    "decoder.units": 8,
}


def pieces(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((n, rolls.NOTES)) < 0.1 for n in lengths]


def cells(found):
    held = np.empty((1, len(found)), object)
    held[0] = found
    return held


@pytest.fixture
def folder(tmp_path):
    data = {part: cells([x.astype(np.uint8) for x in pieces(n, k)]) for k, (part, n) in enumerate(LENGTHS.items())}
    savemat(tmp_path / rolls.FILES["jsb"], data)
    return tmp_path


def test_rolls_are_read_as_they_were_written(folder):
    found = rolls.read_music(folder, "jsb")
    for k, (part, lengths) in enumerate(zip(found, LENGTHS.values(), strict=True)):
        assert all(np.array_equal(a, b) for a, b in zip(part, pieces(lengths, k), strict=True))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"traindata": cells([np.zeros((3, 88))])}, "expected validdata, got traindata"),
        ({"traindata": cells([np.full((3, 88), 2)])}, r"traindata\[0\]: expected zeros and ones \[T, 88\]"),
        ({"traindata": cells([np.zeros((3, 87))])}, r"float64 \[3, 87\]"),
        ({"traindata": cells([np.zeros((1, 88))])}, "at least two steps"),
        ({"traindata": cells([np.zeros((3, 88, 2))])}, r"float64 \[3, 88, 2\]"),
        ({"traindata": cells([np.zeros((3, 88), complex)])}, r"complex128 \[3, 88\]"),
    ],
)
def test_other_files_are_refused(tmp_path, data, words):
    savemat(tmp_path / rolls.FILES["jsb"], data)
    with pytest.raises(ValueError, match=words):
        rolls.read_music(tmp_path, "jsb")
    with pytest.raises(FileNotFoundError, match="the piano rolls of muse"):
        rolls.read_music(tmp_path, "muse")


def test_the_action_into_a_step_is_the_step_before_it_or_nothing():
    music_ = pieces((4, 6))
    batch = rolls.as_episodes(music_, reads_past=True).batch()
    assert torch.equal(batch.prev_action[1, 1:].bool(), batch.obs["obs"][1, :-1].bool())
    assert not batch.prev_action[:, 0].any()
    assert torch.equal(rolls.with_past(batch, reads_past=True).prev_action[1], batch.prev_action[1])
    assert not rolls.as_episodes(music_, reads_past=False).batch().prev_action.any()


def test_long_rolls_are_cut_and_lose_no_step():
    found = pieces((7, 3, 9))
    parts = rolls.cut(found, 4)
    assert [len(part) for part in parts] == [4, 3, 3, 3, 3, 3]
    assert np.array_equal(np.concatenate(parts), np.concatenate(found))
    assert min(len(part) for n in range(2, 40) for part in rolls.cut(pieces((n,)), 3)) == 2
    with pytest.raises(ValueError, match="longest: expected at least three steps, got 2"):
        rolls.cut(found, 2)


def test_the_first_rolls_fit_into_so_many_steps():
    found = pieces((4, 5, 6))
    assert [len(rolls.first(found, most)) for most in (1, 8, 9, 14, 15, 99)] == [1, 1, 2, 2, 3, 3]


def test_rolls_in_groups_are_of_similar_length_and_padded_to_so_many_steps():
    found = pieces((4, 9, 2, 6, 1))
    assert rolls.similar(found, 12) == [[4, 2, 0], [3], [1]]
    assert rolls.similar(found, 11) == [[4, 2], [0], [3], [1]]
    assert rolls.similar(found, 45) == [[4, 2, 0, 3, 1]]
    assert rolls.similar(found, 45, most=3) == [[4, 2, 0], [3, 1]]
    assert rolls.similar(found, 1) == [[k] for k in (4, 2, 0, 3, 1)]
    assert rolls.similar([], 1) == []


def test_an_effort_changes_what_is_learned_from_and_how_long():
    effort, recipe = music.Effort(cut=4, epochs=3), Recipe("", TINY, epochs=9, pieces=5)
    found = effort.learned_from(rolls.Music(pieces((6, 3)), pieces((5,)), pieces((6,))))
    assert [[len(roll) for roll in part] for part in found] == [[3, 3, 3], [3, 2], [6]]
    assert (effort.recipe(recipe).epochs, effort.recipe(recipe).pieces) == (3, 5)
    assert music.Effort(pieces=4).recipe(recipe) == replace(recipe, pieces=4)


@pytest.mark.parametrize("name", ["pieces", "epochs", "iterations", "particles", "runs", "cut"])
def test_an_effort_without_a_pass_a_particle_or_steps_is_refused_before_anything_is_read(name, tmp_path, monkeypatch):
    least = 3 if name == "cut" else 1
    music.Effort(**{name: least})
    with pytest.raises(ValueError, match=f"--{name}: expected at least {least}, got {least - 1}"):
        music.Effort(**{name: least - 1})
    command = ["music.py", "--data", str(tmp_path), "--output", str(tmp_path), f"--{name}", str(least - 1)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match=f"music.py: --{name}: expected"):
        music.main()


def test_a_run_keeps_what_of_an_effort_it_takes():
    effort = music.Effort(cut=100, epochs=5, iterations=8, particles=32, runs=1)
    assert effort.of(MAIN) == {"cut": 100, "pieces": 16, "epochs": 5, "particles": 32, "runs": 1}
    assert (effort.of("hmm-16"), effort.of("independent")) == ({"iterations": 8}, {})
    assert music.Effort().of(MAIN)["epochs"] == RECIPES[MAIN].epochs


def test_eight_groups_of_eight_classes_are_the_pilots():
    groups, one = (RECIPES[name] for name in ("dmm-categorical-groups", "dmm-categorical-state"))
    assert dict(groups.settings) == {**one.settings, "rssm.stoch": 8, "rssm.classes": 8}
    assert replace(groups, words="", settings={}) == replace(one, words="", settings={})
    assert groups.config(0, 1).rssm.stoch == 8


def test_independent_notes_have_the_mass_of_their_frequencies():
    train_ = [np.zeros((3, rolls.NOTES), bool)]
    train_[0][0, 0] = True  # once in three steps: (1 + 1/2) / (3 + 1)
    heard, silent = 1.5 / 4, 0.5 / 4
    roll = train_[0][:1]
    expected = np.log(heard) + (rolls.NOTES - 1) * np.log(1 - silent)
    assert baselines.independent_notes(train_, [roll])[0] == pytest.approx(expected)


@pytest.fixture
def hmm():
    return baselines.BernoulliHMM.random(pieces((6, 5)), states=3, seed=0)


def oracle(hmm, found):
    """The same model and pieces for the oracle; behind a piece's end nothing is observed."""
    T = max(map(len, found))
    x = torch.stack([torch.from_numpy(np.pad(roll, ((0, T - len(roll)), (0, 0)))).double() for roll in found])
    valid = torch.arange(T) < torch.tensor([len(roll) for roll in found])[:, None]
    bits = torch.distributions.Bernoulli(probs=hmm.note)
    log_emission = torch.where(valid[..., None], bits.log_prob(x[:, :, None]).sum(-1), 0.0)
    return HiddenMarkov(hmm.initial, hmm.transition[None]), log_emission, x, valid


def test_a_hidden_markov_model_has_the_evidence_of_the_oracle(hmm):
    found = pieces((4, 6, 1), seed=1)
    model, log_emission, _, _ = oracle(hmm, found)
    expected = model.log_evidence(log_emission).sum(1)
    torch.testing.assert_close(hmm.log_evidence(found), expected, rtol=1e-10, atol=1e-10)


def test_an_em_step_counts_what_the_oracle_does(hmm, monkeypatch):
    monkeypatch.setattr(baselines, "SMOOTHING", 0.0)
    found = pieces((5, 5), seed=1)
    model, log_emission, x, _ = oracle(hmm, found)
    expected, smoothed = model.m_step(model.posterior(log_emission)), model.smooth(log_emission)
    got = hmm.em_step(found)
    torch.testing.assert_close(got.transition, expected.transition[0], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got.initial, expected.initial, rtol=1e-8, atol=1e-10)
    notes = torch.einsum("btk,btn->kn", smoothed, x) / smoothed.sum((0, 1))[:, None]
    torch.testing.assert_close(got.note, notes, rtol=1e-8, atol=1e-10)


def test_rolls_in_small_groups_give_the_same_evidence_and_step(hmm, monkeypatch):
    found = pieces((4, 9, 2, 6), seed=1)
    evidence, step = hmm.log_evidence(found), hmm.em_step(found)
    monkeypatch.setattr(baselines, "AT_ONCE", 2 * 6 * 3)  # beliefs, of three states in each step
    asked = []
    monkeypatch.setattr(baselines, "similar", lambda found, rows: asked.append(rows) or rolls.similar(found, rows))
    torch.testing.assert_close(hmm.log_evidence(found), evidence, rtol=1e-12, atol=0)
    again = hmm.em_step(found)
    torch.testing.assert_close(again.transition, step.transition, rtol=1e-10, atol=0)
    torch.testing.assert_close(again.initial, step.initial, rtol=1e-10, atol=0)
    torch.testing.assert_close(again.note, step.note, rtol=1e-10, atol=0)
    assert asked == [2 * 6, 2 * 6]


def test_em_climbs_on_pieces_of_different_lengths(hmm, monkeypatch):
    monkeypatch.setattr(baselines, "SMOOTHING", 1e-9)
    found = pieces((3, 7, 5), seed=1)
    scores_ = []
    for _ in range(6):
        scores_.append(float(hmm.log_evidence(found).sum()))
        hmm = hmm.em_step(found)
    assert all(after > before for before, after in pairwise(scores_))


def test_every_piece_is_in_one_batch_of_similar_lengths():
    lengths = torch.arange(100, 0, -1)
    found = batches(lengths, 4, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(found).tolist()) == list(range(100))
    spread = [lengths[batch].float().std().item() for batch in found]
    assert np.mean(spread) < 15  # of batches drawn without a look at the length: 29


def test_hiding_takes_notes_away_and_adds_none():
    batch = rolls.as_episodes(pieces((50, 50)), reads_past=True).batch()
    hidden = hide(batch, 0.4, torch.Generator().manual_seed(0)).prev_action
    assert bool((hidden <= batch.prev_action).all())
    kept, there = hidden.sum().item(), batch.prev_action.sum().item()
    assert abs(kept / there - 0.6) < 4 * (0.24 / there) ** 0.5
    assert hide(batch, 0.0, torch.Generator()) is batch


@pytest.mark.parametrize("reads_past", [True, False])
def test_simulated_pieces_have_their_own_notes_for_a_past_and_their_own_latents(reads_past):
    template = rolls.as_episodes(pieces((4, 7)), reads_past=reads_past).batch()
    spec = rolls.as_episodes(pieces((4, 7)), reads_past=reads_past).spec
    model = build_networks.build_model(Recipe("", TINY, reads_past).config(0, 1), spec)
    with torch.no_grad():  # notes that tell the class, and classes that remember the last one
        model.decoder.flat_heads[0].weight.mul_(20)
    generator = torch.Generator().manual_seed(0)
    found, path = scores.simulate_pieces(model, template, reads_past=reads_past, generator=generator)
    notes = found.obs["obs"].float()
    assert torch.equal(found.valid, template.valid)
    expected = notes[:, :-1] if reads_past else torch.zeros_like(found.prev_action[:, 1:])
    assert torch.equal(found.prev_action[:, 1:], expected)
    assert torch.equal(path.sum(-1), torch.ones(2, 7))
    given = scores.notes_given(model, found)
    carry = given.initial(1)
    _, deter, _ = given.step(carry, 0)
    assert set(given.likelihood(scores.State(deter, path[None, :, 0]), 0)) == {"obs"}


def test_pieces_that_are_scored_together_are_of_similar_length_and_each_is_there_once(monkeypatch):
    monkeypatch.setattr(scores, "AT_ONCE", 3)
    monkeypatch.setattr(scores, "ROWS_AT_ONCE", 16)
    found = pieces((4, 9, 2, 2, 7, 3, 20, 2))
    groups = [part.valid.sum(1).tolist() for part in scores.batches(found, reads_past=True)]
    assert groups == [[2, 2, 2], [3, 4], [7], [9], [20]]
    steps = [part.obs["obs"][part.valid] for part in scores.batches(found, reads_past=True)]
    assert torch.equal(torch.cat(steps), torch.from_numpy(np.concatenate(sorted(found, key=len))))


def exact_evidence(model, batch):
    """log p(x_1:T) of a model with one group of classes: every path of classes, weighed."""
    K, T = 3, batch.valid.shape[1]
    totals = []
    for path in torch.cartesian_prod(*[torch.arange(K)] * T):
        carry, total = model.dynamics.initial(1), torch.zeros(1)
        for t, k in enumerate(path):
            carry, deter = model.dynamics.step(carry, batch.prev_action[:, t], batch.is_first[:, t])
            state = scores.State(deter, one_hot(k, K)[None].float())
            total = total + model.dynamics.prior(deter).log_prob(state.stoch)[:, 0]
            total = total + model.decode(state, ("obs",))["obs"].log_prob(batch.obs["obs"][:, t])
            carry = model.dynamics.advance(carry, state)
        totals.append(total)
    return torch.stack(totals).logsumexp(0).item()


@torch.no_grad()
def test_scores_are_of_the_notes_alone_and_near_their_exact_evidence():
    piece = pieces((3,))
    model = build_networks.build_model(Recipe("", TINY).config(0, 1), rolls.as_episodes(piece, reads_past=True).spec)
    exact = exact_evidence(model, rolls.as_episodes(piece, reads_past=True).batch())
    generator = torch.Generator().manual_seed(0)
    found = scores.score(model, piece * 2, reads_past=True, particles=1000, runs=2, generator=generator)
    assert found["smc_per_piece"] == pytest.approx(exact, abs=0.15)
    assert found["iwae_per_piece"] == pytest.approx(exact, abs=0.15)
    assert found["elbo_per_piece"] < exact
    assert found["smc"][0] == pytest.approx(exact / 3, abs=0.05)
    width = scores.width(model, piece * 8, reads_past=True, particles=500, generator=generator)["width"]
    assert -4 * width[1] < width[0] < 0.02


def test_training_keeps_the_weights_of_the_epoch_with_the_best_validation_bound(folder, monkeypatch):
    recipe = Recipe("", {**TINY, "optimizer.learning_rate": 0.03}, drop=0.1, epochs=7, pieces=2)
    bounds, seen, told = iter([(-3.0, 0.1), (-1.0, 0.2), (-2.0, 0.3), (-1.5, 0.4)]), [], []

    def scripted(model, pieces_, seed):
        assert (len(pieces_.valid), seed) == (2, 5)  # of the validation part
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(bounds)

    monkeypatch.setattr(models, "validation_bound", scripted)
    found = train(recipe, rolls.read_music(folder, "jsb"), 5, every=2, log=told.append)
    assert found.curve == [(2, -3.0, 0.1), (4, -1.0, 0.2), (6, -2.0, 0.3), (7, -1.5, 0.4)]
    assert found.epoch == 4
    kept = found.model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in seen[1].items())
    assert all(any(not torch.equal(kept[name], other[name]) for name in kept) for other in (seen[0], *seen[2:]))
    assert told[1] == "epoch 4: validation bound -1.000, KL 0.200 nats per step"
    assert not found.model.training


@torch.no_grad()
def test_the_validation_bound_is_the_elbo_of_the_notes_alone():
    piece = pieces((3,))
    batch = rolls.as_episodes(piece, reads_past=True).batch()
    model = build_networks.build_model(Recipe("", TINY).config(0, 1), rolls.as_episodes(piece, reads_past=True).spec)
    model.dynamics.posterior_rest[-1].weight.mul_(10)  # a posterior that departs from the prior
    draws = torch.tensor([models.validation_bound(model, batch, seed) for seed in range(200)], dtype=torch.float64)
    error = draws.std(0) / len(draws) ** 0.5
    generator = torch.Generator().manual_seed(0)
    found = scores.score(model, piece, reads_past=True, particles=2, runs=20, generator=generator)
    bound, kl = draws.mean(0).tolist()
    assert abs(bound - found["elbo"][0]) < 5 * error[0]
    assert kl == pytest.approx(found["kl"], abs=0.05)  # there it is sampled
    assert kl > 10 * error[0]  # so that a bound without it is seen
    assert models.validation_bound(model, batch, 3) == tuple(draws[3].tolist())


def parsed(data):
    """The roll of a MIDI file of format 0, by a reader of its own."""
    assert data[:4] == b"MThd" and data[8:12] == bytes([0, 0, 0, 1]) and data[14:18] == b"MTrk"
    ticks, at, now, sounding, steps = int.from_bytes(data[12:14]), 22, 0, set(), {}
    assert int.from_bytes(data[18:22]) == len(data) - 22
    while True:
        wait = 0
        while True:
            wait, at, more = wait * 128 + (data[at] & 127), at + 1, data[at] & 128
            if not more:
                break
        for step in range(now // ticks, (now + wait) // ticks):
            steps[step] = set(sounding)
        now, kind = now + wait, data[at]
        if kind == 0xFF:
            if data[at + 1] == 0x2F:
                return [steps[step] for step in range(len(steps))]
            at += 3 + data[at + 2]
        elif kind & 0xF0 == 0xC0:
            at += 2
        else:
            (sounding.add if kind & 0xF0 == 0x90 else sounding.discard)(data[at + 1])
            at += 3


def test_a_midi_file_has_the_notes_of_its_roll(tmp_path):
    roll = np.zeros((130, rolls.NOTES), bool)  # a last note after more ticks than one byte, or two, can say
    roll[0:3, [0, 40]] = roll[2:5, 87] = roll[129:, 39] = True
    write_midi(tmp_path / "piece.mid", roll)
    expected = [set((rolls.LOWEST + np.flatnonzero(step)).tolist()) for step in roll]
    assert parsed((tmp_path / "piece.mid").read_bytes()) == expected


def test_the_script_trains_scores_and_goes_on_where_it_was(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(music, "RECIPES", {MAIN: Recipe("tiny", TINY, epochs=1, pieces=2)})
    command = ["music.py", "--data", str(folder), "--output", str(tmp_path / "runs"), "--models", MAIN, "independent"]
    cheaper = ["--cut", "4", "--pieces", "3", "--epochs", "2", "--particles", "4", "--runs", "1"]
    monkeypatch.setattr("sys.argv", command + cheaper)
    threads = torch.get_num_threads()
    try:
        music.main()
        first = (tmp_path / "runs" / "results.jsonl").read_text()
        music.main()
        monkeypatch.setattr("sys.argv", [*command, *cheaper, "--epochs", "3"])
        refused = rf"'jsb', '{MAIN}', 0\): expected the stored effort, .*\"epochs\": 2.*, got .*\"epochs\": 3"
        with pytest.raises(SystemExit, match=refused):
            music.main()
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "runs" / "results.jsonl").read_text() == first
    world, alone = map(json.loads, first.splitlines())
    assert world["parts"]["test"].keys() >= {"elbo", "iwae", "smc", "width", "kl"}
    assert world["effort"] == {"cut": 4, "pieces": 3, "epochs": 2, "particles": 4, "runs": 1}
    assert alone["effort"] == {}
    assert {part: (one["steps"], one["particles"]) for part, one in world["parts"].items()} == {
        "train": (18, 4), "valid": (9, 4), "test": (9, 4)
    }  # fmt: skip
    assert alone["parts"]["test"]["steps"] == 9
    assert "smc_per_piece" in capsys.readouterr().out
