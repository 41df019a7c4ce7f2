"""The article on the bound, in both languages, is what its script writes: its figures, its numbers, its snippets."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.elbo_tour import SECTIONS
from scripts.tour.chinese import PHRASES, chinese
from scripts.tour.page import table
from worldmodel.evidence.estimate import Certificate, Estimate
from worldmodel.report.tables import doubts

ROOT = Path(__file__).parents[1]
ARTICLES = {name: (ROOT / "docs" / name).read_text() for name in ("elbo.md", "elbo.zh.md")}
ENGLISH, CHINESE = ARTICLES.values()
BLOCK = re.compile(r"<!-- numbers: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
# What --quick does not make smaller.
EXACT = ("two_kls", "coordinate_ascent", "mixture", "factor_analysis", "hmm", "linear_gaussian", "identity")
LARGEST = 60_000  # bytes of a figure


def blocks(article):
    return dict(BLOCK.findall(article))


def figures(article):
    return re.findall(r"!\[[^\]]*\]\((elbo/\w+\.png)\)", article)


def fenced(article, language):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", article, re.MULTILINE | re.DOTALL)
    return [text for kind, text in blocks if kind == language]


def snippets(article):
    return fenced(article, "python")


def rows(article):
    """The cells of all tables of numbers, row by row; headers too, rules not."""
    lines = "".join(blocks(article).values()).splitlines()
    return [re.fullmatch(r"\| (.*) \| (.*) \|", line).groups() for line in lines if "---:" not in line]


@pytest.mark.parametrize("section", EXACT)
def test_what_is_exact_is_what_the_articles_say(section):
    numbers = table(SECTIONS[section](True, torch.Generator().manual_seed(0)).numbers)
    assert numbers.strip() == blocks(ENGLISH)[section].strip()


@pytest.mark.slow
def test_the_quick_tour_writes_every_figure_and_number_of_the_articles(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "elbo_tour.py"), "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    articles = {name: (tmp_path / name).read_text() for name in ARTICLES}
    for name, article in articles.items():
        written = blocks(article)
        assert written.keys() == blocks(ARTICLES[name]).keys()
        assert {path.stem for path in (tmp_path / "elbo").iterdir()} == written.keys()
        assert "nan" not in "".join(written.values())
        for section in EXACT:
            assert written[section] == blocks(ARTICLES[name])[section], (name, section)
        assert BLOCK.sub("", article) == BLOCK.sub("", ARTICLES[name])
    assert rows(articles["elbo.zh.md"]) == [tuple(map(chinese, row)) for row in rows(articles["elbo.md"])]


@pytest.mark.parametrize("article", ARTICLES.values(), ids=ARTICLES)
def test_the_article_has_its_numbers_and_small_figures(article):
    assert [Path(figure).stem for figure in figures(article)] == list(blocks(article))
    for figure in figures(article):
        assert (ROOT / "docs" / figure).stat().st_size < LARGEST, figure
    for name, numbers in blocks(article).items():
        assert len(numbers.splitlines()) > 4, name
    assert "ever fell | yes" not in article and "下降过 | 是" not in article


def test_the_snippets_of_the_article_run_in_order(capsys):
    names: dict = {}
    for snippet in snippets(ENGLISH):
        exec(snippet, names)
    assert "Estimate(mean=" in capsys.readouterr().out


def test_both_articles_have_the_same_parts_in_the_same_order():
    part = re.compile(r"^(?:(#+) .*|!\[.*\]\((.*)\)|```(python)?$|<!-- (numbers: \w+) -->)", re.MULTILINE)
    assert part.findall(CHINESE) == part.findall(ENGLISH)
    assert [ast.dump(ast.parse(x)) for x in snippets(CHINESE)] == [ast.dump(ast.parse(x)) for x in snippets(ENGLISH)]
    assert "(elbo.zh.md)" in ENGLISH.splitlines()[2] and "(elbo.md)" in CHINESE.splitlines()[2]


def test_both_articles_have_the_same_formulas():
    def symbols(article):
        return [re.sub(r"[^=≤≥←∫ΣΠ~|+−½√²/()\[\]]", "", formula) for formula in fenced(article, "")]

    assert len(fenced(ENGLISH, "")) > 10
    assert symbols(CHINESE) == symbols(ENGLISH)


def test_both_articles_have_the_same_numbers():
    assert rows(CHINESE) == [tuple(map(chinese, row)) for row in rows(ENGLISH)]
    for theirs, ours in zip(rows(CHINESE), rows(ENGLISH), strict=True):
        assert re.findall(r"[−\d.e]*\d", "|".join(theirs)) == re.findall(r"[−\d.e]*\d", "|".join(ours))


def test_chinese_cells_keep_their_numbers():
    assert (
        chinese("SMC, 64 particles: variance of log p̂ at 256 rows, nats²")
        == "SMC，64 个粒子：256 步时 log p̂ 的方差，nat²"
    )
    assert chinese("8 rows: forward − all 390,625 paths") == "8 步：前向算法 − 枚举全部 390,625 条路径"
    assert chinese("less than 1e-9") == "小于 1e-9"
    assert chinese("−0.17 ± 0.04") == "−0.17 ± 0.04"
    with pytest.raises(ValueError, match=r"log p of \{\} rows"):
        chinese("log p of 3 rows")


def test_every_phrase_has_a_place_for_each_of_its_numbers():
    assert [english for english, words in PHRASES.items() if english.count("{}") != words.count("{}")] == []


def test_every_doubt_about_the_gap_has_its_chinese():
    certificate = Certificate(Estimate(-0.25, 0.01), Estimate(-0.125, float("nan")), 0.1234)
    words = chinese("; ".join(doubts(certificate)))
    assert len(doubts(certificate)) == 3
    assert "12.3%" in words and "-0.12 ± nan nat/步" in words and "SMC 比 ELBO 低 0.25 nat/步" in words
    assert not re.search(r"[a-z]{4,}", words)
