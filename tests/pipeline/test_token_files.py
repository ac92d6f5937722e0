"""Token ids from files: what NumPy writes is read, and nothing is believed of a header that its
file does not hold."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mmfree_neuro.errors import InputError
from mmfree_neuro.model.tokenizer import Spelling
from mmfree_neuro.pipeline.text import calibration_windows, load_tokens

WHAT = "an .npy file of integers [sequences, time]"


def stored(array: NDArray[Any], **how: Any) -> bytes:
    """An array as NumPy writes it."""
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def headed(shape: str, descr: str = "<i8", data: bytes = b"", version: int = 1) -> bytes:
    """A file with this header."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


@pytest.mark.parametrize("kind", ["<i8", ">i8", ">u2", "<u8", "i1", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_integers_of_every_type_and_order(tmp_path: Path, kind: str, order: Any) -> None:
    tokens = np.asarray(np.arange(6).reshape(2, 3), kind, order=order)
    (tmp_path / "x.npy").write_bytes(stored(tokens))
    found = load_tokens(tmp_path / "x.npy")
    assert found.dtype == np.int64
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_single_row_and_a_second_version(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(headed("(3,)", data=np.arange(3).tobytes(), version=2))
    assert load_tokens(tmp_path / "x.npy").tolist() == [[0, 1, 2]]


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", stored(np.arange(3)))
    return file.getvalue()


MAGIC = ", or damaged (\"the magic string is n...93NUMPY', got b'PK\\\\x03\\\\x04\\\\x14\\\\x00'\")"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (stored(np.zeros((2, 3))), ": holds float64 of shape [2, 3]"),
        (stored(np.zeros((2, 3), bool)), ": holds bool of shape [2, 3]"),
        (stored(np.zeros((2, 3), "m8[s]")), ": holds timedelta64[s] of shape [2, 3]"),
        (stored(np.zeros((2, 3), "M8[s]")), ": holds datetime64[s] of shape [2, 3]"),
        (stored(np.array([[None]]), allow_pickle=True), ": holds object of shape [1, 1]"),
        (stored(np.array(3)), ": holds int64 of shape []"),
        (stored(np.zeros((1, 1, 1), int)), ": holds int64 of shape [1, 1, 1]"),
        (
            stored(np.array([(1 << 64) - 1], np.uint64)),
            ": holds 18446744073709551615, must be at most 9223372036854775807",
        ),
        (
            headed("(1000000, 1000000)", data=bytes(8)),
            ": claims 8000000000000 bytes of numbers, has 8, or is cut short",
        ),
        (headed("(-1, -1)"), ": claims 8 bytes of numbers, has 0, or is cut short"),
        (stored(np.arange(3)) + b"!", ": claims 24 bytes of numbers, has 25"),
        (stored(np.arange(3))[:-1], ": claims 24 bytes of numbers, has 23, or is cut short"),
        (headed("(1,)", version=3), ": is of version 3.0, must be 1.0 or 2.0"),
        (b"", ", or damaged ('EOF: reading magic string, expected 8 bytes got 0')"),
    ],
)
def test_what_holds_no_tokens(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load_tokens(path)
    assert str(error.value) == f"{path}: not {WHAT}{problem}"


@pytest.mark.parametrize(
    "content", [zipped(), b"PK junk", headed("x"), headed("(1" + "," * 20_000)], ids=range(4)
)
def test_junk_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Its end is what NumPy says."""
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load_tokens(path)
    assert str(error.value).startswith(f"{path}: not {WHAT}, or damaged (")
    assert "\n" not in str(error.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    for name, problem in (
        ("gone.npy", f"no such file, must be {WHAT}"),
        ("pipe.npy", f"not {WHAT}: is a pipe, must be a regular file"),
        (".", f"not {WHAT}: is a folder, must be a regular file"),
    ):
        with pytest.raises(InputError) as error:
            load_tokens(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: {problem}"


def test_times_are_no_token_ids() -> None:
    with pytest.raises(InputError) as error:
        calibration_windows(np.zeros((4, 9), "m8[s]"), (1, 1), Spelling(256))
    assert str(error.value) == (
        "the token ids are timedelta64[s] [4, 9], must be integers of shape [rows, time] or [time]"
    )
