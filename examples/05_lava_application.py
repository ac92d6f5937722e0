"""5. The model as one part of a Lava program: a LIF neuron decides when it speaks.

A RingBuffer drives the neuron with a current, a Process of our own turns its spikes into words for
the model, and a second RingBuffer keeps what the model answers.

Run after 02, or on any mapping of a model that reads bytes:
python examples/05_lava_application.py [MAPPING FILE]
"""

import sys
from pathlib import Path

# Before Lava, which alone cannot be imported on Python 3.11 and newer; in any order where
# `python -m mmfree_sims.lava_compat` was run once.
from mmfree_sims.lava import engine

# isort: split
import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.io.sink import RingBuffer as Recorder
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import LIF

from mmfree_neuro.pipeline import opened
from mmfree_sims.tiles.answers import AGAIN, NOTHING

PROMPT = b"import o"
STEPS = 48


class Speaker(AbstractProcess):
    """Says the prompt, a word a step, and then asks for one word more at every spike."""

    def __init__(self, prompt: bytes) -> None:
        super().__init__(words=[token + 1 for token in (0, *prompt)])  # token 0 begins a text
        self.spikes_in = InPort(shape=(1,))
        self.words_out = OutPort(shape=(1,))


@implements(proc=Speaker, protocol=LoihiProtocol)
@requires(CPU)
class PySpeaker(PyLoihiProcessModel):
    """Runs step by step, as Lava's own Processes do."""

    spikes_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    words_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        words, spike = self.proc_params["words"], self.spikes_in.recv()[0]
        if self.time_step <= len(words):
            word = words[self.time_step - 1]
        else:
            word = AGAIN if spike else NOTHING
        self.words_out.send(np.array([word]))


def main(path: Path) -> None:
    graph, stored = opened.open_mapped(path)
    host, _ = engine.build(graph, stored.mapping)
    current = np.repeat([2, 6], STEPS // 2)[None]  # little at first, then three times as much
    source, neuron = Source(data=current), LIF(shape=(1,), vth=10, du=4095)
    speaker, recorder = Speaker(PROMPT), Recorder(shape=(1,), buffer=STEPS)

    source.s_out.connect(neuron.a_in)
    neuron.s_out.connect(speaker.spikes_in)
    speaker.words_out.connect(host.tokens_in)
    host.tokens_out.connect(recorder.a_in)

    try:
        # The chips take as long as they take for a token, and the neuron's steps wait for them.
        host.run(condition=RunSteps(num_steps=STEPS), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        words = recorder.data.get().astype(int)[0].tolist()
    finally:
        host.stop()  # Python would wait for ever for processes that were not stopped

    last = len(PROMPT)  # the answer to the last word of the prompt begins the continuation
    said = bytes(word - 1 for word in words[last:] if word)
    print("step by step:", "".join("." if word == NOTHING else "|" for word in words[last:]))
    print(f"{PROMPT.decode()!r} goes on {said.decode(errors='replace')!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples-output/packed.map"))
