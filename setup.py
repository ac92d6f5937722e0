"""The compiled parts, each of which has a slower one in Python for machines without a compiler."""

from setuptools import Extension, setup

CPU, EMULATOR = "kernels/mmfree_kernels/cpu", "sims/mmfree_sims/emulator"
PARTS = ("machine", "interpret", "add", "avx512", "deliver", "pool", "step", "build", "async")

setup(
    ext_modules=[
        Extension(
            f"{folder.partition('/')[2].replace('/', '.')}.{name}",
            [f"{folder}/{name}.c"],
            depends=[f"{folder}/{header}.h" for header in headers],
            optional=True,
            extra_compile_args=["-O3", "-std=gnu11", "-pthread"],
            extra_link_args=["-pthread"],
        )
        for folder, name, headers in (
            (CPU, "_ternary", ()),
            (CPU, "_programs", ("_programs_run",)),
            (EMULATOR, "_emulator", [f"_{part}" for part in PARTS]),
        )
    ]
)
