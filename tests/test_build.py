"""What is built beyond the plain parts: the law that a run's rows are drawn from, where there is one."""

import pytest

from worldmodel.build import build_law
from worldmodel.config_io import read_config

WORLD = {"env.id": "worldmodel/LinearGaussian-v0", "env.kwargs": {"oscillators": 3}}


def test_a_world_with_a_law_states_it_with_its_own_settings():
    law = build_law(read_config((), WORLD))
    assert law is not None and law["kind"] == "linear_gaussian" and len(law["initial_mean"]) == 6


@pytest.mark.parametrize(
    "settings",
    [
        {"env.id": "Pendulum-v1", "env.kwargs": {}},
        {"env.hide": {"obs": [1]}},
        {"env.action_repeat": 2},
        {"env.wrappers": ["gymnasium.wrappers:ClipReward"]},
        {"offline": "somewhere"},
    ],
)
def test_there_is_no_law_where_none_is_stated_or_the_rows_are_changed(settings):
    assert build_law(read_config((), WORLD | settings)) is None
