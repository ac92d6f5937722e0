"""Which process of a training run this is, as torchrun or srun say, and its share of a batch."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mmfree_kernels.training import ranks
from mmfree_kernels.training import train as training
from mmfree_kernels.training.ranks import ALONE, Ranks, started
from mmfree_kernels.training.recipe import Recipe
from mmfree_neuro.cli import train as command
from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import InputError, RunFailed
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.model.corpus import of_bytes

ROOT = Path(__file__).parents[2]
TORCHRUN = sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"


WORDS = "train", "--text", "text", "-o", "out", "--hidden", "16", "--layers", "1", "--window", "16"
ONE_GPU = """
    import sys
    from types import SimpleNamespace

    import torch
    import torch.distributed as dist

    from mmfree_neuro.cli.main import main

    start = dist.init_process_group
    dist.init_process_group = lambda backend, **options: start("gloo", **options)
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_properties = [SimpleNamespace(total_memory=10**12)].__getitem__
    torch.cuda.set_device = lambda device: None
    sys.exit(main(sys.argv[1:]))
"""
"""The command on a machine that seems to have one GPU."""


def started_twice(folder: Path, *words: str) -> str:
    """What two processes of torchrun, which fail, write to standard error."""
    pytest.importorskip("shtab")
    (folder / "text").write_bytes(b"abcdefgh" * 200)
    scratch = folder / "scratch"  # torchrun leaves a folder there
    scratch.mkdir()
    parts = [str(ROOT / part) for part in (".", "partition", "kernels", "sims")]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [*parts, *(os.path.abspath(part) for part in given if part)]
    done = subprocess.run(
        [*TORCHRUN, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)},
    )
    assert done.returncode == 1, done.stderr
    assert not (folder / "out").exists(), done.stderr
    return done.stderr


def ours(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("mmfree-neuro: ")]


@pytest.mark.slow
def test_one_process_says_what_is_wrong(tmp_path: Path) -> None:
    """A batch that cannot be shared out, with GPUs for both or not; nothing is written."""
    errors = started_twice(tmp_path, "-m", "mmfree_neuro", *WORDS, "--batch", "3")
    assert ours(errors) == [
        "mmfree-neuro: a batch has 3 windows, must be a multiple of the 2 processes"
    ], errors
    assert "exitcode  : 2 " in errors, errors


@pytest.mark.slow
def test_one_process_says_that_there_are_too_few_gpus(tmp_path: Path) -> None:
    """The second alone meets it, while the first waits for it."""
    (tmp_path / "one_gpu.py").write_text(dedent(ONE_GPU), encoding="utf-8")
    errors = started_twice(tmp_path, "one_gpu.py", *WORDS, "--batch", "2")
    assert ours(errors) == [
        "mmfree-neuro: 2 processes or more were started on a machine with 1 GPU, must be one a GPU"
    ], errors
    assert "exitcode  : 2 " in errors, errors


@pytest.mark.parametrize(("found", "status"), [("refused", 2), ("ended", 1), ("interrupted", 1)])
def test_another_process_than_the_first_says_nothing(
    found: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []

    def wrong(_: object) -> None:
        raise {
            "refused": InputError("wrong"),
            "ended": RunFailed("no memory"),
            "interrupted": KeyboardInterrupt(),
        }[found]

    monkeypatch.setattr(command, "_run", wrong)
    monkeypatch.setattr(command.time, "sleep", waits.append)
    for number in ("0", "1"):
        for name, value in zip(ranks.TORCHRUN, (number, "2", number), strict=True):
            monkeypatch.setenv(name, value)
        try:
            ended = main(["train", "-o", "out"])
        except SystemExit as end:
            ended = int(str(end.code))
        said = {"refused": "wrong", "ended": "no memory", "interrupted": "interrupted"}[found]
        expected = f"mmfree-neuro: {said}\n" if number == "0" else ""
        assert (ended, capsys.readouterr().err) == (status, expected)
    assert waits == ([] if found == "interrupted" else [command.UNTIL_SAID_S])


def test_who_starts_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ranks.TORCHRUN, *ranks.SRUN):
        monkeypatch.delenv(name, raising=False)
    assert started() == ALONE
    for names in (ranks.SRUN, ranks.TORCHRUN):
        for name, value in zip(names, ("3", "8", "1"), strict=True):
            monkeypatch.setenv(name, value)
        assert started() == Ranks(3, 8, 1)
        for name in names:
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert started() == ALONE


def test_shares_of_a_batch() -> None:
    windows = torch.arange(12).view(6, 2)
    shares = [Ranks(number, 3).share(windows) for number in range(3)]
    assert torch.equal(torch.cat(shares), windows)
    assert torch.equal(ALONE.share(windows), windows)


@pytest.mark.parametrize(("gpus", "said"), [(1, "1 GPU"), (2, "2 GPUs")])
def test_more_processes_than_gpus(
    gpus: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first that has none says so, and no other."""
    waits: list[float] = []

    def join(_: object) -> None:
        with ranks.joined():
            pytest.fail("there is no GPU for it")

    monkeypatch.setattr(command, "_run", join)
    monkeypatch.setattr(command.time, "sleep", waits.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for number in (gpus, gpus + 1):
        for name, value in zip(ranks.TORCHRUN, (str(number), "4", str(number)), strict=True):
            monkeypatch.setenv(name, value)
        try:
            status = main(["train", "-o", "out"])
        except SystemExit as end:
            status = int(str(end.code))
        assert status == 2
    assert capsys.readouterr().err == (
        f"mmfree-neuro: {gpus + 1} processes or more were started on a machine with {said}, "
        "must be one a GPU\n"
    )
    assert waits == [command.UNTIL_SAID_S]


def test_memory_of_a_gpu_is_looked_at_before_there_are_too_few(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All processes find it, so that the first can say it."""
    asked: list[int] = []

    def properties(gpu: int) -> SimpleNamespace:
        asked.append(gpu)
        return SimpleNamespace(total_memory=1)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    text = of_bytes(np.zeros(99, np.uint8), np.zeros(99, np.uint8), "zeros")
    for number in range(4):
        for name, value in zip(ranks.TORCHRUN, (str(number), "4", str(number)), strict=True):
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError) as error:
            training.train(ModelConfig(16, 16, 1), text, Recipe(batch=4, window=16), tmp_path)
        assert str(error.value).endswith("must fit the 0.0 GB of memory here")
    assert asked == [0, 1, 1, 1]


def test_processes_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(*_: object, **__: object) -> None:
        raise torch.distributed.DistStoreError("Timed out after 9 seconds.\nIn C++: ...")

    for name, value in zip(ranks.TORCHRUN, ("0", "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", alone)
    with pytest.raises(ranks.Ended) as error, ranks.joined():
        pytest.fail("nobody else has come")
    assert str(error.value) == ("rank 0: not all processes have come (Timed out after 9 seconds.)")


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (["--shard"], {}, ["expandable_segments:True"] * 2),
        (["--shard"], {"PYTORCH_ALLOC_CONF": "max_split_size_mb:9"}, ["max_split_size_mb:9", None]),
        (["--shard"], {"PYTORCH_CUDA_ALLOC_CONF": ""}, [None, ""]),
        ([], {}, [None, None]),
    ],
)
def test_memory_of_a_divided_model_grows_page_by_page(
    words: list[str],
    given: dict[str, str],
    expected: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless the user says otherwise, and before anything is computed."""
    found: list[str | None] = []
    names = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"
    environment = {name: value for name, value in os.environ.items() if name not in names}
    monkeypatch.setattr(os, "environ", environment | given)
    monkeypatch.setattr(command, "_run", lambda _: found.extend(map(os.environ.get, names)))
    assert main(["train", "-o", "out", *words]) == 0
    assert found == expected
