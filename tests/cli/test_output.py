"""What is drawn for people on standard error."""

import io
import sys

import pytest

from mmfree_neuro.cli.output import Bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However soon the end comes after what was drawn before."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bars = Bars()
    for done in (4, 10):
        bars.show("prefill", done, 10, ())
    assert "100%" in terminal.getvalue()
    bars.show("generate", 1, 3, (7,))
    bars.close()
