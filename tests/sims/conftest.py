"""Commands of many processes, which must end by themselves and leave nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

TIMEOUT_S = 60
SOON_S = 5


class Launched:
    """A command in a session of its own, whose processes are known by a variable that they
    inherit."""

    def __init__(
        self,
        process: "subprocess.Popen[str]",
        mark: str,
        left_in_memory: Callable[["Launched"], list[str]],
    ) -> None:
        self.process, self.mark, self._left = (
            process,
            f"MMFREE_TEST={mark}".encode(),
            left_in_memory,
        )

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.living():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.communicate()

    def living(self) -> dict[int, int | None]:
        """The MPI rank of every process of the command that is alive, None where it has none."""
        found: dict[int, int | None] = {}
        for entry in Path("/proc").iterdir():
            try:
                words = (
                    (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
                )
            except OSError:  # it ended meanwhile, or is not ours
                continue
            if self.mark in words:
                ranks = [int(word[9:]) for word in words if word.startswith(b"PMI_RANK=")]
                found[int(entry.name)] = ranks[0] if ranks else None
        return found

    def process_of(self, rank: int) -> int:
        """The process id of a rank."""
        return next(process for process, found in self.living().items() if found == rank)

    def left_in_memory(self) -> list[str]:
        """What of the command's is in shared memory."""
        return self._left(self)

    def end(self, seconds: float = TIMEOUT_S) -> tuple[int, str, str]:
        """Exit status, output and complaint; the command must end by itself."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the command did not end within {seconds} s; alive: {self.living()}")
        return self.process.returncode, out, err

    def assert_nothing_left(self) -> None:
        """No process lives and no memory stays, at most a moment later."""
        end = time.monotonic() + SOON_S
        while time.monotonic() < end and (self.living() or self.left_in_memory()):
            time.sleep(0.02)
        assert self.living() == {}
        assert self.left_in_memory() == []


@pytest.fixture
def launch(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> Callable[..., Launched]:
    """The function that starts a command; `left_in_memory` lists what it has in shared memory."""

    def launched(*command: str | Path, left_in_memory: Callable[[Launched], list[str]]) -> Launched:
        process = start(*command, MMFREE_TEST=str(tmp_path))
        return Launched(process, str(tmp_path), left_in_memory)

    return launched


IN_NAMESPACE = """
mount -t tmpfs -o "$1" none /dev/shm
mount -t tmpfs none /mnt
keep() {
    case "$1" in /tmp/*) mkdir -p "/mnt/${1#/tmp/}"; mount --rbind "$1" "/mnt/${1#/tmp/}";; esac
}
keep "$2"; keep "$3"; keep "$4"
mount --rbind /mnt /tmp
shift 4
exec "$@"
"""


@pytest.fixture
def namespace(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """The function that gives the command before a command that is to have a /dev/shm of its own,
    mounted with some options, and an empty /tmp, but for what the tests need of it."""
    apart = ("unshare", "--map-root-user", "--mount")
    if shutil.which("unshare") is None:
        pytest.skip("needs the command unshare to make a mount namespace")
    tried = subprocess.run(
        [*apart, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("needs the right to make a mount namespace")
    kept = str(Path(__file__).parents[2]), str(tmp_path.parent), sys.prefix
    return lambda options: (*apart, "sh", "-ec", IN_NAMESPACE, "sh", options, *kept)
