"""The article on the bound is what its script writes: its figures, its numbers, its snippets."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARTICLE = (ROOT / "docs" / "elbo.md").read_text()
BLOCK = re.compile(r"<!-- numbers: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
# What --quick does not make smaller.
EXACT = ("two_kls", "coordinate_ascent", "mixture", "factor_analysis", "hmm", "linear_gaussian", "identity")
LARGEST = 60_000  # bytes of a figure


def blocks(article):
    return dict(BLOCK.findall(article))


def test_the_quick_tour_writes_every_figure_and_number_of_the_article(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "elbo_tour.py"), "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    written = blocks((tmp_path / "elbo.md").read_text())
    assert written.keys() == blocks(ARTICLE).keys()
    assert {path.stem for path in (tmp_path / "elbo").iterdir()} == written.keys()
    assert "nan" not in "".join(written.values())
    for name in EXACT:
        assert written[name] == blocks(ARTICLE)[name], name
    assert BLOCK.sub("", (tmp_path / "elbo.md").read_text()) == BLOCK.sub("", ARTICLE)


def test_the_article_has_its_numbers_and_small_figures():
    figures = re.findall(r"!\[[^\]]*\]\((elbo/\w+\.png)\)", ARTICLE)
    assert [Path(figure).stem for figure in figures] == list(blocks(ARTICLE))
    for figure in figures:
        assert (ROOT / "docs" / figure).stat().st_size < LARGEST, figure
    for name, numbers in blocks(ARTICLE).items():
        assert len(numbers.splitlines()) > 4, name
    assert "ever fell | yes" not in ARTICLE


def test_the_snippets_of_the_article_run_in_order(capsys):
    names: dict = {}
    for snippet in re.findall(r"```python\n(.*?)```", ARTICLE, re.DOTALL):
        exec(snippet, names)
    assert "Estimate(mean=" in capsys.readouterr().out
