"""How the Processes run: asynchronous Python models, and the Chip as a network of Cores."""

import os
import random
import time
from collections import deque
from threading import Condition
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyAsyncProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.model.sub.model import AbstractSubProcessModel
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.async_protocol import AsyncProtocol
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mmfree_neuro import programs
from mmfree_neuro.fixedpoint import Ints
from mmfree_neuro.ir import constants
from mmfree_neuro.mapping import HOST, Location
from mmfree_neuro.sampling import choose
from mmfree_sims.lava.chip.process import COUNTERS, Chip, Core, Host
from mmfree_sims.lava.core import (
    END,
    ERROR,
    GENERATED,
    Packet,
    Tile,
    control,
    decode,
    encode,
    packet_words,
    write_messages,
)
from mmfree_sims.neurons import VectorMachine

WAIT_SECONDS = 0.005
"""How long to wait before looking again: Lava can lose the wake-up of a message that comes while another is taken."""


class Stopped(Exception):
    """The run was stopped from outside."""


class PacketModel(PyAsyncProcessModel):
    """A model that receives and sends packets without ever blocking for good.

    While a channel is full the model goes on receiving into an inbox, so no ring of full channels can form; while
    nothing comes it looks for a stop command.
    """

    s_in: PyInPort
    s_out: PyOutPort
    counters: Any

    def open(self) -> None:
        """Start watching the channels."""
        threadpool_limits(1)
        self.changed = Condition()
        self.inbox: deque[NDArray[np.int32]] = deque()
        self.count = np.zeros(COUNTERS, np.int64)
        self.words = packet_words(self.proc_params["graph"], self.proc_params["mapping"])
        shared = self.proc_params["shared"]
        self.jitter = 0 if shared is None else int(shared.jitter[0])
        self.random = random.Random(os.getpid())
        for port in (*self.s_in.csp_ports, *self.s_out.csp_ports):
            port.observer = self._wake

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

    def receive(self) -> NDArray[np.int32]:
        """The next vector from any channel; each channel keeps its order."""
        while not self.inbox:
            if not self._drain():
                self._wait()
        self.count[0] += 1
        return self.inbox.popleft()

    def receive_all(self) -> list[NDArray[np.int32]]:
        """Every vector that has come, at least one."""
        vectors = [self.receive()]
        self._drain()
        self.count[0] += len(self.inbox)
        vectors += self.inbox
        self.inbox.clear()
        return vectors

    def emit(self, vector: NDArray[np.int32]) -> None:
        """Send a vector to every connected process."""
        if self.jitter:
            time.sleep(self.random.randrange(self.jitter) / 1e6)
        for port in self.s_out.csp_ports:
            while not port.probe():
                if not self._drain():
                    self._wait()
            port.send(vector)
        self.count[1] += 1


class TileModel(PacketModel):
    """Runs the cores of a tile until the stream ends."""

    def run_async(self) -> None:
        """Take packets, pass on what leaves; on the first END or ERROR pass it on, then wait for the others' END."""
        self.open()
        try:
            self.serve()
        except Stopped:
            return
        except Exception:
            self.emit(control(ERROR, self.words))
            raise
        finally:
            self.counters[:] = self.count

    def serve(self) -> None:
        """The life of a tile."""
        graph, mapping, shared = (self.proc_params[name] for name in ("graph", "mapping", "shared"))
        tile = Tile(graph, mapping, self.proc_params["cores"])
        if shared is not None:
            shared.ready[self.proc_params["tile"]] = os.getpid()
        ended = 0
        while ended < len(self.s_in.csp_ports):
            vectors = self.receive_all()
            tokens = [decode(graph, mapping, vector) for vector in vectors if not vector[2] & (END | ERROR)]
            tile.take(tokens, lambda p: self.emit(encode(graph, mapping.shards[p.source], p, self.words)))
            for vector in vectors:
                if vector[2] & (END | ERROR):
                    ended += 1
                    if ended == 1:
                        self.finish(tile, shared)
                        self.emit(control(int(vector[2]), self.words))

    def finish(self, tile: Tile, shared: Any) -> None:
        """Publish the counts: no token is in flight when the stream ends."""
        shards = [shard for core in tile.cores.values() for shard in core.shards]
        self.count[2] = sum(int(shard.fired.sum()) for shard in shards)
        self.count[3] = sum(int(shard.saturated.sum()) for shard in shards)
        if shared is not None:
            tile.write(shared.board)


@implements(proc=Chip, protocol=AsyncProtocol)
@requires(CPU)
@tag("chip")
class PyChipModel(TileModel):
    """A chip in one OS process."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    counters: Any = LavaPyType(np.ndarray, np.int64)


@implements(proc=Core, protocol=AsyncProtocol)
@requires(CPU)
@tag("chip", "core")
class PyCoreModel(TileModel):
    """A core in one OS process."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    counters: Any = LavaPyType(np.ndarray, np.int64)


@implements(proc=Chip, protocol=AsyncProtocol)
@tag("core")
class SubChipModel(AbstractSubProcessModel):
    """A chip as a network of cores, each reached from outside and from every other."""

    def __init__(self, proc: Chip) -> None:
        params = proc.proc_params
        graph, mapping, shared = params["graph"], params["mapping"], params["shared"]
        cores = [
            Core(graph=graph, mapping=mapping, cores=(place,), shared=shared, name=f"chip{place.chip}.core{place.core}")
            for place in params["cores"]
        ]
        for core in cores:
            setattr(self, core.name.replace(".", "_"), core)  # Lava finds a model's sub-processes among its attributes
            proc.in_ports.s_in.connect(core.in_ports.s_in)
            core.out_ports.s_out.connect(proc.out_ports.s_out)
            for other in cores:
                if other is not core:
                    core.out_ports.s_out.connect(other.in_ports.s_in)
        proc.vars.counters.alias(cores[0].vars.counters)


@implements(proc=Host, protocol=AsyncProtocol)
@requires(CPU)
@tag("chip", "core")
class PyHostModel(PacketModel):
    """Drives the job: many tokens in flight in prefill, one at a time in generation."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    counters: Any = LavaPyType(np.ndarray, np.int64)
    chosen: Any = LavaPyType(np.ndarray, np.int64)

    def run_async(self) -> None:
        """Run the job, end the stream, and wait until every chip that reports here has ended."""
        self.open()
        try:
            self.prepare()
            self.drive()
            self.publish()
            self.emit(control(END, self.words))
            for _ in self.s_in.csp_ports:
                while not self.receive()[2] & (END | ERROR):
                    pass
        except Stopped:
            return
        finally:
            self.counters[:] = self.count

    def prepare(self) -> None:
        """Make what the host needs, and wait until every tile is ready."""
        self.graph, self.mapping, self.job = (self.proc_params[name] for name in ("graph", "mapping", "job"))
        self.shared = self.proc_params["shared"]
        self.machine = VectorMachine(self.graph.embedding.size)
        self.events = {o.port: np.zeros((2, o.size), np.int64) for o in self.graph.embedding.outputs}
        self.fired, self.saturated = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self.pending: dict[int, tuple[Ints, int]] = {}
        self.heads = sum(route.destination == Location(HOST, 0) for route in self.mapping.routes)
        while self.shared is not None and not self.shared.ready.all():
            self._wait()
        if self.shared is not None:
            self.shared.clock[2] = time.monotonic()

    def send_token(self, sequence: int, position: int, token: int, generated: bool) -> None:
        """Embed a token and send it to the chips."""
        node = self.graph.embedding
        sent, _ = programs.run(self.machine, node, self.graph.sigmoid, constants(node), {"x": node.table[token]})
        phase = int(generated)
        self.fired[phase] += 1
        self.saturated[phase] += int(self.machine.saturated.sum())
        self.machine.saturated[:] = 0
        for port, values in sent.items():
            self.events[port][phase] += values != 0
        packet = Packet(sequence, position, GENERATED if generated else 0, 0, sent)
        self.emit(encode(self.graph, self.mapping.shards[0], packet, self.words))

    def receive_logits(self, position: int) -> Ints:
        """The logits of the token at `position`, which is the next in order to be complete."""
        while True:
            vector = self.receive()
            if vector[2] & ERROR:
                raise Stopped  # the chip that failed raises its own exception, which says more
            packet = decode(self.graph, self.mapping, vector)
            shard = self.mapping.shards[packet.source]
            if shard.node != self.graph.head.name:
                continue
            logits, missing = self.pending.get(packet.token, (np.zeros(self.graph.vocabulary, np.int64), self.heads))
            logits[shard.start : shard.stop] = packet.sent["logits"]
            self.pending[packet.token] = logits, missing - 1
            if position in self.pending and self.pending[position][1] == 0:
                return self.pending.pop(position)[0]

    def drive(self) -> None:
        """Prefill and generate, sequence after sequence."""
        for sequence, tokens in enumerate(self.job.tokens):
            begin = time.monotonic()
            logits = self.prefill(sequence, tokens)
            middle = time.monotonic()
            self.generate(sequence, len(tokens), logits)
            if self.shared is not None:
                self.shared.clock[0] += middle - begin
                self.shared.clock[1] += time.monotonic() - middle

    def prefill(self, sequence: int, tokens: Ints) -> Ints:
        """Send a prompt with up to `in_flight` tokens under way; the logits after its last token."""
        sent, logits = 0, np.zeros(0, np.int64)
        for position in range(len(tokens)):
            while sent < len(tokens) and sent - position < self.proc_params["in_flight"]:
                self.send_token(sequence, sent, int(tokens[sent]), False)
                sent += 1
            logits = self.receive_logits(position)
            self.record(sequence, position, logits, 0)
        return logits

    def generate(self, sequence: int, position: int, logits: Ints) -> None:
        """Choose tokens one by one, each sent when the last has come out."""
        for number in range(self.job.new_tokens):
            token = choose(logits, self.graph.logit_scale, self.job.sampling, position + number)
            self.chosen[sequence * self.job.new_tokens + number] = token
            if self.shared is not None:
                self.shared.chosen[sequence, number] = token
                self.shared.done[1] += 1
            if number + 1 < self.job.new_tokens:
                self.send_token(sequence, position + number, token, True)
                logits = self.receive_logits(position + number)
                self.record(sequence, position + number, logits, 1)

    def record(self, sequence: int, position: int, logits: Ints, phase: int) -> None:
        """Keep the logits of one token."""
        if self.shared is not None:
            self.shared.logits[sequence, position] = logits
            self.shared.done[0] += 1 - phase

    def publish(self) -> None:
        """Write the counts of the embedding."""
        self.count[2:] = self.fired.sum(), self.saturated.sum()
        if self.shared is not None:
            self.shared.board.fired[:, 0] = self.fired
            self.shared.board.saturations[:, 0] = self.saturated
            write_messages(self.shared.board, self.mapping, 0, self.events)
