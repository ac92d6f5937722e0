"""Lava must be able to run on this very interpreter. Each test has a fresh one, as the repairs must
precede Lava."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmfree_sims import lava_compat

pytestmark = pytest.mark.lava


def expected_changes() -> tuple[str, ...]:
    """Python 3.10 runs Lava with NumPy 1; newer ones come with NumPy 2.1 or newer."""
    processes = "lava.magma.runtime.message_infrastructure.multiprocessing"
    if sys.version_info < (3, 11):
        return (processes,)
    return ("lava.magma.compiler.var_model", processes, "lava.magma.core.process.ports.ports")


def test_enable_lava_says_what_it_changed_and_changes_it_once(
    run_python: Callable[..., Any],
) -> None:
    out = run_python(
        """
        import dataclasses
        before = dataclasses.dataclass
        from mmfree_sims.lava_compat import enable_lava
        print(enable_lava())
        print(enable_lava())
        assert dataclasses.dataclass is before
        """
    ).stdout
    assert out == f"{expected_changes()}\n()\n"


BEFORE = {
    "nothing": ("pass", None),
    "a lock": ("multiprocessing.Lock()", "fork"),
    "a pool": ("multiprocessing.Pool(1).terminate()", "fork"),
    "a progress bar": ("list(tqdm.tqdm([0], file=io.StringIO()))", "fork"),
    "the start method spawn": ("multiprocessing.set_start_method('spawn')", "spawn"),
    "Lava itself, which may fail": ("import lava.proc.dense.process", None),
    "Lava itself, which fails": ("multiprocessing.Lock(); import lava.proc.dense.process", "fork"),
}


@pytest.mark.parametrize("before", BEFORE)
def test_whatever_a_program_did_before(before: str, run_python: Callable[..., Any]) -> None:
    """Lava is usable, and how the program starts its own processes is left to it."""
    statement, method = BEFORE[before]
    if before.startswith("Lava") and sys.version_info < (3, 11):
        method = "fork"  # Lava has set it, before us
    out = run_python(
        f"""
        import contextlib
        import io
        import multiprocessing
        import tqdm

        # what Lava says without us on Python 3.11 and newer, or after a lock
        with contextlib.suppress(ValueError, RuntimeError):
            {statement}

        from mmfree_sims.lava_compat import enable_lava
        enable_lava()
        from lava.magma.runtime.message_infrastructure.multiprocessing import SystemProcess
        print(multiprocessing.get_start_method(allow_none=True))


        def say():
            print("forked", flush=True)


        if __name__ == "__main__":
            process = SystemProcess(target=say)
            process.start()
            process.join()
        """
    ).stdout
    assert out == f"{method}\nforked\n"


def test_imports_in_any_order_in_an_environment_that_says_so(
    run_python: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`site` reads the file at every start of Python; removed, it is gone, and cannot be removed
    again."""
    monkeypatch.setattr(lava_compat.sysconfig, "get_path", lambda _: str(tmp_path))
    file = tmp_path / "mmfree_lava.pth"
    lava_compat.main([])
    out = run_python(
        """
        import site
        import sys

        site.addsitedir(sys.argv[1])
        assert "numpy" not in sys.modules
        from lava.proc.lif.process import LIF
        from mmfree_sims.lava import engine
        print(LIF.__name__, engine.__name__)
        """,
        tmp_path,
    ).stdout
    assert out == "LIF mmfree_sims.lava.engine\n"
    lava_compat.main(["--remove"])
    assert not file.exists()
    with pytest.raises(SystemExit) as ended:
        lava_compat.main(["--remove"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == f"wrote {file}\nremoved {file}\n"
    assert said.err == f"{file}: No such file or directory\n"


@pytest.mark.smoke
def test_an_asynchronous_program_of_two_processes(run_python: Callable[..., Any]) -> None:
    """Three messages are sent as two rows of two and arrive as one row of four, through Lava's own
    reshape."""
    out = run_python(
        """
        from mmfree_sims.lava_compat import enable_lava
        enable_lava()

        import numpy as np
        from lava.magma.core.decorator import implements, requires
        from lava.magma.core.model.py.model import PyAsyncProcessModel
        from lava.magma.core.model.py.ports import PyInPort, PyOutPort
        from lava.magma.core.model.py.type import LavaPyType
        from lava.magma.core.process.ports.ports import InPort, OutPort
        from lava.magma.core.process.process import AbstractProcess
        from lava.magma.core.resources import CPU
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg
        from lava.magma.core.sync.protocols.async_protocol import AsyncProtocol


        class Source(AbstractProcess):
            def __init__(self) -> None:
                super().__init__()
                self.out = OutPort(shape=(2, 2))


        class Sink(AbstractProcess):
            def __init__(self) -> None:
                super().__init__()
                self.inp = InPort(shape=(4,))


        @implements(proc=Source, protocol=AsyncProtocol)
        @requires(CPU)
        class PySource(PyAsyncProcessModel):
            out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

            def run_async(self) -> None:
                for token in range(self.num_steps):
                    self.out.send(np.array([[token, 1], [2, 3]], dtype=np.int32))


        @implements(proc=Sink, protocol=AsyncProtocol)
        @requires(CPU)
        class PySink(PyAsyncProcessModel):
            inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

            def run_async(self) -> None:
                for _ in range(self.num_steps):
                    print(self.inp.recv().tolist(), flush=True)


        if __name__ == "__main__":
            source, sink = Source(), Sink()
            source.out.flatten().connect(sink.inp)
            sink.run(condition=RunSteps(num_steps=3), run_cfg=Loihi2SimCfg())
            sink.stop()
        """
    ).stdout
    assert out == "[0, 1, 2, 3]\n[1, 1, 2, 3]\n[2, 1, 2, 3]\n"


def test_lava_dl_reads_a_ternary_layer_and_no_stand_in_stays(
    run_python: Callable[..., Any], needs_lava_dl: None
) -> None:
    """netx keeps 128 and the exponent -7 for the 1 in the file; Dense itself would read a plain 1
    as 0."""
    out = run_python(
        """
        import importlib.util
        import pathlib

        absent = [name for name in ("cv2", "torchvision") if importlib.util.find_spec(name) is None]

        from mmfree_sims.lava_compat import enable_lava_dl
        assert [name for name in enable_lava_dl() if name in ("cv2", "torchvision")] == absent
        assert enable_lava_dl() == ()
        names = ("cv2", "torchvision")
        assert [name for name in names if importlib.util.find_spec(name) is None] == absent

        import h5py
        import numpy as np
        from lava.lib.dl.netx import hdf5

        path = pathlib.Path(__file__).with_name("ternary.net")
        with h5py.File(path, "w") as file:
            for number, kind, width in ((0, "input", 3), (1, "dense", 2)):
                layer = file.create_group(f"layer/{number}")
                layer["type"] = np.array([kind.encode()])
                layer["shape"] = np.array([width])
                layer["neuron/type"] = np.array([b"SDNN"])
                layer["neuron/vThMant"] = 0
            file["layer/1/weight"] = np.array([[1, 0, -1], [-1, 1, 1]])

        network = hdf5.Network(str(path))
        synapse = network.layers[1].synapse
        print(*network.inp.shape, *network.out.shape)
        print((synapse.weights.init * 2.0 ** synapse.proc_params["weight_exp"]).tolist())
        """
    ).stdout
    assert out == "3 2\n[[1.0, 0.0, -1.0], [-1.0, 1.0, 1.0]]\n"


NO_LAVA = (
    "the lava engine needs lava-nc 0.10.0; install it with the 'lava' extra as docs/install.md says"
)
NO_LAVA_DL = (
    "the lava-dl exchange needs lava-dl 0.6.0; install it with the 'lava-dl' extra as "
    "docs/install.md says"
)


@pytest.mark.parametrize(
    ("absent", "call", "message"),
    [
        ("lava", "enable_lava", NO_LAVA),
        ("scipy", "enable_lava", NO_LAVA),
        ("lava", "enable_lava_dl", NO_LAVA),
        ("lava.lib.dl", "enable_lava_dl", NO_LAVA_DL),
    ],
)
def test_what_is_not_installed(
    absent: str, call: str, message: str, run_python: Callable[..., Any]
) -> None:
    out = run_python(
        f"""
        import sys
        sys.modules["{absent}"] = None  # as if it were not installed
        from mmfree_neuro.errors import EngineError
        from mmfree_sims import lava_compat as compat
        try:
            compat.{call}()
        except EngineError as error:
            print(error)
        """
    ).stdout
    assert out == message + "\n"
