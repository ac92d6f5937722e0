"""What lava-dl computes must be our integers. Each run has a fresh interpreter, as the repairs
precede Lava."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfree_neuro.errors import EngineError, InputError
from mmfree_sims.lava_dl import export_dense

pytestmark = pytest.mark.lava

NO_H5PY = (
    "the lava-dl exchange needs h5py; install it with the 'lava-dl' extra as docs/install.md says"
)
SCRIPT = """
import sys
from pathlib import Path

from mmfree_sims.lava_compat import enable_lava_dl
enable_lava_dl()

import numpy as np
from lava.lib.dl.netx import hdf5
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.dense.process import Dense
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source

folder = Path(sys.argv[1])


def sums(inp, out, messages):
    source, sink = Source(data=messages.T), Sink(shape=out.shape, buffer=len(messages) + 1)
    source.s_out.connect(inp)
    out.connect(sink.a_in)
    condition = RunSteps(num_steps=len(messages) + 1)
    sink.run(condition=condition, run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    sent = sink.data.get()[:, 1:].T
    sink.stop()
    assert (sent == sent.astype(np.int64)).all()
    return sent.astype(np.int64)


if __name__ == "__main__":
    values = np.load(folder / "values.npy")
    network = hdf5.Network(net_config=str(folder / "layer.net"), input_message_bits=8)
    np.save(folder / "netx.npy", sums(network.inp, network.out, np.diff(values, axis=0, prepend=0)))
    codes = np.load(folder / "matrix.npy").astype(np.int64)
    dense = Dense(weights=2 * codes, weight_exp=-1, num_message_bits=8)
    np.save(folder / "dense.npy", sums(dense.s_in, dense.a_out, values))
"""


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[1, 0, -1], [-1, 1, 1]], np.int8),
        np.array(
            [[1, 0, 1], [0, 0, 1]], np.int8
        ),  # netx chooses another encoding where no entry is negative
        np.random.default_rng(1).integers(-1, 2, (40, 300)).astype(np.int8),
    ],
    ids=["by hand", "no negative entry", "40 x 300"],
)
def test_netx_computes_our_integers(
    matrix: np.ndarray, tmp_path: Path, run_python: Callable[..., Any], needs_lava_dl: None
) -> None:
    values = np.random.default_rng(2).integers(-128, 128, (3, matrix.shape[1]))
    values[0], values[1] = (
        np.where(matrix[0] < 0, -128, 127),
        -128,
    )  # a largest sum, then the lowest values
    export_dense(matrix, tmp_path / "layer.net")
    np.save(tmp_path / "matrix.npy", matrix)
    np.save(tmp_path / "values.npy", values)
    run_python(SCRIPT, tmp_path)
    expected = np.stack([matrix.astype(np.int64) @ q for q in values])
    assert np.array_equal(np.load(tmp_path / "netx.npy"), expected)
    assert np.array_equal(np.load(tmp_path / "dense.npy"), expected)


def test_the_file_holds_the_codes_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    matrix = np.array([[1, 0, -1], [-1, 1, 1]], np.int8)
    export_dense(matrix, tmp_path / "new" / "layer.net")
    with h5py.File(tmp_path / "new" / "layer.net") as file:
        assert file["layer/1/weight"][()].tolist() == [[1, 0, -1], [-1, 1, 1]]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["layer.net"]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.array([[1, 2]], np.int8), "the matrix holds 2, must hold only -1, 0 and 1"),
        (np.array([[1, -128]], np.int8), "the matrix holds -128, must hold only -1, 0 and 1"),
        (np.array([[1, 0.5]]), "the matrix holds 0.5, must hold only -1, 0 and 1"),
        (
            np.array([[-1, 0]], np.int8),
            "the matrix holds no 1, must hold one: netx scales the weights by the largest",
        ),
        (
            np.ones(3, np.int8),
            "the matrix has shape [3], must be [out, in] with at least one entry",
        ),
        (
            np.ones((0, 3), np.int8),
            "the matrix has shape [0, 3], must be [out, in] with at least one entry",
        ),
        (
            np.ones((1, 131072), np.int8),
            "a row of the matrix has 131072 entries other than 0, must have at most 131071 for "
            "netx",
        ),
    ],
)
def test_what_netx_cannot_hold_is_refused(matrix: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        export_dense(matrix, tmp_path / "layer.net")
    assert str(raised.value) == message
    assert not list(tmp_path.iterdir())


def test_without_h5py(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)  # as if it were not installed
    with pytest.raises(EngineError) as raised:
        export_dense(np.ones((1, 1), np.int8), tmp_path / "layer.net")
    assert str(raised.value) == NO_H5PY
    assert not list(tmp_path.iterdir())
