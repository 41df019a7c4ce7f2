"""MiniGrid's view as classes, which have a probability mass: an object and a colour for every cell."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class GridClasses(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """The view of a MiniGrid environment as one class for the object and one for the colour of each cell.

    First the objects of all cells, then the colours, row by row. Whether doors are open, the direction and the mission
    are left out.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        """Args:
        env: whose observations are MiniGrid's own, a Dict with an `image` of (object, colour, state) a cell.
        Raises:
            ValueError: if they are not.
        """
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX  # an extra

        space = env.observation_space
        image = space.spaces.get("image") if isinstance(space, spaces.Dict) else None
        if image is None or image.shape is None or len(image.shape) != 3 or image.shape[2] != 3:
            raise ValueError(f"env: expected a Dict with an image of 3 numbers a cell, got {space}")
        cells = image.shape[0] * image.shape[1]
        self.observation_space = spaces.MultiDiscrete([len(OBJECT_TO_IDX)] * cells + [len(COLOR_TO_IDX)] * cells)

    def observation(self, observation: Any) -> np.ndarray:
        """The classes of one view."""
        cells = observation["image"].reshape(-1, 3)
        return np.concatenate([cells[:, 0], cells[:, 1]]).astype(np.int64)
