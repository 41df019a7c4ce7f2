import pytest
import torch

from brief_runs import train_briefly
from worldmodel.training.arithmetic import arithmetic
from worldmodel.training.trainer import Trainer


def tf32_allowed():
    return torch.get_float32_matmul_precision() == "high", torch.backends.cudnn.allow_tf32


def deterministic_mode():
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize("tf32", [False, True])
def test_a_gpu_multiplies_as_asked_and_as_before_afterwards(tf32, monkeypatch):
    before = tf32_allowed()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ZeroDivisionError), arithmetic(tf32=tf32, deterministic=False):
        assert tf32_allowed() == (tf32, tf32)
        _ = 1 / 0
    assert tf32_allowed() == before


def test_without_a_gpu_no_switch_is_touched_that_a_cpu_may_read():
    before = tf32_allowed()
    with arithmetic(tf32=True, deterministic=False):
        assert tf32_allowed() == before


def test_what_the_process_had_is_kept_and_comes_back():
    for ours, there in ((False, (True, True)), (True, (True, False))):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            with arithmetic(tf32=False, deterministic=ours):
                assert deterministic_mode() == there
            assert deterministic_mode() == (True, True)
        finally:
            torch.use_deterministic_algorithms(False)


def test_a_deterministic_training_raises_where_an_operation_has_no_such_form():
    x = torch.zeros(4)
    with arithmetic(tf32=False, deterministic=True), pytest.raises(RuntimeError, match="deterministic"):
        torch.nn.functional.max_unpool1d(x[None, None], torch.arange(4)[None, None], 1)


def test_a_run_trains_with_its_settings(monkeypatch, tmp_path):
    train, during = Trainer.run, []
    monkeypatch.setattr(Trainer, "run", lambda self: during.append(deterministic_mode()) or train(self))
    train_briefly(tmp_path, {"training.deterministic": True})
    assert during == [(True, False)] and deterministic_mode() == (False, False)
