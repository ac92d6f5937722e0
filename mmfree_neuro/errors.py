"""Errors that a user can act on, and how what comes from outside is shown in them.

Every message says who, what it is, and what it must be.  Anything that is not an `MMFreeError` is a
bug of ours.
"""

import re
from reprlib import Repr

LONGEST_MESSAGE = 1000
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What moves a cursor, colours a terminal, ends a line or turns the direction of writing; line feed
and tab are not among them."""


def printable(text: str) -> str:
    """Text from outside, as a terminal may see it: control characters become their escapes."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlong = 40
_SHORT.maxlevel = 2


def shown(value: object) -> str:
    """A value from outside in a message: cut, and printable."""
    return printable(_SHORT.repr(value))


class MMFreeError(Exception):
    """The user's input cannot be used; the command line prints the message as one line and exits
    with status 2.

    The message is one printable line, and of one that is too long the middle is left out.
    """

    def __init__(self, message: str) -> None:
        line = printable(" ".join(message.split()))
        if len(line) > LONGEST_MESSAGE:
            line = f"{line[: LONGEST_MESSAGE // 2]} … {line[-LONGEST_MESSAGE // 2 :]}"
        super().__init__(line)


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


class ImageError(MMFreeError):
    """A machine image is damaged, breaks a rule of the machine, or stopped with a trap."""


class EngineError(MMFreeError):
    """An engine cannot be used here or was asked for something that it does not do."""


class InputError(MMFreeError):
    """A prompt, a token file, a text or an option cannot be used."""


class RunFailed(Exception):
    """A run began and then died; the command line prints the message and exits with status 1."""


class Served(Exception):
    """This process was a worker of a run that is over; another process has its result."""
