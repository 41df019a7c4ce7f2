"""What holds for every environment that states its law."""

import numpy as np
import pytest

from worldmodel_envs.hidden_markov import HiddenMarkov
from worldmodel_envs.linear_gaussian import LinearGaussian


@pytest.mark.parametrize("make", [HiddenMarkov, LinearGaussian])
def test_changing_the_law_changes_nothing_in_the_environment(make):
    env = make()
    transition = env.law["transition"].copy()
    env.law["transition"][:] = 0
    np.testing.assert_array_equal(env.law["transition"], transition)
    assert transition.any()
