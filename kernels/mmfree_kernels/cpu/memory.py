"""Memory of arrays that are made and dropped for every token."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
LARGEST_REUSED = 32 << 20
"""What the GNU C library allows: larger blocks come straight from the operating system."""
KEPT = 256 << 20


def keep_freed() -> None:
    """Let this process keep the memory of dropped arrays, where its C library can be told so.

    Otherwise every array of some size is fresh memory, which the operating system clears page by
    page at first touch: that took a third of the time of a prefill.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGEST_REUSED)
        library.mallopt(_TRIM_THRESHOLD, KEPT)
