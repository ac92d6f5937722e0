"""A file is written whole or not at all, and only where it can and may be."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from mmfree_neuro.errors import InputError
from mmfree_neuro.files import writing
from mmfree_neuro.files.writing import (
    check_folder,
    check_outputs,
    made_folder,
    mount_points,
    save_array,
    save_text,
    whole_file,
    written,
)


def message(path: Path) -> str:
    """What is said, before the work and when it is written, of a file that cannot be."""
    with pytest.raises(InputError) as before:
        check_outputs([path])
    with pytest.raises(InputError) as then, whole_file(path):
        pytest.fail("the work began")
    assert str(before.value) == str(then.value)
    return str(before.value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), whole_file(path) as scratch:
        scratch.write_text("half")
        raise KeyError
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
    for durable in (False, True):
        with whole_file(path, durable=durable) as scratch:
            assert scratch.parent == tmp_path
            scratch.write_text(f"new {durable}")
        assert [p.read_text() for p in tmp_path.iterdir()] == [f"new {durable}"]


def test_folders_are_made_and_go_again_where_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with pytest.raises(KeyError), whole_file(path):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), whole_file(path):
        (tmp_path / "deep" / "of another").write_text("kept")
        raise KeyError
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["of another"]
    save_text(path, "new")
    assert path.read_text() == "new"


def test_a_long_name_has_a_temporary_name(tmp_path: Path) -> None:
    """A name has 255 bytes at most, whatever characters they are."""
    for name in ("n" * 255, "ü" * 127, "文" * 85, "😀" * 63, "\udcff" * 255):
        save_text(tmp_path / name, name[:0])
    assert len(list(tmp_path.iterdir())) == 5


def test_modes(tmp_path: Path) -> None:
    """A new file has the mode that the umask leaves, an older one keeps its own."""
    before = os.umask(0o077)
    try:
        save_text(tmp_path / "new" / "a", "")
        os.umask(0o022)
        save_text(tmp_path / "b", "")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "new"), mode(tmp_path / "new" / "a")) == (0o700, 0o600)
    assert mode(tmp_path / "b") == 0o644
    for own in (0o600, 0o751, 0o664):
        (tmp_path / "b").chmod(own)
        save_text(tmp_path / "b", "again")
        assert mode(tmp_path / "b") == own


def test_where_all_files_have_one_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none can be given another."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    save_text(tmp_path / "a", "old")
    monkeypatch.setattr(Path, "chmod", refuse)
    save_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_text("old")
    for name, target in (("old", "there/a"), ("new", "there/b"), ("far", "not/there/c")):
        (tmp_path / name).symlink_to(target)
        save_text(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text() == name
    (tmp_path / "turning").symlink_to("turning")
    assert message(tmp_path / "turning") == (
        f"{tmp_path / 'turning'}: is a link that leads in a circle, must be a file to write"
    )
    assert (tmp_path / "turning").is_symlink()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file / "a", file / "a" / "b"):
        assert message(path) == (
            f"{path}: cannot be written, since {file} is no folder that can be written to"
        )
    assert message(tmp_path) == f"{tmp_path}: is a folder, must be a file to write"
    long = tmp_path / ("long" * 100)
    assert message(long) == f"{long}: cannot be written (File name too long)"


@pytest.mark.parametrize(("name", "said"), [("a\0b", "'a\\x00b'"), ("a\ud800b", "'a\\ud800b'")])
def test_names_that_no_file_can_have(name: str, said: str) -> None:
    expected = f"{said}: is no name of a file, must not hold a NUL or half a character"
    assert message(Path(name)) == expected
    with pytest.raises(InputError) as error:
        check_folder(Path("a"), Path(name))
    assert str(error.value) == expected


def test_devices_and_pipes_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/stdout"), tmp_path / "link"):
        if not path.is_file():
            assert message(path) == f"{path}: is no regular file, must be a file to write"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_file_that_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can take its place."""
    path = tmp_path / "a"
    path.write_text("")
    monkeypatch.setattr(writing, "mount_points", lambda: frozenset([str(path)]))
    assert message(path) == f"{path}: is mounted by itself, must be a file in a folder"


def test_mount_points(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "/" in mount_points()
    lines = b"""\
30 25 0:5 / /a\\040folder\\134 rw shared:3 - tmpfs none rw
31 25 0:6 / /\xc3\xbcber\xff ro - ext4 /dev/sda ro
"""
    monkeypatch.setattr(Path, "read_bytes", lambda _path: lines)
    assert mount_points() == {"/a folder\\", "/über\udcff"}

    def refuse(_path: Path) -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert mount_points() == frozenset()


def test_outputs_are_no_inputs_and_none_is_written_twice(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "soft").symlink_to("a")
    (tmp_path / "folder").mkdir()
    others = [tmp_path / name for name in ("a", "hard", "soft", "folder/../a")]
    for other in others:
        inputs = (path for path in (None, tmp_path / "b", other))
        with pytest.raises(InputError) as error:
            check_outputs([None, tmp_path / "new", tmp_path / "a"], inputs)
        assert str(error.value) == (
            f"{tmp_path / 'a'}: is read by this command, must be another file to write"
        )
        with pytest.raises(InputError) as error:
            check_outputs([tmp_path / "a", None, other])
        assert str(error.value) == f"{other}: would be written twice, must be a file of its own"
    with pytest.raises(InputError) as error:
        check_outputs([tmp_path / "new", tmp_path / "folder" / ".." / "new"])
    assert str(error.value) == (
        f"{tmp_path / 'folder' / '..' / 'new'}: would be written twice, must be a file of its own"
    )
    check_outputs([tmp_path / "new", None], [tmp_path / "a", None, Path("a\0b"), Path("\ud800")])
    check_outputs([], [Path("a\0b")])


def test_what_the_system_refuses(tmp_path: Path) -> None:
    for problem, why in (
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
    ):
        with pytest.raises(InputError) as error, written(tmp_path):
            raise problem
        assert str(error.value) == f"{tmp_path}: cannot be written ({why})"
    with pytest.raises(InputError) as error, made_folder(Path("/proc/none/at/all")):
        pass
    assert str(error.value).startswith("/proc/none/at/all: cannot be written (")


def test_texts_and_arrays(tmp_path: Path) -> None:
    save_text(tmp_path / "a", "ä \ud800\udfff")
    assert (tmp_path / "a").read_bytes() == "ä \\ud800\\udfff".encode()
    save_array(tmp_path / "b.npy", np.arange(6).reshape(2, 3)[:, ::2])
    assert np.load(tmp_path / "b.npy").tolist() == [[0, 2], [3, 5]]


def test_an_array_on_a_full_disk(tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"],
                                 python: tuple[str, ...]) -> None:  # fmt: skip
    """NumPy's own message would be `0 requested and 1 written`."""
    program = (
        "import resource, sys; from pathlib import Path; import numpy as np; "
        "from mmfree_neuro.files.writing import save_array; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: save_array(Path(sys.argv[1]), np.zeros(10000))\n"
        "except Exception as error: print(error)"
    )
    out, err = start(*python, "-c", program, tmp_path / "a.npy").communicate(timeout=60)
    assert (out, err) == (f"{tmp_path / 'a.npy'}: cannot be written (File too large)\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else here")
def test_a_folder_of_somebody_else(
    start: Callable[..., "subprocess.Popen[str]"], python: tuple[str, ...]
) -> None:
    """As anybody but root sees it."""
    program = (
        "import os, sys; from pathlib import Path; "
        "from mmfree_neuro.files.writing import check_outputs; "
        "from mmfree_neuro.pipeline.opened import files_behind\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: check_outputs([Path(sys.argv[1])], files_behind(Path(sys.argv[2])))\n"
        "except Exception as error: print(error)"
    )
    # The folders of pytest let nobody else through.
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        open_folder, closed = parent / "open", parent / "closed"
        open_folder.mkdir()
        open_folder.chmod(0o777)
        closed.mkdir(mode=0o755)
        dark = parent / "dark"
        dark.mkdir()
        dark.chmod(0o711)
        protected = open_folder / "protected"
        protected.touch(0o444)
        parent.chmod(0o755)
        closed_to_all = f"{closed} is no folder that can be written to"
        unreadable = f"{dark}: not readable as a file or folder to read from (Permission denied)\n"
        for output, source, said in (
            (open_folder / "a", open_folder, ""),
            (
                closed / "a",
                open_folder,
                f"{closed / 'a'}: cannot be written, since {closed_to_all}\n",
            ),
            (
                protected,
                open_folder,
                f"{protected}: is protected, must be a file that may be written to\n",
            ),
            (open_folder / "a", dark, unreadable),
        ):
            out, err = start(*python, "-c", program, output, source).communicate(timeout=60)
            assert (out, err) == (said, "")
