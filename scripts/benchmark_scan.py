"""What an update of the recurrent part costs, beside its bare matrix products and beside TorchRL's; and other loops.

    python scripts/benchmark_scan.py               processor times of one thread, and counts of operations
    python scripts/benchmark_scan.py --compiled    with compiled steps at the first size too, minutes of start-up
    python scripts/benchmark_scan.py --loops       imagination and acting alone
    python scripts/benchmark_scan.py --write       what was measured, into docs/performance.md

Everything is interleaved in one process, and a figure is the median of seven: only ratios within one run mean anything.
TorchRL is an extra: pip install "worldmodel[bench]". Where it is missing its rows are left out.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from benchmark_kl import Operations
from docs_blocks import write_block
from torch import Tensor

from worldmodel import build, build_networks
from worldmodel.behaviour.imagination import scripted
from worldmodel.build_acting import build_agent, build_behaviour_learner
from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data.random_batch import random_batch
from worldmodel.kernels.kl import balanced_categorical_kl
from worldmodel.models import rssm as rssm_module
from worldmodel.models.latents import CategoricalFamily, GaussianFamily, LatentFamily
from worldmodel.models.rssm import RSSM
from worldmodel.models.scan_parts import gather
from worldmodel.models.world_model import WorldModel
from worldmodel.training.behaviour_learner import BehaviourLearner
from worldmodel.types import ActionSpec, Batch, EnvSpec, ObservationSpec, State

REPEATS = 7
ACTION, UNIMIX = 6, 0.01
DYN, REP, FREE = 0.5, 0.1, 1.0


@dataclass(frozen=True)
class Sizes:
    """One setting to measure."""

    name: str
    latent: LatentFamily
    deter: int = 512
    blocks: int = 8
    hidden: int = 256
    embed: int = 512
    batch: int = 16
    length: int = 64

    def model(self) -> RSSM:
        """With DreamerV3's two prior layers."""
        torch.manual_seed(0)
        return RSSM(
            embed=self.embed, action=ACTION, deter=self.deter, hidden=self.hidden, latent=self.latent,
            blocks=self.blocks, prior_layers=2,
        )  # fmt: skip

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings that want a gradient, actions and first rows."""
        shape = (self.batch, self.length)
        is_first = torch.zeros(shape, dtype=torch.bool)
        is_first[:, 0] = is_first[0, self.length // 2] = True
        return torch.randn(*shape, self.embed).requires_grad_(), torch.randn(*shape, ACTION), is_first


CATEGORICAL = CategoricalFamily(32, 32, UNIMIX)
SIZES = [
    Sizes("deter 512, 32 x 32 classes", CATEGORICAL),
    Sizes("deter 2048, 32 x 32 classes", CATEGORICAL, deter=2048),
    Sizes("deter 512, 32 Gaussians", GaussianFamily(32, 0.1)),
    Sizes("deter 128, 8 Gaussians", GaussianFamily(8, 0.01), deter=128, blocks=4, hidden=64, embed=64, length=48),
    Sizes("the same, batch 64", GaussianFamily(8, 0.01), deter=128, blocks=4, hidden=64, embed=64, length=48, batch=64),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", action="store_true", help="measure compiled steps as well")
    parser.add_argument("--loops", action="store_true", help="measure imagination and acting alone")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    blocks = {"loops": lambda: [other_loops(), imagination_of_presets(), shares_of_an_update()]}
    if not options.loops:
        blocks["scan"] = lambda: [updates(options.compiled), whole_update()]
    for name, tables in blocks.items():
        text = "\n\n".join(tables())
        print(text)
        if options.write:
            write_block("performance.md", name, text)
    return 0


def updates(compiled: bool) -> str:
    """Markdown: forward and backward of the loop, the prior and the balanced KL."""
    lines = [
        "| loop, prior and balanced KL, forward and backward | ms | of TorchRL's best | of its bare products |",
        "| --- | --- | --- | --- |",
    ]
    for sizes in SIZES:
        contestants = {"bare products": bare_products(sizes), **our_updates(sizes, compiled and sizes is SIZES[0])}
        if has_torchrl() and isinstance(sizes.latent, CategoricalFamily):
            contestants |= torchrl_updates(sizes, compiled and sizes is SIZES[0])
        lines += rows(sizes.name, interleaved(contestants))
    return "\n".join(lines)


def rows(name: str, times: dict[str, float], *, products: bool = True) -> list[str]:
    """A row a contestant, in milliseconds, beside the best of TorchRL and the bare products where there are such.

    Args:
        name: what all of them compute.
        times: of each contestant.
        products: whether there is a column for the bare products.
    """
    peers = [t for contestant, t in times.items() if contestant.startswith("TorchRL")]
    lines = []
    for contestant, t in times.items():
        of_peer = f"{t / min(peers):.2f}" if peers else ""
        cells = [f"{name}: {contestant}", f"{t:.1f}", of_peer]
        if products:
            cells.append(f"{t / times['bare products']:.2f}" if "bare products" in times else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def interleaved(contestants: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, float]:
    """Median processor time of each in milliseconds, one call after the other, in turns."""
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: 1e3 * statistics.median(each) for name, each in times.items()}


def our_updates(sizes: Sizes, compiled: bool) -> dict[str, Callable[[], None]]:
    """The scan and the plain loop."""
    model, (embed, action, is_first) = sizes.model(), sizes.rows()
    noise = model.noise(sizes.batch, sizes.length)

    def update(model: RSSM, plain_loop: bool) -> None:
        explained = model.observe(embed, action, is_first, noise, plain_loop=plain_loop)
        explained.posterior.balanced_kl(explained.prior, dyn=DYN, rep=REP, free_nats=FREE).balanced.mean().backward()
        model.zero_grad()

    contestants = {"plain loop": partial(update, model, True), "scan": partial(update, model, False)}
    if compiled:
        other = sizes.model()
        other.compile()
        contestants["plain loop, compiled step"] = partial(update, other, True)
    return contestants


def bare_products(sizes: Sizes) -> Callable[[], None]:
    """The matrix products that an update cannot do without, and nothing else: weights' gradients once, at the end."""
    model, rows = sizes.model(), sizes.batch * sizes.length
    w = gather(model.cell, model.posterior_deter.weight, model.posterior_rest)
    outside = [
        model.posterior_embed.weight, model.action_in[0].weight, torch.empty(sizes.deter, sizes.hidden),
        *(m.weight for m in model.prior_head.modules() if isinstance(m, torch.nn.Linear)),
    ]  # fmt: skip
    looped = [w.recurrent.T, w.stoch.T, w.shared, w.own, w.gates, *(matrix.T for matrix in w.layers[2::4])]
    looped = [matrix.detach() for matrix in looped]
    outside = [matrix.detach().T for matrix in outside]

    def operand(matrix: Tensor, side: int, count: int) -> Tensor:
        return torch.randn(*matrix.shape[:-2], count, matrix.shape[side])

    steps = [(matrix, operand(matrix, -2, sizes.batch), operand(matrix, -1, sizes.batch)) for matrix in looped]
    whole = [(matrix, operand(matrix, -2, rows), operand(matrix, -1, rows)) for matrix in (*looped, *outside)]

    def run() -> None:
        for _ in range(sizes.length):
            for matrix, before, after in steps:
                before @ matrix
                after @ matrix.mT
        for _, before, after in whole:
            before.mT @ after
        for matrix, before, after in whole[len(looped) :]:
            before @ matrix
            after @ matrix.mT

    return torch.no_grad()(run)


def other_loops() -> str:
    """Markdown: imagination, and one step of acting, both without gradients."""
    lines = ["| without gradients | ms | of TorchRL's |", "| --- | --- | --- |"]
    sizes = SIZES[0]
    model = sizes.model()
    state, action = model.initial(1024), torch.randn(1024, 15, ACTION)
    noise, first, embed = model.noise(1024, 15), torch.zeros(1, dtype=torch.bool), torch.randn(1, sizes.embed)

    def act() -> None:
        for _ in range(100):
            _, deter = model.step(model.initial(1), action[:1, 0], first)
            model.posterior(deter, model.project(embed)).rsample(noise[:1, 0])

    imagining = {
        "plain loop": lambda: model.imagine(state, state, scripted(action[None]), noise, plain_loop=True),
        "imagine": lambda: model.imagine(state, state, scripted(action[None]), noise),
    }
    acting = {"act": act}
    if has_torchrl():
        prior, posterior = torchrl_parts(sizes)
        imagining["TorchRL"] = partial(torchrl_imagine, prior, state, action)
        acting["TorchRL"] = partial(torchrl_act, prior, posterior, model.initial(1), action[:1, 0], embed)
    with torch.no_grad():
        lines += rows("1,024 states, 15 steps", interleaved(imagining), products=False)
        lines += rows("100 steps of one environment", interleaved(acting), products=False)
    return "\n".join(lines)


def imagination_of_presets() -> str:
    """Markdown: what an update of actor and critic imagines, decoded rewards and continuations included."""
    lines = ["| imagined by an update of the actor | ms | of the plain loop's |", "| --- | --- | --- |"]
    specs = {"cartpole": (4, ActionSpec("categorical", 2, (2,))), "pendulum": (3, ActionSpec("continuous", 1))}
    for name, (width, action) in specs.items():
        config = read_config(name)
        torch.manual_seed(0)
        world = build_networks.build_model(config, EnvSpec({"obs": ObservationSpec("vector", (width,))}, action))
        agent = build_agent(config, world)
        assert agent is not None
        learner = BehaviourLearner(
            agent, world, torch.Generator(), starts=64, horizon=config.behaviour.horizon, discount=0.99,
            optimizer="adamw", learning_rate=1e-4, clip_norm=100.0,
        )  # fmt: skip
        start, counts = State(torch.randn(64, config.rssm.deter), torch.randn(64, config.rssm.stoch)), torch.ones(64)

        def imagine(lean: bool, learner: Any = learner, start: State = start, counts: Tensor = counts) -> None:
            rule = rssm_module.imagines_lean if lean else lambda *_: False
            with patch.object(rssm_module, "imagines_lean", rule):
                dream = learner._imagine(start, counts)
            if dream.reward.requires_grad:
                dream.reward.mean().backward(inputs=list(learner.model.actor.parameters()))

        times = interleaved({"plain loop": partial(imagine, False), "as it runs": partial(imagine, True)}, 10 * REPEATS)
        kind = f"{agent.gradient}, 64 x {config.behaviour.horizon}"
        for loop, t in times.items():
            lines.append(f"| `{name}` ({kind}): {loop} | {t:.1f} | {t / times['plain loop']:.2f} |")
    return "\n".join(lines)


def whole_update() -> str:
    """Markdown: one whole update of the world model of Pendulum-v1, by loop."""
    config, world, batch, generator = pendulum("pendulum_random")
    learner = build.build_learner(config, world, generator)

    def update(scans: bool) -> None:
        with patch.object(rssm_module, "runs_as_scan", lambda *_: scans):
            learner.update(batch)

    contestants = {"plain loop": partial(update, False), "scan": partial(update, True)}
    times = interleaved(contestants)
    lines = ["| an update of `pendulum_random` | ms | of the plain loop's | operations |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *counted_rows(contestants, times, times["plain loop"])])


def shares_of_an_update() -> str:
    """Markdown: what the world model costs in an update of the default job, and what its actor and critic do."""
    config, world, batch, generator = pendulum("pendulum")
    agent = build_agent(config, world)
    assert agent is not None
    learner = build.build_learner(config, world, generator)
    behaviour = build_behaviour_learner(config, agent, world, generator)
    made = {"world": learner.update(batch)}
    contestants = {
        "world model": lambda: learner.update(batch),
        "actor and critic": lambda: behaviour.update(batch, made),
    }
    times = interleaved(contestants)
    lines = ["| an update of `pendulum` | ms | share | operations |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *counted_rows(contestants, times, sum(times.values()))])


def pendulum(preset: str) -> tuple[Config, WorldModel, Batch, torch.Generator]:
    """The settings of a preset of Pendulum-v1, its world model, a random batch, and the generator that drew it."""
    config = read_config(preset)
    spec = EnvSpec({"obs": ObservationSpec("vector", (3,))}, ActionSpec("continuous", 1))
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(spec, config.replay.batch_size, config.replay.sequence_length, generator)
    torch.manual_seed(0)
    return config, build_networks.build_model(config, spec), batch, generator


def counted_rows(contestants: dict[str, Callable[[], Any]], times: dict[str, float], whole: float) -> list[str]:
    """A row a contestant: milliseconds, its part of the whole, and the operations of one call."""
    lines = []
    for name, run in contestants.items():
        with Operations() as counted:
            run()
        lines.append(f"| {name} | {times[name]:.1f} | {times[name] / whole:.2f} | {counted.count:,} |")
    return lines


def has_torchrl() -> bool:
    """Whether TorchRL is installed."""
    return importlib.util.find_spec("torchrl") is not None


def torchrl_parts(sizes: Sizes) -> tuple[Any, Any]:
    """Prior and posterior of the same sizes."""
    from torchrl.modules.models.model_based import RSSMPosteriorV3, RSSMPriorV3

    assert isinstance(sizes.latent, CategoricalFamily)
    common = {"hidden_dim": sizes.hidden, "rnn_hidden_dim": sizes.deter, "unimix": UNIMIX}
    common |= {"num_categoricals": sizes.latent.groups, "num_classes": sizes.latent.classes}
    block = {"recurrent_model": "block_gru", "num_blocks": sizes.blocks, "prior_num_layers": 2}
    prior = RSSMPriorV3(action_shape=torch.Size([ACTION]), action_dim=ACTION, **common, **block)
    return prior, RSSMPosteriorV3(obs_embed_dim=sizes.embed, use_rms_norm=True, num_layers=1, **common)


def torchrl_updates(sizes: Sizes, compiled: bool) -> dict[str, Callable[[], None]]:
    """TorchRL's rollout with its own KL, and with ours."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules.models.model_based import RSSMRolloutV3
    from torchrl.objectives.dreamer_v3 import categorical_kl_terms

    (embed, action, is_first), shape = sizes.rows(), (sizes.batch, sizes.length)
    state, belief = torch.zeros(*shape, sizes.latent.width), torch.zeros(*shape, sizes.deter)

    def rollout() -> Any:
        prior, posterior = torchrl_parts(sizes)
        outputs = [("next", "prior_logits"), ("next", "state"), ("next", "belief")]
        predicts = TensorDictModule(prior, in_keys=["state", "belief", "action"], out_keys=outputs)
        reads, writes = [("next", "belief"), ("next", "encoded_latents")], [("next", "posterior_logits"), outputs[1]]
        return RSSMRolloutV3(predicts, TensorDictModule(posterior, in_keys=reads, out_keys=writes))

    def its_kl(posterior: Tensor, prior: Tensor) -> Tensor:
        dynamics, representation = categorical_kl_terms(posterior, prior, FREE, UNIMIX)
        return DYN * dynamics + REP * representation

    def our_kl(posterior: Tensor, prior: Tensor) -> Tensor:
        settings = {"unimix": UNIMIX, "dyn": DYN, "rep": REP, "free_nats": FREE}
        return balanced_categorical_kl(posterior, prior, **settings).balanced.mean()

    def update(rollout: Any, kl: Callable[[Tensor, Tensor], Tensor]) -> None:
        data = {"state": state, "belief": belief, "action": action, "is_init": is_first[..., None]}
        out = rollout(TensorDict(data | {"next": {"encoded_latents": embed}}, shape))
        kl(out["next", "posterior_logits"], out["next", "prior_logits"]).backward()
        rollout.zero_grad()

    eager = rollout()
    contestants = {"TorchRL": partial(update, eager, its_kl), "TorchRL, our KL": partial(update, eager, our_kl)}
    if compiled:
        other = rollout()
        other.compile_rollout("step")
        contestants["TorchRL, compiled step, our KL"] = partial(update, other, our_kl)
    return contestants


def torchrl_imagine(prior: Any, state: State, action: Tensor) -> None:
    """Its prior, step by step."""
    deter, stoch = state
    for a in action.unbind(1):
        _, stoch, deter = prior(stoch, deter, a)


def torchrl_act(prior: Any, posterior: Any, state: State, action: Tensor, embed: Tensor) -> None:
    """A hundred steps of filtering without the prior's head."""
    for _ in range(100):
        posterior(prior._update_belief(state.stoch, state.deter, action), embed)


if __name__ == "__main__":
    sys.exit(main())
