"""What every placer promises, and what each alone does."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfree_neuro import lower, pipeline
from mmfree_neuro.checkpoint import Checkpoint
from mmfree_neuro.errors import CapacityError
from mmfree_neuro.footprint import EMPTY, Footprint, footprint, limits
from mmfree_neuro.hardware import SystemSpec, load_system
from mmfree_neuro.ir import Graph, block_of
from mmfree_neuro.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.quantize import SCHEMES, Range, TernaryWeight, is_ternary
from mmfree_neuro.ternary import ZERO, TernaryMatrix, packed_shape
from mmfree_neuro.testing import PUBLISHED
from mmfree_partition.check import check
from mmfree_partition.place import PLACERS
from mmfree_partition.route import route
from mmfree_partition.split import split

Change = Callable[..., SystemSpec]
every_placer = pytest.mark.parametrize("placer", PLACERS)


def sizes(graph: Graph, shards: tuple[Shard, ...]) -> tuple[Footprint, ...]:
    """The footprints of shards of 2-bit weights."""
    return tuple(footprint(graph, graph.node(shard.node), shard, 2) for shard in shards)


@every_placer
@pytest.mark.parametrize(("memory", "cores"), [(196608, 120), (196608, 3), (8000, 17)])
def test_placements_are_valid(
    placer: str, memory: int, cores: int, graph: Graph, system: SystemSpec, with_figures: Change
) -> None:
    system = with_figures(system, memory_bytes_per_core=memory)
    shards = split(graph, system.chip)
    locations = PLACERS[placer](shards, sizes(graph, shards), system, chips=None, cores=cores)
    assert len(locations) == len(shards)
    assert locations[0] == Location(HOST, 0)
    assert max(place.core for place in locations) < cores
    used = sorted({place.chip for place in locations[1:]})
    assert used == list(range(len(used)))
    mapping = Mapping("", system.name, placer, shards, locations, route(graph, shards, locations))
    assert check(graph, mapping, system) is mapping
    assert PLACERS[placer](shards, sizes(graph, shards), system, chips=None, cores=cores) == locations
    assert PLACERS[placer](shards, sizes(graph, shards), system, chips=len(used), cores=cores)[-1].chip == used[-1]


@every_placer
@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 6))
def test_no_core_is_overfull(placer: str, memory: list[int], cores: int) -> None:
    system = small(load_system("alia-point"))
    shards = (Shard("embedding", 0, 1), *(Shard(f"layers.{k // 9}.x", k, k + 1) for k in range(len(memory))))
    footprints = (EMPTY, *(Footprint(m, 0, 1, 0, 0) for m in memory))
    locations = PLACERS[placer](shards, footprints, system, chips=None, cores=cores)
    filled: dict[Location, Footprint] = {}
    for place, needed in zip(locations[1:], footprints[1:], strict=True):
        filled[place] = filled.get(place, EMPTY) + needed
        assert 0 <= place.core < cores
    assert all(used.fits(limits(system.chip)) for used in filled.values())


def small(system: SystemSpec) -> SystemSpec:
    """The system with 100 bytes a core."""
    memory = replace(system.chip.memory_bytes_per_core, low=100, central=100, high=100)
    return replace(system, chip=replace(system.chip, memory_bytes_per_core=memory))


SHARDS = (Shard("embedding", 0, 1), *(Shard(f"layers.{k}.x", 0, 1) for k in range(10)))
FULL = (EMPTY, *[Footprint(60, 0, 1, 0, 0)] * 10)
"""Ten blocks of one shard; no two fit one core."""


def test_greedy_fills_core_after_core() -> None:
    footprints = (EMPTY, *(Footprint(m, 0, 1, 0, 0) for m in (60, 40, 1, 99, 100, 50)))
    places = PLACERS["greedy"](SHARDS[:7], footprints, small(load_system("kapoho-point")), chips=None, cores=2)
    assert [(p.chip, p.core) for p in places] == [(-1, 0), (0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("chips", range(1, 9))
def test_greedy_shares_the_memory_between_chips(chips: int, graph: Graph, system: SystemSpec) -> None:
    shards = split(graph, system.chip, 60)
    footprints = sizes(graph, shards)
    places = PLACERS["greedy"](shards, footprints, system, chips=chips, cores=120)
    memory = [sum(f.memory for f, p in zip(footprints, places, strict=True) if p.chip == chip) for chip in range(chips)]
    assert len(memory) == chips
    assert max(memory) - sum(memory) / chips <= 2 * max(f.memory for f in footprints[1:])


@pytest.mark.parametrize(("chips", "cores", "left"), [(None, 1, 2), (3, 2, 4), (1, 1, 9), (2, 4, 2)])
def test_greedy_runs_out_of_room(chips: int | None, cores: int, left: int) -> None:
    with pytest.raises(CapacityError) as error:
        PLACERS["greedy"](SHARDS, FULL, small(load_system("kapoho-point")), chips=chips, cores=cores)
    assert str(error.value) == (
        f"kapoho-point: 10 shards do not fit {chips or 8} chips of {cores} cores, {left} are left over"
    )


def test_greedy_uses_every_chip_that_it_is_given() -> None:
    places = PLACERS["greedy"](SHARDS, FULL, small(load_system("alia-point")), chips=10, cores=4)
    assert [place.chip for place in places[1:]] == list(range(10))


@pytest.mark.parametrize("chips", [11, 12, 100])
def test_greedy_needs_a_shard_for_every_chip(chips: int) -> None:
    with pytest.raises(CapacityError) as error:
        PLACERS["greedy"](SHARDS, FULL, small(load_system("alia-point")), chips=chips, cores=4)
    assert str(error.value) == f"alia-point: 10 shards are too few to use {chips} chips"


def test_a_chip_for_every_block(graph: Graph, system: SystemSpec) -> None:
    shards = split(graph, system.chip, 20)
    places = PLACERS["block-per-chip"](shards, sizes(graph, shards), system, chips=None, cores=20)
    found = {(block_of(shard.node), place.chip) for shard, place in zip(shards[1:], places[1:], strict=True)}
    assert found == {(0, 0), (1, 1), (None, 2)}
    assert len({place for place in places if place.chip == 0}) == 20


def test_a_block_that_needs_two_chips() -> None:
    shards = (SHARDS[0], *[Shard("layers.0.x", k, k + 1) for k in range(3)], Shard("head", 0, 1))
    places = PLACERS["block-per-chip"](shards, FULL[:5], small(load_system("kapoho-point")), chips=3, cores=2)
    assert [(p.chip, p.core) for p in places[1:]] == [(0, 0), (0, 1), (1, 0), (2, 0)]


def test_more_blocks_than_chips() -> None:
    with pytest.raises(CapacityError) as error:
        PLACERS["block-per-chip"](SHARDS, FULL, small(load_system("kapoho-point")), chips=None, cores=4)
    assert str(error.value) == "kapoho-point: one block per chip needs more than its 8 chips"


@pytest.mark.parametrize("chips", [9, 11])
def test_blocks_need_the_chips_that_they_need(chips: int) -> None:
    with pytest.raises(CapacityError) as error:
        PLACERS["block-per-chip"](SHARDS, FULL, small(load_system("alia-point")), chips=chips, cores=4)
    assert str(error.value) == f"alia-point: one block per chip needs 10 chips, {chips} were asked for"


class EveryRange(dict[str, Range]):
    """The same range for whatever is asked."""

    def __missing__(self, name: str) -> Range:
        return Range(0.1, 4.0)


@lru_cache
def empty_weight(rows: int, columns: int) -> TernaryMatrix:
    """A matrix that says that a third of it is zero, which is all that mapping could ask; its codes are a view."""
    data = np.broadcast_to(np.array(ZERO, np.uint8), packed_shape(rows, columns))
    return TernaryMatrix(data, rows, columns, columns, rows * columns * 2 // 3)


@lru_cache
def full_size(model: str) -> Graph:
    """The graph of a model of a published size whose tensors are all the same number."""
    config, weights = PUBLISHED[model], {}
    for name, (rows, columns) in ((n, s) for n, s in config.shapes().items() if is_ternary(n)):
        halves = 2 if name.endswith("gate_proj.weight") else 1
        weights[name] = TernaryWeight((empty_weight(rows // halves, columns),) * halves, 0.02)
    tensors = {n: np.broadcast_to(np.float32(len(s) == 1 or 0.05), s) for n, s in config.shapes().items()}
    return lower.lower(Checkpoint(config, tensors), weights, EveryRange(), SCHEMES["a16"], model)


def test_a_published_model_has_a_block_on_each_chip_and_uses_every_core() -> None:
    mapping = pipeline.place(full_size("370m"), "", load_system("alia-point-32"), "block-per-chip", None, None)
    assert Counter(place.chip for place in mapping.cores) == dict.fromkeys(range(25), 120)
    blocks = {place.chip: block_of(s.node) for s, place in zip(mapping.shards, mapping.locations, strict=True)}
    assert blocks == {HOST: None} | {chip: chip for chip in range(24)} | {24: None}


@pytest.mark.parametrize(("asked", "chips", "cores"), [(None, 6, 711), (8, 8, 712), (24, 24, 713)])
def test_a_published_model_on_few_chips(asked: int | None, chips: int, cores: int) -> None:
    mapping = pipeline.place(full_size("370m"), "", load_system("alia-point-32"), "greedy", asked, None)
    assert (len(mapping.chips), len(mapping.cores)) == (chips, cores)


def test_the_blocks_of_the_largest_published_model_need_two_chips_each() -> None:
    mapping = pipeline.place(full_size("2.7b"), "", load_system("alia-point"), "block-per-chip", None, None)
    found = {(block_of(s.node), place.chip) for s, place in zip(mapping.shards, mapping.locations, strict=True)}
    assert found == {(None, HOST), (None, 64), (None, 65)} | {(chip // 2, chip) for chip in range(64)}
