"""What numbers are called: the name, unit, caption and colour of each, for pages, pictures and the terminal alike.

Which scores, methods and estimators there are is decided where they are computed; this file only names them.
"""

from typing import NamedTuple

COLOURS = {  # of curves, by name: in pictures and on a light page, on a dark page
    "raw": ("#20558a", "#6fabe6"),
    "optimised": ("#d9822b", "#eda35a"),
    "reward": ("#5b9a5b", "#84c184"),
    "run-4": ("#a8456b", "#e07fa3"),
    "run-5": ("#6f5aa0", "#ab98dd"),
    "run-6": ("#2f8f9d", "#62c3d0"),
    "run-7": ("#8a6d2f", "#c9a961"),
    "baseline": ("#888888", "#9aa5b0"),
}
RUNS = tuple(light for light, _ in COLOURS.values())  # one colour a run, in order
RAW, OPTIMISED, REWARD, *_, BASELINE = RUNS
TRUTH = "#000000"  # what really happened, and what is known exactly; on a page, the colour of its text

PER_STEP = "nats per step"
IN_DOUBT = "in doubt"
UPDATES, AHEAD, ENV_STEPS = "updates", "steps ahead", "env steps"
PLACE, SINCE_RESET = "step of the training sequence", "steps since the reset"


class Wording(NamedTuple):
    """A number or a chart in words."""

    name: str
    unit: str  # on the axis of a chart, or before the numbers of a table
    caption: str  # what to look for
    full: str = ""  # the name where no heading says what it is about

    @property
    def title(self) -> str:
        """The name that needs no heading above it."""
        return self.full or self.name


class LineStyle(NamedTuple):
    """What a curve is called and looks like."""

    name: str
    colour: str
    dash: str = "-"
    width: float = 1.3
    marker: str | None = None


SPLITS = {
    "train": LineStyle("training", RAW, width=1.0),
    "heldout": LineStyle("held-out", OPTIMISED, width=1.4, marker="o"),
}
TERMS = {  # every other term of the bound is a log-likelihood
    "elbo": Wording("ELBO", PER_STEP, "Higher is better: the bound on the evidence."),
    "kl": Wording("KL", PER_STEP, "What the observation told the model beyond its own prediction."),
}
COLD_START = "Training sequences start cold, so the two need not agree."
DEPARTURES = {  # of the loss from the bound, as the ledger calls them
    "negative_elbo": Wording("negative bound", PER_STEP, "the negative bound, where the loss begins"),
    "free_nats": Wording("+ free nats", PER_STEP, "KL that the free nats fill up (or, if negative, let go)"),
    "balancing": Wording("+ balancing", PER_STEP, "two stop-gradient halves of the KL that do not weigh one together"),
    "beta": Wording("+ beta", PER_STEP, "the factor of the KL"),
    "overshooting": Wording("+ overshooting", PER_STEP, "what imagined futures say of rows several steps ahead"),
}
SCORES = {  # of imagined futures: evaluation.scores.METRICS
    "nll": Wording(
        "negative log-likelihood",
        "NLL, nats per step",
        "Lower is better. It shoots up where confident futures went wrong.",
    ),
    "squared_error": Wording(
        "squared error",
        "squared error / training variance",
        "Lower is better; of the mean over futures, in units of the training data's variance.",
    ),
    "crps": Wording("CRPS", "CRPS / std", "Lower is better; it scores the whole predicted distribution."),
    "coverage": Wording(
        "coverage", "share inside 90 %", "What happened, inside the central 90 % of predictions: ideally 0.9."
    ),
}
METHODS = {  # evaluation.scores.METHODS
    "model": LineStyle("the model", RAW),
    "hedged": LineStyle("the model, hedged by the marginal", RAW, ":"),
    "repeat_last": LineStyle("last step repeated", OPTIMISED),
    "marginal": LineStyle("marginal of the training data", BASELINE, "--"),
}
OPEN_LOOP = Wording(
    "open-loop error",
    "error² / held-out variance",
    "Under the recorded actions, in units of the variance of the held-out episodes themselves.",
)
BELOW_BASELINES = "The model should stay below both baselines at every horizon."
OPEN_LOOP_METHODS = {  # by the columns of lines/open_loop_*.json
    "model": LineStyle("imagined, mean of samples", RAW),
    "repeat last": METHODS["repeat_last"],
    "data mean": LineStyle("mean of the data", BASELINE, "--"),
}
KL_HISTORY = Wording(
    "Over training",
    "nats",
    "The median should lie well under the mean: most steps hold little news.",
    "KL per step over training",
)
KL_STATISTICS = {
    "mean": LineStyle("mean", RAW),
    "median": LineStyle("median", RAW, ":"),
    "q95": LineStyle("95 % quantile", RAW, width=0.6),
}
KL_OPTIMISED = LineStyle("mean, as optimised", OPTIMISED)
KL_SUMMARY = {  # evaluation.held_out.KLDiagnostics.summary
    **{name: look.name for name, look in KL_STATISTICS.items()},
    "optimised_mean": KL_OPTIMISED.name,
    "share_under_free_nats": "share under the free nats",
    "share_under_1_nat": "share under 1 nat",
    "active_units": "active latent groups",
}
KL_BY_POSITION = Wording(
    "By place in the training sequence",
    "nats",
    "Most sequences start cold, inside an episode: high at first, then low but never zero.",
    "KL by place in the sequence",
)
KL_BY_EPISODE_STEP = Wording(
    "By steps since the reset",
    "nats",
    "Held-out episodes, filtered from their first step.",
    "KL by steps since the reset",
)
KL_BY_GROUP = Wording(
    "By latent group",
    "nats (log scale)",
    "Rows that stay dark carry nothing: a healthy code uses several groups. A thousandth of a nat and less is black.",
    "KL by latent group",
)
SURPRISE = Wording(
    "Surprise along one held-out episode",
    "nats",
    "Spikes should stand where the world is hard to foresee (contacts, resets, rewards), not everywhere.",
)
KL_CHARTS = {  # by their place in the overview
    **{"history": KL_HISTORY, "position": KL_BY_POSITION, "episode": KL_BY_EPISODE_STEP},
    **{"groups": KL_BY_GROUP, "surprise": SURPRISE},
}
OPTIMISATION = {  # by the prefix of the metrics
    "grad_norm/": Wording(
        "Gradient norm", "norm", "Before clipping. A climb without end, or a jump, comes before trouble."
    ),
    "optimizer/": Wording("Optimiser", "norm", ""),
}
RESOURCES = {  # what a run takes of its machine: training.resources.NAMES
    "cores": Wording(
        "Processor",
        "cores busy",
        "Processor seconds a second, of the process that writes this record and of those that run its environments.",
    ),
    "memory": Wording("Memory", "GiB", "Of the same processes; what they share counts for each. A climb should end."),
    "peak_memory": Wording("Peak memory", "GiB", "The most that the process has had so far."),
    "gpu_memory": Wording("GPU memory", "GiB", "What torch holds on the GPU, in use or kept to be used again."),
}
ESTIMATORS = {  # evaluation.evidence.ESTIMATORS
    "elbo": LineStyle("ELBO", OPTIMISED),
    "iwae": LineStyle("IWAE", REWARD),
    "smc": LineStyle("SMC", RAW),
}
GAP = LineStyle("gap, SMC $-$ ELBO", RAW)
WIDTH = LineStyle("width of the sandwich", OPTIMISED)
MISSING = LineStyle("exact $-$ SMC", TRUTH)
_GAP = "Evidence minus bound is how far the posterior is from the exact one."
EVIDENCE = {  # the charts of a measurement, by their place in its figure
    "estimates": Wording(
        "By particles",
        PER_STEP,
        "The bound does not move. The other two rise to the evidence; bars are standard errors over runs.",
        "Bound and estimates of the evidence",
    ),
    "gap": Wording(
        "Gap and certificate",
        PER_STEP,
        f"{_GAP} It counts for little unless the sandwich is much narrower; open circles are in doubt.",
        "Gap, and width of the sandwich",
    ),
    "gap so far": Wording(
        "Gap of the steps so far", "nats, summed", "Where in an episode the gap opens, and where the sandwich does."
    ),
    "ess": Wording(
        "Effective particles",
        "share of all particles",
        "Near zero, a single particle stands for all: the estimate is too low there.",
    ),
    "rows": Wording(
        "Along the episode",
        PER_STEP,
        "Means over held-out episodes; the band is two standard errors. Dips are steps that nobody foresaw.",
        "Evidence of every step, and the bound on it",
    ),
}
ROUGH = {  # the evidence by few particles, over training
    "gap": Wording("Rough gap over training", PER_STEP, f"{_GAP} With few particles it comes out too small."),
    "ess": Wording("Effective particles over training", EVIDENCE["ess"].unit, "Of the rough estimate."),
}
BEST = {  # of the evaluations so far, by score; the metric best/SCORE, by which the best weights are chosen
    "elbo": Wording(
        "best held-out ELBO", PER_STEP, "The highest bound of any evaluation so far, on held-out episodes."
    ),
    "return": Wording("best return", "reward units", "The highest mean return of any evaluation so far."),
}
OWN, HELD_OUT = "its own episodes", "held-out episodes of a random policy"
FINAL = "final_return/"  # of each policy that plays with a run's best weights at its end
ACTING = {  # how a run acts, over training
    "returns": Wording(
        "Returns",
        "return of an episode",
        "They should rise and stay there. A least return far below the others is a start that is still failed.",
    ),
    "lengths": Wording(
        "Length of an episode",
        "steps",
        "Where a task is to stay alive it grows with the return; where it is to arrive it falls.",
    ),
    "calibration": Wording(
        "Return, predicted and real",
        "discounted return",
        "The two should meet. A prediction far above what then comes is flattered by its own dream. A critic predicts "
        "whole episodes of the actor that learns, and a slow one that plays may be behind it. Behind a truncated end "
        "its own value counts as what came. A planner predicts its first plan alone.",
        "Discounted return, predicted and real",
    ),
    "bound": Wording(
        "Bound on its own episodes",
        PER_STEP,
        "The episodes differ, so the levels may; its own should rise too. A fall says that the policy now goes where "
        "the model has not been.",
    ),
    "evidence": Wording(
        "Rough evidence of its own episodes",
        PER_STEP,
        "The bound without what the posterior costs: where the bound alone falls, it is the posterior that is off.",
    ),
}
ACTING_CURVES = {  # by chart and metric
    "returns": {
        "acting/return": LineStyle("mean", RAW, width=1.6, marker="o"),
        "acting/median_return": LineStyle("median", OPTIMISED, "--"),
        "acting/least_return": LineStyle("least", BASELINE, ":"),
    },
    "lengths": {"acting/length": LineStyle("mean", RAW, marker="o")},
    "calibration": {
        "acting/discounted_return": LineStyle("what came", TRUTH, marker="o"),
        "acting/predicted_return": LineStyle("predicted", RAW, marker="o"),
    },
    "bound": {
        "acting_heldout/elbo": LineStyle(OWN, RAW, marker="o"),
        "heldout/elbo": LineStyle(HELD_OUT, BASELINE, marker="o"),
    },
    "evidence": {
        "acting_evidence/smc": LineStyle(OWN, RAW, marker="o"),
        "heldout_evidence/smc": LineStyle(HELD_OUT, BASELINE, marker="o"),
    },
}
PLAY = Wording(
    "Film of",  # the policy's name follows
    "",
    "One episode, or the best of several and then the median one. Where the prediction leaves the observation and the "
    "KL rises, the policy has led the model to where it has not been.",
)
DREAM = Wording(
    "The dream beside the world",
    "",
    "The same policy from the same first steps. The dream sees nothing of the world from there on: it should do as the "
    "world does, and drift from it slowly. One that stops early ended by its own continue head.",
)
DREAM_FILM = Wording(
    "The world, and the dream of it",
    "",
    "The same policy twice, with the same random numbers: the median start, then the best one. The model sees the "
    "first rows; all behind them it makes up.",
)
DREAM_LOOKS = {"world": LineStyle("world", TRUTH, width=1.6), "dream": LineStyle("dream", RAW)}
PICTURES = {  # of imagined futures and of reconstructions, by how their names begin
    "reconstruction": Wording(
        "Reconstructions of", "", "The same steps of a held-out episode at each evaluation: they should grow sharp."
    ),
    "fan": Wording("Futures of", "", "Single futures should surround what happened, and spread as they go on."),
    "film": Wording("Film of", "", "From the end of the context on, the model sees nothing but actions."),
    "classes": Wording("Classes of", "", "The predicted probability of each class, beside the class that came."),
    "latents": Wording(
        "Map of the latents", "", "Imagined states should stay among those that filtering real episodes leads to."
    ),
}


def term(name: str) -> Wording:
    """A term of the bound: `elbo` and `kl` are what they say, everything else is a log-likelihood."""
    density = "Higher is better; a density's logarithm may exceed zero."
    return TERMS.get(name, Wording(f"log p({name})", PER_STEP, density))


def kl_summary(name: str) -> str:
    """A number of the KL's summary; one that this version does not know is called what its file calls it."""
    return KL_SUMMARY.get(name, name.replace("_", " "))


def departure(name: str) -> Wording:
    """An entry of the ledger: scale_obs -> + scale of obs."""
    named, scaled = name.removeprefix("scale_"), name.startswith("scale_")
    readable = "+ " + name.replace("scale_", "scale of ").replace("_", " ")
    return DEPARTURES.get(name, Wording(readable, PER_STEP, f"the factor of log p({named})" if scaled else ""))


def score(metric: str) -> Wording:
    """A score of imagined futures; one that this version does not know is called what its file calls it."""
    return SCORES.get(metric, Wording(metric, metric, ""))


def method(name: str) -> LineStyle:
    """What was scored; what this version does not know is called what its file calls it."""
    return METHODS.get(name, LineStyle(name, BASELINE, ":"))


def bits(leaf: str) -> str:
    """The log-likelihood of an image in another unit."""
    return f"{leaf}, bits per dimension"
