"""Measures work on a GPU: tokens by the clock, energy by the driver's counter, and what the device
draws when idle.

The counter of NVML (`nvmlDeviceGetTotalEnergyConsumption`, millijoules since the driver was loaded)
moves in ticks of 20 to 100 ms.  So a measurement begins and ends at ticks: it is as long as asked,
and then until the next one.  Work is enqueued two chunks deep, so that the device never waits for
the host while the host reads the counter.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mmfree_neuro.errors import EngineError, InputError

CHUNK_S = 0.02
"""How long a chunk of steps takes about: below the counter's tick, far above what it costs to
enqueue."""
WARM_UP_S = 1.0
"""Work before a measurement: clocks and temperatures settle."""
QUIET_S = 1.0
POLL_S = 0.002
PATIENCE_S = 10.0
LEAST_S = 2.0
"""The shortest measurement: its two ticks then are at most a few percent of it."""

Wait = Callable[[], None]


class Meter(Protocol):
    """A clock and an energy counter."""

    def seconds(self) -> float: ...

    def millijoule(self) -> int: ...

    def pause(self, seconds: float) -> None: ...


class Repeatable(Protocol):
    """What is measured."""

    tokens: int

    def step(self) -> None: ...


@dataclass(frozen=True)
class Measured:
    """What some work took."""

    seconds: float
    steps: int
    tokens: int
    millijoule: int

    @property
    def tokens_per_s(self) -> float:
        """Throughput."""
        return self.tokens / self.seconds

    @property
    def millijoule_per_token(self) -> float:
        """Energy of a token; all that the counter saw, with what the device draws when idle."""
        return self.millijoule / self.tokens

    @property
    def average_w(self) -> float:
        """Mean power."""
        return self.millijoule / 1000 / self.seconds


def idle_power_w(meter: Meter, quiet_s: float = QUIET_S) -> float:
    """Mean power from one tick of the counter to the first one at least `quiet_s` later, with
    nothing enqueued."""
    begin, energy = _tick(meter, 0.0)
    end, total = _tick(meter, begin + quiet_s)
    return (total - energy) / 1000 / (end - begin)


def _tick(meter: Meter, earliest: float) -> tuple[float, int]:
    """The time and the counter when it next moves, not before `earliest`."""
    before, began = meter.millijoule(), meter.seconds()
    while True:
        meter.pause(POLL_S)
        now, energy = meter.seconds(), meter.millijoule()
        if now - began > PATIENCE_S:
            raise EngineError(
                f"bench gpu: the energy counter stood still for {PATIENCE_S:g} s, must move to "
                "be used"
            )
        if energy != before and now >= earliest:
            return now, energy
        before = energy


def check_seconds(seconds: float) -> None:
    """InputError where a measurement would be shorter than `LEAST_S`."""
    if not seconds >= LEAST_S:
        raise InputError(
            f"seconds are {seconds:g}, must be at least {LEAST_S:g}: the energy counter moves "
            "in ticks"
        )


def measure(
    work: Repeatable, meter: Meter, fence: Callable[[], Wait], seconds: float = LEAST_S
) -> Measured:
    """Step for about `WARM_UP_S`, then for at least `seconds` between two ticks of the counter.

    `fence` marks the end of what is enqueued so far and returns how to wait for it.
    """
    check_seconds(seconds)
    chunk = _chunk(work, meter, fence)
    warm_until = meter.seconds() + WARM_UP_S
    waiting = _enqueue(work, chunk, fence)
    done, before = 0, meter.millijoule()
    start: tuple[float, int, int] | None = None
    while True:
        following = _enqueue(work, chunk, fence)
        waiting()
        waiting, done = following, done + chunk
        now, energy = meter.seconds(), meter.millijoule()
        ticked, before = energy != before, energy
        if ticked and start is None and now >= warm_until:
            start = (now, energy, done)
        elif ticked and start is not None and now - start[0] >= seconds:
            waiting()
            steps = done - start[2]
            return Measured(now - start[0], steps, steps * work.tokens, energy - start[1])


def _enqueue(work: Repeatable, steps: int, fence: Callable[[], Wait]) -> Wait:
    for _ in range(steps):
        work.step()
    return fence()


def _chunk(work: Repeatable, meter: Meter, fence: Callable[[], Wait]) -> int:
    """How many steps take about `CHUNK_S`; the first step, which may compile, does not count."""
    _enqueue(work, 1, fence)()
    steps = 1
    while True:
        begin = meter.seconds()
        _enqueue(work, steps, fence)()
        if meter.seconds() - begin >= CHUNK_S / 2:
            return steps
        steps *= 2


class Nvml:
    """The meter of one NVIDIA GPU, and what its driver says about it."""

    def __init__(self, uuid: str) -> None:
        try:
            import pynvml
        except ImportError:
            raise EngineError(
                "bench gpu: pynvml is not installed, must be: pip install nvidia-ml-py"
            ) from None
        self.nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self.handle = self._handle(uuid)
            self.millijoule()
        except pynvml.NVMLError as error:
            raise EngineError(
                f"bench gpu: the driver gives no energy counter of {uuid} ({error})"
            ) from None

    def _handle(self, uuid: str) -> Any:
        try:
            return self.nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self.nvml.NVMLError:  # in some virtual machines the driver has another name for it
            if self.nvml.nvmlDeviceGetCount() != 1:
                raise
            return self.nvml.nvmlDeviceGetHandleByIndex(0)

    def seconds(self) -> float:
        """A clock that never goes back."""
        return time.perf_counter()

    def millijoule(self) -> int:
        """What the GPU has drawn since the driver was loaded."""
        return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))

    def pause(self, seconds: float) -> None:
        """Leave the device alone."""
        time.sleep(seconds)

    def driver(self) -> str:
        """The driver's version."""
        version = self.nvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)

    def process_bytes(self, process: int) -> int | None:
        """Device memory that a process takes, context and all; None where the driver does not
        tell."""
        try:
            known = self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)
        except self.nvml.NVMLError:
            return None
        return next((one.usedGpuMemory for one in known if one.pid == process), None)

    def used_bytes(self) -> int:
        """Device memory in use by all processes and the driver."""
        return int(self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used)
