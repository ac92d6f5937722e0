"""Runs of the shipped checkpoint on 8 chips, killed at random moments: do they end, and are they
resumed to the same?

A third of the kills hit a chip of a Lava run, a third a rank of an MPI run on three ranks, a third
the process that the user started: the command of a Lava run, or mpiexec.  A run that had saved a
state is resumed, one that had not is started anew, both on an engine drawn at random; each must
give the tokens and the counts of a run that never stopped.

Kills begin half a second after the start of a Lava command, and when the ranks of an MPI run are
through MPI_Init: a process that is killed in there leaves the name of the memory that the library
was about to share, which is not ours to remove. Run: python examples/benchmarks/kills.py [FOLDER]
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rows import write

from mmfree_neuro.run import run_file

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "stdlib-5m"
PROMPT = "import os\n"
NEW_TOKENS = 300
KILLS = 20
RANKS = 3
SEED = 20
EARLIEST_S = 0.5
LAST_S = 0.3
"""How long before the end of a normal run the last kill may come."""
SOON_S = 5.0
GIVEN_UP_S = 30.0
STATE = "state.safetensors"
MPI_MEMORY = "mpich_", "ucx_"
BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec") or "mpiexec"
COMMAND = sys.executable, "-m", "mmfree_neuro"
VICTIMS = "a Lava chip", "an MPI rank", "the user's process"
TELLING = """
import os
import sys
from multiprocessing import shared_memory
from pathlib import Path

from mmfree_neuro.cli import main as cli
from mmfree_sims.tiles import tile

build, shared_memory._SHM_NAME_PREFIX = tile.Tile.__init__, f"/k{os.getpid()}_"


def tell(self, *what):
    Path(folder, str(os.getpid())).touch()
    build(self, *what)


folder, tile.Tile.__init__ = sys.argv.pop(1), tell
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command line, of which every process that is a chip leaves a file named by its process id in
a folder, and whose shared memory is known from that of others."""
ENGINES = {"fast": 1, "lava": 1, "mpi": 2}
"""On how many ranks each engine resumes."""


@dataclass(frozen=True)
class Kill:
    """What one kill came to."""

    victim: str
    engine: str
    delay_s: float
    seconds_to_end: float
    left: str
    """Processes and shared memory that were still there after `SOON_S`."""
    had_state: bool
    resumed_on: str
    problem: str
    """How the second run differs from one that never stopped."""

    def clean(self) -> bool:
        """Whether everything had ended in time."""
        return self.seconds_to_end < SOON_S and not self.left

    def text(self) -> str:
        """A line for people."""
        then = f"{'resumed' if self.had_state else 'started anew'} on {self.resumed_on}"
        return (
            f"{self.victim} of {self.engine} after {self.delay_s:.2f} s: ended in "
            f"{self.seconds_to_end:.2f} s, left "
            f"{self.left or 'nothing'}; {then}: {self.problem or 'the same'}"
        )


def simulate(
    folder: Path, engine: str, ranks: int, run: Path, *more: str, command: tuple[str, ...] = COMMAND
) -> list[str]:
    """The command that runs the mapping."""
    under = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    what = [
        "simulate",
        str(folder / "model.map"),
        "--prompt",
        PROMPT,
        "--new-tokens",
        str(NEW_TOKENS),
        "--ignore-eos",
    ]
    return [*under, *command, *what, "--engine", engine, "--save-every", "8", "-o", str(run), *more]


def outcome(run: Path) -> tuple[object, ...]:
    """What a run gave, less the time it took."""
    found = run_file.load_run(run)
    return found.new_tokens, found.text, found.prefill, found.generate


def living(mark: str) -> dict[int, bytes]:
    """The environment of every living process that inherited a mark, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:  # it ended meanwhile, or is not ours
            continue
        if f"KILLS={mark}\0".encode() in environment:
            found[int(entry.name)] = environment
    return found


def candidates(process: subprocess.Popen, mark: str, kind: str, chips: Path) -> list[int]:
    """The processes that a kill may hit by now."""
    if kind == VICTIMS[0]:
        return sorted(living(mark).keys() & {int(file.name) for file in chips.iterdir()})
    if kind == VICTIMS[1]:
        return sorted(
            pid for pid, environment in living(mark).items() if b"PMI_RANK=" in environment
        )
    return [process.pid]


def left_in_memory(before: set[str], whose: tuple[str, ...]) -> list[str]:
    """What of a run has come to lie in shared memory since, and no living process holds."""
    new = {name for name in set(os.listdir("/dev/shm")) - before if name.startswith(whose)}
    held = []
    for entry in Path("/proc").iterdir() if new else ():
        try:
            held.append(
                (entry / "maps").read_text(errors="replace") if entry.name.isdigit() else ""
            )
        except OSError:
            continue
    return sorted(name for name in new if not any(name in maps for maps in held))


def start(command: list[str], mark: str, engine: str) -> subprocess.Popen:
    """Start a command, and wait for the moment of the first kill."""
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"KILLS": mark},
    )
    if engine == "lava":
        time.sleep(EARLIEST_S)
        return process
    # MPICH's memory comes in MPI_Init, and its name goes when all ranks of the host have it open
    begun = False
    while process.poll() is None:
        named = any(name.startswith("mpich_") for name in set(os.listdir("/dev/shm")) - before)
        if begun and not named:
            break
        begun = named
        time.sleep(0.002)
    return process


def kill(
    folder: Path, kind: str, engine: str, delay: float, draw: random.Random
) -> tuple[float, str] | None:
    """Start a run and kill one of its processes: the seconds to its end, and what was left; None if
    it was over."""
    for old in (folder / "run", folder / "chips"):
        shutil.rmtree(old, ignore_errors=True)
    (folder / "chips").mkdir()
    mark, before = f"{os.getpid()}-{draw.random()}", set(os.listdir("/dev/shm"))
    program = (
        (sys.executable, "-c", TELLING, str(folder / "chips")) if engine == "lava" else COMMAND
    )
    command = simulate(
        folder, engine, RANKS if engine == "mpi" else 1, folder / "run", command=program
    )
    process = start(command, mark, engine)
    whose = (f"k{process.pid}_",) if engine == "lava" else MPI_MEMORY
    time.sleep(delay)
    while (
        not (found := candidates(process, mark, kind, folder / "chips")) and process.poll() is None
    ):
        time.sleep(0.005)
    try:
        os.kill(draw.choice(found), signal.SIGKILL)
    except (IndexError, ProcessLookupError):
        process.wait()
        return None
    begin = ended = time.monotonic()
    while (process.poll() is None or living(mark)) and ended - begin < GIVEN_UP_S:
        time.sleep(0.01)
        ended = time.monotonic()
    while left_in_memory(before, whose) and time.monotonic() - begin < SOON_S:
        time.sleep(0.01)
    left = [f"process {pid}" for pid in living(mark)] + left_in_memory(before, whose)
    for pid in living(mark):
        os.kill(pid, signal.SIGKILL)
    if process.wait() == 0:
        left.append("a run that went on as if nothing had happened")
    return ended - begin, ", ".join(left)


def second_run(
    folder: Path, engine: str, run: Path, expected: tuple[object, ...], *more: str
) -> str:
    """Resume a run, or start it anew: how that went wrong, or nothing."""
    command = simulate(folder, engine, ENGINES[engine], run, *more)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        return f"status {done.returncode}: {done.stderr.strip()}"
    return "" if outcome(run) == expected else "other tokens or counts"


def one(
    folder: Path,
    number: int,
    normal_s: dict[str, float],
    expected: tuple[object, ...],
    draw: random.Random,
) -> Kill:
    """One kill, and what followed."""
    kind = VICTIMS[number % 3]
    engine = {VICTIMS[0]: "lava", VICTIMS[1]: "mpi"}.get(kind) or ("lava", "mpi")[number // 3 % 2]
    ended = None
    while ended is None:
        delay = draw.uniform(0, normal_s[engine] - LAST_S)
        ended = kill(folder, kind, engine, delay, draw)
    had_state, again = (folder / "run" / STATE).is_file(), draw.choice(sorted(ENGINES))
    problem = second_run(
        folder, again, folder / "run", expected, *(["--resume"] if had_state else [])
    )
    return Kill(kind, engine, delay, *ended, had_state, again, problem)


def prepare(folder: Path) -> tuple[dict[str, float], tuple[object, ...]]:
    """Map the checkpoint and run it on every engine: how long there is to kill a run, and what a
    run gives."""
    graph, mapping = str(folder / "model.graph"), str(folder / "model.map")
    for step in (
        ["convert", str(SHIPPED), "-o", graph],
        ["map", graph, "--system", "kapoho-point", "--chips", "8", "-o", mapping],
    ):
        subprocess.run([*COMMAND, *step], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        simulate(folder, "fast", 1, folder / "fast"), check=True, stdout=subprocess.DEVNULL
    )
    normal_s, outcomes = {}, [outcome(folder / "fast")]
    for engine, ranks in (("lava", 1), ("mpi", RANKS)):
        process, begin = (
            start(simulate(folder, engine, ranks, folder / engine), "none", engine),
            time.monotonic(),
        )
        process.wait()
        normal_s[engine] = time.monotonic() - begin
        outcomes.append(outcome(folder / engine))
    if outcomes[1:] != outcomes[:-1]:
        raise SystemExit("the engines differ: no row is written")
    return normal_s, outcomes[0]


def main(folder: Path) -> None:
    normal_s, expected = prepare(folder)
    draw, kills = random.Random(SEED), []
    for number in range(KILLS):
        found = one(folder, number, normal_s, expected, draw)
        kills.append(found)
        print(found.text(), flush=True)
    clean, right = sum(found.clean() for found in kills), sum(not found.problem for found in kills)
    if not clean == right == KILLS:
        raise SystemExit(
            f"of {KILLS} kills {clean} ended cleanly and {right} were resumed right: no row is "
            "written"
        )
    about = {
        "seed": SEED,
        "kinds": {kind: sum(found.victim == kind for found in kills) for kind in VICTIMS},
        "not_before": (
            f"{EARLIEST_S} s after the start of a Lava command; the end of MPI_Init in an MPI run"
        ),
    }
    write(
        "kills",
        [
            about | {"what": "kills", "value": KILLS, "unit": "runs"},
            about | {"what": "clean ends", "value": clean, "unit": "runs"},
            about
            | {
                "what": "right resumes",
                "value": right,
                "unit": "runs",
                "from_a_state": sum(found.had_state for found in kills),
            },
            about
            | {
                "what": "longest time to end",
                "value": round(max(found.seconds_to_end for found in kills), 3),
                "unit": "s",
            },
        ],
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
