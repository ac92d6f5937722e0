"""A silent process is named; a slow one is not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from mmfree_sims import silence

SLEEPS = "import time; time.sleep(60)"
WORKS = "while True: pass"


@pytest.fixture
def started() -> Iterator[Callable[[str], int]]:
    """The function that starts a program of Python; its process id."""
    processes = []

    def start(program: str) -> int:
        # a child that only says that it is there, so that what it does to start is over
        text = f"print(flush=True)\n{program}"
        processes.append(subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == b"\n"
        return processes[-1].pid

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The function that lets so many seconds pass, in steps of a half."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def wait_for_state(process: int, states: str) -> None:
    end = time.perf_counter() + 10
    while silence._state(process)[0] not in states:
        assert time.perf_counter() < end


def look_for(
    seconds: float, watch: silence.Silence, clock: Callable[[float], None], *what: object
) -> dict[int, str]:
    found: dict[int, str] = {}
    for _ in range(int(2 * seconds)):
        clock(0.5)
        found = watch.look(*what)  # type: ignore[arg-type]
    return found


def test_a_stopped_process_is_named_once(
    started: Callable[[str], int], clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    works, stopped = started(WORKS), started(WORKS)
    os.kill(stopped, signal.SIGSTOP)
    wait_for_state(stopped, "T")
    names = {works: "chip 0", stopped: "chip 1"}
    watch = silence.Silence()
    assert look_for(0.5, watch, clock, 7, names, names) == {}
    end = time.perf_counter() + 10
    while silence._state(works)[1] == watch.before[works]:  # slow, but not silent
        assert time.perf_counter() < end
    assert look_for(29.5, watch, clock, 7, names, names) == {}
    blamed = look_for(0.5, watch, clock, 7, names, names)
    text = (
        f"chip 1 has sent nothing for 30 s: it is stopped, and goes on after kill -CONT {stopped}"
    )
    assert blamed == {stopped: text}
    watch.tell(blamed)
    assert caplog.messages == [f"mmfree-neuro: {text}"]
    assert look_for(30, watch, clock, 7, names, names) == {}
    assert look_for(30.5, watch, clock, 8, names, names) != {}, (
        "it has gone on, and is silent again"
    )


def test_a_process_that_waits_is_named_where_it_should_be_at_work(
    started: Callable[[str], int], clock: Callable[[float], None]
) -> None:
    sleeps = started(SLEEPS)
    wait_for_state(sleeps, "S")
    names = {sleeps: "chip 0"}
    assert look_for(60, silence.Silence(), clock, 7, (), names) == {}
    assert look_for(30.5, silence.Silence(), clock, 7, names, names) == {
        sleeps: "chip 0 has sent nothing for 30 s: it waits for something that does not come"
    }


def test_nothing_is_said_while_something_moves_or_where_time_has_passed_unseen(
    started: Callable[[str], int], clock: Callable[[float], None]
) -> None:
    sleeps = started(SLEEPS)
    wait_for_state(sleeps, "S")
    names, watch = {sleeps: "chip 0"}, silence.Silence()
    for moved in range(100):
        clock(0.5)
        assert watch.look(moved, names, names) == {}
    clock(3600)  # this process was stopped itself
    assert watch.look(99, names, names) == {}
    assert look_for(28.5, watch, clock, 99, names, names) == {}
    assert look_for(0.5, watch, clock, 99, names, names) != {}


def test_a_process_that_has_ended_is_not_named(clock: Callable[[float], None]) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    names = {process.pid: "chip 0"}
    assert look_for(60, silence.Silence(), clock, 7, names, names) == {}
