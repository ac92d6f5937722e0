"""How long it takes to cost a run of the 370M model again, with other figures of the chip or on
another system.

    python examples/benchmarks/recost.py

The counts are those of `activity.expected`; a costed phase is refused where a second time gives
another figure.
"""

import time
from dataclasses import replace

from rows import write

from mmfree_neuro.cost import energy as cost
from mmfree_neuro.cost import timing
from mmfree_neuro.cost.counted import Counted
from mmfree_neuro.cost.load import load
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.mapping.trees import route_trees
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.testing import published_graph

TIMES = 7


def main() -> None:
    system, rows = load_system("alia-point-32"), list[dict[str, object]]()
    for split in ("columns", "spread"):
        request = Request("chain", 24, head_on_host=True, spread=split == "spread")
        graph, mapping = map.place(published_graph("370m"), "", system, request)
        summary, activity = summarise(graph), expected(graph, mapping)
        found, seconds = (
            set(),
            {"trees of all routes": [], "loads of all resources": [], "costs": []},
        )
        for _ in range(TIMES):
            begin = time.monotonic()
            trees = route_trees(mapping, system)
            between = time.monotonic()
            counts = Counted(mapping, summary, activity, system, trees)
            asked = load(counts)
            loaded = time.monotonic()
            for chip in (
                system.chip,
                replace(system.chip, time_per_synapse_ns=system.chip.time_per_synop_ns),
            ):
                other = replace(system, chip=chip)
                times = timing.fall_through(asked, other)
                energy = cost.energy(replace(counts, system=other), times)
                found.add((times.tokens_per_s.central, energy.millijoule_per_token.central))
            end = time.monotonic()
            for name, took in zip(
                seconds, (between - begin, loaded - between, (end - loaded) / 2), strict=True
            ):
                seconds[name].append(took)
        if len(found) != 2:
            raise SystemExit("the same counts were costed differently: no row is written")
        for name, each in seconds.items():
            rows.append(
                {
                    "what": f"370m, 24 chips, {split}: {name}",
                    "value": round(min(each), 4),
                    "unit": "s",
                }
            )
        whole = sum(min(each) for each in seconds.values())
        rows.append(
            {"what": f"370m, 24 chips, {split}: all of it", "value": round(whole, 4), "unit": "s"}
        )
    write("recost", rows)


if __name__ == "__main__":
    main()
