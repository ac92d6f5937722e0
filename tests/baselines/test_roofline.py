"""Estimates for GPUs that nobody measured: the arithmetic, and that every figure has a source."""

import pytest

from mmfree_neuro.baselines import roofline
from mmfree_neuro.baselines.roofline import Figure, Gpu
from mmfree_neuro.errors import HardwareError
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary

SUMMARY = GraphSummary(
    "net",
    "a16",
    1,
    2,
    32,
    {},
    (
        NodeSummary("embedding", "Embedding", 8, None, 0, {}, 0, 0),
        NodeSummary("layers.0.mix", "MLGRU", 10, 0, 1, {}, 800, 500, 10),
        NodeSummary("head", "Head", 20, None, 2, {}, 200, 100),
    ),
)
GPU = Gpu(
    "GPU X", "GPU", Figure(3300.0, "a"), Figure(36_400.0, "b"), Figure(20.0, "c"), Figure(5.0, "d")
)


def test_generation_is_bound_by_memory() -> None:
    found = roofline.estimate(GPU, SUMMARY, "generate", 7)
    assert found["bytes_per_token"] == 1000 / 4 + 10 * 8
    assert found["operations_per_token"] == 2000
    assert (found["bound_by"], found["most_tokens_per_s"]) == ("memory", 10.0)
    assert found["millijoule_per_token_at_idle_power"] == 500.0
    assert found["millijoule_per_token_at_board_power"] == 2000.0
    assert found["kind"] == "estimated, roofline, not measured"
    assert found["sources"] == {
        "memory_bandwidth_bytes_per_s": "a",
        "int8_operations_per_s": "b",
        "board_power_w": "c",
        "idle_power_w": "d",
    }


def test_prefill_reads_the_weights_once_and_is_bound_by_operations() -> None:
    found = roofline.estimate(GPU, SUMMARY, "prefill", 20)
    assert found["bytes_per_token"] == 330 / 20
    assert found["operations_per_token"] == 2 * (800 + 200 / 20)
    assert found["bound_by"] == "int8 operations"
    assert found["most_tokens_per_s"] == pytest.approx(36_400 / 1620)


def test_a_gpu_whose_idle_power_nobody_knows_has_no_low_end() -> None:
    gpu = Gpu("GPU X", "GPU", Figure(3300.0, "a"), Figure(36_400.0, "b"), Figure(20.0, "c"), None)
    found = roofline.estimate(gpu, SUMMARY, "generate", 7)
    assert found["millijoule_per_token_at_idle_power"] is None
    assert list(found["sources"]) == [
        "memory_bandwidth_bytes_per_s",
        "int8_operations_per_s",
        "board_power_w",
    ]


def test_there_is_a_row_for_every_gpu_and_mode_with_tokens() -> None:
    found = roofline.estimates((GPU, GPU), SUMMARY, {"prefill": 4, "generate": 0})
    assert [(row["device"], row["mode"]) for row in found] == [("GPU X", "prefill")] * 2


TABLE = """
[[gpu]]
name = "GPU X"
device_kind = "edge GPU"
memory_bandwidth_bytes_per_s = { value = 1e9, source = "a" }
int8_operations_per_s = { value = 2e12, source = "b" }
board_power_w = { value = 30, source = "c" }
"""


def test_a_table_is_a_gpu() -> None:
    expected = Gpu(
        "GPU X", "edge GPU", Figure(1e9, "a"), Figure(2e12, "b"), Figure(30.0, "c"), None
    )
    assert roofline.parse(TABLE, "x.toml") == (expected,)
    with_idle = TABLE + 'idle_power_w = { value = 3, source = "d" }'
    assert roofline.parse(with_idle, "x.toml")[0].idle_power_w == Figure(3.0, "d")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"GPU X"', '""', "gpu 1: name must be a text"),
        ('"edge GPU"', '"TPU"', "gpu 1: device_kind is 'TPU', must be one of edge GPU, GPU"),
        (
            "value = 1e9",
            "value = 0",
            "gpu 1: memory_bandwidth_bytes_per_s must have a value, a number above 0",
        ),
        (
            '{ value = 30, source = "c" }',
            "7",
            "gpu 1: board_power_w must have a value, a number above 0",
        ),
        (', source = "c"', "", "gpu 1: board_power_w must have a source, a text"),
        ("[[gpu]]", '[[gpu]]\nreported_as = "GPU X"', "gpu 1: reported_as must be a list of texts"),
        ("[[gpu]]", "[[gpu]]\nreported_as = [7]", "gpu 1: reported_as must be a list of texts"),
        ("[[gpu]]", "[[gpu]]\nweight = 3", "gpu 1: weight is not a figure that a GPU may have"),
        ("[[gpu]]", "[[gpus]]", "must have tables [[gpu]]"),
        ("[[gpu]]", "gpu = [1]\n[other]", "must have tables [[gpu]]"),
        ("[[gpu]]", "*", "not readable as TOML (Invalid statement (at line 2, column 1))"),
    ],
)
def test_a_table_that_lacks_something_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(HardwareError) as error:
        roofline.parse(TABLE.replace(old, new), "x.toml")
    assert str(error.value) == f"x.toml: {message}"


def test_the_gpus_that_come_with_the_project_have_sources() -> None:
    gpus = {gpu.name: gpu for gpu in roofline.load()}
    assert len(gpus) == 7
    h200 = gpus["NVIDIA H200 SXM"]
    assert (h200.memory_bandwidth_bytes_per_s.value, h200.board_power_w.value) == (4.8e12, 700)
    assert roofline.reported(tuple(gpus.values()), "NVIDIA H200") is h200
    assert roofline.reported(tuple(gpus.values()), "NVIDIA H20") is None
    edge = [gpu.name for gpu in gpus.values() if gpu.device_kind == "edge GPU"]
    assert edge == ["NVIDIA Jetson Orin Nano 8GB, 25 W mode", "NVIDIA Jetson AGX Orin 64GB"]
