"""The loop: what it does when, what it passes on, how it stops. A whole run is looked at in test_run.py."""

import dataclasses
import re
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from rich.console import Console

from worldmodel import build, build_networks
from worldmodel.config import Config, EnvConfig, EvaluationConfig, ReplayConfig, RSSMConfig, TrainingConfig
from worldmodel.data.guard import EnvironmentFailureError
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.records import DamagedReplayError
from worldmodel.data.replay import Replay
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.evidence import rough_evidence
from worldmodel.evaluation.held_out import evaluate
from worldmodel.seeding import make_generator
from worldmodel.training.checkpoint import CheckpointError, load_checkpoint, load_model
from worldmodel.training.divergence import NonFiniteLossError
from worldmodel.training.learner import AnyLearner
from worldmodel.training.progress import RunProgress
from worldmodel.training.schedule import Schedule
from worldmodel.training.states import learner_state, restore_learner
from worldmodel.training.trainer import Trainer
from worlds import make_batch

# 60 rows after the prefill, an eighth of an update each: updates 1 to 7 fall due at rows 208, 216, ..., 256.
CONFIG = Config(
    env=EnvConfig(num_envs=2),
    replay=ReplayConfig(capacity=400, batch_size=4, sequence_length=16),
    rssm=RSSMConfig(deter=8, hidden=8, blocks=1, stoch=2),
    training=TrainingConfig(
        env_steps=260, prefill=200, train_ratio=8.0, log_every=2, evaluate_every=100, save_every=100
    ),
    evaluation=EvaluationConfig(max_length=20, context=4, horizon=8, samples=1),
)


class Recorder:
    """A tracker that remembers the rows it was given."""

    def __init__(self):
        self.rows = []

    def scalars(self, update, values):
        self.rows.append({"update": update, **values})

    def lines(self, update, name, columns): ...

    def image(self, update, name, png): ...

    def histogram(self, update, name, values): ...

    def file(self, update, name, path): ...

    def finish(self, files): ...


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Make a trainer on Pendulum, without its pictures: those are drawn in test_run.py."""
    monkeypatch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
    opened = []

    def make(policy=RandomPolicy, others=None, particles=32, replay=None, **training) -> Trainer:
        evaluation = dataclasses.replace(CONFIG.evaluation, particles=particles)
        training = dataclasses.replace(CONFIG.training, **training)
        drawn = dataclasses.replace(CONFIG.replay, **(replay or {}))
        config = dataclasses.replace(CONFIG, training=training, evaluation=evaluation, replay=drawn)
        environments = build.build_environments(config)
        spec = environments.spec
        rows = Replay(tmp_path / "replay", spec, capacity=config.replay.capacity, streams=environments.count)
        opened.extend([environments, rows])
        random = {name: make_generator(0, stream=i) for i, name in enumerate(("latents", "sampling"))}
        learner = build.build_learner(config, build_networks.build_model(config, spec), random["latents"])
        held_out, evaluators = build.build_evaluators(
            config, learner, make_batch(spec, batch=2, length=20, first=()), rows
        )
        return Trainer(
            learner,
            Rollout(environments, policy(spec.action, make_generator(0, stream=2)), seed=0),
            rows,
            held_out,
            Recorder(),
            RunProgress(config.training.env_steps, Console(quiet=True)),
            folder=tmp_path,
            schedule=build.build_schedule(config),
            randomness=random,
            settings=build.lasting_settings(config),
            evaluators=evaluators,
            others=others,
        )

    yield make
    for one in opened:
        one.close()


def before_update(trainer: Trainer, number: int, act) -> None:
    """Do something just before an update is made."""
    update = trainer.learner.update

    def acting(*arguments):
        if trainer.updates + 1 == number:
            act()
        return update(*arguments)

    trainer.learner.update = acting


def train_rows(trainer: Trainer) -> list[dict]:
    return [row for row in trainer.tracker.rows if "loss/value" in row]


def kept(trainer: Trainer, name: str = "last") -> dict:
    """The counters of a checkpoint, whose weights must be finite."""
    model = build_networks.build_model(CONFIG, trainer.replay.spec)
    counters = load_model(trainer.folder / "checkpoints" / f"{name}.safetensors", model)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    return counters


def test_updates_are_made_as_rows_pay_for_them_and_logged_when_due(start):
    trainer = start()
    assert trainer.run() is True
    assert trainer.updates == trainer.schedule.total_updates == 7
    assert len(trainer.replay) == 260
    logged = [(row["update"], row["env_steps"]) for row in train_rows(trainer)]
    assert logged == [(2, 216), (4, 232), (6, 248), (7, 260)]


def test_the_rough_gap_is_reported_at_evaluations_and_changes_nothing_else(start):
    runs = {}
    for particles in (3, 0):
        trainer = start(evaluate_every=4, particles=particles)
        trainer.run()
        runs[particles] = trainer
        trainer.replay.close()
        shutil.rmtree(trainer.replay.folder)
    rough = [row for row in runs[3].tracker.rows if "heldout_evidence/gap" in row]
    assert [row["update"] for row in rough] == [4, 7]
    expected = rough_evidence(
        runs[3].learner.model, runs[3].heldout.heldout, particles=3, sequences=8, rows=4 + 8, seed=0
    )
    assert {name: rough[-1][f"heldout_evidence/{name}"] for name in expected._fields} == expected._asdict()
    assert runs[3].stages.seconds["evidence"] > 0
    assert "evidence" not in runs[0].stages.seconds
    assert not any("heldout_evidence/gap" in row for row in runs[0].tracker.rows)
    losses = {particles: [row["loss/value"] for row in train_rows(trainer)] for particles, trainer in runs.items()}
    assert losses[3] == losses[0]


def test_a_row_of_metrics_is_the_mean_over_the_updates_since_the_last(start):
    trainer = start(log_every=3)
    losses, update = [], trainer.learner.update

    def listening(*arguments):
        losses.append(update(*arguments))
        return losses[-1]

    trainer.learner.update = listening
    trainer.run()
    values = [float(one.loss.value) for one in losses]
    expected = [sum(values[0:3]) / 3, sum(values[3:6]) / 3, values[6]]
    assert [row["loss/value"] for row in train_rows(trainer)] == pytest.approx(expected, rel=1e-5)
    rows = losses[5].bound.kl[losses[5].bound.valid]
    assert train_rows(trainer)[1]["kl/median"] == pytest.approx(float(rows.quantile(0.5)), rel=1e-5)
    assert train_rows(trainer)[1]["kl/mean"] == pytest.approx(float(rows.mean()), rel=1e-5)
    assert train_rows(trainer)[1]["kl/q95"] == pytest.approx(float(rows.quantile(0.95)), rel=1e-5)
    optimised = losses[5].loss.optimised_kl[losses[5].bound.valid].mean()
    assert train_rows(trainer)[1]["kl/optimised_mean"] == pytest.approx(float(optimised), rel=1e-5)


def test_a_batch_in_which_every_row_warms_the_state_up_has_no_kl_and_stops_nothing(start):
    trainer = start()
    update = trainer.learner.update
    trainer.learner.update = lambda batch, before: update(batch._replace(valid=torch.zeros_like(batch.valid)), before)
    assert trainer.run() is True
    row = train_rows(trainer)[-1]
    assert row["loss/value"] == 0
    assert all(np.isnan(row[f"kl/{name}"]) for name in ("mean", "median", "q95", "optimised_mean"))


def test_evaluations_and_checkpoints_come_when_due_and_at_the_end(start):
    trainer = start(evaluate_every=3, save_every=2)
    saved = []
    before_update(trainer, 7, lambda: saved.append(kept(trainer)["updates"]))
    trainer.run()
    evaluated = [row for row in trainer.tracker.rows if "heldout/elbo" in row]
    assert [row["update"] for row in evaluated] == [3, 6, 7]
    assert saved == [6]
    assert kept(trainer)["updates"] == 7


def test_the_best_checkpoint_is_the_one_with_the_highest_held_out_bound(start, monkeypatch):
    trainer = start(evaluate_every=2)
    bounds = iter([-3.0, -1.0, -2.0, float("nan")])

    def scored(*arguments, **options):
        evaluation = evaluate(*arguments, **options)
        return dataclasses.replace(evaluation, per_step={**evaluation.per_step, "elbo": next(bounds)})

    monkeypatch.setattr("worldmodel.training.evaluators.evaluate", scored)
    trainer.run()
    assert [row["update"] for row in trainer.tracker.rows if "heldout/elbo" in row] == [2, 4, 6, 7]
    assert kept(trainer, "best")["updates"] == 4
    assert kept(trainer)["best_elbo"] == -1.0
    best = {row["update"]: row["best/elbo"] for row in trainer.tracker.rows if "best/elbo" in row}
    assert best == {2: -3.0, 4: -1.0, 6: -1.0, 7: -1.0}  # never falls: a sweep looks at the last one


def test_of_equally_good_checkpoints_the_newest_is_the_best(start, monkeypatch):
    trainer = start(evaluate_every=2)
    bounds = iter([-1.0, -3.0, -1.0, -2.0])

    def scored(*arguments, **options):
        evaluation = evaluate(*arguments, **options)
        return dataclasses.replace(evaluation, per_step={**evaluation.per_step, "elbo": next(bounds)})

    monkeypatch.setattr("worldmodel.training.evaluators.evaluate", scored)
    trainer.run()
    assert kept(trainer, "best")["updates"] == 6


def test_inputs_and_targets_are_standardised_by_the_prefill_once(start):
    trainer = start()
    measured, measure = [], trainer.replay.statistics

    def listening(total):
        measured.append((len(trainer.replay), measure(total)))
        return measured[-1][1]

    trainer.replay.statistics = listening
    trainer.run()
    ((rows, statistics),) = measured
    assert rows == 200
    assert statistics.keys() == {"obs", "reward"}
    for name, (mean, std) in statistics.items():
        scaler = trainer.learner.model.standardiser(name)
        torch.testing.assert_close(scaler.location, mean.float())
        torch.testing.assert_close(scaler.scale, std.float())


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_update_term_row_norms_and_the_checkpoint_kept(start):
    trainer = start(log_every=50, save_every=2)
    poison = next(trainer.learner.model.decoder.reward_head.parameters())
    before_update(trainer, 5, lambda: poison.data.fill_(float("nan")))
    with pytest.raises(NonFiniteLossError) as stop:
        trainer.run()
    message = str(stop.value)
    assert message.startswith("update 5: the loss is nan; not finite: reward at row ")
    assert "obs" not in message.partition("gradient norms")[0]
    assert re.search(r"gradient norms: encoder nan, dynamics nan, decoder nan, total nan", message)
    assert str(trainer.folder / "checkpoints" / "last.safetensors") in message
    assert kept(trainer)["updates"] == 4
    assert train_rows(trainer) == []


def test_an_infinite_gradient_of_a_finite_loss_stops_the_run_too(start):
    trainer = start()
    parameter = next(trainer.learner.model.encoder.parameters())
    before_update(trainer, 3, lambda: parameter.register_hook(lambda gradient: gradient * float("inf")))
    with pytest.raises(
        NonFiniteLossError, match=r"^update 3: .*no term of the bound, so a gradient.* the newest checkpoint"
    ):
        trainer.run()


def test_weights_that_are_not_finite_are_never_saved(start):
    trainer = start(log_every=50, save_every=2)
    parameter = next(trainer.learner.model.encoder.parameters())
    step = trainer.learner.optimizer.step

    def overflowing():
        step()
        if trainer.updates == 5:
            parameter.data.fill_(float("inf"))

    trainer.learner.optimizer.step = overflowing
    with pytest.raises(NonFiniteLossError, match="update 6"):
        trainer.run()
    assert kept(trainer)["updates"] == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_run_after_the_update_and_saves_everything(start, number):
    trainer = start()
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    before_update(trainer, 3, lambda: signal.raise_signal(number))
    assert trainer.run() is False
    assert kept(trainer)["updates"] == trainer.updates == 3
    assert [row["update"] for row in train_rows(trainer)] == [2, 3]
    assert (trainer.evaluation is None) == (number == signal.SIGTERM)  # there are seconds left then, for saving
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_second_signal_ends_the_run_at_once(start):
    trainer = start()
    before_update(trainer, 3, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.updates == 2


def test_a_signal_during_the_last_evaluation_finds_everything_saved(start, monkeypatch):
    trainer = start()

    def interrupted(*arguments, **settings):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("worldmodel.training.evaluators.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert kept(trainer)["updates"] == trainer.updates == 7


def test_a_sigterm_during_an_evaluation_gives_it_up_after_the_file_that_is_being_written(start, monkeypatch):
    trainer = start(evaluate_every=3)
    written = []

    def shown(tracker, *arguments):
        tracker.image(3, "first", b"")
        pytest.fail("the drawing went on")

    def image(update, name, png):
        signal.raise_signal(signal.SIGTERM)
        written.append(name)

    trainer.tracker.image = image
    monkeypatch.setattr("worldmodel.training.evaluators.show", shown)
    assert trainer.run() is False
    assert written == ["first"]
    assert kept(trainer)["updates"] == 3


def test_a_sigterm_during_a_slow_step_does_not_wait_for_it(start):
    trainer = start()

    def slow():
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the step went on")

    before_update(trainer, 3, lambda: setattr(trainer.rollout, "step", slow))
    assert trainer.run() is False
    assert kept(trainer)["updates"] == 3


def test_weights_whose_loss_is_beyond_measure_are_not_saved_though_they_are_finite(start):
    trainer = start(log_every=50, save_every=2)
    step = trainer.learner.optimizer.step

    def leaping():
        step()
        if trainer.updates == 3:
            for weight in trainer.learner.model.decoder.parameters():
                weight.data.mul_(1e4)

    trainer.learner.optimizer.step = leaping
    words = r"^after update 4: the held-out loss is .*, and was .* at the beginning; the newest checkpoint whose loss "
    with pytest.raises(
        NonFiniteLossError, match=words + r"was sound is .*last.safetensors, of update 2; .*begin a new"
    ):
        trainer.run()
    assert kept(trainer)["updates"] == 2


def test_looking_at_the_loss_before_saving_changes_no_draw(start):
    runs = []
    for save_every in (1, 100):
        trainer = start(save_every=save_every)
        trainer.run()
        runs.append([(row["update"], row["loss/value"]) for row in train_rows(trainer)])
        trainer.replay.close()
        shutil.rmtree(trainer.replay.folder)
    assert runs[0] == runs[1]


def test_a_signal_during_the_prefill_ends_the_run_without_an_update(start):
    trainer = start()
    step = trainer.rollout.step

    def interrupted():
        if trainer.env_steps == 10:
            signal.raise_signal(signal.SIGINT)
        return step()

    trainer.rollout.step = interrupted
    assert trainer.run() is False
    assert (trainer.env_steps, trainer.updates, trainer.evaluation) == (12, 0, None)


def test_an_environment_that_fails_ends_the_run_after_a_checkpoint(start):
    trainer = start()

    def fail():
        raise EnvironmentFailureError("the pole is on fire")

    before_update(trainer, 4, lambda: setattr(trainer.rollout, "step", fail))
    with pytest.raises(EnvironmentFailureError, match="the pole is on fire"):
        trainer.run()
    assert kept(trainer)["updates"] == 4


class Counting(RandomPolicy):
    """A policy with memory of its own: how many rows of actions it has chosen."""

    def __init__(self, spec, generator):
        super().__init__(spec, generator)
        self.chosen = 0

    def __call__(self, rows):
        self.chosen += 1
        return super().__call__(rows)

    def state(self):
        return {**super().state(), "chosen": torch.tensor(self.chosen)}

    def restore(self, state):
        super().restore(state)
        self.chosen = int(state["chosen"])


class Forgetful:
    """A policy without a state."""

    def __init__(self, spec, generator):
        self.width = spec.width

    def __call__(self, rows):
        return np.zeros((len(rows.is_first), self.width), np.float32)


def test_a_policy_that_keeps_memory_goes_on_with_it(start):
    trainer = start(policy=Counting)
    trainer.run()
    path = trainer.folder / "checkpoints" / "last.safetensors"
    policy = trainer.rollout.policy
    assert policy.chosen == 260 / 2 - 1  # the first rows are of the reset
    trainer.rollout.policy = Counting(trainer.replay.spec.action, make_generator(1, stream=2))
    trainer.restore(load_checkpoint(path))
    assert trainer.rollout.policy.chosen == policy.chosen
    assert torch.equal(trainer.rollout.policy.generator.get_state(), policy.generator.get_state())


def test_a_policy_without_a_state_needs_no_part_and_one_with_a_state_needs_its_own(start):
    trainer = start(policy=Forgetful)
    trainer.run()
    path = trainer.folder / "checkpoints" / "last.safetensors"
    assert set(load_checkpoint(path).parts) == {"world", "random"}
    trainer.restore(load_checkpoint(path))
    trainer.rollout.policy = RandomPolicy(trainer.replay.spec.action, make_generator(0, stream=2))
    with pytest.raises(CheckpointError, match=r"last\.safetensors: expected a part policy, got only random, world"):
        trainer.restore(load_checkpoint(path))


@dataclasses.dataclass
class CriticUpdate:
    """What the learner below reports."""

    value: torch.Tensor
    learning_rate: float = 0.1

    def scalars(self):
        return {"loss/value": self.value, "grad_norm/total": self.value}

    def first_non_finite(self):
        return {"value": torch.where(torch.isfinite(self.value), -1, 0)}


class Critic:
    """A learner beside the world model's: it fits a number to the mean of h_t, which the world model's update found."""

    def __init__(self):
        self.model, self.updates, self.seen = torch.nn.Linear(1, 1, bias=False), 0, []
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def update(self, batch, before):
        states = before["world"].states
        assert states.deter.shape[:2] == batch.reward.shape and not states.deter.requires_grad
        loss = (self.model.weight.squeeze() - states.deter.mean()).square()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        self.seen.append(float(loss.detach()))
        return CriticUpdate(loss.detach())

    def state(self):
        return learner_state(self.model, self.optimizer)

    def restore(self, state, updates):
        restore_learner(self.model, self.optimizer, state)
        self.updates = updates


def test_a_trainer_drives_several_learners_and_logs_and_saves_each_under_its_name(start):
    alone = start()
    alone.run()
    alone.replay.close()
    shutil.rmtree(alone.replay.folder)
    critic = Critic()
    assert isinstance(critic, AnyLearner) and isinstance(alone.learner, AnyLearner)
    trainer = start(others={"critic": critic})
    trainer.run()
    rows = train_rows(trainer)
    assert [row["loss/value"] for row in rows] == [row["loss/value"] for row in train_rows(alone)]
    assert rows[0]["critic/loss/value"] == pytest.approx(sum(critic.seen[:2]) / 2)
    assert rows[0]["critic/optimizer/learning_rate"] == 0.1
    path = trainer.folder / "checkpoints" / "last.safetensors"
    assert set(load_checkpoint(path).parts) == {"world", "critic", "policy", "random"}
    weight, slots = critic.model.weight.clone(), critic.optimizer.state_dict()["state"]
    other = Critic()
    trainer.learners["critic"] = other
    trainer.restore(load_checkpoint(path))
    assert torch.equal(other.model.weight, weight) and other.updates == 7
    torch.testing.assert_close(other.optimizer.state_dict()["state"], slots, rtol=0, atol=0)


def test_another_learner_s_loss_that_is_not_a_number_stops_the_run_under_its_name(start):
    critic = Critic()
    trainer = start(others={"critic": critic})
    before_update(trainer, 3, lambda: critic.model.weight.data.fill_(float("nan")))
    with pytest.raises(NonFiniteLossError, match=r"^update 3: .*critic/loss is nan; not finite: critic/value at row 0"):
        trainer.run()


def test_a_learner_may_not_take_the_name_of_another_part(start):
    with pytest.raises(ValueError, match="others: expected names of learners that no other part has, got policy"):
        start(others={"policy": Critic()})


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({"env_steps": 300, "prefill": 200, "train_ratio": 64.0, "batch_size": 4, "sequence_length": 16}, 100),
        ({"env_steps": 300, "prefill": 200, "train_ratio": 1.0, "batch_size": 4, "sequence_length": 16}, 1),
        ({"env_steps": 300, "prefill": 200, "train_ratio": 0.5, "batch_size": 4, "sequence_length": 16}, 0),
    ],
)
def test_the_schedule_counts_replayed_rows_per_collected_row(settings, updates):
    rest = {f.name: 1 for f in dataclasses.fields(Schedule) if f.name not in (*settings, "updates", "restart")}
    assert Schedule(**settings, **rest).total_updates == updates


def test_a_process_draws_its_share_of_a_batch_that_grows():
    rest = {f.name: 1 for f in dataclasses.fields(Schedule) if f.name not in ("batch_size", "updates", "restart")}
    schedule = Schedule(**rest | {"growth": 3, "growth_after": 0.5, "processes": 4}, batch_size=8, updates=10)
    assert [schedule.sequences_of(update) for update in (0, 4, 5, 9)] == [2, 2, 6, 6]


@pytest.mark.parametrize("least", [0, 2**40], ids=["read ahead", "in line"])
def test_batches_grow_for_the_last_updates(start, monkeypatch, least):
    monkeypatch.setattr("worldmodel.training.trainer.WORTH_A_THREAD", least)
    trainer = start(train_ratio=128.0, env_steps=216, replay={"growth": 3, "growth_after": 0.7})  # 32 updates
    sizes, update = [], trainer.learner.update
    monkeypatch.setattr(
        trainer.learner, "update", lambda batch, made: sizes.append(len(batch.valid)) or update(batch, made)
    )
    trainer.run()
    size = trainer.schedule.batch_size
    assert sizes == [size] * 23 + [3 * size] * 9


def listen_to_samples(trainer: Trainer) -> list[str]:
    """The name of the thread in which each batch is drawn."""
    threads, sample = [], trainer.replay.sample

    def listening(*arguments, **options):
        threads.append(threading.current_thread().name)
        return sample(*arguments, **options)

    trainer.replay.sample = listening
    return threads


def forget(trainer: Trainer) -> None:
    """Remove the rows, so that the next trainer collects the same ones again."""
    trainer.replay.close()
    shutil.rmtree(trainer.replay.folder)


def test_batches_that_are_read_ahead_contain_the_newest_rows_as_they_do_in_line(start, monkeypatch):
    runs = {}
    for least in (0, 2**40):
        monkeypatch.setattr("worldmodel.training.trainer.WORTH_A_THREAD", least)
        trainer = start(train_ratio=128.0, env_steps=216, log_every=1)  # 8 steps of two rows, 4 updates after each
        threads = listen_to_samples(trainer)
        trainer.run()
        ahead = sum(name.startswith("batches") for name in threads)
        assert ahead == (8 * 3 if least == 0 else 0)
        runs[least] = [row["loss/value"] for row in train_rows(trainer)], trainer.randomness["sampling"].get_state()
        forget(trainer)
    (ahead, state), (in_line, same) = runs.values()
    assert len(ahead) == 32 and ahead == in_line and torch.equal(state, same)


@pytest.fixture
def start_offline(start, monkeypatch):
    """Make a trainer that only learns, from 200 rows, always the same ones, and reads every batch ahead."""
    monkeypatch.setattr("worldmodel.training.trainer.WORTH_A_THREAD", 0)

    def make() -> Trainer:
        trainer = start(log_every=1)
        while trainer.env_steps < 200:
            trainer._collect()
        trainer.rollout, trainer.schedule = None, dataclasses.replace(trainer.schedule, updates=8)
        return trainer

    return make


def test_a_run_that_stops_while_a_batch_is_read_ahead_draws_it_again_when_it_goes_on(start_offline):
    whole = start_offline()
    threads = listen_to_samples(whole)
    whole.run()
    assert [name.startswith("batches") for name in threads[:8]] == [False, *[True] * 7]
    forget(whole)
    first = start_offline()
    before_update(first, 4, lambda: signal.raise_signal(signal.SIGTERM))
    assert first.run() is False and kept(first)["updates"] == 4
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())
    forget(first)
    second = start_offline()
    second.restore(load_checkpoint(first.folder / "checkpoints" / "last.safetensors"))
    assert second.run() is True
    losses = [[row["loss/value"] for row in train_rows(trainer)] for trainer in (whole, first, second)]
    assert [len(part) for part in losses] == [8, 4, 4] and losses[0] == losses[1] + losses[2]


def test_a_damaged_row_that_is_found_ahead_ends_the_run_at_its_turn_and_names_it(start_offline):
    trainer = start_offline()
    (path, _) = sorted(trainer.replay.folder.glob("*.rows"))

    def damage():
        with path.open("r+b") as file:
            file.write(b"\1" * path.stat().st_size)

    before_update(trainer, 3, damage)
    with pytest.raises(DamagedReplayError, match=r"stream-000.rows: row \d+ is not as it was written; restore it"):
        trainer.run()
    assert 3 <= trainer.updates <= 4  # the batch of the fourth may have been read before
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())
