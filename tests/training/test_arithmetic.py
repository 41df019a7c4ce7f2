import pytest
import torch

from brief_runs import train_briefly
from worldmodel.training.arithmetic import arithmetic
from worldmodel.training.trainer import Trainer


def seen():
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return *tf32, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_it_computes_as_asked_and_as_before_afterwards(tf32, deterministic):
    before = seen()
    with pytest.raises(ZeroDivisionError), arithmetic(tf32=tf32, deterministic=deterministic):
        assert seen() == (tf32, tf32, deterministic)
        _ = 1 / 0
    assert seen() == before


def test_a_deterministic_training_raises_where_an_operation_has_no_such_form():
    x = torch.zeros(4)
    with arithmetic(tf32=False, deterministic=True), pytest.raises(RuntimeError, match="deterministic"):
        torch.nn.functional.max_unpool1d(x[None, None], torch.arange(4)[None, None], 1)


def test_a_run_trains_with_its_settings(monkeypatch, tmp_path):
    train, during = Trainer.run, []
    monkeypatch.setattr(Trainer, "run", lambda self: during.append(seen()) or train(self))
    train_briefly(tmp_path, {"training.tf32": True, "training.deterministic": True})
    assert during == [(True, True, True)]
