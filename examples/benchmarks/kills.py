"""Runs of the shipped checkpoint on 8 chips, disturbed at random moments: do they end, leave
nothing, and are they resumed to the same?

A kill hits a process of a Lava run, a rank of an MPI run on three ranks, the process that the user
started (the command of a Lava run, or mpiexec), or all of them.  Most are SIGKILL, some SIGTERM and
SIGSTOP.  Each run has a mount namespace with a /dev/shm and a temporary folder of its own, which
must be as empty afterwards as before; so must the table of processes.

A chip or rank that was stopped must be named within half a minute; the run is then told to end.
Where the user's process or all were stopped, they are let go on, and the run must come to its end.
Every other run is resumed from its state, or started anew where it had saved none, on an engine
drawn at random, and must give the tokens and the counts of a run that never stopped.

Kills begin half a second after the start of a Lava command, and when the ranks of an MPI run are
through MPI_Init: a process that is killed in there leaves the name of the memory that the library
was about to share, which is not ours to remove. Run: python examples/benchmarks/kills.py [FOLDER]
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rows import write

from mmfree_neuro.run import run_file

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "stdlib-5m"
PROMPT = "import os\n"
NEW_TOKENS = 160
RANKS = 3
SEED = 20
EARLIEST_S = 0.5
LAST_S = 0.3  # how long before the end of a normal run the last kill may come
SOON_S = 5.0
NAMED_S = 45.0
"""When a silent process must have been named."""
GIVEN_UP_S = 90.0
STATE = "state.safetensors"
HINT = "the state after "  # how the line begins that says how to go on
BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec") or "mpiexec"
COMMAND = sys.executable, "-m", "mmfree_neuro"
PART, USERS, ALL = "one of its processes", "the user's process", "all processes"
KINDS = [(engine, victim) for engine in ("lava", "mpi") for victim in (PART, USERS, ALL)]
GENTLE = [(*kind, name) for kind in KINDS for name in ("SIGTERM", "SIGSTOP")]
PLAN = GENTLE + [(*KINDS[n % len(KINDS)], "SIGKILL") for n in range(28)]
"""The engine, the victim and the signal of every kill."""
ENGINES = {"fast": 1, "lava": 1, "mpi": 2}
"""On how many ranks each engine resumes."""
NAMESPACE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "-m")
HOLDER = """
mount -t tmpfs none /dev/shm
mount -t tmpfs none /mnt
keep() {
    case "$1" in /tmp/*) mkdir -p "/mnt/${1#/tmp/}"; mount --rbind "$1" "/mnt/${1#/tmp/}";; esac
}
keep "$1"; keep "$2"; keep "$3"
mount --rbind /mnt /tmp
folder=$1; shift 3
ls -A /tmp /dev/shm | tr '\\n' ' '; echo
setsid "$@" >"$folder/out" 2>"$folder/err" </dev/null &
echo $!
wait $! && echo 0 || echo $?
read _
ls -A /tmp /dev/shm | tr '\\n' ' '; echo
"""
"""Makes the namespace, runs a command in it, and says: what lies there, the command's process id,
its exit status, and, once it is told to, what lies there then."""


@dataclass(frozen=True)
class Kill:
    """What one kill came to."""

    engine: str
    victim: str
    signal: str
    delay_s: float
    status: int
    seconds_to_end: float
    said: str
    """The last line on standard error."""
    left: str
    """Processes and files that were still there after `SOON_S`, or what else was not clean."""
    had_state: bool
    resumed_on: str
    """Empty where the run came to its end."""
    problem: str
    """How the result differs from that of a run that was not disturbed."""

    def clean(self) -> bool:
        """Whether everything had ended in time."""
        return self.seconds_to_end < SOON_S and not self.left

    def text(self) -> str:
        """A line for people."""
        then = f"{'resumed' if self.had_state else 'started anew'} on {self.resumed_on}"
        return (
            f"{self.signal} to {self.victim} of {self.engine} after {self.delay_s:.2f} s: status "
            f"{self.status} in {self.seconds_to_end:.2f} s, said {self.said!r}, left "
            f"{self.left or 'nothing'}; {then if self.resumed_on else 'went on'}: "
            f"{self.problem or 'the same'}"
        )


def simulate(folder: Path, engine: str, ranks: int, run: Path, *more: str) -> list[str]:
    """The command that runs the mapping."""
    under = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    model = str(folder / "model.map")
    what = ["simulate", model, "--prompt", PROMPT, "--new-tokens", str(NEW_TOKENS)]
    what.append("--ignore-eos")
    return [*under, *COMMAND, *what, "--engine", engine, "--save-every", "8", "-o", str(run), *more]


def outcome(run: Path) -> tuple[object, ...]:
    """What a run gave, less the time it took."""
    found = run_file.load_run(run)
    return found.only.new_tokens, found.only.text, found.prefill, found.generate


class Running:
    """A command in a namespace of its own."""

    def __init__(self, folder: Path, command: list[str], mark: str) -> None:
        kept = str(folder), str(Path(__file__).parents[2]), sys.prefix
        self.folder, self.mark = folder, mark
        self.holder = subprocess.Popen(
            [*NAMESPACE, "sh", "-c", HOLDER, "sh", *kept, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where a shell says that what it started was killed
            text=True,
            start_new_session=True,
            env=os.environ | {"KILLS": mark},
        )
        self.before = self.line()
        self.process = int(self.line())
        self.begun = time.monotonic()

    def line(self) -> str:
        """What the holder says next."""
        assert self.holder.stdout is not None
        return self.holder.stdout.readline().strip()

    def living(self) -> dict[int, bytes]:
        """The environment of every living process of the command, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
            except OSError:  # it ended meanwhile, or is not ours
                continue
            if f"KILLS={self.mark}\0".encode() in environment:
                found[int(entry.name)] = environment
        found.pop(self.holder.pid, None)
        return found

    def parts(self, engine: str) -> list[int]:
        """The processes of Lava, or the ranks, that there are by now."""
        living = self.living()
        if engine == "mpi":
            return sorted(pid for pid, words in living.items() if b"PMI_RANK=" in words)
        return sorted(living.keys() - {self.process})

    def wait_for_ranks(self) -> None:
        """Wait until the ranks are through MPI_Init: its memory has then had a name, and lost
        it."""
        begun, shared = False, Path(f"/proc/{self.holder.pid}/root/dev/shm")
        while self.process in self.living():
            named = any(path.name.startswith("mpich_") for path in shared.iterdir())
            if begun and not named:
                return
            begun = named
            time.sleep(0.002)

    def said(self) -> list[str]:
        """The lines on standard error."""
        return (self.folder / "err").read_text(errors="replace").splitlines()

    def end(self, since: float) -> tuple[int, float, list[str]]:
        """Its exit status, seconds until nothing of it lived any more, and what it left."""
        while self.living() and time.monotonic() - since < GIVEN_UP_S:
            time.sleep(0.01)
        seconds = time.monotonic() - since
        left = [f"process {process}" for process in self.living()]
        for process in self.living():
            os.kill(process, signal.SIGKILL)
        status = int(self.line())
        after = self.holder.communicate("\n")[0].strip()
        if after != self.before:
            left.append(f"files: {after}, before: {self.before}")
        return status, seconds, left


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it has become true in time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def hit(running: Running, engine: str, victim: str, name: str, draw: random.Random) -> list[int]:
    """Send a signal to its victims; none where the run was over."""
    living, parts = running.living(), running.parts(engine)
    while victim == PART and running.process in living and not parts:
        time.sleep(0.005)
        living, parts = running.living(), running.parts(engine)
    if running.process not in living or not parts:
        return []
    hit = {PART: [draw.choice(parts)], USERS: [running.process], ALL: sorted(living)}[victim]
    for process in hit:
        try:
            os.kill(process, getattr(signal, name))
        except ProcessLookupError:
            continue
    return hit


def disturb(
    folder: Path, engine: str, victim: str, name: str, delay: float, draw: random.Random
) -> tuple[int, float, str, str] | None:
    """Start a run and disturb it: its exit status, seconds to the end, what it said and left; None
    if it was over before."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    command = simulate(folder, engine, RANKS if engine == "mpi" else 1, folder / "run")
    running = Running(folder, command, f"{os.getpid()}-{draw.random()}")
    if engine == "mpi":
        running.wait_for_ranks()
    else:
        time.sleep(EARLIEST_S)
    time.sleep(delay)
    victims = hit(running, engine, victim, name, draw)
    since, wrong = time.monotonic(), []
    if name == "SIGSTOP" and victim == PART and victims:
        text = f"(process {victims[0]}) has sent nothing for "
        if not wait_until(lambda: text in "".join(running.said()), NAMED_S):
            wrong.append("a silent process was not named")
        since = time.monotonic()
        os.kill(running.process, signal.SIGTERM)
    elif name == "SIGSTOP":
        time.sleep(1)
        for process in victims:
            os.kill(process, signal.SIGCONT)
        wait_until(lambda: not running.living(), GIVEN_UP_S)
        since = time.monotonic()
    status, seconds, left = running.end(since)
    said = running.said()
    if not victims:
        return None
    goes_on = name == "SIGSTOP" and victim != PART
    if (status == 0) != goes_on:
        wrong.append(f"status {status}")
    if any("Traceback" in line for line in said):
        wrong.append("a traceback")
    more = [line for line in said if not line.startswith(HINT)]
    if engine == "lava" and len(more) > (2 if name == "SIGSTOP" else 1):
        wrong.append(f"the lines {said}")
    lines = [line for line in said if line.startswith("mmfree-neuro: ")]
    if engine == "lava" and (victim, name) in ((PART, "SIGKILL"), (PART, "SIGTERM")):
        died = rf"mmfree-neuro: .* \(process {victims[0]}\) died \({name}\)"
        if status != 1 or not lines or not re.fullmatch(died, lines[0]):
            wrong.append("the dead process was not named")
    last = re.sub(re.escape(str(folder)), "FOLDER", lines[-1]) if lines else ""
    return status, seconds, last, ", ".join([*left, *wrong])


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
    engine: str,
    victim: str,
    name: str,
    normal_s: dict[str, float],
    expected: tuple[object, ...],
    draw: random.Random,
) -> Kill:
    """One kill, and what followed."""
    ended, run = None, folder / "run"
    while ended is None:
        delay = draw.uniform(0, normal_s[engine] - LAST_S)
        ended = disturb(folder, engine, victim, name, delay, draw)
    status, seconds, said, left = ended
    had_state, again, problem = (run / STATE).is_file(), "", ""
    if status:
        again = draw.choice(sorted(ENGINES))
        problem = second_run(folder, again, run, expected, *(["--resume"] if had_state else []))
    elif outcome(run) != expected:
        problem = "other tokens or counts"
    return Kill(
        engine,
        victim,
        name,
        round(delay, 3),
        status,
        round(seconds, 3),
        said,
        left,
        had_state,
        again,
        problem,
    )


def prepare(folder: Path) -> tuple[dict[str, float], tuple[object, ...]]:
    """Map the checkpoint and run it on every engine: how long there is to kill a run, and what a
    run gives."""
    graph, mapping = str(folder / "model.graph"), str(folder / "model.map")
    for step in (
        ["convert", str(SHIPPED), "-o", graph],
        ["map", graph, "--system", "kapoho-point", "--chips", "8", "-o", mapping],
        simulate(folder, "fast", 1, folder / "fast")[len(COMMAND) :],
    ):
        subprocess.run([*COMMAND, *step], check=True, stdout=subprocess.DEVNULL)
    normal_s, outcomes = {}, [outcome(folder / "fast")]
    for engine, ranks in (("lava", 1), ("mpi", RANKS)):
        running = Running(folder, simulate(folder, engine, ranks, folder / engine), "none")
        if engine == "mpi":
            running.wait_for_ranks()
        else:
            time.sleep(EARLIEST_S)
        status, seconds, left = running.end(time.monotonic())
        if status or left:
            raise SystemExit(f"{engine} ends with {status} and leaves {left}: {running.said()}")
        normal_s[engine] = seconds
        outcomes.append(outcome(folder / engine))
    if outcomes[1:] != outcomes[:-1]:
        raise SystemExit("the engines differ: no row is written")
    return normal_s, outcomes[0]


def main(folder: Path) -> None:
    normal_s, expected = prepare(folder)
    draw, kills = random.Random(SEED), []
    for kind in draw.sample(PLAN, len(PLAN)):
        found = one(folder, *kind, normal_s, expected, draw)
        kills.append(found)
        print(found.text(), flush=True)
    clean, right = sum(found.clean() for found in kills), sum(not found.problem for found in kills)
    if not clean == right == len(kills):
        raise SystemExit(
            f"of {len(kills)} kills {clean} ended cleanly and {right} were resumed right: no row "
            "is written"
        )
    about: dict[str, object] = {
        "seed": SEED,
        "kinds": dict(Counter(f"{k.signal} to {k.victim} of {k.engine}" for k in kills)),
        "not_before": (
            f"{EARLIEST_S} s after the start of a Lava command; the end of MPI_Init in an MPI run"
        ),
    }
    longest = max(found.seconds_to_end for found in kills)
    write(
        "kills",
        [
            about
            | {
                "what": "kills",
                "value": len(kills),
                "unit": "runs",
                "outcomes": [asdict(found) for found in kills],
            },
            about | {"what": "clean ends", "value": clean, "unit": "runs"},
            about
            | {
                "what": "right resumes",
                "value": right,
                "unit": "runs",
                "from_a_state": sum(bool(k.resumed_on) and k.had_state for k in kills),
            },
            about | {"what": "longest time to end", "value": longest, "unit": "s"},
        ],
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
