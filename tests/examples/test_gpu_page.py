"""The tables of docs/gpu.md and the README are what their rows say, all of one GPU."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def page(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes the tables."""
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    return benchmark_script("gpu_page")


def made_up(impl: str, mode: str, batch: int, length: int, rate: float, **other: Any) -> Row:
    """A row of 370M on an H200."""
    row: Row = {
        "impl": impl,
        "model": "370m",
        "mode": mode,
        "batch": batch,
        "sequence_length": length,
        "ternary_synapses": 341_049_344,
        "tokens_per_s": rate,
        "millijoule_per_token": 1e5 / rate,
        "peak_allocated_bytes": 2.5e8,
        "process_bytes": None,
        "idle_w": 119.6,
        "precision": "8 bit",
        "device": "NVIDIA H200",
        "driver": "1.2",
        "versions": {"torch": "2.11", "triton": "3.6"},
        "commit": 40 * "a",
        "date": "2026-01-02T00:00:00+00:00",
    }
    return row | other


def test_the_pages_are_as_their_rows_say(
    page: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page.main(["--check"]) == 0, capsys.readouterr().out


def test_every_block_of_the_pages_is_filled_but_for_changes(page: ModuleType) -> None:
    blocks = [
        (name, content)
        for path in page.PAGES
        for _, name, content in (
            (found[1], found[2], found[0]) for found in page.BLOCK.finditer(path.read_text("utf-8"))
        )
    ]
    names = ["provenance", "generation", "changes", "prompts", "memory", "training", "losses"]
    names += ["gradients", "others", "summary"]
    assert [name for name, _ in blocks] == names
    assert all("\n\n" in content for name, content in blocks if name != "changes")


def test_losses_that_the_page_names_are_those_of_rows(page: ModuleType) -> None:
    text = page.PAGES[0].read_text(encoding="utf-8")
    rows = page.record.load(page.gpu_training.ROWS)
    naive = {
        (row["learning_rate"], row["seed"], row["moved"]): row["loss"]
        for row in rows
        if row["path"] == page.gpu_training.NAIVE
    }
    for run in ((0.004, 0, 0), (0.004, 0, 1)):
        assert f"{naive[run]:.4f}" in text
    found = {
        row["path"]: row
        for row in page.gpu_training.compared(rows)
        if row["learning_rate"] == page.gpu_training.train.Recipe().learning_rate
    }
    off = {path: row["off"] for path, row in found.items()}
    errors = {path: row["standard_error"] for path, row in found.items() if row["off"]}
    assert len(off) == 4 and all(abs(off[path]) < 3 * error for path, error in errors.items())
    assert abs(off["fused bfloat16"]) < 0.01  # what `train` takes
    for path, error in errors.items():
        assert f"{-100 * off[path]:.2f} ± {100 * error:.2f} %" in text
    assert f"{100 * found['fused bfloat16']['noise']:.2f} % for no reason" in text


def test_the_gpu_beside_sequences_on_chips_is_that_of_rows(page: ModuleType) -> None:
    """docs/steps.md has the rows of record beside what chips are estimated to do."""
    text = (page.ROOT / "docs" / "steps.md").read_text(encoding="utf-8")
    rows = page.Rows(page.record.of_record(page.record.load(page.gpu_picture.ROWS), "H200"))
    ahead = {}
    for batch in (1, 8, 64):
        row = rows.get("fast", "370m", "generate", batch, 512)
        speed, energy = f"{row['tokens_per_s']:,.0f}", page.energy(row["millijoule_per_token"])
        (line,) = (
            line.split(" | ")
            for line in text.splitlines()
            if line.startswith(f"| {batch} | ") and line.endswith(f"| {speed} | {energy[:-3]} |")
        )
        chips = [float(cell.split(" (")[0].replace(",", "")) for cell in (line[1], line[4])]
        ahead[batch] = row["tokens_per_s"] / chips[0], chips[1] / row["millijoule_per_token"]
    assert f"{ahead[1][0]:.0f} times in tokens a second for\none sequence" in text
    assert f"{ahead[64][0]:.0f} times for 64 and" in text
    assert f"{ahead[1][1]:.1f}, {ahead[64][1]:.1f} and" in text


def test_rows_of_one_gpu_alone_stand_in_a_table(page: ModuleType) -> None:
    rows = page.Rows(
        [
            made_up("fast", "generate", 4, 512, 5616.17),
            made_up("fast", "generate", 1, 512, 2834.25),
            made_up("transformer", "generate", 1, 512, 1272.4, peak_allocated_bytes=1e9),
            made_up("transformer", "generate", 1, 4096, 1000.0),
        ]
    )
    assert page.generation(rows).splitlines()[2:] == [
        "| 370M | 1 | 2,834, 35.3 mJ | 5.0 % | 0.25 | 1,272, 78.6 mJ | 19.4 % | 1.00 |",
        "| 370M | 4 | 5,616, 17.8 mJ | 2.5 % | 0.25 | | | |",
        "| 370M | 1, after 4,096 tokens | | | | 1,000, 100 mJ | 22.6 % | 0.25 |",
    ]
    assert page.generation(page.Rows(rows.all[:2])).splitlines()[0] == (
        "| model | batch | this project | of its roofline | GB |"
    )
    assert page.prompts(rows) == ""
    assert page.provenance(rows) == (
        "NVIDIA H200, driver 1.2, torch 2.11, Triton 3.6; idle power 120 to 120 W; 2026-01-02; "
        "rows by commit: aaaaaaaaa 4.\n"
    )
    rows.all[0] |= {"commit": 40 * "c", "date": "2026-01-04T00:00:00+00:00"}
    assert page.provenance(rows).endswith(
        "2026-01-02 to 2026-01-04; rows by commit: aaaaaaaaa 3, ccccccccc 1.\n"
    )


def test_changes_are_those_of_one_gpu_and_two_commits(page: ModuleType) -> None:
    now = [
        made_up("fast", "generate", 1, 512, 5000.0),
        made_up("fast", "generate", 4, 512, 5000.0),
        made_up("fast", "generate", 16, 512, 9000.0),
    ]
    old = {"commit": 40 * "b", "date": "2026-01-01T00:00:00+00:00"}
    earlier = [
        now[0] | old | {"tokens_per_s": 2500.0, "millijoule_per_token": 40.0},
        now[0] | old | {"device": "NVIDIA H100 80GB HBM3"},
        now[1] | {"date": old["date"]},
        now[2] | old | {"device": "NVIDIA H100 80GB HBM3"},
    ]
    assert page.changes(page.Rows(now), [*now, *earlier]).splitlines()[2:] == [
        "| 370M | 1 | bbbbbbbbb | 2,500, 40.0 mJ | 4.5 % | 5,000, 20.0 mJ | 8.9 % | 2.00 |"
    ]


def test_prompts_memory_and_training_of_made_up_rows(page: ModuleType) -> None:
    rows = page.Rows(
        [
            made_up("fast", "prefill", 1, 2048, 600_000.0, process_bytes=1.084e9),
            made_up("fast", "prefill", 1, 500, 200_000.0),
            made_up("transformer", "prefill", 1, 2048, 500_000.0),
            made_up("fast", "train", 8, 2048, 194_713.8, peak_allocated_bytes=5.535e9),
        ]
    )
    assert page.prompts(rows).splitlines()[2:] == [
        "| 370M | 500 | 200,000, 0.50 mJ | |",
        "| 370M | 2,048 | 600,000, 0.17 mJ | 500,000, 0.20 mJ |",
    ]
    assert page.memory(rows).splitlines()[2:] == [
        "| 370M | 2,048 | 0.250 | 1.08 | 0.250 | 0.32 | 4.42 |"
    ]
    assert page.training(rows).splitlines()[2:] == [
        "| 370M, this project | 194,714 | 0.51 mJ | 5.54 GB |",
        "| 370M, reference, fused / plain (H200) | 101,000 / 81,000 | | 18.5 / 24.5 GB |",
    ]
    assert page.summary([rows]).splitlines() == [
        "| 370M on one NVIDIA H200: tokens/s | this project | reference code (H200) |",
        "|---|---:|---:|",
        "| generation, batch 1 | | 18, 7,797 mJ |",
        "| generation, batch 64 | | 1,190, 122 mJ |",
        "| prompt of 16,000 tokens | | 81,800, 3.00 mJ |",
        "| training step, 8 × 2,048 | 194,714, 5.5 GB | 101,000, 18.5 GB |",
    ]


def test_a_line_without_its_opponent_is_of_a_gpu_that_has_both(page: ModuleType) -> None:
    new = page.Rows(
        [
            made_up("fast", "generate", 1, 512, 5000.0),
            made_up("transformer", "generate", 1, 512, 1000.0),
            made_up("fast", "generate", 64, 512, 50_000.0),
        ]
    )
    older = page.Rows(
        [
            made_up("fast", "generate", 64, 512, 40_000.0, device="NVIDIA H100"),
            made_up("transformer", "generate", 64, 512, 30_000.0, device="NVIDIA H100"),
        ]
    )
    lines = page.summary([new, older]).splitlines()
    assert lines[2].startswith("| generation, batch 1 | 5,000, 20.0 mJ | 1,000, 100 mJ |")
    assert lines[3].startswith(
        "| generation, batch 64 (NVIDIA H100) | 40,000, 2.50 mJ | 30,000, 3.33 mJ |"
    )
    assert page.others([new]) == ""
    found = page.others([new, older])
    assert found.startswith("NVIDIA H100, driver ")
    assert "| 370M | 64 | 40,000, 2.50 mJ |" in found
    assert found.count("|---|") == 1


def test_pages_are_written_and_a_second_time_are_as_they_were(
    page: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, rows = tmp_path / "page.md", tmp_path / "rows.json"
    text.write_text("a\n\n<!-- rows: prompts -->\nold\n<!-- end -->\n\nb\n", encoding="utf-8")
    rows.write_text(json.dumps([made_up("fast", "prefill", 1, 500, 1000.0)]), encoding="utf-8")
    monkeypatch.setattr(page, "PAGES", (text,))
    monkeypatch.setattr(page.gpu_picture, "PICTURE", tmp_path / "gpu.png")
    assert page.main(["--rows", str(rows), "--check"]) == 1
    assert capsys.readouterr().out == "page.md: is not as its rows\n"
    assert page.main(["--rows", str(rows)]) == 0
    assert capsys.readouterr().out == "page.md: written\n"
    assert text.read_text(encoding="utf-8") == (
        "a\n\n<!-- rows: prompts -->\n\n"
        "| model | tokens | this project |\n"
        "|---|---:|---:|\n"
        "| 370M | 500 | 1,000, 100 mJ |\n"
        "\n<!-- end -->\n\nb\n"
    )
    assert (tmp_path / "gpu.png").exists()
    more, both = tmp_path / "more.json", ["--rows", str(rows), "--add"]
    more.write_text(json.dumps([made_up("fast", "prefill", 1, 900, 9e3)]), encoding="utf-8")
    assert page.main([*both, str(more)]) == 0
    assert "| 370M | 900 | 9,000, 11.1 mJ |\n" in text.read_text(encoding="utf-8")
    assert len(page.record.load(rows)) == 2
    capsys.readouterr()
    assert page.main(["--rows", str(rows), "--check"]) == 0
    assert page.main(["--rows", str(rows), "--device", "H100"]) == 2
    assert capsys.readouterr().err == f"{rows}: there is no row of such a GPU\n"
