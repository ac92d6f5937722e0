"""Random models, their integer graphs, mappings of graphs onto chips, and guarded child processes.

A graph is lowered from ranges that are stored in `golden/ranges.json`, so none of it needs torch.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from textwrap import dedent
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings

from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.local_roots import ALL, with_local_roots
from mmfree_neuro.graph.nodes import Embedding, Graph, Head, Input, Output, Rescale, Squares
from mmfree_neuro.hgrn_bit import lowering
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import ternary_weights
from mmfree_neuro.integers.fixedpoint import Multiplier, QType
from mmfree_neuro.integers.tables import sigmoid_table
from mmfree_neuro.integers.ternary import pack
from mmfree_neuro.lowering.scheme import SCHEMES, Range, Ranges
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.model.checkpoint import Checkpoint, write
from mmfree_neuro.pipeline import map
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec
from mmfree_neuro.testing import with_room
from mmfree_partition.route import route

MAPPINGS = ("chain", "random", "block-per-chip")
HAS_GPU = Path("/dev/nvidiactl").exists()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read by Triton when a kernel is defined
RANGES = Path(__file__).with_name("golden") / "ranges.json"
Files = Callable[[str], str]
"""The path of a file of some folder by its name, as text."""
COMPILED = pytest.StashKey[str]()
"""The folder that torch's compiler keeps its files in."""
TIMEOUT_S = 120
WARNINGS = (
    "error",
    # networkx 2.8 says so
    "ignore:pandas not found, skipping conversion test.:ImportWarning:networkx.convert",
    # Lava forks beside its threads
    "ignore:This process:DeprecationWarning:multiprocessing.popen_fork",
)
"""What a child process is started with."""


# How much is drawn, and what a test needs.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for `make random`."""
    parser.addoption(
        "--draws",
        type=int,
        default=1,
        help="how many times as many random cases to draw; 1 draws the same ones every time",
    )
    parser.addoption("--seed", type=int, help="what to draw them from; printed where not given")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Cases are the same every time unless more are asked for."""
    times = config.option.draws
    if times > 1:
        if config.option.seed is None:
            config.option.seed = random.SystemRandom().randrange(1 << 32)
        config.option.hypothesis_seed = config.option.seed
    settings.register_profile(
        "suite", deadline=None, database=None, max_examples=60 * times, derandomize=times == 1
    )
    settings.load_profile("suite")
    if not hasattr(config, "workerinput"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = config.stash[COMPILED] = mkdtemp("-inductor")


def pytest_unconfigure(config: pytest.Config) -> None:
    """What torch's compiler kept for the tests, in child processes and workers too, goes."""
    if COMPILED in config.stash:
        shutil.rmtree(config.stash[COMPILED])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """How to draw the same cases again."""
    if config.option.draws > 1:
        again = f"--draws {config.option.draws} --seed {config.option.seed}"
        terminalreporter.write_line(f"random cases: {again} draws the same again")


class Draws(NamedTuple):
    """How many times as many random cases are drawn, and from what."""

    times: int
    chosen: int

    def seed(self, own: int) -> int:
        """The seed of a test: its own number, unless new cases are to be drawn."""
        return own if self.times == 1 else own + 1_000_003 * self.chosen


@pytest.fixture(scope="session")
def draws(pytestconfig: pytest.Config) -> Draws:
    """How many random cases a test is to draw."""
    return Draws(pytestconfig.option.draws, pytestconfig.option.seed or 0)


NEEDS = {"kernels": ("torch", "triton"), "lava": ("lava",), "mpi": ("mpi4py",)}
"""The packages without which a test with a mark is skipped."""


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test is skipped where a package that its mark stands for is missing."""
    for mark, packages in NEEDS.items():
        missing = [name for name in packages if not _is_there(name)]
        if missing and item.get_closest_marker(mark):
            pytest.skip(f"{' and '.join(missing)} not installed")


@pytest.fixture(scope="session")
def needs_torch() -> None:
    """For a test that calibrates, trains or converts in a module that mostly does not."""
    pytest.importorskip("torch")


@pytest.fixture(scope="session")
def needs_lava_dl() -> None:
    """For a test of the exchange with lava-dl, which needs torch and h5py too."""
    for package in ("torch", "h5py"):
        pytest.importorskip(package)
    try:
        version("lava-dl")
    except PackageNotFoundError:
        pytest.skip("lava-dl not installed")


# Random models and their graphs.


@dataclass(frozen=True)
class Drawn:
    """How a random model is drawn: its sizes, and the deviations of its gains (around 1), of its
    projections and of all else (around 0)."""

    config: ModelConfig
    seed: int
    gains: float = 0.2
    projections: float = 0.1
    others: float = 1.0


def _sized(hidden: int, blocks: int, gate: int, **more: float | None) -> ModelConfig:
    """The configuration of a model of bytes, or of another vocabulary."""
    sizes = {"vocab_size": 256, "hidden_size": hidden, "num_hidden_layers": blocks}
    return ModelConfig(**sizes | {"intermediate_size": gate, "use_lower_bound": False} | more)  # type: ignore[arg-type]


def _odd(hidden: int, blocks: int, gate: int, **more: float) -> Drawn:
    """A model for random mappings, whose vocabulary is no power of two."""
    config = _sized(hidden, blocks, gate, vocab_size=hidden + 13, **more)
    return Drawn(config, hidden + blocks)


_FIRST = {"bos_token_id": 0, "eos_token_id": 0}
MODELS = {
    "lower-bounds": Drawn(_sized(64, 2, 128, use_lower_bound=True), 7, projections=0.05),
    "no-lower-bounds": Drawn(_sized(64, 2, 128), 7, projections=0.05),
    # Files for the command line, and for runs of several processes.
    "small": Drawn(_sized(32, 2, 64, **_FIRST), 5, 0.1, 0.1, 0.1),
    "smallest": Drawn(_sized(16, 2, 24, **_FIRST), 5, 0.2, 0.2, 0.2),
    "of-100-tokens": Drawn(
        _sized(32, 2, 64, vocab_size=100, bos_token_id=None, eos_token_id=0), 5, 0.1, 0.1, 0.1
    ),
    "with-a-tokenizer": Drawn(
        _sized(32, 1, 48, vocab_size=306, bos_token_id=1, eos_token_id=2), 5, 0.2, 0.2, 0.2
    ),
    "two-blocks": Drawn(_sized(64, 2, 128, **_FIRST), 1, 0.1, 0.3, 0.3),
    "two-other-blocks": Drawn(_sized(64, 2, 128, **_FIRST), 2, 0.1, 0.3, 0.3),
    "three-blocks": Drawn(_sized(64, 3, 128, **_FIRST), 3, 0.2, 0.2, 0.2),
    # For random mappings: hidden size x blocks x gate.
    "16x1x24": _odd(16, 1, 24, use_lower_bound=True),
    "64x3x32": _odd(64, 3, 32, use_lower_bound=True),
    "48x1x80": _odd(48, 1, 80, use_lower_bound=True),
    "24x2x33": _odd(24, 2, 33),
    "48x2x80": _odd(48, 2, 80),
    "20x1x37-expanded": _odd(20, 1, 37, expand_ratio=1.5),
    "32x2x80": _odd(32, 2, 80, use_lower_bound=True),
    "20x2x37": _odd(20, 2, 37),
    "16x1x40": _odd(16, 1, 40),
    "24x2x33-lower-bounds": _odd(24, 2, 33, use_lower_bound=True),
    "48x1x64": _odd(48, 1, 64, use_lower_bound=True),
}
"""Random models by name."""


@cache
def _random_checkpoint(name: str) -> Checkpoint[ModelConfig]:
    drawn, tensors = MODELS[name], {}
    rng = np.random.default_rng(drawn.seed)
    for tensor, shape in drawn.config.shapes().items():
        values = rng.standard_normal(shape)
        if tensor.endswith("norm.weight"):
            values = 1 + drawn.gains * values
        elif tensor.endswith("_proj.weight"):
            values *= drawn.projections
        else:
            values *= drawn.others
        tensors[tensor] = values.astype(np.float32)
    return Checkpoint(drawn.config, tensors)


def _random_tokens(name: str) -> np.ndarray:
    """What a model is calibrated on [4, 32]."""
    return np.random.default_rng(3).integers(MODELS[name].config.vocab_size, size=(4, 32))


@cache
def _stored_ranges() -> dict[str, dict[str, Ranges]]:
    """By model and scheme."""
    stored = json.loads(RANGES.read_text(encoding="utf-8"))
    return {
        model: {
            scheme: {name: Range(*ends) for name, ends in ranges.items()}
            for scheme, ranges in schemes.items()
        }
        for model, schemes in stored.items()
    }


EARLY = {name: replace(scheme, root="before") for name, scheme in SCHEMES.items()}
"""The schemes with roots before the products, whose nodes and steps are easier to write down."""
TIGHT = replace(EARLY["a14"], name="wraps", accumulator_bits=17, value_bits=17)
"""Accumulators that no sum of a random model is sure to fit."""
LATE = {f"{name}-late": SCHEMES[name] for name in ("a14", "a16")}
"""Schemes as they are unless told otherwise: norms take their roots after the products."""
LOCAL = {name.replace("late", "local"): name for name in LATE}
"""Graphs of these whose neurons find all roots for themselves."""
_PRODUCT = re.compile(r".*\.(attn\.[ifg]|y)(\.sum)?")
"""The names of what products read and give."""


def _too_small(ranges: Ranges) -> Ranges:
    """Ranges of products that were measured on something ten times as quiet."""
    return {
        name: Range(seen.low / 10, seen.high / 10) if _PRODUCT.fullmatch(name) else seen
        for name, seen in ranges.items()
    }


@cache
def _random_graph(name: str, scheme: str) -> Graph:
    checkpoint, ranges = _random_checkpoint(name), _stored_ranges()[name]
    weights = ternary_weights(checkpoint)
    if scheme == TIGHT.name:
        return lowering.lower(checkpoint, weights, _too_small(ranges["a14"]), TIGHT, "tiny")
    if scheme in LOCAL:
        return with_local_roots(_random_graph(name, LOCAL[scheme]), [ALL])
    if scheme in LATE:
        measured = ranges[scheme.removesuffix("-late")]
        return lowering.lower(checkpoint, weights, measured, LATE[scheme], "tiny")
    return lowering.lower(checkpoint, weights, ranges[scheme], EARLY[scheme], "tiny")


@pytest.fixture(scope="session")
def device() -> str:
    """Where Triton kernels run: on the GPU, or on the CPU through Triton's interpreter."""
    return "cuda" if HAS_GPU else "cpu"


@pytest.fixture(scope="session")
def random_checkpoint() -> Callable[[str], Checkpoint]:
    """The function that gives the random model of a name."""
    return _random_checkpoint


@pytest.fixture(scope="session")
def random_graph() -> Callable[[str, str], Graph]:
    """The function that gives the graph of a random model in a scheme, its roots before the
    products: after these in "a14-late" and "a16-late", and found by every neuron in "a14-local" and
    "a16-local"; or one whose sums wrap in "wraps"."""
    return _random_graph


@pytest.fixture(scope="session")
def random_tokens() -> Callable[[str], np.ndarray]:
    """The function that gives the tokens that a random model is calibrated on."""
    return _random_tokens


@pytest.fixture(scope="session")
def stored_ranges() -> dict[str, dict[str, Ranges]]:
    """What calibration gave for every random model in every scheme."""
    return _stored_ranges()


@pytest.fixture(scope="session")
def tokens() -> np.ndarray:
    """Random tokens [4, 32]: what the tiny models are calibrated on."""
    return _random_tokens("lower-bounds")


@pytest.fixture(scope="session", params=["lower-bounds", "no-lower-bounds"])
def model_name(request: pytest.FixtureRequest) -> str:
    """A random model of two blocks, with lower bounds and without."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def checkpoint(model_name: str) -> Checkpoint:
    """A random model of two blocks, with lower bounds and without."""
    return _random_checkpoint(model_name)


@pytest.fixture(scope="session")
def bounded_checkpoint() -> Checkpoint:
    """The random model with lower bounds."""
    return _random_checkpoint("lower-bounds")


@pytest.fixture(scope="session")
def a16(model_name: str) -> Graph:
    """The tiny models with static 16-bit activations."""
    return _random_graph(model_name, "a16")


@pytest.fixture(scope="session")
def a8(model_name: str) -> Graph:
    """The tiny models with 8-bit activations scaled per token."""
    return _random_graph(model_name, "a8")


@pytest.fixture(scope="session")
def wraps() -> Graph:
    """The tiny model with lower bounds, in accumulators that calibration found too large."""
    return _random_graph("lower-bounds", "wraps")


@pytest.fixture(scope="session", params=[*sorted(SCHEMES), "a14-late", "a14-local"])
def graph(request: pytest.FixtureRequest) -> Graph:
    """The tiny model with lower bounds, in every scheme, and with roots after the products: one for
    all, or one in every neuron."""
    return _random_graph("lower-bounds", request.param)


@pytest.fixture(scope="session")
def system() -> SystemSpec:
    """Eight Loihi 2."""
    return load_system("kapoho-point")


@pytest.fixture(scope="session")
def roomy() -> SystemSpec:
    """Eight Loihi 2 with cores that hold whatever lies on them, and messages of 32 bits."""
    return with_room(load_system("kapoho-point"))


@pytest.fixture(scope="session")
def with_figures() -> Callable[..., SystemSpec]:
    """The function that gives a system's chip other figures."""

    def change(system: SystemSpec, **figures: int) -> SystemSpec:
        spec = {name: Quantity(value, value, value, "made up") for name, value in figures.items()}
        return replace(system, chip=replace(system.chip, **spec))

    return change


def _chain(graph: Graph) -> tuple[tuple[Shard, ...], tuple[Location, ...]]:
    count = len(graph.nodes)
    shards = tuple(Shard(node.name, 0, node.size) for node in graph.nodes)
    return shards, (Location(HOST, 0), *(Location(3 * k // count, k) for k in range(1, count)))


def _random(graph: Graph, seed: int) -> tuple[tuple[Shard, ...], tuple[Location, ...]]:
    rng = np.random.default_rng(seed)
    shards, locations = [Shard(graph.embedding.name, 0, graph.embedding.size)], [Location(HOST, 0)]
    for node in graph.nodes[1:]:
        inner = (
            np.unique(rng.integers(1, node.size, size=rng.integers(4))).tolist()
            if node.size > 1
            else []
        )
        for start, stop in zip([0, *inner], [*inner, node.size], strict=True):
            shards.append(Shard(node.name, start, stop))
            locations.append(Location(int(rng.integers(4)), int(rng.integers(12))))
    order = rng.permutation(len(shards))
    return tuple(shards[k] for k in order), tuple(locations[k] for k in order)


@pytest.fixture(scope="session")
def make_mapping(system: SystemSpec) -> Callable[..., Mapping]:
    """The function that maps a graph: whole nodes in a chain over three chips, at random, or one
    block per chip."""

    def make(graph: Graph, kind: str, seed: int = 0) -> Mapping:
        if kind == "block-per-chip":
            return map.place(graph, "", system, Request(kind, cores=5))[1]
        shards, locations = _chain(graph) if kind == "chain" else _random(graph, seed)
        return Mapping("", system.name, kind, shards, locations, route(graph, shards, locations))

    return make


@pytest.fixture(scope="session", params=MAPPINGS)
def mapping(
    request: pytest.FixtureRequest, graph: Graph, make_mapping: Callable[..., Mapping]
) -> Mapping:
    """Three mappings of the graph."""
    return make_mapping(graph, request.param)


@pytest.fixture(scope="session")
def hand_graph() -> Graph:
    """Three values a token, one ternary matrix of two rows, logits of 3/2 times its sums."""
    codes = np.array([[3, -5, 7], [-1, 0, -2]], np.int8)
    squares = Squares(None, 0, QType(8, 0), 0)
    outputs = Output("x", 3, QType(8, 0)), Output("sq", 3, QType(16, 0), unsigned=True)
    matrix = pack(np.array([[1, -1, 0], [0, 1, 1]], np.int8))
    head = Head(
        "head",
        2,
        (Input("y", "embedding", "x", "ternary", matrix),),
        (Output("logits", 2, QType(16, 0)),),
        {"y": Rescale(Multiplier(3, 1), None)},
    )
    embedding = Embedding("embedding", 3, (), outputs, codes, np.array([1, 1]), 0, squares)
    return Graph("hand", "a16", (embedding, head), sigmoid_table(8), 32, 0, None, {})


@pytest.fixture(scope="session")
def hand_mapping(hand_graph: Graph) -> Mapping:
    """The head of the graph made by hand, a row on each of two cores of chip 0."""
    shards = Shard("embedding", 0, 3), Shard("head", 0, 1), Shard("head", 1, 2)
    locations = Location(HOST, 0), Location(0, 0), Location(0, 1)
    return Mapping(
        "", "kapoho-point", "hand", shards, locations, route(hand_graph, shards, locations)
    )


# Files, and child processes.


@pytest.fixture(scope="session")
def make_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Files]:
    """The function that makes a folder with a random model's checkpoint, files of tokens, and for
    each scheme, with roots before products and one with these after, a graph and its mapping, one
    block on so many cores of each chip."""

    def make(model: str, cores: int) -> Files:
        folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(6)
        vocabulary = MODELS[model].config.vocab_size
        write(folder / "checkpoint", _random_checkpoint(model), "float32")
        np.save(folder / "calibration.npy", rng.integers(0, vocabulary, (8, 33)))
        np.save(folder / "tokens.npy", rng.integers(0, vocabulary, (2, 7)))
        request = Request("block-per-chip", cores=cores)
        for scheme in (*SCHEMES, "a14-late"):
            path = folder / f"{scheme}.graph"
            graph_file.save_graph(_random_graph(model, scheme), path)
            map.map_graph(path, "kapoho-point", path.with_suffix(".map"), request)
        return lambda name: str(folder / name)

    return make


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """The function that says whether two records hold the same, arrays and their types
    included."""
    return _same


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if is_dataclass(a):
        return type(a) is type(b) and all(
            _same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)
        )
    if isinstance(a, tuple):
        return (
            isinstance(b, tuple)
            and len(a) == len(b)
            and all(_same(x, y) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(value, b[key]) for key, value in a.items())
    return type(a) is type(b) and bool(a == b)


WRONG_VALUES = (None, True, -1, 1 << 70, 1.5, "x", "\ud800", [], {}, [[0]])
"""A value of every type that JSON has, most of them wrong wherever they stand."""


@pytest.fixture(scope="session")
def spoilt() -> Callable[[Any], Iterator[str]]:
    """The function that changes a value of JSON in place, part by part, and says each time what is
    wrong with it then; of a long list the first and the last item stand for all."""

    def change(whole: Any) -> Iterator[str]:
        for holder, key, where in list(_parts(whole, "")):
            before = holder[key]
            for wrong in WRONG_VALUES:
                holder[key] = wrong
                yield f"{where} = {wrong!r}"
            del holder[key]
            yield f"no {where}"
            if isinstance(holder, list):
                holder.insert(key, before)
                holder.append(before)
                yield f"{where} twice"
                del holder[-1]
            else:
                holder[key] = before
                holder["more"] = 1
                yield f"more beside {where}"
                del holder["more"]

    return change


def _parts(whole: Any, where: str) -> Iterator[tuple[Any, Any, str]]:
    """Every part of a value of JSON: what holds it, its key there, and where that is.

    Of objects side by side with the same keys one is looked into.
    """
    if isinstance(whole, dict):
        keys: list[Any] = list(whole)
    else:
        keys = sorted({0, len(whole) - 1}) if isinstance(whole, list) and whole else []
    known: set[frozenset[str]] = set()
    for key in keys:
        yield whole, key, f"{where}/{key}"
        alike = frozenset(whole[key]) if isinstance(whole[key], dict) else frozenset()
        if not alike or alike not in known:
            yield from _parts(whole[key], f"{where}/{key}")
        known.add(alike)


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """The function that gives every file below a folder, and every folder."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
            for path in sorted(folder.rglob("*"))
        }

    return read


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def start() -> Start:
    """The function that starts a command in a session of its own, its output in pipes."""

    def child(*command: str | Path, **environment: str) -> "subprocess.Popen[str]":
        # A child inherits that SIGINT is ignored, as it is for a job in the background, but not a
        # handler of ours: with one in place it starts as from a terminal, and Ctrl-C ends it.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=os.environ | environment,
            )
        finally:
            signal.signal(signal.SIGINT, handler)

    return child


@pytest.fixture(scope="session")
def python() -> tuple[str, ...]:
    """The command that starts this Python with every warning an error."""
    return (sys.executable, *(word for warning in WARNINGS for word in ("-W", warning)))


@pytest.fixture
def run_python(
    start: Start, python: tuple[str, ...], tmp_path: Path
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """The function that runs the text of a program, or a script, to its end; whatever it leaves
    behind is ended with it."""

    def run(
        program: str | Path, *arguments: str | Path, status: int = 0
    ) -> "subprocess.CompletedProcess[str]":
        script = program if isinstance(program, Path) else tmp_path / "program.py"
        if isinstance(program, str):
            # a file of its own, because Lava reads the file that a Process comes from
            script.write_text(dedent(program), encoding="utf-8")
        process = start(*python, script, *arguments)
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"the program did not end within {TIMEOUT_S} s\n{out}\n{err}")
        assert process.returncode == status, err
        return subprocess.CompletedProcess(process.args, status, out, err)

    return run
