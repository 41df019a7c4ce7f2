"""YAML as plain data: what is read, what is refused where, and that no file takes long or much memory."""

import time
from itertools import pairwise

import pytest

from worldmodel.system import plain_yaml

LEVELS = [f"{name}: &{name} [*{before}, *{before}]\n" for before, name in pairwise("abcdefghijklmnopqrst")]
MERGES = [line.replace("[", "{<<: [").replace("]", "]}") for line in LEVELS]
BOMBS = {
    "aliases of aliases": "a: &a [1, 1]\n" + "".join(LEVELS),
    "merges of merges": "a: &a {x: 1}\n" + "".join(MERGES),
    "lists in lists": "[" * 10_000,
    "mappings in mappings": "{a: " * 10_000,
    "blocks in blocks": "- " * 10_000,
    "more values than settings have": "a: [" + "1," * 20_000 + "]",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{a: '1', b: 'no', c: '007'}", {"a": "1", "b": "no", "c": "007"}),
        (
            "{a: 1, b: no, c: 1e-3, d: 0x1f, e: -.inf, f: ~}",
            {"a": 1, "b": False, "c": 1e-3, "d": 31, "e": -float("inf"), "f": None},
        ),
        ("{time: 12:30, date: 2020-01-01}", {"time": "12:30", "date": "2020-01-01"}),
        ("base: &b {x: 1, y: 2}\nmore: {<<: *b, x: 3}", {"base": {"x": 1, "y": 2}, "more": {"x": 3, "y": 2}}),
        ("", None),
    ],
)
def test_text_stays_text_and_numbers_are_numbers(text, value):
    assert plain_yaml.load(text) == value


@pytest.mark.parametrize(
    "text", ["1e5", "12:30", "no", "null", "2020-01-01", "a: b", "", "=", "<<", "007", ".5", "~", "\t", "é\n"]
)
def test_what_is_written_is_read_back_as_the_text_it_was(text):
    assert plain_yaml.load(plain_yaml.dump({text: [text]})) == {text: [text]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key a is there twice"),
        ("{yes: 1, true: 2}", "line 1: the key true is there twice"),
        ("a: !!python/object/apply:os.getpid []", "expected plain data, found the tag .*os.getpid"),
        ("a: !!binary aGk=", "expected plain data, found the tag"),
        ("a: &x [*x]", "line 1: expected plain data, found a value that contains itself"),
        ("a: *b", "undefined alias 'b'"),
        ("? [1, 2]\n: 3", "expected a key that is a word or a number"),
        ("a: \x00", "character 3: special characters are not allowed"),
        ("a: " + "9" * 5_000, "4300 digits"),
        ("--- 1\n--- 2", "expected a single document"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_place(text, words):
    with pytest.raises(ValueError, match=words):
        plain_yaml.load(text)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_ends_early_with_a_sentence(bomb):
    started = time.process_time()
    with pytest.raises(ValueError, match=r"^line \d+: expected at most \d+ ") as refusal:
        plain_yaml.load(bomb)
    assert time.process_time() - started < 30  # a bomb takes hours, or all the memory there is
    assert "\n" not in str(refusal.value)


def test_a_file_is_text_of_a_reasonable_size(tmp_path):
    path = tmp_path / "file.yaml"
    for content, words in (
        (b"a: \xff\xfe", "expected settings as YAML in UTF-8, got other bytes at 3"),
        (b"#" * 300_000, "expected settings as YAML, got a file of more than 256 KiB"),
        (b"- 1", "expected settings by name, got list"),
        (b"", "expected settings by name, got NoneType"),
        (b"a: [", "expected settings as YAML, got line 1: "),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path}: {words}"):
            plain_yaml.read_mapping(path)
    path.write_text("a: é", encoding="utf-8")
    assert plain_yaml.read_mapping(path) == {"a": "é"}
