"""Runs Lava so that it always ends: whatever dies, raises or is interrupted, no process and no
memory is left behind.

Lava's own `run` waits for ever when a model raises or its OS process dies.  Here the run is started
without blocking and watched, in whichever thread it is; on the first sign of trouble every OS
process is ended, and RunFailed says which process it was and why.  Should the user's own process be
killed, the kernel ends the children (PR_SET_PDEATHSIG).
"""

import os
import resource
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lava.magma.core.process.message_interface_enum import ActorType
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.runtime.mgmt_token_enums import MGMT_COMMAND, MGMT_RESPONSE

from mmfree_neuro.errors import EngineError, RunFailed
from mmfree_sims.lava.processes import PATIENCE_SECONDS, Actor, GuestRuntime, count
from mmfree_sims.silence import Silence

POLL_SECONDS = 0.005
DESCRIPTORS_OF_A_PROCESS = 3
SPARE_DESCRIPTORS = 16
"""For the files that a run reads and writes meanwhile."""
OUT_OF_MEMORY = Path("/proc/vmstat")
"""Where Linux counts the processes that it has killed because memory had run out."""

_turn = threading.Lock()
_turn_of: int | None = None
"""The thread that runs Lava."""


def _new_turn() -> None:
    """In a child that was forked while a run was under way, none is."""
    global _turn, _turn_of
    _turn, _turn_of = threading.Lock(), None


os.register_at_fork(after_in_child=_new_turn)


@contextmanager
def turn() -> Iterator[None]:
    """One run at a time: another thread waits; EngineError where the run of this very thread would
    have to end first."""
    global _turn_of
    if _turn_of == threading.get_ident():
        raise EngineError(
            "the lava engine was started by the progress of another run, must be started after it"
        )
    with _turn:
        _turn_of = threading.get_ident()
        try:
            yield
        finally:
            _turn_of = None


@contextmanager
def _room_for(processes: int) -> Iterator[None]:
    """As many file descriptors as the run may need, for as long as it lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) + DESCRIPTORS_OF_A_PROCESS * processes
    needed += SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise EngineError(
            f"the lava engine needs {needed} file descriptors for {processes} processes, the "
            f"limit is {hard}, must be at least {needed} (ulimit -n {needed})"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _killed_for_memory() -> int:
    """How many processes of this machine Linux has killed because memory had run out."""
    with suppress(OSError, ValueError):
        for line in OUT_OF_MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def run(
    process: AbstractProcess,
    run_config: Any,
    *,
    steps: int = 1,
    read: Callable[[], None] = lambda: None,
    channel_slots: int = 64,
    watch: Callable[[], None] = lambda: None,
    pulse: Callable[[], tuple[object, Collection[int]]] = lambda: (None, ()),
) -> None:
    """Run the network of `process` for so many steps, until every model has returned, then stop it.

    `read` is called between the two: a Var can be read there.  `watch` is called a few hundred
    times a second.  `pulse` gives another value whenever a packet has moved, and the process ids of
    the models that cannot be idle for long.  Raises EngineError where the network was run before,
    and RunFailed when a child raises or dies; KeyboardInterrupt and whatever `read` and `watch`
    raise pass through.  Nothing is left in any case.
    """
    if process.is_compiled:
        raise EngineError(
            f"{process.name} was run before, must be made anew with its network: a guarded run "
            "takes it to its end"
        )
    executable = process.compile(run_config, {"pypy_channel_size": channel_slots})
    with _room_for(count(executable)):
        runtime = GuestRuntime(executable, ActorType.MultiProcessing)
        executable.assign_runtime_to_all_processes(runtime)
        killed = _killed_for_memory()
        try:
            runtime.initialize()
            runtime.start(RunSteps(num_steps=steps, blocking=False))
            _watch(runtime, watch, pulse)
            watch()
            runtime.wait()
            read()
            _stop(runtime)
        except RunFailed as failed:
            if "(SIGKILL)" in str(failed) and _killed_for_memory() > killed:
                raise RunFailed(
                    f"{failed}; meanwhile Linux has killed for want of memory"
                ) from None
            raise
        finally:
            _end(runtime)


def _watch(
    runtime: Any, watch: Callable[[], None], pulse: Callable[[], tuple[object, Collection[int]]]
) -> None:
    """Return when every model has; RunFailed when one cannot."""
    actors: list[Actor] = runtime._messaging_infrastructure.actors
    names = {actor.pid: actor.title() for actor in actors if actor.pid is not None}
    silence, answers = Silence(), runtime.service_to_runtime
    while not all(port.probe() for port in answers):
        watch()
        trouble = _trouble(actors)
        if trouble:
            raise RunFailed(trouble)
        silence.tell(silence.look(*pulse(), names))
        time.sleep(POLL_SECONDS)
    if any(port.peek()[0] == MGMT_RESPONSE.ERROR[0] for port in answers):
        end = time.monotonic() + PATIENCE_SECONDS  # the traceback may come after the answer
        while not (trouble := _trouble(actors)) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        raise RunFailed(trouble or "a Lava process failed without a word")


def _trouble(actors: list[Actor]) -> str | None:
    """What has gone wrong so far: a traceback, or which process died."""
    return next(filter(None, (actor.trouble() for actor in actors)), None)


def _stop(runtime: Any) -> None:
    """Let the processes end by themselves; whoever dies or stays has nothing more to say."""
    for port in runtime.runtime_to_service:
        port.send(MGMT_COMMAND.STOP)
    end = time.monotonic() + PATIENCE_SECONDS
    for actor in runtime._messaging_infrastructure.actors:
        actor.wait(end - time.monotonic())


def _end(runtime: Any) -> None:
    """End every OS process of a runtime, release its channels, and let go of all that it knows."""
    infrastructure = runtime._messaging_infrastructure
    actors: list[Actor] = [] if infrastructure is None else infrastructure.actors
    for actor in actors:
        actor.kill()
    for actor in actors:
        actor.close()
    runtime._is_started = runtime._is_running = False
    runtime.join()
    runtime._executable = None
