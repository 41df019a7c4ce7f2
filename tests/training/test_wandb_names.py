"""What metrics and pictures are called at W&B, and what they are drawn over there."""

import re
from pathlib import Path

import pytest

from worldmodel.training.wandb_names import DEFINITIONS, ENV_STEPS, UPDATE, wandb_name

NAMES = {  # in metrics.jsonl, at W&B
    "env_steps": "env_steps",
    "acting/return": "acting/return",
    "acting": "acting/curves",
    "acting/dream": "acting/dream",
    "acting/returns": "acting/returns",
    "acting_heldout/elbo": "acting/own_episodes/elbo",
    "acting_heldout/obs": "acting/own_episodes/log_likelihood/obs",
    "acting_ending/0.5/steps": "acting/ending/0.5/steps",
    "acting_evidence/smc": "evidence/own_episodes/smc",
    "behaviour/grad_norm/actor": "behaviour/grad_norm/actor",
    "best/elbo": "best/elbo",
    "best/return": "best/return",
    "bound": "train/bound_curves",
    "env_restarts": "wall_clock/env_restarts",
    "grad_norm/total": "optimization/grad_norm/total",
    "heldout/elbo": "heldout/elbo",
    "heldout/kl": "heldout/kl",
    "heldout/obs": "heldout/log_likelihood/obs",
    "heldout/joints/angle": "heldout/log_likelihood/joints/angle",
    "heldout_bits_per_dimension/obs": "heldout/bits_per_dimension/obs",
    "heldout_evidence/gap": "evidence/heldout/gap",
    "heldout_kl/median": "kl/heldout/median",
    "heldout_kl/by_step": "kl/heldout/by_step",
    "imagination/fan_obs": "imagination/fan_obs",
    "kl/mean": "kl/batch/mean",
    "kl/overview": "kl/overview",
    "kl/over_training": "kl/over_training",
    "latent/entropy": "train/latent/entropy",
    "ledger/free_nats": "ledger/free_nats",
    "loss/value": "train/loss",
    "open_loop": "imagination/open_loop_errors",
    "open_loop/obs": "imagination/open_loop/obs",
    "open_loop/obs/model": "imagination/open_loop/obs/model",
    "optimizer/learning_rate": "optimization/learning_rate",
    "play/actor": "acting/film/actor",
    "rate/env_steps_per_second": "wall_clock/env_steps_per_second",
    "reconstruction/obs": "reconstruction/obs",
    "resources/cores": "wall_clock/resources/cores",
    "seconds/update": "wall_clock/seconds/update",
    "train/elbo": "train/elbo",
    "train/kl": "train/kl",
    "train/obs": "train/log_likelihood/obs",
    "train/reward": "train/log_likelihood/reward",
    "training_kl/median": "kl/training_sequences/median",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_the_section_that_fits(name):
    assert wandb_name(name) == NAMES[name]


def test_no_two_names_become_one():
    assert len({wandb_name(name) for name in NAMES}) == len(NAMES)


def test_sections_by_name_begin_with_what_is_earned_and_end_with_the_time_it_takes():
    sections = sorted({name.partition("/")[0] for name in NAMES.values() if "/" in name})
    assert sections[0] == "acting" and sections[-1] == "wall_clock"
    assert sections.index("heldout") < sections.index("optimization") < sections.index("train")


def test_parts_that_no_file_can_be_called_are_escaped():
    assert wandb_name("train/a:b") == "train/log_likelihood/a%3Ab"


def fitting(name):
    return next(one for one in DEFINITIONS if one.name == name or one.name == f"{name.partition('/')[0]}/*")


@pytest.mark.parametrize("name", [name for name in NAMES if "/" in NAMES[name]])
def test_every_name_has_a_step_axis_and_what_is_collected_counts_environment_steps(name):
    counted = name.startswith(("acting", "play/")) and name != "acting_evidence/smc"
    counted |= name in ("best/return", "rate/env_steps_per_second", "env_restarts")
    assert fitting(NAMES[name]).axis == (ENV_STEPS if counted else UPDATE)


def test_runs_are_ranked_by_their_best_bound_and_their_best_return():
    highest = {one.name for one in DEFINITIONS if one.summary == "max,last"}
    assert {"heldout/elbo", "acting/return"} <= highest
    assert fitting("best/elbo").summary is None  # the last value of a running best is the best


def test_the_documentation_lists_every_section_in_its_order():
    page = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
    listed = re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)
    assert listed == sorted({name.partition("/")[0] for name in NAMES.values() if "/" in name})
