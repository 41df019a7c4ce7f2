"""A run is opened and looked at in a notebook without what only training needs."""

import subprocess
import sys
from pathlib import Path

import worldmodel
from brief_runs import train_briefly

CODE = """
import sys
import numpy as np
import worldmodel

run = worldmodel.open_run(sys.argv[1])
loaded = [sorted({"torch._dynamo", "wandb", "matplotlib", "worldmodel.kernels.kl_triton"} & set(sys.modules))]
latents = run.latents()
run.imagine(samples=2)
run.imagine(start=latents.at(3), actions=np.zeros((2, 4, run.model.spec.action.width)), samples=2)
run.kl()
env = run.filter()
env.reset(seed=0)
env.step(env.choose(run.policy()))
run.evaluate()
run.evidence([2], runs=1, context=0)
print(loaded[0], "torch._dynamo" in sys.modules)
"""


def test_an_opened_run_imports_no_compiler(tmp_path):
    settings = {"acting.policy": "actor", "evaluation.acting_episodes": 0, "evaluation.context": 2}
    settings |= {"rssm.latent": "categorical", "rssm.classes": 3}
    folder = train_briefly(tmp_path, settings)
    command = [sys.executable, "-W", "error", "-c", CODE, str(folder)]
    root = Path(worldmodel.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[]", "False"]
