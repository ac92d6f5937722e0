"""The compiled parts, each of which has a slower one in Python for machines without a compiler, and
the checkpoint that travels in the package, with its graph."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

CHECKPOINT = Path("examples/checkpoints/stdlib-5m")


class BuildWithCheckpoint(build_py):
    """Puts the checkpoint and its graph beside the code; an editable install finds them where they
    are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self.shipped().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def shipped(self) -> dict[str, str]:
        """The files of the checkpoint and its graph, and where they go."""
        into, folder = Path(self.build_lib) / "mmfree_neuro" / "shipped", CHECKPOINT.parent
        files = [*sorted(CHECKPOINT.iterdir()), CHECKPOINT.with_suffix(".graph")]
        return {str(file): str(into / file.relative_to(folder)) for file in files}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        found: list[str] = super().get_outputs(include_bytecode)
        return found if self.editable_mode else [*found, *self.shipped().values()]


CPU, EMULATOR = "kernels/mmfree_kernels/cpu", "sims/mmfree_sims/emulator"
LIMITED = sys.version_info >= (3, 11)
"""Whether the parts keep to the limited C interface, and so serve every Python from 3.11 on; that
of 3.10 has no buffers."""
PARTS = ("machine", "interpret", "add", "avx512", "deliver", "pool", "step", "build", "async")

setup(
    cmdclass={"build_py": BuildWithCheckpoint},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
    ext_modules=[
        Extension(
            f"{folder.partition('/')[2].replace('/', '.')}.{name}",
            [f"{folder}/{name}.c"],
            depends=[f"{folder}/{header}.h" for header in headers],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
            py_limited_api=LIMITED,
            optional=True,
            extra_compile_args=["-O3", "-std=gnu11", "-pthread"],
            extra_link_args=["-pthread"],
        )
        for folder, name, headers in (
            (CPU, "_ternary", ()),
            (CPU, "_programs", ("_programs_run",)),
            (EMULATOR, "_emulator", [f"_{part}" for part in PARTS]),
        )
    ],
)
