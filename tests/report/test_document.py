"""Pages made of blocks: what is escaped, and what a table, a picture and a list of sections are."""

import base64

from run_folder import Page
from worldmodel.report.document import Chart, Fold, Panels, Points, Section, TableBlock, Text, document, picture
from worldmodel.report.tables import Table
from worldmodel.report.vocabulary import RUNS, LineStyle, Wording

EVIL = '<i title="x">&amp;\0</i>'
SHOWN = EVIL.replace("\0", "\\x00")


def page(*blocks, title="title"):
    about = {"sources": ["here"], "count": 1, "doubts": []}
    return document("comparison.html", title, [Section("one", "One", blocks), Section("two", "Two", ())], **about)


def test_text_of_every_block_is_escaped_and_its_control_characters_are_shown():
    chart = Chart(EVIL, EVIL, EVIL, source=EVIL)
    blocks = (
        *(
            Text(EVIL, EVIL, EVIL, EVIL),
            Points([EVIL]),
            TableBlock(Table([EVIL], [[EVIL, EVIL]]), EVIL, [LineStyle(EVIL, EVIL)]),
        ),
        *(chart, Panels([chart], [LineStyle(EVIL, EVIL)], EVIL), Fold(EVIL, EVIL), Fold(EVIL, Table([EVIL], [[EVIL]]))),
    )
    read = Page(page(*blocks, title=EVIL))
    assert not read.all("i") and "\0" not in read.text
    assert read.text.count(SHOWN) == 20
    (first, second) = read.all("img")
    assert first == second == {"src": SHOWN, "alt": SHOWN}


def test_a_section_without_blocks_is_left_out_of_the_page_and_of_its_contents():
    read = Page(page(Text("words")))
    assert read.sections == ["one"]
    assert [a["href"] for a in read.all("a")] == ["#one"]


def test_a_table_names_its_rows_and_columns_and_keeps_numbers_on_one_line():
    text = page(TableBlock(Table(("", "a"), [("row", "1"), ("long", "word " * 9)]), shares=[0.25]))
    assert '<th scope="col">a</th>' in text
    assert '<th scope="row">row</th><td>1</td>' in text
    assert '<td><span class="words">word word' in text
    assert text.count('style="width: 25.0%"') == 1


def test_a_picture_carries_its_bytes():
    shown = picture(Wording("Film", "", "", "a <film>"), "folder/film.gif", b"GIF89a")
    text = page(shown)
    assert f'<img src="data:image/gif;base64,{base64.b64encode(b"GIF89a").decode()}" alt="a &lt;film&gt;">' in text


def test_the_style_sheet_has_a_light_and_a_dark_value_of_every_colour_of_a_curve():
    light, _, dark = page(Text("words")).partition("prefers-color-scheme: dark")
    for colour in RUNS:
        (line,) = [line for line in light.splitlines() if colour in line]
        name = line.split(colour)[0].split("--")[-1]
        assert f"--{name}" in dark and f"--{name}{colour}" not in dark
