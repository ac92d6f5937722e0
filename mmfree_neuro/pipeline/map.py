"""From a graph to a mapping, as a request asks for it.

The folder `partition/` is imported where it is needed.
"""

from collections.abc import Callable
from collections.abc import Mapping as ReadOnly
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from mmfree_neuro.errors import InputError
from mmfree_neuro.files.writing import check_outputs, keeping
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.mapping.mapping_file import StoredMapping
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.pipeline.opened import open_graph
from mmfree_neuro.report.terminal import Bounds
from mmfree_neuro.systems.figures import Setting, set_by_user, with_figures
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import Quantity, SystemSpec

Stage = Callable[[str], None]


def with_weight_bits(system: SystemSpec, bits: int | None) -> SystemSpec:
    """The system with weights stored at that many bits.  Raises InputError where its chip does not
    allow them."""
    if bits is None:
        return system
    allowed = system.chip.weight_bits
    low = max(2, int(allowed.low))
    if not low <= bits <= allowed.high:
        raise InputError(
            f"weights of {bits} bits were asked for, {system.chip.name} has {low} to "
            f"{allowed.high:g}"
        )
    chosen = Quantity(bits, bits, bits, f"chosen; {allowed.source}")
    return replace(system, chip=replace(system.chip, weight_bits=chosen))


def place(graph: Graph, digest: str, system: SystemSpec, request: Request) -> tuple[Graph, Mapping]:
    """Place, route and check a graph on a system, whose weights are already as wide as asked.

    The graph that comes back is divided where the mapping divides it.
    """
    from mmfree_partition.fit import fit
    from mmfree_partition.placers import PLACERS

    if request.placer not in PLACERS:
        raise InputError(
            f"placer {request.placer!r} is not known, must be one of {', '.join(sorted(PLACERS))}"
        )
    most = int(system.chip.cores.central)
    if request.cores is not None and not 1 <= request.cores <= most:
        raise InputError(f"{request.cores} cores per chip were asked for, must be 1 … {most}")
    if request.chips is not None and not 1 <= request.chips <= int(system.chips.central):
        raise InputError(
            f"{request.chips} chips were asked for, must be 1 … {int(system.chips.central)}, as "
            f"{system.name} has"
        )
    if request.greedy_on_chips and request.head_on_host:
        raise InputError(
            "words are chosen where their logits are, so with greedy on the chips the head must be "
            "there"
        )
    if request.seed < 0:
        raise InputError(f"the seed is {request.seed}, must not be negative")
    divided, mapping = fit(graph, digest, system, request)
    settings = (word for text in set_by_user(system) for word in ("--set", text))
    options = ("--system", system.name, *request.options, *settings)
    return divided, replace(mapping, options=options)


def bounds(graph: Graph, mapping: Mapping, system: SystemSpec, cores: int | None = None) -> Bounds:
    """A mapping's cores, chips, slowest core and messages between chips, each with its proven bound
    and the ratio.

    The messages of a mapping whose sums are divided have none; what mappings by rows alone have at
    least stands beside them.
    """
    from mmfree_partition.bound.gaps import gaps

    found = gaps(graph, mapping, system, cores or int(system.chip.cores.central))
    shown: Bounds = {
        field.name: {"found": gap.found, "least": gap.least, "ratio": gap.ratio}
        for field in fields(found)
        if field.name != "messages_by_rows_alone"
        for gap in (getattr(found, field.name),)
    }
    if mapping.columns:
        shown["messages_between_chips"]["by_rows_alone"] = found.messages_by_rows_alone
    return shown


def map_graph(
    graph_path: Path,
    system_name: str,
    output: Path,
    request: Request,
    show: Callable[[Graph, StoredMapping, bool], None] = lambda _, __, ___: None,
    settings: ReadOnly[str, Setting] = MappingProxyType({}),
) -> tuple[Graph, StoredMapping]:
    """Map a graph file onto a system, with some figures set, and write the mapping file; `show` is
    given what came of it, and told whether it could be kept."""
    check_outputs([output], [graph_path, Path(system_name)])
    graph, digest = open_graph(graph_path)
    spec = with_figures(load_system(system_name), settings)
    system = with_weight_bits(spec, request.weight_bits)
    divided, mapping = place(graph, digest, system, request)
    stored = StoredMapping(mapping, system, graph_path, request.cores)
    with keeping(partial(show, divided, stored)):
        mapping_file.save_mapping(stored, output)
    return divided, stored
