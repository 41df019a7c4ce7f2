"""Settings that cannot lead anywhere are refused before anything is written."""

import pytest

from brief_runs import TWELVE_UPDATES
from worldmodel.runs.session import train


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss.kl_warmup": 13}, r"^loss\.kl_warmup: expected at most the 12 updates of the run, got 13$"),
        (
            {"rssm.latent": "categorical", "rssm.classes": 4, "rssm.gradient": "marginal", "env.pixels": "only"},
            r"^rssm\.gradient: expected straight_through or reinmax where observations are images, got 'marginal', "
            r"which would decode obs 8 times a step$",
        ),
    ],
)
def test_settings_that_lead_nowhere_are_refused(settings, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(None, {**TWELVE_UPDATES, "runs": str(tmp_path / "runs"), **settings})
    assert not (tmp_path / "runs").exists()
