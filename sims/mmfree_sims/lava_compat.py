"""Makes Lava usable on the running Python, or says that it is not installed.

lava-nc 0.10.0 and lava-dl 0.6.0 are archived; `mmfree_sims.lava_hook` repairs them in memory while
they are imported, if it was there before.  A program in which `import lava` may come first needs an
environment whose every Python begins with the hook:

    python -m mmfree_sims.lava_compat              (adds mmfree_lava.pth to site-packages)
    python -m mmfree_sims.lava_compat --remove

Child processes are forked and inherit the repairs.  Keep this module away from Lava Processes: Lava
executes every file that lies beside one.
"""

import argparse
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

from mmfree_neuro.errors import EngineError
from mmfree_sims import lava_hook

SLAYER = "lava.lib.dl.slayer"
DEMO_MODULES = ("cv2", "torchvision")
PTH = "mmfree_lava.pth"
LINE = (
    "import importlib.util as u; "
    "u.find_spec('mmfree_sims') and __import__('mmfree_sims.lava_hook').lava_hook.hook()\n"
)
"""Does nothing where this package is no longer there."""


def enable_lava() -> tuple[str, ...]:
    """Make lava-nc importable and its reshape usable; returns the names of what was changed by this
    call, on a second one none."""
    before = set(lava_hook.repaired)
    lava_hook.hook()
    try:
        for name in lava_hook.REPAIRS:
            lava_hook.repair_late(importlib.import_module(name))
    except ModuleNotFoundError as missing:
        raise EngineError(
            "the lava engine needs lava-nc 0.10.0; install it with the 'lava' extra as "
            "docs/install.md says"
        ) from missing
    return tuple(name for name in lava_hook.REPAIRS if name in lava_hook.repaired - before)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Have every Python of this environment begin with the repairs, or no longer."""
    parser = argparse.ArgumentParser(
        prog="python -m mmfree_sims.lava_compat",
        description="Let `import lava` work in this environment, whatever is imported before.",
    )
    parser.add_argument("--remove", action="store_true", help=f"remove {PTH} again")
    options = parser.parse_args(arguments)
    path = Path(sysconfig.get_path("purelib")) / PTH
    try:
        if options.remove:
            path.unlink()
        else:
            path.write_text(LINE, encoding="ascii")
    except OSError as error:
        parser.exit(2, f"{path}: {error.strerror}\n")
    print(f"{'removed' if options.remove else 'wrote'} {path}")


if __name__ == "__main__":
    main()
