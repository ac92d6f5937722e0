"""MatMul-free language models as integer, message-driven programs on multi-chip systems.

`import mmfree_neuro as mm` is the door for Python; `mmfree_neuro.api` says what is behind it:

    mm.load(folder) → Model.convert → Graph.map → Mapped.run → Run.report

It is light: what a step stands on is imported when the step is taken.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmfree_neuro.api import Graph, Mapped, Model, Run, Runs, load
    from mmfree_neuro.cost.estimate import Estimate
    from mmfree_neuro.errors import MMFreeError
    from mmfree_neuro.systems.load import load_system, system_names

_HOMES = {
    "Estimate": "mmfree_neuro.cost.estimate",
    "Graph": "mmfree_neuro.api",
    "MMFreeError": "mmfree_neuro.errors",
    "Mapped": "mmfree_neuro.api",
    "Model": "mmfree_neuro.api",
    "Run": "mmfree_neuro.api",
    "Runs": "mmfree_neuro.api",
    "load": "mmfree_neuro.api",
    "load_system": "mmfree_neuro.systems.load",
    "system_names": "mmfree_neuro.systems.load",
}
"""Where each public name is defined."""

__all__ = [
    "Estimate",
    "Graph",
    "MMFreeError",
    "Mapped",
    "Model",
    "Run",
    "Runs",
    "__version__",
    "load",
    "load_system",
    "system_names",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from importlib import metadata

        return metadata.version("mmfree-neuro")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
