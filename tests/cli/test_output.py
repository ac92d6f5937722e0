"""What is drawn for people on standard error."""

import io
import sys
from pathlib import Path

import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.cli.output import Bars
from mmfree_neuro.pipeline import convert as converting

CHECKPOINT = Path(__file__).parents[1] / "golden" / "a_h64_l2_v256" / "checkpoint"


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


@pytest.mark.usefixtures("needs_torch")
def test_a_conversion_goes_through_its_stages_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["convert", str(CHECKPOINT), "-o", str(tmp_path / "model.graph")]) == 0
    drawn = terminal.getvalue()
    places = [drawn.index(f"{stage}:") for stage in converting.STAGES]
    assert places == sorted(places)
    assert "done: 100%" in drawn and "6/6" in drawn


def test_a_conversion_that_fails_leaves_its_bar_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["convert", str(tmp_path), "-o", str(tmp_path / "model.graph")]) == 2
    assert "100%" not in terminal.getvalue()
