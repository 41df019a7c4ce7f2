"""How far ahead imagination can be believed, what its failures are made of, and what mends them.

    python scripts/imagination_study.py --output runs/imagination                # goes on where it stopped
    python scripts/imagination_study.py --output runs/imagination --only cartpole_random --cells bound rows --seeds 0
    python scripts/imagination_study.py --output runs/imagination --write        # docs/imagination.md

A run is a preset, a way of training (`CELLS`) and a seed; it is trained unless its folder is in OUTPUT/runs already.
Then futures of held-out episodes are scored with 16 to 1,024 samples, with a proposal that looks at the row itself, and
in the linear-Gaussian world beside the exact predictive distribution. Results are kept in docs/imagination.jsonl.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docs_blocks import add_result, kept_results, read_results, write_block  # beside this file
from imagination_tables import mends, split  # beside this file

PAGE, NUMBERS = "imagination.md", "imagination.jsonl"
QUIET = {"tracking": "none", "evaluation.particles": 0, "training.evaluate_every": 100_000}
CELLS: dict[str, dict[str, Any]] = {
    "bound": {},
    "latents": {"loss.overshooting": 0.1, "loss.overshooting_of": "latents"},
    "rows": {"loss.overshooting": 0.1, "loss.overshooting_of": "rows"},
    "resolution 0.001": {"decoder.resolution": 0.001},
}
FUTURES = {  # context, horizon, and the most held-out episodes that are looked at
    "pendulum_random": (16, 48, 16),
    "cartpole_random": (4, 12, 64),
    "linear_gaussian": (16, 48, 96),
}
PRODUCT = 256  # futures of each start, as `worldmodel imagine` takes them
SIZES = (16, 64, 256, 1024)
AHEAD = (1, 2, 4, 8, 12, 18, 24, 36, 48)
PRIOR_SHARE = 0.3  # of the proposal for the last latent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of results.jsonl")
    parser.add_argument("--only", nargs="+", choices=sorted(FUTURES), default=list(FUTURES))
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=["bound", "rows"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=1024, help="futures of each start, of all runs together")
    parser.add_argument("--ensemble", action="store_true", help="score the futures of all these seeds together")
    parser.add_argument("--write", action="store_true", help="write docs/imagination.md, train nothing")
    options = parser.parse_args()
    if options.write:
        if not (found := kept_results(NUMBERS, read_results(options.output), which_run)):
            parser.error(f"{options.output}: expected results of earlier runs (results.jsonl), found none")
        write_block(PAGE, "split", split(found))
        write_block(PAGE, "mends", mends(found))
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    options.output.mkdir(parents=True, exist_ok=True)
    done = {which_run(one) for one in read_results(options.output)}
    for preset in options.only:
        for cell in options.cells:
            members = [options.seeds] if options.ensemble else [[seed] for seed in options.seeds]
            for seeds in members:
                if (preset, cell, tuple(seeds)) not in done:
                    add_result(options.output, rounded(study(preset, cell, seeds, options.output, options.samples)))


def which_run(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells results apart."""
    return (result["preset"], result["cell"], tuple(result["seeds"]))


def rounded(result: Any) -> Any:
    """The same with five digits of every number."""
    if isinstance(result, dict):
        return {name: rounded(x) for name, x in result.items()}
    if isinstance(result, list):
        return [rounded(x) for x in result]
    return float(f"{result:.5g}") if isinstance(result, float) else result


def study(preset: str, cell: str, seeds: list[int], output: Path, samples: int) -> dict[str, Any]:
    """Train what is not there yet and score it; several seeds are an ensemble, their futures mixed in equal parts."""
    import torch

    torch.set_num_threads(1)
    runs = [trained(preset, cell, seed, output) for seed in seeds]
    result: dict[str, Any] = {"preset": preset, "cell": cell, "seeds": seeds, **measured(preset, runs, samples)}
    if len(runs) == 1:
        result["bound"] = runs[0].evaluate().per_step["elbo"]
        result["product"] = as_imagined(preset, runs[0])
    nats = " ".join(f"{x:.2f}" for x in result["obs"]["nll"])
    print(f"{preset} {cell} {seeds}: nll {nats}", flush=True)
    return result


def trained(preset: str, cell: str, seed: int, output: Path) -> Any:
    """The run with its last weights."""
    from rich.console import Console

    from worldmodel.runs.run import open_run
    from worldmodel.runs.session import train
    from worldmodel.training.progress import RunProgress

    name = f"{preset}-{cell.replace(' ', '_')}-{seed}"
    folders = sorted((output / "runs").glob(f"{name}-2*"))
    if not folders:
        overrides = {"seed": seed, "runs": str(output / "runs"), "name": name, **QUIET, **CELLS[cell]}
        folders = [train(preset, overrides, progress=RunProgress(0, Console(quiet=True))).folder]
    return open_run(folders[-1], "last")


def as_imagined(preset: str, run: Any) -> dict[str, Any]:
    """What `worldmodel imagine` says of the observation at every horizon, the hedged forecast included."""
    context, horizon, episodes = FUTURES[preset]
    scores = run.score(context=context, horizon=horizon, samples=PRODUCT, episodes=episodes)
    bands = scores.scores["obs"]
    return {
        "better_until": scores.better_until("obs"),
        **{method: bands["nll"][method].mean.tolist() for method in ("model", "hedged", "marginal")},
        "coverage": bands["coverage"]["model"].mean.tolist(),
    }


def measured(preset: str, runs: list[Any], samples: int) -> dict[str, Any]:
    """Means over futures by horizon, for the observation and the reward, and the futures that were lost."""
    import torch

    from worldmodel.data.batches import long_enough, select
    from worldmodel.evaluation.open_loop import futures

    context, horizon, episodes = FUTURES[preset]
    ahead = [h for h in AHEAD if h <= horizon]
    rows = select(long_enough(runs[0].heldout(), context + horizon), slice(episodes))
    baselines = runs[0].baselines(horizon)
    exact = exact_predictive(runs[0], rows)
    generator = torch.Generator().manual_seed(0)
    share = {"context": context, "horizon": horizon, "samples": samples // len(runs), "generator": generator}
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    count = 0
    with torch.no_grad():
        for together in zip(*(futures(run.model, rows, **share) for run in runs), strict=True):
            count += len(together[0].episode)
            for name, score, values in scored(runs, together, baselines, ahead, generator, exact):
                found[name][score].append(values)
    means = {name: {score: summary(score, torch.cat(x)) for score, x in by.items()} for name, by in found.items()}
    return {"samples": samples, "ahead": ahead, "futures": count, "episodes": len(rows.valid), **means}


def summary(score: str, values: Any) -> list[float]:
    """Over futures [F, h]: the mean, or for `worst` the largest."""
    return (values.amax(0) if score == "worst" else values.double().mean(0)).tolist()


def scored(
    runs: list[Any],
    together: tuple[Any, ...],
    baselines: Mapping[str, Any],
    ahead: list[int],
    generator: Any,
    exact: Any,
) -> Iterator[tuple[str, str, Any]]:
    """Every score of some futures by leaf and name, [B, h]."""
    import torch

    from worldmodel.behaviour.imagination import imagine, recorded
    from worldmodel.evaluation import scoring_rules as rules
    from worldmodel.models.encoder import as_numbers
    from worldmodel.types import State

    at = torch.tensor(ahead) - 1
    drawn: dict[str, list[Any]] = defaultdict(list)
    parts: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(list))
    for run, future in zip(runs, together, strict=True):
        model, action = run.model, future.rows.prev_action[:, 1:]
        act = recorded(action, len(future.start.deter))
        states = imagine(model, future.start, act, action.shape[1], generator=generator).states
        states = State(*(x[:, :, at] for x in states))
        targets = {name: x[:, 1:][:, at] for name, x in model.targets(future.rows).items()}
        looked, weight = last_latent(model, states, future.rows, at, generator)
        again = model.decode(State(states.deter, looked), ("obs", "reward"))
        for name, p in model.decode(states, ("obs", "reward")).items():
            parts[name]["log p"].append(p.log_prob(targets[name]).double())
            parts[name]["looked"].append(again[name].log_prob(targets[name]).double() + weight)
            drawn[name].append(p.sample(generator))
    noise = runs[0].model.resolution()
    order = torch.randperm(sum(len(one.start.deter) for one in together), generator=generator)
    for name, by in parts.items():
        log_p, look, draws = (torch.cat(x)[order] for x in (by["log p"], by["looked"], drawn[name]))
        x, baseline = as_numbers(baselines[name].leaf, targets[name]), baselines[name]
        marginal = baseline.marginal(targets[name])["nll"].double()
        for size in (s for s in SIZES if s <= len(log_p)):
            groups = log_p[: len(log_p) // size * size].unflatten(0, (-1, size)).transpose(0, 1)
            yield name, f"nll {size}", rules.mixture_nll(groups).mean(0)
        nll = rules.mixture_nll(log_p)
        yield name, "nll", nll
        yield name, "looked", rules.mixture_nll(look)
        yield name, "marginal", marginal
        yield name, "lost", (nll > marginal).double()
        yield name, "worst", nll
        yield name, "cover 90", rules.rank_coverage(draws, x).mean(-1)
        yield name, "cover 50", rules.rank_coverage(draws, x, 0.5).mean(-1)
        floor = noise.get(name, torch.zeros(1))
        seen = x + floor * torch.randn(x.shape, generator=generator)
        yield name, "cover 90, at the resolution", rules.rank_coverage(draws, seen).mean(-1)
        yield name, "crps", (rules.sample_crps(draws, x) / baseline.unit).mean(-1)
        yield name, "spread", (draws.var(0) / baseline.unit.square()).mean(-1)
        yield name, "error", ((draws.mean(0) - x).square() / baseline.unit.square()).mean(-1)
        if exact is not None:
            for score, values in exact(together[0], name, x, ahead):
                yield name, score, values


def last_latent(model: Any, states: Any, rows: Any, at: Any, generator: Any) -> tuple[Any, Any]:
    """z_{t+h} proposed by what sees row t + h, from 0.7 q + 0.3 p, and log p - log proposal: a lower variance of

    p(x_{t+h} | x_1:t) = E_h[ integral p(z | h) p(x_{t+h} | h, z) dz ],    h imagined, the rows between passed over
    """
    import math

    import torch

    prior = model.dynamics.prior(states.deter)
    obs = {path: x[:, 1:][:, at] for path, x in rows.obs.items()}
    embed = model.embed(obs, rows.reward[:, 1:][:, at], rows.is_first[:, 1:][:, at])
    posterior = model.dynamics.posterior(states.deter, model.dynamics.project(embed))
    coin = torch.rand(states.stoch.shape[:-1], generator=generator) < PRIOR_SHARE
    z = torch.where(coin[..., None], states.stoch, posterior.sample(generator))
    log_prior, log_posterior = (p.log_prob(z).double().sum(-1) for p in (prior, posterior))
    mixed = torch.logaddexp(log_posterior + math.log1p(-PRIOR_SHARE), log_prior + math.log(PRIOR_SHARE))
    return z, log_prior - mixed


def exact_predictive(run: Any, rows: Any) -> Any:
    """What the Kalman filter says of the same futures: a function, or None where the world has no such law.

    p(x_{t+h} | x_1:t, r_1:t, a) = N(C m_h + D a + d, C P_h C' + R), with h predictions and no update after row t.
    """
    import torch

    from worldmodel import build
    from worldmodel.evaluation import scoring_rules as rules
    from worldmodel.oracles.distributions import Gaussian
    from worldmodel.oracles.worlds import linear_gaussian

    law = build.build_law(run.config)
    if law is None or law["kind"] != "linear_gaussian":
        return None
    oracle, x = linear_gaussian(law, rows)
    filtered = oracle.filter(x, rows.prev_action.double()).filtered

    def scores(future: Any, name: str, truth: Any, ahead: list[int]) -> Iterator[tuple[str, Any]]:
        step = future.rows.episode_step[:, 0].long()
        belief = Gaussian(filtered.mean[future.episode, step], filtered.cov[future.episode, step])
        which = slice(0, -1) if name == "obs" else slice(-1, None)
        means, covs = [], []
        for h in range(1, max(ahead) + 1):
            belief = oracle.predict(belief, future.rows.prev_action[:, h].double())
            if h in ahead:
                means.append((belief.mean @ oracle.C.mT + oracle.d)[:, which])
                covs.append((oracle.C @ belief.cov @ oracle.C.mT + oracle.R)[:, which, which])
        exact = Gaussian(torch.stack(means, 1), torch.stack(covs, 1))
        std = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
        yield "exact", -exact.log_prob(truth.double())[..., 0]
        yield "exact, cover 90", rules.gaussian_coverage(exact.mean, std, truth.double()).mean(-1)

    return scores


if __name__ == "__main__":
    main()
