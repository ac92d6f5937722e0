"""The processes of one training run, each with its share of every batch, as torchrun or srun start
them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from mmfree_neuro.errors import InputError, RunFailed

TORCHRUN = "RANK", "WORLD_SIZE", "LOCAL_RANK"
SRUN = "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"
PORT = "29500"
"""Where the first process listens, where nothing else says."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is, and which of those of this machine."""

    number: int = 0
    count: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes."""
        return self.number == 0

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU."""
        return (
            torch.device("cuda", self.local) if torch.cuda.is_available() else torch.device("cpu")
        )

    def share(self, windows: Tensor) -> Tensor:
        """This process's part of a batch [windows, …]."""
        return windows.chunk(self.count)[self.number]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar that every process has."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def agreed(self, number: int) -> int:
        """What the first process says, in all."""
        if self.count == 1:
            return number
        said = torch.tensor(int(number), device=self.device)
        dist.broadcast(said, 0)
        return int(said.item())

    def all(self, flag: bool) -> bool:
        """Whether every process says so."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) == 1)

    def wait(self) -> None:
        """Until all are here."""
        self.agreed(0)


ALONE = Ranks()


def started() -> Ranks:
    """What the environment says; this process alone where it says nothing.

    Of srun's tasks one counts alone unless there are several.
    """
    for names in (TORCHRUN, SRUN):
        if all(name in os.environ for name in names):
            number, count, local = (int(os.environ[name]) for name in names)
            if count > 1:
                return Ranks(number, count, local)
    return ALONE


class Ended(RunFailed):
    """Another process of a run has ended, or did not come."""


class Outnumbered(InputError):
    """No GPU is left for this process, and one is for each before it on its machine: of all of them
    it alone says so."""


def _gpus(ranks: Ranks) -> int:
    """The GPUs of this machine; InputError where none of them is left for this process."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and ranks.local >= gpus:
        problem = Outnumbered if ranks.local == gpus else InputError
        raise problem(
            f"{ranks.local + 1} processes or more were started on a machine with {gpus} "
            f"GPU{'s' * (gpus > 1)}, must be one a GPU"
        )
    return gpus


@contextmanager
def joined(*, alone: bool = False) -> Iterator[Ranks]:
    """The processes together: NCCL between GPUs, gloo between CPUs; one that is `alone`, too, where
    that is said.

    Raises InputError where a machine has fewer GPUs than processes, and Ended where another process
    has ended or does not come.
    """
    ranks = started()
    if ranks.count == 1 and not alone:
        yield ranks
        return
    gpus = _gpus(ranks)
    if gpus:
        torch.cuda.set_device(ranks.device)
    # A captured step must not be watched from another thread; whoever started us ends the others.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
    os.environ.setdefault("MASTER_PORT", PORT)
    try:
        dist.init_process_group(
            "nccl" if gpus else "gloo",
            store=HashStore() if ranks.count == 1 else None,
            rank=ranks.number,
            world_size=ranks.count,
        )
    except dist.DistError as error:
        why = str(error).partition("\n")[0]
        raise Ended(f"rank {ranks.number}: not all processes have come ({why})") from None
    try:
        yield ranks
    except RuntimeError as error:  # gloo has no name for it
        if not any(word in str(error) for word in ("Connection", "connection", "NCCL", "peer")):
            raise
        raise Ended(f"rank {ranks.number}: another process has ended ({error})") from None
    finally:
        dist.destroy_process_group()
