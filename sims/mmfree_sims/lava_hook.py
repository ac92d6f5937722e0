"""Repairs lava-nc while it is imported: for Python 3.11 and newer, NumPy 2.1 and newer, and a
program that has started processes before.

lava-nc 0.10.0 was written for Python 3.10 and is archived, so the repairs are made here, in memory;
no file of Lava's is edited.  They must be in place before the first import of `lava`;
`python -m mmfree_sims.lava_compat` has every Python of an environment begin with `hook`, so this
module imports nothing that takes long.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

VAR_MODEL = "lava.magma.compiler.var_model"
PROCESSES = "lava.magma.runtime.message_infrastructure.multiprocessing"
PORTS = "lava.magma.core.process.ports.ports"

repaired: set[str] = set()
"""The modules of Lava's that were repaired in this process."""


def hook() -> None:
    """Repair Lava's modules whenever they are imported from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def repair_late(module: ModuleType) -> None:
    """Repair a module that was imported before `hook`, where that can be done."""
    if module.__name__ == PORTS and PORTS not in repaired:
        _new_reshape(module)


class _Finder:
    """Finds what is to be repaired as Python does, and repairs it while it is executed."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module, if it is one of `REPAIRS`."""
        repair = REPAIRS.get(name)
        spec = None if repair is None else PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None or repair is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            # A zip file has one loader for all of its modules.
            with repair(module) if module.__name__ == name else nullcontext():
                execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextmanager
def _hashable_dataclasses(module: ModuleType) -> Iterator[None]:
    """Let the dataclasses of a module serve as field defaults, which Python 3.11 and newer refuse
    to unhashable ones.

    The hash is the identity although equality is by value: enough for that check, and Lava never
    uses them as keys.
    """
    if sys.version_info < (3, 11):
        yield
        return
    import dataclasses

    original: Callable[..., Any] = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        made = original(cls, **options)
        if made.__module__ == module.__name__ and made.__hash__ is None:
            made.__hash__ = object.__hash__
        return made

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original
    repaired.add(VAR_MODEL)


@contextmanager
def _start_method_kept(module: ModuleType) -> Iterator[None]:
    """Let Lava fork its processes without choosing for the whole program how processes start.

    Lava sets the start method when it is imported, which fails where the program has chosen before:
    by a lock, a pool, a progress bar.
    """
    import multiprocessing

    choose: Any = multiprocessing.set_start_method
    multiprocessing.set_start_method = _leave_start_method
    try:
        yield
    finally:
        multiprocessing.set_start_method = choose
    module.SystemProcess._Popen = staticmethod(multiprocessing.get_context("fork").Process._Popen)
    repaired.add(PROCESSES)


def _leave_start_method(method: str | None, force: bool = False) -> None:
    """The program's own choice stays."""


@contextmanager
def _reshape_repaired(module: ModuleType) -> Iterator[None]:
    yield
    _new_reshape(module)


def _new_reshape(ports: Any) -> None:
    """Pass the shape to np.reshape by position: the keyword that Lava uses is deprecated in NumPy
    2.1, gone in 2.4."""
    import numpy as np

    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        ports.ReshapePort.get_transform_func_fwd = _to_new_shape
        ports.ReshapePort.get_transform_func_bwd = _to_old_shape
        repaired.add(PORTS)


def _to_new_shape(port: Any) -> functools.partial[Any]:
    return functools.partial(_reshape, shape=port.shape)


def _to_old_shape(port: Any) -> functools.partial[Any]:
    return functools.partial(_reshape, shape=port.old_shape)


def _reshape(array: Any, shape: tuple[int, ...]) -> Any:
    return array.reshape(shape)


REPAIRS: dict[str, Callable[[ModuleType], AbstractContextManager[None]]] = {
    VAR_MODEL: _hashable_dataclasses,
    PROCESSES: _start_method_kept,
    PORTS: _reshape_repaired,
}
