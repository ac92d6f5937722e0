"""Errors that a user can act on.

Every message says who, what it is, and what it must be.  Anything that is not an `MMFreeError` is a
bug of ours.
"""


class MMFreeError(Exception):
    """The user's input cannot be used; the command line prints the message as one line and exits
    with status 2."""


class CheckpointError(MMFreeError):
    """A checkpoint folder is missing something, has something extra, or holds values that cannot be
    used."""


class GraphError(MMFreeError):
    """A graph of integer operations breaks a rule of `nodes`, or a graph file is not one of
    ours."""


class RangeError(MMFreeError):
    """A value or a sum does not fit the width that was declared for it."""


class HardwareError(MMFreeError):
    """A description of a chip or of a system is missing a figure or contradicts itself."""


class CapacityError(MMFreeError):
    """A graph does not fit the cores or the chips that it should be mapped onto."""


class MappingError(MMFreeError):
    """A mapping is not valid for its graph and system, or a mapping file is not one of ours."""


class EngineError(MMFreeError):
    """An engine cannot be used here or was asked for something that it does not do."""


class InputError(MMFreeError):
    """A prompt, a token file, a text or an option cannot be used."""


class RunFailed(Exception):
    """A run began and then died; the command line prints the message and exits with status 1."""


class Served(Exception):
    """This process was a worker of a run that is over; another process has its result."""
