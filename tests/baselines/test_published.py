"""The rows to compare with: complete, sourced, and beside a run only where they belong."""

import re
from pathlib import Path

import pytest

from mmfree_neuro.baselines import published
from mmfree_neuro.baselines.compared import Figures, Ours
from mmfree_neuro.baselines.published import SYNAPSES, Baseline
from mmfree_neuro.errors import HardwareError
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary

SERIES = {
    "name": '"Net 1B"',
    "model": '"370m"',
    "same_architecture": "false",
    "implementation": '"code"',
    "precision": '"bf16"',
    "device": '"GPU X"',
    "device_kind": '"GPU"',
    "mode": '"generate"',
    "power": '"the GPU"',
    "source": '"a paper, Table 1"',
}
RESULT = {"batch": "1", "sequence_length": "0", "tokens_per_s": "20", "millijoule_per_token": "1.5"}


def text(**changes: str | None) -> str:
    """A file of one row, with fields changed or, where None, left out."""
    fields = {name: changes.get(name, value) for name, value in (SERIES | RESULT).items()}
    fields |= {name: value for name, value in changes.items() if name not in fields}
    shared = [
        f"{name} = {value}"
        for name, value in fields.items()
        if value is not None and name not in RESULT
    ]
    result = ", ".join(
        f"{name} = {value}"
        for name, value in fields.items()
        if value is not None and name in RESULT
    )
    return "\n".join(["[[series]]", *shared, f"results = [{{ {result} }}]"])


def summary(synapses: int) -> GraphSummary:
    """A model of so many ternary synapses in two nodes."""
    nodes = tuple(
        NodeSummary(name, "Head", 1, None, 1, {}, count, count)
        for name, count in (("a", 1000), ("b", synapses - 1000))
    )
    return GraphSummary("net", "a16", 1, 2, 32, {}, nodes)


def row(**changes: object) -> Baseline:
    """A row made by hand."""
    fields: dict[str, object] = {
        "name": "Net",
        "model": "370m",
        "same_architecture": False,
        "implementation": "code",
        "precision": "bf16",
        "device": "GPU X",
        "device_kind": "GPU",
        "mode": "generate",
        "batch": 1,
        "sequence_length": 500,
        "tokens_per_s": 10.0,
        "millijoule_per_token": 100.0,
        "power": "the GPU",
        "source": "a paper",
    }
    return Baseline(**(fields | changes))  # type: ignore[arg-type]


def test_a_result_takes_what_its_series_shares() -> None:
    expected = Baseline(
        "Net 1B",
        "370m",
        False,
        "code",
        "bf16",
        "GPU X",
        "GPU",
        "generate",
        1,
        0,
        20,
        1.5,
        "the GPU",
        "a paper, Table 1",
    )
    assert published.parse(text(), "rows.toml") == (expected,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": None}, "source must be a text"),
        ({"source": '""'}, "source must be a text"),
        ({"power": "3"}, "power must be a text"),
        ({"same_architecture": '"yes"'}, "same_architecture must be true or false"),
        ({"batch": None}, "batch must be a whole number, at least 1"),
        ({"batch": "0"}, "batch must be a whole number, at least 1"),
        ({"batch": "true"}, "batch must be a whole number, at least 1"),
        ({"sequence_length": "-1"}, "sequence_length must be a whole number, at least 0"),
        ({"tokens_per_s": '"fast"'}, "tokens_per_s must be a finite number above 0"),
        (
            {"millijoule_per_token": None},
            "millijoule_per_token must be a finite number above 0, or 'not measured'",
        ),
        (
            {"millijoule_per_token": "0"},
            "millijoule_per_token must be a finite number above 0, or 'not measured'",
        ),
        (
            {"millijoule_per_token": "nan"},
            "millijoule_per_token must be a finite number above 0, or 'not measured'",
        ),
        ({"tokens_per_s": "inf"}, "tokens_per_s must be a finite number above 0"),
        ({"mode": '"train"'}, "mode is 'train', must be one of generate, prefill"),
        ({"model": '"7b"'}, "model is '7b', must be one of 370m, 1.3b, 2.7b"),
        (
            {"device_kind": '"TPU"'},
            "device_kind is 'TPU', must be one of neuromorphic, edge GPU, GPU, CPU",
        ),
    ],
)
def test_a_row_without_a_field_or_a_source_is_refused(
    changes: dict[str, str | None], message: str
) -> None:
    with pytest.raises(
        HardwareError, match=f"^{re.escape(f'rows.toml: series 1, result 1: {message}')}$"
    ):
        published.parse(text(**changes), "rows.toml")


def test_an_energy_may_not_have_been_measured() -> None:
    """Then there is no ratio of energies, and the row stands out as nothing in energy."""
    (found,) = published.parse(text(millijoule_per_token='"not measured"'), "rows.toml")
    assert found.millijoule_per_token is None
    other = row(device_kind="CPU", tokens_per_s=5.0, millijoule_per_token=None)
    marks = published.distinctions((other, row(tokens_per_s=1.0, millijoule_per_token=50.0)))
    assert all("energy" not in mark for mark in marks[other])
    alone = published.distinctions((other,))[other]
    assert alone == ("fastest known of its size", "fastest known for one sequence")
    span: Figures = {"low": 20.0, "central": 40.0, "high": 80.0}
    ours: Ours = {"name": "net", "tokens_per_s": span, "millijoule_per_token": span}
    ratio = published._ratio(ours, published._plain(other, ()))
    assert ratio["energy_theirs_over_ours"] is None
    assert ratio["throughput_ours_over_theirs"]["central"] == 8


def test_an_unknown_figure_is_refused() -> None:
    message = "rows.toml: series 1, result 1: watts is not a figure that a row may have"
    with pytest.raises(HardwareError, match=f"^{re.escape(message)}$"):
        published.parse(text(watts="3"), "rows.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "rows.toml: must have tables [[series]]"),
        ("series = [1]", "rows.toml: must have tables [[series]]"),
        ("[[series]]", "rows.toml: series 1: results must be a list of tables, at least one"),
        (
            "[[series]]\nresults = []",
            "rows.toml: series 1: results must be a list of tables, at least one",
        ),
        (
            "[[series]]\nresults = [1]",
            "rows.toml: series 1: results must be a list of tables, at least one",
        ),
    ],
)
def test_a_file_without_rows_is_refused(content: str, message: str) -> None:
    with pytest.raises(HardwareError, match=f"^{re.escape(message)}$"):
        published.parse(content, "rows.toml")


def test_a_file_that_is_not_toml_is_refused() -> None:
    message = r"rows\.toml: not readable as TOML \(Invalid statement \(at line 1, column 1\)\)"
    with pytest.raises(HardwareError, match=f"^{message}$"):
        published.parse("*", "rows.toml")


def test_the_rows_that_come_with_the_project_are_as_published() -> None:
    rows = published.load()
    found = {
        (r.name, r.device, r.mode, r.batch, r.sequence_length): (
            r.tokens_per_s,
            r.millijoule_per_token,
        )
        for r in rows
    }
    assert found["MatMul-free 370M", "NVIDIA H100", "generate", 1, 500] == (13.4, 10100)
    assert found["Llama-style 400M", "NVIDIA Jetson Orin Nano", "prefill", 1, 4000] == (3153, 6.8)
    assert found["Transformer++ 370M", "NVIDIA H200", "generate", 1, 512] == (1234, 223)
    assert found["MatMul-free 2.7B", "NVIDIA H200", "prefill", 1, 4000] == (33100, 13.1)
    one_chip = "Loihi 2, one chip measured with one block, 24 chips computed"
    assert found["MatMul-free 370M", one_chip, "generate", 1, 0] == (71.3, 59)
    assert found["MatMul-free 370M", one_chip, "prefill", 1, 0] == (13965, 2.8)
    assert found["MatMul-free 370M", "Loihi 2, 24 chips computed", "generate", 1, 0] == (59.4, 70.8)
    measured = "Loihi 2, 24 chips of the 32-chip part of an Alia Point, measured"
    assert found["MatMul-free 370M", measured, "generate", 1, 0] == (41.5, 405)
    assert found["MatMul-free 370M", measured, "prefill", 1, 0] == (6632, 3.7)
    north_pole = "A language model of 3 billion parameters", "IBM NorthPole, 16 cards"
    assert found[(*north_pole, "generate", 28, 0)] == (28356, 23.7)
    assert len(rows) == len(set(rows)) == 74
    assert all("MatMul-free" in r.name for r in rows if r.same_architecture)


def test_no_row_names_a_path() -> None:
    file = Path(published.__file__).with_name("baselines.toml")
    assert not re.search(r"/(home|root|work|tmp)/", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", SYNAPSES)
def test_a_model_is_told_by_its_synapses(model: str) -> None:
    known = SYNAPSES[model]
    assert published.model_of(summary(known)) == model
    assert published.model_of(summary(known * 102 // 100)) == model
    assert published.model_of(summary(known * 97 // 100)) is None


def test_the_strongest_rows_and_the_edge_gpus_are_marked() -> None:
    edge = row(device="board", device_kind="edge GPU", tokens_per_s=1.0, millijoule_per_token=50.0)
    fast, batched = (
        row(tokens_per_s=30.0),
        row(batch=64, tokens_per_s=900.0, millijoule_per_token=2.0),
    )
    chip = row(device_kind="neuromorphic", tokens_per_s=1e6, millijoule_per_token=1e-3)
    marks = published.distinctions((edge, fast, batched, chip))
    assert marks[edge] == ("edge GPU", "least energy known for one sequence")
    assert marks[fast] == ("fastest known for one sequence",)
    assert marks[batched] == ("fastest known of its size", "least energy known of its size")
    assert marks[chip] == ()


def test_beside_a_run_stand_the_nearest_lengths_and_the_strongest_rows() -> None:
    short, nearest = row(sequence_length=500), row(sequence_length=1000)
    strongest = row(sequence_length=4000, tokens_per_s=11.0, millijoule_per_token=50.0)
    weak, other_mode = (
        row(device="GPU Y", tokens_per_s=1.0, millijoule_per_token=500.0),
        row(mode="prefill"),
    )
    rows = (short, nearest, strongest, weak, other_mode)
    assert published.beside(rows, "generate", 900) == (nearest, strongest, weak)


PHASE = {
    "tokens_per_s": {"low": 20.0, "central": 40.0, "high": 80.0},
    "millijoule_per_token": {"low": 0.0, "central": 50.0, "high": 200.0},
}


def test_a_ratio_names_both_rows_and_carries_the_range() -> None:
    rows = (row(),)
    found = published.compare(
        summary(SYNAPSES["370m"]), "board", {"generate": PHASE}, {"generate": 10}, rows
    )
    (ratio,) = found["ratios"]
    assert ratio["ours"] == {"name": "net on board", **PHASE}
    assert (ratio["theirs"]["device"], ratio["theirs"]["source"]) == ("GPU X", "a paper")
    assert ratio["throughput_ours_over_theirs"] == {"low": 2.0, "central": 4.0, "high": 8.0}
    assert ratio["energy_theirs_over_ours"] == {"low": 0.5, "central": 2.0, "high": None}
    assert (found["model"], found["context"]) == ("370m", [])


def test_another_model_gets_context_and_no_ratio() -> None:
    found = published.compare(
        summary(524_288), "board", {"generate": PHASE}, {"generate": 10}, (row(),)
    )
    assert (found["model"], found["ratios"], len(found["context"])) == (None, [], 1)
    assert found["sentences"][0] == (
        "No ratio is given, because the rows are of another model: this one has 524,288 ternary "
        "synapses; of the "
        "published models, 370m has 341,049,344, 1.3b has 1,298,661,376, 2.7b has 2,619,473,920."
    )


def test_a_phase_without_tokens_and_a_row_of_another_size_get_no_ratio() -> None:
    rows = (row(), row(mode="prefill"), row(model="1.3b", name="Net 1.3B"))
    lengths = {"prefill": 10, "generate": 10}
    found = published.compare(summary(SYNAPSES["370m"]), "board", {"prefill": PHASE}, lengths, rows)
    assert [ratio["theirs"]["mode"] for ratio in found["ratios"]] == ["prefill"]
    assert [(other["model"], other["mode"]) for other in found["context"]] == [
        ("370m", "generate"),
        ("1.3b", "generate"),
    ]
    assert found["sentences"][0].startswith(
        "This model has the size of the MatMul-free 370m, so ratios are given"
    )


@pytest.mark.parametrize("mode", ["prefill", "generate"])
def test_the_flattering_and_the_strongest_row_are_both_beside_a_370m_run(mode: str) -> None:
    lengths = {mode: 100}
    found = published.compare(
        summary(SYNAPSES["370m"]), "board", {mode: PHASE}, lengths, published.load()
    )
    devices = {ratio["theirs"]["device"] for ratio in found["ratios"]}
    marks = {mark for ratio in found["ratios"] for mark in ratio["theirs"]["stands_out_as"]}
    assert "NVIDIA Jetson Orin Nano" in devices
    assert {"edge GPU", "fastest known for one sequence", "least energy known of its size"} <= marks
