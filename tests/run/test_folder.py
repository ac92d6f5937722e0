"""A run is written inside its folder: alone, where it may be, and beside whatever else is there."""

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import InputError
from mmfree_neuro.run import folder as folders
from mmfree_neuro.run.folder import STATE_FILE, check_output, end_of_state, holds_run, run_folder

Files = Callable[[str], str]
Said = pytest.CaptureFixture[str]
A_RUN = '{"format": "mmfree-neuro run 5"}'
"""How the file of a run of any version begins."""


@pytest.fixture(scope="module")
def files(make_files: Callable[[str, int], Files]) -> Files:
    return make_files("smallest", 2)


def simulate(files: Files, out: Path | str, *more: str) -> list[str]:
    """The command that writes a run of two tokens."""
    what = ("--prompt", "ab", "--new-tokens", "2", "--engine", "fast")
    return ["simulate", files("a16.map"), *what, "-o", str(out), *more]


def made(folder: Path, **contents: str) -> Path:
    """A new folder with files of such contents, their dots written as underscores."""
    folder.mkdir()
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def message(path: Path, *, resume: bool = False) -> str:
    """What is said of a folder where no run can be written."""
    with pytest.raises(InputError) as error:
        check_output(path, resume=resume)
    return str(error.value)


def test_where_a_run_may_be_written(tmp_path: Path) -> None:
    for folder in (
        tmp_path / "new",
        tmp_path / "new" / "deep",
        made(tmp_path / "empty"),
        made(tmp_path / "run", run_json=A_RUN),
        made(tmp_path / "more", run_json=A_RUN, notes_txt="mine"),
        made(tmp_path / "thesis", thesis_tex="all of it"),
    ):
        for resume in (True, False):
            check_output(folder, resume=resume)
    assert not (tmp_path / "new").exists()


def test_an_unfinished_run_is_not_begun_anew(tmp_path: Path) -> None:
    for name, files in (("a", {}), ("b", {"run_json": A_RUN})):
        folder = made(tmp_path / name, state_safetensors="", **files)
        check_output(folder, resume=True)
        assert message(folder) == (
            f"{folder}: holds the state of an unfinished run, must be another folder, or use "
            "--resume"
        )


def test_what_holds_something_else(tmp_path: Path) -> None:
    model = made(tmp_path / "model", config_json="{}")
    other = made(tmp_path / "other", run_json='{"format": "of another program"}')
    device = made(tmp_path / "device")
    (device / "run.json").symlink_to("/dev/null")
    pipe = made(tmp_path / "pipe")
    os.mkfifo(pipe / STATE_FILE)
    held = made(tmp_path / "held")
    (held / "run.json").mkdir()
    for resume in (True, False):
        assert (
            message(model, resume=resume) == f"{model}: holds a checkpoint, must be another folder"
        )
        assert message(other, resume=resume) == (
            f"{other}: has a run.json of something else, must be another folder"
        )
        assert message(device, resume=resume) == (
            f"{device / 'run.json'}: is no regular file, must be a file to write"
        )
        assert message(held, resume=resume) == (
            f"{held / 'run.json'}: is a folder, must be a file to write"
        )
    assert message(pipe, resume=True) == (
        f"{pipe / STATE_FILE}: is no regular file, must be a file to write"
    )


def test_where_no_run_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    long = tmp_path / ("long" * 100)
    for resume in (True, False):
        assert message(file, resume=resume) == (
            f"{file}: is no folder, must be a new or an existing folder"
        )
        assert message(file / "run", resume=resume) == (
            f"{file / 'run'}: cannot be written, since {file} is no folder that can be written to"
        )
        assert message(long, resume=resume) == f"{long}: cannot be written (File name too long)"
        for name, written in (("a\0b", "a\\x00b"), ("a\ud800", "a\\ud800")):
            assert message(Path(name), resume=resume) == (
                f"'{written}': is no name of a file, must not hold a NUL or half a character"
            )


def test_a_run_json_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "run", run_json=A_RUN)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    assert message(folder) == f"{folder}: has a run.json of something else, must be another folder"


def test_other_files_survive(files: Files, tmp_path: Path) -> None:
    """A report in the folder of its run, pictures and notes; only what a run wrote is replaced."""
    out = tmp_path / "run"
    assert main(simulate(files, out)) == 0
    (out / "plots").mkdir()
    (out / "plots" / "mine.txt").write_text("1")
    (out / ".hidden").write_text("2")
    assert main(["report", str(out), "-o", str(out / "report.md")]) == 0
    before = (out / "report.md").read_bytes()
    for more in ([], ["--save-every", "1"]):
        assert main(simulate(files, out, *more)) == 0
        assert (out / "plots" / "mine.txt").read_text() == "1"
        assert (out / ".hidden").read_text() == "2"
        assert (out / "report.md").read_bytes() == before
        assert {path.name for path in out.iterdir()} == {
            "run.json",
            "report.md",
            "plots",
            ".hidden",
        }


def test_what_a_killed_run_was_writing_is_taken_away(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    kept = (".state.txt", "run.json-12", ".notes-1")
    for name in (".run.json-0123456789ab", f".{STATE_FILE}-0123456789ab", ".writing", *kept):
        (folder / name).write_text("")
    with run_folder(folder, resume=False) as inside:
        assert inside == folder
        assert {path.name for path in folder.iterdir()} == {".writing", *kept}
    assert {path.name for path in folder.iterdir()} == set(kept)


def test_a_folder_that_was_made_goes_again_where_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_folder(tmp_path / "deep" / "run", resume=False):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), run_folder(tmp_path / "deep" / "run", resume=False) as folder:
        (folder / STATE_FILE).write_text("saved")
        raise KeyError
    assert (tmp_path / "deep" / "run" / STATE_FILE).read_text() == "saved"
    assert [path.name for path in folder.iterdir()] == [STATE_FILE]


def test_a_run_that_ended_meanwhile_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be written is asked again once the folder is locked."""
    lock = folders.locked

    def after_another(folder: Path) -> object:
        made(folder, state_safetensors="")
        return lock(folder)

    monkeypatch.setattr(folders, "locked", after_another)
    out = tmp_path / "run"
    with pytest.raises(InputError) as error, run_folder(out, resume=False):
        pass
    assert str(error.value) == (
        f"{out}: holds the state of an unfinished run, must be another folder, or use --resume"
    )


def test_what_a_folder_holds(tmp_path: Path) -> None:
    assert not holds_run(tmp_path)
    assert not holds_run(tmp_path / "none")
    assert not holds_run(Path("a\0b"))
    assert holds_run(made(tmp_path / "a", run_json="", state_safetensors=""))
    unfinished = made(tmp_path / "b", state_safetensors="")
    with pytest.raises(InputError) as error:
        holds_run(unfinished)
    assert str(error.value) == (
        f"{unfinished}: its run is unfinished, must be gone on with by --resume"
    )
    with pytest.raises(InputError) as error:
        holds_run(tmp_path / ("long" * 100))
    assert str(error.value) == f"{tmp_path / ('long' * 100)}: not readable (File name too long)"


def test_the_state_of_a_finished_run_goes(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_text("")
    for _ in range(2):
        end_of_state(tmp_path)
        assert not list(tmp_path.iterdir())
    (tmp_path / STATE_FILE).mkdir()
    with pytest.raises(InputError) as error:
        end_of_state(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / STATE_FILE}: cannot be written (")


@pytest.mark.slow
def test_two_processes_into_one_folder(
    files: Files, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"],
    python: tuple[str, ...],
) -> None:  # fmt: skip
    """The second is told who writes there, and what the first has there stays."""
    out = tmp_path / "run"
    command = (*python, "-m", "mmfree_neuro", *simulate(files, out))
    with run_folder(out, resume=False):
        found = start(*command)
        said = found.communicate(timeout=60)
        assert [path.name for path in out.iterdir()] == [".writing"]
    assert said == (
        "",
        f"mmfree-neuro: {out}: is being written to by process {os.getpid()} on {platform.node()}, "
        "must be another folder, or wait for its end\n",
    )
    assert found.returncode == 2
    found = start(*command)
    assert found.communicate(timeout=60)[1] == ""
    assert [path.name for path in out.iterdir()] == ["run.json"]


# Folders of every kind.


def test_into_the_folder_where_one_stands(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(simulate(files, ".")) == 0
        assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "run.json"}


def test_a_link_is_followed_and_stays(files: Files, tmp_path: Path) -> None:
    """Whether what it leads to is there or not."""
    for target in (made(tmp_path / "there"), tmp_path / "not" / "there"):
        link = tmp_path / f"to-{len(target.parts)}"
        link.symlink_to(target)
        for _ in range(2):
            assert main(simulate(files, link)) == 0
            assert link.is_symlink()
            assert [path.name for path in target.iterdir()] == ["run.json"]


def test_nothing_is_readable_that_the_user_keeps_from_others(files: Files, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert main(simulate(files, tmp_path / "run")) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "run" / "run.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "run" / "run.json").chmod(0o640)
    assert main(simulate(files, tmp_path / "run")) == 0
    assert (tmp_path / "run" / "run.json").stat().st_mode & 0o777 == 0o640


NAMESPACE = ("unshare", "--map-root-user", "--mount")


@pytest.fixture(scope="module")
def in_namespace() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """The function that runs a shell script where it may mount; it is skipped where none may."""
    try:
        probe = [*NAMESPACE, "sh", "-c", 'd=$(mktemp -d); mount -t tmpfs none "$d" && umount "$d"; '
                 's=$?; rmdir "$d"; exit $s']  # fmt: skip
        allowed = subprocess.run(probe, check=False, capture_output=True, timeout=20).returncode
    except FileNotFoundError:
        allowed = 1
    if allowed:
        pytest.skip("this system lets nobody mount in a namespace of their own")

    def run(script: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*NAMESPACE, "sh", "-ec", script, "sh", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.slow
def test_into_a_mount_point(
    in_namespace: Callable[..., "subprocess.CompletedProcess[str]"],
    files: Files,
    python: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """What cannot be renamed, such as a volume of a container, holds a run as any folder does."""
    (tmp_path / "mnt").mkdir()
    found = in_namespace(
        'mount -t tmpfs none mnt; "$@"; "$@"; ls -A mnt; cat mnt/run.json > copy.json'
        .replace("mnt", str(tmp_path / "mnt")).replace("copy", str(tmp_path / "copy")),
        *python, "-m", "mmfree_neuro", *simulate(files, tmp_path / "mnt"),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("\nrun.json\n")
    assert json.loads((tmp_path / "copy.json").read_text())["results"][0]["prompt"] == "ab"


@pytest.mark.slow
def test_the_text_is_shown_where_the_run_cannot_be_kept(
    in_namespace: Callable[..., "subprocess.CompletedProcess[str]"],
    files: Files,
    python: tuple[str, ...],
    tmp_path: Path,
    capsys: Said,
) -> None:
    """On a disk with room for a lock, and for nothing else."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    assert main(simulate(files, tmp_path / "run", "--json")) == 0
    text = json.loads(capsys.readouterr().out)["results"][0]["text"]
    found = in_namespace(
        f'mount -t tmpfs -o size=8k none {mnt}; "$@" && exit 9; echo $?; ls -A {mnt}',
        *python, "-m", "mmfree_neuro", *simulate(files, mnt, "--json"),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    *shown, status = found.stdout.splitlines()
    assert json.loads("".join(shown))["results"][0]["text"] == text
    assert status == "1"
    assert found.stderr == (
        f"mmfree-neuro: {mnt / 'run.json'}: cannot be written (No space left on device)\n"
    )


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start(
    in_namespace: Callable[..., "subprocess.CompletedProcess[str]"],
    files: Files,
    python: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """There is no room for the lock, so the run is refused before it begins."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    found = in_namespace(
        f"mount -t tmpfs -o size=4k none {mnt}; head -c 4096 /dev/zero > {mnt}/big; "
        f'"$@" && exit 9; echo $?; ls -A {mnt}',
        *python, "-m", "mmfree_neuro", *simulate(files, mnt),
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "2\nbig\n")
    assert found.stderr == f"mmfree-neuro: {mnt}: cannot be written (No space left on device)\n"


@pytest.mark.slow
def test_where_the_parent_cannot_be_written_to(
    in_namespace: Callable[..., "subprocess.CompletedProcess[str]"],
    files: Files,
    python: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """The folder itself can; one beside it is refused before the run."""
    parent = tmp_path / "parent"
    (parent / "run").mkdir(parents=True)
    mount = (
        f"mount --bind {parent} {parent}; mount -t tmpfs none {parent}/run; "
        f"mount -o remount,bind,ro {parent}; "
    )
    command = (*python, "-m", "mmfree_neuro")
    found = in_namespace(
        f'{mount} "$@"; ls -A {parent}/run', *command, *simulate(files, parent / "run")
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("\nrun.json\n")
    found = in_namespace(
        f'{mount} "$@" && exit 9; echo $?', *command, *simulate(files, parent / "new")
    )
    assert (found.returncode, found.stdout) == (0, "2\n")
    assert found.stderr == (
        f"mmfree-neuro: {parent / 'new'}: cannot be written, since {parent} is no folder that can "
        "be written to\n"
    )
