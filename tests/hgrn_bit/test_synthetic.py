"""Synthetic checkpoints are laid out as the published ones, and behave like a model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from mmfree_neuro.baselines.published import SYNAPSES, model_of
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.hgrn_bit.config import PUBLISHED, ModelConfig
from mmfree_neuro.hgrn_bit.names import is_ternary
from mmfree_neuro.hgrn_bit.synthetic import write_synthetic
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.lowering.ternarise import ternarise
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.testing import blocks_alone, published_graph

pytestmark = pytest.mark.slow


SMALL = ModelConfig(vocab_size=300, hidden_size=128, num_hidden_layers=12, intermediate_size=512)


def test_the_published_shapes() -> None:
    sizes = {
        name: sum(int(np.prod(s)) for s in config.shapes().values())
        for name, config in PUBLISHED.items()
    }
    assert sizes == {"370m": 374_108_160, "1.3b": 1_364_779_008, "2.7b": 2_702_357_504}
    assert all(config == replace(ModelConfig(), **shape(config)) for config in PUBLISHED.values())


def shape(config: ModelConfig) -> dict[str, int]:
    return {
        name: getattr(config, name)
        for name in ("hidden_size", "num_hidden_layers", "intermediate_size")
    }


def test_a_third_of_the_codes_is_zero_and_signs_are_balanced(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SMALL)
    found = read_checkpoint(tmp_path)
    assert found.config == SMALL
    for name, value in found.tensors.items():
        if is_ternary(name):
            codes, _ = ternarise(value)
            assert 0.32 < (codes == 0).mean() < 0.36, name
            assert abs(codes.mean(dtype=np.float64)) < 0.025, name
        elif value.ndim == 1:
            assert abs(value.mean() - 1) < 0.1 and 0.1 < value.std() < 0.2, name


@pytest.mark.usefixtures("needs_torch")
def test_activations_and_logits_stay_ordinary(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SMALL)
    from mmfree_kernels.float_model.evaluate import logits
    from mmfree_kernels.float_model.model import Numerics, from_checkpoint

    spreads: dict[str, float] = {}

    def tap(name: str, value: Any) -> Any:
        spreads[name] = float(value.std())
        return value

    tokens = np.random.default_rng(0).integers(0, SMALL.vocab_size, (2, 64))
    logits(from_checkpoint(read_checkpoint(tmp_path)), tokens, Numerics(tap=tap))
    assert 1.5 < spreads["logits"] < 4
    for layer in range(SMALL.num_hidden_layers):
        assert all(0.4 < spreads[f"layers.{layer}.attn.{port}"] < 1.5 for port in "ifg")
        assert 0.05 < spreads[f"layers.{layer}.attn.h"] < 5
    assert spreads["layers.11.mlp.x"] < 10


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_synthetic(tmp_path / name, SMALL, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_the_layout_of_one_file(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    stored = safetensors.deserialize((tmp_path / "model.safetensors").read_bytes())
    assert {name: tuple(e["shape"]) for name, e in stored} == SMALL.shapes()
    assert {e["dtype"] for _, e in stored} == {"BF16"}
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (written["intermediate_size"], written["torch_dtype"]) == (None, "bfloat16")


def test_the_layout_of_shards(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SMALL)
    whole = dict(read_checkpoint(tmp_path).tensors)
    write_synthetic(tmp_path, SMALL, shard_bytes=4_000_000)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        *files,
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"] == {"total_size": sum(value.size * 2 for value in whole.values())}
    for file in files:
        stored = safetensors.deserialize((tmp_path / file).read_bytes())
        assert {name for name, _ in stored} == {
            name for name, where in index["weight_map"].items() if where == file
        }
        assert sum(len(e["data"]) for _, e in stored) <= 4_000_000
    found = read_checkpoint(tmp_path).tensors
    assert all(np.array_equal(found[name], value) for name, value in whole.items())


def test_a_tensor_beyond_the_size_of_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, intermediate_size=3)
    write_synthetic(tmp_path, config, shard_bytes=1)
    names = list(config.shapes())
    assert len(list(tmp_path.glob("model-*-of-00020.safetensors"))) == len(names) == 20
    assert list(read_checkpoint(tmp_path).tensors) == names


@pytest.mark.parametrize("tied", [False, True])
def test_other_shapes(tmp_path: Path, tied: bool) -> None:
    config = ModelConfig(
        11,
        8,
        2,
        expand_ratio=2,
        use_lower_bound=False,
        intermediate_size=3,
        tie_word_embeddings=tied,
    )
    write_synthetic(tmp_path, config)
    assert read_checkpoint(tmp_path).config == config


@pytest.mark.parametrize("model", sorted(PUBLISHED))
def test_a_published_graph_has_the_shapes_of_its_model(model: str) -> None:
    config, graph = PUBLISHED[model], published_graph(model)
    assert (graph.name, graph.scheme, graph.blocks) == (model, "a16", config.num_hidden_layers)
    assert graph.embedding.size == config.hidden_size
    assert graph.vocabulary == config.vocab_size
    summary = summarise(graph)
    assert sum(node.ternary_synapses for node in summary.nodes) == SYNAPSES[model]
    assert model_of(summary) == model


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("blocks", [1, 3])
def test_some_blocks_of_a_published_graph(blocks: int, scheme: str) -> None:
    """A block has 4 matrices of 1024 x 1024, a gate and up of 2816 x 1024 and a down of 1024 x
    2816."""
    graph = published_graph("370m", scheme=scheme, blocks=blocks)
    assert (graph.blocks, graph.scheme) == (blocks, scheme)
    synapses = [node.ternary_synapses for node in summarise(graph).nodes if node.block is not None]
    assert sum(synapses) == blocks * (4 * 1024**2 + 3 * 2816 * 1024)


@pytest.mark.parametrize("zeros", [0.0, 0.354, 0.5])
def test_as_many_weights_of_a_published_graph_are_zero_as_are_asked_for(zeros: float) -> None:
    summary = summarise(published_graph("370m", blocks=1, zeros=zeros))
    stored, nonzero = (
        sum(getattr(n, f"{kind}_synapses") for n in summary.nodes)
        for kind in ("ternary", "nonzero")
    )
    # Of each row of up to 2,816 weights, at most half a weight is rounded away.
    assert nonzero == pytest.approx((1 - zeros) * stored, rel=0.5 / (1024 * (1 - zeros)))


def test_blocks_alone_end_with_their_last_step() -> None:
    """The three steps of the head are gone, and nothing else is."""
    summary = summarise(published_graph("370m", blocks=2))
    alone = blocks_alone(summary)
    assert (summary.steps, alone.steps) == (2 * 12 + 3, 2 * 12)
    for before, after in zip(summary.nodes, alone.nodes, strict=True):
        assert after == replace(before, step=min(before.step, 24))


def test_the_weights_of_a_published_graph_take_no_memory() -> None:
    """All tiles of rows are one."""
    for node in published_graph("2.7b").nodes:
        for entry in node.inputs:
            assert entry.matrix is None or entry.matrix.data.strides[0] == 0
