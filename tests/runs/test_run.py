"""One real, tiny training from end to end: what it leaves behind, here and in W&B, and how it is opened again."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
from PIL import Image
from rich.console import Console

import wandb_reader
import worldmodel
from run_folder import Page
from worldmodel.cli import main
from worldmodel.config_io import read_config
from worldmodel.runs.run import open_run
from worldmodel.runs.session import train
from worldmodel.training.checkpoint import CheckpointError, load_model
from worldmodel.training.divergence import NonFiniteLossError
from worldmodel.training.progress import RunProgress
from worldmodel.training.wandb_names import wandb_name
from worlds import TINY

ROOT = Path(worldmodel.__file__).parent.parent
# 200 rows after the prefill and 0.15 updates a row: 30 updates. Free nats and beta give the ledger something to do.
SETTINGS = TINY | {
    "loss.beta": 0.5,
    "loss.free_nats": 1.0,
    "loss.reward_scale": 2.0,
    "optimizer.warmup": 10,
    "training.prefill": 200,
    "training.env_steps": 400,
    "training.train_ratio": 9.6,
    "training.log_every": 5,
    "training.evaluate_every": 15,
    "training.save_every": 10,
    "evaluation.episodes": 2,
    "evaluation.max_length": 60,
    "evaluation.context": 4,
    "evaluation.horizon": 8,
    "evaluation.samples": 2,
}
QUICK = {**SETTINGS, "tracking": "none", "training.evaluate_every": 1000, "evaluation.max_length": 16}


def train_tiny(folder, settings, **others):
    progress = RunProgress(400, Console(quiet=True))
    return train(None, {**settings, "runs": str(folder), **others}, progress=progress)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_rates(rows: list[dict]) -> list[dict]:
    timed = ("rate/", "seconds/", "resources/")
    kept = [{key: value for key, value in row.items() if not key.startswith(timed)} for row in rows]
    return [row for row in kept if row.keys() != {"update"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The training that the tests below look at: its Run, its metrics, and what W&B was told, offline."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(folder / "wandb-home"))
        run = train_tiny(folder / "runs", SETTINGS, tracking="offline", name="tiny")
        wandb.teardown()
    (file,) = run.folder.glob("wandb/offline-run-*/*.wandb")
    return SimpleNamespace(run=run, metrics=metrics(run.folder), wandb=wandb_reader.read(file), media=file.parent)


@pytest.fixture(scope="module")
def logged(tiny):
    """All that W&B was told, by name: the last value of each."""
    return {key: value for row in tiny.wandb["history"] for key, value in row.items()}


def rows_with(tiny, name) -> list[dict]:
    return [row for row in tiny.metrics if name in row]


def test_a_run_folder_holds_settings_metrics_pictures_checkpoints_and_data(tiny):
    folder = tiny.run.folder
    assert folder.name.startswith("tiny-")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "lines",
        "figures",
        "checkpoints",
        "replay",
        "heldout",
        "wandb",
        "imagination",
        "report.html",
        "versions.json",
        ".lock",
    }
    assert read_config(folder / "config.yaml") == tiny.run.config
    assert {path.stem for path in (folder / "checkpoints").iterdir()} == {"best", "last", "previous"}


def test_a_run_ends_with_a_page_about_itself(tiny):
    page = Page((tiny.run.folder / "report.html").read_text(encoding="utf-8"))
    assert "Finished · 30 updates on 400 env steps" in page.text
    bound = next(table for table in page.tables if table[1][0] == "ELBO")
    assert bound[1][3] == f"{rows_with(tiny, 'heldout/elbo')[-1]['heldout/elbo']:.3f}"


def test_metrics_come_when_due_and_count_up(tiny):
    assert [row["update"] for row in rows_with(tiny, "loss/value")] == [5, 10, 15, 20, 25, 30]
    assert [row["update"] for row in rows_with(tiny, "heldout/elbo")] == [15, 30]
    assert rows_with(tiny, "env_steps")[-1]["env_steps"] == 400
    steps = [row["update"] for row in tiny.metrics]
    assert steps == sorted(steps)


def test_the_ledger_leads_from_the_negative_bound_to_the_loss(tiny):
    for row in rows_with(tiny, "loss/value"):
        ledger = {key: value for key, value in row.items() if key.startswith("ledger/")}
        assert sum(ledger.values()) == pytest.approx(row["loss/value"], rel=1e-4)
        assert ledger["ledger/negative_elbo"] == pytest.approx(-row["train/elbo"], rel=1e-5)
        assert ledger["ledger/scale_reward"] == pytest.approx(-row["train/reward"], rel=1e-4)
        assert ledger["ledger/beta"] < 0
        terms = sum(row[f"train/{name}"] for name in ("obs", "reward", "continue"))
        assert terms - row["train/kl"] == pytest.approx(row["train/elbo"], rel=1e-4)


def test_the_raw_kl_and_the_optimised_one_stand_side_by_side(tiny):
    for row in rows_with(tiny, "kl/mean"):
        assert 0 < row["kl/median"] < row["kl/q95"]
        assert row["kl/mean"] < row["kl/q95"]
        assert row["kl/optimised_mean"] >= 0.5  # beta times the free nats
    assert any(row["kl/mean"] < 1.0 for row in rows_with(tiny, "kl/mean"))  # free nats do not touch the raw one
    for row in [*rows_with(tiny, "heldout_kl/mean"), *rows_with(tiny, "training_kl/mean")]:
        for table in {key.split("/")[0] for key in row if key.endswith("_kl/mean")}:
            assert 0 <= row[f"{table}/share_under_free_nats"] == row[f"{table}/share_under_1_nat"] <= 1
            assert row[f"{table}/active_units"] in (0, 1, 2, 3)


def test_gradient_norms_and_rates_are_reported(tiny):
    for row in rows_with(tiny, "loss/value"):
        parts = [row[f"grad_norm/{name}"] for name in ("encoder", "dynamics", "decoder")]
        assert min(parts) > 0
        assert max(parts) < row["grad_norm/total"] <= sum(parts)
        assert row["rate/updates_per_second"] > 0
        assert row["rate/env_steps_per_second"] > 0
        assert row["optimizer/learning_rate"] > 0


def test_training_raises_the_bound_on_held_out_episodes(tiny):
    scores = [row["heldout/elbo"] for row in rows_with(tiny, "heldout/elbo")]
    assert scores[-1] > scores[0] + 0.2


def test_figures_are_pictures_with_something_in_them(tiny):
    figures = {path.stem: np.asarray(Image.open(path)) for path in (tiny.run.folder / "figures").glob("*.png")}
    assert figures.keys() == {"kl_overview", "kl_heat_map", "bound", "open_loop"}
    for name, pixels in figures.items():
        assert min(pixels.shape[:2]) > 100, name
        assert pixels.std() > 5, name


def test_the_kl_lines_are_kept_with_one_value_per_step(tiny):
    lines = {path.stem: json.loads(path.read_text()) for path in (tiny.run.folder / "lines").glob("*.json")}
    assert lines.keys() == {
        "kl_by_position",
        "kl_by_episode_step",
        "kl_by_group",
        "kl_over_training",
        "kl_surprise",
        "open_loop_obs",
    }
    assert len(lines["kl_by_position"]["raw"]) == 16
    groups = [lines["kl_by_group"][f"group {s}"] for s in range(tiny.run.config.rssm.stoch)]
    np.testing.assert_allclose(np.sum(groups, 0), lines["kl_by_position"]["raw"], rtol=1e-4)
    assert len(lines["kl_by_episode_step"]["raw"]) == len(lines["kl_surprise"]["reward"]) == 60
    assert len(lines["open_loop_obs"]["model"]) == 8
    heldout = np.mean(lines["kl_by_episode_step"]["raw"])  # both episodes have all 60 rows
    assert heldout == pytest.approx(rows_with(tiny, "heldout_kl/mean")[-1]["heldout_kl/mean"], rel=1e-4)


def test_w_and_b_has_every_number_that_the_folder_has(tiny):
    by_step = {}
    for row in tiny.wandb["history"]:
        by_step.setdefault(row["_step"], {}).update(row)
    assert by_step.keys() == {5, 10, 15, 20, 25, 30}
    latest = {row["update"]: {} for row in tiny.metrics}
    for row in tiny.metrics:
        latest[row["update"]].update(row)
    for row in latest.values():
        for name, value in row.items():
            if name != "update":
                assert by_step[row["update"]][wandb_name(name)] == pytest.approx(value), (row["update"], name)


def test_w_and_b_has_the_kl_of_every_step_as_tables_and_pictures(tiny, logged):
    for name in ("batch/mean", "batch/q95", "training_sequences/share_under_free_nats", "heldout/active_units"):
        assert f"kl/{name}" in logged
    for group in ("ledger/", "optimization/grad_norm/", "wall_clock/"):
        assert any(name.startswith(group) for name in logged)
    curves = {
        "kl/by_position": (16, {"raw", "as optimised"}),
        "kl/by_episode_step": (60, {"raw"}),
        "kl/surprise": (60, {"KL, raw", "KL, as optimised", "reward"}),
        "kl/over_training": (16, {"update 15", "update 30"}),
    }
    for name, (length, lines) in curves.items():
        table = json.loads((tiny.media / "files" / logged[f"{name}_table"]["path"]).read_text())
        assert len(table["data"]) == length * len(lines)
        assert {line for _, line, _ in table["data"]} == lines
    for name in ("kl/overview", "kl/heat_map"):
        assert logged[name]["_type"] == "image-file"
        with Image.open(tiny.media / "files" / logged[name]["path"]) as picture:
            assert picture.size[0] > 100
    for name, rows in (("kl/heldout/by_step", 120), ("kl/training_sequences/by_step", 4 * 4 * 16)):
        assert logged[name]["_type"] == "histogram" and sum(logged[name]["values"]) == rows


def test_w_and_b_has_what_was_imagined(tiny, logged):
    drawn = sorted(path for path in (tiny.run.folder / "imagination").iterdir() if path.suffix in (".png", ".gif"))
    assert {path.name for path in drawn} >= {"fan_obs.png", "latents.png", "scores.png"}
    for path in drawn:
        shown = logged[f"imagination/{path.stem}"]
        with Image.open(tiny.media / "files" / shown["path"]) as theirs, Image.open(path) as ours:
            assert theirs.tobytes() == ours.convert(theirs.mode).tobytes()


def test_the_best_so_far_is_logged_at_every_evaluation(tiny):
    rows = rows_with(tiny, "best/elbo")
    scores = [row["heldout/elbo"] for row in rows_with(tiny, "heldout/elbo")]
    assert [row["update"] for row in rows] == [15, 30]
    assert [row["best/elbo"] for row in rows] == pytest.approx(list(np.maximum.accumulate(scores)))


def test_w_and_b_has_the_settings_and_the_model(tiny):
    assert tiny.wandb["config"]["rssm"]["deter"] == 16
    assert tiny.wandb["run"]["name"] == tiny.run.folder.name
    models = [(set(paths), aliases) for _, kind, paths, aliases in tiny.wandb["artifacts"] if kind == "model"]
    both = {"config.yaml", "report.html"}
    assert [paths for paths, _ in models] == [both | {f"{name}.safetensors"} for name in ("best", "last")]
    assert "best" in models[0][1] and "best" not in models[1][1] and "latest" in models[1][1]
    session = json.loads((tiny.run.folder / "versions.json").read_text())["sessions"][-1]
    assert tiny.wandb["config"]["started_by"] == {key: session[key] for key in session if key in ("command", "commit")}
    assert sys.argv[0] in session["command"]
    assert tiny.wandb["exit"] == 0


def test_the_same_seed_gives_the_same_numbers_tracked_or_not_and_leaves_no_wandb_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
    monkeypatch.setattr(
        "worldmodel.training.evaluators.show", lambda *arguments: None
    )  # pictures change no number either
    again = train_tiny(tmp_path, SETTINGS, tracking="none")
    assert without_rates(metrics(again.folder)) == without_rates(tiny.metrics)
    assert not (again.folder / "wandb").exists()
    other = train_tiny(tmp_path, QUICK, seed=1)
    assert metrics(other.folder)[0]["loss/value"] != tiny.metrics[0]["loss/value"]


@pytest.mark.parametrize("checkpoint", [None, "best", "last"])
def test_an_opened_run_scores_as_it_did_when_its_checkpoint_was_written(tiny, checkpoint):
    opened = open_run(tiny.run.folder, checkpoint)
    rows = rows_with(tiny, "heldout/elbo")
    expected = rows[-1] if checkpoint == "last" else max(rows, key=lambda row: row["heldout/elbo"])
    scores = opened.evaluate()
    for name, value in scores.per_step.items():
        assert value == pytest.approx(expected[f"heldout/{name}"], rel=1e-5), name
    for name, value in scores.kl.summary.items():
        assert value == pytest.approx(expected[f"heldout_kl/{name}"], rel=1e-5), name
    assert scores.open_loop["obs"].model.mean().item() == pytest.approx(expected["open_loop/obs/model"], rel=1e-5)


def test_the_best_checkpoint_is_opened_unless_another_is_named_or_there_is_none(tiny, tmp_path):
    for missing, opens in (("last", [None, "best"]), ("best", [None, "last"])):
        folder = tmp_path / missing
        shutil.copytree(tiny.run.folder, folder, ignore=shutil.ignore_patterns("wandb", f"{missing}.safetensors"))
        for checkpoint in opens:
            open_run(folder, checkpoint)
        with pytest.raises(CheckpointError, match=f"{missing}.safetensors"):
            open_run(folder, missing)


def test_the_command_shows_the_same_scores(tiny, capsys):
    main(["evaluate", str(tiny.run.folder), "--checkpoint", "last"])
    shown = capsys.readouterr().out
    for name in ("elbo", "kl", "obs", "reward"):
        assert f"{rows_with(tiny, 'heldout/elbo')[-1][f'heldout/{name}']:.4f}" in shown


def test_a_checkpoint_that_is_not_there_is_refused_by_name(tiny):
    with pytest.raises(CheckpointError, match=r"worst\.safetensors: expected a checkpoint, found no file"):
        open_run(tiny.run.folder, "worst")


def test_imagined_futures_differ_between_samples_and_agree_under_the_same_seed(tiny):
    dream, same, other = (tiny.run.imagine(context=4, horizon=8, samples=3, seed=seed) for seed in (0, 0, 1))
    shapes = {name: tuple(x.shape) for name, x in dream.prediction.items()}
    assert shapes == {"obs": (3, 2, 8, 3), "reward": (3, 2, 8, 1), "continue": (3, 2, 8, 1)}
    assert dream.states.deter.shape == (3, 2, 8, 16)
    for name, prediction in dream.prediction.items():
        assert torch.equal(prediction, same.prediction[name])
        assert not torch.equal(prediction, other.prediction[name])
    futures = dream.prediction["obs"]
    assert (futures[0] - futures[1]).abs().amin((1, 2)).min() > 0


def test_a_run_can_be_imagined_from_given_rows_which_beyond_the_context_are_only_actions(tiny):
    rows = tiny.run.heldout()
    changed = rows.obs["obs"].clone()
    changed[:, 4:] = 0
    blind = rows._replace(obs={"obs": changed}, reward=torch.zeros_like(rows.reward))
    given, unseen = (tiny.run.imagine(batch, context=4, horizon=8, samples=2) for batch in (rows, blind))
    assert torch.equal(given.prediction["obs"], unseen.prediction["obs"])
    other_past = rows._replace(obs={"obs": -rows.obs["obs"]})
    elsewhere = tiny.run.imagine(other_past, context=4, horizon=8, samples=2)
    assert not torch.equal(given.prediction["obs"], elsewhere.prediction["obs"])
    with pytest.raises(ValueError, match="at most the 60 rows given, got 61"):
        tiny.run.imagine(rows, context=53, horizon=8)


def test_a_learning_rate_without_bound_ends_in_a_named_error_and_never_in_a_broken_checkpoint(tmp_path):
    wild = {"optimizer.learning_rate": 1e30, "training.save_every": 1}
    with pytest.raises(NonFiniteLossError, match=r"^after update 1: the held-out loss is .*, of update 0; "):
        train_tiny(tmp_path, {**QUICK, **wild})
    (folder,) = tmp_path.iterdir()
    assert (folder / "config.yaml").is_file()
    for path in (folder / "checkpoints").glob("*.safetensors"):
        model = open_run(folder, path.stem).model
        assert load_model(path, model)["updates"] < 30
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_overrides_beside_a_finished_config_are_refused(tmp_path):
    with pytest.raises(ValueError, match="overrides: expected none beside a finished Config"):
        train(read_config(), {"seed": 1})


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        pytest.param(signal.SIGINT, 130, "stopped early", marks=pytest.mark.slow),  # which writes the whole report
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
    ],
)
def test_a_signal_to_the_whole_group_ends_the_command_well_and_keeps_everything(tmp_path, number, status, words):
    settings = {**QUICK, "training.env_steps": 1_000_000, "training.log_every": 1, "tracking": "auto"}
    settings["runs"] = tmp_path / "runs"
    command = [sys.executable, "-m", "worldmodel", "train", *(f"--{key}={value}" for key, value in settings.items())]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **options)
    try:
        wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob("runs/*/metrics.jsonl")), process)
        os.killpg(process.pid, number)  # as a terminal or a cluster does: to everything that runs in it
        _, said = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status, said
    assert words in said
    (folder,) = (tmp_path / "runs").iterdir()
    run = open_run(folder, "last")
    updates = load_model(folder / "checkpoints" / "last.safetensors", run.model)["updates"]
    assert updates == metrics(folder)[-1]["update"] >= 1
    assert list(folder.glob("wandb/offline-run-*"))


def wait_for(condition, process: subprocess.Popen, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
