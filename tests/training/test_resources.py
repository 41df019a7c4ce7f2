"""What a run takes of its machine, beside what the operating system says in another way."""

import multiprocessing
import os
import sys
import time

import pytest
import torch

from worldmodel.training.resources import GIB, NAMES, Resources

CPU = torch.device("cpu")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def busy(seconds: float) -> None:
    """Use so much of a processor."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def work(begin, done, end):
    begin.wait()
    busy(0.3)
    done.set()
    end.wait()


def test_cores_are_processor_seconds_a_second_since_the_last_look(monkeypatch):
    now, spent = [10.0], [5.0]
    monkeypatch.setattr("worldmodel.training.resources.time.monotonic", lambda: now[0])
    monkeypatch.setattr("worldmodel.training.resources.time.process_time", lambda: spent[0])
    resources = Resources(CPU)
    now[0], spent[0] = 14.0, 11.0
    assert resources.metrics()["resources/cores"] == pytest.approx(6 / 4)
    now[0], spent[0] = 16.0, 11.5
    assert resources.metrics()["resources/cores"] == pytest.approx(0.5 / 2)


@LINUX
def test_the_time_and_the_memory_of_children_count_until_they_end():
    context = multiprocessing.get_context("fork")
    begin, done, end = context.Event(), context.Event(), context.Event()
    alone = Resources(CPU).metrics()["resources/memory"]
    child = context.Process(target=work, args=(begin, done, end))
    child.start()
    resources = Resources(CPU)
    began = time.monotonic()
    begin.set()
    assert done.wait(60)
    found = resources.metrics()
    end.set()
    child.join()
    assert found["resources/cores"] * (time.monotonic() - began) > 0.2
    assert found["resources/memory"] > 1.1 * alone
    assert resources.metrics()["resources/cores"] >= 0


@LINUX
def test_memory_is_what_linux_calls_resident():
    held = torch.ones(2**26 // 4)  # 64 MiB
    found = Resources(CPU).metrics()["resources/memory"]
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmRSS")]
    assert found == pytest.approx(int(line.split()[1]) * 1024 / GIB, rel=0.2) and held.numel()


@pytest.mark.skipif(os.name == "nt", reason="Windows says neither")
def test_without_proc_the_peak_stands_for_the_memory(tmp_path):
    found = Resources(CPU, proc=tmp_path).metrics()
    assert found.keys() == {"resources/cores", "resources/peak_memory"}
    assert 0.01 < found["resources/peak_memory"] < 1000


def test_a_gpu_adds_what_torch_holds_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: {"cuda:1": 3 * GIB}[str(device)])
    assert Resources(torch.device("cuda", 1)).metrics()["resources/gpu_memory"] == 3.0


def test_the_names_are_those_that_are_listed():
    assert {name.partition("/")[2] for name in Resources(CPU).metrics()} <= {*NAMES}
