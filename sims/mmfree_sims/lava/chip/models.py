"""How the Processes run: asynchronous Python models, and a chip as a network of cores."""

import os
import random
import sys
import time
from abc import abstractmethod
from collections import deque
from threading import Condition
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.model import PyAsyncProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.model.sub.model import AbstractSubProcessModel
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.async_protocol import AsyncProtocol
from threadpoolctl import threadpool_limits

from mmfree_kernels.cpu.memory import keep_freed
from mmfree_neuro.integers.fixedpoint import Ints
from mmfree_neuro.mapping.mapping import HOST
from mmfree_sims.lava.chip.process import Chip, ChipOfCores, Core, Host, JobHost
from mmfree_sims.lava.shared import COUNTERS, NOBODY
from mmfree_sims.neurons import Int32
from mmfree_sims.tiles import host, tallies
from mmfree_sims.tiles.answers import Answers
from mmfree_sims.tiles.packets import END, ERROR, HEADER, Packet, Reassembly, control, encode
from mmfree_sims.tiles.tile import Tile

WAIT_SECONDS = 0.005
"""How long to wait before looking again: Lava can lose the wake-up of a message that comes while
another is taken."""


QUIET_SECONDS = 0.3
"""When nothing has moved at the host's ports for so long, whoever stands beside it has stopped."""
NO_WORD = "the host was sent what is no word of the model, and answers it by 0:"


class Stopped(Exception):
    """The run was stopped from outside."""


class PacketModel(PyAsyncProcessModel):
    """A model that receives and sends packets without ever blocking for good.

    While a channel is full the model goes on receiving into an inbox, so no ring of full channels
    can form; while nothing comes it looks for a stop command.
    """

    s_in: PyInPort
    s_out: PyOutPort
    counters: Any

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.opened = False

    def run_async(self) -> None:
        """Run once more, until all is done or the run is stopped."""
        if not self.opened:
            self.open()
            self.opened = True
        try:
            self.serve()
        except Stopped:
            self.leave()
        finally:
            self.counters[:] = self.count

    @abstractmethod
    def serve(self) -> None:
        """What the model does in a run."""

    def leave(self) -> None:
        """The run was stopped."""

    def open(self) -> None:
        """Prepare for the first run, and start watching the channels."""
        threadpool_limits(1)
        keep_freed()
        self.changed = Condition()
        self.inbox: deque[Int32] = deque()
        self.plan, self.shared = self.proc_params["plan"], self.proc_params["shared"]
        self.count: Ints = np.zeros(COUNTERS, np.int64)
        if self.shared is not None:
            self.count = self.shared.counters[self.proc_params["number"]]
        self.tallies, self.kept = self.both_tallies()
        self.jitter = 0 if self.shared is None else int(self.shared.jitter[0])
        self.random = random.Random(os.getpid())
        for port in self.watched():
            port.observer = self._wake

    def both_tallies(self) -> tuple[tallies.Tallies, tallies.Tallies]:
        """Where counts go, and what is kept of them with a state."""
        if self.shared is None:
            graph, sequences = self.plan.graph, self.proc_params["sequences"]
            return tallies.allocate(graph, sequences), tallies.allocate(graph, sequences)
        return self.shared.tallies, self.shared.kept

    def watched(self) -> list[Any]:
        """The ends of channels at which something may happen that the model waits for."""
        return [*self.s_in.csp_ports, *self.s_out.csp_ports]

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _drain(self) -> bool:
        found = False
        for port in self.s_in.csp_ports:
            while port.probe():
                self.inbox.append(port.recv())
                found = True
        return found

    def _wait(self) -> None:
        with self.changed:
            if not any(port.probe() for port in self.s_in.csp_ports):
                self.changed.wait(WAIT_SECONDS)
        if self.check_for_stop_cmd() or self.check_for_pause_cmd():
            raise Stopped

    def receive_vector(self) -> Int32:
        """The next vector from any channel; each channel keeps its order."""
        while not self.inbox:
            if not self._drain():
                self._wait()
        self.count[0] += 1
        return self.inbox.popleft()

    def receive_all(self) -> list[Int32]:
        """Every vector that has come, at least one."""
        vectors = [self.receive_vector()]
        self._drain()
        self.count[0] += len(self.inbox)
        vectors += self.inbox
        self.inbox.clear()
        return vectors

    def emit(self, vector: Int32) -> None:
        """Send a vector, filled up to the size of the channel, to every connected process."""
        if self.jitter:
            time.sleep(self.random.randrange(self.jitter) / 1e6)
        for port in self.s_out.csp_ports:
            while not port.probe():
                if not self._drain():
                    self._wait()
            port.send(np.pad(vector, (0, self.s_out.shape[0] - len(vector))))
        self.count[1] += 1

    def send(self, packet: Packet) -> None:
        """Send a packet to every connected process."""
        for vector in encode(packet, self.s_out.shape[0] - HEADER):
            self.emit(vector)


class TileModel(PacketModel):
    """Runs the cores of a tile until the stream ends."""

    def open(self) -> None:
        """Load the tile."""
        super().open()
        self.tile = Tile(self.plan, [self.proc_params["tile"]], self.tallies, self.kept)
        self.tile.restore(self.proc_params["start"].fed)
        self.packets = Reassembly(self.plan, self.tile.wanted)

    def serve(self) -> None:
        """Run to the end, or tell the others that this tile has failed."""
        try:
            self.work()
        except Stopped:
            raise
        except Exception:
            self.emit(control(ERROR))
            raise

    def work(self) -> None:
        """Take packets, pass on what leaves; on the first END or ERROR pass it on, then wait for
        the others' END."""
        if self.shared is not None:
            self.shared.ready[self.proc_params["number"]] = os.getpid()
        ended = 0
        while ended < len(self.s_in.csp_ports):
            vectors = self.receive_all()
            found = [
                self.packets.take(vector) for vector in vectors if not vector[0] & (END | ERROR)
            ]
            self.tile.take([packet for packet in found if packet is not None], self.send)
            for vector in vectors:
                if vector[0] & (END | ERROR):
                    ended += 1
                    if ended == 1:
                        self.finish()
                        self.emit(control(int(vector[0])))
        if self.shared is not None:
            self.shared.ready[self.proc_params["number"]] = NOBODY

    def finish(self) -> None:
        """Publish the counts: no token is in flight when the stream ends."""
        self.tile.settle()
        self.count[2:] = self.tile.totals()


@implements(proc=Chip, protocol=AsyncProtocol)
@requires(CPU)
class PyChipModel(TileModel):
    """A chip in one OS process."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    counters: Any = LavaPyType(np.ndarray, np.int64)


@implements(proc=Core, protocol=AsyncProtocol)
@requires(CPU)
class PyCoreModel(TileModel):
    """A core in one OS process."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    counters: Any = LavaPyType(np.ndarray, np.int64)


@implements(proc=ChipOfCores, protocol=AsyncProtocol)
class SubChipModel(AbstractSubProcessModel):
    """A chip as a network of cores, each reached from outside and from every other."""

    def __init__(self, proc: ChipOfCores) -> None:
        params = proc.proc_params
        plan, mapping = params["plan"], params["mapping"]
        cores = [
            Core(
                plan=plan,
                tile=number,
                sequences=params["sequences"],
                start=params["start"],
                shared=params["shared"],
                name=f"core {place.core} of chip {place.chip}",
            )
            for number, place in enumerate(mapping.cores)
            if place.chip == params["chip"]
        ]
        for core in cores:
            # Lava finds a model's sub-processes among its attributes
            setattr(self, core.name.replace(" ", "_"), core)
            proc.in_ports.s_in.connect(core.in_ports.s_in)
            core.out_ports.s_out.connect(proc.out_ports.s_out)
            for other in cores:
                if other is not core:
                    core.out_ports.s_out.connect(other.in_ports.s_in)


class HostModel(PacketModel):
    """The host's end of the stream."""

    def wanted(self) -> Reassembly:
        """What the host reads of the vectors that come."""
        return Reassembly(self.plan, self.plan.read_by(HOST))

    def end_stream(self) -> None:
        """Tell all chips, and wait until every one that reports here has ended."""
        self.emit(control(END))
        for _ in self.s_in.csp_ports:
            while not self.receive_vector()[0] & (END | ERROR):
                pass

    def receive(self) -> Packet:
        """The next packet that the host reads."""
        while True:
            vector = self.receive_vector()
            if vector[0] & ERROR:
                raise Stopped  # the chip that failed raises its own exception, which says more
            packet = self.packets.take(vector)
            if packet is not None:
                return packet


@implements(proc=Host, protocol=AsyncProtocol)
@requires(CPU)
class PyHostModel(HostModel):
    """Answers the words of every message by those that follow."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    tokens_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    tokens_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    counters: Any = LavaPyType(np.ndarray, np.int64)
    refused: Any = LavaPyType(np.ndarray, np.int64)

    def open(self) -> None:
        """Begin with an empty sequence."""
        super().open()
        self.packets = self.wanted()
        sampling = self.proc_params["sampling"]
        self.answers = Answers(self.plan, sampling, self.tallies, self.kept, self)

    def watched(self) -> list[Any]:
        """Tokens come and go, too."""
        return [*super().watched(), *self.tokens_in.csp_ports, *self.tokens_out.csp_ports]

    def serve(self) -> None:
        """Answer a message a step."""
        for _ in range(self.num_steps):
            while not all(port.probe() for port in self.tokens_in.csp_ports):
                self._wait()
            words = self.tokens_in.recv()
            self.reply(self.answers.answer(words))
            if self.answers.refused and not self.refused[0]:
                print(f"{NO_WORD} {words.tolist()}", file=sys.stderr, flush=True)
            self.refused[:] = self.answers.refused
        self.end_stream()
        self.answers.terminal.settle()
        self.count[2:] = self.answers.terminal.totals()

    def reply(self, words: Ints) -> None:
        """Send words to whoever listens."""
        while not all(port.probe() for port in self.tokens_out.csp_ports):
            self._wait()
        self.tokens_out.send(words)

    def leave(self) -> None:
        """Keep nobody waiting: Processes that run step by step may be told to stop later, and go on
        until then."""
        source, sink = self.tokens_in.csp_ports, self.tokens_out.csp_ports
        last = time.monotonic()
        while time.monotonic() - last < QUIET_SECONDS:
            came = bool(source) and all(port.probe() for port in source)
            if came:
                self.tokens_in.recv()
            room = bool(sink) and all(port.probe() for port in sink)
            if room:
                self.tokens_out.send(np.zeros(self.tokens_out.shape, np.int32))
            if came or room:
                last = time.monotonic()
            else:
                time.sleep(WAIT_SECONDS / 10)


@implements(proc=JobHost, protocol=AsyncProtocol)
@requires(CPU)
class PyJobHostModel(HostModel):
    """Drives the job: many tokens in flight in prefill, one of each sequence in generation."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    counters: Any = LavaPyType(np.ndarray, np.int64)
    chosen: Any = LavaPyType(np.ndarray, np.int64)

    def serve(self) -> None:
        """Run the job, and end the stream."""
        self.drive()
        self.end_stream()

    def drive(self) -> None:
        """Wait until every tile is ready, then run the job."""
        job, start, in_flight = (self.proc_params[name] for name in ("job", "start", "in_flight"))
        self.packets, self.job = self.wanted(), job
        driver = host.Host(self.plan, job, start, self.tallies, self.kept, self, in_flight)
        while self.shared is not None and not self.shared.ready.all():
            self._wait()
        if self.shared is not None:
            self.shared.clock[2] = time.monotonic()
        driver.run()
        if self.shared is not None:
            self.shared.stands[:] = host.stands(driver.seats.walks)
        self.count[2:] = driver.totals()

    def arrived(self, sequence: int, position: int, sent: Ints) -> None:
        """Keep the logits of one token where they are wanted."""
        if self.shared is not None:
            if self.job.keep_logits:
                self.shared.logits[self.job.kept_from[sequence] + position] = sent
            self.shared.done[0] += position < len(self.job.sequences[sequence].tokens)

    def chose(self, sequence: int, number: int, token: int) -> None:
        """Publish a token."""
        at = self.job.chosen_from[sequence] + number
        self.chosen[at] = token
        if self.shared is not None:
            self.shared.chosen[at] = token
            self.shared.known[sequence] += 1
            self.shared.done[1] += 1

    def timed(self, seconds: Any) -> None:
        """Publish the seconds spent in prefill and generating."""
        if self.shared is not None:
            self.shared.clock[:2] = seconds

    def save(self, stands: Ints) -> None:
        """Let the user's process take the states that were kept, and wait until it has."""
        if self.shared is not None:
            self.shared.stands[:] = stands
            self.shared.saving[0] += 1
            while self.shared.saving[1] != self.shared.saving[0]:
                self._wait()
