"""Two processes with half of the rows each: their sums, means, gradients and updates are those of one with all rows."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.run import get_args_parser
from torch.testing import assert_close

import worldmodel
from process_threads import in_each_of
from worldmodel.behaviour.action_distributions import ActionFamily, ClippedNormal
from worldmodel.behaviour.actor_critic import Actor, ActorCritic
from worldmodel.behaviour.critic import Critic
from worldmodel.data.replay import Replay
from worldmodel.objectives.elbo import masked_mean
from worldmodel.objectives.loss import Objective, with_free_nats
from worldmodel.system.launched import Launched, launched
from worldmodel.training import processes
from worldmodel.training.behaviour_learner import BehaviourLearner
from worldmodel.training.interruptions import Interruptions
from worldmodel.training.learner import Learner
from worldmodel.training.prefill import fit_to_prefill
from worldmodel.training.processes import ALONE, LostProcessError, Processes, joined
from worldmodel.types import Rows, State
from worlds import VECTOR_SPEC, make_batch, make_model

ROOT = Path(worldmodel.__file__).parent.parent

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


def test_processes_tell_each_other_numbers_texts_and_tensors():
    def tell(processes):
        rank = processes.rank
        tensors = processes.exchange_tensors({"x": torch.full((rank + 1,), float(rank))})
        return (
            processes.total(10 * (rank + 1)),
            processes.exchange(b"ab" * rank),
            [one["x"].tolist() for one in tensors],
            processes.gather(torch.tensor([rank, 7])).tolist(),
        )

    expected = (60, [b"", b"ab", b"abab"], [[0.0], [1.0, 1.0], [2.0] * 3], [[0, 7], [1, 7], [2, 7]])
    assert in_each_of(3, tell) == [expected] * 3
    assert (ALONE.total(3), ALONE.exchange(b"ab"), ALONE.gather(torch.tensor([7])).tolist()) == (3, [b"ab"], [[7]])


def test_weights_and_buffers_of_any_kind_become_those_of_the_first():
    modules = [torch.nn.BatchNorm1d(3) for _ in range(2)]
    for rank, module in enumerate(modules):
        module.register_buffer("marks", torch.tensor([rank == 0, rank == 1]))
        module.num_batches_tracked.fill_(5 - rank)
        torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(rank))
    expected = {name: x.clone() for name, x in modules[0].state_dict().items()}
    in_each_of(2, lambda processes: processes.equalise(modules[processes.rank]))
    for module in modules:
        assert_close(module.state_dict(), expected, rtol=0, atol=0)


def test_a_share_is_equal_or_refused_by_name():
    assert Processes(1, 3).share_of(12, "replay.batch_size") == 4
    with pytest.raises(ValueError, match=r"^replay\.batch_size: expected a multiple of the 3 processes .*, got 16$"):
        Processes(0, 3).share_of(16, "replay.batch_size")


def some_rows(g, first):
    """One row of each of two environments."""
    none = np.zeros(2, bool)
    obs = {"obs": torch.randn(2, 3, generator=g).numpy()}
    reward = torch.randint(4, (2,), generator=g).numpy().astype(np.float32)
    step = np.zeros(2, np.int32)
    return Rows(obs, np.zeros((2, 2), np.float32), reward, np.full(2, first), none, none, step)


def test_the_prefill_s_statistics_and_rewards_are_those_of_all_processes_rows(tmp_path):
    g = torch.Generator().manual_seed(0)
    folders = [tmp_path / name for name in ("all", "0", "1")]
    both, *halves = (Replay(folder, VECTOR_SPEC, capacity=100, streams=2) for folder in folders)
    for i in range(9):
        rows = some_rows(g, first=i in (0, 4))
        both.append(rows)
        halves[i >= 4].append(rows)  # four rows and five
    alone, *models = (make_model(reward="categorical") for _ in range(3))
    fit_to_prefill(both, alone)
    in_each_of(2, lambda one: fit_to_prefill(halves[one.rank], models[one.rank], one))
    names = [name for name in alone.state_dict() if "standardiser" in name or "atom" in name]
    assert len(names) > 4 and alone.decoder.atoms.is_atom.sum() > 2
    for model in models:
        for name in names:
            assert_close(model.state_dict()[name], alone.state_dict()[name])
    for replay in (both, *halves):
        replay.close()


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


@pytest.mark.parametrize("gradient", ["pathwise", "reinforce"])
def test_an_update_of_actor_and_critic_by_two_processes_is_that_of_one_with_all_starts(monkeypatch, gradient):
    S, H, here = 6, 4, threading.local()
    g = torch.Generator().manual_seed(0)
    start = State(torch.randn(S, 8, generator=g), torch.randn(S, 4, generator=g))
    counts = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0])  # two of the first three, and others of the last three
    actions = torch.randn(H, S, 2, generator=g)

    def noise(distribution, generator):
        here.step = (here.step + 1) % H
        return actions[here.step, here.rows]

    def make(processes, rows):
        world = make_model()
        latents = world.noise(S, H, torch.Generator().manual_seed(1))[rows]
        world.noise = lambda batch, steps, generator: latents
        torch.manual_seed(0)
        features = sum(world.decoder.widths)
        critic = Critic(features, units=16)
        torch.nn.init.normal_(critic.head.weight, std=0.5)  # or all values are zero, and no gradient goes through them
        actor = Actor(features, ActionFamily(VECTOR_SPEC.action), units=16)
        agent = ActorCritic(actor, critic, gradient=gradient)
        usual = {"horizon": H, "discount": 0.9, "optimizer": "adamw", "learning_rate": 1e-2, "clip_norm": 0.5}
        learner = BehaviourLearner(
            agent, world, torch.Generator(), starts=3, gradient_limit=1.0, processes=processes, **usual
        )
        learner._draw_starts = lambda states, batch: (State(*(x[rows] for x in start)), counts[rows])
        return learner

    def update(learner, rows):
        here.rows, here.step = rows, -1
        return learner.update(batch, {"world": of_world}).scalars()

    monkeypatch.setattr(ClippedNormal, "noise", noise)
    batch = make_batch()
    of_world = Learner(make_model(), Objective(), torch.Generator(), **SETTINGS).update(batch)
    alone, *both = make(ALONE, slice(S)), make(ALONE, slice(3)), make(ALONE, slice(3, 6))
    expected = update(alone, slice(S))

    def half(processes):
        learner = both[processes.rank]
        learner.processes = processes
        return update(learner, slice(3 * processes.rank, 3 * processes.rank + 3))

    assert expected["grad_norm/actor"] > 1e-4 and expected["return_scale"] > 1
    for scalars, learner in zip(in_each_of(2, half), both, strict=True):
        assert_close(scalars, expected, **ROUNDING)
        for mine, whole in zip(learner.model.parameters(), alone.model.parameters(), strict=True):
            assert_close(mine, whole, **ROUNDING)
            if mine.grad is not None:
                assert_close(mine.grad, whole.grad, **ROUNDING)


LAUNCHED = """
import torch
from worldmodel.training.processes import LostProcessError, joined
with joined(torch.device("cpu")) as processes:
    print(processes.total(processes.rank + 1), processes.sum_over(torch.ones(2)).tolist(), flush=True)
    if processes.rank == 1:
        import os; os._exit(9)
    try:
        processes.sum_over(torch.ones(2))
    except LostProcessError as error:
        print(error)
"""


def test_processes_find_each_other_and_one_that_is_lost_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LAUNCHED],
            env=os.environ | variables | {"RANK": rank, "LOCAL_RANK": rank},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "10"
    ]
    said = [one.communicate(timeout=120) for one in started]  # and so the first of them is gone for good
    assert started[0].returncode == 9 and started[1].returncode == 0, said
    assert said[0][0] == "3 [2.0, 2.0]\n"
    assert said[1][0] == "3 [2.0, 2.0]\nrank 1 of 2 has ended; its own words, if it had any, are above\n"


def test_the_example_for_slurm_is_a_script_that_gives_torchrun_options_that_it_has():
    script = ROOT / "scripts" / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    call = script.read_text().replace("\\\n", " ")
    given = re.search(r"torchrun (.*?) -m worldmodel", call)[1]
    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"--[\w-]+", given)) <= known and "--rdzv-endpoint" in given
    assert 'srun --cpus-per-task "$SLURM_CPUS_PER_TASK"' in call  # which srun does not take over by itself


def test_what_torchrun_says_of_a_process_is_read_and_nonsense_is_refused():
    met = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert launched(met | {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Launched(3, 8, 1)
    assert launched(met | {"RANK": "3"}) == Launched(0, 1, 0)
    assert launched({"RANK": "3", "WORLD_SIZE": "8"}) == Launched(0, 1, 0)  # of a cluster, and nobody is to be met
    for nonsense in ({"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "one", "WORLD_SIZE": "2"}):
        with pytest.raises(ValueError, match="RANK, WORLD_SIZE, LOCAL_RANK: expected numbers as torchrun sets them"):
            launched(met | nonsense)


def test_a_signal_to_any_process_is_a_request_to_all_and_sigterm_comes_first():
    came = {0: None, 1: signal.SIGINT, 2: signal.SIGTERM}

    def ask(processes):
        interruptions = Interruptions()
        before = interruptions.agreed(processes.greatest)
        interruptions.signal = came[processes.rank]
        return before, interruptions.agreed(processes.greatest), interruptions.signal

    assert in_each_of(3, ask) == [(0, signal.SIGTERM, signal.SIGTERM)] * 3


def test_a_process_that_the_others_never_join_says_so_within_the_time_of_a_start(monkeypatch):
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        there = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1])}
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "JOINING", timedelta(seconds=1))
    began = time.monotonic()
    with (
        pytest.raises(LostProcessError, match="rank 0 of 2: expected to reach the others"),
        joined(torch.device("cpu")),
    ):
        pass
    assert time.monotonic() - began < processes.SUMS.total_seconds()


@pytest.mark.parametrize(("rank", "world"), [(1, 1), (-1, 2), (2, 2)])
def test_a_rank_outside_of_its_world_is_refused(rank, world):
    with pytest.raises(ValueError, match=f"rank: expected 0 to {world - 1} in a world of {world}, got {rank}"):
        Processes(rank, world)
