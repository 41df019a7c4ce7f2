"""What each usual trick costs, in nats per step, on a world whose evidence is known exactly.

    python scripts/trick_study.py --output runs/tricks          # goes on where it was interrupted
    python scripts/trick_study.py --output runs/tricks --write  # docs/tricks.md and docs/trick_study.jsonl

The same model is trained on the same rows with one trick at a time. Its bound, its evidence (SMC) and its density k
steps ahead are each subtracted from the exact value, which a Kalman filter computes for the same held-out episodes.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from docs_blocks import DOCS, add_result, kept_results, read_results, write_block
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldmodel import build, build_networks
from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data.batches import select
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.open_loop import open_loop_errors
from worldmodel.evidence.estimate import per_step
from worldmodel.evidence.sandwich import sandwich
from worldmodel.evidence.smc import smc
from worldmodel.models.simulation import simulate
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import bound_and_loss
from worldmodel.oracles.worlds import exact_evidence
from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW
from worldmodel.types import Batch

PRESET = "linear_gaussian"
NUMBERS = "trick_study.jsonl"  # every run behind the page
SHORTER = {"replay.batch_size": 64, "evaluation.episodes": 96, "env.num_envs": 32}
ROWS = 150_000
PARTICLES = 128
FUTURES = 256
CONTEXT = 24
AHEAD = (1, 2, 5, 10, 20)
WIDE = 0.25  # of a sandwich, as a share of the ELBO's gap: above it SMC's number is an upper limit of the evidence lost
ARROW: dict[str, Any] = {"marker": "<", "linestyle": "", "markersize": 5}
Result = Mapping[str, Any]
FIXED: dict[str, Any] = {"decoder.std": "fixed", "decoder.standardise": False}
SYMLOG = {
    "encoder.inputs": "symlog",
    "decoder.vector": "symlog",
    "decoder.reward": "symlog",
    "decoder.fixed_std": 0.5**0.5,
}
TRICKS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> what it is, settings
    "bound": ("none: the bound itself", {}),
    "free_nats": ("1 free nat, max(KL, 1) per step (V2, V3)", {"loss.free_nats": 1.0}),
    "planet": ("PlaNet's clipping, max(KL - 3, 0)", {"loss.free_nats": 3.0, "loss.free_nats_rule": "excess"}),
    "balancing": ("KL balancing 0.8 (V2)", {"loss.alpha": 0.8}),
    "dyn_rep": ("prior's side 1, posterior's 0.1 (V3)", {"loss.dyn": 1.0, "loss.rep": 0.1}),
    "beta_low": ("beta 0.1", {"loss.beta": 0.1}),
    "beta_high": ("beta 3", {"loss.beta": 3.0}),
    "mse": ("squared error: unit variance", {**FIXED, "decoder.fixed_std": 1.0}),
    "symlog_mse": ("symlog squared error: variance 1/2", {**FIXED, **SYMLOG}),
    "v3_weights": ("V3's weights: 1, 0.1 and 1 free nat", {"loss.dyn": 1.0, "loss.rep": 0.1, "loss.free_nats": 1.0}),
    "v3_recipe": (
        "DreamerV3's recipe, 8 x 16 latents",
        {**FIXED, **SYMLOG, "loss.dyn": 1.0, "loss.rep": 0.1, "loss.free_nats": 1.0, "rssm.latent": "categorical"}
        | {"rssm.stoch": 8, "rssm.classes": 16, "decoder.reward": "twohot", "decoder.skip": False},
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the rows and of results.jsonl")
    parser.add_argument("--tricks", nargs="+", choices=sorted(TRICKS), default=list(TRICKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help="write docs/tricks.md and its figure, train nothing")
    options = parser.parse_args()
    if options.write:
        if not (found := kept_results(NUMBERS, read_results(options.output), which_run)):
            parser.error(f"{options.output}: expected results.jsonl with results, found none")
        write_page(found, {name: words for name, (words, _) in TRICKS.items()})
        return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    done = {which_run(row) for row in read_results(options.output)}
    for seed in options.seeds:
        for trick in options.tricks:
            if (trick, seed, options.updates) not in done:
                result = study(trick, seed, options.updates, options.output)
                add_result(options.output, result)
                print(json.dumps(result), flush=True)


def which_run(result: Result) -> tuple[str, int, int]:
    """What tells the runs of this study apart."""
    return result["trick"], result["seed"], result["updates"]


def study(trick: str, seed: int, updates: int, folder: Path) -> dict[str, Any]:
    """Train with one trick: -> everything that `measure` finds, and what it took."""
    config = read_config(PRESET, {**SHORTER, **TRICKS[trick][1], "seed": seed})
    law = build.build_law(config)
    assert law is not None, "the preset's environment has a law"
    replay, heldout = rows(config, folder / f"rows-{seed}")
    began = time.process_time()
    with replay:
        model = train(with_updates(config, folder, updates), replay)
    seconds = time.process_time() - began
    return {
        "trick": trick, "seed": seed, "updates": updates, "cpu_seconds": round(seconds, 1),
        **measure(config, model, law, heldout, torch.Generator().manual_seed(seed)),
    }  # fmt: skip


def rows(config: Config, folder: Path) -> tuple[Replay, Batch]:
    """Rows to learn from and held-out episodes, written once for each seed, so that every trick sees the same."""
    for part, heldout in (("replay", False), ("heldout", True)):
        if (folder / part).exists():
            continue
        count = config.evaluation.episodes * config.evaluation.max_length if heldout else ROWS
        with build.build_environments(config, heldout=heldout) as environments:
            choice = torch.Generator().manual_seed(config.seed + (10**6 if heldout else 0))
            rollout = Rollout(
                environments, RandomPolicy(environments.spec.action, choice), config.seed + 10**6 * heldout
            )
            steps = -(-count // environments.count)
            streams = environments.count
            partial = folder / f"{part}.partial"  # an interruption leaves no half of the rows under the final name
            shutil.rmtree(partial, ignore_errors=True)
            with Replay(partial, environments.spec, capacity=steps * streams, streams=streams) as replay:
                for _ in range(steps):
                    replay.append(rollout.step())
            partial.rename(folder / part)
    return Replay.open(folder / "replay", read_only=True), read_episodes(
        folder / "heldout", config.evaluation.max_length
    )


def with_updates(config: Config, folder: Path, updates: int) -> Config:
    """The settings of a run on stored rows with this number of updates, which rows collected before do not imply."""
    return replace(config, offline=str(folder), training=replace(config.training, updates=updates))


def train(config: Config, replay: Replay) -> WorldModel:
    """Train with the library's learner on batches from the replay; no trainer, so nothing is logged or saved."""
    torch.manual_seed(config.seed)
    model = build_networks.build_model(config, replay.spec)
    for name, (mean, std) in replay.statistics().items():
        model.standardise(name, mean.float(), std.float())
    noise, choice = torch.Generator().manual_seed(config.seed), torch.Generator().manual_seed(config.seed)
    learner = build.build_learner(config, model, noise)
    assert config.training.updates is not None
    size, length, restart = config.replay.batch_size, config.replay.sequence_length, config.replay.restart
    for _ in range(config.training.updates):
        learner.update(replay.sample(size, length, choice, restart=restart))
    return model.eval()


@torch.no_grad()
def measure(
    config: Config, model: WorldModel, law: dict[str, Any], episodes: Batch, generator: torch.Generator
) -> dict[str, Any]:
    """Score a model on held-out episodes, in nats per step; a gap or an excess is the exact value minus the model's."""
    objective = build.build_objective(config.loss, model.spec)
    draws = [bound_and_loss(model, episodes, objective, generator) for _ in range(8)]
    elbo = torch.stack([bound.elbo.double().sum(1) for bound, _ in draws]).mean(0)
    exact = exact_evidence(law, episodes)["total"].sum(1)
    estimate = smc(model.given(episodes), PARTICLES, generator=generator)
    steps = episodes.valid.sum(1)
    simulated, path = simulate(model, select(episodes, slice(32)), generator=generator)
    width = sandwich(model.given(simulated), path, PARTICLES, generator=generator).width
    gap, excess = per_step(exact - elbo, steps), per_step(exact - estimate.log_evidence, steps)
    return {
        "exact": per_step(exact, steps).mean,
        "claimed": -statistics.mean(loss.value.item() for _, loss in draws),  # minus what was optimised
        "elbo_gap": gap.mean, "elbo_gap_error": gap.error,
        "smc_excess": excess.mean, "smc_excess_error": excess.error,
        "width": width.mean, "width_error": width.error,
        "kl": statistics.mean(bound.per_step()["kl"].item() for bound, _ in draws),
        "ahead": dict(zip(map(str, AHEAD), ahead(model, law, episodes, generator), strict=True)),
        "squared_error": squared_error(model, episodes, generator),
    }  # fmt: skip


def ahead(
    model: WorldModel, law: dict[str, Any], episodes: Batch, generator: torch.Generator
) -> Iterator[dict[str, float]]:
    """Exact minus estimated log p(x_{t+k} | x_<=t), where t ends the context and SMC does not see the rows between."""
    for k in AHEAD:
        last = CONTEXT + k - 1
        until = select(episodes, rows=slice(last + 1))
        unseen = range(CONTEXT, last)
        estimate = smc(model.given(until), FUTURES, generator=generator, unseen=unseen).increment[:, last]
        exact = exact_evidence(law, blind(until, unseen))["total"][:, last]
        difference = exact - estimate
        yield {"mean": difference.mean().item(), "error": (difference.std() / len(difference) ** 0.5).item()}


def squared_error(model: WorldModel, episodes: Batch, generator: torch.Generator) -> dict[str, float]:
    """Squared error of the mean of imagined futures, in units of the data's variance, by steps ahead."""
    errors = open_loop_errors(model, episodes, context=CONTEXT, horizon=max(AHEAD), samples=32, generator=generator)
    (leaf,) = errors.values()
    return {str(k): leaf.model[k - 1].item() for k in AHEAD}


def blind(batch: Batch, unseen: range) -> Batch:
    """The same rows with NaN for those unseen. Their continue flags stay: here they do not depend on the state."""
    obs = {name: x.index_fill(1, torch.tensor(unseen, dtype=torch.long), torch.nan) for name, x in batch.obs.items()}
    return batch._replace(obs=obs, reward=batch.reward.index_fill(1, torch.tensor(unseen, dtype=torch.long), torch.nan))


def write_page(results: Sequence[Result], words: Mapping[str, str]) -> None:
    """Put tables and figure into docs/tricks.md."""
    by_trick = {name: [row for row in results if row["trick"] == name] for name in words}
    by_trick = {name: rows for name, rows in by_trick.items() if rows}
    figure(by_trick, words).savefig(DOCS / "tricks.png", dpi=110)
    write_block("tricks.md", "tricks", tables(by_trick, words))


def tables(by_trick: Mapping[str, Sequence[Result]], words: Mapping[str, str]) -> str:
    """Three tables: what each trick costs, what its run reports of itself, and its errors ahead."""
    first = next(iter(by_trick.values()))
    updates = sorted({row["updates"] for rows in by_trick.values() for row in rows})
    seconds = statistics.median(row["cpu_seconds"] for rows in by_trick.values() for row in rows)
    costs = [
        "| trick | bound | evidence | sandwich | 1 ahead | 5 ahead | 20 ahead |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    errors = ["| trick | 1 ahead | 5 ahead | 20 ahead |", "| --- | --- | --- | --- |"]
    claims = ["| trick | optimised | true bound | exact | KL |", "| --- | --- | --- | --- | --- |"]
    for name, rows in by_trick.items():
        star = "\\*" if wide(rows) else ""
        ahead = [spread(rows, lambda row, k=k: row["ahead"][k]["mean"]) + star for k in ("1", "5", "20")]
        costs.append(
            f"| {words[name]} | {spread(rows, 'elbo_gap')} | {spread(rows, 'smc_excess')}{star} | "
            f"{spread(rows, 'width')} | {' | '.join(ahead)} |"
        )
        bound = spread(rows, lambda row: row["exact"] - row["elbo_gap"])
        measured = [row for row in rows if "squared_error" in row]
        if measured:
            by_horizon = (spread(measured, lambda row, k=k: row["squared_error"][k]) for k in ("1", "5", "20"))
            errors.append(f"| {words[name]} | {' | '.join(by_horizon)} |")
        claims.append(
            f"| {words[name]} | {spread(rows, 'claimed')} | {bound} | {spread(rows, 'exact')} | {spread(rows, 'kl')} |"
        )
    seeds = {len(rows) for rows in by_trick.values()}
    return "\n".join(
        [
            f"{'/'.join(map(str, sorted(seeds)))} seeds each, {'/'.join(map(str, updates))} updates (median "
            f"{seconds:.0f} CPU seconds with one thread); mean over seeds ± standard deviation over seeds, in nats per "
            f"step. Standard error of one run's bound and evidence over held-out episodes: "
            f"{statistics.mean(row['elbo_gap_error'] for row in first):.3f} and "
            f"{statistics.mean(row['smc_excess_error'] for row in first):.3f} without a trick.",
            "",
            "![costs](tricks.png)",
            "",
            "Below the exact value, in nats per step:",
            "",
            *costs,
            "",
            "\\* the sandwich is wider than a quarter of the bound's gap: SMC has not converged, and what it says of",
            "evidence and of the rows ahead is an upper limit of what was lost; in the figure, a hollow arrow.",
            "",
            "What each run believes of itself, in nats per step:",
            "",
            *claims,
            "",
            "Squared error of the mean of 32 imagined futures, in units of the data's variance:",
            "",
            *errors,
        ]
    )


def wide(rows: Sequence[Result]) -> bool:
    """Whether SMC has not converged on these runs, so that what it says they lost is an upper limit."""
    return statistics.mean(abs(row["width"]) for row in rows) > WIDE * statistics.mean(row["elbo_gap"] for row in rows)


def spread(rows: Sequence[Result], value: str | Callable[[Result], float]) -> str:
    """Mean ± standard deviation over seeds."""
    numbers = [row[value] if isinstance(value, str) else value(row) for row in rows]
    mean = statistics.mean(numbers)
    return f"{mean:.3f} ± {statistics.stdev(numbers):.3f}" if len(numbers) > 1 else f"{mean:.3f}"


def figure(by_trick: Mapping[str, Sequence[Result]], words: Mapping[str, str]) -> Figure:
    """Bound, evidence and imagination of every trick on a logarithmic axis, one mark a seed.

    A dot is a measurement; a hollow arrow is an upper limit, from a run on which SMC has not converged.
    """
    columns: list[tuple[str, str, Callable[[Result], float]]] = [
        ("the bound's gap", RAW, lambda row: row["elbo_gap"]),
        ("evidence lost (SMC)", OPTIMISED, lambda row: row["smc_excess"]),
        ("5 steps ahead", BASELINE, lambda row: row["ahead"]["5"]["mean"]),
    ]
    drawing = Figure(figsize=(9, 0.52 * len(by_trick) + 1.2), layout="constrained")
    axes = drawing.subplots()
    for place, rows in enumerate(by_trick.values()):
        for offset, (label, colour, value) in zip((-0.24, 0.0, 0.24), columns, strict=True):
            limits = [row for row in rows if label != columns[0][0] and wide([row])]
            marks(
                axes,
                [value(row) for row in rows if row not in limits],
                [value(row) for row in limits],
                place + offset,
                colour,
            )
    axes.set_xscale("log")
    axes.set_yticks(range(len(by_trick)), [words[name] for name in by_trick], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("nats per step below the exact value (0.001 and less at 0.001)")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=4, label=label)
        for label, colour, _ in columns
    ]
    limit = Line2D([], [], color="#555", markerfacecolor="none", label="at most this: SMC has not converged", **ARROW)
    axes.legend(
        handles=[*handles, limit], frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4
    )
    return drawing


def marks(axes: Axes, measured: Sequence[float], limits: Sequence[float], height: float, colour: str) -> None:
    """Dots with their mean for what was measured, hollow arrows to the left for upper limits."""
    dots, arrows = ([max(number, 1e-3) for number in numbers] for numbers in (measured, limits))
    axes.plot(arrows, [height] * len(arrows), color=colour, markerfacecolor="none", **ARROW)
    axes.plot(dots, [height] * len(dots), "o", color=colour, markersize=3.6)
    if dots and not arrows:
        axes.plot(statistics.mean(dots), height, "|", color=colour, markersize=11, markeredgewidth=2.2)


if __name__ == "__main__":
    main()
