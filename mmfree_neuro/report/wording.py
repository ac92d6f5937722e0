"""Words and figures that sections and pictures share."""

import re

from mmfree_neuro.baselines.compared import Figures, Range

PHASES = {"prefill": "prefill", "generate": "generation"}


LIMITS = {
    "memory": ("memory", "bytes"),
    "synaptic_memory": ("synaptic memory", "bytes"),
    "groups": ("neuron groups", ""),
    "neurons": ("neurons", ""),
    "input_axons": ("input axons", ""),
    "map_entries": ("axon map entries", ""),
    "output_axons": ("outgoing axons", ""),
    "accumulators": ("accumulators, all slots", ""),
    "instructions": ("instructions", ""),
    "state_per_neuron": ("state of a neuron", "bytes"),
    "input_channels": ("input channels of a neuron", ""),
    "output_channels": ("output channels of a neuron", ""),
}
"""What a core can have so much of: a label and a unit for each figure of a footprint."""


KINDS = {
    "MLGRU": "#7a4fc9",
    "GLU": "#e3c81e",
    "Residual": "#3ca951",
    "Head": "#c2347f",
    "Norm": "#b98ae8",
    "InverseRms": "#2bb5a5",
    "Gain": "#f08fc0",
    "MaxAbs": "#7d5a44",
    "QuantScale": "#5d6b2f",
    "Quantise": "#a8d08d",
    "Largest": "#9498a0",
}
"""The colour of each kind of node; none is near that of our estimates or of how full cores are."""
OTHER_KIND = "#888888"


SOURCES = {
    r"arXiv (\d{4}\.\d{4,5}(?:v\d+)?)": r"https://arxiv.org/abs/\1",
    r"Davies et al\. 2018": "https://doi.org/10.1109/MM.2018.112130359",
    "Intel Loihi 2 technology brief": (
        "https://download.intel.com/newsroom/2021/new-technologies/"
        "neuromorphic-computing-loihi-2-brief.pdf"
    ),
    r"SANA-FE arch/loihi\.yaml": "https://github.com/SLAM-Lab/SANA-FE",
    "lava-dl notebooks?": "https://github.com/lava-nc/lava-dl/tree/main/tutorials",
}
"""Where the sources that figures name can be read: a pattern of how they are named, and the
address."""


def linked(text: str, link: str) -> str:
    """A text in which every source that can be read somewhere is a link, which `link` writes: of
    {text} and {address}."""
    for pattern, address in SOURCES.items():
        text = re.sub(pattern, link.format(text=r"\g<0>", address=address), text)
    return text


PINNED, PARTLY = 0.5, 0.8
"""Shares of its range that published rows leave of a figure which they pin, and of one that they
pin in part."""


def pinned(left: float | None) -> str:
    """Whether published rows pin a figure of whose range they leave a share."""
    if left is None:
        return ""
    return "pinned" if left < PINNED else "pinned in part" if left < PARTLY else "not pinned"


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PREFIXES = "mµnp"
"""Of units, each a thousandth of the one before."""
SCALED = "J/token", "J a token", "J", "W", "s"
"""Units that may have one."""
SMALLEST = 0.001
"""A figure that is less gets the next prefix, where its unit has one."""


def figure(value: float | None, unit: str = "") -> str:
    """Three significant digits and a unit; a whole count stays whole.

    What is tiny is told in a smaller unit, or else with a power of ten: 0.00012 mJ are 0.120 µJ.
    """
    if value is None:
        return f"without bound {unit}".rstrip()
    if isinstance(value, int):
        return f"{_digits(value)} {unit}".rstrip()
    factor, smaller = _smaller(value, unit)
    return f"{_digits(value * factor)} {smaller}".rstrip()


def _smaller(value: float, unit: str) -> tuple[float, str]:
    """The unit in which a value is not tiny, and by what the value is multiplied there."""
    base = next((base for base in SCALED if unit.endswith(base)), unit)
    prefix, factor = unit.removesuffix(base), 1.0
    if base not in SCALED or prefix not in ("", *PREFIXES):
        return factor, unit
    while 0 < abs(value) * factor < SMALLEST and prefix != PREFIXES[-1]:
        prefix = PREFIXES[PREFIXES.index(prefix) + 1] if prefix else PREFIXES[0]
        factor *= 1000
    return factor, f"{prefix}{base}"


def _digits(value: float) -> str:
    rounded = float(f"{value:.3g}")
    size = abs(rounded)
    if isinstance(value, int) and size < 1e6:
        return f"{value:,}"
    if size >= 1e6:
        power, word = (1e9, "billion") if size >= 1e9 else (1e6, "million")
        return f"{rounded / power:#.3g}".rstrip(".") + f" {word}"
    if size >= 1000 or size == 0:
        return f"{rounded:,.0f}"
    digits, _, power_of_ten = f"{rounded:#.3g}".rstrip(".").partition("e")
    if not power_of_ten:
        return digits
    return f"{digits} × 10{str(int(power_of_ten)).translate(RAISED)}"


def _like(span: Figures | Range, unit: str) -> tuple[dict[str, float | None], str]:
    """The ends and the middle of a range, all in the unit that suits the middle, or else the
    end."""
    factor, smaller = _smaller(span["central"] or span["high"] or 0.0, unit)
    ends = {"low": span["low"], "central": span["central"], "high": span["high"]}
    return {
        name: value * factor if value is not None and factor != 1 else value
        for name, value in ends.items()
    }, smaller


def spread(span: Figures | Range, unit: str = "") -> str:
    """The middle, and the range where there is one."""
    if span["low"] == span["high"]:
        return figure(span["central"], unit)
    ends, smaller = _like(span, unit)
    low, central, high = (figure(ends[name]) for name in ("low", "central", "high"))
    return f"{central} ({low} to {high}) {smaller}".rstrip()


def ends(span: Figures, unit: str) -> str:
    """The range, in the unit of the middle."""
    found, smaller = _like(span, unit)
    return f"{figure(found['low'])} to {figure(found['high'])} {smaller}".rstrip()


def change(ratio: float) -> str:
    """By how much a ratio is above 1 or below it."""
    percent = 100 * (ratio - 1)
    return f"{'+' if percent > 0 else ''}{figure(percent, '%')}"
