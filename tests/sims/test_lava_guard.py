"""A Lava run always ends, says what went wrong, and leaves no process and no shared memory
behind."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mmfree_neuro.files.lock import LOCK_FILE
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.systems.load import load_system

pytestmark = pytest.mark.lava

SOON_S = 5
# Every program runs the command line on a mapping, after it has said the process ids of the chips,
# and ends with a line on how it ended.  A run of a million tokens does not end by itself.
PROGRAM = """
    import multiprocessing
    import os
    import sys
    import time
    from multiprocessing import shared_memory

    from mmfree_neuro.cli.main import main
    from mmfree_sims.tiles import tile
    from mmfree_sims.lava import engine, guard, processes

    # so that this run's memory, had it a name, were known from that of others
    shared_memory._SHM_NAME_PREFIX = f"/t{os.getpid()}_"
    make_watch = engine._watcher


    def watcher(shared, job, report, book):
        watch, said = make_watch(shared, job, report, book), []

        def watch_and_say():
            watch()
            if shared.done[1] >= 3 and not said:
                said.append(True)
                children = sorted(child.pid for child in multiprocessing.active_children())
                print("chips", *shared.ready.tolist(), flush=True)
                print("children", *children, flush=True)

        return watch_and_say


    engine._watcher = watcher
    {patch}
    what = "--prompt", "ab", "--new-tokens", "1000000", "--ignore-eos"
    # no state is written, however many tokens come before the end
    what = *what, "--engine", "{engine}", "--save-every", "0", "-o", sys.argv[2]
    status = main(["simulate", sys.argv[1], *what])
    print("ended", status, time.monotonic(), len(multiprocessing.active_children()), flush=True)
    sys.exit(status)
"""


@pytest.fixture(scope="module")
def mapping(
    tmp_path_factory: pytest.TempPathFactory, random_graph: Callable[[str, str], Graph]
) -> Path:
    """A random model of two blocks on three chips of two cores."""
    folder, graph = tmp_path_factory.mktemp("mapping"), random_graph("small", "a16")
    graph_file.save_graph(graph, folder / "model.graph")
    path = folder / "model.map"
    asked = Request("block-per-chip", cores=2)
    _, stored = map.map_graph(folder / "model.graph", "kapoho-point", path, asked)
    assert load_system("kapoho-point") == stored.system
    assert stored.mapping.chips == (0, 1, 2)
    return path


Run = Callable[..., Any]


@pytest.fixture
def run(launch: Run, python: tuple[str, ...], mapping: Path, tmp_path: Path) -> Run:
    """The function that starts the program with a patch, guarded, as a `Launched`."""

    def started(patch: str = "", engine: str = "lava") -> Any:
        script = tmp_path / "program.py"
        text = dedent(PROGRAM).replace("{patch}", dedent(patch)).replace("{engine}", engine)
        script.write_text(text, encoding="utf-8")
        command = *python, script, mapping, tmp_path / "run"
        return launch(*command, left_in_memory=left_in_memory)

    return started


def left_in_memory(launched: Any) -> list[str]:
    """The blocks of shared memory that the program made."""
    mine = f"t{launched.process.pid}_"
    return [name for name in os.listdir("/dev/shm") if name.startswith(mine)]


def children_of(launched: Any) -> dict[str, list[int]]:
    """The process ids of the chips and of all children, once the third token is generated."""
    assert launched.process.stdout is not None
    lines = [launched.process.stdout.readline().split() for _ in range(2)]
    assert [line[0] for line in lines] == ["chips", "children"]
    assert launched.left_in_memory() == []
    return {line[0]: [int(word) for word in line[1:]] for line in lines}


def assert_nothing_left(launched: Any, folder: Path, *files: str) -> None:
    launched.assert_nothing_left()
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"program.py", *files}


@pytest.mark.parametrize("engine", ["lava", "lava-per-core"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_chip_that_is_killed(number: int, engine: str, run: Run, tmp_path: Path) -> None:
    with run(engine=engine) as running:
        victim = children_of(running)["chips"][number]
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        status, out, err = running.end()
        who = f"chip {number}" if engine == "lava" else f"core {number % 2} of chip {number // 2}"
        assert err == f"mmfree-neuro: {who} (process {victim}) died (SIGKILL)\n"
        assert status == 1
        _, reported, ended, left = out.split()
        assert (reported, left) == ("1", "0")
        assert float(ended) - killed < SOON_S
        assert_nothing_left(running, tmp_path)


@pytest.mark.parametrize("number", [0, 1])
def test_the_host_or_the_service_is_killed(number: int, run: Run, tmp_path: Path) -> None:
    with run() as running:
        children = children_of(running)
        others = sorted(set(children["children"]) - set(children["chips"]))
        assert len(others) == 2
        os.kill(others[number], signal.SIGKILL)
        status, _, err = running.end()
        who = ("the host", "Lava's service")[number]
        assert (status, err) == (
            1,
            f"mmfree-neuro: {who} (process {others[number]}) died (SIGKILL)\n",
        )
        assert_nothing_left(running, tmp_path)


@pytest.mark.parametrize(
    ("patch", "how"),
    [
        (
            "counts = iter([3, 4]); guard._killed_for_memory = lambda: next(counts)",
            "(SIGKILL); meanwhile Linux has killed for want of memory",
        ),
        (
            "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
            "(its exit status was taken by another part of this program)",
        ),
    ],
)
def test_what_is_known_of_a_death(patch: str, how: str, run: Run, tmp_path: Path) -> None:
    with run(patch) as running:
        victim = children_of(running)["chips"][1]
        os.kill(victim, signal.SIGKILL)
        status, _, err = running.end()
        assert (status, err) == (1, f"mmfree-neuro: chip 1 (process {victim}) died {how}\n")
        assert_nothing_left(running, tmp_path)


RAISE_IN_FIRE = """
take = tile.Firing.take


def failing(self, packet):
    if packet.labels[0, 1] >= 200 and self.stretch.node == "{node}":
        raise ValueError("the two hundredth token is cursed")
    return take(self, packet)


tile.Firing.take = failing
"""


@pytest.mark.parametrize(
    ("node", "chip"), [("layers.0.mlgru", 0), ("layers.1.glu", 1), ("head", 2)]
)
def test_a_model_that_raises(node: str, chip: int, run: Run, tmp_path: Path) -> None:
    with run(RAISE_IN_FIRE.replace("{node}", node)) as running:
        chips = children_of(running)["chips"]
        status, out, err = running.end()
        lines = err.splitlines()
        assert lines[0] == f"mmfree-neuro: chip {chip} (process {chips[chip]}) failed"
        assert lines[1] == "Traceback (most recent call last):"
        assert lines[-1] == "ValueError: the two hundredth token is cursed"
        assert "in failing" in err
        assert (status, out.split()[1], out.split()[3]) == (1, "1", "0")
        assert_nothing_left(running, tmp_path)


UNBUILT = """
build = tile.Tile.__init__


def failing(self, plan, tiles, tallies, kept):
    build(self, plan, tiles, tallies, kept)
    if 1 in tiles:
        raise {error}


tile.Tile.__init__ = failing
"""


def test_a_tile_that_cannot_be_built(run: Run, tmp_path: Path) -> None:
    with run(UNBUILT.replace("{error}", 'ValueError("chip 1 is cursed")')) as running:
        status, out, err = running.end()
        assert err.startswith("mmfree-neuro: chip 1 (process ")
        assert err.splitlines()[0].endswith(") failed")
        assert err.splitlines()[-1] == "ValueError: chip 1 is cursed"
        assert (status, out.split()[1], out.split()[3]) == (1, "1", "0")
        assert_nothing_left(running, tmp_path)


@pytest.mark.parametrize(
    ("error", "why"), [("MemoryError", ""), ('MemoryError("no room")', " (no room)")]
)
def test_a_chip_without_memory(error: str, why: str, run: Run, tmp_path: Path) -> None:
    with run(UNBUILT.replace("{error}", error)) as running:
        status, _, err = running.end()
        assert re.sub("process [0-9]+", "process N", err) == (
            f"mmfree-neuro: chip 1 (process N) ran out of memory{why}\n"
        )
        assert status == 1
        assert_nothing_left(running, tmp_path)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_process_that_dies_while_lava_starts(number: int, run: Run, tmp_path: Path) -> None:
    """Lava waits for what every process has to say of its own start, and would wait for a dead one
    for ever."""
    patch = f"""
        import signal

        start_actor = processes.Infrastructure.start_actor


        def killing(self, *arguments):
            start_actor(self, *arguments)
            if len(self.actors) == {number}:
                os.kill(self.actors[-1].pid, signal.SIGKILL)


        processes.Infrastructure.start_actor = killing
    """
    with run(patch) as running:
        status, out, err = running.end()
        assert err.startswith("mmfree-neuro: ")
        assert err.endswith(" died (SIGKILL)\n")
        assert err.count("\n") == 1
        assert (status, out.split()[1]) == (1, "1")
        assert_nothing_left(running, tmp_path)


def test_what_the_report_raises_passes_through(run: Run, tmp_path: Path) -> None:
    patch = """
        from mmfree_neuro.cli.output import Bars


        def failing(self, phase, done, total, chosen):
            raise ZeroDivisionError("the bar is closed")


        Bars.show = failing
    """
    with run(patch) as running:
        status, _, err = running.end()
        assert (status, err.splitlines()[-1]) == (1, "ZeroDivisionError: the bar is closed")
        assert_nothing_left(running, tmp_path)


def test_ctrl_c_while_a_process_is_forked(run: Run, tmp_path: Path) -> None:
    """It is known to the parent before the parent is interrupted."""
    patch = """
        import signal
        from multiprocessing import popen_fork
        from pathlib import Path

        launch = popen_fork.Popen._launch


        def interrupted(self, process):
            launch(self, process)
            os.kill(os.getpid(), signal.SIGINT)


        popen_fork.Popen._launch = interrupted
        time_of = time.monotonic
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        time.monotonic = lambda: print("left", children.read_text()) or time_of()
    """
    with run(patch) as running:
        status, out, err = running.end()
        assert (status, err) == (1, "mmfree-neuro: interrupted\n")
        assert out.splitlines()[-2].split() == ["left"]
        assert_nothing_left(running, tmp_path)


@pytest.mark.parametrize("engine", ["lava", "lava-per-core"])
def test_ctrl_c(engine: str, run: Run, tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole process group."""
    with run(engine=engine) as running:
        children_of(running)
        os.killpg(running.process.pid, signal.SIGINT)
        status, out, err = running.end()
        assert (status, err) == (1, "mmfree-neuro: interrupted\n")
        assert (out.split()[1], out.split()[3]) == ("1", "0")
        assert_nothing_left(running, tmp_path)


@pytest.mark.parametrize("engine", ["lava", "lava-per-core"])
def test_the_users_process_is_killed(engine: str, run: Run, tmp_path: Path) -> None:
    with run(engine=engine) as running:
        assert len(children_of(running)["children"]) >= 3
        os.kill(running.process.pid, signal.SIGKILL)
        assert running.process.wait(SOON_S) == -signal.SIGKILL
        # The name of a lock that nobody holds; the next run into the folder takes it away.
        assert_nothing_left(running, tmp_path, f"run/{LOCK_FILE}")


STOPPED = """
from mmfree_sims import silence

silence.SILENT_SECONDS = 1.0
"""


@pytest.mark.parametrize("number", [0, 2])
def test_a_stopped_chip_is_named_and_goes_on(number: int, run: Run, tmp_path: Path) -> None:
    with run(STOPPED) as running:
        victim = children_of(running)["chips"][number]
        os.kill(victim, signal.SIGSTOP)
        said = running.process.stderr.readline()
        assert re.fullmatch(
            f"mmfree-neuro: chip {number} \\(process {victim}\\) has sent nothing for [12] s: it "
            f"is stopped, and goes on after kill -CONT {victim}\n",
            said,
        )
        os.kill(victim, signal.SIGCONT)
        time.sleep(0.2)
        os.kill(victim, signal.SIGSTOP)
        assert running.process.stderr.readline().startswith(f"mmfree-neuro: chip {number} ")
        os.kill(running.process.pid, signal.SIGTERM)  # a stopped process is ended as well
        status, _, err = running.end(SOON_S)
        assert (status, err) == (1, "mmfree-neuro: interrupted\n")
        assert_nothing_left(running, tmp_path)


class _Dying:
    """Builds what closes its files, as the kernel does first, and is dead a little later."""

    def build(self) -> "_Dying":
        return self

    def start(self) -> None:
        os.closerange(3, 1024)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_heard_of_before_its_status_can_be_had() -> None:
    from mmfree_sims.lava.processes import Actor

    actor = Actor(_Dying(), "chip 1")
    actor.start()
    try:
        assert actor.wait(60)
        assert actor.trouble() == f"chip 1 (process {actor.pid}) died (SIGKILL)"
    finally:
        actor.close()
