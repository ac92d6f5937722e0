"""Notices that nothing moves any more, and names the processes that are to blame.

A run that computes for long is slow, not silent. To blame is a process that was stopped, or that
has not had the processor for as long as nothing has moved.
"""

import logging
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

SILENT_SECONDS = 30.0
LOOK_SECONDS = 0.5
"""How often to look.  A longer time between two looks does not count: this process was stopped,
too."""
_LOG = logging.getLogger("mmfree_neuro")


def _state(process: int) -> tuple[str, int]:
    """The state of a process, and a number that grows while it has the processor; none where it has
    ended."""
    folder = Path(f"/proc/{process}")
    try:
        text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", 0
    words = text.rpartition(")")[2].split()
    worked = int(words[11]) + int(words[12])  # in hundredths of a second, of all its threads
    with suppress(OSError, ValueError):  # and in nanoseconds, of its first
        worked += int((folder / "schedstat").read_text(encoding="ascii").split()[0])
    return words[0], worked


class Silence:
    """For how long nothing has moved."""

    def __init__(self) -> None:
        self.moved: object = None
        self.looked = time.monotonic()
        self.quiet_s = 0.0
        self.before: dict[int, int] = {}
        self.told: set[int] = set()

    def look(
        self, moved: object, at_work: Collection[int], names: Mapping[int, str]
    ) -> dict[int, str]:
        """What to tell of the processes in `names` that have now been silent for too long.

        `moved` is another value whenever something has moved, such as a number of packets.  Those
        `at_work` look for a packet all the time, or compute; the others may have nothing to do.
        """
        since = time.monotonic() - self.looked
        if since < LOOK_SECONDS:
            return {}
        self.looked += since
        if moved != self.moved or not self.before:
            self.moved, self.quiet_s, self.told = moved, 0.0, set()
            self.before = {process: _state(process)[1] for process in names}
            return {}
        self.quiet_s += min(since, 2 * LOOK_SECONDS)
        if self.quiet_s < SILENT_SECONDS:
            return {}
        return {
            process: f"{name} has sent nothing for {self.quiet_s:.0f} s: {why}"
            for process, name in names.items()
            if process not in self.told and (why := self._why(process, process in at_work))
        }

    def _why(self, process: int, at_work: bool) -> str:
        state, worked = _state(process)
        if state in ("T", "t"):
            return f"it is stopped, and goes on after kill -CONT {process}"
        if state and at_work and worked == self.before.get(process):
            return "it waits for something that does not come"
        return ""

    def tell(self, blamed: Mapping[int, str]) -> None:
        """Tell the user, once."""
        for process, text in blamed.items():
            self.told.add(process)
            _LOG.warning("mmfree-neuro: %s", text)
