"""How a guarded run starts Lava's processes: forked, with nothing in the file system, and known by
name.

Lava's own way has a manager process, and names in /dev/shm and in the temporary folder.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.context import ForkProcess
from typing import Any

from lava.magma.compiler.channels.pypychannel import CspRecvPort, CspSendPort, Proto, PyPyChannel
from lava.magma.runtime.runtime import Runtime

from mmfree_neuro.errors import EngineError
from mmfree_sims.lava.memory import Block, Semaphore

PATIENCE_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1
_HELD_BACK = {signal.SIGINT, signal.SIGTERM}
"""What must not interrupt a fork: nobody would know of the child."""

_forking: tuple[int, int] | None = None
"""The process and the thread of it that is forking for Lava."""


def _in_child() -> None:
    """Die with the parent, and leave Ctrl-C to it."""
    if _forking is not None and _forking[1] == threading.get_ident():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        if os.getppid() != _forking[0]:  # it died before this one was tied to it
            os._exit(1)


os.register_at_fork(after_in_child=_in_child)


@contextmanager
def _forking_for_lava() -> Iterator[None]:
    """Processes forked inside by this thread are tied to it.

    Inside a worker of a pool Python forbids to fork, since a worker that is ended would leave its
    children behind; ours are not left.
    """
    global _forking
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    daemon = settings.pop("daemon", None)
    _forking = os.getpid(), threading.get_ident()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        with warnings.catch_warnings():
            # Python 3.12 and newer warn where other threads live; ours take no lock of theirs.
            warnings.filterwarnings(
                "ignore", ".*is multi-threaded, use of fork", DeprecationWarning
            )
            yield
    finally:
        _forking = None
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if daemon is not None:
            settings["daemon"] = daemon


class Actor(ForkProcess):
    """One process of Lava's: a model, or the service that starts and stops the models."""

    def __init__(self, builder: Any, title: str) -> None:
        super().__init__(name=title)
        self.builder = builder
        self.answers, self.says = multiprocessing.Pipe(duplex=False)
        self.failure: str | None = None

    def start(self) -> None:
        """Fork."""
        with _forking_for_lava():
            super().start()
        self.says.close()

    def run(self) -> None:
        """Build and run, in the child; a failure is told to the parent."""
        try:
            self.builder.build().start()
        except MemoryError as error:
            self.says.send(f"ran out of memory ({error})" if str(error) else "ran out of memory")
        except Exception:
            self.says.send(f"failed\n{traceback.format_exc().rstrip()}")

    def title(self) -> str:
        """Who it is, for people."""
        return f"{self.name} (process {self.pid})"

    def trouble(self) -> str | None:
        """How it failed or died, if it did."""
        with suppress(EOFError, OSError):  # it has ended, without a word
            if self.failure is None and self.answers.poll():
                self.failure = self.answers.recv()
        if self.failure is not None:
            return f"{self.title()} {self.failure}"
        if self.wait(0):
            # A process that ends closes its files, which tells us, before its status can be had.
            self.join(PATIENCE_SECONDS)
            if self.exitcode != 0:
                return f"{self.title()} died ({_how(self.exitcode)})"
        return None

    def wait(self, seconds: float) -> bool:
        """Wait so long for its end; whether it has come.

        The exit status does not tell: a program may wait for all its children itself.
        """
        return self.pid is None or bool(connection.wait([self.sentinel], max(0.0, seconds)))

    def kill(self) -> None:
        """End it, if it has not ended."""
        if not self.wait(0):
            super().kill()

    def close(self) -> None:
        """Let go of what this process knows of it, once it has ended."""
        if self.pid is not None:
            self.wait(PATIENCE_SECONDS)
            self.join(PATIENCE_SECONDS)
        with suppress(ValueError):  # its exit status was taken by another part of the program
            super().close()
        self.answers.close()
        self.says.close()


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "its exit status was taken by another part of this program"
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"


class _Channel(PyPyChannel):
    """Lava's channel in memory without a name."""

    def __init__(
        self,
        _infrastructure: Any,
        sender: str,
        receiver: str,
        shape: tuple[int, ...],
        dtype: Any,
        slots: int,
        *watchdogs: Any,
    ) -> None:
        size = int(self.nbytes(shape, dtype))
        both = Block(size * slots), Proto(shape, dtype, size), slots, Semaphore(), Semaphore()
        self._src_port = CspSendPort(sender, *both, *watchdogs[:2])
        self._dst_port = CspRecvPort(receiver, *both, *watchdogs[2:])


class Infrastructure:
    """Makes channels and processes, as Lava's runtime asks for them."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []

    def channel_class(self, channel_type: Any) -> type[_Channel]:
        """The class of all channels."""
        return _Channel

    def start_actor(self, builder: Any, title: str, of: int) -> None:
        """Start one of so many processes; EngineError where the system allows no more."""
        try:
            self.actors.append(Actor(builder, title))
            self.actors[-1].start()
        except OSError as error:
            raise EngineError(
                f"the lava engine starts {of} processes, must be allowed more than "
                f"{len(self.actors) - 1} ({error.strerror})"
            ) from None

    def stop(self) -> None:
        """Nothing: whoever runs the processes ends them."""


class GuestRuntime(Runtime):
    """Lava's runtime, whose processes are `Actor`s."""

    def _build_message_infrastructure(self) -> None:
        self._messaging_infrastructure = Infrastructure()

    def _build_processes(self) -> None:
        for process, builder in self._executable.proc_builders.items():
            process._runtime = self
            self._messaging_infrastructure.start_actor(
                builder, process.name, count(self._executable)
            )

    def _build_runtime_services(self) -> None:
        for builder in self._executable.runtime_service_builders.values():
            self._messaging_infrastructure.start_actor(
                builder, "Lava's service", count(self._executable)
            )


def count(executable: Any) -> int:
    """How many processes a compiled network takes."""
    return len(executable.proc_builders) + len(executable.runtime_service_builders)
