"""What a page can run is described; everything else is refused by its name."""

import pytest
from torch import nn

from playable_cases import CASES, shaken
from worldmodel.models.decoder import Decoder
from worldmodel.models.encoder import Encoder
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel
from worldmodel.playable.arrays import Arrays
from worldmodel.playable.layers import operations
from worldmodel.playable.networks import describe
from worlds import MIXED_SPEC, make_model


class MyRSSM(RSSM):
    pass


class MyLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class MySiLU(nn.SiLU):
    def forward(self, x):
        return -super().forward(x)


class MyDecoder(Decoder):
    pass


class MyWorldModel(WorldModel):
    pass


def changed(where: str, module: nn.Module) -> WorldModel:
    model = make_model(MIXED_SPEC)
    parent, _, name = where.rpartition(".")
    model.get_submodule(parent)._modules[name] = module
    return model


@pytest.mark.parametrize(
    ("where", "module", "words"),
    [
        ("dynamics.prior_head.0", nn.GELU(), r"dynamics\.prior_head\.0: expected Linear, .* got GELU"),
        ("dynamics.prior_head.1", MyLinear(10, 8), r"dynamics\.prior_head\.1: .* got MyLinear"),
        ("dynamics.cell.norm", nn.Identity(), r"dynamics\.cell\.norm: expected LayerNorm, .* got Identity"),
        ("dynamics.cell.gates", nn.Linear(8, 24), r"dynamics\.cell\.gates: expected BlockLinear, .* got Linear"),
        ("dynamics.cell", nn.GRUCell(8, 8), r"dynamics\.cell: expected BlockGRU, PlainGRU or BareGRU, .* got GRUCell"),
        ("decoder.reward_head", nn.Linear(12, 1), r"decoder\.reward_head: expected GaussianHead, .* got Linear"),
        ("decoder.flat_heads.0", nn.ReLU(), r"decoder, the head of 'cards': expected Linear, .* got ReLU"),
        ("decoder.image_heads.0", nn.ReLU(), r"decoder, the head of 'camera': expected ImageHead, .* got ReLU"),
        ("decoder.trunk.2", MySiLU(), r"decoder\.trunk\.2: expected .* got MySiLU"),
        ("decoder.trunk", nn.Dropout(), r"decoder\.trunk: expected .* got Dropout"),
        ("decoder.continue_head.1", nn.Tanh(), r"decoder\.continue_head\.1: expected .* got Tanh"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_module_that_the_page_cannot_run_is_refused_by_its_name(where, module, words):
    with pytest.raises(ValueError, match=words):
        describe(changed(where, module), Arrays())


def test_a_decoder_that_reads_z_alone_is_refused():
    with pytest.raises(ValueError, match=r"decoder\.reads: expected state, which a page can run; got stoch"):
        describe(make_model(reads="stoch"), Arrays())


@pytest.mark.parametrize(
    ("part", "kind", "words"),
    [
        ("dynamics", MyRSSM, "dynamics: expected RSSM, which a page can run; got MyRSSM"),
        ("decoder", MyDecoder, "decoder: expected Decoder, which a page can run; got MyDecoder"),
        ("", MyWorldModel, "model: expected WorldModel, which a page can run; got MyWorldModel"),
    ],
)
def test_what_inherits_may_compute_something_else_and_is_refused(part, kind, words):
    model = make_model()
    model.get_submodule(part).__class__ = kind
    with pytest.raises(ValueError, match=words):
        describe(model, Arrays())


def test_an_encoder_of_ones_own_is_no_hindrance_since_the_page_has_none():
    model = make_model()
    model.encoder.__class__ = type("MyEncoder", (Encoder,), {})
    expected, got = Arrays(), Arrays()
    assert describe(make_model(), expected) == describe(model, got) and expected.texts() == got.texts()


@pytest.mark.parametrize(
    "convolution",
    [
        nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1),
        nn.ConvTranspose2d(4, 4, 4, stride=1, padding=1),
        nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, bias=False),
        nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, groups=2),
    ],
)
def test_another_convolution_than_the_one_that_doubles_is_refused(convolution):
    operations(nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1), Arrays(), "here")
    with pytest.raises(ValueError, match="here: expected ConvTranspose2d"):
        operations(convolution, Arrays(), "here")


def test_norms_without_weights_and_grus_without_biases_are_refused():
    for module in (nn.LayerNorm(3, elementwise_affine=False), nn.LayerNorm((2, 3))):
        with pytest.raises(ValueError, match="here: expected LayerNorm over one dimension, with weight and bias"):
            operations(module, Arrays(), "here")
    model = make_model(cell="gru")
    model.dynamics.cell.gru = nn.GRUCell(20, 8, bias=False)
    with pytest.raises(ValueError, match=r"dynamics\.cell\.gru: expected GRUCell with biases"):
        describe(model, Arrays())


@pytest.mark.parametrize("name", CASES)
def test_every_weight_that_a_dream_needs_is_kept_once(name):
    model, arrays = shaken(CASES[name]()), Arrays()
    describe(model, arrays)
    needed = [*model.decoder.parameters()]
    for part in (model.dynamics.cell, model.dynamics.action_in, model.dynamics.prior_head):
        needed += part.parameters()
    halves = sum(p.numel() // 2 for head in model.decoder.image_heads for p in head.layers[-1].parameters())
    assert arrays.count == sum(p.numel() for p in needed) - halves  # how sure a model is of a pixel stays out
