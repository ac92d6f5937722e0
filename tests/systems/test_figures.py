"""Figures that a user sets, one by one."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mmfree_neuro.errors import HardwareError
from mmfree_neuro.systems.figures import (
    SOURCE,
    Setting,
    figures,
    settings_of,
    with_figure,
    with_figures,
)
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec


def test_every_figure_has_a_name() -> None:
    system = load_system("oheo-gulch")
    found = figures(system)
    assert found["chip.cores"] == system.chip.cores
    assert found["system.chips"] == system.chips
    assert "chip.output_axons_per_core" not in found  # nobody knows it
    assert all(name.partition(".")[0] in ("chip", "system") for name in found)


def test_nothing_is_set() -> None:
    system = load_system("oheo-gulch")
    assert with_figures(system, {}) is system


@pytest.mark.parametrize(
    ("setting", "expected", "text"),
    [
        ("5", (5, 5, 5), "5"),
        (" 5.5", (5.5, 5.5, 5.5), "5.5"),
        ("3,5,9", (3, 5, 9), "3,5,9"),
        (5, (5, 5, 5), "5"),
        ((3, 5.5, 9), (3, 5.5, 9), "3,5.5,9"),
    ],
)
def test_a_number_or_a_range(
    setting: Setting, expected: tuple[float, float, float], text: str
) -> None:
    system = load_system("oheo-gulch")
    found = with_figures(system, {"chip.energy_per_synop_pj": setting})
    assert found == replace(
        system,
        description=f"{system.description}; set by the user: chip.energy_per_synop_pj = {text}",
        chip=replace(system.chip, energy_per_synop_pj=Quantity(*expected, SOURCE)),
    )


def test_figures_of_the_system_and_its_chips_together() -> None:
    system = load_system("oheo-gulch")
    found = with_figures(system, {"system.host_power_w": 3, "chip.output_axons_per_core": "99"})
    assert found.host_power_w == Quantity(3, 3, 3, SOURCE)
    assert found.chip.output_axons_per_core == Quantity(99, 99, 99, SOURCE)
    assert found.description.endswith(
        "; set by the user: system.host_power_w = 3, chip.output_axons_per_core = 99"
    )


def test_a_figure_that_is_set_again() -> None:
    """The description names what is in force."""
    system = load_system("oheo-gulch")
    first = with_figures(system, {"chip.cores": 9, "system.host_power_w": "1,2,3"})
    again = with_figures(first, {"chip.cores": 7})
    assert again.description == (
        f"{system.description}; set by the user: system.host_power_w = 1,2,3, chip.cores = 7"
    )


def test_one_figure_alone() -> None:
    system, value = load_system("oheo-gulch"), Quantity(1, 2, 3, "x")
    assert with_figure(system, "chip.cores", value) == replace(
        system, chip=replace(system.chip, cores=value)
    )
    assert with_figure(system, "system.chips", value) == replace(system, chips=value)


WRONG: list[tuple[Mapping[str, Setting], str]] = [
    (
        {"chip.barier_many_chips_ns": 1},
        "'chip.barier_many_chips_ns' is not a figure of a system, the nearest is "
        "chip.barrier_many_chips_ns",
    ),
    (
        {"chip.board_power_w": 1},
        "'chip.board_power_w' is not a figure of a system, the nearest is system.board_power_w",
    ),
    ({"cores": 1}, "'cores' is not a figure of a system, the nearest is chip.cores"),
    ({"chip.name": "x"}, "'chip.name' is not a figure of a system, the nearest is chip.cores"),
    (
        {"chip.cores": "4,5"},
        "chip.cores is '4,5', must be a number, or low, central and high as 3,5,9",
    ),
    (
        {"chip.cores": "four"},
        "chip.cores is 'four', must be a number, or low, central and high as 3,5,9",
    ),
    (
        {"chip.cores": (1, None, 2)},  # type: ignore[dict-item]
        "chip.cores is (1, None, 2), must be a number, or low, central and high as 3,5,9",
    ),
    ({3: 1}, "3 is not a figure of a system, the nearest is system.powered_chips"),  # type: ignore[dict-item]
    (
        {"chip.cores": b"5"},  # type: ignore[dict-item]
        "chip.cores is b'5', must be a number, or low, central and high as 3,5,9",
    ),
    (
        {"chip.cores": True},
        "chip.cores is True, must be a number, or low, central and high as 3,5,9",
    ),
    ({"chip.cores": 1.5}, "the figures that were set: cores must be a whole number of at least 1"),
    (
        {"chip.energy_per_hop_pj": "3,2,9"},
        "the figures that were set: energy_per_hop_pj must have low <= central <= high, has 3, 2, "
        "9",
    ),
    (
        {"chip.energy_per_hop_pj": "nan"},
        "the figures that were set: energy_per_hop_pj must have a value, or low, central and "
        "high, finite, at least 0",
    ),
    (
        {"system.chips": 1e6},
        "the figures that were set: has 1.28e+08 cores on all chips, must have at most 4194304",
    ),
]


@pytest.mark.parametrize(("settings", "said"), WRONG)
def test_figures_that_cannot_be(settings: Mapping[str, Setting], said: str) -> None:
    system: SystemSpec = load_system("oheo-gulch")
    with pytest.raises(HardwareError) as error:
        with_figures(system, settings)
    assert str(error.value) == said


def test_settings_as_texts() -> None:
    assert settings_of(["chip.cores=3", " chip.cores = 4,5,6", "x=a=b"]) == {
        "chip.cores": "4,5,6",
        "x": "a=b",
    }
    with pytest.raises(HardwareError) as error:
        settings_of(["chip.cores"])
    assert str(error.value) == (
        "'chip.cores' sets no figure, must be such as chip.energy_per_synop_pj=5"
    )
