"""A wheel has all that a user needs, works from any folder, and has nothing but what is ours."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph

ROOT = Path(__file__).parent.parent
SOURCES = (
    *("mmfree_neuro", "partition", "kernels", "sims", "examples/checkpoints"),
    *("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout, built in a copy of it."""
    pytest.importorskip("setuptools", "77")
    copy, out = (tmp_path_factory.mktemp(name) for name in ("sources", "wheel"))
    without = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=without)
        else:
            shutil.copy(ROOT / name, copy / name)
    built = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", str(out), str(copy)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        timeout=600,
    )
    assert built.returncode == 0, built.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_a_wheel_has_code_data_and_the_checkpoint(wheel: Path) -> None:
    limited = "cp311-abi3" if sys.version_info >= (3, 11) else "cp310-cp310"
    assert f"-{limited}-linux_" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("mmfree_neuro", "mmfree_partition", "mmfree_kernels", "mmfree_sims"):
        ours = {str(path) for path in _modules(package)}
        assert ours <= names, ours - names
    checkpoint = (ROOT / "examples" / "checkpoints" / "stdlib-5m").iterdir()
    for name in (
        "mmfree_neuro/report/templates/report.html",
        "mmfree_neuro/report/templates/page.js",
        "mmfree_neuro/systems/chips/loihi2.toml",
        "mmfree_neuro/systems/draws/loihi2.json",
        "mmfree_neuro/py.typed",
        "mmfree_neuro/shipped/stdlib-5m.graph",
        *(f"mmfree_neuro/shipped/stdlib-5m/{file.name}" for file in checkpoint),
    ):
        assert name in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "mmfree_neuro",
        "mmfree_partition",
        "mmfree_kernels",
        "mmfree_sims",
    }
    assert wheel.stat().st_size < 20e6


def _modules(package: str) -> list[Path]:
    (where,) = (path for path in (ROOT / package, *ROOT.glob(f"*/{package}")) if path.is_dir())
    return [path.relative_to(where.parent) for path in where.rglob("*.py")]


@pytest.mark.slow
def test_a_wheel_works_from_any_folder(wheel: Path, a16: Graph, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    graph_file.save_graph(a16, work / "model.graph")
    np.save(work / "ids.npy", np.array([[3, 1, 4]]))

    def run(*arguments: str) -> str:
        code = "import sys; from mmfree_neuro.cli.main import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(site)},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = (
        "import mmfree_neuro, mmfree_sims; print(mmfree_neuro.__file__, mmfree_sims.__path__[0])"
    )
    found = subprocess.run(
        [sys.executable, "-c", where],
        capture_output=True,
        text=True,
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
    )
    assert all(path.startswith(str(site)) for path in found.stdout.split())
    run("map", "model.graph", "--system", "kapoho-point", "-o", "model.map")
    run(
        "simulate",
        "model.map",
        "--prompt",
        "ab",
        "--new-tokens",
        "2",
        "--engine",
        "fast",
        "-o",
        "run",
    )
    run("report", "run", "-o", "report.html")
    run("logits", "model.graph", "--engine", "fast", "--tokens", "ids.npy", "-o", "logits.npy")
    assert (work / "report.html").stat().st_size > 50_000
