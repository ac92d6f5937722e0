"""Text to train on: which bytes are trained on, which are held out, and what is not a text."""

import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro.errors import InputError
from mmfree_neuro.model.corpus import files_of, from_file, from_folder, is_held_out, load, windows


def sources(folder: Path, *modules: str) -> Path:
    """A folder of sources that hold their own names."""
    for module in modules:
        path = folder / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(module))
    return folder


def held_out_names(count: int) -> list[str]:
    return [name for name in (f"m{n:04}.py" for n in range(2000)) if is_held_out(name)][:count]


def test_about_one_module_in_twenty_is_held_out() -> None:
    share = np.mean([is_held_out(f"package/module{n}.py") for n in range(10_000)])
    assert 0.045 < share < 0.055


def test_the_split_depends_on_the_name_alone() -> None:
    # SHA-256 of these paths, first 8 bytes, big-endian, modulo 20; the same on every machine and
    # Python.
    names = ("argparse.py", "json/decoder.py", "m0028.py", "m0029.py")
    assert [is_held_out(name) for name in names] == [False, False, True, True]


def test_a_folder_is_split_by_module_in_the_order_of_names(tmp_path: Path) -> None:
    held = held_out_names(2)
    modules = ["b/x.py", "a.py", *reversed(held)]
    corpus = from_folder(sources(tmp_path, *modules), "mine")
    assert corpus.train.tobytes() == b"\0a.py\0b/x.py"
    assert corpus.held_out.tobytes() == b"".join(b"\0" + name.encode() for name in held)
    assert corpus.description == "mine"
    assert corpus.train.dtype == corpus.held_out.dtype == np.uint8


def test_installed_packages_and_other_files_do_not_count(tmp_path: Path) -> None:
    modules = (
        "a.py",
        "notes.txt",
        "site-packages/p.py",
        "x/dist-packages/p.py",
        "__pycache__/p.py",
    )
    corpus = from_folder(
        sources(tmp_path / "site-packages", *modules, held_out_names(1)[0]), "mine"
    )
    assert corpus.train.tobytes() == b"\0a.py"


@pytest.mark.parametrize("held_out", [True, False])
def test_a_folder_with_too_few_modules(tmp_path: Path, held_out: bool) -> None:
    sources(tmp_path, held_out_names(1)[0] if held_out else "a.py")
    with pytest.raises(InputError) as error:
        from_folder(tmp_path, "mine")
    assert (
        str(error.value)
        == f"{tmp_path}: too few Python sources to train on some and hold out others"
    )


@pytest.mark.parametrize(("size", "cut"), [(40, 38), (59, 57), (60, 57), (1000, 950)])
def test_the_last_twentieth_of_a_file_is_held_out(tmp_path: Path, size: int, cut: int) -> None:
    text = bytes(n % 251 for n in range(size))
    (tmp_path / "book.txt").write_bytes(text)
    corpus = from_file(tmp_path / "book.txt")
    assert (corpus.train.tobytes(), corpus.held_out.tobytes()) == (text[:cut], text[cut:])
    assert corpus.description == "book.txt"


def test_a_short_file(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"x" * 39)
    with pytest.raises(InputError) as error:
        from_file(tmp_path / "short.txt")
    assert str(error.value) == f"{tmp_path}/short.txt: 39 bytes, must have at least 40"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load(str(tmp_path / "gone.txt"))
    assert str(error.value) == f"{tmp_path}/gone.txt: no such file, must be a text file"


def test_a_text_that_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(InputError) as error:
            load(str(path))
        assert str(error.value) == f"{path}: not a text file: is {kind}, must be a regular file"


def test_a_module_whose_name_is_no_text(tmp_path: Path) -> None:
    sources(tmp_path, held_out_names(1)[0], os.fsdecode(b"caf\xe9.py"))
    assert load(str(tmp_path)).train.size > 0


def test_load_by_name(tmp_path: Path) -> None:
    sources(tmp_path / "project", "a.py", held_out_names(1)[0])
    assert load(str(tmp_path / "project")).description == "the Python sources of project"
    (tmp_path / "book.txt").write_bytes(b"x" * 40)
    assert load(str(tmp_path / "book.txt")).description == "book.txt"


def test_the_standard_library() -> None:
    corpus = load("stdlib")
    assert corpus.description == f"the standard library of Python {sysconfig.get_python_version()}"
    assert corpus.train.size > 5_000_000
    assert 0.01 < corpus.held_out.size / corpus.train.size < 0.12
    assert corpus.train[0] == corpus.held_out[0] == 0


def test_windows_by_hand() -> None:
    text = np.arange(10, dtype=np.uint8)
    assert windows(text, 3, 2).tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert windows(text, 3, 9).tolist() == [
        [0, 1, 2, 3],
        [3, 4, 5, 6],
        [6, 7, 8, 9],
    ]  # as many as it holds
    assert windows(text, 9, 1).tolist() == [list(range(10))]
    assert windows(text, 3, 1).dtype == np.int64


@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 12))
def test_windows_never_share_a_predicted_byte(size: int, length: int, count: int) -> None:
    if size <= length:
        return
    found = windows((np.arange(size) % 256).astype(np.uint8), length, count)
    assert found.shape == (min(count, (size - 1) // length), length + 1)
    starts = np.unwrap(found[:, 0], period=256) if len(found) > 1 and size > 256 else found[:, 0]
    assert (np.diff(found, axis=1) % 256 == 1).all()
    if size <= 256:
        assert (np.diff(starts) >= length).all()


@pytest.mark.parametrize("size", [0, 1, 8])
def test_a_text_without_a_window(size: int) -> None:
    with pytest.raises(InputError) as error:
        windows(np.zeros(size, np.uint8), 8, 4)
    assert (
        str(error.value)
        == f"the held-out text has {size} tokens, must have more than one window of 8"
    )


def test_a_name_that_no_file_can_have() -> None:
    name = "x" * 5000
    assert files_of(name) == [Path(name)]
    with pytest.raises(InputError, match=r" \(File name too long\)$"):
        load(name)
