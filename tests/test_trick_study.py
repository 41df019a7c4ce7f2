"""The figure of the tricks: a run on which SMC has not converged has no dot, but an arrow that says at most this."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module("trick_study")


def run(width, excess):
    ahead = {"5": {"mean": 0.5}}
    return {"elbo_gap": 4.0, "smc_excess": excess, "width": width, "ahead": ahead}


def drawn(axes, marker):
    return sorted(x for line in axes.lines if line.get_marker() == marker for x in line.get_xdata())


@pytest.mark.parametrize(("width", "expected"), [(0.99, False), (1.01, True), (-1.01, True)])
def test_a_sandwich_wider_than_a_quarter_of_the_gap_has_not_converged(study, width, expected):
    assert study.wide([run(width, 1.0)]) == expected


def test_upper_limits_are_hollow_arrows_and_have_no_mean(study):
    words = {"sound": "none", "narrow": "a narrow posterior"}
    by_trick = {"sound": [run(0.0, 0.01), run(0.0, 0.0)], "narrow": [run(0.0, 2.0), run(900.0, 3.0)]}
    (axes,) = study.figure(by_trick, words).axes
    assert drawn(axes, "o") == [0.001, 0.01, 0.5, 0.5, 0.5, 2.0, 4.0, 4.0, 4.0, 4.0]
    assert drawn(axes, "<") == [0.5, 3.0]
    assert {line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "<"} == {"none"}
    assert drawn(axes, "|") == [0.0055, 0.5, 4.0, 4.0]  # evidence and future of the first, both bounds
    assert "at most this: SMC has not converged" in [text.get_text() for text in axes.get_legend().get_texts()]
