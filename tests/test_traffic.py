"""Distances and messages, counted by hand on two chips of 2 x 4 cores."""

from dataclasses import fields

import numpy as np
import pytest

from mmfree_neuro.activity import Activity, nothing
from mmfree_neuro.hardware import ChipSpec, Quantity, SystemSpec
from mmfree_neuro.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.traffic import Distance, Traffic, distance, traffic


def board(mesh_columns: int = 4, chip_columns: int = 2) -> SystemSpec:
    """A system of which only the two grids matter."""
    figures = {field.name: Quantity(1, 1, 1, "made up") for field in fields(ChipSpec) if field.name != "name"}
    figures["mesh_columns"] = Quantity(mesh_columns, mesh_columns, mesh_columns, "made up")
    columns = Quantity(chip_columns, chip_columns, chip_columns, "made up")
    four, nil = Quantity(4, 4, 4, "made up"), Quantity(0, 0, 0, "made up")
    return SystemSpec("board", "made up", four, columns, nil, ChipSpec(name="chip", **figures))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (Location(0, 2), Location(0, 2), Distance(0, 0)),
        (Location(0, 0), Location(0, 7), Distance(1 + 3, 0)),
        (Location(0, 5), Location(0, 2), Distance(1 + 1, 0)),
        (Location(0, 5), Location(1, 6), Distance(2 + 3, 1)),  # to core 0, over the link, from core 0
        (Location(0, 0), Location(3, 0), Distance(0, 2)),  # one row and one column of chips
        (Location(HOST, 0), Location(3, 5), Distance(2, 1)),  # the host is one crossing from every chip
        (Location(2, 7), Location(HOST, 0), Distance(4, 1)),
        (Location(HOST, 0), Location(HOST, 0), Distance(0, 0)),
    ],
)
def test_a_distance_is_counted_by_rows_and_columns(a: Location, b: Location, expected: Distance) -> None:
    assert distance(a, b, board()) == expected
    assert distance(b, a, board()) == expected


def test_the_grids_come_from_the_system() -> None:
    assert distance(Location(0, 0), Location(0, 7), board(mesh_columns=8)) == Distance(7, 0)
    assert distance(Location(0, 0), Location(3, 0), board(chip_columns=4)) == Distance(0, 3)


def example() -> tuple[Mapping, Activity]:
    """Host to two cores of chip 0, these to one core of chip 1, that to the host; two tokens."""
    shards = Shard("embedding", 0, 4), Shard("mix", 0, 2), Shard("mix", 2, 4), Shard("head", 0, 2)
    host, first, second, last = Location(HOST, 0), Location(0, 0), Location(0, 5), Location(1, 6)
    routes = (
        Route(0, "x", first, 0, 4), Route(0, "x", second, 0, 4), Route(1, "v", last, 0, 2),
        Route(2, "v", last, 2, 4), Route(3, "logits", host, 0, 2), Route(1, "v", second, 0, 2),
    )  # fmt: skip
    mapping = Mapping("", "board", "by hand", shards, (host, first, second, last), routes)
    none = np.zeros(4, np.int64)
    return mapping, Activity(2, none, none, none, none, np.array([8, 6, 4, 3, 4, 3]))


def test_messages_are_weighed_with_their_way() -> None:
    mapping, activity = example()
    messages = 8 + 6 + 4 + 3 + 4 + 3
    hops = 8 * 0 + 6 * 2 + 4 * (0 + 3) + 3 * (2 + 3) + 4 * 3 + 3 * 2
    expected = Traffic(messages, 2 * (4 + 4 + 2 + 2 + 2 + 2) - messages, hops, crossings=25, between_chips=25)
    assert traffic(mapping, activity, board()) == expected


def test_a_message_over_two_links_is_one_message_and_two_crossings() -> None:
    shards, locations = (Shard("a", 0, 1), Shard("b", 0, 1)), (Location(0, 0), Location(3, 0))
    mapping = Mapping("", "board", "by hand", shards, locations, (Route(0, "x", Location(3, 0), 0, 1),))
    none = np.zeros(2, np.int64)
    activity = Activity(5, none, none, none, none, np.array([3]))
    assert traffic(mapping, activity, board()) == Traffic(3, 2, 0, crossings=6, between_chips=3)


def test_no_token_is_no_traffic() -> None:
    mapping, _ = example()
    assert traffic(mapping, nothing(mapping), board()) == Traffic(0, 0, 0, 0, 0)
