"""`worldmodel imagine` on a tiny trained run: what it writes, what it shows, how it refuses."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from worldmodel.cli import main
from worldmodel.runs.run import open_run
from worldmodel.runs.session import train
from worldmodel.training.progress import RunProgress
from worlds import TINY

SETTINGS = TINY | {
    "training.prefill": 200,
    "training.env_steps": 240,
    "training.train_ratio": 3.2,
    "training.evaluate_every": 1000,
    "evaluation.episodes": 3,
    "evaluation.max_length": 40,
    "evaluation.context": 4,
    "evaluation.horizon": 8,
    "evaluation.samples": 3,
    "tracking": "none",
}
PICTURES = {"fan_obs.png", "fan_reward.png", "fan_continue.png", "latents.png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
        patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
        runs = str(tmp_path_factory.mktemp("runs"))
        progress = RunProgress(240, Console(quiet=True))
        return train(None, {**SETTINGS, "runs": runs}, progress=progress).folder


def names(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_the_command_writes_pictures_and_the_scores_that_it_shows(folder, capsys):
    main(["imagine", str(folder)])
    shown = capsys.readouterr().out
    written = folder / "imagination"
    assert names(written) == PICTURES | {"scores.json", "scores.png"}
    scores = json.loads((written / "scores.json").read_text())
    assert [scores[key] for key in ("context", "horizon", "samples", "episodes")] == [4, 8, 3, 3]
    assert scores["scores"].keys() == {"obs", "reward", "continue"}
    for method in ("model", "repeat_last", "marginal"):
        for h in (0, 1, 3, 7):
            assert f"{scores['scores']['obs']['nll'][method]['mean'][h]:.3g}" in shown
    floor = open_run(folder).model.resolution()["obs"]
    assert all(f"{value:.3g}" in shown for value in floor.tolist())
    for name in names(written) - {"scores.json"}:
        pixels = np.asarray(Image.open(io.BytesIO((written / name).read_bytes())))
        assert pixels.std() > 5, name


def test_the_same_seed_gives_the_same_scores_and_fewer_episodes_others(folder):
    run = open_run(folder)
    settings = {"context": 4, "horizon": 8, "samples": 3}
    one, again, other, fewer = (
        run.score(**settings, **more).as_json() for more in ({}, {}, {"seed": 1}, {"episodes": 2})
    )
    assert one == again
    assert one["scores"]["obs"]["nll"]["model"] != other["scores"]["obs"]["nll"]["model"]
    assert (fewer["episodes"], fewer["futures"]) == (2, one["futures"] * 2 // 3)


def test_a_random_policy_has_pictures_of_its_own_and_no_scores(folder, capsys):
    main(["imagine", str(folder), "--policy", "random", "--context", "40", "--horizon", "50", "--samples", "2"])
    assert names(folder / "imagination" / "random") == PICTURES
    assert str(folder)[-20:] in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--horizon", "40"], "context + horizon: expected at most 40, the longest episode; got 41"),
        (["--horizon", "0"], "horizon: expected at least 1, got 0"),
        (["--policy", "random", "--context", "41"], "expected at most 40, the longest episode; got 41"),
        (["--policy", "perfect"], "policy"),
        (["--episodes", "0"], "episodes: expected at least 1, got 0"),
    ],
)
def test_a_mistake_ends_with_a_sentence_and_writes_nothing(folder, options, words, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SystemExit) as end:
        main(["imagine", str(folder), *options])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_one_future_of_one_episode_has_no_crps_and_no_interval(folder, capsys):
    main(["imagine", str(folder), "--samples", "1", "--episodes", "1"])
    assert "futures of 1 held-out episodes" in capsys.readouterr().out
    scores = json.loads((folder / "imagination" / "scores.json").read_text())["scores"]["obs"]
    assert scores["crps"].keys() == {"repeat_last", "marginal"}
    assert scores["nll"]["model"]["low"] == [None] * 8
