"""The script that measures growth: its counts, its fits, the rows it writes; and the page has what it measures."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from worldmodel.data.offline import episode_rows
from worldmodel.data.replay import Replay

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "performance.md").read_text()
ROWS = 450  # two whole episodes and a part of a third


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("growth")


def test_a_power_is_found_over_all_points_and_at_the_end(growth):
    points = [growth.Point(str(x), x, 3 * x**1.5, 7.0) for x in (2.0, 8.0, 128.0)]
    assert growth.slopes(points, lambda p: p.ms) == pytest.approx((1.5, 1.5))
    assert growth.slopes(points, lambda p: p.bytes) == pytest.approx((0.0, 0.0))
    bent = [*points, growth.Point("256", 256.0, 3 * 128**1.5, 7.0)]  # the last doubling costs nothing
    overall, last = growth.slopes(bent, lambda p: p.ms)
    assert last == pytest.approx(0.0) and 1 < overall < 1.5


def test_saved_bytes_are_those_of_every_storage_once_without_parameters(growth):
    linear, x = torch.nn.Linear(3, 5), torch.randn(7, 3).requires_grad_()

    def update():
        hidden = linear(x)  # saves x, and the weight as a parameter
        (hidden.exp() * hidden[:2].exp().sum()).sum().backward()  # both exponentials, and a sum of 4 bytes

    assert growth.saved_bytes(update, linear) == 4 * (7 * 3 + 7 * 5 + 2 * 5 + 1)


def test_rows_are_written_as_the_replay_appends_them(growth, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "PIECE", 130)
    size = growth.write_rows(tmp_path / "written", ROWS)
    with Replay.open(tmp_path / "written") as written:
        assert len(written) == ROWS and not written.sealed
        assert [episode.episode_step.tolist() for episode in written.episodes()] == [[[*range(200)]]] * 2
        records = written._streams[0].read(0, ROWS)
        batch = written._batch(
            {name: records[name][None].copy() for name in written._columns}, records["is_first"][None]
        )
        with Replay(tmp_path / "appended", written.spec, capacity=ROWS, streams=1) as appended:
            for rows in episode_rows(batch):
                appended.append(rows)
    files = [tmp_path / name / "stream-000.rows" for name in ("written", "appended")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert size == files[1].stat().st_size == ROWS * records.dtype.itemsize


def test_each_size_is_varied_alone_from_the_base(growth):
    for name, (settings, _, _, values) in growth.SIZES.items():
        varied = settings(values[0]).keys()
        assert values == sorted(values)
        if name != "image side":
            assert any(settings(n).items() <= growth.BASE.items() for n in values), name
            assert varied <= growth.BASE.keys()
    base, batch = growth.job({})
    wider, _ = growth.job({"rssm.deter": 64})
    assert (base.model.dynamics.deter, wider.model.dynamics.deter) == (256, 64)
    assert batch.reward.shape == (16, 32) and set(batch.obs) == {"obs"}
    assert growth.job({"image": 16})[1].obs["image"].shape == (16, 32, 16, 16, 3)


def test_a_quick_run_measures_every_kind(growth, monkeypatch, capsys):
    small = {"replay.batch_size": 2, "replay.sequence_length": 3, "rssm.deter": 8}
    sizes = {name: (*rest, values) for name, (*rest, values) in growth.SIZES.items()}
    monkeypatch.setattr(growth, "SIZES", {name: sizes[name] for name in ("batch", "latent width")})
    monkeypatch.setattr(growth, "BASE", growth.BASE | small)
    monkeypatch.setattr(growth, "QUICK_ROWS", [100, 300])
    monkeypatch.setattr(growth, "TURNS", 1)
    monkeypatch.setattr(growth, "DRAWS", 1)
    monkeypatch.setattr("sys.argv", ["growth.py", "--quick"])
    drawn = []
    slopes = growth.slopes_table
    monkeypatch.setattr(
        growth, "slopes_table", lambda *measured: drawn.append(growth.figure(*measured)) or slopes(*measured)
    )
    assert growth.main() == 0
    out = capsys.readouterr().out
    costs = {
        shown: float(ms) for shown, ms in re.findall(r"^\| ([\w ,]+) \| ([\d.]+) \| [\d.]+ \|$", out, re.MULTILINE)
    }
    assert costs.keys() == {
        "batch 4",
        "batch 8",
        "latent width 4 x 4 classes",
        "latent width 8 x 8 classes",
        "100",
        "300",
    }
    assert min(costs.values()) > 0
    assert [axis.get_xscale() for axis in drawn[0].axes] == ["log"] * 3


def test_the_page_has_every_size_that_the_script_varies(growth):
    block = re.search(r"<!-- growth: begin.*?<!-- growth: end -->", PAGE, re.DOTALL)[0]
    for name, (_, shown, _, values) in growth.SIZES.items():
        for n in values:
            assert f"| {name} {shown.format(n=n)} |" in block
    for rows in growth.ROWS:
        assert f"| {rows:,} |" in block
