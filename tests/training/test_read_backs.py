"""A whole update reads nothing back to the host, so that it never waits for a GPU and a graph can be captured of it.

It runs on a GPU that is not there (`scripts/pretended_gpu.py`): tensors that have shapes and no numbers. Whatever asks
for a number, or for a shape that depends on one, or for a tensor of the host, fails.
"""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from scripts.pretended_gpu import HostTensorError, nobody, pretended_gpu
from worldmodel.build import build_learner
from worldmodel.build_acting import build_agent, build_behaviour_learner
from worldmodel.build_networks import build_model
from worldmodel.config_io import read_config
from worldmodel.training import captured
from worldmodel.training.captured import CapturedUpdate
from worlds import INTEGER_SPEC, MIXED_SPEC, VECTOR_SPEC, make_batch

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
SMALL = {"rssm.deter": 16, "rssm.hidden": 12, "rssm.blocks": 2, "rssm.stoch": 4, "encoder.units": 12}
CATEGORICAL = {"rssm.latent": "categorical", "rssm.classes": 5}
OF_THE_WORLD, OF_THE_ACTOR = "learner.Learner._clip_gradients", "behaviour_learner.BehaviourLearner._clip"
ACTS = SMALL | {"acting.policy": "actor", "actor.slow_rate": 0.1, "behaviour.horizon": 3, "behaviour.starts": 4}


class AsCaptured:
    """A recorder whose graph runs what it was captured of: -> how often that ran."""

    def __init__(self):
        self.runs = 0

    def aside(self, function):
        self.runs += 1
        function()

    def record(self, function):
        return lambda: self.aside(function)


def learners_of(model, agent, config, place=lambda x: x):
    """World model, and actor and critic if there are some, as learners, on the device that `place` takes tensors to."""
    model._apply(place)
    learners = {"world": build_learner(config, model, torch.Generator())}
    if agent is not None:
        agent._apply(place)
        learners["behaviour"] = build_behaviour_learner(config, agent, model, torch.Generator())
    return learners


def updates(spec=VECTOR_SPEC, settings=None, recipe=None, heard=nobody):
    """What the last of some updates reports that a graph would run."""
    config = read_config([RECIPES / f"{recipe}.yaml"] if recipe else [], settings)
    batch, recorder = make_batch(spec), AsCaptured()
    model = build_model(config, spec)
    agent = build_agent(config, model)
    with pretended_gpu(heard=heard) as place:
        learners = learners_of(model, agent, config, place)
        update, there = CapturedUpdate(learners, recorder), tree_map_only(torch.Tensor, place, batch)
        with patch.object(captured, "WARM_UP", 1):  # which makes what the optimisers keep
            update(there)
            made = update(there)
    assert recorder.runs == 2
    return made


WORLD_MODELS = {
    "default": {},
    "images and classes": {"spec": MIXED_SPEC, "settings": SMALL},
    "whole numbers": {"spec": INTEGER_SPEC, "settings": SMALL},
    "gru": {"settings": SMALL | {"rssm.cell": "gru", "rssm.blocks": 1}},  # the plain loop
    "full covariance": {"settings": SMALL | {"rssm.latent": "gaussian_full"}},
    "marginal": {"settings": SMALL | CATEGORICAL | {"rssm.gradient": "marginal"}},
    "reinmax": {"settings": SMALL | CATEGORICAL | {"rssm.gradient": "reinmax", "decoder.reward": "categorical"}},
    "warm-up": {"settings": SMALL | {"loss.kl_warmup": 10, "loss.free_nats": 1.0, "loss.free_nats_rule": "mean"}},
    "V3": {"settings": SMALL, "recipe": "dreamer3"},
    "V2": {"settings": SMALL | {"rssm.blocks": 1}, "recipe": "dreamer2"},
    "smoothing": {"settings": SMALL, "recipe": "smoothing"},
}
ACTORS = {
    "pathwise": {"settings": ACTS},
    "pathwise without a limit": {"settings": ACTS | {"behaviour.gradient_limit": None}},
    "pathwise with a full covariance": {"settings": ACTS | {"rssm.latent": "gaussian_full"}},
    "reinforce": {"settings": ACTS | CATEGORICAL},
    "classes of actions": {"spec": MIXED_SPEC, "settings": ACTS},
    "of observations": {"settings": ACTS | {"actor.reads": "observation"}},
    "a posterior that smooths": {"settings": ACTS, "recipe": "smoothing"},
    "LaProp and adaptive clipping": {"settings": ACTS, "recipe": "dreamer3"},
}


# Whose operations are nearly all in one of the others.
SLOW = {"whole numbers", "gru", "full covariance", "reinmax", "warm-up", "V2"}
SLOW |= {"pathwise without a limit", "pathwise with a full covariance", "of observations", "a posterior that smooths"}
SLOW |= {"marginal", "smoothing", "LaProp and adaptive clipping"}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(given, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, given in (WORLD_MODELS | ACTORS).items()
    ],
)
def test_updates_read_nothing_back_and_take_nothing_from_the_host(given):
    made = updates(**given)
    assert len(made.updates) == 2 - (given in WORLD_MODELS.values())
    assert all(x.shape == () for x in (*made.scalars.values(), *made.places.values()))


def test_the_loops_of_kernels_that_a_gpu_runs_are_among_them():
    heard = []
    updates(settings=SMALL, heard=lambda operation, arguments: heard.append(operation))
    names = {operation.fn.__name__ for operation in heard if hasattr(operation, "fn")}
    assert {"gru_mix", "gru_gates", "head_gaussian_draw"} <= names
    assert {"draw_gaussian_back", "gru_gates_back", "gru_mix_back"} <= names


def test_under_autocast_an_update_reads_nothing_back():
    """On a CPU without numbers, since the device that is not there has no autocast."""
    config = read_config([], SMALL | CATEGORICAL | {"training.autocast": True})
    model, numberless = build_model(config, VECTOR_SPEC), FakeTensorMode()
    model._apply(numberless.from_tensor)
    learner = build_learner(config, model, torch.Generator())
    learner._beta = numberless.from_tensor(learner._beta)
    for group in learner.optimizer.param_groups:
        group["lr"] = numberless.from_tensor(group["lr"])
    batch = tree_map_only(torch.Tensor, numberless.from_tensor, make_batch())
    with numberless:
        made = [learner.update(batch) for _ in range(2)][-1]
        assert all(x.shape == () for x in tree_leaves((made.scalars(), made.first_non_finite())))


class Issued(TorchDispatchMode):
    """What is asked of a device: operations, and the numbers among their arguments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append((func, [x for x in tree_leaves((args, kwargs)) if isinstance(x, int | float)]))
        return func(*args, **(kwargs or {}))


def issued_by(learners, batch, count):
    """What each of so many updates asks of the device."""
    found = []
    for _ in range(count):
        with Issued() as operations:
            made = {}
            for name, learner in learners.items():
                made[name] = learner.update(batch, made)
        found.append(operations.seen)
    return found


@pytest.mark.parametrize("acts", [False, True], ids=["world model", "actor and critic too"])
def test_a_later_update_is_the_same_operations_with_another_rate_and_beta(acts):
    """So that it may be a graph that was captured of an earlier one: what differs is set before, in tensors."""
    settings = (ACTS if acts else SMALL) | {"loss.kl_warmup": 10, "optimizer.warmup": 10}
    config = read_config([], settings)
    model = build_model(config, VECTOR_SPEC)
    issued = issued_by(learners_of(model, build_agent(config, model), config), make_batch(), 4)
    fills = [i for i, (one, other) in enumerate(zip(issued[1], issued[3], strict=True)) if one != other]
    assert [issued[1][i][0] for i in fills] == [torch.ops.aten.fill_.Scalar] * 2
    assert fills == [0, 1]


@pytest.mark.slow
def test_a_later_update_of_laprop_on_the_device_is_the_same_operations_too():
    config, batch = read_config([RECIPES / "dreamer3.yaml"], ACTS), make_batch()
    model, seen, found = build_model(config, VECTOR_SPEC), [], []
    agent = build_agent(config, model)

    def hear(operation, arguments):
        seen.append((operation, [x for x in arguments if isinstance(x, float)]))

    with pretended_gpu(heard=hear) as place:
        learners, there = learners_of(model, agent, config, place), tree_map_only(torch.Tensor, place, batch)
        for _ in range(4):
            seen.clear()
            issued_by(learners, there, 1)
            found.append(list(seen))
    changed = [i for i, (one, other) in enumerate(zip(found[1], found[3], strict=True)) if one != other]
    assert changed == [0] and found[1][0][0] is torch.ops.aten.fill_.Scalar  # the world model's rate, in its warm-up


@pytest.mark.parametrize(
    ("place", "read", "error"),
    [
        (OF_THE_WORLD, lambda x: float(x.sum()), DataDependentOutputException),
        (OF_THE_ACTOR, lambda x: float(x.sum()), DataDependentOutputException),
        (OF_THE_WORLD, lambda x: bool((x > 0).any()), DataDependentOutputException),
        (OF_THE_ACTOR, lambda x: x[x > 0], DynamicOutputShapeException),
        (OF_THE_WORLD, lambda x: x.detach().numpy(), (RuntimeError, TypeError)),
        (OF_THE_ACTOR, lambda x: x.tolist(), DataDependentOutputException),
        (OF_THE_WORLD, lambda x: x.cpu(), HostTensorError),
        (OF_THE_ACTOR, lambda x: x + torch.zeros(()), HostTensorError),
        (OF_THE_WORLD, lambda x: x + x.new_tensor([1.0]), AssertionError),
    ],
    ids=["float", "an actor's", "bool", "mask", "numpy", "tolist", "cpu", "number of the host", "numbers of the host"],
)
def test_one_read_back_is_noticed(monkeypatch, place, read, error):
    monkeypatch.setattr(f"worldmodel.training.{place}", lambda self, *_: read(next(self.model.parameters()).grad))
    with pytest.raises(error):
        updates(settings=ACTS)
