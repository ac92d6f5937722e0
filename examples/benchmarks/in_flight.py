"""Many sequences under way at once: what the chips would give, and how fast engines simulate them.

Run: python examples/benchmarks/in_flight.py [table] [link] [fast] [lava]

- table: tokens a second, latency, energy and state memory of the 370M model on 24 chips of
  alia-point-32, for 1, 8 and 64 sequences and as many as fill the machine; all payloads non-zero;
  the head on the host, on the chips, and on the chips with the choice of the word;
- link: the same model on ten chips, the head on one of them, so that all logits take one link to
  the host; with the choice of the word on the chips and without, as many sequences as fill them;
- fast: the 370M model with drawn weights on engine fast, 32 sequences against one, in one run;
- lava: the shipped checkpoint on 8 chips in engine lava, 16 sequences against one, in one run.

Each first checks that sequences come to what they are alone; else no row is written.
"""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rows import write

from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.explore import points
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.lowering.scheme import DEFAULT
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.request import InFlight, Request
from mmfree_neuro.pipeline import map, opened
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run.activity import expected
from mmfree_neuro.run.job import Job, Result
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.testing import published_graph
from mmfree_sims import fast

CHIPS, FEW_CHIPS = 24, 10
COUNTS: tuple[InFlight, ...] = (1, 8, 64, "fill")
HOMES: dict[str, dict[str, bool]] = {
    "head on the host": {"head_on_host": True},
    "head on chips": {},
    "greedy on chips": {"greedy_on_chips": True},
}
"""What of the last nodes is on the chips, as requests say it."""
SHIPPED = Path(__file__).parent.parent / "checkpoints" / "stdlib-5m"
TOGETHER = 32
IN_LAVA = 16


def same(found: Result, alone: Result, name: str) -> None:
    """Nothing is written where a sequence has come to something else than alone."""
    for one, other in zip(found.outcomes, alone.outcomes, strict=True):
        if (
            one.chosen.tolist() != other.chosen.tolist()
            or not np.array_equal(one.logits, other.logits)
            or (one.prefill, one.generate) != (other.prefill, other.generate)
        ):
            raise SystemExit(f"{name}: a sequence differs from itself alone: no row is written")


def check_small() -> None:
    """Two blocks of the 370M model: sequences of different lengths, three under way, come to what
    they are alone, and the graph chooses the words that the host chooses."""
    graph = with_slots(published_graph("370m", scheme=DEFAULT, root="after", blocks=2, seed=2), 3)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, graph.vocabulary, length) for length in (2, 4, 1, 3)]
    one, three = (
        fast.run(graph, in_one_place(graph), Job(prompts, 3, in_flight=count)) for count in (1, 3)
    )
    same(three, one, "table")
    greedy = with_greedy(graph)
    words = fast.run(greedy, in_one_place(greedy), Job(prompts, 3, keep_logits=False, in_flight=3))
    for found, alone in zip(words.outcomes, one.outcomes, strict=True):
        if found.chosen.tolist() != alone.chosen.tolist():
            raise SystemExit("table: the graph chooses another word: no row is written")


def table() -> None:
    check_small()
    base = Request("chain", CHIPS, spread=True, weight_bits=2)
    requests = [
        (home, replace(base, local_roots=local, in_flight=count, **HOMES[home]))
        for home in HOMES
        for local in ((), ("o",))
        for count in COUNTS
    ]
    write("in_flight", _all_rows(requests))


def link() -> None:
    check_small()
    base = Request("chain", FEW_CHIPS, weight_bits=2, in_flight="fill")
    homes = "head on chips", "greedy on chips"
    requests = [(f"{home}, {FEW_CHIPS} chips", replace(base, **HOMES[home])) for home in homes]
    write("in_flight_link", _all_rows(requests))


def _all_rows(requests: list[tuple[str, Request]]) -> list[dict[str, Any]]:
    """The rows of the 370M model mapped as some requests say."""
    system = map.with_weight_bits(load_system("alia-point-32"), 2)
    graph, rows = published_graph("370m", scheme=DEFAULT, root="after"), list[dict[str, Any]]()
    for home, request in requests:
        divided, mapping = map.place(graph, "0" * 64, system, request)
        counts = counted(mapping, summarise(divided), expected(divided, mapping), system)
        rows += _rows(home, request, mapping, points(request, counts))
    return rows


def _rows(home: str, request: Request, mapping: Mapping, found: Any) -> list[dict[str, Any]]:
    roots = f", local roots {'+'.join(request.local_roots)}" if request.local_roots else ""
    (point,) = [p for p in found if p.phase == "generate" and p.mode != "asynchronous"]
    about = {
        "in_flight": mapping.in_flight,
        "fills": request.in_flight == "fill",
        "mode": point.mode,
        "chips": point.chips,
        "slowest": point.resource,
        "messages_off_chips": point.messages_off_chips,
        "state_bytes": point.state_bytes,
    }
    rows = []
    for unit, span, factor in (
        ("tokens/s", point.tokens_per_s, 1),
        ("ms", point.latency_seconds, 1e3),
        ("mJ/token, system", point.millijoule_per_token, 1),
        ("mJ/token, chips", point.chip_millijoule_per_token, 1),
    ):
        rows.append(
            {
                "what": f"370m, {home}{roots}, {mapping.in_flight} in flight: {point.mode}",
                "value": round(span.central * factor, 3),
                "unit": unit,
                "low": round(span.low * factor, 3),
                "high": round(span.high * factor, 3),
                **about,
            }
        )
    print(rows[0]["what"], rows[0]["value"], rows[2]["value"], flush=True)
    return rows


def rate(result: Result) -> float:
    """Tokens a second in generation."""
    return result.generate.tokens / result.seconds["generate"]


def on_fast() -> None:
    graph = with_slots(published_graph("370m", scheme=DEFAULT, root="after", seed=1), TOGETHER)
    mapping, rng = in_one_place(graph), np.random.default_rng(1)
    prompts = [rng.integers(0, graph.vocabulary, 4) for _ in range(TOGETHER)]
    few = [fast.run(graph, mapping, Job(prompts[:3], 4, in_flight=count)) for count in (3, 1)]
    same(few[0], few[1], "fast")
    _compared("fast", graph, mapping, prompts, 32, fast.run)


def on_lava() -> None:
    from mmfree_neuro.pipeline.engines import engine_named

    with tempfile.TemporaryDirectory() as folder:
        for step in (
            ["convert", str(SHIPPED), "-o", f"{folder}/model.graph"],
            [
                *("map", f"{folder}/model.graph", "--system", "kapoho-point", "--chips", "8"),
                *("--in-flight", str(IN_LAVA), "-o", f"{folder}/model.map"),
            ],
        ):
            command = [sys.executable, "-m", "mmfree_neuro", *step]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        graph, stored = opened.open_mapped(Path(folder) / "model.map")
        text = np.frombuffer(Path(subprocess.__file__).read_bytes(), np.uint8).astype(np.int64)
        prompts = [text[at : at + 24] for at in range(0, 24 * IN_LAVA, 24)]
        lava, mapping = engine_named("lava"), stored.mapping
        job = Job(prompts, 8, in_flight=IN_LAVA)
        same(lava(graph, mapping, job), fast.run(graph, mapping, Job(prompts, 8)), "lava")
        _compared("lava", graph, mapping, prompts, 128, lava)


def _compared(
    name: str, graph: Graph, mapping: Mapping, prompts: list[Any], new_tokens: int, run: Any
) -> None:
    """One sequence against as many as there are prompts, three times in turn; the fastest of each,
    as other work on the machine only slows them down."""
    counts = 1, len(prompts)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(3):
        for count in counts:
            job = Job(prompts[:count], new_tokens, keep_logits=False, in_flight=count)
            rates[count].append(rate(run(graph, mapping, job)))
    best = {count: max(found) for count, found in rates.items()}
    rows: list[dict[str, object]] = [
        {
            "what": f"{name}, {count} in flight: generation",
            "value": round(best[count], 1),
            "unit": "tokens/s",
            "all": [round(value, 1) for value in rates[count]],
            "model": graph.name,
        }
        for count in counts
    ]
    ratio = best[counts[1]] / best[1]
    what = f"{name}: {counts[1]} in flight over 1"
    write(f"in_flight_{name}", [*rows, {"what": what, "value": round(ratio, 2), "unit": "ratio"}])


PARTS = {"table": table, "link": link, "fast": on_fast, "lava": on_lava}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
