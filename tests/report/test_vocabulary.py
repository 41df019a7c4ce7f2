"""Every number has its words, and they are written in one place."""

import re
from pathlib import Path

import worldmodel
from worldmodel.evaluation import evidence, scores
from worldmodel.report import vocabulary
from worldmodel.report.evidence import CHARTS
from worldmodel.training import resources

PACKAGE = Path(worldmodel.__file__).parent


def test_whatever_is_computed_has_a_name():
    assert tuple(vocabulary.SCORES) == scores.METRICS
    assert tuple(vocabulary.METHODS) == scores.METHODS
    assert tuple(vocabulary.ESTIMATORS) == evidence.ESTIMATORS
    assert vocabulary.EVIDENCE.keys() == CHARTS.keys()
    assert tuple(vocabulary.RESOURCES) == resources.NAMES
    assert vocabulary.BEST.keys() == {"elbo", "return"}  # what best weights are chosen by


def test_terms_and_departures_of_any_name_are_put_into_words():
    assert [vocabulary.term(name).name for name in ("elbo", "kl", "obs")] == ["ELBO", "KL", "log p(obs)"]
    assert vocabulary.departure("scale_obs")[::2] == ("+ scale of obs", "the factor of log p(obs)")
    assert (
        vocabulary.departure("negative_elbo").name == "negative bound"
        and vocabulary.departure("new_trick").name == "+ new trick"
    )
    assert vocabulary.score("unheard_of").name == vocabulary.method("unheard_of").name == "unheard_of"


def test_names_units_captions_and_colours_are_written_once():
    said = [
        *vocabulary.SCORES.values(),
        *vocabulary.EVIDENCE.values(),
        *vocabulary.ROUGH.values(),
        *vocabulary.PICTURES.values(),
        *vocabulary.ACTING.values(),
        *vocabulary.BEST.values(),
        *vocabulary.RESOURCES.values(),
        vocabulary.DREAM,
        vocabulary.PLAY,
        vocabulary.OPEN_LOOP,
    ]
    said += [
        vocabulary.KL_HISTORY,
        vocabulary.KL_BY_POSITION,
        vocabulary.KL_BY_EPISODE_STEP,
        vocabulary.KL_BY_GROUP,
        vocabulary.SURPRISE,
    ]
    words = {text for one in said for text in (one.caption, one.full) if text}
    words |= {vocabulary.score(metric).unit for metric in ("squared_error", "crps", "coverage")} | {
        vocabulary.OPEN_LOOP.unit
    }
    words |= {
        look.name
        for look in (
            *vocabulary.METHODS.values(),
            *vocabulary.OPEN_LOOP_METHODS.values(),
            vocabulary.GAP,
            vocabulary.WIDTH,
        )
    }
    for part in ("report", "commands"):
        for path in (file for file in (PACKAGE / part).rglob("*") if file.suffix in (".py", ".html", ".css")):
            text = path.read_text()
            if path.stem != "vocabulary":
                assert not {word for word in words if f'"{word}"' in text}, path
                assert not set(re.findall("#[0-9a-f]{6}", text)) & set(vocabulary.RUNS), path
