"""What was measured of the evidence of held-out episodes: numbers with their errors, for tables, figures and JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from worldmodel.evidence.estimate import Estimate

ESTIMATORS = ("elbo", "iwae", "smc")


@dataclass(frozen=True)
class Measured:
    """Bound and estimates with one number of particles, in nats per step; errors are over episodes."""

    particles: int
    elbo: Estimate
    iwae: Estimate
    smc: Estimate
    run_error: dict[str, float]  # by estimator: the standard error over runs on these very episodes; NaN for one run
    gap: Estimate  # SMC - ELBO: KL(q || exact posterior) from below
    width: Estimate  # of the sandwich on episodes that the model simulated
    degenerate_rows: float  # share of rows after which fewer than two particles are effective
    doubts: tuple[str, ...]  # why the gap is not to be believed; empty where it may be
    below_exact: dict[str, Estimate]  # exact evidence - estimator, paired; empty where nothing is known exactly


@dataclass(frozen=True)
class Term:
    """One part of the bound, and of the filter's evidence, in nats per step."""

    bound: float  # E_q[ log p ]
    filtered: float  # E[ log p | x_<=t ], under the particles of SMC
    variables: int  # observed variables in a row: pixels' channels, entries of a vector


@dataclass(frozen=True)
class Steps:
    """Means over the episodes at each step since the reset, [L], in nats; all estimates with the most particles."""

    episodes: np.ndarray  # how many have this step
    evidence: np.ndarray  # log p^(x_t | x_<t)
    evidence_error: np.ndarray  # its standard error over episodes; NaN for a single one
    reconstruction: np.ndarray  # E_q[ log p(x_t | h_t, z_t) ], all terms
    kl: np.ndarray  # KL(q || p) of the step
    ess: np.ndarray  # effective particles, as a share of all
    width_so_far: np.ndarray  # of the sandwich of the first t rows, on simulated episodes; NaN beyond the longest
    exact: np.ndarray | None = None  # log p(x_t | x_<t), where it is known

    @property
    def bound(self) -> np.ndarray:
        """The ELBO's contribution of each step."""
        return self.reconstruction - self.kl

    @property
    def gap_so_far(self) -> np.ndarray:
        """The gap of the first t rows, in nats: how far q(z_1:t) has come from the exact posterior."""
        return np.cumsum(self.evidence - self.bound)


@dataclass(frozen=True)
class EvidenceReport:
    """How large the evidence of held-out episodes is, how far the bound is from it, and whether to believe that."""

    episodes: int  # held-out episodes, whole from their reset
    rows: int  # of theirs, that count
    runs: int  # independent repetitions of every estimate
    seed: int  # of all draws
    proposal: str  # where particles come from, in words
    prior_share: float  # of the prior in the proposal
    threshold: float  # share of effective particles below which they are drawn anew
    chosen_on: int  # other episodes that the proposal was chosen on; zero where there were none
    simulated: int  # episodes that the model simulated for the sandwich
    estimates: tuple[Measured, ...]  # by particles, the fewest first
    exact: Estimate | None  # the exact evidence, nats per step, where the environment states its law
    terms: dict[str, Term]  # by name, with the most particles
    kl: float  # KL(q || p), nats per step
    information: float  # the filter's own KL, nats per step
    steps: Steps

    @property
    def best(self) -> Measured:
        """The estimates with the most particles."""
        return self.estimates[-1]

    @property
    def variables(self) -> int:
        """Observed variables in a row, reward and continue flag included."""
        return sum(term.variables for term in self.terms.values())

    def as_json(self) -> dict[str, Any]:
        """The same in lists and numbers; what is not finite becomes null."""
        return _plain(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EvidenceReport":
        """Back from `as_json`.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        steps: dict[str, Any] = {
            name: None if x is None else np.array(x, np.float64) for name, x in data["steps"].items()
        }
        if len({x.shape for x in steps.values() if x is not None}) != 1 or not data["estimates"]:
            raise ValueError("expected curves of one length, and an estimate")
        steps["episodes"] = steps["episodes"].astype(np.int64)
        given: dict[str, Any] = dict(data)
        given["estimates"] = tuple(_measured(one) for one in data["estimates"])
        given["exact"] = None if data["exact"] is None else _estimate(data["exact"])
        given["terms"] = {name: Term(**term) for name, term in data["terms"].items()}
        given["steps"] = Steps(**steps)
        return cls(**given)


def over_episodes(rows: Iterable[np.ndarray], valid: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and standard error over the episodes that have each step, of [B, T] each: [T] and [T]; NaN where none has.

    Args:
        rows: arrays of rows, whatever they hold where not valid.
        valid: [B, T] the rows that count.
    """
    count = valid.sum(0)
    found = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for x in rows:
            mean = np.where(valid, x, 0).sum(0) / count
            squares = np.where(valid, (x - mean) ** 2, 0).sum(0)
            found.append((mean, np.sqrt(squares / (count - 1) / count)))
    return found


def _measured(data: Mapping[str, Any]) -> Measured:
    given = dict(data)
    for name in (*ESTIMATORS, "gap", "width"):
        given[name] = _estimate(data[name])
    given["run_error"] = {name: _number(x) for name, x in data["run_error"].items()}
    given["below_exact"] = {name: _estimate(x) for name, x in data["below_exact"].items()}
    given["doubts"] = tuple(data["doubts"])
    return Measured(**given)


def _estimate(data: Sequence[float | None]) -> Estimate:
    return Estimate(*map(_number, data))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and arrays as JSON has them."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(x) for x in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
