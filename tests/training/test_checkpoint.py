"""Checkpoints: what is saved comes back bit for bit, whole or not at all, and only where it belongs."""

import functools
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

import older_checkpoints
from worldmodel.objectives.loss import Objective
from worldmodel.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_model,
    newest_sound,
    read_counters,
    require_settings,
    save_checkpoint,
)
from worldmodel.training.learner import Learner
from worlds import CATEGORICAL, FULL, make_batch, make_model

SETTINGS = {
    "learning_rate": 1e-2,
    "warmup": 2,
    "final_fraction": 0.1,
    "total_updates": 9,
    "clip_norm": 100.0,
    "weight_decay": 0.0,
    "eps": 1e-8,
}
COUNTERS = {"updates": 2, "env_steps": 500, "best_elbo": -1.25}
CONFIG = {"rssm": {"deter": 8, "latent": "categorical"}, "seed": 3, "offline": None}


def make_learner(seed=0, latent=CATEGORICAL):
    return Learner(make_model(latent=latent, seed=seed), Objective(), torch.Generator().manual_seed(seed), **SETTINGS)


def save(path, learner, counters=COUNTERS, settings=CONFIG, **options):
    parts = {"world": learner.state(), "random": {"learner": learner.generator.get_state()}}
    save_checkpoint(path, parts, counters, settings, **options)


def load(path, learner):
    """Put a checkpoint back into a learner: -> what it holds."""
    found = load_checkpoint(path)
    learner.restore(found.part("world"), found.counters["updates"])
    learner.generator.set_state(found.part("random")["learner"])
    return found


def exact(actual, expected):
    assert_close(actual, expected, rtol=0, atol=0)


@pytest.fixture
def trained(tmp_path):
    """A learner after two updates, and its checkpoint."""
    learner = make_learner()
    for seed in range(2):
        learner.update(make_batch(seed=seed))
    learner.model.standardiser("reward").set(torch.tensor([3.0]), torch.tensor([2.0]))
    save(tmp_path / "checkpoints" / "last.safetensors", learner)
    return learner, tmp_path / "checkpoints" / "last.safetensors"


def test_weights_optimiser_random_states_and_counters_come_back_bit_for_bit(trained):
    learner, path = trained
    other = make_learner(seed=1)
    assert load(path, other).counters == COUNTERS
    exact(other.generator.get_state(), learner.generator.get_state())
    exact(other.model.state_dict(), learner.model.state_dict())
    exact(other.optimizer.state_dict()["state"], learner.optimizer.state_dict()["state"])
    assert float(other.model.standardiser("reward").scale) == 2.0


def test_training_that_goes_on_from_a_checkpoint_goes_on_identically(trained):
    learner, path = trained
    other = make_learner(seed=1)
    load(path, other)
    for seed in (7, 8):
        expected, got = learner.update(make_batch(seed=seed)), other.update(make_batch(seed=seed))
        exact(got.scalars(), expected.scalars())
    exact(other.model.state_dict(), learner.model.state_dict())


def test_training_of_a_full_covariance_goes_on_identically_too(tmp_path):
    learner, other = make_learner(latent=FULL), make_learner(seed=1, latent=FULL)
    learner.update(make_batch())
    save(tmp_path / "last.safetensors", learner)
    load(tmp_path / "last.safetensors", other)
    expected, got = (one.update(make_batch(seed=7)) for one in (learner, other))
    exact(got.scalars(), expected.scalars())


def test_loading_weights_alone_returns_the_counters(trained):
    learner, path = trained
    model = make_model(latent=CATEGORICAL, seed=1)
    assert load_model(path, model) == COUNTERS
    exact(model.state_dict(), learner.model.state_dict())


def test_a_checkpoint_holds_tensors_that_safetensors_alone_can_read(trained):
    learner, path = trained
    stored, _ = older_checkpoints.read(path)
    assert {"/".join(name.split("/")[:2]) for name in stored} == {"world/model", "world/optimizer", "random/learner"}
    for name, value in learner.model.state_dict().items():
        exact(stored[f"world/model/{name}"], value)


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file_whole(trained, where, monkeypatch):
    learner, path = trained
    before = path.read_bytes()
    learner.update(make_batch(seed=3))

    def fail(*arguments, **options):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, where, fail)
    with pytest.raises(OSError, match="the disk is full"):
        save(path, learner)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    monkeypatch.undo()
    save(path, learner)
    model = make_model(latent=CATEGORICAL, seed=1)
    load_model(path, model)
    exact(model.state_dict(), learner.model.state_dict())
    assert list(path.parent.iterdir()) == [path]


def test_every_byte_counts(trained):
    _, path = trained
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(8, len(whole), 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=path.name):
            load_checkpoint(path)


def test_the_newest_sound_checkpoint_is_found_and_what_is_wrong_with_newer_ones_said(trained, tmp_path):
    learner, path = trained
    save(path, learner, {**COUNTERS, "updates": 3}, keep_previous=True)
    previous = path.with_name("previous.safetensors")
    paths = [path, previous, path.with_name("best.safetensors")]
    assert (read_counters(path)["updates"], read_counters(previous)["updates"]) == (3, 2)
    found, complaints = newest_sound(paths)
    assert (found.path, found.counters["updates"], complaints) == (path, 3, [])
    path.write_bytes(path.read_bytes()[:-1])
    found, complaints = newest_sound(paths)
    assert found.path == previous and len(complaints) == 1 and str(path) in complaints[0]
    path.unlink()  # killed between the two renames
    found, complaints = newest_sound(paths)
    assert (found.path, complaints) == (previous, [])
    previous.write_bytes(b"")
    assert newest_sound(paths)[0] is None
    assert newest_sound([tmp_path / "nothing"]) == (None, [])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rssm": {"deter": 16, "latent": "categorical"}}, "was written with rssm.deter = 8, and config.yaml has 16"),
        ({"seed": 4}, "was written with seed = 3, and config.yaml has 4"),
        ({"offline": "data"}, "was written with offline = None, and config.yaml has 'data'"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_with_the_key_and_both_values(trained, changed, words):
    _, path = trained
    with pytest.raises(CheckpointError, match=f"{words}; restore config.yaml, or begin a new run"):
        require_settings(path, {**CONFIG, **changed}, CONFIG)


def test_all_settings_that_differ_are_named_and_one_that_is_newer_than_the_checkpoint_has_its_default(trained):
    _, path = trained
    newer = {"skip": False, "scale": float("nan"), "kwargs": {"a": float("nan"), 1: [()]}}
    require_settings(path, {**CONFIG, "decoder": newer}, {**CONFIG, "decoder": newer})
    changed = {"seed": 4, "decoder": {**newer, "skip": True}, "rssm": {"deter": 8}}
    with pytest.raises(CheckpointError) as refusal:
        require_settings(path, {**CONFIG, **changed}, {**CONFIG, "decoder": newer})
    _, _, words = str(refusal.value).partition(": was written with ")
    assert words == (
        "rssm.latent = 'categorical', which is no setting any more; with seed = 3, and config.yaml has 4; "
        "with decoder.skip = False, and config.yaml has True; restore config.yaml, or begin a new run"
    )


def test_an_environment_s_older_id_is_the_same_setting(trained):
    learner, path = trained
    old, new = ({"env": {"id": env_id}} for env_id in ("envs:LinearGaussian-v0", "worldmodel/LinearGaussian-v0"))
    for written, now in ((old, new), (new, old), (old, old)):
        save(path, learner, settings={**CONFIG, **written})
        require_settings(path, {**CONFIG, **now}, CONFIG)
    with pytest.raises(CheckpointError, match=r"was written with env.id = 'worldmodel/LinearGaussian-v0'"):
        require_settings(path, {**CONFIG, "env": {"id": "Pendulum-v1"}}, CONFIG)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "another program's", "a deep header"])
def test_a_damaged_file_is_refused_by_name_and_the_model_is_left_alone(trained, damage):
    _, path = trained
    whole = path.read_bytes()
    if damage == "another program's":
        save_file({"model/x": torch.zeros(1)}, path)
    elif damage == "a deep header":
        save_file({"model/x": torch.zeros(1)}, path, metadata={"worldmodel": "[" * 100_000})
    else:
        path.write_bytes({"truncated": whole[:-1], "empty": b"", "garbage": b"x" * len(whole)}[damage])
    model = make_model(latent=CATEGORICAL, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=path.name):
        load_model(path, model)
    exact(dict(model.state_dict()), before)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors: expected a checkpoint, found no file"):
        load_model(tmp_path / "nothing.safetensors", make_model())


@pytest.mark.parametrize("other", [{"latent": CATEGORICAL, "cell": "gru"}, {}], ids=["another cell", "another latent"])
def test_a_checkpoint_of_another_configuration_is_refused_with_a_tensor_and_both_its_shapes(trained, other):
    learner, path = trained
    model = make_model(seed=1, **other)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as refusal:
        load_model(path, model)
    file, _, message = str(refusal.value).partition(": expected ")
    name = message.split()[0]
    states = before, learner.model.state_dict()
    want, have = (tuple(state[name].shape) if name in state else "nothing" for state in states)
    assert file == str(path)
    assert want != have
    assert message == f"{name} of shape {want}, got {have}; it was written with another configuration"
    exact(dict(model.state_dict()), before)


def test_a_checkpoint_of_format_2_with_its_older_names_is_read_whole(tmp_path):
    make = functools.partial(make_model, latent=CATEGORICAL, smoothing=True)
    learner = Learner(make(), Objective(), torch.Generator().manual_seed(0), **SETTINGS)
    learner.update(make_batch())
    path, generator = tmp_path / "last.safetensors", learner.generator.get_state()
    parts = {"world": learner.state(), "random": {"sampling": generator}, "policy": {"generator": generator.clone()}}
    save_checkpoint(path, parts, COUNTERS, CONFIG)
    names = older_checkpoints.in_format_2(path)
    assert {"model/hindsight.nothing", "optimizer/0/exp_avg", "random/policy"} <= names
    assert any(name.startswith("model/rssm.") for name in names)
    assert {name.split("/")[0] for name in names} == {"model", "optimizer", "random"}
    model = make(seed=1)
    assert load_model(path, model) == COUNTERS
    exact(model.state_dict(), learner.model.state_dict())
    found = load_checkpoint(path)
    exact(found.parts, {name: dict(part) for name, part in parts.items()})
    require_settings(path, CONFIG, CONFIG)


def test_a_format_that_is_not_known_is_refused(trained):
    _, path = trained
    tensors, header = older_checkpoints.read(path)
    save_file(tensors, path, metadata={"worldmodel": json.dumps({**header, "format": 9})})
    with pytest.raises(CheckpointError, match="expected checkpoint format 2 to 4, got 9"):
        load_checkpoint(path)


def test_weights_of_the_two_hot_density_of_before_are_refused(tmp_path, trained):
    learner, _ = trained
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"world": learner.state()}, COUNTERS, {**CONFIG, "decoder": {"reward": "twohot"}})
    assert load_checkpoint(path).settings["decoder"] == {"reward": "twohot"}
    tensors, header = older_checkpoints.read(path)
    save_file(tensors, path, metadata={"worldmodel": json.dumps({**header, "format": 3})})
    with pytest.raises(CheckpointError, match="its two-hot reward is a density that this version no longer has"):
        load_checkpoint(path)


def test_a_part_that_is_missing_is_named(trained):
    _, path = trained
    with pytest.raises(CheckpointError, match=r"last\.safetensors: expected a part actor, got only random, world"):
        load_checkpoint(path).part("actor")


@pytest.mark.parametrize(
    ("counters", "words"),
    [
        ({"updates": "2"}, "expected a whole number as its counter updates, got '2'"),
        ({"updates": -1}, "expected a whole number as its counter updates, got -1"),
        ({"env_steps": None}, "expected a whole number as its counter env_steps, got None"),
        ({"env_steps": True}, "expected a whole number as its counter env_steps, got True"),
        ({"best_elbo": [1]}, r"expected a number as its counter best_elbo, got \[1\]"),
        ({"best_return": "-1"}, "expected a number as its counter best_return, got '-1'"),
        ({"evaluated": 1.5}, "expected a whole number as its counter evaluated, got 1.5"),
        ({"seconds": {"update": "long"}}, "expected seconds by stage, got {'update': 'long'}"),
    ],
)
def test_counters_that_no_run_has_are_refused_in_a_sentence(tmp_path, counters, words):
    path = tmp_path / "last.safetensors"
    save(path, make_learner(), {**COUNTERS, **counters})
    with pytest.raises(CheckpointError, match=f"last.safetensors: {words}"):
        read_counters(path)
    assert newest_sound([path])[0] is None


@pytest.mark.parametrize("best", [-1, -1.5, None])
def test_a_best_bound_may_be_a_whole_number_or_none(tmp_path, best):
    save(tmp_path / "last.safetensors", make_learner(), {**COUNTERS, "best_elbo": best})
    assert read_counters(tmp_path / "last.safetensors")["best_elbo"] == best


def test_a_checkpoint_has_the_mode_of_every_other_file(trained, tmp_path):
    _, path = trained
    (tmp_path / "other").write_text("")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("name", ["last.safetensors", "last.safetensors.partial"])
def test_a_link_where_a_checkpoint_is_to_be_is_replaced_and_not_written_through(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "last.safetensors"
    path.with_name(name).symlink_to(elsewhere)
    save(path, make_learner(), keep_previous=True)
    assert elsewhere.read_text() == "precious"
    assert read_counters(path) == COUNTERS and not path.is_symlink()


def test_a_folder_of_checkpoints_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"checkpoints: expected a file or a folder of its own, found a link to"):
        save(tmp_path / "checkpoints" / "last.safetensors", make_learner())
    assert list((tmp_path / "elsewhere").iterdir()) == []
