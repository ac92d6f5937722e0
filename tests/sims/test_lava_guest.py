"""Lava in a program of the user's own: it runs whatever else the program does, and leaves the
program as it was."""

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map

pytest.importorskip("lava")

from mmfree_neuro.errors import EngineError, RunFailed
from mmfree_sims.lava import engine, guard, memory, processes

pytestmark = pytest.mark.lava


@pytest.fixture(scope="module")
def mapping(
    tmp_path_factory: pytest.TempPathFactory, random_graph: Callable[[str, str], Graph]
) -> Path:
    """A random model on two chips of three cores."""
    folder, graph = tmp_path_factory.mktemp("mapping"), random_graph("smallest", "a8")
    graph_file.save_graph(graph, folder / "model.graph")
    asked = Request("block-per-chip", cores=3)
    map.map_graph(folder / "model.graph", "kapoho-point", folder / "model.map", asked)
    return folder / "model.map"


START = """
import gc
import io
import logging
import multiprocessing
import os
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmfree_neuro.errors import EngineError
from mmfree_neuro.pipeline import opened
from mmfree_neuro.run.job import Job, silent
from mmfree_sims import fast

graph, stored = opened.open_mapped(Path(sys.argv[1]))
job = Job(np.arange(6)[None], 3)
expected = fast.run(graph, stored.mapping, job)


def run(progress=silent):
    from mmfree_sims.lava import engine

    found = engine.run(graph, stored.mapping, job, progress)
    assert np.array_equal(found.logits, expected.logits)
    return found.chosen.tolist() == expected.chosen.tolist()


"""
Program = Callable[..., str]


@pytest.fixture
def program(mapping: Path, run_python: Callable[..., Any]) -> Program:
    """The function that runs a program after the common start; what it printed."""
    return lambda text: run_python(START + dedent(text), mapping).stdout


def test_in_a_progress_bar_after_a_lock_and_a_pool(program: Program) -> None:
    out = program(
        """
        if __name__ == "__main__":
            multiprocessing.Lock()
            with multiprocessing.Pool(1) as pool:
                print(*pool.map(abs, [-1]))
            for _ in tqdm([0], file=io.StringIO()):
                print(run())
        """
    )
    assert out == "1\nTrue\n"


def test_in_the_worker_of_a_pool(program: Program) -> None:
    out = program(
        """
        def work(_number):
            return run()


        if __name__ == "__main__":
            with multiprocessing.Pool(2) as pool:
                print(*pool.map(work, range(2)))
        """
    )
    assert out == "True True\n"


def test_threads_take_turns(program: Program) -> None:
    out = program(
        """
        from itertools import groupby

        told = []


        def work(_number):
            return run(lambda *_what: told.append(threading.get_ident()))


        import mmfree_sims.lava
        with ThreadPoolExecutor(3) as threads:
            # each thread holds a run of its own for as long as it reports
            print(*threads.map(work, range(3)), len(list(groupby(told))) == len(set(told)))
        """
    )
    assert out == "True True True True\n"


def test_a_run_inside_a_run_is_refused(program: Program) -> None:
    out = program(
        """
        said = []


        def progress(*_what):
            try:
                run()
            except EngineError as error:
                said.append(str(error))


        print(run(progress))
        print(*set(said))
        """
    )
    assert out == (
        "True\nthe lava engine was started by the progress of another run, must be started after "
        "it\n"
    )


def test_many_runs_leave_the_program_as_it_was(program: Program) -> None:
    """After a few runs nothing is added: descriptors, threads, processes, memory that is mapped,
    Lava's own lists; and what belongs to the program is untouched."""
    out = program(
        """
        import signal

        import mmfree_sims.lava
        from lava.magma.core.process.process import ProcessServer
        from lava.magma.core.process.variable import VarServer


        def state():
            maps = Path("/proc/self/maps").read_text().splitlines()
            return {
                "descriptors": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
                "processes": len(multiprocessing.active_children()),
                "shared": sum("/dev/zero" in line for line in maps),
                "Processes": len(ProcessServer().processes),
                "Vars": len(VarServer().vars),
                "handlers": logging.getLogger().handlers[:],
                "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
                "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGALRM)],
                "timer": signal.getitimer(signal.ITIMER_REAL),
                "method": multiprocessing.get_start_method(allow_none=True),
            }


        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        before = state()
        gc.disable()  # nothing has to be searched for
        for _ in range(12):
            assert run()
        after = state()
        print(*(f"{name}: {before[name]} {after[name]}" for name in before
                if before[name] != after[name]))
        """
    )
    assert out == "\n"


def test_descriptors_are_asked_for_before_the_run(program: Program) -> None:
    out = program(
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        opened = len(os.listdir("/proc/self/fd"))
        print(opened)
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 8, opened + 8))
        try:
            run()
        except EngineError as error:
            print(error)
        print(resource.getrlimit(resource.RLIMIT_NOFILE) == (opened + 8, opened + 8))
        """
    )
    lines = out.splitlines()
    opened = int(lines[0])
    needed = int(re.findall(r"needs (\d+) file", lines[1])[0])
    assert opened + 15 + 16 <= needed <= opened + 15 + 20
    assert lines[1:] == [
        f"the lava engine needs {needed} file descriptors for 5 processes, the limit is "
        f"{opened + 8}, must be at least {needed} (ulimit -n {needed})",
        "True",
    ]


def test_memory_that_is_not_there() -> None:
    size = 1 << 60
    with pytest.raises(EngineError) as caught:
        memory.anonymous(size)
    assert str(caught.value) == (
        f"the lava engine needs {size} bytes of memory that its processes share, must be allowed "
        "that much (Cannot allocate memory)"
    )


def test_this_process_has_no_memory_left() -> None:
    with pytest.raises(RunFailed) as caught, engine._memory():
        raise MemoryError("no room")
    assert str(caught.value) == "the lava engine ran out of memory (no room)"


def test_a_program_that_does_not_wait_for_its_children(program: Program) -> None:
    out = program(
        """
        import signal

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print(run(), run())
        """
    )
    assert out == "True True\n"


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_actor: processes.Actor) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes.Actor, "start", failing)
    infrastructure = processes.Infrastructure()
    with pytest.raises(EngineError) as caught:
        infrastructure.start_actor(None, "chip 0", 4)
    for actor in infrastructure.actors:
        actor.close()
    assert str(caught.value) == (
        "the lava engine starts 4 processes, must be allowed more than 0 (Resource temporarily "
        "unavailable)"
    )


def test_what_linux_has_killed_for_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "OUT_OF_MEMORY", tmp_path / "vmstat")
    assert guard._killed_for_memory() == 0
    (tmp_path / "vmstat").write_text("oom_kill_other 3\noom_kill 7\n")
    assert guard._killed_for_memory() == 7


@pytest.mark.parametrize("options", ["size=64k", "ro", "size=1g"])
def test_shared_memory_is_not_needed(
    options: str,
    mapping: Path,
    tmp_path: Path,
    namespace: Callable[[str], tuple[str, ...]],
    launch: Callable[..., Any],
    python: tuple[str, ...],
) -> None:
    """Whatever /dev/shm is like; and nothing comes to lie there, nor in the temporary folder."""
    words = ("--prompt", "ab", "--new-tokens", "3", "--engine", "lava", "-o", tmp_path / "run")
    command = *python, "-m", "mmfree_neuro", "simulate", mapping, *words
    script = 'ls -A /tmp /dev/shm; "$@" && ls -A /tmp /dev/shm'
    whole = *namespace(options), "sh", "-c", script, "sh", *command
    with launch(*whole, left_in_memory=lambda _: []) as running:
        status, out, err = running.end()
        running.assert_nothing_left()
    assert (status, err) == (0, "")
    before, after = out.split("ab", 1)[0].split(), out.split("chips)\n", 1)[1].split()
    assert before == after != []


def test_a_run_that_is_killed_as_a_whole_leaves_no_file(
    mapping: Path,
    tmp_path: Path,
    namespace: Callable[[str], tuple[str, ...]],
    launch: Callable[..., Any],
    python: tuple[str, ...],
) -> None:
    run = tmp_path / "run"
    words = ("--prompt", "ab", "--new-tokens", "1000000", "--engine", "lava", "-o", run)
    command = *python, "-m", "mmfree_neuro", "simulate", mapping, *words, "--save-every", "8"
    script = 'ls -A /tmp /dev/shm; "$@"; sleep 0.2; ls -A /tmp /dev/shm'
    whole = *namespace("size=1g"), "sh", "-c", script, "sh", *command
    with launch(*whole, left_in_memory=lambda _: []) as running:
        end = time.monotonic() + 60
        while not (run / "state.safetensors").is_file():
            assert time.monotonic() < end
            time.sleep(0.005)
        for process in running.living().keys() - {running.process.pid}:
            with suppress(ProcessLookupError):  # chips end with their parent
                os.kill(process, signal.SIGKILL)
        _, out, _ = running.end()
        running.assert_nothing_left()
    lines = out.splitlines()
    assert len(lines) >= 6 and "/dev/shm:" in lines and "/tmp:" in lines
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
