"""The exhibits: what each bug is, the world it is shown in, and the public threads it is known from."""

from dataclasses import dataclass

from scripts.museum import bugs
from scripts.museum.bugs import Bug

THREADS = "https://github.com/"


@dataclass(frozen=True)
class Exhibit:
    """One bug, on show."""

    words: str
    world: str  # of `training.WORLDS`; its sound run has the same settings
    bug: Bug
    threads: tuple[str, ...] = ()  # owner/name#number
    said: str = ""  # what is said there, or where else the bug is known from
    trained: bool = True  # with the bug; otherwise the sound run's weights are reported by code that has it
    other_seed: int = 0  # added to the seed of the weights, the noise and the batches


CONTROL = "none"  # a sound run again from another seed: how often the tests speak where nothing is wrong

EXHIBITS: dict[str, Exhibit] = {
    CONTROL: Exhibit("nothing is wrong: another seed", "springs", Bug(), other_seed=100),
    "actions_late": Exhibit(
        "actions off by one: a row is told the action before the one that led to it",
        "springs",
        Bug(rows=bugs.actions_late),
        ("epignatelli/navix#152",),
        said="observation and reward losses fell to near zero all the same, since rows resemble their neighbours",
    ),
    "actions_early": Exhibit(
        "actions off by one: a row is told the action that was taken at it",
        "springs",
        Bug(rows=bugs.actions_early),
    ),
    "rewards_late": Exhibit(
        "rewards off by one: a row has the reward of the row before it",
        "springs",
        Bug(rows=bugs.rewards_late),
        ("yusukeurakami/dreamer-pytorch#5", "yusukeurakami/dreamer-pytorch#13", "cross32768/PlaNet_PyTorch#1"),
        said="asked in both repositories; #13 takes the first fix back and finds that the index was right",
    ),
    "first_reward": Exhibit(
        "the zero that fills in for the reward of a first row counts as an observation",
        "springs",
        Bug(inside=bugs.first_reward_counted),
    ),
    "truncation": Exhibit(
        "truncation taken for termination: the continue flag falls wherever an episode ends",
        "springs",
        Bug(rows=bugs.truncation_as_termination),
        ("vwxyzjn/cleanrl#457", "instadeepai/Mava#951", "lucidrains/dreamer4#22"),
        said="both flags joined into one: asked whether that is meant, called a bug, fixed in another way",
    ),
    "resets_unmasked": Exhibit(
        "resets not masked: the state goes on where an episode begins inside a training sequence",
        "springs",
        Bug(inside=bugs.resets_unmasked),
        ("epignatelli/navix#152", "NM512/dreamerv3-torch#14", "pytorch/rl#4128"),
        said="sequences straddled resets; an initial state was put into a local variable; an action outlived a reset",
    ),
    "stale_states": Exhibit(
        "stale states after a reset: evaluation begins each episode where another one ended",
        "springs",
        Bug(inside=bugs.stale_states),
        ("isaac-sim/IsaacLab#3837", "chengxuxin/extreme-parkour#12"),
        trained=False,
        said="a bug of evaluation; and, in training, found to do no harm by an author",
    ),
    "state_not_carried": Exhibit(
        "the state is not carried from row to row",
        "springs",
        Bug(inside=bugs.state_not_carried),
        ("pytorch/rl#3236",),
        said="a rollout that used the same state and belief at every step",
    ),
    "prior_after_z": Exhibit(
        "an index too far: the prior of z_t reads the state that has already heard of z_t",
        "springs",
        Bug(inside=bugs.prior_after_z),
    ),
    "kl_mean": Exhibit(
        "a KL averaged over the groups of z_t, not summed",
        "springs",
        Bug(inside=bugs.kl_mean_over_groups),
        ("keras-team/keras-io#270", "mkusner/grammarVAE#2", "maxhodak/keras-molecules#59"),
        said="asked of a tutorial; an author keeps it, since it trains better",
    ),
    "kl_over_time": Exhibit(
        "a KL summed over the wrong axis: over time, not over the groups",
        "springs",
        Bug(inside=bugs.kl_sum_over_time),
        ("EDAPINENUT/GNTPP#4", "GlassyWing/nvae#3"),
        said="a sum over everything, its axis forgotten",
    ),
    "kl_swapped": Exhibit(
        "prior and posterior change places in the KL",
        "springs",
        Bug(inside=bugs.kl_swapped),
        ("juliusfrost/dreamer-pytorch#78",),
        said="prior and posterior of a rollout taken in the other order",
    ),
    "free_nats": Exhibit(
        "a free nat for each group, where one is meant for their sum",
        "springs, smoothing, 1 free nat",
        Bug(inside=bugs.free_nats_per_group),
        ("pytorch/rl#4073",),
        said="changed to the sum over the latents before free nats apply",
    ),
    "other_std": Exhibit(
        "the posterior is sampled with std², a variance taken for a std; its KL sees std",
        "springs",
        Bug(inside=bugs.other_std),
        ("keras-team/keras#9972", "keras-team/keras#3283", "keras-team/keras#4211"),
        said="that the bound is none then is said in #4211, of another wrong std",
    ),
    "other_logits": Exhibit(
        "the posterior is sampled with 1 % of uniform noise; its KL sees the logits before mixing",
        "ring",
        Bug(inside=bugs.other_logits),
    ),
    "constant": Exhibit(
        "an unnormalised likelihood: a Gaussian without its 1/2 log 2π",
        "springs",
        Bug(inside=bugs.without_constant),
        ("Qinyu-Allen-Zhao/Arinar#1",),
        said="left out of the loss on purpose, and added in evaluation",
    ),
    "jacobian": Exhibit(
        "a decoder without its Jacobian: the density of symlog x reported as that of x",
        "springs, symlog",
        Bug(inside=bugs.without_jacobian),
        ("MokkeMeguru/glow-realnvp-tutorial#2", "bayesflow-org/bayesflow#471"),
        said="that of the preprocessing forgotten; that of a standardisation with the wrong sign",
    ),
    "posterior_mean": Exhibit(
        "evaluation with the posterior's mean instead of a sample",
        "springs",
        Bug(inside=bugs.posterior_mean),
        trained=False,
    ),
    "padding": Exhibit(
        "the mean over rows counts the padding behind shorter episodes",
        "springs",
        Bug(report=bugs.averaged_over_padding),
        ("d2l-ai/d2l-en#2707", "tensorflow/tensorflow#39146"),
        trained=False,
        said="a mean over the padded length",
    ),
    "row_by_row": Exhibit(
        "`logavgexp` over latent paths at every row, called IWAE",
        "springs, smoothing",
        Bug(report=bugs.averaged_row_by_row),
        trained=False,
        said="of this kind is the loss of jurgisp/pydreamer (`models/dreamer.py`) with several samples",
    ),
}
