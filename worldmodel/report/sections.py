"""The parts of a run's page, one function a section: a record -> markup, or nothing where the record has nothing."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from worldmodel.report import panels
from worldmodel.report.figures import BASELINE, OPTIMISED, RAW
from worldmodel.report.markup import Html, count, duration, figure, join, number, picture, table, tag
from worldmodel.report.panels import Drawn
from worldmodel.report.record import Band, Record, Scores
from worldmodel.report.svg import INK, css_colour, inline_svg
from worldmodel.report.tables import term_name

PER_STEP = "nats per step"
DEPARTURES = {
    "negative_elbo": "the negative bound, where the loss begins",
    "free_nats": "KL that the free nats fill up (or, if negative, let go)",
    "balancing": "two stop-gradient halves of the KL that do not weigh one together",
    "beta": "the factor of the KL",
}
METHODS = {
    "model": ("the model", RAW, "-"),
    "repeat_last": ("last row repeated", OPTIMISED, "-"),
    "marginal": ("the data's marginal", BASELINE, "--"),
}
METRICS = {  # title, unit, what to look for
    "nll": ("negative log-likelihood", PER_STEP, "Lower is better. It shoots up where confident futures went wrong."),
    "squared_error": ("squared error", "squared error / variance", "Lower is better; of the mean over futures."),
    "crps": ("CRPS", "CRPS / std", "Lower is better; it scores the whole predicted distribution."),
    "coverage": ("coverage", "share inside", "What happened, inside the central 90 % of predictions: ideally 0.9."),
}
FINEST = 1e-6  # a squared error or a CRPS below this is nothing
SCALES: dict[str, Literal["log", "symlog"]] = {"nll": "symlog", "squared_error": "log", "crps": "log"}
PICTURES = {  # by how their names begin: title, what to look for
    "fan": ("Futures of", "Single futures should surround what happened, and spread as they go on."),
    "film": ("Film of", "From the end of the context on, the model sees nothing but actions."),
    "classes": ("Classes of", "The predicted probability of each class, beside the class that came."),
    "latents": ("Map of the latents", "Imagined states should stay among those that filtering real episodes leads to."),
}


def bound(record: Record) -> Html | None:
    """The ELBO and its terms over training, and a table of the held-out ones."""
    terms = list(dict.fromkeys(record.names("train/") + record.names("heldout/")))
    if not terms:
        return None
    drawn = []
    for term in terms:
        curves = [
            Drawn(label, *record.column(f"{split}/{term}"), colour=colour, width=width, marker=marker)
            for split, label, colour, width, marker in (
                ("train", "training", RAW, 1.0, None),
                ("heldout", "held-out", OPTIMISED, 1.4, "o"),
            )
        ]
        panel = panels.panel([c for c in curves if len(c.x)], "updates", PER_STEP, focus=term != "kl")
        drawn.append(figure(svg(panel, f"bound {term}", term_name(term)), term_name(term), term_caption(term)))
    return join([tag("div", *drawn, class_="panels"), _heldout_table(record, terms)])


def _heldout_table(record: Record, terms: list[str]) -> Html:
    best = record.best
    if best is None:
        return tag("p", "No held-out episodes were scored.", class_="missing")
    rows = []
    for term in terms:
        name = f"heldout/{term}"
        values = (record.first(name), best.get(name), record.last(name), record.last(f"train/{term}"))
        rows.append((term_name(term), *map(number, values)))
    at = count(best["update"])
    return table(
        ("nats per step", "held-out, first", f"held-out, best (update {at})", "held-out, last", "training"), rows
    )


def ledger(record: Record) -> Html | None:
    """What every departure of the loss from the bound costs."""
    names = record.names("ledger/")
    if not names:
        return None
    values = {name: (record.first(f"ledger/{name}"), record.last(f"ledger/{name}")) for name in names}
    rows = [(departure_name(name), *map(number, pair), words(departure_meaning(name))) for name, pair in values.items()]
    if record.last("loss/value") is not None:
        ends = (number(record.first("loss/value")), number(record.last("loss/value")))
        rows.append(("= the loss", *ends, words("what the optimiser saw; the sum of the rows above")))
    honest = all(not any(pair) for name, pair in values.items() if name != "negative_elbo")
    said = (
        "This run optimised the bound itself: no departure costs anything."
        if honest
        else "The way from the negative bound to the loss, on training batches. A row that is far from zero is a trick "
        "that changes what is optimised; a good loss then need not be a good bound."
    )
    return join([tag("p", said), table(("nats per step", "first", "last", "what it is"), rows)])


def kl(record: Record) -> Html | None:
    """The KL over training, by place, by latent group and along an episode."""
    parts = [*_kl_history(record), *_kl_lines(record)]
    by_group = record.lines.get("kl_by_group", {})
    groups = [column for name, column in by_group.items() if name.startswith("group")]
    if groups and np.isfinite(groups).any():
        drawn = svg(panels.heat_map(np.stack(groups)), "kl groups", "KL by latent group and place in the sequence")
        parts.append(figure(drawn, "By latent group", HEAT_MAP))
    elif "figures/kl_heat_map.png" in record.pictures:
        image = picture("kl_heat_map.png", record.pictures["figures/kl_heat_map.png"], "KL by latent group")
        parts.append(figure(image, "By latent group", HEAT_MAP))
    along = record.lines.get("kl_surprise", {})
    if {"KL, raw", "KL, as optimised", "reward"} <= set(along):
        panel = panels.surprise(along["KL, raw"], along["KL, as optimised"], along["reward"])
        drawn = svg(panel, "kl surprise", "KL and reward along an episode")
        parts.append(figure(drawn, "Surprise along one held-out episode", SURPRISE, "wide"))
    summary = _kl_summary(record)
    return join([tag("div", *parts, class_="panels"), *summary]) if parts or summary else None


HEAT_MAP = (
    "Rows that stay dark carry nothing: a healthy code uses several groups. A thousandth of a nat and less is black."
)
SURPRISE = "Spikes should stand where the world is hard to foresee (contacts, resets, rewards), not everywhere."


def _kl_history(record: Record) -> Iterable[Html]:
    kinds = (("mean", "mean", "-", 1.3), ("median", "median", ":", 1.3), ("q95", "95 % quantile", "-", 0.6))
    curves = [
        Drawn(label, *record.column(f"kl/{name}"), dash=dash, width=width)
        for name, label, dash, width in kinds
        if record.names(f"kl/{name}")
    ]
    seen = record.column("kl/optimised_mean")
    if curves and len(seen.y) == len(curves[0].y) and not np.allclose(seen.y, curves[0].y, rtol=1e-4, equal_nan=True):
        curves.append(Drawn("mean, as optimised", *seen, colour=OPTIMISED))
    if curves:
        drawn = svg(panels.panel(curves, "updates", "nats", scale="log"), "kl history", "KL per step over training")
        yield figure(drawn, "Over training", "The median should lie well under the mean: most steps hold little news.")


def _kl_lines(record: Record) -> Iterable[Html]:
    for name, title, caption in (
        ("kl_by_position", "By place in the training sequence", "Most sequences start cold, inside an episode: high at "
         "first, then low but never zero."),
        ("kl_by_episode_step", "By steps since the reset", "Held-out episodes, filtered from their first row."),
    ):  # fmt: skip
        if name in record.lines:
            (x_label, x), (label, raw), *twin = record.lines[name].items()
            curves = [Drawn(label, x, raw)]
            if twin and not np.allclose(twin[0][1], raw, rtol=1e-4, atol=1e-6, equal_nan=True):
                curves.append(Drawn(twin[0][0], x, twin[0][1], colour=OPTIMISED))
            yield figure(svg(panels.panel(curves, x_label, "nats", scale="log"), name, title), title, caption)


def _kl_summary(record: Record) -> list[Html]:
    names = list(dict.fromkeys(record.names("heldout_kl/") + record.names("training_kl/")))
    rows = [
        (
            name.replace("_", " "),
            *(_summary(name, record.last(f"{split}_kl/{name}")) for split in ("heldout", "training")),
        )
        for name in names
    ]
    header = ("KL of a step, last evaluation", "held-out episodes", "training, burn-in included")
    return [table(header, rows)] if rows else []


def _summary(name: str, amount: float | None) -> str:
    if name == "active_units" or amount is None:
        return count(amount)
    return f"{amount:.1%}" if name.startswith("share") else number(amount)


def imagination(record: Record) -> Html | None:
    """Open-loop errors, scores of imagined futures, and pictures of them."""
    errors = _open_loop(record)
    parts = [tag("div", *errors, class_="panels")] if errors else []
    if record.scores:
        numbers = tag("details", tag("summary", "Scores as numbers"), table(*scores_table({"": record.scores})))
        methods = legend((colour, dash, said) for said, colour, dash in METHODS.values())
        parts += [tag("p", scores_sentence(record.scores)), methods, *_scores(record.scores), numbers]
    shown = [name for name in record.pictures if name.startswith("imagination/")]
    if record.scores:
        shown = [name for name in shown if name != "imagination/scores.png"]
    pictures = [picture_figure(name, record.pictures[name]) for name in shown]
    return join([*parts, *pictures]) if parts or pictures else None


def _open_loop(record: Record) -> list[Html]:
    colours = {"model": (RAW, "-"), "repeat last": (OPTIMISED, "-"), "data mean": (BASELINE, "--")}
    drawn = []
    for name in record.lines:
        if name.startswith("open_loop_"):
            leaf = name.removeprefix("open_loop_")
            (x_label, x), *series = record.lines[name].items()
            curves = [Drawn(label, x, y, *colours.get(label, (BASELINE, ":"))) for label, y in series]
            panel = panels.panel(curves, x_label, "squared error / variance", scale="log")
            caption = "Under the recorded actions. The model should stay below both baselines at every horizon."
            drawn.append(figure(svg(panel, name, f"open-loop error of {leaf}"), f"Open-loop error: {leaf}", caption))
    return drawn


def _scores(scores: Scores) -> list[Html]:
    found: dict[tuple[str, str], dict[str, Band]] = {}
    for (leaf, metric, method), band in scores.bands.items():
        found.setdefault((leaf, metric), {})[method] = band
    drawn = []
    for (leaf, metric), bands in found.items():
        title, unit, caption = METRICS.get(metric, (metric, metric, ""))
        curves = []
        for method, band in bands.items():
            label, colour, dash = METHODS.get(method, (method, BASELINE, ":"))
            ahead = np.arange(1, len(band.mean) + 1)
            curves.append(Drawn(label, ahead, band.mean, colour, dash, between=(band.low, band.high)))
        if metric == "coverage":
            curves.append(Drawn("nominal", ahead, np.full(len(ahead), 0.9), INK, ":", width=0.8))
        panel = panels.panel(curves, "steps ahead", unit, scale=score_scale(metric, bands.values()), legend=False)
        drawn.append(figure(svg(panel, f"{leaf} {metric}", title), f"{leaf}: {title}", caption))
    return [tag("div", *drawn, class_="panels")]


def score_scale(metric: str, bands: Iterable[Band]) -> Literal["linear", "log", "symlog"]:
    """The scale of a score's axis: not logarithmic where a forecast makes no error at all, which would not be seen."""
    if SCALES.get(metric) == "log" and not all((band.mean > FINEST).all() for band in bands):
        return "linear"
    return SCALES.get(metric, "linear")


def scores_sentence(scores: Scores) -> str:
    """How the scores were made, in as many words as the record has."""
    said = {"episodes": "episodes", "futures": "futures", "samples": "samples each", "context": "rows of context"}
    counts = [f"{scores.about[key]:,} {words}" for key, words in said.items() if key in scores.about]
    return (
        f"Imagined futures against what happened: {', '.join(counts)}. Bands are 90 % intervals, from drawing the "
        "episodes again."
    )


def scores_table(runs: dict[str, Scores]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The mean score at a few horizons, as a header and rows; one run's name may be empty."""
    longest = max((len(band.mean) for scores in runs.values() for band in scores.bands.values()), default=0)
    ahead = sorted({1, longest // 4, longest // 2, longest} - {0})
    rows = []
    for key in dict.fromkeys(key for scores in runs.values() for key in scores.bands):
        leaf, metric, method = key
        for run, scores in runs.items():
            if band := scores.bands.get(key):
                values = [number(band.mean[h - 1] if h <= len(band.mean) else None) for h in ahead]
                names = (f"{leaf}: {METRICS.get(metric, (metric,))[0]}", METHODS.get(method, (method,))[0])
                rows.append((*names, *([run] if run else []), *values))
    header = ("score", "of", *([] if "" in runs else ["run"]), *(f"{h} ahead" for h in ahead))
    return header, rows


def optimisation(record: Record) -> Html | None:
    """Gradient norms and the learning rate."""
    parts = []
    for prefix, title, caption in (
        ("grad_norm/", "Gradient norm", "Before clipping. A climb without end, or a jump, comes before trouble."),
        ("optimizer/", "Optimiser", ""),
    ):
        names = record.names(prefix)
        colours = (RAW, OPTIMISED, BASELINE, *(BASELINE for _ in names))
        curves = [
            Drawn(name.replace("_", " "), *record.column(prefix + name), colour=colour, width=1.0)
            for name, colour in zip(names, colours, strict=False)
        ]
        if curves:
            drawn = svg(
                panels.panel(curves, "updates", curves[0].label if len(curves) == 1 else "norm", scale="log"),
                prefix,
                title,
            )
            parts.append(figure(drawn, title if len(curves) > 1 else curves[0].label.capitalize(), caption))
    return tag("div", *parts, class_="panels") if parts else None


def stages(record: Record) -> Html | None:
    """How long each stage took."""
    if seconds := record.stages:
        total = sum(seconds.values())
        rows = [
            (name.replace("_", " "), duration(value), f"{value / max(total, 1e-9):.1%}", bar(value / max(total, 1e-9)))
            for name, value in seconds.items()
        ]
        return table(("stage", "time", "share", ""), [*rows, ("in all", duration(total), "", "")])
    elapsed = record.elapsed()
    if not len(elapsed.y):
        return None
    text = (
        f"Stages were not timed. Updates, collection and evaluations after the prefill took {duration(elapsed.y[-1])}."
    )
    return tag("p", text)


def versions(record: Record) -> Html | None:
    """What each session ran on."""
    if not record.sessions:
        return None
    names = list(dict.fromkeys(name for session in record.sessions for name in session.about))
    header = ("", *("started" if i == 0 else "resumed" for i, _ in enumerate(record.sessions)))
    rows = [
        ("when", *(session.started for session in record.sessions)),
        ("at update", *(count(session.update) for session in record.sessions)),
        *((name, *(session.about.get(name, "–") for session in record.sessions)) for name in names),
    ]
    return table(header, rows)


def svg(drawn: panels.Figure, name: str, description: str) -> Html:
    """A panel as markup."""
    return Html(inline_svg(drawn, name, description))


def legend(looks: Iterable[tuple[str, str, str]]) -> Html:
    """What colours and dashes stand for, above panels that share them: (colour, dash, name) each."""
    return tag("p", *(tag("span", swatch(colour, dash), name) for colour, dash, name in looks), class_="key")


def swatch(colour: str, dash: str) -> Html:
    """A piece of a curve."""
    border = {"-": "solid", "--": "dashed", ":": "dotted"}[dash]
    return tag("span", "", class_="swatch", style=f"border-top-style: {border}; color: {css_colour(colour)}")


def words(text: str) -> Html:
    """Text in a table that may run over several lines, as numbers may not."""
    return tag("span", text, class_="words")


def bar(share: float) -> Html:
    """A share as a bar."""
    return tag("span", tag("span", "", style=f"width: {100 * share:.1f}%"), class_="bar")


def term_caption(term: str) -> str:
    """What to look for in a term's curve."""
    gap = "Training sequences start cold, so the two need not agree."
    return {
        "elbo": f"Higher is better: the bound on the evidence. {gap}",
        "kl": "What the observation told the model beyond its own prediction.",
    }.get(term, "Higher is better; a density's logarithm may exceed zero.")


def departure_name(name: str) -> str:
    """scale_obs -> + scale of obs."""
    return "negative bound" if name == "negative_elbo" else "+ " + name.replace("scale_", "scale of ").replace("_", " ")


def departure_meaning(name: str) -> str:
    """What a ledger entry is."""
    return DEPARTURES.get(name, f"the factor of log p({name.removeprefix('scale_')})" if "scale_" in name else "")


def picture_figure(name: str, data: bytes) -> Html:
    """A picture of the folder under a title made of its name: imagination/fan_obs.png -> Futures of obs."""
    kind, _, leaf = name.split("/")[-1].rsplit(".", 1)[0].partition("_")
    if kind in PICTURES and name.startswith("imagination/"):
        title, caption = PICTURES[kind]
        title = "Film strip of" if kind == "film" and name.endswith(".png") else title
        title = f"{title} {leaf}".strip()
    else:
        title, caption = f"{kind} {leaf}".replace("_", " ").strip().capitalize(), ""
    return figure(picture(name, data, title), title, caption, "wide")
