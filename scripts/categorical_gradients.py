"""How wrong is a gradient through categorical samples? Measured on an RSSM small enough to sum over all latent paths.

    python scripts/categorical_gradients.py        about three minutes; prints a table with rows by stage of training

One group of 3 classes over 6 steps of a hidden Markov environment has 729 paths z_1:6; summing over them gives the
exact bound and its exact gradient. Each estimator is then drawn many times at the same weights:

    bias       || mean estimate - exact gradient || / || exact gradient ||, corrected for the error of the mean
    deviation  root of the summed variances of an estimate from 8 sequences, over the same norm

both for all weights and for those of the posterior alone (encoder and head), whose gradient comes through the samples.
"""

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from worldmodel import build, build_networks
from worldmodel.config import Config, DecoderConfig, EncoderConfig, EnvConfig, LossConfig, OptimizerConfig, RSSMConfig
from worldmodel.data.batches import in_precision, repeated
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay
from worldmodel.data.rollout import Rollout
from worldmodel.models.latents import CategoricalFamily
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.types import Batch, State

CLASSES, ROWS, SEQUENCES, COPIES = 3, 6, 8, 32
GRADIENTS = ("straight_through", "reinmax", "marginal")
STAGES = (0, 100, 300, 1000)  # updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=100)
    options = parser.parse_args()
    config = Config(
        env=EnvConfig(id="worldmodel/HiddenMarkov-v0", kwargs={"states": 6, "colours": CLASSES}, num_envs=8),
        encoder=EncoderConfig(inputs="raw", layers=1, units=24, reward=True),
        rssm=RSSMConfig(cell="bare_gru", blocks=1, deter=24, hidden=24, latent="categorical", stoch=1, classes=CLASSES),
        decoder=DecoderConfig(layers=1, units=24, standardise=False),
        loss=LossConfig(kl_warmup=100),
        optimizer=OptimizerConfig(learning_rate=0.01, decay="none"),
    )
    random = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, collect(config, Path(folder)) as replay:
        model = build_networks.build_model(config, replay.spec)
        learner = build.build_learner(config, model, random)
        few = in_precision(replay.sample(SEQUENCES, ROWS, random), torch.float64)
        print("| updates | KL | gradient | bias | deviation | bias, posterior | deviation, posterior |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for stage in STAGES:
            use(model.float(), "marginal")
            while learner.updates < stage:
                learner.update(replay.sample(32, 16, random))
            rows(model.double(), few, stage, options.repetitions, random)


def collect(config: Config, folder: Path) -> Replay:
    environments = build.build_environments(config)
    replay = Replay(folder / "rows", environments.spec, capacity=20_000, streams=environments.count)
    with environments:
        rollout = Rollout(environments, RandomPolicy(environments.spec.action, torch.Generator().manual_seed(1)), 0)
        for _ in range(20_000 // environments.count):
            replay.append(rollout.step())
    return replay


def rows(model: WorldModel, few: Batch, stage: int, repetitions: int, random: torch.Generator) -> None:
    """Print the table's rows at the model's present weights."""
    weights = dict(model.named_parameters())
    parts = {"all": list(weights), "posterior": [n for n in weights if n.startswith(("encoder", "rssm.posterior"))]}
    exact = gradient(model, exact_bound(model, few))
    many = repeated(few, COPIES)
    for name in GRADIENTS:
        use(model, name)
        bounds = (sampled_bound(model, many, random) for _ in range(repetitions))
        kl, estimates = zip(*((bound.kl.mean(), gradient(model, bound.elbo.mean())) for bound in bounds), strict=True)
        cells = [f"{x:.3f}" for part in parts.values() for x in compare(estimates, exact, part)]
        print(f"| {stage} | {torch.stack(kl).mean():.3f} | {name} | " + " | ".join(cells) + " |", flush=True)


def compare(estimates: Sequence[dict[str, Tensor]], exact: dict[str, Tensor], part: list[str]) -> tuple[float, float]:
    """Relative bias and deviation of a part of the weights' gradient."""
    flat = torch.stack([torch.cat([one[name].flatten() for name in part]) for one in estimates])
    truth = torch.cat([exact[name].flatten() for name in part])
    variance = flat.var(0).sum()
    bias = ((flat.mean(0) - truth).square().sum() - variance / len(flat)).clamp(min=0).sqrt()
    return (bias / truth.norm()).item(), ((variance * COPIES).sqrt() / truth.norm()).item()


def gradient(model: WorldModel, value: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, weights, allow_unused=True)
    return {n: torch.zeros_like(w) if g is None else g for n, w, g in zip(names, weights, found, strict=True)}


def exact_bound(model: WorldModel, batch: Batch) -> Tensor:
    """The bound in nats per row, as a sum over all paths, differentiable in everything that it depends on."""
    rssm, embed, targets = model.dynamics, model.embed_sequence(batch), model.targets(batch)
    paths = one_hot(torch.tensor(list(itertools.product(range(CLASSES), repeat=ROWS))), CLASSES).double()
    P, B = len(paths), len(batch.valid)

    def each(x: Tensor) -> Tensor:  # [B, ...] -> [P * B, ...]
        return x.repeat(P, *[1] * (x.dim() - 1))

    state, log_q, terms = rssm.initial(P * B), torch.zeros(P * B).double(), torch.zeros(P * B).double()
    for t in range(ROWS):
        _, deter = rssm.step(state, each(batch.prev_action[:, t]), each(batch.is_first[:, t]))
        posterior = rssm.posterior(deter, rssm.project(each(embed[:, t])))
        state = State(deter, paths[:, t].repeat_interleave(B, 0))
        terms = terms - posterior.kl(rssm.prior(deter)).sum(-1)
        log_q = log_q + posterior.log_prob(state.stoch).sum(-1)
        for name, likelihood in model.decode(state).items():
            value, seen = likelihood.log_prob(each(targets[name][:, t])), model.observed(batch).get(name)
            terms = terms + (value if seen is None else torch.where(each(seen[:, t]), value, 0.0))
    return (log_q.exp() * terms).sum() / (B * ROWS)


def use(model: WorldModel, name: str) -> None:
    unimix = model.dynamics.latent.unimix
    model.dynamics.latent = CategoricalFamily(1, CLASSES, unimix, name)


if __name__ == "__main__":
    main()
