"""Measuring on a GPU: what a row holds and when there is none, with a made-up device; opponents
that compute right."""

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from mmfree_kernels.bench import builders, meter, record, roofline, transformer, workload
from mmfree_kernels.bench.transformer import Transformer
from mmfree_kernels.bench.workload import Facts, Point, Subject, WrongResult, agreement, point
from mmfree_kernels.bench.workloads import fast, naive, plain
from mmfree_kernels.bench.workloads import transformer as transformer_work
from mmfree_kernels.float_model.model import from_checkpoint as float_model
from mmfree_kernels.inference.model import from_checkpoint, random
from mmfree_neuro.baselines import measured
from mmfree_neuro.baselines.roofline import Figure, Gpu
from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import EngineError, InputError, RunFailed
from mmfree_neuro.hgrn_bit.config import PUBLISHED, ModelConfig
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.report import terminal

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
TINY = Subject(
    "tiny", ModelConfig(vocab_size=96, hidden_size=64, num_hidden_layers=2, intermediate_size=96)
)
SCRIPTS = Path(__file__).parents[2] / "examples" / "benchmarks"


@dataclass
class Device:
    """A made-up GPU: 50 W idle, 250 W at work, a counter that moves every 100 ms; work takes time
    by the step."""

    now: float = 0.0
    drawn: float = 7_000.0
    queue: list[float] = field(default_factory=list)

    def seconds(self) -> float:
        return self.now

    def millijoule(self) -> int:
        return round(self.drawn - (self.now % 0.1) * 1000 * self.latest)

    latest: float = 0.0

    def pass_by(self, seconds: float, watts: float) -> None:
        self.now += seconds
        self.drawn += seconds * watts * 1000
        self.latest = watts

    def pause(self, seconds: float) -> None:
        self.pass_by(seconds, 50.0)

    def fence(self) -> meter.Wait:
        waiting, self.queue = self.queue, []
        return lambda: self.pass_by(sum(waiting), 250.0)


@dataclass
class Work:
    """Four tokens in 3 ms."""

    device: Device
    wrong: str | None = None
    steps: int = 0
    checked_after: int = -1
    tokens: int = 4
    implementation: str = "made up"
    precision: str = "none"
    weights_bytes: int = 123

    def step(self) -> None:
        self.steps += 1
        self.device.queue.append(0.003)

    def check(self) -> Facts:
        self.checked_after = self.steps
        if self.wrong is not None:
            raise WrongResult(self.wrong)
        return {"against": "nothing", "greedy_agreement": 1.0}


def bench(device: Device) -> record.Bench:
    """A bench of the made-up GPU."""
    facts = {"device": "GPU X", "driver": "1.2", "cuda": "13.0"}
    return record.Bench(
        CPU, device, device.fence, facts, lambda: {"process_bytes": 5, "device_used_bytes": 6}
    )


# The measuring loop.


def test_speed_and_power_are_those_of_the_work_and_not_of_what_surrounds_it() -> None:
    device = Device()
    found = meter.measure(Work(device), device, device.fence, 2.0)
    assert 2.0 <= found.seconds < 2.3
    assert found.tokens == 4 * found.steps
    assert found.tokens_per_s == pytest.approx(4 / 0.003)
    assert found.average_w == pytest.approx(250.0, rel=0.03)
    assert found.millijoule_per_token == pytest.approx(250 * 0.003 / 4 * 1000, rel=0.03)


def test_steps_longer_than_a_tick_are_measured_too() -> None:
    device = Device()
    work = Work(device)
    work.step = lambda: device.queue.append(0.75)  # type: ignore[method-assign]
    found = meter.measure(work, device, device.fence, 2.0)
    assert found.seconds == pytest.approx(2.25)
    assert (found.steps, found.tokens) == (3, 12)


def test_idle_power_is_measured_between_ticks() -> None:
    assert meter.idle_power_w(Device()) == pytest.approx(50.0, rel=0.03)


def test_a_counter_that_stands_still_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "millijoule", lambda self: 7)
    with pytest.raises(EngineError) as error:
        meter.idle_power_w(Device())
    assert (
        str(error.value)
        == "bench gpu: the energy counter stood still for 10 s, must move to be used"
    )


def test_a_measurement_shorter_than_two_seconds_is_refused() -> None:
    device = Device()
    with pytest.raises(InputError) as error:
        meter.measure(Work(device), device, device.fence, 1.5)
    assert (
        str(error.value) == "seconds are 1.5, must be at least 2: the energy counter moves in ticks"
    )


def test_too_few_seconds_are_refused_before_anything_is_loaded_or_measured() -> None:
    device, built = Device(), list[object]()
    with pytest.raises(InputError) as error:
        record.measure_point(
            bench(device), point("no such model", "train"), 1.99, lambda *some: built.append(some)
        )
    assert (
        str(error.value)
        == "seconds are 1.99, must be at least 2: the energy counter moves in ticks"
    )
    assert (device.now, built) == (0.0, [])


def nvml(**changes: Any) -> ModuleType:
    """A made-up pynvml."""

    class NVMLError(Exception):
        pass

    module: Any = ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 42
    module.nvmlSystemGetDriverVersion = lambda: b"580.1"
    module.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(used=99)
    module.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        SimpleNamespace(pid=7, usedGpuMemory=11)
    ]
    for name, value in changes.items():
        setattr(
            module, name, value(NVMLError) if name.endswith(("Consumption", "Processes")) else value
        )
    return module


def raising(message: str) -> Callable[[type[Exception]], Callable[[object], int]]:
    """A function of the driver that fails."""

    def make(kind: type[Exception]) -> Callable[[object], int]:
        def fail(_handle: object) -> int:
            raise kind(message)

        return fail

    return make


def test_the_driver_is_asked_through_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    found = meter.Nvml("GPU-1")
    assert (found.millijoule(), found.driver(), found.used_bytes()) == (42, "580.1", 99)
    assert (found.process_bytes(7), found.process_bytes(8)) == (11, None)
    before = found.seconds()
    found.pause(0.001)
    assert found.seconds() > before
    monkeypatch.setitem(
        sys.modules, "pynvml", nvml(nvmlDeviceGetComputeRunningProcesses=raising("not permitted"))
    )
    assert meter.Nvml("GPU-1").process_bytes(7) is None


def test_where_the_driver_has_another_name_for_the_only_gpu_it_is_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(_uuid: str) -> str:
        raise module.NVMLError("Not Found")

    module: Any = nvml()
    module.nvmlDeviceGetHandleByUUID = unknown
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetCount = lambda: 1
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert meter.Nvml("GPU-1").handle == 0
    module.nvmlDeviceGetCount = lambda: 2
    with pytest.raises(EngineError) as error:
        meter.Nvml("GPU-1")
    assert str(error.value) == "bench gpu: the driver gives no energy counter of GPU-1 (Not Found)"


def test_without_pynvml_or_a_counter_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(EngineError) as error:
        meter.Nvml("GPU-1")
    assert (
        str(error.value) == "bench gpu: pynvml is not installed, must be: pip install nvidia-ml-py"
    )
    monkeypatch.setitem(
        sys.modules, "pynvml", nvml(nvmlDeviceGetTotalEnergyConsumption=raising("Not Supported"))
    )
    with pytest.raises(EngineError) as error:
        meter.Nvml("GPU-1")
    assert (
        str(error.value) == "bench gpu: the driver gives no energy counter of GPU-1 (Not Supported)"
    )


# Rows.


def test_a_row_says_everything() -> None:
    device, made = Device(), list[Work]()

    def build(_point: Point, model: Subject, where: torch.device) -> Work:
        assert (model.config, where) == (PUBLISHED["370m"], CPU)
        made.append(Work(device))
        return made[0]

    row = record.measure_point(bench(device), Point("370m", "generate", "fast", 4, 512), 2.0, build)
    assert made[0].checked_after == 1
    assert {
        name: row[name]
        for name in (
            "name",
            "implementation",
            "impl",
            "precision",
            "model",
            "ternary_synapses",
            "mode",
            "batch",
            "sequence_length",
            "tokens_per_step",
            "weights_bytes",
            "process_bytes",
            "device_used_bytes",
            "peak_allocated_bytes",
            "peak_reserved_bytes",
            "device",
            "driver",
            "cuda",
            "correctness",
            "script",
        )
    } == {
        "name": "MatMul-free 370M",
        "implementation": "made up",
        "impl": "fast",
        "precision": "none",
        "model": "370m",
        "ternary_synapses": 341_049_344,
        "mode": "generate",
        "batch": 4,
        "sequence_length": 512,
        "tokens_per_step": 4,
        "weights_bytes": 123,
        "process_bytes": 5,
        "device_used_bytes": 6,
        "peak_allocated_bytes": 0,
        "peak_reserved_bytes": 0,
        "device": "GPU X",
        "driver": "1.2",
        "cuda": "13.0",
        "correctness": {"against": "nothing", "greedy_agreement": 1.0},
        "script": "mmfree-neuro bench gpu --model 370m --mode generate --batch 4 "
        "--length 512 --impl fast "
        "--embedding int8 --seconds 2",
    }
    assert row["tokens_per_s"] == pytest.approx(4 / 0.003)
    assert row["idle_w"] == pytest.approx(50.0, rel=0.03)
    assert row["seconds_measured"] >= 2.0
    assert row["steps_measured"] * 4 == pytest.approx(row["tokens_per_s"] * row["seconds_measured"])
    assert row["versions"]["torch"] == torch.__version__
    assert row["date"].endswith("+00:00")
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert terminal.gpu_row(row).splitlines()[2] == "checked against nothing, greedy agreement 1.0"
    (shown,) = measured.parse(json.dumps([row]), "rows.json")
    assert (shown.model, shown.same_architecture, shown.tokens_per_s) == (
        "370m",
        True,
        row["tokens_per_s"],
    )


def test_an_opponent_is_named_as_such() -> None:
    device = Device()
    asked = Point("1.3b", "prefill", "transformer", 1, 64)
    row = record.measure_point(bench(device), asked, 2.0, lambda *_: Work(device))
    assert row["name"] == "Transformer++ 1.3B"
    assert row["script"].endswith("--batch 1 --length 64 --baseline transformer --seconds 2")


def test_a_wrong_result_is_not_measured() -> None:
    device = Device()
    work = Work(device, wrong="made up: differs")
    with pytest.raises(WrongResult, match=r"^made up: differs$"):
        record.measure_point(bench(device), point("370m", "generate"), 2.0, lambda *_: work)
    assert work.steps == 1


def test_too_little_memory_is_told() -> None:
    def build(*_: object) -> Work:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RunFailed) as error:
        record.measure_point(bench(Device()), point("13b", "train", "naive"), 2.0, build)
    assert (
        str(error.value)
        == "naive 13b train, batch 8, length 2048: does not fit the memory of GPU X"
    )


def test_rows_are_added_to_a_file_and_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "deep" / "rows.json", tmp_path / "link.json"
    record.append(file, [{"a": 1}])
    link.symlink_to(file)
    record.append(link, [{"a": 2}])
    assert link.is_symlink()
    assert record.load(file) == [{"a": 1}, {"a": 2}]


def test_rows_of_record_are_the_latest_of_one_device_and_the_fastest_of_the_opponent() -> None:
    def row(device: str, batch: int, day: int, **other: Any) -> dict[str, Any]:
        point = {"impl": "fast", "model": "370m", "mode": "generate", "sequence_length": 512}
        date = f"2026-01-{day:02}T00:00:00+00:00"
        return (
            point
            | {"batch": batch, "device": device, "date": date, "precision": "8 bit"}
            | {"tokens_per_s": 1.0}
            | other
        )

    rows = [
        row("GPU X", 1, 3),
        row("GPU Y", 1, 2),
        row("GPU X", 4, 4),
        row("GPU X", 1, 1),
        row("GPU Z", 1, 9, precision="8 bit, embedding bfloat16"),
    ]
    assert record.of_record(rows) == [rows[0], rows[2]]
    for speeds, best in (((9, 7, 8), 0), ((7, 9, 9), 2)):
        others = [
            row("GPU X", 1, day, impl="transformer", tokens_per_s=speed)
            for day, speed in enumerate(speeds, 1)
        ]
        assert record.of_record(others) == [others[best]]
    assert record.of_record(rows, "Y") == [rows[1]]
    assert record.of_record(rows, "W") == []


def rate(impl: str, model: str, batch: int, **other: Any) -> dict[str, Any]:
    """What a roofline needs of a row of 100 tokens/s."""
    synapses = workload.ternary_synapses(workload.SHAPES["370m"])
    row = {"impl": impl, "model": model, "mode": "generate", "batch": batch}
    row |= {"sequence_length": 512, "ternary_synapses": synapses, "tokens_per_s": 100.0}
    return row | {"device": "GPU X"} | other


def test_the_roofline_of_a_row_is_weights_once_and_what_each_sequence_carries() -> None:
    config, synapses = workload.SHAPES["370m"], 341_049_344
    figures = Figure(1e12, "a"), Figure(1e15, "b"), Figure(1.0, "c"), None, ("GPU X",)
    gpu = Gpu("X", "GPU", *figures)
    state, cache = 24 * 1024 * 8, 24 * 1024 * 512 * 2 * 2
    assert (config.num_hidden_layers, config.state_size) == (24, 1024)
    for batch in (1, 4):
        found = roofline.most_tokens_per_s(rate("fast", "370m", batch), gpu)
        assert found == pytest.approx(batch * 1e12 / (synapses / 4 + batch * state))
        found = roofline.most_tokens_per_s(rate("transformer", "370m", batch), gpu)
        assert found == pytest.approx(batch * 1e12 / (synapses * 2 + batch * cache))
    found = roofline.most_tokens_per_s(rate("fast", "370m", 10_000), gpu)
    assert found == pytest.approx(1e15 / (2 * synapses))
    row = rate("fast", "370m", 1)
    assert roofline.share(row, (gpu,)) == pytest.approx(100 * (synapses / 4 + state) / 1e12)
    for unknown in ({"device": "GPU Y"}, {"mode": "prefill"}, {"model": "mine"}):
        assert roofline.share(row | unknown, (gpu,)) is None


def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text("{}")
    with pytest.raises(InputError) as error:
        record.append(file, [{"a": 1}])
    assert str(error.value) == f"{file}: not {record.ROWS}: holds {{}}, must hold a list of objects"
    file.write_text("[")
    with pytest.raises(InputError) as error:
        record.load(file)
    assert str(error.value) == (
        f"{file}: not {record.ROWS}, or damaged ('Expecting value: line 1 column 2 (char 1)')"
    )
    assert file.read_text() == "["
    file.write_text("[" * 100_000)
    with pytest.raises(InputError) as error:
        record.load(file)
    assert str(error.value) == f"{file}: nested too deep, must be {record.ROWS}"


def test_whether_a_file_can_be_written_is_known_and_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rows.json"
    record.check_output(file)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError) as error:
        record.check_output(tmp_path)
    assert (
        str(error.value)
        == f"{tmp_path}: not a file of rows of bench gpu: is a folder, must be a regular file"
    )

    (tmp_path / "none").write_bytes(b"")
    with pytest.raises(InputError) as error:
        record.check_output(tmp_path / "none" / "rows.json")
    assert str(error.value) == (
        f"{tmp_path}/none/rows.json: cannot be written, since {tmp_path}/none is no folder that "
        "can be written to"
    )


def test_the_commit_and_the_version_are_told_with_git_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_checkout", lambda: tmp_path)
    assert record.commit() == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert record.commit() == head
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.4"\n')
    assert record.commit() == f"{head} dirty"
    with monkeypatch.context() as without_git:
        without_git.setenv("PATH", str(tmp_path / "none"))
        assert record.commit() == "unknown"

    def missing(_name: str) -> str:
        raise record.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(record.importlib.metadata, "version", missing)
    assert record.versions()["mmfree-neuro"] == "1.2.4"


# Points and subjects.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "chat"}, "mode 'chat' is not known, must be one of generate, prefill, train"),
        (
            {"implementation": "slow"},
            "implementation 'slow' is not known, must be one of fast, naive, transformer",
        ),
        ({"batch": 0}, "batch is 0, must be at least 1"),
        ({"length": -1}, "length is -1, must be at least 1"),
        ({"embedding": "int4"}, "embedding 'int4' is not known, must be one of int8, bfloat16"),
        (
            {"embedding": "bfloat16", "implementation": "naive"},
            "embedding bfloat16 is not for naive generate, must be int8 but for fast generate "
            "and fast prefill",
        ),
        (
            {"embedding": "bfloat16", "mode": "train"},
            "embedding bfloat16 is not for fast train, must be int8 but for fast generate and "
            "fast prefill",
        ),
    ],
)
def test_a_point_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        point(**({"model": "370m", "mode": "generate"} | wrong))
    assert str(error.value) == message


def test_a_point_says_what_is_not_usual() -> None:
    assert str(point("370m", "generate", "naive", 3)) == "naive 370m generate, batch 3, length 512"
    assert str(point("370m", "prefill", embedding="bfloat16")) == (
        "fast 370m prefill, batch 1, length 2048, embedding bfloat16"
    )


def test_the_usual_batch_and_length_are_those_of_the_mode() -> None:
    assert point("370m", "train") == Point("370m", "train", "fast", 8, 2048)
    assert point("370m", "generate", "naive", 3) == Point("370m", "generate", "naive", 3, 512)


def test_a_model_is_a_size_or_a_checkpoint(bounded_checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert workload.ternary_synapses(workload.subject("2.7b").config) == 2_619_473_920
    assert (
        workload.ternary_synapses(workload.subject("13b").config)
        == 40 * (4 * 5120**2 + 3 * 5120 * 13824) + 32000 * 5120
    )
    assert workload.ternary_synapses(
        replace(TINY.config, tie_word_embeddings=True)
    ) == workload.ternary_synapses(TINY.config)
    from mmfree_neuro.model.checkpoint import write

    write(tmp_path / "mine", bounded_checkpoint, "float32")
    found = workload.subject(str(tmp_path / "mine"))
    assert (found.name, found.config) == ("mine", bounded_checkpoint.config)
    with pytest.raises(InputError) as error:
        workload.subject("7b")
    assert (
        str(error.value)
        == "model '7b' is not known, must be one of 370m, 1.3b, 2.7b, 13b, or a checkpoint folder"
    )


# What is compared.


def test_logits_agree_or_are_wrong() -> None:
    expected = torch.randn(16, 50, generator=torch.Generator().manual_seed(0))
    near = agreement(expected + 0.001, expected, "x", most=0.01, least=0.9)
    assert near["greedy_agreement"] == 1.0
    assert near["logits_compared"] == 16
    with pytest.raises(WrongResult) as error:
        agreement(expected * 2, expected, "x", most=0.01, least=0.9)
    off = float(expected.double().abs().median() / expected.double().std())
    assert (
        str(error.value)
        == f"x: the median logit is off by {off:.3g} deviations, must be at most 0.01"
    )
    with pytest.raises(WrongResult) as error:
        agreement(
            expected.where(expected != expected.amax(-1, keepdim=True), -9),
            expected,
            "x",
            most=0.1,
            least=0.9,
        )
    assert str(error.value) == "x: 0 of the greedy tokens are equal, must be at least 0.9"
    with pytest.raises(WrongResult, match=r"^x: a logit is not finite$"):
        agreement(expected / 0, expected, "x", most=0.1, least=0.9)


def test_the_transformer_generates_what_one_pass_gives() -> None:
    model = Transformer(TINY.config, CPU, torch.float64)
    tokens = workload.random_tokens(96, 2, 12, device=CPU)
    with torch.no_grad():
        whole = transformer_work.windowed(model, tokens, 12)
        for stop in (5, 12):
            torch.testing.assert_close(model.prefill(tokens[:, :stop])[0], whole[:, stop - 1])
        _, cache = model.prefill(tokens[:, :5])
        cache = [(k.contiguous(), v.contiguous()) for k, v in cache]
        ring = transformer_work.windowed(model, tokens, 5)
        position = torch.tensor([5])
        for at in range(5, 12):
            given = tokens[:, at].clone()
            logits = model.advance(given, position, cache)
            torch.testing.assert_close(logits, ring[:, at])
            assert torch.equal(given, logits.argmax(-1))
        assert int(position) == 12
        expected = torch.nn.functional.cross_entropy(
            whole[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten()
        )
        torch.testing.assert_close(model.loss(tokens), expected)


def test_the_transformer_has_as_many_weights_as_the_model_and_an_embedding() -> None:
    tiny = Transformer(TINY.config, CPU, torch.bfloat16)
    gains = 64 * (2 * TINY.config.num_hidden_layers + 1)
    assert tiny.weights_bytes() == 2 * (workload.ternary_synapses(TINY.config) + 96 * 64 + gains)


@pytest.mark.parametrize(
    ("hidden", "size"),
    [(32, 32), (80, 16), (96, 32), (1024, 64), (1600, 64), (2048, 128), (2560, 128)],
)
def test_the_heads_of_the_transformer_divide_its_hidden_size(hidden: int, size: int) -> None:
    config = replace(TINY.config, hidden_size=hidden)
    assert transformer.head_size(config) == size
    if hidden < 100:
        assert builders.build(
            Point("odd", "generate", "transformer", 1, 3), Subject("odd", config), CPU
        ).check()


def test_a_hidden_size_that_no_heads_divide_is_refused() -> None:
    odd = Subject("odd", replace(TINY.config, hidden_size=72))
    with pytest.raises(InputError) as error:
        builders.build(Point("odd", "prefill", "transformer"), odd, CPU)
    assert str(error.value) == "the hidden size is 72, must be a multiple of 16 for a Transformer++"


@pytest.mark.parametrize(
    ("implementation", "mode"), [key for key in builders.BUILDERS if key[0] != "fast"]
)
def test_every_plain_workload_steps_and_passes_its_check(implementation: str, mode: str) -> None:
    work = builders.build(Point("tiny", mode, implementation, 3, 6), TINY, CPU)
    work.step()
    facts = work.check()
    assert facts["against"]
    assert work.tokens == {"generate": 3, "prefill": 18, "train": 18}[mode]
    assert work.weights_bytes > 0


SMALL = Subject(
    "small", ModelConfig(vocab_size=32, hidden_size=32, num_hidden_layers=1, intermediate_size=32)
)


@pytest.fixture
def few_codes(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are checked on zeros, both extremes and one random row where Triton's interpreter
    computes them."""
    if device == "cpu":
        monkeypatch.setattr(fast, "CHECKED_CODES", 4)


@pytest.mark.kernels
@pytest.mark.parametrize("mode", workload.MODES)
@pytest.mark.usefixtures("few_codes")
def test_every_fast_workload_steps_and_passes_its_check(
    mode: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":  # through Triton's interpreter
        monkeypatch.setattr(fast, "CHECKED_STEPS", 1)
        monkeypatch.setattr(fast, "ENOUGH", 2)
    work = builders.build(Point("small", mode, "fast", 2, 3), SMALL, torch.device(device))
    work.step()
    facts = work.check()
    assert mode == "train" or facts["integer_products_equal"] == 25


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("mode", "more"), [("generate", ""), ("prefill", "; between products bfloat16")]
)
def test_the_embedding_is_kept_as_asked(mode: str, more: str, device: str) -> None:
    asked = Point("small", mode, "fast", 1, 1, "bfloat16")
    work: Any = builders.build(asked, SMALL, torch.device(device))
    assert (work.model.embedding.dtype, work.model.steps) == (torch.bfloat16, None)
    text = (
        "weights 2 bit, activations 8 bit, exact int32 sums, the rest float32, embedding bfloat16"
    )
    assert work.precision == text + more
    made_up = Device()
    row = record.measure_point(
        bench(made_up),
        replace(asked, model="370m"),
        2.0,
        lambda *_: Work(made_up, precision=work.precision),
    )
    assert row["precision"] == text + more
    assert row["script"].endswith(
        f"--mode {mode} --batch 1 --length 1 --impl fast --embedding bfloat16 --seconds 2"
    )


@dataclass
class Reader:
    """Reads prompts in plain torch; where it captures no graph, `change` is what it does to the
    logits."""

    model: Any
    batch: int
    capture: bool | None = None
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    change: Any = None
    fed: list[torch.Tensor] = field(default_factory=list)

    def reset(self) -> None:
        self.fresh = True

    def feed(self, tokens: torch.Tensor) -> torch.Tensor:
        assert self.fresh
        self.fresh = False
        self.fed.append(tokens.clone())
        self.logits = plain.logits(self.model, tokens, last=True)[:, 0]
        if self.capture is False and self.change is not None:
            self.logits = self.change(self.logits)
        return self.logits


def readers(monkeypatch: pytest.MonkeyPatch, change: Any = None) -> list[Reader]:
    """All that read from now on."""
    made = list[Reader]()

    def make(model: Any, batch: int, capture: bool | None = None) -> Reader:
        made.append(Reader(model, batch, capture, change=change))
        return made[-1]

    monkeypatch.setattr(fast, "Prompt", make)
    monkeypatch.setattr(fast, "exact_products", lambda model: 25)
    monkeypatch.setattr(fast, "SHORT", 4)
    return made


@pytest.mark.parametrize(("batch", "length", "compared"), [(1, 6, 8), (3, 3, 9), (12, 5, 8)])
def test_enough_short_prompts_are_compared_in_every_case(
    batch: int, length: int, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = readers(monkeypatch)
    monkeypatch.setattr(fast, "CHECKED_PRODUCTS", 1)
    facts = builders.build(Point("small", "prefill", "fast", batch, length), SMALL, CPU).check()
    assert [reader.capture for reader in made] == [None, False]
    assert {tuple(fed.shape) for fed in made[1].fed} == {(batch, min(length, 4))}
    assert len(made[1].fed) == len({str(fed) for fed in made[1].fed}) == -(-8 // batch)
    assert facts["logits_compared"] == min(batch, fast.CHECKED_ROWS)
    assert facts["logits_compared_of_short_prompts"] == compared
    assert facts["greedy_agreement_of_short_prompts"] == facts["greedy_agreement"] == 1.0
    assert facts["median_difference_over_deviation_of_short_prompts"] == pytest.approx(
        0.0, abs=1e-3
    )
    assert "against_of_short_prompts" not in facts


def test_short_prompts_that_go_wrong_give_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    readers(monkeypatch, lambda logits: logits.where(logits != logits.amax(-1, keepdim=True), -9))
    monkeypatch.setattr(fast, "LESS_GREEDY", 0.0)
    work = builders.build(Point("small", "prefill", "fast", 1, 6), SMALL, CPU)
    with pytest.raises(
        WrongResult,
        match=r"^fast, short prompts: 0 of the greedy tokens are equal, must be at least ",
    ):
        work.check()


def test_logits_may_be_as_far_off_as_the_plain_path_is_from_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    expected, noise = (torch.randn(16, 50, generator=generator) for _ in range(2))
    noisy = expected + 0.01 * noise
    facts = fast.compare(expected - 0.01 * noise, expected, noisy, "x")
    assert facts["median_difference_over_deviation"] == pytest.approx(
        facts["median_of_plain_against_itself"]
    )
    assert facts["greedy_of_plain_against_itself"] == 1.0
    with pytest.raises(
        WrongResult, match=r"^x: the median logit is off by 0\.\d+ deviations, must be at most 0\.0"
    ):
        fast.compare(expected + 0.1 * noise, expected, noisy, "x")
    with pytest.raises(
        WrongResult, match=r"^x: 0 of the greedy tokens are equal, must be at least 0\.7$"
    ):
        fast.compare(
            expected.where(expected != expected.amax(-1, keepdim=True), -9), expected, noisy, "x"
        )


def test_a_yardstick_excuses_only_so_much() -> None:
    generator = torch.Generator().manual_seed(0)
    expected, noise = (torch.randn(16, 50, generator=generator) for _ in range(2))

    def off(by: float) -> float:
        return float((by * noise).double().abs().median() / expected.double().std())

    assert 3 * off(0.2) > fast.MOST and off(0.3) < fast.MOST < off(0.5)
    assert fast.compare(expected + 0.3 * noise, expected, expected + 0.2 * noise, "x")
    with pytest.raises(WrongResult) as error:
        fast.compare(expected + 0.5 * noise, expected, expected + 0.2 * noise, "x")
    assert (
        str(error.value)
        == f"x: the median logit is off by {off(0.5):.3g} deviations, must be at most 0.25"
    )
    with pytest.raises(WrongResult) as error:
        fast.compare(expected, expected, expected + 0.5 * noise, "x")
    who = "x, the plain path against itself"
    assert (
        str(error.value)
        == f"{who}: the median logit is off by {off(0.5):.3g} deviations, must be at most 0.25"
    )


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("where", "way", "name"),
    [(fast.few, "sums", "sums"), (fast, "product", "product"), (fast, "int8_sums", "int8 sums")],
    ids=["sums", "product", "int8 sums"],
)
@pytest.mark.usefixtures("few_codes")
def test_an_integer_product_that_is_wrong_is_found(
    where: ModuleType, way: str, name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, right = random(SMALL.config, device), getattr(where, way)
    monkeypatch.setattr(where, way, lambda q, weights: right(q, weights) + 1)
    with pytest.raises(
        WrongResult, match=rf"^fast: {name} of mixer in differs from the exact integers$"
    ):
        fast.exact_products(model)


@pytest.mark.kernels
@pytest.mark.usefixtures("few_codes")
def test_weights_that_are_unpacked_wrong_are_found(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, right = random(SMALL.config, device), fast.unpack
    monkeypatch.setattr(fast, "unpack", lambda weights, out: -right(weights, out))
    with pytest.raises(
        WrongResult, match=r"^fast: int8 sums of mixer in differs from the exact integers$"
    ):
        fast.exact_products(model)


def test_a_transformer_that_computes_something_else_fails_its_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Transformer.rotations
    works = {
        mode: builders.build(Point("tiny", mode, "transformer", 2, 6), TINY, CPU)
        for mode in workload.MODES
    }
    monkeypatch.setattr(
        Transformer, "to", lambda self, dtype: changed(Transformer(TINY.config, CPU, dtype, seed=1))
    )

    def changed(model: Transformer) -> Transformer:
        model.rotations = lambda positions: right(model, positions + 1)  # type: ignore[method-assign]
        return model

    for mode in ("generate", "prefill"):
        said = (
            rf"transformer, {mode}: the median logit is off by [\d.]+ deviations, must be at "
            rf"most 0\.03"
        )
        with pytest.raises(WrongResult, match=f"^{said}$"):
            works[mode].check()
    work: Any = works["train"]
    with pytest.raises(WrongResult) as error:
        work.check()
    with torch.no_grad():
        must = sum(float(work.model.to(torch.float32).loss(row[None])) for row in work.batch) / len(
            work.batch
        )
    assert (
        str(error.value)
        == f"transformer, train: the loss is {float(work.latest):.4f}, must be {must:.4f}"
    )
    monkeypatch.setattr(transformer_work, "MOST_LOSS", 1.0)
    with pytest.raises(
        WrongResult, match=r"^transformer, train: a gradient has a cosine of .*, below 0\.98$"
    ):
        works["train"].check()


def test_training_that_computes_something_else_fails_its_check() -> None:
    model = naive.random_model(TINY.config, CPU)
    batch = workload.random_tokens(96, 2, 7, device=CPU)
    loss = naive.recomputed_loss(model, batch, naive.EXACT)
    loss.backward()
    with pytest.raises(WrongResult) as error:
        naive.compare_training(model, batch, 99.0, "x")
    assert str(error.value) == f"x: the loss is 99.0000, must be {float(loss.detach()):.4f}"
    model.zero_grad()
    (-naive.recomputed_loss(model, batch, naive.EXACT)).backward()
    exact = float(naive.recomputed_loss(model, batch, naive.EXACT).detach())
    who = (
        rf"x: a cosine of -1\.000 of {naive.COMPARED[0]}'s gradient, must be at least "
        rf"{naive.LEAST_COSINE}"
    )
    with pytest.raises(WrongResult, match=f"^{who}$"):
        naive.compare_training(model, batch, exact, "x")


def test_the_plain_pass_over_packed_weights_is_the_float_model(
    bounded_checkpoint: Checkpoint,
) -> None:
    packed = from_checkpoint(bounded_checkpoint, CPU, embedding="bfloat16")
    rounded = {**bounded_checkpoint.tensors}
    embedding = torch.from_numpy(rounded["model.embeddings.weight"])
    rounded["model.embeddings.weight"] = embedding.bfloat16().float().numpy()
    tokens = workload.random_tokens(256, 2, 9, device=CPU)
    with torch.no_grad():
        expected, _ = float_model(replace(bounded_checkpoint, tensors=rounded))(tokens)
    near = agreement(
        plain.logits(packed, tokens).flatten(0, 1),
        expected.flatten(0, 1),
        "plain",
        most=0.02,
        least=0.9,
    )
    assert near["logits_compared"] == 18
    torch.testing.assert_close(
        plain.logits(packed, tokens, last=True)[:, 0], plain.logits(packed, tokens)[:, -1]
    )


# The command and the scripts.


def test_without_a_gpu_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    output = tmp_path / "rows.json"
    assert main(["bench", "gpu", "--model", "370m", "--mode", "generate", "-o", str(output)]) == 2
    line = (
        "mmfree-neuro: bench gpu: there is no GPU that torch can use here, must be one to "
        "measure on\n"
    )
    assert capsys.readouterr().err == line
    assert not output.exists()


@pytest.mark.slow
def test_the_command_measures_and_adds_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device, asked = Device(), list[Point]()

    def build(one: Point, *_: object) -> Work:
        asked.append(one)
        return Work(device, wrong="made up: differs" if one.batch == 3 else None)

    monkeypatch.setattr(record, "this_gpu", lambda: bench(device))
    monkeypatch.setattr(builders, "build", build)
    output = tmp_path / "rows.json"
    command = ["bench", "gpu", "--model", "370m", "--mode", "generate", "-o", str(output)]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(
        "MatMul-free 370M, made up\ngenerate, batch 1, length 512: 1,333.3 tokens/s"
    )
    assert (
        main([*command, "--baseline", "transformer", "--batch", "2", "--length", "9", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["name"] == "Transformer++ 370M"
    assert asked == [
        Point("370m", "generate", "fast", 1, 512),
        Point("370m", "generate", "transformer", 2, 9),
    ]
    assert main([*command, "--batch", "3"]) == 1
    assert capsys.readouterr().err == "mmfree-neuro: made up: differs\n"
    assert [row["batch"] for row in record.load(output)] == [1, 2]
    output.write_text("{}")
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"mmfree-neuro: {output}: not {record.ROWS}: holds {{}}, must hold a list of objects\n"
    )
    assert main(["bench", "gpu", "--model", "370m", "--mode", "generate", "--seconds", "1"]) == 2
    line = "mmfree-neuro: seconds are 1, must be at least 2: the energy counter moves in ticks\n"
    assert capsys.readouterr().err == line
    assert main([*command[:-1], str(tmp_path)]) == 2
    line = f"mmfree-neuro: {tmp_path}: not {record.ROWS}: is a folder, must be a regular file\n"
    assert capsys.readouterr().err == line
    assert len(asked) == 3
    assert main([*command[:-2], "--embedding", "bfloat16"]) == 0
    assert asked[3:] == [Point("370m", "generate", embedding="bfloat16")]
    assert main([*command[:-2], "--embedding", "bfloat16", "--impl", "naive"]) == 2
    said = (
        "embedding bfloat16 is not for naive generate, must be int8 but for fast generate "
        "and fast prefill"
    )
    assert capsys.readouterr().err == f"mmfree-neuro: {said}\n"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_row_that_cannot_be_kept_in_the_end_is_printed(
    more: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device, output = Device(), tmp_path / "rows.json"

    def build(*_: object) -> Work:
        output.mkdir()
        return Work(device)

    monkeypatch.setattr(record, "this_gpu", lambda: bench(device))
    monkeypatch.setattr(builders, "build", build)
    assert (
        main(["bench", "gpu", "--model", "370m", "--mode", "generate", "-o", str(output), *more])
        == 2
    )
    told = capsys.readouterr()
    assert json.loads(told.out)["tokens_per_s"] == pytest.approx(4 / 0.003)
    assert (
        told.err
        == f"mmfree-neuro: {output}: not {record.ROWS}: is a folder, must be a regular file\n"
    )


def python(*words: str) -> tuple[int, str, str]:
    """The status and the output of another Python."""
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, timeout=100
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_without_triton_the_command_says_so() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from mmfree_kernels.bench import record; record.this_gpu = lambda: None\n"
        "from mmfree_neuro.cli.main import main; sys.exit(main(['bench', 'gpu', "
        "'--model', '370m', "
        "'--mode', 'generate']))"
    )
    line = "mmfree-neuro: bench gpu: Triton is not installed, must be: pip install triton\n"
    assert python("-c", program) == (2, "", line)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu", "gpu_engine", "gpu_training"])
def test_without_a_gpu_and_triton_the_scripts_say_so_and_write_nothing(
    name: str, tmp_path: Path
) -> None:
    program = (
        "import runpy, sys; sys.modules['triton'] = None; del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    line = "bench gpu: there is no GPU that torch can use here, must be one to measure on\n"
    assert python(
        "-c", program, str(SCRIPTS / f"{name}.py"), "-o", str(tmp_path / "rows.json")
    ) == (2, "", line)
    assert list(tmp_path.iterdir()) == []


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A benchmark script as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_script_goes_on_after_a_point_without_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, device, output = script("gpu", monkeypatch), Device(), tmp_path / "rows.json"
    monkeypatch.setattr(record, "this_gpu", lambda: bench(device))
    monkeypatch.setattr(
        builders,
        "build",
        lambda one, *_: Work(device, wrong="made up: differs" if one.batch == 64 else None),
    )
    points = [
        p for p in gpu.POINTS if (p.implementation, p.model, p.mode) == ("fast", "370m", "generate")
    ][:5]
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    gpu.measure(points, 2.0, output, "abc", 1e12)
    assert not output.exists()
    monkeypatch.setattr(sys, "stdin", io.StringIO("measure\n" * 2))
    gpu.measure(points, 2.0, output, "abc", 1e12)
    assert [row["batch"] for row in record.load(output)] == [1, 4, 16, 256]
    assert gpu.missing(points, record.load(output), "X", "abc") == points[1:2]
    for other in (("Y", "abc"), ("X", "abd")):
        assert gpu.missing(points, record.load(output), *other) == points
    assert {row["commit"] for row in record.load(output)} == {"abc"}
    told = capsys.readouterr()
    assert told.out.split("\n") == ["row", "no row", "row", "row", "row", ""]
    assert told.err.count(" s in all") == 4
    assert (
        "fast 370m generate, batch 64, length 512: no row: made up: differs"
        in told.err.splitlines()
    )
    gpu.measure(points, 2.0, output, None, 0.0)
    assert len(record.load(output)) == 4


def test_the_script_names_its_points_and_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = script("gpu", monkeypatch)
    assert len(gpu.POINTS) == len(set(gpu.POINTS))
    assert gpu.POINTS[0] == Point("370m", "generate", "fast", 1, 512)
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--only", "transformer train", "--only", "13b generate", "--list"]
    )
    assert gpu.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "transformer 1.3b train, batch 8, length 2048",
        "transformer 370m train, batch 8, length 2048",
        "fast 13b generate, batch 1, length 512",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(EngineError):
        gpu.main()


def test_the_script_starts_a_process_for_what_belongs_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, runs = script("gpu", monkeypatch), list[list[Point]]()

    started, ended = list[list[Point]](), list[list[Point]]()

    def start(points: list[Point], _options: object, _deadline: float) -> Any:
        started.append(points)
        return SimpleNamespace(communicate=lambda: ended.append(points))

    def run(_child: object, points: list[Point], _deadline: float) -> int:
        runs.append(points)
        return 1 if len(runs) == 1 else len(points)

    monkeypatch.setattr(gpu, "start", start)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "-o", str(tmp_path / "rows.json")])
    assert gpu.main() == 1
    assert [len(points) for points in runs[:4]] == [7, 6, 2, 3]
    assert runs[1] == runs[0][1:]
    assert started[:4] == [runs[0], runs[2], runs[1], runs[3]]
    assert sorted(map(str, started)) == sorted(map(str, runs))
    assert ended == []
    alone = [points for points in runs if points[0].mode == "train"]
    assert [len(points) for points in alone] == [1] * 6
    (row,) = [known(p) for p in runs[2][:1]]
    runs.clear()
    record.append(tmp_path / "rows.json", [row])
    sys.argv += ["--missing", "GPU", "--commit", "abc"]
    assert gpu.main() == 1
    assert [len(points) for points in runs[:4]] == [7, 6, 1, 3]
    started.clear()
    sys.argv += ["--budget-seconds", "10"]
    now = iter([0.0, 1.0, 20.0])
    monkeypatch.setattr(gpu, "time", SimpleNamespace(time=lambda: next(now)))
    assert gpu.main() == 1
    assert ended == started[1:2]


def known(point: Point) -> dict[str, Any]:
    """What identifies a point in its row."""
    named = {"model": point.model, "mode": point.mode, "impl": point.implementation}
    where = {"device": "a GPU", "commit": "abc"}
    return named | {"batch": point.batch, "sequence_length": point.length} | where


def test_the_script_outlives_a_process_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, child = script("gpu", monkeypatch), tmp_path / "child.py"
    monkeypatch.setattr(gpu, "__file__", str(child))
    options, points = (
        SimpleNamespace(seconds=2.0, output=tmp_path / "rows.json", commit="abc"),
        gpu.POINTS[:4],
    )

    def run(text: str, deadline: float = 1e12) -> int:
        child.write_text(text)
        found: int = gpu.run(gpu.start(points, options, deadline), points, deadline)
        return found

    assert run("print('row\\nno row'); raise SystemExit(1)") == 3
    line = "fast 370m generate, batch 4, length 512: no row: the process ended with status 1"
    assert capsys.readouterr().err.splitlines() == [line]
    measured = (
        "import json, sys\nasked = json.loads(sys.argv[sys.argv.index('--points') + 1])\n"
        "assert sys.stdin.readline() == 'measure\\n'\n"
        "assert sys.argv[-2:] == ['--commit', 'abc']\nprint('row\\n' * len(asked))"
    )
    assert run(measured) == 4
    with pytest.raises(SystemExit) as ended:
        run("raise SystemExit(2)")
    assert ended.value.code == 2
    monkeypatch.setattr(gpu, "GRACE_S", 0.2)
    assert run("import time; time.sleep(60)", 0.0) == 1
    assert capsys.readouterr().err.endswith("the process ended with status -9\n")


def test_the_picture_is_drawn_from_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, rows = script("gpu_picture", monkeypatch), tmp_path / "rows.json"
    points = [("generate", batch, 512) for batch in (1, 64)] + [
        ("prefill", 1, length) for length in (500, 16000)
    ]
    record.append(
        rows,
        [
            {
                "impl": impl,
                "model": "370m",
                "mode": mode,
                "batch": batch,
                "sequence_length": length,
                "device": "GPU X",
                "precision": "any",
                "date": "2026-01-01T00:00:00+00:00",
                "tokens_per_s": 1000.0 * batch + length,
                "millijoule_per_token": 100.0 / batch,
            }
            for impl in ("fast", "transformer")
            for mode, batch, length in points
        ],
    )
    assert picture.main([str(rows), str(tmp_path / "gpu.png")]) == 0
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
    found = picture.curves(
        record.load(rows), "generate", "batch", lambda row: row["sequence_length"] == 512
    )
    labels = {label: points for label, _, _, points in found}
    assert labels["this project, packed weights"] == [(1, 1512.0, 100.0), (64, 64512.0, 100 / 64)]
    assert labels["reference implementation, H200"] == [(1, 18.1, 7797), (64, 1190, 122)]
    assert labels["reference code, H100, published"] == [(1, 13.4, 10100)]
    capsys.readouterr()
    assert picture.main([str(tmp_path / "none.json"), str(tmp_path / "none.png")]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/none.json: there is no row of 370m to draw\n"
    assert not (tmp_path / "none.png").exists()
