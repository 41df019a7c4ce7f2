"""Two processes with half of the rows each: their sums, means, gradients and updates are those of one with all rows."""

import signal

import pytest
import torch
from torch.testing import assert_close

from process_threads import in_each_of
from worldmodel.objectives.elbo import masked_mean
from worldmodel.objectives.loss import Objective, with_free_nats
from worldmodel.training.interruptions import Interruptions
from worldmodel.training.learner import Learner
from worldmodel.training.processes import ALONE, Processes
from worlds import make_batch, make_model

SETTINGS = {
    "learning_rate": 1e-3,
    "warmup": 0,
    "final_fraction": 1.0,
    "total_updates": 9,
    "clip_norm": 1e6,
    "weight_decay": 0.0,
    "eps": 1e-8,
}
# Sums of float32 in another order.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def test_one_process_sums_nothing():
    x = torch.randn(3)
    assert ALONE.sum_over(x) is x and ALONE.greatest(7) == 7 and ALONE.writes


def test_the_sum_over_processes_is_the_same_in_each():
    sums = in_each_of(3, lambda processes: processes.sum_over(torch.tensor([1.0, 10.0]) * (processes.rank + 1)))
    for total in sums:
        assert_close(total, torch.tensor([6.0, 60.0]))
    assert in_each_of(3, lambda processes: processes.greatest(processes.rank * 5)) == [10, 10, 10]


def test_a_masked_mean_and_its_gradient_over_two_processes_are_those_of_all_rows():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, generator=g, dtype=torch.float64)
    valid = torch.rand(4, 5, generator=g) < 0.6
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    # With a mean inside of a mean, as free nats by the batch's mean have it.
    expected = masked_mean(with_free_nats((weight * x).square(), valid, 0.1, "mean"), valid)
    expected.backward()

    def half(processes):
        own, rows = weight.detach().clone().requires_grad_(), slice(2 * processes.rank, 2 * processes.rank + 2)
        kl = with_free_nats((own * x[rows]).square(), valid[rows], 0.1, "mean", processes.sum_over)
        mean = masked_mean(kl, valid[rows], processes.sum_over)
        mean.backward()
        processes.mean_gradients([own])
        return mean.detach(), own.grad

    for mean, gradient in in_each_of(2, half):
        assert_close(mean, expected.detach())
        assert_close(gradient, weight.grad)


def make_learner(noise, **options):
    """A learner whose latents are made from this noise."""
    model = make_model()
    model.noise = lambda batch, steps, generator: noise
    objective = Objective(dyn_rep=(0.7, 0.2), free_nats=2.0, free_nats_rule="mean")
    return Learner(model, objective, torch.Generator(), **SETTINGS, **options)


def test_an_update_of_two_processes_is_that_of_one_with_all_rows():
    batch = make_batch(batch=4)
    batch = batch._replace(valid=torch.rand(4, 7, generator=torch.Generator().manual_seed(1)) < 0.7)
    noise = make_model().noise(4, 7, torch.Generator().manual_seed(0))
    alone = make_learner(noise)
    expected = alone.update(batch)

    models = [make_learner(noise[2 * rank : 2 * rank + 2]) for rank in range(2)]  # not in threads: one global seed

    def half(processes):
        learner, rows = models[processes.rank], slice(2 * processes.rank, 2 * processes.rank + 2)
        learner.processes = processes
        obs = {name: x[rows] for name, x in batch.obs.items()}
        return learner.update(type(batch)(obs, *(field[rows] for field in batch[1:]))).scalars()

    for scalars, learner in zip(in_each_of(2, half), models, strict=True):
        assert_close(scalars, expected.scalars(), **ROUNDING)
        for mine, whole in zip(learner.parameters, alone.parameters, strict=True):
            assert_close(mine.grad, whole.grad, **ROUNDING)


def test_a_signal_to_any_process_is_a_request_to_all_and_sigterm_comes_first():
    came = {0: None, 1: signal.SIGINT, 2: signal.SIGTERM}

    def ask(processes):
        interruptions = Interruptions()
        before = interruptions.agreed(processes.greatest)
        interruptions.signal = came[processes.rank]
        return before, interruptions.agreed(processes.greatest), interruptions.signal

    assert in_each_of(3, ask) == [(False, True, signal.SIGTERM)] * 3


@pytest.mark.parametrize(("rank", "world"), [(1, 1), (-1, 2), (2, 2)])
def test_a_rank_outside_of_its_world_is_refused(rank, world):
    with pytest.raises(ValueError, match=f"rank: expected 0 to {world - 1} in a world of {world}, got {rank}"):
        Processes(rank, world)
