"""`worldmodel report` and `worldmodel compare`: what they write, say and refuse."""

import re

import pytest

from run_folder import Page, add_everything, write_run
from worldmodel.cli import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_report_writes_one_page_into_the_runs_folder(here, capsys):
    add_everything(write_run(here / "run", loss={"beta": 0.1}))
    main(["report", "run"])
    page = Page((here / "run" / "report.html").read_text(encoding="utf-8"))
    assert page.table("setting that differs from its default")["loss.beta"] == ["0.1", "1.0"]
    assert capsys.readouterr().out == "report      run/report.html\n"


def test_report_goes_where_it_is_told_and_says_what_it_could_not_read(here, capsys):
    with (write_run(here / "run") / "metrics.jsonl").open("a") as metrics:
        metrics.write("{")
    main(["report", "run", "--output", "page.html"])
    assert (here / "page.html").is_file() and not (here / "run" / "report.html").exists()
    assert "the last line is damaged" in capsys.readouterr().out


def test_compare_prints_a_table_and_writes_a_page(here, capsys):
    write_run(here / "one")
    write_run(here / "two", evaluation={"seed": 1})
    main(["compare", "one", "two"])
    said = capsys.readouterr().out
    numbers = {name: cells for name, *cells in (re.split(r"\s{2,}", line.strip()) for line in said.splitlines())}
    assert numbers["best ELBO"] == ["1.125", "1.125"]
    assert "not scored on the same held-out episodes" in said
    assert Page((here / "compare.html").read_text(encoding="utf-8")).table("run")["two"][1] == "1.125"


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize(
    ("folder", "named"),
    [
        ("nowhere", "nowhere: expected a run's folder, there is no such folder"),
        ("empty", "empty: expected a run's folder"),
        ("young", "young: expected metrics, found no row in metrics.jsonl"),
    ],
)
def test_a_folder_that_is_no_run_ends_with_status_2_and_a_sentence(command, folder, named, here, capsys):
    (here / "empty").mkdir()
    write_run(here / "young", [])
    write_run(here / "good")
    with pytest.raises(SystemExit) as end:
        main([command, *(["good"] if command == "compare" else []), folder])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert named in said and "Traceback" not in said
    assert not list(here.glob("*.html")) and not list(here.glob("*/*.html"))


def test_compare_without_a_run_ends_with_status_2(here, capsys):
    with pytest.raises(SystemExit) as end:
        main(["compare"])
    assert end.value.code == 2
    assert "runs" in capsys.readouterr().err
