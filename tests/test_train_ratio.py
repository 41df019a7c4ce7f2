"""The rule how many updates collected steps pay for: settings, training and reports must agree on it."""

import dataclasses

import pytest

from run_folder import write_run
from worldmodel.build import build_schedule
from worldmodel.config_io import read_config
from worldmodel.report.record import read_record
from worldmodel.train_ratio import fewest_env_steps, updates_paid

SIZES = {"prefill": 100, "train_ratio": 8.0, "batch_size": 4, "sequence_length": 16}


def test_every_step_after_the_prefill_pays_for_train_ratio_rows():
    assert updates_paid(100, **SIZES) == updates_paid(107, **SIZES) == 0
    assert updates_paid(108, **SIZES) == updates_paid(115, **SIZES) == 1
    assert updates_paid(180, **SIZES) == 10


@pytest.mark.parametrize("ratio", [0.3, 1.0, 7.0, 128.0, 3000.0])
def test_the_fewest_steps_pay_for_one_update_and_one_step_less_for_none(ratio):
    sizes = {**SIZES, "train_ratio": ratio}
    fewest = fewest_env_steps(**sizes)
    assert updates_paid(fewest, **sizes) >= 1
    assert fewest == 101 or updates_paid(fewest - 1, **sizes) == 0


@pytest.mark.parametrize(("env_steps", "ratio"), [(20_000, 128.0), (5_333, 7.7), (5_001, 5_000.0)])
def test_training_and_reports_plan_the_same_number_of_updates(env_steps, ratio, tmp_path):
    config = read_config((), {"training.env_steps": env_steps, "training.train_ratio": ratio})
    record = read_record(write_run(tmp_path / "run", config=dataclasses.asdict(config)))
    schedule = build_schedule(config)
    assert record.planned == schedule.total_updates == schedule.updates_paid(env_steps) > 0
