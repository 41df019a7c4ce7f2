"""A whole update reads nothing back to the host, so that it never waits for a GPU and a graph can be captured of it.

It runs on tensors that have shapes and no numbers: whatever asks for a number, or for a shape that depends on one,
fails.
"""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from worldmodel.build import build_learner, build_model
from worldmodel.config_io import read_config
from worlds import MIXED_SPEC, VECTOR_SPEC, make_batch

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
SMALL = {"rssm.deter": 16, "rssm.hidden": 12, "rssm.blocks": 2, "rssm.stoch": 4, "encoder.units": 12}
CATEGORICAL = {"rssm.latent": "categorical", "rssm.classes": 5}


def update(spec=VECTOR_SPEC, settings=None, recipe=None):
    """The last of two updates without numbers: the first makes what the optimiser keeps."""
    config = read_config([RECIPES / f"{recipe}.yaml"] if recipe else [], settings)
    model, numberless = build_model(config, spec), FakeTensorMode()
    model._apply(numberless.from_tensor)
    learner = build_learner(config, model, torch.Generator())
    learner._beta = numberless.from_tensor(learner._beta)
    for group in learner.optimizer.param_groups:
        group["lr"] = numberless.from_tensor(group["lr"])
    batch = tree_map_only(torch.Tensor, numberless.from_tensor, make_batch(spec))
    with numberless:
        for _ in range(2):
            made = learner.update(batch)
        return made.scalars(), made.first_non_finite()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"spec": MIXED_SPEC, "settings": SMALL},
        {"settings": SMALL | {"rssm.cell": "gru", "rssm.blocks": 1}},  # the plain loop
        {"settings": SMALL | CATEGORICAL | {"training.autocast": True}},
        {"settings": SMALL | CATEGORICAL | {"rssm.gradient": "marginal"}},
        {"settings": SMALL | CATEGORICAL | {"rssm.gradient": "reinmax", "decoder.reward": "categorical"}},
        {"settings": SMALL | {"loss.kl_warmup": 10, "loss.free_nats": 1.0, "loss.free_nats_rule": "mean"}},
        {"settings": SMALL, "recipe": "dreamer3"},
        {"settings": SMALL | {"rssm.blocks": 1}, "recipe": "dreamer2"},
        {"settings": SMALL, "recipe": "smoothing"},
    ],
    ids=["default", "images and classes", "gru", "autocast", "marginal", "reinmax", "warm-up", "V3", "V2", "smoothing"],
)
def test_an_update_reads_nothing_back(given):
    assert all(x.shape == () for x in tree_leaves(update(**given)))


class Issued(TorchDispatchMode):
    """What is asked of a device: operations, and the numbers among their arguments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append((func, [x for x in tree_leaves((args, kwargs)) if isinstance(x, int | float)]))
        return func(*args, **(kwargs or {}))


def test_a_later_update_is_the_same_operations_with_another_rate_and_beta():
    """So that it may be a graph that was captured of an earlier one: what differs is set before, in tensors."""
    settings = SMALL | {"loss.kl_warmup": 10, "optimizer.warmup": 10}
    config, batch, issued = read_config([], settings), make_batch(), []
    learner = build_learner(config, build_model(config, VECTOR_SPEC), torch.Generator())
    for _ in range(4):
        with Issued() as operations:
            learner.update(batch)
        issued.append(operations.seen)
    fills = [i for i, (one, other) in enumerate(zip(issued[1], issued[3], strict=True)) if one != other]
    assert [issued[1][i][0] for i in fills] == [torch.ops.aten.fill_.Scalar] * 2
    assert fills == [0, 1]


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda x: float(x.sum()), DataDependentOutputException),
        (lambda x: bool((x > 0).any()), DataDependentOutputException),
        (lambda x: x[x > 0], DynamicOutputShapeException),
        (lambda x: x.detach().numpy(), RuntimeError),
        (lambda x: x.tolist(), DataDependentOutputException),
    ],
    ids=["float", "bool", "mask", "numpy", "tolist"],
)
def test_one_read_back_is_noticed(monkeypatch, read, error):
    learner = "worldmodel.training.learner.Learner._clip_gradients"
    monkeypatch.setattr(learner, lambda self: read(self.parameters[0].grad))
    with pytest.raises(error):
        update(settings=SMALL)
