"""What a rank asks mpiexec, or finds out by itself, before and beside MPI.

mpiexec of MPICH answers questions of a line each on a descriptor that it leaves to every rank (the
wire protocol of PMI 1).  Started in another way there is nobody to ask.
"""

import os
import resource
import select
from contextlib import suppress
from pathlib import Path

MEBIBYTE = 1 << 20
BYTES_OF_A_HOST, BYTES_OF_A_RANK = 16 * MEBIBYTE, 6 * MEBIBYTE
"""What has to be free in /dev/shm: MPICH 5 takes 5.3 MiB for a rank, leaves some of it alone where
less than 16 MiB are free, and where others take the rest meanwhile, ends by a segmentation
fault."""
DESCRIPTORS = 18
"""What MPICH opens in every rank."""
PATIENCE_SECONDS = 1.0
LOCAL_RANKS = "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"
LOCAL_RANK = "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"
"""Where mpiexec of MPICH and of Open MPI say how many ranks are on this host, and which this is."""


def _number(names: tuple[str, ...], alone: int) -> int:
    words = [os.environ[name] for name in names if name in os.environ]
    return int(words[0]) if words and words[0].isdigit() else alone


def local_rank() -> int:
    """Which of the ranks of this host this is."""
    return _number(LOCAL_RANK, 0)


def shortage(folder: Path) -> str | None:
    """Why the ranks of this host cannot share memory in a folder; None where they can."""
    ranks = _number(LOCAL_RANKS, 1)
    needed = BYTES_OF_A_HOST + BYTES_OF_A_RANK * ranks
    must = f"must have {needed // MEBIBYTE} MiB free for the MPI engine on {ranks} rank"
    must += "s" * (ranks > 1)
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return f"{folder}: not readable ({error.strerror}), {must}"
    if not os.access(folder, os.W_OK):
        return f"{folder}: cannot be written, {must}"
    free = disk.f_bavail * disk.f_frsize
    if free >= needed:
        return None
    return f"{folder}: has {free / MEBIBYTE:.1f} MiB free, {must}"


def too_few_descriptors() -> str | None:
    """Why MPI cannot open what it needs; None where it can.  The limit is raised as far as it may
    be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) - 1 + DESCRIPTORS
    if hard != resource.RLIM_INFINITY and needed > hard:
        return (
            f"the MPI engine needs {needed} file descriptors for a rank, the limit is {hard}, must "
            f"be at least {needed} (ulimit -n {needed})"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return None


def _ask(question: str, seconds: float | None) -> str:
    """mpiexec's answer; ValueError where there is nobody to ask."""
    wire = int(os.environ.get("PMI_FD", ""))
    os.write(wire, f"cmd={question}\n".encode())
    ready, _, _ = select.select([wire], [], [], seconds)
    return os.read(wire, 4096).decode() if ready else ""


def meet() -> None:
    """Wait for all ranks, before MPI has begun: each has then seen the same free memory."""
    with suppress(OSError, ValueError):
        _ask("barrier_in", None)


def abort(status: int) -> None:
    """Have mpiexec end all ranks, before MPI has begun."""
    with suppress(OSError, ValueError):
        _ask(f"abort exitcode={status}", PATIENCE_SECONDS)


def remove_topology_file() -> None:
    """Remove the file in which mpiexec tells the ranks of one host what their processors are.

    All have read it when MPI has begun.  mpiexec itself removes it at its end, which it does not
    come to when it is killed.
    """
    with suppress(OSError, ValueError, IndexError):
        if local_rank() == 0:
            space = _ask("get_my_kvsname", PATIENCE_SECONDS).split("kvsname=")[1].split()[0]
            answer = _ask(f"get kvsname={space} key=PMI_hwloc_xmlfile", PATIENCE_SECONDS)
            path = Path(answer.split("value=")[1].split()[0])
            if path.name.startswith("hydra_hwloc_xmlfile_"):
                path.unlink()
