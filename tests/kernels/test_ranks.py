"""Training in several processes: the losses of one, on any number of them, and after a resume on
another number."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

torch = pytest.importorskip("torch")

from mmfree_kernels.training import ranks
from mmfree_kernels.training.ranks import ALONE, Ranks, started

ROOT = Path(__file__).parents[2]
PROGRAM = """
    import json
    import os
    import sys
    from pathlib import Path

    import numpy as np
    import torch

    from mmfree_kernels.training import train as training
    from mmfree_neuro.errors import Served
    from mmfree_neuro.hgrn_bit.config import ModelConfig
    from mmfree_neuro.model.corpus import of_bytes

    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False
    folder, resume, dies = Path(sys.argv[1]), sys.argv[2] == "resume", sys.argv[2] == "dies"
    text = np.frombuffer(b"the cat sat on the mat and the dog sat on the log. " * 40, np.uint8)
    config = ModelConfig(
        vocab_size=256,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=16,
        bos_token_id=None,
        eos_token_id=None,
    )
    recipe = training.Recipe(steps=20, batch=4, window=16, warmup=3, accumulate=2)
    batches, losses = training.batches, []


    def until_it_dies(text, recipe, step, ranks):
        if step == 13 and ranks.number == 1:
            os._exit(9)
        return batches(text, recipe, step, ranks)


    training.batches = until_it_dies if dies else batches
    try:
        outcome = training.train(
            config,
            of_bytes(text[:1600], text[1600:], "a rhyme"),
            recipe,
            folder,
            resume=resume,
            save_every=10,
            report_every=1,
            report=lambda progress: losses.append(progress.loss),
        )
        print(json.dumps([losses, outcome.held_out_nats]), flush=True)
    except Served:
        pass
"""


def torchrun(count: int, *arguments: str | Path, status: int = 0) -> str:
    """What so many processes print that torchrun starts."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += ["--nproc-per-node", str(count), *map(str, arguments)]
    parts = [str(ROOT / part) for part in (".", "partition", "kernels", "sims")]
    paths = os.pathsep.join([*parts, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode != 0) == (status != 0), done.stderr
    return done.stdout if not status else done.stderr


@pytest.mark.slow
def test_the_losses_of_one_process(tmp_path: Path) -> None:
    """Sums in another order flip a few of the 8-bit roundings of activations, which is what differs
    after some steps."""
    program = tmp_path / "program.py"
    program.write_text(dedent(PROGRAM))
    alone, held_out = json.loads(
        subprocess.run(
            [sys.executable, program, tmp_path / "alone", "whole"],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
    )
    assert len(alone) == 20
    for count in (2, 4):
        losses, found = json.loads(torchrun(count, program, tmp_path / str(count), "whole"))
        assert losses[:4] == pytest.approx(alone[:4], rel=1e-6)
        assert losses == pytest.approx(alone, rel=1e-4)
        assert found == pytest.approx(held_out, rel=1e-4)

    torchrun(2, program, tmp_path / "died", "dies", status=1)
    for count in (4, 1):
        folder = tmp_path / f"goes on in {count}"
        folder.mkdir()
        for file in (tmp_path / "died").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        losses, found = json.loads(torchrun(count, program, folder, "resume"))
        assert losses == pytest.approx(alone[10:], rel=1e-4)
        assert found == pytest.approx(held_out, rel=1e-4)


@pytest.mark.slow
def test_one_process_says_what_is_wrong(tmp_path: Path) -> None:
    """A batch that cannot be shared out; nothing is written."""
    (tmp_path / "text").write_bytes(b"abcdefgh" * 200)
    said = torchrun(
        2,
        *("-m", "mmfree_neuro", "train", "--text", tmp_path / "text", "-o", tmp_path / "out"),
        *("--batch", "3", "--hidden", "16", "--layers", "1", "--window", "16"),
        status=1,
    )
    ours = [line for line in said.splitlines() if line.startswith("mmfree-neuro: ")]
    assert ours == ["mmfree-neuro: a batch has 3 windows, must be a multiple of the 2 processes"]
    assert not (tmp_path / "out").exists()


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
