"""What training takes on GPUs that were not measured, by hand for small ones."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

from mmfree_neuro.hgrn_bit.config import ModelConfig

ROOT = Path(__file__).parents[2]
CONFIG = ModelConfig(vocab_size=10, hidden_size=4, num_hidden_layers=2, intermediate_size=6)


@pytest.fixture(scope="module")
def paper(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("training_on_paper")


def test_memory_by_hand(paper: ModuleType) -> None:
    """With many tokens the worst moment is the beginning of the backward pass."""
    outside = 4 * (10 * 4 + 2 * 4 + 4 + 10 * 4 + 4)
    # Four square matrices, gate and up, down; two norms, five of the layers' own and g_norm.
    block = 4 * (4 * 16 + 12 * 4 + 4 * 6 + 2 * 4 + 5 * 4 + 6 + 4)
    weights = (outside + 2 * block) // 4
    assert weights == CONFIG.parameters()
    found = paper.memory(CONFIG, 3, 10**6)
    assert found.states == 12 * weights // 3
    assert found.activations == 10**6 * 2 * (8 * 4 + 6 * 4)
    assert found.whole == 4 * 10 * 4 + 5 * block
    assert found.work == 10**6 * 10 * (6 + 4)
    assert found.total == found.states + found.activations + found.whole + found.work


def test_memory_with_few_tokens(paper: ModuleType) -> None:
    """Then it is the loss, with logits of a whole chunk."""
    found = paper.memory(CONFIG, 1, 1)
    assert found.work == 10 * (4 * 2048 + 9 * 4)


def test_days_by_hand(paper: ModuleType) -> None:
    """A step of one second on 8 GPUs and then on 16, that are two hosts."""
    weights = 10**9
    shortest, longest = paper.step_s(1.0, (1e-12, 2e-12), weights, 8)
    assert shortest == pytest.approx(1 + 0.004)
    assert longest == pytest.approx(1 + 2e-12 * 8e9 * 7 / 8)
    _, longest = paper.step_s(1.0, (1e-12, 2e-12), weights, 16)
    assert longest == pytest.approx(1 + 2e-12 * 8e9 * 15 / 16 + 1e9 / 2 / 50e9)
    assert paper.days(86400, 2, 3 * 2 * 8 * 2048) == pytest.approx(3)


def test_what_two_gpus_could_not_hide(paper: ModuleType) -> None:
    rows = [
        {"what": what, "ms a step": 100.0 + more, "ms a step alone": 100.0}
        for what, more in (
            ("training of 370m in 2 processes of 8 x 2048 tokens", 50.0),
            ("training of 370m in 2 processes of 8 x 2048 tokens", 3.0),
            ("training of 1.3b in 2 processes of 8 x 2048 tokens", 20.0),
        )
    ]
    small, large = (4 * paper.SHAPES[name].parameters() for name in ("370m", "1.3b"))
    assert paper.exposed_s_per_byte(rows) == pytest.approx((0.003 / small, 0.02 / large))


def test_tables_of_the_page(paper: ModuleType) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for table in paper.tables(json.loads(paper.ROWS.read_text(encoding="utf-8"))):
        assert table in page


def test_speeds_of_the_page(paper: ModuleType) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for row in json.loads(paper.ROWS.read_text(encoding="utf-8")):
        assert f"{row['tokens/s']:,.0f}" in page
        assert f"{row['tokens/s of one process alone']:,.0f}" in page
        if "bytes of a GPU" in row:
            for name in ("bytes of a GPU", "bytes of a GPU alone"):
                assert f"{row[name] / 1e9:.1f} GB" in page
