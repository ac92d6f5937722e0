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
    "MLGRU": "#4269d0",
    "GLU": "#efb118",
    "Residual": "#3ca951",
    "Head": "#ff725c",
    "Norm": "#a463f2",
    "InverseRms": "#6cc5b0",
    "Gain": "#ff8ab7",
    "MaxAbs": "#9c6b4e",
    "QuantScale": "#97bbf5",
    "Quantise": "#b5a642",
    "Largest": "#9498a0",
}
"""The colour of each kind of node."""
OTHER_KIND = "#888888"


CAPTIONS = {
    "cores-by-memory": "Chips and their cores, by the share of the synaptic memory in use",
    "cores-by-kind": (
        "Chips and their cores, by the kind of node that most of a core's synapses belong to"
    ),
    "limits": "Use of every limit of a core: the fullest core and the mean over the cores in use",
    "energy": "Estimated energy of a token, by part",
    "links": "Messages per token between chips and the host, over both phases",
}


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


def figure(value: float | None, unit: str = "") -> str:
    """Three significant digits and a unit; a whole count stays whole."""
    if value is None:
        return f"without bound {unit}".rstrip()
    rounded = float(f"{value:.3g}")
    size = abs(rounded)
    if isinstance(value, int) and size < 1e6:
        text = f"{value:,}"
    elif size >= 1e6:
        power, word = (1e9, "billion") if size >= 1e9 else (1e6, "million")
        text = f"{rounded / power:#.3g}".rstrip(".") + f" {word}"
    else:
        text = f"{rounded:,.0f}" if size >= 1000 or size == 0 else f"{rounded:#.3g}".rstrip(".")
    return f"{text} {unit}".rstrip()


def spread(span: Figures | Range, unit: str = "") -> str:
    """The middle, and the range where there is one."""
    if span["low"] == span["high"]:
        return figure(span["central"], unit)
    return (
        f"{figure(span['central'])} ({figure(span['low'])} to {figure(span['high'])}) {unit}"
    ).rstrip()
