"""The model as one part of a Lava program, among Processes of Lava's and of the user's own."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map

pytestmark = pytest.mark.lava

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "05_lava_application.py"
PROGRAM = """
    import sys
    from pathlib import Path

    from mmfree_neuro.pipeline import opened
    from mmfree_neuro.run.job import Job
    from mmfree_neuro.run.sampling import Sampling
    from mmfree_sims import fast
    from mmfree_sims.lava import engine, guard
    from mmfree_sims.tiles.answers import AGAIN, NOTHING, RESTART
    import numpy as np
    from lava.magma.core.run_conditions import RunContinuous, RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Recorder
    from lava.proc.io.source import RingBuffer as Source

    PROMPT = 0, 5, 200, 7
    graph, stored = opened.open_mapped(Path(sys.argv[1]))
    mapping = stored.mapping


    def chosen(new_tokens, sampling=Sampling(), prompt=PROMPT):
        job = Job(np.array([prompt]), new_tokens, sampling, keep_logits=not graph.greedy)
        return (1 + fast.run(graph, mapping, job).chosen[0]).tolist()


    def between(words, **options):
        '''A source of words, the host, and a recorder of its answers.'''
        words = np.array(words)
        host, _ = engine.build(graph, mapping, **options)
        source = Source(data=words)
        recorder = Recorder(shape=words.shape[:1], buffer=words.shape[1])
        source.s_out.connect(host.tokens_in)
        host.tokens_out.connect(recorder.a_in)
        return host, recorder


    def answers(words, runs=1, tag=None, **options):
        host, recorder = between(words, **options)
        try:
            for _ in range(runs):
                steps = RunSteps(num_steps=len(words[0]) // runs)
                host.run(condition=steps, run_cfg=Loihi2SimCfg(select_tag=tag))
            refused.append(int(host.refused.get()[0]))
            return recorder.data.get().astype(int).tolist()
        finally:
            host.stop()


    refused = []
    prompt = [token + 1 for token in PROMPT]
"""


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, random_graph: Callable[[str, str], Graph]
) -> Path:
    """A random model of two blocks on three chips of three cores."""
    return mapped(tmp_path_factory.mktemp("mapping"), random_graph("small", "a8"))


def mapped(folder: Path, graph: Graph, **asked: Any) -> Path:
    """The file of a mapping of a graph."""
    graph_file.save_graph(graph, folder / "model.graph")
    request = Request("block-per-chip", cores=3, **asked)
    map.map_graph(folder / "model.graph", "kapoho-point", folder / "model.map", request)
    return folder / "model.map"


Run = Callable[..., Any]


def run(run_python: Run, mapping: Path, program: str) -> str:
    """What a program prints that goes on where PROGRAM ends."""
    text = dedent(PROGRAM) + dedent(program)
    out: str = run_python(text, mapping).stdout
    return out


@pytest.mark.parametrize("tag", [None, "fixed_pt", "floating_pt"])
def test_between_two_processes_of_lavas_own(tag: str | None, small: Path, run_python: Run) -> None:
    """Whatever tag is selected for them.  Every word is answered by what all engines choose to
    follow; a second run goes on where the first has ended."""
    program = f"""
        words = [*prompt, AGAIN, NOTHING, AGAIN, AGAIN, RESTART, AGAIN, *prompt[:2], AGAIN, NOTHING]
        (found,) = answers([words], runs=2, tag={tag!r})
        each = [chosen(1, prompt=PROMPT[:length])[0] for length in (1, 2, 3)]
        first, second = chosen(4), chosen(2, prompt=PROMPT[:2])
        nothing_to_repeat = 0
        assert found == [
            *(*each, first[0], first[1], 0, first[2], first[3]),
            *(0, nothing_to_repeat, each[0], *second, 0),
        ]
        assert refused == [1]
        print("ended")
    """
    assert run(run_python, small, program) == "ended\n"


def test_a_prompt_in_one_message_and_drawn_words(small: Path, run_python: Run) -> None:
    """A message of four words, then one whose rest is empty."""
    program = """
        words = [[prompt[k], AGAIN if k == 0 else NOTHING] for k in range(4)]
        drawn = Sampling(0.7, seed=3)
        found = answers(words, sampling=drawn, width=4)
        assert [row[0] for row in found][3] == chosen(1, drawn)[0]
        assert [row[1] for row in found] == [chosen(2, drawn)[1], 0, 0, 0]
        print("ended")
    """
    assert run(run_python, small, program) == "ended\n"


def test_words_chosen_on_chips_and_a_process_for_each_core(
    random_graph: Callable[[str, str], Graph], tmp_path: Path, run_python: Run
) -> None:
    mapping = mapped(tmp_path, random_graph("small", "a8"), greedy_on_chips=True)
    program = """
        from mmfree_neuro.errors import InputError

        try:
            engine.build(graph, mapping, sampling=Sampling(0.5))
        except InputError as error:
            assert str(error) == (
                "the chips choose the words here, and greedily, so the temperature is 0.5, must be "
                "0; a mapping without greedy-on-chips can draw"
            )
            print("refused")
        for per_core in (False, True):
            (found,) = answers([[*prompt, AGAIN, AGAIN]], per_core=per_core)
            assert found[3:] == chosen(3)
        print("ended")
    """
    assert run(run_python, mapping, program) == "refused\nended\n"


def test_what_is_no_word_is_refused_and_said_once(small: Path, run_python: Run) -> None:
    """Beyond the vocabulary, a negative number without a meaning, and a fraction."""
    program = dedent(PROGRAM) + dedent(
        """
        (found,) = answers([[*prompt, 1000, -3, 0.5, AGAIN]], tag="floating_pt")
        assert found[3:] == [chosen(1)[0], 0, 0, 0, chosen(2)[1]]
        print("refused", refused)
        """
    )
    done = run_python(program, small)
    assert done.stdout == "refused [3]\n"
    said = "the host was sent what is no word of the model, and answers it by 0: [1000.0]"
    assert done.stderr.splitlines() == [said]


@pytest.mark.parametrize("apart", [0, 0.05])
def test_a_run_without_an_end_can_be_stopped(apart: float, small: Path, run_python: Run) -> None:
    """Also where Processes that run step by step are told later, and go on until then."""
    program = f"""
        import multiprocessing
        import time

        host, recorder = between([[NOTHING] * 3])
        host.run(condition=RunContinuous(), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        time.sleep(0.3)
        ports = host.runtime.runtime_to_service
        first = [p.send for p in ports]
        for port, send in zip(ports, first):
            port.send = lambda command, send=send: (send(command), time.sleep({apart}))
        host.stop()
        print("ended", multiprocessing.active_children())
    """
    assert run(run_python, small, program) == "ended []\n"


def test_a_guarded_run_reads_vars_and_ends_whatever_fails(small: Path, run_python: Run) -> None:
    """Lava's own `run` would wait for ever for a Process that raises."""
    program = """
        import multiprocessing

        from mmfree_neuro.errors import EngineError, RunFailed
        from lava.magma.core.decorator import implements, requires
        from lava.magma.core.model.py.model import PyLoihiProcessModel
        from lava.magma.core.model.py.ports import PyInPort
        from lava.magma.core.model.py.type import LavaPyType
        from lava.magma.core.process.ports.ports import InPort
        from lava.magma.core.process.process import AbstractProcess
        from lava.magma.core.resources import CPU
        from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


        class Listener(AbstractProcess):
            def __init__(self):
                super().__init__(name="the listener")
                self.words_in = InPort(shape=(1,))


        @implements(proc=Listener, protocol=LoihiProtocol)
        @requires(CPU)
        class PyListener(PyLoihiProcessModel):
            words_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

            def run_spk(self):
                self.words_in.recv()
                if self.time_step == 3:
                    raise ValueError("heard enough")


        if __name__ == "__main__":
            config, found = Loihi2SimCfg(select_tag="fixed_pt"), []
            host, recorder = between([[*prompt, AGAIN]])
            guard.run(host, config, steps=5, read=lambda: found.append(recorder.data.get()))
            assert found[0].astype(int).tolist()[0][3:] == chosen(2)

            try:
                guard.run(host, config, steps=5)
            except EngineError as error:
                print(error)

            host, _ = between([prompt])
            listener = Listener()
            host.tokens_out.connect(listener.words_in)
            try:
                guard.run(host, config, steps=4)
            except RunFailed as failed:
                lines = str(failed).splitlines()
                print(lines[0].split(" (")[0], "...", lines[-1])
            print("left", multiprocessing.active_children())
    """
    assert run(run_python, small, program).splitlines() == [
        "the host was run before, must be made anew with its network: a guarded run takes it to "
        "its end",
        "the listener ... ValueError: heard enough",
        "left []",
    ]


def test_the_example(small: Path, run_python: Run) -> None:
    """The neuron spikes seldom at first, and then every other step; the text is noise here."""
    steps, said = run_python(EXAMPLE, small).stdout.splitlines()
    assert steps == "step by step: |..|.....|.....|.|.|.|.|.|.|.|.|.|.|.|.|"
    assert said.startswith("'import o' goes on ")
