"""Files of the flow, opened: what a file says is proved before anything is computed from it."""

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmfree_neuro.errors import GraphError, InputError, MappingError, MMFreeError
from mmfree_neuro.files.reading import Misfit, reading
from mmfree_neuro.files.reading import opened as opened_file
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.graph_file import A_GRAPH_FILE
from mmfree_neuro.graph.greedy import with_greedy
from mmfree_neuro.graph.local_roots import chosen, with_local_roots
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.partial_sums import by_columns
from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.graph.verify import verify_matrices
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.mapping.mapping_file import MAPPING_FILE, StoredMapping
from mmfree_neuro.target.image_file import is_image


def open_graph(path: Path) -> tuple[Graph, str]:
    """The graph of a file, proved legal, and the SHA-256 by which mappings know it.

    Every array is held against its checksum, and what matrices say of themselves against their
    codes.
    """
    check_no_image(path, GraphError, "a graph file")
    if is_mapping(path):
        raise GraphError(f"{path}: is a mapping file, must be a graph file")
    with _without_collecting(), graph_file.loaded(path) as (graph, digest):
        _prove_matrices(graph, digest, path)
    return graph, digest


def open_mapped(path: str | Path) -> tuple[Graph, StoredMapping]:
    """A mapping file and the graph that it maps, divided as it says, and both proved valid.

    Raises MappingError where the graph is another by now, or the mapping is not valid for it.
    """
    path = Path(path)
    check_no_image(path, MappingError, MAPPING_FILE)
    with _without_collecting():
        if _begin(path)[8:9] == b"{":
            raise MappingError(f"{path}: is a graph file, must be a mapping file")
        stored = mapping_file.load_mapping(path)
        try:
            with graph_file.loaded(stored.graph_path) as (graph, digest):
                return _mapped(graph, digest, stored, path), stored
        except GraphError as error:
            raise GraphError(f"{path}: its graph {error}") from error


def _mapped(graph: Graph, digest: str, stored: StoredMapping, path: Path) -> Graph:
    """The graph that a mapping file maps, divided as it says, and both proved valid."""
    from mmfree_partition.check import check

    if digest != stored.mapping.graph:
        raise MappingError(
            f"{path}: belongs to another graph than {stored.graph_path}; map that graph again"
        )
    _prove_matrices(graph, digest, stored.graph_path)
    with reading(path, MappingError, MAPPING_FILE):
        if stored.mapping.system != stored.system.name:
            raise Misfit(f"it is for {stored.mapping.system}, and holds {stored.system.name}")
        most = max(Counter(place.chip for place in stored.mapping.cores).values(), default=0)
        if stored.cores is not None and most > stored.cores:
            raise Misfit(f"it uses {most} cores of a chip, must use at most {stored.cores}")
        try:
            roots = stored.mapping.local_roots
            if roots != chosen(graph, roots):
                raise Misfit(
                    f"its local roots are {', '.join(roots)}, must be each kind once and in order"
                )
            slotted = with_slots(with_local_roots(graph, roots), stored.mapping.in_flight)
            whole = with_greedy(slotted) if stored.mapping.greedy_on_chips else slotted
            divided = by_columns(whole, stored.mapping.columns)
            check(divided, stored.mapping, stored.system)
        except GraphError as error:  # the graph is legal, so what divides it is not
            raise MappingError(str(error)) from error
    return divided


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Opening makes many small objects and no circles of them, which the garbage collector would
    look through again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_PROVED: set[str] = set()
"""The graphs whose matrices are what they say, by their SHA-256, which holds all checksums."""


def _prove_matrices(graph: Graph, digest: str, path: Path) -> None:
    """GraphError where the packed matrices of a file are not what it says of them."""
    from mmfree_kernels.cpu import products

    if digest not in _PROVED:
        with reading(path, GraphError, A_GRAPH_FILE):
            verify_matrices(graph, products.is_legal, products.filled)
        _PROVED.add(digest)


def check_no_image(path: Path, error: type[MMFreeError], must: str) -> None:
    """An error where a machine image is given in the place of something else."""
    if is_image(path):
        raise error(f"{path}: is a machine image, must be {must}")


def files_behind(path: Path) -> tuple[Path, ...]:
    """The files that are read where a path names a checkpoint, a graph, a mapping, an image or a
    run, as far as can be told without reading them."""
    if is_image(path):
        return tuple(path.iterdir())
    with reading(path, InputError, "a file or folder to read from"):
        if path.is_dir():
            return tuple(file for file in path.iterdir() if file.suffix in _READ_FROM_FOLDERS)
    if is_mapping(path):
        return path, mapping_file.load_mapping(path).graph_path
    return (path,)


_READ_FROM_FOLDERS = {".json", ".safetensors", ".bin", ".pt"}
"""The endings of what a checkpoint or a run consists of."""


def is_mapping(path: Path) -> bool:
    """Whether a file is a mapping file rather than a graph file: by how it begins, or else by its
    name."""
    begin = _begin(path)
    return begin[:1] == b"{" or (path.suffix == ".map" and begin[8:9] != b"{")


def _begin(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with opened_file(path) as file:
            return file.read(16)
    except (OSError, ValueError, Misfit):
        return b""
