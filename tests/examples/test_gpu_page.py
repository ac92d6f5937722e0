"""The figures of docs/gpu.md and the README are those of the rows that come with the project."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """All rows of an H100."""
    text = (resources.files("mmfree_neuro.baselines") / "measured.json").read_text(encoding="utf-8")
    return [row for row in json.loads(text) if "H100" in row["device"]]


def _pick(rows: list[Row], impl: str, model: str, mode: str, batch: int, length: int) -> Row:
    wanted = {"impl": impl, "model": model, "mode": mode, "batch": batch, "sequence_length": length}
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_speeds_and_energies_of_the_page(rows: list[Row]) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for row in rows:
        if (row["model"], row["mode"], row["sequence_length"]) == ("370m", "prefill", 2048) or row[
            "model"
        ] == "13b":
            continue  # their memory is on the page, or a speed of one kind
        assert f"{row['tokens_per_s']:,.0f}" in page, row["script"]
        if row["mode"] == "generate" and row["model"] == "370m":
            energy = row["millijoule_per_token"]
            digits = 2 if energy < 10 else 1 if energy < 20 else 0
            assert f" {energy:,.{digits}f} mJ" in page, row["script"]


def test_memory_of_the_page(rows: list[Row]) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for model, name in (("370m", "370M"), ("1.3b", "1.3B"), ("2.7b", "2.7B"), ("13b", "13B shape")):
        peak = _pick(rows, "fast", model, "prefill", 1, 2048)["peak_allocated_bytes"] / 1e9
        assert f"| {name} | {peak:.3f} GB |" in page
    for model in ("370m", "1.3b"):
        peak = _pick(rows, "fast", model, "train", 8, 2048)["peak_allocated_bytes"] / 1e9
        assert f"| {peak:.2f} GB |" in page


def test_figures_of_the_readme(rows: list[Row]) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for impl in ("fast", "transformer"):
        for point in (
            ("generate", 1, 512),
            ("generate", 64, 512),
            ("prefill", 1, 16000),
            ("train", 8, 2048),
        ):
            assert f"{_pick(rows, impl, '370m', *point)['tokens_per_s']:,.0f}" in page


def test_losses_of_the_page() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    results = ROOT / "examples" / "benchmarks" / "results" / "gpu_training.json"
    (row,) = json.loads(results.read_text(encoding="utf-8"))
    assert len(row["losses"]) == 4
    assert all(f"{loss:.4f}" in page for loss in row["losses"].values())
