"""What every test shares: shapes checked at run time, one thread, one table of tolerances, tiny worlds."""

import os

import torch

# Without a GPU, Triton's kernels are interpreted; it looks when it is first imported, as by torch._dynamo.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

import shape_checks

shape_checks.install("worldmodel", "worldmodel_envs")

# Two OpenMP threads on a busy two-core machine run many times slower than one.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    shape_checks.begin()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    shape_checks.begin()  # again, behind fixtures that may have trained a model


@pytest.fixture(autouse=True)
def _no_wandb_leaks(tmp_path, monkeypatch):
    """W&B keeps everything, caches included, in the test's folder, and never finds a key or a server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        if name != "WANDB_SERVICE":  # W&B's own, of its process that may still run; not to be brought back later
            monkeypatch.delenv(name)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
