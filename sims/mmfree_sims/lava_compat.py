"""What Lava needs from us before its first import: Python 3.11 and newer, NumPy 2.1 and newer, no
torchvision, a program that has started processes before.

lava-nc 0.10.0 and lava-dl 0.6.0 were written for Python 3.10 and are archived, so the repairs are
made here, in memory; no file of theirs is edited. Call `enable_lava` before any other import of
`lava`. Child processes are forked and inherit the repairs. Keep this module away from Lava
Processes: Lava executes every file that lies beside one.
"""

import dataclasses
import functools
import importlib
import importlib.util
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from types import ModuleType
from typing import Any

import numpy as np

from mmfree_neuro.errors import EngineError

VAR_MODEL = "lava.magma.compiler.var_model"
PROCESSES = "lava.magma.runtime.message_infrastructure.multiprocessing"
SLAYER = "lava.lib.dl.slayer"
DEMO_MODULES = ("cv2", "torchvision")


def enable_lava() -> tuple[str, ...]:
    """Make lava-nc importable and its reshape usable; returns the names of what was changed, on a
    second call none."""
    try:
        return _import_var_model() + _import_processes() + _repair_reshape()
    except ModuleNotFoundError as missing:
        raise EngineError(
            "the lava engine needs lava-nc 0.10.0; install it with the 'lava' extra as "
            "docs/install.md says"
        ) from missing


def enable_lava_dl() -> tuple[str, ...]:
    """Do what `enable_lava` does, then make lava-dl importable; returns the names of what was
    changed."""
    changed = enable_lava()
    try:
        return changed + _import_slayer()
    except ModuleNotFoundError as missing:
        raise EngineError(
            "the lava-dl exchange needs lava-dl 0.6.0; install it with the 'lava-dl' extra as "
            "docs/install.md says"
        ) from missing


def _import_var_model() -> tuple[str, ...]:
    if VAR_MODEL in sys.modules:
        return ()
    if sys.version_info < (3, 11):
        importlib.import_module(VAR_MODEL)
        return ()
    with _hashable_dataclasses(VAR_MODEL):
        importlib.import_module(VAR_MODEL)
    return (VAR_MODEL,)


@contextmanager
def _hashable_dataclasses(module_name: str) -> Iterator[None]:
    """Let the dataclasses of one module serve as field defaults, which Python 3.11 and newer refuse
    to unhashable ones.

    The hash is the identity although equality is by value: enough for that check, and Lava never
    uses them as keys.
    """
    original: Callable[..., Any] = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        made = original(cls, **options)
        if made.__module__ == module_name and made.__hash__ is None:
            made.__hash__ = object.__hash__
        return made

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


def _import_processes() -> tuple[str, ...]:
    """Let Lava fork its processes without choosing for the whole program how processes start.

    Lava sets the start method when it is imported, which fails where the program has chosen before:
    by a lock, a pool, a progress bar.
    """
    if PROCESSES in sys.modules:
        return ()
    chosen: Any = multiprocessing.set_start_method
    multiprocessing.set_start_method = _leave_start_method
    try:
        module = importlib.import_module(PROCESSES)
    finally:
        multiprocessing.set_start_method = chosen
    module.SystemProcess._Popen = staticmethod(multiprocessing.get_context("fork").Process._Popen)
    return (PROCESSES,)


def _leave_start_method(method: str | None, force: bool = False) -> None:
    """The program's own choice stays."""


def _repair_reshape() -> tuple[str, ...]:
    """Pass the shape to np.reshape by position: the keyword that Lava uses is deprecated in NumPy
    2.1, gone in 2.4."""
    ports = importlib.import_module("lava.magma.core.process.ports.ports")
    if (
        np.lib.NumpyVersion(np.__version__) < "2.1.0"
        or ports.ReshapePort.get_transform_func_fwd is _to_new_shape
    ):
        return ()
    ports.ReshapePort.get_transform_func_fwd = _to_new_shape
    ports.ReshapePort.get_transform_func_bwd = _to_old_shape
    return ("ReshapePort.get_transform_func_fwd", "ReshapePort.get_transform_func_bwd")


def _to_new_shape(port: Any) -> functools.partial[Any]:
    return functools.partial(_reshape, shape=port.shape)


def _to_old_shape(port: Any) -> functools.partial[Any]:
    return functools.partial(_reshape, shape=port.old_shape)


def _reshape(array: Any, shape: tuple[int, ...]) -> Any:
    return np.reshape(array, shape)


def _import_slayer() -> tuple[str, ...]:
    """Import slayer with empty modules for what only its object detection demos use, where that is
    not installed."""
    if SLAYER in sys.modules:
        return ()
    absent = tuple(
        name
        for name in DEMO_MODULES
        if name not in sys.modules and not importlib.util.find_spec(name)
    )
    stand_ins = {name: ModuleType(name) for name in absent}
    for part in ("ops", "transforms"):
        if "torchvision" in stand_ins:
            setattr(stand_ins["torchvision"], part, ModuleType(f"torchvision.{part}"))
    sys.modules.update(stand_ins)
    try:
        with redirect_stdout(StringIO()):  # a demo prints there that its tool box is missing
            importlib.import_module(SLAYER)
    finally:
        # Taken away again, so that nobody else believes that these packages are installed.
        for name in absent:
            del sys.modules[name]
    return absent
