"""A finished run, costed on other systems: what comes of it is what a fresh run there gives."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import HardwareError, InputError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.pipeline.recost import recosted
from mmfree_neuro.pipeline.sensitivity import of_run
from mmfree_neuro.run.run_file import RunRecord, load_run
from mmfree_neuro.systems.figures import figures
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity

Said = pytest.CaptureFixture[str]
SETTINGS = "chip.energy_per_synop_pj=5", "chip.barrier_few_chips_ns=3000,4000,9000"


@pytest.fixture(scope="module")
def folder(
    random_graph: Callable[[str, str], Graph], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A graph, and a run of it on three chips."""
    path = tmp_path_factory.mktemp("recost")
    graph_file.save_graph(random_graph("small", "a14-late"), path / "model.graph")
    made(path, "run")
    return path


def made(folder: Path, name: str, *more: str) -> None:
    """Map the graph, with more options, and run it."""
    where = ["--system", "kapoho-point", "--chips", "3", "--cores", "4"]
    mapping = str(folder / f"{name}.map")
    assert main(["map", str(folder / "model.graph"), *where, *more, "-o", mapping]) == 0
    what = ["--prompt", "ab", "--new-tokens", "5", "--engine", "fast"]
    assert main(["simulate", mapping, *what, "-o", str(folder / name)]) == 0


def reported(run: Path, *more: str) -> dict[str, Any]:
    """The report of a run as plain data, but for when and how it was made."""
    output = run.parent / "report.json"
    assert main(["report", str(run), *more, "-o", str(output)]) == 0
    content: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    for name in ("date", "versions", "options"):
        del content["header"][name]
    del content["simulator_seconds"]
    return content


@pytest.mark.slow
def test_a_report_with_figures_set_is_that_of_a_fresh_run(folder: Path) -> None:
    """To the last digit; and another than that of the run as it is."""
    settings = [part for text in SETTINGS for part in ("--set", text)]
    made(folder, "fresh", *settings)
    found = reported(folder / "run", *settings)
    assert found == reported(folder / "fresh")
    assert found["phases"] != reported(folder / "run")["phases"]
    assert found["header"]["description"] == (
        "Eight Loihi 2 on a board that can be stacked; set by the user: "
        "chip.energy_per_synop_pj = 5, chip.barrier_few_chips_ns = 3000,4000,9000"
    )


@pytest.mark.slow
def test_a_report_on_another_system_is_that_of_a_fresh_run_there(folder: Path) -> None:
    file = folder / "mine.toml"
    figure = '{ value = 2, source = "mine" }'
    file.write_text(f'[system]\nbase = "kapoho-point"\n[chip]\nstatic_power_w = {figure}\n')
    made(folder, "there", "--system", str(file))
    found = reported(folder / "run", "--system", str(file))
    assert found == reported(folder / "there")
    assert found["header"]["chip"] == "loihi2-changed"
    with_both = reported(folder / "run", "--system", str(file), "--set", "chip.static_power_w=3")
    sources = {row["name"]: row for row in with_both["sources"]}
    assert (sources["static power"]["central"], sources["static power"]["source"]) == (
        3,
        "set by the user",
    )


@pytest.fixture(scope="module")
def run(folder: Path) -> RunRecord:
    return load_run(folder / "run")


def test_nothing_changes(run: RunRecord) -> None:
    assert recosted(run, None, {}) is run
    for system in ("kapoho-point", load_system("kapoho-point")):
        found = recosted(run, system, {})
        assert (found.system, found.mapping) == (run.system, run.mapping)


def test_a_figure_that_changes_nothing_is_named(folder: Path, capsys: Said) -> None:
    """Three chips have the barrier of a few chips, and a limit that is set is shown."""
    told = (
        "chip.barrier_many_chips_ns is set and changes nothing here, neither an estimate nor a "
        "limit of a core"
    )
    names = "chip.barrier_many_chips_ns", "chip.barrier_few_chips_ns", "chip.neurons_per_core"
    settings = [part for name in names for part in ("--set", f"{name}=5000")]
    assert reported(folder / "run", *settings)["warnings"] == [told]
    assert f"mmfree-neuro: warning: {told}\n" in capsys.readouterr().err
    page = folder / "set.html"
    assert main(["report", str(folder / "run"), *settings, "-o", str(page)]) == 0
    assert f"<p>Warning: {told}.</p>" in page.read_text(encoding="utf-8")


def test_weights_stay_as_wide_as_they_are(run: RunRecord) -> None:
    wide = replace(run.system.chip, weight_bits=Quantity(2, 4, 8, "wide"))
    found = recosted(run, replace(run.system, chip=wide), {})
    assert found.system.chip.weight_bits == Quantity(2, 2, 2, "chosen; wide")
    wider = replace(run.system.chip, weight_bits=Quantity(4, 4, 8, "wider"))
    with pytest.raises(InputError) as error:
        recosted(run, replace(run.system, chip=wider), {})
    assert str(error.value) == "weights of 2 bits were asked for, loihi2 has 4 to 8"


def test_where_nothing_takes_energy(run: RunRecord) -> None:
    """A figure that alone makes some is the widest."""
    none = {name: 0 for name in figures(run.system) if "energy_per" in name or "power_w" in name}
    free = recosted(run, None, none | {"chip.energy_per_message_pj": (0, 0, 5)})
    for one in of_run(free):
        assert one.base.millijoule_per_token == 0
        assert one.swings[0].figure == "chip.energy_per_message_pj"


@pytest.mark.parametrize(
    ("system", "settings", "said"),
    [
        ("oheo-gulch", {}, "does not fit oheo-gulch: core 0 of chip 1 must be one of oheo-gulch"),
        (
            None,
            {"chip.accumulator_bits": 23},
            "does not fit kapoho-point: it needs accumulators of 24 bits, loihi2 has 23",
        ),
        (
            None,
            {"chip.payload_bits": 15},
            "does not fit kapoho-point: it needs payloads of 24 bits, loihi2 has 15",
        ),
        (
            None,
            {"chip.neuron_groups_per_core": 1},
            "does not fit kapoho-point: core 0 of chip 0 has",
        ),
    ],
)
def test_mappings_that_do_not_fit(
    system: str | None, settings: dict[str, float], said: str, run: RunRecord
) -> None:
    with pytest.raises(InputError) as error:
        recosted(run, system, settings)
    assert str(error.value).startswith(f"the run's mapping {said}")
    if said.endswith("has"):
        assert str(error.value).endswith(" of groups, loihi2 has 1")


def test_weights_are_stored_by_the_mapping(run: RunRecord) -> None:
    with pytest.raises(InputError) as error:
        recosted(run, None, {"chip.weight_bits": 8})
    assert str(error.value) == (
        "weights are stored by the mapping, so chip.weight_bits cannot be set"
    )
    with pytest.raises(HardwareError):
        recosted(run, "lihue", {})


def test_a_report_says_what_published_rows_leave(folder: Path, capsys: Said) -> None:
    """Of the estimates, inside what all ends at once would give; and of every figure."""
    page = folder / "left.md"
    capsys.readouterr()
    assert main(["report", str(folder / "run"), "-o", str(page)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "[" in line]
    assert [line.split()[0] for line in lines] == ["estimated", "prefill", "generate"]
    text = page.read_text(encoding="utf-8")
    assert "the median, and the range goes from 5 to 95 %" in text
    rows = [line for line in text.splitlines() if line.startswith("| chip: barrier few chips |")]
    assert len(rows) == 1 and "| pinned |" in rows[0]
    found = reported(folder / "run")
    for phase in found["phases"].values():
        for name, corner in phase["corners"].items():
            assert corner["low"] < phase[name]["low"] < phase[name]["high"] < corner["high"]
    left = {f"{row['of']}: {row['name']}": row["left"] for row in found["sources"]}
    assert left["chip: barrier few chips"] < 0.5 < left["chip: time per hop"]
    assert left["chip: cores"] is None


def test_which_figures_matter(folder: Path, capsys: Said) -> None:
    picture = folder / "tornado.png"
    capsys.readouterr()
    assert main(["sensitivity", str(folder / "run"), "--picture", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert lines[0] == "kapoho-point: Eight Loihi 2 on a board that can be stacked"
    assert lines[1].startswith("prefill: ") and lines[-1] == f"wrote {picture}"
    assert [line.split(":")[0] for line in lines[1:] if line[0] != " "] == [
        "prefill",
        "generation",
        "variance",
        f"wrote {picture}",
    ]
    assert main(["sensitivity", str(folder / "run"), "--json"]) == 0
    told_of = json.loads(capsys.readouterr().out)
    assert (told_of["system"], lines[0].partition(": ")[2]) == (
        "kapoho-point",
        told_of["description"],
    )
    found = told_of["phases"]
    assert list(found) == ["prefill", "generate"]
    names = [swing["figure"] for swing in found["generate"]["swings"]]
    assert "chip.barrier_few_chips_ns" in names
    told = [line.split()[0] for line in lines if line.startswith(("  chip.", "  system."))]
    assert told == [s["figure"] for one in found.values() for s in one["swings"]]
    one = ["sensitivity", str(folder / "run"), "--set", "chip.barrier_few_chips_ns=5", "--json"]
    assert main(one) == 0
    fixed = json.loads(capsys.readouterr().out)["phases"]["generate"]
    assert "chip.barrier_few_chips_ns" not in [swing["figure"] for swing in fixed["swings"]]
    assert fixed["base"]["tokens_per_s"] > found["generate"]["base"]["tokens_per_s"]


def test_what_is_no_run(folder: Path, tmp_path: Path, capsys: Said) -> None:
    capsys.readouterr()
    for command in (["sensitivity", str(tmp_path)], ["report", str(tmp_path), "-o", "r.html"]):
        assert main(command) == 2
        said = f"mmfree-neuro: {tmp_path}: holds no run, must be a folder that simulate wrote\n"
        assert capsys.readouterr().err == said
    run = str(folder / "run")
    own = str(folder / "run" / "run.json")
    assert main(["sensitivity", run, "--picture", own]) == 2
    assert capsys.readouterr().err.startswith(f"mmfree-neuro: {own}: ")


@pytest.mark.slow
def test_a_system_as_a_file(folder: Path, tmp_path: Path, capsys: Said) -> None:
    """As it is printed it can be mapped onto, and gives the same mapping."""
    capsys.readouterr()
    assert main(["systems", "kapoho-point", "--toml"]) == 0
    (tmp_path / "k.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    made(folder, "printed", "--system", str(tmp_path / "k.toml"))
    printed, ours = (load_run(folder / name) for name in ("printed", "run"))
    assert (printed.mapping, printed.system) == (ours.mapping, ours.system)
    capsys.readouterr()
    for wrong in (["--toml"], ["kapoho-point", "--toml", "--json"]):
        assert main(["systems", *wrong]) == 2
        assert capsys.readouterr().err == (
            "mmfree-neuro: --toml is for one system, must come with its name and without --json\n"
        )
