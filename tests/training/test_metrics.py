"""A run's numbers: their names, how they are summed up, and which update is blamed for one that is not finite."""

import math

import numpy as np
import pytest
import torch

from worldmodel.evaluation.held_out import evaluate
from worldmodel.objectives.elbo import Bound
from worldmodel.objectives.loss import Loss, Objective
from worldmodel.training.divergence import NonFiniteLossError
from worldmodel.training.learner import Update
from worldmodel.training.metrics import (
    KL_SUMMARY,
    RecentUpdates,
    evaluation_metrics,
    kl_summary,
    learning_rates,
    made_of,
    metric_name,
)
from worldmodel.types import State
from worlds import MIXED_SPEC, make_batch, make_model


class Reported:
    """What an update of a learner reports, written by hand."""

    def __init__(self, value=1.0, norm=2.0, place=-1, learning_rate=0.5):
        self.value, self.norm, self.place, self.learning_rate = value, norm, place, learning_rate

    def scalars(self):
        values = {"loss/value": self.value, "grad_norm/total": self.norm, "train/elbo": math.nan}
        return {name: torch.tensor(value) for name, value in values.items()}

    def first_non_finite(self):
        return {"obs": torch.tensor(self.place)}


def recent(*updates):
    found = RecentUpdates()
    for update in updates:
        found.add(made_of(update))
    return found


def test_the_world_models_numbers_have_no_prefix_and_those_of_others_their_name():
    assert metric_name("world", "loss/value") == "loss/value"
    assert metric_name("critic", "loss/value") == "critic/loss/value"
    rates = learning_rates({"world": Reported(learning_rate=0.25), "critic": Reported(learning_rate=0.125)})
    assert rates == {"optimizer/learning_rate": 0.25, "critic/optimizer/learning_rate": 0.125}


def test_every_update_is_read_in_order_under_its_learners_name_until_they_are_cleared(tmp_path):
    kept = recent({"world": Reported(1.0), "critic": Reported(5.0)}, {"world": Reported(3.0), "critic": Reported(6.0)})
    columns = kept.read(2, tmp_path)
    assert columns["loss/value"].tolist() == [1, 3] and columns["critic/loss/value"].tolist() == [5, 6]
    assert len(kept) == 2  # reading keeps them
    kept.clear()
    assert len(kept) == 0 and kept.read(2, tmp_path) == {}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Reported(math.nan, place=0), "update 8: the loss is nan; not finite: obs at row 0 of the sequence; "),
        (Reported(norm=math.inf), "update 8: the loss is 1; not finite: no term of the bound, so a gradient; "),
    ],
    ids=["loss", "gradient"],
)
def test_the_first_update_that_is_not_finite_is_named_with_its_own_places(tmp_path, bad, words):
    later = Reported(math.nan, place=5)
    kept = recent(*({"world": one} for one in (Reported(), bad, later)))
    with pytest.raises(NonFiniteLossError) as stop:
        kept.read(9, tmp_path)
    assert str(stop.value).startswith(words)


def test_places_are_cleared_with_the_numbers(tmp_path):
    kept = recent({"world": Reported(place=3)})
    kept.clear()
    kept.add(made_of({"world": Reported(math.nan, place=7)}))
    with pytest.raises(NonFiniteLossError, match="obs at row 7"):
        kept.read(2, tmp_path)


def made_update(kl, valid):
    """An update with this KL, of which the loss made twice as much."""
    nothing = torch.zeros(())
    loss = Loss(nothing, 2 * kl, {}, {})
    return Update(Bound({}, kl[..., None], valid), loss, State(kl[..., None], kl[..., None]), {"total": nothing}, 0.1)


def test_the_kl_is_summed_up_over_the_rows_that_count():
    kl = torch.tensor([[0.0, 1.0, 2.0, 99.0], [3.0, 4.0, 99.0, 99.0]])
    found = kl_summary(made_update(kl, kl < 99))
    assert found == pytest.approx({"kl/mean": 2.0, "kl/median": 2.0, "kl/q95": 3.8, "kl/optimised_mean": 4.0})
    nothing = kl_summary(made_update(kl, kl < 0))
    assert nothing.keys() == {f"kl/{name}" for name in KL_SUMMARY} and np.isnan(list(nothing.values())).all()


def test_an_evaluation_is_named_by_what_was_scored():
    episodes = make_batch(MIXED_SPEC, batch=2, length=8, first=())
    evaluation = evaluate(make_model(MIXED_SPEC), Objective(), episodes, context=2, horizon=3, samples=1, seed=0)
    values = evaluation_metrics(evaluation)
    assert values["heldout/elbo"] == evaluation.per_step["elbo"]
    assert values["heldout_kl/q95"] == evaluation.kl.summary["q95"]
    bits = -evaluation.per_step["camera"] / (MIXED_SPEC.observations["camera"].width * math.log(2))
    assert values["heldout_bits_per_dimension/camera"] == pytest.approx(bits)
    for name, errors in evaluation.open_loop.items():
        for kind, error in errors._asdict().items():
            assert values[f"open_loop/{name}/{kind}"] == pytest.approx(float(np.mean(error.numpy())))
    numbers = len(evaluation.per_step) + len(evaluation.kl.summary) + len(evaluation.bits_per_dimension)
    assert len(values) == numbers + 3 * len(evaluation.open_loop)
