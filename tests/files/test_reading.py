"""Whatever is wrong with a file from outside becomes one line that names it."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmfree_neuro.errors import GraphError, InputError, RangeError
from mmfree_neuro.files.reading import Misfit, opened, parsed_json, read_bytes, read_json, reading

A_FILE = "a file of ours"


def said(path: Path, problem: BaseException, kind: type[Exception] = InputError) -> str:
    """What the frame makes of what is raised inside it."""
    with pytest.raises(kind) as error, reading(path, InputError, A_FILE):
        raise problem
    return str(error.value)


class PanicException(BaseException):
    """As compiled Rust raises it."""


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (Misfit("it is odd"), "x.map: not a file of ours: it is odd"),
        (FileNotFoundError(2, "No such file"), "x.map: no such file, must be a file of ours"),
        (
            PermissionError(13, "Permission denied"),
            "x.map: not readable as a file of ours (Permission denied)",
        ),
        (OSError("odd"), "x.map: not readable as a file of ours (odd)"),
        (MemoryError(), "x.map: asks for more memory than there is, must be a file of ours"),
        (RecursionError(), "x.map: nested too deep, must be a file of ours"),
        (KeyError("tokens"), """x.map: not a file of ours, or damaged ("'tokens'")"""),
        (StopIteration(), "x.map: not a file of ours, or damaged ('')"),
        (
            AssertionError("no\n\x1b[31m"),
            "x.map: not a file of ours, or damaged ('no\\n\\x1b[31m')",
        ),
        (PanicException("at lib.rs"), "x.map: not a file of ours, or damaged ('at lib.rs')"),
    ],
)
def test_what_goes_wrong_is_one_line(problem: BaseException, expected: str) -> None:
    assert said(Path("x.map"), problem) == expected


def test_a_message_is_cut() -> None:
    line = said(Path("x.map"), ValueError("long" * 1000))
    assert len(line) < 120
    assert line.startswith("x.map: not a file of ours, or damaged ('longlong")


def test_errors_of_ours_keep_their_kind_and_get_the_name() -> None:
    assert said(Path("a"), GraphError("hand: a value"), GraphError) == "a: hand: a value"
    assert said(Path("a"), RangeError("a: odd"), RangeError) == "a: odd"
    # Names that a message does not repeat as they are.
    for path in (Path("a  b"), Path("a\nb"), Path("a\x1bb"), Path("a" * 2000)):
        once = GraphError(f"{path}: is odd")
        assert said(path, once, GraphError) == str(once)
        named = said(path, GraphError("is odd"), GraphError)
        assert named == str(once)


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_ends_a_process_is_no_fault_of_a_file(problem: BaseException) -> None:
    with pytest.raises(type(problem)), reading(Path("a"), InputError, A_FILE):
        raise problem


def misfit(path: Path, **more: bool) -> str:
    """What is said of what is no regular file."""
    with pytest.raises(Misfit) as error, opened(path, **more):
        pass
    return str(error.value)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody writes to the pipe, so whoever opens it to read would wait."""
    os.mkfifo(tmp_path / "pipe")
    before = descriptors()
    assert misfit(tmp_path / "pipe") == "is a pipe, must be a regular file"
    assert misfit(tmp_path) == "is a folder, must be a regular file"
    assert misfit(tmp_path, pipes=True) == "is a folder, must be a regular file"
    assert misfit(Path("/dev/zero")) == "is a device, must be a regular file"
    assert misfit(Path("/dev/null"), pipes=True) == "is a device, must be a regular file"
    assert descriptors() == before


def test_a_socket_is_refused() -> None:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as one:
        path = Path(short) / "s"  # the name of a socket has 107 characters at most
        one.bind(str(path))
        with pytest.raises(InputError) as error:
            read_bytes(path, InputError, A_FILE)
    assert str(error.value) == (
        f"{path}: not readable as a file of ours (No such device or address)"
    )


def test_a_file_is_read_and_closed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    before = descriptors()
    with opened(tmp_path / "a") as file:
        assert file.read() == b"content"
    assert descriptors() == before
    (tmp_path / "link").symlink_to("a")
    assert read_bytes(tmp_path / "link", InputError, A_FILE) == b"content"


def test_a_pipe_may_stand_in_the_place_of_a_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"content")
    os.close(writer)
    with opened(Path(f"/dev/fd/{reader}"), pipes=True) as file:
        assert file.read() == b"content"
    os.close(reader)


def test_how_much_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, InputError, A_FILE, most=5) == b"12345"
    with pytest.raises(InputError) as error:
        read_bytes(path, InputError, A_FILE, most=4)
    assert str(error.value) == f"{path}: not a file of ours: has 5 bytes, must have at most 4"
    # Such a file says that it is empty.
    endless = Path("/proc/self/mountinfo")
    with pytest.raises(InputError) as error:
        read_bytes(endless, InputError, A_FILE, most=4)
    size = len(endless.read_bytes())
    assert str(error.value) == (
        f"{endless}: not a file of ours: has {size} bytes, must have at most 4"
    )


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(InputError) as error:
        read_bytes(Path(name), InputError, A_FILE)
    assert str(error.value).startswith(f"{InputError(name)}: not a file of ours, or damaged (")


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, -0.5, "\\ud800", null]}')
    assert read_json(path, InputError, A_FILE) == {"a": [1, -0.5, "\ud800", None]}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have(number: str, tmp_path: Path) -> None:
    for text in (number, number.encode()):
        with pytest.raises(Misfit) as error:
            parsed_json(text)
        assert str(error.value) == f"{number} is no number of JSON, must be finite"
    (tmp_path / "a").write_text(f'{{"a": {number}}}')
    with pytest.raises(InputError) as read:
        read_json(tmp_path / "a", InputError, A_FILE)
    assert str(read.value) == (
        f"{tmp_path / 'a'}: not a file of ours: {number} is no number of JSON, must be finite"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("3", ": not a file of ours: holds 3, must hold an object"),
        ('["a", [["c"]]]', ": not a file of ours: holds ['a', [[...]]], must hold an object"),
        ("[" * 100_000, ": nested too deep, must be a file of ours"),
        ('{"a": ' * 100_000, ": nested too deep, must be a file of ours"),
        ("", ": not a file of ours, or damaged ("),
        (f"[{'9' * 5000}]", ": not a file of ours, or damaged ("),
        ("\x00", ": not a file of ours, or damaged ("),
    ],
)  # fmt: skip
def test_what_is_no_object_of_json(content: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(content)
    with pytest.raises(InputError) as error:
        read_json(tmp_path / "a", InputError, A_FILE)
    found = str(error.value)
    # The words in brackets are those of the Python at hand.
    assert (found.startswith if expected.endswith("(") else found.__eq__)(
        f"{tmp_path / 'a'}{expected}"
    )


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"\xff": 1}')
    with pytest.raises(InputError) as error:
        read_json(tmp_path / "a", InputError, A_FILE)
    assert str(error.value).startswith(f"{tmp_path / 'a'}: not a file of ours, or damaged (")


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """It has a hole instead of a tebibyte."""
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    loads: tuple[Callable[..., Any], ...] = (read_bytes, read_json)
    for load in loads:
        with pytest.raises(InputError) as error:
            load(path, InputError, A_FILE)
        assert str(error.value) == (
            f"{path}: not a file of ours: has {1 << 40} bytes, must have at most {1 << 30}"
        )
