"""Placers on the published models: seconds, and each mapping beside its bounds; then few chips
against many.

    python examples/benchmarks/mapping.py [MODEL ...]        (370m, 1.3b and 2.7b unless told)

Shapes alone matter, so graphs are those of `testing.published_graph`; every mapping has passed
`check`.  Of mappings on the fewest chips the cores of an image are built, and must keep every limit
of a core, or no row is written.  Mappings have a checksum, the same on every run and every Python.
Every placer maps the 370M model, `chain` the larger ones.  The last part costs the 370M model on as
few chips as hold it at two bits a weight beside the published one block per chip.
"""

import hashlib
import json
import sys
import time

from rows import write

from mmfree_neuro.cost import explore
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.errors import CapacityError, InputError
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.image.build import Builder
from mmfree_neuro.image.origin import use_of
from mmfree_neuro.lowering.scheme import DEFAULT
from mmfree_neuro.mapping.footprint import limits, over
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import mapping_to_plain
from mmfree_neuro.mapping.request import SPLITS, Request
from mmfree_neuro.pipeline import map
from mmfree_neuro.run.activity import expected
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.testing import published_graph
from mmfree_partition.placers import PLACERS

CHIPS = {"370m": (24, 32), "1.3b": (64,), "2.7b": (96,)}


def checksum(mapping: Mapping) -> str:
    """Sixteen digits that tell mappings apart."""
    return hashlib.sha256(json.dumps(mapping_to_plain(mapping)).encode()).hexdigest()[:16]


def placed(model: str, graph: Graph, request: Request) -> list[dict[str, object]]:
    """Rows of one mapping: how long it took, and how far from its bounds it is."""
    system = load_system("alia-point")
    home = "head on the host" if request.head_on_host else "head on chips"
    split = "rows alone" if not request.divide else "spread" if request.spread else "columns too"
    what = f"{model}, {request.placer}, {split}, {request.chips or 'fewest'} chips, {home}"
    begin = time.monotonic()
    try:
        divided, mapping = map.place(graph, "", system, request)
    except (CapacityError, InputError) as error:
        return [{"what": f"{what}: {error}", "value": None, "unit": ""}]
    seconds = time.monotonic() - begin
    found = map.bounds(divided, mapping, system)
    row: dict[str, object] = {
        "what": what,
        "value": round(seconds, 2),
        "unit": "s",
        "chips": len(mapping.chips),
        "cores": len(mapping.cores),
        "checksum": checksum(mapping),
    }
    if request.chips is None:
        row |= of_image(divided, mapping, system)
    for name, gap in found.items():
        row |= {
            name: round(gap["found"]),
            f"{name} at least": round(gap["least"] or gap.get("by_rows_alone") or 0),
            f"{name} ratio": round(gap["ratio"] or 0, 4),
        }
    return [row]


def of_image(graph: Graph, mapping: Mapping, system: SystemSpec) -> dict[str, object]:
    """Bytes of the cores of the mapping's image, of which none has more of anything than it may."""
    builder = Builder(graph, mapping, int(system.chip.weight_bits.central))
    room, sizes = limits(system.chip), list[int]()
    for chip, cores in builder.chips():
        for core in cores:
            if passed := over(use := use_of(core), room):
                raise SystemExit(f"core {core.number} of chip {chip}: {passed}: no row is written")
            sizes.append(use.memory)
    return {
        "image: bytes of the fullest core": max(sizes),
        "image: bytes of the mean core": round(sum(sizes) / len(sizes)),
    }


def compared(graph: Graph) -> list[dict[str, object]]:
    """Rows of the 370M model on few and on many chips of the 32 of the literature, the head on the
    host."""
    system, rows = load_system("alia-point-32"), list[dict[str, object]]()
    requests = [
        Request(placer, chips, head_on_host=True, weight_bits=2, copies=copies, **SPLITS[split])
        for placer, chips, split, copies in (
            ("block-per-chip", None, "rows", 1),
            ("block-per-chip", None, "spread", 1),
            ("chain", 24, "columns", 1),
            ("chain", 24, "spread", 1),
            ("chain", 12, "columns", 2),
            ("chain", 12, "spread", 2),
            ("chain", None, "columns", 1),
            ("chain", None, "columns", 4),
        )
    ]
    for request in requests:
        divided, mapping = map.place(graph, "", system, request)
        counts = counted(mapping, summarise(divided), expected(divided, mapping), system)
        for point in explore.points(request, counts):
            what = (
                f"370m, {explore.label(request)}, {point.chips} chips: {point.phase}, {point.mode}"
            )
            spans = {
                "tokens/s": point.tokens_per_s,
                "mJ/token, chips alone": point.chip_millijoule_per_token,
                "mJ/token, system": point.millijoule_per_token,
            }
            for unit, span in spans.items():
                shown = {
                    "low": round(span.low, 4),
                    "high": round(span.high, 4),
                    "slowest": point.resource,
                }
                rows.append({"what": what, "value": round(span.central, 4), "unit": unit, **shown})
    return rows


def main(models: list[str]) -> None:
    rows = []
    for model in models:
        graph = published_graph(model, scheme=DEFAULT)
        for placer in PLACERS if model == "370m" else ("chain",):
            counts = (None,) if placer == "block-per-chip" else (None, *CHIPS[model])
            for chips in counts:
                for home in (True, False):
                    rows += placed(model, graph, Request(placer, chips, head_on_host=home))
                    print(rows[-1]["what"], rows[-1]["value"], flush=True)
        if model == "370m":
            rows += placed(model, graph, Request("chain", 32, divide=False))
            rows += compared(graph)
    write("mapping", rows)


if __name__ == "__main__":
    main(sys.argv[1:] or ["370m", "1.3b", "2.7b"])
