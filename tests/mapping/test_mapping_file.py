"""Mapping files come back as they were written, or are refused with one clear line."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmfree_neuro.errors import HardwareError, MappingError
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import StoredMapping, checksum, load_mapping, save_mapping
from mmfree_neuro.systems.spec import SystemSpec

Spoilt = Callable[[Any], Iterator[str]]


@pytest.fixture
def path(hand_mapping: Mapping, system: SystemSpec, tmp_path: Path) -> Path:
    """The file of a mapping, whose graph lies beside it."""
    save_mapping(StoredMapping(hand_mapping, system, tmp_path / "hand.graph"), tmp_path / "a.map")
    return tmp_path / "a.map"


def write_anew(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping file with a checksum that is right."""
    path.write_text(json.dumps(content | {"sha256": checksum(content)}))


def message(path: Path) -> str:
    """What is said of a file that is no mapping file, behind its name."""
    with pytest.raises((MappingError, HardwareError)) as error:
        load_mapping(path)
    assert str(error.value).startswith(str(path))
    return str(error.value)[len(str(path)) :]


def test_mappings_come_back(path: Path, hand_mapping: Mapping, system: SystemSpec) -> None:
    stored = StoredMapping(hand_mapping, system, path.parent / "hand.graph", 7)
    many = replace(stored, mapping=replace(hand_mapping, in_flight=3))
    for one in (replace(stored, cores=None), stored, many):
        save_mapping(one, path)
        assert load_mapping(path) == one
    assert load_mapping(path).mapping.in_flight == 3


def test_a_mapping_moves_with_its_graph(path: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    path.rename(moved / "a.map")
    assert load_mapping(moved / "a.map").graph_path == moved / "hand.graph"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", 'not a mapping file, or damaged ("Expecting value: line 1 column 1 (char 0)")'),
        ("[]", "not a mapping file: holds [], must hold an object"),
        ('{"format": "mmf', None),
        ('{"a": NaN}', "not a mapping file: NaN is no number of JSON, must be finite"),
        ("[" * 100_000, "nested too deep, must be a mapping file"),
        (f'{{"a": {"9" * 5000}}}', None),
        ("{}", "not a mapping file: its format is not 'mmfree-neuro mapping 8'"),
        (
            '{"format": "mmfree-neuro run 6"}',
            "not a mapping file: its format is not 'mmfree-neuro mapping 8'",
        ),
        (
            '{"format": "mmfree-neuro mapping 8"}',
            "not a mapping file: it is damaged, for it differs from its checksum",
        ),
    ],
)
def test_another_file(content: str, said: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.map"
    path.write_text(content)
    found = message(path)
    if said is None:  # Python's own words for it differ
        assert found.startswith(": not a mapping file, or damaged (")
    else:
        assert found == ": " + said.replace('"', "'")


def test_no_mapping_file(tmp_path: Path) -> None:
    assert message(tmp_path / "none") == ": no such file, must be a mapping file"
    assert message(tmp_path) == ": not a mapping file: is a folder, must be a regular file"


def test_a_mapping_that_was_changed(path: Path) -> None:
    path.write_text(path.read_text().replace('"placer": "hand"', '"placer": "Hand"'))
    assert message(path) == ": not a mapping file: it is damaged, for it differs from its checksum"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("cores"), "has no cores, must have one"),
        (lambda c: c.update(core=3), "has 'core', must not"),
        (lambda c: c.update(cores=121), "cores is 121, must be 1 … 120"),
        (lambda c: c.update(cores=0), "cores is 0, must be 1 … 120"),
        (
            lambda c: c["mapping"]["routes"][0].__setitem__(2, 9),
            "a route has destinations 9, must have one of 2",
        ),
        (
            lambda c: c["mapping"]["locations"].__setitem__(1, [0, "0"]),
            ".mapping.locations[1][1]: is '0', must be an integer of at most 64 bits",
        ),
        (
            lambda c: c["mapping"]["locations"].__setitem__(1, [0]),
            ".mapping.locations[1]: has 1 items, must have 2",
        ),
        (lambda c: c["mapping"].pop("in_flight"), ".mapping: has no in_flight, must have one"),
        (
            lambda c: c["mapping"].update(in_flight="2"),
            ".mapping.in_flight: is '2', must be an integer of at most 64 bits",
        ),
        (lambda c: c.update(system=None), ".system: is None, must be an object"),
    ],
)
def test_a_mapping_of_something_else(
    change: Callable[[dict[str, Any]], Any], said: str, path: Path
) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_anew(path, content)
    assert message(path) == f": not a mapping file: {said}"


@pytest.mark.parametrize(
    ("figure", "values", "said"),
    [
        (
            "energy_per_synop_pj",
            [-1e9, -1e9, -1e9],
            "energy_per_synop_pj must have a value, or low, central and high, finite, at least 0",
        ),
        (
            "energy_per_synop_pj",
            [3, 2, 4],
            "energy_per_synop_pj must have low <= central <= high, has 3, 2, 4",
        ),
        ("cores", [1.5, 1.5, 1.5], "cores must be a whole number of at least 1"),
        ("cores", [1 << 41] * 3, "cores is 2.19902e+12, must be at most 1099511627776"),
        ("cores", [1 << 22] * 3, "has 3.35544e+07 cores on all chips, must have at most 4194304"),
    ],
)
def test_a_system_with_impossible_figures(
    figure: str, values: list[float], said: str, path: Path
) -> None:
    content = json.loads(path.read_text())
    content["system"]["chip"][figure] |= dict(zip(("low", "central", "high"), values, strict=True))
    write_anew(path, content)
    assert message(path) == f": its system: {said}"


def test_an_energy_that_is_no_number(path: Path) -> None:
    content = json.loads(path.read_text())
    content["system"]["chip"]["energy_per_synop_pj"]["central"] = float("nan")
    write_anew(path, content)
    assert message(path) == ": not a mapping file: NaN is no number of JSON, must be finite"
    path.write_text(path.read_text().replace("NaN", "1e999"))
    content = json.loads(path.read_text())
    path.write_text(path.read_text().replace(content["sha256"], checksum(content)))
    assert message(path) == (
        ": not a mapping file: .system.chip.energy_per_synop_pj.central: is inf, must be a finite "
        "number"
    )


@pytest.mark.slow
def test_every_value_of_every_wrong_type(path: Path, spoilt: Spoilt) -> None:
    """With a checksum that is right: one line that names the file, or a mapping to check."""
    content, before, refused, accepted = json.loads(path.read_text()), path.read_text(), 0, 0
    for where in spoilt(content):
        write_anew(path, content)
        try:
            load_mapping(path)
            accepted += 1
        except (MappingError, HardwareError) as error:
            refused += 1
            assert str(error).startswith(f"{path}: "), where
            assert "\n" not in str(error), where
    assert refused > 5 * accepted > 50
    path.write_text(before)
    load_mapping(path)
