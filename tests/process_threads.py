"""Several processes, played by threads of this one that share a store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from torch.distributed import HashStore, ProcessGroupGloo

from worldmodel.training.processes import Processes


def in_each_of(world, act):
    """What `act` returns in each of so many processes, by rank."""
    store = HashStore()

    def run(rank):
        return act(Processes(rank, world, ProcessGroupGloo(store, rank, world, timedelta(seconds=60))))

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(run, range(world)))
