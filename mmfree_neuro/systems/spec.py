"""Chips and systems as data: what a core holds, what a chip has, what an operation takes; each
number with its source.

A system file is TOML with a table `[system]`, which names a chip of `systems/chips/` (`chip =
"loihi2"`) unless the file has a table `[chip]` of its own.  Where either has a `base`, a system or
a chip of ours, it has only what differs from that.  A quantity has a `value` and a
`source`, or `low`, `central`, `high` and a `source` where sources disagree; estimates are made of
draws inside these ranges.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A number with a range and its source; low = central = high where sources agree."""

    low: float
    central: float
    high: float
    source: str


@dataclass(frozen=True)
class ChipSpec:
    """One chip: what its cores hold, and what operations cost in time and energy."""

    name: str
    cores: Quantity
    mesh_columns: Quantity
    """Of routers."""
    cores_per_router: Quantity
    memory_bytes_per_core: Quantity
    synaptic_memory_bytes_per_core: Quantity
    neurons_per_core: Quantity
    state_bytes_per_neuron: Quantity
    input_axons_per_core: Quantity
    payload_bits: Quantity
    accumulator_bits: Quantity
    weight_bits: Quantity
    """What a stored weight takes; low and high are what the chip allows."""
    energy_per_synop_pj: Quantity
    energy_per_instruction_pj: Quantity
    energy_per_message_pj: Quantity
    energy_per_hop_pj: Quantity
    energy_per_crossing_pj: Quantity
    static_power_w: Quantity
    fall_through_energy_ratio: Quantity
    """Dynamic energy of a token that falls through alone over that of one in a full pipeline."""
    multi_chip_energy_ratio: Quantity
    """Dynamic energy of an operation in a system that has several chips, however many are in use,
    over that on a board of one."""
    time_per_synop_ns: Quantity
    time_per_word_ns: Quantity
    time_per_instruction_ns: Quantity
    time_per_message_ns: Quantity
    time_per_arrival_ns: Quantity
    time_per_hop_ns: Quantity
    time_per_crossing_ns: Quantity
    """How long a message holds a link between chips."""
    time_per_host_message_ns: Quantity
    """How long it holds the way from or to the host."""
    fall_through_step_ns: Quantity
    """What a step takes on top when one token falls through alone."""
    barrier_one_chip_ns: Quantity
    barrier_few_chips_ns: Quantity
    barrier_many_chips_ns: Quantity
    # A file may leave these open: then nothing is limited.
    neuron_groups_per_core: Quantity | None = None
    """Of like neurons that run one program."""
    axon_map_entries_per_core: Quantity | None = None
    """Payloads that the neurons of a core can send, each once, wherever they go."""
    output_axons_per_core: Quantity | None = None
    """Pairs of such a payload and a core that it goes to."""
    accumulators_per_core: Quantity | None = None
    """With all slots: a neuron has one at each of its ports for each step that something may wait
    there, and two at least."""
    program_instructions_per_core: Quantity | None = None
    """Of all programs on a core together."""
    input_channels_per_neuron: Quantity | None = None
    """How many sums of its own a neuron reads."""
    output_channels_per_neuron: Quantity | None = None


@dataclass(frozen=True)
class SystemSpec:
    """A board: how many chips of one kind, how they are linked, and the power of what else is on
    it.

    The chips are numbered along a grid of `chip_columns` by `chip_rows`, and then grid behind grid.
    """

    name: str
    description: str
    chips: Quantity
    chip_columns: Quantity
    chip_rows: Quantity
    board_power_w: Quantity
    host_power_w: Quantity
    chip: ChipSpec
    powered_chips: Quantity | None = None
    """Chips that draw static power, used or not; all of them where a file leaves it open."""
