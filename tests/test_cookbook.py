"""The cookbook's recipes and its notebook run as written, and each recipe is as short as it promises to be."""

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import worldmodel
from run_folder import nothing_sharpened
from snippets import QUICK
from worlds import TINY, Counting

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "cookbook.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
RECIPES = [snippet for snippet in SNIPPETS if snippet.startswith("import worldmodel\n")]
FIRST, LATENTS, BRANCHES, FILTER, ARRAYS, MODEL, AUXILIARY, STEPS, EVIDENCE, UNREGISTERED, *ACTING = RECIPES
DEFINITIONS = [snippet for snippet in SNIPPETS if snippet not in RECIPES]
NOTEBOOK = json.loads((DOCS / "cookbook.ipynb").read_text())
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def quick_train(folders):
    """`worldmodel.train` with a recipe's own settings, but for seconds and in a folder that goes away."""
    from worldmodel.runs.session import train

    def trained(config=None, overrides=None, **given):
        small = {**QUICK, **TINY, "runs": str(folders), "evaluation.context": 2, "evaluation.horizon": 2}
        small |= {"evaluation.particles": 0, "evaluation.acting_episodes": 0, "env.time_limit": 40}
        if "data" in given:
            small |= {"training.updates": 4}
        if "env" in given:  # its episodes have a few rows
            small |= {"evaluation.context": 1, "evaluation.horizon": 1}
        return train(config, {**(overrides or {}), **small}, **given)

    return trained


@pytest.fixture(scope="module")
def trained(folders):
    """The run that the recipes open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
        patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
        return quick_train(folders)("pendulum")


@pytest.fixture
def recipe(monkeypatch, trained, folders, tmp_path):
    """Runs a recipe: -> the names that it leaves."""
    from worldmodel.runs.run import open_run

    def opened(folder, *arguments, **given):
        return open_run(trained.folder if "20260101" in str(folder) else folder, *arguments, **given)

    nothing_sharpened(monkeypatch)
    monkeypatch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)  # the pictures and the page
    monkeypatch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
    monkeypatch.setattr(worldmodel, "train", quick_train(folders), raising=False)
    monkeypatch.setattr(worldmodel, "open_run", opened, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(snippet, **names):
        exec(snippet, names)
        return names

    return run


def mine(count=5, steps=20):
    def one():
        x, action = RNG.normal(size=(steps + 1, 3)).astype(np.float32), RNG.uniform(-1, 1, (steps, 1))
        return x, action, RNG.normal(size=steps)

    return [one() for _ in range(count)]


def defined(recipe):
    names: dict = {}
    for definition in DEFINITIONS:
        names |= recipe(definition)
    return names


def test_training_the_eight_recipes_and_three_more_are_there():
    assert len(re.findall(r"^## \d\. ", TEXT, re.MULTILINE)) == 8 and len(RECIPES) == 12 and len(DEFINITIONS) == 3


@pytest.mark.parametrize("snippet", RECIPES)
def test_a_recipe_has_five_lines_and_one_import(snippet):
    lines = [line for line in snippet.splitlines() if line]
    assert len(lines) <= 5 and len(re.findall(r"\bimport\b", snippet)) == 1
    assert max(map(len, lines)) <= 120


def test_training_says_where_it_is(recipe, capsys):
    assert str(recipe(FIRST)["run"].folder) in capsys.readouterr().out


def test_latents(recipe, trained, capsys):
    latents = recipe(LATENTS)["latents"]
    assert latents.states.deter.shape == (2, 41, trained.config.rssm.deter)
    assert str(latents.states.stoch.shape) in capsys.readouterr().out


def test_branches(recipe, capsys):
    futures = recipe(BRANCHES)["futures"].prediction["obs"]
    assert futures.shape == (8, 2, 30, 3) and str(futures.shape) in capsys.readouterr().out


def test_a_real_environment(recipe):
    names = recipe(FILTER)
    assert names["obs"].shape == (3,) and names["env"].kl > 0
    trained = names["worldmodel"].open_run("runs/pendulum-20260101-120000")
    assert names["env"].choose(trained.policy("actor")).shape == (1,)  # what the text adds


def test_arrays_of_ones_own(recipe):
    run = recipe(ARRAYS, mine=mine())["run"]
    assert set(run.model.spec.observations) == {"obs"} and (run.folder / "heldout").is_dir()


def test_a_model_of_ones_own(recipe):
    names = defined(recipe)
    run = recipe(MODEL, **names)["run"]
    assert isinstance(run.model.encoder, names["MyEncoder"])


def test_an_auxiliary_loss(recipe):
    run = recipe(AUXILIARY, **defined(recipe))["run"]
    assert '"ledger/auxiliary_inverse"' in (run.folder / "metrics.jsonl").read_text()


def test_the_kl_of_every_step(recipe, tmp_path):
    assert recipe(STEPS)["kl"].steps.shape == (2, 41)
    assert (tmp_path / "kl.png").read_bytes().startswith(b"\x89PNG")


def test_the_evidence_of_ones_own_data(recipe, capsys):
    assert recipe(EVIDENCE, mine=mine(2, 6))["report"].rows == 14
    assert "Estimate" in capsys.readouterr().out


def test_an_environment_that_is_not_registered(recipe, capsys):
    recipe(UNREGISTERED, MyWorld=Counting)
    assert capsys.readouterr().out.strip().startswith("[")


def test_acting_in_gymnasiums_loop_and_a_policy_of_ones_own(recipe, capsys):
    loop, evaluated = ACTING
    names = recipe(loop)
    assert names["obs"].shape == (3,) and np.isfinite(names["reward"])
    recipe(evaluated, **defined(recipe))
    own, actor = re.findall(r"\[[^]]*\]", capsys.readouterr().out)
    assert len(own.split()) >= 4 and own != actor


def test_the_notebook_holds_no_output():
    assert NOTEBOOK["nbformat"] == 4
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_the_cells_of_the_notebook_run_one_after_the_other(recipe, monkeypatch, capsys):
    monkeypatch.setattr(matplotlib, "rcParams", matplotlib.rcParams.copy())
    matplotlib.use("agg")
    names: dict = {"__name__": "__main__"}
    for cell in CELLS:
        exec(cell, names)
    names["pyplot"].close("all")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("ELBO", "planned [", "pumped ["))
    assert names["kl"]._repr_png_().startswith(b"\x89PNG")
    assert len(names["earned"]) == 100 and np.isfinite(names["earned"]).all()
    assert isinstance(names["of_parts"].model.encoder, names["MyEncoder"])
