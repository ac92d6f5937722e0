"""Training in several processes, each with the whole model or with a share of it: the losses of one
process, states that any number of processes goes on from, and what ends a run."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import distributed as dist

from mmfree_kernels.training import ranks, sharded
from mmfree_kernels.training import train as training
from mmfree_neuro.errors import InputError
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.model.corpus import of_bytes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEXT = b"the cat sat on the mat and the dog sat on the log. " * 40
CORPUS = of_bytes(
    np.frombuffer(TEXT[:1600], np.uint8), np.frombuffer(TEXT[1600:], np.uint8), "a rhyme"
)
CONFIG = ModelConfig(
    vocab_size=256,
    hidden_size=16,
    num_hidden_layers=2,
    intermediate_size=16,
    bos_token_id=None,
    eos_token_id=None,
)
RECIPE = training.Recipe(steps=10, batch=4, window=16, warmup=3, accumulate=2)
HALF = RECIPE.steps // 2
"""Runs keep their state after so many steps, and after all."""
PUBLISHED = ["config.json", "model.safetensors"]

PROGRAM = """
    import json
    import os
    import signal
    import sys
    import traceback
    from dataclasses import replace
    from pathlib import Path

    import numpy as np
    import torch
    import torch._dynamo  # which FSDP asks for, and takes a second

    from mmfree_kernels.training import sharded
    from mmfree_kernels.training import train as training
    from mmfree_neuro.errors import RunFailed, Served
    from mmfree_neuro.hgrn_bit.config import ModelConfig
    from mmfree_neuro.model.corpus import of_bytes

    GIVEN = json.load(sys.stdin)
    TEXT = np.frombuffer(GIVEN["text"].encode(), np.uint8)
    CORPUS = of_bytes(TEXT[:1600], TEXT[1600:], "a rhyme")


    class Writer(sharded.FileSystemWriter):
        saves, dies = 0, False

        def write_data(self, plan, planner):
            Writer.saves += 1
            if Writer.saves == 2 and os.environ["RANK"] == "1":
                if Writer.dies:
                    os._exit(9)
                raise OSError("No space left on device")
            return super().write_data(plan, planner)


    def spoil(dies):
        batches, loss = training.batches, training.plain_loss

        def until_it_dies(text, recipe, step, ranks):
            if step == GIVEN["half"] + 2 and ranks.number == ranks.count - 1:
                os._exit(9)
            return batches(text, recipe, step, ranks)

        def steep(model, tokens):
            return loss(model, tokens) + (loss(model, tokens) * 0).sqrt()

        if dies == "on the way":
            training.batches = until_it_dies
        elif dies == "of its weights":
            training.plain_loss = steep
        elif dies:
            sharded.FileSystemWriter, Writer.dies = Writer, dies == "in a save"


    def run(folder, ranks, shard=True, resume=False, tied=False):
        losses = []
        try:
            outcome = training.train(
                replace(ModelConfig(**GIVEN["config"]), tie_word_embeddings=tied),
                CORPUS,
                training.Recipe(**GIVEN["recipe"]),
                Path(folder),
                resume=resume,
                shard=shard,
                save_every=GIVEN["half"],
                report_every=1,
                report=lambda progress: losses.append(progress.loss),
            )
            print(json.dumps([losses, outcome.held_out_nats]))
        except Served:
            pass
        except RunFailed as error:
            print(error)
            return 1
        return 0


    def process(number, name, wanted):
        signal.alarm(100)
        for channel in (1, 2):
            file = f"{GIVEN['output']}/{name}.{number}.{channel}"
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600), channel)
        where = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": wanted["ranks"]}
        where["MASTER_PORT"] = wanted.pop("port")
        os.environ.update({key: str(value) for key, value in where.items()})
        spoil(wanted.pop("dies", ""))
        if "words" not in wanted:
            return run(**wanted)
        from mmfree_neuro.cli import train as command
        from mmfree_neuro.cli.main import main

        command.UNTIL_SAID_S = 0  # nobody ends the others here when one has ended
        return main(wanted["words"])


    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False
    for name, wanted in enumerate(GIVEN["runs"]):
        children = []
        for number in range(wanted["ranks"]):
            child = os.fork()
            if child == 0:
                status = 3
                try:
                    status = process(number, name, wanted)
                    sys.stdout.flush()
                except SystemExit as end:
                    status = end.code
                except Exception:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            children.append(child)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(statuses), flush=True)
"""


@dataclass
class Done:
    """A run that has ended: of each process the exit status, and what it wrote."""

    statuses: list[int]
    out: list[str]
    errors: list[str]

    def result(self) -> tuple[list[float], float]:
        """The losses of its steps, and the one of held-out text."""
        assert self.statuses == [0] * len(self.statuses), self.errors
        assert self.out[1:] == [""] * (len(self.out) - 1)
        losses, held_out = json.loads(self.out[0])
        return losses, held_out


Runs = Callable[..., list[Done]]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Does one run after another, each in so many processes of its own; one interpreter imports
    torch for all of them."""

    def of(*wanted: dict[str, Any]) -> list[Done]:
        output = tmp_path / f"output {len(list(tmp_path.glob('output *')))}"
        output.mkdir()
        stores = [  # where the processes of a run meet
            dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in wanted
        ]
        given = {
            "runs": [run | {"port": store.port} for run, store in zip(wanted, stores, strict=True)],
            "output": str(output),
            "text": TEXT.decode(),
            "config": asdict(CONFIG),
            "recipe": asdict(RECIPE),
            "half": HALF,
        }
        parts = [str(ROOT / part) for part in (".", "partition", "kernels", "sims")]
        environment = {
            "PYTHONPATH": os.pathsep.join([*parts, os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", dedent(PROGRAM)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            env=os.environ | environment,
        )
        found = []
        for name, line in enumerate(done.stdout.splitlines()):
            statuses = json.loads(line)
            out, errors = (
                [(output / f"{name}.{n}.{c}").read_text() for n in range(len(statuses))]
                for c in (1, 2)
            )
            found.append(Done(statuses, out, errors))
        return found

    return of


def close(losses: list[float], expected: list[float]) -> bool:
    """Equal but for 8-bit roundings of activations that sums in another order flip, which is what
    differs after some steps."""
    return losses == pytest.approx(expected, rel=1e-4)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_losses_of_one_process(tmp_path: Path, runs: Runs) -> None:
    """Also where embedding and head are one matrix.  One process alone computes the same bits."""
    counts = 1, 2, 4
    alone, tied, *divided, tied_divided, two, four = runs(
        {"ranks": 1, "folder": f"{tmp_path}/alone", "shard": False},
        {"ranks": 1, "folder": f"{tmp_path}/tied", "shard": False, "tied": True},
        *({"ranks": count, "folder": f"{tmp_path}/{count}"} for count in counts),
        {"ranks": 2, "folder": f"{tmp_path}/tied 2", "tied": True},
        *({"ranks": n, "folder": f"{tmp_path}/whole {n}", "shard": False} for n in (2, 4)),
    )
    expected, held_out = alone.result()
    assert len(expected) == RECIPE.steps
    for done in (*divided, two, four):
        losses, found = done.result()
        assert losses[:4] == pytest.approx(expected[:4], rel=1e-6)
        assert close(losses, expected)
        assert found == pytest.approx(held_out, rel=1e-4)
    assert close(tied_divided.result()[0], tied.result()[0])
    assert divided[0].result() == alone.result()
    assert names(tmp_path / "alone") == [*PUBLISHED, "training.pt"]
    for file in PUBLISHED:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    for count in counts:
        config, model, parts, state = names(tmp_path / str(count))
        assert [config, model, state] == [*PUBLISHED, "training.pt"]
        assert len(list((tmp_path / str(count) / parts).glob("*.distcp"))) == count


def test_going_on_in_another_number_of_processes(tmp_path: Path, runs: Runs) -> None:
    """From a state in parts to another number of parts, and to one process with the whole model;
    and from one in whole to parts.  One of the processes died on the way or in a save."""
    whole, *died = runs(
        {"ranks": 1, "folder": f"{tmp_path}/whole", "shard": False},
        {"ranks": 2, "folder": f"{tmp_path}/parts", "dies": "on the way"},
        {"ranks": 2, "folder": f"{tmp_path}/save", "dies": "in a save"},
        {"ranks": 2, "folder": f"{tmp_path}/one", "shard": False, "dies": "on the way"},
    )
    expected, held_out = whole.result()
    for done in died:
        assert done.statuses == [1, 9], done.errors
        assert done.out[0].startswith("rank 0: another process has ended (")
        assert done.out[0].count("\n") == 1
    assert len(names(tmp_path / "parts")) == 2  # what was reached in half the steps
    assert len(names(tmp_path / "save")) == 3  # that, and a part of what was reached in all

    ways = [("parts", 4, True), ("parts", 1, False), ("save", 1, True)]
    ways += [("one", 2, True), ("one", 4, False)]
    for start, count, _ in ways:
        shutil.copytree(tmp_path / start, tmp_path / f"{start} {count}")
    for way, done in zip(
        ways,
        runs(
            *(
                {"ranks": n, "folder": f"{tmp_path}/{start} {n}", "shard": shard, "resume": True}
                for start, n, shard in ways
            )
        ),
        strict=True,
    ):
        losses, found = done.result()
        assert close(losses, expected[HALF:])
        assert found == pytest.approx(held_out, rel=1e-4)
        start, count, shard = way
        left = names(tmp_path / f"{start} {count}")
        assert len(left) == (4 if shard else 3), left


def test_one_process_says_what_ends_a_run(tmp_path: Path, runs: Runs) -> None:
    """All of them end, and what was kept before stays."""
    pytest.importorskip("shtab")
    (tmp_path / "text").write_bytes(TEXT)
    words = ["train", "--text", str(tmp_path / "text"), "--hidden", "16", "--layers", "1"]
    words += ["--window", "16", "--steps", "2", "--batch", "2", "--shard"]
    into = {name: [*words, "-o", str(tmp_path / name)] for name in ("refused", "full", "steep")}
    uneven, full, steep = runs(
        {"ranks": 2, "words": [*into["refused"], "--batch", "3"]},
        {"ranks": 2, "words": [*into["full"], "--save-every", "1"], "dies": "of a full disk"},
        {"ranks": 2, "words": into["steep"] + ["--save-every", "1"], "dies": "of its weights"},
    )
    assert (uneven.statuses, full.statuses, steep.statuses) == ([2, 2], [1, 1], [1, 1])
    assert uneven.errors == [
        "mmfree-neuro: a batch has 3 windows, must be a multiple of the 2 processes\n",
        "",
    ]
    assert steep.errors == [
        "mmfree-neuro: training stopped after 1 steps, because weights are not finite; nothing "
        "was kept; try a lower learning rate\n",
        "",
    ]
    lost = re.escape(f"mmfree-neuro: {tmp_path}/full/training-2-")
    problem = re.escape(": cannot be written ('No space left on device')\n")
    assert re.fullmatch(f"{lost}[0-9a-f]{{8}}{problem}", full.errors[0])
    assert full.errors[1] == ""
    first, state = names(tmp_path / "full")
    assert (first[:11], state) == ("training-1-", "training.pt")
    assert not any((tmp_path / name).exists() for name in ("refused", "steep"))


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the state of a run in parts, in one part."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in (*ranks.TORCHRUN, *ranks.SRUN):
        monkeypatch.delenv(name, raising=False)
    training.train(CONFIG, CORPUS, replace(RECIPE, steps=1), tmp_path / "run", shard=True)
    return tmp_path / "run"


class Command:
    """What a pickle makes of it runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def emptied(folder: Path) -> None:
    (part,) = folder.glob("*.distcp")
    part.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (shutil.rmtree, "has no index (No such file or directory)"),
        (
            lambda folder: (folder / ".metadata").write_bytes(pickle.dumps(Command())),
            "has no index that can be read ('it names posix.system')",
        ),
        (
            lambda folder: (folder / ".metadata").write_bytes(b"\x80\x04N."),
            "has no index that can be read ('it holds a NoneType')",
        ),
        (emptied, "cannot be read ("),
    ],
)
def test_parts_that_cannot_be_read(
    parts: Path, damage: Callable[[Path], object], problem: str
) -> None:
    (folder,) = parts.glob("training-*")
    damage(folder)
    with pytest.raises(InputError) as error:
        training.train(CONFIG, CORPUS, replace(RECIPE, steps=1), parts, resume=True)
    assert str(error.value).startswith(
        f"{parts}/training.pt: not the state of a training run: {folder.name} {problem}"
    )


@pytest.mark.parametrize("name", ["../run", 3])
def test_parts_in_another_place(parts: Path, name: object) -> None:
    state = torch.load(parts / "training.pt", weights_only=True)
    torch.save(state | {"parts": name}, parts / "training.pt")
    with pytest.raises(InputError) as error:
        training.train(CONFIG, CORPUS, replace(RECIPE, steps=1), parts, resume=True)
    assert str(error.value) == (
        f"{parts}/training.pt: not the state of a training run: parts is {name!r}, must name a "
        "folder of parts"
    )


def test_a_whole_state_of_another_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = replace(RECIPE, steps=1)
    training.train(CONFIG, CORPUS, recipe, tmp_path)
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    state["optimiser"]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(state, tmp_path / "training.pt")
    with pytest.raises(InputError) as error:
        training.train(CONFIG, CORPUS, recipe, tmp_path, resume=True, shard=True)
    assert str(error.value) == (
        f"{tmp_path}/training.pt: not the state of a training run: a moment or a weight has "
        "another shape than the model's"
    )


def test_an_interrupt_leaves_what_was_saved_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that are interrupted may be at different steps, so that none of them saves."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def interrupt(progress: training.Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(
            CONFIG,
            CORPUS,
            RECIPE,
            tmp_path,
            shard=True,
            save_every=2,
            report_every=1,
            report=interrupt,
        )
    kept, state = names(tmp_path)
    assert (kept[:11], state) == ("training-2-", "training.pt")


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_gathered_between_the_passes(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the backward pass begins with, and nothing after it or after a pass that has none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in (*ranks.TORCHRUN, *ranks.SRUN):
        monkeypatch.delenv(name, raising=False)
    tokens = torch.arange(34).view(2, 17)
    config = replace(CONFIG, tie_word_embeddings=tied)
    with ranks.joined(alone=True) as alone:
        model = sharded.divided(config, sharded.fresh(config, 0), alone)

        def gathered() -> set[str]:
            named = model.named_parameters()
            return {name for name, value in named if not isinstance(value, sharded.DTensor)}

        loss = training.plain_loss(model, tokens)
        last = {name for name in config.shapes() if name.startswith("model.layers.1.")}
        outside = {"model.lower_bounds", "model.norm.weight", "lm_head.norm.weight"}
        matrix = "model.embeddings.weight" if tied else "lm_head.weight"
        assert gathered() == last | outside | {matrix}
        loss.backward()
        assert gathered() == set()
        assert all(value.grad is not None for value in model.parameters())
        with torch.no_grad():
            training.plain_loss(model, tokens)
        assert gathered() == last | outside | {matrix}
        sharded.let_go(model)
        assert gathered() == set()


def test_gradients_take_memory_of_the_stream_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[object] = []

    @contextmanager
    def stream(given: object) -> Iterator[None]:
        entered.append(given)
        yield
        entered.append("left")

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"that of {device}")
    reduced = sharded._Reduced(torch.device("cuda", 1))
    share = reduced.allocate((3,), dtype=torch.float32, device=torch.device("cpu"))
    assert (share.shape, share.dtype, entered) == ((3,), torch.float32, ["that of cuda:1", "left"])


def test_a_torch_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.1+cpu")
    with pytest.raises(InputError) as error:
        training.train(CONFIG, CORPUS, RECIPE, tmp_path / "run", shard=True)
    assert str(error.value) == "torch is 2.6.1+cpu, must be 2.7 or newer to divide a model"
    assert not (tmp_path / "run").exists()


def test_memory_of_a_share() -> None:
    needed = 16 * CONFIG.parameters() // 4 + 2 * training.BLOCK_BYTES
    training.check_memory(CONFIG, RECIPE, needed, 4)
    with pytest.raises(InputError) as error:
        training.check_memory(CONFIG, RECIPE, needed - 1, 4)
    assert str(error.value) == (
        f"each of 4 shares of a model of {CONFIG.parameters()} weights in training needs at least "
        "0.0 GB, must fit the 0.0 GB of memory here"
    )
