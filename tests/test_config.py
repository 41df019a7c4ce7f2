"""Settings: each mistake is refused in words that name it, files and overrides win in order, and no field is idle."""

import ast
import dataclasses
import inspect
import re
import typing
from pathlib import Path

import pytest
import yaml

import worldmodel
from worldmodel import config as config_module
from worldmodel import config_acting, config_model, config_wandb
from worldmodel.config import Config
from worldmodel.config_io import read_config, write_config
from worldmodel.data.environment import make_environments
from worldmodel.system.presets import presets
from worldmodel.training.wandb_filing import file_run

PACKAGE = Path(worldmodel.__file__).parent
CONFIGS = [preset.path for preset in presets()]
SECTIONS = {name: t for name, t in typing.get_type_hints(Config).items() if dataclasses.is_dataclass(t)}
FIELDS = [(name, f) for name, section in SECTIONS.items() for f in dataclasses.fields(section)]
NUMBERS = [
    (section, f.name, -number(1))
    for section, f in FIELDS
    for number in {int, float} & set(typing.get_args(f.type) or [f.type])
]
SECTION_OF_TYPE = {section.__name__: name for name, section in SECTIONS.items()}

REFUSED = [  # what is set, the key that the message begins with, what it expects, what it got
    ({"env.id": ""}, "env.id", "id of a Gymnasium environment", "''"),
    ({"env.num_envs": 0}, "env.num_envs", "greater than zero", "0"),
    ({"env.time_limit": 0}, "env.time_limit", "null or at least 1", "0"),
    ({"env.wrappers": ["ImgObsWrapper"]}, "env.wrappers", "module:Class, or {module:Class:", "'ImgObsWrapper'"),
    ({"env.wrappers": [{"a:B": {}, "c:D": {}}]}, "env.wrappers", "module:Class, or", "{'a:B': {}, 'c:D': {}}"),
    ({"env.hide": {"obs": [1, -1]}}, "env.hide", "indices of zero or more for obs", "[1, -1]"),
    ({"env.image_size": 48}, "env.image_size", "a power of two, at least 16", "48"),
    ({"env.image_size": 8}, "env.image_size", "a power of two, at least 16", "8"),
    ({"replay.growth_after": 1.5}, "replay.growth_after", "0 to 1", "1.5"),
    ({"replay.growth": 2, "training.cuda_graph": True}, "replay.growth", "1 where training.cuda_graph", "2"),
    ({"replay.restart": True}, "replay.burn_in", "0 where replay.restart is set", "4"),
    ({"decoder.initial_std": 0.01}, "decoder.initial_std", "null or more than decoder.resolution = 0.01", "0.01"),
    (
        {"decoder.initial_std": 0.1, "decoder.std": "fixed"},
        "decoder.initial_std",
        "null where decoder.std is fixed",
        "0.1",
    ),
    ({"replay.burn_in": 64}, "replay.burn_in", "0 to sequence_length - 1 = 63", "64"),
    ({"rssm.unimix": 1.0}, "rssm.unimix", "[0, 1)", "1.0"),
    ({"actor.slow_rate": 0.0}, "actor.slow_rate", "null or a share in (0, 1]", "0.0"),
    ({"rssm.cell": "gru"}, "rssm.blocks", "1 where rssm.cell is gru", "4"),
    ({"rssm.deter": 100, "rssm.blocks": 3}, "rssm.deter", "a multiple of rssm.blocks = 3", "100"),
    ({"rssm.gradient": "marginal"}, "rssm.gradient", "straight_through where latents are Gaussian", "'marginal'"),
    (
        {"rssm.gradient": "reinmax", "rssm.latent": "gaussian_full"},
        "rssm.gradient",
        "straight_through where latents are Gaussian",
        "'reinmax'",
    ),
    ({"rssm.min_std": 0.0}, "rssm.min_std", "greater than zero", "0.0"),
    ({"decoder.fixed_std": 0.0}, "decoder.fixed_std", "greater than zero", "0.0"),
    ({"loss.dyn": 0.5}, "loss.dyn, loss.rep", "both or neither", "(0.5, None)"),
    ({"loss.rep": 0.5}, "loss.dyn, loss.rep", "both or neither", "(None, 0.5)"),
    ({"loss.overshooting": -1.0}, "loss.overshooting", "zero or more", "-1.0"),
    ({"loss.overshooting_steps": 1}, "loss.overshooting_steps", "2 or more", "1"),
    (
        {"loss.overshooting": 0.1, "loss.overshooting_steps": 60},
        "loss.overshooting_steps",
        "below replay.sequence_length = 64",
        "60",
    ),
    ({"evaluation.score_samples": 0}, "evaluation.score_samples", "null or at least 1", "0"),
    ({"loss.alpha": 1.5}, "loss.alpha", "null or a number in [0, 1]", "1.5"),
    ({"loss.alpha": 0.8, "loss.dyn": 1.0, "loss.rep": 0.1}, "loss.alpha", "null where loss.dyn", "0.8"),
    ({"optimizer.final_fraction": 1.5}, "optimizer.final_fraction", "a share in [0, 1]", "1.5"),
    ({"training.train_ratio": 0.0}, "training.train_ratio", "greater than zero", "0.0"),
    ({"training.env_steps": 5000}, "training.env_steps", "more than training.prefill = 5000", "5000"),
    ({"acting.policy": "cem", "planner.elites": 65}, "planner.elites", "at most planner.candidates = 64", "65"),
    ({"name": "a/b"}, "name", "a file name", "'a/b'"),
    ({"name": ""}, "name", "a file name", "''"),
    ({"seed": -1}, "seed", "zero or more", "-1"),
    ({"training.prefill": 63}, "training.prefill", "at least replay.sequence_length = 64", "63"),
    ({"replay.capacity": 511}, "replay.capacity", "at least two sequences per environment = 512", "511"),
    ({"evaluation.particles": 1}, "evaluation.particles", "0 or at least 2", "1"),
    ({"planner.horizon": 0}, "planner.horizon", "greater than zero", "0"),
    ({"planner.candidates": 1}, "planner.candidates", "at least 2", "1"),
    ({"planner.iterations": 0}, "planner.iterations", "null or at least 1", "0"),
    ({"planner.discount": 1.1}, "planner.discount", "a share in [0, 1]", "1.1"),
    ({"planner.explore": 1.1}, "planner.explore", "a share in [0, 1]", "1.1"),
    (
        {"planner.method": "cem", "planner.elites": 65},
        "planner.elites",
        "at most planner.candidates = 64",
        "65",
    ),
    ({"evaluation.horizon": 985}, "evaluation.horizon", "within evaluation.max_length = 1000", "985"),
]


@pytest.mark.parametrize(("settings", "key", "expected", "got"), REFUSED, ids=lambda x: str(x)[:40])
def test_an_impossible_setting_is_refused_by_name_with_what_was_expected_and_what_came(settings, key, expected, got):
    with pytest.raises(ValueError) as refusal:
        build(settings)
    message = str(refusal.value)
    assert message.startswith(f"{key}: expected ")
    assert expected in message
    assert message.endswith(f", got {got}")


@pytest.mark.parametrize(("section", "name", "minus_one"), NUMBERS)
def test_no_number_may_be_minus_one(section, name, minus_one):
    twin = {"dyn": {"loss.rep": 1.0}, "rep": {"loss.dyn": 1.0}}.get(name, {})
    with pytest.raises(ValueError, match=rf"^{section}\.{name}: expected .*, got {minus_one}$"):
        build({f"{section}.{name}": minus_one, **twin})


def test_the_limits_themselves_are_allowed():
    build({"replay.capacity": 512})
    build({"training.prefill": 64})
    build({"evaluation.horizon": 984})
    build({"replay.burn_in": 63})
    build({"rssm.cell": "gru", "rssm.blocks": 1, "rssm.unimix": 0.0})
    build({"loss.alpha": 1.0, "loss.beta": 0.0})
    build({"planner.method": "cem", "planner.elites": 64, "planner.discount": 1.0, "planner.explore": 0.0})
    build({"planner.method": "mppi", "planner.candidates": 2})  # which has no elites


def test_a_later_file_wins_over_an_earlier_one_and_an_override_over_both(tmp_path):
    (tmp_path / "a.yaml").write_text("rssm: {deter: 64, stoch: 5}\nseed: 3\n")
    (tmp_path / "b.yaml").write_text("rssm: {deter: 32}\n")
    config = read_config([tmp_path / "a.yaml", str(tmp_path / "b.yaml")], {"seed": 7})
    assert (config.rssm.deter, config.rssm.stoch, config.seed) == (32, 5, 7)
    assert config == build({"rssm.deter": 32, "rssm.stoch": 5, "seed": 7})


def test_nothing_at_all_gives_the_defaults():
    assert read_config() == Config()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env.kwargs", {"g": 9.81, "map": None}),
        ("env.wrappers", ["a.b:C", {"d:E": {"size": 3, "name": "f"}}]),
        ("env.hide", {"obs": [1, 3]}),
        ("env.time_limit", None),
        ("loss.alpha", 0.8),
        ("wandb.tags", ["a", "b"]),
        ("wandb.group", "12"),
        ("name", "null"),
        ("training.compile", True),
        ("optimizer.eps", 1e-12),
    ],
)
def test_an_override_arrives_with_its_value_and_type(key, value):
    section, _, name = key.rpartition(".")
    config = read_config(overrides={key: value})
    got = getattr(getattr(config, section) if section else config, name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rssm.nothing", 3),
        ("rssm.dete", 128),
        ("nothing", 1),
        ("rssm.deter", "wide"),
        ("rssm.deter", 2.5),
        ("rssm.deter", True),
        ("rssm.cell", "lstm"),
        ("optimizer.learning_rate", float("nan")),
        ("rssm.stoch", 0),
    ],
)
def test_an_unknown_key_or_a_wrong_value_is_refused_by_name_from_overrides_and_files_alike(key, value, tmp_path):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        read_config(overrides={key: value})
    section, _, name = key.rpartition(".")
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({section: {name: value}} if section else {name: value}))
    with pytest.raises(ValueError, match=name):
        read_config(tmp_path / "bad.yaml")


@pytest.mark.parametrize("key", ["rssm.cell", "rssm.deter", "training.autocast", "env.kwargs"])
def test_a_value_left_blank_in_a_file_is_refused_by_name(key, tmp_path):
    section, name = key.split(".")
    (tmp_path / "blank.yaml").write_text(f"{section}:\n  {name}:\n")
    with pytest.raises(ValueError, match=name):
        read_config(tmp_path / "blank.yaml")


def test_a_missing_or_broken_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("rssm: {deter: 64\n")
    with pytest.raises(ValueError, match=r"broken\.yaml: expected settings as YAML, got line 2: .*expected ',' or '}'"):
        read_config(tmp_path / "broken.yaml")


def test_what_is_written_is_read_back(tmp_path):
    chosen = {"env.wrappers": ["a:B", {"c:D": {"e": 1}}], "env.hide": {"goal/0": [2]}}
    settings = {
        **chosen,
        "env.kwargs": {"g": 9.81, "names": ["a"]},
        "env.time_limit": 50,
        "loss.dyn": 0.5,
        "loss.rep": 0.1,
    }
    rest = {"optimizer.eps": 1e-12, "wandb.tags": ["12", "null"], "name": "yes", "seed": 2**31, "rssm.cell": "gru"}
    config = build({**settings, **rest, "rssm.blocks": 1})
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_file_under_configs_is_valid_and_each_of_its_settings_arrives_over_a_task(path):
    wanted = yaml.safe_load(path.read_text())
    read_config(path)
    got = dataclasses.asdict(read_config([PACKAGE.parent / "configs" / "pendulum.yaml", path]))
    assert wanted
    for name, value in wanted.items():
        assert (got[name] | value if name in SECTIONS else value) == got[name]


@pytest.mark.parametrize(
    "over", [path for path in CONFIGS if path.parent.name != "configs"], ids=lambda path: path.stem
)
def test_sizes_and_recipes_stack_on_every_task(over):
    wanted = yaml.safe_load(over.read_text())
    for task in [path for path in CONFIGS if path.parent.name == "configs"]:
        got = dataclasses.asdict(read_config([task, over]))
        for section, settings in wanted.items():
            assert got[section] | settings == got[section], task


def test_every_field_has_a_line_of_documentation_under_it():
    bare = []
    modules = [
        ast.parse(inspect.getsource(module)) for module in (config_module, config_model, config_acting, config_wandb)
    ]
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, ast.ClassDef):
            for field, below in zip(node.body, [*node.body[1:], None], strict=True):
                documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                is_section = isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation) in SECTION_OF_TYPE
                if isinstance(field, ast.AnnAssign) and not documented and not is_section:
                    bare.append(f"{node.name}.{ast.unparse(field.target)}")
    assert not bare


def test_every_field_is_read_by_something():
    read = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name not in ("config.py", "config_model.py", "config_acting.py", "config_wandb.py"):
            read |= settings_read(ast.parse(path.read_text()))
    everything = {(section, f.name) for section, f in FIELDS} | {("", f.name) for f in dataclasses.fields(Config)}
    unpacked = {(section, f.name) for section, f in FIELDS if section in ("env", "wandb")}
    assert everything - unpacked - read == set()


@pytest.mark.parametrize(
    ("section", "function", "file", "renamed"),
    [
        ("env", make_environments, "data/environment.py", {"id": "env_id", "num_envs": "count"}),
        ("wandb", file_run, "training/wandb_filing.py", {}),
    ],
)
def test_every_field_of_a_section_that_is_unpacked_whole_is_an_argument_that_is_used(section, function, file, renamed):
    names = {renamed.get(f.name, f.name) for f in dataclasses.fields(SECTIONS[section])}
    assert names <= inspect.signature(function).parameters.keys()
    functions = [n for n in ast.walk(ast.parse((PACKAGE / file).read_text())) if isinstance(n, ast.FunctionDef)]
    taking = [f for f in functions if names <= {a.arg for a in f.args.args + f.args.kwonlyargs}]
    assert taking
    for function in taking:
        assert names <= {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}


def build(settings: dict) -> Config:
    """A Config from dotted keys, without the parser."""
    top = {key: value for key, value in settings.items() if "." not in key}
    for name, section in SECTIONS.items():
        mine = {key.split(".")[1]: value for key, value in settings.items() if key.startswith(f"{name}.")}
        top[name] = section(**mine)
    return Config(**top)


def settings_read(tree: ast.AST) -> set[tuple[str, str]]:
    """(section, field) of every setting that a module reads as `config.section.field`, whatever it calls the two."""
    read = set()
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        sections = dict.fromkeys(("config", "self.config"), "")
        for argument in function.args.args + function.args.kwonlyargs:
            annotation = ast.unparse(argument.annotation) if argument.annotation else ""
            if annotation in SECTION_OF_TYPE:
                sections[argument.arg] = SECTION_OF_TYPE[annotation]
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                pairs = [(node.targets[0], node.value)]
                if isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple):
                    both = node.targets[0].elts, node.value.elts
                    starred = any(isinstance(one, ast.Starred) for side in both for one in side)
                    pairs = [] if starred else list(zip(*both, strict=True))
                for target, value in pairs:
                    owner, _, name = ast.unparse(value).rpartition(".")
                    if sections.get(owner) == "" and name in SECTIONS:
                        sections[ast.unparse(target)] = name
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                outer, _, section = owner.rpartition(".")
                if owner in sections:
                    read.add((sections[owner], node.attr))
                elif sections.get(outer) == "" and section in SECTIONS:
                    read.add((section, node.attr))
    return read


@pytest.mark.parametrize(
    ("key", "meant"), [("rssm.detr", "rssm.deter"), ("traning.prefill", "training.prefill"), ("sed", "seed")]
)
def test_a_misspelt_key_is_answered_with_the_one_that_was_meant(key, meant):
    with pytest.raises(ValueError, match=f"{re.escape(key)}.*did you mean {re.escape(meant)}"):
        read_config((), {key: 1})


def test_keywords_are_kept_as_they_were_written_and_nothing_is_made_of_them(tmp_path):
    keywords = {"a": "1", "b": "no", "c": "007", "x": {"class_path": "pathlib.Path", "init_args": {"args": ["p"]}}}
    (tmp_path / "some.yaml").write_text(yaml.safe_dump({"env": {"kwargs": keywords, "wrappers": [{"m:W": keywords}]}}))
    text = yaml.safe_dump(keywords, default_flow_style=True)
    for config in (
        read_config(tmp_path / "some.yaml"),
        read_config((), {"env.kwargs": keywords, "env.wrappers": [{"m:W": keywords}]}),
        read_config((), {"env": {"kwargs": keywords}, "env.wrappers+": {"m:W": keywords}}),
        read_config((), {"env.kwargs": text, "env.wrappers": f"[{{m:W: {text}}}]"}),
        read_config((), {f"env.kwargs.{key}": value for key, value in keywords.items() if key == "x"}),
    ):
        assert config.env.kwargs == {key: keywords[key] for key in config.env.kwargs} and "x" in config.env.kwargs
        assert config.env.wrappers in ([], [{"m:W": keywords}])
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_a_run_too_short_for_one_update_is_refused_with_the_least_that_would_do():
    settings = {
        "training.prefill": 100,
        "replay.batch_size": 4,
        "replay.sequence_length": 16,
        "training.train_ratio": 8,
    }
    with pytest.raises(ValueError, match=r"training.env_steps: .* at least 108, got 107"):
        read_config((), {**settings, "training.env_steps": 107})
    read_config((), {**settings, "training.env_steps": 108})
