"""Scripts of examples/benchmarks as modules."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def benchmark_script() -> Callable[[str], ModuleType]:
    """The script of a name as a module."""

    def loaded(name: str) -> ModuleType:
        sys.path.insert(0, str(FOLDER))  # scripts import those beside them
        try:
            spec = importlib.util.spec_from_file_location(f"{name}_script", FOLDER / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(FOLDER))
        return module

    return loaded
