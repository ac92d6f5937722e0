"""Tiny random models, their integer graphs, and mappings of graphs onto chips."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from mmfree_kernels.float_model.calibrate import calibrate
from mmfree_neuro.graph.nodes import Embedding, Graph, Head, Input, Output, Rescale, Squares
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.integers.fixedpoint import Multiplier, QType
from mmfree_neuro.integers.tables import sigmoid_table
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.pipeline import map
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec
from mmfree_partition.route import route

settings.register_profile("suite", deadline=None, database=None, max_examples=60)
settings.load_profile("suite")

MAPPINGS = ("chain", "random", "block-per-chip")
HAS_GPU = Path("/dev/nvidiactl").exists()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read by Triton when a kernel is defined


@lru_cache
def _random_checkpoint(use_lower_bound: bool) -> Checkpoint:
    config = ModelConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        use_lower_bound=use_lower_bound,
        intermediate_size=128,
    )
    rng = np.random.default_rng(7)
    tensors = {}
    for name, shape in config.shapes().items():
        values = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            values = 1 + 0.2 * values
        elif name.endswith("_proj.weight"):
            values *= 0.05
        tensors[name] = values.astype(np.float32)
    return Checkpoint(config, tensors)


def _random_tokens() -> np.ndarray:
    return np.random.default_rng(3).integers(256, size=(4, 32))


@lru_cache
def _lowered(use_lower_bound: bool, scheme: str) -> Graph:
    checkpoint = _random_checkpoint(use_lower_bound)
    ranges = calibrate(checkpoint, _random_tokens(), SCHEMES[scheme])
    return lowering.lower(checkpoint, ternary_weights(checkpoint), ranges, SCHEMES[scheme], "tiny")


@pytest.fixture(scope="session")
def device() -> str:
    """Where Triton kernels run: on the GPU, or on the CPU through Triton's interpreter."""
    return "cuda" if HAS_GPU else "cpu"


@pytest.fixture(scope="session")
def tokens() -> np.ndarray:
    """Random tokens [4, 32]: what the tiny models are calibrated on."""
    return _random_tokens()


@pytest.fixture(scope="session", params=[True, False], ids=["lower-bounds", "no-lower-bounds"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """A random model of two blocks, with lower bounds and without."""
    return _random_checkpoint(request.param)


@pytest.fixture(scope="session")
def bounded_checkpoint() -> Checkpoint:
    """The random model with lower bounds."""
    return _random_checkpoint(True)


@pytest.fixture(scope="session")
def a16(checkpoint: Checkpoint) -> Graph:
    """The tiny models with static 16-bit activations."""
    return _lowered(checkpoint.config.use_lower_bound, "a16")


@pytest.fixture(scope="session")
def a8(checkpoint: Checkpoint) -> Graph:
    """The tiny models with 8-bit activations scaled per token."""
    return _lowered(checkpoint.config.use_lower_bound, "a8")


@pytest.fixture(scope="session", params=sorted(SCHEMES))
def graph(request: pytest.FixtureRequest) -> Graph:
    """The tiny model with lower bounds, in every scheme."""
    return _lowered(True, request.param)


@pytest.fixture(scope="session")
def system() -> SystemSpec:
    """Eight Loihi 2."""
    return load_system("kapoho-point")


@pytest.fixture(scope="session")
def with_figures() -> Callable[..., SystemSpec]:
    """The function that gives a system's chip other figures."""

    def change(system: SystemSpec, **figures: int) -> SystemSpec:
        spec = {name: Quantity(value, value, value, "made up") for name, value in figures.items()}
        return replace(system, chip=replace(system.chip, **spec))

    return change


def _chain(graph: Graph) -> tuple[tuple[Shard, ...], tuple[Location, ...]]:
    count = len(graph.nodes)
    shards = tuple(Shard(node.name, 0, node.size) for node in graph.nodes)
    return shards, (Location(HOST, 0), *(Location(3 * k // count, k) for k in range(1, count)))


def _random(graph: Graph, seed: int) -> tuple[tuple[Shard, ...], tuple[Location, ...]]:
    rng = np.random.default_rng(seed)
    shards, locations = [Shard(graph.embedding.name, 0, graph.embedding.size)], [Location(HOST, 0)]
    for node in graph.nodes[1:]:
        inner = (
            np.unique(rng.integers(1, node.size, size=rng.integers(4))).tolist()
            if node.size > 1
            else []
        )
        for start, stop in zip([0, *inner], [*inner, node.size], strict=True):
            shards.append(Shard(node.name, start, stop))
            locations.append(Location(int(rng.integers(4)), int(rng.integers(12))))
    order = rng.permutation(len(shards))
    return tuple(shards[k] for k in order), tuple(locations[k] for k in order)


@pytest.fixture(scope="session")
def make_mapping(system: SystemSpec) -> Callable[..., Mapping]:
    """The function that maps a graph: whole nodes in a chain over three chips, at random, or one
    block per chip."""

    def make(graph: Graph, kind: str, seed: int = 0) -> Mapping:
        if kind == "block-per-chip":
            return map.place(graph, "", system, Request(kind, cores=5))[1]
        shards, locations = _chain(graph) if kind == "chain" else _random(graph, seed)
        return Mapping("", system.name, kind, shards, locations, route(graph, shards, locations))

    return make


@pytest.fixture(scope="session", params=MAPPINGS)
def mapping(
    request: pytest.FixtureRequest, graph: Graph, make_mapping: Callable[..., Mapping]
) -> Mapping:
    """Three mappings of the graph."""
    return make_mapping(graph, request.param)


@pytest.fixture(scope="session")
def hand_graph() -> Graph:
    """Three values a token, one ternary matrix of two rows, logits of 3/2 times its sums."""
    codes = np.array([[3, -5, 7], [-1, 0, -2]], np.int8)
    squares = Squares(None, 0, QType(8, 0), 0)
    outputs = Output("x", 3, QType(8, 0)), Output("sq", 3, QType(16, 0), unsigned=True)
    matrix = pack(np.array([[1, -1, 0], [0, 1, 1]], np.int8))
    head = Head(
        "head",
        2,
        (Input("y", "embedding", "x", "ternary", matrix),),
        (Output("logits", 2, QType(16, 0)),),
        {"y": Rescale(Multiplier(3, 1), None)},
    )
    embedding = Embedding("embedding", 3, (), outputs, codes, np.array([1, 1]), 0, squares)
    return Graph("hand", "a16", (embedding, head), sigmoid_table(8), 32, 0, None, {})


@pytest.fixture(scope="session")
def hand_mapping(hand_graph: Graph) -> Mapping:
    """The head of the graph made by hand, a row on each of two cores of chip 0."""
    shards = Shard("embedding", 0, 3), Shard("head", 0, 1), Shard("head", 1, 2)
    locations = Location(HOST, 0), Location(0, 0), Location(0, 1)
    return Mapping(
        "", "kapoho-point", "hand", shards, locations, route(hand_graph, shards, locations)
    )
