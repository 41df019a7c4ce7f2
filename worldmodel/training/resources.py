"""What a run takes of its machine: processor, memory and GPU memory, as the operating system counts them."""

import multiprocessing
import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch

NAMES = ("cores", "memory", "peak_memory", "gpu_memory")
GIB = 2**30
PROC = Path("/proc")  # Linux has a folder of each process there


class Resources:
    """What this process and its children, which run environments, take from one look to the next.

    Without /proc the processor's time is that of this process alone, and its peak stands for the memory; Windows has
    neither. Looking takes well under a millisecond, and never waits for a GPU.
    """

    def __init__(self, device: torch.device, *, proc: Path = PROC) -> None:
        """Args:
        device: of the model.
        proc: where processes are described.
        """
        self._device, self._proc = device, proc
        self._looked, self._seconds = time.monotonic(), self._processor_seconds()

    def metrics(self) -> dict[str, float]:
        """Cores that were busy since the last look (CPU seconds a second), and GiB in use now, by `resources/NAME`."""
        now, seconds = time.monotonic(), self._processor_seconds()
        spent = sum(total - self._seconds.get(process, 0.0) for process, total in seconds.items())
        found = {"cores": spent / max(now - self._looked, 1e-9), **self._memory()}
        self._looked, self._seconds = now, seconds
        if self._device.type == "cuda":
            found["gpu_memory"] = torch.cuda.memory_reserved(self._device) / GIB
        return {f"resources/{name}": value for name, value in found.items()}

    def _processor_seconds(self) -> dict[int, float]:
        """CPU seconds by process so far; a process that ended since the last look is not there any more."""
        seconds = {os.getpid(): time.process_time()}
        for process in _children():
            fields = _read(self._proc / str(process) / "stat").rpartition(")")[2].split()  # the name may have spaces
            if len(fields) > 12:
                seconds[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds

    def _memory(self) -> dict[str, float]:
        """GiB that are resident; pages that processes share count once for each of them."""
        pages = [_read(self._proc / str(process) / "statm").split() for process in (os.getpid(), *_children())]
        if pages[0]:
            return {"memory": sum(int(one[1]) for one in pages if one) * os.sysconf("SC_PAGE_SIZE") / GIB}
        try:
            import resource  # not on Windows
        except ModuleNotFoundError:
            return {}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_memory": peak / GIB if os.uname().sysname == "Darwin" else peak * 1024 / GIB}


def _children() -> Iterable[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def _read(path: Path) -> str:
    """A file of /proc; nothing where the process has ended, or there is no /proc."""
    try:
        return path.read_text()
    except OSError:
        return ""
