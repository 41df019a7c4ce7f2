"""How many kernels an update launches, by part, as loops and formulas and as it runs: counts, and no times.

    python scripts/count_launches.py [--write]    prints a table; --write puts it into docs/performance.md

The updates run on a GPU that is not there (`pretended_gpu.py`): operations are counted as torch would hand them to a
GPU that has the Triton kernels. A count is a lower limit of the launches: each operation is at least one kernel.
"""

import argparse
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from docs_blocks import write_block
from pretended_gpu import pretended_gpu
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from worldmodel import build, build_networks
from worldmodel.build_acting import build_agent, build_behaviour_learner
from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data.random_batch import random_batch
from worldmodel.kernels import kl
from worldmodel.models import rssm
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives import batch_bound
from worldmodel.training import captured
from worldmodel.training.behaviour_learner import BehaviourLearner
from worldmodel.training.captured import WARM_UP, CapturableLearner, CapturedUpdate
from worldmodel.training.learner import AnyUpdate, Learner
from worldmodel.types import ActionSpec, Batch, EnvSpec, ObservationSpec

BEHAVIOUR = "actor and critic"
PARTS = ("batch", "encoder", "scan", "prior, KL and loss", "decoder", "optimiser", BEHAVIOUR, "what is logged")
WHERE = [  # what belongs to a part, with all that it calls and its way back, but for what another part calls its own
    (WorldModel, "embed_sequence", "encoder"),
    (WorldModel, "noise", "scan"),
    (RSSM, "observe", "scan"),
    (RSSM, "prior", "prior, KL and loss"),
    (batch_bound, "divergence", "prior, KL and loss"),
    (batch_bound, "loss", "prior, KL and loss"),
    (WorldModel, "decode", "decoder"),
    (batch_bound, "elbo", "decoder"),
    (Learner, "begin", "optimiser"),
    (Learner, "step", "optimiser"),  # what remains of it: clipping and AdamW
    (BehaviourLearner, "step", BEHAVIOUR),
    (CapturedUpdate, "_take", "batch"),
    (captured, "made_of", "what is logged"),
    (captured, "_packed", "what is logged"),
    (captured, "_copied", "what is logged"),
]


class Case(NamedTuple):
    """An update to count."""

    name: str
    config: Config
    spec: EnvSpec


@dataclass
class ByPart:
    """Operations by the part that is running; backward, a node of autograd belongs to the part that made it."""

    counts: Counter = field(default_factory=Counter)
    part: str = "optimiser"
    _since: list[tuple[int, str]] = field(default_factory=list)  # from which node of autograd on a part was running

    def heard(self, operation: Any, arguments: list[Any]) -> None:
        """Count it."""
        self.counts[self.part] += 1

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """A part is running; actor and critic keep all that is theirs."""
        before = self.part
        self._enter(before if before == BEHAVIOUR else part)
        try:
            yield
        finally:
            self._enter(before)

    def backward(self, value: Tensor, *args: Any, **kwargs: Any) -> None:
        """`Tensor.backward` of a value, by parts."""
        for node in _nodes(value.grad_fn) if self.part != BEHAVIOUR else ():
            node.register_prehook(partial(self._resume, node._sequence_nr()))
        before = self.part
        torch.autograd.backward(value, *args, **kwargs)
        self.part = before

    def _enter(self, part: str) -> None:
        self.part = part
        self._since.append((torch.autograd._get_sequence_nr(), part))

    def _resume(self, number: int, _: Any) -> None:
        """The part that made the node of this number; the nodes that sum up gradients, whose number is none, stay."""
        if number <= torch.autograd._get_sequence_nr():
            self.part = self._since[bisect_right(self._since, number, key=lambda entry: entry[0]) - 1][1]


def _nodes(first: Any) -> list[Any]:
    """All nodes of autograd that a value came from."""
    found, ahead = {}, [first]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found:
            found[node] = None
            ahead += [one for one, _ in node.next_functions]
    return list(found)


class Once:
    """Stands for a recorder: what it records runs then, and not when it is replayed."""

    def aside(self, function: Callable[[], None]) -> None:
        """Not before either."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Run it."""
        function()
        return lambda: None


def cases() -> list[Case]:
    """What is counted."""
    vector = ObservationSpec("vector", (3,))
    image = ObservationSpec("image", (32, 32, 3))
    large = read_config(["sizes/large", "recipes/dreamer3"], {"acting.policy": "actor"})
    return [
        Case("`pendulum`", read_config("pendulum"), EnvSpec({"obs": vector}, ActionSpec("continuous", 1))),
        Case(
            "`sizes/large recipes/dreamer3`",
            large,
            EnvSpec({"obs": ObservationSpec("vector", (17,))}, ActionSpec("continuous", 6)),
        ),
        Case(
            "`cartpole_pixels_random`",
            read_config("cartpole_pixels_random"),
            EnvSpec({"obs": image}, ActionSpec("categorical", 2, (2,))),
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    text = table()
    print(text)
    if options.write:
        write_block("performance.md", "launches", text)
    return 0


def table() -> str:
    """Markdown: a row a part, three columns a case."""
    columns: list[Counter] = []
    names = []
    for case in cases():
        whole, outside = counted(case, plain=False)
        columns += [counted(case, plain=True)[0], whole, outside]
        names += [f"{case.name}: before", "as it runs", "beside its graph"]
    lines = ["| operations of an update | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for part in PARTS:
        lines.append(f"| {part} | " + " | ".join(f"{counts[part]:,}" for counts in columns) + " |")
    totals = (f"{sum(counts.values()):,}" for counts in columns)
    return "\n".join([*lines, "| together | " + " | ".join(totals) + " |"])


def counted(case: Case, *, plain: bool) -> tuple[Counter, Counter]:
    """The operations of one whole update, and those that are left beside its graph."""
    by_part = ByPart()
    with ExitStack() as stack:
        model = build_networks.build_model(case.config, case.spec)
        agent = build_agent(case.config, model)
        generator = torch.Generator()
        batch = random_batch(case.spec, case.config.replay.batch_size, case.config.replay.sequence_length, generator)
        if plain:
            for owner, rule in ((rssm, "runs_as_scan"), (rssm, "imagines_lean"), (kl, "_in_one_function")):
                stack.enter_context(patch.object(owner, rule, lambda *_: False))
        taken = stack.enter_context(pretended_gpu(kernels=not plain, heard=by_part.heard))
        for owner, name, part in WHERE:
            stack.enter_context(patch.object(owner, name, _within(by_part, part, getattr(owner, name))))
        stack.enter_context(patch.object(Tensor, "backward", lambda x, *args, **kw: by_part.backward(x, *args, **kw)))
        model._apply(taken)
        learners: dict[str, CapturableLearner] = {"world": build.build_learner(case.config, model, generator)}
        if agent is not None:
            agent._apply(taken)
            learners["behaviour"] = build_behaviour_learner(case.config, agent, model, generator)
        there = tree_map_only(Tensor, taken, batch)
        update = CapturedUpdate(learners, Once())
        for _ in range(WARM_UP + 1):
            update(there)
        outside = _of(by_part, partial(update, there))
        whole = _of(by_part, partial(_one_by_one, learners, there))
    rows = len(tree_leaves(batch))  # copies from the host, which this device does not know
    return whole + Counter(batch=rows), outside + Counter(batch=rows)


def _of(by_part: ByPart, run: Callable[[], Any]) -> Counter:
    by_part.counts = Counter()
    run()
    return by_part.counts


def _one_by_one(learners: dict[str, CapturableLearner], batch: Batch) -> None:
    """As the trainer takes steps without a graph."""
    made: dict[str, AnyUpdate] = {}
    for name, learner in learners.items():
        made[name] = learner.step(batch, made, learner.begin())
    captured.made_of(made)


def _within(by_part: ByPart, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with by_part.within(part):
            return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    sys.exit(main())
