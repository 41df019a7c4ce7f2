"""Overshooting: terms of the loss about futures that the model imagines, several steps ahead, as it will be used.

The bound asks for one step at a time: p(z_t | h_t) is compared with q where everything up to t - 1 was seen.
Imagination goes on from its own draws. From states of the posterior the prior rolls on under the recorded actions, and
reaches row t after d steps; the term of that row is the mean over d = 2 .. D of one of

    latents   KL( sg(q(z_t | h_t, x_t)) || p(z_t | h_t^d) )                h_t^d: h_t as imagined from row t - d
    rows      -log 1/M sum_m p(x_t, r_t, c_t | h_t^dm, z_t^dm)             M futures from that state

`latents` is PlaNet's latent overshooting: q is detached, so that what is imagined is drawn to what was seen and not the
other way round; d = 1 is the bound's own KL. One draw of the steps between stands for their average, which lies above
the KL of the averaged prior (Jensen). `rows` is the negative log-likelihood of the row itself, a proper score of the
imagined mixture, above it by Jensen for few futures. Neither is part of a bound: the ledger has its price.

Sources: Hafner et al. 2019 (PlaNet), arXiv 1811.04551, equation 7; Amos et al. 2018, arXiv 1804.06318 (rows).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.objectives.elbo import log_likelihoods
from worldmodel.types import Act, Batch, Carry, Dynamics, Likelihood, State

OvershootingTerm = Literal["latents", "rows"]


@dataclass(frozen=True)
class Overshooting:
    """Which futures are compared with what happened, and how much that counts. Fields as in `LossConfig`."""

    scale: float
    of: OvershootingTerm = "latents"
    steps: int = 12  # D, two or more
    every: int = 8  # one in so many rows is a start, which ones is drawn for each batch
    samples: int = 4  # M futures from each start, for `rows`


@runtime_checkable
class ImaginingModel(Protocol):
    """What overshooting uses of a model."""

    @property
    def dynamics(self) -> Dynamics:
        """The recurrence."""
        ...

    def embed_sequence(self, batch: Batch) -> Float[Tensor, "B T E"]:
        """What the posterior reads of the rows."""
        ...

    def imagine(
        self, carry: Carry, state: State, act: Act, noise: Float[Tensor, "B H *noise"]
    ) -> tuple[State, Float[Tensor, "B H A"]]:
        """The states after each of H actions that `act` chooses, without looking, and the actions."""
        ...

    def noise(self, batch: int, steps: int, generator: torch.Generator | None = None) -> Float[Tensor, "B T *noise"]:
        """The noise that imagined latents are made from."""
        ...

    def decode(self, state: State) -> dict[str, Likelihood]:
        """The likelihoods at states."""
        ...

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """What each likelihood is evaluated at."""
        ...

    def observed(self, batch: Batch) -> dict[str, Bool[Tensor, "B T"]]:
        """Where a target is an observation, for those that are not everywhere."""
        ...


class Windows(NamedTuple):
    """K starts and the D rows after each of them."""

    start: Int[Tensor, " K"]
    rows: Int[Tensor, "K D"]  # within the sequence; those beyond its end are not counted
    counted: Bool[Tensor, "B K D"]  # of the same episode, start and row valid, two steps ahead or more


def overshooting(
    model: ImaginingModel,
    batch: Batch,
    states: State,
    settings: Overshooting,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B T"]:
    """The term of every row in nats, times `scale`; its mean over valid rows is what it adds to the loss.

    With a start at every row it is the equation above, a row's missing distances counting as zero; with fewer starts,
    an unbiased estimate of that.

    Args:
        model: the model.
        batch: rows [B, T].
        states: [B, T, ...] of the posterior, with gradients.
        settings: which term.
        generator: source of starts and futures.
    Raises:
        NotImplementedError: if the recurrence remembers more than its newest state.
    """
    B, T = batch.valid.shape
    windows = choose_windows(batch, settings, generator)
    samples = settings.samples if settings.of == "rows" else 1
    start = State(*(_repeated(x[:, windows.start], samples) for x in states))  # [M B K, ...]
    action = _repeated(batch.prev_action[:, windows.rows], samples)  # [M B K, D, A]
    noise = model.noise(len(action), settings.steps, generator)
    imagined, _ = model.imagine(model.dynamics.carry_of(start), start, _following(action), noise)
    shape = (samples, B, *windows.rows.shape)
    futures = State(*(x.reshape(*shape, x.shape[-1]) for x in imagined))  # [M, B, K, D, ...]
    nats = (_of_latents if settings.of == "latents" else _of_rows)(model, batch, states, futures, windows)
    counted = torch.where(windows.counted, nats, 0.0).flatten(1)  # [B, K D]
    weight = settings.scale * settings.every / (settings.steps - 1)
    return weight * counted.new_zeros(B, T).index_add(1, windows.rows.flatten(), counted)


def choose_windows(batch: Batch, settings: Overshooting, generator: torch.Generator | None = None) -> Windows:
    """Starts at every `every`-th row, from a row that is drawn; nothing is read back to the host."""
    T = batch.valid.shape[1]
    device = batch.valid.device
    offset = torch.randint(settings.every, (1,), generator=generator, device=device)
    start = offset + settings.every * torch.arange(math.ceil(T / settings.every), device=device)
    distance = 1 + torch.arange(settings.steps, device=device)
    rows = start[:, None] + distance
    inside = (rows < T) & (distance > 1)
    start, rows = start.clamp(max=T - 1), rows.clamp(max=T - 1)
    episode = batch.is_first.cumsum(1)
    same = episode[:, rows] == episode[:, start, None]
    return Windows(start, rows, inside & same & batch.valid[:, rows] & batch.valid[:, start, None])


def _of_latents(
    model: ImaginingModel, batch: Batch, states: State, futures: State, windows: Windows
) -> Float[Tensor, "B K D"]:
    """KL( sg(q) || p ) with the prior at the imagined h_t."""
    with torch.no_grad():
        projected = model.dynamics.project(model.embed_sequence(batch))
        posterior = model.dynamics.posterior(states.deter[:, windows.rows], projected[:, windows.rows])
    return posterior.kl(model.dynamics.prior(futures.deter[0])).sum(-1)


def _of_rows(
    model: ImaginingModel, batch: Batch, states: State, futures: State, windows: Windows
) -> Float[Tensor, "B K D"]:
    """-log 1/M sum_m p(x_t, r_t, c_t | imagined state)."""
    M = len(futures.deter)

    def reached(of_rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = {name: x[:, windows.rows] for name, x in of_rows.items()}
        return {name: x.expand(M, *x.shape) for name, x in rows.items()}

    terms = log_likelihoods(model.decode(futures), reached(model.targets(batch)), reached(model.observed(batch)))
    return math.log(M) - torch.stack(list(terms.values())).sum(0).logsumexp(0)


def _repeated(x: Float[Tensor, "B K ..."], samples: int) -> Tensor:
    """[samples B K, ...]"""
    return x.expand(samples, *x.shape).flatten(0, 2)


def _following(action: Float[Tensor, "N D A"]) -> Act:
    """A policy that takes the actions given, whatever happens."""
    steps: Iterator[Tensor] = iter(action.unbind(1))
    return lambda state: next(steps)
