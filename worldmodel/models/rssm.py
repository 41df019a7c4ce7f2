"""The recurrent state-space model: a learned filter.

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})    step: the deterministic path, no sampling
    z_t ~ p(z_t | h_t)                    prior: the learned transition
    z_t ~ q(z_t | h_t, x_t)               posterior, once x_t is seen (and what follows, if it smooths)

`observe` and `imagine` are the loops over them. What does not depend on the recurrent state (projections of actions and
embeddings) is computed before the loop for all steps at once, what only reads states (the prior) after it; inside
remains `RSSM._filter`, a pure function of tensors that compiles by itself. For the block GRU, `observe`'s loop is one
autograd function instead (`models.scan`). Noise is drawn before the loop, so that both of them, eager, compiled and
resumed runs draw the same numbers.

Sources: Hafner et al. 2019 (PlaNet), arXiv 1811.04551, equation 4; Hafner et al. 2023 (DreamerV3), arXiv 2301.04104.
"""

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import silu

from worldmodel.models.full_gaussian import FullGaussianFamily
from worldmodel.models.imagine_loop import imagine_loop
from worldmodel.models.latents import LatentFamily
from worldmodel.models.networks import BlockLinear, blocks_of, mlp, side_by_side
from worldmodel.models.scan import scan
from worldmodel.models.scan_parts import gather, gather_for_imagining
from worldmodel.types import Act, BalancedLatent, State, Trajectory

Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # (h, z, projected action) -> the next h


class BlockGRU(nn.Module):
    """DreamerV3's recurrence: every block sees its own share of h and all of (h, z, a) through narrow inputs.

        r, c, u = gates( silu(norm( mix_g(h_g, in(h), in(z), in(a)) )) )
        h' = sigmoid(u - 1) * tanh(sigmoid(r) * c) + (1 - sigmoid(u - 1)) * h

    The -1 keeps most of h at first.
    """

    def __init__(self, deter: int, stoch: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.deter_in = mlp([deter, hidden])
        self.stoch_in = mlp([stoch, hidden])
        self.mix = BlockLinear(deter + blocks * 3 * hidden, deter, blocks)
        self.norm = nn.LayerNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def forward(
        self, deter: Float[Tensor, "B D"], stoch: Float[Tensor, "B Z"], action_in: Float[Tensor, "B I"]
    ) -> Float[Tensor, "B D"]:
        """One step, given the projected action."""
        own, shared = self._mix_weights()
        mixed = torch.bmm(self._inputs(deter, stoch, action_in).expand(self.blocks, -1, -1), shared)
        mixed = torch.baddbmm(mixed, self._blocks(deter), own)  # [G, B, d]
        return self._gate(side_by_side(mixed) + self.mix.bias, deter)

    def read_action(self, action_in: Float[Tensor, "B T I"]) -> Float[Tensor, "B T D"]:
        """The action's part of the mix, and the mix's bias: all of it that no state changes."""
        weight = self.mix.weight[:, -action_in.shape[-1] :]
        return action_in @ rearrange(weight, "G i d -> i (G d)") + self.mix.bias

    def unrolled(self) -> Step:
        """`forward` for many steps: the blocks' matrices are laid side by side once, so that what they share is one."""
        own, shared = self._mix_weights()
        dense = rearrange(shared, "G i d -> i (G d)")

        def step(deter: Tensor, stoch: Tensor, action_in: Tensor) -> Tensor:
            mixed = torch.addmm(self.mix.bias, self._inputs(deter, stoch, action_in), dense)
            return self._gate(mixed + side_by_side(torch.bmm(self._blocks(deter), own)), deter)

        return step

    def _inputs(self, deter: Tensor, stoch: Tensor, action_in: Tensor) -> Float[Tensor, "B J"]:
        """What every block reads."""
        return torch.cat([self.deter_in(deter), self.stoch_in(stoch), action_in], -1)

    def _mix_weights(self) -> tuple[Float[Tensor, "G d d"], Float[Tensor, "G J d"]]:
        """What each block reads its own share of h with, and what it reads `_inputs` with."""
        _, inputs, own = self.mix.weight.shape
        return self.mix.weight.split([own, inputs - own], 1)

    def _blocks(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "G B d"]:
        return blocks_of(x, self.blocks)

    def _gate(self, mixed: Float[Tensor, "B D"], deter: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        reset, candidate, update = self.gates(silu(self.norm(mixed))).chunk(3, -1)  # [G, B, d] each
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return side_by_side(torch.lerp(self._blocks(deter), candidate, torch.sigmoid(update - 1)))


class PlainGRU(nn.Module):
    """torch's GRUCell over projected (z, a)."""

    def __init__(self, deter: int, stoch: int, hidden: int) -> None:
        super().__init__()
        self.stoch_in = mlp([stoch, hidden])
        self.gru = nn.GRUCell(2 * hidden, deter)

    def forward(
        self, deter: Float[Tensor, "B D"], stoch: Float[Tensor, "B Z"], action_in: Float[Tensor, "B I"]
    ) -> Float[Tensor, "B D"]:
        """One step, given the projected action."""
        return self.gru(torch.cat([self.stoch_in(stoch), action_in], -1), deter)

    def unrolled(self) -> Step:
        """`forward` for many steps."""
        return self


class BareGRU(nn.Module):
    """torch's GRUCell over (z, a) as they are: the cheapest, and linear in what it reads before the gates."""

    def __init__(self, deter: int, stoch: int, action: int) -> None:
        super().__init__()
        self.gru = nn.GRUCell(stoch + action, deter)

    def forward(
        self, deter: Float[Tensor, "B D"], stoch: Float[Tensor, "B Z"], action_in: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B D"]:
        """One step, given the action."""
        return self.gru(torch.cat([stoch, action_in], -1), deter)

    def unrolled(self) -> Step:
        """`forward` for many steps."""
        return self


Cell = BlockGRU | PlainGRU | BareGRU


def runs_as_scan(cell: Cell, latent: LatentFamily, compiled: bool) -> bool:
    """Whether `observe` is one autograd function: for block GRUs whose samples it can differentiate, left uncompiled.

    It knows no gradient of ReinMax and no full covariance, and a step that was compiled is there to be run.
    """
    known = latent.gradient != "reinmax" and not isinstance(latent, FullGaussianFamily)
    return isinstance(cell, BlockGRU) and known and not compiled


def imagines_lean(cell: Cell, latent: LatentFamily) -> bool:
    """Whether `imagine` runs as `imagine_loop`: for block GRUs, where no gradient is wanted.

    It knows no full covariance either.
    """
    return isinstance(cell, BlockGRU) and not isinstance(latent, FullGaussianFamily) and not torch.is_grad_enabled()


class RSSM(nn.Module):
    """The learned filter, a `Dynamics` that carries (h_t, z_t) from zeros; h_1 = f(0, 0, 0) is a learned constant."""

    def __init__(
        self,
        *,
        embed: int,
        action: int,
        deter: int,
        hidden: int,
        latent: LatentFamily,
        cell: Literal["block_gru", "gru", "bare_gru"] = "block_gru",
        blocks: int = 1,
        posterior_layers: int = 1,
        prior_layers: int = 1,
        skip: bool = False,
    ) -> None:
        """Args:
        embed, action, deter: widths E, A and D.
        hidden: width of cell inputs and of the hidden layers of posterior and prior.
        latent: the family of z_t.
        cell, blocks: the recurrence f; blocks divides deter.
        posterior_layers, prior_layers: hidden layers of the two heads.
        skip: whether linear maps past these layers are added: of (h_t, embedding), and of h_t.
        """
        super().__init__()
        self.deter, self.latent, self.hidden, self.skip = deter, latent, hidden, skip
        self.cell: Cell
        if cell == "block_gru":
            self.cell = BlockGRU(deter, latent.width, hidden, blocks)
        elif cell == "gru":
            self.cell = PlainGRU(deter, latent.width, hidden)
        else:
            self.cell = BareGRU(deter, latent.width, action)
        self.action_in = nn.Identity() if cell == "bare_gru" else mlp([action, hidden])
        # The posterior's first layer reads (h_t, embedding); its matrix is kept in two parts, so that the embedding's
        # part leaves the loop. The linear map past the other layers is part of it too.
        width = hidden + latent.parameters * skip
        self.posterior_embed = nn.Linear(embed, width)
        self.posterior_deter = nn.Linear(deter, width, bias=False)
        self.posterior_rest = nn.Sequential(
            nn.LayerNorm(hidden), nn.SiLU(), mlp([hidden] * posterior_layers), nn.Linear(hidden, latent.parameters)
        )
        self.prior_head = nn.Sequential(mlp([deter] + [hidden] * prior_layers), nn.Linear(hidden, latent.parameters))
        self.prior_skip = nn.Linear(deter, latent.parameters, bias=False) if skip else None
        if isinstance(latent, FullGaussianFamily):
            self._begin_diagonal(latent)
        self._filter_step = self._filter
        self._compiled = False

    def initial(self, batch: int) -> State:
        """The empty state before an episode's first row, [B, ...]."""
        weight = self.posterior_deter.weight
        return State(weight.new_zeros(batch, self.deter), weight.new_zeros(batch, self.latent.width))

    def noise(self, batch: int, steps: int, generator: torch.Generator | None = None) -> Float[Tensor, "B T *noise"]:
        """The noise that `observe` or `imagine` turns into samples."""
        return self.latent.noise(batch, steps, like=self.posterior_deter.weight, generator=generator)

    @property
    def marginal_gradient(self) -> bool:
        """Whether likelihoods' gradients reach q by summing over classes; see `objectives.marginal`."""
        return self.latent.gradient == "marginal"

    def step(
        self, carry: State, prev_action: Float[Tensor, "B A"], is_first: Bool[Tensor, " B"] | None = None
    ) -> tuple[State, Float[Tensor, "B D"]]:
        """The carry as it was, and h_t from it and the action; from nothing where an episode begins."""
        if is_first is None:
            return carry, self.cell(*carry, self.action_in(prev_action))
        keep = self._keep(is_first)
        return carry, self.cell(carry.deter * keep, carry.stoch * keep, self.action_in(prev_action * keep))

    def advance(self, carry: State, state: State) -> State:
        """(h_t, z_t)."""
        return state

    def carry_of(self, state: State) -> State:
        """(h_t, z_t) again: nothing else is remembered."""
        return state

    def project(self, embed: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch I"]:
        """The embedding's part of the posterior's first layer: all that q reads of a row."""
        return self.posterior_embed(embed)

    def posterior(self, deter: Float[Tensor, "*batch D"], projected: Float[Tensor, "*#batch I"]) -> BalancedLatent:
        """q(z_t | h_t, x_t) from what it reads of row t; many h_t may share one row."""
        return self.latent.distribution(self._posterior_raw(deter, projected))

    def prior(self, deter: Float[Tensor, "*batch D"]) -> BalancedLatent:
        """p(z_t | h_t)."""
        raw = self.prior_head(deter)
        return self.latent.distribution(raw if self.prior_skip is None else raw + self.prior_skip(deter))

    def observe(
        self,
        embed: Float[Tensor, "B T E"],
        prev_action: Float[Tensor, "B T A"],
        is_first: Bool[Tensor, "B T"],
        noise: Float[Tensor, "B T *noise"],
        carry: State | None = None,
        *,
        plain_loop: bool = False,
    ) -> Trajectory:
        """Filter a sequence, beginning anew where `is_first`; starts from `carry`, or the initial carry.

        Where `runs_as_scan` says so the loop is `scan`, which can be differentiated once, backward. The plain loop
        defines what is correct, has derivatives of all kinds, and runs instead where it is asked for.
        """
        keep = self._keep(is_first)
        action_in = self.action_in(prev_action * keep)
        inputs = (action_in, self.project(embed), keep, noise)
        scans = not plain_loop and runs_as_scan(self.cell, self.latent, self._compiled)
        deters, stochs, raws = (self._scan if scans else self._loop)(*inputs, carry or self.initial(embed.shape[0]))
        states, last = State(deters, stochs), State(deters[:, -1], stochs[:, -1])  # [B, T, D], [B, T, Z]
        return Trajectory(states, self.latent.distribution(raws), self.prior(deters), carry=last)

    def imagine(
        self,
        carry: State,
        state: State,
        act: Act,
        noise: Float[Tensor, "B H *noise"],
        *,
        plain_loop: bool = False,
    ) -> tuple[State, Float[Tensor, "B H A"]]:
        """Roll the prior forward: the states [B, H, ...] after each of H actions that `act` chooses, and the actions.

        The carry is the state itself, so that `state` is not read. Where `imagines_lean` says so the loop is
        `imagine_loop`; the plain loop defines what is correct, and runs instead where it is asked for.
        """
        if not plain_loop and imagines_lean(self.cell, self.latent):
            return self._imagine_lean(carry, act, noise)
        states, actions, step = [], [], self.cell.unrolled()
        for noise_t in noise.unbind(1):
            actions.append(act(carry))
            deter = step(*carry, self.action_in(actions[-1]))
            carry = State(deter, self.prior(deter).rsample(noise_t))
            states.append(carry)
        deter, stoch = (torch.stack(parts, 1) for parts in zip(*states, strict=True))
        return State(deter, stoch), torch.stack(actions, 1)

    def compile(self) -> None:
        """Compile the body of `observe`'s loop; the loop itself stays eager, since unrolled it compiles for minutes."""
        self._filter_step = torch.compile(self._filter, fullgraph=True)
        self._compiled = True

    def _scan(
        self, action_in: Tensor, embed_in: Tensor, keep: Tensor, noise: Tensor, carry: State
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `_loop` returns, as one autograd function."""
        assert isinstance(self.cell, BlockGRU)
        weights = gather(self.cell, self.posterior_deter.weight, self.posterior_rest)
        action_mix = self.cell.read_action(action_in)
        return scan(weights, self.latent, action_mix, embed_in, keep, noise, *carry, self.cell.norm.eps)

    def _imagine_lean(self, state: State, act: Act, noise: Tensor) -> tuple[State, Tensor]:
        """What the plain loop of `imagine` returns, with no gradient behind it."""
        assert isinstance(self.cell, BlockGRU)
        weights = gather_for_imagining(self.cell, self.action_in, self.prior_head, self.prior_skip)
        return imagine_loop(weights, self.latent, act, noise, state, self.cell.norm.eps)

    def _loop(
        self, action_in: Tensor, embed_in: Tensor, keep: Tensor, noise: Tensor, carry: State
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h_t, z_t and the posterior's parameters [B, T, ...], step by step."""
        deter, stoch = carry
        deters, stochs, raws = [], [], []
        steps = (x.unbind(1) for x in (action_in, embed_in, keep, noise))
        for inputs in zip(*steps, strict=True):
            deter, stoch, raw = self._filter_step(deter, stoch, *inputs)
            deters.append(deter)
            stochs.append(stoch)
            raws.append(raw)
        return torch.stack(deters, 1), torch.stack(stochs, 1), torch.stack(raws, 1)

    def _filter(
        self, deter: Tensor, stoch: Tensor, action_in: Tensor, embed_in: Tensor, keep: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`step`, `posterior` and a sample, on projected inputs of one step: -> h_t, z_t, posterior parameters."""
        deter = self.cell(deter * keep, stoch * keep, action_in)
        raw = self._posterior_raw(deter, embed_in)
        return deter, self.latent.distribution(raw).rsample(noise), raw

    @torch.no_grad()
    def _begin_diagonal(self, latent: FullGaussianFamily) -> None:
        """Zero the rows of all matrices that put out what is beside the diagonal: training starts from independence."""
        last: list[nn.Module | None] = [self.posterior_rest[-1], self.prior_head[-1], self.prior_skip]
        rows = [(linear, latent.beside_the_diagonal) for linear in last]
        past = slice(self.hidden + latent.beside_the_diagonal.start, None)  # none without `skip`
        rows += [(linear, past) for linear in (self.posterior_embed, self.posterior_deter)]
        for linear, which in rows:
            for parameter in () if linear is None else linear.parameters():
                parameter[which] = 0

    def _posterior_raw(self, deter: Tensor, embed_in: Tensor) -> Tensor:
        first = self.posterior_deter(deter) + embed_in
        if not self.skip:
            return self.posterior_rest(first)
        return self.posterior_rest(first[..., : self.hidden]) + first[..., self.hidden :]

    def _keep(self, is_first: Tensor) -> Tensor:
        return (~is_first)[..., None].to(self.posterior_deter.weight.dtype)
