"""An update by a captured graph: without a GPU, by a stand-in that keeps a graph's rules; with one, by the graph."""

import copy

import pytest
import torch

from worldmodel.build import build_learner, require_capturable
from worldmodel.build_acting import build_agent, build_behaviour_learner
from worldmodel.build_networks import build_model
from worldmodel.config_io import read_config
from worldmodel.training.captured import WARM_UP, CapturedUpdate, CudaRecorder
from worldmodel.training.metrics import RecentUpdates, kl_summary, made_of
from worlds import MIXED_SPEC, VECTOR_SPEC, make_batch

SMALL = {
    "rssm.deter": 16,
    "rssm.hidden": 12,
    "rssm.blocks": 2,
    "rssm.stoch": 4,
    "encoder.units": 12,
    "optimizer.warmup": 5,
    "loss.kl_warmup": 5,
    "acting.policy": "actor",
    "actor.slow_rate": 0.1,
    "behaviour.horizon": 3,
    "behaviour.starts": 4,
}
UPDATES = WARM_UP + 4


def make_learners(spec=VECTOR_SPEC, settings=None, device="cpu", files=()):
    config = read_config(files, SMALL | (settings or {}))
    model = build_model(config, spec).to(device)
    generators = [torch.Generator(device).manual_seed(seed) for seed in (1, 2)]
    agent = build_agent(config, model)
    return {
        "world": build_learner(config, model, generators[0]),
        "behaviour": build_behaviour_learner(config, agent, model, generators[1]),
    }


def batches(spec=VECTOR_SPEC, device="cpu"):
    return [make_batch(spec, seed=seed, first=((1, seed % 7),)).to(device) for seed in range(UPDATES)]


def one_by_one(learners, batch):
    made = {}
    for name, learner in learners.items():
        made[name] = learner.update(batch, made)
    return made_of(made)


def everything(learners):
    """All that updates change: weights, what optimisers keep, random states."""
    found = {}
    for name, learner in learners.items():
        found |= {f"{name}/{key}": x for key, x in learner.state().items()}
        found[f"{name}/random"] = learner.generator.get_state()
    return found


def reported(made, packed):
    """Some of the tensors that an update leaves behind, those that are copied among them."""
    bound, loss = made["world"].bound, made["world"].loss
    return [x for numbers in packed for x in numbers.values()] + [bound.kl_groups, loss.optimised_kl]


class Graph:
    """Keeps the rules of a graph on a CPU: recording computes nothing, and every replay writes to the same places."""

    def __init__(self):
        self.update, self.asides, self.replays = None, 0, 0

    def aside(self, function):
        self.asides += 1
        function()

    def record(self, function):
        update, before = self.update, copy.deepcopy(everything(self.update.learners))
        function()
        left = update._made, update._packed
        for name, learner in update.learners.items():
            learner.generator.set_state(before[f"{name}/random"])
        for name, x in everything(update.learners).items():
            x.copy_(before[name])
        for place in reported(*left):
            place.fill_(-7)

        def replay():
            self.replays += 1
            function()
            for place, x in zip(reported(*left), reported(update._made, update._packed), strict=True):
                place.copy_(x)
            update._made, update._packed = left

        return replay


def captured(learners):
    graph = Graph()
    graph.update = CapturedUpdate(learners, graph)
    return graph.update, graph


CASES = {
    "vectors": {},
    "images and classes": {"spec": MIXED_SPEC},
    "LaProp": {"settings": {"behaviour.optimizer": "laprop", "behaviour.adaptive_clip": 0.3}},
    "smoothing": {"settings": {"rssm.posterior": "smoothing"}},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_replayed_updates_are_bit_for_bit_those_that_are_not_captured(case):
    eager, learners = (make_learners(**case) for _ in range(2))
    update, graph = captured(learners)
    for batch in batches(case.get("spec", VECTOR_SPEC)):
        expected, got = one_by_one(eager, batch), update(batch)
        assert expected.scalars.keys() == got.scalars.keys() and expected.places.keys() == got.places.keys()
        assert all(torch.equal(x, got.scalars[name]) for name, x in expected.scalars.items())
        assert all(torch.equal(x, got.places[name]) for name, x in expected.places.items())
        assert kl_summary(expected.updates["world"]) == kl_summary(got.updates["world"])
        for name, one in expected.updates.items():
            assert one.learning_rate == got.updates[name].learning_rate
    assert (graph.asides, graph.replays) == (WARM_UP, UPDATES - WARM_UP)
    before, after = everything(eager), everything(learners)
    assert before.keys() == after.keys() and all(torch.equal(x, after[name]) for name, x in before.items())
    assert [learner.updates for learner in learners.values()] == [UPDATES] * 2


def test_what_the_log_keeps_is_not_overwritten_by_later_updates(tmp_path):
    update, _ = captured(make_learners())
    recent, values = RecentUpdates(), []
    for batch in batches():
        made = update(batch)
        recent.add(made)
        values.append(float(made.scalars["loss/value"]))
    assert recent.read(UPDATES, tmp_path)["loss/value"].tolist() == values
    assert len(set(values)) == UPDATES


def test_a_batch_is_copied_to_where_the_first_one_was():
    update, _ = captured(make_learners())
    places = set()
    for batch in batches():
        update(batch)
        places.add(update.batch.reward.data_ptr())
        assert torch.equal(update.batch.reward, batch.reward) and update.batch.reward is not batch.reward
    assert len(places) == 1 and batch.reward.data_ptr() not in places


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: make_batch(batch=2),
        lambda batch: batch._replace(reward=batch.reward.double()),
    ],
    ids=["shape", "dtype"],
)
def test_a_batch_of_another_kind_is_refused_and_no_update_counted(change):
    learners = make_learners()
    update, _ = captured(learners)
    batch = make_batch()
    update(batch)
    with pytest.raises(ValueError, match="batch: expected the shapes and dtypes of the first one"):
        update(change(batch))
    assert [learner.updates for learner in learners.values()] == [1, 1]


@pytest.mark.parametrize(
    ("device", "processes", "words"),
    [
        ("cpu", 1, "training.cuda_graph: expected false on the device cpu, which has no CUDA graphs, got True"),
        ("cuda:1", 4, "training.cuda_graph: expected false where 4 processes share the training, got True"),
    ],
)
def test_where_no_graph_can_be_captured_that_is_said_in_one_sentence(device, processes, words):
    config = read_config((), {"training.cuda_graph": True})
    with pytest.raises(ValueError, match=words):
        require_capturable(config, torch.device(device), processes)
    require_capturable(read_config(()), torch.device(device), processes)
    require_capturable(config, torch.device("cuda"))


def test_a_compiled_step_and_a_graph_exclude_each_other():
    with pytest.raises(ValueError, match=r"training\.cuda_graph: expected false where training\.compile is true"):
        read_config((), {"training.cuda_graph": True, "training.compile": True})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_on_a_gpu_the_graph_does_what_the_updates_do(case):
    device = torch.device("cuda", torch.cuda.current_device())
    eager, learners = (make_learners(**case, device=device) for _ in range(2))
    update = CapturedUpdate(learners, CudaRecorder(device, [learner.generator for learner in learners.values()]))
    for batch in batches(case.get("spec", VECTOR_SPEC), device):
        expected, got = one_by_one(eager, batch), update(batch)
        for name, x in expected.scalars.items():  # sums of a GPU may be in another order each time
            torch.testing.assert_close(got.scalars[name], x, rtol=1e-3, atol=1e-4, msg=lambda words, n=name: n + words)
    for name, learner in eager.items():
        assert torch.equal(learner.generator.get_state(), learners[name].generator.get_state())
