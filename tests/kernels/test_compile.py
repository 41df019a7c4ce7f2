"""Kernels compiled ahead of time for real GPUs: what the interpreter cannot see (types, registers, loads)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = {
    f"{family}_{what}_{way}"
    for family in ("gaussian", "categorical")
    for what in ("head", "kl")
    for way in ("forward", "backward")
}
OF_A_STEP = {
    *("gru_mix", "gru_gates", "head_layer", "head_gaussian_draw", "head_categorical_draw"),
    *(
        "draw_gaussian_back",
        "draw_categorical_back",
        "norm_backward",
        "read_backward",
        "gru_gates_back",
        "gru_mix_back",
    ),
}


def run(*command):
    """In a process of its own, since nothing compiles where kernels are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(ROOT), str(ROOT / "scripts"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=1800)


def compile_kernels(figures, *options, kernels=KERNELS):
    done = run(str(ROOT / "scripts" / "compile_kernels.py"), "--json", str(figures), *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads(figures.read_text())["kernels"]
    assert {row["kernel"] for row in rows} == kernels
    return rows


def assert_sound(rows):
    for row in rows:
        assert row["spills"] == 0, row
        assert row["occupancy"] >= (0.25 if row["width"] == "scan" else 0.5), row
        assert row["load_bits"] >= row["possible_bits"], row


def test_kernels_compile_do_not_spill_and_load_widely(tmp_path):
    options = ("--targets", "sm_90", "--dtypes", "bfloat16", "--widths", "32", "32x32")
    rows = compile_kernels(tmp_path / "figures.json", *options)
    assert_sound(rows)
    assert {row["load_bits"] for row in rows if row["kernel"] != "gaussian_kl_backward"} == {128}


@pytest.mark.slow
def test_kernels_of_a_step_of_the_scan_compile_and_do_not_spill(tmp_path):
    options = ("--targets", "sm_90", "--dtypes", "bfloat16", "--widths", "scan")
    assert_sound(compile_kernels(tmp_path / "figures.json", *options, kernels=OF_A_STEP))


@pytest.mark.slow
def test_every_kernel_at_every_width_on_every_gpu(tmp_path):
    rows = compile_kernels(
        tmp_path / "figures.json", "--dtypes", "float32", "bfloat16", "float16", kernels=KERNELS | OF_A_STEP
    )
    assert {row["target"] for row in rows} == {"sm_80", "sm_89", "sm_90", "sm_100", "gfx942"}
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16", "float16"}
    assert_sound(rows)


@pytest.mark.slow
def test_a_tile_that_is_too_large_is_seen_to_spill(tmp_path):
    """So that the checks above are known to be able to fail."""
    code = f"""
import sys
import compile_kernels
from worldmodel.kernels import latent_triton, launch_triton
compile_kernels.OPERATORS = [compile_kernels.latent_head]
latent_triton.gaussian_tile = lambda S, itemsize: launch_triton.Tile(rows=16, groups=1024, classes=1, num_warps=4)
sys.argv[1:] = ["--json", {str(tmp_path / "figures.json")!r}, *"--targets sm_90 --dtypes float32 --widths 1024".split()]
sys.exit(compile_kernels.main())
"""
    done = run("-c", code)
    assert done.returncode == 1, done.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["kernels"]
    assert any(row["spills"] > 0 for row in rows)


def test_the_table_of_the_documentation_was_made_with_the_triton_that_the_constraints_pin():
    pinned = re.search(r"^triton==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert re.findall(r"^Triton (\S+);", (ROOT / "docs" / "kernels.md").read_text(), re.MULTILINE) == [pinned]


def test_it_refuses_to_run_where_kernels_are_interpreted():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compile_kernels.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "TRITON_INTERPRET" in done.stderr
