"""A small RSSM, trained on an environment whose exact evidence is known."""

import tempfile
from pathlib import Path

import torch

from scripts.tour.page import BOUND, GAP, RATE, SMC, TRUTH, Section, canvas, label, nats
from worldmodel.build_networks import build_model
from worldmodel.config_io import read_config
from worldmodel.data.batches import select
from worldmodel.data.environment import make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.evidence.estimate import Certificate, evidence
from worldmodel.evidence.sandwich import sandwich
from worldmodel.evidence.smc import smc
from worldmodel.models.simulation import simulate
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.elbo import sequence_elbo
from worldmodel.objectives.loss import Objective
from worldmodel.oracles.worlds import exact_evidence
from worldmodel.report.tables import doubts
from worldmodel.training.learner import Learner
from worldmodel.types import Batch, EnvSpec
from worldmodel_envs.linear_gaussian import LinearGaussian as Oscillators

ROWS = 32
PARTICLES = 128
SHARE = 0.1  # of the prior in the proposals, so that no weight is unbounded
SETTINGS = {
    "encoder.layers": 1,
    "encoder.units": 48,
    "encoder.reward": True,
    "encoder.skip": True,
    "rssm.cell": "gru",
    "rssm.blocks": 1,
    "rssm.deter": 48,
    "rssm.hidden": 48,
    "rssm.stoch": 4,
    "rssm.skip": True,
    "decoder.layers": 1,
    "decoder.units": 48,
}


def collect(episodes: int, seed: int) -> tuple[EnvSpec, Batch]:
    """Episodes of `worldmodel/LinearGaussian-v0` under random actions, as a run stores and reads them."""
    with tempfile.TemporaryDirectory() as folder:
        env = make_environments("worldmodel/LinearGaussian-v0", count=16, time_limit=ROWS - 1)
        with env, Replay(Path(folder) / "rows", env.spec, capacity=episodes * ROWS, streams=16) as replay:
            policy = RandomPolicy(env.spec.action, torch.Generator().manual_seed(seed))
            rollout = Rollout(env, policy, seed)
            for _ in range(episodes * ROWS // 16):
                replay.append(rollout.step())
            replay.flush()
            return env.spec, read_episodes(Path(folder) / "rows", ROWS)


def per_row(model: WorldModel, heldout: Batch, particles: int, generator: torch.Generator) -> tuple[float, float]:
    """ELBO and SMC evidence in nats per row."""
    sequence = model.given(heldout)
    bound = sequence_elbo(sequence, 8, generator=generator).elbo.mean().item()
    return bound, smc(sequence, particles, generator=generator, prior_share=SHARE).log_evidence.mean().item() / ROWS


def train(updates: int, heldout: Batch, generator: torch.Generator) -> tuple[WorldModel, list]:
    """A small world model by gradient steps on the bound; rows of (update, ELBO, SMC) on held-out episodes."""
    spec, episodes = collect(64 if updates < 100 else 1024, seed=1)
    model = build_model(read_config((), SETTINGS), spec)
    reward = episodes.reward[:, 1:]
    model.standardise("obs", episodes.obs["obs"].mean((0, 1)), episodes.obs["obs"].std((0, 1)))
    model.standardise("reward", reward.mean()[None], reward.std()[None])
    schedule = {"learning_rate": 4e-3, "warmup": 20, "final_fraction": 0.02, "total_updates": updates}
    learner, rows = Learner(model, Objective(), generator, clip_norm=100.0, weight_decay=0.0, eps=1e-8, **schedule), []
    for update in range(updates + 1):
        if update % (updates // 10) == 0:
            rows.append((update, *per_row(model, heldout, 64, generator)))
        learner.update(select(episodes, torch.randint(len(episodes.valid), (24,), generator=generator)))
    return model, rows


def rssm(quick: bool, generator: torch.Generator) -> Section:
    """Bound and SMC evidence of a small RSSM over training, under the exact evidence of the environment."""
    _, heldout = collect(16 if quick else 64, seed=2)
    exact = exact_evidence(Oscillators().law, heldout)["total"]
    truth = exact.mean().item()
    model, rows = train(20 if quick else 700, heldout, generator)
    update, bound, estimate = zip(*rows, strict=True)
    figure, (left, right) = canvas(1, 2)
    left.axhline(truth, color=TRUTH, ls="--", label="log p(x), Kalman filter")
    left.plot(update, estimate, color=SMC, label="SMC, 64 particles")
    left.plot(update, bound, color=BOUND, label="ELBO")
    left.fill_between(update, bound, estimate, color=GAP, alpha=0.22, lw=0, label="gap")
    left.set_ylim(truth - 1.6, truth + 0.15)
    label(left, "A small RSSM learns an exact world", "updates", "nats per row, held out")
    left.legend(loc="lower right")
    one = select(heldout, slice(1))
    filtered = smc(model.given(one), 1024, generator=generator, prior_share=SHARE)
    step = range(1, ROWS + 1)
    right.plot(step, exact[0], "o--", ms=3, color=TRUTH, lw=1, label="log p(x_t | x_<t), exact")
    right.plot(step, filtered.increment[0], color=SMC, label="the model's, by SMC")
    kl = sequence_elbo(model.given(one), 64, generator=generator).kl.mean((0, 1))
    right.plot(step, -kl, color=RATE, label="−KL(q || p(z_t | h_t))")
    label(right, "One held-out episode, row by row", "row t", "nats")
    right.set_ylim(bottom=right.get_ylim()[0] - 2.2)
    right.legend(loc="lower right")
    dreamt = simulate(model, heldout, generator=generator)
    sequence = model.given(dreamt.batch)
    particles = PARTICLES // 8 if quick else PARTICLES
    width = sandwich(sequence, dreamt.path, particles, generator=generator, prior_share=SHARE).width
    final = evidence(model.given(heldout), particles, runs=1, generator=generator, prior_share=SHARE)
    doubt = doubts(Certificate(final.gap, width, final.degenerate_rows))
    return Section(
        figure,
        {
            "exact evidence per row": nats(truth),
            f"SMC, {PARTICLES} particles": nats(final.over_sequences("smc").mean),
            "ELBO": nats(final.over_sequences("elbo").mean),
            "gap of the posterior, SMC − ELBO": f"{nats(final.gap.mean)} ± {final.gap.error:.4f}",
            "what the model has not learned, exact − SMC": nats(truth - final.over_sequences("smc").mean),
            f"width of the sandwich, {PARTICLES} particles": f"{nats(width.mean)} ± {width.error:.4f}",
            "doubts": "; ".join(doubt) or "none",
        },
    )
