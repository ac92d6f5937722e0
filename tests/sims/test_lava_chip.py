"""Our Lava Processes inside a Lava program of the user's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map

pytestmark = pytest.mark.lava

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "04_own_lava_program.py"


@pytest.fixture(scope="module")
def mapping(
    tmp_path_factory: pytest.TempPathFactory, random_graph: Callable[[str, str], Graph]
) -> Path:
    """A random model of two blocks on three chips of three cores."""
    folder, graph = tmp_path_factory.mktemp("mapping"), random_graph("small", "a8")
    graph_file.save_graph(graph, folder / "model.graph")
    asked = Request("block-per-chip", cores=3)
    map.map_graph(folder / "model.graph", "kapoho-point", folder / "model.map", asked)
    return folder / "model.map"


@pytest.mark.smoke
def test_a_program_of_the_users_own(mapping: Path, run_python: Callable[..., Any]) -> None:
    """Two sequences of 4 tokens, each continued by 3, of which 2 are fed back."""
    program = """
        import multiprocessing
        import sys
        from pathlib import Path

        import numpy as np

        from mmfree_neuro.pipeline import opened
        from mmfree_neuro.run.job import Job
        from mmfree_neuro.run.sampling import Sampling
        from mmfree_sims import fast
        from mmfree_sims.lava import engine
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg

        graph, stored = opened.open_mapped(Path(sys.argv[1]))
        mapping = stored.mapping
        job = Job(np.array([[0, 5, 200, 7], [9, 9, 9, 9]]), 3, Sampling(0.7, seed=2))
        expected = fast.run(graph, mapping, job)
        host, chips = engine.build_job(graph, mapping, job, None)
        assert sorted(chips) == [0, 1, 2]
        host.run(condition=RunSteps(num_steps=1), run_cfg=Loihi2SimCfg())
        assert host.chosen.get().reshape(2, 3).tolist() == expected.chosen.tolist()
        session = fast.Fast(graph, mapping)
        for row in range(2):
            session.reset()
            session.feed(np.concatenate([job.tokens[row], expected.chosen[row, :2]]))


        def payloads(programs):
            held = (program.events.values() for program in programs)
            return sum(int(events.sum()) for group in held for events in group)


        received, sent, passed, saturated = host.counters.get().astype(int).tolist()
        assert passed == payloads([session.words.program])
        assert saturated == expected.prefill.saturations[0] + expected.generate.saturations[0]
        assert sent > 2 * 3, "a prompt and two single tokens for each sequence, and one END"
        for number, chip in chips.items():
            held = [n for n, place in enumerate(mapping.locations) if place.chip == number]
            nodes = {mapping.shards[n].node for n in held}
            received, sent, passed, saturated = chip.counters.get().astype(int).tolist()
            assert passed == payloads([session.neurons[node].program for node in nodes])
            both = expected.prefill.saturations + expected.generate.saturations
            assert saturated == both[held].sum()
            assert received > 6 and sent > 6
        host.stop()
        assert multiprocessing.active_children() == []
        print("ended")
    """
    assert run_python(program, mapping).stdout == "ended\n"


def test_a_process_of_the_users_own_hears_the_traffic(
    mapping: Path, run_python: Callable[..., Any]
) -> None:
    """A listener behind the last chip decodes every logit packet, and the END."""
    program = """
        import sys
        from pathlib import Path

        import numpy as np

        from mmfree_neuro.pipeline import opened
        from mmfree_neuro.run.job import Job
        from mmfree_sims import fast
        from mmfree_sims.lava import engine
        from mmfree_sims.lava.chip.process import vector_words
        from mmfree_sims.tiles.packets import END, POSITION, Reassembly
        from mmfree_sims.tiles.plan import Plan, by_chip
        from lava.magma.core.decorator import implements, requires
        from lava.magma.core.model.py.model import PyAsyncProcessModel
        from lava.magma.core.model.py.ports import PyInPort
        from lava.magma.core.model.py.type import LavaPyType
        from lava.magma.core.process.ports.ports import InPort
        from lava.magma.core.process.process import AbstractProcess
        from lava.magma.core.process.variable import Var
        from lava.magma.core.resources import CPU
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg
        from lava.magma.core.sync.protocols.async_protocol import AsyncProtocol


        class Listener(AbstractProcess):
            def __init__(self, plan) -> None:
                super().__init__(plan=plan)
                self.inp = InPort(shape=(vector_words(plan),))
                self.largest = Var(shape=(3,), init=0)


        @implements(proc=Listener, protocol=AsyncProtocol)
        @requires(CPU)
        class PyListener(PyAsyncProcessModel):
            inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
            largest: np.ndarray = LavaPyType(np.ndarray, np.int64)

            def run_async(self) -> None:
                plan = self.proc_params["plan"]
                heads = plan.by_node[plan.graph.head.name]
                packets = Reassembly(plan, frozenset(stretch.number for stretch in heads))
                logits = np.zeros((3, plan.graph.vocabulary), np.int64)
                while True:
                    vector = self.inp.recv()
                    if vector[0] & END:
                        break
                    packet = packets.take(vector)
                    if packet is not None:
                        stretch, rows = plan.stretches[packet.stretch], packet.labels[:, POSITION]
                        logits[rows, stretch.start : stretch.stop] = packet.sent["logits"]
                self.largest[:] = logits.argmax(1)


        if __name__ == "__main__":
            graph, stored = opened.open_mapped(Path(sys.argv[1]))
            job = Job(np.array([[0, 5, 200]]))
            host, chips = engine.build_job(graph, stored.mapping, job, None)
            listener = Listener(Plan(graph, stored.mapping, by_chip))
            chips[2].s_out.connect(listener.inp)
            host.run(condition=RunSteps(num_steps=1), run_cfg=Loihi2SimCfg())
            expected = fast.run(graph, stored.mapping, job).logits[0].argmax(1).tolist()
            assert listener.largest.get().astype(int).tolist() == expected
            host.stop()
            print("ended")
    """
    assert run_python(program, mapping).stdout == "ended\n"


def test_the_example_on_a_mapping_file(mapping: Path, run_python: Callable[..., Any]) -> None:
    lines = run_python(EXAMPLE, mapping).stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["chip", "0:"],
        ["chip", "1:"],
        ["chip", "2:"],
    ]
    assert lines[-1] == "equal to the fast engine: True"


def test_the_example_by_itself(run_python: Callable[..., Any], needs_torch: None) -> None:
    assert run_python(EXAMPLE).stdout.splitlines()[-1] == "equal to the fast engine: True"
