"""What is built beyond the plain parts: the law that a run's rows are drawn from, where there is one."""

import re

import pytest

from worldmodel.behaviour.planner import CEM, MPPI
from worldmodel.build import build_law, lasting_settings, why_no_law
from worldmodel.build_acting import build_planner
from worldmodel.config_io import read_config
from worldmodel.types import ActionSpec

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


def test_only_an_environment_of_this_project_has_a_law_unless_others_are_allowed(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    for env_id, reason in (
        ("worldmodel/LinearGaussian-v0", None),
        ("Pendulum-v1", None),
        ("ALE/Pong-v5", None),
        ("elsewhere:World-v0", "no exact evidence: elsewhere:World-v0 .* imports elsewhere"),
        ("elsewhere:worldmodel/LinearGaussian-v0", "no exact evidence: .* imports elsewhere, worldmodel_envs"),
    ):
        config, said = read_config((), {"env.id": env_id}), []
        assert (build_law(config) is not None) == (env_id == "worldmodel/LinearGaussian-v0")
        assert re.match(reason, why_no_law(config)) if reason else why_no_law(config) is None
        if reason:
            assert build_law(config, allow_env=True, log=said.append) is None
            assert said[0].startswith(f"making {env_id}, which imports elsewhere")


def test_a_planner_is_built_from_its_section():
    spec = ActionSpec("continuous", 2)
    usual = build_planner(read_config().planner, spec)
    assert (usual.method, usual.horizon, usual.candidates, usual.iterations, usual.std) == (MPPI(0.2), 15, 64, 1, 0.7)
    settings = {"method": "cem", "elites": 5, "horizon": 4, "candidates": 9, "std": 0.3, "explore": 0.2}
    cem = build_planner(read_config((), {f"planner.{key}": value for key, value in settings.items()}).planner, spec)
    assert (cem.method, cem.iterations, cem.explore) == (CEM(5), 3, 0.2)
    assert (cem.horizon, cem.candidates, cem.std, cem.spec) == (4, 9, 0.3, spec)
    more = build_planner(read_config((), {"planner.iterations": 2, "planner.temperature": 0.5}).planner, spec)
    assert (more.iterations, more.method) == (2, MPPI(0.5))


def test_how_a_model_is_planned_with_may_change_after_its_training():
    changed = read_config((), {"planner.horizon": 4, "planner.method": "cem"})
    assert lasting_settings(changed) == lasting_settings(read_config())


def test_a_planner_that_collects_the_rows_is_part_of_its_run_for_life():
    one, other = (read_config((), {"acting.policy": "mppi", "planner.horizon": n}) for n in (4, 5))
    assert lasting_settings(one) != lasting_settings(other)
