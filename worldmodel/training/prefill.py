"""What a model is told of the rows of the prefill, before its first update."""

from worldmodel.data.replay import Replay
from worldmodel.models.decoder import MOST_REWARDS
from worldmodel.models.world_model import WorldModel


def fit_to_prefill(replay: Replay, model: WorldModel) -> None:
    """Set the standardisers from the replay's mean and std, and the reward values of a categorical head.

    Raises:
        ValueError: if there are too many different rewards for a categorical one.
    """
    for name, (mean, std) in replay.statistics().items():
        model.standardise(name, mean.float(), std.float())
    atoms = model.decoder.atoms
    if atoms is None:
        return
    values = replay.distinct_rewards(MOST_REWARDS)
    if values is None:
        expected = f"gaussian, symlog or twohot where there are more than {MOST_REWARDS} different rewards"
        raise ValueError(f"decoder.reward: expected {expected}, as in {replay.folder}; got 'categorical'")
    atoms.start_at(values.to(model.device))
