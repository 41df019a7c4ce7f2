"""What a run's page begins with."""

import pytest

from run_folder import Page, add_acting, add_everything, png, write_run
from worldmodel.report.hero import hero_name
from worldmodel.report.page import page
from worldmodel.report.record import read_record

WISHES = [  # the first that there is
    "play/dream.gif",
    "play/actor.gif",
    "imagination/fan_obs.png",
    "imagination/film_image.gif",
    "imagination/film_image.png",
    "imagination/classes_obs.png",
]
NEVER = ["imagination/fan_reward.png", "imagination/fan_continue.png", "imagination/latents.png", "figures/bound.png"]


@pytest.mark.parametrize("missing", range(len(WISHES) + 1))
def test_the_dream_then_a_policy_then_imagined_observations(missing, tmp_path):
    folder = write_run(tmp_path / "run")
    for name in [*WISHES[missing:], *NEVER]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png(name[-3:].upper()))
    assert hero_name(read_record(folder)) == (WISHES[missing] if missing < len(WISHES) else None)


def test_it_stands_above_the_bound_and_nowhere_else(tmp_path):
    folder = add_acting(add_everything(write_run(tmp_path / "run")))
    text = page(read_record(folder))
    assert text.count('alt="Film of actor"') == 1
    assert text.index('alt="Film of actor"') < text.index('class="equation"') < text.index('alt="Futures of obs"')
    (folder / "play" / "actor.gif").unlink()
    text = page(read_record(folder))
    assert text.count('alt="Futures of obs"') == 1
    assert text.index('alt="Futures of obs"') < text.index('class="equation"') < text.index('alt="Film of obs"')


def test_a_run_without_pictures_begins_with_the_bound(tmp_path):
    text = page(read_record(write_run(tmp_path / "run")))
    assert "begins" not in {tag.get("class") for tag in Page(text).all("div")}
