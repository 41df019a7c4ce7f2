"""What is hidden is gone, the rest stays in order, and mistakes name what there is."""

import numpy as np
import pytest

from worldmodel.data.environment import make_environments
from worldmodel.data.hiding import keep, kept_entries, specs_of_kept
from worldmodel.types import ObservationSpec

SPECS = {
    "camera": ObservationSpec("image", (16, 16, 3)),
    "joints/angle": ObservationSpec("vector", (3,)),
    "joints/speed": ObservationSpec("vector", (2,)),
}


def test_what_is_not_hidden_stays_in_order():
    kept = kept_entries(SPECS, {"joints/angle": [1], "joints/speed": [0, 0]})
    specs = specs_of_kept(SPECS, kept)
    assert {path: spec.shape for path, spec in specs.items()} == {
        "camera": (16, 16, 3),
        "joints/angle": (2,),
        "joints/speed": (1,),
    }
    obs = {"camera": np.ones((16, 16, 3)), "joints/angle": np.array([5, 6, 7]), "joints/speed": np.array([8, 9])}
    left = keep(obs, kept)
    assert left["camera"] is obs["camera"]
    assert (left["joints/angle"].tolist(), left["joints/speed"].tolist()) == ([5, 7], [9])


def test_what_is_kept_of_whole_numbers_and_classes_keeps_its_bounds():
    specs = {
        "counters": ObservationSpec("integer", (3,), low=(0, -5, 2), high=(300, 300, 4)),
        "cards": ObservationSpec("categorical", (3,), (2, 3, 4)),
    }
    assert specs_of_kept(specs, kept_entries(specs, {"counters": [0], "cards": [1]})) == {
        "counters": ObservationSpec("integer", (2,), low=(-5, 2), high=(300, 4)),
        "cards": ObservationSpec("categorical", (2,), (2, 4)),
    }


@pytest.mark.parametrize(
    ("hide", "words"),
    [
        ({"joints": [0]}, r"joints/angle \[3\], joints/speed \[2\]; got 'joints'"),
        ({"camera": [0]}, r"joints/angle \[3\], joints/speed \[2\]; got 'camera'"),
        ({"joints/speed": [1, 2]}, r"from 0 to 1 for 'joints/speed', got \[2\]"),
        ({"joints/speed": [0, 1]}, r"at least one of the 2 entries of 'joints/speed' to stay, got \[0, 1\]"),
    ],
)
def test_what_is_not_there_cannot_be_hidden(hide, words):
    with pytest.raises(ValueError, match=rf"^env\.hide: expected .*{words}$"):
        kept_entries(SPECS, hide)


def test_an_environment_without_some_entries_goes_on_as_before():
    push = np.float32([[0, 1]])
    with (
        make_environments("CartPole-v1", count=1, hide={"obs": [1, 3]}) as blind,
        make_environments("CartPole-v1", count=1) as seeing,
    ):
        assert blind.spec.observations == {"obs": ObservationSpec("vector", (2,))}
        assert blind.spec.action == seeing.spec.action
        pairs = [(blind.reset(7), seeing.reset(7))]
        pairs += [(blind.step(push)[0], seeing.step(push)[0]) for _ in range(5)]
    for part, whole in pairs:
        np.testing.assert_array_equal(part["obs"], whole["obs"][:, [0, 2]])


def test_a_path_that_is_not_there_is_refused_before_a_worker_starts():
    with pytest.raises(ValueError, match=r"^env\.hide: .* obs \[4\]; got 'speed'$"):
        make_environments("CartPole-v1", count=1, asynchronous=True, hide={"speed": [0]})
