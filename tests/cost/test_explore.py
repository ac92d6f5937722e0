"""Many mappings side by side: what a point is, worked out by hand, which points stay, and the
command."""

import json
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.cost import constants, explore
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.explore import Point
from mmfree_neuro.cost.span import Span
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import GraphSummary, NodeSummary, summarise
from mmfree_neuro.mapping.mapping import HOST, Location, Mapping, Route, Shard
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.report import pictures, terminal
from mmfree_neuro.run.activity import Activity, expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import ChipSpec, Quantity, SystemSpec

NS, UJ, PJ = 1e-9, 1e-3, 1e-9  # in seconds, and in millijoule
DRAWS = np.array([0.5, 0.8, 1.0, 1.25, 2.0])
PNG = b"\x89PNG\r\n"
CHAIN = Request("chain", divide=False, weight_bits=2)


def point(
    rate: float, energy: float, chips: int, request: Request = CHAIN, phase: str = "prefill"
) -> Point:
    """A point of these figures, with ranges from half to twice."""
    rates, energies = (Span(value / 2, value, value * 2) for value in (rate, energy))
    mode = {"prefill": "pipelined", "generate": "fall-through"}[phase]
    alone = Span(energy / 8, energy / 4, energy / 2)
    return Point(
        request,
        phase,
        mode,
        chips,
        8 * chips,
        rates,
        alone,
        energies,
        40,
        "memory words read",
        0.25,
        Span(1 / rate / 2, 1 / rate, 2 / rate),
        0,
        rate * DRAWS,
        energy * DRAWS,
    )


# Which points stay.


def test_what_another_beats_in_everything_is_not_on_the_front() -> None:
    fast, frugal, beaten = point(100, 5, 2), point(50, 2, 2), point(40, 3, 2)
    assert explore.front([beaten, frugal, fast]) == (fast, frugal)


@pytest.mark.parametrize(
    "other",
    [point(100, 5, 3), point(100, 6, 2), point(99, 5, 2)],
    ids=["more chips", "more energy", "slower"],
)
def test_what_ties_in_two_and_is_worse_in_the_third_is_beaten(other: Point) -> None:
    best = point(100, 5, 2)
    assert explore.front([other, best]) == explore.front([best, other]) == (best,)


@pytest.mark.parametrize(
    "other",
    [point(90, 5, 1), point(90, 4, 2), point(110, 6, 2), point(110, 5, 3)],
    ids=["slower, fewer chips", "slower, less energy", "faster, more energy", "faster, more chips"],
)
def test_what_is_better_in_one_stays(other: Point) -> None:
    here = point(100, 5, 2)
    assert set(explore.front([here, other])) == {here, other}


def interleaved(rate: float, latency: float) -> Point:
    """A point of generation with several sequences, which differ in these two alone."""
    return replace(
        point(rate, 5, 2, phase="generate"),
        mode="interleaved",
        latency_seconds=Span(latency / 2, latency, latency * 2),
    )


def test_where_sequences_are_interleaved_the_latency_counts_too() -> None:
    few, many = interleaved(100, 0.1), interleaved(200, 0.3)
    assert explore.front([few, many]) == (many, few)
    assert explore.front([few, many, interleaved(100, 0.2)]) == (many, few)
    assert explore.front([interleaved(200, 0.1), few, many]) == (interleaved(200, 0.1),)
    ranges = replace(few, latency_seconds=Span(0.01, 0.1, 9.0))  # central figures alone count
    assert explore.front([few, ranges]) == (few,)


def test_elsewhere_it_does_not() -> None:
    """Of one sequence it is the time of a token, and in a pipeline nobody waits for it."""
    fast, other = point(100, 5, 2), point(90, 5, 2)
    sooner = replace(other, latency_seconds=Span(1e-9, 1e-9, 1e-9))
    assert explore.front([fast, sooner]) == (fast,)


def test_of_equal_points_the_first_stays() -> None:
    first, second = point(100, 5, 2), point(100, 5, 2, replace(CHAIN, placer="balanced"))
    assert explore.front([first, second]) == (first,)
    assert explore.front([second, first]) == (second,)


def test_a_front_is_in_order_of_speed_and_of_nothing_is_nothing() -> None:
    slow, middle, fast = point(10, 1, 1), point(20, 2, 1), point(30, 3, 1)
    assert explore.front([middle, slow, fast]) == (fast, middle, slow)
    assert explore.front([]) == ()


def test_only_the_central_energy_of_the_system_counts() -> None:
    """Neither the ranges nor what the chips alone take."""
    low = replace(
        point(100, 6, 2),
        millijoule_per_token=Span(1, 6, 7),
        chip_millijoule_per_token=Span(0, 0, 0),
    )
    best = point(100, 5, 2)
    assert explore.front([low, best]) == (best,)


# What a point is: two chips of a board whose memory words take 200 ns to read, one for each two
# synapses, and a token reads at most 8 synapses of a core.


def board() -> SystemSpec:
    """Round figures; nothing takes time but memory words and barriers, and nothing energy but
    synops and power."""

    def of(low: float, central: float, high: float) -> Quantity:
        return Quantity(low, central, high, "made up")

    figures = {
        field.name: of(0, 0, 0)
        for field in fields(ChipSpec)
        if field.name != "name" and field.default is MISSING
    }
    figures |= {
        "cores": of(8, 8, 8),
        "mesh_columns": of(4, 4, 4),
        "energy_per_synop_pj": of(5, 10, 20),
        "static_power_w": of(0.25, 0.5, 1),
        "fall_through_energy_ratio": of(0.5, 0.5, 0.5),
        "multi_chip_energy_ratio": of(1, 1, 1),
        "cores_per_router": of(1, 1, 1),
        "time_per_word_ns": of(100, 200, 400),
        "barrier_few_chips_ns": of(1000, 1000, 1000),
        "barrier_many_chips_ns": of(9000, 9000, 9000),
        "fall_through_step_ns": of(0, 250, 500),
    }
    two, eight = of(2, 2, 2), of(8, 8, 8)
    return SystemSpec(
        "board",
        "made up",
        eight,
        of(4, 4, 4),
        two,
        of(0, 1, 2),
        of(0, 0.5, 1),
        ChipSpec("chip", **figures),
        powered_chips=two,
    )


def example() -> tuple[Mapping, GraphSummary, Activity]:
    """A token through two cores of chip 0 and one of chip 1; 9 payloads go from chip to chip, from
    and to the host."""
    nodes = (
        NodeSummary("embedding", "Embedding", 4, None, 0, {}, 0, 0),
        NodeSummary("mix", "MLGRU", 4, 0, 1, {}, 16, 12),
        NodeSummary("head", "Head", 2, None, 2, {}, 8, 5),
    )
    host, first, second, last = Location(HOST, 0), Location(0, 0), Location(0, 5), Location(1, 6)
    shards = Shard("embedding", 0, 4), Shard("mix", 0, 2), Shard("mix", 2, 4), Shard("head", 0, 2)
    routes = (
        Route(0, "x", (first, second), 0, 4),
        Route(1, "v", (second, last), 0, 2),
        Route(2, "v", (last,), 2, 3),
        Route(3, "logits", (host,), 0, 2),
    )
    mapping = Mapping("", "board", "by hand", shards, (host, first, second, last), routes)
    activity = Activity(
        1,
        np.ones(4, np.int64),
        np.array([0, 3, 4, 5]),
        np.array([0, 6, 8, 7]),
        np.zeros(4, np.int64),
        np.zeros(4, np.int64),
        np.array([4, 2, 1, 2]),
    )
    return mapping, GraphSummary("made up", "a16", 1, 2, 32, {}, nodes), activity


def nearly(low: float, central: float, high: float) -> tuple[float, float, float]:
    """A range, nearly."""
    wanted: tuple[float, float, float] = pytest.approx((low, central, high))
    return wanted


def ends(span: Span) -> tuple[float, float, float]:
    """A range as a tuple."""
    return span.low, span.central, span.high


@pytest.fixture
def at_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not drawn, but all at their low ends, all central, and all at their high ends."""
    monkeypatch.setattr(constants, "drawn", constants.corners)


def of_example(copies: int) -> dict[tuple[str, str], Point]:
    """The points of the example by phase and mode."""
    mapping, summary, activity = example()
    found = explore.points(
        replace(CHAIN, copies=copies), counted(mapping, summary, activity, board())
    )
    return {(p.phase, p.mode): p for p in found}


MODES = {
    ("prefill", "pipelined"): (1, 8, 0),
    ("prefill", "asynchronous"): (0, 8, 0),
    ("generate", "fall-through"): (3, 8 + 7, 3),
    ("generate", "asynchronous"): (0, 8 + 7, 0),
}
"""For a token: barriers, synapses read, 100 ns each, one after another, and steps that take
something on top."""


@pytest.mark.usefixtures("at_corners")
@pytest.mark.parametrize(("copies", "barrier_ns"), [(1, 1000), (2, 1000), (3, 9000), (4, 9000)])
def test_a_mapping_is_a_point_in_every_mode(copies: int, barrier_ns: float) -> None:
    """Every chip of every copy takes part in the barrier: two copies have 4 chips, and three have
    many."""
    found = of_example(copies)
    assert list(found) == list(MODES)
    for mode, (barriers, reads, steps) in MODES.items():
        low, central, high = (
            barriers * barrier_ns + reads * each + steps * more
            for each, more in ((50, 0), (100, 250), (200, 500))
        )
        rates = copies * 1e9 / high, copies * 1e9 / central, copies * 1e9 / low
        assert ends(found[mode].tokens_per_s) == nearly(*rates)
        assert found[mode].barrier_share == pytest.approx(barriers * barrier_ns / central)
        assert (found[mode].chips, found[mode].cores) == (2 * copies, 3 * copies)
        assert (found[mode].resource, found[mode].messages_off_chips) == ("memory words read", 9)
        assert found[mode].request == replace(CHAIN, copies=copies)
        # In a pipeline of three steps a token takes three times as long as between two tokens.
        times = 3 if mode[0] == "prefill" else 1
        latency = times * low * NS, times * central * NS, times * high * NS
        assert ends(found[mode].latency_seconds) == nearly(*latency)
        assert found[mode].state_bytes == 0


@pytest.mark.usefixtures("at_corners")
@pytest.mark.parametrize(("copies", "barrier_ns"), [(1, 1000), (3, 9000)])
def test_copies_share_the_board_and_the_host(copies: int, barrier_ns: float) -> None:
    """Watts times microseconds; a token of one copy is charged its own two chips and its share of
    the rest."""
    found = of_example(copies)["prefill", "pipelined"]
    low, central, high = (1e-3 * (barrier_ns + 8 * each) for each in (50, 100, 200))
    chips = 60 * PJ + 0.5 * low * UJ, 120 * PJ + 1 * central * UJ, 240 * PJ + 2 * high * UJ
    rest = 0, (1 + 0.5) / copies * central * UJ, (2 + 1) / copies * high * UJ
    assert ends(found.chip_millijoule_per_token) == nearly(*chips)
    whole = [chip + other for chip, other in zip(chips, rest, strict=True)]
    assert ends(found.millijoule_per_token) == nearly(*whole)


@pytest.mark.usefixtures("at_corners")
@pytest.mark.parametrize("copies", [1, 3])
def test_sequences_of_each_copy_are_interleaved(copies: int) -> None:
    """Two tokens are at two of the three steps: 7 reads of the last core, then twice 8."""
    mapping, summary, activity = example()
    embedding, mix, head = summary.nodes
    summary = replace(summary, nodes=(embedding, replace(mix, states=4), head))
    two = replace(mapping, in_flight=2)
    points = explore.points(
        replace(CHAIN, copies=copies, in_flight=2), counted(two, summary, activity, board())
    )
    found = {(p.phase, p.mode): p for p in points}
    assert list(found) == [
        ("prefill", "pipelined"),
        ("prefill", "asynchronous"),
        ("generate", "interleaved"),
        ("generate", "asynchronous"),
    ]
    barrier_ns = 1000 if copies == 1 else 9000
    low, central, high = (
        (7 + 8 + 8) * each + 3 * (barrier_ns + more)
        for each, more in ((50, 0), (100, 250), (200, 500))
    )
    generate = found["generate", "interleaved"]
    rates = (2e9 * copies / ns for ns in (high, central, low))
    assert ends(generate.tokens_per_s) == nearly(*rates)
    assert ends(generate.latency_seconds) == nearly(low * NS, central * NS, high * NS)
    assert {p.state_bytes for p in points} == {2 * 4 * 4}
    free = found["generate", "asynchronous"]
    assert ends(free.tokens_per_s) == nearly(*(1e9 * copies / ns for ns in (1600, 800, 400)))


@pytest.mark.parametrize(("in_flight", "taken"), [(1, 16), (2, 32), (4096, 65_536)])
def test_states_take_four_bytes_a_neuron_and_sequence(in_flight: int, taken: int) -> None:
    _, summary, _ = example()
    embedding, mix, head = summary.nodes
    kept = replace(summary, nodes=(embedding, replace(mix, states=4), head))
    assert explore.state_bytes(kept, in_flight) == taken
    assert explore.state_bytes(summary, in_flight) == 0


@pytest.mark.usefixtures("at_corners")
def test_a_token_alone_takes_less_dynamic_energy() -> None:
    found = of_example(1)["generate", "asynchronous"]
    low, central, high = 0.75, 1.5, 3.0  # microseconds
    wanted = 30 * PJ + 0.5 * low * UJ, 60 * PJ + 1 * central * UJ, 120 * PJ + 2 * high * UJ
    assert ends(found.chip_millijoule_per_token) == nearly(*wanted)


# How it is told.


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "chain, rows, 2 bits"),
        ({"divide": True, "spread": True, "weight_bits": 8}, "chain, spread, 8 bits"),
        ({"divide": True}, "chain, columns, 2 bits"),
        ({"divide": True, "weight_bits": None}, "chain, columns"),
        ({"placer": "greedy", "head_on_host": True}, "greedy, rows, 2 bits, head on the host"),
        ({"head_on_host": True, "copies": 3}, "chain, rows, 2 bits, head on the host, 3 copies"),
        ({"in_flight": 8}, "chain, rows, 2 bits, 8 in flight"),
        ({"greedy_on_chips": True}, "chain, rows, 2 bits, greedy on the chips"),
        (
            {"in_flight": 64, "copies": 3, "local_roots": ("o", "mlp")},
            "chain, rows, 2 bits, local roots o+mlp, 64 in flight, 3 copies",
        ),
    ],
)
def test_a_choice_in_words(changes: dict[str, object], text: str) -> None:
    assert explore.label(replace(CHAIN, **changes)) == text


POINTS = [
    point(1000, 0.5, 2),
    point(800, 0.75, 2, replace(CHAIN, divide=True, spread=True)),
    point(200, 4, 2, phase="generate"),
    point(400, 6, 16, replace(CHAIN, divide=True, spread=True, copies=8), "generate"),
]
FAILED = [(replace(CHAIN, chips=1), "net: does not fit")]


def row(*cells: str) -> str:
    """A line of the table: ranges, each with its ratios, chips, and words."""
    *ranges, chips, words = cells
    widths = 26, 20, 28, 20
    spans = " ".join(cell.rjust(width) for cell, width in zip(ranges, widths, strict=True))
    return f"  {spans} {chips:>5s}  {words}"


def test_the_table_has_the_fronts_fastest_first() -> None:
    over, words = "× the fastest", "choice; slowest"
    head = row("tokens/s [5 … 95 %]", over, "mJ/token, system [5 … 95 %]", over, "chips", words)
    alone, copied = (
        "chain, rows, 2 bits; memory words read",
        "chain, spread, 2 bits, 8 copies; memory words read",
    )
    assert terminal.table(POINTS, FAILED).splitlines() == [
        "prefill, pipelined: 1 of 2 points that no other beats",
        head,
        row("1000 [500 … 2e+03]", "1 [1 … 1]", "0.5 [0.25 … 1]", "1 [1 … 1]", "2", alone),
        "generate, fall-through: 2 of 2 points that no other beats",
        head,
        row("400 [200 … 800]", "1 [1 … 1]", "6 [3 … 12]", "1 [1 … 1]", "16", copied),
        row(
            "200 [100 … 400]", "0.5 [0.5 … 0.5]", "4 [2 … 8]", "0.6667 [0.667 … 0.667]", "2", alone
        ),
        "not mapped: chain, rows, 2 bits, 1 chips: net: does not fit",
    ]


def test_the_content_says_of_every_point_whether_it_is_on_its_front() -> None:
    content = explore.content(POINTS, FAILED)
    assert [entry["front"] for entry in content["points"]] == [True, False, True, True]
    left_out = "request", "rates", "energies"
    expected = {k: v for k, v in asdict(POINTS[0]).items() if k not in left_out}
    expected |= {"choice": explore.plain(POINTS[0].request), "front": True}
    same = {"low": 1.0, "central": 1.0, "high": 1.0}
    ratios = "tokens_per_s_over_the_fastest", "millijoule_per_token_over_the_fastest"
    assert content["points"][0] == expected | dict.fromkeys(ratios, same)
    slower = content["points"][1]
    assert slower[ratios[0]]["central"] == pytest.approx(0.8)
    assert slower[ratios[1]]["high"] == pytest.approx(1.5)
    assert content["failed"] == [
        explore.plain(replace(CHAIN, chips=1)) | {"why": "net: does not fit"}
    ]
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_two_points_are_compared_draw_by_draw() -> None:
    """Their intervals overlap, and in each draw the one is faster by as much as it is."""
    one = replace(point(100, 5, 2), rates=np.linspace(50, 150, 101))
    other = replace(one, rates=one.rates * np.linspace(0.8, 0.9, 101), energies=0 * one.energies)
    rate, energy = other.over(one)
    assert ends(rate) == nearly(0.805, 0.85, 0.895)
    assert ends(energy) == (0, 0, 0)
    assert ends(one.over(other)[1]) == (1, 1, 1)


def test_the_picture_is_the_same_every_time() -> None:
    assert pictures.png(pictures.fronts(POINTS)).startswith(PNG)
    first, second = (pictures.png(pictures.fronts(POINTS)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("energies", [(0.0,), (0.0, 0.0), (0.0, 2.0)])
def test_a_picture_can_be_drawn_of_a_board_that_takes_no_energy(
    energies: tuple[float, ...],
) -> None:
    points = [point(10 * (k + 1), energy, 1) for k, energy in enumerate(energies)]
    assert pictures.png(pictures.fronts(points)).startswith(PNG)


# The command, on a tiny graph.


@pytest.fixture(scope="module")
def tiny(random_graph: Callable[[str, str], Graph]) -> Graph:
    """The random model of two blocks as integers."""
    return random_graph("lower-bounds", "a16")


@pytest.fixture
def run(tiny: Graph, tmp_path: Path) -> Callable[..., int]:
    """The command on a file of that graph."""
    graph_file.save_graph(tiny, tmp_path / "tiny.graph")

    def call(*options: str, system: str = "kapoho-point") -> int:
        return main(["explore", str(tmp_path / "tiny.graph"), "--system", system, *options])

    return call


Capture = pytest.CaptureFixture[str]


def small(path: Path, name: str, value: int) -> str:
    """The shipped one-chip system with another limit, as a file."""
    systems = resources.files("mmfree_neuro") / "systems"
    chip = (systems / "chips" / "loihi2.toml").read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(chip) if line.startswith(f"{name} = "))
    chip[number] = f'{name} = {{ value = {value}, source = "a test" }}'
    system = (
        (systems / "oheo-gulch.toml").read_text(encoding="utf-8").replace('chip = "loihi2"\n', "")
    )
    path.write_text("\n".join([system, "[chip]", *chip]), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_explore(run: Callable[..., int], tmp_path: Path, capsys: Capture) -> None:
    """Prints the fronts, and writes every point and a picture where it is told to."""
    files = [
        "-o",
        str(tmp_path / "new" / "points.json"),
        "--picture",
        str(tmp_path / "new" / "fronts.png"),
    ]
    assert run("--chips", "fewest,3", "--copies", "1,2", *files) == 0
    said = capsys.readouterr()
    assert said.err == ""
    content = json.loads((tmp_path / "new" / "points.json").read_text(encoding="utf-8"))
    assert content["failed"] == []
    # two splits, each by chain on one chip and on three, and a block per chip; one or two copies,
    # in four modes
    assert len(content["points"]) == 2 * 3 * 2 * 4
    assert (tmp_path / "new" / "fronts.png").read_bytes().startswith(PNG)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"points.json", "fronts.png"}
    lines = said.out.splitlines()
    assert lines[-2:] == [f"wrote {tmp_path}/new/fronts.png", f"wrote {tmp_path}/new/points.json"]
    for phase, modes in (
        ("prefill", ("pipelined", "asynchronous")),
        ("generate", ("fall-through", "asynchronous")),
    ):
        for mode in modes:
            here = [p for p in content["points"] if (p["phase"], p["mode"]) == (phase, mode)]
            best = sum(p["front"] for p in here)
            assert f"{phase}, {mode}: {best} of {2 * 3 * 2} points that no other beats" in lines


def test_the_points_are_those_of_mappings_made_one_by_one(
    run: Callable[..., int], tiny: Graph, capsys: Capture
) -> None:
    assert (
        run("--chips", "2", "--placers", "chain", "--splits", "spread", "--copies", "3", "--json")
        == 0
    )
    content = json.loads(capsys.readouterr().out)
    system = load_system("kapoho-point")
    divided, mapping = map.place(tiny, "", system, Request("chain", 2, spread=True))
    wide = map.with_weight_bits(system, 2)
    request = Request("chain", 2, spread=True, weight_bits=2, copies=3)
    counts = counted(mapping, summarise(divided), expected(divided, mapping), wide)
    found = explore.points(request, counts)
    expected_content = {"system": "kapoho-point", "set": {}, **explore.content(found, [])}
    assert content == json.loads(json.dumps(expected_content))
    assert {p["chips"] for p in content["points"]} == {6}


def test_local_roots_are_an_axis(
    random_graph: Callable[[str, str], Graph], tmp_path: Path, capsys: Capture
) -> None:
    """Each set of norms is a choice of its own, and takes fewer steps."""
    graph = tmp_path / "late.graph"
    graph_file.save_graph(random_graph("lower-bounds", "a14-late"), graph)
    what = ["--placers", "chain", "--splits", "spread", "--json", "--local-roots", "none,o+mlp,all"]
    assert main(["explore", str(graph), "--system", "kapoho-point", *what]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    found = [p for p in points if (p["phase"], p["mode"]) == ("generate", "fall-through")]
    whole = ["attn", "o", "mlp", "down", "head"]
    assert [p["choice"]["local_roots"] for p in found] == [[], ["o", "mlp"], whole]
    assert len({p["tokens_per_s"]["central"] for p in found}) == 3
    names = [explore.label(Request(local_roots=tuple(p["choice"]["local_roots"]))) for p in found]
    assert [name.partition("local")[2] for name in names] == [
        "",
        " roots o+mlp",
        " roots attn+o+mlp+down+head",
    ]


def test_sequences_in_flight_are_an_axis(
    random_graph: Callable[[str, str], Graph], tmp_path: Path, capsys: Capture
) -> None:
    """Each number is a choice of its own; the last one fills the machine, and is told as a
    number."""
    graph, output = tmp_path / "late.graph", tmp_path / "points.json"
    graph_file.save_graph(random_graph("lower-bounds", "a14-late"), graph)
    what = ["--placers", "chain", "--splits", "spread", "--in-flight", "1,8,fill"]
    where = ["explore", str(graph), "--system", "kapoho-point", "-o", str(output)]
    assert main([*where, *what]) == 0
    points = json.loads(output.read_text(encoding="utf-8"))["points"]
    assert len(points) == 3 * 4
    silicon = {"pipelined", "fall-through", "interleaved"}
    found = [p for p in points if p["phase"] == "generate" and p["mode"] in silicon]
    alone, few, full = found
    steps = round(full["latency_seconds"]["central"] * full["tokens_per_s"]["central"])
    assert [p["choice"]["in_flight"] for p in found] == [1, 8, steps]
    assert [p["mode"] for p in found] == ["fall-through", "interleaved", "interleaved"]
    # A machine that is not full takes something on top at every step, so fewer wait for longer.
    assert few["latency_seconds"]["central"] > full["latency_seconds"]["central"]
    assert [p["front"] for p in found] == [True, False, True]
    rates = [p["tokens_per_s"]["central"] for p in found]
    assert rates == sorted(rates) and len(set(rates)) == 3
    assert few["latency_seconds"]["central"] * rates[1] == pytest.approx(8)
    assert few["latency_seconds"]["central"] >= alone["latency_seconds"]["central"]
    (prefill,) = (
        p for p in points if p["mode"] == "pipelined" and p["choice"]["in_flight"] == steps
    )
    assert full["tokens_per_s"] == pytest.approx(prefill["tokens_per_s"])
    assert [p["state_bytes"] for p in found] == [2 * 64 * 4 * count for count in (1, 8, steps)]
    said = capsys.readouterr().out
    assert "generate, interleaved: 1 of 2 points that no other beats" in said
    assert f"chain, spread, 2 bits, {steps} in flight; " in said


def test_wider_weights_and_a_head_on_the_host(
    run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    """98,304 weights need two cores of 16 KiB at 2 bits and six at 8, and a sixth of them are the
    head's."""
    system = small(tmp_path / "small.toml", "synaptic_memory_bytes_per_core", 16384)
    common = "--placers", "greedy", "--splits", "rows", "--json"
    assert run(*common, "--weight-bits", "2,8", system=system) == 0
    narrow, wide = json.loads(capsys.readouterr().out)["points"][::4]
    assert (narrow["choice"]["weight_bits"], wide["choice"]["weight_bits"]) == (2, 8)
    assert 2 <= narrow["cores"] < 6 <= wide["cores"]
    assert run(*common, "--weight-bits", "8", "--head-on-host", system=system) == 0
    without = json.loads(capsys.readouterr().out)["points"][0]
    assert without["choice"]["head_on_host"]
    assert without["cores"] < wide["cores"]


def test_words_that_the_chips_choose(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """One payload a token goes to the host and not 256; the embedding's are the same."""
    off = []
    for more in ([], ["--greedy-on-chips"]):
        arguments = "--placers", "chain", "--splits", "rows", "--chips", "1", "--json", *more
        assert run(*arguments) == 0
        points = json.loads(capsys.readouterr().out)["points"]
        assert [p["choice"]["greedy_on_chips"] for p in points] == [bool(more)] * 4
        off.append(points[0]["messages_off_chips"])
    assert off[0] - off[1] == 255


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "asked"),
    [
        ("rows", {"divide": False}),
        ("columns", {"divide": True}),
        ("spread", {"divide": True, "spread": True}),
    ],
)
def test_a_split_is_a_wish(
    split: str, asked: dict[str, bool], run: Callable[..., int], tiny: Graph, capsys: Capture
) -> None:
    assert run("--splits", split, "--placers", "chain", "--chips", "7", "--json") == 0
    found = json.loads(capsys.readouterr().out)["points"]
    assert {p["choice"]["split"] for p in found} == {split}
    _, mapping = map.place(tiny, "", load_system("kapoho-point"), Request("chain", 7, **asked))
    assert {p["cores"] for p in found} == {len(mapping.cores)}


def test_json_alone_writes_no_file(
    run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    assert run("--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"system", "set", "points", "failed"}
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.graph"}


def test_what_cannot_be_mapped_is_listed_beside_what_can(
    run: Callable[..., int], capsys: Capture
) -> None:
    """Of eight chips nine copies cannot be had, be it of one chip or of two for the blocks and one
    for the head."""
    options = (
        "--placers",
        "chain,block-per-chip",
        "--splits",
        "rows",
        "--chips",
        "1",
        "--copies",
        "1,9",
    )
    assert run(*options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "not mapped: 2 times more copies than there are chips for"
    assert run(*options, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [(one["placer"], one["copies"]) for one in content["failed"]] == [
        ("chain", 9),
        ("block-per-chip", 9),
    ]
    assert {p["choice"]["copies"] for p in content["points"]} == {1}


def test_a_placer_that_cannot_is_listed_with_its_reason(
    run: Callable[..., int], capsys: Capture
) -> None:
    assert run("--splits", "rows", system="oheo-gulch") == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "not mapped: block-per-chip, rows, 2 bits, fewest chips: tiny: the mapping needs 3 "
        "chips, oheo-gulch has 1"
    )


NUMBERS = "must be whole numbers of at least 1, such as 2,8"
WRONG = [
    (["--splits", "rows,both"], "split 'both' is not known, must be one of rows, columns, spread"),
    (["--splits", ""], "split '' is not known, must be one of rows, columns, spread"),
    (
        ["--placers", "chain,best"],
        "placer 'best' is not known, must be one of chain, anneal, balanced, block-per-chip, "
        "greedy, mtkahypar",
    ),
    (["--chips", "fewest,many"], f"chips are 'many', {NUMBERS}"),
    (["--chips", "0"], f"chips are '0', {NUMBERS}"),
    (["--chips", "-1"], f"chips are '-1', {NUMBERS}"),
    (["--weight-bits", "2,"], f"weight bits are '', {NUMBERS}"),
    (["--weight-bits", "1.5"], f"weight bits are '1.5', {NUMBERS}"),
    (["--copies", "two"], f"copies are 'two', {NUMBERS}"),
    (
        ["--in-flight", "1,0"],
        "sequences in flight are '0', must be a whole number of at least 1, or fill",
    ),
    (
        ["--in-flight", ""],
        "sequences in flight are '', must be a whole number of at least 1, or fill",
    ),
    (["--weight-bits", "2,9"], "weights of 9 bits were asked for, loihi2 has 2 to 8"),
    (["--weight-bits", "1"], "weights of 1 bits were asked for, loihi2 has 2 to 8"),
    (["--chips", "9"], "9 chips were asked for, must be 1 … 8, as kapoho-point has"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(
    options: list[str], message: str, run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    files = ["-o", str(tmp_path / "points.json"), "--picture", str(tmp_path / "fronts.png")]
    assert run(*options, *files) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"mmfree-neuro: {message}\n")
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.graph"}


def test_where_nothing_is_possible_nothing_is_written(
    run: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    """The graph has 1,609 neurons, the chip 120 cores of 8; the ways are two splits, placers and
    numbers of copies."""
    own = small(tmp_path / "small.toml", "neurons_per_core", 8)
    assert run("--copies", "1,2", "-o", str(tmp_path / "points.json"), system=own) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        f"mmfree-neuro: none of 8 ways to map {tmp_path}/tiny.graph is possible: "
        "layers.1.mlp.norm: does not fit "
        "behind what comes before it: all nodes need 2 chips of 120 cores, oheo-gulch has 1\n",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.graph", "small.toml"}
