"""What is said while something goes on: often enough, in lines that fit, and nothing when it is over."""

import io
import itertools
import threading
import time

import pytest
from rich.console import Console

from worldmodel.training import progress
from worldmodel.training.progress import RunProgress, Watch


class Clock:
    """Stands still until it is told to go on."""

    now = 100.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


def made(kind, *arguments, terminal=False, width=80, **options):
    """A progress that writes to memory: -> it, its clock, and what it wrote so far, line by line."""
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    return kind(*arguments, console, clock=clock, **options), clock, lambda: file.getvalue().splitlines()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "worldmodel progress"]


def test_the_innermost_phase_is_told_of_when_nothing_else_was_said_for_long():
    watch, clock, lines = made(Watch)
    with watch.phase("collecting"):
        watch.beat()
        clock.pass_by(8.9)
        watch.beat()
        assert lines() == []
        clock.pass_by(0.2)
        watch.beat()
        watch.beat()
        assert lines() == ["collecting, 9 s"]
        watch.at("3 of 16")
        clock.pass_by(5)
        watch.log("a message")
        clock.pass_by(8)
        watch.beat()
        with watch.phase("saving"):
            clock.pass_by(2)
            watch.beat()
        clock.pass_by(100)
        watch.beat()
    assert lines() == ["collecting, 9 s", "a message", "saving, 2 s", "collecting: 3 of 16, 2 min"]


def test_a_thread_says_it_by_itself_and_ends_with_the_outermost_phase_also_after_an_error(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    file = io.StringIO()
    watch = Watch(Console(file=file, width=80))
    with pytest.raises(RuntimeError), watch.phase("outer"), watch.phase("inner"):
        assert len(threads()) == 1 and threads()[0].daemon
        deadline = time.monotonic() + 20
        while "inner" not in file.getvalue():
            assert time.monotonic() < deadline, "nothing was said"
            time.sleep(0.002)
        raise RuntimeError
    assert threads() == []
    written = file.getvalue()
    time.sleep(0.05)
    assert file.getvalue() == written and "outer" not in written
    with watch.phase("again"):
        assert len(threads()) == 1


def test_the_line_of_training_has_counts_rate_elbo_kl_and_the_time_left():
    shown, clock, lines = made(RunProgress, 20000)
    with shown.training():
        shown.collected(2500)
        clock.pass_by(10)
        shown.beat()
        shown.collected(5000)
        shown.updated(1)
        clock.pass_by(100)
        shown.trained(10000, 500, -12.3456, 2.5)
        clock.pass_by(1)
        shown.collected(10001)
        shown.beat()
        with shown.phase("scoring the held-out episodes"):
            clock.pass_by(12)
            shown.beat()
        shown.trained(20000, 1500, 1.25, 0.5)
    assert lines() == [
        "prefill, 2500/20000 rows",
        "10001/20000 rows, update 500, 4.95/s, ELBO -12.35, KL 2.500, 3 min left",
        "scoring the held-out episodes, 12 s",
        "20000/20000 rows, update 1500, 13.3/s, ELBO 1.250, KL 0.500",
    ]


def test_a_run_from_stored_rows_counts_updates():
    shown, clock, lines = made(RunProgress, 300, unit="updates")
    with shown.training():
        assert shown.line() == "0/300 updates"
        shown.updated(1)
        clock.pass_by(10)
        shown.trained(150, 100, -1.0, 2.0)
        shown.beat()
    assert lines() == ["100/300 updates, 10.0/s, ELBO -1.000, KL 2.000, 20 s left"]


@pytest.mark.parametrize("elbo", [-0.5, -12345.678, -1e9, float("nan"), float("-inf")])
@pytest.mark.parametrize("total", [300, 99_999, 123_456, 50_000_000])
def test_a_line_is_never_wrapped_at_80_columns_in_a_terminal_or_not(elbo, total):
    for terminal, seconds in itertools.product((False, True), (1e-3, 1e5)):
        shown, clock, lines = made(RunProgress, total, terminal=terminal)
        with shown.training():
            shown.updated(1)
            clock.pass_by(seconds)
            shown.trained(total // 3, total // 2, elbo, abs(elbo))
            clock.pass_by(10)
            assert len(shown.line()) <= 73  # 7 are left for a spinner and the shortest bar
            assert shown.line().count(",") >= 4  # nothing was cut off
            if terminal:
                with shown:
                    shown.beat()
            shown.beat()
        assert lines() and all(len(line) < 80 for line in lines() if "\x1b" not in line)


def test_in_a_terminal_the_bar_says_it_and_before_and_after_it_lines_do(monkeypatch):
    shown, clock, lines = made(RunProgress, 400, terminal=True)
    with shown.phase("held-out episodes"):
        clock.pass_by(10)
        shown.beat()
    assert "held-out episodes, 10 s" in lines()
    with shown.training(), shown:
        shown.updated(1)
        shown.trained(100, 30, -1.5, 0.25)
        clock.pass_by(3)
        shown.beat()
        assert shown._bar.tasks[0].completed == 100
        assert "ELBO -1.500" in shown._bar.tasks[0].description
        with shown.phase("scoring"):
            shown.beat()
            assert shown._bar.tasks[0].description == "scoring, 0 s"
    assert any("ELBO" in line or "scoring" in line for line in lines())


def test_a_long_message_of_a_phase_is_cut():
    watch, clock, lines = made(Watch)
    with watch.phase("x" * 100):
        clock.pass_by(10)
        watch.beat()
    assert lines() == ["x" * 76 + "..."]
