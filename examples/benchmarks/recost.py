"""How long it takes to cost a run again under all draws of the constants, with other figures of the
chip or on another system.

    python examples/benchmarks/recost.py [MODEL ...]      (demo, 370m and 2.7b unless told)

The counts are those of `activity.expected`; a costed phase is refused where a second time gives
another figure.  *Costs* is what another set of constants takes once the counts of a run are summed
up, which `report --set` and `sensitivity` do once.
"""

import sys
import time
from pathlib import Path

from rows import write

from mmfree_neuro.cost import constants
from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.energy import energy_of, operations
from mmfree_neuro.cost.estimate import modes
from mmfree_neuro.cost.load import load
from mmfree_neuro.cost.sensitivity import sensitivity
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.lowering.scheme import DEFAULT, SCHEMES
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.mapping.trees import route_trees
from mmfree_neuro.pipeline import map
from mmfree_neuro.pipeline.convert import to_graph
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.figures import with_figures
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.testing import published_graph

TIMES = 5
SHIPPED = Path(__file__).parent.parent / "checkpoints" / "stdlib-5m"
CASES = {"demo": ("kapoho-point", 8), "370m": ("alia-point-32", 24), "2.7b": ("alia-point", 96)}


def graph_of(model: str) -> Graph:
    """The shipped checkpoint, or the shapes of a published model."""
    if model == "demo":
        return to_graph(read_checkpoint(SHIPPED), None, SCHEMES[DEFAULT], "stdlib", "").graph
    return published_graph(model, scheme=DEFAULT)


def main(models: list[str]) -> None:
    rows = list[dict[str, object]]()
    for model in models:
        name, chips = CASES[model]
        system = load_system(name)
        graph, mapping = map.place(graph_of(model), "", system, Request("chain", chips))
        summary, activity = summarise(graph), expected(graph, mapping)
        seconds: dict[str, list[float]] = {}
        found = set()

        def took(what: str, begin: float, into: dict[str, list[float]] = seconds) -> None:
            into.setdefault(what, []).append(time.monotonic() - begin)

        for _ in range(TIMES):
            whole = begin = time.monotonic()
            trees = route_trees(mapping, system)
            took("trees of all routes", begin)
            begin = time.monotonic()
            counts = Counted(mapping, summary, activity, system, trees)
            asked, did = load(counts), operations(counts)
            took("loads and operations", begin)
            mode = modes("generate")[0]
            for what, other in (
                ("costs, first", system),
                ("costs, again", with_figures(system, {"chip.energy_per_synop_pj": 5})),
            ):
                begin = time.monotonic()
                drawn = constants.drawn(other)
                times = mode(asked, drawn)
                spent = energy_of(did, times, drawn)
                took(what, begin)
                found.add((times.tokens_per_s.central, spent.millijoule_per_token.central))
            took("all of it", whole)
            begin = time.monotonic()
            sensitivity(counts, "generate")
            took("sensitivity", begin)
        if len(found) != 2:
            raise SystemExit("the same counts were costed differently: no row is written")
        about = {"chips": chips, "draws": len(times.seconds)}
        for what, each in seconds.items():
            value = round(min(each), 4)
            rows.append({"what": f"{model}: {what}", "value": value, "unit": "s", **about})
    write("recost", rows)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
