import pytest

from worldmodel.runs.folder import note_session


@pytest.mark.parametrize("content", ["", "{", "[]", '{"sessions": []}'])
def test_a_damaged_note_of_the_starts_is_named(tmp_path, content):
    (tmp_path / "versions.json").write_text(content)
    with pytest.raises(ValueError, match=r"versions.json: expected the run's starts .*restore it, or remove it"):
        note_session(tmp_path, 0, "cpu")
