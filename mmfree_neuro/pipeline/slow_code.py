"""Whether the compiled code is there: without it, everything is right and slow."""


def slow_code_warnings() -> tuple[str, ...]:
    """What there is to say where no compiler was found when the project was installed."""
    from mmfree_kernels.cpu import products, programs

    parts = {"products": products.available(), "neuron programs": programs.available()}
    slow = [name for name, levels in parts.items() if levels == ("numpy",)]
    if not slow:
        return ()
    return (
        f"there is no compiled code for {' and '.join(slow)} here, so engines run 13 to 90 times "
        "slower; install a C compiler and then the project again",
    )
