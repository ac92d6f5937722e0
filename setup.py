"""The compiled parts, each of which has a slower one in Python for machines without a compiler."""

from setuptools import Extension, setup

CPU = "kernels/mmfree_kernels/cpu"

setup(
    ext_modules=[
        Extension(
            f"mmfree_kernels.cpu.{name}",
            [f"{CPU}/{name}.c"],
            depends=depends,
            optional=True,
            extra_compile_args=["-O3", "-std=gnu11", "-pthread"],
            extra_link_args=["-pthread"],
        )
        for name, depends in (("_ternary", []), ("_programs", [f"{CPU}/_programs_run.h"]))
    ]
)
