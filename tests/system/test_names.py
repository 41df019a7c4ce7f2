import pytest
from matplotlib.figure import Figure

from worldmodel.report.figures import render
from worldmodel.system.names import LONGEST_FILE, LONGEST_LABEL, file_name, label, tracked_name, visible

ODD = [
    "cost in $",
    "$x_1$",
    r"\$",
    "a\0b",
    "x" * 300,
    "\u00e9" * 300,
    "a/b//c",
    "..",
    "",
    "a\nb",
    "\ud800",
    '<a:"b">*?|\\',
    "%",
]


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_every_name_can_be_drawn_and_be_a_file(name, tmp_path):
    figure = Figure(figsize=(4, 3), layout="constrained")
    axis = figure.subplots()
    axis.set_title(f"{label(name)}[0]")
    axis.set_ylabel(label(name))
    render(figure)  # a formula that is none is an error, a letter without a glyph a warning
    for stem in (file_name(name), *tracked_name(name).split("/")):
        path = tmp_path / f"reconstruction_{stem}.png.partial"
        path.write_text("")
        assert list(tmp_path.iterdir()) == [path]
        assert len(stem.encode()) <= LONGEST_FILE
        path.unlink()


def test_usual_names_stay_as_they_are():
    for name in ("obs", "joints/angle", "kl/by_position", "camera 2", "\u03b8"):
        assert label(name) == visible(name) == tracked_name(name) == name
        assert file_name(name) == name.replace("/", "_")


def test_names_that_differ_are_files_that_differ():
    stems = [file_name(name) for name in ODD]
    assert len(set(stems)) == len(ODD)
    assert file_name("x" * 300) != file_name("x" * 150 + "y" + "x" * 149)
    assert file_name("a/b", ["a_b"]) == "a_b_2"


def test_labels_show_what_is_in_the_name():
    assert label("cost in $") == r"cost in \$"
    assert label("a\0b\n") == r"a\x00b\n"
    assert len(label("x" * 300)) == LONGEST_LABEL + 1
