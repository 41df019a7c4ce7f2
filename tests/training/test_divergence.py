"""When a loss is a divergence; what is said of one is in test_trainer.py."""

import math

import pytest
import torch

from worldmodel.training.divergence import NonFiniteLossError, has_diverged, not_finite, require_finite_weights


@pytest.mark.parametrize(
    ("loss", "first", "diverged"),
    [
        (1e5, 10.0, False),
        (1e8, 10.0, True),
        (0.9e6, 0.0, False),
        (1.1e6, 0.0, True),
        (0.9e6, -0.5, False),
        (1e9, 2e3, False),
        (3e9, 2e3, True),
        (1e9, -2e3, False),  # the size of the first loss counts, not its sign
        (3e9, -2e3, True),
        (-1e12, 10.0, False),
        (math.nan, 10.0, True),
        (math.inf, 10.0, True),
        (math.inf, math.inf, False),  # rows beyond the model from the beginning
    ],
)
def test_a_loss_a_million_times_the_first_is_a_divergence(loss, first, diverged):
    assert has_diverged(loss, first) == diverged


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_weight_that_is_not_finite_is_named(tmp_path, value):
    weights = {"a": torch.ones(2), "b": torch.tensor([0.0, value]), "c": torch.tensor(value)}
    with pytest.raises(NonFiniteLossError, match=r"^after update 3: not finite: the weights b, c; no checkpoint"):
        require_finite_weights(weights, 3, tmp_path)
    require_finite_weights({"a": weights["a"]}, 3, tmp_path)


def test_an_update_that_is_not_finite_is_described_by_its_losses_terms_and_norms():
    scalars = {"loss/value": math.nan, "critic/loss/value": 2.5, "grad_norm/encoder": math.inf, "kl/mean": 1.0}
    assert not_finite(7, scalars, {"obs": 0, "reward": -1, "kl": 4}) == (
        "update 7: the loss is nan, critic/loss is 2.5; not finite: obs at row 0 of the sequence, kl at row 4 of the "
        "sequence; gradient norms: encoder inf"
    )
