"""Runs Lava so that it always ends: whatever dies, raises or is interrupted, no process and no
memory is left behind.

Lava's own `run` waits for ever when a model raises or its OS process dies.  Here the run is started
without blocking and watched; on the first sign of trouble every OS process is ended, Lava's
channels are released, and RunFailed says which process it was and why.  Should the user's own
process be killed, the kernel ends the children (PR_SET_PDEATHSIG).
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE

from mmfree_neuro.errors import RunFailed

POLL_SECONDS = 0.005
LOOK_SECONDS = 0.1
GRACE_SECONDS = 0.35
"""After a child has died, until Lava is sure to do nothing but wait: an exception must not meet it
while it forks."""
PATIENCE_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1

_forking_for_lava = False


def _in_child() -> None:
    if _forking_for_lava:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_child)


@contextmanager
def _tied_to_parent() -> Iterator[None]:
    """Processes forked inside die with this one and leave Ctrl-C to it."""
    global _forking_for_lava
    _forking_for_lava = True
    try:
        yield
    finally:
        _forking_for_lava = False


@contextmanager
def _watched_children(process: AbstractProcess, name_of: Callable[[int], str]) -> Iterator[None]:
    """RunFailed inside, when a child dies: Lava itself, starting or stopping, would wait for that
    child for ever."""
    since: list[float] = []

    def look(_number: int, _frame: object) -> None:
        dead = _dead(process, name_of)
        if dead is None:
            return
        since.append(time.monotonic())
        if since[-1] - since[0] > GRACE_SECONDS:
            raise RunFailed(dead)

    watched = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, look) if watched else None
    signal.setitimer(signal.ITIMER_REAL, *((LOOK_SECONDS,) * 2 if watched else (0, 0)))
    try:
        yield
    except RunFailed:
        raise
    except Exception as error:
        dead = _dead(process, name_of)
        raise error if dead is None else RunFailed(dead) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if watched:
            signal.signal(signal.SIGALRM, before)


def _dead(process: AbstractProcess, name_of: Callable[[int], str]) -> str | None:
    """Which of Lava's processes has died, and how."""
    infrastructure = getattr(process._runtime, "_messaging_infrastructure", None)
    if infrastructure is None:
        return None
    memory = getattr(infrastructure.smm, "_process", None)
    with suppress(ValueError):  # Lava has ended it, and closed what Python knows of it
        for child in (*infrastructure.actors, *([] if memory is None else [memory])):
            if child.exitcode:
                return f"{name_of(child.pid)} died ({_how(child.exitcode)})"
    return None


def _how(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _end(runtime: Any) -> None:
    """End every OS process of a runtime and release its channels."""
    infrastructure = runtime._messaging_infrastructure
    actors = [] if infrastructure is None else [a for a in infrastructure.actors if not a._is_done]
    for actor in actors:
        if actor.is_alive():
            actor.terminate()
    for actor in actors:
        multiprocessing.Process.join(actor, PATIENCE_SECONDS)
        if actor.is_alive():
            actor.kill()
            multiprocessing.Process.join(actor, PATIENCE_SECONDS)
    runtime._is_started = runtime._is_running = False
    with suppress(Exception):
        runtime.join()
    if infrastructure is not None:
        with suppress(Exception):
            infrastructure.stop()


def _trouble(runtime: Any, name_of: Callable[[int], str]) -> str | None:
    """What has gone wrong so far: a traceback, or which process died."""
    for actor in runtime._messaging_infrastructure.actors:
        pid = actor.pid
        if actor.exception:
            return f"{name_of(pid)} failed\n{actor.exception[1].rstrip()}"
        if not actor.is_alive() and actor.exitcode:
            return f"{name_of(pid)} died ({_how(actor.exitcode)})"
    return None


def run(
    process: AbstractProcess,
    run_config: Any,
    *,
    channel_slots: int,
    watch: Callable[[], None] = lambda: None,
    name_of: Callable[[int], str] = lambda pid: f"process {pid}",
) -> None:
    """Run the network of `process` until every model has returned, then stop it.

    `watch` is called a few hundred times a second; `name_of` tells a child by its process id.
    Raises RunFailed when a child raises or dies; KeyboardInterrupt and whatever `watch` raises pass
    through.  Nothing is left in any case.
    """
    _raise_file_limit()
    try:
        with _tied_to_parent(), _watched_children(process, name_of):
            process.create_runtime(run_config, compile_config={"pypy_channel_size": channel_slots})
            runtime = process.runtime
            process.run(RunSteps(num_steps=1, blocking=False))
        while not all(port.probe() for port in runtime.service_to_runtime):
            watch()
            trouble = _trouble(runtime, name_of)
            if trouble:
                raise RunFailed(trouble)
            time.sleep(POLL_SECONDS)
        if any(port.peek()[0] == MGMT_RESPONSE.ERROR[0] for port in runtime.service_to_runtime):
            raise RunFailed(_late_trouble(runtime, name_of))
        watch()
        _stop(process, name_of)
    except BaseException:
        if process._runtime is not None:
            _end(process._runtime)
        raise


def _stop(process: AbstractProcess, name_of: Callable[[int], str]) -> None:
    """Stop a network whose models have all returned; whoever dies now has nothing more to say."""
    try:
        with _watched_children(process, name_of):
            process.wait()
            process.stop()
    except RunFailed:
        _end(process.runtime)


def _late_trouble(runtime: Any, name_of: Callable[[int], str]) -> str:
    """The trouble behind an error answer; the traceback may take a moment longer than the
    answer."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        trouble = _trouble(runtime, name_of)
        if trouble:
            return trouble
        time.sleep(POLL_SECONDS)
    return "a Lava process failed without a word"
