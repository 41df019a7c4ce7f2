"""Operations on batches: select, pad, cut, repeat and check them, and how much of one fits in memory at once.

In a batch of episodes, each sequence is one whole episode: its reset is row 0, and behind its end come rows of padding,
where `valid` is False.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from worldmodel.types import Batch, EnvSpec, Rows

# The memory budget: how many float32 numbers of states, observations and embeddings one pass without gradients handles.
# Temporary tensors, such as an image's likelihood, take about ten times as much: some hundred MiB in all.
NUMBERS_AT_ONCE = 2**24
FEWEST_A_ROW = 2**9  # the least numbers to count for a sampled row: the layers around a small state are wider than it


def at_once(numbers_each: int, *, gradients: bool = False) -> int:
    """How many sequences, samples or particles of `numbers_each` numbers fit in the memory budget; at least one.

    A pass that keeps gradients has a quarter of the budget.
    """
    return max(1, NUMBERS_AT_ONCE // (4 if gradients else 1) // numbers_each)


def select(batch: Batch, sequences: slice | Tensor = slice(None), rows: slice = slice(None)) -> Batch:
    """Some sequences of a batch (by a slice, a mask or indices), and a slice of their rows."""
    obs = {path: x[sequences, rows] for path, x in batch.obs.items()}
    rest = {name: getattr(batch, name)[sequences, rows] for name in Batch._fields[1:]}
    return Batch(obs, **rest)


def trimmed(episodes: Batch) -> Batch:
    """The same episodes without the rows that are padding in every one of them."""
    return select(episodes, rows=slice(longest_episode(episodes)))


def in_parts(episodes: Batch, size: int) -> Iterator[Batch]:
    """`size` episodes at a time, trimmed to the longest of them."""
    for start in range(0, len(episodes.valid), size):
        yield trimmed(select(episodes, slice(start, start + size)))


def repeated(batch: Batch, times: int) -> Batch:
    """The B sequences repeated `times` times: sequence b is also at b + B, b + 2 B, ..."""
    obs = {path: torch.cat([x] * times) for path, x in batch.obs.items()}
    return Batch(obs, *(torch.cat([x] * times) for x in batch[1:]))


def fitting_rows(
    longest: int, usual: tuple[int, int], context: int | None = None, horizon: int | None = None
) -> tuple[int, int]:
    """The rows to see and the rows to imagine, given the length of the longest episode.

    A number that was asked for is kept. Others have their usual value if the longest episode has room for it. If not,
    context and horizon shrink in proportion, or the one that was not asked for shrinks to the room that is left, to one
    row at least.

    Args:
        longest: rows of the longest episode.
        usual: context and horizon where there is room for them.
        context, horizon: what was asked for, or None.
    Returns:
        Context and horizon.
    """
    if context is None and horizon is None:
        if sum(usual) <= longest:
            return usual
        context = max(1, longest * usual[0] // sum(usual))
    if context is None:
        assert horizon is not None
        context = max(1, min(usual[0], longest - horizon))
    return context, max(1, min(usual[1], longest - context)) if horizon is None else horizon


def longest_episode(episodes: Batch) -> int:
    """How many rows the longest of the padded episodes has."""
    return int(episodes.valid.sum(1).max())


def single_rows(x: Float[Tensor, "B n"], path: str = "obs") -> Batch:
    """B vectors as episodes of one row each, without actions or rewards, for a model without time."""
    B = len(x)
    yes, no = (torch.full((B, 1), value, device=x.device) for value in (True, False))
    zeros = x.new_zeros(B, 1)
    step = torch.zeros(B, 1, dtype=torch.int32, device=x.device)
    return Batch({path: x[:, None]}, zeros[..., None][..., :0], zeros, yes, yes, no, step, yes)


def whole_episode(
    obs: Mapping[str, np.ndarray],
    action: Float[np.ndarray, "steps A"],
    reward: Float[np.ndarray, " steps"],
    *,
    terminated: bool,
) -> Batch:
    """One episode of several steps as a batch of one: one row more than there are steps.

    Args:
        obs: [steps + 1, ...] by path, as rows store them.
        action: a_0, a_1, ... as rows store them; a_t leads from x_t to x_{t+1}.
        reward: received on arriving at x_1, x_2, ...
        terminated: whether it ended at its last row, rather than being cut there.
    """
    steps = len(reward)
    step = np.arange(steps + 1)
    nothing = np.zeros((1, action.shape[1]), np.float32)  # no action leads to the first row
    rows = {
        "prev_action": np.concatenate([nothing, action]).astype(np.float32),
        "reward": np.concatenate([[0], reward]).astype(np.float32),
        "is_first": step == 0,
        "is_last": step == steps,
        "is_terminal": (step == steps) & terminated,
        "episode_step": step.astype(np.int32),
        "valid": np.ones(steps + 1, bool),
    }
    return Batch(
        {path: torch.from_numpy(x)[None] for path, x in obs.items()},
        **{name: torch.from_numpy(x)[None] for name, x in rows.items()},
    )


def long_enough(episodes: Batch, length: int) -> Batch:
    """The padded episodes that have at least `length` rows, context and horizon together.

    Raises:
        ValueError: if there are none.
    """
    rows = episodes.valid.sum(1)
    if not (rows >= length).any():
        raise ValueError(f"context + horizon: expected at most {int(rows.max())}, the longest episode; got {length}")
    return select(episodes, rows >= length)


def stacked(rows: Sequence[Rows]) -> Batch:
    """Rows of N environments, one after the other, as N sequences of T rows that all count."""

    def stack(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(parts, 1))

    obs = {path: stack([row.obs[path] for row in rows]) for path in rows[0].obs}
    rest = {name: stack([getattr(row, name) for row in rows]) for name in Rows._fields[1:]}
    return Batch(obs, **rest, valid=torch.ones(rest["reward"].shape, dtype=torch.bool))


def joined(parts: list[Batch]) -> Batch:
    """Sequences of the same length as one batch."""
    obs = {path: torch.cat([part.obs[path] for part in parts]) for path in parts[0].obs}
    return Batch(obs, *(torch.cat(fields) for fields in zip(*(part[1:] for part in parts), strict=True)))


def pad_episodes(episodes: Sequence[Batch], max_length: int) -> Batch:
    """Batches of one episode each, as one [B, T] batch of whole episodes from their reset.

    T is the length of the longest episode, at most `max_length`; rows behind an episode's end are not valid.
    """
    longest = min(max_length, max(e.is_first.shape[1] for e in episodes))

    def join(parts: Sequence[Tensor]) -> Tensor:
        out = parts[0].new_zeros(len(parts), longest, *parts[0].shape[2:])
        for row, part in zip(out, parts, strict=True):
            n = min(longest, part.shape[1])
            row[:n] = part[0, :n]
        return out

    obs = {path: join([e.obs[path] for e in episodes]) for path in episodes[0].obs}
    rest = {name: join([getattr(e, name) for e in episodes]) for name in Batch._fields[1:]}
    return Batch(obs, **rest)


def pad_rows(x: Shaped[Tensor, "B t *rest"], length: int) -> Shaped[Tensor, "B T *rest"]:
    """[B, t, ...] -> [B, T, ...], padded with zeros (or False) at the end."""
    out = x.new_zeros(len(x), length, *x.shape[2:])
    out[:, : x.shape[1]] = x
    return out


def in_precision(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with all real numbers in a model's precision; whole numbers stay as they are."""
    obs = {path: x.to(dtype) if x.is_floating_point() else x for path, x in batch.obs.items()}
    return batch._replace(obs=obs, prev_action=batch.prev_action.to(dtype), reward=batch.reward.to(dtype))


def with_last_rows_marked(episodes: Batch) -> Batch:
    """Episodes with `is_last` at their last valid row, also if they were cut there.

    A smoothing posterior then reads none of the padding.
    """
    following = torch.cat([episodes.valid[:, 1:], torch.zeros_like(episodes.valid[:, :1])], 1)
    return episodes._replace(is_last=episodes.valid & ~following)


def require_whole_episodes(batch: Batch) -> None:
    """Raise ValueError unless each sequence is one whole episode from its reset, padded at the end.

    Only such a sequence has an evidence of its own.
    """
    if not batch.is_first[:, 0].all() or (batch.is_first & batch.valid)[:, 1:].any():
        raise ValueError("batch.is_first: expected one episode a sequence, with its reset at row 0 and nowhere else")
    _require_padding_at_the_end(batch)


def require_continued_episodes(batch: Batch) -> None:
    """Raise ValueError unless each sequence is the rest of one episode behind its reset, padded at the end.

    It has an evidence given the state that the rows before it have left.
    """
    if (batch.is_first & batch.valid).any():
        raise ValueError("batch.is_first: expected the rest of one episode a sequence, without a reset")
    _require_padding_at_the_end(batch)


def _require_padding_at_the_end(batch: Batch) -> None:
    valid = batch.valid
    if not valid[:, 0].all() or (valid[:, 1:] & ~valid[:, :-1]).any():
        raise ValueError("batch.valid: expected rows that count from row 0 on, and padding behind them alone")


def require_rows_of(spec: EnvSpec, batch: Batch) -> None:
    """Raise ValueError unless a batch's rows have the leaves and the actions of a spec, by name, shape and kind."""
    expected = {path: leaf.shape for path, leaf in spec.observations.items()}
    got = {path: tuple(x.shape[2:]) for path, x in batch.obs.items()}
    if got != expected:
        raise ValueError(f"batch.obs: expected leaves [B, T, ...] of the shapes {expected}, got {got}")
    for path, leaf in spec.observations.items():
        if batch.obs[path].is_floating_point() != (leaf.kind == "vector"):
            found = batch.obs[path].dtype
            raise ValueError(f"batch.obs: expected {path!r} as rows store it, {leaf.kind} of {leaf.dtype}, got {found}")
    if batch.prev_action.shape[2:] != (spec.action.width,):
        shape = tuple(batch.prev_action.shape)
        raise ValueError(f"batch.prev_action: expected [B, T, {spec.action.width}], got {shape}")
