"""Every number has its words, and they are written in one place."""

import re
from pathlib import Path

import worldmodel
from worldmodel.evaluation import evidence_report, scores
from worldmodel.report import vocabulary as say
from worldmodel.report.evidence import CHARTS

PACKAGE = Path(worldmodel.__file__).parent


def test_whatever_is_computed_has_a_name():
    assert tuple(say.SCORES) == scores.METRICS
    assert tuple(say.METHODS) == scores.METHODS
    assert tuple(say.ESTIMATORS) == evidence_report.ESTIMATORS
    assert say.EVIDENCE.keys() == CHARTS.keys()


def test_terms_and_departures_of_any_name_are_put_into_words():
    assert [say.term(name).name for name in ("elbo", "kl", "obs")] == ["ELBO", "KL", "log p(obs)"]
    assert say.departure("scale_obs")[::2] == ("+ scale of obs", "the factor of log p(obs)")
    assert say.departure("negative_elbo").name == "negative bound" and say.departure("new_trick").name == "+ new trick"
    assert say.score("unheard_of").name == say.method("unheard_of").name == "unheard_of"


def test_names_units_captions_and_colours_are_written_once():
    said = [*say.SCORES.values(), *say.EVIDENCE.values(), *say.ROUGH.values(), *say.PICTURES.values(), say.OPEN_LOOP]
    said += [say.KL_HISTORY, say.KL_BY_POSITION, say.KL_BY_EPISODE_STEP, say.KL_BY_GROUP, say.SURPRISE]
    words = {text for one in said for text in (one.caption, one.full) if text}
    words |= {say.score(metric).unit for metric in ("squared_error", "crps", "coverage")} | {say.OPEN_LOOP.unit}
    words |= {look.name for look in (*say.METHODS.values(), *say.OPEN_LOOP_METHODS.values(), say.GAP, say.WIDTH)}
    for part in ("report", "commands"):
        for path in (file for file in (PACKAGE / part).rglob("*") if file.suffix in (".py", ".html", ".css")):
            text = path.read_text()
            if path.stem != "vocabulary":
                assert not {word for word in words if f'"{word}"' in text}, path
                assert not set(re.findall("#[0-9a-f]{6}", text)) & set(say.RUNS), path
