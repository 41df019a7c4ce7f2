"""The shape of the package: imports point downward, heavy ones wait until needed, files and functions are short."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import worldmodel

PACKAGE = Path(worldmodel.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ENV_FILES = sorted((PACKAGE.parent / "envs").rglob("*.py"))
# A module imports its own layer and those to the right of it.
LAYERS = [
    *(
        "__main__",
        "cli",
        "commands",
        "runs",
        "build",
        "build_acting",
        "build_networks",
        "config_io",
        "training",
        "playable",
        "report",
        "evaluation",
    ),
    *("behaviour", "evidence", "objectives", "oracles", "models", "data", "kernels", "config"),
    *("config_acting", "config_model", "config_wandb"),
    *("checks", "train_ratio", "seeding", "types", "system"),
]
SETTINGS = {"config", "config_acting", "config_model", "config_wandb", "config_io"}
MAY_SEE_SETTINGS = {"__main__", "cli", "commands", "runs", "build", "build_acting", "build_networks"}
MAY_SEE_SETTINGS |= {"config", "config_io"}
COMMAND_LINE = {"cli", *(f"commands.{path.stem}" for path in (PACKAGE / "commands").glob("*.py"))}
HEAVY = ("torch", "gymnasium", "wandb", "matplotlib")


def module_name(path: Path) -> str:
    """worldmodel/training/learner.py -> training.learner; a package's __init__.py has the package's own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere below a node; `from a import b` counts as a.b where that is a module."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what they import"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if is_module(name) else str(node.module) for name in below}
    return names


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def at_import(tree: ast.Module) -> ast.Module:
    """What runs when a module is imported: everything outside functions and `if TYPE_CHECKING`."""

    class Outside(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.If | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else node

    return Outside().visit(tree)


TREES = {module_name(path): ast.parse(path.read_text()) for path in FILES}
INSIDE = {  # module -> the modules of the package that it imports; the root is at the top, and nobody's business
    name: {i.removeprefix("worldmodel.") for i in imported(tree) if i.split(".")[0] == "worldmodel"}
    for name, tree in TREES.items()
    if name
}


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[0])


def test_imports_point_downward():
    upward = {(a, b) for a, below in INSIDE.items() for b in below if b != "worldmodel" and layer(b) < layer(a)}
    assert not upward


def test_imports_have_no_cycle():
    graphlib.TopologicalSorter(INSIDE).prepare()  # raises CycleError with the cycle in it


def test_nobody_inside_imports_the_root_of_the_package():
    assert [name for name, below in INSIDE.items() if "worldmodel" in below] == []


def test_settings_stay_at_the_top():
    readers = {name for name, below in INSIDE.items() if below & SETTINGS}
    assert {name.split(".")[0] for name in readers} <= MAY_SEE_SETTINGS


def test_environments_know_nothing_of_the_library():
    for path in ENV_FILES:
        assert not {i for i in imported(ast.parse(path.read_text())) if i.split(".")[0] == "worldmodel"}, path


def test_wandb_is_imported_by_the_tracker_alone_and_only_when_it_is_wanted():
    users = {name for name, tree in TREES.items() if uses(tree, "wandb")}
    assert users == {"training.wandb_tracker"}
    assert not uses(at_import(ast.parse((PACKAGE / "training" / "wandb_tracker.py").read_text())), "wandb")


def test_triton_is_imported_by_kernel_files_alone_and_nobody_imports_those_when_imported_itself():
    kernels = {name for name in TREES if name.endswith("_triton")}
    assert {name for name, tree in TREES.items() if uses(tree, "triton")} <= kernels
    for path in FILES:
        if module_name(path) not in kernels:
            eager = imported(at_import(ast.parse(path.read_text())))
            assert not eager & {f"worldmodel.{name}" for name in kernels}, path


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import worldmodel", HEAVY),
        ("from worldmodel.cli import main; main(['train', '--print_config'])", HEAVY),
        ("from worldmodel.cli import main; main(['--help'])", HEAVY),
        ("from worldmodel.cli import main; main(['import', '--help'])", HEAVY),
        ("from worldmodel.cli import main\ntry: main(['train', '--rssm.dete=9'])\nexcept SystemExit: pass", HEAVY),
        ("from worldmodel.cli import main\ntry: main(['fly'])\nexcept SystemExit: pass", HEAVY),
        ("import worldmodel.runs.run", ("wandb", "matplotlib", "torch._dynamo", "worldmodel.kernels.kl_triton")),
    ],
)
def test_what_is_heavy_is_not_imported_before_it_is_needed(statement, absent):
    code = f"import sys, atexit\natexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr))\n{statement}"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = done.stderr.partition("LOADED")[2].split()
    assert "worldmodel" in loaded
    assert not set(absent) & set(loaded)


def test_only_the_command_line_prints():
    assert {name for name, tree in TREES.items() for node in ast.walk(tree) if is_print(node)} <= COMMAND_LINE


def test_files_hold_one_idea_and_say_what_they_are():
    """A second idea is the reason to split a file; no single one here has taken as many lines as these."""
    for path in FILES + ENV_FILES:
        text = path.read_text()
        assert len(text.splitlines()) < 500, path
        assert ast.get_docstring(ast.parse(text)), path


def test_functions_are_short():
    long = []
    for path in FILES + ENV_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                on_gpu = any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)
                if not on_gpu:
                    long.append(f"{path}: {node.name}")
    assert not long


def test_packages_hold_a_docstring_and_nothing_else():
    for path in PACKAGE.rglob("*/__init__.py"):
        body = ast.parse(path.read_text()).body
        assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in body), path


def uses(tree: ast.AST, package: str) -> bool:
    return any(name.split(".")[0] == package for name in imported(tree))


def is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
