"""One update of all learners as one CUDA graph: captured once, and replayed for every batch after that.

An update is thousands of small operations, each of which Python launches. In a graph the device launches them all at
one call. What is captured is the same operations at the same addresses with the same constants, so whatever differs
from update to update is a tensor that lies still:

    the batch                        is copied into tensors that stay (`batch`, below)
    learning rates and beta          are set on the device before each replay, by `begin` of each learner
    noise                            comes from generators that the graph knows; each replay draws on
    what an update reports           is overwritten by the next one, so numbers that are kept are copied

The first updates run as they are, on a stream of their own, so that libraries set themselves up and optimisers make
what they keep; they count as any others. Weights, draws and numbers are those of updates that are not captured.

Source: the recipe of https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs, whole-network capture.
"""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from worldmodel.training.learner import AnyUpdate
from worldmodel.training.metrics import Made, made_of
from worldmodel.types import Batch

WARM_UP = 3  # updates before the capture, as in torch's recipe

Packed = dict[tuple[str, ...], Tensor]  # numbers of one dtype side by side, [n], by their names


@runtime_checkable
class CapturableLearner(Protocol):
    """A learner whose updates are the same operations every time, but for what `begin` sets."""

    generator: torch.Generator
    """Source of all its noise."""

    def begin(self) -> float:
        """Count one more update, and set on the device what is different in it: -> its learning rate."""
        ...

    def step(self, batch: Batch, before: Mapping[str, AnyUpdate], rate: float) -> AnyUpdate:
        """The rest of an update: it reads nothing back, and what it reports is a dataclass with `learning_rate`."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """Runs what is to be captured, and captures it."""

    def aside(self, function: Callable[[], None]) -> None:
        """Run it as it is, where it will be captured."""
        ...

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Call it without running what it launches: -> runs that, every time it is called."""
        ...


class CudaRecorder:
    """Captures CUDA graphs, on a stream of its own."""

    def __init__(self, device: torch.device, generators: list[torch.Generator]) -> None:
        """Args:
        device: where everything lies.
        generators: those that are drawn from.
        """
        self.device, self.generators = device, generators
        self.stream = torch.cuda.Stream(device)

    def aside(self, function: Callable[[], None]) -> None:
        """Run it on the stream of the capture, after what has been launched by now and before what comes."""
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            function()
        here.wait_stream(self.stream)

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture it."""
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=self.stream):
            function()
        return graph.replay


class CapturedUpdate:
    """Takes one step of every learner on a batch, by a graph from the fourth on. Restore learners before the first."""

    def __init__(self, learners: Mapping[str, CapturableLearner], recorder: Recorder) -> None:
        """Args:
        learners: in the order of their steps.
        recorder: captures them.
        """
        self.learners, self.recorder = learners, recorder
        self.batch: Batch | None = None  # stays where it is; each batch is copied into it
        self._updates = 0
        self._made: dict[str, AnyUpdate] = {}  # where each update leaves what it reports
        self._packed: tuple[Packed, Packed] = ({}, {})
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch) -> Made:
        """Take the steps: -> what they report, its updates until the next call.

        Raises:
            ValueError: if the batch has another shape, or another dtype, than the first one.
        """
        self._take(batch)
        rates = {name: learner.begin() for name, learner in self.learners.items()}
        if self._updates < WARM_UP:
            self.recorder.aside(self._step)
        else:
            if self._replay is None:
                self._replay = self.recorder.record(self._step)
            self._replay()
        self._updates += 1
        made = {name: _at_rate(update, rates[name]) for name, update in self._made.items()}
        return Made(made, *map(_copied, self._packed))

    def _step(self) -> None:
        """All that is captured."""
        assert self.batch is not None
        made: dict[str, AnyUpdate] = {}
        for name, learner in self.learners.items():
            made[name] = learner.step(self.batch, made, 0.0)  # the rate that is reported is not the device's
        _, scalars, places = made_of(made)
        self._made, self._packed = made, (_packed(scalars), _packed(places))

    def _take(self, batch: Batch) -> None:
        if self.batch is None:
            self.batch = tree_map(lambda x: torch.empty_like(x, memory_format=torch.contiguous_format), batch)
        given, kept = ([(tuple(x.shape), x.dtype) for x in tree_leaves(one)] for one in (batch, self.batch))
        if given != kept:
            raise ValueError(f"batch: expected the shapes and dtypes of the first one, {kept}, got {given}")
        for place, x in zip(tree_leaves(self.batch), tree_leaves(batch), strict=True):
            place.copy_(x)


def _at_rate(update: AnyUpdate, rate: float) -> AnyUpdate:
    assert is_dataclass(update) and not isinstance(update, type)
    return replace(update, learning_rate=rate)


def _packed(numbers: Mapping[str, Tensor]) -> Packed:
    """Numbers [] by name, those of one dtype in one tensor, so that a copy of all is one launch or two."""
    names: dict[torch.dtype, list[str]] = {}
    for name, x in numbers.items():
        names.setdefault(x.dtype, []).append(name)
    return {tuple(some): torch.stack([numbers[name] for name in some]) for some in names.values()}


def _copied(packed: Packed) -> dict[str, Tensor]:
    """Copies of packed numbers, by name."""
    copies = {names: x.clone().unbind() for names, x in packed.items()}
    return {name: x for names, each in copies.items() for name, x in zip(names, each, strict=True)}
