"""What was probably meant: Dreamer's names, another section, a slip of the pen; and nothing where nothing is near."""

import pytest

from worldmodel.cli import COMMANDS
from worldmodel.config_io import _settings
from worldmodel.system.hints import OTHER_COMMANDS, OTHER_NAMES, hint, meant


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("replay.batch_length", ["replay.sequence_length"]),
        ("batch_length", ["replay.sequence_length"]),
        ("run.steps", ["training.env_steps"]),
        ("task", ["env.id"]),
        ("replay_ratio", ["training.train_ratio"]),
        ("deter", ["rssm.deter"]),
        ("horizon", ["evaluation.horizon", "planner.horizon", "behaviour.horizon"]),
        ("training.batch_size", ["replay.batch_size"]),
        ("rssm.dete", ["rssm.deter"]),
        ("sequence_lenght", ["replay.sequence_length"]),
        ("zebra", []),
    ],
)
def test_a_setting_that_does_not_exist_leads_to_the_one_that_was_meant(name, expected):
    assert meant(name, list(_settings()), OTHER_NAMES) == expected


def test_a_hint_names_all_of_them_with_their_dashes_or_says_nothing():
    assert hint("batch-length", list(_settings()), OTHER_NAMES) == "; did you mean replay.sequence_length?"
    assert hint("x", ["a.x", "b.x"], {}, dashes="--") == "; did you mean --a.x or --b.x?"
    assert hint("zebra", ["a.x"], {}) == ""


def test_other_names_lead_to_what_exists_and_hide_nothing_that_does():
    assert not {*OTHER_NAMES.values()} - {*_settings()}
    assert not {*OTHER_NAMES} & {key.rpartition(".")[2] for key in _settings()}
    assert not {*OTHER_COMMANDS.values()} - {*COMMANDS}
    assert not {*OTHER_COMMANDS} & {*COMMANDS}
