"""Rows of `bench gpu` as baselines: complete, sourced, and only what a report has a place for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmfree_neuro.baselines import measured
from mmfree_neuro.baselines.published import Baseline
from mmfree_neuro.errors import HardwareError

ROW = {
    "name": "MatMul-free 370M",
    "implementation": "packed",
    "impl": "fast",
    "precision": "2 bit",
    "model": "370m",
    "ternary_synapses": 341_049_344,
    "mode": "generate",
    "batch": 64,
    "sequence_length": 512,
    "tokens_per_s": 50_000.5,
    "millijoule_per_token": 8.5,
    "device": "NVIDIA H200",
    "power": "the GPU",
    "script": "mmfree-neuro bench gpu",
    "commit": "abc",
    "date": "2026-01-02T03:04:05+00:00",
    "weights_bytes": 1,
}

ROWS = "a file of rows of bench gpu"


def text(*changes: dict[str, Any]) -> str:
    """A file of rows, each with fields changed or, where None, left out."""
    rows = [
        {name: value for name, value in (ROW | change).items() if value is not None}
        for change in changes
    ]
    return json.dumps(rows)


def test_a_row_becomes_a_baseline_with_its_source() -> None:
    source = "measured by 'mmfree-neuro bench gpu' at commit abc on 2026-01-02T03:04:05+00:00"
    expected = Baseline(
        "MatMul-free 370M",
        "370m",
        True,
        "packed",
        "2 bit",
        "NVIDIA H200",
        "GPU",
        "generate",
        64,
        512,
        50_000.5,
        8.5,
        "the GPU",
        source,
    )
    assert measured.parse(text({}), "rows.json") == (expected,)


def test_what_a_row_is_of_is_told_by_what_it_measured() -> None:
    mine, opponent, edge = measured.parse(
        text(
            {"model": "my-checkpoint", "ternary_synapses": 1_298_661_376},
            {"impl": "transformer"},
            {"device": "Orin"},
        ),
        "rows.json",
    )
    assert (mine.model, mine.same_architecture) == ("1.3b", True)
    assert not opponent.same_architecture
    assert (mine.device_kind, edge.device_kind) == ("GPU", "edge GPU")


def test_the_latest_row_of_a_point_counts() -> None:
    rows = measured.parse(text({"tokens_per_s": 1}, {"batch": 1}, {"tokens_per_s": 2}), "rows.json")
    assert [(row.batch, row.tokens_per_s) for row in rows] == [(64, 2), (1, 50_000.5)]


def test_a_later_way_to_do_it_takes_the_place_of_an_earlier_one() -> None:
    rows = measured.parse(
        text({}, {"implementation": "packed anew"}, {"impl": "naive", "implementation": "plain"}),
        "rows.json",
    )
    assert [row.implementation for row in rows] == ["packed anew", "plain"]


def test_rows_of_several_devices_stand_beside_each_other_each_with_its_own_commit() -> None:
    rows = measured.parse(
        text({}, {"device": "NVIDIA H100 80GB HBM3", "commit": "def", "date": "2025-01-01"}), "x"
    )
    assert [(row.device, row.source.split(" at ")[1]) for row in rows] == [
        ("NVIDIA H200", "commit abc on 2026-01-02T03:04:05+00:00"),
        ("NVIDIA H100 80GB HBM3", "commit def on 2025-01-01"),
    ]


def test_the_latest_is_told_by_the_date_and_else_by_the_order() -> None:
    early, late = (
        {"date": "2026-01-02", "tokens_per_s": 1},
        {"date": "2026-01-02T00:00:01+00:00", "tokens_per_s": 2},
    )
    for rows in ((early, late), (late, early), (late, early, late)):
        assert [row.tokens_per_s for row in measured.parse(text(*rows), "rows.json")] == [2]


def test_training_and_sizes_without_a_published_model_are_left_out() -> None:
    assert (
        measured.parse(
            text({"mode": "train"}, {"model": "13b", "ternary_synapses": 12_851_609_600}), "x"
        )
        == ()
    )
    assert measured.parse("[]", "x") == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": None}, "device must be a text"),
        ({"commit": ""}, "commit must be a text"),
        ({"script": 3}, "script must be a text"),
        ({"mode": "chat"}, "mode is 'chat', must be one of generate, prefill, train"),
        ({"ternary_synapses": 0}, "ternary_synapses must be a whole number, at least 1"),
        ({"ternary_synapses": True}, "ternary_synapses must be a whole number, at least 1"),
        ({"batch": 0}, "batch must be a whole number, at least 1"),
        ({"tokens_per_s": "fast"}, "tokens_per_s must be a finite number above 0"),
        (
            {"millijoule_per_token": None},
            "millijoule_per_token must be a finite number above 0, or 'not measured'",
        ),
        (
            {"millijoule_per_token": -2.0},
            "millijoule_per_token must be a finite number above 0, or 'not measured'",
        ),
        ({"tokens_per_s": 10**400}, "tokens_per_s must be a finite number above 0"),
        ({"batch": 10**400}, "batch must be a whole number, at least 1"),
        ({"impl": "Transformer"}, "impl is 'Transformer', must be one of fast, naive, transformer"),
        ({"date": "today"}, "date is 'today', must be one such as 2026-01-31T12:00:00+00:00"),
    ],
)
def test_a_malformed_row_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HardwareError) as error:
        measured.parse(text({}, change), "rows.json")
    assert str(error.value) == f"rows.json: row 2: {message}"


@pytest.mark.parametrize("content", ["{}", "[1]", "3"])
def test_a_file_without_rows_is_refused(content: str) -> None:
    with pytest.raises(HardwareError) as error:
        measured.parse(content, "rows.json")
    assert str(error.value) == (
        f"rows.json: not {ROWS}: holds {content}, must hold a list of objects"
    )


def test_a_figure_that_is_no_number_of_json() -> None:
    with pytest.raises(HardwareError) as error:
        measured.parse(text({"millijoule_per_token": math.nan}), "rows.json")
    assert str(error.value) == f"rows.json: not {ROWS}: NaN is no number of JSON, must be finite"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HardwareError) as error:
        measured.parse("[", "rows.json")
    assert str(error.value) == (
        f"rows.json: not {ROWS}, or damaged ('Expecting value: line 1 column 2 (char 1)')"
    )
    with pytest.raises(HardwareError) as error:
        measured.parse("[" * 100_000, "rows.json")
    assert str(error.value) == f"rows.json: nested too deep, must be {ROWS}"
    none = tmp_path / "none.json"
    with pytest.raises(HardwareError) as error:
        measured.load([none])
    assert str(error.value) == f"{none}: no such file, must be {ROWS}"
    none.write_bytes(b"\xff")
    with pytest.raises(HardwareError) as error:
        measured.load([none])
    assert str(error.value) == (
        f"{none}: not {ROWS}, or damaged (\"'utf-8' codec can't decode ...sition 0: invalid start "
        'byte")'
    )
    with pytest.raises(HardwareError) as error:
        measured.load([Path("/dev/zero")])
    assert str(error.value) == f"/dev/zero: not {ROWS}: is a device, must be a regular file"
    with pytest.raises(HardwareError) as error:
        measured.parse("[NaN]", "rows.json")
    assert str(error.value) == (f"rows.json: not {ROWS}: NaN is no number of JSON, must be finite")


def test_rows_of_a_user_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(text({"device": "GPU X"}, {"device": "GPU X", "batch": 1}))
    mine = [
        row.batch for row in measured.load([tmp_path / "rows.json"])[0] if row.device == "GPU X"
    ]
    assert mine == [64, 1]


def test_rows_without_a_place_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(
        text({"mode": "train"}, {}, {"ternary_synapses": 5_000_000})
    )
    assert measured.load([tmp_path / "rows.json"])[1] == [
        "Of 3 rows in rows.json, 2 are not shown: they are of training, or of a model that has "
        "no published size."
    ]
    (tmp_path / "rows.json").write_text(text({}))
    assert measured.load([tmp_path / "rows.json"])[1] == measured.load()[1] == []


def test_devices_and_commits_are_shown_as_what_they_are() -> None:
    (row,) = measured.parse(
        text({"device": "RTX Corinthian", "commit": f"{'0123456789' * 4} dirty"}), "rows.json"
    )
    assert row.device_kind == "GPU"
    assert " at commit 012345678 dirty on " in row.source


def test_a_point_from_several_files_stands_once(tmp_path: Path) -> None:
    own = Path(measured.__file__).with_name("measured.json")
    rows = [row for row in json.loads(own.read_text()) if row["mode"] != "train"]
    copy, mine = tmp_path / "copy.json", tmp_path / "mine.json"
    copy.write_text(json.dumps(rows))
    mine.write_text(json.dumps([rows[0] | {"tokens_per_s": 7.0, "date": "2999-01-01"}]))
    assert measured.load([copy])[0] == measured.load([own, copy, own])[0] == measured.load()[0]
    together = measured.load([mine, mine, copy])[0]
    assert len(together) == len(measured.load()[0])
    assert [row.tokens_per_s for row in together].count(7.0) == 1


def test_the_rows_that_come_with_the_project_are_those_of_the_benchmark() -> None:
    package = Path(measured.__file__).with_name("measured.json")
    shown = Path(__file__).parents[2] / "examples" / "benchmarks" / "results" / "gpu.json"
    assert shown.resolve() == package.resolve()
    points = {
        (
            row["impl"],
            row["device"],
            row["model"],
            row["mode"],
            row["batch"],
            row["sequence_length"],
        )
        for row in json.loads(package.read_text(encoding="utf-8"))
        if row["mode"] != "train" and row["model"] != "13b"
    }
    rows, _ = measured.load()
    assert len(rows) == len(points) > 0
    assert all(
        row.source.startswith("measured by 'mmfree-neuro bench gpu --model ") for row in rows
    )
