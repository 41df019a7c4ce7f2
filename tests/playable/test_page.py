"""The page as text: one file that holds everything, asks for nothing, and believes no name."""

import json
import re

import pytest

from playable_cases import page_of, rows_of, subject_of
from run_folder import Page
from worldmodel.playable.page import as_script, playable_page
from worlds import MIXED_SPEC, make_model

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x00\u2028 & more"


def data_of(html: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_it_is_one_file_without_an_address():
    html = page_of(make_model(MIXED_SPEC)).html
    assert not re.findall(r"https?://|//[a-z]+\.[a-z]|\bimport\b\s*[({'\"]|\beval\b|innerHTML|document\.write", html)
    assert "default-src 'none'" in html and "connect-src" not in html
    found = Page(html)
    assert found.sections == ["act", "watch", "reading", "about"]
    assert [a["href"] for a in found.all("a")] == [f"#{anchor}" for anchor in found.sections]
    assert found.all("link") == found.all("iframe") == found.all("img") == []
    assert all("src" not in script for script in found.all("script"))


def test_no_two_elements_have_the_same_name():
    found = Page(page_of(make_model()).html)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len({*ids})


def test_names_of_a_stranger_are_text():
    spec = MIXED_SPEC.__class__({HOSTILE: MIXED_SPEC.observations["joints/angle"]}, MIXED_SPEC.action)
    html = page_of(make_model(spec), env_id=HOSTILE, name=HOSTILE).html
    assert "<script>alert" not in html and "<img" not in html and "\x00" not in html
    assert data_of(html)["leaves"][0]["names"][0] == HOSTILE.replace("\x00", r"\x00") + "[0]"
    assert html.count("<script") == html.count("</script>") == 6  # the data, and five scripts


def test_json_in_a_script_is_the_same_json_without_what_html_reads():
    content = {"a<b": ["</script>", "<!--", "&amp;", "\u2028", "\ud800"]}
    text = as_script(content)
    assert not set("<>&\u2028") & set(text) and json.loads(text) == content
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_script([float("nan")])


def test_numbers_of_a_record_that_are_none_are_null():
    model = make_model()
    episodes = rows_of(model)
    episodes.reward[0, 3] = float("inf")
    html = playable_page(model, episodes, subject_of(model), seed=0).html
    assert data_of(html)["recordings"][0]["reward"][3] is None


def test_weights_are_halved_where_the_page_would_be_too_large():
    model = make_model()
    whole = page_of(model)
    assert whole.precision == "float32" and "float32" in whole.html
    assert page_of(model, limit=len(whole.html.encode())).html == whole.html  # the same seed, the same page
    half = page_of(model, limit=len(whole.html.encode()) - 1)
    assert half.precision == "float16" and len(half.html) < len(whole.html) and half.weights == whole.weights
    assert data_of(half.html)["stores"]["weights"][0] == "float16"
    assert data_of(half.html)["stores"]["numbers"] == data_of(whole.html)["stores"]["numbers"]


def test_a_short_episode_is_checked_over_twenty_steps_too():
    model = make_model()
    html = playable_page(model, rows_of(model, 2, 3), subject_of(model), seed=0).html
    assert data_of(html)["check"]["action"][2:] == [20, 2]
