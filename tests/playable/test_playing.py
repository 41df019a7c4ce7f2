"""The page in a browser: keys and sliders act, branches part, time runs, and the picture follows."""

import time

import pytest
import torch

from browser import Browser, find_browser
from playable_cases import page_of, rows_of, shaken
from worldmodel.models.decoder import Decoder
from worldmodel.models.encoder import Encoder
from worldmodel.models.latents import GaussianFamily
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec
from worlds import CATEGORICAL, MIXED_SPEC, make_model

CARTPOLE = EnvSpec({"obs": ObservationSpec("vector", (4,))}, ActionSpec("categorical", 2, (2,)))
PENDULUM = EnvSpec({"obs": ObservationSpec("vector", (3,))}, ActionSpec("continuous", 1))
SWITCHES = EnvSpec({"obs": ObservationSpec("binary", (3,))}, ActionSpec("binary", 2))
LENGTH, ROW = "Player.state.current.steps.length", "Number(document.getElementById('now').textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("neither Chromium nor Chrome is installed")
    browser = Browser(program, tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of a model; at the end, nothing may have been complained about or asked of a network."""

    def open_page(model, env_id="Mine-v0", name="a run", limit=None):
        path = tmp_path / "page.html"
        path.write_text(page_of(model, env_id, name, limit).html)
        browser.open(path)
        return browser

    yield open_page
    assert browser.problems == []


def wait_until(browser, expression, seconds=20.0):
    """Wait for something to become true in the page."""
    until = time.monotonic() + seconds
    while not browser.run(expression):
        assert time.monotonic() < until, expression
        time.sleep(0.05)


def action_of(browser, step="at(-1)"):
    return browser.run(f"Array.from(Player.state.current.steps.{step}.action)")


def test_the_page_counts_as_pytorch_does_and_says_so(opened):
    browser = opened(shaken(make_model(CARTPOLE, CATEGORICAL)), "CartPole-v1")
    assert float(browser.run("document.getElementById('difference').dataset.value")) < 5e-7
    assert browser.run("document.getElementById('astray').hidden") is True


def test_half_precision_says_how_far_it_is_off(opened):
    browser = opened(shaken(make_model()), limit=0)
    assert 1e-4 < float(browser.run("document.getElementById('difference').dataset.value")) < 0.5
    assert browser.run("document.getElementById('astray').hidden") is False


def test_a_key_is_an_action_and_makes_a_step_where_nothing_plays(opened):
    browser = opened(make_model(CARTPOLE), "CartPole-v1")
    browser.key("ArrowRight")
    assert browser.run(LENGTH) == 2 and action_of(browser) == [0, 1]
    browser.key("1")
    assert browser.run(LENGTH) == 3 and action_of(browser) == [1, 0]
    assert browser.run("document.querySelector('.choice[aria-pressed=true]').textContent") == "push left1 \u2190"
    browser.click(".choices button:nth-child(2)")
    assert browser.run(LENGTH) == 4 and action_of(browser) == [0, 1]
    browser.key("s")
    assert browser.run(LENGTH) == 5 and action_of(browser) == [0, 1] and browser.run(ROW) == 4


def test_a_held_arrow_pushes_to_the_end_and_a_slider_stays(opened):
    browser = opened(make_model(PENDULUM), "Pendulum-v1")
    browser.key("ArrowLeft")
    assert action_of(browser) == [-1]
    browser.key("s")
    assert action_of(browser) == [0]
    browser.run(
        "const s = document.querySelector('#actions input'); s.value = 0.5; s.dispatchEvent(new Event('input'))"
    )
    browser.key("s")
    assert action_of(browser) == [0.5]


def test_switches_act_by_their_digits(opened):
    browser = opened(make_model(SWITCHES))
    browser.key("2")
    assert action_of(browser) == [0, 1]
    browser.key("1")
    assert action_of(browser) == [1, 1]


def test_branches_part_where_one_acts_at_an_earlier_step(opened):
    browser = opened(make_model(CARTPOLE), "CartPole-v1")
    for _ in range(4):
        browser.key("2")
    old = browser.run("Array.from(Player.state.current.steps.at(-1).h)")
    browser.key(",")
    browser.key(",")
    assert browser.run(ROW) == 2 and browser.run("Player.state.branches.length") == 1
    browser.key("1")
    found = browser.run("Player.state.branches.map((one) => [one.name, one.steps.length, one.from])")
    assert found == [["A", 5, None], ["B", 4, {"branch": "A", "step": 2}]]
    shared = "Player.state.branches[0].steps[{0}] === Player.state.branches[1].steps[{0}]"
    assert [browser.run(shared.format(i)) for i in range(4)] == [True, True, True, False]
    browser.click("#branches button")
    assert browser.run(LENGTH) == 5 and browser.run("Array.from(Player.state.current.steps.at(-1).h)") == old
    browser.key("b")
    assert browser.run("[Player.state.branches.length, Player.state.current.name]") == [3, "C"]
    browser.key("r")
    assert browser.run("[Player.state.branches.length, Player.state.current.steps.length]") == [1, 1]


def test_the_same_actions_part_by_the_draws_and_not_by_the_mean(opened):
    browser = opened(make_model(CARTPOLE), "CartPole-v1")
    last = "Array.from(Player.state.current.steps.at(-1).z)"
    for draws, alike in (("mean", True), ("sample", False)):
        browser.run(f"document.querySelector('input[value={draws}]').click()")
        ends = []
        for _ in range(2):
            browser.key("r")
            browser.key("2")
            ends.append(browser.run(last))
        assert (ends[0] == ends[1]) == alike


def test_the_record_acts_until_it_ends(opened):
    browser = opened(make_model(CARTPOLE), "CartPole-v1")
    browser.run("document.querySelector('input[value=recorded]').click()")
    browser.key("2")  # is not one's own to act any more
    assert browser.run(LENGTH) == 1
    taken = browser.run("Array.from({ length: 40 }, () => document.getElementById('step').click()).length")
    assert taken == 40 and browser.run(LENGTH) == 30  # rows of the episode
    actions = torch.tensor(browser.run("Player.state.current.steps.map((step) => Array.from(step.action))"))
    torch.testing.assert_close(actions.float(), rows_of(make_model(CARTPOLE)).prev_action[0])
    assert "The recorded actions end here" in browser.run("document.getElementById('said').textContent")


def test_a_start_is_chosen_and_charts_begin_there(opened):
    browser = opened(make_model(CARTPOLE), "CartPole-v1")
    browser.run("const s = document.getElementById('start'); s.value = '1:15'; s.dispatchEvent(new Event('change'))")
    assert browser.run(ROW) == 15
    browser.key("2")
    assert browser.run("document.querySelector('#charts canvas').getAttribute('aria-label')") is not None
    labels = browser.run("[...document.querySelectorAll('#charts canvas')].map((c) => c.getAttribute('aria-label'))")
    assert sum("step 16: recorded" in one for one in labels) == 8  # four numbers, and four charts more
    assert any(one.startswith("The prior now, by latent: ") for one in labels)


def preset_model() -> WorldModel:
    """As large as the presets of Pendulum and CartPole."""
    torch.manual_seed(0)
    encoder = Encoder(PENDULUM.observations, layers=2, units=64, depth=16)
    latent = GaussianFamily(8, 0.01)
    rssm = RSSM(embed=encoder.width, action=1, deter=128, hidden=64, latent=latent, blocks=4)
    sizes = {"deter": 128, "stoch": 8, "layers": 2, "units": 64, "depth": 16}
    kinds = {"vector": "gaussian", "reward": "gaussian", "std": None, "resolution": 0.01, "skip": True}
    decoder = Decoder(PENDULUM.observations, **sizes, **kinds)
    with torch.no_grad():
        decoder.continue_head[-1].bias.fill_(30.0)  # no dream ends
    return WorldModel(PENDULUM, encoder, rssm, decoder, inputs="standardise", standardise_targets=True)


def test_a_model_of_the_presets_size_makes_thirty_steps_a_second_with_all_that_is_drawn(opened):
    browser = opened(preset_model(), "Pendulum-v1")
    assert float(browser.run("document.getElementById('full-speed').dataset.value")) > 30
    browser.run("document.getElementById('speed').value = '30'")
    browser.key("p")
    shown = "Number(document.getElementById('rate').textContent)"
    wait_until(browser, f"{LENGTH} > 30 && {shown} >= 28")
    assert browser.run(shown) <= 45  # it may catch up on a busy machine, but keeps below the next speed
    browser.key("p")
    stopped = browser.run(LENGTH)
    time.sleep(0.2)
    assert browser.run(LENGTH) == stopped and browser.run("document.getElementById('play').textContent") == "Play"


def test_time_stops_once_where_the_model_expects_the_end(opened):
    model = preset_model()
    with torch.no_grad():
        model.decoder.continue_head[-1].bias.fill_(-30.0)
    browser = opened(model, "Pendulum-v1")
    browser.key(" ")
    wait_until(browser, "document.getElementById('said').textContent.includes('expects the episode to have ended')")
    assert browser.run(LENGTH) == 2 and browser.run("document.getElementById('play').textContent") == "Play"
    browser.key(" ")
    wait_until(browser, f"{LENGTH} > 4")


@pytest.mark.parametrize(
    ("spec", "env_id", "count"),
    [(PENDULUM, "Pendulum-v1", 2), (CARTPOLE, "CartPole-v1", 2), (MIXED_SPEC, "Mine-v0", 6)],
)
def test_every_picture_is_drawn_and_moves(opened, spec, env_id, count):
    browser = opened(shaken(make_model(spec), 0.1), env_id)
    looks = "[...document.querySelectorAll('canvas.picture')].map((c) => c.toDataURL())"
    blank = browser.run(
        "(() => { const c = document.querySelector('canvas.picture').cloneNode(); return c.toDataURL(); })()"
    )
    before = browser.run(looks)
    for _ in range(3):
        browser.key("s")
    after = browser.run(looks)
    assert len(before) == count and blank not in before
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_names_of_a_stranger_run_nothing(opened):
    hostile = "<img src=x onerror=\"document.title='taken'\"></script><script>document.title='taken'</script>"
    spec = EnvSpec({hostile: CARTPOLE.observations["obs"]}, CARTPOLE.action)
    browser = opened(make_model(spec), hostile, hostile)
    browser.key("s")
    assert browser.run("document.title") == f"{hostile}: a dream to act in"
    assert browser.run("document.querySelector('#charts h3').textContent").startswith(f"{hostile}[0]")
