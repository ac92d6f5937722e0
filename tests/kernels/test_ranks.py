"""Which process of a training run this is, as torchrun or srun say, and its share of a batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mmfree_kernels.training import ranks
from mmfree_kernels.training.ranks import ALONE, Ranks, started
from mmfree_neuro.cli import train as command
from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import InputError, RunFailed

ROOT = Path(__file__).parents[2]
TORCHRUN = sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"


@pytest.mark.slow
def test_one_process_says_what_is_wrong(tmp_path: Path) -> None:
    """A batch that cannot be shared out; nothing is written."""
    (tmp_path / "text").write_bytes(b"abcdefgh" * 200)
    scratch = tmp_path / "scratch"  # torchrun leaves a folder there
    scratch.mkdir()
    words = ["-m", "mmfree_neuro", "train", "--text", "text", "-o", "out", "--batch", "3"]
    parts = [str(ROOT / part) for part in (".", "partition", "kernels", "sims")]
    paths = os.pathsep.join([*parts, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*TORCHRUN, *words, "--hidden", "16", "--layers", "1", "--window", "16"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)},
    )
    assert done.returncode == 1
    ours = [line for line in done.stderr.splitlines() if line.startswith("mmfree-neuro: ")]
    assert ours == ["mmfree-neuro: a batch has 3 windows, must be a multiple of the 2 processes"]
    assert not (tmp_path / "out").exists()


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


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(ranks.TORCHRUN, ("2", "4", "2"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ranks.InputError) as error, ranks.joined():
        pass
    assert str(error.value) == (
        "3 processes or more were started on a machine of 2 GPUs, must be one a GPU"
    )
