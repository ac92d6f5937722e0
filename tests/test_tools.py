"""The tools that measure the layout of the code and compare checkouts, on tiny made-up trees."""

import importlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

TOOLS = Path(__file__).parent.parent / "tools"


def tool(name: str) -> ModuleType:
    """A tool as a module, beside those that it imports."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


house, house_picture = tool("house"), tool("house_picture")
check_packages, pythons = tool("check_packages"), tool("pythons")
compared_commands, compare_checkouts = tool("compared_commands"), tool("compare_checkouts")

TREE = {
    "mmfree_neuro/__init__.py": "",
    "mmfree_neuro/__main__.py": "from mmfree_neuro.cli import main\n",
    "mmfree_neuro/errors.py": "class Wrong(Exception):\n    pass\n",
    "mmfree_neuro/graph/__init__.py": '"""Graphs."""\n',
    "mmfree_neuro/graph/nodes.py": (
        "from mmfree_neuro.errors import Wrong\n\n"
        "def one():\n    def two():\n        return 2\n    return two\n"
    ),
    "mmfree_neuro/graph/verify.py": "from . import nodes\nfrom .nodes import one\n",
    "mmfree_neuro/run.py": (
        "import numpy\nimport mmfree_neuro.errors\nfrom mmfree_neuro import graph\n"
    ),
    "mmfree_neuro/cli.py": (
        "from mmfree_neuro import run\n\ndef main():\n    from mmfree_sims.fast import Engine\n    "
        "from mmfree_neuro.graph.verify import one\n"
    ),
    "sims/mmfree_sims/fast.py": "import mmfree_neuro.run as r, mmfree_neuro.errors\n",
}
"""Two packages: `cli` imports `graph` and an engine in a function, `run` imports `graph`."""

FLOORS = {"a.top": 2, "a.left": 1, "b.right": 1, "b.ground": 0}
ARROWS = {("a.top", "a.left"), ("a.top", "b.right"), ("a.left", "b.ground"), ("a.top", "b.ground")}


def laid(folder: Path, files: dict[str, str]) -> Path:
    """A tree of files with these texts."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


# The layout of the code.


def test_the_imports_of_a_file(tmp_path: Path) -> None:
    """Relative ones, several of one line, and those in functions; NumPy is no file of ours."""
    files = {file.name: file for file in house.read(laid(tmp_path, TREE))}
    imports = {name: [(i.imported, i.line) for i in file.imports] for name, file in files.items()}
    assert imports["mmfree_neuro.graph.verify"] == [
        ("mmfree_neuro.graph.nodes", 1),
        ("mmfree_neuro.graph.nodes", 2),
    ]
    assert imports["mmfree_neuro.run"] == [("mmfree_neuro.errors", 2), ("mmfree_neuro.graph", 3)]
    assert imports["mmfree_neuro.cli"] == [
        ("mmfree_neuro.run", 1),
        ("mmfree_sims.fast", 4),
        ("mmfree_neuro.graph.verify", 5),
    ]
    assert imports["mmfree_sims.fast"] == [("mmfree_neuro.errors", 1), ("mmfree_neuro.run", 1)]
    assert files["mmfree_neuro.graph.nodes"].longest_function == house.Size(
        4, "mmfree_neuro/graph/nodes.py:one"
    )


def test_the_measures_of_a_tree(tmp_path: Path) -> None:
    neuro, sims, together = house.measures(house.read(laid(tmp_path, TREE)))
    names = ("errors", "graph", "run", "cli")
    assert neuro.floors == {f"mmfree_neuro.{name}": k for k, name in enumerate(names)}
    assert (neuro.levels, neuro.files, neuro.lines) == (4, 8, 20)
    assert [(a.split(".")[1], b.split(".")[1]) for a, b in neuro.arrows] == [
        ("cli", "graph"),
        ("cli", "run"),
        ("graph", "errors"),
        ("run", "errors"),
        ("run", "graph"),
    ]
    assert (neuro.circles, neuro.file_circles) == ((), ())
    assert neuro.largest_file == house.Size(6, "mmfree_neuro/graph/nodes.py")
    assert (sims.levels, sims.arrows) == (1, ())
    assert (together.levels, together.floors["mmfree_sims.fast"]) == (5, 3)
    assert house.between(together.arrows) == {
        ("mmfree_neuro", "mmfree_sims"): 1,
        ("mmfree_sims", "mmfree_neuro"): 2,
    }


def test_circles_of_rooms_and_of_files(tmp_path: Path) -> None:
    """Rooms may stand in a circle though no file does: a.one needs b.two, and b.one needs a.two."""
    files = {f"mmfree_neuro/{room}/{name}.py": "" for room in "abc" for name in ("__init__", "two")}
    files["mmfree_neuro/a/one.py"] = "import mmfree_neuro.b.two\nimport mmfree_neuro.c.one\n"
    files["mmfree_neuro/b/one.py"] = "import mmfree_neuro.a.two\n"
    files["mmfree_neuro/c/one.py"] = "from mmfree_neuro.c.three import x\n"
    files["mmfree_neuro/c/three.py"] = "def f():\n    from mmfree_neuro.c import one\n"
    neuro, _ = house.measures(house.read(laid(tmp_path, files)))
    assert neuro.circles == (("mmfree_neuro.a", "mmfree_neuro.b"),)
    assert neuro.file_circles == (("mmfree_neuro.c.one", "mmfree_neuro.c.three"),)
    assert neuro.floors == {"mmfree_neuro.a": 1, "mmfree_neuro.b": 1, "mmfree_neuro.c": 0}


def test_a_folder_without_an_init_is_a_room(tmp_path: Path) -> None:
    files = {
        "kernels/mmfree_kernels/ops/glu/naive.py": "",
        "kernels/mmfree_kernels/train.py": "from mmfree_kernels.ops import glu\n",
    }
    kernels, _ = house.measures(house.read(laid(tmp_path, files)))
    assert kernels.arrows == (("mmfree_kernels.train", "mmfree_kernels.ops"),)


CONTRACT = f"""
[[tool.importlinter.contracts]]
name = "Another"
type = "forbidden"

[[tool.importlinter.contracts]]
name = "{house.ORDER}"
type = "layers"
layers = ["mmfree_neuro.graph", "mmfree_neuro.cli | mmfree_sims", "(mmfree_neuro.run) : x.y"]
ignore_imports = ["mmfree_sims.* -> mmfree_neuro.**"]
"""


def test_an_order_of_floors() -> None:
    found = house.order(CONTRACT)
    assert found == house.Order(
        {
            "mmfree_neuro.graph": 0,
            "mmfree_neuro.cli": 1,
            "mmfree_sims": 1,
            "mmfree_neuro.run": 2,
            "x.y": 2,
        },
        frozenset({1}),
        ("mmfree_sims.* -> mmfree_neuro.**",),
    )
    assert house.order("[project]\n") is None


def test_imports_against_an_order(tmp_path: Path) -> None:
    """`cli` imports `graph`, which is above it, and an engine beside it; `run` imports `graph`."""
    files = house.read(laid(tmp_path, TREE))
    wrong = house.against(house.order(CONTRACT), files)
    assert [(i.path, i.line, i.imported) for i in wrong] == [
        ("mmfree_neuro/cli.py", 4, "mmfree_sims.fast"),
        ("mmfree_neuro/cli.py", 5, "mmfree_neuro.graph.verify"),
        ("mmfree_neuro/run.py", 3, "mmfree_neuro.graph"),
    ]


@pytest.mark.parametrize(
    ("layers", "status", "says"),
    [
        (["cli", "run", "graph", "errors"], 0, '0 imports are against "{order}"\n'),
        (
            ["run", "cli", "graph"],
            1,
            "mmfree_neuro/cli.py:1: mmfree_neuro.cli imports mmfree_neuro.run\n"
            "on no floor: mmfree_neuro.errors\n"
            '1 imports are against "{order}"\n',
        ),
    ],
)
def test_the_order_is_shown(
    layers: list[str], status: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    laid(tmp_path, {name: text for name, text in TREE.items() if "sims" not in name})
    text = (
        f'[[tool.importlinter.contracts]]\nname = "{house.ORDER}"\ncontainers = ["mmfree_neuro"]\n'
    )
    (tmp_path / "pyproject.toml").write_text(f"{text}layers = {json.dumps(layers)}\n")
    assert house.show_order(tmp_path, house.read(tmp_path)) == status
    assert capsys.readouterr().out == says.format(order=house.ORDER)


def test_no_order_to_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    assert house.show_order(tmp_path, ()) == 2
    assert (
        capsys.readouterr().err == f'{tmp_path}/pyproject.toml: has no contract "{house.ORDER}"\n'
    )


def test_the_table_and_the_json_of_a_tree(tmp_path: Path) -> None:
    found = house.measures(house.read(laid(tmp_path, TREE)))
    lines = house.table(found).splitlines()
    assert lines[1].split() == ["mmfree_neuro", "4", "4", "5", "0", "0", "8", "20", "6", "4"]
    assert lines[-2:] == ["  mmfree_neuro -> mmfree_sims: 1", "  mmfree_sims -> mmfree_neuro: 2"]
    content = json.loads(json.dumps(house.plain(found)))
    assert content["packages"]["mmfree_neuro"]["levels"] == 4
    assert content["arrows_between_packages"]["mmfree_sims -> mmfree_neuro"] == 2


# The picture.


def test_arrows_that_others_imply() -> None:
    assert house_picture.needed(ARROWS, FLOORS) == ARROWS - {("a.top", "b.ground")}


def test_places_lie_as_near_as_can_be() -> None:
    """Two of width 14 want to lie at 0, a third far off lies where it wants."""
    row = [("a", "b", 1), ("a", "c", 1), ("a", "d", 1)]
    found = house_picture.spaced(row, [0.0, 0.0, 100.0])
    assert list(found.values()) == [-18.0, 18.0, 100.0]


def test_lines_that_cross() -> None:
    x = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0}
    assert house_picture.crossings(x, {"a": ["d"], "b": ["c"]}) == 1
    assert house_picture.crossings(x, {"a": ["c", "d"], "b": ["d"]}) == 0


def test_boxes_do_not_overlap_and_arrows_pass_beside_them() -> None:
    floors = {f"mmfree_neuro.room_{k}": k // 3 for k in range(12)}
    arrows = {(a, b) for a in floors for b in floors if floors[a] > floors[b]} - {
        (f"mmfree_neuro.room_{k}", f"mmfree_neuro.room_{k - 3}") for k in range(3, 12)
    }
    drawing = house_picture.draw(floors, arrows)
    for floor, row in enumerate(drawing.rows):
        assert {place for place in row if isinstance(place, str)} == {
            room for room, at in floors.items() if at == floor
        }
        ends = [
            (drawing.x[p] - house_picture.width(p) / 2, drawing.x[p] + house_picture.width(p) / 2)
            for p in row
        ]
        assert all(right < left for (_, right), (left, _) in pairwise(ends))
        assert ends[0][0] >= house_picture.LEFT - 1e-6


def test_the_picture_is_svg_with_every_room_and_arrow(tmp_path: Path) -> None:
    house_picture.picture(tmp_path / "house.svg", FLOORS, ARROWS | {("a.left", "b.right")})
    root = ElementTree.parse(tmp_path / "house.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{name}text")]
    assert {"top", "left", "right", "ground", "floor 0", "floor 1", "floor 2"} <= set(texts)
    lines = [path.get("stroke") for path in root.iter(f"{name}path") if path.get("stroke")]
    assert (len(lines), lines.count("#cc0000")) == (5, 1)


# The commands that checkouts are compared by.


def test_commands_of_a_text() -> None:
    text = 'json: map a -o b\n\nmpi: simulate b --prompt "x y"\nsystems\n'
    assert [command.name for command in compared_commands.parse(text, 2)] == [
        "mmfree-neuro map a -o b",
        "mmfree-neuro map a -o b --json",
        "mpiexec -n 2 mmfree-neuro simulate b --prompt 'x y'",
        "mmfree-neuro systems",
    ]
    assert len(compared_commands.parse(text, 0)) == 3


def test_every_command_is_compared_and_none_twice() -> None:
    names = [
        command.name
        for command in [*compared_commands.working(2), *compared_commands.after_spoiling()]
    ]
    assert len(names) == len(set(names))
    verbs = {name.split()[1] for name in names if name.endswith(" --help")} - {"--help"}
    assert len(verbs) == 11
    assert {name.split()[1] for name in names if " " in name} >= verbs


@pytest.mark.parametrize("rows", [[[1, -2, 300]], [[0.5], [1.5]], [[]]])
def test_arrays_are_those_of_numpy(rows: list[list[float]], tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(compared_commands.npy(rows))
    found = np.load(tmp_path / "a.npy")
    assert found.dtype == (np.float64 if isinstance(rows[0][:1], float) else found.dtype)
    assert found.tolist() == rows


# What is masked, and what differs.

SINCE = "2026-03-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at 2026-02-01T10:00:00+00:00, 2026-03-02T10:00:00+00:00", None),
        ("/scratch/1/run and /old/x.py", "FOLDER/run and CHECKOUT/x.py"),
        ('"seconds": {\n "start": 0.1\n}, "tokens": 3', '"seconds": SECONDS, "tokens": 3'),
        ('"versions": {"numpy": "2.3.5"}', '"versions": VERSIONS'),
        ("python 3.11.7, mmfree-neuro 0.1.0, numpy 2</td>", "VERSIONS</td>"),
        ("mmfree-neuro 0.1.0", "mmfree-neuro VERSION"),
        ("loss 5.1  2.4 kB/s", "loss 5.1  SPEED kB/s"),
        ("| prefill | 0.136 s, 73.3 tokens/s |", "| prefill | SPEED |"),
        ("start</th><td>1.67 s</td>", "start</th><td>SPEED</td>"),
        ("| prefill | 0.500 µs, 1.20 million tokens/s |", "| prefill | SPEED |"),
        (
            "prefill                  1.46e+04 tokens/s",
            "prefill                  1.46e+04 tokens/s",
        ),
        (
            "fast: started in 0.05 s, prefill 768 tokens/s, generation 215 tokens/s (speed of the "
            "simulation)",
            "fast: started in SPEED s, prefill SPEED tokens/s, generation SPEED tokens/s (speed of "
            "the simulation)",
        ),
    ],
)
def test_what_is_masked(text: str, masked: str | None) -> None:
    """Dates are masked from the beginning of the comparison on."""
    found = compare_checkouts.mask(
        text.encode(), {"/scratch/1": "FOLDER", "/old": "CHECKOUT"}, SINCE
    )
    assert found.decode() == (masked or "at 2026-02-01T10:00:00+00:00, DATE")


def outcome(**changed: Any) -> Any:
    whole = {"status": 0, "output": b"a\nb\n", "error": b"", "files": {"m": b"\xff\x00", "t": b"x"}}
    return compare_checkouts.Outcome(**(whole | changed))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"status": 2}, ["exit status 0, now 2"]),
        ({"output": b"a\nc\n"}, ["standard output: \n    @@ -2 +2 @@\n    -b\n    +c"]),
        (
            {"files": {"m": b"\xff\x01\x02", "t": b"x"}},
            ["m: 2 bytes, now 3; the first that differs is number 1"],
        ),
        ({"files": {"m": b"\xff\x00"}}, ["t: \n    @@ -1 +1 @@\n    -x\n    +(not written)"]),
    ],
)
def test_what_differs(changed: dict[str, Any], told: list[str]) -> None:
    assert compare_checkouts.differences(outcome(), outcome(**changed)) == told


def test_a_diff_of_json_on_one_line_is_short() -> None:
    before = json.dumps({str(k): k for k in range(1000)})
    told = compare_checkouts.diff(before.encode(), before.replace(": 500,", ": 501,").encode())
    assert told == '\n    @@ -501 +501 @@\n    -"500": 500,\n    +"500": 501,'
    told = compare_checkouts.diff(b"\n".join([b"a"] * 30), b"\n".join([b"b"] * 30))
    assert told.splitlines()[-1] == "    … 49 lines more"


def test_commands_that_may_differ(tmp_path: Path) -> None:
    path = tmp_path / "allowed.json"
    path.write_text('{"mmfree-neuro systems": "a new system"}')
    names = {"mmfree-neuro systems", "mmfree-neuro"}
    assert compare_checkouts.allowances(None, names) == {}
    assert compare_checkouts.allowances(path, names) == {"mmfree-neuro systems": "a new system"}
    with pytest.raises(compare_checkouts.Impossible) as error:
        compare_checkouts.allowances(path, {"mmfree-neuro"})
    assert str(error.value) == f"{path}: no such command: mmfree-neuro systems"


def test_options_that_have_another_name() -> None:
    assert compare_checkouts.renamings(["placement=ranks"]) == {"--placement": "--ranks"}
    with pytest.raises(compare_checkouts.Impossible) as error:
        compare_checkouts.renamings(["placement"])
    assert str(error.value) == (
        "--renamed is 'placement', must be OLD=NEW, such as placement=ranks"
    )


def test_the_command_line_of_a_checkout(tmp_path: Path) -> None:
    """A module of its own once, the package since."""
    checkout = compare_checkouts.Checkout(tmp_path, Path("python"), tmp_path)
    (tmp_path / "mmfree_neuro").mkdir()
    assert checkout.module == "mmfree_neuro.cli"
    (tmp_path / "mmfree_neuro" / "__main__.py").touch()
    assert checkout.module == "mmfree_neuro"


# Packages.


def put_python(path: Path, version: str) -> str:
    """A command that says it is that version of Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


def test_pythons_on_the_path_come_before_those_of_pyenv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    put_python(tmp_path / "bin" / "python3.10", "")  # a shim that starts nothing
    put_python(tmp_path / "bin" / "python3.12", "3.12")
    put_python(tmp_path / "bin" / "python3", "3.13")
    there = tmp_path / "versions"
    put_python(there / "3.10.7" / "bin" / "python3", "3.10")
    newer = put_python(there / "3.10.13" / "bin" / "python3", "3.10")
    put_python(there / "3.12.1" / "bin" / "python3", "3.12")
    expected = {"3.10": newer, "3.12": "python3.12", "3.13": "python3"}
    assert pythons.pythons() == expected


def test_no_python_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_packages, "pythons", dict)
    with pytest.raises(SystemExit, match=r"^no Python of 3\.10 to 3\.13 was found$"):
        check_packages.main()


def test_a_program_that_fails_says_what_it_said(tmp_path: Path) -> None:
    script = tmp_path / "fails"
    script.write_text("#!/bin/sh\necho $1 >&2\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(SystemExit) as ended:
        check_packages.call(script, "why")
    assert str(ended.value) == f"why\n\n{script} why: status 3"


@pytest.mark.parametrize(
    ("package", "said", "message"),
    [
        ("a.tar.gz", "", "new: must warn of slow code once without a compiler"),
        ("a.whl", check_packages.SLOW, "new: must warn of slow code once without a compiler"),
        ("a.whl", "", "new: the demo must say that torch is missing"),
    ],
)
def test_what_commands_must_say(
    package: str, said: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    shipped = folder / "lib" / "python3" / "site-packages" / "mmfree_neuro" / "shipped"
    shipped.mkdir(parents=True)
    (shipped / "some.graph").touch()
    monkeypatch.setattr(check_packages, "call", lambda *_, **__: said)
    with pytest.raises(SystemExit) as ended:
        check_packages.tried(folder, "python3", Path(package))
    assert str(ended.value) == message


def test_the_table_of_environments() -> None:
    row = check_packages.Row("3.10", 278.2, 31.6, 40.4, ("--version", "map"))
    assert check_packages.table([row]) == (
        "Python          MB  install, s  run, s  what ran\n"
        "3.10           278          32      40  --version, map"
    )
