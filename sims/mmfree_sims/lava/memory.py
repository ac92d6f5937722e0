"""Memory and semaphores that forked processes share, without a name anywhere.

What Python's multiprocessing offers lies in /dev/shm, with a name that outlives a killed program,
and needs a manager, its socket in the temporary folder, and descriptors.  This memory is made
before a fork, needs none of these, and is gone when the last process that has it has ended.
"""

import ctypes
import errno
import mmap
import os

from mmfree_neuro.errors import EngineError

_SEMAPHORE_BYTES = 128
"""More than a `sem_t` takes on any Linux."""
_LIBC = ctypes.CDLL(None, use_errno=True)


def anonymous(size: int) -> mmap.mmap:
    """Zeroed memory of at least one byte; EngineError where there is none."""
    try:
        return mmap.mmap(-1, max(1, size))
    except (OSError, MemoryError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise EngineError(
            f"the lava engine needs {size} bytes of memory that its processes share, must be "
            f"allowed that much ({why})"
        ) from None


class Block:
    """Memory under the names that Lava's ports use."""

    def __init__(self, size: int) -> None:
        self.buf = memoryview(anonymous(size))


class Semaphore:
    """A counter, at first 0, that processes wait for to be positive."""

    def __init__(self) -> None:
        self._counter = (ctypes.c_char * _SEMAPHORE_BYTES).from_buffer(anonymous(_SEMAPHORE_BYTES))
        _LIBC.sem_init(self._counter, 1, 0)

    def acquire(self) -> bool:
        """Wait until the counter is positive, and take one from it."""
        while _LIBC.sem_wait(self._counter):
            if ctypes.get_errno() != errno.EINTR:  # a signal came, and Python has handled it
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return True

    def release(self) -> None:
        """Add one to the counter."""
        _LIBC.sem_post(self._counter)
