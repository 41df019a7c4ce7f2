"""A run's folder written by hand, every number of it known, and a page read back."""

import dataclasses
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import yaml
from PIL import Image

from worldmodel.config import Config

VOID = {"img", "br", "meta", "link", "input"}
ROWS = (
    {"update": 50, "train/elbo": -4.0, "train/kl": 2.5, "train/obs": -1.5, "loss/value": 3.25, "env_steps": 6000.0},
    {"update": 50, "ledger/negative_elbo": 4.0, "ledger/beta": -0.75, "kl/mean": 2.5, "kl/median": 1.0, "kl/q95": 9.0},
    {"update": 50, "heldout/elbo": -3.5, "heldout/kl": 2.25, "heldout/obs": -1.25, "rate/updates_per_second": 5.0},
    {"update": 100, "train/elbo": 1.5, "train/kl": 0.625, "train/obs": 2.125, "loss/value": -1.7, "env_steps": 7000.0},
    {"update": 100, "ledger/negative_elbo": -1.5, "ledger/beta": -0.2, "kl/mean": 0.625, "kl/median": 0.375},
    {"update": 100, "heldout/elbo": 1.125, "heldout/kl": 0.875, "heldout/obs": 2.0, "rate/updates_per_second": 4.0},
    {"update": 100, "heldout_kl/mean": 0.875, "heldout_kl/share_under_1_nat": 0.375, "heldout_kl/active_units": 3.0},
    {"update": 100, "heldout_bits_per_dimension/pixels": 0.4375, "open_loop/obs/model": 0.0625},
)
LINES = {
    "kl_by_position": {"row of the sequence": [0.0, 1.0], "raw": [2.0, 0.5], "as optimised": [0.2, 0.05]},
    "kl_by_episode_step": {"steps since the reset": [0.0, 1.0, 2.0], "raw": [3.0, 0.5, None]},
    "kl_by_group": {"row of the sequence": [0.0, 1.0], "group 0": [2.0, 0.5], "group 1": [0.0, 0.0]},
    "kl_surprise": {
        **{"step of the episode": [0.0, 1.0], "KL, raw": [2.0, 0.5], "KL, as optimised": [0.2, 0.05]},
        "reward": [-1.0, -2.0],
    },
    "open_loop_obs": {
        "steps ahead": [1.0, 2.0],
        "model": [0.01, 0.115],
        "repeat last": [0.5, 0.9],
        "data mean": [1, 1],
    },
}
SCORES = {
    **{"context": 8, "horizon": 4, "samples": 16, "episodes": 5, "futures": 40},
    "scores": {
        "obs": {
            "crps": {
                "model": {"mean": [0.11, 0.12, 0.13, 0.14], "low": [0.1] * 4, "high": [0.2] * 4},
                "repeat_last": {"mean": [0.31, 0.32, 0.33, 0.34], "low": [0.3] * 4, "high": [0.4] * 4},
            },
            "coverage": {"model": {"mean": [0.86, 0.87, 0.88, 0.89], "low": [0.8] * 4, "high": [0.9] * 4}},
        }
    },
}
SESSIONS = {
    "sessions": [
        {
            **{"started": "2026-01-02T03:04:05", "update": 0, "platform": "Linux-6", "device": "cpu"},
            "versions": {"python": "3.11.7", "torch": "2.6.1"},
        },
        {"started": "2026-01-03T00:00:00", "update": 50, "device": "cuda", "versions": {"torch": "2.7.0"}},
    ]
}


def png(kind: str = "PNG") -> bytes:
    """The smallest picture."""
    buffer = io.BytesIO()
    Image.new("L", (2, 1)).save(buffer, kind)
    return buffer.getvalue()


def blank_figures(patch) -> None:
    """Save figures as empty pictures, for tests that look at none: drawing takes most of a command's time."""

    def save(figure, buffer, *, format, **options):
        buffer.write(png() if format == "png" else '<svg viewBox="0 0 2 1"></svg>')

    patch.setattr("matplotlib.figure.Figure.savefig", save)


def nothing_sharpened(patch) -> None:
    """Choose among the proposals that need no look at the rows, for tests that ask only what comes of an evidence."""
    patch.setattr("worldmodel.evaluation.proposals.can_sharpen", lambda model: False)


def write_run(folder: Path, rows=ROWS, config: dict | None = None, **sections) -> Path:
    """A folder with settings and metrics; the other parts come with `add_everything`.

    Args:
        folder: made here.
        rows: of metrics.jsonl.
        config: all settings, instead of `sections` over the defaults.
        sections: settings that differ from the defaults, such as loss={"beta": 0.1} or seed=3.
    """
    folder.mkdir(parents=True)
    settings = dataclasses.asdict(Config())
    # (6024 - 5000) * 100 / (16 * 64) = 100 updates, where ROWS end
    settings["training"] |= {"env_steps": 6024, "train_ratio": 100}
    for key, value in sections.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
    (folder / "config.yaml").write_text(yaml.safe_dump(settings if config is None else config, sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def add_everything(folder: Path) -> Path:
    """Every optional part of a run's folder."""
    seconds = {"update": 100, "seconds/update": 60.0, "seconds/collect": 20.0, "seconds/evaluate": 120.0}
    seconds |= {"resources/cores": 0.9, "resources/memory": 0.5}
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps(seconds) + "\n")
    for name in ("lines", "figures", "imagination"):
        (folder / name).mkdir()
    for name, columns in LINES.items():
        (folder / "lines" / f"{name}.json").write_text(json.dumps({"update": 100, **columns}))
    for name in ("bound", "kl_overview", "kl_heat_map", "open_loop", "something_else"):
        (folder / "figures" / f"{name}.png").write_bytes(png())
    for name in ("scores.png", "fan_obs.png", "film_obs.gif"):
        (folder / "imagination" / name).write_bytes(png(name[-3:].upper()))
    (folder / "imagination" / "scores.json").write_text(json.dumps(SCORES))
    (folder / "versions.json").write_text(json.dumps(SESSIONS))
    return folder


def add_acting(folder: Path) -> Path:
    """What a run that acts has more: metrics of two evaluations, a film, and the picture of its dream."""
    rows = [
        {"update": 50, "acting/return": -900.0, "acting/median_return": -800.0, "acting/least_return": -1500.0},
        *({"update": update, "best/return": -900.0} for update in (50, 100)),
        {"update": 50, "acting/predicted_return": -100.0, "acting/discounted_return": -400.0},
        {"update": 50, "acting_heldout/elbo": -7.0, "acting_evidence/smc": -6.0, "heldout_evidence/smc": -3.0},
        {"update": 50, **_ending("0", 90, 0.0005, 0.0), **_ending("0.5", 10, 0.7, 1.0)},
        {"update": 100, **_ending("0", 980, 0.0002, 0.0), **_ending("0.01", 20, 0.04, 0.05)},
        {"update": 100, "acting/return": -950.0, "acting/median_return": -90.0, "acting/least_return": -300.0},
        {"update": 100, "acting/predicted_return": -110.0, "acting/discounted_return": -120.0},
        {"update": 100, "acting_heldout/elbo": 3.0, "acting_evidence/smc": 4.0, "heldout_evidence/smc": 2.0},
    ]
    metrics = folder / "metrics.jsonl"
    rows += map(json.loads, metrics.read_text().splitlines())
    metrics.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: row["update"])))
    for name in ("play/actor.gif", "figures/acting.png", "figures/acting_dream.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png(name[-3:].upper()))
    return folder


def _ending(least: str, *values: float) -> dict[str, float]:
    names = ("steps", "predicted", "happened")
    return {f"acting_ending/{least}/{name}": value for name, value in zip(names, values, strict=True)}


def add_squared_error(folder: Path) -> Path:
    """The scores again, with the squared error that they have of every leaf outside tests; its mean is 0.25."""
    error = {"mean": [0.1, 0.2, 0.3, 0.4], "low": [0.05] * 4, "high": [0.5] * 4}
    scored = {**SCORES["scores"]["obs"], "squared_error": {"model": error, "marginal": error}}
    (folder / "imagination" / "scores.json").write_text(json.dumps({**SCORES, "scores": {"obs": scored}}))
    return folder


class Page(HTMLParser):
    """A page that was read: its text, tables, pictures and sections. Fails where a tag is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.stray = ""  # text of a section that stands in no block of it
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("section", "main", "header", "body", "div", "figure"):
            self.stray += data.strip()
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def sections(self) -> list[str | None]:
        """The anchors of the page's sections, in order."""
        return [attributes["id"] for attributes in self.all("section")]

    def table(self, corner: str) -> dict[str, list[str]]:
        """The table with these words at its top left, by the names of its rows."""
        (found,) = [table for table in self.tables if table[0][0] == corner]
        return {row[0]: row[1:] for row in found}
