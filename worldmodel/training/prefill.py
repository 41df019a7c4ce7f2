"""What a model is told of the rows of the prefill, before its first update."""

import torch
from torch import Tensor

from worldmodel.data.replay import Replay
from worldmodel.models.decoder import MOST_REWARDS
from worldmodel.models.world_model import WorldModel
from worldmodel.training.processes import ALONE, Processes


def fit_to_prefill(replay: Replay, model: WorldModel, processes: Processes = ALONE) -> None:
    """Set the standardisers from the mean and std of all processes' rows, and the reward values of a categorical head.

    Raises:
        ValueError: if there are too many different rewards for a categorical one.
    """
    for name, (mean, std) in replay.statistics(processes.met if processes.world > 1 else None).items():
        model.standardise(name, mean.float(), std.float())
    atoms = model.decoder.atoms
    if atoms is None:
        return
    values = _of_all(replay.distinct_rewards(MOST_REWARDS), processes)
    if len(values) > MOST_REWARDS:
        expected = f"gaussian, symlog or twohot where there are more than {MOST_REWARDS} different rewards"
        raise ValueError(f"decoder.reward: expected {expected}, as in {replay.folder}; got 'categorical'")
    atoms.start_at(values.to(model.device))


def _of_all(values: Tensor | None, processes: Processes) -> Tensor:
    """The different values that some process has, in rising order; too many of them if one process had too many."""
    own = torch.arange(MOST_REWARDS + 1.0) if values is None else values
    return torch.cat([one["values"] for one in processes.exchange_tensors({"values": own})]).unique()
