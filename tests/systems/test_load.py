"""Chips and systems are data that somebody can check: every figure has a source, every mistake a
message."""

import re
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

from mmfree_neuro.errors import HardwareError
from mmfree_neuro.systems import load
from mmfree_neuro.systems.as_toml import as_toml
from mmfree_neuro.systems.load import (
    check_system,
    chip_names,
    load_system,
    parse_system,
    system_names,
)
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

SYSTEMS = (
    "alia-point",
    "alia-point-32",
    "hala-point",
    "kapoho-point",
    "loihi1-nahuku",
    "oheo-gulch",
)
OPTIONAL = {field.name for field in fields(ChipSpec) if field.default is not MISSING}


def quantities(spec: ChipSpec | SystemSpec) -> dict[str, Quantity]:
    """The figures of a chip or a system by name, without those of a system's chip."""
    found = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return {name: value for name, value in found.items() if isinstance(value, Quantity)}


def table(spec: type, **changed: str) -> str:
    """The lines of a valid [chip] or [system], every figure 1; `changed` replaces a line, or drops
    it where empty."""
    figures = {
        f.name: '{value = 1, source = "a data sheet"}'
        for f in fields(spec)
        if f.type in (Quantity, "Quantity")
    }
    texts = (
        {"name": '"mine"', "description": '"my own"'}
        if spec is SystemSpec
        else {"name": '"my chip"'}
    )
    return "".join(
        f"{name} = {value}\n" for name, value in (texts | figures | changed).items() if value
    )


def own(chip: str | None = None, system: str | None = None) -> str:
    """The text of a system file with a chip of its own."""
    chip = table(ChipSpec) if chip is None else chip
    return f"[system]\n{table(SystemSpec) if system is None else system}\n[chip]\n{chip}"


def message(text: str) -> str:
    """What the user of a wrong file is told; without the line, which is that of the figure."""
    with pytest.raises(HardwareError) as error:
        parse_system(text, "mine.toml")
    said = str(error.value)
    if line := re.search(r": line (\d+): '?(\w+)", said):
        assert text.splitlines()[int(line[1]) - 1].startswith(f"{line[2]} = ")
        said = said.replace(f": line {line[1]}", "", 1)
    return said


def test_what_ships() -> None:
    assert chip_names() == ["loihi1", "loihi2"]
    assert system_names() == sorted(SYSTEMS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_figure_that_ships_has_a_source_and_lies_in_its_range(name: str) -> None:
    system = load_system(name)
    assert system.name == name
    assert system.description
    for spec, others in ((system, {"name", "description", "chip"}), (system.chip, {"name"})):
        assert quantities(spec).keys() | OPTIONAL | {"powered_chips"} | others == {
            field.name for field in fields(spec)
        } | OPTIONAL | {"powered_chips"}
        for figure in quantities(spec).values():
            assert figure.source.strip()
            assert 0 <= figure.low <= figure.central <= figure.high < float("inf")


@pytest.mark.parametrize(
    ("name", "chip", "chips"),
    [
        ("oheo-gulch", "loihi2", 1),
        ("kapoho-point", "loihi2", 8),
        ("alia-point", "loihi2", 128),
        ("alia-point-32", "loihi2", 32),
        ("hala-point", "loihi2", 1152),
        ("loihi1-nahuku", "loihi1", 32),
    ],
)
def test_every_system_has_its_chips_in_a_full_grid(name: str, chip: str, chips: int) -> None:
    system = load_system(name)
    assert (system.chip.name, system.chips.central) == (chip, chips)
    assert system.chip_columns.central * system.chip_rows.central == chips


def test_the_figures_that_are_not_known_of_every_chip() -> None:
    known = {
        name: quantities(load_system(name).chip).keys() & OPTIONAL
        for name in ("oheo-gulch", "loihi1-nahuku")
    }
    both = {"output_axons_per_core", "program_instructions_per_core"}
    assert known == {"oheo-gulch": OPTIONAL - both, "loihi1-nahuku": {"output_axons_per_core"}}


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_is_counted_is_a_whole_number(name: str) -> None:
    system = load_system(name)
    chip = system.chip
    found = quantities(system) | quantities(chip)
    assert load.COUNTS - found.keys() <= OPTIONAL | {"powered_chips"}
    for figure in (found[name] for name in load.COUNTS & found.keys()):
        for value in (figure.low, figure.central, figure.high):
            assert value >= 1
            assert value == int(value)


@pytest.mark.parametrize("name", chip_names())
def test_more_chips_never_make_a_shorter_barrier(name: str) -> None:
    chip = next(s.chip for s in map(load_system, SYSTEMS) if s.chip.name == name)
    one, few, many = chip.barrier_one_chip_ns, chip.barrier_few_chips_ns, chip.barrier_many_chips_ns
    for bound in ("low", "central", "high"):
        assert getattr(one, bound) <= getattr(few, bound) <= getattr(many, bound)


def test_loihi2_limits_are_those_of_the_brief() -> None:
    chip = load_system("oheo-gulch").chip
    assert (chip.cores.central, chip.mesh_columns.central) == (120, 8)
    routers = chip.cores.high / chip.cores_per_router.central
    assert routers / chip.mesh_columns.central == 4  # rows
    assert chip.memory_bytes_per_core.central == 192 * 1024
    assert chip.synaptic_memory_bytes_per_core.high == 128 * 1024
    assert (chip.neurons_per_core.high, chip.state_bytes_per_neuron.central) == (8192, 4096)
    assert (chip.weight_bits.low, chip.weight_bits.high) == (1, 8)


def test_a_user_can_describe_a_chip_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    spread = '{low = 1, central = 2.5, high = 4, source = "two papers"}'
    file.write_text(own(chip=table(ChipSpec, energy_per_hop_pj=spread)), encoding="utf-8")
    system = load_system(str(file))
    assert (system.name, system.description, system.chip.name) == ("mine", "my own", "my chip")
    assert system.chips == Quantity(1, 1, 1, "a data sheet")
    assert system.chip.energy_per_hop_pj == Quantity(1, 2.5, 4, "two papers")
    assert (system.chip.output_axons_per_core, system.chip.program_instructions_per_core) == (
        None,
        None,
    )


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_a_user_can_say_what_is_not_known_of_every_chip(name: str) -> None:
    chip = parse_system(
        own(chip=table(ChipSpec, **{name: '{value = 256, source = "a data sheet"}'})), "mine.toml"
    ).chip
    assert getattr(chip, name) == Quantity(256, 256, 256, "a data sheet")
    assert all(getattr(chip, other) is None for other in OPTIONAL - {name})


@pytest.mark.parametrize("name", sorted(OPTIONAL))
@pytest.mark.parametrize(
    ("raw", "must"),
    [
        ("256", "be a table with a number and a source"),
        ("{value = 256}", "be a table with a number and a source"),
        (
            '{value = -1, source = "x"}',
            "have a value, or low, central and high, finite, at least 0",
        ),
        ('{value = 0, source = "x"}', "be a whole number of at least 1"),
        ('{low = 1, central = 1.5, high = 2, source = "x"}', "be a whole number of at least 1"),
        (
            '{low = 3, central = 2, high = 4, source = "x"}',
            "have low <= central <= high, has 3, 2, 4",
        ),
    ],
)
def test_a_figure_that_may_be_missing_may_not_be_wrong(name: str, raw: str, must: str) -> None:
    assert (
        message(own(chip=table(ChipSpec, **{name: raw})))
        == f"mine.toml: [chip]: {name} must {must}"
    )


def test_a_user_can_put_our_chip_on_a_board_of_their_own() -> None:
    system = parse_system("[system]\n" + table(SystemSpec, chip='"loihi2"'), "mine.toml")
    assert system == replace(
        load_system("oheo-gulch"), **quantities(system), name="mine", description="my own"
    )


def test_a_system_that_is_not_known() -> None:
    with pytest.raises(HardwareError) as error:
        load_system("lihue")
    assert str(error.value) == (
        "system 'lihue' is not known, must be one of alia-point, alia-point-32, hala-point, "
        "kapoho-point, "
        "loihi1-nahuku, oheo-gulch, or a .toml file"
    )


def test_a_chip_that_is_not_known() -> None:
    text = "[system]\n" + table(SystemSpec, chip='"loihi3"')
    assert message(text) == "mine.toml: chip 'loihi3' is not known, must be one of loihi1, loihi2"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    file = str(tmp_path / "none.toml")
    with pytest.raises(HardwareError) as error:
        load_system(file)
    assert str(error.value) == f"{file}: no such file, must be a TOML file of a system"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(HardwareError) as error:
        load_system(str(file))
    assert str(error.value) == (
        f"{file}: not a TOML file of a system, or damaged "
        "(\"'utf-8' codec can't decode ...sition 0: invalid start byte\")"
    )


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, "not a TOML file of a system: is a folder, must be a regular file"),
        (Path("/dev/zero"), "not a TOML file of a system: is a device, must be a regular file"),
    ):
        with pytest.raises(HardwareError) as error:
            load_system(path)
        assert str(error.value) == f"{path}: {said}"
    large = tmp_path / "large.toml"
    large.write_bytes(b" " * (load.LARGEST_FILE + 1))
    with pytest.raises(HardwareError) as error:
        load_system(str(large))
    assert str(error.value) == (
        f"{large}: not a TOML file of a system: has 65537 bytes, must have at most 65536"
    )


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 60_000, "a." * 30_000 + "a = 1", "[" + "a ." * 20_000 + "a]"]
)
def test_a_file_that_is_nested_too_deep(text: str, tmp_path: Path) -> None:
    """Of the dotted keys each would take the reader of TOML a minute."""
    file = tmp_path / "deep.toml"
    file.write_text(text)
    with pytest.raises(HardwareError) as error:
        load_system(str(file))
    assert str(error.value) == f"{file}: not readable as TOML (nested too deep)"


def test_a_file_that_is_not_toml() -> None:
    with pytest.raises(
        load.tomllib.TOMLDecodeError
    ) as reason:  # its wording is that of the Python at hand
        load.tomllib.loads("[system")
    assert message("[system") == f"mine.toml: not readable as TOML ({reason.value})"


@pytest.mark.parametrize("text", ["", "system = 3", "[chip]\n"])
def test_a_file_without_a_system(text: str) -> None:
    assert message(text) == "mine.toml: must have a table [system]"


@pytest.mark.parametrize("name", ["", "3", '""'])
@pytest.mark.parametrize("text", ["name", "description"])
def test_a_system_without_its_texts(text: str, name: str) -> None:
    assert (
        message(own(system=table(SystemSpec, **{text: name})))
        == f"mine.toml: {text} must be a text"
    )


def test_a_chip_without_a_name() -> None:
    assert message(own(chip=table(ChipSpec, name=""))) == "mine.toml: [chip]: name must be a text"


def test_a_figure_that_is_missing() -> None:
    assert message(own(chip=table(ChipSpec, cores=""))) == "mine.toml: [chip]: cores is missing"
    for name in ("chips", "chip_rows", "host_power_w"):
        assert (
            message(own(system=table(SystemSpec, **{name: ""}))) == f"mine.toml: {name} is missing"
        )


@pytest.mark.parametrize(
    ("name", "raw", "must"),
    [
        ("chip_rows", '{value = 0, source = "x"}', "be a whole number of at least 1"),
        ("host_power_w", "10", "be a table with a number and a source"),
        (
            "host_power_w",
            '{value = -1, source = "x"}',
            "have a value, or low, central and high, finite, at least 0",
        ),
    ],
)
def test_a_figure_of_a_board_that_is_wrong(name: str, raw: str, must: str) -> None:
    assert message(own(system=table(SystemSpec, **{name: raw}))) == f"mine.toml: {name} must {must}"


def test_the_line_of_a_wrong_figure_is_said() -> None:
    """Of the figure of that name in that table; none where it is written in another way."""
    begin = '[system]\nbase = "kapoho-point"\n\n[ chip ]  # of ours\n'
    for lines, where in (
        ("cores = 3\n", "[chip]: line 5"),
        ("# cores = 3\n\n  'cores' = 3\n", "[chip]: line 7"),
        ("cores.value = 3\n", "[chip]"),
    ):
        with pytest.raises(HardwareError) as error:
            parse_system(begin + lines, "mine.toml")
        assert str(error.value) == (
            f"mine.toml: {where}: cores must be a table with a number and a source"
        )


HALF = '{ value = 20600, source = "half of ours" }'


def test_a_file_of_only_what_differs() -> None:
    ours = load_system("alia-point-32")
    chip = replace(ours.chip, barrier_many_chips_ns=Quantity(20600, 20600, 20600, "half of ours"))
    changed = f"[chip]\nbarrier_many_chips_ns = {HALF}\n"
    found = parse_system(f'[system]\nbase = "alia-point-32"\n{changed}', "mine.toml")
    assert found == replace(
        ours,
        name="alia-point-32-changed",
        description=f"{ours.description}, changed",
        chip=replace(chip, name="loihi2-changed"),
    )
    named = 'name = "mine"\ndescription = "my own"\nbase = "kapoho-point"\nhost_power_w = '
    found = parse_system(f'[system]\n{named}{HALF}\n{changed}name = "fast"\n', "mine.toml")
    assert found == replace(
        load_system("kapoho-point"),
        name="mine",
        description="my own",
        host_power_w=Quantity(20600, 20600, 20600, "half of ours"),
        chip=replace(chip, name="fast"),
    )
    whole = f"[system]\n{table(SystemSpec)}"
    found = parse_system(f'{whole}[chip]\nbase = "loihi2"\n{changed[7:]}', "mine.toml")
    assert found.chip == replace(chip, name="loihi2-changed")
    other = parse_system('[system]\nbase = "alia-point-32"\nchip = "loihi1"\n', "mine.toml")
    assert other.chip == load_system("loihi1-nahuku").chip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[system]\nbase = "kapoho"\n',
            "line 2: system 'kapoho' is not known, must be one of alia-point, alia-point-32, "
            "hala-point, kapoho-point, loihi1-nahuku, oheo-gulch",
        ),
        (
            '[system]\nbase = "oheo-gulch"\n[chip]\nbase = 3\n',
            "[chip]: line 4: chip 3 is not known, must be one of loihi1, loihi2",
        ),
        (
            '[system]\nbase = "oheo-gulch"\n[chips]\ncores = 3\n',
            "'chips' is not a table that this file may have, must be [system] or [chip]",
        ),
        ('chip = 3\n[system]\nbase = "oheo-gulch"\n', "must name a chip or have a table [chip]"),
    ],
)
def test_a_base_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(HardwareError) as error:
        parse_system(text, "mine.toml")
    assert str(error.value) == f"mine.toml: {said}"


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_as_a_file_is_the_same_system(name: str) -> None:
    system = load_system(name)
    assert parse_system(as_toml(system), "mine.toml") == system
    text = 'a "quoted" \\ text\n\twith 24 \u00b5s, \x7f, \x85, \x01 and \U0001f600'
    odd = replace(system, description=text)
    assert parse_system(as_toml(odd), "mine.toml") == odd


def test_a_figure_in_the_wrong_table() -> None:
    one = '{value = 1, source = "x"}'
    assert message(own(chip=table(ChipSpec, board_power_w=one))) == (
        "mine.toml: [chip]: 'board_power_w' is a figure of [system], must stand there"
    )
    assert message(own(system=table(SystemSpec, cores=one))) == (
        "mine.toml: 'cores' is a figure of [chip], must stand there"
    )


def test_a_figure_that_nobody_reads() -> None:
    chip = table(ChipSpec, energy_per_sin_pj='{value = 1, source = "x"}')
    assert (
        message(own(chip=chip))
        == "mine.toml: [chip]: 'energy_per_sin_pj' is not a figure that this file may have, the "
        "nearest is energy_per_synop_pj"
    )
    system = table(SystemSpec, chipz='{value = 1, source = "x"}')
    assert (
        message(own(system=system))
        == "mine.toml: 'chipz' is not a figure that this file may have, the nearest is chips"
    )


@pytest.mark.parametrize(
    "raw",
    ["128", '"128"', "{value = 128}", '{value = 128, source = ""}', "{value = 128, source = 3}"],
)
def test_a_figure_without_a_source(raw: str) -> None:
    found = message(own(chip=table(ChipSpec, cores=raw)))
    assert found == "mine.toml: [chip]: cores must be a table with a number and a source"


@pytest.mark.parametrize(
    "numbers",
    [
        "value = -1",
        "value = true",
        'value = "128"',
        "low = 1, high = 2",
        "low = 1, central = 2",
        "central = 2, high = 3",
        "low = -1, central = 2, high = 3",
    ],
)
def test_a_figure_without_its_numbers(numbers: str) -> None:
    raw = f'{{{numbers}, source = "x"}}'
    assert message(own(chip=table(ChipSpec, cores=raw))) == (
        "mine.toml: [chip]: cores must have a value, or low, central and high, finite, at least 0"
    )


@pytest.mark.parametrize(
    ("numbers", "has"),
    [("low = 2, central = 1, high = 3", "2, 1, 3"), ("low = 1, central = 4, high = 3", "1, 4, 3")],
)
def test_a_figure_outside_its_own_range(numbers: str, has: str) -> None:
    raw = f'{{{numbers}, source = "x"}}'
    assert message(own(chip=table(ChipSpec, cores=raw))) == (
        f"mine.toml: [chip]: cores must have low <= central <= high, has {has}"
    )


def test_a_count_is_a_whole_number() -> None:
    said = message(own(chip=table(ChipSpec, cores='{value = 1.5, source = "x"}')))
    assert said == "mine.toml: [chip]: cores must be a whole number of at least 1"


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("cores", "1e9", "has 1e+09 cores on all chips, must have at most 4194304"),
        ("cores", "2e12", "cores is 2e+12, must be at most 1099511627776"),
        (
            "mesh_columns",
            "1e8",
            "has 1e+08 columns of routers on a chip, must have at most 4194304",
        ),
        ("payload_bits", "1e29", "payload_bits is 1e+29, must be at most 1099511627776"),
    ],
)
def test_a_chip_with_more_than_anything_can_be_computed_of(
    name: str, value: str, must: str
) -> None:
    said = message(own(chip=table(ChipSpec, **{name: f'{{value = {value}, source = "x"}}'})))
    where = "mine.toml: [chip]" if "must be" in must else "mine.toml"
    assert said == f"{where}: {must}"


def test_a_board_with_more_places_than_anything_can_be_computed_of() -> None:
    system = table(SystemSpec, chip_rows='{value = 1e9, source = "x"}')
    assert message(own(system=system)) == (
        "mine.toml: has 1e+09 places for chips, must have at most 4194304"
    )


@pytest.mark.parametrize("value", ["nan", "inf", "1e30", "9" * 400])
def test_a_figure_that_is_no_number(value: str) -> None:
    said = message(own(chip=table(ChipSpec, cores=f'{{value = {value}, source = "x"}}')))
    assert said == (
        "mine.toml: [chip]: cores must have a value, or low, central and high, finite, at least 0"
    )


def test_a_system_from_a_file_of_ours(system: SystemSpec) -> None:
    """The figures in mappings and runs are held against the same rules."""
    check_system(system, "its system")
    chip = replace(system.chip, static_power_w=Quantity(-1, 0, 0, "x"))
    with pytest.raises(HardwareError) as error:
        check_system(replace(system, chip=chip), "its system")
    assert str(error.value) == (
        "its system: static_power_w must have a value, or low, central and high, finite, at least 0"
    )
    with pytest.raises(HardwareError) as error:
        check_system(replace(system, chips=Quantity(1, 1, 1 << 40, "x")), "its system")
    assert str(error.value) == (
        "its system: has 1.40737e+14 cores on all chips, must have at most 4194304"
    )


def test_a_misspelt_end_of_a_range() -> None:
    raw = '{value = 5, hihg = 9, source = "x"}'
    assert message(own(chip=table(ChipSpec, cores=raw))) == (
        "mine.toml: [chip]: cores must have a value, or low, central and high, finite, at least 0"
    )


def test_a_chip_named_and_in_place() -> None:
    text = own()
    assert "[chip]" in text
    said = message(text.replace("[system]\n", '[system]\nchip = "loihi2"\n', 1))
    assert said == "mine.toml: names a chip and has a table [chip], must have one of them"


def test_no_chip_at_all() -> None:
    said = message(own().split("[chip]")[0])
    assert said == "mine.toml: must name a chip or have a table [chip]"
