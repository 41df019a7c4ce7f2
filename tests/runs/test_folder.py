import json

import pytest

from worldmodel.objectives.elbo import explained
from worldmodel.runs.folder import locked, note_session
from worldmodel.training.processes import Processes
from worlds import MIXED_SPEC, make_model

NO_START = '{"wandb_id": "a", "sessions": []}'


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"sessions": []}', NO_START, "[" * 100_000],
    ids=["", "{", "[]", "no id", "none", "deep"],
)
def test_a_damaged_note_of_the_starts_is_named(tmp_path, content):
    (tmp_path / "versions.json").write_text(content)
    with pytest.raises(ValueError, match=r"versions.json: expected the run's starts .*restore it, or remove it"):
        note_session(tmp_path, 0, "cpu", {})


def test_of_several_processes_the_first_alone_takes_the_lock(tmp_path):
    first, second = (Processes(rank, 2) for rank in range(2))
    with locked(tmp_path, second):
        assert list(tmp_path.iterdir()) == []
    with locked(tmp_path, first), locked(tmp_path, second):  # the second does not ask for what the first has
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_the_bound_explains_is_noted_at_every_start(tmp_path):
    model = make_model(MIXED_SPEC, reward="categorical")
    note_session(tmp_path, 0, "cpu", {})
    note_session(tmp_path, 5, "cpu", explained(model.likelihoods()))
    explains = json.loads((tmp_path / "versions.json").read_text())["explains"]
    assert {name: term["measure"] for name, term in explains.items()} == {
        "camera": "mass",
        "cards": "mass",
        "joints/angle": "density",
        "lamps": "mass",
        "reward": "mixed",
        "continue": "mass",
    }
    assert all(term["exact"] is True for term in explains.values())
