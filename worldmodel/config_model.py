"""Settings of the world model and of its loss: what the parts are, how wide, and what is minimised."""

from dataclasses import dataclass, field
from typing import Literal

from worldmodel.checks import not_negative, positive, require, require_path


@dataclass(frozen=True)
class EncoderConfig:
    """Observation x_t -> embedding [E]."""

    inputs: Literal["standardise", "symlog", "raw"] = "standardise"
    """Numbers are standardised by the prefill's mean and std, go through sign(x) log(1 + |x|), or stay as they are.
    Images are standardised too, or otherwise scaled to [-1/2, 1/2]."""
    layers: int = 2
    """Hidden layers of the perceptron that reads everything but images."""
    units: int = 128
    """Width of these layers, and of the perceptron's part of the embedding."""
    depth: int = 16
    """Channels of the first convolution; they double each time the image halves."""
    reward: bool = False
    """Whether the posterior sees the reward of a step as one more observation."""
    skip: bool = False
    """Append the perceptron's inputs, unchanged, to the embedding."""
    factory: str | None = None
    """`module:name` of a function (settings, spec) that makes an encoder of one's own. It is imported to train, and
    never by opening a run unless it is asked to."""

    def __post_init__(self) -> None:
        positive(self, "encoder", "layers", "units", "depth")
        require_path("encoder.factory", self.factory)


@dataclass(frozen=True)
class RSSMConfig:
    """The recurrent state-space model: h_t and z_t."""

    cell: Literal["block_gru", "gru", "bare_gru"] = "block_gru"
    """DreamerV3's block-diagonal GRU, a plain GRU over projections of (z, a), or one over (z, a) as they are."""
    deter: int = 128
    """Width of the deterministic state h_t (D)."""
    hidden: int = 128
    """Width of the layers around it: cell inputs, posterior and prior heads."""
    blocks: int = 4
    """Diagonal blocks of the block GRU; divides deter. Must be 1 for the other two, which have none."""
    latent: Literal["gaussian", "gaussian_full", "categorical"] = "gaussian"
    """The family of z_t: a diagonal Gaussian; a Gaussian with a full covariance, under prior and posterior alike, whose
    KL is of all of z_t together; or groups of one-hot categoricals."""
    stoch: int = 8
    """Latent groups (S). For Gaussian latents this is the width of z_t; no less than the observation's is best. With
    gaussian_full, heads put out stoch (stoch + 3) / 2 numbers."""
    classes: int = 16
    """Classes per group (K) of a categorical latent."""
    unimix: float = 0.01
    """Share of the uniform distribution mixed into categorical posteriors and priors alike."""
    gradient: Literal["straight_through", "reinmax", "marginal"] = "straight_through"
    """Gradient through the samples of a categorical latent. `marginal` sums the likelihoods over the classes of each
    group exactly, which decodes stoch * classes states a step: for small observations. Gaussian latents are
    reparameterised and need straight_through here."""
    min_std: float = 0.01
    """Smallest standard deviation of a Gaussian latent; with gaussian_full, of each entry given those before it."""
    posterior_layers: int = 1
    """Hidden layers between (h_t, embedding) and the posterior's parameters."""
    prior_layers: int = 1
    """Hidden layers between h_t and the prior's parameters."""
    posterior: Literal["filtering", "smoothing"] = "filtering"
    """q(z_t | h_t, x_t); or q(z_t | h_t, x_t:T), by a backward recurrent network over what follows, `hidden` wide.
    Acting and imagining always filter: nothing follows there."""
    skip: bool = False
    """Add linear maps of (h_t, embedding) to the posterior's parameters, and of h_t to the prior's."""
    factory: str | None = None
    """`module:name` of a function (settings, spec, embed=E) that makes a recurrence of one's own, a `Dynamics`. It is
    imported to train, and never by opening a run unless it is asked to."""

    def __post_init__(self) -> None:
        require_path("rssm.factory", self.factory)
        positive(self, "rssm", "deter", "hidden", "blocks", "stoch", "classes", "min_std")
        positive(self, "rssm", "posterior_layers", "prior_layers")
        require(0 <= self.unimix < 1, "rssm.unimix", "a share in [0, 1)", self.unimix)
        of_samples = self.latent == "categorical" or self.gradient == "straight_through"
        require(of_samples, "rssm.gradient", "straight_through where latents are Gaussian", self.gradient)
        if self.cell != "block_gru":
            expected = f"1 where rssm.cell is {self.cell}, which has no blocks"
            require(self.blocks == 1, "rssm.blocks", expected, self.blocks)
        divides = self.deter % self.blocks == 0
        require(divides, "rssm.deter", f"a multiple of rssm.blocks = {self.blocks}", self.deter)


@dataclass(frozen=True)
class DecoderConfig:
    """States (h_t, z_t) -> likelihoods of observation, reward and continue."""

    reads: Literal["state", "stoch"] = "state"
    """What likelihoods are decoded from: h_t and z_t, or z_t alone, so that nothing is explained without it."""
    layers: int = 2
    """Hidden layers of each perceptron: observation trunk, reward head, continue head."""
    units: int = 128
    """Width of these layers."""
    depth: int = 16
    """Channels of the last transposed convolution's input."""
    vector: Literal["gaussian", "symlog"] = "gaussian"
    """Density of vector observations: a diagonal Gaussian, or one on sign(x) log(1 + |x|) with its Jacobian."""
    reward: Literal["gaussian", "symlog", "twohot", "categorical"] = "gaussian"
    """Density of the reward; two-hot is log-linear between symexp-spaced bins. `categorical` puts a mass on each reward
    of the prefill (at most 32 different ones), and a density with a small weight on all others."""
    standardise: bool = True
    """Predict Gaussian targets in units of the prefill's std around its mean, images around its mean image, and bits
    from their frequencies on. Densities are in the data's own units in any case."""
    std: Literal["learned", "fixed"] = "learned"
    """Std of the Gaussian and symlog densities: a learned function of the state, or `fixed_std`. That of images is
    always learned."""
    fixed_std: float = 1.0
    """The fixed standard deviation, in the units the head predicts in."""
    resolution: float = 0.01
    """Floor of a learned standard deviation, in the units the head predicts in: finer detail earns no more nats."""
    initial_std: float | None = None
    """Where a learned standard deviation starts, in the units the head predicts in; null: near 0.7."""
    skip: bool = True
    """Add a linear map of z_t to the mean of vector observations and Gaussian rewards."""
    factory: str | None = None
    """`module:name` of a function (settings, spec) that makes a decoder of one's own. It is imported to train, and
    never by opening a run unless it is asked to."""

    def __post_init__(self) -> None:
        require_path("decoder.factory", self.factory)
        positive(self, "decoder", "layers", "units", "depth", "fixed_std", "resolution")
        above = self.initial_std is None or self.initial_std > self.resolution
        expected = f"null or more than decoder.resolution = {self.resolution}"
        require(above, "decoder.initial_std", expected, self.initial_std)
        learned = self.initial_std is None or self.std == "learned"
        require(learned, "decoder.initial_std", "null where decoder.std is fixed", self.initial_std)


@dataclass(frozen=True)
class LossConfig:
    """What is optimised. The defaults are the bound itself; every departure is priced in the ledger.

    The presets in configs/recipes hold the recipes of PlaNet and DreamerV1 to V3.
    """

    beta: float = 1.0
    """Factor of the KL."""
    kl_warmup: int = 0
    """Updates over which beta rises linearly from zero, so that z_t carries something before the KL is punished."""
    dyn: float | None = None
    """Factor of KL(sg(q) || p), the prior's side; together with `rep`, replaces the KL by two stop-gradient halves."""
    rep: float | None = None
    """Factor of KL(q || sg(p)), the posterior's side."""
    alpha: float | None = None
    """DreamerV2's KL balancing: dyn = alpha, rep = 1 - alpha."""
    free_nats: float = 0.0
    """Nats of KL that are not punished."""
    free_nats_rule: Literal["step", "mean", "excess"] = "step"
    """max(KL, free) per step (DreamerV2, V3); max of the batch mean (V1); or max(KL - free, 0) per step (PlaNet)."""
    observation_scale: float = 1.0
    """Factor of the observations' log-likelihoods."""
    reward_scale: float = 1.0
    """Factor of the reward's log-likelihood."""
    continue_scale: float = 1.0
    """Factor of the continue flag's log-likelihood."""
    overshooting: float = 0.0
    """Factor of a term about imagined futures, 2 to `overshooting_steps` steps ahead of what was seen; 0: none."""
    overshooting_of: Literal["latents", "rows"] = "latents"
    """What it compares: q(z_t), detached, with the prior that was imagined (PlaNet's latent overshooting); or the row
    itself with the likelihoods of `overshooting_samples` futures, averaged."""
    overshooting_steps: int = 12
    """Steps that are imagined."""
    overshooting_every: int = 8
    """One in so many rows is a start; 1: all of them, as in PlaNet, at so many times the cost."""
    overshooting_samples: int = 4
    """Futures from each start where rows are compared."""
    auxiliary: dict[str, str] = field(default_factory=dict)
    """Auxiliary losses by name, each `module:name` of a function (model) that makes its module, or `given:` where
    training was handed it in Python. They are imported to train, and never by opening a run."""

    def __post_init__(self) -> None:
        for name, path in self.auxiliary.items():
            require(name.isidentifier(), "loss.auxiliary", "names of letters, digits and underscores", name)
            if path != "given:":
                require_path(f"loss.auxiliary.{name}", path)
        not_negative(
            self, "loss", "beta", "kl_warmup", "free_nats", "observation_scale", "reward_scale", "continue_scale"
        )
        not_negative(self, "loss", "overshooting")
        positive(self, "loss", "overshooting_every", "overshooting_samples")
        ahead = self.overshooting_steps
        require(ahead > 1, "loss.overshooting_steps", "2 or more: the bound itself looks one step ahead", ahead)
        require((self.dyn is None) == (self.rep is None), "loss.dyn, loss.rep", "both or neither", (self.dyn, self.rep))
        for name in ("dyn", "rep"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"loss.{name}", "null, zero or more", value)
        in_range = self.alpha is None or 0 <= self.alpha <= 1
        require(in_range, "loss.alpha", "null or a number in [0, 1]", self.alpha)
        one = self.alpha is None or self.dyn is None
        require(one, "loss.alpha", "null where loss.dyn and loss.rep are set: they say the same thing", self.alpha)
